/*
 * claim.c
 *		Takes changes from the outbox and plans what to request for them.
 *
 * After an error, the transaction is rolled back, and the claim's tasks are dropped from
 * memory.  The next claims of the table get smaller, until the row that raises the error is
 * alone; then that row is parked.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "cluster/guard.h"
#include "known/digest.h"
#include "known/row_state.h"
#include "push/claim.h"
#include "push/load.h"
#include "push/queue.h"
#include "push/record.h"
#include "push/server_health.h"
#include "push/sharing.h"
#include "push/transaction.h"
#include "queue/delivery.h"
#include "queue/outbox.h"
#include "queue/scan.h"
#include "table/caches.h"
#include "table/row_io.h"
#include "traffic/pacing.h"

/* Rows claimed ahead of those being sent, if that is worthwhile. */
#define CLAIM_AHEAD		256

/* Milliseconds of claiming, after which answers are processed first. */
#define CLAIM_TIME		100

/*
 * After so many out-of-memory errors in a row, which take some minutes, the row is taken
 * for the cause.
 */
#define CLAIM_MEMORY_ERRORS 10

/*
 * Returns how many rows to claim for a server ahead of those it is being sent: enough to
 * make transactions worth their while, few enough to leave time to others.  After a crash,
 * each claimed row has to be searched for, as if it had been sent.
 */
static int
claim_ahead(WorkerServer *server)
{
	int			connections = kapture_health_connections(server);
	int			ahead = connections > 1 ? Min(connections * 8, Max(connections * 2, CLAIM_AHEAD)) : 1;

	/* no more than the server takes in a second or two */
	if (server->rate_limit > 0)
		ahead = Min(ahead, (int) Max(server->rate_limit * 2, 1));
	return Min(ahead, WORKER_MAX_BATCH);
}

/* Returns how many more rows to claim for a server. */
static int
claim_server_room(WorkerServer *server, TimestampTz now)
{
	int			ahead = claim_ahead(server);

	if (server->problem || server->pool.not_before > now)
		return 0;

	/* a claim of few rows costs as much of a transaction as one of many */
	if (server->nready > ahead / 2)
		return 0;
	return ahead - server->nready + Max(kapture_health_connections(server) - server->pool.running, 0);
}

/*
 * Returns how many more rows of a table to claim by "now": fewer if its rows are slow or
 * large.
 */
int
kapture_claim_room(WorkerTable *table, TimestampTz now)
{
	int			room = Min(claim_server_room(table->server, now), kapture_turn_rows(&table->turn));
	Size		bytes = kapture_share_room(table->turn.share);

	if (room <= 0 || bytes == 0)
		return 0;
	return table->row_bytes > 0 ? (int) Max(Min(room, bytes / table->row_bytes), 1) : room;
}

/* Reads the rows of deliveries, and notes by which phone and email an Add of each could be found. */
static void
claim_read_rows(WorkerTable *table, List *deliveries)
{
	TimestampTz began = GetCurrentTimestamp();
	List	   *rows = NIL;
	Size		bytes = 0;
	ListCell   *lc;

	if (deliveries == NIL)
		return;
	foreach(lc, deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);

		if (!delivery->gone)
			rows = lappend(rows, &delivery->row);
	}
	if (kapture_share_is_spent(table->turn.share))
		kapture_queue_put_off(rows);
	else if (rows != NIL)
	{
		kapture_row_read(table->att, table->server->timezone, rows, GetActiveSnapshot());
		kapture_turn_charge(&table->turn, began, list_length(rows));
	}
	foreach(lc, deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);

		bytes += delivery->row.bytes;
		/* an earlier attempt may have lost an Add, whose phone and email are kept */
		if (!delivery->gone && (!delivery->claimed || delivery->attempts == 1) &&
			delivery->row.outcome == KAPTURE_ROW_DONE && delivery->row.customer_id == 0)
			kapture_task_identify(table->att, delivery, table->server->add_is_upsert);
	}
	table->row_bytes = rows ? bytes / list_length(rows) : 0;
	list_free(rows);
}

