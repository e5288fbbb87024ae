/*
 * key_moves.c
 *		Has deliveries follow their rows to other keys, and into deletion.  What
 *		has happened to keys is worked out by keys.c.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/guc.h"
#include "queue/key_moves.h"
#include "queue/key_parts.h"
#include "queue/keys.h"
#include "queue/outbox.h"
#include "queue/row_index.h"
#include "queue/scan.h"
#include "queue/statements.h"
#include "queue/vacuum.h"
#include "table/capture_buffer.h"

/* A delivery whose row has got another key, or was deleted. */
typedef struct KeyMove
{
	int64		delivery_id;
	const char *key;			/* the last key that the row had */
	const char *new_key;		/* the row's present key; NULL: it was deleted */
} KeyMove;

/* What becomes of an attachment's deliveries. */
typedef struct KeyMoves
{
	int32		attachment_id;
	MemoryContext context;		/* of the list: */
	List	   *moved;			/* KaptureMoved of deliveries that are 'sending' */
	bool		any;			/* deliveries have changed */
} KeyMoves;

/* Appends a delivery that had this key to "moves", if its row has another key by now, or was deleted. */
static List *
moves_add(List *moves, KaptureKeys *keys, HTAB *arrived, int64 delivery_id, const char *key)
{
	KaptureKeyEvent *last;
	const char *new_key = kapture_keys_follow(keys, key, &last);
	bool		found = false;
	KeyMove *move;

	if (last == NULL)
		return moves;
	last->met = true;
	last->delivery_id = delivery_id;
	if (new_key && strcmp(new_key, key) == 0)
		return moves;			/* the row has got its old key back */

	/* two rows cannot have one key: the deletion of one of them was not captured */
	if (new_key)
		(void) hash_search(arrived, &new_key, HASH_ENTER, &found);
	move = palloc(sizeof(KeyMove));
	move->delivery_id = delivery_id;
	move->key = last->op == KAPTURE_NOTE_DELETED ? last->key : key;
	move->new_key = found ? NULL : new_key;
	return lappend(moves, move);
}

/* Does so for the deliveries that a statement has found. */
static List *
moves_add_found(List *moves, KaptureKeys *keys, HTAB *arrived, SPITupleTable *found, uint64 n)
{
	for (uint64 row = 0; row < n; row++)
	{
		bool		isnull;
		int64		delivery_id = DatumGetInt64(SPI_getbinval(found->vals[row], found->tupdesc, 1, &isnull));

		moves = moves_add(moves, keys, arrived, delivery_id,
						  TextDatumGetCString(SPI_getbinval(found->vals[row], found->tupdesc, 2, &isnull)));
	}
	return moves;
}

/* Notes the deliveries that the last statement has changed. */
static void
moves_note(KeyMoves *moves)
{
	MemoryContext old = MemoryContextSwitchTo(moves->context);

	for (uint64 row = 0; row < SPI_processed; row++)
	{
		KaptureMoved *m;
		bool		isnull;
		Datum		key;

		/* nothing of the others is in memory */
		if (!DatumGetBool(kapture_statement_getattr(row, 4, &isnull)))
			continue;
		m = palloc(sizeof(KaptureMoved));
		m->delivery_id = DatumGetInt64(kapture_statement_getattr(row, 1, &isnull));
		m->place = *(ItemPointer) DatumGetPointer(kapture_statement_getattr(row, 2, &isnull));
		key = kapture_statement_getattr(row, 3, &isnull);
		m->row_key = isnull ? NULL : TextDatumGetCString(key);
		moves->moved = lappend(moves->moved, m);
	}
	MemoryContextSwitchTo(old);
	moves->any |= SPI_processed > 0;
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, SPI_processed);
	SPI_freetuptable(SPI_tuptable);
}

/*
 * Gives deliveries the present keys of their rows.  Rows may have exchanged their keys, so
 * all keys are given up before any is taken.  A delivery that has one of the new keys, but
 * is not among those that move, is that of a row whose deletion was not captured.
 */
