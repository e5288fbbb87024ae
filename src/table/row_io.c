/*
 * row_io.c
 *		Reads and writes rows of attached tables, as their owner.
 *
 * What runs here may run users' code: triggers, output functions, defaults,
 * checks.  So it runs as the table's owner in a security-restricted operation,
 * without the code of those who must not act as the owner (user_code.c),
 * with constraints immediate (a deferred trigger would fire at commit, as the
 * worker), with its own settings, and in a subtransaction, so that an error
 * stays here.  A whole batch is tried at once; if that fails, row by row, and
 * only the culprit bears the error.
 *
 * Users' code may also take its time, and all tables of a database wait for one
 * worker: so it is cancelled after ROW_TIME_LIMIT, and if it ignores that,
 * the worker ends and a new one starts.
 *
 * Hidden is not deleted: row_security is off, so that a policy that would hide
 * rows from their owner is an error instead.  Locks of users are not waited
 * for: such a row is KAPTURE_ROW_LOCKED and comes again later.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "jit/jit.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/bounded_key.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/owner_sql.h"
#include "base/text.h"
#include "base/user_code.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "mapping/condition.h"
#include "mapping/expression.h"
#include "table/binding.h"
#include "table/clock.h"
#include "table/leftovers.h"
#include "table/retained.h"
#include "table/row_io.h"
#include "table/row_sql.h"

/* How long a lock on the whole table is waited for. */
#define ROW_LOCK_TIMEOUT	"200ms"

/* How long a row's lock is waited for in the first try to write the ids of a batch. */
#define ROW_BUSY_TIMEOUT	"5ms"

/*
 * How long further locks of a batch are waited for once one was waited for in vain:
 * somebody holds the table or a partition, in which many of the other rows may be.
 */
#define ROW_LOCKED_TIMEOUT	"1ms"

/*
 * Milliseconds that users' code may take in a worker: for a whole batch; for one row
 * when rows are tried singly; and for these together, after which no other row is begun.
 */
#define ROW_TIME_BATCH		1000
#define ROW_TIME_LIMIT		5000
#define ROW_TIME_TOGETHER	1000

/* Bytes that a value may have, and all that are mapped of a row; more is not sent. */
#define ROW_MAX_VALUE		(1024 * 1024)
#define ROW_MAX_BYTES		(2 * 1024 * 1024)

/* Bytes of the rows of a batch that are read at a time; the others come later. */
#define ROW_BATCH_BYTES		((Size) 2 * 1024 * 1024)

/* Tables whose plans a background process keeps. */
#define ROW_MAX_PLANNED		200

typedef struct RowBatch
{
	KaptureAttachment *att;
	const char *timezone;
	List	   *rows;			/* of KaptureRow */
	Snapshot	snapshot;		/* in which rows have their keys; NULL: the latest */

	/* for listing keys */
	bool		without_id;
	const char *condition;
	const char *after;
	int			limit;
	MemoryContext context;
	List	   *keys;			/* of char *, in that context */

	int64		count;			/* of rows counted */
	char	  **session;		/* values of row_session_settings */
	const KaptureExpression *expression;	/* to be evaluated alone */
} RowBatch;

typedef void (*RowWork) (RowBatch *batch);

static void
row_set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * May plans read tables as a whole?  Rows are to be found by the primary key, however small
 * the table looks; only a view that is evaluated once for many rows needs more.
 */
static void
row_enable_scans(bool enable)
{
	const char *value = enable ? "on" : "off";

	row_set("enable_seqscan", value);
	row_set("enable_hashjoin", value);
	row_set("enable_mergejoin", value);
}

/*
 * Allows all plans until the run ends: something else than the key decides how rows are
 * found best, a condition on other tables or a view.
 */
void
kapture_row_plan_freely(void)
{
	row_enable_scans(true);
}

/* Did users' code run out of time in the last run? */
static bool row_timed_out = false;

/*
 * Takes the error that is being handled off the error stack and returns it, in the current
 * memory context, with its message cut to a length worth keeping.  "copy" is what
 * kapture_guard_copy_error() returned; "timed_out": the time of users' code was up.
 */
static ErrorData *
row_take_error(ErrorData *copy, bool timed_out)
{
	ErrorData  *error = kapture_guard_take_error(copy);

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
 * Sees to it that no users' code is deferred to the end of the transaction, where it
 * would run as the transaction's user.  In a worker, constraints are made immediate, and
 * user_code.c has them stay so.  In a session, whose own constraints may be pending,
 * tables are only read here.
 */
static void
row_leave_nothing(void)
{
	if (!kapture_process_is_ours())
		(void) set_config_option("transaction_read_only", "on", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);	/* ends with the nesting level, too */
	else if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not set constraints");
}

/* The tables whose plans are kept, the most recently used first. */
static dlist_head row_planned = DLIST_STATIC_INIT(row_planned);
static int	row_nplanned = 0;

/* The bytes that a plan takes. */
static Size
row_plan_bytes(SPIPlanPtr plan)
{
	const CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));

	return MemoryContextMemAllocated(source->context, true) +
		(source->gplan ? MemoryContextMemAllocated(source->gplan->context, true) : 0);
}

static void
row_drop_plans(KaptureAttachment *att)
{
	for (int i = 0; i < KAPTURE_ROW_STATEMENTS; i++)
	{
		if (att->plans[i])
		{
			kapture_retained_give_back(att->id, row_plan_bytes(att->plans[i]));
			SPI_freeplan(att->plans[i]);
		}
		att->plans[i] = NULL;
	}
	if (att->is_planned)
	{
		dlist_delete(&att->planned_node);
		row_nplanned--;
	}
	att->is_planned = false;
}

