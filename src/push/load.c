/*
 * load.c
 *		Reads what is attached, and the settings of its servers.
 *
 * A table or server that cannot be read keeps its last description and is read again after
 * a while; it holds up no other.
 *
 * Somebody may have attached thousands of tables, which take seconds to be read.  So tables
 * are read a slice of LOAD_SLICE at a time, those of all owners in turn, and what is
 * waiting for the tables that are known by then is sent between two slices.
 */
#include "postgres.h"

#include "access/relation.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "api/http.h"
#include "api/server.h"
#include "base/catalog.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "base/version.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "push/call_sender.h"
#include "push/load.h"
#include "push/send.h"
#include "push/server_health.h"
#include "push/transaction.h"
#include "queue/delivery.h"
#include "queue/inbox.h"
#include "queue/scan.h"
#include "table/attach.h"
#include "table/binding.h"
#include "table/caches.h"
#include "table/clock.h"
#include "table/origin.h"
#include "traffic/pacing.h"

/*
 * If changes never end, reading them must not take all the time: after each reading, other
 * work gets LOAD_REST times as long, but at most LOAD_LONGEST_REST microseconds.
 */
#define LOAD_REST			4
#define LOAD_LONGEST_REST	INT64CONST(1000000)

/* Milliseconds for which tables are read in a transaction. */
#define LOAD_SLICE			100

/*
 * Only the tables that a change concerns wait until they have been read again, so that
 * somebody who makes changes all the time holds up nobody else.
 */
static void
load_relcache_callback(Datum arg, Oid relid)
{
	Worker	   *worker = (Worker *) DatumGetPointer(arg);
	dlist_iter	iter;

	/* our own tables change when something is attached or detached */
	if (!OidIsValid(relid) || relid == worker->installation)
		worker->stale = true;
	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		/* a view may be dropped together with what it reads, by a statement that does not name it */
		if (!OidIsValid(relid) || table->att->root == relid || list_member_oid(table->att->beside, relid))
			worker->stale = table->stale = true;
	}
}

static void
load_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	Worker	   *worker = (Worker *) DatumGetPointer(arg);
	dlist_iter	iter;

	worker->stale = worker->look_all = true;
	if (cacheid == USERMAPPINGOID)
		return;
	/* the owner of a server decides whether a table's rows may go there */
	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		table->stale |= hashvalue == 0 || table->server->hash == 0 || table->server->hash == hashvalue;
	}
}

/*
 * Memberships of roles, and superusers, decide who may use a server.  Rights that have ended are
 * noticed by whoever needs them; here it is about those that there may be again.
 */
static void
load_roles_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	Worker	   *worker = (Worker *) DatumGetPointer(arg);
	dlist_iter	iter;

	dlist_foreach(iter, &worker->servers)
		worker->stale |= dlist_container(WorkerServer, node, iter.cur)->problem != NULL;
	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->problem)
			worker->stale = table->stale = true;
	}
}

/*
 * Has changes of attachments, servers, user mappings and roles noticed.  To be called once, with a
 * worker that lives as long as the process.
 */
void
kapture_load_watch(Worker *worker)
{
	CacheRegisterRelcacheCallback(load_relcache_callback, PointerGetDatum(worker));
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, load_syscache_callback, PointerGetDatum(worker));
	CacheRegisterSyscacheCallback(USERMAPPINGOID, load_syscache_callback, PointerGetDatum(worker));
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, load_roles_callback, PointerGetDatum(worker));
	CacheRegisterSyscacheCallback(AUTHOID, load_roles_callback, PointerGetDatum(worker));
}

/* Finds out which servers attached tables go to, and withdraws what the others have reported. */
static void
load_used_servers(Worker *worker)
{
	dlist_iter	iter;
	dlist_mutable_iter miter;
	int			nused = 0;

	dlist_foreach(iter, &worker->servers)
		dlist_container(WorkerServer, node, iter.cur)->used = false;
	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->attached)
			table->server->used = true;
	}
	dlist_foreach_modify(miter, &worker->servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, miter.cur);

		nused += server->used ? 1 : 0;
		if (server->used)
			continue;
		kapture_shmem_withdraw_server(server->name, server->owner);
		server->notified = KAPTURE_STATE_OK;
		if (server->ntasks == 0 && server->ntables == 0)
			kapture_state_forget_server(server);
	}
	kapture_http_share(nused > 1 || kapture_calls_any());
}

