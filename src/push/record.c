/*
 * record.c
 *		Records what answers mean: ids in rows, deliveries in the history or to be
 *		tried again.
 *
 * Answers that cannot be recorded together are kept, and recorded by table, then one by
 * one.  A task that cannot even be parked is tried again after a while, apart from all
 * others.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "api/http.h"
#include "cluster/guard.h"
#include "known/digest.h"
#include "known/row_state.h"
#include "push/call_sender.h"
#include "push/notify.h"
#include "push/queue.h"
#include "push/record.h"
#include "push/server_health.h"
#include "push/sharing.h"
#include "push/transaction.h"
#include "queue/delivery.h"
#include "table/caches.h"
#include "table/clock.h"
#include "table/row_io.h"
#include "traffic/pacing.h"

/*
 * While there is more to send, answers are recorded when there are so many, or when
 * KAPTURE_RECORD_DELAY has passed since the first.
 */
#ifndef RECORD_BATCH			/* script/bench tries others */
#define RECORD_BATCH	128
#endif

/* How long to wait for a lock while the answers of other tables wait, too. */
#define RECORD_BUSY_TIMEOUT	"10ms"

/* Sends the notifications that there are about tables. */
void
kapture_record_alert(Worker *worker)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		kapture_alert_table(table->att, table->server->name, &table->outcomes);
	}
}

/* An answer to be processed, and the error that this has raised. */
typedef struct WorkerAnswer
{
	WorkerTask *task;
	TimestampTz now;
	const ErrorData *error;
} WorkerAnswer;

static void
record_do_take(void *arg)
{
	WorkerAnswer *answer = arg;
	KaptureTask *task = &answer->task->task;

	kapture_task_answer(task, kapture_http_answer(task->request), answer->now);
}

static void
record_do_refuse(void *arg)
{
	WorkerAnswer *answer = arg;

	kapture_task_fail(&answer->task->task, true, 0, answer->error->message);
}

/* Processes the answer to a task.  If that raises an error, the task's row alone fails. */
static void
record_take(WorkerTask *task, TimestampTz now)
{
	WorkerAnswer answer = {.task = task,.now = now};
	ErrorData  *error = kapture_guard_step(record_do_take, &answer);

	if (error)
	{
		if (task->task.step == KAPTURE_STEP_ADD)
			task->task.delivery->in_doubt = now;
		answer.error = error;
		/* the request that is recorded may itself be the cause of the error */
		if (kapture_guard_is_shortage(error) || kapture_guard_step(record_do_refuse, &answer) != NULL)
			kapture_task_park(&task->task, error);
	}
	if (task->task.strange)
		kapture_http_distrust(task->task.request);
	kapture_http_release(task->task.request);
	task->task.request = NULL;
}

/* Writes ids back to the rows of one table. */
static void
record_write_back(Worker *worker, WorkerTable *table, List *tasks, TimestampTz now)
{
	TimestampTz began = GetCurrentTimestamp();
	bool		spent = !kapture_state_may_run(table);
	TimestampTz later = Max(TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY), spent ? kapture_turn_next(&table->turn) : 0);
	const char *why = !table->present ? "the table is misconfigured; the Kapture customer id is written later" :
		spent ? "other tables come first; the Kapture customer id is written later" :
		"the row is locked; its Kapture customer id is written later";
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, tasks)
	{
		KaptureTask *t = &((WorkerTask *) lfirst(lc))->task;

		t->delivery->row.new_id = t->customer_id;
		rows = lappend(rows, &t->delivery->row);
	}
	if (spent || !table->present)
		kapture_queue_put_off(rows);
	else
	{
		kapture_caches_open(table->att->root);
		kapture_row_write_ids(table->att, rows, GetActiveSnapshot());
		kapture_turn_charge(&table->turn, began, list_length(rows));
	}

	foreach(lc, tasks)
	{
		KaptureTask *t = &((WorkerTask *) lfirst(lc))->task;

		kapture_queue_excuse(worker, table, t->delivery);
		kapture_task_written(t, later, why, table->att->id == worker->blamed ? kapture_clock_blame_text(worker->blame) : NULL);
	}
}

/*
 * Writes the ids of tasks back, table by table.  A table may have become misconfigured while its
 * rows were in flight: then their deliveries keep the ids until it is fixed.
 */
