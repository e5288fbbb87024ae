/*
 * call_outcome.c
 *		What an answer, or none, means for a call.  No I/O.
 *
 * A call is sent again without anybody's asking only if it was certainly not
 * taken: no connection came about, the key was refused, or the server asked to be
 * left alone (429, or 503 with Retry-After).  What is refused for its content has
 * failed.  All else may have been carried out.
 */
#include "postgres.h"

#include "api/error.h"
#include "api/reply.h"
#include "base/text.h"
#include "calls/call_outcome.h"
#include "traffic/pacing.h"

/* Keys of an object that has no more than a message, a reason and a status. */
#define OUTCOME_WORDS		3

/*
 * The object that decides about an answer: itself, or the only element of an
 * array; NULL if there is none.
 */
static Jsonb *
outcome_object(Jsonb *answer)
{
	JsonbValue *element;

	if (JB_ROOT_IS_OBJECT(answer))
		return answer;
	if (JB_ROOT_IS_SCALAR(answer) || JB_ROOT_COUNT(answer) != 1)
		return NULL;
	element = getIthJsonbValueFromContainer(&answer->root, 0);
	return element->type == jbvBinary && JsonContainerIsObject(element->val.binary.data) ? JsonbValueToJsonb(element) : NULL;
}

/* Does an object say that the request failed?  The status of a ticket is one, too, and says no such thing. */
static bool
outcome_says_failed(Jsonb *object)
{
	static const char *const names[] = {"status", "Status"};
	JsonbValue	value;

	for (int i = 0; i < lengthof(names); i++)
	{
		if (getKeyJsonValueFromContainer(&object->root, names[i], strlen(names[i]), &value) == NULL)
			continue;
		if (value.type == jbvBool)
			return !value.val.boolean;
		if (value.type == jbvString)
			return (value.val.string.len >= 4 && pg_strncasecmp(value.val.string.val, "fail", 4) == 0) ||
				(value.val.string.len == 5 && pg_strncasecmp(value.val.string.val, "error", 5) == 0);
	}
	return false;
}

/*
 * Is an object nothing but a few words about the request?  Words within the content of
 * another answer, as a ticket's may be about somebody's key, say nothing of ours.
 */
static bool
outcome_is_words(Jsonb *object)
{
	return object && JB_ROOT_COUNT(object) <= OUTCOME_WORDS;
}

/*
 * What an answer means that came whole; "json" is it, or NULL.  Modules answer with
 * arrays, and with objects that have no status, or one of something else.
 */
static KaptureVerdict
outcome_judge(int status, Jsonb *json, const char **message)
{
	Jsonb	   *object = json ? outcome_object(json) : NULL;
	bool		may_succeed = json && !JB_ROOT_IS_SCALAR(json) && status >= 200 && status < 300;
	KaptureReply reply;

	kapture_message_judge(KAPTURE_API_MODULE, status, object, NULL, &reply);
	*message = reply.message;
	if (may_succeed && !(object && outcome_says_failed(object)) &&
		(reply.verdict != KAPTURE_DENIED || !outcome_is_words(object)))
		return KAPTURE_SUCCESS;
	return reply.verdict;
}

/* The call waits for another try. */
static void
outcome_wait(KaptureCallOutcome *outcome, TimestampTz next_attempt)
{
	outcome->state = "waiting";
	outcome->counts = true;
	outcome->next_attempt = next_attempt;
}

/* It may have been carried out. */
static void
outcome_unknown(const KaptureCall *call, KaptureCallOutcome *outcome, TimestampTz now)
{
	if (call->always)
		outcome_wait(outcome, TimestampTzPlusMilliseconds(now, kapture_pacing_backoff(call->failures + 1, KAPTURE_ROW_LONGEST)));
	else
		outcome->state = "unknown";
}

/* No whole answer came. */
static KaptureCallHealth
outcome_no_answer(const KaptureCall *call, const KaptureHttpAnswer *answer, TimestampTz now, KaptureCallOutcome *outcome)
{
	outcome->message = kapture_complaint_in_words(answer);
	if (answer->outcome == KAPTURE_HTTP_NOT_SENT)
		outcome_wait(outcome, now);
	else
		outcome_unknown(call, outcome, now);
	return KAPTURE_CALLS_SICK;
}

/*
 * kapture_call_outcome
 *		Fills in what becomes of a call, in the current memory context; returns what
 *		its answer says of the account.
 */
KaptureCallHealth
kapture_call_outcome(const KaptureCall *call, const KaptureHttpAnswer *answer, TimestampTz now, KaptureCallOutcome *outcome)
{
	char	   *why = NULL;
	KaptureVerdict verdict;

	memset(outcome, 0, sizeof(*outcome));
	outcome->next_attempt = now;
	outcome->http_status = answer->status;
	outcome->message = "";
	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
		return outcome_no_answer(call, answer, now, outcome);

	outcome->answer = kapture_message_parse(answer->body, answer->body_len, NULL, &why);
	verdict = outcome_judge(answer->status, outcome->answer, &outcome->message);
	outcome->message = kapture_text_cut(outcome->message);
	if (outcome->message[0] == '\0' && verdict != KAPTURE_SUCCESS)
		outcome->message = psprintf("the answer with HTTP code %d %s", answer->status,
									answer->body_len == 0 ? "is empty" :
									outcome->answer == NULL ? "is not JSON" : "has no message");
	switch (verdict)
	{
		case KAPTURE_DENIED:
			if (answer->status == 404)
				break;			/* nobody is there to take it */
			outcome_wait(outcome, now);
			return KAPTURE_CALLS_DENIED;
		case KAPTURE_THROTTLED:
			outcome_wait(outcome, now);
			return KAPTURE_CALLS_ASKED;
		case KAPTURE_BROKEN:
			if (answer->status == 503 && answer->retry_after >= 0)
			{
				outcome_wait(outcome, now);
				return KAPTURE_CALLS_ASKED;
			}
			outcome_unknown(call, outcome, now);
			return KAPTURE_CALLS_SICK;
		case KAPTURE_SUCCESS:
			outcome->state = "done";
			return KAPTURE_CALLS_WELL;
		default:
			break;
	}
	outcome->state = "failed";
	return KAPTURE_CALLS_WELL;
}
