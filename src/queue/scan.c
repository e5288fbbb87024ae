/*
 * scan.c
 *		How far the outbox of an attachment has been read, and reading on from there.
 *
 * Entries are ordered by transaction, and transactions do not commit in the order of their
 * ids.  So a pass is described by two snapshots: what the last pass's snapshot showed is
 * done, and what is new belongs to transactions that were running then (its xip) or started
 * later (its xmax and above).  Each entry is looked at once, with no index but the one on
 * (attachment_id, xact, seq), and dead entries are never walked over again, however long
 * somebody's snapshot keeps them from being removed.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "base/by_index.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "queue/scan.h"
#include "queue/statements.h"
#include "queue/vacuum.h"
#include "table/capture_buffer.h"

/* The dead version of a split entry counts for so many ordinary entries. */
#define SCAN_SPLIT_WEIGHT	50

/* Entries of the outbox read at a time. */
#define SCAN_READ_CHUNK	50

/* Bytes of keys after which no more entries are read. */
#define SCAN_READ_BYTES	((Size) 1024 * 1024)

/*
 * Prepares a scan (zeroed, or used before) that will read everything there is.  Its arrays
 * will be in the current memory context: one of their own would be large beside them.
 */
void
kapture_scan_init(KaptureScan *scan)
{
	kapture_scan_free(scan);
	scan->context = CurrentMemoryContext;
}

/*
 * Frees what a scan holds; it is zeroed then.
 */
void
kapture_scan_free(KaptureScan *scan)
{
	if (scan->seen_xip)
		pfree(scan->seen_xip);
	if (scan->next_xip)
		pfree(scan->next_xip);
	if (scan->ranges)
		pfree(scan->ranges);
	memset(scan, 0, sizeof(*scan));
}

static bool
scan_contains(const uint64 *xids, int n, uint64 xid)
{
	for (int i = 0; i < n; i++)
	{
		if (xids[i] == xid)
			return true;
	}
	return false;
}

static void
scan_add_range(KaptureScan *scan, uint64 from, uint64 to)
{
	scan->ranges[scan->nranges * 2] = from;
	scan->ranges[scan->nranges * 2 + 1] = to;
	scan->nranges++;
}

/*
 * Enters a range, at its beginning; the pass is over when the last range is done.
 */
void
kapture_scan_enter_range(KaptureScan *scan, int range)
{
	scan->range = range;
	scan->at_seq = 0;			/* numbers start at 1 */
	if (range < scan->nranges)
		scan->at_xact = scan->ranges[range * 2];
}

/*
 * Returns the "*n" transactions in an array of xid8, in "context", with room for one more.
 */
uint64 *
kapture_scan_xids(MemoryContext context, Datum array, int *n)
{
	Datum	   *elems;
	uint64	   *xids;

	deconstruct_array(DatumGetArrayTypeP(array), XID8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &elems, NULL, n);
	xids = MemoryContextAlloc(context, sizeof(uint64) * (*n + 1));
	for (int i = 0; i < *n; i++)
		xids[i] = U64FromFullTransactionId(DatumGetFullTransactionId(elems[i]));
	return xids;
}

/*
 * Starts a pass: takes a snapshot, and works out which transactions are new in it.  To be
 * called within SPI.
 */
void
kapture_scan_start(KaptureScan *scan)
{
	bool		isnull;

	kapture_statement_run(OUTBOX_SNAPSHOT, NULL, NULL, true);
	scan->next_xmax = U64FromFullTransactionId(DatumGetFullTransactionId(kapture_statement_getattr(0, 1, &isnull)));
	if (scan->next_xip)
		pfree(scan->next_xip);
	scan->next_xip = kapture_scan_xids(scan->context, kapture_statement_getattr(0, 2, &isnull), &scan->nnext);

	if (scan->ranges)
		pfree(scan->ranges);
	scan->ranges = MemoryContextAlloc(scan->context, sizeof(uint64) * 2 * (scan->nseen + 1));
	scan->nranges = 0;
	if (!scan->ever)
		scan_add_range(scan, 0, PG_UINT64_MAX);
	else
	{
		for (int i = 0; i < scan->nseen; i++)
		{
			if (!scan_contains(scan->next_xip, scan->nnext, scan->seen_xip[i]))
				scan_add_range(scan, scan->seen_xip[i], scan->seen_xip[i] + 1);
		}
		if (scan->next_xmax > scan->seen_xmax)
			scan_add_range(scan, scan->seen_xmax, scan->next_xmax);
	}
	scan->last_seq = 0;
	kapture_scan_enter_range(scan, 0);
	scan->running = true;
}