static void
moves_make(KeyMoves *all, List *moves)
{
	int			nmoves = list_length(moves);
	Datum	   *cols[5];		/* of all: id, last key, is the row gone; of those not gone: id, new key */
	Datum		values[4] = {Int32GetDatum(all->attachment_id)};
	int			n = 0;

	if (nmoves == 0)
		return;
	for (int c = 0; c < lengthof(cols); c++)
		cols[c] = palloc(sizeof(Datum) * nmoves);
	for (int i = 0; i < nmoves; i++)
	{
		KeyMove *move = list_nth(moves, i);

		cols[0][i] = Int64GetDatum(move->delivery_id);
		cols[1][i] = CStringGetTextDatum(move->key);
		cols[2][i] = BoolGetDatum(move->new_key == NULL);
		if (move->new_key == NULL)
			continue;
		cols[3][n] = Int64GetDatum(move->delivery_id);
		cols[4][n++] = CStringGetTextDatum(move->new_key);
	}
	values[1] = kapture_statement_array(cols[0], NULL, nmoves, INT8OID);
	values[2] = kapture_statement_array(cols[1], NULL, nmoves, TEXTOID);
	values[3] = kapture_statement_array(cols[2], NULL, nmoves, BOOLOID);
	kapture_statement_execute(OUTBOX_LEAVE, values, NULL);
	moves_note(all);
	if (n == 0)
		return;
	values[1] = kapture_statement_array(cols[4], NULL, n, TEXTOID);
	kapture_statement_execute(OUTBOX_EVICT, values, NULL);
	moves_note(all);
	values[1] = kapture_statement_array(cols[3], NULL, n, INT8OID);
	values[2] = kapture_statement_array(cols[4], NULL, n, TEXTOID);
	kapture_statement_execute(OUTBOX_ARRIVE, values, NULL);
	moves_note(all);
}

/* All rows were deleted by TRUNCATE: so are those of all deliveries. */
static void
moves_follow_all(KeyMoves *moves, KaptureKeys *keys)
{
	Datum		values[1] = {Int32GetDatum(moves->attachment_id)};
	Portal		portal = kapture_statement_open(OUTBOX_WITH_ANY_KEY, values);

	while (SPI_processed > 0)
	{
		/* each round takes its memory from SPI, which frees it */
		SPITupleTable *found = SPI_tuptable;
		uint64		n = SPI_processed;

		SPI_connect();
		moves_make(moves, moves_add_found(NIL, keys, kapture_row_index_create(OUTBOX_CHUNK), found, n));
		SPI_finish();
		SPI_freetuptable(found);
		SPI_cursor_fetch(portal, true, OUTBOX_CHUNK);
	}
	SPI_cursor_close(portal);
}

/* Has the deliveries follow whose rows have got another key, or were deleted. */
static void
moves_follow(KeyMoves *moves, KaptureKeys *keys)
{
	List	   *list = NIL;
	Datum		values[2] = {Int32GetDatum(moves->attachment_id)};
	Datum	   *elems = palloc(sizeof(Datum) * OUTBOX_CHUNK);
	HTAB	   *asked = kapture_row_index_create(OUTBOX_CHUNK);
	HTAB	   *arrived = kapture_row_index_create(OUTBOX_CHUNK);
	int			n = 0;

	if (kapture_keys_any(keys, KAPTURE_NOTE_TRUNCATED))
	{
		moves_follow_all(moves, keys);
		return;
	}
	for (int i = 0; i < kapture_keys_count(keys); i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);
		bool		found = false;

		if (event->op == KAPTURE_NOTE_DELETED || event->op == KAPTURE_NOTE_REKEYED)
			(void) hash_search(asked, &event->key, HASH_ENTER, &found);
		else
			found = true;
		if (!found)
			elems[n++] = CStringGetTextDatum(event->key);
		if (n == 0 || (n < OUTBOX_CHUNK && i < kapture_keys_count(keys) - 1))
			continue;
		values[1] = kapture_statement_array(elems, NULL, n, TEXTOID);
		kapture_statement_execute(OUTBOX_WITH_KEYS, values, NULL);
		list = moves_add_found(list, keys, arrived, SPI_tuptable, SPI_processed);
		SPI_freetuptable(SPI_tuptable);
		n = 0;
	}
	moves_make(moves, list);
}

/* Enters changes into kapture_delivery that are to be claimed later, or adds them to those of the row there. */
static void
moves_wait(int32 attachment_id, const KaptureRowChanges *groups, int ngroups)
{
	Datum	   *cols[3];
	Datum		values[4] = {Int32GetDatum(attachment_id)};

	for (int first = 0; first < ngroups; first += OUTBOX_CHUNK)
	{
		int			n = Min(ngroups - first, OUTBOX_CHUNK);

		for (int c = 0; c < lengthof(cols); c++)
			cols[c] = palloc(sizeof(Datum) * n);
		for (int i = 0; i < n; i++)
		{
			cols[0][i] = CStringGetTextDatum(groups[first + i].row_key);
			cols[1][i] = Int64GetDatum(groups[first + i].changed);
			cols[2][i] = TimestampTzGetDatum(groups[first + i].captured_at);
		}
		values[1] = kapture_statement_array(cols[0], NULL, n, TEXTOID);
		values[2] = kapture_statement_array(cols[1], NULL, n, INT8OID);
		values[3] = kapture_statement_array(cols[2], NULL, n, TIMESTAMPTZOID);
		kapture_statement_execute(OUTBOX_WAIT, values, NULL);
	}
}

