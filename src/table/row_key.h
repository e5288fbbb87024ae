/*
 * row_key.h
 *		The key of a row as capture notes it, from whatever text users give for it.
 */
#ifndef KAPTURE_ROW_KEY_H
#define KAPTURE_ROW_KEY_H

#include "postgres.h"

#include "base/catalog.h"

/*
 * In SQL, with "@." for the extension's schema: a key as the indexes of kapture_delivery
 * and kapture_row have it, see kapture_bounded_key(); and, is an entry's key this one?
 */
#define KAPTURE_KEY_BOUNDED(key)	"@.kapture_bounded_key(" key ")"
#define KAPTURE_KEY_IS(column, key) \
	KAPTURE_KEY_BOUNDED(column) " OPERATOR(pg_catalog.=) " KAPTURE_KEY_BOUNDED(key) \
	" AND " column " OPERATOR(pg_catalog.=) " key

extern char *kapture_row_key(KaptureAttachment *att, const char *row_key);

#endif							/* KAPTURE_ROW_KEY_H */
