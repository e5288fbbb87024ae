/*
 * fault.c
 *		Faults on demand.
 *
 * A list of rules; the first that a request meets decides.  Rules that were
 * replaced are never freed: requests under way may still point into them, and
 * there are few.
 */
#include "fault.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

typedef struct Rule
{
	Fault		fault;
	bool		any_api;
	Api			api;
	const char *match;			/* must be in the body; NULL: anything */
	json_int_t	skip;			/* how many that meet it go free first */
	json_int_t	count;			/* for how many it holds; -1: all */
	double		probability;
	json_int_t	hits;
} Rule;

static const struct
{
	const char *name;
	FaultAction action;
	int			code;			/* unless the rule has one */
}			actions[] = {
	{"delay", FAULT_NONE, 200},
	{"status", FAULT_STATUS, 500},
	{"drop_before", FAULT_DROP_BEFORE, 200},
	{"drop_after", FAULT_DROP_AFTER, 200},
	{"truncate", FAULT_TRUNCATE, 200},
	{"garbage", FAULT_GARBAGE, 200},
	{"html", FAULT_HTML, 200},
	{"endless", FAULT_ENDLESS, 200},
	{"redirect", FAULT_REDIRECT, 302},
	{"hang", FAULT_HANG, 200},
	{"hold", FAULT_HOLD, 200},
	{"late", FAULT_LATE, 200},
	{"gateway", FAULT_GATEWAY, 502},
	{"flat_answer", FAULT_FLAT, 200},
	{"not_found", FAULT_NOT_FOUND, 200},
	{"instead", FAULT_INSTEAD, 200},
	{"unasked", FAULT_UNASKED, 200},
	{"bom", FAULT_BOM, 200},
	{"gzip", FAULT_GZIP, 200}
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Rule *rules;
static size_t n_rules;

static bool
read_action(Rule *rule, const char *name)
{
	for (size_t i = 0; name && i < sizeof(actions) / sizeof(actions[0]); i++)
		if (strcmp(actions[i].name, name) == 0)
		{
			rule->fault.action = actions[i].action;
			rule->fault.name = actions[i].name;
			if (rule->fault.code == 0)
				rule->fault.code = actions[i].code;
			return true;
		}
	return false;
}

/* Reads a rule; returns what is wrong with it, or NULL. */
static const char *
read_rule(Rule *rule, json_t *object)
{
	const char *api = NULL;
	const char *action = NULL;

	rule->count = -1;
	rule->probability = 1;
	rule->fault.code = 0;
	if (json_unpack(object, "{s?s, s:s, s?s, s?I, s?I, s?F, s?i, s?i, s?s, s?o !}",
					"api", &api, "action", &action, "match", &rule->match,
					"skip", &rule->skip, "count", &rule->count, "probability", &rule->probability,
					"ms", &rule->fault.delay_ms, "code", &rule->fault.code,
					"body", &rule->fault.body, "headers", &rule->fault.headers) != 0)
		return "a rule has the keys api, action, match, skip, count, probability, ms, code, body, headers";
	if (!read_action(rule, action))
		return "unknown action";
	rule->any_api = api == NULL;
	if (api && !api_by_name(api, &rule->api))
		return "unknown api";
	if (rule->fault.headers && !json_is_object(rule->fault.headers))
		return "headers must be an object";
	return NULL;
}

/* Replaces all rules.  Returns what is wrong, or NULL. */
const char *
fault_set(json_t *list)
{
	size_t		n = json_array_size(list);
	Rule	   *read;

	if (!json_is_array(list))
		return "rules must be an array";
	json_incref(list);
	read = xcalloc(n + 1, sizeof(Rule));
	for (size_t i = 0; i < n; i++)
	{
		const char *wrong = read_rule(&read[i], json_array_get(list, i));

		if (wrong)
		{
			free(read);
			json_decref(list);
			return wrong;
		}
	}
	pthread_mutex_lock(&mutex);
	rules = read;
	__atomic_store_n(&n_rules, n, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&mutex);
	return NULL;
}

/* The rules and how many requests each has met. */
json_t *
fault_list(void)
{
	json_t	   *list = json_array();

	pthread_mutex_lock(&mutex);
	for (size_t i = 0; i < n_rules; i++)
		json_array_append_new(list, json_pack("{s:s, s:I}", "action", rules[i].fault.name, "hits", rules[i].hits));
	pthread_mutex_unlock(&mutex);
	return list;
}

static bool
meets(Rule *rule, Api api, const char *body)
{
	if (rule->count == 0 || (!rule->any_api && rule->api != api))
		return false;
	if (rule->match && (body == NULL || strstr(body, rule->match) == NULL))
		return false;
	if (rule->skip > 0)
	{
		rule->skip--;
		return false;
	}
	if (rule->probability < 1 && drand48() >= rule->probability)
		return false;
	if (rule->count > 0)
		rule->count--;
	rule->hits++;
	return true;
}

/* What to do about a request; body may be NULL. */
Fault
fault_pick(Api api, const char *body)
{
	Fault		fault = {0};

	if (__atomic_load_n(&n_rules, __ATOMIC_ACQUIRE) == 0)
		return fault;
	pthread_mutex_lock(&mutex);
	for (size_t i = 0; i < n_rules; i++)
		if (meets(&rules[i], api, body))
		{
			fault = rules[i].fault;
			break;
		}
	pthread_mutex_unlock(&mutex);
	return fault;
}
