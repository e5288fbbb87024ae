/*
 * user_code.c
 *		Whose code may run where the extension touches users' tables.
 *
 * Reading and writing an attached table runs code of many authors, as the table's
 * owner, who may be a superuser: triggers, casts, operators, checks, defaults,
 * policies, index expressions, domains.  No code may run with rights that its
 * author lacks.  A role is trusted by another if it is the same, is a superuser,
 * or may act as it (has its rights, or may SET ROLE to it); all others are
 * strangers to it.
 *
 * These are the ways in which code comes in, and what is done about each:
 *
 * - The table.  A statement names a table, but an oid is meant.  Each time one of our
 *	 statements is analysed, also when a kept plan is made again, its tables are compared
 *	 with the one that was meant, before rules, planner and executor see them.
 * - Functions.  Whatever is written in a procedural language, SQL included, is run
 *	 by the function manager, which asks here at each call: the function's owner
 *	 (now, not when it was looked up) must be trusted by the user it would run as.
 *	 Such functions are not inlined, as the same hook prevents it.  The body of C and
 *	 internal functions can only come from a superuser.
 * - Views that an attached table's values come from.  Functions that they call run as us, so
 *	 these views, and the views that they read, must belong to trusted roles.
 * - Expressions.  They are written by the owner of the table (checks, defaults,
 *	 generated columns, rules, policies, indexes), of a partition, or of a domain,
 *	 or by whoever holds TRIGGER (conditions of triggers).  Partitions and types of
 *	 strangers are refused as such, in conditions of triggers, too.  Conditions of
 *	 triggers bear no author, so the functions that they call must be harmless: not
 *	 volatile, open to everybody, and none that runs SQL, or reads a value of a type that
 *	 it is given by name.  The other expressions may have been written by a former owner of
 *	 the table: they may call none of PostgreSQL's own functions that does something in the
 *	 owner's name, and rules may use no other relations.
 *
 * What functions do with their arguments is up to their authors: the owner of a trigger
 * function that anybody may use in a trigger must expect any arguments.  Trigger functions
 * in C that extensions bring along do not: some run their arguments as SQL, so they get no
 * arguments that others may have chosen.  If only trusted roles hold TRIGGER on a table
 * of a role that is not a superuser, the conditions of its triggers may also call volatile
 * functions of roles that are no superusers, and private functions; so whoever revokes
 * TRIGGER should look at the triggers made under it.
 *
 * Nothing is deferred: deferred triggers would fire at the end of the transaction, as
 * the transaction's user.  Constraints are immediate (row_io.c), and stay so.
 *
 * All this holds in our processes, and in sessions while our statements run.  To run
 * functions as their owners instead would not do: whoever holds TRIGGER could have
 * functions of others run in the names of these.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/transam.h"
#include "access/tupdesc.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_language.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parse_coerce.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/user_code.h"
#include "base/view_tree.h"

/* What runs just now. */
typedef struct UserCode
{
	struct UserCode *outer;
	Oid			relid;			/* the attached table; InvalidOid: tables of ours */
	List	   *beside;			/* other relations that its statements may read */
	const char *statement;		/* text of the statement of ours that runs */
	int			depth;			/* of calls of users' functions */
	bool		called;			/* has the statement called any? */
	bool		strangers;		/* strangers own partitions of the table */
} UserCode;

/* In our processes, statements outside of kapture_user_code_run() are on our own tables. */
static UserCode user_code_process;
static UserCode *user_code = NULL;

/* Were functions called, other than PostgreSQL's and ours?  And one of dblink that leaves a connection, in which schema? */
static bool user_code_called = false;
static Oid	user_code_connected = InvalidOid;

static needs_fmgr_hook_type user_code_prev_needs_hook = NULL;
static fmgr_hook_type user_code_prev_fmgr_hook = NULL;
static object_access_hook_type user_code_prev_access_hook = NULL;
static post_parse_analyze_hook_type user_code_prev_analyze_hook = NULL;
static ExecutorStart_hook_type user_code_prev_start_hook = NULL;
static ProcessUtility_hook_type user_code_prev_utility_hook = NULL;

/* Is a role the same as the user, a superuser, or able to act as the user? */
static bool
user_code_trusts(Oid userid, Oid role)
{
	return role == userid || superuser_arg(role) ||
		has_privs_of_role(role, userid) || member_can_set_role(role, userid);
}

