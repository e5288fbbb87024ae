/*
 * watermark.c
 *		From which time on a server's automatic pulls go.
 *
 * The watermark is the time before which all customers have been pulled.  A
 * pull starts an overlap before it and ends at the present, as Kapture may show
 * a customer later than its generation date says.
 *
 * Windows in the past move it to their end.  The last window, which ends at the
 * present, moves it to the newest customer seen, at least to its own start and
 * never beyond the time when the pull began: so a clock that is ahead of
 * Kapture's skips nobody, and a quiet account is asked for one window again, not
 * for all the time since its last customer.
 */
#include "postgres.h"

#include "pgtime.h"
#include "utils/datetime.h"

#include "pull/watermark.h"

static pg_tz *
pull_zone(const char *timezone)
{
	pg_tz	   *zone = pg_tzset(timezone);

	if (zone == NULL)
		elog(ERROR, "unknown time zone \"%s\"", timezone);
	return zone;
}

/* How far the zone is west of Greenwich at that moment, in microseconds. */
static int64
pull_offset(TimestampTz when, pg_tz *zone)
{
	struct pg_tm tm;
	fsec_t		fsec;
	int			west;

	if (timestamp2tm(when, &west, &tm, &fsec, NULL, zone) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return west * USECS_PER_SEC;
}

/*
 * Returns a time as the account's local time, in whole seconds.  If clocks have
 * been set between it and "now", the earlier of what it may be called.
 */
Timestamp
kapture_pull_local(TimestampTz when, const char *timezone, TimestampTz now)
{
	pg_tz	   *zone = pull_zone(timezone);
	Timestamp	local = when - Max(pull_offset(when, zone), pull_offset(now, zone));

	/* towards the past, before 2000 as well */
	return local - (local % USECS_PER_SEC + USECS_PER_SEC) % USECS_PER_SEC;
}

/*
 * Returns the moment that a local time of the account means; the earlier one if
 * it may mean two.
 */
TimestampTz
kapture_pull_instant(Timestamp local, const char *timezone)
{
	pg_tz	   *zone = pull_zone(timezone);

	return local + Min(pull_offset(local - USECS_PER_DAY, zone), pull_offset(local + USECS_PER_DAY, zone));
}

/*
 * Returns where the watermark is once a window has been committed.  "newest" is
 * the latest generation date in it, DT_NOBEGIN if there was none; "last" says
 * that the window ends at the present.
 */
TimestampTz
kapture_pull_watermark(TimestampTz before, TimestampTz window_start, TimestampTz window_end,
					   TimestampTz pull_start, TimestampTz newest, bool last)
{
	TimestampTz reached = last ? Max(window_start, newest) : window_end;

	return Max(before, Min(reached, pull_start));
}
