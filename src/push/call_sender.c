/*
 * call_sender.c
 *		Sends the calls of kapture_send(), beside rows.
 *
 * The worker's loop calls in here: due calls are claimed (a transaction), their requests
 * started, answers taken as they come and recorded (a transaction).  No more calls are
 * claimed than can be sent now: of a call that is claimed when the process ends, nobody
 * knows whether it was sent.
 *
 * An account is a sender, a server and an API, so it has one key and one address.  A
 * problem of an account holds up its own calls, not those of others.  Requests take places
 * of the limiter as all others do.  While the rows of the same sender and server have to
 * wait, the account waits with them; if the server asks its calls to wait, the rows wait,
 * too.
 *
 * Senders share the process with each other and with the owners of tables: claims of calls
 * take turns like claims of rows (table/share.c), and so do requests (rotation.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "foreign/foreign.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "api/option.h"
#include "base/compat.h"
#include "base/text.h"
#include "calls/call_outcome.h"
#include "calls/call_queue.h"
#include "calls/module_call.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "push/call_sender.h"
#include "push/notify.h"
#include "traffic/pacing.h"
#include "traffic/request_pool.h"

/* Longest delay, in milliseconds, before what an error has stopped is tried again. */
#define SENDER_LONGEST		60000

/* Milliseconds of claiming in a pass of the worker's loop, after which no more is claimed in that pass. */
#define SENDER_CLAIM_TIME	50

/* Largest answer, in bytes: it may repeat what was sent, escaped. */
#define SENDER_MAX_ANSWER(body_len)	(1024 * 1024 + 6 * (int64) (body_len))

/* Connections of an account whose settings are not known yet. */
#define SENDER_FIRST		1

typedef struct CallAccount
{
	dlist_node	node;
	KaptureCallAccount key;
	bool		seen;			/* is in the list of accounts with waiting calls that is being read */
	uint64		version;		/* of the settings */
	int			max_connections;
	double		rate_limit;
	KaptureRequestPool pool;
	KaptureTurn turn;			/* for claiming its calls, in turn with others */
	KaptureRotating rotating;	/* for sending them, in turn with others */
	dlist_head	ready;			/* tasks whose request is to be started */
	int			nready;
	int			ntasks;			/* those in "ready", in flight, or to be recorded */
	TimestampTz due;			/* when waiting calls are due; DT_NOEND if there are none */
	int			failures;		/* in a row */
	char	   *problem;		/* why nothing can be sent, or NULL */
} CallAccount;

typedef struct CallTask
{
	dlist_node	node;			/* in the account's "ready", or in one of the lists below */
	CallAccount *account;
	KaptureCall *call;
	KaptureHttpRequest *request;	/* NULL: none was started */
	uint32		since;			/* returned by kapture_request_pool_started() */
	KaptureCallOutcome outcome; /* if there is no request */
} CallTask;

static MemoryContext sender_context;
static dlist_head sender_accounts = DLIST_STATIC_INIT(sender_accounts);
static dlist_head sender_in_flight = DLIST_STATIC_INIT(sender_in_flight);
static dlist_head sender_to_record = DLIST_STATIC_INIT(sender_to_record);
static uint64 sender_round = 0; /* of claims */
static bool sender_look = true; /* there may be calls in the queue that we do not know of */
static TimestampTz sender_began = 0;	/* calls claimed until then were claimed by an earlier worker */
static bool sender_recovered = false;	/* all of those are recovered */
static TimestampTz sender_doubted = DT_NOBEGIN; /* calls asked for until then have been put in doubt */
static TimestampTz sender_not_before = 0;	/* after errors of the queue itself */
static int	sender_errors = 0;
static bool sender_in_trouble = false;	/* kapture_status shows, or may show, such an error */
static TimestampTz sender_next_record = 0;
static int	sender_record_errors = 0;

