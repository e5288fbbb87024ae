/*
 * shmem.c
 *		What launcher, workers and backends share: which database has which
 *		workers, and who has to be woken.
 *
 * There is one slot for each worker that could run at a time, so
 * max_worker_processes of them.  A slot goes FREE -> STARTING (launcher) ->
 * RUNNING (worker) -> EXITED (worker, on its way out) -> FREE (launcher).  Its
 * generation is counted up with each reservation, so that a late starter is
 * never taken for its successor.
 *
 * "lock" protects everything but "work", "changed" and "announced", which are atomic.  A backend
 * that commits sets the latter two first, then "work", then the latch.  The worker clears them,
 * "work" first, before it looks for work, so no commit goes unseen.  PGPROC pointers point
 * into shared memory, and are only followed under the lock while the process that entered
 * them is still there: it removes them on its way out.
 *
 * A crash of any process makes the postmaster set up all of this anew.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "replication/logicalworker.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/resowner.h"

#include "base/compat.h"
#include "cluster/shmem.h"

/* Running commands that need a database without other sessions, at most. */
#define SHMEM_MAX_BLOCKS	32

/* Requested databases that can be noted; if there are more, the launcher looks at all. */
#define SHMEM_MAX_REQUESTS	64

/*
 * Servers and attached tables of the cluster whose state can be shown; beyond that number,
 * those of the owners who have most are not shown.  Both are open-addressed hash tables, so
 * these are powers of two.
 */
#define SHMEM_MAX_REPORTS	1024
#define SHMEM_MAX_TABLES	4096

/* Owners whose code has ended a worker; beyond that number, the ban that ends first is forgotten. */
#define SHMEM_MAX_BANS		64

/* Milliseconds that a ban lasts: the first one, and at most. */
#define SHMEM_FIRST_BAN		INT64CONST(30000)
#define SHMEM_LONGEST_BAN	INT64CONST(3600000)

/*
 * Bits for attached tables that have changed.  The first one is for all tables that follow
 * others; the others are shared by tables whose numbers differ by a multiple.
 */
#define SHMEM_CHANGED_WORDS	16
#define SHMEM_CHANGED_BITS	(SHMEM_CHANGED_WORDS * 64)

/* Errors shown at a time; beyond that number, the oldest of the owner who has most is forgotten. */
#define SHMEM_MAX_TROUBLES	256

/* Milliseconds until a process that has found no room for a report of an owner looks again. */
#define SHMEM_FULL			1000

typedef struct ShmemSlot
{
	KaptureSlotState state;
	KaptureWorkerKind kind;
	Oid			dbid;
	uint32		generation;
	KaptureExit reason;			/* when EXITED */
	bool		wants_puller;	/* a pusher has seen servers to pull from */
	bool		leave;			/* the worker was asked to make way */
	pid_t		pid;			/* 0 until the process has attached */
	PGPROC	   *proc;
	pg_atomic_uint32 work;		/* something may be waiting, */
	pg_atomic_uint64 changed[SHMEM_CHANGED_WORDS];	/* in these tables */
	pg_atomic_uint64 announced[SHMEM_CHANGED_WORDS];	/* more than rows of these has changed */
	pg_atomic_uint32 listening; /* changes of rows are to wake the worker */
} ShmemSlot;

typedef struct ShmemBlock
{
	Oid			dbid;			/* InvalidOid: free */
	pid_t		pid;			/* of the process that blocks it */
} ShmemBlock;

/*
 * An owner whose code has ended a worker of the database.  That code must not run again for
 * a while.
 */
typedef struct ShmemBan
{
	Oid			dbid;			/* InvalidOid: free */
	Oid			owner;
	int32		attachment_id;	/* whose rows are to be parked; 0: they are */
	KaptureBlame blame;			/* what the owner's code has done */
	int			times;
	TimestampTz until;
} ShmemBan;

typedef struct ShmemServer
{
	bool		passed;			/* was in use before: a search must not end at a free entry here */
	KaptureServerReport report; /* dbid InvalidOid: free */
} ShmemServer;

typedef struct ShmemTable
{
	bool		passed;
	Oid			dbid;			/* InvalidOid: free */
	Oid			owner;
	int32		attachment_id;
	KaptureTableReport report;
} ShmemTable;

typedef struct ShmemTrouble
{
	Oid			dbid;			/* InvalidOid: free */
	KaptureWorkerKind kind;
	int32		attachment_id;	/* 0: of no table */
	Oid			owner;			/* of the table, or InvalidOid */
	KaptureTrouble trouble;
} ShmemTrouble;

typedef struct ShmemState
{
	LWLock	   *lock;
	ConditionVariable exited;	/* signaled when a worker has gone */
	PGPROC	   *launcher;
	ShmemBlock	blocks[SHMEM_MAX_BLOCKS];
	int			nrequests;		/* more than SHMEM_MAX_REQUESTS: look at all databases */
	Oid			requests[SHMEM_MAX_REQUESTS];	/* InvalidOid: list the databases anew */
	ShmemBan	bans[SHMEM_MAX_BANS];
	ShmemServer servers[SHMEM_MAX_REPORTS];
	ShmemTable	tables[SHMEM_MAX_TABLES];
	ShmemTrouble troubles[SHMEM_MAX_TROUBLES];
	int			nslots;
	ShmemSlot	slots[FLEXIBLE_ARRAY_MEMBER];
} ShmemState;

static ShmemState *shmem = NULL;
static shmem_request_hook_type shmem_prev_request_hook = NULL;
static shmem_startup_hook_type shmem_prev_startup_hook = NULL;

