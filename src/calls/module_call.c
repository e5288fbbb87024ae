/*
 * module_call.c
 *		kapture_call(): any API of the account, by name or path.
 *
 * As for direct calls of the customer API (direct_call.c), the caller's key is used, the
 * answer is returned as it is, and there is an error only where there is no answer.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "api/argument.h"
#include "api/direct_call.h"
#include "api/option.h"
#include "base/compat.h"
#include "calls/module_call.h"
#include "calls/modules.h"

PG_FUNCTION_INFO_V1(kapture_call);

/*
 * kapture_module_call_body
 *		Returns an argument that is the body of a request to another module: an
 *		object or an array, with any contents.
 *
 * Errors: 22004 it is NULL, 22023 it is something else.
 */
Jsonb *
kapture_module_call_body(FunctionCallInfo fcinfo, int argno)
{
	Jsonb	   *body;

	kapture_argument_check_null(fcinfo, argno, "body");
	body = PG_GETARG_JSONB_P(argno);
	if (JB_ROOT_IS_SCALAR(body))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be a JSON object or array", "body"),
				 errhint("Write something like '{\"ticket_ids\": \"1234567890\"}'.")));
	return body;
}

/*
 * kapture_module_call_server
 *		Returns the server with what a request of "body" to the API needs, in the
 *		current memory context.  Raises the errors of kapture_module_bind().
 */
KaptureServer *
kapture_module_call_server(const KaptureServer *server, const char *api, Jsonb *body)
{
	KaptureServer *result = kapture_module_bind(server, api);

	/* the caller has put the array around the object already */
	if (!JB_ROOT_IS_OBJECT(body))
		result->body_array[KAPTURE_API_MODULE] = false;
	return result;
}

/*
 * kapture_call(api text, body jsonb, server name) returns jsonb
 *
 * Errors: 22004 and 22023 bad arguments; those of kapture_server_get() and
 * kapture_http_start(); no answer: see http.c; HV00M an answer that is not JSON.
 */
Datum
kapture_call(PG_FUNCTION_ARGS)
{
	char	   *api;
	Jsonb	   *body;
	const KaptureServer *server;

	kapture_argument_check_null(fcinfo, 0, "api");
	api = text_to_cstring(PG_GETARG_TEXT_PP(0));
	body = kapture_module_call_body(fcinfo, 1);
	kapture_argument_check_null(fcinfo, 2, "server");
	server = kapture_server_get(NameStr(*PG_GETARG_NAME(2)), GetUserId());
	server = kapture_module_call_server(server, api, body);
	PG_RETURN_JSONB_P(kapture_call_post(server, KAPTURE_API_MODULE,
										JsonbToCString(NULL, &body->root, VARSIZE(body)), NULL));
}
