/*
 * option.c
 *		Every setting of a connection: options of foreign servers and user
 *		mappings, checked, typed and cached.
 *
 * One table, option_table, says everything about an option: its name, the
 * catalog it belongs to, how its text becomes a value, the range, the default,
 * where the value is kept, and whether it may be shown.  The validator and
 * the reader walk the same table with the same parsing functions, so that what
 * CREATE SERVER accepts is what a request uses.
 *
 * Secrets are options of user mappings only: everybody can read the options of
 * servers.  No message of this file shows the value of an option that the table
 * marks as secret.
 *
 * kapture_server_get() keeps one entry for each server and user.  Syscache
 * callbacks only count up option_generation.  The next kapture_server_get(), which
 * is a safe point, rebuilds an entry of an older count; only there are entries
 * freed, among them those of servers that were dropped.
 */
#include "postgres.h"

#include <limits.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/reloptions.h"
#include "access/table.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_foreign_table.h"
#include "catalog/pg_user_mapping.h"
#include "commands/defrem.h"
#include "common/jsonapi.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgtime.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "api/dialect.h"
#include "api/duration.h"
#include "api/header.h"
#include "api/option.h"
#include "api/url.h"
#include "base/compat.h"
#include "base/nearest.h"
#include "base/restore.h"

#define OPTION_WRAPPER		"kapture_fdw"

/* Servers that a hint names at most. */
#define OPTION_MAX_NAMED	5

/* bytes of text; longer text is no setting, and each process would cache it */
#define OPTION_MAX_URL		2048
#define OPTION_MAX_TEXT		8192

#define OPTION_MIN_TIMEOUT	1	/* milliseconds */
#define OPTION_MAX_TIMEOUT	86400000	/* a day */
#define OPTION_MAX_CONNECTIONS	1000
#define OPTION_MAX_PAGE		10000	/* customers */
#define OPTION_MAX_RATE		1000000 /* requests a second */
#define OPTION_MIN_RESPONSE	1024	/* bytes */
#define OPTION_MAX_RESPONSE	1073741824
#define OPTION_MIN_RATE		0.001	/* the time between two requests must stay computable */
#define OPTION_MIN_WINDOW	1	/* seconds */
#define OPTION_MAX_WINDOW	(INT64CONST(3660) * SECS_PER_DAY)

/* All options of one server and mapping as they are read. */
typedef struct OptionSet
{
	KaptureServer server;		/* first: this is what callers get */
	char	   *url;			/* without slashes at the end */
	char	   *path[KAPTURE_API_COUNT];
	char	   *auth_key;		/* for all APIs */
	char	  **server_headers;
	char	  **mapping_headers;	/* take precedence over server_headers; secret */
	char	  **api_headers[KAPTURE_API_COUNT]; /* take precedence over both; of the mapping; secret */
	char	   *dialect;
	KaptureDialectEntry *field_names;	/* of Add and Update */
	bool		is_contacts;	/* of a foreign table: only checked here */
} OptionSet;

/* What is wrong with a value. */
typedef struct OptionFault
{
	char	   *detail;
	char	   *hint;			/* or NULL */
	bool		hide;			/* the value must not be shown */
	bool		stored;			/* an earlier version may have accepted the value */
	bool		dated;			/* the value is accepted, but with a warning */
} OptionFault;

typedef struct OptionDef OptionDef;

/*
 * Turns the text of an option into a value at "place".  Returns false, with the
 * reason in "fault", if the text is bad; does not raise errors about the value.
 */
typedef bool (*OptionParse) (const OptionDef *def, const char *text,
							 void *place, OptionFault *fault);

struct OptionDef
{
	const char *name;
	Oid			catalog;
	OptionParse parse;
	double		min;
	double		max;
	const char *initial;		/* default, or NULL */
	bool		secret;
	size_t		offset;			/* of the value in OptionSet */
};

static bool option_parse_url(const OptionDef *def, const char *text,
							 void *place, OptionFault *fault);
