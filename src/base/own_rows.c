/*
 * own_rows.c
 *		Adds many rows at a time to the extension's own tables, and numbers new entries.
 *
 * The executor adds one row after the other, each with a WAL record of its own, and
 * an INSERT with ON CONFLICT confirms each by another one.  Here rows share a record
 * as far as they share a page, as with COPY.
 *
 * These tables have no triggers, and their defaults and checks are not looked at: the
 * caller knows what it writes.  Indexes are maintained, and an error is raised for a key
 * that exists already.
 *
 * Members of pg_write_all_data may set any sequence, and sequences have no policies.  So no
 * number of an entry is taken on a sequence's word: a number that is used twice would fail
 * the statements of others, mix up rows in the worker, or show a table's owner what became
 * of the rows of another table.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/dependency.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/pg_prng.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/lock.h"
#include "base/own_rows.h"
#include "base/owner_sql.h"

PG_FUNCTION_INFO_V1(kapture_next_number);

struct KaptureOwnRows
{
	Relation	rel;
	ResultRelInfo *rri;
	EState	   *estate;
	List	   *keys;			/* unique indexes over expressions */
	int			ncolumns;
	AttrNumber *attnums;		/* of the caller's columns */
	TupleTableSlot **slots;
	int			max;
	int			n;				/* of rows so far */
};

/* The unique indexes whose keys are computed; other unique indexes are on generated numbers. */
static List *
own_rows_keys(ResultRelInfo *rri)
{
	List	   *keys = NIL;

	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		if (rri->ri_IndexRelationInfo[i]->ii_Unique && rri->ri_IndexRelationInfo[i]->ii_Expressions != NIL)
			keys = lappend_oid(keys, RelationGetRelid(rri->ri_IndexRelationDescs[i]));
	}
	return keys;
}

static AttrNumber
own_rows_attnum(Relation rel, const char *name)
{
	int			attnum = SPI_fnumber(RelationGetDescr(rel), name);

	if (attnum <= 0)
		elog(ERROR, "table \"%s\" has no column \"%s\"", RelationGetRelationName(rel), name);
	return attnum;
}

/*
 * Begins to add at most "max" rows to a table, with values for the columns that are
 * named; the others are null.  To be ended by kapture_own_rows_end(), after an error
 * by the end of the transaction.  The result is palloc'ed.
 */
KaptureOwnRows *
kapture_own_rows_begin(KaptureTable table, const char *const *columns, int ncolumns, int max)
{
	KaptureOwnRows *rows = palloc0(sizeof(KaptureOwnRows));

	rows->rel = table_open(kapture_catalog_relid(table), RowExclusiveLock);
	rows->estate = CreateExecutorState();
	rows->rri = makeNode(ResultRelInfo);
	InitResultRelInfo(rows->rri, rows->rel, 1, NULL, 0);
	ExecOpenIndices(rows->rri, true);
	rows->keys = own_rows_keys(rows->rri);
	rows->ncolumns = ncolumns;
	rows->attnums = palloc(sizeof(AttrNumber) * ncolumns);
	for (int i = 0; i < ncolumns; i++)
		rows->attnums[i] = own_rows_attnum(rows->rel, columns[i]);
	rows->max = max;
	rows->slots = palloc(sizeof(TupleTableSlot *) * Max(max, 1));
	return rows;
}

/*
 * Adds a row, with "values" and "nulls" in the order of the columns; what the values
 * point to must stay until the row is written.
 */
void
kapture_own_rows_add(KaptureOwnRows *rows, const Datum *values, const bool *nulls)
{
	TupleTableSlot *slot;

	Assert(rows->n < rows->max);
	slot = MakeSingleTupleTableSlot(RelationGetDescr(rows->rel), &TTSOpsVirtual);
	memset(slot->tts_isnull, true, sizeof(bool) * slot->tts_tupleDescriptor->natts);
	for (int i = 0; i < rows->ncolumns; i++)
	{
		slot->tts_values[rows->attnums[i] - 1] = values[i];
		slot->tts_isnull[rows->attnums[i] - 1] = nulls[i];
	}
	ExecStoreVirtualTuple(slot);
	rows->slots[rows->n++] = slot;
}

