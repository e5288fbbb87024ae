/*
 * pull_server.c
 *		A server that customers are pulled from automatically: its pulls and
 *		periodic re-checks.
 *
 * A server is pulled from with the key of its owner, when its interval is over, from
 * its watermark to the present, window by window; a window and the watermark after
 * it are one transaction.  No transaction is open during waits for the network.
 *
 * A pull that failed is retried after a growing delay, and holds up no other server.
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "api/local_time.h"
#include "api/option.h"
#include "base/catalog_tables.h"
#include "base/text.h"
#include "cluster/bgworker.h"
#include "pull/pull_server.h"
#include "pull/pull_state.h"
#include "pull/watermark.h"
#include "table/binding.h"
#include "traffic/pacing.h"

/* Milliseconds after which a server that somebody else refreshes is tried again. */
#define PULL_BUSY_RETRY		5000

/* Milliseconds between tries of a server that fails, at most. */
#define PULL_LONGEST		600000

/*
 * Pulls of one owner in flight, at most: each takes memory, and more of them would not make
 * any server's turn come sooner.
 */
#define PULL_OWNER_RUNS		64

/*
 * Customers of a window that are written in one turn: so many as to take at most so many
 * microseconds, since other owners' pulls wait for that time.
 */
#define PULL_SLICE			100
#define PULL_SLICE_LEAST	10
#define PULL_SLICE_MOST		1000
#define PULL_SLICE_TIME		INT64CONST(100000)

/* Milliseconds until a pull that waits for another one of its owner looks again. */
#define PULL_OWN_RETRY		20

/* Drops the pull in flight; windows that it has not committed are pulled again. */
static void
pull_drop(PullServer *server)
{
	if (server->run == NULL)
		return;
	if (server->run->writing)
		server->turn.share->writing--;
	MemoryContextDelete(server->run->context);
	server->run = NULL;
	server->turn.share->in_flight--;
	kapture_copies_unlock(server->server.serverid);
}

/* Drops the sweep in flight; another sweep goes on from where it was. */
static void
pull_drop_sweep(PullServer *server)
{
	if (server->sweep)
		kapture_sweep_drop(server->sweep);
	server->sweep = NULL;
}

/* A failure that is to be noted in kapture_pull. */
typedef struct PullFailure
{
	PullServer *server;
	const ErrorData *error;
} PullFailure;

static void
pull_note_failure(void *arg)
{
	PullFailure *failure = arg;

	kapture_pull_state_fail(failure->server->server.name,
							kapture_text_cut(kapture_guard_message(failure->error)),
							failure->server->not_before);
}

/*
 * Handles the failure of a pull, or of its beginning: it is retried after a growing
 * delay, and not before the time that Kapture has set.
 */
static void
pull_fail(PullServer *server, const ErrorData *error)
{
	PullFailure failure = {server, error};
	ErrorData  *another;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz asked = server->run && server->run->fetch ? kapture_fetch_not_before(server->run->fetch) : 0;

	if (server->sweep)
		asked = Max(asked, kapture_sweep_not_before(server->sweep));
	kapture_pull_server_stop(server);
	server->failures++;
	server->not_before = Max(asked, TimestampTzPlusMilliseconds(now, kapture_pacing_backoff(server->failures, PULL_LONGEST)));
	if (server->failures == 1)
		ereport(LOG,
				(errmsg("kapture_sync: pulling from server \"%s\" in database \"%s\" failed: %s",
						server->server.name, kapture_process_database(), kapture_text_cut(error->message))));
	another = kapture_process_run("noting a failure", pull_note_failure, &failure);
	if (another)
	{
		kapture_process_report_error(KAPTURE_PHASE_PULL, NULL, 0, InvalidOid, NULL, another);
		FreeErrorData(another);
	}
	else
		kapture_process_report_success(KAPTURE_PHASE_PULL, NULL, 0);
}

/* Where a pull begins: an overlap before the watermark. */
static Timestamp
pull_start(const PullServer *server, TimestampTz pulled_until, pg_tz *zone, Timestamp end)
{
	Timestamp	start = kapture_local_whole_seconds(kapture_local_since(pulled_until - server->overlap, zone));

	return Min(start, end - USECS_PER_SEC);
}

/* The schema of the extension. */
static Oid
pull_namespace(void)
{
	return get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
}

