/*
 * check.c
 *		kapture_check(): is everything in place to talk to a server?
 *
 * One harmless request, a search for a customer that cannot exist, on a
 * connection of its own; each step of its way is a row of the result.  What is
 * wrong with a step is its detail, never an error.  Later steps that were not
 * reached are neither ok nor not.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "api/argument.h"
#include "api/http.h"
#include "api/option.h"
#include "api/reply.h"
#include "base/compat.h"
#include "base/guc.h"
#include "cluster/guard.h"
#include "cluster/shmem.h"

/* Days before a certificate's end from which the check fails. */
#define CHECK_EXPIRES_SOON		14

/* Seconds by which the clocks may differ. */
#define CHECK_CLOCK_SKEW		60

/* Nobody has this id. */
#define CHECK_BODY \
	"{\"kapture_customer_id\": \"0\", \"customer_id\": \"\", \"email_id\": \"\", \"phone\": \"\"}"

typedef enum CheckResult
{
	CHECK_FAILED,
	CHECK_OK,
	CHECK_NOT_REACHED
} CheckResult;

typedef struct Check
{
	ReturnSetInfo *rsinfo;
	const char *server;			/* its name */
	const char *url;
	int			timeout;
	bool		is_https;
	KaptureHttpRequest *request;
} Check;

PG_FUNCTION_INFO_V1(kapture_check);

static void
check_say(Check *check, const char *step, CheckResult result, const char *detail)
{
	Datum		values[3];
	bool		nulls[3] = {0};

	values[0] = CStringGetTextDatum(step);
	values[1] = BoolGetDatum(result == CHECK_OK);
	nulls[1] = result == CHECK_NOT_REACHED;
	values[2] = CStringGetTextDatum(result == CHECK_NOT_REACHED ? _("not reached") : detail);
	tuplestore_putvalues(check->rsinfo->setResult, check->rsinfo->setDesc, values, nulls);
}

static void
check_start(void *arg)
{
	Check	   *check = arg;
	const KaptureServer *server = kapture_server_get(check->server, GetUserId());
	char	   *body;
	size_t		len;

	for (int api = 0; api < KAPTURE_API_CUSTOMER_COUNT; api++)
		kapture_server_require_key(server, api);
	check->timeout = server->timeout;
	check->url = server->url[KAPTURE_API_GET];
	check->is_https = strncmp(check->url, "https:", 6) == 0;
	body = kapture_message_body(server, KAPTURE_API_GET, CHECK_BODY, strlen(CHECK_BODY), &len);
	check->request = kapture_http_start_in_turn(server, KAPTURE_API_GET, body, len,
												WaitEventExtensionNew("KapturePace"));
	kapture_http_inspect(check->request);
}

/* Takes server and mapping and starts the request, which tells what is wrong with them. */
static bool
check_options(Check *check)
{
	ErrorData  *error = kapture_guard_step(check_start, check);

	if (error == NULL)
	{
		check_say(check, "options", CHECK_OK, check->url);
		return true;
	}
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		ReThrowError(error);
	check_say(check, "options", CHECK_FAILED,
			  psprintf("%s%s%s%s%s", error->message,
					   error->detail ? ". " : "", error->detail ? error->detail : "",
					   error->hint ? (error->detail ? " " : ". ") : "", error->hint ? error->hint : ""));
	return false;
}

/* What the worker says of the server, for which of our roles ever it sends. */
static bool
check_worker_is_well(const char *server, char **why)
{
	KaptureServerReport report;
	int			i = 0;

	while (kapture_shmem_read_report(&i, &report))
	{
		if (strcmp(NameStr(report.server), server) == 0 &&
			has_privs_of_role(GetUserId(), report.owner) && report.state != KAPTURE_STATE_OK)
		{
			*why = psprintf(_("the worker holds the queue back: %s"), report.message);
			return false;
		}
	}
	return true;
}

/* Does somebody send what is captured here? */
static void
check_worker(Check *check, const char *server)
{
	char	   *why = NULL;

	if (RecoveryInProgress())
		check_say(check, "worker", CHECK_OK, _("nothing is sent from a standby"));
	else if (!kapture_shmem_available())
		check_say(check, "worker", CHECK_FAILED,
				  _("kapture_sync is not in shared_preload_libraries"));
	else if (!kapture_enabled)
		check_say(check, "worker", CHECK_FAILED, _("kapture_sync.enabled is off"));
	else if (kapture_guc_database_is_excluded(get_database_name(MyDatabaseId)))
		check_say(check, "worker", CHECK_FAILED,
				  _("kapture_sync.excluded_databases names this database"));
	else if (kapture_shmem_worker_pid(MyDatabaseId, KAPTURE_PUSHER) == 0)
		check_say(check, "worker", CHECK_FAILED,
				  _("no worker runs in this database; see the server log"));
	else if (!check_worker_is_well(server, &why))
		check_say(check, "worker", CHECK_FAILED, why);
	else
		check_say(check, "worker", CHECK_OK,
				  psprintf(_("process %d"), kapture_shmem_worker_pid(MyDatabaseId, KAPTURE_PUSHER)));
}

/* How many of name, connection and TLS stand. */
static int
check_stage(const KaptureHttpAnswer *answer)
{
	static const char *const phases[] = {"resolving the host name", "connecting", "the TLS handshake"};

	for (int i = 0; answer->outcome != KAPTURE_HTTP_ANSWERED && i < lengthof(phases); i++)
	{
		if (strcmp(answer->phase, phases[i]) == 0)
			return i;
	}
	return lengthof(phases);
}

