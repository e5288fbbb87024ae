/*
 * sharing.c
 *		One customer, one row: a row is not linked to a customer that another row has.
 *
 * Rows that share a phone or email would take turns in overwriting one customer.  So
 * what a row would be linked to is looked up among the rows that have customers
 * (kapture_row), and among those that are just getting one.  It is asked for after an
 * answer has named the customer, and before anything is sent to it or recorded.
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "known/row_state.h"
#include "push/queue.h"
#include "push/sharing.h"
#include "table/row_io.h"
#include "table/row_sql.h"

/* Is it a row of the task's account? */
static bool
sharing_same_server(const WorkerTask *task, const WorkerTable *table)
{
	return table != NULL && table->attached && strcmp(table->server->name, task->server->name) == 0;
}

/* The name of a table and the key of its row, as the task's owner may see them. */
static void
sharing_name(const WorkerTask *task, const WorkerTable *table, const char *row_key,
			 const char **name, const char **key)
{
	bool		visible = table->server->owner == task->server->owner;

	*name = visible ? kapture_row_relation_name(table->att->root) : NULL;
	*key = visible ? row_key : NULL;
}

/* Has the delivery this phone or email? */
static bool
sharing_same_contact(const KaptureDelivery *a, const KaptureDelivery *b)
{
	return (a->sent_phone && b->sent_phone && strcmp(a->sent_phone, b->sent_phone) == 0) ||
		(a->sent_email && b->sent_email && pg_strcasecmp(a->sent_email, b->sent_email) == 0);
}

/*
 * Looks among the rows that are under way: does one have the task's customer, or is one
 * being added with its phone or email?  Returns whether the task was ended for it.
 */
static bool
sharing_check_tasks(Worker *worker, WorkerTask *task, TimestampTz now)
{
	KaptureTask *t = &task->task;
	WorkerTask *adding = NULL;
	WorkerTask *other;
	HASH_SEQ_STATUS status;
	const char *name;
	const char *key;

	hash_seq_init(&status, worker->deliveries);
	while ((other = kapture_queue_next(&status)) != NULL)
	{
		KaptureTask *o = &other->task;

		if (other == task || o->delivery->gone || !sharing_same_server(task, other->table))
			continue;
		if (o->customer_id == t->customer_id && !other->unchecked &&
			(o->state == KAPTURE_TASK_DONE || o->state == KAPTURE_TASK_SEND))
		{
			hash_seq_term(&status);
			sharing_name(task, other->table, o->delivery->row_key, &name, &key);
			kapture_task_yield(t, name, key);
			return true;
		}
		if (o->state == KAPTURE_TASK_SEND && o->step == KAPTURE_STEP_ADD && !kapture_task_has_added(t) &&
			sharing_same_contact(t->delivery, o->delivery))
			adding = other;
	}
	if (adding == NULL)
		return false;
	sharing_name(task, adding->table, adding->task.delivery->row_key, &name, &key);
	kapture_task_stand_back(t, now, name, key);
	return true;
}

/* A row that was recorded as having a customer, and whether it has. */
typedef struct SharingHolder
{
	KaptureHolder *holder;
	WorkerTable *table;			/* NULL: not attached */
	KaptureRow	row;
	bool		holds;
} SharingHolder;

/* Asks the rows of one table whether they have their customers still. */
static void
sharing_ask_rows(WorkerTable *table, List *holders)
{
	TimestampTz began = GetCurrentTimestamp();
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, holders)
	{
		SharingHolder *h = lfirst(lc);

		if (h->table == table && h->holder->written)
			rows = lappend(rows, &h->row);
	}
	if (rows == NIL || !table->present || kapture_share_is_spent(table->turn.share))
		return;					/* then what was recorded must do */
	kapture_row_read(table->att, table->server->timezone, rows, GetActiveSnapshot());
	kapture_turn_charge(&table->turn, began, list_length(rows));
	foreach(lc, holders)
	{
		SharingHolder *h = lfirst(lc);

		if (h->table == table && h->holder->written)
			h->holds = h->row.outcome == KAPTURE_ROW_GONE ? false :
				h->row.outcome == KAPTURE_ROW_DONE ? h->row.customer_id == h->holder->customer_id : true;
	}
}

/* The rows (of SharingHolder) that have the customers of the tasks, but for the tasks' own. */
static List *
sharing_holders(Worker *worker, dlist_head *tasks)
{
	int64	   *ids = NULL;
	int			n = 0;
	int			size = 0;
	List	   *holders = NIL;
	List	   *tables = NIL;
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, tasks)
	{
		if (n >= size)
		{
			size = Max(size * 2, 128);
			ids = ids ? repalloc(ids, sizeof(int64) * size) : palloc(sizeof(int64) * size);
		}
		ids[n++] = dlist_container(WorkerTask, node, iter.cur)->task.customer_id;
	}
	foreach(lc, kapture_row_state_holders(ids, n))
	{
		SharingHolder *h = palloc0(sizeof(SharingHolder));

		h->holder = lfirst(lc);
		h->table = kapture_state_find_table(worker, h->holder->attachment_id);
		h->row.context = CurrentMemoryContext;
		h->row.row_key = h->holder->row_key;
		h->holds = true;
		holders = lappend(holders, h);
		if (h->table)
			tables = list_append_unique_ptr(tables, h->table);
	}
	foreach(lc, tables)
		sharing_ask_rows(lfirst(lc), holders);
	return holders;
}

/* Parks the task if one of these rows has its customer. */
static bool
sharing_check_rows(WorkerTask *task, List *holders)
{
	KaptureTask *t = &task->task;
	ListCell   *lc;

	foreach(lc, holders)
	{
		SharingHolder *h = lfirst(lc);
		const char *name;
		const char *key;

		if (!h->holds || h->holder->customer_id != t->customer_id || !sharing_same_server(task, h->table) ||
			(h->table == task->table && strcmp(h->holder->row_key, t->delivery->row_key) == 0))
			continue;
		sharing_name(task, h->table, h->holder->row_key, &name, &key);
		kapture_task_yield(t, name, key);
		return true;
	}
	return false;
}

/*
 * Goes through the tasks that have just got a customer (worker->taking): those whose
 * customer another row has are parked, or put off.  What is to be sent goes to its
 * server's queue, the rest is appended to *settled.  Needs a transaction; after an
 * error, they are where they were.
 */
void
kapture_sharing_settle(Worker *worker, dlist_head *settled, TimestampTz now)
{
	List	   *holders;

	if (dlist_is_empty(&worker->taking))
		return;
	holders = sharing_holders(worker, &worker->taking);
	while (!dlist_is_empty(&worker->taking))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_head_node(&worker->taking));

		if (!task->task.delivery->gone && !sharing_check_rows(task, holders))
			(void) sharing_check_tasks(worker, task, now);
		task->unchecked = false;
		dlist_delete(&task->node);
		if (task->task.state == KAPTURE_TASK_SEND)
			dlist_push_head(&task->server->ready, &task->node);
		else
		{
			/* it was counted as ready */
			task->server->nready--;
			dlist_push_tail(settled, &task->node);
		}
	}
}
