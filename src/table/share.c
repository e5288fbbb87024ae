/*
 * share.c
 *		How much of a process's time and memory each owner of attached tables
 *		takes, and when and for how many rows a table has its turn.
 *
 * All tables of a database share one worker and one puller.  If a table's code
 * (triggers, checks, casts) and waits for locks take longer than usual, its owner
 * then waits in proportion to the excess, and the table twice as long, so that the
 * owner's other tables come first: an owner with slow triggers has the process for
 * a fourth of the time at most, in pieces, and others have their turn in between.
 * Of the owners who need not wait, the one who had the least time so far is next.
 *
 * A table takes a batch of rows in its turn: a smaller one if its rows are slow.
 * After an error, the batches are halved until the row that raises it is alone, and
 * doubled again as long as they succeed.
 *
 * Requests in flight are shared by owner, too: somebody with many servers must not
 * take the last connections of the process.
 *
 * Rows are held in memory until they are sent.  An owner whose rows take much memory
 * gets no more of them until some are done.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "cluster/shmem.h"
#include "table/share.h"

/* Microseconds that count as usual: for a batch, and for each of its rows. */
#define SHARE_FREE			INT64CONST(100000)
#define SHARE_FREE_ROW		INT64CONST(2000)

/* Factors of the excess time that an owner and a table have to wait, and the longest such wait. */
#define SHARE_FACTOR		3
#define SHARE_TABLE_FACTOR	6
#define SHARE_LONGEST		(60 * USECS_PER_SEC)

/* Microseconds of excess that an owner is not charged for, and how many pass until there is one more. */
#define SHARE_GRACE			(2 * USECS_PER_SEC)
#define SHARE_GRACE_RATE	30

/*
 * An owner who has to wait for so many microseconds gets no more work in the transaction;
 * a shorter wait may be chance, and it would cost more to put rows back.
 */
#define SHARE_SPENT			USECS_PER_SEC

/* Microseconds that a batch of a slow table should take. */
#define SHARE_SLOW_BATCH	INT64CONST(250000)

/* Bytes of rows in memory: of an owner, and of all. */
#define SHARE_OWNER_BYTES	((Size) 4 * 1024 * 1024)
#define SHARE_ALL_BYTES		((Size) 8 * 1024 * 1024)

/* With room for fewer bytes than these, a batch is not worthwhile. */
#define SHARE_LEAST_BYTES	((Size) 64 * 1024)

static dlist_head share_list = DLIST_STATIC_INIT(share_list);
static int64 share_time = 0;	/* "served" of the owner who was served last */
static Size share_bytes = 0;	/* of rows in memory, of all owners */

/* Returns how many microseconds of excess an owner is not charged for now. */
static int64
share_grace(const KaptureShare *share, TimestampTz now)
{
	return Min(share->grace + Max(now - share->charged_at, 0) / SHARE_GRACE_RATE, SHARE_GRACE);
}

/* Frees accounts that nobody uses, unless something is still held against their owner. */
static void
share_tidy(void)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &share_list)
	{
		KaptureShare *share = dlist_container(KaptureShare, node, iter.cur);

		if (share->uses > 0 || share->turn > now || share_grace(share, now) < SHARE_GRACE)
			continue;
		dlist_delete(&share->node);
		pfree(share);
	}
}

/*
 * Returns an owner's account for a table, until kapture_share_leave().
 */
KaptureShare *
kapture_share_join(Oid owner)
{
	KaptureShare *share = NULL;
	dlist_iter	iter;

	share_tidy();
	dlist_foreach(iter, &share_list)
	{
		share = dlist_container(KaptureShare, node, iter.cur);
		if (share->owner == owner)
			break;
		share = NULL;
	}
	if (share == NULL)
	{
		share = MemoryContextAllocZero(TopMemoryContext, sizeof(KaptureShare));
		share->owner = owner;
		share->grace = SHARE_GRACE;
		share->turn = kapture_shmem_worker_banned(owner);
		dlist_push_tail(&share_list, &share->node);
	}
	share->uses++;
	return share;
}

/*
 * A row in memory that counts for an owner uses the account, too, until
 * kapture_share_leave().
 */
void
kapture_share_keep(KaptureShare *share)
{
	share->uses++;
}

/*
 * A table, or a row in memory, has no use for an account any more.
 */
void
kapture_share_leave(KaptureShare *share)
{
	share->uses--;
}

/* Counts time that an owner was served. */
static void
share_count(KaptureShare *share, int64 taken)
{
	share->served = Max(share->served, share_time) + taken;
}

/*
 * Notes that a table's batch of so many rows took from "began" until now;
 * *table_turn becomes the time when the table may have its next turn.  Returns whether
 * the batch took longer than usual.
 */
static bool
share_charge(KaptureShare *share, TimestampTz *table_turn, TimestampTz began, int rows)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		taken = Max(now - began, 0);
	int64		excess = taken - SHARE_FREE - rows * SHARE_FREE_ROW;
	int64		grace;

	share_count(share, taken);
	if (excess <= 0)
		return false;
	grace = share_grace(share, now);
	share->grace = Max(grace - excess, 0);
	share->charged_at = now;
	excess = Max(excess - grace, 0);
	share->turn = Min(Max(share->turn, now) + excess * SHARE_FACTOR, now + SHARE_LONGEST);
	*table_turn = Min(Max(*table_turn, now) + excess * SHARE_TABLE_FACTOR, now + SHARE_LONGEST);
	return true;
}

