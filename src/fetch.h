/*
 * fetch.h
 *		Fetches customers from Kapture: many windows of a pull, several at a
 *		time, handed out in order.
 */
#ifndef KAPTURE_FETCH_H
#define KAPTURE_FETCH_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "message.h"

typedef struct KaptureFetch KaptureFetch;

/* One answer. */
typedef struct KaptureWindow
{
	Timestamp	from;			/* only for pulls, in the account's local time */
	Timestamp	to;
	const KaptureList *list;	/* NULL: no customers */
} KaptureWindow;

extern KaptureFetch *kapture_fetch_pull(const char *server, Oid userid,
										Timestamp start, Timestamp end);
extern KaptureFetch *kapture_fetch_get(const char *server, Oid userid,
									   const char *body);
extern const KaptureWindow *kapture_fetch_next(KaptureFetch *fetch);
extern int64 kapture_fetch_windows_left(const KaptureFetch *fetch,
										Timestamp from);

#endif							/* KAPTURE_FETCH_H */
