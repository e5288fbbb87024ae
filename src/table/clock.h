/*
 * clock.h
 *		Limits what users' code takes and leaves in the background processes.
 */
#ifndef KAPTURE_CLOCK_H
#define KAPTURE_CLOCK_H

#include "postgres.h"

extern void kapture_clock_start(int limit);
extern bool kapture_clock_stop(void);
extern bool kapture_clock_is_running(void);
extern void kapture_clock_reset(void);
extern void kapture_clock_name(Oid owner, int32 attachment_id);
extern bool kapture_clock_has_killed(Oid *owner, int32 *attachment_id);

#endif							/* KAPTURE_CLOCK_H */