/* Runs work(arg) in a transaction.  Returns NULL, or the error, after which nothing has happened. */
static ErrorData *
sender_run(const char *activity, KaptureGuarded work, void *arg)
{
	ErrorData  *error;

	MemoryContextSwitchTo(sender_context);
	error = kapture_process_run(activity, work, arg);
	MemoryContextSwitchTo(sender_context);
	return error;
}

static TimestampTz
sender_retry_at(int errors)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), kapture_pacing_backoff(errors, SENDER_LONGEST));
}

/* Reports an error that the queue itself has raised; all calls wait. */
static void
sender_fail(KapturePhase phase, ErrorData *error)
{
	kapture_process_report_error(phase, &sender_in_trouble, 0, InvalidOid, NULL, error);
	sender_not_before = sender_retry_at(++sender_errors);
	sender_look = true;
	FreeErrorData(error);
}

/* ------------------------------------------------------------------------
 * Accounts
 * ------------------------------------------------------------------------
 */

static TimestampTz sender_rotation_next(Worker *worker, void *what);
static bool sender_rotation_send(Worker *worker, void *what, int most);

static CallAccount *
sender_find_account(const KaptureCallAccount *key)
{
	dlist_iter	iter;
	CallAccount *account;

	dlist_foreach(iter, &sender_accounts)
	{
		account = dlist_container(CallAccount, node, iter.cur);
		if (account->key.sender == key->sender && strcmp(account->key.server, key->server) == 0 &&
			strcmp(account->key.api, key->api) == 0)
			return account;
	}
	account = MemoryContextAllocZero(sender_context, sizeof(CallAccount));
	account->key.sender = key->sender;
	account->key.server = MemoryContextStrdup(sender_context, key->server);
	account->key.api = MemoryContextStrdup(sender_context, key->api);
	account->max_connections = SENDER_FIRST;
	kapture_request_pool_init(&account->pool, SENDER_FIRST);
	kapture_turn_init(&account->turn, WORKER_MAX_BATCH);
	kapture_turn_join(&account->turn, key->sender);
	account->rotating.what = account;
	account->rotating.next = sender_rotation_next;
	account->rotating.send = sender_rotation_send;
	kapture_rotation_join(&account->rotating, key->sender, key->server);
	dlist_init(&account->ready);
	dlist_push_tail(&sender_accounts, &account->node);
	return account;
}

/* Notes why an account cannot be sent to; NULL: it can.  Returns whether this problem is new. */
static bool
sender_set_problem(CallAccount *account, const char *problem)
{
	bool		same = problem && account->problem && strcmp(problem, account->problem) == 0;

	if (account->problem)
		pfree(account->problem);
	account->problem = problem ? MemoryContextStrdup(sender_context, problem) : NULL;
	return !same;
}

static void
sender_forget_account(CallAccount *account)
{
	dlist_delete(&account->node);
	kapture_turn_join(&account->turn, InvalidOid);
	kapture_rotation_leave(&account->rotating);
	(void) sender_set_problem(account, NULL);
	pfree(account->key.server);
	pfree(account->key.api);
	pfree(account);
}

/* Reads which accounts have waiting calls. */
static void
sender_do_look(void *arg)
{
	dlist_mutable_iter iter;
	ListCell   *lc;

	dlist_foreach_modify(iter, &sender_accounts)
		dlist_container(CallAccount, node, iter.cur)->seen = false;
	if (kapture_call_queue_exists())
	{
		foreach(lc, kapture_call_queue_accounts())
		{
			CallAccount *account = sender_find_account(lfirst(lc));

			account->seen = true;
			account->due = 0;
		}
	}
	dlist_foreach_modify(iter, &sender_accounts)
	{
		CallAccount *account = dlist_container(CallAccount, node, iter.cur);

		if (account->seen)
			continue;
		account->due = DT_NOEND;
		if (account->ntasks == 0 && account->pool.not_before <= GetCurrentTimestamp())
			sender_forget_account(account);
	}
}

