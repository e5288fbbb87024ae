/*
 * scan.c
 *		Foreign tables: reading customers and contacts of Kapture.
 *
 * Kapture answers two questions: who has this id, phone or email (Get), and
 * who was generated between two times (Pull).  A scan asks the first of these that
 * its conditions allow.  PostgreSQL checks all conditions again on the rows that
 * come, so that a condition that Kapture does not know makes the answer longer, but
 * not wrong.  A scan without a condition that Kapture can be asked would have no
 * end, and is refused when it starts.
 *
 * A join can ask for each of its outer rows: paths that take the value from the
 * outer row are offered beside the plain path.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/stratnum.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "foreign/foreign.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planmain.h"
#include "optimizer/restrictinfo.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "api/columns.h"
#include "api/local_time.h"
#include "api/option.h"
#include "api/reply.h"
#include "base/compat.h"
#include "fdw/modify.h"
#include "fetch/fetch.h"
#include "pull/pull_functions.h"

/*
 * Costs that make a Get better than a Pull, and a Pull better than no condition; too
 * low for expressions to be compiled (JIT), since it is Kapture that takes the time.
 * Without a condition, nothing can be read at all: that costs more than any plan with
 * nodes that the user has disabled.
 */
#define FDW_GET_COST		10.0
#define FDW_PULL_COST		2.0e4
#define FDW_NOTHING_COST	1.0e20
#define FDW_NOTHING_DISABLED_NODES 1000
#define FDW_PULL_ROWS		10000.0

/* What a condition is good for. */
typedef enum FdwUse
{
	FDW_USE_ID,					/* best first */
	FDW_USE_PHONE,
	FDW_USE_EMAIL,
	FDW_USE_SINCE,
	FDW_USE_UNTIL,
	FDW_USE_NONE
} FdwUse;

/* A condition that Kapture can be asked with. */
typedef struct FdwCondition
{
	FdwUse		use;
	AttrNumber	attnum;
	List	   *values;			/* other sides of the comparison, any of them; of an array, any of its elements */
	bool		is_equal;
} FdwCondition;

/* How many values the planner assumes in an array that it does not know. */
#define FDW_ARRAY_LENGTH	10

/* A value that Kapture is asked for, and its text. */
typedef struct FdwAsked
{
	Datum		value;
	char	   *text;
} FdwAsked;

/* The fields of a Get's body. */
static const char *const fdw_fields[] = {"kapture_customer_id", "phone", "email_id"};

/* A scan that runs. */
typedef struct FdwScan
{
	KaptureRowKind kind;
	Oid			serverid;
	Oid			userid;
	FdwUse		use;			/* what a Get asks by, or FDW_USE_SINCE */
	AttrNumber	asked;			/* column a Get asks for */
	FdwAsked   *asked_values;	/* one for each Get */
	List	   *uses;			/* of a Pull: integers, one for each expression */
	List	   *values;			/* states of the expressions */
	MemoryContext context;		/* of the fetch; reset by a rescan */
	KaptureRows *rows;			/* NULL: not begun */
	bool		done;
} FdwScan;

PG_FUNCTION_INFO_V1(kapture_fdw_handler);


/*
 * Conditions
 */

/* What equality with a column is good for. */
static FdwUse
fdw_column_use(Oid relid, AttrNumber attnum)
{
	bool		is_customer = kapture_fdw_table_kind(relid) == KAPTURE_ROW_CUSTOMER;
	char	   *name = attnum > 0 ? get_attname(relid, attnum, true) : NULL;

	if (name == NULL)
		return FDW_USE_NONE;
	if (strcmp(name, is_customer ? "id" : "customer_id") == 0 ||
		(is_customer && strcmp(name, "kapture_customer_id") == 0))
		return FDW_USE_ID;
	if (!is_customer)
		return FDW_USE_NONE;	/* a customer may have other contacts, too */
	if (strcmp(name, "phone") == 0)
		return FDW_USE_PHONE;
	if (strcmp(name, "email") == 0 || strcmp(name, "email_id") == 0)
		return FDW_USE_EMAIL;
	return FDW_USE_NONE;
}

