/*
 * fetch.c
 *		Fetches customers from Kapture: many windows of a pull, several at a
 *		time, handed out in order; and answers to many Gets in the same way.
 *
 * A fetch is a list of slots, one for each window that is to be asked for, is
 * being asked for, or has been answered and waits for its turn; the first one
 * is the next to be handed out.  An answer stays as libcurl left it until its
 * turn comes, and its customers become jsonb one by one.  So memory is bounded by a few
 * answers, however long the range: no window is asked for ahead if the answers
 * are so large that the list would hold more than FETCH_AHEAD bytes.
 *
 * Failures that may pass are retried: lost connections, timeouts, answers that are
 * cut off, 5xx and 429.  All windows then wait, since they go to the same server.
 * Any other failure is raised as an error when the turn of its window comes, so that
 * the reader has got everything before it.
 *
 * Some accounts give pages of whole days (option pull_form): then a window is a
 * day, whose pages are asked for one after the other until one is empty, or two in
 * a row are shorter than others were.  A page with fewer customers than were asked
 * for need not be the last, as the account may have a lower limit.  A page that
 * repeats the one before, and an empty page behind a full one, are asked for again,
 * as a single wrong answer would leave customers out.  A customer who is added
 * meanwhile may push others to the next page, where they come again; readers must
 * cope with that.
 *
 * Windows whose number of customers looks like a limit of the server's are
 * halved, down to a second, and asked for again: the server leaves out what is
 * beyond such a limit without an error.
 *
 * Settings are read when a request is sent and when an answer is looked at.
 * Outside of a transaction, as in a background process, that is done in a
 * transaction of its own; none is open during a wait for the network.
 *
 * Between two calls of kapture_fetch_next() nobody serves the network.  A
 * request that breaks then, say because a cursor was left alone for an hour,
 * is not counted as a failure: it is repeated as if it had never been sent.
 *
 * A customer who comes with two windows, or is found by two Gets, is handed out once
 * (kapture_window_customer).
 *
 * Everything belongs to one memory context; requests are released with it
 * (see http.c), whether after an error or because the reader has seen enough.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "pgtime.h"
#include "storage/latch.h"
#include "utils/datetime.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "api/columns.h"
#include "api/error.h"
#include "api/http.h"
#include "api/local_time.h"
#include "api/option.h"
#include "api/reply.h"
#include "base/compat.h"
#include "base/text.h"
#include "fetch/fetch.h"
#include "traffic/request_pool.h"

/* Bytes of answers that may be fetched ahead. */
#define FETCH_AHEAD			(16 * 1024 * 1024)

/* Requests at a time until the first answer shows how large answers are. */
#define FETCH_FIRST			2

/*
 * A number of customers that is a multiple of this may be a limit of the server's.
 * Limits are round numbers; one window in fifty has such a number by chance, which
 * costs two more requests.
 */
#define FETCH_ROUND			50

/*
 * Gets to begin together, for each connection, and in all at most: so many that the start and the end of a fetch, when
 * not all connections are busy, hardly matter.
 */
#define FETCH_ROUND_GETS	100
#define FETCH_ROUND_MAX		10000

/*
 * Gets for each connection that may be sent or answered ahead of their turn: up to this many, a late answer keeps
 * others from being handed out, but no connection from being used.
 */
#define FETCH_GETS_AHEAD	4

/*
 * The server whose Get was answered last, and how large its answers were: the next fetch of many
 * Gets need not begin with few requests.
 */
static struct
{
	Oid			serverid;
	size_t		largest;
}			fetch_known_gets;

/* Microseconds after which the network is served again while answers are read. */
#define FETCH_SERVE_AFTER	250

/* After this many pages in a row with fewer customers than others, a window is complete: what still comes is new. */
#define FETCH_SHORTER		2

/* Pages in a row that only repeat the one before, after which the fetch gives up. */
#define FETCH_REPEATS		3

typedef enum FetchState
{
	FETCH_DUE,					/* to be sent */
	FETCH_RUNNING,
	FETCH_FINISHED,				/* has an answer, or failed; not looked at */
	FETCH_READY					/* waits for its turn */
} FetchState;

