/*
 * reply.c
 *		Checks of what answers of Kapture mean (api/reply.c).
 */
#include "unit.h"

#include "utils/builtins.h"

#include "api/cleanse.h"
#include "api/reply.h"
#include "api/words.h"

/* Answers, and what they mean to an Add. */
static const struct
{
	int			status;
	const char *answer;
	KaptureVerdict verdict;
	int64		customer_id;
	const char *message;
}			added[] =
{
	{200, "{\"Enquiry\": {\"kapture_customer_id\": 65033646, \"contact_id\": 71186613}, \"message\": \"validation successfull\", \"status\": \"success\"}",
	KAPTURE_SUCCESS, 65033646, "validation successfull"},
	{200, "{\"Message\": \"Customer Added Successfully\", \"Kapture Customer Id\": \"48338968\", \"Status\": \"Success\"}",
	KAPTURE_SUCCESS, 48338968, "Customer Added Successfully"},
	{401, "{\"message\": \"Invalid Auth Key\", \"status\": \"failed\"}", KAPTURE_DENIED, 0, "Invalid Auth Key"},
	{400, "{\"message\": \" ,Mobile number already exist\", \"status\": \"failed\"}",
	KAPTURE_DUPLICATE_PHONE, 0, "Mobile number already exist"},
	{400, "{\"message\": \"Invalid email\", \"status\": \"failed\"}", KAPTURE_REFUSED, 0, "Invalid email"},
	{200, "{\"Message\": \"Auth Key Expired\", \"Status\": \"Fail\"}", KAPTURE_DENIED, 0, "Auth Key Expired"},
	{400, "{\"message\": \"Message Key Expired\", \"status\": \"failed\"}", KAPTURE_DENIED, 0, "Message Key Expired"},
	{500, "{\"reason\": \"AuthKeyInvalid\", \"status\": \"Failed\"}", KAPTURE_DENIED, 0, "AuthKeyInvalid"},
	{200, "{\"message\": \"Invalid Json.\", \"status\": \"failed\"}", KAPTURE_MISFIT, 0, "Invalid Json."},
	{200, "{\"Message\": \"Customer Added Successfully\", \"Status\": \"Success\"}", KAPTURE_SUCCESS, 0, "Customer Added Successfully"},
	{400, "{\"message\": \"Lead already exists, Customer ID :12, Enquiry ID :34\", \"status\": \"failed\"}",
	KAPTURE_DUPLICATE_BOTH, 0, "Lead already exists, Customer ID :12, Enquiry ID :34"},
	{400, "{\"message\": \"Lead already exists\", \"status\": \"failed\"}", KAPTURE_DUPLICATE_BOTH, 0, "Lead already exists"},
	{400, "{\"message\": \"Customer code already exists\", \"status\": \"failed\"}", KAPTURE_REFUSED, 0, "Customer code already exists"},
	{400, "{\"message\": \"Duplicate email\", \"status\": \"failed\"}", KAPTURE_DUPLICATE_EMAIL, 0, "Duplicate email"},
	/* which of several texts decides */
	{200, "{\"message\": \"\", \"reason\": \"Auth key is not valid\", \"status\": \"Fail\"}", KAPTURE_DENIED, 0, "Auth key is not valid"},
	{200, "{\"reason\": \"Auth Key Expired\", \"message\": \"failed\", \"status\": \"Fail\"}", KAPTURE_DENIED, 0, "Auth Key Expired"},
	{400, "{\"message\": \"Not saved\", \"reason\": \"see the log\", \"status\": \"failed\"}", KAPTURE_REFUSED, 0, "Not saved"},
	{400, "{\"message\": \"Mobile number already exist\", \"reason\": \"Invalid email\", \"status\": \"failed\"}",
	KAPTURE_DUPLICATE_PHONE, 0, "Mobile number already exist"},
	/* an answer in an array, as the request is */
	{200, " [{\"Message\": \"Customer Added Successfully\", \"Kapture Customer Id\": \"5\", \"Status\": \"Success\"}]",
	KAPTURE_SUCCESS, 5, "Customer Added Successfully"},
	{200, "[{\"Message\": \"a\", \"Enquiry\": {\"kapture_customer_id\": 5}, \"Status\": \"Success\"}]", KAPTURE_SUCCESS, 5, "a"},
	{400, "[{\"message\": \"Invalid email\", \"status\": \"failed\"}]", KAPTURE_REFUSED, 0, "Invalid email"},
	{200, "[{\"kapture_customer_id\": 5, \"status\": \"success\"}, {\"kapture_customer_id\": 6, \"status\": \"success\"}]", KAPTURE_BROKEN, 0, ""},
	{200, "[[{\"kapture_customer_id\": 5, \"status\": \"success\"}]]", KAPTURE_BROKEN, 0, ""},
	{200, "[]", KAPTURE_BROKEN, 0, ""},
	/* a status in other words, and none */
	{200, "{\"kapture_customer_id\": 5, \"status\": true}", KAPTURE_SUCCESS, 5, ""},
	{200, "{\"kapture_customer_id\": 5, \"status\": 200}", KAPTURE_SUCCESS, 5, ""},
	{200, "{\"kapture_customer_id\": 5, \"status\": \"Successfull\"}", KAPTURE_SUCCESS, 5, ""},
	{200, "{\"message\": \"No\", \"status\": 422}", KAPTURE_REFUSED, 0, "No"},
	{200, "{\"message\": \"No\", \"status\": 500}", KAPTURE_BROKEN, 0, "No"},
	{200, "{\"kapture_customer_id\": 5, \"status\": false}", KAPTURE_REFUSED, 0, ""},
	{200, "{\"kapture_customer_id\": 5, \"status\": \"unsuccessful\"}", KAPTURE_REFUSED, 0, ""},
	{200, "{\"Message\": \"Customer Added Successfully\", \"Kapture Customer Id\": \"5\"}", KAPTURE_SUCCESS, 5, "Customer Added Successfully"},
	{200, "{\"Message\": \"Not successful\", \"Kapture Customer Id\": \"5\"}", KAPTURE_BROKEN, 0, "Not successful"},
	{200, "{\"kapture_customer_id\": 5}", KAPTURE_BROKEN, 0, ""},
	/* faults of the server's, whatever the code */
	{200, "{\"message\": \"Internal Server Error\", \"status\": \"failed\"}", KAPTURE_BROKEN, 0, "Internal Server Error"},
	{400, "{\"message\": \"Too many requests\", \"status\": \"failed\"}", KAPTURE_THROTTLED, 0, "Too many requests"},
	{400, "{\"message\": \"Invalid phone, try again later\", \"status\": \"failed\"}", KAPTURE_REFUSED, 0, "Invalid phone, try again later"},
	{200, "{\"Enquiry\": {\"kapture_customer_id\": 65033646}, \"kapture_customer_id\": 65033646, \"status\": \"success\"}",
	KAPTURE_SUCCESS, 65033646, ""},
	/* two ids that disagree: neither is taken */
	{200, "{\"Enquiry\": {\"kapture_customer_id\": 65033647}, \"kapture_customer_id\": 65033646, \"status\": \"success\"}",
	KAPTURE_BROKEN, 0, "Kapture's answer has two customer ids, 65033646 and 65033647"},
	{200, "{\"kapture_customer_id\": \"9\", \"Enquiry\": {\"kapture_customer_id\": 8, \"contact_id\": 7}, \"status\": \"success\"}",
	KAPTURE_BROKEN, 0, "Kapture's answer has two customer ids, 8 and 9"},
	{429, "{}", KAPTURE_THROTTLED, 0, ""},
	{503, "{}", KAPTURE_BROKEN, 0, ""},
	/* a success that the code denies */
	{302, "{\"kapture_customer_id\": 5, \"status\": \"success\"}", KAPTURE_BROKEN, 0, ""},
	{400, "{\"kapture_customer_id\": 5, \"status\": \"success\"}", KAPTURE_BROKEN, 0, ""},
	{500, "{\"kapture_customer_id\": 5, \"status\": \"success\"}", KAPTURE_BROKEN, 0, ""},
	{404, "{}", KAPTURE_DENIED, 0, ""},
	{408, "{\"message\": \"Invalid email\", \"status\": \"failed\"}", KAPTURE_BROKEN, 0, "Invalid email"},
	{425, "{\"message\": \"Invalid email\", \"status\": \"failed\"}", KAPTURE_BROKEN, 0, "Invalid email"},
	{301, "{\"message\": \"Invalid email\", \"status\": \"failed\"}", KAPTURE_BROKEN, 0, "Invalid email"},
	{404, "{\"message\": \"Customer is locked\", \"status\": \"failed\"}", KAPTURE_DENIED, 0, "Customer is locked"},
	{404, "{\"message\": \"Customer not found\", \"status\": \"success\"}", KAPTURE_DENIED, 0, "Customer not found"},
	{404, "{\"message\": \"Customer not found\"}", KAPTURE_DENIED, 0, "Customer not found"},
	{404, "{\"message\": \"Nothing of the information given can be used\", \"status\": \"failed\"}", KAPTURE_DENIED, 0, "Nothing of the information given can be used"},
	/* words that only look like a success */
	{200, "{\"Message\": \"Unsuccessful\", \"Kapture Customer Id\": \"5\"}", KAPTURE_BROKEN, 0, "Unsuccessful"},
	{200, "{\"Message\": \"Successful, but the contact failed\", \"Kapture Customer Id\": \"5\"}", KAPTURE_BROKEN, 0, "Successful, but the contact failed"},
	{400, "{\"Message\": \"Customer Added Successfully\", \"Kapture Customer Id\": \"5\"}", KAPTURE_REFUSED, 0, "Customer Added Successfully"},
	/* ids and words with blanks around them */
	{200, "{\"kapture_customer_id\": \"  5  \", \"status\": \" success\"}", KAPTURE_SUCCESS, 5, ""},
	{200, "{\"kapture_customer_id\": \"5.00\", \"status\": \"ok\"}", KAPTURE_SUCCESS, 5, ""},
	{200, "{\"kapture_customer_id\": \"5.01\", \"status\": \"200\"}", KAPTURE_SUCCESS, 0, ""},
	{200, "{\"kapture_customer_id\": \"five\", \"status\": \"success\"}", KAPTURE_SUCCESS, 0, ""},
	{200, "{\"kapture_customer_id\": true, \"status\": \"success\"}", KAPTURE_SUCCESS, 0, ""},
	{400, "{\"message\": \" , Not\\n\\t saved , \", \"status\": \"failed\"}", KAPTURE_REFUSED, 0, "Not saved"},
};

