/*
 * outbox.c
 *		The queue: changes taken from the outbox, deliveries and what becomes
 *		of them.  All SQL of the queue is here.
 *
 * Transactions append to kapture_outbox.  The worker, the only one to read it,
 * claims changes: in one transaction it removes them and enters or updates the
 * row's entry in kapture_delivery, whose primary key makes changes of one row
 * come together and keeps a second request for it from starting.  An entry is
 * 'sending' while a request may be under way, durably so before the request
 * leaves.  It is removed when all is done, else it is due at next_attempt or
 * parked.  Each change of an entry names the attempt it belongs to, so an
 * answer that comes late finds nothing to change.
 *
 * How the outbox is read.  Entries are ordered by transaction, and
 * transactions do not commit in the order of their ids.  A pass is therefore
 * described by two snapshots: what was visible to the last pass is done, and
 * what is new belongs to transactions that were running then (its xip) or
 * started later (its xmax and above).  So each entry is looked at once, with no
 * index but the one on (attachment_id, xact, seq), and what is dead already is
 * never walked over again, however long somebody's snapshot keeps it from
 * being removed.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "catalog.h"
#include "compat.h"
#include "outbox.h"

typedef enum OutboxQuery
{
	OUTBOX_RECOVER,
	OUTBOX_SNAPSHOT,
	OUTBOX_TAKE,
	OUTBOX_CLAIM,
	OUTBOX_CLAIM_DUE,
	OUTBOX_TAKE_OVER,
	OUTBOX_NEXT_DUE,
	OUTBOX_FINISH,
	OUTBOX_FAIL,
	OUTBOX_RELEASE
} OutboxQuery;

#define OUTBOX_MAX_PARAMS	13

/* "@." stands for the extension's schema and a dot. */
static const struct
{
	const char *sql;
	int			nparams;
	Oid			types[OUTBOX_MAX_PARAMS];
}			outbox_queries[] =
{
	[OUTBOX_RECOVER] = {
		"UPDATE @.kapture_delivery"
		" SET state = 'retry', changed = changed | coalesce(again, 0), again = NULL,"
		" in_doubt = CASE WHEN customer_id IS NULL THEN $1 ELSE in_doubt END,"
		" next_attempt = now()"
		" WHERE state = 'sending'",
		1, {TIMESTAMPTZOID}
	},
	[OUTBOX_SNAPSHOT] = {
		"SELECT pg_snapshot_xmax(s), ARRAY(SELECT pg_snapshot_xip(s))"
		" FROM pg_current_snapshot() AS s",
		0, {}
	},
	[OUTBOX_TAKE] = {
		"DELETE FROM @.kapture_outbox WHERE ctid = ANY (ARRAY("
		"SELECT ctid FROM @.kapture_outbox"
		" WHERE attachment_id = $1 AND (xact, seq) > ($2, $3) AND xact < $4"
		" ORDER BY attachment_id, xact, seq LIMIT $5))"
		" RETURNING xact, seq, row_key, old_key, changed, captured_at",
		5, {INT4OID, XID8OID, INT4OID, XID8OID, INT8OID}
	},
	[OUTBOX_CLAIM] = {
		"INSERT INTO @.kapture_delivery AS d"
		" (attachment_id, row_key, state, changed, captured_at, old_key, last_attempt)"
		" SELECT $1, v.row_key, 'sending', v.changed, v.captured_at, v.old_key, clock_timestamp()"
		" FROM unnest($2, $3, $4, $5) AS v(row_key, changed, captured_at, old_key)"
		" ON CONFLICT (attachment_id, row_key) DO UPDATE SET"
		" again = CASE WHEN d.state = 'sending' THEN coalesce(d.again, 0) | EXCLUDED.changed END,"
		" changed = CASE WHEN d.state = 'sending' THEN d.changed ELSE d.changed | EXCLUDED.changed END,"
		" attempts = CASE WHEN d.state = 'sending' THEN d.attempts ELSE d.attempts + 1 END,"
		" last_attempt = CASE WHEN d.state = 'sending' THEN d.last_attempt ELSE clock_timestamp() END,"
		" old_key = coalesce(d.old_key, EXCLUDED.old_key), next_attempt = NULL, state = 'sending'"
		" RETURNING row_key, attempts, failures, changed, customer_id, in_doubt, again IS NOT NULL, old_key",
		5, {INT4OID, TEXTARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID}
	},
	[OUTBOX_CLAIM_DUE] = {
		"UPDATE @.kapture_delivery"
		" SET state = 'sending', attempts = attempts + 1, last_attempt = clock_timestamp(),"
		" next_attempt = NULL"
		" WHERE ctid = ANY (ARRAY(SELECT ctid FROM @.kapture_delivery"
		" WHERE attachment_id = $1 AND state = 'retry' AND next_attempt <= clock_timestamp()"
		" ORDER BY attachment_id, next_attempt LIMIT $2))"
		" RETURNING row_key, attempts, failures, changed, customer_id, in_doubt, false, old_key",
		2, {INT4OID, INT8OID}
	},
	[OUTBOX_TAKE_OVER] = {
		"WITH old AS (DELETE FROM @.kapture_delivery"
		" WHERE attachment_id = $1 AND row_key = $3 AND state <> 'sending'"
		" RETURNING customer_id, in_doubt, changed),"
		" busy AS (SELECT FROM @.kapture_delivery"
		" WHERE attachment_id = $1 AND row_key = $3 AND state = 'sending')"
		" UPDATE @.kapture_delivery"
		" SET old_key = NULL, changed = changed | coalesce((SELECT changed FROM old), 0),"
		" customer_id = coalesce(customer_id, (SELECT customer_id FROM old)),"
		" in_doubt = greatest(in_doubt, (SELECT in_doubt FROM old))"
		" WHERE attachment_id = $1 AND row_key = $2 AND attempts = $4 AND NOT EXISTS (TABLE busy)"
		" RETURNING changed, customer_id, in_doubt",
		4, {INT4OID, TEXTOID, TEXTOID, INT4OID}
	},
	[OUTBOX_NEXT_DUE] = {
		"SELECT next_attempt FROM @.kapture_delivery"
		" WHERE attachment_id = $1 AND state = 'retry'"
		" ORDER BY attachment_id, next_attempt LIMIT 1",
		1, {INT4OID}
	},
	[OUTBOX_FINISH] = {
		"WITH v AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)"
		" AS v(attachment_id, row_key, attempts, action, customer_id, http_status, message)),"
		" gone AS (DELETE FROM @.kapture_delivery AS d USING v"
		" WHERE d.attachment_id = v.attachment_id AND d.row_key = v.row_key"
		" AND d.attempts = v.attempts AND d.again IS NULL"
		" RETURNING v.*, d.captured_at),"
		" again AS (UPDATE @.kapture_delivery AS d"
		" SET state = 'retry', next_attempt = now(), changed = d.again, again = NULL,"
		" failures = 0, in_doubt = NULL, customer_id = NULL,"
		" api = NULL, request = NULL, http_status = NULL, last_error = NULL FROM v"
		" WHERE d.attachment_id = v.attachment_id AND d.row_key = v.row_key"
		" AND d.attempts = v.attempts AND d.again IS NOT NULL"
		" RETURNING v.*, d.captured_at)"
		" INSERT INTO @.kapture_history"
		" (attachment_id, row_key, attempts, action, customer_id, http_status, message, captured_at, finished_at)"
		" SELECT attachment_id, row_key, attempts, action, customer_id, http_status, message, captured_at,"
		" clock_timestamp() FROM (TABLE gone UNION ALL TABLE again) AS finished",
		7, {INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID}
	},
	[OUTBOX_FAIL] = {
		"UPDATE @.kapture_delivery"
		" SET state = CASE WHEN again IS NULL THEN $4 ELSE 'retry' END,"
		" next_attempt = CASE WHEN again IS NOT NULL THEN now() WHEN $4 = 'retry' THEN $6 END,"
		" changed = CASE WHEN $13 THEN 0 ELSE changed END | coalesce(again, 0), again = NULL,"
		" failures = failures + $5, in_doubt = $7, customer_id = $8,"
		" api = $9, request = $10, http_status = $11, last_error = $12"
		" WHERE attachment_id = $1 AND row_key = $2 AND attempts = $3 AND state = 'sending'",
		13, {INT4OID, TEXTOID, INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID,
		TEXTOID, TEXTOID, INT4OID, TEXTOID, BOOLOID}
	},
	[OUTBOX_RELEASE] = {
		"UPDATE @.kapture_delivery"
		" SET state = 'retry', next_attempt = $4, changed = changed | coalesce(again, 0), again = NULL"
		" WHERE attachment_id = $1 AND row_key = $2 AND attempts = $3 AND state = 'sending'",
		4, {INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID}
	},
};

