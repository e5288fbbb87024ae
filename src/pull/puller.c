/*
 * puller.c
 *		The process that pulls customers of one database from Kapture by itself.
 *
 * It runs only where a server has option pull_interval or a table takes what is
 * pulled, and beside the worker
 * that sends changes, so that neither keeps the other waiting.  Each server is
 * pulled from with the key of its owner, when its interval is over, from its
 * watermark to the present, window by window; a window and the watermark behind
 * it are one transaction.  None is open while the network is waited for.
 *
 * Customers that were new or differed reach the attached tables that take them
 * from kapture_inbox, in small transactions of their own (apply.c).
 *
 * Servers do not wait for each other: each has a fetch of its own (fetch.c),
 * which is polled; this file decides when, and what a failure means.  Everything
 * that must survive is in kapture_pull, so that whoever comes after a crash goes
 * on from there.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_foreign_server.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/backend_status.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "api/http.h"
#include "api/local_time.h"
#include "api/option.h"
#include "api/server.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "base/text.h"
#include "base/version.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "pull/apply.h"
#include "pull/fetch.h"
#include "pull/mirror.h"
#include "pull/pull_state.h"
#include "pull/puller.h"
#include "pull/sweep.h"
#include "pull/watermark.h"
#include "table/binding.h"
#include "table/capture.h"
#include "table/clock.h"
#include "table/inbox.h"
#include "table/origin.h"
#include "table/share.h"
#include "traffic/pacing.h"

/* Milliseconds after which a server that somebody else refreshes is tried again. */
#define PULL_BUSY_RETRY		5000

/* Customers written to an attached table in a transaction, at most. */
#define PULL_BATCH			50

/* Milliseconds of that after which servers are looked at, too. */
#define PULL_TABLES_TIME	100

/* Microseconds that a batch of a slow table should take. */
#define PULL_SLOW_BATCH		INT64CONST(250000)

/* Milliseconds after which a table that cannot be read is tried again, at most. */
#define PULL_TABLE_RETRY	60000

/* Milliseconds between tries of a server that fails, at most. */
#define PULL_LONGEST		600000

/* A pull that is under way; it is all in one memory context. */
typedef struct PullRun
{
	MemoryContext context;
	KaptureFetch *fetch;
	KaptureCopies *copies;
	TimestampTz began;
	Timestamp	end;
	TimestampTz pulled_until;	/* the watermark, as committed */
	TimestampTz when;			/* the fetch is to be polled then, or before */
} PullRun;

typedef struct PullServer
{
	dlist_node	node;
	char	   *name;
	Oid			serverid;
	Oid			owner;
	bool		present;		/* still to be pulled from */

	/* from its settings */
	int64		interval;		/* microseconds; 0: not known */
	int64		overlap;		/* microseconds */
	Timestamp	since;			/* 0: not given */
	char	   *timezone;
	int64		window;			/* seconds */

	TimestampTz next;			/* of the next pull */
	TimestampTz not_before;		/* nor any try before that */
	int			failures;		/* in a row */
	PullRun    *run;			/* NULL: none */

	int64		sweep_interval; /* microseconds; 0: none */
	double		sweep_rate;
	TimestampTz next_sweep;
	KaptureSweep *sweep;		/* NULL: none */
	TimestampTz sweep_when;		/* it wants to be called then, or before */
} PullServer;

/* An attached table that takes pulled customers. */
typedef struct PullTable
{
	dlist_node	node;
	Oid			relid;
	bool		present;		/* still to be brought customers */
	TimestampTz next_due;		/* of the next customer; DT_NOEND: none waits */

	/* what it takes of others' time */
	KaptureShare *share;		/* its owner's; NULL: not known yet */
	TimestampTz turn;			/* nothing of it before then */
	uint64		round;			/* in which it last had its turn */
	int			batch;			/* customers worth taking at a time */

	/* after errors */
	int			limit;			/* customers at once, 0: as many as may be */
	int			errors;			/* in a row that stopped the table as a whole */
	TimestampTz not_before;		/* nothing is written earlier */
	bool		in_trouble;		/* and says so in kapture_status */

	/* what is being written */
	int32		attachment_id;
	int			ncustomers;
	int64		customer_id;	/* if it is one */
	int64		suspect;		/* one that could not be written by itself, once; or 0 */
} PullTable;

