/*
 * worker.c
 *		The process that brings the changes of one database to Kapture.
 *
 * One loop, one process: claim rows (a transaction), send their requests, take
 * answers as they come, record what became of them (a transaction), wait.  No
 * transaction is open while a request is.  Requests are handled by http.c, SQL
 * of the queue by outbox.c, users' rows by row.c, the meaning of answers by
 * task.c; this file decides when.
 *
 * Everything that must survive is in tables: whoever comes after a crash finds
 * what was 'sending' and goes on from there.
 *
 * An error ends neither the process nor what has nothing to do with it (guard.c).
 * Claiming: the transaction is rolled back, and with it all that it was about in
 * memory; the table's next claims are ever smaller, until the row is alone that
 * raises it, which is parked.  Sending: the row is parked, or the server is left
 * alone for a while.  Recording: the answers are kept and recorded one by one.
 * What cannot even be parked is tried again after a while, beside all others.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "commands/dbcommands.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "alert.h"
#include "attach.h"
#include "catalog.h"
#include "compat.h"
#include "fault.h"
#include "guard.h"
#include "guc.h"
#include "history.h"
#include "http.h"
#include "inbox.h"
#include "origin.h"
#include "outbox.h"
#include "pacing.h"
#include "process.h"
#include "pull_rule.h"
#include "shmem.h"
#include "status.h"
#include "task.h"
#include "vacuum.h"
#include "version.h"
#include "worker.h"

/* Rows claimed ahead of those being sent: at most, and if that is worthwhile. */
#define WORKER_MAX_BATCH	500
#define WORKER_AHEAD		256

/*
 * While there is more to send, answers are recorded so many at a time, or so
 * many milliseconds after the first.
 */
#ifndef WORKER_RECORD_BATCH		/* script/bench tries others */
#define WORKER_RECORD_BATCH	128
#endif
#define WORKER_RECORD_DELAY	5

/* Milliseconds a request may take to a server whose settings cannot be read. */
#define WORKER_DEFAULT_TIMEOUT	60000

/*
 * Milliseconds between two looks at the outbox while it may hold changes whose
 * wake-up was lost (a session that ended between its commit and the wake-up).
 */
#define WORKER_SAFETY_LOOK	60000

/* Milliseconds between two looks at a table that somebody has locked. */
#define WORKER_LOCKED_LOOK	1000

/* Milliseconds between two tries of what an error has stopped, at most. */
#define WORKER_ERROR_LONGEST	60000

/* Why a row is parked that has ended a worker. */
#define WORKER_FATAL_MESSAGE \
	"a trigger, check or function of the table took no notice of being cancelled and ended the worker"

/* Workers that users' code of a table may end before it is not run any more. */
#define WORKER_DEATHS		3

/* After so many in a row, errors that usually pass are taken for a row's own. */
#define WORKER_PASSING_ERRORS	3

/* What all accounts of a server share. */
typedef struct WorkerPace
{
	dlist_node	node;
	char	   *name;			/* of the server */
	int			in_flight;
	TimestampTz next_start;		/* by the rate limit */
} WorkerPace;

/* An account: a server as seen by the owner of attached tables. */
typedef struct WorkerServer
{
	dlist_node	node;
	char	   *name;
	Oid			owner;
	char	   *problem;		/* why its settings cannot be used, or NULL */
	uint64		version;		/* of its settings */

	/* from its settings */
	int			max_connections;
	int64		timeout;		/* milliseconds */
	double		rate_limit;		/* requests a second, 0: none */
	char	   *timezone;

	dlist_head	ready;			/* tasks whose request is to be sent */
	int			nready;
	int			in_flight;
	WorkerPace *pace;
	int			failures;		/* in a row, of different rows */
	int			sick;			/* in a row, of any */
	KaptureServerHealth said;	/* in the log */
	KaptureServerState told;	/* to whoever listens */
	bool		used;			/* attached tables go to it */
	uint32		failed_row;		/* hash of the row that failed last */
	int			start_errors;	/* requests in a row that could not be started */
	KaptureServerHealth health;
	TimestampTz not_before;		/* no request starts earlier, */
	bool		asked;			/* as the server itself asked for */
} WorkerServer;

/* An attached table. */
typedef struct WorkerTable
{
	dlist_node	node;
	MemoryContext context;		/* of "att" */
	KaptureAttachment *att;
	List	   *retired;		/* contexts of older ones, still referred to */
	int			ntasks;			/* which refer to one of them */
	WorkerServer *server;
	bool		attached;		/* still */
	bool		present;		/* and fit to be sent */
	char	   *problem;		/* why it is not, or NULL */
	bool		recovered;		/* nothing of an earlier worker is 'sending' */
	bool		loaded;			/* by the load that is under way */
	int			limit;			/* rows to claim at once after an error, 0: as many as may be */
	char	   *suspect;		/* key of a row that could not be claimed by itself, once */
	int			deaths;			/* earlier workers in a row that it ended */
	char	   *fatal_row;		/* key, perhaps cut, of the row that did; NULL: not known */
	int			errors;			/* in a row that stopped the table as a whole */
	TimestampTz not_before;		/* after those, nothing is claimed earlier */
	bool		in_trouble;		/* and says so in kapture_status */
	KaptureScan scan;
	bool		look;			/* the outbox may hold something to take, */
	bool		fresh;			/* perhaps newer than the pass under way sees */
	TimestampTz next_due;		/* next try of a failed row, DT_NOEND: none */
	TimestampTz well_since;		/* rows that failed before are due, 0: none are */
	TimestampTz last_success;
	KaptureOutcomes outcomes;	/* of its rows, for whoever is to be told */
	KaptureTableReport said;	/* to whoever looks, */
	bool		shown;			/* if anything was */
} WorkerTable;

typedef struct WorkerTask
{
	dlist_node	node;			/* in its server's queue */
	WorkerServer *server;
	WorkerTable *table;
	int			start_errors;	/* how often its request could not be made or started */
	KaptureTask task;
} WorkerTask;

static MemoryContext worker_context;	/* what lives as long as the process */
static dlist_head worker_servers = DLIST_STATIC_INIT(worker_servers);
static dlist_head worker_tables = DLIST_STATIC_INIT(worker_tables);
static dlist_head worker_paces = DLIST_STATIC_INIT(worker_paces);
static KaptureOrigin worker_origin;
static dlist_head worker_answered = DLIST_STATIC_INIT(worker_answered); /* to be recorded */
static int	worker_nanswered = 0;
static dlist_head worker_settled = DLIST_STATIC_INIT(worker_settled);	/* judged, likewise */
static int	worker_record_errors = 0;	/* in a row that left some of them there */
static TimestampTz worker_next_record = 0;	/* those are tried again */
static TimestampTz worker_first_answer;
static bool worker_trouble = false; /* one of them is no plain success */
static bool worker_alone = false;	/* no other worker serves this database */
static bool worker_outdated = false;	/* the extension is not of our version */
static Oid	worker_installation = InvalidOid;	/* our kapture_attachment */
static bool worker_stale = true;	/* attachments or servers may have changed */
static TimestampTz worker_next_load = DT_NOEND; /* when to look again at tables that were locked */
static int	worker_load_errors = 0; /* in a row */
static TimestampTz worker_load_not_before = 0;
static int	worker_pass_errors = 0; /* likewise, between all that is guarded by itself */
static bool worker_in_trouble = false;	/* and says so in kapture_status */
static WorkerTable *worker_table = NULL;	/* whose rows are being read or written, */
static KapturePhase worker_phase;	/* in which phase, */
static const char *worker_row_key = NULL;	/* and which one; NULL: several */
static TimestampTz worker_next_safety_look = DT_NOEND;
static TimestampTz worker_next_expiry = 0;	/* of the history */

/* ------------------------------------------------------------------------
 * Transactions
 * ------------------------------------------------------------------------
 */

static void
worker_begin(const char *activity)
{
	pgstat_report_activity(STATE_RUNNING, activity);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
worker_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	kapture_process_report_stat();
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(worker_context);
}

/* ------------------------------------------------------------------------
 * Errors
 * ------------------------------------------------------------------------
 */

/* When to try again what has failed so many times in a row. */
static TimestampTz
worker_retry_at(int errors)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   kapture_pacing_backoff(errors, WORKER_ERROR_LONGEST));
}

/* Shows and logs an error; of a table, and there of a row, if they are known. */
static void
worker_report_error(KapturePhase phase, WorkerTable *table, const char *row_key, const ErrorData *error)
{
	char	   *message = kapture_guard_message(error);

	kapture_guard_report(KAPTURE_PUSHER, phase, table ? table->att->id : 0, row_key, message);
	if (table)
		table->in_trouble = true;
	else
		worker_in_trouble = true;
	pfree(message);
}

/* A phase has gone well, for a table or as a whole. */
static void
worker_report_success(KapturePhase phase, WorkerTable *table)
{
	bool	   *in_trouble = table ? &table->in_trouble : &worker_in_trouble;

	if (*in_trouble)
		*in_trouble = !kapture_guard_report_end(KAPTURE_PUSHER, phase, table ? table->att->id : 0);
}