/*
 * Drops the plans of the least recently used tables, if there are too many: a table's
 * plans take a hundred kilobytes, and a process may have thousands of tables.  Not to be
 * called while one of the plans is executed.
 */
static void
row_drop_old_plans(void)
{
	while (row_nplanned > ROW_MAX_PLANNED)
		row_drop_plans(dlist_container(KaptureAttachment, planned_node, dlist_tail_node(&row_planned)));
}

/* Frees the plans along with the description of the table that they were made for. */
static void
row_free_plans(void *arg)
{
	row_drop_plans(arg);
}

/* Notes that the plans of a table are used. */
static void
row_note_planned(KaptureAttachment *att)
{
	if (att->is_planned)
		dlist_delete(&att->planned_node);
	else
		row_nplanned++;
	dlist_push_head(&row_planned, &att->planned_node);
	att->is_planned = true;
}

/*
 * As kapture_row_run(), with "limit" for users' code, in milliseconds, and
 * "lock_timeout" for the wait for a lock; NULL: the table is not locked, as it is
 * not to be read.
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
	if (kapture_process_is_ours() && !kapture_clock_is_running())
		row_drop_old_plans();
	BeginInternalSubTransaction(NULL);
	kapture_clock_start(limit);
	PG_TRY();
	{
		Relation	rel = NULL;
		Oid			table_owner;
		int			nestlevel;

		nestlevel = kapture_catalog_text_settings();
		if (lock_timeout)
			row_set("lock_timeout", lock_timeout);
		row_set("search_path", "pg_catalog, pg_temp");
		row_set("row_security", "off");
		row_set("max_parallel_workers_per_gather", "0");	/* parallel workers know nothing of all this */
		row_enable_scans(false);
		if (jit_enabled)
			row_set("jit", "off");	/* disabled plan nodes count as costs that would make it worthwhile */
		if (timezone)
			row_set("TimeZone", timezone);

		if (lock_timeout)
			rel = relation_open(att->root, AccessShareLock);
		table_owner = kapture_catalog_owner(att->root);
		kapture_clock_name(table_owner, att->id);
		SetUserIdAndSecContext(table_owner, sec_context | SECURITY_RESTRICTED_OPERATION);
		SPI_connect();
		row_leave_nothing();
		kapture_user_code_run(rel, att->beside, work, arg);
		if (kapture_clock_is_outermost())
			kapture_leftovers_close();
		SPI_finish();
		if (rel)
			relation_close(rel, NoLock);
		AtEOXact_GUC(false, nestlevel);
		SetUserIdAndSecContext(userid, sec_context);
		(void) kapture_clock_stop();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		bool		timed_out = kapture_clock_stop();

		error = kapture_guard_copy_error(context);
		RollbackAndReleaseCurrentSubTransaction();
		SetUserIdAndSecContext(userid, sec_context);
		MemoryContextSwitchTo(context);
		error = row_take_error(error, timed_out);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (kapture_process_is_ours() && !kapture_clock_is_running())
		kapture_leftovers_forget();
	kapture_clock_settle();
	/* a cancel is meant for the session, or for the users' code that has called us */
	if (error && error->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		(!kapture_process_is_ours() || kapture_clock_is_running()))
		ReThrowError(error);
	return error;
}

/*
 * Runs work(arg) as the owner of an attached table, as the file's header says,
 * within SPI.  Times are written out in "timezone" (NULL: UTC).  Returns NULL, or
 * the error, in the current memory context, after all that the work did was
 * rolled back.
 */
ErrorData *
kapture_row_run(KaptureAttachment *att, const char *timezone, void (*work) (void *arg), void *arg)
{
	return row_run_within(att, timezone, work, arg, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);
}

/*
 * As kapture_row_run(), for work that concerns the table but reads no row of it, such as on
 * the text of a key: the table is not locked, but must exist.  The work has to check the
 * types that it uses.
 */
ErrorData *
kapture_row_run_apart(KaptureAttachment *att, void (*work) (void *arg), void *arg)
{
	return row_run_within(att, NULL, work, arg, ROW_TIME_LIMIT, NULL);
}

/*
 * Is an error of kapture_row_run() temporary?  It is if somebody has locked what is needed (a
 * deadlock counts, too), or has renamed it, or if the server has run out of something.
 */
bool
kapture_row_is_passing(const ErrorData *error)
{
	return kapture_guard_is_lock(error) ||
		error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		kapture_guard_is_shortage(error);
}

/*
 * Has users' code raised such an error itself?  Then the code may raise it for ever, whether or not anything
 * is locked.  The server's own errors have its text domain, even if they pass through a function; a language
 * that rethrows a caught error as its own makes that look raised.
 */
