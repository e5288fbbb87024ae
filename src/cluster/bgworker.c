/*
 * bgworker.c
 *		What the background processes of a database have in common: how they
 *		begin and end, and what they report.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/lock.h"
#include "base/user_code.h"
#include "cluster/bgworker.h"

/* How long any lock is waited for. */
#define PROCESS_LOCK_TIMEOUT	"200ms"

static bool process_ours = false;

/* What users' code leaves behind goes by this when an error has ended it. */
kapture_process_abort_hook_type kapture_process_abort_hook = NULL;

/* When statistics are to be handed over that were too fresh for it, DT_NOEND: none are. */
static TimestampTz process_stats_due = DT_NOEND;

/* Does what the process does count?  And what track_counts is, while it does not. */
static bool process_counts = false;
static bool process_track_counts = true;

/*
 * Settings that any user may change, and by which users' code could end the
 * process: by an error of its own, or by a time that is up.  They are off for good.
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
 * DATABASE or ALTER ROLE.
 */
static void
process_own_settings(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"statement_timeout", "0"},
		/* somebody's lock holds up nobody else for long */
		{"lock_timeout", PROCESS_LOCK_TIMEOUT},
		/* a deadlock with users is seen here first, and given in to */
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
 * Ends the process for a reason the launcher is to know.
 */
void
kapture_process_exit(KaptureExit reason)
{
	kapture_shmem_worker_reason(reason);
	/* what is counted all the same (reads, since 16) is not to be the database's */
	if (!process_counts)
		MyDatabaseId = InvalidOid;
	proc_exit(0);
}

/*
 * To be called when there is work in the database: from here on, what the process
 * does counts in the cumulative statistics, but not for a database that is merely
 * looked at.
 */
void
kapture_process_count(void)
{
	process_counts = true;
	pgstat_track_counts = process_track_counts;
}

/*
 * Connects to the database and takes over the slot that the launcher has put
 * into the arguments; does not return if the launcher has given up on it.
 * Statistics are not counted before kapture_process_count().
 */
void
kapture_process_initialize(Datum arg)
{
	Oid			dbid;
	uint32		generation;

	memcpy(&dbid, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	memcpy(&generation, MyBgworkerEntry->bgw_extra + sizeof(Oid), sizeof(uint32));

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

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
 * One process of a kind for each database, whatever shared memory says: ends
 * this one if there is another.  The lock is that of the database as an object
 * of its own with an objsubid that nothing else locks; nobody takes it by SQL,
 * and so keeps the process from running, or gives it back.
 */
void
kapture_process_lock_database(KaptureWorkerKind kind)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, DatabaseRelationId, MyDatabaseId, 2 + kind);
	if (!kapture_lock_keep(&tag))
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another kapture_sync worker is still active in this database")));
}

/*
 * Ends a transaction that failed, but not what the process holds beyond it.
 */
void
kapture_process_abort(void)
{
	AbortCurrentTransaction();
	if (kapture_process_abort_hook)
		kapture_process_abort_hook();
	kapture_lock_renew();
}

/*
 * To be called after each commit: hands over to the cumulative statistics what
 * the transaction did, or has that done later, as they are not updated more
 * than once a second.
 */
void
kapture_process_report_stat(void)
{
	long		wait;

	if (!process_counts)
		return;
	wait = pgstat_report_stat(false);
	process_stats_due = wait > 0 ? TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait) : DT_NOEND;
}

/*
 * Returns how many milliseconds to wait until "next", an hour at most; -1, for
 * good, if that is DT_NOEND.
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
 * To be called before a wait of at most "timeout" milliseconds (-1: for good).
 * Returns how long to wait lest statistics stay behind when there is nothing
 * more to do: autovacuum goes by them.
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
 * After an error: waits for so many milliseconds, or until something is to be done.
 */
void
kapture_process_rest(long timeout, uint32 wait_event)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout, wait_event);
	ResetLatch(MyLatch);
}
