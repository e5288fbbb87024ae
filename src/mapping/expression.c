/*
 * expression.c
 *		Expressions over the rows of attached tables.
 *
 * A field of Kapture's may get its value from an expression over the columns of a
 * row, and a filter selects the rows that are sent.  Both are given as SQL and parsed
 * like a CHECK: one row in scope, names resolved as in the session that attaches the
 * table.  They are kept as text in which every name is qualified, so that a dump
 * includes them; they are no objects with dependencies, so that no migration of the
 * application fails because of them.
 *
 * The texts follow renames: they are parsed before a command that renames something,
 * and written again after it.  A text that can no longer be parsed, because a column
 * or a function was dropped, is a problem of the table: its rows wait.
 *
 * Nothing is evaluated here, and nothing is parsed in the transaction of a user who
 * changes rows: which columns an expression reads is stored with it.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"

#include "base/compat.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "cluster/guard.h"
#include "mapping/bystander.h"
#include "mapping/expression.h"
#include "mapping/given.h"
#include "mapping/literal.h"

/* Bytes of an expression's text. */
#define EXPRESSION_MAX_LENGTH	65536

/* The expression that is being parsed, for its errors. */
typedef struct ExpressionSubject
{
	const char *text;
	const char *field;			/* NULL: it is the filter */
} ExpressionSubject;

/* What to call an expression in messages. */
static char *
expression_name(const char *field)
{
	return field ? psprintf("the expression for the Kapture field \"%s\"", field) : pstrdup("the filter");
}

/* Makes positions in errors those in the expression, not in the user's statement. */
static void
expression_error_callback(void *arg)
{
	ExpressionSubject *subject = arg;

	kapture_given_locate(subject->text);
	if (subject->field)
		errcontext("expression for the Kapture field \"%s\"", subject->field);
	else
		errcontext("argument \"filter\"");
}

/* ------------------------------------------------------------------------
 * Parsing
 * ------------------------------------------------------------------------
 */

/* Refuses a long text: it is parsed whenever anybody renames something, who waits for that. */
static void
expression_check_length(const ExpressionSubject *subject)
{
	if (strlen(subject->text) > EXPRESSION_MAX_LENGTH)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too long", expression_name(subject->field)),
				 errdetail("It has %zu bytes; at most %d are allowed.", strlen(subject->text), EXPRESSION_MAX_LENGTH),
				 errhint("Put it into a function.")));
}

/* The one expression that a text consists of; errors out if it is anything else. */
static Node *
expression_parse_raw(const ExpressionSubject *subject)
{
	List	   *statements = raw_parser(subject->text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *stmt = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	ResTarget  *target;

	if (list_length(statements) != 1 || !IsA(stmt, SelectStmt) || list_length(stmt->targetList) != 1 ||
		stmt->distinctClause || stmt->intoClause || stmt->fromClause || stmt->whereClause ||
		stmt->groupClause || stmt->havingClause || stmt->windowClause || stmt->valuesLists ||
		stmt->sortClause || stmt->limitOffset || stmt->limitCount || stmt->lockingClause ||
		stmt->withClause || stmt->op != SETOP_NONE ||
		(target = linitial_node(ResTarget, stmt->targetList))->name || target->indirection)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s is not one SQL expression: \"%s\"", expression_name(subject->field), subject->text),
				 errhint("Give an expression over the columns of a row, as in a CHECK constraint, without WHERE or SELECT.")));
	return target->val;
}

/* Refuses subqueries, aggregates and the like, which would look beyond the row. */
static void
expression_check_scope(const ParseState *pstate, const ExpressionSubject *subject)
{
	const char *what = pstate->p_hasSubLinks ? "a subquery" :
		pstate->p_hasAggs ? "an aggregate function" :
		pstate->p_hasWindowFuncs ? "a window function" :
		pstate->p_hasTargetSRFs ? "a set-returning function" : NULL;

	if (what)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s must not contain %s", expression_name(subject->field), what),
				 errdetail("It is evaluated for one row, and sees no others."),
				 errhint("Make a view that shows the value, with the primary key of the table, and name it in argument \"source\".")));
}

