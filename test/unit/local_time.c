/*
 * local_time.c
 *		Checks of api/local_time.c, above all around changes of clocks.
 */
#include "unit.h"

#include "api/local_time.h"

void
unit_local_time(void)
{
	static const struct
	{
		const char *zone;
		const char *local;
		const char *earliest;
		const char *latest;
	}			meanings[] = {
		{"Asia/Kolkata", "2021-03-14 14:21:11", "2021-03-14 08:51:11", "2021-03-14 08:51:11"},
		{"UTC", "1999-12-31 23:59:59.5", "1999-12-31 23:59:59.5", "1999-12-31 23:59:59.5"},
		/* set back at 03:00 on 2021-10-31: 02:30 comes twice */
		{"Europe/Berlin", "2021-10-31 02:30:00", "2021-10-31 00:30:00", "2021-10-31 01:30:00"},
		{"Europe/Berlin", "2021-10-31 01:59:59", "2021-10-30 23:59:59", "2021-10-30 23:59:59"},
		{"Europe/Berlin", "2021-10-31 03:00:00", "2021-10-31 02:00:00", "2021-10-31 02:00:00"},
		/* set forward at 02:00 on 2021-03-28: 02:30 never comes */
		{"Europe/Berlin", "2021-03-28 02:30:00", "2021-03-28 00:30:00", "2021-03-28 01:30:00"},
		{"Europe/Berlin", "2021-03-28 01:30:00", "2021-03-28 00:30:00", "2021-03-28 00:30:00"},
		{"Europe/Berlin", "2021-03-28 03:30:00", "2021-03-28 01:30:00", "2021-03-28 01:30:00"},
	};
	static const struct
	{
		const char *zone;
		const char *when;		/* UTC */
		const char *since;
		const char *until;
	}			bounds[] = {
		{"Asia/Kolkata", "2021-03-14 08:51:11", "2021-03-14 14:21:11", "2021-03-14 14:21:11"},
		/* half past two, for the first and the second time */
		{"Europe/Berlin", "2021-10-31 00:30:00", "2021-10-31 01:30:00", "2021-10-31 02:30:00"},
		{"Europe/Berlin", "2021-10-31 01:30:00", "2021-10-31 02:30:00", "2021-10-31 03:30:00"},
		/* clocks are set within a day */
		{"Europe/Berlin", "2021-03-27 12:00:00", "2021-03-27 13:00:00", "2021-03-27 13:00:00"},
		{"Europe/Berlin", "2021-03-28 12:00:00", "2021-03-28 14:00:00", "2021-03-28 14:00:00"},
		{"Europe/Berlin", "2021-10-30 12:00:00", "2021-10-30 13:00:00", "2021-10-30 14:00:00"},
		{"Europe/Berlin", "2021-07-01 12:00:00", "2021-07-01 14:00:00", "2021-07-01 14:00:00"},
	};

	for (int i = 0; i < lengthof(meanings); i++)
	{
		pg_tz	   *zone = kapture_local_zone(meanings[i].zone);
		Timestamp	local = unit_time(meanings[i].local);

		unit_is_time(kapture_local_earliest(local, zone), meanings[i].earliest, psprintf("earliest meaning of %s", meanings[i].local));
		unit_is_time(kapture_local_latest(local, zone), meanings[i].latest, psprintf("latest meaning of %s", meanings[i].local));
	}
	for (int i = 0; i < lengthof(bounds); i++)
	{
		pg_tz	   *zone = kapture_local_zone(bounds[i].zone);
		TimestampTz when = unit_time(bounds[i].when);

		unit_is_time(kapture_local_since(when, zone), bounds[i].since, psprintf("asked since %s", bounds[i].when));
		unit_is_time(kapture_local_until(when, zone), bounds[i].until, psprintf("asked until %s", bounds[i].when));
	}
	unit_is_time(kapture_local_whole_seconds(unit_time("2021-03-14 14:21:11.9")), "2021-03-14 14:21:11", "whole seconds");
	unit_is_time(kapture_local_whole_seconds(unit_time("1999-12-31 23:59:58.1")), "1999-12-31 23:59:58", "and before 2000");
	unit_is_time(kapture_local_whole_seconds(unit_time("1999-12-31 23:59:58")), "1999-12-31 23:59:58", "also without parts of a second");
}
