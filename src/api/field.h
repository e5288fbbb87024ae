/*
 * field.h
 *		The fields of a customer that Kapture's API knows by name.
 */
#ifndef KAPTURE_FIELD_H
#define KAPTURE_FIELD_H

#include "postgres.h"

typedef enum KaptureFieldKind
{
	KAPTURE_FIELD_TEXT,
	KAPTURE_FIELD_PHONE,
	KAPTURE_FIELD_EMAIL,
	KAPTURE_FIELD_UNCERTAIN		/* the value that Get returns may be another field's */
} KaptureFieldKind;

typedef struct KaptureField
{
	const char *name;
	bool		is_mapped;		/* may come from a column of an attached table */
	bool		is_extra;		/* some accounts have it beyond the document: it is mapped from a
								 * column named for it, not from one of the same name */
	bool		is_searched;	/* Get finds customers by it */
	bool		is_digits;		/* a string of digits, also where users write a number */

	/*
	 * Where a pulled customer has it: SQL over kapture_customers (c) and its
	 * primary contact (k.o); NULL: pulls do not return it.
	 */
	const char *pulled;

	/* Is the pulled value masked?  SQL over the same; NULL: it never is. */
	const char *masked;

	/*
	 * How Kapture's values are compared with those that were sent; Kapture
	 * writes phones and emails in its own way.
	 */
	KaptureFieldKind kind;
} KaptureField;

extern const KaptureField kapture_fields[];
extern const int kapture_nfields;

extern const KaptureField *kapture_field_find(const char *name, size_t len);
extern const char *kapture_field_nearest(const char *name);

#endif							/* KAPTURE_FIELD_H */
