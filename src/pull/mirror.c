/*
 * mirror.c
 *		Writes windows of a pull into kapture_customers and kapture_contacts.
 *
 * A row that has not changed is not written.
 * Customers that were written are noted for the attached tables that take them
 * (inbox.c).
 *
 * Customers are kept under the name of their server, and follow when it is
 * renamed.  A transaction that writes customers locks the server against renaming,
 * and makes sure that it still has the name.  Such a transaction is short.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "api/columns.h"
#include "api/error.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/lock.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "known/row_state.h"
#include "pull/mirror.h"
#include "queue/inbox.h"
#include "table/binding.h"
#include "table/clock.h"

PG_FUNCTION_INFO_V1(kapture_forget_contacts);

/* The name of a window's rows in the statements that write them. */
#define COPIES_ROWS		"kapture_window"

/* Milliseconds that a window may take in a background process. */
#define COPIES_LIMIT		60000

/* One of the two tables, and the window's rows for it. */
typedef struct CopiesTable
{
	TupleDesc	desc;			/* of kapture_customer or kapture_contact */
	KaptureReader *reader;
	char	   *upsert;			/* statement; $1: the server's name */
	Datum	   *values;
	bool	   *isnull;
	Tuplestorestate *rows;
} CopiesTable;

struct KaptureCopies
{
	Oid			namespace;		/* the extension's */
	const char *schema;			/* its name, quoted */
	const char *server;
	Oid			serverid;
	int			generation_date;	/* its place in a customer's row */
	CopiesTable customers;
	CopiesTable contacts;
	bool		merge;			/* keep values that the answer does not have */
	MemoryContext context;		/* of it all */
	MemoryContext scratch;		/* of one window */
	HTAB	   *contact_ids;	/* of the window */
	MemoryContext row;			/* of one customer */
	const KaptureList *list;	/* the window's; NULL: it has none */
};


/*
 * Statements
 */

typedef struct CopiesCall
{
	const char *sql;
	int			nargs;
	Oid		   *types;
	Datum	   *values;
	const char *nulls;
	int			result;			/* SPI's */
} CopiesCall;

static void
copies_call(void *arg)
{
	CopiesCall *call = arg;

	call->result = kapture_user_code_execute(call->sql, call->nargs, call->types, call->values, call->nulls, false);
}

/*
 * Runs a statement of the extension, within SPI; its names are qualified, except for
 * operators.  Code of roles with rights on the tables cannot run with a caller's
 * other rights.  Errors: the statement's; XX000 if the result is not "expected".
 */
void
kapture_copies_execute(const char *sql, int nargs, Oid *types, Datum *values,
					   const char *nulls, int expected)
{
	CopiesCall	call = {sql, nargs, types, values, nulls};
	MemoryContext old = CurrentMemoryContext;
	int			level = NewGUCNestLevel();

	kapture_guc_pin_search_path();
	kapture_user_code_run(NULL, NIL, copies_call, &call);
	if (call.result != expected)
		elog(ERROR, "statement failed: %s", SPI_result_code_string(call.result));
	AtEOXact_GUC(false, level);
	MemoryContextSwitchTo(old); /* SPI leaves us in its own */
}

/* Appends "prefix.column" for each column of a type. */
static void
copies_append_columns(StringInfo sql, TupleDesc desc, const char *format)
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
copies_upsert(const char *schema, const char *table, TupleDesc desc)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s.%s AS t (server, ", schema, table);
	copies_append_columns(&sql, desc, "%s");
	appendStringInfoString(&sql, ") SELECT $1, ");
	copies_append_columns(&sql, desc, "w.%s");
	appendStringInfoString(&sql, " FROM " COPIES_ROWS " w ON CONFLICT (server, id) DO UPDATE SET ");
	copies_append_columns(&sql, desc, "%s = excluded.%s");
	appendStringInfoString(&sql, " WHERE (");
	copies_append_columns(&sql, desc, "t.%s");
	appendStringInfoString(&sql, ") IS DISTINCT FROM (");
	copies_append_columns(&sql, desc, "excluded.%s");
	appendStringInfoString(&sql, ") RETURNING t.id");
	return sql.data;
}

