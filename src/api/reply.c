/*
 * reply.c
 *		Kapture's language: request bodies out, answers in.  No I/O.
 *
 * What travels is UTF-8; what the rest of the extension sees is text in the
 * database's encoding and jsonb.
 *
 * cleanse.c makes of an answer what PostgreSQL can hold.  After that,
 * PostgreSQL's own parser decides; an answer that is not JSON is a result here,
 * not an error, since it is somebody else's fault and the worker has to go on.
 *
 * Keys are found whatever their case, and with or without spaces and
 * underscores: some accounts write "Kapture Customer Id".
 */
#include "postgres.h"

#include <ctype.h>

#include "common/jsonapi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "api/cleanse.h"
#include "api/dialect.h"
#include "api/identity.h"
#include "api/reply.h"
#include "api/words.h"
#include "base/compat.h"
#include "base/text.h"

#define MESSAGE_MAX_TEXT	1000	/* bytes of Kapture's words that are kept */
#define MESSAGE_MAX_WHY		200 /* bytes of a parser's complaint */

/* keys under which answers have Kapture's words, the best first */
#define MESSAGE_WORDS		"message", "customerdetails", "error", "reason"
#define MESSAGE_NWORDS		4


/*
 * From bytes to jsonb
 */

/* Is this "name", apart from case, spaces and underscores? */
static bool
message_is_key(const char *key, int len, const char *name)
{
	for (int i = 0; i < len; i++)
	{
		if (key[i] == ' ' || key[i] == '_')
			continue;
		if (*name == '\0' ||
			pg_ascii_tolower((unsigned char) key[i]) != (unsigned char) *name)
			return false;
		name++;
	}
	return *name == '\0';
}

/*
 * A parser's complaint, cut to a length that fits into a message.  It quotes the
 * answer, but without control characters, which could affect the terminal of
 * whoever reads it.
 */
static char *
message_complaint(JsonParseErrorType error, JsonLexContext *lex)
{
	char	   *why = json_errdetail(error, lex);
	size_t		len = strlen(why);

	if (len > MESSAGE_MAX_WHY)
		why = psprintf("%s...",
					   pnstrdup(why, pg_mbcliplen(why, len, MESSAGE_MAX_WHY)));
	len = strlen(why);
	why = pnstrdup(why, len > 0 && why[len - 1] == '.' ? len - 1 : len);
	for (char *p = why; *p != '\0'; p++)
	{
		if ((unsigned char) *p < 0x20 || *p == 0x7F)
			*p = '?';
	}
	return why;
}

/*
 * The name of the field whose value is the present token.  A parser that does not
 * unescape passes no name ("name" is NULL); then it is read from before the colon.
 */
static const char *
message_field_name(const JsonLexContext *lex, const char *name, int *len)
{
	const char *end;

	if (name)
	{
		*len = strlen(name);
		return name;
	}
	end = lex->prev_token_terminator - 1;
	while (end[-1] != '"')
		end--;
	name = --end;
	while (name[-1] != '"')
		name--;
	*len = end - name;
	return name;
}

/*
 * Text that becomes jsonb, or the parts of it that are wanted, in one pass of the parser.
 * jsonb_in() would raise an error where the text is not JSON.
 */
typedef struct MessageBuild
{
	JsonLexContext *lex;
	JsonbInState state;
	const char *value;			/* start of the present value */
	bool		left_out;		/* is the value that comes next not wanted? */
	KaptureWanted wanted;		/* NULL: all are */
	void	   *arg;
} MessageBuild;

