/*
 * key_parts.c
 *		Reads what has happened to keys, in parts that fit into memory.
 *
 * The events of a pass are usually few, and are taken out of the outbox all at once.  If
 * they are more than fit into memory, they are sorted as they happened, by a cursor, which
 * uses files, and are handed out in parts of whole commands.  Whoever follows one part after
 * the other gets where following all at once would: to begin with, each row has the key that
 * it had before the part.
 *
 * Between two parts, other changes have to be entered under the keys that their rows have by
 * then.  Which changes belong before an event is told by the snapshot that the event's
 * transaction took as it committed (KaptureScanLimit).
 *
 * A command that is too large itself, such as "UPDATE t SET id = id + 1", is cut by keys.
 * Its rows may take each other's keys.  So first they leave theirs, part by part, for keys
 * that no row has; then they arrive, again part by part.  A row that is deleted and inserted
 * again by one command has one key, so both events are in one part.
 *
 * Where a transaction has left several rows with one key for a while (a deferred
 * constraint), events are told apart by other events of that transaction.  It is not cut.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "queue/key_parts.h"
#include "queue/statements.h"
#include "table/capture_buffer.h"

/* Memory that the events of a part take, in bytes, with all that is made of them. */
#define PARTS_MAX_BYTES		(8 * 1024 * 1024)

/* An event that was read from a cursor. */
typedef struct PartsRow
{
	KaptureKeyEvent event;
	ItemPointerData tid;		/* of its entry in the outbox */
	int64		rank;			/* see kapture_keys_add_end() */
	int64		command_bytes;	/* memory that the events of its command take */
	bool		twins;			/* rows of one key are told apart in its transaction */
} PartsRow;

/* A part that is being put together. */
typedef struct PartsPart
{
	KaptureKeys *keys;
	int64		bytes;
	Datum	   *tids;			/* of entries to be removed */
	int			ntids;
	int			maxtids;
} PartsPart;

static Size
parts_event_bytes(const char *key, const char *new_key)
{
	return OUTBOX_EVENT_BYTES + OUTBOX_KEY_COPIES * (strlen(key) + (new_key ? strlen(new_key) : 0));
}

/*
 * Begins to read an attachment's new events: those of a pass (kapture_scan_start()) that the
 * caller has started and will end.  "context" has to outlive the parts.
 */
void
kapture_key_parts_begin(KaptureKeyParts *parts, int32 attachment_id, KaptureScan *scan, MemoryContext context)
{
	memset(parts, 0, sizeof(*parts));
	parts->attachment_id = attachment_id;
	parts->scan = scan;
	parts->context = AllocSetContextCreate(context, "kapture_sync parts of keys", ALLOCSET_SMALL_SIZES);
	parts->events.context = AllocSetContextCreate(parts->context, "kapture_sync next event", ALLOCSET_SMALL_SIZES);
	parts->arrivals.context = AllocSetContextCreate(parts->context, "kapture_sync next arrival", ALLOCSET_SMALL_SIZES);
	parts->transaction_context = AllocSetContextCreate(parts->context, "kapture_sync next transaction", ALLOCSET_SMALL_SIZES);
}

/* Notes that an entry is to be removed. */
static void
parts_note_tid(PartsPart *part, ItemPointer tid)
{
	if (part->ntids > 0 && ItemPointerEquals(tid, (ItemPointer) DatumGetPointer(part->tids[part->ntids - 1])))
		return;
	if (part->ntids == part->maxtids)
	{
		part->maxtids = Max(64, part->maxtids * 2);
		part->tids = part->tids ? repalloc(part->tids, sizeof(Datum) * part->maxtids) : palloc(sizeof(Datum) * part->maxtids);
	}
	part->tids[part->ntids] = PointerGetDatum(palloc(sizeof(ItemPointerData)));
	ItemPointerCopy(tid, (ItemPointer) DatumGetPointer(part->tids[part->ntids]));
	part->ntids++;
}

/* Takes the entries of a part out of the outbox, and returns its events; NULL if there are none. */
static KaptureKeys *
parts_finish(PartsPart *part)
{
	if (part->ntids > 0)
		kapture_scan_remove_tids(part->tids, part->ntids);
	if (part->ntids == 0 && kapture_keys_count(part->keys) == 0)
		return NULL;
	kapture_keys_arrange(part->keys);
	return part->keys;
}

