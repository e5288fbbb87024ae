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

#include "catalog/pg_database.h"
#include "catalog/pg_foreign_server.h"
#include "common/jsonapi.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/wait_event.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "kapture_sync needs PostgreSQL 15 or later"
#endif

/* 16 replaced the per-catalog ACL checks by object_aclcheck(). */
#if PG_VERSION_NUM < 160000
static inline AclResult
object_aclcheck(Oid classid, Oid objectid, Oid roleid, AclMode mode)
{
	Assert(classid == ForeignServerRelationId);
	return pg_foreign_server_aclcheck(objectid, roleid, mode);
}

static inline bool
object_ownercheck(Oid classid, Oid objectid, Oid roleid)
{
	if (classid == DatabaseRelationId)
		return pg_database_ownercheck(objectid, roleid);
	Assert(classid == RelationRelationId);
	return pg_class_ownercheck(objectid, roleid);
}
#endif

/*
 * 17 lets an extension name its wait events.  The names used are few and
 * constant, so the look-up by name in the shared hash table is all there is.
 */
#if PG_VERSION_NUM < 170000
#define kapture_wait_event(name)	PG_WAIT_EXTENSION
#else
#define kapture_wait_event(name)	WaitEventExtensionNew(name)
#endif

/* 17 lets the caller give the memory of the lexer. */
#if PG_VERSION_NUM < 170000
#define makeJsonLexContextCstringLen(lex, json, len, encoding, need_escapes) \
	makeJsonLexContextCstringLen((char *) (json), (len), (encoding), (need_escapes))
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

/* 16 added an argument for summarizing indexes. */
#if PG_VERSION_NUM < 160000
#define kapture_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#else
#define kapture_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#endif

/* 17 ties a set to a resource owner instead of a memory context. */
#if PG_VERSION_NUM < 170000
#define kapture_create_wait_event_set(n) CreateWaitEventSet(TopMemoryContext, n)
#else
#define kapture_create_wait_event_set(n) CreateWaitEventSet(NULL, n)
#endif

/* 17 lets the caller provide the lexer's memory. */
#if PG_VERSION_NUM < 170000
#define kapture_make_json_lexer(json, len, encoding) \
	makeJsonLexContextCstringLen(json, len, encoding, true)
#else
#define kapture_make_json_lexer(json, len, encoding) \
	makeJsonLexContextCstringLen(NULL, json, len, encoding, true)
#endif

#endif							/* KAPTURE_COMPAT_H */
