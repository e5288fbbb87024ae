/*
 * modify.c
 *		Foreign tables: INSERT and UPDATE of customers.
 *
 * A row that is inserted is a request of Add, a row that is updated one of
 * Update with the columns that are SET.  Kapture has no transactions: what it has
 * accepted stays, even if the transaction here is rolled back (see remote_writes.c).
 * No request is sent a second time, except after a 429, which means that nothing was
 * done.
 *
 * The rows of an INSERT that returns nothing come in batches; all rows of a batch
 * are checked before the first is sent, and up to max_connections are in flight at
 * a time.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/appendinfo.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "api/error.h"
#include "api/http.h"
#include "api/option.h"
#include "api/reply.h"
#include "base/compat.h"
#include "base/written.h"
#include "fdw/modify.h"
#include "fdw/remote_writes.h"
#include "traffic/request_pool.h"

/* Rows of a batch of an INSERT: MODIFY_BATCH, or MODIFY_ROUNDS for each connection if that is more, */
#define MODIFY_BATCH		100
#define MODIFY_ROUNDS		10

/* but no more than MODIFY_MAX_BATCH. */
#define MODIFY_MAX_BATCH	2000

/* Name of the junk column in which the scan of an UPDATE hands on the id. */
#define MODIFY_ID			"kapture_id"

/* A column that feeds a field of Add and Update. */
typedef struct ModifyColumn
{
	AttrNumber	attnum;
	Oid			type;
	const char *name;
	const char *field;
	bool		is_id;			/* made by Kapture: never sent */
	bool		is_set;			/* by the UPDATE */
	FmgrInfo	output;
} ModifyColumn;

/* An INSERT or UPDATE that runs. */
typedef struct Modify
{
	KaptureApi	api;
	Relation	rel;
	char	   *server;
	Oid			serverid;
	Oid			owner;			/* of the server */
	Oid			userid;
	int			ncolumns;
	ModifyColumn *columns;
	bool	   *is_taken;		/* by attribute: does it feed a field? */
	AttrNumber	id_junk;		/* UPDATE: junk columns of id and old row */
	AttrNumber	row_junk;
	bool		has_trigger;	/* UPDATE: a trigger may have changed more columns */
	HTAB	   *updated;		/* UPDATE: ids of customers that have had their row */
	bool		skip_duplicates;
	KaptureRequestPool pool;	/* of the requests of one batch */
	int			batch;			/* rows of a batch, at most */
	int64		done;			/* rows before this batch */
	MemoryContext context;		/* of one batch */
} Modify;

typedef enum ModifyState
{
	MODIFY_DUE,
	MODIFY_RUNNING,
	MODIFY_DONE,
	MODIFY_SKIPPED,				/* Kapture has the customer already */
	MODIFY_FAILED
} ModifyState;

/* One row and its request. */
typedef struct ModifyRow
{
	ModifyState state;
	char	   *flat;			/* the body with our names of the fields */
	size_t		flat_len;
	char	   *body;			/* as it is sent, UTF-8; NULL: nothing to send */
	size_t		body_len;
	bool	   *sent;			/* by column: is it in the body? */
	int			attempts;
	KaptureHttpRequest *request;
	const KaptureHttpAnswer *answer;
	Jsonb	   *parsed;
	char	   *why;			/* why the answer is not JSON */
	KaptureReply reply;
} ModifyRow;


/*
 * Columns
 */

/*
 * kapture_fdw_table_kind
 *		What a foreign table has: customers or contacts.
 */
KaptureRowKind
kapture_fdw_table_kind(Oid relid)
{
	ListCell   *lc;

	foreach(lc, GetForeignTable(relid)->options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, "object") == 0 &&
			strcmp(defGetString(option), "contacts") == 0)
			return KAPTURE_ROW_CONTACT;
	}
	return KAPTURE_ROW_CUSTOMER;
}

/* Does Kapture make the value of this field itself? */
static bool
modify_is_id(const char *field)
{
	return strcmp(field, "kapture_customer_id") == 0 || strcmp(field, "contact_id") == 0;
}

/* The field that a column may write, or NULL. */
static const char *
modify_field(Form_pg_attribute attr)
{
	const char *field = attr->attisdropped || attr->attgenerated ? NULL : kapture_column_field(attr);

	return field && !modify_is_id(field) ? field : NULL;
}

