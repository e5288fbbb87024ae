/*
 * attach_trigger.c
 *		The triggers that capture changes of attached tables: created and dropped by
 *		DDL that runs as the caller.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/family.h"
#include "base/owner_sql.h"
#include "table/attach_trigger.h"
#include "table/row_sql.h"

/*
 * Runs DDL as the caller.  Errors: those of the DDL.
 */
void
kapture_attach_execute_ddl(const char *sql)
{
	SPI_connect();
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
}

/*
 * DDL finds its table by name, so it has hit another one if the schema was renamed in the
 * meantime.  Errors out (40001) unless the trigger exists (or, if not "attached", is gone).
 */
void
kapture_attach_check_name(Oid relid, int32 attachment_id, const char *name, bool attached)
{
	CommandCounterIncrement();
	if (OidIsValid(get_trigger_oid(relid, kapture_capture_trigger(KAPTURE_TRIGGER, attachment_id, name), true)) != attached)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("table \"%s\" was renamed meanwhile", get_rel_name(relid)),
				 errhint("Try again.")));
}

/*
 * Returns the names (char *) of the triggers of all attachments of a table except this
 * one, in the current memory context.
 */
List *
kapture_attach_others_triggers(Oid relid, int32 attachment_id)
{
	List	   *names = NIL;
	ListCell   *lc;

	foreach(lc, kapture_catalog_attached())
	{
		const KaptureAttached *attached = lfirst(lc);

		if (attached->relid != relid || attached->id == attachment_id)
			continue;
		names = lappend(names, kapture_capture_trigger(KAPTURE_TRIGGER, attached->id, attached->name));
		names = lappend(names, kapture_capture_trigger(KAPTURE_TRUNCATE_TRIGGER, attached->id, attached->name));
	}
	return names;
}

/* Is the name in a list? */
static bool
attach_is_listed(const char *name, const List *names)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

/* Drops our triggers from a relation, except those in "keep" and those cloned from a parent's.  Returns how many. */
static int
attach_drop_triggers(Oid relid, const List *keep)
{
	ListCell   *lc;
	int			n = 0;

	foreach(lc, kapture_family_triggers(relid))
	{
		if (attach_is_listed(lfirst(lc), keep))
			continue;
		kapture_attach_execute_ddl(psprintf("DROP TRIGGER IF EXISTS %s ON %s", quote_identifier(lfirst(lc)),
											kapture_row_relation_name(relid)));
		n++;
	}
	return n;
}

/*
 * Drops the triggers that an earlier attachment has left on a table and its partitions:
 * a table restored without the extension's tables has such triggers.
 */
void
kapture_attach_drop_leftovers(Oid relid, int32 attachment_id)
{
	List	   *attached = kapture_catalog_attached_relations();
	List	   *others = kapture_attach_others_triggers(relid, attachment_id);
	ListCell   *lc;

	if (get_rel_relkind(relid) != RELKIND_PARTITIONED_TABLE)
	{
		(void) attach_drop_triggers(relid, others);
		return;
	}
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (lfirst_oid(lc) != relid && list_member_oid(attached, lfirst_oid(lc)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("partition \"%s\" is attached to Kapture separately", get_rel_name(lfirst_oid(lc))),
					 errhint("Use kapture_detach() for it first.")));
		(void) attach_drop_triggers(lfirst_oid(lc), others);
	}
}

