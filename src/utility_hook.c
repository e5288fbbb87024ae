/*
 * utility_hook.c
 *		Makes workers step aside for commands that need their database, and tells
 *		workers of commands that concern them.
 *
 * DROP DATABASE, CREATE DATABASE ... TEMPLATE, ALTER DATABASE ... RENAME and SET TABLESPACE
 * refuse to work while anybody is connected.  A utility hook ends the database's workers
 * before the command runs, and keeps them away until its transaction is over.  A user who
 * may not run the command cannot end the workers by trying.
 *
 * The hook also
 *
 * - wakes the workers after commands that may end what they wait for: changes of servers,
 *   user mappings, tables and roles, DROP EXTENSION, and COMMIT PREPARED, which makes changes
 *   visible without running through the capturing session;
 * - has mappings follow renamed columns, however that came about (renaming an attribute of
 *   a type renames those of its tables; an access hook sees each);
 * - has what is kept of a server follow its new name, or its end;
 * - has the worker look at the version of an extension that was updated;
 * - has triggers that are enabled fire in replication as before, and keeps their names;
 * - keeps what waits for rows that leave with their partition from other rows that get
 *   their keys;
 * - warns of grants on tables of the extension, and of commands that it cannot follow, as the
 *   owner of these tables lacks rights;
 * - reports what is given up with a dropped table, what is not captured for want of a
 *   trigger, what is not sent for want of a key or a mapping, and what goes to another
 *   address from now on.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/partition.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_inherits.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parse_type.h"
#include "storage/ipc.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "api/server.h"
#include "base/catalog.h"
#include "base/compat.h"
#include "base/owner_sql.h"
#include "base/privileges.h"
#include "base/restore.h"
#include "cluster/shmem.h"
#include "fdw/modify.h"
#include "follow/follow.h"
#include "follow/follow_capture.h"
#include "mapping/attach_advice.h"
#include "mapping/command_advice.h"
#include "mapping/expression.h"
#include "pull/mirror.h"
#include "queue/rekey.h"
#include "table/attach.h"
#include "table/attach_trigger.h"
#include "table/binding.h"
#include "table/capture.h"
#include "table/leave.h"
#include "table/origin.h"
#include "table/problem_advice.h"
#include "table/unbind.h"
#include "utility_hook.h"

static ProcessUtility_hook_type wayside_prev_hook = NULL;
static object_access_hook_type wayside_prev_access_hook = NULL;

/* A column that a command altered, and the name it had before. */
typedef struct WaysideColumn
{
	Oid			relid;
	AttrNumber	attnum;
	char	   *name;
} WaysideColumn;

/* What the command that runs has done so far. */
typedef struct WaysideCommand
{
	MemoryContext context;		/* of the lists; NULL: no command runs */
	List	   *columns;		/* WaysideColumn: altered */
	List	   *leaving;		/* partitions that it takes out of their tables */
	List	   *shrunk;			/* tables that these are partitions of */
	List	   *servers;		/* KaptureUnboundServer: dropped */
} WaysideCommand;

static WaysideCommand wayside_command;

/* Returns the value of an option that is given as a string, or NULL. */
static const char *
wayside_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *def = lfirst_node(DefElem, lc);

		if (strcmp(def->defname, name) == 0 && def->arg != NULL)
			return defGetString(def);
	}
	return NULL;
}

/*
 * May the user copy a database without owning it?  Only if it is a template, and the user
 * may create databases.  (PostgreSQL's own have_createdb_privilege() is out of reach in all
 * but the newest minor versions.)
 */
static bool
wayside_may_copy(Oid dbid)
{
	HeapTuple	role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	HeapTuple	database = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(dbid));
	bool		result = HeapTupleIsValid(role) && HeapTupleIsValid(database) &&
		((Form_pg_authid) GETSTRUCT(role))->rolcreatedb &&
		((Form_pg_database) GETSTRUCT(database))->datistemplate;

	if (HeapTupleIsValid(role))
		ReleaseSysCache(role);
	if (HeapTupleIsValid(database))
		ReleaseSysCache(database);
	return result;
}

