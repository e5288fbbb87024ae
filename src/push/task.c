/*
 * task.c
 *		Plans the requests of a claimed row, and decides by their answers what
 *		becomes of the row.
 *
 * A row without an id is added, a row with one is updated with what changed.
 * Kapture knows no idempotency key; what protects from adding a customer twice
 * is that phone and email are unique there.  So two cases need searches (Get,
 * by phone and then by email) first:
 *
 * - An Add was sent and its outcome is unknown.  Once that Add can no longer be running,
 *   its customer is searched for with one request, by the phone and email that the Add had;
 *   the row may have other ones by now.  If the customer is found, its id is taken and the
 *   row's values are sent as an Update.  If two searches do not find it, the Add is sent
 *   again; if Kapture then says "already exists", the customer is that of the lost Add.
 *   Where an Add is an upsert (option add_is_upsert) and the row still has the
 *   customer_code of the lost Add, the Add is sent again without a search.
 * - Kapture answers a first Add with "already exists".  With on_duplicate
 *   'link' the existing customer's id is taken, and the row's values are sent
 *   as an update; with 'link only' nothing is sent; with 'fail' the row is parked.
 *
 * An Update has only fields that have changed and are not known to be in Kapture already.
 *
 * Kapture deletes no customers.  If the attachment has on_delete, an Update sends its
 * constants to the customer of a deleted row; that Update is retried as others are.
 *
 * If phone and email belong to different customers, the row is parked.  A customer that a
 * refusal names is accepted only if it has the row's phone or email.
 *
 * Some accounts do not return the id of a customer that they have added.  Then the id is
 * looked up by phone and email.
 *
 * Rows that Kapture is known to refuse (api/rules.c) are parked without a request.
 *
 * An answer about another customer than the one sent or searched for belongs to another
 * request (a server or proxy is out of step).  It counts as no answer.
 *
 * Kapture cannot tell a newer Update from an older one either: the last one that it carries
 * out wins.  So no other request for a row is sent until an unanswered one must have ended.
 *
 * No I/O here: the worker sends the planned requests and passes the answers in.
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "api/error.h"
#include "api/rules.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/text.h"
#include "cluster/guard.h"
#include "known/digest.h"
#include "push/task.h"
#include "traffic/pacing.h"

#define TASK_FIELD_NAME		"customer_name"
#define TASK_FIELD_PHONE	"phone"
#define TASK_FIELD_EMAIL	"email_id"
#define TASK_FIELD_CODE		"customer_code"

/*
 * Returns the API that the request of the task's step goes to.
 */
KaptureApi
kapture_task_api(const KaptureTask *task)
{
	switch (task->step)
	{
		case KAPTURE_STEP_ADD:
			return KAPTURE_API_ADD;
		case KAPTURE_STEP_UPDATE:
		case KAPTURE_STEP_DELETED:
			return KAPTURE_API_UPDATE;
		case KAPTURE_STEP_FIND_PHONE:
		case KAPTURE_STEP_FIND_EMAIL:
		case KAPTURE_STEP_FIND_BOTH:
		case KAPTURE_STEP_FIND_NAMED:
			break;
	}
	return KAPTURE_API_GET;
}

/* The row's value for a Kapture field; NULL if there is none. */
static const char *
task_value(const KaptureAttachment *att, const KaptureDelivery *delivery, const char *field)
{
	for (int i = 0; i < att->ncolumns; i++)
	{
		const char *value = delivery->row.values[i];

		if (strcmp(att->columns[i].field, field) == 0)
			return value && value[0] ? value : NULL;
	}
	return NULL;
}

/* Fills in the row's name, phone and email, as far as these fields are in the mask. */
static void
task_identity(const KaptureTask *task, int64 mask, KaptureIdentity *identity)
{
	memset(identity, 0, sizeof(*identity));
	if (task->delivery->row.values == NULL)
		return;					/* it is outside of the filter */
	for (int i = 0; i < task->att->ncolumns; i++)
	{
		const KaptureMappedColumn *col = &task->att->columns[i];
		const char *value = task->delivery->row.values[i];

		if ((mask & (INT64CONST(1) << col->bit)) == 0)
			continue;
		if (strcmp(col->field, TASK_FIELD_NAME) == 0)
			identity->name = value;
		else if (strcmp(col->field, TASK_FIELD_PHONE) == 0)
			identity->phone = value;
		else if (strcmp(col->field, TASK_FIELD_EMAIL) == 0)
			identity->email = value;
	}
}

/* Appends the fields of the mask that have a value; returns how many. */
static int
task_append_fields(const KaptureTask *task, StringInfo body, int64 mask)
{
	int			n = 0;

	for (int i = 0; i < task->att->ncolumns; i++)
	{
		const KaptureMappedColumn *col = &task->att->columns[i];
		const char *value = task->delivery->row.values[i];

		/* to Kapture an empty string means "leave as it is" */
		if ((mask & (INT64CONST(1) << col->bit)) == 0 || value == NULL || value[0] == '\0')
			continue;
		kapture_message_append_field(body, col->field, value);
		n++;
	}
	return n;
}

/* Appends constants (a list of KaptureFieldValue); returns how many. */
static int
task_append_constants(StringInfo body, List *constants)
{
	ListCell   *lc;

	foreach(lc, constants)
	{
		KaptureFieldValue *constant = lfirst(lc);

		kapture_message_append_field(body, constant->field, constant->value);
	}
	return list_length(constants);
}

/*
 * Appends the on_leave constants for the customer of a row that has left the filter;
 * returns their number.  If something of the row was sent before, the row was inside: it
 * has left, whether by a change of its own, another filter or the passing of time.  A lost
 * Add was sent, too, though nothing is known of it.  If nothing was sent (an imported customer, say),
 * only a change of a column that the filter reads shows that the row was inside before.
 */
static int
task_append_on_leave(const KaptureTask *task, StringInfo body)
{
	const KaptureDelivery *delivery = task->delivery;

	if (delivery->has_left ||
		(!delivery->was_sent && !task->lost && (delivery->changed & KAPTURE_CHANGED_FILTER) == 0))
		return 0;				/* the row had left before */
	return task_append_constants(body, task->att->on_leave);
}

/* Begins the body of an Update of the task's customer. */
static void
task_begin_update(const KaptureTask *task, StringInfo body)
{
	char		id[32];

	snprintf(id, sizeof(id), INT64_FORMAT, task->customer_id);
	appendStringInfoChar(body, '{');
	kapture_message_append_field(body, "kapture_customer_id", id);
}

/*
 * Makes the body of a search by id, by phone, by email, or by phone and email (NULL: not by
 * this one).  It has all keys of Kapture's sample request.
 */
