/*
 * vacuum.h
 *		Keeps the tables of the queue small.
 */
#ifndef KAPTURE_VACUUM_H
#define KAPTURE_VACUUM_H

#include "postgres.h"

#include "base/catalog.h"

extern void kapture_vacuum_note(KaptureTable table, uint64 dead);
extern void kapture_vacuum_run(void);

#endif							/* KAPTURE_VACUUM_H */
