/*
 * privileges.c
 *		Privileges on what the extension's scripts make.
 *
 * Where an update replaces functions, their privileges are kept.  A function whose arguments
 * or result change is another one, and begins with the privileges that new functions have:
 * what was granted would be lost, and what was revoked would be open to everybody.  GRANT in an update would not help: privileges that
 * a script of an extension grants count as the extension's own, so that no dump has them.
 *
 * Tables and functions that a script makes have only the privileges that the script says,
 * whatever default privileges the role has that runs it.  Whoever opens these tables later,
 * perhaps along with all others of a schema, is warned.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/catalog_tables.h"
#include "base/privileges.h"

PG_FUNCTION_INFO_V1(kapture_keep_privileges);
PG_FUNCTION_INFO_V1(kapture_close_privileges);

/*
 * Returns a function's privileges, in the current memory context, and its owner; NULL:
 * the default privileges of functions.
 */
static Acl *
privileges_read(Oid function, Oid *owner)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	bool		isnull;
	Datum		value;
	Acl		   *result;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	*owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proacl, &isnull);
	result = isnull ? NULL : DatumGetAclPCopy(value);
	ReleaseSysCache(tuple);
	return result;
}

/* Gives a function the privileges "acl"; "before" are those that it has now. */
static void
privileges_write(Oid function, Oid owner, const Acl *before, Acl *acl)
{
	Relation	rel = table_open(ProcedureRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(PROCOID, ObjectIdGetDatum(function));
	Datum		values[Natts_pg_proc] = {0};
	bool		nulls[Natts_pg_proc] = {0};
	bool		replace[Natts_pg_proc] = {0};
	Oid		   *old_members = NULL;
	Oid		   *members;
	int			nold = before ? aclmembers(before, &old_members) : 0;
	int			n = aclmembers(acl, &members);

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	values[Anum_pg_proc_proacl - 1] = PointerGetDatum(acl);
	replace[Anum_pg_proc_proacl - 1] = true;
	tuple = heap_modify_tuple(tuple, RelationGetDescr(rel), values, nulls, replace);
	CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	updateAclDependencies(ProcedureRelationId, function, 0, owner, nold, old_members, n, members);
	table_close(rel, RowExclusiveLock);
}

/*
 * kapture_keep_privileges(former regprocedure, present regprocedure) returns void
 *
 * Gives the second function the privileges of the first, with the same grantors and grant
 * options; the owner of the second stands in for that of the first.  If nobody has granted
 * or revoked anything, the second keeps the privileges that it was created with.  Only in
 * scripts that update the extension.  Errors: 42883 there is no such function.
 */
Datum
kapture_keep_privileges(PG_FUNCTION_ARGS)
{
	Oid			former_owner;
	Oid			owner;
	Acl		   *acl = privileges_read(PG_GETARG_OID(0), &former_owner);
	Acl		   *before = privileges_read(PG_GETARG_OID(1), &owner);

	if (acl != NULL)
		privileges_write(PG_GETARG_OID(1), owner, before, aclnewowner(acl, former_owner, owner));
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * Default privileges
 * ------------------------------------------------------------------------
 */

/* Returns the privileges on a relation or function, in the current memory context; NULL: the built-in ones. */
static Acl *
privileges_of_member(const ObjectAddress *object, Oid *owner)
{
	HeapTuple	tuple;
	bool		isnull;
	Datum		value;
	Acl		   *result;

	if (object->classId == ProcedureRelationId)
		return privileges_read(object->objectId, owner);
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(object->objectId));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", object->objectId);
	*owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	value = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	result = isnull ? NULL : DatumGetAclPCopy(value);
	ReleaseSysCache(tuple);
	return result;
}

static void
privileges_execute(const char *sql)
{
	int			rc = SPI_execute(sql, false, 0);

	if (rc < 0)
		elog(ERROR, "\"%s\" failed: %s", sql, SPI_result_code_string(rc));
}

/* Revokes what default privileges have granted on a member; "public": whoever may connect reads this relation. */
static void
privileges_close_member(const ObjectAddress *object, bool public)
{
	bool		is_function = object->classId == ProcedureRelationId;
	Oid			owner;
	Acl		   *acl = privileges_of_member(object, &owner);
	const char *kind = is_function ? "ROUTINE" : get_rel_relkind(object->objectId) == RELKIND_SEQUENCE ? "SEQUENCE" : "TABLE";
	char	   *name;
	bool		any = false;

	if (acl == NULL)
		return;
	name = is_function ? format_procedure_qualified(object->objectId) :
		quote_qualified_identifier(get_namespace_name(get_rel_namespace(object->objectId)), get_rel_name(object->objectId));
	for (int i = 0; i < ACL_NUM(acl); i++)
	{
		const AclItem *item = &ACL_DAT(acl)[i];

		/* that everybody may call most functions is built in, and revoked where it is not meant */
		if (item->ai_grantee == owner || (is_function && item->ai_grantee == ACL_ID_PUBLIC) ||
			(public && item->ai_grantee == ACL_ID_PUBLIC && ACLITEM_GET_RIGHTS(*item) == ACL_SELECT))
			continue;
		privileges_execute(psprintf("REVOKE ALL ON %s %s FROM %s CASCADE", kind, name, item->ai_grantee == ACL_ID_PUBLIC ? "PUBLIC" :
									quote_identifier(GetUserNameFromId(item->ai_grantee, false))));
		any |= item->ai_grantee == ACL_ID_PUBLIC;
	}
	if (public && any)
		privileges_execute(psprintf("GRANT SELECT ON %s %s TO PUBLIC", kind, name));
}

/*
 * kapture_close_privileges(public name[]) returns void
 *
 * Revokes what ALTER DEFAULT PRIVILEGES has granted on the tables, views, sequences and
 * functions that the running script has made: it is meant for what users create, and whoever
 * wrote these tables could act as any owner of an attached table.  The relations in "public"
 * stay readable by everybody.  Only in scripts of the extension.
 */
Datum
kapture_close_privileges(PG_FUNCTION_ARGS)
{
	List	   *members;
	Datum	   *names;
	int			nnames;
	ListCell   *lc;

	if (!creating_extension)
		elog(ERROR, "not called by a script of an extension");
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, NULL, &nnames);
	members = kapture_catalog_members(CurrentExtensionObject, true);
	SPI_connect();
	foreach(lc, members)
	{
		const ObjectAddress *object = lfirst(lc);
		char	   *name = object->classId == RelationRelationId ? get_rel_name(object->objectId) : NULL;
		bool		public = false;

		for (int i = 0; name && i < nnames; i++)
			public |= strcmp(NameStr(*DatumGetName(names[i])), name) == 0;
		privileges_close_member(object, public);
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * Grants
 * ------------------------------------------------------------------------
 */

/* Is it a table of ours that is meant for nobody but the extension? */
static bool
privileges_is_internal(const ObjectAddress *object)
{
	static const char *const open[] = {"kapture_customers", "kapture_contacts", "kapture_refresh_run", "kapture_history"};
	char	   *name;

	if (object->classId != RelationRelationId || get_rel_relkind(object->objectId) != RELKIND_RELATION)
		return false;
	name = get_rel_name(object->objectId);
	for (int i = 0; i < lengthof(open); i++)
	{
		if (strcmp(open[i], name) == 0)
			return false;
	}
	return true;
}

/* Does a statement grant something on a table? */
static bool
privileges_is_granted(const GrantStmt *stmt, Oid relid)
{
	ListCell   *lc;

	foreach(lc, stmt->objects)
	{
		if (stmt->targtype == ACL_TARGET_ALL_IN_SCHEMA ?
			get_namespace_oid(strVal(lfirst(lc)), true) == get_rel_namespace(relid) :
			RangeVarGetRelid(lfirst(lc), NoLock, true) == relid)
			return true;
	}
	return false;
}

/* What a role holds on tables. */
typedef struct PrivilegesHolder
{
	Oid			grantee;
	bool		writes;
	char	   *tables;
} PrivilegesHolder;

/* Adds what others hold on a table to a list of PrivilegesHolder. */
static List *
privileges_add_holders(List *holders, const ObjectAddress *table)
{
	Oid			owner;
	Acl		   *acl = privileges_of_member(table, &owner);
	char	   *name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(table->objectId)), get_rel_name(table->objectId));

	for (int i = 0; acl && i < ACL_NUM(acl); i++)
	{
		const AclItem *item = &ACL_DAT(acl)[i];
		PrivilegesHolder *holder = NULL;
		ListCell   *lc;

		if (item->ai_grantee == owner || (item->ai_grantee != ACL_ID_PUBLIC && superuser_arg(item->ai_grantee)))
			continue;
		foreach(lc, holders)
		{
			if (((PrivilegesHolder *) lfirst(lc))->grantee == item->ai_grantee)
				holder = lfirst(lc);
		}
		if (holder == NULL)
		{
			holder = palloc0(sizeof(PrivilegesHolder));
			holder->grantee = item->ai_grantee;
			holders = lappend(holders, holder);
		}
		holder->writes |= (ACLITEM_GET_PRIVS(*item) & ~ACL_SELECT) != 0;
		holder->tables = holder->tables ? psprintf("%s, %s", holder->tables, name) : name;
	}
	return holders;
}

