/*
 * outbox.h
 *		Changes taken from the outbox.
 */
#ifndef KAPTURE_OUTBOX_H
#define KAPTURE_OUTBOX_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"

#include "queue/keys.h"
#include "queue/scan.h"

/* Changes of one batch that belong to the same row. */
typedef struct KaptureRowChanges
{
	int64		changed;
	TimestampTz captured_at;
	const char *row_key;
} KaptureRowChanges;

extern void kapture_outbox_group(HTAB *index, KaptureRowChanges *groups, int *ngroups, const char *row_key, int64 changed, TimestampTz captured_at);
extern int	kapture_outbox_take_range(int32 attachment_id, KaptureScan *scan, int limit, bool *full, KaptureKeys *keys, HTAB *index, KaptureRowChanges *groups, int *ngroups);
extern void kapture_outbox_take(int32 attachment_id, KaptureScan *scan, int limit, List **deliveries, bool *more);

#endif							/* KAPTURE_OUTBOX_H */