/* Does what no other work depends on; an error is shown, and returned as false. */
static bool
worker_try(KaptureGuarded work, void *arg, WorkerTable *table)
{
	ErrorData  *error = kapture_guard_step(work, arg);

	if (error == NULL)
		return true;
	worker_report_error(KAPTURE_PHASE_LOAD, table, NULL, error);
	FreeErrorData(error);
	return false;
}

static void
worker_at_exit(int code, Datum arg)
{
	if (worker_table && kapture_row_gave_up())
		kapture_guard_report_fatal(KAPTURE_PUSHER, worker_phase, worker_table->att->id, worker_row_key,
								   WORKER_FATAL_MESSAGE);
}

/*
 * Users' code is about to run for rows of a table: if it ends the process, the
 * next one is to know.
 */
static void
worker_enter_table(KapturePhase phase, WorkerTable *table, List *rows)
{
	worker_phase = phase;
	worker_row_key = list_length(rows) == 1 ? ((KaptureRow *) linitial(rows))->row_key : NULL;
	worker_table = table;
}

/* It has come back. */
static void
worker_leave_table(void)
{
	worker_table = NULL;
}

/* Forgets that. */
static void
worker_lift_warning(WorkerTable *table)
{
	if (table->deaths == 0)
		return;
	table->deaths = 0;
	if (table->fatal_row)
		pfree(table->fatal_row);
	table->fatal_row = NULL;
	kapture_shmem_report_trouble(KAPTURE_PUSHER, table->att->id, NULL);
}

/*
 * A table that is new to us may be what ended an earlier worker: its rows are
 * claimed one by one then, and one that was alone when it happened is parked
 * unseen; after WORKER_DEATHS times, each is.  Somebody who changes the table or
 * wants rows retried lifts that.
 */
static void
worker_take_warning(WorkerTable *table)
{
	KaptureTrouble trouble;

	if (table->recovered || !kapture_shmem_read_trouble(KAPTURE_PUSHER, table->att->id, &trouble) ||
		trouble.deaths == 0)
	{
		worker_lift_warning(table);
		return;
	}
	table->in_trouble = true;
	table->deaths = trouble.deaths;
	table->limit = 1;
	if (trouble.row_key[0] && table->fatal_row == NULL)
		table->fatal_row = MemoryContextStrdup(worker_context, trouble.row_key);
}

/* Is this the row that has ended an earlier worker? */
static bool
worker_is_fatal(WorkerTable *table, const KaptureRow *row)
{
	if (table->deaths >= WORKER_DEATHS)
		return true;
	return table->fatal_row &&
		strncmp(row->row_key, table->fatal_row, KAPTURE_TROUBLE_KEY_LEN - MAX_MULTIBYTE_CHAR_LEN) == 0;
}

/* ------------------------------------------------------------------------
 * Servers and tables
 * ------------------------------------------------------------------------
 */

static void
worker_relcache_callback(Datum arg, Oid relid)
{
	dlist_iter	iter;

	/* our own tables change when something is attached or detached */
	if (!OidIsValid(relid) || relid == worker_installation)
		worker_stale = true;
	dlist_foreach(iter, &worker_tables)
	{
		if (dlist_container(WorkerTable, node, iter.cur)->att->root == relid)
			worker_stale = true;
	}
}

static void
worker_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	worker_stale = true;
}

/* Says, once, that shared memory has no room for all that there is to show. */
static void
worker_tell_room(bool room)
{
	static bool said = false;

	if (!room && !said)
		ereport(LOG,
				(errmsg("kapture_sync: there are more servers or attached tables in this cluster than kapture_status can show the state of"),
				 errdetail("Rows are sent all the same.")));
	said |= !room;
}

/* Shows a server's state to whoever looks.  Needs a transaction. */
static void
worker_report(WorkerServer *server, const char *message)
{
	KaptureServerState state = KAPTURE_STATE_OK;

	if (!server->used)
		return;
	if (worker_outdated)
		state = KAPTURE_STATE_OUTDATED;
	else if (server->problem)
		state = KAPTURE_STATE_MISCONFIGURED;
	else if (server->health == KAPTURE_SERVER_DENIES)
		state = KAPTURE_STATE_DENIED;
	else if (server->health == KAPTURE_SERVER_THROTTLES)
		state = KAPTURE_STATE_THROTTLED;
	else if (server->health == KAPTURE_SERVER_SICK)
		state = KAPTURE_STATE_FAILING;
	worker_tell_room(kapture_shmem_report_server(server->name, server->owner, state,
												 state == KAPTURE_STATE_OK ? 0 : server->not_before,
												 server->problem && !worker_outdated ? server->problem : message));
	if (server->told != state)
		kapture_alert_server(server->name, kapture_status_state_name(server->told),
							 kapture_status_state_name(state));
	server->told = state;
}

static void
worker_do_show(void *arg)
{
	worker_begin("reporting a server's state");
	worker_report(arg, "");
	worker_commit();
}

/* Likewise, in a transaction of its own. */
static void
worker_show_server(WorkerServer *server)
{
	ErrorData  *error = kapture_guard_transaction(worker_do_show, server);

	if (error)
	{
		/* it is shown when settings are read next */
		worker_report_error(KAPTURE_PHASE_SEND, NULL, NULL, error);
		FreeErrorData(error);
	}
}

/* Finds out which servers attached tables go to, and takes back what others said. */
static void
worker_find_used_servers(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_servers)
		dlist_container(WorkerServer, node, iter.cur)->used = false;
	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->attached)
			table->server->used = true;
	}
	dlist_foreach(iter, &worker_servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (server->used)
			continue;
		kapture_shmem_withdraw_server(server->name, server->owner);
		server->told = KAPTURE_STATE_OK;
	}
}

static void
worker_do_configure(void *arg)
{
	WorkerServer *server = arg;
	const KaptureServer *settings = kapture_server_get(server->name, server->owner);

	server->version = settings->version;
	server->max_connections = settings->max_connections;
	server->timeout = settings->timeout;
	server->rate_limit = settings->rate_limit;
	if (server->timezone)
		pfree(server->timezone);
	server->timezone = MemoryContextStrdup(worker_context, settings->timezone);
}

/*
 * Reads a server's settings.  What is wrong with them becomes its problem.
 * Returns whether they, and not just another's, have changed.
 */
static bool
worker_configure_server(WorkerServer *server)
{
	uint64		version = server->version;
	ErrorData  *error = kapture_guard_step(worker_do_configure, server);
	bool		changed;

	if (error && server->used && (server->problem == NULL || strcmp(error->message, server->problem) != 0))
		ereport(LOG,
				(errmsg("kapture_sync cannot use server \"%s\": %s", server->name, error->message)));
	changed = version != server->version || error || server->problem;
	if (server->problem)
		pfree(server->problem);
	server->problem = error ? MemoryContextStrdup(worker_context, error->message) : NULL;
	if (error)
	{
		server->version = 0;
		FreeErrorData(error);
	}
	return changed;
}

static WorkerPace *
worker_find_pace(const char *name)
{
	dlist_iter	iter;
	WorkerPace *pace;

	dlist_foreach(iter, &worker_paces)
	{
		pace = dlist_container(WorkerPace, node, iter.cur);
		if (strcmp(pace->name, name) == 0)
			return pace;
	}
	pace = MemoryContextAllocZero(worker_context, sizeof(WorkerPace));
	pace->name = MemoryContextStrdup(worker_context, name);
	/* a worker before us may have sent all that a second allows just now */
	pace->next_start = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000);
	dlist_push_tail(&worker_paces, &pace->node);
	return pace;
}

static WorkerServer *
worker_find_server(const char *name, Oid owner)
{
	dlist_iter	iter;
	WorkerServer *server;

	dlist_foreach(iter, &worker_servers)
	{
		server = dlist_container(WorkerServer, node, iter.cur);
		if (server->owner == owner && strcmp(server->name, name) == 0)
			return server;
	}
	server = MemoryContextAllocZero(worker_context, sizeof(WorkerServer));
	server->name = MemoryContextStrdup(worker_context, name);
	server->owner = owner;
	server->timeout = WORKER_DEFAULT_TIMEOUT;
	server->pace = worker_find_pace(name);
	dlist_init(&server->ready);
	dlist_push_tail(&worker_servers, &server->node);
	return server;
}

static WorkerTable *
worker_find_table(int32 attachment_id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->att->id == attachment_id)
			return table;
	}
	return NULL;
}

/* Frees what older descriptions of a table held, once no task needs them. */
static void
worker_free_retired(WorkerTable *table)
{
	ListCell   *lc;

	if (table->ntasks > 0)
		return;
	foreach(lc, table->retired)
		MemoryContextDelete(lfirst(lc));
	list_free(table->retired);
	table->retired = NIL;
}

/* Forgets a table that is not attached any more, and that no task needs. */
static void
worker_forget_table(WorkerTable *table)
{
	if (table->shown)
		kapture_shmem_withdraw_table(table->att->id);
	dlist_delete(&table->node);
	worker_free_retired(table);
	MemoryContextDelete(table->context);
	MemoryContextDelete(table->scan.context);
	if (table->problem)
		pfree(table->problem);
	if (table->suspect)
		pfree(table->suspect);
	if (table->fatal_row)
		pfree(table->fatal_row);
	if (table->in_trouble)
		kapture_shmem_report_trouble(KAPTURE_PUSHER, table->att->id, NULL);
	pfree(table);
}

