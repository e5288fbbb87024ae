/*
 * apply.c
 *		Puts pulled customers into the rows of attached tables.
 *
 * A customer's row is the one with its id, else the one without an id that has
 * its phone or email (emails in any case).  If there are several such rows, the
 * customer is parked; if there is none, a row is inserted.
 *
 * Where the extension keeps the ids, a customer's row is the one that is recorded
 * for it, as long as the recorded key is still that row's.
 *
 * The order of steps keeps local changes from being lost:
 *
 * 1. The row is locked, unless somebody else holds it: then it is tried later.
 *    From here on no change of it can be committed.
 * 2. The changes that wait to be sent for the row are looked up.  A change is noted
 *    in the same transaction that makes it, so none is missed.  Columns with a waiting
 *    change are left alone, or, with on_conflict 'remote', the change is given up.
 * 3. If something of the row was sent after Kapture was asked, what was pulled
 *    may be older: the row is left as it is.
 * 4. The other columns are written, as the table's owner, each row in a subtransaction.
 *
 * A row that is being added to Kapture, or waits to be, will be linked to its
 * customer by the worker.  The customer waits for that, even if the row is in another
 * table of the server, as the row whose Add has made a customer is to have it.  A
 * customer whose row was sent but is gone was deleted here, and is not inserted again.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/compat.h"
#include "base/user_code.h"
#include "cluster/guard.h"
#include "known/kept_ids.h"
#include "known/row_state.h"
#include "mapping/expression.h"
#include "pull/apply.h"
#include "table/capture.h"
#include "table/row_io.h"
#include "table/row_sql.h"
#include "traffic/pacing.h"

/* Milliseconds after which the rest of a batch is left for another time. */
#define ARRIVAL_TIME		1000

/* Milliseconds between tries of a customer, at most. */
#define ARRIVAL_LONGEST		300000

/* Where the extension keeps the ids: rows with a customer's phone or email that are looked at, at most. */
#define ARRIVAL_MAX_FOUND	1000

/* Tries of a customer after which a lock error raised by code of the table itself is taken for a permanent error. */
#define ARRIVAL_RAISED_MAX	5

/* Milliseconds by which a customer's generation date may be before its Add ended. */
#define ARRIVAL_ADD_TIME	600000

/* A customer, and the row it belongs to. */
typedef struct ArrivalItem
{
	KaptureArrival *arrival;
	int			matches;		/* rows found */
	bool		by_id;
	bool		keyless;		/* one of the rows found has NULL in its key */
	bool		crowded;		/* more rows were found than are looked at */
	bool		moved;			/* it is not settled yet which row has a key, or the customer */
	KaptureRow	row;			/* the last row found */
	List	   *found;			/* keys (char *) of rows found, if the extension keeps the ids */
	const KaptureWaiting *waiting;	/* NULL: nothing waits */
} ArrivalItem;

typedef struct ArrivalBatch
{
	KaptureAttachment *att;
	const char *timezone;
	MemoryContext context;
	List	   *items;			/* of ArrivalItem */
	List	   *linked;			/* keys (char *) of rows that have got a customer's id */

	/* for writing one item */
	ArrivalItem *item;
	int64		columns;		/* bits */
	bool		insert;
	const char *new_key;		/* key of the inserted row */
	ErrorData  *error;			/* of the last write, or NULL */
	bool		written;
} ArrivalBatch;

/* ------------------------------------------------------------------------
 * Finding rows
 * ------------------------------------------------------------------------
 */

/* The row key in line "i" of the last result, from column "col" on; NULL if a part of the key is NULL. */
static char *
arrival_key(ArrivalBatch *batch, uint64 i, int col)
{
	char	   *parts[INDEX_MAX_KEYS];

	for (int k = 0; k < batch->att->nkeys; k++)
	{
		parts[k] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, col + k);
		if (parts[k] == NULL)
			return NULL;
	}
	return MemoryContextStrdup(batch->context, kapture_catalog_pack_key(parts, batch->att->nkeys));
}

static void
arrival_add_found(ArrivalBatch *batch, ArrivalItem *item, char *key)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	item->crowded |= list_length(item->found) == ARRIVAL_MAX_FOUND;
	if (!item->crowded)
		item->found = lappend(item->found, key);
	MemoryContextSwitchTo(old);
}

