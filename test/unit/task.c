/*
 * task.c
 *		Checks of what is said of rows that share a customer with others, or that a shortage
 *		keeps from being sent (push/task.c).
 */
#include "unit.h"

#include "push/task.h"

static KaptureDelivery task_delivery;
static KaptureTask task_task;

/* A task of a row that has customer 5, and whose Update was refused for customer 6. */
static KaptureTask *
task_fresh(void)
{
	memset(&task_delivery, 0, sizeof(task_delivery));
	memset(&task_task, 0, sizeof(task_task));
	task_delivery.context = CurrentMemoryContext;
	task_delivery.delivery_id = 1;
	task_delivery.row_key = "1";
	task_task.delivery = &task_delivery;
	task_task.customer_id = 5;
	task_task.held_by = 6;
	task_task.failed.park = true;
	return &task_task;
}

void
unit_task(void)
{
	TimestampTz now = unit_time("2021-03-14 00:00:00");
	ErrorData	error = {.sqlerrcode = ERRCODE_OUT_OF_MEMORY,.message = "out of memory",.elevel = ERROR};
	KaptureTask *task;

	/* what belongs to somebody else's table is not shown */
	task = task_fresh();
	kapture_task_yield(task, now, NULL, NULL);
	unit_is_text(task->failed.error, "Kapture customer 5 belongs to a row of another owner's table already", "a row of another owner");
	unit_ok(task->failed.park, "parks the row");
	task = task_fresh();
	kapture_task_yield(task, now, "t", "2");
	unit_is_text(task->failed.error, "Kapture customer 5 belongs to the row with key \"2\" of table t already", "a row of the same owner is named");
	unit_is_int(task->failed.waits_for, 5, "the task waits for its customer");

	task = task_fresh();
	kapture_task_wait(task, false, NULL, NULL);
	unit_is_text(task->failed.error, "Kapture customer 6 belongs to a row of another owner's table already", "an Update that needs a phone of another owner's");
	kapture_task_wait(task, false, "t", "2");
	unit_is_text(task->failed.error, "Kapture customer 6 belongs to the row with key \"2\" of table t already", "or of the same owner's");
	kapture_task_wait(task, true, NULL, NULL);
	unit_is_text(task->failed.error, "Kapture customer 6 still has this phone or email, which a row of another owner's table had before",
				 "one that the other had before");
	kapture_task_wait(task, true, "t", "2");
	unit_is_text(task->failed.error, "Kapture customer 6 still has this phone or email, which the row with key \"2\" of table t had before",
				 "or the row of the same owner");
	unit_is_int(task->failed.waits_for, 6, "the task waits for the other customer");

	kapture_task_name_former(task, NULL, NULL);
	unit_is_text(task->failed.error, "Kapture customer 6 has this phone or email; its row, of another owner's table, was deleted or has left",
				 "one whose row of another owner is gone");
	kapture_task_name_former(task, "t", "2");
	unit_is_text(task->failed.error, "Kapture customer 6 has this phone or email; its row, with key \"2\" of table t, was deleted or has left",
				 "or of the same owner");

	task = task_fresh();
	kapture_task_stand_back(task, now, false, NULL, NULL);
	unit_is_text(task->failed.error, "a row of another owner's table, which has this phone or email, is being added to Kapture", "a row that is being added");
	unit_ok(!task->failed.park && task->failed.next_attempt > now, "the task is retried");
	task = task_fresh();
	kapture_task_stand_back(task, now, true, "t", "2");
	unit_is_text(task->failed.error, "the row with key \"2\" of table t, which had this phone or email, has other ones now", "a row that has other ones");

	task = task_fresh();
	kapture_task_try_again(task, now);
	unit_ok(!task->failed.park && task->failed.next_attempt > now, "an Update that can succeed by now is tried again");
	unit_is_int(task->held_by, 0, "nobody has its phone");
	task = task_fresh();
	kapture_task_await_tables(task, now);
	unit_is_text(task->failed.error, "the worker has not read all attached tables yet, and a row of another one may have Kapture customer 5",
				 "a table that is not read yet");
	unit_ok(!task->failed.park && task->failed.next_attempt > now, "the row is tried again when it is");

	/* an error of ours, and a shortage */
	task = task_fresh();
	kapture_task_park(task, &error);
	unit_ok(!task->failed.park && task->failed.next_attempt > now, "a shortage does not park a row");
	unit_is_text(task->failed.error, "out of memory", "which says what was short");
	error.sqlerrcode = ERRCODE_FDW_ERROR;
	error.message = "wrong";
	task = task_fresh();
	kapture_task_park(task, &error);
	unit_ok(task->failed.park, "another error does");
	unit_is_text(task->failed.error, "wrong", "with what is wrong");
}
