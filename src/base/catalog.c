/*
 * catalog.c
 *		Reads the descriptions of attached tables.
 *
 * The extension's tables are read like catalogs, by heap scan and without
 * permission checks: a trigger that runs as any user needs them.  They hold a
 * row for each attached table and each mapped column, so scans are short, and
 * callers keep the result until a relcache invalidation of the attached table
 * (attaching and detaching change its triggers, hence send one).
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
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_opclass.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/tuptable.h"
#include "parser/parse_expr.h"
#include "parser/parser.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/xml.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/family.h"

/* Column numbers, as in the install script; another one is in catalog_tables.h. */
#define ATTACHMENT_ID			1
#define ATTACHMENT_SERVER		3
#define ATTACHMENT_KEYS			4
#define ATTACHMENT_ID_COLUMN	5
#define ATTACHMENT_ON_DUPLICATE	6
#define ATTACHMENT_PAUSED		8
#define ATTACHMENT_PULL			10
#define ATTACHMENT_ON_CONFLICT	11
#define ATTACHMENT_SERVER_OID	12
#define ATTACHMENT_SERVER_OWNER	13

#define COLUMN_ATTACHMENT		1
#define COLUMN_BIT				2
#define COLUMN_FIELD			3
#define COLUMN_NAME				4
#define COLUMN_ATTNUM			5

/* Room for mapped columns to begin with: thousands of attachments may be kept. */
#define CATALOG_USUAL_COLUMNS	6

/* A column of a row of one of our tables that may be null, or not exist, as in version 1.0. */
static Datum
catalog_getattr_or_null(HeapTuple tuple, Relation rel, const char *name, bool *isnull)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);

	*isnull = true;
	return attnum == InvalidAttrNumber ? (Datum) 0 : heap_getattr(tuple, attnum, RelationGetDescr(rel), isnull);
}

/* Such a column as text, NULL for null. */
static char *
catalog_gettext_or_null(HeapTuple tuple, Relation rel, const char *name)
{
	bool		isnull;
	Datum		value = catalog_getattr_or_null(tuple, rel, name, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * Makes an expression from its text and the names of the columns that it reads, with their
 * numbers in "rel"; "reads_all": it reads the whole row.
 */
static KaptureExpression *
catalog_make_expression(char *text, Datum reads, bool reads_all, Relation rel)
{
	KaptureExpression *result = palloc0(sizeof(KaptureExpression));
	Datum	   *names;
	int			n;

	result->text = text;
	result->reads_all = reads_all;
	if (reads_all)
		return result;
	deconstruct_array(DatumGetArrayTypeP(reads), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), NameStr(*DatumGetName(names[i])));

		if (attnum != InvalidAttrNumber)
			result->reads = lappend_int(result->reads, attnum);
	}
	return result;
}

/* The constants that are sent when a row leaves or is deleted, from the jsonb that names them. */
static List *
catalog_make_field_values(Jsonb *object)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	KaptureFieldValue *field = NULL;
	List	   *result = NIL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			field = palloc(sizeof(KaptureFieldValue));
			field->field = pnstrdup(v.val.string.val, v.val.string.len);
		}
		else if (token == WJB_VALUE && v.type == jbvString)
		{
			field->value = pnstrdup(v.val.string.val, v.val.string.len);
			result = lappend(result, field);
		}
	}
	return result;
}

/* A list of names (char *) from an array of them. */
static List *
catalog_make_names(Datum array)
{
	List	   *result = NIL;
	Datum	   *names;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(array), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, NULL, &n);
	for (int i = 0; i < n; i++)
		result = lappend(result, pstrdup(NameStr(*DatumGetName(names[i]))));
	return result;
}

/*
 * Returns the relation that has a qualified and quoted name, whatever the rights on its
 * schema; InvalidOid if there is none.
 */
Oid
kapture_catalog_find_relation(const char *name)
{
	List	   *parts = stringToQualifiedNameList(name, NULL);
	Oid			schema = list_length(parts) == 2 ? get_namespace_oid(strVal(linitial(parts)), true) : InvalidOid;

	return OidIsValid(schema) ? get_relname_relid(strVal(llast(parts)), schema) : InvalidOid;
}

