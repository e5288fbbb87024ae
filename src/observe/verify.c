/*
 * verify.c
 *		kapture_verify(): are rows of an attached table what Kapture has?
 *
 * Rows are taken in slices, in order of the key.  Those for which nothing waits are
 * asked for, as many at a time as max_connections and rate_limit allow (fetch.c).
 * Time passes between reading a row and Kapture's answer.  So a row that seems to
 * differ is read again: if it has changed, Kapture is asked for it again; if something
 * waits for it by now, it is reported as waiting, not as different.
 *
 * Only as many rows as keep the connections busy, and their answers, are in memory.
 * As in the worker, tables are read as their owner, and Kapture is asked with the
 * owner's key.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"

#include "api/argument.h"
#include "api/columns.h"
#include "api/option.h"
#include "base/catalog.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "fetch/fetch.h"
#include "manage/run.h"
#include "observe/compare.h"
#include "observe/round.h"
#include "queue/inbox.h"
#include "table/attach_find.h"
#include "table/capture.h"
#include "table/capture_buffer.h"
#include "table/row_io.h"
#include "table/row_sql.h"

PG_FUNCTION_INFO_V1(kapture_verify);
PG_FUNCTION_INFO_V1(kapture_verify_into);

/* Customers that are compared at once, at most, and bytes of their answers. */
#define VERIFY_PAGE			250
#define VERIFY_PAGE_BYTES	(1024 * 1024)

/* How often Kapture is asked for a row that changes all the time. */
#define VERIFY_TRIES		3

#define VERIFY_COLUMNS		6	/* of a result */
#define VERIFY_ATTACHMENT	6	/* index of the column in which kapture_verify() has the attachment's name */

/* Problems of rows that repair does not solve, and what users can do. */
static const struct
{
	const char *problem;
	const char *hint;
	const char *kept;			/* where the extension keeps the ids; NULL: the same */
}			verify_advice[] =
{
	{"unknown id", "If these customers of the account were removed, set the ids to NULL, then use kapture_backfill().",
	"If these customers of the account were removed, use kapture_forget_id() for each row, then kapture_backfill()."},
	{"other customer", "The customers were merged: set each id to the one in column \"there\".",
	"The customers were merged: use kapture_forget_id() for each row, then kapture_backfill()."},
	{"shared id", "Set the id to NULL in all rows of a customer but the right one, then use kapture_backfill().", NULL},
	{"parked", "The view kapture_failures has the reason for each row, and what to do.", NULL},
	{"unreadable", "Column \"here\" has the reason for each row.", NULL},
};

#define VERIFY_ADVICE	((int) lengthof(verify_advice))

typedef struct Verify
{
	MemoryContext context;
	bool		repair;
	HTAB	   *shared;			/* ids that several rows have; NULL: not read yet */
	Oid			target;			/* table for results; InvalidOid: they go to rsinfo */
	ReturnSetInfo *rsinfo;

	/* of this slice */
	KaptureAttachment *att;
	char	   *server;
	char	   *timezone;
	Oid			owner;			/* of the table */
	KaptureComparer *comparer;

	/* the next rows are read once the last requests for these are in flight */
	void		(*read_ahead) (struct Verify *verify, void *arg);	/* NULL: no more rows, or they are read already */
	void	   *ahead;			/* its argument */

	/* fields that could not be compared, as bits */
	int64		masked;
	int64		untold;

	int64		unrepaired[VERIFY_ADVICE];	/* rows with each problem of verify_advice */
} Verify;

/* A field whose value is not what Kapture has. */
typedef struct VerifyField
{
	int			column;
	bool		not_emptied;
	char	   *there;
} VerifyField;

typedef struct VerifyItem
{
	KaptureRow	row;
	char	   *problem;		/* of the whole row; NULL: see fields */
	char	   *there;			/* what Kapture has, for some problems of the whole row */
	List	   *fields;			/* of VerifyField */
	bool		ask;			/* Kapture is to be asked, or was asked and the result is to be confirmed */
	bool		again;			/* the row has changed since Kapture was asked */
} VerifyItem;

/* ------------------------------------------------------------------------
 * Results
 * ------------------------------------------------------------------------
 */

