/*
 * watermark.h
 *		From which time on a server's automatic pulls go.
 */
#ifndef KAPTURE_WATERMARK_H
#define KAPTURE_WATERMARK_H

#include "postgres.h"

#include "utils/timestamp.h"

extern Timestamp kapture_pull_local(TimestampTz when, const char *timezone, TimestampTz now);
extern TimestampTz kapture_pull_instant(Timestamp local, const char *timezone);
extern TimestampTz kapture_pull_watermark(TimestampTz before, TimestampTz window_start,
										  TimestampTz window_end, TimestampTz pull_start,
										  TimestampTz newest, bool last);

#endif							/* KAPTURE_WATERMARK_H */