/* The columns of a table that can be written, for a hint. */
static char *
modify_writable(TupleDesc desc)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < desc->natts; i++)
	{
		if (modify_field(TupleDescAttr(desc, i)))
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
							 NameStr(TupleDescAttr(desc, i)->attname));
	}
	return list.data;
}

/* Raises the error about a column that Kapture does not take. */
static void
modify_refuse_column(Relation rel, AttrNumber attnum, bool is_id)
{
	TupleDesc	desc = RelationGetDescr(rel);
	const char *name = NameStr(TupleDescAttr(desc, attnum - 1)->attname);

	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_COLUMN_NAME),
			 errmsg("column \"%s\" of foreign table \"%s\" cannot be written",
					name, RelationGetRelationName(rel)),
			 is_id ? errdetail("Kapture makes the ids itself.") :
			 errdetail("Kapture returns it, but does not take it."),
			 errhint("These columns can be written: %s.", modify_writable(desc))));
}

/* Fills in the columns that feed fields. */
static void
modify_find_columns(Modify *modify)
{
	TupleDesc	desc = RelationGetDescr(modify->rel);

	modify->columns = palloc0(sizeof(ModifyColumn) * desc->natts);
	modify->is_taken = palloc0(sizeof(bool) * (desc->natts + 1));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		ModifyColumn *column = &modify->columns[modify->ncolumns];
		const char *field = attr->attisdropped || attr->attgenerated ? NULL : kapture_column_field(attr);
		Oid			output;
		bool		is_varlena;

		if (field == NULL)
			continue;
		modify->ncolumns++;
		column->attnum = attr->attnum;
		column->type = attr->atttypid;
		column->name = NameStr(attr->attname);
		column->field = field;
		column->is_id = modify_is_id(field);
		modify->is_taken[attr->attnum] = !column->is_id;
		getTypeOutputInfo(attr->atttypid, &output, &is_varlena);
		fmgr_info(output, &column->output);
	}
}

/* Marks the columns that an UPDATE sets; raises an error for one that Kapture does not take. */
static void
modify_find_set(Modify *modify, Bitmapset *updated)
{
	int			bit = -1;

	while ((bit = bms_next_member(updated, bit)) >= 0)
	{
		AttrNumber	attnum = bit + FirstLowInvalidHeapAttributeNumber;
		bool		is_id = false;

		if (attnum <= 0 || TupleDescAttr(RelationGetDescr(modify->rel), attnum - 1)->attgenerated)
			continue;
		for (int i = 0; i < modify->ncolumns; i++)
		{
			if (modify->columns[i].attnum != attnum)
				continue;
			modify->columns[i].is_set = true;
			is_id = modify->columns[i].is_id;
		}
		if (!modify->is_taken[attnum])
			modify_refuse_column(modify->rel, attnum, is_id);
	}
}


/*
 * Bodies
 */

/* A column's value as text; NULL if it is NULL or blank, which to Kapture is no value. */
static char *
modify_text(ModifyColumn *column, Datum value, bool isnull)
{
	char	   *text = isnull ? NULL : OutputFunctionCall(&column->output, value);

	return text && text[strspn(text, " ")] ? text : NULL;
}

/* What the row to update had in a column. */
static char *
modify_old_text(const Modify *modify, ModifyColumn *column, TupleTableSlot *plan)
{
	bool		isnull;
	Datum		row = ExecGetJunkAttribute(plan, modify->row_junk, &isnull);
	Datum		value = (Datum) 0;

	if (!isnull)
		value = GetAttributeByNum(DatumGetHeapTupleHeader(row), column->attnum, &isnull);
	return modify_text(column, value, isnull);
}

/*
 * Appends a field to a body, once: two columns may feed it, but not with
 * different values.
 */
static void
modify_append(const Modify *modify, ModifyRow *row, char **texts, StringInfo body, int n)
{
	ModifyColumn *column = &modify->columns[n];

	for (int i = 0; i < n; i++)
	{
		if (!row->sent[i] || strcmp(modify->columns[i].field, column->field) != 0)
			continue;
		if (strcmp(texts[i], texts[n]) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("columns \"%s\" and \"%s\" have different values",
							modify->columns[i].name, column->name),
					 errdetail("Both are Kapture's field \"%s\".", column->field)));
		row->sent[n] = true;
		return;
	}
	kapture_message_append_field(body, column->field, texts[n]);
	row->sent[n] = true;
}