/* Refuses "what", palloc'ed, as its owner is a stranger. */
pg_noreturn static void
user_code_refuse(Oid owner, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("code of role \"%s\" must not run as role \"%s\": %s",
					GetUserNameFromId(owner, true) ? GetUserNameFromId(owner, true) : "?",
					GetUserNameFromId(GetUserId(), false), what),
			 errhint("Give it to a superuser or to role \"%s\", or grant that role to its owner.",
					 GetUserNameFromId(GetUserId(), false))));
}

/* ------------------------------------------------------------------------
 * Functions
 * ------------------------------------------------------------------------
 */

static bool user_code_reads_tables(Oid funcid);

/* Notes what a function that is about to be called may leave behind. */
static void
user_code_note_called(Form_pg_proc proc)
{
	const char *name = NameStr(proc->proname);

	if (proc->prolang == ClanguageId)
	{
		if (strncmp(name, "kapture_", strlen("kapture_")) == 0)
			return;
		if (strcmp(name, "dblink_connect") == 0 || strcmp(name, "dblink_connect_u") == 0)
			user_code_connected = proc->pronamespace;
	}
	user_code_called = true;
}

static void
user_code_check_function(Oid funcid)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc proc;
	Oid			owner;
	bool		ours;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	owner = proc->proowner;
	ours = proc->prolang == ClanguageId || proc->prolang == INTERNALlanguageId;
	user_code_note_called(proc);
	ReleaseSysCache(tuple);
	if (!ours && !user_code_trusts(GetUserId(), owner))
		user_code_refuse(owner, psprintf("function %s", format_procedure(funcid)));
}

/* All functions but PostgreSQL's own need the hook, for "depth" to be right. */
static bool
user_code_needs_hook(Oid funcid)
{
	if (user_code_prev_needs_hook && user_code_prev_needs_hook(funcid))
		return true;
	return user_code != NULL && funcid >= FirstNormalObjectId;
}

static void
user_code_call(FmgrHookEventType event, FmgrInfo *flinfo, Datum *arg)
{
	bool		watched = user_code != NULL && flinfo->fn_oid >= FirstNormalObjectId;

	if (watched && event == FHET_START)
		user_code_check_function(flinfo->fn_oid);
	if (user_code_prev_fmgr_hook)
		user_code_prev_fmgr_hook(event, flinfo, arg);
	if (watched)
	{
		user_code->depth += event == FHET_START ? 1 : -1;
		user_code->called = true;
	}
}

/* May everybody execute a function? */
static bool
user_code_is_public(HeapTuple proc)
{
	bool		isnull;
	Datum		value = SysCacheGetAttr(PROCOID, proc, Anum_pg_proc_proacl, &isnull);
	Acl		   *acl;
	AclItem    *items;

	if (isnull)
		return true;
	acl = DatumGetAclP(value);
	items = ACL_DAT(acl);
	for (int i = 0; i < ACL_NUM(acl); i++)
	{
		if (items[i].ai_grantee == ACL_ID_PUBLIC && (ACLITEM_GET_PRIVS(items[i]) & ACL_EXECUTE))
			return true;
	}
	return false;
}

/* Does a function take text? */
static bool
user_code_takes_text(HeapTuple tuple)
{
	Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);

	for (int i = 0; i < proc->pronargs; i++)
	{
		if (TypeCategory(proc->proargtypes.values[i]) == TYPCATEGORY_STRING)
			return true;
	}
	return false;
}

/*
 * Functions of PostgreSQL's own that are volatile, but do nothing in the name of whoever
 * calls them.  By their names, as not all versions have all.
 */
static bool
user_code_is_idle(const char *name)
{
	static const char *const names[] = {
		"clock_timestamp", "currval", "gen_random_uuid", "lastval", "nextval", "pg_sleep", "pg_sleep_for", "pg_sleep_until",
		"random", "random_normal", "timeofday", "uuidv4", "uuidv7"
	};

	for (int i = 0; i < lengthof(names); i++)
	{
		if (strcmp(names[i], name) == 0)
			return true;
	}
	return false;
}

/*
 * Why an expression whose author is not known must not call a function; NULL if it may.
 * Functions that are not in C are judged by their owner when they are called, also from the checks of a
 * type.  Functions in C of an extension do the same for everybody, but a superuser must not be made to pass
 * them SQL.
 */
