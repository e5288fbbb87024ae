/*
 * inbox.c
 *		Pulled customers on their way to attached tables: table kapture_inbox.
 *
 * Whatever writes kapture_customers notes in the inbox, in the same transaction, which
 * customers were new or different, for each table attached with "pull".  Their values are
 * read from kapture_customers when a customer is due.  So several changes of a customer
 * arrive together, and a crash loses nothing.
 *
 * A mapped column is given what Kapture has for its field.  Where that is empty or masked,
 * or pulls do not return the field (zone is a number there), the column is left as it is.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "api/field.h"
#include "base/bounded_key.h"
#include "base/by_index.h"
#include "base/catalog.h"
#include "base/owner_sql.h"
#include "base/text.h"
#include "base/user_code.h"
#include "cluster/shmem.h"
#include "queue/inbox.h"
#include "table/binding.h"

/* The next $3 customers for attachment $1 that are due, and that nobody has locked. */
#define INBOX_DUE	" WHERE attachment_id = $1 AND state = 'waiting' AND next_attempt <= clock_timestamp()" \
	" ORDER BY attachment_id, next_attempt LIMIT $3 FOR UPDATE SKIP LOCKED"

/* Bytes of customers, as Kapture sent them, that are taken at a time. */
#define INBOX_MAX_BYTES	((Size) 4 * 1024 * 1024)

/*
 * Changes of an attachment that are looked through at a time, which takes some seconds at most, and how
 * many of them an entry counts for beside its further keys; changes of keys that are followed, as each
 * step from a key to the one before goes through all of them.
 */
#define INBOX_MAX_CHANGES	INT64CONST(5000000)
#define INBOX_ENTRY			"4"
#define INBOX_MAX_MOVES		500

/* Number of the first mapped column in the result of kapture_inbox_take(). */
#define INBOX_FIRST_VALUE	8

static Datum
inbox_name(const char *server)
{
	return DirectFunctionCall1(namein, CStringGetDatum(server));
}

/*
 * Notes those customers (bigint[]) of a server that were new or different.
 */
void
kapture_inbox_put(const char *server, Datum customer_ids, TimestampTz asked_at)
{
	Oid			types[] = {NAMEOID, INT8ARRAYOID, TIMESTAMPTZOID};
	Datum		values[] = {inbox_name(server), customer_ids, TimestampTzGetDatum(asked_at)};

	if (kapture_own_execute("INSERT INTO @.kapture_inbox AS i (attachment_id, customer_id, asked_at, server)"
							" SELECT a.attachment_id, v.id, $3, $1 FROM @.kapture_attachment a, unnest($2) AS v(id)"
							" WHERE " KAPTURE_BINDING_IS_OF_SERVER("$1") " AND a.pull ORDER BY 1, 2"
							" ON CONFLICT (attachment_id, customer_id) DO UPDATE SET state = 'waiting',"
							" asked_at = excluded.asked_at, next_attempt = excluded.next_attempt, attempts = 0,"
							" last_error = NULL, server = excluded.server",
							lengthof(values), types, values) > 0)
		kapture_shmem_wake_all_at_commit();
}

/*
 * Tells whether any table takes customers of a server.
 */
bool
kapture_inbox_wanted(const char *server)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {inbox_name(server)};

	return kapture_own_text("SELECT 't' FROM @.kapture_attachment AS a WHERE " KAPTURE_BINDING_IS_OF_SERVER("$1") " AND a.pull LIMIT 1",
							1, types, values) != NULL;
}

/*
 * Tells whether any table of this database takes pulled customers.
 */
bool
kapture_inbox_any(void)
{
	return kapture_own_text("SELECT 't' FROM @.kapture_attachment WHERE pull LIMIT 1", 0, NULL, NULL) != NULL;
}

/*
 * Returns the attachments (KaptureAttached) that take pulled customers of a server (NULL: of
 * any), in the current memory context, without their names and versions.
 */