/* this process's worker slot */
static ShmemSlot *shmem_my_slot = NULL;
static uint32 shmem_my_generation = 0;

/* what kapture_shmem_worker_take_work() has taken */
static uint64 shmem_taken[SHMEM_CHANGED_WORDS];
static uint64 shmem_taken_announced[SHMEM_CHANGED_WORDS];

/* what to do when the running transaction commits */
static bool shmem_wake_pending = false;
static uint64 shmem_changed[SHMEM_CHANGED_WORDS];	/* attached tables that have changed */
static uint64 shmem_announced[SHMEM_CHANGED_WORDS];	/* those of which more than rows has changed */
static bool shmem_calls_pending = false;	/* wake the worker even if it does not listen for rows */
static bool shmem_settings_pending = false; /* wake the puller, too */
static bool shmem_roles_pending = false;	/* wake those of other databases, too */
static bool shmem_request_pending = false;
static bool shmem_relist_pending = false;
static bool shmem_blocking = false; /* we keep workers away from a database until the transaction ends */
static bool shmem_committed = false;	/* the transaction has committed; only the wake-ups are left */

static void shmem_replication_callback(XactEvent event, void *arg);
static void shmem_wake_for_tables_at_commit(void);

static Size
shmem_size(void)
{
	return add_size(offsetof(ShmemState, slots),
					mul_size(max_worker_processes, sizeof(ShmemSlot)));
}

