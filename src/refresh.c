/*
 * refresh.c
 *		CALL kapture_refresh(): pulls customers into local tables.
 *
 * A window is a transaction: its customers, its contacts and the progress are
 * committed together, so that an interrupted refresh goes on behind the last
 * window that is there.  While the next one is waited for, no snapshot is held.
 * A row that is as it was is not written.
 *
 * It runs with the rights of its caller, who needs those of the tables.  One
 * refresh of a server at a time: a lock of the session on the foreign server,
 * as an object with objsubid 1, which nothing else locks, sees to that;
 * kapture_progress shows by it whether a refresh is running.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "argument.h"
#include "customer.h"
#include "fetch.h"
#include "message.h"
#include "option.h"

/* The name of a window's rows in the statements that write them. */
#define REFRESH_ROWS		"kapture_window"

/* Microseconds between two reports. */
#define REFRESH_REPORT		USECS_PER_SEC

/* One of the two tables, and the window's rows for it. */
typedef struct RefreshTable
{
	TupleDesc	desc;			/* of kapture_customer or kapture_contact */
	KaptureReader *reader;
	char	   *upsert;			/* statement; $1: the server's name */
	Datum	   *values;
	bool	   *isnull;
	Tuplestorestate *rows;
	HTAB	   *ids;			/* of the window's rows */
} RefreshTable;

typedef struct Refresh
{
	Oid			namespace;		/* the extension's */
	const char *schema;			/* its name, quoted */
	const char *server;
	Timestamp	start;
	Timestamp	end;
	Timestamp	from;			/* where this call begins */
	RefreshTable customers;
	RefreshTable contacts;
	HTAB	   *ids_before;		/* of customers of the window before */
	MemoryContext context;		/* of the call */
	MemoryContext scratch;		/* of one window */
	MemoryContext row;			/* of one customer */

	int64		windows_done;	/* of this call */
	int64		windows_before;
	int64		windows_left;
	int64		seen;			/* customers of this call */
	int64		written;		/* rows of this call */
	TimestampTz began;
	TimestampTz reported;
} Refresh;

PG_FUNCTION_INFO_V1(kapture_refresh);


/*
 * Statements
 */

/* Runs a statement of ours; its names are qualified, but for operators. */
static void
refresh_execute(const char *sql, int nargs, Oid *types, Datum *values,
				const char *nulls, int expected)
{
	MemoryContext old = CurrentMemoryContext;
	int			level = NewGUCNestLevel();
	int			rc;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET,
							 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	rc = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
	if (rc != expected)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(rc));
	AtEOXact_GUC(false, level);
	MemoryContextSwitchTo(old); /* SPI leaves us in its own */
}

/* Appends "prefix.column" for each column of a type. */
static void
refresh_append_columns(StringInfo sql, TupleDesc desc, const char *format)
{
	const char *separator = "";

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		const char *name = quote_identifier(NameStr(attr->attname));

		if (attr->attisdropped)
			continue;
		appendStringInfoString(sql, separator);
		appendStringInfo(sql, format, name, name);
		separator = ", ";
	}
}

/* The statement that writes a window's rows to a table, if they differ. */
static char *
refresh_upsert(const char *schema, const char *table, TupleDesc desc)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s.%s AS t (server, ", schema, table);
	refresh_append_columns(&sql, desc, "%s");
	appendStringInfoString(&sql, ") SELECT $1, ");
	refresh_append_columns(&sql, desc, "w.%s");
	appendStringInfoString(&sql, " FROM " REFRESH_ROWS " w ON CONFLICT (server, id) DO UPDATE SET ");
	refresh_append_columns(&sql, desc, "%s = excluded.%s");
	appendStringInfoString(&sql, " WHERE (");
	refresh_append_columns(&sql, desc, "t.%s");
	appendStringInfoString(&sql, ") IS DISTINCT FROM (");
	refresh_append_columns(&sql, desc, "excluded.%s");
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

static void
refresh_open_table(Refresh *refresh, RefreshTable *table, KaptureRowKind kind,
				   const char *timezone)
{
	bool		is_customer = kind == KAPTURE_ROW_CUSTOMER;
	const char *type = is_customer ? "kapture_customer" : "kapture_contact";
	Oid			typid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										CStringGetDatum(type),
										ObjectIdGetDatum(refresh->namespace));

	if (!OidIsValid(typid))
		elog(ERROR, "type \"%s\" of extension kapture_sync is missing", type);
	table->desc = lookup_rowtype_tupdesc_copy(typid, -1);
	table->reader = kapture_reader_create(kind, table->desc, timezone);
	table->upsert = refresh_upsert(refresh->schema,
								   is_customer ? "kapture_customers" : "kapture_contacts",
								   table->desc);
	table->values = palloc(sizeof(Datum) * table->desc->natts);
	table->isnull = palloc(sizeof(bool) * table->desc->natts);
}


