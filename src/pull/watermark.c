/*
 * watermark.c
 *		The time from which on a server is pulled from automatically.
 *
 * The watermark is the time before which all customers have been pulled.  A
 * pull starts an overlap before it and ends at the present, as Kapture may show
 * a customer later than its generation date says.
 *
 * Windows in the past move it to their end.  The last window, which ends at the
 * present, moves it to the newest customer seen, at least to its own start and
 * never beyond the time when the pull began: so no customer is skipped if our clock
 * is ahead of Kapture's, and a quiet account is asked for one window again, not for
 * all the time since its last customer.
 */
#include "postgres.h"

#include "pull/watermark.h"

/*
 * Returns the watermark, "before" so far, once a window has been committed.  "newest"
 * is the latest generation date in it, DT_NOBEGIN if there was none; "last" says that
 * the window ends at the present.
 */
TimestampTz
kapture_pull_watermark(TimestampTz before, TimestampTz window_start, TimestampTz window_end,
					   TimestampTz pull_start, TimestampTz newest, bool last)
{
	TimestampTz reached = last ? Max(window_start, newest) : window_end;

	return Max(before, Min(reached, pull_start));
}