/* Sets how many requests an account may have in flight: only one after a failure, as a probe. */
static void
sender_adapt(CallAccount *account)
{
	account->pool.most = account->failures > 0 ? 1 : account->max_connections;
}

/* Returns how many more calls to claim for an account: as many as can be sent now. */
static int
sender_room(const CallAccount *account)
{
	int			room = account->pool.most - account->pool.running - account->nready;

	if (account->rate_limit > 0)
		room = Min(room, (int) Max(account->rate_limit, 1) - account->nready);
	return Max(room, 0);
}

/* Finds the state that the sender's rows have for an account's server; NULL if no rows go there. */
static WorkerServer *
sender_find_server(Worker *worker, const CallAccount *account)
{
	dlist_iter	iter;

	dlist_foreach(iter, &worker->servers)
	{
		WorkerServer *server = dlist_container(WorkerServer, node, iter.cur);

		if (server->owner == account->key.sender && strcmp(server->name, account->key.server) == 0)
			return server;
	}
	return NULL;
}

/* Returns from when on an account may be sent something. */
static TimestampTz
sender_turn(Worker *worker, const CallAccount *account)
{
	WorkerServer *server = sender_find_server(worker, account);

	return Max(account->pool.not_before, server ? server->pool.not_before : 0);
}

/* Returns when the next request of an account may start; DT_NOEND: not before an answer. */
static TimestampTz
sender_next_start(Worker *worker, const CallAccount *account)
{
	if (account->nready == 0 || !kapture_share_may_send(account->turn.share, kapture_http_room()))
		return DT_NOEND;
	return Max(kapture_request_pool_next(&account->pool), sender_turn(worker, account));
}

/* Returns when the next calls of an account may be claimed; DT_NOEND: not before an answer. */
static TimestampTz
sender_next_claim(Worker *worker, const CallAccount *account)
{
	if (account->due == DT_NOEND || sender_room(account) == 0)
		return DT_NOEND;
	return Max(Max(account->due, sender_turn(worker, account)), kapture_turn_next(&account->turn));
}

/* Has rows of the sender wait with the account's calls, as the server asks for that. */
static void
sender_hold_rows(Worker *worker, const CallAccount *account)
{
	WorkerServer *server = sender_find_server(worker, account);

	if (server == NULL)
		return;
	server->pool.not_before = Max(server->pool.not_before, account->pool.not_before);
	server->asked = true;
}

/* ------------------------------------------------------------------------
 * Claiming
 * ------------------------------------------------------------------------
 */

typedef struct SenderClaim
{
	CallAccount *account;
	MemoryContext context;		/* owns the calls until the claim has succeeded */
	List	   *calls;
	TimestampTz doubt_until;	/* calls asked for until then may have been sent elsewhere */
	TimestampTz due;			/* when the next call is due */
	bool		in_queue;		/* an error is the queue's own, not the account's */
} SenderClaim;

/* Returns when the next call of an account is due, after "n" calls were claimed where there was room for "room". */
static TimestampTz
sender_due(const CallAccount *account, int n, int room)
{
	TimestampTz due;

	if (n >= room)
		return 0;
	due = kapture_call_queue_due(&account->key);
	/* all due calls are locked by somebody */
	if (n == 0 && due <= GetCurrentTransactionStartTimestamp())	/* SQL's now() */
		due = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KAPTURE_LOCKED_RETRY);
	return due;
}

/* Returns why no call of an account can ever be sent; NULL if calls can. */
static char *
sender_hopeless(const KaptureCallAccount *key)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(key->sender)))
		return psprintf("the role that sent it, with oid %u, was dropped", key->sender);
	if (GetForeignServerByName(key->server, true) == NULL)
		return psprintf("server \"%s\" was dropped", key->server);
	return NULL;
}