/* Answers, and what they mean to a Get: whose customer was found. */
static const struct
{
	const char *answer;
	KaptureVerdict verdict;
	int64		customer_id;
}			found[] =
{
	{"{\"customer_details\": {\"id\": 5}, \"status\": \"success\"}", KAPTURE_SUCCESS, 5},
	{"{\"customer_details\": [{\"id\": 5}, {\"id\": \"5\"}], \"status\": \"success\"}", KAPTURE_SUCCESS, 5},
	{"{\"customer_details\": [{\"id\": 5}, {\"id\": 6}], \"status\": \"success\"}", KAPTURE_SUCCESS, 0},
	{"{\"customer_details\": [{\"id\": 5}, {}], \"status\": \"success\"}", KAPTURE_SUCCESS, 0},
	{"{\"customer_details\": [{\"id\": 5}, 5], \"status\": \"success\"}", KAPTURE_SUCCESS, 0},
	{"{\"customer_details\": [], \"status\": \"success\"}", KAPTURE_NOT_FOUND, 0},
	{"{\"message\": \"Customer not found\", \"status\": \"failed\"}", KAPTURE_NOT_FOUND, 0},
	{"{\"message\": \"No data found\", \"status\": \"failed\"}", KAPTURE_NOT_FOUND, 0},
	/* what is not there is something else */
	{"{\"message\": \"API not found\", \"status\": \"failed\"}", KAPTURE_REFUSED, 0},
	{"{\"message\": \"Employee not found\", \"status\": \"failed\"}", KAPTURE_REFUSED, 0},
	{"{\"message\": \"No database connection\", \"status\": \"failed\"}", KAPTURE_BROKEN, 0},
	{"{\"message\": \"Search is closed\", \"status\": \"failed\"}", KAPTURE_REFUSED, 0},
	{"{\"customer_details\": 5, \"status\": \"success\"}", KAPTURE_BROKEN, 0},
	{"{\"status\": \"success\"}", KAPTURE_BROKEN, 0},
};