static void
shmem_request(void)
{
	if (shmem_prev_request_hook)
		shmem_prev_request_hook();
	RequestAddinShmemSpace(shmem_size());
	RequestNamedLWLockTranche("kapture_sync", 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (shmem_prev_startup_hook)
		shmem_prev_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shmem = ShmemInitStruct("kapture_sync", shmem_size(), &found);
	if (!found)
	{
		memset(shmem, 0, shmem_size());
		shmem->lock = &(GetNamedLWLockTranche("kapture_sync"))->lock;
		ConditionVariableInit(&shmem->exited);
		shmem->nslots = max_worker_processes;
		for (int i = 0; i < shmem->nslots; i++)
		{
			pg_atomic_init_u32(&shmem->slots[i].work, 0);
			for (int word = 0; word < SHMEM_CHANGED_WORDS; word++)
			{
				pg_atomic_init_u64(&shmem->slots[i].changed[word], 0);
				pg_atomic_init_u64(&shmem->slots[i].announced[word], 0);
			}
			pg_atomic_init_u32(&shmem->slots[i].listening, 1);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Asks for the shared memory.  Called from _PG_init() while the postmaster
 * preloads libraries.
 */
void
kapture_shmem_install(void)
{
	shmem_prev_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	RegisterXactCallback(shmem_replication_callback, NULL);
	shmem_prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/*
 * Tells whether the library was preloaded, so that workers can run.
 */
bool
kapture_shmem_available(void)
{
	return shmem != NULL;
}

/* Returns the slot of a database's live worker, or NULL.  The caller holds the lock. */
static ShmemSlot *
shmem_find_slot(Oid dbid, KaptureWorkerKind kind)
{
	for (int i = 0; i < shmem->nslots; i++)
	{
		ShmemSlot  *slot = &shmem->slots[i];

		if (slot->dbid == dbid && slot->kind == kind &&
			(slot->state == KAPTURE_SLOT_STARTING || slot->state == KAPTURE_SLOT_RUNNING))
			return slot;
	}
	return NULL;
}

/* Asks the launcher to look at a database.  The caller holds the lock. */
static void
shmem_post_request(Oid dbid)
{
	if (shmem->nrequests < SHMEM_MAX_REQUESTS)
		shmem->requests[shmem->nrequests] = dbid;
	if (shmem->nrequests <= SHMEM_MAX_REQUESTS)
		shmem->nrequests++;
	if (shmem->launcher)
		SetLatch(&shmem->launcher->procLatch);
}

/*
 * Takes back kapture_shmem_make_way(), so that the databases may have workers again.  This
 * is done only at the end of the transaction: before that, a new worker would wait for the
 * command's lock, or look for a database that is about to go.
 */
static void
shmem_give_back(void)
{
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SHMEM_MAX_BLOCKS; i++)
	{
		if (shmem->blocks[i].pid == MyProcPid)
			shmem->blocks[i].dbid = InvalidOid;
	}
	shmem_post_request(InvalidOid);
	LWLockRelease(shmem->lock);
	shmem_blocking = false;
}

/* Returns the bit for changes of an attachment; a negative number stands for those of followed tables. */
static int
shmem_changed_bit(int32 attachment_id)
{
	return attachment_id < 0 ? 0 : 1 + (uint32) attachment_id % (SHMEM_CHANGED_BITS - 1);
}

/* Marks an attachment among the bits of this process. */
static void
shmem_mark(uint64 *words, int32 attachment_id)
{
	int			bit = shmem_changed_bit(attachment_id);

	words[bit / 64] |= UINT64CONST(1) << (bit % 64);
}

static bool
shmem_is_marked(const uint64 *words, int32 attachment_id)
{
	int			bit = shmem_changed_bit(attachment_id);

	return (words[bit / 64] & (UINT64CONST(1) << (bit % 64))) != 0;
}

/* Sets these bits in a slot's. */
static void
shmem_tell(pg_atomic_uint64 *slot, const uint64 *words)
{
	for (int word = 0; word < SHMEM_CHANGED_WORDS; word++)
	{
		if (words[word] != 0)
			(void) pg_atomic_fetch_or_u64(&slot[word], words[word]);
	}
}

/* Takes the bits that are set in a slot's. */
static void
shmem_take(pg_atomic_uint64 *slot, uint64 *words)
{
	for (int word = 0; word < SHMEM_CHANGED_WORDS; word++)
	{
		words[word] = pg_atomic_read_u64(&slot[word]);
		if (words[word] != 0)
			words[word] = pg_atomic_exchange_u64(&slot[word], 0);
	}
}

/* Forgets all that is to be done at commit. */
static void
shmem_forget_pending(void)
{
	shmem_wake_pending = shmem_calls_pending = shmem_settings_pending = shmem_roles_pending = false;
	shmem_request_pending = shmem_relist_pending = false;
	memset(shmem_changed, 0, sizeof(shmem_changed));
	memset(shmem_announced, 0, sizeof(shmem_announced));
}

/* Notes in a worker's slot which tables have changed; "work" is to be set after that. */
static void
shmem_tell_changed(ShmemSlot *slot)
{
	shmem_tell(slot->changed, shmem_changed);
	shmem_tell(slot->announced, shmem_announced);
}

/* Wakes the processes of all other databases, to take in invalidations.  The caller holds the lock. */
static void
shmem_wake_others(void)
{
	for (int i = 0; i < shmem->nslots; i++)
	{
		ShmemSlot  *slot = &shmem->slots[i];

		if (slot->state != KAPTURE_SLOT_RUNNING || slot->dbid == MyDatabaseId)
			continue;
		(void) pg_atomic_exchange_u32(&slot->work, 1);
		if (slot->proc)
			SetLatch(&slot->proc->procLatch);
	}
}

/*
 * A prepared transaction becomes visible only with COMMIT PREPARED, which wakes the worker
 * itself: by the utility hook, or by shmem_replication_callback().
 */
static void
shmem_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			shmem_committed = true;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			shmem_forget_pending();
			if (shmem_blocking)
				shmem_give_back();
			break;
		default:
			break;
	}
}

/*
 * COMMIT PREPARED by logical replication runs through no utility hook.  The transaction in
 * which it runs has no number of its own, unlike those that apply changes.  The process
 * need not be the one that prepared the changes, so this is called in every process.
 */
static void
shmem_replication_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT || !IsLogicalWorker() || TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return;
	shmem_wake_for_tables_at_commit();
	shmem_committed = shmem_wake_pending;
}

/*
 * At commit, the changes become visible, and processes that wait for them can be woken.
 * But not in the transaction callback, which runs before the transaction's invalidation
 * messages are sent: a process that was woken then would not see that tables or servers
 * have changed.  The last step of releasing the transaction's resources comes after these
 * messages, and after its locks.
 */
static void
shmem_release_callback(ResourceReleasePhase phase, bool isCommit, bool isTopLevel, void *arg)
{
	if (!shmem_committed || phase != RESOURCE_RELEASE_AFTER_LOCKS || !isTopLevel)
		return;
	shmem_committed = false;
	if (shmem_blocking)
		shmem_give_back();
	if (!shmem_wake_pending && !shmem_request_pending && !shmem_relist_pending)
		return;

	/*
	 * A shared lock is enough for a wake-up; LWLocks serve as the barrier between "work"
	 * and the latch.
	 */
	LWLockAcquire(shmem->lock,
				  shmem_request_pending || shmem_relist_pending ? LW_EXCLUSIVE : LW_SHARED);
	for (int kind = 0; kind < KAPTURE_WORKER_KINDS; kind++)
	{
		ShmemSlot  *slot = shmem_find_slot(MyDatabaseId, kind);

		/* changes of rows concern the pusher only, those of settings both workers */
		if (slot == NULL || (kind == KAPTURE_PULLER && !shmem_settings_pending))
			continue;
		shmem_tell_changed(slot);
		/* the exchange is a barrier; kapture_shmem_worker_listen() sets "listening" and then reads "work" */
		(void) pg_atomic_exchange_u32(&slot->work, 1);
		if (slot->proc && (shmem_settings_pending || shmem_calls_pending || pg_atomic_read_u32(&slot->listening) != 0))
			SetLatch(&slot->proc->procLatch);
	}
	if (shmem_roles_pending)
		shmem_wake_others();
	if (shmem_request_pending)
		shmem_post_request(MyDatabaseId);
	if (shmem_relist_pending)
		shmem_post_request(InvalidOid);
	LWLockRelease(shmem->lock);
	shmem_forget_pending();
}

/* Registers the callbacks once in each backend.  Returns false if there is nobody to wake. */
static bool
shmem_arm(void)
{
	static bool armed = false;

	if (shmem == NULL)
		return false;
	if (!armed)
	{
		RegisterXactCallback(shmem_xact_callback, NULL);
		RegisterResourceReleaseCallback(shmem_release_callback, NULL);
		armed = true;
	}
	return true;
}

/*
 * Wakes this database's worker when the running transaction commits, if the worker listens.
 * Rows of an attached table have changed or, if the number is negative (as in the outbox),
 * of a followed table.
 */
void
kapture_shmem_wake_at_commit(int32 attachment_id)
{
	if (!shmem_arm())
		return;
	shmem_wake_pending = true;
	shmem_mark(shmem_changed, attachment_id);
}

/*
 * Wakes the worker in the same way, so that it takes in invalidations: definitions of tables
 * may have changed.
 */
void
kapture_shmem_wake_for_definitions_at_commit(void)
{
	if (shmem_arm())
		shmem_wake_pending = true;
}

/*
 * Wakes the workers of all databases when the running transaction commits, to take in
 * invalidations: roles have other rights, which they have everywhere.
 */
void
kapture_shmem_wake_for_roles_at_commit(void)
{
	if (shmem_arm())
		shmem_wake_pending = shmem_settings_pending = shmem_roles_pending = true;
}

/* Wakes the worker in the same way, as any table may have changed. */
static void
shmem_wake_for_tables_at_commit(void)
{
	if (!shmem_arm())
		return;
	shmem_wake_pending = true;
	memset(shmem_changed, 0xff, sizeof(shmem_changed));
	memset(shmem_announced, 0xff, sizeof(shmem_announced));
}

/*
 * Wakes the worker when the running transaction commits, whether or not it listens for
 * changes of rows: calls of other modules are to be sent.
 */
void
kapture_shmem_wake_for_calls_at_commit(void)
{
	if (shmem_arm())
		shmem_wake_pending = shmem_calls_pending = true;
}

/*
 * Wakes all workers of this database when the running transaction commits:
 * attachments, servers or the extension have changed.
 */
void
kapture_shmem_wake_all_at_commit(void)
{
	if (!shmem_arm())
		return;
	shmem_wake_for_tables_at_commit();
	shmem_settings_pending = true;
}

/*
 * Wakes all workers of this database when the running transaction commits: this attachment,
 * or what waits for it, has changed, and nothing that concerns others.
 */
void
kapture_shmem_wake_for_attachment_at_commit(int32 attachment_id)
{
	if (!shmem_arm())
		return;
	kapture_shmem_wake_at_commit(attachment_id);
	shmem_mark(shmem_announced, attachment_id);
	shmem_settings_pending = true;
}

/*
 * Has the launcher start a worker in this database, if it has none, when the
 * running transaction commits.
 */
void
kapture_shmem_request_worker_at_commit(void)
{
	if (shmem_arm())
		shmem_request_pending = true;
}

/*
 * Has the launcher list the databases anew when the running transaction
 * commits.
 */
void
kapture_shmem_relist_at_commit(void)
{
	if (shmem_arm())
		shmem_relist_pending = true;
}

/*
 * Returns the process id of a database's worker, 0 if none runs.
 */
int
kapture_shmem_worker_pid(Oid dbid, KaptureWorkerKind kind)
{
	ShmemSlot  *slot;
	int			pid = 0;

	if (shmem == NULL)
		return 0;
	LWLockAcquire(shmem->lock, LW_SHARED);
	slot = shmem_find_slot(dbid, kind);
	if (slot && slot->state == KAPTURE_SLOT_RUNNING)
		pid = slot->pid;
	LWLockRelease(shmem->lock);
	return pid;
}

/*
 * Ends a database's workers, and keeps them from coming back until the running transaction
 * ends.  Returns when they have left the database; can be cancelled.
 */
void
kapture_shmem_make_way(Oid dbid)
{
	bool		present = true;

	if (!OidIsValid(dbid) || !shmem_arm())
		return;

	shmem_blocking = true;
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SHMEM_MAX_BLOCKS; i++)
	{
		ShmemBlock *block = &shmem->blocks[i];

		/* an entry whose process died without giving it back is free, too */
		if (!OidIsValid(block->dbid) || BackendPidGetProc(block->pid) == NULL)
		{
			block->dbid = dbid;
			block->pid = MyProcPid;
			break;
		}
	}
	LWLockRelease(shmem->lock);

	ConditionVariablePrepareToSleep(&shmem->exited);
	while (present)
	{
		present = false;
		LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
		for (int kind = 0; kind < KAPTURE_WORKER_KINDS; kind++)
		{
			ShmemSlot  *slot = shmem_find_slot(dbid, kind);

			if (slot == NULL)
				continue;
			present = true;
			slot->leave = true;
			if (slot->proc)
				SetLatch(&slot->proc->procLatch);
		}
		LWLockRelease(shmem->lock);
		if (present)
			ConditionVariableTimedSleep(&shmem->exited, 1000L,
										WaitEventExtensionNew("KaptureMakeWay"));
	}
	ConditionVariableCancelSleep();
}

