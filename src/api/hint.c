/*
 * hint.c
 *		kapture_hint(): what to do about a failure, in plain words.
 *
 * Kapture's messages are known from the failure tables of its document; the
 * extension's are those that task.c, row_io.c and worker.c leave in
 * kapture_delivery.  Texts are compared without regard to case, line breaks and the
 * text around them, since Kapture is not strict about these.  The HTTP code decides
 * for answers without a known message.
 */
#include "postgres.h"

#include "fmgr.h"
#include "parser/scansup.h"
#include "utils/builtins.h"

#include "api/hint.h"
#include "api/words.h"
#include "base/compat.h"

PG_FUNCTION_INFO_V1(kapture_hint);
PG_FUNCTION_INFO_V1(kapture_hint_1_1);

#define HINT_REMOVED \
	"Kapture has no customer with the row's id, or has removed it: set the id to NULL, or use kapture_forget_id where the extension keeps it, then kapture_retry, and the row is added, or linked by its phone and email"

/*
 * A message with all of "words", in lower case, is explained by "hint", or, as
 * the answer to an Update, by "update" if there is one.
 */
static const struct
{
	const char *words[3];
	const char *hint;
	const char *update;
}			hint_messages[] =
{
	/* Add and Update */
	{{"name and (phone number or email id) are required"},
	"the row needs customer_name, and phone or email_id"},
	{{"invalid email"},
	"email_id must be an email address, such as name@example.com"},
	{{"invalid phone number"},
	"phone must have 10 digits and start with 6-9"},
	{{"both email and mobile number already exist"},
	"another customer has this phone, and one has this email_id: change them, or attach with on_duplicate => 'link'",
	"another customer has this phone, and one has this email_id: change them, here or in Kapture"},
	{{"mobile number already exists"},
	"another customer has this phone: change it, or attach with on_duplicate => 'link'",
	"another customer has this phone: change it, here or in Kapture"},
	{{"email-id already exists"},
	"another customer has this email_id: change it, or attach with on_duplicate => 'link'",
	"another customer has this email_id: change it, here or in Kapture"},
	{{"customer does not exist"},
	HINT_REMOVED},

	/* Get and Pull */
	{{"information given by you does not exist"},
	"Kapture knows no such customer: kapture_customer_id is not one of this account, or the customer was removed",
	HINT_REMOVED},
	{{"no customer between dates"},
	"there are no customers in that range, or a date is not valid"},

	/* the worker */
	{{"kapture cannot read the body of the"},
	"the account wants another form of body: set the option of the server that the message names, and the queue continues automatically"},
	{{"kapture denies this row's", "though it takes those of others"},
	"Kapture, or a firewall before it, refuses what is in this row: correct it, and it is sent again automatically, or have the rule changed, then kapture_retry"},
	{{"kapture added the customer, but did not", "and there is neither phone"},
	"find the customer in Kapture, and write its id into the row; then map phone or email_id"},
	{{"kapture added the customer, but did not"},
	"nothing: Kapture's search may lag behind, and the id is looked up again automatically"},
	{{"the phone belongs to kapture customer", "the email to"},
	"phone and email_id belong to two customers: correct one of them, or merge the two in Kapture"},
	{{"belongs to the row with key", "already"},
	"two rows share this phone or email: change or delete one of them; when the other one's phone or email changes, or it is deleted, this row is retried automatically"},
	{{"belongs to a row of another owner's table already"},
	"two rows share this phone or email, and the other one is not yours: change this one, or ask for the other to be changed"},
	{{"has this phone or email; its row", "was deleted or has left"},
	"where the two rows were merged, merge their customers in Kapture, too, or give that customer another phone or email there; then kapture_retry"},
	{{"was taken over by", "while this row was outside"},
	"another row has this one's customer: set the id of this row to NULL, then kapture_retry, and it is added as a customer of its own; if the other row is deleted or leaves, this row is retried automatically"},
	{{"still has this phone or email", "had before"},
	"nothing, while the other row's change is under way: this row follows automatically; if it waits, too (see kapture_failures), give one of the two another phone or email first, as Kapture cannot exchange them"},
	{{"which has this phone or email", "is being added"},
	"nothing: the row is retried automatically; if the other row gets this phone or email, change or delete one of the two"},
	{{"an update of the deleted row", "may still be carried out"},
	"nothing: the row gets that customer as soon as the Update can no longer be running"},
	{{"kapture's answer is about another customer"},
	"nothing: the row is looked up and retried automatically; if that continues, a proxy in front of Kapture mixes up answers"},
	{{"kapture's answer has two customer ids"},
	"nothing: the row is looked up and retried automatically; if that continues, ask Kapture"},
	{{"does not find it by phone or email"},
	"nothing: Kapture's search may lag behind, and the row is tried again"},
	{{"the row is locked"},
	"nothing: a transaction holds the row, and the id is written when it ends"},
	{{"come first; the kapture customer id"},
	"nothing: triggers or locks of the owner's tables have taken much of the worker's time, and the id is written when it is their turn"},
	{{"view", "has several rows with this key"},
	"have the view show each row of the table once, for example with DISTINCT ON, or LIMIT 1 in a lateral subquery; the row is sent again when it changes, or by kapture_retry"},
	{{"value", "too long: ", "column"},
	"at most 1 MB of a value and 2 MB of a row are sent: shorten it, or map other columns"},
	{{"took longer than", "s"},
	"a trigger, check, cast or rule of the table, or the view that its values come from, is too slow: make it faster, then kapture_retry"},
	{{"took no notice of being cancelled"},
	"a trigger, check, cast or rule of the table catches query_canceled and goes on: have it end, then kapture_retry"},
	{{"take too much memory", "had to end for it"},
	"reduce the number or size of the functions that triggers, checks, casts and rules of the table call, then kapture_retry"},
	{{"raised a fatal error", "had to end for it"},
	"a trigger, check, cast or rule of the table ends the process that runs it: the server log has its error; change it, then kapture_retry"},
	{{"in place of the kapture customer id"},
	"a trigger of the table keeps the id from being written: let it pass changes of the id column, then kapture_retry"},
	{{"changed no row"},
	"a trigger or rule of the table keeps the id from being written: let it pass changes of the id column, then kapture_retry"},
	{{"code of role", "must not run as role"},
	"give what is named to the table's owner or a superuser (ALTER ... OWNER TO), or the table to its owner, or grant the role it would run as; then kapture_retry"},
	{{"condition of trigger", "must not call"},
	"move the condition into the trigger's function, or call no functions in it that are volatile or not for everybody; then kapture_retry"},
	{{"must not give arguments to function"},
	"call what it does in a function of the table's owner, or have the table belong to a role that is not a superuser, and nobody else hold TRIGGER on it; then kapture_retry"},
	{{"expressions of a table must not call"},
	"a check, default, domain or rule of the table calls it: call it in a function or a trigger of the table's owner; then kapture_retry"},
	{{"a rule of table", "must not use relation"},
	"have a trigger do what the rule does, and drop the rule; then kapture_retry"},
	{{"the primary key of table", "has changed"},
	"detach the table and attach it again"},
	{{"no answer from kapture", "resolving the host name"},
	"the host name is not found: check option url of the server, and kapture_check"},
	{{"no answer from kapture", "tls handshake", "connect_timeout"},
	"the port may not speak TLS, or the host is too slow: check option url of the server, with kapture_check; the row is retried automatically"},
	{{"no answer from kapture", "tls handshake"},
	"the certificate or TLS is not accepted: see kapture_check, and option ca_file of the server"},
	{{"no answer from kapture", "connecting"},
	"Kapture cannot be reached: check network and firewall with kapture_check; the row is retried automatically"},
	{{"no answer from kapture", "max_response_size"},
	"the answer is larger than option max_response_size of the server allows"},
	{{"no answer from kapture", "a background process takes"},
	"have Kapture answer with less at a time: shorter windows (option pull_window of the server), or smaller pages (pull_limit)"},
	{{"no answer from kapture", "allow_http"},
	"plain http to another host: use https in option url of the server"},
	{{"no answer from kapture"},
	"nothing: Kapture did not answer in time or broke off, and the row is retried automatically"},
};