typedef struct FetchSlot
{
	KaptureFetch *fetch;
	FetchState	state;
	Timestamp	from;
	Timestamp	to;
	TimestampTz asked;			/* when it was last asked for */
	int			number;			/* of the body, for a Get */
	int			offset;			/* of the page: customers before it */
	int			repeats;		/* pages in a row with nobody new */
	int			fullest;		/* most customers of a page so far */
	int			shorter;		/* pages in a row with fewer than that */
	bool		doubted;		/* the page was empty, and has been asked for again */
	uint64	   *last;			/* hashes of the customers of the page before, sorted; NULL: none */
	int			nlast;
	int			attempts;
	bool		neglected;		/* the network was not served while the request ran */
	KaptureHttpRequest *request;
} FetchSlot;

struct KaptureFetch
{
	MemoryContext context;
	MemoryContext answer_context;	/* of the window handed out */
	char	   *server;
	Oid			serverid;
	Oid			owner;			/* of the server */
	Oid			userid;
	uint64		serial;			/* number of this fetch in the process */
	KaptureApi	api;
	List	   *bodies;			/* of Gets */
	bool		keeps_answers;	/* hand out answers without customers, too */

	bool		paged;
	int			limit;			/* customers of a page */
	pg_tz	   *zone;			/* of a Pull */
	int64		window;			/* microseconds */
	Timestamp	next;			/* start of the next window */
	Timestamp	end;
	int			planned;		/* slots made so far, not counting halves */
	bool		all_planned;

	List	   *slots;			/* of FetchSlot */
	KaptureRequestPool pool;	/* of the requests of the slots */
	int			allowed;		/* windows asked for ahead, at most */
	size_t		largest;		/* bytes of an answer, about */
	bool		answered;		/* the server has answered before */
	int			timeout;		/* milliseconds */
	TimestampTz served;			/* when the network was served last */
	HTAB	   *ids;			/* of customers of the current window, or of all Gets */
	HTAB	   *ids_before;		/* ids of the window before; NULL: there is none */
	KaptureWindow current;
};


/*
 * Windows
 */

/*
 * How long a window may really be.  A day on which clocks are set back has 25
 * hours, which is more than Kapture returns at once.
 */
static int64
window_length(const KaptureFetch *fetch, Timestamp from, Timestamp to)
{
	return kapture_local_latest(to, fetch->zone) - kapture_local_earliest(from, fetch->zone);
}