static void
task_search_body(StringInfo body, const char *id, const char *phone, const char *email)
{
	appendStringInfoChar(body, '{');
	kapture_message_append_field(body, "kapture_customer_id", id);
	kapture_message_append_field(body, "customer_id", "");
	kapture_message_append_field(body, TASK_FIELD_EMAIL, email);
	kapture_message_append_field(body, TASK_FIELD_PHONE, phone);
	appendStringInfoChar(body, '}');
}

/*
 * Makes the request of a step the task's next one.  Returns false if the step has nothing
 * to send.
 */
static bool
task_prepare(KaptureTask *task, KaptureStep step)
{
	MemoryContext old = MemoryContextSwitchTo(task->delivery->context);
	StringInfoData body;
	bool		any = true;
	char		id[32];

	KAPTURE_FAULT_ROW("body", task->delivery->row_key);
	initStringInfo(&body);
	switch (step)
	{
		case KAPTURE_STEP_ADD:
			appendStringInfoChar(&body, '{');
			task->sending = task->att->all_changed;
			(void) task_append_fields(task, &body, task->sending);
			appendStringInfoChar(&body, '}');
			break;
		case KAPTURE_STEP_UPDATE:
			task_begin_update(task, &body);
			any = task->delivery->row.outside ? task_append_on_leave(task, &body) > 0 :
				task_append_fields(task, &body, task->sending) > 0;
			appendStringInfoChar(&body, '}');
			break;
		case KAPTURE_STEP_DELETED:
			task->sending = 0;
			task_begin_update(task, &body);
			any = task->customer_id != 0 && task_append_constants(&body, task->att->on_delete) > 0;
			appendStringInfoChar(&body, '}');
			break;
		case KAPTURE_STEP_FIND_PHONE:
			any = task->delivery->sent_phone != NULL;
			task_search_body(&body, NULL, task->delivery->sent_phone, NULL);
			break;
		case KAPTURE_STEP_FIND_EMAIL:
			any = task->delivery->sent_email != NULL;
			task_search_body(&body, NULL, NULL, task->delivery->sent_email);
			break;
		case KAPTURE_STEP_FIND_BOTH:
			any = task->delivery->sent_phone != NULL && task->delivery->sent_email != NULL;
			task_search_body(&body, NULL, task->delivery->sent_phone, task->delivery->sent_email);
			break;
		case KAPTURE_STEP_FIND_NAMED:
			snprintf(id, sizeof(id), INT64_FORMAT, task->named_id);
			any = task->named_id != 0;
			task_search_body(&body, id, NULL, NULL);
			break;
	}
	MemoryContextSwitchTo(old);
	if (!any)
		return false;
	task->state = KAPTURE_TASK_SEND;
	task->step = step;
	task->body = body.data;
	task->body_len = body.len;
	task->is_wrapped = false;
	return true;
}

/*
 * Converts the body of the task's request to the form that the account wants (dialect.c),
 * unless that was done before.  Raises the errors of kapture_message_body().
 */
void
kapture_task_wrap(KaptureTask *task, const KaptureServer *server)
{
	KaptureApi	api = kapture_task_api(task);
	MemoryContext old;

	KAPTURE_FAULT_ROW("wrap", task->delivery->row_key);
	if (task->is_wrapped)
		return;
	old = MemoryContextSwitchTo(task->delivery->context);
	task->body = kapture_message_body(server, api, task->body, task->body_len, &task->body_len);
	task->is_wrapped = true;
	MemoryContextSwitchTo(old);
}

/* The row's customer_code; NULL if it has none, or a constant, which names no customer. */
static const char *
task_code(const KaptureAttachment *att, const KaptureDelivery *delivery)
{
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (strcmp(att->columns[i].field, TASK_FIELD_CODE) == 0 && att->columns[i].constant)
			return NULL;
	}
	return task_value(att, delivery, TASK_FIELD_CODE);
}

/*
 * Fills in the phone and email by which an Add of the row's present values could be found,
 * and, where an Add is an upsert, the code by which Kapture recognizes the customer.
 */
void
kapture_task_identify(const KaptureAttachment *att, KaptureDelivery *delivery, bool add_is_upsert)
{
	delivery->sent_phone = (char *) task_value(att, delivery, TASK_FIELD_PHONE);
	delivery->sent_email = (char *) task_value(att, delivery, TASK_FIELD_EMAIL);
	delivery->sent_code = add_is_upsert ? (char *) task_code(att, delivery) : NULL;
}

/* Does the row still have the phone and email that its lost Add had? */
static bool
task_same_identity(const KaptureTask *task)
{
	const char *phone = task_value(task->att, task->delivery, TASK_FIELD_PHONE);
	const char *email = task_value(task->att, task->delivery, TASK_FIELD_EMAIL);

	return strcmp(phone ? phone : "", task->delivery->sent_phone ? task->delivery->sent_phone : "") == 0 &&
		pg_strcasecmp(email ? email : "", task->delivery->sent_email ? task->delivery->sent_email : "") == 0;
}

/*
 * May a lost Add be sent again without a search?  Only if it had the code, phone and email
 * of the next Add: then Kapture carries out one of the two as an update of the other's
 * customer.
 */
static bool
task_may_repeat(const KaptureTask *task)
{
	const KaptureDelivery *delivery = task->delivery;
	const char *code = task->add_is_upsert && !delivery->row.outside ? task_code(task->att, delivery) : NULL;

	return code && delivery->sent_code && strcmp(code, delivery->sent_code) == 0 && task_same_identity(task);
}

/* Ends a task with success. */
static void
task_done(KaptureTask *task, const char *action)
{
	task->state = KAPTURE_TASK_DONE;
	task->action = action;
}

/* What the history says of a row that gets an id: the customer may be of its own Add, whose id could not be written at once. */
static const char *
task_link_action(const KaptureTask *task)
{
	return task->customer_id == task->delivery->added_id ? "add" : "link";
}

/*
 * Ends a task without success.  "park": the row waits until it is changed; else it is tried
 * again at next_attempt.
 */
void
kapture_task_fail(KaptureTask *task, bool park, TimestampTz next_attempt, const char *error)
{
	KaptureFailed *failed = &task->failed;

	/* what failed is not the Add, but what comes after it */
	if (task->state == KAPTURE_TASK_DONE && strcmp(task->action, "add") == 0)
		failed->added_id = task->customer_id;
	task->state = KAPTURE_TASK_FAILED;
	failed->delivery = task->delivery;
	failed->park = park;
	failed->counts = true;
	failed->next_attempt = next_attempt;
	failed->in_doubt = task->delivery->in_doubt;
	failed->unsure = task->step == KAPTURE_STEP_UPDATE;
	failed->whole = task->delivery->has_left ? task->att->all_changed : 0;
	failed->waits_for = 0;
	failed->searches = 0;
	/* if the row was deleted, the id is kept nowhere else */
	failed->customer_id = task->customer_id == task->delivery->row.customer_id && !task->delivery->gone ? 0 : task->customer_id;
	if (task->body)
	{
		/* the text may have to outlive a transaction that fails */
		MemoryContext old = MemoryContextSwitchTo(task->delivery->context);

		KAPTURE_FAULT_ROW("request as text", task->delivery->row_key);
		failed->api = kapture_api_name(kapture_task_api(task));
		failed->request = pg_any_to_server(task->body, task->body_len, PG_UTF8);
		MemoryContextSwitchTo(old);
	}
	failed->http_status = task->http_status;
	failed->error = MemoryContextStrdup(task->delivery->context, kapture_text_cut(error));
}

