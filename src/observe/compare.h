/*
 * compare.h
 *		The values of customers in Kapture's answers for the fields of a table.
 */
#ifndef KAPTURE_COMPARE_H
#define KAPTURE_COMPARE_H

#include "postgres.h"

#include "utils/jsonb.h"

#include "base/catalog.h"

typedef struct KaptureComparer KaptureComparer;

typedef enum KaptureCompared
{
	KAPTURE_COMPARED_SAME,
	KAPTURE_COMPARED_DIFFERS,
	KAPTURE_COMPARED_NOT_EMPTIED,	/* only Kapture has a value */
	KAPTURE_COMPARED_MASKED,	/* Kapture masks its value */
	KAPTURE_COMPARED_UNTOLD		/* Kapture does not return the value */
} KaptureCompared;

/* What a customer has for the columns of an attachment. */
typedef struct KaptureThere
{
	char	  **values;			/* NULL: none */
	bool	   *masked;
} KaptureThere;

extern KaptureComparer *kapture_comparer_create(const KaptureAttachment *att, const char *timezone);
extern bool kapture_comparer_wants(void *comparer, const char *key, int len);
extern KaptureThere *kapture_comparer_read(KaptureComparer *comparer, Jsonb **customers, int n);
extern KaptureCompared kapture_comparer_compare(const KaptureComparer *comparer, int column,
												const char *here, const KaptureThere *there);

#endif							/* KAPTURE_COMPARE_H */