/*
 * Parses an expression over the rows of a table.  The result refers to columns by number,
 * and to functions by oid.  Errors: those of parsing.
 */
static Node *
expression_parse(Relation rel, const char *text, const char *field)
{
	ExpressionSubject subject = {text, field};
	ErrorContextCallback callback = {.callback = expression_error_callback, .arg = &subject, .previous = error_context_stack};
	ParseState *pstate = make_parsestate(NULL);
	ParseNamespaceItem *item;
	Node	   *raw;
	Node	   *node;

	error_context_stack = &callback;
	expression_check_length(&subject);
	pstate->p_sourcetext = text;
	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true);
	addNSItemToQuery(pstate, item, false, true, true);
	raw = expression_parse_raw(&subject);
	kapture_literal_check(raw, expression_name(field));
	node = transformExpr(pstate, raw, EXPR_KIND_SELECT_TARGET);
	expression_check_scope(pstate, &subject);
	if (field == NULL)
		node = coerce_to_boolean(pstate, node, "filter");
	else if (exprType(node) == UNKNOWNOID)
		node = coerce_to_common_type(pstate, node, TEXTOID, "expression");
	assign_expr_collations(pstate, node);
	error_context_stack = callback.previous;
	free_parsestate(pstate);
	return node;
}

/* The text of an expression over a row of a relation, by kapture_given_deparse(). */
static char *
expression_deparse(Node *node, const char *alias, Oid relid, bool prefix)
{
	return kapture_given_deparse(node, deparse_context_for(alias, relid), prefix);
}

/* ------------------------------------------------------------------------
 * What a user gives
 * ------------------------------------------------------------------------
 */

/* What an expression depends on, besides the row. */
typedef struct ExpressionWalk
{
	const char *field;
	bool		time;			/* now() and its like */
	Oid			function;		/* a STABLE one outside of pg_catalog */
} ExpressionWalk;

static bool
expression_tells_time(Oid funcid)
{
	return funcid == F_NOW || funcid == F_TRANSACTION_TIMESTAMP || funcid == F_STATEMENT_TIMESTAMP ||
		funcid == F_AGE_TIMESTAMPTZ || funcid == F_AGE_TIMESTAMP;
}

static bool
expression_walk_function(Oid funcid, void *context)
{
	ExpressionWalk *walk = context;
	char		volatility = func_volatile(funcid);

	if (volatility == PROVOLATILE_VOLATILE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("%s must not call the volatile function %s", expression_name(walk->field), format_procedure(funcid)),
				 errdetail("The value must follow from the row: only functions that are IMMUTABLE or STABLE can be called."),
				 errhint("Keep such a value in a column, or use another function.")));
	if (funcid < FirstNormalObjectId && !kapture_user_code_is_harmless(funcid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("%s must not call function %s", expression_name(walk->field), format_procedure(funcid)),
				 errdetail("EXECUTE on it is not granted to PUBLIC, or it runs what its arguments name.")));
	if (expression_tells_time(funcid))
		walk->time = true;
	else if (volatility == PROVOLATILE_STABLE && get_func_namespace(funcid) != PG_CATALOG_NAMESPACE)
		walk->function = funcid;
	return false;
}

static bool
expression_walk(Node *node, void *context)
{
	ExpressionWalk *walk = context;

	if (node == NULL)
		return false;
	if (IsA(node, NextValueExpr))
		(void) expression_walk_function(F_NEXTVAL, context);
	if (IsA(node, SQLValueFunction) && ((SQLValueFunction *) node)->op <= SVFOP_LOCALTIMESTAMP_N)
		walk->time = true;
	(void) check_functions_in_node(node, expression_walk_function, context);
	return expression_tree_walker(node, expression_walk, context);
}

