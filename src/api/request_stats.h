/*
 * request_stats.h
 *		Counts requests by server, API and HTTP code, with their times.
 */
#ifndef KAPTURE_REQUEST_STATS_H
#define KAPTURE_REQUEST_STATS_H

#include "postgres.h"

#include "api/option.h"

extern void kapture_counter_install(const char *(*name) (int api));
extern void kapture_counter_add(Oid serverid, int api, int http_code, int64 elapsed);

#endif							/* KAPTURE_REQUEST_STATS_H */
