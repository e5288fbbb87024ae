/*
 * row_state.c
 *		Which row is which customer, and the digests of the values sent for it:
 *		table kapture_row.
 *
 * An entry is written by the statement that ends a delivery (queue/statements.c), so
 * that it has what Kapture has confirmed, and nothing else: a request whose outcome is
 * uncertain makes digests unknown.  An entry is found by the row's key, and follows its
 * changes as deliveries do.  When the row is deleted, the entry stays, as Kapture has
 * no delete: it then stands for a customer that has no row any more (gone_at).
 *
 * The customer in an entry may be out of date: users may give a row another id.  So
 * whoever relies on an entry looks at the row itself.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/bounded_key.h"
#include "base/by_index.h"
#include "base/catalog.h"
#include "base/fault.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "base/written.h"
#include "known/digest.h"
#include "known/row_state.h"
#include "queue/delivery.h"
#include "queue/inbox.h"
#include "queue/key_moves.h"
#include "table/binding.h"
#include "table/capture_buffer.h"
#include "table/origin.h"

/* Keys that one statement looks for. */
#define STATE_CHUNK		1000

typedef enum StateQuery
{
	STATE_LOAD,
	STATE_TAKE_WRITTEN,
	STATE_FORGET_WRITTEN,
	STATE_FIND,
	STATE_LEAVE,
	STATE_EVICT,
	STATE_ARRIVE,
	STATE_TRUNCATE,
	STATE_DOUBT_GONE,
	STATE_DOUBT_TRUNCATED,
	STATE_HOLDERS,
	STATE_NOTE,
	STATE_RELEASE,
	STATE_RELEASE_ORPHANED
} StateQuery;

#define STATE_MAX_PARAMS	3

/*
 * The condition that finds the entry "r" of the row with key "v.row_key" of attachment $1:
 * by an index of the key alone, as a search by the attachment would read all its entries.
 */
#define STATE_IS_ROW \
	KAPTURE_KEY_IS("r.row_key", "v.row_key") " AND r.attachment_id + 0 = $1 AND r.gone_at IS NULL"

/* The server of an attachment: other servers may have given the same id to another customer. */
#define STATE_SERVER_OID(attachment_id) \
	"(SELECT a.server_oid FROM @.kapture_attachment AS a WHERE a.attachment_id = " attachment_id ")"

/* Makes deliveries "d" due that were parked because of another row; returns their attachments, not each of them. */
#define STATE_RELEASED(condition) \
	"WITH released AS (UPDATE @.kapture_delivery AS d SET state = 'retry', next_attempt = now(), waits_for = NULL" \
	" WHERE d.state = 'parked' AND " condition " RETURNING d.attachment_id)" \
	" SELECT DISTINCT attachment_id FROM released"