/* Fills in which view the values come from. */
static void
catalog_read_source(KaptureAttachment *att, HeapTuple tuple, Relation attachments, Relation rel)
{
	bool		isnull;
	Datum		value;

	att->source_name = catalog_gettext_or_null(tuple, attachments, "source");
	if (att->source_name == NULL)
		return;
	att->source = kapture_catalog_find_relation(att->source_name);
	if (OidIsValid(att->source))
		att->beside = list_make1_oid(att->source);
	value = catalog_getattr_or_null(tuple, attachments, "source_keys", &isnull);
	if (!isnull)
		att->source_keys = catalog_make_names(value);
	value = catalog_getattr_or_null(tuple, attachments, "source_columns", &isnull);
	att->source_reads = catalog_make_expression(NULL, value, isnull, rel);
}

/* Fills in which rows go to Kapture, and what is sent for those that no longer do. */
static void
catalog_read_filter(KaptureAttachment *att, HeapTuple tuple, Relation attachments, Relation rel)
{
	char	   *text = catalog_gettext_or_null(tuple, attachments, "filter");
	bool		isnull;
	Datum		value = catalog_getattr_or_null(tuple, attachments, "filter_columns", &isnull);

	if (text)
		att->filter = catalog_make_expression(text, value, isnull, rel);
	value = catalog_getattr_or_null(tuple, attachments, "on_leave", &isnull);
	if (!isnull)
		att->on_leave = catalog_make_field_values(DatumGetJsonbP(value));
	value = catalog_getattr_or_null(tuple, attachments, "on_delete", &isnull);
	if (!isnull)
		att->on_delete = catalog_make_field_values(DatumGetJsonbP(value));
}

/* The name of an attachment; empty where it has none, as in version 1.0. */
static char *
catalog_read_name(HeapTuple tuple, Relation attachments)
{
	char	   *name = catalog_gettext_or_null(tuple, attachments, "name");

	return name ? name : pstrdup("");
}

/* Which version of a row this is. */
static void
catalog_read_version(HeapTuple tuple, KaptureAttachedVersion *version)
{
	version->xmin = HeapTupleHeaderGetRawXmin(tuple->t_data);
	version->place = tuple->t_self;
}

/*
 * Tells whether two versions are the same.
 */
bool
kapture_catalog_same_version(const KaptureAttachedVersion *a, const KaptureAttachedVersion *b)
{
	return a->xmin == b->xmin &&
		ItemPointerEquals(unconstify(ItemPointerData *, &a->place), unconstify(ItemPointerData *, &b->place));
}

/*
 * Tells whether an attachment still exists in this version, not altered since.
 */
bool
kapture_catalog_is_present_version(const KaptureAttachedVersion *version)
{
	Relation	rel = table_open(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ItemPointerData place = version->place;
	bool		present = false;
	bool		isnull;

	if (table_tuple_fetch_row_version(rel, &place, snapshot, slot))
		present = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull)) == version->xmin;
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, AccessShareLock);
	return present;
}

/*
 * Returns the list of attached tables (of KaptureAttached), in the current memory
 * context.
 */
