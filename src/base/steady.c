/*
 * steady.c
 *		A clock that nobody sets.
 *
 * Times that are kept in tables or shown are those of the system's clock.  What is
 * only waited for goes by this one, lest a wait of a second become one of an hour
 * because the system's clock is set back meanwhile.  It is the same in all processes
 * of the machine, and begins anew when that does.
 */
#include "postgres.h"

#include <time.h>

#include "utils/timestamp.h"

#include "base/steady.h"

/*
 * Returns the microseconds since some time in the past.
 */
TimestampTz
kapture_steady_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (TimestampTz) now.tv_sec * USECS_PER_SEC + now.tv_nsec / 1000;
}

/*
 * Returns what this clock will show when the system's shows "when", if nobody sets
 * that; DT_NOEND for DT_NOEND.
 */
TimestampTz
kapture_steady_at(TimestampTz when)
{
	return when == DT_NOEND ? DT_NOEND : kapture_steady_now() + (when - GetCurrentTimestamp());
}

/*
 * The reverse.
 */
TimestampTz
kapture_steady_to_wall(TimestampTz steady)
{
	return GetCurrentTimestamp() + (steady - kapture_steady_now());
}