static SPIPlanPtr outbox_plans[lengthof(outbox_queries)];

/* Replaces "@" by the extension's schema. */
static char *
outbox_qualify(const char *sql)
{
	char	   *schema = kapture_catalog_schema();
	StringInfoData result;

	initStringInfo(&result);
	for (const char *p = sql; *p; p++)
	{
		if (p[0] == '@' && p[1] == '.')
			appendStringInfoString(&result, schema);
		else
			appendStringInfoChar(&result, *p);
	}
	return result.data;
}

/*
 * Runs a statement.  It is planned for tables that may be huge, whatever their
 * statistics say now: by index, never by scanning or hashing them whole.
 */
static void
outbox_execute(OutboxQuery query, Datum *values, const char *nulls)
{
	static const char *const off[] = {"enable_seqscan", "enable_hashjoin", "enable_mergejoin"};
	int			nestlevel = NewGUCNestLevel();
	int			rc;

	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (outbox_plans[query] == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(outbox_qualify(outbox_queries[query].sql),
									   outbox_queries[query].nparams,
									   (Oid *) outbox_queries[query].types);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "could not prepare statement %d of the outbox", query);
		outbox_plans[query] = plan;
	}
	rc = SPI_execute_plan(outbox_plans[query], values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "statement %d of the outbox failed: %s", query, SPI_result_code_string(rc));
	AtEOXact_GUC(true, nestlevel);
}

