/*
 * store.c
 *		The customers that Kapture knows.
 *
 * A list of all customers, ordered by time of generation when somebody pulls,
 * and four indexes over it: hash tables by id, phone, email and code, with linear
 * probing.  The hash stands beside the pointer, so that growing and passing by
 * need not look at customers.  Phone and email are unique among customers that
 * came by Add; seeding may break that, hence an index may hold equal keys.
 *
 * A million customers must fit: the values of a customer are one block of
 * memory with the strings one behind the other.
 */
#include "store.h"

#include <ctype.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "buf.h"
#include "clock.h"

/* The ids of the first customer added, as in Add's sample. */
#define FIRST_ID			65033646
#define FIRST_CONTACT_ID	71186613

const char *const field_names[N_FIELDS] = {
	"customer_name", "customer_assign_emp_name", "customer_assign_emp_code",
	"customer_assign_emp_email", "phone", "email_id", "city", "state", "country",
	"zone", "campaign_name", "secSource", "tertSource", "country_code",
	"contact_person_name", "contact_person_phone", "contact_person_email",
	"additional_contact_phone", "gender", "customer_code"
};

typedef struct Slot
{
	Customer   *customer;		/* NULL: free */
	uint32_t	hash;
} Slot;

typedef struct Index
{
	Slot	   *slots;
	size_t		size;			/* a power of two, or 0 */
	size_t		used;
} Index;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static bool start_empty;
static Customer **all;
static size_t count;
static size_t allocated;
static bool sorted;
static int64_t next_id;
static int64_t next_contact_id;
static Index by_id;
static Index by_phone;
static Index by_email;
static Index by_code;

/* ---- the samples of the vendor's document ---- */

static const CustomerExtra ker_extra = {
	.current_status = "F",
	.creator_id = 941,
	.creator_name = "Ri",
	.remarks = "\nNAME Ker\nPHONE 06-3582\nEMAIL ker@ .in\n"
	"MESSAGE Hello there\\r\\n\\r\\nBuy face mask to protect your loved ones from the deadly CoronaVirus. "
	"We wholesale N95 Masks and Surgical Masks for both adult and kids. The prices begin at $0.19 each. "
	"If interested, please visit our site: pharmacyoutlets.online\\r\\n\\r\\nRegards,\\r\\n\\r\\n"
	"Kapture CRM Demo Form\nPRIMARY_SOURCE Website\n",
	.campaign_id = 127,
	.contact_creator_id = 94170,
	.image_reference = "CUS_2021-03-14 14:21:10.866"
};

static const CustomerExtra nishchal_extra = {
	.current_status = "N",
	.creator_name = "",
	.image_reference = "CUS_2021-01-06 18:01:45.439",
	.bare_contact = true
};

static void
add_samples(void)
{
	FieldValues ker = {0};
	FieldValues nishchal = {0};
	time_t		generated = 0;

	ker.value[FIELD_NAME] = "Ker";
	ker.value[FIELD_PHONE] = "63582";
	ker.value[FIELD_EMAIL] = "ker@ .in";
	ker.value[FIELD_CONTACT_NAME] = "Ker";
	ker.value[FIELD_ZONE] = "49827";
	ker.value[FIELD_ASSIGN_CODE] = "941";
	ker.value[FIELD_ASSIGN_NAME] = "Rii";
	clock_parse("2021-03-14 14:21:11", false, &generated);
	store_add(&ker, 65245, 71478, generated, 0)->extra = &ker_extra;

	nishchal.value[FIELD_NAME] = "Nishchal";
	nishchal.value[FIELD_PHONE] = "9845765226";
	nishchal.value[FIELD_EMAIL] = "nisch123@gmail.com";
	nishchal.value[FIELD_STATE] = "Karnataka";
	nishchal.value[FIELD_COUNTRY] = "India";
	nishchal.value[FIELD_GENDER] = "F";
	clock_parse("2021-01-06 18:01:45", false, &generated);
	store_add(&nishchal, 61371820, 66531398, generated, 439)->extra = &nishchal_extra;
}

/* ---- indexes ---- */

static uint32_t
hash_id(int64_t id)
{
	return (uint32_t) (((uint64_t) id * UINT64_C(0x9e3779b97f4a7c15)) >> 32);
}

/* Folds the case of letters: emails that differ in case only are the same. */
static uint32_t
hash_text(const char *text)
{
	uint64_t	hash = UINT64_C(0xcbf29ce484222325);

	for (; *text; text++)
		hash = (hash ^ (uint64_t) tolower((unsigned char) *text)) * UINT64_C(0x100000001b3);
	return (uint32_t) (hash ^ (hash >> 32));
}

static void
index_put(Index *ix, uint32_t hash, Customer *customer)
{
	size_t		i = hash & (ix->size - 1);

	while (ix->slots[i].customer != NULL)
		i = (i + 1) & (ix->size - 1);
	ix->slots[i].customer = customer;
	ix->slots[i].hash = hash;
	ix->used++;
}

