/*
 * leave.h
 *		Rows that leave an attached table together with their partition.
 */
#ifndef KAPTURE_LEAVE_H
#define KAPTURE_LEAVE_H

#include "postgres.h"

#include "nodes/parsenodes.h"

extern void kapture_leave_dropped(Oid relid, List **leaving);
extern void kapture_leave_made(const RangeVar *name, bool may_return, List **leaving);
extern void kapture_leave_truncated(const TruncateStmt *stmt, List **leaving);
extern void kapture_leave_emptied(Oid relid, int32 attachment_id);
extern void kapture_leave_follow(List *leaving);

#endif							/* KAPTURE_LEAVE_H */
