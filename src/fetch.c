/*
 * fetch.c
 *		Fetches customers from Kapture: many windows of a pull, several at a
 *		time, handed out in order.
 *
 * A fetch is a ring of slots, one for each window that is to be asked for, is
 * being asked for, or has been answered and waits for its turn; the first one
 * is the next to be handed out.  An answer stays as libcurl left it until its
 * turn comes, and its customers become jsonb one by one.  So memory is bounded by a few
 * answers, however long the range: no window is asked for ahead if the answers
 * are so large that the ring would hold more than FETCH_AHEAD bytes.
 *
 * What may get better by itself is tried again: lost connections, timeouts,
 * answers that are cut off, 5xx and 429.  All windows then wait, since they go
 * to the same server.  What cannot get better is raised as an error when its
 * window's turn comes, so that whoever reads has everything before it.
 *
 * Between two calls of kapture_fetch_next() nobody serves the network.  A
 * request that breaks then, say because a cursor was left alone for an hour,
 * is nobody's fault: it is repeated as if it had never been sent.
 *
 * Everything belongs to one memory context; requests are given back with it
 * (see http.c), be it after an error or because the reader has seen enough.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgtime.h"
#include "utils/datetime.h"
#include "utils/memutils.h"

#include "compat.h"
#include "complaint.h"
#include "fetch.h"
#include "http.h"
#include "message.h"
#include "option.h"
#include "pacing.h"

/* Tries of one window. */
#define FETCH_ATTEMPTS		5

/* Milliseconds of a Retry-After that are still waited for. */
#define FETCH_LONGEST_WAIT	600000

/* Bytes of answers that may be fetched ahead. */
#define FETCH_AHEAD			(16 * 1024 * 1024)

/* Requests at a time before the first answer tells how large they are. */
#define FETCH_FIRST			2

typedef enum FetchState
{
	FETCH_DUE,					/* to be sent */
	FETCH_RUNNING,
	FETCH_FINISHED,				/* has an answer, or failed; not looked at */
	FETCH_READY					/* waits for its turn */
} FetchState;

typedef struct FetchSlot
{
	FetchState	state;
	Timestamp	from;
	Timestamp	to;
	int			attempts;
	bool		neglected;		/* nobody served the network meanwhile */
	KaptureHttpRequest *request;
} FetchSlot;

struct KaptureFetch
{
	MemoryContext context;
	MemoryContext answer_context;	/* of the window handed out */
	char	   *server;
	Oid			userid;
	KaptureApi	api;
	const char *body;			/* of a Get */

	pg_tz	   *zone;			/* of a Pull */
	int64		window;			/* microseconds */
	Timestamp	next;			/* start of the next window */
	Timestamp	end;
	bool		all_planned;

	int			nslots;
	FetchSlot  *slots;
	int			first;
	int			count;
	int			allowed;		/* slots in use, at most */
	size_t		largest;		/* bytes of an answer, about */
	bool		answered;		/* the server has answered before */
	int			timeout;		/* milliseconds */
	TimestampTz not_before;		/* the server wants to be left alone */
	TimestampTz next_start;		/* for rate_limit */
	TimestampTz served;			/* when the network was served last */
	KaptureWindow current;
};


/*
 * Windows
 */

/* How far a local time is west of Greenwich, in microseconds. */
static int64
window_offset(const KaptureFetch *fetch, Timestamp local)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (timestamp2tm(local, NULL, &tm, &fsec, NULL, NULL) != 0)
		return 0;
	return DetermineTimeZoneOffset(&tm, fetch->zone) * USECS_PER_SEC;
}

/*
 * How long a window may really be.  A day on which clocks are set back has 25
 * hours, which is more than Kapture gives away at once.  A local time that
 * comes twice may mean either to Kapture: the worse is assumed.
 */
static int64
window_length(const KaptureFetch *fetch, Timestamp from, Timestamp to)
{
	int64		start = Min(window_offset(fetch, from),
							window_offset(fetch, from - USECS_PER_DAY));
	int64		end = Max(window_offset(fetch, to),
						  window_offset(fetch, to + USECS_PER_DAY));

	return (to + end) - (from + start);
}

/*
 * The end of the window that starts at "from".  It is the start of the next
 * one, so that nobody is lost between them.
 */