/* Takes in the rows of the last result, whose first column is the number of an item in the list, from 1 on. */
static void
arrival_take_rows(ArrivalBatch *batch, List *items, bool by_id)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int64		ord = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		ArrivalItem *item = list_nth(items, (int) ord - 1);
		char	   *key = arrival_key(batch, i, 2);

		item->by_id = by_id;
		item->matches++;
		/* the table may have lost its primary key */
		item->keyless |= key == NULL;
		if (key)
			item->row.row_key = key;
		if (key && batch->att->id_column == NULL)
			arrival_add_found(batch, item, key);
	}
}

static void
arrival_find_by_id(ArrivalBatch *batch)
{
	Oid			types[] = {INT8ARRAYOID};
	Datum		values[1];
	Datum	   *ids = palloc(sizeof(Datum) * list_length(batch->items));
	StringInfoData sql;
	ListCell   *lc;
	int			n = 0;

	foreach(lc, batch->items)
		ids[n++] = Int64GetDatum(((ArrivalItem *) lfirst(lc))->arrival->customer_id);
	values[0] = PointerGetDatum(construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT v.ord, %s", kapture_row_keys(batch->att));
	appendStringInfo(&sql, " FROM unnest($1) WITH ORDINALITY AS v(id, ord) JOIN %s AS r ON r.%s = v.id",
					 kapture_row_source(batch->att), quote_identifier(batch->att->id_column));
	kapture_user_code_select(sql.data, 1, types, values, NULL, false);
	arrival_take_rows(batch, batch->items, true);
}

/* The value of a field, as an expression; NULL if nothing feeds it. */
static char *
arrival_column(const KaptureAttachment *att, const char *field)
{
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (strcmp(att->columns[i].field, field) == 0)
			return kapture_row_value_sql(att, i);
	}
	return NULL;
}

/* SQL for: row "r" has no id.  Ids that the extension keeps are looked at later. */
static char *
arrival_has_no_id(const KaptureAttachment *att)
{
	return att->id_column ? psprintf("r.%s IS NULL", quote_identifier(att->id_column)) : "true";
}

