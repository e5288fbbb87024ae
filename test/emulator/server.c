/*
 * server.c
 *		HTTP: collects requests, has them done, plays the faults, answers.
 *
 * A few threads, each with an epoll of its own.  None of them ever waits: a
 * delayed answer is a suspended connection that a timer wakes.
 */
#include "server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <string.h>
#include <strings.h>
#include <stdlib.h>
#include <unistd.h>

#include <microhttpd.h>

#include "admin.h"
#include "api.h"
#include "buf.h"
#include "fault.h"
#include "record.h"
#include "timer.h"

#define MAX_BODY	(16 * 1024 * 1024)

/* One request, from its first line until it is over. */
typedef struct Exchange
{
	struct MHD_Connection *connection;
	Buf			body;
	Buf			headers;		/* JSON, for the log */
	char	   *authorization;
	char	   *api_key;
	ApiRequest	request;
	Fault		fault;
	Reply		reply;
	bool		counted;		/* among those in flight */
	bool		waited;			/* the delay is over */
} Exchange;

/* ---- doing ---- */

/* Does the work, notes it down and turns the answer into what the fault says. */
static void
perform(Exchange *exchange)
{
	Reply	   *reply = &exchange->reply;
	const Fault *fault = &exchange->fault;

	switch (fault->action)
	{
		case FAULT_STATUS:
		case FAULT_REDIRECT:
			answer_plain(reply, fault->code, TYPE_JSON,
						 fault->body ? fault->body : "{\"message\": \"Internal Server Error\", \"status\": \"failed\"}");
			break;
		case FAULT_DROP_BEFORE:
			break;
		case FAULT_NOT_FOUND:
			answer_not_found(reply);
			break;
		default:
			api_perform(&exchange->request, exchange->authorization, exchange->api_key, reply);
			break;
	}
	record_request(exchange->request.api, reply, fault->name, &exchange->headers, &exchange->body);

	if (fault->action == FAULT_FLAT && reply->id != 0)
		answer_flat(reply);
	else if (fault->action == FAULT_GARBAGE)
		answer_plain(reply, fault->code, TYPE_JSON, fault->body ? fault->body : "\x01\x02 {\"message\": nonsense \xff\xfe");
	else if (fault->action == FAULT_INSTEAD)
		answer_plain(reply, fault->code, TYPE_JSON, fault->body ? fault->body : "{}");
	else if (fault->action == FAULT_BOM)
	{
		Buf			body = reply->body;

		reply->body = (Buf) {0};
		buf_puts(&reply->body, "\xEF\xBB\xBF");
		buf_append(&reply->body, body.data, body.len);
		buf_free(&body);
	}
	else if (fault->action == FAULT_GZIP)
		buf_gzip(&reply->body);
	else if (fault->action == FAULT_HTML)
		answer_plain(reply, fault->code, TYPE_HTML,
					 "<!DOCTYPE html>\n<html><head><title>Kapture CRM</title></head><body>Please log in.</body></html>\n");
}

/* The request does not count as in flight any more. */
static void
end_exchange(Exchange *exchange)
{
	if (exchange->counted)
		record_end();
	exchange->counted = false;
}

static void
free_exchange(Exchange *exchange)
{
	end_exchange(exchange);
	api_free(&exchange->request);
	buf_free(&exchange->body);
	buf_free(&exchange->headers);
	buf_free(&exchange->reply.body);
	free(exchange->authorization);
	free(exchange->api_key);
	free(exchange);
}

/* What a gateway has given up on is done all the same. */
static void
perform_abandoned(void *arg)
{
	perform(arg);
	free_exchange(arg);
}

/* Hands the work over to a timer and answers as a gateway that lost patience. */
static void
abandon(Exchange *exchange)
{
	Exchange   *rest = xcalloc(1, sizeof(Exchange));

	*rest = *exchange;
	memset(exchange, 0, sizeof(*exchange));
	exchange->connection = rest->connection;
	exchange->fault = rest->fault;
	timer_add(rest->fault.delay_ms, perform_abandoned, rest);
	answer_plain(&exchange->reply, exchange->fault.code, TYPE_HTML, "<html><body>502 Bad Gateway</body></html>\n");
}

static void
wake(void *arg)
{
	Exchange   *exchange = arg;

	if (exchange->fault.action == FAULT_LATE)
		perform(exchange);
	else if (exchange->fault.action == FAULT_HANG)
		end_exchange(exchange); /* now, not when its thread comes to close it */
	exchange->waited = true;
	MHD_resume_connection(exchange->connection);
}

/* ---- answering ---- */

