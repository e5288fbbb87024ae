/*
 * reply.h
 *		Kapture's language: request bodies out, answers in.  No I/O.
 */
#ifndef KAPTURE_REPLY_H
#define KAPTURE_REPLY_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "api/identity.h"
#include "api/option.h"
#include "api/words.h"

/* What an answer of Kapture means. */
typedef enum KaptureVerdict
{
	KAPTURE_SUCCESS,
	KAPTURE_NOT_FOUND,			/* Get: does not exist; Pull: no customers */
	KAPTURE_DUPLICATE_PHONE,	/* Add, Update: the phone belongs to another customer */
	KAPTURE_DUPLICATE_EMAIL,
	KAPTURE_DUPLICATE_BOTH,
	KAPTURE_REFUSED,			/* the request's content is at fault */
	KAPTURE_MISFIT,				/* the account wants another form of body */
	KAPTURE_DENIED,				/* key or address is at fault: 401, 403, 404 */
	KAPTURE_THROTTLED,			/* 429: later */
	KAPTURE_BROKEN				/* 5xx, or an answer that makes no sense */
} KaptureVerdict;

typedef struct KaptureReply
{
	KaptureVerdict verdict;
	int64		customer_id;	/* Add, Update, Get; 0 if not given */
	int64		contact_id;		/* Add; 0 if not given */
	int64		named_id;		/* customer that the words about a duplicate name, or 0 */
	bool		is_known;		/* refused in words that are known to be about values */
	char	   *message;		/* Kapture's words on one line, trimmed; "" if none */
	KaptureIdentity repeated;	/* Add, Update: what the answer repeats of the customer sent */
} KaptureReply;

/* Where a customer is in the text of an answer. */
typedef struct KaptureSlice
{
	int			start;
	int			len;
} KaptureSlice;

/* Is the value of a key wanted? */
typedef bool (*KaptureWanted) (void *arg, const char *key, int len);

/* The customers of an answer, as text. */
typedef struct KaptureList
{
	char	   *text;			/* the whole answer */
	int			ncustomers;
	KaptureSlice *customers;	/* any JSON values */
	Jsonb	   *rest;			/* the answer without the customers, in "scratch" */
	int			naltered;		/* customers with a value that was replaced */
	int64	   *altered;		/* their ids, 0: not known */
} KaptureList;

extern Jsonb *kapture_message_parse(const char *body, size_t len, bool *altered, char **why);
extern KaptureList *kapture_message_split(const char *body, size_t len,
										  MemoryContext scratch, char **why);
extern Jsonb *kapture_message_customer(const KaptureList *list, int n);
extern Jsonb *kapture_message_customer_parts(const KaptureList *list, int n, KaptureWanted wanted, void *arg);
extern void kapture_message_judge(KaptureApi api, int status, Jsonb *answer,
								  const KaptureSent *sent, KaptureReply *reply);
extern void kapture_message_judge_written(KaptureApi api, int status, const char *body, size_t len,
										  const KaptureSent *sent, KaptureReply *reply, char **why);
extern bool kapture_message_wants_match(void *arg, const char *key, int len);
extern void kapture_message_match_found(Jsonb *answer, const char *phone, const char *email,
										KaptureMatch *by_phone, KaptureMatch *by_email);
extern bool kapture_message_confirm(KaptureReply *reply, const KaptureIdentity *sent, int64 id);
extern bool kapture_message_confirm_customer(KaptureReply *reply, JsonbContainer *customer);
extern bool kapture_message_confirm_body(KaptureReply *reply, const char *body, size_t len);
extern bool kapture_message_customers(Jsonb *answer, JsonbValue *customers);
extern char *kapture_message_body(const KaptureServer *server, KaptureApi api,
								  const char *body, size_t len, size_t *result_len);
extern void kapture_message_append_field(StringInfo body, const char *name,
										 const char *value);
extern char *kapture_message_date(Timestamp when);

#endif							/* KAPTURE_REPLY_H */