List *
kapture_catalog_attached(void)
{
	Relation	rel = table_open(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *result = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		KaptureAttached *attached = palloc(sizeof(KaptureAttached));

		attached->id = DatumGetInt32(kapture_catalog_getattr(tuple, rel, ATTACHMENT_ID));
		attached->relid = DatumGetObjectId(kapture_catalog_getattr(tuple, rel, KAPTURE_ATTACHMENT_RELATION));
		attached->name = catalog_read_name(tuple, rel);
		catalog_read_version(tuple, &attached->version);
		result = lappend(result, attached);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* Begins to read the attachment with this number. */
static SysScanDesc
catalog_begin_one(Relation attachments, int32 attachment_id)
{
	ScanKeyData key[1];

	ScanKeyInit(&key[0], ATTACHMENT_ID, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(attachment_id));
	return systable_beginscan(attachments, get_relname_relid("kapture_attachment_pkey", RelationGetNamespace(attachments)),
							  true, NULL, 1, key);
}

/* A column, passed by value, of an attachment; zero if there is no such attachment. */
static Datum
catalog_attachment_value(int32 attachment_id, AttrNumber attnum)
{
	Relation	rel = table_open(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), AccessShareLock);
	SysScanDesc scan = catalog_begin_one(rel, attachment_id);
	HeapTuple	tuple;
	Datum		result = 0;

	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		result = kapture_catalog_getattr(tuple, rel, attnum);
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
	return DatumGetObjectId(catalog_attachment_value(attachment_id, KAPTURE_ATTACHMENT_RELATION));
}

/*
 * Is an attachment paused?  Needs no lock on its relation.
 */
bool
kapture_catalog_is_paused(int32 attachment_id)
{
	return DatumGetBool(catalog_attachment_value(attachment_id, ATTACHMENT_PAUSED));
}

/* Fills in which column receives ids. */
static void
catalog_read_id_column(KaptureAttachment *att, HeapTuple tuple, Relation attachments, Relation rel)
{
	bool		isnull;
	Datum		name = heap_getattr(tuple, ATTACHMENT_ID_COLUMN, RelationGetDescr(attachments), &isnull);

	if (isnull)
		return;
	att->id_column = pstrdup(NameStr(*DatumGetName(name)));
	att->id_attnum = get_attnum(RelationGetRelid(rel), att->id_column);
}

/* Makes an attachment of its row in kapture_attachment, with column numbers as in "rel". */
static KaptureAttachment *
catalog_make_attachment(HeapTuple tuple, Relation attachments, Relation rel)
{
	KaptureAttachment *result = palloc0(sizeof(KaptureAttachment));
	char	   *on_duplicate;

	result->computing = palloc0(sizeof(KaptureComputing));
	result->id = DatumGetInt32(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_ID));
	result->name = catalog_read_name(tuple, attachments);
	result->root = DatumGetObjectId(kapture_catalog_getattr(tuple, attachments, KAPTURE_ATTACHMENT_RELATION));
	catalog_read_version(tuple, &result->version);
	result->former_key = catalog_make_names(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_KEYS));
	result->server = pstrdup(NameStr(*DatumGetName(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_SERVER))));
	catalog_read_id_column(result, tuple, attachments, rel);
	result->paused = DatumGetBool(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_PAUSED));
	on_duplicate = TextDatumGetCString(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_ON_DUPLICATE));
	result->link_only = strcmp(on_duplicate, "link only") == 0;
	result->link_duplicates = result->link_only || strcmp(on_duplicate, "link") == 0;
	if (RelationGetDescr(attachments)->natts < ATTACHMENT_SERVER_OWNER)
		return result;			/* of version 1.0 */
	result->serverid = DatumGetObjectId(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_SERVER_OID));
	result->server_owner = DatumGetObjectId(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_SERVER_OWNER));
	result->pull = DatumGetBool(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_PULL));
	result->remote_wins =
		strcmp(TextDatumGetCString(kapture_catalog_getattr(tuple, attachments, ATTACHMENT_ON_CONFLICT)), "remote") == 0;
	catalog_read_filter(result, tuple, attachments, rel);
	catalog_read_source(result, tuple, attachments, rel);
	return result;
}

static int
catalog_compare_ids(const ListCell *a, const ListCell *b)
{
	int32		x = ((const KaptureAttachment *) lfirst(a))->id;
	int32		y = ((const KaptureAttachment *) lfirst(b))->id;

	return x < y ? -1 : x > y;
}

/*
 * Reads the attachments of the first of the relations that has any, for "rel"; if "only"
 * is not 0, just the one with that number.
 */
static List *
catalog_read_attachments(List *relids, Relation rel, int32 only)
{
	Relation	attachments = table_open(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), AccessShareLock);
	SysScanDesc scan = only != 0 ? catalog_begin_one(attachments, only) :
		systable_beginscan(attachments, InvalidOid, false, NULL, 0, NULL);
	int			best = list_length(relids);
	HeapTuple	tuple;
	List	   *result = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Oid			root = DatumGetObjectId(kapture_catalog_getattr(tuple, attachments, KAPTURE_ATTACHMENT_RELATION));
		int			position = 0;

		while (position < list_length(relids) && list_nth_oid(relids, position) != root)
			position++;
		if (position >= list_length(relids) || position > best)
			continue;
		if (position < best)
			result = NIL;
		best = position;
		result = lappend(result, catalog_make_attachment(tuple, attachments, rel));
	}
	systable_endscan(scan);
	table_close(attachments, AccessShareLock);
	list_sort(result, catalog_compare_ids);
	return result;
}

static int
catalog_compare_bits(const void *a, const void *b)
{
	return ((const KaptureMappedColumn *) a)->bit - ((const KaptureMappedColumn *) b)->bit;
}