/* Attached tables that were dropped leave nothing behind. */
static void
worker_forget_dropped(void *arg)
{
	int64		changes;
	int64		tables = kapture_outbox_forget_dropped(&changes);

	if (tables == 0)
		return;
	kapture_attach_announce();	/* the puller has to know, too */
	ereport(LOG,
			(errmsg("kapture_sync: " INT64_FORMAT " attached tables were dropped, with " INT64_FORMAT " waiting changes",
					tables, changes)));
}

/* A table may have lost what it takes to send its rows; then they wait. */
static void
worker_note_problem(WorkerTable *table)
{
	char	   *problem = kapture_catalog_problem(table->att);

	if (problem && (table->problem == NULL || strcmp(problem, table->problem) != 0))
		ereport(LOG, (errmsg("kapture_sync sends no rows: %s", problem)));
	if (table->problem)
		pfree(table->problem);
	table->problem = problem ? MemoryContextStrdup(worker_context, problem) : NULL;
	table->present = problem == NULL;
}

/* What is known of a relation must do until the lock on it is gone, but for whether it is paused. */
static void
worker_keep_table(Oid relid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->att->root != relid)
			continue;
		table->loaded = table->attached = table->present = true;
		table->att->paused = kapture_catalog_is_paused(table->att->id);
	}
	worker_next_load = Min(worker_next_load,
						   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_LOCKED_LOOK));
}

/* Takes in the description of an attached table, which is in a context of its own. */
static void
worker_take_attachment(KaptureAttachment *att, MemoryContext context, WorkerServer *server)
{
	WorkerTable *table = worker_find_table(att->id);

	if (table == NULL)
	{
		table = palloc0(sizeof(WorkerTable));
		kapture_outbox_scan_init(&table->scan);
		dlist_push_tail(&worker_tables, &table->node);
	}
	if (table->context)
		table->retired = lappend(table->retired, table->context);
	worker_free_retired(table);
	MemoryContextSetParent(context, worker_context);
	table->context = context;
	table->att = att;
	table->server = server;
	table->loaded = table->attached = true;
	table->look = table->fresh = true;
	table->next_due = DT_NOBEGIN;	/* kapture_retry() may have moved it */
	worker_take_warning(table);
	worker_note_problem(table);
}

/* An attached relation, and whether it was dropped. */
typedef struct WorkerRelation
{
	Oid			relid;
	bool		dropped;
} WorkerRelation;

/* Brings what is known of an attached relation up to date. */
static void
worker_load_table(void *arg)
{
	WorkerRelation *relation = arg;
	Oid			relid = relation->relid;
	Relation	rel;
	MemoryContext context;
	MemoryContext old;
	KaptureAttachment *att;

	/* whoever holds a lock on one table does not hold up the others */
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
	{
		worker_keep_table(relid);
		return;
	}
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		relation->dropped = true;
		return;
	}
	/* an error leaves nothing of it */
	context = AllocSetContextCreate(CurTransactionContext, "kapture_sync attachment", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	att = kapture_catalog_attachment(rel);
	MemoryContextSwitchTo(worker_context);
	if (att)
		worker_take_attachment(att, context, worker_find_server(att->server, rel->rd_rel->relowner));
	MemoryContextSwitchTo(old);
	relation_close(rel, AccessShareLock);
}

/* The table of a relation that is attached, as far as it is known yet, or NULL. */
static WorkerTable *
worker_find_relation(Oid relid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->att->root == relid)
			return table;
	}
	return NULL;
}

/*
 * Likewise, for all attached relations; returns whether any was dropped.  One
 * that cannot be read keeps what is known of it, and is tried again after a while.
 */
static bool
worker_load_tables(void)
{
	dlist_iter	iter;
	ListCell   *lc;
	bool		dropped = false;

	dlist_foreach(iter, &worker_tables)
		dlist_container(WorkerTable, node, iter.cur)->loaded = false;
	foreach(lc, kapture_catalog_attached_relations())
	{
		WorkerRelation relation = {lfirst_oid(lc), false};
		WorkerTable *table = worker_find_relation(relation.relid);

		if (worker_try(worker_load_table, &relation, table))
		{
			table = worker_find_relation(relation.relid);
			if (table)
				worker_report_success(KAPTURE_PHASE_LOAD, table);
		}
		else
		{
			if (table)
				table->loaded = true;
			worker_next_load = Min(worker_next_load, worker_retry_at(table ? ++table->errors : 1));
			if (table)
				table->not_before = worker_next_load;
		}
		dropped |= relation.dropped;
	}
	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (!table->loaded)
			table->attached = table->present = false;
	}
	return dropped;
}

/* Is this database still what its outbox belongs to? */
static void
worker_check_origin(void)
{
	static bool said = false;
	KaptureOrigin origin = kapture_origin_check();
	bool		copy = origin.state == KAPTURE_ORIGIN_COPY && kapture_catalog_attached_relations() != NIL;
	dlist_iter	iter;

	if (copy && !said)
		ereport(LOG,
				(errmsg("kapture_sync: this database is a copy; nothing is sent"),
				 errhint("If the original sends no more, call kapture_resume().")));
	said = copy;
	if (origin.stamped_at != worker_origin.stamped_at)
	{
		MemoryContext transaction = MemoryContextSwitchTo(worker_context);

		/* the outbox may have come with transaction ids of another cluster */
		dlist_foreach(iter, &worker_tables)
			kapture_outbox_scan_init(&dlist_container(WorkerTable, node, iter.cur)->scan);
		MemoryContextSwitchTo(transaction);
	}
	worker_origin = origin;
}

static void
worker_recover_table(void *arg)
{
	WorkerTable *table = arg;

	kapture_outbox_recover(table->att->id,
						   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), table->server->timeout + KAPTURE_LATE_GRACE));
}

/*
 * What an earlier worker left 'sending' in tables that are new to us goes on
 * once its requests can no longer be running.
 */
static void
worker_recover(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->recovered)
			continue;
		table->recovered = worker_try(worker_recover_table, table, table);
		if (!table->recovered)
			worker_next_load = Min(worker_next_load, worker_retry_at(++table->errors));
	}
}

static void
worker_load_outdated(void *arg)
{
	ListCell   *lc;

	foreach(lc, kapture_catalog_attached_relations())
	{
		WorkerRelation relation = {lfirst_oid(lc), false};

		worker_load_table(&relation);
	}
}

/*
 * Shows that the extension is of another version than ours, so that nothing can
 * be sent.  What is attached is read as far as that version lets us.
 */
static void
worker_tell_outdated(const char *installed)
{
	char	   *message = psprintf("the extension is of version %s, the library of version %s: %s",
								   installed, KAPTURE_SQL_VERSION, kapture_version_hint(installed));
	ErrorData  *error;
	dlist_iter	iter;

	if (!worker_outdated)
		ereport(LOG,
				(errmsg("kapture_sync sends nothing in database \"%s\": the extension is of version %s, the library of version %s",
						get_database_name(MyDatabaseId), installed, KAPTURE_SQL_VERSION),
				 errhint("%s", kapture_version_hint(installed))));
	worker_outdated = true;

	error = kapture_guard_step(worker_load_outdated, NULL);
	if (error)
		FreeErrorData(error);
	worker_find_used_servers();
	dlist_foreach(iter, &worker_servers)
		worker_report(dlist_container(WorkerServer, node, iter.cur), message);
}

static void
worker_find_pulls(void *arg)
{
	*(bool *) arg = kapture_pull_servers() != NIL || kapture_inbox_any();
}

/* Reads what belongs to the version that is ours. */
static void
worker_load_current(void)
{
	dlist_mutable_iter iter;
	bool		dropped;

	worker_check_origin();
	dropped = worker_load_tables();
	dlist_foreach_modify(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (!table->attached && table->ntasks == 0)
			worker_forget_table(table);
	}
	worker_find_used_servers();
	if (dropped && worker_alone && !worker_try(worker_forget_dropped, NULL, NULL))
		worker_next_load = Min(worker_next_load, worker_retry_at(1));
	dlist_foreach_modify(iter, &worker_servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (worker_configure_server(server))
		{
			/* what was changed may be what was wrong */
			server->not_before = 0;
			server->asked = false;
			server->failures = server->sick = 0;
			server->health = KAPTURE_SERVER_WELL;
		}
		worker_report(server, "");
	}
	if (worker_alone)
		worker_recover();
}