static void
load_do_settings(void *arg)
{
	WorkerServer *server = arg;
	const KaptureServer *settings = kapture_server_get(server->name, server->owner);

	server->version = settings->version;
	server->hash = GetSysCacheHashValue1(FOREIGNSERVEROID, ObjectIdGetDatum(settings->serverid));
	server->max_connections = settings->max_connections;
	server->timeout = settings->timeout;
	server->rate_limit = settings->rate_limit;
	server->check_rows = settings->check_rows;
	server->add_is_upsert = settings->add_is_upsert;
	if (server->timezone)
		pfree(server->timezone);
	server->timezone = MemoryContextStrdup(server->worker->context, settings->timezone);
}

/*
 * Reads a server's settings; an error becomes the server's problem.  Returns whether the
 * settings of this server, not just those of another one, have changed.
 */
static bool
load_settings(Worker *worker, WorkerServer *server)
{
	uint64		version = server->version;
	ErrorData  *error = kapture_guard_step(load_do_settings, server);
	bool		changed;

	if (error && server->used && (server->problem == NULL || strcmp(error->message, server->problem) != 0))
		ereport(LOG,
				(errmsg("kapture_sync cannot use server \"%s\" in database \"%s\": %s",
						server->name, kapture_process_database(), error->message)));
	changed = version != server->version || error || server->problem;
	if (server->problem)
		pfree(server->problem);
	server->problem = error ? MemoryContextStrdup(worker->context, error->message) : NULL;
	if (error)
	{
		server->version = 0;
		server->hash = 0;
		FreeErrorData(error);
	}
	return changed;
}

/* Removes what attached tables that were dropped have left behind. */
static void
load_forget_dropped(void *arg)
{
	int64		changes;
	int64		tables = kapture_delivery_forget_dropped(&changes);

	if (tables == 0)
		return;
	kapture_attach_announce();	/* the puller has to know about it, too */
	ereport(LOG,
			(errmsg("kapture_sync: " INT64_FORMAT " attached tables of database \"%s\" were dropped, with " INT64_FORMAT " waiting changes",
					tables, kapture_process_database(), changes)));
}

/* Notes why a table's rows cannot be sent, as it may have lost something that this needs; then its rows wait. */
static void
load_problem(Worker *worker, WorkerTable *table)
{
	char	   *problem = kapture_binding_problem(table->att);

	if (problem && (table->problem == NULL || strcmp(problem, table->problem) != 0))
		ereport(LOG,
				(errmsg("kapture_sync sends no rows of database \"%s\": %s", kapture_process_database(), problem),
				 table->att->name[0] == '\0' ? 0 : errdetail("It is about attachment \"%s\" of table \"%s\".",
															 table->att->name, get_rel_name(table->att->root))));
	if (table->problem)
		pfree(table->problem);
	table->problem = problem ? MemoryContextStrdup(worker->context, problem) : NULL;
	table->present = problem == NULL;
}

/* Has attachments looked at again in a while, as somebody's lock is in the way. */
static void
load_later(Worker *worker)
{
	worker->next_load = Min(worker->next_load, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_LOCKED_LOOK));
}

/* Keeps the description of an attachment whose relation is locked, but reads whether the attachment is paused. */
static void
load_keep_table(Worker *worker, int32 attachment_id)
{
	WorkerTable *table = kapture_state_find_table(worker, attachment_id);

	if (table)
	{
		table->seen = table->attached = table->present = true;
		table->att->paused = kapture_catalog_is_paused(attachment_id);
	}
	load_later(worker);
}

