/*
 * clock.c
 *		The account's local time, in the shapes that Kapture writes and reads.
 *
 * Kapture names no time zone anywhere: all its times are the account's.  So
 * that zone is made the zone of the whole process.
 */
#include "clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
clock_set_zone(const char *zone)
{
	setenv("TZ", zone, 1);
	tzset();
}

/* Seconds since 1970, with a fraction. */
double
clock_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (double) now.tv_sec + (double) now.tv_nsec / 1e9;
}

/* Nanoseconds of a clock that is never set. */
int64_t
clock_monotonic(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000000000 + now.tv_nsec;
}

/*
 * Reads YYYY-MM-DD or YYYY-MM-DD hh:mm:ss.  A date alone is the first or the
 * last second of its day.
 */
bool
clock_parse(const char *text, bool end_of_day, time_t *result)
{
	static const char shape[] = "dddd-dd-dd dd:dd:dd";
	struct tm	tm = {0};
	struct tm	asked;
	size_t		len = strlen(text);

	if (len != 10 && len != 19)
		return false;
	for (size_t i = 0; i < len; i++)
	{
		if (shape[i] == 'd' ? (text[i] < '0' || text[i] > '9') : text[i] != shape[i])
			return false;
	}

	sscanf(text, "%4d-%2d-%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday);
	if (len == 19)
		sscanf(text + 11, "%2d:%2d:%2d", &tm.tm_hour, &tm.tm_min, &tm.tm_sec);
	else if (end_of_day)
	{
		tm.tm_hour = 23;
		tm.tm_min = 59;
		tm.tm_sec = 59;
	}
	if (tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 59)
		return false;
	tm.tm_year -= 1900;
	tm.tm_mon -= 1;
	tm.tm_isdst = -1;

	/* mktime makes a valid date of an invalid one, which then differs */
	asked = tm;
	*result = mktime(&tm);
	return tm.tm_year == asked.tm_year && tm.tm_mon == asked.tm_mon && tm.tm_mday == asked.tm_mday;
}

/* 2021-03-14 14:21:11 */
void
clock_plain(Buf *buf, time_t moment)
{
	struct tm	tm;

	localtime_r(&moment, &tm);
	buf_printf(buf, "%04d-%02d-%02d %02d:%02d:%02d", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday,
			   tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* Mar 14, 2021 2:21:11 PM */
void
clock_printed(Buf *buf, time_t moment)
{
	static const char *const months[] = {
		"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"
	};
	struct tm	tm;

	localtime_r(&moment, &tm);
	buf_printf(buf, "%s %d, %d %d:%02d:%02d %s", months[tm.tm_mon], tm.tm_mday, tm.tm_year + 1900,
			   (tm.tm_hour + 11) % 12 + 1, tm.tm_min, tm.tm_sec, tm.tm_hour < 12 ? "AM" : "PM");
}

/* A calendar object; its months count from 0, as those of Kapture do. */
void
clock_calendar(Buf *buf, time_t moment)
{
	struct tm	tm;

	localtime_r(&moment, &tm);
	buf_printf(buf, "{\"year\":%d,\"month\":%d,\"dayOfMonth\":%d,\"hourOfDay\":%d,\"minute\":%d,\"second\":%d}",
			   tm.tm_year + 1900, tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec);
}
