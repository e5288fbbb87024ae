/*
 * family.c
 *		Relatives of attached tables: partitions, tables that inherit from them,
 *		and the triggers of ours that these have.
 *
 * Only the catalogs are read, and no relative is locked, as the trigger of a table
 * also asks about the table's parents.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/catalog_tables.h"
#include "base/family.h"

/* The latest answer of kapture_family_counts_children(), which looks at each child. */
static struct
{
	Oid			root;
	Oid			attachments;	/* the table of attachments */
	bool		result;
	uint64		changes;		/* family_changes when it was given; 0: not valid */
}			family_counted;
static uint64 family_changes = 1;	/* invalidations of what the answer depends on */

static void
family_relcache_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == family_counted.root || relid == family_counted.attachments)
		family_changes++;
}

/* The trigger function, InvalidOid without the extension. */
static Oid
family_capture_function(void)
{
	Oid			schema = get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));

	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("kapture_capture"),
						   PointerGetDatum(buildoidvector(NULL, 0)), ObjectIdGetDatum(schema));
}

/*
 * Scans the triggers of a relation for ours.  Returns whether one captures its
 * rows; *names, unless NULL, are those that were not cloned from a partitioned
 * table's.
 */
static bool
family_scan_triggers(Oid relid, List **names)
{
	Oid			function = family_capture_function();
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		result = false;

	ScanKeyInit(&key[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 1, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		if (trigger->tgfoid != function)
			continue;
		result |= TRIGGER_FOR_ROW(trigger->tgtype) && trigger->tgenabled != TRIGGER_DISABLED;
		if (names && !OidIsValid(trigger->tgparentid))
			*names = lappend(*names, pstrdup(NameStr(trigger->tgname)));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Returns the names (char *) of our triggers that a relation has, except those that come
 * and go with a partitioned table's, in the current memory context.
 */
List *
kapture_family_triggers(Oid relid)
{
	List	   *names = NIL;

	(void) family_scan_triggers(relid, &names);
	return names;
}

/*
 * Tells whether the rows of all tables that inherit from an attached one count as
 * its rows.  They do if each child has the trigger and none is attached itself, as
 * where triggers of a parent are cloned to its children (chunks of TimescaleDB).
 */
bool
kapture_family_counts_children(Oid root)
{
	static bool registered = false;
	uint64		changes = family_changes;
	List	   *children;
	List	   *attached;
	bool		result;
	ListCell   *lc;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(family_relcache_callback, (Datum) 0);
		registered = true;
	}
	if (family_counted.root == root && family_counted.changes == changes)
		return family_counted.result;
	/* not valid, should an error come in between; but changes are noticed from here on */
	family_counted.changes = 0;
	family_counted.root = root;
	family_counted.attachments = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	children = find_all_inheritors(root, NoLock, NULL);
	attached = kapture_catalog_attached_relations();
	result = list_length(children) > 1;
	foreach(lc, children)
	{
		Oid			relid = lfirst_oid(lc);

		if (relid != root && result)
			result = get_rel_relkind(relid) == RELKIND_RELATION && !list_member_oid(attached, relid) &&
				family_scan_triggers(relid, NULL);
	}
	family_counted.result = result;
	family_counted.changes = changes;
	return result;
}

/*
 * Returns the tables that a plain table inherits from, the nearest first, in the
 * current memory context.
 */
List *
kapture_family_parents(Oid relid)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	List	   *result = list_make1_oid(relid);

	for (int i = 0; i < list_length(result); i++)
	{
		ScanKeyData key[1];
		SysScanDesc scan;
		HeapTuple	tuple;

		ScanKeyInit(&key[0], Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(list_nth_oid(result, i)));
		scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, NULL, 1, key);
		while (HeapTupleIsValid(tuple = systable_getnext(scan)))
			result = list_append_unique_oid(result, ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent);
		systable_endscan(scan);
	}
	table_close(inherits, AccessShareLock);
	return list_delete_first(result);
}

/*
 * Tells whether a table inherits, other than as a partition.
 */
bool
kapture_family_inherits(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_RELATION && !rel->rd_rel->relispartition &&
		has_superclass(RelationGetRelid(rel));
}

/*
 * Returns the attached table that a table inherits from, whether or not its rows count
 * as rows of that table; InvalidOid if there is none.
 */
Oid
kapture_family_attached_parent(Relation rel)
{
	List	   *attached = kapture_catalog_attached_relations();
	ListCell   *lc;

	if (!kapture_family_inherits(rel))
		return InvalidOid;
	foreach(lc, kapture_family_parents(RelationGetRelid(rel)))
	{
		if (list_member_oid(attached, lfirst_oid(lc)))
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/*
 * Returns a partition of a table, or of a partition of it, that is a foreign
 * table; InvalidOid if there is none.
 */
Oid
kapture_family_foreign_partition(Oid relid)
{
	ListCell   *lc;
	Bitmapset  *key;
	Oid			constraint;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
		return InvalidOid;
	/* a table with a primary key can have no foreign partition */
	key = get_primary_key_attnos(relid, true, &constraint);
	if (key)
		return InvalidOid;
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}
