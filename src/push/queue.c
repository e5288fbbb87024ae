/*
 * queue.c
 *		The tasks of claimed rows, as the worker has them in memory.
 *
 * A task is made of a claimed row, moves from list to list as its requests are sent
 * and answered, follows its row to other keys, and is dropped once its outcome is
 * recorded.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"

#include "known/row_state.h"
#include "push/queue.h"
#include "queue/delivery.h"
#include "queue/key_moves.h"
#include "table/row_io.h"

/* Finds the claimed delivery with an id. */
typedef struct WorkerDelivery
{
	int64		delivery_id;	/* hash key */
	KaptureDelivery *delivery;
} WorkerDelivery;

/* Counts how often code of a table has asked for another try of one of its rows. */
typedef struct WorkerRaised
{
	int64		delivery_id;	/* hash key */
	int			times;
} WorkerRaised;

/* A row is parked after so many such tries, a second apart; and so many rows are counted at a time. */
#define QUEUE_RAISED_MAX	15
#define QUEUE_RAISED_ROWS	1024

/* Creates the worker's hash tables for claimed rows; they live as long as the worker. */
void
kapture_queue_create(Worker *worker)
{
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(WorkerDelivery),.hcxt = worker->context};
	HASHCTL		raised = {.keysize = sizeof(int64),.entrysize = sizeof(WorkerRaised),.hcxt = worker->context};

	worker->deliveries = hash_create("kapture_sync claimed rows", WORKER_MAX_BATCH, &ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	worker->raised = hash_create("kapture_sync rows that are to be tried again", QUEUE_RAISED_ROWS, &raised,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Makes a task of a claimed row, in the memory of the delivery. */
WorkerTask *
kapture_queue_make_task(Worker *worker, WorkerTable *table, KaptureDelivery *delivery)
{
	WorkerTask *task = MemoryContextAllocZero(delivery->context, sizeof(WorkerTask));

	task->server = table->server;
	task->server->ntasks++;
	task->table = table;
	task->share = table->turn.share;
	kapture_share_keep(task->share);
	task->bytes = delivery->row.bytes;
	kapture_share_hold(task->share, task->bytes);
	task->task.delivery = delivery;
	task->task.att = table->att;
	task->task.timeout = table->server->timeout;
	task->task.check_rows = table->server->check_rows;
	task->task.add_is_upsert = table->server->add_is_upsert;
	delivery->worker = task;
	table->ntasks++;
	((WorkerDelivery *) hash_search(worker->deliveries, &delivery->delivery_id, HASH_ENTER, NULL))->delivery = delivery;
	return task;
}

/* Forgets tasks whose outcome is recorded, or cannot be recorded. */
void
kapture_queue_discard(Worker *worker, dlist_head *tasks)
{
	while (!dlist_is_empty(tasks))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(tasks));
		WorkerTable *table = task->table;

		(void) hash_search(worker->deliveries, &task->task.delivery->delivery_id, HASH_REMOVE, NULL);
		kapture_share_release(task->share, task->bytes);
		kapture_share_leave(task->share);
		task->server->ntasks--;
		MemoryContextDelete(task->task.delivery->context);
		table->ntasks--;
		kapture_state_free_retired(table);
		if (table->ntasks == 0 && !table->attached)
			worker->stale = true;	/* the table can be forgotten */
	}
}

/* Moves the tasks of a table, or all (NULL), to the end of another list. */
void
kapture_queue_move(dlist_head *from, dlist_head *to, WorkerTable *table)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, from)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, iter.cur);

		if (table && task->table != table)
			continue;
		dlist_delete(&task->node);
		dlist_push_tail(to, &task->node);
	}
}

/* Notes that the row of a claimed delivery has got another key, or was deleted. */
static void
queue_note_moved(KaptureDelivery *delivery, const KaptureMoved *moved, dlist_head *settled, TimestampTz now)
{
	WorkerTask *task = delivery->worker;

	delivery->place = moved->place;
	delivery->gone = moved->row_key == NULL;
	if (moved->row_key)
		delivery->row.row_key = delivery->row_key = MemoryContextStrdup(delivery->context, moved->row_key);
	else if (task->task.state == KAPTURE_TASK_SEND && task->task.request == NULL)
	{
		/* a request that has not left yet is not sent any more */
		dlist_delete(&task->node);
		if (!task->unchecked)
			task->server->nready--;
		task->unchecked = false;
		task->task.state = KAPTURE_TASK_RELEASE;
		task->task.next_attempt = now;
		KAPTURE_TRACE(&task->task, "leave");
		dlist_push_tail(settled, &task->node);
	}
}

