/*
 * fetch.h
 *		Fetches customers from Kapture: many windows of a pull, several at a
 *		time, handed out in order.
 */
#ifndef KAPTURE_FETCH_H
#define KAPTURE_FETCH_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "api/reply.h"

typedef struct KaptureFetch KaptureFetch;

/* One answer. */
typedef struct KaptureWindow
{
	KaptureFetch *fetch;		/* the fetch that returned it */
	Timestamp	from;			/* only for pulls, in the account's local time */
	Timestamp	to;
	bool		continues;		/* it is another page of the window before */
	bool		unfinished;		/* another page may follow; then "to" is "from" */
	int			number;			/* only for Gets: of the body, from 0 */
	TimestampTz asked;			/* when its request was sent */
	const KaptureList *list;	/* NULL: no customers */
	bool		refused;		/* "list" is NULL because Kapture refused the request */
	Jsonb	   *answer;			/* an answer without customers, if answers are kept */
} KaptureWindow;

/* The result of kapture_fetch_poll(). */
typedef enum KaptureFetchState
{
	KAPTURE_FETCH_WINDOW,		/* a window is there */
	KAPTURE_FETCH_WAIT,
	KAPTURE_FETCH_END			/* there are no more */
} KaptureFetchState;

extern KaptureFetch *kapture_fetch_pull(const char *server, Oid userid,
										Timestamp start, Timestamp end);
extern KaptureFetch *kapture_fetch_gets(const char *server, Oid userid,
										List *bodies);
extern void kapture_fetch_require_server(KaptureFetch *fetch, Oid serverid);
extern int	kapture_fetch_most(const KaptureFetch *fetch);
extern int	kapture_fetch_round(const char *server, Oid userid);
extern char *kapture_fetch_get_body(int64 customer_id, const char *phone, const char *email);
extern void kapture_fetch_keep_answers(KaptureFetch *fetch);
extern char *kapture_fetch_pull_body(Timestamp from, Timestamp to);
extern char *kapture_fetch_nobody_body(const KaptureServer *server, Timestamp when);
extern const char *kapture_fetch_server(const KaptureFetch *fetch);
extern KaptureFetchState kapture_fetch_poll(KaptureFetch *fetch, const KaptureWindow **window,
											TimestampTz *when);
extern void kapture_fetch_forget_window(KaptureFetch *fetch);
extern void kapture_fetch_served(KaptureFetch *fetch);
extern const KaptureWindow *kapture_fetch_next(KaptureFetch *fetch);
extern Jsonb *kapture_window_customer(const KaptureWindow *window, int n);
extern TimestampTz kapture_fetch_not_before(const KaptureFetch *fetch);
extern int64 kapture_fetch_windows_left(const KaptureFetch *fetch,
										Timestamp from);

#endif							/* KAPTURE_FETCH_H */