static void
sender_do_claim(void *arg)
{
	SenderClaim *claim = arg;
	CallAccount *account = claim->account;
	const KaptureServer *settings;
	MemoryContext transaction;
	char	   *hopeless = sender_hopeless(&account->key);
	int			unknown;
	int			room;

	claim->in_queue = hopeless != NULL;
	if (hopeless)
	{
		int			n = (int) kapture_call_queue_follow(&account->key);

		if (n > 0)
			sender_look = true; /* they are another account's now */
		else
		{
			n = (int) kapture_call_queue_give_up(&account->key, hopeless);
			kapture_alert_calls(account->key.server, "failed", n);
		}
		claim->due = sender_due(account, n, PG_INT32_MAX);
		return;
	}
	settings = kapture_server_get(account->key.server, account->key.sender);
	account->version = settings->version;
	account->max_connections = settings->max_connections;
	sender_adapt(account);
	account->rate_limit = settings->rate_limit;
	room = sender_room(account);
	claim->in_queue = true;
	transaction = MemoryContextSwitchTo(claim->context);
	claim->calls = kapture_call_queue_claim(&account->key, room, claim->doubt_until, &unknown);
	MemoryContextSwitchTo(transaction);
	kapture_alert_calls(account->key.server, "unknown", unknown);
	claim->due = sender_due(account, list_length(claim->calls) + unknown, room);
}

static void
sender_do_explain(void *arg)
{
	CallAccount *account = arg;

	kapture_call_queue_explain(&account->key, account->problem);
}

/* Holds an account to which nothing can be sent for now; the reason is shown with the first of its calls. */
static void
sender_hold_account(CallAccount *account, const ErrorData *error)
{
	char	   *message = kapture_guard_message(error);
	ErrorData  *another;

	account->failures++;
	sender_adapt(account);
	account->pool.not_before = sender_retry_at(account->failures);
	if (sender_set_problem(account, message))
		ereport(LOG,
				(errmsg("kapture_sync cannot send calls of \"%s\" to server \"%s\" in database \"%s\": %s",
						account->key.api, account->key.server, kapture_process_database(), message)));
	another = sender_run("reporting calls", sender_do_explain, account);
	if (another)
		sender_fail(KAPTURE_PHASE_CLAIM, another);
	pfree(message);
}

/* Makes tasks of the calls that are durably claimed by now. */
static void
sender_adopt(SenderClaim *claim)
{
	ListCell   *lc;

	foreach(lc, claim->calls)
	{
		KaptureCall *call = lfirst(lc);
		CallTask   *task = MemoryContextAllocZero(call->context, sizeof(CallTask));

		MemoryContextSetParent(call->context, sender_context);
		task->account = claim->account;
		task->call = call;
		dlist_push_tail(&claim->account->ready, &task->node);
		claim->account->nready++;
		claim->account->ntasks++;
	}
}

/* Claims the account's due calls, as many as can be sent now. */
static void
sender_claim(Worker *worker, CallAccount *account)
{
	SenderClaim claim = {.account = account,.doubt_until = worker->origin.doubt_until,.due = DT_NOEND};
	ErrorData  *error;

	claim.context = AllocSetContextCreate(sender_context, "kapture_sync calls", ALLOCSET_SMALL_SIZES);
	error = sender_run("claiming calls", sender_do_claim, &claim);
	if (error == NULL)
	{
		account->due = claim.due;
		sender_adopt(&claim);
	}
	else if (claim.in_queue)
		sender_fail(KAPTURE_PHASE_CLAIM, error);
	else
	{
		sender_hold_account(account, error);
		FreeErrorData(error);
	}
	MemoryContextDelete(claim.context);
}

/* ------------------------------------------------------------------------
 * Sending
 * ------------------------------------------------------------------------
 */

/* Ends a task without a request; its outcome is still to be recorded. */
static void
sender_settle(CallTask *task, const char *state, const char *message)
{
	dlist_delete(&task->node);
	task->account->nready--;
	task->outcome.state = state;
	task->outcome.untried = true;
	task->outcome.next_attempt = GetCurrentTimestamp();
	task->outcome.message = MemoryContextStrdup(task->call->context, message);
	dlist_push_tail(&sender_to_record, &task->node);
}