/* Ends a body; a row without fields has none. */
static void
modify_end_body(const Modify *modify, ModifyRow *row, StringInfo body, bool any)
{
	const KaptureServer *server = kapture_server_get(modify->server, modify->userid);

	if (!any)
		return;
	appendStringInfoChar(body, '}');
	row->flat = body->data;
	row->flat_len = body->len;
	row->body = kapture_message_body(server, modify->api, body->data, body->len, &row->body_len);
}

/* Makes the body of an Add. */
static void
modify_make_add(const Modify *modify, ModifyRow *row, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(modify->rel);
	char	  **texts = palloc0(sizeof(char *) * modify->ncolumns);
	StringInfoData body;

	slot_getallattrs(slot);
	for (int i = 0; i < modify->ncolumns; i++)
	{
		AttrNumber	attnum = modify->columns[i].attnum;

		texts[i] = modify_text(&modify->columns[i], slot->tts_values[attnum - 1], slot->tts_isnull[attnum - 1]);
		if (texts[i] && modify->columns[i].is_id)
			modify_refuse_column(modify->rel, attnum, true);
	}
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (!modify->is_taken[attr->attnum] && !slot->tts_isnull[i] && !attr->attgenerated)
			modify_refuse_column(modify->rel, attr->attnum, false);
	}
	initStringInfo(&body);
	appendStringInfoChar(&body, '{');
	for (int i = 0; i < modify->ncolumns; i++)
	{
		if (texts[i])
			modify_append(modify, row, texts, &body, i);
	}
	modify_end_body(modify, row, &body, true);
}

/* The id of the customer to update, which must stay what it is. */
static int64
modify_check_id(const Modify *modify, TupleTableSlot *slot, TupleTableSlot *plan)
{
	bool		isnull;
	Datum		id = ExecGetJunkAttribute(plan, modify->id_junk, &isnull);

	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("a customer without an id cannot be updated")));
	for (int i = 0; i < modify->ncolumns; i++)
	{
		const ModifyColumn *column = &modify->columns[i];
		bool		new_isnull;
		Datum		value;

		if (!column->is_id || strcmp(column->field, "kapture_customer_id") != 0)
			continue;
		value = slot_getattr(slot, column->attnum, &new_isnull);
		if (new_isnull || DatumGetInt64(value) != DatumGetInt64(id))
			modify_refuse_column(modify->rel, column->attnum, true);
	}
	return DatumGetInt64(id);
}

/*
 * Is this the first row of the UPDATE for a customer?  A join may find several,
 * of which one counts, as with any table.
 */
static bool
modify_is_first(Modify *modify, TupleTableSlot *plan)
{
	bool		isnull;
	Datum		id = ExecGetJunkAttribute(plan, modify->id_junk, &isnull);
	int64		key = isnull ? 0 : DatumGetInt64(id);
	bool		found;

	if (isnull)
		return true;			/* modify_check_id() raises the error */
	(void) hash_search(modify->updated, &key, HASH_ENTER, &found);
	return !found;
}

/*
 * Makes the body of an Update.  For an empty value, Kapture leaves the field as it
 * is; so a column cannot be emptied.
 */
static void
modify_make_update(const Modify *modify, ModifyRow *row, TupleTableSlot *slot, TupleTableSlot *plan)
{
	char	  **texts = palloc0(sizeof(char *) * modify->ncolumns);
	StringInfoData body;
	int64		id = modify_check_id(modify, slot, plan);
	bool		any = false;

	initStringInfo(&body);
	appendStringInfoChar(&body, '{');
	kapture_message_append_field(&body, "kapture_customer_id", psprintf(INT64_FORMAT, id));
	for (int i = 0; i < modify->ncolumns; i++)
	{
		ModifyColumn *column = &modify->columns[i];
		bool		isnull;
		Datum		value;
		char	   *old = NULL;

		if (column->is_id || !(column->is_set || modify->has_trigger))
			continue;
		value = slot_getattr(slot, column->attnum, &isnull);
		texts[i] = modify_text(column, value, isnull);
		if (!column->is_set || texts[i] == NULL)
			old = modify_old_text(modify, column, plan);
		if (texts[i] == NULL && old != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_STRING_FORMAT),
					 errmsg("column \"%s\" of foreign table \"%s\" cannot be emptied",
							column->name, RelationGetRelationName(modify->rel)),
					 errdetail("To Kapture, an empty value means to leave the field as it is."),
					 errhint("To set it only where there is a value, write %s = coalesce(..., %s).",
							 column->name, column->name)));
		if (texts[i] == NULL || (!column->is_set && old && strcmp(old, texts[i]) == 0))
			continue;
		modify_append(modify, row, texts, &body, i);
		any = true;
	}
	modify_end_body(modify, row, &body, any);
	if (any)
		kapture_written_note(modify->serverid, id);
}