static const char *
user_code_objection(HeapTuple tuple)
{
	Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);
	bool		is_volatile = proc->provolatile == PROVOLATILE_VOLATILE;

	if (proc->oid >= FirstNormalObjectId)
		return proc->prolang == ClanguageId && is_volatile && user_code_takes_text(tuple) && superuser() ?
			"It may do what its arguments say with a superuser's rights, and the author of the expression is not known." : NULL;
	if (!user_code_is_public(tuple))
		return "EXECUTE on it is not granted to PUBLIC, and the author of the expression is not known.";
	if (is_volatile ? !user_code_is_idle(NameStr(proc->proname)) : user_code_reads_tables(proc->oid))
		return "It may act or read with the rights of the table's owner, and the author of the expression is not known.";
	return NULL;
}

/* An expression is about to call a function. */
static void
user_code_access(ObjectAccessType access, Oid class, Oid object, int subid, void *arg)
{
	HeapTuple	tuple;
	const char *objection;

	if (user_code_prev_access_hook)
		user_code_prev_access_hook(access, class, object, subid, arg);
	if (access != OAT_FUNCTION_EXECUTE ||
		user_code == NULL || !OidIsValid(user_code->relid) || user_code->depth > 0)
		return;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(object));
	objection = HeapTupleIsValid(tuple) ? user_code_objection(tuple) : NULL;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	if (objection)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("expressions of a table must not call function %s here", format_procedure(object)),
				 errdetail_internal("%s", objection),
				 errhint("Call it in a function.")));
}

/* ------------------------------------------------------------------------
 * Types
 * ------------------------------------------------------------------------
 */

/* Checks the types of the columns of a relation, or of the fields of a composite type. */
static void
user_code_check_columns(TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);

		if (!attr->attisdropped)
			kapture_user_code_check_type(attr->atttypid);
	}
}

/*
 * Errors out (42501) if a type holds an expression of a role that the current user does
 * not trust: that of a domain, also within other types.
 */
void
kapture_user_code_check_type(Oid type)
{
	HeapTuple	tuple;
	Form_pg_type form;
	Oid			owner;
	Oid			inner;
	char		kind;

	if (type < FirstNormalObjectId)
		return;
	check_stack_depth();
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	form = (Form_pg_type) GETSTRUCT(tuple);
	owner = form->typowner;
	kind = form->typtype;
	inner = kind == TYPTYPE_DOMAIN ? form->typbasetype : get_element_type(type);
	ReleaseSysCache(tuple);

	if (kind == TYPTYPE_RANGE)
		inner = get_range_subtype(type);
	else if (kind == TYPTYPE_MULTIRANGE)
		inner = get_multirange_range(type);
	if ((kind == TYPTYPE_DOMAIN || kind == TYPTYPE_COMPOSITE) && !user_code_trusts(GetUserId(), owner))
		user_code_refuse(owner, psprintf("type %s", format_type_extended(type, -1, FORMAT_TYPE_FORCE_QUALIFY)));
	if (OidIsValid(inner))
		kapture_user_code_check_type(inner);
	else if (kind == TYPTYPE_COMPOSITE)
	{
		TupleDesc	desc = lookup_rowtype_tupdesc(type, -1);

		user_code_check_columns(desc);
		ReleaseTupleDesc(desc);
	}
}

/* ------------------------------------------------------------------------
 * Conditions of triggers
 * ------------------------------------------------------------------------
 */

typedef struct UserCodeCondition
{
	bool		closed;			/* TRIGGER is held by trusted roles only */
	Oid			culprit;		/* a function that the condition must not call */
} UserCodeCondition;

static bool
user_code_is_one_of(Oid funcid, const Oid *functions, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (functions[i] == funcid)
			return true;
	}
	return false;
}

/* Functions that are not volatile, but read what their arguments name. */
static bool
user_code_reads_tables(Oid funcid)
{
	static const Oid functions[] = {
		F_TABLE_TO_XML, F_TABLE_TO_XMLSCHEMA, F_TABLE_TO_XML_AND_XMLSCHEMA,
		F_SCHEMA_TO_XML, F_SCHEMA_TO_XMLSCHEMA, F_SCHEMA_TO_XML_AND_XMLSCHEMA,
		F_DATABASE_TO_XML, F_DATABASE_TO_XMLSCHEMA, F_DATABASE_TO_XML_AND_XMLSCHEMA
	};

	return user_code_is_one_of(funcid, functions, lengthof(functions));
}

/* Functions that run the checks of a type that their arguments name. */
static bool
user_code_reads_values(Oid funcid)
{
	static const Oid functions[] = {
		F_DOMAIN_IN, F_ARRAY_IN, F_RECORD_IN, F_RANGE_IN, F_MULTIRANGE_IN,
		F_PG_INPUT_IS_VALID, F_PG_INPUT_ERROR_INFO
	};

	return user_code_is_one_of(funcid, functions, lengthof(functions));
}