static void
shmem_launcher_detach(int code, Datum arg)
{
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	if (shmem->launcher == MyProc)
		shmem->launcher = NULL;
	LWLockRelease(shmem->lock);
}

/*
 * Makes this process the launcher that requests go to.
 */
void
kapture_shmem_launcher_attach(void)
{
	before_shmem_exit(shmem_launcher_detach, (Datum) 0);
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	shmem->launcher = MyProc;
	LWLockRelease(shmem->lock);
}

/*
 * Returns how many slots there are.
 */
int
kapture_shmem_slot_count(void)
{
	return shmem->nslots;
}

/*
 * Returns a copy of a slot's state.
 */
KaptureSlotInfo
kapture_shmem_slot_read(int slot)
{
	KaptureSlotInfo info;
	ShmemSlot  *s = &shmem->slots[slot];

	LWLockAcquire(shmem->lock, LW_SHARED);
	info.state = s->state;
	info.kind = s->kind;
	info.wants_puller = s->wants_puller;
	info.dbid = s->dbid;
	info.generation = s->generation;
	info.reason = s->reason;
	LWLockRelease(shmem->lock);
	return info;
}

/*
 * Reserves a slot for a worker of a database, in state STARTING.  Returns its number; -1 if
 * there is no free one.
 */
int
kapture_shmem_slot_reserve(Oid dbid, KaptureWorkerKind kind, uint32 *generation)
{
	int			result = -1;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shmem->nslots && result < 0; i++)
	{
		ShmemSlot  *slot = &shmem->slots[i];

		if (slot->state != KAPTURE_SLOT_FREE)
			continue;
		slot->state = KAPTURE_SLOT_STARTING;
		slot->kind = kind;
		slot->wants_puller = false;
		slot->dbid = dbid;
		*generation = ++slot->generation;
		slot->reason = KAPTURE_EXIT_FAILED;
		slot->leave = false;
		slot->pid = 0;
		slot->proc = NULL;
		for (int word = 0; word < SHMEM_CHANGED_WORDS; word++)
		{
			pg_atomic_write_u64(&slot->changed[word], PG_UINT64_MAX);
			pg_atomic_write_u64(&slot->announced[word], PG_UINT64_MAX);
		}
		pg_atomic_write_u32(&slot->work, 1);
		pg_atomic_write_u32(&slot->listening, 1);
		result = i;
	}
	LWLockRelease(shmem->lock);
	return result;
}

