/*
 * pacing.c
 *		When to try again.  Pure decisions: no I/O, no clock.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "traffic/pacing.h"

/* Bound of the first delay, in milliseconds. */
#ifndef PACING_FIRST			/* tests of errors have less time */
#define PACING_FIRST	1000
#endif

/*
 * Requests are spaced as if a second were so many microseconds longer, to make up for
 * requests that take less time to arrive than those before them.  Up to PACING_CATCH_UP
 * microseconds of lost time are caught up with.
 */
#define PACING_MARGIN	30000
#define PACING_CATCH_UP	10000

/*
 * Returns when the next request may start, after one that might have started at "last"
 * started "now".  No second sees more than "rate" requests.
 */
TimestampTz
kapture_pacing_next_start(TimestampTz last, TimestampTz now, double rate)
{
	return Max(last, now - PACING_CATCH_UP) + (TimestampTz) ((USECS_PER_SEC + PACING_MARGIN) / rate);
}

/*
 * Returns how many milliseconds to wait after so many failures in a row: exponential with
 * full jitter, so that what has failed together does not come back together; at least a
 * tenth of the first bound, and about "longest" at most.
 */
int64
kapture_pacing_backoff(int failures, int64 longest)
{
	int			doublings = Min(Max(failures - 1, 0), 20);
	int64		bound = Min((int64) PACING_FIRST << doublings, longest);

	return PACING_FIRST / 10 + (int64) (pg_prng_double(&pg_global_prng_state) * bound);
}
