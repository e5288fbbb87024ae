/*
 * field.c
 *		The fields of a customer that Kapture's API knows by name.  (Source: the
 *		table of fields of Add, and the criteria of Get; and what add_is_upsert is about.)
 */
#include "postgres.h"

#include "api/field.h"
#include "base/nearest.h"

/* A value that Kapture masks counts as NULL. */
#define FIELD_PHONE(value)	"CASE WHEN k.o->>'isMobileMasked' = 'true' OR " value " ~ '[xX*]' THEN NULL ELSE " value " END"
#define FIELD_EMAIL(value)	"CASE WHEN k.o->>'isEmailMasked' = 'true' OR " value " ~ '[*]' THEN NULL ELSE " value " END"

#define MASKED_PHONE(value)	"(k.o->>'isMobileMasked' = 'true' OR " value " ~ '[xX*]')"
#define MASKED_EMAIL(value)	"(k.o->>'isEmailMasked' = 'true' OR " value " ~ '[*]')"

const KaptureField kapture_fields[] = {
	{"customer_name", .is_mapped = true, .pulled = "c.name"},
	{"phone", .is_mapped = true, .is_searched = true, .is_digits = true, .pulled = FIELD_PHONE("c.phone"),
	.masked = MASKED_PHONE("c.phone"), .kind = KAPTURE_FIELD_PHONE},
	{"email_id", .is_mapped = true, .is_searched = true, .pulled = FIELD_EMAIL("c.email"),
	.masked = MASKED_EMAIL("c.email"), .kind = KAPTURE_FIELD_EMAIL},
	{"country", .is_mapped = true, .pulled = "c.country"},
	{"state", .is_mapped = true, .pulled = "c.state"},
	{"city", .is_mapped = true, .pulled = "c.city"},
	{"zone", .is_mapped = true},
	{"campaign_name", .is_mapped = true},
	{"secSource", .is_mapped = true},
	{"tertSource", .is_mapped = true},
	{"customer_assign_emp_code", .is_mapped = true},
	{"customer_assign_emp_name", .is_mapped = true, .pulled = "c.assigned_to_name"},
	{"customer_assign_emp_email", .is_mapped = true},
	{"contact_person_name", .is_mapped = true, .pulled = "k.o->>'contactPerson'"},
	{"contact_person_phone", .is_mapped = true, .pulled = FIELD_PHONE("k.o->>'phone'"),
	.kind = KAPTURE_FIELD_UNCERTAIN},
	{"contact_person_email", .is_mapped = true, .pulled = FIELD_EMAIL("k.o->>'email'"),
	.kind = KAPTURE_FIELD_UNCERTAIN},
	{"additional_contact_phone", .is_mapped = true, .pulled = "k.o->>'additionalPhone'",
	.kind = KAPTURE_FIELD_PHONE},
	{"country_code", .is_mapped = true, .pulled = "k.o->>'phoneCountryCode'"},
	{"gender", .is_mapped = true, .pulled = "k.o->>'gender'"},
	{"customer_code", .is_mapped = true, .is_extra = true, .pulled = "c.customer_code"},
	{"kapture_customer_id", .is_searched = true, .is_digits = true},
	{"customer_id", .is_searched = true, .is_digits = true},
	{"contact_id", .is_digits = true}
};

const int	kapture_nfields = lengthof(kapture_fields);

/*
 * Returns the field of that name, which need not end with a zero; NULL if it is
 * none of Kapture's.
 */
const KaptureField *
kapture_field_find(const char *name, size_t len)
{
	for (int i = 0; i < kapture_nfields; i++)
	{
		if (strlen(kapture_fields[i].name) == len && memcmp(kapture_fields[i].name, name, len) == 0)
			return &kapture_fields[i];
	}
	return NULL;
}

/*
 * kapture_field_nearest
 *		The field that a user who wrote "name" may have meant; NULL if none is
 *		similar.
 */
const char *
kapture_field_nearest(const char *name)
{
	KaptureNearest state;

	kapture_nearest_begin(&state, name);
	for (int i = 0; i < kapture_nfields; i++)
	{
		if (kapture_fields[i].is_mapped && !kapture_fields[i].is_extra)
			kapture_nearest_try(&state, kapture_fields[i].name);
	}
	return state.nearest;
}
