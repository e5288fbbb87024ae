/*
 * condition.c
 *		Conditions over rows of attached tables that users give as text.
 *
 * A condition becomes a part of a statement that runs as the table's owner
 * (row_io.c).  So it must be one expression, and nothing that ends it and begins
 * something else; what it means is found out when the statement is analysed.
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "parser/parser.h"

#include "base/compat.h"
#include "mapping/condition.h"

/* What a user gave, for errors. */
typedef struct ConditionSubject
{
	const char *argument;		/* what it is called */
	char	   *sql;			/* a query of it */
} ConditionSubject;

#define CONDITION_HINT \
	"Write what would stand in a CHECK constraint of the table, such as 'city = ''Pune'''."

/* A syntax error is in the condition, not in the query that gives it. */
static void
condition_error_callback(void *arg)
{
	ConditionSubject *subject = arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(subject->sql);
		errhint(CONDITION_HINT);
	}
	errcontext("argument \"%s\"", subject->argument);
}

static bool
condition_has_subquery(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, SubLink) || raw_expression_tree_walker(node, condition_has_subquery, context);
}

/* The expression of "SELECT (expression)"; NULL if it is anything else. */
static Node *
condition_expression(List *statements)
{
	SelectStmt *select;
	SelectStmt *bare = makeNode(SelectStmt);

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

/*
 * Errors out unless a condition is one expression without subqueries (42601,
 * 0A000).  "argument" is what it is called.
 */
void
kapture_condition_check(const char *argument, const char *condition)
{
	/* a comment at its end must not hide what follows */
	ConditionSubject subject = {argument, psprintf("SELECT (%s\n)", condition)};
	ErrorContextCallback callback = {.previous = error_context_stack, .callback = condition_error_callback, .arg = &subject};
	Node	   *expression;

	error_context_stack = &callback;
	expression = condition_expression(raw_parser(subject.sql, RAW_PARSE_DEFAULT));
	error_context_stack = callback.previous;
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