/* A text[] of phones or emails. */
static Datum
arrival_texts(List *items, bool phone)
{
	int			n = list_length(items);
	Datum	   *elems = palloc(sizeof(Datum) * n);
	bool	   *nulls = palloc(sizeof(bool) * n);
	int			lbs[1] = {1};

	for (int i = 0; i < n; i++)
	{
		KaptureArrival *arrival = ((ArrivalItem *) list_nth(items, i))->arrival;
		char	   *text = phone ? arrival->phone : arrival->email;

		nulls[i] = text == NULL;
		elems[i] = text ? CStringGetTextDatum(text) : (Datum) 0;
	}
	return PointerGetDatum(construct_md_array(elems, nulls, 1, &n, lbs, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Finds rows for customers whose id no row has: by phone or email, among rows without an id. */
static void
arrival_find_by_contact(ArrivalBatch *batch)
{
	char	   *phone = arrival_column(batch->att, "phone");
	char	   *email = arrival_column(batch->att, "email_id");
	Oid			types[] = {TEXTARRAYOID, TEXTARRAYOID};
	Datum		values[2];
	List	   *items = NIL;
	StringInfoData sql;
	ListCell   *lc;

	foreach(lc, batch->items)
	{
		if (((ArrivalItem *) lfirst(lc))->matches == 0 && !((ArrivalItem *) lfirst(lc))->moved)
			items = lappend(items, lfirst(lc));
	}
	if (items == NIL)
		return;
	values[0] = arrival_texts(items, true);
	values[1] = arrival_texts(items, false);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT v.ord, %s", kapture_row_keys(batch->att));
	appendStringInfo(&sql, " FROM unnest($1, $2) WITH ORDINALITY AS v(phone, email, ord) JOIN %s AS r"
					 " ON %s AND (%s = v.phone OR %s = v.email)",
					 kapture_row_source(batch->att), arrival_has_no_id(batch->att),
					 phone ? phone : "NULL::text", email ? email : "NULL::text");
	kapture_user_code_select(sql.data, 2, types, values, NULL, false);
	arrival_take_rows(batch, items, false);
}

/*
 * Finds rows for customers that still have none: a row may have the email in another
 * case, which an index on the column does not find.
 */
static void
arrival_find_by_email(ArrivalBatch *batch)
{
	char	   *email = arrival_column(batch->att, "email_id");
	Oid			types[] = {TEXTARRAYOID};
	Datum		values[1];
	List	   *items = NIL;
	StringInfoData sql;
	ListCell   *lc;

	foreach(lc, batch->items)
	{
		ArrivalItem *item = lfirst(lc);

		if (item->matches == 0 && !item->moved && item->arrival->email != NULL)
			items = lappend(items, item);
	}
	if (items == NIL || email == NULL)
		return;
	values[0] = arrival_texts(items, false);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT v.ord, %s", kapture_row_keys(batch->att));
	appendStringInfo(&sql, " FROM unnest($1) WITH ORDINALITY AS v(email, ord) JOIN %s AS r"
					 " ON %s AND lower(%s) = lower(v.email)",
					 kapture_row_source(batch->att), arrival_has_no_id(batch->att), email);

	/* without an index on lower(), the rows are to be read once, not for each customer */
	(void) set_config_option("enable_hashjoin", "on", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	kapture_user_code_select(sql.data, 1, types, values, NULL, false);
	arrival_take_rows(batch, items, false);
}

static void
arrival_do_find(void *arg)
{
	ArrivalBatch *batch = arg;

	arrival_find_by_id(batch);
	arrival_find_by_contact(batch);
	arrival_find_by_email(batch);
}

/* ------------------------------------------------------------------------
 * Finding rows where the extension keeps the ids
 * ------------------------------------------------------------------------
 */

static int
arrival_compare_key(const void *key, const void *cell)
{
	return strcmp(key, lfirst((const ListCell *) cell));
}

/* Is the key in this sorted list? */
static bool
arrival_has_key(List *keys, const char *key)
{
	return keys != NIL &&
		bsearch(key, list_head(keys), list_length(keys), sizeof(ListCell), arrival_compare_key) != NULL;
}

/* The entries (KaptureHolder) of rows that are recorded as having the batch's customers. */
static List *
arrival_kept_rows(ArrivalBatch *batch)
{
	int64	   *ids = palloc(sizeof(int64) * list_length(batch->items));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, batch->items)
		ids[n++] = ((ArrivalItem *) lfirst(lc))->arrival->customer_id;
	return kapture_kept_rows(batch->att, ids, n);
}

/* Is the entry still there? */
static bool
arrival_is_kept(List *holders, const KaptureHolder *holder)
{
	ListCell   *lc;

	foreach(lc, holders)
	{
		const KaptureHolder *other = lfirst(lc);

		if (other->customer_id == holder->customer_id && strcmp(other->row_key, holder->row_key) == 0)
			return true;
	}
	return false;
}

/* Gives the item the row that an entry names, unless the row is gone without its deletion having been noted. */
static void
arrival_take_kept(ArrivalItem *item, const KaptureRow *row, bool moved)
{
	if (moved)
		item->moved = true;
	else if (row->outcome != KAPTURE_ROW_GONE)
	{
		item->by_id = true;
		item->matches++;
		item->row = *row;
	}
}

/*
 * Finds and locks the rows that are recorded as having the customers.  Once a row is locked, no
 * change of its key can be committed, so reading the entries again shows whether one is outdated.
 */
static void
arrival_find_kept(ArrivalBatch *batch)
{
	List	   *holders = arrival_kept_rows(batch);
	List	   *now;
	List	   *moving;
	List	   *keys = NIL;
	List	   *rows;
	ListCell   *lc;
	ListCell   *hc;
	ListCell   *rc;

	if (holders == NIL)
		return;
	foreach(hc, holders)
		keys = lappend(keys, ((KaptureHolder *) lfirst(hc))->row_key);
	rows = kapture_row_list(keys, batch->context);
	kapture_row_hold(batch->att, batch->timezone, rows);
	/* in this order: moves that the worker takes up in between show in the entries */
	moving = kapture_inbox_moving_keys(batch->att->id, keys);
	now = arrival_kept_rows(batch);
	foreach(lc, batch->items)
	{
		ArrivalItem *item = lfirst(lc);

		forboth(hc, holders, rc, rows)
		{
			const KaptureHolder *holder = lfirst(hc);

			if (holder->customer_id == item->arrival->customer_id)
				arrival_take_kept(item, lfirst(rc), arrival_has_key(moving, holder->row_key) || !arrival_is_kept(now, holder));
		}
	}
}

/* Drops rows that were found by phone or email but have another customer. */
static void
arrival_drop_kept(ArrivalBatch *batch)
{
	List	   *keys = NIL;
	List	   *moving;
	List	   *without;
	ListCell   *lc;
	ListCell   *kc;
	ListCell   *wc;

	foreach(lc, batch->items)
		keys = list_concat(keys, ((ArrivalItem *) lfirst(lc))->found);
	if (keys == NIL)
		return;
	/* in this order, as above */
	moving = kapture_inbox_moving_keys(batch->att->id, keys);
	without = kapture_row_without_ids(batch->att, keys);
	wc = list_head(without);
	foreach(lc, batch->items)
	{
		ArrivalItem *item = lfirst(lc);
		List	   *found = item->found;

		item->found = NIL;
		foreach(kc, found)
		{
			char	   *key = lfirst(kc);

			item->moved |= arrival_has_key(moving, key);
			/* "without" has some of the keys, in the same order */
			if (wc && lfirst(wc) == key)
			{
				wc = lnext(without, wc);
				item->found = lappend(item->found, key);
				item->row.row_key = key;
			}
			else
				item->matches--;
		}
	}
}

static void
arrival_do_find_by_contact(void *arg)
{
	arrival_find_by_contact(arg);
}

static void
arrival_do_find_by_email(void *arg)
{
	arrival_find_by_email(arg);
}

/* Finds the rows of the customers; returns NULL, or the error of reading the table. */
static ErrorData *
arrival_find(ArrivalBatch *batch)
{
	ErrorData  *error;

	if (batch->att->id_column)
		return kapture_row_run(batch->att, batch->timezone, arrival_do_find, batch);
	arrival_find_kept(batch);
	error = kapture_row_run(batch->att, batch->timezone, arrival_do_find_by_contact, batch);
	if (error)
		return error;
	arrival_drop_kept(batch);
	error = kapture_row_run(batch->att, batch->timezone, arrival_do_find_by_email, batch);
	if (error)
		return error;
	arrival_drop_kept(batch);
	return NULL;
}

/* ------------------------------------------------------------------------
 * Writing rows
 * ------------------------------------------------------------------------
 */

/* May a column be written, and has the customer a value for it? */
static bool
arrival_has_value(const KaptureAttachment *att, const KaptureArrival *arrival, int i)
{
	return arrival->values[i] != NULL && att->columns[i].attnum != InvalidAttrNumber &&
		get_attgenerated(att->root, get_attnum(att->root, att->columns[i].name)) == '\0';
}

/* "$n::type", without the type's modifier: what is too long is an error, not cut. */
static char *
arrival_parameter(const KaptureAttachment *att, int i, int n)
{
	Oid			type = get_atttype(att->root, get_attnum(att->root, att->columns[i].name));

	return psprintf("$%d::%s", n, format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
}

/* INSERT INTO t AS r (id, c1, ...) VALUES ($1, $2::type, ...) RETURNING (does the filter take it?), [(has it the id?),] key1, ... */
static void
arrival_insert_sql(ArrivalBatch *batch, StringInfo sql)
{
	KaptureAttachment *att = batch->att;
	StringInfoData names;
	StringInfoData values;
	int			n = 0;

	initStringInfo(&names);
	initStringInfo(&values);
	if (att->id_column)
	{
		appendStringInfo(&names, ", %s", quote_identifier(att->id_column));
		appendStringInfo(&values, ", $%d", ++n);
	}
	for (int i = 0; i < att->ncolumns; i++)
	{
		if ((batch->columns & (INT64CONST(1) << att->columns[i].bit)) == 0)
			continue;
		appendStringInfo(&names, ", %s", quote_identifier(att->columns[i].name));
		appendStringInfo(&values, ", %s", arrival_parameter(att, i, ++n));
	}
	appendStringInfo(sql, "INSERT INTO %s AS r ", kapture_row_relation_name(att->root));
	if (n > 0)
		appendStringInfo(sql, "(%s) VALUES (%s)", names.data + 2, values.data + 2);
	else
		appendStringInfoString(sql, "DEFAULT VALUES");
	appendStringInfo(sql, " RETURNING %s IS TRUE", att->filter ? kapture_expression_sql(att, att->filter) : "true");
	if (att->id_column)
		kapture_row_append_has_id(sql, att, "$1");
	appendStringInfo(sql, ", %s", kapture_row_keys(att));
}

/* Raises an error if the filter leaves out the inserted row: such a customer is not to be in the table. */
static void
arrival_check_inside(void)
{
	bool		isnull;

	if (SPI_processed > 0 && !DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("the customer's row would be outside of the table's filter")));
}

/*
 * Takes in the key of the inserted row.  Where the extension keeps the ids, if a row with that key
 * was deleted and the worker has not taken that up yet, the worker would take the new row for the
 * deleted one: then this is an error.
 */
static void
arrival_take_new_key(ArrivalBatch *batch)
{
	char	   *key;

	if (SPI_processed == 0)
		return;
	key = arrival_key(batch, 0, batch->att->id_column ? 3 : 2);
	batch->new_key = key;
	if (key && batch->att->id_column == NULL && kapture_inbox_moving_keys(batch->att->id, list_make1(key)) != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("the deletion of a row with the key of the new one has not been taken up yet")));
}

/* UPDATE t AS r SET id = $1, c1 = $2::type, ... WHERE r.key1 = $n AND ... [RETURNING true, (has it the id?)] */
static void
arrival_update_sql(ArrivalBatch *batch, StringInfo sql)
{
	KaptureAttachment *att = batch->att;
	const char *separator = " SET ";
	int			n = 0;

	appendStringInfo(sql, "UPDATE %s AS r", kapture_row_source(att));
	if (att->id_column)
	{
		appendStringInfo(sql, " SET %s = $%d", quote_identifier(att->id_column), ++n);
		separator = ", ";
	}
	for (int i = 0; i < att->ncolumns; i++)
	{
		if ((batch->columns & (INT64CONST(1) << att->columns[i].bit)) == 0)
			continue;
		appendStringInfo(sql, "%s%s = %s", separator, quote_identifier(att->columns[i].name), arrival_parameter(att, i, ++n));
		separator = ", ";
	}
	appendStringInfoString(sql, " WHERE ");
	kapture_row_append_match(sql, att, "$", n + 1);
	if (att->id_column)
	{
		appendStringInfoString(sql, " RETURNING true");
		kapture_row_append_has_id(sql, att, "$1");
	}
}

static void
arrival_do_write(void *arg)
{
	ArrivalBatch *batch = arg;
	KaptureAttachment *att = batch->att;
	KaptureArrival *arrival = batch->item->arrival;
	Oid			types[1 + KAPTURE_MAX_COLUMNS + INDEX_MAX_KEYS];
	Datum		values[1 + KAPTURE_MAX_COLUMNS + INDEX_MAX_KEYS];
	StringInfoData sql;
	int			n = 0;
	int			rc;

	kapture_user_code_check_partitions();
	initStringInfo(&sql);
	if (att->id_column)
	{
		types[n] = INT8OID;
		values[n++] = Int64GetDatum(arrival->customer_id);
	}
	for (int i = 0; i < att->ncolumns; i++)
	{
		if ((batch->columns & (INT64CONST(1) << att->columns[i].bit)) == 0)
			continue;
		types[n] = TEXTOID;
		values[n++] = CStringGetTextDatum(arrival->values[i]);
	}
	if (batch->insert)
		arrival_insert_sql(batch, &sql);
	else
	{
		char	  **keys = kapture_catalog_unpack_key(batch->item->row.row_key, att->nkeys);

		for (int i = 0; i < att->nkeys; i++)
		{
			types[n] = TEXTOID;
			values[n++] = CStringGetTextDatum(keys[i]);
		}
		arrival_update_sql(batch, &sql);
	}
	rc = kapture_user_code_execute(sql.data, n, types, values, NULL, false);
	if (rc != SPI_OK_INSERT_RETURNING && rc != SPI_OK_UPDATE_RETURNING && rc != SPI_OK_UPDATE)
		elog(ERROR, "unexpected SPI result %d", rc);
	batch->written = SPI_processed > 0;
	if (att->id_column)
		kapture_row_check_ids(SPI_processed, 2);
	if (batch->insert)
	{
		arrival_check_inside();
		arrival_take_new_key(batch);
	}
	if (att->id_column && batch->written)
		kapture_row_check_kept(att, batch->insert ? batch->new_key : batch->item->row.row_key, arrival->customer_id);
}

/* ------------------------------------------------------------------------
 * Deciding
 * ------------------------------------------------------------------------
 */

static void
arrival_done(ArrivalBatch *batch, ArrivalItem *item)
{
	kapture_inbox_done(batch->att->id, item->arrival->customer_id);
}

static void
arrival_park(ArrivalBatch *batch, ArrivalItem *item, const char *why)
{
	kapture_inbox_park(batch->att->id, item->arrival->customer_id, why);
}

static void
arrival_later(ArrivalBatch *batch, ArrivalItem *item, const char *why)
{
	int64		wait = kapture_pacing_backoff(item->arrival->attempts + 1, ARRIVAL_LONGEST);

	kapture_inbox_later(batch->att->id, item->arrival->customer_id,
						TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait), why);
}

static void
arrival_write_as_owner(void *arg)
{
	ArrivalBatch *batch = arg;

	batch->error = kapture_row_run(batch->att, batch->timezone, arrival_do_write, batch);
}

/* Where the extension keeps the ids: records which customer the row has. */
static void
arrival_keep_id(ArrivalBatch *batch, ArrivalItem *item)
{
	KaptureHolder holder = {.customer_id = item->arrival->customer_id,.attachment_id = batch->att->id};

	if (batch->att->id_column || item->by_id)
		return;
	holder.row_key = batch->insert ? unconstify(char *, batch->new_key) : unconstify(char *, item->row.row_key);
	if (holder.row_key)
		kapture_row_state_note(&holder);
}

/* Writes a row and notes what became of it.  Returns false if the customer is parked. */
static bool
arrival_write(ArrivalBatch *batch, ArrivalItem *item)
{
	ErrorData  *error;
	bool		parked = false;

	batch->item = item;
	batch->written = false;
	batch->new_key = NULL;
	batch->error = NULL;
	if (batch->att->id_column == NULL && !batch->insert && batch->columns == 0)
		batch->written = true;	/* only the customer's id is new, for which the table has no column */
	else
		kapture_capture_ignoring(batch->att->id, item->arrival->customer_id,
								 batch->insert ? batch->att->all_changed : batch->columns,
								 arrival_write_as_owner, batch);
	error = batch->error;
	if (error == NULL && batch->written)
	{
		arrival_done(batch, item);
		arrival_keep_id(batch, item);
		if (!batch->insert && !item->by_id)
			batch->linked = lappend(batch->linked, unconstify(char *, item->row.row_key));
	}
	else if (error == NULL)
	{
		parked = true;
		arrival_park(batch, item, "writing the customer changed no row; a trigger or rule of the table prevents it");
	}
	else if (kapture_row_is_passing(error) && (!kapture_row_is_raised(error) || item->arrival->attempts < ARRIVAL_RAISED_MAX))
		arrival_later(batch, item, kapture_guard_is_shortage(error) || kapture_row_is_raised(error) ?
					  error->message : "the row or the table is locked");
	else
	{
		parked = true;
		arrival_park(batch, item, error->message);
	}
	if (error)
		FreeErrorData(error);
	return !parked;
}

/* Settles a customer without a row. */
static void
arrival_insert(ArrivalBatch *batch, ArrivalItem *item)
{
	KaptureAttachment *att = batch->att;
	KaptureArrival *arrival = item->arrival;
	TimestampTz since = arrival->generated == DT_NOEND ? arrival->asked_at :
		TimestampTzPlusMilliseconds(Min(arrival->generated, arrival->asked_at), -ARRIVAL_ADD_TIME);

	if (kapture_inbox_is_added(att, false, arrival->phone, arrival->email))
	{
		arrival_later(batch, item, "a row with this phone or email is being added to Kapture");
		return;
	}
	if (kapture_inbox_was_finished(att->id, arrival->customer_id, since, false))
	{
		arrival_done(batch, item);	/* its row was deleted here */
		return;
	}
	batch->columns = 0;
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (arrival_has_value(att, arrival, i))
			batch->columns |= INT64CONST(1) << att->columns[i].bit;
	}
	batch->insert = true;
	(void) arrival_write(batch, item);
}

