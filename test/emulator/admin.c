/*
 * admin.c
 *		What tests ask of the emulator itself, under /_emulator/.
 */
#include "admin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "account.h"
#include "api.h"
#include "clock.h"
#include "fault.h"
#include "modules.h"
#include "record.h"
#include "timer.h"

static void
wrong(Reply *reply, const char *what)
{
	answer_failed(reply, 400, what);
}

static void
done(Reply *reply)
{
	answer_plain(reply, 200, TYPE_JSON, "{\"status\": \"success\"}");
}

/* ---- customers ---- */

static void
put_customer(Buf *out, const Customer *customer)
{
	const char *value[N_FIELDS];

	store_values(customer, value);
	buf_printf(out, "{\"kapture_customer_id\": %lld, \"contact_id\": %lld, \"updates\": %u, \"generated\": \"",
			   (long long) customer->id, (long long) customer->contact_id, customer->updates);
	clock_plain(out, customer->generated);
	buf_puts(out, "\"");
	for (int i = 0; i < N_FIELDS; i++)
	{
		if (!*value[i])
			continue;
		buf_printf(out, ", \"%s\": ", field_names[i]);
		buf_json(out, value[i]);
	}
	buf_puts(out, "}");
}

static void
list_customers(Reply *reply, const char *id)
{
	answer_plain(reply, 200, TYPE_JSON, "[");
	store_lock();
	if (id != NULL)
	{
		Customer   *customer = store_by_id(strtoll(id, NULL, 10));

		if (customer)
			put_customer(&reply->body, customer);
	}
	else
		for (size_t i = 0; i < store_count(); i++)
		{
			buf_puts(&reply->body, i > 0 ? ",\n" : "");
			put_customer(&reply->body, store_nth(i));
		}
	store_unlock();
	buf_puts(&reply->body, "]\n");
}

/* ---- seeding ---- */

static const char *
seed_one(json_t *object)
{
	FieldValues values;
	json_int_t	id = 0;
	json_int_t	contact_id = 0;
	const char *generated = NULL;
	time_t		moment = time(NULL);
	Customer   *old;

	if (!json_is_object(object) ||
		json_unpack(object, "{s?I, s?I, s?s}", "kapture_customer_id", &id, "contact_id", &contact_id,
					"generated", &generated) != 0)
		return "a customer is an object; its ids are numbers, \"generated\" is a string";
	if (generated && !clock_parse(generated, false, &moment))
		return "\"generated\" must look like 2021-03-14 14:21:11";
	api_field_values(object, &values);
	old = id ? store_by_id(id) : NULL;
	if (old)
		store_replace(old, &values, moment);
	else
		store_add(&values, id, contact_id, moment, 0);
	return NULL;
}

/* Many customers, spread evenly over a time. */
static const char *
seed_many(json_t *object)
{
	json_int_t	count = 0;
	const char *from = NULL;
	const char *to = NULL;
	time_t		start;
	time_t		end;

	if (json_unpack(object, "{s:I, s:s, s:s}", "count", &count, "from", &from, "to", &to) != 0 ||
		!clock_parse(from, false, &start) || !clock_parse(to, true, &end))
		return "expected {\"count\": n, \"from\": \"YYYY-MM-DD\", \"to\": \"YYYY-MM-DD\"}";
	for (json_int_t i = 0; i < count; i++)
	{
		FieldValues values = {0};
		char		name[32];
		char		phone[32];
		char		email[48];

		snprintf(name, sizeof(name), "Seeded %lld", (long long) i);
		snprintf(phone, sizeof(phone), "7%09lld", (long long) i);
		snprintf(email, sizeof(email), "seeded%lld@example.com", (long long) i);
		values.value[FIELD_NAME] = name;
		values.value[FIELD_PHONE] = phone;
		values.value[FIELD_EMAIL] = email;
		values.value[FIELD_CITY] = "Bangalore";
		values.value[FIELD_COUNTRY] = "India";
		store_add(&values, 0, 0,
				  count > 1 ? start + (time_t) ((double) (end - start) * (double) i / (double) (count - 1)) : start, 0);
	}
	return NULL;
}

static void
seed(Reply *reply, json_t *body)
{
	const char *problem = NULL;

	store_lock();
	if (json_is_array(body))
		for (size_t i = 0; i < json_array_size(body) && problem == NULL; i++)
			problem = seed_one(json_array_get(body, i));
	else
		problem = seed_many(body);
	store_unlock();
	if (problem)
		wrong(reply, problem);
	else
		done(reply);
}

/* ---- the rest ---- */

/* {"add": key, …}, or {"all": key} */
static void
set_keys(Reply *reply, json_t *body)
{
	const char *name;
	json_t	   *value;

	json_object_foreach(body, name, value)
	{
		Api			api;

		if (!json_is_string(value))
			continue;
		if (strcmp(name, "all") == 0)
			for (int i = 0; i < N_APIS; i++)
				api_set_key((Api) i, json_string_value(value));
		else if (api_by_name(name, &api))
			api_set_key(api, json_string_value(value));
	}
	done(reply);
}

static void
set_account(Reply *reply, json_t *body)
{
	const char *problem = account_set(body);

	if (problem)
		wrong(reply, problem);
	else
		done(reply);
}

static void
reset(Reply *reply)
{
	json_t	   *none = json_array();

	fault_set(none);
	json_decref(none);
	timer_release();
	store_lock();
	store_reset();
	module_reset();
	store_unlock();
	record_reset();
	done(reply);
}

static void
stats(Reply *reply)
{
	size_t		customers;

	store_lock();
	customers = store_count();
	store_unlock();
	answer_plain(reply, 200, TYPE_JSON, "");
	record_stats(&reply->body, customers);
}

static void
faults(Reply *reply, json_t *body)
{
	const char *problem;

	if (body == NULL)
	{
		json_t	   *list = fault_list();
		char	   *text = json_dumps(list, 0);

		answer_plain(reply, 200, TYPE_JSON, text);
		free(text);
		json_decref(list);
		return;
	}
	problem = fault_set(body);
	if (problem)
		wrong(reply, problem);
	else
		done(reply);
}

/*
 * "what" is the path behind /_emulator/, "since" and "id" are arguments of the
 * query or NULL.
 */
void
admin_perform(const char *what, const char *since, const char *id,
			  const char *body, size_t len, Reply *reply)
{
	json_t	   *json = len > 0 ? json_loadb(body, len, 0, NULL) : NULL;

	if (len > 0 && json == NULL)
		wrong(reply, "the body is not JSON");
	else if (strcmp(what, "stats") == 0)
		stats(reply);
	else if (strcmp(what, "customers") == 0)
		list_customers(reply, id);
	else if (strcmp(what, "items") == 0)
	{
		answer_plain(reply, 200, TYPE_JSON, "");
		module_list(&reply->body);
	}
	else if (strcmp(what, "log") == 0)
	{
		answer_plain(reply, 200, TYPE_JSON, "");
		record_log(&reply->body, since ? strtoll(since, NULL, 10) : 0);
	}
	else if (strcmp(what, "reset") == 0)
		reset(reply);
	else if (strcmp(what, "release") == 0)
	{
		timer_release();
		done(reply);
	}
	else if (strcmp(what, "seed") == 0)
		seed(reply, json);
	else if (strcmp(what, "faults") == 0)
		faults(reply, json);
	else if (strcmp(what, "keys") == 0)
		set_keys(reply, json);
	else if (strcmp(what, "account") == 0)
		set_account(reply, json);
	else
		answer_failed(reply, 404, "unknown; see README.md");
	json_decref(json);
}
