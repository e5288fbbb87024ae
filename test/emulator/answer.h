/*
 * answer.h
 *		The shapes of Kapture's answers.
 */
#ifndef ANSWER_H
#define ANSWER_H

#include <stdbool.h>
#include <stdint.h>

#include "buf.h"
#include "store.h"

#define TYPE_JSON	"application/json;charset=UTF-8"
#define TYPE_HTML	"text/html;charset=UTF-8"

/* An answer, and what the counters want to know about it. */
typedef struct Reply
{
	int			code;			/* HTTP; 0: none yet */
	const char *content_type;
	Buf			body;
	int64_t		id;				/* the customer it is about, or 0 */
	bool		success;		/* its status says so */
} Reply;

extern void answer_plain(Reply *reply, int code, const char *content_type, const char *body);
extern void answer_failed(Reply *reply, int code, const char *message);
extern void answer_enquiry(Reply *reply, const FieldValues *values, int64_t id, int64_t contact_id);
extern void answer_customer(Reply *reply, const Customer *customer);
extern void answer_not_found(Reply *reply);
extern void answer_pull_begin(Reply *reply);
extern void answer_pull_customer(Reply *reply, const Customer *customer);
extern void answer_pull_end(Reply *reply);
extern void answer_flat(Reply *reply);

#endif