/*
 * What is wrong with TLS, as messages have it after the phase that failed, and what to
 * do about it.
 */
static const struct
{
	const char *words;
	const char *hint;
}			hint_tls[] =
{
	[KAPTURE_TLS_NONE] = {NULL, NULL},
	[KAPTURE_TLS_UNTRUSTED] = {"its issuer is not trusted here",
	"if the certificate is self-signed, or a private authority issued it, name the file of its own, or of that authority's certificate in option \"ca_file\" of the server"},
	[KAPTURE_TLS_OTHER_HOST] = {"the certificate is another host's",
	"the certificate is another host's: option \"url\" of the server must have the name that is in it"},
	[KAPTURE_TLS_EXPIRED] = {"the certificate has expired",
	"the certificate has expired: have whoever runs the host renew it"},
	[KAPTURE_TLS_NOT_YET_VALID] = {"the certificate is not valid yet",
	"the certificate is not valid yet: see whether this host's clock is right"},
	[KAPTURE_TLS_CERTIFICATE] = {"the certificate is not accepted",
	"the certificate is not accepted: have whoever runs the host replace it; if a private authority issued it, name the file of that authority's certificate in option \"ca_file\" of the server"},
	[KAPTURE_TLS_NO_TLS] = {"the port does not speak TLS",
	"the port does not speak TLS: check the port in option \"url\" of the server"},
	[KAPTURE_TLS_OTHER] = {NULL,
	"the port may not speak TLS, or not the versions that are allowed: check option \"url\" of the server"},
};