static bool option_parse_path(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_body(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_pull_form(const OptionDef *def, const char *text,
								   void *place, OptionFault *fault);
static bool option_parse_object(const OptionDef *def, const char *text,
								void *place, OptionFault *fault);
static bool option_parse_headers(const OptionDef *def, const char *text,
								 void *place, OptionFault *fault);
static bool option_parse_paths(const OptionDef *def, const char *text,
							   void *place, OptionFault *fault);
static bool option_parse_keys(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_dialect(const OptionDef *def, const char *text,
								 void *place, OptionFault *fault);
static bool option_parse_names(const OptionDef *def, const char *text,
							   void *place, OptionFault *fault);
static bool option_parse_constants(const OptionDef *def, const char *text,
								   void *place, OptionFault *fault);
static bool option_parse_file(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_time(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_int(const OptionDef *def, const char *text,
							 void *place, OptionFault *fault);
static bool option_parse_real(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_rate(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_size(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_timezone(const OptionDef *def, const char *text,
								  void *place, OptionFault *fault);
static bool option_parse_interval(const OptionDef *def, const char *text,
								  void *place, OptionFault *fault);
static bool option_parse_local_time(const OptionDef *def, const char *text,
									void *place, OptionFault *fault);
static bool option_parse_bool(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_key(const OptionDef *def, const char *text,
							 void *place, OptionFault *fault);
static bool option_parse_user(const OptionDef *def, const char *text,
							  void *place, OptionFault *fault);
static bool option_parse_password(const OptionDef *def, const char *text,
								  void *place, OptionFault *fault);

#define OPTION_PLACE(field)			offsetof(OptionSet, field)
#define OPTION_API_PLACE(field, api) \
	(offsetof(OptionSet, field) + \
	 (api) * sizeof(((OptionSet *) NULL)->field[0]))

/* *INDENT-OFF* */
static const OptionDef option_table[] = {
	{"url", ForeignServerRelationId, option_parse_url,
		0, 0, NULL, false, OPTION_PLACE(url)},
	{"add_path", ForeignServerRelationId, option_parse_path,
		0, 0, "/add-update-customer-from-other-source.html", false,
		OPTION_API_PLACE(path, KAPTURE_API_ADD)},
	{"update_path", ForeignServerRelationId, option_parse_path,
		0, 0, "/add-update-customer-from-other-source.html", false,
		OPTION_API_PLACE(path, KAPTURE_API_UPDATE)},
	{"get_path", ForeignServerRelationId, option_parse_path,
		0, 0, "/search-customer-by-customer-id.html", false,
		OPTION_API_PLACE(path, KAPTURE_API_GET)},
	{"pull_path", ForeignServerRelationId, option_parse_path,
		0, 0, "/select-customer-between-start-and-end-dates.html", false,
		OPTION_API_PLACE(path, KAPTURE_API_PULL)},
	{"add_body", ForeignServerRelationId, option_parse_body,
		0, 0, "object", false,
		OPTION_API_PLACE(server.body_array, KAPTURE_API_ADD)},
	{"update_body", ForeignServerRelationId, option_parse_body,
		0, 0, "object", false,
		OPTION_API_PLACE(server.body_array, KAPTURE_API_UPDATE)},
	{"dialect", ForeignServerRelationId, option_parse_dialect,
		0, 0, "seed", false, OPTION_PLACE(dialect)},
	{"field_names", ForeignServerRelationId, option_parse_names,
		0, 0, NULL, false, OPTION_PLACE(field_names)},
	{"get_field_names", ForeignServerRelationId, option_parse_names,
		0, 0, NULL, false,
		OPTION_API_PLACE(server.names, KAPTURE_API_GET)},
	{"add_fields", ForeignServerRelationId, option_parse_constants,
		0, 0, NULL, false,
		OPTION_API_PLACE(server.constants, KAPTURE_API_ADD)},
	{"update_fields", ForeignServerRelationId, option_parse_constants,
		0, 0, NULL, false,
		OPTION_API_PLACE(server.constants, KAPTURE_API_UPDATE)},
	{"headers", ForeignServerRelationId, option_parse_headers,
		0, 0, "{}", true, OPTION_PLACE(server_headers)},
	{"ca_file", ForeignServerRelationId, option_parse_file,
		0, 0, NULL, false, OPTION_PLACE(server.ca_file)},
	{"connect_timeout", ForeignServerRelationId, option_parse_time,
		OPTION_MIN_TIMEOUT, OPTION_MAX_TIMEOUT, "10s", false,
		OPTION_PLACE(server.connect_timeout)},
	{"timeout", ForeignServerRelationId, option_parse_time,
		OPTION_MIN_TIMEOUT, OPTION_MAX_TIMEOUT, "60s", false,
		OPTION_PLACE(server.timeout)},
	{"max_connections", ForeignServerRelationId, option_parse_int,
		1, OPTION_MAX_CONNECTIONS, "8", false,
		OPTION_PLACE(server.max_connections)},
	{"rate_limit", ForeignServerRelationId, option_parse_rate,
		0, OPTION_MAX_RATE, "0", false, OPTION_PLACE(server.rate_limit)},
	{"max_response_size", ForeignServerRelationId, option_parse_size,
		OPTION_MIN_RESPONSE, OPTION_MAX_RESPONSE, "64MB", false,
		OPTION_PLACE(server.max_response_size)},
	{"timezone", ForeignServerRelationId, option_parse_timezone,
		0, 0, "Asia/Kolkata", false, OPTION_PLACE(server.timezone)},
	{"pull_window", ForeignServerRelationId, option_parse_interval,
		OPTION_MIN_WINDOW, OPTION_MAX_WINDOW, "24 hours", false,
		OPTION_PLACE(server.pull_window)},
	{"pull_form", ForeignServerRelationId, option_parse_pull_form,
		0, 0, "range", false, OPTION_PLACE(server.pull_paged)},
	{"cm_id", ForeignServerRelationId, option_parse_int,
		1, INT_MAX, NULL, false, OPTION_PLACE(server.cm_id)},
	{"pull_limit", ForeignServerRelationId, option_parse_int,
		1, OPTION_MAX_PAGE, "100", false, OPTION_PLACE(server.pull_limit)},
	{"pull_interval", ForeignServerRelationId, option_parse_interval,
		OPTION_MIN_WINDOW, OPTION_MAX_WINDOW, NULL, false,
		OPTION_PLACE(server.pull_interval)},
	{"pull_overlap", ForeignServerRelationId, option_parse_interval,
		0, OPTION_MAX_WINDOW, "15 minutes", false,
		OPTION_PLACE(server.pull_overlap)},
	{"pull_since", ForeignServerRelationId, option_parse_local_time,
		0, 0, NULL, false, OPTION_PLACE(server.pull_since)},
	{"sweep_interval", ForeignServerRelationId, option_parse_interval,
		OPTION_MIN_WINDOW, OPTION_MAX_WINDOW, NULL, false,
		OPTION_PLACE(server.sweep_interval)},
	{"sweep_rate", ForeignServerRelationId, option_parse_real,
		OPTION_MIN_RATE, OPTION_MAX_RATE, "1", false,
		OPTION_PLACE(server.sweep_rate)},
	{"allow_http", ForeignServerRelationId, option_parse_bool,
		0, 0, "false", false, OPTION_PLACE(server.allow_http)},
	{"check_rows", ForeignServerRelationId, option_parse_bool,
		0, 0, "true", false, OPTION_PLACE(server.check_rows)},
	{"add_is_upsert", ForeignServerRelationId, option_parse_bool,
		0, 0, "false", false, OPTION_PLACE(server.add_is_upsert)},
	{"api_paths", ForeignServerRelationId, option_parse_paths,
		0, 0, NULL, false, OPTION_PLACE(server.api_paths)},
	{"auth_key", UserMappingRelationId, option_parse_key,
		0, 0, NULL, true, OPTION_PLACE(auth_key)},
	{"user", UserMappingRelationId, option_parse_user,
		0, 0, NULL, true, OPTION_PLACE(server.user)},
	{"password", UserMappingRelationId, option_parse_password,
		0, 0, NULL, true, OPTION_PLACE(server.password)},
	{"add_auth_key", UserMappingRelationId, option_parse_key,
		0, 0, NULL, true,
		OPTION_API_PLACE(server.auth_key, KAPTURE_API_ADD)},
	{"update_auth_key", UserMappingRelationId, option_parse_key,
		0, 0, NULL, true,
		OPTION_API_PLACE(server.auth_key, KAPTURE_API_UPDATE)},
	{"get_auth_key", UserMappingRelationId, option_parse_key,
		0, 0, NULL, true,
		OPTION_API_PLACE(server.auth_key, KAPTURE_API_GET)},
	{"pull_auth_key", UserMappingRelationId, option_parse_key,
		0, 0, NULL, true,
		OPTION_API_PLACE(server.auth_key, KAPTURE_API_PULL)},
	{"auth_keys", UserMappingRelationId, option_parse_keys,
		0, 0, NULL, true, OPTION_PLACE(server.auth_keys)},
	{"headers", UserMappingRelationId, option_parse_headers,
		0, 0, NULL, true, OPTION_PLACE(mapping_headers)},
	{"add_headers", UserMappingRelationId, option_parse_headers,
		0, 0, NULL, true, OPTION_API_PLACE(api_headers, KAPTURE_API_ADD)},
	{"update_headers", UserMappingRelationId, option_parse_headers,
		0, 0, NULL, true, OPTION_API_PLACE(api_headers, KAPTURE_API_UPDATE)},
	{"get_headers", UserMappingRelationId, option_parse_headers,
		0, 0, NULL, true, OPTION_API_PLACE(api_headers, KAPTURE_API_GET)},
	{"pull_headers", UserMappingRelationId, option_parse_headers,
		0, 0, NULL, true, OPTION_API_PLACE(api_headers, KAPTURE_API_PULL)},
	{"object", ForeignTableRelationId, option_parse_object,
		0, 0, "customers", false, OPTION_PLACE(is_contacts)},
};
/* *INDENT-ON* */

/* Headers that the extension or libcurl must set itself. */
static const char *const option_own_headers[] = {
	"Accept", "Accept-Encoding", "Authorization", "Connection",
	"Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host",
	"HTTP2-Settings", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection",
	"TE", "Trailer", "Transfer-Encoding", "Upgrade"
};

typedef struct OptionCacheKey
{
	Oid			serverid;
	Oid			userid;
} OptionCacheKey;

typedef struct OptionCacheEntry
{
	OptionCacheKey key;			/* hash key: must be first */
	uint64		generation;		/* of option_generation when it was read */
	MemoryContext context;		/* holds "server"; NULL: nothing read yet */
	KaptureServer *server;		/* means nothing while context is NULL */
} OptionCacheEntry;

static HTAB *option_cache = NULL;
static uint64 option_generation = 0;	/* counts changes in the catalogs */

PG_FUNCTION_INFO_V1(kapture_fdw_validator);


/*
 * Parsing of values
 */

/* Text without control characters (and so without line breaks)? */
static bool
option_is_clean(const char *text)
{
	for (; *text != '\0'; text++)
	{
		if ((unsigned char) *text < 0x20 || *text == 0x7F)
			return false;
	}
	return true;
}

/* Visible ASCII only, as a URL must be? */
static bool
option_is_visible(const char *text)
{
	for (; *text != '\0'; text++)
	{
		if ((unsigned char) *text <= 0x20 || (unsigned char) *text >= 0x7F)
			return false;
	}
	return true;
}

/* From the server's encoding to UTF-8; the result is always a copy. */
static char *
option_utf8(const char *text)
{
	char	   *utf8 = pg_server_to_any(text, strlen(text), PG_UTF8);

	return utf8 == text ? pstrdup(text) : utf8;
}

static bool
option_parse_url(const OptionDef *def, const char *text, void *place,
				 OptionFault *fault)
{
	const char *why = NULL;
	bool		is_https;
	bool		is_loopback;
	char	   *url;
	size_t		len;

	/* Somebody's password may be in there: do not repeat it. */
	fault->hide = (strchr(text, '@') != NULL);
	fault->hint = "Give the address that Kapture assigned to the account, such as https://acme.kapturecrm.com.";

	if (!option_is_visible(text))
	{
		fault->detail = "A URL has neither spaces nor control characters nor characters outside of ASCII.";
		return false;
	}
	if (!kapture_url_is_valid(text, &is_https, &is_loopback, &why))
	{
		fault->detail = psprintf("Not an address that can be used: %s.", why);
		return false;
	}

	url = pstrdup(text);
	for (char *p = url; *p != '\0' && *p != ':'; p++)
		*p = pg_ascii_tolower((unsigned char) *p);	/* the scheme, as others compare it */
	len = strlen(url);
	while (len > 0 && url[len - 1] == '/')
		url[--len] = '\0';
	*(char **) place = url;
	return true;
}

static bool
option_parse_path(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	if (text[0] != '/')
	{
		fault->detail = "A path must begin with \"/\".";
		fault->hint = "Write what comes behind the host, such as \"/add-customer.html\"; the address is option \"url\".";
		return false;
	}
	if (!option_is_visible(text) || strpbrk(text, "#\\") != NULL)
	{
		fault->detail = "A path has no spaces, control characters, \"#\", \"\\\" or characters outside of ASCII.";
		return false;
	}
	*(char **) place = pstrdup(text);
	return true;
}

/* One of two words, of which the second stands for true. */
static bool
option_parse_either(const char *text, const char *no, const char *yes, bool *place,
					OptionFault *fault)
{
	*place = strcmp(text, yes) == 0;
	if (!*place && strcmp(text, no) != 0)
	{
		fault->detail = psprintf("It must be \"%s\" or \"%s\".", no, yes);
		return false;
	}
	return true;
}

static bool
option_parse_body(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	return option_parse_either(text, "object", "array", place, fault);
}

static bool
option_parse_pull_form(const OptionDef *def, const char *text, void *place,
					   OptionFault *fault)
{
	return option_parse_either(text, "range", "paged", place, fault);
}

static bool
option_parse_object(const OptionDef *def, const char *text, void *place,
					OptionFault *fault)
{
	return option_parse_either(text, "customers", "contacts", place, fault);
}

/* Is this a header's name that users may set? */
static bool
option_check_header_name(const char *name, OptionFault *fault)
{
	size_t		len = strlen(name);

	if (len == 0 ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
			   "0123456789!#$%&'*+-.^_`|~") != len)
	{
		fault->detail = psprintf("\"%s\" is not the name of an HTTP header.",
								 name);
		return false;
	}
	for (int i = 0; i < lengthof(option_own_headers); i++)
	{
		if (pg_strcasecmp(name, option_own_headers[i]) == 0)
		{
			fault->detail = psprintf("Header \"%s\" is set by the extension itself.",
									 name);
			if (pg_strcasecmp(name, "Authorization") == 0)
				fault->hint = "Put the key into the user mapping, as option \"auth_key\".";
			return false;
		}
	}
	return true;
}

/* The text as a JSON object, or NULL if it is something else. */
static Jsonb *
option_to_object(const char *text, OptionFault *fault)
{
	JsonLexContext *lex;
	Jsonb	   *json = NULL;

	lex = makeJsonLexContextCstringLen(NULL, text, strlen(text),
									   GetDatabaseEncoding(), true);
	if (pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS)
		json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
	if (json && JB_ROOT_IS_OBJECT(json))
		return json;
	fault->detail = "It must be a JSON object.";
	return NULL;
}

static bool
option_parse_headers(const OptionDef *def, const char *text, void *place,
					 OptionFault *fault)
{
	Jsonb	   *json = option_to_object(text, fault);
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	  **lines;
	int			n = 0;
	char	   *name = NULL;

	fault->hint = "Write a JSON object of strings, such as {\"x-api-type\": \"crm\"}.";
	if (json == NULL)
		return false;

	lines = palloc0((JB_ROOT_COUNT(json) + 1) * sizeof(char *));
	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		char	   *content;

		if (token == WJB_KEY)
		{
			name = pnstrdup(value.val.string.val, value.val.string.len);
			if (!option_check_header_name(name, fault))
				return false;
			continue;
		}
		if (token != WJB_VALUE)
			continue;
		if (value.type != jbvString || value.val.string.len == 0)
		{
			fault->detail = psprintf("The value of header \"%s\" must be a string that is not empty.",
									 name);
			return false;
		}
		content = pnstrdup(value.val.string.val, value.val.string.len);
		if (!option_is_clean(content))
		{
			fault->detail = psprintf("The value of header \"%s\" has control characters.",
									 name);
			return false;
		}
		lines[n++] = option_utf8(psprintf("%s: %s", name, content));
	}
	*(char ***) place = lines;
	return true;
}

/*
 * Begins to read the names and values of a JSON object: returns room for as many
 * entries; NULL if the text is something else.
 */
static KaptureApiEntry *
option_entries(const char *text, JsonbIterator **it, OptionFault *fault)
{
	Jsonb	   *json = option_to_object(text, fault);

	if (json == NULL)
		return NULL;
	*it = JsonbIteratorInit(&json->root);
	return palloc0((JB_ROOT_COUNT(json) + 1) * sizeof(KaptureApiEntry));
}

/* A string among the values of an object; NULL: it is no string. */
static char *
option_string(const JsonbValue *value)
{
	return value && value->type == jbvString ? pnstrdup(value->val.string.val, value->val.string.len) : NULL;
}

/* Fills in an entry of api_paths from {"path": ..., "body": "object" or "array"}. */
static bool
option_parse_path_object(KaptureApiEntry *entry, JsonbContainer *object, OptionFault *fault)
{
	JsonbValue	path;
	JsonbValue	body;
	bool		has_path = getKeyJsonValueFromContainer(object, "path", 4, &path) != NULL;

	entry->has_form = getKeyJsonValueFromContainer(object, "body", 4, &body) != NULL;
	entry->value = has_path ? option_string(&path) : NULL;
	if (JsonContainerSize(object) != (has_path ? 1 : 0) + (entry->has_form ? 1 : 0) ||
		(has_path && entry->value == NULL))
	{
		fault->detail = psprintf("The entry of API \"%s\" must have nothing but \"path\" and \"body\", which are strings.",
								 entry->name);
		return false;
	}
	return !entry->has_form ||
		option_parse_body(NULL, option_string(&body) ? option_string(&body) : "", &entry->is_array, fault);
}

/* The paths of other modules: {"name": "/path" or {"path": ..., "body": ...}, ...}. */
static bool
option_parse_paths(const OptionDef *def, const char *text, void *place,
				   OptionFault *fault)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	KaptureApiEntry *entries;
	KaptureApiEntry *entry;
	const char *why;

	fault->hint = "Write a JSON object such as {\"ticket_add\": \"/add-ticket.html\"} or {\"ticket_add\": {\"path\": \"/add-ticket.html\", \"body\": \"object\"}}.";
	entries = entry = option_entries(text, &it, fault);
	if (entries == NULL)
		return false;
	(void) JsonbIteratorNext(&it, &value, true);
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_KEY)
	{
		entry->name = option_string(&value);
		if (entry->name[0] == '\0' ||
			strspn(entry->name, "abcdefghijklmnopqrstuvwxyz0123456789_") != strlen(entry->name))
		{
			fault->detail = psprintf("\"%s\" cannot be the name of an API: it may have lower-case letters, digits and underscores.",
									 entry->name);
			return false;
		}
		(void) JsonbIteratorNext(&it, &value, true);
		entry->value = option_string(&value);
		if (value.type == jbvBinary && JsonContainerIsObject(value.val.binary.data))
		{
			if (!option_parse_path_object(entry, value.val.binary.data, fault))
				return false;
		}
		else if (entry->value == NULL)
		{
			fault->detail = psprintf("The entry of API \"%s\" must be a path or an object.", entry->name);
			return false;
		}
		if (entry->value && kapture_url_join("https://localhost", entry->value, &why) == NULL)
		{
			fault->detail = psprintf("The path of API \"%s\" cannot be used: %s.", entry->name, why);
			return false;
		}
		entry++;
	}
	*(KaptureApiEntry **) place = entries;
	return true;
}

/* The keys of other modules: {"name": "key", ...}. */
static bool
option_parse_keys(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	KaptureApiEntry *entries;
	KaptureApiEntry *entry;

	fault->hint = "Write a JSON object of strings, such as {\"ticket_add\": \"...\"}.";
	entries = entry = option_entries(text, &it, fault);
	if (entries == NULL)
		return false;
	(void) JsonbIteratorNext(&it, &value, true);
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_KEY)
	{
		char	   *key;

		entry->name = option_string(&value);
		(void) JsonbIteratorNext(&it, &value, true);
		key = option_string(&value);
		if (key == NULL)
		{
			fault->detail = psprintf("The key of API \"%s\" must be a string.", entry->name);
			return false;
		}
		if (!option_parse_key(def, key, &entry->value, fault))
			return false;
		entry++;
	}
	*(KaptureApiEntry **) place = entries;
	return true;
}

static bool
option_parse_dialect(const OptionDef *def, const char *text, void *place,
					 OptionFault *fault)
{
	if (!kapture_dialect_exists(text))
	{
		fault->detail = "It must be \"seed\", \"array-name\" or \"v1\".";
		fault->hint = "Other forms are described by \"field_names\", \"add_fields\", \"update_fields\" and \"add_body\".";
		return false;
	}
	*(char **) place = pstrdup(text);
	return true;
}

/* The names of fields in an account's requests. */
static bool
option_parse_names(const OptionDef *def, const char *text, void *place,
				   OptionFault *fault)
{
	Jsonb	   *json = option_to_object(text, fault);

	fault->hint = "Write a JSON object of our field names and those of the account, such as {\"customer_name\": \"name\"}.";
	return json && (*(KaptureDialectEntry **) place = kapture_dialect_read_names(json, &fault->detail)) != NULL;
}

/* The constants of an account's requests. */
static bool
option_parse_constants(const OptionDef *def, const char *text, void *place,
					   OptionFault *fault)
{
	Jsonb	   *json = option_to_object(text, fault);

	fault->hint = "Write a JSON object of what is to go with each request, such as {\"customer_info.update\": true}.";
	return json && (*(KaptureDialectEntry **) place = kapture_dialect_read_constants(json, &fault->detail)) != NULL;
}

static bool
option_parse_file(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	if (!is_absolute_path(text))
	{
		fault->detail = "It must be the absolute path of a file of certificates on the database server.";
		return false;
	}
	*(char **) place = pstrdup(text);
	return true;
}

/* An integer with a unit of PostgreSQL's settings, within the range. */
static bool
option_parse_number(const OptionDef *def, const char *text, int flags,
					int *result, OptionFault *fault)
{
	const char *hint = NULL;

	if (!parse_int(text, result, flags, &hint))
	{
		fault->detail = (flags & GUC_UNIT) == 0 ?
			"It must be a whole number." :
			"It must be a number, with a unit if need be.";
		if (hint != NULL)
			fault->hint = pstrdup(hint);
		else if (flags & GUC_UNIT_MEMORY)
			fault->hint = "For example 512kB or 64MB.";
		return false;
	}
	return true;
}

/*
 * A length of time in microseconds.  "bare_unit" is what earlier versions took a
 * number without a unit for.
 */
static bool
option_parse_duration(const char *text, int64 bare_unit, int64 *usec, OptionFault *fault)
{
	fault->hint = "Write a number and a unit, such as \"500ms\", \"30s\", \"5min\" or \"24 hours\".";
	switch (kapture_duration_parse(text, bare_unit, usec))
	{
		case KAPTURE_DURATION_GOOD:
			return true;
		case KAPTURE_DURATION_BARE:
			fault->detail = "It has no unit.";
			fault->hint = psprintf("Write \"%ss\" for seconds, or another unit: ms, min, h or d.", text);
			fault->dated = fault->stored;
			return fault->stored;
		case KAPTURE_DURATION_CALENDAR:
			fault->detail = "It must not have months or years, whose length varies.";
			return false;
		case KAPTURE_DURATION_BAD:
			break;
	}
	fault->detail = "It must be a length of time.";
	return false;
}

static bool
option_parse_time(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	int64		usec;

	if (!option_parse_duration(text, 1000, &usec, fault))
		return false;
	if (usec % 1000 != 0 || usec / 1000 < def->min || usec / 1000 > def->max)
	{
		fault->detail = psprintf("It must be a whole number of milliseconds between %d ms and %d h.",
								 (int) def->min, (int) (def->max / 1000 / SECS_PER_HOUR));
		return false;
	}
	*(int *) place = (int) (usec / 1000);
	return true;
}

static bool
option_parse_int(const OptionDef *def, const char *text, void *place,
				 OptionFault *fault)
{
	int			result;

	if (!option_parse_number(def, text, 0, &result, fault))
		return false;
	if (result < def->min || result > def->max)
	{
		fault->detail = psprintf("It must be between %d and %d.",
								 (int) def->min, (int) def->max);
		return false;
	}
	*(int *) place = result;
	return true;
}

static bool
option_parse_real(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	const char *hint = NULL;
	double		result;

	if (!parse_real(text, &result, 0, &hint) ||
		!(result >= def->min && result <= def->max))
	{
		fault->detail = psprintf("It must be a number between %.10g and %.10g.",
								 def->min, def->max);
		fault->hint = "Write the number of requests a second, such as \"10\" or \"0.5\".";
		return false;
	}
	*(double *) place = result;
	return true;
}

/* Requests a second; 0: no limit. */
static bool
option_parse_rate(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	double	   *rate = place;

	if (!option_parse_real(def, text, place, fault))
		return false;
	if (*rate > 0 && *rate < OPTION_MIN_RATE)
	{
		fault->detail = psprintf("It must be 0, for no limit, or a number between %.10g and %.10g.",
								 OPTION_MIN_RATE, def->max);
		return false;
	}
	return true;
}

static bool
option_parse_size(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	int			result;

	if (!option_parse_number(def, text, GUC_UNIT_BYTE, &result, fault))
		return false;
	if (result < def->min || result > def->max)
	{
		fault->detail = psprintf("It must be between %d and %d bytes.",
								 (int) def->min, (int) def->max);
		fault->hint = "For example 512kB or 64MB.";
		return false;
	}
	*(int64 *) place = result;
	return true;
}

/*
 * Is this the name of a time zone, rather than an abbreviation or an offset?  Of
 * what PostgreSQL takes, offsets ("UTC+5:30", which is west of Greenwich) have
 * digits, and abbreviations ("EST", which has no summer time) are short.
 */
static bool
option_is_zone_name(const char *text)
{
	static const char *const short_names[] = {
		"UTC", "GMT", "UCT", "Zulu", "GB", "NZ", "PRC", "ROC", "ROK", "Cuba", "Eire", "Iran", "W-SU"
	};
	size_t		len = strlen(text);

	if (pg_strncasecmp(text, "Etc/GMT", 7) == 0 && strspn(text + 7, "+-0123456789") == len - 7)
		return true;
	if (strpbrk(text, "0123456789<>,:+") != NULL)
		return false;
	for (int i = 0; i < lengthof(short_names); i++)
	{
		if (pg_strcasecmp(text, short_names[i]) == 0)
			return true;
	}
	return len > 4 || strchr(text, '/') != NULL;
}

static bool
option_parse_timezone(const OptionDef *def, const char *text, void *place,
					  OptionFault *fault)
{
	pg_tz	   *zone = pg_tzset(text);

	fault->hint = "Write the name of a region, such as \"Asia/Kolkata\": the view pg_timezone_names shows those that are known.";
	if (zone == NULL || !pg_tz_acceptable(zone))
	{
		fault->detail = "PostgreSQL does not know this time zone.";
		return false;
	}
	if (!option_is_zone_name(text))
	{
		fault->detail = "An abbreviation or an offset has no rules for daylight saving time, and the sign of an offset is ambiguous.";
		fault->dated = fault->stored;
		if (!fault->stored)
			return false;
	}
	*(char **) place = pstrdup(text);
	return true;
}

static bool
option_parse_interval(const OptionDef *def, const char *text, void *place,
					  OptionFault *fault)
{
	int64		usec;
	int64		seconds;

	if (!option_parse_duration(text, USECS_PER_SEC, &usec, fault))
		return false;
	seconds = usec / USECS_PER_SEC;
	if (usec % USECS_PER_SEC != 0 || seconds < def->min || seconds > def->max)
	{
		fault->detail = psprintf("It must be a whole number of seconds between %d second and %d days.",
								 (int) def->min,
								 (int) (def->max / SECS_PER_DAY));
		return false;
	}
	*(int64 *) place = seconds;
	return true;
}

/* A date, or a date and a time, as Kapture writes them. */
static bool
option_parse_local_time(const OptionDef *def, const char *text, void *place,
						OptionFault *fault)
{
	struct pg_tm tm = {0};
	int			len = 0;
	int			n;

	n = sscanf(text, "%4d-%2d-%2d%n %2d:%2d:%2d%n", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &len,
			   &tm.tm_hour, &tm.tm_min, &tm.tm_sec, &len);
	if ((n != 3 && n != 6) || text[len] != '\0' || tm.tm_year < 1970 ||
		tm.tm_mon < 1 || tm.tm_mon > MONTHS_PER_YEAR ||
		tm.tm_mday < 1 || tm.tm_mday > day_tab[isleap(tm.tm_year)][tm.tm_mon - 1] ||
		tm.tm_hour < 0 || tm.tm_hour >= HOURS_PER_DAY || tm.tm_min < 0 || tm.tm_min >= MINS_PER_HOUR ||
		tm.tm_sec < 0 || tm.tm_sec >= SECS_PER_MINUTE ||
		tm2timestamp(&tm, 0, NULL, (Timestamp *) place) != 0)
	{
		fault->detail = "It must be a date, or a date and a time, from 1970 on.";
		fault->hint = "Write it in the account's local time, such as \"2021-03-14\" or \"2021-03-14 14:21:11\".";
		return false;
	}
	return true;
}

static bool
option_parse_bool(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	if (!parse_bool(text, (bool *) place))
	{
		fault->detail = "It must be \"true\" or \"false\".";
		return false;
	}
	return true;
}

/* Checks that apply to all secrets. */
static bool
option_parse_secret(const char *text, void *place, OptionFault *fault)
{
	if (text[0] == '\0')
	{
		fault->detail = "It must not be empty.";
		return false;
	}
	if (!option_is_clean(text))
	{
		fault->detail = "It must not have line breaks or other control characters.";
		return false;
	}
	*(char **) place = option_utf8(text);
	return true;
}

static bool
option_parse_key(const OptionDef *def, const char *text, void *place,
				 OptionFault *fault)
{
	if (pg_strncasecmp(text, "Basic ", 6) == 0)
	{
		fault->detail = "The key must not begin with \"Basic \".";
		fault->hint = "Leave out \"Basic \": it is put before the key when a request is sent.";
		return false;
	}
	if (text[0] == ' ' || (text[0] != '\0' && text[strlen(text) - 1] == ' '))
	{
		fault->detail = "The key must not begin or end with a space.";
		fault->hint = "Use the key that Kapture's console shows, without anything around it.";
		return false;
	}
	if (strchr(text, ':') != NULL)
	{
		/* HTTP allows no colon in such a key, but it is left to Kapture to refuse it */
		fault->detail = "A key has no colon: this looks like the name of a user and a password.";
		fault->hint = "Use the key that Kapture's console shows, or the options \"user\" and \"password\".";
		fault->dated = true;
	}
	if (strcmp(text, "...") == 0)
	{
		fault->detail = "The three dots of an example stand for a key.";
		fault->hint = "Use the key that Kapture's console shows, or the options \"user\" and \"password\".";
		fault->dated = true;
	}
	if (text[0] == '\0')
		fault->hint = "Use the key that Kapture's console shows, or the options \"user\" and \"password\".";
	return option_parse_secret(text, place, fault);
}

static bool
option_parse_user(const OptionDef *def, const char *text, void *place,
				  OptionFault *fault)
{
	if (strchr(text, ':') != NULL)
	{
		fault->detail = "HTTP basic authentication allows no colon in the name of the user.";
		return false;
	}
	return option_parse_secret(text, place, fault);
}

static bool
option_parse_password(const OptionDef *def, const char *text, void *place,
					  OptionFault *fault)
{
	return option_parse_secret(text, place, fault);
}


/*
 * The validator
 */

/* The definition of an option, or NULL if there is none in this catalog. */
static const OptionDef *
option_find(const char *name, Oid catalog)
{
	for (int i = 0; i < lengthof(option_table); i++)
	{
		if (option_table[i].catalog == catalog &&
			strcmp(option_table[i].name, name) == 0)
			return &option_table[i];
	}
	return NULL;
}

/*
 * The place to which an option belongs that this catalog does not have, and in *command
 * how to set it there; NULL if there is no such option at all.
 */
static const char *
option_place(const char *name, Oid catalog, const char **command)
{
	if (catalog != UserMappingRelationId && option_find(name, UserMappingRelationId))
	{
		*command = "CREATE USER MAPPING or ALTER USER MAPPING";
		return "user mappings, whose options others cannot read";
	}
	if (catalog != ForeignServerRelationId && option_find(name, ForeignServerRelationId))
	{
		*command = "ALTER SERVER";
		return "servers";
	}
	return NULL;
}

/* Raises the error about an option that does not exist. */
static void
option_raise_unknown(const char *name, Oid catalog)
{
	StringInfoData valid;
	KaptureNearest nearest;
	const char *command;
	const char *place = option_place(name, catalog, &command);

	if (place)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("invalid option \"%s\"", name),
				 errdetail("It is an option of %s.", place),
				 errhint("Set it by %s.", command)));
	initStringInfo(&valid);
	kapture_nearest_begin(&nearest, name);
	for (int i = 0; i < lengthof(option_table); i++)
	{
		if (option_table[i].catalog != catalog)
			continue;
		appendStringInfo(&valid, "%s%s", valid.len > 0 ? ", " : "", option_table[i].name);
		kapture_nearest_try(&nearest, option_table[i].name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
			 errmsg("invalid option \"%s\"", name),
			 valid.len == 0 ?
			 errhint("There are no valid options in this context.") :
			 nearest.nearest ?
			 errhint("Perhaps you meant the option \"%s\". Valid options in this context are: %s", nearest.nearest, valid.data) :
			 errhint("Valid options in this context are: %s", valid.data)));
}

/* Is the text of an option no longer than is allowed? */
static bool
option_check_length(const OptionDef *def, const char *text, OptionFault *fault)
{
	size_t		limit = def->parse == option_parse_url ? OPTION_MAX_URL : OPTION_MAX_TEXT;

	if (strlen(text) <= limit)
		return true;
	fault->hide = true;
	fault->detail = psprintf("It has %zu bytes; at most %zu are allowed.", strlen(text), limit);
	return false;
}

/* Reports what is wrong with the value of an option. */
static void
option_report(const OptionDef *def, const char *text, const OptionFault *fault, int elevel)
{
	ereport(elevel,
			(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
			 def->secret || fault->hide ?
			 errmsg("invalid value for option \"%s\"", def->name) :
			 errmsg("invalid value for option \"%s\": \"%s\"", def->name, text),
			 errdetail_internal("%s", fault->detail),
			 fault->hint != NULL ? errhint("%s", fault->hint) : 0));
}

/*
 * Puts the value of one option into the set; raises an error if it is bad.
 * "reading": a value from the catalogs that only earlier versions accepted is used as
 * they did.  Such a value is accepted when a dump is restored, too.
 */
static void
option_apply(OptionSet *set, const OptionDef *def, const char *text, bool reading)
{
	OptionFault fault = {.stored = reading || IsBinaryUpgrade || kapture_is_restoring()};

	if (!option_check_length(def, text, &fault) ||
		!def->parse(def, text, (char *) set + def->offset, &fault))
		option_report(def, text, &fault, ERROR);
	if (fault.dated && !reading)
		option_report(def, text, &fault, WARNING);
}

/* Puts what a server's dialect stands for into the set. */
static void
option_apply_dialect(OptionSet *set, List *options)
{
	const char *dialect = NULL;
	ListCell   *cell;

	foreach(cell, options)
	{
		if (strcmp(((DefElem *) lfirst(cell))->defname, "dialect") == 0)
			dialect = defGetString(lfirst(cell));
	}
	for (int i = 0; dialect && i < lengthof(option_table); i++)
	{
		const char *value = option_table[i].catalog != ForeignServerRelationId ? NULL :
			kapture_dialect_preset(dialect, option_table[i].name);

		if (value)
			option_apply(set, &option_table[i], value, true);
	}
}

/* Puts the options of one catalog's row into the set. */
static void
option_apply_list(OptionSet *set, List *options, Oid catalog, bool reading)
{
	ListCell   *cell;

	if (catalog == ForeignServerRelationId)
		option_apply_dialect(set, options);
	foreach(cell, options)
	{
		DefElem    *option = (DefElem *) lfirst(cell);
		const OptionDef *def = option_find(option->defname, catalog);

		if (def == NULL)
			option_raise_unknown(option->defname, catalog);
		option_apply(set, def, defGetString(option), reading);
	}
}

/* Checks what depends on several options of a server. */
static void
option_check_server(const OptionSet *set)
{
	const char *why = NULL;
	bool		is_https = false;
	bool		is_loopback = false;

	if (set->url == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"url\" is required"),
				 errhint("Add OPTIONS (url 'https://...') with the address that Kapture assigned to the account.")));

	if (set->server.pull_paged && set->server.cm_id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
				 errmsg("option \"%s\" is required", "cm_id"),
				 errdetail("Pulls of pull_form \"paged\" name the account by its number."),
				 errhint("It is \"cmId\" in the answers of kapture_get_customer().")));

	kapture_url_is_valid(set->url, &is_https, &is_loopback, &why);
	if (!is_https && !is_loopback && !set->server.allow_http)
		ereport(ERROR,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"",
						"url", set->url),
				 errdetail("Plain http would send keys and customers' data unencrypted to another host."),
				 errhint("Use https, or set option \"%s\" to true.",
						 "allow_http")));
}