/* Does a limit's snapshot show a transaction as ended? */
static bool
scan_limit_shows(const KaptureScanLimit *limit, uint64 xid)
{
	return xid < limit->xmax && !scan_contains(limit->xip, limit->nxip, xid);
}

/* Adds the transactions from "from" on that a limit's snapshot shows as ended. */
static void
scan_add_limited(KaptureScan *scan, const KaptureScanLimit *limit, uint64 from)
{
	/* in ascending order, as the snapshot has them */
	for (int i = 0; i < limit->nxip && limit->xip[i] < limit->xmax; i++)
	{
		if (limit->xip[i] < from)
			continue;
		if (limit->xip[i] > from)
			scan_add_range(scan, from, limit->xip[i]);
		from = limit->xip[i] + 1;
	}
	if (from < limit->xmax)
		scan_add_range(scan, from, limit->xmax);
}

/*
 * Starts a pass as kapture_scan_start() does, but one that reads only what belongs before
 * an event.  A pass that is running is given up: what it has read already is gone.
 */
void
kapture_scan_start_before(KaptureScan *scan, const KaptureScanLimit *limit)
{
	if (scan->next_xip)
		pfree(scan->next_xip);
	scan->next_xmax = limit->xmax;
	scan->nnext = limit->nxip;
	scan->next_xip = MemoryContextAlloc(scan->context, sizeof(uint64) * (limit->nxip + 1));
	for (int i = 0; i < limit->nxip; i++)
		scan->next_xip[i] = limit->xip[i];

	if (scan->ranges)
		pfree(scan->ranges);
	scan->ranges = MemoryContextAlloc(scan->context, sizeof(uint64) * 2 * (scan->nseen + limit->nxip + limit->nalso + 2));
	scan->nranges = 0;
	for (int i = 0; scan->ever && i < scan->nseen; i++)
	{
		if (scan_limit_shows(limit, scan->seen_xip[i]))
			scan_add_range(scan, scan->seen_xip[i], scan->seen_xip[i] + 1);
	}
	scan_add_limited(scan, limit, scan->ever ? scan->seen_xmax : 0);
	for (int i = 0; i < limit->nalso; i++)
	{
		if (!scan_limit_shows(limit, limit->also[i]))
			scan_add_range(scan, limit->also[i], limit->also[i] + 1);
	}
	scan_add_range(scan, limit->xact, limit->xact);
	scan->last_seq = limit->command;
	kapture_scan_enter_range(scan, 0);
	scan->running = true;
}

/*
 * Ends a pass of which all ranges have been read.
 */
void
kapture_scan_end(KaptureScan *scan)
{
	uint64	   *unused = scan->seen_xip;

	scan->seen_xmax = scan->next_xmax;
	scan->seen_xip = scan->next_xip;
	scan->nseen = scan->nnext;
	scan->next_xip = unused;
	scan->ever = true;
	scan->running = false;
}

