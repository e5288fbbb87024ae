/*
 * bgworker.c
 *		What the background processes of a database have in common: how they
 *		begin, work and end, and what they report.
 *
 * Worker and puller are loops over passes (kapture_process_run_loop).  A pass does what
 * there is to do in transactions of its own, each with an activity to be shown, and waits.
 * Between transactions, the process's memory context is the current one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/backend_status.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/catalog_tables.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/lock.h"
#include "base/steady.h"
#include "base/user_code.h"
#include "cluster/bgworker.h"

/* The system's clock may be off by so many microseconds without anybody having set it. */
#define PROCESS_CLOCK_SLACK	(5 * USECS_PER_SEC)

/* How long to wait for any lock. */
#define PROCESS_LOCK_TIMEOUT	"200ms"

/*
 * Bytes that the process's memory context may hold itself, without its child contexts: far
 * more than it can ever need.
 */
#define PROCESS_MEMORY			((Size) 256 * 1024 * 1024)

/* Longest rest, in milliseconds, after a failed pass if there is something to do. */
#define PROCESS_REST			1000

static bool process_ours = false;
static volatile sig_atomic_t process_told_to_end = false;
static KaptureWorkerKind process_kind;
static MemoryContext process_context;	/* what lives as long as the process */
static const char *process_database = NULL; /* its name */
static TimestampTz process_clock = 0;	/* by how much the system's clock is ahead of the steady one */

/*
 * kapture_status shows, or may show, an error that is not about a table: an earlier process
 * may have left one.
 */
static bool process_in_trouble = true;

/* When to report statistics that could not be reported at once; DT_NOEND: there are none. */
static TimestampTz process_stats_due = DT_NOEND;

/* Are statistics counted?  And the value of track_counts, to be restored when they are. */
static bool process_counts = false;
static bool process_track_counts = true;

/*
 * Locks settings that any user may change, and by which users' code could end the process:
 * by an error of its own, or by a timeout.  They are off for good.
 */
static void
process_lock_settings(void)
{
	static const char *const names[] = {"exit_on_error", "transaction_timeout"};
	int			n;
	struct config_generic **settings = kapture_all_settings(&n);

	for (int i = 0; i < n; i++)
	{
		for (int k = 0; k < lengthof(names); k++)
		{
			if (strcmp(settings[i]->name, names[k]) == 0)
				settings[i]->context = PGC_INTERNAL;
		}
	}
}

/*
 * Settings that the worker's promises rest on must not come from ALTER
 * DATABASE or ALTER ROLE.  The owner of a database, who need not be a superuser, could
 * even have it run as somebody else.
 */
static void
process_own_settings(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"role", "none"},
		{"search_path", "pg_catalog, pg_temp"},
		/* ours are written for these */
		{"standard_conforming_strings", "on"},
		{"array_nulls", "on"},
		{"transform_null_equals", "off"},
		{"restrict_nonsystem_relation_kind", ""},
		{"plan_cache_mode", "auto"},
		{"enable_indexscan", "on"},
		{"enable_indexonlyscan", "on"},
		{"enable_bitmapscan", "on"},
		{"enable_nestloop", "on"},
		{"from_collapse_limit", "8"},
		{"join_collapse_limit", "8"},
		{"geqo", "off"},
		{"max_parallel_workers_per_gather", "0"},
		{"force_parallel_mode", "off"},
		{"debug_parallel_query", "off"},
		/* while the queue is vacuumed, all tables wait */
		{"vacuum_cost_delay", "0"},
		/* plans have values in them */
		{"debug_print_parse", "off"},
		{"debug_print_rewritten", "off"},
		{"debug_print_plan", "off"},
		{"statement_timeout", "0"},
		/* somebody's lock must not hold up others for long */
		{"lock_timeout", PROCESS_LOCK_TIMEOUT},
		/* this process sees a deadlock with users first, and gives way */
		{"deadlock_timeout", "100ms"},
		{"transaction_timeout", "0"},
		{"exit_on_error", "off"},
		{"idle_in_transaction_session_timeout", "0"},
		{"idle_session_timeout", "0"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		{"row_security", "on"},
		{"kapture_sync.capture", "on"},
		{"jit", "off"},
	};

	SetSessionAuthorization(BOOTSTRAP_SUPERUSERID, true);
	for (int i = 0; i < lengthof(settings); i++)
	{
		if (GetConfigOption(settings[i].name, true, false) != NULL)
			SetConfigOption(settings[i].name, settings[i].value, PGC_SUSET, PGC_S_OVERRIDE);
	}

	/* a claim must be on disk before its request leaves */
	if (synchronous_commit < SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	process_lock_settings();
}

