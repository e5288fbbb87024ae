/*
 * share.h
 *		How much of a process's time and memory each owner of attached tables
 *		takes.
 */
#ifndef KAPTURE_SHARE_H
#define KAPTURE_SHARE_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"

/* An owner's account. */
typedef struct KaptureShare
{
	dlist_node	node;
	Oid			owner;
	int			uses;			/* by tables and rows */
	int64		served;			/* microseconds that it had, as fair queueing reckons them */
	TimestampTz turn;			/* nothing of it before then */
	Size		bytes;			/* of its rows in memory */
} KaptureShare;

extern KaptureShare *kapture_share_join(Oid owner);
extern void kapture_share_keep(KaptureShare *share);
extern void kapture_share_leave(KaptureShare *share);
extern bool kapture_share_charge(KaptureShare *share, TimestampTz *table_turn, TimestampTz began, int rows);
extern bool kapture_share_is_spent(const KaptureShare *share);
extern void kapture_share_pick(KaptureShare *share);
extern void kapture_share_hold(KaptureShare *share, Size bytes);
extern void kapture_share_release(KaptureShare *share, Size bytes);
extern Size kapture_share_room(const KaptureShare *share);

#endif							/* KAPTURE_SHARE_H */
