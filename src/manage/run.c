/*
 * run.c
 *		Runs through the rows of an attached table, in slices.
 *
 * A run goes through rows in order of the primary key, one slice per transaction.
 * Its progress is in kapture_backfill, so that the same call goes on where it was
 * interrupted; a call with other arguments begins anew.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "api/argument.h"
#include "base/owner_sql.h"
#include "base/procedure.h"
#include "manage/run.h"
#include "table/attach_find.h"
#include "table/row_io.h"

/* Rows a slice has, at most. */
#define RUN_MAX_SLICE		100000

/* Microseconds between two reports. */
#define RUN_REPORT			USECS_PER_SEC

/* The values of kapture_backfill.activity. */
static const char *const run_activities[] = {"backfill", "resync", "verify"};

/* The condition that finds the run in kapture_backfill. */
#define RUN_IS_IT			" attachment_id = $1 AND activity = $2"

/*
 * The lock of a run is that of the attachment as if it were an object of class
 * kapture_attachment, with an objsubid by activity; from this lock, kapture_progress
 * knows whether the run is going on.
 */
static LOCKTAG
run_lock_tag(int32 attachment_id, KaptureActivity activity)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), (Oid) attachment_id,
					   1 + (int) activity);
	return tag;
}

/* The parameters of statements on kapture_backfill: attachment and activity, then the run's arguments. */
static void
run_values(const KaptureRun *run, const KaptureAttachment *att, Oid *types, Datum *values)
{
	static const Oid all[6] = {INT4OID, TEXTOID, TEXTOID, TEXTARRAYOID, BOOLOID, REGCLASSOID};

	memcpy(types, all, sizeof(all));
	values[0] = Int32GetDatum(att->id);
	values[1] = CStringGetTextDatum(run_activities[run->activity]);
	values[2] = CStringGetTextDatum(run->condition ? run->condition : "");
	values[3] = run->fields ? run->fields : PointerGetDatum(construct_empty_array(TEXTOID));
	values[4] = BoolGetDatum(run->force);
	values[5] = ObjectIdGetDatum(run->target);
}

/*
 * Begins a run, by counting what there is to do, unless a run with the same arguments
 * was interrupted.
 */
static void
run_begin(KaptureRun *run, KaptureAttachment *att)
{
	Oid			types[7];
	Datum		values[7];

	run_values(run, att, types, values);
	if (!run->restart &&
		kapture_own_text("SELECT 1 FROM @.kapture_backfill WHERE" RUN_IS_IT " AND finished_at IS NULL"
						 " AND condition = $3 AND fields = $4 AND force = $5 AND target = $6",
						 6, types, values) != NULL)
		return;
	run->restart = false;
	types[6] = INT8OID;
	values[6] = Int64GetDatum(kapture_row_count(att, run->activity == KAPTURE_BACKFILL, run->selected));
	(void) kapture_own_execute("DELETE FROM @.kapture_backfill WHERE" RUN_IS_IT, 2, types, values);
	(void) kapture_own_execute("INSERT INTO @.kapture_backfill"
							   " (attachment_id, activity, condition, fields, force, target, last_key, rows, total)"
							   " VALUES ($1, $2, $3, $4, $5, $6, '', 0, $7)", 7, types, values);
}

/*
 * Records the progress.  For the rate, a call by another session, or after a minute,
 * counts as a new one.
 */
static void
run_record(KaptureRun *run, KaptureAttachment *att, const char *last_key, int rows, bool finished)
{
	Oid			types[5] = {INT4OID, TEXTOID, TEXTOID, INT4OID, BOOLOID};
	Datum		values[5] = {Int32GetDatum(att->id), CStringGetTextDatum(run_activities[run->activity]),
		CStringGetTextDatum(last_key), Int32GetDatum(rows), BoolGetDatum(finished)};
	char	   *text = kapture_own_text("UPDATE @.kapture_backfill AS b SET last_key = $3, rows = rows + $4,"
										" total = greatest(total, rows + $4), updated_at = clock_timestamp(),"
										" finished_at = CASE WHEN $5 THEN clock_timestamp() END, pid = pg_backend_pid(),"
										" resumed_at = CASE WHEN anew THEN now() ELSE resumed_at END,"
										" resumed_rows = CASE WHEN anew THEN rows ELSE resumed_rows END"
										" FROM (SELECT pid <> pg_backend_pid() OR updated_at < now() - interval '1 minute'"
										" FROM @.kapture_backfill WHERE" RUN_IS_IT ") AS call(anew)"
										" WHERE" RUN_IS_IT " RETURNING rows || ' ' || total", 5, types, values);
	long long	done = 0;
	long long	total = 0;

	if (text)
		(void) sscanf(text, "%lld %lld", &done, &total);
	run->rows = done;
	run->total = total;
}

/*
 * Takes the argument that says how many rows a slice has.  Errors: 22004, 22023.
 */
void
kapture_run_check_slice(FunctionCallInfo fcinfo, int argno, int *slice)
{
	kapture_argument_check_null(fcinfo, argno, "slice");
	*slice = PG_GETARG_INT32(argno);
	if (*slice < 1 || *slice > RUN_MAX_SLICE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"slice\" must be between 1 and %d", RUN_MAX_SLICE)));
}