/* Refuses functions that must not be called, and reports if changes of the value will not be noticed. */
static void
expression_check_functions(Node *node, const char *field)
{
	ExpressionWalk walk = {.field = field};

	(void) expression_walk(node, &walk);
	if (walk.time)
		ereport(NOTICE,
				(errmsg("%s depends on the time", expression_name(field)),
				 errdetail("Its value changes without a change of the row, which is not noticed."),
				 field ? errhint("Have the rows sent again on a schedule, by kapture_resync().") :
				 errhint("On a schedule, use kapture_resync() for rows that have come in, and kapture_touch() for those that have left.")));
	else if (OidIsValid(walk.function))
		ereport(NOTICE,
				(errmsg("%s calls function %s, which may read more than the row",
						expression_name(field), format_procedure(walk.function)),
				 errdetail("Changes of what else it reads are not noticed."),
				 errhint("If it reads nothing else, declare it IMMUTABLE.")));
}

/* Fills in the names of the columns that an expression reads. */
static void
expression_take_reads(KaptureGivenExpression *given, Node *node, Relation rel, const char *field)
{
	Bitmapset  *attnums = NULL;

	pull_varattnos(node, 1, &attnums);
	for (int i = -1; (i = bms_next_member(attnums, i)) >= 0;)
	{
		AttrNumber	attnum = i + FirstLowInvalidHeapAttributeNumber;
		Form_pg_attribute attr;

		if (attnum < 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s must not read system columns", expression_name(field))));
		if (attnum == 0)
		{
			given->reads_all = true;
			continue;
		}
		attr = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
		if (attr->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s must not read column \"%s\"", expression_name(field), NameStr(attr->attname)),
					 errdetail("It is computed when it is read, so no trigger sees it change."),
					 errhint("Make it a stored generated column, or write the columns that it is made of.")));
		given->reads = lappend(given->reads, pstrdup(NameStr(attr->attname)));
	}
}

/* As expression_parse(), for a text that a user gives: errors name it, and have a hint. */
static Node *
expression_parse_given(Relation rel, const char *text, const char *field)
{
	MemoryContext context = CurrentMemoryContext;
	Node	   *node = NULL;

	PG_TRY();
	{
		node = expression_parse(rel, text, field);
	}
	PG_CATCH();
	{
		if (field)
			kapture_given_rethrow(context, psprintf("expression for the Kapture field \"%s\"", field),
								  "Give an expression over the columns of a row in argument \"columns\", as in a CHECK constraint; texts are written in single quotes.");
		kapture_given_rethrow(context, "filter",
							  "Give a condition on the columns of a row in argument \"filter\", as in a CHECK constraint; texts are written in single quotes.");
	}
	PG_END_TRY();
	return node;
}

/* Is a condition true for no row, as far as its form tells?  Nothing is evaluated. */
static bool
expression_is_never(Node *node)
{
	ListCell   *lc;

	node = strip_implicit_coercions(node);
	if (IsA(node, Const))
		return ((Const *) node)->constisnull || (exprType(node) == BOOLOID && !DatumGetBool(((Const *) node)->constvalue));
	if (IsA(node, BoolExpr) && ((BoolExpr *) node)->boolop != NOT_EXPR)
	{
		bool		is_and = ((BoolExpr *) node)->boolop == AND_EXPR;

		foreach(lc, ((BoolExpr *) node)->args)
		{
			if (expression_is_never(lfirst(lc)) == is_and)
				return is_and;
		}
		return !is_and;
	}
	if (!IsA(node, OpExpr) || !op_strict(((OpExpr *) node)->opno))
		return false;
	foreach(lc, ((OpExpr *) node)->args)
	{
		Node	   *arg = strip_implicit_coercions(lfirst(lc));

		if (IsA(arg, Const) && ((Const *) arg)->constisnull)
			return true;
	}
	return false;
}

