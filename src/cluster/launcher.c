/*
 * launcher.c
 *		The process that sees to it that each database with the extension
 *		has its workers: a pusher, and a puller where there is something to pull.
 *
 * The launcher is connected to no database, so it cannot tell which ones have the
 * extension.  It starts a worker in each database to look, one at a time, and the worker
 * ends at once if the extension is not there.  From then on, the database is left alone
 * until CREATE EXTENSION in it asks for a worker.
 *
 * The launcher compares the workers that run (the slots of shmem.c) with those that should,
 * each time something tells it that either may have changed.  It does so on a slow timer,
 * too, so that a start which failed silently is noticed.
 *
 *	server start		all databases are looked at
 *	CREATE EXTENSION	the install script asks for a worker, at commit
 *	option pull_interval	the pusher sees it, and reports it in its slot
 *	DROP EXTENSION		the worker is woken, finds nothing and goes away
 *	CREATE DATABASE		the new database is looked at, as its template may
 *						have had the extension
 *	worker ended		started again, not more often than RESTART_INTERVAL
 *	DROP DATABASE etc.	see utility_hook.c
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/steady.h"
#include "cluster/bgworker.h"
#include "cluster/launcher.h"
#include "cluster/shmem.h"

/* A worker that failed is started again after this time, in milliseconds. */
#define RESTART_INTERVAL	5000

/* A worker that was asked for, but had nothing to do, is started again after this time, in milliseconds. */
#define IDLE_INTERVAL		1000

/* Running workers are compared with those that should run at least this often, in milliseconds. */
#define SAFETY_INTERVAL		300000

/* What the launcher remembers of a database. */
typedef struct LauncherDatabase
{
	Oid			dbid;			/* hash key */
	bool		present;		/* in the last list of databases */
	bool		absent;			/* does not have the extension */
	TimestampTz not_before[KAPTURE_WORKER_KINDS];	/* earliest next start (base/steady.h) */
} LauncherDatabase;

/* A worker that was registered and has not reported yet. */
typedef struct LauncherStart
{
	int			slot;			/* -1: none */
	BackgroundWorkerHandle *handle;
} LauncherStart;

static HTAB *launcher_databases;
static LauncherStart launcher_start = {.slot = -1};
static bool launcher_out_of_slots = false;

/*
 * Registers the launcher with the postmaster.  Called from _PG_init() while libraries are
 * preloaded.  There is no launcher during pg_upgrade, as nothing may change data then.
 */
void
kapture_launcher_register(void)
{
	BackgroundWorker worker = {0};

	if (IsBinaryUpgrade)
		return;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "kapture_sync", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "kapture_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "kapture_sync launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "kapture_sync launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* Returns the entry of a database; makes one if there is none. */
static LauncherDatabase *
launcher_database(Oid dbid)
{
	bool		found;
	LauncherDatabase *db = hash_search(launcher_databases, &dbid, HASH_ENTER, &found);

	if (!found)
	{
		db->present = true;
		db->absent = false;
		memset(db->not_before, 0, sizeof(db->not_before));
	}
	return db;
}

/*
 * Reads the list of databases.  Templates get no worker, as it could keep them from being
 * copied; nor do databases that refuse connections, or were left behind by an interrupted
 * DROP DATABASE.
 */
static void
launcher_list_databases(void)
{
	HASH_SEQ_STATUS status;
	LauncherDatabase *db;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	hash_seq_init(&status, launcher_databases);
	while ((db = hash_seq_search(&status)) != NULL)
		db->present = false;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datallowconn && !form->datistemplate &&
			form->datconnlimit != DATCONNLIMIT_INVALID_DB &&
			!kapture_guc_database_is_excluded(NameStr(form->datname)))
			launcher_database(form->oid)->present = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();

	hash_seq_init(&status, launcher_databases);
	while ((db = hash_seq_search(&status)) != NULL)
	{
		if (!db->present)
			(void) hash_search(launcher_databases, &db->dbid, HASH_REMOVE, NULL);
	}
}