/*
 * As kapture_own_rows_add(), but returns false, and adds nothing, if the table has a
 * row with the same key.  Waits for a transaction that is just adding one.
 */
bool
kapture_own_rows_add_new(KaptureOwnRows *rows, const Datum *values, const bool *nulls)
{
	ItemPointerData other;
	ItemPointerData none;
	bool		is_new;

	ItemPointerSetInvalid(&none);
	kapture_own_rows_add(rows, values, nulls);
	is_new = ExecCheckIndexConstraints(rows->rri, rows->slots[rows->n - 1], rows->estate, &other, &none, rows->keys);
	ResetPerTupleExprContext(rows->estate);
	if (!is_new)
		ExecDropSingleTupleTableSlot(rows->slots[--rows->n]);
	return is_new;
}

/*
 * Writes the rows; the next command sees them.  Errors: a key that exists already.
 */
void
kapture_own_rows_write(KaptureOwnRows *rows)
{
	if (rows->n == 0)
		return;
	if (rows->n == 1)
		table_tuple_insert(rows->rel, rows->slots[0], GetCurrentCommandId(true), 0, NULL);	/* a smaller WAL record */
	else
		table_multi_insert(rows->rel, rows->slots, rows->n, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < rows->n; i++)
	{
		(void) kapture_insert_index_tuples(rows->rri, rows->slots[i], rows->estate);
		ResetPerTupleExprContext(rows->estate);
	}
	CommandCounterIncrement();
}

/*
 * Returns where a row was written; rows are counted from 0.
 */
ItemPointerData
kapture_own_rows_place(const KaptureOwnRows *rows, int n)
{
	return rows->slots[n]->tts_tid;
}

/*
 * Ends adding rows; rows that were not written are dropped.
 */
void
kapture_own_rows_end(KaptureOwnRows *rows)
{
	for (int i = 0; i < rows->n; i++)
		ExecDropSingleTupleTableSlot(rows->slots[i]);
	ExecCloseIndices(rows->rri);
	FreeExecutorState(rows->estate);
	table_close(rows->rel, NoLock);
	pfree(rows);
}

/* Low bits that tell processes apart; the others have the time in microseconds, until 2071. */
#define OWN_ROWS_PROCESS_BITS	12

/*
 * Returns a number that no other call returns, in this process or in another one.  Later numbers are
 * greater, except that those of two processes may be in any order within a microsecond.
 */
int64
kapture_own_rows_next_number(void)
{
	static int64 last = 0;		/* in microseconds */

	last = Max(last + 1, (int64) GetCurrentTimestamp());
	return (last << OWN_ROWS_PROCESS_BITS) | (MyProcNumber & ((1 << OWN_ROWS_PROCESS_BITS) - 1));
}

/*
 * kapture_next_number() returns bigint
 *
 * For the defaults of columns.
 */
Datum
kapture_next_number(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(kapture_own_rows_next_number());
}

/* Is a number free, by a query that returns true if it ($1) is in use? */
static bool
own_rows_is_free(int32 number, const char *is_used)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(number)};

	return strcmp(kapture_own_text(is_used, lengthof(types), types, values), "f") == 0;
}

/*
 * Returns a small number for a new entry of one of the extension's tables: the next one of the table's
 * sequence or, if that has been set back, any number that is free.  A number is not free if the query
 * "is_used" returns true for it ($1), or if another transaction is about to use it: nobody waits for
 * that transaction.  If "negative", the entry is known by the number below zero.
 */
int32
kapture_own_rows_take_number(Oid relid, const char *is_used, bool negative)
{
	int32		number = (int32) nextval_internal(linitial_oid(getOwnedSequences(relid)), false);

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		/* locked only if it is free, as whatever has it would wait for this transaction, and looked at again then */
		if (number > 0 && own_rows_is_free(number, is_used) &&
			kapture_lock_attachment(negative ? -number : number, ExclusiveLock, false) &&
			own_rows_is_free(number, is_used))
			return number;
		number = (int32) (pg_prng_uint32(&pg_global_prng_state) & PG_INT32_MAX);
	}
}
