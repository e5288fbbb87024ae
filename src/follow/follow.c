/*
 * follow.c
 *		kapture_follow() and kapture_unfollow(): tables whose changes concern rows
 *		of attached tables.
 *
 * A follow is kept as names of columns and as the text of a condition, in which all
 * names are qualified; names and text follow what is renamed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "api/argument.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/own_rows.h"
#include "base/owner_sql.h"
#include "base/version.h"
#include "base/view_tree.h"
#include "cluster/guard.h"
#include "follow/follow.h"
#include "follow/follow_capture.h"
#include "follow/follow_condition.h"
#include "mapping/bystander.h"
#include "mapping/expression.h"
#include "mapping/source.h"
#include "table/attach.h"
#include "table/attach_find.h"
#include "table/attach_trigger.h"
#include "table/capture_buffer.h"
#include "table/row_sql.h"

PG_FUNCTION_INFO_V1(kapture_follow);
PG_FUNCTION_INFO_V1(kapture_unfollow);

/* Notifies triggers and worker that follows have changed. */
static void
follow_announce(Oid relid)
{
	CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_FOLLOW));
	CacheInvalidateRelcacheByRelid(relid);
	kapture_attach_announce();
}

/* The names of columns of a relation as the text of an array, NULL for all. */
static char *
follow_names(Oid relid, List *attnums, bool all)
{
	KaptureGivenExpression names = {.reads_all = all};
	ListCell   *lc;

	foreach(lc, attnums)
		names.reads = lappend(names.reads, get_attname(relid, lfirst_int(lc), false));
	return kapture_expression_reads(&names);
}

/*
 * The columns of the source that matter, as the text of an array: those that the condition
 * reads, and those that the views read from which the table's attachments take their
 * values.  NULL, for all, if an attachment has no view.
 */
static char *
follow_watched(const List *attachments, Oid source, const KaptureFollowReads *reads)
{
	bool		all = false;
	List	   *columns = list_copy(reads->source);
	ListCell   *lc;

	foreach(lc, attachments)
	{
		const KaptureAttachment *att = lfirst(lc);
		bool		whole;

		if (!OidIsValid(att->source))
			return NULL;
		columns = list_concat_unique_int(columns, kapture_view_reads(kapture_view_tree(att->source), source, &whole));
		all |= whole;
	}
	return follow_names(source, columns, all);
}

/* Raises 42501 unless the caller owns a table, or holds TRIGGER on it. */
static void
follow_check_trigger(Oid relid)
{
	if (pg_class_aclcheck(relid, GetUserId(), ACL_TRIGGER) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table %s", get_rel_name(relid)),
				 errdetail("To follow a table, you must own it, or have the TRIGGER privilege on it.")));
}

/* Opens the table that is to be followed. */
static Relation
follow_open_source(Oid relid)
{
	Relation	rel = kapture_argument_open(relid, ShareRowExclusiveLock, follow_check_trigger);

	if ((rel->rd_rel->relkind != RELKIND_RELATION && rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE) ||
		rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be followed", RelationGetRelationName(rel)),
				 errdetail("Only tables that are not temporary can be followed."),
				 rel->rd_rel->relkind == RELKIND_VIEW ? errhint("Follow the tables that the view shows.") :
				 rel->rd_rel->relkind == RELKIND_MATVIEW ?
				 errhint("Follow the tables that it is made of, or call kapture_resync() after it was refreshed.") : 0));
	return rel;
}

static void
follow_execute_ddl(const char *sql)
{
	SPI_connect();
	if (SPI_execute(sql, false, 0) < 0)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
}

/* Has a table a trigger of this name that notices all changes? */
static bool
follow_find_trigger(Oid relid, const char *trigger, KaptureTrigger *found)
{
	return kapture_attach_find_trigger(relid, trigger, found) && strcmp(found->name, "kapture_followed") == 0 && found->always;
}

/* Errors out (42710) if another trigger has a name that ours needs. */
static void
follow_check_trigger_name(Oid relid, const char *trigger)
{
	KaptureTrigger found;

	if (OidIsValid(get_trigger_oid(relid, trigger, true)) && !follow_find_trigger(relid, trigger, &found))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("trigger \"%s\" of table \"%s\" is not the one that kapture_follow() creates", trigger, get_rel_name(relid)),
				 errhint("Drop that trigger, or give it another name.")));
}

