/*
 * http.c
 *		HTTP POSTs, one or many at a time, under PostgreSQL's wait loop.
 *
 * The only file that knows libcurl.  Its sockets live in an epoll descriptor
 * of ours, which sits in a WaitEventSet beside the process's latch and the
 * postmaster's death (a socket cannot be removed from a WaitEventSet, but from an
 * epoll set it can).  So one wait serves the network, interrupts and shutdown alike.
 *
 * Rules that keep libcurl and PostgreSQL apart:
 *
 * - libcurl is initialised on first use in each process, never in the
 *   postmaster, and nothing of it is in shared memory.
 * - All signals are blocked around calls into it: it may start a thread to
 *   resolve a name, and that must not run PostgreSQL's signal handlers.
 * - Callbacks neither allocate with palloc nor raise errors; they note what is
 *   wrong and make libcurl stop.
 * - A request belongs to a memory context, whose reset callback gives
 *   everything back, so that no error leaks a handle.
 *
 * An answer belongs to the request that it follows: HTTP/1.1 has no other sign.  So
 * a connection on which something arrived unasked is not used.  The prerequisite
 * callback notices that, and the request gets a connection of its own.  What arrives
 * between that check and the request is noticed when the answer is compared with
 * what was sent (reply.c).
 *
 * HTTP/2 is not spoken: where a server ends a connection (GOAWAY), as proxies do
 * after a thousand requests, libcurl does not report which of the requests in
 * flight the server has left undone.
 *
 * A POST must not be sent twice behind our back.  libcurl repeats a request by
 * itself when a kept-alive connection turns out to be dead; the prerequisite
 * callback, called before each sending, stops the second one.  It also shows
 * for certain whether a request can have left: NOT_SENT means that the callback
 * never let the request pass.
 *
 * SQLSTATEs: 08001 no connection came about, 08006 it was lost or too slow,
 * HV000 the answer is not acceptable.
 */
#include "postgres.h"

#include <ctype.h>
#include <curl/curl.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/errcodes.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "api/header.h"
#include "api/http.h"
#include "api/request_stats.h"
#include "base/compat.h"
#include "base/steady.h"
#include "traffic/limiter.h"

/* All headers of an answer together may have this many bytes. */
#define HTTP_MAX_HEADERS	(64 * 1024)

/* After an answer of at least this many bytes, memory that malloc() keeps is given back to the system. */
#define HTTP_LARGE			(1024 * 1024)

/*
 * Bytes of unread answers that a background process may hold for each owner of servers; and bytes
 * up to which an answer never waits for that limit.
 */
#define HTTP_AHEAD			((size_t) 16 * 1024 * 1024)

/* What one answer may have in a background process, whatever the owner of the server allows. */
#define HTTP_SHARED_MOST	((size_t) 64 * 1024 * 1024)
#define HTTP_SMALL			((size_t) 64 * 1024)

/* Connections kept open for later requests. */
#define HTTP_MAX_IDLE		1024L

/* Handles kept for later requests. */
#define HTTP_MAX_FREE		64

/* Socket events taken in at a time. */
#define HTTP_MAX_EVENTS		64

/* Bytes of a file of certificates. */
#define HTTP_MAX_CA_FILE	(16 * 1024 * 1024)

/*
 * Seconds after which a connection is not used again.  When a host moves to another
 * address, its old address must become idle at some time.
 */
#define HTTP_MAX_LIFETIME	300L

/* Seconds for which a Retry-After is heeded, at most. */
#define HTTP_MAX_RETRY_AFTER	86400

/* The phase in which a TLS connection is set up. */
#define HTTP_HANDSHAKE		"the TLS handshake"

/* What OpenSSL, whose headers are not needed otherwise, calls X509_V_ERR_... */
#define HTTP_X509_NO_ISSUER				2
#define HTTP_X509_NOT_YET_VALID			9
#define HTTP_X509_EXPIRED				10
#define HTTP_X509_SELF_SIGNED			18
#define HTTP_X509_SELF_SIGNED_IN_CHAIN	19
#define HTTP_X509_NO_ISSUER_HERE		20
#define HTTP_X509_UNVERIFIED			21

#define HTTP_USER_AGENT		"kapture_sync/" KAPTURE_SQL_VERSION

struct KaptureHttpRequest
{
	MemoryContext context;
	MemoryContextCallback callback;
	dlist_node	node;			/* in http_finished, if "queued" */
	bool		queued;
	bool		started;		/* handle is in the multi handle */
	bool		finished;
	void	   *owner;
	bool		fetched;		/* request of a fetch */
	Oid			payer;			/* role whose memory the answer counts for; InvalidOid: not counted */
	uint64		group;			/* group of requests whose answers are read in order; older ones have lower numbers */
	dlist_node	sibling;		/* in http_counted, if "payer" is valid */
	bool		held;			/* reading the answer is paused until there is memory */
	Oid			serverid;
	int			counted_as;		/* KaptureApi, or a module's number */
	int			place;			/* of the limiter */

	CURL	   *easy;
	struct curl_slist *headers;
	bool		is_https;
	bool		loopback_only;
	int64		timeout;		/* milliseconds */
	size_t		max_size;
	size_t		sent_len;		/* of the body that is to be sent */

	/* filled in by callbacks */
	int			sends;			/* times the request was about to be sent */
	char	   *body;			/* malloc'ed */
	size_t		body_len;
	size_t		body_size;
	size_t		header_len;
	bool		too_large;
	bool		no_memory;
	bool		not_loopback;
	bool		out_of_turn;	/* the connection had something to read before the request was sent */
	bool		alone;			/* on a connection of its own */
	curl_socket_t fd;			/* socket of the connection; -1: not known */
	uint64		opened;			/* HttpSocket.opened of that connection, as "fd" may be used again */
	char		error[CURL_ERROR_SIZE];

	KaptureHttpAnswer answer;
};

static CURLM *http_multi = NULL;
static int	http_epoll = -1;
static WaitEventSet *http_events = NULL;
static TimestampTz http_timer = 0;	/* when libcurl wants to be called; 0: not */
static int	http_running = 0;	/* requests in flight */
static dlist_head http_counted = DLIST_STATIC_INIT(http_counted);	/* requests with a payer */
static bool http_any_held = false;	/* may a request of http_counted be held? */
static dlist_head http_finished = DLIST_STATIC_INIT(http_finished);
static bool http_shared = false;	/* do several accounts send from this process? */
static CURL *http_free[HTTP_MAX_FREE];
static int	http_nfree = 0;
static bool http_reuse = false; /* may handles be used again? */

/* ------------------------------------------------------------------------
 * Callbacks from libcurl: no palloc, no ereport
 * ------------------------------------------------------------------------
 */

