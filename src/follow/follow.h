/*
 * follow.h
 *		Tables whose changes concern rows of attached tables.
 */
#ifndef KAPTURE_FOLLOW_H
#define KAPTURE_FOLLOW_H

#include "postgres.h"

#include "nodes/pg_list.h"

extern void kapture_follow_watch_new(Oid relid);
extern void kapture_follow_enable_triggers(Relation rel);
extern void kapture_follow_warn_uncaptured(Oid relid);
extern List *kapture_follow_before_rename(const char *name);
extern void kapture_follow_after_rename(List *texts);
extern void kapture_follow_column_renamed(Oid relid, const char *from, const char *to);
extern void kapture_follow_view_changed(List *relids);

#endif							/* KAPTURE_FOLLOW_H */