/* "@." stands for the extension's schema and a dot. */
static const struct
{
	const char *sql;
	int			nparams;
	Oid			types[STATE_MAX_PARAMS];
}			state_queries[] =
{
	/*
	 * No digests for rows that share a customer: each may have overwritten what the others sent.  Nor for
	 * customers that sessions have written, as long as these notes wait.
	 */
	[STATE_LOAD] = {
		"SELECT v.n, r.digests, r.left, r.taken_by, r.customer_id FROM unnest($2) WITH ORDINALITY AS v(row_key, n), LATERAL"
		" (SELECT CASE WHEN r.digests IS NOT NULL"
		" AND NOT EXISTS (SELECT FROM @.kapture_row AS o WHERE o.customer_id = r.customer_id AND o.ctid <> r.ctid"
		" AND o.gone_at IS NULL AND " STATE_SERVER_OID("o.attachment_id") " = " STATE_SERVER_OID("$1") ")"
		" AND NOT EXISTS (SELECT FROM @.kapture_written AS w WHERE w.customer_id = r.customer_id AND w.server_oid = " STATE_SERVER_OID("$1") ")"
		" THEN r.digests END AS digests, r.left_at IS NOT NULL AS left, r.customer_id,"
		" CASE WHEN r.left_at IS NOT NULL THEN (SELECT CASE o.attachment_id WHEN $1 THEN o.row_key ELSE '' END FROM @.kapture_row AS o"
		" WHERE o.customer_id = r.customer_id AND o.ctid <> r.ctid AND o.gone_at IS NULL AND o.left_at IS NULL"
		" AND " STATE_SERVER_OID("o.attachment_id") " = " STATE_SERVER_OID("$1") " LIMIT 1) END AS taken_by"
		" FROM @.kapture_row AS r WHERE " STATE_IS_ROW " OFFSET 0) AS r",
		2, {INT4OID, TEXTARRAYOID}
	},
	[STATE_TAKE_WRITTEN] = {
		"WITH written AS (DELETE FROM @.kapture_written WHERE ctid = ANY (ARRAY(SELECT ctid FROM @.kapture_written LIMIT 10000))"
		" RETURNING server_oid, customer_id)"
		" SELECT server_oid, array_agg(DISTINCT customer_id) FROM written GROUP BY server_oid",
		0, {}
	},
	[STATE_FORGET_WRITTEN] = {
		"UPDATE @.kapture_row AS r SET digests = NULL"
		" WHERE r.customer_id = ANY ($2) AND r.digests IS NOT NULL AND r.gone_at IS NULL"
		" AND r.attachment_id IN (SELECT a.attachment_id FROM @.kapture_attachment AS a WHERE a.server_oid = $1)",
		2, {OIDOID, INT8ARRAYOID}
	},
	[STATE_FIND] = {
		"SELECT r.row_key FROM unnest($2) AS v(row_key), LATERAL"
		" (SELECT r.row_key FROM @.kapture_row AS r WHERE " STATE_IS_ROW " OFFSET 0) AS r",
		2, {INT4OID, TEXTARRAYOID}
	},
	[STATE_LEAVE] = {
		"UPDATE @.kapture_row AS r SET gone_at = clock_timestamp(), digests = CASE WHEN v.moves THEN r.digests END"
		" FROM unnest($2, $3) AS v(row_key, moves) WHERE " STATE_IS_ROW
		" RETURNING r.ctid, r.row_key, r.customer_id",
		3, {INT4OID, TEXTARRAYOID, BOOLARRAYOID}
	},
	[STATE_EVICT] = {
		"UPDATE @.kapture_row AS r SET gone_at = clock_timestamp(), digests = NULL"
		" FROM unnest($2) AS v(row_key) WHERE " STATE_IS_ROW,
		2, {INT4OID, TEXTARRAYOID}
	},
	/* two rows cannot have one key: if two are to get it, the end of one was not captured */
	[STATE_ARRIVE] = {
		"UPDATE @.kapture_row AS r SET gone_at = NULL, row_key = v.row_key"
		" FROM (SELECT DISTINCT ON (u.row_key) u.place, u.row_key FROM unnest($2, $3) AS u(place, row_key)) AS v"
		" WHERE r.ctid = v.place AND r.attachment_id = $1",
		3, {INT4OID, TIDARRAYOID, TEXTARRAYOID}
	},
	[STATE_TRUNCATE] = {
		"UPDATE @.kapture_row SET gone_at = now(), digests = NULL WHERE attachment_id = $1 AND gone_at IS NULL",
		1, {INT4OID}
	},
	/*
	 * Enters the customer that an Update of a deleted row may yet change, whose outcome is in
	 * doubt, or will be if the worker ends.
	 */
	[STATE_DOUBT_GONE] = {
		"UPDATE @.kapture_delivery AS d SET customer_id = v.customer_id"
		" FROM unnest($2, $3) AS v(delivery_id, customer_id) WHERE d.attachment_id = $1 AND d.delivery_id = v.delivery_id"
		" AND (d.state = 'sending' OR (d.state = 'retry' AND d.in_doubt IS NOT NULL)) AND d.customer_id IS NULL",
		3, {INT4OID, INT8ARRAYOID, INT8ARRAYOID}
	},
	[STATE_DOUBT_TRUNCATED] = {
		"UPDATE @.kapture_delivery AS d SET customer_id = r.customer_id FROM @.kapture_row AS r"
		" WHERE d.attachment_id = $1 AND (d.state = 'sending' OR (d.state = 'retry' AND d.in_doubt IS NOT NULL))"
		" AND d.row_key IS NULL AND d.customer_id IS NULL"
		" AND " KAPTURE_KEY_IS("r.row_key", "d.old_key") " AND r.attachment_id + 0 = $1 AND r.gone_at IS NULL",
		1, {INT4OID}
	},
	[STATE_HOLDERS] = {
		"SELECT customer_id, attachment_id, row_key, true, gone_at IS NOT NULL, NULL FROM @.kapture_row"
		" WHERE $1 <> 0 AND customer_id = ANY ($2) AND (gone_at IS NOT NULL OR left_at IS NULL)"
		" UNION ALL SELECT customer_id, attachment_id, coalesce(row_key, old_key, ''), false, row_key IS NULL,"
		" CASE WHEN row_key IS NULL THEN in_doubt END FROM @.kapture_delivery"
		" WHERE $1 <> 0 AND customer_id = ANY ($2) AND (row_key IS NOT NULL OR in_doubt > now())",
		2, {INT4OID, INT8ARRAYOID}
	},
	[STATE_NOTE] = {
		"INSERT INTO @.kapture_row (attachment_id, row_key, customer_id) VALUES ($1, $2, $3)"
		" ON CONFLICT (" KAPTURE_KEY_BOUNDED("row_key") ", attachment_id,"
		" coalesce(gone_at, '-infinity')) DO UPDATE SET customer_id = EXCLUDED.customer_id",
		3, {INT4OID, TEXTOID, INT8OID}
	},
	[STATE_RELEASE] = {
		STATE_RELEASED("d.ctid = ANY (ARRAY(SELECT w.ctid FROM unnest($1, $2) AS v(attachment_id, customer_id)"
		" CROSS JOIN (VALUES (1), (-1)) AS s(sign) JOIN @.kapture_delivery AS w ON w.waits_for = v.customer_id * s.sign"
		" AND " STATE_SERVER_OID("w.attachment_id") " = " STATE_SERVER_OID("v.attachment_id") "))"),
		2, {INT4ARRAYOID, INT8ARRAYOID}
	},
	[STATE_RELEASE_ORPHANED] = {
		STATE_RELEASED("d.waits_for > 0 AND NOT EXISTS (SELECT FROM @.kapture_row AS r"
		" WHERE r.customer_id = d.waits_for AND r.gone_at IS NULL AND r.left_at IS NULL"
		" AND " STATE_SERVER_OID("r.attachment_id") " = " STATE_SERVER_OID("d.attachment_id") " OFFSET 0)"),
		0, {}
	},
};