/* Forgets which databases do not have the extension. */
static void
launcher_forget(void)
{
	HASH_SEQ_STATUS status;
	LauncherDatabase *db;

	hash_seq_init(&status, launcher_databases);
	while ((db = hash_seq_search(&status)) != NULL)
		db->absent = false;
}

/* Reads the requests of backends. */
static void
launcher_take_requests(void)
{
	Oid			dbid;
	bool		lost;
	bool		any = false;

	while (kapture_shmem_next_request(&dbid, &lost))
	{
		any = true;
		if (lost)
			launcher_forget();
		if (OidIsValid(dbid))
		{
			LauncherDatabase *db = launcher_database(dbid);

			db->absent = false;
			db->not_before[KAPTURE_PUSHER] = 0;
		}
	}
	if (any)
		launcher_list_databases();
}

/*
 * Notes when the next worker may start in a database: the last one has gone, or never came.
 * It may have gone as the database is none of ours any more, which must not make it one.
 */
static void
launcher_worker_gone(const KaptureSlotInfo *info, KaptureExit reason)
{
	LauncherDatabase *db = hash_search(launcher_databases, &info->dbid, HASH_FIND, NULL);

	if (db == NULL)
		return;
	/* if a puller finds nothing to do, the pusher may just not know it yet */
	if (reason == KAPTURE_EXIT_ABSENT && info->kind == KAPTURE_PUSHER)
		db->absent = true;
	else if (reason == KAPTURE_EXIT_ABSENT)
		db->not_before[info->kind] = TimestampTzPlusMilliseconds(kapture_steady_now(), IDLE_INTERVAL);
	else if (reason == KAPTURE_EXIT_FAILED)
		db->not_before[info->kind] = TimestampTzPlusMilliseconds(kapture_steady_now(), RESTART_INTERVAL);
}

/* Frees the slots of workers that have ended. */
static void
launcher_collect(void)
{
	for (int slot = 0; slot < kapture_shmem_slot_count(); slot++)
	{
		KaptureSlotInfo info = kapture_shmem_slot_read(slot);
		pid_t		pid;

		if (info.state == KAPTURE_SLOT_EXITED)
		{
			launcher_worker_gone(&info, info.reason);
			kapture_shmem_slot_free(slot, info.generation);
		}
		else if (info.state == KAPTURE_SLOT_STARTING &&
				 (slot != launcher_start.slot ||
				  GetBackgroundWorkerPid(launcher_start.handle, &pid) == BGWH_STOPPED))
		{
			/*
			 * Either the worker failed before it could report, or an earlier
			 * launcher started it and took the handle along.  If that worker
			 * still comes, it finds its generation gone and leaves.
			 */
			launcher_worker_gone(&info, KAPTURE_EXIT_FAILED);
			kapture_shmem_slot_free(slot, info.generation);
		}
		else if (info.state == KAPTURE_SLOT_STARTING)
			continue;

		if (slot == launcher_start.slot)
		{
			pfree(launcher_start.handle);
			launcher_start.slot = -1;
		}
	}
}

/* Starts a worker for a database.  Returns false if there is no free slot. */
static bool
launcher_start_worker(LauncherDatabase *db, KaptureWorkerKind kind)
{
	static const struct
	{
		const char *function;
		const char *name;
	}			kinds[KAPTURE_WORKER_KINDS] = {
		[KAPTURE_PUSHER] = {"kapture_worker_main", "kapture_sync worker"},
		[KAPTURE_PULLER] = {"kapture_puller_main", "kapture_sync puller"},
	};
	BackgroundWorker worker = {0};
	int			slot;
	uint32		generation;

	slot = kapture_shmem_slot_reserve(db->dbid, kind, &generation);
	if (slot < 0)
		return false;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION |
		BGWORKER_INTERRUPTIBLE;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = Int32GetDatum(slot);
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &db->dbid, sizeof(Oid));
	memcpy(worker.bgw_extra + sizeof(Oid), &generation, sizeof(uint32));
	strlcpy(worker.bgw_library_name, "kapture_sync", sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, kinds[kind].function, sizeof(worker.bgw_function_name));
	snprintf(worker.bgw_name, BGW_MAXLEN, "%s for database %u", kinds[kind].name, db->dbid);
	strlcpy(worker.bgw_type, kinds[kind].name, BGW_MAXLEN);

	if (!RegisterDynamicBackgroundWorker(&worker, &launcher_start.handle))
	{
		kapture_shmem_slot_free(slot, generation);
		return false;
	}
	launcher_start.slot = slot;
	return true;
}

