/*
 * compare.c
 *		The values of customers in Kapture's answers for the fields of a table.
 *
 * The values are found where pulls find them (KaptureField.pulled).  Kapture writes
 * some in its own way: phones with a country's code, emails in another case, blanks
 * in names; these are no differences.  Values that Kapture masks or does not return
 * cannot be compared.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "api/columns.h"
#include "api/field.h"
#include "api/identity.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "observe/compare.h"
#include "queue/inbox.h"

#define COMPARE_BLANKS		" \t\r\n"

/* A key of answers. */
typedef struct CompareKey
{
	const char *name;
	int			len;
} CompareKey;

struct KaptureComparer
{
	const KaptureAttachment *att;
	Oid			type;			/* kapture_customer */
	TupleDesc	desc;
	KaptureReader *reader;
	char	   *sql;
	const KaptureField **fields;	/* of the columns; NULL: a field of the account's own */
	CompareKey *keys;			/* keys that the values come from */
	int			nkeys;
};

/* A call of kapture_comparer_read(). */
typedef struct CompareCall
{
	KaptureComparer *comparer;
	Datum		customers;		/* kapture_customer[] */
	MemoryContext context;
	KaptureThere *result;
} CompareCall;

/* The keys of JSON that a statement names: those behind "->" and "->>". */
static List *
compare_keys_of(const char *sql)
{
	List	   *keys = NIL;
	const char *p = sql;

	while ((p = strstr(p, "->")) != NULL)
	{
		p += p[2] == '>' ? 3 : 2;
		if (*p == '\'')
			keys = lappend(keys, pnstrdup(p + 1, strcspn(p + 1, "'")));
	}
	return keys;
}

/* Fills in the keys that the customers' values come from; fields of the account's own go by their names. */
static void
compare_find_keys(KaptureComparer *comparer)
{
	List	   *keys = list_concat(compare_keys_of(comparer->sql), kapture_column_keys(comparer->sql));
	ListCell   *lc;

	for (int i = 0; i < comparer->att->ncolumns; i++)
		keys = lappend(keys, comparer->att->columns[i].field);
	comparer->keys = palloc(sizeof(CompareKey) * list_length(keys));
	foreach(lc, keys)
		comparer->keys[comparer->nkeys++] = (CompareKey) {lfirst(lc), strlen(lfirst(lc))};
}

/*
 * Is the value of this key of an answer needed to compare customers?  (KaptureWanted)
 */
bool
kapture_comparer_wants(void *comparer, const char *key, int len)
{
	const CompareKey *wanted = ((KaptureComparer *) comparer)->keys;

	for (int i = 0; i < ((KaptureComparer *) comparer)->nkeys; i++)
	{
		if (wanted[i].len == len && wanted[i].name[0] == key[0] && memcmp(wanted[i].name, key, len) == 0)
			return true;
	}
	return false;
}

/*
 * Begins to compare customers with rows of an attached table.  "timezone" is the
 * account's.  The result is in the current memory context, and lives as long as "att".
 */
KaptureComparer *
kapture_comparer_create(const KaptureAttachment *att, const char *timezone)
{
	KaptureComparer *comparer = palloc0(sizeof(KaptureComparer));
	Oid			namespace = get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
	StringInfoData sql;

	comparer->att = att;
	comparer->type = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("kapture_customer"),
									 ObjectIdGetDatum(namespace));
	comparer->desc = lookup_rowtype_tupdesc_copy(comparer->type, -1);
	comparer->reader = kapture_reader_create(KAPTURE_ROW_CUSTOMER, comparer->desc, timezone);
	comparer->fields = palloc0(sizeof(KaptureField *) * Max(att->ncolumns, 1));

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT c.ordinality");
	for (int i = 0; i < att->ncolumns; i++)
	{
		const char *name = att->columns[i].field;

		comparer->fields[i] = kapture_field_find(name, strlen(name));
		kapture_inbox_append_value(&sql, name);
		appendStringInfo(&sql, ", coalesce(%s, false)",
						 comparer->fields[i] && comparer->fields[i]->masked ? comparer->fields[i]->masked : "false");
	}
	appendStringInfoString(&sql, " FROM unnest($1) WITH ORDINALITY AS c" KAPTURE_INBOX_CONTACT " ORDER BY c.ordinality");
	comparer->sql = sql.data;
	compare_find_keys(comparer);
	return comparer;
}

