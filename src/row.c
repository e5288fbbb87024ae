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
 * worker: so a batch is given up after ROW_TIME_BATCH, and a row by itself after
 * ROW_TIME_LIMIT (clock.c).  Rows that there is no time for are
 * KAPTURE_ROW_LOCKED; the worker sees to it that they do not come again before
 * others had their turn (share.c).
 *
 * Hidden is not deleted: row_security is off, so that a policy that would hide
 * rows from their owner is an error instead.  Locks of users are not waited
 * for: such a row is KAPTURE_ROW_LOCKED and comes again later.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "clock.h"
#include "compat.h"
#include "process.h"
#include "row.h"
#include "text.h"

/* How long a lock on the whole table is waited for. */
#define ROW_LOCK_TIMEOUT	"200ms"

/* How long a row's lock is waited for before others are seen to without it. */
#define ROW_BUSY_TIMEOUT	"5ms"

/*
 * Once a lock of a batch was waited for in vain: somebody holds the table or a
 * partition of it, and many other rows may be in there.
 */
#define ROW_LOCKED_TIMEOUT	"1ms"

/*
 * Milliseconds that users' code may take in a worker: for a batch; for each row
 * if that is too short; and for all rows of it one by one, but for the last.
 */
#define ROW_TIME_BATCH		1000
#define ROW_TIME_LIMIT		5000
#define ROW_TIME_TOGETHER	1000

/* Bytes that a value may have, and all that are mapped of a row; more is not sent. */
#define ROW_MAX_VALUE		(1024 * 1024)
#define ROW_MAX_BYTES		(2 * 1024 * 1024)

/* Bytes of the rows of a batch that are read at a time; the others come later. */
#define ROW_BATCH_BYTES		((Size) 2 * 1024 * 1024)

/*
 * Bytes that the values of a row have together if they are read with those of the
 * other rows: text, and what can only be measured as it is stored, which may be
 * compressed to a 255th.
 */
#define ROW_SMALL_TEXT		16384
#define ROW_SMALL_OTHER		256

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
	ROW_READ,					/* but for large values */
	ROW_MEASURE,				/* their values as they are stored */
	ROW_READ_LARGE,				/* whatever their size */
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

/* Did users' code run out of time in the last run? */
static bool row_timed_out = false;

/*
 * Takes the error that is being handled off its stack; what it says is cut to
 * what is worth keeping.  In the current memory context.
 */
static ErrorData *
row_take_error(bool timed_out)
{
	ErrorData  *error = CopyErrorData();

	FlushErrorState();
	row_timed_out = timed_out && error->sqlerrcode == ERRCODE_QUERY_CANCELED && !kapture_clock_is_running();
	if (row_timed_out)
	{
		error->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
		error->message = psprintf("a trigger, check or function of the table took longer than %d s",
								  ROW_TIME_LIMIT / 1000);
	}
	error->message = kapture_text_cut(error->message);
	return error;
}

/*
 * As kapture_row_run(), with a limit for users' code, in milliseconds, and for
 * the wait for a lock.
 */
static ErrorData *
row_run_within(KaptureAttachment *att, const char *timezone, void (*work) (void *arg), void *arg,
			   int limit, const char *lock_timeout)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	Oid			userid;
	int			sec_context;

	GetUserIdAndSecContext(&userid, &sec_context);
	BeginInternalSubTransaction(NULL);
	kapture_clock_start(limit);
	PG_TRY();
	{
		Relation	rel;
		int			nestlevel;

		nestlevel = kapture_catalog_text_settings();
		row_set("lock_timeout", lock_timeout);
		row_set("search_path", "pg_catalog, pg_temp");
		row_set("row_security", "off");
		row_set("enable_seqscan", "off");
		row_set("enable_hashjoin", "off");
		row_set("enable_mergejoin", "off");
		if (timezone)
			row_set("TimeZone", timezone);

		rel = relation_open(att->root, AccessShareLock);
		kapture_clock_name(rel->rd_rel->relowner, att->id);
		SetUserIdAndSecContext(rel->rd_rel->relowner,
							   sec_context | SECURITY_RESTRICTED_OPERATION);
		SPI_connect();
		work(arg);
		SPI_finish();
		relation_close(rel, NoLock);
		AtEOXact_GUC(false, nestlevel);
		SetUserIdAndSecContext(userid, sec_context);
		(void) kapture_clock_stop();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		bool		timed_out = kapture_clock_stop();

		MemoryContextSwitchTo(context);
		error = row_take_error(timed_out);
		RollbackAndReleaseCurrentSubTransaction();
		SetUserIdAndSecContext(userid, sec_context);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	/* a cancel is for the session, or for the users' code that we are called from */
	if (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		(!kapture_process_is_ours() || kapture_clock_is_running()))
		ReThrowError(error);
	return error;
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
	return row_run_within(att, timezone, work, arg, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);
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
row_run(RowWork work, RowBatch *batch, int limit, const char *lock_timeout)
{
	RowCall		call = {work, batch};

	return row_run_within(batch->att, batch->timezone, row_call, &call, limit, lock_timeout);
}

/* Runs "work" on each row by itself, as far as there is time. */
static void
row_run_singly(RowWork work, RowBatch *batch, List *rows)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROW_TIME_TOGETHER);
	const char *lock_timeout = ROW_LOCK_TIMEOUT;
	char	   *endless = NULL;
	ListCell   *lc;

	foreach(lc, rows)
	{
		KaptureRow *row = lfirst(lc);
		ErrorData  *error;

		/* if one row takes for ever, so will the others */
		if (endless || (kapture_process_is_ours() && GetCurrentTimestamp() > deadline))
		{
			row->outcome = endless ? KAPTURE_ROW_FAILED : KAPTURE_ROW_LOCKED;
			row->slow = endless != NULL;
			row->error = endless ? MemoryContextStrdup(row->context, endless) : NULL;
			continue;
		}
		batch->rows = list_make1(row);
		error = row_run(work, batch, ROW_TIME_LIMIT, lock_timeout);
		if (error == NULL)
			continue;
		if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		{
			row->outcome = KAPTURE_ROW_LOCKED;
			lock_timeout = ROW_LOCKED_TIMEOUT;
		}
		else
		{
			row->outcome = KAPTURE_ROW_FAILED;
			row->error = MemoryContextStrdup(row->context, error->message);
			row->slow = row_timed_out;
			if (row_timed_out)
				endless = row->error;
		}
		FreeErrorData(error);
	}
}

