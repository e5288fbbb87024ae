/*
 * field_map.h
 *		Which columns, expressions and constants feed Kapture's fields.
 */
#ifndef KAPTURE_FIELD_MAP_H
#define KAPTURE_FIELD_MAP_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"

#include "mapping/expression.h"

/* Where a field's value comes from. */
typedef struct KaptureMapping
{
	char	   *field;
	char	   *name;			/* of a column; NULL: the value is computed */
	AttrNumber	attnum;
	KaptureGivenExpression *expression; /* of a computed value, or NULL */
	char	   *constant;		/* the value for all rows, or NULL */
} KaptureMapping;

extern List *kapture_mapping_take(Relation rel, Jsonb *columns, const char *id_column);
extern List *kapture_mapping_take_of_view(Relation view, Jsonb *columns, List *keys);
extern Jsonb *kapture_mapping_take_constants(Jsonb *constants, const char *argument);
extern int	kapture_mapping_free_bit(int64 in_use);

#endif							/* KAPTURE_FIELD_MAP_H */