/* Returns the database that a command needs without other sessions; InvalidOid if it needs none. */
static Oid
wayside_wanted_database(Node *stmt)
{
	const char *dbname = NULL;
	Oid			dbid;
	bool		source = false;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			dbname = ((DropdbStmt *) stmt)->dbname;
			break;
		case T_CreatedbStmt:
			dbname = wayside_option(((CreatedbStmt *) stmt)->options, "template");
			if (dbname == NULL)
				dbname = "template1";
			source = true;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				dbname = ((RenameStmt *) stmt)->subname;
			break;
		case T_AlterDatabaseStmt:
			if (wayside_option(((AlterDatabaseStmt *) stmt)->options, "tablespace"))
				dbname = ((AlterDatabaseStmt *) stmt)->dbname;
			break;
		default:
			break;
	}
	if (dbname == NULL)
		return InvalidOid;
	dbid = get_database_oid(dbname, true);
	/* a session's own database can be copied, but not dropped or renamed */
	if (!OidIsValid(dbid) || (dbid == MyDatabaseId && !source))
		return InvalidOid;
	if (!object_ownercheck(DatabaseRelationId, dbid, GetUserId()) &&
		!(source && wayside_may_copy(dbid)))
		return InvalidOid;
	return dbid;
}

static bool
wayside_commits_prepared(Node *stmt)
{
	return IsA(stmt, TransactionStmt) && ((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED;
}

/* Wakes workers after a command that may have changed what they work with. */
static void
wayside_notice(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_AlterForeignServerStmt:
		case T_CreateForeignServerStmt:
		case T_CreateUserMappingStmt:
		case T_AlterUserMappingStmt:
		case T_DropUserMappingStmt:
		case T_GrantStmt:
			kapture_shmem_wake_all_at_commit();
			break;
		case T_GrantRoleStmt:
		case T_AlterRoleStmt:
			kapture_shmem_wake_for_roles_at_commit();
			break;
		case T_AlterTableStmt:
		case T_CreateForeignTableStmt:
			kapture_shmem_wake_for_definitions_at_commit();
			break;
		case T_DropStmt:
			if (((DropStmt *) stmt)->removeType == OBJECT_EXTENSION ||
				((DropStmt *) stmt)->removeType == OBJECT_SCHEMA ||
				((DropStmt *) stmt)->removeType == OBJECT_FOREIGN_TABLE ||
				((DropStmt *) stmt)->removeType == OBJECT_FOREIGN_SERVER)
				kapture_shmem_wake_all_at_commit();
			break;
		case T_DropOwnedStmt:
		case T_ReassignOwnedStmt:
			kapture_shmem_wake_all_at_commit();
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_FOREIGN_SERVER)
				kapture_shmem_wake_all_at_commit();
			break;
		case T_AlterOwnerStmt:
			if (((AlterOwnerStmt *) stmt)->objectType == OBJECT_FOREIGN_SERVER)
				kapture_shmem_wake_all_at_commit();
			break;
		case T_TransactionStmt:
			if (wayside_commits_prepared(stmt))
				kapture_shmem_wake_all_at_commit();
			break;
		case T_CreatedbStmt:
			kapture_shmem_relist_at_commit();
			break;
		default:
			break;
	}
}

/*
 * A prepared transaction that creates the extension cannot ask for a worker, which would not find
 * the extension yet.  So whoever has committed it does.
 */
static void
wayside_ask_for_worker(void)
{
	if (kapture_shmem_available() && kapture_shmem_worker_pid(MyDatabaseId, KAPTURE_PUSHER) == 0 &&
		kapture_catalog_extension_exists())
		kapture_shmem_request_worker_at_commit();
}

/* May a statement give an object another name or schema, or a value of an enumerated type another name? */
static bool
wayside_renames(Node *stmt)
{
	return !IsBinaryUpgrade &&
		(IsA(stmt, RenameStmt) || IsA(stmt, AlterObjectSchemaStmt) || (IsA(stmt, AlterEnumStmt) && ((AlterEnumStmt *) stmt)->oldVal)) &&
		OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
}

