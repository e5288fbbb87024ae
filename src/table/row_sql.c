/*
 * row_sql.c
 *		The text of statements over the rows of attached tables.
 *
 * Statements are made when they are needed, from the numbers of the relation, its
 * columns, types, operators and collations, so they are right also after one of
 * these was renamed or moved to another schema.
 *
 * Rows are found by the operators of the primary key's operator class, on operands
 * of the type that it compares.  Values of keys are passed as text and cast one by
 * one: an array of arrays or of rows would come apart in unnest().
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/nbtree.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "base/family.h"
#include "mapping/expression.h"
#include "table/row_sql.h"

/*
 * Bytes that a row's values may have together to be read with those of other rows:
 * of text, and of values that can only be measured as they are stored, which may be
 * compressed to a 255th.
 */
#define ROW_SMALL_TEXT		16384
#define ROW_SMALL_OTHER		256

/*
 * Returns "schema"."table", in the current memory context.  Errors: 42P01 there is no such
 * relation.
 */
char *
kapture_row_relation_name(Oid relid)
{
	const char *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

/*
 * Returns what to write after FROM, JOIN or UPDATE for the rows of an attached table, in
 * the current memory context.  It leaves out rows of tables that inherit from the table,
 * unless they count as its rows.
 */
char *
kapture_row_source(const KaptureAttachment *att)
{
	bool		only = get_rel_relkind(att->root) == RELKIND_RELATION &&
		!(has_subclass(att->root) && kapture_family_counts_children(att->root));

	return psprintf("%s%s", only ? "ONLY " : "", kapture_row_relation_name(att->root));
}

/* The quoted name of a column of the attached table. */
static const char *
row_sql_column(const KaptureAttachment *att, AttrNumber attnum, const char *name)
{
	char	   *now = get_attname(att->root, attnum, true);

	return quote_identifier(now ? now : name);
}

static char *
row_sql_type(Oid type, int32 typmod)
{
	return format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
}

/* OPERATOR(schema.name) */
static char *
row_sql_operator(Oid oper)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(oper));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", oper);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/* A column of the key, as the type that its operators compare. */
static char *
row_sql_key(const KaptureAttachment *att, int i)
{
	const KaptureKeyColumn *key = &att->keys[i];
	const char *name = row_sql_column(att, key->attnum, key->name);

	if (key->type == key->compared_as)
		return psprintf("r.%s", name);
	return psprintf("r.%s::%s", name, row_sql_type(key->compared_as, -1));
}

/*
 * The value of a key column whose text is the SQL expression "text", as the type that its operators compare.
 * For a domain that is the base type: the domain's checks are users' code, and the row exists already.
 */
