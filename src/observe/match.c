/*
 * match.c
 *		kapture_match(): which rows of an attached table are in Kapture already?
 *
 * Rows without an id are taken in slices, in order of the key, and Kapture is asked
 * for their phone and their email.  What was found is kept until the end, since two
 * rows may be one customer.  Ids are handed to the worker, which writes them as it
 * writes those of Adds: as the table's owner, and only into rows without an id.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "api/argument.h"
#include "api/option.h"
#include "base/bounded_key.h"
#include "base/catalog.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "fetch/ask.h"
#include "fetch/fetch.h"
#include "known/kept_ids.h"
#include "observe/round.h"
#include "table/attach.h"
#include "table/attach_find.h"
#include "table/row_io.h"
#include "table/row_sql.h"

PG_FUNCTION_INFO_V1(kapture_match);

/* Gets for a row: by its phone and by its email. */
#define MATCH_GETS			2

/* Ids read, or handed to the worker, by one statement. */
#define MATCH_IDS			1000

/* A row for which a customer was found. */
typedef struct MatchFound
{
	char	   *row_key;
	int64		customer_id;	/* 0: phone and email belong to two customers */
	const char *found_by;
	char	   *problem;
} MatchFound;

/* An id, and the row that has it. */
typedef struct MatchId
{
	int64		customer_id;
	MatchFound *first;			/* first row found for it; NULL: a row of the table has it already */
} MatchId;

typedef struct Match
{
	MemoryContext context;
	KaptureAttachment *att;
	Oid			owner;			/* of the table */
	char	   *server;
	char	   *timezone;
	int			phone;			/* column, or -1 */
	int			email;
	HTAB	   *ids;			/* of MatchId */
	List	   *found;			/* of MatchFound */
} Match;

/* The column that feeds a field, or -1. */
static int
match_column(const KaptureAttachment *att, const char *field)
{
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (strcmp(att->columns[i].field, field) == 0)
			return i;
	}
	return -1;
}

/* Notes that a row of the table has this id. */
static void
match_note_id(Match *match, int64 customer_id)
{
	MatchId    *entry = hash_search(match->ids, &customer_id, HASH_ENTER, NULL);

	entry->first = NULL;
}

/* Takes in the ids of rows of a table without a column for ids. */
static void
match_read_kept_ids(Match *match)
{
	int64	   *ids = palloc(sizeof(int64) * MATCH_IDS);
	int64		after = 0;
	int			n;

	do
	{
		CHECK_FOR_INTERRUPTS();
		n = kapture_kept_ids(match->att, after, MATCH_IDS, ids);
		for (int i = 0; i < n; i++)
			match_note_id(match, after = ids[i]);
	} while (n == MATCH_IDS);
	pfree(ids);
}

/* Takes in the ids that rows have; runs as the owner of the table. */
static void
match_read_ids(void *arg)
{
	Match	   *match = arg;
	char	   *id = psprintf("r.%s::text", quote_identifier(match->att->id_column));

	kapture_user_code_select(psprintf("SELECT %s FROM %s AS r WHERE %s IS NOT NULL AND %s NOT IN ('', '0')",
									  id, kapture_row_source(match->att), id, id),
							 0, NULL, NULL, NULL, true);
	for (uint64 i = 0; i < SPI_processed; i++)
		match_note_id(match, pg_strtoint64(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1)));
}

