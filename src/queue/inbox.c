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
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "api/field.h"
#include "base/bounded_key.h"
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
 * Returns the attachments (KaptureAttached) that take pulled customers, in the current
 * memory context, without their names and versions.
 */
List *
kapture_inbox_tables(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *result = NIL;

	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	if (kapture_user_code_execute(psprintf("SELECT attachment_id, relation FROM %s.kapture_attachment WHERE pull AND NOT paused", kapture_catalog_schema()),
								  0, NULL, NULL, NULL, true) != SPI_OK_SELECT)
		elog(ERROR, "could not read kapture_attachment");
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

	if (kapture_user_code_execute(psprintf("SELECT c.raw FROM (SELECT customer_id, next_attempt FROM %s.kapture_inbox" INBOX_DUE ") AS i"
									   " LEFT JOIN %s.kapture_customers AS c ON c.server = $2 AND c.id = i.customer_id"
									   " ORDER BY i.next_attempt", schema, schema),
								  lengthof(values), types, values, NULL, false) != SPI_OK_SELECT)
		elog(ERROR, "could not read kapture_inbox");
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
	if (kapture_user_code_execute(sql.data, lengthof(values), types, values, NULL, false) != SPI_OK_SELECT)
		elog(ERROR, "could not read kapture_inbox");
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

/*
 * Returns what waits to be sent for rows (char *), as a list of KaptureWaiting in the
 * current memory context.  Rows for which nothing waits are not in the list.  What waits
 * under a key that a row has given up counts for that row as well.  Sees what has been
 * committed by now.
 */
List *
kapture_inbox_waiting(int32 attachment_id, List *row_keys)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[] = {INT4OID, TEXTARRAYOID, XID8OID};
	Datum		values[3];
	KaptureTableReport report;
	List	   *result = NIL;

	kapture_shmem_read_table(attachment_id, &report);
	values[0] = Int32GetDatum(attachment_id);
	values[1] = inbox_texts(row_keys);
	values[2] = FullTransactionIdGetDatum(FullTransactionIdFromU64(report.floor));
	SPI_connect();
	if (kapture_user_code_execute(kapture_catalog_qualify("WITH RECURSIVE named(row_key, k) AS (SELECT k, k FROM unnest($2) AS k UNION"
														  " SELECT n.row_key, o.old_key FROM named AS n JOIN @.kapture_outbox AS o"
														  " ON o.attachment_id = $1 AND o.xact >= $3 AND o.op NOT IN ('i', 'u')"
														  " AND o.row_key = n.k AND o.old_key IS NOT NULL),"
														  " names AS MATERIALIZED (SELECT array_agg(k) AS ks FROM named)"
														  " SELECT n.row_key, bit_or(changed), bool_or(sending), bool_and(parked) FROM ("
														  "SELECT k, changed, false AS sending, false AS parked FROM @.kapture_outbox AS o,"
														  " unnest(array_prepend(o.row_key, o.more_keys)) AS k"
														  " WHERE attachment_id = $1 AND xact >= $3"
														  " AND (o.row_key = ANY ((SELECT ks FROM names)::text[]) OR o.more_keys && (SELECT ks FROM names))"
														  " UNION ALL"
														  " SELECT row_key AS k, changed | coalesce(again, 0), state = 'sending', state = 'parked'"
														  " FROM @.kapture_delivery WHERE attachment_id = $1"
														  " AND " KAPTURE_KEY_BOUNDED("row_key") " = ANY (ARRAY(SELECT " KAPTURE_KEY_BOUNDED("n.k") " FROM named AS n))"
														  " AND row_key = ANY ((SELECT ks FROM names)::text[])) AS w"
														  " JOIN named AS n USING (k) GROUP BY n.row_key"),
							  lengthof(values), types, values, NULL, false) != SPI_OK_SELECT)
		elog(ERROR, "could not read what waits");
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		KaptureWaiting *waiting = palloc(sizeof(KaptureWaiting));
		bool		isnull;

		waiting->row_key = SPI_getvalue(row, SPI_tuptable->tupdesc, 1);
		waiting->changed = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
		waiting->sending = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &isnull));
		waiting->parked = DatumGetBool(SPI_getbinval(row, SPI_tuptable->tupdesc, 4, &isnull));
		result = lappend(result, waiting);
	}
	SPI_finish();
	return result;
}

/* For inbox_do_find_moving(). */
typedef struct InboxKeys
{
	int32		attachment_id;
	List	   *row_keys;
	MemoryContext context;
	List	   *moving;			/* of char *, in that context */
} InboxKeys;

static void
inbox_do_find_moving(void *arg)
{
	InboxKeys  *keys = arg;
	Oid			types[] = {INT4OID, TEXTARRAYOID, XID8OID};
	Datum		values[3];
	KaptureTableReport report;

	kapture_shmem_read_table(keys->attachment_id, &report);
	values[0] = Int32GetDatum(keys->attachment_id);
	values[1] = inbox_texts(keys->row_keys);
	values[2] = FullTransactionIdGetDatum(FullTransactionIdFromU64(report.floor));
	SPI_connect();
	if (kapture_user_code_execute(kapture_catalog_qualify("SELECT DISTINCT v.k COLLATE \"C\" FROM @.kapture_outbox AS o JOIN unnest($2) AS v(k)"
														  " ON o.op = 't' OR v.k IN (o.row_key, o.old_key) OR v.k = ANY (o.more_keys)"
														  " WHERE o.attachment_id = $1 AND o.xact >= $3 AND o.op NOT IN ('i', 'u') ORDER BY 1"),
								  lengthof(values), types, values, NULL, false) != SPI_OK_SELECT)
		elog(ERROR, "could not read changes of keys");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(keys->context);

		keys->moving = lappend(keys->moving, SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}

/*
 * Returns those of the keys (char *) whose rows are not settled: rows with these keys were
 * deleted or given other keys, and the worker has not followed that yet.  The result is in
 * the order of strcmp(), in the current memory context.  Sees what has been committed by
 * now.
 */
List *
kapture_inbox_moving_keys(int32 attachment_id, List *row_keys)
{
	InboxKeys	keys = {attachment_id, row_keys, CurrentMemoryContext, NIL};

	if (row_keys != NIL)
		kapture_own_run(inbox_do_find_moving, &keys);
	return keys.moving;
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
 * Tells whether something of a customer's row was sent after "since", as far as
 * kapture_history reaches back.
 */
bool
kapture_inbox_was_sent(int32 attachment_id, int64 customer_id, TimestampTz since)
{
	Oid			types[] = {INT4OID, INT8OID, TIMESTAMPTZOID};
	Datum		values[] = {Int32GetDatum(attachment_id), Int64GetDatum(customer_id), TimestampTzGetDatum(since)};

	return kapture_own_text("SELECT 't' FROM @.kapture_history WHERE attachment_id = $1 AND finished_at >= $3"
							" AND customer_id = $2 LIMIT 1", lengthof(values), types, values) != NULL;
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