static SPIPlanPtr state_plans[lengthof(state_queries)];

/* Runs a statement, by index whatever statistics say. */
static void
state_execute(StateQuery query, Datum *values)
{
	char	   *sql = kapture_catalog_qualify(state_queries[query].sql);
	int			nestlevel = kapture_by_index_begin();
	int			rc;

	if (state_plans[query] && !kapture_user_code_is_plan_of(state_plans[query], sql))
	{
		SPI_freeplan(state_plans[query]);
		state_plans[query] = NULL;
	}
	if (state_plans[query] == NULL)
	{
		SPIPlanPtr	plan = kapture_user_code_prepare(sql, state_queries[query].nparams,
													 (Oid *) state_queries[query].types,
													 CURSOR_OPT_GENERIC_PLAN);

		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "could not keep statement %d of kapture_row", query);
		state_plans[query] = plan;
	}
	kapture_user_code_expect(state_plans[query]);
	rc = SPI_execute_plan(state_plans[query], values, NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "statement %d of kapture_row failed: %s", query, SPI_result_code_string(rc));
	AtEOXact_GUC(true, nestlevel);
}

/* Each statement is a fault point. */
#define state_execute(query, values) \
	(KAPTURE_FAULT_ARGUMENTS(#query, state_queries[query].nparams, state_queries[query].types, values, NULL), \
	 state_execute(query, values))

static Datum
state_getattr(uint64 row, int col)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, col, &isnull);
}

