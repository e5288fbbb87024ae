/*
 * inbox.h
 *		Pulled customers on their way to attached tables: table kapture_inbox.
 */
#ifndef KAPTURE_INBOX_H
#define KAPTURE_INBOX_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "base/catalog.h"

/* A customer for an attached table. */
typedef struct KaptureArrival
{
	int64		customer_id;
	bool		present;		/* kapture_customers still has the customer */
	TimestampTz asked_at;
	TimestampTz generated;		/* DT_NOEND: not known */
	int			attempts;
	char	   *phone;			/* to find its row by, or NULL */
	char	   *email;
	char	  **values;			/* for the mapped columns; NULL: leave the column as it is */
} KaptureArrival;

/* What waits to be sent for a row. */
typedef struct KaptureWaiting
{
	char	   *row_key;
	int64		changed;		/* columns that wait */
	bool		sending;		/* a request may be in flight */
	bool		parked;			/* all that waits is parked */
	bool		unsettled;		/* more may wait than what is known here */
} KaptureWaiting;

/*
 * SQL: the primary contact "k.o" of the customer "c", which is a row like those of
 * kapture_customers; see KaptureField.pulled.
 */
#define KAPTURE_INBOX_CONTACT \
	" LEFT JOIN LATERAL (SELECT e AS o FROM" \
	" jsonb_array_elements(CASE WHEN jsonb_typeof(c.contacts) = 'array' THEN c.contacts END) WITH ORDINALITY AS x(e, n)" \
	" WHERE jsonb_typeof(e) = 'object' ORDER BY coalesce((e->>'isPrimaryContact') = 'true', false) DESC, n LIMIT 1) AS k ON true"

extern void kapture_inbox_put(const char *server, Datum customer_ids, TimestampTz asked_at);
extern bool kapture_inbox_wanted(const char *server);
extern bool kapture_inbox_any(void);
extern List *kapture_inbox_tables(const char *server);
extern List *kapture_inbox_take(const KaptureAttachment *att, int limit, bool *more);
extern void kapture_inbox_done(int32 attachment_id, int64 customer_id);
extern void kapture_inbox_later(int32 attachment_id, int64 customer_id, TimestampTz when, const char *why);
extern void kapture_inbox_park(int32 attachment_id, int64 customer_id, const char *why);
extern TimestampTz kapture_inbox_next_due(int32 attachment_id);

extern void kapture_inbox_append_value(StringInfo sql, const char *field);
extern List *kapture_inbox_waiting(int32 attachment_id, List *row_keys);
extern List *kapture_inbox_moving_keys(int32 attachment_id, List *row_keys);
extern bool kapture_inbox_is_added(const KaptureAttachment *att, bool elsewhere, const char *phone, const char *email);
extern bool kapture_inbox_was_finished(int32 attachment_id, int64 customer_id, TimestampTz since, bool sent);
extern void kapture_inbox_discard_waiting(int32 attachment_id, const char *row_key);

#endif							/* KAPTURE_INBOX_H */
