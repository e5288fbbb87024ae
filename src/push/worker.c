/*
 * worker.c
 *		The process that brings the changes of one database to Kapture.
 *
 * One loop, one process: claim rows (a transaction), send their requests, take answers as
 * they come, record what became of the rows (a transaction), wait.  No transaction is open
 * while a request is in flight.  This file decides when each step is due.  Servers and
 * tables are read by load.c, rows are claimed by claim.c, requests sent by send.c, and
 * their outcomes recorded by record.c.
 *
 * Everything that must survive is in tables: after a crash, the next worker finds the rows
 * that were 'sending' and goes on from there.
 *
 * An error ends neither the process nor work that has nothing to do with it (guard.c).  How
 * a part handles its errors is described there; an error that no part handles costs one
 * pass of the loop.
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "api/http.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/lock.h"
#include "base/user_code.h"
#include "calls/call_queue.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "push/call_sender.h"
#include "push/claim.h"
#include "push/followed.h"
#include "push/load.h"
#include "push/queue.h"
#include "push/record.h"
#include "push/send.h"
#include "push/server_health.h"
#include "push/transaction.h"
#include "push/worker.h"
#include "queue/delivery.h"
#include "queue/history.h"
#include "queue/scan.h"
#include "queue/vacuum.h"
#include "table/clock.h"
#include "traffic/limiter.h"
#include "traffic/pacing.h"

/* Milliseconds that a worker which has to end waits for answers. */
#define WORKER_FAREWELL		2000

static void
worker_do_expire(void *arg)
{
	Worker	   *worker = arg;

	worker->next_expiry = Min(kapture_history_expire(), kapture_call_queue_expire());
}

/* Removes a slice of history that is too old, when it is time for that. */
static void
worker_expire(Worker *worker)
{
	ErrorData  *error;

	if (worker->next_expiry > GetCurrentTimestamp() || !kapture_state_may_send(worker))
		return;
	error = kapture_transaction_run(worker, "expiring history", worker_do_expire, worker);
	if (error == NULL)
	{
		kapture_transaction_report_success(KAPTURE_PHASE_EXPIRE, NULL);
		return;
	}
	kapture_transaction_report_error(KAPTURE_PHASE_EXPIRE, NULL, NULL, error);
	worker->next_expiry = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  kapture_guard_is_lock(error) ? WORKER_LOCKED_LOOK : WORKER_ERROR_LONGEST);
	FreeErrorData(error);
}

/* Reports for kapture_status how far the worker is with each table, where that has changed. */
static void
worker_report_tables(Worker *worker)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);
		KaptureTableReport report = {0};

		if (!table->attached)
		{
			if (table->shown)
				kapture_shmem_withdraw_table(table->att->id);
			table->shown = false;
			continue;
		}
		report.floor = kapture_scan_floor(&table->scan);
		report.in_flight = table->ntasks;
		report.last_success = table->last_success;
		if (table->problem)
			strlcpy(report.problem, table->problem,
					pg_mbcliplen(table->problem, strlen(table->problem), sizeof(report.problem) - 1) + 1);
		if (table->shown && memcmp(&report, &table->said, sizeof(report)) == 0)
			continue;
		kapture_health_tell_room(kapture_shmem_report_table(table->att->id, kapture_turn_owner(&table->turn), &report));
		table->shown = true;
		table->said = report;
	}
}

/* Reports in pg_stat_activity what is in flight. */
static void
worker_report_activity(Worker *worker)
{
	KaptureActivity activity = {0};
	dlist_iter	iter;

	dlist_foreach(iter, &worker->servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (server->pool.running > 0)
			kapture_process_note_activity(&activity, "server \"%s\": %d in flight", server->name, server->pool.running);
	}
	if (kapture_calls_in_flight() > 0)
		kapture_process_note_activity(&activity, "calls of other modules: %d in flight", kapture_calls_in_flight());
	kapture_process_report_activity(&activity, "waiting for changes");
}

/* Returns when something is to be sent or claimed. */
static TimestampTz
worker_next_work(Worker *worker, TimestampTz now)
{
	TimestampTz next = Min(worker->next_record, Min(worker->next_safety_look, worker->next_expiry));
	dlist_iter	iter;

	dlist_foreach(iter, &worker->servers)
		next = Min(next, kapture_send_next(dlist_container(WorkerServer, node, iter.cur)));
	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);
		WorkerServer *server = table->server;

		/* nothing is claimed before attachments have been read */
		if (!table->present || table->att->paused || server->problem || !worker->loaded)
			continue;
		/* an outdated table is read first */
		if (!table->att->unfollowed && !table->stale)
			next = Min(next, Max(table->follow_at, kapture_turn_next(&table->turn)));
		/* without room, the next answer makes some */
		if ((table->look || table->next_due != DT_NOEND) &&
			kapture_claim_room(table, PG_INT64_MAX) > 0)
			next = Min(next, Max(Max(server->pool.not_before, kapture_turn_next(&table->turn)),
								 table->look ? now : table->next_due));
	}
	return next;
}

