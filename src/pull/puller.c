/*
 * puller.c
 *		The process that pulls customers of one database from Kapture automatically.
 *
 * It runs only where a server has option pull_interval or sweep_interval or a table
 * takes pulled customers, and beside the worker that sends changes, so that neither
 * keeps the other waiting.  Servers do not wait for each other: their owners take
 * turns, each server is pulled from as far as is possible without waiting
 * (pull_server.c), then attached tables get the customers that have arrived for them
 * (pull_table.c), then the network is served.
 *
 * Everything that must survive is in kapture_pull and kapture_inbox, so that the next
 * puller goes on from there after a crash.
 */
#include "postgres.h"

#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "api/http.h"
#include "api/server.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/version.h"
#include "cluster/bgworker.h"
#include "pull/pull_server.h"
#include "pull/pull_state.h"
#include "pull/pull_table.h"
#include "pull/puller.h"
#include "queue/inbox.h"
#include "table/origin.h"
#include "traffic/limiter.h"
#include "traffic/pacing.h"

/* Milliseconds of writing to tables after which servers get their turn, and the other way round. */
#define PULLER_TABLES_TIME	100
#define PULLER_SERVERS_TIME	100

/* Microseconds that reading servers may take; after longer, other work gets PULLER_LOAD_REST times as long. */
#define PULLER_LOAD_FREE	INT64CONST(20000)
#define PULLER_LOAD_REST	3

/* Milliseconds between two tries after an error, at most. */
#define PULLER_LONGEST		60000

/* The state of the puller.  There is one in a process. */
typedef struct Puller
{
	MemoryContext context;		/* what lives as long as the process */
	dlist_head	servers;		/* PullServer */
	dlist_head	tables;			/* PullTable */
	uint64		round;			/* of tables' turns */
	uint64		server_round;	/* of servers' turns */
	Oid			installation;	/* OID of the table kapture_attachment */
	bool		ours;			/* the database is no copy */
	bool		said_copy;		/* the log says that the database is a copy */
	bool		any;			/* there is something to pull, or to write */
	bool		stale;			/* servers or attachments may have changed */
	bool		settings_changed;	/* servers or mappings may have changed */
	int			load_errors;	/* in a row, of reading servers and attachments */
	TimestampTz load_not_before;	/* no reading before: after errors, or as other work has its turn first */
	TimestampTz next_load;		/* when to read again what was locked */
} Puller;

static void
puller_relcache_callback(Datum arg, Oid relid)
{
	Puller	   *puller = (Puller *) DatumGetPointer(arg);

	if (!OidIsValid(relid) || relid == puller->installation)
		puller->stale = true;
}

static void
puller_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	Puller	   *puller = (Puller *) DatumGetPointer(arg);

	puller->stale = puller->settings_changed = true;
}

/* Makes all tables due, as customers may have arrived for them. */
static void
puller_look(Puller *puller)
{
	dlist_iter	iter;

	dlist_foreach(iter, &puller->tables)
		dlist_container(PullTable, node, iter.cur)->next_due = 0;
}

/* Makes those tables due about which something was announced. */
static void
puller_look_announced(Puller *puller)
{
	dlist_iter	iter;

	dlist_foreach(iter, &puller->tables)
	{
		PullTable  *table = dlist_container(PullTable, node, iter.cur);

		if (kapture_shmem_worker_is_announced(table->attachment_id))
			table->next_due = 0;
	}
}

/* ------------------------------------------------------------------------
 * Servers and tables
 * ------------------------------------------------------------------------
 */

static PullServer *
puller_find_server(Puller *puller, const KapturePullServer *wanted)
{
	MemoryContext old;
	dlist_iter	iter;
	PullServer *server;

	dlist_foreach(iter, &puller->servers)
	{
		server = dlist_container(PullServer, node, iter.cur);
		if (server->server.serverid == wanted->serverid && server->server.owner == wanted->owner &&
			strcmp(server->server.name, wanted->name) == 0)
			return server;
	}
	old = MemoryContextSwitchTo(puller->context);
	server = kapture_pull_server_create(wanted);
	MemoryContextSwitchTo(old);
	dlist_push_tail(&puller->servers, &server->node);
	return server;
}