/*
 * Requests
 */

/* Starts a row's request, if the limiter lets it. */
static void
modify_start(Modify *modify, ModifyRow *row)
{
	const KaptureServer *server = kapture_server_get(modify->server, modify->userid);
	TimestampTz when;

	kapture_server_require_same(server, modify->serverid, modify->owner);
	row->request = kapture_http_start(server, modify->api, row->body, row->body_len, modify, &when);
	if (row->request == NULL)
	{
		kapture_request_pool_refused(&modify->pool, when);
		return;
	}
	kapture_request_pool_started(&modify->pool);
	row->state = MODIFY_RUNNING;
	kapture_undone_begin_request();
}

/* Puts a row off, as Kapture asks for, unless it was tried often enough or the wait is too long. */
static void
modify_put_off(Modify *modify, ModifyRow *row)
{
	if (!kapture_request_pool_retry(&modify->pool, &row->attempts, row->answer->retry_after, GetCurrentTimestamp()))
		return;
	kapture_http_release(row->request);
	row->request = NULL;
	row->state = MODIFY_DUE;
}

/* Reads the answer to a row's request. */
static void
modify_judge(Modify *modify, ModifyRow *row)
{
	KaptureWritten written = KAPTURE_WRITTEN_UNKNOWN;
	bool		is_add = modify->api == KAPTURE_API_ADD;

	ereport(DEBUG1,
			(errmsg_internal("kapture %s request: HTTP code %d after %.3f ms",
							 kapture_api_name(modify->api), row->answer->status,
							 row->answer->elapsed / 1000.0)));
	row->state = MODIFY_FAILED;
	if (row->answer->outcome == KAPTURE_HTTP_ANSWERED)
	{
		row->parsed = kapture_message_parse(row->answer->body, row->answer->body_len, NULL, &row->why);
		kapture_message_judge(modify->api, row->answer->status, row->parsed, NULL, &row->reply);
		if (!kapture_message_confirm_body(&row->reply, row->flat, row->flat_len))
			kapture_http_distrust(row->request);
		if (row->reply.verdict == KAPTURE_SUCCESS)
		{
			row->state = MODIFY_DONE;
			written = is_add ? KAPTURE_WRITTEN_ADD : KAPTURE_WRITTEN_UPDATE;
		}
		else if (row->reply.verdict != KAPTURE_BROKEN)
			written = KAPTURE_WRITTEN_NOTHING;
	}
	else if (row->answer->outcome == KAPTURE_HTTP_NOT_SENT)
		written = KAPTURE_WRITTEN_NOTHING;
	kapture_undone_end_request(written, row->reply.customer_id);

	if (row->state == MODIFY_FAILED && row->answer->outcome == KAPTURE_HTTP_ANSWERED)
	{
		if (row->reply.verdict == KAPTURE_THROTTLED)
			modify_put_off(modify, row);
		else if (modify->skip_duplicates &&
				 (row->reply.verdict == KAPTURE_DUPLICATE_PHONE ||
				  row->reply.verdict == KAPTURE_DUPLICATE_EMAIL ||
				  row->reply.verdict == KAPTURE_DUPLICATE_BOTH))
			row->state = MODIFY_SKIPPED;
	}
}

/* Adds to an error which row it is about. */
static void
modify_error_context(void *arg)
{
	errcontext("row %lld of those sent", (long long) *(int64 *) arg);
}

/* Raises the error about a row. */
static void
modify_complain(const Modify *modify, const ModifyRow *row, int n)
{
	const KaptureServer *server = kapture_server_get(modify->server, modify->userid);
	int64		number = modify->done + n + 1;
	ErrorContextCallback callback = {
		.callback = modify_error_context, .arg = &number, .previous = error_context_stack
	};

	error_context_stack = &callback;
	if (row->answer->outcome != KAPTURE_HTTP_ANSWERED)
		kapture_complaint_no_answer(server, modify->api, row->answer);
	if (row->parsed == NULL)
		kapture_complaint_not_json(server, modify->api, row->answer, row->why);
	kapture_complaint_failed(server, modify->api, row->answer->status, &row->reply);
}