/*
 * Tells whether an expression may call a function of PostgreSQL's own whoever wrote
 * it: it changes nothing, everybody may execute it, and it runs no other code.
 */
bool
kapture_user_code_is_harmless(Oid funcid)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	result = ((Form_pg_proc) GETSTRUCT(tuple))->provolatile != PROVOLATILE_VOLATILE &&
		!user_code_reads_tables(funcid) && !user_code_reads_values(funcid) && user_code_is_public(tuple);
	ReleaseSysCache(tuple);
	return result;
}

/* Notes a function that a condition must not call. */
static bool
user_code_check_call(Oid funcid, void *context)
{
	UserCodeCondition *condition = context;
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc proc;
	bool		allowed;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (proc->provolatile != PROVOLATILE_VOLATILE || funcid == F_CLOCK_TIMESTAMP)
		allowed = !user_code_reads_tables(funcid) && !user_code_reads_values(funcid) &&
			((condition->closed && funcid >= FirstNormalObjectId) || user_code_is_public(tuple));
	else
		allowed = condition->closed && funcid >= FirstNormalObjectId && !superuser_arg(proc->proowner);
	ReleaseSysCache(tuple);
	if (!allowed)
		condition->culprit = funcid;
	return !allowed;
}

static bool
user_code_check_condition(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Const:
		case T_FuncExpr:
		case T_OpExpr:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CoerceToDomain:
		case T_ConvertRowtypeExpr:
			kapture_user_code_check_type(exprType(node));	/* its checks are no functions of the condition */
			break;
		default:
			break;
	}
	/* a CoerceViaIO reads a value of the type that was just checked */
	if (!IsA(node, CoerceViaIO) && check_functions_in_node(node, user_code_check_call, context))
		return true;
	return expression_tree_walker(node, user_code_check_condition, context);
}

/* Do only trusted roles hold TRIGGER on a table, and is the current user no superuser? */
static bool
user_code_is_closed(Relation rel)
{
	HeapTuple	tuple;
	Datum		value;
	bool		isnull;
	bool		closed = !superuser_arg(GetUserId());

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(RelationGetRelid(rel)));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", RelationGetRelid(rel));
	value = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	if (!user_code_trusts(GetUserId(), rel->rd_rel->relowner))
		closed = false;
	if (!isnull)
	{
		Acl		   *acl = DatumGetAclP(value);
		AclItem    *items = ACL_DAT(acl);

		for (int i = 0; i < ACL_NUM(acl); i++)
		{
			if ((ACLITEM_GET_PRIVS(items[i]) & ACL_TRIGGER) &&
				(items[i].ai_grantee == ACL_ID_PUBLIC || !user_code_trusts(GetUserId(), items[i].ai_grantee)))
				closed = false;
		}
	}
	ReleaseSysCache(tuple);
	return closed;
}

/* Refuses a condition of a trigger that calls what is not harmless. */
static void
user_code_check_trigger_condition(Relation rel, const Trigger *trigger, bool closed)
{
	UserCodeCondition condition = {.closed = closed};

	if (user_code_check_condition(stringToNode(trigger->tgqual), &condition))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("condition of trigger \"%s\" of table \"%s\" must not call function %s as role \"%s\"",
						trigger->tgname, RelationGetRelationName(rel), format_procedure(condition.culprit),
						GetUserNameFromId(GetUserId(), false)),
				 errdetail("Whoever holds TRIGGER on the table may have written the condition."),
				 errhint("Move the condition into the trigger's function, or call no functions in it that are volatile or not for everybody.")));
}

/* Can only superusers name what is in a schema?  Then triggers that use its functions can only be theirs. */
static bool
user_code_is_private(Oid namespace)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(namespace));
	bool		isnull;
	Datum		value;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", namespace);
	result = superuser_arg(((Form_pg_namespace) GETSTRUCT(tuple))->nspowner);
	value = SysCacheGetAttr(NAMESPACEOID, tuple, Anum_pg_namespace_nspacl, &isnull);
	if (!isnull)
	{
		Acl		   *acl = DatumGetAclP(value);
		AclItem    *items = ACL_DAT(acl);

		for (int i = 0; i < ACL_NUM(acl); i++)
		{
			if ((ACLITEM_GET_PRIVS(items[i]) & ACL_USAGE) &&
				(items[i].ai_grantee == ACL_ID_PUBLIC || !superuser_arg(items[i].ai_grantee)))
				result = false;
		}
	}
	ReleaseSysCache(tuple);
	return result;
}

