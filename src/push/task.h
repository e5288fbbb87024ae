/*
 * task.h
 *		Plans the requests of a claimed row, and decides by their answers what
 *		becomes of the row.
 */
#ifndef KAPTURE_TASK_H
#define KAPTURE_TASK_H

#include "postgres.h"

#include "api/http.h"
#include "api/reply.h"
#include "base/catalog.h"
#include "cluster/shmem.h"
#include "queue/delivery.h"

/* What a task's next (or current) request is for. */
typedef enum KaptureStep
{
	KAPTURE_STEP_ADD,
	KAPTURE_STEP_UPDATE,
	KAPTURE_STEP_DELETED,		/* reports that the customer's row was deleted */
	KAPTURE_STEP_FIND_PHONE,	/* is the customer there, by its phone? */
	KAPTURE_STEP_FIND_EMAIL,
	KAPTURE_STEP_FIND_BOTH,		/* by phone and email at once */
	KAPTURE_STEP_FIND_NAMED		/* by the id that a refusal has named */
} KaptureStep;

typedef enum KaptureTaskState
{
	KAPTURE_TASK_SEND,			/* the request of "step" is to be sent */
	KAPTURE_TASK_DONE,			/* nothing more to send */
	KAPTURE_TASK_FAILED,		/* for this time */
	KAPTURE_TASK_RELEASE		/* nothing was sent; due again at next_attempt */
} KaptureTaskState;

typedef struct KaptureTask
{
	KaptureDelivery *delivery;
	const KaptureAttachment *att;
	int64		timeout;		/* of the server, milliseconds */
	bool		check_rows;		/* a row that Kapture is known to refuse is parked without a request */
	bool		add_is_upsert;	/* an Add of a customer that exists updates it */

	KaptureTaskState state;
	KaptureStep step;
	char	   *body;			/* request body of "step", UTF-8 */
	size_t		body_len;
	bool		is_wrapped;		/* the body has the account's form */
	KaptureHttpRequest *request;	/* while it is in flight */

	int64		customer_id;	/* known so far, or 0 */
	int64		sending;		/* fields in the next or current Add or Update */
	int64		sent;			/* fields that Kapture has confirmed */
	bool		asked_first;	/* searches before it adds, as an Add may be lost */
	bool		lost;			/* an Add of the row was lost before */
	bool		strange;		/* the last answer belongs to another request */
	bool		added;			/* by its last Add, whose answer did not have the id */
	bool		reported;		/* the deletion of the row was reported */
	int64		named_id;		/* customer that a refusal has named, or 0 */
	int64		by_phone;		/* found by the searches, or 0 */
	int64		by_email;
	bool		seeks_holder;	/* searches for who has the phone or email that its Update was refused for */
	int64		held_by;		/* the customer that has it, or 0 */

	/* what the last answer said */
	KaptureApi	asked;			/* API that was asked */
	KaptureVerdict verdict;
	bool		is_known;		/* refused in words known to be about values */

	/* the outcome */
	const char *action;			/* if DONE */
	KaptureFailed failed;		/* if FAILED */
	TimestampTz next_attempt;	/* if RELEASE */
	int			http_status;
	char	   *message;
	KaptureServerState health;	/* of the server, as far as the answer tells */
	int64		retry_after;	/* milliseconds, -1 unknown */

#ifdef KAPTURE_FAULT_POINTS
	const char *traced;			/* where trace.c has seen it last */
#endif
} KaptureTask;

extern void kapture_task_identify(const KaptureAttachment *att, KaptureDelivery *delivery, bool add_is_upsert);
extern void kapture_task_plan(KaptureTask *task, TimestampTz now);
extern void kapture_task_answer(KaptureTask *task, const KaptureHttpAnswer *answer,
								TimestampTz now);
extern void kapture_task_fail(KaptureTask *task, bool park, TimestampTz next_attempt,
							  const char *error);
extern bool kapture_task_has_added(const KaptureTask *task);
extern bool kapture_task_frees(const KaptureTask *task);
extern bool kapture_task_takes(const KaptureTask *task);
extern bool kapture_task_is_held(const KaptureTask *task);
extern bool kapture_task_is_known(const KaptureAttachment *att, const KaptureDelivery *delivery);
extern void kapture_task_wait(KaptureTask *task, bool had, const char *table, const char *row_key);
extern void kapture_task_name_former(KaptureTask *task, const char *table, const char *row_key);
extern void kapture_task_try_again(KaptureTask *task, TimestampTz now);
extern void kapture_task_hope(KaptureTask *task, TimestampTz now);
extern bool kapture_task_reports(const KaptureTask *task);
extern void kapture_task_spare(KaptureTask *task);
extern void kapture_task_yield(KaptureTask *task, TimestampTz now, const char *table, const char *row_key);
extern void kapture_task_stand_back(KaptureTask *task, TimestampTz now, bool had, const char *table, const char *row_key);
extern void kapture_task_let_finish(KaptureTask *task, TimestampTz until);
extern void kapture_task_let_report(KaptureTask *task, TimestampTz now);
extern void kapture_task_park(KaptureTask *task, const ErrorData *error);
extern void kapture_task_written(KaptureTask *task, TimestampTz later, const char *why, const char *blame);
extern void kapture_task_unrecorded(KaptureTask *task, const ErrorData *error);
extern void kapture_task_wrap(KaptureTask *task, const KaptureServer *server);
extern KaptureApi kapture_task_api(const KaptureTask *task);
extern char *kapture_task_log_text(const KaptureTask *task);

/* In a build for tests (see base/fault.h), notes that a task has been moved on by "on", or by an answer. */
#ifndef KAPTURE_FAULT_POINTS
#define KAPTURE_TRACE(task, on)	((void) 0)
#define KAPTURE_TRACE_ANSWER(task, answer)	((void) 0)
#else
#define KAPTURE_TRACE(task, on)	kapture_trace_task(task, on)
#define KAPTURE_TRACE_ANSWER(task, answer)	kapture_trace_task(task, kapture_trace_verdict(task, answer))

extern void kapture_trace_task(KaptureTask *task, const char *on);
extern const char *kapture_trace_verdict(const KaptureTask *task, const KaptureHttpAnswer *answer);
#endif

#endif							/* KAPTURE_TASK_H */
