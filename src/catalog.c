/*
 * catalog.c
 *		Finds the extension's own tables and what is known of an attached
 *		table.
 *
 * The extension's tables are read like catalogs, by heap scan and without
 * permission checks: a trigger that runs as any user needs them.  They hold a
 * row for each attached table and each mapped column, so scans are short, and
 * callers keep what they were given until a relcache invalidation of the
 * attached table (attaching and detaching change its triggers, hence send
 * one).
 *
 * Mapped columns are remembered by name and number.  The name decides, as it
 * survives dump and restore; if no column has it any more, the number finds
 * the column that was renamed.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_index.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"

/* Column numbers, as in the install script. */
#define ATTACHMENT_ID			1
#define ATTACHMENT_RELATION		2
#define ATTACHMENT_SERVER		3
#define ATTACHMENT_KEYS			4
#define ATTACHMENT_ID_COLUMN	5
#define ATTACHMENT_ON_DUPLICATE	6
#define ATTACHMENT_PAUSED		8
#define ATTACHMENT_PULL			10
#define ATTACHMENT_ON_CONFLICT	11

#define COLUMN_ATTACHMENT		1
#define COLUMN_BIT				2
#define COLUMN_FIELD			3
#define COLUMN_NAME				4
#define COLUMN_ATTNUM			5

static const char *const catalog_table_names[KAPTURE_TABLE_COUNT] = {
	"kapture_attachment", "kapture_column", "kapture_outbox",
	"kapture_delivery", "kapture_history"
};

static Oid	catalog_relids[KAPTURE_TABLE_COUNT];
static bool catalog_packs = false;
static bool catalog_valid = false;

/* Any of our tables changed, or perhaps the extension was dropped. */
static void
catalog_relcache_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid))
		catalog_valid = false;
	for (int i = 0; i < KAPTURE_TABLE_COUNT; i++)
	{
		if (catalog_relids[i] == relid)
			catalog_valid = false;
	}
}

/* The schema of the extension, InvalidOid if it is not installed. */
static Oid
catalog_schema_oid(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			result = InvalidOid;

	ScanKeyInit(&key[0], Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(KAPTURE_EXTENSION));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		result = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Tells whether this database has the extension.
 */
bool
kapture_catalog_extension_exists(void)
{
	return OidIsValid(get_extension_oid(KAPTURE_EXTENSION, true));
}

/*
 * Returns the name of the extension's schema, quoted where needed, in the
 * current memory context.
 */
char *
kapture_catalog_schema(void)
{
	char	   *name = get_namespace_name(catalog_schema_oid());

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" does not exist", KAPTURE_EXTENSION),
				 errhint("Use CREATE EXTENSION %s.", KAPTURE_EXTENSION)));
	return pstrdup(quote_identifier(name));
}

/*
 * kapture_catalog_qualify
 *		Returns a statement with "@." replaced by the extension's schema and a
 *		dot, palloc'ed.  Errors as kapture_catalog_schema().
 */
char *
kapture_catalog_qualify(const char *sql)
{
	char	   *schema = kapture_catalog_schema();
	StringInfoData result;

	initStringInfo(&result);
	for (const char *p = sql; *p; p++)
	{
		if (p[0] == '@' && p[1] == '.')
			appendStringInfoString(&result, schema);
		else
			appendStringInfoChar(&result, *p);
	}
	return result.data;
}

/*
 * Returns the oid of one of the extension's tables, InvalidOid if the
 * extension is not installed.
 */
Oid
kapture_catalog_relid(KaptureTable table)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(catalog_relcache_callback, (Datum) 0);
		registered = true;
	}
	if (!catalog_valid)
	{
		Oid			schema = catalog_schema_oid();

		for (int i = 0; i < KAPTURE_TABLE_COUNT; i++)
			catalog_relids[i] = OidIsValid(schema) ?
				get_relname_relid(catalog_table_names[i], schema) : InvalidOid;
		catalog_valid = OidIsValid(schema);
		catalog_packs = OidIsValid(catalog_relids[KAPTURE_TABLE_OUTBOX]) &&
			get_attnum(catalog_relids[KAPTURE_TABLE_OUTBOX], "more_keys") != InvalidAttrNumber;
	}
	return catalog_relids[table];
}

