/*
 * pacing.c
 *		When to try again.  Pure decisions: no I/O, no clock.
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "pacing.h"

/* Bound of the first delay, in milliseconds. */
#define PACING_FIRST	1000

/*
 * Returns how many milliseconds to wait after so many failures in a row:
 * exponential with full jitter, so that what failed together does not come
 * back together, but at least a tenth of the first bound and about "longest" at most.
 */
int64
kapture_pacing_backoff(int failures, int64 longest)
{
	int			doublings = Min(Max(failures - 1, 0), 20);
	int64		bound = Min((int64) PACING_FIRST << doublings, longest);

	return PACING_FIRST / 10 + (int64) (pg_prng_double(&pg_global_prng_state) * bound);
}
