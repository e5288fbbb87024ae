/*
 * worker.c
 *		The process that brings the changes of one database to Kapture.
 *
 * One loop, one process: claim rows (a transaction), send their requests, take
 * answers as they come, record what became of them (a transaction), wait.  No
 * transaction is open while a request is.  Requests are handled by http.c, SQL
 * of the queue by outbox.c, users' rows by row_io.c, the meaning of answers by
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
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "api/http.h"
#include "api/server.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/lock.h"
#include "base/version.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "cluster/report.h"
#include "cluster/shmem.h"
#include "push/notify.h"
#include "push/task.h"
#include "push/worker.h"
#include "table/attach.h"
#include "table/binding.h"
#include "table/clock.h"
#include "table/history.h"
#include "table/inbox.h"
#include "table/origin.h"
#include "table/outbox.h"
#include "table/share.h"
#include "table/vacuum.h"
#include "traffic/pacing.h"

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

/*
 * Bytes of an answer: it is about one customer, and many may come at a time.  It
 * may repeat what was sent, escaped.
 */
#define WORKER_MAX_ANSWER(body_len)	(1024 * 1024 + 6 * (int64) (body_len))

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

/* After so many in a row, errors that usually pass are taken for a row's own. */
#define WORKER_PASSING_ERRORS	3

/* Milliseconds of claiming after which answers are looked at, too. */
#define WORKER_CLAIM_TIME	100

/* How long a lock is waited for where the answers of other tables wait, too. */
#define WORKER_BUSY_TIMEOUT	"10ms"

/* Why rows are parked whose table ended a worker. */
#define WORKER_BLAME \
	"a trigger, check or function of the table took no notice of being cancelled; the worker had to end for it"

/* Milliseconds for which a worker that has to end waits for answers. */
#define WORKER_FAREWELL		2000

/* Microseconds that a claim of a slow table should take. */
#define WORKER_SLOW_CLAIM	INT64CONST(250000)

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
	bool		check_rows;
	char	   *timezone;

	dlist_head	ready;			/* tasks whose request is to be sent */
	int			nready;
	int			in_flight;
	int			ntasks;			/* these, those in flight, and those answered */
	int			ntables;		/* that refer to it */
	TimestampTz next_start;		/* when the limiter is to be asked again, 0: at once */
	int			start_errors;	/* requests in a row that could not be started */
	int			failures;		/* in a row, of different rows */
	int			sick;			/* in a row, of any */
	KaptureServerHealth said;	/* in the log */
	KaptureServerState told;	/* to whoever listens */
	bool		used;			/* attached tables go to it */
	int64		failed_row;		/* delivery that failed last */
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
	KaptureAttachedVersion version; /* of the attachment that was read */
	bool		stale;			/* it, or the table, has changed since */
	bool		seen;			/* is attached, says the list that is being read */
	bool		attached;		/* still */
	bool		present;		/* and fit to be sent */
	char	   *problem;		/* why it is not, or NULL */
	bool		recovered;		/* nothing of an earlier worker is 'sending' */
	int			limit;			/* rows to claim at once after an error, 0: as many as may be */
	char	   *suspect;		/* key of a row that could not be claimed by itself, once */
	int			errors;			/* in a row that stopped the table as a whole */
	TimestampTz not_before;		/* after those, nothing is claimed earlier */
	bool		in_trouble;		/* and says so in kapture_status */
	KaptureScan scan;
	KaptureScan keys;			/* likewise, of changes of keys and deletions */
	bool		look;			/* the outbox may hold something to take, */
	bool		fresh;			/* perhaps newer than the pass under way sees */
	TimestampTz next_due;		/* next try of a failed row, DT_NOEND: none */
	TimestampTz well_since;		/* rows that failed before are due, 0: none are */
	TimestampTz last_success;
	KaptureOutcomes outcomes;	/* of its rows, for whoever is to be told */
	KaptureTableReport said;	/* to whoever looks, */
	bool		shown;			/* if anything was */

	/* what it takes of others' time and memory */
	KaptureShare *share;		/* its owner's */
	TimestampTz turn;			/* nothing of it before then */
	uint64		round;			/* in which it was last claimed from */
	int			batch;			/* rows worth claiming at a time */
	Size		row_bytes;		/* of a row, in the last batch */
	List	   *settling;		/* tasks whose ids are being written */
} WorkerTable;

typedef struct WorkerTask
{
	dlist_node	node;			/* in its server's queue */
	WorkerServer *server;
	WorkerTable *table;
	int			start_errors;	/* how often its request could not be made or started */
	KaptureShare *share;
	Size		bytes;			/* held in memory for it */
	KaptureTask task;
} WorkerTask;

/* Finds what is claimed. */
typedef struct WorkerDelivery
{
	int64		delivery_id;	/* hash key */
	KaptureDelivery *delivery;
} WorkerDelivery;

static MemoryContext worker_context;	/* what lives as long as the process */
static HTAB *worker_deliveries;
static dlist_head worker_servers = DLIST_STATIC_INIT(worker_servers);
static dlist_head worker_tables = DLIST_STATIC_INIT(worker_tables);
static KaptureOrigin worker_origin;
static dlist_head worker_answered = DLIST_STATIC_INIT(worker_answered); /* to be recorded */
static dlist_head worker_settled = DLIST_STATIC_INIT(worker_settled);	/* is being recorded */
static dlist_head worker_unrecorded = DLIST_STATIC_INIT(worker_unrecorded); /* is to be, later */
static List *worker_followed = NIL; /* tables whose keys this transaction has followed */
static int	worker_record_errors = 0;	/* in a row that left some of them there */
static int	worker_load_errors = 0; /* in a row */
static TimestampTz worker_load_not_before = 0;	/* after those */
static int	worker_pass_errors = 0; /* likewise, between all that is guarded by itself */
static bool worker_in_trouble = false;	/* and says so in kapture_status */
static TimestampTz worker_next_record = DT_NOEND;	/* of those */
static bool worker_leaving = false; /* no users' code is run any more, */
static int32 worker_blamed = 0; /* because of this attachment's */
static int	worker_nanswered = 0;
static TimestampTz worker_first_answer;
static bool worker_trouble = false; /* one of them is no plain success */
static bool worker_alone = false;	/* no other worker serves this database */
static bool worker_outdated = false;	/* the extension is not of our version */
static Oid	worker_installation = InvalidOid;	/* our kapture_attachment */
static bool worker_stale = true;	/* attachments or servers may have changed */
static bool worker_all_stale = true;	/* all tables are to be read anew */
static uint64 worker_round = 0;	/* of claims */
static TimestampTz worker_next_load = DT_NOEND; /* when to look again at tables that were locked */
static TimestampTz worker_next_safety_look = DT_NOEND;
static TimestampTz worker_next_expiry = 0;	/* of the history */