/* Runs "work" on all rows at once if that goes well, else on each by itself. */
static void
row_run_each(RowWork work, KaptureAttachment *att, const char *timezone, List *rows)
{
	RowBatch	batch = {.att = att, .timezone = timezone, .rows = rows};

	if (list_length(rows) > 1)
	{
		ErrorData  *error = row_run(work, &batch, ROW_TIME_BATCH, ROW_LOCK_TIMEOUT);

		if (error == NULL)
			return;
		FreeErrorData(error);
	}
	row_run_singly(work, &batch, rows);
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

/* The type of a mapped column that is there, below its domains. */
static Oid
row_column_type(const KaptureAttachment *att, int i)
{
	return getBaseType(get_atttype(att->root, get_attnum(att->root, att->columns[i].name)));
}

/* Is the type's size that of its text, which is known without reading it? */
static bool
row_is_text(Oid type)
{
	return type == BPCHAROID || type == BYTEAOID || IsBinaryCoercible(type, TEXTOID);
}

/* Can values of a mapped column be large? */
static bool
row_may_be_large(const KaptureAttachment *att, int i)
{
	return att->columns[i].attnum != InvalidAttrNumber && get_typlen(row_column_type(att, i)) == -1;
}

/* "size(r.column) > limit", from which on a value counts as large. */
static void
row_append_is_large(StringInfo sql, const KaptureAttachment *att, int i, int ntexts, int nothers)
{
	const char *name = quote_identifier(att->columns[i].name);
	Oid			type = row_column_type(att, i);

	if (!row_is_text(type))
		appendStringInfo(sql, "pg_catalog.pg_column_size(r.%s) > %d", name, ROW_SMALL_OTHER / nothers);
	else
		appendStringInfo(sql, "pg_catalog.octet_length(r.%s%s) > %d", name,
						 type == BPCHAROID || type == BYTEAOID ? "" : "::pg_catalog.text", ROW_SMALL_TEXT / ntexts);
}

/*
 * ", value, ..., is any of them large": with ROW_READ, large values are left out;
 * with ROW_MEASURE, all are as they are stored.
 */
static void
row_append_values(StringInfo sql, const KaptureAttachment *att, RowStatement statement)
{
	StringInfoData large;
	int			ntexts = 0;
	int			nothers = 0;

	initStringInfo(&large);
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (row_may_be_large(att, i))
			*(row_is_text(row_column_type(att, i)) ? &ntexts : &nothers) += 1;
	}
	for (int i = 0; i < att->ncolumns; i++)
	{
		const char *name = quote_identifier(att->columns[i].name);

		if (att->columns[i].attnum == InvalidAttrNumber)
			appendStringInfoString(sql, ", NULL");
		else if (statement == ROW_MEASURE)
			appendStringInfo(sql, ", r.%s", name);
		else if (statement == ROW_READ_LARGE || !row_may_be_large(att, i))
			appendStringInfo(sql, ", r.%s::text", name);
		else
		{
			appendStringInfoString(sql, ", CASE WHEN ");
			row_append_is_large(sql, att, i, ntexts, nothers);
			appendStringInfo(sql, " THEN NULL ELSE r.%s::text END", name);
			appendStringInfoString(&large, large.len > 0 ? " OR (" : "(");
			row_append_is_large(&large, att, i, ntexts, nothers);
			appendStringInfoString(&large, ") IS TRUE");
		}
	}
	appendStringInfo(sql, ", %s", large.len > 0 ? large.data : "false");
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
	if (statement == ROW_READ || statement == ROW_MEASURE || statement == ROW_READ_LARGE)
		row_append_values(&sql, att, statement);
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

/* A value is not sent: what is known of it is all that is kept of the row. */
static void
row_refuse(KaptureRow *row, const char *column, Size size, Size limit)
{
	MemoryContext old = MemoryContextSwitchTo(row->context);

	row->outcome = KAPTURE_ROW_FAILED;
	row->values = NULL;
	row->error = column ?
		psprintf("value too long: column \"%s\" has %zu bytes, at most %zu are sent", column, size, limit) :
		psprintf("values too long: the mapped columns have %zu bytes together, at most %zu are sent", size, limit);
	MemoryContextSwitchTo(old);
}

/* Takes in a row as line "i" of the last result has it. */
static void
row_take(RowBatch *batch, KaptureRow *row, int i)
{
	KaptureAttachment *att = batch->att;

	row->outcome = KAPTURE_ROW_DONE;
	row->customer_id = row_parse_id(row_value(i, 2));
	row->bytes = strlen(row->row_key);
	row->values = MemoryContextAllocZero(row->context, sizeof(char *) * Max(att->ncolumns, 1));
	for (int c = 0; c < att->ncolumns; c++)
	{
		char	   *value = row_value(i, c + 3);
		Size		size = value ? strlen(value) : 0;

		/* a cast of the user's may make much of little */
		if (size > ROW_MAX_VALUE)
		{
			row_refuse(row, att->columns[c].name, size, ROW_MAX_VALUE);
			return;
		}
		row->bytes += size;
		if (value)
			row->values[c] = MemoryContextStrdup(row->context, value);
	}
}

/* Finds out, without reading them, whether the values of a row can be sent. */
static bool
row_measure(RowBatch *single)
{
	KaptureAttachment *att = single->att;
	KaptureRow *row = linitial(single->rows);
	Size		sum = 0;

	row_execute(ROW_MEASURE, single, false, SPI_OK_SELECT);
	for (int c = 0; SPI_processed > 0 && c < att->ncolumns; c++)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, c + 3, &isnull);
		Size		size;

		if (isnull || !row_may_be_large(att, c))
			continue;
		size = toast_raw_datum_size(value) - VARHDRSZ;
		sum += size;
		if (size > ROW_MAX_VALUE)
		{
			row_refuse(row, att->columns[c].name, size, ROW_MAX_VALUE);
			return false;
		}
	}
	if (sum > ROW_MAX_BYTES)
		row_refuse(row, NULL, sum, ROW_MAX_BYTES);
	return sum <= ROW_MAX_BYTES;
}