static Datum
state_array(Datum *values, int n, Oid type)
{
	int16		len;
	bool		byval;
	char		align;

	get_typlenbyvalalign(type, &len, &byval, &align);
	return PointerGetDatum(construct_array(values, n, type, len, byval, align));
}

/*
 * For claimed deliveries of one table whose rows have an id, fills in their digests (in
 * their own contexts), whether they were sent with that id before, whether their row was
 * outside of the filter before, and which other row has taken its customer over since.
 */
void
kapture_row_state_load(List *deliveries)
{
	int			n = 0;
	Datum	   *keys = palloc(sizeof(Datum) * Max(list_length(deliveries), 1));
	KaptureDelivery **linked = palloc(sizeof(KaptureDelivery *) * Max(list_length(deliveries), 1));
	Datum		values[2];
	ListCell   *lc;

	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);

		d->digests = NULL;
		d->was_sent = d->has_left = false;
		d->taken_by = NULL;
		if (d->gone || d->row.outcome != KAPTURE_ROW_DONE || d->row.customer_id == 0)
			continue;
		keys[n] = CStringGetTextDatum(d->row_key);
		linked[n++] = d;
	}
	if (n == 0)
		return;
	SPI_connect();
	values[0] = Int32GetDatum(linked[0]->attachment_id);
	values[1] = state_array(keys, n, TEXTOID);
	state_execute(STATE_LOAD, values);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureDelivery *d = linked[DatumGetInt64(state_getattr(i, 1)) - 1];
		MemoryContext old = MemoryContextSwitchTo(d->context);
		bool		isnull;
		Datum		digests = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &isnull);
		Datum		taken_by;

		if (!isnull)
			d->digests = DatumGetByteaPCopy(digests);
		d->has_left = DatumGetBool(state_getattr(i, 3));
		d->was_sent = DatumGetInt64(state_getattr(i, 5)) == d->row.customer_id;
		taken_by = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 4, &isnull);
		if (!isnull)
			d->taken_by = TextDatumGetCString(taken_by);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}

/*
 * Forgets the digests of rows whose customers sessions have written themselves, in
 * transactions that have ended: to be called before digests are loaded.  If there are very
 * many, some are left to the next calls, as all tables wait meanwhile.
 */
void
kapture_row_state_forget_written(void)
{
	SPITupleTable *taken;
	uint64		n;
	List	   *servers;
	ListCell   *lc;
	bool		lost = kapture_written_untaken(&servers);

	if (lost)
		kapture_origin_forget_digests();
	foreach(lc, servers)
		kapture_origin_forget_server(lfirst_oid(lc));
	if (lost || servers != NIL)
	{
		CommandCounterIncrement();
		kapture_digest_load_key();
	}
	SPI_connect();
	state_execute(STATE_TAKE_WRITTEN, NULL);
	taken = SPI_tuptable;
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		Datum		values[2];

		for (int col = 0; col < lengthof(values); col++)
			values[col] = SPI_getbinval(taken->vals[i], taken->tupdesc, col + 1, &isnull);
		state_execute(STATE_FORGET_WRITTEN, values);
	}
	SPI_finish();
}

/* A row that has an entry, and has got another key or was deleted. */
typedef struct StateMove
{
	char	   *key;
	const char *new_key;		/* NULL: it was deleted */
	KaptureKeyEvent *last;		/* the event that gave it this key, or deleted it */
} StateMove;

