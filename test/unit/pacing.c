/*
 * pacing.c
 *		Checks of traffic/pacing.c.
 */
#include "unit.h"

#include <math.h>

#include "traffic/pacing.h"

#define PACING_SHORTEST	100		/* milliseconds */

/* The most requests that any second sees, if each starts as soon as it may. */
static int
pacing_busiest_second(double rate, int64 pause)
{
	TimestampTz now = 0;
	TimestampTz next = 0;
	TimestampTz started[1000];
	int			most = 0;

	for (int i = 0; i < lengthof(started); i++)
	{
		int			n = 0;

		/* a process that is not always on time */
		now = Max(now, next) + (i % 7 == 0 ? pause : 0);
		next = kapture_pacing_next_start(next, now, rate);
		started[i] = now;
		for (int k = i; k >= 0 && started[k] > now - USECS_PER_SEC; k--)
			n++;
		most = Max(most, n);
	}
	return most;
}

void
unit_pacing(void)
{
	int64		shortest = PG_INT64_MAX;
	int64		longest = 0;
	static const double rates[] = {0.5, 1, 3, 10, 33.3, 100, 900};

	for (int failures = 1; failures < 100; failures++)
	{
		bool		within = true;

		for (int i = 0; i < 200; i++)
		{
			int64		wait = kapture_pacing_backoff(failures, KAPTURE_ROW_LONGEST);

			within &= wait >= PACING_SHORTEST && wait <= KAPTURE_ROW_LONGEST + PACING_SHORTEST;
			if (failures == 99)
			{
				shortest = Min(shortest, wait);
				longest = Max(longest, wait);
			}
		}
		unit_ok(within, "the wait after %d failures is within bounds", failures);
	}
	unit_ok(longest > shortest, "waits differ, so that rows do not come back together");

	for (int i = 0; i < lengthof(rates); i++)
	{
		for (int64 pause = 0; pause <= USECS_PER_SEC; pause = pause * 10 + 1000)
		{
			int			most = pacing_busiest_second(rates[i], pause);

			unit_ok(most <= ceil(rates[i]), "at %g a second, pauses of " INT64_FORMAT " us: %d in a second", rates[i], pause, most);
			unit_ok(pause > 0 || most >= floor(rates[i] * 0.96), "and no less than about that");
		}
	}
}