/* An attachment, and whether its relation was dropped. */
typedef struct WorkerRelation
{
	Worker	   *worker;
	const KaptureAttached *attached;
	bool		dropped;
} WorkerRelation;

/* Brings the description of an attachment up to date. */
static void
load_table(void *arg)
{
	WorkerRelation *relation = arg;
	Worker	   *worker = relation->worker;
	Oid			relid = relation->attached->relid;
	Relation	rel;
	MemoryContext context;
	MemoryContext old;
	KaptureAttachment *att;
	WorkerTable *table;
	bool		is_new = false;

	kapture_caches_open(relid);
	/* a lock on one table must not hold up the others */
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
	{
		load_keep_table(worker, relation->attached->id);
		return;
	}
	rel = try_relation_open(relid, NoLock);
	if (rel == NULL)
	{
		UnlockRelationOid(relid, AccessShareLock);
		relation->dropped = true;
		return;
	}
	/* from here on, a change marks the table stale again */
	table = kapture_state_find_table(worker, relation->attached->id);
	if (table)
		table->stale = false;
	/* freed with the transaction after an error */
	context = AllocSetContextCreate(CurTransactionContext, "kapture_sync attachment", KAPTURE_ATTACHMENT_SIZES);
	old = MemoryContextSwitchTo(context);
	att = kapture_catalog_attachment_by_id(rel, relation->attached->id);
	MemoryContextSwitchTo(worker->context);
	if (att == NULL)
	{
		MemoryContextDelete(context);
		context = NULL;
	}
	else if (table == NULL)
	{
		table = MemoryContextAllocZero(worker->table_context, sizeof(WorkerTable));
		table->worker = worker;
		table->in_trouble = true;	/* an earlier worker may have left an error in kapture_status */
		kapture_turn_init(&table->turn, WORKER_MAX_BATCH);
		kapture_scan_init(&table->scan);
		kapture_scan_init(&table->keys);
		is_new = true;
	}
	if (context)
	{
		if (table->context)
			table->retired = lappend(table->retired, table->context);
		kapture_state_free_retired(table);
		MemoryContextSetParent(context, worker->context);
		table->context = context;
		table->att = att;
		if (is_new)
			kapture_state_add_table(worker, table);
		table->attached = table->seen = true;
		table->version = att->version;
		kapture_turn_join(&table->turn, rel->rd_rel->relowner);
		kapture_state_place_table(table, kapture_state_find_server(worker, att->server, rel->rd_rel->relowner));
		kapture_send_join(table->server);
		load_problem(worker, table);
		/* while the table was not present, or was paused, nobody has looked what waits */
		kapture_state_look_anew(table);
	}
	MemoryContextSwitchTo(old);
	relation_close(rel, AccessShareLock);
}

/* Finds out whether this database is the one that its outbox belongs to, or a copy. */
static void
load_origin(Worker *worker)
{
	KaptureOrigin origin = kapture_origin_check();
	bool		copy = origin.state == KAPTURE_ORIGIN_COPY && kapture_catalog_attached_relations() != NIL;
	dlist_iter	iter;

	if (copy && !worker->said_copy)
		ereport(LOG,
				(errmsg("kapture_sync: database \"%s\" is a copy; nothing is sent", kapture_process_database()),
				 errhint("If the original sends no more, call kapture_resume().")));
	worker->said_copy = copy;
	if (origin.state == KAPTURE_ORIGIN_OURS && !kapture_origin_make_salt())
		load_later(worker);
	if (origin.stamped_at != worker->origin.stamped_at)
	{
		MemoryContext transaction = MemoryContextSwitchTo(worker->context);

		/* the outbox may have come with transaction ids of another cluster */
		dlist_foreach(iter, &worker->tables)
		{
			kapture_scan_init(&dlist_container(WorkerTable, node, iter.cur)->scan);
			kapture_scan_init(&dlist_container(WorkerTable, node, iter.cur)->keys);
		}
		MemoryContextSwitchTo(transaction);
	}
	worker->origin = origin;
}