static char *
row_sql_value(const KaptureKeyColumn *key, const char *text)
{
	int32		typmod = key->typmod;
	Oid			base = getBaseTypeAndTypmod(key->type, &typmod);
	char	   *result = psprintf("%s::%s", text, row_sql_type(base, typmod));
	HeapTuple	tuple;

	if (base != key->compared_as)
		result = psprintf("%s::%s", result, row_sql_type(key->compared_as, -1));
	if (!OidIsValid(key->collation) || key->collation == get_typcollation(key->compared_as))
		return result;
	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(key->collation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", key->collation);
	result = psprintf("(%s COLLATE %s)", result,
					  quote_qualified_identifier(get_namespace_name(((Form_pg_collation) GETSTRUCT(tuple))->collnamespace),
												 NameStr(((Form_pg_collation) GETSTRUCT(tuple))->collname)));
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Returns "r.key1, r.key2, ...", in the current memory context.  The result is to
 * be turned to text by the types' output functions, as capture does; a cast to
 * text gives other text for some types (boolean, character, inet).
 */
char *
kapture_row_keys(const KaptureAttachment *att)
{
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(&sql, "%sr.%s", i > 0 ? ", " : "",
						 row_sql_column(att, att->keys[i].attnum, att->keys[i].name));
	return sql.data;
}

/*
 * Appends the condition that row "r" has the key whose values are the texts named "prefix"
 * followed by a number, from "first" on ("$1", "$2").
 */
void
kapture_row_append_match(StringInfo sql, const KaptureAttachment *att, const char *prefix, int first)
{
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(sql, "%s%s %s %s", i > 0 ? " AND " : "", row_sql_key(att, i),
						 row_sql_operator(att->keys[i].equals),
						 row_sql_value(&att->keys[i], psprintf("%s%d", prefix, first + i)));
}

/*
 * Tells whether keys that are equal for the key's index have the same text, as far as this
 * column goes.
 */
bool
kapture_row_key_is_exact(const KaptureKeyColumn *key)
{
	TypeCacheEntry *type = lookup_type_cache(key->type, TYPECACHE_EQ_OPR | TYPECACHE_BTREE_OPFAMILY);
	Oid			proc = OidIsValid(type->btree_opf) ?
		get_opfamily_proc(type->btree_opf, type->btree_opintype, type->btree_opintype, BTEQUALIMAGE_PROC) : InvalidOid;

	return OidIsValid(proc) && type->eq_opr == key->equals &&
		DatumGetBool(OidFunctionCall1Coll(proc, key->collation, ObjectIdGetDatum(type->btree_opintype)));
}

/* May equal keys have different texts, though the text of each is the same in all settings? */
static bool
row_sql_has_texts(const KaptureKeyColumn *key)
{
	char		category;
	bool		preferred;

	switch (getBaseType(key->type))
	{
		case NUMERICOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case INTERVALOID:
		case JSONBOID:
			return true;
		default:
			/* other types may contain times, whose text depends on the time zone */
			get_type_category_preferred(getBaseType(key->type), &category, &preferred);
			return category == TYPCATEGORY_STRING && !kapture_row_key_is_exact(key);
	}
}

/*
 * Appends ", (has the row the id?)" to what a statement that writes "id", an SQL expression, returns
 * of the row "r": for kapture_row_check_ids(), as triggers may have put another value in its place.
 */
void
kapture_row_append_has_id(StringInfo sql, const KaptureAttachment *att, const char *id)
{
	appendStringInfo(sql, ", (r.%s::text OPERATOR(pg_catalog.=) %s::text) IS TRUE",
					 row_sql_column(att, att->id_attnum, att->id_column), id);
}

/*
 * As kapture_row_append_match(), for keys as capture has noted them: a row with an equal key of another text is
 * another row (1.0 was deleted, 1.00 is new), which has an entry of its own.
 */
static void
row_sql_append_noted(StringInfo sql, const KaptureAttachment *att, const char *prefix, int first)
{
	kapture_row_append_match(sql, att, prefix, first);
	for (int i = 0; i < att->nkeys; i++)
	{
		const KaptureKeyColumn *key = &att->keys[i];

		/* format() uses the type's output function, as capture does */
		if (row_sql_has_texts(key))
			appendStringInfo(sql, " AND pg_catalog.format('%%s', r.%s) OPERATOR(pg_catalog.=) %s%d COLLATE pg_catalog.\"C\"",
							 row_sql_column(att, key->attnum, key->name), prefix, first + i);
	}
}

/* unnest($1, ..., [$n]) WITH ORDINALITY AS v(k1, ..., [id], ord) */
static void
row_sql_append_unnest(StringInfo sql, const KaptureAttachment *att, bool with_id)
{
	appendStringInfoString(sql, "unnest(");
	for (int i = 0; i < att->nkeys + (with_id ? 1 : 0); i++)
		appendStringInfo(sql, "%s$%d", i > 0 ? ", " : "", i + 1);
	appendStringInfoString(sql, ") WITH ORDINALITY AS v(");
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(sql, "k%d, ", i + 1);
	appendStringInfoString(sql, with_id ? "id, ord)" : "ord)");
}

/* The type of an existing column; for a domain its base type. */
static Oid
row_sql_type_of(const KaptureAttachment *att, AttrNumber attnum)
{
	return getBaseType(get_atttype(att->root, attnum));
}

/* Do values of the type have the size of their text, which is known without reading them? */
static bool
row_sql_is_text(Oid type)
{
	return type == BPCHAROID || type == BYTEAOID || IsBinaryCoercible(type, TEXTOID);
}

/*
 * Tells whether values of a mapped column can be large.
 */
bool
kapture_row_may_be_large(const KaptureAttachment *att, int i)
{
	return att->columns[i].attnum != InvalidAttrNumber && get_typlen(row_sql_type_of(att, att->columns[i].attnum)) == -1;
}

/*
 * Returns the numbers of those columns, mapped or read by expressions, whose values can
 * be large.
 */
static List *
row_sql_large_columns(const KaptureAttachment *att)
{
	List	   *columns = NIL;
	List	   *result = NIL;
	ListCell   *lc;
	bool		all = att->filter && att->filter->reads_all;

	if (att->filter)
		columns = list_concat(columns, att->filter->reads);
	for (int i = 0; i < att->ncolumns; i++)
	{
		const KaptureMappedColumn *col = &att->columns[i];

		if (col->attnum != InvalidAttrNumber)
			columns = lappend_int(columns, col->attnum);
		else if (col->expression)
			columns = list_concat(columns, col->expression->reads);
		all |= col->expression && col->expression->reads_all;
	}
	for (AttrNumber attnum = 1; all && get_attname(att->root, attnum, true); attnum++)
	{
		if (OidIsValid(get_atttype(att->root, attnum)))	/* not dropped */
			columns = lappend_int(columns, attnum);
	}
	foreach(lc, columns)
	{
		if (get_typlen(row_sql_type_of(att, lfirst_int(lc))) == -1)
			result = list_append_unique_int(result, lfirst_int(lc));
	}
	return result;
}

/* Appends "size(r.column) > limit": does the column's value count as large? */
static void
row_sql_append_is_large(StringInfo sql, const KaptureAttachment *att, AttrNumber attnum, int ntexts, int nothers)
{
	const char *name = row_sql_column(att, attnum, "");
	Oid			type = row_sql_type_of(att, attnum);

	if (!row_sql_is_text(type))
		appendStringInfo(sql, "pg_catalog.pg_column_size(r.%s) > %d", name, ROW_SMALL_OTHER / nothers);
	else
		appendStringInfo(sql, "pg_catalog.octet_length(r.%s%s) > %d", name,
						 type == BPCHAROID || type == BYTEAOID ? "" : "::pg_catalog.text", ROW_SMALL_TEXT / ntexts);
}

/*
 * Returns the SQL expression of a field's value as text, over a row "r", or "s" of the
 * source, in the current memory context; NULL if its column is gone.
 */
char *
kapture_row_value_sql(const KaptureAttachment *att, int i)
{
	const KaptureMappedColumn *col = &att->columns[i];

	if (col->constant)
		return psprintf("%s::pg_catalog.text", quote_literal_cstr(col->constant));
	if (att->source_name && col->expression == NULL)
		return get_attnum(att->source, col->name) == InvalidAttrNumber ? NULL :
			psprintf("s.%s::text", quote_identifier(col->name));
	if (col->expression)
		return psprintf("%s::text", kapture_expression_sql(att, col->expression));
	return col->attnum == InvalidAttrNumber ? NULL :
		psprintf("r.%s::text", row_sql_column(att, col->attnum, col->name));
}

/* How many of the columns whose values can be large are text, and how many are not. */
typedef struct RowSqlLarge
{
	List	   *columns;
	int			ntexts;
	int			nothers;
} RowSqlLarge;

static void
row_sql_count_large(const KaptureAttachment *att, RowSqlLarge *large)
{
	ListCell   *lc;

	large->columns = row_sql_large_columns(att);
	large->ntexts = large->nothers = 0;
	foreach(lc, large->columns)
		*(row_sql_is_text(row_sql_type_of(att, lfirst_int(lc))) ? &large->ntexts : &large->nothers) += 1;
}

/* The condition that the value of any of these columns is large. */
static char *
row_sql_any_is_large(const KaptureAttachment *att, const RowSqlLarge *large)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	foreach(lc, large->columns)
	{
		appendStringInfoString(&sql, sql.len > 0 ? " OR (" : "(");
		row_sql_append_is_large(&sql, att, lfirst_int(lc), large->ntexts, large->nothers);
		appendStringInfoString(&sql, ") IS TRUE");
	}
	return sql.len > 0 ? sql.data : "false";
}

/* Does a statement leave out large values? */
static bool
row_sql_skips_large(KaptureRowStatement statement)
{
	return statement == KAPTURE_SQL_READ || statement == KAPTURE_SQL_READ_TOGETHER;
}

/* The value of a field: with MEASURE as it is stored, with READ only if it is not large. */
static void
row_sql_append_value(StringInfo sql, const KaptureAttachment *att, int i, KaptureRowStatement statement, const RowSqlLarge *large)
{
	const KaptureMappedColumn *col = &att->columns[i];
	char	   *value = kapture_row_value_sql(att, i);

	if (value == NULL || (statement == KAPTURE_SQL_MEASURE && col->attnum == InvalidAttrNumber))
		appendStringInfoString(sql, ", NULL");
	else if (att->source_name)
		appendStringInfo(sql, row_sql_skips_large(statement) ? ", CASE WHEN NOT s.large THEN s.c%d END" : ", s.c%d", i);
	else if (statement == KAPTURE_SQL_MEASURE)
		appendStringInfo(sql, ", r.%s", row_sql_column(att, col->attnum, col->name));
	else if (kapture_expression_is_any(att))
		appendStringInfo(sql, ", CASE WHEN f.inside AND NOT f.large THEN %s END", value);
	else if (row_sql_skips_large(statement) && kapture_row_may_be_large(att, i))
	{
		appendStringInfoString(sql, ", CASE WHEN ");
		row_sql_append_is_large(sql, att, col->attnum, large->ntexts, large->nothers);
		appendStringInfo(sql, " THEN NULL ELSE %s END", value);
	}
	else
		appendStringInfo(sql, ", %s", value);
}

/*
 * Appends ", value, ..., is any value large, is the row inside of the filter".  If there is
 * a filter or an expression, the latter two are columns of a row "f", see
 * row_sql_append_flags(): each is evaluated once.  Values of a row outside of the filter,
 * and with READ those computed from large ones, are not evaluated.
 */
static void
row_sql_append_values(StringInfo sql, const KaptureAttachment *att, KaptureRowStatement statement, const RowSqlLarge *large)
{
	for (int i = 0; i < att->ncolumns; i++)
		row_sql_append_value(sql, att, i, statement, large);
	if (att->source_name)
		appendStringInfoString(sql, ", f.large OR s.large IS TRUE, f.large OR (f.inside AND s.found IS TRUE)");
	else if (kapture_expression_is_any(att))
		appendStringInfoString(sql, ", f.large, f.inside");
	else
		appendStringInfo(sql, ", %s, true", row_sql_skips_large(statement) ? row_sql_any_is_large(att, large) : "false");
}

/*
 * A column of the view's key, as the type that the key's operators compare.  It is not cast
 * to the type that it has: a cast hides from the planner that what the view compares with
 * the column is the key, too, which is how joined tables are read by an index.
 */
static char *
row_sql_view_key(const KaptureAttachment *att, int i)
{
	const char *name = list_nth(att->source_keys, i);
	Oid			type = att->keys[i].compared_as;

	if (get_atttype(att->source, get_attnum(att->source, name)) == type)
		return psprintf("s.%s", quote_identifier(name));
	return psprintf("s.%s::%s", quote_identifier(name), row_sql_type(type, -1));
}

/*
 * Returns the view that the values come from as "s", and the condition that its row is
 * that of a row "r", in the current memory context.
 */
char *
kapture_row_view_sql(const KaptureAttachment *att)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "%s AS s WHERE ", kapture_row_relation_name(att->source));
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(&sql, "%s%s %s %s", i > 0 ? " AND " : "", row_sql_view_key(att, i),
						 row_sql_operator(att->keys[i].equals), row_sql_key(att, i));
	return sql.data;
}