/* Does a trigger fire in replication, too? */
static bool
attach_is_always(Oid trigger)
{
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		result;

	ScanKeyInit(&key[0], Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(trigger));
	scan = systable_beginscan(rel, TriggerOidIndexId, true, NULL, 1, key);
	tuple = systable_getnext(scan);
	result = HeapTupleIsValid(tuple) && ((Form_pg_trigger) GETSTRUCT(tuple))->tgenabled == TRIGGER_FIRES_ALWAYS;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * kapture_attach_watch_truncate
 *		Creates a trigger of ours by which a partition notices that it alone is truncated.
 *
 * "function" is that of the trigger of the table that it is a partition of, and is known by
 * its OID: who owns a partition need not be able to look into the extension's schema.
 */
void
kapture_attach_watch_truncate(Oid relid, const char *trigger, List *args, Oid function, char fires_when)
{
	CreateTrigStmt *stmt = makeNode(CreateTrigStmt);

	stmt->trigname = pstrdup(trigger);
	stmt->args = args;
	stmt->timing = TRIGGER_TYPE_AFTER;
	stmt->events = TRIGGER_TYPE_TRUNCATE;
	(void) CreateTriggerFiringOn(stmt, NULL, relid, InvalidOid, InvalidOid, InvalidOid, function,
								 InvalidOid, NULL, false, false, fires_when);
}

/*
 * Creates a trigger on a partition of "root" for logical replication that truncates the partition alone, which
 * fires no trigger of the table and is no command here.  A partition that the user does not own is left alone.
 */
static void
attach_watch_partition(Oid root, Oid relid, int32 attachment_id, const char *name)
{
	char	   *trigger = kapture_capture_trigger(KAPTURE_TRUNCATE_TRIGGER, attachment_id, name);
	KaptureTrigger roots;
	ObjectAddress depender;
	ObjectAddress referenced;

	if (get_rel_relkind(relid) != RELKIND_RELATION || !object_ownercheck(RelationRelationId, relid, GetUserId()) ||
		OidIsValid(get_trigger_oid(relid, trigger, true)) || !kapture_attach_find_trigger(root, trigger, &roots))
		return;
	kapture_attach_watch_truncate(relid, trigger, name[0] == '\0' ? NIL : list_make1(makeString(psprintf("%d", attachment_id))),
								  roots.function, TRIGGER_FIRES_ON_REPLICA);
	CommandCounterIncrement();
	/* the partition's trigger is dropped with the table's own */
	ObjectAddressSet(depender, TriggerRelationId, get_trigger_oid(relid, trigger, false));
	ObjectAddressSet(referenced, TriggerRelationId, get_trigger_oid(root, trigger, false));
	recordDependencyOn(&depender, &referenced, DEPENDENCY_AUTO);
}

/* Drops that trigger, also of a partition that the user does not own: it belongs to the attachment. */
static void
attach_unwatch_partition(Oid relid, int32 attachment_id, const char *name)
{
	char	   *trigger = kapture_capture_trigger(KAPTURE_TRUNCATE_TRIGGER, attachment_id, name);
	KaptureTrigger found;
	ObjectAddress address;

	if (!kapture_attach_find_trigger(relid, trigger, &found) || strcmp(found.name, "kapture_capture") != 0)
		return;
	ObjectAddressSet(address, TriggerRelationId, get_trigger_oid(relid, trigger, false));
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
}

/*
 * Creates or, if not "replicated", drops the triggers by which partitions notice that logical replication truncates
 * them.  "relid" is "root", for all its partitions, or a new partition of it.  Errors: those of DDL.
 */
void
kapture_attach_watch_partitions(Oid root, Oid relid, int32 attachment_id, const char *name, bool replicated)
{
	ListCell   *lc;

	if (get_rel_relkind(root) != RELKIND_PARTITIONED_TABLE)
		return;
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (replicated)
			attach_watch_partition(root, lfirst_oid(lc), attachment_id, name);
		else if (lfirst_oid(lc) != root)
			attach_unwatch_partition(lfirst_oid(lc), attachment_id, name);
	}
}

/*
 * As kapture_attach_watch_partitions(), for a new partition of attached tables.
 */
void
kapture_attach_watch_new(Oid relid)
{
	ListCell   *lc;

	foreach(lc, kapture_catalog_attached())
	{
		const KaptureAttached *attached = lfirst(lc);
		Oid			trigger;

		if (attached->relid == relid || !list_member_oid(get_partition_ancestors(relid), attached->relid))
			continue;
		trigger = get_trigger_oid(attached->relid, kapture_capture_trigger(KAPTURE_TRUNCATE_TRIGGER, attached->id, attached->name), true);
		if (OidIsValid(trigger) && attach_is_always(trigger))
			kapture_attach_watch_partitions(attached->relid, relid, attached->id, attached->name, true);
	}
}