/* ------------------------------------------------------------------------
 * Events in order
 * ------------------------------------------------------------------------
 */

/* Makes a PartsRow of the last row fetched, in the current memory context; NULL if there was none. */
static PartsRow *
parts_make_row(void)
{
	PartsRow   *row;
	bool		isnull;
	Datum		value;

	if (SPI_processed == 0)
		return NULL;
	row = palloc0(sizeof(PartsRow));
	ItemPointerCopy((ItemPointer) DatumGetPointer(kapture_statement_getattr(0, 1, &isnull)), &row->tid);
	row->event.xact = U64FromFullTransactionId(DatumGetFullTransactionId(kapture_statement_getattr(0, 2, &isnull)));
	row->event.seq = DatumGetInt32(kapture_statement_getattr(0, 3, &isnull));
	row->event.op = DatumGetChar(kapture_statement_getattr(0, 4, &isnull));
	row->event.command = DatumGetInt32(kapture_statement_getattr(0, 5, &isnull));
	row->event.key = TextDatumGetCString(kapture_statement_getattr(0, 6, &isnull));
	value = kapture_statement_getattr(0, 7, &isnull);
	row->event.new_key = isnull ? NULL : TextDatumGetCString(value);
	row->event.changed = DatumGetInt64(kapture_statement_getattr(0, 8, &isnull));
	row->event.captured_at = DatumGetTimestampTz(kapture_statement_getattr(0, 9, &isnull));
	value = kapture_statement_getattr(0, 10, &isnull);
	row->event.arrival = isnull ? KAPTURE_NOTE_ONLY_ROW : DatumGetInt32(value);
	value = kapture_statement_getattr(0, 11, &isnull);
	row->event.customer_id = isnull ? KAPTURE_NOTE_NOT_KNOWN : DatumGetInt64(value);
	row->rank = DatumGetInt64(kapture_statement_getattr(0, 12, &isnull));
	row->command_bytes = DatumGetInt64(kapture_statement_getattr(0, 13, &isnull));
	row->twins = DatumGetBool(kapture_statement_getattr(0, 14, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return row;
}

/* Adds a transaction to the ascending ones that a limit's snapshot does not show, if it is not there. */
static void
parts_hide(KaptureScanLimit *limit, uint64 xact)
{
	int			i = limit->nxip;

	if (xact >= limit->xmax)
		return;
	while (i > 0 && limit->xip[i - 1] > xact)
		i--;
	if (i > 0 && limit->xip[i - 1] == xact)
		return;
	memmove(limit->xip + i + 1, limit->xip + i, sizeof(uint64) * (limit->nxip - i));
	limit->xip[i] = xact;
	limit->nxip++;
}

/*
 * Reads the snapshot that the next event's transaction took as it committed.  It shows that
 * transaction as ended, too, but the limit must not.
 */
static void
parts_enter_transaction(KaptureKeyParts *parts)
{
	KaptureScanLimit *limit = &parts->limit;
	uint64		xact = parts->events.next->event.xact;
	Datum		values[2] = {Int32GetDatum(parts->attachment_id), FullTransactionIdGetDatum(FullTransactionIdFromU64(xact))};
	MemoryContext old;

	MemoryContextReset(parts->transaction_context);
	limit->xact = xact;
	limit->xmax = xact;			/* unless there is a snapshot: as if transactions ended in the order of their ids */
	limit->nxip = 0;
	limit->xip = NULL;
	parts->snapshot = (Datum) 0;
	kapture_statement_execute(OUTBOX_END, values, NULL);
	old = MemoryContextSwitchTo(parts->transaction_context);
	if (SPI_processed > 0)
	{
		bool		isnull;

		parts->snapshot = datumCopy(kapture_statement_getattr(0, 1, &isnull), false, -1);
		limit->xmax = U64FromFullTransactionId(DatumGetFullTransactionId(kapture_statement_getattr(0, 2, &isnull)));
		limit->xip = kapture_scan_xids(parts->transaction_context, kapture_statement_getattr(0, 3, &isnull), &limit->nxip);
		parts_hide(limit, xact);
	}
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
}

/* Makes the row that was fetched the next event. */
static void
parts_take_row(KaptureKeyCursor *cursor)
{
	MemoryContext old;

	MemoryContextReset(cursor->context);
	old = MemoryContextSwitchTo(cursor->context);
	cursor->next = parts_make_row();
	MemoryContextSwitchTo(old);
}

static void
parts_open(KaptureKeyCursor *cursor, KaptureStatement statement, Datum *values)
{
	cursor->portal = kapture_statement_open(statement, values);
	parts_take_row(cursor);
}

static void
parts_advance(KaptureKeyCursor *cursor)
{
	SPI_cursor_fetch(cursor->portal, true, 1);
	parts_take_row(cursor);
}

static void
parts_close(KaptureKeyCursor *cursor)
{
	if (cursor->portal)
		SPI_cursor_close(cursor->portal);
	cursor->portal = NULL;
}

/* Sorts all events that are left of the pass, from a transaction in a range on. */
static void
parts_sort(KaptureKeyParts *parts, int range, uint64 xact)
{
	KaptureScan *scan = parts->scan;
	int			n = 0;
	Datum	   *bounds[2];
	Datum		values[3] = {Int32GetDatum(parts->attachment_id)};
	unsigned char salt[16];

	if (!pg_strong_random(salt, sizeof(salt)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	parts->between = MemoryContextAllocZero(parts->context, sizeof(salt) * 2 + 1);
	for (int i = 0; i < sizeof(salt); i++)
		sprintf(parts->between + i * 2, "%02x", salt[i]);

	for (int i = 0; i < lengthof(bounds); i++)
		bounds[i] = palloc(sizeof(Datum) * Max(scan->nranges, 1));
	for (int i = range; i < scan->nranges; i++)
	{
		bounds[0][n] = FullTransactionIdGetDatum(FullTransactionIdFromU64(i == range ? xact : scan->ranges[i * 2]));
		bounds[1][n++] = FullTransactionIdGetDatum(FullTransactionIdFromU64(scan->ranges[i * 2 + 1]));
	}
	for (int i = 0; i < lengthof(bounds); i++)
		values[i + 1] = kapture_statement_array(bounds[i], NULL, n, XID8OID);
	parts_open(&parts->events, OUTBOX_SORT_KEYS, values);
	if (parts->events.next)
		parts_enter_transaction(parts);
}

/* Returns the key that a row has between its old key and this one, which no row can have. */
static char *
parts_between(const KaptureKeyParts *parts, const char *new_key)
{
	return psprintf("%s %s", parts->between, new_key);
}

/* ------------------------------------------------------------------------
 * All events at once
 * ------------------------------------------------------------------------
 */

/* Are there nothing but deletions in the rest of a pass? */
static bool
parts_only_deletions(int32 attachment_id, const KaptureScan *scan)
{
	for (int range = scan->range; range < scan->nranges; range++)
	{
		Datum		values[5];
		bool		isnull;

		kapture_scan_range_values(values, attachment_id, scan, range);
		kapture_statement_run(OUTBOX_REKEYS, values, NULL, true);
		if (DatumGetBool(kapture_statement_getattr(0, 1, &isnull)))
			return false;
	}
	return true;
}

/* Adds the events of an entry. */
static void
parts_add_entry(PartsPart *part, const KaptureOutboxEntry *entry)
{
	KaptureKeyEvent event = {
		.op = entry->op,.xact = entry->xact,.command = entry->command,.arrival = entry->arrival,
		.seq = entry->seq,
		.new_key = entry->op == KAPTURE_NOTE_REKEYED ? entry->keys[0] : NULL,
		.changed = entry->changed,.captured_at = entry->captured_at
	};

	for (int i = 0; entry->op != KAPTURE_NOTE_END && i < entry->nkeys; i++)
	{
		event.key = entry->old_key ? entry->old_key : entry->keys[i];
		event.customer_id = entry->customer_ids ? DatumGetInt64(entry->customer_ids[i]) : KAPTURE_NOTE_NOT_KNOWN;
		kapture_keys_add(part->keys, &event);
		part->bytes += parts_event_bytes(event.key, event.new_key);
	}
	if (entry->snapshot != (Datum) 0)
	{
		kapture_keys_add_end(part->keys, entry->xact, entry->rank, entry->snapshot);
		part->bytes += VARSIZE_ANY(DatumGetPointer(entry->snapshot));
	}
	parts_note_tid(part, entry->tid);
}

/*
 * Takes all new entries about keys out of the outbox, and returns their events; NULL if
 * there are none.  The order of mere deletions does not matter, so many of these are taken
 * part by part.  Other events that do not fit into memory are left there, to be sorted.
 */
static KaptureKeys *
parts_take_all(KaptureKeyParts *parts)
{
	KaptureScan *scan = parts->scan;
	int			range = scan->range;
	uint64		xact = scan->at_xact;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync events of keys", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	PartsPart	part = {.keys = kapture_keys_create()};
	KaptureKeys *keys = NULL;

	while (scan->range < scan->nranges && !parts->several)
	{
		List	   *entries;
		ListCell   *lc;
		bool		full;

		if (part.bytes > PARTS_MAX_BYTES)
		{
			parts->several = !kapture_keys_only(part.keys, KAPTURE_NOTE_DELETED) || !parts_only_deletions(parts->attachment_id, scan);
			break;
		}
		entries = kapture_scan_read(OUTBOX_READ_KEYS, parts->attachment_id, scan, OUTBOX_CHUNK, &full);
		if (entries == NIL)
			kapture_scan_enter_range(scan, scan->range + 1);
		foreach(lc, entries)
		{
			KaptureOutboxEntry *entry = lfirst(lc);

			parts_add_entry(&part, entry);
			scan->at_xact = entry->xact;
			scan->at_seq = entry->seq;
		}
	}
	if (!parts->several)
		keys = parts_finish(&part);
	MemoryContextSwitchTo(old);
	if (parts->several)
	{
		MemoryContextDelete(context);
		parts_sort(parts, range, xact);
	}
	else if (keys)
		parts->enter = kapture_keys_any(keys, KAPTURE_NOTE_REKEYED);
	return keys;
}

/* ------------------------------------------------------------------------
 * Several parts
 * ------------------------------------------------------------------------
 */

/* Notes that all changes of the next event's transaction belong to this part or earlier ones. */
static void
parts_note_transaction(KaptureKeyParts *parts)
{
	KaptureScanLimit *limit = &parts->limit;

	if (limit->nalso == parts->max_also)
	{
		parts->max_also = Max(64, parts->max_also * 2);
		limit->also = limit->also ? repalloc(limit->also, sizeof(uint64) * parts->max_also) :
			palloc(sizeof(uint64) * parts->max_also);
	}
	limit->also[limit->nalso++] = limit->xact;
}

/* Adds the next event to a part, as "event", and goes on to the one after it. */
static void
parts_add(KaptureKeyParts *parts, PartsPart *part, KaptureKeyEvent event)
{
	event.key = pstrdup(event.key);
	event.new_key = event.new_key ? pstrdup(event.new_key) : NULL;
	if (event.op != KAPTURE_NOTE_END)
		kapture_keys_add(part->keys, &event);
	part->bytes += parts_event_bytes(event.key, event.new_key);
	parts_note_tid(part, &parts->events.next->tid);
	parts_advance(&parts->events);
	if (parts->events.next && parts->events.next->event.xact != parts->limit.xact)
		parts_enter_transaction(parts);
}

/* Are the events of the next one's command too many for a part? */
static bool
parts_is_large(const PartsRow *row)
{
	return row->command_bytes > PARTS_MAX_BYTES && !row->twins;
}

/* Takes the next commands that fit into memory together out of the outbox, and returns their events. */
static KaptureKeys *
parts_take_commands(KaptureKeyParts *parts)
{
	PartsPart	part = {.keys = kapture_keys_create()};
	uint64		xact = 0;
	int32		command = 0;

	parts->step = KAPTURE_KEYS_WHOLE;
	parts->limit.nalso = parts->max_also = 0;
	parts->limit.also = NULL;
	while (parts->events.next)
	{
		const PartsRow *next = parts->events.next;
		bool		begins = part.ntids == 0 || next->event.xact != xact;

		if (part.ntids > 0 && (begins || (next->event.command != command && !next->twins)) &&
			part.bytes + next->command_bytes > PARTS_MAX_BYTES)
			break;
		xact = next->event.xact;
		command = next->event.command;
		if (begins)
		{
			parts_note_transaction(parts);
			if (parts->snapshot != (Datum) 0)
				kapture_keys_add_end(part.keys, xact, next->rank, datumCopy(parts->snapshot, false, -1));
			part.bytes += parts->limit.nxip * sizeof(uint64);
		}
		parts_add(parts, &part, next->event);
	}
	if (parts->events.next && parts->events.next->event.xact == xact)
		parts->limit.nalso--;	/* this transaction goes on in the next part */
	if (parts->events.next)
		parts->limit.command = parts->events.next->event.command;
	parts->last = parts->events.next == NULL;
	parts->enter = kapture_keys_any(part.keys, KAPTURE_NOTE_REKEYED);
	return parts_finish(&part);
}

/*
 * Begins with a large command: returns no events, but has the changes before the command
 * entered.
 */
static KaptureKeys *
parts_begin_command(KaptureKeyParts *parts)
{
	const KaptureKeyEvent *event = &parts->events.next->event;
	Datum		bounds[2] = {
		FullTransactionIdGetDatum(FullTransactionIdFromU64(event->xact)),
		FullTransactionIdGetDatum(FullTransactionIdFromU64(event->xact + 1))
	};
	Datum		values[4] = {
		Int32GetDatum(parts->attachment_id), kapture_statement_array(&bounds[0], NULL, 1, XID8OID),
		kapture_statement_array(&bounds[1], NULL, 1, XID8OID), Int32GetDatum(event->command)
	};

	parts->xact = event->xact;
	parts->command = event->command;
	parts->limit.command = event->command;
	parts->limit.nalso = 0;
	parts_open(&parts->arrivals, OUTBOX_SORT_COMMAND, values);
	parts->step = KAPTURE_KEYS_LEAVE;
	parts->enter = true;
	return kapture_keys_create();
}

/* Is the next event one of the large command? */
static bool
parts_is_of_command(const KaptureKeyParts *parts)
{
	const PartsRow *next = parts->events.next;

	return next && next->event.xact == parts->xact && next->event.command == parts->command;
}

/* Takes the next events of the large command: its rows leave their keys. */
static KaptureKeys *
parts_take_leaving(KaptureKeyParts *parts)
{
	PartsPart	part = {.keys = kapture_keys_create()};
	char	   *key = NULL;

	while (parts_is_of_command(parts))
	{
		KaptureKeyEvent event = parts->events.next->event;

		/* what has happened to one key stays together */
		if (part.bytes > PARTS_MAX_BYTES && key && strcmp(key, event.key) != 0)
			break;
		if (part.bytes > PARTS_MAX_BYTES && key == NULL)
			key = pstrdup(event.key);
		if (event.new_key)
			event.new_key = parts_between(parts, event.new_key);
		parts_add(parts, &part, event);
	}
	return parts_finish(&part);
}

/* Reads the next events of the large command again: its rows arrive at their new keys. */
static KaptureKeys *
parts_read_arriving(KaptureKeyParts *parts)
{
	PartsPart	part = {.keys = kapture_keys_create()};

	parts->step = KAPTURE_KEYS_ARRIVE;
	while (parts->arrivals.next && part.bytes <= PARTS_MAX_BYTES)
	{
		KaptureKeyEvent event = parts->arrivals.next->event;

		event.key = event.new_key ? parts_between(parts, event.new_key) : pstrdup(event.key);
		event.new_key = event.new_key ? pstrdup(event.new_key) : NULL;
		kapture_keys_add(part.keys, &event);
		part.bytes += parts_event_bytes(event.key, event.new_key);
		parts_advance(&parts->arrivals);
	}
	if (kapture_keys_count(part.keys) > 0)
		return parts_finish(&part);
	parts_close(&parts->arrivals);
	parts->step = KAPTURE_KEYS_WHOLE;
	return NULL;
}

/*
 * Takes the next part of the events out of the outbox, and returns them, in the current
 * memory context; NULL if none are left.
 */
KaptureKeys *
kapture_key_parts_next(KaptureKeyParts *parts)
{
	KaptureKeys *keys = NULL;

	parts->enter = false;
	if (!parts->several)
	{
		keys = parts_take_all(parts);
		if (!parts->several)
			return keys;
	}
	if (parts->step == KAPTURE_KEYS_LEAVE)
		keys = parts_take_leaving(parts);
	if (keys == NULL && parts->step != KAPTURE_KEYS_WHOLE)
		keys = parts_read_arriving(parts);
	if (keys == NULL && parts->events.next)
		keys = parts_is_large(parts->events.next) ? parts_begin_command(parts) : parts_take_commands(parts);
	return keys;
}

/*
 * Ends the reading, to be called within SPI.
 */
void
kapture_key_parts_end(KaptureKeyParts *parts)
{
	parts_close(&parts->events);
	parts_close(&parts->arrivals);
	MemoryContextDelete(parts->context);
}
