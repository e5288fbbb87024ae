/*
 * written.c
 *		Customers that sessions have written in Kapture themselves.
 *
 * kapture_update_customer() and UPDATEs of foreign tables change customers past the
 * attached tables.  The digests of these customers' rows may be wrong then.  So their ids
 * are noted in kapture_written, and the worker forgets the digests of these rows before it
 * uses any.  The session does not change the digests itself: that would hold up the worker
 * until the session's transaction ends.
 *
 * A rollback takes the note back, but not what Kapture has carried out; and a read-only
 * transaction cannot note anything.  Such customers are handed over in shared memory, at
 * the end of the (sub)transaction.  If there are more than it has room for, only the
 * number of losses is kept: then the worker makes all digests void.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/catalog_tables.h"
#include "base/owner_sql.h"
#include "base/written.h"

/* Customers that wait to be taken by the workers of all databases. */
#define WRITTEN_MAX		1024

typedef struct WrittenCustomer
{
	Oid			dbid;
	uint64		number;			/* counts up; see kapture_written_untaken() */
	NameData	server;
	int64		customer_id;
} WrittenCustomer;

typedef struct WrittenState
{
	LWLock	   *lock;
	uint64		last_number;
	uint64		nlost;			/* how often there was no room */
	int			n;
	WrittenCustomer customers[WRITTEN_MAX];
} WrittenState;

/* A customer that the running transaction has written. */
typedef struct WrittenPending
{
	SubTransactionId subid;
	bool		noted;			/* in kapture_written, if this is committed */
	NameData	server;
	int64		customer_id;
} WrittenPending;

static WrittenState *written_state = NULL;
static shmem_request_hook_type written_prev_request_hook = NULL;
static shmem_startup_hook_type written_prev_startup_hook = NULL;

/* Of the running transaction, in its memory. */
static WrittenPending *written_pending = NULL;
static int	written_npending = 0;
static bool written_too_many = false;	/* there was no room for all of them, */
static bool written_unnoted = false;	/* and these are not noted, either */

/* What the running transaction has taken, and the losses that it knows of. */
static uint64 written_taking = 0;
static uint64 written_knowing = 0;
static uint64 written_known = 0;	/* of the transactions before */

static void
written_request(void)
{
	if (written_prev_request_hook)
		written_prev_request_hook();
	RequestAddinShmemSpace(sizeof(WrittenState));
	RequestNamedLWLockTranche("kapture_sync_written", 1);
}

static void
written_startup(void)
{
	bool		found;

	if (written_prev_startup_hook)
		written_prev_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	written_state = ShmemInitStruct("kapture_sync written", sizeof(WrittenState), &found);
	if (!found)
	{
		memset(written_state, 0, sizeof(WrittenState));
		written_state->lock = &(GetNamedLWLockTranche("kapture_sync_written"))->lock;
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Asks for the shared memory.  Called from _PG_init() while the postmaster
 * preloads libraries.
 */
void
kapture_written_install(void)
{
	written_prev_request_hook = shmem_request_hook;
	shmem_request_hook = written_request;
	written_prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = written_startup;
}

/* Hands a customer over.  The caller holds the lock. */
static void
written_hand_over(const WrittenPending *pending)
{
	WrittenCustomer *customer;

	if (written_state->n == WRITTEN_MAX)
	{
		written_state->nlost++;
		return;
	}
	customer = &written_state->customers[written_state->n++];
	customer->dbid = MyDatabaseId;
	customer->number = ++written_state->last_number;
	customer->server = pending->server;
	customer->customer_id = pending->customer_id;
}

/*
 * Hands over the customers of a subtransaction, or of all (InvalidSubTransactionId), that were rolled
 * back or are not noted.
 */
static void
written_end(SubTransactionId subid, bool rolled_back)
{
	int			kept = 0;

	LWLockAcquire(written_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < written_npending; i++)
	{
		WrittenPending *pending = &written_pending[i];

		if (subid != InvalidSubTransactionId && pending->subid != subid)
			written_pending[kept++] = *pending;
		else if (rolled_back || !pending->noted)
			written_hand_over(pending);
	}
	if (rolled_back ? written_too_many : written_unnoted)
		written_state->nlost++;
	LWLockRelease(written_state->lock);
	written_npending = kept;
}

/* The customers that this transaction has taken are dealt with. */
static void
written_drop_taken(void)
{
	int			kept = 0;

	LWLockAcquire(written_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < written_state->n; i++)
	{
		if (written_state->customers[i].dbid != MyDatabaseId || written_state->customers[i].number > written_taking)
			written_state->customers[kept++] = written_state->customers[i];
	}
	written_state->n = kept;
	LWLockRelease(written_state->lock);
}

static void
written_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	/* what is prepared may be rolled back without anybody who knows */
	if (written_npending > 0)
		written_end(InvalidSubTransactionId, event != XACT_EVENT_COMMIT);
	if (event == XACT_EVENT_COMMIT && written_taking > 0)
		written_drop_taken();
	if (event == XACT_EVENT_COMMIT)
		written_known = written_knowing;
	written_pending = NULL;
	written_npending = 0;
	written_too_many = written_unnoted = false;
	written_taking = 0;
	written_knowing = written_known;
}

static void
written_subxact_callback(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && written_npending > 0)
		written_end(mySubid, true);
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		for (int i = 0; i < written_npending; i++)
		{
			if (written_pending[i].subid == mySubid)
				written_pending[i].subid = parentSubid;
		}
	}
}