static void
record_write_ids(Worker *worker, dlist_head *tasks, TimestampTz now)
{
	List	   *tables = NIL;
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, tasks)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, iter.cur);
		WorkerTable *table = task->table;
		KaptureTask *t = &task->task;

		if (!table->attached || (!table->present && table->att->id_column == NULL) ||
			t->state == KAPTURE_TASK_RELEASE || t->delivery->gone || t->customer_id == 0 || t->customer_id == t->delivery->row.customer_id)
			continue;
		if (!list_member_ptr(tables, table))
		{
			tables = lappend(tables, table);
			table->settling = NIL;
		}
		table->settling = lappend(table->settling, task);
	}
	foreach(lc, tables)
	{
		WorkerTable *table = lfirst(lc);

		record_write_back(worker, table, table->settling, now);
		table->settling = NIL;
	}
}

/* Appends a customer that other rows may wait for; makes the list if it is NULL. */
static StringInfo
record_add_freed(StringInfo freed, int32 attachment_id, int64 customer_id)
{
	KaptureCustomer customer = {attachment_id, customer_id};

	if (freed == NULL)
		freed = makeStringInfo();
	appendBinaryStringInfo(freed, (char *) &customer, sizeof(customer));
	return freed;
}

/* Notes that a row was parked, and why. */
static void
record_note_parked(WorkerTask *task)
{
	char	   *cause = kapture_task_log_text(&task->task);

	kapture_alert_note(&task->table->outcomes, true);
	if (cause)
		kapture_alert_note_cause(&task->table->outcomes, cause);
}

/*
 * Records what became of tasks: ids to the rows, then deliveries to the
 * history or to their next try.
 */
void
kapture_record_settle(Worker *worker, dlist_head *tasks)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	titer;
	List	   *done = NIL;
	StringInfo	freed = NULL;

	if (dlist_is_empty(tasks))
		return;
	kapture_digest_load_key();
	record_write_ids(worker, tasks, now);
	dlist_foreach(titer, tasks)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, titer.cur);
		KaptureTask *t = &task->task;

		KAPTURE_TRACE(t, "settle");
		if (kapture_task_frees(t))
			freed = record_add_freed(freed, t->att->id, t->customer_id);
		if (t->state == KAPTURE_TASK_DONE)
		{
			KaptureDone *d = palloc0(sizeof(KaptureDone));

			kapture_queue_forget_raised(worker, t->delivery);
			d->delivery = t->delivery;
			d->att = t->att;
			d->action = t->action;
			d->customer_id = t->customer_id;
			d->http_status = t->http_status;
			d->message = t->message;
			d->digests = kapture_digest_make(t->att, t->customer_id, t->delivery->row.values, t->sent);
			done = lappend(done, d);
			task->table->last_success = now;
			kapture_alert_note(&task->table->outcomes, false);
			if (worker->next_expiry == DT_NOEND)
				worker->next_expiry = now;
		}
		else if (t->state == KAPTURE_TASK_FAILED)
		{
			TimestampTz next = kapture_delivery_fail(&t->failed);

			task->table->next_due = Min(task->table->next_due, next);
			if (next == DT_NOEND)
				record_note_parked(task);
		}
		else
		{
			kapture_delivery_release(t->delivery, t->next_attempt);
			task->table->next_due = Min(task->table->next_due, t->next_attempt);
		}
	}
	kapture_queue_hurry(worker, kapture_delivery_finish(done), now);
	if (freed)
		kapture_queue_hurry(worker, kapture_row_state_release((KaptureCustomer *) freed->data, freed->len / sizeof(KaptureCustomer)), now);
	kapture_record_alert(worker);
}

/* Takes finished requests off their connections, and notes that their tasks are answered. */
void
kapture_record_collect(Worker *worker)
{
	KaptureHttpRequest *request;

	while ((request = kapture_http_next_finished()) != NULL)
	{
		WorkerTask *task = kapture_http_owner(request);
		const KaptureHttpAnswer *answer = kapture_http_answer(request);

		if (kapture_calls_take(request))
			continue;
		kapture_request_pool_ended(&task->server->pool);
		task->server->share->in_flight--;
		if (worker->nanswered++ == 0)
			worker->first_answer = GetCurrentTimestamp();
		/* trouble is recorded before more is sent */
		if (answer->outcome != KAPTURE_HTTP_ANSWERED || answer->status != 200)
			worker->trouble = true;
		dlist_push_tail(&worker->answered, &task->node);
	}
}