static void
copies_open_table(KaptureCopies *copies, CopiesTable *table, KaptureRowKind kind,
				  const char *timezone)
{
	bool		is_customer = kind == KAPTURE_ROW_CUSTOMER;
	const char *type = is_customer ? "kapture_customer" : "kapture_contact";
	Oid			typid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										CStringGetDatum(type),
										ObjectIdGetDatum(copies->namespace));

	if (!OidIsValid(typid))
		elog(ERROR, "type \"%s\" of extension kapture_sync is missing", type);
	table->desc = lookup_rowtype_tupdesc_copy(typid, -1);
	table->reader = kapture_reader_create(kind, table->desc, timezone);
	table->upsert = copies_upsert(copies->schema,
								  is_customer ? "kapture_customers" : "kapture_contacts",
								  table->desc);
	table->values = palloc(sizeof(Datum) * table->desc->natts);
	table->isnull = palloc(sizeof(bool) * table->desc->natts);
}


/*
 * One window
 */

/* Makes room for a window's rows of both tables, in the current memory context. */
static void
copies_begin_rows(KaptureCopies *copies)
{
	HASHCTL		info = {.keysize = sizeof(int64), .entrysize = sizeof(int64), .hcxt = CurrentMemoryContext};

	copies->customers.rows = tuplestore_begin_heap(true, false, work_mem);
	copies->contacts.rows = tuplestore_begin_heap(true, false, work_mem);
	copies->contact_ids = hash_create("kapture ids", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Is this the first contact with that id in the window? */
static bool
copies_is_new_contact(KaptureCopies *copies, int64 id)
{
	bool		found;

	(void) hash_search(copies->contact_ids, &id, HASH_ENTER, &found);
	return !found;
}

/* Takes in the contacts of a customer; contacts without an id are left out. */
static void
copies_take_contacts(KaptureCopies *copies, const JsonbValue *customer, int64 customer_id)
{
	CopiesTable *table = &copies->contacts;
	JsonbContainer *contacts = kapture_customer_contacts(customer);
	JsonbIterator *it = contacts ? JsonbIteratorInit(contacts) : NULL;
	JsonbIteratorToken token;
	JsonbValue	contact;
	int64		id;

	while (it != NULL &&
		   (token = JsonbIteratorNext(&it, &contact, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM || !kapture_is_object(&contact) ||
			!kapture_customer_id(&contact, &id) || !copies_is_new_contact(copies, id))
			continue;
		kapture_reader_read(table->reader, &contact, table->values, table->isnull);
		kapture_reader_set_bigint(table->reader, "customer_id", customer_id,
								  table->values, table->isnull);
		tuplestore_putvalues(table->rows, table->desc, table->values, table->isnull);
	}
}

/*
 * Adds the values that are known of a customer to those pulled now, which have precedence.
 */
static Jsonb *
copies_merge(KaptureCopies *copies, int64 id, Jsonb *pulled)
{
	Oid			types[] = {NAMEOID, INT8OID};
	Datum		values[] = {DirectFunctionCall1(namein, CStringGetDatum(copies->server)), Int64GetDatum(id)};
	bool		isnull;
	Datum		known;

	kapture_copies_execute(psprintf("SELECT raw FROM %s.kapture_customers WHERE server = $1 AND id = $2", copies->schema),
						   lengthof(values), types, values, NULL, SPI_OK_SELECT);
	if (SPI_processed == 0)
		return pulled;
	known = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(known)))
		return pulled;
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, known, JsonbPGetDatum(pulled)));
}

static void
copies_as_value(Jsonb *jsonb, JsonbValue *value)
{
	value->type = jbvBinary;
	value->val.binary.data = &jsonb->root;
	value->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
}

