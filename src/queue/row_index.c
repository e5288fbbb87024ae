/*
 * row_index.c
 *		Finds rows in a list by their keys.
 */
#include "postgres.h"

#include "common/hashfn.h"

#include "queue/row_index.h"

static uint32
row_index_hash(const void *key, Size keysize)
{
	const char *text = *(const char *const *) key;

	return string_hash(text, strlen(text) + 1);
}

static int
row_index_match(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/*
 * Returns a hash table that finds rows by their keys (KaptureRowIndexEntry), in the current
 * memory context.
 */
HTAB *
kapture_row_index_create(int size)
{
	HASHCTL		ctl = {
		.keysize = sizeof(char *),
		.entrysize = sizeof(KaptureRowIndexEntry),
		.hash = row_index_hash,
		.match = row_index_match,
		.hcxt = CurrentMemoryContext
	};

	return hash_create("kapture_sync rows", Max(size, 16), &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}
