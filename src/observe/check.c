/*
 * check.c
 *		kapture_check(): is everything in place to talk to a server?
 *
 * Sends one harmless request, a search for a customer that cannot exist, on a
 * connection of its own; each step of the request is a row of the result.  A fault is
 * reported in the step's detail, and what to do in its hint, never as an error.  For
 * later steps that were not reached, "ok" is NULL.  The keys of other APIs are tried
 * by requests of their own (check_key.c).
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "api/argument.h"
#include "api/hint.h"
#include "api/http.h"
#include "api/option.h"
#include "api/reply.h"
#include "api/server.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "cluster/guard.h"
#include "cluster/shmem.h"
#include "follow/follow_capture.h"
#include "observe/check_key.h"
#include "table/attach_trigger.h"

/* The check fails if a certificate expires in fewer days than this. */
#define CHECK_EXPIRES_SOON		14

/* Tables that a step names, at most. */
#define CHECK_MAX_TABLES		"5"

/* Seconds by which the clocks may differ. */
#define CHECK_CLOCK_SKEW		60

typedef enum CheckResult
{
	CHECK_FAILED,
	CHECK_OK,
	CHECK_NOT_REACHED
} CheckResult;

typedef struct Check
{
	ReturnSetInfo *rsinfo;
	bool		has_hints;		/* the caller's version has a column for hints */
	const char *server;			/* its name */
	const char *url;
	int			timeout;
	bool		is_https;
	KaptureApi	api;			/* whose key is tried */
	KaptureHttpRequest *request;
} Check;

PG_FUNCTION_INFO_V1(kapture_check);
PG_FUNCTION_INFO_V1(kapture_check_1_1);

/* Puts a step into the result; "hint" is only for a step that failed, and may be NULL. */
static void
check_say(Check *check, const char *step, CheckResult result, const char *detail, const char *hint)
{
	Datum		values[4];
	bool		nulls[4] = {0};

	values[0] = CStringGetTextDatum(step);
	values[1] = BoolGetDatum(result == CHECK_OK);
	nulls[1] = result == CHECK_NOT_REACHED;
	values[2] = CStringGetTextDatum(result == CHECK_NOT_REACHED ? "not reached" : detail);
	nulls[3] = result != CHECK_FAILED || hint == NULL;
	values[3] = nulls[3] ? (Datum) 0 : CStringGetTextDatum(hint);
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
	body = kapture_check_key_body(server, KAPTURE_API_GET, &len);
	check->request = kapture_http_start_in_turn(server, KAPTURE_API_GET, body, len,
												WaitEventExtensionNew("KapturePace"));
	kapture_http_inspect(check->request);
}

/* Reads server and mapping and starts the request, which shows what is wrong with them. */
static bool
check_options(Check *check)
{
	ErrorData  *error = kapture_guard_session_step(check_start, check);
	const char *hint;

	if (error == NULL)
	{
		check_say(check, "options", CHECK_OK, check->url, NULL);
		return true;
	}
	hint = error->hint;
	check_say(check, "options", CHECK_FAILED,
			  psprintf("%s%s%s%s%s", error->message,
					   error->detail ? ". " : "", error->detail ? error->detail : "",
					   hint && !check->has_hints ? (error->detail ? " " : ". ") : "", hint && !check->has_hints ? hint : ""),
			  hint);
	return false;
}

/* Is the server well, as the worker reports for any of the caller's roles?  If not, fills in *why and *hint. */
static bool
check_worker_is_well(const char *server, const char **why, const char **hint)
{
	KaptureServerReport report;
	int			i = 0;

	while (kapture_shmem_read_report(&i, &report))
	{
		if (strcmp(NameStr(report.server), server) == 0 &&
			has_privs_of_role(GetUserId(), report.owner) && report.state != KAPTURE_STATE_OK)
		{
			*why = psprintf("the worker holds the queue back: %s", report.message);
			*hint = kapture_hint_find(report.message, 0, "");
			*hint = *hint ? kapture_hint_sentence(*hint) :
				"The steps below tell what is wrong now; the rows that wait have hints of their own in kapture_failures.";
			return false;
		}
	}
	return true;
}

