/*
 * queue.c
 *		kapture_queue(): what waits for a table, as kapture_status shows it.
 *
 * It must cost the same whether nothing waits or a million rows do, and also
 * while somebody's old snapshot keeps what was sent long ago from being
 * removed.  So entries are read by index, QUEUE_BOUND of each kind at most (fewer
 * if entries of the outbox hold many changes), and from the position that the worker
 * has reached, which is in shared memory; entries before it are dead.  Up to the
 * bound, numbers are exact; beyond it they are estimates from the cumulative
 * statistics of the tables.
 *
 * Only their owner may read the tables, so the function reads them itself, for
 * callers who have the rights of the attached table's owner.  Callers who may read
 * all statistics get the numbers, but no message, as that may show a row's data.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "cluster/guard.h"
#include "cluster/shmem.h"
#include "table/capture_buffer.h"

#define QUEUE_BOUND		10000

/* An entry of the outbox that holds many changes costs as much as this many further entries. */
#define QUEUE_PACK_COST	10

typedef struct Queue
{
	int32		attachment_id;
	KaptureTableReport report;
	int64		pending;
	int64		in_flight;
	int64		retrying;
	int64		parked;
	bool		exact;
	TimestampTz oldest;			/* DT_NOEND: nothing waits */
	TimestampTz last_attempt;	/* of the failure in "last_error" */
	char	   *last_error;
	TimestampTz last_success;	/* 0: unknown */
} Queue;

/* A table that is being read by one of its indexes. */
typedef struct QueueScan
{
	Relation	rel;
	Relation	index;
	SysScanDesc scan;
} QueueScan;

PG_FUNCTION_INFO_V1(kapture_queue);
PG_FUNCTION_INFO_V1(kapture_table_problem);
PG_FUNCTION_INFO_V1(kapture_table_error);

/*
 * Begins to read the entries of an attachment, in the order of an index;
 * with "floor", only those of that transaction and later ones.
 */
static void
queue_begin(QueueScan *scan, KaptureTable table, const char *index, int32 attachment_id, uint64 floor)
{
	Oid			relid = kapture_catalog_relid(table);
	Oid			indexid = get_relname_relid(index, get_rel_namespace(relid));
	ScanKeyData keys[2];
	int			nkeys = 1;

	if (!OidIsValid(indexid))
		elog(ERROR, "index \"%s\" is missing", index);
	ScanKeyInit(&keys[0], get_attnum(relid, "attachment_id"), BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(attachment_id));
	if (floor > 0)
		ScanKeyInit(&keys[nkeys++], get_attnum(relid, "xact"), BTGreaterEqualStrategyNumber, F_XID8GE,
					FullTransactionIdGetDatum(FullTransactionIdFromU64(floor)));
	scan->rel = table_open(relid, AccessShareLock);
	scan->index = index_open(indexid, AccessShareLock);
	scan->scan = systable_beginscan_ordered(scan->rel, scan->index, GetActiveSnapshot(), nkeys, keys);
}

static void
queue_end(QueueScan *scan)
{
	systable_endscan_ordered(scan->scan);
	index_close(scan->index, AccessShareLock);
	table_close(scan->rel, AccessShareLock);
}

/* A column of an entry, by its name. */
static Datum
queue_column(QueueScan *scan, HeapTuple tuple, const char *column, bool *isnull)
{
	return heap_getattr(tuple, get_attnum(RelationGetRelid(scan->rel), column),
						RelationGetDescr(scan->rel), isnull);
}

/* What the statistics say of a table's live rows. */
static int64
queue_estimate(KaptureTable table)
{
	return DatumGetInt64(DirectFunctionCall1(pg_stat_get_live_tuples,
											 ObjectIdGetDatum(kapture_catalog_relid(table))));
}

