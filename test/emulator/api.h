/*
 * api.h
 *		The APIs: what a request asks for, and doing it.
 */
#ifndef API_H
#define API_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "answer.h"

typedef enum Api
{
	API_ADD,
	API_UPDATE,
	API_GET,
	API_PULL,
	/* other modules, see modules.c */
	API_TICKET_ADD,
	API_TICKET_UPDATE,
	API_TICKET_GET,
	API_TICKET_PULL,
	API_ORDER_ADD,
	API_ORDER_V1,
	API_ENQUIRY_ADD,
	API_PRODUCT_ADD,
	API_FAQ_CONTENTS,
	API_FAQ_CATEGORIES,
	N_APIS
} Api;

typedef struct ApiRequest
{
	Api			api;
	json_t	   *body;			/* NULL: not JSON */
	json_t	   *object;			/* the one object in it; NULL: none */
} ApiRequest;

extern const char *const api_names[N_APIS];

extern void api_set_key(Api api, const char *key);
extern void api_set_array(Api api, bool array);
extern void api_set_pull_limit(int hours);
extern void api_set_pull_rows(int rows);

extern bool api_by_name(const char *name, Api *api);
extern bool api_read(ApiRequest *request, const char *path, const char *body, size_t len);
extern void api_perform(const ApiRequest *request, const char *authorization, const char *api_key, Reply *reply);
extern void api_free(ApiRequest *request);

/* Also how seeding reads a customer; values point into the object. */
extern void api_field_values(json_t *object, FieldValues *values);

#endif