/* The beginning of a time's day. */
static Timestamp
fetch_day(Timestamp time)
{
	int64		rest = time % USECS_PER_DAY;

	return time - (rest < 0 ? rest + USECS_PER_DAY : rest);
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

	if (fetch->paged)
		return Min(to, fetch_day(from) + USECS_PER_DAY);
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
 *		About how many windows are left of a pull that is done up to "from".
 */
int64
kapture_fetch_windows_left(const KaptureFetch *fetch, Timestamp from)
{
	return (fetch->end - from + fetch->window - 1) / fetch->window;
}


/*
 * Slots
 */

/* The next slot to be handed out; NULL if there are none. */
static FetchSlot *
fetch_first(KaptureFetch *fetch)
{
	return fetch->slots == NIL ? NULL : linitial(fetch->slots);
}

/* Makes a slot, in the current context. */
static FetchSlot *
fetch_make_slot(KaptureFetch *fetch, Timestamp from, Timestamp to)
{
	FetchSlot  *slot = palloc0(sizeof(FetchSlot));

	slot->fetch = fetch;
	slot->state = FETCH_DUE;
	slot->from = from;
	slot->to = to;
	return slot;
}

/* Adds windows to the list, as many as there is room for. */
static void
fetch_plan(KaptureFetch *fetch)
{
	while (!fetch->all_planned && list_length(fetch->slots) < fetch->allowed &&
		   (fetch->slots == NIL || fetch->largest * (list_length(fetch->slots) + 1) <= FETCH_AHEAD))
	{
		Timestamp	from = fetch->next;
		FetchSlot  *slot;

		if (fetch->api == KAPTURE_API_PULL)
			fetch->next = window_end(fetch, from);
		slot = fetch_make_slot(fetch, from, fetch->next);
		slot->number = fetch->planned++;
		fetch->slots = lappend(fetch->slots, slot);
		fetch->all_planned = fetch->api == KAPTURE_API_PULL ? fetch->next >= fetch->end :
			fetch->planned >= list_length(fetch->bodies);
	}
}

/*
 * Replaces the first slot by two halves, if its answer may have been cut off
 * and is for more than a second.  Returns whether it did.
 */
static bool
fetch_halve(KaptureFetch *fetch, FetchSlot *slot, const KaptureList *list)
{
	int64		seconds = (slot->to - slot->from) / USECS_PER_SEC;
	Timestamp	middle = slot->from + seconds / 2 * USECS_PER_SEC;

	if (fetch->api != KAPTURE_API_PULL || fetch->paged || list->ncustomers == 0 || list->ncustomers % FETCH_ROUND != 0)
		return false;
	if (seconds <= 1)
	{
		ereport(AmBackgroundWorkerProcess() ? LOG : WARNING,
				(errmsg("kapture_sync: server \"%s\" returned exactly %d customers for a single second, %s; there may be more",
						fetch->server, list->ncustomers, kapture_message_date(slot->from))));
		return false;
	}
	linitial(fetch->slots) = fetch_make_slot(fetch, middle, slot->to);
	fetch->slots = lcons(fetch_make_slot(fetch, slot->from, middle), fetch->slots);
	return true;
}

/*
 * Whatever reads settings or converts text needs a transaction.  Begins one if
 * there is none; returns whether it did.
 */
static bool
fetch_begin_work(KaptureFetch *fetch)
{
	if (IsTransactionState())
		return false;
	StartTransactionCommand();
	MemoryContextSwitchTo(fetch->context);
	return true;
}

static void
fetch_end_work(KaptureFetch *fetch, bool begun)
{
	if (!begun)
		return;
	CommitTransactionCommand();
	MemoryContextSwitchTo(fetch->context);
}

/*
 * The body that asks for a page, JSON in the current memory context.  The end is the
 * next day, as some accounts take the end for the beginning of its day: then a range
 * with the same start and end would be empty.
 */
static char *
fetch_page_body(const KaptureServer *server, Timestamp when, int offset, int limit)
{
	Timestamp	day = fetch_day(when);

	return psprintf("{\"cm_id\": %d, \"createStartDate\": \"%.10s\", \"createEndDate\": \"%.10s\", \"offset\": %d, \"limit\": %d}",
					server->cm_id, kapture_message_date(day), kapture_message_date(day + USECS_PER_DAY),
					offset, limit);
}

/* Sends the request of a slot, if the limiter lets it. */
static void
fetch_send(KaptureFetch *fetch, FetchSlot *slot)
{
	const KaptureServer *server = kapture_server_get(fetch->server, fetch->userid);
	const char *text;
	MemoryContext old;
	TimestampTz when;
	char	   *body;
	size_t		len;

	kapture_server_require_same(server, fetch->serverid, fetch->owner);
	/* the text lives as long as the window, the request until it is released */
	old = MemoryContextSwitchTo(fetch->answer_context);
	if (fetch->api == KAPTURE_API_GET)
		text = list_nth(fetch->bodies, slot->number);
	else if (fetch->paged)
		text = fetch_page_body(server, slot->from, slot->offset, fetch->limit);
	else
		text = kapture_fetch_pull_body(slot->from, slot->to);
	body = kapture_text_to_utf8(text, &len);
	body = kapture_message_body(server, fetch->api, body, len, &len);
	MemoryContextSwitchTo(old);
	slot->request = kapture_http_start(server, fetch->api, body, len, slot, &when);
	if (slot->request == NULL)
	{
		kapture_request_pool_refused(&fetch->pool, when);
		return;
	}
	kapture_http_belongs_to_fetch(slot->request);
	kapture_http_count(slot->request, fetch->owner, fetch->serial);
	if (slot->attempts > 0)
		kapture_http_connect_anew(slot->request);
	slot->state = FETCH_RUNNING;
	slot->neglected = false;
	slot->asked = GetCurrentTimestamp();
	kapture_request_pool_started(&fetch->pool);
}

/*
 * Sends what is due.  Returns when to come back for more; DT_NOEND: not before
 * something has finished.
 */
static TimestampTz
fetch_send_due(KaptureFetch *fetch)
{
	ListCell   *lc;
	bool		begun = false;
	TimestampTz when = DT_NOEND;

	foreach(lc, fetch->slots)
	{
		FetchSlot  *slot = lfirst(lc);

		if (slot->state != FETCH_DUE)
			continue;
		when = kapture_request_pool_next(&fetch->pool);
		if (when > GetCurrentTimestamp())
			break;
		when = DT_NOEND;
		begun |= fetch_begin_work(fetch);
		fetch_send(fetch, slot);
		if (slot->state == FETCH_DUE)
		{
			when = fetch->pool.next_start;
			break;
		}
	}
	fetch_end_work(fetch, begun);
	return when;
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
	if (!kapture_request_pool_retry(&fetch->pool, &slot->attempts, kapture_http_answer(slot->request)->retry_after,
									GetCurrentTimestamp()))
		return false;
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

	/* if the server was never reached, its address is more likely wrong */
	return fetch->answered || answer->outcome != KAPTURE_HTTP_NOT_SENT;
}

/* Decides what becomes of a finished request, without parsing its answer. */
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
	/* answers of a pull may grow from window to window; those to Gets are alike */
	if (fetch->api == KAPTURE_API_GET)
		fetch->allowed = fetch->pool.most * FETCH_GETS_AHEAD;
	if (answer->status >= 500 || answer->status == 429 ||
		answer->status == 408 || answer->status == 425)
		(void) fetch_retry(fetch, slot);
	else
		fetch->largest = Max(answer->body_len, fetch->largest - fetch->largest / 8);
	if (fetch->api == KAPTURE_API_GET)
	{
		fetch_known_gets.serverid = fetch->serverid;
		fetch_known_gets.largest = fetch->largest;
	}
}

