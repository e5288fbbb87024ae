/*
 * plain_json.c
 *		Checks of base/plain_json.c: what it takes is what jsonb_in() makes of it.
 */
#include "unit.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "base/plain_json.h"

/* JSON that is plain. */
static const char *const plain[] = {
	"{}", "[]", " { } ", "\t[\r\n]\n",
	"{\"a\": 1, \"b\": -0, \"c\": 0, \"d\": 123456789012345678, \"e\": -123456789012345678}",
	"{\"b\": true, \"a\": false, \"c\": null, \"aa\": \"\", \"\": \"empty key\"}",
	"{\"a\": 1, \"a\": {\"a\": 2, \"a\": 3}, \"a\": \"the last one stays\"}",
	"{\"a\":[{\"b\":[1,\"2\",[],{}]},[[]],null]}",
	"[1 , 2\t,\n3]", "[true,false,null]",
	"{\"customer\": \"\xE0\xA4\xAA\xE0\xA5\x8D\xE0\xA4\xB0\xE0\xA4\xBF\xE0\xA4\xAF\xE0\xA4\xBE \xF0\x9F\x98\x80 \x7F\"}",
	"[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]"
};

/* JSON that is not, and what is none. */
static const char *const others[] = {
	"", " ", "1", "\"a\"", "null", "{", "}", "[", "]", "{]", "[}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}", "[1,]", "[,1]",
	"[1 2]", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{a:1}", "{1:2}", "{\"a\":1}}", "[1]]", "[1] 2", "{\"a\":1};", "[\"a]", "[\"a\n\"]",
	"[\"a\\n\"]", "[\"\\u0041\"]", "[\"a\\\"]", "[\"\x01\"]", "[\"\xFF\"]", "[\"\xE0\xA4\"]", "[\"\xC0\x80\"]", "[\"\xED\xA0\x80\"]",
	"[01]", "[-]", "[--1]", "[+1]", "[1.5]", "[1e3]", "[1.]", "[.5]", "[1a]", "[1\"\"]", "[1{}]", "[1234567890123456789]",
	"[tru]", "[truee]", "[nul]", "[True]", "[true1]", "[true\"\"]", "[falsefalse]",
	"[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]"
};

static char *
unit_jsonb_text(Jsonb *jsonb)
{
	return JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
}

void
unit_plain_json(void)
{
	for (int i = 0; i < lengthof(plain); i++)
	{
		Jsonb	   *got = kapture_plain_json(plain[i], strlen(plain[i]));
		Jsonb	   *expected = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(plain[i])));

		unit_ok(got != NULL, "plain: %d", i);
		unit_ok(got && VARSIZE(got) == VARSIZE(expected) && memcmp(got, expected, VARSIZE(got)) == 0,
				"and it is %s", unit_jsonb_text(expected));
		/* whatever is missing at its end, it is read no further */
		for (int len = 0; got && len < (int) strlen(plain[i]); len++)
		{
			char	   *cut = pnstrdup(plain[i], len);

			got = kapture_plain_json(plain[i], len);
			if (got && !(strspn(plain[i] + len, " \t\r\n") == strlen(plain[i] + len)))
				unit_ok(false, "%s is taken for whole", cut);
		}
	}
	for (int i = 0; i < lengthof(others); i++)
		unit_ok(kapture_plain_json(others[i], strlen(others[i])) == NULL, "left to others: %d", i);
	unit_ok(kapture_plain_json("[\"a\0b\"]", 7) == NULL, "the character NUL, too");
	unit_ok(kapture_plain_json("[1\0]", 4) == NULL, "behind a number, too");
}