/*
 * Returns the name of what a statement gives another name, which all texts contain that the
 * statement changes; NULL: it is not known which these are.  With an object, others may move to
 * another schema.  A name in which something is quoted may stand there in another form.
 */
static const char *
wayside_old_name(Node *stmt)
{
	RenameStmt *rename = (RenameStmt *) stmt;
	const char *name = NULL;

	if (!IsA(stmt, RenameStmt))
		return NULL;
	if (rename->subname)
		name = rename->subname;
	else if (rename->relation)
		name = rename->relation->relname;
	else if (rename->object == NULL)
		return NULL;
	else if (IsA(rename->object, ObjectWithArgs))
		name = strVal(llast(((ObjectWithArgs *) rename->object)->objname));
	else if (IsA(rename->object, List))
		name = strVal(llast((List *) rename->object));
	else if (IsA(rename->object, String))
		name = strVal(rename->object);
	return name && strpbrk(name, "\"'\\") == NULL ? name : NULL;
}

/* May a statement make or drop objects that expressions use, other than columns of their table? */
static bool
wayside_affects_expressions(Node *stmt)
{
	if (IsBinaryUpgrade || kapture_is_restoring())
		return false;
	switch (nodeTag(stmt))
	{
		case T_DropStmt:
			return kapture_expression_may_use(((DropStmt *) stmt)->removeType);
		case T_DropOwnedStmt:
		case T_CreateFunctionStmt:
		case T_CreateExtensionStmt:
		case T_DefineStmt:
		case T_CreateCastStmt:
		case T_CreateDomainStmt:
		case T_CreateEnumStmt:
		case T_CreateRangeStmt:
			return true;
		default:
			return false;
	}
}

/*
 * Notes the columns that the command alters, as their new names cannot be seen yet, and the
 * partitions and servers that it drops.  Reports mapped columns that it drops.
 *
 * A session that ends within a command, by FATAL, leaves wayside_command behind, and then drops
 * its temporary tables, after the transaction's memory is gone.  What is dropped there is nobody
 * else's.
 */