/*
 * Marks the slots whose requests have finished, and looks at those of this fetch.
 * Slots of other fetches, of other cursors, are left for these to look at.
 */
static void
fetch_reap(KaptureFetch *fetch)
{
	KaptureHttpRequest *request;
	ListCell   *lc;

	while ((request = kapture_http_next_fetched()) != NULL)
	{
		FetchSlot  *slot = kapture_http_owner(request);

		slot->state = FETCH_FINISHED;
		if (slot->fetch != fetch)
			SetLatch(MyLatch);	/* the other reader must not wait any more */
	}
	foreach(lc, fetch->slots)
	{
		FetchSlot  *slot = lfirst(lc);

		if (slot->state == FETCH_FINISHED)
		{
			kapture_request_pool_ended(&fetch->pool);
			fetch_look(fetch, slot);
		}
	}
}


/*
 * Answers
 */

/* Removes the first slot, which is done with. */
static void
fetch_take_off(KaptureFetch *fetch, FetchSlot *slot)
{
	kapture_http_release(slot->request);
	fetch->slots = list_delete_first(fetch->slots);
	if (slot->last)
		pfree(slot->last);
	pfree(slot);
}

static int
fetch_compare_hashes(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Were all customers of this page on the page before, too?  This page takes the place of the page before. */
static bool
fetch_is_repeated(FetchSlot *slot, const KaptureList *list)
{
	int			n = list->ncustomers;
	uint64	   *hashes = MemoryContextAlloc(slot->fetch->context, sizeof(uint64) * n);
	bool		repeated = slot->last != NULL;

	for (int i = 0; i < n; i++)
	{
		const KaptureSlice *slice = &list->customers[i];

		hashes[i] = DatumGetUInt64(hash_any_extended((const unsigned char *) list->text + slice->start, slice->len, 0));
		repeated = repeated &&
			bsearch(&hashes[i], slot->last, slot->nlast, sizeof(uint64), fetch_compare_hashes) != NULL;
	}
	qsort(hashes, n, sizeof(uint64), fetch_compare_hashes);
	if (slot->last)
		pfree(slot->last);
	slot->last = hashes;
	slot->nlast = n;
	return repeated;
}

/*
 * Is an empty page to be asked for again, because the page before it does not look like
 * the last one?  Once for each page.
 */
static bool
fetch_doubts_end(FetchSlot *slot, const KaptureList *list)
{
	int			before = slot->nlast;
	bool		was_full = before == slot->fullest &&
		(before >= slot->fetch->limit || before % FETCH_ROUND == 0 || slot->offset > before);

	if (list && list->ncustomers > 0)
		slot->doubted = false;
	else if (slot->offset > 0 && was_full && !slot->doubted)
		return slot->doubted = true;
	return false;
}

/*
 * Was this the last page of its window?  If not, the slot is set to the next page.  An
 * account may ignore the offset and return the same page again and again: if that page
 * is full, or looks like a limit, there may be more, which is an error.
 */
static bool
fetch_is_last_page(FetchSlot *slot, const KaptureList *list)
{
	KaptureFetch *fetch = slot->fetch;
	int			n = list ? list->ncustomers : 0;

	if (n == 0)
		return true;
	if (!fetch_is_repeated(slot, list))
		slot->repeats = 0;
	else if (++slot->repeats == 1)
		return false;			/* asked for again */
	else if (n < fetch->limit && n % FETCH_ROUND != 0)
		return true;
	else if (slot->repeats >= FETCH_REPEATS)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_ERROR),
				 errmsg("server \"%s\" returns the same %d customers on each page", fetch->server, n),
				 errdetail("There may be more of %.10s, which cannot be pulled.", kapture_message_date(slot->from)),
				 errhint("Check options \"%s\" and \"%s\" of the server.", "pull_form", "pull_limit")));
	slot->offset += n;
	slot->shorter = n < slot->fullest ? slot->shorter + 1 : 0;
	slot->fullest = Max(slot->fullest, n);
	return slot->shorter >= FETCH_SHORTER;
}

