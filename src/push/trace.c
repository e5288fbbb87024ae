/*
 * trace.c
 *		In a build for tests, notes which transitions tasks take.
 *
 * Each transition is a line in the file kapture_transitions of the data directory, if that
 * file exists: the delivery, its attempt, where the task was, what moved it on, and where
 * it is now.  Names are those of docs/dev/protocol.md and test/model/sync.pml.
 *
 * Where a task was is remembered from its last transition.  So a move without a trace of
 * its own shows up with the next one, as a transition that is not allowed.
 */
#include "postgres.h"

#include "push/task.h"

#ifdef KAPTURE_FAULT_POINTS

#include <unistd.h>

#define TRACE_FILE		"kapture_transitions"
#define TRACE_CLAIMED	"CLAIMED"

/* Returns the state of a planned task. */
static const char *
trace_place(const KaptureTask *task)
{
	static const char *const steps[] = {
		[KAPTURE_STEP_ADD] = "ADD",
		[KAPTURE_STEP_UPDATE] = "UPDATE",
		[KAPTURE_STEP_DELETED] = "DELETED",
		[KAPTURE_STEP_FIND_PHONE] = "FIND_PHONE",
		[KAPTURE_STEP_FIND_EMAIL] = "FIND_EMAIL",
		[KAPTURE_STEP_FIND_BOTH] = "FIND_BOTH",
		[KAPTURE_STEP_FIND_NAMED] = "FIND_NAMED"
	};

	switch (task->state)
	{
		case KAPTURE_TASK_SEND:
			return steps[task->step];
		case KAPTURE_TASK_DONE:
			return "DONE";
		case KAPTURE_TASK_FAILED:
			return task->failed.park ? "PARKED" : "FAILED";
		case KAPTURE_TASK_RELEASE:
			return "RELEASE";
	}
	return "?";
}

/*
 * Notes that "on" has moved a task to where it is now; the first one is "plan".  A task
 * that has not moved is not noted.
 */
void
kapture_trace_task(KaptureTask *task, const char *on)
{
	const char *from = strcmp(on, "plan") == 0 || task->traced == NULL ? TRACE_CLAIMED : task->traced;
	FILE	   *file;

	task->traced = trace_place(task);
	if (strcmp(from, task->traced) == 0 || access(TRACE_FILE, F_OK) != 0)
		return;
	file = fopen(TRACE_FILE, "a");
	if (file == NULL)
		return;
	fprintf(file, INT64_FORMAT " %d %s %s %s\n", task->delivery->delivery_id, task->delivery->attempts,
			from, on, task->traced);
	fclose(file);
}

/*
 * Returns the model's name for an answer.  The model does not distinguish answers that have
 * the same consequences.
 */
const char *
kapture_trace_verdict(const KaptureTask *task, const KaptureHttpAnswer *answer)
{
	bool		is_search = task->asked == KAPTURE_API_GET;
	bool		is_found = task->traced && strcmp(task->traced, "FIND_EMAIL") == 0 ? task->by_email != 0 : task->by_phone != 0;

	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
		return answer->outcome == KAPTURE_HTTP_NOT_SENT ? "DENIED" : "IN_DOUBT";
	switch (task->verdict)
	{
		case KAPTURE_SUCCESS:
		case KAPTURE_NOT_FOUND:
			return is_search && !is_found ? "NOT_FOUND" : "SUCCESS";
		case KAPTURE_DUPLICATE_PHONE:
		case KAPTURE_DUPLICATE_EMAIL:
		case KAPTURE_DUPLICATE_BOTH:
			return "DUPLICATE";
		case KAPTURE_REFUSED:
			return "REFUSED";
		case KAPTURE_MISFIT:
		case KAPTURE_DENIED:
		case KAPTURE_THROTTLED:
			return "DENIED";
		case KAPTURE_BROKEN:
			/* if a search by both is answered like this, a search by each follows */
			return is_search && task->state == KAPTURE_TASK_SEND ? "PARTLY_FOUND" : "IN_DOUBT";
	}
	return "?";
}

#endif							/* KAPTURE_FAULT_POINTS */
