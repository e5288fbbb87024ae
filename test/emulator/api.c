/*
 * api.c
 *		The APIs: what a request asks for, and doing it.
 *
 * The checks and their messages are those of the failure tables in the
 * vendor's document, line breaks and all.
 */
#include "api.h"

#include <ctype.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "account.h"
#include "clock.h"
#include "modules.h"

#define KEY_SIZE	512

const char *const api_names[N_APIS] = {
	"add", "update", "get", "pull",
	"ticket_add", "ticket_update", "ticket_get", "ticket_pull", "order_add", "order_v1",
	"enquiry_add", "product_add", "faq_contents", "faq_categories"
};

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static char keys[N_APIS][KEY_SIZE];
static bool wants_array[N_APIS] = {false, false, true, true};
static int	pull_limit;			/* hours; 0: none */
static size_t pull_rows;		/* customers of an answer; 0: no limit */

/* ---- settings ---- */

/* The key that an API is to accept, as it stands behind "Basic ". */
void
api_set_key(Api api, const char *key)
{
	pthread_mutex_lock(&mutex);
	snprintf(keys[api], KEY_SIZE, "%s", key);
	pthread_mutex_unlock(&mutex);
}

/* Does an API want its object in an array? */
void
api_set_array(Api api, bool array)
{
	wants_array[api] = array;
}

void
api_set_pull_limit(int hours)
{
	pull_limit = hours;
}

/*
 * Sets how many customers an answer to a Pull has at most; the rest is left
 * out.  0: all.
 */
void
api_set_pull_rows(int rows)
{
	pull_rows = rows;
}

bool
api_by_name(const char *name, Api *api)
{
	for (int i = 0; i < N_APIS; i++)
		if (strcmp(name, api_names[i]) == 0)
		{
			*api = (Api) i;
			return true;
		}
	return false;
}

static bool
key_is_right(Api api, const char *authorization)
{
	bool		right;

	if (authorization == NULL || strncmp(authorization, "Basic ", 6) != 0)
		return false;
	pthread_mutex_lock(&mutex);
	right = strcmp(authorization + 6, keys[api]) == 0;
	pthread_mutex_unlock(&mutex);
	return right;
}

/* ---- reading ---- */

/*
 * The text of a value; NULL if it is none.  Kapture takes numbers where it
 * documents strings.
 */