static MemoryContext puller_context;	/* what lives as long as the process */
static dlist_head puller_servers = DLIST_STATIC_INIT(puller_servers);
static dlist_head puller_tables = DLIST_STATIC_INIT(puller_tables);
static Oid	puller_installation = InvalidOid;	/* our kapture_attachment */
static bool puller_ours = false;	/* the database is no copy */
static bool puller_stale = true;	/* servers or attachments may have changed */
static TimestampTz puller_next_load = DT_NOEND; /* when to look again at what was locked */
static bool puller_settings_changed = false;	/* servers or mappings have */
static int	puller_errors = 0;	/* in a row of what is not of a server or table */
static TimestampTz puller_load_not_before = 0;	/* after those */

/* ------------------------------------------------------------------------
 * Transactions
 * ------------------------------------------------------------------------
 */

static void
puller_begin(const char *activity)
{
	pgstat_report_activity(STATE_RUNNING, activity);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
}

static void
puller_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	kapture_process_report_stat();
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(puller_context);
}

static void
puller_relcache_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == puller_installation)
		puller_stale = true;
}

static void
puller_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	puller_stale = puller_settings_changed = true;
}

/* ------------------------------------------------------------------------
 * Pulls
 * ------------------------------------------------------------------------
 */

static void puller_look(void);

/* Drops the pull under way; what it has not committed comes again. */
static void
pull_drop(PullServer *server)
{
	if (server->run == NULL)
		return;
	MemoryContextDelete(server->run->context);
	server->run = NULL;
	kapture_copies_unlock(server->serverid);
}

/* Drops the sweep under way; another goes on from where it was. */
static void
sweep_drop(PullServer *server)
{
	if (server->sweep)
		kapture_sweep_drop(server->sweep);
	server->sweep = NULL;
}

/* Notes an error that belongs to no server or table. */
static void
puller_report_error(KapturePhase phase, const ErrorData *error)
{
	char	   *message = kapture_guard_message(error);

	kapture_guard_report(KAPTURE_PULLER, phase, 0, NULL, message);
	pfree(message);
}

/* A failure that is to be noted in kapture_pull. */
typedef struct PullFailure
{
	PullServer *server;
	const ErrorData *error;
} PullFailure;

static void
pull_note_failure(void *arg)
{
	PullFailure *failure = arg;

	puller_begin("noting a failure");
	kapture_pull_state_fail(failure->server->name,
							kapture_text_cut(kapture_guard_message(failure->error)),
							failure->server->not_before);
	puller_commit();
}

/*
 * A pull, or its beginning, failed: it is tried again after a while, which
 * grows, and not before Kapture wants it.
 */
static void
pull_fail(PullServer *server, const ErrorData *error)
{
	PullFailure failure = {server, error};
	ErrorData  *another;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz asked = server->run && server->run->fetch ? kapture_fetch_not_before(server->run->fetch) : 0;

	if (server->sweep)
		asked = Max(asked, kapture_sweep_not_before(server->sweep));
	pull_drop(server);
	sweep_drop(server);
	server->failures++;
	server->not_before = Max(asked, TimestampTzPlusMilliseconds(now, kapture_pacing_backoff(server->failures, PULL_LONGEST)));
	if (server->failures == 1)
		ereport(LOG,
				(errmsg("kapture_sync: pulling from server \"%s\" failed: %s", server->name, kapture_text_cut(error->message))));
	another = kapture_guard_transaction(pull_note_failure, &failure);
	if (another)
	{
		puller_report_error(KAPTURE_PHASE_PULL, another);
		FreeErrorData(another);
	}
	else
		(void) kapture_guard_report_end(KAPTURE_PULLER, KAPTURE_PHASE_PULL, 0);
}

/* Where a pull begins: an overlap before the watermark. */
static Timestamp
pull_start(const PullServer *server, TimestampTz pulled_until, pg_tz *zone, Timestamp end)
{
	Timestamp	start = kapture_local_whole_seconds(kapture_local_since(pulled_until - server->overlap, zone));

	return Min(start, end - USECS_PER_SEC);
}

