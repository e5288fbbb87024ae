/*
 * sharing.c
 *		One customer, one row: a row is not linked to a customer that another row has.
 *
 * Rows that share a phone or email would take turns in overwriting one customer.  So the
 * customer that a row would be linked to is looked up among the rows that have customers
 * (kapture_row), and among those that are just getting one: after an answer has named the
 * customer, and before anything is sent to it or recorded.
 *
 * An Update that Kapture refuses for a phone or email of another row's customer waits until
 * that customer has other ones: rows may pass them on in one transaction.
 *
 * The deletion of a row (on_delete) is not reported if another row has its customer by
 * now.
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "cluster/guard.h"
#include "known/lookup.h"
#include "known/row_state.h"
#include "push/queue.h"
#include "push/sharing.h"
#include "table/caches.h"
#include "table/row_io.h"
#include "table/row_sql.h"
#include "traffic/pacing.h"

/* Is it a row of the task's account? */
static bool
sharing_same_server(const WorkerTask *task, const WorkerTable *table)
{
	return table != NULL && table->attached && strcmp(table->server->name, task->server->name) == 0;
}

/* Returns the customer that another row may have: the one that the task gets, or the one that is in its way. */
static int64
sharing_customer_id(const WorkerTask *task)
{
	return kapture_task_is_held(&task->task) ? task->task.held_by : task->task.customer_id;
}

/* Names a table with its attachment, and the key of its row; each NULL if the task's owner may not see it. */
static void
sharing_name(const WorkerTask *task, const WorkerTable *table, const char *row_key,
			 const char **name, const char **key)
{
	bool		visible = table->server->owner == task->server->owner;

	*name = visible ? kapture_row_relation_name(table->att->root) : NULL;
	if (visible && table->att->name[0] != '\0')
		*name = psprintf("%s (attachment \"%s\")", *name, table->att->name);
	*key = visible ? row_key : NULL;
}

/* Have two deliveries a phone or an email in common? */
static bool
sharing_same_contact(const KaptureDelivery *a, const KaptureDelivery *b)
{
	return (a->sent_phone && b->sent_phone && strcmp(a->sent_phone, b->sent_phone) == 0) ||
		(a->sent_email && b->sent_email && pg_strcasecmp(a->sent_email, b->sent_email) == 0);
}

/* A customer of a server, and the claimed task that has it. */
typedef struct SharingCustomer
{
	struct
	{
		int64		customer_id;
		char		server[NAMEDATALEN];
	}			key;
	WorkerTask *task;
} SharingCustomer;

/* Finds, or enters, the entry for a task's customer. */
static SharingCustomer *
sharing_customer(HTAB *customers, const WorkerTask *task, HASHACTION action, bool *found)
{
	SharingCustomer entry;

	memset(&entry.key, 0, sizeof(entry.key));
	entry.key.customer_id = task->task.customer_id;
	strlcpy(entry.key.server, task->server->name, NAMEDATALEN);
	return hash_search(customers, &entry.key, action, found);
}

/* Notes that a task has its customer, unless a task is entered already whose row was not deleted. */
static void
sharing_enter(HTAB *customers, WorkerTask *task)
{
	bool		found;
	SharingCustomer *entry = sharing_customer(customers, task, HASH_ENTER, &found);

	if (!found || kapture_task_reports(&entry->task->task))
		entry->task = task;
}

/*
 * Does the task keep other rows from its customer?  One whose row was deleted does so only
 * while the deletion is to be reported, or its Update is in flight.
 */
static bool
sharing_has_customer(const WorkerTask *task)
{
	const KaptureTask *t = &task->task;

	if (t->customer_id == 0 || task->unchecked)
		return false;
	if (t->delivery->gone)
		return kapture_task_reports(t) || (t->state == KAPTURE_TASK_SEND && t->request != NULL);
	return t->state == KAPTURE_TASK_DONE || t->state == KAPTURE_TASK_SEND;
}

