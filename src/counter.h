/*
 * counter.h
 *		Counts requests by server, API and HTTP code, with their times.
 */
#ifndef KAPTURE_COUNTER_H
#define KAPTURE_COUNTER_H

#include "postgres.h"

#include "option.h"

extern void kapture_counter_install(void);
extern void kapture_counter_add(Oid serverid, KaptureApi api, int http_code, int64 elapsed);

#endif							/* KAPTURE_COUNTER_H */