List *
kapture_inbox_tables(const char *server)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {NAMEOID};
	Datum		values[] = {server ? inbox_name(server) : (Datum) 0};
	List	   *result = NIL;

	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	kapture_user_code_select(psprintf("SELECT a.attachment_id, a.relation FROM %s.kapture_attachment AS a WHERE a.pull AND NOT a.paused"
									  " AND ($1 IS NULL OR " KAPTURE_BINDING_IS_OF_SERVER("$1") ")", kapture_catalog_schema()),
							 lengthof(values), types, values, server ? " " : "n", true);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureAttached *attached = palloc0(sizeof(KaptureAttached));
		bool		isnull;

		attached->id = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		attached->relid = DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));
		result = lappend(result, attached);
	}
	SPI_finish();
	PopActiveSnapshot();
	return result;
}

/*
 * Appends a comma and an SQL expression for a customer's value of a field, over "c" and
 * KAPTURE_INBOX_CONTACT; NULL for a field that the customer does not have.
 */
void
kapture_inbox_append_value(StringInfo sql, const char *name)
{
	const KaptureField *field = kapture_field_find(name, strlen(name));

	/* a field of the account's own is pulled under its own name */
	if (field == NULL || !field->is_mapped)
		appendStringInfo(sql, ", CASE WHEN jsonb_typeof(c.raw->%s) IN ('string', 'number', 'boolean') THEN NULLIF(btrim(c.raw->>%s), '') END",
						 quote_literal_cstr(name), quote_literal_cstr(name));
	else if (field->pulled == NULL)
		appendStringInfoString(sql, ", NULL::text");
	else
		appendStringInfo(sql, ", NULLIF(btrim(%s), '')", field->pulled);
}

/* Makes a KaptureArrival of a row of the result, in the current memory context. */
static KaptureArrival *
inbox_make_arrival(const KaptureAttachment *att, HeapTuple row, TupleDesc desc)
{
	KaptureArrival *arrival = palloc0(sizeof(KaptureArrival));
	bool		isnull;
	Datum		value;

	arrival->customer_id = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
	arrival->asked_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 2, &isnull));
	arrival->attempts = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
	arrival->present = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
	value = SPI_getbinval(row, desc, 5, &isnull);
	arrival->generated = isnull ? DT_NOEND : DatumGetTimestampTz(value);
	arrival->phone = SPI_getvalue(row, desc, 6);
	arrival->email = SPI_getvalue(row, desc, 7);
	arrival->values = palloc0(sizeof(char *) * Max(att->ncolumns, 1));
	for (int i = 0; i < att->ncolumns; i++)
		arrival->values[i] = SPI_getvalue(row, desc, INBOX_FIRST_VALUE + i);
	return arrival;
}

/*
 * Returns how many of a table's next customers have INBOX_MAX_BYTES together, as Kapture
 * sent them; at least one.  *more is set if there may be more of them.
 */
static int
inbox_fitting(const KaptureAttachment *att, int limit, bool *more)
{
	char	   *schema = kapture_catalog_schema();
	Oid			types[] = {INT4OID, NAMEOID, INT8OID};
	Datum		values[] = {Int32GetDatum(att->id), inbox_name(att->server), Int64GetDatum(limit)};
	Size		bytes = 0;
	int			n = 0;

	kapture_user_code_select(psprintf("SELECT c.raw FROM (SELECT customer_id, next_attempt FROM %s.kapture_inbox" INBOX_DUE ") AS i"
									  " LEFT JOIN %s.kapture_customers AS c ON c.server = $2 AND c.id = i.customer_id"
									  " ORDER BY i.next_attempt", schema, schema),
							 lengthof(values), types, values, NULL, false);
	*more = SPI_processed == limit;
	while (n < SPI_processed)
	{
		bool		isnull;
		Datum		raw = SPI_getbinval(SPI_tuptable->vals[n], SPI_tuptable->tupdesc, 1, &isnull);

		bytes += isnull ? 0 : toast_raw_datum_size(raw);
		if (bytes > INBOX_MAX_BYTES && n > 0)
		{
			*more = true;
			break;
		}
		n++;
	}
	SPI_freetuptable(SPI_tuptable);
	return n;
}

