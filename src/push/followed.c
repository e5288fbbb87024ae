/*
 * followed.c
 *		Changes of tables that attached ones follow.
 *
 * Notes the rows that such changes concern as changed: in each pass of the worker a slice
 * for each table, so that a change which concerns many rows holds up nobody.
 */
#include "postgres.h"

#include "cluster/bgworker.h"
#include "follow/follow_rows.h"
#include "push/followed.h"
#include "push/transaction.h"
#include "traffic/pacing.h"

/* Changes whose rows are looked up together, at most. */
#define FOLLOWED_MAX_VALUES	10000

/* After so many errors in a row, the delay until the next try grows no more. */
#define FOLLOWED_MAX_ERRORS	4

/* A slice may take the usual time of so many rows; the owner is charged for what exceeds that. */
#define FOLLOWED_FREE_ROWS	100

/* Milliseconds of slices in a row, after which rows are claimed. */
#define FOLLOWED_TIME		100

typedef struct FollowedSlice
{
	WorkerTable *table;
	bool		any;
	bool		put_off;
} FollowedSlice;

static void
followed_do_slice(void *arg)
{
	FollowedSlice *slice = arg;
	WorkerTable *table = slice->table;

	slice->put_off = !kapture_state_hold(table);
	if (slice->put_off)
		return;
	slice->any = kapture_follow_resolve(table->att, table->follow_values);
}

/* Has all attachments of a relation looked at, as changes of its rows were noted. */
static void
followed_look(Worker *worker, Oid relid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->att->root == relid)
			table->look = table->fresh = true;
	}
}

/* Handles a slice of a table; after an error, fewer changes are tried together. */
static void
followed_slice(Worker *worker, WorkerTable *table)
{
	FollowedSlice slice = {table, false, false};
	TimestampTz began = GetCurrentTimestamp();
	ErrorData  *error;

	if (table->follow_values == 0)
		table->follow_values = FOLLOWED_MAX_VALUES;
	error = kapture_transaction_run(worker, "finding rows that follow", followed_do_slice, &slice);
	kapture_turn_charge_rest(&table->turn, began, FOLLOWED_FREE_ROWS);
	if (error)
	{
		table->follow_errors = Min(table->follow_errors + 1, FOLLOWED_MAX_ERRORS);
		table->follow_at = kapture_transaction_retry_at(table->follow_errors);
		/* this many changes may take too long, and fewer of them may not */
		if (error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && table->follow_values > 1)
			table->follow_at = GetCurrentTimestamp();
		else
			kapture_transaction_report_error(KAPTURE_PHASE_CLAIM, table, NULL, error);
		table->follow_values = Max(table->follow_values / 8, 1);
		FreeErrorData(error);
		return;
	}
	if (slice.put_off)
	{
		/* the next claim reads the outdated table anew */
		table->look |= table->stale;
		table->follow_at = table->stale ? began : TimestampTzPlusMilliseconds(began, KAPTURE_LOCKED_RETRY);
		return;
	}
	if (table->follow_errors > 0)
		kapture_transaction_report_success(KAPTURE_PHASE_CLAIM, table);
	table->follow_errors = 0;
	table->follow_values = Min(table->follow_values * 2, FOLLOWED_MAX_VALUES);
	table->follow_at = slice.any ? GetCurrentTimestamp() : DT_NOEND;
	if (slice.any)
		followed_look(worker, table->att->root);
}

/*
 * Finds the rows that changes of followed tables concern, if there are such changes.  To be
 * called before rows are claimed.
 */
void
kapture_followed_find(Worker *worker)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;
	dlist_iter	iter;
	int			n = 0;

	if (!kapture_state_may_send(worker) || !worker->loaded)
		return;
	dlist_foreach(iter, &worker->tables)
		n++;
	/* each table once; those that time does not suffice for come first in the next pass */
	for (; n > 0 && now < TimestampTzPlusMilliseconds(began, FOLLOWED_TIME); n--, now = GetCurrentTimestamp())
	{
		WorkerTable *table = dlist_head_element(WorkerTable, node, &worker->tables);

		dlist_delete(&table->node);
		dlist_push_tail(&worker->tables, &table->node);
		if (!table->present || table->stale || table->att->paused || table->att->unfollowed)
			continue;
		if (kapture_turn_next(&table->turn) <= now &&
			(table->follow_at <= now || (table->look && table->follow_errors == 0)))
			followed_slice(worker, table);
	}
}
