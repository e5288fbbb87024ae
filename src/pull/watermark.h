/*
 * watermark.h
 *		The time from which on a server is pulled from automatically.
 */
#ifndef KAPTURE_WATERMARK_H
#define KAPTURE_WATERMARK_H

#include "postgres.h"

#include "utils/timestamp.h"

extern TimestampTz kapture_pull_watermark(TimestampTz before, TimestampTz window_start,
										  TimestampTz window_end, TimestampTz pull_start,
										  TimestampTz newest, bool last);

#endif							/* KAPTURE_WATERMARK_H */