static void
wayside_object_access(ObjectAccessType access, Oid classid, Oid objectid, int subid, void *arg)
{
	if (wayside_prev_access_hook)
		wayside_prev_access_hook(access, classid, objectid, subid, arg);
	if (wayside_command.context == NULL || proc_exit_inprogress)
		return;

	if (access == OAT_POST_ALTER && classid == RelationRelationId && subid > 0)
	{
		MemoryContext old = MemoryContextSwitchTo(wayside_command.context);
		char	   *name = get_attname(objectid, subid, true);

		if (name)
		{
			WaysideColumn *column = palloc(sizeof(WaysideColumn));

			column->relid = objectid;
			column->attnum = subid;
			column->name = name;
			wayside_command.columns = lappend(wayside_command.columns, column);
		}
		MemoryContextSwitchTo(old);
	}
	if (access == OAT_DROP && classid == RelationRelationId && subid > 0 && !IsBinaryUpgrade &&
		OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		kapture_advice_column_dropped(objectid, subid);
	if (access == OAT_DROP && classid == RelationRelationId && subid == 0 && !IsBinaryUpgrade)
	{
		MemoryContext old = MemoryContextSwitchTo(wayside_command.context);

		kapture_leave_dropped(objectid, &wayside_command.leaving);
		/* not before the command has locked the table as it needs, which two commands would wait for */
		if (get_rel_relispartition(objectid))
			wayside_command.shrunk = list_append_unique_oid(wayside_command.shrunk, get_partition_parent(objectid, true));
		MemoryContextSwitchTo(old);
	}
	if (access == OAT_DROP && classid == ForeignServerRelationId && !IsBinaryUpgrade)
	{
		MemoryContext old = MemoryContextSwitchTo(wayside_command.context);

		wayside_command.servers = lappend(wayside_command.servers, kapture_unbind_server(objectid));
		MemoryContextSwitchTo(old);
	}
}

/* Has mappings follow the columns that were renamed. */
static void
wayside_follow_columns(List *columns)
{
	ListCell   *lc;

	if (columns == NIL)
		return;
	CommandCounterIncrement();
	foreach(lc, columns)
	{
		WaysideColumn *column = lfirst(lc);
		char	   *name = get_attname(column->relid, column->attnum, true);

		if (name && strcmp(name, column->name) != 0)
		{
			kapture_attach_column_renamed(column->relid, column->name, name);
			kapture_follow_column_renamed(column->relid, column->name, name);
		}
	}
}

/* Is a statement about to make a partition? */
static bool
wayside_makes_partition(Node *stmt)
{
	CreateStmt *create = (CreateStmt *) stmt;

	return IsA(stmt, CreateStmt) && create->partbound &&
		!(create->if_not_exists && OidIsValid(RangeVarGetRelid(create->relation, NoLock, true)));
}

/*
 * Adds the partitions whose rows a statement has taken away, or may have replaced, to those
 * that it has dropped.  For ALTER TABLE, the dropped ones do not count, as their rows stay.
 */
static void
wayside_add_leaving(Node *stmt, bool makes_partition, List **leaving)
{
	if (IsBinaryUpgrade || kapture_is_restoring())
		return;
	if (IsA(stmt, TruncateStmt))
		kapture_leave_truncated((TruncateStmt *) stmt, leaving);
	else if (makes_partition)
		kapture_leave_made(((CreateStmt *) stmt)->relation, false, leaving);
	else if (IsA(stmt, AlterTableStmt))
	{
		ListCell   *lc;

		*leaving = NIL;

		foreach(lc, ((AlterTableStmt *) stmt)->cmds)
		{
			AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

			if (cmd->subtype == AT_AttachPartition)
				kapture_leave_made(castNode(PartitionCmd, cmd->def)->name, true, leaving);
		}
	}
}

/*
 * Does a statement create a trigger of ours for rows that may count as those of an attached
 * table, from which theirs inherits?
 */
static bool
wayside_creates_trigger(Node *stmt)
{
	CreateTrigStmt *create = (CreateTrigStmt *) stmt;
	Oid			relid;

	if (!IsA(stmt, CreateTrigStmt) || !create->row || strcmp(strVal(llast(create->funcname)), "kapture_capture") != 0)
		return false;
	relid = RangeVarGetRelid(create->relation, NoLock, true);
	return !OidIsValid(relid) || has_superclass(relid);
}

/* Has a trigger a name like ours?  Others may have one, too. */
static bool
wayside_is_named_like_ours(const char *trigger)
{
	return strncmp(trigger, "kapture_", strlen("kapture_")) == 0;
}

/*
 * Refuses to rename a trigger of ours: whatever looks for it, to have it fire in replication, to report that it
 * is off, or to drop it, goes by its name.
 */
static void
wayside_protect_trigger_name(Node *stmt)
{
	RenameStmt *renames = (RenameStmt *) stmt;
	Oid			relid;
	KaptureTrigger found;

	if (!IsA(stmt, RenameStmt) || renames->renameType != OBJECT_TRIGGER || !wayside_is_named_like_ours(renames->subname))
		return;
	relid = RangeVarGetRelid(renames->relation, NoLock, true);
	if (OidIsValid(relid) && kapture_attach_find_trigger(relid, renames->subname, &found))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("trigger \"%s\" of table \"%s\" cannot be renamed", renames->subname, get_rel_name(relid)),
				 errdetail("The trigger captures changes of the table for Kapture, and is known by its name."),
				 errhint("To have no changes captured any more, use kapture_detach() or kapture_unfollow().")));
}

/*
 * Refuses to replace a trigger of ours on somebody else's table.  TRIGGER on a table is enough
 * for CREATE OR REPLACE TRIGGER, which would end the capture of its changes unnoticed.  The
 * table is locked as the command locks it, whoever may do so: else another one could be given
 * its name while the command waits for the lock.
 */
static void
wayside_protect_trigger(Node *stmt)
{
	CreateTrigStmt *create = (CreateTrigStmt *) stmt;
	Oid			relid;
	KaptureTrigger found;

	if (!IsA(stmt, CreateTrigStmt) || !create->replace)
		return;
	relid = RangeVarGetRelid(create->relation, ShareRowExclusiveLock, true);
	if (OidIsValid(relid) && !object_ownercheck(RelationRelationId, relid, GetUserId()) &&
		kapture_attach_find_trigger(relid, create->trigname, &found))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s\" to replace trigger \"%s\"", get_rel_name(relid), create->trigname),
				 errdetail("The trigger captures changes of the table for Kapture.")));
}

