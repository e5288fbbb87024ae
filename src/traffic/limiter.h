/*
 * limiter.h
 *		Options max_connections and rate_limit, for all processes of a database
 *		together.
 */
#ifndef KAPTURE_LIMITER_H
#define KAPTURE_LIMITER_H

#include "postgres.h"

#include "datatype/timestamp.h"

/* No place was taken. */
#define KAPTURE_LIMITER_NONE	(-1)

/* What takes turns besides the roles of sessions; roles have oids. */
typedef enum KaptureLimiterParty
{
	KAPTURE_LIMITER_SESSION,	/* as its role */
	KAPTURE_LIMITER_WORKER,
	KAPTURE_LIMITER_PULLER
} KaptureLimiterParty;

extern void kapture_limiter_install(void);
extern void kapture_limiter_enter_process(KaptureLimiterParty party);
extern int	kapture_limiter_take(Oid serverid, Oid owner, int max_connections, double rate_limit, int64 timeout,
								 TimestampTz *when);
extern void kapture_limiter_release(int taken);

#endif							/* KAPTURE_LIMITER_H */