/* Returns why a call must not go to the present server of this name; NULL if it may. */
static char *
sender_mismatch(const CallTask *task, const KaptureServer *settings)
{
	const KaptureCall *call = task->call;

	if (settings->serverid != call->server_oid)
		return psprintf("server \"%s\" is another one than the call was sent to", settings->name);
	if (settings->owner != call->server_owner && settings->owner != settings->userid &&
		!has_privs_of_role(settings->owner, call->server_owner))
		return psprintf("server \"%s\" has passed to role \"%s\" since the call was sent",
						settings->name, GetUserNameFromId(settings->owner, false));
	return NULL;
}

/* Starts the request of the next task that is ready, if the limiter allows that. */
static void
sender_start_request(CallAccount *account, const KaptureServer *settings)
{
	CallTask   *task = dlist_head_element(CallTask, node, &account->ready);
	KaptureCall *call = task->call;
	char	   *mismatch = sender_mismatch(task, settings);
	MemoryContext old;
	KaptureServer *server;
	TimestampTz when;
	char	   *body;
	size_t		len;

	if (mismatch)
	{
		sender_settle(task, "failed", mismatch);
		return;
	}
	server = kapture_module_call_server(settings, account->key.api, call->body);
	body = JsonbToCString(NULL, &call->body->root, VARSIZE(call->body));
	if (server->body_array[KAPTURE_API_MODULE])
		body = psprintf("[%s]", body);
	body = kapture_text_to_utf8(body, &len);
	server->max_response_size = Min(server->max_response_size, SENDER_MAX_ANSWER(len));
	old = MemoryContextSwitchTo(call->context);
	task->request = kapture_http_start(server, KAPTURE_API_MODULE, body, len, task, &when);
	MemoryContextSwitchTo(old);
	if (task->request == NULL)
	{
		kapture_request_pool_refused(&account->pool, when);
		return;
	}
	task->since = kapture_request_pool_started(&account->pool);
	account->turn.share->in_flight++;
	kapture_http_count_alone(task->request, account->key.sender);
	dlist_delete(&task->node);
	account->nready--;
	dlist_push_tail(&sender_in_flight, &task->node);
	/* a host that does not answer as it should may have another address now */
	if (account->failures > 0)
		kapture_http_connect_anew(task->request);
}

/* An account whose requests are being started. */
typedef struct SenderStart
{
	Worker	   *worker;
	CallAccount *account;
	int			most;			/* requests to start */
} SenderStart;

static void
sender_do_start(void *arg)
{
	SenderStart *start = arg;
	CallAccount *account = start->account;
	const KaptureServer *settings = kapture_server_get(account->key.server, account->key.sender);

	for (int i = 0; i < start->most && sender_next_start(start->worker, account) <= GetCurrentTimestamp(); i++)
		sender_start_request(account, settings);
}

/* Puts the claimed but unsent calls of an account back into the queue. */
static void
sender_take_back(CallAccount *account, const char *message)
{
	while (account->nready > 0)
		sender_settle(dlist_head_element(CallTask, node, &account->ready), "waiting", message);
}

/* When calls of an account may be sent; see rotation.h. */
static TimestampTz
sender_rotation_next(Worker *worker, void *what)
{
	if (!kapture_state_may_send(worker) || !worker->loaded)
		return DT_NOEND;
	return sender_next_start(worker, what);
}

/* Starts up to "most" ready requests of an account; see rotation.h. */
static bool
sender_rotation_send(Worker *worker, void *what, int most)
{
	CallAccount *account = what;
	SenderStart start = {worker, account, most};
	int			running = account->pool.running;
	ErrorData  *error = sender_run("sending calls", sender_do_start, &start);

	if (error)
	{
		sender_take_back(account, error->message);
		sender_hold_account(account, error);
		FreeErrorData(error);
		return false;
	}
	if (account->problem)
	{
		account->failures = 0;
		sender_adapt(account);
	}
	(void) sender_set_problem(account, NULL);
	return account->pool.running > running;
}