static Datum
verify_text(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

/* For a table that cannot take results: adds a hint with the columns that it must have. */
static void
verify_insert_error_callback(void *arg)
{
	if (geterrcode() == ERRCODE_UNDEFINED_COLUMN || geterrcode() == ERRCODE_DATATYPE_MISMATCH)
		errhint("The table must have columns row_key text, kapture_customer_id bigint, problem text, field text, here text and there text.");
	errcontext("writing a result into table \"%s\"", get_rel_name(((Verify *) arg)->target));
}

/* A result for the caller's table. */
typedef struct VerifyResult
{
	Oid			target;
	Datum	   *values;
	const char *nulls;
} VerifyResult;

static void
verify_do_insert(void *arg)
{
	static const Oid types[VERIFY_COLUMNS] = {TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	VerifyResult *result = arg;

	SPI_connect();
	/* a deferred trigger would fire at commit, when nobody checks whose code it is */
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "could not set constraints");
	if (kapture_user_code_execute(psprintf("INSERT INTO %s (row_key, kapture_customer_id, problem, field, here, there)"
										   " VALUES ($1, $2, $3, $4, $5, $6)", kapture_row_relation_name(result->target)),
								  VERIFY_COLUMNS, (Oid *) types, result->values, result->nulls, false) < 0)
		elog(ERROR, "could not write into \"%s\"", get_rel_name(result->target));
	SPI_finish();
}

/*
 * Writes a result into the caller's table, as the caller.  Code of other roles that own
 * the table, or its schema, must not gain the rights of the caller by this.
 */
static void
verify_insert(Verify *verify, Datum *values, bool *isnull)
{
	char		nulls[VERIFY_COLUMNS + 1] = {0};
	ErrorContextCallback callback = {.callback = verify_insert_error_callback, .arg = verify, .previous = error_context_stack};
	VerifyResult result = {verify->target, values, nulls};
	Relation	rel;

	error_context_stack = &callback;
	for (int i = 0; i < VERIFY_COLUMNS; i++)
		nulls[i] = isnull[i] ? 'n' : ' ';
	rel = relation_open(verify->target, RowExclusiveLock);
	kapture_user_code_run(rel, NIL, verify_do_insert, &result);
	relation_close(rel, NoLock);
	error_context_stack = callback.previous;
}

static void
verify_put(Verify *verify, const VerifyItem *item, const char *problem, const char *field,
		   const char *here, const char *there)
{
	Datum		values[VERIFY_COLUMNS + 1];
	bool		isnull[VERIFY_COLUMNS + 1];

	values[0] = verify_text(item->row.row_key, &isnull[0]);
	values[1] = Int64GetDatum(item->row.customer_id);
	isnull[1] = item->row.customer_id == 0;
	values[2] = verify_text(problem, &isnull[2]);
	values[3] = verify_text(field, &isnull[3]);
	values[4] = verify_text(here, &isnull[4]);
	values[5] = verify_text(there, &isnull[5]);
	if (OidIsValid(verify->target))
		verify_insert(verify, values, isnull);
	else
	{
		values[VERIFY_ATTACHMENT] = verify_text(verify->att->name, &isnull[VERIFY_ATTACHMENT]);
		tuplestore_putvalues(verify->rsinfo->setResult, verify->rsinfo->setDesc, values, isnull);
	}
}

/* Counts a row with a problem that repair does not solve. */
static void
verify_count(Verify *verify, const char *problem)
{
	for (int i = 0; i < VERIFY_ADVICE; i++)
	{
		if (strcmp(verify_advice[i].problem, problem) == 0)
			verify->unrepaired[i]++;
	}
}

/* Puts what was found of a row into the result, and notes the row for repair if that is wanted. */
static void
verify_give_out(Verify *verify, VerifyItem *item)
{
	int64		wrong = 0;
	ListCell   *lc;

	if (item->problem)
	{
		bool		failed = item->row.outcome == KAPTURE_ROW_FAILED;

		verify_put(verify, item, item->problem, NULL, failed ? item->row.error : NULL, item->there);
		verify_count(verify, item->problem);
		if (verify->repair && strcmp(item->problem, "no id") == 0)
			kapture_capture_existing(verify->att, item->row.row_key);
		return;
	}
	foreach(lc, item->fields)
	{
		VerifyField *field = lfirst(lc);
		KaptureMappedColumn *col = &verify->att->columns[field->column];

		verify_put(verify, item, field->not_emptied ? "not emptied" : "differs", col->field,
				   item->row.values[field->column], field->there);
		if (!field->not_emptied)
			wrong |= INT64CONST(1) << col->bit;
	}
	if (verify->repair && wrong != 0)
		kapture_capture_again(verify->att, item->row.row_key, wrong, true);
}

/* ------------------------------------------------------------------------
 * Rows here
 * ------------------------------------------------------------------------
 */

/*
 * Takes in the ids that several rows have; runs as the owner of the table.  A row outside of the
 * filter does not count, as it has left its customer to the other row.
 */
static void
verify_read_shared(void *arg)
{
	Verify	   *verify = arg;
	const char *id;

	if (verify->att->id_column == NULL)
		return;					/* the extension gives no id to two rows */
	id = psprintf("r.%s::text", quote_identifier(verify->att->id_column));
	kapture_row_plan_freely();	/* all rows are read */
	kapture_user_code_select(psprintf("SELECT %s FROM %s AS r WHERE %s IS NOT NULL AND %s NOT IN ('', '0') AND %s"
									  " GROUP BY 1 HAVING pg_catalog.count(*) > 1",
									  id, kapture_row_source(verify->att), id, id,
									  kapture_row_selection(verify->att, false, NULL)),
							 0, NULL, NULL, NULL, true);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int64		id_value = pg_strtoint64(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));

		(void) hash_search(verify->shared, &id_value, HASH_ENTER, NULL);
	}
}