static void
check_certificate(Check *check, const KaptureHttpDetails *details)
{
	TimestampTz expires;
	int64		days;
	char	   *detail;

	if (!check->is_https)
	{
		check_say(check, "certificate", CHECK_OK, _("none: plain http"));
		return;
	}
	if (details->expires == NULL)
	{
		check_say(check, "certificate", CHECK_NOT_REACHED, NULL);
		return;
	}
	expires = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(details->expires),
													  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	days = (expires - GetCurrentTimestamp()) / USECS_PER_DAY;
	detail = expires < GetCurrentTimestamp() ?
		psprintf(_("expired on %s"), timestamptz_to_str(expires)) :
		psprintf(_("expires on %s, in %lld days"), timestamptz_to_str(expires), (long long) days);
	check_say(check, "certificate", days >= CHECK_EXPIRES_SOON ? CHECK_OK : CHECK_FAILED, detail);
}

/* Name, connection, TLS. */
static void
check_connection(Check *check, const KaptureHttpAnswer *answer, const KaptureHttpDetails *details)
{
	static const char *const steps[] = {"dns", "tcp", "tls"};
	const char *good[3];
	int			stage = check_stage(answer);

	good[0] = psprintf(_("found in %.1f ms"), details->resolved / 1000.0);
	good[1] = psprintf(_("%s port %d"), details->peer, details->port);
	good[2] = check->is_https ? _("verified") : _("none: plain http");
	for (int i = 0; i < lengthof(steps); i++)
	{
		if (i < stage)
			check_say(check, steps[i], CHECK_OK, good[i]);
		else if (i == stage)
			check_say(check, steps[i], CHECK_FAILED,
					  psprintf("%s%s%s", answer->detail,
							   answer->option ? _("; see option ") : "", answer->option ? answer->option : ""));
		else
			check_say(check, steps[i], CHECK_NOT_REACHED, NULL);
	}
	check_certificate(check, details);
}

/* Does the server know the key, and answer as Kapture does? */
static void
check_auth(Check *check, const KaptureHttpAnswer *answer)
{
	char	   *why = NULL;
	Jsonb	   *json;
	KaptureReply reply = {0};

	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
	{
		if (check_stage(answer) < 3)
			check_say(check, "auth", CHECK_NOT_REACHED, NULL);
		else
			check_say(check, "auth", CHECK_FAILED,
					  psprintf(_("%s, while %s%s%s"), answer->detail, answer->phase,
							   answer->option ? _("; see option ") : "", answer->option ? answer->option : ""));
		return;
	}
	json = kapture_message_parse(answer->body, answer->body_len, NULL, &why);
	kapture_message_judge(KAPTURE_API_GET, answer->status, json, &reply);
	if (reply.verdict == KAPTURE_NOT_FOUND || reply.verdict == KAPTURE_SUCCESS)
		check_say(check, "auth", CHECK_OK, _("the get request was accepted"));
	else
		check_say(check, "auth", CHECK_FAILED,
				  json == NULL ?
				  psprintf(_("the answer is not JSON (HTTP code %d); see option url"), answer->status) :
				  psprintf(_("HTTP code %d: %s"), answer->status, reply.message ? reply.message : ""));
}

static void
check_clock(Check *check, const KaptureHttpDetails *details, TimestampTz now)
{
	int64		skew;

	if (details->date < 0)
	{
		check_say(check, "clock", CHECK_NOT_REACHED, NULL);
		return;
	}
	skew = details->date - (int64) timestamptz_to_time_t(now);
	check_say(check, "clock", llabs(skew) <= CHECK_CLOCK_SKEW ? CHECK_OK : CHECK_FAILED,
			  skew == 0 ? _("as ours") :
			  psprintf(_("%lld s %s ours"), llabs(skew), skew > 0 ? _("ahead of") : _("behind")));
}

static void
check_time(Check *check, const KaptureHttpAnswer *answer, const KaptureHttpDetails *details)
{
	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
		check_say(check, "time", CHECK_NOT_REACHED, NULL);
	else
		check_say(check, "time", answer->elapsed / 1000 <= check->timeout / 2 ? CHECK_OK : CHECK_FAILED,
				  psprintf(_("answered in %.1f ms, of which %.1f ms to connect; option timeout is %d ms"),
						   answer->elapsed / 1000.0, Max(details->connected, details->secured) / 1000.0,
						   check->timeout));
}

/*
 * kapture_check(server name) returns table(step text, ok boolean, detail text)
 *
 * Uses the caller's mapping, else PUBLIC's.  Errors: 22004 the argument is
 * NULL; a cancelled query.
 */
Datum
kapture_check(PG_FUNCTION_ARGS)
{
	static const char *const steps[] = {"dns", "tcp", "tls", "certificate", "auth", "clock", "time"};
	Check		check = {0};
	const KaptureHttpAnswer *answer;
	KaptureHttpDetails details;
	const char *server;
	bool		started;

	kapture_argument_check_null(fcinfo, 0, "server");
	server = NameStr(*PG_GETARG_NAME(0));
	InitMaterializedSRF(fcinfo, 0);
	check.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	check.server = server;
	started = check_options(&check);
	check_worker(&check, server);
	if (!started)
	{
		for (int i = 0; i < lengthof(steps); i++)
			check_say(&check, steps[i], CHECK_NOT_REACHED, NULL);
		PG_RETURN_NULL();
	}
	answer = kapture_http_perform(check.request, WaitEventExtensionNew("KaptureHttp"));
	kapture_http_details(check.request, &details);
	check_connection(&check, answer, &details);
	check_auth(&check, answer);
	check_clock(&check, &details, GetCurrentTimestamp());
	check_time(&check, answer, &details);
	kapture_http_release(check.request);
	PG_RETURN_NULL();
}