/* Is there a worker that sends what is captured here? */
static void
check_worker(Check *check)
{
	const char *database = get_database_name(MyDatabaseId);
	const char *why;
	const char *hint = NULL;

	if (RecoveryInProgress())
	{
		check_say(check, "worker", CHECK_OK, "nothing is sent from a standby", NULL);
		return;
	}
	if (!kapture_shmem_available())
	{
		why = "kapture_sync is not in shared_preload_libraries";
		hint = "Add it there, in postgresql.conf, and restart the server.";
	}
	else if (!kapture_enabled)
	{
		why = "kapture_sync.enabled is off";
		hint = "Set it to on, in postgresql.conf or by ALTER SYSTEM, and reload the configuration.";
	}
	else if (kapture_guc_database_is_excluded(database))
	{
		why = "kapture_sync.excluded_databases names this database";
		hint = psprintf("Take \"%s\" out of it, and reload the configuration.", database);
	}
	else if (kapture_shmem_worker_pid(MyDatabaseId, KAPTURE_PUSHER) == 0)
	{
		why = "no worker runs in this database; see the server log";
		hint = "If the log says that there are no worker slots, raise max_worker_processes, and restart the server.";
	}
	else if (check_worker_is_well(check->server, &why, &hint))
	{
		check_say(check, "worker", CHECK_OK,
				  psprintf("process %d", kapture_shmem_worker_pid(MyDatabaseId, KAPTURE_PUSHER)), NULL);
		return;
	}
	check_say(check, "worker", CHECK_FAILED, why, hint);
}

/* How many of the steps dns, tcp and tls succeeded. */
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
		check_say(check, "certificate", CHECK_OK, "none: plain http", NULL);
		return;
	}
	if (details->expires == NULL)
	{
		check_say(check, "certificate", CHECK_NOT_REACHED, NULL, NULL);
		return;
	}
	expires = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(details->expires),
													  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	days = (expires - GetCurrentTimestamp()) / USECS_PER_DAY;
	detail = expires < GetCurrentTimestamp() ?
		psprintf("expired on %s", timestamptz_to_str(expires)) :
		psprintf("expires on %s, in %lld days", timestamptz_to_str(expires), (long long) days);
	check_say(check, "certificate", days >= CHECK_EXPIRES_SOON ? CHECK_OK : CHECK_FAILED, detail,
			  "Have whoever runs the host renew its certificate: when it expires, nothing is sent any more.");
}

/* What to do about a connection that came no further than this step. */
static const char *
check_connection_hint(int step, const KaptureHttpAnswer *answer)
{
	if (answer->option && strcmp(answer->option, "ca_file") == 0)
		return "Option \"ca_file\" of the server must name a file of certificates in PEM format.";
	switch (step)
	{
		case 0:
			return "Check option \"url\" of the server, and whether this host can resolve names.";
		case 1:
			return "Check host and port in option \"url\" of the server, and whether a firewall lets this host out.";
		default:
			return kapture_hint_sentence(kapture_hint_tls(answer->tls == KAPTURE_TLS_NONE ? KAPTURE_TLS_OTHER : answer->tls));
	}
}

/* Puts the steps of the connection into the result: dns, tcp, tls and certificate. */
static void
check_connection(Check *check, const KaptureHttpAnswer *answer, const KaptureHttpDetails *details)
{
	static const char *const steps[] = {"dns", "tcp", "tls"};
	const char *good[3];
	int			stage = check_stage(answer);

	good[0] = psprintf("found in %.1f ms", details->resolved / 1000.0);
	good[1] = psprintf("%s port %d", details->peer, details->port);
	good[2] = check->is_https ? "verified" : "none: plain http";
	for (int i = 0; i < lengthof(steps); i++)
	{
		if (i < stage)
			check_say(check, steps[i], CHECK_OK, good[i], NULL);
		else if (i == stage)
			check_say(check, steps[i], CHECK_FAILED,
					  psprintf("%s%s%s", answer->detail,
							   answer->option ? "; see option " : "", answer->option ? answer->option : ""),
					  check_connection_hint(i, answer));
		else
			check_say(check, steps[i], CHECK_NOT_REACHED, NULL, NULL);
	}
	check_certificate(check, details);
}

/* Does the server know the key, and answer as Kapture does? */
static void
check_auth(Check *check, const KaptureHttpAnswer *answer)
{
	const char *detail;
	const char *hint;

	if (check_stage(answer) < 3)
		check_say(check, "auth", CHECK_NOT_REACHED, NULL, NULL);
	else if (kapture_check_key_judge(KAPTURE_API_GET, answer, &detail, &hint))
		check_say(check, "auth", CHECK_OK, detail, NULL);
	else
		check_say(check, "auth", CHECK_FAILED, detail, hint);
}

static void
check_start_key(void *arg)
{
	Check	   *check = arg;
	const KaptureServer *server = kapture_server_get(check->server, GetUserId());
	size_t		len;
	char	   *body = kapture_check_key_body(server, check->api, &len);

	check->request = kapture_http_start_in_turn(server, check->api, body, len, WaitEventExtensionNew("KapturePace"));
}