/* Adds the rows of the last result that have moved. */
static List *
state_add_moves(List *moves, KaptureKeys *keys)
{
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		StateMove  *move = palloc(sizeof(StateMove));

		move->key = TextDatumGetCString(state_getattr(i, 1));
		move->new_key = kapture_keys_follow(keys, move->key, &move->last);
		if (move->last && (move->new_key == NULL || strcmp(move->new_key, move->key) != 0))
			moves = lappend(moves, move);
	}
	SPI_freetuptable(SPI_tuptable);
	return moves;
}

/* Finds the rows that have entries, and have got another key or were deleted. */
static List *
state_find_moves(int32 attachment_id, KaptureKeys *keys)
{
	Datum	   *elems = palloc(sizeof(Datum) * STATE_CHUNK);
	Datum		values[2] = {Int32GetDatum(attachment_id)};
	List	   *moves = NIL;
	int			count = kapture_keys_count(keys);
	int			n = 0;

	for (int i = 0; i < count; i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);

		if (event->op == KAPTURE_NOTE_DELETED || event->op == KAPTURE_NOTE_REKEYED)
			elems[n++] = CStringGetTextDatum(event->key);
		if (n == 0 || (n < STATE_CHUNK && i < count - 1))
			continue;
		values[1] = state_array(elems, n, TEXTOID);
		state_execute(STATE_FIND, values);
		moves = state_add_moves(moves, keys);
		n = 0;
	}
	return moves;
}

/* Finds the move of a row that has left this key; looks from *next on, and advances that. */
static StateMove *
state_find_move(List *moves, int *next, const char *key)
{
	/* keys come back in the order of the moves, except those that were asked for twice */
	for (int n = 0; n < list_length(moves); n++)
	{
		StateMove  *move = list_nth(moves, (*next + n) % list_length(moves));

		if (strcmp(move->key, key) != 0)
			continue;
		*next = (*next + n + 1) % list_length(moves);
		return move;
	}
	return NULL;
}

/*
 * Gives entries their rows' present keys.  Rows may have taken each other's keys, so all
 * entries give up theirs before any takes a new one.
 */
static void
state_move(int32 attachment_id, List *moves)
{
	int			n = list_length(moves);
	Datum	   *keys = palloc(sizeof(Datum) * n);
	Datum	   *moving = palloc(sizeof(Datum) * n);
	Datum	   *places = palloc(sizeof(Datum) * n);
	Datum	   *ids = palloc(sizeof(Datum) * n);	/* of the deliveries of deleted rows, */
	Datum	   *customers = palloc(sizeof(Datum) * n);	/* whose customers these are */
	Datum		values[3] = {Int32GetDatum(attachment_id)};
	int			nmet = 0;
	int			narrived = 0;
	int			next = 0;

	for (int i = 0; i < n; i++)
	{
		StateMove  *move = list_nth(moves, i);

		keys[i] = CStringGetTextDatum(move->key);
		moving[i] = BoolGetDatum(move->new_key != NULL);
	}
	values[1] = state_array(keys, n, TEXTOID);
	values[2] = state_array(moving, n, BOOLOID);
	state_execute(STATE_LEAVE, values);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		StateMove  *move = state_find_move(moves, &next, TextDatumGetCString(state_getattr(i, 2)));

		if (move && move->new_key == NULL && move->last->customer_id == KAPTURE_NOTE_NOT_KNOWN)
			move->last->customer_id = DatumGetInt64(state_getattr(i, 3));
		if (move && move->new_key == NULL && move->last->met)
		{
			ids[nmet] = Int64GetDatum(move->last->delivery_id);
			customers[nmet++] = state_getattr(i, 3);
		}
		if (move == NULL || move->new_key == NULL)
			continue;
		places[narrived] = state_getattr(i, 1);
		keys[narrived++] = CStringGetTextDatum(move->new_key);
	}
	if (nmet > 0)
		state_execute(STATE_DOUBT_GONE, ((Datum[]) {values[0], state_array(ids, nmet, INT8OID), state_array(customers, nmet, INT8OID)}));
	if (narrived == 0)
		return;
	values[1] = state_array(keys, narrived, TEXTOID);
	values[2] = state_array(places, narrived, TIDOID);
	state_execute(STATE_EVICT, values);
	state_execute(STATE_ARRIVE, ((Datum[]) {values[0], values[2], values[1]}));
}