/*
 * Frees a slot whose worker has exited or never came, unless it has been
 * reserved anew meanwhile.
 */
void
kapture_shmem_slot_free(int slot, uint32 generation)
{
	ShmemSlot  *s = &shmem->slots[slot];

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	if (s->generation == generation)
	{
		s->state = KAPTURE_SLOT_FREE;
		s->dbid = InvalidOid;
	}
	LWLockRelease(shmem->lock);
	ConditionVariableBroadcast(&shmem->exited);
}

/*
 * Tells whether a command keeps workers away from the database.
 */
bool
kapture_shmem_database_is_blocked(Oid dbid)
{
	bool		blocked = false;

	LWLockAcquire(shmem->lock, LW_SHARED);
	for (int i = 0; i < SHMEM_MAX_BLOCKS; i++)
	{
		ShmemBlock *block = &shmem->blocks[i];

		if (block->dbid == dbid && BackendPidGetProc(block->pid) != NULL)
			blocked = true;
	}
	LWLockRelease(shmem->lock);
	return blocked;
}

/*
 * Takes one request off the list.  Returns false if there is none.  *dbid is InvalidOid for
 * "list the databases anew"; *lost is set if requests were dropped, so that their databases
 * are not known.
 */
bool
kapture_shmem_next_request(Oid *dbid, bool *lost)
{
	bool		any;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	any = shmem->nrequests > 0;
	*lost = shmem->nrequests > SHMEM_MAX_REQUESTS;
	*dbid = InvalidOid;
	if (*lost)
		shmem->nrequests = SHMEM_MAX_REQUESTS;
	else if (any)
		*dbid = shmem->requests[--shmem->nrequests];
	LWLockRelease(shmem->lock);
	return any;
}

/* Withdraws what a pusher has reported of its servers and tables. */
static void
shmem_forget_reports(Oid dbid)
{
	bool		any = false;

	for (int i = 0; i < SHMEM_MAX_REPORTS; i++)
	{
		if (shmem->servers[i].report.dbid == dbid)
			shmem->servers[i].report.dbid = InvalidOid;
		any |= OidIsValid(shmem->servers[i].report.dbid);
	}
	for (int i = 0; i < SHMEM_MAX_TABLES; i++)
	{
		if (shmem->tables[i].dbid == dbid)
			shmem->tables[i].dbid = InvalidOid;
		any |= OidIsValid(shmem->tables[i].dbid);
	}
	if (any)
		return;
	/* all entries are free, so no search has to go on beyond one */
	for (int i = 0; i < SHMEM_MAX_REPORTS; i++)
		shmem->servers[i].passed = false;
	for (int i = 0; i < SHMEM_MAX_TABLES; i++)
		shmem->tables[i].passed = false;
}

static void
shmem_worker_detach(int code, Datum arg)
{
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	if (shmem_my_slot->kind == KAPTURE_PUSHER)
		shmem_forget_reports(shmem_my_slot->dbid);
	if (shmem_my_slot->generation == shmem_my_generation)
	{
		shmem_my_slot->state = KAPTURE_SLOT_EXITED;
		shmem_my_slot->proc = NULL;
		shmem_my_slot->pid = 0;
		if (shmem->launcher)
			SetLatch(&shmem->launcher->procLatch);
	}
	LWLockRelease(shmem->lock);
	ConditionVariableBroadcast(&shmem->exited);
}

/*
 * Takes over the slot that the launcher has reserved.  Returns false if the launcher has
 * given up on this process, which must end then.
 */
bool
kapture_shmem_worker_attach(int slot, uint32 generation, Oid dbid)
{
	ShmemSlot  *s;
	bool		mine;

	if (slot < 0 || slot >= shmem->nslots)
		return false;
	s = &shmem->slots[slot];

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	mine = s->state == KAPTURE_SLOT_STARTING && s->generation == generation && s->dbid == dbid;
	if (mine)
	{
		s->pid = MyProcPid;
		s->proc = MyProc;
	}
	LWLockRelease(shmem->lock);
	if (mine)
	{
		shmem_my_slot = s;
		shmem_my_generation = generation;
		before_shmem_exit(shmem_worker_detach, (Datum) 0);
	}
	return mine;
}

/*
 * Reports that the database has the extension and is being served.
 */
void
kapture_shmem_worker_running(void)
{
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	shmem_my_slot->state = KAPTURE_SLOT_RUNNING;
	if (shmem->launcher)
		SetLatch(&shmem->launcher->procLatch);
	LWLockRelease(shmem->lock);
}

/*
 * Reports why this worker is about to exit.
 */
void
kapture_shmem_worker_reason(KaptureExit reason)
{
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	shmem_my_slot->reason = reason;
	LWLockRelease(shmem->lock);
}

/*
 * Reports whether there are servers to pull from, so that the launcher starts a puller.
 */