/* A claim of rows of a table. */
typedef struct WorkerClaim
{
	WorkerTable *table;
	int			room;
	TimestampTz now;
	int			nrows;			/* rows that were taken from the queue */
	const char *row_key;		/* key of the row, if nrows is 1 */
	bool		done;			/* not put off because the table was locked or had changed */
	MemoryContext context;		/* owns the deliveries until the claim has succeeded */
	List	   *deliveries;		/* of rows whose next try is due */
	List	   *changes;		/* of changed rows */
	List	   *tasks;			/* tasks made of these deliveries so far */
	dlist_head	ready;			/* tasks whose request is to be sent */
	dlist_head	settled;		/* tasks that need no request */
	dlist_head	moved;			/* earlier tasks whose row was deleted */
} WorkerClaim;

/* Deliveries whose tasks are planned together. */
typedef struct WorkerPlan
{
	List	   *deliveries;
	TimestampTz now;
} WorkerPlan;

static void
claim_do_plan(void *arg)
{
	WorkerPlan *plan = arg;
	ListCell   *lc;

	foreach(lc, plan->deliveries)
	{
		KaptureTask *task = &((WorkerTask *) ((KaptureDelivery *) lfirst(lc))->worker)->task;

		kapture_task_plan(task, plan->now);
		KAPTURE_TRACE(task, "plan");
	}
}

/* Makes the task of a claimed row. */
static void
claim_prepare(Worker *worker, WorkerClaim *claim, KaptureDelivery *delivery)
{
	MemoryContext old = MemoryContextSwitchTo(claim->context);

	claim->tasks = lappend(claim->tasks, kapture_queue_make_task(worker, claim->table, delivery));
	MemoryContextSwitchTo(old);
	/* while the delivery waited, the database that this one is a copy of may have sent it */
	if (delivery->attempts == 1 && delivery->in_doubt == 0 && delivery->captured_at <= worker->origin.doubt_until)
		delivery->in_doubt = claim->now;
	kapture_queue_excuse(worker, claim->table, delivery);
}

/*
 * Plans the first requests of claimed rows and queues them.  A row for which no request can
 * be made is parked.
 */
static void
claim_plan(Worker *worker, WorkerClaim *claim, List *deliveries)
{
	WorkerPlan	plan = {deliveries, claim->now};
	ErrorData  *error;
	ListCell   *lc;

	if (deliveries == NIL)
		return;
	foreach(lc, deliveries)
		claim_prepare(worker, claim, lfirst(lc));
	error = kapture_guard_step(claim_do_plan, &plan);
	foreach(lc, deliveries)
	{
		WorkerTask *task = ((KaptureDelivery *) lfirst(lc))->worker;

		if (error)
		{
			ErrorData  *own;

			plan.deliveries = list_make1(lfirst(lc));
			own = kapture_guard_step(claim_do_plan, &plan);
			if (own)
				kapture_task_park(&task->task, own);
		}
		dlist_push_tail(task->task.state == KAPTURE_TASK_SEND ? &claim->ready : &claim->settled, &task->node);
	}
}

/*
 * Claims rows whose next try is due.  Those that are due only because their server is well
 * again leave room for changes that were not tried yet.
 */
static void
claim_due(WorkerClaim *claim)
{
	WorkerTable *table = claim->table;
	int			limit = table->well_since != 0 && table->look ? Max(claim->room / 2, 1) : claim->room;

	kapture_delivery_claim_due(table->att->id, limit, claim->now, table->well_since, table->worker->origin.doubt_until,
							   &claim->deliveries);
	if (list_length(claim->deliveries) < limit)
		table->well_since = 0;
	table->next_due = table->well_since != 0 ? claim->now : kapture_delivery_next_due(table->att->id);
	/* somebody has locked the row that is due */
	if (list_length(claim->deliveries) < limit && table->next_due <= claim->now)
		table->next_due = TimestampTzPlusMilliseconds(claim->now, KAPTURE_LOCKED_RETRY);
}

