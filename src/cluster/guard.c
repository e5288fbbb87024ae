/*
 * guard.c
 *		Keeps errors from ending a background process.
 *
 * All tables of a database share one worker and one puller, so an error must stop no more
 * than what raised it: a row, a table, a server, or one pass of the loop.  Guarded work can
 * be done again after its transaction was rolled back; what it has left in memory is for
 * the caller to put right.
 */
#include "postgres.h"

#include "access/xact.h"
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

/* Cleans up after users' code that an error has ended. */
kapture_guard_abort_hook_type kapture_guard_abort_hook = NULL;

/* A transaction in which users' code may have run is about to be committed. */
kapture_guard_commit_hook_type kapture_guard_commit_hook = NULL;

/*
 * kapture_guard_copy_error
 *		In PG_CATCH, before the rollback: copies the error that is being handled into
 *		a memory context.
 *
 * The rollback may free what the error points to, as ReThrowError() does not copy the names
 * of file and function.  Returns NULL if there is no memory for the copy.  Then the error
 * itself is that there is none, to be copied after the rollback, which frees some.
 */
ErrorData *
kapture_guard_copy_error(MemoryContext context)
{
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
	}
	PG_CATCH();
	{
		/* the error stays on the stack of errors */
	}
	PG_END_TRY();
	return error;
}

/*
 * kapture_guard_take_error
 *		In PG_CATCH, after the rollback: ends the handling of the error.
 *
 * "copy" is what kapture_guard_copy_error() returned.  Returns the error, in the current
 * memory context if there was no copy.
 */
ErrorData *
kapture_guard_take_error(ErrorData *copy)
{
	ErrorData  *error = copy ? copy : CopyErrorData();

	FlushErrorState();
	return error;
}

/* Runs work(arg) in a subtransaction; "keep": what it has done is kept.  Returns NULL, or the error. */
static ErrorData *
guard_run(KaptureGuarded work, void *arg, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(arg);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		error = kapture_guard_copy_error(context);
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		error = kapture_guard_take_error(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

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
	return guard_run(work, arg, true);
}

/* As guard_run(), but raises a cancellation by the user again, as that is not an error of the work. */
static ErrorData *
guard_run_in_session(KaptureGuarded work, void *arg, bool keep)
{
	ErrorData  *error = guard_run(work, arg, keep);

	if (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	return error;
}

/*
 * kapture_guard_session_step
 *		As kapture_guard_step(), for a user's command: a cancellation by the user is
 *		raised again.
 */
ErrorData *
kapture_guard_session_step(KaptureGuarded work, void *arg)
{
	return guard_run_in_session(work, arg, true);
}

/*
 * kapture_guard_session_look
 *		As kapture_guard_session_step(), for work that changes nothing but memory: all locks
 *		that it has taken are released.  Kept, they would have others wait for the user's
 *		transaction, whom what was looked at need not concern.
 */
ErrorData *
kapture_guard_session_look(KaptureGuarded work, void *arg)
{
	return guard_run_in_session(work, arg, false);
}

/*
 * Ends a transaction that failed; locks that the process holds beyond transactions are
 * kept.
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
 *		Runs work(arg), which begins and commits its own transactions.
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
		/* if no transaction is open, nothing else would do this */
		LWLockReleaseAll();
		ConditionVariableCancelSleep();
		pgstat_report_wait_end();
		error = kapture_guard_copy_error(context);
		kapture_guard_abort();
		pgstat_report_activity(STATE_IDLE, NULL);
		MemoryContextSwitchTo(context);
		error = kapture_guard_take_error(error);
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
 * Tells whether an error says nothing about the row that was handled, so that it is worth
 * trying again: locks, deadlocks, shortages, cancellation.
 */
bool
kapture_guard_will_pass(const ErrorData *error)
{
	if (kapture_guard_is_shortage(error))
		return true;
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				error->sqlerrcode == ERRCODE_READ_ONLY_SQL_TRANSACTION;
	}
}

/*
 * Tells whether an error says that the server has run out of something: disk, memory,
 * connections, transaction ids.  Such an error says nothing about the work, however often
 * it is raised, and passes when there is enough again.
 */
bool
kapture_guard_is_shortage(const ErrorData *error)
{
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
		return true;
	/* elsewhere, this code means that a value is too large */
	return error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && error->funcname &&
		(strcmp(error->funcname, "GetNewTransactionId") == 0 || strcmp(error->funcname, "GetNewMultiXactId") == 0);
}

/*
 * Tells whether an error is just about somebody's lock, which is not reported.
 */
bool
kapture_guard_is_lock(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/*
 * Returns the name of a phase for users; static.
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