/* Reads attachments and servers anew; says whether the extension is there. */
static void
worker_do_load(void *arg)
{
	bool	   *exists = arg;
	Oid			installation;
	char	   *version;
	bool		pulls = false;

	worker_begin("reading attachments");
	worker_stale = false;
	worker_next_load = DT_NOEND;
	installation = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	*exists = kapture_catalog_extension_exists() && OidIsValid(installation);
	if (*exists && OidIsValid(worker_installation) && installation != worker_installation)
		kapture_process_exit(KAPTURE_EXIT_ASKED);	/* dropped and created anew: so are we */
	if (kapture_guc_database_is_excluded(get_database_name(MyDatabaseId)))
		kapture_process_exit(KAPTURE_EXIT_ASKED);
	worker_installation = installation;
	version = *exists ? kapture_version_installed() : NULL;
	if (version && kapture_version_compare(version) != 0)
		worker_tell_outdated(version);
	else if (*exists && worker_outdated)
		kapture_process_exit(KAPTURE_EXIT_ASKED);	/* no more: begin anew */
	else if (*exists)
		worker_load_current();
	if (*exists && !worker_outdated && !worker_try(worker_find_pulls, &pulls, NULL))
		worker_next_load = Min(worker_next_load, worker_retry_at(1));
	kapture_shmem_worker_wants_puller(pulls);
	worker_commit();
}

/*
 * Likewise.  False: it is gone.  After an error, nothing is claimed until it has
 * gone well: tables may look different, or be another's.
 */
static bool
worker_load(void)
{
	bool		exists = true;
	ErrorData  *error = kapture_guard_transaction(worker_do_load, &exists);

	if (error == NULL)
	{
		worker_load_errors = 0;
		worker_load_not_before = 0;
		if (worker_next_load == DT_NOEND)
			worker_report_success(KAPTURE_PHASE_LOAD, NULL);
		return exists;
	}
	worker_report_error(KAPTURE_PHASE_LOAD, NULL, NULL, error);
	FreeErrorData(error);
	worker_stale = true;
	worker_load_not_before = worker_retry_at(++worker_load_errors);
	return true;
}

/* Is it time for that? */
static bool
worker_should_load(void)
{
	TimestampTz now = GetCurrentTimestamp();

	worker_stale |= worker_next_load <= now;
	return worker_stale && worker_load_not_before <= now;
}

/* ------------------------------------------------------------------------
 * Claiming
 * ------------------------------------------------------------------------
 */

/* Requests a server may have under way now: one while it is only probed. */
static int
worker_connections(WorkerServer *server)
{
	return server->health == KAPTURE_SERVER_DENIES || server->health == KAPTURE_SERVER_THROTTLES ||
		server->failures >= KAPTURE_BREAKER_FAILURES ? 1 : server->max_connections;
}

/*
 * How many rows to claim for a server ahead of what it is being sent: enough to
 * make transactions worth their while, few enough to leave others be.  After a
 * crash each of them has to be searched for, as if it had been sent.
 */
static int
worker_ahead(WorkerServer *server)
{
	int			connections = worker_connections(server);
	int			ahead = connections > 1 ? Min(connections * 8, Max(connections * 2, WORKER_AHEAD)) : 1;

	/* no more than it takes in a second or two */
	if (server->rate_limit > 0)
		ahead = Min(ahead, (int) Max(server->rate_limit * 2, 1));
	return Min(ahead, WORKER_MAX_BATCH);
}

/* How many more rows to claim for a server. */
static int
worker_room(WorkerServer *server, TimestampTz now)
{
	int			ahead = worker_ahead(server);

	if (server->problem || server->not_before > now)
		return 0;

	/* small bites cost more than they bring */
	if (server->nready > ahead / 2)
		return 0;
	return ahead - server->nready + Max(worker_connections(server) - server->pace->in_flight, 0);
}

/* Forgets tasks whose outcome is recorded. */
static void
worker_discard(dlist_head *tasks)
{
	while (!dlist_is_empty(tasks))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(tasks));
		WorkerTable *table = task->table;

		MemoryContextDelete(task->task.delivery->context);
		table->ntasks--;
		worker_free_retired(table);
		if (table->ntasks == 0 && !table->attached)
			worker_stale = true;	/* it can be forgotten */
	}
}

/* Makes a task of a claimed row. */
static WorkerTask *
worker_make_task(WorkerTable *table, KaptureDelivery *delivery)
{
	WorkerTask *task = MemoryContextAllocZero(delivery->context, sizeof(WorkerTask));

	task->server = table->server;
	task->table = table;
	task->task.delivery = delivery;
	task->task.att = table->att;
	task->task.timeout = table->server->timeout;
	delivery->worker = task;
	table->ntasks++;
	return task;
}

static void worker_settle(dlist_head *tasks);
static void worker_record_settled(void);
static void worker_alert_tables(void);

/* Reads the rows of deliveries, and how a customer made of each could be found. */
static void
worker_read_rows(WorkerTable *table, List *deliveries)
{
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, deliveries)
	{
		KaptureRow *row = &((KaptureDelivery *) lfirst(lc))->row;

		if (!worker_is_fatal(table, row))
		{
			rows = lappend(rows, row);
			continue;
		}
		row->outcome = KAPTURE_ROW_FAILED;
		row->error = MemoryContextStrdup(row->context, WORKER_FATAL_MESSAGE);
	}
	worker_enter_table(KAPTURE_PHASE_CLAIM, table, rows);
	kapture_row_read(table->att, table->server->timezone, rows);
	worker_leave_table();
	foreach(lc, deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);

		/* a claimed one may know of a lost Add, which had its own */
		if (!delivery->claimed && delivery->row.outcome == KAPTURE_ROW_DONE && delivery->row.customer_id == 0)
			kapture_task_identify(table->att, delivery);
	}
	list_free(rows);
}

/* Appends the deliveries whose rows are not there, though nobody deleted them. */
static List *
worker_append_missing(List *missing, List *deliveries)
{
	ListCell   *lc;

	foreach(lc, deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);

		if (delivery->row.outcome == KAPTURE_ROW_GONE && (delivery->changed & KAPTURE_CHANGED_DELETED) == 0)
			missing = lappend(missing, delivery);
	}
	return missing;
}

/* A claim that is under way: all that it makes goes with its context if it fails. */
typedef struct WorkerClaim
{
	WorkerTable *table;
	int			room;			/* rows to be claimed at most */
	MemoryContext context;
	TimestampTz now;
	List	   *deliveries;		/* whose next try is due */
	List	   *changes;		/* taken from the outbox */
	int			nrows;			/* of both; */
	const char *row_key;		/* if that is one, its key */
	bool		done;			/* not put off */
	dlist_head	ready;			/* tasks whose request is to be sent */
	dlist_head	settled;		/* the others */
} WorkerClaim;

/* Deliveries whose tasks are planned together. */
typedef struct WorkerPlan
{
	List	   *deliveries;
	TimestampTz now;
} WorkerPlan;

static void
worker_do_plan(void *arg)
{
	WorkerPlan *plan = arg;
	ListCell   *lc;

	foreach(lc, plan->deliveries)
		kapture_task_plan(&((WorkerTask *) ((KaptureDelivery *) lfirst(lc))->worker)->task, plan->now);
}

/*
 * Works out what is to be sent first for claimed rows.  A row of which no request
 * can be made is parked.
 */
static void
worker_plan(WorkerClaim *claim, List *deliveries)
{
	WorkerPlan	plan = {deliveries, claim->now};
	ErrorData  *error;
	ListCell   *lc;

	foreach(lc, deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);

		(void) worker_make_task(claim->table, delivery);
		if ((delivery->old_key && !kapture_outbox_take_over(delivery)) ||
			(worker_stale && delivery->row.outcome == KAPTURE_ROW_FAILED))
			delivery->row.outcome = KAPTURE_ROW_LOCKED;
	}
	error = kapture_guard_step(worker_do_plan, &plan);
	foreach(lc, deliveries)
	{
		WorkerTask *task = ((KaptureDelivery *) lfirst(lc))->worker;

		if (error)
		{
			ErrorData  *own;

			plan.deliveries = list_make1(lfirst(lc));
			own = kapture_guard_step(worker_do_plan, &plan);
			if (own)
				kapture_task_park(&task->task, own);
		}
		dlist_push_tail(task->task.state == KAPTURE_TASK_SEND ? &claim->ready : &claim->settled, &task->node);
	}
}

/*
 * Claims rows whose next try is due.  Those that are only due because their
 * server is well again leave room for changes that have not been tried at all.
 */
static void
worker_claim_due(WorkerClaim *claim)
{
	WorkerTable *table = claim->table;
	int			limit = table->well_since != 0 && table->look ? Max(claim->room / 2, 1) : claim->room;

	kapture_outbox_claim_due(table->att->id, limit, claim->now, table->well_since, &claim->deliveries);
	if (list_length(claim->deliveries) < limit)
		table->well_since = 0;
}

/* Takes up what is due, and changes. */
static void
worker_take(WorkerClaim *claim)
{
	WorkerTable *table = claim->table;
	bool		more = false;

	if (table->next_due <= claim->now)
		worker_claim_due(claim);
	if (table->look && list_length(claim->deliveries) < claim->room)
	{
		if (!table->scan.running)
			table->fresh = false;	/* a new pass sees what is committed now */
		kapture_outbox_take(table->att->id, &table->scan,
							claim->room - list_length(claim->deliveries), &claim->changes, &more);
		table->look = more || table->fresh;
	}
	claim->nrows = list_length(claim->deliveries) + list_length(claim->changes);
	if (claim->nrows == 1)
		claim->row_key = pstrdup(((KaptureDelivery *) linitial(claim->deliveries ? claim->deliveries : claim->changes))->row_key);
	if (table->next_due <= claim->now && table->well_since == 0)
		table->next_due = kapture_outbox_next_due(table->att->id);
}