/* Takes as many rows from the queue as there is room for. */
static void
claim_take(WorkerClaim *claim)
{
	WorkerTable *table = claim->table;
	MemoryContext transaction = MemoryContextSwitchTo(claim->context);
	bool		fresh = table->look && table->server->refusals.wants_fresh &&
		(table->server->refusals.is_holding || table->server->health == KAPTURE_STATE_THROTTLED);
	bool		more = false;

	/* the probes of a server that is only probed are refused rows and untried ones in turn */
	if (table->next_due <= claim->now && !fresh)
		claim_due(claim);
	if (table->look && list_length(claim->deliveries) < claim->room)
	{
		if (!table->scan.running)
			table->fresh = false;	/* a new pass sees all that is committed now */
		kapture_outbox_take(table->att->id, &table->scan,
							claim->room - list_length(claim->deliveries), &claim->changes, &more);
		table->look = more || table->fresh;
	}
	if (fresh && claim->changes == NIL && table->next_due <= claim->now)
		claim_due(claim);
	claim->nrows = list_length(claim->deliveries) + list_length(claim->changes);
	if (claim->nrows == 1)
		claim->row_key = pstrdup(((KaptureDelivery *) linitial(claim->deliveries ? claim->deliveries : claim->changes))->row_key);
	MemoryContextSwitchTo(transaction);
}

/* Puts off claims of a table that somebody has locked. */
static void
claim_later(WorkerTable *table, TimestampTz now)
{
	table->turn.at = Max(table->turn.at, TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY));
}

/* Claims rows and plans their first requests. */
static void
claim_do(void *arg)
{
	WorkerClaim *claim = arg;
	WorkerTable *table = claim->table;
	Worker	   *worker = table->worker;
	List	   *adds = NIL;
	ListCell   *lc;
	MemoryContext transaction;

	kapture_caches_open(table->att->root);
	claim->now = GetCurrentTransactionStartTimestamp(); /* SQL's now() */
	if (!kapture_state_hold(table))
	{
		if (!table->stale)
			claim_later(table, claim->now);
		return;
	}
	kapture_queue_follow(worker, table, &claim->moved);
	claim_take(claim);
	claim_read_rows(table, claim->deliveries);
	claim_read_rows(table, claim->changes);
	transaction = MemoryContextSwitchTo(claim->context);
	claim->changes = kapture_delivery_claim(claim->changes, worker->origin.doubt_until);
	MemoryContextSwitchTo(transaction);

	kapture_digest_load_key();
	kapture_row_state_forget_written();
	kapture_row_state_load(claim->deliveries);
	kapture_row_state_load(claim->changes);
	claim_plan(worker, claim, claim->deliveries);
	foreach(lc, claim->deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);
		KaptureTask *task = &((WorkerTask *) delivery->worker)->task;

		/* an Add of a changed row may have another phone and email; for a new row, none were noted yet */
		if (delivery->attempts == 1 || (task->state == KAPTURE_TASK_SEND && task->step == KAPTURE_STEP_ADD))
			adds = lappend(adds, delivery);
	}
	kapture_delivery_note_adds(adds);
	claim_plan(worker, claim, claim->changes);
	kapture_sharing_check_reports(worker, &claim->ready, &claim->settled, claim->now);
	kapture_record_settle(worker, &claim->settled);
	kapture_record_settle(worker, &claim->moved);
	claim->done = true;
}

/* Gives the claimed rows to the worker, as they outlive the claim. */
static void
claim_adopt(Worker *worker, List *deliveries)
{
	ListCell   *lc;

	foreach(lc, deliveries)
		MemoryContextSetParent(((KaptureDelivery *) lfirst(lc))->context, worker->context);
}

/* Drops the tasks of a failed claim; some may be in no list yet. */
static void
claim_drop(Worker *worker, WorkerClaim *claim)
{
	dlist_head	tasks = DLIST_STATIC_INIT(tasks);
	ListCell   *lc;

	foreach(lc, claim->tasks)
		dlist_push_tail(&tasks, &((WorkerTask *) lfirst(lc))->node);
	kapture_queue_discard(worker, &tasks);
	dlist_init(&claim->ready);
	dlist_init(&claim->settled);
}

