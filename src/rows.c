/*
 * rows.c
 *		SQL functions that give customers and contacts as typed rows.
 *
 * All of them give a row a call, so that the first rows of a year's pull are
 * there after its first window, and a reader who stops early ends the pull.
 * PostgreSQL asks for rows one by one in a SELECT list only; that is why
 * kapture_pull_customers(), which is made for FROM, is an SQL function that
 * the planner unfolds to a SELECT list with kapture_pull_stream().
 *
 * Windows of a pull share the second between them.  A customer that lies on
 * it comes with both and is given once: the ids of the window before are kept.
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

#include "argument.h"
#include "complaint.h"
#include "customer.h"
#include "fetch.h"
#include "message.h"
#include "option.h"

/* Where a function's reading stands; in the memory of its calls. */
typedef struct RowsState
{
	KaptureFetch *fetch;		/* NULL: there is one answer only, as jsonb */
	const KaptureList *list;	/* its window's customers; NULL: none */
	int			next;			/* the next one of them */
	KaptureReader *reader;
	TupleDesc	desc;
	Datum	   *values;
	bool	   *isnull;

	MemoryContext context;		/* of this window's ids and iterators */
	MemoryContext before;		/* of those of the window before */
	HTAB	   *ids;			/* of customers of this window */
	HTAB	   *ids_before;		/* NULL: none */
	JsonbIterator *customers;	/* of the answer; NULL: they are done */
	JsonbValue	one;			/* or its only customer */
	bool		has_one;

	bool		has_customer_id;	/* of the customer of these contacts */
	int64		customer_id;
	JsonbIterator *contacts;
} RowsState;

PG_FUNCTION_INFO_V1(kapture_pull_stream);
PG_FUNCTION_INFO_V1(kapture_find_customers);
PG_FUNCTION_INFO_V1(kapture_customer_rows);
PG_FUNCTION_INFO_V1(kapture_contact_rows);


/*
 * From answers to customers
 */