/*
 * May a trigger function in C do things with its arguments for which only their author should
 * answer?  Some functions of extensions make SQL of them.  Exempt are those that are known
 * to do no more than set a column, our own, and those in a schema of superusers, as pg_repack's.
 */
static bool
user_code_obeys_arguments(Oid funcid)
{
	static const char *const harmless[] = {"autoinc", "insert_username", "moddatetime"};
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc proc;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	result = proc->prolang == ClanguageId && funcid >= FirstNormalObjectId && !user_code_is_private(proc->pronamespace) &&
		!(strncmp(NameStr(proc->proname), "kapture_", strlen("kapture_")) == 0 &&
		  proc->pronamespace == get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)));
	for (int i = 0; i < lengthof(harmless); i++)
		result &= strcmp(NameStr(proc->proname), harmless[i]) != 0;
	ReleaseSysCache(tuple);
	return result;
}

/* Refuses triggers by which whoever holds TRIGGER on a table could have its owner do something. */
static void
user_code_check_triggers(Oid relid)
{
	Relation	rel = relation_open(relid, NoLock);

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &rel->trigdesc->triggers[i];

		if (trigger->tgenabled == TRIGGER_DISABLED)
			continue;
		if (trigger->tgqual)
			user_code_check_trigger_condition(rel, trigger, user_code_is_closed(rel));
		if (trigger->tgnargs > 0 && user_code_obeys_arguments(trigger->tgfoid) && !user_code_is_closed(rel))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("trigger \"%s\" of table \"%s\" must not give arguments to function %s as role \"%s\"",
							trigger->tgname, RelationGetRelationName(rel), format_procedure(trigger->tgfoid),
							GetUserNameFromId(GetUserId(), false)),
					 errdetail("Whoever holds TRIGGER on the table may have chosen them, and a function in C may run them as SQL."),
					 errhint("Call what it does in a function of the table's owner, or give the table to a role that is not a superuser, and let nobody else hold TRIGGER on it.")));
	}
	relation_close(rel, NoLock);
}

/* ------------------------------------------------------------------------
 * Tables
 * ------------------------------------------------------------------------
 */

/* Is this the statement of ours that runs?  (If a user's is the same, it means the same.) */
static bool
user_code_is_ours(const char *text)
{
	return user_code->statement && text && strcmp(text, user_code->statement) == 0;
}

/* A table in a statement of ours must be the one that is meant, or one of the extension's. */
static void
user_code_check_table(Oid relid)
{
	Oid			namespace = get_rel_namespace(relid);

	if (OidIsValid(user_code->relid) ? relid == user_code->relid || list_member_oid(user_code->beside, relid) :
		namespace == PG_CATALOG_NAMESPACE || namespace == get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 OidIsValid(user_code->relid) ?
			 errmsg("table \"%s\" was renamed meanwhile", get_rel_name(user_code->relid)) :
			 errmsg("the schema of extension \"%s\" was renamed meanwhile", KAPTURE_EXTENSION)));
}

static Oid
user_code_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Refuses a view of a stranger, or one that reads such a view: what it calls would run as us. */
static void
user_code_check_views(Oid relid)
{
	ListCell   *lc;

	if (get_rel_relkind(relid) != RELKIND_VIEW)
		return;
	foreach(lc, kapture_view_tree(relid))
	{
		Oid			owner = user_code_owner(lfirst_oid(lc));

		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_VIEW && !user_code_trusts(GetUserId(), owner))
			user_code_refuse(owner, psprintf("view %s",
											 quote_qualified_identifier(get_namespace_name(get_rel_namespace(lfirst_oid(lc))),
																		get_rel_name(lfirst_oid(lc)))));
	}
}

/* Checks tables and types in a statement of ours. */
static bool
user_code_check_node(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		ListCell   *lc;

		foreach(lc, ((Query *) node)->rtable)
		{
			RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

			if (rte->rtekind != RTE_RELATION)
				continue;
			user_code_check_table(rte->relid);
			user_code_check_views(rte->relid);
		}
		return query_tree_walker((Query *) node, user_code_check_node, context, 0);
	}
	switch (nodeTag(node))
	{
		case T_Var:
		case T_Param:
		case T_FuncExpr:
		case T_OpExpr:
		case T_RelabelType:
		case T_CoerceViaIO:
		case T_ArrayCoerceExpr:
		case T_CoerceToDomain:
			kapture_user_code_check_type(exprType(node));
			break;
		default:
			break;
	}
	return expression_tree_walker(node, user_code_check_node, context);
}