/* Claims rows of a table and plans their first requests. */
static void
worker_do_claim(void *arg)
{
	WorkerClaim *claim = arg;
	WorkerTable *table = claim->table;
	List	   *adds = NIL;
	ListCell   *lc;
	MemoryContext transaction;

	worker_begin("claiming changes");
	claim->now = GetCurrentTransactionStartTimestamp(); /* SQL's now() */
	/* whoever paused a table and then changed it must not find that taken */
	AcceptInvalidationMessages();
	if (worker_stale)
	{
		worker_commit();
		return;					/* the table may look different now */
	}
	transaction = MemoryContextSwitchTo(claim->context);
	worker_take(claim);
	MemoryContextSwitchTo(transaction);

	worker_read_rows(table, claim->deliveries);
	worker_read_rows(table, claim->changes);
	MemoryContextSwitchTo(claim->context);
	claim->changes = kapture_outbox_claim(claim->changes, worker_origin.doubt_until);
	MemoryContextSwitchTo(transaction);
	/* what belongs to a row is not forgotten while its new key is waiting */
	kapture_outbox_find_moved(worker_append_missing(worker_append_missing(NIL, claim->deliveries), claim->changes));

	worker_plan(claim, claim->deliveries);
	foreach(lc, claim->deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);
		KaptureTask *task = &((WorkerTask *) delivery->worker)->task;

		/* the Add of a changed row may have another phone and email */
		if (task->state == KAPTURE_TASK_SEND && task->step == KAPTURE_STEP_ADD)
			adds = lappend(adds, delivery);
	}
	kapture_outbox_note_adds(adds);
	worker_plan(claim, claim->changes);
	worker_settle(&claim->settled);
	worker_commit();
	claim->done = true;
}

/* Queues what was claimed. */
static void
worker_end_claim(WorkerClaim *claim)
{
	WorkerTable *table = claim->table;

	worker_discard(&claim->settled);
	while (!dlist_is_empty(&claim->ready))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&claim->ready));

		MemoryContextSetParent(task->task.delivery->context, worker_context);
		dlist_push_tail(&task->server->ready, &task->node);
		task->server->nready++;
	}
	if (!claim->done)
		return;
	table->errors = 0;
	if (table->limit > 0)
		table->limit = table->limit * 2 < WORKER_MAX_BATCH ? table->limit * 2 : 0;
	worker_report_success(KAPTURE_PHASE_CLAIM, table);
}

/* Has a table looked at from the start: what a failed claim has read was put back. */
static void
worker_rewind(WorkerTable *table)
{
	kapture_outbox_scan_init(&table->scan);
	table->look = table->fresh = true;
	table->next_due = DT_NOBEGIN;
}

/* A row that cannot be claimed, and why. */
typedef struct WorkerPoison
{
	WorkerTable *table;
	const char *row_key;
	const char *message;
	MemoryContext context;
	bool		parked;
} WorkerPoison;

/* Parks it, if it is still the next one that is due or was changed. */
static void
worker_do_park(void *arg)
{
	WorkerPoison *poison = arg;
	WorkerTable *table = poison->table;
	List	   *changes = NIL;
	bool		more;

	worker_begin("parking a row");
	poison->parked = kapture_outbox_park_due(table->att->id, poison->row_key, poison->message);
	if (!poison->parked)
	{
		MemoryContextSwitchTo(poison->context);
		kapture_outbox_take(table->att->id, &table->scan, 1, &changes, &more);
		if (list_length(changes) == 1 &&
			strcmp(((KaptureDelivery *) linitial(changes))->row_key, poison->row_key) == 0)
		{
			kapture_outbox_park(linitial(changes), worker_origin.doubt_until, poison->message);
			poison->parked = true;
		}
	}
	if (poison->parked)
	{
		kapture_alert_note(&table->outcomes, true);
		worker_alert_tables();
		worker_commit();
	}
	else
	{
		AbortCurrentTransaction();
		MemoryContextSwitchTo(worker_context);
	}
}

/* Parks a row that cannot be claimed.  False: not even that can be done. */
static bool
worker_park(WorkerTable *table, const char *row_key, const ErrorData *cause)
{
	WorkerPoison poison = {.table = table, .row_key = row_key};
	ErrorData  *error;

	poison.context = AllocSetContextCreate(worker_context, "kapture_sync parked row", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(poison.context);
	poison.message = kapture_guard_message(cause);
	MemoryContextSwitchTo(worker_context);
	error = kapture_guard_transaction(worker_do_park, &poison);
	worker_rewind(table);
	if (error)
	{
		worker_report_error(KAPTURE_PHASE_CLAIM, table, row_key, error);
		FreeErrorData(error);
	}
	MemoryContextDelete(poison.context);
	return error == NULL;
}

/*
 * Remembers the row that could not be claimed (NULL: it is not known which), so
 * that it is tried once more.  False: it has been.
 */
static bool
worker_suspect(WorkerTable *table, const char *row_key)
{
	bool		again = table->suspect && row_key && strcmp(table->suspect, row_key) == 0;

	if (table->suspect)
		pfree(table->suspect);
	table->suspect = row_key && !again ? MemoryContextStrdup(worker_context, row_key) : NULL;
	return row_key && !again;
}

/* A claim failed: the next ones are smaller, until the row that is to blame is parked. */
static void
worker_fail_claim(WorkerClaim *claim, const ErrorData *error)
{
	WorkerTable *table = claim->table;
	bool		will_pass = kapture_guard_will_pass(error) && table->errors < WORKER_PASSING_ERRORS;

	worker_rewind(table);
	worker_report_error(KAPTURE_PHASE_CLAIM, table, claim->row_key, error);
	if (claim->nrows > 1 && !will_pass)
		table->limit = claim->nrows / 2;
	else if (worker_suspect(table, claim->row_key) && !will_pass)
		table->limit = 1;
	else if (claim->row_key == NULL || will_pass ||
			 !worker_park(table, claim->row_key, error))
		table->not_before = worker_retry_at(++table->errors);
}

/* Claims rows of a table and queues their first requests. */
static void
worker_claim_table(WorkerTable *table, int room)
{
	WorkerClaim claim = {.table = table, .room = room};
	int			ntasks = table->ntasks;
	ErrorData  *error;

	dlist_init(&claim.ready);
	dlist_init(&claim.settled);
	claim.context = AllocSetContextCreate(worker_context, "kapture_sync claim", ALLOCSET_SMALL_SIZES);
	error = kapture_guard_transaction(worker_do_claim, &claim);
	if (error == NULL)
		worker_end_claim(&claim);
	else
	{
		table->ntasks = ntasks;
		worker_fail_claim(&claim, error);
		FreeErrorData(error);
	}
	MemoryContextDelete(claim.context);
}

/* May changes of this database be sent, and by us? */
static bool
worker_may_send(void)
{
	return kapture_enabled && !worker_outdated && worker_origin.state == KAPTURE_ORIGIN_OURS;
}

/* Claims what is waiting, as far as there is room for it. */
static void
worker_claim(void)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	if (!worker_may_send() || worker_stale)
		return;
	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);
		int			room;

		if (!table->present || table->att->paused || table->not_before > now ||
			!(table->look || table->next_due <= now))
			continue;
		room = worker_room(table->server, now);
		if (table->limit > 0)
			room = Min(room, table->limit);
		if (room > 0)
			worker_claim_table(table, room);
	}
}

/* ------------------------------------------------------------------------
 * Sending
 * ------------------------------------------------------------------------
 */

/* A server that is to be left alone gives back what was not sent yet. */
static void
worker_take_back(WorkerServer *server, TimestampTz now, dlist_head *settled)
{
	while (!dlist_is_empty(&server->ready))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&server->ready));

		server->nready--;
		task->task.state = KAPTURE_TASK_RELEASE;
		task->task.next_attempt = now;
		dlist_push_tail(settled, &task->node);
	}
}

/*
 * Likewise, for a server whose settings turn out to be of no use, or to which no
 * request can be started.  It is tried again when the settings are read next.
 */
static void
worker_give_up_server(WorkerServer *server, const char *problem)
{
	ereport(LOG,
			(errmsg("kapture_sync cannot use server \"%s\": %s", server->name, problem)));
	server->problem = MemoryContextStrdup(worker_context, problem);
	server->start_errors = 0;
	worker_next_load = Min(worker_next_load, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_ERROR_LONGEST));
	worker_take_back(server, GetCurrentTimestamp(), &worker_settled);
	worker_record_settled();
	worker_show_server(server);
}

/* When the server may next be sent something; DT_NOEND: not before an answer. */
static TimestampTz
worker_next_send(WorkerServer *server)
{
	if (server->nready == 0 || server->problem || server->pace->in_flight >= worker_connections(server))
		return DT_NOEND;
	return Max(server->not_before, server->rate_limit > 0 ? server->pace->next_start : 0);
}

/* A server that is being sent something. */
typedef struct WorkerSending
{
	WorkerServer *server;
	TimestampTz now;
	WorkerTask *wrapping;		/* the task whose body is being made, or NULL */
	WorkerTask *starting;		/* the task whose request is being started, or NULL */
} WorkerSending;

