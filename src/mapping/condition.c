/*
 * condition.c
 *		Conditions over rows of attached tables that users give as text.
 *
 * A condition becomes a part of a statement that runs as the table's owner
 * (row_io.c).  So it must be one expression, not text that ends an expression and
 * begins something else.  Its names are resolved as in the session, as those of a filter
 * are: an operator of a type in "public" must not give way to one of pg_catalog.
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"

#include "base/compat.h"
#include "mapping/condition.h"
#include "mapping/given.h"

/* What to do about a condition that is something else. */
#define CONDITION_HINT	"Write what would stand in a CHECK constraint of the table, such as 'city = ''Pune'''."

static bool
condition_has_subquery(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, SubLink) || raw_expression_tree_walker(node, condition_has_subquery, context);
}

/* Makes positions of syntax errors those in the condition, not in the user's statement. */
static void
condition_error_callback(void *arg)
{
	kapture_given_locate(arg);
}

/* The one expression that a text consists of; NULL if it is anything else. */
static Node *
condition_expression(const char *condition)
{
	ErrorContextCallback callback = {.previous = error_context_stack, .callback = condition_error_callback,
	.arg = unconstify(char *, condition)};
	List	   *statements;
	SelectStmt *select;
	SelectStmt *bare = makeNode(SelectStmt);

	error_context_stack = &callback;
	statements = raw_parser(condition, RAW_PARSE_PLPGSQL_EXPR);
	error_context_stack = callback.previous;
	if (list_length(statements) != 1 || !IsA(linitial_node(RawStmt, statements)->stmt, SelectStmt))
		return NULL;
	select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	bare->targetList = select->targetList;
	bare->limitOption = select->limitOption;
	bare->op = SETOP_NONE;
	if (!equal(select, bare) || list_length(select->targetList) != 1 ||
		linitial_node(ResTarget, select->targetList)->name != NULL)
		return NULL;
	return linitial_node(ResTarget, select->targetList)->val;
}

/* What to call an argument in a message, after "invalid". */
static char *
condition_name(const char *argument)
{
	return psprintf("value for argument \"%s\"", argument);
}

/*
 * Errors out unless a condition is one expression without subqueries (42601,
 * 0A000).  "argument" is the name of the argument that it was given in.
 */
void
kapture_condition_check(const char *argument, const char *condition)
{
	MemoryContext context = CurrentMemoryContext;
	Node	   *expression = NULL;

	PG_TRY();
	{
		expression = condition_expression(condition);
	}
	PG_CATCH();
	{
		kapture_given_rethrow(context, condition_name(argument), CONDITION_HINT);
	}
	PG_END_TRY();
	if (expression == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("argument \"%s\" must be one expression: %s", argument, condition),
				 errhint(CONDITION_HINT)));
	if (condition_has_subquery(expression, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("argument \"%s\" must not contain subqueries: %s", argument, condition),
				 errhint("Put the subquery into a function.")));
}

/*
 * kapture_condition_sql
 *		Returns the text of a condition, which has passed kapture_condition_check(), over a
 *		row of "rel" that is called "alias", in the current memory context.
 *
 * Names are resolved by the present search_path; in the result all are qualified.  Errors:
 * those of parsing.
 */
char *
kapture_condition_sql(Relation rel, const char *condition, const char *alias)
{
	ErrorContextCallback callback = {.previous = error_context_stack, .callback = condition_error_callback,
	.arg = unconstify(char *, condition)};
	ParseState *pstate = make_parsestate(NULL);
	Node	   *node = condition_expression(condition);

	error_context_stack = &callback;
	pstate->p_sourcetext = condition;
	addNSItemToQuery(pstate, addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true), false, true, true);
	node = transformWhereClause(pstate, node, EXPR_KIND_WHERE, "condition");
	assign_expr_collations(pstate, node);
	error_context_stack = callback.previous;
	free_parsestate(pstate);

	return kapture_given_deparse(node, deparse_context_for(alias, RelationGetRelid(rel)), true);
}

/*
 * kapture_condition_explain
 *		Words an error of kapture_condition_sql() as one of an argument, with a hint.
 */
void
kapture_condition_explain(ErrorData *error, const char *argument)
{
	kapture_given_explain(error, condition_name(argument), CONDITION_HINT);
}