static Timestamp
window_end(const KaptureFetch *fetch, Timestamp from)
{
	Timestamp	to = fetch->end;
	int64		excess;
	int64		half;

	if (to - from > fetch->window)
		to = from + fetch->window;
	excess = window_length(fetch, from, to) - fetch->window;
	half = Max(fetch->window / 2 / USECS_PER_SEC, 1) * USECS_PER_SEC;
	if (excess > 0 && to - from > half)
		to = Max(to - excess, from + half);
	return to;
}

/*
 * kapture_fetch_windows_left
 *		About how many windows a pull has that is done up to "from".
 */
int64
kapture_fetch_windows_left(const KaptureFetch *fetch, Timestamp from)
{
	return (fetch->end - from + fetch->window - 1) / fetch->window;
}


/*
 * Slots
 */

static FetchSlot *
fetch_slot(KaptureFetch *fetch, int n)
{
	return &fetch->slots[(fetch->first + n) % fetch->nslots];
}

/* Adds windows to the ring, as many as there is room for. */
static void
fetch_plan(KaptureFetch *fetch)
{
	while (!fetch->all_planned && fetch->count < Min(fetch->nslots, fetch->allowed) &&
		   (fetch->count == 0 || fetch->largest * (fetch->count + 1) <= FETCH_AHEAD))
	{
		FetchSlot  *slot = fetch_slot(fetch, fetch->count++);

		memset(slot, 0, sizeof(FetchSlot));
		slot->state = FETCH_DUE;
		if (fetch->api == KAPTURE_API_GET)
		{
			fetch->all_planned = true;
			return;
		}
		slot->from = fetch->next;
		slot->to = window_end(fetch, fetch->next);
		fetch->next = slot->to;
		fetch->all_planned = slot->to >= fetch->end;
	}
}

/* Sends the request of a slot. */
static void
fetch_send(KaptureFetch *fetch, FetchSlot *slot)
{
	const KaptureServer *server = kapture_server_get(fetch->server, fetch->userid);
	const char *text = fetch->body;
	MemoryContext old;
	char	   *body;
	size_t		len;

	/* the text is gone with the window, the request when it is released */
	old = MemoryContextSwitchTo(fetch->answer_context);
	if (text == NULL)
		text = psprintf("{\"start_date\": \"%s\", \"end_date\": \"%s\"}",
						kapture_message_date(slot->from),
						kapture_message_date(slot->to));
	if (server->body_array[fetch->api])
		text = psprintf("[%s]", text);
	body = kapture_message_to_utf8(text, &len);
	MemoryContextSwitchTo(old);
	slot->request = kapture_http_start(server, fetch->api, body, len, slot);
	slot->state = FETCH_RUNNING;
	slot->neglected = false;
	if (server->rate_limit > 0)
		fetch->next_start = GetCurrentTimestamp() +
			(int64) (USECS_PER_SEC / server->rate_limit);
}

/* Sends what is due.  Returns when to come back for more; DT_NOEND: never. */
static TimestampTz
fetch_send_due(KaptureFetch *fetch)
{
	for (int i = 0; i < fetch->count; i++)
	{
		FetchSlot  *slot = fetch_slot(fetch, i);
		TimestampTz when = Max(fetch->not_before, fetch->next_start);

		if (slot->state != FETCH_DUE)
			continue;
		if (when > GetCurrentTimestamp())
			return when;
		fetch_send(fetch, slot);
	}
	return DT_NOEND;
}

/* Gives a slot another try. */
static void
fetch_repeat(FetchSlot *slot)
{
	kapture_http_release(slot->request);
	slot->request = NULL;
	slot->state = FETCH_DUE;
}

/* As fetch_repeat(), but later; false if it has been tried often enough. */
static bool
fetch_retry(KaptureFetch *fetch, FetchSlot *slot)
{
	int64		wait = kapture_http_answer(slot->request)->retry_after;

	if (slot->attempts + 1 >= FETCH_ATTEMPTS || wait > FETCH_LONGEST_WAIT)
		return false;
	slot->attempts++;
	if (wait < 0)
		wait = kapture_pacing_backoff(slot->attempts, KAPTURE_SERVER_LONGEST);
	fetch->not_before = Max(fetch->not_before,
							TimestampTzPlusMilliseconds(GetCurrentTimestamp(), wait));
	fetch_repeat(slot);
	return true;
}

