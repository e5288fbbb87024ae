/*
 * message.c
 *		Kapture's language: request bodies out, answers in.  No I/O.
 *
 * Real answers differ from the document in small things: raw line breaks in
 * strings, ids as numbers or strings, keys as "Kapture Customer Id", messages
 * with line breaks and leading commas.  Those are accepted; all else that is
 * not JSON is refused.
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"

#include "compat.h"
#include "message.h"

/* ------------------------------------------------------------------------
 * Requests
 * ------------------------------------------------------------------------
 */

/*
 * Converts text of the server's encoding to UTF-8, palloc'ed.
 */
char *
kapture_message_to_utf8(const char *text, size_t *len)
{
	char	   *result = pg_server_to_any(text, strlen(text), PG_UTF8);

	if (result == text)
		result = pstrdup(text);
	*len = strlen(result);
	return result;
}

/*
 * Appends "name": "value" to a JSON object that is being built, with a comma
 * if it is not the first member.  Name and value are of the server's encoding,
 * the body is UTF-8.
 */
void
kapture_message_append_field(StringInfo body, const char *name, const char *value)
{
	size_t		len;

	if (body->len > 0 && body->data[body->len - 1] != '{')
		appendStringInfoString(body, ", ");
	escape_json(body, kapture_message_to_utf8(name, &len));
	appendStringInfoString(body, ": ");
	escape_json(body, kapture_message_to_utf8(value, &len));
}

/*
 * Writes a time as Kapture wants it: YYYY-MM-DD hh:mm:ss.
 */