/* Takes in the customers of a window. */
static void
copies_take_window(KaptureCopies *copies, const KaptureWindow *window, KaptureCopied *copied)
{
	CopiesTable *table = &copies->customers;
	int			generated = copies->generation_date;
	int			nameless = 0;

	for (int i = 0; i < window->list->ncustomers; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(copies->row);
		Jsonb	   *jsonb = kapture_window_customer(window, i);
		JsonbValue	customer;
		int64		id;

		if (jsonb)
			copies_as_value(jsonb, &customer);
		if (jsonb && JB_ROOT_IS_OBJECT(jsonb) && kapture_customer_id(&customer, &id) && id > 0)
		{
			if (copies->merge)
				copies_as_value(copies_merge(copies, id, jsonb), &customer);
			kapture_reader_read(table->reader, &customer, table->values, table->isnull);
			tuplestore_putvalues(table->rows, table->desc, table->values, table->isnull);
			copies_take_contacts(copies, &customer, id);
			copied->seen++;
			if (!table->isnull[generated])
				copied->newest = Max(copied->newest, DatumGetTimestampTz(table->values[generated]));
		}
		else if (jsonb)
			nameless++;
		MemoryContextSwitchTo(old);
		MemoryContextReset(copies->row);
	}
	if (nameless > 0)
		kapture_complaint_nameless(copies->server, nameless);
}