/*
 * Starts requests of rows, as many as may be.  Returns when the next request may
 * start; DT_NOEND: not before one has ended, or there is none left to start.
 */
static TimestampTz
modify_start_due(Modify *modify, ModifyRow *rows, int n)
{
	for (int i = 0; i < n; i++)
	{
		TimestampTz next = kapture_request_pool_next(&modify->pool);

		if (rows[i].state != MODIFY_DUE)
			continue;
		if (next > GetCurrentTimestamp())
			return next;
		modify_start(modify, &rows[i]);
		if (rows[i].state == MODIFY_DUE)
			return modify->pool.next_start;
	}
	return DT_NOEND;
}

/* Waits for a row whose request has finished; NULL if none has by "until", or if the next one may start. */
static ModifyRow *
modify_await(Modify *modify, ModifyRow *rows, int n, TimestampTz until)
{
	KaptureHttpRequest *request = kapture_http_perform_first(modify, until, WaitEventExtensionNew("KaptureHttp"));

	for (int i = 0; request && i < n; i++)
	{
		if (rows[i].request == request)
		{
			rows[i].answer = kapture_http_answer(request);
			return &rows[i];
		}
	}
	return NULL;
}

/* Frees the answer of a row that is written, as the answers of a batch may be large. */
static void
modify_settle(ModifyRow *row)
{
	if (row->state != MODIFY_DONE && row->state != MODIFY_SKIPPED)
		return;
	kapture_http_release(row->request);
	row->request = NULL;
	row->answer = NULL;
	pfree(row->parsed);
	row->parsed = NULL;
}

/*
 * Sends rows that have a body, several at a time.  After a failure no more are
 * sent; the error is raised when all requests have ended, and is that of the first
 * row that failed.
 */
static void
modify_send(Modify *modify, ModifyRow *rows, int n)
{
	int			failed = 0;
	bool		fails = false;

	modify->pool.most = kapture_server_get(modify->server, modify->userid)->max_connections;
	for (int i = 0; i < n; i++)
	{
		if (rows[i].state == MODIFY_DUE && rows[i].body == NULL)
			rows[i].state = MODIFY_DONE;
	}
	for (;;)
	{
		TimestampTz until = DT_NOEND;

		CHECK_FOR_INTERRUPTS();
		if (!fails)
			until = modify_start_due(modify, rows, n);
		if (modify->pool.running > 0)
		{
			ModifyRow  *row = modify_await(modify, rows, n, until);

			if (row == NULL)
				continue;
			kapture_request_pool_ended(&modify->pool);
			modify_judge(modify, row);
			modify_settle(row);
			fails |= row->state == MODIFY_FAILED;
		}
		else if (until != DT_NOEND)
			kapture_http_sleep_until(until, WaitEventExtensionNew("KapturePace"));
		else
			break;
	}
	while (fails && rows[failed].state != MODIFY_FAILED)
		failed++;
	if (fails)
		modify_complain(modify, &rows[failed], failed);
	modify->done += n;
}

/*
 * Completes a row that was sent with the ids that Kapture gave, and with the values
 * that were sent in other columns for the same field.
 */
static void
modify_complete(const Modify *modify, const ModifyRow *row, TupleTableSlot *slot)
{
	TupleDesc	desc = slot->tts_tupleDescriptor;
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc0(sizeof(bool) * desc->natts);
	bool	   *replace = palloc0(sizeof(bool) * desc->natts);
	MemoryContext old;
	HeapTuple	tuple;

	slot_getallattrs(slot);
	for (int i = 0; i < modify->ncolumns; i++)
	{
		const ModifyColumn *column = &modify->columns[i];
		int64		id = strcmp(column->field, "contact_id") == 0 ?
			row->reply.contact_id : row->reply.customer_id;

		for (int j = 0; j < modify->ncolumns; j++)
		{
			const ModifyColumn *other = &modify->columns[j];

			if (row->sent[j] && !row->sent[i] && other->type == column->type &&
				strcmp(other->field, column->field) == 0)
			{
				values[column->attnum - 1] = slot->tts_values[other->attnum - 1];
				replace[column->attnum - 1] = true;
			}
		}
		if (column->is_id && modify->api == KAPTURE_API_ADD && id != 0)
		{
			values[column->attnum - 1] = Int64GetDatum(id);
			replace[column->attnum - 1] = true;
		}
	}
	old = MemoryContextSwitchTo(slot->tts_mcxt);
	tuple = ExecCopySlotHeapTuple(slot);
	tuple = heap_modify_tuple(tuple, desc, values, isnull, replace);
	MemoryContextSwitchTo(old);
	ExecForceStoreHeapTuple(tuple, slot, true);
}

