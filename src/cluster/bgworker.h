/*
 * bgworker.h
 *		What the background processes of a database have in common: how they
 *		begin and end, and what they report.
 */
#ifndef KAPTURE_BGWORKER_H
#define KAPTURE_BGWORKER_H

#include "postgres.h"

#include "base/compat.h"
#include "cluster/shmem.h"

/* Called after a transaction was ended by an error, before own locks are renewed. */
typedef void (*kapture_process_abort_hook_type) (void);
extern kapture_process_abort_hook_type kapture_process_abort_hook;

extern void kapture_process_initialize(Datum arg);
extern void kapture_process_count(void);
extern bool kapture_process_is_ours(void);
extern void kapture_process_lock_database(KaptureWorkerKind kind);
extern void kapture_process_abort(void);
pg_noreturn extern void kapture_process_exit(KaptureExit reason);
extern void kapture_process_report_stat(void);
extern void kapture_process_rest(long timeout, uint32 wait_event);
extern long kapture_process_wait_until(TimestampTz next);
extern long kapture_process_timeout(long timeout);

#endif							/* KAPTURE_BGWORKER_H */