static void
load_recover_table(void *arg)
{
	WorkerTable *table = arg;
	TimestampTz in_doubt = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   table->server->timeout + KAPTURE_LATE_GRACE);

	kapture_delivery_recover(table->att->id, in_doubt,
							 kapture_clock_blame_text(kapture_shmem_worker_take_blame(table->att->id)), table->att->all_changed);
}

/*
 * Puts deliveries that an earlier worker left 'sending', of tables that are new to us, back
 * into the queue.  They are due once their requests can no longer be running.
 */
static void
load_recover(Worker *worker)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->recovered)
			continue;
		table->recovered = kapture_transaction_try_within(load_recover_table, table, table);
		if (table->recovered)
		{
			kapture_state_look_anew(table); /* what was put back is due some time */
			kapture_transaction_report_success(KAPTURE_PHASE_LOAD, table);
		}
		else
			load_later(worker);
	}
}

static void
load_outdated(void *arg)
{
	ListCell   *lc;

	foreach(lc, kapture_catalog_attached())
	{
		WorkerRelation relation = {arg, lfirst(lc), false};

		load_table(&relation);
	}
}

/*
 * Reports that the extension's version is not the library's, so that nothing can be sent.
 * Attachments are read as far as the installed version allows.
 */
static void
load_tell_outdated(Worker *worker, const char *installed)
{
	char	   *message = psprintf("the extension is of version %s, the library of version %s: %s",
								   installed, KAPTURE_SQL_VERSION, kapture_version_hint(installed));
	ErrorData  *error;
	dlist_iter	iter;

	if (!worker->outdated)
		ereport(LOG,
				(errmsg("kapture_sync sends nothing in database \"%s\": the extension is of version %s, the library of version %s",
						kapture_process_database(), installed, KAPTURE_SQL_VERSION),
				 errhint("%s", kapture_version_hint(installed))));
	worker->outdated = true;

	error = kapture_guard_step(load_outdated, worker);
	if (error)
		FreeErrorData(error);
	load_used_servers(worker);
	dlist_foreach(iter, &worker->servers)
		kapture_health_report(worker, dlist_container(WorkerServer, node, iter.cur), message);
}

/*
 * Reads an attached table; returns whether it was dropped.  A table that cannot be read
 * keeps its last description, and is tried again after a while.
 */
static bool
load_attached(Worker *worker, const KaptureAttached *attached, WorkerTable *table)
{
	WorkerRelation relation = {worker, attached, false};
	TimestampTz retry_at;

	if (table)
		table->stale = true;	/* until the table has been read */
	if (kapture_transaction_try_within(load_table, &relation, table))
	{
		if (table)
			kapture_transaction_report_success(KAPTURE_PHASE_LOAD, table);
		return relation.dropped;
	}
	/* Min() may evaluate its arguments twice: an error counts once */
	retry_at = kapture_transaction_retry_at(table ? ++table->turn.errors : 1);
	worker->next_load = Min(worker->next_load, retry_at);
	if (table)
	{
		table->seen = table->stale = true;
		table->turn.not_before = worker->next_load;
	}
	return false;
}

static void
load_do_refresh(void *arg)
{
	WorkerTable *table = arg;
	KaptureAttached attached = {.id = table->att->id,.relid = table->att->root,.name = table->att->name};

	(void) load_attached(table->worker, &attached, table);
}

/*
 * Reads a table anew whose description may be outdated, in a transaction of its own.
 * Returns whether changes may be claimed from it; if not, it is read with the others in a
 * while.
 */
bool
kapture_load_refresh(WorkerTable *table)
{
	Worker	   *worker = table->worker;
	ErrorData  *error = kapture_transaction_run(worker, "reading attachments", load_do_refresh, table);

	if (error)
	{
		kapture_transaction_report_error(KAPTURE_PHASE_LOAD, table, NULL, error);
		FreeErrorData(error);
		table->stale = true;
	}
	if (table->stale)
		load_later(worker);
	return !table->stale && table->attached && table->present && !table->att->paused;
}