/* Enters the changes that the events themselves have brought.  Returns whether there were any. */
static bool
moves_wait_events(int32 attachment_id, KaptureKeys *keys)
{
	int			n = kapture_keys_count(keys);
	KaptureRowChanges *groups = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(KaptureRowChanges) * Max(n, 1));
	HTAB	   *index = kapture_row_index_create(OUTBOX_CHUNK);
	int			ngroups = 0;

	for (int i = 0; i < n; i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);
		const char *key;

		if (event->op != KAPTURE_NOTE_REKEYED && event->op != KAPTURE_NOTE_PLACED)
			continue;
		key = kapture_keys_follow_event(event);
		if (key)
			kapture_outbox_group(index, groups, &ngroups, key, event->changed, event->captured_at);
	}
	moves_wait(attachment_id, groups, ngroups);
	return ngroups > 0;
}

/*
 * Enters the changes of a pass that has been started, and ends it.  They name keys as they
 * were before, between or after the events, which is not known any more once the events are
 * forgotten.  Returns whether there were any.
 */
static bool
moves_wait_changes(int32 attachment_id, KaptureScan *scan, KaptureKeys *keys)
{
	bool		any = false;

	while (scan->range < scan->nranges)
	{
		KaptureRowChanges *groups;
		int			ngroups = 0;
		bool		more;

		/* each round takes its memory from SPI, which frees it */
		SPI_connect();
		groups = palloc(sizeof(KaptureRowChanges) * OUTBOX_CHUNK);
		(void) kapture_outbox_take_range(attachment_id, scan, OUTBOX_CHUNK, &more, keys,
										 kapture_row_index_create(OUTBOX_CHUNK), groups, &ngroups);
		moves_wait(attachment_id, groups, ngroups);
		any |= ngroups > 0;
		SPI_finish();
		if (!more)
			kapture_scan_enter_range(scan, scan->range + 1);
	}
	kapture_scan_end(scan);
	return any;
}

/*
 * Enters the other changes that belong before the next part, or all if there is none or "keys" is
 * NULL, under the keys that their rows have after this part.  Returns whether there were any.
 */
static bool
moves_wait_others(const KaptureKeyParts *parts, KaptureScan *scan, KaptureKeys *keys)
{
	bool		any = false;

	if (parts->several && keys && !parts->last)
		kapture_scan_start_before(scan, &parts->limit);
	else
	{
		/* a pass that is running has an older snapshot than this transaction */
		if (scan->running && !parts->several)
			any = moves_wait_changes(parts->attachment_id, scan, keys);
		/* limits of parts are snapshots of others, perhaps of another cluster's */
		if (parts->several)
			scan->ever = false;
		kapture_scan_start(scan);
	}
	return moves_wait_changes(parts->attachment_id, scan, keys) || any;
}

/* Is the event the deletion of a row whose customer is known? */
static bool
moves_is_reported(const KaptureKeyEvent *event)
{
	return event->op == KAPTURE_NOTE_DELETED && !event->kept && event->customer_id > 0;
}

/*
 * Has the deletion of rows that had customers reported: their deliveries are given the
 * customers, and rows without a delivery are given one.  A row that waits for such a
 * customer may take it over first; then there is nothing to report.  Returns whether there
 * were any such rows.
 */
