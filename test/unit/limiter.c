/*
 * limiter.c
 *		Checks of traffic/limiter.c, as far as one process sees it.
 */
#include "unit.h"

#include "traffic/limiter.h"

/* An owner with more servers and requests than there is room for leaves room to another. */
static void
unit_limiter_crowd(void)
{
	TimestampTz when;
	int			first = KAPTURE_LIMITER_NONE;
	int			given = 0;
	int			all;
	int			other;
	int			n = 0;

	for (Oid serverid = 100; serverid < 2100; serverid++)
		given += kapture_limiter_take(serverid, 20, 1, 0, 60000, &when) != KAPTURE_LIMITER_NONE ? 1 : 0;
	unit_ok(given > 1000 && given < 2000, "an owner has not room for any number of servers");
	all = given - 1;
	other = kapture_limiter_take(3, 30, 1, 0, 60000, &when);
	unit_ok(other != KAPTURE_LIMITER_NONE, "another owner has some all the same");
	unit_is_int(kapture_limiter_take(3, 30, 1, 0, 60000, &when), KAPTURE_LIMITER_NONE, "with its limit");
	kapture_limiter_release(other);

	for (given = 0; given < 20000; given++)
	{
		int			place = kapture_limiter_take(100, 20, 100000, 0, 60000, &when);

		if (place == KAPTURE_LIMITER_NONE)
			break;
		first = given == 0 ? place : first;
	}
	unit_ok(given > 1000 && given < 20000, "nor for any number of requests");
	all += given;
	for (; n < all; n++)
	{
		if (kapture_limiter_take(3, 30, 100000, 0, 60000, &when) == KAPTURE_LIMITER_NONE)
			break;
	}
	unit_ok(n >= all / 2 - 1 && n <= all / 2 + 1, "of which another owner has half, if it wants them");
	kapture_limiter_release(first);
	unit_is_int(kapture_limiter_take(3, 30, n, 0, 60000, &when), KAPTURE_LIMITER_NONE, "a request that is no longer counted takes nobody's place along when it ends");
}

void
unit_limiter(void)
{
	TimestampTz before = GetCurrentTimestamp();
	TimestampTz when;
	int			first = kapture_limiter_take(1, 10, 2, 0, 60000, &when);
	int			second = kapture_limiter_take(1, 10, 2, 0, 60000, &when);
	int			other;

	unit_ok(first != KAPTURE_LIMITER_NONE && second != KAPTURE_LIMITER_NONE && first != second, "two requests have places of their own");
	unit_is_int(kapture_limiter_take(1, 10, 2, 0, 60000, &when), KAPTURE_LIMITER_NONE, "a third has none");
	unit_ok(when > before, "but a time to ask again");
	other = kapture_limiter_take(2, 10, 1, 0, 60000, &when);
	unit_ok(other != KAPTURE_LIMITER_NONE, "another server has places of its own");
	unit_is_int(kapture_limiter_take(2, 10, 1, 0, 60000, &when), KAPTURE_LIMITER_NONE, "but one only");
	kapture_limiter_release(first);
	first = kapture_limiter_take(1, 10, 2, 0, 60000, &when);
	unit_ok(first != KAPTURE_LIMITER_NONE, "a place that was given back is there again");
	unit_is_int(kapture_limiter_take(1, 10, 2, 0, 60000, &when), KAPTURE_LIMITER_NONE, "once");
	kapture_limiter_release(KAPTURE_LIMITER_NONE);
	kapture_limiter_release(first);
	kapture_limiter_release(second);
	kapture_limiter_release(other);
	first = kapture_limiter_take(2, 10, 1, 0, 60000, &when);
	unit_ok(first != KAPTURE_LIMITER_NONE, "when all are given back, there is one of each");
	kapture_limiter_release(first);
	unit_limiter_crowd();
}
