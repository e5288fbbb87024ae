/*
 * row_key.c
 *		The key of a row as capture notes it, from whatever text users give for it.
 *
 * The worker would take two texts of one key for two rows.  Most types have one text for
 * equal values, which their input and output functions give.  Others do not (numeric
 * 1.0 and 1.00, citext, float -0, collations that are not deterministic): for these, the
 * row in the table decides how its key is written.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "base/user_code.h"
#include "table/row_io.h"
#include "table/row_key.h"
#include "table/row_sql.h"

typedef struct RowKeyLookup
{
	KaptureAttachment *att;
	char	  **values;			/* replaced by those of the row, if there is one */
	MemoryContext context;		/* of these */
} RowKeyLookup;

/* Takes the key of the row that has these values. */
static void
row_key_do_look_up(void *arg)
{
	RowKeyLookup *lookup = arg;
	KaptureAttachment *att = lookup->att;
	Oid			types[INDEX_MAX_KEYS];
	Datum		params[INDEX_MAX_KEYS];
	StringInfoData sql;
	MemoryContext old;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM %s AS r WHERE ", kapture_row_keys(att), kapture_row_source(att));
	kapture_row_append_match(&sql, att, "$", 1);
	for (int i = 0; i < att->nkeys; i++)
	{
		types[i] = TEXTOID;
		params[i] = CStringGetTextDatum(lookup->values[i]);
	}
	kapture_user_code_select(sql.data, att->nkeys, types, params, NULL, false);
	if (SPI_processed == 0)
		return;
	old = MemoryContextSwitchTo(lookup->context);
	for (int i = 0; i < att->nkeys; i++)
		lookup->values[i] = pstrdup(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1));
	MemoryContextSwitchTo(old);
}

/* Does a type's input run no users' code: is it neither a domain, which may have checks, nor may contain one? */
static bool
row_key_is_plain(Oid type)
{
	Oid			element = get_element_type(type);
	Oid			plain = OidIsValid(element) ? element : type;

	return plain < FirstNormalObjectId && get_typtype(plain) == TYPTYPE_BASE;
}

/* Adds the column's name to the error of a value that is not valid for its type. */
static void
row_key_error_callback(void *arg)
{
	const KaptureKeyColumn *col = arg;

	errhint("Give the primary key as text, as kapture_failures shows it; several columns as an array.");
	errcontext("value of column \"%s\" of the key", col->name);
}

/* Replaces the values of a key by the texts that their types' output gives for them. */
static void
row_key_normalize(KaptureAttachment *att, char **values)
{
	int			nestlevel = kapture_catalog_text_settings();
	ErrorContextCallback callback = {.callback = row_key_error_callback, .previous = error_context_stack};

	error_context_stack = &callback;
	for (int i = 0; i < att->nkeys; i++)
	{
		KaptureKeyColumn *col = &att->keys[i];
		Oid			input;
		Oid			param;

		callback.arg = col;
		getTypeInputInfo(col->type, &input, &param);
		values[i] = OutputFunctionCall(&col->output, OidInputFunctionCall(input, values[i], param, col->typmod));
	}
	error_context_stack = callback.previous;
	AtEOXact_GUC(true, nestlevel);
}

/* Normalizes the values, and takes those of the row instead if it is in the table.  Runs as the table's owner. */
static void
row_key_do_find(void *arg)
{
	RowKeyLookup *lookup = arg;
	MemoryContext old = MemoryContextSwitchTo(lookup->context);

	row_key_normalize(lookup->att, lookup->values);
	MemoryContextSwitchTo(old);
	row_key_do_look_up(lookup);
}

/*
 * Returns the key of a row as capture would note it, in the current memory context, from
 * any text of that key.  If there is no such row, it is the text that the types' output
 * gives; if the table has lost its primary key, the given text.  Errors: 22023 the number
 * of values is not that of the key's columns, those of the types for invalid values, those
 * of reading the table as its owner.
 */
char *
kapture_row_key(KaptureAttachment *att, const char *row_key)
{
	char	  **values;
	bool		direct = true;

	if (att->nkeys == 0)
		return pstrdup(row_key);
	values = kapture_catalog_unpack_key(row_key, att->nkeys);
	if (values == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a key of table \"%s\"", row_key, get_rel_name(att->root)),
				 errdetail("Its key has %d columns.", att->nkeys),
				 errhint("Give the values as an array, such as {1,x}, in the order of the primary key.")));
	for (int i = 0; i < att->nkeys; i++)
		direct &= row_key_is_plain(att->keys[i].type) && kapture_row_key_is_exact(&att->keys[i]);
	if (direct)
		row_key_normalize(att, values);
	else
	{
		RowKeyLookup lookup = {att, values, CurrentMemoryContext};
		ErrorData  *error = kapture_row_run(att, NULL, row_key_do_find, &lookup);

		if (error)
			ReThrowError(error);
	}
	return kapture_catalog_pack_key(values, att->nkeys);
}
