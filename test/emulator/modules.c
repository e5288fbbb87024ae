/*
 * modules.c
 *		Tickets and other modules.
 *
 * The shapes of answers differ from module to module: an array around one
 * object, an array of all that was found, without a status, a "message" that is an array, an
 * object or a text.  Nothing is unique here: what is sent twice is there twice.
 */
#include "modules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"

#define FIRST_TICKET	INT64_C(202401010001)
#define FIRST_ITEM		INT64_C(700001)

static const struct
{
	Api			api;
	const char *path;
	bool		wants_array;
}			modules[] = {
	{API_TICKET_ADD, "/add-ticket-from-other-source.html/v.2.0", true},
	{API_TICKET_UPDATE, "/update-ticket-from-other-source.html/v.2.0", true},
	{API_TICKET_GET, "/search-ticket-by-ticket-id.html/v.2.0", false},
	{API_TICKET_PULL, "/select-ticket-between-start-and-end-dates.html/v.2.0", true},
	{API_ORDER_ADD, "/add-update-order-from-other-source.html", true},
	{API_ORDER_V1, "/ms/customer/order/api/v1/add-update", false},
	{API_ENQUIRY_ADD, "/add-update-enquiry-from-other-source.html", true},
	{API_PRODUCT_ADD, "/add-update-product-from-other-source.html", true},
	{API_FAQ_CONTENTS, "/get-faq-contents.html", true},
	{API_FAQ_CATEGORIES, "/get-all-faq-categories.html", true}
};

/* Something that a module keeps. */
typedef struct Item
{
	Api			api;
	int64_t		id;
	time_t		made;
	unsigned	updates;
	json_t	   *fields;			/* as sent */
} Item;

/* All under the lock of the store. */
static Item *items;
static size_t n_items;
static size_t items_size;

/* Which module has that path? */
bool
module_by_path(const char *path, Api *api)
{
	for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++)
		if (strcmp(modules[i].path, path) == 0)
		{
			*api = modules[i].api;
			return true;
		}
	return false;
}

static bool
wants_array(Api api)
{
	for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++)
		if (modules[i].api == api)
			return modules[i].wants_array;
	return false;
}

/* ---- items ---- */

static Item *
add_item(Api api, json_t *fields)
{
	Item	   *item;

	if (n_items == items_size)
	{
		items_size = items_size ? items_size * 2 : 64;
		items = xrealloc(items, items_size * sizeof(Item));
	}
	item = &items[n_items];
	item->api = api;
	item->id = (api == API_TICKET_ADD ? FIRST_TICKET : FIRST_ITEM) + (int64_t) n_items;
	item->made = time(NULL);
	item->updates = 0;
	item->fields = json_deep_copy(fields);
	n_items++;
	return item;
}

/* A ticket by its number as text; NULL: there is none. */
static Item *
find_ticket(const char *id, size_t len)
{
	char		number[32];

	for (size_t i = 0; i < n_items; i++)
	{
		snprintf(number, sizeof(number), "%lld", (long long) items[i].id);
		if (items[i].api == API_TICKET_ADD && strlen(number) == len && strncmp(number, id, len) == 0)
			return &items[i];
	}
	return NULL;
}

/* Forgets all items. */
void
module_reset(void)
{
	for (size_t i = 0; i < n_items; i++)
		json_decref(items[i].fields);
	n_items = 0;
}

/* Appends all items as an array. */
void
module_list(Buf *out)
{
	buf_puts(out, "[");
	store_lock();
	for (size_t i = 0; i < n_items; i++)
	{
		char	   *text = json_dumps(items[i].fields, JSON_COMPACT);

		buf_printf(out, "%s{\"api\": \"%s\", \"id\": \"%lld\", \"updates\": %u, \"body\": %s}", i > 0 ? ",\n" : "",
				   api_names[items[i].api], (long long) items[i].id, items[i].updates, text);
		free(text);
	}
	store_unlock();
	buf_puts(out, "]\n");
}

/* ---- answers ---- */

static const char *
text_of(json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text && *text ? text : NULL;
}

static void
succeed(Reply *reply, int64_t id, const char *body)
{
	answer_plain(reply, 200, TYPE_JSON, body);
	reply->success = true;
	reply->id = id;
}

/* A ticket as Get and Pull show it: what was sent, its number, its time in two shapes. */
static void
put_ticket(Buf *out, const Item *item)
{
	const char *name;
	json_t	   *value;

	buf_printf(out, "{\"ticketId\": \"%lld\", \"status\": \"P\", \"date\": \"", (long long) item->id);
	clock_printed(out, item->made);
	buf_puts(out, "\", \"createTime\": ");
	clock_calendar(out, item->made);
	json_object_foreach(item->fields, name, value)
	{
		char	   *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

		buf_puts(out, ", ");
		buf_json(out, name);
		buf_printf(out, ": %s", text);
		free(text);
	}
	buf_puts(out, "}");
}

static void
ticket_add(json_t *object, Reply *reply)
{
	Item	   *item;

	if (text_of(object, "title") == NULL)
	{
		answer_failed(reply, 400, "Ticket title is mandatory");
		return;
	}
	item = add_item(API_TICKET_ADD, object);
	succeed(reply, item->id, "");
	buf_printf(&reply->body, "{\"ticket_id\": \"%lld\", \"ticket\": ", (long long) item->id);
	put_ticket(&reply->body, item);
	buf_puts(&reply->body, ", \"message\": \"Ticket Added Successfully\", \"status\": \"success\"}");
}

