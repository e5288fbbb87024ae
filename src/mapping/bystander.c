/*
 * bystander.c
 *		Updates attachments for commands of users whom these need not concern.
 *
 * A command that renames something, or replaces a view, has expressions and sources of all
 * tables follow, whoever owns these.  It must not wait for what their owners have locked, nor
 * take the more time and memory, the more SQL these have given.  If an attachment cannot
 * follow because of that, it is its owner's doing.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/owner_sql.h"
#include "cluster/guard.h"
#include "mapping/bystander.h"

/* How long a lock is waited for. */
#define BYSTANDER_TIMEOUT	"10ms"

/* Bytes of each owner's SQL that a command of somebody else's parses, at most. */
#define BYSTANDER_MAX_SQL	(256 * 1024)

/* Bytes that each attachment counts for besides, so that they are not too many. */
#define BYSTANDER_OVERHEAD	64

/*
 * Functions, or operators, of one schema and name, at most: the parser looks at all of them at each
 * call.  Extensions have dozens of operators of one name.
 */
#define BYSTANDER_MAX_FUNCTIONS	64
#define BYSTANDER_MAX_OPERATORS	256

/* What a command has parsed of one owner's SQL. */
typedef struct BystanderParsed
{
	Oid			owner;
	Size		bytes;
} BystanderParsed;

/*
 * kapture_bystander_hurry
 *		Limits waits for locks to BYSTANDER_TIMEOUT, until the caller's AtEOXact_GUC().
 */
void
kapture_bystander_hurry(void)
{
	(void) set_config_option("lock_timeout", BYSTANDER_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* Refuses a name that too many functions, or operators, of its schema have. */
static void
bystander_check_name(List *names, bool operator)
{
	int			most = operator ? BYSTANDER_MAX_OPERATORS : BYSTANDER_MAX_FUNCTIONS;
	char	   *schema;
	char	   *name;
	Oid			namespace;
	CatCList   *list;
	int			n = 0;

	/* what is kept has no schema only if it is PostgreSQL's own */
	if (list_length(names) != 2)
		return;
	DeconstructQualifiedName(names, &schema, &name);
	namespace = get_namespace_oid(schema, true);
	list = SearchSysCacheList1(operator ? OPERNAMENSP : PROCNAMEARGSNSP, CStringGetDatum(name));
	for (int i = 0; i < list->n_members; i++)
	{
		void	   *form = GETSTRUCT(&list->members[i]->tuple);

		n += (operator ? ((Form_pg_operator) form)->oprnamespace : ((Form_pg_proc) form)->pronamespace) == namespace;
	}
	ReleaseCatCacheList(list);
	if (n > most)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("more than %d functions or operators have the name %s", most, quote_qualified_identifier(schema, name))));
}

static bool
bystander_walk_names(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, FuncCall))
		bystander_check_name(((FuncCall *) node)->funcname, false);
	if (IsA(node, A_Expr))
		bystander_check_name(((A_Expr *) node)->name, true);
	return raw_expression_tree_walker(node, bystander_walk_names, context);
}

/*
 * kapture_bystander_check_names
 *		Errors out if SQL that is kept, an expression, calls functions or operators that have too
 *		many namesakes: whoever owns these can have parsing it take minutes, and gigabytes.
 */
void
kapture_bystander_check_names(const char *sql)
{
	(void) bystander_walk_names(linitial_node(RawStmt, raw_parser(sql, RAW_PARSE_PLPGSQL_EXPR))->stmt, NULL);
}

/*
 * kapture_bystander_may_parse
 *		Tells whether a command may parse so many bytes of SQL that belong to "owner", and notes
 *		that it does.
 *
 * "*parsed" is what it has parsed so far, NIL to begin with; in the current memory context.  What
 * is the current user's own has no limit.
 */
bool
kapture_bystander_may_parse(List **parsed, Oid owner, Size bytes)
{
	BystanderParsed *of_owner = NULL;
	ListCell   *lc;

	if (owner == GetUserId())
		return true;
	foreach(lc, *parsed)
	{
		if (((BystanderParsed *) lfirst(lc))->owner == owner)
			of_owner = lfirst(lc);
	}
	if (of_owner == NULL)
	{
		of_owner = palloc0(sizeof(BystanderParsed));
		of_owner->owner = owner;
		*parsed = lappend(*parsed, of_owner);
	}
	if (of_owner->bytes + BYSTANDER_OVERHEAD + bytes > BYSTANDER_MAX_SQL)
		return false;
	of_owner->bytes += BYSTANDER_OVERHEAD + bytes;
	return true;
}

/* A statement on the extension's tables. */
typedef struct BystanderCall
{
	const char *sql;
	int			nargs;
	Oid		   *types;
	Datum	   *values;
	uint64		processed;
} BystanderCall;

static void
bystander_do_execute(void *arg)
{
	BystanderCall *call = arg;
	int			nestlevel = NewGUCNestLevel();

	kapture_bystander_hurry();
	call->processed = kapture_own_execute(call->sql, call->nargs, call->types, call->values);
	AtEOXact_GUC(false, nestlevel);
}

/*
 * kapture_bystander_execute
 *		As kapture_own_execute(), for a statement on what is kept of the attached table
 *		"relid".  Unless the current user owns the table, nothing is changed, and the
 *		result is 0, if somebody has locked what the statement needs.
 */
uint64
kapture_bystander_execute(Oid relid, const char *sql, int nargs, Oid *types, Datum *values)
{
	BystanderCall call = {sql, nargs, types, values, 0};
	ErrorData  *error;

	if (kapture_catalog_owner(relid) == GetUserId())
		return kapture_own_execute(sql, nargs, types, values);
	error = kapture_guard_step(bystander_do_execute, &call);
	if (error && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	return error ? 0 : call.processed;
}
