/*
 * capture_buffer.h
 *		Changes captured by the running transaction, on their way to the
 *		outbox.
 */
#ifndef KAPTURE_CAPTURE_BUFFER_H
#define KAPTURE_CAPTURE_BUFFER_H

#include "postgres.h"

/* What was done, as in kapture_outbox.op. */
#define KAPTURE_NOTE_INSERTED	'i'
#define KAPTURE_NOTE_UPDATED	'u'
#define KAPTURE_NOTE_REKEYED	'k'
#define KAPTURE_NOTE_DELETED	'd'
#define KAPTURE_NOTE_TRUNCATED	't' /* all rows; no key */
#define KAPTURE_NOTE_PLACED		'm' /* inserted or updated, at its command's place in the order */
#define KAPTURE_NOTE_END		'c' /* no change; tells when the transaction committed */

/* Values of "arrival" other than the number of the change that gave a row its key. */
#define KAPTURE_NOTE_ONLY_ROW	(-1)	/* no other row has had this key at the time */
#define KAPTURE_NOTE_NEW_ROW	(-2)	/* this change itself */

/* Instead of a customer's id: not known whether the row had one. */
#define KAPTURE_NOTE_NOT_KNOWN	INT64CONST(-1)

extern int32 kapture_notes_add(int32 attachment_id, char op, int64 changed,
							   const char *row_key, const char *old_key, CommandId cid, int32 arrival);
extern void kapture_notes_add_leaving(int32 attachment_id, int64 changed, const char *row_key,
									  CommandId cid, int32 arrival, int64 customer_id);
extern void kapture_notes_add_deleted(int32 attachment_id, int64 changed, const char *row_key,
									  CommandId cid, int32 arrival, int64 customer_id);
extern int32 kapture_notes_add_arriving(int32 attachment_id, int64 ignored, const char *row_key, CommandId cid);
extern void kapture_notes_add_existing(int32 attachment_id, int64 changed, const char *row_key);
extern void kapture_notes_add_changed(int32 attachment_id, int64 changed, const char *row_key);
extern void kapture_notes_flush(void);
extern void kapture_notes_forget(int32 attachment_id);

#endif							/* KAPTURE_CAPTURE_BUFFER_H */
