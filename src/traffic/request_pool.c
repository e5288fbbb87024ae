/*
 * request_pool.c
 *		The requests that a reader, a statement or a worker has in flight to one
 *		server: when the next may start, and whether one is tried again.
 *
 * What is to be sent, and what an answer means, is the caller's; these are the
 * decisions that all of them make alike.  No I/O, no clock.
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

/* Tries of one request. */
#define POOL_ATTEMPTS		5

/* Milliseconds of a Retry-After that are still waited for. */
#define POOL_LONGEST_WAIT	600000

/*
 * Begins with no requests, of which "most" may be in flight at a time.
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
 * A request has started.  Returns since when, for kapture_request_pool_failed().
 */
uint32
kapture_request_pool_started(KaptureRequestPool *pool)
{
	pool->running++;
	pool->next_start = 0;
	return pool->outages;
}

/*
 * The limiter has not let a request start, and is to be asked again at "when".
 */
void
kapture_request_pool_refused(KaptureRequestPool *pool, TimestampTz when)
{
	pool->next_start = when;
}

/*
 * A request has ended, which may have made a place for another.
 */
void
kapture_request_pool_ended(KaptureRequestPool *pool)
{
	pool->running--;
	pool->next_start = 0;
}

/*
 * A request that had started at "since" has failed because of the server.  Returns whether
 * that is news: requests that were in flight when the last failure counted have met the same
 * outage, however many they are.
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
 * Nothing is to start for so many milliseconds, if not for longer.
 */
void
kapture_request_pool_wait(KaptureRequestPool *pool, TimestampTz now, int64 milliseconds)
{
	pool->not_before = Max(pool->not_before, TimestampTzPlusMilliseconds(now, milliseconds));
}

/*
 * A request that has ended may do better the next time.  Returns whether there is one:
 * after "retry_after" milliseconds (-1: the server has not said; the wait grows with
 * *attempts, which is increased), unless it was tried often enough, or that is too long.
 */
bool
kapture_request_pool_retry(KaptureRequestPool *pool, int *attempts, int64 retry_after, TimestampTz now)
{
	if (*attempts + 1 >= POOL_ATTEMPTS || retry_after > POOL_LONGEST_WAIT)
	{
		/* whoever comes again later is to know */
		if (retry_after > 0)
			kapture_request_pool_wait(pool, now, retry_after);
		return false;
	}
	(*attempts)++;
	kapture_request_pool_wait(pool, now, retry_after >= 0 ? retry_after :
							  kapture_pacing_backoff(*attempts, KAPTURE_SERVER_LONGEST));
	return true;
}