/*
 * Has the triggers fire in replication, too; kapture_followed() knows which tables want that.
 * Whoever holds TRIGGER cannot have this done by ALTER TABLE, and as the owner it would run
 * event triggers, which may find functions of the caller's in the caller's search_path.
 */
static void
follow_enable_triggers(Oid relid)
{
	static const char *const names[] = {KAPTURE_FOLLOW_TRIGGER, KAPTURE_FOLLOW_TRUNCATE_TRIGGER};
	Relation	rel = relation_open(relid, NoLock);

	for (int i = 0; i < lengthof(names); i++)
		EnableDisableTrigger(rel, names[i], InvalidOid, TRIGGER_FIRES_ALWAYS, false, true, ShareRowExclusiveLock);
	relation_close(rel, NoLock);
}

/*
 * TRUNCATE of a partition fires no trigger of the followed table, so each partition has one of its
 * own: "relid" is the table, or a partition of it.  Errors: those of CREATE TRIGGER.
 */
static void
follow_watch_partitions(Oid relid, Oid function)
{
	ListCell   *lc;

	foreach(lc, find_all_inheritors(relid, ShareRowExclusiveLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION &&
			!OidIsValid(get_trigger_oid(lfirst_oid(lc), KAPTURE_FOLLOW_TRUNCATE_TRIGGER, true)))
			kapture_attach_watch_truncate(lfirst_oid(lc), KAPTURE_FOLLOW_TRUNCATE_TRIGGER, NIL, function, TRIGGER_FIRES_ALWAYS);
	}
	CommandCounterIncrement();
}

/*
 * kapture_follow_watch_new
 *		Has a new partition of a followed table notice that it is truncated.
 */
void
kapture_follow_watch_new(Oid relid)
{
	ListCell   *lc;

	foreach(lc, get_partition_ancestors(relid))
	{
		KaptureTrigger found;

		if (!follow_find_trigger(lfirst_oid(lc), KAPTURE_FOLLOW_TRUNCATE_TRIGGER, &found))
			continue;
		follow_watch_partitions(relid, found.function);
		return;
	}
}

/* Creates the triggers of a followed table, if it has none. */
static void
follow_create_triggers(Oid relid)
{
	char	   *name = kapture_row_relation_name(relid);
	KaptureTrigger found;

	follow_check_trigger_name(relid, KAPTURE_FOLLOW_TRIGGER);
	follow_check_trigger_name(relid, KAPTURE_FOLLOW_TRUNCATE_TRIGGER);
	if (OidIsValid(get_trigger_oid(relid, KAPTURE_FOLLOW_TRIGGER, true)))
		return;
	follow_execute_ddl(psprintf("CREATE TRIGGER " KAPTURE_FOLLOW_TRIGGER " AFTER INSERT OR UPDATE OR DELETE ON %s"
								" FOR EACH ROW EXECUTE FUNCTION %s.kapture_followed()", name, kapture_catalog_schema()));
	follow_execute_ddl(psprintf("CREATE TRIGGER " KAPTURE_FOLLOW_TRUNCATE_TRIGGER " AFTER TRUNCATE ON %s"
								" FOR EACH STATEMENT EXECUTE FUNCTION %s.kapture_followed()", name, kapture_catalog_schema()));
	CommandCounterIncrement();
	/* DDL finds its table by name */
	if (!follow_find_trigger(relid, KAPTURE_FOLLOW_TRIGGER, &found) ||
		!follow_find_trigger(relid, KAPTURE_FOLLOW_TRUNCATE_TRIGGER, &found))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("table \"%s\" was renamed meanwhile", get_rel_name(relid)),
				 errhint("Try again.")));
	follow_enable_triggers(relid);
	CommandCounterIncrement();
	if (get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		follow_watch_partitions(relid, found.function);
}