/*
 * Returns the account to claim calls of next: of those whose turn it is, one of the sender
 * who had the least so far.  NULL: this round is over.
 */
static CallAccount *
sender_next_account(Worker *worker, TimestampTz now)
{
	CallAccount *next = NULL;
	dlist_iter	iter;

	dlist_foreach(iter, &sender_accounts)
	{
		CallAccount *account = dlist_container(CallAccount, node, iter.cur);

		if (account->turn.round == sender_round || sender_next_claim(worker, account) > now)
			continue;
		if (next == NULL || kapture_turn_comes_before(&account->turn, &next->turn))
			next = account;
	}
	return next;
}

/*
 * Claims due calls that can be sent now, as far as there is time, if changes of this
 * database may be sent.  To be called outside of a transaction.
 */
void
kapture_calls_claim(Worker *worker)
{
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz now = began;
	CallAccount *next;
	dlist_iter	iter;

	sender_context = worker->context;
	if (!kapture_state_may_send(worker) || !worker->loaded || sender_not_before > now)
		return;
	if (sender_look)
	{
		ErrorData  *error;

		sender_look = false;
		error = sender_run("looking for calls", sender_do_look, NULL);
		if (error)
		{
			sender_fail(KAPTURE_PHASE_CLAIM, error);
			return;
		}
	}
	dlist_foreach(iter, &sender_accounts)
	{
		CallAccount *account = dlist_container(CallAccount, node, iter.cur);

		if (sender_turn(worker, account) > now)
			sender_take_back(account, "");
	}
	sender_round++;
	while (now < TimestampTzPlusMilliseconds(began, SENDER_CLAIM_TIME) && sender_not_before <= now &&
		   (next = sender_next_account(worker, now)) != NULL)
	{
		kapture_turn_begin(&next->turn, sender_round);
		sender_claim(worker, next);
		kapture_turn_charge_rest(&next->turn, now, next->nready);
		now = GetCurrentTimestamp();
	}
	if (sender_not_before <= now)
	{
		sender_errors = 0;
		kapture_process_report_success(KAPTURE_PHASE_CLAIM, &sender_in_trouble, 0);
	}
}

/* ------------------------------------------------------------------------
 * Recording
 * ------------------------------------------------------------------------
 */

/*
 * Takes a finished request, if it is that of a call; returns whether it is.
 */
bool
kapture_calls_take(KaptureHttpRequest *request)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &sender_in_flight)
	{
		CallTask   *task = dlist_container(CallTask, node, iter.cur);

		if (task->request != request)
			continue;
		dlist_delete(&task->node);
		kapture_request_pool_ended(&task->account->pool);
		task->account->turn.share->in_flight--;
		dlist_push_tail(&sender_to_record, &task->node);
		return true;
	}
	return false;
}

/* Notes what the answer to a task's request says of its account. */
static void
sender_note_health(Worker *worker, const CallTask *task, KaptureCallHealth health)
{
	CallAccount *account = task->account;
	const KaptureHttpAnswer *answer = kapture_http_answer(task->request);
	TimestampTz now = GetCurrentTimestamp();
	bool		is_news;
	int64		wait = 0;

	if (health == KAPTURE_CALLS_WELL)
	{
		account->failures = 0;
		sender_adapt(account);
		return;
	}
	is_news = kapture_request_pool_failed(&account->pool, task->since);
	if (is_news)
		account->failures++;
	if (health == KAPTURE_CALLS_DENIED)
		wait = KAPTURE_DENIED_PROBE;
	else if (answer->retry_after >= 0)
		wait = answer->retry_after;
	else if (is_news)
		wait = kapture_pacing_backoff(account->failures, KAPTURE_SERVER_LONGEST);
	sender_adapt(account);
	kapture_request_pool_wait(&account->pool, now, wait);
	if (health == KAPTURE_CALLS_ASKED)
		sender_hold_rows(worker, account);
}