/* Is this the column by which customers are pulled? */
static bool
fdw_is_generated(Oid relid, AttrNumber attnum)
{
	char	   *name = attnum > 0 ? get_attname(relid, attnum, true) : NULL;

	return name != NULL && strcmp(name, "generation_date") == 0 &&
		kapture_fdw_table_kind(relid) == KAPTURE_ROW_CUSTOMER;
}

/* What a comparison of generation_date is good for: a bound, or two. */
static FdwUse
fdw_time_use(Oid function, bool *is_equal)
{
	*is_equal = false;
	switch (function)
	{
		case F_TIMESTAMPTZ_EQ:
		case F_TIMESTAMPTZ_EQ_DATE:
		case F_TIMESTAMPTZ_EQ_TIMESTAMP:
			*is_equal = true;
			return FDW_USE_SINCE;
		case F_TIMESTAMPTZ_GE:
		case F_TIMESTAMPTZ_GT:
		case F_TIMESTAMPTZ_GE_DATE:
		case F_TIMESTAMPTZ_GT_DATE:
		case F_TIMESTAMPTZ_GE_TIMESTAMP:
		case F_TIMESTAMPTZ_GT_TIMESTAMP:
			return FDW_USE_SINCE;
		case F_TIMESTAMPTZ_LE:
		case F_TIMESTAMPTZ_LT:
		case F_TIMESTAMPTZ_LE_DATE:
		case F_TIMESTAMPTZ_LT_DATE:
		case F_TIMESTAMPTZ_LE_TIMESTAMP:
		case F_TIMESTAMPTZ_LT_TIMESTAMP:
			return FDW_USE_UNTIL;
		default:
			return FDW_USE_NONE;
	}
}

/* Converts a date or a time without zone to timestamptz, as the comparison does. */
static Expr *
fdw_as_timestamptz(Expr *value)
{
	Oid			type = exprType((Node *) value);

	if (type == TIMESTAMPTZOID)
		return value;
	return (Expr *) makeFuncExpr(type == DATEOID ? F_TIMESTAMPTZ_DATE : F_TIMESTAMPTZ_TIMESTAMP,
								 TIMESTAMPTZOID, list_make1(value), InvalidOid,
								 InvalidOid, COERCE_EXPLICIT_CAST);
}

/* Is this Var a column of the relation? */
static bool
fdw_is_column(Node *node, RelOptInfo *rel)
{
	return IsA(node, Var) && ((Var *) node)->varno == rel->relid &&
		((Var *) node)->varlevelsup == 0;
}

/*
 * Finds the sides of a comparison with a column, which becomes the left one,
 * and its function.
 */
static bool
fdw_take_apart(RelOptInfo *rel, Expr *clause, Node **left, Node **right, Oid *function)
{
	if (IsA(clause, ScalarArrayOpExpr) && ((ScalarArrayOpExpr *) clause)->useOr)
	{
		ScalarArrayOpExpr *op = (ScalarArrayOpExpr *) clause;

		*left = linitial(op->args);
		*right = lsecond(op->args);
		*function = get_opcode(op->opno);
	}
	else if (IsA(clause, OpExpr) && list_length(((OpExpr *) clause)->args) == 2)
	{
		OpExpr	   *op = (OpExpr *) clause;
		Oid			operator = op->opno;
		bool		swap = !fdw_is_column(linitial(op->args), rel);

		*left = swap ? lsecond(op->args) : linitial(op->args);
		*right = swap ? linitial(op->args) : lsecond(op->args);
		if (swap)
			operator = get_commutator(operator);
		*function = OidIsValid(operator) ? get_opcode(operator) : InvalidOid;
	}
	else
		return false;
	return fdw_is_column(*left, rel);
}

/* Is the collation of a comparison deterministic? */
static bool
fdw_is_deterministic(Expr *clause)
{
	return get_collation_isdeterministic(exprInputCollation((Node *) clause));
}