#define HINT_KEY \
	"the key is wrong or has expired: ALTER USER MAPPING ... OPTIONS (SET auth_key '...'), and the queue continues automatically"

#define HINT_REFUSED \
	"Kapture refuses the row: if its words are about the row's values, correct it, and it is sent again automatically; if they are about the account, kapture_retry when that is put right"

#define HINT_SEARCH \
	"Kapture refuses the search: compare options get_path and get_field_names of the server with what the account wants; the row is retried automatically"

/* Are these Kapture's own words for a refusal, in an answer with an HTTP code of success? */
static bool
hint_is_refusal(const char *normal, int status, const char *api)
{
	return status >= 200 && status < 300 && api[0] != '\0' && normal && normal[0] != '\0' && strncmp(normal, "kapture answered with", strlen("kapture answered with")) != 0 &&
		strncmp(normal, "kapture's answer", strlen("kapture's answer")) != 0;
}

/* What an HTTP code alone says. */
static const char *
hint_of_status(int status)
{
	switch (status)
	{
		case 0:
			return NULL;
		case 401:
			return HINT_KEY;
		case 403:
			return "Kapture refuses this key or this host's address: ask Kapture to allow them";
		case 404:
			return "the address is wrong: check option url of the server and its paths";
		case 429:
			return "nothing: Kapture wants fewer requests, and the queue waits; option rate_limit of the server avoids it";
		default:
			break;
	}
	if (status >= 500)
		return "nothing: Kapture failed, and the row is retried automatically; if it is this row alone, ask Kapture";
	if (status >= 300 && status < 400)
		return "the address has moved: check option url of the server; redirects are not followed";
	if (status >= 400)
		return HINT_REFUSED;
	return "the answer is not Kapture's: check option url of the server";
}

/* In lower case, each run of white space one space; palloc'ed. */
static char *
hint_normalize(const char *message)
{
	char	   *result = palloc(strlen(message) + 1);
	char	   *to = result;

	for (const char *p = message; *p; p++)
	{
		if (!scanner_isspace(*p))
			*to++ = pg_ascii_tolower((unsigned char) *p);
		else if (to > result && to[-1] != ' ')
			*to++ = ' ';
	}
	*to = '\0';
	return result;
}