/*
 * Returns at most "limit" customers that are due for a table, as a list of KaptureArrival
 * in the current memory context.  Customers that somebody has locked are left out.  *more
 * is set if there may be more.
 *
 * A customer that was noted for another server, before kapture_alter() gave the table this
 * one, is returned as not present: its id is another customer's here.  If no server has
 * that name, this one was renamed while somebody had locked the entry.
 */
List *
kapture_inbox_take(const KaptureAttachment *att, int limit, bool *more)
{
	MemoryContext context = CurrentMemoryContext;
	char	   *schema = kapture_catalog_schema();
	Oid			types[] = {INT4OID, NAMEOID, INT8OID};
	Datum		values[] = {Int32GetDatum(att->id), inbox_name(att->server), (Datum) 0};
	List	   *result = NIL;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT i.customer_id, i.asked_at, i.attempts, c.id IS NOT NULL, c.generation_date");
	kapture_inbox_append_value(&sql, "phone");
	kapture_inbox_append_value(&sql, "email_id");
	for (int i = 0; i < att->ncolumns; i++)
		kapture_inbox_append_value(&sql, att->columns[i].field);
	appendStringInfo(&sql, " FROM (SELECT * FROM %s.kapture_inbox" INBOX_DUE ") AS i"
					 " LEFT JOIN %s.kapture_customers AS c ON c.server = $2 AND c.id = i.customer_id"
					 " AND (i.server = $2 OR NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_server AS s WHERE s.srvname = i.server))"
					 KAPTURE_INBOX_CONTACT
					 " ORDER BY i.customer_id", schema, schema);

	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	values[2] = Int64GetDatum(inbox_fitting(att, limit, more));
	kapture_user_code_select(sql.data, lengthof(values), types, values, NULL, false);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
		result = lappend(result, inbox_make_arrival(att, SPI_tuptable->vals[i], SPI_tuptable->tupdesc));
	SPI_finish();
	PopActiveSnapshot();
	return result;
}

/*
 * Removes a customer that has reached the table, or need not reach it.
 */
void
kapture_inbox_done(int32 attachment_id, int64 customer_id)
{
	Oid			types[] = {INT4OID, INT8OID};
	Datum		values[] = {Int32GetDatum(attachment_id), Int64GetDatum(customer_id)};

	(void) kapture_own_execute("DELETE FROM @.kapture_inbox WHERE attachment_id = $1 AND customer_id = $2",
							   lengthof(values), types, values);
}

/*
 * Has a customer that could not reach the table yet tried again at "when".
 */