/* Makes an entry of a row of the result of OUTBOX_READ or OUTBOX_READ_KEYS. */
static KaptureOutboxEntry *
scan_make_entry(uint64 row)
{
	KaptureOutboxEntry *entry = palloc0(sizeof(KaptureOutboxEntry));
	bool		isnull;
	Datum		value;
	Datum	   *more = NULL;
	int			nids = 0;

	entry->tid = palloc(sizeof(ItemPointerData));
	ItemPointerCopy((ItemPointer) DatumGetPointer(kapture_statement_getattr(row, 1, &isnull)), entry->tid);
	entry->xact = U64FromFullTransactionId(DatumGetFullTransactionId(kapture_statement_getattr(row, 2, &isnull)));
	entry->seq = DatumGetInt32(kapture_statement_getattr(row, 3, &isnull));
	value = kapture_statement_getattr(row, 5, &isnull);
	entry->old_key = isnull ? NULL : TextDatumGetCString(value);
	entry->changed = DatumGetInt64(kapture_statement_getattr(row, 6, &isnull));
	entry->captured_at = DatumGetTimestampTz(kapture_statement_getattr(row, 7, &isnull));
	entry->op = DatumGetChar(kapture_statement_getattr(row, 8, &isnull));
	value = kapture_statement_getattr(row, 10, &isnull);
	entry->command = isnull ? entry->seq : DatumGetInt32(value);
	value = kapture_statement_getattr(row, 11, &isnull);
	if (!isnull)
	{
		entry->snapshot = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
		entry->rank = DatumGetInt64(kapture_statement_getattr(row, 12, &isnull));
	}

	value = kapture_statement_getattr(row, 13, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
						  &entry->customer_ids, NULL, &nids);

	value = kapture_statement_getattr(row, 14, &isnull);
	entry->arrival = isnull ? KAPTURE_NOTE_ONLY_ROW : DatumGetInt32(value);
	value = kapture_statement_getattr(row, 9, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
						  &more, NULL, &entry->nkeys);
	entry->nkeys++;
	entry->keys = palloc(sizeof(char *) * entry->nkeys);
	entry->keys[0] = TextDatumGetCString(kapture_statement_getattr(row, 4, &isnull));
	for (int i = 1; i < entry->nkeys; i++)
		entry->keys[i] = TextDatumGetCString(more[i - 1]);
	if (nids != entry->nkeys)
		entry->customer_ids = NULL;
	return entry;
}

/*
 * Fills in the five parameters of a query for what is left of a range.
 */
void
kapture_scan_range_values(Datum *values, int32 attachment_id, const KaptureScan *scan, int range)
{
	bool		current = range == scan->range;
	uint64		from = current ? scan->at_xact : scan->ranges[range * 2];

	values[0] = Int32GetDatum(attachment_id);
	values[1] = FullTransactionIdGetDatum(FullTransactionIdFromU64(from));
	values[2] = Int32GetDatum(current ? scan->at_seq : 0);
	values[3] = FullTransactionIdGetDatum(FullTransactionIdFromU64(scan->ranges[range * 2 + 1]));
	values[4] = Int32GetDatum(range == scan->nranges - 1 ? scan->last_seq : 0);
}

/* Returns the size of the keys in a row of the result of OUTBOX_READ, in bytes, without detoasting them. */
static Size
scan_entry_bytes(uint64 row)
{
	static const int columns[] = {4, 5, 9}; /* row_key, old_key, more_keys */
	Size		bytes = 0;

	for (int i = 0; i < lengthof(columns); i++)
	{
		bool		isnull;
		Datum		value = kapture_statement_getattr(row, columns[i], &isnull);

		if (!isnull)
			bytes += toast_raw_datum_size(value);
	}
	return bytes;
}

/*
 * Reads entries (KaptureOutboxEntry) of the current range, as the transaction's snapshot
 * shows them, until they have "limit" changes or many bytes; returns them in order.  *full
 * is set if that, not the end of the range, was why reading stopped.
 */
