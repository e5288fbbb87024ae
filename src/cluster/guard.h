/*
 * guard.h
 *		Keeps errors from ending a background process.
 */
#ifndef KAPTURE_GUARD_H
#define KAPTURE_GUARD_H

#include "postgres.h"

#include "cluster/shmem.h"

typedef void (*KaptureGuarded) (void *arg);

/* Called after an error has ended a transaction, before the process renews its own locks. */
typedef void (*kapture_guard_abort_hook_type) (void);
extern kapture_guard_abort_hook_type kapture_guard_abort_hook;
typedef void (*kapture_guard_commit_hook_type) (void);
extern kapture_guard_commit_hook_type kapture_guard_commit_hook;

extern ErrorData *kapture_guard_copy_error(MemoryContext context);
extern ErrorData *kapture_guard_take_error(ErrorData *copy);
extern ErrorData *kapture_guard_step(KaptureGuarded work, void *arg);
extern ErrorData *kapture_guard_session_step(KaptureGuarded work, void *arg);
extern ErrorData *kapture_guard_session_look(KaptureGuarded work, void *arg);
extern ErrorData *kapture_guard_transaction(KaptureGuarded work, void *arg);
extern void kapture_guard_abort(void);
extern char *kapture_guard_message(const ErrorData *error);
extern bool kapture_guard_is_shortage(const ErrorData *error);
extern bool kapture_guard_will_pass(const ErrorData *error);
extern bool kapture_guard_is_lock(const ErrorData *error);
extern const char *kapture_guard_phase_name(KapturePhase phase);

#endif							/* KAPTURE_GUARD_H */
