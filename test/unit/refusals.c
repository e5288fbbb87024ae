/*
 * refusals.c
 *		Checks of push/refusals.c: whose matter is it that a key is denied, or that
 *		rows are refused in words that nobody knows?
 */
#include "unit.h"

#include "push/refusals.h"

/* An answer to a request of a row. */
typedef struct RefusalsAnswer
{
	int64		row;
	KaptureApi	api;
	KaptureVerdict verdict;
	bool		parks;			/* the row, while the server stays well */
} RefusalsAnswer;

/* Takes in answers, one after the other. */
static void
refusals_run(const RefusalsAnswer *answers, int n, const char *name)
{
	KaptureRefusals refusals = {0};

	for (int i = 0; i < n; i++)
	{
		const RefusalsAnswer *answer = &answers[i];
		KaptureDelivery delivery = {.delivery_id = answer->row,.context = CurrentMemoryContext};
		KaptureTask task = {.delivery = &delivery,.asked = answer->api,.verdict = answer->verdict,.message = "the words"};
		bool		is_denied = answer->verdict == KAPTURE_DENIED;

		task.state = is_denied ? KAPTURE_TASK_FAILED : KAPTURE_TASK_DONE;
		task.health = is_denied ? KAPTURE_STATE_DENIED : KAPTURE_STATE_OK;
		kapture_refusals_judge(&refusals, &task, unit_time("2021-03-14 00:00:00"));
		unit_ok(task.failed.park == answer->parks, "%s: is the row parked after answer %d", name, i + 1);
		unit_ok((task.health == KAPTURE_STATE_DENIED) == (is_denied && !answer->parks), "%s: is the server held after answer %d", name, i + 1);
		if (answer->parks)
			unit_is_text(task.failed.error, "Kapture denies this row's add request, though it takes those of others: the words", "the reason");
	}
}

/* How many new rows have to be refused, one after the other, until the server is held; "n" at most. */
static int
refusals_until_held(KaptureRefusals *refusals, int n)
{
	for (int i = 1; i <= n; i++)
	{
		KaptureDelivery delivery = {.delivery_id = i,.context = CurrentMemoryContext};
		KaptureTask task = {.delivery = &delivery,.asked = KAPTURE_API_ADD,.verdict = KAPTURE_REFUSED,
			.state = KAPTURE_TASK_FAILED,.failed.park = true};

		kapture_refusals_judge(refusals, &task, unit_time("2021-03-14 00:00:00"));
		if (!task.failed.park)
			return i;
	}
	return n + 1;
}

/* A row is taken. */
static void
refusals_take(KaptureRefusals *refusals)
{
	KaptureDelivery delivery = {.delivery_id = 1000,.context = CurrentMemoryContext};
	KaptureTask task = {.delivery = &delivery,.asked = KAPTURE_API_ADD,.verdict = KAPTURE_SUCCESS,.state = KAPTURE_TASK_DONE};

	kapture_refusals_judge(refusals, &task, unit_time("2021-03-14 00:00:00"));
}

/* Refusals in unknown words: of an account that has been put right, and of rows that are really bad. */
static void
refusals_unknown_words(void)
{
	KaptureRefusals refusals = {0};
	KaptureDelivery delivery = {.delivery_id = 1,.failures = 1,.context = CurrentMemoryContext};
	KaptureTask again = {.delivery = &delivery,.asked = KAPTURE_API_ADD,.verdict = KAPTURE_REFUSED,
		.state = KAPTURE_TASK_FAILED,.failed.park = true};

	unit_is_int(refusals_until_held(&refusals, 300), KAPTURE_REFUSALS_MAX, "refusals that hold the server");
	refusals_take(&refusals);
	unit_is_int(refusals_until_held(&refusals, 300), KAPTURE_REFUSALS_MAX, "so many do again when the account was put right meanwhile");
	refusals_take(&refusals);
	kapture_refusals_judge(&refusals, &again, unit_time("2021-03-14 00:00:00"));
	unit_ok(again.failed.park, "a row that is refused again when others were taken is parked");
	unit_is_int(refusals_until_held(&refusals, 300), KAPTURE_REFUSALS_MANY, "refusals that hold the server when rows were at fault");
	refusals_take(&refusals);
	unit_is_int(refusals_until_held(&refusals, KAPTURE_REFUSALS_MAX * 2), KAPTURE_REFUSALS_MAX * 2 + 1, "many bad rows do not");
}

