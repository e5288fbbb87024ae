/*
 * delivery.c
 *		Deliveries: claimed, sent again, parked, and done; see outbox.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/catalog.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/own_rows.h"
#include "base/owner_sql.h"
#include "queue/delivery.h"
#include "queue/row_index.h"
#include "queue/statements.h"
#include "queue/vacuum.h"

/*
 * Called as a worker starts: puts deliveries that an earlier worker left 'sending' for a
 * table in doubt until "in_doubt", when their requests can no longer be running.  If
 * "error" is not NULL, these deliveries are parked with it, and so are those that are due.
 * "whole" are all fields of the table, for rows that may just have been sent whole.
 */
void
kapture_delivery_recover(int32 attachment_id, TimestampTz in_doubt, const char *error, int64 whole)
{
	Datum		values[4] = {Int32GetDatum(attachment_id), TimestampTzGetDatum(in_doubt), (Datum) 0, Int64GetDatum(whole)};

	SPI_connect();
	if (error)
		values[2] = CStringGetTextDatum(error);
	kapture_statement_execute(OUTBOX_RECOVER, values, error ? NULL : "  n ");
	SPI_finish();
}

/*
 * Forgets attached tables that were dropped.  Returns their number; *changes is the number
 * of changes that waited for them.
 */
int64
kapture_delivery_forget_dropped(int64 *changes)
{
	int64		tables;
	bool		isnull;

	SPI_connect();
	kapture_statement_execute(OUTBOX_FORGET, NULL, NULL);
	tables = DatumGetInt64(kapture_statement_getattr(0, 1, &isnull));
	*changes = DatumGetInt64(kapture_statement_getattr(0, 2, &isnull));
	SPI_finish();
	return tables;
}

/*
 * Returns a delivery in a memory context of its own, a child of "parent".
 */
KaptureDelivery *
kapture_delivery_create(int32 attachment_id, const char *row_key, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "kapture_sync delivery", ALLOCSET_SMALL_SIZES);
	KaptureDelivery *delivery = MemoryContextAllocZero(context, sizeof(KaptureDelivery));

	delivery->context = context;
	delivery->attachment_id = attachment_id;
	delivery->row_key = MemoryContextStrdup(context, row_key);
	delivery->row.context = context;
	delivery->row.row_key = delivery->row_key;
	return delivery;
}

/* Returns text in the delivery's context; NULL for NULL. */
static char *
delivery_gettext(KaptureDelivery *delivery, uint64 row, int col)
{
	bool		isnull;
	Datum		value = kapture_statement_getattr(row, col, &isnull);

	return isnull ? NULL : MemoryContextStrdup(delivery->context, TextDatumGetCString(value));
}

/* Fills in a claimed delivery from a row of the last result. */
static void
delivery_fill(KaptureDelivery *delivery, uint64 row)
{
	bool		isnull;
	Datum		value;

	delivery->attempts = DatumGetInt32(kapture_statement_getattr(row, 2, &isnull));
	delivery->failures = DatumGetInt32(kapture_statement_getattr(row, 3, &isnull));
	delivery->changed = DatumGetInt64(kapture_statement_getattr(row, 4, &isnull));
	value = kapture_statement_getattr(row, 5, &isnull);
	delivery->customer_id = isnull ? 0 : DatumGetInt64(value);
	value = kapture_statement_getattr(row, 6, &isnull);
	delivery->in_doubt = isnull ? 0 : DatumGetTimestampTz(value);
	delivery->sent_phone = delivery_gettext(delivery, row, 8);
	delivery->sent_email = delivery_gettext(delivery, row, 9);
	delivery->searches = DatumGetInt32(kapture_statement_getattr(row, 10, &isnull));
	delivery->place = *(ItemPointer) DatumGetPointer(kapture_statement_getattr(row, 11, &isnull));
	delivery->delivery_id = DatumGetInt64(kapture_statement_getattr(row, 12, &isnull));
	delivery->captured_at = DatumGetTimestampTz(kapture_statement_getattr(row, 13, &isnull));
	delivery->gone = DatumGetBool(kapture_statement_getattr(row, 14, &isnull));
	delivery->sent_code = delivery_gettext(delivery, row, 15);
	value = kapture_statement_getattr(row, 16, &isnull);
	delivery->added_id = isnull ? 0 : DatumGetInt64(value);
}

