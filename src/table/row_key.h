/*
 * row_key.h
 *		The key of a row as capture notes it, from whatever text users give for it.
 */
#ifndef KAPTURE_ROW_KEY_H
#define KAPTURE_ROW_KEY_H

#include "postgres.h"

#include "base/catalog.h"

/*
 * In SQL: is the key of an entry of kapture_delivery this one?  Keys may be as
 * long as those of users' indexes, or longer where there is no index any more, so
 * the index of kapture_delivery has hashes of them.
 */
#define KAPTURE_KEY_HASH(key)	"pg_catalog.hashtextextended(" key ", 0)"
#define KAPTURE_KEY_IS(column, key) \
	KAPTURE_KEY_HASH(column) " OPERATOR(pg_catalog.=) " KAPTURE_KEY_HASH(key) \
	" AND " column " OPERATOR(pg_catalog.=) " key

extern char *kapture_row_key(KaptureAttachment *att, const char *row_key);

#endif							/* KAPTURE_ROW_KEY_H */