/* Begins a pull.  False: somebody else refreshes the server just now. */
static bool
pull_begin(PullServer *server)
{
	TimestampTz now = GetCurrentTimestamp();
	pg_tz	   *zone = kapture_local_zone(server->timezone);
	MemoryContext context;
	KapturePullState state;
	PullRun    *run;
	Timestamp	start;

	puller_begin("beginning a pull");
	if (!kapture_copies_lock(server->serverid))
	{
		puller_commit();
		return false;
	}
	context = AllocSetContextCreate(puller_context, "kapture_sync pull", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	run = server->run = palloc0(sizeof(PullRun));
	run->context = context;
	run->began = now;
	kapture_binding_hold_copies(GetForeignServer(server->serverid));
	kapture_pull_state_read(server->name, &state);
	run->pulled_until = state.pulled_until;
	if (run->pulled_until == DT_NOBEGIN)
		run->pulled_until = server->since != 0 ?
			Min(kapture_local_earliest(server->since, zone) + server->overlap, now) : now;
	run->end = kapture_local_whole_seconds(kapture_local_until(now, zone));
	start = pull_start(server, run->pulled_until, zone, run->end);
	run->fetch = kapture_fetch_pull(server->name, server->owner, start, run->end);
	run->copies = kapture_copies_create(get_rel_namespace(puller_installation), server->name, server->timezone);
	kapture_pull_state_begin(server->name, run->pulled_until, start, run->end);
	server->next = now + server->interval;
	puller_commit();
	return true;
}

/* Writes a window as the owner of the tables, and moves the watermark. */
static void
pull_window(PullServer *server, const KaptureWindow *window)
{
	PullRun    *run = server->run;
	KaptureCopied copied;
	TimestampTz pulled_until;
	Oid			userid;
	int			sec_context;
	pg_tz	   *zone = kapture_local_zone(server->timezone);

	puller_begin("writing pulled customers");
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(kapture_own_role(),
						   sec_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	SPI_connect();
	kapture_clock_start(KAPTURE_COPIES_LIMIT);
	kapture_copies_write(run->copies, window->list, window->asked, &copied);
	(void) kapture_clock_stop();
	SPI_finish();
	SetUserIdAndSecContext(userid, sec_context);

	pulled_until = kapture_pull_watermark(run->pulled_until,
										  kapture_local_earliest(window->from, zone),
										  kapture_local_earliest(window->to, zone),
										  run->began, copied.newest, window->to >= run->end);
	kapture_pull_state_window(server->name, pulled_until, window->to,
							  kapture_fetch_windows_left(run->fetch, window->to),
							  copied.seen, copied.written);
	puller_commit();
	run->pulled_until = pulled_until;
	puller_look();
}

static void
pull_end(PullServer *server)
{
	pull_drop(server);
	puller_begin("ending a pull");
	kapture_pull_state_end(server->name, server->next);
	puller_commit();
	if (server->failures > 0)
		ereport(LOG,
				(errmsg("kapture_sync: pulling from server \"%s\" works again", server->name)));
	server->failures = 0;
	server->not_before = 0;
}

/* Goes on with a server as far as it can without waiting. */
static void
pull_step(void *arg)
{
	PullServer *server = arg;
	TimestampTz now = GetCurrentTimestamp();
	const KaptureWindow *window;

	if (server->run == NULL)
	{
		if (server->interval == 0 || Max(server->next, server->not_before) > now)
			return;
		if (!pull_begin(server))
		{
			server->not_before = TimestampTzPlusMilliseconds(now, PULL_BUSY_RETRY);
			return;
		}
	}
	switch (kapture_fetch_poll(server->run->fetch, &window, &server->run->when))
	{
		case KAPTURE_FETCH_WINDOW:
			pull_window(server, window);
			server->run->when = 0;	/* others first, but then at once */
			break;
		case KAPTURE_FETCH_END:
			pull_end(server);
			break;
		case KAPTURE_FETCH_WAIT:
			break;
	}
}

/* Begins a sweep, or goes on with one that was interrupted. */
static void
sweep_start(PullServer *server)
{
	KapturePullServer wanted = {server->serverid, server->owner, server->name};
	KapturePullState state;
	Oid			namespace;

	puller_begin("beginning a sweep");
	kapture_binding_hold_copies(GetForeignServer(server->serverid));
	kapture_pull_state_read(server->name, &state);
	if (!state.sweeping)
		kapture_pull_state_sweep(server->name, true);
	namespace = get_rel_namespace(puller_installation);
	puller_commit();
	server->sweep = kapture_sweep_create(&wanted, namespace, server->timezone,
										 server->sweep_rate, state.sweeping ? state.sweep_after : 0);
	if (!state.sweeping)
		server->next_sweep = GetCurrentTimestamp() + server->sweep_interval;
}

/* Goes on with a server's sweep as far as it can without waiting. */
static void
sweep_step(void *arg)
{
	PullServer *server = arg;
	bool		wrote;

	if (server->sweep_interval == 0)
		return;
	if (server->sweep == NULL)
	{
		if (Max(server->next_sweep, server->not_before) > GetCurrentTimestamp())
			return;
		sweep_start(server);
	}
	if (kapture_sweep_step(server->sweep, &server->sweep_when, &wrote))
	{
		if (wrote)
			puller_look();
		return;
	}
	sweep_drop(server);
	puller_begin("ending a sweep");
	kapture_pull_state_sweep(server->name, false);
	puller_commit();
	server->failures = 0;
}

/* Something may have arrived for the tables. */
static void
puller_look(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &puller_tables)
		dlist_container(PullTable, node, iter.cur)->next_due = 0;
}

/* Brings customers into a table that is open; returns when the next is due. */
static TimestampTz
table_apply(PullTable *table, Relation rel, KaptureAttachment *att)
{
	int			limit = table->limit > 0 ? Min(table->limit, table->batch) : table->batch;
	Oid			owner = GetForeignServerByName(att->server, false)->owner;
	char	   *timezone = pstrdup(kapture_server_get(att->server, owner)->timezone);
	char	   *problem;
	List	   *arrivals;
	bool		more;

	/* what is pulled with an owner's key is not for others' eyes */
	if (!has_privs_of_role(rel->rd_rel->relowner, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("the owner of table \"%s\" has not the rights of the owner of server \"%s\"",
						RelationGetRelationName(rel), att->server)));
	problem = kapture_binding_problem(att);
	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_internal("%s", problem)));
	arrivals = kapture_inbox_take(att, limit, &more);
	table->ncustomers = list_length(arrivals);
	if (table->ncustomers == 1)
		table->customer_id = ((KaptureArrival *) linitial(arrivals))->customer_id;
	if (arrivals != NIL)
	{
		TimestampTz began = GetCurrentTimestamp();
		int			n = kapture_arrival_apply(att, timezone, arrivals);

		more |= n < list_length(arrivals);
		if (kapture_share_charge(table->share, &table->turn, began, n))
			table->batch = (int) Max(n * PULL_SLOW_BATCH / (GetCurrentTimestamp() - began), 1);
		else
			table->batch = Min(table->batch * 2, PULL_BATCH);
	}
	if (more)
		return 0;
	/* what is due is locked by somebody */
	return Max(kapture_inbox_next_due(att->id),
			   TimestampTzPlusMilliseconds(GetCurrentTimestamp(), arrivals == NIL ? KAPTURE_LOCKED_RETRY : 0));
}

