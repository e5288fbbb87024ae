/*
 * owner_sql.c
 *		Statements on the extension's own tables, for callers without rights
 *		on them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/acl.h"
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
	List	   *members;
	ListCell   *lc;
	bool		may_run = true;

	if (!OidIsValid(relid))
		return true;
	owner = kapture_own_role();
	if (superuser_arg(owner))
		return true;
	if (object_aclcheck(NamespaceRelationId, get_rel_namespace(relid), owner, ACL_USAGE) != ACLCHECK_OK)
		return false;
	members = kapture_catalog_members(get_extension_oid(KAPTURE_EXTENSION, true), false);
	foreach(lc, members)
	{
		const ObjectAddress *member = lfirst(lc);
		AclMode		wanted = ACL_SELECT | ACL_INSERT | ACL_UPDATE | ACL_DELETE;

		if (member->classId != RelationRelationId || get_rel_relkind(member->objectId) != RELKIND_RELATION)
			continue;
		/* policies let nobody but a table's owner write it */
		relid = member->objectId;
		if (!object_ownercheck(RelationRelationId, relid, owner) ||
			pg_class_aclmask(relid, owner, wanted, ACLMASK_ALL) != wanted)
			may_run = false;
	}
	list_free_deep(members);
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