/*
 * Has partitions that a statement has given to attached or followed tables notice when they are
 * truncated, and notes that rows of followed tables have come or gone with a partition.
 */
static void
wayside_watch_partitions(Node *stmt)
{
	List	   *names = NIL;
	bool		moved = false;
	ListCell   *lc;

	if (IsA(stmt, CreateStmt) && ((CreateStmt *) stmt)->partbound)
		names = list_make1(((CreateStmt *) stmt)->relation);
	foreach(lc, IsA(stmt, AlterTableStmt) ? ((AlterTableStmt *) stmt)->cmds : NIL)
	{
		AlterTableCmd *cmd = lfirst_node(AlterTableCmd, lc);

		if (cmd->subtype == AT_AttachPartition)
			names = lappend(names, castNode(PartitionCmd, cmd->def)->name);
		/* CONCURRENTLY may have been interrupted, and is brought to its end later */
		moved |= cmd->subtype == AT_AttachPartition || cmd->subtype == AT_DetachPartition ||
			cmd->subtype == AT_DetachPartitionFinalize;
	}
	foreach(lc, names)
	{
		Oid			relid = RangeVarGetRelid(lfirst(lc), NoLock, true);

		/* IF NOT EXISTS may have found a table of somebody else's, which the user must not lock */
		if (!OidIsValid(relid) || !get_rel_relispartition(relid) || !object_ownercheck(RelationRelationId, relid, GetUserId()))
			continue;
		kapture_attach_watch_new(relid);
		kapture_follow_watch_new(relid);
	}
	if (moved)
		kapture_followed_rows_moved(RangeVarGetRelid(((AlterTableStmt *) stmt)->relation, NoLock, true));
}

/* Has this database attached tables of this extension version, and is the command a user's? */
static bool
wayside_may_advise(void)
{
	return !IsBinaryUpgrade && !kapture_is_restoring() && kapture_catalog_outbox_packs();
}

/* May a relation have triggers of ours? */
static bool
wayside_may_have_triggers(Relation rel)
{
	bool		result = false;

	for (int i = 0; rel->trigdesc && !result && i < rel->trigdesc->numtriggers; i++)
		result = wayside_is_named_like_ours(rel->trigdesc->triggers[i].tgname);
	return result;
}

/*
 * Has triggers of ours that a statement has enabled fire when they are to: of a table, and of the
 * partitions that the statement has recursed to, which it has locked like the table.
 */
static void
wayside_enable_triggers(const AlterTableStmt *stmt)
{
	Oid			relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	List	   *relids = list_make1_oid(relid);
	Relation	rel;
	bool		concerned;
	ListCell   *lc;

	/* IF EXISTS may have found nothing, and another table may have the name by now */
	if (!OidIsValid(relid) || !object_ownercheck(RelationRelationId, relid, GetUserId()) || IsBinaryUpgrade ||
		!kapture_catalog_outbox_packs())
		return;
	CommandCounterIncrement();
	rel = relation_open(relid, ShareRowExclusiveLock);
	concerned = wayside_may_have_triggers(rel);
	relation_close(rel, NoLock);
	if (!concerned)
		return;
	if (stmt->relation->inh && get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE)
		relids = find_all_inheritors(relid, ShareRowExclusiveLock, NULL);
	foreach(lc, relids)
	{
		rel = relation_open(lfirst_oid(lc), ShareRowExclusiveLock);
		kapture_attach_enable_triggers(rel);
		kapture_follow_enable_triggers(rel);
		relation_close(rel, NoLock);
	}
}

/* Does a command of ALTER TABLE enable, or disable, triggers? */
static bool
wayside_enables(AlterTableType type)
{
	return type == AT_EnableTrig || type == AT_EnableTrigAll || type == AT_EnableTrigUser;
}