/* Returns the customers of the claimed tasks, without those not checked yet. */
static HTAB *
sharing_customers(Worker *worker)
{
	HASHCTL		ctl = {.keysize = sizeof(((SharingCustomer *) NULL)->key),.entrysize = sizeof(SharingCustomer),
	.hcxt = CurrentMemoryContext};
	HTAB	   *customers = hash_create("kapture_sync customers", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	HASH_SEQ_STATUS status;
	WorkerTask *task;

	hash_seq_init(&status, worker->deliveries);
	while ((task = kapture_queue_next(&status)) != NULL)
	{
		if (sharing_has_customer(task))
			sharing_enter(customers, task);
	}
	return customers;
}

/* Returns a task that is adding the phone or email of a task that is to be linked; NULL if there is none. */
static WorkerTask *
sharing_adding(Worker *worker, const WorkerTask *task)
{
	WorkerTask *other;
	WorkerTask *result = NULL;
	HASH_SEQ_STATUS status;

	/* a linked row has its customer already, even if that customer had the other row's phone before */
	if (kapture_task_has_added(&task->task) || task->task.sent != 0)
		return NULL;
	hash_seq_init(&status, worker->deliveries);
	while ((other = kapture_queue_next(&status)) != NULL)
	{
		const KaptureTask *o = &other->task;

		if (other != task && !o->delivery->gone && o->state == KAPTURE_TASK_SEND && o->step == KAPTURE_STEP_ADD &&
			sharing_same_server(task, other->table) && sharing_same_contact(task->task.delivery, o->delivery))
			result = other;
	}
	return result;
}

/*
 * Looks among the claimed rows: is one just getting the task's customer, or being added
 * with its phone or email?  Then the task is tried again when that is over.
 */
static void
sharing_check_tasks(Worker *worker, HTAB *customers, WorkerTask *task, TimestampTz now)
{
	SharingCustomer *holder = sharing_customer(customers, task, HASH_FIND, NULL);
	WorkerTask *other = holder && holder->task != task ? holder->task : NULL;
	const char *name;
	const char *key;

	if (other && kapture_task_reports(&other->task))
	{
		kapture_task_let_report(&task->task, now);
		return;
	}
	if (other == NULL || !other->table->attached)
		other = sharing_adding(worker, task);
	if (other == NULL)
	{
		sharing_enter(customers, task);
		return;
	}
	sharing_name(task, other->table, other->task.delivery->row_key, &name, &key);
	kapture_task_stand_back(&task->task, now, false, name, key);
}

/* A row that was recorded as having a customer, and whether it still has it. */
typedef struct SharingHolder
{
	KaptureHolder *holder;
	WorkerTable *table;			/* NULL: not attached */
	KaptureRow	row;
	bool		holds;
	bool		looked_up;		/* it was found in its table; kapture_row does not know of it */
} SharingHolder;

/* Reads the rows of one table, to see whether they still have their customers. */
static void
sharing_ask_rows(WorkerTable *table, List *holders)
{
	TimestampTz began = GetCurrentTimestamp();
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, holders)
	{
		SharingHolder *h = lfirst(lc);

		if (h->table == table && !h->holder->gone)
			rows = lappend(rows, &h->row);
	}
	if (rows == NIL || !table->present)
		return;					/* then rely on what was recorded */
	if (!kapture_state_may_run(table))
	{
		kapture_queue_put_off(rows);
		return;
	}
	kapture_row_read(table->att, table->server->timezone, rows, GetActiveSnapshot());
	kapture_turn_charge(&table->turn, began, list_length(rows));
	foreach(lc, holders)
	{
		SharingHolder *h = lfirst(lc);

		if (h->table == table && h->holder->written && !h->holder->gone)
			h->holds = h->row.outcome == KAPTURE_ROW_GONE ? false :
				h->row.outcome == KAPTURE_ROW_DONE ? h->row.customer_id == h->holder->customer_id : true;
	}
}

/*
 * Appends the rows of a table that have customers which tasks of its server are to be
 * linked to.  A customer that a task has just added has no row yet.
 */
static List *
sharing_look_up(WorkerTable *table, dlist_head *tasks, List *holders)
{
	int64	   *ids = NULL;
	int			n = 0;
	TimestampTz began = GetCurrentTimestamp();
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, tasks)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, iter.cur);

		if (kapture_task_has_added(&task->task) || !sharing_same_server(task, table))
			continue;
		ids = ids ? repalloc(ids, sizeof(int64) * (n + 1)) : palloc(sizeof(int64));
		ids[n++] = sharing_customer_id(task);
	}
	if (n == 0 || !table->present || !kapture_state_may_run(table))
		return holders;
	kapture_caches_open(table->att->root);
	foreach(lc, kapture_lookup_rows(table->att, ids, n))
	{
		SharingHolder *h = palloc0(sizeof(SharingHolder));

		h->holder = lfirst(lc);
		h->table = table;
		h->holds = h->looked_up = true;
		holders = lappend(holders, h);
	}
	kapture_turn_charge(&table->turn, began, n);
	return holders;
}

