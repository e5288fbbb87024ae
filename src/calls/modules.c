/*
 * modules.c
 *		The APIs of Kapture's modules other than customers: their names and default
 *		paths.
 *
 * An API is named by one of these names, by one of the server option api_paths, or by its
 * path.  The contents of its bodies are not interpreted.
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "api/url.h"
#include "calls/modules.h"

typedef struct Module
{
	const char *name;
	const char *path;
	bool		is_array;		/* the API takes an array of one object */
} Module;

/*
 * The numbers of these entries are in the counters that a shutdown writes to a file (see
 * request_stats.c), so new entries are added at the end.
 */
static const Module module_table[] = {
	{"ticket_add", "/add-ticket-from-other-source.html/v.2.0", true},
	{"ticket_update", "/update-ticket-from-other-source.html/v.2.0", true},
	{"ticket_get", "/search-ticket-by-ticket-id.html/v.2.0", false},
	{"ticket_pull", "/select-ticket-between-start-and-end-dates.html/v.2.0", true},
	{"order_add", "/add-update-order-from-other-source.html", true},
	{"order_v1", "/ms/customer/order/api/v1/add-update", false},
	{"enquiry_add", "/add-update-enquiry-from-other-source.html", true},
	{"product_add", "/add-update-product-from-other-source.html", true},
	{"faq_contents", "/get-faq-contents.html", true},
	{"faq_categories", "/get-all-faq-categories.html", true},
};

/* Returns the number of the module with this name; -1 if there is none. */
static int
module_find(const char *name)
{
	for (int i = 0; i < lengthof(module_table); i++)
	{
		if (strcmp(module_table[i].name, name) == 0)
			return i;
	}
	return -1;
}

/* Finds an entry in a list, which may be NULL, by its name; returns NULL if it is not there. */
static const KaptureApiEntry *
module_entry(const KaptureApiEntry *entries, const char *name)
{
	for (; entries && entries->name; entries++)
	{
		if (strcmp(entries->name, name) == 0)
			return entries;
	}
	return NULL;
}

/* Raises the error about an unknown API. */
static void
module_raise_unknown(const KaptureServer *server, const char *api)
{
	StringInfoData valid;

	initStringInfo(&valid);
	for (int i = 0; i < lengthof(module_table); i++)
		appendStringInfo(&valid, "%s%s", i > 0 ? ", " : "", module_table[i].name);
	for (const KaptureApiEntry *entry = server->api_paths; entry && entry->name; entry++)
	{
		if (module_find(entry->name) < 0)
			appendStringInfo(&valid, ", %s", entry->name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("server \"%s\" has no API \"%s\"", server->name, api),
			 errdetail("The APIs that have a name are: %s.", valid.data),
			 errhint("Name one of them, give the API a name in option \"%s\" of the server, or give its path, which begins with \"/\".",
					 "api_paths")));
}

/*
 * kapture_module_bind
 *		Returns a copy of the server, in the current memory context, whose
 *		KAPTURE_API_MODULE is the API that "api" names; what the server and "api"
 *		point to has to live as long as the copy.
 *
 * body_array tells whether the API takes an object in an array; for an API that is named by
 * its path, that is not known, and it is false.  Errors: 22023 no such name, or a path that
 * cannot be used.
 */
KaptureServer *
kapture_module_bind(const KaptureServer *server, const char *api)
{
	KaptureServer *result = palloc(sizeof(KaptureServer));
	bool		is_path = api[0] == '/';
	int			number = is_path ? -1 : module_find(api);
	const KaptureApiEntry *entry = is_path ? NULL : module_entry(server->api_paths, api);
	const KaptureApiEntry *key = module_entry(server->auth_keys, api);
	const char *path = is_path ? api : number >= 0 ? module_table[number].path : NULL;
	const char *why;

	if (entry && entry->value)
		path = entry->value;
	if (path == NULL)
		module_raise_unknown(server, api);
	*result = *server;
	result->module = api;
	result->counted_as = KAPTURE_API_MODULE + 1 + number;
	result->body_array[KAPTURE_API_MODULE] = entry && entry->has_form ? entry->is_array :
		number >= 0 && module_table[number].is_array;
	if (key)
		result->auth_key[KAPTURE_API_MODULE] = key->value;
	result->url[KAPTURE_API_MODULE] = kapture_url_join(server->base, path, &why);
	if (result->url[KAPTURE_API_MODULE] == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("path \"%s\" of an API cannot be used", path),
				 errdetail("The path is refused because %s.", why),
				 errhint("Give a path below the URL of the server, such as \"/add-ticket-from-other-source.html/v.2.0\".")));
	return result;
}

/*
 * kapture_module_counted_name
 *		Returns the name under which requests are counted: of a customer API, or of
 *		a module; "other" for an API that was named by its path, or has a name only
 *		in api_paths.  The string is static.
 */
const char *
kapture_module_counted_name(int counted_as)
{
	int			number = counted_as - KAPTURE_API_MODULE - 1;

	if (counted_as < KAPTURE_API_MODULE)
		return kapture_api_name((KaptureApi) counted_as);
	return number >= 0 && number < lengthof(module_table) ? module_table[number].name : "other";
}
