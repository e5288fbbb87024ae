/*
 * rotation.c
 *		Whose request to a server is next: owners take turns.
 *
 * The limits of a server (max_connections, rate_limit) hold for all that is sent to it.
 * The limiter gives places to processes in turn; in this process, rows and queued calls of
 * several owners may wait for the same server.  The owner who has not sent anything to it
 * for the longest is next.  So nobody waits for more than one turn of each other owner,
 * however many requests these have queued.  An owner's rows and calls of each API take
 * turns in the same way, within the owner's turn.
 *
 * An owner who is alone at a server sends all that may be sent at once.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "push/rotation.h"

/* Requests of a turn while others wait for the same server: a longer turn would cost these their places. */
#define ROTATION_BURST		4

/* An owner at a server. */
typedef struct KaptureRotatingOwner
{
	dlist_node	node;
	Oid			owner;
	NameData	server;
	int			uses;
	uint64		last;			/* number of the owner's last turn */
} KaptureRotatingOwner;

static dlist_head rotation_owners = DLIST_STATIC_INIT(rotation_owners);
static dlist_head rotation_all = DLIST_STATIC_INIT(rotation_all);
static uint64 rotation_turns = 0;

/*
 * Has something take part whose "what", "next" and "send" are filled in.  A newcomer has no
 * turns to catch up on.
 */
void
kapture_rotation_join(KaptureRotating *rotating, Oid owner, const char *server)
{
	KaptureRotatingOwner *found = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &rotation_owners)
	{
		found = dlist_container(KaptureRotatingOwner, node, iter.cur);
		if (found->owner == owner && strcmp(NameStr(found->server), server) == 0)
			break;
		found = NULL;
	}
	if (found == NULL)
	{
		found = MemoryContextAllocZero(TopMemoryContext, sizeof(KaptureRotatingOwner));
		found->owner = owner;
		strlcpy(NameStr(found->server), server, NAMEDATALEN);
		found->last = rotation_turns;
		dlist_push_tail(&rotation_owners, &found->node);
	}
	found->uses++;
	rotating->owner = found;
	rotating->last = rotation_turns;
	dlist_push_tail(&rotation_all, &rotating->node);
}

/*
 * Has something no longer take part, if it did.
 */
void
kapture_rotation_leave(KaptureRotating *rotating)
{
	KaptureRotatingOwner *owner = rotating->owner;

	if (owner == NULL)
		return;
	dlist_delete(&rotating->node);
	if (--owner->uses > 0)
		return;
	dlist_delete(&owner->node);
	pfree(owner);
}

/* Returns whose turn is next, of those that wait; NULL: nobody waits. */
static KaptureRotating *
rotation_first(dlist_head *waiting)
{
	KaptureRotating *first = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, waiting)
	{
		KaptureRotating *rotating = dlist_container(KaptureRotating, waiting, iter.cur);

		if (first == NULL || rotating->owner->last < first->owner->last ||
			(rotating->owner->last == first->owner->last && rotating->last < first->last))
			first = rotating;
	}
	return first;
}

/* Does something else wait for the same server? */
static bool
rotation_is_contended(dlist_head *waiting, const KaptureRotating *one)
{
	dlist_iter	iter;

	dlist_foreach(iter, waiting)
	{
		KaptureRotating *rotating = dlist_container(KaptureRotating, waiting, iter.cur);

		if (rotating != one &&
			(rotating->owner == one->owner || strcmp(NameStr(rotating->owner->server), NameStr(one->owner->server)) == 0))
			return true;
	}
	return false;
}

/*
 * Sends what may be sent now, of all that take part.
 */
void
kapture_rotation_run(struct Worker *worker)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_head	waiting = DLIST_STATIC_INIT(waiting);
	KaptureRotating *rotating;
	dlist_iter	iter;

	dlist_foreach(iter, &rotation_all)
	{
		rotating = dlist_container(KaptureRotating, node, iter.cur);
		if (rotating->next(worker, rotating->what) <= now)
			dlist_push_tail(&waiting, &rotating->waiting);
	}
	while ((rotating = rotation_first(&waiting)) != NULL)
	{
		int			most = rotation_is_contended(&waiting, rotating) ? ROTATION_BURST : PG_INT32_MAX;
		bool		sent = rotating->send(worker, rotating->what, most);

		if (sent)
			rotating->last = rotating->owner->last = ++rotation_turns;
		if (!sent || rotating->next(worker, rotating->what) > now)
			dlist_delete(&rotating->waiting);
	}
}