/*
 * Tells whether one entry of the outbox can hold several changes: it could not
 * in version 1.0, which a new library may meet until the extension is updated.
 */
bool
kapture_catalog_outbox_packs(void)
{
	return OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_OUTBOX)) && catalog_packs;
}

static Datum
catalog_getattr(HeapTuple tuple, Relation rel, AttrNumber attnum)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, attnum, RelationGetDescr(rel), &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d of \"%s\"", attnum, RelationGetRelationName(rel));
	return value;
}

/*
 * Returns the oids of all attached relations, as a list in the current memory
 * context.
 */
List *
kapture_catalog_attached_relations(void)
{
	Relation	rel = table_open(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *result = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		result = lappend_oid(result,
							 DatumGetObjectId(catalog_getattr(tuple, rel, ATTACHMENT_RELATION)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* A column, passed by value, of an attachment; zero if there is no such attachment. */
static Datum
catalog_attachment_value(int32 attachment_id, AttrNumber attnum)
{
	Relation	rel = table_open(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	Datum		result = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (DatumGetInt32(catalog_getattr(tuple, rel, ATTACHMENT_ID)) != attachment_id)
			continue;
		result = catalog_getattr(tuple, rel, attnum);
		break;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Returns the relation of an attachment, InvalidOid if there is no such
 * attachment.
 */
Oid
kapture_catalog_attached_relation(int32 attachment_id)
{
	return DatumGetObjectId(catalog_attachment_value(attachment_id, ATTACHMENT_RELATION));
}

/*
 * Is an attachment paused?  Needs no lock on its relation.
 */
bool
kapture_catalog_is_paused(int32 attachment_id)
{
	return DatumGetBool(catalog_attachment_value(attachment_id, ATTACHMENT_PAUSED));
}

/* Reads the attachment of one of the relations, the first that has one. */
static KaptureAttachment *
catalog_read_attachment(List *relids)
{
	Relation	rel = table_open(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	KaptureAttachment *result = NULL;

	while (result == NULL && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			root = DatumGetObjectId(catalog_getattr(tuple, rel, ATTACHMENT_RELATION));
		Datum	   *names;
		int			n;

		if (!list_member_oid(relids, root))
			continue;
		result = palloc0(sizeof(KaptureAttachment));
		result->id = DatumGetInt32(catalog_getattr(tuple, rel, ATTACHMENT_ID));
		result->root = root;
		deconstruct_array(DatumGetArrayTypeP(catalog_getattr(tuple, rel, ATTACHMENT_KEYS)),
						  NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, NULL, &n);
		for (int i = 0; i < n; i++)
			result->former_key = lappend(result->former_key, pstrdup(NameStr(*DatumGetName(names[i]))));
		result->server = pstrdup(NameStr(*DatumGetName(catalog_getattr(tuple, rel, ATTACHMENT_SERVER))));
		result->id_column = pstrdup(NameStr(*DatumGetName(catalog_getattr(tuple, rel, ATTACHMENT_ID_COLUMN))));
		result->id_attnum = get_attnum(root, result->id_column);
		result->paused = DatumGetBool(catalog_getattr(tuple, rel, ATTACHMENT_PAUSED));
		result->link_duplicates =
			strcmp(TextDatumGetCString(catalog_getattr(tuple, rel, ATTACHMENT_ON_DUPLICATE)), "link") == 0;
		if (RelationGetDescr(rel)->natts < ATTACHMENT_ON_CONFLICT)
			continue;			/* of version 1.0 */
		result->pull = DatumGetBool(catalog_getattr(tuple, rel, ATTACHMENT_PULL));
		result->remote_wins =
			strcmp(TextDatumGetCString(catalog_getattr(tuple, rel, ATTACHMENT_ON_CONFLICT)), "remote") == 0;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

static int
catalog_compare_bits(const void *a, const void *b)
{
	return ((const KaptureMappedColumn *) a)->bit - ((const KaptureMappedColumn *) b)->bit;
}

/* Fills in the mapped columns, with their numbers in "rel". */
static void
catalog_read_columns(KaptureAttachment *att, Relation rel)
{
	Relation	columns = table_open(kapture_catalog_relid(KAPTURE_TABLE_COLUMN), AccessShareLock);
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;

	att->columns = palloc0(sizeof(KaptureMappedColumn) * KAPTURE_MAX_COLUMNS);
	ScanKeyInit(&key[0], COLUMN_ATTACHMENT, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(att->id));
	scan = systable_beginscan(columns, InvalidOid, false, NULL, 1, key);
	while (att->ncolumns < KAPTURE_MAX_COLUMNS && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		KaptureMappedColumn *col = &att->columns[att->ncolumns++];
		AttrNumber	attnum = DatumGetInt16(catalog_getattr(tuple, columns, COLUMN_ATTNUM));
		char	   *name = pstrdup(NameStr(*DatumGetName(catalog_getattr(tuple, columns, COLUMN_NAME))));

		col->bit = DatumGetInt16(catalog_getattr(tuple, columns, COLUMN_BIT));
		col->field = TextDatumGetCString(catalog_getattr(tuple, columns, COLUMN_FIELD));
		if (get_attnum(att->root, name) == InvalidAttrNumber)
		{
			char	   *renamed = get_attname(att->root, attnum, true);

			if (renamed)
				name = renamed;
		}
		col->name = name;
		col->attnum = get_attnum(RelationGetRelid(rel), name);
		att->all_changed |= INT64CONST(1) << col->bit;
	}
	systable_endscan(scan);
	table_close(columns, AccessShareLock);
	qsort(att->columns, att->ncolumns, sizeof(KaptureMappedColumn), catalog_compare_bits);
}

/* The qualified name of the equality operator of an operator class. */
static char *
catalog_equality(Oid opclass)
{
	Oid			family;
	Oid			type;
	Oid			oper;
	HeapTuple	tuple;
	Form_pg_operator form;
	char	   *result;

	if (!get_opclass_opfamily_and_input_type(opclass, &family, &type))
		elog(ERROR, "cache lookup failed for operator class %u", opclass);
	oper = get_opfamily_member(family, type, type, BTEqualStrategyNumber);
	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(oper));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", oper);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)",
					  quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/* Fills in one column of the key. */
static void
catalog_read_key_column(KaptureKeyColumn *key, Relation rel, AttrNumber attnum, Oid opclass)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	Oid			output;
	bool		varlena;

	key->attnum = attnum;
	key->name = pstrdup(NameStr(attr->attname));
	key->type = format_type_extended(attr->atttypid, attr->atttypmod,
									 FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
	key->equals = catalog_equality(opclass);
	getTypeOutputInfo(attr->atttypid, &output, &varlena);
	fmgr_info_cxt(output, &key->output, CurrentMemoryContext);
}

/*
 * The key of a table whose primary key was dropped: the columns that made it
 * when the table was attached, so that changes are not lost.
 */
static void
catalog_read_former_key(KaptureAttachment *att, Relation rel)
{
	int			n = list_length(att->former_key);

	att->keys = palloc0(sizeof(KaptureKeyColumn) * n);
	for (int i = 0; i < n; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), list_nth(att->former_key, i));
		Oid			opclass = InvalidOid;

		/* the type may have become one whose values cannot be compared */
		if (attnum > 0)
			opclass = GetDefaultOpClass(get_atttype(RelationGetRelid(rel), attnum), BTREE_AM_OID);
		if (!OidIsValid(opclass))
			return;
		catalog_read_key_column(&att->keys[i], rel, attnum, opclass);
	}
	att->nkeys = n;
}

/*
 * Fills in the primary key.  Leaves nkeys 0 if the table has none, nor the
 * columns of the one it had.
 */
static void
catalog_read_key(KaptureAttachment *att, Relation rel)
{
	ListCell   *lc;
	List	   *indexes = RelationGetIndexList(rel);

	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;
		oidvector  *opclasses;
		bool		isnull;

		if (!HeapTupleIsValid(tuple))
			continue;
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisprimary && index->indisvalid)
		{
			opclasses = (oidvector *)
				DatumGetPointer(SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indclass, &isnull));
			att->nkeys = index->indnkeyatts;
			att->keys = palloc0(sizeof(KaptureKeyColumn) * att->nkeys);
			for (int i = 0; i < att->nkeys; i++)
				catalog_read_key_column(&att->keys[i], rel, index->indkey.values[i], opclasses->values[i]);
		}
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
	if (att->nkeys == 0)
		catalog_read_former_key(att, rel);
}

/*
 * Returns what is known of an attached table or of a partition of one, in the
 * current memory context, with column numbers as in "rel"; NULL if it is not
 * attached.  Costs two short scans: callers keep the result.
 */
KaptureAttachment *
kapture_catalog_attachment(Relation rel)
{
	KaptureAttachment *att;
	List	   *relids = list_make1_oid(RelationGetRelid(rel));

	if (!OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		return NULL;
	if (rel->rd_rel->relispartition)
		relids = list_concat(relids, get_partition_ancestors(RelationGetRelid(rel)));

	att = catalog_read_attachment(relids);
	if (att)
	{
		catalog_read_columns(att, rel);
		catalog_read_key(att, rel);
	}
	return att;
}

/*
 * Returns why the rows of an attached table cannot be sent, in the current
 * memory context; NULL if they can.
 */
char *
kapture_catalog_problem(const KaptureAttachment *att)
{
	if (att->nkeys == 0)
		return psprintf("table \"%s\" has no primary key, nor the columns of the one it was attached with",
						get_rel_name(att->root));
	if (att->id_attnum == InvalidAttrNumber)
		return psprintf("table \"%s\" has no column \"%s\" any more, which receives the Kapture customer ids",
						get_rel_name(att->root), att->id_column);
	return NULL;
}

/*
 * Sets what the text form of values depends on, so that a key looks the same
 * whoever changed the row.  Returns the nesting level for AtEOXact_GUC().
 */
int
kapture_catalog_text_settings(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"DateStyle", "ISO, YMD"},
		{"IntervalStyle", "postgres"},
		{"TimeZone", "UTC"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"lc_monetary", "C"},
	};
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i].name, settings[i].value,
								 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

/*
 * Makes the text under which outbox and deliveries know a row: the key's value
 * itself (values[0], not a copy), or a text array if the key has several columns.
 */
char *
kapture_catalog_pack_key(char **values, int nkeys)
{
	Datum	   *elems;
	ArrayType  *array;

	if (nkeys == 1)
		return values[0];

	elems = palloc(sizeof(Datum) * nkeys);
	for (int i = 0; i < nkeys; i++)
		elems[i] = CStringGetTextDatum(values[i]);
	array = construct_array(elems, nkeys, TEXTOID, -1, false, TYPALIGN_INT);
	return OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(array));
}

/*
 * The reverse of kapture_catalog_pack_key(): an array of nkeys values in the
 * current memory context, or NULL if the text was made for another key.
 */
char **
kapture_catalog_unpack_key(const char *row_key, int nkeys)
{
	char	  **values = palloc(sizeof(char *) * nkeys);
	ArrayType  *array;
	Datum	   *elems;
	bool	   *nulls;
	int			n;

	if (nkeys == 1)
	{
		values[0] = pstrdup(row_key);
		return values;
	}

	if (row_key[0] != '{')
		return NULL;
	array = DatumGetArrayTypeP(OidInputFunctionCall(F_ARRAY_IN, pstrdup(row_key), TEXTOID, -1));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, &n);
	if (n != nkeys)
		return NULL;
	for (int i = 0; i < nkeys; i++)
		values[i] = TextDatumGetCString(elems[i]);
	return values;
}
