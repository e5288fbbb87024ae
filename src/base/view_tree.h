/*
 * view_tree.h
 *		What a view reads.
 */
#ifndef KAPTURE_VIEW_TREE_H
#define KAPTURE_VIEW_TREE_H

#include "postgres.h"

#include "nodes/pg_list.h"

extern List *kapture_view_tree(Oid view);
extern List *kapture_view_users(Oid view);
extern List *kapture_view_reads(List *tree, Oid relid, bool *all);
extern Oid	kapture_view_unseen_function(List *tree);

#endif							/* KAPTURE_VIEW_TREE_H */