/* Counts changes that the worker has not taken up. */
static void
queue_read_outbox(Queue *queue)
{
	QueueScan	scan;
	HeapTuple	tuple;
	bool		isnull;
	int			entries = 0;
	int			cost = 0;

	queue_begin(&scan, KAPTURE_TABLE_OUTBOX, "kapture_outbox_scan", queue->attachment_id, queue->report.floor);
	while (cost <= QUEUE_BOUND &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan.scan, ForwardScanDirection)))
	{
		TimestampTz captured = DatumGetTimestampTz(queue_column(&scan, tuple, "captured_at", &isnull));

		char		op = DatumGetChar(queue_column(&scan, tuple, "op", &isnull));

		entries++;
		cost++;
		if (op == KAPTURE_NOTE_TRUNCATED || op == KAPTURE_NOTE_END)
			continue;			/* the entry is about no row */
		queue->oldest = Min(queue->oldest, captured);
		queue->pending++;
		if (kapture_catalog_outbox_packs())
		{
			Datum		more = queue_column(&scan, tuple, "more_keys", &isnull);

			if (!isnull)
			{
				ArrayType  *array = DatumGetArrayTypeP(more);

				queue->pending += ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
				cost += QUEUE_PACK_COST;
			}
		}
	}
	queue_end(&scan);
	if (cost > QUEUE_BOUND)
	{
		/* assumes that the other entries hold as many changes as those that were read */
		queue->pending = Max(queue->pending,
							 (int64) ((double) queue->pending / entries * queue_estimate(KAPTURE_TABLE_OUTBOX)));
		queue->exact = false;
	}
}

/* Takes in one row that the worker has taken up. */
static void
queue_note_delivery(Queue *queue, QueueScan *scan, HeapTuple tuple)
{
	bool		isnull;
	char	   *state = TextDatumGetCString(queue_column(scan, tuple, "state", &isnull));
	TimestampTz captured = DatumGetTimestampTz(queue_column(scan, tuple, "captured_at", &isnull));
	TimestampTz attempt = DatumGetTimestampTz(queue_column(scan, tuple, "last_attempt", &isnull));
	Datum		error = queue_column(scan, tuple, "last_error", &isnull);

	if (strcmp(state, "sending") == 0)
		queue->in_flight++;
	else if (strcmp(state, "retry") == 0)
		queue->retrying++;
	else
		queue->parked++;
	queue->oldest = Min(queue->oldest, captured);
	if (!isnull && attempt >= queue->last_attempt)
	{
		queue->last_attempt = attempt;
		queue->last_error = TextDatumGetCString(error);
	}
	pfree(state);
}

/* How many rows wait for another try; the bound at most. */
static int64
queue_count_retrying(int32 attachment_id)
{
	QueueScan	scan;
	int64		n = 0;

	queue_begin(&scan, KAPTURE_TABLE_DELIVERY, "kapture_delivery_due", attachment_id, 0);
	while (n < QUEUE_BOUND && HeapTupleIsValid(systable_getnext_ordered(scan.scan, ForwardScanDirection)))
		n++;
	queue_end(&scan);
	return n;
}

/* Counts rows that the worker has taken up. */
static void
queue_read_deliveries(Queue *queue)
{
	QueueScan	scan;
	HeapTuple	tuple;
	int			n = 0;

	queue_begin(&scan, KAPTURE_TABLE_DELIVERY, "kapture_delivery_pkey", queue->attachment_id, 0);
	while (n <= QUEUE_BOUND &&
		   HeapTupleIsValid(tuple = systable_getnext_ordered(scan.scan, ForwardScanDirection)))
	{
		queue_note_delivery(queue, &scan, tuple);
		n++;
	}
	queue_end(&scan);
	if (n > QUEUE_BOUND)
	{
		/* most are parked: the number of parked rows is the only one without a limit */
		queue->in_flight = Max(queue->in_flight, queue->report.in_flight);
		queue->retrying = Max(queue->retrying, queue_count_retrying(queue->attachment_id));
		queue->parked = Max(queue->parked,
							queue_estimate(KAPTURE_TABLE_DELIVERY) - queue->in_flight - queue->retrying);
		queue->exact = false;
	}
}

/* Fills in the last success: from the history, or, without one, as the worker reported it. */
static void
queue_read_history(Queue *queue)
{
	QueueScan	scan;
	HeapTuple	tuple;
	bool		isnull;

	queue->last_success = queue->report.last_success;
	queue_begin(&scan, KAPTURE_TABLE_HISTORY, "kapture_history_finished", queue->attachment_id, 0);
	tuple = systable_getnext_ordered(scan.scan, BackwardScanDirection);
	if (HeapTupleIsValid(tuple))
		queue->last_success = Max(queue->last_success,
								  DatumGetTimestampTz(queue_column(&scan, tuple, "finished_at", &isnull)));
	queue_end(&scan);
}