/*
 * Claims rows of which some have deliveries already.  Returns the list without the rows
 * that are being sent.
 */
static List *
delivery_claim_known(List *deliveries, Datum *values, MemoryContext parent)
{
	HTAB	   *index = kapture_row_index_create(list_length(deliveries));
	List	   *claimed = NIL;

	for (int i = 0; i < list_length(deliveries); i++)
	{
		KaptureDelivery *d = list_nth(deliveries, i);
		KaptureRowIndexEntry *entry = hash_search(index, &d->row_key, HASH_ENTER, NULL);

		entry->position = i;
	}
	kapture_statement_execute(OUTBOX_CLAIM, values, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		char	   *key = TextDatumGetCString(kapture_statement_getattr(row, 1, &isnull));
		KaptureRowIndexEntry *entry = hash_search(index, &key, HASH_FIND, NULL);
		KaptureDelivery *d = list_nth(deliveries, entry->position);
		MemoryContext old;

		if (DatumGetBool(kapture_statement_getattr(row, 7, &isnull)))
			continue;
		delivery_fill(d, row);
		d->claimed = true;
		old = MemoryContextSwitchTo(parent);
		claimed = lappend(claimed, d);
		MemoryContextSwitchTo(old);
	}
	for (int i = 0; i < list_length(deliveries); i++)
	{
		KaptureDelivery *d = list_nth(deliveries, i);

		if (!d->claimed)
			MemoryContextDelete(d->context);
	}
	list_free(deliveries);
	return claimed;
}

/*
 * Enters deliveries for all rows, if none has one yet, as is usual.  Returns false, having
 * done nothing, if a row has one.  Only the worker adds deliveries, so none can appear
 * meanwhile.
 */
static bool
delivery_enter(List *deliveries, TimestampTz doubt_until)
{
	static const char *const columns[] = {"attachment_id", "row_key", "state", "changed", "attempts", "failures", "in_doubt",
	"sent_phone", "sent_email", "searches", "captured_at", "last_attempt", "delivery_id", "sent_code"};
	KaptureOwnRows *rows = kapture_own_rows_begin(KAPTURE_TABLE_DELIVERY, columns, lengthof(columns), list_length(deliveries));
	Datum		sending = CStringGetTextDatum("sending");
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	bool		is_new = true;
	ListCell   *lc;

	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);
		bool		nulls[lengthof(columns)] = {false};
		Datum		values[] = {
			Int32GetDatum(d->attachment_id), CStringGetTextDatum(d->row_key), sending, Int64GetDatum(d->changed),
			Int32GetDatum(1), Int32GetDatum(0), TimestampTzGetDatum(now), kapture_statement_text(d->sent_phone, &nulls[7]),
			kapture_statement_text(d->sent_email, &nulls[8]), Int32GetDatum(0), TimestampTzGetDatum(d->captured_at),
			TimestampTzGetDatum(GetCurrentStatementStartTimestamp()), (Datum) 0, kapture_statement_text(d->sent_code, &nulls[13])
		};

		KAPTURE_FAULT_ROW("OUTBOX_ENTER", d->row_key);
		nulls[6] = d->captured_at > doubt_until;
		d->delivery_id = kapture_own_rows_next_number();
		values[12] = Int64GetDatum(d->delivery_id);
		is_new = kapture_own_rows_add_new(rows, values, nulls);
		if (!is_new)
			break;
	}
	if (is_new)
		kapture_own_rows_write(rows);
	for (int i = 0; is_new && i < list_length(deliveries); i++)
	{
		KaptureDelivery *d = list_nth(deliveries, i);

		d->place = kapture_own_rows_place(rows, i);
		d->attempts = 1;
		if (d->captured_at <= doubt_until)
			d->in_doubt = now;
		d->claimed = true;
	}
	kapture_own_rows_end(rows);
	return is_new;
}

/*
 * Enters taken deliveries into kapture_delivery as 'sending', together with the phone and
 * email by which a lost Add could be found.  Adds of changes captured until "doubt_until"
 * are in doubt, see origin.h.  Rows that are being sent already are taken off the list that
 * is returned, and their deliveries freed; they are due again when their request is done.
 */