/* May a request that got no whole answer do better the next time? */
static bool
fetch_may_recover(KaptureFetch *fetch, const KaptureHttpAnswer *answer)
{
	/* too large, a certificate that does not fit, ... */
	if (answer->option != NULL && strcmp(answer->option, "timeout") != 0 &&
		strcmp(answer->option, "connect_timeout") != 0)
		return false;

	/* a server that never was there is more likely a wrong address */
	return fetch->answered || answer->outcome != KAPTURE_HTTP_NOT_SENT;
}

/* Looks at a finished request, but not into its answer. */
static void
fetch_look(KaptureFetch *fetch, FetchSlot *slot)
{
	const KaptureHttpAnswer *answer = kapture_http_answer(slot->request);

	ereport(DEBUG1,
			(errmsg_internal("kapture %s request: HTTP code %d after %.3f ms",
							 kapture_api_name(fetch->api), answer->status,
							 answer->elapsed / 1000.0)));
	slot->state = FETCH_READY;
	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
	{
		if (slot->neglected)
			fetch_repeat(slot);
		else if (fetch_may_recover(fetch, answer))
			(void) fetch_retry(fetch, slot);
		return;
	}
	fetch->answered = true;
	if (answer->status >= 500 || answer->status == 429 ||
		answer->status == 408 || answer->status == 425)
		(void) fetch_retry(fetch, slot);
	else
		fetch->largest = Max(answer->body_len, fetch->largest - fetch->largest / 8);
}

/*
 * Takes note of the requests that have finished, and looks at ours.  Those of
 * other fetches, of other cursors, are noted for them.
 */
static void
fetch_reap(KaptureFetch *fetch)
{
	KaptureHttpRequest *request;

	while ((request = kapture_http_next_finished()) != NULL)
	{
		FetchSlot  *slot = kapture_http_owner(request);

		if (slot != NULL)
			slot->state = FETCH_FINISHED;
	}
	for (int i = 0; i < fetch->count; i++)
	{
		FetchSlot  *slot = fetch_slot(fetch, i);

		if (slot->state == FETCH_FINISHED)
			fetch_look(fetch, slot);
	}
}


/*
 * Answers
 */

/* Makes a window of the first slot's answer.  False if it is tried again. */
static bool
fetch_accept(KaptureFetch *fetch, FetchSlot *slot)
{
	const KaptureHttpAnswer *answer = kapture_http_answer(slot->request);
	const KaptureServer *server = kapture_server_get(fetch->server, fetch->userid);
	MemoryContext scratch;
	MemoryContext old;
	KaptureReply reply;
	KaptureList *list;
	char	   *why = NULL;
	bool		done;

	if (answer->outcome != KAPTURE_HTTP_ANSWERED)
		kapture_complaint_no_answer(server, fetch->api, answer);

	scratch = AllocSetContextCreate(fetch->context, "kapture answer",
									ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(fetch->answer_context);
	list = kapture_message_split(answer->body, answer->body_len, scratch, &why);
	MemoryContextSwitchTo(scratch);
	kapture_message_judge(fetch->api, answer->status, list ? list->rest : NULL, &reply);
	done = reply.verdict == KAPTURE_SUCCESS || reply.verdict == KAPTURE_NOT_FOUND;
	if (done)
	{
		fetch->current.from = slot->from;
		fetch->current.to = slot->to;
		fetch->current.list = reply.verdict == KAPTURE_SUCCESS ? list : NULL;
		if (list != NULL)
			list->rest = NULL;	/* goes with "scratch" */
		kapture_http_release(slot->request);
		fetch->first = (fetch->first + 1) % fetch->nslots;
		fetch->count--;
		fetch->allowed = Min(fetch->allowed + 1, fetch->nslots);
	}
	else if ((reply.verdict != KAPTURE_BROKEN && reply.verdict != KAPTURE_THROTTLED) ||
			 !fetch_retry(fetch, slot))
	{
		if (list == NULL)
			kapture_complaint_not_json(server, fetch->api, answer, why);
		kapture_complaint_failed(server, fetch->api, answer->status, &reply);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
	return done;
}

/* Serves the network until something finishes or "when". */
static void
fetch_wait(KaptureFetch *fetch, TimestampTz when)
{
	long		timeout = -1;

	if (when != DT_NOEND)
		timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), when);
	(void) kapture_http_wait(timeout, WaitEventExtensionNew("KaptureHttp"));
}