static void
ticket_update(json_t *object, Reply *reply)
{
	const char *id = text_of(object, "ticket_id");
	Item	   *item = id ? find_ticket(id, strlen(id)) : NULL;

	if (item == NULL)
	{
		answer_failed(reply, 200, "Ticket does not exist");
		return;
	}
	json_object_update(item->fields, object);
	item->updates++;
	succeed(reply, item->id, "{\"message\": \"Ticket Updated Successfully\", \"status\": \"success\"}");
}

/* All that were asked for, in an array that says nothing else. */
static void
ticket_get(json_t *object, Reply *reply)
{
	const char *ids = text_of(object, "ticket_ids");
	int			n = 0;

	succeed(reply, 0, "[");
	while (ids && *ids)
	{
		size_t		len = strcspn(ids, ",");
		Item	   *item = find_ticket(ids, len);

		if (item)
		{
			buf_puts(&reply->body, n++ > 0 ? "," : "");
			put_ticket(&reply->body, item);
		}
		ids += len;
		ids += strspn(ids, ", ");
	}
	buf_puts(&reply->body, "]");
}

/* "message" is an array, one object, or a text. */
static void
ticket_pull(json_t *object, Reply *reply)
{
	const char *start = text_of(object, "start_date");
	const char *end = text_of(object, "end_date");
	time_t		from;
	time_t		to;
	Buf			found = {0};
	int			n = 0;

	if (start && end && clock_parse(start, false, &from) && clock_parse(end, true, &to))
	{
		for (size_t i = 0; i < n_items; i++)
		{
			if (items[i].api != API_TICKET_ADD || items[i].made < from || items[i].made > to)
				continue;
			buf_puts(&found, n++ > 0 ? "," : "");
			put_ticket(&found, &items[i]);
		}
	}
	if (n == 0)
		answer_failed(reply, 200, "No ticket between dates.");
	else
	{
		succeed(reply, 0, n > 1 ? "{\"message\": [" : "{\"message\": ");
		buf_puts(&reply->body, found.data);
		buf_puts(&reply->body, n > 1 ? "], \"status\": \"success\"}" : ", \"status\": \"success\"}");
	}
	buf_free(&found);
}

/* An enquiry makes a customer, too. */
static void
enquiry_add(json_t *object, Reply *reply)
{
	FieldValues values;
	const char *phone;
	const char *email;
	Customer   *customer = NULL;
	Item	   *item;

	api_field_values(object, &values);
	phone = values.value[FIELD_PHONE];
	email = values.value[FIELD_EMAIL];
	if (phone || email)
		customer = store_find(&(Criteria) {.phone = phone, .email = phone ? NULL : email});
	item = add_item(API_ENQUIRY_ADD, object);
	if (customer)
	{
		succeed(reply, item->id, "");
		buf_printf(&reply->body, "[{\"message\": \"Lead already exists, Customer ID :%lld, Enquiry ID :%lld, Contact ID : %lld\", \"status\": \"success\"}]",
				   (long long) customer->id, (long long) item->id, (long long) customer->contact_id);
		return;
	}
	customer = store_add(&values, 0, 0, item->made, 0);
	succeed(reply, item->id, "");
	buf_printf(&reply->body, "[{\"Enquiry Id\": \"%lld\", \"Customer Id\": \"%lld\", \"Message\": \"Enquiry Added Successfully\", \"Status\": \"Success\"}]",
			   (long long) item->id, (long long) customer->id);
}

/* Takes whatever comes, and gives it an id, whose key may be there twice. */
static void
keep(Api api, json_t *object, Reply *reply)
{
	Item	   *item = add_item(api, object);

	succeed(reply, item->id, "");
	switch (api)
	{
		case API_ORDER_ADD:
			buf_printf(&reply->body, "[{\"Order Id\": \"%lld\", \"order_id\": \"%lld\", \"Message\": \"Order Added Successfully\", \"Status\": \"Success\"}]",
					   (long long) item->id, (long long) item->id);
			break;
		case API_ORDER_V1:
			buf_printf(&reply->body, "{\"order_id\": %lld, \"message\": \"Order saved\", \"status\": \"success\"}", (long long) item->id);
			break;
		default:
			buf_printf(&reply->body, "[{\"product_id\": %lld, \"status\": \"success\"}]", (long long) item->id);
			break;
	}
}

/*
 * Does what a request to a module asks for.
 */
void
module_perform(const ApiRequest *request, Reply *reply)
{
	json_t	   *object = request->object;

	if (object == NULL || json_is_array(request->body) != wants_array(request->api))
	{
		answer_failed(reply, 200, "Invalid Json.");
		return;
	}
	store_lock();
	switch (request->api)
	{
		case API_TICKET_ADD:
			ticket_add(object, reply);
			break;
		case API_TICKET_UPDATE:
			ticket_update(object, reply);
			break;
		case API_TICKET_GET:
			ticket_get(object, reply);
			break;
		case API_TICKET_PULL:
			ticket_pull(object, reply);
			break;
		case API_ENQUIRY_ADD:
			enquiry_add(object, reply);
			break;
		case API_FAQ_CONTENTS:
			succeed(reply, 0, "{\"faqs\": [{\"id\": 1, \"question\": \"How?\", \"answer\": \"So.\"}], \"status\": \"success\"}");
			break;
		case API_FAQ_CATEGORIES:
			succeed(reply, 0, "[{\"id\": 1, \"name\": \"General\"}]");
			break;
		default:
			if (request->api == API_PRODUCT_ADD && text_of(object, "name") == NULL)
				answer_failed(reply, 400, "Product name is mandatory");
			else
				keep(request->api, object, reply);
			break;
	}
	store_unlock();
}