void
kapture_shmem_worker_wants_puller(bool wanted)
{
	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	if (shmem_my_slot->wants_puller != wanted)
	{
		shmem_my_slot->wants_puller = wanted;
		if (wanted && shmem->launcher)
			SetLatch(&shmem->launcher->procLatch);
	}
	LWLockRelease(shmem->lock);
}

/* Returns the ban of an owner in this database, NULL if there is none.  The caller holds the lock. */
static ShmemBan *
shmem_find_ban(Oid owner)
{
	for (int i = 0; i < SHMEM_MAX_BANS; i++)
	{
		ShmemBan   *ban = &shmem->bans[i];

		if (ban->dbid == shmem_my_slot->dbid && ban->owner == owner)
			return ban;
	}
	return NULL;
}

/*
 * Notes that this process ends because of an owner's code, in an attached table.  That
 * owner's code must not run for a while, longer each time.
 */
void
kapture_shmem_worker_blame(Oid owner, int32 attachment_id, KaptureBlame blame)
{
	ShmemBan   *ban;
	TimestampTz now = GetCurrentTimestamp();
	int64		wait;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	ban = shmem_find_ban(owner);
	if (ban == NULL)
	{
		ban = &shmem->bans[0];
		for (int i = 1; i < SHMEM_MAX_BANS; i++)
		{
			if (shmem->bans[i].until < ban->until)
				ban = &shmem->bans[i];
		}
		ban->dbid = shmem_my_slot->dbid;
		ban->owner = owner;
		ban->times = 0;
	}
	else if (TimestampTzPlusMilliseconds(ban->until, SHMEM_LONGEST_BAN) < now)
		ban->times = 0;			/* the last ban was long ago */
	wait = Min(SHMEM_FIRST_BAN << Min(ban->times, 20), SHMEM_LONGEST_BAN);
	ban->times++;
	ban->attachment_id = attachment_id;
	ban->blame = blame;
	ban->until = TimestampTzPlusMilliseconds(now, wait);
	LWLockRelease(shmem->lock);
}

/*
 * Returns until when an owner's code must not run in this process; 0: it may, as it may
 * in any that is neither worker nor puller.
 */
TimestampTz
kapture_shmem_worker_banned(Oid owner)
{
	ShmemBan   *ban;
	TimestampTz until;

	if (shmem_my_slot == NULL)
		return 0;
	LWLockAcquire(shmem->lock, LW_SHARED);
	ban = shmem_find_ban(owner);
	until = ban ? ban->until : 0;
	LWLockRelease(shmem->lock);
	return until;
}

/*
 * Returns, once, what an attached table's code has done if it ended the process before this
 * one.
 */
KaptureBlame
kapture_shmem_worker_take_blame(int32 attachment_id)
{
	KaptureBlame blame = KAPTURE_BLAME_NONE;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	for (int i = 0; i < SHMEM_MAX_BANS; i++)
	{
		ShmemBan   *ban = &shmem->bans[i];

		if (ban->dbid != shmem_my_slot->dbid || ban->attachment_id != attachment_id)
			continue;
		ban->attachment_id = 0;
		blame = ban->blame;
	}
	LWLockRelease(shmem->lock);
	return blame;
}

/*
 * Returns whether a transaction has asked for attention since the last call.  Until the
 * next call, kapture_shmem_worker_is_changed() and kapture_shmem_worker_is_announced() tell
 * which tables have changed.
 */
bool
kapture_shmem_worker_take_work(void)
{
	if (pg_atomic_exchange_u32(&shmem_my_slot->work, 0) == 0)
		return false;
	shmem_take(shmem_my_slot->changed, shmem_taken);
	shmem_take(shmem_my_slot->announced, shmem_taken_announced);
	return true;
}

/*
 * Tells whether rows of an attached table may have changed or, if the number is negative,
 * rows of a followed table.
 */
bool
kapture_shmem_worker_is_changed(int32 attachment_id)
{
	return shmem_is_marked(shmem_taken, attachment_id);
}

/*
 * Tells whether more than rows of an attached table may have changed: its attachment or
 * server, or when what waits is due.
 */
bool
kapture_shmem_worker_is_announced(int32 attachment_id)
{
	return shmem_is_marked(shmem_taken_announced, attachment_id);
}

/*
 * To be called before a worker sleeps: sets whether changes of rows are to wake it.  If
 * not, the worker looks for them without being woken.  Returns false if there is something
 * to look at already.
 */
bool
kapture_shmem_worker_listen(bool listening)
{
	(void) pg_atomic_exchange_u32(&shmem_my_slot->listening, listening ? 1 : 0);
	return !listening || pg_atomic_read_u32(&shmem_my_slot->work) == 0;
}

/*
 * Tells whether this worker was asked to make way for a command.
 */
bool
kapture_shmem_worker_must_leave(void)
{
	bool		leave;

	LWLockAcquire(shmem->lock, LW_SHARED);
	leave = shmem_my_slot->leave;
	LWLockRelease(shmem->lock);
	return leave;
}

/* An owner in a database who has an entry. */
typedef struct ShmemHolder
{
	Oid			dbid;
	Oid			owner;
} ShmemHolder;

/* That a process has found nobody to give way to an owner. */
typedef struct ShmemFull
{
	int			most;			/* entries of the owner who had most */
	TimestampTz until;			/* when to look again */
} ShmemFull;

static int
shmem_compare_holders(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(ShmemHolder));
}

/*
 * All n entries are in use, and an owner of this database wants one.  Returns an entry of
 * the owner who has most, -1 if that one has hardly more.  *full spares us to find that out
 * again and again, but not for an owner who has fewer than whom it was found out for.
 */