/* Called when a statement was analysed: checks what it means if it is one of ours. */
static void
user_code_analyzed(ParseState *pstate, Query *query, KaptureJumbleState *jstate)
{
	if (user_code_prev_analyze_hook)
		user_code_prev_analyze_hook(pstate, query, jstate);
	if (user_code && user_code_is_ours(pstate->p_sourcetext))
		(void) user_code_check_node((Node *) query, NULL);
}

/*
 * Checks a table that is about to be written.  A stranger's part of our statement's table is
 * not written if rows in there were sorted out before.
 */
static void
user_code_check_target(Oid relid, bool ours)
{
	if (ours && relid != user_code->relid && (get_rel_relispartition(relid) || has_superclass(relid)) &&
		!user_code_trusts(GetUserId(), user_code_owner(relid)))
	{
		if (!user_code->strangers)
			kapture_user_code_check_partition(relid);
		return;
	}
	user_code_check_triggers(relid);
}

/* Is a relation one that our statement on the table names, or a part of the table? */
static bool
user_code_is_named(Oid relid)
{
	if (relid == user_code->relid || list_member_oid(user_code->beside, relid))
		return true;
	return (get_rel_relispartition(relid) || has_superclass(relid)) &&
		list_member_oid(find_all_inheritors(user_code->relid, NoLock, NULL), relid);
}

/*
 * Refuses a rule of the table by which our statement reads or writes other relations: that
 * would be with the rights of the table's present owner, and the rule's author is not known.
 */
static void
user_code_check_rules(QueryDesc *desc)
{
	ListCell   *lc;

	foreach(lc, desc->plannedstmt->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && !user_code_is_named(rte->relid))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("a rule of table \"%s\" must not use relation \"%s\" as role \"%s\"",
							get_rel_name(user_code->relid), get_rel_name(rte->relid), GetUserNameFromId(GetUserId(), false)),
					 errdetail("The author of the rule is not known."),
					 errhint("Use a trigger instead of the rule.")));
	}
}

/* Checks the tables that a statement is to write. */
static void
user_code_check_targets(QueryDesc *desc)
{
	bool		ours = OidIsValid(user_code->relid) && user_code_is_ours(desc->sourceText);
	ListCell   *lc;
	ListCell   *pc;

	/* of our statements that write; queries that rules add, also to read, do not set the command's tag */
	if (ours && (desc->operation != CMD_SELECT || !desc->plannedstmt->canSetTag))
		user_code_check_rules(desc);

	foreach(lc, desc->plannedstmt->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind != RTE_RELATION || rte->rellockmode != RowExclusiveLock)
			continue;
		if (get_rel_relkind(rte->relid) != RELKIND_PARTITIONED_TABLE)
		{
			user_code_check_target(rte->relid, ours);
			continue;
		}
		/* rows may be routed to any partition: locked, so that no trigger comes in after the check */
		foreach(pc, find_all_inheritors(rte->relid, RowExclusiveLock, NULL))
			user_code_check_target(lfirst_oid(pc), ours);
	}
}

static void
user_code_executor_start(QueryDesc *desc, int eflags)
{
	if (user_code)
		user_code_check_targets(desc);
	if (user_code_prev_start_hook)
		user_code_prev_start_hook(desc, eflags);
	else
		standard_ExecutorStart(desc, eflags);
}

/* Refuses to defer constraints: a deferred trigger would fire when all this is over, as another user. */
static void
user_code_utility(PlannedStmt *pstmt, const char *text, bool read_only_tree, ProcessUtilityContext context,
				  ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	if (user_code && IsA(pstmt->utilityStmt, ConstraintsSetStmt) &&
		((ConstraintsSetStmt *) pstmt->utilityStmt)->deferred)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("constraints cannot be deferred by code of an attached table that kapture_sync runs")));
	if (user_code_prev_utility_hook)
		user_code_prev_utility_hook(pstmt, text, read_only_tree, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, text, read_only_tree, context, params, env, dest, qc);
}