/* ------------------------------------------------------------------------
 * Transactions
 * ------------------------------------------------------------------------
 */

static void
worker_begin(const char *activity)
{
	list_free(worker_followed);
	worker_followed = NIL;
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

/* What was read of keys in a transaction that failed is to be read again. */
static void
worker_forget_followed(void)
{
	ListCell   *lc;

	MemoryContextSwitchTo(worker_context);
	foreach(lc, worker_followed)
	{
		WorkerTable *table = lfirst(lc);

		kapture_outbox_scan_init(&table->keys);
		kapture_outbox_scan_init(&table->scan);
		table->look = table->fresh = true;
	}
	list_free(worker_followed);
	worker_followed = NIL;
}

typedef struct WorkerTransaction
{
	const char *activity;
	KaptureGuarded work;
	void	   *arg;
} WorkerTransaction;

static void
worker_do_transaction(void *arg)
{
	WorkerTransaction *transaction = arg;

	worker_begin(transaction->activity);
	transaction->work(transaction->arg);
	worker_commit();
}

/* Runs work(arg) in a transaction.  Returns NULL, or the error, and nothing has happened. */
static ErrorData *
worker_run(const char *activity, KaptureGuarded work, void *arg)
{
	WorkerTransaction transaction = {activity, work, arg};
	ErrorData  *error = kapture_guard_transaction(worker_do_transaction, &transaction);

	if (error)
		worker_forget_followed();
	return error;
}

/* When to try again what has failed so many times in a row. */
static TimestampTz
worker_retry_at(int errors)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
									   kapture_pacing_backoff(errors, WORKER_ERROR_LONGEST));
}

/* Is it just somebody's lock? */
static bool
worker_is_lock(const ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED;
}

/*
 * Shows and logs an error, of a table, and there of a row, if they are known.
 * Locks of users are nothing to be shown.
 */
static void
worker_report_error(KapturePhase phase, WorkerTable *table, const char *row_key, const ErrorData *error)
{
	char	   *message;

	if (worker_is_lock(error))
		return;
	message = kapture_guard_message(error);
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

/* Does, in a subtransaction, what no other work depends on; an error is shown, and returned as false. */
static bool
worker_try_within(KaptureGuarded work, void *arg, WorkerTable *table)
{
	ErrorData  *error = kapture_guard_step(work, arg);

	if (error == NULL)
		return true;
	worker_report_error(KAPTURE_PHASE_LOAD, table, NULL, error);
	FreeErrorData(error);
	return false;
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
	worker_all_stale |= !OidIsValid(relid);
	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->att->root == relid)
			worker_stale = table->stale = true;
	}
}

static void
worker_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	worker_stale = true;
	/* whose a server is decides whether a table's rows may go there */
	worker_all_stale |= cacheid != USERMAPPINGOID;
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
	else if (server->health == KAPTURE_SERVER_MISFITS)
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
		kapture_alert_server(server->name, kapture_report_state_name(server->told),
							 kapture_report_state_name(state));
	server->told = state;
}

/* Forgets an account that nothing goes to any more. */
static void
worker_forget_server(WorkerServer *server)
{
	dlist_delete(&server->node);
	if (server->problem)
		pfree(server->problem);
	if (server->timezone)
		pfree(server->timezone);
	pfree(server->name);
	pfree(server);
}

/* Finds out which servers attached tables go to, and takes back what others said. */
static void
worker_find_used_servers(void)
{
	dlist_iter	iter;
	dlist_mutable_iter miter;

	dlist_foreach(iter, &worker_servers)
		dlist_container(WorkerServer, node, iter.cur)->used = false;
	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->attached)
			table->server->used = true;
	}
	dlist_foreach_modify(miter, &worker_servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, miter.cur);

		if (server->used)
			continue;
		kapture_shmem_withdraw_server(server->name, server->owner);
		server->told = KAPTURE_STATE_OK;
		if (server->ntasks == 0 && server->ntables == 0)
			worker_forget_server(server);
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
	server->check_rows = settings->check_rows;
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

/* Changes whose a table is, and where its rows go; NULL: nowhere. */
static void
worker_place_table(WorkerTable *table, WorkerServer *server, KaptureShare *share)
{
	if (server)
		server->ntables++;
	if (table->server)
		table->server->ntables--;
	if (table->share)
		kapture_share_leave(table->share);
	table->server = server;
	table->share = share;
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
	worker_place_table(table, NULL, NULL);
	dlist_delete(&table->node);
	worker_free_retired(table);
	MemoryContextDelete(table->context);
	MemoryContextDelete(table->scan.context);
	MemoryContextDelete(table->keys.context);
	if (table->problem)
		pfree(table->problem);
	if (table->suspect)
		pfree(table->suspect);
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
	char	   *problem = kapture_binding_problem(table->att);

	if (problem && (table->problem == NULL || strcmp(problem, table->problem) != 0))
		ereport(LOG, (errmsg("kapture_sync sends no rows: %s", problem)));
	if (table->problem)
		pfree(table->problem);
	table->problem = problem ? MemoryContextStrdup(worker_context, problem) : NULL;
	table->present = problem == NULL;
}

/* Somebody's lock is in the way: attachments are looked at again in a while. */
static void
worker_look_later(void)
{
	worker_next_load = Min(worker_next_load, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_LOCKED_LOOK));
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
		table->seen = table->attached = table->present = true;
		table->att->paused = kapture_catalog_is_paused(table->att->id);
	}
	worker_look_later();
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
	WorkerTable *table;

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
	if (att == NULL)
	{
		MemoryContextDelete(context);
		context = NULL;
	}
	else if ((table = worker_find_table(att->id)) == NULL)
	{
		table = palloc0(sizeof(WorkerTable));
		table->batch = WORKER_MAX_BATCH;
		kapture_outbox_scan_init(&table->scan);
		kapture_outbox_scan_init(&table->keys);
		dlist_push_tail(&worker_tables, &table->node);
	}
	if (context)
	{
		if (table->context)
			table->retired = lappend(table->retired, table->context);
		worker_free_retired(table);
		MemoryContextSetParent(context, worker_context);
		table->context = context;
		table->att = att;
		table->attached = table->seen = true;
		table->stale = false;
		table->version = att->version;
		worker_place_table(table, worker_find_server(att->server, rel->rd_rel->relowner),
						   kapture_share_join(rel->rd_rel->relowner));
		worker_note_problem(table);
	}
	MemoryContextSwitchTo(old);
	relation_close(rel, AccessShareLock);
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
		{
			kapture_outbox_scan_init(&dlist_container(WorkerTable, node, iter.cur)->scan);
			kapture_outbox_scan_init(&dlist_container(WorkerTable, node, iter.cur)->keys);
		}
		MemoryContextSwitchTo(transaction);
	}
	worker_origin = origin;
}