static PullTable *
puller_find_table(Puller *puller, const KaptureAttached *attached)
{
	MemoryContext old;
	dlist_iter	iter;
	PullTable  *table;

	dlist_foreach(iter, &puller->tables)
	{
		table = dlist_container(PullTable, node, iter.cur);
		if (table->attachment_id == attached->id)
			return table;
	}
	old = MemoryContextSwitchTo(puller->context);
	table = kapture_pull_table_create(attached);
	MemoryContextSwitchTo(old);
	dlist_push_tail(&puller->tables, &table->node);
	return table;
}

/* Finds out whether this database is a copy of the one that pulls. */
static void
puller_check_origin(Puller *puller)
{
	bool		copy = kapture_origin_check().state == KAPTURE_ORIGIN_COPY;

	if (copy && !puller->said_copy)
		ereport(LOG,
				(errmsg("kapture_sync: database \"%s\" is a copy; nothing is pulled", kapture_process_database()),
				 errhint("If the original pulls no more, call kapture_resume().")));
	puller->said_copy = copy;
	puller->ours = !copy;
}

/* Reads which tables take customers. */
static void
puller_load_tables(Puller *puller)
{
	dlist_mutable_iter iter;
	ListCell   *lc;

	dlist_foreach_modify(iter, &puller->tables)
		dlist_container(PullTable, node, iter.cur)->present = false;
	foreach(lc, kapture_inbox_tables(NULL))
		puller_find_table(puller, lfirst(lc))->present = true;
	dlist_foreach_modify(iter, &puller->tables)
	{
		PullTable  *table = dlist_container(PullTable, node, iter.cur);

		if (table->present)
			continue;
		dlist_delete(&table->node);
		kapture_pull_table_forget(table);
	}
}

/* Reads which servers are to be pulled from. */
static void
puller_load_servers(Puller *puller)
{
	dlist_mutable_iter iter;
	ListCell   *lc;

	dlist_foreach_modify(iter, &puller->servers)
		dlist_container(PullServer, node, iter.cur)->present = false;
	foreach(lc, kapture_pull_servers())
	{
		puller_find_server(puller, lfirst(lc))->present = true;
		puller->any = true;
	}
}

/* Drops servers that are not to be pulled from any more. */
static void
puller_forget_servers(Puller *puller)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &puller->servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (server->present)
			continue;
		dlist_delete(&server->node);
		kapture_pull_server_forget(server);
	}
}

/* Reads servers and tables anew, and whether there is anything to do. */
static void
puller_do_load(void *arg)
{
	Puller	   *puller = arg;
	char	   *version;

	puller->any = false;
	puller->stale = false;
	puller->next_load = DT_NOEND;
	kapture_process_require_installation(&puller->installation);
	version = kapture_version_installed();
	if (version == NULL || kapture_version_compare(version) != 0 || !OidIsValid(puller->installation))
		return;
	puller_check_origin(puller);
	kapture_pull_state_tidy();
	puller_load_tables(puller);
	puller->any = kapture_inbox_any();
	puller_load_servers(puller);
}

/*
 * Reads what is to be pulled.  Returns false if there is nothing.  If reading fails,
 * because of a lock or for another reason, it is tried again after a while.
 */
static bool
puller_load(Puller *puller)
{
	TimestampTz began = GetCurrentTimestamp();
	ErrorData  *error = kapture_process_run("reading servers", puller_do_load, puller);
	int64		taken = GetCurrentTimestamp() - began;

	if (error == NULL)
	{
		puller->load_errors = 0;
		puller->load_not_before = taken < PULLER_LOAD_FREE ? 0 : began + taken * (1 + PULLER_LOAD_REST);
		if (puller->any)
			puller_forget_servers(puller);
		kapture_process_report_success(KAPTURE_PHASE_LOAD, NULL, 0);
		return puller->any;
	}
	if (kapture_guard_is_lock(error))
		puller->next_load = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY);
	else
	{
		kapture_process_report_error(KAPTURE_PHASE_LOAD, NULL, 0, InvalidOid, NULL, error);
		puller->stale = true;
		puller->load_not_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															  kapture_pacing_backoff(++puller->load_errors, PULLER_LONGEST));
	}
	FreeErrorData(error);
	return true;
}

