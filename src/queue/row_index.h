/*
 * row_index.h
 *		Finds rows in a list by their keys.
 */
#ifndef KAPTURE_ROW_INDEX_H
#define KAPTURE_ROW_INDEX_H

#include "postgres.h"

#include "utils/hsearch.h"

/* Finds a row's place in a list. */
typedef struct KaptureRowIndexEntry
{
	const char *row_key;		/* hash key */
	int			position;
} KaptureRowIndexEntry;

extern HTAB *kapture_row_index_create(int size);

#endif							/* KAPTURE_ROW_INDEX_H */