/* What is recorded in a transaction. */
typedef struct SenderRecording
{
	Worker	   *worker;
	bool		finished;		/* a call was done, so that there is something to expire */
} SenderRecording;

typedef struct SenderRecord
{
	CallTask   *task;
	KaptureCallHealth health;
	ErrorData  *error;			/* raised by the first attempt to record the task */
	bool		finished;		/* the call was done, so that there is something to expire */
} SenderRecord;

/* Records what became of one task. */
static void
sender_do_settle(void *arg)
{
	SenderRecord *record = arg;
	CallTask   *task = record->task;
	KaptureCallOutcome outcome = task->outcome;

	record->health = KAPTURE_CALLS_WELL;
	if (task->request)
		record->health = kapture_call_outcome(task->call, kapture_http_answer(task->request), GetCurrentTimestamp(), &outcome);
	if (record->error)
	{
		outcome.answer = NULL;
		outcome.message = record->error->message;
	}
	kapture_call_queue_settle(task->call, &outcome);
	if (strcmp(outcome.state, "failed") == 0 || strcmp(outcome.state, "unknown") == 0)
		kapture_alert_calls(task->account->key.server, outcome.state, 1);
	record->finished |= strcmp(outcome.state, "done") == 0;
}

/* Records all tasks that are to be recorded. */
static void
sender_do_record(void *arg)
{
	SenderRecording *recording = arg;
	dlist_iter	iter;

	dlist_foreach(iter, &sender_to_record)
	{
		SenderRecord record = {.task = dlist_container(CallTask, node, iter.cur)};

		record.error = kapture_guard_step(sender_do_settle, &record);
		/* an answer that cannot be stored is left out, but its meaning is recorded */
		if (record.error && !kapture_guard_will_pass(record.error))
		{
			ErrorData  *another = kapture_guard_step(sender_do_settle, &record);

			if (another)
				ReThrowError(another);
		}
		else if (record.error)
			ReThrowError(record.error);
		recording->finished |= record.finished;
		if (record.task->request)
			sender_note_health(recording->worker, record.task, record.health);
	}
}

/* Forgets the tasks that are recorded. */
static void
sender_discard(void)
{
	while (!dlist_is_empty(&sender_to_record))
	{
		CallTask   *task = dlist_container(CallTask, node, dlist_pop_head_node(&sender_to_record));

		task->account->ntasks--;
		/* this call may be due again, or another one with its reference */
		task->account->due = 0;
		MemoryContextDelete(task->call->context);
	}
	sender_look = true;
}

/*
 * Records what became of calls.  Calls that cannot be recorded are kept, and recorded
 * later; if the process ends before, their outcome is unknown.
 */
void
kapture_calls_record(Worker *worker)
{
	SenderRecording recording = {.worker = worker};
	ErrorData  *error;

	if (dlist_is_empty(&sender_to_record) || sender_next_record > GetCurrentTimestamp())
		return;
	error = sender_run("recording calls", sender_do_record, &recording);
	if (error == NULL)
	{
		sender_discard();
		sender_record_errors = 0;
		kapture_process_report_success(KAPTURE_PHASE_RECORD, &sender_in_trouble, 0);
		if (recording.finished && worker->next_expiry == DT_NOEND)
			worker->next_expiry = GetCurrentTimestamp();
		return;
	}
	sender_next_record = sender_retry_at(++sender_record_errors);
	kapture_process_report_error(KAPTURE_PHASE_RECORD, &sender_in_trouble, 0, InvalidOid, NULL, error);
	FreeErrorData(error);
}

/* ------------------------------------------------------------------------
 * For the worker's loop
 * ------------------------------------------------------------------------
 */

/*
 * Has the queue read again, as there may be new calls.
 */
void
kapture_calls_look(void)
{
	sender_look = true;
}