/* Reports if no index of the target begins with a column that the condition reads. */
static void
follow_note_index(Relation target, const KaptureFollowReads *reads)
{
	ListCell   *lc;
	bool		found = false;

	foreach(lc, RelationGetIndexList(target))
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));

		if (!HeapTupleIsValid(tuple))
			continue;
		found |= ((Form_pg_index) GETSTRUCT(tuple))->indisvalid &&
			list_member_int(reads->target, ((Form_pg_index) GETSTRUCT(tuple))->indkey.values[0]);
		ReleaseSysCache(tuple);
	}
	if (!found)
		ereport(NOTICE,
				(errmsg("no index of table \"%s\" helps to find the rows of the condition", RelationGetRelationName(target)),
				 errdetail("The whole table is read for each change."),
				 errhint("Create an index on a column that the condition compares.")));
}

/* Stores a follow.  Returns false if the same one exists already. */
static bool
follow_store(Relation target, Oid source, const char *condition, const KaptureFollowReads *reads)
{
	char	   *watched = follow_watched(kapture_catalog_attachments(target), source, reads);
	char	   *values_read = reads->source_all ? NULL : follow_names(source, reads->source, false);
	int32		number = kapture_own_rows_take_number(kapture_catalog_relid(KAPTURE_TABLE_FOLLOW),
											 "SELECT EXISTS (SELECT FROM @.kapture_follow WHERE follow_id = $1)", true);
	Oid			types[] = {REGCLASSOID, REGCLASSOID, TEXTOID, TEXTOID, TEXTOID, INT4OID};
	Datum		values[] = {ObjectIdGetDatum(source), ObjectIdGetDatum(RelationGetRelid(target)), CStringGetTextDatum(condition),
	CStringGetTextDatum(values_read ? values_read : ""), CStringGetTextDatum(watched ? watched : ""), Int32GetDatum(number)};

	return kapture_own_execute("INSERT INTO @.kapture_follow (source, relation, condition, value_columns, watched_columns, follow_id)"
							   " VALUES ($1, $2, $3, $4::name[], nullif($5, '')::name[], $6) ON CONFLICT DO NOTHING",
							   lengthof(types), types, values) > 0;
}

/* Reports if a condition is about the target alone: a bare name is a column of the target, if it has one. */
static void
follow_note_source(const char *condition, Relation source, const KaptureFollowReads *reads)
{
	if (reads->source == NIL)
		ereport(NOTICE,
				(errmsg("the condition reads no column of table \"%s\": %s", RelationGetRelationName(source), condition),
				 errdetail("Each change of that table has the same rows sent again."),
				 errhint(KAPTURE_FOLLOW_HINT)));
}

/* Refuses a condition that reads what a changed row of the source does not contain. */
static void
follow_check_reads(Relation source, const KaptureFollowReads *reads)
{
	ListCell   *lc;

	if (reads->source_all)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("argument \"condition\" must not read the source's row as a whole"),
				 errhint("Write the columns that it is about.")));
	foreach(lc, reads->source)
	{
		AttrNumber	attnum = lfirst_int(lc);

		if (get_attgenerated(RelationGetRelid(source), attnum) == ATTRIBUTE_GENERATED_VIRTUAL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("argument \"condition\" must not read column \"%s\" of table \"%s\"",
							get_attname(RelationGetRelid(source), attnum, false), RelationGetRelationName(source)),
					 errdetail("It is computed when it is read, so the trigger does not know its value."),
					 errhint("Make it a stored generated column, or write the columns that it is made of.")));
	}
}

/*
 * kapture_follow(source regclass, relation regclass, condition text) returns void
 *
 * Errors: those of kapture_attach_find_table() for the relation and of kapture_follow_parse();
 * 0A000 the condition reads the source's row as a whole, or a column that is not stored,
 * 42809 the source is no table, 42501 the caller neither owns it nor holds TRIGGER on it.
 */