void
kapture_inbox_later(int32 attachment_id, int64 customer_id, TimestampTz when, const char *why)
{
	Oid			types[] = {INT4OID, INT8OID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[] = {
		Int32GetDatum(attachment_id), Int64GetDatum(customer_id), TimestampTzGetDatum(when), CStringGetTextDatum(kapture_text_cut(why))
	};

	(void) kapture_own_execute("UPDATE @.kapture_inbox SET next_attempt = $3, attempts = attempts + 1, last_error = $4"
							   " WHERE attachment_id = $1 AND customer_id = $2",
							   lengthof(values), types, values);
}

/*
 * Parks a customer that cannot reach the table before something is changed.
 */
void
kapture_inbox_park(int32 attachment_id, int64 customer_id, const char *why)
{
	Oid			types[] = {INT4OID, INT8OID, TEXTOID};
	Datum		values[] = {Int32GetDatum(attachment_id), Int64GetDatum(customer_id), CStringGetTextDatum(kapture_text_cut(why))};

	(void) kapture_own_execute("UPDATE @.kapture_inbox SET state = 'parked', attempts = attempts + 1, last_error = $3"
							   " WHERE attachment_id = $1 AND customer_id = $2",
							   lengthof(values), types, values);
}

/*
 * Returns when the next customer of a table is due; DT_NOEND if none waits.
 */
TimestampTz
kapture_inbox_next_due(int32 attachment_id)
{
	Oid			types[] = {INT4OID};
	Datum		values[] = {Int32GetDatum(attachment_id)};
	char	   *text = kapture_own_text("SELECT (extract(epoch FROM min(next_attempt) - '2000-01-01 UTC'::timestamptz) * 1000000)::bigint"
										" FROM @.kapture_inbox WHERE attachment_id = $1 AND state = 'waiting'",
										1, types, values);

	return text ? pg_strtoint64(text) : DT_NOEND;
}

/* A text[] of C strings. */
static Datum
inbox_texts(List *strings)
{
	Datum	   *elems = palloc(sizeof(Datum) * Max(list_length(strings), 1));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, strings)
		elems[n++] = CStringGetTextDatum((char *) lfirst(lc));
	return PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Is there more of an attachment than is looked through, of what meets "condition"? */
static bool
inbox_is_too_much(int32 attachment_id, FullTransactionId floor, const char *condition)
{
	Oid			types[] = {INT4OID, XID8OID, INT8OID};
	Datum		values[] = {Int32GetDatum(attachment_id), FullTransactionIdGetDatum(floor), Int64GetDatum(INBOX_MAX_CHANGES + 1)};
	bool		result;
	bool		isnull;

	SPI_connect();
	kapture_user_code_select(psprintf("SELECT coalesce(sum(" INBOX_ENTRY " + coalesce(cardinality(more_keys), 0)), 0) >= $3 FROM"
									  " (SELECT more_keys FROM %s.kapture_outbox WHERE attachment_id = $1 AND xact >= $2 AND %s LIMIT $3) AS o",
									  kapture_catalog_schema(), condition),
							 lengthof(values), types, values, NULL, false);
	result = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return result;
}

/* A key that a row has, or had before changes of keys that the worker has not followed yet. */
typedef struct InboxName
{
	char	   *row_key;
	char	   *key;
} InboxName;

/*
 * The keys under which something may wait for rows, as a list of InboxName; *few is false if too many
 * rows have got other keys: then each has only its present one.
 */
static List *
inbox_names(int32 attachment_id, List *row_keys, FullTransactionId floor, bool *few)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID, TEXTARRAYOID, XID8OID, INT8OID};
	Datum		values[] = {
		Int32GetDatum(attachment_id), inbox_texts(row_keys), FullTransactionIdGetDatum(floor), Int64GetDatum(INBOX_MAX_MOVES + 1)
	};
	List	   *names = NIL;

	SPI_connect();
	kapture_user_code_select(kapture_catalog_qualify("WITH RECURSIVE moves AS MATERIALIZED (SELECT row_key, old_key FROM @.kapture_outbox"
													 " WHERE attachment_id = $1 AND xact >= $3 AND op NOT IN ('i', 'u') AND old_key IS NOT NULL LIMIT $4),"
													 " size AS MATERIALIZED (SELECT count(*) < $4 AS few FROM moves),"
													 " named(row_key, k) AS (SELECT k, k FROM unnest($2) AS k UNION"
													 " SELECT n.row_key, m.old_key FROM named AS n JOIN moves AS m ON m.row_key = n.k"
													 " WHERE (SELECT few FROM size))"
													 " SELECT row_key, k, few FROM named, size"),
							 lengthof(values), types, values, NULL, false);
	MemoryContextSwitchTo(context);
	*few = true;
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		InboxName  *name = palloc(sizeof(InboxName));
		bool		isnull;

		name->row_key = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		name->key = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
		*few = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, &isnull));
		names = lappend(names, name);
	}
	SPI_finish();
	return names;
}