/* Appends the row that may have got the key, and so the customer, of a row whose deletion a task is to report. */
static List *
sharing_add_successor(WorkerTask *task, List *holders)
{
	SharingHolder *h = palloc0(sizeof(SharingHolder));

	h->holder = palloc0(sizeof(KaptureHolder));
	h->holder->customer_id = task->task.customer_id;
	h->holder->attachment_id = task->table->att->id;
	h->holder->row_key = pstrdup(task->task.delivery->row_key);
	h->row.row_key = h->holder->row_key;
	h->holder->written = true;
	h->table = task->table;
	h->row.context = CurrentMemoryContext;
	return lappend(holders, h);
}

/* Returns the rows (of SharingHolder) that have, or had, the customers of the tasks. */
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
		ids[n++] = sharing_customer_id(dlist_container(WorkerTask, node, iter.cur));
		if (kapture_task_reports(&dlist_container(WorkerTask, node, iter.cur)->task))
			holders = sharing_add_successor(dlist_container(WorkerTask, node, iter.cur), holders);
	}
	if (holders != NIL)
		tables = list_make1(dlist_head_element(WorkerTask, node, tasks)->table);
	foreach(lc, kapture_row_state_holders(dlist_head_element(WorkerTask, node, tasks)->table->att->id, ids, n))
	{
		SharingHolder *h = palloc0(sizeof(SharingHolder));

		h->holder = lfirst(lc);
		h->table = kapture_state_find_table(worker, h->holder->attachment_id);
		h->row.context = CurrentMemoryContext;
		h->row.row_key = h->holder->row_key;
		h->holds = !h->holder->gone;
		holders = lappend(holders, h);
		if (h->table && h->holds)
			tables = list_append_unique_ptr(tables, h->table);
	}
	foreach(lc, tables)
		sharing_ask_rows(lfirst(lc), holders);
	dlist_foreach(iter, &worker->tables)
		holders = sharing_look_up(dlist_container(WorkerTable, node, iter.cur), tasks, holders);
	return holders;
}

/*
 * Has the row neither the phone nor the email that the task's customer was found by?  Then
 * the row's Update is in flight, or was when the customer was searched for.
 */
static bool
sharing_has_moved_on(const WorkerTask *task, const SharingHolder *h)
{
	KaptureDelivery present = {.row = h->row};

	if (h->row.outcome != KAPTURE_ROW_DONE || h->row.values == NULL)
		return false;			/* it was not read */
	kapture_task_identify(h->table->att, &present, false);
	return !sharing_same_contact(task->task.delivery, &present);
}

/* Has Kapture confirmed the phone and email that the row has now? */
static bool
sharing_is_confirmed(const SharingHolder *h)
{
	KaptureDelivery present = {.row = h->row,.attachment_id = h->holder->attachment_id,
	.row_key = h->holder->row_key,.context = CurrentMemoryContext};

	kapture_row_state_load(list_make1(&present));
	return kapture_task_is_known(h->table->att, &present);
}

/*
 * Records the row that has a customer, so that its change or deletion releases the tasks
 * that wait for the customer.
 */
static void
sharing_note_holder(const SharingHolder *h)
{
	if (h->looked_up || !h->holder->written)
		kapture_row_state_note(h->holder);
}

/*
 * The task's Update was refused for a phone or email of another customer.
 *
 * - If that is the customer of a row, the task waits until Kapture has another phone or
 *   email of that row; if Kapture has it by now, the task is tried again.
 * - If its row was deleted, or has left its filter, the task is tried again, twice at most, as
 *   the last Update of that row may give the phone or email away.  Otherwise that takes
 *   somebody in Kapture: rows are merged here, but not their customers.
 * - If it is no row's, the task stays parked until a row that has the customer changes.
 */