static Datum
outbox_getattr(uint64 row, int col, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, col, isnull);
}

static Datum
outbox_array(Datum *values, bool *nulls, int n, Oid type)
{
	int			dims[1] = {n};
	int			lbs[1] = {1};
	int16		len;
	bool		byval;
	char		align;

	get_typlenbyvalalign(type, &len, &byval, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lbs, type, len, byval, align));
}

/*
 * At the start of a worker: what an earlier one was sending is due at once.
 * Where an Add may have been lost, it is in doubt until "in_doubt", when it can
 * no longer be running.
 */
void
kapture_outbox_recover(TimestampTz in_doubt)
{
	Datum		values[1] = {TimestampTzGetDatum(in_doubt)};

	SPI_connect();
	outbox_execute(OUTBOX_RECOVER, values, NULL);
	SPI_finish();
}

/*
 * Prepares a scan, which will read everything there is.
 */
void
kapture_outbox_scan_init(KaptureScan *scan)
{
	memset(scan, 0, sizeof(*scan));
	scan->context = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync scan",
										  ALLOCSET_SMALL_SIZES);
}

static bool
outbox_contains(const uint64 *xids, int n, uint64 xid)
{
	for (int i = 0; i < n; i++)
	{
		if (xids[i] == xid)
			return true;
	}
	return false;
}

static void
outbox_add_range(KaptureScan *scan, uint64 from, uint64 to)
{
	scan->ranges[scan->nranges * 2] = from;
	scan->ranges[scan->nranges * 2 + 1] = to;
	scan->nranges++;
}

/* Starts reading at the head of a range. */
static void
outbox_enter_range(KaptureScan *scan, int range)
{
	scan->range = range;
	scan->at_seq = 0;			/* numbers start at 1 */
	if (range < scan->nranges)
		scan->at_xact = scan->ranges[range * 2];
}