/* Finds out, and returns, what a comparison is good for. */
static FdwUse
fdw_examine_comparison(PlannerInfo *root, RelOptInfo *rel, Oid relid, Expr *clause, FdwCondition *condition)
{
	Node	   *left;
	Node	   *right;
	Oid			function;
	FdwUse		use;

	memset(condition, 0, sizeof(FdwCondition));
	condition->use = FDW_USE_NONE;
	if (!fdw_take_apart(rel, clause, &left, &right, &function) ||
		bms_is_member(rel->relid, pull_varnos(root, right)) ||
		contain_volatile_functions(right))
		return FDW_USE_NONE;
	condition->attnum = ((Var *) left)->varattno;
	condition->values = list_make1(right);

	if (fdw_is_generated(relid, condition->attnum) && IsA(clause, OpExpr))
	{
		condition->use = fdw_time_use(function, &condition->is_equal);
		if (condition->use != FDW_USE_NONE)
			condition->values = list_make1(fdw_as_timestamptz((Expr *) right));
		return condition->use;
	}
	use = fdw_column_use(relid, condition->attnum);
	if (use == FDW_USE_ID &&
		(function == F_INT8EQ || function == F_INT84EQ || function == F_INT82EQ))
		condition->use = use;
	if ((use == FDW_USE_PHONE || use == FDW_USE_EMAIL) && function == F_TEXTEQ &&
		fdw_is_deterministic(clause))
		condition->use = use;
	return condition->use;
}

/*
 * Is a clause, or one of those that AND combines in it, a comparison for this use, with this
 * column?  With InvalidAttrNumber, any column will do.
 */
static bool
fdw_examine_arm(PlannerInfo *root, RelOptInfo *rel, Oid relid, Expr *clause, FdwUse use, AttrNumber attnum,
				FdwCondition *condition)
{
	List	   *clauses = is_andclause(clause) ? ((BoolExpr *) clause)->args : list_make1(clause);
	ListCell   *lc;

	foreach(lc, clauses)
	{
		if (fdw_examine_comparison(root, rel, relid, lfirst(lc), condition) == use &&
			(attnum == InvalidAttrNumber || condition->attnum == attnum))
			return true;
	}
	return false;
}

/*
 * Finds out, and returns, what a condition on the relation is good for.  If OR combines
 * comparisons with one column, each of their values can be asked for.
 */
static FdwUse
fdw_examine(PlannerInfo *root, RelOptInfo *rel, Oid relid, Expr *clause, FdwCondition *condition)
{
	if (!is_orclause(clause))
		return fdw_examine_comparison(root, rel, relid, clause, condition);
	for (FdwUse use = FDW_USE_ID; use <= FDW_USE_EMAIL; use++)
	{
		List	   *values = NIL;
		ListCell   *lc;

		condition->attnum = InvalidAttrNumber;
		foreach(lc, ((BoolExpr *) clause)->args)
		{
			if (!fdw_examine_arm(root, rel, relid, lfirst(lc), use, condition->attnum, condition))
				break;
			values = list_concat(values, condition->values);
		}
		condition->values = values;
		if (lc == NULL)
			return use;
	}
	memset(condition, 0, sizeof(FdwCondition));
	return condition->use = FDW_USE_NONE;
}

/* How many values a condition for a Get asks for. */
static double
fdw_count(const FdwCondition *condition)
{
	double		n = 0;
	ListCell   *lc;

	foreach(lc, condition->values)
	{
		const Const *array = lfirst(lc);

		if (!OidIsValid(get_element_type(exprType((const Node *) array))))
			n++;
		else if (IsA(array, Const) && !array->constisnull)
		{
			ArrayType  *value = DatumGetArrayTypeP(array->constvalue);

			n += Max(ArrayGetNItems(ARR_NDIM(value), ARR_DIMS(value)), 1);
		}
		else
			n += FDW_ARRAY_LENGTH;
	}
	return n;
}


/*
 * Planning
 */

static void
fdw_get_rel_size(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	rel->rows = FDW_PULL_ROWS;
}

/*
 * The best use of the conditions in a list of RestrictInfos; *best becomes the
 * condition with that use.
 */
