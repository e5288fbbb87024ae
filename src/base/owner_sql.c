/*
 * owner_sql.c
 *		Statements on the extension's own tables, for callers without rights
 *		on them.
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
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "base/user_code.h"

/*
 * Returns the owner of the extension's tables.
 */
Oid
kapture_own_role(void)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "the tables of kapture_sync are missing");
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Returns the tables of the extension, as a list of oids in the current memory context. */
static List *
own_tables(void)
{
	Oid			extension = get_extension_oid(KAPTURE_EXTENSION, true);
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *tables = NIL;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(ExtensionRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(extension));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, lengthof(keys), keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		if (form->deptype == DEPENDENCY_EXTENSION && form->classid == RelationRelationId &&
			get_rel_relkind(form->objid) == RELKIND_RELATION)
			tables = lappend_oid(tables, form->objid);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return tables;
}

/*
 * Has the owner of the extension's tables the rights that statements on them need?  A superuser always has.  The
 * tables, or some of them, or their schema may have been given to somebody else since.  Then these statements fail,
 * and whoever gives a command of PostgreSQL's that the extension only follows is not to be the one who bears that.
 */
bool
kapture_own_may_run(void)
{
	Oid			relid = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	Oid			owner;
	List	   *tables;
	ListCell   *lc;
	bool		may_run = true;

	if (!OidIsValid(relid))
		return true;
	owner = kapture_own_role();
	if (superuser_arg(owner))
		return true;
	if (object_aclcheck(NamespaceRelationId, get_rel_namespace(relid), owner, ACL_USAGE) != ACLCHECK_OK)
		return false;
	tables = own_tables();
	foreach(lc, tables)
	{
		AclMode		wanted = ACL_SELECT | ACL_INSERT | ACL_UPDATE | ACL_DELETE;

		/* policies let nobody but a table's owner write it */
		relid = lfirst_oid(lc);
		if (!object_ownercheck(RelationRelationId, relid, owner) ||
			pg_class_aclmask(relid, owner, wanted, ACLMASK_ALL) != wanted)
			may_run = false;
	}
	list_free(tables);
	return may_run;
}

/* A statement, and its result. */
typedef struct OwnCall
{
	const char *sql;
	int			nargs;
	Oid		   *types;
	Datum	   *values;
	MemoryContext context;
	char	  **text;			/* NULL: not asked for */
	uint64		processed;
} OwnCall;

/*
 * Runs a statement; if asked for, *text is the first value of its result.
 *
 * The extension's tables are its catalog, and catalogs are read and written as they are now, also
 * in a transaction that keeps its snapshot (REPEATABLE READ).  By that snapshot, the statement would
 * not find the entries of a table that was attached since, and nobody would notice that it has
 * changed nothing.
 */
static void
own_call(void *arg)
{
	OwnCall    *call = arg;
	char	   *sql;
	int			rc;

	SPI_connect();
	sql = kapture_catalog_qualify(call->sql);
	if (IsolationUsesXactSnapshot())
		rc = kapture_user_code_execute_plan(kapture_user_code_prepare(sql, call->nargs, call->types, 0),
											call->values, GetLatestSnapshot());
	else
		rc = kapture_user_code_execute(sql, call->nargs, call->types, call->values, NULL, false);
	if (rc < 0)
		elog(ERROR, "statement failed: %s", SPI_result_code_string(rc));
	call->processed = SPI_processed;
	if (call->text && SPI_processed > 0)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		*call->text = value ? MemoryContextStrdup(call->context, value) : NULL;
	}
	SPI_finish();
}

/*
 * Runs work(arg), which reads the extension's tables, as their owner.  No code of roles
 * that hold rights on these tables may run as that owner (user_code.c).  Errors: those of
 * the work.
 */
void
kapture_own_run(void (*work) (void *arg), void *arg)
{
	Oid			userid;
	int			sec_context;
	int			nestlevel;
	Oid			owner = kapture_own_role();

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	nestlevel = NewGUCNestLevel();
	kapture_guc_pin_search_path();
	kapture_user_code_run(NULL, NIL, work, arg);
	AtEOXact_GUC(false, nestlevel);
	SetUserIdAndSecContext(userid, sec_context);
}

static uint64
own_execute(const char *sql, int nargs, Oid *types, Datum *values, char **text)
{
	OwnCall		call = {sql, nargs, types, values, CurrentMemoryContext, text};

	kapture_own_run(own_call, &call);
	return call.processed;
}

/*
 * Runs a statement, in which "@." stands for the extension's schema, as the
 * owner of the extension's tables.  All arguments are not null.  Returns the
 * rows processed; errors as the statement does.
 *
 * The caller has checked that its user may do this.
 */
uint64
(kapture_own_execute) (const char *sql, int nargs, Oid *types, Datum *values)
{
	return own_execute(sql, nargs, types, values, NULL);
}

/*
 * As kapture_own_execute(), for a query with one result: returns it as text in the
 * current memory context; NULL if it is null or there is none.
 */
char *
(kapture_own_text) (const char *sql, int nargs, Oid *types, Datum *values)
{
	char	   *text = NULL;

	(void) own_execute(sql, nargs, types, values, &text);
	return text;
}
