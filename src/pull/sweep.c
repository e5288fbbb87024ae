/*
 * sweep.c
 *		Asks again for each known customer of a server, slowly.
 *
 * Pulls go by the date on which a customer was made, so changes made in Kapture
 * later do not come with them.  A sweep goes through the customers of a server
 * in the order of their ids, those of kapture_customers and those that rows of
 * attached tables are linked to, and asks Get for one after the other, at its own
 * rate.  Its progress is in kapture_pull, so that it goes on from there after a
 * restart.  A customer that Kapture does not find any more is left as it is.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "api/option.h"
#include "base/catalog.h"
#include "base/user_code.h"
#include "cluster/bgworker.h"
#include "fetch/fetch.h"
#include "pull/apply.h"
#include "pull/mirror.h"
#include "pull/pull_state.h"
#include "pull/sweep.h"
#include "queue/inbox.h"
#include "table/binding.h"
#include "table/caches.h"

/* Ids looked up at a time. */
#define SWEEP_BATCH			1000

/* Milliseconds after which a server that somebody else refreshes is tried again. */
#define SWEEP_BUSY_RETRY	5000

struct KaptureSweep
{
	MemoryContext context;
	MemoryContext request;		/* of the running Get */
	KapturePullServer server;
	Oid			namespace;
	char	   *timezone;
	double		rate;
	int64		after;			/* the last customer that is done with */
	TimestampTz next_request;
	int64		ids[SWEEP_BATCH];
	int			nids;
	int			next;			/* index of the id to ask for next */
	bool		reading;		/* the next ids are being looked up */
	MemoryContext reading_context;	/* of that list: */
	List	   *tables;			/* attached tables (KaptureAttached) to look at yet */
	KaptureFetch *fetch;		/* NULL: none is running */
};

/*
 * Begins a sweep of a server after the customer "after", with "rate" requests a
 * second; "namespace" is the extension's.  It lives in a context below the current
 * one until kapture_sweep_drop().
 */
KaptureSweep *
kapture_sweep_create(const KapturePullServer *server, Oid namespace, const char *timezone,
					 double rate, int64 after)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync sweep", ALLOCSET_DEFAULT_SIZES);
	KaptureSweep *sweep = MemoryContextAllocZero(context, sizeof(KaptureSweep));

	sweep->context = context;
	sweep->request = AllocSetContextCreate(context, "kapture_sync swept customer", ALLOCSET_DEFAULT_SIZES);
	sweep->reading_context = AllocSetContextCreate(context, "kapture_sync swept tables", ALLOCSET_SMALL_SIZES);
	sweep->server = *server;
	sweep->server.name = MemoryContextStrdup(context, server->name);
	sweep->namespace = namespace;
	sweep->timezone = MemoryContextStrdup(context, timezone);
	sweep->rate = rate;
	sweep->after = after;
	return sweep;
}