static void
worker_recover_table(void *arg)
{
	WorkerTable *table = arg;
	TimestampTz in_doubt = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   table->server->timeout + KAPTURE_LATE_GRACE);

	kapture_outbox_recover(table->att->id, in_doubt,
						   kapture_shmem_worker_take_blame(table->att->id) ? WORKER_BLAME : NULL);
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
		table->recovered = worker_try_within(worker_recover_table, table, table);
		if (table->recovered)
			worker_report_success(KAPTURE_PHASE_LOAD, table);
		else
			worker_look_later();
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

/*
 * Reads an attached table; returns whether it was dropped.  One that cannot be
 * read keeps what is known of it, and is tried again after a while.
 */
static bool
worker_load_attached(const KaptureAttached *attached, WorkerTable *table)
{
	WorkerRelation relation = {attached->relid, false};

	if (table)
		table->stale = true;	/* until it has been read */
	if (worker_try_within(worker_load_table, &relation, table))
	{
		if (table)
			worker_report_success(KAPTURE_PHASE_LOAD, table);
		return relation.dropped;
	}
	worker_next_load = Min(worker_next_load, worker_retry_at(table ? ++table->errors : 1));
	if (table)
	{
		table->seen = true;
		table->not_before = worker_next_load;
	}
	return false;
}

/* Reads the list of attachments, and those tables of it anew that have changed. */
static void
worker_load_tables(void)
{
	bool		all = worker_all_stale;
	bool		dropped = false;
	dlist_mutable_iter iter;
	ListCell   *lc;

	worker_all_stale = false;
	dlist_foreach_modify(iter, &worker_tables)
		dlist_container(WorkerTable, node, iter.cur)->seen = false;
	foreach(lc, kapture_catalog_attached())
	{
		KaptureAttached *attached = lfirst(lc);
		WorkerTable *table = worker_find_table(attached->id);

		if (all || table == NULL || table->stale || !table->attached ||
			!kapture_catalog_same_version(&table->version, &attached->version))
			dropped |= worker_load_attached(attached, table);
		else
			table->seen = true;
	}
	dlist_foreach_modify(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		table->look = table->fresh = true;
		table->next_due = DT_NOBEGIN;	/* kapture_retry() may have moved it */
		if (table->seen)
			continue;
		table->attached = table->present = false;
		if (table->ntasks == 0)
			worker_forget_table(table);
	}
	worker_find_used_servers();
	if (dropped && worker_alone && !worker_try_within(worker_forget_dropped, NULL, NULL))
		worker_look_later();
}

/* Reads the settings of all servers. */
static void
worker_load_servers(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_servers)
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
}

static void
worker_find_pulls(void *arg)
{
	*(bool *) arg = kapture_pull_servers() != NIL || kapture_inbox_any();
}

/* Within a transaction; *exists: the extension does. */
static void
worker_do_load(void *arg)
{
	bool	   *exists = arg;
	Oid			installation = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	char	   *version;
	bool		pulls = false;

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
	{
		worker_check_origin();
		worker_load_tables();
		worker_load_servers();
		if (worker_alone)
			worker_recover();
	}
	if (*exists && !worker_outdated && !worker_try_within(worker_find_pulls, &pulls, NULL))
		worker_look_later();
	kapture_shmem_worker_wants_puller(pulls);
}

/*
 * Reads anew what has changed of attachments and servers.  False: the extension is
 * gone.  After an error, nothing is claimed until that has gone well: tables may
 * look different, or be another's.
 */
static bool
worker_load(void)
{
	bool		exists = true;
	ErrorData  *error;

	worker_stale = false;
	worker_next_load = DT_NOEND;
	error = worker_run("reading attachments", worker_do_load, &exists);
	if (error == NULL)
	{
		worker_load_errors = 0;
		worker_load_not_before = 0;
		if (worker_next_load == DT_NOEND)
			worker_report_success(KAPTURE_PHASE_LOAD, NULL);
		return exists;
	}
	worker_report_error(KAPTURE_PHASE_LOAD, NULL, NULL, error);
	worker_all_stale = true;
	if (worker_is_lock(error))
		worker_look_later();
	else
	{
		worker_stale = true;
		worker_load_not_before = worker_retry_at(++worker_load_errors);
	}
	FreeErrorData(error);
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
	return server->health == KAPTURE_SERVER_DENIES || server->health == KAPTURE_SERVER_MISFITS ||
		server->health == KAPTURE_SERVER_THROTTLES ||
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
	return ahead - server->nready + Max(worker_connections(server) - server->in_flight, 0);
}

/*
 * How many more rows to claim of a table: fewer, if its rows are slow or large.
 */
static int
worker_table_room(WorkerTable *table, TimestampTz now)
{
	int			room = Min(Min(worker_room(table->server, now), table->batch), table->limit > 0 ? table->limit : WORKER_MAX_BATCH);
	Size		bytes = kapture_share_room(table->share);

	if (room <= 0 || bytes == 0)
		return 0;
	return table->row_bytes > 0 ? (int) Max(Min(room, bytes / table->row_bytes), 1) : room;
}

/* When a table that has something to claim may be claimed from, at the earliest. */
static TimestampTz
worker_table_turn(WorkerTable *table)
{
	return Max(table->not_before, Max(table->turn, table->share->turn));
}

/* Forgets tasks whose outcome is recorded, or cannot be. */
static void
worker_discard(dlist_head *tasks)
{
	while (!dlist_is_empty(tasks))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(tasks));
		WorkerTable *table = task->table;

		(void) hash_search(worker_deliveries, &task->task.delivery->delivery_id, HASH_REMOVE, NULL);
		kapture_share_release(task->share, task->bytes);
		kapture_share_leave(task->share);
		task->server->ntasks--;
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
	task->server->ntasks++;
	task->table = table;
	task->share = table->share;
	kapture_share_keep(task->share);
	task->bytes = delivery->row.bytes;
	kapture_share_hold(task->share, task->bytes);
	task->task.delivery = delivery;
	task->task.att = table->att;
	task->task.timeout = table->server->timeout;
	task->task.check_rows = table->server->check_rows;
	delivery->worker = task;
	table->ntasks++;
	((WorkerDelivery *) hash_search(worker_deliveries, &delivery->delivery_id, HASH_ENTER, NULL))->delivery = delivery;
	return task;
}