KAPTURE_JSON_ACTION
message_build_object_start(void *arg)
{
	pushJsonbValue(&((MessageBuild *) arg)->state, WJB_BEGIN_OBJECT, NULL);
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_build_object_end(void *arg)
{
	pushJsonbValue(&((MessageBuild *) arg)->state, WJB_END_OBJECT, NULL);
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_build_array_start(void *arg)
{
	pushJsonbValue(&((MessageBuild *) arg)->state, WJB_BEGIN_ARRAY, NULL);
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_build_array_end(void *arg)
{
	pushJsonbValue(&((MessageBuild *) arg)->state, WJB_END_ARRAY, NULL);
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_build_element_start(void *arg, bool isnull)
{
	MessageBuild *build = arg;

	build->value = build->lex->token_start;
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_build_field_start(void *arg, char *fname, bool isnull)
{
	MessageBuild *build = arg;
	JsonTokenType token = build->lex->token_type;
	JsonbValue	key = {.type = jbvString};
	int			len;
	const char *name = message_field_name(build->lex, fname, &len);

	build->value = build->lex->token_start;
	build->left_out = build->wanted && token != JSON_TOKEN_OBJECT_START && token != JSON_TOKEN_ARRAY_START &&
		!build->wanted(build->arg, name, len);
	if (!build->left_out)
	{
		key.val.string.val = unconstify(char *, name);
		key.val.string.len = len;
		pushJsonbValue(&build->state, WJB_KEY, &key);
	}
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_build_scalar(void *arg, char *token, JsonTokenType type)
{
	MessageBuild *build = arg;
	JsonbValue	value = {.type = jbvNull};

	if (build->left_out || build->value == NULL)
	{
		build->left_out = false;
		KAPTURE_JSON_RETURN;
	}
	if (type == JSON_TOKEN_STRING)
	{
		value.type = jbvString;
		/* a parser that does not unescape passes no text: it is between the quotes */
		value.val.string.val = token ? token : unconstify(char *, build->value) + 1;
		value.val.string.len = token ? strlen(token) : build->lex->prev_token_terminator - build->value - 2;
	}
	else if (type == JSON_TOKEN_NUMBER)
	{
		value.type = jbvNumeric;
		value.val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(token),
																ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	}
	else if (type != JSON_TOKEN_NULL)
	{
		value.type = jbvBool;
		value.val.boolean = type == JSON_TOKEN_TRUE;
	}
	pushJsonbValue(&build->state, build->state.parseState->contVal.type == jbvArray ? WJB_ELEM : WJB_VALUE, &value);
	KAPTURE_JSON_RETURN;
}

/*
 * Clean text, "len" bytes, as jsonb, palloc'ed; NULL with the reason in *why if it is
 * not JSON.  See kapture_message_customer_parts() for "wanted".
 */
static Jsonb *
message_build(char *text, size_t len, KaptureWanted wanted, void *arg, char **why)
{
	MessageBuild build = {.wanted = wanted, .arg = arg};
	JsonSemAction actions = {
		.semstate = &build,
		.object_start = message_build_object_start,
		.object_end = message_build_object_end,
		.array_start = message_build_array_start,
		.array_end = message_build_array_end,
		.array_element_start = message_build_element_start,
		.object_field_start = message_build_field_start,
		.scalar = message_build_scalar
	};
	JsonParseErrorType error;

	/* without escapes, which are rare, names and values are taken from where they stand in the text */
	build.lex = makeJsonLexContextCstringLen(NULL, text, len, GetDatabaseEncoding(), memchr(text, '\\', len) != NULL);
	error = pg_parse_json(build.lex, &actions);
	if (error != JSON_SUCCESS)
	{
		*why = message_complaint(error, build.lex);
		return NULL;
	}
	/* the text is a scalar */
	if (build.state.result == NULL)
		return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(pnstrdup(text, len))));
	return JsonbValueToJsonb(build.state.result);
}

/* Is a text JSON?  Sets *why if not. */
static bool
message_is_json(char *text, char **why)
{
	/* strings need to be unescaped, to be checked, only if there are escapes */
	JsonLexContext *lex = makeJsonLexContextCstringLen(NULL, text, strlen(text), GetDatabaseEncoding(), strchr(text, '\\') != NULL);
	JsonParseErrorType error = pg_parse_json(lex, &nullSemAction);

	if (error != JSON_SUCCESS)
		*why = message_complaint(error, lex);
	return error == JSON_SUCCESS;
}

/*
 * kapture_message_parse
 *		An answer's body as jsonb, or NULL with the reason in *why.
 *
 * Takes "len" bytes.  What the database cannot hold is replaced (cleanse.c), and
 * *altered, unless "altered" is NULL, says so; all else that is not JSON is refused.
 * *why has neither capital nor period of a sentence and may quote a little of
 * the body.  The result is palloc'ed.  Raises no errors but for lack of memory.
 */
Jsonb *
kapture_message_parse(const char *body, size_t len, bool *altered, char **why)
{
	char	   *text = unconstify(char *, body);
	bool		replaced = false;
	Jsonb	   *result;

	*why = NULL;
	if (kapture_cleanse_is_needed_for_jsonb(body, len))
	{
		StringInfoData marks;

		initStringInfo(&marks);
		text = kapture_cleanse(body, len, &marks, why);
		replaced = marks.len > 0;
		pfree(marks.data);
	}
	if (altered)
		*altered = replaced;
	if (text == NULL)
		return NULL;
	/* numbers are as they should be only if all is JSON: "1e99999-9" is two of them, the first too large */
	if (text != body && !message_is_json(text, why))
		return NULL;
	result = message_build(text, text == body ? len : strlen(text), NULL, NULL, why);
	if (text != body)
		pfree(text);
	return result;
}


/*
 * Answers with many customers
 *
 * As jsonb, a customer takes about a dozen times the room of its text while it
 * is built, and an answer may have thousands.  So the parser only finds out where
 * each customer is, and customers become jsonb one by one.
 */

typedef struct MessageSplit
{
	JsonLexContext *lex;
	KaptureList *list;
	bool		inside;			/* in the value of a key that holds customers */
	const char *value;			/* start of that value */
	const char *element;		/* start of the present element of its array */
	const char *list_start;		/* start and end of the last such value that is not a scalar */
	const char *list_end;
	int			size;			/* of list->customers */
} MessageSplit;

static void
message_split_add(MessageSplit *split, const char *start)
{
	KaptureList *list = split->list;

	if (list->ncustomers == split->size)
	{
		split->size *= 2;
		list->customers = repalloc(list->customers, sizeof(KaptureSlice) * split->size);
	}
	list->customers[list->ncustomers].start = start - list->text;
	list->customers[list->ncustomers].len = split->lex->prev_token_terminator - start;
	list->ncustomers++;
}

KAPTURE_JSON_ACTION
message_split_field_start(void *arg, char *name, bool isnull)
{
	MessageSplit *split = arg;

	if (split->lex->lex_level == 1)
	{
		split->value = split->lex->token_start;
		/* there is no token where the answer ends after a colon */
		split->inside = split->value != NULL && (*split->value == '[' || *split->value == '{');
		if (split->inside)
		{
			int			len;
			const char *key = message_field_name(split->lex, name, &len);

			split->inside = message_is_key(key, len, "message") || message_is_key(key, len, "customerdetails");
		}
		if (split->inside)
			split->list->ncustomers = 0;
	}
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_split_field_end(void *arg, char *name, bool isnull)
{
	MessageSplit *split = arg;

	if (split->lex->lex_level == 1 && split->inside)
	{
		if (*split->value == '{')
			message_split_add(split, split->value);
		split->list_start = split->value;
		split->list_end = split->lex->prev_token_terminator;
		split->inside = false;
	}
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_split_element_start(void *arg, bool isnull)
{
	MessageSplit *split = arg;

	if (split->lex->lex_level == 2 && split->inside && *split->value == '[')
		split->element = split->lex->token_start;
	KAPTURE_JSON_RETURN;
}

KAPTURE_JSON_ACTION
message_split_element_end(void *arg, bool isnull)
{
	MessageSplit *split = arg;

	if (split->lex->lex_level == 2 && split->inside && *split->value == '[')
		message_split_add(split, split->element);
	KAPTURE_JSON_RETURN;
}

/* The answer with something short in place of its customers. */
static Jsonb *
message_split_rest(MessageSplit *split)
{
	StringInfoData rest;
	const char *text = split->list->text;

	if (split->list_start == NULL)
		return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	initStringInfo(&rest);
	appendBinaryStringInfo(&rest, text, split->list_start - text);
	appendStringInfoString(&rest, *split->list_start == '{' ? "{}" :
						   split->list->ncustomers > 0 ? "[0]" : "[]");
	appendStringInfoString(&rest, split->list_end);
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(rest.data)));
}

static int64 message_details_id(JsonbContainer *customer);

/*
 * Fills in which customers have a value that was replaced; "marks" are the places
 * of the replacements in the text.
 */
static void
message_find_altered(KaptureList *list, const int *marks, int nmarks, MemoryContext scratch)
{
	int			m = 0;

	for (int i = 0; i < list->ncustomers && m < nmarks; i++)
	{
		const KaptureSlice *slice = &list->customers[i];
		MemoryContext old;
		Jsonb	   *customer;
		int64		id = 0;

		while (m < nmarks && marks[m] < slice->start)
			m++;
		if (m == nmarks || marks[m] >= slice->start + slice->len)
			continue;
		old = MemoryContextSwitchTo(scratch);
		customer = kapture_message_customer(list, i);
		if (JB_ROOT_IS_OBJECT(customer))
			id = message_details_id(&customer->root);
		pfree(customer);
		MemoryContextSwitchTo(old);
		if (list->altered == NULL)
			list->altered = palloc(sizeof(int64) * list->ncustomers);
		list->altered[list->naltered++] = id;
	}
}

/*
 * kapture_message_split
 *		An answer's body as a list of customers, or NULL with the reason in
 *		*why.
 *
 * As kapture_message_parse(), but the customers stay text.  The rest of the
 * answer, which is in "scratch" like temporary data, is meant for
 * kapture_message_judge(); all else of the result is in the current context.
 */
KaptureList *
kapture_message_split(const char *body, size_t len, MemoryContext scratch, char **why)
{
	KaptureList *list = palloc0(sizeof(KaptureList));
	MemoryContext old;
	MessageSplit split = {0};
	JsonSemAction actions = {0};
	JsonParseErrorType error;
	StringInfoData marks;

	initStringInfo(&marks);
	list->text = kapture_cleanse_is_needed_for_jsonb(body, len) ? kapture_cleanse(body, len, &marks, why) : pnstrdup(body, len);
	if (list->text == NULL)
		return NULL;
	split.list = list;
	split.size = 64;
	list->customers = palloc(sizeof(KaptureSlice) * split.size);

	old = MemoryContextSwitchTo(scratch);
	split.lex = makeJsonLexContextCstringLen(NULL, list->text, strlen(list->text),
											 GetDatabaseEncoding(), strchr(list->text, '\\') != NULL);
	actions.semstate = &split;
	actions.object_field_start = message_split_field_start;
	actions.object_field_end = message_split_field_end;
	actions.array_element_start = message_split_element_start;
	actions.array_element_end = message_split_element_end;
	error = pg_parse_json(split.lex, &actions);
	if (error != JSON_SUCCESS)
		*why = message_complaint(error, split.lex);
	else
		list->rest = message_split_rest(&split);
	MemoryContextSwitchTo(old);
	if (error != JSON_SUCCESS)
		return NULL;
	message_find_altered(list, (int *) marks.data, marks.len / sizeof(int), scratch);
	pfree(marks.data);
	return list;
}

/*
 * kapture_message_customer_parts
 *		As kapture_message_customer(), without values of keys that are not wanted;
 *		arrays and objects stay, with the wanted parts of them.
 *
 * Of the hundred keys of a customer, most callers want ten.
 */
Jsonb *
kapture_message_customer_parts(const KaptureList *list, int n, KaptureWanted wanted, void *arg)
{
	const KaptureSlice *slice = &list->customers[n];
	char	   *why;
	Jsonb	   *result = message_build(list->text + slice->start, slice->len, wanted, arg, &why);

	if (result == NULL)
		elog(ERROR, "could not parse what was parsed before");
	return result;
}

/*
 * kapture_message_customer
 *		The customer number "n" of a list as jsonb; palloc'ed.
 */
Jsonb *
kapture_message_customer(const KaptureList *list, int n)
{
	return kapture_message_customer_parts(list, n, NULL, NULL);
}


/*
 * Looking into answers
 */

/*
 * Finds the values of "n" keys of an object in one pass; null for those that it lacks.
 * "names" are in lower case, without spaces and underscores.
 */
static void
message_find_all(JsonbContainer *object, const char *const *names, int n, JsonbValue *values)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	value;
	uint32		missing = (1 << n) - 1; /* a bit for each name */

	for (int i = 0; i < n; i++)
		values[i].type = jbvNull;
	while (missing != 0 && (token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &value, true);
		for (int i = 0; i < n; i++)
		{
			if (!(missing & (1 << i)) || !message_is_key(key.val.string.val, key.val.string.len, names[i]))
				continue;
			values[i] = value;
			missing &= ~(1 << i);
		}
	}
}

/* Finds the value of one key; false if the object lacks it, or it is null. */
static bool
message_find(JsonbContainer *object, const char *name, JsonbValue *value)
{
	message_find_all(object, &name, 1, value);
	return value->type != jbvNull;
}

/* Is this value an object?  Sets *object to it if so. */
static bool
message_is_object(const JsonbValue *value, JsonbContainer **object)
{
	if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
		return false;
	*object = value->val.binary.data;
	return true;
}

/* A customer's id from a text of digits; 0 if the text is none. */
static int64
message_id_of_text(const char *text)
{
	char	   *end;
	int64		id;

	while (*text == ' ')
		text++;
	if (!isdigit((unsigned char) *text))
		return 0;
	errno = 0;
	id = strtoi64(text, &end, 10);
	if (errno != 0)
		return 0;
	/* 65033646.0 is a number like 65033646 */
	if (*end == '.')
		end += 1 + strspn(end + 1, "0");
	while (*end == ' ')
		end++;
	return *end == '\0' ? id : 0;
}

/* A customer's id from a number or a text of digits; 0 if the value is neither. */
static int64
message_id(const JsonbValue *value)
{
	if (value->type == jbvString)
		return message_id_of_text(pnstrdup(value->val.string.val, value->val.string.len));
	if (value->type == jbvNumeric)
		return message_id_of_text(DatumGetCString(DirectFunctionCall1(numeric_out,
																	  NumericGetDatum(value->val.numeric))));
	return 0;
}

/* Text on one line, without commas and spaces around it, not too long. */
static char *
message_one_line(const char *text, int len)
{
	StringInfoData line;

	initStringInfo(&line);
	for (int i = 0; i < len; i++)
	{
		bool		blank = (unsigned char) text[i] <= 0x20 || text[i] == 0x7F;

		if (!blank && !(text[i] == ',' && line.len == 0))
			appendStringInfoCharMacro(&line, text[i]);
		else if (blank && line.len > 0 && line.data[line.len - 1] != ' ')
			appendStringInfoCharMacro(&line, ' ');
	}
	while (line.len > 0 &&
		   (line.data[line.len - 1] == ' ' || line.data[line.len - 1] == ','))
		line.data[--line.len] = '\0';
	if (line.len > MESSAGE_MAX_TEXT)
		line.data[pg_mbcliplen(line.data, line.len, MESSAGE_MAX_TEXT)] = '\0';
	return line.data;
}

/*
 * Which of several texts of Kapture's to go by: the first that a rule knows, else the
 * first that is not empty.  On one line; "" if there is none.
 */
static char *
message_choose_words(KaptureApi api, char *const *words)
{
	char	   *lines[MESSAGE_NWORDS];
	int			nlines = 0;

	for (int i = 0; i < MESSAGE_NWORDS; i++)
	{
		char	   *line = words[i] ? message_one_line(words[i], strlen(words[i])) : "";

		if (line[0] != '\0')
			lines[nlines++] = line;
	}
	/* nearly always there is one at most, which needs no rule to be chosen */
	for (int i = 0; nlines > 1 && i < nlines; i++)
	{
		if (kapture_words_mean(api, lines[i]) != KAPTURE_MEANS_UNKNOWN)
			return lines[i];
	}
	return nlines > 0 ? lines[0] : pstrdup("");
}

/* Kapture's words, of the values of MESSAGE_WORDS in an answer; "" if there are none. */
static char *
message_words(KaptureApi api, const JsonbValue *values)
{
	char	   *words[MESSAGE_NWORDS] = {NULL};

	for (int i = 0; i < MESSAGE_NWORDS; i++)
	{
		if (values[i].type == jbvString)
			words[i] = pnstrdup(values[i].val.string.val, values[i].val.string.len);
	}
	return message_choose_words(api, words);
}

/* Does a status, as text, say "success"?  Kapture itself writes "successfull" in places. */
static bool
message_is_success(const char *text)
{
	return pg_strncasecmp(text + strspn(text, " "), "success", strlen("success")) == 0 ||
		message_is_key(text, strlen(text), "ok") || strcmp(text, "true") == 0 || strcmp(text, "200") == 0;
}

/* Does a status, as text, count?  A number does if it means a success or a refusal (4xx). */
static bool
message_is_status(const char *text)
{
	return text[strspn(text, "0123456789")] != '\0' || text[0] == '4' || message_is_success(text);
}

/* An answer's status as text; NULL if it is none. */
static char *
message_status(const JsonbValue *value)
{
	if (value->type == jbvBool)
		return value->val.boolean ? "true" : "false";
	if (value->type == jbvString)
		return pnstrdup(value->val.string.val, value->val.string.len);
	if (value->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	return NULL;
}


/*
 * Judging answers
 */

/*
 * Refuses an answer to one Add or Update that has two ids: either may not be the id
 * of the customer that was sent.
 */
static void
message_refuse_ids(KaptureReply *reply, int64 a, int64 b)
{
	reply->verdict = KAPTURE_BROKEN;
	reply->customer_id = reply->contact_id = 0;
	reply->message = psprintf("Kapture's answer has two customer ids, " INT64_FORMAT " and " INT64_FORMAT,
							  Min(a, b), Max(a, b));
}

/* The text of a value; NULL if it has none. */
static char *
message_text(const JsonbValue *value)
{
	if (value->type == jbvString && value->val.string.len > 0)
		return pnstrdup(value->val.string.val, value->val.string.len);
	if (value->type == jbvNumeric)
		return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
	return NULL;
}

/* Takes from an object what identifies a customer, and its ids, 0 for one that it lacks. */
static void
message_take_identity(JsonbContainer *object, KaptureIdentity *identity, int64 *customer_id, int64 *contact_id)
{
	static const char *const names[] = {"customername", "phone", "emailid", "kapturecustomerid", "contactid"};
	JsonbValue	values[lengthof(names)];

	message_find_all(object, names, lengthof(names), values);
	identity->name = message_text(&values[0]);
	identity->phone = message_text(&values[1]);
	identity->email = message_text(&values[2]);
	*customer_id = message_id(&values[3]);
	*contact_id = message_id(&values[4]);
}

/*
 * kapture_message_confirm
 *		Is a success of Add or Update about the customer that was sent?
 *
 * "id" is the id that an Update was sent with, or 0.  If the answer is about another
 * customer, the verdict becomes KAPTURE_BROKEN, as the fate of the request is not
 * known, the message says what is wrong, and the result is false.
 */
bool
kapture_message_confirm(KaptureReply *reply, const KaptureIdentity *sent, int64 id)
{
	const char *what;

	if (reply->verdict != KAPTURE_SUCCESS)
		return true;
	if (id != 0 && reply->customer_id != 0)
		what = id == reply->customer_id ? NULL : "id";
	else
		what = kapture_identity_conflict(sent, &reply->repeated);
	if (what == NULL)
		return true;
	reply->verdict = KAPTURE_BROKEN;
	reply->customer_id = reply->contact_id = 0;
	reply->message = psprintf("Kapture's answer is about another customer: its %s is not the one that was sent", what);
	return false;
}

/*
 * kapture_message_confirm_customer
 *		As kapture_message_confirm(), for the customer as an object, as it was sent.
 */
bool
kapture_message_confirm_customer(KaptureReply *reply, JsonbContainer *customer)
{
	KaptureIdentity identity;
	int64		id;
	int64		contact_id;

	message_take_identity(customer, &identity, &id, &contact_id);
	return kapture_message_confirm(reply, &identity, id);
}

/*
 * kapture_message_confirm_body
 *		As kapture_message_confirm(), for the customer in the request's body, before it
 *		gets the account's form: an object with our names of the fields.
 */
bool
kapture_message_confirm_body(KaptureReply *reply, const char *body, size_t len)
{
	char	   *why;
	Jsonb	   *sent;

	if (reply->verdict != KAPTURE_SUCCESS)
		return true;
	sent = kapture_message_parse(body, len, NULL, &why);
	return sent == NULL || kapture_message_confirm_customer(reply, &sent->root);
}

/* Takes ids, and what is repeated of the customer sent, from a success of Add or Update. */
static KaptureVerdict
message_judge_done(JsonbContainer *answer, KaptureReply *reply)
{
	static const char *const names[] = {"kapturecustomerid", "enquiry"};
	JsonbValue	values[lengthof(names)];
	JsonbContainer *enquiry;
	int64		id;

	message_find_all(answer, names, lengthof(names), values);
	id = message_id(&values[0]);
	if (!message_is_object(&values[1], &enquiry))
		enquiry = answer;
	message_take_identity(enquiry, &reply->repeated, &reply->customer_id, &reply->contact_id);
	if (enquiry == answer)
		reply->contact_id = 0;	/* only an enquiry tells it */
	if (id != 0 && reply->customer_id != 0 && id != reply->customer_id)
		message_refuse_ids(reply, id, reply->customer_id);
	else
	{
		if (reply->customer_id == 0)
			reply->customer_id = id;
		reply->verdict = KAPTURE_SUCCESS;
	}
	return reply->verdict;
}

/* The id of a customer that was found; 0 if it has none. */
static int64
message_details_id(JsonbContainer *customer)
{
	JsonbValue	value;

	return message_find(customer, "id", &value) ? message_id(&value) : 0;
}

/* The id that all customers of an array share; 0 if there is none. */
static int64
message_common_id(JsonbContainer *customers)
{
	int64		common = 0;
	uint32		n = JsonContainerSize(customers);

	for (uint32 i = 0; i < n; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(customers, i);
		JsonbContainer *customer;
		int64		id = 0;

		if (message_is_object(element, &customer))
			id = message_details_id(customer);
		if (id == 0 || (common != 0 && id != common))
			return 0;
		common = id;
	}
	return common;
}

/* Judges a success of Get: what it found. */
static KaptureVerdict
message_judge_found(JsonbContainer *answer, int64 *id)
{
	JsonbValue	value;

	if (!message_find(answer, "customerdetails", &value) ||
		value.type != jbvBinary)
		return KAPTURE_BROKEN;
	if (JsonContainerIsObject(value.val.binary.data))
		*id = message_details_id(value.val.binary.data);
	else if (JsonContainerSize(value.val.binary.data) == 0)
		return KAPTURE_NOT_FOUND;
	else
		*id = message_common_id(value.val.binary.data);
	return KAPTURE_SUCCESS;
}

/* Judges an answer that says "success". */
static KaptureVerdict
message_judge_success(KaptureApi api, JsonbContainer *answer, KaptureReply *reply)
{
	JsonbValue	value;

	switch (api)
	{
		case KAPTURE_API_ADD:
		case KAPTURE_API_UPDATE:
			return message_judge_done(answer, reply);
		case KAPTURE_API_GET:
			return message_judge_found(answer, &reply->customer_id);
		case KAPTURE_API_PULL:
			/* a list, or a single customer */
			if (message_find(answer, "message", &value) && value.type == jbvBinary)
				return KAPTURE_SUCCESS;
			break;
		case KAPTURE_API_MODULE:
			return KAPTURE_SUCCESS;
	}
	return KAPTURE_BROKEN;
}

/* Tells by Kapture's words whether the phone or the email is taken, and by which customer, if they name one. */
static KaptureVerdict
message_judge_taken(const char *words, KaptureReply *reply)
{
	bool		phone = kapture_words_say(words, "mobile") || kapture_words_say(words, "phone");
	bool		email = kapture_words_say(words, "email");

	reply->named_id = kapture_words_customer_id(words);
	if (phone != email)
		return phone ? KAPTURE_DUPLICATE_PHONE : KAPTURE_DUPLICATE_EMAIL;
	/* "Lead already exists" means either, and may name the customer; a taken customer code means neither */
	return phone || reply->named_id != 0 ||
		((kapture_words_say(words, "lead") || kapture_words_say(words, "customer")) && !kapture_words_say(words, "code")) ?
		KAPTURE_DUPLICATE_BOTH : KAPTURE_REFUSED;
}

/* Judges an answer that does not say "success", by Kapture's words. */
static KaptureVerdict
message_judge_failure(KaptureApi api, const char *words, KaptureReply *reply)
{
	KaptureMeaning meaning = kapture_words_mean(api, words);

	reply->is_known = meaning != KAPTURE_MEANS_UNKNOWN;
	switch (meaning)
	{
		case KAPTURE_MEANS_BAD_KEY:
			return KAPTURE_DENIED;
		case KAPTURE_MEANS_BAD_FORM:
			return KAPTURE_MISFIT;
		case KAPTURE_MEANS_NOBODY:
			return KAPTURE_NOT_FOUND;
		case KAPTURE_MEANS_TAKEN:
			return message_judge_taken(words, reply);
		case KAPTURE_MEANS_TOO_MANY:
			return KAPTURE_THROTTLED;
		case KAPTURE_MEANS_FAULT:
			return KAPTURE_BROKEN;
		case KAPTURE_MEANS_BAD_VALUE:
		case KAPTURE_MEANS_UNKNOWN:
			break;
	}
	return KAPTURE_REFUSED;
}

/* What an answer says, as far as that decides what it means. */
typedef struct MessageFacts
{
	bool		is_object;
	bool		has_status;
	bool		is_success;		/* the status is "success" */
	char	   *words;			/* Kapture's, on one line; "" if none */
} MessageFacts;

/* Takes in an answer's status, NULL if it has none. */
static void
message_note_status(MessageFacts *facts, const char *status)
{
	facts->has_status = status && message_is_status(status);
	facts->is_success = status && message_is_success(status);
}

/*
 * Does an answer to Add or Update that has no status say in its words that it is a
 * success, as "Customer Added Successfully" does?
 */
static bool
message_words_succeed(KaptureApi api, const MessageFacts *facts, const char *words)
{
	return (api == KAPTURE_API_ADD || api == KAPTURE_API_UPDATE) && !facts->has_status &&
		kapture_words_say(words, "successful") && !kapture_words_say(words, "unsuccess") &&
		!kapture_words_say(words, "notsuccess") && !kapture_words_say(words, "fail");
}

/*
 * Judges an answer that is no success: by words about the key, then the HTTP code,
 * then other words.  False: it may be a success, which its content decides.
 */
static bool
message_judge_facts(KaptureApi api, int status, const MessageFacts *facts, const KaptureSent *sent, KaptureReply *reply)
{
	const char *words;

	memset(reply, 0, sizeof(*reply));
	reply->message = facts->words;
	reply->verdict = KAPTURE_BROKEN;
	/* nearly all answers are such, and their words do not matter */
	if (facts->is_success && facts->is_object && status >= 200 && status < 300)
		return false;
	words = kapture_words_own(api, facts->words, sent);
	if (!facts->is_success && kapture_words_mean(api, words) == KAPTURE_MEANS_BAD_KEY)
		reply->verdict = KAPTURE_DENIED;	/* some accounts say so with 200, 400 or 500 */
	else if (status == 404 && facts->has_status && !facts->is_success &&
			 (kapture_words_say(words, "customer") || kapture_words_say(words, "informationgiven")) &&
			 kapture_words_mean(api, words) == KAPTURE_MEANS_NOBODY)
		reply->verdict = KAPTURE_NOT_FOUND; /* the customer does not exist, but the API does */
	else if (status == 401 || status == 403 || status == 404)
		reply->verdict = KAPTURE_DENIED;
	else if (status == 429)
		reply->verdict = KAPTURE_THROTTLED;
	else if (status >= 500 || (status >= 300 && status < 400) ||
			 status == 408 || status == 425)
		reply->verdict = KAPTURE_BROKEN;
	else if (!facts->is_object)
		reply->verdict = status >= 400 ? KAPTURE_REFUSED : KAPTURE_BROKEN;
	else if (facts->is_success || (status < 400 && message_words_succeed(api, facts, words)))
		return status >= 400;
	else
	{
		reply->verdict = message_judge_failure(api, words, reply);

		/* neither success nor failure, and in words that mean nothing to us */
		if (reply->verdict == KAPTURE_REFUSED && !facts->has_status && status < 400)
			reply->verdict = KAPTURE_BROKEN;
	}
	return true;
}

/*
 * The answer as an object; NULL if it is none.  What is sent in an array may be answered
 * in an array: then its only element, for APIs that answer about one object.
 */
static JsonbContainer *
message_object(KaptureApi api, Jsonb *answer)
{
	JsonbContainer *object;

	if (JB_ROOT_IS_OBJECT(answer))
		return &answer->root;
	if (api == KAPTURE_API_GET || api == KAPTURE_API_PULL || JB_ROOT_IS_SCALAR(answer) || JB_ROOT_COUNT(answer) != 1)
		return NULL;
	return message_is_object(getIthJsonbValueFromContainer(&answer->root, 0), &object) ? object : NULL;
}

/*
 * kapture_message_judge
 *		What an answer means.
 *
 * "status" is the HTTP code, "answer" the parsed body or NULL if that was not
 * JSON, "sent" what its words may repeat (words.c; NULL: nothing).  Fills in all of
 * "reply", palloc'ed.
 *
 * Words about a bad key are KAPTURE_DENIED with any HTTP code.  Then that code
 * decides: 401, 403 and 404 are KAPTURE_DENIED, 429 is KAPTURE_THROTTLED, 5xx and
 * 3xx (never followed), 408 and 425 are KAPTURE_BROKEN.  Then Kapture's status and
 * words (words.c).  Other 4xx are about the content (KAPTURE_REFUSED), JSON or
 * not, so that one bad customer does not make the server look broken.  A
 * "success" that lacks what it promises is KAPTURE_BROKEN; but some accounts do
 * not return an added customer's id.
 */
void
kapture_message_judge(KaptureApi api, int status, Jsonb *answer,
					  const KaptureSent *sent, KaptureReply *reply)
{
	static const char *const names[] = {"status", MESSAGE_WORDS};
	JsonbValue	values[lengthof(names)];
	MessageFacts facts = {0};
	JsonbContainer *object = answer ? message_object(api, answer) : NULL;

	facts.is_object = object != NULL;
	facts.words = pstrdup("");
	if (facts.is_object)
	{
		message_find_all(object, names, lengthof(names), values);
		message_note_status(&facts, message_status(&values[0]));
		facts.words = message_words(api, &values[1]);
	}
	if (!message_judge_facts(api, status, &facts, sent, reply))
		reply->verdict = message_judge_success(api, object, reply);
}


/*
 * Answers to Add and Update
 *
 * Only a few of their values matter, while they repeat the whole customer; so these
 * values are taken while parsing, without making jsonb of the answer.
 */

typedef struct MessageScan
{
	JsonLexContext *lex;
	bool		unescape;		/* the text has escapes */
	int			depth;			/* arrays around the object: 0 or 1 */
	int			nelements;		/* elements of that array */
	bool		in_enquiry;		/* inside of the object "enquiry" */
	char	   *words[MESSAGE_NWORDS];	/* of MESSAGE_WORDS */
	char	   *status;			/* as text; NULL if there is none */
	int64		id;
	int64		enquiry_id;
	char	   *repeated[3];	/* see message_scan_repeated() */
	bool		has_enquiry;	/* is there an object "enquiry"?  "repeated" is from it then */
} MessageScan;

/* The present token's text, without quotes and escapes. */
static char *
message_scan_text(const MessageScan *scan)
{
	const JsonLexContext *lex = scan->lex;

	if (lex->token_type != JSON_TOKEN_STRING)
		return pnstrdup(lex->token_start, lex->token_terminator - lex->token_start);
	if (scan->unescape)
		return pstrdup(lex->strval->data);
	return pnstrdup(lex->token_start + 1, lex->token_terminator - lex->token_start - 2);
}

/* The present token's text if it is a string, or a number that cleanse.c makes a string; else NULL. */
static char *
message_scan_string(const MessageScan *scan)
{
	const JsonLexContext *lex = scan->lex;

	if (lex->token_type == JSON_TOKEN_STRING ||
		(lex->token_type == JSON_TOKEN_NUMBER &&
		 !kapture_cleanse_number_fits(lex->token_start, lex->token_terminator - lex->token_start)))
		return message_scan_text(scan);
	return NULL;
}

/* A number as jsonb has it, without exponent and without a sign of zero; unchanged if it is too large for jsonb. */
static char *
message_scan_number(const MessageScan *scan)
{
	char	   *text = message_scan_text(scan);

	if (strpbrk(text, "eE-") == NULL || !kapture_cleanse_number_fits(text, strlen(text)))
		return text;
	return DatumGetCString(DirectFunctionCall1(numeric_out,
											   DirectFunctionCall3(numeric_in, CStringGetDatum(text),
																   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1))));
}

/* The present token's text if it is a string, a number or a boolean; else NULL. */
static char *
message_scan_scalar(const MessageScan *scan)
{
	JsonTokenType type = scan->lex->token_type;

	if (type == JSON_TOKEN_NUMBER)
		return message_scan_number(scan);
	return type == JSON_TOKEN_STRING || type == JSON_TOKEN_TRUE || type == JSON_TOKEN_FALSE ? message_scan_text(scan) : NULL;
}

/* The present token as a customer's id, 0 if it is none. */
static int64
message_scan_id(const MessageScan *scan)
{
	JsonTokenType type = scan->lex->token_type;

	if (type != JSON_TOKEN_STRING && type != JSON_TOKEN_NUMBER)
		return 0;
	return message_id_of_text(type == JSON_TOKEN_NUMBER ? message_scan_number(scan) : message_scan_text(scan));
}

/* Takes in what is repeated of the customer that was sent. */
static void
message_scan_repeated(MessageScan *scan, const char *name, int len)
{
	static const char *const names[] = {"customername", "phone", "emailid"};
	JsonTokenType type = scan->lex->token_type;

	for (int i = 0; i < lengthof(names); i++)
	{
		if (!message_is_key(name, len, names[i]))
			continue;
		scan->repeated[i] = type == JSON_TOKEN_STRING || type == JSON_TOKEN_NUMBER ?
			message_scan_text(scan) : NULL;
	}
}

KAPTURE_JSON_ACTION
message_scan_field(void *arg, char *fname, bool isnull)
{
	static const char *const words[] = {MESSAGE_WORDS};
	MessageScan *scan = arg;
	int			level = scan->lex->lex_level - scan->depth;
	const char *name;
	int			len;

	if (level == 1)
		scan->in_enquiry = false;
	if (level > 2 || (level == 2 && !scan->in_enquiry))
		KAPTURE_JSON_RETURN;
	name = message_field_name(scan->lex, fname, &len);
	/* first letters of all names that are looked for, and blanks that may stand before a name */
	if (len == 0 || strchr("cekmprs _", pg_ascii_tolower((unsigned char) name[0])) == NULL)
		KAPTURE_JSON_RETURN;
	if (message_is_key(name, len, "kapturecustomerid"))
		*(level == 1 ? &scan->id : &scan->enquiry_id) = message_scan_id(scan);
	if (level == 2 || !scan->has_enquiry)
		message_scan_repeated(scan, name, len);
	if (level == 2)
		KAPTURE_JSON_RETURN;
	if (message_is_key(name, len, "enquiry") && scan->lex->token_type == JSON_TOKEN_OBJECT_START)
	{
		scan->in_enquiry = scan->has_enquiry = true;
		memset(scan->repeated, 0, sizeof(scan->repeated));
	}
	else if (message_is_key(name, len, "status"))
		scan->status = message_scan_scalar(scan);
	for (int i = 0; i < lengthof(words); i++)
	{
		if (message_is_key(name, len, words[i]))
			scan->words[i] = message_scan_string(scan);
	}
	KAPTURE_JSON_RETURN;
}

/* Counts the elements of the array around the object; any but an object counts as two, so that it is refused. */
KAPTURE_JSON_ACTION
message_scan_element(void *arg, bool isnull)
{
	MessageScan *scan = arg;

	if (scan->lex->lex_level == 1)
		scan->nelements += scan->lex->token_type == JSON_TOKEN_OBJECT_START ? 1 : 2;
	KAPTURE_JSON_RETURN;
}

/*
 * Parses an answer and takes values from it.  Returns whether the answer is an object,
 * or an array of one object; *why is set if it is not JSON.
 */
static bool
message_scan(MessageScan *scan, const char *body, size_t len, char **why)
{
	JsonSemAction actions = {.semstate = scan, .object_field_start = message_scan_field,
	.array_element_start = message_scan_element};
	const char *text = body;
	size_t		start = 0;
	JsonParseErrorType error;

	*why = NULL;
	if (kapture_cleanse_is_needed(body, len))
	{
		StringInfoData marks;

		initStringInfo(&marks);
		text = kapture_cleanse(body, len, &marks, why);
		if (text == NULL)
			return false;
		len = strlen(text);
	}
	while (start < len && (unsigned char) text[start] <= 0x20)
		start++;
	scan->depth = start < len && text[start] == '[' ? 1 : 0;
	/* unescaping every string would cost more than all the rest */
	scan->unescape = memchr(text, '\\', len) != NULL;
	scan->lex = makeJsonLexContextCstringLen(NULL, (char *) text, len, GetDatabaseEncoding(), scan->unescape);
	error = pg_parse_json(scan->lex, &actions);
	if (error != JSON_SUCCESS)
	{
		*why = message_complaint(error, scan->lex);
		return false;
	}
	return scan->depth == 1 ? scan->nelements == 1 : text[start] == '{';
}

/*
 * kapture_message_judge_written
 *		What the answer to an Add or Update means.
 *
 * "status" is the HTTP code, the body "len" bytes, which need not end with a
 * zero byte.  Fills in "reply" as kapture_message_judge() does, but contact_id
 * stays 0.
 * *why is NULL, or says why the body is not JSON.
 */
void
kapture_message_judge_written(KaptureApi api, int status, const char *body, size_t len,
							  const KaptureSent *sent, KaptureReply *reply, char **why)
{
	MessageScan scan = {0};
	MessageFacts facts = {.words = pstrdup("")};

	facts.is_object = message_scan(&scan, body, len, why);
	if (facts.is_object)
	{
		message_note_status(&facts, scan.status);
		facts.words = message_choose_words(api, scan.words);
	}

	if (message_judge_facts(api, status, &facts, sent, reply))
		return;
	reply->repeated.name = scan.repeated[0];
	reply->repeated.phone = scan.repeated[1];
	reply->repeated.email = scan.repeated[2];
	if (scan.id != 0 && scan.enquiry_id != 0 && scan.id != scan.enquiry_id)
	{
		message_refuse_ids(reply, scan.id, scan.enquiry_id);
		return;
	}
	reply->customer_id = scan.enquiry_id ? scan.enquiry_id : scan.id;
	reply->verdict = KAPTURE_SUCCESS;
}


/*
 * Answers to searches
 */

/* Adds the result of a comparison: one match is enough. */
static void
message_add_match(KaptureMatch *sum, KaptureMatch match)
{
	if (match == KAPTURE_MATCH_YES || *sum == KAPTURE_MATCH_UNKNOWN)
		*sum = match;
}

/* Does a key name phones? */
static bool
message_names_phone(const char *key)
{
	return kapture_words_say(key, "phone") || kapture_words_say(key, "mobile") || kapture_words_say(key, "landline");
}

/*
 * kapture_message_wants_match
 *		Does kapture_message_match_found() look at the value of this key, or is it the
 *		customer's id?  (KaptureWanted)
 */
bool
kapture_message_wants_match(void *arg, const char *key, int len)
{
	char		name[NAMEDATALEN];

	if (len >= (int) sizeof(name))
		return true;
	memcpy(name, key, len);
	name[len] = '\0';
	return strcmp(name, "id") == 0 || message_names_phone(name) || kapture_words_say(name, "email");
}

/*
 * kapture_message_match_found
 *		Does the customer that a Get found have the phone and the email that were
 *		searched for (NULL: not searched for)?
 *
 * Customers have several phones and emails; any of them will do.
 */
void
kapture_message_match_found(Jsonb *answer, const char *phone, const char *email,
							KaptureMatch *by_phone, KaptureMatch *by_email)
{
	JsonbIterator *it = JsonbIteratorInit(&answer->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *key = NULL;

	*by_phone = *by_email = KAPTURE_MATCH_UNKNOWN;
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		char	   *text;

		if (token == WJB_KEY)
			key = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE || key == NULL || value.type != jbvString)
			continue;
		text = pnstrdup(value.val.string.val, value.val.string.len);
		if (message_names_phone(key))
			message_add_match(by_phone, kapture_match_phones(phone, text));
		else if (kapture_words_say(key, "email"))
			message_add_match(by_email, kapture_match_emails(email, text));
	}
}

/*
 * kapture_message_customers
 *		Finds the customers in a successful answer to Get or Pull: an array of
 *		objects or one object.
 *
 * *customers becomes a part of the answer.  Returns false if the answer has none.
 */
bool
kapture_message_customers(Jsonb *answer, JsonbValue *customers)
{
	static const char *const names[] = {"message", "customerdetails"};

	if (!JB_ROOT_IS_OBJECT(answer))
		return false;
	for (int i = 0; i < lengthof(names); i++)
	{
		if (message_find(&answer->root, names[i], customers) &&
			customers->type == jbvBinary)
			return true;
	}
	return false;
}


/*
 * Requests
 */

/*
 * kapture_message_body
 *		The body to send, in the form that the account wants, for "body", a flat object
 *		with our names of the fields: "len" bytes of UTF-8, followed by a zero byte.
 *
 * The result is palloc'ed, with its length in *result_len.  Errors as
 * kapture_dialect_body().
 */
char *
kapture_message_body(const KaptureServer *server, KaptureApi api,
					 const char *body, size_t len, size_t *result_len)
{
	const KaptureDialectEntry *names = server->names[api];
	const KaptureDialectEntry *constants = server->constants[api];
	StringInfoData out;

	initStringInfo(&out);
	if (server->body_array[api])
		appendStringInfoChar(&out, '[');
	if (names || constants)
		appendStringInfoString(&out, kapture_dialect_body(names, constants, body));
	else
		appendBinaryStringInfo(&out, body, len);
	if (server->body_array[api])
		appendStringInfoChar(&out, ']');
	*result_len = out.len;
	return out.data;
}

/*
 * kapture_message_append_field
 *		Appends "name": "value" to an object that is being written as UTF-8,
 *		with a comma before it unless the object just began.
 *
 * Name and value are in the database's encoding; NULL is written as "", which
 * is how Kapture writes "no value".  Errors as kapture_text_to_utf8().
 */
void
kapture_message_append_field(StringInfo body, const char *name,
							 const char *value)
{
	size_t		len;
	char	   *text;

	if (body->len > 0 && body->data[body->len - 1] != '{')
		appendStringInfoString(body, ", ");
	text = kapture_text_to_utf8(name, &len);
	escape_json(body, text);
	pfree(text);
	appendStringInfoString(body, ": ");
	text = kapture_text_to_utf8(value != NULL ? value : "", &len);
	escape_json(body, text);
	pfree(text);
}

/*
 * kapture_message_date
 *		A time as Kapture reads it, YYYY-MM-DD hh:mm:ss, whatever DateStyle is;
 *		palloc'ed.  Parts of a second are dropped.
 *
 * Errors: 22008 if it is infinite or its year has not four digits.
 */
char *
kapture_message_date(Timestamp when)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char		text[MAXDATELEN + 1];

	if (TIMESTAMP_NOT_FINITE(when) ||
		timestamp2tm(when, NULL, &tm, &fsec, NULL, NULL) != 0 ||
		tm.tm_year < 1 || tm.tm_year > 9999)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	EncodeDateTime(&tm, 0, false, 0, NULL, USE_ISO_DATES, text);
	return pstrdup(text);
}
