/*
 * pacing.h
 *		When to try again.  Pure decisions: no I/O, no clock.
 */
#ifndef KAPTURE_PACING_H
#define KAPTURE_PACING_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* Failures in a row after which a server is only probed. */
#define KAPTURE_BREAKER_FAILURES	3

/* Milliseconds between probes of a server that refuses our key or address. */
#define KAPTURE_DENIED_PROBE		60000

/* Longest delay, in milliseconds, between tries: of a row, and of a server. */
#define KAPTURE_ROW_LONGEST			600000
#define KAPTURE_SERVER_LONGEST		30000

/* Milliseconds after which a row locked by a user is tried again. */
#define KAPTURE_LOCKED_RETRY		1000

/*
 * Searches for a lost Add, and milliseconds between them, after which the Add counts as not
 * carried out: a search may lag behind.  One more, so much later, is made for a row that has
 * another phone or email by then.
 */
#define KAPTURE_SEARCHES			2
#define KAPTURE_SEARCH_RETRY		2000
#define KAPTURE_SEARCH_LAST			10000

/*
 * Milliseconds of grace for a request without an answer, after it must have timed out.
 */
#define KAPTURE_LATE_GRACE			2000

extern int64 kapture_pacing_backoff(int failures, int64 longest);
extern TimestampTz kapture_pacing_next_start(TimestampTz last, TimestampTz now, double rate);

#endif							/* KAPTURE_PACING_H */