/* Fills in the names for Add and Update, and checks that names and constants fit into one body. */
static void
option_check_dialect(OptionSet *set)
{
	static const KaptureApi apis[] = {KAPTURE_API_ADD, KAPTURE_API_UPDATE};

	for (int i = 0; i < lengthof(apis); i++)
	{
		KaptureDialectEntry *constants = set->server.constants[apis[i]];
		char	   *why = NULL;

		set->server.names[apis[i]] = set->field_names;
		if (set->field_names || constants)
			why = kapture_dialect_conflict(set->field_names, constants);
		if (why)
			ereport(ERROR,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("options \"%s\" and \"%s\" make no body", "field_names",
							apis[i] == KAPTURE_API_ADD ? "add_fields" : "update_fields"),
					 errdetail_internal("%s", why)));
	}
}

/*
 * Refuses secrets in a server's headers, as everybody who can connect can read them.
 * In a dump, they only cause a warning, as earlier versions accepted them.
 */
static void
option_check_headers(const OptionSet *set)
{
	int			level = IsBinaryUpgrade || kapture_is_restoring() ? WARNING : ERROR;

	for (char **header = set->server_headers; header && *header; header++)
	{
		if (kapture_header_is_secret(*header))
			ereport(level,
					(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
					 errmsg("header \"%.*s\" of option \"%s\" looks like a secret",
							(int) strcspn(*header, ":"), *header, "headers"),
					 errdetail("Everybody who can connect to the database can read the options of servers."),
					 errhint("Put it into the user mapping, which has an option \"%s\", too.", "headers")));
	}
}