List *
kapture_delivery_claim(List *deliveries, TimestampTz doubt_until)
{
	int			n = list_length(deliveries);
	Datum	   *cols[6];
	bool	   *nulls[6];
	static const Oid types[6] = {TEXTOID, INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[8];
	MemoryContext parent = CurrentMemoryContext;
	int			i = 0;
	ListCell   *lc;

	if (n == 0)
		return NIL;
	SPI_connect();
	if (delivery_enter(deliveries, doubt_until))
	{
		SPI_finish();
		return deliveries;
	}
	for (int c = 0; c < lengthof(types); c++)
	{
		cols[c] = palloc0(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);

		cols[0][i] = CStringGetTextDatum(d->row_key);
		cols[1][i] = Int64GetDatum(d->changed);
		cols[2][i] = TimestampTzGetDatum(d->captured_at);
		cols[3][i] = kapture_statement_text(d->sent_phone, &nulls[3][i]);
		cols[4][i] = kapture_statement_text(d->sent_email, &nulls[4][i]);
		cols[5][i] = kapture_statement_text(d->sent_code, &nulls[5][i]);
		i++;
	}
	values[0] = Int32GetDatum(((KaptureDelivery *) linitial(deliveries))->attachment_id);
	for (int c = 0; c < lengthof(types); c++)
		values[c + 1] = kapture_statement_array(cols[c], nulls[c], n, types[c]);
	values[7] = TimestampTzGetDatum(doubt_until);
	deliveries = delivery_claim_known(deliveries, values, parent);
	SPI_finish();
	return deliveries;
}

/*
 * Parks a row that was taken, but cannot be claimed because of an error.  A row that is
 * being sent is not parked; it is due again when its request is done.
 */
void
kapture_delivery_park(KaptureDelivery *delivery, TimestampTz doubt_until, const char *error)
{
	Datum		values[6];

	values[0] = Int32GetDatum(delivery->attachment_id);
	values[1] = CStringGetTextDatum(delivery->row_key);
	values[2] = Int64GetDatum(delivery->changed);
	values[3] = TimestampTzGetDatum(delivery->captured_at);
	values[4] = TimestampTzGetDatum(doubt_until);
	values[5] = CStringGetTextDatum(error);
	SPI_connect();
	kapture_statement_execute(OUTBOX_PARK, values, NULL);
	SPI_finish();
}

/*
 * Parks a row that waits for its next try.  Returns false if no such row waits.
 */
bool
kapture_delivery_park_due(int32 attachment_id, const char *row_key, const char *error)
{
	Datum		values[3] = {Int32GetDatum(attachment_id), CStringGetTextDatum(row_key), CStringGetTextDatum(error)};
	bool		parked;

	SPI_connect();
	kapture_statement_execute(OUTBOX_PARK_DUE, values, NULL);
	parked = SPI_processed > 0;
	SPI_finish();
	return parked;
}

/*
 * Claims at most "limit" rows whose next try is due "now", and appends them to *deliveries,
 * as kapture_delivery_claim() does.  If "well_since" is not 0, rows that failed and have
 * not been tried since then are claimed, too, whatever their delay.  Adds that were last tried
 * until "doubt_until" are in doubt.
 */
void
kapture_delivery_claim_due(int32 attachment_id, int limit, TimestampTz now, TimestampTz well_since,
						   TimestampTz doubt_until, List **deliveries)
{
	MemoryContext parent = CurrentMemoryContext;
	Datum		values[6] = {Int32GetDatum(attachment_id), Int64GetDatum(limit),
		TimestampTzGetDatum(well_since != 0 ? DT_NOEND : now), TimestampTzGetDatum(now),
	TimestampTzGetDatum(well_since != 0 ? well_since : DT_NOBEGIN), TimestampTzGetDatum(doubt_until)};

	SPI_connect();
	kapture_statement_execute(OUTBOX_CLAIM_DUE, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		KaptureDelivery *delivery =
			kapture_delivery_create(attachment_id, TextDatumGetCString(kapture_statement_getattr(i, 1, &isnull)), parent);
		MemoryContext old;

		delivery_fill(delivery, i);
		delivery->claimed = true;
		old = MemoryContextSwitchTo(parent);
		*deliveries = lappend(*deliveries, delivery);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}

/*
 * Records the phone and email of Adds that are about to be sent for claimed deliveries of
 * one table, by which their customers can be found should the Adds be lost.
 */
void
kapture_delivery_note_adds(List *deliveries)
{
	int			n = list_length(deliveries);
	Datum	   *cols[4];
	bool	   *nulls[4];
	Datum		values[5];
	int			i = 0;
	ListCell   *lc;

	if (n == 0)
		return;
	SPI_connect();
	for (int c = 0; c < lengthof(cols); c++)
	{
		cols[c] = palloc0(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);

		cols[0][i] = Int64GetDatum(d->delivery_id);
		cols[1][i] = kapture_statement_text(d->sent_phone, &nulls[1][i]);
		cols[2][i] = kapture_statement_text(d->sent_email, &nulls[2][i]);
		cols[3][i] = kapture_statement_text(d->sent_code, &nulls[3][i]);
		i++;
	}
	values[0] = Int32GetDatum(((KaptureDelivery *) linitial(deliveries))->attachment_id);
	for (int c = 0; c < lengthof(cols); c++)
		values[c + 1] = kapture_statement_array(cols[c], nulls[c], n, c == 0 ? INT8OID : TEXTOID);
	kapture_statement_execute(OUTBOX_NOTE_ADDS, values, NULL);
	SPI_finish();
}

/*
 * Records which customers claimed deliveries of one table are linked to
 * (delivery->customer_id), before the customers are sent anything.
 */
void
kapture_delivery_note_links(List *deliveries)
{
	int			n = list_length(deliveries);
	Datum	   *cols[2];
	Datum		values[3];
	ListCell   *lc;

	if (n == 0)
		return;
	SPI_connect();
	for (int c = 0; c < 2; c++)
		cols[c] = palloc(sizeof(Datum) * n);
	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);

		cols[0][foreach_current_index(lc)] = Int64GetDatum(d->delivery_id);
		cols[1][foreach_current_index(lc)] = Int64GetDatum(d->customer_id);
	}
	values[0] = Int32GetDatum(((KaptureDelivery *) linitial(deliveries))->attachment_id);
	for (int c = 0; c < 2; c++)
		values[c + 1] = kapture_statement_array(cols[c], NULL, n, INT8OID);
	kapture_statement_execute(OUTBOX_NOTE_LINKS, values, NULL);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, SPI_processed);
	/* the tuples have moved, and are looked for at their new place when the deliveries end */
	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);
		bool		isnull;

		for (uint64 row = 0; row < SPI_processed; row++)
		{
			if (DatumGetInt64(kapture_statement_getattr(row, 1, &isnull)) == d->delivery_id)
				d->place = *(ItemPointer) DatumGetPointer(kapture_statement_getattr(row, 2, &isnull));
		}
	}
	SPI_finish();
}