List *
kapture_scan_read(KaptureStatement query, int32 attachment_id, KaptureScan *scan, int limit, bool *full)
{
	Datum		values[5];
	List	   *entries = NIL;
	int			nchanges = 0;
	Size		bytes = 0;
	int			nestlevel = kapture_by_index_begin();
	Portal		portal;

	kapture_scan_range_values(values, attachment_id, scan, scan->range);
	/* entries that this transaction has removed must not be read again */
	CommandCounterIncrement();
	UpdateActiveSnapshotCommandId();
	portal = SPI_cursor_open(NULL, kapture_statement_plan(query), values, NULL, true);
	*full = false;
	while (!*full)
	{
		SPI_cursor_fetch(portal, true, Min(limit - nchanges, SCAN_READ_CHUNK));
		for (uint64 i = 0; i < SPI_processed && !*full; i++)
		{
			KaptureOutboxEntry *entry;

			bytes += scan_entry_bytes(i);
			if (bytes > SCAN_READ_BYTES && entries != NIL)
			{
				*full = true;
				break;
			}
			entry = scan_make_entry(i);
			nchanges += entry->nkeys;
			entries = lappend(entries, entry);
			*full = nchanges >= limit || bytes > SCAN_READ_BYTES;
		}
		if (SPI_processed == 0)
			break;
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	AtEOXact_GUC(true, nestlevel);
	return entries;
}

/* Marks the entries that the last statement has removed; somebody may have removed others before. */
static void
scan_mark_taken(List *entries)
{
	ListCell   *lc;

	foreach(lc, entries)
	{
		KaptureOutboxEntry *entry = lfirst(lc);

		entry->taken = SPI_processed == list_length(entries);
		for (uint64 i = 0; !entry->taken && i < SPI_processed; i++)
		{
			bool		isnull;
			FullTransactionId xact = DatumGetFullTransactionId(kapture_statement_getattr(i, 1, &isnull));

			entry->taken = U64FromFullTransactionId(xact) == entry->xact &&
				DatumGetInt32(kapture_statement_getattr(i, 2, &isnull)) == entry->seq;
		}
	}
}

/*
 * Removes entries (a list of KaptureOutboxEntry) from the outbox.  To be called within SPI.
 */
void
kapture_scan_remove(List *entries)
{
	int			n = list_length(entries);
	Datum	   *tids = palloc(sizeof(Datum) * Max(n, 1));

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
		tids[i] = PointerGetDatum(((KaptureOutboxEntry *) list_nth(entries, i))->tid);
	kapture_scan_remove_tids(tids, n);
	scan_mark_taken(entries);
}

/*
 * Removes the entries at these places from the outbox.  To be called within SPI.
 */
void
kapture_scan_remove_tids(Datum *tids, int n)
{
	Datum		values[1] = {kapture_statement_array(tids, NULL, n, TIDOID)};

	kapture_statement_execute(OUTBOX_REMOVE, values, NULL);
	kapture_vacuum_note(KAPTURE_TABLE_OUTBOX, SPI_processed);
}

/*
 * Removes only the first "nkeys" keys of an entry.  To be called within SPI.
 */
void
kapture_scan_split(KaptureOutboxEntry *entry, int nkeys)
{
	Datum		values[2];

	values[0] = PointerGetDatum(entry->tid);
	values[1] = Int32GetDatum(nkeys);
	kapture_statement_execute(OUTBOX_SPLIT, values, NULL);
	/* an entry with many keys takes the room of many ordinary ones */
	kapture_vacuum_note(KAPTURE_TABLE_OUTBOX, SCAN_SPLIT_WEIGHT);
	entry->nkeys = nkeys;
	scan_mark_taken(list_make1(entry));
}

/*
 * Returns the transaction before which nothing waits for a scan any more: all that is left,
 * or is still to come, belongs to that one or to a later one.
 */
uint64
kapture_scan_floor(const KaptureScan *scan)
{
	uint64		floor;

	if (!scan->running)
	{
		floor = scan->seen_xmax;	/* 0 before the first pass */
		for (int i = 0; i < scan->nseen; i++)
			floor = Min(floor, scan->seen_xip[i]);
		return floor;
	}
	floor = scan->next_xmax;
	for (int i = 0; i < scan->nnext; i++)
		floor = Min(floor, scan->next_xip[i]);
	for (int i = scan->range; i < scan->nranges; i++)
		floor = Min(floor, i == scan->range ? scan->at_xact : scan->ranges[i * 2]);
	return floor;
}