/* Reports a filter that lets nothing through, such as "city = NULL". */
static void
expression_advise_filter(Node *node)
{
	if (expression_is_never(node))
		ereport(NOTICE,
				(errmsg("the filter is true for no row"),
				 errdetail("Nothing is sent for a row for which it is not true, and a comparison with NULL never is."),
				 errhint("To compare with NULL, write IS NULL or IS NOT NULL.")));
}

/*
 * Takes an expression over the rows of a table that a user gives for a field, or, if
 * "field" is NULL, as filter, in the current memory context.  Names are resolved as in the
 * session.  Errors: those of parsing; 0A000 it looks beyond the row, 42P17 it calls
 * volatile functions, 42501 it calls functions that must not run as the table's owner,
 * 54000 it is too long, and those of kapture_literal_check().
 */
KaptureGivenExpression *
kapture_expression_take(Relation rel, const char *text, const char *field)
{
	KaptureGivenExpression *given = palloc0(sizeof(KaptureGivenExpression));
	Node	   *node = expression_parse_given(rel, text, field);
	int			nestlevel;

	expression_check_functions(node, field);
	if (field == NULL)
		expression_advise_filter(node);
	expression_take_reads(given, node, rel, field);
	given->type = exprType(node);
	given->text = expression_deparse(node, RelationGetRelationName(rel), RelationGetRelid(rel), false);
	/* in this text, literals have the types that parsing has given them */
	nestlevel = kapture_catalog_text_settings();
	kapture_literal_check(expression_parse_raw(&(ExpressionSubject) {given->text, field}), expression_name(field));
	AtEOXact_GUC(true, nestlevel);
	return given;
}

/*
 * Returns the names of the columns that an expression reads as the text of an array,
 * NULL if it reads the whole row, in the current memory context.
 */
char *
kapture_expression_reads(const KaptureGivenExpression *expression)
{
	Datum	   *names = palloc(sizeof(Datum) * (list_length(expression->reads) + 1));
	int			n = 0;
	ListCell   *lc;

	if (expression->reads_all)
		return NULL;
	foreach(lc, expression->reads)
		names[n++] = CStringGetTextDatum(lfirst(lc));
	return OidOutputFunctionCall(F_ARRAY_OUT,
								 PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT)));
}

/* ------------------------------------------------------------------------
 * What is kept
 * ------------------------------------------------------------------------
 */

/*
 * Tells whether an attachment has expressions, or a filter.
 */
bool
kapture_expression_is_any(const KaptureAttachment *att)
{
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (att->columns[i].expression)
			return true;
	}
	return att->filter != NULL;
}

/* Does the text of an expression (or NULL) contain a name?  With NULL, any does. */
static bool
expression_names(const KaptureExpression *expression, const char *name)
{
	return expression && (name == NULL || strstr(expression->text, name));
}

/*
 * kapture_expression_bytes
 *		Returns how long the texts of an attachment's expressions and filter are together, of
 *		those that contain "name" (NULL: of all).
 */
Size
kapture_expression_bytes(const KaptureAttachment *att, const char *name)
{
	Size		bytes = expression_names(att->filter, name) ? strlen(att->filter->text) : 0;

	for (int i = 0; i < att->ncolumns; i++)
	{
		if (expression_names(att->columns[i].expression, name))
			bytes += strlen(att->columns[i].expression->text);
	}
	return bytes;
}

/* For expression_do_prepare(). */
typedef struct ExpressionPrepare
{
	const KaptureAttachment *att;
	const char *name;			/* only expressions whose texts contain it are parsed; NULL: all */
	bool		again;			/* the expressions have been parsed before */
	bool		hurry;			/* a user waits whom the table does not concern */
	const char *field;			/* of the expression that is being parsed */
} ExpressionPrepare;

/* The relation whose rows an expression is over. */
static Oid
expression_relation(const KaptureAttachment *att, const KaptureExpression *expression)
{
	return att->source_name && expression != att->filter ? att->source : att->root;
}

