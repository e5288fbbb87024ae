/*
 * pull_functions.c
 *		SQL functions that return customers and contacts as typed rows.
 *
 * All of them return one row a call, so that the first rows of a year's pull are
 * there after its first window, and a reader who stops early ends the pull.
 * PostgreSQL asks for rows one by one in a SELECT list only; that is why
 * kapture_pull_customers(), which is made for FROM, is an SQL function that
 * the planner unfolds to a SELECT list with kapture_pull_stream().
 *
 * A customer who comes with two windows of a pull is returned once: fetch.c sees to that,
 * or, within an answer that is an argument, this file.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "api/argument.h"
#include "api/columns.h"
#include "api/error.h"
#include "api/option.h"
#include "api/reply.h"
#include "fetch/fetch.h"
#include "pull/pull_functions.h"

/* Where the reading stands. */
struct KaptureRows
{
	KaptureRowKind kind;
	KaptureFetch *fetch;		/* NULL: the rows are of an answer that is an argument */
	const KaptureWindow *window;	/* the fetch's current window; NULL: none yet */
	int			next;			/* next customer of the window */
	int			number;			/* number of the Get that found them */
	KaptureReader *reader;

	MemoryContext customer;		/* of the fetched customer that is read */
	MemoryContext context;		/* of the iterator over contacts */
	HTAB	   *ids;			/* of customers already returned of the answer */
	JsonbIterator *customers;	/* of the answer; NULL: no more customers */
	JsonbValue	one;			/* or the answer's only customer */
	bool		has_one;

	bool		has_customer_id;	/* does the customer of these contacts have an id? */
	int64		customer_id;
	JsonbIterator *contacts;
};

/* A function's calls. */
typedef struct RowsCalls
{
	KaptureRows *rows;
	TupleDesc	desc;
	Datum	   *values;
	bool	   *isnull;
} RowsCalls;

PG_FUNCTION_INFO_V1(kapture_pull_stream);
PG_FUNCTION_INFO_V1(kapture_find_customers);
PG_FUNCTION_INFO_V1(kapture_customer_rows);
PG_FUNCTION_INFO_V1(kapture_contact_rows);


/*
 * From answers to customers
 */

