/*
 * option.h
 *		Every setting of a connection: options of foreign servers and user
 *		mappings, checked, typed and cached.
 */
#ifndef KAPTURE_OPTION_H
#define KAPTURE_OPTION_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "api/dialect.h"

/* The four calls of the Kapture customer API, and one for the calls of all other modules. */
typedef enum KaptureApi
{
	KAPTURE_API_ADD,
	KAPTURE_API_UPDATE,
	KAPTURE_API_GET,
	KAPTURE_API_PULL,
	KAPTURE_API_MODULE			/* the call that KaptureServer.module names, see modules.c */
} KaptureApi;

#define KAPTURE_API_CUSTOMER_COUNT	4
#define KAPTURE_API_COUNT	5

/* An entry of option api_paths or auth_keys. */
typedef struct KaptureApiEntry
{
	char	   *name;			/* of the API; NULL: end of the list */
	char	   *value;			/* path or key */
	bool		has_form;		/* does the entry say which body the API takes? */
	bool		is_array;		/* if so: an array of one object, not an object */
} KaptureApiEntry;

/* A server as seen by one user: defaults filled in, mapping resolved. */
typedef struct KaptureServer
{
	Oid			serverid;
	Oid			owner;			/* of the server */
	Oid			userid;			/* whose mapping; the user asked for, not PUBLIC */
	uint64		version;		/* differs after each change of server or mapping */
	char	   *name;
	char	   *url[KAPTURE_API_COUNT]; /* complete: base URL and path */
	char	   *auth_key[KAPTURE_API_COUNT];	/* as sent after "Basic "; NULL:
												 * user and password.  Secret. */
	char	   *user;			/* with password, or NULL */
	char	   *password;		/* secret */
	bool		body_array[KAPTURE_API_COUNT];	/* wrap the body in an array */
	KaptureDialectEntry *names[KAPTURE_API_COUNT];	/* of fields in requests, or
															 * NULL; see dialect.c */
	KaptureDialectEntry *constants[KAPTURE_API_COUNT];	/* that go with each
																 * request, or NULL */
	char	  **headers[KAPTURE_API_COUNT]; /* extra "Name: value" lines, NULL at the end */
	char	  **secret_headers[KAPTURE_API_COUNT];	/* those of "headers" that the mapping has */
	char	   *ca_file;		/* NULL: the system's */
	int			connect_timeout;	/* milliseconds */
	int			timeout;		/* milliseconds, of one whole request */
	int			max_connections;
	double		rate_limit;		/* requests a second, 0 = no limit */
	int64		max_response_size;	/* bytes */
	char	   *timezone;
	int64		pull_window;	/* seconds */
	bool		pull_paged;		/* pulls are of whole days, in pages */
	int			cm_id;			/* the account's number in paged pulls; 0: not given */
	int			pull_limit;		/* customers to ask for in a page */
	int64		pull_interval;	/* seconds, 0: not pulled automatically */
	int64		pull_overlap;	/* seconds */
	Timestamp	pull_since;		/* local time of the account, 0: not given */
	int64		sweep_interval; /* seconds, 0: not swept */
	double		sweep_rate;		/* requests a second */
	bool		allow_http;		/* plain http to other hosts than this one */
	bool		check_rows;		/* do not send rows that Kapture is known to refuse */
	bool		add_is_upsert;	/* an Add of an existing customer updates it */
	char	   *base;			/* the URL without a path */
	KaptureApiEntry *api_paths; /* of other modules, or NULL */
	KaptureApiEntry *auth_keys; /* of other modules, or NULL; secret */
	const char *module;			/* name of the call that KAPTURE_API_MODULE stands for; NULL: none yet */
	int			counted_as;		/* number under which its requests are counted */
} KaptureServer;

extern const char *kapture_api_name(KaptureApi api);
extern const char *kapture_api_label(const KaptureServer *server, KaptureApi api);
extern const KaptureServer *kapture_server_get(const char *name, Oid userid);
extern void kapture_server_require_same(const KaptureServer *server, Oid serverid, Oid owner);
extern void kapture_server_require_key(const KaptureServer *server,
									   KaptureApi api);

#endif							/* KAPTURE_OPTION_H */