/* Half of an answer whose length was announced in full. */
static ssize_t
read_half(void *arg, uint64_t position, char *out, size_t max)
{
	const Buf  *body = arg;
	size_t		half = body->len / 2;
	size_t		len;

	if (position >= half)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	len = half - (size_t) position;
	if (len > max)
		len = max;
	memcpy(out, body->data + position, len);
	return (ssize_t) len;
}

static ssize_t
read_endless(void *arg, uint64_t position, char *out, size_t max)
{
	static const char start[] = "{\"message\": \"";

	(void) arg;
	memset(out, 'x', max);
	if (position == 0 && max >= sizeof(start) - 1)
		memcpy(out, start, sizeof(start) - 1);
	return (ssize_t) max;
}

static enum MHD_Result
respond(Exchange *exchange)
{
	Reply	   *reply = &exchange->reply;
	struct MHD_Response *response;
	enum MHD_Result result;
	const char *name;
	json_t	   *value;

	if (exchange->fault.action == FAULT_DROP_BEFORE || exchange->fault.action == FAULT_DROP_AFTER ||
		exchange->fault.action == FAULT_HANG)
		return MHD_NO;
	if (exchange->fault.action == FAULT_TRUNCATE)
		response = MHD_create_response_from_callback(reply->body.len, 4096, read_half, &reply->body, NULL);
	else if (exchange->fault.action == FAULT_ENDLESS)
		response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 65536, read_endless, NULL, NULL);
	else
		response = MHD_create_response_from_buffer(reply->body.len, reply->body.data ? reply->body.data : "",
												   MHD_RESPMEM_PERSISTENT);
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply->content_type);
	if (exchange->fault.action == FAULT_REDIRECT && !json_object_get(exchange->fault.headers, "Location"))
		MHD_add_response_header(response, MHD_HTTP_HEADER_LOCATION, "http://127.0.0.1:1/elsewhere");
	if (exchange->fault.action == FAULT_GZIP)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_ENCODING, "gzip");
	if (exchange->fault.headers)
		json_object_foreach(exchange->fault.headers, name, value)
		if (json_is_string(value))
			MHD_add_response_header(response, name, json_string_value(value));
	/* whoever reads the answer may send the next request before this thread goes on */
	if (exchange->fault.action != FAULT_ENDLESS)
		end_exchange(exchange);
	result = MHD_queue_response(exchange->connection, (unsigned) reply->code, response);
	MHD_destroy_response(response);
	return result;
}

/* ---- collecting ---- */

static enum MHD_Result
put_header(void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
	Buf		   *out = arg;

	(void) kind;
	/* the log is for tests to read, and keys are not for the log */
	if (strcasecmp(name, MHD_HTTP_HEADER_AUTHORIZATION) == 0)
		return MHD_YES;
	buf_puts(out, out->len > 1 ? ", " : "");
	buf_json(out, name);
	buf_puts(out, ": ");
	buf_json(out, value ? value : "");
	return MHD_YES;
}

static enum MHD_Result
handle(Exchange *exchange, const char *path, const char *method)
{
	static const char admin[] = "/_emulator/";
	struct MHD_Connection *connection = exchange->connection;
	const char *authorization;
	const char *api_key;

	if (strncmp(path, admin, sizeof(admin) - 1) == 0)
	{
		admin_perform(path + sizeof(admin) - 1,
					  MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "since"),
					  MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "id"),
					  exchange->body.data, exchange->body.len, &exchange->reply);
		return respond(exchange);
	}
	if (strcmp(method, MHD_HTTP_METHOD_POST) != 0)
	{
		answer_plain(&exchange->reply, MHD_HTTP_METHOD_NOT_ALLOWED, TYPE_HTML, "<html><body>405 Method Not Allowed</body></html>\n");
		return respond(exchange);
	}
	if (!api_read(&exchange->request, path, exchange->body.data, exchange->body.len))
	{
		answer_plain(&exchange->reply, MHD_HTTP_NOT_FOUND, TYPE_HTML, "<html><body>404 Not Found</body></html>\n");
		return respond(exchange);
	}

	record_begin();
	exchange->counted = true;
	authorization = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
	exchange->authorization = authorization ? xstrdup(authorization) : NULL;
	api_key = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "x-api-key");
	exchange->api_key = api_key ? xstrdup(api_key) : NULL;
	buf_puts(&exchange->headers, "{");
	MHD_get_connection_values(connection, MHD_HEADER_KIND, put_header, &exchange->headers);
	buf_puts(&exchange->headers, "}");
	exchange->fault = fault_pick(exchange->request.api, exchange->body.data);

	if (exchange->fault.action == FAULT_GATEWAY)
	{
		abandon(exchange);
		return respond(exchange);
	}
	if (exchange->fault.action != FAULT_LATE)
		perform(exchange);
	if (exchange->fault.action == FAULT_HANG || exchange->fault.action == FAULT_HOLD)
	{
		MHD_suspend_connection(connection);
		timer_hold(wake, exchange);
		return MHD_YES;
	}
	if ((exchange->fault.delay_ms > 0 && exchange->fault.action != FAULT_UNASKED) || exchange->fault.action == FAULT_LATE)
	{
		MHD_suspend_connection(connection);
		timer_add(exchange->fault.delay_ms, wake, exchange);
		return MHD_YES;
	}
	return respond(exchange);
}