/*
 * Ends the process, and reports the reason to the launcher.
 */
void
kapture_process_exit(KaptureExit reason)
{
	kapture_shmem_worker_reason(reason);
	/* some statistics are counted all the same (reads, since 16), but must not be the database's */
	if (!process_counts)
		MyDatabaseId = InvalidOid;
	proc_exit(0);
}

/*
 * To be called when there is work in the database: from here on, what the process does
 * counts in the cumulative statistics.  A database that is merely looked at gets no
 * statistics.
 */
void
kapture_process_count(void)
{
	process_counts = true;
	pgstat_track_counts = process_track_counts;
}

/*
 * Signal handler: does what die() does, and notes the signal, so that the process is known
 * not to end for an error.  A signal that the process has sent to itself comes from users'
 * code, and is an error.
 */
static void
process_terminate(int signo, siginfo_t *info, void *context)
{
	int			save_errno = errno;

	if (!proc_exit_inprogress)
	{
		InterruptPending = ProcDiePending = true;
		if (info->si_pid != MyProcPid)
			process_told_to_end = true;
	}
	SetLatch(MyLatch);
	errno = save_errno;
}

/* Installs that handler; one installed by pqsignal() would not learn who sent the signal. */
static void
process_handle_terminate(void)
{
	struct sigaction action = {0};

	action.sa_sigaction = process_terminate;
	action.sa_flags = SA_SIGINFO | SA_RESTART;
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGTERM, &action, NULL) != 0)
		elog(FATAL, "could not set the handler of a signal: %m");
}

/*
 * Has a signal of another process asked this one to end?
 */
bool
kapture_process_is_terminated(void)
{
	return process_told_to_end;
}

/*
 * Has signals noticed.  To be called once by each background process.
 */
void
kapture_process_handle_signals(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	process_handle_terminate();
	BackgroundWorkerUnblockSignals();
}

/*
 * To be called in each round of a background process's loop.  Returns whether the
 * configuration was reloaded.
 */
bool
kapture_process_serve_signals(void)
{
	CHECK_FOR_INTERRUPTS();
	if (!ConfigReloadPending)
		return false;
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	return true;
}

/*
 * Connects to the database and takes over the slot that the launcher has put into the
 * arguments.  Does not return if the launcher has given up on this process.  Statistics are
 * not counted before kapture_process_count().
 *
 * Returns the memory context for what lives as long as the process, which is the current
 * one from here on.
 */
MemoryContext
kapture_process_initialize(Datum arg, KaptureWorkerKind kind)
{
	Oid			dbid;
	uint32		generation;

	memcpy(&dbid, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	memcpy(&generation, MyBgworkerEntry->bgw_extra + sizeof(Oid), sizeof(uint32));

	kapture_process_handle_signals();
	if (!kapture_shmem_worker_attach(DatumGetInt32(arg), generation, dbid))
		proc_exit(0);
	if (kapture_shmem_worker_must_leave())
		kapture_process_exit(KAPTURE_EXIT_ASKED);
	process_track_counts = pgstat_track_counts;
	pgstat_track_counts = false;
	BackgroundWorkerInitializeConnectionByOid(dbid, InvalidOid, 0);
	kapture_user_code_enter_process();
	process_own_settings();
	process_ours = true;
	process_kind = kind;
	process_context = AllocSetContextCreate(TopMemoryContext, "kapture_sync process", ALLOCSET_DEFAULT_SIZES);
	StartTransactionCommand();
	process_database = MemoryContextStrdup(process_context, get_database_name(MyDatabaseId));
	CommitTransactionCommand();
	MemoryContextSwitchTo(process_context);
	return process_context;
}

/*
 * Tells whether this is the worker or the puller of a database.
 */
bool
kapture_process_is_ours(void)
{
	return process_ours;
}

/*
 * Returns the name of the database, which cannot change while the process is there.
 */
const char *
kapture_process_database(void)
{
	return process_database;
}

/*
 * Ends this process if another one of its kind serves the database, whatever shared memory
 * says.  The lock is on the database as an object of its own, with an objsubid that nothing
 * else locks.  So nobody can take this lock by SQL, and keep the process from running, or
 * release it.
 */
void
kapture_process_lock_database(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, DatabaseRelationId, MyDatabaseId, 2 + process_kind);
	if (!kapture_lock_keep(&tag))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another kapture_sync worker is still active in this database")));
}

