/*
 * account.c
 *		How the account differs from the vendor's document.
 *
 * Accounts have been seen to want other names, nested bodies and pages, and to
 * answer in other words; see docs/your-account.md.
 */
#include "account.h"

#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "buf.h"

Account		account;

static const char *const dialects[N_DIALECTS] = {"seed", "array-name", "v1"};
static const char *const answers[N_ANSWER_FORMS] = {"enquiry", "flat", "no_id"};

/* What a field is called, where it is not called as in the document. */
static const struct
{
	const char *name;
	const char *array_name;
	const char *v1;
}			names[] =
{
	{"kapture_customer_id", "customer_id", "customer_info.customer_id"},
	{"customer_name", "name", "customer_info.customer_name"},
	{"phone", "phone", "customer_info.phone"},
	{"email_id", "email", "customer_info.email_id"},
	{"country", "country", "customer_info.country"},
	{"state", "state", "customer_info.state"},
	{"city", "city", "customer_info.city"},
	{"contact_person_name", "contact_person_name", "contact_info.contact_person_name"}
};

/* The number of a word in a list; -1 if it is not there. */
static int
find_word(const char *const *words, int n, const char *word)
{
	for (int i = 0; word && i < n; i++)
		if (strcmp(words[i], word) == 0)
			return i;
	return -1;
}

/* Begins anew with these settings.  Returns what is wrong, or NULL. */
const char *
account_set(json_t *settings)
{
	Account		set = {0};
	const char *dialect = "seed";
	const char *answer = "enquiry";
	int			upsert = 0;
	int			invalid_json = 0;
	int			lead_exists = 0;
	int			paged = 0;
	int			repeats = 0;
	int			newest = 0;
	json_t	   *keys = NULL;

	if (json_unpack(settings, "{s?s, s?s, s?b, s?b, s?b, s?b, s?i, s?b, s?b, s?i, s?o !}",
					"dialect", &dialect, "answer", &answer, "upsert", &upsert, "invalid_json", &invalid_json,
					"lead_exists", &lead_exists, "paged", &paged, "page_rows", &set.page_rows,
					"page_repeats", &repeats, "page_newest", &newest, "page_grows", &set.page_grows,
					"api_keys", &keys) != 0)
		return "unknown or bad setting of the account; see README.md";
	if (find_word(dialects, N_DIALECTS, dialect) < 0 || find_word(answers, N_ANSWER_FORMS, answer) < 0)
		return "unknown dialect or answer";
	set.dialect = (Dialect) find_word(dialects, N_DIALECTS, dialect);
	set.answer = (AnswerForm) find_word(answers, N_ANSWER_FORMS, answer);
	set.upsert = upsert;
	set.invalid_json = invalid_json;
	set.lead_exists = lead_exists;
	set.paged = paged;
	set.page_repeats = repeats;
	set.page_newest = newest;
	for (int i = 0; i <= API_PULL; i++)
	{
		const char *key = json_string_value(json_object_get(keys, api_names[i]));

		/* never freed: a request under way may look at it */
		set.api_keys[i] = key ? xstrdup(key) : NULL;
	}
	api_set_array(API_ADD, set.dialect == DIALECT_ARRAY_NAME);
	api_set_array(API_UPDATE, set.dialect == DIALECT_ARRAY_NAME);
	api_set_array(API_PULL, !set.paged);
	account = set;
	return NULL;
}

/* A value of a request to Add or Update, wherever the account's dialect has it; NULL if it is not there. */
json_t *
account_field(json_t *object, const char *name)
{
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
	{
		if (strcmp(names[i].name, name) != 0 || account.dialect == DIALECT_SEED)
			continue;
		if (account.dialect == DIALECT_ARRAY_NAME)
			return json_object_get(object, names[i].array_name);
		if (strncmp(names[i].v1, "customer_info.", 14) == 0)
			return json_object_get(json_object_get(object, "customer_info"), names[i].v1 + 14);
		/* a list of contacts */
		return json_object_get(json_array_get(json_object_get(object, "contact_info"), 0), names[i].v1 + 13);
	}
	return json_object_get(account.dialect == DIALECT_V1 ? json_object_get(object, "customer_info") : object, name);
}