/* An attachment that is to be read, and how many of its table's owner come before it. */
typedef struct LoadEntry
{
	const KaptureAttached *attached;
	Oid			owner;
	int			rank;
} LoadEntry;

static int
load_compare_owners(const void *a, const void *b)
{
	const LoadEntry *x = a;
	const LoadEntry *y = b;

	if (x->owner != y->owner)
		return x->owner < y->owner ? -1 : 1;
	return x->attached->id < y->attached->id ? -1 : x->attached->id > y->attached->id;
}

static int
load_compare_ranks(const void *a, const void *b)
{
	const LoadEntry *x = a;
	const LoadEntry *y = b;

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	return load_compare_owners(a, b);
}

/* Puts attachments in an order in which the owners of their tables take turns. */
static void
load_sort(LoadEntry *entries, int n)
{
	for (int i = 0; i < n; i++)
		entries[i].owner = kapture_catalog_owner(entries[i].attached->relid);
	qsort(entries, n, sizeof(LoadEntry), load_compare_owners);
	for (int i = 0; i < n; i++)
		entries[i].rank = i > 0 && entries[i].owner == entries[i - 1].owner ? entries[i - 1].rank + 1 : 0;
	qsort(entries, n, sizeof(LoadEntry), load_compare_ranks);
}

/*
 * Reads the list of attachments, and a slice of those tables that are new or have changed;
 * *dropped: a table of the list does not exist any more.
 */
static void
load_slice(Worker *worker, bool *dropped)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOAD_SLICE);
	List	   *list = kapture_catalog_attached();
	LoadEntry  *entries = palloc(sizeof(LoadEntry) * Max(list_length(list), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, list)
	{
		KaptureAttached *attached = lfirst(lc);
		WorkerTable *table = kapture_state_find_table(worker, attached->id);

		if (table)
			table->seen = true;
		if (table == NULL || table->stale || !table->attached ||
			!kapture_catalog_same_version(&table->version, &attached->version))
			entries[n++].attached = attached;
	}
	load_sort(entries, n);
	worker->unread = false;
	for (int i = 0; i < n; i++)
	{
		WorkerTable *table = kapture_state_find_table(worker, entries[i].attached->id);

		if (i == 0 || GetCurrentTimestamp() < end)
		{
			if (table)
				table->seen = false;
			*dropped |= load_attached(worker, entries[i].attached, table);
		}
		else
		{
			worker->unread = true;
			if (table)
				table->stale = true;
		}
	}
	worker->all_read |= !worker->unread;
}

/*
 * Spares tables the search for changes that they follow, if none follows any.  To be called
 * after tables were read: if one is followed later, tables are read anew.
 */
static void
load_followed(void *arg)
{
	Worker	   *worker = arg;
	dlist_iter	iter;

	if (kapture_own_text("SELECT 1 FROM @.kapture_follow LIMIT 1", 0, NULL, NULL) != NULL)
		return;
	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->stale)
			continue;
		table->att->unfollowed = true;
		if (table->follow_errors == 0)
			continue;
		/* the error ends with a claim, which may have been before */
		table->follow_errors = 0;
		kapture_state_look_anew(table);
	}
}

/* Has attachments follow their renamed servers, those that somebody has locked in a while. */
static void
load_names(void *arg)
{
	if (!kapture_binding_follow_names())
		load_later(arg);
}

/*
 * Brings what is known of attached tables up to date.  Those that are read are looked at;
 * "all": the others are, too.
 */
static void
load_tables(Worker *worker, bool all)
{
	bool		dropped = false;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &worker->tables)
		dlist_container(WorkerTable, node, iter.cur)->seen = false;
	if (!kapture_transaction_try_within(load_names, worker, NULL))
		load_later(worker);
	load_slice(worker, &dropped);
	dlist_foreach_modify(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (all)
			kapture_state_look_anew(table);
		if (table->seen)
			continue;
		table->attached = table->present = false;
		if (table->ntasks == 0)
			kapture_state_forget_table(table);
	}
	(void) kapture_transaction_try_within(load_followed, worker, NULL);
	load_used_servers(worker);
	if (dropped && worker->alone && !kapture_transaction_try_within(load_forget_dropped, NULL, NULL))
		load_later(worker);
}

