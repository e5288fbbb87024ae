/*
 * process.h
 *		What the background processes of a database have in common: how they
 *		begin and end, and what they report.
 */
#ifndef KAPTURE_PROCESS_H
#define KAPTURE_PROCESS_H

#include "postgres.h"

#include "compat.h"
#include "shmem.h"

extern void kapture_process_initialize(Datum arg);
extern void kapture_process_lock_database(KaptureWorkerKind kind);
pg_noreturn extern void kapture_process_exit(KaptureExit reason);
extern void kapture_process_report_stat(void);
extern void kapture_process_rest(long timeout, uint32 wait_event);
extern long kapture_process_timeout(long timeout);

#endif							/* KAPTURE_PROCESS_H */