static void
index_insert(Index *ix, uint32_t hash, Customer *customer)
{
	if ((ix->used + 1) * 2 > ix->size)
	{
		Index		bigger = {.size = ix->size ? ix->size * 2 : 1024};

		bigger.slots = xcalloc(bigger.size, sizeof(Slot));
		for (size_t i = 0; i < ix->size; i++)
			if (ix->slots[i].customer != NULL)
				index_put(&bigger, ix->slots[i].hash, ix->slots[i].customer);
		free(ix->slots);
		*ix = bigger;
	}
	index_put(ix, hash, customer);
}

/* Removes an entry and moves up those that had to pass it by. */
static void
index_remove(Index *ix, uint32_t hash, const Customer *customer)
{
	size_t		mask = ix->size - 1;
	size_t		hole = hash & mask;

	while (ix->slots[hole].customer != customer)
	{
		if (ix->slots[hole].customer == NULL)
			return;
		hole = (hole + 1) & mask;
	}
	for (size_t i = (hole + 1) & mask; ix->slots[i].customer != NULL; i = (i + 1) & mask)
	{
		size_t		home = ix->slots[i].hash & mask;

		if (((i - home) & mask) >= ((i - hole) & mask))
		{
			ix->slots[hole] = ix->slots[i];
			hole = i;
		}
	}
	ix->slots[hole].customer = NULL;
	ix->used--;
}

/* The next entry with this hash from *position on; NULL if there is none. */
static Customer *
index_next(const Index *ix, uint32_t hash, size_t *position)
{
	if (ix->size == 0)
		return NULL;
	for (;;)
	{
		const Slot *slot = &ix->slots[*position & (ix->size - 1)];

		(*position)++;
		if (slot->customer == NULL)
			return NULL;
		if (slot->hash == hash)
			return slot->customer;
	}
}

static void
index_clear(Index *ix)
{
	free(ix->slots);
	memset(ix, 0, sizeof(*ix));
}

/* ---- customers ---- */

/* Points at each of a customer's values. */
void
store_values(const Customer *customer, const char **values)
{
	const char *next = customer->values;

	for (int i = 0; i < N_FIELDS; i++)
	{
		values[i] = next;
		next += strlen(next) + 1;
	}
}

static char *
pack(const char *const *values)
{
	size_t		size = 0;
	char	   *packed;
	char	   *next;

	for (int i = 0; i < N_FIELDS; i++)
		size += (values[i] ? strlen(values[i]) : 0) + 1;
	packed = next = xmalloc(size);
	for (int i = 0; i < N_FIELDS; i++)
	{
		size_t		len = values[i] ? strlen(values[i]) : 0;

		if (len > 0)
			memcpy(next, values[i], len);
		next[len] = '\0';
		next += len + 1;
	}
	return packed;
}

static void
set_values(Customer *customer, const char *const *values)
{
	customer->values = pack(values);
	if (values[FIELD_PHONE] && *values[FIELD_PHONE])
		index_insert(&by_phone, hash_text(values[FIELD_PHONE]), customer);
	if (values[FIELD_EMAIL] && *values[FIELD_EMAIL])
		index_insert(&by_email, hash_text(values[FIELD_EMAIL]), customer);
	if (values[FIELD_CODE] && *values[FIELD_CODE])
		index_insert(&by_code, hash_text(values[FIELD_CODE]), customer);
}

static void
change_values(Customer *customer, const char *const *values)
{
	const char *old[N_FIELDS];
	char	   *old_values = customer->values;

	store_values(customer, old);
	if (*old[FIELD_PHONE])
		index_remove(&by_phone, hash_text(old[FIELD_PHONE]), customer);
	if (*old[FIELD_EMAIL])
		index_remove(&by_email, hash_text(old[FIELD_EMAIL]), customer);
	if (*old[FIELD_CODE])
		index_remove(&by_code, hash_text(old[FIELD_CODE]), customer);
	set_values(customer, values);
	free(old_values);
}

/* Adds a customer; ids of 0 stand for the next ones. */
Customer *
store_add(const FieldValues *values, int64_t id, int64_t contact_id,
		  time_t generated, unsigned milliseconds)
{
	Customer   *customer = xcalloc(1, sizeof(Customer));

	customer->id = id ? id : next_id;
	customer->contact_id = contact_id ? contact_id : next_contact_id;
	if (customer->id >= next_id)
		next_id = customer->id + 1;
	if (customer->contact_id >= next_contact_id)
		next_contact_id = customer->contact_id + 1;
	customer->generated = customer->modified = generated;
	customer->milliseconds = (uint16_t) milliseconds;
	index_insert(&by_id, hash_id(customer->id), customer);
	set_values(customer, values->value);

	if (count == allocated)
	{
		allocated = allocated ? allocated * 2 : 1024;
		all = xrealloc(all, allocated * sizeof(Customer *));
	}
	if (count > 0 && all[count - 1]->generated > generated)
		sorted = false;
	all[count++] = customer;
	return customer;
}

