/*
 * pull_server.h
 *		A server that customers are pulled from automatically: its pulls and
 *		periodic re-checks.
 */
#ifndef KAPTURE_PULL_SERVER_H
#define KAPTURE_PULL_SERVER_H

#include "postgres.h"

#include "lib/ilist.h"
#include "utils/timestamp.h"

#include "api/server.h"
#include "fetch/fetch.h"
#include "pull/mirror.h"
#include "pull/sweep.h"
#include "table/share.h"

/* A pull in flight; all of it is in one memory context. */
typedef struct PullRun
{
	MemoryContext context;
	KaptureFetch *fetch;
	KaptureCopies *copies;
	TimestampTz began;
	Timestamp	end;
	TimestampTz pulled_until;	/* the watermark, as committed */
	TimestampTz newest;			/* latest generation date of a window's pages so far */
	TimestampTz when;			/* when the fetch is to be polled, at the latest */

	/* the window that is being written, a slice at a time */
	bool		writing;
	KaptureWindow window;
	int			at;				/* next customer */
	int64		seen;			/* customers so far, */
	int64		written;		/* and those of them that differ */
} PullRun;

typedef struct PullServer
{
	dlist_node	node;
	MemoryContext context;		/* of all that belongs to the server */
	KapturePullServer server;
	bool		present;		/* still to be pulled from */
	bool		wrote;			/* customers came that attached tables may take */
	KaptureTurn turn;
	bool		changed;		/* its settings are to be read again */
	bool		configured;		/* they were read, or tried to be */
	bool		stirred;		/* the pull or sweep in flight may have got further */

	/* from its settings */
	int64		interval;		/* microseconds; 0: not known, or none */
	int64		overlap;		/* microseconds */
	Timestamp	since;			/* 0: not given */
	char	   *timezone;
	int64		window;			/* seconds */

	TimestampTz next;			/* when the next pull is due */
	TimestampTz not_before;		/* no pull or sweep is begun before */
	int			failures;		/* in a row */
	PullRun    *run;			/* NULL: none */
	int			slice;			/* customers to be written in one turn */

	int64		sweep_interval; /* microseconds; 0: none */
	double		sweep_rate;
	TimestampTz next_sweep;
	KaptureSweep *sweep;		/* NULL: none */
	TimestampTz sweep_when;		/* when the sweep is to be called, at the latest */
} PullServer;

extern PullServer *kapture_pull_server_create(const KapturePullServer *server);
extern void kapture_pull_server_forget(PullServer *server);
extern void kapture_pull_server_change(PullServer *server);
extern void kapture_pull_server_work(PullServer *server, uint64 round);
extern void kapture_pull_server_stop(PullServer *server);
extern TimestampTz kapture_pull_server_next(const PullServer *server);
extern void kapture_pull_server_served(PullServer *server);

#endif							/* KAPTURE_PULL_SERVER_H */
