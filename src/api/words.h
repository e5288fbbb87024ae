/*
 * words.h
 *		What Kapture's words mean.
 */
#ifndef KAPTURE_WORDS_H
#define KAPTURE_WORDS_H

#include "postgres.h"

#include "api/option.h"

/* What the words of an answer that is no success mean. */
typedef enum KaptureMeaning
{
	KAPTURE_MEANS_UNKNOWN,		/* words that no rule knows */
	KAPTURE_MEANS_BAD_KEY,		/* the key is wrong, or has expired */
	KAPTURE_MEANS_BAD_FORM,		/* the body does not have the account's form */
	KAPTURE_MEANS_NOBODY,		/* Get, Pull: there is no such customer */
	KAPTURE_MEANS_TAKEN,		/* Add, Update: the customer exists already */
	KAPTURE_MEANS_BAD_VALUE,	/* Add, Update, Get: a value of the customer is at fault */
	KAPTURE_MEANS_TOO_MANY,		/* Kapture wants fewer requests */
	KAPTURE_MEANS_FAULT			/* Kapture itself failed */
} KaptureMeaning;

/* Values that were sent, which Kapture may repeat in its words; NULL and empty ones are ignored. */
typedef struct KaptureSent
{
	char	  **values;
	int			n;
} KaptureSent;

extern bool kapture_words_say(const char *text, const char *words);
extern KaptureMeaning kapture_words_mean(KaptureApi api, const char *text);
extern char *kapture_words_own(KaptureApi api, const char *text, const KaptureSent *sent);
extern int64 kapture_words_customer_id(const char *text);

#endif							/* KAPTURE_WORDS_H */