/* Does Kapture return a customer's value for the field of a column? */
static bool
compare_knows(const KaptureComparer *comparer, int column)
{
	const KaptureField *field = comparer->fields[column];

	return field == NULL || !field->is_mapped || (field->pulled != NULL && field->kind != KAPTURE_FIELD_UNCERTAIN);
}

static void
compare_read(void *arg)
{
	CompareCall *call = arg;
	const KaptureAttachment *att = call->comparer->att;
	Oid			types[1] = {get_array_type(call->comparer->type)};

	SPI_connect();
	kapture_user_code_select(call->comparer->sql, 1, types, &call->customers, NULL, true);
	MemoryContextSwitchTo(call->context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureThere *there = &call->result[i];

		there->values = palloc0(sizeof(char *) * Max(att->ncolumns, 1));
		there->masked = palloc0(sizeof(bool) * Max(att->ncolumns, 1));
		for (int c = 0; c < att->ncolumns; c++)
		{
			bool		isnull;

			there->values[c] = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2 * c + 2);
			there->masked[c] = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2 * c + 3, &isnull));
		}
	}
	SPI_finish();
}

/*
 * Returns what n customers, JSON objects of answers, have for the columns, in the
 * current memory context.
 */
KaptureThere *
kapture_comparer_read(KaptureComparer *comparer, Jsonb **customers, int n)
{
	CompareCall call = {.comparer = comparer, .context = CurrentMemoryContext};
	Datum	   *rows = palloc(sizeof(Datum) * n);
	Datum	   *values = palloc(sizeof(Datum) * comparer->desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * comparer->desc->natts);

	call.result = palloc0(sizeof(KaptureThere) * n);
	for (int i = 0; i < n; i++)
	{
		JsonbValue	object = {.type = jbvBinary};

		object.val.binary.data = &customers[i]->root;
		object.val.binary.len = VARSIZE(customers[i]) - VARHDRSZ;
		kapture_reader_read(comparer->reader, &object, values, nulls);
		rows[i] = heap_copy_tuple_as_datum(heap_form_tuple(comparer->desc, values, nulls), comparer->desc);
	}
	call.customers = PointerGetDatum(construct_array(rows, n, comparer->type, -1, false, TYPALIGN_DOUBLE));
	kapture_own_run(compare_read, &call);
	return call.result;
}

/* A text without blanks at its ends, and with single ones within. */
static char *
compare_squeeze(const char *text)
{
	char	   *result = palloc(strlen(text) + 1);
	char	   *out = result;

	for (const char *p = text; *p != '\0'; p++)
	{
		if (strchr(COMPARE_BLANKS, *p) == NULL)
			*out++ = *p;
		else if (out > result && out[-1] != ' ')
			*out++ = ' ';
	}
	if (out > result && out[-1] == ' ')
		out--;
	*out = '\0';
	return result;
}

/* Is the text NULL, or nothing but blanks? */
static bool
compare_is_empty(const char *text)
{
	return text == NULL || text[strspn(text, COMPARE_BLANKS)] == '\0';
}

/*
 * Compares a column's value here with the customer's; NULL and the empty text are
 * no value.
 */
KaptureCompared
kapture_comparer_compare(const KaptureComparer *comparer, int column, const char *here, const KaptureThere *there)
{
	const KaptureField *field = comparer->fields[column];
	const char *value = there->values[column];
	KaptureMatch match = KAPTURE_MATCH_UNKNOWN;

	if (!compare_knows(comparer, column))
		return KAPTURE_COMPARED_UNTOLD;
	if (there->masked[column])
		return KAPTURE_COMPARED_MASKED;
	if (compare_is_empty(here))
		return compare_is_empty(value) ? KAPTURE_COMPARED_SAME : KAPTURE_COMPARED_NOT_EMPTIED;
	if (compare_is_empty(value))
		return KAPTURE_COMPARED_DIFFERS;
	if (field && field->kind == KAPTURE_FIELD_PHONE)
		match = kapture_match_phones(here, value);
	else if (field && field->kind == KAPTURE_FIELD_EMAIL)
		match = kapture_match_emails(here, value);
	if (match == KAPTURE_MATCH_UNKNOWN)
		match = strcmp(compare_squeeze(here), compare_squeeze(value)) == 0 ? KAPTURE_MATCH_YES : KAPTURE_MATCH_NO;
	return match == KAPTURE_MATCH_YES ? KAPTURE_COMPARED_SAME : KAPTURE_COMPARED_DIFFERS;
}
