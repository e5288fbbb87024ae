/*
 * binding.h
 *		Ties what is kept under a server's name to one foreign server.
 */
#ifndef KAPTURE_BINDING_H
#define KAPTURE_BINDING_H

#include "postgres.h"

#include "foreign/foreign.h"

#include "api/option.h"
#include "base/catalog.h"

/* Is this database the one that its stamp names?  In statements of owner_sql.c. */
#define KAPTURE_BINDING_IS_ORIGIN \
	"(SELECT coalesce(bool_and(@.kapture_is_origin(o.system_identifier, o.database)), false) FROM @.kapture_origin AS o)"

extern bool kapture_binding_is_known(void);
extern Oid	kapture_binding_lock(const char *name);
extern void kapture_binding_depend(Oid relid, int32 attachment_id, const char *name, Oid serverid);
extern char *kapture_binding_problem(const KaptureAttachment *att);
extern const char *kapture_binding_advice(const KaptureAttachment *att);
extern void kapture_binding_require(const KaptureAttachment *att, const KaptureServer *server);
extern void kapture_binding_hold_copies(const ForeignServer *server);
extern void kapture_binding_renew(bool all);

#endif							/* KAPTURE_BINDING_H */