/* Takes in that a row has got another key, or was deleted, while something is under way for it. */
static void
worker_note_moved(KaptureDelivery *delivery, const KaptureMoved *moved, dlist_head *settled, TimestampTz now)
{
	WorkerTask *task = delivery->worker;

	delivery->place = moved->place;
	delivery->gone = moved->row_key == NULL;
	if (moved->row_key)
		delivery->row.row_key = delivery->row_key = MemoryContextStrdup(delivery->context, moved->row_key);
	else if (task->task.state == KAPTURE_TASK_SEND && task->task.request == NULL)
	{
		/* it is not sent any more */
		dlist_delete(&task->node);
		task->server->nready--;
		task->task.state = KAPTURE_TASK_RELEASE;
		task->task.next_attempt = now;
		dlist_push_tail(settled, &task->node);
	}
}

/*
 * Follows the changes of keys and the deletions in a table that are committed
 * by now, which is as the transaction's snapshot shows it: before rows are read
 * or written.  What is not to be sent any more is appended to *settled.
 */
static void
worker_follow(WorkerTable *table, dlist_head *settled)
{
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	MemoryContext old = MemoryContextSwitchTo(worker_context);
	bool		waiting = false;
	ListCell   *lc;

	worker_followed = lappend(worker_followed, table);
	MemoryContextSwitchTo(old);
	foreach(lc, kapture_outbox_follow(table->att->id, &table->keys, &table->scan, &waiting))
	{
		KaptureMoved *moved = lfirst(lc);
		WorkerDelivery *found = hash_search(worker_deliveries, &moved->delivery_id, HASH_FIND, NULL);

		if (found)
			worker_note_moved(found->delivery, moved, settled, now);
	}
	if (waiting)
		table->next_due = Min(table->next_due, now);
}

static void worker_settle(dlist_head *tasks);
static void worker_settle_apart(dlist_head *tasks);

/* None of the rows is dealt with now: others come first. */
static void
worker_put_off(List *rows)
{
	ListCell   *lc;

	foreach(lc, rows)
		((KaptureRow *) lfirst(lc))->outcome = KAPTURE_ROW_LOCKED;
}

/* Notes how long a batch of rows took, and makes the next one shorter if that was long. */
static void
worker_charge(WorkerTable *table, TimestampTz began, int nrows)
{
	if (kapture_share_charge(table->share, &table->turn, began, nrows))
		table->batch = (int) Max(nrows * WORKER_SLOW_CLAIM / (GetCurrentTimestamp() - began), 1);
	else
		table->batch = Min(table->batch * 2, WORKER_MAX_BATCH);
}

/* Reads the rows of deliveries, and how a customer made of each could be found. */
static void
worker_read_rows(WorkerTable *table, List *deliveries)
{
	TimestampTz began = GetCurrentTimestamp();
	List	   *rows = NIL;
	Size		bytes = 0;
	ListCell   *lc;

	if (deliveries == NIL)
		return;
	foreach(lc, deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);

		if (!delivery->gone)
			rows = lappend(rows, &delivery->row);
	}
	if (kapture_share_is_spent(table->share))
		worker_put_off(rows);
	else if (rows != NIL)
	{
		kapture_row_read(table->att, table->server->timezone, rows, GetActiveSnapshot());
		worker_charge(table, began, list_length(rows));
	}
	foreach(lc, deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);

		bytes += delivery->row.bytes;
		/* one that was claimed before may know of a lost Add, which had its own */
		if (!delivery->gone && (!delivery->claimed || delivery->attempts == 1) &&
			delivery->row.outcome == KAPTURE_ROW_DONE && delivery->row.customer_id == 0)
			kapture_task_identify(table->att, delivery);
	}
	table->row_bytes = rows ? bytes / list_length(rows) : 0;
	list_free(rows);
}

/* Moves the tasks of a table, or all (NULL), to the end of another list. */
static void
worker_move_tasks(dlist_head *from, dlist_head *to, WorkerTable *table)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, from)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, iter.cur);

		if (table && task->table != table)
			continue;
		dlist_delete(&task->node);
		dlist_push_tail(to, &task->node);
	}
}

/* What cannot be recorded now is tried again in a while. */
static void
worker_keep_unrecorded(dlist_head *tasks)
{
	if (dlist_is_empty(tasks))
		return;
	worker_move_tasks(tasks, &worker_unrecorded, NULL);
	worker_next_record = Min(worker_next_record, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY));
}

