/*
 * view_tree.c
 *		What a view reads, and what reads a view.
 *
 * A view depends on the columns of tables, on functions and on other views; pg_depend
 * has these dependencies.  References to whole rows look there like references to the
 * table, so whole rows are looked for in the views' queries.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_rewrite.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "rewrite/rewriteHandler.h"
#include "rewrite/rewriteSupport.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/view_tree.h"

/* Called for each object that the rule of a view depends on. */
typedef void (*ViewVisit) (const FormData_pg_depend *depend, void *arg);

/* The rule that makes a relation a view; InvalidOid if it is no view. */
static Oid
view_rule(Oid relid)
{
	HeapTuple	tuple = SearchSysCache2(RULERELNAME, ObjectIdGetDatum(relid), PointerGetDatum(ViewSelectRuleName));
	Oid			rule = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		rule = ((Form_pg_rewrite) GETSTRUCT(tuple))->oid;
		ReleaseSysCache(tuple);
	}
	return rule;
}

static void
view_visit(Oid view, ViewVisit visit, void *arg)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(RewriteRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(view_rule(view)));
	scan = systable_beginscan(depend, DependDependerIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		visit((Form_pg_depend) GETSTRUCT(tuple), arg);
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
}

static void
view_add_relation(const FormData_pg_depend *depend, void *arg)
{
	List	  **relids = arg;

	if (depend->refclassid == RelationRelationId)
		*relids = list_append_unique_oid(*relids, depend->refobjid);
}

/*
 * Returns the oids of a view and of all relations that it reads, through the views
 * among them, in the current memory context.  Locks nothing.
 */
List *
kapture_view_tree(Oid view)
{
	List	   *tree = list_make1_oid(view);

	for (int i = 0; i < list_length(tree); i++)
	{
		if (get_rel_relkind(list_nth_oid(tree, i)) == RELKIND_VIEW)
			view_visit(list_nth_oid(tree, i), view_add_relation, &tree);
	}
	return tree;
}

/* The view that a rule makes; InvalidOid if it is no view's. */
static Oid
view_of_rule(Oid rule)
{
	Relation	rewrite = table_open(RewriteRelationId, AccessShareLock);
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			view = InvalidOid;

	ScanKeyInit(&key[0], Anum_pg_rewrite_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(rule));
	scan = systable_beginscan(rewrite, RewriteOidIndexId, true, NULL, 1, key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
		view = ((Form_pg_rewrite) GETSTRUCT(tuple))->ev_class;
	systable_endscan(scan);
	table_close(rewrite, AccessShareLock);
	return get_rel_relkind(view) == RELKIND_VIEW ? view : InvalidOid;
}

/*
 * Returns the oids of a view and of all views that read it, through others, too, in the
 * current memory context.  For a new view, that is itself alone.  Locks nothing.
 */
List *
kapture_view_users(Oid view)
{
	List	   *users = list_make1_oid(view);

	for (int i = 0; i < list_length(users); i++)
	{
		Relation	depend = table_open(DependRelationId, AccessShareLock);
		ScanKeyData key[2];
		SysScanDesc scan;
		HeapTuple	tuple;

		CHECK_FOR_INTERRUPTS();
		ScanKeyInit(&key[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(RelationRelationId));
		ScanKeyInit(&key[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(list_nth_oid(users, i)));
		scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2, key);
		while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		{
			Form_pg_depend found = (Form_pg_depend) GETSTRUCT(tuple);
			Oid			user = found->classid == RewriteRelationId ? view_of_rule(found->objid) : InvalidOid;

			if (OidIsValid(user))
				users = list_append_unique_oid(users, user);
		}
		systable_endscan(scan);
		table_close(depend, AccessShareLock);
	}
	return users;
}

/* What views read of a table. */
typedef struct ViewReads
{
	Oid			relid;
	List	   *attnums;
	bool		all;			/* a column is computed when it is read, from whichever others */
} ViewReads;

static void
view_add_column(const FormData_pg_depend *depend, void *arg)
{
	ViewReads  *reads = arg;

	if (depend->refclassid != RelationRelationId || depend->refobjid != reads->relid || depend->refobjsubid == 0)
		return;
	reads->attnums = list_append_unique_int(reads->attnums, depend->refobjsubid);
	reads->all |= get_attgenerated(reads->relid, depend->refobjsubid) == ATTRIBUTE_GENERATED_VIRTUAL;
}

static bool
view_has_whole_row(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var) && ((Var *) node)->varattno == InvalidAttrNumber)
		return true;
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, view_has_whole_row, context, 0);
	return expression_tree_walker(node, view_has_whole_row, context);
}

/*
 * Returns the numbers of the columns of a table that the views among the relations of
 * "tree" read, in the current memory context.  *all is set if any column may be read, as by
 * a virtual generated column, whose expression may be another one tomorrow; also if somebody
 * has locked a view: the view need not concern the current user, who does not wait for the
 * lock.
 */
List *
kapture_view_reads(List *tree, Oid relid, bool *all)
{
	ViewReads	reads = {relid, NIL, false};
	ListCell   *lc;

	*all = false;
	foreach(lc, tree)
	{
		Relation	view;

		if (get_rel_relkind(lfirst_oid(lc)) != RELKIND_VIEW)
			continue;
		view_visit(lfirst_oid(lc), view_add_column, &reads);
		view = ConditionalLockRelationOid(lfirst_oid(lc), AccessShareLock) ? try_relation_open(lfirst_oid(lc), NoLock) : NULL;
		*all |= view == NULL || view_has_whole_row((Node *) get_view_query(view), NULL);
		if (view)
			relation_close(view, AccessShareLock);
	}
	*all |= reads.all;
	return reads.attnums;
}

static void
view_note_function(const FormData_pg_depend *depend, void *arg)
{
	if (depend->refclassid == ProcedureRelationId && depend->refobjid >= FirstNormalObjectId &&
		func_volatile(depend->refobjid) != PROVOLATILE_IMMUTABLE)
		*(Oid *) arg = depend->refobjid;
}

/*
 * Returns a function that these views call and that may read more than the views do;
 * InvalidOid if there is none.
 */
Oid
kapture_view_unseen_function(List *tree)
{
	Oid			function = InvalidOid;
	ListCell   *lc;

	foreach(lc, tree)
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_VIEW)
			view_visit(lfirst_oid(lc), view_note_function, &function);
	}
	return function;
}