/* Notes whose a table is; InvalidOid: nobody's any more. */
static void
table_join(PullTable *table, Oid owner)
{
	if (table->share && table->share->owner == owner)
		return;
	if (table->share)
		kapture_share_leave(table->share);
	table->share = OidIsValid(owner) ? kapture_share_join(owner) : NULL;
}

/* Goes on with a table by a batch, unless somebody has locked it. */
static void
table_step(void *arg)
{
	static MemoryContext context = NULL;
	PullTable  *table = arg;
	Relation	rel = NULL;
	KaptureAttachment *att = NULL;

	/* an error may have left something of the last one */
	if (context == NULL)
		context = AllocSetContextCreate(puller_context, "kapture_sync arrivals", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(context);
	table->ncustomers = 0;
	puller_begin("writing rows of an attached table");
	if (!ConditionalLockRelationOid(table->relid, AccessShareLock))
		table->next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY);
	else if ((rel = try_relation_open(table->relid, NoLock)) == NULL)
		table->next_due = DT_NOEND; /* dropped; the worker forgets it */
	else
	{
		MemoryContextSwitchTo(context);
		att = kapture_catalog_attachment(rel);
		table->next_due = DT_NOEND;
		if (att)
			table->attachment_id = att->id;
		table_join(table, rel->rd_rel->relowner);
		if (att && att->pull && !att->paused)
			table->next_due = table_apply(table, rel, att);
		relation_close(rel, NoLock);
	}
	puller_commit();
	MemoryContextReset(context);
}