/*
 * What the epoll set has for a descriptor.  The socket of a connection stays in the
 * set between two requests, asleep, so that using it again costs no system call; it
 * is removed if an event arrives meanwhile, or when libcurl closes it.  (Only sockets
 * of connections stay: libcurl does not report when it closes others.)
 */
typedef struct HttpSocket
{
	bool		connection;		/* opened and closed through our callbacks */
	bool		wanted;			/* libcurl asks for its events */
	uint32		events;			/* events that the set waits for; 0: the socket is not in the set */
	bool		used;			/* a request was sent */
	uint64		opened;			/* number of this socket among all that were opened, from 1 on */
	int			local_port;		/* 0: not known yet */
	int			peer_port;
} HttpSocket;

static HttpSocket *http_sockets = NULL; /* by descriptor; malloc'ed */
static int	http_nsockets = 0;
static uint64 http_nopened = 0;

/* The entry of a descriptor; NULL if there is no memory for one. */
static HttpSocket *
http_socket(curl_socket_t fd)
{
	if (fd >= http_nsockets)
	{
		int			n = Max(fd + 1, http_nsockets * 2);
		HttpSocket *larger = realloc(http_sockets, sizeof(HttpSocket) * n);

		if (larger == NULL)
			return NULL;
		memset(larger + http_nsockets, 0, sizeof(HttpSocket) * (n - http_nsockets));
		http_sockets = larger;
		http_nsockets = n;
	}
	return &http_sockets[fd];
}

/* Makes the epoll set wait for these events; 0 removes the socket from the set. */
static void
http_watch(curl_socket_t fd, HttpSocket *sock, uint32 events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};
	int			op = events == 0 ? EPOLL_CTL_DEL : sock->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;

	if (sock->events != events)
		(void) epoll_ctl(http_epoll, op, fd, &event);
	sock->events = events;
}

/* Keeps the epoll set in line with the sockets libcurl has. */
static int
http_socket_callback(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	HttpSocket *sock = http_socket(fd);

	/*
	 * A failure would have libcurl give up all requests, and call for none of them again.  Without
	 * memory, the socket is not waited for, and its request alone ends, with its time-out.
	 */
	if (sock == NULL)
		return 0;
	sock->wanted = what != CURL_POLL_REMOVE;
	if (sock->wanted)
		http_watch(fd, sock, (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0));
	else if (!sock->connection)
		http_watch(fd, sock, 0);
	return 0;
}

/* Removes all sockets that are asleep, so that a server that closes a connection wakes nobody. */
static void
http_forget_asleep(void)
{
	for (curl_socket_t fd = 0; fd < http_nsockets; fd++)
	{
		if (!http_sockets[fd].wanted)
			http_watch(fd, &http_sockets[fd], 0);
	}
}

static curl_socket_t
http_open_callback(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	curl_socket_t fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
	HttpSocket *sock = fd < 0 ? NULL : http_socket(fd);

	if (fd >= 0 && sock == NULL)
	{
		close(fd);
		return CURL_SOCKET_BAD;
	}
	if (sock)
	{
		memset(sock, 0, sizeof(HttpSocket));
		sock->connection = true;
		sock->opened = ++http_nopened;
	}
	return fd < 0 ? CURL_SOCKET_BAD : fd;
}

static int
http_close_callback(void *arg, curl_socket_t fd)
{
	if (fd < http_nsockets)
		memset(&http_sockets[fd], 0, sizeof(HttpSocket));
	return close(fd);			/* closing removes it from the epoll set */
}

static int
http_timer_callback(CURLM *multi, long timeout, void *arg)
{
	http_timer = timeout < 0 ? 0 : TimestampTzPlusMilliseconds(kapture_steady_now(), timeout);
	return 0;
}

/*
 * May an answer take "more" bytes?  The unread answers of a payer may take HTTP_AHEAD bytes
 * together.  The oldest group is not counted and always goes on, as the others wait for it.
 */
static bool
http_has_room(const KaptureHttpRequest *request, size_t more)
{
	uint64		oldest = request->group;
	size_t		sum = more;
	dlist_iter	iter;

	if (!OidIsValid(request->payer))
		return true;
	dlist_foreach(iter, &http_counted)
	{
		const KaptureHttpRequest *other = dlist_container(KaptureHttpRequest, sibling, iter.cur);

		if (other->payer == request->payer)
			oldest = Min(oldest, other->group);
	}
	if (request->group == oldest)
		return true;
	dlist_foreach(iter, &http_counted)
	{
		const KaptureHttpRequest *other = dlist_container(KaptureHttpRequest, sibling, iter.cur);

		if (other->payer == request->payer && other->group != oldest)
			sum += other->body_size;
	}
	return sum <= HTTP_AHEAD;
}

/* Resumes held answers for which there is room by now. */
static void
http_read_on(void)
{
	Oid			full = InvalidOid;	/* payer without room, whose later requests wait as well */
	dlist_iter	iter;

	if (!http_any_held)
		return;
	http_any_held = false;
	dlist_foreach(iter, &http_counted)
	{
		KaptureHttpRequest *request = dlist_container(KaptureHttpRequest, sibling, iter.cur);

		if (!request->held || request->finished)
			continue;
		if (request->payer == full || !http_has_room(request, Max(request->body_size, HTTP_SMALL)))
		{
			full = request->payer;
			http_any_held = true;
			continue;
		}
		request->held = false;
		(void) curl_easy_pause(request->easy, CURLPAUSE_CONT);
	}
}

static size_t
http_write_callback(char *data, size_t size, size_t nmemb, void *arg)
{
	KaptureHttpRequest *request = arg;
	size_t		len = size * nmemb;

	if (len > request->max_size - request->body_len)
	{
		request->too_large = true;
		return 0;
	}
	if (request->body_len + len > request->body_size)
	{
		size_t		want = Max(request->body_size * 2, request->body_len + len);
		char	   *larger;

		want = Min(Max(want, 4096), request->max_size);
		if (want > HTTP_SMALL && !http_has_room(request, want - request->body_size))
		{
			request->held = http_any_held = true;
			return CURL_WRITEFUNC_PAUSE;
		}
		larger = realloc(request->body, want);
		if (larger == NULL)
		{
			request->no_memory = true;
			return 0;
		}
		request->body = larger;
		request->body_size = want;
	}
	memcpy(request->body + request->body_len, data, len);
	request->body_len += len;
	return len;
}

