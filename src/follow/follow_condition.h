/*
 * follow_condition.h
 *		Conditions over a row of a followed table and one of an attached table.
 */
#ifndef KAPTURE_FOLLOW_CONDITION_H
#define KAPTURE_FOLLOW_CONDITION_H

#include "postgres.h"

#include "nodes/nodes.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"

/* The hint for a condition that cannot be used. */
#define KAPTURE_FOLLOW_HINT	"Write how rows of the two tables belong together, for example 'target.city_id = source.id'."

/* What a condition reads. */
typedef struct KaptureFollowReads
{
	List	   *source;			/* numbers of columns */
	List	   *target;
	bool		source_all;		/* the source's row as a whole */
	List	   *relations;		/* oids of relations in its subqueries */
} KaptureFollowReads;

extern Node *kapture_follow_parse(Relation source, Relation target, const char *condition);
extern Node *kapture_follow_take(Relation source, Relation target, const char *condition);
extern void kapture_follow_check_kept(const char *condition);
extern char *kapture_follow_deparse(Node *condition, Oid source, Oid target, const char *target_alias);
extern void kapture_follow_find_reads(Node *condition, KaptureFollowReads *reads);

#endif							/* KAPTURE_FOLLOW_CONDITION_H */