bool
kapture_row_is_raised(const ErrorData *error)
{
	return error->domain && strcmp(error->domain, PG_TEXTDOMAIN("postgres")) != 0;
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

/*
 * Does an error concern the whole table, not one row?  If so, the rows wait until the
 * background process has noticed the table's problem, too.
 */
static bool
row_is_of_table(const KaptureAttachment *att)
{
	if (!kapture_process_is_ours())
		return false;
	kapture_expression_recheck(att);
	return kapture_binding_problem(att) != NULL;
}

/* The column or field whose value is too long, or cannot be computed; palloc'ed. */
static char *
row_value_name(const KaptureAttachment *att, int i)
{
	return att->columns[i].name ? psprintf("column \"%s\"", att->columns[i].name) :
		psprintf("field \"%s\"", att->columns[i].field);
}

/* Evaluates one value, or the filter, of one row. */
static void
row_do_evaluate(RowBatch *batch)
{
	KaptureAttachment *att = batch->att;
	char	  **values = kapture_catalog_unpack_key(((KaptureRow *) linitial(batch->rows))->row_key, att->nkeys);
	Oid			types[INDEX_MAX_KEYS];
	Datum		params[INDEX_MAX_KEYS];
	StringInfoData sql;

	if (values == NULL)
		return;
	for (int i = 0; i < att->nkeys; i++)
	{
		types[i] = TEXTOID;
		params[i] = CStringGetTextDatum(values[i]);
	}
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s::text FROM %s AS r", kapture_expression_sql(att, batch->expression),
					 kapture_row_source(att));
	if (att->source_name && batch->expression != att->filter)
		appendStringInfo(&sql, ", %s AND ", kapture_row_view_sql(att));
	else
		appendStringInfoString(&sql, " WHERE ");
	kapture_row_append_match(&sql, att, "$", 1);
	(void) kapture_user_code_execute(sql.data, att->nkeys, types, params, NULL, true);
}

/* The message of a row's error, with the field, or the filter, whose expression raises it. */
static char *
row_explain(RowBatch *batch, const ErrorData *error)
{
	const KaptureAttachment *att = batch->att;
	RowBatch	single = *batch;

	for (int i = -1; i < att->ncolumns; i++)
	{
		ErrorData  *cause;

		single.expression = i < 0 ? att->filter : att->columns[i].expression;
		if (single.expression == NULL)
			continue;
		cause = row_run(row_do_evaluate, &single, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);
		if (cause == NULL || cause->sqlerrcode != error->sqlerrcode)
			continue;
		return i < 0 ? psprintf("filter: %s", cause->message) :
			psprintf("%s: %s", row_value_name(att, i), cause->message);
	}
	return error->message;
}

/*
 * Runs "work" on each row separately, as far as there is time.  "locked": a lock was waited for in vain; its
 * holder may be waiting for a lock of this transaction, so further waits are short.
 */
static void
row_run_singly(RowWork work, RowBatch *batch, List *rows, bool locked)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ROW_TIME_TOGETHER);
	const char *lock_timeout = locked ? ROW_LOCKED_TIMEOUT : ROW_LOCK_TIMEOUT;
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
		if (kapture_row_is_passing(error) || row_is_of_table(batch->att))
		{
			row->outcome = KAPTURE_ROW_LOCKED;
			row->raised = kapture_row_is_passing(error) && kapture_row_is_raised(error);
			if (row->raised || kapture_guard_is_shortage(error))
				row->error = MemoryContextStrdup(row->context, row->raised ? row_explain(batch, error) : error->message);
			if (kapture_guard_is_lock(error) && !row->raised)
				lock_timeout = ROW_LOCKED_TIMEOUT;
		}
		else
		{
			row->outcome = KAPTURE_ROW_FAILED;
			row->slow = row_timed_out;
			row->error = MemoryContextStrdup(row->context, row_timed_out ? error->message : row_explain(batch, error));
			if (row->slow)
				endless = row->error;
		}
		FreeErrorData(error);
	}
}

/* Runs "work" on all rows at once if that goes well, else on each separately. */
static void
row_run_each(RowWork work, KaptureAttachment *att, const char *timezone, List *rows, Snapshot snapshot)
{
	RowBatch	batch = {.att = att, .timezone = timezone, .rows = rows, .snapshot = snapshot};
	bool		locked = false;

	if (list_length(rows) > 1)
	{
		/* a view that is evaluated as a whole takes as long for one row as for all */
		ErrorData  *error = row_run(work, &batch, att->reads_together ? ROW_TIME_LIMIT : ROW_TIME_BATCH, ROW_LOCK_TIMEOUT);

		if (error == NULL)
			return;
		locked = kapture_guard_is_lock(error);
		FreeErrorData(error);
	}
	row_run_singly(work, &batch, rows, locked);
}

/*
 * Errors out (55000) if the table's rows can be neither sent nor written; see
 * kapture_binding_problem().
 */
void
kapture_row_check_table(const KaptureAttachment *att)
{
	char	   *problem = kapture_binding_problem(att);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_internal("%s", problem),
				 errhint("%s", kapture_binding_advice(att))));
}

/*
 * The plan of a statement, prepared once for each description of a table, and
 * again when something in the statement was renamed.  A generic plan, to go by the
 * primary key however small the table looks now.
 */
static SPIPlanPtr
row_plan(KaptureAttachment *att, KaptureRowStatement statement)
{
	SPIPlanPtr	plan = att->plans[statement];
	int			nparams = att->nkeys;
	Oid			types[INDEX_MAX_KEYS + 1];
	char	   *sql;

	kapture_row_check_table(att);
	for (int i = 0; i < nparams; i++)
		types[i] = TEXTARRAYOID;
	if (statement == KAPTURE_SQL_WRITE)
		types[nparams++] = INT8ARRAYOID;
	sql = kapture_row_sql(att, statement);
	if (plan && kapture_user_code_is_plan_of(plan, sql))
	{
		row_note_planned(att);
		return plan;
	}
	if (plan)
		SPI_freeplan(plan);
	att->plans[statement] = NULL;
	plan = kapture_user_code_prepare(sql, nparams, types, CURSOR_OPT_GENERIC_PLAN);
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
	row_note_planned(att);
	return plan;
}

