/*
 * error.c
 *		The errors about requests that did not get the answer they wanted.
 *
 * Keys never show in messages, and customers' data neither, but for the
 * beginning of an answer that is not Kapture's at all.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "api/error.h"
#include "api/hint.h"
#include "base/compat.h"

#define COMPLAINT_EXCERPT	200 /* bytes of a bad answer that are shown */
#define COMPLAINT_MAX_IDS	10	/* customers that are named */

/* May a request that got no good answer have changed something at Kapture? */
static const char *
complaint_doubt(KaptureApi api)
{
	return api == KAPTURE_API_ADD || api == KAPTURE_API_UPDATE || api == KAPTURE_API_MODULE ?
		" Kapture may or may not have carried it out." : "";
}

/* What to do about a limit that was hit, or about no connection. */
static int
complaint_hint(const KaptureServer *server, KaptureApi api, const KaptureHttpAnswer *answer)
{
	const char *option = answer->option != NULL ? answer->option : "";

	if (strcmp(option, "timeout") == 0)
		return errhint("The limit is option \"%s\" of the server, %d ms.",
					   option, server->timeout);
	if (strcmp(option, "connect_timeout") == 0 && strcmp(answer->phase, "the TLS handshake") == 0)
		return errhint("The port may not speak TLS: check option \"%s\" of the server. The limit is option \"%s\", %d ms.",
					   "url", option, server->connect_timeout);
	if (strcmp(option, "connect_timeout") == 0)
		return errhint("The limit is option \"%s\" of the server, %d ms.",
					   option, server->connect_timeout);
	if (strcmp(option, "max_response_size") == 0)
		return errhint("The limit is option \"%s\" of the server, %lld bytes.",
					   option, (long long) server->max_response_size);
	if (strcmp(option, "ca_file") == 0)
		return errhint("Option \"%s\" of the server must name a file of certificates in PEM format.",
					   option);
	if (strcmp(option, "allow_http") == 0)
		return errhint("Use https, or set option \"%s\" of the server to true.",
					   option);
	if (answer->tls != KAPTURE_TLS_NONE)
		return errhint("%s", kapture_hint_sentence(kapture_hint_tls(answer->tls)));
	if (answer->outcome == KAPTURE_HTTP_NOT_SENT)
		return errhint("Check option \"%s\" of the server, and whether the database server can reach that host.",
					   "url");
	if (api == KAPTURE_API_ADD)
		return errhint("Look for the customer with kapture_get_customer() before you add it again.");
	return 0;
}

/*
 * kapture_complaint_in_words
 *		Why a request has no whole answer, as a text to store, in words that
 *		kapture_hint() knows; palloc'ed.
 */
char *
kapture_complaint_in_words(const KaptureHttpAnswer *answer)
{
	const char *fault = kapture_hint_tls_words(answer->tls);

	return psprintf("no answer from Kapture: %s%s%s%s%s failed%s%s)",
					answer->detail ? answer->detail : "", answer->detail ? " (" : "(",
					answer->phase ? answer->phase : "the request",
					answer->option ? ", limited by " : "", answer->option ? answer->option : "",
					fault ? ": " : "", fault ? fault : "");
}

/*
 * kapture_complaint_no_answer
 *		Raises the error about a request without a whole answer.
 *
 * Says how far the request came, which option set the limit that was hit, and
 * whether Kapture may have carried it out.  SQLSTATEs: see api/http.c.
 */
void
kapture_complaint_no_answer(const KaptureServer *server, KaptureApi api,
							const KaptureHttpAnswer *answer)
{
	bool		not_sent = answer->outcome == KAPTURE_HTTP_NOT_SENT;

	ereport(ERROR,
			(errcode(answer->sqlstate),
			 not_sent ?
			 errmsg("could not connect to server \"%s\"", server->name) :
			 errmsg("got no answer from server \"%s\"", server->name),
			 errdetail("The %s request failed in this phase: %s (%s).%s",
					   kapture_api_label(server, api), answer->phase, answer->detail,
					   not_sent ? "" : complaint_doubt(api)),
			 complaint_hint(server, api, answer)));
}