/* Begins a batch of rows, and switches to its memory context, which the next batch resets. */
static ModifyRow *
modify_begin_batch(Modify *modify, int n)
{
	ModifyRow  *rows;

	MemoryContextReset(modify->context);
	MemoryContextSwitchTo(modify->context);
	rows = palloc0(sizeof(ModifyRow) * n);
	for (int i = 0; i < n; i++)
		rows[i].sent = palloc0(sizeof(bool) * modify->ncolumns);
	return rows;
}


/*
 * Rows
 */

/* Inserts rows; returns those that Kapture took, and how many they are. */
static TupleTableSlot **
modify_insert(EState *estate, ResultRelInfo *rri, TupleTableSlot **slots, int *n)
{
	Modify	   *modify = rri->ri_FdwState;
	MemoryContext old = CurrentMemoryContext;
	ModifyRow  *rows = modify_begin_batch(modify, *n);
	TupleTableSlot **taken = palloc(sizeof(TupleTableSlot *) * *n);
	int			ntaken = 0;

	for (int i = 0; i < *n; i++)
	{
		/* the executor checks only after the row was sent, which would be too late */
		if (rri->ri_WithCheckOptions != NIL)
			ExecWithCheckOptions(WCO_VIEW_CHECK, rri, slots[i], estate);
		modify_make_add(modify, &rows[i], slots[i]);
	}
	modify_send(modify, rows, *n);
	for (int i = 0; i < *n; i++)
	{
		if (rows[i].state != MODIFY_DONE)
			continue;
		modify_complete(modify, &rows[i], slots[i]);
		taken[ntaken++] = slots[i];
	}
	MemoryContextSwitchTo(old);
	*n = ntaken;
	return taken;
}

static TupleTableSlot *
modify_exec_insert(EState *estate, ResultRelInfo *rri, TupleTableSlot *slot, TupleTableSlot *plan)
{
	int			n = 1;
	TupleTableSlot **taken = modify_insert(estate, rri, &slot, &n);

	return n > 0 ? taken[0] : NULL;
}

static TupleTableSlot **
modify_exec_batch_insert(EState *estate, ResultRelInfo *rri, TupleTableSlot **slots,
						 TupleTableSlot **plans, int *n)
{
	return modify_insert(estate, rri, slots, n);
}

/* How many rows a batch may have. */
static int
modify_batch_size(ResultRelInfo *rri)
{
	const Modify *modify = rri->ri_FdwState;
	TriggerDesc *triggers = rri->ri_TrigDesc;

	if (rri->ri_projectReturning != NULL || rri->ri_WithCheckOptions != NIL ||
		(triggers && (triggers->trig_insert_before_row || triggers->trig_insert_after_row)))
		return 1;
	return modify ? modify->batch : 1;
}

static TupleTableSlot *
modify_exec_update(EState *estate, ResultRelInfo *rri, TupleTableSlot *slot, TupleTableSlot *plan)
{
	Modify	   *modify = rri->ri_FdwState;
	MemoryContext old = CurrentMemoryContext;
	ModifyRow  *row;

	if (!modify_is_first(modify, plan))
		return NULL;
	row = modify_begin_batch(modify, 1);
	if (rri->ri_WithCheckOptions != NIL)
		ExecWithCheckOptions(WCO_VIEW_CHECK, rri, slot, estate);
	modify_make_update(modify, row, slot, plan);
	modify_send(modify, row, 1);
	modify_complete(modify, row, slot);
	MemoryContextSwitchTo(old);
	return slot;
}


/*
 * Planning, begin and end
 */

/* Which commands may write to the table, as a mask of CmdTypes. */
static int
modify_is_updatable(Relation rel)
{
	if (kapture_fdw_table_kind(RelationGetRelid(rel)) == KAPTURE_ROW_CONTACT)
		return 0;
	return (1 << CMD_INSERT) | (1 << CMD_UPDATE);
}