/* Does a partition of the table belong to a stranger? */
static bool
user_code_find_strangers(Relation rel)
{
	ListCell   *lc;

	if (rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		return false;
	foreach(lc, find_all_inheritors(RelationGetRelid(rel), AccessShareLock, NULL))
	{
		if (!user_code_trusts(GetUserId(), user_code_owner(lfirst_oid(lc))))
			return true;
	}
	return false;
}

/*
 * Does a stranger own a partition of the table that statements are run on?  Then each
 * row is to be checked with kapture_user_code_check_partition().
 */
bool
kapture_user_code_has_strangers(void)
{
	return user_code && user_code->strangers;
}

/*
 * Errors out (42501) if a row's table does not belong to a role that the current
 * user trusts: checks, indexes and triggers of the table are its owner's.
 */
void
kapture_user_code_check_partition(Oid relid)
{
	Oid			owner = user_code_owner(relid);

	if (!user_code_trusts(GetUserId(), owner))
		user_code_refuse(owner, psprintf("partition %s",
										 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
																	get_rel_name(relid))));
}

/*
 * Checks all partitions of the table like kapture_user_code_check_partition(), for
 * statements that may put a row into any of them.
 */
void
kapture_user_code_check_partitions(void)
{
	ListCell   *lc;

	if (!kapture_user_code_has_strangers())
		return;
	foreach(lc, find_all_inheritors(user_code->relid, AccessShareLock, NULL))
		kapture_user_code_check_partition(lfirst_oid(lc));
}

/* ------------------------------------------------------------------------
 * Running
 * ------------------------------------------------------------------------
 */

/*
 * To be called in PG_CATCH: raises the error again, with code 40001 if the table exists,
 * but was not found, as it was renamed since the statement was written.
 */
static void
user_code_rethrow(const UserCode *run, MemoryContext context)
{
	ErrorData  *error;

	if (!OidIsValid(run->relid) || run->statement == NULL || run->called ||
		(geterrcode() != ERRCODE_UNDEFINED_TABLE && geterrcode() != ERRCODE_UNDEFINED_SCHEMA))
		PG_RE_THROW();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	error->sqlerrcode = ERRCODE_T_R_SERIALIZATION_FAILURE;
	ReThrowError(error);
}

/*
 * Runs work(arg), as the current user, with all that the file's header says: on an attached
 * table, where statements may also read the relations "beside", or, if "rel" is NULL, on the
 * extension's own tables.  Errors: 42501 for a stranger's code, 40001 if the table was
 * renamed, and those of the work.
 */
void
kapture_user_code_run(Relation rel, List *beside, void (*work) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	UserCode	run = {.outer = user_code, .beside = beside};

	run.relid = rel ? RelationGetRelid(rel) : InvalidOid;
	user_code = &run;
	PG_TRY();
	{
		if (rel)
		{
			user_code_check_columns(RelationGetDescr(rel));
			run.strangers = user_code_find_strangers(rel);
		}
		work(arg);
	}
	PG_CATCH();
	{
		user_code = run.outer;
		user_code_rethrow(&run, context);
	}
	PG_END_TRY();
	user_code = run.outer;
}

/*
 * Lets statements of the present run read other relations, too (list of oids, which must
 * last as long as the run).
 */
void
kapture_user_code_allow(List *relations)
{
	if (user_code)
		user_code->beside = list_concat_unique_oid(list_copy(user_code->beside), relations);
}

/*
 * Tells whether functions other than PostgreSQL's own and ours have been called since
 * kapture_user_code_take_called().
 */
bool
kapture_user_code_has_called(void)
{
	return user_code_called;
}

/*
 * Tells the same for the last time.  Sets *connected to the schema of dblink if it has been had to open a
 * connection that stays; InvalidOid: it has not.
 */
bool
kapture_user_code_take_called(Oid *connected)
{
	bool		called = user_code_called;

	*connected = user_code_connected;
	user_code_called = false;
	user_code_connected = InvalidOid;
	return called;
}

/* Names the statement that runs next; does nothing in sessions that read our tables outside of a run. */
static void
user_code_expect(const char *statement)
{
	if (user_code == NULL)
		return;
	user_code->statement = statement;
	user_code->called = false;
}

/*
 * To be called in PG_CATCH: the statement has ended with an error, and its text may be freed
 * with its caller's memory.  An empty text still tells that a statement of ours has failed.
 */
static void
user_code_forget_text(void)
{
	if (user_code && user_code->statement)
		user_code->statement = "";
}

/* A call of SPI for a statement, and what it returns. */
typedef struct UserStatement
{
	const char *sql;
	SPIPlanPtr	plan;
	int			nargs;
	Oid		   *types;
	Datum	   *values;
	const char *nulls;
	int			options;		/* of a cursor */
	bool		read_only;
	Snapshot	snapshot;
	int			rc;
} UserStatement;