/* Begins to read an answer that is an argument, in the current memory context. */
static void
rows_open_answer(KaptureRows *state, const JsonbValue *customers)
{
	HASHCTL		info = {.keysize = sizeof(int64), .entrysize = sizeof(int64), .hcxt = CurrentMemoryContext};

	state->ids = hash_create("kapture customers", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	state->has_one = kapture_is_object(customers);
	if (state->has_one)
		state->one = *customers;
	else
		state->customers = JsonbIteratorInit(customers->val.binary.data);
}

/* The next object of an array; false if there are no more. */
static bool
rows_next_object(JsonbIterator **it, JsonbValue *object)
{
	JsonbIteratorToken token;

	if (*it == NULL)
		return false;
	while ((token = JsonbIteratorNext(it, object, true)) != WJB_DONE)
	{
		if (token == WJB_ELEM && kapture_is_object(object))
			return true;
	}
	*it = NULL;
	return false;
}

/* Has this customer of an answer been returned?  False for a customer without an id. */
static bool
rows_is_known(KaptureRows *state, const JsonbValue *customer)
{
	int64		id;
	bool		found;

	if (!kapture_customer_id(customer, &id))
		return false;
	(void) hash_search(state->ids, &id, HASH_ENTER, &found);
	return found;
}

/* The next customer of the windows; false if there are no more. */
static bool
rows_next_fetched(KaptureRows *state, JsonbValue *customer)
{
	for (;;)
	{
		const KaptureWindow *window = state->window;
		const KaptureList *list;

		while (window && window->list && state->next < window->list->ncustomers)
		{
			Jsonb	   *jsonb;
			MemoryContext old;

			MemoryContextReset(state->customer);
			old = MemoryContextSwitchTo(state->customer);
			jsonb = kapture_window_customer(window, state->next++);
			MemoryContextSwitchTo(old);
			if (jsonb && JB_ROOT_IS_OBJECT(jsonb))
			{
				customer->type = jbvBinary;
				customer->val.binary.data = &jsonb->root;
				customer->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
				return true;
			}
		}
		window = kapture_fetch_next(state->fetch);
		if (window == NULL)
			return false;
		list = window->list;
		if (list && list->naltered > 0)
			kapture_complaint_altered(kapture_fetch_server(state->fetch), list->altered, list->naltered);
		state->window = window;
		state->number = window->number;
		state->next = 0;
	}
}

/* The next customer that was not returned before; false if there are no more. */
static bool
rows_next_customer(KaptureRows *state, JsonbValue *customer)
{
	if (state->fetch != NULL)
		return rows_next_fetched(state, customer);
	for (;;)
	{
		if (state->has_one)
		{
			state->has_one = false;
			*customer = state->one;
		}
		else if (!rows_next_object(&state->customers, customer))
			return false;
		if (!rows_is_known(state, customer))
			return true;
	}
}

/* The next contact of any customer; false if there are no more. */
static bool
rows_next_contact(KaptureRows *state, JsonbValue *contact)
{
	JsonbValue	customer;

	while (!rows_next_object(&state->contacts, contact))
	{
		JsonbContainer *contacts;
		MemoryContext old;

		if (!rows_next_customer(state, &customer))
			return false;
		contacts = kapture_customer_contacts(&customer);
		if (contacts == NULL)
			continue;
		MemoryContextReset(state->context);
		old = MemoryContextSwitchTo(state->context);
		state->contacts = JsonbIteratorInit(contacts);
		MemoryContextSwitchTo(old);
		state->has_customer_id = kapture_customer_id(&customer, &state->customer_id);
	}
	return true;
}


/*
 * From customers to rows
 */

/*
 * kapture_rows_create
 *		Begins to read the customers that a fetch brings, or their contacts, as
 *		rows of this type.
 *
 * "timezone" is the account's.  All is in or below the current context.
 * Errors as kapture_reader_create().
 */
KaptureRows *
kapture_rows_create(KaptureRowKind kind, TupleDesc desc, const char *timezone,
					KaptureFetch *fetch)
{
	KaptureRows *rows = palloc0(sizeof(KaptureRows));

	rows->kind = kind;
	rows->fetch = fetch;
	rows->reader = kapture_reader_create(kind, desc, timezone);
	rows->customer = AllocSetContextCreate(CurrentMemoryContext, "kapture customer",
										   ALLOCSET_DEFAULT_SIZES);
	rows->context = AllocSetContextCreate(CurrentMemoryContext, "kapture rows",
										  ALLOCSET_DEFAULT_SIZES);
	return rows;
}

/*
 * kapture_rows_next
 *		Reads the next row; false if there are no more.
 *
 * Values are palloc'ed or valid until the next call.  Errors as
 * kapture_fetch_next().
 */
bool
kapture_rows_next(KaptureRows *rows, Datum *values, bool *isnull)
{
	JsonbValue	object;

	if (rows->kind == KAPTURE_ROW_CUSTOMER ?
		!rows_next_customer(rows, &object) : !rows_next_contact(rows, &object))
		return false;
	kapture_reader_read(rows->reader, &object, values, isnull);
	if (rows->kind == KAPTURE_ROW_CONTACT && rows->has_customer_id)
		kapture_reader_set_bigint(rows->reader, "customer_id", rows->customer_id,
								  values, isnull);
	return true;
}

/*
 * kapture_rows_number
 *		The number of the Get that found the row read last.
 */
int
kapture_rows_number(const KaptureRows *rows)
{
	return rows->number;
}

/* Makes the state that a function's calls share, in the current context. */
static RowsCalls *
rows_begin(FunctionCallInfo fcinfo, KaptureRowKind kind, const char *timezone,
		   KaptureFetch *fetch)
{
	RowsCalls  *calls = palloc0(sizeof(RowsCalls));
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	calls->desc = BlessTupleDesc(CreateTupleDescCopy(desc));
	calls->rows = kapture_rows_create(kind, calls->desc, timezone, fetch);
	calls->values = palloc(sizeof(Datum) * calls->desc->natts);
	calls->isnull = palloc(sizeof(bool) * calls->desc->natts);
	return calls;
}

/* The next row as a result. */
static Datum
rows_return_next(FunctionCallInfo fcinfo)
{
	FuncCallContext *context = SRF_PERCALL_SETUP();
	RowsCalls  *calls = context->user_fctx;

	if (!kapture_rows_next(calls->rows, calls->values, calls->isnull))
		SRF_RETURN_DONE(context);
	SRF_RETURN_NEXT(context,
					HeapTupleGetDatum(heap_form_tuple(calls->desc, calls->values,
													  calls->isnull)));
}


/*
 * SQL functions
 */

/*
 * kapture_pull_stream(start_date timestamp, end_date timestamp, server name)
 *		returns setof kapture_customer
 *
 * Customers between two times of the account's local time, window by window.
 * Errors: those of kapture_argument_range() and kapture_fetch_next().
 */
Datum
kapture_pull_stream(PG_FUNCTION_ARGS)
{
	if (SRF_IS_FIRSTCALL())
	{
		FuncCallContext *calls = SRF_FIRSTCALL_INIT();
		MemoryContext old = MemoryContextSwitchTo(calls->multi_call_memory_ctx);
		Timestamp	start;
		Timestamp	end;
		const char *server;

		kapture_argument_range(fcinfo, &start, &end);
		kapture_argument_check_null(fcinfo, 2, "server");
		server = NameStr(*PG_GETARG_NAME(2));
		calls->user_fctx = rows_begin(fcinfo, KAPTURE_ROW_CUSTOMER,
									  pstrdup(kapture_server_get(server, GetUserId())->timezone),
									  kapture_fetch_pull(server, GetUserId(), start, end));
		MemoryContextSwitchTo(old);
	}
	return rows_return_next(fcinfo);
}

/*
 * kapture_find_customers(criteria jsonb, server name)
 *		returns setof kapture_customer
 *
 * The customers that a Get finds.  Errors: 22004 and 22023 bad arguments;
 * those of kapture_fetch_next().
 */
Datum
kapture_find_customers(PG_FUNCTION_ARGS)
{
	if (SRF_IS_FIRSTCALL())
	{
		FuncCallContext *calls = SRF_FIRSTCALL_INIT();
		MemoryContext old = MemoryContextSwitchTo(calls->multi_call_memory_ctx);
		Jsonb	   *criteria = kapture_argument_object(fcinfo, 0, "criteria");
		const char *server;

		kapture_argument_check_null(fcinfo, 1, "server");
		kapture_argument_check_criteria(criteria, true);
		server = NameStr(*PG_GETARG_NAME(1));
		calls->user_fctx = rows_begin(fcinfo, KAPTURE_ROW_CUSTOMER,
									  pstrdup(kapture_server_get(server, GetUserId())->timezone),
									  kapture_fetch_gets(server, GetUserId(),
														 list_make1(kapture_argument_body(criteria))));
		MemoryContextSwitchTo(old);
	}
	return rows_return_next(fcinfo);
}

/* Raises an error about an answer without customers, unless it says that there are none. */
static void
rows_check_failure(const KaptureServer *server, Jsonb *answer)
{
	static const KaptureApi apis[] = {KAPTURE_API_GET, KAPTURE_API_PULL};
	KaptureReply reply = {0};

	for (int i = 0; i < lengthof(apis); i++)
	{
		kapture_message_judge(apis[i], 200, answer, NULL, &reply);
		if (reply.verdict == KAPTURE_NOT_FOUND)
			return;
	}
	if (reply.message[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" is no answer with customers", "answer"),
				 errdetail("It has neither customers nor a message of Kapture's."),
				 errhint("Give what kapture_pull() or kapture_get_customer() has returned.")));
	kapture_complaint_failed(server, KAPTURE_API_PULL, 200, &reply);
}