/* Raises the error about what Kapture has no request for. */
static void
modify_check_command(Relation rel, CmdType command)
{
	if (command == CMD_DELETE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot delete from foreign table \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Kapture has no request that deletes."),
				 errhint("Delete the customer in Kapture itself, or mark it by an UPDATE.")));
	if (kapture_fdw_table_kind(RelationGetRelid(rel)) == KAPTURE_ROW_CONTACT)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("foreign table \"%s\" cannot be written", RelationGetRelationName(rel)),
				 errdetail("Kapture takes contacts with their customers only."),
				 errhint("Write the columns contact_person_name, contact_person_phone and contact_person_email of customers.")));
}

/* Makes the scan of an UPDATE hand on the customer's id. */
static void
modify_add_targets(PlannerInfo *root, Index rtindex, RangeTblEntry *rte, Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	modify_check_command(rel, root->parse->commandType);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		const char *field = attr->attisdropped || attr->attgenerated ? NULL : kapture_column_field(attr);

		if (field == NULL || strcmp(field, "kapture_customer_id") != 0)
			continue;
		add_row_identity_var(root, makeVar(rtindex, attr->attnum, INT8OID, -1, InvalidOid, 0),
							 rtindex, MODIFY_ID);
		return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_COLUMN_NAME_NOT_FOUND),
			 errmsg("foreign table \"%s\" has no column for the customer's id",
					RelationGetRelationName(rel)),
			 errhint("Add the column: ALTER FOREIGN TABLE %s ADD COLUMN id bigint.",
					 quote_identifier(RelationGetRelationName(rel)))));
}

static List *
modify_plan(PlannerInfo *root, ModifyTable *plan, Index rtindex, int subplan_index)
{
	Relation	rel = table_open(planner_rt_fetch(rtindex, root)->relid, NoLock);

	modify_check_command(rel, plan->operation);
	table_close(rel, NoLock);
	return NIL;
}

/* What INSERT, COPY and UPDATE have in common at their start. */
static Modify *
modify_create(EState *estate, ResultRelInfo *rri, KaptureApi api, int eflags)
{
	Modify	   *modify = palloc0(sizeof(Modify));
	Oid			relid = RelationGetRelid(rri->ri_RelationDesc);
	ForeignServer *server = GetForeignServer(GetForeignTable(relid)->serverid);

	modify->api = api;
	modify->rel = rri->ri_RelationDesc;
	modify->server = server->servername;
	modify->serverid = server->serverid;
	modify->owner = server->owner;
	modify->userid = ExecGetResultRelCheckAsUser(rri, estate);
	kapture_request_pool_init(&modify->pool, 1);
	modify_find_columns(modify);
	modify->batch = MODIFY_BATCH;
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
	{
		const KaptureServer *options = kapture_server_get(modify->server, modify->userid);

		kapture_server_require_key(options, api);
		/* at the end of a batch, connections are idle until its last answers are here: that should be seldom */
		modify->batch = Max(modify->batch, Min(options->max_connections * MODIFY_ROUNDS, MODIFY_MAX_BATCH));
	}
	modify->context = AllocSetContextCreate(CurrentMemoryContext, "kapture modify",
											ALLOCSET_DEFAULT_SIZES);
	rri->ri_FdwState = modify;
	return modify;
}

/* Makes the table of ids of customers that have had their row of an UPDATE. */
static HTAB *
modify_create_updated(void)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(int64);
	info.entrysize = sizeof(int64);
	info.hcxt = CurrentMemoryContext;
	return hash_create("kapture updated customers", 64, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Raises the error about rows that would come from other partitions. */
static void
modify_refuse_moves(Relation rel)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot route tuples into foreign table to be updated \"%s\"", RelationGetRelationName(rel)),
			 errdetail("Customers that come into it from other partitions would have to be added by the UPDATE that updates those in it."),
			 errhint("Update the partitions one by one.")));
}

/*
 * Refuses an UPDATE of several partitions that sets columns of the partition key,
 * before anything is sent: as Kapture has no transactions, it would be too late when
 * the first row moves.
 */
static void
modify_check_moves(ModifyTableState *state, ResultRelInfo *rri, Bitmapset *updated)
{
	Bitmapset  *key = NULL;

	if (state->mt_nrels < 2 || !rri->ri_RelationDesc->rd_rel->relispartition)
		return;
	pull_varattnos((Node *) RelationGetPartitionQual(rri->ri_RelationDesc), 1, &key);
	if (bms_overlap(key, updated))
		modify_refuse_moves(rri->ri_RelationDesc);
}