static enum MHD_Result
on_request(void *arg, struct MHD_Connection *connection, const char *path, const char *method,
		   const char *version, const char *upload, size_t *upload_size, void **context)
{
	Exchange   *exchange = *context;

	(void) arg;
	(void) version;
	if (exchange == NULL)
	{
		exchange = xcalloc(1, sizeof(Exchange));
		exchange->connection = connection;
		*context = exchange;
		return MHD_YES;
	}
	if (exchange->waited)
		return respond(exchange);
	if (*upload_size > 0)
	{
		if (exchange->body.len + *upload_size > MAX_BODY)
			return MHD_NO;
		buf_append(&exchange->body, upload, *upload_size);
		*upload_size = 0;
		return MHD_YES;
	}
	return handle(exchange, path, method);
}

/* What is said on a connection that nobody asks anything on. */
typedef struct Unasked
{
	int			fd;
	const char *body;
} Unasked;

static void
say_unasked(void *arg)
{
	Unasked    *unasked = arg;
	Buf			answer = {0};

	buf_printf(&answer, "HTTP/1.1 200 OK\r\nContent-Type: " TYPE_JSON "\r\nContent-Length: %zu\r\n\r\n%s",
			   strlen(unasked->body), unasked->body);
	(void) !send(unasked->fd, answer.data, answer.len, MSG_NOSIGNAL | MSG_DONTWAIT);
	record_unasked();
	close(unasked->fd);
	buf_free(&answer);
	free(unasked);
}

/* The connection may be closed before that, so it is held by a descriptor of its own. */
static void
plan_unasked(const Exchange *exchange)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(exchange->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	Unasked    *unasked = xcalloc(1, sizeof(Unasked));

	unasked->fd = info ? dup(info->connect_fd) : -1;
	unasked->body = exchange->fault.body ? exchange->fault.body : "{\"message\": \"nobody asked\", \"status\": \"success\"}";
	timer_add(exchange->fault.delay_ms, say_unasked, unasked);
}

static void
on_completed(void *arg, struct MHD_Connection *connection, void **context, enum MHD_RequestTerminationCode why)
{
	Exchange   *exchange = *context;

	(void) arg;
	(void) connection;
	if (exchange == NULL)
		return;
	if (exchange->fault.action == FAULT_UNASKED && why == MHD_REQUEST_TERMINATED_COMPLETED_OK)
		plan_unasked(exchange);
	free_exchange(exchange);
	*context = NULL;
}

static void
on_connection(void *arg, struct MHD_Connection *connection, void **context, enum MHD_ConnectionNotificationCode what)
{
	(void) arg;
	(void) connection;
	(void) context;
	record_connection(what == MHD_CONNECTION_NOTIFY_STARTED);
}

/*
 * Listens, by default on loopback, and serves from threads of its own.  Returns
 * the port, or -1.
 */
int
server_start(const ServerOptions *options)
{
	unsigned	flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_TCP_FASTOPEN;
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t) options->port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)
	};
	struct MHD_OptionItem tls[] = {
		{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *) options->certificate},
		{MHD_OPTION_HTTPS_MEM_KEY, 0, (void *) options->private_key},
		{MHD_OPTION_END, 0, NULL}
	};
	struct MHD_Daemon *daemon;
	const union MHD_DaemonInfo *info;

	if (options->listen && inet_pton(AF_INET, options->listen, &address.sin_addr) != 1)
		return -1;
	timer_start();
	if (options->certificate)
		flags |= MHD_USE_TLS;
	else
		tls[0].option = MHD_OPTION_END;
	daemon = MHD_start_daemon(flags, (uint16_t) options->port, NULL, NULL, on_request, NULL,
							  MHD_OPTION_SOCK_ADDR, (struct sockaddr *) &address,
							  MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u,
							  MHD_OPTION_THREAD_POOL_SIZE, options->threads,
							  MHD_OPTION_CONNECTION_LIMIT, 4096u,
							  MHD_OPTION_LISTEN_BACKLOG_SIZE, 1024u,
							  MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
							  MHD_OPTION_NOTIFY_CONNECTION, on_connection, NULL,
							  MHD_OPTION_ARRAY, tls,
							  MHD_OPTION_END);
	if (daemon == NULL)
		return -1;
	info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
	return info ? info->port : -1;
}