/*
 * Errors out if the last result has several rows for one key: without a primary
 * key, or in several tables that inherit from one, rows may have the same key.
 */
static void
row_check_unique(RowBatch *batch)
{
	bool	   *seen = palloc0(sizeof(bool) * (list_length(batch->rows) + 1));

	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int64		ord = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));

		if (seen[ord])
			ereport(ERROR,
					(errcode(ERRCODE_CARDINALITY_VIOLATION),
					 batch->att->source_name ?
					 errmsg("view %s has several rows with this key", batch->att->source_name) :
					 errmsg("several rows of table \"%s\" have this key", get_rel_name(batch->att->root))));
		seen[ord] = true;
	}
	pfree(seen);
}

/* What the planner expects of a plan. */
static Cost
row_cost(SPIPlanPtr plan)
{
	CachedPlan *cached;
	Cost		cost;

	kapture_user_code_expect(plan);
	cached = SPI_plan_get_cached_plan(plan);
	if (cached == NULL)
		elog(ERROR, "could not get a plan");
	cost = linitial_node(PlannedStmt, cached->stmt_list)->planTree->total_cost;
	ReleaseCachedPlan(cached, CurrentResourceOwner);
	return cost;
}

/*
 * Decides how the view that the values come from is read: for each row by its key or, if
 * that would cost much more, for all rows of a batch together.  Then plans may read whole
 * tables until the caller's row_enable_scans(false).
 */
static SPIPlanPtr
row_plan_to_read(KaptureAttachment *att)
{
	SPIPlanPtr	singly = row_plan(att, KAPTURE_SQL_READ);
	SPIPlanPtr	together;
	Cost		limit;

	att->reads_together = false;
	if (att->source_name == NULL)
		return singly;
	limit = row_cost(singly) / 2;
	row_enable_scans(true);
	together = row_plan(att, KAPTURE_SQL_READ_TOGETHER);
	att->reads_together = row_cost(together) < limit;
	if (att->reads_together)
		return together;
	row_enable_scans(false);
	return singly;
}

/* Executes a statement over the rows' keys and, for WRITE, new ids. */
static void
row_execute(KaptureRowStatement statement, RowBatch *batch, int expected)
{
	SPIPlanPtr	plan = statement == KAPTURE_SQL_READ ? row_plan_to_read(batch->att) : row_plan(batch->att, statement);
	int			nkeys = batch->att->nkeys;
	int			nrows = list_length(batch->rows);
	Datum		params[INDEX_MAX_KEYS + 1];
	Datum	   *elems = palloc(sizeof(Datum) * nrows * (nkeys + 1));
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
		params[i] = PointerGetDatum(construct_array(elems + i * nrows, nrows, TEXTOID,
													-1, false, TYPALIGN_INT));
	params[nkeys] = PointerGetDatum(construct_array(elems + nkeys * nrows, nrows, INT8OID,
													8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));

	rc = kapture_user_code_execute_plan(plan, params, batch->snapshot);
	if (statement == KAPTURE_SQL_READ && batch->att->reads_together)
		row_enable_scans(false);
	if (rc != expected)
		elog(ERROR, "unexpected SPI result %d", rc);
	row_check_unique(batch);
}

/* Each statement is a fault point. */
#define row_execute(statement, batch, expected) \
	(KAPTURE_FAULT_ROW(#statement, NULL), row_execute(statement, batch, expected))

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

/* An id from the table's text, 0 if that is NULL or empty; errors out if it is no number. */
static int64
row_parse_id(const char *text)
{
	return text == NULL || text[0] == '\0' ? 0 : pg_strtoint64(text);
}

/* Refuses rows in a partition whose owner must not act as the table's owner. */
static void
row_refuse_strangers(RowBatch *batch)
{
	if (!kapture_user_code_has_strangers())
		return;
	row_execute(KAPTURE_SQL_LOOK, batch, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		kapture_user_code_check_partition(DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull)));
	}
}

/* Fails a row with a value that is too long; "name" NULL: its values together are.  The row keeps no values. */
static void
row_refuse(KaptureRow *row, const char *name, Size size, Size limit)
{
	MemoryContext old = MemoryContextSwitchTo(row->context);

	row->outcome = KAPTURE_ROW_FAILED;
	row->values = NULL;
	row->error = name ?
		psprintf("value too long: %s has %zu bytes, at most %zu are sent", name, size, limit) :
		psprintf("values too long: the mapped columns have %zu bytes together, at most %zu are sent", size, limit);
	MemoryContextSwitchTo(old);
}

/* Is the row in line "i" of the last result inside of the filter? */
static bool
row_is_inside(const RowBatch *batch, int i)
{
	bool		isnull;

	return DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, batch->att->ncolumns + 4, &isnull));
}

/* Fills in a row from line "i" of the last result. */
static void
row_take(RowBatch *batch, KaptureRow *row, int i)
{
	KaptureAttachment *att = batch->att;

	row->outcome = KAPTURE_ROW_DONE;
	row->customer_id = row_parse_id(row_value(i, 2));
	row->bytes = strlen(row->row_key);
	row->values = MemoryContextAllocZero(row->context, sizeof(char *) * Max(att->ncolumns, 1));
	row->outside = !row_is_inside(batch, i);
	for (int c = 0; c < att->ncolumns; c++)
	{
		char	   *value = row_value(i, c + 3);
		Size		size = value ? strlen(value) : 0;

		/* a user's cast may make a long text of a short value */
		if (size > ROW_MAX_VALUE)
		{
			row_refuse(row, row_value_name(att, c), size, ROW_MAX_VALUE);
			return;
		}
		row->bytes += size;
		if (value)
			row->values[c] = MemoryContextStrdup(row->context, value);
	}
}

