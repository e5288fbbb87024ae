/*
 * direct_call.c
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
#include "utils/jsonb.h"

#include "api/argument.h"
#include "api/dialect.h"
#include "api/direct_call.h"
#include "api/error.h"
#include "api/http.h"
#include "api/identity.h"
#include "api/option.h"
#include "api/reply.h"
#include "base/compat.h"
#include "base/text.h"
#include "base/written.h"

PG_FUNCTION_INFO_V1(kapture_add_customer);
PG_FUNCTION_INFO_V1(kapture_update_customer);
PG_FUNCTION_INFO_V1(kapture_get_customer);


/*
 * One request
 */

/*
 * Raises an error if the answer to an Add or Update is about another customer: then
 * it is the answer to another request.
 */
static void
call_confirm(const KaptureServer *server, KaptureApi api, KaptureHttpRequest *request,
			 Jsonb *result, Jsonb *sent)
{
	int			status = kapture_http_answer(request)->status;
	KaptureReply reply;

	kapture_message_judge(api, status, result, NULL, &reply);
	if (kapture_message_confirm_customer(&reply, &sent->root))
		return;
	kapture_http_distrust(request);
	kapture_complaint_failed(server, api, status, &reply);
}

/*
 * Posts "text", JSON in the database's encoding, and returns the answer as
 * jsonb, whatever its HTTP code, in the current memory context.  "customer" is what
 * an Add or Update sends, which its answer must be about; NULL for others.  Errors: those
 * of kapture_http_start(); no answer: see http.c; HV00M an answer that is not
 * JSON.
 */
Jsonb *
kapture_call_post(const KaptureServer *server, KaptureApi api, const char *text, Jsonb *customer)
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
	body = kapture_text_to_utf8(text, &len);
	request = kapture_http_start_in_turn(server, api, body, len, WaitEventExtensionNew("KapturePace"));
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
	if (customer)
		call_confirm(server, api, request, result, customer);
	pfree(body);
	kapture_http_release(request);
	return result;
}


/*
 * Add, Update and Get
 */

/* Raises an error unless an update says whom it is for. */
static void
call_check_id(const KaptureServer *server, Jsonb *customer)
{
	JsonbValue	id;
	const char *field = kapture_dialect_path(server->names[KAPTURE_API_UPDATE], "kapture_customer_id");

	if (!kapture_dialect_value(server->names[KAPTURE_API_UPDATE], customer, "kapture_customer_id", &id) ||
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

/* Notes which customer is updated; a value that is no id is left for Kapture to refuse. */
static void
call_note_written(const KaptureServer *server, Jsonb *customer)
{
	JsonbValue	id;
	char	   *text;
	char	   *end;
	int64		customer_id;

	if (!kapture_dialect_value(server->names[KAPTURE_API_UPDATE], customer, "kapture_customer_id", &id))
		return;
	text = id.type == jbvString ? pnstrdup(id.val.string.val, id.val.string.len) :
		DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(id.val.numeric)));
	errno = 0;
	customer_id = strtoi64(text, &end, 10);
	if (errno == 0 && end != text && customer_id > 0)
		kapture_written_note(server->serverid, customer_id);
}

/* What the three functions that send one object have in common. */
static Datum
call_send_object(FunctionCallInfo fcinfo, KaptureApi api, const char *name)
{
	Jsonb	   *object;
	const KaptureServer *server;

	object = kapture_argument_object(fcinfo, 0, name);
	kapture_argument_check_null(fcinfo, 1, "server");
	if (api == KAPTURE_API_GET)
		kapture_argument_check_criteria(object, false);
	server = kapture_server_get(NameStr(*PG_GETARG_NAME(1)), GetUserId());
	kapture_argument_advise(object, api == KAPTURE_API_GET, server->names[api]);
	if (api == KAPTURE_API_UPDATE)
	{
		call_check_id(server, object);
		call_note_written(server, object);
	}
	PG_RETURN_JSONB_P(kapture_call_post(server, api, kapture_argument_body(object),
										api == KAPTURE_API_GET ? NULL : object));
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