/* Begins a pull.  False: somebody else refreshes the server just now. */
static bool
pull_begin(PullServer *server)
{
	TimestampTz now = GetCurrentTimestamp();
	pg_tz	   *zone = kapture_local_zone(server->timezone);
	MemoryContext context;
	KapturePullState state;
	PullRun    *run;
	Timestamp	start;

	kapture_process_begin("beginning a pull");
	if (!kapture_copies_lock(server->server.serverid))
	{
		kapture_process_commit();
		return false;
	}
	context = AllocSetContextCreate(server->context, "kapture_sync pull", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	run = server->run = palloc0(sizeof(PullRun));
	run->context = context;
	run->began = now;
	server->turn.share->in_flight++;
	kapture_binding_hold_copies(GetForeignServer(server->server.serverid));
	kapture_pull_state_read(server->server.name, &state);
	run->pulled_until = state.pulled_until;
	if (run->pulled_until == DT_NOBEGIN)
		run->pulled_until = server->since != 0 ?
			Min(kapture_local_earliest(server->since, zone) + server->overlap, now) : now;
	run->end = kapture_local_whole_seconds(kapture_local_until(now, zone));
	start = pull_start(server, run->pulled_until, zone, run->end);
	run->fetch = kapture_fetch_pull(server->server.name, server->server.owner, start, run->end);
	run->copies = kapture_copies_create(pull_namespace(), server->server.name, server->timezone);
	kapture_pull_state_begin(server->server.name, run->pulled_until, start, run->end);
	server->next = now + server->interval;
	kapture_process_commit();
	return true;
}

/* Begins to write a window. */
static void
pull_take_window(PullServer *server, const KaptureWindow *window)
{
	PullRun    *run = server->run;

	run->window = *window;
	run->at = 0;
	run->seen = run->written = 0;
	if (!window->continues)
		run->newest = DT_NOBEGIN;
	run->writing = true;
	server->turn.share->writing++;
}

/* Ends the writing of a window. */
static void
pull_leave_window(PullServer *server)
{
	server->run->writing = false;
	server->turn.share->writing--;
	kapture_fetch_forget_window(server->run->fetch);
}

/* Moves the watermark behind the window that has been written.  Returns the new one. */
static TimestampTz
pull_move_watermark(PullServer *server)
{
	PullRun    *run = server->run;
	pg_tz	   *zone = kapture_local_zone(server->timezone);
	TimestampTz result = kapture_pull_watermark(run->pulled_until,
												kapture_local_earliest(run->window.from, zone),
												kapture_local_earliest(run->window.to, zone),
												run->began, run->newest, run->window.to >= run->end);

	kapture_pull_state_window(server->server.name, result, run->window.to,
							  kapture_fetch_windows_left(run->fetch, run->window.to),
							  run->seen, run->written);
	return result;
}

/* Writes a slice of a window, and moves the watermark if it is the last one. */
static void
pull_slice(PullServer *server)
{
	PullRun    *run = server->run;
	KaptureWindow part = run->window;
	KaptureList list = {0};
	KaptureCopied copied;
	TimestampTz began = GetCurrentTimestamp();
	TimestampTz pulled_until = run->pulled_until;
	int64		taken;
	bool		last = true;

	if (part.list)
	{
		list = *part.list;
		list.customers += run->at;
		list.ncustomers = Min(list.ncustomers - run->at, server->slice);
		run->at += list.ncustomers;
		last = run->at >= part.list->ncustomers;
		part.list = &list;
	}
	kapture_process_begin("writing pulled customers");
	kapture_copies_write_as_owner(run->copies, &part, &copied);
	run->newest = Max(run->newest, copied.newest);
	run->seen += copied.seen;
	run->written += copied.written;
	if (last)
		pulled_until = pull_move_watermark(server);
	kapture_process_commit();
	run->pulled_until = pulled_until;
	server->wrote = true;
	if (last)
		pull_leave_window(server);
	taken = GetCurrentTimestamp() - began;
	if (taken > PULL_SLICE_TIME)
		server->slice = Max(server->slice / 2, PULL_SLICE_LEAST);
	else if (taken < PULL_SLICE_TIME / 4 && !last)
		server->slice = Min(server->slice * 2, PULL_SLICE_MOST);
}

static void
pull_end(PullServer *server)
{
	TimestampTz next = server->next;

	pull_drop(server);
	server->next = 0;			/* after an error here, it is pulled again as after any other */
	kapture_process_begin("ending a pull");
	kapture_pull_state_end(server->server.name, next);
	kapture_process_commit();
	server->next = next;
	if (server->failures > 0)
		ereport(LOG,
				(errmsg("kapture_sync: pulling from server \"%s\" in database \"%s\" works again",
						server->server.name, kapture_process_database())));
	server->failures = 0;
	server->not_before = 0;
}

/* Has the owner as many pulls in flight as it may have? */
static bool
pull_is_crowded(const PullServer *server)
{
	return server->turn.share->in_flight >= PULL_OWNER_RUNS;
}

/* Goes on with a server's pulls as far as it can without waiting. */
static void
pull_step(void *arg)
{
	PullServer *server = arg;
	TimestampTz now = GetCurrentTimestamp();
	const KaptureWindow *window;

	if (server->run == NULL)
	{
		if (server->interval == 0 || Max(server->next, server->not_before) > now || pull_is_crowded(server))
			return;
		if (!pull_begin(server))
		{
			server->not_before = TimestampTzPlusMilliseconds(now, PULL_BUSY_RETRY);
			return;
		}
	}
	if (server->run->writing)
	{
		pull_slice(server);
		return;
	}
	/* a window takes memory until it is written: an owner has one at a time */
	if (server->turn.share->writing > 0)
	{
		server->run->when = TimestampTzPlusMilliseconds(now, PULL_OWN_RETRY);
		return;
	}
	switch (kapture_fetch_poll(server->run->fetch, &window, &server->run->when))
	{
		case KAPTURE_FETCH_WINDOW:
			pull_take_window(server, window);
			pull_slice(server);
			server->run->when = 0;	/* others first, but then at once */
			break;
		case KAPTURE_FETCH_END:
			pull_end(server);
			break;
		case KAPTURE_FETCH_WAIT:
			break;
	}
}

/* Begins a sweep, or goes on with one that was interrupted. */
static void
pull_start_sweep(PullServer *server)
{
	TimestampTz now = GetCurrentTimestamp();
	KapturePullState state;
	Oid			namespace;

	kapture_process_begin("beginning a sweep");
	kapture_binding_hold_copies(GetForeignServer(server->server.serverid));
	kapture_pull_state_read(server->server.name, &state);
	if (!state.sweeping)
		kapture_pull_state_sweep(server->server.name, true);
	namespace = pull_namespace();
	kapture_process_commit();
	server->sweep = kapture_sweep_create(&server->server, namespace, server->timezone,
										 server->sweep_rate, state.sweeping ? state.sweep_after : 0);
	/* after a sweep that goes on, the next one is due as if there had been no interruption */
	server->next_sweep = (state.sweeping ? Min(state.sweep_started_at, now) : now) + server->sweep_interval;
}

/* Goes on with a server's sweep as far as it can without waiting. */
static void
pull_sweep_step(void *arg)
{
	PullServer *server = arg;
	bool		wrote;

	if (server->sweep_interval == 0)
		return;
	if (server->sweep == NULL)
	{
		if (Max(server->next_sweep, server->not_before) > GetCurrentTimestamp())
			return;
		pull_start_sweep(server);
	}
	if (kapture_sweep_step(server->sweep, &server->sweep_when, &wrote))
	{
		server->wrote |= wrote;
		return;
	}
	pull_drop_sweep(server);
	kapture_process_begin("ending a sweep");
	kapture_pull_state_sweep(server->server.name, false);
	kapture_process_commit();
	server->failures = 0;
}

/* Reads a server's settings and the state of its pulls. */
static void
pull_configure(void *arg)
{
	PullServer *server = arg;
	bool		first = !server->configured;
	const KaptureServer *settings;
	TimestampTz now = GetCurrentTimestamp();
	KapturePullState state;

	server->configured = true;
	settings = kapture_server_get(server->server.name, server->server.owner);
	if (server->timezone == NULL || strcmp(server->timezone, settings->timezone) != 0 ||
		server->window != settings->pull_window || settings->pull_interval == 0)
		pull_drop(server);
	/* otherwise it goes on: settings are read anew all the time while others change theirs */
	if (server->timezone == NULL || strcmp(server->timezone, settings->timezone) != 0 ||
		server->sweep_rate != settings->sweep_rate || settings->sweep_interval == 0)
		pull_drop_sweep(server);
	if (server->timezone)
		pfree(server->timezone);
	server->timezone = MemoryContextStrdup(server->context, settings->timezone);
	server->interval = settings->pull_interval * USECS_PER_SEC;
	server->overlap = settings->pull_overlap * USECS_PER_SEC;
	server->since = settings->pull_since;
	server->window = settings->pull_window;
	server->sweep_interval = settings->sweep_interval * USECS_PER_SEC;
	server->sweep_rate = settings->sweep_rate;
	kapture_pull_state_read(server->server.name, &state);
	/* a pull that did not come to its end is due; the clock may have been set back since */
	server->next = state.started_at == DT_NOBEGIN || state.asked || (state.pulling && server->run == NULL) ? 0 :
		Min(state.started_at, now) + server->interval;
	server->failures = state.failures;
	/* what failed in another process is left alone for as long, but not for ever if the clock was set back */
	if (first && state.failures > 0)
		server->not_before = Min(state.next_pull, TimestampTzPlusMilliseconds(now, PULL_LONGEST));
	server->next_sweep = (state.sweeping && server->sweep == NULL) || state.sweep_started_at == DT_NOBEGIN ? 0 :
		Min(state.sweep_started_at, now) + server->sweep_interval;
}

/* Handles the error of a step, if any, as a failure of this server alone. */
static void
pull_check(PullServer *server, ErrorData *error)
{
	if (error == NULL)
		return;
	pull_fail(server, error);
	FreeErrorData(error);
}

/*
 * Returns a server whose settings have not been read yet, in a context below the current
 * one, until kapture_pull_server_forget().
 */
PullServer *
kapture_pull_server_create(const KapturePullServer *server)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync pulled server", ALLOCSET_SMALL_SIZES);
	PullServer *result = MemoryContextAllocZero(context, sizeof(PullServer));

	result->context = context;
	result->server = *server;
	result->server.name = MemoryContextStrdup(context, server->name);
	kapture_turn_init(&result->turn, 1);
	result->slice = PULL_SLICE;
	kapture_turn_join(&result->turn, server->owner);
	return result;
}