static FdwUse
fdw_best_use(PlannerInfo *root, RelOptInfo *rel, Oid relid, List *conditions, FdwCondition *best)
{
	ListCell   *lc;

	memset(best, 0, sizeof(FdwCondition));
	best->use = FDW_USE_NONE;
	foreach(lc, conditions)
	{
		FdwCondition condition;
		FdwUse		use = fdw_examine(root, rel, relid, lfirst_node(RestrictInfo, lc)->clause,
									  &condition);

		if (use != FDW_USE_UNTIL && use < best->use)	/* a Pull needs a start */
			*best = condition;
	}
	return best->use;
}

/* Adds a path that takes the value from the other relations of a join clause, if a Get can ask for it. */
static void
fdw_add_join_path(PlannerInfo *root, RelOptInfo *rel, RestrictInfo *info, Oid relid)
{
	FdwCondition condition;
	Relids		outer;
	double		n;

	if (!join_clause_is_movable_to(info, rel) ||
		fdw_examine(root, rel, relid, info->clause, &condition) > FDW_USE_EMAIL)
		return;
	outer = bms_difference(info->clause_relids, rel->relids);
	outer = bms_union(outer, rel->lateral_relids);
	if (bms_is_empty(outer))
		return;
	(void) get_baserel_parampathinfo(root, rel, outer);
	n = fdw_count(&condition);
	add_path(rel, (Path *) kapture_foreignscan_path(root, rel, n, 0, n * FDW_GET_COST, outer));
}

/* Is this member of an equivalence class one of the columns Get can ask for? */
static bool
fdw_is_key_member(PlannerInfo *root, RelOptInfo *rel, EquivalenceClass *ec,
				  EquivalenceMember *em, void *arg)
{
	Var		   *var = (Var *) em->em_expr;

	return IsA(var, Var) && var->varno == rel->relid &&
		fdw_column_use(*(Oid *) arg, var->varattno) <= FDW_USE_EMAIL;
}

static void
fdw_get_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	FdwCondition condition;
	FdwUse		use = fdw_best_use(root, rel, relid, rel->baserestrictinfo, &condition);
	bool		is_get = use <= FDW_USE_EMAIL;
	double		rows = is_get ? fdw_count(&condition) : FDW_PULL_ROWS;
	ListCell   *lc;

	rel->rows = rows;
	add_path(rel, (Path *) kapture_foreignscan_path(root, rel, rows,
													use == FDW_USE_NONE ? FDW_NOTHING_DISABLED_NODES : 0,
													is_get ? rows * FDW_GET_COST :
													use == FDW_USE_SINCE ? FDW_PULL_COST :
													FDW_NOTHING_COST,
													rel->lateral_relids));
	if (is_get)
		return;
	foreach(lc, rel->joininfo)
		fdw_add_join_path(root, rel, lfirst_node(RestrictInfo, lc), relid);
	if (rel->has_eclass_joins)
	{
		List	   *conditions;

		conditions = generate_implied_equalities_for_column(root, rel, fdw_is_key_member,
															&relid, rel->lateral_referencers);
		foreach(lc, conditions)
			fdw_add_join_path(root, rel, lfirst_node(RestrictInfo, lc), relid);
	}
}

/*
 * Does LIMIT 0 keep a query from reading any of its relations?  Tools ask so for the
 * columns.  It may not be so for WITH queries, which something else may read.
 */
static bool
fdw_reads_nothing(PlannerInfo *root)
{
	for (; root != NULL && root->parse->commandType == CMD_SELECT; root = root->parent_root)
	{
		/* of a query around a WITH query, it is as the parser has left it */
		const Const *limit = (const Const *) eval_const_expressions(NULL, root->parse->limitCount);

		if (limit && IsA(limit, Const) && !limit->constisnull && DatumGetInt64(limit->constvalue) == 0)
			return true;
	}
	return false;
}

/*
 * Makes the plan: chooses the conditions that Kapture is asked with.  PostgreSQL
 * checks all conditions again.
 */