/* Does the row have the customer's value of a column already?  The case of emails is ignored. */
static bool
arrival_is_same(const KaptureAttachment *att, int i, const char *now, const char *value)
{
	if (now == NULL)
		return false;
	if (strcmp(att->columns[i].field, "email_id") == 0)
		return pg_strcasecmp(now, value) == 0;
	return strcmp(now, value) == 0;
}

/* Settles a customer with a row, which is locked by this transaction. */
static void
arrival_update(ArrivalBatch *batch, ArrivalItem *item)
{
	KaptureAttachment *att = batch->att;
	KaptureArrival *arrival = item->arrival;
	bool		overrules = item->waiting && att->remote_wins;
	int64		kept = item->waiting && !overrules ? item->waiting->changed : 0;

	if (kapture_inbox_was_finished(att->id, arrival->customer_id, arrival->asked_at, true))
	{
		arrival_done(batch, item);
		return;
	}
	if (overrules && item->waiting->sending)
	{
		arrival_later(batch, item, "the row is being sent to Kapture");
		return;
	}
	batch->columns = 0;
	for (int i = 0; i < att->ncolumns; i++)
	{
		const char *now = item->row.values[i];
		int64		bit = INT64CONST(1) << att->columns[i].bit;

		if ((kept & bit) == 0 && arrival_has_value(att, arrival, i) &&
			!arrival_is_same(att, i, now, arrival->values[i]))
			batch->columns |= bit;
	}
	batch->insert = false;
	if (batch->columns == 0 && item->row.customer_id != 0)
		arrival_done(batch, item);
	else if (!arrival_write(batch, item))
		return;					/* what waits here is not given up for what cannot be written */
	if (overrules)
		kapture_inbox_discard_waiting(att->id, item->row.row_key);
}

