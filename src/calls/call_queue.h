/*
 * call_queue.h
 *		The table of calls that wait to be sent: what the worker does with it.
 */
#ifndef KAPTURE_CALL_QUEUE_H
#define KAPTURE_CALL_QUEUE_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

/* What waiting calls have in common that are sent alike. */
typedef struct KaptureCallAccount
{
	Oid			sender;
	char	   *server;
	char	   *api;
} KaptureCallAccount;

/* A claimed call. */
typedef struct KaptureCall
{
	MemoryContext context;		/* of its own */
	int64		id;
	int			attempts;
	int			failures;		/* in a row, before this attempt */
	bool		always;			/* send it until there is an answer */
	Oid			server_oid;
	Oid			server_owner;
	Jsonb	   *body;
} KaptureCall;

/* What became of a claimed call. */
typedef struct KaptureCallOutcome
{
	const char *state;			/* "done", "failed", "unknown", or "waiting" for another try */
	bool		counts;			/* waiting: this was a failure of the call's own, */
	bool		untried;		/* or not even an attempt */
	TimestampTz next_attempt;	/* waiting: when */
	int			http_status;	/* 0: no answer came */
	Jsonb	   *answer;			/* or NULL */
	const char *message;		/* "" if none */
} KaptureCallOutcome;

/* So many calls to a server. */
typedef struct KaptureCallCount
{
	char	   *server;
	int			calls;
} KaptureCallCount;

extern bool kapture_call_queue_exists(void);
extern List *kapture_call_queue_accounts(void);
extern List *kapture_call_queue_claim(const KaptureCallAccount *account, int limit);
extern void kapture_call_queue_shift(int64 jump);
extern TimestampTz kapture_call_queue_due(const KaptureCallAccount *account);
extern void kapture_call_queue_settle(const KaptureCall *call, const KaptureCallOutcome *outcome);
extern void kapture_call_queue_explain(const KaptureCallAccount *account, const char *message);
extern uint64 kapture_call_queue_give_up(const KaptureCallAccount *account, const char *message);
extern List *kapture_call_queue_recover(void);
extern List *kapture_call_queue_doubt(TimestampTz until);
extern TimestampTz kapture_call_queue_expire(void);

#endif							/* KAPTURE_CALL_QUEUE_H */