/*
 * One window
 */

/* Makes room for a window's rows of a table; its ids outlive the window. */
static void
refresh_begin_rows(Refresh *refresh, RefreshTable *table)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(int64);
	info.entrysize = sizeof(int64);
	info.hcxt = refresh->context;
	table->ids = hash_create("kapture ids", 256, &info,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	table->rows = tuplestore_begin_heap(true, false, work_mem);
}

/* Is this the first row with that id in the window? */
static bool
refresh_is_new(RefreshTable *table, int64 id)
{
	bool		found;

	(void) hash_search(table->ids, &id, HASH_ENTER, &found);
	return !found;
}

/* Takes in the contacts of a customer; those without an id have no place. */
static void
refresh_take_contacts(RefreshTable *table, const JsonbValue *customer, int64 customer_id)
{
	JsonbContainer *contacts = kapture_customer_contacts(customer);
	JsonbIterator *it = contacts ? JsonbIteratorInit(contacts) : NULL;
	JsonbIteratorToken token;
	JsonbValue	contact;
	int64		id;

	while (it != NULL &&
		   (token = JsonbIteratorNext(&it, &contact, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM || !kapture_is_object(&contact) ||
			!kapture_customer_id(&contact, &id) || !refresh_is_new(table, id))
			continue;
		kapture_reader_read(table->reader, &contact, table->values, table->isnull);
		kapture_reader_set_bigint(table->reader, "customer_id", customer_id,
								  table->values, table->isnull);
		tuplestore_putvalues(table->rows, table->desc, table->values, table->isnull);
	}
}

/*
 * Is this the first time that this customer comes?  Those on the edge of two
 * windows come with both.
 */
static bool
refresh_is_new_customer(Refresh *refresh, int64 id)
{
	if (refresh->ids_before != NULL &&
		hash_search(refresh->ids_before, &id, HASH_FIND, NULL) != NULL)
		return false;
	return refresh_is_new(&refresh->customers, id);
}

/* Takes in the customers of a window; returns how many are new to us. */
static int64
refresh_take_window(Refresh *refresh, const KaptureList *list)
{
	RefreshTable *table = &refresh->customers;
	int64		seen = 0;

	for (int i = 0; i < list->ncustomers; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(refresh->row);
		Jsonb	   *jsonb = kapture_message_customer(list, i);
		JsonbValue	customer;
		int64		id;

		customer.type = jbvBinary;
		customer.val.binary.data = &jsonb->root;
		customer.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
		if (JB_ROOT_IS_OBJECT(jsonb) && kapture_customer_id(&customer, &id) &&
			refresh_is_new_customer(refresh, id))
		{
			kapture_reader_read(table->reader, &customer, table->values, table->isnull);
			tuplestore_putvalues(table->rows, table->desc, table->values, table->isnull);
			refresh_take_contacts(&refresh->contacts, &customer, id);
			seen++;
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(refresh->row);
	}
	return seen;
}

/* Writes the rows of a table that differ; returns how many. */
static int64
refresh_write(Refresh *refresh, RefreshTable *table)
{
	int64		written = 0;

	if (tuplestore_tuple_count(table->rows) > 0)
	{
		EphemeralNamedRelation rows = palloc0(sizeof(EphemeralNamedRelationData));
		Oid			types[] = {NAMEOID};
		Datum		values[] = {
			DirectFunctionCall1(namein, CStringGetDatum(refresh->server))
		};

		rows->md.name = REFRESH_ROWS;
		rows->md.tupdesc = table->desc;
		rows->md.enrtype = ENR_NAMED_TUPLESTORE;
		rows->md.enrtuples = tuplestore_tuple_count(table->rows);
		rows->reldata = table->rows;

		/* SPI keeps its list of relations in the current context */
		MemoryContextSwitchTo(refresh->context);
		if (SPI_register_relation(rows) != SPI_OK_REL_REGISTER)
			elog(ERROR, "SPI_register_relation failed");
		refresh_execute(table->upsert, 1, types, values, NULL, SPI_OK_INSERT);
		written = SPI_processed;
		if (SPI_unregister_relation(REFRESH_ROWS) != SPI_OK_REL_UNREGISTER)
			elog(ERROR, "SPI_unregister_relation failed");
		MemoryContextSwitchTo(refresh->scratch);
	}
	tuplestore_end(table->rows);
	table->rows = NULL;
	return written;
}

/* Notes in kapture_refresh_run that a window is done. */
static void
refresh_note_window(Refresh *refresh, Timestamp done_until, int64 seen, int64 written)
{
	char	   *sql = psprintf("UPDATE %s.kapture_refresh_run SET done_until = $3, "
							   "windows_done = windows_done + 1, windows_total = windows_done + 1 + $4, "
							   "customers = customers + $5, written = written + $6, "
							   "updated_at = clock_timestamp(), "
							   "finished_at = CASE WHEN $3 >= end_date THEN clock_timestamp() END "
							   "WHERE server = $1 AND start_date = $2", refresh->schema);
	Oid			types[] = {NAMEOID, TIMESTAMPOID, TIMESTAMPOID, INT8OID, INT8OID, INT8OID};
	Datum		values[] = {
		DirectFunctionCall1(namein, CStringGetDatum(refresh->server)),
		TimestampGetDatum(refresh->start),
		TimestampGetDatum(done_until),
		Int64GetDatum(refresh->windows_left),
		Int64GetDatum(seen),
		Int64GetDatum(written)
	};

	refresh_execute(sql, lengthof(values), types, values, NULL, SPI_OK_UPDATE);
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the progress of the refresh is gone from \"%s\"",
						"kapture_refresh_run")));
}