/* Returns whether the values of a row can be sent, without reading them; fails the row if not. */
static bool
row_measure(RowBatch *single)
{
	KaptureAttachment *att = single->att;
	KaptureRow *row = linitial(single->rows);
	Size		sum = 0;

	row_execute(KAPTURE_SQL_MEASURE, single, SPI_OK_SELECT);
	if (SPI_processed > 0 && !row_is_inside(single, 0))
		return true;			/* no values will be read */
	for (int c = 0; SPI_processed > 0 && c < att->ncolumns; c++)
	{
		bool		isnull;
		Datum		value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, c + 3, &isnull);
		Size		size;

		if (isnull || !kapture_row_may_be_large(att, c))
			continue;
		size = toast_raw_datum_size(value) - VARHDRSZ;
		sum += size;
		if (size > ROW_MAX_VALUE)
		{
			row_refuse(row, row_value_name(att, c), size, ROW_MAX_VALUE);
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
			row_execute(KAPTURE_SQL_READ_LARGE, &single, SPI_OK_SELECT);
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

	row_refuse_strangers(batch);
	foreach(lc, batch->rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_GONE;
	row_execute(KAPTURE_SQL_READ, batch, SPI_OK_SELECT);
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

/* For row_do_fill_ids(). */
typedef struct RowIds
{
	int32		attachment_id;
	List	   *rows;
} RowIds;

static void
row_do_fill_ids(void *arg)
{
	RowIds	   *ids = arg;
	int			n = list_length(ids->rows);
	Datum	   *keys = palloc(sizeof(Datum) * n);
	Oid			types[2] = {INT4OID, TEXTARRAYOID};
	Datum		values[2] = {Int32GetDatum(ids->attachment_id)};

	for (int i = 0; i < n; i++)
		keys[i] = CStringGetTextDatum(((KaptureRow *) list_nth(ids->rows, i))->row_key);
	values[1] = PointerGetDatum(construct_array(keys, n, TEXTOID, -1, false, TYPALIGN_INT));
	SPI_connect();
	kapture_user_code_select(kapture_catalog_qualify("SELECT v.ord, r.customer_id FROM unnest($2) WITH ORDINALITY AS v(row_key, ord), LATERAL"
													 " (SELECT r.customer_id FROM @.kapture_row AS r WHERE r.attachment_id = $1 AND r.gone_at IS NULL"
													 " AND " KAPTURE_KEY_IS("r.row_key", "v.row_key") " OFFSET 0) AS r"),
							 2, types, values, NULL, false);	/* also those of this transaction */
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		int64		ord = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
		KaptureRow *row = list_nth(ids->rows, (int) ord - 1);

		if (row->outcome == KAPTURE_ROW_DONE)
			row->customer_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull));
	}
	SPI_finish();
}

/*
 * Fills in the ids of rows whose table has no column for them.
 */
void
kapture_row_fill_ids(const KaptureAttachment *att, List *rows)
{
	RowIds		ids = {att->id, rows};

	kapture_own_run(row_do_fill_ids, &ids);
}

/*
 * Has a table that the rows are read from, or a partition of one, been rewritten since the
 * snapshot was taken?  Then the snapshot shows none of its rows, as ALTER TABLE and TRUNCATE
 * give them the command's transaction id; or, after pg_repack, which brings a copy up to date,
 * what they held when they were copied.
 */
static bool
row_is_rewritten(const KaptureAttachment *att, Snapshot snapshot)
{
	SPIPlanPtr	plan = att->plans[KAPTURE_SQL_READ];
	List	   *tables = list_make1_oid(att->root);
	ListCell   *table;
	ListCell   *lc;

	/* with a view, those that the view reads */
	if (plan)
		tables = list_concat_unique_oid(tables, ((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(plan)))->relationOids);
	foreach(table, tables)
	{
		foreach(lc, find_all_inheritors(lfirst_oid(table), NoLock, NULL))
		{
			HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(lfirst_oid(lc)));
			TransactionId xmin;

			if (!HeapTupleIsValid(tuple))
				continue;
			xmin = HeapTupleHeaderGetXmin(tuple->t_data);
			ReleaseSysCache(tuple);
			if (TransactionIdIsNormal(xmin) && XidInMVCCSnapshot(xmin, snapshot))
				return true;
		}
	}
	return false;
}

/*
 * What a snapshot shows of rows is not to be relied on if a table was rewritten since: they
 * come again, in a transaction with a later snapshot.  "gone": only those that it does not
 * show do; the others were locked, and so in their latest state.
 */
static void
row_doubt(const KaptureAttachment *att, List *rows, Snapshot snapshot, bool gone)
{
	bool		any = false;
	ListCell   *lc;

	foreach(lc, rows)
		any |= !gone || ((KaptureRow *) lfirst(lc))->outcome == KAPTURE_ROW_GONE;
	if (snapshot == NULL || !any || !row_is_rewritten(att, snapshot))
		return;
	foreach(lc, rows)
	{
		KaptureRow *row = lfirst(lc);

		if (gone && row->outcome != KAPTURE_ROW_GONE)
			continue;
		row->outcome = KAPTURE_ROW_LOCKED;
		row->raised = false;
		row->error = NULL;
	}
}

/*
 * Fills in what the table holds for the rows (of KaptureRow).  "timezone" is
 * the zone in which times are written out, "snapshot" the one to read with, in
 * which the rows have their keys; NULL: the latest.  Each row gets an outcome;
 * only errors that end the transaction are raised.
 */