static void
verify_find_shared(Verify *verify)
{
	HASHCTL		info = {.keysize = sizeof(int64), .entrysize = sizeof(int64), .hcxt = verify->context};
	ErrorData  *error;

	kapture_row_check_table(verify->att);
	verify->shared = hash_create("kapture_sync shared ids", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	error = kapture_row_run(verify->att, NULL, verify_read_shared, verify);
	if (error)
		ReThrowError(error);
}

static void
verify_read_rows(Verify *verify, List *items)
{
	List	   *rows = NIL;
	ListCell   *lc;

	foreach(lc, items)
		rows = lappend(rows, &((VerifyItem *) lfirst(lc))->row);
	kapture_row_read_all(verify->att, verify->timezone, rows);
}

/* What waits for rows, read as the owner of the queue. */
typedef struct VerifyWaiting
{
	int32		attachment_id;
	List	   *keys;
	MemoryContext context;
	List	   *waiting;		/* of KaptureWaiting */
} VerifyWaiting;

static void
verify_read_waiting(void *arg)
{
	VerifyWaiting *call = arg;
	MemoryContext old = MemoryContextSwitchTo(call->context);

	call->waiting = kapture_inbox_waiting(call->attachment_id, call->keys);
	MemoryContextSwitchTo(old);
}

static int
verify_compare_waiting(const void *a, const ListCell *b)
{
	return strcmp(a, ((KaptureWaiting *) lfirst(b))->row_key);
}

static int
verify_order_waiting(const ListCell *a, const ListCell *b)
{
	return verify_compare_waiting(((KaptureWaiting *) lfirst(a))->row_key, b);
}

/* Marks the items for which something waits. */
static void
verify_mark_waiting(Verify *verify, List *items)
{
	VerifyWaiting call = {.attachment_id = verify->att->id, .context = CurrentMemoryContext};
	ListCell   *lc;

	foreach(lc, items)
		call.keys = lappend(call.keys, (char *) ((VerifyItem *) lfirst(lc))->row.row_key);
	if (items != NIL)
		kapture_own_run(verify_read_waiting, &call);
	list_sort(call.waiting, verify_order_waiting);
	foreach(lc, items)
	{
		VerifyItem *item = lfirst(lc);
		int			low = 0;
		int			high = list_length(call.waiting);

		while (low < high)
		{
			int			middle = (low + high) / 2;

			if (verify_compare_waiting(item->row.row_key, list_nth_cell(call.waiting, middle)) > 0)
				low = middle + 1;
			else
				high = middle;
		}
		if (low < list_length(call.waiting) &&
			verify_compare_waiting(item->row.row_key, list_nth_cell(call.waiting, low)) == 0)
			item->problem = ((KaptureWaiting *) list_nth(call.waiting, low))->parked ? "parked" : "waiting";
	}
}

/* Decides what is wrong with rows without asking Kapture, and which rows it is to be asked for. */
static void
verify_judge_rows(Verify *verify, List *items)
{
	ListCell   *lc;

	foreach(lc, items)
	{
		VerifyItem *item = lfirst(lc);

		if (item->row.outcome == KAPTURE_ROW_LOCKED)
		{
			item->row.outcome = KAPTURE_ROW_FAILED;
			item->row.error = pstrdup("the table or a partition of it is locked");
		}
		item->ask = false;
		if (item->row.outcome == KAPTURE_ROW_GONE || item->row.outside || item->problem)
			continue;
		if (item->row.outcome == KAPTURE_ROW_FAILED)
			item->problem = "unreadable";
		else if (item->row.customer_id == 0)
			item->problem = "no id";
		else if (hash_search(verify->shared, &item->row.customer_id, HASH_FIND, NULL))
			item->problem = "shared id";
		else
			item->ask = true;
	}
}

/* ------------------------------------------------------------------------
 * Customers there
 * ------------------------------------------------------------------------
 */

static void
verify_compare(Verify *verify, VerifyItem *item, const KaptureThere *there)
{
	for (int c = 0; c < verify->att->ncolumns; c++)
	{
		const KaptureMappedColumn *col = &verify->att->columns[c];
		KaptureCompared compared;
		VerifyField *field;
		MemoryContext old;

		/* the column does not exist any more */
		if (col->attnum == InvalidAttrNumber && col->name && !verify->att->source_name)
			continue;
		compared = kapture_comparer_compare(verify->comparer, c, item->row.values[c], there);
		if (compared == KAPTURE_COMPARED_MASKED)
			verify->masked |= INT64CONST(1) << col->bit;
		else if (compared == KAPTURE_COMPARED_UNTOLD)
			verify->untold |= INT64CONST(1) << col->bit;
		if (compared != KAPTURE_COMPARED_DIFFERS && compared != KAPTURE_COMPARED_NOT_EMPTIED)
			continue;
		old = MemoryContextSwitchTo(item->row.context);
		field = palloc(sizeof(VerifyField));
		field->column = c;
		field->not_emptied = compared == KAPTURE_COMPARED_NOT_EMPTIED;
		field->there = there->values[c] ? pstrdup(there->values[c]) : NULL;
		item->fields = lappend(item->fields, field);
		MemoryContextSwitchTo(old);
	}
}

/* The customer with this id in an answer; NULL if there is none, then *other is another customer's id, or 0. */
static Jsonb *
verify_find_customer(Verify *verify, const KaptureWindow *window, int64 id, int64 *other)
{
	*other = 0;
	for (int i = 0; window->list && i < window->list->ncustomers; i++)
	{
		Jsonb	   *customer = kapture_message_customer_parts(window->list, i, kapture_comparer_wants, verify->comparer);
		JsonbValue	object = {.type = jbvBinary};
		int64		found;

		object.val.binary.data = &customer->root;
		object.val.binary.len = VARSIZE(customer) - VARHDRSZ;
		if (!JB_ROOT_IS_OBJECT(customer) || !kapture_customer_id(&object, &found))
			continue;
		if (found == id)
			return customer;
		*other = found;
	}
	return NULL;
}

/* Compares the customers of a page with their rows, and frees all memory of "page". */
static void
verify_end_page(Verify *verify, MemoryContext page, VerifyItem **items, Jsonb **customers, int *n)
{
	MemoryContext old = MemoryContextSwitchTo(page);
	KaptureThere *there = *n > 0 ? kapture_comparer_read(verify->comparer, customers, *n) : NULL;

	for (int i = 0; i < *n; i++)
		verify_compare(verify, items[i], &there[i]);
	*n = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(page);
}

static void
verify_read_ahead(Verify *verify)
{
	void		(*read_ahead) (Verify *verify, void *arg) = verify->read_ahead;

	verify->read_ahead = NULL;
	read_ahead(verify, verify->ahead);
}

/* Asks Kapture for the customers of rows, and compares them. */
static void
verify_ask(Verify *verify, List *items)
{
	List	   *bodies = NIL;
	KaptureFetch *fetch;
	const KaptureWindow *window;
	VerifyItem *page_items[VERIFY_PAGE];
	Jsonb	   *customers[VERIFY_PAGE];
	MemoryContext page;
	MemoryContext old = CurrentMemoryContext;
	Size		bytes = 0;
	int			n = 0;
	ListCell   *lc;

	if (items == NIL)
		return;
	foreach(lc, items)
		bodies = lappend(bodies, kapture_fetch_get_body(((VerifyItem *) lfirst(lc))->row.customer_id, NULL, NULL));
	fetch = kapture_fetch_gets(verify->server, verify->owner, bodies);
	page = AllocSetContextCreate(old, "kapture_sync page", ALLOCSET_DEFAULT_SIZES);
	while ((window = kapture_fetch_next(fetch)) != NULL)
	{
		VerifyItem *item = list_nth(items, window->number);
		int64		other;
		Jsonb	   *customer;

		if (verify->read_ahead && window->number >= list_length(items) - kapture_fetch_most(fetch))
			verify_read_ahead(verify);
		MemoryContextSwitchTo(page);
		customer = verify_find_customer(verify, window, item->row.customer_id, &other);
		MemoryContextSwitchTo(old);
		if (customer == NULL)
		{
			item->problem = other ? "other customer" : "unknown id";
			item->there = other ? psprintf(INT64_FORMAT, other) : NULL;
			continue;
		}
		page_items[n] = item;
		customers[n++] = customer;
		bytes += VARSIZE(customer);
		if (n < VERIFY_PAGE && bytes < VERIFY_PAGE_BYTES)
			continue;
		verify_end_page(verify, page, page_items, customers, &n);
		bytes = 0;
	}
	verify_end_page(verify, page, page_items, customers, &n);
	MemoryContextDelete(page);
}

/* Does a row have other values, or another id, than before? */
static bool
verify_has_changed(const Verify *verify, const KaptureRow *before, const KaptureRow *now)
{
	if (now->outcome != KAPTURE_ROW_DONE || now->outside || now->customer_id != before->customer_id)
		return true;
	for (int c = 0; c < verify->att->ncolumns; c++)
	{
		const char *a = before->values[c];
		const char *b = now->values[c];

		if ((a == NULL) != (b == NULL) || (a && strcmp(a, b) != 0))
			return true;
	}
	return false;
}

/*
 * Reads the rows that seem to differ again, and marks those for which something waits by
 * now.  Returns the rows that have changed, for which Kapture is to be asked again.
 */
static List *
verify_confirm(Verify *verify, List *items)
{
	List	   *suspects = NIL;
	List	   *again = NIL;
	KaptureRow *before = palloc(sizeof(KaptureRow) * Max(list_length(items), 1));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, items)
	{
		VerifyItem *item = lfirst(lc);

		if (item->problem == NULL && item->fields == NIL)
			continue;
		before[n++] = item->row;
		suspects = lappend(suspects, item);
		item->row.outcome = KAPTURE_ROW_GONE;
	}
	verify_read_rows(verify, suspects);
	n = 0;
	foreach(lc, suspects)
	{
		VerifyItem *item = lfirst(lc);

		item->again = verify_has_changed(verify, &before[n++], &item->row);
		if (item->again)
		{
			item->problem = item->there = NULL;
			item->fields = NIL;
			again = lappend(again, item);
		}
	}
	verify_mark_waiting(verify, suspects);
	verify_judge_rows(verify, again);
	return again;
}