static bool
wayside_disables(AlterTableType type)
{
	return type == AT_DisableTrig || type == AT_DisableTrigAll || type == AT_DisableTrigUser || type == AT_EnableReplicaTrig;
}

/*
 * Follows what a statement has done to triggers of attached and followed tables: warns of those that
 * it has disabled or replaced, or that a user's statement has dropped.
 */
static void
wayside_follow_triggers(Node *stmt, bool toplevel)
{
	RangeVar   *table = NULL;
	bool		enables = false;
	Oid			relid;
	ListCell   *lc;

	if (IsA(stmt, AlterTableStmt))
	{
		foreach(lc, ((AlterTableStmt *) stmt)->cmds)
		{
			AlterTableType type = lfirst_node(AlterTableCmd, lc)->subtype;

			if (wayside_disables(type))
				table = ((AlterTableStmt *) stmt)->relation;
			enables |= wayside_enables(type);
		}
	}
	else if (toplevel && IsA(stmt, DropStmt) && ((DropStmt *) stmt)->removeType == OBJECT_TRIGGER)
	{
		List	   *names = linitial_node(List, ((DropStmt *) stmt)->objects);

		/* the trigger's own name comes last; triggers are dropped one at a time */
		table = makeRangeVarFromNameList(list_truncate(list_copy(names), list_length(names) - 1));
	}
	else if (IsA(stmt, CreateTrigStmt) && ((CreateTrigStmt *) stmt)->replace)
		table = ((CreateTrigStmt *) stmt)->relation;
	if (enables)
		wayside_enable_triggers((AlterTableStmt *) stmt);
	if (table == NULL || !wayside_may_advise())
		return;
	relid = RangeVarGetRelid(table, NoLock, true);
	if (!OidIsValid(relid))
		return;
	kapture_attach_warn_uncaptured(relid);
	kapture_follow_warn_uncaptured(relid);
}

/* Reports what is lost with tables that a user's statement is about to drop. */
static void
wayside_advise_drop(Node *stmt, bool toplevel)
{
	ListCell   *lc;

	if (!toplevel || !IsA(stmt, DropStmt) || ((DropStmt *) stmt)->removeType != OBJECT_TABLE || !wayside_may_advise())
		return;
	foreach(lc, ((DropStmt *) stmt)->objects)
	{
		Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(lfirst_node(List, lc)), NoLock, true);

		if (OidIsValid(relid))
			kapture_advice_table_dropped(relid);
	}
}

/* The state before a user's command, to be compared with that after it. */
typedef struct WaysideBefore
{
	KaptureWatchedTable table;
	const char *server;			/* server whose options or mappings it changes; NULL: none */
	char	   *address;		/* of that server */
	List	   *problems;		/* of attachments, if it may break any: see problem_advice.c */
} WaysideBefore;

/* Notes the state that a user's command may change for attached tables. */
static WaysideBefore
wayside_before(Node *stmt, bool toplevel)
{
	WaysideBefore before = {{InvalidOid, false}, NULL, NULL, NIL};
	bool		may_break = toplevel && kapture_problem_may_come(stmt);

	if (!toplevel || !(IsA(stmt, AlterTableStmt) || IsA(stmt, AlterForeignServerStmt) ||
					   IsA(stmt, DropUserMappingStmt) || may_break) || !wayside_may_advise())
		return before;
	if (may_break)
		before.problems = kapture_problem_before(stmt);
	if (IsA(stmt, AlterTableStmt))
		before.table = kapture_advice_before((AlterTableStmt *) stmt);
	else if (IsA(stmt, DropUserMappingStmt))
		before.server = ((DropUserMappingStmt *) stmt)->servername;
	else if (IsA(stmt, AlterForeignServerStmt))
	{
		before.server = ((AlterForeignServerStmt *) stmt)->servername;
		before.address = kapture_advice_address(before.server);
	}
	return before;
}

/* Reports what the command keeps from being sent, or has sent to another address from now on. */
static void
wayside_after(Node *stmt, const WaysideBefore *before)
{
	if (before->problems != NIL && wayside_may_advise())
		kapture_problem_after(stmt, before->problems);
	if (OidIsValid(before->table.relid))
		kapture_advice_after(before->table, (AlterTableStmt *) stmt);
	else if (before->address)
		kapture_advice_readdressed(before->server, before->address);
	else if (before->server && IsA(stmt, DropUserMappingStmt))
		kapture_advice_unmapped(before->server, InvalidOid);
}