/* A customer that cannot become a row, and why. */
typedef struct PullPoison
{
	PullTable  *table;
	const ErrorData *error;
} PullPoison;

static void
table_do_park(void *arg)
{
	PullPoison *poison = arg;

	puller_begin("parking a customer");
	kapture_inbox_park(poison->table->attachment_id, poison->table->customer_id,
					   kapture_guard_message(poison->error));
	puller_commit();
}

/* Notes an error of a table's. */
static void
table_report_error(PullTable *table, const ErrorData *error)
{
	char	   *message = kapture_guard_message(error);
	char	   *customer = table->ncustomers == 1 ? psprintf(INT64_FORMAT, table->customer_id) : NULL;

	kapture_guard_report(KAPTURE_PULLER, KAPTURE_PHASE_APPLY, table->attachment_id, customer, message);
	table->in_trouble = true;
	pfree(message);
	if (customer)
		pfree(customer);
}

/*
 * A batch of customers failed: the next ones are smaller, until the one that is to
 * blame is parked.  An error of the table as a whole is tried again after a while.
 */
static void
table_fail(PullTable *table, const ErrorData *error)
{
	PullPoison	poison = {table, error};
	bool		will_pass = kapture_guard_will_pass(error);
	ErrorData  *another = NULL;

	table->next_due = 0;
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
	{
		table->next_due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY);
		return;
	}
	table_report_error(table, error);
	if (table->ncustomers > 1 && !will_pass)
	{
		table->limit = table->ncustomers / 2;
		return;
	}
	if (table->ncustomers == 1 && table->suspect != table->customer_id)
	{
		table->suspect = table->customer_id;
		table->limit = 1;
		return;
	}
	if (table->ncustomers == 1 && !will_pass)
	{
		another = kapture_guard_transaction(table_do_park, &poison);
		if (another == NULL)
			return;
		table_report_error(table, another);
		FreeErrorData(another);
	}
	table->not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													kapture_pacing_backoff(++table->errors, PULL_TABLE_RETRY));
}

/* Runs a table's step. */
static void
puller_run_table(PullTable *table)
{
	TimestampTz began = GetCurrentTimestamp();
	ErrorData  *error = kapture_guard_transaction(table_step, table);

	if (error)
	{
		kapture_capture_ignore(0, 0, 0);
		if (table->share)
			(void) kapture_share_charge(table->share, &table->turn, began, 0);
		table_fail(table, error);
		FreeErrorData(error);
		return;
	}
	table->errors = 0;
	if (table->limit > 0)
		table->limit = table->limit * 2 < PULL_BATCH ? table->limit * 2 : 0;
	if (table->in_trouble)
	{
		table->in_trouble = false;
		(void) kapture_guard_report_end(KAPTURE_PULLER, KAPTURE_PHASE_APPLY, table->attachment_id);
		/* it may have failed before that was known */
		(void) kapture_guard_report_end(KAPTURE_PULLER, KAPTURE_PHASE_APPLY, 0);
	}
}

/* Runs a step; an error is the server's alone. */
static void
puller_run(KaptureGuarded step, PullServer *server)
{
	ErrorData  *error = kapture_guard_transaction(step, server);

	if (error)
	{
		pull_fail(server, error);
		FreeErrorData(error);
	}
}

/* ------------------------------------------------------------------------
 * Servers
 * ------------------------------------------------------------------------
 */

static PullServer *
puller_find_server(const KapturePullServer *wanted)
{
	dlist_iter	iter;
	PullServer *server;

	dlist_foreach(iter, &puller_servers)
	{
		server = dlist_container(PullServer, node, iter.cur);
		if (server->serverid == wanted->serverid && server->owner == wanted->owner &&
			strcmp(server->name, wanted->name) == 0)
			return server;
	}
	server = MemoryContextAllocZero(puller_context, sizeof(PullServer));
	server->name = MemoryContextStrdup(puller_context, wanted->name);
	server->serverid = wanted->serverid;
	server->owner = wanted->owner;
	dlist_push_tail(&puller_servers, &server->node);
	return server;
}