/*
 * To be called after a user's GRANT on tables: warns if it has opened tables of the
 * extension, as GRANT ... ON ALL TABLES IN SCHEMA does where the extension is in that schema.
 */
void
kapture_privileges_advise(const GrantStmt *stmt)
{
	List	   *holders = NIL;
	ListCell   *lc;

	if (!stmt->is_grant || stmt->objtype != OBJECT_TABLE)
		return;
	foreach(lc, kapture_catalog_members(get_extension_oid(KAPTURE_EXTENSION, false), false))
	{
		const ObjectAddress *object = lfirst(lc);

		if (privileges_is_internal(object) && privileges_is_granted(stmt, object->objectId))
			holders = privileges_add_holders(holders, object);
	}
	foreach(lc, holders)
	{
		const PrivilegesHolder *holder = lfirst(lc);
		const char *grantee = holder->grantee == ACL_ID_PUBLIC ? "PUBLIC" : quote_identifier(GetUserNameFromId(holder->grantee, false));

		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("tables of kapture_sync that are meant for nobody are open to role %s", grantee),
				 holder->writes ?
				 errdetail("Whoever writes these tables decides where the rows of all attached tables are sent, and sends calls with the key of any role.") :
				 errdetail("These tables have the keys of rows, and the bodies of failed requests and of calls, of all owners."),
				 errhint("Use REVOKE ALL ON %s FROM %s.", holder->tables, grantee)));
	}
}
