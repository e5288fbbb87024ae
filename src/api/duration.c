/*
 * duration.c
 *		Lengths of time as users write them in options.
 *
 * All options take the same units, short or written out: "500ms", "30s",
 * "5 min", "24 hours", "1 day".  A number alone is ambiguous: some options took it
 * for milliseconds, others for seconds.
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/datetime.h"

#include "api/duration.h"
#include "base/compat.h"

/* Is this field, the last one, a number without a unit? */
static bool
duration_is_bare(const char *field)
{
	return strspn(field, "+-.0123456789") == strlen(field);
}

/*
 * kapture_duration_parse
 *		The length of time that a text names, in microseconds.
 *
 * "bare_unit" is the unit, in microseconds, of a number that has none; the result
 * is KAPTURE_DURATION_BARE then, except for 0, which needs none.  *usec is set
 * with KAPTURE_DURATION_GOOD and KAPTURE_DURATION_BARE only.
 */
KaptureDuration
kapture_duration_parse(const char *text, int64 bare_unit, int64 *usec)
{
	char		work[256];
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	int			nf;
	int			dtype;
	struct pg_itm_in itm = {0};
	bool		bare;

	if (ParseDateTime(text, work, sizeof(work), field, ftype, MAXDATEFIELDS, &nf) != 0 || nf == 0)
		return KAPTURE_DURATION_BAD;
	bare = duration_is_bare(field[nf - 1]);
	if (bare && nf > 1)
		return KAPTURE_DURATION_BAD;
	/* DecodeInterval() takes a number without a unit for seconds */
	if (DecodeInterval(field, ftype, nf, INTERVAL_FULL_RANGE, &dtype, &itm) != 0 || dtype != DTK_DELTA)
		return KAPTURE_DURATION_BAD;
	if (itm.tm_year != 0 || itm.tm_mon != 0)
		return KAPTURE_DURATION_CALENDAR;
	if (pg_mul_s64_overflow(itm.tm_mday, USECS_PER_DAY, usec) ||
		pg_add_s64_overflow(*usec, itm.tm_usec, usec))
		return KAPTURE_DURATION_BAD;
	if (!bare || *usec == 0)
		return KAPTURE_DURATION_GOOD;
	*usec /= USECS_PER_SEC / bare_unit;
	return KAPTURE_DURATION_BARE;
}