/*
 * Takes in a server's settings.  A pull under way goes on if they do not change
 * what it asks for.
 */
static void
pull_configure(void *arg)
{
	PullServer *server = arg;
	const KaptureServer *settings;
	KapturePullState state;

	server->interval = server->sweep_interval = 0;	/* if they are of no use, until they change */
	puller_begin("reading settings");
	settings = kapture_server_get(server->name, server->owner);
	if (server->timezone == NULL || strcmp(server->timezone, settings->timezone) != 0 ||
		server->window != settings->pull_window || settings->pull_interval == 0)
		pull_drop(server);
	if (server->timezone)
		pfree(server->timezone);
	server->timezone = MemoryContextStrdup(puller_context, settings->timezone);
	server->interval = settings->pull_interval * USECS_PER_SEC;
	server->overlap = settings->pull_overlap * USECS_PER_SEC;
	server->since = settings->pull_since;
	server->window = settings->pull_window;
	server->sweep_interval = settings->sweep_interval * USECS_PER_SEC;
	server->sweep_rate = settings->sweep_rate;
	sweep_drop(server);
	kapture_pull_state_read(server->name, &state);
	server->next = state.started_at == DT_NOBEGIN ? 0 : state.started_at + server->interval;
	server->failures = state.failures;
	server->next_sweep = state.sweeping || state.sweep_started_at == DT_NOBEGIN ? 0 :
		state.sweep_started_at + server->sweep_interval;
	puller_commit();
}

static void
puller_forget_server(PullServer *server)
{
	pull_drop(server);
	sweep_drop(server);
	dlist_delete(&server->node);
	if (server->timezone)
		pfree(server->timezone);
	pfree(server->name);
	pfree(server);
}

/* Is this database still the one whose customers these are? */
static void
puller_check_origin(void)
{
	static bool said = false;
	bool		copy = kapture_origin_check().state == KAPTURE_ORIGIN_COPY;

	if (copy && !said)
		ereport(LOG,
				(errmsg("kapture_sync: this database is a copy; nothing is pulled"),
				 errhint("If the original pulls no more, call kapture_resume().")));
	said = copy;
	puller_ours = !copy;
}

static PullTable *
puller_find_table(Oid relid)
{
	dlist_iter	iter;
	PullTable  *table;

	dlist_foreach(iter, &puller_tables)
	{
		table = dlist_container(PullTable, node, iter.cur);
		if (table->relid == relid)
			return table;
	}
	table = MemoryContextAllocZero(puller_context, sizeof(PullTable));
	table->relid = relid;
	table->batch = PULL_BATCH;
	dlist_push_tail(&puller_tables, &table->node);
	return table;
}

/* Reads which tables take customers. */
static void
puller_load_tables(void)
{
	dlist_mutable_iter iter;
	ListCell   *lc;

	List	   *relids = kapture_inbox_tables();

	dlist_foreach_modify(iter, &puller_tables)
		dlist_container(PullTable, node, iter.cur)->present = false;
	foreach(lc, relids)
		puller_find_table(lfirst_oid(lc))->present = true;
	dlist_foreach_modify(iter, &puller_tables)
	{
		PullTable  *table = dlist_container(PullTable, node, iter.cur);

		table->next_due = 0;
		if (table->present)
			continue;
		if (table->in_trouble)
			kapture_shmem_report_trouble(KAPTURE_PULLER, table->attachment_id, NULL);
		table_join(table, InvalidOid);
		dlist_delete(&table->node);
		pfree(table);
	}
}

