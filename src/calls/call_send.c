/*
 * call_send.c
 *		kapture_send() queues a call in the caller's transaction; its sender can
 *		have it retried or discarded.
 *
 * Anything wrong with a call is an error at once, while its sender can see it.  The worker
 * reads settings and key again when it sends the call.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"

#include "api/argument.h"
#include "api/option.h"
#include "base/catalog_tables.h"
#include "base/compat.h"
#include "base/owner_sql.h"
#include "base/text.h"
#include "base/version.h"
#include "calls/module_call.h"
#include "cluster/shmem.h"
#include "table/origin.h"

/* Bytes of a body; characters of names, which an index entry must be able to hold. */
#define SEND_MAX_BODY		(1024 * 1024)
#define SEND_MAX_API		512
#define SEND_MAX_REFERENCE	255

PG_FUNCTION_INFO_V1(kapture_send_call);
PG_FUNCTION_INFO_V1(kapture_retry_call);
PG_FUNCTION_INFO_V1(kapture_discard_call);

/* Returns an argument of type text, which must not be null, empty or too long. */
static char *
send_text(FunctionCallInfo fcinfo, int argno, const char *name, int longest)
{
	char	   *value;

	kapture_argument_check_null(fcinfo, argno, name);
	value = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	if (value[0] == '\0' || pg_mbstrlen(value) > longest)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must have between 1 and %d characters", name, longest),
				 errdetail("The value has %d characters.", pg_mbstrlen(value))));
	return value;
}

static char *
send_retry(FunctionCallInfo fcinfo, int argno)
{
	char	   *retry;

	kapture_argument_check_null(fcinfo, argno, "retry");
	retry = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	if (strcmp(retry, "unsent") != 0 && strcmp(retry, "always") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"%s\": \"%s\"", "retry", retry),
				 errhint("Use \"%s\" to have the call sent again only if it was certainly not taken, or \"%s\" to have it sent until there is an answer.",
						 "unsent", "always")));
	return retry;
}

/* Raises an error for a body that is too large, in one form or the other. */
pg_noreturn static void
send_body_too_large(const char *form, size_t size)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("argument \"%s\" is too large", "body"),
			 errdetail("The body has %zu bytes%s; at most %d are allowed.", size, form, SEND_MAX_BODY),
			 errhint("Call the API with %s, which has no such limit.", "kapture_call()")));
}

/*
 * Returns the body.  The worker holds many bodies in memory, as text, so both forms are
 * limited: a number such as 1e100000 is small as jsonb only.  A body that cannot be sent as
 * UTF-8 is refused here, as in the worker it would hold up the calls behind it.
 */
static Jsonb *
send_body(FunctionCallInfo fcinfo, int argno)
{
	Jsonb	   *body = kapture_module_call_body(fcinfo, argno);
	char	   *text;
	size_t		len;

	if (VARSIZE(body) > SEND_MAX_BODY)
		send_body_too_large("", VARSIZE(body));
	text = JsonbToCString(NULL, &body->root, VARSIZE(body));
	pfree(kapture_text_to_utf8(text, &len));
	pfree(text);
	if (len > SEND_MAX_BODY)
		send_body_too_large(" as text", len);
	return body;
}

/*
 * kapture_send(api text, body jsonb, server name, reference text, retry text)
 * returns bigint
 *
 * Errors: 22004 and 22023 bad arguments; 54000 too large a body; 22021 or 22P05 one that cannot
 * be UTF-8; those of kapture_server_get(), kapture_server_require_key() and
 * kapture_module_bind().
 */