/*
 * Ends the process if the extension was dropped and created again since *installation
 * became the oid of our kapture_attachment (InvalidOid: not known yet), or if the database
 * is excluded by now; another process begins anew where there is something to do.  Sets
 * *installation to the present oid; InvalidOid if there is no extension.  Needs a
 * transaction.
 */
void
kapture_process_require_installation(Oid *installation)
{
	Oid			found = kapture_catalog_extension_exists() ? kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT) : InvalidOid;

	if ((OidIsValid(found) && OidIsValid(*installation) && found != *installation) ||
		kapture_guc_database_is_excluded(process_database))
		kapture_process_exit(KAPTURE_EXIT_ASKED);
	*installation = found;
}

/*
 * Begins a transaction, with a snapshot.  "activity" is what pg_stat_activity shows.
 */
void
kapture_process_begin(const char *activity)
{
	pgstat_report_activity(STATE_RUNNING, activity);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Reports a transaction's statistics, or notes to do so later, as they are not updated more
 * than once a second.
 */
static void
process_report_stat(void)
{
	long		wait;

	if (!process_counts)
		return;
	wait = pgstat_report_stat(false);
	process_stats_due = wait > 0 ? TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait) : DT_NOEND;
}

/*
 * Commits what kapture_process_begin() began.
 */
void
kapture_process_commit(void)
{
	PopActiveSnapshot();
	if (kapture_guard_commit_hook)
		kapture_guard_commit_hook();
	CommitTransactionCommand();
	process_report_stat();
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(process_context);
}

/* Work to be done in a transaction. */
typedef struct ProcessTransaction
{
	const char *activity;
	KaptureGuarded work;
	void	   *arg;
} ProcessTransaction;

static void
process_do_transaction(void *arg)
{
	ProcessTransaction *transaction = arg;

	kapture_process_begin(transaction->activity);
	transaction->work(transaction->arg);
	kapture_process_commit();
}

/*
 * Runs work(arg) in a transaction.  Returns NULL, or the error, in the current memory
 * context, after which nothing has happened.
 */
ErrorData *
kapture_process_run(const char *activity, KaptureGuarded work, void *arg)
{
	ProcessTransaction transaction = {activity, work, arg};

	return kapture_guard_transaction(process_do_transaction, &transaction);
}

/* Copies as much of a text as fits, without cutting a character. */
static void
process_copy(char *to, const char *from, Size size)
{
	strlcpy(to, from, pg_mbcliplen(from, strlen(from), size - 1) + 1);
}

/* Notes an error for kapture_status, and logs it without the row's key, unless it was noted before. */
static void
process_note_trouble(KapturePhase phase, int32 attachment_id, Oid owner, const char *row_key, const char *message)
{
	KaptureTrouble before;
	KaptureTrouble trouble = {.phase = phase, .since = GetCurrentTimestamp()};

	process_copy(trouble.row_key, row_key ? row_key : "", sizeof(trouble.row_key));
	process_copy(trouble.message, message, sizeof(trouble.message));
	if (!kapture_shmem_read_trouble(process_kind, attachment_id, &before) || before.phase != phase ||
		strcmp(before.message, trouble.message) != 0)
		ereport(LOG,
				(errmsg("kapture_sync: an error while %s in database \"%s\" is worked around: %s",
						kapture_guard_phase_name(phase), process_database, message),
				 attachment_id != 0 ? errdetail("It is about the table with attachment_id %d.", attachment_id) : 0));
	else
		trouble.since = before.since;
	kapture_shmem_report_trouble(process_kind, attachment_id, owner, &trouble);
}

/*
 * Ends the error that is noted of a phase.  Returns whether no error is noted any more.
 */
static bool
process_end_trouble(KapturePhase phase, int32 attachment_id)
{
	KaptureTrouble trouble;

	if (!kapture_shmem_read_trouble(process_kind, attachment_id, &trouble))
		return true;
	if (trouble.phase != phase)
		return false;
	kapture_shmem_report_trouble(process_kind, attachment_id, InvalidOid, NULL);
	return true;
}

/*
 * Reports an error of a phase in kapture_status and in the log: of an attached table of an
 * owner if attachment_id is not 0, and of a row of it if row_key is not NULL.  Sets *in_trouble,
 * which is the table's, or the process's own if it is NULL.  Errors that are just users'
 * locks are not reported.
 */