/* Fails a task for this time; the delay grows with each failure. */
static void
task_retry(KaptureTask *task, TimestampTz now, const char *error)
{
	TimestampTz next = TimestampTzPlusMilliseconds(now, kapture_pacing_backoff(task->delivery->failures + 1,
																			KAPTURE_ROW_LONGEST));

	kapture_task_fail(task, false, Max(next, task->delivery->in_doubt), error);
}

/*
 * Parks a task because of an error of our own, or retries it if the error is a shortage.
 * The request is left out of the record, as it may be the cause.
 */
void
kapture_task_park(KaptureTask *task, const ErrorData *error)
{
	char	   *message = kapture_guard_message(error);

	task->body = NULL;
	if (kapture_guard_is_shortage(error))
		task_retry(task, GetCurrentTimestamp(), message);
	else
		kapture_task_fail(task, true, 0, message);
	pfree(message);
	KAPTURE_TRACE(task, "error");
}

/*
 * Takes in the outcome of writing the customer's id to the row (delivery->row.outcome).  An
 * id that could not be written is kept in the delivery; it is written at "later", with
 * "why" as the reason shown.  Or the task is parked, with the row's error or, if that is
 * not NULL, with "blame".
 */
void
kapture_task_written(KaptureTask *task, TimestampTz later, const char *why, const char *blame)
{
	KaptureRow *row = &task->delivery->row;
	bool		sent = task->state == KAPTURE_TASK_DONE;
	bool		failed = row->outcome == KAPTURE_ROW_FAILED;

	switch (row->outcome)
	{
		case KAPTURE_ROW_DONE:
			break;				/* after a failure, the delivery keeps the id, too, until kapture_row has it */
		case KAPTURE_ROW_GONE:
			/* deleted without being captured */
			if (sent)
				task->action = "gone";
			break;
		case KAPTURE_ROW_FAILED:
		case KAPTURE_ROW_LOCKED:
			if (!sent)
				break;			/* the id is kept with the failure */
			row->customer_id = 0;
			task->body = NULL;
			kapture_task_fail(task, failed || blame, later, failed ? row->error : blame ? blame : row->error ? row->error : why);
			task->failed.arrived = true;
			KAPTURE_TRACE(task, failed || blame ? "error" : "locked");
			break;
	}
}

/*
 * Turns an outcome that cannot be recorded into a failure.  What was achieved is kept: a
 * customer's id, and whether the changes have arrived at Kapture.
 */
void
kapture_task_unrecorded(KaptureTask *task, const ErrorData *error)
{
	bool		arrived = task->state == KAPTURE_TASK_DONE ||
		(task->state == KAPTURE_TASK_FAILED && task->failed.arrived);

	task->delivery->row.customer_id = 0;
	kapture_task_park(task, error);
	task->failed.arrived = arrived;
}

/* Puts the row back into the queue; nothing was sent that would change Kapture. */
static void
task_release(KaptureTask *task, TimestampTz next_attempt)
{
	task->state = KAPTURE_TASK_RELEASE;
	task->next_attempt = next_attempt;
}

/*
 * Ends the doubt about a lost Add.  The row is claimed anew, to have the next Add's
 * identity recorded before it is sent.
 */
static void
task_end_doubt(KaptureTask *task, TimestampTz now)
{
	task->delivery->in_doubt = 0;
	task->delivery->searches = 0;
	task_release(task, now);
}

/*
 * Parks a row that Kapture is known to refuse for one of the fields to be sent ("mask").
 * No request is spent on it.  Returns whether the row was parked.
 */
static bool
task_refused(KaptureTask *task, bool is_add, int64 mask)
{
	KaptureIdentity sent;
	const char *refusal;

	if (!task->check_rows)
		return false;
	task_identity(task, mask, &sent);
	refusal = kapture_rules_refusal(is_add, sent.name, sent.phone, sent.email);
	if (refusal == NULL)
		return false;
	task->body = NULL;
	task->http_status = 0;
	kapture_task_fail(task, true, 0, refusal);
	task->failed.unsure = false;
	return true;
}

/* Adds the customer. */
static void
task_add(KaptureTask *task)
{
	if (!task_refused(task, true, task->att->all_changed))
		(void) task_prepare(task, KAPTURE_STEP_ADD);
}

/* Returns the fields of the mask whose values are not known to be in Kapture already. */
static int64
task_news(const KaptureTask *task, int64 mask)
{
	const KaptureDelivery *delivery = task->delivery;

	if (delivery->digests == NULL || (mask & KAPTURE_CHANGED_FORCE) != 0)
		return mask;
	for (int i = 0; i < task->att->ncolumns; i++)
	{
		const KaptureMappedColumn *col = &task->att->columns[i];
		int64		bit = INT64CONST(1) << col->bit;
		uint64		known = (mask & bit) != 0 ? kapture_digest_get(delivery->digests, col->bit) : 0;

		if (known != 0 && known == kapture_digest(task->att->serverid, task->customer_id, col->field, delivery->row.values[i]))
			mask &= ~bit;
	}
	return mask;
}

/* Prepares the customer's Update, or ends the task if there is nothing to send. */
static void
task_update(KaptureTask *task)
{
	const KaptureDelivery *delivery = task->delivery;
	bool		outside = delivery->row.outside;

	/* a row that is inside again is sent whole, also if another filter or the passing of time let it in */
	task->sending = outside ? 0 :
		task_news(task, delivery->changed | (delivery->has_left ? task->att->all_changed : 0));
	if (!outside && task_refused(task, false, task->sending))
		return;
	if (!task_prepare(task, KAPTURE_STEP_UPDATE))
		task_done(task, outside ? "left" : task->customer_id == task->delivery->row.customer_id ? "none" : task_link_action(task));
}

/* Links the row to a customer that existed before, and sends the row's values, unless only links are wanted. */
static void
task_link(KaptureTask *task, int64 found)
{
	task->customer_id = found;
	task->delivery->changed |= task->att->all_changed;
	if (task->att->link_only && !task->lost)
		task_done(task, "link");
	else
		task_update(task);
}

/* Ends a task whose row was deleted; reports the deletion if the row had a customer. */
static void
task_end_gone(KaptureTask *task)
{
	if (task->reported || !task_prepare(task, KAPTURE_STEP_DELETED))
		task_done(task, "gone");
}

