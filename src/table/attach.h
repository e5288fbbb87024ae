/*
 * attach.h
 *		Attaching tables, and steering the sync of attached ones.
 */
#ifndef KAPTURE_ATTACH_H
#define KAPTURE_ATTACH_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/primnodes.h"
#include "storage/lockdefs.h"

#include "base/catalog.h"

extern KaptureAttachment *kapture_attach_find(FunctionCallInfo fcinfo, LOCKMODE lockmode);
extern void kapture_attach_announce(void);
extern void kapture_attach_forget(int32 attachment_id);
extern void kapture_attach_renamed(List *expressions);
extern void kapture_attach_view_changed(const RangeVar *name);
extern void kapture_attach_reconsider(void);
extern void kapture_attach_column_renamed(Oid relid, const char *from, const char *to);

#endif							/* KAPTURE_ATTACH_H */
