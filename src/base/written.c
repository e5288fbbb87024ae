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
 * the end of the (sub)transaction.
 *
 * If there are more than it has room for, the server that has most of them, in the database
 * that has most, gets one entry for all its customers: then all digests of that server's
 * rows are void, and no others.  If a database has an entry each for so many servers, they are lost,
 * and all digests of that database are void.
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

/* Counters of losses; databases whose oids differ by a multiple share one. */
#define WRITTEN_DATABASES	64

typedef struct WrittenCustomer
{
	Oid			dbid;
	Oid			serverid;
	uint64		number;			/* counts up; see kapture_written_untaken() */
	int64		customer_id;	/* 0: all customers of the server */
} WrittenCustomer;

typedef struct WrittenState
{
	LWLock	   *lock;
	uint64		last_number;
	uint64		nlost[WRITTEN_DATABASES];	/* how often customers of a database were lost */
	int			n;
	WrittenCustomer customers[WRITTEN_MAX];
} WrittenState;

/* A customer that the running transaction has written. */
typedef struct WrittenPending
{
	SubTransactionId subid;
	bool		noted;			/* in kapture_written, if this is committed */
	Oid			serverid;
	int64		customer_id;	/* 0: customers of the server in any subtransactions */
} WrittenPending;

/* How many entries a server has; "scope" is its database, if there are several. */
typedef struct WrittenShare
{
	Oid			scope;
	Oid			serverid;
	int			n;				/* 0: there are no entries at all */
} WrittenShare;

static WrittenState *written_state = NULL;
static shmem_request_hook_type written_prev_request_hook = NULL;
static shmem_startup_hook_type written_prev_startup_hook = NULL;

/* Of the running transaction, in its memory. */
static WrittenPending *written_pending = NULL;
static int	written_npending = 0;
static bool written_merged = false;	/* some stand for all customers of a server */
static bool written_lost = false;	/* there was no room for all of them */

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

static int
written_compare_shares(const void *a, const void *b)
{
	const WrittenShare *one = a;
	const WrittenShare *other = b;
	int			result = oid_cmp(&one->scope, &other->scope);

	return result != 0 ? result : oid_cmp(&one->serverid, &other->serverid);
}

/* Returns the server with most entries in the scope with most; shares[] has one for each entry. */
static WrittenShare
written_largest(WrittenShare *shares, int n)
{
	WrittenShare server = {0};	/* in the scope that is just counted */
	WrittenShare result = {0};
	int			in_scope = 0;
	int			most = 0;

	qsort(shares, n, sizeof(WrittenShare), written_compare_shares);
	for (int i = 0; i < n; i++)
	{
		bool		same_scope = i > 0 && shares[i].scope == shares[i - 1].scope;

		in_scope = same_scope ? in_scope + 1 : 1;
		shares[i].n = same_scope && shares[i].serverid == shares[i - 1].serverid ? shares[i - 1].n + 1 : 1;
		if (!same_scope || shares[i].n > server.n)
			server = shares[i];
		if (in_scope >= most)
		{
			most = in_scope;
			result = server;
		}
	}
	return result;
}

/* The counter of losses of a database. */
static uint64 *
written_losses(Oid dbid)
{
	return &written_state->nlost[dbid % WRITTEN_DATABASES];
}

/* Makes room for at least one more customer.  The caller holds the lock. */
static void
written_make_room(void)
{
	WrittenShare shares[WRITTEN_MAX];
	WrittenShare largest;
	bool		merge;
	int			kept = 0;

	for (int i = 0; i < written_state->n; i++)
		shares[i] = (WrittenShare){written_state->customers[i].dbid, written_state->customers[i].serverid, 0};
	largest = written_largest(shares, written_state->n);
	merge = largest.n > 1;
	if (!merge)
		(*written_losses(largest.scope))++;
	for (int i = 0; i < written_state->n; i++)
	{
		WrittenCustomer *customer = &written_state->customers[i];

		if (customer->dbid != largest.scope || (merge && customer->serverid != largest.serverid))
			written_state->customers[kept++] = *customer;
		else if (merge && --largest.n == 0)
		{
			/* the last one stands for all */
			customer->number = ++written_state->last_number;
			customer->customer_id = 0;
			written_state->customers[kept++] = *customer;
		}
	}
	written_state->n = kept;
}

/* Hands a customer over.  The caller holds the lock. */
static void
written_hand_over(const WrittenPending *pending)
{
	WrittenCustomer *customer;

	for (int i = 0; i < written_state->n; i++)
	{
		customer = &written_state->customers[i];
		if (customer->customer_id != 0 || customer->dbid != MyDatabaseId || customer->serverid != pending->serverid)
			continue;
		/* if the worker has it just now, it is to take it again */
		customer->number = ++written_state->last_number;
		return;
	}
	if (written_state->n == WRITTEN_MAX)
		written_make_room();
	customer = &written_state->customers[written_state->n++];
	customer->dbid = MyDatabaseId;
	customer->serverid = pending->serverid;
	customer->number = ++written_state->last_number;
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
		{
			/* the notes of some of them may have gone with the subtransaction */
			if (pending->customer_id == 0)
				pending->noted = false;
			written_pending[kept++] = *pending;
		}
		else if (rolled_back || !pending->noted)
			written_hand_over(pending);
	}
	if (written_lost && subid == InvalidSubTransactionId)
		(*written_losses(MyDatabaseId))++;
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
	if (written_npending > 0 || written_lost)
		written_end(InvalidSubTransactionId, event != XACT_EVENT_COMMIT);
	if (event == XACT_EVENT_COMMIT && written_taking > 0)
		written_drop_taken();
	if (event == XACT_EVENT_COMMIT)
		written_known = written_knowing;
	written_pending = NULL;
	written_npending = 0;
	written_merged = written_lost = false;
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