/* Answers while the server is held: only a row that is taken ends that. */
static void
refusals_while_held(void)
{
	static const struct
	{
		const char *name;
		KaptureApi	api;
		KaptureVerdict verdict;
		KaptureTaskState state;
		KaptureServerState health;	/* as the answer alone would have it */
		KaptureServerState expected;
		bool		parks;
	}			answers[] = {
		{"a row is found", KAPTURE_API_GET, KAPTURE_SUCCESS, KAPTURE_TASK_DONE, KAPTURE_STATE_OK, KAPTURE_STATE_REFUSING, false},
		{"a request cannot be read", KAPTURE_API_GET, KAPTURE_MISFIT, KAPTURE_TASK_FAILED, KAPTURE_STATE_REFUSING, KAPTURE_STATE_REFUSING, true},
		{"one that is sent again cannot", KAPTURE_API_GET, KAPTURE_MISFIT, KAPTURE_TASK_SEND, KAPTURE_STATE_OK, KAPTURE_STATE_REFUSING, false},
		{"of an API that nothing was read for", KAPTURE_API_UPDATE, KAPTURE_MISFIT, KAPTURE_TASK_FAILED, KAPTURE_STATE_REFUSING, KAPTURE_STATE_REFUSING, false},
		{"the account is throttled", KAPTURE_API_ADD, KAPTURE_THROTTLED, KAPTURE_TASK_FAILED, KAPTURE_STATE_THROTTLED, KAPTURE_STATE_THROTTLED, false},
		{"the server has a fault", KAPTURE_API_ADD, KAPTURE_BROKEN, KAPTURE_TASK_FAILED, KAPTURE_STATE_FAILING, KAPTURE_STATE_FAILING, false},
		{"a row is taken", KAPTURE_API_ADD, KAPTURE_SUCCESS, KAPTURE_TASK_DONE, KAPTURE_STATE_OK, KAPTURE_STATE_OK, false},
		{"another is found", KAPTURE_API_GET, KAPTURE_SUCCESS, KAPTURE_TASK_DONE, KAPTURE_STATE_OK, KAPTURE_STATE_OK, false},
		{"another cannot be read", KAPTURE_API_GET, KAPTURE_MISFIT, KAPTURE_TASK_FAILED, KAPTURE_STATE_REFUSING, KAPTURE_STATE_OK, true},
	};
	KaptureRefusals refusals = {0};

	unit_is_int(refusals_until_held(&refusals, 300), KAPTURE_REFUSALS_MAX, "the server is held");
	for (int i = 0; i < lengthof(answers); i++)
	{
		KaptureDelivery delivery = {.delivery_id = 500 + i,.context = CurrentMemoryContext};
		KaptureTask task = {.delivery = &delivery,.asked = answers[i].api,.verdict = answers[i].verdict,
			.state = answers[i].state,.health = answers[i].health,.message = "the words"};

		kapture_refusals_judge(&refusals, &task, unit_time("2021-03-14 00:00:00"));
		unit_is_int(task.health, answers[i].expected, psprintf("the server's state as %s", answers[i].name));
		unit_ok(task.failed.park == answers[i].parks, "is the row parked as %s", answers[i].name);
	}
}

void
unit_refusals(void)
{
	static const RefusalsAnswer own[] = {
		{1, KAPTURE_API_ADD, KAPTURE_DENIED, false}, {2, KAPTURE_API_ADD, KAPTURE_SUCCESS, false},
		{1, KAPTURE_API_ADD, KAPTURE_DENIED, false}, {1, KAPTURE_API_ADD, KAPTURE_DENIED, false},
		{3, KAPTURE_API_ADD, KAPTURE_SUCCESS, false}, {1, KAPTURE_API_ADD, KAPTURE_DENIED, true},
		{1, KAPTURE_API_ADD, KAPTURE_DENIED, false},
	};
	static const RefusalsAnswer key[] = {
		{1, KAPTURE_API_ADD, KAPTURE_DENIED, false}, {2, KAPTURE_API_ADD, KAPTURE_DENIED, false},
		{1, KAPTURE_API_ADD, KAPTURE_DENIED, false}, {2, KAPTURE_API_ADD, KAPTURE_DENIED, false},
		{1, KAPTURE_API_ADD, KAPTURE_DENIED, false}, {2, KAPTURE_API_ADD, KAPTURE_DENIED, false},
	};
	static const RefusalsAnswer other_api[] = {
		{1, KAPTURE_API_UPDATE, KAPTURE_DENIED, false}, {2, KAPTURE_API_ADD, KAPTURE_SUCCESS, false},
		{1, KAPTURE_API_UPDATE, KAPTURE_DENIED, false}, {2, KAPTURE_API_ADD, KAPTURE_SUCCESS, false},
		{1, KAPTURE_API_UPDATE, KAPTURE_DENIED, false},
	};
	static const RefusalsAnswer well[] = {
		{1, KAPTURE_API_ADD, KAPTURE_DENIED, false}, {2, KAPTURE_API_ADD, KAPTURE_SUCCESS, false},
		{1, KAPTURE_API_ADD, KAPTURE_DENIED, false}, {1, KAPTURE_API_ADD, KAPTURE_SUCCESS, false},
		{2, KAPTURE_API_ADD, KAPTURE_SUCCESS, false}, {1, KAPTURE_API_ADD, KAPTURE_DENIED, false},
	};

	refusals_unknown_words();
	refusals_while_held();
	refusals_run(own, lengthof(own), "a row that alone is denied");
	refusals_run(key, lengthof(key), "a key that is denied for all");
	refusals_run(other_api, lengthof(other_api), "a key of one API");
	refusals_run(well, lengthof(well), "a row that is taken meanwhile");
}