void
kapture_row_read(KaptureAttachment *att, const char *timezone, List *rows, Snapshot snapshot)
{
	row_run_each(row_do_read, att, timezone, rows, snapshot);
	row_doubt(att, rows, snapshot, false);
	if (att->id_column == NULL && att->id != 0)
		kapture_row_fill_ids(att, rows);
}

/*
 * Returns rows (KaptureRow) with these keys (char *, not copied), yet to be read, in the current
 * memory context; what is read will be allocated in "context".
 */
List *
kapture_row_list(List *row_keys, MemoryContext context)
{
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, row_keys)
	{
		KaptureRow *row = palloc0(sizeof(KaptureRow));

		row->context = context;
		row->row_key = lfirst(lc);
		rows = lappend(rows, row);
	}
	return rows;
}

/*
 * Returns those of the keys (char *) whose rows have no customer, of a table without a column
 * for ids, in the current memory context.  Sees what has been committed by now.
 */
List *
kapture_row_without_ids(const KaptureAttachment *att, List *row_keys)
{
	List	   *rows = kapture_row_list(row_keys, CurrentMemoryContext);
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_DONE;
	if (rows != NIL)
		kapture_row_fill_ids(att, rows);
	foreach(lc, rows)
	{
		KaptureRow *row = lfirst(lc);

		if (row->customer_id == 0)
			result = lappend(result, unconstify(char *, row->row_key));
	}
	return result;
}

/*
 * As kapture_row_read(), for as many rows as the caller has memory for: rows that do not
 * fit into a batch are read in further ones.  Only rows that are locked end as LOCKED.
 */
void
kapture_row_read_all(KaptureAttachment *att, const char *timezone, List *rows)
{
	int			n = 0;

	while (rows != NIL && list_length(rows) != n)
	{
		List	   *left = NIL;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		n = list_length(rows);
		kapture_row_read(att, timezone, rows, NULL);
		foreach(lc, rows)
		{
			if (((KaptureRow *) lfirst(lc))->outcome == KAPTURE_ROW_LOCKED)
				left = lappend(left, lfirst(lc));
		}
		rows = left;
	}
}

/*
 * kapture_row_find_keys
 *		The keys (char *, in "context") of at most "limit" rows that are selected, in
 *		order of the primary key, from "after" (NULL: the start) on.
 *
 * "selection" is a condition over the row "r"; if "type" is set, "value" is its
 * parameter, with the number that kapture_row_parameter() gives.  To be called as the
 * table's owner, within SPI.  Errors: those of reading the table; 40001, if the table was
 * rewritten after the snapshot of a transaction that keeps it.
 */
List *
kapture_row_find_keys(const KaptureAttachment *att, const char *selection, const char *after, int limit,
					  Oid type, Datum value, MemoryContext context)
{
	char	  **parts = after ? kapture_catalog_unpack_key(after, att->nkeys) : NULL;
	int			nparams = 0;
	Oid			types[INDEX_MAX_KEYS + 1];
	Datum		params[INDEX_MAX_KEYS + 1];
	char	   *sql = psprintf("%s LIMIT %d", kapture_row_list_sql(att, selection, after != NULL), limit);
	List	   *keys = NIL;

	for (; parts && nparams < att->nkeys; nparams++)
	{
		types[nparams] = TEXTOID;
		params[nparams] = CStringGetTextDatum(parts[nparams]);
	}
	if (OidIsValid(type))
	{
		types[nparams] = type;
		params[nparams++] = value;
	}
	/* with a snapshot of now: one from before the table was locked may be from before it was rewritten */
	kapture_user_code_select(sql, nparams, types, params, NULL, false);
	if (IsolationUsesXactSnapshot() && row_is_rewritten(att, GetTransactionSnapshot()))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("table \"%s\" was rewritten after the transaction had begun", get_rel_name(att->root)),
				 errhint("Try again, or use isolation level READ COMMITTED.")));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *columns[INDEX_MAX_KEYS];
		char	   *key;
		MemoryContext old;

		for (int k = 0; k < att->nkeys; k++)
			columns[k] = row_value(i, k + 1);
		key = kapture_catalog_pack_key(columns, att->nkeys);
		/* SPI's memory ends before the list is read */
		old = MemoryContextSwitchTo(context);
		keys = lappend(keys, pstrdup(key));
		MemoryContextSwitchTo(old);
	}
	return keys;
}

/*
 * Returns the number of the parameter of a selection for kapture_row_find_keys().
 */
int
kapture_row_parameter(const KaptureAttachment *att, const char *after)
{
	return (after ? att->nkeys : 0) + 1;
}

static void
row_do_list(RowBatch *batch)
{
	kapture_row_check_table(batch->att);
	if (batch->att->source_name)
		kapture_row_plan_freely();
	batch->keys = kapture_row_find_keys(batch->att, kapture_row_selection(batch->att, batch->without_id, batch->condition),
										batch->after, batch->limit, InvalidOid, (Datum) 0, batch->context);
}

/*
 * Returns the keys (char *, in the current memory context) of at most "limit"
 * rows, in order of the primary key, from "after" (NULL: the start) on.  The rows have
 * no id, if "without_id" is set, and meet "condition" (NULL: none), which is one of
 * kapture_row_take_condition().  Errors: those of reading the table as its owner.
 */