/*
 * Tells whether it is time to record answers.  It is if nothing can be sent meanwhile, but
 * not for a while after an error.
 */
bool
kapture_record_is_due(Worker *worker)
{
	dlist_iter	iter;

	if (worker->nanswered == 0 || worker->answer_not_before > GetCurrentTimestamp())
		return false;
	if (worker->trouble || worker->nanswered >= RECORD_BATCH ||
		GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(worker->first_answer, KAPTURE_RECORD_DELAY))
		return true;
	dlist_foreach(iter, &worker->servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (server->nready > 0 && server->pool.not_before == 0)
			return false;
	}
	return true;
}

/* Follows the key changes of the tasks' tables.  Tasks that need not be sent any more are appended to *settled. */
static void
record_follow(Worker *worker, dlist_head *tasks, dlist_head *settled)
{
	List	   *tables = NIL;
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, tasks)
	{
		WorkerTable *table = dlist_container(WorkerTask, node, iter.cur)->table;

		if (table->attached)
			tables = list_append_unique_ptr(tables, table);
	}
	foreach(lc, tables)
		kapture_queue_follow(worker, lfirst(lc), settled);
}

/*
 * To be called in a transaction that records answers.  What it records need not be waited
 * for on disk: if a crash takes it back, the rows are 'sending' again, and are searched for
 * before anything is added.
 */
static void
record_lazily(void)
{
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/* Tasks that are recorded together. */
typedef struct WorkerSettling
{
	Worker	   *worker;
	dlist_head *tasks;
} WorkerSettling;

static void
record_do_settle(void *arg)
{
	WorkerSettling *settling = arg;

	record_lazily();
	(void) set_config_option("lock_timeout", RECORD_BUSY_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	record_follow(settling->worker, settling->tasks, settling->tasks);
	kapture_record_settle(settling->worker, settling->tasks);
}

/* Records tasks in a transaction of their own.  Returns NULL, or the error. */
static ErrorData *
record_settle(Worker *worker, dlist_head *tasks)
{
	WorkerSettling settling = {worker, tasks};

	return kapture_transaction_run(worker, "recording answers", record_do_settle, &settling);
}

/*
 * Records the outcome of one task; if that cannot be done, makes the task a failure with
 * the error as its reason, and records that.  A task for which even the failure cannot be
 * recorded is kept in memory only; if the process ends, its delivery is in doubt.
 */
static void
record_settle_one(Worker *worker, WorkerTask *task)
{
	dlist_head	one = DLIST_STATIC_INIT(one);
	ErrorData  *error;

	dlist_push_tail(&one, &task->node);
	error = record_settle(worker, &one);
	if (error && !kapture_guard_is_lock(error) && !kapture_guard_is_shortage(error) &&
		(!kapture_guard_will_pass(error) || worker->record_errors >= WORKER_PASSING_ERRORS))
	{
		kapture_transaction_report_error(KAPTURE_PHASE_RECORD, task->table, task->task.delivery->row_key, error);
		kapture_task_unrecorded(&task->task, error);
		FreeErrorData(error);
		error = record_settle(worker, &one);
	}
	if (error == NULL)
	{
		kapture_transaction_report_success(KAPTURE_PHASE_RECORD, task->table);
		kapture_queue_discard(worker, &one);
		return;
	}
	kapture_transaction_report_error(KAPTURE_PHASE_RECORD, task->table, task->task.delivery->row_key, error);
	FreeErrorData(error);
	kapture_queue_move(&one, &worker->unrecorded, NULL);
}

/*
 * Records tasks that could not be recorded together: somebody has locked what is to be
 * written (a kapture_detach() that is not committed), or one of them is to blame.  Each
 * table is tried separately, and then each row.  Tasks that cannot be recorded are kept for
 * a while.
 */
void
kapture_record_settle_apart(Worker *worker, dlist_head *tasks)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now;

	while (!dlist_is_empty(tasks))
	{
		dlist_head	its = DLIST_STATIC_INIT(its);
		ErrorData  *error;

		kapture_queue_move(tasks, &its, dlist_head_element(WorkerTask, node, tasks)->table);
		error = record_settle(worker, &its);
		if (error == NULL)
			kapture_queue_discard(worker, &its);
		else if (kapture_guard_is_lock(error))
			kapture_queue_move(&its, &worker->unrecorded, NULL);
		while (error && !dlist_is_empty(&its))
			record_settle_one(worker, dlist_container(WorkerTask, node, dlist_pop_head_node(&its)));
		if (error)
			FreeErrorData(error);
	}
	worker->record_errors = dlist_is_empty(&worker->unrecorded) ? 0 : worker->record_errors + 1;
	if (dlist_is_empty(&worker->unrecorded))
	{
		kapture_transaction_report_success(KAPTURE_PHASE_RECORD, NULL);
		return;
	}
	/* the longer this attempt took, the later is the next one */
	now = GetCurrentTimestamp();
	worker->next_record = TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY) + (now - began) * 10;
}