/* Refusals of an Add: are their words known to be about values? */
static const struct
{
	const char *words;
	bool		known;
}			refused[] =
{
	{"Name and (Phone Number or Email Id) are required fields", true},
	{"Invalid email id.", true},
	{"Duplicate entry", true},
	{"Zone is mandatory", false},
	{"contact_person_name is mandatory", false},
	{"customer_assign_emp_email is required", false},
	{"Your plan does not allow it any more", false},
	{"", false},
};

/* Answers to Add that are read as they come, if they are plain, and others that only look so. */
static const char *const written[] = {
	"{\"status\": \"success\", \"enquiry\": {\"Kapture_Customer_Id\": 5, \"Phone\": \"1\", \"x\": [1, {\"phone\": \"2\"}], \"y\": {\"kapture_customer_id\": 6}}}",
	"  {\"status\":\"success\",\"kapture_customer_id\":\"7\",\"a\":[],\"b\":{},\"c\":[[],[{}]],\"d\":-0.5,\"e\":null,\"f\":true}  ",
	"{\"status\": \"success\", \"kapture_customer_id\": 7e0}",
	"{\"status\": \"success\", \"kapture_customer_id\": 123456789012345678901234567890}",
	"{\"status\": \"succ\\u0065ss\", \"kapture_customer_id\": 8}",
	"{\"status\": \"success\", \"kapture\\u005fcustomer_id\": 8}",
	"{\"status\": \"success\",\n\"kapture_customer_id\": 8, \"name\": \"\303\244\"}",
	"{\"status\": \"success\", \"enquiry\": [{\"kapture_customer_id\": 8}], \"kapture_customer_id\": 9}",
	"{\"status\": \"success\", \"other\": {\"kapture_customer_id\": 8}, \"enquiry\": {\"kapture_customer_id\": 9}}",
	"{\"status\": \"success\", \"enquiry\": {\"kapture_customer_id\": 8}, \"other\": {\"kapture_customer_id\": 9, \"phone\": \"3\"}}",
	"{\"status\": \"success\", \"phone\": \"1\", \"enquiry\": {\"kapture_customer_id\": 8}}",
	"{\"status\": \"success\", \"enquiry\": {\"phone\": \"1\", \"kapture_customer_id\": 8}, \"phone\": \"2\"}",
	"{\" status\": \"success\", \"_kapture_customer_id\": 8}",
	"{\"status\": \"success\", \"kapture_customer_id\": 8, \"note\": \"line\nbreak\ttab\"}",
	"{\"status\": -0, \"kapture_customer_id\": 8}",
	"{\"status\": \"failed\", \"message\": 1e2000}",
	"{\"status\": \"failed\", \"message\": \"Mobile number  already exists\", \"error\": \"no\"}",
	"{\"status\": \"success\", \"kapture_customer_id\": 01}",
	"{\"status\": \"success\", \"kapture_customer_id\": 1.}",
	"{\"status\": \"success\", \"kapture_customer_id\": 1x}",
	"{\"status\": \"success\", \"kapture_customer_id\": tru}",
	"{\"status\": \"success\", \"kapture_customer_id\": 1,}",
	"{\"status\": \"success\", , \"kapture_customer_id\": 1}",
	"{\"status\": \"success\" \"kapture_customer_id\": 1}",
	"{\"status\": \"success\", \"kapture_customer_id\" 1}",
	"{\"status\": \"success\", \"kapture_customer_id\": 1]",
	"{\"status\": \"success\", \"kapture_customer_id\": [1}",
	"{\"status\": \"success\", \"kapture_customer_id\": 1} 2",
	"{\"status\": \"success\", \"kapture_customer_id\": 1, \"a\": \"",
	"{\"status\": \"success\", \"kapture_customer_id\":",
	"{\"status\": \"success\", 1: 2}",
	"{\"status\": \"success\", \"a\": [,1]}",
	"{\"status\": \"success\", \"a\": [1,]}",
	"{",
};