/* Queues the tasks of a claim that has succeeded. */
static void
claim_end(Worker *worker, WorkerClaim *claim)
{
	WorkerTable *table = claim->table;

	kapture_queue_discard(worker, &claim->moved);
	claim_adopt(worker, claim->deliveries);
	claim_adopt(worker, claim->changes);
	while (!dlist_is_empty(&claim->ready))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&claim->ready));

		dlist_push_tail(&task->server->ready, &task->node);
		task->server->nready++;
	}
	if (!claim->done)
		return;
	kapture_turn_went_well(&table->turn);
	/* a condition that has failed is only tried again later, and shows until then */
	if (table->follow_errors == 0)
		kapture_transaction_report_success(KAPTURE_PHASE_CLAIM, table);
}

/* Has a table's queue read from the start again, as what the failed claim had read is back in it. */
static void
claim_rewind(WorkerTable *table)
{
	kapture_scan_init(&table->scan);
	table->look = table->fresh = true;
	table->next_due = DT_NOBEGIN;
}

/* A row that cannot be claimed, and why. */
typedef struct WorkerPoison
{
	WorkerTable *table;
	const char *row_key;
	const char *message;
	MemoryContext context;
	dlist_head	moved;
	bool		parked;
	bool		other;			/* another row comes first by now, so this one was not parked */
} WorkerPoison;

/* Parks the row, if it is still the next one that is due or was changed. */
static void
claim_do_park(void *arg)
{
	WorkerPoison *poison = arg;
	WorkerTable *table = poison->table;
	Worker	   *worker = table->worker;
	List	   *changes = NIL;
	bool		more;
	MemoryContext transaction;

	kapture_queue_follow(worker, table, &poison->moved);
	poison->parked = kapture_delivery_park_due(table->att->id, poison->row_key, poison->message);
	if (!poison->parked)
	{
		transaction = MemoryContextSwitchTo(poison->context);
		kapture_outbox_take(table->att->id, &table->scan, 1, &changes, &more);
		MemoryContextSwitchTo(transaction);
		poison->parked = list_length(changes) == 1 &&
			strcmp(((KaptureDelivery *) linitial(changes))->row_key, poison->row_key) == 0;
		poison->other = changes != NIL && !poison->parked;
		if (poison->parked)
			kapture_delivery_park(linitial(changes), worker->origin.doubt_until, poison->message);
		else if (poison->other)
			elog(ERROR, "another row comes first by now");	/* roll back, to put the other row back */
	}
	kapture_record_settle(worker, &poison->moved);
	if (!poison->parked)
		return;
	kapture_alert_note(&table->outcomes, true);
	kapture_record_alert(worker);
}