/*
 * Handles a command that has run.
 *
 * - What waits follows to another primary key.
 * - The workers are notified of an updated extension, and of triggers that make a table's
 *   rows count as those of the one it inherits from.
 * - New foreign tables are looked at.
 * - A database that begins to pull notes that it is the original.
 */
static void
wayside_follow(Node *stmt)
{
	bool		updates = IsA(stmt, AlterExtensionStmt) &&
		strcmp(((AlterExtensionStmt *) stmt)->extname, KAPTURE_EXTENSION) == 0;

	if (IsA(stmt, AlterTableStmt) && !IsBinaryUpgrade && ((AlterTableStmt *) stmt)->objtype == OBJECT_TABLE &&
		OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
	{
		Oid			relid = RangeVarGetRelid(((AlterTableStmt *) stmt)->relation, NoLock, true);

		if (OidIsValid(relid))
			kapture_rekey_altered(relid, ((AlterTableStmt *) stmt)->cmds);
	}
	/* no look at the catalog for other commands, as some of these end a transaction */
	if ((IsA(stmt, AlterEnumStmt) || IsA(stmt, CreateStmt) || IsA(stmt, AlterTableStmt)) &&
		!IsBinaryUpgrade && !kapture_is_restoring() && OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
	{
		AlterEnumStmt *rename = IsA(stmt, AlterEnumStmt) ? (AlterEnumStmt *) stmt : NULL;

		wayside_watch_partitions(stmt);
		if (rename && rename->oldVal)
			kapture_rekey_renamed_value(typenameTypeId(NULL, makeTypeNameFromNameList(rename->typeName)), rename->oldVal, rename->newVal);
	}
	if ((updates || wayside_creates_trigger(stmt)) &&
		OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
	{
		if (updates)
			kapture_binding_renew(false);
		kapture_attach_announce();
	}
	if (IsA(stmt, CreateForeignTableStmt) && !IsBinaryUpgrade && !kapture_is_restoring())
		kapture_fdw_advise_created(((CreateForeignTableStmt *) stmt)->base.relation);
	if (IsA(stmt, ViewStmt) && !IsBinaryUpgrade && !kapture_is_restoring() &&
		OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		kapture_follow_view_changed(kapture_attach_view_changed(((ViewStmt *) stmt)->view));
	if (wayside_affects_expressions(stmt) && OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		kapture_attach_reconsider();
	if ((IsA(stmt, CreateForeignServerStmt) || IsA(stmt, AlterForeignServerStmt)) &&
		!IsBinaryUpgrade && !kapture_is_restoring() && kapture_pull_servers() != NIL &&
		OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		(void) kapture_origin_claim();
}

/*
 * Returns the statement if it renames a server of ours; then nobody else writes customers
 * of the server.  Else NULL.
 */
static RenameStmt *
wayside_renamed_server(Node *stmt)
{
	RenameStmt *rename = (RenameStmt *) stmt;

	if (!IsA(stmt, RenameStmt) || rename->renameType != OBJECT_FOREIGN_SERVER || IsBinaryUpgrade ||
		!OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)) ||
		!kapture_copies_begin_rename(strVal(rename->object)))
		return NULL;
	return rename;
}

/*
 * Can the extension follow a statement?  Only definitions, and TRUNCATE, are followed; no look at the catalog
 * for other commands, as some of these end a transaction.  If not, warns of it in a user's statement.
 */
static bool
wayside_can_follow(Node *stmt, bool toplevel)
{
	if (IsBinaryUpgrade || (!IsA(stmt, TruncateStmt) && GetCommandLogLevel(stmt) != LOGSTMT_DDL) || kapture_own_may_run())
		return true;
	if (toplevel)
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("kapture_sync does not follow what this command changes for attached tables"),
				 errdetail("Role \"%s\", which owns tables of the extension, lacks rights on the others, or on their schema.",
						   GetUserNameFromId(kapture_own_role(), false)),
				 errhint("Give all tables of the extension back to a superuser, with ALTER TABLE ... OWNER TO.")));
	return false;
}

static void
wayside_process_utility(PlannedStmt *pstmt, const char *query_string,
						bool read_only_tree, ProcessUtilityContext context,
						ParamListInfo params, QueryEnvironment *query_env,
						DestReceiver *dest, QueryCompletion *qc)
{
	Oid			dbid = wayside_wanted_database(pstmt->utilityStmt);
	bool		is_about_transaction = IsA(pstmt->utilityStmt, TransactionStmt);
	bool		commits_prepared = wayside_commits_prepared(pstmt->utilityStmt);
	ProcessUtility_hook_type next = wayside_prev_hook ? wayside_prev_hook : standard_ProcessUtility;
	bool		toplevel = context == PROCESS_UTILITY_TOPLEVEL;
	bool		follows_it = wayside_can_follow(pstmt->utilityStmt, toplevel);
	RenameStmt *renames = follows_it ? wayside_renamed_server(pstmt->utilityStmt) : NULL;
	WaysideCommand outer = wayside_command;
	WaysideCommand done = {0};
	ListCell   *lc;
	bool		makes_partition = wayside_makes_partition(pstmt->utilityStmt);
	bool		may_rename = follows_it && wayside_renames(pstmt->utilityStmt);
	const char *old_name = may_rename ? wayside_old_name(pstmt->utilityStmt) : NULL;
	List	   *expressions = may_rename ? kapture_expression_before_rename(old_name) : NIL;
	List	   *follows = may_rename ? kapture_follow_before_rename(old_name) : NIL;
	WaysideBefore before = wayside_before(pstmt->utilityStmt, follows_it && toplevel);

	wayside_protect_trigger(pstmt->utilityStmt);
	wayside_protect_trigger_name(pstmt->utilityStmt);
	wayside_notice(pstmt->utilityStmt);
	wayside_advise_drop(pstmt->utilityStmt, follows_it && toplevel);
	if (OidIsValid(dbid))
		kapture_shmem_make_way(dbid);
	memset(&wayside_command, 0, sizeof(wayside_command));
	wayside_command.context = follows_it ? CurrentMemoryContext : NULL;
	PG_TRY();
	{
		next(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	}
	PG_FINALLY();
	{
		done = wayside_command;
		wayside_command = outer;
	}
	PG_END_TRY();
	if (commits_prepared)
		wayside_ask_for_worker();
	/* ROLLBACK may have freed its own statement */
	if (is_about_transaction)
		return;
	/* the command itself may have given the tables away */
	if (!follows_it || !wayside_can_follow(pstmt->utilityStmt, toplevel))
		return;
	wayside_add_leaving(pstmt->utilityStmt, makes_partition, &done.leaving);
	kapture_leave_follow(done.leaving);
	foreach(lc, done.shrunk)
		kapture_followed_rows_moved(lfirst_oid(lc));
	wayside_follow_columns(done.columns);
	kapture_unbind_dropped(done.servers);
	kapture_attach_renamed(expressions);
	kapture_follow_after_rename(follows);
	wayside_follow(pstmt->utilityStmt);
	wayside_follow_triggers(pstmt->utilityStmt, toplevel);
	wayside_after(pstmt->utilityStmt, &before);
	if (IsA(pstmt->utilityStmt, GrantStmt) && toplevel && wayside_may_advise())
		kapture_privileges_advise((GrantStmt *) pstmt->utilityStmt);
	if (renames)
	{
		kapture_copies_follow_rename(strVal(renames->object), renames->newname);
		kapture_attach_announce();
	}
}

/*
 * Installs the hooks.  Called from _PG_init() while libraries are preloaded.
 */
void
kapture_wayside_install(void)
{
	wayside_prev_hook = ProcessUtility_hook;
	ProcessUtility_hook = wayside_process_utility;
	wayside_prev_access_hook = object_access_hook;
	object_access_hook = wayside_object_access;
	kapture_capture_emptied = kapture_leave_emptied;
}
