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

#include "catalog/pg_foreign_server.h"
#include "common/jsonapi.h"
#include "utils/acl.h"
#include "utils/guc.h"

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
#endif

#endif							/* KAPTURE_COMPAT_H */