/* "unnest($1, ...) WITH ORDINALITY AS v(...) JOIN table AS r ON ...": the rows with the keys that are given. */
static void
row_sql_append_rows(StringInfo sql, const KaptureAttachment *att)
{
	row_sql_append_unnest(sql, att, false);
	appendStringInfo(sql, " JOIN %s AS r ON ", kapture_row_source(att));
	row_sql_append_noted(sql, att, "v.k", 1);
}

/* Is a row "r" inside of the filter?  "is_large": then the filter is not evaluated, and the result is "otherwise". */
static char *
row_sql_is_inside(const KaptureAttachment *att, const char *is_large, const char *otherwise)
{
	return psprintf("CASE WHEN %s THEN %s ELSE %s IS TRUE END", is_large, otherwise,
					att->filter ? kapture_expression_sql(att, att->filter) : "true");
}

/*
 * Appends a row "s" of the source, with the fields' values as columns "c0" and so on.  For
 * a row outside of the filter, "s" is not looked up.
 *
 * Most views find a row by its key, for each row "r" by itself.  Others are evaluated as a
 * whole for each row: DISTINCT ON or a window over something else than the key, a set
 * operation, a join without an index.  READ_TOGETHER evaluates the view once for all rows.
 */
static void
row_sql_append_source(StringInfo sql, const KaptureAttachment *att, KaptureRowStatement statement, const char *is_large)
{
	bool		together = statement == KAPTURE_SQL_READ_TOGETHER;

	appendStringInfo(sql, " LEFT JOIN%s (SELECT x.*, 0", together ? "" : " LATERAL");
	for (int i = 0; i < att->ncolumns; i++)
		appendStringInfo(sql, " + coalesce(pg_catalog.octet_length(x.c%d), 0)", i);
	appendStringInfo(sql, " > %d AS large FROM (SELECT true AS found", ROW_SMALL_TEXT);
	for (int i = 0; i < att->ncolumns; i++)
	{
		char	   *value = kapture_row_value_sql(att, i);

		appendStringInfo(sql, ", %s AS c%d", value ? value : "NULL::text", i);
	}
	if (together)
	{
		appendStringInfoString(sql, ", v.ord FROM ");
		row_sql_append_rows(sql, att);
		appendStringInfo(sql, ", %s AND %s OFFSET 0) AS x) AS s ON s.ord OPERATOR(pg_catalog.=) v.ord",
						 kapture_row_view_sql(att), row_sql_is_inside(att, is_large, "false"));
	}
	else
		/* in there, not after ON: a join evaluates its inner side before it looks at its condition */
		appendStringInfo(sql, " FROM %s AND f.inside AND NOT f.large OFFSET 0) AS x) AS s ON true", kapture_row_view_sql(att));
}