/* Makes the first slot ask for its next page. */
static void
fetch_turn_page(FetchSlot *slot)
{
	kapture_http_release(slot->request);
	slot->request = NULL;
	slot->attempts = 0;
	slot->state = FETCH_DUE;
}

/* Forgets which customers came before the last window. */
static void
fetch_turn_ids(KaptureFetch *fetch)
{
	HASHCTL		info = {.keysize = sizeof(int64), .entrysize = sizeof(int64), .hcxt = fetch->context};

	if (fetch->ids_before)
		hash_destroy(fetch->ids_before);
	fetch->ids_before = fetch->ids;
	fetch->ids = hash_create("kapture customers", 256, &info, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * kapture_window_customer
 *		The n-th customer of a window, in the current memory context; NULL if it
 *		has come before.
 *
 * Windows share the second between them, so that nobody is lost there: a customer who
 * was made then comes with both.  Several Gets may find the same customer.  Customers
 * without an id, and values that are no objects, are always returned.  To be called once
 * for each n, while the window is valid.
 */
Jsonb *
kapture_window_customer(const KaptureWindow *window, int n)
{
	KaptureFetch *fetch = window->fetch;
	Jsonb	   *jsonb = kapture_message_customer(window->list, n);
	JsonbValue	customer;
	int64		id;
	bool		known;

	if (!JB_ROOT_IS_OBJECT(jsonb))
		return jsonb;
	customer.type = jbvBinary;
	customer.val.binary.data = &jsonb->root;
	customer.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	if (!kapture_customer_id(&customer, &id))
		return jsonb;
	(void) hash_search(fetch->ids, &id, HASH_ENTER, &known);
	if (!known && fetch->ids_before)
		(void) hash_search(fetch->ids_before, &id, HASH_FIND, &known);
	return known ? NULL : jsonb;
}

/* Hands the first slot's answer out as the current window. */
static void
fetch_hand_out(KaptureFetch *fetch, FetchSlot *slot, const KaptureReply *reply, KaptureList *list)
{
	const KaptureHttpAnswer *answer = kapture_http_answer(slot->request);
	KaptureWindow *window = &fetch->current;
	bool		is_paged = fetch->paged && (reply->verdict == KAPTURE_SUCCESS || reply->verdict == KAPTURE_NOT_FOUND);
	char	   *why;

	window->fetch = fetch;
	window->continues = slot->offset > 0;
	if (fetch->ids == NULL || (fetch->api == KAPTURE_API_PULL && !window->continues))
		fetch_turn_ids(fetch);
	window->unfinished = is_paged && !fetch_is_last_page(slot, reply->verdict == KAPTURE_SUCCESS ? list : NULL);
	window->from = slot->from;
	window->to = window->unfinished ? slot->from : slot->to;
	window->number = slot->number;
	window->asked = slot->asked;
	window->list = reply->verdict == KAPTURE_SUCCESS ? list : NULL;
	window->refused = reply->verdict != KAPTURE_SUCCESS && reply->verdict != KAPTURE_NOT_FOUND;
	window->answer = NULL;
	if (window->list == NULL && fetch->keeps_answers)
	{
		MemoryContext old = MemoryContextSwitchTo(fetch->answer_context);

		window->answer = kapture_message_parse(answer->body, answer->body_len, NULL, &why);
		MemoryContextSwitchTo(old);
	}
	if (list != NULL)
		list->rest = NULL;		/* goes with "scratch" */
	if (window->unfinished)
		fetch_turn_page(slot);
	else
		fetch_take_off(fetch, slot);
	if (fetch->api == KAPTURE_API_PULL)
		fetch->allowed = Min(fetch->allowed + 1, fetch->pool.most);
}

/* Makes a window of the first slot's answer.  False if the answer is asked for again. */
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
	kapture_message_judge(fetch->api, answer->status, list ? list->rest : NULL, NULL, &reply);
	done = reply.verdict == KAPTURE_SUCCESS || reply.verdict == KAPTURE_NOT_FOUND;
	MemoryContextSwitchTo(old);
	if (done && reply.verdict == KAPTURE_SUCCESS && fetch_halve(fetch, slot, list))
	{
		kapture_http_release(slot->request);
		pfree(slot);
		done = false;
	}
	else if (done && fetch->paged && fetch_doubts_end(slot, reply.verdict == KAPTURE_SUCCESS ? list : NULL))
	{
		fetch_turn_page(slot);
		done = false;
	}
	else if (done)
		fetch_hand_out(fetch, slot, &reply, list);
	else if ((reply.verdict != KAPTURE_BROKEN && reply.verdict != KAPTURE_THROTTLED) ||
			 !fetch_retry(fetch, slot))
	{
		done = fetch->keeps_answers && list != NULL;
		if (done)
			fetch_hand_out(fetch, slot, &reply, list);
		else if (list == NULL)
			kapture_complaint_not_json(server, fetch->api, answer, why);
		else
			kapture_complaint_failed(server, fetch->api, answer->status, &reply);
	}
	MemoryContextDelete(scratch);
	return done;
}

/* Marks requests as neglected, if the network has not been served for long. */
static void
fetch_note_absence(KaptureFetch *fetch)
{
	ListCell   *lc;

	if (GetCurrentTimestamp() - fetch->served < fetch->timeout * INT64CONST(1000) / 2)
		return;
	foreach(lc, fetch->slots)
		((FetchSlot *) lfirst(lc))->neglected = true;
}

/* Serves the network, but not each time: the answers of a fast server are read in less than FETCH_SERVE_AFTER. */
static void
fetch_serve(KaptureFetch *fetch)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now - fetch->served < FETCH_SERVE_AFTER)
		return;
	if (fetch->pool.running > 0)
		kapture_http_serve();
	fetch->served = now;
}