/* Fills in the column that a field's value comes from, with its number in "rel". */
static void
catalog_read_plain_column(KaptureMappedColumn *col, HeapTuple tuple, Relation columns, Oid root, Relation rel)
{
	AttrNumber	attnum = DatumGetInt16(kapture_catalog_getattr(tuple, columns, COLUMN_ATTNUM));

	col->name = pstrdup(NameStr(*DatumGetName(kapture_catalog_getattr(tuple, columns, COLUMN_NAME))));
	if (get_attnum(root, col->name) == InvalidAttrNumber)
	{
		char	   *renamed = get_attname(root, attnum, true);

		if (renamed)
			col->name = renamed;
	}
	col->attnum = get_attnum(RelationGetRelid(rel), col->name);
}

/* Fills in where a field's value comes from. */
static void
catalog_read_column(KaptureMappedColumn *col, HeapTuple tuple, Relation columns, const KaptureAttachment *att, Relation rel)
{
	char	   *expression = catalog_gettext_or_null(tuple, columns, "expression");

	col->bit = DatumGetInt16(kapture_catalog_getattr(tuple, columns, COLUMN_BIT));
	col->field = TextDatumGetCString(kapture_catalog_getattr(tuple, columns, COLUMN_FIELD));
	col->constant = catalog_gettext_or_null(tuple, columns, "constant");
	if (expression)
	{
		bool		isnull;
		Datum		reads = catalog_getattr_or_null(tuple, columns, "reads", &isnull);

		/* an expression over a view reads none of the table's columns itself */
		col->expression = att->source_name ? catalog_make_expression(expression, PointerGetDatum(construct_empty_array(NAMEOID)), false, rel) :
			catalog_make_expression(expression, reads, isnull, rel);
	}
	else if (col->constant == NULL && att->source_name)
		col->name = pstrdup(NameStr(*DatumGetName(kapture_catalog_getattr(tuple, columns, COLUMN_NAME))));
	else if (col->constant == NULL)
		catalog_read_plain_column(col, tuple, columns, att->root, rel);
}

/* Fills in the mapped columns, with their numbers in "rel". */
static void
catalog_read_columns(KaptureAttachment *att, Relation rel)
{
	Relation	columns = table_open(kapture_catalog_relid(KAPTURE_TABLE_COLUMN), AccessShareLock);
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;
	int			room = CATALOG_USUAL_COLUMNS;

	att->columns = palloc(sizeof(KaptureMappedColumn) * room);
	ScanKeyInit(&key[0], COLUMN_ATTACHMENT, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(att->id));
	scan = systable_beginscan(columns, get_relname_relid("kapture_column_pkey", RelationGetNamespace(columns)),
							  true, NULL, 1, key);
	while (att->ncolumns < KAPTURE_MAX_COLUMNS && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		KaptureMappedColumn *col;

		if (att->ncolumns == room)
			att->columns = repalloc(att->columns, sizeof(KaptureMappedColumn) * (room *= 2));
		col = &att->columns[att->ncolumns++];
		memset(col, 0, sizeof(KaptureMappedColumn));
		catalog_read_column(col, tuple, columns, att, rel);
		att->all_changed |= INT64CONST(1) << col->bit;
	}
	systable_endscan(scan);
	table_close(columns, AccessShareLock);
	qsort(att->columns, att->ncolumns, sizeof(KaptureMappedColumn), catalog_compare_bits);
}

/*
 * The primary key of a table, as the tuple of its index, to be released; NULL if
 * there is none.  Needs no lock on the table: triggers ask for that of a parent.
 */
static HeapTuple
catalog_primary_key(Oid relid)
{
	Oid			constraint = InvalidOid;
	HeapTuple	tuple;

	bms_free(get_primary_key_attnos(relid, true, &constraint));
	if (!OidIsValid(constraint))
		return NULL;
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(get_constraint_index(constraint)));
	if (HeapTupleIsValid(tuple) && !((Form_pg_index) GETSTRUCT(tuple))->indisvalid)
	{
		ReleaseSysCache(tuple);
		return NULL;
	}
	return tuple;
}

/* An operator class, if it is for b-trees; otherwise, the type's default one. */
static Oid
catalog_btree_opclass(Oid opclass, Oid type)
{
	HeapTuple	tuple = SearchSysCache1(CLAOID, ObjectIdGetDatum(opclass));
	bool		btree = false;

	if (HeapTupleIsValid(tuple))
	{
		btree = ((Form_pg_opclass) GETSTRUCT(tuple))->opcmethod == BTREE_AM_OID;
		ReleaseSysCache(tuple);
	}
	return btree ? opclass : GetDefaultOpClass(type, BTREE_AM_OID);
}