/* Appends the row "f", and "s" if the values come from a view. */
static void
row_sql_append_flags(StringInfo sql, const KaptureAttachment *att, KaptureRowStatement statement, const RowSqlLarge *large)
{
	char	   *is_large = row_sql_skips_large(statement) ? row_sql_any_is_large(att, large) : "false";

	if (!kapture_expression_is_any(att) && att->source_name == NULL)
		return;
	appendStringInfo(sql, " CROSS JOIN LATERAL (SELECT %s AS large, %s AS inside OFFSET 0) AS f",
					 is_large, row_sql_is_inside(att, is_large, "true"));
	if (att->source_name)
		row_sql_append_source(sql, att, statement, is_large);
}

/*
 * Returns the text of a statement over rows that are given by their keys, a
 * text[] for each column of the key as parameter (and, for WRITE, a bigint[]
 * of ids), in the current memory context.  Column 1 of its result is the row's
 * ordinal; for WRITE, column 2 tells whether the row has got the id.
 */
char *
kapture_row_sql(const KaptureAttachment *att, KaptureRowStatement statement)
{
	const char *id_column = att->id_column ? row_sql_column(att, att->id_attnum, att->id_column) : NULL;
	bool		reads = row_sql_skips_large(statement) || statement == KAPTURE_SQL_MEASURE || statement == KAPTURE_SQL_READ_LARGE;
	RowSqlLarge large;
	StringInfoData sql;

	initStringInfo(&sql);
	if (statement == KAPTURE_SQL_WRITE && id_column)
	{
		appendStringInfo(&sql, "UPDATE %s AS r SET %s = v.id FROM ", kapture_row_source(att), id_column);
		row_sql_append_unnest(&sql, att, true);
		appendStringInfoString(&sql, " WHERE ");
		row_sql_append_noted(&sql, att, "v.k", 1);
		appendStringInfo(&sql, " AND (r.%s IS NULL OR r.%s::text IN ('', '0')) RETURNING v.ord",
						 id_column, id_column);
		kapture_row_append_has_id(&sql, att, "v.id");
		return sql.data;
	}

	appendStringInfoString(&sql, "SELECT v.ord");
	if (statement == KAPTURE_SQL_LOOK || statement == KAPTURE_SQL_WRITE)
		appendStringInfoString(&sql, ", r.tableoid");
	else if (att->id_attnum == InvalidAttrNumber)
		appendStringInfoString(&sql, ", NULL::text");
	else
		appendStringInfo(&sql, ", r.%s::text", id_column);
	if (reads)
	{
		row_sql_count_large(att, &large);
		row_sql_append_values(&sql, att, statement, &large);
	}
	appendStringInfoString(&sql, " FROM ");
	row_sql_append_rows(&sql, att);
	if (reads)
		row_sql_append_flags(&sql, att, statement, &large);
	if (statement == KAPTURE_SQL_LOCK)
		appendStringInfoString(&sql, " FOR NO KEY UPDATE OF r SKIP LOCKED");
	return sql.data;
}