void
kapture_process_report_error(KapturePhase phase, bool *in_trouble, int32 attachment_id, Oid owner,
							 const char *row_key, const ErrorData *error)
{
	char	   *message;

	if (kapture_guard_is_lock(error))
		return;
	message = kapture_guard_message(error);
	process_note_trouble(phase, attachment_id, owner, row_key, message);
	*(in_trouble ? in_trouble : &process_in_trouble) = true;
	pfree(message);
}

/*
 * A phase has gone well: ends the error that kapture_process_report_error() has reported of
 * it with the same arguments.
 */
void
kapture_process_report_success(KapturePhase phase, bool *in_trouble, int32 attachment_id)
{
	if (in_trouble == NULL)
		in_trouble = &process_in_trouble;
	if (*in_trouble)
		*in_trouble = !process_end_trouble(phase, attachment_id);
}

/*
 * Adds an activity to those that are going to be shown.
 */
void
kapture_process_note_activity(KaptureActivity *activity, const char *format,...)
{
	int			size = (int) sizeof(activity->text);
	va_list		args;

	if (!pgstat_track_activities || activity->len + 2 >= size)
		return;
	if (activity->len > 0)
		activity->len += snprintf(activity->text + activity->len, size - activity->len, ", ");
	va_start(args, format);
	activity->len += vsnprintf(activity->text + activity->len, size - activity->len, format, args);
	va_end(args);
}

/*
 * Shows the activities in pg_stat_activity, or "idle" if there are none.  To be called only
 * before a wait, which is seldom when there is much to do.
 */
void
kapture_process_report_activity(const KaptureActivity *activity, const char *idle)
{
	if (activity->len > 0)
		pgstat_report_activity(STATE_RUNNING, activity->text);
	else
		pgstat_report_activity(STATE_IDLE, idle);
}

/*
 * Returns how many milliseconds to wait until "next": an hour at most; -1, for good, if
 * "next" is DT_NOEND.
 */
long
kapture_process_wait_until(TimestampTz next)
{
	TimestampTz now = GetCurrentTimestamp();

	if (next == DT_NOEND)
		return -1;
	return next <= now ? 0 : (long) Min((next - now) / 1000 + 1, 3600000);
}

/*
 * To be called before a wait of at most "timeout" milliseconds (-1: for good).  Reports
 * statistics that are due, or returns a shorter wait, lest they stay behind when there is
 * nothing more to do: autovacuum goes by them.
 */
long
kapture_process_timeout(long timeout)
{
	TimestampTz now;
	long		rest;

	if (process_stats_due == DT_NOEND)
		return timeout;
	now = GetCurrentTimestamp();
	if (process_stats_due <= now)
	{
		(void) pgstat_report_stat(true);
		process_stats_due = DT_NOEND;
		return timeout;
	}
	rest = (long) ((process_stats_due - now) / 1000 + 1);
	return timeout < 0 ? rest : Min(timeout, rest);
}

/*
 * Returns by how many microseconds the system's clock was set forward (negative: back)
 * since the first call; 0 if it was not set.  Slow drift does not count.
 */
static int64
process_clock_jump(void)
{
	TimestampTz ahead = GetCurrentTimestamp() - kapture_steady_now();
	int64		jump = ahead - process_clock;

	if (process_clock != 0 && (jump > PROCESS_CLOCK_SLACK || jump < -PROCESS_CLOCK_SLACK))
		return jump;
	process_clock = ahead;
	return 0;
}

/* By how much the system's clock was set, and the function that moves times in tables by that. */
typedef struct ProcessShift
{
	void		(*shift) (int64 jump);
	int64		jump;
} ProcessShift;

static void
process_do_shift(void *arg)
{
	ProcessShift *shift = arg;

	shift->shift(shift->jump);
}

/*
 * To be called in each pass.  Retries, breakers and doubts go by the system's clock.  If
 * somebody has set it, the times in tables are moved by shift(jump) in a transaction, the
 * work is ended by wind_up(arg), and then the process, as its memory is full of old times;
 * its successor begins at once.  Both functions may be NULL.  Raises their errors, and
 * tries again in the next pass.
 */