/*
 * Refuses an address that was copied with the path of one of Kapture's calls at its end, as
 * paths are appended to the address.  In a dump, it only causes a warning.
 */
static void
option_check_address(const OptionSet *set)
{
	int			level = IsBinaryUpgrade || kapture_is_restoring() ? WARNING : ERROR;

	for (int i = 0; set->url && i < lengthof(option_table); i++)
	{
		const char *path = option_table[i].parse == option_parse_path ? option_table[i].initial : NULL;
		size_t		len = path ? strlen(path) : 0;

		if (path == NULL || strlen(set->url) <= len || strcmp(set->url + strlen(set->url) - len, path) != 0)
			continue;
		ereport(level,
				(errcode(ERRCODE_FDW_INVALID_ATTRIBUTE_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", "url", set->url),
				 errdetail("It ends with the path of a call of Kapture's, which is put behind the address anyway."),
				 errhint("Give the address without it: \"%.*s\".", (int) (strlen(set->url) - len), set->url)));
		return;
	}
}

/* Is an option in the list? */
static bool
option_is_given(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		if (strcmp(((DefElem *) lfirst(cell))->defname, name) == 0)
			return true;
	}
	return false;
}

/*
 * Refuses a mapping with two keys for the same calls, as one of them would silently be
 * ignored.  In a dump, it only causes a warning.
 */
