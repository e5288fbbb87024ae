/*
 * catalog_tables.c
 *		Finds the extension's own tables, and which relations are attached.
 *
 * What else the extension knows of its tables is in catalog.c; files that catalog.c
 * depends on itself use only this file.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/catalog_tables.h"

static const char *const catalog_table_names[KAPTURE_TABLE_COUNT] = {
	"kapture_attachment", "kapture_column", "kapture_outbox",
	"kapture_delivery", "kapture_history", "kapture_outbox_keys", "kapture_follow", "kapture_row"
};

static Oid	catalog_relids[KAPTURE_TABLE_COUNT];
static Oid	catalog_schema = InvalidOid;	/* while catalog_valid */
static bool catalog_packs = false;
static bool catalog_valid = false;
static uint64 catalog_changes = 0;	/* invalidations of these tables that this process has received */

/* Any of our tables changed, or perhaps the extension was dropped. */
static void
catalog_relcache_callback(Datum arg, Oid relid)
{
	bool		ours = !OidIsValid(relid);

	for (int i = 0; i < KAPTURE_TABLE_COUNT && !ours; i++)
		ours = catalog_relids[i] == relid;
	if (ours)
	{
		catalog_valid = false;
		catalog_changes++;
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
 * Returns the relations and functions that are members of the extension, as a list of
 * ObjectAddress in the current memory context; "new": those that the running script has made.
 */
List *
kapture_catalog_members(Oid extension, bool new)
{
	List	   *members = NIL;
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(ExtensionRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, lengthof(keys), keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);
		ObjectAddress *object;

		if (form->deptype != DEPENDENCY_EXTENSION || (form->classid != RelationRelationId && form->classid != ProcedureRelationId))
			continue;
		/* CREATE OR REPLACE of an earlier member leaves this entry as it is */
		if (new && !TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
			continue;
		object = palloc(sizeof(ObjectAddress));
		ObjectAddressSet(*object, form->classid, form->objid);
		members = lappend(members, object);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return members;
}

/*
 * Returns the name of the extension's schema, quoted where needed, in the
 * current memory context.
 */
char *
kapture_catalog_schema(void)
{
	char	   *name;

	(void) kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	name = get_namespace_name(catalog_valid ? catalog_schema : catalog_schema_oid());

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
	for (;;)
	{
		const char *mark = strstr(sql, "@.");

		if (mark == NULL)
			break;
		appendBinaryStringInfo(&result, sql, mark - sql);
		appendStringInfoString(&result, schema);
		sql = mark + 1;
	}
	appendStringInfoString(&result, sql);
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
		uint64		changes = catalog_changes;
		Oid			schema = catalog_schema_oid();

		for (int i = 0; i < KAPTURE_TABLE_COUNT; i++)
			catalog_relids[i] = OidIsValid(schema) ?
				get_relname_relid(catalog_table_names[i], schema) : InvalidOid;
		catalog_schema = schema;
		/*
		 * Not valid if an invalidation came during the lookup, as it may concern what was looked
		 * up too early, or if a script of the extension is about to create the tables.
		 */
		catalog_valid = OidIsValid(schema) && changes == catalog_changes && !creating_extension;
		catalog_packs = OidIsValid(catalog_relids[KAPTURE_TABLE_OUTBOX]) &&
			get_attnum(catalog_relids[KAPTURE_TABLE_OUTBOX], "more_keys") != InvalidAttrNumber;
	}
	return catalog_relids[table];
}

/*
 * Returns a number that changes when any of these tables, or the indexes of one, may have
 * changed.  It is up to date for a table that the caller has locked and found by
 * kapture_catalog_relid().
 */
uint64
kapture_catalog_changes(void)
{
	return catalog_changes;
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

/*
 * Returns a column, which cannot be null, of a row of one of our own tables.
 */
Datum
kapture_catalog_getattr(HeapTuple tuple, Relation rel, AttrNumber attnum)
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
							 DatumGetObjectId(kapture_catalog_getattr(tuple, rel, KAPTURE_ATTACHMENT_RELATION)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}