/* Forgets the ids of the window before the last one. */
static void
rows_turn(RowsState *state)
{
	MemoryContext unused = state->before;
	HASHCTL		info = {0};

	state->before = state->context;
	state->ids_before = state->ids;
	state->context = unused;
	MemoryContextReset(unused);
	info.keysize = sizeof(int64);
	info.entrysize = sizeof(int64);
	info.hcxt = unused;
	state->ids = hash_create("kapture customers", 256, &info,
							 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Begins with an answer that is there. */
static void
rows_open_answer(RowsState *state, const JsonbValue *customers)
{
	rows_turn(state);
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

/* Has this customer been given?  One without an id never has. */
static bool
rows_is_known(RowsState *state, const JsonbValue *customer)
{
	int64		id;
	bool		found;

	if (!kapture_customer_id(customer, &id))
		return false;
	(void) hash_search(state->ids, &id, HASH_ENTER, &found);
	if (!found && state->ids_before != NULL)
		(void) hash_search(state->ids_before, &id, HASH_FIND, &found);
	return found;
}

/* The next customer of the windows; false if there are no more. */
static bool
rows_next_fetched(RowsState *state, JsonbValue *customer)
{
	for (;;)
	{
		const KaptureWindow *window;

		while (state->list != NULL && state->next < state->list->ncustomers)
		{
			Jsonb	   *jsonb = kapture_message_customer(state->list, state->next++);

			if (JB_ROOT_IS_OBJECT(jsonb))
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
		rows_turn(state);
		state->list = window->list;
		state->next = 0;
	}
}

/* The next customer that was not given before; false if there are no more. */
static bool
rows_next_customer(RowsState *state, JsonbValue *customer)
{
	for (;;)
	{
		if (state->fetch != NULL)
		{
			if (!rows_next_fetched(state, customer))
				return false;
		}
		else if (state->has_one)
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

/* The next contact of whatever customer; false if there are no more. */
static bool
rows_next_contact(RowsState *state, JsonbValue *contact)
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

/* Makes the state of a function's calls; the current context is theirs. */
static RowsState *
rows_begin(FunctionCallInfo fcinfo, KaptureRowKind kind, const KaptureServer *server)
{
	RowsState  *state = palloc0(sizeof(RowsState));
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	state->desc = BlessTupleDesc(CreateTupleDescCopy(desc));
	state->reader = kapture_reader_create(kind, state->desc, server->timezone);
	state->values = palloc(sizeof(Datum) * state->desc->natts);
	state->isnull = palloc(sizeof(bool) * state->desc->natts);
	state->context = AllocSetContextCreate(CurrentMemoryContext, "kapture rows",
										   ALLOCSET_DEFAULT_SIZES);
	state->before = AllocSetContextCreate(CurrentMemoryContext, "kapture rows",
										  ALLOCSET_DEFAULT_SIZES);
	return state;
}

/* Makes a row of a customer or a contact. */
static Datum
rows_form(RowsState *state, JsonbValue *object)
{
	kapture_reader_read(state->reader, object, state->values, state->isnull);
	return HeapTupleGetDatum(heap_form_tuple(state->desc, state->values,
											 state->isnull));
}

/* The next customer as a result. */
static Datum
rows_return_customer(FunctionCallInfo fcinfo)
{
	FuncCallContext *calls = SRF_PERCALL_SETUP();
	RowsState  *state = calls->user_fctx;
	JsonbValue	customer;

	if (!rows_next_customer(state, &customer))
		SRF_RETURN_DONE(calls);
	SRF_RETURN_NEXT(calls, rows_form(state, &customer));
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
		RowsState  *state;
		Timestamp	start;
		Timestamp	end;
		const char *server;

		kapture_argument_range(fcinfo, &start, &end);
		kapture_argument_check_null(fcinfo, 2, "server");
		server = NameStr(*PG_GETARG_NAME(2));
		state = rows_begin(fcinfo, KAPTURE_ROW_CUSTOMER,
						   kapture_server_get(server, GetUserId()));
		state->fetch = kapture_fetch_pull(server, GetUserId(), start, end);
		calls->user_fctx = state;
		MemoryContextSwitchTo(old);
	}
	return rows_return_customer(fcinfo);
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
		RowsState  *state;
		const char *server;

		kapture_argument_check_null(fcinfo, 1, "server");
		kapture_argument_check_criteria(criteria);
		server = NameStr(*PG_GETARG_NAME(1));
		state = rows_begin(fcinfo, KAPTURE_ROW_CUSTOMER,
						   kapture_server_get(server, GetUserId()));
		state->fetch = kapture_fetch_get(server, GetUserId(),
										 kapture_argument_body(criteria));
		calls->user_fctx = state;
		MemoryContextSwitchTo(old);
	}
	return rows_return_customer(fcinfo);
}

/* Raises an error about an answer without customers, unless it says so. */
static void
rows_check_failure(const KaptureServer *server, Jsonb *answer)
{
	static const KaptureApi apis[] = {KAPTURE_API_GET, KAPTURE_API_PULL};
	KaptureReply reply;

	for (int i = 0; i < lengthof(apis); i++)
	{
		kapture_message_judge(apis[i], 200, answer, &reply);
		if (reply.verdict == KAPTURE_NOT_FOUND)
			return;
	}
	kapture_complaint_failed(server, KAPTURE_API_PULL, 200, &reply);
}

/* What the two functions that read an answer have in common at their start. */
static void
rows_begin_answer(FunctionCallInfo fcinfo, KaptureRowKind kind)
{
	FuncCallContext *calls = SRF_FIRSTCALL_INIT();
	MemoryContext old = MemoryContextSwitchTo(calls->multi_call_memory_ctx);
	const KaptureServer *server;
	RowsState  *state;
	Jsonb	   *answer;
	JsonbValue	customers;

	kapture_argument_check_null(fcinfo, 1, "server");
	server = kapture_server_get(NameStr(*PG_GETARG_NAME(1)), GetUserId());
	state = rows_begin(fcinfo, kind, server);
	if (!PG_ARGISNULL(0))
	{
		answer = PG_GETARG_JSONB_P_COPY(0);
		if (!kapture_message_customers(answer, &customers))
			rows_check_failure(server, answer);
		else
			rows_open_answer(state, &customers);
	}
	calls->user_fctx = state;
	MemoryContextSwitchTo(old);
}

/*
 * kapture_customer_rows(answer jsonb, server name)
 *		returns setof kapture_customer
 *
 * The customers of an answer of Get or Pull that is there already; none if it
 * is NULL.  Errors: 22004 no server; those of kapture_server_get() and, if the
 * answer says that something failed, of kapture_complaint_failed().
 */
Datum
kapture_customer_rows(PG_FUNCTION_ARGS)
{
	if (SRF_IS_FIRSTCALL())
		rows_begin_answer(fcinfo, KAPTURE_ROW_CUSTOMER);
	return rows_return_customer(fcinfo);
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
	FuncCallContext *calls;
	RowsState  *state;
	JsonbValue	contact;

	if (SRF_IS_FIRSTCALL())
		rows_begin_answer(fcinfo, KAPTURE_ROW_CONTACT);
	calls = SRF_PERCALL_SETUP();
	state = calls->user_fctx;
	if (!rows_next_contact(state, &contact))
		SRF_RETURN_DONE(calls);
	kapture_reader_read(state->reader, &contact, state->values, state->isnull);
	if (state->has_customer_id)
		kapture_reader_set_bigint(state->reader, "customer_id", state->customer_id,
								  state->values, state->isnull);
	SRF_RETURN_NEXT(calls, HeapTupleGetDatum(heap_form_tuple(state->desc, state->values,
															 state->isnull)));
}