/* The ids in the last result, as bigint[]. */
static Datum
copies_written_ids(void)
{
	Datum	   *ids = palloc(sizeof(Datum) * Max(SPI_processed, 1));
	bool		isnull;

	for (uint64 i = 0; i < SPI_processed; i++)
		ids[i] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);
	return PointerGetDatum(construct_array(ids, (int) SPI_processed, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static int
copies_compare_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/*
 * Reports which customers of the last result, the ones that were written, have values
 * that were replaced.  So each is reported once, not with each pull.
 */
static void
copies_say_altered(KaptureCopies *copies)
{
	const KaptureList *list = copies->list;
	int64	   *written;
	int64	   *ids;
	int			n = 0;
	bool		isnull;

	if (list == NULL || list->naltered == 0 || SPI_processed == 0)
		return;
	written = palloc(sizeof(int64) * SPI_processed);
	for (uint64 i = 0; i < SPI_processed; i++)
		written[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	qsort(written, SPI_processed, sizeof(int64), copies_compare_ids);
	ids = palloc(sizeof(int64) * list->naltered);
	for (int i = 0; i < list->naltered; i++)
	{
		if (bsearch(&list->altered[i], written, SPI_processed, sizeof(int64), copies_compare_ids))
			ids[n++] = list->altered[i];
	}
	if (n > 0)
		kapture_complaint_altered(copies->server, ids, n);
}

/* Writes the rows of a table that differ; returns how many. */
static int64
copies_write_table(KaptureCopies *copies, CopiesTable *table, TimestampTz asked_at)
{
	int64		written = 0;

	if (tuplestore_tuple_count(table->rows) > 0)
	{
		EphemeralNamedRelation rows = palloc0(sizeof(EphemeralNamedRelationData));
		Oid			types[] = {NAMEOID};
		Datum		values[] = {
			DirectFunctionCall1(namein, CStringGetDatum(copies->server))
		};

		rows->md.name = COPIES_ROWS;
		rows->md.tupdesc = table->desc;
		rows->md.enrtype = ENR_NAMED_TUPLESTORE;
		rows->md.enrtuples = tuplestore_tuple_count(table->rows);
		rows->reldata = table->rows;

		/* SPI keeps its list of relations in the current context */
		MemoryContextSwitchTo(copies->context);
		if (SPI_register_relation(rows) != SPI_OK_REL_REGISTER)
			elog(ERROR, "SPI_register_relation failed");
		kapture_copies_execute(table->upsert, 1, types, values, NULL, SPI_OK_INSERT_RETURNING);
		written = SPI_processed;
		MemoryContextSwitchTo(copies->scratch);
		if (table == &copies->customers)
			copies_say_altered(copies);
		if (written > 0 && table == &copies->customers && kapture_inbox_wanted(copies->server))
			kapture_inbox_put(copies->server, copies_written_ids(), asked_at);
		if (written > 0 && table == &copies->customers)
			kapture_row_state_seen(copies->server, copies_written_ids());
		SPI_freetuptable(SPI_tuptable);
		MemoryContextSwitchTo(copies->context);
		if (SPI_unregister_relation(COPIES_ROWS) != SPI_OK_REL_UNREGISTER)
			elog(ERROR, "SPI_unregister_relation failed");
		MemoryContextSwitchTo(copies->scratch);
	}
	tuplestore_end(table->rows);
	table->rows = NULL;
	return written;
}

/*
 * Keeps the server from being renamed before the transaction ends.  Errors:
 * 55000 it has another name now; those of kapture_binding_hold_copies().
 */
void
kapture_copies_hold_name(KaptureCopies *copies)
{
	ForeignServer *server;

	LockDatabaseObject(ForeignServerRelationId, copies->serverid, 0, AccessShareLock);
	server = GetForeignServerExtended(copies->serverid, FSV_MISSING_OK);
	if (server == NULL || strcmp(server->servername, copies->server) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("server \"%s\" was renamed or dropped while it was pulled from", copies->server),
				 errhint("What was pulled before has followed. Call again with the new name to go on.")));
	kapture_binding_hold_copies(server);
}

/*
 * Writes the customers of the next window and their contacts, and fills in *copied.
 * Within SPI, with the rights of the current user.  Errors: 42501 no rights on the tables;
 * those of kapture_copies_hold_name().
 */
void
kapture_copies_write(KaptureCopies *copies, const KaptureWindow *window, KaptureCopied *copied)
{
	MemoryContext old = MemoryContextSwitchTo(copies->scratch);

	kapture_copies_hold_name(copies);
	memset(copied, 0, sizeof(KaptureCopied));
	copied->newest = DT_NOBEGIN;
	copies->list = window->list;
	copies_begin_rows(copies);
	if (window->list)
		copies_take_window(copies, window, copied);
	copied->written = copies_write_table(copies, &copies->customers, window->asked);
	copied->written += copies_write_table(copies, &copies->contacts, window->asked);
	copies->list = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextReset(copies->scratch);
}

/*
 * Writes a window's customers in a background process: as the owner of the extension's
 * tables, which may have triggers of users, and for COPIES_LIMIT at most.
 */
void
kapture_copies_write_as_owner(KaptureCopies *copies, const KaptureWindow *window, KaptureCopied *copied)
{
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(kapture_own_role(),
						   sec_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
	kapture_clock_start(COPIES_LIMIT);
	kapture_copies_write(copies, window, copied);
	(void) kapture_clock_stop();
	SPI_finish();
	SetUserIdAndSecContext(userid, sec_context);
}


/*
 * Set-up
 */

/*
 * Prepares for the windows of one pull from a server, whose account has this
 * time zone; "namespace" is the extension's.  All lives in the current memory
 * context or below.
 */
KaptureCopies *
kapture_copies_create(Oid namespace, const char *server, const char *timezone)
{
	KaptureCopies *copies = palloc0(sizeof(KaptureCopies));

	copies->namespace = namespace;
	copies->schema = quote_identifier(get_namespace_name(namespace));
	copies->server = pstrdup(server);
	copies->serverid = get_foreign_server_oid(server, false);
	copies->context = CurrentMemoryContext;
	copies->scratch = AllocSetContextCreate(CurrentMemoryContext, "kapture copied window",
											ALLOCSET_DEFAULT_SIZES);
	copies->row = AllocSetContextCreate(CurrentMemoryContext, "kapture copied customer",
										ALLOCSET_DEFAULT_SIZES);
	copies_open_table(copies, &copies->customers, KAPTURE_ROW_CUSTOMER, timezone);
	copies_open_table(copies, &copies->contacts, KAPTURE_ROW_CONTACT, timezone);
	copies->generation_date = SPI_fnumber(copies->customers.desc, "generation_date") - 1;
	if (copies->generation_date < 0)
		elog(ERROR, "type \"%s\" has no column \"%s\"", "kapture_customer", "generation_date");
	return copies;
}

/*
 * Keeps values that the tables have and an answer does not: Get and Pull return
 * different fields.
 */
void
kapture_copies_merge(KaptureCopies *copies)
{
	copies->merge = true;
}

static void
copies_lock_tag(LOCKTAG *tag, Oid serverid)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, ForeignServerRelationId, serverid, 1);
}

/*
 * Locks out other refreshes of a server, for the session; false if one is running.
 * The lock is that of the foreign server as an object with objsubid 1, which
 * nothing else locks; kapture_progress shows by it whether a refresh is running.
 */
bool
kapture_copies_lock(Oid serverid)
{
	LOCKTAG		tag;

	copies_lock_tag(&tag, serverid);
	return kapture_lock_keep(&tag);
}

/*
 * Releases the lock of kapture_copies_lock().
 */
void
kapture_copies_unlock(Oid serverid)
{
	LOCKTAG		tag;

	copies_lock_tag(&tag, serverid);
	kapture_lock_drop(&tag);
}


/*
 * Users' own deletions
 */

/*
 * kapture_forget_contacts() returns trigger
 *
 * AFTER DELETE and AFTER TRUNCATE trigger of kapture_customers, in place of a
 * foreign key with ON DELETE CASCADE: whoever may delete customers deletes their
 * contacts with them.
 */
Datum
kapture_forget_contacts(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	static const char *const columns[] = {"server", "id"};
	Oid			types[] = {NAMEOID, INT8OID};
	Datum		values[lengthof(columns)];

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!(TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event) ||
		  (TRIGGER_FIRED_BY_DELETE(trigdata->tg_event) && TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))) ||
		strcmp(RelationGetRelationName(trigdata->tg_relation), "kapture_customers") != 0 ||
		RelationGetNamespace(trigdata->tg_relation) != get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called as a trigger of \"%s\"",
						"kapture_forget_contacts", "kapture_customers")));

	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
	{
		(void) kapture_own_execute("DELETE FROM @.kapture_contacts", 0, NULL, NULL);
		return PointerGetDatum(NULL);
	}
	for (int i = 0; i < lengthof(columns); i++)
	{
		int			attnum = SPI_fnumber(RelationGetDescr(trigdata->tg_relation), columns[i]);
		bool		isnull;

		values[i] = heap_getattr(trigdata->tg_trigtuple, attnum, RelationGetDescr(trigdata->tg_relation), &isnull);
	}
	(void) kapture_own_execute("DELETE FROM @.kapture_contacts WHERE server = $1 AND customer_id = $2",
							   lengthof(values), types, values);
	return PointerGetDatum(NULL);
}