/* Reads anew what is to be done, and says whether anything is. */
static void
puller_do_load(void *arg)
{
	bool	   *any = arg;
	dlist_mutable_iter iter;
	ListCell   *lc;
	Oid			installation;
	char	   *version;

	*any = false;
	puller_begin("reading servers");
	puller_stale = false;
	puller_next_load = DT_NOEND;
	installation = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	version = kapture_version_installed();
	if (version == NULL || kapture_version_compare(version) != 0 || !OidIsValid(installation))
	{
		puller_commit();
		return;
	}
	if ((OidIsValid(puller_installation) && installation != puller_installation) ||
		kapture_guc_database_is_excluded(get_database_name(MyDatabaseId)))
		kapture_process_exit(KAPTURE_EXIT_ASKED);
	puller_installation = installation;
	puller_check_origin();
	kapture_pull_state_tidy();
	puller_load_tables();
	*any = kapture_inbox_any();
	dlist_foreach_modify(iter, &puller_servers)
		dlist_container(PullServer, node, iter.cur)->present = false;
	foreach(lc, kapture_pull_servers())
	{
		puller_find_server(lfirst(lc))->present = true;
		*any = true;
	}
	puller_commit();

	dlist_foreach_modify(iter, &puller_servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (!server->present)
			puller_forget_server(server);
	}
}

/*
 * Likewise.  False: nothing is.  What cannot be read, as somebody has locked
 * something or for another reason, is tried again after a while.
 */
static bool
puller_load(void)
{
	bool		any = true;
	ErrorData  *error = kapture_guard_transaction(puller_do_load, &any);

	if (error == NULL)
	{
		puller_errors = 0;
		puller_load_not_before = 0;
		(void) kapture_guard_report_end(KAPTURE_PULLER, KAPTURE_PHASE_LOAD, 0);
		return any;
	}
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		puller_next_load = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY);
	else
	{
		puller_report_error(KAPTURE_PHASE_LOAD, error);
		puller_stale = true;
		puller_load_not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															 kapture_pacing_backoff(++puller_errors, PULL_TABLE_RETRY));
	}
	FreeErrorData(error);
	return true;
}

/* Takes in the settings of all servers; what was changed may be what was wrong. */
static void
puller_configure(void)
{
	bool		changed = puller_settings_changed;
	dlist_iter	iter;

	puller_settings_changed = false;
	dlist_foreach(iter, &puller_servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (changed)
			server->not_before = 0;
		puller_run(pull_configure, server);
	}
}

/* ------------------------------------------------------------------------
 * The loop
 * ------------------------------------------------------------------------
 */

/* When a table may be gone on with, at the earliest. */
static TimestampTz
puller_table_turn(PullTable *table)
{
	TimestampTz turn = Max(table->turn, table->not_before);

	return table->share ? Max(turn, table->share->turn) : turn;
}

/* When something is to be pulled or written. */
static TimestampTz
puller_next_work(void)
{
	TimestampTz next = DT_NOEND;
	dlist_iter	iter;

	dlist_foreach(iter, &puller_servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (server->run)
			next = Min(next, server->run->when);
		else if (server->interval > 0)
			next = Min(next, Max(server->next, server->not_before));
		if (server->sweep)
			next = Min(next, server->sweep_when);
		else if (server->sweep_interval > 0)
			next = Min(next, Max(server->next_sweep, server->not_before));
	}
	dlist_foreach(iter, &puller_tables)
	{
		PullTable  *table = dlist_container(PullTable, node, iter.cur);

		next = Min(next, Max(table->next_due, puller_table_turn(table)));
	}
	return next;
}

/* Milliseconds until something is to be done by itself, -1: nothing is. */
static long
puller_timeout(void)
{
	TimestampTz next = puller_next_load;

	if (puller_stale)
		next = puller_load_not_before;
	else if (kapture_enabled && puller_ours)
		next = Min(next, puller_next_work());
	return kapture_process_wait_until(next);
}

/* Says in pg_stat_activity what is under way. */
static void
puller_report_activity(void)
{
	char		text[256] = "waiting for the next pull";
	int			len = 0;
	dlist_iter	iter;

	if (!pgstat_track_activities)
		return;
	dlist_foreach(iter, &puller_servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (server->run && len < (int) sizeof(text))
			len += snprintf(text + len, sizeof(text) - len, "%spulling from server \"%s\"",
							len > 0 ? ", " : "", server->name);
	}
	pgstat_report_activity(len > 0 ? STATE_RUNNING : STATE_IDLE, text);
}

/* Serves the network until something is to be done. */
static void
puller_wait(long timeout)
{
	dlist_iter	iter;

	puller_report_activity();
	(void) kapture_http_wait(kapture_process_timeout(timeout), WaitEventExtensionNew("KapturePullerMain"));
	dlist_foreach(iter, &puller_servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (server->run)
			kapture_fetch_served(server->run->fetch);
		if (server->sweep)
			kapture_sweep_served(server->sweep);
	}
}