static int
inbox_compare_waiting(const ListCell *a, const ListCell *b)
{
	return strcmp(((KaptureWaiting *) lfirst(a))->row_key, ((KaptureWaiting *) lfirst(b))->row_key);
}

/*
 * What waits under these keys (of InboxName), as a list of KaptureWaiting, whose "unsettled" is set
 * if a row has got the key, having had another one before; in the order of strcmp().
 */
static List *
inbox_waiting_under(int32 attachment_id, List *names, FullTransactionId floor)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID, TEXTARRAYOID, XID8OID};
	Datum		values[] = {Int32GetDatum(attachment_id), (Datum) 0, FullTransactionIdGetDatum(floor)};
	List	   *keys = NIL;
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, names)
		keys = lappend(keys, ((InboxName *) lfirst(lc))->key);
	values[1] = inbox_texts(keys);
	SPI_connect();
	/* the array is a constant in the plan, so that it is hashed */
	kapture_user_code_select(kapture_catalog_qualify("SELECT k, bit_or(changed), bool_or(sending), bool_and(parked), bool_or(moved) FROM ("
													 "SELECT k, changed, false AS sending, false AS parked, old_key IS NOT NULL AND k = row_key AS moved"
													 " FROM @.kapture_outbox AS o, unnest(array_prepend(o.row_key, o.more_keys)) AS k"
													 " WHERE attachment_id = $1 AND xact >= $3 AND k = ANY ($2)"
													 " UNION ALL"
													 " SELECT row_key, changed | coalesce(again, 0), state = 'sending', state = 'parked', false"
													 " FROM @.kapture_delivery WHERE attachment_id + 0 = $1"
													 " AND " KAPTURE_KEY_BOUNDED("row_key") " = ANY (ARRAY(SELECT " KAPTURE_KEY_BOUNDED("n") " FROM unnest($2) AS n))"
													 " AND row_key = ANY ($2)) AS w GROUP BY k"),
							 lengthof(values), types, values, NULL, false);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		KaptureWaiting *waiting = palloc(sizeof(KaptureWaiting));
		bool		isnull;

		waiting->row_key = SPI_getvalue(row, desc, 1);
		waiting->changed = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
		waiting->sending = DatumGetBool(SPI_getbinval(row, desc, 3, &isnull));
		waiting->parked = DatumGetBool(SPI_getbinval(row, desc, 4, &isnull));
		waiting->unsettled = DatumGetBool(SPI_getbinval(row, desc, 5, &isnull));
		result = lappend(result, waiting);
	}
	SPI_finish();
	list_sort(result, inbox_compare_waiting);
	return result;
}

static int
inbox_compare_key(const void *key, const void *cell)
{
	return strcmp(key, ((KaptureWaiting *) lfirst((const ListCell *) cell))->row_key);
}

/* Appends what waits for a row under one of its keys, unless that is nothing. */
static List *
inbox_add_waiting(List *result, const InboxName *name, List *under)
{
	ListCell   *cell = under == NIL ? NULL : bsearch(name->key, list_head(under), list_length(under), sizeof(ListCell), inbox_compare_key);
	KaptureWaiting *waiting;

	if (cell == NULL)
		return result;
	waiting = palloc(sizeof(KaptureWaiting));
	*waiting = *(KaptureWaiting *) lfirst(cell);
	waiting->row_key = name->row_key;
	return lappend(result, waiting);
}

/* Puts together what waits for each row of a list, which is ordered by rows. */
static List *
inbox_merge_waiting(List *list)
{
	KaptureWaiting *last = NULL;
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, list)
	{
		KaptureWaiting *waiting = lfirst(lc);

		if (last && strcmp(last->row_key, waiting->row_key) == 0)
		{
			last->changed |= waiting->changed;
			last->sending |= waiting->sending;
			last->parked &= waiting->parked;
			last->unsettled |= waiting->unsettled;
			continue;
		}
		last = waiting;
		result = lappend(result, last);
	}
	return result;
}