/* What to do if a message says what is wrong with TLS; NULL: it does not. */
static const char *
hint_of_tls(const char *normal)
{
	const char *after = strstr(normal, "tls handshake failed: ");

	for (int i = 0; after && i < lengthof(hint_tls); i++)
	{
		if (hint_tls[i].words && strstr(after, hint_normalize(hint_tls[i].words)))
			return hint_tls[i].hint;
	}
	return NULL;
}

/*
 * kapture_hint_tls_words
 *		Why no TLS connection came about, in words that kapture_hint_find() recognizes;
 *		NULL if TLS did not fail, or the reason is not known.  Static.
 */
const char *
kapture_hint_tls_words(KaptureTlsFault fault)
{
	return hint_tls[fault].words;
}

/*
 * kapture_hint_tls
 *		What to do about a TLS fault, as a part of a sentence; NULL if TLS did not
 *		fail.  Static.
 */
const char *
kapture_hint_tls(KaptureTlsFault fault)
{
	return hint_tls[fault].hint;
}

/*
 * kapture_hint_sentence
 *		Makes a whole sentence of a hint that is a part of a sentence;
 *		palloc'ed.
 */
char *
kapture_hint_sentence(const char *hint)
{
	char	   *sentence = psprintf("%s.", hint);

	sentence[0] = pg_ascii_toupper((unsigned char) sentence[0]);
	return sentence;
}

/*
 * kapture_hint_find
 *		What to do about a failure, as a part of a sentence; NULL if no hint is
 *		known.
 *
 * "message" may be NULL.  "status" is the HTTP code, 0 if there is none.  "api"
 * is the call that failed, "" if that is not known, NULL if no call failed: then
 * the message comes from the table or from the extension.
 */
const char *
kapture_hint_find(const char *message, int status, const char *api)
{
	char	   *normal = message ? hint_normalize(message) : NULL;
	const char *tls = normal ? hint_of_tls(normal) : NULL;

	if (tls)
		return tls;
	for (int i = 0; normal && i < lengthof(hint_messages); i++)
	{
		bool		all = true;

		for (int w = 0; w < lengthof(hint_messages[i].words) && hint_messages[i].words[w]; w++)
			all &= strstr(normal, hint_messages[i].words[w]) != NULL;
		if (all)
			return hint_messages[i].update && api && strcmp(api, "update") == 0 ?
				hint_messages[i].update : hint_messages[i].hint;
	}
	if (api != NULL && message)
	{
		switch (kapture_words_mean(KAPTURE_API_ADD, message))
		{
			case KAPTURE_MEANS_BAD_KEY:
				return HINT_KEY;
			case KAPTURE_MEANS_TOO_MANY:
				return hint_of_status(429);
			case KAPTURE_MEANS_FAULT:
				return hint_of_status(500);
			default:
				break;
		}
	}
	if (api == NULL)
		return message ? "the table, or a trigger, check or cast of it, raises this error: correct the table or the row, then kapture_retry" : NULL;
	if (hint_is_refusal(normal, status, api))
		return strcmp(api, "get") == 0 ? HINT_SEARCH : HINT_REFUSED;
	return hint_of_status(status);
}

static Datum
hint_result(FunctionCallInfo fcinfo, const char *api)
{
	char	   *message = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	const char *hint = kapture_hint_find(message, PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1), api);

	if (hint == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(hint));
}

/*
 * kapture_hint(message text, http_status integer) returns text
 *
 * NULL if no hint is known.  Both arguments may be NULL.
 */
Datum
kapture_hint(PG_FUNCTION_ARGS)
{
	return hint_result(fcinfo, "");
}

/*
 * kapture_hint(message text, http_status integer, api text) returns text
 *
 * NULL if no hint is known.  All arguments may be NULL; api as in kapture_failures.
 */
Datum
kapture_hint_1_1(PG_FUNCTION_ARGS)
{
	return hint_result(fcinfo, PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2)));
}