/* Reads the settings of all servers. */
static void
load_servers(Worker *worker)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (load_settings(worker, server))
			kapture_health_renew(worker, server, GetCurrentTimestamp());
		kapture_health_report(worker, server, "");
	}
}

static void
load_calls(void *arg)
{
	if (!kapture_calls_load(arg))
		load_later(arg);
}

static void
load_find_pulls(void *arg)
{
	*(bool *) arg = kapture_pull_servers() != NIL || kapture_inbox_any();
}

/* What is read in a transaction. */
typedef struct WorkerLoading
{
	Worker	   *worker;
	bool		all;			/* all tables are to be looked at */
	bool		exists;			/* the extension is installed */
} WorkerLoading;

static void
load_do(void *arg)
{
	WorkerLoading *loading = arg;
	Worker	   *worker = loading->worker;
	bool		exists;
	char	   *version;
	bool		pulls = false;

	kapture_process_require_installation(&worker->installation);
	exists = loading->exists = OidIsValid(worker->installation);
	version = exists ? kapture_version_installed() : NULL;
	if (version && kapture_version_compare(version) != 0)
		load_tell_outdated(worker, version);
	else if (exists && worker->outdated)
		kapture_process_exit(KAPTURE_EXIT_ASKED);	/* not outdated any more: begin anew */
	else if (exists)
	{
		load_origin(worker);
		load_tables(worker, loading->all);
		load_servers(worker);
		if (worker->alone)
			load_recover(worker);
		if (!kapture_transaction_try_within(load_calls, worker, NULL))
			load_later(worker);
	}
	if (exists && !worker->outdated && !kapture_transaction_try_within(load_find_pulls, &pulls, NULL))
		load_later(worker);
	kapture_shmem_worker_wants_puller(pulls);
}

/*
 * Reads the attachments and servers that have changed, or a slice of them.  Returns false if
 * the extension is gone.  After an error, nothing is claimed until a reading has succeeded: tables may look
 * different, or have another owner.
 */
bool
kapture_load(Worker *worker)
{
	WorkerLoading loading = {worker, worker->look_all, true};
	TimestampTz began = GetCurrentTimestamp();
	ErrorData  *error;

	worker->stale = worker->look_all = false;
	worker->next_load = DT_NOEND;
	error = kapture_transaction_run(worker, "reading attachments", load_do, &loading);
	if (error == NULL)
	{
		TimestampTz now = GetCurrentTimestamp();

		worker->loaded = true;
		worker->load_errors = 0;
		worker->load_not_before = worker->unread ? now :
			now + Min(Max(now - began, 0) * LOAD_REST, LOAD_LONGEST_REST);
		if (worker->next_load == DT_NOEND)
			kapture_transaction_report_success(KAPTURE_PHASE_LOAD, NULL);
		return loading.exists;
	}
	kapture_transaction_report_error(KAPTURE_PHASE_LOAD, NULL, NULL, error);
	worker->look_all |= loading.all;
	if (kapture_guard_is_lock(error))
		load_later(worker);
	else
	{
		worker->loaded = false;
		load_relcache_callback(PointerGetDatum(worker), InvalidOid);
		worker->load_not_before = kapture_transaction_retry_at(++worker->load_errors);
	}
	FreeErrorData(error);
	return true;
}

/* Tells whether attachments and servers are to be read now. */
bool
kapture_load_is_due(Worker *worker)
{
	TimestampTz now = GetCurrentTimestamp();

	worker->stale |= worker->next_load <= now;
	return (worker->stale || worker->unread) && worker->load_not_before <= now;
}

/* Returns when attachments and servers are to be read next; DT_NOEND: when they change. */
TimestampTz
kapture_load_next(const Worker *worker)
{
	return worker->stale || worker->unread ? worker->load_not_before : worker->next_load;
}