/*
 * Plans for a row that was deleted.  Kapture keeps its customer, so the history is to name
 * it: a customer that a lost Add may have made is searched for.
 */
static void
task_gone(KaptureTask *task, TimestampTz now)
{
	KaptureDelivery *delivery = task->delivery;

	delivery->gone = true;
	if (delivery->in_doubt > now)
		task_release(task, delivery->in_doubt);
	else if (delivery->in_doubt != 0 && task->customer_id == 0 && (delivery->sent_phone || delivery->sent_email))
	{
		task->asked_first = true;
		if (!task_prepare(task, KAPTURE_STEP_FIND_PHONE))
			(void) task_prepare(task, KAPTURE_STEP_FIND_EMAIL);
	}
	else
		task_end_gone(task);
}

/*
 * The row was deleted while its request was in flight, and the answer has been processed.
 * Only two kinds of requests are still sent for it: a search for its lost Add, and the
 * report of its deletion.
 */
static void
task_gone_meanwhile(KaptureTask *task)
{
	bool		searching = task->step == KAPTURE_STEP_FIND_PHONE || task->step == KAPTURE_STEP_FIND_EMAIL;

	/* the Update was refused; who has its phone or email does not matter any more */
	if (task->seeks_holder && task->state == KAPTURE_TASK_SEND)
	{
		task->seeks_holder = false;
		task->state = KAPTURE_TASK_FAILED;
	}
	switch (task->state)
	{
		case KAPTURE_TASK_SEND:
			if (task->step == KAPTURE_STEP_DELETED || (task->asked_first && searching))
				break;
			/* the customer that the row was to be linked to belongs to others */
			task->customer_id = 0;
			task_done(task, "gone");
			break;
		case KAPTURE_TASK_FAILED:
			if (task->step == KAPTURE_STEP_DELETED || (task->delivery->in_doubt != 0 && !task->failed.park))
				break;
			/* a customer that the row was only to be linked to is not its own yet */
			if (task->customer_id == Max(task->delivery->row.customer_id, task->delivery->customer_id))
				task_end_gone(task);
			else
				task_done(task, "gone");
			break;
		case KAPTURE_TASK_DONE:
			task_end_gone(task);
			break;
		case KAPTURE_TASK_RELEASE:
			break;
	}
}

/* Searches by phone, then by email; false if there is neither. */
static bool
task_search_singly(KaptureTask *task)
{
	return task_prepare(task, KAPTURE_STEP_FIND_PHONE) || task_prepare(task, KAPTURE_STEP_FIND_EMAIL);
}

/*
 * The row is inside the filter again, but another row took its customer over meanwhile.
 * This row waits until that one gives the customer up.
 */
static void
task_taken(KaptureTask *task)
{
	const char *taken_by = task->delivery->taken_by;

	kapture_task_fail(task, true, 0, taken_by[0] != '\0' ?
					  psprintf("Kapture customer " INT64_FORMAT " was taken over by the row with key \"%s\" while this row was outside",
							   task->customer_id, taken_by) :
					  psprintf("Kapture customer " INT64_FORMAT " was taken over by a row of another attachment while this row was outside",
							   task->customer_id));
	task->failed.unsure = false;
	task->failed.waits_for = task->customer_id;
}

/*
 * Works out a claimed row's first request, or that it needs none, from what the tables
 * hold.
 */
void
kapture_task_plan(KaptureTask *task, TimestampTz now)
{
	KaptureDelivery *delivery = task->delivery;

	task->health = KAPTURE_STATE_OK;
	task->retry_after = -1;
	task->customer_id = delivery->customer_id;
	if (delivery->gone)
		delivery->row.outcome = KAPTURE_ROW_GONE;
	KAPTURE_FAULT_ROW("plan", delivery->row_key);
	switch (delivery->row.outcome)
	{
		case KAPTURE_ROW_GONE:
			task_gone(task, now);
			return;
		case KAPTURE_ROW_LOCKED:
			task_release(task, TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY));
			return;
		case KAPTURE_ROW_FAILED:
			kapture_task_fail(task, true, 0, delivery->row.error);
			return;
		case KAPTURE_ROW_DONE:
			break;
	}

	/* an id that only the extension keeps is given up together with the customer */
	if (delivery->taken_by && !delivery->row.outside && task->att->id_column == NULL)
		delivery->row.customer_id = 0;
	if (delivery->row.customer_id != 0)
		task->customer_id = delivery->row.customer_id;
	if (delivery->in_doubt > now)
		task_release(task, delivery->in_doubt);
	else if (delivery->taken_by && !delivery->row.outside && delivery->row.customer_id != 0)
		task_taken(task);
	else if (task->customer_id != 0)
		task_update(task);
	else if (delivery->in_doubt == 0 && delivery->row.outside)
		task_done(task, "left");
	else if (delivery->in_doubt == 0)
	{
		kapture_task_identify(task->att, delivery, task->add_is_upsert);
		task_add(task);
	}
	else if (delivery->sent_phone || delivery->sent_email)
	{
		/* if the Add was carried out, its customer has both phone and email */
		task->asked_first = task->lost = true;
		if (task_may_repeat(task))
			task_add(task);
		else if (!task_prepare(task, KAPTURE_STEP_FIND_BOTH))
			task_search_singly(task);
	}
	else
		task_end_doubt(task, now);	/* the lost request was an Update */
}

/*
 * A request may have been, or may yet be, carried out.  Notes when it can no longer be
 * running: after that, an Add is searched for (the search allows for an Add that is later
 * still), and an Update is sent again.
 */
static void
task_note_doubt(KaptureTask *task, const KaptureHttpAnswer *answer, TimestampTz now)
{
	/* a gateway times out before the server behind it does */
	bool		running = answer->outcome != KAPTURE_HTTP_ANSWERED || task->strange ||
		(answer->status >= 502 && answer->status <= 504);
	int64		rest = running ? Max(task->timeout - answer->elapsed / 1000, 0) : 0;

	if (task->step == KAPTURE_STEP_ADD)
		task->delivery->in_doubt = TimestampTzPlusMilliseconds(now, rest);
	else if (running && (task->step == KAPTURE_STEP_UPDATE || task->step == KAPTURE_STEP_DELETED))
		task->delivery->in_doubt = TimestampTzPlusMilliseconds(now, rest + KAPTURE_LATE_GRACE);
}

/* No whole answer came. */
static void
task_no_answer(KaptureTask *task, const KaptureHttpAnswer *answer, TimestampTz now)
{
	char	   *error = kapture_complaint_in_words(answer);

	task->health = KAPTURE_STATE_FAILING;

	if (answer->outcome == KAPTURE_HTTP_IN_DOUBT)
		task_note_doubt(task, answer, now);
	if (answer->outcome == KAPTURE_HTTP_NOT_SENT)
	{
		/* not the row's fault: it is sent as soon as the server is well again */
		kapture_task_fail(task, false, now, error);
		task->failed.counts = false;
	}
	else
		task_retry(task, now, error);
	pfree(error);
}

