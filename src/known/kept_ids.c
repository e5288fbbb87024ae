/*
 * kept_ids.c
 *		Rows of tables without a column for ids, whose ids are in kapture_row.
 *
 * An entry may be older than the table: its row may have got another key, or be deleted,
 * and another row may have the key by now.  That is so until the worker has taken up the
 * change (row_state.c), or for as long as the change was not captured.  So whoever relies
 * on an entry also looks at the row, and at the changes that are noted of its key.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/owner_sql.h"
#include "base/user_code.h"
#include "known/kept_ids.h"
#include "known/row_state.h"

typedef struct KeptQuery
{
	const KaptureAttachment *att;
	Datum		customer_ids;	/* bigint[] */
	MemoryContext context;
	List	   *holders;		/* of KaptureHolder, in that context */

	/* for listing ids */
	int64		after;
	int			limit;
	int64	   *ids;
	int			n;
} KeptQuery;

static void
kept_do_find(void *arg)
{
	KeptQuery  *query = arg;
	Oid			types[] = {INT4OID, INT8ARRAYOID};
	Datum		values[] = {Int32GetDatum(query->att->id), query->customer_ids};

	SPI_connect();
	kapture_user_code_select(kapture_catalog_qualify("SELECT customer_id, row_key FROM @.kapture_row WHERE customer_id = ANY ($2)"
													 " AND attachment_id = $1 AND gone_at IS NULL"),
							 lengthof(values), types, values, NULL, false);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(query->context);
		KaptureHolder *holder = palloc0(sizeof(KaptureHolder));
		bool		isnull;

		holder->customer_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		holder->attachment_id = query->att->id;
		holder->row_key = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
		holder->written = true;
		query->holders = lappend(query->holders, holder);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}

/*
 * Returns which rows are recorded as having these customers, and not as deleted: a list of
 * KaptureHolder, in the current memory context.  Sees what has been committed by now.
 */
List *
kapture_kept_rows(const KaptureAttachment *att, const int64 *customer_ids, int n)
{
	KeptQuery	query = {.att = att,.context = CurrentMemoryContext};
	Datum	   *ids = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		ids[i] = Int64GetDatum(customer_ids[i]);
	query.customer_ids = PointerGetDatum(construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	kapture_own_run(kept_do_find, &query);
	return query.holders;
}

static void
kept_do_list(void *arg)
{
	KeptQuery  *query = arg;
	Oid			types[] = {INT4OID, INT8OID, INT8OID};
	Datum		values[] = {Int32GetDatum(query->att->id), Int64GetDatum(query->after), Int64GetDatum(query->limit)};

	SPI_connect();
	kapture_user_code_select(kapture_catalog_qualify("SELECT customer_id FROM @.kapture_row WHERE customer_id > $2"
													 " AND attachment_id = $1 AND gone_at IS NULL ORDER BY customer_id LIMIT $3"),
							 lengthof(values), types, values, NULL, true);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		query->ids[query->n++] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	SPI_finish();
}

/*
 * Fills in the ids of customers that rows of the table have, in order, those after "after"
 * only; returns how many, "limit" at most.
 */
int
kapture_kept_ids(const KaptureAttachment *att, int64 after, int limit, int64 *ids)
{
	KeptQuery	query = {.att = att,.after = after,.limit = limit,.ids = ids};

	kapture_own_run(kept_do_list, &query);
	return query.n;
}
