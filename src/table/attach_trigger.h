/*
 * attach_trigger.h
 *		The triggers that capture changes of attached tables.
 */
#ifndef KAPTURE_ATTACH_TRIGGER_H
#define KAPTURE_ATTACH_TRIGGER_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/relcache.h"

#include "table/capture.h"

/*
 * SQL: has a relation no enabled trigger of this name that captures all changes of rows with this
 * function?  Another trigger may have the name; only superusers can create functions in C.
 */
#define KAPTURE_ATTACH_LACKS_TRIGGER(relation, name, function) \
	"NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t" \
	" JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid AND p.proname = '" function "'" \
	" JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang AND l.lanname = 'c'" \
	" WHERE t.tgrelid = " relation " AND t.tgenabled IN ('O', 'A')" \
	" AND t.tgqual IS NULL AND t.tgattr::text = '' AND t.tgtype & 29 = 29" \
	" AND t.tgname = " name "::name)"

/* SQL: ... or one of its partitions? */
#define KAPTURE_ATTACH_LACKS_TRIGGERS(relation, name, function) \
	"(" KAPTURE_ATTACH_LACKS_TRIGGER(relation, name, function) \
	" OR EXISTS (SELECT FROM pg_catalog.pg_partition_tree(" relation ") AS leaf WHERE leaf.isleaf" \
	" AND " KAPTURE_ATTACH_LACKS_TRIGGER("leaf.relid", name, function) "))"

/* SQL: has an attachment no such trigger, on all partitions?  "a" is the alias of kapture_attachment. */
#define KAPTURE_ATTACH_IS_UNCAPTURED(a) \
	KAPTURE_ATTACH_LACKS_TRIGGERS(a ".relation", KAPTURE_ATTACH_TRIGGER(a), "kapture_capture")
#define KAPTURE_ATTACH_TRIGGER(a) \
	"('" KAPTURE_TRIGGER "' || CASE WHEN " a ".name = '' THEN '' ELSE '_' || " a ".attachment_id::text END)"

/* SQL: does an attachment that captures changes which replication applies have such a trigger that does not fire then? */
#define KAPTURE_ATTACH_MISSES_REPLICATION(a) \
	a ".replicated AND EXISTS (SELECT FROM pg_catalog.pg_trigger AS t" \
	" WHERE t.tgname = " KAPTURE_ATTACH_TRIGGER(a) "::name AND t.tgenabled = 'O'" \
	" AND (t.tgrelid = " a ".relation OR t.tgrelid IN (SELECT leaf.relid FROM pg_catalog.pg_partition_tree(" a ".relation) AS leaf WHERE leaf.isleaf)))"

/* The function of ours that a trigger runs. */
typedef struct KaptureTrigger
{
	const char *name;			/* without its schema; a constant */
	Oid			function;
	bool		always;			/* the trigger has no condition */
	char		fires_when;		/* pg_trigger.tgenabled */
} KaptureTrigger;

extern void kapture_attach_execute_ddl(const char *sql);
extern void kapture_attach_check_name(Oid relid, int32 attachment_id, const char *name, bool attached);
extern List *kapture_attach_others_triggers(Oid relid, int32 attachment_id);
extern void kapture_attach_create_triggers(const char *table, int32 attachment_id, const char *name, bool replicated);
extern void kapture_attach_watch_truncate(Oid relid, const char *trigger, List *args, Oid function, char fires_when);
extern void kapture_attach_watch_partitions(Oid root, Oid relid, int32 attachment_id, const char *name, bool replicated);
extern void kapture_attach_watch_new(Oid relid);
extern void kapture_attach_drop_leftovers(Oid relid, int32 attachment_id);
extern bool kapture_attach_find_trigger(Oid relid, const char *trigger, KaptureTrigger *found);
extern void kapture_attach_enable_trigger(Relation rel, const char *trigger, const char *function, char fires_when);
extern void kapture_attach_enable_triggers(Relation rel);
extern void kapture_attach_warn_uncaptured(Oid relid);
extern int	kapture_attach_drop_triggers(Oid relid, const List *keep);

#endif							/* KAPTURE_ATTACH_TRIGGER_H */