/* Is the key of another API accepted? */
static void
check_key(Check *check, KaptureApi api, bool reached)
{
	char	   *step = psprintf("%s key", kapture_api_name(api));
	ErrorData  *error;
	const char *detail;
	const char *hint;
	bool		accepted;

	if (!reached)
	{
		check_say(check, step, CHECK_NOT_REACHED, NULL, NULL);
		return;
	}
	check->api = api;
	error = kapture_guard_session_step(check_start_key, check);
	if (error)
	{
		check_say(check, step, CHECK_FAILED, error->message, error->hint);
		return;
	}
	accepted = kapture_check_key_judge(api, kapture_http_perform(check->request, WaitEventExtensionNew("KaptureHttp")),
									   &detail, &hint);
	check_say(check, step, accepted ? CHECK_OK : CHECK_FAILED, detail, hint);
	kapture_http_release(check->request);
}

/* Tries the key of Pull, and, with "all", those of Add and Update. */
static void
check_keys(Check *check, bool all, bool reached)
{
	if (!check->has_hints)
		return;
	check_key(check, KAPTURE_API_PULL, reached);
	if (!all)
		return;
	check_key(check, KAPTURE_API_ADD, reached);
	check_key(check, KAPTURE_API_UPDATE, reached);
}

static void
check_clock(Check *check, const KaptureHttpDetails *details, TimestampTz now)
{
	int64		skew;

	if (details->date < 0)
	{
		check_say(check, "clock", CHECK_NOT_REACHED, NULL, NULL);
		return;
	}
	skew = details->date - (int64) timestamptz_to_time_t(now);
	check_say(check, "clock", llabs(skew) <= CHECK_CLOCK_SKEW ? CHECK_OK : CHECK_FAILED,
			  skew == 0 ? "as ours" :
			  psprintf("%lld s %s ours", llabs(skew), skew > 0 ? "ahead of" : "behind"),
			  "Have this host's clock kept by NTP; if it is, it is Kapture's that is wrong.");
}

static void
check_time(Check *check, const KaptureHttpAnswer *answer, const KaptureHttpDetails *details)
{
	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
		check_say(check, "time", CHECK_NOT_REACHED, NULL, NULL);
	else
		check_say(check, "time", answer->elapsed / 1000 <= check->timeout / 2 ? CHECK_OK : CHECK_FAILED,
				  psprintf("answered in %.1f ms, of which %.1f ms to connect; option timeout is %d ms",
						   answer->elapsed / 1000.0, Max(details->connected, details->secured) / 1000.0,
						   check->timeout),
				  "Raise option \"timeout\" of the server, or find out what is slow on the way.");
}

/* SQL: attachments of a server ($1) whose tables a role ($2) may see. */
#define CHECK_ATTACHED \
	"@.kapture_attachment AS a JOIN pg_catalog.pg_class AS c" \
	" ON c.oid = a.relation AND a.server = $1::name AND pg_catalog.pg_has_role($2, c.relowner, 'USAGE')"

/* The names of the first tables ("relation") that a query with CHECK_ATTACHED returns; NULL: it returns none. */
static char *
check_tables(Check *check, const char *query)
{
	Oid			types[2] = {TEXTOID, OIDOID};
	Datum		values[2] = {CStringGetTextDatum(check->server), ObjectIdGetDatum(GetUserId())};

	return kapture_own_text(psprintf("SELECT pg_catalog.string_agg(t.relation::text, ', ') FROM (%s LIMIT " CHECK_MAX_TABLES ") AS t", query),
							2, types, values);
}

/* If an Add is an upsert: names the caller's tables with on_duplicate 'fail', which cannot hold then. */
static void
check_duplicates(Check *check)
{
	char	   *tables;

	if (!check->has_hints || !kapture_server_adds_by_upsert(check->server))
		return;
	tables = check_tables(check, "SELECT a.relation FROM " CHECK_ATTACHED " WHERE a.on_duplicate = 'fail' ORDER BY a.attachment_id");
	if (tables == NULL)
		check_say(check, "duplicates", CHECK_OK, "an Add updates a customer that is there, and no table is to fail then", NULL);
	else
		check_say(check, "duplicates", CHECK_FAILED,
				  psprintf("on_duplicate 'fail' cannot hold, as an Add updates a customer that is there: %s", tables),
				  psprintf("Use kapture_match() before rows of %s are sent, which finds customers that are there; then kapture_alter() with on_duplicate => 'link'.", tables));
}

/*
 * Puts a step into the result if changes of the server's tables that the caller may see, or of tables
 * that these follow, are not captured.
 */