/*
 * Kapture has added the customer without returning its id, as some accounts do.  Looks the
 * id up.
 */
static void
task_look_up(KaptureTask *task, TimestampTz now)
{
	task->delivery->in_doubt = now;
	task->delivery->searches = 0;
	task->asked_first = task->added = true;
	if (!task_prepare(task, KAPTURE_STEP_FIND_BOTH) && !task_search_singly(task))
		kapture_task_fail(task, true, 0, "Kapture added the customer, but did not return its id, and there is neither phone nor email to look it up by");
}

/*
 * Tries the task's refused Update again: the customer that had its phone or email has
 * another one by now.
 */
void
kapture_task_try_again(KaptureTask *task, TimestampTz now)
{
	task->held_by = 0;
	task->failed.park = false;
	task->failed.next_attempt = TimestampTzPlusMilliseconds(now, kapture_pacing_backoff(task->delivery->failures + 1,
																						  KAPTURE_ROW_LONGEST));
}

/*
 * No customer is found that has the phone or email for which the task's Update was refused.
 * The Update is tried again, after a delay that allows for a search that lags; after
 * KAPTURE_SEARCHES such searches, the row stays parked.
 */
static void
task_found_nobody(KaptureTask *task, TimestampTz now)
{
	KaptureFailed *failed = &task->failed;

	task->held_by = 0;
	failed->park = task->delivery->searches >= KAPTURE_SEARCHES;
	failed->searches = failed->park ? 0 : task->delivery->searches + 1;
	failed->next_attempt = TimestampTzPlusMilliseconds(now, KAPTURE_SEARCH_RETRY);
}

/*
 * The task's Update was refused for the phone or email of a customer whose row is deleted.
 * The last Update of the deleted row may have changed that phone or email by now, or may
 * change it yet.  So the task is tried again soon, and once more when that Update can no
 * longer be running.
 */
void
kapture_task_hope(KaptureTask *task, TimestampTz now)
{
	int64		longest = (int64) task->timeout + KAPTURE_LATE_GRACE;

	task_found_nobody(task, now);
	if (task->failed.park)
		return;
	task->failed.waits_for = 0;
	if (task->failed.searches == KAPTURE_SEARCHES)
		task->failed.next_attempt = TimestampTzPlusMilliseconds(now, Max(longest, KAPTURE_SEARCH_RETRY));
	KAPTURE_TRACE(task, "try_again");
}

/* The task's Update was refused for a phone or email of another customer.  Searches for that customer. */
static void
task_seek_holder(KaptureTask *task, const KaptureReply *reply)
{
	KaptureDelivery *delivery = task->delivery;
	KaptureIdentity sent;

	task->asked_first = false;
	task_identity(task, task->sending, &sent);
	kapture_task_fail(task, true, 0, reply->message);
	task->failed.unsure = false;	/* the Update was not carried out */
	delivery->sent_phone = reply->verdict == KAPTURE_DUPLICATE_EMAIL ? NULL : (char *) sent.phone;
	delivery->sent_email = reply->verdict == KAPTURE_DUPLICATE_PHONE ? NULL : (char *) sent.email;
	task->by_phone = task->by_email = 0;
	task->seeks_holder = task_search_singly(task);
}

/* The searches for the customer that is in the way of the task's failed Update are done. */
static void
task_found_holder(KaptureTask *task, TimestampTz now)
{
	task->seeks_holder = false;
	task->state = KAPTURE_TASK_FAILED;
	task->held_by = task->by_phone != 0 && task->by_phone != task->customer_id ? task->by_phone :
		task->by_email != task->customer_id ? task->by_email : 0;
	if (task->held_by == 0)
		task_found_nobody(task, now);
}

/*
 * Returns how often a lost Add is searched for before it counts as not carried out.  If the row has another phone
 * or email by now, Kapture would not refuse a second Add, so a search that lags is given more time.
 */
static int
task_most_searches(const KaptureTask *task)
{
	bool		is_added_again = !task->delivery->gone && !task->delivery->row.outside;

	return is_added_again && !task_same_identity(task) ? KAPTURE_SEARCHES + 1 : KAPTURE_SEARCHES;
}

/* Both searches are done: decides by the customers that have phone and email. */
static void
task_searched(KaptureTask *task, TimestampTz now)
{
	int64		found = task->by_phone ? task->by_phone : task->by_email;
	bool		different = task->by_phone && task->by_email && task->by_phone != task->by_email;
	bool		search_again = task->asked_first && found == 0 && !task->added &&
		++task->delivery->searches < task_most_searches(task);

	if (task->seeks_holder)
		task_found_holder(task, now);
	else if (task->delivery->gone && !search_again)
	{
		/* the history of a deleted row does not name a customer that another row may have */
		task->customer_id = task->asked_first && !different ? found : 0;
		task_end_gone(task);
	}
	else if (different)
		kapture_task_fail(task, true, 0,
						  psprintf("the phone belongs to Kapture customer " INT64_FORMAT
								   ", the email to Kapture customer " INT64_FORMAT,
								   task->by_phone, task->by_email));
	else if (found && task->added)
	{
		task->customer_id = found;
		task_done(task, "add");
	}
	else if (task->added)
		task_retry(task, now, "Kapture added the customer, but did not return its id, and does not find it yet by phone or email");
	else if (found)
		task_link(task, found);
	else if (search_again)
	{
		/* in doubt until then, so that a change of the row does not bring the next search forward */
		task->delivery->in_doubt = TimestampTzPlusMilliseconds(now, task->delivery->searches < KAPTURE_SEARCHES ?
															   KAPTURE_SEARCH_RETRY : KAPTURE_SEARCH_LAST);
		task_release(task, task->delivery->in_doubt);
	}
	else if (task->delivery->row.outside)
		task_done(task, "left");
	else if (task->asked_first && task_same_identity(task))
		task_add(task);
	else if (task->asked_first)
		task_end_doubt(task, now);
	else
		task_retry(task, now, "Kapture says that the customer exists, but does not find it by phone or email");
}

/* Kapture says that phone or email is taken already. */
static void
task_duplicate(KaptureTask *task, const KaptureReply *reply)
{
	const char *message = reply->message;

	if (task->step == KAPTURE_STEP_UPDATE && !task->delivery->row.outside)
	{
		task_seek_holder(task, reply);
		return;
	}
	if (task->step != KAPTURE_STEP_ADD ||
		(!task->att->link_duplicates && !task->asked_first))
	{
		kapture_task_fail(task, true, 0, message);
		return;
	}

	/* if this was a repeated Add, the lost one is settled: it has made this customer */
	task->asked_first = false;
	task->named_id = reply->named_id;
	if (!task_prepare(task, KAPTURE_STEP_FIND_NAMED) && !task_search_singly(task))
		kapture_task_fail(task, true, 0, message);
}

