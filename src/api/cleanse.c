/*
 * cleanse.c
 *		Turns the bytes of an answer into JSON text that this database can hold.
 *
 * What Kapture sends is what its users typed, and not always JSON as the
 * standard has it: raw line breaks inside strings, a byte order mark, half a
 * surrogate pair, bytes that are no UTF-8.  And some of what is JSON cannot be
 * held here: the character NUL, numbers of a thousand digits, what the
 * database's encoding lacks.  One bad value costs that value, not the answer
 * around it:
 *
 *	raw control characters		become escapes
 *	characters that are invalid
 *	or cannot be held			U+FFFD, or "?" where the encoding lacks that, too
 *	too large a number			a string of its digits
 *	too deep a value			a string of U+FFFD
 *
 * The parser decides whether the result is JSON.  Other invalid JSON stays
 * invalid: what stands outside of strings is left as it is.
 */
#include "postgres.h"

#include <ctype.h>

#include "catalog/namespace.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "api/cleanse.h"
#include "base/compat.h"

#define CLEANSE_MAX_DEPTH	100 /* of nested arrays and objects */
#define CLEANSE_MAX_DIGITS	1000	/* of a number; also its largest exponent */
#define CLEANSE_VALUE_SIZE	20	/* bytes that a value of jsonb needs besides
								 * its text, at most */
#define CLEANSE_CHUNK		16384	/* bytes converted at a time */
#define CLEANSE_SMALL		(1024 * 1024)	/* bytes of an answer that jsonb can hold in any case */
#define CLEANSE_ESCAPE		6	/* bytes of \uXXXX */

#define CLEANSE_BOM			"\xEF\xBB\xBF"
#define CLEANSE_REPLACEMENT	"\xEF\xBF\xBD"	/* U+FFFD */

typedef struct Cleanse
{
	const char *p;				/* next byte to read */
	const char *end;
	bool		decode;			/* escapes become the characters themselves */
	StringInfoData out;
	StringInfo	marks;			/* places in "out" (int) of what was replaced */
} Cleanse;

static void
cleanse_mark(StringInfo marks, int place)
{
	appendBinaryStringInfo(marks, (char *) &place, sizeof(place));
}

/* Appends the replacement of a character that cannot be held. */
static void
cleanse_replace(Cleanse *state)
{
	cleanse_mark(state->marks, state->out.len);
	appendStringInfoString(&state->out, CLEANSE_REPLACEMENT);
}

/* Copies the next "len" bytes. */
static void
cleanse_copy(Cleanse *state, size_t len)
{
	len = Min(len, state->end - state->p);
	appendBinaryStringInfo(&state->out, state->p, len);
	state->p += len;
}