/*
 * Forgets a server that is in no list any more.
 */
void
kapture_pull_server_forget(PullServer *server)
{
	kapture_pull_server_stop(server);
	kapture_turn_join(&server->turn, InvalidOid);
	MemoryContextDelete(server->context);
}

/*
 * To be called when a server's settings may have changed.  They are read in its next turn, so
 * that other servers do not wait for it; a pull in flight goes on unless they change what it
 * asks for.
 */
void
kapture_pull_server_change(PullServer *server)
{
	server->changed = true;
}

/*
 * Gives a server its turn in a round: goes on as far as possible without waiting.  Sets
 * server->wrote if customers came.
 */
void
kapture_pull_server_work(PullServer *server, uint64 round)
{
	TimestampTz began = GetCurrentTimestamp();
	bool		runs_code = server->sweep && kapture_sweep_runs_code(server->sweep);

	kapture_turn_begin(&server->turn, round);
	server->stirred = false;
	if (server->changed)
	{
		server->changed = false;
		server->interval = server->sweep_interval = 0;	/* stay 0 if the settings are bad, until these change */
		pull_check(server, kapture_process_run("reading settings", pull_configure, server));
	}
	pull_check(server, kapture_guard_transaction(pull_step, server));
	pull_check(server, kapture_guard_transaction(pull_sweep_step, server));
	if (runs_code)
		kapture_turn_charge_rest(&server->turn, began, 1);
	else
		kapture_turn_count(&server->turn, began);
}