/* Calls SPI for a statement, which is known by "text" during the call. */
static void
user_code_call_spi(const char *text, void (*call) (UserStatement *statement), UserStatement *statement)
{
	user_code_expect(text);
	PG_TRY();
	{
		call(statement);
	}
	PG_CATCH();
	{
		user_code_forget_text();
		PG_RE_THROW();
	}
	PG_END_TRY();
	user_code_expect(NULL);
}

static void
user_code_do_prepare(UserStatement *statement)
{
	statement->plan = SPI_prepare_cursor(statement->sql, statement->nargs, statement->types, statement->options);
}

static void
user_code_do_execute_plan(UserStatement *statement)
{
	statement->rc = SPI_execute_snapshot(statement->plan, statement->values, NULL, statement->snapshot,
										 InvalidSnapshot, false, true, 0);
}

static void
user_code_do_execute(UserStatement *statement)
{
	statement->rc = SPI_execute_with_args(statement->sql, statement->nargs, statement->types, statement->values,
										  statement->nulls, statement->read_only, 0);
}

/*
 * As SPI_prepare_cursor(), for a statement on the table of the present run, or on the
 * extension's tables; does not return without a plan.
 */
SPIPlanPtr
kapture_user_code_prepare(const char *sql, int nargs, Oid *types, int options)
{
	UserStatement statement = {.sql = sql, .nargs = nargs, .types = types, .options = options};

	user_code_call_spi(sql, user_code_do_prepare, &statement);
	if (statement.plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	return statement.plan;
}

static const char *
user_code_plan_text(SPIPlanPtr plan)
{
	return ((CachedPlanSource *) linitial(SPI_plan_get_plan_sources(plan)))->query_string;
}

/*
 * Tells whether a plan was made for exactly this text.
 */
bool
kapture_user_code_is_plan_of(SPIPlanPtr plan, const char *sql)
{
	return strcmp(user_code_plan_text(plan), sql) == 0;
}

/*
 * Names the plan, which must be a kept one, that the caller runs next without
 * kapture_user_code_execute_plan().
 */
void
kapture_user_code_expect(SPIPlanPtr plan)
{
	user_code_expect(user_code_plan_text(plan));
}

/*
 * As SPI_execute_plan(), for a plan of kapture_user_code_prepare(); under the caller's
 * snapshot, if one is given.
 */
int
kapture_user_code_execute_plan(SPIPlanPtr plan, Datum *values, Snapshot snapshot)
{
	UserStatement statement = {.plan = plan, .values = values, .snapshot = snapshot};

	user_code_call_spi(user_code_plan_text(plan), user_code_do_execute_plan, &statement);
	return statement.rc;
}

/*
 * As SPI_execute_with_args(), for a statement on the table of the present run, or on the
 * extension's tables.
 */
int
kapture_user_code_execute(const char *sql, int nargs, Oid *types, Datum *values,
						  const char *nulls, bool read_only)
{
	UserStatement statement = {.sql = sql, .nargs = nargs, .types = types, .values = values,
		.nulls = nulls, .read_only = read_only
	};

	user_code_call_spi(sql, user_code_do_execute, &statement);
	return statement.rc;
}

/*
 * As kapture_user_code_execute(), for a query, whose rows SPI has afterwards.
 */
void
kapture_user_code_select(const char *sql, int nargs, Oid *types, Datum *values,
						 const char *nulls, bool read_only)
{
	int			rc = kapture_user_code_execute(sql, nargs, types, values, nulls, read_only);

	if (rc != SPI_OK_SELECT)
		elog(ERROR, "unexpected SPI result %d", rc);
}

/*
 * To be called in a process of ours: from now on, all that it runs is watched.
 */
void
kapture_user_code_enter_process(void)
{
	user_code = &user_code_process;
}

/*
 * Installs the hooks.  Called once from _PG_init().
 */
void
kapture_user_code_install(void)
{
	user_code_prev_needs_hook = needs_fmgr_hook;
	needs_fmgr_hook = user_code_needs_hook;
	user_code_prev_fmgr_hook = fmgr_hook;
	fmgr_hook = user_code_call;
	user_code_prev_access_hook = object_access_hook;
	object_access_hook = user_code_access;
	user_code_prev_analyze_hook = post_parse_analyze_hook;
	post_parse_analyze_hook = user_code_analyzed;
	user_code_prev_start_hook = ExecutorStart_hook;
	ExecutorStart_hook = user_code_executor_start;
	user_code_prev_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = user_code_utility;
}
