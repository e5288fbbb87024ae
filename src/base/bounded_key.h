/*
 * bounded_key.h
 *		Keys of rows as indexes hold them.
 */
#ifndef KAPTURE_BOUNDED_KEY_H
#define KAPTURE_BOUNDED_KEY_H

/*
 * In SQL, with "@." for the extension's schema: a key as the indexes of kapture_delivery
 * and kapture_row have it, see kapture_bounded_key(); and the condition that an entry's key
 * is this one.
 */
#define KAPTURE_KEY_BOUNDED(key)	"@.kapture_bounded_key(" key ")"
#define KAPTURE_KEY_IS(column, key) \
	KAPTURE_KEY_BOUNDED(column) " OPERATOR(pg_catalog.=) " KAPTURE_KEY_BOUNDED(key) \
	" AND " column " OPERATOR(pg_catalog.=) " key

#endif							/* KAPTURE_BOUNDED_KEY_H */