/*
 * The beginning of a body that is not JSON, on one line and in the database's
 * encoding; palloc'ed.  A body that looks as if it repeats the request's key is
 * not shown.
 */
static char *
complaint_excerpt(const KaptureServer *server, KaptureApi api,
				  const char *body, size_t len)
{
	const char *secrets[] = {server->auth_key[api], server->password, "Basic "};
	int			shown = Min(len, COMPLAINT_EXCERPT);
	bool		repeats = false;
	bool		is_text;
	StringInfoData out;

	/* a character that the body's end cuts off counts as if it were whole */
	if (GetDatabaseEncoding() == PG_UTF8)
		shown = Min(shown, pg_mbcliplen(body, Min(len, COMPLAINT_EXCERPT + MAX_MULTIBYTE_CHAR_LEN),
										COMPLAINT_EXCERPT));
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
		repeats |= secrets[i] != NULL && strstr(out.data, secrets[i]) != NULL;
	for (char **header = server->secret_headers[api]; header && *header; header++)
		repeats |= strstr(out.data, *header + strcspn(*header, ":") + 2) != NULL;
	return repeats ? pstrdup("(not shown, since it repeats the key)") : out.data;
}

/* What to do about an answer that is not JSON. */
static int
complaint_hint_status(KaptureApi api, int status)
{
	if (status >= 300 && status < 400)
		return errhint("Redirects are not followed: check option \"%s\" of the server.",
					   "url");
	if (status == 401 || status == 403)
		return errhint("Check the key in the user mapping.");
	if (status == 404 && api == KAPTURE_API_MODULE)
		return errhint("Check option \"%s\" of the server and the path, which option \"%s\" sets for a name.",
					   "url", "api_paths");
	if (status == 404)
		return errhint("Check options \"%s\" and \"%s_path\" of the server.",
					   "url", kapture_api_name(api));
	if (status == 429 || status >= 500)
		return errhint("Kapture, or a proxy before it, cannot answer now: try again later.");
	return errhint("Check option \"%s\" of the server: this may be the address of something else.",
				   "url");
}

/*
 * kapture_complaint_not_json
 *		Raises the error about an answer that is not JSON, for the reason
 *		"why" that kapture_message_parse() gave.  SQLSTATE HV00M.
 */
void
kapture_complaint_not_json(const KaptureServer *server, KaptureApi api,
						   const KaptureHttpAnswer *answer, const char *why)
{
	bool		refused = answer->status >= 400 && answer->status < 500;

	ereport(ERROR,
			(errcode(ERRCODE_FDW_UNABLE_TO_CREATE_REPLY),
			 errmsg("answer of server \"%s\" is not JSON", server->name),
			 answer->body_len == 0 ?
			 errdetail("The answer to the %s request has HTTP code %d and is empty.%s",
					   kapture_api_label(server, api), answer->status,
					   refused ? "" : complaint_doubt(api)) :
			 errdetail("The answer to the %s request has HTTP code %d; %s. It begins with: %s%s",
					   kapture_api_label(server, api), answer->status, why,
					   complaint_excerpt(server, api, answer->body, answer->body_len),
					   refused ? "" : complaint_doubt(api)),
			 complaint_hint_status(api, answer->status)));
}