/*
 * Tells whether an owner has had so much time that others are to come first, even if
 * the owner's rows are claimed already.
 */
bool
kapture_share_is_spent(const KaptureShare *share)
{
	return share->turn > GetCurrentTimestamp() + SHARE_SPENT;
}

/*
 * To be called when an owner is served next.  An owner who had nothing to do for a
 * while gets no credit for that.
 */
static void
share_pick(KaptureShare *share)
{
	share->served = Max(share->served, share_time);
	share_time = share->served;
}

/*
 * Counts so many more bytes of an owner's rows as held in memory.
 */
void
kapture_share_hold(KaptureShare *share, Size bytes)
{
	share->bytes += bytes;
	share_bytes += bytes;
}

/*
 * Counts so many bytes of an owner's rows as no longer held.
 */
void
kapture_share_release(KaptureShare *share, Size bytes)
{
	share->bytes -= bytes;
	share_bytes -= bytes;
}

/*
 * Returns how many more bytes of an owner's rows may be held; 0: some must be released
 * first.  The first owners never use up the memory that is for all.
 */
Size
kapture_share_room(const KaptureShare *share)
{
	Size		room = share->bytes < SHARE_OWNER_BYTES ? SHARE_OWNER_BYTES - share->bytes : 0;

	room = Min(room, share_bytes < SHARE_ALL_BYTES ? (SHARE_ALL_BYTES - share_bytes) / 2 : 0);
	if (share->bytes == 0)
		return Max(room, SHARE_LEAST_BYTES);
	return room < SHARE_LEAST_BYTES ? 0 : room;
}

/*
 * Tells whether one more request of an owner may be sent.  "room" is how many requests an
 * owner may have in flight without taking more than is left to others; there is no limit
 * for an owner who is alone.
 */
bool
kapture_share_may_send(const KaptureShare *share, int room)
{
	dlist_iter	iter;

	if (share->in_flight < room)
		return true;
	dlist_foreach(iter, &share_list)
	{
		const KaptureShare *other = dlist_container(KaptureShare, node, iter.cur);

		if (other != share && other->uses > 0)
			return false;
	}
	return true;
}

/*
 * Initializes a turn without an owner, with batches of "most" rows.
 */
void
kapture_turn_init(KaptureTurn *turn, int most)
{
	memset(turn, 0, sizeof(*turn));
	turn->most = turn->batch = most;
}

/*
 * Notes who owns the table; InvalidOid: nobody any more.
 */
void
kapture_turn_join(KaptureTurn *turn, Oid owner)
{
	KaptureShare *before = turn->share;

	if (before && before->owner == owner)
		return;
	turn->share = OidIsValid(owner) ? kapture_share_join(owner) : NULL;
	if (before)
		kapture_share_leave(before);
}

/*
 * Returns who owns the table; InvalidOid: that is not known, or it is nobody any more.
 */
Oid
kapture_turn_owner(const KaptureTurn *turn)
{
	return turn->share ? turn->share->owner : InvalidOid;
}

/*
 * Notes that the table has its turn in a round.
 */
void
kapture_turn_begin(KaptureTurn *turn, uint64 round)
{
	turn->round = round;
	if (turn->share)
		share_pick(turn->share);
}

/*
 * Returns when the table may have its next turn, at the earliest.
 */
TimestampTz
kapture_turn_next(const KaptureTurn *turn)
{
	TimestampTz next = Max(turn->at, turn->not_before);

	return turn->share ? Max(next, turn->share->turn) : next;
}

/*
 * Tells whether a table comes before another in a round: its owner had less time, or the
 * table has waited for more rounds.
 */
bool
kapture_turn_comes_before(const KaptureTurn *turn, const KaptureTurn *other)
{
	int64		served = turn->share ? turn->share->served : 0;
	int64		other_served = other->share ? other->share->served : 0;

	return served < other_served || (served == other_served && turn->round < other->round);
}

/*
 * Returns how many rows to take at once.
 */
int
kapture_turn_rows(const KaptureTurn *turn)
{
	return turn->limit > 0 ? Min(turn->limit, turn->batch) : turn->batch;
}

/*
 * Notes that a batch of so many rows took from "began" until now, and makes the next
 * one smaller if that was long.
 */
void
kapture_turn_charge(KaptureTurn *turn, TimestampTz began, int rows)
{
	if (share_charge(turn->share, &turn->at, began, rows))
		turn->batch = (int) Max(rows * SHARE_SLOW_BATCH / (GetCurrentTimestamp() - began), 1);
	else
		turn->batch = Min(turn->batch * 2, turn->most);
}

/*
 * Notes the time of work beside a batch, or of a turn that failed; the size of batches
 * stays as it is.
 */
void
kapture_turn_charge_rest(KaptureTurn *turn, TimestampTz began, int rows)
{
	if (turn->share)
		(void) share_charge(turn->share, &turn->at, began, rows);
}

/*
 * Notes the time of a turn in which no code of the owner ran: the owner comes after those who
 * had less, but need not wait.  If such a turn took long, as when the disk stood still, that
 * was not the owner's doing.
 */
void
kapture_turn_count(KaptureTurn *turn, TimestampTz began)
{
	if (turn->share)
		share_count(turn->share, Max(GetCurrentTimestamp() - began, 0));
}

/*
 * Notes that a turn has succeeded.
 */
void
kapture_turn_went_well(KaptureTurn *turn)
{
	turn->errors = 0;
	if (turn->limit > 0)
		turn->limit = turn->limit * 2 < turn->most ? turn->limit * 2 : 0;
}