/*
 * Has entries follow the changes of keys and the deletions in an attached table, as
 * a KaptureKeysFollower of kapture_moves_follow().  Deletions whose customer is not known
 * get that of the row's entry.  "arg" is a bool, which is set if rows have left their keys.
 */
void
kapture_row_state_follow(int32 attachment_id, KaptureKeys *keys, void *arg)
{
	bool	   *gone = arg;
	Datum		values[1] = {Int32GetDatum(attachment_id)};
	List	   *moves;

	SPI_connect();
	if (kapture_keys_any(keys, KAPTURE_NOTE_TRUNCATED))
	{
		/* all entries are of rows from before the TRUNCATE */
		state_execute(STATE_DOUBT_TRUNCATED, values);
		state_execute(STATE_TRUNCATE, values);
		*gone |= SPI_processed > 0;
	}
	else if ((moves = state_find_moves(attachment_id, keys)) != NIL)
	{
		/* not in chunks: one would take keys that entries of the next one have not given up yet */
		state_move(attachment_id, moves);
		*gone = true;
	}
	SPI_finish();
}

/*
 * Returns which rows are recorded as having these customers, had them until they were deleted,
 * or have got one that is not written yet: a list of KaptureHolder, in the current memory
 * context.  Rows of other servers are among them, as ids do not tell of which account they
 * are.  "attachment_id" is the attachment for whose rows this is asked.
 */
List *
kapture_row_state_holders(int32 attachment_id, const int64 *customer_ids, int n)
{
	MemoryContext context = CurrentMemoryContext;
	Datum	   *elems = palloc(sizeof(Datum) * Max(n, 1));
	Datum		values[2] = {Int32GetDatum(attachment_id)};
	List	   *result = NIL;

	for (int i = 0; i < n; i++)
		elems[i] = Int64GetDatum(customer_ids[i]);
	SPI_connect();
	values[1] = state_array(elems, n, INT8OID);
	state_execute(STATE_HOLDERS, values);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureHolder *holder = palloc0(sizeof(KaptureHolder));
		bool		isnull;
		Datum		in_doubt;

		holder->customer_id = DatumGetInt64(state_getattr(i, 1));
		holder->attachment_id = DatumGetInt32(state_getattr(i, 2));
		holder->row_key = TextDatumGetCString(state_getattr(i, 3));
		holder->written = DatumGetBool(state_getattr(i, 4));
		holder->gone = DatumGetBool(state_getattr(i, 5));
		in_doubt = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 6, &isnull);
		holder->in_doubt = isnull ? 0 : DatumGetTimestampTz(in_doubt);
		result = lappend(result, holder);
	}
	SPI_finish();
	return result;
}

/*
 * Notes which customer a row was found to have.
 */
void
kapture_row_state_note(const KaptureHolder *holder)
{
	Datum		values[3] = {Int32GetDatum(holder->attachment_id), CStringGetTextDatum(holder->row_key),
	Int64GetDatum(holder->customer_id)};

	SPI_connect();
	state_execute(STATE_NOTE, values);
	SPI_finish();
}

/* The numbers of the attachments of the last result, in that memory context. */
static List *
state_attachments(MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	List	   *result = NIL;

	for (uint64 i = 0; i < SPI_processed; i++)
		result = list_append_unique_int(result, DatumGetInt32(state_getattr(i, 1)));
	MemoryContextSwitchTo(old);
	return result;
}

/*
 * Has the rows retried that were parked because other rows have these customers, each of
 * its attachment's server.  Returns the ids of the attachments that have such rows, in the
 * current memory context.
 */
