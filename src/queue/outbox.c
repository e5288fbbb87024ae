/*
 * outbox.c
 *		The queue: changes taken from the outbox.
 *
 * Transactions append to kapture_outbox.  The worker, the only one to read it,
 * claims changes: in one transaction it removes them and enters or updates the
 * row's entry in kapture_delivery, of which each row has one: changes of a row
 * come together there, and a second request for it cannot start.  An entry is
 * 'sending' while a request may be in flight, durably so before the request
 * leaves.  It is removed when all is done, else it is due at next_attempt or
 * parked.  Each change of an entry names the attempt it belongs to, so an
 * answer that comes late finds nothing to change.
 *
 * A row is found by its key, but the key may become another row's: so an entry
 * has an id of its own, and its key follows the row (key_moves.c).  Nothing is
 * claimed, and no answer recorded, before the changes of keys and the deletions
 * that are committed have been followed; and what is read or written then is so
 * under the same snapshot, in which each entry has its row's key.  A row that
 * gets another one meanwhile is not found any more, and its turn comes again.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "queue/delivery.h"
#include "queue/outbox.h"
#include "queue/row_index.h"

/*
 * Adds a change to the groups, which are in order of their first change; "index", from
 * kapture_row_index_create(), has their places.
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
 * Removes the next changes of the current range and groups them by row, which
 * is known by the key that it has after the events in "keys" (NULL: none);
 * returns how many.  *full: there may be more of them.
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
		scan->at_seq--;			/* what is left of the entry is next */
	return nchanges;
}

/*
 * Removes the changes of about "limit" rows at most from the outbox and appends
 * a delivery for each row to *deliveries; list and deliveries live in the
 * current memory context.  They are to be claimed in the same transaction.
 * *more tells that the limit, not the end of the outbox, ended it.
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