static void
option_check_keys(List *options)
{
	int			level = IsBinaryUpgrade || kapture_is_restoring() ? WARNING : ERROR;
	const char *other = option_is_given(options, "user") ? "user" : "password";

	if (option_is_given(options, "auth_key") && option_is_given(options, other))
		ereport(level,
				(errcode(ERRCODE_FDW_INVALID_OPTION_NAME),
				 errmsg("options \"%s\" and \"%s\" exclude each other", "auth_key", other),
				 errdetail("Each of \"auth_key\", and \"user\" with \"password\", is a key for all calls."),
				 errhint("Leave one out, or take it out with ALTER USER MAPPING ... OPTIONS (DROP ...).")));
}

/* Reports options of a server that have no effect without others; only a NOTICE, as those may follow. */
static void
option_advise_server(List *options)
{
	static const struct
	{
		const char *option;
		const char *needs;
		const char *value;		/* such as */
		const char *detail;
	}			needs[] = {
		{"pull_since", "pull_interval", "5 minutes", "It is where automatic pulls begin."},
		{"pull_overlap", "pull_interval", "5 minutes", "It is how far automatic pulls reach back."},
		{"sweep_interval", "pull_interval", "5 minutes", "Known customers are asked for again beside automatic pulls."},
		{"sweep_rate", "sweep_interval", "7 days", "It is how fast known customers are asked for again."},
		{"cm_id", "pull_form", "paged", "It names the account in pulls of that form."},
		{"pull_limit", "pull_form", "paged", "It is the size of a page in pulls of that form."},
	};

	for (int i = 0; i < lengthof(needs); i++)
	{
		if (option_is_given(options, needs[i].option) && !option_is_given(options, needs[i].needs))
			ereport(NOTICE,
					(errmsg("option \"%s\" is of no use without option \"%s\"", needs[i].option, needs[i].needs),
					 errdetail_internal("%s", needs[i].detail),
					 errhint("Use ALTER SERVER ... OPTIONS (ADD %s '%s').", needs[i].needs, needs[i].value)));
	}
}

