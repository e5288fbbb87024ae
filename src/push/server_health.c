/*
 * server_health.c
 *		The state of servers: what their answers say of them, the circuit breaker,
 *		and how many requests they are sent at a time.
 */
#include "postgres.h"

#include "cluster/bgworker.h"
#include "cluster/report.h"
#include "push/notify.h"
#include "push/server_health.h"
#include "traffic/pacing.h"

/* Logs, once, that shared memory has no room for all that there is to show. */
void
kapture_health_tell_room(bool room)
{
	static bool said = false;

	if (!room && !said)
		ereport(LOG,
				(errmsg("kapture_sync: too many servers or attached tables in this cluster for kapture_status to report"),
				 errdetail("Rows are sent all the same.")));
	said |= !room;
}

/* Shows a server's state in kapture_status.  Needs a transaction. */
void
kapture_health_report(Worker *worker, WorkerServer *server, const char *message)
{
	KaptureServerState state = server->health;

	if (!server->used)
		return;
	if (worker->outdated)
		state = KAPTURE_STATE_OUTDATED;
	else if (server->problem)
		state = KAPTURE_STATE_MISCONFIGURED;
	kapture_health_tell_room(kapture_shmem_report_server(server->name, server->owner, state,
														 state == KAPTURE_STATE_OK ? 0 : server->pool.not_before,
														 server->problem && !worker->outdated ? server->problem : message));
	if (server->notified != state)
		kapture_alert_server(server->name, kapture_report_state_name(server->notified),
							 kapture_report_state_name(state));
	server->notified = state;
}

/* Does the server's queue wait for somebody to act? */
static bool
health_is_held(KaptureServerState health)
{
	return health == KAPTURE_STATE_DENIED || health == KAPTURE_STATE_MISCONFIGURED || health == KAPTURE_STATE_REFUSING;
}

/*
 * Is a server sent one request at a time, to see whether it works again?  A failing server
 * is, after several failures in a row: a single one may be chance.
 */
static bool
health_is_probed(const WorkerServer *server)
{
	return health_is_held(server->health) || server->health == KAPTURE_STATE_THROTTLED ||
		server->failures >= KAPTURE_BREAKER_FAILURES;
}

/* Returns how many requests a server may have in flight now: one while it is only probed. */
int
kapture_health_connections(WorkerServer *server)
{
	return health_is_probed(server) ? 1 : server->max_connections;
}

/* Logs the present health of a server. */
static void
health_log(WorkerServer *server, const KaptureTask *task)
{
	const char *database = kapture_process_database();
	const char *text = kapture_task_log_text(task);

	switch (task->health)
	{
		case KAPTURE_STATE_OK:
			ereport(LOG,
					(errmsg("kapture_sync: server \"%s\" in database \"%s\" works again", server->name, database)));
			break;
		case KAPTURE_STATE_DENIED:
			ereport(WARNING,
					(errmsg("kapture_sync: server \"%s\" in database \"%s\" refuses the key or the address", server->name, database),
					 text ? errdetail_internal("%s.", text) : 0,
					 errhint("Check the options of the server and of the user mapping. What is to be sent waits until then.")));
			break;
		case KAPTURE_STATE_MISCONFIGURED:
			ereport(WARNING,
					(errmsg("kapture_sync: server \"%s\" in database \"%s\" cannot read requests", server->name, database),
					 text ? errdetail_internal("%s.", text) : 0,
					 errhint("kapture_status and kapture_failures say which option of the server to set. What is to be sent waits until then.")));
			break;
		case KAPTURE_STATE_REFUSING:
			ereport(WARNING,
					(errmsg("kapture_sync: server \"%s\" in database \"%s\" refuses all rows", server->name, database),
					 errdetail("It has refused %d rows in a row, in words that are not known to be about a row's values.",
							   server->refusals.count),
					 errhint("kapture_failures shows its answers. Rows wait; one probe is sent a minute.")));
			break;
		case KAPTURE_STATE_THROTTLED:
			ereport(LOG,
					(errmsg("kapture_sync: server \"%s\" in database \"%s\" asks for fewer requests", server->name, database),
					 text ? errdetail_internal("%s.", text) : 0));
			break;
		case KAPTURE_STATE_FAILING:
			ereport(LOG,
					(errmsg("kapture_sync: server \"%s\" in database \"%s\" is failing", server->name, database),
					 text ? errdetail_internal("%s.", text) : 0,
					 errhint("What is to be sent is retried automatically, at growing intervals.")));
			break;
		case KAPTURE_STATE_OUTDATED:
			break;
	}
	server->logged = task->health;
}

