/*
 * request_pool.h
 *		The requests that a reader, a statement or a worker has in flight to one
 *		server: when the next may start, and whether one is tried again.
 */
#ifndef KAPTURE_REQUEST_POOL_H
#define KAPTURE_REQUEST_POOL_H

#include "postgres.h"

#include "datatype/timestamp.h"

typedef struct KaptureRequestPool
{
	int			most;			/* requests that may be in flight */
	int			running;		/* requests that are in flight */
	TimestampTz not_before;		/* the server is to be left alone until then */
	TimestampTz next_start;		/* when the limiter is to be asked again, 0: at once */
	uint32		outages;		/* failures that have counted, see kapture_request_pool_failed() */
} KaptureRequestPool;

extern void kapture_request_pool_init(KaptureRequestPool *pool, int most);
extern TimestampTz kapture_request_pool_next(const KaptureRequestPool *pool);
extern uint32 kapture_request_pool_started(KaptureRequestPool *pool);
extern void kapture_request_pool_refused(KaptureRequestPool *pool, TimestampTz when);
extern void kapture_request_pool_ended(KaptureRequestPool *pool);
extern bool kapture_request_pool_failed(KaptureRequestPool *pool, uint32 since);
extern void kapture_request_pool_wait(KaptureRequestPool *pool, TimestampTz now, int64 milliseconds);
extern bool kapture_request_pool_retry(KaptureRequestPool *pool, int *attempts, int64 retry_after,
									   TimestampTz now);

#endif							/* KAPTURE_REQUEST_POOL_H */
