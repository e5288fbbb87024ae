/*
 * fault.h
 *		Faults on demand.
 */
#ifndef FAULT_H
#define FAULT_H

#include <stdbool.h>

#include <jansson.h>

#include "api.h"

typedef enum FaultAction
{
	FAULT_NONE,					/* answer as usual, perhaps delayed */
	FAULT_STATUS,				/* do nothing; HTTP code, body and headers of the rule */
	FAULT_DROP_BEFORE,			/* close the connection, nothing done */
	FAULT_DROP_AFTER,			/* do it, then close the connection */
	FAULT_TRUNCATE,				/* do it, send half of the answer */
	FAULT_GARBAGE,				/* do it, answer with bytes that mean nothing */
	FAULT_HTML,					/* do it, answer with a page */
	FAULT_ENDLESS,				/* do it, answer without end */
	FAULT_REDIRECT,				/* do nothing; point elsewhere */
	FAULT_HANG,					/* do it, never answer */
	FAULT_HOLD,					/* do it, answer when told to */
	FAULT_LATE,					/* wait, then do it and answer */
	FAULT_GATEWAY,				/* answer 502 at once, do it later */
	FAULT_FLAT,					/* do it, answer in the other shape */
	FAULT_NOT_FOUND,			/* a Get that lags behind */
	FAULT_INSTEAD,				/* do it, answer with the body of the rule */
	FAULT_UNASKED,				/* do it, answer, and say more a while later */
	FAULT_BOM,					/* do it, a byte order mark before the answer */
	FAULT_GZIP					/* do it, pack the answer */
} FaultAction;

/* What to do about one request; pointers stay valid for good. */
typedef struct Fault
{
	FaultAction action;
	const char *name;			/* the action's; NULL: no rule met the request */
	int			delay_ms;
	int			code;
	const char *body;			/* or NULL */
	json_t	   *headers;		/* or NULL */
} Fault;

extern const char *fault_set(json_t *rules);
extern json_t *fault_list(void);
extern Fault fault_pick(Api api, const char *body);

#endif