/* Does a mapping have a key, for any call? */
static bool
option_has_key(List *options)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		const char *name = ((DefElem *) lfirst(cell))->defname;

		if (strcmp(name, "user") == 0 || strcmp(name, "password") == 0 || strstr(name, "auth_key") != NULL)
			return true;
	}
	return false;
}

/* Reports a missing or incomplete key, without which no request can be made; only a NOTICE, as the rest may follow. */
static void
option_advise_keys(List *options)
{
	bool		has_user = option_is_given(options, "user");

	if (!option_has_key(options))
		ereport(NOTICE,
				(errmsg("the user mapping has no key"),
				 errdetail("Kapture takes no request without one."),
				 errhint("Use ALTER USER MAPPING ... OPTIONS (ADD auth_key '...'), with the key that Kapture's console shows.")));
	if (has_user == option_is_given(options, "password"))
		return;
	ereport(NOTICE,
			(errmsg("option \"%s\" is of no use without option \"%s\"", has_user ? "user" : "password", has_user ? "password" : "user"),
			 errdetail("The two together are a key for all calls."),
			 errhint("Use ALTER USER MAPPING ... OPTIONS (ADD %s '...').", has_user ? "password" : "\"user\"")));
}

/*
 * kapture_fdw_validator(options text[], catalog oid)
 *
 * Checks the options of a foreign server or user mapping when they are
 * created or altered; raises an error about the first one that is unknown
 * (HV00D) or has a bad value (HV024), among them headers of a server that look
 * like secrets and a "url" with the path of a call, or if "url" is missing (HV00J), or if a
 * mapping has two keys (HV00D).
 */
