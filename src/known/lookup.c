/*
 * lookup.c
 *		Finds rows of attached tables by the customers that they have.
 *
 * kapture_row has the rows that were sent since it exists.  Other rows had their ids before
 * that, or got them from users or pulls.  These are found in the attached table itself, if
 * its id column has an index: reading the whole table for each link would take too long.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/user_code.h"
#include "known/lookup.h"
#include "known/row_state.h"
#include "table/row_io.h"
#include "table/row_sql.h"

typedef struct LookupBatch
{
	KaptureAttachment *att;
	Datum		ids;			/* bigint[] */
	MemoryContext context;
	List	   *holders;		/* of KaptureHolder, in that context */
} LookupBatch;

/* Is there an index that begins with the id column, and has all rows? */
static bool
lookup_has_index(Oid relid, const char *column)
{
	Relation	rel = relation_open(relid, NoLock); /* which is locked */
	AttrNumber	attnum = get_attnum(relid, column);
	bool		found = false;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));

		if (!HeapTupleIsValid(tuple))
			continue;
		found |= ((Form_pg_index) GETSTRUCT(tuple))->indisvalid &&
			((Form_pg_index) GETSTRUCT(tuple))->indkey.values[0] == attnum &&
			heap_attisnull(tuple, Anum_pg_index_indpred, NULL);
		ReleaseSysCache(tuple);
	}
	relation_close(rel, NoLock);
	return found && attnum != InvalidAttrNumber;
}

static void
lookup_do(void *arg)
{
	LookupBatch *batch = arg;
	KaptureAttachment *att = batch->att;
	char	   *id = psprintf("r.%s", quote_identifier(att->id_column));
	Oid			types[] = {INT8ARRAYOID};

	if (!lookup_has_index(att->root, att->id_column))
		return;
	kapture_user_code_select(psprintf("SELECT v.id, %s FROM unnest($1) AS v(id) JOIN %s AS r ON %s = v.id",
									  kapture_row_keys(att), kapture_row_source(att), id),
							 1, types, &batch->ids, NULL, false);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	line = SPI_tuptable->vals[i];
		MemoryContext old = MemoryContextSwitchTo(batch->context);
		KaptureHolder *holder = palloc0(sizeof(KaptureHolder));
		char	   *parts[INDEX_MAX_KEYS];
		bool		isnull;
		bool		keyless = false;

		holder->customer_id = DatumGetInt64(SPI_getbinval(line, SPI_tuptable->tupdesc, 1, &isnull));
		holder->attachment_id = att->id;
		holder->written = true;
		for (int k = 0; k < att->nkeys; k++)
		{
			parts[k] = SPI_getvalue(line, SPI_tuptable->tupdesc, k + 2);
			keyless |= parts[k] == NULL;
		}
		holder->row_key = keyless ? NULL : kapture_catalog_pack_key(parts, att->nkeys);
		if (!keyless)
			batch->holders = lappend(batch->holders, holder);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Returns the rows of a table that have these customers, a list of KaptureHolder in the
 * current memory context.  There are none if the table has no index of its ids, or cannot
 * be read now.
 */
List *
kapture_lookup_rows(KaptureAttachment *att, const int64 *customer_ids, int n)
{
	LookupBatch batch = {.att = att,.context = CurrentMemoryContext};
	Datum	   *ids = palloc(sizeof(Datum) * Max(n, 1));
	ErrorData  *error;

	if (n == 0 || att->nkeys == 0 || att->id_column == NULL)
		return NIL;
	for (int i = 0; i < n; i++)
		ids[i] = Int64GetDatum(customer_ids[i]);
	batch.ids = PointerGetDatum(construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	error = kapture_row_run(att, NULL, lookup_do, &batch);
	if (error == NULL)
		return batch.holders;
	FreeErrorData(error);
	return NIL;
}