char *
kapture_message_date(Timestamp when)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(when, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	return psprintf("%04d-%02d-%02d %02d:%02d:%02d", tm.tm_year, tm.tm_mon, tm.tm_mday,
					tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* ------------------------------------------------------------------------
 * Answers
 * ------------------------------------------------------------------------
 */

/* Copies JSON text, with control characters inside strings escaped. */
static void
message_escape_controls(StringInfo dst, const char *src, size_t len)
{
	bool		in_string = false;
	bool		escaped = false;

	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = (unsigned char) src[i];

		if (in_string && c < 0x20)
		{
			/* a backslash before it cannot be meant to escape it */
			if (escaped)
				dst->data[--dst->len] = '\0';
			appendStringInfo(dst, "\\u%04x", c);
			escaped = false;
			continue;
		}
		appendStringInfoCharMacro(dst, c);
		if (escaped)
			escaped = false;
		else if (in_string && c == '\\')
			escaped = true;
		else if (c == '"')
			in_string = !in_string;
	}
}

/*
 * Reads an answer's body.  Returns NULL with *why set if it is no JSON; errors
 * only if it is JSON that PostgreSQL cannot hold (\u0000, numbers beyond all
 * bounds, nested too deeply, not convertible to the server's encoding).
 */
Jsonb *
kapture_message_parse(const char *utf8, size_t len, char **why)
{
	StringInfoData text;
	char	   *json;
	JsonLexContext *lex;
	JsonParseErrorType error;

	*why = NULL;
	if (len >= 3 && memcmp(utf8, "\xef\xbb\xbf", 3) == 0)
	{
		utf8 += 3;				/* byte order mark */
		len -= 3;
	}
	if (len == 0)
	{
		*why = pstrdup("The answer is empty.");
		return NULL;
	}
	if (len > MaxAllocSize / 6 || !pg_verify_mbstr(PG_UTF8, utf8, len, true))
	{
		*why = pstrdup("The answer is not valid UTF-8.");
		return NULL;
	}

	initStringInfo(&text);
	message_escape_controls(&text, utf8, len);
	json = pg_any_to_server(text.data, text.len, PG_UTF8);
	lex = kapture_make_json_lexer(json, strlen(json), GetDatabaseEncoding());
	error = pg_parse_json(lex, &nullSemAction);
	if (error == JSON_UNICODE_CODE_POINT_ZERO || error == JSON_UNICODE_UNTRANSLATABLE)
		json_ereport_error(error, lex);
	if (error != JSON_SUCCESS)
	{
		*why = json_errdetail(error, lex);
		return NULL;
	}
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
}

/* Compares a key with a name, ignoring case, spaces and underscores. */
static bool
message_key_matches(const char *key, int len, const char *name)
{
	int			i = 0;

	for (;;)
	{
		while (i < len && (key[i] == ' ' || key[i] == '_'))
			i++;
		while (*name == ' ' || *name == '_')
			name++;
		if (i == len || *name == '\0')
			return i == len && *name == '\0';
		if (pg_tolower((unsigned char) key[i]) != pg_tolower((unsigned char) *name))
			return false;
		i++;
		name++;
	}
}

/* Finds a member of an object by its name; false if there is none. */
static bool
message_find(JsonbContainer *object, const char *name, JsonbValue *value)
{
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;

	if (!JsonContainerIsObject(object))
		return false;
	it = JsonbIteratorInit(object);
	(void) JsonbIteratorNext(&it, &v, true);
	while ((token = JsonbIteratorNext(&it, &v, true)) == WJB_KEY)
	{
		bool		match = message_key_matches(v.val.string.val, v.val.string.len, name);

		(void) JsonbIteratorNext(&it, &v, true);
		if (match)
		{
			*value = v;
			return true;
		}
	}
	return false;
}

/* An id given as number or string; 0 if it is none that fits. */
static int64
message_id(const JsonbValue *value)
{
	char	   *text;
	char	   *end;
	int64		id;

	if (value->type == jbvNumeric)
		text = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	else if (value->type == jbvString)
		text = pnstrdup(value->val.string.val, value->val.string.len);
	else
		return 0;
	errno = 0;
	id = strtoll(text, &end, 10);
	while (*end == ' ')
		end++;
	return errno != 0 || *end != '\0' || end == text || id < 0 ? 0 : id;
}

/* The id in a member of an object, 0 if there is none. */
static int64
message_find_id(JsonbContainer *object, const char *name)
{
	JsonbValue	value;

	return message_find(object, name, &value) ? message_id(&value) : 0;
}

/* The id of one customer, or of all in a list if it is the same; else 0. */
static int64
message_customer_id(const JsonbValue *details)
{
	JsonbContainer *container;
	int64		id = 0;

	if (details->type != jbvBinary)
		return 0;
	container = details->val.binary.data;
	if (JsonContainerIsObject(container))
		return message_find_id(container, "id");
	for (uint32 i = 0; i < JsonContainerSize(container); i++)
	{
		JsonbValue *elem = getIthJsonbValueFromContainer(container, i);
		int64		this = elem->type == jbvBinary ? message_find_id(elem->val.binary.data, "id") : 0;

		if (this == 0 || (id != 0 && id != this))
			return 0;
		id = this;
	}
	return id;
}

/* Kapture's id of the customer an answer is about. */
static int64
message_answer_id(KaptureApi api, JsonbContainer *root)
{
	JsonbValue	value;
	int64		id = 0;

	if (api == KAPTURE_API_GET)
		return message_find(root, "customer details", &value) ? message_customer_id(&value) : 0;
	if (message_find(root, "enquiry", &value) && value.type == jbvBinary)
		id = message_find_id(value.val.binary.data, "kapture customer id");
	return id ? id : message_find_id(root, "kapture customer id");
}

/* Kapture's words, on one line and without what surrounds them. */
static char *
message_text(JsonbContainer *root)
{
	JsonbValue	value;
	StringInfoData text;
	int			i = 0;

	initStringInfo(&text);
	if ((!message_find(root, "message", &value) || value.type != jbvString) &&
		(!message_find(root, "customer details", &value) || value.type != jbvString))
		return text.data;

	while (i < value.val.string.len && strchr(" ,\r\n\t", value.val.string.val[i]))
		i++;
	for (; i < value.val.string.len; i++)
	{
		unsigned char c = (unsigned char) value.val.string.val[i];

		if (c > 0x20)
			appendStringInfoChar(&text, c);
		else if (text.len > 0 && text.data[text.len - 1] != ' ')
			appendStringInfoChar(&text, ' ');
	}
	while (text.len > 0 && text.data[text.len - 1] == ' ')
		text.data[--text.len] = '\0';
	return text.data;
}

static bool
message_says(const char *text, const char *what)
{
	size_t		len = strlen(what);

	for (; *text; text++)
	{
		if (pg_strncasecmp(text, what, len) == 0)
			return true;
	}
	return false;
}

/* What "failed" stands for. */
static KaptureVerdict
message_judge_failed(KaptureApi api, const char *text)
{
	if (message_says(text, "already exist"))
	{
		bool		email = message_says(text, "email");
		bool		phone = message_says(text, "mobile") || message_says(text, "phone");

		return email == phone ? KAPTURE_DUPLICATE_BOTH :
			email ? KAPTURE_DUPLICATE_EMAIL : KAPTURE_DUPLICATE_PHONE;
	}
	if (api == KAPTURE_API_GET && message_says(text, "does not exist"))
		return KAPTURE_NOT_FOUND;
	if (api == KAPTURE_API_PULL && message_says(text, "no customer between"))
		return KAPTURE_NOT_FOUND;
	return KAPTURE_REFUSED;
}

/* What the HTTP code alone stands for. */
static KaptureVerdict
message_judge_status(int status)
{
	switch (status)
	{
		case 401:
		case 403:
		case 404:
			return KAPTURE_DENIED;
		case 429:
			return KAPTURE_THROTTLED;
		default:
			return KAPTURE_BROKEN;
	}
}

/*
 * Works out what an answer means, from its HTTP code and its JSON, which is
 * NULL if it has none.  reply->message is palloc'ed, never NULL.
 */
void
kapture_message_judge(KaptureApi api, int status, Jsonb *answer, KaptureReply *reply)
{
	JsonbValue	value;
	JsonbContainer *root = answer ? &answer->root : NULL;
	bool		success = false;
	bool		failed = false;

	reply->verdict = message_judge_status(status);
	reply->customer_id = 0;
	reply->message = pstrdup("");
	if (root == NULL || !JsonContainerIsObject(root))
		return;

	reply->message = message_text(root);
	if (message_says(reply->message, "invalid auth key"))
		reply->verdict = KAPTURE_DENIED;
	if (reply->verdict != KAPTURE_BROKEN || status >= 500)
		return;

	if (message_find(root, "status", &value) && value.type == jbvString)
	{
		success = value.val.string.len == 7 && pg_strncasecmp(value.val.string.val, "success", 7) == 0;
		failed = value.val.string.len == 6 && pg_strncasecmp(value.val.string.val, "failed", 6) == 0;
	}
	if (success && status >= 200 && status < 300)
	{
		reply->customer_id = message_answer_id(api, root);
		if (reply->customer_id != 0 || api == KAPTURE_API_UPDATE || api == KAPTURE_API_PULL)
			reply->verdict = KAPTURE_SUCCESS;
	}
	else if (failed || status == 400)
		reply->verdict = message_judge_failed(api, reply->message);
}
