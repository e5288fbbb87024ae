/*
 * guard.c
 *		Keeps errors from ending a background process.
 *
 * All tables of a database share one worker and one puller, so an error must
 * stop no more than what raised it: a row, a table, a server, or one pass of the
 * loop.  Whatever is guarded is written so that it can be done again after its
 * transaction was rolled back; what it has in memory by then is the caller's to
 * put right.  What goes wrong is logged, and shown in kapture_status until the
 * same goes well again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/lock.h"
#include "cluster/guard.h"

/* What users' code leaves behind goes by this when an error has ended it. */
kapture_guard_abort_hook_type kapture_guard_abort_hook = NULL;

/*
 * kapture_guard_step
 *		Runs work(arg) in a subtransaction.
 *
 * Returns NULL, or the error, in the current memory context, after which the
 * transaction is as it was before.  To be called within a transaction.
 */
ErrorData *
kapture_guard_step(KaptureGuarded work, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * Ends a transaction that failed, but not what the process holds beyond it.
 */
void
kapture_guard_abort(void)
{
	AbortCurrentTransaction();
	if (kapture_guard_abort_hook)
		kapture_guard_abort_hook();
	kapture_lock_renew();
}

/*
 * kapture_guard_transaction
 *		Runs work(arg), which begins and commits transactions by itself.
 *
 * Returns NULL, or the error, in the current memory context, after which no
 * transaction is open.  To be called outside of one.
 */
ErrorData *
kapture_guard_transaction(KaptureGuarded work, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		work(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		/* without a transaction, nothing else would do these */
		LWLockReleaseAll();
		ConditionVariableCancelSleep();
		pgstat_report_wait_end();
		kapture_guard_abort();
		pgstat_report_activity(STATE_IDLE, NULL);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return error;
}

/*
 * Returns an error's message and, if it has one, its detail, in the current
 * memory context.
 */
char *
kapture_guard_message(const ErrorData *error)
{
	const char *message = error->message ? error->message : "missing error text";

	return error->detail ? psprintf("%s: %s", message, error->detail) : pstrdup(message);
}

/*
 * Tells whether an error says nothing of the row that it came up with: locks,
 * deadlocks, full disks, cancellation.  It is worth trying again.
 */
bool
kapture_guard_will_pass(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				error->sqlerrcode == ERRCODE_READ_ONLY_SQL_TRANSACTION ||
				error->sqlerrcode == ERRCODE_DISK_FULL ||
				error->sqlerrcode == ERRCODE_TOO_MANY_CONNECTIONS ||
				error->sqlerrcode == ERRCODE_CONFIGURATION_LIMIT_EXCEEDED;
	}
}

/*
 * Tells whether an error is just somebody's lock, which is nothing to be reported.
 */
bool
kapture_guard_is_lock(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/*
 * Returns what is done in a phase, as users read it; static.
 */
const char *
kapture_guard_phase_name(KapturePhase phase)
{
	switch (phase)
	{
		case KAPTURE_PHASE_NONE:
			break;
		case KAPTURE_PHASE_LOAD:
			return "reading attachments";
		case KAPTURE_PHASE_CLAIM:
			return "claiming changes";
		case KAPTURE_PHASE_SEND:
			return "sending requests";
		case KAPTURE_PHASE_RECORD:
			return "recording answers";
		case KAPTURE_PHASE_EXPIRE:
			return "expiring the history";
		case KAPTURE_PHASE_PULL:
			return "pulling";
		case KAPTURE_PHASE_APPLY:
			return "writing pulled customers";
		case KAPTURE_PHASE_LOOP:
			return "waiting";
	}
	return "nothing";
}

/* Copies as much of a text as fits, without cutting a character. */
static void
guard_copy(char *to, const char *from, Size size)
{
	strlcpy(to, from, pg_mbcliplen(from, strlen(from), size - 1) + 1);
}

/*
 * Notes an error, of a phase of a worker's or puller's work on an attached table
 * (0: on none) and, if that is certain, on one row (NULL: it is not).  It goes
 * to the log, without the key, unless that has it already.
 */
void
kapture_guard_report(KaptureWorkerKind kind, KapturePhase phase, int32 attachment_id,
					 const char *row_key, const char *message)
{
	KaptureTrouble before;
	KaptureTrouble trouble = {.phase = phase, .since = GetCurrentTimestamp()};

	guard_copy(trouble.row_key, row_key ? row_key : "", sizeof(trouble.row_key));
	guard_copy(trouble.message, message, sizeof(trouble.message));
	if (!kapture_shmem_read_trouble(kind, attachment_id, &before) || before.phase != phase ||
		strcmp(before.message, trouble.message) != 0)
		ereport(LOG,
				(errmsg("kapture_sync: an error while %s is worked around: %s",
						kapture_guard_phase_name(phase), message),
				 attachment_id != 0 ? errdetail("It is about the table with attachment_id %d.", attachment_id) : 0));
	else
		trouble.since = before.since;
	kapture_shmem_report_trouble(kind, attachment_id, &trouble);
}

/*
 * A phase has gone well: what was noted of it is over.  Returns whether nothing
 * is noted any more.
 */
bool
kapture_guard_report_end(KaptureWorkerKind kind, KapturePhase phase, int32 attachment_id)
{
	KaptureTrouble trouble;

	if (!kapture_shmem_read_trouble(kind, attachment_id, &trouble))
		return true;
	if (trouble.phase != phase)
		return false;
	kapture_shmem_report_trouble(kind, attachment_id, NULL);
	return true;
}