/* Ids that refusals name. */
static const struct
{
	const char *text;
	int64		id;
}			named[] =
{
	{"Lead already exists, Customer ID :12, Enquiry ID :34, Contact ID : 56", 12},
	{"customer id: 7.", 7},
	{"Customer ID :12x", 0},
	{"Customer ID :99999999999999999999", 0},
	{"Customer ID", 0},
	{"Enquiry ID :34", 0},
	{"", 0},
};

/* Texts that are JSON as Kapture writes it, and others. */
static const struct
{
	const char *text;
	bool		good;
}			texts[] =
{
	{"{\"a\": 1}", true},
	{"[]", true},
	{"{\"remarks\": \"line\nbreak\ttab\"}", true},
	{"{\"a\": 1", false},
	{"{'a': 1}", false},
	{"", false},
	{"<html>", false},
	{"{\"a\": 1} trailing", false},
};

/* What is not looked through before the parser has it could be held as it is. */
static void
unit_reply_cleansed(void)
{
	static const struct
	{
		const char *body;
		bool		needed;
	}			bodies[] = {
		{"{\"phone\": \"9845765226\", \"rate\": 1.5, \"id\": -65033646}", false},
		{"{\"name\": \"\xE0\xA4\xAA\", \"url\": \"http:\\/\\/kapturecrm.com\"}", false},
		{"{\"name\": \"\xE0\xA4\"}", true},
		{"{\"name\": \"a\nb\"}", true},
		{"{\"name\": \"\\u0000\"}", true},
		{"{\"rate\": 1e1001}", true},
		{"{\"rate\": 1.5E-1001}", true},
		{"", true}
	};
	char	   *digits = psprintf("[%0*d]", 1001, 7);
	char	   *why = NULL;
	bool		altered = false;

	for (int i = 0; i < lengthof(bodies); i++)
		unit_ok(kapture_cleanse_is_needed_for_jsonb(bodies[i].body, strlen(bodies[i].body)) == bodies[i].needed,
				"%s as it is: %d", bodies[i].needed ? "not" : "parsed", i);
	unit_ok(kapture_cleanse_is_needed_for_jsonb(digits, strlen(digits)), "a number of too many digits");
	digits[1] = '1';
	unit_ok(kapture_message_parse(digits, strlen(digits), &altered, &why) != NULL && altered, "becomes a string");
	unit_ok(kapture_message_parse("[1e1001]", 8, &altered, &why) != NULL && altered, "one that is too large, too");
	unit_ok(kapture_message_parse("[1]e", 3, &altered, &why) != NULL && !altered, "a body ends where it ends");
	unit_ok(kapture_message_parse("[\"a\": 1]", 8, &altered, &why) == NULL && why != NULL, "what is no JSON has a reason");
	{
		/* what is nested too deeply becomes null as a whole, wherever its strings seem to end */
		StringInfoData deep;
		Jsonb	   *parsed;

		initStringInfo(&deep);
		for (int i = 0; i < 101; i++)
			appendStringInfoChar(&deep, '[');
		appendStringInfoString(&deep, "{\"a\\\"]\": [\"}\\\\\", {}]}");
		for (int i = 0; i < 101; i++)
			appendStringInfoChar(&deep, ']');
		parsed = kapture_message_parse(deep.data, deep.len, &altered, &why);
		unit_ok(parsed != NULL && altered, "an answer that is nested too deeply can be read");
		/* cut off within a string, after a backslash, or within an object */
		deep.len = strlen(deep.data) - 101 - 5;
		unit_ok(kapture_message_parse(deep.data, deep.len, &altered, &why) == NULL, "unless it is cut off");
		deep.len = 101 + 4;
		unit_ok(kapture_message_parse(deep.data, deep.len, &altered, &why) == NULL, "or within a string");
	}
	unit_ok(kapture_message_parse("[\x01" "1e99999-9]", 12, &altered, &why) == NULL && why != NULL, "so have two numbers without a comma, one of them too large");
	unit_ok(kapture_message_parse("[1e99999-9]", 11, &altered, &why) == NULL && why != NULL, "in an answer that is clean otherwise, too");
}