/* Notifies that the outcome of calls is unknown. */
static void
sender_alert_unknown(List *counts)
{
	ListCell   *lc;

	foreach(lc, counts)
	{
		KaptureCallCount *count = lfirst(lc);

		kapture_alert_calls(count->server, "unknown", count->calls);
	}
}

/* Ends the hold of an account: the settings have changed, and so may have the cause. */
static void
sender_end_hold(CallAccount *account)
{
	account->pool.not_before = 0;
	account->failures = 0;
	sender_adapt(account);
}

static void
sender_do_version(void *arg)
{
	CallAccount *account = arg;
	const KaptureServer *settings = kapture_server_get(account->key.server, account->key.sender);

	if (settings->version != account->version || account->problem)
		sender_end_hold(account);
}

/*
 * Ends calls of which nobody knows whether they were sent.  Returns false if somebody has locked
 * some that an earlier worker had claimed, so that this is to be called again.
 */
static bool
sender_end_unknown(Worker *worker)
{
	if (sender_began == 0)
		sender_began = GetCurrentTimestamp();
	if (!sender_recovered)
	{
		bool		rest;

		sender_alert_unknown(kapture_call_queue_recover(sender_began, &rest));
		sender_recovered = !rest;
	}
	if (worker->origin.state == KAPTURE_ORIGIN_OURS && worker->origin.doubt_until > sender_doubted)
	{
		sender_alert_unknown(kapture_call_queue_doubt(worker->origin.doubt_until));
		sender_doubted = worker->origin.doubt_until;
	}
	return sender_recovered;
}

/*
 * Takes in changed settings.  Needs a transaction.  If no other worker serves this
 * database, calls that are found claimed were claimed by a process that is gone, and are
 * recovered.  Returns false if it is to be called again soon, as somebody has locked calls.
 */
bool
kapture_calls_load(Worker *worker)
{
	dlist_iter	iter;

	sender_context = worker->context;
	sender_look = true;
	sender_not_before = 0;
	dlist_foreach(iter, &sender_accounts)
	{
		CallAccount *account = dlist_container(CallAccount, node, iter.cur);
		ErrorData  *error = account->pool.not_before > 0 ? kapture_guard_step(sender_do_version, account) : NULL;

		if (error == NULL)
			continue;
		/* the next attempt to send reports this error as the account's problem */
		if (account->problem == NULL)
			sender_end_hold(account);
		FreeErrorData(error);
	}
	if (!worker->alone || !kapture_call_queue_exists())
		return true;
	/* discarded calls have to expire, too */
	if (worker->next_expiry == DT_NOEND)
		worker->next_expiry = GetCurrentTimestamp();
	return sender_end_unknown(worker);
}

/*
 * The latch may have been set because it is our turn: the limiter is asked again.
 */
void
kapture_calls_ask_limiter(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &sender_accounts)
		dlist_container(CallAccount, node, iter.cur)->pool.next_start = 0;
}

/*
 * Returns when there is something to do without being woken; DT_NOEND: never.
 */
TimestampTz
kapture_calls_next(Worker *worker)
{
	TimestampTz next = dlist_is_empty(&sender_to_record) ? DT_NOEND : sender_next_record;
	dlist_iter	iter;

	if (!kapture_state_may_send(worker) || !worker->loaded)
		return next;
	if (sender_look)
		return Min(next, sender_not_before);
	dlist_foreach(iter, &sender_accounts)
	{
		CallAccount *account = dlist_container(CallAccount, node, iter.cur);

		next = Min(next, Min(sender_next_start(worker, account), sender_next_claim(worker, account)));
	}
	return next;
}

/*
 * Returns how many calls are in flight.
 */
int
kapture_calls_in_flight(void)
{
	int			n = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &sender_accounts)
		n += dlist_container(CallAccount, node, iter.cur)->pool.running;
	return n;
}

/*
 * Tells whether there is any account that calls are sent to.
 */
bool
kapture_calls_any(void)
{
	return !dlist_is_empty(&sender_accounts);
}