static void
sharing_check_held(WorkerTask *task, List *holders, TimestampTz now)
{
	KaptureTask *t = &task->task;
	const SharingHolder *former = NULL;
	const char *name;
	const char *key;
	ListCell   *lc;

	foreach(lc, holders)
	{
		SharingHolder *h = lfirst(lc);
		bool		had;

		if (h->holder->customer_id != t->held_by || !sharing_same_server(task, h->table))
			continue;
		if (!h->holds)
		{
			former = h;
			continue;
		}
		had = sharing_has_moved_on(task, h);
		if (had && sharing_is_confirmed(h))
		{
			kapture_task_try_again(t, now);
			KAPTURE_TRACE(t, "try_again");
			return;
		}
		sharing_note_holder(h);
		sharing_name(task, h->table, h->holder->row_key, &name, &key);
		kapture_task_wait(t, had, name, key);
		return;
	}
	/* a row may be just getting the customer, and may have another phone by now */
	t->failed.waits_for = -t->held_by;
	if (former == NULL)
		return;
	sharing_name(task, former->table, former->holder->row_key, &name, &key);
	kapture_task_name_former(t, name, key);
	kapture_task_hope(t, now);
}

/* Parks the task or retries it later if one of these rows has its customer; returns whether one has. */
static bool
sharing_check_rows(WorkerTask *task, List *holders, TimestampTz now)
{
	KaptureTask *t = &task->task;
	ListCell   *lc;

	if (!task->server->worker->all_read && !kapture_task_has_added(t))
	{
		kapture_task_await_tables(t, now);
		return true;
	}
	foreach(lc, holders)
	{
		SharingHolder *h = lfirst(lc);
		const char *name;
		const char *key;

		if (h->holder->customer_id != t->customer_id || !sharing_same_server(task, h->table))
			continue;
		if (h->holder->in_doubt > now && !kapture_task_has_added(t))
		{
			kapture_task_let_finish(t, h->holder->in_doubt);
			return true;
		}
		if (!h->holds ||
			(h->table == task->table && strcmp(h->holder->row_key, t->delivery->row_key) == 0))
			continue;
		sharing_name(task, h->table, h->holder->row_key, &name, &key);
		if (!kapture_task_has_added(t) && sharing_has_moved_on(task, h))
		{
			kapture_task_stand_back(t, now, true, name, key);
			return true;
		}
		sharing_note_holder(h);
		kapture_task_yield(t, now, name, key);
		return true;
	}
	return false;
}

/* Has a report of a deletion checked again in a while, as it is not known yet whether another row has the customer. */
static void
sharing_ask_later(WorkerTask *task, TimestampTz now)
{
	task->task.state = KAPTURE_TASK_RELEASE;
	task->task.next_attempt = TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY);
	KAPTURE_TRACE(&task->task, "locked");
}

/* Ends a task that is to report the deletion of its row, if another row has the customer. */
static void
sharing_check_report(HTAB *customers, WorkerTask *task, List *holders, TimestampTz now)
{
	SharingCustomer *holder = sharing_customer(customers, task, HASH_FIND, NULL);
	ListCell   *lc;

	if (holder && holder->task->table->attached && !holder->task->task.delivery->gone)
	{
		kapture_task_spare(&task->task);
		return;
	}

	if (!task->server->worker->all_read)
		sharing_ask_later(task, now);
	foreach(lc, holders)
	{
		SharingHolder *h = lfirst(lc);

		if (h->holder->customer_id != task->task.customer_id || !sharing_same_server(task, h->table))
			continue;
		if (h->row.outcome == KAPTURE_ROW_LOCKED)
			sharing_ask_later(task, now);
		else if (h->holds)
		{
			kapture_task_spare(&task->task);
			return;
		}
	}
}

/* Tasks of one table to be checked. */
typedef struct SharingBatch
{
	Worker	   *worker;
	HTAB	   *customers;
	dlist_head	tasks;
	TimestampTz now;
} SharingBatch;

/*
 * Notes which customers the tasks are linked to, before these customers are sent anything:
 * the Update may give them another phone, and nobody would find them by the old one after a
 * crash.
 */
static void
sharing_note_links(SharingBatch *batch)
{
	List	   *links = NIL;
	dlist_iter	iter;

	dlist_foreach(iter, &batch->tasks)
	{
		KaptureTask *t = &dlist_container(WorkerTask, node, iter.cur)->task;

		if (t->state != KAPTURE_TASK_SEND || t->delivery->gone)
			continue;
		t->delivery->customer_id = t->customer_id;
		links = lappend(links, t->delivery);
	}
	kapture_delivery_note_links(links);
}

