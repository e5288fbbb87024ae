/*
 * command_advice.c
 *		What is reported to users whose command keeps attached tables from being sent,
 *		or has them sent to somebody else.
 *
 * All of it is NOTICEs and WARNINGs: it changes nothing.  PostgreSQL carries out such
 * commands silently, and their consequences show in kapture_status only.  Tables are
 * named only to users who have the rights of their owner.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/owner_sql.h"
#include "mapping/command_advice.h"

/* May the role $1 see the table "c"? */
#define COMMAND_MAY_SEE	"pg_catalog.pg_has_role($1, c.relowner, 'USAGE')"

/* Does ALTER TABLE have a subcommand of this kind? */
static bool
command_has(const AlterTableStmt *stmt, AlterTableType type)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		if (lfirst_node(AlterTableCmd, lc)->subtype == type)
			return true;
	}
	return false;
}

/*
 * Does a subcommand of ALTER TABLE compute the values of a column anew?  No trigger sees
 * that.  A mere change of the type does not count: as a rule, values keep their text.
 */
static bool
command_computes(const AlterTableCmd *command)
{
	return command->subtype == AT_SetExpression ||
		(command->subtype == AT_AlterColumnType && castNode(ColumnDef, command->def)->raw_default != NULL);
}

/* Does ALTER TABLE compute the values of any column anew? */
static bool
command_computes_any(const AlterTableStmt *stmt)
{
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		if (command_computes(lfirst_node(AlterTableCmd, lc)))
			return true;
	}
	return false;
}

/* Does an open table have a primary key? */
static bool
command_has_key(Relation rel)
{
	list_free(RelationGetIndexList(rel));
	return OidIsValid(rel->rd_pkindex);
}

/*
 * kapture_advice_before
 *		Returns the attached table of the current user that a command is about to
 *		change in a way that kapture_advice_after() may have to report.  Tables of
 *		other users are not opened, so that nobody waits for their locks.
 */
KaptureWatchedTable
kapture_advice_before(const AlterTableStmt *stmt)
{
	KaptureWatchedTable table = {InvalidOid, false};
	Oid			relid;
	Relation	rel;

	if (!command_has(stmt, AT_DropConstraint) && !command_has(stmt, AT_SetUnLogged) &&
		!command_has(stmt, AT_ChangeOwner) && !command_has(stmt, AT_ForceRowSecurity) &&
		!command_has(stmt, AT_EnableRowSecurity) && !command_computes_any(stmt))
		return table;
	relid = RangeVarGetRelid(stmt->relation, NoLock, true);
	if (!OidIsValid(relid) || !list_member_oid(kapture_catalog_attached_relations(), relid) ||
		!object_ownercheck(RelationRelationId, relid, GetUserId()))
		return table;
	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL)
		return table;
	table.relid = relid;
	table.has_key = command_has_key(rel);
	relation_close(rel, AccessShareLock);
	return table;
}

/* Reports that a command has computed values anew that Kapture has. */
static void
command_advise_computed(Relation rel, const AlterTableStmt *stmt)
{
	Oid			types[2] = {REGCLASSOID, NAMEOID};
	ListCell   *lc;

	foreach(lc, stmt->cmds)
	{
		const AlterTableCmd *command = lfirst_node(AlterTableCmd, lc);
		NameData	name;
		Datum		values[2] = {ObjectIdGetDatum(RelationGetRelid(rel)), NameGetDatum(&name)};

		if (!command_computes(command))
			continue;
		namestrcpy(&name, command->name);
		if (kapture_own_text("SELECT 1 FROM @.kapture_attachment AS a JOIN @.kapture_column AS c USING (attachment_id) WHERE a.relation = $1"
							 " AND (CASE WHEN a.source IS NOT NULL THEN a.source_columns IS NULL OR $2 = ANY (a.source_columns)"
							 " WHEN c.expression IS NOT NULL THEN c.reads IS NULL OR $2 = ANY (c.reads) ELSE c.column_name = $2 END"
							 " OR (a.filter IS NOT NULL AND (a.filter_columns IS NULL OR $2 = ANY (a.filter_columns)))) LIMIT 1",
							 lengthof(types), types, values))
			ereport(NOTICE,
					(errmsg("values of column \"%s\" were computed anew, which is not sent", NameStr(name)),
					 errdetail("Table \"%s\" is attached to Kapture, which keeps the values that it has.", RelationGetRelationName(rel)),
					 errhint("Use kapture_resync() to have the rows sent again whose values are others now.")));
	}
}

/* Reports what is wrong with an attached table that a command has changed. */
static void
command_advise(Relation rel, const KaptureWatchedTable *table, const AlterTableStmt *stmt)
{
	const char *name = RelationGetRelationName(rel);
	Form_pg_class form = rel->rd_rel;

	if (table->has_key && !command_has_key(rel))
		ereport(WARNING,
				(errmsg("attached table \"%s\" has no primary key any more", name),
				 errdetail("The worker looks for each row by the columns of the former one, without its index, and parks rows of which there are two."),
				 errhint("Add it again, or roll back.")));
	if (form->relpersistence == RELPERSISTENCE_UNLOGGED && command_has(stmt, AT_SetUnLogged))
		ereport(WARNING,
				(errmsg("rows of table \"%s\" are lost in a crash, together with their Kapture ids", name),
				 errdetail("The table is attached to Kapture, and unlogged from now on."),
				 errhint("Use ALTER TABLE ... SET LOGGED, or roll back.")));
	if (form->relrowsecurity && form->relforcerowsecurity && !has_bypassrls_privilege(form->relowner))
		ereport(WARNING,
				(errmsg("rows of table \"%s\" are not sent while row-level security is forced on its owner", name),
				 errdetail("The worker acts as the table's owner, \"%s\", and is not to take rows that it does not see for deleted ones.",
						   GetUserNameFromId(form->relowner, false)),
				 errhint("Use ALTER TABLE ... NO FORCE ROW LEVEL SECURITY, or give the owner BYPASSRLS.")));
	command_advise_computed(rel, stmt);
}

