/*
 * row_key.c
 *		The key of a row as capture notes it, from whatever text users give for it.
 *
 * Two texts of one key would be two rows to the worker.  Most types have one text for
 * what is equal, which their input and output functions give.  Others do not (numeric
 * 1.0 and 1.00, citext, float -0, collations that are not deterministic): there the row
 * that is in the table says how its key is written.
 */
#include "postgres.h"

#include "access/nbtree.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

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

/* Has what is equal, for the key's index, the same text? */
static bool
row_key_is_exact(const KaptureKeyColumn *col)
{
	TypeCacheEntry *type = lookup_type_cache(col->type, TYPECACHE_EQ_OPR | TYPECACHE_BTREE_OPFAMILY);
	Oid			proc = OidIsValid(type->btree_opf) ?
		get_opfamily_proc(type->btree_opf, type->btree_opintype, type->btree_opintype, BTEQUALIMAGE_PROC) : InvalidOid;

	return OidIsValid(proc) && type->eq_opr == col->equals &&
		DatumGetBool(OidFunctionCall1Coll(proc, col->collation, ObjectIdGetDatum(type->btree_opintype)));
}

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
	if (kapture_user_code_execute(sql.data, att->nkeys, types, params, NULL, false) != SPI_OK_SELECT)
		elog(ERROR, "could not look for a row by its key");
	if (SPI_processed == 0)
		return;
	old = MemoryContextSwitchTo(lookup->context);
	for (int i = 0; i < att->nkeys; i++)
		lookup->values[i] = pstrdup(SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, i + 1));
	MemoryContextSwitchTo(old);
}

/* Is a type one whose input runs nobody's code: neither a domain with its checks, nor one that may have such inside? */
static bool
row_key_is_plain(Oid type)
{
	Oid			element = get_element_type(type);
	Oid			plain = OidIsValid(element) ? element : type;

	return plain < FirstNormalObjectId && get_typtype(plain) == TYPTYPE_BASE;
}

/* A value that is none of its type: says of what column. */
static void
row_key_error_callback(void *arg)
{
	const KaptureKeyColumn *col = arg;

	errhint("Give the primary key as text, as kapture_failures shows it; several columns as an array.");
	errcontext("value of column \"%s\" of the key", col->name);
}

/* Replaces the values of a key by the text that their types have for them. */
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

/* Does that, and looks whether the row in the table has other texts; as the owner of the table. */
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
 * a text that means it; if there is no such row, what its types make of the text, and if
 * the table has lost its primary key, the text itself.  Errors: 22023 it has not as many
 * values as the key, those of the types for what is no value of theirs, those of reading
 * the table as its owner.
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
		direct &= row_key_is_plain(att->keys[i].type) && row_key_is_exact(&att->keys[i]);
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