/* A claim of rows of a table. */
typedef struct WorkerClaim
{
	WorkerTable *table;
	int			room;
	TimestampTz now;
	int			nrows;			/* that were taken up; */
	const char *row_key;		/* if that is one, its key */
	bool		done;			/* not put off */
	MemoryContext context;		/* of the deliveries, as long as it may come to nothing */
	List	   *deliveries;		/* of rows whose next try is due, */
	List	   *changes;		/* and of changed ones */
	List	   *tasks;			/* of them, as far as they are made */
	dlist_head	ready;			/* tasks whose request is to be sent, */
	dlist_head	settled;		/* those without any, */
	dlist_head	moved;			/* and earlier ones whose row is gone */
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

/* Makes the task of a claimed row. */
static void
worker_prepare(WorkerClaim *claim, KaptureDelivery *delivery)
{
	MemoryContext old = MemoryContextSwitchTo(claim->context);

	claim->tasks = lappend(claim->tasks, worker_make_task(claim->table, delivery));
	MemoryContextSwitchTo(old);
	/* the original of this database may have sent what has waited in kapture_delivery so far */
	if (delivery->attempts == 1 && delivery->in_doubt == 0 && delivery->captured_at <= worker_origin.doubt_until)
		delivery->in_doubt = claim->now;
	if (worker_stale && delivery->row.outcome == KAPTURE_ROW_FAILED && !delivery->row.slow)
		delivery->row.outcome = KAPTURE_ROW_LOCKED;
}

/*
 * Works out what is to be sent first for claimed rows, and queues it.  A row of
 * which no request can be made is parked.
 */
static void
worker_plan(WorkerClaim *claim, List *deliveries)
{
	WorkerPlan	plan = {deliveries, claim->now};
	ErrorData  *error;
	ListCell   *lc;

	if (deliveries == NIL)
		return;
	foreach(lc, deliveries)
		worker_prepare(claim, lfirst(lc));
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
worker_claim_due(WorkerTable *table, int room, TimestampTz now, List **deliveries)
{
	int			limit = table->well_since != 0 && table->look ? Max(room / 2, 1) : room;

	kapture_outbox_claim_due(table->att->id, limit, now, table->well_since, deliveries);
	if (list_length(*deliveries) < limit)
		table->well_since = 0;
	table->next_due = table->well_since != 0 ? now : kapture_outbox_next_due(table->att->id);
	/* somebody has locked it */
	if (list_length(*deliveries) < limit && table->next_due <= now)
		table->next_due = TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY);
}

/* Takes from the queue what there is room for. */
static void
worker_take(WorkerClaim *claim, TimestampTz now)
{
	WorkerTable *table = claim->table;
	MemoryContext transaction = MemoryContextSwitchTo(claim->context);
	bool		more = false;

	if (table->next_due <= now)
		worker_claim_due(table, claim->room, now, &claim->deliveries);
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
	MemoryContextSwitchTo(transaction);
}

/* Claims rows and plans their first requests. */
static void
worker_do_claim(void *arg)
{
	WorkerClaim *claim = arg;
	WorkerTable *table = claim->table;
	List	   *adds = NIL;
	ListCell   *lc;
	MemoryContext transaction;

	claim->now = GetCurrentTransactionStartTimestamp(); /* SQL's now() */
	/* whoever paused a table and then changed it must not find that taken */
	AcceptInvalidationMessages();
	if (worker_stale)
		return;					/* the table may look different now */
	worker_follow(table, &claim->moved);
	worker_take(claim, claim->now);
	worker_read_rows(table, claim->deliveries);
	worker_read_rows(table, claim->changes);
	transaction = MemoryContextSwitchTo(claim->context);
	claim->changes = kapture_outbox_claim(claim->changes, worker_origin.doubt_until);
	MemoryContextSwitchTo(transaction);

	worker_plan(claim, claim->deliveries);
	foreach(lc, claim->deliveries)
	{
		KaptureDelivery *delivery = lfirst(lc);
		KaptureTask *task = &((WorkerTask *) delivery->worker)->task;

		/* the Add of a changed row may have another phone and email, that of a new one has none yet */
		if (delivery->attempts == 1 || (task->state == KAPTURE_TASK_SEND && task->step == KAPTURE_STEP_ADD))
			adds = lappend(adds, delivery);
	}
	kapture_outbox_note_adds(adds);
	worker_plan(claim, claim->changes);
	worker_settle(&claim->settled);
	worker_settle(&claim->moved);
	claim->done = true;
}

/* The rows that were claimed outlive the claim. */
static void
worker_adopt(List *deliveries)
{
	ListCell   *lc;

	foreach(lc, deliveries)
		MemoryContextSetParent(((KaptureDelivery *) lfirst(lc))->context, worker_context);
}

/* The tasks of a claim that has failed go; some may be in no list yet. */
static void
worker_drop_claimed(WorkerClaim *claim)
{
	dlist_head	tasks = DLIST_STATIC_INIT(tasks);
	ListCell   *lc;

	foreach(lc, claim->tasks)
		dlist_push_tail(&tasks, &((WorkerTask *) lfirst(lc))->node);
	worker_discard(&tasks);
	dlist_init(&claim->ready);
	dlist_init(&claim->settled);
}

/* Queues what was claimed. */
static void
worker_end_claim(WorkerClaim *claim)
{
	WorkerTable *table = claim->table;

	worker_discard(&claim->moved);
	worker_adopt(claim->deliveries);
	worker_adopt(claim->changes);
	while (!dlist_is_empty(&claim->ready))
	{
		WorkerTask *task = dlist_container(WorkerTask, node, dlist_pop_head_node(&claim->ready));

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

/* A row that cannot be claimed, and why. */
typedef struct WorkerPoison
{
	WorkerTable *table;
	const char *row_key;
	const char *message;
	MemoryContext context;
	dlist_head	moved;
	bool		parked;
	bool		other;			/* another row comes first by now */
} WorkerPoison;

/* Parks it, if it is still the next one that is due or was changed. */
static void
worker_do_park(void *arg)
{
	WorkerPoison *poison = arg;
	WorkerTable *table = poison->table;
	List	   *changes = NIL;
	bool		more;
	MemoryContext transaction;

	worker_follow(table, &poison->moved);
	poison->parked = kapture_outbox_park_due(table->att->id, poison->row_key, poison->message);
	if (!poison->parked)
	{
		transaction = MemoryContextSwitchTo(poison->context);
		kapture_outbox_take(table->att->id, &table->scan, 1, &changes, &more);
		MemoryContextSwitchTo(transaction);
		poison->parked = list_length(changes) == 1 &&
			strcmp(((KaptureDelivery *) linitial(changes))->row_key, poison->row_key) == 0;
		poison->other = changes != NIL && !poison->parked;
		if (poison->parked)
			kapture_outbox_park(linitial(changes), worker_origin.doubt_until, poison->message);
		else if (poison->other)
			elog(ERROR, "another row comes first by now");	/* to put that back */
	}
	worker_settle(&poison->moved);
	if (!poison->parked)
		return;
	kapture_alert_note(&table->outcomes, true);
	worker_alert_tables();
}

/* Parks a row that cannot be claimed.  False: not even that can be done. */
static bool
worker_park(WorkerTable *table, const char *row_key, const ErrorData *cause)
{
	WorkerPoison poison = {.table = table,.row_key = row_key};
	ErrorData  *error;

	dlist_init(&poison.moved);
	poison.context = AllocSetContextCreate(worker_context, "kapture_sync parked row", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(poison.context);
	poison.message = kapture_guard_message(cause);
	MemoryContextSwitchTo(worker_context);
	error = worker_run("parking a row", worker_do_park, &poison);
	worker_rewind(table);
	if (error)
	{
		if (!poison.other)
			worker_report_error(KAPTURE_PHASE_CLAIM, table, row_key, error);
		FreeErrorData(error);
		worker_keep_unrecorded(&poison.moved);
	}
	worker_discard(&poison.moved);
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
	if (worker_is_lock(error))
	{
		/* it begins anew when the lock may be gone */
		table->turn = Max(table->turn, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY));
		return;
	}
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
	WorkerClaim claim = {.table = table,.room = room};
	TimestampTz began = GetCurrentTimestamp();
	int64		served = table->share->served;
	ErrorData  *error;

	dlist_init(&claim.ready);
	dlist_init(&claim.settled);
	dlist_init(&claim.moved);
	claim.context = AllocSetContextCreate(worker_context, "kapture_sync claim", ALLOCSET_SMALL_SIZES);
	error = worker_run("claiming changes", worker_do_claim, &claim);
	if (error == NULL)
		worker_end_claim(&claim);
	else
	{
		worker_drop_claimed(&claim);
		worker_keep_unrecorded(&claim.moved);
		worker_fail_claim(&claim, error);
		FreeErrorData(error);
	}
	worker_discard(&claim.settled);
	MemoryContextDelete(claim.context);
	/* the rest of it counts, too */
	(void) kapture_share_charge(table->share, &table->turn, began + Max(table->share->served - served, 0),
								claim.nrows);
}

/* May changes of this database be sent, and by us? */
static bool
worker_may_send(void)
{
	return kapture_enabled && !worker_outdated && worker_origin.state == KAPTURE_ORIGIN_OURS;
}

/*
 * The table to claim from next, with *room for so many rows: of those whose turn
 * it is, one of the owner who had the least so far.  NULL: this round is over.
 */
static WorkerTable *
worker_next_claim(int *room, TimestampTz now)
{
	WorkerTable *next = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &worker_tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (!table->present || table->att->paused || table->round == worker_round ||
			!(table->look || table->next_due <= now) || worker_table_turn(table) > now)
			continue;
		if (next && (table->share->served > next->share->served ||
					 (table->share->served == next->share->served && table->round >= next->round)))
			continue;
		if ((*room = worker_table_room(table, now)) > 0)
			next = table;
	}
	if (next)
		*room = worker_table_room(next, now);
	return next;
}

/* Claims what is waiting, as far as there is room and time for it. */
static void
worker_claim(void)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;
	WorkerTable *table;
	int			room;

	if (!worker_may_send() || worker_stale)
		return;
	worker_round++;
	while (now < TimestampTzPlusMilliseconds(began, WORKER_CLAIM_TIME) &&
		   (table = worker_next_claim(&room, now)) != NULL)
	{
		table->round = worker_round;
		kapture_share_pick(table->share);
		worker_claim_table(table, room);
		now = GetCurrentTimestamp();
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

static void
worker_do_show(void *arg)
{
	worker_report(arg, "");
}

/*
 * Likewise, for a server whose settings turn out to be of no use, or to which no
 * request can be started.  It is tried again when the settings are read next.
 */
static void
worker_give_up_server(WorkerServer *server, const char *problem)
{
	dlist_head	settled = DLIST_STATIC_INIT(settled);
	ErrorData  *error;

	ereport(LOG,
			(errmsg("kapture_sync cannot use server \"%s\": %s", server->name, problem)));
	server->problem = MemoryContextStrdup(worker_context, problem);
	server->start_errors = 0;
	worker_next_load = Min(worker_next_load, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_ERROR_LONGEST));
	worker_take_back(server, GetCurrentTimestamp(), &settled);
	worker_settle_apart(&settled);
	error = worker_run("reporting a server's state", worker_do_show, server);
	if (error)
	{
		/* it is shown when settings are read next */
		worker_report_error(KAPTURE_PHASE_SEND, NULL, NULL, error);
		FreeErrorData(error);
	}
}

/* When the server may next be sent something; DT_NOEND: not before an answer. */
static TimestampTz
worker_next_send(WorkerServer *server)
{
	if (server->nready == 0 || server->problem || server->in_flight >= worker_connections(server))
		return DT_NOEND;
	return Max(server->not_before, server->next_start);
}

/* A server that is being sent something. */
typedef struct WorkerSending
{
	WorkerServer *server;
	TimestampTz now;
	WorkerTask *wrapping;		/* the task whose body is being made, or NULL */
	WorkerTask *starting;		/* the task whose request is being started, or NULL */
} WorkerSending;

/* Starts the request of the next task that is ready, if the limiter allows that. */
static void
worker_start_request(WorkerSending *sending, const KaptureServer *settings)
{
	WorkerServer *server = sending->server;
	WorkerTask *task = dlist_head_element(WorkerTask, node, &server->ready);
	KaptureTask *t = &task->task;
	KaptureServer bounded = *settings;
	MemoryContext old = MemoryContextSwitchTo(t->delivery->context);
	TimestampTz when;

	kapture_binding_require(t->att, settings);
	sending->wrapping = task;
	kapture_task_wrap(t, settings);
	sending->wrapping = NULL;
	sending->starting = task;
	KAPTURE_FAULT_ROW("start request", t->delivery->row_key);
	bounded.max_response_size = Min(settings->max_response_size, WORKER_MAX_ANSWER(t->body_len));
	t->request = kapture_http_start(&bounded, kapture_task_api(t), t->body, t->body_len, task, &when);
	sending->starting = NULL;
	server->start_errors = 0;
	if (t->request)
	{
		(void) dlist_pop_head_node(&server->ready);
		server->nready--;
		server->in_flight++;
		/* a host that does not answer as it should may have moved */
		if (server->health != KAPTURE_SERVER_WELL)
			kapture_http_connect_anew(t->request);
	}
	server->next_start = t->request ? 0 : when;
	MemoryContextSwitchTo(old);
}

/* Settings may have to be read again, which takes a transaction. */
static void
worker_do_send(void *arg)
{
	WorkerSending *sending = arg;
	const KaptureServer *settings = kapture_server_get(sending->server->name, sending->server->owner);

	while (worker_next_send(sending->server) <= sending->now)
		worker_start_request(sending, settings);
}

/* A task whose request cannot be sent is parked. */
static void
worker_fail_ready(WorkerTask *task, const ErrorData *error)
{
	dlist_head	one = DLIST_STATIC_INIT(one);

	dlist_delete(&task->node);
	task->server->nready--;
	kapture_task_park(&task->task, error);
	dlist_push_tail(&one, &task->node);
	worker_settle_apart(&one);
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
	const KaptureServer *settings = kapture_server_get(task->server->name, task->server->owner);
	TimestampTz when;
	KaptureHttpRequest *request = kapture_http_start(settings, kapture_task_api(&task->task), "{}", 2, NULL, &when);

	if (request)
		kapture_http_release(request);
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
	another = worker_run("sending", worker_do_probe, task);
	if (another == NULL)
		worker_fail_ready(task, error);
	else
	{
		worker_give_up_server(server, another->message);
		FreeErrorData(another);
	}
}

/* What becomes of a server to which something could not be sent. */
static void
worker_fail_send(WorkerSending *sending, const ErrorData *error)
{
	if (worker_is_lock(error))
	{
		sending->server->not_before = TimestampTzPlusMilliseconds(sending->now, KAPTURE_LOCKED_RETRY);
		return;
	}
	worker_report_error(KAPTURE_PHASE_SEND, NULL, NULL, error);
	if (sending->wrapping && sending->wrapping->start_errors++ == 0)
		worker_requeue(sending->wrapping);
	else if (sending->wrapping)
		worker_fail_ready(sending->wrapping, error);
	else if (sending->starting)
		worker_fail_start(sending->starting, error);
	else
	{
		worker_give_up_server(sending->server, error->message);
		/* another server of the name may be of use to other tables */
		if (error->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
			worker_next_load = 0;
	}
	/* what became of it shows as a failed row, or as the server's state */
	worker_report_success(KAPTURE_PHASE_SEND, NULL);
}

/* Sends a server what may be sent now. */
static void
worker_send_server(WorkerServer *server)
{
	WorkerSending sending = {.server = server,.now = GetCurrentTimestamp()};
	ErrorData  *error;

	if (worker_next_send(server) > sending.now)
		return;
	error = worker_run("sending", worker_do_send, &sending);
	if (error == NULL)
		return;
	worker_fail_send(&sending, error);
	FreeErrorData(error);
}

/* The latch may have been set because it is our turn: the limiter is asked again. */
static void
worker_ask_limiter(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker_servers)
		dlist_container(WorkerServer, node, iter.cur)->next_start = 0;
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
		case KAPTURE_SERVER_MISFITS:
			ereport(LOG,
					(errmsg("kapture_sync: server \"%s\" cannot read our requests; its queue waits", server->name),
					 errhint("kapture_status and kapture_failures say which option of the server to set.")));
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
	if (task->health == KAPTURE_SERVER_DENIES || task->health == KAPTURE_SERVER_MISFITS)
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
	bool		asked = task->health == KAPTURE_SERVER_DENIES || task->health == KAPTURE_SERVER_MISFITS ||
		(task->health != KAPTURE_SERVER_WELL && task->retry_after >= 0);
	int64		row = task->delivery->delivery_id;

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
	WorkerAnswer answer = {.task = task,.now = now};
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
	if (task->task.strange)
		kapture_http_distrust(task->task.request);
	kapture_http_release(task->task.request);
	task->task.request = NULL;
}

/* Writes ids back to the rows of one table. */
static void
worker_write_back(WorkerTable *table, List *tasks, TimestampTz now)
{
	TimestampTz began = GetCurrentTimestamp();
	bool		spent = worker_leaving || kapture_share_is_spent(table->share);
	TimestampTz later = Max(TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY), spent ? worker_table_turn(table) : 0);
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, tasks)
	{
		KaptureTask *t = &((WorkerTask *) lfirst(lc))->task;

		t->delivery->row.new_id = t->customer_id;
		rows = lappend(rows, &t->delivery->row);
	}
	if (spent)
		worker_put_off(rows);
	else
	{
		kapture_row_write_ids(table->att, rows, GetActiveSnapshot());
		worker_charge(table, began, list_length(rows));
	}

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
				/* deleted, though that was not captured */
				if (sent)
					t->action = "gone";
				break;
			case KAPTURE_ROW_FAILED:
				if (worker_stale && !row->slow)
					row->outcome = KAPTURE_ROW_LOCKED;	/* not its fault */
				pg_fallthrough;
			case KAPTURE_ROW_LOCKED:
				if (!sent)
					break;		/* the id is kept with the failure */
				row->customer_id = 0;
				t->body = NULL;
				kapture_task_fail(t, row->outcome == KAPTURE_ROW_FAILED || table->att->id == worker_blamed, later,
								  row->outcome == KAPTURE_ROW_FAILED ? row->error :
								  table->att->id == worker_blamed ? WORKER_BLAME :
								  spent ? "others come first; the Kapture customer id is written later" :
								  "the row is locked; its Kapture customer id is written later");
				t->failed.arrived = true;
				break;
		}
	}
}