static void
written_register(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(written_xact_callback, NULL);
	RegisterSubXactCallback(written_subxact_callback, NULL);
	registered = true;
}

/* Remembers a customer until the end of the transaction. */
static void
written_remember(const char *server, int64 customer_id, bool noted)
{
	WrittenPending *pending;

	if (written_state == NULL)
		return;
	written_register();
	if (written_npending == WRITTEN_MAX)
	{
		written_too_many = true;
		written_unnoted |= !noted;
		return;
	}
	if (written_pending == NULL)
		written_pending = MemoryContextAlloc(TopTransactionContext, sizeof(WrittenPending) * WRITTEN_MAX);
	pending = &written_pending[written_npending++];
	pending->subid = GetCurrentSubTransactionId();
	pending->noted = noted;
	namestrcpy(&pending->server, server);
	pending->customer_id = customer_id;
}

/*
 * Notes that a customer of a server is about to be updated by this session; known to
 * the worker when the transaction ends, also if it is rolled back.  Does nothing where no
 * attached table has the server.
 */
void
kapture_written_note(const char *server, int64 customer_id)
{
	Oid			relid = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	Oid			types[2] = {NAMEOID, INT8OID};
	Datum		values[2];

	if (!OidIsValid(relid) || !OidIsValid(get_relname_relid("kapture_written", get_rel_namespace(relid))))
		return;
	values[0] = DirectFunctionCall1(namein, CStringGetDatum(server));
	values[1] = Int64GetDatum(customer_id);
	if (XactReadOnly || RecoveryInProgress())
	{
		/* without an attached table, no worker would take the customer */
		if (kapture_own_text("SELECT 't' FROM @.kapture_attachment WHERE server = $1 LIMIT 1", 1, types, values) != NULL)
			written_remember(server, customer_id, false);
		return;
	}
	if (kapture_own_execute("INSERT INTO @.kapture_written (server, customer_id)"
							" SELECT $1, $2 WHERE EXISTS (SELECT FROM @.kapture_attachment WHERE server = $1)",
							lengthof(types), types, values) > 0)
		written_remember(server, customer_id, true);
}

/*
 * Adds the customers of this database to kapture_written whose notes were rolled back, or
 * were none.  Returns whether others were lost since the last call: then nothing of any row is
 * known.  For the worker, which has them as long as its transaction is not committed.
 */
bool
kapture_written_untaken(void)
{
	WrittenCustomer *customers;
	int			n = 0;

	if (written_state == NULL)
		return false;
	written_register();
	written_knowing = written_state->nlost;
	/* a customer that comes just now is taken the next time */
	if (written_state->n == 0)
		return written_knowing != written_known;
	customers = palloc(sizeof(WrittenCustomer) * WRITTEN_MAX);
	LWLockAcquire(written_state->lock, LW_SHARED);
	for (int i = 0; i < written_state->n; i++)
	{
		if (written_state->customers[i].dbid == MyDatabaseId)
			customers[n++] = written_state->customers[i];
	}
	LWLockRelease(written_state->lock);
	written_taking = n > 0 ? customers[n - 1].number : 0;
	for (int i = 0; i < n; i++)
	{
		Oid			types[2] = {NAMEOID, INT8OID};
		Datum		values[2] = {NameGetDatum(&customers[i].server), Int64GetDatum(customers[i].customer_id)};

		(void) kapture_own_execute("INSERT INTO @.kapture_written (server, customer_id) VALUES ($1, $2)", lengthof(types), types, values);
	}
	pfree(customers);
	return written_knowing != written_known;
}
