/*
 * row.c
 *		Reads and writes rows of attached tables, as their owner.
 *
 * What runs here may run users' code: triggers, output functions, defaults,
 * checks.  So it runs as the table's owner in a security-restricted operation,
 * with constraints immediate (a deferred trigger would fire at commit, as the
 * worker), with its own settings, and in a subtransaction, so that an error
 * stays here.  A whole batch is tried at once; if that fails, row by row, and
 * only the culprit bears the error.
 *
 * Users' code may also take its time, and all tables of a database wait for one
 * worker: so it is cancelled after ROW_TIME_LIMIT, and if it takes no notice,
 * the worker ends and another one begins.
 *
 * Hidden is not deleted: row_security is off, so that a policy that would hide
 * rows from their owner is an error instead.  Locks of users are not waited
 * for: such a row is KAPTURE_ROW_LOCKED and comes again later.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "fault.h"
#include "row.h"

/* How long a lock on the whole table is waited for. */
#define ROW_LOCK_TIMEOUT	"200ms"

/* How long a row's lock is waited for before others are seen to without it. */
#define ROW_BUSY_TIMEOUT	"5ms"

/*
 * Milliseconds that users' code may take in a worker: for a batch or, if that is
 * too short, for each row; and for all rows together, before others have their
 * turn.
 */
#define ROW_TIME_LIMIT		5000
#define ROW_TIME_TOGETHER	10000

typedef struct RowBatch
{
	KaptureAttachment *att;
	const char *timezone;
	List	   *rows;			/* of KaptureRow */

	/* for listing keys */
	const char *after;
	int			limit;
	MemoryContext context;
	List	   *keys;			/* of char *, in that context */

	int64		count;			/* of rows counted */
} RowBatch;

typedef void (*RowWork) (RowBatch *batch);

typedef enum RowStatement
{
	ROW_READ,
	ROW_LOCK,
	ROW_WRITE,
	ROW_LOOK					/* is it there at all? */
} RowStatement;

StaticAssertDecl(ROW_LOOK + 1 == KAPTURE_ROW_STATEMENTS, "a plan for each statement");

static void
row_set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* How often the time limit of the work that runs has passed. */
static volatile sig_atomic_t row_times_out = 0;
static TimeoutId row_timeout = MAX_TIMEOUTS;

/* A signal handler: cancels the work and, if it goes on, ends the process. */
static void
row_time_is_up(void)
{
	if (++row_times_out == 1)
		QueryCancelPending = true;
	else
		ProcDiePending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/*
 * Tells whether this process ends because users' code took no notice that it was
 * cancelled.
 */
bool
kapture_row_gave_up(void)
{
	return row_times_out > 1;
}

/* Only a worker has others waiting; a session has a statement_timeout. */
static void
row_start_clock(void)
{
	if (!AmBackgroundWorkerProcess())
		return;
	if (row_timeout == MAX_TIMEOUTS)
		row_timeout = RegisterTimeout(USER_TIMEOUT, row_time_is_up);
	row_times_out = 0;
	enable_timeout_every(row_timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROW_TIME_LIMIT),
						 ROW_TIME_LIMIT);
}

/* Returns whether the time was up, which must not hit what comes next. */
static bool
row_stop_clock(void)
{
	if (!AmBackgroundWorkerProcess())
		return false;
	disable_timeout(row_timeout, false);
	if (row_times_out > 0)
		QueryCancelPending = false;
	return row_times_out > 0;
}

/*
 * Runs work(arg) as the owner of an attached table, as the file's header says,
 * within SPI.  Times have their text form in "timezone" (NULL: UTC).  Returns
 * NULL, or the error, in the current memory context, after which nothing has
 * happened.
 */