static void
match_begin(Match *match, KaptureAttachment *att)
{
	HASHCTL		info = {.keysize = sizeof(int64), .entrysize = sizeof(MatchId), .hcxt = CurrentMemoryContext};
	ErrorData  *error;

	match->context = CurrentMemoryContext;
	match->att = att;
	match->owner = kapture_catalog_owner(att->root);
	match->server = att->server;
	match->timezone = pstrdup(kapture_server_get(att->server, match->owner)->timezone);
	match->phone = match_column(att, "phone");
	match->email = match_column(att, "email_id");
	match->ids = hash_create("kapture_sync ids of rows", 1024, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	if (att->id_column == NULL)
	{
		match_read_kept_ids(match);
		return;
	}
	error = kapture_row_run(att, NULL, match_read_ids, match);
	if (error)
		ReThrowError(error);
}

/* A row's value for a column, NULL if there is none. */
static const char *
match_value(const KaptureRow *row, int column)
{
	const char *value = column >= 0 ? row->values[column] : NULL;

	return value && value[strspn(value, " ")] != '\0' ? value : NULL;
}

/* Keeps what was found for a row, in the memory of the call. */
static void
match_keep(Match *match, const KaptureRow *row, const KaptureSearch *search)
{
	int64		by_phone = search->by_phone;
	int64		by_email = search->by_email;
	MemoryContext old = MemoryContextSwitchTo(match->context);
	MatchFound *found = palloc0(sizeof(MatchFound));
	MatchId    *entry;
	bool		known;

	found->row_key = pstrdup(row->row_key);
	found->found_by = by_phone && by_email ? "both" : by_phone ? "phone" : "email";
	match->found = lappend(match->found, found);
	if (by_phone && by_email && by_phone != by_email)
		found->problem = kapture_ask_conflict(search);
	else
	{
		found->customer_id = by_phone ? by_phone : by_email;
		entry = hash_search(match->ids, &found->customer_id, HASH_ENTER, &known);
		if (!known)
			entry->first = found;
		else if (entry->first == NULL)
			found->problem = "another row has this id";
		else
		{
			found->problem = psprintf("the row with key \"%s\" is the same customer", entry->first->row_key);
			if (entry->first->problem == NULL)
				entry->first->problem = psprintf("the row with key \"%s\" is the same customer", found->row_key);
		}
	}
	MemoryContextSwitchTo(old);
}

/* Asks Kapture for the customers of rows. */
static void
match_ask(Match *match, List *rows)
{
	List	   *searches = NIL;
	ListCell   *lc;

	foreach(lc, rows)
	{
		KaptureRow *row = lfirst(lc);
		KaptureSearch *search;

		if (row->outcome != KAPTURE_ROW_DONE || row->outside || row->customer_id != 0)
			continue;
		search = palloc0(sizeof(KaptureSearch));
		search->phone = match_value(row, match->phone);
		search->email = match_value(row, match->email);
		search->item = row;
		searches = lappend(searches, search);
	}
	kapture_ask(match->server, match->owner, searches);
	foreach(lc, searches)
	{
		const KaptureSearch *search = lfirst(lc);

		if (search->by_phone != 0 || search->by_email != 0)
			match_keep(match, search->item, search);
	}
}

/* Returns the rows with these keys, read. */
static List *
match_read(void *arg, List *keys)
{
	Match	   *match = arg;
	List	   *rows = kapture_row_list(keys, CurrentMemoryContext);

	kapture_row_read_all(match->att, match->timezone, rows);
	return rows;
}

/* Hands ids to the worker. */
static void
match_write(Match *match)
{
	Oid			types[3] = {INT4OID, TEXTARRAYOID, INT8ARRAYOID};
	Datum		values[3] = {Int32GetDatum(match->att->id)};
	Datum	   *keys = palloc(sizeof(Datum) * MATCH_IDS);
	Datum	   *ids = palloc(sizeof(Datum) * MATCH_IDS);
	int			n = 0;
	ListCell   *lc;

	foreach(lc, match->found)
	{
		MatchFound *found = lfirst(lc);

		if (found->problem == NULL)
		{
			keys[n] = CStringGetTextDatum(found->row_key);
			ids[n++] = Int64GetDatum(found->customer_id);
		}
		if (n == 0 || (n < MATCH_IDS && lnext(match->found, lc) != NULL))
			continue;
		values[1] = PointerGetDatum(construct_array(keys, n, TEXTOID, -1, false, TYPALIGN_INT));
		values[2] = PointerGetDatum(construct_array(ids, n, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
		(void) kapture_own_execute("INSERT INTO @.kapture_delivery AS d (attachment_id, row_key, state, changed, captured_at,"
								   " attempts, last_attempt, next_attempt, customer_id)"
								   " SELECT $1, v.row_key, 'retry', 0, now(), 0, now(), now(), v.customer_id"
								   " FROM unnest($2, $3) AS v(row_key, customer_id)"
								   " ON CONFLICT (" KAPTURE_KEY_BOUNDED("row_key") ", attachment_id)"
								   " DO UPDATE SET customer_id = excluded.customer_id, state = 'retry', next_attempt = now()"
								   " WHERE d.state <> 'sending' AND d.customer_id IS NULL AND d.in_doubt IS NULL",
								   lengthof(types), types, values);
		n = 0;
	}
	kapture_attach_announce_one(match->att->id);
	if (match->att->paused)
		ereport(NOTICE,
				(errmsg("the ids are written when table %s is no longer paused", kapture_catalog_title(match->att)),
				 errhint("Use kapture_resume().")));
}

static void
match_put(ReturnSetInfo *rsinfo, const KaptureAttachment *att, const MatchFound *found)
{
	Datum		values[5];
	bool		nulls[5] = {0};

	values[0] = CStringGetTextDatum(found->row_key);
	values[1] = Int64GetDatum(found->customer_id);
	nulls[1] = found->customer_id == 0;
	values[2] = CStringGetTextDatum(found->found_by);
	nulls[3] = found->problem == NULL;
	values[3] = found->problem ? CStringGetTextDatum(found->problem) : (Datum) 0;
	values[4] = CStringGetTextDatum(att->name);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Looks for the customers of an attachment's rows, and returns what was found. */
static void
match_attachment(FunctionCallInfo fcinfo, KaptureAttachment *att, bool write)
{
	Match		match = {0};
	MemoryContext slice;
	MemoryContext old = CurrentMemoryContext;
	KaptureRound round = {.att = att,.without_id = true,.read = match_read,.arg = &match};
	const char *after = NULL;
	bool		more;
	ListCell   *lc;

	match_begin(&match, att);
	slice = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync slice", ALLOCSET_DEFAULT_SIZES);
	do
	{
		MemoryContextSwitchTo(slice);
		round.most = kapture_fetch_round(match.server, match.owner) / MATCH_GETS;
		match_ask(&match, kapture_round_next(&round, &after, &more));
		MemoryContextSwitchTo(old);
		if (more)
			after = pstrdup(after);
		MemoryContextReset(slice);
	} while (more);
	if (write)
		match_write(&match);
	foreach(lc, match.found)
		match_put((ReturnSetInfo *) fcinfo->resultinfo, att, lfirst(lc));
}

/*
 * kapture_match(relation regclass, write boolean, name text)
 *		returns table(row_key text, kapture_customer_id bigint, found_by text, problem text,
 *					  name text)
 *
 * Errors: those of kapture_attach_find_all(), of reading the table as its owner and
 * of kapture_fetch_next(); 25006 ids cannot be written in a read-only transaction.
 */
Datum
kapture_match(PG_FUNCTION_ARGS)
{
	List	   *attachments = kapture_attach_find_all(fcinfo, 2, AccessShareLock);
	ListCell   *lc;

	kapture_argument_check_null(fcinfo, 1, "write");
	/* ids are queued below the executor, which would check this */
	if (PG_GETARG_BOOL(1))
		PreventCommandIfReadOnly("kapture_match() with argument \"write\"");
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, attachments)
		match_attachment(fcinfo, lfirst(lc), PG_GETARG_BOOL(1));
	PG_RETURN_NULL();
}
