/*
 * plain_json.c
 *		JSON in which nothing is out of the ordinary, to jsonb at once.
 *
 * Nearly all answers are objects of plain strings, short integers and words.
 * For these, to make them fit for the database, to have PostgreSQL's parser say
 * whether they are JSON and to have it build jsonb, each in a pass of its own, takes
 * three times as long as to do it all in one.
 *
 * Whatever is not plain, or no JSON at all, is left to them: an escape, a control
 * character, a fraction, great depth or length, a text that is not valid in the
 * database's encoding.  So what is right is decided in one place, and nothing here
 * raises an error.
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"
#include "utils/numeric.h"

#include "base/compat.h"
#include "base/plain_json.h"

/* Bytes, and nested arrays and objects, that are still plain. */
#define PLAIN_MAX_SIZE		(1024 * 1024)
#define PLAIN_MAX_DEPTH		20

/* Digits that an int64 holds, whichever they are. */
#define PLAIN_MAX_DIGITS	18

typedef struct PlainJson
{
	const char *p;				/* what is looked at next */
	const char *end;
	int			depth;
	JsonbInState out;
} PlainJson;

static bool plain_value(PlainJson *json, JsonbIteratorToken token);

static void
plain_skip_space(PlainJson *json)
{
	while (json->p < json->end && (*json->p == ' ' || *json->p == '\t' || *json->p == '\n' || *json->p == '\r'))
		json->p++;
}

/* Goes past a character, and the space before it; false if another one stands there. */
static bool
plain_accept(PlainJson *json, char c)
{
	plain_skip_space(json);
	if (json->p == json->end || *json->p != c)
		return false;
	json->p++;
	return true;
}

/* Takes a string, behind its opening quote. */
static bool
plain_string(PlainJson *json, JsonbValue *value)
{
	const char *start = json->p;
	unsigned char seen = 0;

	while (json->p < json->end && *json->p != '"' && *json->p != '\\' && (unsigned char) *json->p >= 0x20)
		seen |= (unsigned char) *json->p++;
	if (json->p == json->end || *json->p != '"')
		return false;
	value->type = jbvString;
	value->val.string.val = unconstify(char *, start);
	value->val.string.len = json->p - start;
	json->p++;
	return !IS_HIGHBIT_SET(seen) ||
		(GetDatabaseEncoding() == PG_UTF8 && pg_verify_mbstr(PG_UTF8, start, value->val.string.len, true));
}

static bool
plain_integer(PlainJson *json, JsonbValue *value)
{
	bool		negative = *json->p == '-';
	const char *digits = negative ? json->p + 1 : json->p;
	int64		number = 0;

	for (json->p = digits; json->p < json->end && isdigit((unsigned char) *json->p); json->p++)
	{
		if (json->p - digits == PLAIN_MAX_DIGITS)
			return false;
		number = number * 10 + (*json->p - '0');
	}
	/* what else may stand behind digits makes them something else */
	if (json->p == digits || (*digits == '0' && json->p - digits > 1) ||
		(json->p < json->end && strchr(",]} \t\n\r", *json->p) == NULL))
		return false;
	value->type = jbvNumeric;
	value->val.numeric = int64_to_numeric(negative ? -number : number);
	return true;
}

/* Takes true, false or null. */
static bool
plain_word(PlainJson *json, JsonbValue *value)
{
	static const struct
	{
		const char *word;
		JsonbValue	value;
	}			words[] = {
		{"true", {.type = jbvBool,.val.boolean = true}},
		{"false", {.type = jbvBool,.val.boolean = false}},
		{"null", {.type = jbvNull}}
	};

	for (int i = 0; i < lengthof(words); i++)
	{
		size_t		len = strlen(words[i].word);

		if (json->end - json->p >= len && memcmp(json->p, words[i].word, len) == 0)
		{
			json->p += len;
			*value = words[i].value;
			return json->p == json->end || strchr(",]} \t\n\r", *json->p) != NULL;
		}
	}
	return false;
}

/* Takes what is between braces, behind the opening one. */
static bool
plain_object(PlainJson *json)
{
	pushJsonbValue(&json->out, WJB_BEGIN_OBJECT, NULL);
	if (!plain_accept(json, '}'))
	{
		do
		{
			JsonbValue	key;

			if (!plain_accept(json, '"') || !plain_string(json, &key) || !plain_accept(json, ':'))
				return false;
			pushJsonbValue(&json->out, WJB_KEY, &key);
			if (!plain_value(json, WJB_VALUE))
				return false;
		} while (plain_accept(json, ','));
		if (!plain_accept(json, '}'))
			return false;
	}
	pushJsonbValue(&json->out, WJB_END_OBJECT, NULL);
	return true;
}

/* Takes what is between brackets, behind the opening one. */
static bool
plain_array(PlainJson *json)
{
	pushJsonbValue(&json->out, WJB_BEGIN_ARRAY, NULL);
	if (!plain_accept(json, ']'))
	{
		do
		{
			if (!plain_value(json, WJB_ELEM))
				return false;
		} while (plain_accept(json, ','));
		if (!plain_accept(json, ']'))
			return false;
	}
	pushJsonbValue(&json->out, WJB_END_ARRAY, NULL);
	return true;
}

/* Takes a value, and puts a scalar where "token" says. */
static bool
plain_value(PlainJson *json, JsonbIteratorToken token)
{
	JsonbValue	value;
	bool		plain;

	plain_skip_space(json);
	if (json->p == json->end)
		return false;
	if (*json->p == '{' || *json->p == '[')
	{
		bool		object = *json->p++ == '{';

		plain = json->depth++ < PLAIN_MAX_DEPTH && (object ? plain_object(json) : plain_array(json));
		json->depth--;
		return plain;
	}
	if (*json->p == '"')
	{
		json->p++;
		plain = plain_string(json, &value);
	}
	else if (*json->p == '-' || isdigit((unsigned char) *json->p))
		plain = plain_integer(json, &value);
	else
		plain = plain_word(json, &value);
	if (plain)
		pushJsonbValue(&json->out, token, &value);
	return plain;
}

/*
 * kapture_plain_json
 *		Returns "len" bytes of JSON as jsonb in the current memory context, the same that
 *		jsonb_in() would make, if they are a plain object or array; else NULL, and
 *		then they may be anything.  No errors but for lack of memory.
 */
Jsonb *
kapture_plain_json(const char *text, size_t len)
{
	PlainJson	json = {.p = text,.end = text + len};

	plain_skip_space(&json);
	if (len > PLAIN_MAX_SIZE || json.p == json.end || (*json.p != '{' && *json.p != '['))
		return NULL;
	if (!plain_value(&json, WJB_ELEM))
		return NULL;
	plain_skip_space(&json);
	return json.p == json.end ? JsonbValueToJsonb(json.out.result) : NULL;
}