static bool
moves_report_deleted(int32 attachment_id, KaptureKeys *keys)
{
	int			count = kapture_keys_count(keys);
	Datum	   *met[2];			/* id of the delivery, customer */
	Datum	   *unmet[3];		/* key, time, customer */
	Datum		values[4] = {Int32GetDatum(attachment_id)};
	int			nmet = 0;
	int			nunmet = 0;
	bool		any = false;

	for (int c = 0; c < lengthof(met); c++)
		met[c] = palloc(sizeof(Datum) * OUTBOX_CHUNK);
	for (int c = 0; c < lengthof(unmet); c++)
		unmet[c] = palloc(sizeof(Datum) * OUTBOX_CHUNK);
	for (int i = 0; i < count; i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);
		bool		last = i == count - 1;

		if (moves_is_reported(event) && event->met)
		{
			met[0][nmet] = Int64GetDatum(event->delivery_id);
			met[1][nmet++] = Int64GetDatum(event->customer_id);
		}
		else if (moves_is_reported(event))
		{
			unmet[0][nunmet] = CStringGetTextDatum(event->key);
			unmet[1][nunmet] = TimestampTzGetDatum(event->captured_at);
			unmet[2][nunmet++] = Int64GetDatum(event->customer_id);
		}
		if (nmet == OUTBOX_CHUNK || (last && nmet > 0))
		{
			values[1] = kapture_statement_array(met[0], NULL, nmet, INT8OID);
			values[2] = kapture_statement_array(met[1], NULL, nmet, INT8OID);
			kapture_statement_execute(OUTBOX_REPORT_DELETED, values, NULL);
			nmet = 0;
			any = true;
		}
		if (nunmet == OUTBOX_CHUNK || (last && nunmet > 0))
		{
			values[1] = kapture_statement_array(unmet[0], NULL, nunmet, TEXTOID);
			values[2] = kapture_statement_array(unmet[1], NULL, nunmet, TIMESTAMPTZOID);
			values[3] = kapture_statement_array(unmet[2], NULL, nunmet, INT8OID);
			kapture_statement_execute(OUTBOX_REPORT_NEW, values, NULL);
			nunmet = 0;
			any = true;
		}
	}
	return any;
}

/*
 * Adds deleted rows that had no delivery to the history.  If "reported", rows whose
 * customers are known have got deliveries, which will record them.
 */
static void
moves_note_gone(int32 attachment_id, KaptureKeys *keys, bool reported)
{
	Datum	   *cols[2];
	Datum		values[3] = {Int32GetDatum(attachment_id)};
	int			n = 0;

	if (kapture_history_retention == 0)
		return;
	for (int c = 0; c < lengthof(cols); c++)
		cols[c] = palloc(sizeof(Datum) * OUTBOX_CHUNK);
	for (int i = 0; i < kapture_keys_count(keys); i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);

		if (event->op == KAPTURE_NOTE_DELETED && !event->kept && !event->met &&
			!(reported && moves_is_reported(event)))
		{
			cols[0][n] = CStringGetTextDatum(event->key);
			cols[1][n++] = TimestampTzGetDatum(event->captured_at);
		}
		if (n == 0 || (n < OUTBOX_CHUNK && i < kapture_keys_count(keys) - 1))
			continue;
		values[1] = kapture_statement_array(cols[0], NULL, n, TEXTOID);
		values[2] = kapture_statement_array(cols[1], NULL, n, TIMESTAMPTZOID);
		kapture_statement_execute(OUTBOX_GONE, values, NULL);
		n = 0;
	}
}

/*
 * Follows the key changes and deletions in an attached table that the transaction's
 * snapshot shows; afterwards, each delivery has the key of its row in this snapshot.
 * "keys_scan" is how far entries about keys have been read, "scan" how far the others have.
 *
 * Returns the deliveries in flight that have changed, a list of KaptureMoved in the current memory
 * context; *waiting is set if changes have become due.  "follower" is called with the
 * events and "arg"; it fills in the customers of deleted rows that are not known, if it
 * knows them.
 */
List *
kapture_moves_follow(const KaptureAttachment *att, KaptureScan *keys_scan, KaptureScan *scan, bool *waiting,
					 KaptureKeysFollower follower, void *arg)
{
	int32		attachment_id = att->id;
	KeyMoves	moves = {.attachment_id = attachment_id,.context = CurrentMemoryContext};
	KaptureKeyParts parts;
	KaptureKeys *keys;
	bool		all = false;	/* all other changes have been entered */

	SPI_connect();
	kapture_scan_start(keys_scan);
	kapture_key_parts_begin(&parts, attachment_id, keys_scan, moves.context);
	while ((keys = kapture_key_parts_next(&parts)) != NULL)
	{
		moves_follow(&moves, keys);
		if (parts.enter)
			*waiting |= moves_wait_others(&parts, scan, keys);
		all = parts.enter && parts.last;
		/* what the events themselves have brought waits until their rows have their keys */
		if (parts.step != KAPTURE_KEYS_LEAVE)
			*waiting |= moves_wait_events(attachment_id, keys);
		follower(attachment_id, keys, arg);
		if (att->on_delete != NIL)
			*waiting |= moves_report_deleted(attachment_id, keys);
		moves_note_gone(attachment_id, keys, att->on_delete != NIL);

		/* free the memory of this part before the next one */
		SPI_finish();
		SPI_connect();
	}
	if (parts.several && !all)
		*waiting |= moves_wait_others(&parts, scan, NULL);
	kapture_key_parts_end(&parts);
	kapture_scan_end(keys_scan);
	SPI_finish();
	*waiting |= moves.any;
	return moves.moved;
}