/* Fills in the operators of a column of the key, if its type has any. */
static void
catalog_read_operators(KaptureKeyColumn *key, Oid opclass)
{
	Oid			family;
	Oid			type;

	if (!OidIsValid(opclass) || !get_opclass_opfamily_and_input_type(opclass, &family, &type))
		return;
	key->compared_as = IsPolymorphicType(type) || get_typtype(type) == TYPTYPE_PSEUDO ?
		getBaseType(key->type) : type;
	key->equals = get_opfamily_member(family, type, type, BTEqualStrategyNumber);
	key->less = get_opfamily_member(family, type, type, BTLessStrategyNumber);
	key->greater = get_opfamily_member(family, type, type, BTGreaterStrategyNumber);
	if (!OidIsValid(key->less) || !OidIsValid(key->greater))
		key->equals = InvalidOid;
}

/*
 * Fills in one column of the key, by its name (NULL: it is gone).  "opclass" is that of the primary key's
 * index, InvalidOid if there is none.  Returns false if there is no such column.
 */
static bool
catalog_read_key_column(KaptureKeyColumn *key, Relation rel, char *name, Oid opclass)
{
	Form_pg_attribute attr;
	Oid			output;
	bool		varlena;

	key->name = name;
	key->attnum = name ? get_attnum(RelationGetRelid(rel), name) : InvalidAttrNumber;
	if (key->attnum <= 0)
		return false;
	attr = TupleDescAttr(RelationGetDescr(rel), key->attnum - 1);
	key->type = attr->atttypid;
	key->typmod = attr->atttypmod;
	key->collation = attr->attcollation;
	/* the index of a key WITHOUT OVERLAPS is no b-tree */
	catalog_read_operators(key, catalog_btree_opclass(opclass, key->type));
	getTypeOutputInfo(attr->atttypid, &output, &varlena);
	fmgr_info_cxt(output, &key->output, CurrentMemoryContext);
	return true;
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
		if (!catalog_read_key_column(&att->keys[i], rel, list_nth(att->former_key, i), InvalidOid))
			return;
	}
	att->nkeys = n;
}

/*
 * Fills in the key: the attached table's primary key, with the column numbers of
 * "rel".  Leaves nkeys 0 if it has no primary key, nor the columns of its former one.
 */
void
kapture_catalog_read_key(KaptureAttachment *att, Relation rel)
{
	HeapTuple	tuple = catalog_primary_key(att->root);
	Form_pg_index index;
	oidvector  *opclasses;
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
	{
		catalog_read_former_key(att, rel);
		return;
	}
	index = (Form_pg_index) GETSTRUCT(tuple);
	opclasses = (oidvector *)
		DatumGetPointer(SysCacheGetAttr(INDEXRELID, tuple, Anum_pg_index_indclass, &isnull));
	att->keys = palloc0(sizeof(KaptureKeyColumn) * index->indnkeyatts);
	for (int i = 0; i < index->indnkeyatts; i++)
	{
		if (!catalog_read_key_column(&att->keys[i], rel, get_attname(att->root, index->indkey.values[i], true),
									 opclasses->values[i]))
			break;
		att->nkeys++;
	}
	if (att->nkeys < index->indnkeyatts)
		att->nkeys = 0;
	ReleaseSysCache(tuple);
}