/* Reads the rows of a batch that have large values, as far as there is room. */
static void
row_read_large(RowBatch *batch, List *rows, Size bytes)
{
	RowBatch	single = *batch;
	ListCell   *lc;

	foreach(lc, rows)
	{
		KaptureRow *row = lfirst(lc);

		row->outcome = KAPTURE_ROW_LOCKED;
		if (bytes > ROW_BATCH_BYTES)
			continue;
		single.rows = list_make1(row);
		if (row_measure(&single))
		{
			SPI_freetuptable(SPI_tuptable);
			row->outcome = KAPTURE_ROW_GONE;
			row_execute(ROW_READ_LARGE, &single, false, SPI_OK_SELECT);
			if (SPI_processed > 0)
				row_take(batch, row, 0);
			bytes += row->bytes;
		}
		SPI_freetuptable(SPI_tuptable);
	}
}

static void
row_do_read(RowBatch *batch)
{
	List	   *large = NIL;
	Size		bytes = 0;
	ListCell   *lc;

	foreach(lc, batch->rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_GONE;
	row_execute(ROW_READ, batch, false, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureRow *row = row_of(batch, i);
		bool		isnull;

		if (DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, batch->att->ncolumns + 3, &isnull)))
			large = lappend(large, row);
		else
			row_take(batch, row, i);
		bytes += row->bytes;
	}
	SPI_freetuptable(SPI_tuptable);
	row_read_large(batch, large, bytes);
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
	ErrorData  *error = row_run(row_do_list, &batch, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);

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
	ErrorData  *error = row_run(row_do_count, &batch, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);

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
	ErrorData  *error = row_run(row_do_write_simply, &batch, ROW_TIME_BATCH, ROW_LOCK_TIMEOUT);

	if (error == NULL)
		return;
	FreeErrorData(error);
	if (row_timed_out)
		row_run_singly(row_do_write, &batch, rows);
	else
		row_run_each(row_do_write, att, NULL, rows);
}