/* Writes a window and commits it. */
static void
refresh_window(Refresh *refresh, KaptureFetch *fetch, const KaptureWindow *window)
{
	MemoryContext old = MemoryContextSwitchTo(refresh->scratch);
	int64		seen = 0;
	int64		written = 0;

	refresh_begin_rows(refresh, &refresh->customers);
	refresh_begin_rows(refresh, &refresh->contacts);
	if (window->list != NULL)
		seen = refresh_take_window(refresh, window->list);
	/* contacts refer to customers */
	written = refresh_write(refresh, &refresh->customers);
	written += refresh_write(refresh, &refresh->contacts);
	refresh->windows_left = kapture_fetch_windows_left(fetch, window->to);
	refresh_note_window(refresh, window->to, seen, written);
	if (refresh->ids_before != NULL)
		hash_destroy(refresh->ids_before);
	refresh->ids_before = refresh->customers.ids;
	hash_destroy(refresh->contacts.ids);
	MemoryContextSwitchTo(old);
	MemoryContextReset(refresh->scratch);
	SPI_commit();
	refresh->windows_done++;
	refresh->seen += seen;
	refresh->written += written;
}


/*
 * The whole of it
 */

/* Says how far it has come; at most once a second. */
static void
refresh_report(Refresh *refresh)
{
	TimestampTz now = GetCurrentTimestamp();
	double		elapsed = Max(now - refresh->began, 1) / (double) USECS_PER_SEC;
	double		rate = refresh->seen / elapsed;
	int64		done = refresh->windows_before + refresh->windows_done;
	int64		left;

	/* the end is told of at once if nothing was told before */
	if (now - refresh->reported < REFRESH_REPORT ||
		(refresh->windows_left > 0 && now - refresh->began < REFRESH_REPORT))
		return;
	refresh->reported = now;
	if (refresh->windows_left == 0)
	{
		ereport(NOTICE,
				(errmsg_plural("refreshed %lld window: %lld customers, %lld rows written, %.0f customers a second",
							   "refreshed %lld windows: %lld customers, %lld rows written, %.0f customers a second",
							   done, (long long) done, (long long) refresh->seen,
							   (long long) refresh->written, rate)));
		return;
	}
	left = (int64) (elapsed / refresh->windows_done * refresh->windows_left);
	ereport(NOTICE,
			(errmsg("refreshed %lld of %lld windows: %lld customers, %.0f a second, %02lld:%02lld:%02lld left",
					(long long) done, (long long) (done + refresh->windows_left),
					(long long) refresh->seen, rate,
					(long long) (left / SECS_PER_HOUR),
					(long long) (left / SECS_PER_MINUTE % MINS_PER_HOUR),
					(long long) (left % SECS_PER_MINUTE))));
}

/*
 * Notes that a refresh begins.  An earlier one from the same start that was
 * interrupted is continued, unless it went further than this one is to go.
 */