/*
 * The account wants another form of body: all rows wait until the option that says which is
 * set.  In case the row is at fault after all, it is due later than the server's next
 * probe, so that the probe is another row.
 */
static void
task_misfit(KaptureTask *task, const KaptureReply *reply, TimestampTz now)
{
	KaptureApi	api = kapture_task_api(task);
	bool		is_array = task->body[0] == '[';
	char	   *what = api == KAPTURE_API_GET ? pstrdup("check option get_path of the server") :
		psprintf("set option %s_body of the server to '%s', or option dialect",
				 kapture_api_name(api), is_array ? "object" : "array");

	if (task->step == KAPTURE_STEP_ADD)
		task->delivery->in_doubt = 0;	/* the Add was not carried out */
	task->health = KAPTURE_STATE_MISCONFIGURED;
	kapture_task_fail(task, false, TimestampTzPlusMilliseconds(now, KAPTURE_DENIED_PROBE + KAPTURE_LOCKED_RETRY),
					  psprintf("Kapture cannot read the body of the %s request (%s): %s",
							   kapture_api_name(api), reply->message, what));
}

/*
 * Kapture refuses the request: the row is parked.  But if a search is refused, in words not
 * known to be about what is searched for, that is not the row's fault: it is retried.
 */
static void
task_refusal(KaptureTask *task, const KaptureReply *reply, TimestampTz now)
{
	if (task->asked == KAPTURE_API_GET && !reply->is_known)
	{
		task_retry(task, now, reply->message);
		return;
	}
	if (task->step == KAPTURE_STEP_ADD)
		task->delivery->in_doubt = 0;	/* the Add was not carried out */
	kapture_task_fail(task, true, 0, reply->message);
	task->failed.unsure = false;
}

static void
task_success(KaptureTask *task, const KaptureReply *reply, TimestampTz now)
{
	switch (task->step)
	{
		case KAPTURE_STEP_ADD:
			task->sent = task->sending;
			task->customer_id = reply->customer_id;
			if (task->customer_id != 0)
				task_done(task, "add");
			else
				task_look_up(task, now);
			break;
		case KAPTURE_STEP_UPDATE:
			task->sent = task->sending;
			task_done(task, task->delivery->row.outside ? "left" :
					  task->delivery->row.customer_id == 0 ? task_link_action(task) : "update");
			break;
		case KAPTURE_STEP_DELETED:
			task->reported = true;
			task_done(task, "gone");
			break;
		case KAPTURE_STEP_FIND_PHONE:
			task->by_phone = reply->customer_id;
			if (!task_prepare(task, KAPTURE_STEP_FIND_EMAIL))
				task_searched(task, now);
			break;
		case KAPTURE_STEP_FIND_EMAIL:
			task->by_email = reply->customer_id;
			task_searched(task, now);
			break;
		case KAPTURE_STEP_FIND_BOTH:
			task->by_phone = task->by_email = reply->customer_id;
			task_searched(task, now);
			break;
		case KAPTURE_STEP_FIND_NAMED:
			task->by_phone = task->by_email = reply->customer_id;
			/* the words of the refusal may have been about another customer */
			if (reply->customer_id != 0 || !task_search_singly(task))
				task_searched(task, now);
			break;
	}
}

/*
 * Is Kapture's answer about the customer that was sent?  If not, it belongs to another
 * request.
 */
static void
task_confirm_written(KaptureTask *task, KaptureReply *reply)
{
	bool		is_add = task->step == KAPTURE_STEP_ADD;
	KaptureIdentity sent;

	/* an Update has the changed fields only */
	task_identity(task, task->sending, &sent);
	task->strange = !kapture_message_confirm(reply, &sent, is_add ? 0 : task->customer_id);
}

/*
 * Is the customer that a refusal has named the one that was sent?  Unless it has the row's
 * phone or email, it counts as not found.
 */
static void
task_confirm_named(const KaptureTask *task, Jsonb *answer, KaptureReply *reply)
{
	KaptureMatch phone;
	KaptureMatch email;

	kapture_message_match_found(answer, task->delivery->sent_phone, task->delivery->sent_email, &phone, &email);
	if (reply->customer_id != task->named_id || (phone != KAPTURE_MATCH_YES && email != KAPTURE_MATCH_YES))
		reply->customer_id = 0;
}

/*
 * Checks that the customer that was found has the phone and email that were searched for.
 * If not, the answer counts as one to another request.  But Kapture may search by either if
 * it is given both: then each is searched for separately, and the result is true.  Else it
 * is false.
 */
static bool
task_confirm_found(KaptureTask *task, Jsonb *answer, KaptureReply *reply)
{
	KaptureMatch phone;
	KaptureMatch email;
	bool		both = task->step == KAPTURE_STEP_FIND_BOTH;

	if (reply->verdict != KAPTURE_SUCCESS || reply->customer_id == 0)
		return false;
	if (task->step == KAPTURE_STEP_FIND_NAMED)
	{
		task_confirm_named(task, answer, reply);
		return false;
	}
	kapture_message_match_found(answer, task->step == KAPTURE_STEP_FIND_EMAIL ? NULL : task->delivery->sent_phone,
								task->step == KAPTURE_STEP_FIND_PHONE ? NULL : task->delivery->sent_email,
								&phone, &email);
	if (phone != KAPTURE_MATCH_NO && email != KAPTURE_MATCH_NO)
		return false;
	if (both && (phone != KAPTURE_MATCH_NO || email != KAPTURE_MATCH_NO))
		return task_search_singly(task);
	task->strange = true;
	reply->verdict = KAPTURE_BROKEN;
	reply->message = pstrdup("Kapture's answer is about another customer than the one that was searched for");
	return false;
}

/* The values that the task's request has. */
static void
task_sent(const KaptureTask *task, KaptureSent *sent)
{
	const KaptureDelivery *delivery = task->delivery;
	int			n = delivery->row.values ? task->att->ncolumns : 0;

	sent->values = palloc(sizeof(char *) * (n + 2));
	if (n > 0)
		memcpy(sent->values, delivery->row.values, sizeof(char *) * n);
	sent->values[n++] = delivery->sent_phone;
	sent->values[n++] = delivery->sent_email;
	sent->n = n;
}

/*
 * Reads the answer to the task's request, and notes what it says.  Returns false if the
 * task has its next request already.
 */