/* What to do about an answer that says no. */
static int
complaint_hint_failed(KaptureApi api, int status, const KaptureReply *reply)
{
	bool		is_write = api == KAPTURE_API_ADD || api == KAPTURE_API_UPDATE;

	switch (reply->verdict)
	{
		case KAPTURE_DENIED:
			return complaint_hint_status(api, status < 300 ? 401 : status);
		case KAPTURE_MISFIT:
			return is_write ?
				errhint("The account may want another form of body: check options \"%s_body\" and \"dialect\" of the server.", kapture_api_name(api)) :
				errhint("The account may want another form of body: check options \"%s_path\" and \"pull_form\" of the server.", kapture_api_name(api));
		case KAPTURE_DUPLICATE_PHONE:
		case KAPTURE_DUPLICATE_EMAIL:
		case KAPTURE_DUPLICATE_BOTH:
			return errhint("Another customer has this phone or email: find them with kapture_get_customer().");
		case KAPTURE_REFUSED:
			if (is_write)
				return errhint("What to do: %s.", kapture_hint_find(reply->message, 400, kapture_api_name(api)));
			if (api == KAPTURE_API_PULL && reply->message[0] != '\0')
				return errhint("Check options \"pull_form\", \"cm_id\" and \"pull_limit\" of the server: accounts want pulls in different forms.");
			pg_fallthrough;
		default:
			return status >= 300 ? complaint_hint_status(api, status) : 0;
	}
}

/*
 * kapture_complaint_failed
 *		Raises the error about an answer that is Kapture's, but not the one
 *		that was asked for.
 *
 * "status" is its HTTP code, "reply" what kapture_message_judge() made of it.
 * SQLSTATEs: 28000 the key is denied, 53400 too many requests, HV000 others.
 */
void
kapture_complaint_failed(const KaptureServer *server, KaptureApi api,
						 int status, const KaptureReply *reply)
{
	bool		denied = reply->verdict == KAPTURE_DENIED;
	bool		throttled = reply->verdict == KAPTURE_THROTTLED;

	ereport(ERROR,
			(errcode(denied ? ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION :
					 throttled ? ERRCODE_CONFIGURATION_LIMIT_EXCEEDED :
					 ERRCODE_FDW_ERROR),
			 denied ?
			 errmsg("server \"%s\" denied the %s request", server->name,
					kapture_api_label(server, api)) :
			 throttled ?
			 errmsg("server \"%s\" allows no more requests for now", server->name) :
			 errmsg("the %s request to server \"%s\" failed",
					kapture_api_label(server, api), server->name),
			 reply->message[0] != '\0' ?
			 errdetail("The answer has HTTP code %d. Kapture says: %s%s", status,
					   reply->message,
					   reply->verdict == KAPTURE_BROKEN ? complaint_doubt(api) : "") :
			 errdetail("The answer has HTTP code %d and no message.%s", status,
					   reply->verdict == KAPTURE_BROKEN ? complaint_doubt(api) : ""),
			 complaint_hint_failed(api, status, reply)));
}

/*
 * kapture_complaint_nameless
 *		Reports that "n" customers of an answer are left out, as they have no id that
 *		can be read.
 *
 * A warning, or in a background process a line in the log.
 */
void
kapture_complaint_nameless(const char *server, int n)
{
	ereport(AmBackgroundWorkerProcess() ? LOG : WARNING,
			(errmsg_plural("kapture_sync: the answer of server \"%s\" has %d customer without an id",
						   "kapture_sync: the answer of server \"%s\" has %d customers without an id",
						   n, server, n),
			 errdetail("An id is a whole number above 0. Whoever has none is left out.")));
}

/*
 * kapture_complaint_altered
 *		Reports that values of an answer were replaced, as the database cannot hold
 *		them, and in which customers; n = 0: in the one that the answer is about.
 *
 * A warning, or in a background process a line in the log.
 */
void
kapture_complaint_altered(const char *server, const int64 *ids, int n)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < Min(n, COMPLAINT_MAX_IDS); i++)
		appendStringInfo(&list, "%s" INT64_FORMAT, i > 0 ? ", " : "", ids[i]);
	if (n > COMPLAINT_MAX_IDS)
		appendStringInfoString(&list, " and others");
	ereport(AmBackgroundWorkerProcess() ? LOG : WARNING,
			(errmsg("kapture_sync: the answer of server \"%s\" has values that this database cannot hold", server),
			 n > 0 ?
			 errdetail_plural("They were replaced. %d customer has such values: %s.",
							  "They were replaced. %d customers have such values: %s.", n, n, list.data) :
			 errdetail("They were replaced.")));
	pfree(list.data);
}