static void
refresh_begin(Refresh *refresh, bool restart)
{
	Oid			types[] = {NAMEOID, TIMESTAMPOID, TIMESTAMPOID};
	Datum		values[] = {
		DirectFunctionCall1(namein, CStringGetDatum(refresh->server)),
		TimestampGetDatum(refresh->start),
		TimestampGetDatum(refresh->end)
	};
	bool		isnull;

	refresh->from = refresh->start;
	if (!restart)
		refresh_execute(psprintf("UPDATE %s.kapture_refresh_run SET end_date = $3, "
								 "pid = pg_backend_pid(), resumed_at = clock_timestamp(), "
								 "resumed_windows = windows_done, resumed_customers = customers "
								 "WHERE server = $1 AND start_date = $2 "
								 "AND finished_at IS NULL AND done_until <= $3 "
								 "RETURNING done_until, windows_done", refresh->schema),
						lengthof(values), types, values, NULL, SPI_OK_UPDATE_RETURNING);
	if (!restart && SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		refresh->from = DatumGetTimestamp(SPI_getbinval(row, desc, 1, &isnull));
		refresh->windows_before = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
	}
	else
		refresh_execute(psprintf("INSERT INTO %s.kapture_refresh_run AS r "
								 "(server, start_date, end_date) VALUES ($1, $2, $3) "
								 "ON CONFLICT (server, start_date) DO UPDATE SET "
								 "(end_date, done_until, windows_done, windows_total, customers, written, "
								 "pid, started_at, resumed_at, resumed_windows, resumed_customers, "
								 "updated_at, finished_at) = "
								 "ROW(excluded.end_date, NULL, 0, 0, 0, 0, excluded.pid, "
								 "excluded.started_at, excluded.resumed_at, 0, 0, "
								 "excluded.updated_at, NULL)", refresh->schema),
						lengthof(values), types, values, NULL, SPI_OK_INSERT);
	SPI_commit();
}

static void
refresh_run(Refresh *refresh, bool restart)
{
	const KaptureServer *server = kapture_server_get(refresh->server, GetUserId());
	const KaptureWindow *window;
	KaptureFetch *fetch;

	refresh_open_table(refresh, &refresh->customers, KAPTURE_ROW_CUSTOMER, server->timezone);
	refresh_open_table(refresh, &refresh->contacts, KAPTURE_ROW_CONTACT, server->timezone);
	refresh->context = CurrentMemoryContext;
	refresh->scratch = AllocSetContextCreate(CurrentMemoryContext, "kapture refresh window",
											 ALLOCSET_DEFAULT_SIZES);
	refresh->row = AllocSetContextCreate(CurrentMemoryContext, "kapture refresh row",
										 ALLOCSET_DEFAULT_SIZES);
	refresh_begin(refresh, restart);
	refresh->began = GetCurrentTimestamp();
	if (refresh->windows_before > 0)
	{
		ereport(NOTICE,
				(errmsg("going on with the refresh of server \"%s\" at %s",
						refresh->server, kapture_message_date(refresh->from))));
		refresh->reported = refresh->began;
	}
	fetch = kapture_fetch_pull(refresh->server, GetUserId(), refresh->from, refresh->end);
	while ((window = kapture_fetch_next(fetch)) != NULL)
	{
		refresh_window(refresh, fetch, window);
		refresh_report(refresh);
	}
}

/* Locks out other refreshes of the server, for the session. */
static void
refresh_lock(LOCKTAG *tag, const char *name, Oid serverid)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, ForeignServerRelationId, serverid, 1);
	if (LockAcquire(tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("server \"%s\" is being refreshed by another session", name),
				 errhint("See the view kapture_progress.")));
}

/*
 * kapture_refresh(start_date timestamp, end_date timestamp, server name,
 *		restart boolean), a procedure
 *
 * Pulls customers between two times of the account's local time into
 * kapture_customers and kapture_contacts.  Commits each window.  Errors: those
 * of kapture_argument_range() and kapture_fetch_next(); 2D000 in a transaction
 * block; 55006 another session refreshes the same server; 42501 no rights on
 * the tables.
 */
Datum
kapture_refresh(PG_FUNCTION_ARGS)
{
	Refresh		refresh = {0};
	LOCKTAG		tag;

	kapture_argument_range(fcinfo, &refresh.start, &refresh.end);
	kapture_argument_check_null(fcinfo, 2, "server");
	kapture_argument_check_null(fcinfo, 3, "restart");
	refresh.server = NameStr(*PG_GETARG_NAME(2));
	PreventCommandDuringRecovery("CALL kapture_refresh()");
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("%s cannot run inside a transaction block", "kapture_refresh"),
				 errdetail("It commits each window of the pull."),
				 errhint("Use CALL outside of BEGIN and of functions.")));

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	refresh.server = pstrdup(refresh.server);
	refresh.namespace = get_func_namespace(fcinfo->flinfo->fn_oid);
	refresh.schema = quote_identifier(get_namespace_name(refresh.namespace));
	refresh_lock(&tag, refresh.server,
				 kapture_server_get(refresh.server, GetUserId())->serverid);
	PG_TRY();
	{
		refresh_run(&refresh, PG_GETARG_BOOL(3));
	}
	PG_FINALLY();
	{
		(void) LockRelease(&tag, ExclusiveLock, true);
	}
	PG_END_TRY();
	SPI_finish();
	PG_RETURN_VOID();
}
