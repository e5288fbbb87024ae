/*
 * share.h
 *		How much of a process's time and memory each owner of attached tables
 *		takes, and when and for how many rows a table has its turn.
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
	int64		served;			/* microseconds that the owner had, as fair queueing counts */
	TimestampTz turn;			/* no turn for the owner's tables before then */
	int64		grace;			/* microseconds of excess that were not charged yet, when ... */
	TimestampTz charged_at;		/* ... the owner last took longer than usual */
	Size		bytes;			/* of the owner's rows in memory */
	int			in_flight;		/* requests, or pulls */
	int			writing;		/* pulls in the middle of a window */
} KaptureShare;

/* When a table has its turn in worker or puller, and for how many rows. */
typedef struct KaptureTurn
{
	KaptureShare *share;		/* its owner's; NULL: not known yet */
	TimestampTz at;				/* no turn before then, as the table takes long */
	uint64		round;			/* in which the table had its last turn */
	int			most;			/* rows at a time */
	int			batch;			/* rows worth taking at a time */
	int			limit;			/* rows at a time after an error; 0: no limit */
	int			errors;			/* successive ones that stopped the table as a whole */
	TimestampTz not_before;		/* no turn before then, because of such errors */
} KaptureTurn;

extern KaptureShare *kapture_share_join(Oid owner);
extern void kapture_share_keep(KaptureShare *share);
extern void kapture_share_leave(KaptureShare *share);
extern bool kapture_share_is_spent(const KaptureShare *share);
extern void kapture_share_hold(KaptureShare *share, Size bytes);
extern void kapture_share_release(KaptureShare *share, Size bytes);
extern Size kapture_share_room(const KaptureShare *share);
extern bool kapture_share_may_send(const KaptureShare *share, int room);

extern void kapture_turn_init(KaptureTurn *turn, int most);
extern void kapture_turn_join(KaptureTurn *turn, Oid owner);
extern Oid	kapture_turn_owner(const KaptureTurn *turn);
extern void kapture_turn_begin(KaptureTurn *turn, uint64 round);
extern TimestampTz kapture_turn_next(const KaptureTurn *turn);
extern bool kapture_turn_comes_before(const KaptureTurn *turn, const KaptureTurn *other);
extern int	kapture_turn_rows(const KaptureTurn *turn);
extern void kapture_turn_charge(KaptureTurn *turn, TimestampTz began, int rows);
extern void kapture_turn_charge_rest(KaptureTurn *turn, TimestampTz began, int rows);
extern void kapture_turn_count(KaptureTurn *turn, TimestampTz began);
extern void kapture_turn_went_well(KaptureTurn *turn);

#endif							/* KAPTURE_SHARE_H */