/*
 * Has one pending entry stand for all customers of the server that has most; returns false if no server
 * has several.
 */
static bool
written_merge(void)
{
	WrittenShare shares[WRITTEN_MAX];
	WrittenShare largest;
	bool		noted = true;
	int			kept = 0;

	for (int i = 0; i < written_npending; i++)
		shares[i] = (WrittenShare){InvalidOid, written_pending[i].serverid, 0};
	largest = written_largest(shares, written_npending);
	if (largest.n <= 1)
		return false;
	for (int i = 0; i < written_npending; i++)
	{
		WrittenPending *pending = &written_pending[i];

		if (pending->serverid != largest.serverid)
		{
			written_pending[kept++] = *pending;
			continue;
		}
		noted &= pending->noted;
		if (--largest.n > 0)
			continue;
		pending->subid = TopSubTransactionId;
		pending->noted = noted;
		pending->customer_id = 0;
		written_pending[kept++] = *pending;
	}
	written_npending = kept;
	written_merged = true;
	return true;
}

/* Remembers a customer until the end of the transaction. */
static void
written_remember(Oid serverid, int64 customer_id, bool noted)
{
	WrittenPending *pending;

	if (written_state == NULL)
		return;
	written_register();
	for (int i = 0; written_merged && i < written_npending; i++)
	{
		pending = &written_pending[i];
		if (pending->customer_id == 0 && pending->serverid == serverid)
		{
			pending->noted &= noted;
			return;
		}
	}
	if (written_npending == WRITTEN_MAX && !written_merge())
	{
		written_lost = true;
		return;
	}
	if (written_pending == NULL)
		written_pending = MemoryContextAlloc(TopTransactionContext, sizeof(WrittenPending) * WRITTEN_MAX);
	pending = &written_pending[written_npending++];
	pending->subid = GetCurrentSubTransactionId();
	pending->noted = noted;
	pending->serverid = serverid;
	pending->customer_id = customer_id;
}

/*
 * Notes that a customer of a server is about to be updated by this session; known to
 * the worker when the transaction ends, also if it is rolled back.  Does nothing where no
 * attached table has the server.
 */
void
kapture_written_note(Oid serverid, int64 customer_id)
{
	Oid			relid = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	Oid			types[2] = {OIDOID, INT8OID};
	Datum		values[2];

	if (!OidIsValid(relid) || !OidIsValid(get_relname_relid("kapture_written", get_rel_namespace(relid))))
		return;
	values[0] = ObjectIdGetDatum(serverid);
	values[1] = Int64GetDatum(customer_id);
	if (XactReadOnly || RecoveryInProgress())
	{
		/* without an attached table, no worker would take the customer */
		if (kapture_own_text("SELECT 't' FROM @.kapture_attachment WHERE server_oid = $1 LIMIT 1", 1, types, values) != NULL)
			written_remember(serverid, customer_id, false);
		return;
	}
	if (kapture_own_execute("INSERT INTO @.kapture_written (server_oid, customer_id)"
							" SELECT $1, $2 WHERE EXISTS (SELECT FROM @.kapture_attachment WHERE server_oid = $1)",
							lengthof(types), types, values) > 0)
		written_remember(serverid, customer_id, true);
}

/*
 * Adds the customers of this database to kapture_written whose notes were rolled back, or
 * were none.  *servers are the servers (oids, in the current memory context) of whose
 * customers any may have been written.  Returns whether others were lost since the last call:
 * then nothing of any row is known.  For the worker, which has them as long as its
 * transaction is not committed.
 */
bool
kapture_written_untaken(List **servers)
{
	WrittenCustomer *customers;
	int			n = 0;

	*servers = NIL;
	if (written_state == NULL)
		return false;
	written_register();
	written_knowing = *written_losses(MyDatabaseId);
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
	written_taking = n > 0 ? written_state->last_number : 0;
	LWLockRelease(written_state->lock);
	for (int i = 0; i < n; i++)
	{
		Oid			types[2] = {OIDOID, INT8OID};
		Datum		values[2] = {ObjectIdGetDatum(customers[i].serverid), Int64GetDatum(customers[i].customer_id)};

		if (customers[i].customer_id == 0)
			*servers = lappend_oid(*servers, customers[i].serverid);
		else
			(void) kapture_own_execute("INSERT INTO @.kapture_written (server_oid, customer_id) VALUES ($1, $2)", lengthof(types), types, values);
	}
	pfree(customers);
	return written_knowing != written_known;
}