static ForeignScan *
fdw_get_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path,
			 List *tlist, List *conditions, Plan *outer_plan)
{
	FdwCondition best;
	List	   *uses = NIL;
	List	   *values = NIL;
	ListCell   *lc;

	foreach(lc, conditions)
	{
		if (IsA(lfirst_node(RestrictInfo, lc)->clause, CurrentOfExpr))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("WHERE CURRENT OF is not supported for this table type"),
					 errhint("Use the customer's id instead.")));
	}
	(void) fdw_best_use(root, rel, relid, conditions, &best);
	if (best.use <= FDW_USE_EMAIL)
		values = best.values;
	foreach(lc, best.use == FDW_USE_SINCE ? conditions : NIL)
	{
		FdwCondition condition;
		FdwUse		use = fdw_examine(root, rel, relid, lfirst_node(RestrictInfo, lc)->clause,
									  &condition);

		if (use != FDW_USE_SINCE && use != FDW_USE_UNTIL)
			continue;
		uses = lappend_int(uses, use);
		values = list_concat(values, condition.values);
		if (condition.is_equal)
		{
			uses = lappend_int(uses, FDW_USE_UNTIL);
			values = lappend(values, copyObject(linitial(condition.values)));
		}
	}
	return make_foreignscan(tlist, extract_actual_clauses(conditions, false), rel->relid,
							values, list_make4(makeInteger(best.use), makeInteger(best.attnum), uses,
											   makeInteger(fdw_reads_nothing(root))),
							NIL, NIL, outer_plan);
}


/*
 * What is reported of new tables
 */

/*
 * kapture_fdw_advise_created
 *		For a foreign table of this wrapper that was just made: warns of columns that
 *		Kapture does not have, of which only the first query would complain otherwise,
 *		and reports that it shows customers, if neither an option nor the name says so.
 */
void
kapture_fdw_advise_created(RangeVar *table)
{
	Oid			relid = RangeVarGetRelid(table, NoLock, true);
	Relation	rel;
	ForeignServer *server;

	/* IF NOT EXISTS may have found a table of somebody else's */
	if (!OidIsValid(relid) || !object_ownercheck(RelationRelationId, relid, GetUserId()))
		return;
	rel = relation_open(relid, AccessShareLock);
	server = rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE ? GetForeignServer(GetForeignServerIdByRelId(relid)) : NULL;
	if (server && strcmp(GetForeignDataWrapper(server->fdwid)->fdwname, "kapture_fdw") == 0)
	{
		if (GetForeignTable(relid)->options == NIL && strstr(table->relname, "customer") == NULL)
			ereport(NOTICE,
					(errmsg("foreign table \"%s\" shows Kapture's customers", RelationGetRelationName(rel)),
					 errdetail("It has no option \"%s\", which would name something else.", "object"),
					 errhint("There are \"customers\" and \"contacts\"; kapture_call() reaches all other modules.")));
		kapture_columns_check(kapture_fdw_table_kind(relid), RelationGetDescr(rel), WARNING);
	}
	relation_close(rel, NoLock);
}


/*
 * Scans
 */

/* Raises the error that there is no condition that Kapture can be asked with. */
static void
fdw_refuse(ForeignScanState *node)
{
	FdwScan    *scan = node->fdw_state;

	/* the reason may be that the column of a condition has another type than Kapture's */
	kapture_columns_check(scan->kind, RelationGetDescr(node->ss.ss_currentRelation), ERROR);
	ereport(ERROR,
			(errcode(ERRCODE_FDW_UNABLE_TO_CREATE_EXECUTION),
			 errmsg("Kapture cannot be asked for all of \"%s\"",
					RelationGetRelationName(node->ss.ss_currentRelation)),
			 errdetail("The query has no condition that Kapture searches by; others only narrow down what it has returned."),
			 scan->kind == KAPTURE_ROW_CUSTOMER ?
			 errhint("Add a condition \"id = ...\", \"phone = ...\", \"email = ...\" or \"generation_date >= ...\", with the column itself, not a cast or function of it.") :
			 errhint("Add a condition \"customer_id = ...\", or join with customers.")));
}