/*
 * Appends the condition that a row's key comes after that in the parameters.  A
 * single row comparison suits an index best, but needs operators of one name for
 * all columns.
 */
static void
row_sql_append_after(StringInfo sql, const KaptureAttachment *att)
{
	char	   *oper = row_sql_operator(att->keys[0].greater);
	StringInfoData keys;
	StringInfoData values;
	bool		alike = true;

	initStringInfo(&keys);
	initStringInfo(&values);
	for (int i = 0; i < att->nkeys; i++)
	{
		alike &= strcmp(row_sql_operator(att->keys[i].greater), oper) == 0;
		appendStringInfo(&keys, "%s%s", i > 0 ? ", " : "", row_sql_key(att, i));
		appendStringInfo(&values, "%s%s", i > 0 ? ", " : "",
						 row_sql_value(&att->keys[i], psprintf("$%d", i + 1)));
	}
	if (alike && att->nkeys > 1)
		appendStringInfo(sql, "ROW(%s) %s ROW(%s)", keys.data, oper, values.data);
	else
	{
		/* k1 > $1 OR (k1 = $1 AND (k2 > $2 OR ...)) */
		for (int i = 0; i < att->nkeys; i++)
		{
			char	   *key = row_sql_key(att, i);
			char	   *value = row_sql_value(&att->keys[i], psprintf("$%d", i + 1));

			appendStringInfo(sql, "(%s %s %s", key, row_sql_operator(att->keys[i].greater), value);
			if (i < att->nkeys - 1)
				appendStringInfo(sql, " OR (%s %s %s AND ", key, row_sql_operator(att->keys[i].equals), value);
		}
		for (int i = 0; i < 2 * att->nkeys - 1; i++)
			appendStringInfoChar(sql, ')');
	}
}

