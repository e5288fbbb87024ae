/*
 * dialect.c
 *		Checks of bodies in an account's form (api/dialect.c).
 */
#include "unit.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "api/dialect.h"

static Jsonb *
dialect_jsonb(const char *text)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

/* What is found of a field, as text; NULL if it is not there. */
static const char *
dialect_found(const KaptureDialectEntry *names, const char *object, const char *field)
{
	JsonbValue	value;

	if (!kapture_dialect_value(names, dialect_jsonb(object), field, &value))
		return NULL;
	if (value.type == jbvBinary)
		return JsonbToCString(NULL, value.val.binary.data, value.val.binary.len);
	return value.type == jbvString ? pnstrdup(value.val.string.val, value.val.string.len) : "of another type";
}

void
unit_dialect(void)
{
	static const struct
	{
		const char *body;
		const char *sent;
	}			bodies[] = {
		{"{}", "{}"},
		{"{\"customer_name\":\"A\"}", "{\"who\": {\"name\": \"A\"}}"},
		{"{\"phone\":\"9876543210\", \"email_id\":\"a@b.example\"}", "{\"contacts\": [{\"phone\": \"9876543210\", \"mail\": \"a@b.example\"}]}"},
		/* values are taken as they are, whatever they contain */
		{"{\"city\":\"a, \\\"b\\\" {c} [d] \\\\\", \"customer_name\":\"B\"}", "{\"city\": \"a, \\\"b\\\" {c} [d] \\\\\", \"who\": {\"name\": \"B\"}}"},
		{"{\"city\":[1, {\"a\": \"]}\", \"b\": []}], \"customer_name\":\"B\"}", "{\"city\": [1, {\"a\": \"]}\", \"b\": []}], \"who\": {\"name\": \"B\"}}"},
		{"{\"city\":{\"a\": {\"b\": [1, 2]}}, \"state\":null}", "{\"city\": {\"a\": {\"b\": [1, 2]}}, \"state\": null}"},
	};
	static const struct
	{
		const char *object;
		const char *found;
	}			phones[] = {
		{"{\"contacts\": [{\"phone\": \"9876543210\"}]}", "9876543210"},
		{"{\"contacts\": [{\"phone\": \"1\"}, {\"phone\": \"2\"}]}", "1"},
		{"{\"contacts\": [{\"mail\": \"1\"}]}", NULL},
		{"{\"contacts\": [\"9876543210\"]}", NULL},
		{"{\"contacts\": [[\"phone\"]]}", NULL},
		{"{\"contacts\": []}", NULL},
		{"{\"contacts\": {\"phone\": \"1\"}}", NULL},
		{"{\"contacts\": \"phone\"}", NULL},
		{"{\"phone\": \"1\"}", NULL},
		{"{}", NULL},
	};
	char	   *why = NULL;
	KaptureDialectEntry *names = kapture_dialect_read_names(dialect_jsonb("{\"customer_name\": \"who.name\", \"phone\": \"contacts[0].phone\","
																		  " \"email_id\": \"contacts[0].mail\", \"zone\": \"zones[1]\"}"), &why);

	unit_is_text(why, NULL, "names of fields");
	for (int i = 0; i < lengthof(bodies); i++)
		unit_is_text(kapture_dialect_body(names, NULL, bodies[i].body), bodies[i].sent, psprintf("what is sent for %s", bodies[i].body));
	for (int i = 0; i < lengthof(phones); i++)
		unit_is_text(dialect_found(names, phones[i].object, "phone"), phones[i].found, psprintf("the phone in %s", phones[i].object));
	unit_is_text(dialect_found(names, "{\"who\": {\"name\": \"A\"}}", "customer_name"), "A", "a name in an object");
	unit_is_text(dialect_found(names, "{\"who\": \"A\"}", "customer_name"), NULL, "which is none");
	unit_is_text(dialect_found(names, "{\"zones\": [\"a\", \"b\"]}", "zone"), "b", "an element of an array");
	unit_is_text(dialect_found(names, "{\"zones\": [\"a\"]}", "zone"), NULL, "that is too short");
	unit_is_text(dialect_found(names, "{\"city\": \"Pune\"}", "city"), "Pune", "a field without another name");
	unit_is_text(dialect_found(NULL, "{\"city\": 1}", "city"), "of another type", "or without any names");
	unit_ok(kapture_dialect_is_used(names, "who.name"), "a name that is used");
	unit_ok(!kapture_dialect_is_used(names, "customer_name"), "one that is not");
	unit_ok(!kapture_dialect_is_used(NULL, "customer_name"), "nor without names");
	unit_ok(kapture_dialect_read_names(dialect_jsonb("{\"phone\": \"a[\"}"), &why) == NULL && why != NULL, "an index without an end");
	unit_ok(kapture_dialect_read_names(dialect_jsonb("{\"phone\": \"a[1\"}"), &why) == NULL && why != NULL, "or without its bracket");
	unit_ok(kapture_dialect_read_names(dialect_jsonb("{\"phone\": \"a[x]\"}"), &why) == NULL && why != NULL, "or that is no digit");
	unit_ok(kapture_dialect_read_names(dialect_jsonb("{\"phone\": \"a.\"}"), &why) == NULL && why != NULL, "a name that ends with a dot");
	unit_ok(kapture_dialect_read_names(dialect_jsonb("{\"phone\": \"a[0]b\"}"), &why) == NULL && why != NULL, "something behind a bracket");
}
