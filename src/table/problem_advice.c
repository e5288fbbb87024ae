/*
 * problem_advice.c
 *		Reports attachments that a command has left with a problem.
 *
 * Views, functions and columns may be dropped, or changed, though attached tables use
 * them, and a server may pass to another role: rows wait then, and kapture_status says
 * why.  Whoever gave the command is warned at once, as far as the tables are theirs.
 * What was a problem before is not reported again.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "base/catalog.h"
#include "base/owner_sql.h"
#include "cluster/guard.h"
#include "mapping/bystander.h"
#include "mapping/expression.h"
#include "table/binding.h"
#include "table/problem_advice.h"

/* Tables that are looked at for a command, and attachments of these: more would hold the command up, and kapture_status shows their problems, too. */
#define PROBLEM_TABLES		100

/* An attachment, and what its problem was; NULL: it had none. */
typedef struct ProblemBefore
{
	int32		attachment_id;
	char	   *problem;
	char	   *unfed;			/* names of fields without a column in its view; NULL: there are none */
} ProblemBefore;

/* Looks for the problem of an attachment. */
typedef struct ProblemLook
{
	const KaptureAttachment *att;
	MemoryContext context;
	char	   *problem;		/* in that context */
} ProblemLook;

/* Does ALTER TABLE drop a column, or change its type? */
static bool
problem_alters_column(Node *stmt)
{
	ListCell   *lc;

	foreach(lc, IsA(stmt, AlterTableStmt) ? ((AlterTableStmt *) stmt)->cmds : NIL)
	{
		AlterTableType type = lfirst_node(AlterTableCmd, lc)->subtype;

		if (type == AT_DropColumn || type == AT_AlterColumnType)
			return true;
	}
	return false;
}

/* Does ALTER TABLE drop what depends on a column, too? */
static bool
problem_cascades(Node *stmt)
{
	ListCell   *lc;

	foreach(lc, IsA(stmt, AlterTableStmt) ? ((AlterTableStmt *) stmt)->cmds : NIL)
	{
		if (lfirst_node(AlterTableCmd, lc)->behavior == DROP_CASCADE)
			return true;
	}
	return false;
}

/* May a DROP concern what mappings use? */
static bool
problem_drops(const DropStmt *stmt)
{
	/* CASCADE drops the views of a table */
	return kapture_expression_may_use(stmt->removeType) ||
		(stmt->removeType == OBJECT_TABLE && stmt->behavior == DROP_CASCADE);
}

/*
 * kapture_problem_may_come
 *		Tells whether attachments may have a problem because of a command.
 */
bool
kapture_problem_may_come(Node *stmt)
{
	switch (nodeTag(stmt))
	{
		case T_DropStmt:
			return problem_drops((DropStmt *) stmt);
		case T_AlterTableStmt:
			return problem_alters_column(stmt);
		case T_CreateFunctionStmt:
			return ((CreateFunctionStmt *) stmt)->replace;
		case T_AlterOwnerStmt:
			return ((AlterOwnerStmt *) stmt)->objectType == OBJECT_FOREIGN_SERVER;
		case T_ViewStmt:
		case T_DropOwnedStmt:
		case T_ReassignOwnedStmt:
			return true;
		default:
			return false;
	}
}

/* The oids of attached tables of the current user that a command may concern, PROBLEM_TABLES at most. */
static List *
problem_tables(Node *stmt)
{
	Oid			types[4] = {OIDOID, OIDOID, BOOLOID, INT4OID};
	Datum		values[4];
	bool		passes = IsA(stmt, AlterOwnerStmt) || IsA(stmt, ReassignOwnedStmt);
	Oid			only = IsA(stmt, AlterTableStmt) && !problem_cascades(stmt) ?
		RangeVarGetRelid(((AlterTableStmt *) stmt)->relation, NoLock, true) : InvalidOid;
	List	   *relids = NIL;
	char	   *texts;

	values[0] = ObjectIdGetDatum(GetUserId());
	values[1] = ObjectIdGetDatum(only);
	values[2] = BoolGetDatum(passes);
	values[3] = Int32GetDatum(PROBLEM_TABLES);
	texts = kapture_own_text("SELECT pg_catalog.string_agg(t.relation, ' ') FROM (SELECT DISTINCT a.relation::oid::text AS relation"
							 " FROM @.kapture_attachment AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.relation"
							 " WHERE pg_catalog.pg_has_role($1, c.relowner, 'USAGE') AND ($2 = 0 OR a.relation = $2)"
							 " AND ($3 OR a.filter IS NOT NULL OR a.source IS NOT NULL"
							 " OR EXISTS (SELECT FROM @.kapture_column AS k WHERE k.attachment_id = a.attachment_id AND k.expression IS NOT NULL))"
							 " ORDER BY 1 LIMIT $4) AS t",
							 lengthof(types), types, values);
	for (char *text = texts ? strtok(texts, " ") : NULL; text; text = strtok(NULL, " "))
		relids = lappend_oid(relids, (Oid) strtoul(text, NULL, 10));
	return relids;
}