/* What the two functions that read an answer have in common at their start. */
static void
rows_begin_answer(FunctionCallInfo fcinfo, KaptureRowKind kind)
{
	FuncCallContext *calls = SRF_FIRSTCALL_INIT();
	MemoryContext old = MemoryContextSwitchTo(calls->multi_call_memory_ctx);
	const KaptureServer *server;
	RowsCalls  *shared;
	Jsonb	   *answer;
	JsonbValue	customers;

	kapture_argument_check_null(fcinfo, 1, "server");
	server = kapture_server_get(NameStr(*PG_GETARG_NAME(1)), GetUserId());
	shared = rows_begin(fcinfo, kind, server->timezone, NULL);
	if (!PG_ARGISNULL(0))
	{
		answer = PG_GETARG_JSONB_P_COPY(0);
		if (!kapture_message_customers(answer, &customers))
			rows_check_failure(server, answer);
		else
			rows_open_answer(shared->rows, &customers);
	}
	calls->user_fctx = shared;
	MemoryContextSwitchTo(old);
}

/*
 * kapture_customer_rows(answer jsonb, server name)
 *		returns setof kapture_customer
 *
 * The customers of an answer that Get or Pull has returned; none if the answer is
 * NULL.  Errors: 22004 no server; 22023 it is no answer; those of kapture_server_get()
 * and, if the answer says that something failed, of kapture_complaint_failed().
 */
Datum
kapture_customer_rows(PG_FUNCTION_ARGS)
{
	if (SRF_IS_FIRSTCALL())
		rows_begin_answer(fcinfo, KAPTURE_ROW_CUSTOMER);
	return rows_return_next(fcinfo);
}

/*
 * kapture_contact_rows(answer jsonb, server name)
 *		returns setof kapture_contact
 *
 * The contacts of the customers of such an answer.  Their customer_id is that
 * of the customer they come with.  Errors as kapture_customer_rows().
 */
Datum
kapture_contact_rows(PG_FUNCTION_ARGS)
{
	if (SRF_IS_FIRSTCALL())
		rows_begin_answer(fcinfo, KAPTURE_ROW_CONTACT);
	return rows_return_next(fcinfo);
}
