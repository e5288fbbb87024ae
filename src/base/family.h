/*
 * family.h
 *		Relatives of attached tables: partitions, tables that inherit from them,
 *		and the triggers of ours that these have.
 */
#ifndef KAPTURE_FAMILY_H
#define KAPTURE_FAMILY_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/relcache.h"

extern List *kapture_family_triggers(Oid relid);
extern bool kapture_family_counts_children(Oid root);
extern List *kapture_family_parents(Oid relid);
extern bool kapture_family_inherits(Relation rel);
extern Oid	kapture_family_attached_parent(Relation rel);
extern Oid	kapture_family_foreign_partition(Oid relid);

#endif							/* KAPTURE_FAMILY_H */