/* What jsonb_in() makes of a text is what answers become, with escapes and without. */
static void
unit_reply_jsonb(void)
{
	static char *const texts[] = {
		"{\"status\": \"success\", \"Enquiry\": {\"phone\": \"9874563725\", \"age\": 0, \"rate\": -1.50, \"zone\": \"\"}}",
		"{\"a\" : [ ] , \"b\" : { } , \"\" : [ \"x\" , 1e3 , -0 , true , false , null , [ \"y\" ] , { \"z\" : [ 2 ] } ] }",
		"{\"twice\": 1, \"other\": \"x\", \"twice\": [\"last\"]}",
		"[{\"name\": \"\xE0\xA4\xAA\"}, {\"url\": \"http:\\/\\/kapturecrm.com\", \"a\\\"b\": \"tab\\t\"}, \"c\\\\d\"]",
		"[\"\", \"one\"]", "[]", "{}", " \"text\" ", "\"a\\\"b\"", "65033646", " -1.0", "true", "null"
	};

	for (int i = 0; i < lengthof(texts); i++)
	{
		char	   *why = NULL;
		Jsonb	   *parsed = kapture_message_parse(texts[i], strlen(texts[i]), NULL, &why);
		Jsonb	   *expected = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(texts[i])));

		unit_ok(parsed != NULL && VARSIZE(parsed) == VARSIZE(expected) && memcmp(parsed, expected, VARSIZE(expected)) == 0,
				"as jsonb_in() has it: %s", texts[i]);
	}
}

