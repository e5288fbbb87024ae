/*
 * request_pool.c
 *		The requests that a reader, a statement or a worker has in flight to one
 *		server: when the next may start, and whether one is tried again.
 *
 * What to send, and what an answer means, is up to the callers; these are the decisions
 * that all of them make alike.  No I/O, no clock.
 *
 *	while (there is something to send && kapture_request_pool_next(pool) <= now)
 *		if it is started: kapture_request_pool_started(pool)
 *		else: kapture_request_pool_refused(pool, when the limiter has said)
 *
 * All requests of a pool go to the same server: if one is put off, all are.
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "traffic/pacing.h"
#include "traffic/request_pool.h"

/* Tries of one request, at most. */
#define POOL_ATTEMPTS		5

/* Longest Retry-After, in milliseconds, that is waited for. */
#define POOL_LONGEST_WAIT	600000

/*
 * Initializes a pool without requests, of which "most" may be in flight at a time.
 */
void
kapture_request_pool_init(KaptureRequestPool *pool, int most)
{
	memset(pool, 0, sizeof(*pool));
	pool->most = most;
}

/*
 * Returns when the next request may start; DT_NOEND: not before one has ended.
 */
TimestampTz
kapture_request_pool_next(const KaptureRequestPool *pool)
{
	return pool->running >= pool->most ? DT_NOEND : Max(pool->not_before, pool->next_start);
}

/*
 * Notes that a request has started.  Returns what kapture_request_pool_failed() takes as
 * "since".
 */
uint32
kapture_request_pool_started(KaptureRequestPool *pool)
{
	pool->running++;
	pool->next_start = 0;
	return pool->outages;
}

/*
 * Notes that the limiter has not let a request start, and is to be asked again at "when".
 */
void
kapture_request_pool_refused(KaptureRequestPool *pool, TimestampTz when)
{
	pool->next_start = when;
}

/*
 * Notes that a request has ended, which may have made room for another.
 */
void
kapture_request_pool_ended(KaptureRequestPool *pool)
{
	pool->running--;
	pool->next_start = 0;
}

/*
 * Notes that a request which started at "since" has failed because of the server.  Returns
 * whether that is news: all requests that were in flight when the last failure was counted
 * have met the same outage.
 */
bool
kapture_request_pool_failed(KaptureRequestPool *pool, uint32 since)
{
	if (since != pool->outages)
		return false;
	pool->outages++;
	return true;
}

/*
 * Lets no request start for so many milliseconds, if not for longer.
 */
void
kapture_request_pool_wait(KaptureRequestPool *pool, TimestampTz now, int64 milliseconds)
{
	pool->not_before = Max(pool->not_before, TimestampTzPlusMilliseconds(now, milliseconds));
}

/*
 * Tells whether a request that has ended is to be tried again, and lets no request start
 * before that: for "retry_after" milliseconds or, if the server has not said (-1), for a
 * time that grows with *attempts, which is increased.  It is not tried again if it was
 * tried often enough, or if that is too long.
 */
bool
kapture_request_pool_retry(KaptureRequestPool *pool, int *attempts, int64 retry_after, TimestampTz now)
{
	if (*attempts + 1 >= POOL_ATTEMPTS || retry_after > POOL_LONGEST_WAIT)
	{
		/* later requests are to heed it */
		if (retry_after > 0)
			kapture_request_pool_wait(pool, now, retry_after);
		return false;
	}
	(*attempts)++;
	kapture_request_pool_wait(pool, now, retry_after >= 0 ? retry_after :
							  kapture_pacing_backoff(*attempts, KAPTURE_SERVER_LONGEST));
	return true;
}