static void
worker_start_request(WorkerSending *sending, const KaptureServer *settings)
{
	WorkerServer *server = sending->server;
	WorkerTask *task = dlist_head_element(WorkerTask, node, &server->ready);
	KaptureTask *t = &task->task;
	MemoryContext old = MemoryContextSwitchTo(t->delivery->context);

	sending->wrapping = task;
	kapture_task_wrap(t, settings);
	sending->wrapping = NULL;
	sending->starting = task;
	KAPTURE_FAULT_ROW("start request", t->delivery->row_key);
	t->request = kapture_http_start(settings, kapture_task_api(t), t->body, t->body_len, task);
	sending->starting = NULL;
	server->start_errors = 0;
	(void) dlist_pop_head_node(&server->ready);
	server->nready--;
	server->in_flight++;
	server->pace->in_flight++;
	if (server->rate_limit > 0)
		server->pace->next_start = kapture_pacing_next_start(server->pace->next_start, sending->now, server->rate_limit);
	MemoryContextSwitchTo(old);
}

static void
worker_do_send(void *arg)
{
	WorkerSending *sending = arg;
	const KaptureServer *settings;

	/* settings may have to be read again, which takes a transaction */
	worker_begin("sending");
	settings = kapture_server_get(sending->server->name, sending->server->owner);
	while (worker_next_send(sending->server) <= sending->now)
		worker_start_request(sending, settings);
	worker_commit();
}

/* A task whose request cannot be sent is parked. */
static void
worker_fail_ready(WorkerTask *task, const ErrorData *error)
{
	dlist_delete(&task->node);
	task->server->nready--;
	kapture_task_park(&task->task, error);
	dlist_push_tail(&worker_settled, &task->node);
	worker_record_settled();
}

/* It is tried once more, after the others. */
static void
worker_requeue(WorkerTask *task)
{
	dlist_delete(&task->node);
	dlist_push_tail(&task->server->ready, &task->node);
}

/* Starts a request of the task's kind with nothing in it, and drops it again unsent. */
static void
worker_do_probe(void *arg)
{
	WorkerTask *task = arg;
	const KaptureServer *settings;

	worker_begin("sending");
	settings = kapture_server_get(task->server->name, task->server->owner);
	kapture_http_release(kapture_http_start(settings, kapture_task_api(&task->task), "{}", 2, NULL));
	worker_commit();
}

/*
 * A request could not be started, which is tried once more.  Then, is it the
 * server's fault, or the row's?  It is the row's if another can be started.
 */
static void
worker_fail_start(WorkerTask *task, const ErrorData *error)
{
	WorkerServer *server = task->server;
	ErrorData  *another;

	if (task->start_errors++ == 0 && server->start_errors++ == 0)
	{
		worker_requeue(task);
		return;
	}
	another = kapture_guard_transaction(worker_do_probe, task);
	if (another == NULL)
		worker_fail_ready(task, error);
	else
	{
		worker_give_up_server(server, another->message);
		FreeErrorData(another);
	}
}

/* Sends a server what may be sent now. */
static void
worker_send_server(WorkerServer *server)
{
	WorkerSending sending = {.server = server, .now = GetCurrentTimestamp()};
	ErrorData  *error;

	if (worker_next_send(server) > sending.now)
		return;
	error = kapture_guard_transaction(worker_do_send, &sending);
	if (error == NULL)
		return;
	worker_report_error(KAPTURE_PHASE_SEND, NULL, NULL, error);
	if (sending.wrapping && sending.wrapping->start_errors++ == 0)
		worker_requeue(sending.wrapping);
	else if (sending.wrapping)
		worker_fail_ready(sending.wrapping, error);
	else if (sending.starting)
		worker_fail_start(sending.starting, error);
	else
		worker_give_up_server(server, error->message);
	/* what became of it shows as a failed row, or as the server's state */
	worker_report_success(KAPTURE_PHASE_SEND, NULL);
	FreeErrorData(error);
}

static void
worker_send(void)
{
	dlist_iter	iter;

	if (!kapture_enabled)
		return;
	dlist_foreach(iter, &worker_servers)
		worker_send_server(dlist_container(WorkerServer, node, iter.cur));
	kapture_http_push();
}

/* ------------------------------------------------------------------------
 * Recording
 * ------------------------------------------------------------------------
 */

/* Says in the log what a server's health is now. */
static void
worker_log_health(WorkerServer *server, KaptureServerHealth health)
{
	switch (health)
	{
		case KAPTURE_SERVER_WELL:
			ereport(LOG,
					(errmsg("kapture_sync: server \"%s\" works again", server->name)));
			break;
		case KAPTURE_SERVER_DENIES:
			ereport(LOG,
					(errmsg("kapture_sync: server \"%s\" refuses our key or address; its queue waits", server->name),
					 errhint("Check the options of the server and of the user mapping.")));
			break;
		case KAPTURE_SERVER_THROTTLES:
			ereport(LOG,
					(errmsg("kapture_sync: server \"%s\" asks for fewer requests", server->name)));
			break;
		case KAPTURE_SERVER_SICK:
			ereport(LOG,
					(errmsg("kapture_sync: server \"%s\" does not answer as it should", server->name)));
			break;
	}
	server->said = health;
}

/* How long a server that is not well is left alone, in milliseconds. */
static int64
worker_health_wait(WorkerServer *server, const KaptureTask *task)
{
	if (task->health == KAPTURE_SERVER_DENIES)
		return KAPTURE_DENIED_PROBE;
	if (task->retry_after >= 0)
		return task->retry_after;
	if (task->health == KAPTURE_SERVER_THROTTLES || server->failures >= KAPTURE_BREAKER_FAILURES)
		return kapture_pacing_backoff(server->failures - KAPTURE_BREAKER_FAILURES + 1,
									  KAPTURE_SERVER_LONGEST);
	return 0;
}

/*
 * A server that was only probed is well again: what it failed meanwhile need
 * not wait for the rest of its delay.
 */
static void
worker_hurry(WorkerServer *server, TimestampTz now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->server == server && table->next_due != DT_NOEND)
		{
			table->well_since = now;
			table->next_due = Min(table->next_due, now);
		}
	}
}

/*
 * Notes what an answer says of the server.  A single failure may be chance: it
 * is said of a server that it is ill once some in a row have failed.  And a row
 * that fails again and again by itself says nothing of the others: it opens no
 * breaker.
 */
static void
worker_note_health(WorkerServer *server, const KaptureTask *task, TimestampTz now)
{
	KaptureServerHealth before = server->health;
	bool		asked = task->health == KAPTURE_SERVER_DENIES ||
		(task->health != KAPTURE_SERVER_WELL && task->retry_after >= 0);
	uint32		row = hash_combine(hash_uint32(task->delivery->attachment_id),
								   string_hash(task->delivery->row_key, strlen(task->delivery->row_key) + 1));

	/* answers to what was under way already do not lift it */
	if (task->health == KAPTURE_SERVER_WELL && server->asked && server->not_before > now)
		return;

	server->health = task->health;
	if (task->health == KAPTURE_SERVER_WELL)
	{
		if (server->failures >= KAPTURE_BREAKER_FAILURES)
			worker_hurry(server, now);
		server->failures = server->sick = 0;
		server->failed_row = 0;
		server->not_before = 0;
		server->asked = false;
	}
	else
	{
		bool		own = row == server->failed_row && task->health == KAPTURE_SERVER_SICK &&
			task->state == KAPTURE_TASK_FAILED && task->failed.counts;

		if (!own)
			server->failures++;
		server->sick++;
		server->failed_row = row;
		server->asked |= asked;
		server->not_before = Max(server->not_before,
								 TimestampTzPlusMilliseconds(now, worker_health_wait(server, task)));
	}
	if (server->said != task->health &&
		(task->health != KAPTURE_SERVER_SICK || server->sick >= KAPTURE_BREAKER_FAILURES))
		worker_log_health(server, task->health);
	if (before != task->health || task->health != KAPTURE_SERVER_WELL)
		worker_report(server, task->state == KAPTURE_TASK_FAILED ? task->failed.error : "");
}

/* An answer, and what has become of it. */
typedef struct WorkerAnswer
{
	WorkerTask *task;
	TimestampTz now;
	const ErrorData *error;
} WorkerAnswer;

static void
worker_do_take_answer(void *arg)
{
	WorkerAnswer *answer = arg;
	KaptureTask *task = &answer->task->task;

	kapture_task_answer(task, kapture_http_answer(task->request), answer->now);
}

static void
worker_do_refuse_answer(void *arg)
{
	WorkerAnswer *answer = arg;

	kapture_task_fail(&answer->task->task, true, 0, answer->error->message);
}

/* Takes an answer in; an answer that cannot be handled fails its row alone. */
static void
worker_take_answer(WorkerTask *task, TimestampTz now)
{
	WorkerAnswer answer = {.task = task, .now = now};
	ErrorData  *error = kapture_guard_step(worker_do_take_answer, &answer);

	if (error)
	{
		if (task->task.step == KAPTURE_STEP_ADD)
			task->task.delivery->in_doubt = now;
		answer.error = error;
		/* what was sent may be the cause */
		if (kapture_guard_step(worker_do_refuse_answer, &answer) != NULL)
			kapture_task_park(&task->task, error);
	}
	kapture_http_release(task->task.request);
	task->task.request = NULL;
}