/*
 * Renamed servers
 *
 * Whoever renames a server waits for nobody's open transaction without end, as everybody
 * else who needs the server would wait behind.  What attached tables and calls have of the
 * name follows later if somebody has locked it, as whoever may use the server can do that.
 * RENAME_LONGEST_WAIT is the limit for the rest: what is made for the server, such as
 * triggers of a table that is just being attached, locks it until the transaction ends, which
 * is PostgreSQL's rule; and customers are written by the extension's own processes, and by
 * roles that the owner of the extension has granted that.
 */

/* Milliseconds. */
#define RENAME_LONGEST_WAIT	5000

typedef struct CopiesRename
{
	const char *from;
	const char *to;
	Oid			serverid;		/* InvalidOid: not a server that the user may rename */
} CopiesRename;

/*
 * Does a step of renaming a server, with a limit on each wait for a lock.  Errors: 55P03 the
 * limit, because of this obstacle.
 */
static void
copies_rename_step(void (*step) (CopiesRename *), CopiesRename *rename, const char *obstacle)
{
	MemoryContext old = CurrentMemoryContext;
	int			level = NewGUCNestLevel();

	if (LockTimeout == 0 || LockTimeout > RENAME_LONGEST_WAIT)
		(void) set_config_option("lock_timeout", CppAsString2(RENAME_LONGEST_WAIT), PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	PG_TRY();
	{
		step(rename);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(old);
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("server \"%s\" cannot be renamed now", rename->from),
				 errdetail_internal("%s", obstacle),
				 errhint("Try again when that transaction has ended.")));
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
}

/* Locks the server, unless it is not one of ours that the user may rename. */
static void
copies_rename_lock(CopiesRename *rename)
{
	for (;;)
	{
		Oid			serverid = get_foreign_server_oid(rename->from, true);

		if (!OidIsValid(serverid) || !object_ownercheck(ForeignServerRelationId, serverid, GetUserId()) ||
			strcmp(GetForeignDataWrapper(GetForeignServer(serverid)->fdwid)->fdwname, "kapture_fdw") != 0)
			return;
		LockDatabaseObject(ForeignServerRelationId, serverid, 0, AccessExclusiveLock);
		/* another server may have got the name meanwhile */
		if (get_foreign_server_oid(rename->from, true) == serverid)
		{
			rename->serverid = serverid;
			return;
		}
		UnlockDatabaseObject(ForeignServerRelationId, serverid, 0, AccessExclusiveLock);
	}
}