static bool
unit_reply_wants(void *arg, const char *key, int len)
{
	return len == strlen(arg) && memcmp(key, arg, len) == 0;
}

/* Of customers, the wanted values are taken, wherever they are. */
static void
unit_reply_parts(void)
{
	/* without escapes, and with them */
	static const char *const urls[] = {"http://kapturecrm.com", "http:\\/\\/kapturecrm.com"};
	static char *const expected[] = {
		"{\"tags\": [\"x\", \"y\"], \"zone\": {\"deep\": [[{\"phone\": 4}]], \"phone\": null},"
		" \"phone\": \"9\", \"people\": [{\"phone\": \"8\"}, \"a\"]}",
		"5", "{\"phone\": \"2\"}"
	};

	for (int u = 0; u < lengthof(urls); u++)
	{
		char	   *answer = psprintf("{\"status\": \"success\", \"message\": ["
									  "{\"id\": 1, \"phone\": \"9\", \"name\": null, \"people\": [{\"phone\": \"8\", \"fax\": \"7\"}, \"a\"],"
									  " \"tags\": [\"x\", \"y\"], \"zone\": {\"id\": 3, \"phone\": null, \"deep\": [[{\"phone\": 4}]]}, \"url\": \"%s\"},"
									  " 5, {\"url\": \"%s\", \"phone\": \"2\"}]}", urls[u], urls[u]);
		char	   *why = NULL;
		KaptureList *list = kapture_message_split(answer, strlen(answer), CurrentMemoryContext, &why);

		unit_is_int(list ? list->ncustomers : 0, lengthof(expected), "customers of an answer");
		for (int i = 0; list && i < list->ncustomers; i++)
		{
			Jsonb	   *parts = kapture_message_customer_parts(list, i, unit_reply_wants, "phone");

			unit_is_text(JsonbToCString(NULL, &parts->root, VARSIZE(parts)), expected[i], psprintf("the phones of customer %d", i));
		}
	}
}

/* What Kapture repeats of the values that were sent says nothing. */
static const struct
{
	const char *words;
	char	   *value;
	KaptureVerdict verdict;
	bool		known;
}			repeated[] =
{
	{"City Too Many Requests is not served", "Too Many Requests", KAPTURE_REFUSED, false},
	{"City too  many requests is not served", "Too Many\nRequests ", KAPTURE_REFUSED, false},
	{"City Too Many Requests is not served", NULL, KAPTURE_THROTTLED, true},
	{"City Too Many Requests is not served", "Many Requests", KAPTURE_REFUSED, false},
	{"Too many requests", "many", KAPTURE_REFUSED, false},
	{"Too many requests from Goa", "Goa", KAPTURE_THROTTLED, true},
	{"Zone Unauthorized is mandatory", "Unauthorized", KAPTURE_REFUSED, false},
	{"Zone unauthorizeds is mandatory", "Unauthorized", KAPTURE_DENIED, false},
	{"Campaign 'Internal Server Works' unknown", "Internal Server Works", KAPTURE_REFUSED, false},
	{"Campaign Duplicate leads unknown", "Duplicate leads", KAPTURE_REFUSED, false},
	{"This phone already exists", "phone", KAPTURE_DUPLICATE_PHONE, true},
	{"This phone already exists", "", KAPTURE_DUPLICATE_PHONE, true},
	{"Invalid API key for Rate Limited", "Rate Limited", KAPTURE_DENIED, false},
};

static void
unit_reply_repeated(void)
{
	for (int i = 0; i < lengthof(repeated); i++)
	{
		char	   *values[2] = {NULL, repeated[i].value};
		KaptureSent sent = {values, lengthof(values)};
		char	   *answer = psprintf("{\"message\": \"%s\", \"status\": \"failed\"}", repeated[i].words);
		KaptureReply reply = {0};
		char	   *why = NULL;

		kapture_message_judge_written(KAPTURE_API_ADD, 400, answer, strlen(answer), &sent, &reply, &why);
		unit_is_int(reply.verdict, repeated[i].verdict, psprintf("what \"%s\" means to who sent \"%s\"", repeated[i].words,
																 repeated[i].value ? repeated[i].value : ""));
		unit_ok(reply.is_known == repeated[i].known, "is it known: %s", repeated[i].words);
	}
}

