/*
 * outbox.h
 *		The queue: changes taken from the outbox, deliveries and what becomes
 *		of them.
 */
#ifndef KAPTURE_OUTBOX_H
#define KAPTURE_OUTBOX_H

#include "postgres.h"

#include "lib/ilist.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/timestamp.h"

#include "table/keys.h"
#include "table/row_io.h"

/*
 * How far the outbox of one attachment has been read.  A pass takes up what
 * became visible between two snapshots; see outbox.c.
 */
typedef struct KaptureScan
{
	MemoryContext context;		/* owns the arrays */
	bool		running;		/* in the middle of a pass */
	bool		ever;			/* false: the next pass reads everything */
	uint64		seen_xmax;		/* up to which snapshot all was read */
	int			nseen;
	uint64	   *seen_xip;
	uint64		next_xmax;		/* the running pass's snapshot */
	int			nnext;
	uint64	   *next_xip;
	int			nranges;		/* of transactions the pass reads */
	uint64	   *ranges;			/* pairs: from, up to but not including */
	int			range;			/* the one being read, */
	uint64		at_xact;		/* after which change */
	int32		at_seq;
} KaptureScan;

/*
 * In SQL: is the key of an entry of kapture_delivery this one?  Keys may be as
 * long as those of users' indexes, or longer where there is no index any more, so
 * the index of kapture_delivery has hashes of them.
 */
#define KAPTURE_KEY_HASH(key)	"pg_catalog.hashtextextended(" key ", 0)"
#define KAPTURE_KEY_IS(column, key) \
	KAPTURE_KEY_HASH(column) " OPERATOR(pg_catalog.=) " KAPTURE_KEY_HASH(key) \
	" AND " column " OPERATOR(pg_catalog.=) " key

/* A customer row that was claimed, and what its next request is to bring. */
typedef struct KaptureDelivery
{
	dlist_node	node;			/* for the worker's queues */
	MemoryContext context;		/* owns it all */
	int32		attachment_id;
	int64		delivery_id;
	char	   *row_key;		/* the row's present one */
	bool		gone;			/* the row is no more; row_key was its last one */
	ItemPointerData place;		/* of its entry when it was claimed, or moved */
	int			attempts;		/* number of this attempt */
	int			failures;
	int64		changed;
	int64		customer_id;	/* received, not in the table yet; or 0 */
	TimestampTz in_doubt;		/* 0, or when a lost Add must be over */
	TimestampTz captured_at;
	char	   *sent_phone;		/* of the Add that is being sent or in doubt, */
	char	   *sent_email;		/* NULL: none */
	char	   *sent_code;		/* likewise, where an Add is an upsert */
	int			searches;		/* for a lost Add that found nothing so far */
	bool		claimed;
	bytea	   *digests;		/* of what Kapture has of the row; NULL: not known */
	bool		has_left;		/* its row was outside of the filter before, */
	char	   *taken_by;		/* and this row, by its key, took its customer over; "": one of another attachment, NULL: none */
	KaptureRow	row;
	void	   *worker;			/* the worker's own */
} KaptureDelivery;

/* What became of a delivery's row. */
typedef struct KaptureMoved
{
	int64		delivery_id;
	ItemPointerData place;
	char	   *row_key;		/* its new key; NULL: it was deleted */
} KaptureMoved;

/* How a delivery ended well. */
typedef struct KaptureDone
{
	KaptureDelivery *delivery;
	const KaptureAttachment *att;
	const char *action;			/* see kapture_history */
	int64		customer_id;
	int			http_status;
	const char *message;		/* or NULL */
	bytea	   *digests;		/* of what was sent; NULL: nothing was */
} KaptureDone;

/* How it did not. */
typedef struct KaptureFailed
{
	KaptureDelivery *delivery;
	bool		park;
	bool		counts;			/* towards the delay of the next try */
	bool		arrived;		/* the changes are with Kapture; the rest failed */
	bool		unsure;			/* an Update was sent that may have been carried out */
	int64		waits_for;		/* customer of another row, or 0 */
	TimestampTz next_attempt;
	TimestampTz in_doubt;
	int64		customer_id;	/* to be kept, or 0 */
	const char *api;			/* NULL: not a matter of a request */
	const char *request;		/* body, or NULL */
	int			http_status;
	const char *error;
} KaptureFailed;

/* Has something else follow the keys of an attached table, too. */
typedef void (*KaptureKeysFollower) (int32 attachment_id, KaptureKeys *keys, void *arg);

extern void kapture_outbox_recover(int32 attachment_id, TimestampTz in_doubt, const char *error);
extern int64 kapture_outbox_forget_dropped(int64 *changes);
extern void kapture_outbox_scan_init(KaptureScan *scan);
extern uint64 kapture_outbox_scan_floor(const KaptureScan *scan);
extern void kapture_outbox_take(int32 attachment_id, KaptureScan *scan, int limit,
								List **deliveries, bool *more);
extern List *kapture_outbox_claim(List *deliveries, TimestampTz doubt_until);
extern void kapture_outbox_shift(int64 jump);
extern void kapture_outbox_park(KaptureDelivery *delivery, TimestampTz doubt_until, const char *error);
extern void kapture_outbox_unpark(const int32 *attachments, const int64 *deliveries, int n, TimestampTz next_attempt);
extern bool kapture_outbox_park_due(int32 attachment_id, const char *row_key, const char *error);
extern void kapture_outbox_claim_due(int32 attachment_id, int limit, TimestampTz now,
									 TimestampTz well_since, List **deliveries);
extern void kapture_outbox_note_adds(List *deliveries);
extern void kapture_outbox_note_links(List *deliveries);
extern List *kapture_outbox_follow(const KaptureAttachment *att, KaptureScan *keys_scan, KaptureScan *scan,
								   bool *waiting, KaptureKeysFollower follower, void *arg);
extern TimestampTz kapture_outbox_next_due(int32 attachment_id);
extern List *kapture_outbox_finish(List *done);
extern TimestampTz kapture_outbox_fail(KaptureFailed *failed);
extern void kapture_outbox_release(KaptureDelivery *delivery, TimestampTz next_attempt);

#endif							/* KAPTURE_OUTBOX_H */
