/*
 * transaction.c
 *		The worker's transactions, and what is reported of those that fail.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/snapmgr.h"

#include "api/pacing.h"
#include "cluster/bgworker.h"
#include "push/transaction.h"
#include "table/outbox.h"

static void
transaction_begin(Worker *worker, const char *activity)
{
	list_free(worker->followed);
	worker->followed = NIL;
	pgstat_report_activity(STATE_RUNNING, activity);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
transaction_commit(Worker *worker)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	kapture_process_report_stat();
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(worker->context);
}

/* What was read of keys in a transaction that failed is to be read again. */
static void
transaction_forget_followed(Worker *worker)
{
	ListCell   *lc;

	MemoryContextSwitchTo(worker->context);
	foreach(lc, worker->followed)
	{
		WorkerTable *table = lfirst(lc);

		kapture_outbox_scan_init(&table->keys);
		kapture_outbox_scan_init(&table->scan);
		table->look = table->fresh = true;
	}
	list_free(worker->followed);
	worker->followed = NIL;
}

typedef struct WorkerTransaction
{
	Worker	   *worker;
	const char *activity;
	KaptureGuarded work;
	void	   *arg;
} WorkerTransaction;

static void
transaction_do(void *arg)
{
	WorkerTransaction *transaction = arg;

	transaction_begin(transaction->worker, transaction->activity);
	transaction->work(transaction->arg);
	transaction_commit(transaction->worker);
}

/*
 * Runs work(arg) in a transaction.  Returns NULL, or the error, in the current memory
 * context, after which nothing has happened.
 */
ErrorData *
kapture_transaction_run(Worker *worker, const char *activity, KaptureGuarded work, void *arg)
{
	WorkerTransaction transaction = {worker, activity, work, arg};
	ErrorData  *error = kapture_guard_transaction(transaction_do, &transaction);

	if (error)
		transaction_forget_followed(worker);
	return error;
}

/* Returns when to try again what has failed so many times in a row. */
TimestampTz
kapture_transaction_retry_at(int errors)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   kapture_pacing_backoff(errors, WORKER_ERROR_LONGEST));
}

/* Tells whether an error is just somebody's lock. */
bool
kapture_transaction_is_lock(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/*
 * Shows and logs an error, of a table, and there of a row, if they are known.
 * Locks of users are nothing to be shown.
 */
void
kapture_transaction_report_error(Worker *worker, KapturePhase phase, WorkerTable *table,
								 const char *row_key, const ErrorData *error)
{
	char	   *message;

	if (kapture_transaction_is_lock(error))
		return;
	message = kapture_guard_message(error);
	kapture_guard_report(KAPTURE_PUSHER, phase, table ? table->att->id : 0, row_key, message);
	if (table)
		table->in_trouble = true;
	else
		worker->in_trouble = true;
	pfree(message);
}

/* A phase has gone well, for a table or as a whole. */
void
kapture_transaction_report_success(Worker *worker, KapturePhase phase, WorkerTable *table)
{
	bool	   *in_trouble = table ? &table->in_trouble : &worker->in_trouble;

	if (*in_trouble)
		*in_trouble = !kapture_guard_report_end(KAPTURE_PUSHER, phase, table ? table->att->id : 0);
}

/*
 * Does work(arg), on which no other work depends, in a subtransaction.  Returns false
 * after an error, which it has reported: of a table, if that is not NULL.
 */
bool
kapture_transaction_try_within(Worker *worker, KaptureGuarded work, void *arg, WorkerTable *table)
{
	ErrorData  *error = kapture_guard_step(work, arg);

	if (error == NULL)
		return true;
	kapture_transaction_report_error(worker, KAPTURE_PHASE_LOAD, table, NULL, error);
	FreeErrorData(error);
	return false;
}
