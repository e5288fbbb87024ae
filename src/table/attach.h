/*
 * attach.h
 *		Attaching tables and detaching them, and having attachments follow DDL.
 */
#ifndef KAPTURE_ATTACH_H
#define KAPTURE_ATTACH_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/primnodes.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

#include "base/catalog.h"
#include "mapping/field_map.h"

extern void kapture_attach_check_relation(Relation rel);
extern void kapture_attach_refuse_keyless(Relation rel);
extern void kapture_attach_refuse_on_leave(void);
extern char *kapture_attach_choice(FunctionCallInfo fcinfo, int arg, const char *name,
								   const char *one, const char *other, const char *third);
extern void kapture_attach_check_pull(Relation rel, int32 attachment_id, const char *server);
extern void kapture_attach_index_id_column(Oid relid, const char *name, const char *column);
extern void kapture_attach_store_mapping(int32 attachment_id, int bit, const KaptureMapping *mapping);
extern void kapture_attach_try(Oid relid, int32 attachment_id);
extern void kapture_attach_announce(void);
extern void kapture_attach_announce_one(int32 attachment_id);
extern void kapture_attach_forget(int32 attachment_id);
extern void kapture_attach_renamed(List *expressions);
extern List *kapture_attach_view_changed(const RangeVar *name);
extern void kapture_attach_reconsider(void);
extern void kapture_attach_column_renamed(Oid relid, const char *from, const char *to);

#endif							/* KAPTURE_ATTACH_H */
