/*
 * state.c
 *		What the worker of a database keeps in memory: servers and attached tables.
 *
 * Servers and tables are read by load.c; one that is no longer needed is freed once no task
 * refers to it.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "base/lock.h"
#include "cluster/shmem.h"
#include "push/state.h"

/* Milliseconds that a request may take if the server's settings cannot be read. */
#define STATE_DEFAULT_TIMEOUT	60000

/* Entry of worker->tables_by_id. */
typedef struct StateTable
{
	int32		attachment_id;
	WorkerTable *table;
} StateTable;

/*
 * Returns the state of a worker without any servers and tables, in the memory context
 * given, which is to live as long as the process.
 */
Worker *
kapture_state_create(MemoryContext context)
{
	Worker	   *worker = MemoryContextAllocZero(context, sizeof(Worker));
	HASHCTL		ctl = {.keysize = sizeof(int32),.entrysize = sizeof(StateTable),.hcxt = context};

	worker->context = context;
	/* in any other context, each of thousands of them would take up to the next power of two */
	worker->table_context = SlabContextCreate(context, "kapture_sync tables", SLAB_DEFAULT_BLOCK_SIZE, sizeof(WorkerTable));
	dlist_init(&worker->servers);
	dlist_init(&worker->tables);
	dlist_init(&worker->answered);
	dlist_init(&worker->settled);
	dlist_init(&worker->unrecorded);
	dlist_init(&worker->taking);
	worker->tables_by_id = hash_create("kapture_sync attached tables", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	worker->stale = true;
	worker->next_load = worker->next_record = worker->next_safety_look = DT_NOEND;
	return worker;
}

/* Returns the state of an account, which is a new one if there was none. */
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

/* Returns the state of an attached table; NULL if it has not been read. */
WorkerTable *
kapture_state_find_table(Worker *worker, int32 attachment_id)
{
	StateTable *entry = hash_search(worker->tables_by_id, &attachment_id, HASH_FIND, NULL);

	return entry ? entry->table : NULL;
}

/* Adds the state of a table whose attachment was read for the first time. */
void
kapture_state_add_table(Worker *worker, WorkerTable *table)
{
	((StateTable *) hash_search(worker->tables_by_id, &table->att->id, HASH_ENTER, NULL))->table = table;
	dlist_push_tail(&worker->tables, &table->node);
}

/* Changes the server that the rows of a table go to; NULL: none. */
void
kapture_state_place_table(WorkerTable *table, WorkerServer *server)
{
	if (server)
		server->ntables++;
	if (table->server)
		table->server->ntables--;
	table->server = server;
}

/* Frees older descriptions of a table, once no task needs them. */
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

/* Forgets a table that is not attached any more and that no task refers to. */
void
kapture_state_forget_table(WorkerTable *table)
{
	if (table->shown)
		kapture_shmem_withdraw_table(table->att->id);
	if (table->in_trouble)
		kapture_shmem_report_trouble(KAPTURE_PUSHER, table->att->id, InvalidOid, NULL);
	kapture_state_place_table(table, NULL);
	kapture_turn_join(&table->turn, InvalidOid);
	dlist_delete(&table->node);
	(void) hash_search(table->worker->tables_by_id, &table->att->id, HASH_REMOVE, NULL);
	kapture_state_free_retired(table);
	MemoryContextDelete(table->context);
	kapture_scan_free(&table->scan);
	kapture_scan_free(&table->keys);
	if (table->problem)
		pfree(table->problem);
	if (table->suspect)
		pfree(table->suspect);
	pfree(table);
}

/* Tells whether changes of this database may be sent, and are this worker's to send. */
bool
kapture_state_may_send(Worker *worker)
{
	return kapture_enabled && !worker->outdated && worker->origin.state == KAPTURE_ORIGIN_OURS;
}

/*
 * Tells whether a table's rows may be read and written now, which runs its owner's code.
 * They may not while the process ends, when an error of that code would lose everybody's
 * answers; nor after the owner has had so much time that others come first.
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

/* Has a table looked at for all that may wait, as it may be due at another time than was known. */
void
kapture_state_look_anew(WorkerTable *table)
{
	state_look_at(table);
	table->next_due = DT_NOBEGIN;
	/* a claim that reads the table anew by itself ends the look before follows are looked at */
	if (table->follow_errors == 0)
		table->follow_at = 0;
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
 * Has those tables looked at whose changes woke us, or about which something was announced:
 * a look is a transaction, and there may be thousands of tables.  From time to time, all are
 * looked at, see WORKER_SAFETY_LOOK.
 */
void
kapture_state_look_changed(Worker *worker)
{
	dlist_iter	iter;

	if (TimestampDifferenceExceeds(worker->last_look, GetCurrentTimestamp(), WORKER_SAFETY_LOOK))
		kapture_state_look(worker);
	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (kapture_shmem_worker_is_announced(table->att->id))
			kapture_state_look_anew(table);
		else if (kapture_shmem_worker_is_changed(table->att->id) ||
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
 * Locks a table's attachment until the transaction ends: changes made after the table was
 * paused, to it or to a table that it follows, must not be taken.  Returns false if
 * somebody else has locked the attachment, or has changed it since it was read; then the
 * table is stale, and is read anew when its turn comes again.
 */
bool
kapture_state_hold(WorkerTable *table)
{
	if (!kapture_lock_attachment(table->att->id, ShareLock, false))
		return false;
	table->stale = kapture_state_is_outdated(table);
	return !table->stale;
}
