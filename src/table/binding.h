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

/* SQL: is an attachment "a" that of the server with this name?  Its own name for the server may be outdated. */
#define KAPTURE_BINDING_IS_OF_SERVER(name) \
	"(a.server = " name " OR a.server_oid = (SELECT s.oid FROM pg_foreign_server AS s WHERE s.srvname = " name "))"

extern bool kapture_binding_is_known(void);
extern Oid	kapture_binding_lock(const char *name, Oid userid);
extern bool kapture_binding_follow_names(void);
extern bool kapture_binding_is_of_server(const KaptureAttachment *att, const char *name, Oid serverid);
extern void kapture_binding_depend(Oid relid, int32 attachment_id, const char *name, Oid serverid);
extern char *kapture_binding_problem(const KaptureAttachment *att);
extern const char *kapture_binding_advice(const KaptureAttachment *att);
extern void kapture_binding_require(const KaptureAttachment *att, const KaptureServer *server);
extern void kapture_binding_hold_copies(const ForeignServer *server);
extern void kapture_binding_renew(bool all);

#endif							/* KAPTURE_BINDING_H */