/*
 * kapture_fetch_poll
 *		Without waiting, sends what is due, and sets *window to the next window,
 *		in order, if that has arrived.
 *
 * WAIT: call again once the network has been served (kapture_http_wait,
 * kapture_fetch_served), at *when at the latest.  The window is valid until the next call.  Errors as
 * kapture_fetch_next(); after one, the fetch can only be dropped.
 */
KaptureFetchState
kapture_fetch_poll(KaptureFetch *fetch, const KaptureWindow **window, TimestampTz *when)
{
	MemoryContext old = MemoryContextSwitchTo(fetch->context);
	KaptureFetchState state = KAPTURE_FETCH_WAIT;

	MemoryContextReset(fetch->answer_context);
	fetch_note_absence(fetch);
	do
	{
		/* what has ended makes room for what is due */
		fetch_reap(fetch);
		fetch_plan(fetch);
		if (fetch->slots == NIL)
			state = KAPTURE_FETCH_END;
		else
		{
			FetchSlot  *slot = fetch_first(fetch);

			*when = fetch_send_due(fetch);
			if (slot->state == FETCH_READY)
			{
				bool		begun = fetch_begin_work(fetch);

				if (fetch_accept(fetch, slot))
				{
					*window = &fetch->current;
					state = KAPTURE_FETCH_WINDOW;
				}
				fetch_end_work(fetch, begun);
			}
			else if (slot->state != FETCH_DUE || *when != DT_NOEND ||
					 fetch->pool.running >= fetch->pool.most)
				break;
		}
	} while (state == KAPTURE_FETCH_WAIT);

	/* other requests may be under way while this window is read */
	if (state == KAPTURE_FETCH_WINDOW)
	{
		fetch_plan(fetch);
		(void) fetch_send_due(fetch);
		fetch_serve(fetch);
	}
	else
	{
		MemoryContextReset(fetch->answer_context);	/* of an answer that is asked for again */
		fetch->served = GetCurrentTimestamp();
	}
	MemoryContextSwitchTo(old);
	return state;
}

