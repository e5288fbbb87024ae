/*
 * process.h
 *		What the background processes of a database have in common: how they
 *		begin and end.
 */
#ifndef KAPTURE_PROCESS_H
#define KAPTURE_PROCESS_H

#include "postgres.h"

#include "compat.h"
#include "shmem.h"

extern void kapture_process_initialize(Datum arg);
extern void kapture_process_lock_database(KaptureWorkerKind kind);
pg_noreturn extern void kapture_process_exit(KaptureExit reason);

#endif							/* KAPTURE_PROCESS_H */
