/*
 * follow_condition.c
 *		Conditions over a row of a followed table and one of an attached table.
 *
 * A condition sees the rows "source" and "target", and may have subqueries.  It is
 * parsed as a query on the target within one on the source; that way PostgreSQL can
 * deparse it, with all names qualified.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "storage/lockdefs.h"
#include "utils/guc.h"
#include "utils/ruleutils.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "follow/follow_condition.h"
#include "mapping/given.h"
#include "mapping/literal.h"

/* Bytes of a condition's text, which is parsed again whenever anybody renames something. */
#define CONDITION_MAX_LENGTH	65536

/* Makes positions in errors those in the condition. */
static void
condition_error_callback(void *arg)
{
	kapture_given_locate(arg);
	errcontext("argument \"condition\"");
}

/* The one expression that a text consists of; errors out if it is anything else. */
static Node *
condition_parse_raw(const char *condition)
{
	List	   *statements = raw_parser(condition, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *stmt = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	SelectStmt *bare = makeNode(SelectStmt);

	bare->targetList = stmt->targetList;
	bare->limitOption = stmt->limitOption;
	bare->op = SETOP_NONE;
	if (list_length(statements) != 1 || !equal(stmt, bare) || list_length(stmt->targetList) != 1 ||
		linitial_node(ResTarget, stmt->targetList)->name)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("argument \"condition\" is not one SQL expression: \"%s\"", condition),
				 errhint(KAPTURE_FOLLOW_HINT)));
	return linitial_node(ResTarget, stmt->targetList)->val;
}

/* A parse state in which a table is in scope under a name. */
static ParseState *
condition_scope(ParseState *parent, Relation rel, char *alias, const char *text)
{
	ParseState *pstate = make_parsestate(parent);
	ParseNamespaceItem *item;

	pstate->p_sourcetext = text;
	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, makeAlias(alias, NIL), true, true);
	addNSItemToQuery(pstate, item, false, true, true);
	return pstate;
}

/*
 * Parses a condition, with names resolved as in the session, in the current memory
 * context.  Errors: those of parsing; 42601 it is no expression, 42P17 it is volatile,
 * 54000 it is too long, and those of kapture_literal_check().
 */
Node *
kapture_follow_parse(Relation source, Relation target, const char *condition)
{
	ErrorContextCallback callback = {.callback = condition_error_callback, .arg = unconstify(char *, condition),
	.previous = error_context_stack};
	ParseState *outer;
	ParseState *inner;
	Node	   *raw;
	Node	   *node;

	error_context_stack = &callback;
	if (strlen(condition) > CONDITION_MAX_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("argument \"condition\" is too long"),
				 errdetail("It has %zu bytes; at most %d are allowed.", strlen(condition), CONDITION_MAX_LENGTH)));
	outer = condition_scope(NULL, source, "source", condition);
	inner = condition_scope(outer, target, "target", condition);
	raw = condition_parse_raw(condition);
	kapture_literal_check(raw, "argument \"condition\"");
	node = transformWhereClause(inner, raw, EXPR_KIND_WHERE, "condition");
	assign_expr_collations(inner, node);
	if (contain_volatile_functions(node))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("argument \"condition\" must not call volatile functions")));
	error_context_stack = callback.previous;
	return node;
}

/*
 * As kapture_follow_parse(), for a condition that a user gives: errors name it, and have
 * a hint.
 */
Node *
kapture_follow_take(Relation source, Relation target, const char *condition)
{
	MemoryContext context = CurrentMemoryContext;
	Node	   *node = NULL;

	PG_TRY();
	{
		node = kapture_follow_parse(source, target, condition);
	}
	PG_CATCH();
	{
		kapture_given_rethrow(context, "condition", KAPTURE_FOLLOW_HINT);
	}
	PG_END_TRY();
	return node;
}

/*
 * Checks the text of a condition that is to be kept, by kapture_literal_check(): in this
 * text, literals have the types that parsing has given them.
 */
void
kapture_follow_check_kept(const char *condition)
{
	int			nestlevel = kapture_catalog_text_settings();

	kapture_literal_check(condition_parse_raw(condition), "argument \"condition\"");
	AtEOXact_GUC(true, nestlevel);
}

/*
 * Returns the text of a condition over the row "source" and the target's row, which is
 * called "target_alias", in the current memory context.
 */
char *
kapture_follow_deparse(Node *condition, Oid source, Oid target, const char *target_alias)
{
	return kapture_given_deparse(condition, list_concat(deparse_context_for(target_alias, target),
														deparse_context_for("source", source)), true);
}

typedef struct ConditionWalk
{
	KaptureFollowReads *reads;
	int			depth;			/* of subqueries */
} ConditionWalk;

static bool
condition_walk(Node *node, void *context)
{
	ConditionWalk *walk = context;
	KaptureFollowReads *reads = walk->reads;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varlevelsup == walk->depth)
			reads->target = list_append_unique_int(reads->target, var->varattno);
		else if (var->varlevelsup == walk->depth + 1 && var->varattno == InvalidAttrNumber)
			reads->source_all = true;
		else if (var->varlevelsup == walk->depth + 1)
			reads->source = list_append_unique_int(reads->source, var->varattno);
		return false;
	}
	if (IsA(node, Query))
	{
		ListCell   *lc;

		foreach(lc, ((Query *) node)->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

			if (rte->rtekind == RTE_RELATION)
				reads->relations = list_append_unique_oid(reads->relations, rte->relid);
		}
		walk->depth++;
		(void) query_tree_walker((Query *) node, condition_walk, context, 0);
		walk->depth--;
		return false;
	}
	return expression_tree_walker(node, condition_walk, context);
}

/*
 * Fills in what a condition reads, in the current memory context.
 */
void
kapture_follow_find_reads(Node *condition, KaptureFollowReads *reads)
{
	ConditionWalk walk = {reads, 0};

	memset(reads, 0, sizeof(*reads));
	(void) condition_walk(condition, &walk);
}
