/*
 * watermark.c
 *		Checks of pull/watermark.c.
 */
#include "unit.h"

#include "pull/watermark.h"

void
unit_watermark(void)
{
#define T(text) unit_time("2026-01-01 " text)
	TimestampTz none = DT_NOBEGIN;

	unit_is_time(kapture_pull_watermark(T("10:00"), T("10:00"), T("11:00"), T("12:00"), T("10:30"), false),
				 "2026-01-01 11:00:00", "a window in the past moves it to its end");
	unit_is_time(kapture_pull_watermark(T("10:00"), T("10:00"), T("11:00"), T("12:00"), none, false),
				 "2026-01-01 11:00:00", "also without customers");
	unit_is_time(kapture_pull_watermark(T("10:00"), T("11:00"), T("12:00"), T("12:00"), T("11:30"), true),
				 "2026-01-01 11:30:00", "the last window moves it to the newest customer");
	unit_is_time(kapture_pull_watermark(T("10:00"), T("11:00"), T("12:00"), T("12:00"), none, true),
				 "2026-01-01 11:00:00", "or to its start");
	unit_is_time(kapture_pull_watermark(T("10:00"), T("11:00"), T("12:00"), T("12:00"), T("13:00"), true),
				 "2026-01-01 12:00:00", "never beyond the beginning of the pull");
	unit_is_time(kapture_pull_watermark(T("11:30"), T("11:00"), T("12:00"), T("12:00"), none, true),
				 "2026-01-01 11:30:00", "nor back");
#undef T
}