List *
kapture_row_state_release(const KaptureCustomer *customers, int n)
{
	MemoryContext context = CurrentMemoryContext;
	Datum	   *attachments = palloc(sizeof(Datum) * Max(n, 1));
	Datum	   *ids = palloc(sizeof(Datum) * Max(n, 1));
	Datum		values[2];
	List	   *result;

	for (int i = 0; i < n; i++)
	{
		attachments[i] = Int32GetDatum(customers[i].attachment_id);
		ids[i] = Int64GetDatum(customers[i].id);
	}
	SPI_connect();
	values[0] = state_array(attachments, n, INT4OID);
	values[1] = state_array(ids, n, INT8OID);
	state_execute(STATE_RELEASE, values);
	result = state_attachments(context);
	SPI_finish();
	return result;
}

/*
 * Has the parked rows retried that wait for customers which have no row any more;
 * returns their attachments, as kapture_row_state_release() does.
 */
List *
kapture_row_state_release_orphaned(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *result;

	SPI_connect();
	state_execute(STATE_RELEASE_ORPHANED, NULL);
	result = state_attachments(context);
	SPI_finish();
	return result;
}

/* The fields that tables of a server feed, one on a line; NULL: there are none. */
static char *
state_fields(const char *server)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {DirectFunctionCall1(namein, CStringGetDatum(server))};

	return kapture_own_text("SELECT pg_catalog.string_agg(DISTINCT c.field, pg_catalog.chr(10)) FROM @.kapture_column AS c"
							" JOIN @.kapture_attachment AS a USING (attachment_id) WHERE " KAPTURE_BINDING_IS_OF_SERVER("$1"), 1, types, values);
}

/*
 * Called when customers (bigint[]) of a server were pulled, and are in kapture_customers as
 * they are now.  Where Kapture has another value of a field than was sent, the digest of
 * that field becomes unknown.  Digests of fields that a pull does not tell stay.
 */
void
kapture_row_state_seen(const char *server, Datum customer_ids)
{
	Oid			types[] = {NAMEOID, INT8ARRAYOID, TEXTARRAYOID};
	Datum		values[] = {DirectFunctionCall1(namein, CStringGetDatum(server)), customer_ids, (Datum) 0};
	char	   *fields = state_fields(server);
	Datum		names[KAPTURE_MAX_COLUMNS * 4];
	int			n = 0;
	StringInfoData seen;
	char	   *known = "@.kapture_seen_digests(r.digests,"
		" " STATE_SERVER_OID("r.attachment_id") ", r.customer_id,"
		" ARRAY(SELECT k.bit FROM @.kapture_column AS k WHERE k.attachment_id = r.attachment_id ORDER BY k.bit),"
		" ARRAY(SELECT k.field FROM @.kapture_column AS k WHERE k.attachment_id = r.attachment_id ORDER BY k.bit), $3, s.seen)";

	if (fields == NULL)
		return;
	initStringInfo(&seen);
	for (char *field = strtok(fields, "\n"); field && n < lengthof(names); field = strtok(NULL, "\n"))
	{
		names[n++] = CStringGetTextDatum(field);
		kapture_inbox_append_value(&seen, field);
	}
	values[2] = state_array(names, n, TEXTOID);
	kapture_digest_load_key();
	(void) kapture_own_execute(psprintf("UPDATE @.kapture_row AS r SET digests = %s"
										" FROM (SELECT c.id, ARRAY[%s]::text[] AS seen FROM @.kapture_customers AS c" KAPTURE_INBOX_CONTACT
										" WHERE c.server = $1 AND c.id = ANY ($2)) AS s"
										" WHERE r.customer_id = s.id AND r.gone_at IS NULL AND r.digests IS NOT NULL"
										" AND r.attachment_id IN (SELECT a.attachment_id FROM @.kapture_attachment AS a WHERE " KAPTURE_BINDING_IS_OF_SERVER("$1") ")"
										" AND %s IS DISTINCT FROM r.digests", known, seen.data + 1, known),
							   lengthof(values), types, values);
}
