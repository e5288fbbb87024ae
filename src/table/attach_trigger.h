/*
 * attach_trigger.h
 *		The triggers by which attached tables are captured.
 */
#ifndef KAPTURE_ATTACH_TRIGGER_H
#define KAPTURE_ATTACH_TRIGGER_H

#include "postgres.h"

#include "nodes/pg_list.h"

extern void kapture_attach_execute_ddl(const char *sql);
extern void kapture_attach_check_name(Oid relid, int32 attachment_id, const char *name, bool attached);
extern List *kapture_attach_others_triggers(Oid relid, int32 attachment_id);
extern void kapture_attach_create_triggers(const char *table, int32 attachment_id, const char *name, bool replicated);
extern void kapture_attach_watch_partitions(Oid root, Oid relid, int32 attachment_id, const char *name, bool replicated);
extern void kapture_attach_watch_new(Oid relid);
extern void kapture_attach_drop_leftovers(Oid relid, int32 attachment_id);
extern int	kapture_attach_drop_triggers(Oid relid, const List *keep);

#endif							/* KAPTURE_ATTACH_TRIGGER_H */