/*
 * Creates the triggers of an attachment on the relation "table" (a quoted name); if
 * "replicated", they fire in replication, too.
 */
void
kapture_attach_create_triggers(const char *table, int32 attachment_id, const char *name, bool replicated)
{
	char	   *trigger = kapture_capture_trigger(KAPTURE_TRIGGER, attachment_id, name);
	char	   *truncate = kapture_capture_trigger(KAPTURE_TRUNCATE_TRIGGER, attachment_id, name);
	char	   *argument = name[0] == '\0' ? "" : psprintf("'%d'", attachment_id);

	kapture_attach_execute_ddl(psprintf("CREATE TRIGGER %s AFTER INSERT OR UPDATE OR DELETE ON %s"
										" FOR EACH ROW EXECUTE FUNCTION %s.kapture_capture(%s)",
										trigger, table, kapture_catalog_schema(), argument));
	kapture_attach_execute_ddl(psprintf("CREATE TRIGGER %s AFTER TRUNCATE ON %s"
										" FOR EACH STATEMENT EXECUTE FUNCTION %s.kapture_capture(%s)",
										truncate, table, kapture_catalog_schema(), argument));
	if (replicated)
		kapture_attach_execute_ddl(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s, ENABLE ALWAYS TRIGGER %s",
											table, trigger, truncate));
}

/*
 * Tells whether a relation has a trigger of this name that runs a function of ours, and which one
 * in *found.  The relation need not be locked.
 */
