/*
 * limiter.c
 *		Options max_connections and rate_limit, for all processes of a database
 *		together.
 *
 * Worker, puller and sessions take a place here for each request, just before the request
 * starts, and release it when the request has ended.  A process that gets no place is
 * queued.  Places are given in turn to the parties that wait, one to each: the worker, the
 * puller, and each role with all its sessions.  So none of them starves another, however
 * many requests or sessions it has.  The process that is next is woken by its latch; if it
 * does not come then, it loses its turn.
 *
 * A session that leaves a cursor alone does not see that its request has ended.  So the
 * place of a request is given to another one when the request's time is up, whatever its
 * process does.
 *
 * All databases share this memory.  If it is full, the owner whose servers have most of it
 * gives way to the others: requests of these servers are no longer counted, so that
 * their own limits are exceeded.
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
#include "utils/builtins.h"
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

/* Parties of which it is remembered, for one server, when they were served. */
#define LIMITER_PARTIES		16

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
	int			generation;		/* counts up; tells this request from later ones in the same place */
	int			entry;			/* index of the server's entry */
	int			next;			/* of the server's places, or of the free ones; -1: none */
	int			previous;		/* of the server's places */
	TimestampTz expires;
} LimiterPlace;

/*
 * What takes turns: KaptureLimiterParty, or the oid of a session's role.  "round" counts up
 * with the turns that a party has had; nobody is served twice before others of an earlier round.
 */
typedef struct LimiterTurn
{
	uint64		party;
	uint64		round;			/* of a party that was served: the last one; 0: the entry is free */
} LimiterTurn;

typedef struct LimiterWaiter
{
	PGPROC	   *proc;
	TimestampTz expected;		/* when the process is to look again */
	LimiterTurn turn;
} LimiterWaiter;

typedef struct LimiterEntry
{
	Oid			dbid;
	Oid			serverid;		/* InvalidOid: the entry is free */
	Oid			owner;			/* of the server */
	int			in_flight;
	int			first;			/* of the places of these requests; -1: none */
	TimestampTz next_start;		/* by rate_limit */
	TimestampTz next_expiry;	/* when to look for places whose time is up */
	uint64		round;			/* of the last turn */
	LimiterTurn served[LIMITER_PARTIES];
	int			nwaiting;
	LimiterWaiter waiting[LIMITER_QUEUE];	/* in the order of their turns */
} LimiterEntry;

typedef struct LimiterState
{
	int			free;			/* first free place; -1: none */
	LimiterPlace places[LIMITER_PLACES];
	LimiterEntry entries[LIMITER_SERVERS];
} LimiterState;

/* How much of this memory the servers of an owner have. */
typedef struct LimiterShare
{
	Oid			owner;			/* first, to be sorted by */
	int			n;
} LimiterShare;

static LimiterState *limiter_state = NULL;
static LWLock *limiter_state_lock = NULL;	/* NULL: the state is this process's own */
static uint64 limiter_party = KAPTURE_LIMITER_SESSION;
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