/* Takes a snapshot and works out which transactions are new in it. */
static void
outbox_start_pass(KaptureScan *scan)
{
	bool		isnull;
	ArrayType  *array;
	Datum	   *xids;
	int			n;

	outbox_execute(OUTBOX_SNAPSHOT, NULL, NULL);
	scan->next_xmax = U64FromFullTransactionId(DatumGetFullTransactionId(outbox_getattr(0, 1, &isnull)));
	array = DatumGetArrayTypeP(outbox_getattr(0, 2, &isnull));
	deconstruct_array(array, XID8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &xids, NULL, &n);

	if (scan->next_xip)
		pfree(scan->next_xip);
	scan->next_xip = MemoryContextAlloc(scan->context, sizeof(uint64) * (n + 1));
	scan->nnext = n;
	for (int i = 0; i < n; i++)
		scan->next_xip[i] = U64FromFullTransactionId(DatumGetFullTransactionId(xids[i]));

	if (scan->ranges)
		pfree(scan->ranges);
	scan->ranges = MemoryContextAlloc(scan->context, sizeof(uint64) * 2 * (scan->nseen + 1));
	scan->nranges = 0;
	if (!scan->ever)
		outbox_add_range(scan, 0, PG_UINT64_MAX);
	else
	{
		for (int i = 0; i < scan->nseen; i++)
		{
			if (!outbox_contains(scan->next_xip, scan->nnext, scan->seen_xip[i]))
				outbox_add_range(scan, scan->seen_xip[i], scan->seen_xip[i] + 1);
		}
		if (scan->next_xmax > scan->seen_xmax)
			outbox_add_range(scan, scan->seen_xmax, scan->next_xmax);
	}
	outbox_enter_range(scan, 0);
	scan->running = true;
}

/* All ranges are read: what the pass saw is done. */
static void
outbox_end_pass(KaptureScan *scan)
{
	uint64	   *unused = scan->seen_xip;

	scan->seen_xmax = scan->next_xmax;
	scan->seen_xip = scan->next_xip;
	scan->nseen = scan->nnext;
	scan->next_xip = unused;
	scan->ever = true;
	scan->running = false;
}

/* Changes of one batch that belong to the same row. */
typedef struct OutboxGroup
{
	int64		changed;
	TimestampTz captured_at;
	const char *row_key;
	const char *old_key;		/* or NULL */
} OutboxGroup;

/*
 * Adds a change to the groups, which are in order of their first change.
 * Returns the group.
 */
static OutboxGroup *
outbox_group(HTAB *index, OutboxGroup *groups, int *ngroups, const char *row_key,
			 int64 changed, TimestampTz captured_at)
{
	bool		found;
	struct
	{
		const char *row_key;
		int			group;
	}		   *entry = hash_search(index, &row_key, HASH_ENTER, &found);

	if (!found)
	{
		entry->group = (*ngroups)++;
		groups[entry->group].row_key = row_key;
		groups[entry->group].old_key = NULL;
		groups[entry->group].changed = 0;
		groups[entry->group].captured_at = captured_at;
	}
	groups[entry->group].changed |= changed;
	groups[entry->group].captured_at = Min(groups[entry->group].captured_at, captured_at);
	return &groups[entry->group];
}

/*
 * A row got another key.  What still waits under the old one in this batch
 * moves along; what was claimed under it before is taken over later.
 */
static void
outbox_rekey(HTAB *index, OutboxGroup *groups, int *ngroups, OutboxGroup *group, const char *old_key)
{
	OutboxGroup *old = outbox_group(index, groups, ngroups, old_key, 0, group->captured_at);

	group = &groups[group - groups];
	group->changed |= old->changed;
	group->old_key = old->old_key ? old->old_key : old_key;
	old->changed = 0;
	old->old_key = NULL;
}

static uint32
outbox_hash_key(const void *key, Size keysize)
{
	const char *text = *(const char *const *) key;

	return string_hash(text, strlen(text) + 1);
}