/* Parses one expression as it is kept, into the memory of its attachment (not if it was parsed before). */
static void
expression_prepare(Relation rel, KaptureExpression *expression, const ExpressionPrepare *prepare)
{
	MemoryContext parsing;
	MemoryContext old;
	Node	   *node;

	if (!expression_names(expression, prepare->name))
		return;
	CHECK_FOR_INTERRUPTS();
	parsing = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync parsing", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(parsing);
	if (prepare->hurry)
		kapture_bystander_check_names(expression->text);
	node = expression_parse(rel, expression->text, prepare->field);
	MemoryContextSwitchTo(GetMemoryChunkContext(expression));
	if (!prepare->again)
		expression->node = copyObject(node);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(parsing);
}

/*
 * Parses the expressions of an attachment, as the table's owner.  That runs no code
 * except the input functions of types.
 */
static void
expression_do_prepare(void *arg)
{
	ExpressionPrepare *prepare = arg;
	const KaptureAttachment *att = prepare->att;
	int			nestlevel = kapture_catalog_text_settings();
	Relation	rel;
	Relation	source;
	Oid			userid;
	int			sec_context;

	if (prepare->hurry)
		kapture_bystander_hurry();
	rel = relation_open(att->root, AccessShareLock);
	source = att->source_name ? relation_open(att->source, AccessShareLock) : rel;
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(rel->rd_rel->relowner, sec_context | SECURITY_RESTRICTED_OPERATION);
	kapture_guc_pin_search_path();
	for (int i = 0; i < att->ncolumns; i++)
	{
		prepare->field = att->columns[i].field;
		if (att->columns[i].expression)
			expression_prepare(source, att->columns[i].expression, prepare);
	}
	prepare->field = NULL;
	if (att->filter)
		expression_prepare(rel, att->filter, prepare);
	AtEOXact_GUC(false, nestlevel);
	SetUserIdAndSecContext(userid, sec_context);
	if (source != rel)
		relation_close(source, NoLock);
	relation_close(rel, NoLock);
}

/* Tries to parse the expressions of an attachment; keeps the problem if that fails. */
static void
expression_try(const KaptureAttachment *att, bool again)
{
	ExpressionPrepare prepare = {.att = att, .again = again};
	ErrorData  *error = kapture_guard_step(expression_do_prepare, &prepare);

	if (error && kapture_guard_will_pass(error))
		ReThrowError(error);
	att->computing->parsed = true;
	if (error)
		att->computing->problem = MemoryContextStrdup(GetMemoryChunkContext(att->computing),
													  psprintf("%s of table \"%s\" cannot be evaluated: %s",
															   expression_name(prepare.field), get_rel_name(att->root), error->message));
}

/*
 * kapture_expression_problem
 *		Returns why the expressions of an attachment cannot be evaluated, in its
 *		memory; NULL if they can, or if it has none.  Needs a transaction, unless it
 *		has none.  Errors: those that are not about the expressions, such as a cancel.
 */
char *
kapture_expression_problem(const KaptureAttachment *att)
{
	if (!att->computing->parsed && kapture_expression_is_any(att))
		expression_try(att, false);
	return att->computing->problem;
}

/*
 * kapture_expression_recheck
 *		After an error of a row: has something that an expression uses been dropped
 *		just now?  Then it is a problem of the table.
 */
void
kapture_expression_recheck(const KaptureAttachment *att)
{
	if (att->computing->parsed && att->computing->problem == NULL)
		expression_try(att, true);
}

/*
 * kapture_expression_sql
 *		Returns an expression of an attachment, over columns of a row "r", or "s" of
 *		its source, in parentheses, in the current memory context.  Errors (55000) if it cannot be
 *		evaluated.
 */
char *
kapture_expression_sql(const KaptureAttachment *att, const KaptureExpression *expression)
{
	char	   *problem = kapture_expression_problem(att);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_internal("%s", problem)));
	return psprintf("(%s)", expression_deparse((Node *) expression->node,
											   expression_relation(att, expression) == att->root ? "r" : "s",
											   expression_relation(att, expression), true));
}