ErrorData *
kapture_row_run(KaptureAttachment *att, const char *timezone, void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	BeginInternalSubTransaction(NULL);
	row_start_clock();
	PG_TRY();
	{
		Relation	rel;
		int			nestlevel;

		nestlevel = kapture_catalog_text_settings();
		row_set("lock_timeout", ROW_LOCK_TIMEOUT);
		row_set("search_path", "pg_catalog, pg_temp");
		row_set("row_security", "off");
		row_set("enable_seqscan", "off");
		row_set("enable_hashjoin", "off");
		row_set("enable_mergejoin", "off");
		if (timezone)
			row_set("TimeZone", timezone);

		rel = relation_open(att->root, AccessShareLock);
		SetUserIdAndSecContext(rel->rd_rel->relowner,
							   sec_context | SECURITY_RESTRICTED_OPERATION);
		SPI_connect();
		work(arg);
		SPI_finish();
		relation_close(rel, NoLock);
		AtEOXact_GUC(false, nestlevel);
		SetUserIdAndSecContext(userid, sec_context);
		(void) row_stop_clock();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		bool		timed_out = row_stop_clock();

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (timed_out && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		{
			error->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
			error->message = psprintf("a trigger, check or function of the table took longer than %d s",
									  ROW_TIME_LIMIT / 1000);
		}
		RollbackAndReleaseCurrentSubTransaction();
		SetUserIdAndSecContext(userid, sec_context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/* A batch's work, for kapture_row_run(). */
typedef struct RowCall
{
	RowWork		work;
	RowBatch   *batch;
} RowCall;

static void
row_call(void *arg)
{
	RowCall    *call = arg;

	call->work(call->batch);
}

static ErrorData *
row_run(RowWork work, RowBatch *batch)
{
	RowCall		call = {work, batch};

	return kapture_row_run(batch->att, batch->timezone, row_call, &call);
}

/* Runs "work" on all rows at once if that goes well, else on each by itself. */
static void
row_run_each(RowWork work, KaptureAttachment *att, const char *timezone, List *rows)
{
	RowBatch	batch = {.att = att, .timezone = timezone, .rows = rows};
	ErrorData  *error;
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROW_TIME_TOGETHER);
	char	   *endless = NULL;
	ListCell   *lc;

	if (rows == NIL)
		return;
	error = row_run(work, &batch);
	if (error == NULL)
		return;
	FreeErrorData(error);

	foreach(lc, rows)
	{
		KaptureRow *row = lfirst(lc);

		/* if one row takes for ever, so will the others */
		if (endless || (AmBackgroundWorkerProcess() && GetCurrentTimestamp() > deadline))
		{
			row->outcome = endless ? KAPTURE_ROW_FAILED : KAPTURE_ROW_LOCKED;
			row->error = endless ? MemoryContextStrdup(row->context, endless) : NULL;
			continue;
		}
		batch.rows = list_make1(row);
		error = row_run(work, &batch);
		if (error == NULL)
			continue;
		if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
			row->outcome = KAPTURE_ROW_LOCKED;
		else
		{
			row->outcome = KAPTURE_ROW_FAILED;
			row->error = MemoryContextStrdup(row->context, error->message);
			if (error->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED && row_times_out > 0)
				endless = row->error;
		}
		FreeErrorData(error);
	}
}

/* Errors out if the table is not what it was attached as. */
static void
row_check(KaptureAttachment *att)
{
	char	   *problem = kapture_catalog_problem(att);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_internal("%s", problem),
				 att->nkeys == 0 ? errhint("Add a primary key, or use kapture_detach().") :
				 errhint("Add the column as bigint, or use kapture_detach() and kapture_attach().")));
}

/*
 * Returns "schema"."table", in the current memory context.
 */
char *
kapture_row_relation_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/* unnest($1::type1[], ..., [$n::bigint[]]) WITH ORDINALITY AS v(k1, ..., [id], ord) */
static void
row_append_keys(StringInfo sql, KaptureAttachment *att, bool with_id)
{
	appendStringInfoString(sql, "unnest(");
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(sql, "%s$%d::%s[]", i > 0 ? ", " : "", i + 1, att->keys[i].type);
	if (with_id)
		appendStringInfo(sql, ", $%d", att->nkeys + 1);
	appendStringInfoString(sql, ") WITH ORDINALITY AS v(");
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(sql, "k%d, ", i + 1);
	appendStringInfoString(sql, with_id ? "id, ord)" : "ord)");
}

/* r.key1 = v.k1 AND ... */
static void
row_append_match(StringInfo sql, KaptureAttachment *att)
{
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(sql, "%sr.%s %s v.k%d", i > 0 ? " AND " : "",
						 quote_identifier(att->keys[i].name), att->keys[i].equals, i + 1);
}

/* The text of a statement over rows that are given by their keys. */
static char *
row_sql(KaptureAttachment *att, RowStatement statement)
{
	char	   *relation = kapture_row_relation_name(att->root);
	const char *id_column = quote_identifier(att->id_column);
	StringInfoData sql;

	initStringInfo(&sql);
	if (statement == ROW_WRITE)
	{
		appendStringInfo(&sql, "UPDATE %s AS r SET %s = v.id FROM ", relation, id_column);
		row_append_keys(&sql, att, true);
		appendStringInfoString(&sql, " WHERE ");
		row_append_match(&sql, att);
		appendStringInfo(&sql, " AND (r.%s IS NULL OR r.%s::text IN ('', '0')) RETURNING v.ord",
						 id_column, id_column);
		return sql.data;
	}

	appendStringInfoString(&sql, "SELECT v.ord");
	if (statement != ROW_LOOK)
		appendStringInfo(&sql, ", r.%s::text", id_column);
	for (int i = 0; statement == ROW_READ && i < att->ncolumns; i++)
	{
		if (att->columns[i].attnum == InvalidAttrNumber)
			appendStringInfoString(&sql, ", NULL");
		else
			appendStringInfo(&sql, ", r.%s::text", quote_identifier(att->columns[i].name));
	}
	appendStringInfoString(&sql, " FROM ");
	row_append_keys(&sql, att, false);
	appendStringInfo(&sql, " JOIN %s AS r ON ", relation);
	row_append_match(&sql, att);
	if (statement == ROW_LOCK)
		appendStringInfoString(&sql, " FOR NO KEY UPDATE OF r SKIP LOCKED");
	return sql.data;
}

/* The plans go with the description of the table that they were made for. */
static void
row_free_plans(void *arg)
{
	KaptureAttachment *att = arg;

	for (int i = 0; i < KAPTURE_ROW_STATEMENTS; i++)
	{
		if (att->plans[i])
			SPI_freeplan(att->plans[i]);
		att->plans[i] = NULL;
	}
}

/*
 * The plan of a statement, prepared once for each description of a table.  It
 * is to go by the primary key, however small the table looks now.
 */
static SPIPlanPtr
row_plan(KaptureAttachment *att, RowStatement statement, int nparams, Oid *types)
{
	SPIPlanPtr	plan = att->plans[statement];
	char	   *sql;

	if (plan)
		return plan;
	row_check(att);
	sql = row_sql(att, statement);
	plan = SPI_prepare_cursor(sql, nparams, types, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (!att->plans_owned)
	{
		MemoryContext context = GetMemoryChunkContext(att);
		MemoryContextCallback *callback = MemoryContextAlloc(context, sizeof(MemoryContextCallback));

		callback->func = row_free_plans;
		callback->arg = att;
		MemoryContextRegisterResetCallback(context, callback);
		att->plans_owned = true;
	}
	SPI_keepplan(plan);
	att->plans[statement] = plan;
	return plan;
}

/* Executes a statement over the rows' keys and, if asked for, new ids. */
static void
row_execute(RowStatement statement, RowBatch *batch, bool with_id, int expected)
{
	int			nkeys = batch->att->nkeys;
	int			nrows = list_length(batch->rows);
	Oid			types[INDEX_MAX_KEYS + 1];
	Datum		params[INDEX_MAX_KEYS + 1];
	Datum	   *elems = palloc(sizeof(Datum) * nrows * (nkeys + 1));
	int			nparams = nkeys + (with_id ? 1 : 0);
	int			rc;

	for (int r = 0; r < nrows; r++)
	{
		KaptureRow *row = list_nth(batch->rows, r);
		char	  **values = kapture_catalog_unpack_key(row->row_key, nkeys);

		if (values == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the primary key of table \"%s\" has changed since the row was captured",
							get_rel_name(batch->att->root))));
		for (int i = 0; i < nkeys; i++)
			elems[i * nrows + r] = CStringGetTextDatum(values[i]);
		elems[nkeys * nrows + r] = Int64GetDatum(row->new_id);
	}
	for (int i = 0; i < nkeys; i++)
	{
		types[i] = TEXTARRAYOID;
		params[i] = PointerGetDatum(construct_array(elems + i * nrows, nrows, TEXTOID,
													-1, false, TYPALIGN_INT));
	}
	types[nkeys] = INT8ARRAYOID;
	params[nkeys] = PointerGetDatum(construct_array(elems + nkeys * nrows, nrows, INT8OID,
													8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));

	rc = SPI_execute_plan(row_plan(batch->att, statement, nparams, types), params, NULL, false, 0);
	if (rc != expected)
		elog(ERROR, "unexpected SPI result %d", rc);
}

