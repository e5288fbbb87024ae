/*
 * state.h
 *		What the worker of a database knows: servers, attached tables, and the
 *		tasks of claimed rows.
 */
#ifndef KAPTURE_STATE_H
#define KAPTURE_STATE_H

#include "postgres.h"

#include "lib/ilist.h"
#include "nodes/pg_list.h"
#include "utils/hsearch.h"
#include "utils/timestamp.h"
#include "base/catalog.h"
#include "cluster/report.h"
#include "cluster/shmem.h"
#include "push/notify.h"
#include "push/refusals.h"
#include "push/rotation.h"
#include "push/task.h"
#include "queue/scan.h"
#include "table/origin.h"
#include "table/share.h"
#include "traffic/request_pool.h"

/* Rows claimed at once, at most. */
#define WORKER_MAX_BATCH	500

/* Milliseconds between two looks at a table that somebody has locked. */
#define WORKER_LOCKED_LOOK	1000

/*
 * Milliseconds between two looks at all tables while the outbox may hold changes whose
 * wake-up was lost (a session that ended between its commit and the wake-up).
 */
#define WORKER_SAFETY_LOOK	60000

/* Milliseconds between two tries of what an error has stopped, at most. */
#define WORKER_ERROR_LONGEST	60000

/* After so many in a row, errors that usually pass are taken for a row's own. */
#define WORKER_PASSING_ERRORS	3

/* An account: a server as seen by the owner of attached tables. */
typedef struct WorkerServer
{
	dlist_node	node;
	struct Worker *worker;
	char	   *name;
	Oid			owner;
	KaptureShare *share;		/* the owner's */
	char	   *problem;		/* why its settings cannot be used, or NULL */
	uint64		version;		/* of its settings */
	uint32		hash;			/* by which its changes are announced, 0: not known */

	/* from its settings */
	int			max_connections;
	int64		timeout;		/* milliseconds */
	double		rate_limit;		/* requests a second, 0: none */
	bool		check_rows;
	bool		add_is_upsert;
	char	   *timezone;

	dlist_head	ready;			/* tasks whose request is to be sent */
	int			nready;
	int			ntasks;			/* these, those in flight, and those answered */
	int			ntables;		/* that refer to it */
	int			start_errors;	/* requests in a row that could not be started */
	int			failures;		/* in a row, of different rows */
	int			sick;			/* in a row, of any */
	KaptureServerState logged;	/* last */
	KaptureServerState notified;	/* last */
	bool		used;			/* attached tables go to it */
	int64		failed_row;		/* delivery that failed last */
	KaptureServerState health;
	KaptureRequestPool pool;	/* of its requests */
	bool		asked;			/* for not_before: by the server itself */
	KaptureRefusals refusals;
	KaptureRotating rotating;	/* its rows, among all that sends there */
} WorkerServer;

/* An attached table. */
typedef struct WorkerTable
{
	dlist_node	node;
	struct Worker *worker;
	MemoryContext context;		/* of "att" */
	KaptureAttachment *att;
	List	   *retired;		/* contexts of older ones, still referred to */
	int			ntasks;			/* which refer to one of them */
	WorkerServer *server;
	KaptureAttachedVersion version; /* of the attachment that was read */
	bool		stale;			/* the table, or its server, may have changed since */
	bool		seen;			/* is attached, says the list that is being read */
	bool		attached;		/* still */
	bool		present;		/* and fit to be sent */
	char	   *problem;		/* why it is not, or NULL */
	bool		recovered;		/* nothing of an earlier worker is 'sending' */
	char	   *suspect;		/* key of a row that could not be claimed alone, once */
	bool		in_trouble;		/* and says so in kapture_status */
	KaptureScan scan;
	KaptureScan keys;			/* that of changes of keys and deletions */
	bool		look;			/* the outbox may hold something to take, */
	bool		fresh;			/* perhaps newer than the running pass sees */
	TimestampTz next_due;		/* next try of a failed row, DT_NOEND: none */
	TimestampTz well_since;		/* rows that failed before are due, 0: none are */
	TimestampTz follow_at;		/* when changes of tables that it follows are due,
								 * DT_NOEND: when something is noted */
	int			follow_values;	/* how many of them are looked at together, 0: as many as may be */
	int			follow_errors;	/* in a row */
	TimestampTz last_success;
	KaptureOutcomes outcomes;	/* of its rows, for log and notifications */
	KaptureTableReport said;	/* to whoever looks, */
	bool		shown;			/* if anything was */

	/* what it takes of others' time and memory */
	KaptureTurn turn;
	Size		row_bytes;		/* of a row, in the last batch */
	List	   *settling;		/* tasks whose ids are being written */
} WorkerTable;