/* Returns the milliseconds until something is to be done without being woken; -1: nothing is. */
static long
worker_timeout(Worker *worker)
{
	TimestampTz next = kapture_load_next(worker);

	next = Min(next, Min(kapture_calls_next(worker), kapture_record_next(worker)));
	if (kapture_state_may_send(worker))
		next = Min(next, worker_next_work(worker, GetCurrentTimestamp()));
	return kapture_process_wait_until(next);
}

/*
 * Should changes of rows wake us?  Not if all tables are paused, nor if more is claimed
 * than can be sent: then the next answer wakes us.
 */
static bool
worker_listens(Worker *worker)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->present && table->att->paused)
			continue;
		if (!table->present || table->server->problem || kapture_claim_room(table, PG_INT64_MAX) > 0)
			return true;
	}
	return false;
}

/*
 * A transaction that was running when the outbox was read should wake us when it commits,
 * but its session may end before it does so.  So we look again by ourselves, and stop doing
 * so only once no such transaction was running.
 */
static void
worker_safety_look(Worker *worker)
{
	TimestampTz now;
	dlist_iter	iter;
	bool		unfinished = false;

	dlist_foreach(iter, &worker->tables)
		unfinished |= dlist_container(WorkerTable, node, iter.cur)->scan.nseen > 0;
	if (!unfinished)
	{
		worker->next_safety_look = DT_NOEND;
		return;
	}
	now = GetCurrentTimestamp();
	if (worker->next_safety_look <= now)
	{
		kapture_state_look(worker);
		worker->next_safety_look = DT_NOEND;
	}
	if (worker->next_safety_look == DT_NOEND)
		worker->next_safety_look = TimestampTzPlusMilliseconds(now, WORKER_SAFETY_LOOK);
}

/* Waits for the answers to requests in flight, for WORKER_FAREWELL at most. */
static void
worker_await_answers(Worker *worker)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_FAREWELL);

	for (;;)
	{
		long		rest = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			in_flight = kapture_calls_in_flight();
		dlist_iter	iter;

		kapture_record_collect(worker);
		dlist_foreach(iter, &worker->servers)
			in_flight += dlist_container(WorkerServer, node, iter.cur)->pool.running;
		if (in_flight == 0 || rest <= 0)
			break;
		(void) kapture_http_wait(rest, WaitEventExtensionNew("KaptureWorkerMain"));
	}
}

/*
 * Records the answers to what was sent, and puts unsent rows back, so that no row is in
 * doubt without need, or waits until the next worker's timeout.
 */
static void
worker_wind_up(void *arg)
{
	Worker	   *worker = arg;
	dlist_iter	iter;

	worker_await_answers(worker);
	kapture_calls_record(worker);
	if (worker->nanswered > 0)
		kapture_record(worker);
	dlist_foreach(iter, &worker->servers)
		kapture_queue_take_back(dlist_container(WorkerServer, node, iter.cur), GetCurrentTimestamp(), &worker->settled);
	kapture_queue_move(&worker->unrecorded, &worker->settled, NULL);
	kapture_record_settle_apart(worker, &worker->settled);
}

/* Moves the times in tables when the clock was set. */
static void
worker_shift(int64 jump)
{
	kapture_delivery_shift(jump);
	kapture_call_queue_shift(jump);
}

/*
 * If users' code ends the process, rows that were sent for others are not left in doubt,
 * and unsent rows need not wait until the next worker's timeout.  No users' code is run
 * here.
 */
