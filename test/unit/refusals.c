/*
 * refusals.c
 *		Checks of push/refusals.c: whose matter is it that a key is denied?
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

	refusals_run(own, lengthof(own), "a row that alone is denied");
	refusals_run(key, lengthof(key), "a key that is denied for all");
	refusals_run(other_api, lengthof(other_api), "a key of one API");
	refusals_run(well, lengthof(well), "a row that is taken meanwhile");
}