static int
outbox_match_key(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Removes the next changes of the current range; returns how many, grouped by row. */
static int
outbox_take(int32 attachment_id, KaptureScan *scan, int limit, OutboxGroup **groups, int *ngroups)
{
	Datum		values[5];
	HASHCTL		ctl = {
		.keysize = sizeof(char *),
		.entrysize = sizeof(char *) + sizeof(int64),
		.hash = outbox_hash_key,
		.match = outbox_match_key,
		.hcxt = CurrentMemoryContext
	};
	HTAB	   *index;

	values[0] = Int32GetDatum(attachment_id);
	values[1] = FullTransactionIdGetDatum(FullTransactionIdFromU64(scan->at_xact));
	values[2] = Int32GetDatum(scan->at_seq);
	values[3] = FullTransactionIdGetDatum(FullTransactionIdFromU64(scan->ranges[scan->range * 2 + 1]));
	values[4] = Int64GetDatum(limit);
	outbox_execute(OUTBOX_TAKE, values, NULL);

	index = hash_create("kapture_sync rows", Max(SPI_processed, 16), &ctl,
						HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	*groups = palloc(sizeof(OutboxGroup) * (2 * SPI_processed + 1));
	*ngroups = 0;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		OutboxGroup *group;
		bool		isnull;
		uint64		xact = U64FromFullTransactionId(DatumGetFullTransactionId(outbox_getattr(i, 1, &isnull)));
		int32		seq = DatumGetInt32(outbox_getattr(i, 2, &isnull));
		char	   *row_key = TextDatumGetCString(outbox_getattr(i, 3, &isnull));
		Datum		old_key = outbox_getattr(i, 4, &isnull);
		bool		rekeyed = !isnull;
		int64		changed = DatumGetInt64(outbox_getattr(i, 5, &isnull));
		TimestampTz captured_at = DatumGetTimestampTz(outbox_getattr(i, 6, &isnull));

		group = outbox_group(index, *groups, ngroups, row_key, changed, captured_at);
		if (rekeyed)
			outbox_rekey(index, *groups, ngroups, group, TextDatumGetCString(old_key));
		if (xact > scan->at_xact || (xact == scan->at_xact && seq > scan->at_seq))
		{
			scan->at_xact = xact;
			scan->at_seq = seq;
		}
	}
	return (int) SPI_processed;
}

/* Makes deliveries of the rows just claimed, in the given context. */
static void
outbox_collect(int32 attachment_id, MemoryContext parent, List **deliveries)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureDelivery *delivery;
		MemoryContext context;
		MemoryContext old;
		bool		isnull;
		Datum		value;

		if (DatumGetBool(outbox_getattr(i, 7, &isnull)))
			continue;			/* being sent: its turn comes when that is over */

		context = AllocSetContextCreate(parent, "kapture_sync delivery", ALLOCSET_SMALL_SIZES);
		old = MemoryContextSwitchTo(context);
		delivery = palloc0(sizeof(KaptureDelivery));
		delivery->context = context;
		delivery->attachment_id = attachment_id;
		delivery->row_key = TextDatumGetCString(outbox_getattr(i, 1, &isnull));
		delivery->attempts = DatumGetInt32(outbox_getattr(i, 2, &isnull));
		delivery->failures = DatumGetInt32(outbox_getattr(i, 3, &isnull));
		delivery->changed = DatumGetInt64(outbox_getattr(i, 4, &isnull));
		value = outbox_getattr(i, 5, &isnull);
		delivery->customer_id = isnull ? 0 : DatumGetInt64(value);
		value = outbox_getattr(i, 6, &isnull);
		delivery->in_doubt = isnull ? 0 : DatumGetTimestampTz(value);
		value = outbox_getattr(i, 8, &isnull);
		delivery->old_key = isnull ? NULL : TextDatumGetCString(value);
		delivery->row.context = context;
		delivery->row.row_key = delivery->row_key;
		MemoryContextSwitchTo(parent);
		*deliveries = lappend(*deliveries, delivery);
		MemoryContextSwitchTo(old);
	}
}

