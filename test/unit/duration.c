/*
 * duration.c
 *		Checks of api/duration.c.
 */
#include "unit.h"

#include "api/duration.h"

void
unit_duration(void)
{
	static const struct
	{
		const char *text;
		KaptureDuration kind;
		int64		usec;
	}			cases[] = {
		{"500ms", KAPTURE_DURATION_GOOD, INT64CONST(500000)},
		{"30s", KAPTURE_DURATION_GOOD, INT64CONST(30000000)},
		{"5 min", KAPTURE_DURATION_GOOD, INT64CONST(300000000)},
		{"1 day", KAPTURE_DURATION_GOOD, INT64CONST(86400000000)},
		{"1 day 1s", KAPTURE_DURATION_GOOD, INT64CONST(86401000000)},
		{"0", KAPTURE_DURATION_GOOD, 0},
		/* what the caller counts in, here milliseconds */
		{"1500", KAPTURE_DURATION_BARE, INT64CONST(1500000)},
		{"-1", KAPTURE_DURATION_BARE, -1000},
		{"1 day 5", KAPTURE_DURATION_BAD, 0},
		{"1 month", KAPTURE_DURATION_CALENDAR, 0},
		{"1 year", KAPTURE_DURATION_CALENDAR, 0},
		{"", KAPTURE_DURATION_BAD, 0},
		{"soon", KAPTURE_DURATION_BAD, 0},
		{"now", KAPTURE_DURATION_BAD, 0},
		{"2000000000 days", KAPTURE_DURATION_BAD, 0},
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		int64		usec = 0;
		KaptureDuration kind = kapture_duration_parse(cases[i].text, 1000, &usec);

		unit_is_int(kind, cases[i].kind, psprintf("what \"%s\" is", cases[i].text));
		if (kind == KAPTURE_DURATION_GOOD || kind == KAPTURE_DURATION_BARE)
			unit_is_int(usec, cases[i].usec, "and how long");
	}
}