/* A claimed row, and the request that is sent for it. */
typedef struct WorkerTask
{
	dlist_node	node;			/* in its server's queue */
	WorkerServer *server;
	WorkerTable *table;
	int			start_errors;	/* how often its request could not be made or started */
	bool		unchecked;		/* another row may have its customer */
	uint32		since;			/* when its last request started, see request_pool.c */
	KaptureShare *share;
	Size		bytes;			/* held in memory for it */
	KaptureTask task;
} WorkerTask;

/* The worker: all that it knows.  There is one in a process. */
typedef struct Worker
{
	MemoryContext context;		/* what lives as long as the process */
	dlist_head	servers;		/* WorkerServer */
	dlist_head	tables;			/* WorkerTable */
	KaptureOrigin origin;		/* of the database */
	Oid			installation;	/* our kapture_attachment */
	bool		alone;			/* no other worker serves this database */
	bool		outdated;		/* the extension is not of our version */
	bool		said_copy;		/* in the log, that the database is one */

	/* reading attachments and servers */
	bool		stale;			/* they may have changed */
	bool		loaded;			/* and the last time that went well */
	int			load_errors;	/* in a row */
	TimestampTz load_not_before;	/* after those, or as other work has its turn first */
	TimestampTz next_load;		/* when to look again at tables that were locked */

	/* claiming and sending */
	HTAB	   *deliveries;		/* that are claimed */
	HTAB	   *raised;			/* how often code of the table said of a row that it is to be tried again */
	uint64		round;			/* of claims */
	List	   *followed;		/* tables whose keys this transaction has followed */

	/* recording: tasks that are to be recorded, are being recorded, and are to be later */
	dlist_head	answered;
	dlist_head	settled;
	dlist_head	unrecorded;
	dlist_head	taking;			/* answered, and it is open whether they may have their customers */
	int			nanswered;
	TimestampTz first_answer;
	bool		trouble;		/* one of them is no plain success */
	int			answer_errors;	/* in a row, by which no answer was taken in */
	TimestampTz answer_not_before;	/* after those */
	int			record_errors;	/* in a row that left some unrecorded */
	TimestampTz next_record;	/* of those */

	/* when else there is something to do */
	TimestampTz last_look;		/* at all tables */
	TimestampTz next_safety_look;
	TimestampTz next_expiry;	/* of the history */

	/* ending because of users' code */
	bool		leaving;		/* none of it is run any more, */
	int32		blamed;			/* because of this attachment's, */
	KaptureBlame blame;			/* which did that */
} Worker;

extern Worker *kapture_state_create(MemoryContext context);
extern WorkerServer *kapture_state_find_server(Worker *worker, const char *name, Oid owner);
extern WorkerTable *kapture_state_find_table(Worker *worker, int32 attachment_id);
extern void kapture_state_place_table(WorkerTable *table, WorkerServer *server);
extern void kapture_state_free_retired(WorkerTable *table);
extern void kapture_state_forget_server(WorkerServer *server);
extern void kapture_state_forget_table(WorkerTable *table);
extern bool kapture_state_may_send(Worker *worker);
extern bool kapture_state_may_run(const WorkerTable *table);
extern void kapture_state_look(Worker *worker);
extern void kapture_state_look_changed(Worker *worker);
extern bool kapture_state_is_outdated(const WorkerTable *table);
extern bool kapture_state_hold(WorkerTable *table);

#endif							/* KAPTURE_STATE_H */
