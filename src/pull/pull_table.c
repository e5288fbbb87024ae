/*
 * pull_table.c
 *		An attached table that takes pulled customers.
 *
 * Customers that were new or differed come from kapture_inbox, in small transactions
 * (apply.c).  After an error, the next batches are smaller, until the customer that is
 * to blame is alone in its batch, and is parked.
 */
#include "postgres.h"

#include "access/relation.h"
#include "foreign/foreign.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "api/option.h"
#include "base/catalog.h"
#include "cluster/bgworker.h"
#include "pull/apply.h"
#include "pull/pull_table.h"
#include "queue/inbox.h"
#include "table/binding.h"
#include "table/caches.h"
#include "traffic/pacing.h"

/* Customers written in a transaction, at most. */
#define TABLE_BATCH			50

/* Milliseconds after which a table that cannot be written is tried again, at most. */
#define TABLE_RETRY			60000

/*
 * Returns a table whose attachment has not been read yet, in the current memory context,
 * until kapture_pull_table_forget().
 */
PullTable *
kapture_pull_table_create(const KaptureAttached *attached)
{
	PullTable  *table = palloc0(sizeof(PullTable));

	table->attachment_id = attached->id;
	table->relid = attached->relid;
	table->context = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync arrivals", ALLOCSET_SMALL_SIZES);
	table->in_trouble = true;	/* an earlier puller may have reported trouble */
	kapture_turn_init(&table->turn, TABLE_BATCH);
	return table;
}

/*
 * Forgets a table that is in no list any more.
 */
void
kapture_pull_table_forget(PullTable *table)
{
	if (table->in_trouble)
		kapture_shmem_report_trouble(KAPTURE_PULLER, table->attachment_id, InvalidOid, NULL);
	kapture_turn_join(&table->turn, InvalidOid);
	MemoryContextDelete(table->context);
	pfree(table);
}

/* Writes customers into a table that is open; returns when the next customer is due. */
static TimestampTz
table_apply(PullTable *table, Relation rel, KaptureAttachment *att)
{
	Oid			owner = GetForeignServerByName(att->server, false)->owner;
	char	   *timezone = pstrdup(kapture_server_get(att->server, owner)->timezone);
	char	   *problem;
	List	   *arrivals;
	bool		more;

	/* customers pulled with the server owner's key must not be shown to others */
	if (!has_privs_of_role(rel->rd_rel->relowner, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of table \"%s\" has not the rights of the owner of server \"%s\"",
						RelationGetRelationName(rel), att->server)));
	problem = kapture_binding_problem(att);
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_internal("%s", problem)));
	arrivals = kapture_inbox_take(att, kapture_turn_rows(&table->turn), &more);
	table->ncustomers = list_length(arrivals);
	if (table->ncustomers == 1)
		table->customer_id = ((KaptureArrival *) linitial(arrivals))->customer_id;
	if (arrivals != NIL)
	{
		TimestampTz began = GetCurrentTimestamp();
		int			n = kapture_arrival_apply(att, timezone, arrivals);

		more |= n < list_length(arrivals);
		kapture_turn_charge(&table->turn, began, n);
	}
	if (more)
		return 0;
	/* if nothing was taken, what is due is locked by somebody */
	return Max(kapture_inbox_next_due(att->id),
			   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), arrivals == NIL ? KAPTURE_LOCKED_RETRY : 0));
}

/* Writes a batch of customers into a table, unless somebody has locked the table. */
static void
table_step(void *arg)
{
	PullTable  *table = arg;
	Relation	rel;
	KaptureAttachment *att;

	kapture_caches_open(table->relid);
	if (!ConditionalLockRelationOid(table->relid, AccessShareLock))
	{
		table->next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY);
		return;
	}
	table->next_due = DT_NOEND;
	rel = try_relation_open(table->relid, NoLock);
	if (rel == NULL)
		return;					/* dropped; the worker forgets it */
	MemoryContextSwitchTo(table->context);
	att = kapture_catalog_attachment_by_id(rel, table->attachment_id);
	kapture_turn_join(&table->turn, rel->rd_rel->relowner);
	if (att && att->pull && !att->paused)
		table->next_due = table_apply(table, rel, att);
	relation_close(rel, NoLock);
}

/* A customer that cannot become a row, and why. */
typedef struct PullPoison
{
	PullTable  *table;
	const ErrorData *error;
} PullPoison;

static void
table_do_park(void *arg)
{
	PullPoison *poison = arg;

	kapture_inbox_park(poison->table->attachment_id, poison->table->customer_id,
					   kapture_guard_message(poison->error));
}

/* Reports an error of a table, with the customer if the batch has only one. */
static void
table_report_error(PullTable *table, const ErrorData *error)
{
	char		customer[32];

	snprintf(customer, sizeof(customer), INT64_FORMAT, table->customer_id);
	kapture_process_report_error(KAPTURE_PHASE_APPLY, &table->in_trouble, table->attachment_id,
								 kapture_turn_owner(&table->turn),
								 table->ncustomers == 1 ? customer : NULL, error);
}

/*
 * Handles the failure of a batch: the next batches are smaller, until the customer that
 * is to blame is parked.  After an error of the table as a whole, it is retried later.
 */
static void
table_fail(PullTable *table, const ErrorData *error)
{
	PullPoison	poison = {table, error};
	bool		will_pass = kapture_guard_will_pass(error);
	ErrorData  *another = NULL;

	table->next_due = 0;
	if (kapture_guard_is_lock(error))
	{
		table->next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY);
		return;
	}
	table_report_error(table, error);
	if (table->ncustomers > 1 && !will_pass)
	{
		table->turn.limit = table->ncustomers / 2;
		return;
	}
	if (table->ncustomers == 1 && table->suspect != table->customer_id)
	{
		table->suspect = table->customer_id;
		table->turn.limit = 1;
		return;
	}
	if (table->ncustomers == 1 && !will_pass)
	{
		another = kapture_process_run("parking a customer", table_do_park, &poison);
		if (another == NULL)
			return;
		table_report_error(table, another);
		FreeErrorData(another);
	}
	table->turn.not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
														 kapture_pacing_backoff(++table->turn.errors, TABLE_RETRY));
}

/*
 * Gives a table its turn in a round: writes a batch of customers.  Errors hold up this
 * table alone.
 */
void
kapture_pull_table_work(PullTable *table, uint64 round)
{
	TimestampTz began = GetCurrentTimestamp();
	ErrorData  *error;

	kapture_turn_begin(&table->turn, round);
	table->ncustomers = 0;
	error = kapture_process_run("writing rows of an attached table", table_step, table);
	MemoryContextReset(table->context);
	if (error)
	{
		kapture_turn_charge_rest(&table->turn, began, 0);
		table_fail(table, error);
		FreeErrorData(error);
		return;
	}
	kapture_turn_went_well(&table->turn);
	if (table->in_trouble)
	{
		kapture_process_report_success(KAPTURE_PHASE_APPLY, &table->in_trouble, table->attachment_id);
		/* the failure may have been reported before the table was known */
		kapture_process_report_success(KAPTURE_PHASE_APPLY, NULL, 0);
	}
}