static void
modify_begin(ModifyTableState *state, ResultRelInfo *rri, List *private, int subplan_index, int eflags)
{
	EState	   *estate = state->ps.state;
	List	   *targets = outerPlanState(state)->plan->targetlist;
	Modify	   *modify;

	if (state->operation == CMD_INSERT)
	{
		modify = modify_create(estate, rri, KAPTURE_API_ADD, eflags);
		modify->skip_duplicates = ((ModifyTable *) state->ps.plan)->onConflictAction == ONCONFLICT_NOTHING;
		return;
	}
	modify = modify_create(estate, rri, KAPTURE_API_UPDATE, eflags);
	modify_find_set(modify, ExecGetUpdatedCols(rri, estate));
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		modify_check_moves(state, rri, ExecGetUpdatedCols(rri, estate));
	modify->updated = modify_create_updated();
	modify->id_junk = ExecFindJunkAttributeInTlist(targets, MODIFY_ID);
	modify->row_junk = ExecFindJunkAttributeInTlist(targets, "wholerow");
	if (!AttributeNumberIsValid(modify->id_junk) || !AttributeNumberIsValid(modify->row_junk))
		elog(ERROR, "could not find junk columns of \"%s\"", RelationGetRelationName(modify->rel));
	modify->has_trigger = rri->ri_TrigDesc && rri->ri_TrigDesc->trig_update_before_row;
}

/* COPY, and rows that are routed to a partition. */
static void
modify_begin_insert(ModifyTableState *state, ResultRelInfo *rri)
{
	EState	   *estate = state->ps.state;

	modify_check_command(rri->ri_RelationDesc, CMD_INSERT);
	/* with ri_FdwState, this partition is updated, too; a trigger may have set the partition key */
	if (state->ps.plan && state->operation == CMD_UPDATE && rri->ri_FdwState)
		modify_refuse_moves(rri->ri_RelationDesc);
	(void) modify_create(estate, rri, KAPTURE_API_ADD, 0);
	if (state->ps.plan && state->operation == CMD_INSERT)
		((Modify *) rri->ri_FdwState)->skip_duplicates =
			((ModifyTable *) state->ps.plan)->onConflictAction == ONCONFLICT_NOTHING;
}

static void
modify_end(EState *estate, ResultRelInfo *rri)
{
	Modify	   *modify = rri->ri_FdwState;

	if (modify != NULL)
		MemoryContextDelete(modify->context);
	rri->ri_FdwState = NULL;
}

/* EXPLAIN (VERBOSE): which requests will be made. */
static void
modify_explain(ModifyTableState *state, ResultRelInfo *rri, List *private, int subplan_index,
			   ExplainState *es)
{
	Modify	   *modify = rri->ri_FdwState;
	StringInfoData text;

	if (!es->verbose || modify == NULL)
		return;
	initStringInfo(&text);
	appendStringInfo(&text, "%s, a request for each row", kapture_api_name(modify->api));
	for (int i = 0, n = 0; i < modify->ncolumns; i++)
	{
		if (modify->columns[i].is_set)
			appendStringInfo(&text, "%s %s", n++ > 0 ? "," : ":", modify->columns[i].field);
	}
	ExplainPropertyText("Kapture API", text.data, es);
}

/*
 * kapture_fdw_add_modify
 *		Adds the functions that write to those of the wrapper.
 *
 * Errors of INSERT and UPDATE: those of kapture_server_get() and
 * kapture_http_start(); no answer: see http.c; HV00M an answer that is not
 * JSON; those of kapture_complaint_failed(); HV007 a column that cannot be
 * written.
 */
void
kapture_fdw_add_modify(FdwRoutine *routine)
{
	routine->AddForeignUpdateTargets = modify_add_targets;
	routine->PlanForeignModify = modify_plan;
	routine->BeginForeignModify = modify_begin;
	routine->ExecForeignInsert = modify_exec_insert;
	routine->ExecForeignBatchInsert = modify_exec_batch_insert;
	routine->GetForeignModifyBatchSize = modify_batch_size;
	routine->ExecForeignUpdate = modify_exec_update;
	routine->EndForeignModify = modify_end;
	routine->BeginForeignInsert = modify_begin_insert;
	routine->EndForeignInsert = modify_end;
	routine->IsForeignRelUpdatable = modify_is_updatable;
	routine->ExplainForeignModify = modify_explain;
}