static void
worker_exit_callback(int code, Datum arg)
{
	Worker	   *worker = (Worker *) DatumGetPointer(arg);
	Oid			owner;

	worker->blame = kapture_clock_blame(code, &owner, &worker->blamed);
	if (worker->blame == KAPTURE_BLAME_NONE)
		return;
	if (worker->blame == KAPTURE_BLAME_ENDLESS)
		ereport(LOG,
				(errmsg("kapture_sync: a trigger, check or function of an attached table in database \"%s\" took no notice of being cancelled; the worker ends for it",
						kapture_process_database())));
	else if (worker->blame == KAPTURE_BLAME_MEMORY)
		ereport(LOG,
				(errmsg("kapture_sync: functions of an attached table in database \"%s\" take too much memory; the worker ends for it",
						kapture_process_database())));
	else
		ereport(LOG,
				(errmsg("kapture_sync: a trigger, check or function of an attached table in database \"%s\" raised a FATAL error; the worker ends for it",
						kapture_process_database())));
	worker->leaving = true;
	AbortOutOfAnyTransaction();
	/* an exit runs no PG_CATCH block: from here on, that code is not running any more */
	kapture_user_code_enter_process();
	kapture_lock_renew();
	MemoryContextSwitchTo(worker->context);
	worker_wind_up(worker);
}

/* Connects, takes the slot, and finds out whether there is work in this database. */
static Worker *
worker_initialize(Datum arg)
{
	Worker	   *worker = kapture_state_create(kapture_process_initialize(arg, KAPTURE_PUSHER));

	kapture_limiter_enter_process(KAPTURE_LIMITER_WORKER);
	kapture_queue_create(worker);
	kapture_load_watch(worker);
	if (!kapture_load(worker))
		kapture_process_exit(KAPTURE_EXIT_ABSENT);
	kapture_process_count();
	kapture_process_lock_database();
	before_shmem_exit(worker_exit_callback, PointerGetDatum(worker));
	worker->alone = true;
	/* read all again, to recover what another worker has left */
	worker->stale = worker->look_all = true;
	worker->loaded = false;
	worker->load_not_before = 0;
	return worker;
}

/* Does once all that there is to do, and waits for more. */
static void
worker_pass(void *arg)
{
	Worker	   *worker = arg;
	long		timeout;
	bool		reloaded;
	bool		woken;

	kapture_process_take_in(&reloaded, &woken);
	KAPTURE_FAULT_ROW("pass", NULL);
	if (reloaded)
	{
		worker->stale = worker->look_all = true;	/* the excluded databases may have changed */
		worker->load_not_before = 0;
		worker->next_expiry = 0;	/* and so may the retention of the history */
	}
	if (woken)
	{
		kapture_state_look_changed(worker);
		kapture_calls_look();
	}
	kapture_send_ask_limiter(worker);
	kapture_calls_ask_limiter();
	if (kapture_load_is_due(worker) && !kapture_load(worker))
		kapture_process_exit(KAPTURE_EXIT_ABSENT);
	kapture_process_follow_clock(worker->outdated ? NULL : worker_shift, worker_wind_up, worker);

	/* connections are kept busy before answers are recorded, and meanwhile */
	kapture_record_collect(worker);
	if (worker->trouble && kapture_record_is_due(worker))
		kapture_record(worker);
	kapture_send(worker);
	worker_safety_look(worker);
	kapture_followed_find(worker);
	kapture_claim(worker);
	kapture_send(worker);
	kapture_calls_record(worker);
	kapture_calls_claim(worker);
	kapture_send(worker);
	worker_expire(worker);
	kapture_record_rest(worker);
	if (kapture_record_is_due(worker))
	{
		kapture_record(worker);
		kapture_vacuum_run();
		return;
	}

	worker_report_tables(worker);
	timeout = worker_timeout(worker);
	if (timeout != 0 && kapture_shmem_worker_listen(worker_listens(worker)))
	{
		worker_report_activity(worker);
		timeout = kapture_process_timeout(timeout);
	}
	else
		timeout = 0;			/* no wait, but answers are taken in */
	(void) kapture_http_wait(timeout, WaitEventExtensionNew("KaptureWorkerMain"));
}

/* Has everything looked at after an error outside of the steps that have a guard of their own. */
static void
worker_look_again(void *arg)
{
	Worker	   *worker = arg;

	kapture_state_look(worker);
	kapture_calls_look();
	worker->stale = worker->look_all = true;
	worker->loaded = false;
}

static int64
worker_backoff(int errors)
{
	return kapture_pacing_backoff(errors, WORKER_ERROR_LONGEST);
}

/*
 * A worker's main function, called by the postmaster; the launcher has put
 * slot, database and generation into the arguments.
 */
void
kapture_worker_main(Datum arg)
{
	static const KaptureProcessLoop loop = {worker_pass, worker_look_again, worker_backoff, "KaptureWorkerMain", worker_wind_up};

	kapture_process_run_loop(&loop, worker_initialize(arg));
}