/*
 * Returns when the next try of any row of the attachment is due; DT_NOEND if none waits.
 */
TimestampTz
kapture_delivery_next_due(int32 attachment_id)
{
	Datum		values[1] = {Int32GetDatum(attachment_id)};
	TimestampTz result = DT_NOEND;

	SPI_connect();
	kapture_statement_execute(OUTBOX_NEXT_DUE, values, NULL);
	if (SPI_processed > 0)
	{
		bool		isnull;
		Datum		value = kapture_statement_getattr(0, 1, &isnull);

		if (!isnull)
			result = DatumGetTimestampTz(value);
	}
	SPI_finish();
	return result;
}

/* A delivery that ended well, with what it had in kapture_delivery when it was removed. */
typedef struct EndedDelivery
{
	const KaptureDone *done;
	Datum		captured_at;
	Datum		row_key;		/* the row's last key, if the row was deleted */
	bool		deleted;
} EndedDelivery;

/*
 * Removes those deliveries from kapture_delivery that are still where they were claimed and
 * whose rows did not change meanwhile.  Returns their number, and them in *ended.
 */
static int
delivery_take_off(List *done, EndedDelivery **ended)
{
	static const Oid types[] = {TIDOID, INT4OID, INT8OID, INT4OID};
	int			n = list_length(done);
	Datum	   *cols[lengthof(types)];
	Datum		values[lengthof(types)];
	int			taken;

	for (int c = 0; c < lengthof(types); c++)
		cols[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		KaptureDelivery *d = ((KaptureDone *) list_nth(done, i))->delivery;

		cols[0][i] = PointerGetDatum(&d->place);
		cols[1][i] = Int32GetDatum(d->attachment_id);
		cols[2][i] = Int64GetDatum(d->delivery_id);
		cols[3][i] = Int32GetDatum(d->attempts);
	}
	for (int c = 0; c < lengthof(types); c++)
		values[c] = kapture_statement_array(cols[c], NULL, n, types[c]);
	kapture_statement_execute(OUTBOX_FINISH, values, NULL);
	taken = (int) SPI_processed;
	*ended = palloc(sizeof(EndedDelivery) * Max(taken, 1));
	for (int i = 0; i < taken; i++)
	{
		EndedDelivery *e = &(*ended)[i];
		bool		isnull;

		e->done = list_nth(done, (int) DatumGetInt64(kapture_statement_getattr(i, 1, &isnull)) - 1);
		e->captured_at = kapture_statement_getattr(i, 2, &isnull);
		e->row_key = kapture_statement_getattr(i, 3, &isnull);
		e->deleted = DatumGetBool(kapture_statement_getattr(i, 4, &isnull));
	}
	return taken;
}