/* Makes all servers read their settings; if these have changed, servers that failed are tried again at once. */
static void
puller_configure(Puller *puller)
{
	bool		changed = puller->settings_changed;
	dlist_iter	iter;

	puller->settings_changed = false;
	dlist_foreach(iter, &puller->servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (changed)
			server->not_before = 0;
		kapture_pull_server_change(server);
	}
}

/* Reads what may have changed, if it is time for that. */
static void
puller_load_stale(Puller *puller)
{
	TimestampTz now = GetCurrentTimestamp();

	puller->stale |= puller->next_load <= now;
	if (!puller->stale || puller->load_not_before > now)
		return;
	if (!puller_load(puller))
		kapture_process_exit(KAPTURE_EXIT_ABSENT);

	/* not in a copy: while a dump is being restored, servers exist before their mappings */
	if (puller->ours && puller->load_errors == 0)
		puller_configure(puller);
}

/* ------------------------------------------------------------------------
 * The loop
 * ------------------------------------------------------------------------
 */

/* When something is to be pulled or written. */
static TimestampTz
puller_next_work(Puller *puller)
{
	TimestampTz next = DT_NOEND;
	dlist_iter	iter;

	dlist_foreach(iter, &puller->servers)
		next = Min(next, kapture_pull_server_next(dlist_container(PullServer, node, iter.cur)));
	dlist_foreach(iter, &puller->tables)
	{
		PullTable  *table = dlist_container(PullTable, node, iter.cur);

		next = Min(next, Max(table->next_due, kapture_turn_next(&table->turn)));
	}
	return next;
}

/* Milliseconds until something is to be done without being woken, -1: nothing is. */
static long
puller_timeout(Puller *puller)
{
	TimestampTz next = puller->next_load;

	if (puller->stale)
		next = puller->load_not_before;
	if (puller->load_errors == 0 && kapture_enabled && puller->ours)
		next = Min(next, puller_next_work(puller));
	return kapture_process_wait_until(next);
}

/* Reports in pg_stat_activity what is in flight. */
static void
puller_report_activity(Puller *puller)
{
	KaptureActivity activity = {0};
	dlist_iter	iter;

	dlist_foreach(iter, &puller->servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (server->run)
			kapture_process_note_activity(&activity, "pulling from server \"%s\"", server->server.name);
	}
	kapture_process_report_activity(&activity, "waiting for the next pull");
}

/* Serves the network until something is to be done. */
static void
puller_wait(Puller *puller, long timeout)
{
	dlist_iter	iter;

	puller_report_activity(puller);
	(void) kapture_http_wait(kapture_process_timeout(timeout), WaitEventExtensionNew("KapturePullerMain"));
	dlist_foreach(iter, &puller->servers)
		kapture_pull_server_served(dlist_container(PullServer, node, iter.cur));
}

/* The table to go on with, of those that may have a turn.  NULL: this round is over. */
static PullTable *
puller_next_table(Puller *puller, TimestampTz now)
{
	PullTable  *next = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &puller->tables)
	{
		PullTable  *table = dlist_container(PullTable, node, iter.cur);

		if (table->turn.round == puller->round || table->next_due > now || kapture_turn_next(&table->turn) > now)
			continue;
		if (next == NULL || kapture_turn_comes_before(&table->turn, &next->turn))
			next = table;
	}
	return next;
}

