/*
 * send.c
 *		Sends the requests of tasks.
 *
 * If a request cannot be made or started, its row is parked or its server is left alone for
 * a while, whichever is to blame.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "api/http.h"
#include "api/server.h"
#include "base/fault.h"
#include "base/guc.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "push/queue.h"
#include "push/record.h"
#include "push/send.h"
#include "push/server_health.h"
#include "push/transaction.h"
#include "table/binding.h"
#include "traffic/pacing.h"

/*
 * Largest answer, in bytes.  An answer is about one customer, but may repeat what was sent,
 * escaped; and many may come at a time.
 */
#define SEND_MAX_ANSWER(body_len)	(1024 * 1024 + 6 * (int64) (body_len))

static void
send_do_show(void *arg)
{
	WorkerServer *server = arg;

	kapture_health_report(server->worker, server, "");
}

/*
 * Takes the unsent tasks back from a server with unusable settings, or to which no request
 * can be started.  The server is tried again when settings are read next.
 */
static void
send_give_up_server(Worker *worker, WorkerServer *server, const char *problem)
{
	dlist_head	settled = DLIST_STATIC_INIT(settled);
	ErrorData  *error;

	ereport(LOG,
			(errmsg("kapture_sync cannot use server \"%s\" in database \"%s\": %s",
					server->name, kapture_process_database(), problem)));
	server->problem = MemoryContextStrdup(worker->context, problem);
	server->start_errors = 0;
	worker->next_load = Min(worker->next_load, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), WORKER_ERROR_LONGEST));
	kapture_queue_take_back(server, GetCurrentTimestamp(), &settled);
	kapture_record_settle_apart(worker, &settled);
	error = kapture_transaction_run(worker, "reporting a server's state", send_do_show, server);
	if (error)
	{
		/* the server's state is shown when settings are read next */
		kapture_transaction_report_error(KAPTURE_PHASE_SEND, NULL, NULL, error);
		FreeErrorData(error);
	}
}

/* Returns when a server may next be sent something; DT_NOEND: not before an answer. */
TimestampTz
kapture_send_next(WorkerServer *server)
{
	if (dlist_is_empty(&server->ready) || server->problem || !kapture_share_may_send(server->share, kapture_http_room()))
		return DT_NOEND;
	server->pool.most = kapture_health_connections(server);
	return kapture_request_pool_next(&server->pool);
}

/* A server that is being sent something. */
typedef struct WorkerSending
{
	WorkerServer *server;
	TimestampTz now;
	int			most;			/* requests to start */
	WorkerTask *wrapping;		/* the task whose body is being made, or NULL */
	WorkerTask *starting;		/* the task whose request is being started, or NULL */
} WorkerSending;

/* Starts the request of the next task that is ready, if the limiter allows that. */
static void
send_start_request(WorkerSending *sending, const KaptureServer *settings)
{
	WorkerServer *server = sending->server;
	WorkerTask *task = dlist_head_element(WorkerTask, node, &server->ready);
	KaptureTask *t = &task->task;
	KaptureServer bounded = *settings;
	MemoryContext old = MemoryContextSwitchTo(t->delivery->context);
	TimestampTz when;

	kapture_binding_require(t->att, settings);
	sending->wrapping = task;
	kapture_task_wrap(t, settings);
	sending->wrapping = NULL;
	sending->starting = task;
	KAPTURE_FAULT_ROW("start request", t->delivery->row_key);
	bounded.max_response_size = Min(settings->max_response_size, SEND_MAX_ANSWER(t->body_len));
	t->request = kapture_http_start(&bounded, kapture_task_api(t), t->body, t->body_len, task, &when);
	sending->starting = NULL;
	server->start_errors = 0;
	if (t->request)
	{
		(void) dlist_pop_head_node(&server->ready);
		server->nready--;
		task->since = kapture_request_pool_started(&server->pool);
		server->share->in_flight++;
		kapture_http_count_alone(t->request, server->owner);
		/* a host that does not answer as it should may have moved; one that asks for fewer requests is there */
		if (server->health != KAPTURE_STATE_OK && server->health != KAPTURE_STATE_THROTTLED)
			kapture_http_connect_anew(t->request);
	}
	else
		kapture_request_pool_refused(&server->pool, when);
	sending->most--;
	MemoryContextSwitchTo(old);
}

/* Starts a server's requests; reading its settings again may need a transaction. */
static void
send_do(void *arg)
{
	WorkerSending *sending = arg;
	const KaptureServer *settings = kapture_server_get(sending->server->name, sending->server->owner);

	while (sending->most > 0 && kapture_send_next(sending->server) <= sending->now)
		send_start_request(sending, settings);
}