bool
kapture_attach_find_trigger(Oid relid, const char *trigger, KaptureTrigger *found)
{
	static const char *const functions[] = {"kapture_capture", "kapture_followed"};
	Relation	rel = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	HeapTuple	proc = NULL;
	bool		isnull;

	ScanKeyInit(&key[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&key[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum(trigger));
	scan = systable_beginscan(rel, TriggerRelidNameIndexId, true, NULL, 2, key);
	tuple = systable_getnext(scan);
	found->name = NULL;
	if (HeapTupleIsValid(tuple))
	{
		(void) heap_getattr(tuple, Anum_pg_trigger_tgqual, RelationGetDescr(rel), &isnull);
		found->always = isnull;
		found->function = ((Form_pg_trigger) GETSTRUCT(tuple))->tgfoid;
		found->fires_when = ((Form_pg_trigger) GETSTRUCT(tuple))->tgenabled;
		proc = SearchSysCache1(PROCOID, ObjectIdGetDatum(found->function));
	}
	for (int i = 0; HeapTupleIsValid(proc) && i < lengthof(functions); i++)
	{
		/* functions in C are superusers', so that the name will do */
		if (((Form_pg_proc) GETSTRUCT(proc))->prolang == ClanguageId &&
			strcmp(NameStr(((Form_pg_proc) GETSTRUCT(proc))->proname), functions[i]) == 0)
			found->name = functions[i];
	}
	if (HeapTupleIsValid(proc))
		ReleaseSysCache(proc);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found->name != NULL;
}

/*
 * Has a trigger of ours that fires at the origin only fire as "fires_when" says.  Does nothing if
 * the relation has no such trigger that runs this function of ours.
 */
void
kapture_attach_enable_trigger(Relation rel, const char *trigger, const char *function, char fires_when)
{
	KaptureTrigger found;

	if (!kapture_attach_find_trigger(RelationGetRelid(rel), trigger, &found) || strcmp(found.name, function) != 0 ||
		found.fires_when != TRIGGER_FIRES_ON_ORIGIN)
		return;
	/* makes "rel" have its triggers read anew */
	EnableDisableTrigger(rel, trigger, InvalidOid, fires_when, false, false, ShareRowExclusiveLock);
	CommandCounterIncrement();
}

/*
 * Has the triggers of an attached table, or of a partition or counted child of one, that ENABLE TRIGGER has
 * just enabled fire in replication, too, if changes that it brings are captured: ENABLE TRIGGER leaves that
 * out.  Dumps disable and enable all triggers of each table (pg_dump --disable-triggers).
 */
void
kapture_attach_enable_triggers(Relation rel)
{
	ListCell   *lc;

	foreach(lc, kapture_catalog_attachments(rel))
	{
		const KaptureAttachment *att = lfirst(lc);
		Oid			types[1] = {INT4OID};
		Datum		values[1] = {Int32GetDatum(att->id)};

		if (kapture_own_text("SELECT 1 FROM @.kapture_attachment WHERE attachment_id = $1 AND replicated", 1, types, values) == NULL)
			continue;
		kapture_attach_enable_trigger(rel, kapture_capture_trigger(KAPTURE_TRIGGER, att->id, att->name), "kapture_capture",
									  TRIGGER_FIRES_ALWAYS);
		/* a partition's own: see attach_watch_partition() */
		kapture_attach_enable_trigger(rel, kapture_capture_trigger(KAPTURE_TRUNCATE_TRIGGER, att->id, att->name), "kapture_capture",
									  att->root == RelationGetRelid(rel) ? TRIGGER_FIRES_ALWAYS : TRIGGER_FIRES_ON_REPLICA);
	}
}

/*
 * Warns if changes of an attached table, or of a partition of one, are not captured because the
 * command that has just run disabled, replaced or dropped one of its triggers.
 */
void
kapture_attach_warn_uncaptured(Oid relid)
{
	Oid			types[2] = {REGCLASSOID, REGCLASSOID};
	Datum		values[2] = {ObjectIdGetDatum(relid)};
	char	   *triggers = NULL;
	List	   *tables = lcons_oid(relid, get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL);
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, tables)
	{
		values[1] = ObjectIdGetDatum(lfirst_oid(lc));
		if (triggers == NULL)
			triggers = kapture_own_text("SELECT pg_catalog.string_agg(pg_catalog.quote_ident(" KAPTURE_ATTACH_TRIGGER("a") "), ', ')"
										" FROM @.kapture_attachment AS a WHERE a.relation = $2"
										" AND " KAPTURE_ATTACH_LACKS_TRIGGER("$1", KAPTURE_ATTACH_TRIGGER("a"), "kapture_capture"),
										2, types, values);
	}
	if (triggers == NULL)
		return;
	ereport(WARNING,
			(errmsg("changes of table \"%s\" are not captured from now on", get_rel_name(relid)),
			 errdetail("Trigger %s, which captures them, is disabled, or was dropped or replaced. What changes meanwhile is not sent later, either.", triggers),
			 errhint("Use ALTER TABLE %s ENABLE TRIGGER %s, or, if it was replaced or dropped, kapture_detach() and kapture_attach(). Then kapture_verify() shows what was missed.",
					 kapture_row_relation_name(relid), triggers)));
}

/* Is "child", which inherits from "relid", attached itself, or below an attached table that is below "relid"? */
static bool
attach_is_anothers(Oid child, Oid relid, List *attached)
{
	ListCell   *lc;

	if (list_member_oid(attached, child))
		return true;
	foreach(lc, kapture_family_parents(child))
	{
		if (lfirst_oid(lc) == relid)
			return false;
		if (list_member_oid(attached, lfirst_oid(lc)))
			return true;
	}
	return false;
}

/*
 * Drops our triggers from a table and from the tables whose rows count as its rows, except
 * those in "keep".  Returns how many.
 */
int
kapture_attach_drop_triggers(Oid relid, const List *keep)
{
	List	   *attached = kapture_catalog_attached_relations();
	int			n = attach_drop_triggers(relid, keep);
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (lfirst_oid(lc) != relid && !attach_is_anothers(lfirst_oid(lc), relid, attached) &&
			object_ownercheck(RelationRelationId, lfirst_oid(lc), GetUserId()))
			n += attach_drop_triggers(lfirst_oid(lc), keep);
	}
	return n;
}
