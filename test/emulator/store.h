/*
 * store.h
 *		The customers that Kapture knows.
 */
#ifndef STORE_H
#define STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

/* The fields of Add, in the order of Add's answer. */
typedef enum Field
{
	FIELD_NAME,
	FIELD_ASSIGN_NAME,
	FIELD_ASSIGN_CODE,
	FIELD_ASSIGN_EMAIL,
	FIELD_PHONE,
	FIELD_EMAIL,
	FIELD_CITY,
	FIELD_STATE,
	FIELD_COUNTRY,
	FIELD_ZONE,
	FIELD_CAMPAIGN,
	FIELD_SEC_SOURCE,
	FIELD_TERT_SOURCE,
	FIELD_COUNTRY_CODE,
	FIELD_CONTACT_NAME,
	FIELD_CONTACT_PHONE,
	FIELD_CONTACT_EMAIL,
	FIELD_ADDITIONAL_PHONE,
	FIELD_GENDER,
	FIELD_CODE,
	N_FIELDS
} Field;

extern const char *const field_names[N_FIELDS];

/* What the samples of the vendor's document have and Add cannot give. */
typedef struct CustomerExtra
{
	const char *current_status;
	int			creator_id;
	const char *creator_name;
	const char *remarks;		/* already escaped, raw line breaks and all */
	int			campaign_id;
	int			contact_creator_id;
	const char *image_reference;
	bool		bare_contact;	/* Get shows no phone and email of the contact */
} CustomerExtra;

typedef struct Customer
{
	int64_t		id;
	int64_t		contact_id;
	time_t		generated;
	time_t		modified;
	uint32_t	updates;		/* how many Updates were applied */
	uint16_t	milliseconds;	/* of the time of generation */
	char	   *values;			/* N_FIELDS strings, one behind the other */
	const CustomerExtra *extra; /* NULL: an ordinary customer */
} Customer;

/* New values; NULL means not given. */
typedef struct FieldValues
{
	const char *value[N_FIELDS];
	char		number[N_FIELDS][24];	/* room for those given as numbers */
} FieldValues;

/* A customer must meet all that are given. */
typedef struct Criteria
{
	int64_t		id;				/* 0: not given */
	int64_t		id2;			/* likewise */
	const char *phone;			/* NULL: not given */
	const char *email;			/* likewise */
} Criteria;

/* All functions below but store_init, and all use of a Customer, need the lock. */
extern void store_init(bool empty);
extern void store_lock(void);
extern void store_unlock(void);

extern void store_reset(void);
extern Customer *store_add(const FieldValues *values, int64_t id, int64_t contact_id,
						   time_t generated, unsigned milliseconds);
extern void store_update(Customer *customer, const FieldValues *values);
extern void store_replace(Customer *customer, const FieldValues *values, time_t generated);
extern Customer *store_by_id(int64_t id);
extern Customer *store_by_code(const char *code);
extern Customer *store_find(const Criteria *criteria);
extern bool store_phone_taken(const char *phone, const Customer *except);
extern bool store_email_taken(const char *email, const Customer *except);
extern size_t store_count(void);
extern Customer *store_nth(size_t position);
extern void store_range(time_t from, time_t to, size_t *first, size_t *end);
extern void store_values(const Customer *customer, const char **values);

#endif