/* Parks a task whose request cannot be sent. */
static void
send_fail_ready(Worker *worker, WorkerTask *task, const ErrorData *error)
{
	dlist_head	one = DLIST_STATIC_INIT(one);

	dlist_delete(&task->node);
	task->server->nready--;
	kapture_task_park(&task->task, error);
	dlist_push_tail(&one, &task->node);
	kapture_record_settle_apart(worker, &one);
}

/* Has a task tried once more, after the others. */
static void
send_requeue(WorkerTask *task)
{
	dlist_delete(&task->node);
	dlist_push_tail(&task->server->ready, &task->node);
}

/* Starts a request like the task's, but with nothing in it, and drops it unsent. */
static void
send_do_probe(void *arg)
{
	WorkerTask *task = arg;
	const KaptureServer *settings = kapture_server_get(task->server->name, task->server->owner);
	TimestampTz when;
	KaptureHttpRequest *request = kapture_http_start(settings, kapture_task_api(&task->task), "{}", 2, NULL, &when);

	if (request)
		kapture_http_release(request);
}

/*
 * Handles a request that could not be started.  It is tried once more; then, if another
 * request can be started, the row is to blame, else the server.
 */
static void
send_fail_start(Worker *worker, WorkerTask *task, const ErrorData *error)
{
	WorkerServer *server = task->server;
	ErrorData  *another;

	if (task->start_errors++ == 0 && server->start_errors++ == 0)
	{
		send_requeue(task);
		return;
	}
	another = kapture_transaction_run(worker, "sending", send_do_probe, task);
	if (another == NULL)
		send_fail_ready(worker, task, error);
	else
	{
		send_give_up_server(worker, server, another->message);
		FreeErrorData(another);
	}
}

/* Handles an error that was raised while a server was sent something. */
static void
send_fail(Worker *worker, WorkerSending *sending, const ErrorData *error)
{
	kapture_transaction_report_error(KAPTURE_PHASE_SEND, NULL, NULL, error);
	if (kapture_guard_is_lock(error) || kapture_guard_is_shortage(error))
	{
		sending->server->pool.not_before = TimestampTzPlusMilliseconds(sending->now, KAPTURE_LOCKED_RETRY);
		return;
	}
	if (sending->wrapping && sending->wrapping->start_errors++ == 0)
		send_requeue(sending->wrapping);
	else if (sending->wrapping)
		send_fail_ready(worker, sending->wrapping, error);
	else if (sending->starting)
		send_fail_start(worker, sending->starting, error);
	else
	{
		send_give_up_server(worker, sending->server, error->message);
		/* other tables may be able to use another server of this name */
		if (error->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
			worker->next_load = 0;
	}
	/* the error shows as a failed row, or as the server's state */
	kapture_transaction_report_success(KAPTURE_PHASE_SEND, NULL);
}

/* When rows may be sent to a server; see rotation.h. */
static TimestampTz
send_rotation_next(Worker *worker, void *what)
{
	return kapture_send_next(what);
}

/* Sends up to "most" requests for a server's rows; see rotation.h. */
static bool
send_rotation_send(Worker *worker, void *what, int most)
{
	WorkerServer *server = what;
	WorkerSending sending = {.server = server,.now = GetCurrentTimestamp(),.most = most};
	int			running = server->pool.running;
	ErrorData  *error = kapture_transaction_run(worker, "sending", send_do, &sending);

	if (error)
	{
		send_fail(worker, &sending, error);
		FreeErrorData(error);
	}
	else
		kapture_transaction_report_success(KAPTURE_PHASE_SEND, NULL);
	return server->pool.running > running;
}

/*
 * Has the rows of a server take turns with all else that is sent, if they do not yet.
 */
void
kapture_send_join(WorkerServer *server)
{
	if (server->rotating.owner)
		return;
	server->rotating.what = server;
	server->rotating.next = send_rotation_next;
	server->rotating.send = send_rotation_send;
	kapture_rotation_join(&server->rotating, server->owner, server->name);
}

/* Has the limiter asked again, as the latch may have been set because it is our turn. */
void
kapture_send_ask_limiter(Worker *worker)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->servers)
		dlist_container(WorkerServer, node, iter.cur)->pool.next_start = 0;
}

/*
 * Takes the unsent tasks back from servers whose settings could not be used when they were read.  Their
 * tables may have passed to another owner by now, who can use the server.
 */
static void
send_take_back_unusable(Worker *worker)
{
	dlist_head	settled = DLIST_STATIC_INIT(settled);
	dlist_iter	iter;

	dlist_foreach(iter, &worker->servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (server->problem)
			kapture_queue_take_back(server, GetCurrentTimestamp(), &settled);
	}
	if (!dlist_is_empty(&settled))
		kapture_record_settle_apart(worker, &settled);
}

/* Sends all servers the requests of rows and calls that may be sent now. */
void
kapture_send(Worker *worker)
{
	if (!kapture_enabled)
		return;
	send_take_back_unusable(worker);
	kapture_rotation_run(worker);
	kapture_http_push();
}