Datum
kapture_fdw_validator(PG_FUNCTION_ARGS)
{
	List	   *options = untransformRelOptions(PG_GETARG_DATUM(0));
	Oid			catalog = PG_GETARG_OID(1);
	OptionSet  *set = palloc0(sizeof(OptionSet));

	option_apply_list(set, options, catalog, false);
	if (catalog == ForeignServerRelationId)
	{
		option_check_server(set);
		option_check_dialect(set);
		option_check_headers(set);
		option_check_address(set);
		option_advise_server(options);
	}
	if (catalog == UserMappingRelationId)
	{
		option_check_keys(options);
		option_advise_keys(options);
	}

	PG_RETURN_VOID();
}


/*
 * The reader
 */

/* Does this user, or PUBLIC with InvalidOid, have a mapping? */
static bool
option_has_mapping(Oid userid, Oid serverid)
{
	return SearchSysCacheExists2(USERMAPPINGUSERSERVER,
								 ObjectIdGetDatum(userid),
								 ObjectIdGetDatum(serverid));
}

/* The user's name for messages; palloc'ed. */
static const char *
option_user_name(Oid userid)
{
	const char *name = GetUserNameFromId(userid, true);

	return name != NULL ? name : psprintf("%u", userid);
}

/* The mapping's options of the user, or else of PUBLIC. */
static List *
option_mapping_options(const ForeignServer *server, Oid userid)
{
	if (!option_has_mapping(userid, server->serverid) &&
		!option_has_mapping(InvalidOid, server->serverid))
	{
		const char *user = option_user_name(userid);

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("user \"%s\" has no user mapping for server \"%s\"",
						user, server->servername),
				 errhint("Use CREATE USER MAPPING FOR %s SERVER %s OPTIONS (auth_key '...').",
						 quote_identifier(user),
						 quote_identifier(server->servername))));
	}
	return GetUserMapping(userid, server->serverid)->options;
}

/* The transaction that wrote a row of a catalog; 0 if there is no row. */
static TransactionId
option_writer(HeapTuple tuple)
{
	TransactionId xid = InvalidTransactionId;

	if (HeapTupleIsValid(tuple))
	{
		xid = HeapTupleHeaderGetRawXmin(tuple->t_data);
		ReleaseSysCache(tuple);
	}
	return xid;
}

/* The version of server and mapping, which changes whenever either does. */
static uint64
option_version(Oid serverid, Oid userid)
{
	Datum		server = ObjectIdGetDatum(serverid);
	Oid			mapped = option_has_mapping(userid, serverid) ? userid : InvalidOid;

	return (uint64) option_writer(SearchSysCache1(FOREIGNSERVEROID, server)) << 32 |
		option_writer(SearchSysCache2(USERMAPPINGUSERSERVER, ObjectIdGetDatum(mapped), server));
}

/* Do these two header lines have the same name? */
static bool
option_same_header(const char *a, const char *b)
{
	size_t		len = strcspn(a, ":");

	return strcspn(b, ":") == len && pg_strncasecmp(a, b, len) == 0;
}

/* The headers of "special", and those of "more" that "special" does not have; either may be NULL. */
static char **
option_merge_headers(char **more, char **special)
{
	int			most = 0;
	int			n = 0;
	char	  **result;

	for (char **header = more; header && *header; header++)
		most++;
	for (char **header = special; header && *header; header++)
		most++;
	result = palloc0((most + 1) * sizeof(char *));
	for (char **header = special; header && *header; header++)
		result[n++] = *header;
	for (char **header = more; header && *header; header++)
	{
		bool		is_replaced = false;

		for (char **other = special; other && *other; other++)
			is_replaced |= option_same_header(*header, *other);
		if (!is_replaced)
			result[n++] = *header;
	}
	return result;
}

/* Reads a server and a mapping from the catalogs into CurrentMemoryContext. */
static KaptureServer *
option_read(const ForeignServer *server, Oid userid)
{
	OptionSet  *set = palloc0(sizeof(OptionSet));
	KaptureServer *result = &set->server;

	for (int i = 0; i < lengthof(option_table); i++)
	{
		if (option_table[i].initial != NULL)
			option_apply(set, &option_table[i], option_table[i].initial, true);
	}
	option_apply_list(set, server->options, ForeignServerRelationId, true);
	option_check_server(set);
	option_check_dialect(set);
	option_apply_list(set, option_mapping_options(server, userid),
					  UserMappingRelationId, true);

	result->serverid = server->serverid;
	result->owner = server->owner;
	result->userid = userid;
	result->version = option_version(server->serverid, userid);
	result->name = pstrdup(server->servername);
	result->body_array[KAPTURE_API_GET] = true;
	result->body_array[KAPTURE_API_PULL] = !result->pull_paged;
	result->base = set->url;
	for (int api = 0; api < KAPTURE_API_COUNT; api++)
	{
		if (set->path[api])
			result->url[api] = psprintf("%s%s", set->url, set->path[api]);
		result->secret_headers[api] = option_merge_headers(set->mapping_headers, set->api_headers[api]);
		result->headers[api] = option_merge_headers(set->server_headers, result->secret_headers[api]);
		if (result->auth_key[api] == NULL)
			result->auth_key[api] = set->auth_key;
	}
	return result;
}

/* Something about servers, mappings or wrappers changed: mark, do no work. */
static void
option_invalidate(Datum arg, int cacheid, uint32 hashvalue)
{
	option_generation++;
}

/* Once in each process. */
static void
option_init_cache(void)
{
	HASHCTL		info = {0};

	info.keysize = sizeof(OptionCacheKey);
	info.entrysize = sizeof(OptionCacheEntry);
	info.hcxt = CacheMemoryContext;
	option_cache = hash_create("kapture servers", 16, &info,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, option_invalidate,
								  (Datum) 0);
	CacheRegisterSyscacheCallback(FOREIGNDATAWRAPPEROID, option_invalidate,
								  (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGOID, option_invalidate,
								  (Datum) 0);
}

/* Removes the entries of dropped servers, if the catalogs have changed. */
static void
option_tidy_cache(void)
{
	static uint64 tidied = 0;
	HASH_SEQ_STATUS status;
	OptionCacheEntry *entry;

	if (tidied == option_generation)
		return;
	tidied = option_generation;
	hash_seq_init(&status, option_cache);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(entry->key.serverid)))
			continue;
		if (entry->context)
			MemoryContextDelete(entry->context);
		(void) hash_search(option_cache, &entry->key, HASH_REMOVE, NULL);
	}
}