static void
check_capture(Check *check)
{
	char	   *tables;

	if (!check->has_hints)
		return;
	tables = check_tables(check, "SELECT a.relation FROM " CHECK_ATTACHED " WHERE " KAPTURE_ATTACH_IS_UNCAPTURED("a") " ORDER BY a.attachment_id");
	if (tables)
		check_say(check, "capture", CHECK_FAILED,
				  psprintf("changes are not captured, as the trigger is disabled, replaced or dropped: %s", tables),
				  "Use ALTER TABLE ... ENABLE TRIGGER " KAPTURE_TRIGGER ", or, if it was replaced or dropped, kapture_detach() and kapture_attach(). Then kapture_verify() shows what was missed.");
	tables = check_tables(check, "SELECT a.relation FROM " CHECK_ATTACHED " WHERE " KAPTURE_ATTACH_MISSES_REPLICATION("a") " ORDER BY a.attachment_id");
	if (tables)
		check_say(check, "capture", CHECK_FAILED,
				  psprintf("changes that logical replication applies are not captured, as the trigger does not fire then: %s", tables),
				  "Use ALTER TABLE ... ENABLE ALWAYS TRIGGER " KAPTURE_TRIGGER ". Then kapture_verify() shows what was missed.");
	tables = check_tables(check, "SELECT DISTINCT f.source AS relation FROM " CHECK_ATTACHED " JOIN @.kapture_follow AS f USING (relation)"
						  " WHERE " KAPTURE_FOLLOW_IS_UNCAPTURED("f") " ORDER BY f.source");
	if (tables)
		check_say(check, "followed", CHECK_FAILED,
				  psprintf("changes of followed tables are not captured, as the trigger is disabled, replaced or dropped: %s", tables),
				  "Use ALTER TABLE ... ENABLE ALWAYS TRIGGER " KAPTURE_FOLLOW_TRIGGER ", or, if it was replaced or dropped, kapture_unfollow() and kapture_follow(). Then kapture_verify() shows what was missed.");
}

/* What is common to all versions of the function. */
static void
check_run(FunctionCallInfo fcinfo, bool has_hints, bool all_keys)
{
	static const char *const before[] = {"dns", "tcp", "tls", "certificate", "auth"};
	static const char *const after[] = {"clock", "time"};
	Check		check = {.has_hints = has_hints};
	const KaptureHttpAnswer *answer;
	KaptureHttpDetails details;
	KaptureHttpRequest *request;
	TimestampTz answered;
	bool		started;

	kapture_argument_check_null(fcinfo, 0, "server");
	InitMaterializedSRF(fcinfo, 0);
	check.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	check.server = NameStr(*PG_GETARG_NAME(0));
	started = check_options(&check);
	check_worker(&check);
	if (!started)
	{
		for (int i = 0; i < lengthof(before); i++)
			check_say(&check, before[i], CHECK_NOT_REACHED, NULL, NULL);
		check_keys(&check, all_keys, false);
		for (int i = 0; i < lengthof(after); i++)
			check_say(&check, after[i], CHECK_NOT_REACHED, NULL, NULL);
		check_duplicates(&check);
		check_capture(&check);
		return;
	}
	request = check.request;
	answer = kapture_http_perform(request, WaitEventExtensionNew("KaptureHttp"));
	answered = GetCurrentTimestamp();
	kapture_http_details(request, &details);
	check_connection(&check, answer, &details);
	check_auth(&check, answer);
	check_keys(&check, all_keys, answer->outcome == KAPTURE_HTTP_ANSWERED);
	check_clock(&check, &details, answered);
	check_time(&check, answer, &details);
	check_duplicates(&check);
	check_capture(&check);
	kapture_http_release(request);
}

/*
 * kapture_check(server name, all_keys boolean)
 *		returns table(step text, ok boolean, detail text, hint text)
 *
 * Uses the caller's mapping, else PUBLIC's.  "all_keys": Add and Update are tried,
 * too.  Errors: 22004 an argument is NULL; a cancelled query.
 */
Datum
kapture_check_1_1(PG_FUNCTION_ARGS)
{
	kapture_argument_check_null(fcinfo, 1, "all_keys");
	check_run(fcinfo, true, PG_GETARG_BOOL(1));
	PG_RETURN_NULL();
}

/*
 * kapture_check(server name) returns table(step text, ok boolean, detail text)
 *
 * Of version 1.0.
 */
Datum
kapture_check(PG_FUNCTION_ARGS)
{
	check_run(fcinfo, false, false);
	PG_RETURN_NULL();
}
