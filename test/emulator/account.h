/*
 * account.h
 *		How the account differs from the vendor's document.
 */
#ifndef ACCOUNT_H
#define ACCOUNT_H

#include <stdbool.h>

#include <jansson.h>

#include "api.h"
#include "store.h"

/* Names of the fields in requests to Add and Update. */
typedef enum Dialect
{
	DIALECT_SEED,
	DIALECT_ARRAY_NAME,
	DIALECT_V1,
	N_DIALECTS
} Dialect;

/* What Add and Update say of the customer's id. */
typedef enum AnswerForm
{
	ANSWER_ENQUIRY,
	ANSWER_FLAT,				/* "Kapture Customer Id" */
	ANSWER_NO_ID,
	N_ANSWER_FORMS
} AnswerForm;

typedef struct Account
{
	Dialect		dialect;
	AnswerForm	answer;
	bool		upsert;			/* a repeated Add overwrites */
	bool		invalid_json;	/* a wrong wrap is answered with HTTP 200 */
	bool		lead_exists;	/* duplicates are named by their id */
	bool		paged;			/* Pull wants an object and gives pages */
	int			page_rows;		/* customers of a page at most; 0: as many as asked for */
	bool		page_repeats;	/* the offset is ignored */
	bool		page_newest;	/* the newest customer comes first */
	int			page_grows;		/* customers added after each page */
	const char *api_keys[N_APIS];	/* x-api-key of each API, or NULL */
} Account;

extern Account account;

extern const char *account_set(json_t *settings);
extern json_t *account_field(json_t *object, const char *name);

#endif