Datum
kapture_follow(PG_FUNCTION_ARGS)
{
	KaptureAttachment *att;
	Relation	source;
	Relation	target;
	Node	   *condition;
	KaptureFollowReads reads;
	char	   *kept;

	kapture_argument_check_null(fcinfo, 0, "source");
	kapture_argument_check_null(fcinfo, 2, "condition");
	att = kapture_attach_find_table(fcinfo, 1, ShareUpdateExclusiveLock);
	source = follow_open_source(PG_GETARG_OID(0));
	target = relation_open(att->root, NoLock);
	condition = kapture_follow_take(source, target, text_to_cstring(PG_GETARG_TEXT_PP(2)));
	kapture_follow_find_reads(condition, &reads);
	follow_check_reads(source, &reads);
	kept = kapture_follow_deparse(condition, RelationGetRelid(source), att->root, "target");
	kapture_follow_check_kept(kept);
	if (!follow_store(target, RelationGetRelid(source), kept, &reads))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table \"%s\" follows table \"%s\" already on this condition",
						RelationGetRelationName(target), RelationGetRelationName(source))));
	follow_note_source(kept, source, &reads);
	follow_note_index(target, &reads);
	relation_close(target, NoLock);
	relation_close(source, NoLock);
	follow_create_triggers(PG_GETARG_OID(0));
	follow_announce(att->root);
	PG_RETURN_VOID();
}

/* Does nobody follow a table, nor one that it is a partition of? */
static bool
follow_is_over(Oid relid)
{
	List	   *relids = list_make1_oid(relid);
	ListCell   *lc;

	if (get_rel_relispartition(relid))
		relids = list_concat(relids, get_partition_ancestors(relid));
	foreach(lc, relids)
	{
		Oid			types[1] = {REGCLASSOID};
		Datum		values[1] = {ObjectIdGetDatum(lfirst_oid(lc))};

		if (kapture_own_text("SELECT 1 FROM @.kapture_follow WHERE source = $1 LIMIT 1", 1, types, values) != NULL)
			return false;
	}
	return true;
}

static void
follow_drop_trigger(Oid relid, const char *trigger)
{
	if (OidIsValid(get_trigger_oid(relid, trigger, true)))
		follow_execute_ddl(psprintf("DROP TRIGGER IF EXISTS %s ON %s", trigger, kapture_row_relation_name(relid)));
}

/* Drops the triggers of a table that nobody follows any more, and of its partitions, if the caller owns them. */
static void
follow_drop_triggers(Oid relid)
{
	ListCell   *lc;

	if (!object_ownercheck(RelationRelationId, relid, GetUserId()) || !follow_is_over(relid))
		return;
	follow_drop_trigger(relid, KAPTURE_FOLLOW_TRIGGER);
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (object_ownercheck(RelationRelationId, lfirst_oid(lc), GetUserId()) && follow_is_over(lfirst_oid(lc)))
			follow_drop_trigger(lfirst_oid(lc), KAPTURE_FOLLOW_TRUNCATE_TRIGGER);
	}
}