/* Returns when answers are to be recorded at the latest; DT_NOEND: there are none. */
TimestampTz
kapture_record_next(Worker *worker)
{
	if (worker->nanswered == 0)
		return DT_NOEND;
	return Max(worker->answer_not_before, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_RECORD_DELAY));
}

/* Keeps tasks that cannot be recorded now, to be tried again in a while. */
void
kapture_record_keep(Worker *worker, dlist_head *tasks)
{
	if (dlist_is_empty(tasks))
		return;
	kapture_queue_move(tasks, &worker->unrecorded, NULL);
	worker->next_record = Min(worker->next_record, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY));
}

/* Tries again to record what could not be recorded before. */
void
kapture_record_rest(Worker *worker)
{
	dlist_head	tasks = DLIST_STATIC_INIT(tasks);

	if (worker->next_record > GetCurrentTimestamp())
		return;
	worker->next_record = DT_NOEND;
	kapture_queue_move(&worker->unrecorded, &tasks, NULL);
	kapture_record_settle_apart(worker, &tasks);
}

/* Has rows wait that were parked for what turns out to be the account's matter. */
static void
record_release(Worker *worker, TimestampTz now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->servers)
		kapture_refusals_release(&dlist_container(WorkerServer, node, iter.cur)->refusals, now);
}

/* Processes the answers that were collected, and records the outcomes. */
static void
record_do(void *arg)
{
	Worker	   *worker = arg;
	dlist_head *settled = &worker->settled;
	TimestampTz now = GetCurrentTimestamp();

	record_lazily();
	record_follow(worker, &worker->answered, settled);
	while (!dlist_is_empty(&worker->answered))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&worker->answered));
		WorkerServer *server = task->server;

		record_take(task, now);
		kapture_refusals_judge(&server->refusals, &task->task, now);
		if (kapture_task_takes(&task->task) || kapture_task_is_held(&task->task) || kapture_task_reports(&task->task))
		{
			task->unchecked = true;
			dlist_push_tail(&worker->taking, &task->node);
		}
		else if (task->task.state == KAPTURE_TASK_SEND)
		{
			dlist_push_head(&server->ready, &task->node);
			server->nready++;
		}
		else
			dlist_push_tail(settled, &task->node);
		kapture_health_note(worker, task, now);
		if (server->pool.not_before > now)
			kapture_queue_take_back(server, now, settled);
	}
	kapture_sharing_settle(worker, settled, now);
	worker->nanswered = 0;
	worker->trouble = false;
	kapture_record_settle(worker, settled);
	record_release(worker, now);
}

/*
 * Records the outcomes of the answers that were collected.  After an error, tasks whose
 * answers were processed are recorded apart; if there are none, the answers wait for a
 * while.
 */
void
kapture_record(Worker *worker)
{
	ErrorData  *error = kapture_transaction_run(worker, "recording answers", record_do, worker);

	if (error)
	{
		kapture_transaction_report_error(KAPTURE_PHASE_RECORD, NULL, NULL, error);
		if (dlist_is_empty(&worker->settled))
			worker->answer_not_before = kapture_guard_is_lock(error) ?
				TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY) :
				kapture_transaction_retry_at(++worker->answer_errors);
		else
			kapture_record_settle_apart(worker, &worker->settled);
		FreeErrorData(error);
		return;
	}
	worker->answer_errors = 0;
	worker->answer_not_before = 0;
	kapture_queue_discard(worker, &worker->settled);
	kapture_transaction_report_success(KAPTURE_PHASE_RECORD, NULL);
}