/* Has an earlier customer of the batch got the row that was found for this one by phone or email? */
static bool
arrival_is_late(const ArrivalBatch *batch, const ArrivalItem *item)
{
	ListCell   *lc;

	foreach(lc, batch->linked)
	{
		if (!item->by_id && strcmp(lfirst(lc), item->row.row_key) == 0)
			return true;
	}
	return false;
}

static void
arrival_settle(ArrivalBatch *batch, ArrivalItem *item)
{
	KaptureArrival *arrival = item->arrival;

	if (!arrival->present)
		arrival_done(batch, item);	/* the customer's copy was deleted */
	else if (item->crowded)
		arrival_park(batch, item, psprintf("more than %d rows have the customer's phone or email", ARRIVAL_MAX_FOUND));
	else if (item->moved)
		arrival_later(batch, item, "the row was changed meanwhile");
	else if (item->matches == 0)
		arrival_insert(batch, item);
	else if (item->keyless)
		arrival_park(batch, item, "the customer's row has NULL in a column of its key");
	else if (item->matches > 1)
		arrival_park(batch, item, item->by_id ?
					 psprintf("%d rows have the customer's id", item->matches) :
					 psprintf("%d rows without an id have the customer's phone or email", item->matches));
	else if (item->row.outcome == KAPTURE_ROW_FAILED)
		arrival_park(batch, item, item->row.error);
	else if (item->row.outcome != KAPTURE_ROW_DONE)
		arrival_later(batch, item, "the row is locked");
	else if (arrival_is_late(batch, item) ||
			 (item->row.customer_id != arrival->customer_id && (item->by_id || item->row.customer_id != 0)))
		arrival_later(batch, item, "the row was changed meanwhile");
	else if (!item->by_id &&
			 (item->waiting || kapture_inbox_is_added(batch->att, true, arrival->phone, arrival->email)))
		arrival_later(batch, item, "a row with this phone or email is being added to Kapture");
	else
		arrival_update(batch, item);
}