static void
fdw_begin(ForeignScanState *node, int eflags)
{
	ForeignScan *plan = (ForeignScan *) node->ss.ps.plan;
	Oid			relid = RelationGetRelid(node->ss.ss_currentRelation);
	FdwScan    *scan = palloc0(sizeof(FdwScan));

	scan->kind = kapture_fdw_table_kind(relid);
	scan->serverid = plan->fs_server;
	scan->userid = kapture_scan_user(node);
	if (!OidIsValid(scan->userid))
		scan->userid = GetUserId();
	scan->use = intVal(linitial(plan->fdw_private));
	scan->asked = intVal(lsecond(plan->fdw_private));
	scan->uses = lthird(plan->fdw_private);
	scan->values = ExecInitExprList(plan->fdw_exprs, (PlanState *) node);
	scan->context = AllocSetContextCreate(CurrentMemoryContext, "kapture scan",
										  ALLOCSET_DEFAULT_SIZES);
	node->fdw_state = scan;
	/* before other parts of the query write anything */
	if (scan->use == FDW_USE_NONE && !(eflags & EXEC_FLAG_EXPLAIN_ONLY) && !intVal(lfourth(plan->fdw_private)))
		fdw_refuse(node);
}

/* Raises an error if a bound is not finite. */
static TimestampTz
fdw_finite(TimestampTz when)
{
	if (TIMESTAMP_NOT_FINITE(when))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("generation_date must be compared with finite times")));
	return when;
}

/* The range that the bounds of a pull leave; false if it is empty. */
static bool
fdw_range(ForeignScanState *node, const char *timezone, Timestamp *start, Timestamp *end)
{
	FdwScan    *scan = node->fdw_state;
	pg_tz	   *zone = kapture_local_zone(timezone);
	TimestampTz since = DT_NOBEGIN;
	TimestampTz until = GetCurrentTimestamp() + USECS_PER_HOUR;
	bool		has_until = false;
	ListCell   *lc;
	ListCell   *lu;

	forboth(lc, scan->values, lu, scan->uses)
	{
		bool		isnull;
		Datum		value = ExecEvalExprSwitchContext(lfirst(lc), node->ss.ps.ps_ExprContext,
													  &isnull);

		if (isnull)
			return false;
		if (lfirst_int(lu) == FDW_USE_SINCE)
			since = Max(since, DatumGetTimestampTz(value));
		else
			until = has_until ? Min(until, DatumGetTimestampTz(value)) : DatumGetTimestampTz(value);
		has_until |= lfirst_int(lu) == FDW_USE_UNTIL;
	}
	if (since > until)
		return false;
	if (TIMESTAMP_IS_NOEND(until))
		until = Max(since, GetCurrentTimestamp() + USECS_PER_HOUR);
	*start = kapture_local_since(fdw_finite(since), zone);
	*end = kapture_local_until(fdw_finite(until), zone);
	return true;
}

static int
fdw_compare_asked(const void *a, const void *b)
{
	return strcmp(((const FdwAsked *) a)->text, ((const FdwAsked *) b)->text);
}

/* Appends the value of an expression, or the elements of an array, to those that Gets are to ask for; returns how many these are. */
static int
fdw_append_asked(ForeignScanState *node, ExprState *state, int nasked)
{
	FdwScan    *scan = node->fdw_state;
	Oid			type = exprType((Node *) state->expr);
	Oid			element = get_element_type(type);
	Oid			output;
	bool		isvarlena;
	bool		isnull;
	bool	   *nulls = &isnull;
	Datum		value = ExecEvalExprSwitchContext(state, node->ss.ps.ps_ExprContext, &isnull);
	Datum	   *values = &value;
	int			n = 1;

	if (isnull)
		return nasked;
	if (OidIsValid(element))
	{
		int16		len;
		bool		byval;
		char		align;

		get_typlenbyvalalign(element, &len, &byval, &align);
		deconstruct_array(DatumGetArrayTypeP(value), element, len, byval, align, &values, &nulls, &n);
		type = element;
	}
	getTypeOutputInfo(type, &output, &isvarlena);
	if (scan->asked_values == NULL)
		scan->asked_values = palloc(sizeof(FdwAsked) * Max(n, 1));
	else
		scan->asked_values = repalloc(scan->asked_values, sizeof(FdwAsked) * (nasked + n));
	for (int i = 0; i < n; i++)
	{
		FdwAsked   *asked = &scan->asked_values[nasked];

		if (nulls[i])
			continue;
		asked->text = OidOutputFunctionCall(output, values[i]);
		asked->value = isvarlena ? PointerGetDatum(PG_DETOAST_DATUM_COPY(values[i])) : values[i];
		nasked++;
	}
	return nasked;
}