/* Parks a row that cannot be claimed.  Returns false if it cannot be parked either. */
static bool
claim_park(Worker *worker, WorkerTable *table, const char *row_key, const ErrorData *cause)
{
	WorkerPoison poison = {.table = table,.row_key = row_key};
	ErrorData  *error;

	dlist_init(&poison.moved);
	poison.context = AllocSetContextCreate(worker->context, "kapture_sync parked row", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(poison.context);
	poison.message = kapture_guard_message(cause);
	MemoryContextSwitchTo(worker->context);
	error = kapture_transaction_run(worker, "parking a row", claim_do_park, &poison);
	claim_rewind(table);
	if (error)
	{
		if (!poison.other)
			kapture_transaction_report_error(KAPTURE_PHASE_CLAIM, table, row_key, error);
		FreeErrorData(error);
		kapture_record_keep(worker, &poison.moved);
	}
	kapture_queue_discard(worker, &poison.moved);
	MemoryContextDelete(poison.context);
	return error == NULL;
}

/*
 * Remembers the row that could not be claimed (NULL: not known which), so that it is tried
 * once more.  Returns false if that was its second try.
 */
static bool
claim_suspect(Worker *worker, WorkerTable *table, const char *row_key)
{
	bool		again = table->suspect && row_key && strcmp(table->suspect, row_key) == 0;

	if (table->suspect)
		pfree(table->suspect);
	table->suspect = row_key && !again ? MemoryContextStrdup(worker->context, row_key) : NULL;
	return row_key && !again;
}

/*
 * Returns how many errors like this one in a row are not yet blamed on a row.  A full disk
 * and other shortages never are, but memory may run out because of one large row.
 */
static int
claim_patience(const ErrorData *error)
{
	if (error->sqlerrcode == ERRCODE_OUT_OF_MEMORY)
		return CLAIM_MEMORY_ERRORS;
	return kapture_guard_is_shortage(error) ? PG_INT32_MAX : WORKER_PASSING_ERRORS;
}

/* Handles a failed claim: the next claims get smaller, until the row that is to blame is parked. */
static void
claim_fail(Worker *worker, WorkerClaim *claim, const ErrorData *error)
{
	WorkerTable *table = claim->table;
	bool		will_pass = kapture_guard_will_pass(error) && table->turn.errors < claim_patience(error);

	claim_rewind(table);
	if (kapture_guard_is_lock(error))
	{
		/* the claim is tried again when the lock may be gone */
		claim_later(table, GetCurrentTimestamp());
		return;
	}
	kapture_transaction_report_error(KAPTURE_PHASE_CLAIM, table, claim->row_key, error);
	if (claim->nrows > 1 && !will_pass)
		table->turn.limit = claim->nrows / 2;
	else if (claim_suspect(worker, table, claim->row_key) && !will_pass)
		table->turn.limit = 1;
	else if (claim->row_key == NULL || will_pass ||
			 !claim_park(worker, table, claim->row_key, error))
		table->turn.not_before = kapture_transaction_retry_at(++table->turn.errors);
}

/* Claims rows of a table and queues their first requests. */
static void
claim_table(Worker *worker, WorkerTable *table, int room)
{
	WorkerClaim claim = {.table = table,.room = room};
	TimestampTz began = GetCurrentTimestamp();
	int64		served = table->turn.share->served;
	ErrorData  *error;

	dlist_init(&claim.ready);
	dlist_init(&claim.settled);
	dlist_init(&claim.moved);
	claim.context = AllocSetContextCreate(worker->context, "kapture_sync claim", ALLOCSET_SMALL_SIZES);
	error = kapture_transaction_run(worker, "claiming changes", claim_do, &claim);
	if (error == NULL)
		claim_end(worker, &claim);
	else
	{
		claim_drop(worker, &claim);
		kapture_record_keep(worker, &claim.moved);
		claim_fail(worker, &claim, error);
		FreeErrorData(error);
	}
	kapture_queue_discard(worker, &claim.settled);
	MemoryContextDelete(claim.context);
	/* charge the owner for the rest of the claim's time, too */
	kapture_turn_charge_rest(&table->turn, began + Max(table->turn.share->served - served, 0), claim.nrows);
}

/* Reads a table anew if it may have changed.  Returns whether changes may be claimed from it. */
static bool
claim_refresh(WorkerTable *table, TimestampTz now)
{
	bool		fit;

	if (!table->stale)
		return true;
	fit = kapture_load_refresh(table);
	kapture_turn_charge_rest(&table->turn, now, 1);
	if (!fit)
		claim_later(table, now);
	return fit;
}

/*
 * Returns the table to claim from next, and in *room for how many rows: of those whose turn
 * it is, one of the owner who had the least so far.  NULL: this round is over.
 */
static WorkerTable *
claim_next_table(Worker *worker, int *room, TimestampTz now)
{
	WorkerTable *next = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (!table->present || table->att->paused || table->turn.round == worker->round ||
			!(table->look || table->next_due <= now) || kapture_turn_next(&table->turn) > now)
			continue;
		if (next && !kapture_turn_comes_before(&table->turn, &next->turn))
			continue;
		if ((*room = kapture_claim_room(table, now)) > 0)
			next = table;
	}
	if (next)
		*room = kapture_claim_room(next, now);
	return next;
}

/* Claims waiting rows, as far as there is room and time for them. */
void
kapture_claim(Worker *worker)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;
	WorkerTable *table;
	int			room;

	if (!kapture_state_may_send(worker) || !worker->loaded)
		return;
	worker->round++;
	while (now < TimestampTzPlusMilliseconds(began, CLAIM_TIME) &&
		   (table = claim_next_table(worker, &room, now)) != NULL)
	{
		kapture_turn_begin(&table->turn, worker->round);
		if (claim_refresh(table, now))
			claim_table(worker, table, room);
		now = GetCurrentTimestamp();
	}
}