/* Locks the rows that were found, and looks up what waits to be sent for them. */
static void
arrival_hold(ArrivalBatch *batch)
{
	List	   *rows = NIL;
	List	   *keys = NIL;
	List	   *waiting;
	ListCell   *lc;
	ListCell   *wc;

	foreach(lc, batch->items)
	{
		ArrivalItem *item = lfirst(lc);

		if (item->matches != 1 || item->keyless || item->moved)
			continue;
		if (batch->att->id_column || !item->by_id)
			rows = lappend(rows, &item->row);
		keys = lappend(keys, unconstify(char *, item->row.row_key));
	}
	if (keys == NIL)
		return;
	if (rows != NIL)
		kapture_row_hold(batch->att, batch->timezone, rows);
	waiting = kapture_inbox_waiting(batch->att->id, keys);
	foreach(lc, batch->items)
	{
		ArrivalItem *item = lfirst(lc);

		foreach(wc, waiting)
		{
			if (item->matches == 1 && !item->keyless &&
				strcmp(((KaptureWaiting *) lfirst(wc))->row_key, item->row.row_key) == 0)
			{
				item->waiting = lfirst(wc);
				item->moved |= item->waiting->unsettled;
			}
		}
	}
}

/*
 * Brings customers (of KaptureArrival) into the table, and notes in the inbox
 * what became of each.  Needs a transaction; the rows it touches stay locked
 * until its end.  Returns how many it settled before its time was up, at least
 * one.  Errors: those of reading the table as a whole, as its owner; a lack of
 * rights is no error, but parks the customers.
 */