/* Notes that requests were left alone, if they were. */
static void
fetch_note_absence(KaptureFetch *fetch)
{
	if (GetCurrentTimestamp() - fetch->served < fetch->timeout * INT64CONST(1000) / 2)
		return;
	for (int i = 0; i < fetch->count; i++)
		fetch_slot(fetch, i)->neglected = true;
}

/*
 * kapture_fetch_next
 *		The next window, in order; NULL if there are no more.
 *
 * It is valid until the next call.  Waits, serving interrupts.  Errors: those
 * of kapture_server_get() and kapture_http_start(); no answer: see http.c;
 * HV00M an answer that is not JSON; those of kapture_complaint_failed().
 */
const KaptureWindow *
kapture_fetch_next(KaptureFetch *fetch)
{
	MemoryContext old = MemoryContextSwitchTo(fetch->context);
	bool		found = false;

	MemoryContextReset(fetch->answer_context);
	fetch_note_absence(fetch);
	while (!found)
	{
		TimestampTz when;

		CHECK_FOR_INTERRUPTS();
		fetch_plan(fetch);
		if (fetch->count == 0)
			break;
		when = fetch_send_due(fetch);
		fetch_reap(fetch);
		if (fetch_slot(fetch, 0)->state == FETCH_READY)
			found = fetch_accept(fetch, fetch_slot(fetch, 0));
		else if (fetch_slot(fetch, 0)->state != FETCH_DUE || when != DT_NOEND)
			fetch_wait(fetch, when);
	}

	/* the next ones may travel while this one is read */
	fetch_plan(fetch);
	(void) fetch_send_due(fetch);
	fetch->served = GetCurrentTimestamp();
	MemoryContextSwitchTo(old);
	return found ? &fetch->current : NULL;
}


/*
 * Set-up
 */

static KaptureFetch *
fetch_create(const char *name, Oid userid, KaptureApi api)
{
	const KaptureServer *server = kapture_server_get(name, userid);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "kapture fetch",
												  ALLOCSET_SMALL_SIZES);
	KaptureFetch *fetch = MemoryContextAllocZero(context, sizeof(KaptureFetch));

	kapture_server_require_key(server, api);
	fetch->context = context;
	fetch->answer_context = AllocSetContextCreate(context, "kapture window",
												  ALLOCSET_DEFAULT_SIZES);
	fetch->server = MemoryContextStrdup(context, name);
	fetch->userid = userid;
	fetch->api = api;
	fetch->timeout = server->timeout;
	fetch->nslots = server->max_connections;
	fetch->slots = MemoryContextAllocZero(context, sizeof(FetchSlot) * fetch->nslots);
	fetch->allowed = FETCH_FIRST;
	fetch->served = GetCurrentTimestamp();
	return fetch;
}

/*
 * kapture_fetch_pull
 *		Begins to fetch the customers between two local times of the account,
 *		with the rights and the mapping of "userid".
 *
 * All of the fetch lives in a context below the current one and ends with it.
 * Errors as kapture_server_get().
 */
KaptureFetch *
kapture_fetch_pull(const char *server, Oid userid, Timestamp start, Timestamp end)
{
	KaptureFetch *fetch = fetch_create(server, userid, KAPTURE_API_PULL);
	const KaptureServer *options = kapture_server_get(server, userid);

	fetch->zone = pg_tzset(options->timezone);
	if (fetch->zone == NULL)
		elog(ERROR, "unknown time zone \"%s\"", options->timezone);
	fetch->window = options->pull_window * USECS_PER_SEC;
	fetch->next = start;
	fetch->end = end;
	return fetch;
}

/*
 * kapture_fetch_get
 *		Begins to ask for the customers that a Get with this body finds; the
 *		body is JSON in the database's encoding.
 *
 * As kapture_fetch_pull(); the answer is the only window.
 */
KaptureFetch *
kapture_fetch_get(const char *server, Oid userid, const char *body)
{
	KaptureFetch *fetch = fetch_create(server, userid, KAPTURE_API_GET);

	fetch->body = MemoryContextStrdup(fetch->context, body);
	return fetch;
}
