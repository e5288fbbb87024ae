/*
 * call_outcome.c
 *		What an answer, or none, means for a call.  No I/O.
 *
 * By itself, a call is sent again only if the server has certainly not carried it out: no
 * connection came about, the key was refused, or the server asked to be left alone (429, or
 * 503 with Retry-After).  A call that is refused for its contents has failed.  In all other
 * cases, the call may have been carried out.
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
 * Returns the object that decides about an answer: the answer itself, or the only element
 * of an array; NULL if there is no such object.
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

/*
 * Does an object's status say that the request failed?  The status of a ticket may be in
 * the same place, but does not say so.
 */
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
 * Is an object nothing but a few words about the request?  Words in the contents of another
 * answer (a ticket may be about somebody's key) say nothing of our request.
 */
static bool
outcome_is_words(Jsonb *object)
{
	return object && JB_ROOT_COUNT(object) <= OUTCOME_WORDS;
}

/*
 * Returns what a complete answer means; "json" is the answer, or NULL.  Modules answer with
 * arrays, and with objects that have no status, or that of something else.
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

/* Has the call wait for another try. */
static void
outcome_wait(KaptureCallOutcome *outcome, TimestampTz next_attempt)
{
	outcome->state = "waiting";
	outcome->counts = true;
	outcome->next_attempt = next_attempt;
}

/* Ends a call that may have been carried out; one that is to be sent always waits for another try. */
static void
outcome_unknown(const KaptureCall *call, KaptureCallOutcome *outcome, TimestampTz now)
{
	if (call->always)
		outcome_wait(outcome, TimestampTzPlusMilliseconds(now, kapture_pacing_backoff(call->failures + 1, KAPTURE_ROW_LONGEST)));
	else
		outcome->state = "unknown";
}

/* Handles the lack of a complete answer. */
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
 *		Fills in the outcome of a call, in the current memory context; returns what
 *		the answer says of the account.
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
				break;			/* there is no such API to carry the call out */
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
