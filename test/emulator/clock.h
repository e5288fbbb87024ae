/*
 * clock.h
 *		The account's local time, in the shapes that Kapture writes and reads.
 */
#ifndef CLOCK_H
#define CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "buf.h"

extern void clock_set_zone(const char *zone);
extern double clock_now(void);
extern int64_t clock_monotonic(void);

extern bool clock_parse(const char *text, bool end_of_day, time_t *result);
extern void clock_plain(Buf *buf, time_t moment);
extern void clock_printed(Buf *buf, time_t moment);
extern void clock_calendar(Buf *buf, time_t moment);

#endif
