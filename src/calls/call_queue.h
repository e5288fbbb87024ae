/*
 * call_queue.h
 *		The worker's access to the table of calls that wait to be sent.
 */
#ifndef KAPTURE_CALL_QUEUE_H
#define KAPTURE_CALL_QUEUE_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

/* Where calls go, and in whose name; calls of an account are sent alike. */
typedef struct KaptureCallAccount
{
	Oid			sender;
	char	   *server;
	char	   *api;
} KaptureCallAccount;

/* A claimed call. */
typedef struct KaptureCall
{
	MemoryContext context;		/* owns the call */
	int64		id;
	int			attempts;
	int			failures;		/* in a row, before this attempt */
	bool		always;			/* send the call until there is an answer */
	Oid			server_oid;
	Oid			server_owner;
	Jsonb	   *body;
} KaptureCall;

/* The outcome of a claimed call. */
typedef struct KaptureCallOutcome
{
	const char *state;			/* "done", "failed", "unknown", or "waiting" for another try */
	bool		counts;			/* if waiting: this was a failure of the call itself, */
	bool		untried;		/* or not even an attempt */
	TimestampTz next_attempt;	/* if waiting */
	int			http_status;	/* 0: no answer came */
	Jsonb	   *answer;			/* or NULL */
	const char *message;		/* "" if none */
} KaptureCallOutcome;

/* The number of calls to a server. */
typedef struct KaptureCallCount
{
	char	   *server;
	int			calls;
} KaptureCallCount;

extern bool kapture_call_queue_exists(void);
extern List *kapture_call_queue_accounts(void);
extern List *kapture_call_queue_claim(const KaptureCallAccount *account, int limit, TimestampTz doubt_until, int *unknown);
extern void kapture_call_queue_shift(int64 jump);
extern TimestampTz kapture_call_queue_due(const KaptureCallAccount *account);
extern void kapture_call_queue_settle(const KaptureCall *call, const KaptureCallOutcome *outcome);
extern void kapture_call_queue_explain(const KaptureCallAccount *account, const char *message);
extern uint64 kapture_call_queue_follow(const KaptureCallAccount *account);
extern uint64 kapture_call_queue_give_up(const KaptureCallAccount *account, const char *message);
extern List *kapture_call_queue_recover(TimestampTz began, bool *rest);
extern List *kapture_call_queue_doubt(TimestampTz until);
extern TimestampTz kapture_call_queue_expire(void);

#endif							/* KAPTURE_CALL_QUEUE_H */