/* Enters the groups into kapture_delivery, as being sent. */
static void
outbox_claim(int32 attachment_id, OutboxGroup *groups, int ngroups)
{
	Datum	   *keys = palloc(sizeof(Datum) * ngroups);
	Datum	   *changed = palloc(sizeof(Datum) * ngroups);
	Datum	   *captured = palloc(sizeof(Datum) * ngroups);
	Datum	   *old_keys = palloc0(sizeof(Datum) * ngroups);
	bool	   *no_old_key = palloc(sizeof(bool) * ngroups);
	Datum		values[5];

	for (int i = 0; i < ngroups; i++)
	{
		keys[i] = CStringGetTextDatum(groups[i].row_key);
		changed[i] = Int64GetDatum(groups[i].changed);
		captured[i] = TimestampTzGetDatum(groups[i].captured_at);
		no_old_key[i] = groups[i].old_key == NULL;
		if (groups[i].old_key)
			old_keys[i] = CStringGetTextDatum(groups[i].old_key);
	}
	values[0] = Int32GetDatum(attachment_id);
	values[1] = outbox_array(keys, NULL, ngroups, TEXTOID);
	values[2] = outbox_array(changed, NULL, ngroups, INT8OID);
	values[3] = outbox_array(captured, NULL, ngroups, TIMESTAMPTZOID);
	values[4] = outbox_array(old_keys, no_old_key, ngroups, TEXTOID);
	outbox_execute(OUTBOX_CLAIM, values, NULL);
}

/*
 * Claims at most about "limit" rows with new changes and appends them to
 * *deliveries; list and deliveries live in the current memory context.  *more
 * tells that the limit, not the end of the outbox, ended it.
 */
void
kapture_outbox_claim_changes(int32 attachment_id, KaptureScan *scan, int limit,
							 List **deliveries, bool *more)
{
	MemoryContext parent = CurrentMemoryContext;

	*more = false;
	SPI_connect();
	if (!scan->running)
		outbox_start_pass(scan);
	while (scan->range < scan->nranges)
	{
		OutboxGroup *groups;
		int			ngroups;
		int			taken = outbox_take(attachment_id, scan, limit, &groups, &ngroups);

		if (ngroups > 0)
		{
			outbox_claim(attachment_id, groups, ngroups);
			outbox_collect(attachment_id, parent, deliveries);
		}
		if (taken >= limit)
		{
			*more = true;
			break;
		}
		limit -= taken;
		outbox_enter_range(scan, scan->range + 1);
	}
	if (!*more)
		outbox_end_pass(scan);
	SPI_finish();
}

/*
 * Claims at most "limit" rows whose next try is due, likewise.
 */
void
kapture_outbox_claim_due(int32 attachment_id, int limit, List **deliveries)
{
	MemoryContext parent = CurrentMemoryContext;
	Datum		values[2] = {Int32GetDatum(attachment_id), Int64GetDatum(limit)};

	SPI_connect();
	outbox_execute(OUTBOX_CLAIM_DUE, values, NULL);
	outbox_collect(attachment_id, parent, deliveries);
	SPI_finish();
}

/*
 * A delivery whose row had another key before: takes over what waits under
 * that, an id received or a doubt above all.  Returns false if a request is
 * still under way there.
 */
bool
kapture_outbox_take_over(KaptureDelivery *delivery)
{
	Datum		values[4];
	bool		free;

	values[0] = Int32GetDatum(delivery->attachment_id);
	values[1] = CStringGetTextDatum(delivery->row_key);
	values[2] = CStringGetTextDatum(delivery->old_key);
	values[3] = Int32GetDatum(delivery->attempts);
	SPI_connect();
	outbox_execute(OUTBOX_TAKE_OVER, values, NULL);
	free = SPI_processed > 0;
	if (free)
	{
		bool		isnull;
		Datum		value;

		delivery->changed = DatumGetInt64(outbox_getattr(0, 1, &isnull));
		value = outbox_getattr(0, 2, &isnull);
		delivery->customer_id = isnull ? 0 : DatumGetInt64(value);
		value = outbox_getattr(0, 3, &isnull);
		delivery->in_doubt = isnull ? 0 : DatumGetTimestampTz(value);
		delivery->old_key = NULL;
	}
	SPI_finish();
	return free;
}

/*
 * Returns when the next try of any row of the attachment is due, DT_NOEND if
 * none is waiting.
 */
TimestampTz
kapture_outbox_next_due(int32 attachment_id)
{
	Datum		values[1] = {Int32GetDatum(attachment_id)};
	TimestampTz result = DT_NOEND;

	SPI_connect();
	outbox_execute(OUTBOX_NEXT_DUE, values, NULL);
	if (SPI_processed > 0)
	{
		bool		isnull;
		Datum		value = outbox_getattr(0, 1, &isnull);

		if (!isnull)
			result = DatumGetTimestampTz(value);
	}
	SPI_finish();
	return result;
}

