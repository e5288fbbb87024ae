/*
 * steady.c
 *		A clock that nobody sets.
 *
 * Times that are kept in tables or shown are those of the system's clock.  Waits go by
 * this clock, so that a wait of a second does not become one of an hour because the
 * system's clock is set back meanwhile.  This clock is the same in all processes of the
 * machine, and starts again when the machine does.
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
 * Returns what this clock will show when the system's shows "when", if nobody sets the
 * system's; DT_NOEND for DT_NOEND.
 */
TimestampTz
kapture_steady_at(TimestampTz when)
{
	return when == DT_NOEND ? DT_NOEND : kapture_steady_now() + (when - GetCurrentTimestamp());
}

/*
 * The reverse of kapture_steady_at().
 */
TimestampTz
kapture_steady_to_wall(TimestampTz steady)
{
	return GetCurrentTimestamp() + (steady - kapture_steady_now());
}