static void
problem_do_look(void *arg)
{
	ProblemLook *look = arg;
	int			nestlevel = NewGUCNestLevel();
	char	   *problem;

	kapture_bystander_hurry();
	problem = kapture_binding_problem(look->att);
	look->problem = problem ? MemoryContextStrdup(look->context, problem) : NULL;
	AtEOXact_GUC(false, nestlevel);
}

/* Finds the problem of an attachment; false: the problem cannot be found out now. */
static bool
problem_look(const KaptureAttachment *att, char **problem)
{
	ProblemLook look = {att, CurrentMemoryContext, NULL};
	ErrorData  *error = kapture_guard_session_look(problem_do_look, &look);

	*problem = look.problem;
	if (error)
		FreeErrorData(error);
	return error == NULL;
}

/* The names of the fields that the view of an attachment has no columns for; NULL: there are none. */
static char *
problem_unfed(const KaptureAttachment *att)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; OidIsValid(att->source) && i < att->ncolumns; i++)
	{
		const KaptureMappedColumn *col = &att->columns[i];

		if (col->name && get_attnum(att->source, col->name) == InvalidAttrNumber)
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", col->field);
	}
	return names.len > 0 ? names.data : NULL;
}

/* The attachments of a table; NIL also if somebody has locked it. */
static List *
problem_attachments(Oid relid)
{
	List	   *result = NIL;
	Relation	rel;
	ListCell   *lc;

	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return NIL;
	rel = try_relation_open(relid, NoLock);
	foreach(lc, rel ? kapture_catalog_attachments(rel) : NIL)
	{
		if (((KaptureAttachment *) lfirst(lc))->root == relid)
			result = lappend(result, lfirst(lc));
	}
	if (rel)
		relation_close(rel, NoLock);
	/* kept, it might have a command on the table wait for another one like it, and that for this one */
	UnlockRelationOid(relid, AccessShareLock);
	return result;
}

/*
 * kapture_problem_before
 *		Returns what kapture_problem_after() wants, before a command for which
 *		kapture_problem_may_come() holds; in the current memory context.
 */
List *
kapture_problem_before(Node *stmt)
{
	List	   *result = NIL;
	List	   *parsed = NIL;
	ListCell   *lc;

	foreach(lc, problem_tables(stmt))
	{
		ListCell   *la;

		foreach(la, problem_attachments(lfirst_oid(lc)))
		{
			const KaptureAttachment *att = lfirst(la);
			ProblemBefore *before;

			CHECK_FOR_INTERRUPTS();
			if (list_length(result) >= PROBLEM_TABLES)
				return result;
			/* a superuser has the rights of all owners, of whom one may have given much SQL */
			if (!kapture_bystander_may_parse(&parsed, kapture_catalog_owner(att->root), kapture_expression_bytes(att, NULL)) ||
				(kapture_expression_is_any(att) && !kapture_expression_is_understood(att, NULL)))
				continue;
			before = palloc(sizeof(ProblemBefore));
			before->attachment_id = att->id;
			before->unfed = problem_unfed(att);
			if (problem_look(att, &before->problem))
				result = lappend(result, before);
		}
	}
	return result;
}

/* What was known of an attachment before; NULL: nothing. */
static const ProblemBefore *
problem_known(List *before, int32 attachment_id)
{
	ListCell   *lc;

	foreach(lc, before)
	{
		const ProblemBefore *known = lfirst(lc);

		if (known->attachment_id == attachment_id)
			return known;
	}
	return NULL;
}

/* Is this something else than before? */
static bool
problem_is_new(const char *problem, const char *known)
{
	return problem && (known == NULL || strcmp(known, problem) != 0);
}

/* Warns of the problem of an attachment, and of what its view no longer feeds, if that is new. */
static void
problem_report(const KaptureAttachment *att, List *before)
{
	const ProblemBefore *known = problem_known(before, att->id);
	char	   *unfed = problem_unfed(att);
	char	   *problem;

	if (known && problem_is_new(unfed, known->unfed))
		ereport(WARNING,
				(errmsg("fields that are no longer sent for table %s: %s", kapture_catalog_title(att), unfed),
				 errdetail("View %s, which the values come from, has no columns for them.", att->source_name),
				 errhint("Add the columns to the view, use kapture_alter(), or roll back.")));
	if (known == NULL || !problem_look(att, &problem) || !problem_is_new(problem, known->problem))
		return;
	ereport(WARNING,
			(errmsg("rows of attached table %s are not sent from now on", kapture_catalog_title(att)),
			 errdetail("The reason is: %s. What changes waits.", problem),
			 errhint("%s Or roll back.", kapture_binding_advice(att))));
}

/*
 * kapture_problem_after
 *		Warns of attachments that a command has left with a problem; "before" is what
 *		kapture_problem_before() returned.
 */
void
kapture_problem_after(Node *stmt, List *before)
{
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, problem_tables(stmt))
	{
		ListCell   *la;

		foreach(la, problem_attachments(lfirst_oid(lc)))
			problem_report(lfirst(la), before);
	}
}
