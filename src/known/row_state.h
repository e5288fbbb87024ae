/*
 * row_state.h
 *		Which row is which customer, and the digests of the values sent for it.
 */
#ifndef KAPTURE_ROW_STATE_H
#define KAPTURE_ROW_STATE_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "queue/keys.h"

/* A row that was recorded as having a customer. */
typedef struct KaptureHolder
{
	int64		customer_id;
	int32		attachment_id;
	char	   *row_key;
	bool		written;		/* the id was written to the row, which can be asked by now */
	bool		gone;			/* it had the customer until it was deleted */
	TimestampTz in_doubt;		/* until then, an Update of the deleted row may yet be carried out; 0: there is none */
} KaptureHolder;

/* A customer of the server of an attachment: other servers may have given the same id to another customer. */
typedef struct KaptureCustomer
{
	int32		attachment_id;
	int64		id;
} KaptureCustomer;

extern void kapture_row_state_load(List *deliveries);
extern void kapture_row_state_forget_written(void);
extern void kapture_row_state_follow(int32 attachment_id, KaptureKeys *keys, void *arg);
extern List *kapture_row_state_holders(int32 attachment_id, const int64 *customer_ids, int n);
extern void kapture_row_state_note(const KaptureHolder *holder);
extern void kapture_row_state_seen(const char *server, Datum customer_ids);
extern List *kapture_row_state_release(const KaptureCustomer *customers, int n);
extern List *kapture_row_state_release_orphaned(void);

#endif							/* KAPTURE_ROW_STATE_H */
