/*
 * limiter.c
 *		Options max_connections and rate_limit, for all processes of a database
 *		together.
 *
 * Worker, puller and sessions take a place here for each request, just before the request
 * starts, and release it when the request has ended.  A process that gets no place is
 * queued.  Places are given to waiting processes in turn, one to each, so that none of them
 * starves another, however many requests it has.  The process that is next is woken by its
 * latch; if it does not come then, it loses its turn.
 *
 * A session that leaves a cursor alone does not see that its request has ended.  So the
 * place of a request is given to another one when the request's time is up, whatever its
 * process does.
 *
 * All times here are those of the steady clock.
 *
 * Without the library preloaded there is no shared memory: then the limits hold
 * for each session separately.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/steady.h"
#include "traffic/limiter.h"
#include "traffic/pacing.h"

#define LIMITER_SERVERS		1024

/* Places for requests of all processes together. */
#define LIMITER_PLACES		8192

/* Processes that can be queued for one server; others try again and again. */
#define LIMITER_QUEUE		32

/* Milliseconds after which a process that was not woken looks again. */
#define LIMITER_LOOK		100

/* Milliseconds for which a turn is kept for a process that does not come. */
#define LIMITER_PATIENCE	50

/* Milliseconds that a request may take beyond its timeout. */
#define LIMITER_GRACE		1000

/* A request that is in flight. */
typedef struct LimiterPlace
{
	int			pid;			/* 0: the place is free */
	int			entry;			/* index of the server's entry; -1: the request's time is up */
	TimestampTz expires;
} LimiterPlace;

typedef struct LimiterWaiter
{
	PGPROC	   *proc;
	TimestampTz expected;		/* when the process is to look again */
} LimiterWaiter;

typedef struct LimiterEntry
{
	Oid			dbid;
	Oid			serverid;		/* InvalidOid: the entry is free */
	int			in_flight;
	TimestampTz next_start;		/* by rate_limit */
	TimestampTz next_expiry;	/* when to look for places whose time is up */
	int			nwaiting;
	LimiterWaiter waiting[LIMITER_QUEUE];	/* in the order of their turns */
} LimiterEntry;

typedef struct LimiterState
{
	int			last_place;		/* the place that was given last */
	LimiterPlace places[LIMITER_PLACES];
	LimiterEntry entries[LIMITER_SERVERS];
} LimiterState;

static LimiterState *limiter_state = NULL;
static LWLock *limiter_state_lock = NULL;	/* NULL: the state is this process's own */
static shmem_request_hook_type limiter_prev_request_hook = NULL;
static shmem_startup_hook_type limiter_prev_startup_hook = NULL;

/* ------------------------------------------------------------------------
 * Set-up
 * ------------------------------------------------------------------------
 */

static void
limiter_request(void)
{
	if (limiter_prev_request_hook)
		limiter_prev_request_hook();
	RequestAddinShmemSpace(sizeof(LimiterState));
	RequestNamedLWLockTranche("kapture_sync_limiter", 1);
}

