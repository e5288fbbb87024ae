/*
 * transaction.c
 *		The worker's transactions, and what is reported of those that fail.
 */
#include "postgres.h"

#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "push/transaction.h"
#include "queue/scan.h"
#include "traffic/pacing.h"

/* Has key changes read again that were read in a transaction which failed. */
static void
transaction_forget_followed(Worker *worker)
{
	ListCell   *lc;

	MemoryContextSwitchTo(worker->context);
	foreach(lc, worker->followed)
	{
		WorkerTable *table = lfirst(lc);

		kapture_scan_init(&table->keys);
		kapture_scan_init(&table->scan);
		table->look = table->fresh = true;
	}
	list_free(worker->followed);
	worker->followed = NIL;
}

/*
 * Runs work(arg) in a transaction.  Returns NULL, or the error, in the current memory
 * context, after which nothing has happened.
 */
ErrorData *
kapture_transaction_run(Worker *worker, const char *activity, KaptureGuarded work, void *arg)
{
	ErrorData  *error;

	list_free(worker->followed);
	worker->followed = NIL;
	error = kapture_process_run(activity, work, arg);
	if (error)
		transaction_forget_followed(worker);
	return error;
}

/* Returns when to try again what has failed that many times in a row. */
TimestampTz
kapture_transaction_retry_at(int errors)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   kapture_pacing_backoff(errors, WORKER_ERROR_LONGEST));
}

/*
 * Reports an error of a phase, for a table and a row of it, if these are known (not NULL).
 */
void
kapture_transaction_report_error(KapturePhase phase, WorkerTable *table, const char *row_key, const ErrorData *error)
{
	kapture_process_report_error(phase, table ? &table->in_trouble : NULL, table ? table->att->id : 0,
								 table ? kapture_turn_owner(&table->turn) : InvalidOid, row_key, error);
}

/*
 * Reports that a phase has gone well, for a table or, if that is NULL, as a whole.
 */
void
kapture_transaction_report_success(KapturePhase phase, WorkerTable *table)
{
	kapture_process_report_success(phase, table ? &table->in_trouble : NULL, table ? table->att->id : 0);
}

/*
 * Does work(arg), on which no other work depends, in a subtransaction.  Returns false after
 * an error, which is reported then, for a table if that is not NULL.
 */
bool
kapture_transaction_try_within(KaptureGuarded work, void *arg, WorkerTable *table)
{
	ErrorData  *error = kapture_guard_step(work, arg);

	if (error == NULL)
		return true;
	kapture_transaction_report_error(KAPTURE_PHASE_LOAD, table, NULL, error);
	FreeErrorData(error);
	return false;
}