static const char *
value_text(json_t *value, char number[24])
{
	if (json_is_string(value))
		return json_string_value(value);
	if (!json_is_integer(value))
		return NULL;
	snprintf(number, 24, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return number;
}

/* Likewise, of a value of an object. */
static const char *
get_text(json_t *object, const char *name, char number[24])
{
	return value_text(json_object_get(object, name), number);
}

static const char *
get_nonempty(json_t *object, const char *name, char number[24])
{
	const char *text = get_text(object, name, number);

	return text && *text ? text : NULL;
}

/* The values of a request to Add or Update, in the account's dialect. */
static void
read_values(json_t *object, FieldValues *values)
{
	for (int i = 0; i < N_FIELDS; i++)
		values->value[i] = value_text(account_field(object, field_names[i]), values->number[i]);
}

void
api_field_values(json_t *object, FieldValues *values)
{
	for (int i = 0; i < N_FIELDS; i++)
		values->value[i] = get_text(object, field_names[i], values->number[i]);
}

/*
 * Which API a request is for.  Add and Update share a path: it is the id in
 * the body that makes an Update.  Returns false if there is nothing there.
 */
bool
api_read(ApiRequest *request, const char *path, const char *body, size_t len)
{
	char		number[24];

	request->body = request->object = NULL;
	if (strcmp(path, "/add-update-customer-from-other-source.html") == 0 ||
		strcmp(path, "/ms/customer/customer/api/v1/add-update") == 0)
		request->api = API_ADD;
	else if (strcmp(path, "/search-customer-by-customer-id.html") == 0)
		request->api = API_GET;
	else if (strcmp(path, "/select-customer-between-start-and-end-dates.html") == 0)
		request->api = API_PULL;
	else if (!module_by_path(path, &request->api))
		return false;

	request->body = json_loadb(body ? body : "", len, 0, NULL);
	request->object = request->body;
	if (json_is_array(request->body) && json_array_size(request->body) == 1)
		request->object = json_array_get(request->body, 0);
	if (!json_is_object(request->object))
		request->object = NULL;
	if (request->api == API_ADD && request->object)
	{
		const char *id = value_text(account_field(request->object, "kapture_customer_id"), number);

		if (id && *id)
			request->api = API_UPDATE;
	}
	return true;
}

void
api_free(ApiRequest *request)
{
	json_decref(request->body);
	request->body = request->object = NULL;
}

/* ---- doing ---- */

/* Answers with a message as the document prints it, raw line break and all. */
static void
refuse(Reply *reply, const char *message)
{
	answer_plain(reply, 400, TYPE_JSON, "{\"message\": \"");
	buf_puts(&reply->body, message);
	buf_puts(&reply->body, "\", \"status\": \"failed\"}");
}

static bool
is_email(const char *text)
{
	const char *at = strchr(text, '@');

	return at != NULL && at != text && strchr(at + 1, '@') == NULL &&
		at[1] != '.' && strchr(at, '.') != NULL && text[strlen(text) - 1] != '.' &&
		strpbrk(text, " \t\r\n,;<>\"") == NULL;
}

static bool
is_phone(const char *text)
{
	return text[0] >= '6' && text[0] <= '9' && strlen(text) == 10 && strspn(text, "0123456789") == 10;
}

/* A duplicate as the enquiry API tells it: by the id of whoever it is. */
static void
refuse_lead(Reply *reply, const char *phone, const char *email)
{
	Criteria	criteria = {.phone = phone, .email = email};
	Customer   *customer = store_find(&criteria);
	char		message[128];

	snprintf(message, sizeof(message), "Lead already exists, Customer ID :%lld, Enquiry ID :34, Contact ID : %lld",
			 (long long) customer->id, (long long) customer->contact_id);
	refuse(reply, message);
}

/* The checks that Add and Update share; returns false if it refused. */
static bool
check_values(const FieldValues *values, const Customer *customer, Reply *reply)
{
	const char *phone = values->value[FIELD_PHONE];
	const char *email = values->value[FIELD_EMAIL];
	bool		phone_taken;
	bool		email_taken;

	phone = phone && *phone ? phone : NULL;
	email = email && *email ? email : NULL;
	if (customer == NULL &&
		(values->value[FIELD_NAME] == NULL || !*values->value[FIELD_NAME] || (!phone && !email)))
		refuse(reply, "Name and (Phone Number or Email Id) are required fields");
	else if (email && !is_email(email))
		refuse(reply, "Invalid email id.");
	else if (phone && !is_phone(phone))
		refuse(reply, "Invalid phone number,\nnumber must contain 10 digits and must start from 6 or above");
	else
	{
		phone_taken = phone && store_phone_taken(phone, customer);
		email_taken = email && store_email_taken(email, customer);
		if (!phone_taken && !email_taken)
			return true;
		if (account.lead_exists)
			refuse_lead(reply, phone_taken ? phone : NULL, phone_taken ? NULL : email);
		else if (phone_taken && email_taken)
			refuse(reply, " ,Both email and mobile number already exist. Please enter new details.");
		else if (phone_taken)
			refuse(reply, "This mobile number already exists. Please enter a new one.");
		else
			refuse(reply, "This email-id\nalready exists. Please enter a new one.");
	}
	return false;
}

/* A success of Add or Update, as the account tells it. */
static void
answer_written(Reply *reply, const FieldValues *values, int64_t id, int64_t contact_id)
{
	answer_enquiry(reply, values, id, contact_id);
	if (account.answer == ANSWER_FLAT)
		answer_flat(reply);
	else if (account.answer == ANSWER_NO_ID)
	{
		answer_plain(reply, 200, TYPE_JSON, "{\"Message\": \"Customer Added Successfully\", \"Status\": \"Success\"}");
		reply->success = true;
		reply->id = id;
	}
}

/* Who has the code, the phone or the email already; NULL: nobody. */
static Customer *
find_same(const FieldValues *values)
{
	Criteria	criteria[2] = {{.phone = values->value[FIELD_PHONE]}, {.email = values->value[FIELD_EMAIL]}};
	const char *code = values->value[FIELD_CODE];
	Customer   *customer = code && *code ? store_by_code(code) : NULL;

	if (customer == NULL && criteria[0].phone && *criteria[0].phone)
		customer = store_find(&criteria[0]);
	if (customer == NULL && criteria[1].email && *criteria[1].email)
		customer = store_find(&criteria[1]);
	return customer;
}

static void
perform_add(json_t *object, Reply *reply)
{
	FieldValues values;
	Customer   *customer;
	struct timespec now;

	read_values(object, &values);
	if (account.upsert && (customer = find_same(&values)) != NULL)
	{
		store_update(customer, &values);
		answer_written(reply, &values, customer->id, customer->contact_id);
		return;
	}
	if (!check_values(&values, NULL, reply))
		return;
	clock_gettime(CLOCK_REALTIME, &now);
	customer = store_add(&values, 0, 0, now.tv_sec, (unsigned) (now.tv_nsec / 1000000));
	answer_written(reply, &values, customer->id, customer->contact_id);
}

static int64_t
value_id(json_t *value)
{
	char		number[24];
	const char *text = value_text(value, number);
	char	   *end;
	int64_t		id;

	if (text == NULL || *text == '\0')
		return 0;
	id = strtoll(text, &end, 10);
	return *end == '\0' && id > 0 ? id : -1;
}

static int64_t
get_id(json_t *object, const char *name)
{
	return value_id(json_object_get(object, name));
}

static void
perform_update(json_t *object, Reply *reply)
{
	FieldValues values;
	Customer   *customer = store_by_id(value_id(account_field(object, "kapture_customer_id")));

	if (customer == NULL)
	{
		/* the document has no row for this; Get's words are the nearest */
		refuse(reply, "Information given by you does not exist in our sytsem.");
		return;
	}
	read_values(object, &values);
	if (!check_values(&values, customer, reply))
		return;
	store_update(customer, &values);
	answer_written(reply, &values, customer->id, 0);
}

static void
perform_get(json_t *object, Reply *reply)
{
	char		number[2][24];
	Criteria	criteria = {
		.id = get_id(object, "kapture_customer_id"),
		.id2 = get_id(object, "customer_id"),
		.phone = get_nonempty(object, "phone", number[0]),
		.email = get_nonempty(object, "email_id", number[1])
	};
	Customer   *customer = store_find(&criteria);

	if (customer)
		answer_customer(reply, customer);
	else
		answer_not_found(reply);
}

static void
nobody_between(Reply *reply)
{
	answer_plain(reply, 200, TYPE_JSON, "{\"message\": \"No customer between dates.\", \"status\": \"failed\"}");
}

/* More customers of that time, as if somebody had added them meanwhile. */
static void
grow(time_t moment)
{
	static int	added;

	for (int i = 0; i < account.page_grows; i++)
	{
		FieldValues values = {0};
		char		phone[32];

		snprintf(phone, sizeof(phone), "6%09d", ++added);
		values.value[FIELD_NAME] = "Meanwhile";
		values.value[FIELD_PHONE] = phone;
		store_add(&values, 0, 0, moment, 0);
	}
}

/* A page of whole days, a hundred customers unless it is asked for others. */
static void
perform_paged_pull(json_t *object, Reply *reply)
{
	const char *start = NULL;
	const char *end = NULL;
	int			cm_id = 0;
	int			offset = 0;
	int			limit = 100;
	time_t		from;
	time_t		to;
	size_t		first;
	size_t		behind;
	size_t		n;

	if (json_unpack(object, "{s:i, s:s, s:s, s?i, s?i}", "cm_id", &cm_id, "createStartDate", &start,
					"createEndDate", &end, "offset", &offset, "limit", &limit) != 0 ||
		!clock_parse(start, false, &from) || !clock_parse(end, false, &to) || strlen(start) != 10 || strlen(end) != 10)
	{
		answer_failed(reply, 200, "Invalid Request");
		return;
	}
	if (to - from > 86400)
	{
		answer_failed(reply, 200, "Difference between dates should not be more than 24 hours");
		return;
	}
	if (account.page_rows > 0 && limit > account.page_rows)
		limit = account.page_rows;
	if (account.page_repeats)
		offset = 0;
	store_range(from, to - 1, &first, &behind);
	n = behind - first;
	if ((size_t) offset >= n)
	{
		nobody_between(reply);
		return;
	}
	answer_pull_begin(reply);
	for (size_t i = (size_t) offset; i < n && i < (size_t) offset + (size_t) limit; i++)
		answer_pull_customer(reply, store_nth(account.page_newest ? behind - 1 - i : first + i));
	answer_pull_end(reply);
	grow(to - 1);
}

static void
perform_pull(json_t *object, Reply *reply)
{
	char		number[24];
	const char *start = get_text(object, "start_date", number);
	const char *end = get_text(object, "end_date", number);
	time_t		from;
	time_t		to;
	size_t		first;
	size_t		behind;

	if (!start || !end || !clock_parse(start, false, &from) || !clock_parse(end, true, &to))
	{
		nobody_between(reply);
		return;
	}
	if (pull_limit > 0 && to - from > (time_t) pull_limit * 3600)
	{
		refuse(reply, "Customers of more than the allowed hours cannot be pulled at once.");
		return;
	}
	store_range(from, to, &first, &behind);
	if (first >= behind)
	{
		nobody_between(reply);
		return;
	}
	if (pull_rows > 0 && behind - first > pull_rows)
		behind = first + pull_rows; /* without a word, as others do */
	answer_pull_begin(reply);
	for (size_t i = first; i < behind; i++)
		answer_pull_customer(reply, store_nth(i));
	answer_pull_end(reply);
}

/*
 * Does what a request asks for.  "authorization" and "api_key" are its headers
 * Authorization and x-api-key, or NULL.
 */
void
api_perform(const ApiRequest *request, const char *authorization, const char *api_key, Reply *reply)
{
	const char *wanted = request->api <= API_PULL ? account.api_keys[request->api] : NULL;

	if (!key_is_right(request->api, authorization) || (wanted && (!api_key || strcmp(api_key, wanted) != 0)))
	{
		answer_failed(reply, 401, "Invalid Auth Key");
		return;
	}
	if (request->api >= API_TICKET_ADD)
	{
		module_perform(request, reply);
		return;
	}
	if (request->object == NULL || json_is_array(request->body) != wants_array[request->api])
	{
		if (account.invalid_json)
			answer_failed(reply, 200, "Invalid Json.");
		else
			answer_failed(reply, 400, "Bad Request");
		return;
	}
	store_lock();
	switch (request->api)
	{
		case API_ADD:
			perform_add(request->object, reply);
			break;
		case API_UPDATE:
			perform_update(request->object, reply);
			break;
		case API_GET:
			perform_get(request->object, reply);
			break;
		default:
			if (account.paged)
				perform_paged_pull(request->object, reply);
			else
				perform_pull(request->object, reply);
			break;
	}
	store_unlock();
}
