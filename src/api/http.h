/*
 * http.h
 *		HTTP POSTs, one or many at a time, under PostgreSQL's wait loop.
 */
#ifndef KAPTURE_HTTP_H
#define KAPTURE_HTTP_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "api/option.h"

/* How far a request came. */
typedef enum KaptureHttpOutcome
{
	KAPTURE_HTTP_ANSWERED,		/* a whole answer is here, whatever its code */
	KAPTURE_HTTP_NOT_SENT,		/* failed before the server could act on it */
	KAPTURE_HTTP_IN_DOUBT		/* the server may or may not have acted on it */
} KaptureHttpOutcome;

/* What is wrong if no TLS connection came about. */
typedef enum KaptureTlsFault
{
	KAPTURE_TLS_NONE,			/* TLS is not what failed */
	KAPTURE_TLS_UNTRUSTED,		/* the certificate's issuer is not trusted here */
	KAPTURE_TLS_OTHER_HOST,
	KAPTURE_TLS_EXPIRED,
	KAPTURE_TLS_NOT_YET_VALID,
	KAPTURE_TLS_CERTIFICATE,	/* the certificate is not accepted for another reason */
	KAPTURE_TLS_NO_TLS,			/* the port speaks something else */
	KAPTURE_TLS_OTHER
} KaptureTlsFault;

typedef struct KaptureHttpAnswer
{
	KaptureHttpOutcome outcome;
	int			status;			/* HTTP code, 0 if none came */
	const char *body;			/* not terminated; lives as long as the request */
	size_t		body_len;
	int64		retry_after;	/* milliseconds from now, -1 if not given */
	int64		elapsed;		/* microseconds from start to end */

	/* only where no whole answer came */
	int			sqlstate;		/* class 08 or HV, see http.c */
	const char *phase;			/* "resolving the host name", ... */
	const char *option;			/* the server option whose limit was hit, or NULL */
	const char *detail;			/* libcurl's words; never a secret */
	KaptureTlsFault tls;
} KaptureHttpAnswer;

typedef struct KaptureHttpRequest KaptureHttpRequest;

/* Details of a request that was inspected. */
typedef struct KaptureHttpDetails
{
	const char *peer;			/* address that was connected to, "" if none */
	int			port;
	int64		resolved;		/* microseconds from the start; 0: not reached */
	int64		connected;
	int64		secured;		/* TLS is established; 0 for plain http, too */
	char	   *expires;		/* when the certificate expires, or NULL */
	int64		date;			/* of the answer, in seconds since 1970, or -1 */
} KaptureHttpDetails;

extern void kapture_http_share(bool shared);
extern int	kapture_http_room(void);
extern KaptureHttpRequest *kapture_http_start(const KaptureServer *server,
											  KaptureApi api,
											  const char *body, size_t body_len,
											  void *owner, TimestampTz *when);
extern KaptureHttpRequest *kapture_http_start_in_turn(const KaptureServer *server,
													  KaptureApi api,
													  const char *body, size_t body_len,
													  uint32 wait_event);
extern void kapture_http_connect_anew(KaptureHttpRequest *request);
extern void kapture_http_distrust(KaptureHttpRequest *request);
extern bool kapture_http_has_socket(int fd);
extern void kapture_http_count(KaptureHttpRequest *request, Oid payer, uint64 group);
extern void kapture_http_count_alone(KaptureHttpRequest *request, Oid payer);
extern void kapture_http_belongs_to_fetch(KaptureHttpRequest *request);
extern void kapture_http_release(KaptureHttpRequest *request);
extern void kapture_http_push(void);
extern void kapture_http_serve(void);
extern bool kapture_http_wait(long timeout, uint32 wait_event);
extern bool kapture_http_wait_fetched(long timeout, uint32 wait_event);
extern KaptureHttpRequest *kapture_http_next_finished(void);
extern KaptureHttpRequest *kapture_http_next_fetched(void);
extern const KaptureHttpAnswer *kapture_http_answer(KaptureHttpRequest *request);
extern void *kapture_http_owner(KaptureHttpRequest *request);
extern const KaptureHttpAnswer *kapture_http_perform(KaptureHttpRequest *request,
													 uint32 wait_event);
extern KaptureHttpRequest *kapture_http_perform_first(const void *owner, TimestampTz deadline, uint32 wait_event);
extern void kapture_http_sleep_until(TimestampTz when, uint32 wait_event);
extern void kapture_http_inspect(KaptureHttpRequest *request);
extern void kapture_http_details(KaptureHttpRequest *request, KaptureHttpDetails *details);
extern List *kapture_http_describe(const KaptureServer *server, KaptureApi api);

#endif							/* KAPTURE_HTTP_H */
