/*
 * compat.h
 *		What differs between the supported PostgreSQL versions (15 and later).
 *
 * The only file that looks at PG_VERSION_NUM.  Everything is offered under
 * the name and with the arguments of the newest version.
 */
#ifndef KAPTURE_COMPAT_H
#define KAPTURE_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_namespace.h"
#include "commands/trigger.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/pathnode.h"
#include "optimizer/plancat.h"
#include "parser/analyze.h"
#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/datetime.h"
#include "utils/guc.h"
#include "utils/guc_tables.h"
#include "utils/jsonb.h"
#include "utils/wait_event.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

#if PG_VERSION_NUM < 150000
#error "kapture_sync needs PostgreSQL 15 or later"
#endif

/* 16 replaced the per-catalog ACL checks by object_aclcheck(). */
#if PG_VERSION_NUM < 160000
static inline AclResult
object_aclcheck(Oid classid, Oid objectid, Oid roleid, AclMode mode)
{
	if (classid == NamespaceRelationId)
		return pg_namespace_aclcheck(objectid, roleid, mode);
	Assert(classid == ForeignServerRelationId);
	return pg_foreign_server_aclcheck(objectid, roleid, mode);
}

static inline bool
object_ownercheck(Oid classid, Oid objectid, Oid roleid)
{
	if (classid == DatabaseRelationId)
		return pg_database_ownercheck(objectid, roleid);
	if (classid == ForeignServerRelationId)
		return pg_foreign_server_ownercheck(objectid, roleid);
	Assert(classid == RelationRelationId);
	return pg_class_ownercheck(objectid, roleid);
}
#endif

/* 16 added functions that try whether a text is good input; InvalidOid is no function. */
#if PG_VERSION_NUM < 160000
#define F_PG_INPUT_IS_VALID		InvalidOid
#define F_PG_INPUT_ERROR_INFO	InvalidOid
#endif

/* 16 distinguishes memberships that allow SET ROLE from others. */
#if PG_VERSION_NUM < 160000
#define member_can_set_role(member, role) is_member_of_role((member), (role))
#endif

/* 16 can enable a single clone of a trigger, and leave partitions alone. */
#if PG_VERSION_NUM < 160000
#define EnableDisableTrigger(rel, tgname, tgparent, fires_when, skip_system, recurse, lockmode) \
	EnableDisableTrigger((rel), (tgname), (fires_when), (skip_system), (lockmode))
#endif

/* 16 lets callers say where errors of names are to be stored. */
#if PG_VERSION_NUM < 160000
#define stringToQualifiedNameList(string, escontext) \
	stringToQualifiedNameList(string)
#endif

/* 19 renamed the hook about what the planner knows of a relation, and calls it for each relation. */
#if PG_VERSION_NUM < 190000
typedef get_relation_info_hook_type build_simple_rel_hook_type;
#define build_simple_rel_hook	get_relation_info_hook
#define KAPTURE_SIMPLE_REL_PARAMETERS	PlannerInfo *root, Oid relid, bool inhparent, RelOptInfo *rel
#define KAPTURE_SIMPLE_REL_ARGUMENTS	root, relid, inhparent, rel
#define KAPTURE_SIMPLE_REL_OID	relid
#else
#define KAPTURE_SIMPLE_REL_PARAMETERS	PlannerInfo *root, RelOptInfo *rel, RangeTblEntry *rte
#define KAPTURE_SIMPLE_REL_ARGUMENTS	root, rel, rte
#define KAPTURE_SIMPLE_REL_OID	(rte->rtekind == RTE_RELATION ? rte->relid : InvalidOid)
#endif

/* 19 has hooks leave the jumbled query alone. */
#if PG_VERSION_NUM < 190000
typedef JumbleState KaptureJumbleState;
#else
typedef const JumbleState KaptureJumbleState;
#endif

/* 15.4 marks databases whose DROP DATABASE broke off. */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB -2
#endif

/* 17 lets the caller provide the memory of the lexer. */
#if PG_VERSION_NUM < 170000
#define makeJsonLexContextCstringLen(lex, json, len, encoding, need_escapes) \
	makeJsonLexContextCstringLen((char *) (json), (len), (encoding), (need_escapes))