static size_t
http_header_callback(char *data, size_t size, size_t nmemb, void *arg)
{
	KaptureHttpRequest *request = arg;
	long		status = 0;

	/*
	 * Such an answer may come from the wrong host, the right one having moved: close
	 * the connection, so that the next request connects to its present address.
	 */
	if (size * nmemb > 5 && strncmp(data, "HTTP/", 5) == 0 &&
		curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK &&
		(status >= 500 || status == 401 || status == 403 || status == 404))
		(void) curl_easy_setopt(request->easy, CURLOPT_FORBID_REUSE, 1L);

	request->header_len += size * nmemb;
	if (request->header_len > HTTP_MAX_HEADERS)
	{
		request->too_large = true;
		return 0;
	}
	return size * nmemb;
}

/* Fills in the ports of a connected socket. */
static void
http_learn_ports(curl_socket_t fd, HttpSocket *sock)
{
	struct sockaddr_storage ends[2];
	socklen_t	len[2] = {sizeof(ends[0]), sizeof(ends[1])};
	int			ports[2];

	if (getsockname(fd, (struct sockaddr *) &ends[0], &len[0]) != 0 ||
		getpeername(fd, (struct sockaddr *) &ends[1], &len[1]) != 0)
		return;
	for (int i = 0; i < 2; i++)
		ports[i] = ntohs(ends[i].ss_family == AF_INET6 ?
						 ((struct sockaddr_in6 *) &ends[i])->sin6_port :
						 ((struct sockaddr_in *) &ends[i])->sin_port);
	sock->local_port = ports[0];
	sock->peer_port = ports[1];
}

/* The socket of the connection between these ports; -1 if there is none. */
static curl_socket_t
http_find_socket(int local_port, int peer_port)
{
	for (curl_socket_t fd = 0; fd < http_nsockets; fd++)
	{
		HttpSocket *sock = &http_sockets[fd];

		if (!sock->connection)
			continue;
		if (sock->local_port == 0)
			http_learn_ports(fd, sock);
		if (sock->local_port == local_port && sock->peer_port == peer_port)
			return fd;
	}
	return -1;
}

/*
 * Does the connection on which a request is about to be sent have something to read,
 * if only its end?  With TLS, a new connection may have session tickets to read; a
 * used one has nothing.
 */
static bool
http_is_out_of_turn(KaptureHttpRequest *request, int local_port, int peer_port)
{
	HttpSocket *sock;
	bool		fresh;
	char		byte;
	ssize_t		n;

	request->fd = http_find_socket(local_port, peer_port);
	if (request->fd < 0)
		return false;
	sock = &http_sockets[request->fd];
	request->opened = sock->opened;
	fresh = !sock->used;
	sock->used = true;
	if (fresh && request->is_https)
		return false;
	n = recv(request->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
	return n > 0 || (n == 0 && !fresh);
}

/* Called when the connection is established and the request is about to be sent. */
static int
http_prereq_callback(void *arg, char *peer, char *local, int peer_port, int local_port)
{
	KaptureHttpRequest *request = arg;

	if (request->loopback_only &&
		strncmp(peer, "127.", 4) != 0 && strcmp(peer, "::1") != 0 &&
		strncmp(peer, "::ffff:127.", 11) != 0)
	{
		request->not_loopback = true;
		return CURL_PREREQFUNC_ABORT;
	}
	if (request->sends == 0 && http_is_out_of_turn(request, local_port, peer_port))
	{
		request->out_of_turn = true;
		return CURL_PREREQFUNC_ABORT;
	}
	return ++request->sends > 1 ? CURL_PREREQFUNC_ABORT : CURL_PREREQFUNC_OK;
}

/* ------------------------------------------------------------------------
 * Set-up
 * ------------------------------------------------------------------------
 */

static sigset_t
http_block_signals(void)
{
	sigset_t	all;
	sigset_t	old;

	sigfillset(&all);
	(void) pthread_sigmask(SIG_SETMASK, &all, &old);
	return old;
}

static void
http_restore_signals(sigset_t old)
{
	(void) pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/*
 * How many connections there may be.  Each takes a file descriptor, of which a process
 * has a limited number; PostgreSQL must find some left, even for its log.
 */
static int
http_most(void)
{
	return Max(max_safe_fds / 3, 8);
}

/*
 * What libcurl has no memory for is tried again later, as whatever PostgreSQL has none for: it
 * says nothing about a row or a server.
 */
static void
http_fail_memory(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("libcurl failed: %s.", what)));
}

static void
http_fail_setup(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_FDW_ERROR),
			 errmsg("could not set up libcurl: %s", what)));
}

static void
http_initialize(void)
{
	sigset_t	old;
	CURLM	   *multi;

	if (http_multi)
		return;

	if (http_epoll < 0)
	{
		http_epoll = epoll_create1(EPOLL_CLOEXEC);
		if (http_epoll < 0)
			ereport(ERROR,
					(errcode_for_file_access(), /* which knows that descriptors can run out */
					 errmsg("%s failed: %m", "epoll_create1()")));
		ReserveExternalFD();
	}
	if (http_events == NULL)
	{
		http_events = CreateWaitEventSet(NULL, 3);
		AddWaitEventToSet(http_events, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
		/* a single-user server has no postmaster */
		if (IsUnderPostmaster)
			AddWaitEventToSet(http_events, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
		AddWaitEventToSet(http_events, WL_SOCKET_READABLE, http_epoll, NULL, NULL);
	}

	old = http_block_signals();
	multi = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? curl_multi_init() : NULL;

	/*
	 * Before 8.0, a handle that is used again keeps a pointer to the freed
	 * headers of its last answer, and follows it if the next answer begins
	 * with a folded header.
	 */
	http_reuse = curl_version_info(CURLVERSION_NOW)->version_num >= 0x080000;
	if (multi)
	{
		curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, http_socket_callback);
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, http_timer_callback);
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, Min(HTTP_MAX_IDLE, (long) http_most()));
	}
	http_restore_signals(old);
	if (multi == NULL)
		http_fail_memory("curl_multi_init()");
	http_multi = multi;
}

/* ------------------------------------------------------------------------
 * Requests
 * ------------------------------------------------------------------------
 */

static void
http_release_place(KaptureHttpRequest *request)
{
	kapture_limiter_release(request->place);
	request->place = KAPTURE_LIMITER_NONE;
}

/* Called when the context of a request is deleted: gives back what libcurl and malloc hold. */
static void
http_reset_callback(void *arg)
{
	KaptureHttpRequest *request = arg;
	sigset_t	old = http_block_signals();

	if (request->easy)
	{
		if (request->started)
		{
			curl_multi_remove_handle(http_multi, request->easy);
			if (!request->finished)
				http_running--;
		}
		if (http_reuse && http_nfree < HTTP_MAX_FREE)
		{
			curl_easy_reset(request->easy);
			http_free[http_nfree++] = request->easy;
		}
		else
			curl_easy_cleanup(request->easy);
	}
	curl_slist_free_all(request->headers);
	free(request->body);
#ifdef __GLIBC__
	/* once a large block is freed, glibc keeps the next one of its size */
	if (request->body_size >= HTTP_LARGE)
		(void) malloc_trim(0);
#endif
	http_restore_signals(old);
	if (request->queued)
		dlist_delete(&request->node);
	if (OidIsValid(request->payer))
		dlist_delete(&request->sibling);
	http_release_place(request);
}