void
kapture_process_follow_clock(void (*shift) (int64 jump), KaptureGuarded wind_up, void *arg)
{
	static bool shifted = false;
	int64		jump = process_clock_jump();

	if (jump == 0)
		return;
	if (shift && !shifted)
	{
		ProcessShift shifting = {shift, jump};
		ErrorData  *error = kapture_process_run("following the clock", process_do_shift, &shifting);

		if (error)
			ReThrowError(error);
	}
	shifted = true;
	if (wind_up)
		wind_up(arg);
	ereport(LOG,
			(errmsg("kapture_sync: the system clock was set %s by %lld s; the %s of database \"%s\" starts anew",
					jump < 0 ? "back" : "forward", (long long) ((jump < 0 ? -jump : jump) + USECS_PER_SEC / 2) / USECS_PER_SEC,
					process_kind == KAPTURE_PUSHER ? "worker" : "puller", process_database),
			 errdetail("Waiting times go on as they were.")));
	kapture_process_exit(KAPTURE_EXIT_ASKED);
}

/*
 * To be called at the beginning of each pass.  Ends the process if it is to leave.
 * *reloaded: the configuration was reloaded; *woken: there may be something to do, and
 * invalidation messages were processed.
 */
void
kapture_process_take_in(bool *reloaded, bool *woken)
{
	*reloaded = kapture_process_serve_signals();
	if (kapture_shmem_worker_must_leave())
		kapture_process_exit(KAPTURE_EXIT_ASKED);
	*woken = kapture_shmem_worker_take_work();
	if (!*woken)
		return;
	StartTransactionCommand();	/* processes invalidation messages */
	CommitTransactionCommand();
	MemoryContextSwitchTo(process_context);
}

/*
 * Rests after an error, for so many milliseconds.  New work ends the rest early, but not at
 * once, as it may lead to the same error.
 */
static void
process_rest(const KaptureProcessLoop *loop, int64 milliseconds)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz until = TimestampTzPlusMilliseconds(began, milliseconds);
	long		rest;

	while ((rest = kapture_process_wait_until(until)) > 0 && !kapture_shmem_worker_must_leave())
	{
		if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					  rest, WaitEventExtensionNew(loop->wait_event)) & WL_LATCH_SET)
			until = Min(until, TimestampTzPlusMilliseconds(began, PROCESS_REST));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Returns the bytes of memory that this process has besides its own state and that of the
 * transaction: PostgreSQL's caches, and what functions keep.
 */
Size
kapture_process_memory_beside(void)
{
	Size		bytes = MemoryContextMemAllocated(TopMemoryContext, false);

	for (MemoryContext context = TopMemoryContext->firstchild; context; context = context->nextchild)
	{
		if (context != process_context && context != TopTransactionContext)
			bytes += MemoryContextMemAllocated(context, true);
	}
	return bytes;
}

/*
 * Ends the process if its memory has grown beyond all measure, whatever is to blame.  The
 * launcher starts another one, which goes on with what is in the tables.
 */
static void
process_bound_memory(const KaptureProcessLoop *loop, void *arg)
{
	ErrorData  *error = NULL;
	Size		bytes = MemoryContextMemAllocated(process_context, false);

	if (bytes <= PROCESS_MEMORY)
		return;
	ereport(LOG,
			(errmsg("kapture_sync: the %s of database \"%s\" starts anew, as its memory has grown to %zu MB",
					process_kind == KAPTURE_PUSHER ? "worker" : "puller", process_database, bytes / (1024 * 1024)),
			 errdetail("It has a few at most as long as all is well.")));
	if (loop->part)
		error = kapture_guard_transaction(loop->part, arg);
	if (error)
		kapture_process_report_error(KAPTURE_PHASE_LOOP, NULL, 0, InvalidOid, NULL, error);
	kapture_process_exit(KAPTURE_EXIT_FAILED);
}

/*
 * Runs passes for good.  An error that no part of a pass has handled costs that pass, and a
 * rest.
 */
void
kapture_process_run_loop(const KaptureProcessLoop *loop, void *arg)
{
	int			errors = 0;

	kapture_shmem_worker_running();
	ereport(LOG, (errmsg("%s started", MyBgworkerEntry->bgw_name)));

	for (;;)
	{
		ErrorData  *error = kapture_guard_transaction(loop->pass, arg);

		if (error == NULL)
		{
			errors = 0;
			kapture_process_report_success(KAPTURE_PHASE_LOOP, NULL, 0);
			process_bound_memory(loop, arg);
			continue;
		}
		kapture_process_report_error(KAPTURE_PHASE_LOOP, NULL, 0, InvalidOid, NULL, error);
		FreeErrorData(error);
		process_rest(loop, loop->backoff(++errors));
		loop->failed(arg);
	}
}
