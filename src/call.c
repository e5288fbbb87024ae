/*
 * call.c
 *		The direct SQL functions: one call of the Kapture API each, jsonb in,
 *		jsonb out.
 *
 * What Kapture answers is what the caller gets, "failed" answers and all,
 * whatever the HTTP code.  Only where there is no answer that could be given
 * back, these functions raise an error, which says how far the request came,
 * which option set the limit that was hit, and whether Kapture may have
 * carried the request out nevertheless.
 *
 * The caller needs USAGE on the server and a user mapping of their own or
 * PUBLIC's.  Keys never show in messages, and neither keys nor customers' data
 * in the log, at any level.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "argument.h"
#include "compat.h"
#include "complaint.h"
#include "http.h"
#include "message.h"
#include "option.h"

#define CALL_ID_LEN			64	/* bytes of a customer's id */

/* Customers of several windows put together. */
typedef struct CallMerge
{
	JsonbInState state;
	HTAB	   *seen;			/* ids that are in it */
} CallMerge;

PG_FUNCTION_INFO_V1(kapture_add_customer);
PG_FUNCTION_INFO_V1(kapture_update_customer);
PG_FUNCTION_INFO_V1(kapture_get_customer);
PG_FUNCTION_INFO_V1(kapture_pull);


/*
 * One request
 */

/*
 * Raises an error if the answer to an Add or Update is about somebody else: then
 * it is one to another request.
 */
static void
call_confirm(const KaptureServer *server, KaptureApi api, KaptureHttpRequest *request,
			 Jsonb *result, const char *body, size_t len)
{
	int			status = kapture_http_answer(request)->status;
	KaptureReply reply;

	kapture_message_judge(api, status, result, &reply);
	if (kapture_message_confirm_body(&reply, body, len))
		return;
	kapture_http_distrust(request);
	kapture_complaint_failed(server, api, status, &reply);
}

/*
 * Posts "text", JSON in the database's encoding, and returns the answer as
 * jsonb, with its HTTP code in *status.
 */
static Jsonb *
call_post(const KaptureServer *server, KaptureApi api, const char *text,
		  int *status)
{
	KaptureHttpRequest *request;
	const KaptureHttpAnswer *answer;
	Jsonb	   *result;
	bool		altered;
	char	   *why = NULL;
	char	   *body;
	size_t		len;

	if (server->body_array[api])
		text = psprintf("[%s]", text);
	body = kapture_message_to_utf8(text, &len);
	request = kapture_http_start(server, api, body, len, NULL);
	answer = kapture_http_perform(request, WaitEventExtensionNew("KaptureHttp"));
	ereport(DEBUG1,
			(errmsg_internal("kapture %s request: HTTP code %d after %.3f ms",
							 kapture_api_name(api), answer->status,
							 answer->elapsed / 1000.0)));

	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
		kapture_complaint_no_answer(server, api, answer);
	result = kapture_message_parse(answer->body, answer->body_len, &altered, &why);
	if (result == NULL)
		kapture_complaint_not_json(server, api, answer, why);
	if (altered)
		kapture_complaint_altered(server->name, NULL, 0);
	if (api == KAPTURE_API_ADD || api == KAPTURE_API_UPDATE)
		call_confirm(server, api, request, result, body, len);
	pfree(body);
	*status = answer->status;
	kapture_http_release(request);
	return result;
}


/*
 * Add, Update and Get
 */

/* Raises an error unless an update says whom it is for. */
static void
call_check_id(Jsonb *customer)
{
	JsonbValue	id;
	const char *field = "kapture_customer_id";

	if (getKeyJsonValueFromContainer(&customer->root, field, strlen(field),
									 &id) == NULL ||
		!kapture_argument_is_given(&id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" has no \"%s\"", "customer", field),
				 errhint("Name the customer to update by the id that kapture_add_customer() returned.")));
	if (id.type != jbvString && id.type != jbvNumeric)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be a number or a string", field)));
}