/* Returns for how long, in milliseconds, a server that does not work is left alone. */
static int64
health_wait(WorkerServer *server, const KaptureTask *task)
{
	if (health_is_held(task->health))
		return KAPTURE_DENIED_PROBE;
	if (task->retry_after >= 0)
		return task->retry_after;
	if (health_is_probed(server))
		return kapture_pacing_backoff(server->failures - KAPTURE_BREAKER_FAILURES + 1,
									  KAPTURE_SERVER_LONGEST);
	return 0;
}

/*
 * Has the rows tried at once that a server has failed: it was only probed, and works again.
 */
static void
health_hurry(Worker *worker, WorkerServer *server, TimestampTz now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->tables)
	{
		WorkerTable *table = dlist_container(WorkerTable, node, iter.cur);

		if (table->server == server && table->next_due != DT_NOEND)
		{
			table->well_since = now;
			table->next_due = Min(table->next_due, now);
		}
	}
}

/*
 * Forgets what answers have said of a server: its settings have changed, and with them
 * perhaps the cause.
 */
void
kapture_health_renew(Worker *worker, WorkerServer *server, TimestampTz now)
{
	if (health_is_held(server->health))
		health_hurry(worker, server, now);
	server->pool.not_before = 0;
	server->asked = false;
	server->failures = server->sick = 0;
	server->health = KAPTURE_STATE_OK;
	memset(&server->refusals, 0, sizeof(server->refusals));
}

/*
 * Counts a failure.  A row that alone fails again and again says nothing about the other
 * rows, so it does not open the breaker.  Once the breaker is open, failures of requests
 * that were in flight before say nothing new: only a failed probe has the server left alone
 * for longer.
 */
static void
health_count_failure(WorkerServer *server, const WorkerTask *task, TimestampTz now)
{
	const KaptureTask *t = &task->task;
	int64		row = t->delivery->delivery_id;
	bool		own = row == server->failed_row && t->health == KAPTURE_STATE_FAILING &&
		t->state == KAPTURE_TASK_FAILED && t->failed.counts;
	bool		is_open = server->failures >= KAPTURE_BREAKER_FAILURES;
	bool		is_news = kapture_request_pool_failed(&server->pool, task->since);

	if (!own && (is_news || !is_open))
		server->failures++;
	server->sick++;
	server->failed_row = row;
	if (is_news || !is_open || health_is_held(t->health) || t->retry_after >= 0)
		kapture_request_pool_wait(&server->pool, now, health_wait(server, t));
}

/*
 * Notes what the answer to a task's request says of its server.  A single failure may be
 * chance: a server is logged as failing only after several failures in a row.
 */
void
kapture_health_note(Worker *worker, const WorkerTask *task, TimestampTz now)
{
	WorkerServer *server = task->server;
	const KaptureTask *t = &task->task;
	KaptureServerState before = server->health;

	/* successes of requests that were in flight already do not end a wait that the server asks for */
	if (t->health == KAPTURE_STATE_OK && server->asked && server->pool.not_before > now)
		return;

	server->health = t->health;
	if (t->health == KAPTURE_STATE_OK)
	{
		if (server->failures >= KAPTURE_BREAKER_FAILURES || health_is_held(before))
			health_hurry(worker, server, now);
		server->failures = server->sick = 0;
		server->failed_row = 0;
		server->pool.not_before = 0;
		server->asked = false;
	}
	else
	{
		server->asked |= health_is_held(t->health) || t->retry_after >= 0;
		health_count_failure(server, task, now);
	}
	if (server->logged != t->health &&
		(t->health != KAPTURE_STATE_FAILING || server->sick >= KAPTURE_BREAKER_FAILURES))
		health_log(server, t);
	if (before != t->health || t->health != KAPTURE_STATE_OK)
		kapture_health_report(worker, server, t->state == KAPTURE_TASK_FAILED ? t->failed.error : "");
}