/*
 * kapture_advice_after
 *		Reports what is wrong with "table", which kapture_advice_before() returned,
 *		after the command.
 */
void
kapture_advice_after(KaptureWatchedTable table, const AlterTableStmt *stmt)
{
	Relation	rel;

	if (!OidIsValid(table.relid))
		return;
	CommandCounterIncrement();
	rel = try_relation_open(table.relid, AccessShareLock);
	if (rel == NULL)
		return;
	command_advise(rel, &table, stmt);
	relation_close(rel, AccessShareLock);
	if (command_has(stmt, AT_ChangeOwner))
		kapture_advice_unmapped(NULL, table.relid);
}

/*
 * Returns the servers and roles of all user mappings, as two arrays of oids; role 0 is PUBLIC.  Not by SQL: few roles may
 * read pg_user_mapping, and the owner of the extension's tables need not be one of them.
 */
static void
command_mappings(Datum *servers, Datum *roles)
{
	Relation	rel = table_open(UserMappingRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	ArrayBuildState *all[2] = {initArrayResult(OIDOID, CurrentMemoryContext, false), initArrayResult(OIDOID, CurrentMemoryContext, false)};
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_user_mapping mapping = (Form_pg_user_mapping) GETSTRUCT(tuple);

		all[0] = accumArrayResult(all[0], ObjectIdGetDatum(mapping->umserver), false, OIDOID, CurrentMemoryContext);
		all[1] = accumArrayResult(all[1], ObjectIdGetDatum(mapping->umuser), false, OIDOID, CurrentMemoryContext);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	*servers = makeArrayResult(all[0], CurrentMemoryContext);
	*roles = makeArrayResult(all[1], CurrentMemoryContext);
}

/*
 * kapture_advice_unmapped
 *		Warns of attached tables whose owner has no user mapping any more: of tables
 *		of "server", or, if that is NULL, of table "relid".
 */
void
kapture_advice_unmapped(const char *server, Oid relid)
{
	Oid			types[5] = {OIDOID, TEXTOID, OIDOID, OIDARRAYOID, OIDARRAYOID};
	Datum		values[5] = {ObjectIdGetDatum(GetUserId()), CStringGetTextDatum(server ? server : ""), ObjectIdGetDatum(relid)};
	char	   *tables;

	CommandCounterIncrement();
	command_mappings(&values[3], &values[4]);
	tables = kapture_own_text("SELECT pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(c.relname), ', ') FROM @.kapture_attachment AS a"
							  " JOIN pg_catalog.pg_class AS c ON c.oid = a.relation"
							  " WHERE (a.server = $2 OR c.oid = $3) AND " COMMAND_MAY_SEE " AND NOT EXISTS (SELECT FROM unnest($4, $5) AS m(server, role)"
							  " JOIN pg_catalog.pg_foreign_server AS s ON s.oid = m.server"
							  " WHERE s.srvname = a.server AND m.role IN (0, c.relowner))", lengthof(types), types, values);
	if (tables)
		ereport(WARNING,
				(errmsg("nothing is sent for attached tables whose owner has no user mapping: %s", tables),
				 errdetail("The worker uses the key of a table's owner. What changes waits until there is one."),
				 errhint("Use CREATE USER MAPPING FOR the owner, or roll back.")));
}

/*
 * kapture_advice_address
 *		Returns the address of a server, palloc'ed; NULL: there is no such server.
 */
char *
kapture_advice_address(const char *server)
{
	ForeignServer *found = GetForeignServerByName(server, true);
	ListCell   *lc;

	foreach(lc, found ? found->options : NIL)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, "url") == 0)
			return pstrdup(defGetString(option));
	}
	return NULL;
}

/*
 * kapture_advice_readdressed
 *		Reports if rows with ids of customers at a server's former address are sent
 *		to another address now.
 */
void
kapture_advice_readdressed(const char *server, const char *former)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2] = {ObjectIdGetDatum(GetUserId()), CStringGetTextDatum(server)};
	char	   *address;
	char	   *tables;

	CommandCounterIncrement();
	address = kapture_advice_address(server);
	if (address == NULL || strcmp(address, former) == 0)
		return;
	tables = kapture_own_text("SELECT pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(c.relname), ', ') FROM @.kapture_attachment AS a"
							  " JOIN pg_catalog.pg_class AS c ON c.oid = a.relation"
							  " WHERE a.server = $2 AND " COMMAND_MAY_SEE " AND EXISTS (SELECT FROM @.kapture_row AS r WHERE r.attachment_id = a.attachment_id)",
							  lengthof(types), types, values);
	if (tables)
		ereport(NOTICE,
				(errmsg("rows that have ids of customers at the former address of server \"%s\" are sent to the new one", server),
				 errdetail("Attached tables with such rows: %s. Updates go to the customers that have these ids there.", tables),
				 errhint("If it is another account, roll back, and use kapture_alter() with a server of its own; see kapture_verify(), too.")));
}
