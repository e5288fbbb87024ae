/*
 * field_map.c
 *		Which columns, expressions and constants feed Kapture's fields.
 *
 * Takes the mapping arguments of kapture_attach(), and reports what is wrong with them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "parser/scansup.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "api/field.h"
#include "base/compat.h"
#include "mapping/field_advice.h"
#include "mapping/field_map.h"

#define MAPPING_HINT \
	"Say which column feeds which field, for example columns => '{\"customer_name\": \"name\", \"phone\": \"mobile\"}'."

/* Refuses fields that Kapture generates itself. */
static void
mapping_check_field(const char *field)
{
	if (strcmp(field, "kapture_customer_id") == 0 || strcmp(field, "contact_id") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("field \"%s\" cannot be mapped", field),
				 errdetail("Kapture generates it."),
				 field[0] == 'k' ? errhint("The column that receives it is named by argument \"id_column\".") : errhint("Leave it out.")));
}

static KaptureMapping *
mapping_make(const char *field)
{
	KaptureMapping *mapping = palloc0(sizeof(KaptureMapping));

	mapping_check_field(field);
	mapping->field = pstrdup(field);
	return mapping;
}

/* A field that a column feeds. */
static KaptureMapping *
mapping_of_column(Relation rel, const char *field, const char *name, const char *id_column)
{
	KaptureMapping *mapping = mapping_make(field);
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);
	char	   *hint;

	if (attnum <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist", name, RelationGetRelationName(rel)),
				 errdetail("The argument \"columns\" maps the Kapture field \"%s\" to it.", field),
				 strpbrk(name, "( |") ?
				 errhint("Write an expression as {\"%s\": {\"expression\": \"...\"}}.", field) :
				 (hint = kapture_advice_no_column(rel, field, name)) ? errhint("%s", hint) :
				 errhint("Name a column of the table, or write an expression as {\"%s\": {\"expression\": \"...\"}}.", field)));
	if (id_column && strcmp(name, id_column) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" cannot be mapped", name),
				 errdetail("It receives the id that Kapture gives.")));
	if (get_attgenerated(RelationGetRelid(rel), attnum) == ATTRIBUTE_GENERATED_VIRTUAL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("column \"%s\" cannot be mapped", name),
				 errdetail("It is computed when it is read, so no trigger sees it change."),
				 errhint("Make it a stored generated column, or map the columns it is made of.")));
	kapture_advice_mapped(rel, field, name);
	mapping->name = pstrdup(name);
	mapping->attnum = attnum;
	return mapping;
}

/* A JSON string, number or boolean as text, in the current memory context; NULL for all else. */
static char *
mapping_scalar(const JsonbValue *v)
{
	switch (v->type)
	{
		case jbvString:
			return pnstrdup(v->val.string.val, v->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v->val.numeric)));
		case jbvBool:
			return pstrdup(v->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

/* The value of a key of a JSON object, NULL if it has none. */
static JsonbValue *
mapping_member(const JsonbValue *object, const char *key)
{
	return getKeyJsonValueFromContainer(object->val.binary.data, key, strlen(key), NULL);
}

/* A field that is computed: {"expression": "..."} or {"constant": "..."}. */
static KaptureMapping *
mapping_of_object(Relation rel, const char *field, const JsonbValue *object)
{
	KaptureMapping *mapping = mapping_make(field);
	JsonbValue *expression = mapping_member(object, "expression");
	JsonbValue *constant = mapping_member(object, "constant");

	if (JsonContainerSize(object->val.binary.data) != 1 || (expression == NULL && constant == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"columns\" does not say where the Kapture field \"%s\" comes from", field),
				 errdetail("An object must have one key, \"expression\" or \"constant\"."),
				 errhint("Write {\"%s\": {\"expression\": \"...\"}}, or {\"%s\": \"name of a column\"}.", field, field)));
	if (constant)
		mapping->constant = mapping_scalar(constant);
	if (constant && (mapping->constant == NULL || mapping->constant[0] == '\0'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"columns\" has no constant for the Kapture field \"%s\"", field),
				 errdetail("The constant must be a JSON string that is not empty, a number, true or false.")));
	if (expression && expression->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"columns\" has no expression for the Kapture field \"%s\"", field),
				 errdetail("The expression must be a JSON string.")));
	if (expression)
		mapping->expression = kapture_expression_take(rel, mapping_scalar(expression), field);
	kapture_advice_computed(field, expression ? mapping->expression->type : InvalidOid);
	return mapping;
}