/* Adds ended deliveries to the history. */
static void
delivery_add_history(const EndedDelivery *ended, int n)
{
	static const char *const columns[] = {"attachment_id", "row_key", "attempts", "action", "customer_id", "http_status",
	"message", "captured_at", "finished_at", "relation", "name"};
	KaptureOwnRows *rows = kapture_own_rows_begin(KAPTURE_TABLE_HISTORY, columns, lengthof(columns), n);

	for (int i = 0; i < n; i++)
	{
		const KaptureDone *d = ended[i].done;
		bool		nulls[lengthof(columns)] = {false};
		Datum		values[] = {
			Int32GetDatum(d->delivery->attachment_id), ended[i].row_key, Int32GetDatum(d->delivery->attempts),
			CStringGetTextDatum(d->action), Int64GetDatum(d->customer_id), Int32GetDatum(d->http_status),
			kapture_statement_text(d->message, &nulls[6]), ended[i].captured_at,
			TimestampTzGetDatum(GetCurrentStatementStartTimestamp()), ObjectIdGetDatum(d->att->root),
			CStringGetTextDatum(d->att->name)
		};

		KAPTURE_FAULT_ROW("history", d->delivery->row_key);
		nulls[4] = d->customer_id == 0;
		nulls[5] = d->http_status == 0;
		kapture_own_rows_add(rows, values, nulls);
	}
	kapture_own_rows_write(rows);
	kapture_own_rows_end(rows);
}

/* Is the row still there, and inside of the filter? */
static bool
delivery_is_plain(const EndedDelivery *e)
{
	return !e->deleted && strcmp(e->done->action, "gone") != 0 && strcmp(e->done->action, "left") != 0;
}

