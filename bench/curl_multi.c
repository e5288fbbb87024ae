/*
 * curl_multi.c
 *		The limit of sending with libcurl: a bare loop over its multi interface.
 *
 * POSTs so many customers over so many connections, in one thread, and does nothing
 * with the answers.  Handles are used again for the next request, their options are set
 * once.  Prints requests/s and the processor's microseconds for a request.
 *
 *	curl_multi URL CONNECTIONS REQUESTS KEY
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

#define MAX_CONNECTIONS	1024

typedef struct Handle
{
	CURL	   *easy;
	char		body[256];
} Handle;

static CURLM *multi;
static int	epoll_fd;
static long timeout = -1;		/* milliseconds until libcurl wants to be called */

static int
on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	struct epoll_event event = {.data.fd = fd};

	(void) easy;
	(void) arg;
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (what == CURL_POLL_REMOVE)
	{
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
		curl_multi_assign(multi, fd, NULL);
		return 0;
	}
	(void) epoll_ctl(epoll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
	curl_multi_assign(multi, fd, &multi);
	return 0;
}

static int
on_timer(CURLM *m, long milliseconds, void *arg)
{
	(void) m;
	(void) arg;
	timeout = milliseconds;
	return 0;
}

static size_t
on_data(char *data, size_t size, size_t n, void *arg)
{
	(void) data;
	(void) arg;
	return size * n;
}

static void
send_next(Handle *h, long i)
{
	snprintf(h->body, sizeof(h->body),
			 "{\"customer_name\": \"Row %ld\", \"phone\": \"%010ld\", \"email_id\": \"c%ld@example.com\", \"city\": \"Bangalore\"}",
			 i, 6000000000L + i, i);
	curl_easy_setopt(h->easy, CURLOPT_POSTFIELDS, h->body);
	curl_easy_setopt(h->easy, CURLOPT_POSTFIELDSIZE, (long) strlen(h->body));
	curl_multi_add_handle(multi, h->easy);
}

static double
seconds_of(struct timeval t)
{
	return t.tv_sec + t.tv_usec / 1e6;
}

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

int
main(int argc, char **argv)
{
	static Handle handles[MAX_CONNECTIONS];
	struct curl_slist *headers = NULL;
	struct rusage used;
	char		authorization[512];
	int			connections = argc == 5 ? atoi(argv[2]) : 0;
	long		requests = argc == 5 ? atol(argv[3]) : 0;
	long		sent = 0;
	long		failed = 0;
	int			running = 0;
	double		began;

	if (connections < 1 || connections > MAX_CONNECTIONS || requests < connections)
	{
		fprintf(stderr, "usage: curl_multi URL CONNECTIONS REQUESTS KEY\n");
		return 2;
	}
	curl_global_init(CURL_GLOBAL_DEFAULT);
	epoll_fd = epoll_create1(0);
	multi = curl_multi_init();
	curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
	curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) connections);
	snprintf(authorization, sizeof(authorization), "Authorization: Basic %s", argv[4]);
	headers = curl_slist_append(headers, "Content-Type: application/json");
	headers = curl_slist_append(headers, "Accept: application/json");
	headers = curl_slist_append(headers, "Expect:");
	headers = curl_slist_append(headers, authorization);

	began = now();
	for (int i = 0; i < connections; i++)
	{
		Handle	   *h = &handles[i];

		h->easy = curl_easy_init();
		curl_easy_setopt(h->easy, CURLOPT_URL, argv[1]);
		curl_easy_setopt(h->easy, CURLOPT_HTTPHEADER, headers);
		curl_easy_setopt(h->easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
		curl_easy_setopt(h->easy, CURLOPT_NOSIGNAL, 1L);
		curl_easy_setopt(h->easy, CURLOPT_PROXY, "");
		curl_easy_setopt(h->easy, CURLOPT_WRITEFUNCTION, on_data);
		curl_easy_setopt(h->easy, CURLOPT_PRIVATE, h);
		send_next(h, ++sent);
	}
	for (long done = 0; done < requests;)
	{
		struct epoll_event events[64];
		int			n = epoll_wait(epoll_fd, events, 64, timeout < 0 ? 1000 : (int) timeout);
		CURLMsg    *msg;
		int			left;

		for (int i = 0; i < n; i++)
			curl_multi_socket_action(multi, events[i].data.fd,
									 (events[i].events & (EPOLLIN | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
									 (events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
									 (events[i].events & EPOLLERR ? CURL_CSELECT_ERR : 0), &running);
		if (n == 0 || timeout == 0)
			curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
		while ((msg = curl_multi_info_read(multi, &left)) != NULL)
		{
			Handle	   *h;
			long		status = 0;

			if (msg->msg != CURLMSG_DONE)
				continue;
			curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **) &h);
			curl_easy_getinfo(msg->easy_handle, CURLINFO_RESPONSE_CODE, &status);
			failed += msg->data.result != CURLE_OK || status != 200;
			curl_multi_remove_handle(multi, h->easy);
			done++;
			if (sent < requests)
				send_next(h, ++sent);
		}
	}
	getrusage(RUSAGE_SELF, &used);
	printf("%.0f %.2f\n", requests / (now() - began),
		   (seconds_of(used.ru_utime) + seconds_of(used.ru_stime)) * 1e6 / requests);
	if (failed > 0)
		fprintf(stderr, "curl_multi: %ld of %ld requests failed\n", failed, requests);
	return failed > 0;
}
