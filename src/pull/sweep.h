/*
 * sweep.h
 *		Asks again for each known customer of a server, slowly.
 */
#ifndef KAPTURE_SWEEP_H
#define KAPTURE_SWEEP_H

#include "postgres.h"

#include "utils/timestamp.h"

#include "api/server.h"

typedef struct KaptureSweep KaptureSweep;

extern KaptureSweep *kapture_sweep_create(const KapturePullServer *server, Oid namespace,
										  const char *timezone, double rate, int64 after);
extern bool kapture_sweep_runs_code(const KaptureSweep *sweep);
extern bool kapture_sweep_step(KaptureSweep *sweep, TimestampTz *when, bool *wrote);
extern void kapture_sweep_served(KaptureSweep *sweep);
extern TimestampTz kapture_sweep_not_before(const KaptureSweep *sweep);
extern void kapture_sweep_drop(KaptureSweep *sweep);

#endif							/* KAPTURE_SWEEP_H */