static int
shmem_find_victim(const ShmemHolder *holders, int n, Oid owner, ShmemFull *full)
{
	static ShmemHolder sorted[SHMEM_MAX_TABLES];
	ShmemHolder mine = {MyDatabaseId, owner};
	ShmemHolder greediest = mine;
	TimestampTz now = GetCurrentTimestamp();
	int			most = 0;
	int			own = 0;
	int			count = 0;

	for (int i = 0; i < n; i++)
	{
		if (shmem_compare_holders(&holders[i], &mine) == 0)
			own++;
	}
	if (full->most <= own + 1 && now < full->until)
		return -1;
	memcpy(sorted, holders, sizeof(ShmemHolder) * n);
	qsort(sorted, n, sizeof(ShmemHolder), shmem_compare_holders);
	for (int i = 0; i < n; i++)
	{
		count = i > 0 && shmem_compare_holders(&sorted[i], &sorted[i - 1]) == 0 ? count + 1 : 1;
		if (count <= most)
			continue;
		most = count;
		greediest = sorted[i];
	}
	for (int i = 0; i < n && most > own + 1; i++)
	{
		if (shmem_compare_holders(&holders[i], &greediest) == 0)
			return i;
	}
	full->most = most;
	full->until = TimestampTzPlusMilliseconds(now, SHMEM_FULL);
	return -1;
}

/* Frees the entry of another server, if its owner has more than this one.  The caller holds the lock. */
static void
shmem_make_room_for_server(Oid owner)
{
	static ShmemFull full = {0};
	ShmemHolder holders[SHMEM_MAX_REPORTS];
	int			victim;

	for (int i = 0; i < SHMEM_MAX_REPORTS; i++)
		holders[i] = (ShmemHolder){shmem->servers[i].report.dbid, shmem->servers[i].report.owner};
	victim = shmem_find_victim(holders, SHMEM_MAX_REPORTS, owner, &full);
	if (victim >= 0)
		shmem->servers[victim].report.dbid = InvalidOid;
}

/* Returns the entry of a server's report, else a free one if "make", or NULL.  The caller holds the lock. */
static ShmemServer *
shmem_find_server(const char *name, Oid owner, bool make)
{
	uint32		hash = hash_combine(hash_bytes((const unsigned char *) name, strlen(name)),
									hash_combine(murmurhash32(MyDatabaseId), murmurhash32(owner)));
	ShmemServer *free = NULL;

	for (int i = 0; i < SHMEM_MAX_REPORTS; i++)
	{
		ShmemServer *server = &shmem->servers[(hash + i) % SHMEM_MAX_REPORTS];
		KaptureServerReport *report = &server->report;

		if (report->dbid == MyDatabaseId && report->owner == owner && strcmp(NameStr(report->server), name) == 0)
			return server;
		if (!OidIsValid(report->dbid) && free == NULL)
			free = server;
		if (!server->passed)
			break;
	}
	return make ? free : NULL;
}

/*
 * Makes a server's state visible in kapture_status.  The message is cut to
 * what fits.  Returns false if there is no room for another server.
 */
bool
kapture_shmem_report_server(const char *name, Oid owner, KaptureServerState state,
							TimestampTz retry_at, const char *message)
{
	ShmemServer *server;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	server = shmem_find_server(name, owner, true);
	if (server == NULL)
	{
		shmem_make_room_for_server(owner);
		server = shmem_find_server(name, owner, true);
	}
	if (server)
	{
		KaptureServerReport *report = &server->report;

		if (report->dbid != MyDatabaseId || report->state != state)
			report->since = GetCurrentTimestamp();
		server->passed = true;
		report->dbid = MyDatabaseId;
		namestrcpy(&report->server, name);
		report->owner = owner;
		report->state = state;
		report->retry_at = retry_at;
		strlcpy(report->message, message,
				pg_mbcliplen(message, strlen(message), KAPTURE_STATE_MESSAGE_LEN - 1) + 1);
	}
	LWLockRelease(shmem->lock);
	return server != NULL;
}

/*
 * Withdraws a server's state, as nothing goes to the server any more.
 */
void
kapture_shmem_withdraw_server(const char *name, Oid owner)
{
	ShmemServer *server;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	server = shmem_find_server(name, owner, false);
	if (server)
		server->report.dbid = InvalidOid;
	LWLockRelease(shmem->lock);
}

/*
 * Copies the next report of this database at or after position *i, and moves *i behind it.
 * Returns false if there is none.
 */
bool
kapture_shmem_read_report(int *i, KaptureServerReport *report)
{
	bool		found = false;

	if (shmem == NULL)
		return false;
	LWLockAcquire(shmem->lock, LW_SHARED);
	while (!found && *i < SHMEM_MAX_REPORTS)
	{
		*report = shmem->servers[(*i)++].report;
		found = report->dbid == MyDatabaseId;
	}
	LWLockRelease(shmem->lock);
	return found;
}

/* Returns the entry of a table's report, else a free one if "make", or NULL.  The caller holds the lock. */
static ShmemTable *
shmem_find_table(int32 attachment_id, bool make)
{
	uint32		hash = hash_combine(murmurhash32(MyDatabaseId), murmurhash32((uint32) attachment_id));
	ShmemTable *free = NULL;

	for (int i = 0; i < SHMEM_MAX_TABLES; i++)
	{
		ShmemTable *table = &shmem->tables[(hash + i) % SHMEM_MAX_TABLES];

		if (table->dbid == MyDatabaseId && table->attachment_id == attachment_id)
			return table;
		if (!OidIsValid(table->dbid) && free == NULL)
			free = table;
		if (!table->passed)
			break;
	}
	return make ? free : NULL;
}

