/*
 * bgworker.h
 *		What the background processes of a database have in common: how they
 *		begin, work and end, and what they report.
 */
#ifndef KAPTURE_BGWORKER_H
#define KAPTURE_BGWORKER_H

#include "postgres.h"

#include "base/compat.h"
#include "cluster/guard.h"
#include "cluster/shmem.h"

/* What differs between the loops of worker and puller; all functions are called with the loop's argument. */
typedef struct KaptureProcessLoop
{
	KaptureGuarded pass;		/* does once all that there is to do, and waits for more */
	KaptureGuarded failed;		/* after an error: has everything looked at again */
	int64		(*backoff) (int errors);	/* milliseconds of rest after so many errors in a row */
	const char *wait_event;		/* shown during that rest */
	KaptureGuarded part;		/* before the process ends: leaves nothing in doubt without need; or NULL */
} KaptureProcessLoop;

/* The activities to be shown in pg_stat_activity.  Begins zeroed. */
typedef struct KaptureActivity
{
	char		text[256];
	int			len;
} KaptureActivity;

extern void kapture_process_handle_signals(void);
extern bool kapture_process_serve_signals(void);
extern MemoryContext kapture_process_initialize(Datum arg, KaptureWorkerKind kind);
extern void kapture_process_count(void);
extern bool kapture_process_is_ours(void);
extern Size kapture_process_memory_beside(void);
extern bool kapture_process_is_terminated(void);
extern const char *kapture_process_database(void);
extern void kapture_process_lock_database(void);
extern void kapture_process_require_installation(Oid *installation);
pg_noreturn extern void kapture_process_exit(KaptureExit reason);
pg_noreturn extern void kapture_process_run_loop(const KaptureProcessLoop *loop, void *arg);
extern void kapture_process_take_in(bool *reloaded, bool *woken);
extern void kapture_process_follow_clock(void (*shift) (int64 jump), KaptureGuarded wind_up, void *arg);

extern void kapture_process_begin(const char *activity);
extern void kapture_process_commit(void);
extern ErrorData *kapture_process_run(const char *activity, KaptureGuarded work, void *arg);

extern void kapture_process_report_error(KapturePhase phase, bool *in_trouble, int32 attachment_id, Oid owner,
										 const char *row_key, const ErrorData *error);
extern void kapture_process_report_success(KapturePhase phase, bool *in_trouble, int32 attachment_id);
extern void kapture_process_note_activity(KaptureActivity *activity, const char *format,...) pg_attribute_printf(2, 3);
extern void kapture_process_report_activity(const KaptureActivity *activity, const char *idle);

extern long kapture_process_wait_until(TimestampTz next);
extern long kapture_process_timeout(long timeout);

#endif							/* KAPTURE_BGWORKER_H */