/* Prepares for rows of this attachment. */
static void
verify_use(Verify *verify, KaptureAttachment *att)
{
	verify->att = att;
	verify->server = att->server;
	verify->owner = kapture_catalog_owner(att->root);
	verify->timezone = pstrdup(kapture_server_get(att->server, verify->owner)->timezone);
	verify->comparer = kapture_comparer_create(att, verify->timezone);
	if (verify->shared == NULL)
		verify_find_shared(verify);
}

/* Returns the rows with these keys, read, as items. */
static List *
verify_make_items(void *arg, List *keys)
{
	Verify	   *verify = arg;
	List	   *items = NIL;
	ListCell   *lc;

	foreach(lc, keys)
	{
		VerifyItem *item = palloc0(sizeof(VerifyItem));

		item->row.context = CurrentMemoryContext;
		item->row.row_key = lfirst(lc);
		items = lappend(items, item);
	}
	verify_read_rows(verify, items);
	return items;
}

/* Marks what is wrong with rows that have just been read, without asking Kapture. */
static void
verify_prepare(Verify *verify, List *items)
{
	verify_mark_waiting(verify, items);
	verify_judge_rows(verify, items);
}

/* Compares prepared rows with Kapture, and puts what is wrong into the result. */
static void
verify_items(Verify *verify, List *items)
{
	List	   *ask = items;
	ListCell   *lc;

	for (int try = 1; ask != NIL; try++)
	{
		List	   *asked = NIL;

		foreach(lc, ask)
		{
			VerifyItem *item = lfirst(lc);

			if (item->ask && try <= VERIFY_TRIES)
				asked = lappend(asked, item);
			else if (item->ask)
				item->problem = "waiting";	/* the row changes all the time */
		}
		verify_ask(verify, asked);
		ask = verify_confirm(verify, asked);
	}
	foreach(lc, items)
		verify_give_out(verify, lfirst(lc));
}

