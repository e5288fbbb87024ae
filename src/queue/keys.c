/*
 * keys.c
 *		Which row has a key, after changes of keys and deletions.
 *
 * Rows exchange their keys: by "id = id + 1", by a swap, by a deletion and an insertion
 * under the same key.  So what is recorded of a row under its key stays right only if these
 * events are followed in order: transactions in the order of their commits, their commands
 * one after the other, and the events of one command all at once, as a permutation of the
 * keys before it.
 *
 * The order of commits comes from snapshots that transactions with such events take as they
 * commit.  A transaction that conflicts with another one has waited for its end, so its
 * snapshot shows the other one as ended, and the number of ended transactions grows from
 * snapshot to snapshot.  A snapshot also tells whether a transaction without such events,
 * which takes no snapshot, ended before or after.
 *
 * A deferred constraint lets several rows have one key for a while.  They are told apart by
 * the event of the transaction that gave each of them its key.
 *
 * All of this is in memory; key_moves.c brings the queue in line with it.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "queue/keys.h"
#include "table/capture_buffer.h"

/* A transaction with events. */
typedef struct KeysTransaction
{
	uint64		xact;			/* hash key */
	int64		rank;			/* number of transactions that had ended when it committed */
	Datum		snapshot;		/* pg_snapshot; 0: unknown */
	int			place;			/* in the order of commits */
} KeysTransaction;

/* Events in their order. */
typedef struct KeysList
{
	KaptureKeyEvent **events;
	int			n;
	int			max;
} KeysList;

/* The events of a key. */
typedef struct KeysChain
{
	const char *key;			/* hash key */
	KeysList	met;			/* events that rows with this key meet */
} KeysChain;

struct KaptureKeys
{
	MemoryContext context;
	KaptureKeyEvent **events;
	int			nevents;
	int			maxevents;
	HTAB	   *transactions;
	KeysTransaction **order;	/* in the order of commits */
	int			norder;
	HTAB	   *chains;
	List	   *truncations;	/* of KaptureKeyEvent, in order */

	/* the transaction asked for last, and the place of the last one with events before it */
	uint64		asked_xact;
	int			asked_place;
};

static uint32
keys_hash(const void *key, Size keysize)
{
	const char *text = *(const char *const *) key;

	return string_hash(text, strlen(text) + 1);
}