/* Gives tables their turns, for a while. */
static void
puller_work_tables(Puller *puller)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;
	PullTable  *table;

	puller->round++;
	while (now < TimestampTzPlusMilliseconds(began, PULLER_TABLES_TIME) &&
		   (table = puller_next_table(puller, now)) != NULL)
	{
		kapture_pull_table_work(table, puller->round);
		now = GetCurrentTimestamp();
	}
}

/*
 * The server to go on with, of those for which there is something to do: the one whose owner
 * had the least so far, or that has waited for longest.  NULL: there is none.
 */
static PullServer *
puller_next_server(Puller *puller, TimestampTz now)
{
	PullServer *next = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &puller->servers)
	{
		PullServer *server = dlist_container(PullServer, node, iter.cur);

		if (kapture_pull_server_next(server) > now)
			continue;
		if (next == NULL || kapture_turn_comes_before(&server->turn, &next->turn))
			next = server;
	}
	return next;
}

/* Gives servers their turns, for a while. */
static void
puller_work_servers(Puller *puller)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;
	PullServer *server;

	while (now < TimestampTzPlusMilliseconds(began, PULLER_SERVERS_TIME) &&
		   (server = puller_next_server(puller, now)) != NULL)
	{
		kapture_pull_server_work(server, ++puller->server_round);
		if (server->wrote)
			puller_look(puller);
		server->wrote = false;
		now = GetCurrentTimestamp();
	}
}

/* Goes on with all work; in a copy, or while the extension is switched off, stops all pulls instead. */
static void
puller_work(Puller *puller)
{
	dlist_iter	iter;

	if (kapture_enabled && puller->ours)
	{
		puller_work_servers(puller);
		puller_work_tables(puller);
		return;
	}
	dlist_foreach(iter, &puller->servers)
		kapture_pull_server_stop(dlist_container(PullServer, node, iter.cur));
}

static Puller *
puller_initialize(Datum arg)
{
	MemoryContext context = kapture_process_initialize(arg, KAPTURE_PULLER);
	Puller	   *puller = MemoryContextAllocZero(context, sizeof(Puller));

	kapture_limiter_enter_process(KAPTURE_LIMITER_PULLER);
	kapture_process_count();
	puller->context = context;
	dlist_init(&puller->servers);
	dlist_init(&puller->tables);
	puller->stale = true;
	puller->next_load = DT_NOEND;
	CacheRegisterRelcacheCallback(puller_relcache_callback, PointerGetDatum(puller));
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, puller_syscache_callback, PointerGetDatum(puller));
	CacheRegisterSyscacheCallback(USERMAPPINGOID, puller_syscache_callback, PointerGetDatum(puller));
	kapture_process_lock_database();
	kapture_http_share(true);
	return puller;
}

/* Does the work that is due once, and waits for more. */
static void
puller_pass(void *arg)
{
	Puller	   *puller = arg;
	bool		reloaded;
	bool		woken;

	kapture_process_take_in(&reloaded, &woken);
	puller->stale |= reloaded;	/* exclusions may have changed */
	if (reloaded)
		puller_look(puller);
	else if (woken)
		puller_look_announced(puller);
	puller_load_stale(puller);
	kapture_process_follow_clock(kapture_pull_state_shift, NULL, NULL);
	if (puller->load_errors == 0)
		puller_work(puller);

	/* answers are read here, however much there is to do */
	puller_wait(puller, puller_timeout(puller));
}

/* Called after an error outside of the steps that have a guard of their own. */
static void
puller_look_again(void *arg)
{
	((Puller *) arg)->stale = true;
	puller_look(arg);
}

static int64
puller_backoff(int errors)
{
	return kapture_pacing_backoff(errors, PULLER_LONGEST);
}

/*
 * A puller's main function, called by the postmaster; the launcher has put slot,
 * database and generation into the arguments.
 */
void
kapture_puller_main(Datum arg)
{
	static const KaptureProcessLoop loop = {puller_pass, puller_look_again, puller_backoff, "KapturePullerMain", NULL};

	kapture_process_run_loop(&loop, puller_initialize(arg));
}