/* ------------------------------------------------------------------------
 * SQL functions
 * ------------------------------------------------------------------------
 */

/* Reports which fields of "att" could not be compared. */
static void
verify_say_fields(const KaptureAttachment *att, int64 bits, const char *why)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int c = 0; c < att->ncolumns; c++)
	{
		if (bits & (INT64CONST(1) << att->columns[c].bit))
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", att->columns[c].field);
	}
	if (names.len > 0)
		ereport(NOTICE,
				(errmsg("fields that could not be compared: %s", names.data),
				 errdetail_internal("%s", why)));
}

/* Reports what to do about problems that repair does not solve. */
static void
verify_say_unrepaired(Verify *verify, const KaptureAttachment *att)
{
	for (int i = 0; i < VERIFY_ADVICE; i++)
	{
		const char *hint = att->id_column || verify_advice[i].kept == NULL ? verify_advice[i].hint : verify_advice[i].kept;
		int64		n = verify->unrepaired[i];

		if (n > 0)
			ereport(NOTICE,
					(errmsg_plural("%lld row has the problem \"%s\"", "%lld rows have the problem \"%s\"",
								   n, (long long) n, verify_advice[i].problem),
					 errdetail("Sending rows again does not solve it."),
					 errhint("%s", hint)));
	}
}