/* As kapture_run_slice(), for an attachment that is locked. */
static int
run_step(KaptureRun *run, KaptureAttachment *att)
{
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(att->id), CStringGetTextDatum(run_activities[run->activity])};
	char	   *last_key;
	List	   *keys;

	run_begin(run, att);
	last_key = kapture_own_text("SELECT CASE WHEN rows > 0 THEN last_key END FROM @.kapture_backfill WHERE" RUN_IS_IT,
								2, types, values);
	keys = kapture_row_keys_after(att, run->activity == KAPTURE_BACKFILL, run->selected, last_key, run->slice);
	if (keys != NIL)
	{
		run->work(run, att, keys);
		last_key = llast(keys);
	}
	run_record(run, att, last_key ? last_key : "", list_length(keys), list_length(keys) < run->slice);
	return list_length(keys);
}

/*
 * Does the next slice of a run over the table in a function's first argument,
 * within the caller's transaction.  Returns how many rows it had; fewer than a
 * slice has means that the run is done.  Errors: those of kapture_attach_find(),
 * of reading the table as its owner, and of the work.
 */
int
kapture_run_slice(FunctionCallInfo fcinfo, KaptureRun *run)
{
	KaptureAttachment *att = kapture_attach_find(fcinfo, run->name_arg, AccessShareLock);
	LOCKTAG		tag = run_lock_tag(att->id, run->activity);

	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	return run_step(run, att);
}

/* Reports the progress of a run, once a second. */
static void
run_report(KaptureRun *run, const char *name, int64 done)
{
	TimestampTz now = GetCurrentTimestamp();
	double		rate = done / (Max(now - run->began, 1) / (double) USECS_PER_SEC);
	int64		left;

	if (now - run->reported < RUN_REPORT || done == 0)
		return;
	run->reported = now;
	left = (int64) ((run->total - run->rows) / rate);
	ereport(NOTICE,
			(errmsg("%lld of %lld rows of %s %s, %.0f a second, %02lld:%02lld:%02lld left",
					(long long) run->rows, (long long) run->total, name, run->notice, rate,
					(long long) (left / SECS_PER_HOUR), (long long) (left / SECS_PER_MINUTE % MINS_PER_HOUR),
					(long long) (left % SECS_PER_MINUTE))));
}

/* Does slice after slice of an attachment, each committed.  "name": see kapture_catalog_title(). */
static void
run_loop(FunctionCallInfo fcinfo, KaptureRun *run, int32 attachment_id, const char *name)
{
	MemoryContext slice = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync slice", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = CurrentMemoryContext;
	int64		done = 0;
	int			n;

	run->skipped = 0;
	do
	{
		LOCKTAG		tag = run_lock_tag(attachment_id, run->activity);
		KaptureAttachment *att;

		kapture_procedure_begin();
		MemoryContextSwitchTo(slice);
		att = kapture_attach_find_again(fcinfo, attachment_id, AccessShareLock);
		/* other activities hold their lock for the session */
		if (run->activity == KAPTURE_BACKFILL)
			(void) LockAcquire(&tag, ExclusiveLock, false, false);
		n = run_step(run, att);
		MemoryContextSwitchTo(old);
		MemoryContextReset(slice);
		kapture_procedure_commit();
		done += n;
		if (n == run->slice)
			run_report(run, name, done);
	} while (n == run->slice);
	ereport(NOTICE,
			(errmsg("%lld rows of %s %s, that is all", (long long) (done - run->skipped), name, run->notice)));
	MemoryContextDelete(slice);
}

/* Does a run over the rows of an attachment to its end. */
static void
run_attachment(FunctionCallInfo fcinfo, KaptureRun *run, int32 attachment_id, const char *name)
{
	LOCKTAG		tag = run_lock_tag(attachment_id, run->activity);

	if (run->activity != KAPTURE_BACKFILL &&
		LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another session is running %s for table %s", run->name, name),
				 errhint("See the view kapture_progress.")));
	PG_TRY();
	{
		run_loop(fcinfo, run, attachment_id, name);
	}
	PG_FINALLY();
	{
		if (run->activity != KAPTURE_BACKFILL)
			(void) LockRelease(&tag, ExclusiveLock, true);
	}
	PG_END_TRY();
}

/*
 * Does a run over the table in a procedure's first argument, to its end, for one of its
 * attachments after the other; commits each slice.  Errors: 2D000 in a transaction block,
 * 55006 if another session does the same, and those of kapture_run_slice().
 */
void
kapture_run_call(FunctionCallInfo fcinfo, KaptureRun *run)
{
	int32	   *ids;
	char	  **names;
	int			n = 0;
	bool		restart = run->restart;
	ListCell   *lc;

	run->began = run->reported = GetCurrentTimestamp();
	kapture_procedure_require_own_transactions(fcinfo, run->name, "It commits each slice of rows.");
	run->attachments = kapture_attach_find_all(fcinfo, run->name_arg, AccessShareLock);
	if (run->condition)
		run->selected = kapture_row_take_condition(linitial(run->attachments), run->condition);
	ids = palloc(sizeof(int32) * list_length(run->attachments));
	names = palloc(sizeof(char *) * list_length(run->attachments));
	foreach(lc, run->attachments)
	{
		ids[n] = ((KaptureAttachment *) lfirst(lc))->id;
		names[n++] = kapture_catalog_title(lfirst(lc));
	}
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	for (int i = 0; i < n; i++)
	{
		run->restart = restart;
		run_attachment(fcinfo, run, ids[i], names[i]);
		run->began = run->reported = GetCurrentTimestamp();
	}
	SPI_finish();
}