/* What the three functions that send one object have in common. */
static Datum
call_send_object(FunctionCallInfo fcinfo, KaptureApi api, const char *name)
{
	Jsonb	   *object;
	const KaptureServer *server;
	int			status;

	object = kapture_argument_object(fcinfo, 0, name);
	kapture_argument_check_null(fcinfo, 1, "server");
	if (api == KAPTURE_API_UPDATE)
		call_check_id(object);
	else if (api == KAPTURE_API_GET)
		kapture_argument_check_criteria(object, false);

	server = kapture_server_get(NameStr(*PG_GETARG_NAME(1)), GetUserId());
	PG_RETURN_JSONB_P(call_post(server, api, kapture_argument_body(object), &status));
}

/*
 * kapture_add_customer(customer jsonb, server name) returns jsonb
 *
 * Errors of all functions here: 22004 and 22023 bad arguments; those of
 * kapture_server_get() and kapture_http_start(); no answer: see http.c;
 * HV00M an answer that is not JSON; HV000 one that is about another customer.
 */
Datum
kapture_add_customer(PG_FUNCTION_ARGS)
{
	return call_send_object(fcinfo, KAPTURE_API_ADD, "customer");
}

/*
 * kapture_update_customer(customer jsonb, server name) returns jsonb
 */
Datum
kapture_update_customer(PG_FUNCTION_ARGS)
{
	return call_send_object(fcinfo, KAPTURE_API_UPDATE, "customer");
}

/*
 * kapture_get_customer(criteria jsonb, server name) returns jsonb
 */
Datum
kapture_get_customer(PG_FUNCTION_ARGS)
{
	return call_send_object(fcinfo, KAPTURE_API_GET, "criteria");
}


/*
 * Pull
 */

/* Fetches one window. */
static Jsonb *
call_pull_window(const KaptureServer *server, Timestamp start, Timestamp end,
				 int *status)
{
	return call_post(server, KAPTURE_API_PULL,
					 psprintf("{\"start_date\": \"%s\", \"end_date\": \"%s\"}",
							  kapture_message_date(start),
							  kapture_message_date(end)),
					 status);
}

/* Makes a string of a value. */
static void
call_set_string(JsonbValue *value, char *text)
{
	value->type = jbvString;
	value->val.string.val = text;
	value->val.string.len = strlen(text);
}

/* A number's text. */
static char *
call_numeric_text(const JsonbValue *value)
{
	return DatumGetCString(DirectFunctionCall1(numeric_out,
											   NumericGetDatum(value->val.numeric)));
}