/* ------------------------------------------------------------------------
 * Following what is renamed
 * ------------------------------------------------------------------------
 */

/* An expression, as it was before a command that renames something. */
typedef struct ExpressionText
{
	Oid			relid;
	Oid			root;			/* the attached table */
	int32		attachment_id;
	int			bit;			/* -1: the filter, -2: the source */
	char	   *text;
	Node	   *node;
} ExpressionText;

/*
 * kapture_expression_relations
 *		Returns the oids of attached tables that have expressions, a filter or a source, whose
 *		texts contain "name" (NULL: whatever they are), as a list in the current memory context.
 */
List *
kapture_expression_relations(const char *name)
{
	Oid			relid = kapture_catalog_relid(KAPTURE_TABLE_COLUMN);
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name ? name : "")};
	List	   *relids = NIL;
	char	   *texts;

	if (!OidIsValid(relid) || get_attnum(relid, "expression") == InvalidAttrNumber)
		return NIL;
	texts = kapture_own_text("SELECT string_agg(DISTINCT relation::oid::text, ' ') FROM @.kapture_attachment AS a"
							 " WHERE strpos(filter, $1) > 0 OR strpos(source, $1) > 0"
							 " OR EXISTS (SELECT FROM @.kapture_column AS c WHERE c.attachment_id = a.attachment_id AND strpos(expression, $1) > 0)",
							 lengthof(types), types, values);
	for (char *text = texts ? strtok(texts, " ") : NULL; text; text = strtok(NULL, " "))
		relids = lappend_oid(relids, (Oid) strtoul(text, NULL, 10));
	return relids;
}

static List *
expression_add_text(List *texts, const KaptureAttachment *att, int bit, const KaptureExpression *expression)
{
	ExpressionText *text = palloc(sizeof(ExpressionText));

	text->relid = expression_relation(att, expression);
	text->root = att->root;
	text->attachment_id = att->id;
	text->bit = bit;
	text->text = expression->text;
	text->node = (Node *) expression->node;
	return lappend(texts, text);
}

static List *
expression_add_source(List *texts, const KaptureAttachment *att)
{
	ExpressionText *text = palloc0(sizeof(ExpressionText));

	text->relid = att->source;
	text->root = att->root;
	text->attachment_id = att->id;
	text->bit = -2;
	text->text = att->source_name;
	return lappend(texts, text);
}

/*
 * kapture_expression_is_understood
 *		Tells whether the expressions of an attachment that contain "name" (NULL: all) can be
 *		parsed, without much time.
 *
 * If not, that is its owner's concern, and must not be an error for a user whose command has
 * nothing to do with it.
 */
bool
kapture_expression_is_understood(const KaptureAttachment *att, const char *name)
{
	ExpressionPrepare prepare = {.att = att, .name = name, .hurry = true};
	MemoryContext parsing = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync parsing", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(parsing);
	ErrorData  *error = kapture_guard_session_look(expression_do_prepare, &prepare);

	MemoryContextSwitchTo(old);
	MemoryContextDelete(parsing);
	return error == NULL;
}

/*
 * Adds the expressions of an attachment that contain "name", unless they cannot be parsed, or
 * their owner has had enough of them parsed ("*parsed").
 */
static List *
expression_add_texts_of(List *texts, const KaptureAttachment *att, const char *name, List **parsed)
{
	Size		bytes = kapture_expression_bytes(att, name);

	if (OidIsValid(att->source))
		texts = expression_add_source(texts, att);
	if (bytes == 0 || !kapture_bystander_may_parse(parsed, kapture_catalog_owner(att->root), bytes) ||
		!kapture_expression_is_understood(att, name))
		return texts;
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (expression_names(att->columns[i].expression, name))
			texts = expression_add_text(texts, att, att->columns[i].bit, att->columns[i].expression);
	}
	if (expression_names(att->filter, name))
		texts = expression_add_text(texts, att, -1, att->filter);
	return texts;
}