#endif

/* 17 asks for the kind of process by a macro. */
#if PG_VERSION_NUM < 170000
#define AmBackgroundWorkerProcess() IsBackgroundWorker
#endif

/* 17 numbers processes by a variable. */
#if PG_VERSION_NUM < 170000
#define MyProcNumber	(MyProc->pgprocno)
#endif

/* 17 ties a wait event set to a resource owner; NULL is the session. */
#if PG_VERSION_NUM < 170000
#define CreateWaitEventSet(resowner, nevents) \
	CreateWaitEventSet(TopMemoryContext, (nevents))
#endif

/* 17 lets extensions name their wait events. */
#if PG_VERSION_NUM < 170000
#define WaitEventExtensionNew(name) ((uint32) PG_WAIT_EXTENSION)
#endif

/* 17 lets ALTER TABLE give a generated column another expression. */
#if PG_VERSION_NUM < 170000
#define AT_SetExpression ((AlterTableType) -1)
#endif

/* 18 has a word for functions that do not return, which stands before the declaration. */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 18 has generated columns that are computed when they are read. */
#if PG_VERSION_NUM < 180000
#define ATTRIBUTE_GENERATED_VIRTUAL 'v'
#endif

/*
 * To insert a row, 18 wants a snapshot if the table may have toasted rows, earlier versions
 * only if the row is toasted.  Minor releases of earlier versions have the assertion of 18.
 */
#if PG_VERSION_NUM >= 180000 || defined(USE_ASSERT_CHECKING)
#define KAPTURE_INSERT_WANTS_SNAPSHOT	true
#else
#define KAPTURE_INSERT_WANTS_SNAPSHOT	false
#endif

/* 19 made flags of the switches of ExecInsertIndexTuples(), of which 16 had added one. */
#if PG_VERSION_NUM < 160000
#define kapture_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#elif PG_VERSION_NUM < 190000
#define kapture_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#else
#define kapture_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, estate, 0, slot, NIL, NULL)
#endif

/* 18 checks the constraints of an existing row, too, which it is given. */
#if PG_VERSION_NUM < 180000
#define ExecCheckIndexConstraints(rri, slot, estate, conflict, tupleid, arbiters) \
	ExecCheckIndexConstraints(rri, slot, estate, conflict, arbiters)
#endif

/* 19 builds jsonb in a struct, where callers had only its parse state before. */
#if PG_VERSION_NUM < 190000
typedef struct JsonbInState
{
	JsonbValue *result;			/* the completed value */
	JsonbParseState *parseState;
} JsonbInState;

static inline void
kapture_push_jsonb_value(JsonbInState *state, JsonbIteratorToken token, JsonbValue *value)
{
	state->result = pushJsonbValue(&state->parseState, token, value);
}

#define pushJsonbValue(state, token, value) \
	kapture_push_jsonb_value((state), (token), (value))
#endif

/* 19 knows only strings that conform to the standard. */
#if PG_VERSION_NUM >= 190000
#define standard_conforming_strings true
#endif

/* 19 has cases marked that fall through on purpose. */
#ifndef pg_fallthrough
#if defined(__has_attribute)
#if __has_attribute(fallthrough)
#define pg_fallthrough __attribute__((fallthrough))
#endif
#endif
#ifndef pg_fallthrough
#define pg_fallthrough ((void) 0)
#endif
#endif

/* 19 ends background workers that are in the way of a command on databases. */
#if PG_VERSION_NUM < 190000
#define BGWORKER_INTERRUPTIBLE 0
#endif

/* 16 added an argument for details of errors about a time. */
#if PG_VERSION_NUM < 160000
typedef struct DateTimeErrorExtra
{
	const char *dtee_timezone;
} DateTimeErrorExtra;

#define DecodeDateTime(field, ftype, nf, dtype, tm, fsec, tzp, extra) \
	((void) (extra), \
	 DecodeDateTime((field), (ftype), (nf), (dtype), (tm), (fsec), (tzp)))
#endif

