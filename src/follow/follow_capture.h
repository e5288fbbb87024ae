/*
 * follow_capture.h
 *		The trigger of tables that are followed.
 */
#ifndef KAPTURE_FOLLOW_CAPTURE_H
#define KAPTURE_FOLLOW_CAPTURE_H

#include "table/attach_trigger.h"

/* The triggers of a followed table. */
#define KAPTURE_FOLLOW_TRIGGER			"kapture_followed"
#define KAPTURE_FOLLOW_TRUNCATE_TRIGGER	"kapture_followed_truncate"

/* SQL: has a followed table no such trigger that captures its changes?  "f" is the alias of kapture_follow. */
#define KAPTURE_FOLLOW_IS_UNCAPTURED(f) \
	KAPTURE_ATTACH_LACKS_TRIGGERS(f ".source", "'" KAPTURE_FOLLOW_TRIGGER "'", "kapture_followed")

/* In the outbox, a negative number of an attachment stands for a follow. */
#define KAPTURE_FOLLOW_NOTE(follow_id)	(-(follow_id))

/* In the outbox, in place of values: all rows may be concerned. */
#define KAPTURE_FOLLOW_ALL	"*"

extern void kapture_followed_rows_moved(Oid relid);

#endif							/* KAPTURE_FOLLOW_CAPTURE_H */