List *
kapture_row_keys_after(KaptureAttachment *att, bool without_id, const char *condition, const char *after, int limit)
{
	RowBatch	batch = {.att = att, .without_id = without_id, .condition = condition,
	.after = after, .limit = limit, .context = CurrentMemoryContext};
	ErrorData  *error = row_run(row_do_list, &batch, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);

	if (error)
		ReThrowError(error);
	return batch.keys;
}

static void
row_do_count(RowBatch *batch)
{
	bool		isnull;

	kapture_row_check_table(batch->att);
	if (batch->att->source_name)
		kapture_row_plan_freely();
	kapture_user_code_select(psprintf("SELECT pg_catalog.count(*) FROM %s AS r WHERE %s",
									  kapture_row_source(batch->att),
									  kapture_row_selection(batch->att, batch->without_id, batch->condition)),
							 0, NULL, NULL, NULL, false);
	batch->count = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
}

/*
 * Returns how many rows kapture_row_keys_after() finds in all; reads the whole table.
 * Errors: those of that function.
 */
int64
kapture_row_count(KaptureAttachment *att, bool without_id, const char *condition)
{
	RowBatch	batch = {.att = att, .without_id = without_id, .condition = condition};
	ErrorData  *error = row_run(row_do_count, &batch, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);

	if (error)
		ReThrowError(error);
	return batch.count;
}

/* What the meaning of a text that a user gives depends on. */
static const char *const row_session_settings[] = {"search_path", "DateStyle", "IntervalStyle", "TimeZone",
"standard_conforming_strings", "backslash_quote", "array_nulls", "transform_null_equals", "xmloption"};

static void
row_do_take_condition(RowBatch *batch)
{
	Relation	rel = relation_open(batch->att->root, NoLock);
	int			nestlevel = NewGUCNestLevel();
	char	   *sql;

	for (int i = 0; i < lengthof(row_session_settings); i++)
		row_set(row_session_settings[i], batch->session[i]);
	sql = kapture_condition_sql(rel, batch->condition, "r");
	AtEOXact_GUC(false, nestlevel);
	relation_close(rel, NoLock);
	SPI_freeplan(kapture_user_code_prepare(psprintf("SELECT true FROM %s AS r WHERE %s", kapture_row_source(batch->att), sql), 0, NULL, 0));
	batch->condition = MemoryContextStrdup(batch->context, sql);
}

/*
 * Takes a user's condition on the table's rows: returns it for kapture_row_keys_after(), in
 * the current memory context.  It is parsed as the table's owner, with names, dates and
 * times as in the session.  Errors: those of kapture_condition_check(), and of parsing.
 */
const char *
kapture_row_take_condition(KaptureAttachment *att, const char *condition)
{
	char	   *session[lengthof(row_session_settings)];
	RowBatch	batch = {.att = att, .condition = condition, .session = session, .context = CurrentMemoryContext};
	ErrorData  *error;

	for (int i = 0; i < lengthof(session); i++)
		session[i] = GetConfigOptionByName(row_session_settings[i], NULL, false);
	kapture_condition_check("condition", condition);
	error = row_run(row_do_take_condition, &batch, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);
	if (error == NULL)
		return batch.condition;
	kapture_condition_explain(error, "condition");
	ReThrowError(error);
}

/* Prepares all statements, and looks for some row by its key. */
static void
row_do_try(RowBatch *batch)
{
	KaptureAttachment *att = batch->att;
	KaptureRow	row = {.context = CurrentMemoryContext};
	Oid			types[INDEX_MAX_KEYS];
	char	   *parts[INDEX_MAX_KEYS];

	for (int i = 0; i < KAPTURE_ROW_STATEMENTS; i++)
		(void) row_plan(att, (KaptureRowStatement) i);
	for (int i = 0; i < att->nkeys; i++)
		types[i] = TEXTOID;
	SPI_freeplan(kapture_user_code_prepare(kapture_row_list_sql(att, kapture_row_selection(att, true, NULL), true), att->nkeys, types, 0));
	kapture_user_code_select(psprintf("SELECT %s FROM %s AS r LIMIT 1", kapture_row_keys(att), kapture_row_source(att)),
							 0, NULL, NULL, NULL, true);
	if (SPI_processed == 0)
		return;
	for (int k = 0; k < att->nkeys; k++)
		parts[k] = row_value(0, k + 1);
	row.row_key = kapture_catalog_pack_key(parts, att->nkeys);
	batch->rows = list_make1(&row);
	row_execute(KAPTURE_SQL_LOOK, batch, SPI_OK_SELECT);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("no row is found by key \"%s\"", row.row_key)));
}

/*
 * Tries whether rows of the table can be found by their keys.  Returns NULL if so,
 * or the error, in the current memory context.
 */
ErrorData *
kapture_row_try(KaptureAttachment *att)
{
	RowBatch	batch = {.att = att};

	return row_run(row_do_try, &batch, ROW_TIME_LIMIT, ROW_LOCK_TIMEOUT);
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

	row_execute(KAPTURE_SQL_LOOK, &missing, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
		row_of(&missing, i)->outcome = KAPTURE_ROW_LOCKED;
}

/* Locks the rows that are free: the last result has these.  All rows are marked GONE until more is known. */
static void
row_lock(RowBatch *batch)
{
	ListCell   *lc;

	row_refuse_strangers(batch);
	foreach(lc, batch->rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_GONE;
	row_execute(KAPTURE_SQL_LOCK, batch, SPI_OK_SELECT);
}

/* Locks the rows that are free, and reads them. */
static void
row_do_hold(RowBatch *batch)
{
	RowBatch	held = *batch;

	held.rows = NIL;
	row_lock(batch);
	for (uint64 i = 0; i < SPI_processed; i++)
		held.rows = lappend(held.rows, row_of(batch, i));
	if (held.rows != NIL)
		row_do_read(&held);
	row_explain_missing(batch);
}

/*
 * Locks the rows (of KaptureRow) until the end of the transaction, and fills in
 * what the table holds for them, as kapture_row_read().  LOCKED: somebody else
 * holds the row.
 */
void
kapture_row_hold(KaptureAttachment *att, const char *timezone, List *rows)
{
	row_run_each(row_do_hold, att, timezone, rows, NULL);
	if (att->id_column == NULL && att->id != 0)
		kapture_row_fill_ids(att, rows);
}

/* Reports that a row has got another id than the one that was written, or none. */
static void
row_refuse_id(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION),
			 errmsg("a trigger of the table has put another value in place of the Kapture customer id")));
}