/* The attachments of a table, all or only the one with this number. */
static List *
catalog_find_attachments(Relation rel, int32 only)
{
	List	   *result;
	List	   *relids = list_make1_oid(RelationGetRelid(rel));
	ListCell   *lc;

	if (!OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		return NIL;
	if (rel->rd_rel->relispartition)
		relids = list_concat(relids, get_partition_ancestors(RelationGetRelid(rel)));

	result = catalog_read_attachments(relids, rel, only);
	if (result == NIL && kapture_family_inherits(rel))
	{
		result = catalog_read_attachments(kapture_family_parents(RelationGetRelid(rel)), rel, only);
		if (result != NIL)
		{
			Oid			root = ((KaptureAttachment *) linitial(result))->root;

			if (get_rel_relkind(root) != RELKIND_RELATION || !kapture_family_counts_children(root))
				result = NIL;
		}
	}
	foreach(lc, result)
	{
		catalog_read_columns(lfirst(lc), rel);
		kapture_catalog_read_key(lfirst(lc), rel);
	}
	return result;
}

/*
 * Returns the attachments (KaptureAttachment, in the order of their numbers) of an
 * attached table, of a partition of one, or of a table that inherits from one and
 * whose rows count as its rows, in the current memory context, with column numbers
 * as in "rel"; NIL if it is not attached.  Costs two short scans: callers keep the
 * result.
 */
List *
kapture_catalog_attachments(Relation rel)
{
	return catalog_find_attachments(rel, 0);
}

/*
 * Returns the first of the attachments that kapture_catalog_attachments() returns, for
 * callers to whom only the table matters; NULL if there is none.
 */
KaptureAttachment *
kapture_catalog_attachment(Relation rel)
{
	List	   *attachments = catalog_find_attachments(rel, 0);

	return attachments != NIL ? linitial(attachments) : NULL;
}

/*
 * Returns the attachment with this number, as kapture_catalog_attachments() does; NULL
 * if the table has no such attachment.
 */
KaptureAttachment *
kapture_catalog_attachment_by_id(Relation rel, int32 attachment_id)
{
	List	   *attachments = catalog_find_attachments(rel, attachment_id);

	return attachments != NIL ? linitial(attachments) : NULL;
}

/*
 * Returns what to call an attachment in messages: its table's name in double quotes, and
 * its own name, if it has one; in the current memory context.
 */
char *
kapture_catalog_title(const KaptureAttachment *att)
{
	const char *name = get_rel_name(att->root);

	return att->name[0] == '\0' ? psprintf("\"%s\"", name) : psprintf("\"%s\" (attachment \"%s\")", name, att->name);
}

/*
 * Returns a copy of an attachment with the key that it had when the table was attached, in
 * the current memory context; its nkeys is 0 if a column of that key is gone.
 */
KaptureAttachment *
kapture_catalog_with_former_key(const KaptureAttachment *att, Relation rel)
{
	KaptureAttachment *result = palloc(sizeof(KaptureAttachment));

	*result = *att;
	/* plans belong to one description only */
	memset(result->plans, 0, sizeof(result->plans));
	result->is_planned = result->plans_owned = false;
	result->nkeys = 0;
	catalog_read_former_key(result, rel);
	for (int i = 0; i < result->nkeys; i++)
	{
		if (!OidIsValid(result->keys[i].equals))
			result->nkeys = 0;
	}
	return result;
}

/*
 * kapture_catalog_lost_key
 *		Returns the name of a column of the key that the view has no more, which the values
 *		come from; NULL: it has them all, or there is no view.
 */
const char *
kapture_catalog_lost_key(const KaptureAttachment *att)
{
	ListCell   *lc;

	foreach(lc, OidIsValid(att->source) ? att->source_keys : NIL)
	{
		if (get_attnum(att->source, lfirst(lc)) == InvalidAttrNumber)
			return lfirst(lc);
	}
	return NULL;
}

/*
 * Returns why the rows of an attached table cannot be sent, in the current
 * memory context; NULL if they can.
 */
char *
kapture_catalog_problem(const KaptureAttachment *att)
{
	const char *name = get_rel_name(att->root);
	Oid			foreign;

	if (att->nkeys == 0)
		return psprintf("table \"%s\" has no primary key, nor the columns of the one it was attached with", name);
	if (att->id != 0 && att->former_key == NIL)
		return psprintf("the ids of table \"%s\" are known by its former primary key only; detach it and attach it again", name);
	foreign = kapture_family_foreign_partition(att->root);
	if (OidIsValid(foreign))
		return psprintf("partition \"%s\" of table \"%s\" is a foreign table", get_rel_name(foreign), name);
	for (int i = 0; i < att->nkeys; i++)
	{
		if (!OidIsValid(att->keys[i].equals))
			return psprintf("column \"%s\" of table \"%s\", which is part of its key, is of type %s, whose values cannot be compared",
							att->keys[i].name, name, format_type_be(att->keys[i].type));
	}
	if (att->source_name && get_rel_relkind(att->source) != RELKIND_VIEW)
		return psprintf("view %s, which the values of table \"%s\" come from, is gone", att->source_name, name);
	if (kapture_catalog_lost_key(att))
		return psprintf("view %s, which the values of table \"%s\" come from, has no column \"%s\" any more, by which the rows are found",
						att->source_name, name, kapture_catalog_lost_key(att));
	/* a draft needs no such column */
	if (att->id != 0 && att->id_column && att->id_attnum == InvalidAttrNumber)
		return psprintf("table \"%s\" has no column \"%s\" any more, which receives the Kapture customer ids",
						name, att->id_column);
	return NULL;
}

/* The bit of a field; 0 if the attachment does not feed it. */
static int64
catalog_field(const KaptureAttachment *att, const char *field)
{
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (strcmp(att->columns[i].field, field) == 0)
			return INT64CONST(1) << att->columns[i].bit;
	}
	return 0;
}

