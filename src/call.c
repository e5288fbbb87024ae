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
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "http.h"
#include "message.h"
#include "option.h"

#define CALL_EXCERPT		200 /* bytes of a bad answer that are shown */
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
 * Errors
 */

/* May a request that got no good answer have changed something at Kapture? */
static const char *
call_doubt(KaptureApi api)
{
	return api == KAPTURE_API_ADD || api == KAPTURE_API_UPDATE ?
		_(" Kapture may or may not have carried it out.") : "";
}

/* What to do about a limit that was hit, or about no connection. */
static int
call_hint(const KaptureServer *server, KaptureApi api,
		  const KaptureHttpAnswer *answer)
{
	const char *option = answer->option != NULL ? answer->option : "";

	if (strcmp(option, "timeout") == 0)
		return errhint("The limit is option \"%s\" of the server, %d ms.",
					   option, server->timeout);
	if (strcmp(option, "connect_timeout") == 0)
		return errhint("The limit is option \"%s\" of the server, %d ms.",
					   option, server->connect_timeout);
	if (strcmp(option, "max_response_size") == 0)
		return errhint("The limit is option \"%s\" of the server, %lld bytes.",
					   option, (long long) server->max_response_size);
	if (strcmp(option, "ca_file") == 0)
		return errhint("If a private authority issued the certificate, name the file of its certificate in option \"%s\" of the server.",
					   option);
	if (strcmp(option, "allow_http") == 0)
		return errhint("Use https, or set option \"%s\" of the server to true.",
					   option);
	if (answer->outcome == KAPTURE_HTTP_NOT_SENT)
		return errhint("Check option \"%s\" of the server, and whether the database server can reach that host.",
					   "url");
	if (api == KAPTURE_API_ADD)
		return errhint("Look for the customer with kapture_get_customer() before you add it again.");
	return 0;
}

/* Raises the error about a request without a whole answer. */
static void
call_raise_no_answer(const KaptureServer *server, KaptureApi api,
					 const KaptureHttpAnswer *answer)
{
	bool		not_sent = answer->outcome == KAPTURE_HTTP_NOT_SENT;

	ereport(ERROR,
			(errcode(answer->sqlstate),
			 not_sent ?
			 errmsg("could not connect to server \"%s\"", server->name) :
			 errmsg("got no answer from server \"%s\"", server->name),
			 errdetail("The %s request failed in this phase: %s (%s).%s",
					   kapture_api_name(api), answer->phase, answer->detail,
					   not_sent ? "" : call_doubt(api)),
			 call_hint(server, api, answer)));
}

/*
 * The beginning of a body that is not JSON, on one line and in the database's
 * encoding; palloc'ed.  A body that looks as if it repeats the request's key is
 * not shown.
 */
static char *
call_excerpt(const KaptureServer *server, KaptureApi api,
			 const char *body, size_t len)
{
	const char *secrets[] = {server->auth_key[api], server->password, "Basic "};
	int			shown = Min(len, CALL_EXCERPT);
	bool		is_text;
	StringInfoData out;

	if (GetDatabaseEncoding() == PG_UTF8)
		shown = pg_mbcliplen(body, Min(len, CALL_EXCERPT + MAX_MULTIBYTE_CHAR_LEN),
							 CALL_EXCERPT);
	is_text = GetDatabaseEncoding() == PG_UTF8 &&
		pg_verify_mbstr(PG_UTF8, body, shown, true);

	initStringInfo(&out);
	for (int i = 0; i < shown; i++)
	{
		unsigned char c = body[i];

		if (c == '\n' || c == '\r' || c == '\t')
			appendStringInfoString(&out, c == '\n' ? "\\n" :
								   c == '\r' ? "\\r" : "\\t");
		else if (c < 0x20 || c == 0x7F || (c >= 0x80 && !is_text))
			appendStringInfo(&out, "\\x%02x", c);
		else
			appendStringInfoCharMacro(&out, c);
	}
	for (int i = 0; i < lengthof(secrets); i++)
	{
		if (secrets[i] != NULL && strstr(out.data, secrets[i]) != NULL)
			return pstrdup(_("(not shown, since it repeats the key)"));
	}
	return out.data;
}