/* Fills in the values that Gets are to ask for, each one once; returns how many. */
static int
fdw_find_asked(ForeignScanState *node)
{
	FdwScan    *scan = node->fdw_state;
	int			nasked = 0;
	ListCell   *lc;

	scan->asked_values = NULL;
	foreach(lc, scan->values)
		nasked = fdw_append_asked(node, lfirst(lc), nasked);
	if (nasked == 0)
		return 0;
	qsort(scan->asked_values, nasked, sizeof(FdwAsked), fdw_compare_asked);
	return qunique(scan->asked_values, nasked, sizeof(FdwAsked), fdw_compare_asked);
}

/* Begins Gets from a server; NULL if there is nothing to ask for. */
static KaptureFetch *
fdw_begin_gets(ForeignScanState *node, const char *server)
{
	FdwScan    *scan = node->fdw_state;
	int			n = fdw_find_asked(node);
	List	   *bodies = NIL;

	for (int i = 0; i < n; i++)
	{
		StringInfoData body;

		initStringInfo(&body);
		appendStringInfo(&body, "{\"%s\": ", fdw_fields[scan->use]);
		escape_json(&body, scan->asked_values[i].text);
		appendStringInfoChar(&body, '}');
		bodies = lappend(bodies, body.data);
	}
	return n > 0 ? kapture_fetch_gets(server, scan->userid, bodies) : NULL;
}

/*
 * Asks Kapture.  The server's name is looked up only now, as it is now: since a cursor was
 * opened, another server may have got the one that it had then.
 */
static void
fdw_ask(ForeignScanState *node)
{
	FdwScan    *scan = node->fdw_state;
	MemoryContext old = MemoryContextSwitchTo(scan->context);
	const char *server;
	char	   *timezone;
	KaptureFetch *fetch = NULL;
	Timestamp	start;
	Timestamp	end;

	AcceptInvalidationMessages();
	server = GetForeignServer(scan->serverid)->servername;
	timezone = pstrdup(kapture_server_get(server, scan->userid)->timezone);
	if (scan->use == FDW_USE_NONE)
		fdw_refuse(node);
	if (scan->use == FDW_USE_SINCE)
	{
		if (fdw_range(node, timezone, &start, &end))
			fetch = kapture_fetch_pull(server, scan->userid, start, end);
	}
	else
		fetch = fdw_begin_gets(node, server);
	scan->done = fetch == NULL;
	if (fetch != NULL)
	{
		kapture_fetch_require_server(fetch, scan->serverid);
		scan->rows = kapture_rows_create(scan->kind, RelationGetDescr(node->ss.ss_currentRelation),
										 timezone, fetch);
	}
	MemoryContextSwitchTo(old);
}

static TupleTableSlot *
fdw_iterate(ForeignScanState *node)
{
	FdwScan    *scan = node->fdw_state;
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	ExecClearTuple(slot);
	if (scan->rows == NULL && !scan->done)
		fdw_ask(node);
	if (scan->done || !kapture_rows_next(scan->rows, slot->tts_values, slot->tts_isnull))
	{
		scan->done = true;
		return slot;
	}

	/* Kapture found the customer by this value, but may not repeat it in this column */
	if ((scan->use == FDW_USE_PHONE || scan->use == FDW_USE_EMAIL) &&
		slot->tts_isnull[scan->asked - 1])
	{
		slot->tts_values[scan->asked - 1] = scan->asked_values[kapture_rows_number(scan->rows)].value;
		slot->tts_isnull[scan->asked - 1] = false;
	}
	return ExecStoreVirtualTuple(slot);
}