/* Reports that there is nothing to end.  Errors: 42P01 there is no such source. */
static void
follow_say_none(Oid source, Oid root, const char *condition)
{
	if (get_rel_name(source) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", source)));
	ereport(NOTICE,
			(errmsg("table \"%s\" does not follow table \"%s\"%s", get_rel_name(root), get_rel_name(source), condition),
			 errhint("The view kapture_attachments shows what it follows.")));
}

/*
 * kapture_unfollow(source regclass, relation regclass, condition text) returns integer
 *
 * Ends the follows with this condition; NULL: all.  Returns how many.  Errors as
 * kapture_follow().
 */
Datum
kapture_unfollow(PG_FUNCTION_ARGS)
{
	KaptureAttachment *att;
	Oid			types[3] = {REGCLASSOID, REGCLASSOID, TEXTOID};
	Datum		values[3];
	char	   *kept = NULL;
	uint64		n;

	kapture_argument_check_null(fcinfo, 0, "source");
	att = kapture_attach_find_table(fcinfo, 1, ShareUpdateExclusiveLock);
	if (!kapture_source_is_followed(att->root, PG_GETARG_OID(0)))
	{
		follow_say_none(PG_GETARG_OID(0), att->root, "");
		PG_RETURN_INT32(0);		/* without waiting for the source's lock */
	}
	if (!PG_ARGISNULL(2))
	{
		Relation	source = relation_open(PG_GETARG_OID(0), AccessShareLock);
		Relation	target = relation_open(att->root, NoLock);

		kept = kapture_follow_deparse(kapture_follow_take(source, target, text_to_cstring(PG_GETARG_TEXT_PP(2))),
									  RelationGetRelid(source), att->root, "target");
		relation_close(target, NoLock);
		relation_close(source, NoLock);
	}
	values[0] = PG_GETARG_DATUM(0);
	values[1] = ObjectIdGetDatum(att->root);
	values[2] = CStringGetTextDatum(kept ? kept : "");
	kapture_notes_flush();		/* so that what was noted so far is deleted, too */
	n = kapture_own_execute("WITH ended AS (DELETE FROM @.kapture_follow"
							" WHERE source = $1 AND relation = $2 AND ($3 = '' OR condition = $3) RETURNING follow_id),"
							" notes AS (DELETE FROM @.kapture_outbox WHERE attachment_id IN (SELECT -follow_id FROM ended))"
							" SELECT FROM ended", lengthof(types), types, values);
	if (n == 0)
		follow_say_none(PG_GETARG_OID(0), att->root, " on this condition");
	follow_drop_triggers(PG_GETARG_OID(0));
	follow_announce(att->root);
	PG_RETURN_INT32((int32) n);
}

/* ------------------------------------------------------------------------
 * Following what is renamed
 * ------------------------------------------------------------------------
 */

/* A follow, before a command that renames something. */
typedef struct FollowText
{
	int32		id;
	Oid			source;
	Oid			relation;
	char	   *text;
	Node	   *condition;		/* NULL: it was not parsed */
} FollowText;

/* All follows, with their texts, in the current memory context. */
static List *
follow_read_all(void)
{
	Oid			relid = kapture_catalog_relid(KAPTURE_TABLE_FOLLOW);
	List	   *follows = NIL;
	MemoryContext context = CurrentMemoryContext;

	if (!OidIsValid(relid))
		return NIL;
	SPI_connect();
	if (SPI_execute(kapture_catalog_qualify("SELECT follow_id, source::oid, relation::oid, condition FROM @.kapture_follow"), true, 0) == SPI_OK_SELECT)
	{
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			HeapTuple	row = SPI_tuptable->vals[i];
			TupleDesc	desc = SPI_tuptable->tupdesc;
			MemoryContext old = MemoryContextSwitchTo(context);
			FollowText *follow = palloc0(sizeof(FollowText));
			bool		isnull;

			follow->id = DatumGetInt32(SPI_getbinval(row, desc, 1, &isnull));
			follow->source = DatumGetObjectId(SPI_getbinval(row, desc, 2, &isnull));
			follow->relation = DatumGetObjectId(SPI_getbinval(row, desc, 3, &isnull));
			follow->text = TextDatumGetCString(SPI_getbinval(row, desc, 4, &isnull));
			follows = lappend(follows, follow);
			MemoryContextSwitchTo(old);
		}
	}
	SPI_finish();
	return follows;
}

static void
follow_do_read_all(void *arg)
{
	*(List **) arg = follow_read_all();
}

/* All follows, read as the owner of the extension's tables. */
static List *
follow_all(void)
{
	List	   *follows = NIL;

	if (OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_FOLLOW)))
		kapture_own_run(follow_do_read_all, &follows);
	return follows;
}

static void
follow_do_parse(void *arg)
{
	FollowText *follow = arg;
	Relation	source = try_relation_open(follow->source, NoLock);
	Relation	target = try_relation_open(follow->relation, NoLock);
	int			nestlevel = kapture_catalog_text_settings();
	Oid			userid;
	int			sec_context;

	if (source && target)
	{
		GetUserIdAndSecContext(&userid, &sec_context);
		SetUserIdAndSecContext(target->rd_rel->relowner, sec_context | SECURITY_RESTRICTED_OPERATION);
		/* names are resolved as when they were kept; the condition may read tables that somebody has locked */
		kapture_guc_pin_search_path();
		kapture_bystander_hurry();
		kapture_bystander_check_names(follow->text);
		follow->condition = kapture_follow_parse(source, target, follow->text);
		SetUserIdAndSecContext(userid, sec_context);
	}
	AtEOXact_GUC(false, nestlevel);
	if (source)
		relation_close(source, NoLock);
	if (target)
		relation_close(target, NoLock);
}