/*
 * Errors out if one of "n" rows that the last statement has written has got another id, or none:
 * the row would count as another customer's, or be added again.
 */
void
kapture_row_check_ids(uint64 n, int column)
{
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;

		if (!DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column, &isnull)))
			row_refuse_id();
	}
}

/*
 * Errors out if the rows of a batch that were just written do not have their ids any more.  RETURNING shows
 * what BEFORE triggers have made of them; code that comes after the update, in AFTER triggers, may
 * take the ids back by an update of its own.
 */
static void
row_check_kept(const RowBatch *batch)
{
	RowBatch	written = *batch;
	ListCell   *lc;

	if (!kapture_user_code_has_called())
		return;
	written.rows = NIL;
	foreach(lc, batch->rows)
	{
		if (((KaptureRow *) lfirst(lc))->outcome == KAPTURE_ROW_DONE)
			written.rows = lappend(written.rows, lfirst(lc));
	}
	if (written.rows == NIL)
		return;
	row_execute(KAPTURE_SQL_LOCK, &written, SPI_OK_SELECT);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		if (row_parse_id(row_value(i, 2)) != row_of(&written, i)->new_id)
			row_refuse_id();
	}
}

/*
 * The same for one row that the caller, in kapture_row_run(), has written; NULL for its key: it is
 * not known.
 */
void
kapture_row_check_kept(KaptureAttachment *att, const char *row_key, int64 customer_id)
{
	KaptureRow	row = {.row_key = row_key,.new_id = customer_id,.outcome = KAPTURE_ROW_DONE};
	RowBatch	batch = {.att = att,.rows = list_make1(&row)};

	if (row_key)
		row_check_kept(&batch);
}

/* Locks the rows that are free, and writes ids into those that have none. */
static void
row_do_write(RowBatch *batch)
{
	RowBatch	locked = *batch;
	ListCell   *lc;

	locked.rows = NIL;
	row_lock(batch);
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

	/* write into rows that have no id yet */
	if (locked.rows != NIL)
	{
		row_execute(KAPTURE_SQL_WRITE, &locked, SPI_OK_UPDATE_RETURNING);
		kapture_row_check_ids(SPI_processed, 2);
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
		row_check_kept(&locked);
	}
	row_explain_missing(batch);
}

/*
 * Writes the ids in the hope that all rows exist, are free and have none yet.
 * Rows that are not written are left to row_do_write(); a lock ends this with an error.
 */
static void
row_do_write_simply(RowBatch *batch)
{
	RowBatch	rest = *batch;
	ListCell   *lc;

	row_refuse_strangers(batch);
	row_set("lock_timeout", ROW_BUSY_TIMEOUT);
	foreach(lc, batch->rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_GONE;
	row_execute(KAPTURE_SQL_WRITE, batch, SPI_OK_UPDATE_RETURNING);
	kapture_row_check_ids(SPI_processed, 2);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureRow *row = row_of(batch, i);

		row->outcome = KAPTURE_ROW_DONE;
		row->customer_id = 0;
	}
	row_check_kept(batch);
	rest.rows = NIL;
	foreach(lc, batch->rows)
	{
		if (((KaptureRow *) lfirst(lc))->outcome != KAPTURE_ROW_DONE)
			rest.rows = lappend(rest.rows, lfirst(lc));
	}
	if (rest.rows == NIL)
		return;
	row_set("lock_timeout", ROW_LOCK_TIMEOUT);
	row_do_write(&rest);
}

/*
 * Writes new_id of the rows (of KaptureRow) into the id column where it is
 * still NULL.  Each row gets an outcome: DONE also where an id was there
 * already (see customer_id), LOCKED if a user holds the row, or if it no longer
 * has the key that it has in "snapshot".
 */
void
kapture_row_write_ids(KaptureAttachment *att, List *rows, Snapshot snapshot)
{
	RowBatch	batch = {.att = att, .rows = rows, .snapshot = snapshot};
	ErrorData  *error;
	bool		locked;
	ListCell   *lc;

	if (att->id_column == NULL)
	{
		/* the extension keeps the id, when the outcome is recorded */
		foreach(lc, rows)
		{
			((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_DONE;
			((KaptureRow *) lfirst(lc))->customer_id = 0;
		}
		return;
	}
	error = row_run(row_do_write_simply, &batch, ROW_TIME_BATCH, ROW_LOCK_TIMEOUT);
	if (error)
	{
		locked = kapture_guard_is_lock(error);
		FreeErrorData(error);
		if (row_timed_out || locked)
			row_run_singly(row_do_write, &batch, rows, locked);
		else
			row_run_each(row_do_write, att, NULL, rows, snapshot);
	}
	row_doubt(att, rows, snapshot, true);
}