/*
 * kapture_fetch_forget_window
 *		Frees the window that was returned last, for a reader that may come for the next
 *		one much later.
 */
void
kapture_fetch_forget_window(KaptureFetch *fetch)
{
	MemoryContextReset(fetch->answer_context);
}

/*
 * kapture_fetch_served
 *		To be called when the network has been served since the last call, so that
 *		a request that has timed out is not taken for a neglected one.
 */
void
kapture_fetch_served(KaptureFetch *fetch)
{
	fetch->served = GetCurrentTimestamp();
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
	const KaptureWindow *window = NULL;
	TimestampTz when;

	for (;;)
	{
		long		timeout = -1;

		CHECK_FOR_INTERRUPTS();
		switch (kapture_fetch_poll(fetch, &window, &when))
		{
			case KAPTURE_FETCH_WINDOW:
				return window;
			case KAPTURE_FETCH_END:
				return NULL;
			case KAPTURE_FETCH_WAIT:
				break;
		}
		if (when != DT_NOEND)
			timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), when);
		(void) kapture_http_wait_fetched(timeout, WaitEventExtensionNew(fetch->pool.running > 0 ? "KaptureHttp" : "KapturePace"));
		kapture_fetch_served(fetch);
	}
}

/*
 * kapture_fetch_not_before
 *		When the server may be asked again, if it has set a time; else a time in
 *		the past.
 */
TimestampTz
kapture_fetch_not_before(const KaptureFetch *fetch)
{
	return fetch->pool.not_before;
}


/*
 * Set-up
 */

static KaptureFetch *
fetch_create(const char *name, Oid userid, KaptureApi api)
{
	static uint64 serial = 0;
	const KaptureServer *server = kapture_server_get(name, userid);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "kapture fetch",
												  ALLOCSET_SMALL_SIZES);
	KaptureFetch *fetch = MemoryContextAllocZero(context, sizeof(KaptureFetch));

	kapture_server_require_key(server, api);
	fetch->context = context;
	fetch->serial = ++serial;
	fetch->answer_context = AllocSetContextCreate(context, "kapture window",
												  ALLOCSET_DEFAULT_SIZES);
	fetch->server = MemoryContextStrdup(context, name);
	fetch->serverid = server->serverid;
	fetch->owner = server->owner;
	fetch->userid = userid;
	fetch->api = api;
	fetch->timeout = server->timeout;
	kapture_request_pool_init(&fetch->pool, server->max_connections);
	fetch->allowed = Min(FETCH_FIRST, fetch->pool.most);
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

	fetch->zone = kapture_local_zone(options->timezone);
	fetch->paged = options->pull_paged;
	fetch->limit = options->pull_limit;
	fetch->window = fetch->paged ? USECS_PER_DAY : options->pull_window * USECS_PER_SEC;
	fetch->next = start;
	fetch->end = end;
	return fetch;
}

