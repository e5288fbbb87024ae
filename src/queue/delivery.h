/*
 * delivery.h
 *		Deliveries, an entry for each row that waits or is in flight, and what becomes
 *		of them.
 */
#ifndef KAPTURE_DELIVERY_H
#define KAPTURE_DELIVERY_H

#include "postgres.h"

#include "lib/ilist.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/timestamp.h"

#include "table/row_io.h"

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
	bool		was_sent;		/* Kapture has had something of it for this customer */
	bool		has_left;		/* its row was outside of the filter before, */
	char	   *taken_by;		/* and this row, by its key, took its customer over; "": one of another attachment, NULL: none */
	KaptureRow	row;
	void	   *worker;			/* the worker's own */
} KaptureDelivery;

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
	int64		waits_for;		/* customer of another row, or 0; negative: no row is known to have it */
	int			searches;		/* in a row, that did not find whom its Update was refused for */
	TimestampTz next_attempt;
	TimestampTz in_doubt;
	int64		customer_id;	/* to be kept, or 0 */
	const char *api;			/* NULL: not a matter of a request */
	const char *request;		/* body, or NULL */
	int			http_status;
	const char *error;
} KaptureFailed;

extern void kapture_delivery_recover(int32 attachment_id, TimestampTz in_doubt, const char *error);
extern int64 kapture_delivery_forget_dropped(int64 *changes);
extern KaptureDelivery *kapture_delivery_create(int32 attachment_id, const char *row_key, MemoryContext parent);
extern List *kapture_delivery_claim(List *deliveries, TimestampTz doubt_until);
extern void kapture_delivery_park(KaptureDelivery *delivery, TimestampTz doubt_until, const char *error);
extern bool kapture_delivery_park_due(int32 attachment_id, const char *row_key, const char *error);
extern void kapture_delivery_claim_due(int32 attachment_id, int limit, TimestampTz now, TimestampTz well_since, List **deliveries);
extern void kapture_delivery_note_adds(List *deliveries);
extern void kapture_delivery_note_links(List *deliveries);
extern TimestampTz kapture_delivery_next_due(int32 attachment_id);
extern List *kapture_delivery_finish(List *done);
extern TimestampTz kapture_delivery_fail(KaptureFailed *failed);
extern void kapture_delivery_unpark(const int32 *attachments, const int64 *deliveries, int n, TimestampTz next_attempt);
extern void kapture_delivery_shift(int64 jump);
extern void kapture_delivery_release(KaptureDelivery *delivery, TimestampTz next_attempt);

#endif							/* KAPTURE_DELIVERY_H */