int
kapture_arrival_apply(KaptureAttachment *att, const char *timezone, List *arrivals)
{
	ArrivalBatch batch = {.att = att, .timezone = timezone, .context = CurrentMemoryContext};
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ARRIVAL_TIME);
	ErrorData  *error;
	ListCell   *lc;
	int			n = 0;

	foreach(lc, arrivals)
	{
		ArrivalItem *item = palloc0(sizeof(ArrivalItem));

		item->arrival = lfirst(lc);
		item->row.context = batch.context;
		batch.items = lappend(batch.items, item);
	}
	error = arrival_find(&batch);
	if (error && error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
	{
		/* a retry would not help: parked, where users see the reason, as with rows to send */
		foreach(lc, batch.items)
			arrival_park(&batch, lfirst(lc), error->message);
		return list_length(arrivals);
	}
	if (error)
		ReThrowError(error);
	arrival_hold(&batch);
	foreach(lc, batch.items)
	{
		if (n > 0 && GetCurrentTimestamp() > deadline)
			break;
		arrival_settle(&batch, lfirst(lc));
		n++;
	}
	return n;
}

/* For kapture_arrival_ids(). */
typedef struct ArrivalIds
{
	KaptureAttachment *att;
	int64		after;
	int			limit;
	int64	   *ids;
	int			n;
} ArrivalIds;

