/*
 * privileges.c
 *		Keeps privileges on functions that an update of the extension replaces.
 *
 * A function whose arguments or result change is another one, and begins with the
 * privileges that new functions have: what was granted would be lost, and what was
 * revoked would be open to everybody.  GRANT in an update would not help: privileges that
 * a script of an extension grants count as the extension's own, so that no dump has them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(kapture_keep_privileges);

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