static void
limiter_startup(void)
{
	bool		found;

	if (limiter_prev_startup_hook)
		limiter_prev_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	limiter_state = ShmemInitStruct("kapture_sync limiter", sizeof(LimiterState), &found);
	if (!found)
		memset(limiter_state, 0, sizeof(LimiterState));
	limiter_state_lock = &(GetNamedLWLockTranche("kapture_sync_limiter"))->lock;
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Asks for the shared memory.  Called from _PG_init() while the postmaster
 * preloads libraries.
 */
void
kapture_limiter_install(void)
{
	limiter_prev_request_hook = shmem_request_hook;
	shmem_request_hook = limiter_request;
	limiter_prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = limiter_startup;
}

static void
limiter_lock(void)
{
	if (limiter_state_lock)
		LWLockAcquire(limiter_state_lock, LW_EXCLUSIVE);
}

static void
limiter_unlock(void)
{
	if (limiter_state_lock)
		LWLockRelease(limiter_state_lock);
}

/* ------------------------------------------------------------------------
 * Turns
 * ------------------------------------------------------------------------
 */

/* Wakes the process whose turn it is. */
static void
limiter_wake(const LimiterEntry *entry)
{
	if (entry->nwaiting > 0 && entry->waiting[0].proc != MyProc)
		SetLatch(&entry->waiting[0].proc->procLatch);
}

/* Takes a process out of the queue. */
static void
limiter_dequeue(LimiterEntry *entry, int position)
{
	entry->nwaiting--;
	memmove(entry->waiting + position, entry->waiting + position + 1,
			sizeof(LimiterWaiter) * (entry->nwaiting - position));
}

/* Drops processes that have not come back from the queue; returns our position in it. */
static int
limiter_position(LimiterEntry *entry, TimestampTz now)
{
	int			position = 0;

	while (position < entry->nwaiting && entry->waiting[position].proc != MyProc)
	{
		if (now > TimestampTzPlusMilliseconds(entry->waiting[position].expected, LIMITER_PATIENCE))
			limiter_dequeue(entry, position);
		else
			position++;
	}
	return position;
}

/* Queues this process, or notes that it still waits; returns when it is to look again. */
static TimestampTz
limiter_enqueue(LimiterEntry *entry, int position, TimestampTz when)
{
	if (position == entry->nwaiting)
	{
		if (position == LIMITER_QUEUE)
			return when;
		entry->nwaiting++;
		entry->waiting[position].proc = MyProc;
	}
	entry->waiting[position].expected = when;
	return when;
}

/* Is nothing lost if the entry is forgotten? */
static bool
limiter_is_idle(const LimiterEntry *entry, TimestampTz now)
{
	return entry->in_flight == 0 && entry->next_start < now;
}

/* Returns the entry of a server; NULL if all entries are in use. */
static LimiterEntry *
limiter_find(Oid serverid, TimestampTz now)
{
	LimiterEntry *idle = NULL;
	uint32		start = (MyDatabaseId * 31 + serverid) % LIMITER_SERVERS;

	for (uint32 i = 0; i < LIMITER_SERVERS; i++)
	{
		LimiterEntry *entry = &limiter_state->entries[(start + i) % LIMITER_SERVERS];

		if (entry->serverid == serverid && entry->dbid == MyDatabaseId)
			return entry;
		if (idle == NULL && (entry->serverid == InvalidOid || limiter_is_idle(entry, now)))
			idle = entry;
		if (entry->serverid == InvalidOid)
			break;
	}
	if (idle)
	{
		memset(idle, 0, sizeof(LimiterEntry));
		idle->dbid = MyDatabaseId;
		idle->serverid = serverid;
		/* before a restart, others may have used up the requests of that second */
		idle->next_start = Min(kapture_steady_at(PgStartTime), now) + USECS_PER_SEC;
	}
	return idle;
}

/* ------------------------------------------------------------------------
 * Places
 * ------------------------------------------------------------------------
 */

/* Gives a free place to a server's request; KAPTURE_LIMITER_NONE if there is none. */
static int
limiter_give(LimiterEntry *entry, TimestampTz expires)
{
	for (int i = 0; i < LIMITER_PLACES; i++)
	{
		int			n = (limiter_state->last_place + 1 + i) % LIMITER_PLACES;
		LimiterPlace *place = &limiter_state->places[n];

		if (place->pid != 0)
			continue;
		place->pid = MyProcPid;
		place->entry = entry - limiter_state->entries;
		place->expires = expires;
		entry->in_flight++;
		limiter_state->last_place = n;
		return n;
	}
	return KAPTURE_LIMITER_NONE;
}

/* Stops counting the request of a place. */
static void
limiter_clear(LimiterPlace *place)
{
	if (place->entry < 0)
		return;
	limiter_state->entries[place->entry].in_flight--;
	place->entry = -1;
}

/* Stops counting a server's requests whose time is up, at most every LIMITER_LOOK. */
static void
limiter_expire(LimiterEntry *entry, TimestampTz now)
{
	if (entry->next_expiry > now)
		return;
	entry->next_expiry = TimestampTzPlusMilliseconds(now, LIMITER_LOOK);
	for (int i = 0; i < LIMITER_PLACES; i++)
	{
		LimiterPlace *place = &limiter_state->places[i];

		if (place->pid != 0 && place->entry == entry - limiter_state->entries && place->expires < now)
			limiter_clear(place);
	}
}

/* At the end of a process: gives back its places. */
static void
limiter_exit(int code, Datum arg)
{
	limiter_lock();
	for (int i = 0; i < LIMITER_PLACES; i++)
	{
		LimiterPlace *place = &limiter_state->places[i];
		LimiterEntry *entry = place->entry < 0 ? NULL : &limiter_state->entries[place->entry];

		if (place->pid != MyProcPid)
			continue;
		limiter_clear(place);
		place->pid = 0;
		if (entry)
			limiter_wake(entry);
	}
	limiter_unlock();
}

/* Initializes the limiter, once in each process. */
static void
limiter_initialize(void)
{
	static bool done = false;

	if (done)
		return;
	if (limiter_state == NULL)
		limiter_state = MemoryContextAllocZero(TopMemoryContext, sizeof(LimiterState));
	before_shmem_exit(limiter_exit, (Datum) 0);
	done = true;
}

/*
 * Returns when the process at a position in the queue may start a request; 0: now.  Else,
 * it is when the process is to look again.
 */
static TimestampTz
limiter_next(LimiterEntry *entry, int position, int max_connections, double rate_limit, TimestampTz now)
{
	if (entry->in_flight >= max_connections)
		limiter_expire(entry, now);
	if (entry->in_flight >= max_connections)
		return TimestampTzPlusMilliseconds(now, LIMITER_LOOK);
	if (rate_limit > 0 && entry->next_start > now)
		return entry->next_start + (TimestampTz) (position * USECS_PER_SEC / rate_limit);
	return position > 0 ? TimestampTzPlusMilliseconds(now, LIMITER_PATIENCE) : 0;
}

/*
 * Takes a place for a request that starts now and has this timeout (milliseconds).  Returns
 * the place, to be released when the request has ended, or KAPTURE_LIMITER_NONE.  Then
 * *when is the latest time to ask again; if it is the process's turn earlier, its latch is
 * set.  rate_limit is in requests a second, 0 for none.
 */
int
kapture_limiter_take(Oid serverid, int max_connections, double rate_limit, int64 timeout, TimestampTz *when)
{
	TimestampTz now = kapture_steady_now();
	LimiterEntry *entry;
	int			taken = KAPTURE_LIMITER_NONE;

	limiter_initialize();
	*when = TimestampTzPlusMilliseconds(now, LIMITER_LOOK);
	limiter_lock();
	entry = limiter_find(serverid, now);
	if (entry)					/* else, all entries are in use for other servers */
	{
		int			position = limiter_position(entry, now);
		TimestampTz next = limiter_next(entry, position, max_connections, rate_limit, now);

		if (next != 0)
			*when = limiter_enqueue(entry, position, next);
		else
			taken = limiter_give(entry, TimestampTzPlusMilliseconds(now, timeout + LIMITER_GRACE));
		if (taken != KAPTURE_LIMITER_NONE)
		{
			if (entry->nwaiting > 0 && entry->waiting[0].proc == MyProc)
				limiter_dequeue(entry, 0);
			if (rate_limit > 0)
				entry->next_start = kapture_pacing_next_start(entry->next_start, now, rate_limit);
			else if (entry->in_flight < max_connections)
				limiter_wake(entry);	/* with a rate limit, the next process knows its time */
		}
	}
	limiter_unlock();
	if (taken == KAPTURE_LIMITER_NONE)
		*when = kapture_steady_to_wall(*when);
	return taken;
}

/*
 * Releases a place that kapture_limiter_take() returned.
 */
void
kapture_limiter_release(int taken)
{
	LimiterPlace *place;
	int			entry;

	if (taken == KAPTURE_LIMITER_NONE)
		return;
	limiter_lock();
	place = &limiter_state->places[taken];
	entry = place->entry;
	limiter_clear(place);
	place->pid = 0;
	if (entry >= 0)
		limiter_wake(&limiter_state->entries[entry]);
	limiter_unlock();
}
