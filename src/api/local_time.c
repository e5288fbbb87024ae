/*
 * local_time.c
 *		Converts an account's times, which are wall clock times, to instants and back.
 *
 * Kapture's times carry no offset from UTC.  Around a change of clocks a local
 * time may mean two instants, or none.  A value that is stored is read as
 * PostgreSQL reads it.  A bound of a range to ask Kapture for is chosen so that
 * the range is never too short: whichever instant Kapture takes the local time
 * for, no customer falls between two ranges.
 */
#include "postgres.h"

#include "utils/datetime.h"

#include "api/local_time.h"

/*
 * Returns the zone of that name, which lives as long as the process.  Errors:
 * 22023 for an unknown zone: one that the validator of option timezone accepted may
 * be missing after the time zone files were replaced.
 */
pg_tz *
kapture_local_zone(const char *timezone)
{
	pg_tz	   *zone = pg_tzset(timezone);

	if (zone == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", timezone),
				 errhint("Set option \"timezone\" of the server to one of pg_timezone_names.")));
	return zone;
}

/*
 * Reads a local time as PostgreSQL does (DetermineTimeZoneOffset): of a time
 * that comes twice the second is taken, and a time that never comes has the offset
 * from before.  The result is a timestamptz.  False: it is out of range.
 */
bool
kapture_local_to_instant(struct pg_tm *tm, fsec_t fsec, pg_tz *zone, Datum *result)
{
	int			offset = DetermineTimeZoneOffset(tm, zone);
	TimestampTz when;

	if (tm2timestamp(tm, fsec, &offset, &when) != 0)
		return false;
	*result = TimestampTzGetDatum(when);
	return true;
}

/* The zone's offset at that moment, in microseconds west of Greenwich.  Errors: 22008. */
static int64
local_offset(TimestampTz when, pg_tz *zone)
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

/* The earliest and the latest instant that a local time may mean; they differ only where clocks change. */
static void
local_meanings(Timestamp local, pg_tz *zone, TimestampTz *earliest, TimestampTz *latest)
{
	int64		before = local_offset(local - USECS_PER_DAY, zone);
	int64		after = local_offset(local + USECS_PER_DAY, zone);
	bool		is_before = local_offset(local + before, zone) == before;
	bool		is_after = local_offset(local + after, zone) == after;

	/* a time that never comes may be read with either offset, too */
	if (is_before == is_after)
	{
		*earliest = local + Min(before, after);
		*latest = local + Max(before, after);
	}
	else
		*earliest = *latest = local + (is_before ? before : after);
}

/*
 * Returns the earliest instant that a local time may mean.  Errors: 22008.
 */
TimestampTz
kapture_local_earliest(Timestamp local, pg_tz *zone)
{
	TimestampTz earliest;
	TimestampTz latest;

	local_meanings(local, zone, &earliest, &latest);
	return earliest;
}

/*
 * Returns the latest instant that a local time may mean.  Errors: 22008.
 */
TimestampTz
kapture_local_latest(Timestamp local, pg_tz *zone)
{
	TimestampTz earliest;
	TimestampTz latest;

	local_meanings(local, zone, &earliest, &latest);
	return latest;
}

/*
 * Returns the local time to ask from, so that nothing since "when" is missed:
 * clocks that are set back within a day show earlier times again.  Errors: 22008.
 */
Timestamp
kapture_local_since(TimestampTz when, pg_tz *zone)
{
	return when - Max(local_offset(when, zone), local_offset(when + USECS_PER_DAY, zone));
}

/*
 * Returns the local time to ask up to, so that nothing until "when" is missed:
 * clocks that were set back within a day have shown later times.  Errors: 22008.
 */
Timestamp
kapture_local_until(TimestampTz when, pg_tz *zone)
{
	return when - Min(local_offset(when, zone), local_offset(when - USECS_PER_DAY, zone));
}

/*
 * Returns a local time without its parts of a second, towards the past.
 */
Timestamp
kapture_local_whole_seconds(Timestamp when)
{
	/* the remainder is negative before 2000 */
	return when - (when % USECS_PER_SEC + USECS_PER_SEC) % USECS_PER_SEC;
}