/* Parses the condition of a follow; if that fails, it is its owner's concern. */
static void
follow_parse(FollowText *follow)
{
	MemoryContext parsing = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync parsing", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(parsing);
	ErrorData  *error = kapture_guard_session_look(follow_do_parse, follow);

	MemoryContextSwitchTo(old);
	follow->condition = error ? NULL : copyObject(follow->condition);
	MemoryContextDelete(parsing);
}

/*
 * Returns all follows, in the current memory context.  Conditions are parsed if they contain
 * "name" (NULL: all) and the attached table is one of "relids" (NIL: all), unless somebody has
 * locked one of the tables, or enough was parsed of the owner's.
 */
static List *
follow_parse_some(const char *name, List *relids)
{
	List	   *follows = follow_all();
	List	   *parsed = NIL;
	ListCell   *lc;

	foreach(lc, follows)
	{
		FollowText *follow = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if ((name && strstr(follow->text, name) == NULL) || (relids != NIL && !list_member_oid(relids, follow->relation)) ||
			!kapture_bystander_may_parse(&parsed, kapture_catalog_owner(follow->relation), strlen(follow->text)) ||
			!ConditionalLockRelationOid(follow->source, AccessShareLock))
			continue;
		if (ConditionalLockRelationOid(follow->relation, AccessShareLock))
		{
			follow_parse(follow);
			UnlockRelationOid(follow->relation, AccessShareLock);
		}
		UnlockRelationOid(follow->source, AccessShareLock);
	}
	return follows;
}

/*
 * kapture_follow_before_rename
 *		Returns the argument for kapture_follow_after_rename(), in the current memory
 *		context.  "name" is in all texts that the command changes; NULL: it is not known which
 *		these are.
 */
List *
kapture_follow_before_rename(const char *name)
{
	return follow_parse_some(name, NIL);
}

/*
 * kapture_follow_after_rename
 *		Writes the texts of conditions again, after the command.
 */
void
kapture_follow_after_rename(List *follows)
{
	ListCell   *lc;

	if (follows != NIL)
		CommandCounterIncrement();
	foreach(lc, follows)
	{
		FollowText *follow = lfirst(lc);
		Oid			types[2] = {INT4OID, TEXTOID};
		Datum		values[2] = {Int32GetDatum(follow->id)};
		char	   *now;

		if (follow->condition == NULL || get_rel_name(follow->source) == NULL || get_rel_name(follow->relation) == NULL)
			continue;
		now = kapture_follow_deparse(follow->condition, follow->source, follow->relation, "target");
		values[1] = CStringGetTextDatum(now);
		if (strcmp(now, follow->text) != 0)
			(void) kapture_bystander_execute(follow->relation, "UPDATE @.kapture_follow SET condition = $2 WHERE follow_id = $1",
											 2, types, values);
	}
}

/*
 * kapture_follow_column_renamed
 *		Has follows of a table use a column's new name.
 */
void
kapture_follow_column_renamed(Oid relid, const char *from, const char *to)
{
	NameData	names[2];
	Oid			types[3] = {INT4OID, NAMEOID, NAMEOID};
	Datum		values[3] = {(Datum) 0, NameGetDatum(&names[0]), NameGetDatum(&names[1])};
	uint64		n = 0;
	ListCell   *lc;

	namestrcpy(&names[0], from);
	namestrcpy(&names[1], to);
	foreach(lc, follow_all())
	{
		const FollowText *follow = lfirst(lc);

		if (follow->source != relid)
			continue;
		values[0] = Int32GetDatum(follow->id);
		n += kapture_bystander_execute(follow->relation, "UPDATE @.kapture_follow SET value_columns = pg_catalog.array_replace(value_columns, $2, $3),"
									   " watched_columns = pg_catalog.array_replace(watched_columns, $2, $3)"
									   " WHERE follow_id = $1 AND ($2 = ANY (value_columns) OR $2 = ANY (watched_columns))", 3, types, values);
	}
	if (n > 0)
		follow_announce(relid);
}

/* Is the view gone that the values of one of these attachments come from? */
static bool
follow_lacks_view(const List *attachments)
{
	ListCell   *lc;

	foreach(lc, attachments)
	{
		const KaptureAttachment *att = lfirst(lc);

		if (att->source_name && !OidIsValid(att->source))
			return true;
	}
	return false;
}