/*
 * Returns the condition, in the current memory context, that rows "r" are inside of the
 * filter and in the view that the values come from, meet "condition" (NULL: none), and,
 * if "without_id" is set, have no id.
 */
char *
kapture_row_selection(const KaptureAttachment *att, bool without_id, const char *condition)
{
	StringInfoData sql;

	initStringInfo(&sql);
	/* ids kept by the extension cannot be seen here: such rows are selected, but sent only if they have changed */
	if (without_id && att->id_column)
		appendStringInfo(&sql, "r.%s IS NULL", row_sql_column(att, att->id_attnum, att->id_column));
	else
		appendStringInfoString(&sql, "true");
	if (att->filter)
		appendStringInfo(&sql, " AND %s", kapture_expression_sql(att, att->filter));
	if (att->source_name)
		appendStringInfo(&sql, " AND EXISTS (SELECT FROM %s)", kapture_row_view_sql(att));
	if (condition)
		appendStringInfo(&sql, " AND (%s)", condition);
	return sql.data;
}

/*
 * Returns the text of the query of the keys of rows that are selected (see
 * kapture_row_selection()), in order of the key, in the current memory context; if
 * "after" is set, only of rows after the key whose values are the parameters, as text.
 * The caller bounds the result.
 */
char *
kapture_row_list_sql(const KaptureAttachment *att, const char *selection, bool after)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s FROM %s AS r WHERE %s", kapture_row_keys(att),
					 kapture_row_source(att), selection);
	/*
	 * A table that has lost its primary key may have rows with null keys, which
	 * nothing tells apart.  IS NOT NULL would not do: it is false also for a
	 * composite value with a null in it.
	 */
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(&sql, " AND r.%s IS DISTINCT FROM NULL",
						 row_sql_column(att, att->keys[i].attnum, att->keys[i].name));
	if (after)
	{
		appendStringInfoString(&sql, " AND ");
		row_sql_append_after(&sql, att);
	}
	for (int i = 0; i < att->nkeys; i++)
		appendStringInfo(&sql, "%s%s USING %s", i > 0 ? ", " : " ORDER BY ", row_sql_key(att, i),
						 row_sql_operator(att->keys[i].less));
	return sql.data;
}

/*
 * Returns the text of the query that finds rows by their keys of "from", and returns their
 * keys of "to", the same table with another primary key.  Parameters and ordinal are as in
 * kapture_row_sql().
 */
char *
kapture_row_rekey_sql(const KaptureAttachment *from, const KaptureAttachment *to)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT v.ord, %s FROM ", kapture_row_keys(to));
	row_sql_append_unnest(&sql, from, false);
	appendStringInfo(&sql, " JOIN %s AS r ON ", kapture_row_source(from));
	kapture_row_append_match(&sql, from, "v.k", 1);
	return sql.data;
}