/* What to do about an answer that is not JSON. */
static int
call_hint_status(KaptureApi api, int status)
{
	if (status >= 300 && status < 400)
		return errhint("Redirects are not followed: check option \"%s\" of the server.",
					   "url");
	if (status == 401 || status == 403)
		return errhint("Check the key in the user mapping.");
	if (status == 404)
		return errhint("Check options \"%s\" and \"%s_path\" of the server.",
					   "url", kapture_api_name(api));
	if (status == 429 || status >= 500)
		return errhint("Kapture, or a proxy before it, cannot answer now: try again later.");
	return errhint("Check option \"%s\" of the server: this may be the address of something else.",
				   "url");
}

/* Raises the error about an answer that is not JSON. */
static void
call_raise_not_json(const KaptureServer *server, KaptureApi api,
					const KaptureHttpAnswer *answer, const char *why)
{
	bool		refused = answer->status >= 400 && answer->status < 500;

	ereport(ERROR,
			(errcode(ERRCODE_FDW_UNABLE_TO_CREATE_REPLY),
			 errmsg("answer of server \"%s\" is not JSON", server->name),
			 answer->body_len == 0 ?
			 errdetail("The answer to the %s request has HTTP code %d and is empty.%s",
					   kapture_api_name(api), answer->status,
					   refused ? "" : call_doubt(api)) :
			 errdetail("The answer to the %s request has HTTP code %d; %s. It begins with: %s%s",
					   kapture_api_name(api), answer->status, why,
					   call_excerpt(server, api, answer->body, answer->body_len),
					   refused ? "" : call_doubt(api)),
			 call_hint_status(api, answer->status)));
}

/* Raises the error about an argument that must not be NULL. */
static void
call_check_null(FunctionCallInfo fcinfo, int argno, const char *name)
{
	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", name)));
}


/*
 * One request
 */

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
	char	   *why = NULL;
	char	   *body;
	size_t		len;

	if (server->body_array[api])
		text = psprintf("[%s]", text);
	body = kapture_message_to_utf8(text, &len);
	request = kapture_http_start(server, api, body, len, NULL);
	pfree(body);
	answer = kapture_http_perform(request, WaitEventExtensionNew("KaptureHttp"));
	ereport(DEBUG1,
			(errmsg_internal("kapture %s request: HTTP code %d after %.3f ms",
							 kapture_api_name(api), answer->status,
							 answer->elapsed / 1000.0)));

	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
		call_raise_no_answer(server, api, answer);
	result = kapture_message_parse(answer->body, answer->body_len, &why);
	if (result == NULL)
		call_raise_not_json(server, api, answer, why);
	*status = answer->status;
	kapture_http_release(request);
	return result;
}


/*
 * Add, Update and Get
 */

/* Is this one of the fields that Kapture takes as strings of digits? */
static bool
call_is_digits_field(const JsonbValue *key)
{
	static const char *const fields[] = {
		"kapture_customer_id", "customer_id", "contact_id", "phone"
	};

	for (int i = 0; i < lengthof(fields); i++)
	{
		if (key->val.string.len == strlen(fields[i]) &&
			memcmp(key->val.string.val, fields[i], key->val.string.len) == 0)
			return true;
	}
	return false;
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

/*
 * The body for an object: as it is given, but for null, which Kapture writes
 * as "", and ids and phones given as numbers, which it takes as strings.
 */
static char *
call_body(Jsonb *object)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbInState state = {0};
	JsonbValue	value;
	Jsonb	   *body;
	bool		digits = false;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			digits = call_is_digits_field(&value);
		else if (token != WJB_VALUE)
			continue;
		else if (value.type == jbvNull)
			call_set_string(&value, "");
		else if (value.type == jbvNumeric && digits)
			call_set_string(&value, call_numeric_text(&value));
		pushJsonbValue(&state, token, &value);
	}
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	body = JsonbValueToJsonb(state.result);
	return JsonbToCString(NULL, &body->root, VARSIZE(body));
}

/* Raises an error unless the argument is an object with something in it. */
static void
call_check_object(Jsonb *object, const char *name)
{
	if (!JB_ROOT_IS_OBJECT(object))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be a JSON object", name),
				 JB_ROOT_IS_SCALAR(object) ?
				 errhint("Write something like '{\"phone\": \"9874563725\"}'.") :
				 errhint("Call the function once for each object of the array; where Kapture wants an array, it is put around the object.")));
	if (JB_ROOT_COUNT(object) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must not be an empty object", name)));
}