/*
 * kapture_follow_view_changed
 *		Called after a view that the values of some attached tables come from was created or
 *		replaced, or one of these got another view: determines again which columns of the tables
 *		that they follow matter.
 */
void
kapture_follow_view_changed(List *relids)
{
	List	   *follows = relids != NIL ? follow_parse_some(NULL, relids) : NIL;
	ListCell   *lc;

	foreach(lc, follows)
	{
		FollowText *follow = lfirst(lc);
		Relation	rel;
		List	   *attachments;
		KaptureFollowReads reads;
		Oid			types[2] = {INT4OID, TEXTOID};
		Datum		values[2] = {Int32GetDatum(follow->id)};
		char	   *watched;

		if (follow->condition == NULL || !ConditionalLockRelationOid(follow->relation, AccessShareLock))
			continue;
		rel = try_relation_open(follow->relation, NoLock);
		attachments = rel ? kapture_catalog_attachments(rel) : NIL;
		if (rel)
			relation_close(rel, NoLock);
		UnlockRelationOid(follow->relation, AccessShareLock);
		if (attachments == NIL || follow_lacks_view(attachments))
			continue;
		kapture_follow_find_reads(follow->condition, &reads);
		watched = follow_watched(attachments, follow->source, &reads);
		values[1] = CStringGetTextDatum(watched ? watched : "");
		if (kapture_bystander_execute(follow->relation, "UPDATE @.kapture_follow SET watched_columns = nullif($2, '')::name[]"
									  " WHERE follow_id = $1 AND watched_columns IS DISTINCT FROM nullif($2, '')::name[]", 2, types, values) > 0)
			follow_announce(follow->relation);
	}
}

/*
 * kapture_follow_enable_triggers
 *		Has the triggers of a followed table, or of a partition of one, that ENABLE TRIGGER has
 *		just enabled fire in replication, too, as kapture_attach_enable_triggers() does.
 */
void
kapture_follow_enable_triggers(Relation rel)
{
	kapture_attach_enable_trigger(rel, KAPTURE_FOLLOW_TRIGGER, "kapture_followed", TRIGGER_FIRES_ALWAYS);
	kapture_attach_enable_trigger(rel, KAPTURE_FOLLOW_TRUNCATE_TRIGGER, "kapture_followed", TRIGGER_FIRES_ALWAYS);
}

/*
 * kapture_follow_warn_uncaptured
 *		Warns if a table is followed, or a partition of one, but its changes are not captured
 *		because the command that has just run disabled, replaced or dropped its trigger.
 */
void
kapture_follow_warn_uncaptured(Oid relid)
{
	Oid			types[2] = {REGCLASSOID, REGCLASSOID};
	Datum		values[2] = {ObjectIdGetDatum(relid)};
	List	   *tables = lcons_oid(relid, get_rel_relispartition(relid) ? get_partition_ancestors(relid) : NIL);
	bool		uncaptured = false;
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, tables)
	{
		values[1] = ObjectIdGetDatum(lfirst_oid(lc));
		uncaptured = uncaptured ||
			kapture_own_text("SELECT 1 FROM @.kapture_follow AS f WHERE f.source = $2"
							 " AND " KAPTURE_ATTACH_LACKS_TRIGGER("$1", "'" KAPTURE_FOLLOW_TRIGGER "'", "kapture_followed") " LIMIT 1",
							 2, types, values) != NULL;
	}
	if (!uncaptured)
		return;
	ereport(WARNING,
			(errmsg("changes of followed table \"%s\" are not captured from now on", get_rel_name(relid)),
			 errdetail("Trigger " KAPTURE_FOLLOW_TRIGGER ", which captures them, is disabled, or was dropped or replaced. Rows that they concern are not sent later, either."),
			 errhint("Use ALTER TABLE %s ENABLE ALWAYS TRIGGER " KAPTURE_FOLLOW_TRIGGER ", or, if it was replaced or dropped, kapture_unfollow() and kapture_follow(). Then kapture_verify() shows what was missed.",
					 kapture_row_relation_name(relid))));
}