/*
 * Ends deliveries (a list of KaptureDone) well: they go to the history.  A row
 * that changed while it was being sent is due again at once.
 */
void
kapture_outbox_finish(List *done)
{
	int			n = list_length(done);
	Datum	   *cols[7];
	bool	   *nulls[7];
	static const Oid types[7] = {INT4OID, TEXTOID, INT4OID, TEXTOID, INT8OID, INT4OID, TEXTOID};
	Datum		values[7];
	int			i = 0;
	ListCell   *lc;

	if (n == 0)
		return;
	for (int c = 0; c < 7; c++)
	{
		cols[c] = palloc0(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	foreach(lc, done)
	{
		KaptureDone *d = lfirst(lc);

		cols[0][i] = Int32GetDatum(d->delivery->attachment_id);
		cols[1][i] = CStringGetTextDatum(d->delivery->row_key);
		cols[2][i] = Int32GetDatum(d->delivery->attempts);
		cols[3][i] = CStringGetTextDatum(d->action);
		cols[4][i] = Int64GetDatum(d->customer_id);
		nulls[4][i] = d->customer_id == 0;
		cols[5][i] = Int32GetDatum(d->http_status);
		nulls[5][i] = d->http_status == 0;
		nulls[6][i] = d->message == NULL;
		cols[6][i] = d->message ? CStringGetTextDatum(d->message) : (Datum) 0;
		i++;
	}
	for (int c = 0; c < 7; c++)
		values[c] = outbox_array(cols[c], nulls[c], n, types[c]);

	SPI_connect();
	outbox_execute(OUTBOX_FINISH, values, NULL);
	SPI_finish();
}

/*
 * Records that a delivery failed: when it is tried again, or that it is parked
 * until the row changes or somebody asks for it.
 */
void
kapture_outbox_fail(KaptureFailed *failed)
{
	KaptureDelivery *d = failed->delivery;
	Datum		values[13];
	char		nulls[14] = "             ";

	values[0] = Int32GetDatum(d->attachment_id);
	values[1] = CStringGetTextDatum(d->row_key);
	values[2] = Int32GetDatum(d->attempts);
	values[3] = CStringGetTextDatum(failed->park ? "parked" : "retry");
	values[4] = Int32GetDatum(failed->counts ? 1 : 0);
	values[5] = TimestampTzGetDatum(failed->next_attempt);
	values[6] = TimestampTzGetDatum(failed->in_doubt);
	values[7] = Int64GetDatum(failed->customer_id);
	values[8] = failed->api ? CStringGetTextDatum(failed->api) : (Datum) 0;
	values[9] = failed->request ? CStringGetTextDatum(failed->request) : (Datum) 0;
	values[10] = Int32GetDatum(failed->http_status);
	values[11] = CStringGetTextDatum(failed->error);
	values[12] = BoolGetDatum(failed->arrived);
	if (failed->in_doubt == 0)
		nulls[6] = 'n';
	if (failed->customer_id == 0)
		nulls[7] = 'n';
	if (failed->api == NULL)
		nulls[8] = 'n';
	if (failed->request == NULL)
		nulls[9] = 'n';
	if (failed->http_status == 0)
		nulls[10] = 'n';

	SPI_connect();
	outbox_execute(OUTBOX_FAIL, values, nulls);
	SPI_finish();
}

/*
 * Puts back a delivery for which nothing was sent; it is due at next_attempt.
 */
void
kapture_outbox_release(KaptureDelivery *delivery, TimestampTz next_attempt)
{
	Datum		values[4];

	values[0] = Int32GetDatum(delivery->attachment_id);
	values[1] = CStringGetTextDatum(delivery->row_key);
	values[2] = Int32GetDatum(delivery->attempts);
	values[3] = TimestampTzGetDatum(next_attempt);
	SPI_connect();
	outbox_execute(OUTBOX_RELEASE, values, NULL);
	SPI_finish();
}
