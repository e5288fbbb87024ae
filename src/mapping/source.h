/*
 * source.h
 *		Views that the values of an attached table come from.
 */
#ifndef KAPTURE_SOURCE_H
#define KAPTURE_SOURCE_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/relcache.h"

#include "mapping/expression.h"

/* A view that a user gave. */
typedef struct KaptureGivenSource
{
	char	   *name;			/* qualified and quoted */
	List	   *keys;			/* names of the view's columns that are the key */
	KaptureGivenExpression reads;	/* columns of the table that it reads */
} KaptureGivenSource;

extern Relation kapture_source_open(Relation rel, Oid view);
extern bool kapture_source_is_followed(Oid relid, Oid other);
extern KaptureGivenSource *kapture_source_take(Relation rel, Relation view, List *keys);
extern List *kapture_source_changed(Oid view);
extern bool kapture_source_column_renamed(Oid view, const char *from, const char *to);

#endif							/* KAPTURE_SOURCE_H */