/* Frees all places and entries of a state that is all zeros. */
static void
limiter_clean(LimiterState *state)
{
	for (int i = 0; i < LIMITER_PLACES; i++)
		state->places[i].next = i + 1 < LIMITER_PLACES ? i + 1 : -1;
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
	{
		memset(limiter_state, 0, sizeof(LimiterState));
		limiter_clean(limiter_state);
	}
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

/*
 * To be called in a process of ours: its turns are not those of its role.
 */
void
kapture_limiter_enter_process(KaptureLimiterParty party)
{
	limiter_party = party;
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

/* Returns the turn that this process has if it asks now. */
static LimiterTurn
limiter_turn(const LimiterEntry *entry)
{
	LimiterTurn turn = {limiter_party == KAPTURE_LIMITER_SESSION ? GetSessionUserId() : limiter_party, Max(entry->round, 1)};

	for (int i = 0; i < LIMITER_PARTIES; i++)
	{
		if (entry->served[i].party == turn.party)
			turn.round = Max(turn.round, entry->served[i].round + 1);
	}
	for (int i = 0; i < entry->nwaiting; i++)
	{
		if (entry->waiting[i].turn.party == turn.party)
			turn.round = Max(turn.round, entry->waiting[i].turn.round + 1);
	}
	return turn;
}

/* Notes that a turn was used. */
static void
limiter_use_turn(LimiterEntry *entry, const LimiterTurn *turn)
{
	LimiterTurn *served = &entry->served[0];

	for (int i = 0; i < LIMITER_PARTIES; i++)
	{
		if (entry->served[i].party == turn->party)
		{
			served = &entry->served[i];
			break;
		}
		if (entry->served[i].round < served->round)
			served = &entry->served[i];
	}
	*served = *turn;
	entry->round = Max(entry->round, turn->round);
}

/*
 * Drops processes that have not come back from the queue.  Returns the position in it that
 * this process has, or would have; sets *turn to its turn, *queued to whether it is in the queue.
 */
static int
limiter_position(LimiterEntry *entry, TimestampTz now, LimiterTurn *turn, bool *queued)
{
	int			position = 0;

	*queued = false;
	while (position < entry->nwaiting && entry->waiting[position].proc != MyProc)
	{
		if (now > TimestampTzPlusMilliseconds(entry->waiting[position].expected, LIMITER_PATIENCE))
			limiter_dequeue(entry, position);
		else
			position++;
	}
	if (position < entry->nwaiting)
	{
		*queued = true;
		*turn = entry->waiting[position].turn;
		return position;
	}
	*turn = limiter_turn(entry);
	while (position > 0 && entry->waiting[position - 1].turn.round > turn->round)
		position--;
	return position;
}

/* Queues this process, if there is room, or notes that it still waits; it is to look again at "when". */
static void
limiter_enqueue(LimiterEntry *entry, int position, const LimiterTurn *turn, bool queued, TimestampTz when)
{
	LimiterWaiter *waiter = &entry->waiting[position];

	if (!queued)
	{
		if (position == LIMITER_QUEUE)
			return;
		/* whoever has the last turn loses it */
		if (entry->nwaiting == LIMITER_QUEUE)
			entry->nwaiting--;
		memmove(waiter + 1, waiter, sizeof(LimiterWaiter) * (entry->nwaiting - position));
		entry->nwaiting++;
		waiter->proc = MyProc;
		waiter->turn = *turn;
	}
	waiter->expected = when;
}

/* ------------------------------------------------------------------------
 * Places
 * ------------------------------------------------------------------------
 */

/* Frees a place: its request is not counted any more. */
static void
limiter_clear(LimiterPlace *place)
{
	LimiterPlace *places = limiter_state->places;
	LimiterEntry *entry = &limiter_state->entries[place->entry];

	if (place->previous >= 0)
		places[place->previous].next = place->next;
	else
		entry->first = place->next;
	if (place->next >= 0)
		places[place->next].previous = place->previous;
	entry->in_flight--;
	place->pid = 0;
	place->next = limiter_state->free;
	limiter_state->free = place - places;
}

/* Frees the places of a server whose time is up. */
static void
limiter_expire(LimiterEntry *entry, TimestampTz now)
{
	int			next;

	for (int i = entry->first; i >= 0; i = next)
	{
		LimiterPlace *place = &limiter_state->places[i];

		next = place->next;
		if (place->expires < now)
			limiter_clear(place);
	}
}

/* Frees the places of all servers whose time is up. */
static void
limiter_expire_all(TimestampTz now)
{
	for (int i = 0; i < LIMITER_SERVERS; i++)
	{
		if (limiter_state->entries[i].serverid != InvalidOid)
			limiter_expire(&limiter_state->entries[i], now);
	}
}

/* ------------------------------------------------------------------------
 * Shares
 * ------------------------------------------------------------------------
 */

/*
 * Returns the owner whose servers have most places, or else entries, if it is to give way to
 * another one; InvalidOid: it is not.
 */
static Oid
limiter_greediest(Oid owner, bool places)
{
	LimiterShare shares[LIMITER_SERVERS];
	int			nshares = 0;
	const LimiterShare *most = NULL;
	int			own = 0;

	for (int i = 0; i < LIMITER_SERVERS; i++)
	{
		const LimiterEntry *entry = &limiter_state->entries[i];

		if (entry->serverid != InvalidOid)
			shares[nshares++] = (LimiterShare){entry->owner, places ? entry->in_flight : 1};
	}
	qsort(shares, nshares, sizeof(LimiterShare), oid_cmp);
	for (int i = 0; i < nshares; i++)
	{
		if (i > 0 && shares[i].owner == shares[i - 1].owner)
			shares[i].n += shares[i - 1].n;
		if (most == NULL || shares[i].n > most->n)
			most = &shares[i];
		if (shares[i].owner == owner)
			own = shares[i].n;
	}
	return most && most->n > own + 1 ? most->owner : InvalidOid;
}

/* The entry of a server of an owner with the most requests, or with the fewest; NULL if there is none. */
static LimiterEntry *
limiter_busiest(Oid owner, bool most)
{
	LimiterEntry *result = NULL;

	for (int i = 0; OidIsValid(owner) && i < LIMITER_SERVERS; i++)
	{
		LimiterEntry *entry = &limiter_state->entries[i];

		if (entry->serverid != InvalidOid && entry->owner == owner &&
			(result == NULL || (most ? entry->in_flight > result->in_flight : entry->in_flight < result->in_flight)))
			result = entry;
	}
	return result;
}

/* Takes an entry from the owner who has most; NULL if nobody has more than this one. */
static LimiterEntry *
limiter_take_entry(Oid owner)
{
	LimiterEntry *entry = limiter_busiest(limiter_greediest(owner, false), false);

	while (entry && entry->first >= 0)
		limiter_clear(&limiter_state->places[entry->first]);
	return entry;
}

/* Sees to it that a place is free, if it may be taken from an owner who has most. */
static void
limiter_take_place(Oid owner, TimestampTz now)
{
	LimiterEntry *entry;

	limiter_expire_all(now);
	if (limiter_state->free >= 0)
		return;
	entry = limiter_busiest(limiter_greediest(owner, true), true);
	if (entry && entry->first >= 0)
		limiter_clear(&limiter_state->places[entry->first]);
}

/* Is nothing lost if the entry is forgotten? */
static bool
limiter_is_idle(const LimiterEntry *entry, TimestampTz now)
{
	return entry->in_flight == 0 && entry->next_start < now;
}

/* Looks for the entry of a server; NULL if it has none.  Sets *idle to one that is free, if there is one. */
static LimiterEntry *
limiter_look_up(Oid serverid, TimestampTz now, LimiterEntry **idle)
{
	uint32		start = (MyDatabaseId * 31 + serverid) % LIMITER_SERVERS;

	*idle = NULL;
	for (uint32 i = 0; i < LIMITER_SERVERS; i++)
	{
		LimiterEntry *entry = &limiter_state->entries[(start + i) % LIMITER_SERVERS];

		if (entry->serverid == serverid && entry->dbid == MyDatabaseId)
			return entry;
		if (*idle == NULL && (entry->serverid == InvalidOid || limiter_is_idle(entry, now)))
			*idle = entry;
		if (entry->serverid == InvalidOid)
			break;
	}
	return NULL;
}

/* Returns the entry of a server; NULL if all entries are in use, and the owner has no fewer than others. */
static LimiterEntry *
limiter_find(Oid serverid, Oid owner, TimestampTz now)
{
	LimiterEntry *idle;
	LimiterEntry *entry = limiter_look_up(serverid, now, &idle);

	if (entry == NULL && idle == NULL)
	{
		limiter_expire_all(now);
		(void) limiter_look_up(serverid, now, &idle);
	}
	if (entry == NULL)
	{
		entry = idle ? idle : limiter_take_entry(owner);
		if (entry == NULL)
			return NULL;
		memset(entry, 0, sizeof(LimiterEntry));
		entry->dbid = MyDatabaseId;
		entry->serverid = serverid;
		entry->first = -1;
		/* before a restart, others may have used up the requests of that second */
		entry->next_start = Min(kapture_steady_at(PgStartTime), now) + USECS_PER_SEC;
	}
	entry->owner = owner;
	return entry;
}

/* Gives a free place to a server's request; KAPTURE_LIMITER_NONE if there is none. */
static int
limiter_give(LimiterEntry *entry, TimestampTz now, TimestampTz expires)
{
	LimiterPlace *place;
	int			n;

	if (limiter_state->free < 0)
		limiter_take_place(entry->owner, now);
	n = limiter_state->free;
	if (n < 0)
		return KAPTURE_LIMITER_NONE;
	place = &limiter_state->places[n];
	limiter_state->free = place->next;
	place->pid = MyProcPid;
	place->generation = (place->generation + 1) % (PG_INT32_MAX / LIMITER_PLACES);
	place->entry = entry - limiter_state->entries;
	place->expires = expires;
	place->next = entry->first;
	place->previous = -1;
	if (entry->first >= 0)
		limiter_state->places[entry->first].previous = n;
	entry->first = n;
	entry->in_flight++;
	return place->generation * LIMITER_PLACES + n;
}

/* At the end of a process: gives back its places. */
static void
limiter_exit(int code, Datum arg)
{
	limiter_lock();
	for (int i = 0; i < LIMITER_PLACES; i++)
	{
		LimiterPlace *place = &limiter_state->places[i];

		if (place->pid != MyProcPid)
			continue;
		limiter_clear(place);
		limiter_wake(&limiter_state->entries[place->entry]);
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
	{
		limiter_state = MemoryContextAllocZero(TopMemoryContext, sizeof(LimiterState));
		limiter_clean(limiter_state);
	}
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
	if (entry->in_flight >= max_connections && entry->next_expiry <= now)
	{
		entry->next_expiry = TimestampTzPlusMilliseconds(now, LIMITER_LOOK);
		limiter_expire(entry, now);
	}
	if (entry->in_flight >= max_connections)
		return TimestampTzPlusMilliseconds(now, LIMITER_LOOK);
	if (rate_limit > 0 && entry->next_start > now)
		return entry->next_start + (TimestampTz) (position * USECS_PER_SEC / rate_limit);
	return position > 0 ? TimestampTzPlusMilliseconds(now, LIMITER_PATIENCE) : 0;
}

/*
 * Takes a place for a request that starts now and has this timeout (milliseconds), to a
 * server with this owner.  Returns the place, to be released when the request has ended, or
 * KAPTURE_LIMITER_NONE.  Then *when is the latest time to ask again; if it is the process's
 * turn earlier, its latch is set.  rate_limit is in requests a second, 0 for none.
 */
int
kapture_limiter_take(Oid serverid, Oid owner, int max_connections, double rate_limit, int64 timeout, TimestampTz *when)
{
	TimestampTz now = kapture_steady_now();
	LimiterEntry *entry;
	int			taken = KAPTURE_LIMITER_NONE;

	limiter_initialize();
	*when = TimestampTzPlusMilliseconds(now, LIMITER_LOOK);
	limiter_lock();
	entry = limiter_find(serverid, owner, now);
	if (entry)					/* else, the owner's other servers have all that it may have */
	{
		LimiterTurn turn;
		bool		queued;
		int			position = limiter_position(entry, now, &turn, &queued);
		TimestampTz next = limiter_next(entry, position, max_connections, rate_limit, now);

		if (next != 0)
		{
			*when = next;
			limiter_enqueue(entry, position, &turn, queued, next);
		}
		else
			taken = limiter_give(entry, now, TimestampTzPlusMilliseconds(now, timeout + LIMITER_GRACE));
		if (taken != KAPTURE_LIMITER_NONE)
		{
			if (queued)
				limiter_dequeue(entry, 0);
			limiter_use_turn(entry, &turn);
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
 * Releases a place that kapture_limiter_take() returned, unless somebody else has it by now.
 */
void
kapture_limiter_release(int taken)
{
	LimiterPlace *place;

	if (taken == KAPTURE_LIMITER_NONE)
		return;
	limiter_lock();
	place = &limiter_state->places[taken % LIMITER_PLACES];
	if (place->pid == MyProcPid && place->generation == taken / LIMITER_PLACES)
	{
		limiter_clear(place);
		limiter_wake(&limiter_state->entries[place->entry]);
	}
	limiter_unlock();
}
