/*
 * limiter.c
 *		Checks of traffic/limiter.c, as far as one process sees it.
 */
#include "unit.h"

#include "traffic/limiter.h"

void
unit_limiter(void)
{
	TimestampTz before = GetCurrentTimestamp();
	TimestampTz when;
	int			first = kapture_limiter_take(1, 2, 0, 60000, &when);
	int			second = kapture_limiter_take(1, 2, 0, 60000, &when);
	int			other;

	unit_ok(first != KAPTURE_LIMITER_NONE && second != KAPTURE_LIMITER_NONE && first != second, "two requests have places of their own");
	unit_is_int(kapture_limiter_take(1, 2, 0, 60000, &when), KAPTURE_LIMITER_NONE, "a third has none");
	unit_ok(when > before, "but a time to ask again");
	other = kapture_limiter_take(2, 1, 0, 60000, &when);
	unit_ok(other != KAPTURE_LIMITER_NONE, "another server has places of its own");
	unit_is_int(kapture_limiter_take(2, 1, 0, 60000, &when), KAPTURE_LIMITER_NONE, "but one only");
	kapture_limiter_release(first);
	first = kapture_limiter_take(1, 2, 0, 60000, &when);
	unit_ok(first != KAPTURE_LIMITER_NONE, "a place that was given back is there again");
	unit_is_int(kapture_limiter_take(1, 2, 0, 60000, &when), KAPTURE_LIMITER_NONE, "once");
	kapture_limiter_release(KAPTURE_LIMITER_NONE);
	kapture_limiter_release(first);
	kapture_limiter_release(second);
	kapture_limiter_release(other);
	first = kapture_limiter_take(2, 1, 0, 60000, &when);
	unit_ok(first != KAPTURE_LIMITER_NONE, "when all are given back, there is one of each");
	kapture_limiter_release(first);
}
