/*
 * record.c
 *		What arrived: a log of requests, and counters.
 *
 * Tests read these to prove that nothing is missing and nothing came twice.
 */
#include "record.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define LOG_SIZE	(1 << 16)	/* requests remembered in full; a power of two */
#define SECOND		INT64_C(1000000000)

typedef struct Entry
{
	double		time;
	Api			api;
	int			code;
	bool		success;
	int64_t		id;
	const char *fault;			/* or NULL */
	char	   *headers;		/* JSON */
	char	   *body;			/* or NULL */
} Entry;

typedef struct Counters
{
	int64_t		requests;
	int64_t		by_api[N_APIS];
	int64_t		successes[N_APIS];
	int64_t		duplicate_refusals;
	int64_t		unauthorized;
	int64_t		faults;
	int64_t		connections;
	int64_t		unasked;		/* answers that nobody asked for */
	int64_t		max_in_flight;
	int64_t		max_in_second;
} Counters;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static Entry log_entries[LOG_SIZE];
static Counters counters;
static int64_t in_flight;
static int64_t open_connections;

/* Times of arrival within the last second: a queue in a ring. */
static int64_t *recent;
static size_t recent_size;
static size_t recent_first;
static size_t recent_count;

/* A connection was opened or, with all that came over it dealt with, closed. */
void
record_connection(bool opened)
{
	pthread_mutex_lock(&mutex);
	if (opened)
		counters.connections++;
	open_connections += opened ? 1 : -1;
	pthread_mutex_unlock(&mutex);
}

/* An answer was sent that nobody asked for. */
void
record_unasked(void)
{
	pthread_mutex_lock(&mutex);
	counters.unasked++;
	pthread_mutex_unlock(&mutex);
}

static void
push_recent(int64_t now)
{
	while (recent_count > 0 && now - recent[recent_first] >= SECOND)
	{
		recent_first = (recent_first + 1) % recent_size;
		recent_count--;
	}
	if (recent_count == recent_size)
	{
		size_t		bigger = recent_size ? recent_size * 2 : 1024;
		int64_t    *copy = xmalloc(bigger * sizeof(int64_t));

		for (size_t i = 0; i < recent_count; i++)
			copy[i] = recent[(recent_first + i) % recent_size];
		free(recent);
		recent = copy;
		recent_size = bigger;
		recent_first = 0;
	}
	recent[(recent_first + recent_count) % recent_size] = now;
	recent_count++;
	if ((int64_t) recent_count > counters.max_in_second)
		counters.max_in_second = (int64_t) recent_count;
}

/* A request to one of the APIs has come in whole. */
void
record_begin(void)
{
	int64_t		now = clock_monotonic();

	pthread_mutex_lock(&mutex);
	push_recent(now);
	if (++in_flight > counters.max_in_flight)
		counters.max_in_flight = in_flight;
	pthread_mutex_unlock(&mutex);
}

/* And is over, one way or the other. */
void
record_end(void)
{
	pthread_mutex_lock(&mutex);
	in_flight--;
	pthread_mutex_unlock(&mutex);
}

/* What became of it; takes over both buffers. */
void
record_request(Api api, const Reply *reply, const char *fault, Buf *headers, Buf *body)
{
	Entry	   *entry;

	pthread_mutex_lock(&mutex);
	entry = &log_entries[counters.requests & (LOG_SIZE - 1)];
	free(entry->headers);
	free(entry->body);
	entry->time = clock_now();
	entry->api = api;
	entry->code = reply->code;
	entry->success = reply->success;
	entry->id = reply->id;
	entry->fault = fault;
	entry->headers = headers->data;
	entry->body = body->data;
	memset(headers, 0, sizeof(*headers));
	memset(body, 0, sizeof(*body));

	counters.requests++;
	counters.by_api[api]++;
	if (reply->success)
		counters.successes[api]++;
	if (reply->code == 401)
		counters.unauthorized++;
	if (reply->code == 400 && reply->body.data && strstr(reply->body.data, "already exist"))
		counters.duplicate_refusals++;
	if (fault)
		counters.faults++;
	pthread_mutex_unlock(&mutex);
}

/* Forgets everything but what is in flight and open. */
void
record_reset(void)
{
	pthread_mutex_lock(&mutex);
	for (int i = 0; i < LOG_SIZE; i++)
	{
		free(log_entries[i].headers);
		free(log_entries[i].body);
	}
	memset(log_entries, 0, sizeof(log_entries));
	memset(&counters, 0, sizeof(counters));
	counters.max_in_flight = in_flight;
	recent_count = 0;
	pthread_mutex_unlock(&mutex);
}

void
record_stats(Buf *out, size_t customers)
{
	pthread_mutex_lock(&mutex);
	buf_printf(out, "{\"customers\": %zu, \"requests\": %lld, \"adds\": %lld, \"updates\": %lld",
			   customers, (long long) counters.requests,
			   (long long) counters.successes[API_ADD], (long long) counters.successes[API_UPDATE]);
	for (int i = 0; i < N_APIS; i++)
		buf_printf(out, ", \"%s_requests\": %lld", api_names[i], (long long) counters.by_api[i]);
	buf_printf(out, ", \"duplicate_refusals\": %lld, \"unauthorized\": %lld, \"faults\": %lld,"
			   " \"in_flight\": %lld, \"max_in_flight\": %lld, \"connections\": %lld, \"open_connections\": %lld, \"unasked\": %lld,"
			   " \"max_requests_in_any_second\": %lld}",
			   (long long) counters.duplicate_refusals, (long long) counters.unauthorized,
			   (long long) counters.faults, (long long) in_flight, (long long) counters.max_in_flight,
			   (long long) counters.connections, (long long) open_connections, (long long) counters.unasked,
			   (long long) counters.max_in_second);
	pthread_mutex_unlock(&mutex);
}

/* The requests from that number on, as far as they are remembered. */
void
record_log(Buf *out, int64_t since)
{
	int64_t		first;

	pthread_mutex_lock(&mutex);
	first = counters.requests > LOG_SIZE ? counters.requests - LOG_SIZE : 0;
	if (first < since)
		first = since;
	buf_puts(out, "[");
	for (int64_t i = first; i < counters.requests; i++)
	{
		const Entry *entry = &log_entries[i & (LOG_SIZE - 1)];

		buf_printf(out, "%s{\"n\": %lld, \"time\": %.6f, \"api\": \"%s\", \"code\": %d, \"success\": %s, \"id\": %lld",
				   i > first ? ",\n" : "", (long long) i, entry->time, api_names[entry->api], entry->code,
				   entry->success ? "true" : "false", (long long) entry->id);
		buf_puts(out, ", \"fault\": ");
		if (entry->fault)
			buf_json(out, entry->fault);
		else
			buf_puts(out, "null");
		buf_puts(out, ", \"headers\": ");
		buf_puts(out, entry->headers ? entry->headers : "{}");
		buf_puts(out, ", \"body\": ");
		buf_json(out, entry->body ? entry->body : "");
		buf_puts(out, "}");
	}
	buf_puts(out, "]\n");
	pthread_mutex_unlock(&mutex);
}