static void
verify_say(Verify *verify, const KaptureAttachment *att)
{
	verify_say_fields(att, verify->untold, "Kapture does not return them.");
	verify_say_fields(att, verify->masked, "Kapture masks their values, at least some of them.");
	verify_say_unrepaired(verify, att);
}

/* Begins to verify what the transaction sees, including its own changes. */
static void
verify_begin(Verify *verify)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("rows cannot be compared with Kapture at isolation level %s",
						XactIsoLevel == XACT_SERIALIZABLE ? "SERIALIZABLE" : "REPEATABLE READ"),
				 errdetail("What is sent meanwhile would look like a difference."),
				 errhint("Use READ COMMITTED.")));
	verify->context = CurrentMemoryContext;
	kapture_notes_flush();
}

/* The rows of an attachment, in rounds. */
typedef struct VerifyRounds
{
	KaptureRound round;
	MemoryContext contexts[2];	/* of the items that are compared, and of the next ones */
	const char *after;
	char	   *last;			/* memory of "after" */
	bool		more;
	List	   *items;			/* items to compare next */
} VerifyRounds;

/* Reads the next rows into the other context. */
static void
verify_next(Verify *verify, void *arg)
{
	VerifyRounds *rounds = arg;
	MemoryContext old = MemoryContextSwitchTo(rounds->contexts[1]);

	rounds->items = kapture_round_next(&rounds->round, &rounds->after, &rounds->more);
	verify_prepare(verify, rounds->items);
	MemoryContextSwitchTo(verify->context);
	if (rounds->last)
		pfree(rounds->last);
	rounds->last = rounds->after ? pstrdup(rounds->after) : NULL;
	rounds->after = rounds->last;
	MemoryContextSwitchTo(old);
}