/* Changes what is given and not empty. */
void
store_update(Customer *customer, const FieldValues *values)
{
	const char *merged[N_FIELDS];

	store_values(customer, merged);
	for (int i = 0; i < N_FIELDS; i++)
		if (values->value[i] && *values->value[i])
			merged[i] = values->value[i];
	change_values(customer, merged);
	customer->modified = time(NULL);
	customer->updates++;
}

/* Gives a customer all its values anew, as if it had never had others. */
void
store_replace(Customer *customer, const FieldValues *values, time_t generated)
{
	change_values(customer, values->value);
	customer->generated = customer->modified = generated;
	customer->extra = NULL;
	sorted = false;
}

Customer *
store_by_id(int64_t id)
{
	uint32_t	hash = hash_id(id);
	size_t		position = hash;
	Customer   *customer;

	while ((customer = index_next(&by_id, hash, &position)) != NULL)
		if (customer->id == id)
			return customer;
	return NULL;
}

static bool
meets(const Customer *customer, const Criteria *criteria)
{
	const char *values[N_FIELDS];

	store_values(customer, values);
	return (criteria->id == 0 || customer->id == criteria->id) &&
		(criteria->id2 == 0 || customer->id == criteria->id2) &&
		(criteria->phone == NULL || strcmp(values[FIELD_PHONE], criteria->phone) == 0) &&
		(criteria->email == NULL || strcasecmp(values[FIELD_EMAIL], criteria->email) == 0);
}

/* The customer that meets all criteria; NULL also if there are none. */
Customer *
store_find(const Criteria *criteria)
{
	int64_t		id = criteria->id ? criteria->id : criteria->id2;
	const Index *ix = criteria->phone ? &by_phone : &by_email;
	const char *key = criteria->phone ? criteria->phone : criteria->email;
	Customer   *customer;
	uint32_t	hash;
	size_t		position;

	if (id != 0)
	{
		customer = store_by_id(id);
		return customer && meets(customer, criteria) ? customer : NULL;
	}
	if (key == NULL)
		return NULL;
	hash = hash_text(key);
	position = hash;
	while ((customer = index_next(ix, hash, &position)) != NULL)
		if (meets(customer, criteria))
			return customer;
	return NULL;
}

/* The customer with this code; NULL: there is none. */
Customer *
store_by_code(const char *code)
{
	uint32_t	hash = hash_text(code);
	size_t		position = hash;
	Customer   *customer;

	while ((customer = index_next(&by_code, hash, &position)) != NULL)
	{
		const char *values[N_FIELDS];

		store_values(customer, values);
		if (strcmp(values[FIELD_CODE], code) == 0)
			return customer;
	}
	return NULL;
}

bool
store_phone_taken(const char *phone, const Customer *except)
{
	Criteria	criteria = {.phone = phone};
	uint32_t	hash = hash_text(phone);
	size_t		position = hash;
	Customer   *customer;

	while ((customer = index_next(&by_phone, hash, &position)) != NULL)
		if (customer != except && meets(customer, &criteria))
			return true;
	return false;
}

bool
store_email_taken(const char *email, const Customer *except)
{
	Criteria	criteria = {.email = email};
	uint32_t	hash = hash_text(email);
	size_t		position = hash;
	Customer   *customer;

	while ((customer = index_next(&by_email, hash, &position)) != NULL)
		if (customer != except && meets(customer, &criteria))
			return true;
	return false;
}

size_t
store_count(void)
{
	return count;
}

Customer *
store_nth(size_t position)
{
	return all[position];
}

static int
compare(const void *a, const void *b)
{
	const Customer *left = *(Customer *const *) a;
	const Customer *right = *(Customer *const *) b;

	if (left->generated != right->generated)
		return left->generated < right->generated ? -1 : 1;
	return (left->id > right->id) - (left->id < right->id);
}

/* The position of the first customer generated at or after that time. */
static size_t
lower_bound(time_t moment)
{
	size_t		low = 0;
	size_t		high = count;

	while (low < high)
	{
		size_t		middle = low + (high - low) / 2;

		if (all[middle]->generated < moment)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* The positions of the customers generated in a time, both ends included. */
void
store_range(time_t from, time_t to, size_t *first, size_t *end)
{
	if (!sorted)
	{
		qsort(all, count, sizeof(Customer *), compare);
		sorted = true;
	}
	*first = lower_bound(from);
	*end = lower_bound(to + 1);
}

/* Back to what was there at the start. */
void
store_reset(void)
{
	for (size_t i = 0; i < count; i++)
	{
		free(all[i]->values);
		free(all[i]);
	}
	free(all);
	all = NULL;
	count = allocated = 0;
	sorted = true;
	index_clear(&by_id);
	index_clear(&by_phone);
	index_clear(&by_email);
	index_clear(&by_code);
	next_id = FIRST_ID;
	next_contact_id = FIRST_CONTACT_ID;
	if (!start_empty)
		add_samples();
}

void
store_init(bool empty)
{
	start_empty = empty;
	store_reset();
}

void
store_lock(void)
{
	pthread_mutex_lock(&mutex);
}

void
store_unlock(void)
{
	pthread_mutex_unlock(&mutex);
}