/* The compression that answers may have; NULL: none. */
static const char *
http_encoding(void)
{
	static const char *encoding = NULL;
	static bool asked = false;

	if (!asked && curl_version_info(CURLVERSION_NOW)->features & CURL_VERSION_LIBZ)
		encoding = "gzip";
	asked = true;
	return encoding;
}

static void
http_append_header(KaptureHttpRequest *request, const char *header)
{
	struct curl_slist *list = curl_slist_append(request->headers, header);

	if (list == NULL)
		http_fail_memory("curl_slist_append()");
	request->headers = list;
}

static void
http_make_headers(KaptureHttpRequest *request, const KaptureServer *server, KaptureApi api)
{
	http_append_header(request, "Content-Type: application/json");
	http_append_header(request, "Accept: application/json");
	http_append_header(request, "Expect:");
	if (server->auth_key[api])
	{
		char	   *header = psprintf("Authorization: Basic %s", server->auth_key[api]);

		http_append_header(request, header);
		explicit_bzero(header, strlen(header));
	}
	for (char **header = server->headers[api]; header && *header; header++)
		http_append_header(request, *header);
}

/* The first line of a certificate in PEM format ends like this. */
#define HTTP_CERTIFICATE	"CERTIFICATE-----"

/* Has an open file of moderate size a certificate in it? */
static bool
http_has_certificate(int fd)
{
	char		buf[8192 + sizeof(HTTP_CERTIFICATE)];
	size_t		len = 0;
	ssize_t		n;

	while ((n = read(fd, buf + len, 8192)) > 0)
	{
		size_t		kept;

		len += n;
		buf[len] = '\0';
		for (size_t i = 0; i < len; i++)
		{
			if (strncmp(buf + i, HTTP_CERTIFICATE, strlen(HTTP_CERTIFICATE)) == 0)
				return true;
		}
		/* the line may continue in the next block */
		kept = Min(len, strlen(HTTP_CERTIFICATE) - 1);
		memmove(buf, buf + len - kept, kept);
		len = kept;
	}
	return false;
}

/*
 * libcurl reads the file of certificates while signals are blocked: a pipe in
 * its place would hold up the process for good, even a shutdown.  And users who
 * may create servers must not find out which files exist: every path that is not a
 * file of certificates gets the same error.
 */
static void
http_check_ca_file(const char *path)
{
	struct stat st;
	bool		ok = stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= HTTP_MAX_CA_FILE;
	int			fd = ok ? OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY) : -1;

	ok = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && http_has_certificate(fd);
	if (fd >= 0)
		CloseTransientFile(fd);
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", "ca_file", path),
				 errdetail("There is no file of certificates in PEM format, of at most %d MB, that the server can read.",
						   HTTP_MAX_CA_FILE / (1024 * 1024)),
				 errhint("Name a file on the database's host that its user can read, or drop the option to trust whom the system trusts.")));
}

static void
http_fail_option(CURLcode rc, const char *option)
{
	if (rc == CURLE_OUT_OF_MEMORY)
		http_fail_memory(option);
	http_fail_setup(option);
}