/*
 * Follows the key changes and deletions in a table that are committed by now.  To be called
 * before rows are read or written under the same snapshot.  Tasks that are not to be sent
 * any more are appended to *settled.
 */
void
kapture_queue_follow(Worker *worker, WorkerTable *table, dlist_head *settled)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	MemoryContext old = MemoryContextSwitchTo(worker->context);
	bool		waiting = false;
	bool		gone = false;
	ListCell   *lc;

	worker->followed = lappend(worker->followed, table);
	MemoryContextSwitchTo(old);
	foreach(lc, kapture_moves_follow(table->att, &table->keys, &table->scan, &waiting,
									 kapture_row_state_follow, &gone))
	{
		KaptureMoved *moved = lfirst(lc);
		WorkerDelivery *found = hash_search(worker->deliveries, &moved->delivery_id, HASH_FIND, NULL);

		if (found)
			queue_note_moved(found->delivery, moved, settled, now);
	}
	if (waiting)
		table->next_due = Min(table->next_due, now);
	if (gone)
		kapture_queue_hurry(worker, kapture_row_state_release_orphaned(), now);
}

/* Returns the next task of a walk over worker->deliveries; NULL: there are no more. */
WorkerTask *
kapture_queue_next(HASH_SEQ_STATUS *status)
{
	WorkerDelivery *entry = hash_seq_search(status);

	return entry ? entry->delivery->worker : NULL;
}

/* Has tables (ids of attachments) looked for deliveries that have become due. */
void
kapture_queue_hurry(Worker *worker, List *attachments, TimestampTz now)
{
	ListCell   *lc;

	foreach(lc, attachments)
	{
		WorkerTable *table = kapture_state_find_table(worker, lfirst_int(lc));

		if (table)
			table->next_due = Min(table->next_due, now);
	}
}

/* Takes the unsent tasks back from a server that is to be left alone; they are appended to *settled. */
void
kapture_queue_take_back(WorkerServer *server, TimestampTz now, dlist_head *settled)
{
	while (!dlist_is_empty(&server->ready))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&server->ready));

		server->nready--;
		task->task.state = KAPTURE_TASK_RELEASE;
		task->task.next_attempt = now;
		KAPTURE_TRACE(&task->task, "take_back");
		dlist_push_tail(settled, &task->node);
	}
}

/* Puts rows off, as those of other owners come first. */
void
kapture_queue_put_off(List *rows)
{
	ListCell   *lc;

	foreach(lc, rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_LOCKED;
}

/*
 * Code of a table may ask for another try of its row for ever, as if the row was locked.
 * Has it asked so often that the row is to be parked?
 */
static bool
queue_has_raised_enough(Worker *worker, const KaptureDelivery *delivery)
{
	bool		full = hash_get_num_entries(worker->raised) >= QUEUE_RAISED_ROWS;
	bool		found;
	WorkerRaised *entry;

	if (delivery->row.outcome != KAPTURE_ROW_LOCKED || !delivery->row.raised)
		return false;
	/* if the hash table is full, a row is counted only once others have been parked */
	entry = hash_search(worker->raised, &delivery->delivery_id, full ? HASH_FIND : HASH_ENTER, &found);
	if (entry == NULL)
		return false;
	entry->times = found ? entry->times + 1 : 1;
	if (entry->times < QUEUE_RAISED_MAX)
		return false;
	kapture_queue_forget_raised(worker, delivery);
	return true;
}

/*
 * Corrects the outcome of a row.  One that failed while its table may look different is not
 * at fault, unless it took too long: it is tried again like a locked row.  One that code of
 * its table has had tried again too often has failed.
 */
void
kapture_queue_excuse(Worker *worker, const WorkerTable *table, KaptureDelivery *delivery)
{
	KaptureRow *row = &delivery->row;

	if (row->outcome == KAPTURE_ROW_FAILED && !row->slow && kapture_state_is_outdated(table))
		row->outcome = KAPTURE_ROW_LOCKED;
	else if (queue_has_raised_enough(worker, delivery))
		row->outcome = KAPTURE_ROW_FAILED;
}

/* Forgets how often a row was tried again, when it is finished or parked. */
void
kapture_queue_forget_raised(Worker *worker, const KaptureDelivery *delivery)
{
	if (hash_get_num_entries(worker->raised) > 0)
		(void) hash_search(worker->raised, &delivery->delivery_id, HASH_REMOVE, NULL);
}