static int
sweep_compare(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/*
 * Adds sorted ids to the batch; ids beyond the last of a full batch come with the
 * next batch.
 */
static void
sweep_merge(KaptureSweep *sweep, const int64 *ids, int n)
{
	int64	   *all = palloc(sizeof(int64) * (sweep->nids + n));
	int			total = 0;

	memcpy(all, sweep->ids, sizeof(int64) * sweep->nids);
	memcpy(all + sweep->nids, ids, sizeof(int64) * n);
	qsort(all, sweep->nids + n, sizeof(int64), sweep_compare);
	for (int i = 0, last = sweep->nids + n; i < last && total < SWEEP_BATCH; i++)
	{
		if (total == 0 || sweep->ids[total - 1] != all[i])
			sweep->ids[total++] = all[i];
	}
	sweep->nids = total;
	pfree(all);
}

/* Begins to look up the next customers: takes those of kapture_customers, and lists the tables to look at. */
static void
sweep_begin_reading(KaptureSweep *sweep)
{
	Oid			types[] = {NAMEOID, INT8OID, INT8OID};
	Datum		values[] = {
		DirectFunctionCall1(namein, CStringGetDatum(sweep->server.name)),
		Int64GetDatum(sweep->after), Int64GetDatum(SWEEP_BATCH)
	};
	bool		isnull;

	kapture_process_begin("reading known customers");
	sweep->nids = sweep->next = 0;
	SPI_connect();
	kapture_user_code_select(psprintf("SELECT id FROM %s.kapture_customers WHERE server = $1 AND id > $2 ORDER BY id LIMIT $3",
									  kapture_catalog_schema()),
							 lengthof(values), types, values, NULL, true);
	for (uint64 i = 0; i < SPI_processed; i++)
		sweep->ids[sweep->nids++] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	MemoryContextReset(sweep->reading_context);
	MemoryContextSwitchTo(sweep->reading_context);
	sweep->tables = kapture_inbox_tables(sweep->server.name);
	kapture_process_commit();
	sweep->reading = true;
}

/*
 * Adds the ids that rows of an attached table are linked to, unless somebody has locked the table, or
 * code of its owner's has just ended a process.
 */
static void
sweep_read_table(KaptureSweep *sweep, const KaptureAttached *attached)
{
	Relation	rel;
	KaptureAttachment *att;
	int64		ids[SWEEP_BATCH];

	kapture_caches_open(attached->relid);
	if (!ConditionalLockRelationOid(attached->relid, AccessShareLock) ||
		(rel = try_relation_open(attached->relid, NoLock)) == NULL)
		return;
	att = kapture_catalog_attachment_by_id(rel, attached->id);
	if (kapture_shmem_worker_banned(rel->rd_rel->relowner) <= GetCurrentTimestamp() &&
		att && kapture_binding_is_of_server(att, sweep->server.name, sweep->server.serverid) && kapture_binding_problem(att) == NULL &&
		has_privs_of_role(rel->rd_rel->relowner, sweep->server.owner))
		sweep_merge(sweep, ids, kapture_arrival_ids(att, sweep->after, SWEEP_BATCH, ids));
	relation_close(rel, NoLock);
}

/*
 * Looks at the next of the tables.  Each is a turn of its own, as reading one may run code of
 * its owner's for seconds, and there may be thousands.
 */
static void
sweep_read_next(KaptureSweep *sweep)
{
	const KaptureAttached *attached = linitial(sweep->tables);

	/* not again if it fails: whoever tries again begins a new sweep */
	sweep->tables = list_delete_first(sweep->tables);
	kapture_process_begin("reading customers of attached tables");
	sweep_read_table(sweep, attached);
	kapture_process_commit();
}

/* Sends the request for the next customer. */
static void
sweep_ask(KaptureSweep *sweep, TimestampTz now)
{
	char	   *body;

	kapture_process_begin("asking for a known customer");
	MemoryContextSwitchTo(sweep->request);
	kapture_server_require_same(kapture_server_get(sweep->server.name, sweep->server.owner),
								sweep->server.serverid, sweep->server.owner);
	body = kapture_fetch_get_body(sweep->ids[sweep->next], NULL, NULL);
	sweep->fetch = kapture_fetch_gets(sweep->server.name, sweep->server.owner, list_make1(body));
	kapture_process_commit();
	sweep->next_request = now + (int64) (USECS_PER_SEC / sweep->rate);
}

/* Writes the answer; false: somebody else refreshes the server just now. */
static bool
sweep_write(KaptureSweep *sweep, const KaptureWindow *window)
{
	KaptureCopied copied = {0};
	KaptureCopies *copies;

	if (!kapture_copies_lock(sweep->server.serverid))
		return false;
	PG_TRY();
	{
		kapture_process_begin("writing a known customer");
		copies = kapture_copies_create(sweep->namespace, sweep->server.name, sweep->timezone);
		kapture_copies_merge(copies);
		kapture_copies_write_as_owner(copies, window, &copied);
		kapture_pull_state_swept(sweep->server.name, sweep->ids[sweep->next], copied.written > 0);
		kapture_process_commit();
	}
	PG_FINALLY();
	{
		kapture_copies_unlock(sweep->server.serverid);
	}
	PG_END_TRY();
	return true;
}

/* Ends the running Get. */
static void
sweep_end_request(KaptureSweep *sweep)
{
	sweep->fetch = NULL;
	MemoryContextReset(sweep->request);
}

/*
 * Tells whether the next step of the sweep runs code of attached tables' owners.
 */
bool
kapture_sweep_runs_code(const KaptureSweep *sweep)
{
	return sweep->reading && sweep->tables != NIL;
}

/*
 * Looks up the next customers, a part in each call.  Returns whether that is done: then there
 * are some to ask for, or none are left.
 */
static bool
sweep_read(KaptureSweep *sweep)
{
	if (!sweep->reading)
		sweep_begin_reading(sweep);
	else if (sweep->tables != NIL)
		sweep_read_next(sweep);
	if (sweep->tables != NIL)
		return false;
	sweep->reading = false;
	return true;
}

/*
 * Goes on as far as it can without waiting, but for reading attached tables, of which it reads
 * one at most; *when is the latest time to call it again; *wrote says whether an answer was
 * written.  False: all customers are done with.  Errors as kapture_fetch_next(); after one, the
 * sweep can only be dropped.
 */
bool
kapture_sweep_step(KaptureSweep *sweep, TimestampTz *when, bool *wrote)
{
	TimestampTz now = GetCurrentTimestamp();
	const KaptureWindow *window;

	*wrote = false;
	if (sweep->fetch == NULL)
	{
		*when = sweep->next_request;
		if (sweep->next_request > now)
			return true;
		if (sweep->reading || sweep->next >= sweep->nids)
		{
			*when = 0;			/* others first, but then at once */
			if (!sweep_read(sweep))
				return true;
			if (sweep->nids == 0)
				return false;
		}
		sweep_ask(sweep, now);
	}
	switch (kapture_fetch_poll(sweep->fetch, &window, when))
	{
		case KAPTURE_FETCH_WINDOW:
			*wrote = sweep_write(sweep, window);
			if (*wrote)
				sweep->after = sweep->ids[sweep->next++];
			else
				sweep->next_request = TimestampTzPlusMilliseconds(now, SWEEP_BUSY_RETRY);
			sweep_end_request(sweep);
			*when = sweep->next_request;
			break;
		case KAPTURE_FETCH_END:
			sweep_end_request(sweep);
			*when = sweep->next_request;
			break;
		case KAPTURE_FETCH_WAIT:
			break;
	}
	return true;
}

/*
 * As kapture_fetch_served().
 */
void
kapture_sweep_served(KaptureSweep *sweep)
{
	if (sweep->fetch)
		kapture_fetch_served(sweep->fetch);
}

/*
 * As kapture_fetch_not_before().
 */
TimestampTz
kapture_sweep_not_before(const KaptureSweep *sweep)
{
	return sweep->fetch ? kapture_fetch_not_before(sweep->fetch) : 0;
}

/*
 * Ends a sweep; another one may go on from where it was.
 */
void
kapture_sweep_drop(KaptureSweep *sweep)
{
	MemoryContextDelete(sweep->context);
}
