/*
 * binding.h
 *		Which foreign server belongs to what is kept under a server's name.
 */
#ifndef KAPTURE_BINDING_H
#define KAPTURE_BINDING_H

#include "postgres.h"

#include "base/catalog.h"
#include "foreign/foreign.h"
#include "api/option.h"

extern Oid	kapture_binding_lock(const char *name);
extern void kapture_binding_depend(Oid relid, Oid serverid);
extern char *kapture_binding_problem(const KaptureAttachment *att);
extern void kapture_binding_require(const KaptureAttachment *att, const KaptureServer *server);
extern void kapture_binding_hold_copies(const ForeignServer *server);
extern void kapture_binding_renew(bool all);
extern void kapture_binding_follow_drop(void);

#endif							/* KAPTURE_BINDING_H */