/* The rows as a list of KaptureWaiting, if anything may wait for each of them. */
static List *
inbox_all_unsettled(List *row_keys)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, row_keys)
	{
		KaptureWaiting *waiting = palloc0(sizeof(KaptureWaiting));

		waiting->row_key = lfirst(lc);
		waiting->unsettled = true;
		result = lappend(result, waiting);
	}
	list_sort(result, inbox_compare_waiting);
	return inbox_merge_waiting(result);
}

/*
 * Returns what waits to be sent for rows (char *), as a list of KaptureWaiting in the
 * current memory context, in the order of strcmp().  Rows for which nothing waits are not in
 * the list.  What waits under a key that a row has given up counts for that row as well.
 * Sees what has been committed by now.
 *
 * However much waits, this takes some seconds at most, as others wait for it in the puller.  So
 * all rows are unsettled if there is too much; and those with new keys, if there are too many
 * of them.
 */
List *
kapture_inbox_waiting(int32 attachment_id, List *row_keys)
{
	KaptureTableReport report;
	FullTransactionId floor;
	List	   *names;
	List	   *under;
	List	   *result = NIL;
	bool		few;
	int			nestlevel;
	ListCell   *lc;

	kapture_shmem_read_table(attachment_id, &report);
	floor = FullTransactionIdFromU64(report.floor);
	nestlevel = kapture_by_index_begin();
	if (inbox_is_too_much(attachment_id, floor, "true"))
	{
		AtEOXact_GUC(true, nestlevel);
		return inbox_all_unsettled(row_keys);
	}
	names = inbox_names(attachment_id, row_keys, floor, &few);
	under = inbox_waiting_under(attachment_id, names, floor);
	AtEOXact_GUC(true, nestlevel);
	foreach(lc, under)
		((KaptureWaiting *) lfirst(lc))->unsettled &= !few;
	foreach(lc, names)
		result = inbox_add_waiting(result, lfirst(lc), under);
	list_sort(result, inbox_compare_waiting);
	return inbox_merge_waiting(result);
}

/* For inbox_do_find_moving(). */
typedef struct InboxKeys
{
	int32		attachment_id;
	List	   *row_keys;
	MemoryContext context;
	List	   *moving;			/* of char *, in that context */
	bool		all;			/* all of the keys may be meant */
} InboxKeys;

static void
inbox_do_find_moving(void *arg)
{
	InboxKeys  *keys = arg;
	Oid			types[] = {INT4OID, TEXTARRAYOID, XID8OID};
	Datum		values[] = {Int32GetDatum(keys->attachment_id), inbox_texts(keys->row_keys), (Datum) 0};
	KaptureTableReport report;
	int			nestlevel = kapture_by_index_begin();

	kapture_shmem_read_table(keys->attachment_id, &report);
	values[2] = FullTransactionIdGetDatum(FullTransactionIdFromU64(report.floor));
	keys->all = inbox_is_too_much(keys->attachment_id, FullTransactionIdFromU64(report.floor), "op NOT IN ('i', 'u')");
	SPI_connect();
	if (!keys->all)
		kapture_user_code_select(kapture_catalog_qualify("SELECT DISTINCT CASE WHEN op <> 't' THEN k END FROM @.kapture_outbox AS o,"
														 " unnest(array_append(array_prepend(o.row_key, o.more_keys), o.old_key)) AS k"
														 " WHERE attachment_id = $1 AND xact >= $3 AND op NOT IN ('i', 'u') AND (k = ANY ($2) OR op = 't')"),
								 lengthof(values), types, values, NULL, false);
	for (uint64 i = 0; !keys->all && i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(keys->context);
		char	   *key = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);

		if (key)
			keys->moving = lappend(keys->moving, key);
		else
			keys->all = true;	/* TRUNCATE */
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	AtEOXact_GUC(true, nestlevel);
}