/* The mappings that argument "columns" asks for. */
static List *
mapping_given(Relation rel, Jsonb *columns, const char *id_column)
{
	List	   *mappings = NIL;
	JsonbIterator *it;
	JsonbValue	v;
	JsonbIteratorToken token;
	char	   *field = NULL;

	if (!JB_ROOT_IS_OBJECT(columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"columns\" must be a JSON object"),
				 errhint("Give it as {\"Kapture field\": \"column\", ...}, for example {\"customer_name\": \"name\", \"phone\": \"mobile\"}.")));
	it = JsonbIteratorInit(&columns->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			field = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && v.type == jbvString)
			mappings = lappend(mappings, mapping_of_column(rel, field, mapping_scalar(&v), id_column));
		else if (token == WJB_VALUE && v.type == jbvBinary && JsonContainerIsObject(v.val.binary.data))
			mappings = lappend(mappings, mapping_of_object(rel, field, &v));
		else if (token == WJB_VALUE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"columns\" has no column name for the Kapture field \"%s\"", field),
					 errdetail("The name must be a JSON string."),
					 errhint("Write a value that is computed as {\"expression\": \"...\"} or {\"constant\": \"...\"}.")));
	}
	if (mappings == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"columns\" maps no column"),
				 errhint("Leave it out to map the columns that are named like Kapture's fields, or give it as {\"Kapture field\": \"column\", ...}.")));
	return mappings;
}

/* The column named like a field: exactly, else in lower case, else (in a view) in any case; NULL if there is none. */
static const char *
mapping_find_column(Relation rel, const char *field)
{
	char	   *folded = downcase_identifier(field, strlen(field), false, false);

	if (get_attnum(RelationGetRelid(rel), field) > 0)
		return field;
	if (get_attnum(RelationGetRelid(rel), folded) > 0)
		return folded;
	for (int i = 0; rel->rd_rel->relkind == RELKIND_VIEW && i < RelationGetNumberOfAttributes(rel); i++)
	{
		const char *name = NameStr(TupleDescAttr(RelationGetDescr(rel), i)->attname);

		if (pg_strcasecmp(name, field) == 0)
			return name;
	}
	return NULL;
}

/* The columns that are named like Kapture's fields. */
static List *
mapping_default(Relation rel, const char *id_column)
{
	List	   *mappings = NIL;

	for (int i = 0; i < kapture_nfields; i++)
	{
		const char *name = kapture_fields[i].name;
		const char *column;

		if (!kapture_fields[i].is_mapped || kapture_fields[i].is_extra)
			continue;
		column = mapping_find_column(rel, name);
		if (column)
			mappings = lappend(mappings, mapping_of_column(rel, name, column, id_column));
	}
	if (mappings == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("%s \"%s\" has no column named like a field of Kapture",
						rel->rd_rel->relkind == RELKIND_VIEW ? "view" : "table", RelationGetRelationName(rel)),
				 errhint(MAPPING_HINT)));
	return mappings;
}

/* Refuses too many fields, and too few for a customer: Kapture wants a name, and a phone or an email. */
static void
mapping_check(List *mappings)
{
	ListCell   *lc;
	bool		name = false;
	bool		contact = false;

	if (list_length(mappings) > KAPTURE_MAX_MAPPED)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("%d fields are mapped, but at most %d can be", list_length(mappings), KAPTURE_MAX_MAPPED),
				 errhint("Leave out fields that Kapture need not have.")));
	foreach(lc, mappings)
	{
		KaptureMapping *mapping = lfirst(lc);

		name |= strcmp(mapping->field, "customer_name") == 0;
		contact |= strcmp(mapping->field, "phone") == 0 || strcmp(mapping->field, "email_id") == 0;
	}
	if (!name || !contact)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no column is mapped to %s", name ? "\"phone\" or \"email_id\"" : "\"customer_name\""),
				 errdetail("Kapture accepts customers with a name and a phone or an email only."),
				 errhint(MAPPING_HINT)));
}

