/*
 * outbox.c
 *		The queue: changes taken from the outbox.
 *
 * Transactions append to kapture_outbox.  The worker is the only one to read it.  It claims
 * changes: in one transaction, it removes them and enters them into kapture_delivery.  Each
 * row has one entry there, so that its changes come together, and no second request for it
 * can start.  An entry is 'sending' while a request may be in flight, durably so before the
 * request leaves.  It is removed when all is done; else it is due at next_attempt, or
 * parked.  Each update of an entry names the attempt that it belongs to, so a late answer
 * finds nothing to change.
 *
 * A row is found by its key, but the key may become another row's.  So an entry has an id
 * of its own, and its key follows the row (key_moves.c).  Before rows are claimed or
 * answers recorded, all committed key changes and deletions are followed, and the rows are
 * then read and written under the same snapshot, in which each entry has its row's key.  A
 * row that gets another key meanwhile is not found any more, and is claimed again later.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "queue/delivery.h"
#include "queue/outbox.h"
#include "queue/row_index.h"

/*
 * Adds a change to the groups, which are in the order of their first change; "index", from
 * kapture_row_index_create(), finds their positions.
 */
void
kapture_outbox_group(HTAB *index, KaptureRowChanges *groups, int *ngroups, const char *row_key,
					 int64 changed, TimestampTz captured_at)
{
	bool		found;
	KaptureRowIndexEntry *entry = hash_search(index, &row_key, HASH_ENTER, &found);

	if (!found)
	{
		entry->position = (*ngroups)++;
		groups[entry->position].row_key = row_key;
		groups[entry->position].changed = 0;
		groups[entry->position].captured_at = captured_at;
	}
	groups[entry->position].changed |= changed;
	groups[entry->position].captured_at = Min(groups[entry->position].captured_at, captured_at);
}

/*
 * Removes the next changes of the current range from the outbox and groups them by row,
 * using the keys that rows have after the events in "keys" (NULL: none).  Returns the
 * number of changes.  *full is set if there may be more of them.
 */
int
kapture_outbox_take_range(int32 attachment_id, KaptureScan *scan, int limit, bool *full, KaptureKeys *keys,
						  HTAB *index, KaptureRowChanges *groups, int *ngroups)
{
	List	   *entries = kapture_scan_read(OUTBOX_READ, attachment_id, scan, limit, full);
	int			nchanges = 0;
	bool		split;
	ListCell   *lc;

	foreach(lc, entries)
		nchanges += ((KaptureOutboxEntry *) lfirst(lc))->nkeys;
	split = nchanges > limit;
	if (split)
	{
		KaptureOutboxEntry *last = llast(entries);

		kapture_scan_split(last, last->nkeys - (nchanges - limit));
		kapture_scan_remove(list_truncate(list_copy(entries), list_length(entries) - 1));
		nchanges = limit;
	}
	else
		kapture_scan_remove(entries);

	foreach(lc, entries)
	{
		KaptureOutboxEntry *entry = lfirst(lc);

		for (int i = 0; entry->taken && i < entry->nkeys; i++)
		{
			const char *key = entry->keys[i];

			if (keys)
				key = kapture_keys_follow_change(keys, key, entry->xact, entry->seq);
			if (key)
				kapture_outbox_group(index, groups, ngroups, key, entry->changed, entry->captured_at);
		}
		scan->at_xact = entry->xact;
		scan->at_seq = entry->seq;
	}
	if (split)
		scan->at_seq--;			/* go on with the rest of the split entry */
	return nchanges;
}

/*
 * Removes the changes of about "limit" rows at most from the outbox, and appends a delivery
 * for each row to *deliveries.  List and deliveries live in the current memory context;
 * they are to be claimed in the same transaction.  *more is set if the limit was reached
 * before the end of the outbox.
 */
void
kapture_outbox_take(int32 attachment_id, KaptureScan *scan, int limit,
					List **deliveries, bool *more)
{
	MemoryContext parent = CurrentMemoryContext;
	KaptureRowChanges *groups;
	HTAB	   *index;
	int			ngroups = 0;

	*more = false;
	SPI_connect();
	groups = palloc(sizeof(KaptureRowChanges) * limit);
	index = kapture_row_index_create(limit);
	if (!scan->running)
		kapture_scan_start(scan);
	while (scan->range < scan->nranges)
	{
		int			taken = kapture_outbox_take_range(attachment_id, scan, limit, more, NULL, index, groups, &ngroups);

		if (*more)
			break;
		limit -= taken;
		kapture_scan_enter_range(scan, scan->range + 1);
	}
	if (!*more)
		kapture_scan_end(scan);

	for (int i = 0; i < ngroups; i++)
	{
		KaptureDelivery *delivery;
		MemoryContext old;

		delivery = kapture_delivery_create(attachment_id, groups[i].row_key, parent);
		old = MemoryContextSwitchTo(parent);
		delivery->changed = groups[i].changed;
		delivery->captured_at = groups[i].captured_at;
		*deliveries = lappend(*deliveries, delivery);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}
