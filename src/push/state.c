/*
 * state.c
 *		What the worker of a database knows: servers and attached tables.
 *
 * They are read by load.c; a server or table that is no longer needed is forgotten
 * once no task refers to it.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "base/lock.h"
#include "cluster/shmem.h"
#include "push/state.h"

/* Milliseconds a request may take to a server whose settings cannot be read. */
#define STATE_DEFAULT_TIMEOUT	60000

/*
 * Returns the state of a worker that knows nothing yet, in the context given, which is to
 * live as long as the process.
 */
Worker *
kapture_state_create(MemoryContext context)
{
	Worker	   *worker = MemoryContextAllocZero(context, sizeof(Worker));

	worker->context = context;
	dlist_init(&worker->servers);
	dlist_init(&worker->tables);
	dlist_init(&worker->answered);
	dlist_init(&worker->settled);
	dlist_init(&worker->unrecorded);
	dlist_init(&worker->taking);
	worker->stale = true;
	worker->next_load = worker->next_record = worker->next_safety_look = DT_NOEND;
	return worker;
}

/* Returns what is known of an account, which may be nothing yet. */
WorkerServer *
kapture_state_find_server(Worker *worker, const char *name, Oid owner)
{
	dlist_iter	iter;
	WorkerServer *server;

	dlist_foreach(iter, &worker->servers)
	{
		server = dlist_container(WorkerServer, node, iter.cur);
		if (server->owner == owner && strcmp(server->name, name) == 0)
			return server;
	}
	server = MemoryContextAllocZero(worker->context, sizeof(WorkerServer));
	server->worker = worker;
	server->name = MemoryContextStrdup(worker->context, name);
	server->owner = owner;
	server->share = kapture_share_join(owner);
	server->timeout = STATE_DEFAULT_TIMEOUT;
	dlist_init(&server->ready);
	dlist_push_tail(&worker->servers, &server->node);
	return server;
}

/* Returns an attached table, NULL if it is not known. */
WorkerTable *
kapture_state_find_table(Worker *worker, int32 attachment_id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->att->id == attachment_id)
			return table;
	}
	return NULL;
}

/* Changes where the rows of a table go; NULL: nowhere. */
void
kapture_state_place_table(WorkerTable *table, WorkerServer *server)
{
	if (server)
		server->ntables++;
	if (table->server)
		table->server->ntables--;
	table->server = server;
}

/* Frees what older descriptions of a table held, once no task needs them. */
void
kapture_state_free_retired(WorkerTable *table)
{
	ListCell   *lc;

	if (table->ntasks > 0)
		return;
	foreach(lc, table->retired)
		MemoryContextDelete(lfirst(lc));
	list_free(table->retired);
	table->retired = NIL;
}

/* Forgets an account that nothing goes to any more. */
void
kapture_state_forget_server(WorkerServer *server)
{
	dlist_delete(&server->node);
	kapture_share_leave(server->share);
	kapture_rotation_leave(&server->rotating);
	if (server->problem)
		pfree(server->problem);
	if (server->timezone)
		pfree(server->timezone);
	pfree(server->name);
	pfree(server);
}

/* Forgets a table that is not attached any more, and that no task needs. */
void
kapture_state_forget_table(WorkerTable *table)
{
	if (table->shown)
		kapture_shmem_withdraw_table(table->att->id);
	kapture_state_place_table(table, NULL);
	kapture_turn_join(&table->turn, InvalidOid);
	dlist_delete(&table->node);
	kapture_state_free_retired(table);
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

/* Tells whether changes of this database may be sent, and by us. */
bool
kapture_state_may_send(Worker *worker)
{
	return kapture_enabled && !worker->outdated && worker->origin.state == KAPTURE_ORIGIN_OURS;
}

/*
 * Tells whether a table's rows may be read and written now, which runs its owner's code:
 * not while we end, when an error of it would lose the answers of all, nor if the owner
 * has had so much that others come first.
 */
bool
kapture_state_may_run(const WorkerTable *table)
{
	return !table->worker->leaving && !kapture_share_is_spent(table->turn.share);
}

/* Has a table looked at. */
static void
state_look_at(WorkerTable *table)
{
	table->look = table->fresh = true;
}

/*
 * Has all tables looked at.
 */
void
kapture_state_look(Worker *worker)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
		state_look_at(dlist_container(WorkerTable, node, iter.cur));
	worker->last_look = GetCurrentTimestamp();
}

/*
 * Has those looked at whose changes woke us: a look is a transaction, and there may be
 * thousands of tables.  All of them from time to time, see WORKER_SAFETY_LOOK.
 */
void
kapture_state_look_changed(Worker *worker)
{
	dlist_iter	iter;

	if (TimestampDifferenceExceeds(worker->last_look, GetCurrentTimestamp(), WORKER_SAFETY_LOOK))
	{
		kapture_state_look(worker);
		return;
	}
	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (kapture_shmem_worker_is_changed(table->att->id) ||
			(!table->att->unfollowed && kapture_shmem_worker_is_changed(-1)))
			state_look_at(table);
	}
}

/*
 * Tells whether a table, its server or its attachment may have changed since they were
 * read, as far as this transaction can see.
 */
bool
kapture_state_is_outdated(const WorkerTable *table)
{
	return table->stale ||
		(table->worker->stale && !kapture_catalog_is_present_version(&table->version));
}

/*
 * Has a table's attachment stay as it is until the transaction ends: whoever paused a table, and
 * then changed it or what it follows, must not find that taken.  Returns false if somebody has
 * locked the attachment, or has changed it since it was read: then the table is stale, and
 * read anew when its turn comes again.
 */
bool
kapture_state_hold(WorkerTable *table)
{
	if (!kapture_lock_attachment(table->att->id, ShareLock, false))
		return false;
	table->stale = kapture_state_is_outdated(table);
	return !table->stale;
}