/* Checks the tasks of a batch; parks those whose customers other rows have, or retries them later. */
static void
sharing_do_check(void *arg)
{
	SharingBatch *batch = arg;
	List	   *holders = sharing_holders(batch->worker, &batch->tasks);
	dlist_iter	iter;

	dlist_foreach(iter, &batch->tasks)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, iter.cur);

		if (kapture_task_is_held(&task->task))
			sharing_check_held(task, holders, batch->now);
		else if (kapture_task_reports(&task->task))
			sharing_check_report(batch->customers, task, holders, batch->now);
		else if (!task->task.delivery->gone && !sharing_check_rows(task, holders, batch->now))
			sharing_check_tasks(batch->worker, batch->customers, task, batch->now);
	}
	sharing_note_links(batch);
}

/*
 * Handles an error that keeps us from finding out who has the task's customer: parks the
 * task.  A row that was added keeps its id; one that was to be linked begins anew.
 */
static void
sharing_fail(WorkerTask *task, const ErrorData *error)
{
	KaptureTask *t = &task->task;
	bool		added = t->state == KAPTURE_TASK_DONE && kapture_task_has_added(t);

	if (kapture_task_is_held(t))
		return;					/* parked already, for what Kapture has answered */
	if (!added && !kapture_task_reports(t))
		t->customer_id = 0;
	kapture_task_park(t, error);
	t->failed.arrived = added;
	t->failed.unsure = false;
}

/*
 * Checks those tasks among "ready", all of one table, that are to report the deletion of
 * their row.  If another row has the customer, the task ends; if an error hides whether one
 * has, it fails.  Both are moved to *settled.  Needs a transaction.
 */
void
kapture_sharing_check_reports(Worker *worker, dlist_head *ready, dlist_head *settled, TimestampTz now)
{
	SharingBatch batch = {.worker = worker,.now = now};
	dlist_mutable_iter iter;
	ErrorData  *error;

	dlist_init(&batch.tasks);
	dlist_foreach_modify(iter, ready)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, iter.cur);

		if (!kapture_task_reports(&task->task))
			continue;
		dlist_delete(&task->node);
		dlist_push_tail(&batch.tasks, &task->node);
	}
	if (dlist_is_empty(&batch.tasks))
		return;
	batch.customers = sharing_customers(worker);
	error = kapture_guard_step(sharing_do_check, &batch);
	while (!dlist_is_empty(&batch.tasks))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&batch.tasks));

		if (error)
			sharing_fail(task, error);
		dlist_push_tail(task->task.state == KAPTURE_TASK_SEND ? ready : settled, &task->node);
	}
	if (error)
		FreeErrorData(error);
}

/*
 * Checks the tasks that have just got a customer (worker->taking): those whose customer
 * another row has are parked, or retried later.  Tasks with a request to send go to their
 * server's queue, the others are appended to *settled.  Needs a transaction; an error while
 * a table is checked parks the rows of that table alone.
 */
void
kapture_sharing_settle(Worker *worker, dlist_head *settled, TimestampTz now)
{
	SharingBatch batch = {.worker = worker,.now = now};
	bool		linked = false;

	if (dlist_is_empty(&worker->taking))
		return;
	batch.customers = sharing_customers(worker);
	while (!dlist_is_empty(&worker->taking))
	{
		ErrorData  *error;

		dlist_init(&batch.tasks);
		kapture_queue_move(&worker->taking, &batch.tasks, dlist_head_element(WorkerTask, node, &worker->taking)->table);
		error = kapture_guard_step(sharing_do_check, &batch);
		while (!dlist_is_empty(&batch.tasks))
		{
			WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&batch.tasks));

			task->unchecked = false;
			if (error)
				sharing_fail(task, error);
			if (task->task.state == KAPTURE_TASK_SEND)
			{
				linked |= task->task.step == KAPTURE_STEP_UPDATE;
				dlist_push_head(&task->server->ready, &task->node);
				task->server->nready++;
			}
			else
				dlist_push_tail(settled, &task->node);
		}
		if (error)
			FreeErrorData(error);
	}
	/* unlike all else that is recorded, the link must be on disk before the Update is sent */
	if (linked)
		(void) set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
}