/* Adds the expressions of a table's attachments, unless somebody has locked the table. */
static List *
expression_add_texts(List *texts, Oid relid, const char *name, List **parsed)
{
	Relation	rel;
	ListCell   *lc;

	CHECK_FOR_INTERRUPTS();
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return texts;
	rel = try_relation_open(relid, NoLock);
	foreach(lc, rel ? kapture_catalog_attachments(rel) : NIL)
	{
		const KaptureAttachment *att = lfirst(lc);

		if (att->root == relid)
			texts = expression_add_texts_of(texts, att, name, parsed);
	}
	if (rel)
		relation_close(rel, NoLock);
	/* at once: otherwise a command on the table itself and another one like it might wait for each other */
	UnlockRelationOid(relid, AccessShareLock);
	return texts;
}

/*
 * kapture_expression_before_rename
 *		Returns the argument for kapture_expression_after_rename(), in the current
 *		memory context.  To be called before a command that renames something, or
 *		moves it to another schema.  "name" is in all texts that the command changes; NULL: it
 *		is not known which these are.
 */
List *
kapture_expression_before_rename(const char *name)
{
	List	   *texts = NIL;
	List	   *parsed = NIL;
	ListCell   *lc;

	foreach(lc, kapture_expression_relations(name))
		texts = expression_add_texts(texts, lfirst_oid(lc), name, &parsed);
	return texts;
}

static void
expression_store_text(const ExpressionText *text, const char *now)
{
	Oid			types[3] = {INT4OID, TEXTOID, INT4OID};
	Datum		values[3] = {Int32GetDatum(text->attachment_id), CStringGetTextDatum(now), Int32GetDatum(text->bit)};

	if (text->bit == -2)
		(void) kapture_bystander_execute(text->root, "UPDATE @.kapture_attachment SET source = $2 WHERE attachment_id = $1",
										 2, types, values);
	else if (text->bit == -1)
		(void) kapture_bystander_execute(text->root, "UPDATE @.kapture_attachment SET filter = $2 WHERE attachment_id = $1",
										 2, types, values);
	else
		(void) kapture_bystander_execute(text->root, "UPDATE @.kapture_column SET expression = $2 WHERE attachment_id = $1 AND bit = $3",
										 3, types, values);
}

/*
 * kapture_expression_after_rename
 *		Writes the texts of expressions again, after the command.  Returns whether a
 *		text has changed.
 */
bool
kapture_expression_after_rename(List *texts)
{
	bool		changed = false;
	ListCell   *lc;

	if (texts == NIL)
		return false;
	CommandCounterIncrement();
	foreach(lc, texts)
	{
		ExpressionText *text = lfirst(lc);
		const char *name = get_rel_name(text->relid);
		char	   *now;

		if (name == NULL)
			continue;
		now = text->node ? expression_deparse(text->node, name, text->relid, false) :
			quote_qualified_identifier(get_namespace_name(get_rel_namespace(text->relid)), name);
		if (strcmp(now, text->text) == 0)
			continue;
		expression_store_text(text, now);
		changed = true;
	}
	return changed;
}

/*
 * kapture_expression_may_use
 *		Tells whether expressions, filters or the views of mappings may use objects of a
 *		type, so that dropping one may concern them.
 */
bool
kapture_expression_may_use(ObjectType type)
{
	switch (type)
	{
		case OBJECT_FUNCTION:
		case OBJECT_ROUTINE:
		case OBJECT_OPERATOR:
		case OBJECT_TYPE:
		case OBJECT_DOMAIN:
		case OBJECT_CAST:
		case OBJECT_VIEW:
		case OBJECT_COLLATION:
		case OBJECT_SCHEMA:
		case OBJECT_EXTENSION:
			return true;
		default:
			return false;
	}
}