static void
call_merge_begin(CallMerge *merge)
{
	HASHCTL		info = {0};
	JsonbValue	key;

	info.keysize = CALL_ID_LEN;
	info.entrysize = CALL_ID_LEN;
	info.hcxt = CurrentMemoryContext;
	merge->seen = hash_create("kapture customers", 1024, &info,
							  HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	memset(&merge->state, 0, sizeof(merge->state));
	pushJsonbValue(&merge->state, WJB_BEGIN_OBJECT, NULL);
	call_set_string(&key, "message");
	pushJsonbValue(&merge->state, WJB_KEY, &key);
	pushJsonbValue(&merge->state, WJB_BEGIN_ARRAY, NULL);
}

/* Is this customer in already?  One without an id never is. */
static bool
call_merge_has(CallMerge *merge, const JsonbValue *customer)
{
	JsonbValue	id;
	char	   *text;
	bool		found;

	if (customer->type != jbvBinary ||
		!JsonContainerIsObject(customer->val.binary.data) ||
		getKeyJsonValueFromContainer(customer->val.binary.data, "id", 2,
									 &id) == NULL)
		return false;
	if (id.type == jbvNumeric)
		text = call_numeric_text(&id);
	else if (id.type == jbvString)
		text = pnstrdup(id.val.string.val, id.val.string.len);
	else
		return false;
	if (strlen(text) >= CALL_ID_LEN)
		return false;
	(void) hash_search(merge->seen, text, HASH_ENTER, &found);
	return found;
}

/* Takes over the customers of a window that are not in yet. */
static void
call_merge_window(CallMerge *merge, Jsonb *answer)
{
	JsonbValue	message;
	uint32		n;

	if (getKeyJsonValueFromContainer(&answer->root, "message", 7,
									 &message) == NULL ||
		message.type != jbvBinary ||
		!JsonContainerIsArray(message.val.binary.data))
		return;
	n = JsonContainerSize(message.val.binary.data);
	for (uint32 i = 0; i < n; i++)
	{
		JsonbValue *customer;

		customer = getIthJsonbValueFromContainer(message.val.binary.data, i);
		if (!call_merge_has(merge, customer))
			pushJsonbValue(&merge->state, WJB_ELEM, customer);
	}
}

static Jsonb *
call_merge_end(CallMerge *merge)
{
	JsonbValue	value;

	pushJsonbValue(&merge->state, WJB_END_ARRAY, NULL);
	call_set_string(&value, "status");
	pushJsonbValue(&merge->state, WJB_KEY, &value);
	call_set_string(&value, "success");
	pushJsonbValue(&merge->state, WJB_VALUE, &value);
	pushJsonbValue(&merge->state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(merge->state.result);
}

/* Waits so that windows are not fetched faster than rate_limit allows. */
static void
call_pace(const KaptureServer *server, TimestampTz started)
{
	if (server->rate_limit > 0)
		kapture_http_sleep_until(started + (int64) (USECS_PER_SEC / server->rate_limit),
								 WaitEventExtensionNew("KapturePace"));
}

/*
 * Fetches windows from start to end, one after the other, and puts them
 * together.  Windows share the second between them, so that nobody is lost
 * there; customers that come twice are taken once.  Of windows without
 * customers, the last one's answer is returned if there are no others; any
 * other failure ends the pull and is returned as it is.
 */
static Jsonb *
call_pull_windows(const KaptureServer *server, Timestamp start, Timestamp end)
{
	int64		window = server->pull_window * USECS_PER_SEC;
	MemoryContext context = CurrentMemoryContext;
	MemoryContext temporary;
	CallMerge	merge;
	Jsonb	   *nobody = NULL;
	bool		somebody = false;

	call_merge_begin(&merge);
	temporary = AllocSetContextCreate(context, "kapture pull window",
									  ALLOCSET_DEFAULT_SIZES);
	for (Timestamp from = start; from < end;)
	{
		Timestamp	to = end - from > window ? from + window : end;
		TimestampTz started = GetCurrentTimestamp();
		Jsonb	   *answer;
		KaptureReply reply;
		int			status;

		MemoryContextSwitchTo(temporary);
		answer = call_pull_window(server, from, to, &status);
		kapture_message_judge(KAPTURE_API_PULL, status, answer, &reply);
		MemoryContextSwitchTo(context);
		answer = DatumGetJsonbPCopy(JsonbPGetDatum(answer));
		MemoryContextReset(temporary);

		if (reply.verdict == KAPTURE_SUCCESS)
		{
			call_merge_window(&merge, answer);
			somebody = true;
		}
		else if (reply.verdict == KAPTURE_NOT_FOUND)
		{
			if (nobody != NULL)
				pfree(nobody);
			nobody = answer;
		}
		else
			return answer;
		from = to;
		if (from < end)
			call_pace(server, started);
	}
	return somebody ? call_merge_end(&merge) : nobody;
}

/*
 * kapture_pull(start_date timestamp, end_date timestamp, server name)
 *		returns jsonb
 *
 * Times are the account's local time.  An end_date at midnight means all of
 * that day, as a date without time does to Kapture.
 */
Datum
kapture_pull(PG_FUNCTION_ARGS)
{
	Timestamp	start;
	Timestamp	end;
	const KaptureServer *server;
	int			status;

	kapture_argument_range(fcinfo, &start, &end);
	kapture_argument_check_null(fcinfo, 2, "server");
	server = kapture_server_get(NameStr(*PG_GETARG_NAME(2)), GetUserId());
	if (end - start > server->pull_window * USECS_PER_SEC)
		PG_RETURN_JSONB_P(call_pull_windows(server, start, end));
	PG_RETURN_JSONB_P(call_pull_window(server, start, end, &status));
}