static bool
task_read(KaptureTask *task, const KaptureHttpAnswer *answer, KaptureReply *reply)
{
	char	   *why = NULL;
	KaptureSent sent;

	task_sent(task, &sent);
	if (task->asked == KAPTURE_API_GET)
	{
		Jsonb	   *found = kapture_message_parse(answer->body, answer->body_len, NULL, &why);

		kapture_message_judge(KAPTURE_API_GET, answer->status, found, &sent, reply);
		if (task_confirm_found(task, found, reply))
			return false;
	}
	else
	{
		kapture_message_judge_written(task->asked, answer->status, answer->body, answer->body_len, &sent, reply, &why);
		task_confirm_written(task, reply);
	}
	if (reply->message == NULL || reply->message[0] == '\0')
		reply->message = why ?
			psprintf("Kapture's answer is not JSON (HTTP code %d): %s", answer->status, why) :
			psprintf("Kapture answered with HTTP code %d", answer->status);
	task->verdict = reply->verdict;
	task->is_known = reply->is_known;
	reply->message = kapture_text_cut(reply->message);
	task->message = MemoryContextStrdup(task->delivery->context, reply->message);
	return true;
}

/* Works out what an answer means for the task; that its row may have been deleted is left to the caller. */
static void
task_judge(KaptureTask *task, const KaptureHttpAnswer *answer, TimestampTz now)
{
	KaptureReply reply = {0};

	task->strange = false;
	task->asked = kapture_task_api(task);
	task->verdict = KAPTURE_BROKEN;
	task->http_status = answer->status;
	task->retry_after = answer->retry_after;
	KAPTURE_FAULT_ROW("answer", task->delivery->row_key);
	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
	{
		task_no_answer(task, answer, now);
		return;
	}
	if (!task_read(task, answer, &reply))
		return;

	switch (reply.verdict)
	{
		case KAPTURE_NOT_FOUND:
			Assert(task->asked == KAPTURE_API_GET);
			reply.customer_id = 0;
			pg_fallthrough;
		case KAPTURE_SUCCESS:
			task_success(task, &reply, now);
			break;
		case KAPTURE_DUPLICATE_PHONE:
		case KAPTURE_DUPLICATE_EMAIL:
		case KAPTURE_DUPLICATE_BOTH:
			task_duplicate(task, &reply);
			break;
		case KAPTURE_REFUSED:
			task_refusal(task, &reply, now);
			break;
		case KAPTURE_MISFIT:
			task_misfit(task, &reply, now);
			break;
		case KAPTURE_DENIED:
			task->health = KAPTURE_STATE_DENIED;
			/* due later than the next probe: the denial may be about this row alone, and others are to be tried */
			kapture_task_fail(task, false, TimestampTzPlusMilliseconds(now, KAPTURE_DENIED_PROBE + KAPTURE_LOCKED_RETRY), reply.message);
			task->failed.unsure = false;
			break;
		case KAPTURE_THROTTLED:
			task->health = KAPTURE_STATE_THROTTLED;
			kapture_task_fail(task, false, now, reply.message);
			task->failed.counts = task->failed.unsure = false;
			break;
		case KAPTURE_BROKEN:
			/* Kapture may have carried it out */
			task->health = KAPTURE_STATE_FAILING;
			task_note_doubt(task, answer, now);
			task_retry(task, now, reply.message);
			break;
	}
}

/*
 * Has the task's own Add made its customer?
 */
bool
kapture_task_has_added(const KaptureTask *task)
{
	return task->step == KAPTURE_STEP_ADD || task->added;
}

/*
 * Has the task freed a phone, an email or a whole customer for other rows?  The customer,
 * if its row was deleted or has left the filter; phone or email, if an Update has sent
 * other ones, even if the row was only just linked or what followed the Update failed.  The
 * last Update of a deleted row may have been carried out after the deletion was noted.
 */
bool
kapture_task_frees(const KaptureTask *task)
{
	KaptureIdentity sent;
	bool		gone = task->delivery->gone;
	bool		done = task->state == KAPTURE_TASK_DONE;

	if (task->customer_id == 0)
		return false;
	if (done && (gone || task->delivery->row.outside))
		return true;			/* the row has left its customer */
	if (task->delivery->row.values == NULL || (task->step != KAPTURE_STEP_UPDATE && !gone) ||
		!(done || (task->state == KAPTURE_TASK_FAILED && (task->failed.arrived || gone))))
		return false;
	task_identity(task, task->sent, &sent);
	return sent.phone != NULL || sent.email != NULL;
}

/*
 * Has the task got a customer that its row does not have yet?  Another row may have that
 * customer.
 */
bool
kapture_task_takes(const KaptureTask *task)
{
	const KaptureDelivery *delivery = task->delivery;

	return task->customer_id != 0 && !delivery->gone &&
		task->customer_id != delivery->row.customer_id && task->customer_id != delivery->customer_id &&
		(task->state == KAPTURE_TASK_DONE ||
		 (task->state == KAPTURE_TASK_SEND && task->step == KAPTURE_STEP_UPDATE));
}

/*
 * Has Kapture confirmed the phone and email of a row, whose digests are loaded?
 */
bool
kapture_task_is_known(const KaptureAttachment *att, const KaptureDelivery *delivery)
{
	if (delivery->digests == NULL)
		return false;
	for (int i = 0; i < att->ncolumns; i++)
	{
		const KaptureMappedColumn *col = &att->columns[i];

		if ((strcmp(col->field, TASK_FIELD_PHONE) == 0 || strcmp(col->field, TASK_FIELD_EMAIL) == 0) &&
			kapture_digest_get(delivery->digests, col->bit) !=
			kapture_digest(att->serverid, delivery->row.customer_id, col->field, delivery->row.values[i]))
			return false;
	}
	return true;
}

/*
 * Was the task's Update refused for a phone or email of another customer?  That customer
 * may be another row's.
 */
bool
kapture_task_is_held(const KaptureTask *task)
{
	return task->state == KAPTURE_TASK_FAILED && task->held_by != 0 && !task->delivery->gone;
}

/*
 * Is the task about to report that its row was deleted?  Another row may have the customer
 * by now.
 */
bool
kapture_task_reports(const KaptureTask *task)
{
	return task->state == KAPTURE_TASK_SEND && task->step == KAPTURE_STEP_DELETED;
}

/*
 * Ends a task that was to report a deletion: another row has the deleted row's customer.
 */
void
kapture_task_spare(KaptureTask *task)
{
	task->customer_id = 0;
	task->http_status = 0;
	task->message = NULL;
	task_done(task, "gone");
	KAPTURE_TRACE(task, "spare");
}

/*
 * Parks a task whose customer belongs to another row: that with "row_key" in "table";
 * "row_key" is NULL if the other row is not the same owner's.  The task is tried again when
 * that row gives the customer up.  But if its own row no longer has the phone and email by
 * which the customer was found, the task is tried again at once.
 */