Datum
kapture_send_call(PG_FUNCTION_ARGS)
{
	Oid			types[8] = {OIDOID, TEXTOID, OIDOID, OIDOID, TEXTOID, JSONBOID, TEXTOID, TEXTOID};
	Datum		values[8];
	char	   *api = send_text(fcinfo, 0, "api", SEND_MAX_API);
	Jsonb	   *body = send_body(fcinfo, 1);
	char	   *reference = PG_ARGISNULL(3) ? "" : send_text(fcinfo, 3, "reference", SEND_MAX_REFERENCE);
	char	   *retry = send_retry(fcinfo, 4);
	const KaptureServer *server;
	char	   *id;

	kapture_version_require();
	kapture_argument_check_null(fcinfo, 2, "server");
	server = kapture_server_get(NameStr(*PG_GETARG_NAME(2)), GetUserId());
	server = kapture_module_call_server(server, api, body);
	kapture_server_require_key(server, KAPTURE_API_MODULE);

	values[0] = ObjectIdGetDatum(GetUserId());
	values[1] = CStringGetTextDatum(server->name);
	values[2] = ObjectIdGetDatum(server->serverid);
	values[3] = ObjectIdGetDatum(server->owner);
	values[4] = CStringGetTextDatum(api);
	values[5] = JsonbPGetDatum(body);
	values[6] = CStringGetTextDatum(reference);
	values[7] = CStringGetTextDatum(retry);
	id = kapture_own_text("INSERT INTO @.kapture_call_queue (sender, server, server_oid, server_owner, api, body, reference, retry)"
						  " VALUES ($1::regrole, $2::name, $3, $4, $5, $6, nullif($7, ''), $8) RETURNING call_id",
						  8, types, values);
	if (kapture_origin_claim())
	{
		/* the worker does not know yet that this database is not a copy */
		CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
		kapture_shmem_wake_all_at_commit();
	}
	kapture_shmem_wake_for_calls_at_commit();
	if (!kapture_shmem_available())
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("kapture_sync is not in shared_preload_libraries, so nothing is sent"),
				 errdetail("Calls wait in kapture_calls until a worker runs."),
				 errhint("Add kapture_sync to shared_preload_libraries in postgresql.conf and restart the server.")));
	PG_RETURN_INT64(pg_strtoint64(id));
}

/*
 * Locks a call and returns its state.  Raises errors for a call that the current user has
 * not sent, whether or not it exists (42704), and for one that is done (55000) or being
 * sent (55006).
 */
static char *
send_lock_call(FunctionCallInfo fcinfo, int64 *id)
{
	Oid			types[2] = {INT8OID, OIDOID};
	Datum		values[2];
	char	   *state;

	kapture_argument_check_null(fcinfo, 0, "call_id");
	*id = PG_GETARG_INT64(0);
	kapture_version_require();
	values[0] = Int64GetDatum(*id);
	values[1] = ObjectIdGetDatum(GetUserId());
	state = kapture_own_text("SELECT state FROM @.kapture_call_queue"
							 " WHERE call_id = $1 AND pg_has_role($2, sender, 'USAGE') FOR UPDATE", 2, types, values);
	if (state == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("call %lld does not exist", (long long) *id),
				 errhint("The view %s has the calls of the current role.", "kapture_calls")));
	if (strcmp(state, "done") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("call %lld is done", (long long) *id),
				 errhint("Send it anew with %s if it is to be carried out again.", "kapture_send()")));
	if (strcmp(state, "sending") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("call %lld is being sent", (long long) *id),
				 errhint("Wait for its answer.")));
	return state;
}

/*
 * kapture_retry_call(call_id bigint) returns void
 */
Datum
kapture_retry_call(PG_FUNCTION_ARGS)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	int64		id;

	(void) send_lock_call(fcinfo, &id);
	values[0] = Int64GetDatum(id);
	(void) kapture_own_execute("UPDATE @.kapture_call_queue SET state = 'waiting', next_attempt = '-infinity', failures = 0,"
							   " asked_at = clock_timestamp(), finished_at = NULL WHERE call_id = $1", 1, types, values);
	kapture_shmem_wake_for_calls_at_commit();
	PG_RETURN_VOID();
}

/*
 * kapture_discard_call(call_id bigint) returns void
 */
Datum
kapture_discard_call(PG_FUNCTION_ARGS)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1];
	int64		id;

	(void) send_lock_call(fcinfo, &id);
	values[0] = Int64GetDatum(id);
	(void) kapture_own_execute("UPDATE @.kapture_call_queue SET state = 'discarded', finished_at = clock_timestamp()"
							   " WHERE call_id = $1 AND state <> 'discarded'", 1, types, values);
	/* the worker reads its settings anew, and finds that there is a call to expire */
	CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
	/* another call with its reference may be sent now */
	kapture_shmem_wake_for_calls_at_commit();
	PG_RETURN_VOID();
}
