/*
 * check_key.c
 *		Does a server accept the key of an API, and answer as Kapture does?
 *
 * Each API has a key of its own, and each is tried by a request that does nothing:
 * a search for nobody, a pull of a second in which there was nobody, an Add and an
 * Update that Kapture must refuse for lack of all that is required.
 */
#include "postgres.h"

#include "api/reply.h"
#include "base/compat.h"
#include "fetch/fetch.h"
#include "observe/check_key.h"

/* Nobody has this id. */
#define CHECK_NOBODY		"0"

/* A day from before there was a Kapture. */
#define CHECK_LONG_AGO		((Timestamp) 0 - 7305 * USECS_PER_DAY)

/*
 * kapture_check_key_body
 *		The body of a request that does nothing, in the account's form; palloc'ed.
 */
char *
kapture_check_key_body(const KaptureServer *server, KaptureApi api, size_t *len)
{
	const char *body;

	switch (api)
	{
		case KAPTURE_API_ADD:
			body = "{\"customer_name\": \"\", \"phone\": \"\", \"email_id\": \"\"}";
			break;
		case KAPTURE_API_UPDATE:
			body = "{\"kapture_customer_id\": \"" CHECK_NOBODY "\"}";
			break;
		case KAPTURE_API_PULL:
			body = kapture_fetch_nobody_body(server, CHECK_LONG_AGO);
			break;
		default:
			body = "{\"kapture_customer_id\": \"" CHECK_NOBODY "\", \"customer_id\": \"\", \"email_id\": \"\", \"phone\": \"\"}";
			break;
	}
	return kapture_message_body(server, api, body, strlen(body), len);
}

/* What to do about an answer that does not accept the key. */
static const char *
check_key_hint(KaptureApi api, int status, const KaptureReply *reply)
{
	const char *name = kapture_api_name(api);

	switch (reply->verdict)
	{
		case KAPTURE_DENIED:
			return status == 404 ?
				psprintf("Nothing is there: check options \"url\" and \"%s_path\" of the server, or set option \"dialect\", which has paths of its own.", name) :
				psprintf("The key of this API is wrong, has expired or may not do this: set \"%s_auth_key\", or \"auth_key\", in the user mapping; an account that wants it in a header has \"%s_headers\" there.", name, name);
		case KAPTURE_MISFIT:
			return api == KAPTURE_API_ADD || api == KAPTURE_API_UPDATE ?
				psprintf("The account wants another form of body: set option \"%s_body\" or \"dialect\" of the server.", name) :
				api == KAPTURE_API_PULL ?
				"The account wants another form of pull: set option \"pull_form\" of the server." :
				"The account wants another form of search: check option \"get_path\" of the server.";
		case KAPTURE_THROTTLED:
			return "Kapture wants fewer requests: set option \"rate_limit\" of the server.";
		case KAPTURE_SUCCESS:
			return "Look in Kapture for an empty customer, and remove it.";
		case KAPTURE_BROKEN:
			return "Kapture, or a proxy in front of it, is failing: try again later. If that continues, check option \"url\" of the server.";
		case KAPTURE_REFUSED:
			if (api == KAPTURE_API_PULL)
				return "Kapture's message may be about the form of pulls: check options \"pull_form\", \"cm_id\" and \"pull_limit\" of the server.";
			pg_fallthrough;
		default:
			return "Kapture's message is about the account or its options, which docs/your-account.md explains.";
	}
}

/* What to do about a request that got no whole answer. */
static const char *
check_key_no_answer_hint(const KaptureHttpAnswer *answer)
{
	if (answer->option)
		return psprintf("Raise option \"%s\" of the server, or find out why it is slow.", answer->option);
	return "The connection was lost: the port may speak another protocol, such as TLS (https in option \"url\"), or something on the way breaks it off.";
}

/*
 * kapture_check_key_judge
 *		Does the answer to a request of kapture_check_key_body() mean that the key is
 *		accepted?
 *
 * Fills in *detail, and *hint if it does not; palloc'ed or static.
 */
bool
kapture_check_key_judge(KaptureApi api, const KaptureHttpAnswer *answer,
						const char **detail, const char **hint)
{
	bool		is_write = api == KAPTURE_API_ADD || api == KAPTURE_API_UPDATE;
	char	   *why = NULL;
	Jsonb	   *json;
	KaptureReply reply = {0};

	*hint = NULL;
	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
	{
		*detail = psprintf("%s, while %s%s%s", answer->detail, answer->phase,
						   answer->option ? "; see option " : "", answer->option ? answer->option : "");
		*hint = check_key_no_answer_hint(answer);
		return false;
	}
	json = kapture_message_parse(answer->body, answer->body_len, NULL, &why);
	kapture_message_judge(api, answer->status, json, NULL, &reply);
	if (is_write ? reply.verdict == KAPTURE_REFUSED && json != NULL :
		reply.verdict == KAPTURE_NOT_FOUND || reply.verdict == KAPTURE_SUCCESS)
	{
		*detail = is_write ?
			psprintf("the key was accepted, the empty %s request refused: %s", kapture_api_name(api), reply.message) :
			psprintf("the %s request was accepted", kapture_api_name(api));
		return true;
	}
	if (json == NULL)
	{
		*detail = psprintf("the answer is not JSON (HTTP code %d); see option url", answer->status);
		*hint = answer->status == 404 ? check_key_hint(api, answer->status, &reply) :
			"The answer is not Kapture's: check option \"url\" of the server. If the port speaks TLS, it must begin with https.";
	}
	else
	{
		*detail = reply.verdict == KAPTURE_SUCCESS ?
			psprintf("an empty %s request was accepted, which should have been refused", kapture_api_name(api)) :
			psprintf("HTTP code %d: %s", answer->status, reply.message ? reply.message : "");
		*hint = check_key_hint(api, answer->status, &reply);
	}
	return false;
}