static int
keys_match(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/*
 * Returns an empty set of events, in the current memory context.
 */
KaptureKeys *
kapture_keys_create(void)
{
	KaptureKeys *keys = palloc0(sizeof(KaptureKeys));
	HASHCTL		ctl = {
		.keysize = sizeof(char *),
		.entrysize = sizeof(KeysChain),
		.hash = keys_hash,
		.match = keys_match,
		.hcxt = CurrentMemoryContext
	};
	HASHCTL		xact_ctl = {
		.keysize = sizeof(uint64),
		.entrysize = sizeof(KeysTransaction),
		.hcxt = CurrentMemoryContext
	};

	keys->context = CurrentMemoryContext;
	keys->chains = hash_create("kapture_sync keys", 64, &ctl,
							   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	keys->transactions = hash_create("kapture_sync transactions with keys", 16, &xact_ctl,
									 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	keys->asked_xact = PG_UINT64_MAX;
	return keys;
}

static KeysTransaction *
keys_transaction(KaptureKeys *keys, uint64 xact)
{
	bool		found;
	KeysTransaction *transaction = hash_search(keys->transactions, &xact, HASH_ENTER, &found);

	if (!found)
	{
		/* captured by an older version: as if transactions committed in the order of their ids */
		transaction->rank = (int64) xact;
		transaction->snapshot = (Datum) 0;
		transaction->place = 0;
	}
	return transaction;
}

/*
 * Adds an event, which is copied; its texts must live as long as the set does.
 */
void
kapture_keys_add(KaptureKeys *keys, const KaptureKeyEvent *event)
{
	MemoryContext old = MemoryContextSwitchTo(keys->context);
	KaptureKeyEvent *copy = palloc(sizeof(KaptureKeyEvent));

	*copy = *event;
	copy->kept = copy->met = false;
	copy->kept_by = 0;
	copy->end = copy;
	copy->final_key = NULL;
	if (keys->nevents == keys->maxevents)
	{
		keys->maxevents = Max(64, keys->maxevents * 2);
		if (keys->events == NULL)
			keys->events = palloc(keys->maxevents * sizeof(KaptureKeyEvent *));
		else
			keys->events = repalloc_huge(keys->events, (Size) keys->maxevents * sizeof(KaptureKeyEvent *));
	}
	keys->events[keys->nevents++] = copy;
	(void) keys_transaction(keys, event->xact);
	MemoryContextSwitchTo(old);
}

/*
 * Notes when a transaction committed: after how many transactions ("rank"), and after which
 * ones ("snapshot", a pg_snapshot, which must live as long as the set does).
 */
void
kapture_keys_add_end(KaptureKeys *keys, uint64 xact, int64 rank, Datum snapshot)
{
	KeysTransaction *transaction = keys_transaction(keys, xact);

	transaction->rank = rank;
	transaction->snapshot = snapshot;
}

static int
keys_compare_transactions(const void *a, const void *b)
{
	const KeysTransaction *x = *(KeysTransaction *const *) a;
	const KeysTransaction *y = *(KeysTransaction *const *) b;

	if (x->rank != y->rank)
		return x->rank < y->rank ? -1 : 1;
	return x->xact < y->xact ? -1 : x->xact > y->xact;
}

static int
keys_compare_events(const void *a, const void *b)
{
	const KaptureKeyEvent *x = *(KaptureKeyEvent *const *) a;
	const KaptureKeyEvent *y = *(KaptureKeyEvent *const *) b;

	if (x->place != y->place)
		return x->place < y->place ? -1 : 1;
	if (x->command != y->command)
		return x->command < y->command ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Returns the chain of a key; makes it if there is none. */
static KeysChain *
keys_chain(KaptureKeys *keys, const char *key)
{
	bool		found;
	KeysChain  *chain = hash_search(keys->chains, &key, HASH_ENTER, &found);

	if (!found)
		memset(&chain->met, 0, sizeof(KeysList));
	return chain;
}

static void
keys_append(KeysList *list, KaptureKeyEvent *event)
{
	if (list->n == list->max)
	{
		list->max = Max(2, list->max * 2);
		if (list->events == NULL)
			list->events = palloc(list->max * sizeof(KaptureKeyEvent *));
		else
			list->events = repalloc_huge(list->events, (Size) list->max * sizeof(KaptureKeyEvent *));
	}
	list->events[list->n++] = event;
}

/* Does an event come after a command? */
static bool
keys_is_after(const KaptureKeyEvent *event, int place, int64 command)
{
	return event->place > place || (event->place == place && event->command > command);
}

/* Returns the index in a list of the first event after a command. */
static int
keys_search(const KeysList *list, int place, int64 command)
{
	int			low = 0;
	int			high = list->n;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (keys_is_after(list->events[middle], place, command))
			high = middle;
		else
			low = middle + 1;
	}
	return low;
}

/* Finds the order in which the transactions committed. */
static void
keys_order_transactions(KaptureKeys *keys)
{
	HASH_SEQ_STATUS status;
	KeysTransaction *transaction;

	keys->order = palloc(sizeof(KeysTransaction *) * Max(hash_get_num_entries(keys->transactions), 1));
	hash_seq_init(&status, keys->transactions);
	while ((transaction = hash_seq_search(&status)) != NULL)
		keys->order[keys->norder++] = transaction;
	qsort(keys->order, keys->norder, sizeof(KeysTransaction *), keys_compare_transactions);
	for (int i = 0; i < keys->norder; i++)
		keys->order[i]->place = i;
}

/*
 * Pairs an insertion with a deletion of the same key by the same command: the command has
 * moved the row.  If several rows have the key, each inserted row is one of the deleted
 * ones.
 */
static void
keys_pair_placed(KaptureKeys *keys, const KaptureKeyEvent *placed)
{
	bool		only = placed->arrival == KAPTURE_NOTE_ONLY_ROW;
	KeysChain  *chain = hash_search(keys->chains, &placed->key, HASH_FIND, NULL);

	if (chain == NULL || (!only && placed->arrival != placed->seq))
		return;
	for (int i = keys_search(&chain->met, placed->place, (int64) placed->command - 1); i < chain->met.n; i++)
	{
		KaptureKeyEvent *event = chain->met.events[i];

		if (event->place != placed->place || event->command != placed->command)
			break;
		if (event->op != KAPTURE_NOTE_DELETED || event->kept)
			continue;
		event->kept = true;
		if (only)
			continue;
		event->kept_by = placed->seq;
		break;
	}
}

/*
 * Returns the seq of the event that gave an event's row its key, to tell rows with one key
 * apart; 0: there is only one.
 */
static int32
keys_row(const KaptureKeyEvent *event)
{
	if (event->kept_by != 0)
		return event->kept_by;
	if (event->arrival == KAPTURE_NOTE_ONLY_ROW)
		return 0;
	return event->op == KAPTURE_NOTE_PLACED ? event->arrival : event->seq;
}

/*
 * Does an event concern this row, and not another one that has the same key for a while?
 * "row": the event of the transaction at "place" that gave the row its key; 0: the row had
 * the key before.
 */
static bool
keys_meets(const KaptureKeyEvent *event, int place, int32 row)
{
	if (event->kept && event->kept_by == 0)
		return false;
	return event->arrival == KAPTURE_NOTE_ONLY_ROW || event->arrival == (event->place == place ? row : 0);
}

/* Returns the next event after a command that a row with this key meets; NULL if there is none. */
static KaptureKeyEvent *
keys_next(const KaptureKeys *keys, const char *key, int place, int64 command, int32 row)
{
	KeysChain  *chain = hash_search(keys->chains, &key, HASH_FIND, NULL);
	KaptureKeyEvent *event = NULL;
	ListCell   *lc;

	for (int i = chain ? keys_search(&chain->met, place, command) : 0;
		 chain && event == NULL && i < chain->met.n; i++)
	{
		if (keys_meets(chain->met.events[i], place, row))
			event = chain->met.events[i];
	}
	foreach(lc, keys->truncations)
	{
		KaptureKeyEvent *truncation = lfirst(lc);

		if (!keys_is_after(truncation, place, command))
			continue;
		return event == NULL || keys_is_after(event, truncation->place, truncation->command) ? truncation : event;
	}
	return event;
}

/*
 * Orders the events, once all have been added, and works out where each row ends.
 */
void
kapture_keys_arrange(KaptureKeys *keys)
{
	MemoryContext old = MemoryContextSwitchTo(keys->context);

	keys_order_transactions(keys);
	for (int i = 0; i < keys->nevents; i++)
		keys->events[i]->place = keys_transaction(keys, keys->events[i]->xact)->place;
	if (keys->nevents > 1)
		qsort(keys->events, keys->nevents, sizeof(KaptureKeyEvent *), keys_compare_events);

	for (int i = 0; i < keys->nevents; i++)
	{
		KaptureKeyEvent *event = keys->events[i];

		if (event->op == KAPTURE_NOTE_TRUNCATED)
			keys->truncations = lappend(keys->truncations, event);
		else if (event->op != KAPTURE_NOTE_PLACED)
			keys_append(&keys_chain(keys, event->key)->met, event);
	}
	for (int i = 0; i < keys->nevents; i++)
	{
		if (keys->events[i]->op == KAPTURE_NOTE_PLACED)
			keys_pair_placed(keys, keys->events[i]);
	}

	/* backwards: after an event, a row goes the way of the next event that it meets */
	for (int i = keys->nevents - 1; i >= 0; i--)
	{
		KaptureKeyEvent *event = keys->events[i];
		bool		stays = event->op == KAPTURE_NOTE_PLACED || event->kept_by != 0;
		const char *key = stays ? event->key : event->new_key;
		KaptureKeyEvent *next = key ? keys_next(keys, key, event->place, event->command, keys_row(event)) : NULL;

		event->end = next ? next->end : event;
		event->final_key = next ? next->final_key : key;
	}
	MemoryContextSwitchTo(old);
}

/*
 * Tells whether there are events of a kind.
 */
bool
kapture_keys_any(const KaptureKeys *keys, char op)
{
	for (int i = 0; i < keys->nevents; i++)
	{
		if (keys->events[i]->op == op)
			return true;
	}
	return false;
}

/*
 * Tells whether all events are of a kind.
 */
bool
kapture_keys_only(const KaptureKeys *keys, char op)
{
	for (int i = 0; i < keys->nevents; i++)
	{
		if (keys->events[i]->op != op)
			return false;
	}
	return true;
}

/*
 * Returns the number of events.
 */
int
kapture_keys_count(const KaptureKeys *keys)
{
	return keys->nevents;
}

/*
 * Returns an event, by its number in the order of events.
 */
KaptureKeyEvent *
kapture_keys_event(const KaptureKeys *keys, int i)
{
	return keys->events[i];
}

/*
 * Returns the final key of the row that had "key" after a command, if no event of that
 * transaction gave it the key; see kapture_keys_follow().
 */
static const char *
keys_follow(const KaptureKeys *keys, const char *key, int place, int64 command, KaptureKeyEvent **last)
{
	KaptureKeyEvent *next = keys_next(keys, key, place, command, 0);

	*last = next ? next->end : NULL;
	return next ? next->final_key : key;
}

/*
 * Returns the key that the row which had "key" before all events has after
 * them, NULL if it was deleted.  *last is the last event it met, or NULL.
 */
const char *
kapture_keys_follow(KaptureKeys *keys, const char *key, KaptureKeyEvent **last)
{
	return keys_follow(keys, key, -1, 0, last);
}

/*
 * Returns the final key of the row that an event has inserted or given its key; NULL if the
 * row was deleted.
 */
const char *
kapture_keys_follow_event(const KaptureKeyEvent *event)
{
	return event->final_key;
}

/* Had a transaction ("xact") ended when another one, which has events, did? */
static bool
keys_is_before(const KeysTransaction *transaction, uint64 xact)
{
	if (transaction->snapshot == (Datum) 0)
		return xact < transaction->xact;
	return DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
											FullTransactionIdGetDatum(FullTransactionIdFromU64(xact)),
											transaction->snapshot));
}

/* Returns the place of the last transaction with events that ended before another one; -1 if there is none. */
static int
keys_place(KaptureKeys *keys, uint64 xact)
{
	int			low = 0;
	int			high = keys->norder;

	if (keys->asked_xact == xact)
		return keys->asked_place;
	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (keys_is_before(keys->order[middle], xact))
			high = middle;
		else
			low = middle + 1;
	}
	keys->asked_xact = xact;
	keys->asked_place = low - 1;
	return low - 1;
}

/*
 * Returns the final key of the row that had "key" when a change was made; NULL if the row
 * was deleted.  The change, number "seq" of transaction "xact", is not itself an event.
 */
const char *
kapture_keys_follow_change(KaptureKeys *keys, const char *key, uint64 xact, int32 seq)
{
	KeysTransaction *own = hash_search(keys->transactions, &xact, HASH_FIND, NULL);
	KaptureKeyEvent *last;

	if (own)
		return keys_follow(keys, key, own->place, seq, &last);
	return keys_follow(keys, key, keys_place(keys, xact), PG_INT64_MAX, &last);
}