static int
inbox_compare_keys(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/*
 * Returns those of the keys (char *) whose rows are not settled: rows with these keys were
 * deleted or given other keys, and the worker has not followed that yet; all of the keys, if
 * there is too much to look through.  The result is in the order of strcmp(), in the current
 * memory context.  Sees what has been committed by now.
 */
List *
kapture_inbox_moving_keys(int32 attachment_id, List *row_keys)
{
	InboxKeys	keys = {attachment_id, row_keys, CurrentMemoryContext, NIL, false};
	List	   *result;

	if (row_keys == NIL)
		return NIL;
	kapture_own_run(inbox_do_find_moving, &keys);
	result = keys.all ? list_copy(row_keys) : keys.moving;
	list_sort(result, inbox_compare_keys);
	return result;
}

/*
 * Tells whether an Add with this phone or email (NULL: none) is in flight or in doubt, in
 * the table or, if "elsewhere", in others of its server: then a pulled customer may be that
 * of the added row.  Rows of the table itself count also while they wait or are parked.
 */
bool
kapture_inbox_is_added(const KaptureAttachment *att, bool elsewhere, const char *phone, const char *email)
{
	Oid			types[] = {INT4OID, TEXTOID, TEXTOID, OIDOID, BOOLOID};
	Datum		values[] = {
		Int32GetDatum(att->id), CStringGetTextDatum(phone ? phone : ""), CStringGetTextDatum(email ? email : ""),
		ObjectIdGetDatum(att->serverid), BoolGetDatum(elsewhere)
	};

	return kapture_own_text("SELECT 't' FROM @.kapture_delivery AS d JOIN @.kapture_attachment AS a USING (attachment_id)"
							" WHERE a.server_oid = $4 AND CASE WHEN d.attachment_id = $1 THEN NOT $5"
							" ELSE d.state = 'sending' OR d.in_doubt IS NOT NULL END"
							" AND (d.sent_phone = NULLIF($2, '') OR lower(d.sent_email) = lower(NULLIF($3, ''))) LIMIT 1",
							lengthof(values), types, values) != NULL;
}

/*
 * Tells whether a change of a customer's row was finished after "since", as far as
 * kapture_history reaches back; if "sent", only if something had to be sent for it.
 */
bool
kapture_inbox_was_finished(int32 attachment_id, int64 customer_id, TimestampTz since, bool sent)
{
	Oid			types[] = {INT4OID, INT8OID, TIMESTAMPTZOID, BOOLOID};
	Datum		values[] = {
		Int32GetDatum(attachment_id), Int64GetDatum(customer_id), TimestampTzGetDatum(since), BoolGetDatum(sent)
	};

	return kapture_own_text("SELECT 't' FROM @.kapture_history WHERE attachment_id = $1 AND finished_at >= $3"
							" AND customer_id = $2 AND NOT ($4 AND action = 'none') LIMIT 1", lengthof(values), types, values) != NULL;
}

/*
 * Gives up what waits to be sent for a row, but for what this transaction has noted.  Outbox entries that are about other rows, too,
 * or that tell which row has a key, are left to the worker: they have no values, so the
 * values that are sent are those that have just come from Kapture.
 */
void
kapture_inbox_discard_waiting(int32 attachment_id, const char *row_key)
{
	Oid			types[] = {INT4OID, TEXTOID};
	Datum		values[] = {Int32GetDatum(attachment_id), CStringGetTextDatum(row_key)};

	(void) kapture_own_execute("DELETE FROM @.kapture_outbox WHERE attachment_id = $1 AND row_key = $2"
							   " AND more_keys IS NULL AND op IN ('i', 'u') AND xact <> pg_catalog.pg_current_xact_id()",
							   lengthof(values), types, values);
	(void) kapture_own_execute("DELETE FROM @.kapture_delivery WHERE attachment_id + 0 = $1 AND " KAPTURE_KEY_IS("row_key", "$2")
							   " AND state <> 'sending'", lengthof(values), types, values);
}
