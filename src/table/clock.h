/*
 * clock.h
 *		Limits how long users' code runs in the background processes, and what it
 *		leaves behind.
 */
#ifndef KAPTURE_CLOCK_H
#define KAPTURE_CLOCK_H

#include "postgres.h"

#include "cluster/shmem.h"

extern void kapture_clock_start(int limit);
extern bool kapture_clock_stop(void);
extern void kapture_clock_settle(void);
extern bool kapture_clock_is_running(void);
extern bool kapture_clock_is_outermost(void);
extern void kapture_clock_reset(void);
extern void kapture_clock_name(Oid owner, int32 attachment_id);
extern KaptureBlame kapture_clock_blame(int code, Oid *owner, int32 *attachment_id);
extern const char *kapture_clock_blame_text(KaptureBlame blame);

#endif							/* KAPTURE_CLOCK_H */
