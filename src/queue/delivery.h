/*
 * delivery.h
 *		Deliveries: one for each row that waits or is in flight, and their outcomes.
 */
#ifndef KAPTURE_DELIVERY_H
#define KAPTURE_DELIVERY_H

#include "postgres.h"

#include "lib/ilist.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/timestamp.h"

#include "table/row_io.h"

/* A claimed customer row, and what its next request is to bring. */
typedef struct KaptureDelivery
{
	dlist_node	node;			/* for the worker's queues */
	MemoryContext context;		/* owns all of the delivery */
	int32		attachment_id;
	int64		delivery_id;
	char	   *row_key;		/* the row's present key */
	bool		gone;			/* the row was deleted; row_key was its last key */
	ItemPointerData place;		/* tuple of the delivery when it was claimed, or last moved */
	int			attempts;		/* number of this attempt */
	int			failures;
	int64		changed;
	int64		customer_id;	/* received, but not yet in the row; or 0 */
	int64		added_id;		/* customer that an Add of the row has created, whose id could not be written at once; or 0 */
	TimestampTz in_doubt;		/* when a lost request must have ended, or 0 */
	TimestampTz captured_at;
	char	   *sent_phone;		/* of the Add that is sent or in doubt; NULL: none */
	char	   *sent_email;		/* likewise */
	char	   *sent_code;		/* likewise, where an Add is an upsert */
	int			searches;		/* searches for a lost Add that have found nothing so far */
	bool		claimed;
	bytea	   *digests;		/* of what Kapture has of the row; NULL: not known */
	bool		was_sent;		/* something of the row was sent to this customer before */
	bool		has_left;		/* the row was outside of the filter before */
	char	   *taken_by;		/* key of the row that took its customer over; "": of another attachment; NULL: none */
	KaptureRow	row;
	void	   *worker;			/* the worker's WorkerTask */
} KaptureDelivery;

/* A delivery that ended well. */
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

/* A delivery that failed. */
typedef struct KaptureFailed
{
	KaptureDelivery *delivery;
	bool		park;
	bool		counts;			/* increases the delay of the next try */
	bool		arrived;		/* Kapture has the changes; the rest failed */
	bool		unsure;			/* an Update was sent, which may have been carried out */
	int64		whole;			/* fields to be sent again if "unsure": of a row that has come into the filter */
	int64		waits_for;		/* customer of another row, or 0; negative: no row is known to have it */
	int			searches;		/* in a row, without finding who has the refused phone or email */
	TimestampTz next_attempt;
	TimestampTz in_doubt;
	int64		customer_id;	/* to be kept with the delivery, or 0 */
	int64		added_id;		/* this customer, if it was created just now; or 0 */
	const char *api;			/* NULL: not about a request */
	const char *request;		/* request body, or NULL */
	int			http_status;
	const char *error;
} KaptureFailed;

extern void kapture_delivery_recover(int32 attachment_id, TimestampTz in_doubt, const char *error, int64 whole);
extern int64 kapture_delivery_forget_dropped(int64 *changes);
extern KaptureDelivery *kapture_delivery_create(int32 attachment_id, const char *row_key, MemoryContext parent);
extern List *kapture_delivery_claim(List *deliveries, TimestampTz doubt_until);
extern void kapture_delivery_park(KaptureDelivery *delivery, TimestampTz doubt_until, const char *error);
extern bool kapture_delivery_park_due(int32 attachment_id, const char *row_key, const char *error);
extern void kapture_delivery_claim_due(int32 attachment_id, int limit, TimestampTz now, TimestampTz well_since,
									   TimestampTz doubt_until, List **deliveries);
extern void kapture_delivery_note_adds(List *deliveries);
extern void kapture_delivery_note_links(List *deliveries);
extern TimestampTz kapture_delivery_next_due(int32 attachment_id);
extern List *kapture_delivery_finish(List *done);
extern TimestampTz kapture_delivery_fail(KaptureFailed *failed);
extern void kapture_delivery_unpark(const int32 *attachments, const int64 *deliveries, int n, TimestampTz next_attempt);
extern void kapture_delivery_shift(int64 jump);
extern void kapture_delivery_release(KaptureDelivery *delivery, TimestampTz next_attempt);

#endif							/* KAPTURE_DELIVERY_H */
