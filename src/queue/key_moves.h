/*
 * key_moves.h
 *		Deliveries whose rows have got another key, or have been deleted.
 */
#ifndef KAPTURE_KEY_MOVES_H
#define KAPTURE_KEY_MOVES_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/itemptr.h"

#include "base/catalog.h"
#include "queue/keys.h"
#include "queue/scan.h"

/* What became of a delivery's row. */
typedef struct KaptureMoved
{
	int64		delivery_id;
	ItemPointerData place;
	char	   *row_key;		/* the row's new key; NULL: it was deleted */
} KaptureMoved;

/* Follows the keys of an attached table for something other than deliveries. */
typedef void (*KaptureKeysFollower) (int32 attachment_id, KaptureKeys *keys, void *arg);

extern List *kapture_moves_follow(const KaptureAttachment *att, KaptureScan *keys_scan, KaptureScan *scan, bool *waiting, KaptureKeysFollower follower, void *arg);

#endif							/* KAPTURE_KEY_MOVES_H */