void
unit_reply(void)
{
	unit_reply_cleansed();
	unit_reply_jsonb();
	unit_reply_parts();
	unit_reply_repeated();
	for (int i = 0; i < lengthof(added); i++)
	{
		KaptureReply reply = {0};
		char	   *why = NULL;

		kapture_message_judge_written(KAPTURE_API_ADD, added[i].status, added[i].answer, strlen(added[i].answer), NULL, &reply, &why);
		unit_is_int(reply.verdict, added[i].verdict, psprintf("what %d %.60s means", added[i].status, added[i].answer));
		unit_is_int(reply.customer_id, added[i].customer_id, "its id");
		unit_is_text(reply.message, added[i].message, "its words");
	}
	for (int i = 0; i < lengthof(added); i++)
	{
		KaptureReply reply = {0};
		char	   *why = NULL;

		/* one that is parsed means the same as one that is scanned */
		kapture_message_judge(KAPTURE_API_ADD, added[i].status, kapture_message_parse(added[i].answer, strlen(added[i].answer), NULL, &why), NULL, &reply);
		unit_is_int(reply.verdict, added[i].verdict, psprintf("what %d %.60s means, parsed", added[i].status, added[i].answer));
		unit_is_int(reply.customer_id, added[i].customer_id, "its id");
	}
	for (int i = 0; i < lengthof(written); i++)
	{
		KaptureReply reply = {0};
		KaptureReply parsed = {0};
		char	   *why = NULL;
		char	   *parsed_why = NULL;

		kapture_message_judge_written(KAPTURE_API_ADD, 200, written[i], strlen(written[i]), NULL, &reply, &why);
		kapture_message_judge(KAPTURE_API_ADD, 200, kapture_message_parse(written[i], strlen(written[i]), NULL, &parsed_why), NULL, &parsed);
		unit_ok((why == NULL) == (parsed_why == NULL), "is it an answer: %.60s", written[i]);
		unit_is_int(reply.verdict, parsed.verdict, psprintf("what %.60s means, read as it comes and parsed", written[i]));
		unit_is_int(reply.customer_id, parsed.customer_id, "its id, both ways");
		unit_is_text(reply.message, parsed.message, "its words, both ways");
		unit_is_text(reply.repeated.phone, parsed.repeated.phone, "its phone, both ways");
	}
	for (int i = 0; i < lengthof(found); i++)
	{
		KaptureReply reply = {0};
		char	   *why = NULL;

		kapture_message_judge(KAPTURE_API_GET, 200, kapture_message_parse(found[i].answer, strlen(found[i].answer), NULL, &why), NULL, &reply);
		unit_is_int(reply.verdict, found[i].verdict, psprintf("what Get's %.80s means", found[i].answer));
		unit_is_int(reply.customer_id, found[i].customer_id, "the id that it found");
	}
	for (int i = 0; i < lengthof(refused); i++)
	{
		char	   *answer = psprintf("{\"message\": \"%s\", \"status\": \"failed\"}", refused[i].words);
		KaptureReply reply = {0};
		char	   *why = NULL;

		kapture_message_judge_written(KAPTURE_API_ADD, 400, answer, strlen(answer), NULL, &reply, &why);
		unit_is_int(reply.verdict, KAPTURE_REFUSED, psprintf("\"%s\" is a refusal", refused[i].words));
		unit_ok(reply.is_known == refused[i].known, "in words that are known, or not: %s", refused[i].words);
	}
	for (int i = 0; i < lengthof(named); i++)
		unit_is_int(kapture_words_customer_id(named[i].text), named[i].id, psprintf("the id that \"%s\" names", named[i].text));
	for (int i = 0; i < lengthof(texts); i++)
	{
		char	   *why = NULL;
		Jsonb	   *parsed = kapture_message_parse(texts[i].text, strlen(texts[i].text), NULL, &why);

		unit_ok((parsed != NULL) == texts[i].good, "is it JSON: %.40s", texts[i].text);
		unit_ok(parsed != NULL || why != NULL, "if not, there is a reason");
	}
	unit_is_text(kapture_message_date(unit_time("2021-03-14 14:21:11.9")), "2021-03-14 14:21:11", "a date as Kapture reads it");
}
