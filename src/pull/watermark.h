/*
 * watermark.h
 *		Which servers are pulled from by themselves, and from which time on.
 */
#ifndef KAPTURE_WATERMARK_H
#define KAPTURE_WATERMARK_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/timestamp.h"

typedef struct KapturePullServer
{
	Oid			serverid;
	Oid			owner;			/* with whose key it is pulled */
	char	   *name;
} KapturePullServer;

extern List *kapture_pull_servers(void);
extern Timestamp kapture_pull_local(TimestampTz when, const char *timezone, TimestampTz now);
extern TimestampTz kapture_pull_instant(Timestamp local, const char *timezone);
extern TimestampTz kapture_pull_watermark(TimestampTz before, TimestampTz window_start,
										  TimestampTz window_end, TimestampTz pull_start,
										  TimestampTz newest, bool last);

#endif							/* KAPTURE_WATERMARK_H */