/*
 * Drops the pull and the sweep in flight.  The next ones go on from where they were, and are
 * due at once, apart from not_before.
 */
void
kapture_pull_server_stop(PullServer *server)
{
	if (server->run)
		server->next = 0;
	if (server->sweep)
		server->next_sweep = 0;
	pull_drop(server);
	pull_drop_sweep(server);
}

/* When there is something to do for a server, apart from whose turn it is. */
static TimestampTz
pull_next(const PullServer *server)
{
	TimestampTz next = DT_NOEND;

	if (server->changed || server->stirred)
		return 0;
	if (server->run)
		next = server->run->when;
	else if (server->interval > 0 && !pull_is_crowded(server))
		next = Max(server->next, server->not_before);
	if (server->sweep)
		next = Min(next, server->sweep_when);
	else if (server->sweep_interval > 0)
		next = Min(next, Max(server->next_sweep, server->not_before));
	return next;
}

/*
 * Returns when a server is to have its next turn.
 */
TimestampTz
kapture_pull_server_next(const PullServer *server)
{
	return Max(pull_next(server), kapture_turn_next(&server->turn));
}

/*
 * As kapture_fetch_served(); the server's pull or sweep may have got further.
 */
void
kapture_pull_server_served(PullServer *server)
{
	if (server->run)
		kapture_fetch_served(server->run->fetch);
	if (server->sweep)
		kapture_sweep_served(server->sweep);
	server->stirred = server->run || server->sweep;
}
