/*
 * attach_find.h
 *		Which attachment an SQL function is called for.
 */
#ifndef KAPTURE_ATTACH_FIND_H
#define KAPTURE_ATTACH_FIND_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"

#include "base/catalog.h"

extern KaptureAttachment *kapture_attach_find_table(FunctionCallInfo fcinfo, int arg, LOCKMODE lockmode);
extern List *kapture_attach_find_all(FunctionCallInfo fcinfo, int name_arg, LOCKMODE lockmode);
extern KaptureAttachment *kapture_attach_find(FunctionCallInfo fcinfo, int name_arg, LOCKMODE lockmode);
extern KaptureAttachment *kapture_attach_find_again(FunctionCallInfo fcinfo, int32 attachment_id, LOCKMODE lockmode);

#endif							/* KAPTURE_ATTACH_FIND_H */