/*
 * Returns where the fields of Kapture's get their values (list of KaptureMapping, in the
 * current memory context): as "columns" says, or, if that is NULL, from the columns
 * that have their names.  Errors: 42703 no such column, 22023 something is malformed or
 * missing, and those of kapture_expression_take().
 */
List *
kapture_mapping_take(Relation rel, Jsonb *columns, const char *id_column)
{
	List	   *mappings = columns ? mapping_given(rel, columns, id_column) : mapping_default(rel, id_column);

	mapping_check(mappings);
	return mappings;
}

/* Reports which columns of a view are not sent, as they have no field's name. */
static void
mapping_note_ignored(Relation view, List *mappings, List *keys)
{
	for (int i = 0; i < RelationGetNumberOfAttributes(view); i++)
	{
		const char *name = NameStr(TupleDescAttr(RelationGetDescr(view), i)->attname);
		const char *nearest = kapture_field_nearest(name);
		bool		used = false;
		ListCell   *lc;

		foreach(lc, mappings)
			used |= ((KaptureMapping *) lfirst(lc))->name && strcmp(((KaptureMapping *) lfirst(lc))->name, name) == 0;
		foreach(lc, keys)
			used |= strcmp(lfirst(lc), name) == 0;
		if (!used)
			ereport(NOTICE,
					(errmsg("column \"%s\" of view \"%s\" is not sent to Kapture", name, RelationGetRelationName(view)),
					 nearest ? errhint("Perhaps you meant the field \"%s\".", nearest) : 0));
	}
}

/*
 * As kapture_mapping_take(), from a view, which has the columns "keys" (list of names)
 * besides.
 */
List *
kapture_mapping_take_of_view(Relation view, Jsonb *columns, List *keys)
{
	List	   *mappings = kapture_mapping_take(view, columns, NULL);

	if (columns == NULL)
		mapping_note_ignored(view, mappings, keys);
	return mappings;
}

/*
 * Returns an object of fields and constants with all constants as strings, in the
 * current memory context.  Errors out (22023) if "constants" is no such object.
 */
Jsonb *
kapture_mapping_take_constants(Jsonb *constants, const char *argument)
{
	JsonbInState state = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		good = JB_ROOT_IS_OBJECT(constants) && JB_ROOT_COUNT(constants) > 0;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	it = JsonbIteratorInit(&constants->root);
	while (good && (token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			char	   *field = pnstrdup(v.val.string.val, v.val.string.len);

			mapping_check_field(field);
			kapture_advice_computed(field, InvalidOid);
			pushJsonbValue(&state, WJB_KEY, &v);
		}
		else if (token == WJB_VALUE)
		{
			char	   *text = mapping_scalar(&v);
			JsonbValue	string = {.type = jbvString};

			good = text != NULL && text[0] != '\0';
			if (!good)
				break;
			string.val.string.val = text;
			string.val.string.len = strlen(text);
			pushJsonbValue(&state, WJB_VALUE, &string);
		}
	}
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must be a JSON object of Kapture fields and constants", argument),
				 errhint("Give it as {\"Kapture field\": \"constant\", ...}, for example {\"campaign_name\": \"left\"}.")));
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

/*
 * Returns the lowest bit for a field that is not in the mask "in_use"; -1: there is none.
 */
int
kapture_mapping_free_bit(int64 in_use)
{
	for (int bit = 0; bit < KAPTURE_MAX_MAPPED; bit++)
	{
		if ((in_use & (INT64CONST(1) << bit)) == 0)
			return bit;
	}
	return -1;
}