/* Writes ids back to the rows of one table. */
static void
worker_write_back(WorkerTable *table, List *tasks, TimestampTz now)
{
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, tasks)
	{
		KaptureTask *t = &((WorkerTask *) lfirst(lc))->task;

		t->delivery->row.new_id = t->customer_id;
		rows = lappend(rows, &t->delivery->row);
	}
	worker_enter_table(KAPTURE_PHASE_RECORD, table, rows);
	kapture_row_write_ids(table->att, rows);
	worker_leave_table();

	foreach(lc, tasks)
	{
		KaptureTask *t = &((WorkerTask *) lfirst(lc))->task;
		KaptureRow *row = &t->delivery->row;
		bool		sent = t->state == KAPTURE_TASK_DONE;

		switch (row->outcome)
		{
			case KAPTURE_ROW_DONE:
				if (!sent)
					t->failed.customer_id = 0;
				break;
			case KAPTURE_ROW_GONE:
				/* perhaps it has another key now, which will want the id */
				if (!sent)
					break;
				row->customer_id = 0;
				t->body = NULL;
				kapture_task_fail(t, false, TimestampTzPlusMilliseconds(now, KAPTURE_GONE_RETRY),
								  "the row was deleted or got another key while it was sent");
				t->failed.arrived = true;
				break;
			case KAPTURE_ROW_FAILED:
				if (worker_stale)
					row->outcome = KAPTURE_ROW_LOCKED;	/* not its fault */
				pg_fallthrough;
			case KAPTURE_ROW_LOCKED:
				if (!sent)
					break;		/* the id is kept with the failure */
				row->customer_id = 0;
				t->body = NULL;
				kapture_task_fail(t, row->outcome == KAPTURE_ROW_FAILED,
								  TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY),
								  row->outcome == KAPTURE_ROW_LOCKED ?
								  "the row is locked; its Kapture customer id is written later" :
								  row->error);
				t->failed.arrived = true;
				break;
		}
	}
}

/* Tells whoever listens what is new about tables. */
static void
worker_alert_tables(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		kapture_alert_table(table->att->root, table->server->name, &table->outcomes);
	}
}

/*
 * Records what became of tasks: ids to the rows, then deliveries to the
 * history or to their next try.
 */
static void
worker_settle(dlist_head *tasks)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;
	dlist_iter	titer;
	List	   *done = NIL;
	ListCell   *lc;

	if (dlist_is_empty(tasks))
		return;
	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);
		List	   *with_id = NIL;

		dlist_foreach(titer, tasks)
		{
			WorkerTask *task = dlist_container(WorkerTask, node, titer.cur);
			KaptureTask *t = &task->task;

			if (task->table == table && table->present && t->state != KAPTURE_TASK_RELEASE &&
				t->customer_id != 0 && t->customer_id != t->delivery->row.customer_id)
				with_id = lappend(with_id, task);
		}
		if (with_id != NIL)
			worker_write_back(table, with_id, now);
	}

	dlist_foreach(titer, tasks)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, titer.cur);
		KaptureTask *t = &task->task;

		if (t->state == KAPTURE_TASK_DONE)
		{
			KaptureDone *d = palloc0(sizeof(KaptureDone));

			d->delivery = t->delivery;
			d->action = t->action;
			d->customer_id = t->customer_id;
			d->http_status = t->http_status;
			d->message = t->message;
			done = lappend(done, d);
			task->table->last_success = now;
			kapture_alert_note(&task->table->outcomes, false);
			if (worker_next_expiry == DT_NOEND)
				worker_next_expiry = now;
		}
		else if (t->state == KAPTURE_TASK_FAILED)
		{
			TimestampTz next = kapture_outbox_fail(&t->failed);

			task->table->next_due = Min(task->table->next_due, next);
			if (next == DT_NOEND)
				kapture_alert_note(&task->table->outcomes, true);
		}
		else
		{
			kapture_outbox_release(t->delivery, t->next_attempt);
			task->table->next_due = Min(task->table->next_due, t->next_attempt);
		}
	}
	foreach(lc, kapture_outbox_finish(done))
	{
		WorkerTable *table = worker_find_table(lfirst_int(lc));

		if (table)
			table->next_due = Min(table->next_due, now);
	}
	worker_alert_tables();
}

/*
 * An outcome that cannot be recorded becomes a failure, with what it has brought:
 * a customer's id, or that the changes are with Kapture.
 */
static void
worker_fail_record(WorkerTask *task, const ErrorData *error)
{
	KaptureTask *t = &task->task;
	bool		arrived = t->state == KAPTURE_TASK_DONE ||
		(t->state == KAPTURE_TASK_FAILED && t->failed.arrived);

	t->delivery->row.customer_id = 0;
	kapture_task_park(t, error);
	t->failed.arrived = arrived;
}

/* Takes the requests that have finished off their connections. */
static void
worker_collect(void)
{
	KaptureHttpRequest *request;

	while ((request = kapture_http_next_finished()) != NULL)
	{
		WorkerTask *task = kapture_http_owner(request);
		const KaptureHttpAnswer *answer = kapture_http_answer(request);

		task->server->in_flight--;
		task->server->pace->in_flight--;
		if (worker_nanswered++ == 0)
			worker_first_answer = GetCurrentTimestamp();
		/* trouble is looked into before more is sent */
		if (answer->outcome != KAPTURE_HTTP_ANSWERED || answer->status != 200)
			worker_trouble = true;
		dlist_push_tail(&worker_answered, &task->node);
	}
}

/* Is it time to record answers?  If nothing else is to be done, it is. */
static bool
worker_should_record(void)
{
	dlist_iter	iter;

	if (worker_nanswered == 0)
		return false;
	if (worker_trouble || worker_nanswered >= WORKER_RECORD_BATCH ||
		GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(worker_first_answer, WORKER_RECORD_DELAY))
		return true;
	dlist_foreach(iter, &worker_servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (server->nready > 0 && server->not_before == 0)
			return false;
	}
	return true;
}

/*
 * Begins to record.  That is not worth a wait for the disk: if a crash takes it
 * back, the rows are 'sending' again, and are searched for before anything is
 * added.
 */
static void
worker_begin_record(void)
{
	worker_begin("recording answers");
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/* Works out what the answers that were collected mean. */
static void
worker_judge(void)
{
	TimestampTz now = GetCurrentTimestamp();

	while (!dlist_is_empty(&worker_answered))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&worker_answered));
		WorkerServer *server = task->server;

		worker_take_answer(task, now);
		if (task->task.state == KAPTURE_TASK_SEND)
		{
			dlist_push_head(&server->ready, &task->node);
			server->nready++;
		}
		else
			dlist_push_tail(&worker_settled, &task->node);
		worker_note_health(server, &task->task, now);
		if (server->not_before > now)
			worker_take_back(server, now, &worker_settled);
	}
	worker_nanswered = 0;
	worker_trouble = false;
}

static void
worker_do_judge(void *arg)
{
	worker_begin_record();
	worker_judge();
	worker_settle(&worker_settled);
	worker_commit();
}

static void
worker_do_settle(void *arg)
{
	worker_begin_record();
	worker_settle(arg);
	worker_commit();
}

/*
 * What could not be recorded together is recorded one by one: an outcome that
 * cannot be is made a failure with the error as its reason.  What even that
 * cannot be done with stays, known to nobody but us; should the process end, it is
 * in doubt.
 */
static void
worker_record_each(void)
{
	dlist_head	left = DLIST_STATIC_INIT(left);
	int			nleft = 0;

	while (!dlist_is_empty(&worker_settled))
	{
		dlist_head	one = DLIST_STATIC_INIT(one);
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&worker_settled));
		ErrorData  *error;

		dlist_push_tail(&one, &task->node);
		error = kapture_guard_transaction(worker_do_settle, &one);
		if (error && (!kapture_guard_will_pass(error) || worker_record_errors >= WORKER_PASSING_ERRORS))
		{
			worker_report_error(KAPTURE_PHASE_RECORD, task->table, task->task.delivery->row_key, error);
			worker_fail_record(task, error);
			FreeErrorData(error);
			error = kapture_guard_transaction(worker_do_settle, &one);
		}
		if (error == NULL)
		{
			worker_report_success(KAPTURE_PHASE_RECORD, task->table);
			worker_discard(&one);
			continue;
		}
		worker_report_error(KAPTURE_PHASE_RECORD, task->table, task->task.delivery->row_key, error);
		FreeErrorData(error);
		dlist_delete(&task->node);
		dlist_push_tail(&left, &task->node);
		nleft++;
	}
	while (!dlist_is_empty(&left))
		dlist_push_tail(&worker_settled, dlist_pop_head_node(&left));
	worker_record_errors = nleft > 0 ? worker_record_errors + 1 : 0;
	worker_next_record = nleft > 0 ? worker_retry_at(worker_record_errors) : 0;
	if (nleft == 0)
		worker_report_success(KAPTURE_PHASE_RECORD, NULL);
}

