/*
 * literal.c
 *		Refuses literals whose parsing runs users' code.
 *
 * Expressions are kept as text, which is parsed again also in sessions of other users,
 * whenever they rename something.  That must not run users' code.  Literals are evaluated
 * when they are parsed, by the input function of their type.  Input of arrays, ranges and
 * composite types evaluates the checks of domains in them; so such literals are refused
 * before they are read.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "mapping/literal.h"

/* Does a composite type have a field whose type is a domain, or contains one? */
static bool
literal_fields_hold_domain(Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);
	bool		result = false;

	for (int i = 0; i < desc->natts && !result; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		result = !attr->attisdropped &&
			(get_typtype(attr->atttypid) == TYPTYPE_DOMAIN || kapture_literal_runs_code(attr->atttypid));
	}
	ReleaseTupleDesc(desc);
	return result;
}

/*
 * kapture_literal_runs_code
 *		Does reading a value of a type, by the input function of its base type, evaluate
 *		checks of domains?
 */
bool
kapture_literal_runs_code(Oid type)
{
	Oid			base = getBaseType(type);	/* a domain's own checks come after reading */
	Oid			inner = InvalidOid;

	check_stack_depth();
	if (base < FirstNormalObjectId)
		return false;
	switch (get_typtype(base))
	{
		case TYPTYPE_RANGE:
			inner = get_range_subtype(base);
			break;
		case TYPTYPE_MULTIRANGE:
			inner = get_multirange_range(base);
			break;
		case TYPTYPE_COMPOSITE:
			return literal_fields_hold_domain(base);
		default:
			inner = get_element_type(base);
			break;
	}
	return OidIsValid(inner) && (get_typtype(inner) == TYPTYPE_DOMAIN || kapture_literal_runs_code(inner));
}

/* Is an expression a literal, or an array or row made of some? */
static bool
literal_is_in(Node *node)
{
	ListCell   *lc;
	List	   *parts = NIL;

	if (IsA(node, A_Const))
		return true;
	if (IsA(node, CollateClause))
		return literal_is_in(((CollateClause *) node)->arg);
	if (IsA(node, A_ArrayExpr))
		parts = ((A_ArrayExpr *) node)->elements;
	else if (IsA(node, RowExpr))
		parts = ((RowExpr *) node)->args;
	foreach(lc, parts)
	{
		if (literal_is_in(lfirst(lc)))
			return true;
	}
	return false;
}

/* Refuses a cast of a literal to a type that holds a domain. */
static bool
literal_walk(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, TypeCast) && literal_is_in(((TypeCast *) node)->arg))
	{
		Type		tuple = LookupTypeName(NULL, ((TypeCast *) node)->typeName, NULL, true);
		Oid			type = tuple ? typeTypeId(tuple) : InvalidOid;

		if (tuple)
			ReleaseSysCache(tuple);
		if (OidIsValid(type) && kapture_literal_runs_code(type))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("%s must not contain a literal of type %s", (const char *) context, format_type_be(type)),
					 errdetail("Reading it evaluates the checks of a domain, each time the expression is understood."),
					 errhint("Put it into a function.")));
	}
	return raw_expression_tree_walker(node, literal_walk, context);
}

/*
 * kapture_literal_check
 *		Errors out (0A000) if an expression as the grammar has it contains literals whose
 *		reading evaluates checks of domains.  "what" names it in the error.
 */
void
kapture_literal_check(Node *expression, const char *what)
{
	(void) literal_walk(expression, unconstify(char *, what));
}