static void
fdw_rescan(ForeignScanState *node)
{
	FdwScan    *scan = node->fdw_state;

	ExecClearTuple(node->ss.ss_ScanTupleSlot);
	MemoryContextReset(scan->context);
	scan->rows = NULL;
	scan->done = false;
}

static void
fdw_end(ForeignScanState *node)
{
	FdwScan    *scan = node->fdw_state;

	if (scan != NULL)
		MemoryContextDelete(scan->context);
}

/* EXPLAIN (VERBOSE): which calls will be made. */
static void
fdw_explain(ForeignScanState *node, ExplainState *es)
{
	FdwScan    *scan = node->fdw_state;
	StringInfoData text;

	if (!es->verbose)
		return;
	initStringInfo(&text);
	if (scan->use == FDW_USE_NONE)
		appendStringInfoString(&text, "none: no condition that Kapture can be asked with");
	else if (scan->use == FDW_USE_SINCE)
		appendStringInfo(&text, "pull by generation_date, a call for each window");
	else
	{
		ExprState  *state = linitial(scan->values);

		appendStringInfo(&text, "get by %s", fdw_fields[scan->use]);
		if (list_length(scan->values) > 1 || OidIsValid(get_element_type(exprType((Node *) state->expr))))
			appendStringInfoString(&text, ", a call for each value");
	}
	ExplainPropertyText("Kapture API", text.data, es);
}


/*
 * The wrapper
 */

static List *
fdw_import_schema(ImportForeignSchemaStmt *stmt, Oid serverid)
{
	static const char *const names[] = {"customers", "contacts"};
	static const KaptureRowKind kinds[] = {KAPTURE_ROW_CUSTOMER, KAPTURE_ROW_CONTACT};
	char	   *server = GetForeignServer(serverid)->servername;
	List	   *commands = NIL;
	ListCell   *lc;

	if (strcmp(stmt->remote_schema, "kapture") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_SCHEMA_NOT_FOUND),
				 errmsg("remote schema \"%s\" does not exist", stmt->remote_schema),
				 errhint("Use IMPORT FOREIGN SCHEMA %s FROM SERVER %s INTO ...", "kapture",
						 quote_identifier(server))));
	if (stmt->options != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("IMPORT FOREIGN SCHEMA takes no options here")));
	foreach(lc, stmt->list_type == FDW_IMPORT_SCHEMA_ALL ? NIL : stmt->table_list)
	{
		const char *name = lfirst_node(RangeVar, lc)->relname;

		if (strcmp(name, names[0]) != 0 && strcmp(name, names[1]) != 0)
			ereport(NOTICE,
					(errmsg("Kapture has no foreign table \"%s\"", name),
					 errdetail("There are \"%s\" and \"%s\".", names[0], names[1]),
					 errhint("kapture_call() reaches all other modules.")));
	}
	for (int i = 0; i < lengthof(names); i++)
		commands = lappend(commands,
						   psprintf("CREATE FOREIGN TABLE %s (%s) SERVER %s OPTIONS (object '%s')",
									names[i], kapture_columns_sql(kinds[i]),
									quote_identifier(server), names[i]));
	return commands;
}

/*
 * kapture_fdw_handler() returns fdw_handler
 */
Datum
kapture_fdw_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = fdw_get_rel_size;
	routine->GetForeignPaths = fdw_get_paths;
	routine->GetForeignPlan = fdw_get_plan;
	routine->BeginForeignScan = fdw_begin;
	routine->IterateForeignScan = fdw_iterate;
	routine->ReScanForeignScan = fdw_rescan;
	routine->EndForeignScan = fdw_end;
	routine->ExplainForeignScan = fdw_explain;
	routine->ImportForeignSchema = fdw_import_schema;
	kapture_fdw_add_modify(routine);
	PG_RETURN_POINTER(routine);
}