/* Errors out if none of a table's attachments feeds a field. */
static void
catalog_require_field(const List *attachments, const char *field)
{
	const KaptureAttachment *att = NULL;
	StringInfoData known;
	ListCell   *lc;

	initStringInfo(&known);
	foreach(lc, attachments)
	{
		att = lfirst(lc);
		if (catalog_field(att, field) != 0)
			return;
		for (int i = 0; i < att->ncolumns; i++)
			appendStringInfo(&known, "%s\"%s\"", known.len > 0 ? ", " : "", att->columns[i].field);
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("no column of table \"%s\" feeds the Kapture field \"%s\"", get_rel_name(att->root), field),
			 errhint("Its fields are %s.", known.data)));
}

/*
 * Returns the bits that "att" has for the fields that a text[] names, for 0 or an empty
 * array those of all its fields.  Errors: 22004 the array contains NULL, 42704 none of
 * "attachments", which are those of the table, feeds a field.
 */
int64
kapture_catalog_fields(const List *attachments, const KaptureAttachment *att, Datum fields)
{
	Datum	   *names;
	bool	   *nulls;
	int			n = 0;
	int64		result = 0;

	if (fields != (Datum) 0)
		deconstruct_array(DatumGetArrayTypeP(fields), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"fields\" must not contain nulls")));
		catalog_require_field(attachments, TextDatumGetCString(names[i]));
		result |= catalog_field(att, TextDatumGetCString(names[i]));
	}
	return n > 0 ? result : att->all_changed;
}

/*
 * Returns the owner of a relation; InvalidOid if there is no such relation.
 */
Oid
kapture_catalog_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

static void
catalog_set(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Has SQL read as by default: whoever renames something has expressions of others parsed and
 * written again, and must not change what their literals mean.  Few sessions need that.
 */
static void
catalog_set_syntax(void)
{
	if (!standard_conforming_strings)
		catalog_set("standard_conforming_strings", "on");
	if (backslash_quote != BACKSLASH_QUOTE_SAFE_ENCODING)
		catalog_set("backslash_quote", "safe_encoding");
	if (!Array_nulls)
		catalog_set("array_nulls", "on");
	if (Transform_null_equals)
		catalog_set("transform_null_equals", "off");
	if (xmloption != XMLOPTION_CONTENT)
		catalog_set("xmloption", "content");
}

/*
 * Sets what the text form of values depends on, and what SQL means, so that a key, or an
 * expression that is kept, looks the same, and is understood in the same way, in whichever
 * session.  Returns the nesting level for AtEOXact_GUC().
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
		{"quote_all_identifiers", "off"},
	};
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		catalog_set(settings[i].name, settings[i].value);
	catalog_set_syntax();
	return nestlevel;
}

/*
 * Makes the text under which outbox and deliveries know a row: the key's value
 * itself (values[0], not a copy), or a text array if the key has several columns.
 * Error (22004) if a value is NULL: without its primary key, a table may have rows
 * that nothing tells apart.
 */
char *
kapture_catalog_pack_key(char **values, int nkeys)
{
	Datum	   *elems;
	ArrayType  *array;

	for (int i = 0; i < nkeys; i++)
	{
		if (values[i] == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a row has NULL in a column of its key")));
	}
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
		return NULL;			/* array_in() would raise an error */
	array = DatumGetArrayTypeP(OidInputFunctionCall(F_ARRAY_IN, pstrdup(row_key), TEXTOID, -1));
	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elems, &nulls, &n);
	if (n != nkeys || ARR_NDIM(array) != 1 || ARR_HASNULL(array))
		return NULL;
	for (int i = 0; i < nkeys; i++)
		values[i] = TextDatumGetCString(elems[i]);
	return values;
}