/* Reads the code of \uXXXX; false if "p" is not at such an escape. */
static bool
cleanse_read_escape(const char *p, const char *end, pg_wchar *code)
{
	if (end - p < CLEANSE_ESCAPE || p[0] != '\\' || p[1] != 'u')
		return false;
	*code = 0;
	for (int i = 2; i < CLEANSE_ESCAPE; i++)
	{
		if (!isxdigit((unsigned char) p[i]))
			return false;
		*code = *code * 16 + (p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
	}
	return true;
}

/*
 * Takes an escape of a string.  Any but a valid \uXXXX is copied, and the parser
 * reports it if it is invalid.
 */
static void
cleanse_escape(Cleanse *state)
{
	const char *p = state->p;
	pg_wchar	code;
	pg_wchar	second;
	int			len = CLEANSE_ESCAPE;
	unsigned char utf8[8];

	if (!cleanse_read_escape(p, state->end, &code))
	{
		/* a byte that is not ASCII is checked next, as a character of its own */
		cleanse_copy(state, state->end - p > 1 && !IS_HIGHBIT_SET(p[1]) && p[1] != '\0' ? 2 : 1);
		return;
	}
	if (is_utf16_surrogate_first(code) && cleanse_read_escape(p + len, state->end, &second) &&
		is_utf16_surrogate_second(second))
	{
		code = surrogate_pair_to_codepoint(code, second);
		len += CLEANSE_ESCAPE;
	}
	else if (code == 0 || is_utf16_surrogate_first(code) || is_utf16_surrogate_second(code))
	{
		cleanse_replace(state);
		state->p += len;
		return;
	}
	if (!state->decode || code < 0x80)
	{
		cleanse_copy(state, len);
		return;
	}
	unicode_to_utf8(code, utf8);
	appendBinaryStringInfo(&state->out, (char *) utf8, pg_utf_mblen(utf8));
	state->p += len;
}

/* Takes a character that is neither printable ASCII nor an escape. */
static void
cleanse_character(Cleanse *state, bool in_string)
{
	unsigned char c = *state->p;
	int			len;

	if (!IS_HIGHBIT_SET(c) && c != '\0')
	{
		if (in_string)
			appendStringInfo(&state->out, "\\u%04x", c);
		else
			appendStringInfoChar(&state->out, c);
		state->p++;
		return;
	}
	len = c == '\0' ? 0 : pg_utf_mblen((const unsigned char *) state->p);
	if (len > 0 && len <= state->end - state->p &&
		pg_utf8_islegal((const unsigned char *) state->p, len))
	{
		cleanse_copy(state, len);
		return;
	}
	cleanse_replace(state);
	state->p++;
}

/* Takes a string, from its opening quote to its closing one. */
static void
cleanse_string(Cleanse *state)
{
	cleanse_copy(state, 1);
	while (state->p < state->end)
	{
		const char *p = state->p;

		while (p < state->end && *p != '"' && *p != '\\' &&
			   (unsigned char) *p >= 0x20 && !IS_HIGHBIT_SET(*p))
			p++;
		cleanse_copy(state, p - state->p);
		if (p == state->end)
			return;
		if (*p == '"')
		{
			cleanse_copy(state, 1);
			return;
		}
		if (*p == '\\')
			cleanse_escape(state);
		else
			cleanse_character(state, true);
	}
}

/*
 * kapture_cleanse_number_fits
 *		Is a number of JSON certain to fit into PostgreSQL's numeric?
 *
 * The limits of numeric are wider, but exceeding them raises errors.
 */
bool
kapture_cleanse_number_fits(const char *number, size_t len)
{
	bool		in_exponent = false;
	int			exponent = 0;

	for (size_t i = 0; i < len; i++)
	{
		if (number[i] == 'e' || number[i] == 'E')
			in_exponent = true;
		else if (in_exponent && isdigit((unsigned char) number[i]) &&
				 exponent <= CLEANSE_MAX_DIGITS)
			exponent = exponent * 10 + (number[i] - '0');
	}
	return len <= CLEANSE_MAX_DIGITS && exponent <= CLEANSE_MAX_DIGITS;
}

/* Takes a number, with all characters after it that numbers may have. */
static void
cleanse_number(Cleanse *state)
{
	const char *p = state->p;
	size_t		len;

	while (p < state->end && *p != '\0' &&
		   (isdigit((unsigned char) *p) || strchr("+-.eE", *p) != NULL))
		p++;
	len = p - state->p;
	if (kapture_cleanse_number_fits(state->p, len) || !IsValidJsonNumber(state->p, len))
	{
		cleanse_copy(state, len);
		return;
	}
	cleanse_mark(state->marks, state->out.len);
	appendStringInfoChar(&state->out, '"');
	cleanse_copy(state, len);
	appendStringInfoChar(&state->out, '"');
}

/* Replaces an array or object, without looking into it. */
static void
cleanse_skip(Cleanse *state)
{
	int			depth = 0;
	bool		in_string = false;

	appendStringInfoChar(&state->out, '"');
	cleanse_replace(state);
	appendStringInfoChar(&state->out, '"');
	for (; state->p < state->end; state->p++)
	{
		char		c = *state->p;

		if (c == '\\' && in_string)
			state->p = Min(state->p + 1, state->end - 1);
		else if (c == '"')
			in_string = !in_string;
		else if (!in_string && (c == '[' || c == '{'))
			depth++;
		else if (!in_string && (c == ']' || c == '}') && --depth == 0)
		{
			state->p++;
			return;
		}
	}
}

/*
 * Takes the whole answer.  Returns false if no jsonb value could hold it.
 */
static bool
cleanse_answer(Cleanse *state)
{
	int			depth = 0;
	uint64		size = state->end - state->p;

	while (state->p < state->end)
	{
		char		c = *state->p;
		bool		opens = c == '[' || c == '{';

		if (opens || c == ',' || c == ':')
			size += CLEANSE_VALUE_SIZE;
		if (size > KAPTURE_MAX_JSONB)
			return false;
		if (c == '"')
			cleanse_string(state);
		else if (isdigit((unsigned char) c) || c == '-')
			cleanse_number(state);
		else if (opens && depth == CLEANSE_MAX_DEPTH)
			cleanse_skip(state);
		else
		{
			depth += opens ? 1 : c == ']' || c == '}' ? -1 : 0;
			cleanse_character(state, false);
		}
	}
	return true;
}

/*
 * Converts UTF-8 to the database's encoding; characters that it lacks become
 * question marks.  "marks" become places in the result.
 */
static char *
cleanse_convert(StringInfo utf8, StringInfo marks, int encoding, Oid proc)
{
	StringInfoData out;
	StringInfoData converted;	/* marks */
	int			next = 0;		/* mark, in bytes */

	initStringInfo(&out);
	initStringInfo(&converted);
	for (int pos = 0; pos < utf8->len;)
	{
		unsigned char *from = (unsigned char *) utf8->data + pos;
		int			len = Min(utf8->len - pos, CLEANSE_CHUNK);
		int			done;

		for (; next < marks->len; next += sizeof(int))
		{
			int			mark = *(int *) (marks->data + next);

			if (mark > pos)
			{
				len = Min(len, mark - pos);
				break;
			}
			cleanse_mark(&converted, out.len);
		}
		enlargeStringInfo(&out, len * MAX_CONVERSION_GROWTH + 1);
		done = pg_do_encoding_conversion_buf(proc, PG_UTF8, encoding, from, len,
											 (unsigned char *) out.data + out.len,
											 len * MAX_CONVERSION_GROWTH + 1, true);
		out.len += strlen(out.data + out.len);
		pos += done;
		if (done > 0)
			continue;
		cleanse_mark(&converted, out.len);
		appendStringInfoChar(&out, '?');
		pos += pg_utf_mblen(from);
	}
	resetStringInfo(marks);
	appendBinaryStringInfo(marks, converted.data, converted.len);
	pfree(converted.data);
	return out.data;
}

/*
 * kapture_cleanse
 *		The body of an answer as text in the database's encoding, which may still
 *		not be JSON; NULL with the reason in *why if there is no such text.
 *
 * "marks" receives the places (int) in the text, in order, where a value was
 * replaced.  Text and reason are palloc'ed or constant.  Needs a transaction
 * unless the database's encoding is UTF8 or SQL_ASCII.
 * No errors but for lack of memory.
 */
char *
kapture_cleanse(const char *bytes, size_t len, StringInfo marks, char **why)
{
	Cleanse		state = {.p = bytes, .end = bytes + len, .marks = marks};
	int			encoding = GetDatabaseEncoding();
	Oid			proc;
	char	   *text = NULL;

	*why = NULL;
	if (len >= strlen(CLEANSE_BOM) && memcmp(bytes, CLEANSE_BOM, strlen(CLEANSE_BOM)) == 0)
		state.p += strlen(CLEANSE_BOM);
	if (state.p == state.end)
	{
		*why = "it is empty";
		return NULL;
	}
	state.decode = encoding != PG_UTF8;
	initStringInfo(&state.out);
	/* cleansing makes six bytes of one at most */
	if (len > KAPTURE_MAX_JSONB / 2 || !cleanse_answer(&state))
		*why = "it has more data than a jsonb value can hold";
	else if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return state.out.data;
	else if (!OidIsValid(proc = FindDefaultConversionProc(PG_UTF8, encoding)))
		*why = psprintf("there is no conversion from encoding \"%s\" to \"%s\"",
						"UTF8", GetDatabaseEncodingName());
	else
		text = cleanse_convert(&state.out, marks, encoding, proc);
	pfree(state.out.data);
	return text;
}

/* What a byte of an answer may be to cleanse_is_needed(). */
typedef enum CleanseKind
{
	CLEANSE_PLAIN,				/* any other */
	CLEANSE_DIGIT,				/* or a decimal point */
	CLEANSE_OPENING,			/* of an array or object */
	CLEANSE_BACKSLASH,
	CLEANSE_CONTROL
} CleanseKind;

static CleanseKind
cleanse_kind(unsigned char c)
{
	if (c < 0x20)
		return CLEANSE_CONTROL;
	if (isdigit(c) || c == '.')
		return CLEANSE_DIGIT;
	if (c == '[' || c == '{')
		return CLEANSE_OPENING;
	return c == '\\' ? CLEANSE_BACKSLASH : CLEANSE_PLAIN;
}

/*
 * Does a body need kapture_cleanse()?  Numbers are checked if "numbers"; digits in a string
 * may be taken for a number.
 */
static bool
cleanse_is_needed(const char *bytes, size_t len, bool numbers)
{
	static uint8 kinds[256];	/* each byte of each answer is looked up */
	int			opened = 0;
	int			digits = 0;

	if (GetDatabaseEncoding() != PG_UTF8 || len == 0 || len > KAPTURE_MAX_JSONB / 2 ||
		(unsigned char) bytes[0] == (unsigned char) CLEANSE_BOM[0])
		return true;
	if (kinds[0] == CLEANSE_PLAIN)
	{
		for (int c = 0; c < lengthof(kinds); c++)
			kinds[c] = cleanse_kind(c);
	}
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = bytes[i];
		CleanseKind kind = kinds[c];

		/* nearly all bytes pass here */
		if (kind == CLEANSE_PLAIN && digits == 0)
			continue;
		if (kind == CLEANSE_DIGIT)
		{
			if (++digits > CLEANSE_MAX_DIGITS && numbers)
				return true;
			continue;
		}
		if (kind == CLEANSE_CONTROL ||
			(kind == CLEANSE_BACKSLASH && i + 1 < len && bytes[i + 1] == 'u') ||
			((c == 'e' || c == 'E') && digits > 0 && numbers))
			return true;
		opened += kind == CLEANSE_OPENING;
		digits = 0;
	}
	return opened > CLEANSE_MAX_DEPTH || !pg_verify_mbstr(PG_UTF8, bytes, len, true);
}

/*
 * kapture_cleanse_is_needed
 *		Does a body need kapture_cleanse() before a parser can take it?
 *
 * Numbers are not checked: callers do not make jsonb of them.
 */
bool
kapture_cleanse_is_needed(const char *bytes, size_t len)
{
	return cleanse_is_needed(bytes, len, false);
}

/*
 * kapture_cleanse_is_needed_for_jsonb
 *		As kapture_cleanse_is_needed(), for a body of which jsonb is to be made.
 *
 * Numbers and the body's size are checked, too.
 */
bool
kapture_cleanse_is_needed_for_jsonb(const char *bytes, size_t len)
{
	return len > CLEANSE_SMALL || cleanse_is_needed(bytes, len, true);
}