/* Notes the customers of rows for which adding an entry to kapture_row is not enough. */
static void
delivery_note_rows(const EndedDelivery **ended, int n)
{
	static const Oid types[] = {INT4OID, TEXTOID, INT8OID, BYTEAOID, TEXTOID, BOOLOID};
	Datum	   *cols[lengthof(types)];
	bool	   *nulls[lengthof(types)];
	Datum		values[lengthof(types)];

	if (n == 0)
		return;
	for (int c = 0; c < lengthof(types); c++)
	{
		cols[c] = palloc(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	for (int i = 0; i < n; i++)
	{
		const KaptureDone *d = ended[i]->done;

		cols[0][i] = Int32GetDatum(d->delivery->attachment_id);
		cols[1][i] = ended[i]->row_key;
		cols[2][i] = Int64GetDatum(d->customer_id);
		cols[3][i] = PointerGetDatum(d->digests);
		nulls[3][i] = d->digests == NULL;
		cols[4][i] = CStringGetTextDatum(d->action);
		cols[5][i] = BoolGetDatum(ended[i]->deleted);
	}
	for (int c = 0; c < lengthof(types); c++)
		values[c] = kapture_statement_array(cols[c], nulls[c], n, types[c]);
	kapture_statement_execute(OUTBOX_NOTE_ROWS, values, NULL);
}

/* Notes in kapture_row which customers the rows of ended deliveries have, and what was sent of the rows. */
static void
delivery_add_rows(const EndedDelivery *ended, int n)
{
	static const char *const columns[] = {"attachment_id", "row_key", "customer_id", "digests"};
	KaptureOwnRows *rows = kapture_own_rows_begin(KAPTURE_TABLE_ROW, columns, lengthof(columns), n);
	const EndedDelivery **others = palloc(sizeof(EndedDelivery *) * n);
	int			nothers = 0;

	for (int i = 0; i < n; i++)
	{
		const KaptureDone *d = ended[i].done;
		bool		nulls[] = {false, false, false, d->digests == NULL};
		Datum		values[] = {
			Int32GetDatum(d->delivery->attachment_id), ended[i].row_key, Int64GetDatum(d->customer_id),
			PointerGetDatum(d->digests)
		};

		if (d->customer_id != 0 &&
			!(delivery_is_plain(&ended[i]) && kapture_own_rows_add_new(rows, values, nulls)))
			others[nothers++] = &ended[i];
	}
	kapture_own_rows_write(rows);
	kapture_own_rows_end(rows);
	delivery_note_rows(others, nothers);
}

/*
 * Ends the remaining deliveries: their rows changed meanwhile, or their tuples have moved.
 * Returns the ids of the attachments that have changed rows, in a list in "context".
 */
static List *
delivery_finish_rest(List *done, MemoryContext context)
{
	static const Oid types[] = {INT4OID, INT8OID, INT4OID, TEXTOID, INT8OID, INT4OID, TEXTOID, BYTEAOID};
	int			n = list_length(done);
	Datum	   *cols[lengthof(types)];
	bool	   *nulls[lengthof(types)];
	Datum		values[lengthof(types) + 1];
	List	   *again = NIL;

	for (int c = 0; c < lengthof(types); c++)
	{
		cols[c] = palloc0(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	for (int i = 0; i < n; i++)
	{
		KaptureDone *d = list_nth(done, i);

		cols[0][i] = Int32GetDatum(d->delivery->attachment_id);
		cols[1][i] = Int64GetDatum(d->delivery->delivery_id);
		cols[2][i] = Int32GetDatum(d->delivery->attempts);
		cols[3][i] = CStringGetTextDatum(d->action);
		cols[4][i] = Int64GetDatum(d->customer_id);
		nulls[4][i] = d->customer_id == 0;
		cols[5][i] = Int32GetDatum(d->http_status);
		nulls[5][i] = d->http_status == 0;
		cols[6][i] = kapture_statement_text(d->message, &nulls[6][i]);
		cols[7][i] = PointerGetDatum(d->digests);
		nulls[7][i] = d->digests == NULL;
	}
	for (int c = 0; c < lengthof(types); c++)
		values[c] = kapture_statement_array(cols[c], nulls[c], n, types[c]);
	values[lengthof(types)] = BoolGetDatum(kapture_history_retention > 0);
	kapture_statement_execute(OUTBOX_FINISH_REST, values, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		isnull;

		again = lappend_int(again, DatumGetInt32(kapture_statement_getattr(row, 1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	return again;
}

/*
 * Ends deliveries (a list of KaptureDone) that went well: they move to the history.  A row
 * that changed while it was being sent is due again at once; returns the ids of the
 * attachments that have such rows.
 */
List *
kapture_delivery_finish(List *done)
{
	MemoryContext context = CurrentMemoryContext;
	EndedDelivery *ended;
	List	   *again = NIL;
	int			n;

	if (done == NIL)
		return NIL;
	SPI_connect();
	n = delivery_take_off(done, &ended);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, list_length(done));
	if (n > 0)
	{
		if (kapture_history_retention > 0)
			delivery_add_history(ended, n);
		delivery_add_rows(ended, n);
	}
	if (n < list_length(done))
		again = delivery_finish_rest(done, context);
	SPI_finish();
	return again;
}

/*
 * Records that a delivery failed: when it is tried again, or that it is parked
 * until the row changes or somebody asks for it.  Returns when it is due,
 * DT_NOEND if it is parked.
 */
TimestampTz
kapture_delivery_fail(KaptureFailed *failed)
{
	KaptureDelivery *d = failed->delivery;
	Datum		values[18];
	char		nulls[19] = "                  ";
	TimestampTz next = DT_NOEND;

	values[0] = Int32GetDatum(d->attachment_id);
	values[1] = Int64GetDatum(d->delivery_id);
	values[2] = Int32GetDatum(d->attempts);
	values[3] = CStringGetTextDatum(failed->park ? "parked" : "retry");
	values[4] = Int32GetDatum(failed->counts ? 1 : 0);
	values[5] = TimestampTzGetDatum(failed->next_attempt);
	values[6] = TimestampTzGetDatum(failed->in_doubt);
	values[7] = Int64GetDatum(failed->customer_id);
	values[8] = failed->api ? CStringGetTextDatum(failed->api) : (Datum) 0;
	values[9] = failed->request ? CStringGetTextDatum(failed->request) : (Datum) 0;
	values[10] = Int32GetDatum(failed->http_status);
	values[11] = CStringGetTextDatum(failed->error);
	values[12] = BoolGetDatum(failed->arrived);
	values[13] = Int64GetDatum(failed->waits_for);
	values[14] = BoolGetDatum(failed->unsure);
	values[15] = Int32GetDatum(failed->searches);
	values[16] = Int64GetDatum(failed->unsure ? failed->whole : 0);
	values[17] = Int64GetDatum(failed->added_id);
	if (failed->in_doubt == 0)
		nulls[6] = 'n';
	if (failed->customer_id == 0)
		nulls[7] = 'n';
	if (failed->api == NULL)
		nulls[8] = 'n';
	if (failed->request == NULL)
		nulls[9] = 'n';
	if (failed->http_status == 0)
		nulls[10] = 'n';
	if (failed->waits_for == 0)
		nulls[13] = 'n';
	if (failed->added_id == 0)
		nulls[17] = 'n';

	SPI_connect();
	kapture_statement_execute(OUTBOX_FAIL, values, nulls);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, SPI_processed);
	if (SPI_processed > 0)
	{
		bool		isnull;
		Datum		value = kapture_statement_getattr(0, 1, &isnull);

		if (!isnull)
			next = DatumGetTimestampTz(value);
	}
	SPI_finish();
	return next;
}

/*
 * Has "n" parked deliveries wait for another try; those that are no longer parked are left
 * alone.
 */
void
kapture_delivery_unpark(const int32 *attachments, const int64 *deliveries, int n, TimestampTz next_attempt)
{
	Datum	   *ids[2] = {palloc(sizeof(Datum) * n), palloc(sizeof(Datum) * n)};
	Datum		values[3];

	for (int i = 0; i < n; i++)
	{
		ids[0][i] = Int32GetDatum(attachments[i]);
		ids[1][i] = Int64GetDatum(deliveries[i]);
	}
	values[0] = kapture_statement_array(ids[0], NULL, n, INT4OID);
	values[1] = kapture_statement_array(ids[1], NULL, n, INT8OID);
	values[2] = TimestampTzGetDatum(next_attempt);
	SPI_connect();
	kapture_statement_execute(OUTBOX_UNPARK, values, NULL);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, SPI_processed);
	SPI_finish();
}

/*
 * The system's clock was set by "jump" microseconds: shifts the times of waiting
 * deliveries, so that they wait as long as before.  Those that somebody has locked keep their
 * times, as all others would have to wait for that transaction.
 */
void
kapture_delivery_shift(int64 jump)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(jump)};

	(void) kapture_own_execute("UPDATE @.kapture_delivery SET next_attempt = next_attempt + $1 * interval '1 microsecond',"
							   " in_doubt = in_doubt + $1 * interval '1 microsecond' WHERE ctid = ANY (ARRAY(SELECT ctid"
							   " FROM @.kapture_delivery WHERE state = 'retry' FOR UPDATE SKIP LOCKED))", 1, types, values);
}

/*
 * Puts back a delivery for which no Add or Update was sent; it is due at next_attempt.  Its
 * in_doubt and searches are recorded, too.
 */
void
kapture_delivery_release(KaptureDelivery *delivery, TimestampTz next_attempt)
{
	Datum		values[6];
	char		nulls[7] = "      ";

	values[0] = Int32GetDatum(delivery->attachment_id);
	values[1] = Int64GetDatum(delivery->delivery_id);
	values[2] = Int32GetDatum(delivery->attempts);
	values[3] = TimestampTzGetDatum(next_attempt);
	values[4] = TimestampTzGetDatum(delivery->in_doubt);
	values[5] = Int32GetDatum(delivery->searches);
	if (delivery->in_doubt == 0)
		nulls[4] = 'n';
	SPI_connect();
	kapture_statement_execute(OUTBOX_RELEASE, values, nulls);
	SPI_finish();
}