#define HTTP_SET(option, value) \
	do { \
		CURLcode	rc = curl_easy_setopt(request->easy, option, value); \
		if (rc != CURLE_OK) \
			http_fail_option(rc, #option); \
	} while (0)

static void
http_set_options(KaptureHttpRequest *request, const KaptureServer *server, KaptureApi api,
				 const char *body, size_t body_len)
{
	HTTP_SET(CURLOPT_URL, server->url[api]);
	HTTP_SET(CURLOPT_POST, 1L);
	HTTP_SET(CURLOPT_POSTFIELDS, body);
	HTTP_SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) body_len);
	HTTP_SET(CURLOPT_HTTPHEADER, request->headers);
	HTTP_SET(CURLOPT_USERAGENT, HTTP_USER_AGENT);
	if (server->auth_key[api] == NULL)
	{
		HTTP_SET(CURLOPT_HTTPAUTH, CURLAUTH_BASIC);
		HTTP_SET(CURLOPT_USERNAME, server->user);
		HTTP_SET(CURLOPT_PASSWORD, server->password);
	}
	HTTP_SET(CURLOPT_PROTOCOLS_STR, "http,https");
	HTTP_SET(CURLOPT_FOLLOWLOCATION, 0L);
	HTTP_SET(CURLOPT_PROXY, "");
	HTTP_SET(CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
	HTTP_SET(CURLOPT_ACCEPT_ENCODING, http_encoding());
	HTTP_SET(CURLOPT_MAXLIFETIME_CONN, HTTP_MAX_LIFETIME);
	HTTP_SET(CURLOPT_SSL_VERIFYPEER, 1L);
	HTTP_SET(CURLOPT_SSL_VERIFYHOST, 2L);
	HTTP_SET(CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2);
	if (server->ca_file)
	{
		http_check_ca_file(server->ca_file);
		HTTP_SET(CURLOPT_CAINFO, server->ca_file);
	}
	HTTP_SET(CURLOPT_CONNECTTIMEOUT_MS, (long) server->connect_timeout);
	HTTP_SET(CURLOPT_TIMEOUT_MS, (long) server->timeout);
	HTTP_SET(CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
	/* a request that is given up does not wait for a pending name lookup */
	HTTP_SET(CURLOPT_QUICK_EXIT, 1L);
#endif
	HTTP_SET(CURLOPT_ERRORBUFFER, request->error);
	HTTP_SET(CURLOPT_PRIVATE, request);
	HTTP_SET(CURLOPT_WRITEFUNCTION, http_write_callback);
	HTTP_SET(CURLOPT_WRITEDATA, request);
	HTTP_SET(CURLOPT_HEADERFUNCTION, http_header_callback);
	HTTP_SET(CURLOPT_HEADERDATA, request);
	HTTP_SET(CURLOPT_PREREQFUNCTION, http_prereq_callback);
	HTTP_SET(CURLOPT_PREREQDATA, request);
	HTTP_SET(CURLOPT_OPENSOCKETFUNCTION, http_open_callback);
	HTTP_SET(CURLOPT_CLOSESOCKETFUNCTION, http_close_callback);
}

static KaptureHttpRequest *
http_start(const KaptureServer *server, KaptureApi api,
		   const char *body, size_t body_len, void *owner)
{
	MemoryContext context;
	MemoryContext old;
	KaptureHttpRequest *request;
	char	   *copy;
	sigset_t	signals;
	CURLMcode	rc;

	kapture_server_require_key(server, api);
	http_initialize();

	context = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync request",
									ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(context);
	request = palloc0(sizeof(KaptureHttpRequest));
	request->place = KAPTURE_LIMITER_NONE;
	request->context = context;
	request->callback.func = http_reset_callback;
	request->callback.arg = request;
	MemoryContextRegisterResetCallback(context, &request->callback);
	request->owner = owner;
	request->serverid = server->serverid;
	request->counted_as = api == KAPTURE_API_MODULE ? server->counted_as : (int) api;
	request->is_https = pg_strncasecmp(server->url[api], "https://", 8) == 0;
	request->loopback_only = !server->allow_http && pg_strncasecmp(server->url[api], "http://", 7) == 0;
	request->fd = -1;
	request->timeout = server->timeout;
	request->max_size = server->max_response_size;
	if (AmBackgroundWorkerProcess())
		request->max_size = Min(request->max_size, HTTP_SHARED_MOST);
	request->sent_len = body_len;
	copy = palloc(body_len + 1);
	memcpy(copy, body, body_len);
	copy[body_len] = '\0';

	request->easy = http_nfree > 0 ? http_free[--http_nfree] : curl_easy_init();
	if (request->easy == NULL)
		http_fail_memory("curl_easy_init()");
	http_make_headers(request, server, api);
	http_set_options(request, server, api, copy, body_len);

	signals = http_block_signals();
	rc = curl_multi_add_handle(http_multi, request->easy);
	http_restore_signals(signals);
	if (rc == CURLM_OUT_OF_MEMORY)
		http_fail_memory("curl_multi_add_handle()");
	if (rc != CURLM_OK)
		http_fail_setup(curl_multi_strerror(rc));
	request->started = true;
	http_running++;
	MemoryContextSwitchTo(old);
	return request;
}

/*
 * Sets whether the process sends to several accounts, which then share its
 * connections; by default it does not.
 */
void
kapture_http_share(bool shared)
{
	http_shared = shared;
}

/*
 * Returns how many requests a server, or an owner, may have in flight, given the
 * process's connections.  If several accounts share these, each must leave as many
 * free as it has, and the last ones are for accounts that have none.
 */
int
kapture_http_room(void)
{
	int			room = Max(http_most() - http_running, 0);

	if (!http_shared && room > 0)
		return http_most() - http_most() / 4;
	return Max(room - http_most() / 4, Min(room, 1));
}

/*
 * Starts a POST of "body" (UTF-8 JSON) to one of a server's APIs, if the
 * options max_connections and rate_limit allow one more now.  Returns NULL if
 * they do not; then *when is the latest time to try again, and the latch may be
 * set earlier.
 *
 * The request lives in a context of its own below the current one; body is
 * copied.  "owner" is handed back by kapture_http_owner().  Errors: no key for
 * the API, a ca_file that cannot be one, no memory.  Does not wait.
 */
KaptureHttpRequest *
kapture_http_start(const KaptureServer *server, KaptureApi api,
				   const char *body, size_t body_len, void *owner, TimestampTz *when)
{
	int			place = kapture_limiter_take(server->serverid, server->owner, Min(server->max_connections, kapture_http_room()),
										 server->rate_limit, server->timeout, when);
	KaptureHttpRequest *request = NULL;

	if (place == KAPTURE_LIMITER_NONE)
		return NULL;
	PG_TRY();
	{
		request = http_start(server, api, body, body_len, owner);
	}
	PG_CATCH();
	{
		kapture_limiter_release(place);
		PG_RE_THROW();
	}
	PG_END_TRY();
	request->place = place;
	return request;
}

/*
 * Makes a request that was just started open a connection of its own, to the host's
 * present address: an existing connection may lead to a former one.  The connection is
 * closed afterwards: each retry would leave one more than max_connections in the cache.
 */
void
kapture_http_connect_anew(KaptureHttpRequest *request)
{
	HTTP_SET(CURLOPT_FRESH_CONNECT, 1L);
	HTTP_SET(CURLOPT_FORBID_REUSE, 1L);
	HTTP_SET(CURLOPT_DNS_CACHE_TIMEOUT, 0L);
	request->alone = true;
}

/*
 * Keeps the connection of a finished request from being used again, as it brought
 * the answer to another request.
 */
void
kapture_http_distrust(KaptureHttpRequest *request)
{
	curl_socket_t fd = request->fd;
	char		rest[4096];

	if (fd < 0 || fd >= http_nsockets || !http_sockets[fd].connection ||
		http_sockets[fd].opened != request->opened)
		return;
	/* libcurl takes a connection at its end for dead */
	(void) shutdown(fd, SHUT_RDWR);
	while (recv(fd, rest, sizeof(rest), MSG_DONTWAIT) > 0)
		;
}

/*
 * Forgets a request.  If it is in flight, its connection is closed.
 */
void
kapture_http_release(KaptureHttpRequest *request)
{
	MemoryContextDelete(request->context);
}

/*
 * Marks a request that was just started as one of a fetch: only
 * kapture_http_next_fetched() returns such requests.  Users' code that runs while
 * the worker has requests in flight may fetch, and must not take their answers.
 */
void
kapture_http_belongs_to_fetch(KaptureHttpRequest *request)
{
	request->fetched = true;
}

/*
 * Is a descriptor the socket of a connection of ours?  For a signal handler, while none of this file runs.
 */
bool
kapture_http_has_socket(int fd)
{
	return fd >= 0 && fd < http_nsockets && http_sockets[fd].connection;
}

/*
 * In a background process, counts the answer to a request that was just started for a payer, as
 * one of a group; older groups have lower numbers.
 */
void
kapture_http_count(KaptureHttpRequest *request, Oid payer, uint64 group)
{
	if (!AmBackgroundWorkerProcess())
		return;
	request->payer = payer;
	request->group = group;
	dlist_push_tail(&http_counted, &request->sibling);
}

/*
 * As kapture_http_count(), for a request without a group.  A payer must not have such requests
 * and groups at the same time.
 */
void
kapture_http_count_alone(KaptureHttpRequest *request, Oid payer)
{
	static uint64 last = 0;

	kapture_http_count(request, payer, ++last);
}

/*
 * Returns a request's owner.
 */
void *
kapture_http_owner(KaptureHttpRequest *request)
{
	return request->owner;
}

/* ------------------------------------------------------------------------
 * Answers
 * ------------------------------------------------------------------------
 */

static int64
http_info(KaptureHttpRequest *request, CURLINFO info)
{
	curl_off_t	value = 0;

	(void) curl_easy_getinfo(request->easy, info, &value);
	return value;
}

/* How far a failed request came. */
static const char *
http_phase(KaptureHttpRequest *request, CURLcode code)
{
	if (request->out_of_turn)
		return "sending the request";
	switch (code)
	{
		case CURLE_COULDNT_RESOLVE_HOST:
			return "resolving the host name";
		case CURLE_COULDNT_CONNECT:
			return "connecting";
		case CURLE_SSL_CONNECT_ERROR:
		case CURLE_PEER_FAILED_VERIFICATION:
		case CURLE_SSL_CERTPROBLEM:
		case CURLE_SSL_CIPHER:
		case CURLE_SSL_CACERT_BADFILE:
		case CURLE_SSL_ISSUER_ERROR:
			return HTTP_HANDSHAKE;
		default:
			break;
	}
	if (request->sends > 0)
	{
		if (request->header_len == 0 &&
			(code == CURLE_SEND_ERROR ||
			 (code == CURLE_OPERATION_TIMEDOUT && http_info(request, CURLINFO_SIZE_UPLOAD_T) < request->sent_len)))
			return "sending the request";
		return request->header_len > 0 || http_info(request, CURLINFO_STARTTRANSFER_TIME_T) > 0 ?
			"reading the answer" : "waiting for the answer";
	}
	if (strncmp(request->error, "SSL ", 4) == 0)
		return HTTP_HANDSHAKE;
	if (http_info(request, CURLINFO_NAMELOOKUP_TIME_T) == 0)
		return "resolving the host name";
	if (http_info(request, CURLINFO_CONNECT_TIME_T) == 0)
		return "connecting";
	return HTTP_HANDSHAKE;
}

/*
 * Why there is no TLS connection: libcurl has OpenSSL's result of verifying the
 * certificate (1: not verified at all), but only words for all else.
 */
static KaptureTlsFault
http_tls_fault(KaptureHttpRequest *request, CURLcode code)
{
	static const char *const foreign[] = {"wrong version number", "packet length too long", "record layer"};
	long		verified = 0;

	if (code != CURLE_PEER_FAILED_VERIFICATION)
	{
		for (int i = 0; i < lengthof(foreign); i++)
		{
			if (strstr(request->error, foreign[i]))
				return KAPTURE_TLS_NO_TLS;
		}
		return KAPTURE_TLS_OTHER;
	}
	(void) curl_easy_getinfo(request->easy, CURLINFO_SSL_VERIFYRESULT, &verified);
	switch (verified)
	{
		case 0:
		case 1:
			return KAPTURE_TLS_OTHER_HOST;
		case HTTP_X509_NOT_YET_VALID:
			return KAPTURE_TLS_NOT_YET_VALID;
		case HTTP_X509_EXPIRED:
			return KAPTURE_TLS_EXPIRED;
		case HTTP_X509_NO_ISSUER:
		case HTTP_X509_SELF_SIGNED:
		case HTTP_X509_SELF_SIGNED_IN_CHAIN:
		case HTTP_X509_NO_ISSUER_HERE:
		case HTTP_X509_UNVERIFIED:
			return KAPTURE_TLS_UNTRUSTED;
		default:
			return KAPTURE_TLS_CERTIFICATE;
	}
}

/* Fills in the answer of a request that failed. */
static void
http_explain(KaptureHttpRequest *request, CURLcode code)
{
	KaptureHttpAnswer *answer = &request->answer;

	answer->outcome = request->sends > 0 ? KAPTURE_HTTP_IN_DOUBT : KAPTURE_HTTP_NOT_SENT;
	answer->phase = http_phase(request, code);
	answer->detail = request->error[0] ? request->error : curl_easy_strerror(code);
	answer->sqlstate = request->sends > 0 ? ERRCODE_CONNECTION_FAILURE :
		ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION;

	if (request->too_large)
	{
		bool		headers = request->header_len > HTTP_MAX_HEADERS;
		bool		shared = AmBackgroundWorkerProcess() && request->max_size == HTTP_SHARED_MOST;

		answer->option = headers || shared ? NULL : "max_response_size";
		answer->detail = headers ? "the answer's headers are too large" :
			shared ? "the answer has more than the 64 MB that a background process takes" : "the answer is too large";
		answer->sqlstate = ERRCODE_FDW_ERROR;
	}
	else if (code == CURLE_OUT_OF_MEMORY && request->sends > 0 && request->body_len == 0)
	{
		/* libcurl also returns this code for a header that is too long for it */
		answer->detail = "a header of the answer is too long, or out of memory";
		answer->sqlstate = ERRCODE_FDW_ERROR;
	}
	else if (request->no_memory)
	{
		answer->detail = "out of memory";
		answer->sqlstate = ERRCODE_FDW_OUT_OF_MEMORY;
	}
	else if (request->not_loopback)
	{
		answer->option = "allow_http";
		answer->detail = "plain http to another host is not allowed";
	}
	else if (request->out_of_turn)
		answer->detail = "the server talks before it is asked";
	else if (code == CURLE_ABORTED_BY_CALLBACK && request->sends > 1)
		answer->detail = "the server closed the connection";
	else if (code == CURLE_OPERATION_TIMEDOUT)
		answer->option = request->sends == 0 && answer->elapsed < request->timeout * 1000 ?
			"connect_timeout" : "timeout";
	else if (code == CURLE_SSL_CACERT_BADFILE)
		answer->option = "ca_file";
	else if (answer->outcome == KAPTURE_HTTP_NOT_SENT && strcmp(answer->phase, HTTP_HANDSHAKE) == 0)
		answer->tls = http_tls_fault(request, code);
}

/* A time in a header of the answer, in seconds since 1970; -1 if it has none. */
static int64
http_header_date(KaptureHttpRequest *request, const char *name)
{
	struct curl_header *header;

	if (curl_easy_header(request->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
		return -1;
	return (int64) curl_getdate(header->value, NULL);
}

/*
 * How many milliseconds to wait before the next request, as the server wants it; -1
 * if it does not say.  A time is read by the server's own clock, which may be wrong.
 */
static int64
http_retry_after(KaptureHttpRequest *request)
{
	struct curl_header *header;
	int64		seconds;

	if (curl_easy_header(request->easy, "Retry-After", 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
		return -1;
	if (isdigit((unsigned char) header->value[0]))
		seconds = strtoll(header->value, NULL, 10); /* the largest number, if it is out of range */
	else
	{
		int64		until = http_header_date(request, "Retry-After");
		int64		now = http_header_date(request, "Date");

		if (until < 0)
			return -1;
		seconds = until - (now < 0 ? (int64) time(NULL) : now);
	}
	return seconds > 0 ? Min(seconds, HTTP_MAX_RETRY_AFTER) * 1000 : -1;
}

/*
 * Starts a request again on a connection of its own, if it was not sent because
 * the first connection had something to read.  False: it has ended.
 */
static bool
http_start_again(KaptureHttpRequest *request)
{
	if (!request->out_of_turn || request->alone || request->sends > 0)
		return false;
	request->out_of_turn = false;
	request->alone = true;
	request->error[0] = '\0';
	curl_multi_remove_handle(http_multi, request->easy);
	if (curl_easy_setopt(request->easy, CURLOPT_FRESH_CONNECT, 1L) != CURLE_OK ||
		curl_multi_add_handle(http_multi, request->easy) != CURLM_OK)
	{
		/* http_finish() reports it; the handle is no longer in the multi handle */
		request->started = false;
		request->no_memory = true;
		return false;
	}
	return true;
}

/* Notes the end of a request. */
static void
http_finish(KaptureHttpRequest *request, CURLcode code)
{
	KaptureHttpAnswer *answer = &request->answer;
	long		status = 0;

	(void) curl_easy_getinfo(request->easy, CURLINFO_RESPONSE_CODE, &status);
	answer->status = (int) status;
	answer->elapsed = http_info(request, CURLINFO_TOTAL_TIME_T);
	answer->retry_after = http_retry_after(request);
	if (code == CURLE_OK)
	{
		answer->outcome = KAPTURE_HTTP_ANSWERED;
		answer->body = request->body ? request->body : "";
		answer->body_len = request->body_len;
	}
	else
		http_explain(request, code);
	kapture_counter_add(request->serverid, request->counted_as, code == CURLE_OK ? answer->status : 0,
						answer->elapsed);

	request->finished = true;
	http_release_place(request);
	http_running--;
	dlist_push_tail(&http_finished, &request->node);
	request->queued = true;
}

/* Lets libcurl act on events, and takes in the requests that have ended. */
static void
http_act(bool network)
{
	struct epoll_event events[HTTP_MAX_EVENTS];
	int			n = network ? epoll_wait(http_epoll, events, HTTP_MAX_EVENTS, 0) : 0;
	sigset_t	old = http_block_signals();
	int			running;
	CURLMsg    *msg;

	http_read_on();
	for (int i = 0; i < n; i++)
	{
		HttpSocket *sock = &http_sockets[events[i].data.fd];
		int			mask = 0;

		if (!sock->wanted)
		{
			/* closed, or data out of turn: noticed before the connection is used again */
			http_watch(events[i].data.fd, sock, 0);
			continue;
		}
		if (events[i].events & (EPOLLIN | EPOLLHUP))
			mask |= CURL_CSELECT_IN;
		if (events[i].events & EPOLLOUT)
			mask |= CURL_CSELECT_OUT;
		if (events[i].events & EPOLLERR)
			mask |= CURL_CSELECT_ERR;
		(void) curl_multi_socket_action(http_multi, events[i].data.fd, mask, &running);
	}
	if (http_timer != 0 && http_timer <= kapture_steady_now())
	{
		http_timer = 0;
		(void) curl_multi_socket_action(http_multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	while ((msg = curl_multi_info_read(http_multi, &running)) != NULL)
	{
		KaptureHttpRequest *request;

		if (msg->msg == CURLMSG_DONE &&
			curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **) &request) == CURLE_OK)
		{
			CURLcode	code = msg->data.result;

			if (!http_start_again(request))
				http_finish(request, code);
		}
	}
	http_restore_signals(old);
}

/*
 * Waits for the network, the latch, libcurl's timer or the deadline (by the steady
 * clock), once, and lets libcurl act.  Returns whether the latch was set.  Serves interrupts.
 */
static bool
http_step(TimestampTz deadline, uint32 wait_event)
{
	WaitEvent	events[3];
	TimestampTz next = http_timer ? Min(http_timer, deadline) : deadline;
	long		wait = -1;
	bool		network = false;
	bool		latch = false;
	int			n;

	if (next != DT_NOEND)
		wait = TimestampDifferenceMilliseconds(kapture_steady_now(), next);
	n = WaitEventSetWait(http_events, wait, events, lengthof(events), wait_event);
	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			latch = true;
		if (events[i].events & WL_SOCKET_READABLE)
			network = true;
	}
	if (latch)
	{
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	/* a set latch hides network events: if it is set each time, answers would never come in */
	http_act(network || latch);
	return latch;
}

/*
 * As kapture_http_start(), but waits until the request may start.  Serves
 * interrupts.
 */
KaptureHttpRequest *
kapture_http_start_in_turn(const KaptureServer *server, KaptureApi api,
						   const char *body, size_t body_len, uint32 wait_event)
{
	KaptureHttpRequest *request;
	TimestampTz when;

	http_initialize();
	while ((request = kapture_http_start(server, api, body, body_len, NULL, &when)) == NULL)
	{
		CHECK_FOR_INTERRUPTS();
		(void) http_step(kapture_steady_at(when), wait_event);
	}
	return request;
}

/*
 * Sends the requests that were just started now, not with the next wait.
 */
void
kapture_http_push(void)
{
	if (http_timer != 0)
		http_act(false);
}

/*
 * As kapture_http_push(), and reads what has arrived meanwhile: for callers that are busy with
 * answers while the connections of other requests wait.  A request must have been started
 * before.
 */
void
kapture_http_serve(void)
{
	http_act(true);
}

/* The first finished request that is, or with !fetched is not, one of a fetch; NULL if there is none. */
static KaptureHttpRequest *
http_first_finished(bool fetched)
{
	dlist_iter	iter;

	dlist_foreach(iter, &http_finished)
	{
		KaptureHttpRequest *request = dlist_container(KaptureHttpRequest, node, iter.cur);

		if (request->fetched == fetched)
			return request;
	}
	return NULL;
}

static bool
http_any_finished(bool only_fetched)
{
	return only_fetched ? http_first_finished(true) != NULL : !dlist_is_empty(&http_finished);
}

static bool
http_wait(long timeout, bool only_fetched, uint32 wait_event)
{
	TimestampTz deadline = timeout < 0 ? DT_NOEND :
		TimestampTzPlusMilliseconds(kapture_steady_now(), timeout);

	http_initialize();
	if (http_running == 0)
		http_forget_asleep();
	while (!http_any_finished(only_fetched))
	{
		bool		latch = http_step(deadline, wait_event);

		if (!http_any_finished(only_fetched) && (latch || deadline <= kapture_steady_now()))
			return false;
	}
	return true;
}

/*
 * Waits until a request has finished (true), or until the latch is set or
 * "timeout" (milliseconds, -1: none) is over (false).  Serves interrupts.
 */
bool
kapture_http_wait(long timeout, uint32 wait_event)
{
	return http_wait(timeout, false, wait_event);
}

/*
 * As kapture_http_wait(), for a request of a fetch.
 */
bool
kapture_http_wait_fetched(long timeout, uint32 wait_event)
{
	return http_wait(timeout, true, wait_event);
}

/* Takes a finished request out of the list of those to return. */
static void
http_take(KaptureHttpRequest *request)
{
	if (request->queued)
		dlist_delete(&request->node);
	request->queued = false;
}

static KaptureHttpRequest *
http_take_finished(bool fetched)
{
	KaptureHttpRequest *request = http_first_finished(fetched);

	if (request)
		http_take(request);
	return request;
}

/*
 * Returns a request that has finished, other than those of fetches, each one
 * once; NULL if there is none.
 */
KaptureHttpRequest *
kapture_http_next_finished(void)
{
	return http_take_finished(false);
}

/*
 * Returns a request of a fetch that has finished, each one once; NULL if there is none.
 */
KaptureHttpRequest *
kapture_http_next_fetched(void)
{
	return http_take_finished(true);
}

/*
 * Returns the answer of a finished request; it lives as long as the request.
 */
const KaptureHttpAnswer *
kapture_http_answer(KaptureHttpRequest *request)
{
	Assert(request->finished);
	return &request->answer;
}

/*
 * Waits for one request and returns its answer.  Serves interrupts; other requests that
 * finish meanwhile stay in the list of those to return.
 */
const KaptureHttpAnswer *
kapture_http_perform(KaptureHttpRequest *request, uint32 wait_event)
{
	/* libcurl wants to start with what was just added */
	http_act(false);
	while (!request->finished)
		(void) http_step(DT_NOEND, wait_event);
	http_take(request);
	return &request->answer;
}

/* The first request of an owner that has finished. */
static KaptureHttpRequest *
http_first_owned(const void *owner)
{
	dlist_iter	iter;

	dlist_foreach(iter, &http_finished)
	{
		KaptureHttpRequest *request = dlist_container(KaptureHttpRequest, node, iter.cur);

		if (request->owner == owner)
			return request;
	}
	return NULL;
}

/*
 * Waits for a request of an owner, whichever finishes first, and returns it; NULL if none
 * does by "deadline", or if there is a deadline and the latch is set before it.  Serves
 * interrupts; requests of other owners are left alone.
 */
KaptureHttpRequest *
kapture_http_perform_first(const void *owner, TimestampTz deadline, uint32 wait_event)
{
	KaptureHttpRequest *request;

	deadline = kapture_steady_at(deadline);
	/* libcurl wants to start with what was just added */
	http_act(false);
	while ((request = http_first_owned(owner)) == NULL)
	{
		bool		latch;

		if (deadline <= kapture_steady_now())
			return NULL;
		latch = http_step(deadline, wait_event);
		if (latch && deadline != DT_NOEND && http_first_owned(owner) == NULL)
			return NULL;
	}
	http_take(request);
	return request;
}

/*
 * Waits until "when", or until the latch is set, letting requests go on.  Serves
 * interrupts.
 */
void
kapture_http_sleep_until(TimestampTz when, uint32 wait_event)
{
	TimestampTz deadline = kapture_steady_at(when);

	http_initialize();
	while (deadline > kapture_steady_now() && !http_step(deadline, wait_event))
		 /* go on */ ;
}

/* ------------------------------------------------------------------------
 * Looking closely: for kapture_check() and kapture_preview()
 * ------------------------------------------------------------------------
 */

/*
 * Makes a request that was just started report all phases: it opens a connection
 * of its own, with a whole TLS handshake, instead of using an existing one.
 */
void
kapture_http_inspect(KaptureHttpRequest *request)
{
	kapture_http_connect_anew(request);
	HTTP_SET(CURLOPT_SSL_SESSIONID_CACHE, 0L);
	HTTP_SET(CURLOPT_CERTINFO, 1L);
}

/* When the server's own certificate expires, as libcurl writes it; or NULL. */
static char *
http_certificate_expires(KaptureHttpRequest *request)
{
	static const char label[] = "Expire date:";
	struct curl_certinfo *info = NULL;

	if (curl_easy_getinfo(request->easy, CURLINFO_CERTINFO, &info) != CURLE_OK ||
		info == NULL || info->num_of_certs == 0)
		return NULL;
	for (struct curl_slist *line = info->certinfo[0]; line; line = line->next)
	{
		if (strncmp(line->data, label, sizeof(label) - 1) == 0)
			return pstrdup(line->data + sizeof(label) - 1);
	}
	return NULL;
}

/*
 * Fills in the details of a finished request that was inspected.  The texts live as
 * long as the request or the current memory context, whichever ends first.
 */
void
kapture_http_details(KaptureHttpRequest *request, KaptureHttpDetails *details)
{
	char	   *peer = NULL;
	long		port = 0;

	(void) curl_easy_getinfo(request->easy, CURLINFO_PRIMARY_IP, &peer);
	(void) curl_easy_getinfo(request->easy, CURLINFO_PRIMARY_PORT, &port);
	details->peer = peer ? peer : "";
	details->port = (int) port;
	details->resolved = http_info(request, CURLINFO_NAMELOOKUP_TIME_T);
	details->connected = http_info(request, CURLINFO_CONNECT_TIME_T);
	details->secured = http_info(request, CURLINFO_APPCONNECT_TIME_T);
	details->expires = http_certificate_expires(request);
	details->date = http_header_date(request, "Date");
}

/* Is this line in the list, which may be NULL? */
static bool
http_is_among(char **lines, const char *line)
{
	for (; lines && *lines; lines++)
	{
		if (*lines == line)
			return true;
	}
	return false;
}

/*
 * Returns the header lines (char *, in the current memory context) of requests
 * to one of a server's APIs, with stars in place of values that may be secrets.
 */
List *
kapture_http_describe(const KaptureServer *server, KaptureApi api)
{
	List	   *lines = NIL;

	lines = lappend(lines, pstrdup("Authorization: Basic ***"));
	lines = lappend(lines, pstrdup("User-Agent: " HTTP_USER_AGENT));
	if (http_encoding())
		lines = lappend(lines, psprintf("Accept-Encoding: %s", http_encoding()));
	lines = lappend(lines, pstrdup("Content-Type: application/json"));
	lines = lappend(lines, pstrdup("Accept: application/json"));
	for (char **header = server->headers[api]; header && *header; header++)
		lines = lappend(lines, kapture_header_is_secret(*header) || http_is_among(server->secret_headers[api], *header) ?
						psprintf("%.*s: ***", (int) strcspn(*header, ":"), *header) :
						pstrdup(*header));
	return lines;
}