/* Each statement is a fault point. */
#define row_execute(statement, batch, with_id, expected) \
	(KAPTURE_FAULT_ROW(#statement, NULL), row_execute(statement, batch, with_id, expected))

/* Column "col" of row "i" of the last result, NULL for NULL. */
static char *
row_value(int i, int col)
{
	return SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, col);
}

/* The row that result line "i" belongs to, by its ordinal in column 1. */
static KaptureRow *
row_of(RowBatch *batch, int i)
{
	bool		isnull;
	Datum		ord = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

	return list_nth(batch->rows, (int) DatumGetInt64(ord) - 1);
}

/* An id as the table has it; errors out on what is none. */
static int64
row_parse_id(const char *text)
{
	return text == NULL || text[0] == '\0' ? 0 : pg_strtoint64(text);
}

static void
row_do_read(RowBatch *batch)
{
	KaptureAttachment *att = batch->att;
	ListCell   *lc;

	foreach(lc, batch->rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_GONE;
	row_execute(ROW_READ, batch, false, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureRow *row = row_of(batch, i);

		row->outcome = KAPTURE_ROW_DONE;
		row->customer_id = row_parse_id(row_value(i, 2));
		row->values = MemoryContextAllocZero(row->context, sizeof(char *) * Max(att->ncolumns, 1));
		for (int c = 0; c < att->ncolumns; c++)
		{
			char	   *value = row_value(i, c + 3);

			if (value)
				row->values[c] = MemoryContextStrdup(row->context, value);
		}
	}
}

/*
 * Fills in what the table holds for the rows (of KaptureRow).  "timezone" is
 * the zone in which times are written out.  Each row gets an outcome; no error
 * leaves here but those that end the transaction.
 */
void
kapture_row_read(KaptureAttachment *att, const char *timezone, List *rows)
{
	row_run_each(row_do_read, att, timezone, rows);
}

static void
row_do_list(RowBatch *batch)
{
	KaptureAttachment *att = batch->att;
	char	  **values = batch->after ? kapture_catalog_unpack_key(batch->after, att->nkeys) : NULL;
	Oid			types[INDEX_MAX_KEYS];
	Datum		params[INDEX_MAX_KEYS];
	StringInfoData sql;
	StringInfoData keys;
	StringInfoData marks;

	row_check(att);
	initStringInfo(&sql);
	initStringInfo(&keys);
	initStringInfo(&marks);
	appendStringInfoString(&sql, "SELECT ");
	for (int i = 0; i < att->nkeys; i++)
	{
		const char *name = quote_identifier(att->keys[i].name);

		appendStringInfo(&sql, "%sr.%s::text", i > 0 ? ", " : "", name);
		appendStringInfo(&keys, "%sr.%s", i > 0 ? ", " : "", name);
		appendStringInfo(&marks, "%s$%d::%s", i > 0 ? ", " : "", i + 1, att->keys[i].type);
		types[i] = TEXTOID;
		if (values)
			params[i] = CStringGetTextDatum(values[i]);
	}
	appendStringInfo(&sql, " FROM %s AS r WHERE r.%s IS NULL", kapture_row_relation_name(att->root),
					 quote_identifier(att->id_column));
	if (values)
		appendStringInfo(&sql, " AND (%s) > (%s)", keys.data, marks.data);
	appendStringInfo(&sql, " ORDER BY %s LIMIT %d", keys.data, batch->limit);

	if (SPI_execute_with_args(sql.data, values ? att->nkeys : 0, types, params, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not list rows");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *parts[INDEX_MAX_KEYS];
		char	   *key;
		MemoryContext old;

		for (int k = 0; k < att->nkeys; k++)
			parts[k] = row_value(i, k + 1);
		key = kapture_catalog_pack_key(parts, att->nkeys);
		/* SPI's memory ends before the list is read */
		old = MemoryContextSwitchTo(batch->context);
		batch->keys = lappend(batch->keys, pstrdup(key));
		MemoryContextSwitchTo(old);
	}
}

/*
 * Returns the keys (char *, in the current memory context) of at most "limit"
 * rows without an id, in order of the primary key, from "after" (NULL: the
 * start) on.  Errors as reading the table as its owner does.
 */
List *
kapture_row_keys_without_id(KaptureAttachment *att, const char *after, int limit)
{
	RowBatch	batch = {.att = att, .after = after, .limit = limit, .context = CurrentMemoryContext};
	ErrorData  *error = row_run(row_do_list, &batch);

	if (error)
		ReThrowError(error);
	return batch.keys;
}

static void
row_do_count(RowBatch *batch)
{
	bool		isnull;

	row_check(batch->att);
	if (SPI_execute(psprintf("SELECT pg_catalog.count(*) FROM %s AS r WHERE r.%s IS NULL",
							 kapture_row_relation_name(batch->att->root), quote_identifier(batch->att->id_column)),
					true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not count rows");
	batch->count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Returns how many rows have no id; reads the whole table.  Errors likewise.
 */
int64
kapture_row_count_without_id(KaptureAttachment *att)
{
	RowBatch	batch = {.att = att};
	ErrorData  *error = row_run(row_do_count, &batch);

	if (error)
		ReThrowError(error);
	return batch.count;
}

/*
 * Sorts out the rows that could not be locked: does somebody hold them, or are
 * they gone?
 */
static void
row_explain_missing(RowBatch *batch)
{
	RowBatch	missing = *batch;
	ListCell   *lc;

	missing.rows = NIL;
	foreach(lc, batch->rows)
	{
		if (((KaptureRow *) lfirst(lc))->outcome == KAPTURE_ROW_GONE)
			missing.rows = lappend(missing.rows, lfirst(lc));
	}
	if (missing.rows == NIL)
		return;

	row_execute(ROW_LOOK, &missing, false, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
		row_of(&missing, i)->outcome = KAPTURE_ROW_LOCKED;
}

/* Locks the rows that are free, and says what the table holds for them. */
static void
row_do_hold(RowBatch *batch)
{
	RowBatch	held = *batch;
	ListCell   *lc;

	foreach(lc, batch->rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_GONE;
	held.rows = NIL;
	row_execute(ROW_LOCK, batch, false, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
		held.rows = lappend(held.rows, row_of(batch, i));
	if (held.rows != NIL)
		row_do_read(&held);
	row_explain_missing(batch);
}

/*
 * Locks the rows (of KaptureRow) until the end of the transaction, and fills in
 * what the table holds for them, as kapture_row_read().  LOCKED: somebody else
 * holds it.
 */
void
kapture_row_hold(KaptureAttachment *att, const char *timezone, List *rows)
{
	row_run_each(row_do_hold, att, timezone, rows);
}

static void
row_set_constraints(void)
{
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not set constraints");
}

/* Writes what can be written, having looked for locks first. */
static void
row_do_write(RowBatch *batch)
{
	RowBatch	locked = *batch;
	ListCell   *lc;

	row_set_constraints();

	/* lock what is free */
	foreach(lc, batch->rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_GONE;
	locked.rows = NIL;
	row_execute(ROW_LOCK, batch, false, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureRow *row = row_of(batch, i);

		row->outcome = KAPTURE_ROW_DONE;
		row->customer_id = row_parse_id(row_value(i, 2));
		if (row->customer_id == 0)
		{
			row->outcome = KAPTURE_ROW_FAILED;
			locked.rows = lappend(locked.rows, row);
		}
	}

	/* and write where no id is yet */
	if (locked.rows != NIL)
	{
		row_execute(ROW_WRITE, &locked, true, SPI_OK_UPDATE_RETURNING);
		for (uint64 i = 0; i < SPI_processed; i++)
			row_of(&locked, i)->outcome = KAPTURE_ROW_DONE;
		foreach(lc, locked.rows)
		{
			KaptureRow *row = lfirst(lc);

			if (row->outcome == KAPTURE_ROW_FAILED)
				row->error = MemoryContextStrdup(row->context,
												 "writing the Kapture customer id back changed no row; "
												 "a trigger or rule of the table prevents it");
		}
	}
	row_explain_missing(batch);
}

/*
 * Writes the ids in the hope that all rows are there, free and without one.
 * Those that are not are left to row_do_write(); a lock ends it with an error.
 */
static void
row_do_write_simply(RowBatch *batch)
{
	RowBatch	rest = *batch;
	ListCell   *lc;

	row_set_constraints();
	row_set("lock_timeout", ROW_BUSY_TIMEOUT);
	foreach(lc, batch->rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_GONE;
	row_execute(ROW_WRITE, batch, true, SPI_OK_UPDATE_RETURNING);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureRow *row = row_of(batch, i);

		row->outcome = KAPTURE_ROW_DONE;
		row->customer_id = 0;
	}
	if (SPI_processed == list_length(batch->rows))
		return;

	rest.rows = NIL;
	foreach(lc, batch->rows)
	{
		if (((KaptureRow *) lfirst(lc))->outcome != KAPTURE_ROW_DONE)
			rest.rows = lappend(rest.rows, lfirst(lc));
	}
	row_set("lock_timeout", ROW_LOCK_TIMEOUT);
	row_do_write(&rest);
}

/*
 * Writes new_id of the rows (of KaptureRow) into the id column where it is
 * still NULL.  Each row gets an outcome: DONE also where an id was there
 * already (see customer_id), LOCKED if a user holds the row.
 */
void
kapture_row_write_ids(KaptureAttachment *att, List *rows)
{
	RowBatch	batch = {.att = att, .rows = rows};
	ErrorData  *error = row_run(row_do_write_simply, &batch);

	if (error == NULL)
		return;
	FreeErrorData(error);
	row_run_each(row_do_write, att, NULL, rows);
}