/* Writes the ids of tasks back, table by table. */
static void
worker_write_ids(dlist_head *tasks, TimestampTz now)
{
	List	   *tables = NIL;
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, tasks)
	{
		WorkerTask *task = dlist_container(WorkerTask, node, iter.cur);
		WorkerTable *table = task->table;
		KaptureTask *t = &task->task;

		if (!table->present || t->state == KAPTURE_TASK_RELEASE || t->delivery->gone ||
			t->customer_id == 0 || t->customer_id == t->delivery->row.customer_id)
			continue;
		if (!list_member_ptr(tables, table))
		{
			tables = lappend(tables, table);
			table->settling = NIL;
		}
		table->settling = lappend(table->settling, task);
	}
	foreach(lc, tables)
	{
		WorkerTable *table = lfirst(lc);

		worker_write_back(table, table->settling, now);
		table->settling = NIL;
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
	dlist_iter	titer;
	List	   *done = NIL;
	ListCell   *lc;

	if (dlist_is_empty(tasks))
		return;
	worker_write_ids(tasks, now);
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
		task->server->next_start = 0;
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

/* Finds out where the rows of tasks are by now.  What need not be sent any more is appended to *settled. */
static void
worker_follow_tasks(dlist_head *tasks, dlist_head *settled)
{
	List	   *tables = NIL;
	dlist_iter	iter;
	ListCell   *lc;

	dlist_foreach(iter, tasks)
	{
		WorkerTable *table = dlist_container(WorkerTask, node, iter.cur)->table;

		if (table->attached)
			tables = list_append_unique_ptr(tables, table);
	}
	foreach(lc, tables)
		worker_follow(lfirst(lc), settled);
}

/*
 * To be called in a transaction that records answers.  That is not worth a wait
 * for the disk: if a crash takes it back, the rows are 'sending' again, and are
 * searched for before anything is added.
 */
static void
worker_record_lazily(void)
{
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

static void
worker_do_settle(void *arg)
{
	worker_record_lazily();
	(void) set_config_option("lock_timeout", WORKER_BUSY_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	worker_follow_tasks(arg, arg);
	worker_settle(arg);
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

/*
 * Records what became of one task: if that cannot be, it is made a failure with the
 * error as its reason.  What even that cannot be done with stays, known to nobody
 * but us; should the process end, it is in doubt.
 */
static void
worker_settle_one(WorkerTask *task)
{
	dlist_head	one = DLIST_STATIC_INIT(one);
	ErrorData  *error;

	dlist_push_tail(&one, &task->node);
	error = worker_run("recording answers", worker_do_settle, &one);
	if (error && !worker_is_lock(error) &&
		(!kapture_guard_will_pass(error) || worker_record_errors >= WORKER_PASSING_ERRORS))
	{
		worker_report_error(KAPTURE_PHASE_RECORD, task->table, task->task.delivery->row_key, error);
		worker_fail_record(task, error);
		FreeErrorData(error);
		error = worker_run("recording answers", worker_do_settle, &one);
	}
	if (error == NULL)
	{
		worker_report_success(KAPTURE_PHASE_RECORD, task->table);
		worker_discard(&one);
		return;
	}
	worker_report_error(KAPTURE_PHASE_RECORD, task->table, task->task.delivery->row_key, error);
	FreeErrorData(error);
	worker_move_tasks(&one, &worker_unrecorded, NULL);
}

/*
 * What became of tasks could not be recorded together: somebody has locked what it
 * is to be written to (a kapture_detach() that is not committed), or one of them is
 * to blame.  Each table is tried by itself, and then each row.  What cannot be
 * recorded is kept for a while.
 */
static void
worker_settle_apart(dlist_head *tasks)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now;

	while (!dlist_is_empty(tasks))
	{
		dlist_head	its = DLIST_STATIC_INIT(its);
		ErrorData  *error;

		worker_move_tasks(tasks, &its, dlist_head_element(WorkerTask, node, tasks)->table);
		error = worker_run("recording answers", worker_do_settle, &its);
		if (error == NULL)
			worker_discard(&its);
		else if (worker_is_lock(error))
			worker_move_tasks(&its, &worker_unrecorded, NULL);
		while (error && !dlist_is_empty(&its))
			worker_settle_one(dlist_container(WorkerTask, node, dlist_pop_head_node(&its)));
		if (error)
			FreeErrorData(error);
	}
	worker_record_errors = dlist_is_empty(&worker_unrecorded) ? 0 : worker_record_errors + 1;
	if (dlist_is_empty(&worker_unrecorded))
	{
		worker_report_success(KAPTURE_PHASE_RECORD, NULL);
		return;
	}
	/* what takes long is tried the more seldom */
	now = GetCurrentTimestamp();
	worker_next_record = TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY) + (now - began) * 10;
}

/* Tries again to record what could not be recorded before. */
static void
worker_record_rest(void)
{
	dlist_head	tasks = DLIST_STATIC_INIT(tasks);

	if (worker_next_record > GetCurrentTimestamp())
		return;
	worker_next_record = DT_NOEND;
	worker_move_tasks(&worker_unrecorded, &tasks, NULL);
	worker_settle_apart(&tasks);
}

/* Takes in the answers that were collected, and records what they mean. */
static void
worker_do_record(void *arg)
{
	dlist_head *settled = arg;
	TimestampTz now = GetCurrentTimestamp();

	worker_record_lazily();
	worker_follow_tasks(&worker_answered, settled);
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
			dlist_push_tail(settled, &task->node);
		worker_note_health(server, &task->task, now);
		if (server->not_before > now)
			worker_take_back(server, now, settled);
	}
	worker_nanswered = 0;
	worker_trouble = false;
	worker_settle(settled);
}

/* Records what the answers that were collected mean. */
static void
worker_record(void)
{
	ErrorData  *error = worker_run("recording answers", worker_do_record, &worker_settled);

	if (error)
	{
		worker_report_error(KAPTURE_PHASE_RECORD, NULL, NULL, error);
		FreeErrorData(error);
		worker_settle_apart(&worker_settled);
		return;
	}
	worker_discard(&worker_settled);
	worker_report_success(KAPTURE_PHASE_RECORD, NULL);
}

static void
worker_do_expire(void *arg)
{
	worker_next_expiry = kapture_history_expire();
}

/* Lets a slice of the history go that is too old, when it is time for that. */
static void
worker_expire(void)
{
	ErrorData  *error;

	if (worker_next_expiry > GetCurrentTimestamp() || !worker_may_send())
		return;
	error = worker_run("expiring history", worker_do_expire, NULL);
	if (error == NULL)
	{
		worker_report_success(KAPTURE_PHASE_EXPIRE, NULL);
		return;
	}
	worker_report_error(KAPTURE_PHASE_EXPIRE, NULL, NULL, error);
	worker_next_expiry = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													 worker_is_lock(error) ? WORKER_LOCKED_LOOK : WORKER_ERROR_LONGEST);
	FreeErrorData(error);
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
	TimestampTz next = Min(worker_next_record, Min(worker_next_safety_look, worker_next_expiry));
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
			worker_table_room(table, PG_INT64_MAX) > 0)
			next = Min(next, Max(Max(server->not_before, worker_table_turn(table)),
								 table->look ? now : table->next_due));
	}
	return next;
}