/* Names of this wrapper's servers, as many as a hint may have; palloc'ed, NULL if there are none. */
static char *
option_servers_there(void)
{
	Relation	rel = table_open(ForeignServerRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	StringInfoData names;
	int			n = 0;

	initStringInfo(&names);
	while (n < OPTION_MAX_NAMED && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server server = (Form_pg_foreign_server) GETSTRUCT(tuple);

		if (strcmp(GetForeignDataWrapper(server->srvfdw)->fdwname, OPTION_WRAPPER) == 0)
			appendStringInfo(&names, "%s\"%s\"", n++ ? ", " : "", NameStr(server->srvname));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return n ? names.data : NULL;
}

/* The server of that name, which the user may use; raises errors otherwise. */
static ForeignServer *
option_lookup_server(const char *name, Oid userid)
{
	ForeignServer *server = GetForeignServerByName(name, true);
	AclResult	acl;

	if (server == NULL)
	{
		char	   *there = option_servers_there();

		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist", name),
				 there ?
				 errhint("Use CREATE SERVER %s FOREIGN DATA WRAPPER %s OPTIONS (url 'https://...'), or name one that is there as argument \"server\": %s.",
						 quote_identifier(name), OPTION_WRAPPER, there) :
				 errhint("Use CREATE SERVER %s FOREIGN DATA WRAPPER %s OPTIONS (url 'https://...').",
						 quote_identifier(name), OPTION_WRAPPER)));
	}

	if (strcmp(GetForeignDataWrapper(server->fdwid)->fdwname,
			   OPTION_WRAPPER) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("server \"%s\" is not a Kapture server", name),
				 errhint("Use a server that was created with FOREIGN DATA WRAPPER %s.",
						 OPTION_WRAPPER)));

	acl = object_aclcheck(ForeignServerRelationId, server->serverid, userid,
						  ACL_USAGE);
	if (acl != ACLCHECK_OK && userid == GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server %s", server->servername),
				 errhint("Use GRANT USAGE ON FOREIGN SERVER %s TO %s.",
						 quote_identifier(server->servername), quote_identifier(option_user_name(userid)))));
	if (acl != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for foreign server %s to role \"%s\"",
						server->servername, option_user_name(userid)),
				 errdetail("Rows are sent with the rights of their table's owner."),
				 errhint("Use GRANT USAGE ON FOREIGN SERVER %s TO %s.",
						 quote_identifier(server->servername), quote_identifier(option_user_name(userid)))));
	return server;
}

/*
 * kapture_server_get
 *		The server called "name" with the mapping of "userid", or else PUBLIC's.
 *
 * Needs a transaction.  The result belongs to the cache and is valid until
 * the next call.  A mapping without keys is no error here: see
 * kapture_server_require_key().
 *
 * Errors: 42704 no such server, or no mapping; 42809 a server of another
 * foreign data wrapper; 42501 no USAGE; HV024, HV00D options that the catalogs
 * should not hold.
 */
const KaptureServer *
kapture_server_get(const char *name, Oid userid)
{
	OptionCacheKey key;
	OptionCacheEntry *entry;
	ForeignServer *server;
	MemoryContext scratch;
	MemoryContext context;
	MemoryContext old;
	KaptureServer *result;
	uint64		generation;
	bool		found;

	if (option_cache == NULL)
		option_init_cache();
	option_tidy_cache();

	/* memory for the lookup must not add up for a caller that asks for each of many requests */
	scratch = AllocSetContextCreate(CurTransactionContext, "kapture server lookup", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(scratch);
	server = option_lookup_server(name, userid);
	memset(&key, 0, sizeof(key));
	key.serverid = server->serverid;
	key.userid = userid;
	entry = hash_search(option_cache, &key, HASH_ENTER, &found);
	if (!found)
		entry->context = NULL;
	if (entry->context != NULL && entry->generation == option_generation)
	{
		MemoryContextSwitchTo(old);
		MemoryContextDelete(scratch);
		return entry->server;
	}

	/*
	 * Take the count before reading: a change that is noticed while we read
	 * leaves an entry that the next call builds again.  The context becomes
	 * the cache's only when all is read, so that an error leaks nothing.
	 */
	generation = option_generation;
	context = AllocSetContextCreate(scratch, "kapture server",
									ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(context);
	result = option_read(server, userid);
	MemoryContextSwitchTo(old);

	if (entry->context != NULL)
		MemoryContextDelete(entry->context);
	MemoryContextSetParent(context, CacheMemoryContext);
	entry->context = context;
	entry->server = result;
	entry->generation = generation;
	MemoryContextDelete(scratch);
	return result;
}

/*
 * kapture_server_require_same
 *		Raises an error (55000) unless this is the server that an operation began
 *		with, and it still has the same owner.
 */
void
kapture_server_require_same(const KaptureServer *server, Oid serverid, Oid owner)
{
	if (server->serverid != serverid || server->owner != owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("server \"%s\" is no longer the one that was used before", server->name),
				 errdetail("It was dropped and created anew, renamed, or given to another owner."),
				 errhint("Try again if it is the right one.")));
}

/*
 * kapture_server_require_key
 *		Raises an error (HV00J) unless the mapping has what "api" needs: a key,
 *		or user and password.
 */
void
kapture_server_require_key(const KaptureServer *server, KaptureApi api)
{
	const char *missing;

	if (server->auth_key[api] != NULL ||
		(server->user != NULL && server->password != NULL))
		return;

	if (server->user != NULL)
		missing = "password";
	else if (server->password != NULL)
		missing = "user";
	else
		missing = "auth_key";

	ereport(ERROR,
			(errcode(ERRCODE_FDW_OPTION_NAME_NOT_FOUND),
			 errmsg("user mapping of server \"%s\" has no key for the API \"%s\"",
					server->name, kapture_api_label(server, api)),
			 errdetail("Option \"%s\" is missing in the mapping of user \"%s\" or PUBLIC.",
					   missing, option_user_name(server->userid)),
			 api == KAPTURE_API_MODULE ?
			 errhint("Use ALTER USER MAPPING ... SERVER %s OPTIONS (ADD ...) with \"auth_key\", with \"auth_keys\", or with both \"user\" and \"password\".",
					 quote_identifier(server->name)) :
			 errhint("Use ALTER USER MAPPING ... SERVER %s OPTIONS (ADD ...) with \"auth_key\", with \"%s_auth_key\", or with both \"user\" and \"password\".",
					 quote_identifier(server->name),
					 kapture_api_name(api))));
}

/*
 * kapture_api_name
 *		The short name of an API, as in the names of its options; static.
 */
const char *
kapture_api_name(KaptureApi api)
{
	switch (api)
	{
		case KAPTURE_API_ADD:
			return "add";
		case KAPTURE_API_UPDATE:
			return "update";
		case KAPTURE_API_GET:
			return "get";
		case KAPTURE_API_PULL:
			return "pull";
		case KAPTURE_API_MODULE:
			return "module";
	}
	elog(ERROR, "unknown Kapture API: %d", (int) api);
	return NULL;				/* not reached */
}

/*
 * kapture_api_label
 *		The name of an API for messages; for another module, the name that the
 *		caller gave, which lives as long as the server.
 */
const char *
kapture_api_label(const KaptureServer *server, KaptureApi api)
{
	return api == KAPTURE_API_MODULE && server->module ? server->module : kapture_api_name(api);
}