/* The owner of the attached table; InvalidOid if there is no such table. */
static Oid
queue_owner(int32 attachment_id)
{
	Relation	rel = table_open(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), AccessShareLock);
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	Oid			owner = InvalidOid;

	ScanKeyInit(&key[0], get_attnum(RelationGetRelid(rel), "attachment_id"),
				BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(attachment_id));
	scan = systable_beginscan(rel, InvalidOid, false, GetActiveSnapshot(), 1, key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum		relid = heap_getattr(tuple, get_attnum(RelationGetRelid(rel), "relation"),
										 RelationGetDescr(rel), &isnull);
		HeapTuple	class = SearchSysCache1(RELOID, relid);

		if (HeapTupleIsValid(class))
		{
			owner = ((Form_pg_class) GETSTRUCT(class))->relowner;
			ReleaseSysCache(class);
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return owner;
}

/*
 * kapture_queue(attachment_id integer) returns record
 *
 * NULLs for what the current role may not see.
 */
Datum
kapture_queue(PG_FUNCTION_ARGS)
{
	Queue		queue = {.attachment_id = PG_GETARG_INT32(0), .exact = true, .oldest = DT_NOEND};
	Oid			owner = queue_owner(queue.attachment_id);
	bool		owned = OidIsValid(owner) && has_privs_of_role(GetUserId(), owner);
	TupleDesc	desc;
	Datum		values[8] = {0};
	bool		nulls[8] = {true, true, true, true, true, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	if (owned || (OidIsValid(owner) && has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS)))
	{
		kapture_shmem_read_table(queue.attachment_id, &queue.report);
		queue_read_outbox(&queue);
		queue_read_deliveries(&queue);
		queue_read_history(&queue);
		memset(nulls, 0, sizeof(nulls));
		values[0] = Int64GetDatum(queue.pending);
		values[1] = Int64GetDatum(queue.in_flight);
		values[2] = Int64GetDatum(queue.retrying);
		values[3] = Int64GetDatum(queue.parked);
		values[4] = BoolGetDatum(queue.exact);
		values[5] = TimestampTzGetDatum(queue.oldest);
		nulls[5] = queue.oldest == DT_NOEND;
		values[6] = TimestampTzGetDatum(queue.last_success);
		nulls[6] = queue.last_success == 0;
		nulls[7] = !owned || queue.last_error == NULL;
		values[7] = nulls[7] ? (Datum) 0 : CStringGetTextDatum(queue.last_error);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/*
 * kapture_table_problem(attachment_id integer) returns text
 *
 * As the worker reported it; for roles that may see the table's numbers.
 */
Datum
kapture_table_problem(PG_FUNCTION_ARGS)
{
	int32		attachment_id = PG_GETARG_INT32(0);
	Oid			owner = queue_owner(attachment_id);
	KaptureTableReport report;

	if (!OidIsValid(owner) ||
		!(has_privs_of_role(GetUserId(), owner) || has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS)))
		PG_RETURN_NULL();
	kapture_shmem_read_table(attachment_id, &report);
	if (report.problem[0] == '\0')
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(report.problem));
}

/*
 * Finds an error that stands in the way of a table: its own, or one of the whole
 * process.  Errors of the worker come before those of the puller.
 */
static bool
queue_find_trouble(int32 attachment_id, KaptureTrouble *trouble)
{
	for (int kind = 0; kind < KAPTURE_WORKER_KINDS; kind++)
	{
		if (kapture_shmem_read_trouble(kind, attachment_id, trouble) ||
			kapture_shmem_read_trouble(kind, 0, trouble))
			return true;
	}
	return false;
}

/*
 * kapture_table_error(attachment_id integer) returns text
 *
 * For roles with the rights of the table's owner, as the error may show a row's data.
 */
Datum
kapture_table_error(PG_FUNCTION_ARGS)
{
	int32		attachment_id = PG_GETARG_INT32(0);
	Oid			owner = queue_owner(attachment_id);
	KaptureTrouble trouble;

	if (!OidIsValid(owner) || !has_privs_of_role(GetUserId(), owner) ||
		!queue_find_trouble(attachment_id, &trouble))
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%s%s%s%s: %s", kapture_guard_phase_name(trouble.phase),
											  trouble.row_key[0] ? ", key \"" : "", trouble.row_key,
											  trouble.row_key[0] ? "\"" : "", trouble.message)));
}