void
kapture_task_yield(KaptureTask *task, TimestampTz now, const char *table, const char *row_key)
{
	int64		customer_id = task->customer_id;

	task->customer_id = 0;
	/* the lost Add is settled: it cannot have made a customer beside one with its phone or email */
	if (task->delivery->in_doubt != 0 && !task_same_identity(task))
	{
		task_end_doubt(task, now);	/* the row has another phone or email by now */
		KAPTURE_TRACE(task, "yield");
		return;
	}
	task->delivery->in_doubt = 0;
	task->delivery->searches = 0;
	kapture_task_fail(task, true, 0, row_key ?
					  psprintf("Kapture customer " INT64_FORMAT " belongs to the row with key \"%s\" of table %s already",
							   customer_id, row_key, table) :
					  psprintf("Kapture customer " INT64_FORMAT " belongs to a row of another owner's table already",
							   customer_id));
	task->failed.unsure = false;
	task->failed.waits_for = customer_id;
	KAPTURE_TRACE(task, "yield");
}

/*
 * Parks a task whose Update needs a phone or email of another row's customer, until that
 * customer has other ones.  "had": the other row has other ones, but Kapture does not know
 * them yet; "table" and "row_key" as for kapture_task_yield().
 */
void
kapture_task_wait(KaptureTask *task, bool had, const char *table, const char *row_key)
{
	MemoryContext old = MemoryContextSwitchTo(task->delivery->context);

	task->failed.waits_for = task->held_by;
	if (!had)
		task->failed.error = row_key ?
			psprintf("Kapture customer " INT64_FORMAT " belongs to the row with key \"%s\" of table %s already",
					 task->held_by, row_key, table) :
			psprintf("Kapture customer " INT64_FORMAT " belongs to a row of another owner's table already", task->held_by);
	else
		task->failed.error = row_key ?
			psprintf("Kapture customer " INT64_FORMAT " still has this phone or email, which the row with key \"%s\" of table %s had before",
					 task->held_by, row_key, table) :
			psprintf("Kapture customer " INT64_FORMAT " still has this phone or email, which a row of another owner's table had before",
					 task->held_by);
	MemoryContextSwitchTo(old);
}

/*
 * Says of a task whose Update needs a phone or email of another customer that this is the
 * customer of a row that was deleted or has left its filter; "table" and "row_key" as for
 * kapture_task_yield().
 */
void
kapture_task_name_former(KaptureTask *task, const char *table, const char *row_key)
{
	MemoryContext old = MemoryContextSwitchTo(task->delivery->context);

	task->failed.error = row_key ?
		psprintf("Kapture customer " INT64_FORMAT " has this phone or email; its row, with key \"%s\" of table %s, was deleted or has left",
				 task->held_by, row_key, table) :
		psprintf("Kapture customer " INT64_FORMAT " has this phone or email; its row, of another owner's table, was deleted or has left",
				 task->held_by);
	MemoryContextSwitchTo(old);
}

/*
 * Retries a task later because another row is just getting its customer, or is being added
 * with its phone or email; "table" and "row_key" as for kapture_task_yield().  "had": the
 * other row has the customer, but no longer this phone or email.
 */
void
kapture_task_stand_back(KaptureTask *task, TimestampTz now, bool had, const char *table, const char *row_key)
{
	const char *what = had ? "had this phone or email, has other ones now" : "has this phone or email, is being added to Kapture";

	task->customer_id = 0;
	task_retry(task, now, row_key ?
			   psprintf("the row with key \"%s\" of table %s, which %s", row_key, table, what) :
			   psprintf("a row of another owner's table, which %s", what));
	task->failed.unsure = false;
	KAPTURE_TRACE(task, "stand_back");
}

/*
 * Retries a task later because its customer had another row, the deletion of which is being
 * reported.
 */
void
kapture_task_let_report(KaptureTask *task, TimestampTz now)
{
	int64		customer_id = task->customer_id;

	task->customer_id = 0;
	task_retry(task, now, psprintf("the deletion of the row that was Kapture customer " INT64_FORMAT " is being reported",
								   customer_id));
	task->failed.unsure = false;
	KAPTURE_TRACE(task, "let_report");
}

/* Retries a task at "until", from the search for its customer on; "why" must live as long as the task. */
static void
task_search_later(KaptureTask *task, TimestampTz until, char *why)
{
	task->customer_id = 0;
	kapture_task_fail(task, false, Max(until, task->delivery->in_doubt), why);
	task->failed.counts = task->failed.unsure = false;
	KAPTURE_TRACE(task, "let_report");
}

/*
 * Retries a task at "until": before, an Update of the deleted row that had its customer may
 * still be carried out.
 */
void
kapture_task_let_finish(KaptureTask *task, TimestampTz until)
{
	task_search_later(task, until,
					  psprintf("an Update of the deleted row that was Kapture customer " INT64_FORMAT " may still be carried out",
							   task->customer_id));
}

/*
 * Retries a task in a while, as another row may have its customer, in a table of which
 * nothing is known yet.
 */
void
kapture_task_await_tables(KaptureTask *task, TimestampTz now)
{
	task_search_later(task, TimestampTzPlusMilliseconds(now, KAPTURE_LOCKED_RETRY),
					  psprintf("the worker has not read all attached tables yet, and a row of another one may have Kapture customer " INT64_FORMAT,
							   task->customer_id));
}

/*
 * Works out what an answer means for the task: its next request, that it is
 * done, or that it failed.  Errors if the answer cannot be held in memory.
 */
void
kapture_task_answer(KaptureTask *task, const KaptureHttpAnswer *answer, TimestampTz now)
{
	task_judge(task, answer, now);
	if (task->delivery->gone)
		task_gone_meanwhile(task);
	KAPTURE_TRACE_ANSWER(task, answer);
}

/*
 * May Kapture's words be logged?  Not if they may contain customers' data: a value of this
 * row, or the phone or email of another customer.
 */
static bool
task_may_log(const KaptureTask *task, const char *words)
{
	int			digits = 0;

	for (const char *p = words; *p; p++)
	{
		digits = isdigit((unsigned char) *p) ? digits + 1 : 0;
		if (digits >= 5 || *p == '@')
			return false;
	}
	for (int i = 0; i < task->att->ncolumns; i++)
	{
		const char *value = task->delivery->row.values ? task->delivery->row.values[i] : NULL;

		if (value && value[0] && strstr(words, value))
			return false;
	}
	return words[0] != '\0';
}

/*
 * Returns the last answer, or why the task failed, as far as that may be logged: without a
 * final period, in the current memory context.  Returns NULL if there is nothing to log.
 */
char *
kapture_task_log_text(const KaptureTask *task)
{
	const char *words = task->state == KAPTURE_TASK_FAILED ? task->failed.error : task->message;
	char	   *text = NULL;

	if (words && task_may_log(task, words))
		text = task->http_status != 0 ? psprintf("HTTP code %d: %s", task->http_status, words) : pstrdup(words);
	else if (task->http_status != 0)
		text = psprintf("HTTP code %d", task->http_status);
	if (text && text[strlen(text) - 1] == '.')
		text[strlen(text) - 1] = '\0';
	return text;
}