/*
 * Tells whether a worker of this kind is missing in a database: it should run, but none
 * does or is about to.
 */
static bool
launcher_is_missing(LauncherDatabase *db, KaptureWorkerKind kind)
{
	bool		wanted = kind == KAPTURE_PUSHER;

	if (db->absent)
		return false;
	for (int slot = 0; slot < kapture_shmem_slot_count(); slot++)
	{
		KaptureSlotInfo info = kapture_shmem_slot_read(slot);

		if (info.dbid != db->dbid || info.state == KAPTURE_SLOT_FREE)
			continue;
		if (info.kind == kind)
			return false;
		if (kind == KAPTURE_PULLER && info.state == KAPTURE_SLOT_RUNNING && info.wants_puller)
			wanted = true;
	}
	return wanted && !kapture_shmem_database_is_blocked(db->dbid);
}

/* Starts a worker; logs, once, if there is no free slot. */
static bool
launcher_try_start(LauncherDatabase *db, KaptureWorkerKind kind)
{
	if (launcher_start_worker(db, kind))
	{
		launcher_out_of_slots = false;
		return true;
	}
	if (!launcher_out_of_slots)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start a kapture_sync worker: out of background worker slots"),
				 errhint("You might need to increase %s.", "max_worker_processes")));
	launcher_out_of_slots = true;
	return false;
}

/*
 * Starts the next worker that is missing.  Returns the milliseconds until a worker may be
 * started that may not yet; -1 if there is none.
 */
static long
launcher_start_missing(void)
{
	TimestampTz now = kapture_steady_now();
	long		wait = -1;

	if (launcher_start.slot >= 0)
		return -1;				/* that worker wakes us when it reports */

	/* pushers first */
	for (int kind = 0; kind < KAPTURE_WORKER_KINDS; kind++)
	{
		HASH_SEQ_STATUS status;
		LauncherDatabase *db;

		hash_seq_init(&status, launcher_databases);
		while ((db = hash_seq_search(&status)) != NULL)
		{
			if (!launcher_is_missing(db, kind))
				continue;
			if (db->not_before[kind] > now)
			{
				long		left = TimestampDifferenceMilliseconds(now, db->not_before[kind]) + 1;

				wait = wait < 0 ? left : Min(wait, left);
				continue;
			}
			hash_seq_term(&status);
			return launcher_try_start(db, kind) ? wait : RESTART_INTERVAL;
		}
	}
	return wait;
}

/*
 * The launcher's main function, called by the postmaster.
 */
void
kapture_launcher_main(Datum arg)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(LauncherDatabase)};
	bool		enabled = false;

	kapture_process_handle_signals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	launcher_databases = hash_create("kapture_sync databases", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	kapture_shmem_launcher_attach();

	for (;;)
	{
		long		wait = -1;

		if (kapture_process_serve_signals())
			enabled = false;	/* the excluded databases may have changed */
		launcher_collect();
		launcher_take_requests();
		if (!enabled)
			launcher_list_databases();
		enabled = true;
		wait = launcher_start_missing();

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 wait < 0 ? SAFETY_INTERVAL : Min(wait, SAFETY_INTERVAL),
						 WaitEventExtensionNew("KaptureLauncherMain"));
		ResetLatch(MyLatch);
	}
}