/*
 * Is this a Kapture server that the current user may rename?  If so, locks it, so
 * that nobody writes its customers until the transaction ends.  Errors: 55P03 somebody has
 * locked the server.
 */
bool
kapture_copies_begin_rename(const char *name)
{
	CopiesRename rename = {.from = name};

	copies_rename_step(copies_rename_lock, &rename,
					   "Another transaction uses the server for what it makes, or writes the server's customers.");
	return OidIsValid(rename.serverid);
}

/* The tables that have names of servers, and how their rows follow if somebody has locked them. */
static const struct
{
	const char *table;
	bool		forget;			/* rows under the new name are those of a server that is gone */
	const char *skip;			/* key, by which those that nobody has locked are found: */
	bool		oid;			/* only if the oid of the server tells later whose they are */
}			copies_renamed[] =
{
	{"kapture_attachment", .skip = "attachment_id",.oid = true},	/* kapture_binding_follow_names() */
	{"kapture_customers"},
	{"kapture_contacts"},
	{"kapture_refresh_run", .forget = true},
	{"kapture_pull", .forget = true},
	{"kapture_copied", .forget = true},
	{"kapture_inbox", .skip = "attachment_id, customer_id"},	/* kapture_inbox_take() */
	{"kapture_pull_asked"},
	{"kapture_call_queue", .skip = "call_id",.oid = true}	/* kapture_call_queue_follow() */
};

/* Moves what is kept under the old name to the new one. */
static void
copies_rename_move(CopiesRename *rename)
{
	NameData	names[2];
	Oid			types[] = {NAMEOID, NAMEOID};
	Datum		values[] = {NameGetDatum(&names[0]), NameGetDatum(&names[1])};
	Oid			namespace = get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
	bool		origin;

	namestrcpy(&names[0], rename->from);
	namestrcpy(&names[1], rename->to);
	if (kapture_own_text("SELECT 't' WHERE EXISTS (SELECT FROM @.kapture_customers WHERE server = $2)"
						 " OR EXISTS (SELECT FROM @.kapture_contacts WHERE server = $2)", 2, types, values) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" has customers of an earlier server \"%s\"", "kapture_customers", rename->to),
				 errhint("Delete them, or choose another name.")));
	origin = kapture_binding_is_known() && kapture_own_text("SELECT 't' WHERE " KAPTURE_BINDING_IS_ORIGIN, 0, NULL, NULL) != NULL;
	for (int i = 0; i < lengthof(copies_renamed); i++)
	{
		const char *table = copies_renamed[i].table;
		const char *skip = copies_renamed[i].oid && !origin ? NULL : copies_renamed[i].skip;

		/* version 1.0 did not have all of these tables */
		if (!OidIsValid(get_relname_relid(table, namespace)))
			continue;
		if (copies_renamed[i].forget)
			(void) kapture_own_execute(psprintf("DELETE FROM @.%s WHERE server = $2", table), 2, types, values);
		(void) kapture_own_execute(skip ?
								   psprintf("UPDATE @.%s SET server = $2 WHERE server = $1 AND (%s) IN"
											" (SELECT %s FROM @.%s WHERE server = $1 FOR UPDATE SKIP LOCKED)",
											table, skip, skip, table) :
								   psprintf("UPDATE @.%s SET server = $2 WHERE server = $1", table), 2, types, values);
	}
}

/*
 * Moves what is kept under the name of a renamed server to the new name.  Errors:
 * 55000 there are customers of an earlier server with the new name; 55P03 somebody
 * has locked what cannot follow later.
 */
void
kapture_copies_follow_rename(const char *from, const char *to)
{
	CopiesRename rename = {.from = from,.to = to};

	if (OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		copies_rename_step(copies_rename_move, &rename,
						   "Another transaction has locked customers of the server, or what is kept of its pulls.");
}