/*
 * kapture_fetch_require_server
 *		To be called before the first request: errors out at each (55000) if the name that the
 *		fetch was begun with is that of another server.
 */
void
kapture_fetch_require_server(KaptureFetch *fetch, Oid serverid)
{
	fetch->serverid = serverid;
}

/*
 * kapture_fetch_keep_answers
 *		Makes windows without customers include their answer, and makes refusals
 *		windows, too, rather than errors.
 */
void
kapture_fetch_keep_answers(KaptureFetch *fetch)
{
	fetch->keeps_answers = true;
}

/*
 * kapture_fetch_pull_body
 *		The body that asks for a window, JSON in the current memory context.
 *		Errors: as kapture_message_date().
 */
char *
kapture_fetch_pull_body(Timestamp from, Timestamp to)
{
	return psprintf("{\"start_date\": \"%s\", \"end_date\": \"%s\"}",
					kapture_message_date(from), kapture_message_date(to));
}

/*
 * kapture_fetch_get_body
 *		The body that asks for a customer by id (0: not by id), or by phone or
 *		email (NULL: not by it), with all the keys of the sample; JSON in the
 *		current memory context.
 */
char *
kapture_fetch_get_body(int64 customer_id, const char *phone, const char *email)
{
	StringInfoData body;
	char		id[32] = "";

	if (customer_id != 0)
		snprintf(id, sizeof(id), INT64_FORMAT, customer_id);
	initStringInfo(&body);
	appendStringInfoChar(&body, '{');
	kapture_message_append_field(&body, "kapture_customer_id", id);
	kapture_message_append_field(&body, "customer_id", "");
	kapture_message_append_field(&body, "email_id", email);
	kapture_message_append_field(&body, "phone", phone);
	appendStringInfoChar(&body, '}');
	return body.data;
}

/*
 * kapture_fetch_nobody_body
 *		The body of a pull at "when", a time without customers: of that second, or of
 *		one customer of its day, in the account's form; JSON in the current memory
 *		context.
 */
char *
kapture_fetch_nobody_body(const KaptureServer *server, Timestamp when)
{
	return server->pull_paged ? fetch_page_body(server, when, 0, 1) : kapture_fetch_pull_body(when, when);
}

/*
 * kapture_fetch_gets
 *		Begins to fetch the customers that Gets with these bodies find; "bodies" is
 *		not empty and has JSON (char *) in the database's encoding.
 *
 * As kapture_fetch_pull(); each answer is a window, in the order of the bodies.
 */
KaptureFetch *
kapture_fetch_gets(const char *server, Oid userid, List *bodies)
{
	KaptureFetch *fetch = fetch_create(server, userid, KAPTURE_API_GET);
	MemoryContext old = MemoryContextSwitchTo(fetch->context);
	ListCell   *lc;

	Assert(bodies != NIL);
	foreach(lc, bodies)
		fetch->bodies = lappend(fetch->bodies, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(old);
	if (fetch_known_gets.serverid == fetch->serverid && fetch_known_gets.largest > 0)
	{
		fetch->largest = fetch_known_gets.largest;
		fetch->allowed = fetch->pool.most * FETCH_GETS_AHEAD;
	}
	return fetch;
}

/*
 * kapture_fetch_round
 *		How many Gets should be begun together at least, so that the server's
 *		connections are busy nearly all the time.
 *
 * Errors as kapture_server_get().
 */
int
kapture_fetch_round(const char *server, Oid userid)
{
	return Min(kapture_server_get(server, userid)->max_connections * FETCH_ROUND_GETS, FETCH_ROUND_MAX);
}

/*
 * kapture_fetch_most
 *		How many requests of the fetch may be in flight at a time.
 */
int
kapture_fetch_most(const KaptureFetch *fetch)
{
	return fetch->pool.most;
}

/*
 * kapture_fetch_server
 *		The name of the server; lives as long as the fetch.
 */
const char *
kapture_fetch_server(const KaptureFetch *fetch)
{
	return fetch->server;
}