/* Frees the entry of another table, if its owner has more than this one.  The caller holds the lock. */
static void
shmem_make_room_for_table(Oid owner)
{
	static ShmemFull full = {0};
	ShmemHolder holders[SHMEM_MAX_TABLES];
	int			victim;

	for (int i = 0; i < SHMEM_MAX_TABLES; i++)
		holders[i] = (ShmemHolder){shmem->tables[i].dbid, shmem->tables[i].owner};
	victim = shmem_find_victim(holders, SHMEM_MAX_TABLES, owner, &full);
	if (victim >= 0)
		shmem->tables[victim].dbid = InvalidOid;
}

/*
 * Reports how far this worker is with a table of an owner.  Returns false if there is no
 * room for another table.
 */
bool
kapture_shmem_report_table(int32 attachment_id, Oid owner, const KaptureTableReport *report)
{
	ShmemTable *table;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	table = shmem_find_table(attachment_id, true);
	if (table == NULL)
	{
		shmem_make_room_for_table(owner);
		table = shmem_find_table(attachment_id, true);
	}
	if (table)
	{
		table->passed = true;
		table->dbid = MyDatabaseId;
		table->owner = owner;
		table->attachment_id = attachment_id;
		table->report = *report;
	}
	LWLockRelease(shmem->lock);
	return table != NULL;
}

/*
 * Withdraws a table's report, as the table is no longer attached.
 */
void
kapture_shmem_withdraw_table(int32 attachment_id)
{
	ShmemTable *table;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	table = shmem_find_table(attachment_id, false);
	if (table)
		table->dbid = InvalidOid;
	LWLockRelease(shmem->lock);
}

/*
 * Fills in how far this database's worker is with a table; zeros if there is no worker, or
 * no report of the table.
 */
void
kapture_shmem_read_table(int32 attachment_id, KaptureTableReport *report)
{
	ShmemTable *table;

	memset(report, 0, sizeof(*report));
	if (shmem == NULL)
		return;
	LWLockAcquire(shmem->lock, LW_SHARED);
	table = shmem_find_table(attachment_id, false);
	if (table)
		*report = table->report;
	LWLockRelease(shmem->lock);
}

/* Returns the entry of a worker's error with a table, or NULL.  The caller holds the lock. */
static ShmemTrouble *
shmem_find_trouble(KaptureWorkerKind kind, int32 attachment_id)
{
	for (int i = 0; i < SHMEM_MAX_TROUBLES; i++)
	{
		ShmemTrouble *t = &shmem->troubles[i];

		if (t->dbid == MyDatabaseId && t->kind == kind && t->attachment_id == attachment_id)
			return t;
	}
	return NULL;
}

/*
 * Returns a free entry for an error with a table of this owner, or that of the oldest error
 * of the owner who has most.  The caller holds the lock.
 */
static ShmemTrouble *
shmem_make_trouble(Oid owner)
{
	ShmemHolder holders[SHMEM_MAX_TROUBLES];
	ShmemHolder holder = {MyDatabaseId, owner};
	ShmemTrouble *oldest = NULL;
	ShmemFull	full = {0};
	int			victim;

	for (int i = 0; i < SHMEM_MAX_TROUBLES; i++)
	{
		ShmemTrouble *t = &shmem->troubles[i];

		if (!OidIsValid(t->dbid))
			return t;
		holders[i] = (ShmemHolder){t->dbid, t->owner};
	}
	victim = shmem_find_victim(holders, SHMEM_MAX_TROUBLES, owner, &full);
	if (victim >= 0)
		holder = holders[victim];
	for (int i = 0; i < SHMEM_MAX_TROUBLES; i++)
	{
		ShmemTrouble *t = &shmem->troubles[i];

		if (shmem_compare_holders(&holders[i], &holder) == 0 && (oldest == NULL || t->trouble.since < oldest->trouble.since))
			oldest = t;
	}
	return oldest ? oldest : &shmem->troubles[0];
}

/*
 * Reports the error that keeps a worker of this database from its work on an attached table
 * of an owner (0 and InvalidOid: from all its work); NULL: there is none any more, whoever
 * owns the table.  The report outlives the process.
 */
void
kapture_shmem_report_trouble(KaptureWorkerKind kind, int32 attachment_id, Oid owner, const KaptureTrouble *trouble)
{
	ShmemTrouble *t;

	LWLockAcquire(shmem->lock, LW_EXCLUSIVE);
	t = shmem_find_trouble(kind, attachment_id);
	if (t == NULL && trouble)
		t = shmem_make_trouble(owner);
	if (t && trouble)
	{
		t->dbid = MyDatabaseId;
		t->kind = kind;
		t->attachment_id = attachment_id;
		t->owner = owner;
		t->trouble = *trouble;
	}
	else if (t)
		t->dbid = InvalidOid;
	LWLockRelease(shmem->lock);
}

/*
 * Fills in the error that was reported for an attached table (0: for all) of this database.
 * Returns false if there is none.
 */
bool
kapture_shmem_read_trouble(KaptureWorkerKind kind, int32 attachment_id, KaptureTrouble *trouble)
{
	ShmemTrouble *t;

	memset(trouble, 0, sizeof(*trouble));
	if (shmem == NULL)
		return false;
	LWLockAcquire(shmem->lock, LW_SHARED);
	t = shmem_find_trouble(kind, attachment_id);
	if (t)
		*trouble = t->trouble;
	LWLockRelease(shmem->lock);
	return t != NULL;
}