/* Records with "work" what is settled, or will be by that. */
static void
worker_record_with(KaptureGuarded work, void *arg)
{
	ErrorData  *error = kapture_guard_transaction(work, arg);

	if (error == NULL)
	{
		worker_discard(&worker_settled);
		worker_record_errors = 0;
		worker_report_success(KAPTURE_PHASE_RECORD, NULL);
		return;
	}
	worker_report_error(KAPTURE_PHASE_RECORD, NULL, NULL, error);
	FreeErrorData(error);
	worker_record_each();
}

/* Records what the answers that were collected mean. */
static void
worker_record(void)
{
	worker_record_with(worker_do_judge, NULL);
}

/* Records what is settled. */
static void
worker_record_settled(void)
{
	if (!dlist_is_empty(&worker_settled))
		worker_record_with(worker_do_settle, &worker_settled);
}

static void
worker_do_expire(void *arg)
{
	worker_begin("expiring history");
	worker_next_expiry = kapture_history_expire();
	worker_commit();
}

/* Lets a slice of the history go that is too old, when it is time for that. */
static void
worker_expire(void)
{
	ErrorData  *error;

	if (worker_next_expiry > GetCurrentTimestamp() || !worker_may_send())
		return;
	error = kapture_guard_transaction(worker_do_expire, NULL);
	if (error == NULL)
		worker_report_success(KAPTURE_PHASE_EXPIRE, NULL);
	else
	{
		worker_report_error(KAPTURE_PHASE_EXPIRE, NULL, NULL, error);
		FreeErrorData(error);
		worker_next_expiry = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_ERROR_LONGEST);
	}
}

/* ------------------------------------------------------------------------
 * Telling
 * ------------------------------------------------------------------------
 */

/* Lets others know how far we are with the tables, where that has changed. */
static void
worker_report_tables(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);
		KaptureTableReport report = {0};

		if (!table->attached)
		{
			if (table->shown)
				kapture_shmem_withdraw_table(table->att->id);
			table->shown = false;
			continue;
		}
		report.floor = kapture_outbox_scan_floor(&table->scan);
		report.in_flight = table->ntasks;
		report.last_success = table->last_success;
		if (table->problem)
			strlcpy(report.problem, table->problem,
					pg_mbcliplen(table->problem, strlen(table->problem), sizeof(report.problem) - 1) + 1);
		if (table->shown && memcmp(&report, &table->said, sizeof(report)) == 0)
			continue;
		worker_tell_room(kapture_shmem_report_table(table->att->id, &report));
		table->shown = true;
		table->said = report;
	}
}

/*
 * Says in pg_stat_activity what is under way.  Only before a wait: that is
 * seldom when there is much to do.
 */
static void
worker_report_activity(void)
{
	char		text[256] = "waiting for changes";
	int			len = 0;
	dlist_iter	iter;

	if (!pgstat_track_activities)
		return;
	dlist_foreach(iter, &worker_servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (server->in_flight > 0 && len < (int) sizeof(text))
			len += snprintf(text + len, sizeof(text) - len, "%sserver \"%s\": %d in flight",
							len > 0 ? ", " : "", server->name, server->in_flight);
	}
	pgstat_report_activity(len > 0 ? STATE_RUNNING : STATE_IDLE, text);
}

/* ------------------------------------------------------------------------
 * The loop
 * ------------------------------------------------------------------------
 */

/* When something is to be sent or claimed. */
static TimestampTz
worker_next_work(TimestampTz now)
{
	TimestampTz next = Min(worker_next_safety_look, worker_next_expiry);
	dlist_iter	iter;

	dlist_foreach(iter, &worker_servers)
		next = Min(next, worker_next_send(dlist_container(WorkerServer, node, iter.cur)));
	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);
		WorkerServer *server = table->server;

		/* nothing is claimed before attachments have been read */
		if (!table->present || table->att->paused || server->problem || worker_stale)
			continue;
		/* without room, the next answer makes some */
		if ((table->look || table->next_due != DT_NOEND) &&
			worker_room(server, PG_INT64_MAX) > 0)
			next = Min(next, Max(Max(server->not_before, table->not_before), table->look ? now : table->next_due));
	}
	return next;
}

/* Milliseconds until something is to be done by itself, -1: nothing is. */
static long
worker_timeout(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = worker_stale ? worker_load_not_before : worker_next_load;

	if (worker_may_send())
		next = Min(next, worker_next_work(now));
	if (!dlist_is_empty(&worker_settled))
		next = Min(next, worker_next_record);
	if (next == DT_NOEND)
		return -1;
	return next <= now ? 0 : (long) Min((next - now) / 1000 + 1, 3600000);
}

/*
 * Are changes of rows to wake us?  Not if all tables are paused, nor while more
 * is claimed than can be sent: then the next answer does.
 */
static bool
worker_listens(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->present && table->att->paused)
			continue;
		if (!table->present || table->server->problem || worker_room(table->server, PG_INT64_MAX) > 0)
			return true;
	}
	return false;
}

/* Has all tables looked at. */
static void
worker_look(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		table->look = table->fresh = true;
	}
}

/*
 * A transaction that was running when the outbox was read should wake us when
 * it commits.  In case it cannot (its session may end in between), we look
 * again by ourselves, and sleep for good only once none was running.
 */
static void
worker_safety_look(void)
{
	TimestampTz now;
	dlist_iter	iter;
	bool		unfinished = false;

	dlist_foreach(iter, &worker_tables)
		unfinished |= dlist_container(WorkerTable, node, iter.cur)->scan.nseen > 0;
	if (!unfinished)
	{
		worker_next_safety_look = DT_NOEND;
		return;
	}
	now = GetCurrentTimestamp();
	if (worker_next_safety_look <= now)
	{
		worker_look();
		worker_next_safety_look = DT_NOEND;
	}
	if (worker_next_safety_look == DT_NOEND)
		worker_next_safety_look = TimestampTzPlusMilliseconds(now, WORKER_SAFETY_LOOK);
}

/* Connects, takes the slot over, and finds out whether there is work here. */
static void
worker_initialize(Datum arg)
{
	kapture_process_initialize(arg);
	worker_context = AllocSetContextCreate(TopMemoryContext, "kapture_sync worker",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(worker_context);

	CacheRegisterRelcacheCallback(worker_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, worker_syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, worker_syscache_callback, (Datum) 0);
	if (!worker_load())
		kapture_process_exit(KAPTURE_EXIT_ABSENT);
	kapture_process_lock_database(KAPTURE_PUSHER);
	before_shmem_exit(worker_at_exit, (Datum) 0);
	worker_alone = true;
	worker_stale = true;		/* once more, to recover what another left */
}

/* Does once all that is to be done, and waits for more. */
static void
worker_pass(void *arg)
{
	long		timeout;

	CHECK_FOR_INTERRUPTS();
	if (kapture_shmem_worker_must_leave())
		kapture_process_exit(KAPTURE_EXIT_ASKED);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		worker_stale = true;	/* exclusions may have changed, */
		worker_next_expiry = 0; /* and the retention */
	}
	if (kapture_shmem_worker_take_work())
	{
		worker_look();
		StartTransactionCommand();	/* takes in invalidation messages */
		CommitTransactionCommand();
		MemoryContextSwitchTo(worker_context);
	}
	if (worker_should_load() && !worker_load())
		kapture_process_exit(KAPTURE_EXIT_ABSENT);

	/* connections are kept busy first, and while answers are recorded */
	worker_collect();
	if (worker_trouble)
		worker_record();
	worker_send();
	worker_safety_look();
	worker_claim();
	worker_send();
	worker_expire();
	if (worker_should_record())
	{
		worker_record();
		kapture_vacuum_run();
		return;
	}
	if (worker_next_record <= GetCurrentTimestamp())
		worker_record_settled();

	worker_report_tables();
	timeout = worker_timeout();
	if (worker_nanswered > 0)
		timeout = timeout < 0 ? WORKER_RECORD_DELAY : Min(timeout, WORKER_RECORD_DELAY);
	if (timeout != 0 && kapture_shmem_worker_listen(worker_listens()))
	{
		worker_report_activity();
		(void) kapture_http_wait(kapture_process_timeout(timeout), WaitEventExtensionNew("KaptureWorkerMain"));
	}
}

/*
 * A worker's main function, called by the postmaster; the launcher has put
 * slot, database and generation into the arguments.
 */
void
kapture_worker_main(Datum arg)
{
	worker_initialize(arg);
	kapture_shmem_worker_running();
	ereport(LOG, (errmsg("%s started", MyBgworkerEntry->bgw_name)));

	for (;;)
	{
		ErrorData  *error = kapture_guard_transaction(worker_pass, NULL);

		if (error == NULL)
		{
			worker_pass_errors = 0;
			worker_report_success(KAPTURE_PHASE_LOOP, NULL);
			continue;
		}
		/* none of what is guarded by itself */
		worker_report_error(KAPTURE_PHASE_LOOP, NULL, NULL, error);
		FreeErrorData(error);
		kapture_process_rest(kapture_pacing_backoff(++worker_pass_errors, WORKER_ERROR_LONGEST),
							 WaitEventExtensionNew("KaptureWorkerMain"));
		worker_look();
		worker_stale = true;
	}
}
