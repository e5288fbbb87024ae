/*
 * field_advice.c
 *		What is reported to those who map columns to fields: what they are unlikely
 *		to have meant.
 *
 * All of it is NOTICEs and hints: it changes nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "api/field.h"
#include "base/nearest.h"
#include "mapping/field_advice.h"

/* Are field and column given the wrong way round? */
static bool
advice_is_swapped(Relation rel, const char *field, const char *column)
{
	const KaptureField *named = kapture_field_find(column, strlen(column));

	return named && named->is_mapped && !named->is_extra && get_attnum(RelationGetRelid(rel), field) > 0;
}

/* What may have been meant by a field that is none of Kapture's; palloc'ed, NULL: not known. */
static char *
advice_meant(Relation rel, const char *field, const char *column)
{
	const char *nearest = kapture_field_nearest(field);

	if (advice_is_swapped(rel, field, column))
		return psprintf("Field and column may be swapped: the field comes first, as in {\"%s\": \"%s\"}.", column, field);
	if (nearest)
		return psprintf("Perhaps you meant the field \"%s\".", nearest);
	return NULL;
}

/* Why the text of a type's values is seldom what a field should get; NULL if it may well be. */
static const char *
advice_about_type(const char *field, Oid type)
{
	char		category;
	bool		preferred;

	type = getBaseType(type);
	get_type_category_preferred(type, &category, &preferred);
	switch (category)
	{
		case TYPCATEGORY_NUMERIC:
			/* employees may have numbers for codes */
			if (strcmp(field, "customer_assign_emp_code") == 0)
				return NULL;
			return "A number has lost leading zeros and a plus sign, and the number of something is not its name.";
		case TYPCATEGORY_BOOLEAN:
		case TYPCATEGORY_ARRAY:
		case TYPCATEGORY_COMPOSITE:
			break;
		default:
			if (type != JSONOID && type != JSONBOID && type != XMLOID && type != BYTEAOID)
				return NULL;
	}
	return "The whole value is sent, in PostgreSQL's notation.";
}

/*
 * kapture_advice_mapped
 *		Reports what is odd about a column that is to feed a field of Kapture's: a
 *		field that Kapture does not document, a type whose text is seldom meant.
 */
void
kapture_advice_mapped(Relation rel, const char *field, const char *column)
{
	const KaptureField *known = kapture_field_find(field, strlen(field));
	Oid			type = get_atttype(RelationGetRelid(rel), get_attnum(RelationGetRelid(rel), column));
	const char *problem = advice_about_type(field, type);

	if (known == NULL || known->is_extra)
	{
		char	   *meant = advice_meant(rel, field, column);

		ereport(NOTICE,
				(errmsg("\"%s\" is not a field that Kapture documents", field),
				 errdetail("Column \"%s\" is sent under this name all the same, which Kapture may ignore.", column),
				 meant ? errhint("%s", meant) : 0));
	}
	if (problem)
		ereport(NOTICE,
				(errmsg("field \"%s\" gets the text of column \"%s\" of type %s", field, column, format_type_be(type)),
				 errdetail_internal("%s", problem),
				 errhint("Map a column that holds the text as Kapture is to have it.")));
}

/*
 * kapture_advice_computed
 *		Reports what is odd about a field that gets a constant or, of this type, the
 *		value of an expression: that Kapture does not document it, or is seldom meant to
 *		get such a text.
 */
void
kapture_advice_computed(const char *field, Oid type)
{
	const char *problem = OidIsValid(type) ? advice_about_type(field, type) : NULL;
	const char *nearest;

	if (problem)
		ereport(NOTICE,
				(errmsg("field \"%s\" gets the text of a value of type %s", field, format_type_be(type)),
				 errdetail_internal("%s", problem),
				 errhint("Write an expression that gives the text as Kapture is to have it.")));
	if (kapture_field_find(field, strlen(field)) != NULL)
		return;
	nearest = kapture_field_nearest(field);
	ereport(NOTICE,
			(errmsg("\"%s\" is not a field that Kapture documents", field),
			 errdetail("It is sent under this name all the same, which Kapture may ignore."),
			 nearest ? errhint("Perhaps you meant the field \"%s\".", nearest) : 0));
}

/*
 * kapture_advice_no_column
 *		Returns a hint for a user who maps a field to a column that does not exist;
 *		palloc'ed, NULL: none.
 */
char *
kapture_advice_no_column(Relation rel, const char *field, const char *column)
{
	TupleDesc	desc = RelationGetDescr(rel);
	KaptureNearest state;

	if (advice_is_swapped(rel, field, column))
		return advice_meant(rel, field, column);
	kapture_nearest_begin(&state, column);
	for (int i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			kapture_nearest_try(&state, NameStr(TupleDescAttr(desc, i)->attname));
	}
	return state.nearest ? psprintf("Perhaps you meant the column \"%s\".", state.nearest) : NULL;
}