/* Milliseconds until something is to be done without being woken, -1: nothing is. */
static long
worker_timeout(void)
{
	TimestampTz next = worker_stale ? worker_load_not_before : worker_next_load;

	if (worker_may_send())
		next = Min(next, worker_next_work(GetCurrentTimestamp()));
	return kapture_process_wait_until(next);
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
		if (!table->present || table->server->problem || worker_table_room(table, PG_INT64_MAX) > 0)
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

/* Waits for the answers to requests that are under way, but not for long. */
static void
worker_await_answers(void)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_FAREWELL);

	for (;;)
	{
		long		rest = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		int			in_flight = 0;
		dlist_iter	iter;

		worker_collect();
		dlist_foreach(iter, &worker_servers)
			in_flight += dlist_container(WorkerServer, node, iter.cur)->in_flight;
		if (in_flight == 0 || rest <= 0)
			break;
		(void) kapture_http_wait(rest, WaitEventExtensionNew("KaptureWorkerMain"));
	}
}

/*
 * If users' code is why we end, what was sent for others is not left in doubt, nor
 * what was not sent to the next worker's timeout.  It runs nobody's code.
 */
static void
worker_exit_callback(int code, Datum arg)
{
	Oid			owner;
	dlist_iter	iter;

	if (!kapture_clock_has_killed(&owner, &worker_blamed))
		return;
	ereport(LOG,
			(errmsg("kapture_sync: a trigger, check or function of an attached table took no notice of being cancelled; the worker ends for it")));
	worker_leaving = true;
	AbortOutOfAnyTransaction();
	kapture_lock_renew();
	MemoryContextSwitchTo(worker_context);
	worker_await_answers();
	if (worker_nanswered > 0)
		worker_record();
	dlist_foreach(iter, &worker_servers)
		worker_take_back(dlist_container(WorkerServer, node, iter.cur), GetCurrentTimestamp(), &worker_settled);
	worker_move_tasks(&worker_unrecorded, &worker_settled, NULL);
	worker_settle_apart(&worker_settled);
}

/* Connects, takes the slot over, and finds out whether there is work here. */
static void
worker_initialize(Datum arg)
{
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(WorkerDelivery)};

	kapture_process_initialize(arg);
	worker_context = AllocSetContextCreate(TopMemoryContext, "kapture_sync worker",
										   ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = worker_context;
	MemoryContextSwitchTo(worker_context);
	worker_deliveries = hash_create("kapture_sync claimed rows", WORKER_MAX_BATCH, &ctl,
									HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	CacheRegisterRelcacheCallback(worker_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, worker_syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, worker_syscache_callback, (Datum) 0);
	if (!worker_load())
		kapture_process_exit(KAPTURE_EXIT_ABSENT);
	kapture_process_count();
	kapture_process_lock_database(KAPTURE_PUSHER);
	before_shmem_exit(worker_exit_callback, (Datum) 0);
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
		worker_next_expiry = 0;	/* and the retention */
	}
	worker_ask_limiter();
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
	worker_record_rest();
	if (worker_should_record())
	{
		worker_record();
		kapture_vacuum_run();
		return;
	}

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
