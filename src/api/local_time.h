/*
 * local_time.h
 *		Converts an account's times, which are wall clock times, to instants and back.
 */
#ifndef KAPTURE_LOCAL_TIME_H
#define KAPTURE_LOCAL_TIME_H

#include "postgres.h"

#include "pgtime.h"
#include "utils/timestamp.h"

extern pg_tz *kapture_local_zone(const char *timezone);
extern bool kapture_local_to_instant(struct pg_tm *tm, fsec_t fsec, pg_tz *zone, Datum *result);
extern TimestampTz kapture_local_earliest(Timestamp local, pg_tz *zone);
extern TimestampTz kapture_local_latest(Timestamp local, pg_tz *zone);
extern Timestamp kapture_local_since(TimestampTz when, pg_tz *zone);
extern Timestamp kapture_local_until(TimestampTz when, pg_tz *zone);
extern Timestamp kapture_local_whole_seconds(Timestamp when);

#endif							/* KAPTURE_LOCAL_TIME_H */