/* Is there something in this value? */
static bool
call_is_given(const JsonbValue *value)
{
	if (value->type == jbvString)
	{
		for (int i = 0; i < value->val.string.len; i++)
		{
			if (value->val.string.val[i] != ' ')
				return true;
		}
		return false;
	}
	return value->type != jbvNull;
}

/* Raises an error unless an update says whom it is for. */
static void
call_check_id(Jsonb *customer)
{
	JsonbValue	id;
	const char *field = "kapture_customer_id";

	if (getKeyJsonValueFromContainer(&customer->root, field, strlen(field),
									 &id) == NULL ||
		!call_is_given(&id))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" has no \"%s\"", "customer", field),
				 errhint("Name the customer to update by the id that kapture_add_customer() returned.")));
	if (id.type != jbvString && id.type != jbvNumeric)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be a number or a string", field)));
}

/* Raises an error unless there is something to search for. */
static void
call_check_criteria(Jsonb *criteria)
{
	JsonbIterator *it = JsonbIteratorInit(&criteria->root);
	JsonbIteratorToken token;
	JsonbValue	value;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_VALUE && call_is_given(&value))
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("argument \"%s\" has no criterion that is not empty",
					"criteria"),
			 errhint("Give at least one of \"kapture_customer_id\", \"customer_id\", \"phone\" and \"email_id\".")));
}

/* What the three functions that send one object have in common. */
static Datum
call_send_object(FunctionCallInfo fcinfo, KaptureApi api, const char *name)
{
	Jsonb	   *object;
	const KaptureServer *server;
	int			status;

	call_check_null(fcinfo, 0, name);
	call_check_null(fcinfo, 1, "server");
	object = PG_GETARG_JSONB_P(0);
	call_check_object(object, name);
	if (api == KAPTURE_API_UPDATE)
		call_check_id(object);
	else if (api == KAPTURE_API_GET)
		call_check_criteria(object);

	server = kapture_server_get(NameStr(*PG_GETARG_NAME(1)), GetUserId());
	PG_RETURN_JSONB_P(call_post(server, api, call_body(object), &status));
}

/*
 * kapture_add_customer(customer jsonb, server name) returns jsonb
 *
 * Errors of all functions here: 22004 and 22023 bad arguments; those of
 * kapture_server_get() and kapture_http_start(); no answer: see http.c;
 * HV00M an answer that is not JSON.
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

/* Raises an error if a date of a pull is infinite. */
static Timestamp
call_pull_date(FunctionCallInfo fcinfo, int argno, const char *name)
{
	Timestamp	date;

	call_check_null(fcinfo, argno, name);
	date = PG_GETARG_TIMESTAMP(argno);
	if (TIMESTAMP_NOT_FINITE(date))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("argument \"%s\" must be finite", name)));
	return date;
}

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
	TimestampTz next;

	if (server->rate_limit <= 0)
		return;
	next = started + (int64) (USECS_PER_SEC / server->rate_limit);
	for (;;)
	{
		long		left;

		CHECK_FOR_INTERRUPTS();
		left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next);
		if (left <= 0)
			return;
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 left, WaitEventExtensionNew("KapturePace"));
		ResetLatch(MyLatch);
	}
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
	Timestamp	start = call_pull_date(fcinfo, 0, "start_date");
	Timestamp	end = call_pull_date(fcinfo, 1, "end_date");
	const KaptureServer *server;
	int			status;

	call_check_null(fcinfo, 2, "server");
	(void) kapture_message_date(start);
	(void) kapture_message_date(end);
	if (end % USECS_PER_DAY == 0)
		end += USECS_PER_DAY - USECS_PER_SEC;
	if (start > end)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" is after \"%s\"",
						"start_date", "end_date")));

	server = kapture_server_get(NameStr(*PG_GETARG_NAME(2)), GetUserId());
	if (end - start > server->pull_window * USECS_PER_SEC)
		PG_RETURN_JSONB_P(call_pull_windows(server, start, end));
	PG_RETURN_JSONB_P(call_pull_window(server, start, end, &status));
}