/*
 * The table to go on with: of those whose turn it is, one of the owner who had
 * the least so far.  NULL: this round is over.
 */
static PullTable *
puller_next_table(uint64 round, TimestampTz now)
{
	PullTable  *next = NULL;
	int64		least = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &puller_tables)
	{
		PullTable  *table = dlist_container(PullTable, node, iter.cur);
		int64		served = table->share ? table->share->served : 0;

		if (table->round == round || table->next_due > now || puller_table_turn(table) > now)
			continue;
		if (next && (served > least || (served == least && table->round >= next->round)))
			continue;
		next = table;
		least = served;
	}
	return next;
}

/* Goes on with tables, for a while. */
static void
puller_work_tables(void)
{
	static uint64 round = 0;
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;
	PullTable  *table;

	round++;
	while (now < TimestampTzPlusMilliseconds(began, PULL_TABLES_TIME) &&
		   (table = puller_next_table(round, now)) != NULL)
	{
		table->round = round;
		if (table->share)
			kapture_share_pick(table->share);
		puller_run_table(table);
		now = GetCurrentTimestamp();
	}
}

/* Goes on with all servers.  Nothing of a copy's, nor while it is switched off. */
static void
puller_work(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &puller_servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (kapture_enabled && puller_ours)
		{
			puller_run(pull_step, server);
			puller_run(sweep_step, server);
		}
		else
		{
			pull_drop(server);
			sweep_drop(server);
		}
	}
	if (kapture_enabled && puller_ours)
		puller_work_tables();
}

static void
puller_initialize(Datum arg)
{
	kapture_process_initialize(arg);
	kapture_process_count();
	puller_context = AllocSetContextCreate(TopMemoryContext, "kapture_sync puller",
										   ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(puller_context);
	CacheRegisterRelcacheCallback(puller_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, puller_syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, puller_syscache_callback, (Datum) 0);
	kapture_process_lock_database(KAPTURE_PULLER);
}

/* Does once all that is to be done, and waits for more. */
static void
puller_pass(void *arg)
{
	long		timeout;

	CHECK_FOR_INTERRUPTS();
	if (kapture_shmem_worker_must_leave())
		kapture_process_exit(KAPTURE_EXIT_ASKED);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		puller_stale = true;	/* exclusions may have changed */
	}
	if (kapture_shmem_worker_take_work())
	{
		StartTransactionCommand();	/* takes in invalidation messages */
		CommitTransactionCommand();
		MemoryContextSwitchTo(puller_context);
		puller_look();
	}
	puller_stale |= puller_next_load <= GetCurrentTimestamp();
	if (puller_stale && puller_load_not_before <= GetCurrentTimestamp())
	{
		if (!puller_load())
			kapture_process_exit(KAPTURE_EXIT_ABSENT);

		/* where a dump is being restored, servers are there before mappings */
		if (puller_ours && !puller_stale)
			puller_configure();
	}
	if (puller_load_not_before == 0)
		puller_work();

	timeout = puller_timeout();
	if (timeout != 0)
		puller_wait(timeout);
}

/*
 * A puller's main function, called by the postmaster; the launcher has put slot,
 * database and generation into the arguments.
 */
void
kapture_puller_main(Datum arg)
{
	int			errors = 0;

	puller_initialize(arg);
	kapture_shmem_worker_running();
	ereport(LOG, (errmsg("%s started", MyBgworkerEntry->bgw_name)));

	for (;;)
	{
		ErrorData  *error = kapture_guard_transaction(puller_pass, NULL);

		if (error == NULL)
		{
			if (errors > 0)
				(void) kapture_guard_report_end(KAPTURE_PULLER, KAPTURE_PHASE_LOOP, 0);
			errors = 0;
			continue;
		}
		/* none of what is guarded by itself */
		puller_report_error(KAPTURE_PHASE_LOOP, error);
		FreeErrorData(error);
		kapture_process_rest(kapture_pacing_backoff(++errors, PULL_TABLE_RETRY),
							 WaitEventExtensionNew("KapturePullerMain"));
		puller_stale = true;
	}
}