/* 16 lets the actions of a JSON parser return errors. */
#if PG_VERSION_NUM < 160000
#define KAPTURE_JSON_ACTION		static void
#define KAPTURE_JSON_RETURN		return
#else
#define KAPTURE_JSON_ACTION		static JsonParseErrorType
#define KAPTURE_JSON_RETURN		return JSON_SUCCESS
#endif

/* 18 gave EXPLAIN's state and output files of their own. */
#if PG_VERSION_NUM < 180000
#include "commands/explain.h"
#else
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#endif

/* 17 and 18 added arguments for restrictions and disabled nodes. */
#if PG_VERSION_NUM < 170000
#define kapture_foreignscan_path(root, rel, rows, disabled, cost, outer) \
	create_foreignscan_path((root), (rel), NULL, (rows), 0, (cost), NIL, \
							(outer), NULL, NIL)
#elif PG_VERSION_NUM < 180000
#define kapture_foreignscan_path(root, rel, rows, disabled, cost, outer) \
	create_foreignscan_path((root), (rel), NULL, (rows), 0, (cost), NIL, \
							(outer), NULL, NIL, NIL)
#else
#define kapture_foreignscan_path(root, rel, rows, disabled, cost, outer) \
	create_foreignscan_path((root), (rel), NULL, (rows), (disabled), 0, (cost), NIL, \
							(outer), NULL, NIL, NIL)
#endif

/* 16 moved the user whose rights count from the range table to the plan. */
#if PG_VERSION_NUM < 160000
#define kapture_scan_user(node) \
	(exec_rt_fetch(((ForeignScan *) (node)->ss.ps.plan)->scan.scanrelid, \
				   (node)->ss.ps.state)->checkAsUser)
#else
#define kapture_scan_user(node) \
	(((ForeignScan *) (node)->ss.ps.plan)->checkAsUser)
#endif

/*
 * ... and that of an INSERT or UPDATE, too.  Partitions that rows are routed to
 * have no entry of their own.
 */
#if PG_VERSION_NUM < 160000
#define ExecGetResultRelCheckAsUser(rri, estate) \
	kapture_result_user(rri, estate)

static inline Oid
kapture_result_user(ResultRelInfo *rri, EState *estate)
{
	ResultRelInfo *root = rri->ri_RootResultRelInfo ? rri->ri_RootResultRelInfo : rri;
	Index		index = rri->ri_RangeTableIndex ? rri->ri_RangeTableIndex : root->ri_RangeTableIndex;
	Oid			userid = index ? exec_rt_fetch(index, estate)->checkAsUser : InvalidOid;

	return OidIsValid(userid) ? userid : GetUserId();
}
#endif

/* 16 keeps all settings in a hash table. */
#if PG_VERSION_NUM < 160000
static inline struct config_generic **
kapture_all_settings(int *n)
{
	*n = GetNumConfigOptions();
	return get_guc_variables();
}
#else
#define kapture_all_settings(n) get_guc_variables(n)
#endif

/*
 * Until 16 walkers were declared without parameters, which C23 takes for none.
 * The cast in between tells compilers that the conversion is intended.
 */
#if PG_VERSION_NUM < 160000
#define KAPTURE_WALKER(walker)	((bool (*) ()) (void (*) (void)) (walker))
#define expression_tree_walker(node, walker, context) \
	expression_tree_walker(node, KAPTURE_WALKER(walker), context)
#define raw_expression_tree_walker(node, walker, context) \
	raw_expression_tree_walker(node, KAPTURE_WALKER(walker), context)
#define query_tree_walker(query, walker, context, flags) \
	query_tree_walker(query, KAPTURE_WALKER(walker), context, flags)
#endif

/* 18 counts what a scan of an index does, 19 lets it set hints. */
#if PG_VERSION_NUM < 180000
#define index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys, flags) \
	index_beginscan((heap), (index), (snapshot), (nkeys), (norderbys))
#elif PG_VERSION_NUM < 190000
#define index_beginscan(heap, index, snapshot, instrument, nkeys, norderbys, flags) \
	index_beginscan((heap), (index), (snapshot), (instrument), (nkeys), (norderbys))
#endif

#endif							/* KAPTURE_COMPAT_H */