static void
arrival_do_ids(void *arg)
{
	ArrivalIds *batch = arg;
	char	   *column = psprintf("r.%s", quote_identifier(batch->att->id_column));
	Oid			types[] = {INT8OID, INT8OID};
	Datum		values[] = {Int64GetDatum(batch->after), Int64GetDatum(batch->limit)};
	bool		isnull;

	kapture_user_code_select(psprintf("SELECT %s FROM %s AS r WHERE %s > $1 ORDER BY %s LIMIT $2", column,
									  kapture_row_source(batch->att), column, column),
							 lengthof(values), types, values, NULL, true);
	for (uint64 i = 0; i < SPI_processed; i++)
		batch->ids[batch->n++] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Fills in the customers' ids above "after" that rows of the table have, in order;
 * returns how many, "limit" at most.  Errors: those of reading the table as its
 * owner.
 */
int
kapture_arrival_ids(KaptureAttachment *att, int64 after, int limit, int64 *ids)
{
	ArrivalIds	batch = {att, after, limit, ids, 0};
	ErrorData  *error;

	if (att->id_column == NULL)
		return kapture_kept_ids(att, after, limit, ids);
	error = kapture_row_run(att, NULL, arrival_do_ids, &batch);
	if (error)
		ReThrowError(error);
	return batch.n;
}
