/*
 * load.h
 *		Reads what is attached, and the settings of its servers.
 */
#ifndef KAPTURE_LOAD_H
#define KAPTURE_LOAD_H

#include "postgres.h"

#include "push/state.h"

extern void kapture_load_watch(Worker *worker);
extern bool kapture_load(Worker *worker);
extern bool kapture_load_is_due(Worker *worker);
extern TimestampTz kapture_load_next(const Worker *worker);
extern bool kapture_load_refresh(WorkerTable *table);

#endif							/* KAPTURE_LOAD_H */