/* Compares the rows of an attachment. */
static void
verify_attachment(FunctionCallInfo fcinfo, KaptureAttachment *att, const char *condition, bool repair)
{
	Verify		verify = {.repair = repair,.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};
	VerifyRounds rounds = {.round = {.att = att,.condition = condition,.read = verify_make_items,.arg = &verify,
	.row = offsetof(VerifyItem, row)}};
	MemoryContext old = CurrentMemoryContext;
	bool		more;

	verify_begin(&verify);
	for (int i = 0; i < lengthof(rounds.contexts); i++)
		rounds.contexts[i] = AllocSetContextCreate(old, "kapture_sync slice", ALLOCSET_DEFAULT_SIZES);
	verify.ahead = &rounds;
	verify_use(&verify, att);
	rounds.round.most = kapture_fetch_round(verify.server, verify.owner);
	verify_next(&verify, &rounds);
	do
	{
		MemoryContext context = rounds.contexts[1];
		List	   *items = rounds.items;

		rounds.contexts[1] = rounds.contexts[0];
		rounds.contexts[0] = context;
		MemoryContextSwitchTo(context);
		more = rounds.more;
		verify.read_ahead = more ? verify_next : NULL;
		verify_items(&verify, items);
		if (verify.read_ahead)
			verify_read_ahead(&verify); /* not done yet, as nobody had to be asked for */
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	} while (more);
	verify_say(&verify, att);
}

/*
 * kapture_verify(relation regclass, condition text, repair boolean, name text)
 *		returns table(row_key text, kapture_customer_id bigint, problem text,
 *					  field text, here text, there text, name text)
 *
 * Errors: those of kapture_attach_find_all(), kapture_row_take_condition(), of reading
 * the table as its owner and of kapture_fetch_next(); 25001 at a stricter
 * isolation level than READ COMMITTED.
 */
Datum
kapture_verify(PG_FUNCTION_ARGS)
{
	List	   *attachments = kapture_attach_find_all(fcinfo, 3, AccessShareLock);
	const char *condition = NULL;
	ListCell   *lc;

	kapture_argument_check_null(fcinfo, 2, "repair");
	if (!PG_ARGISNULL(1))
		condition = kapture_row_take_condition(linitial(attachments), text_to_cstring(PG_GETARG_TEXT_PP(1)));
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, attachments)
		verify_attachment(fcinfo, lfirst(lc), condition, PG_GETARG_BOOL(2));
	PG_RETURN_NULL();
}

static void
verify_work(KaptureRun *run, KaptureAttachment *att, List *keys)
{
	List	   *items;

	verify_use(run->arg, att);
	items = verify_make_items(run->arg, keys);
	verify_prepare(run->arg, items);
	verify_items(run->arg, items);
}

/*
 * kapture_verify_into(relation regclass, into_table regclass, condition text,
 *		repair boolean, slice integer, restart boolean, name text), a procedure
 *
 * Errors: those of kapture_verify() and of kapture_run_call(); 22023 for the size;
 * 42P01 there is no such table for results.
 */
Datum
kapture_verify_into(PG_FUNCTION_ARGS)
{
	KaptureAttachment *att = kapture_attach_find(fcinfo, 6, AccessShareLock);
	Verify		verify = {0};
	KaptureRun	run = {.activity = KAPTURE_VERIFY, .name = "kapture_verify_into", .name_arg = 6, .work = verify_work, .arg = &verify};

	kapture_argument_check_null(fcinfo, 1, "into_table");
	run.target = verify.target = PG_GETARG_OID(1);
	(void) kapture_row_relation_name(verify.target);	/* the table must exist, even if nothing is written */
	if (!PG_ARGISNULL(2))
		run.condition = text_to_cstring(PG_GETARG_TEXT_PP(2));
	kapture_argument_check_null(fcinfo, 3, "repair");
	run.force = verify.repair = PG_GETARG_BOOL(3);
	kapture_run_check_slice(fcinfo, 4, &run.slice);
	kapture_argument_check_null(fcinfo, 5, "restart");
	run.restart = PG_GETARG_BOOL(5);
	run.notice = "are compared";
	verify_begin(&verify);
	kapture_run_call(fcinfo, &run);
	verify_say(&verify, att);
	PG_RETURN_VOID();
}
