/*
 * state.h
 *		What the worker of a database keeps in memory: servers, attached tables,
 *		and the tasks of claimed rows.
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

/* Longest delay, in milliseconds, before what an error has stopped is tried again. */
#define WORKER_ERROR_LONGEST	60000

/* After so many errors in a row of a kind that usually passes, the row is taken for the cause. */
#define WORKER_PASSING_ERRORS	3

/* An account: a server as seen by the owner of attached tables. */
typedef struct WorkerServer
{
	dlist_node	node;
	struct Worker *worker;
	char	   *name;
	Oid			owner;
	KaptureShare *share;		/* of the owner */
	char	   *problem;		/* why its settings cannot be used, or NULL */
	uint64		version;		/* of the settings */
	uint32		hash;			/* of the server in the syscache, by which its invalidations come; 0: not known */

	/* from its settings */
	int			max_connections;
	int64		timeout;		/* milliseconds */
	double		rate_limit;		/* requests a second, 0: none */
	bool		check_rows;
	bool		add_is_upsert;
	char	   *timezone;

	dlist_head	ready;			/* tasks whose request is to be sent */
	int			nready;
	int			ntasks;			/* those in "ready", in flight, or answered but not recorded */
	int			ntables;		/* tables that refer to the server */
	int			start_errors;	/* requests in a row that could not be started */
	int			failures;		/* in a row, of different rows */
	int			sick;			/* in a row, of any rows */
	KaptureServerState logged;	/* health that was logged last */
	KaptureServerState notified;	/* state that was notified last */
	bool		used;			/* attached tables refer to the server */
	int64		failed_row;		/* delivery that failed last */
	KaptureServerState health;
	KaptureRequestPool pool;	/* its requests in flight */
	bool		asked;			/* the server's own answer is why pool.not_before is set */
	KaptureRefusals refusals;
	KaptureRotating rotating;	/* its rows, taking turns with all else that is sent to the server */
} WorkerServer;

/* An attached table. */
typedef struct WorkerTable
{
	dlist_node	node;
	struct Worker *worker;
	MemoryContext context;		/* of "att" */
	KaptureAttachment *att;
	List	   *retired;		/* contexts of older descriptions that tasks may still refer to */
	int			ntasks;			/* tasks of the table */
	WorkerServer *server;
	KaptureAttachedVersion version; /* of the attachment, as "att" was read */
	bool		stale;			/* the table, or its server, may have changed since "att" was read */
	bool		seen;			/* is in the list of attachments that is being read */
	bool		attached;		/* is still attached */
	bool		present;		/* is attached, and its rows can be sent */
	char	   *problem;		/* why its rows cannot be sent, or NULL */
	bool		recovered;		/* no delivery of an earlier worker is 'sending' any more */
	char	   *suspect;		/* key of a row that could not be claimed alone, once */
	bool		in_trouble;		/* kapture_status shows, or may show, an error of the table */
	KaptureScan scan;
	KaptureScan keys;			/* scan for changes of keys and deletions */
	bool		look;			/* the outbox may hold changes to take */
	bool		fresh;			/* some of them may be newer than the running pass sees */
	TimestampTz next_due;		/* when the next failed row is due; DT_NOEND: none is */
	TimestampTz well_since;		/* rows that failed before this time are due at once; 0: none are */
	TimestampTz follow_at;		/* when to resolve changes of followed tables; DT_NOEND: when some are noted */
	int			follow_values;	/* how many of these to resolve at a time; 0: the maximum */
	int			follow_errors;	/* errors of that in a row */
	TimestampTz last_success;
	KaptureOutcomes outcomes;	/* of its rows, for log and notifications */
	KaptureTableReport said;	/* last report in shared memory, for kapture_status */
	bool		shown;			/* there is such a report */

	/* the table's share of the worker's time and memory */
	KaptureTurn turn;
	Size		row_bytes;		/* average of a row in the last batch */
	List	   *settling;		/* tasks whose ids are being written */
} WorkerTable;

/* A claimed row, and the request that is sent for it. */
typedef struct WorkerTask
{
	dlist_node	node;			/* in its server's queue */
	WorkerServer *server;
	WorkerTable *table;
	int			start_errors;	/* how often its request could not be made or started */
	bool		unchecked;		/* not known yet whether another row has its customer */
	uint32		since;			/* returned by kapture_request_pool_started() for its last request */
	KaptureShare *share;
	Size		bytes;			/* memory held for the task */
	KaptureTask task;
} WorkerTask;

/* The state of the worker.  There is one worker in a process. */
typedef struct Worker
{
	MemoryContext context;		/* for what lives as long as the process */
	MemoryContext table_context;	/* of the WorkerTables */
	dlist_head	servers;		/* WorkerServer */
	dlist_head	tables;			/* WorkerTable */
	HTAB	   *tables_by_id;	/* the same, by the number of the attachment */
	KaptureOrigin origin;		/* of the database */
	Oid			installation;	/* oid of our kapture_attachment */
	bool		alone;			/* no other worker serves this database */
	bool		outdated;		/* the extension's version is not the library's */
	bool		said_copy;		/* it was logged that the database is a copy */

	/* reading attachments and servers */
	bool		stale;			/* attachments or servers may have changed */
	bool		look_all;		/* the next reading has all tables looked at, not only those that it reads */
	bool		unread;			/* some attachments are yet to be read */
	bool		all_read;		/* since the process began, all attachments were read once */
	bool		loaded;			/* the last reading of them went well */
	int			load_errors;	/* in a row */
	TimestampTz load_not_before;	/* after errors, or to give other work its turn */
	TimestampTz next_load;		/* when to look again at tables that were locked */

	/* claiming and sending */
	HTAB	   *deliveries;		/* that are claimed */
	HTAB	   *raised;			/* per row: how often code of its table asked for another try */
	uint64		round;			/* of claims */
	List	   *followed;		/* tables whose key changes this transaction has followed */

	/* recording: tasks with an answer, tasks being recorded, tasks that could not be recorded */
	dlist_head	answered;
	dlist_head	settled;
	dlist_head	unrecorded;
	dlist_head	taking;			/* answered; not known yet whether another row has their customer */
	int			nanswered;
	TimestampTz first_answer;
	bool		trouble;		/* an answer is not a plain success */
	int			answer_errors;	/* in a row, during which no answer was processed */
	TimestampTz answer_not_before;	/* after such errors */
	int			record_errors;	/* attempts in a row that left tasks in "unrecorded" */
	TimestampTz next_record;	/* when to record "unrecorded" again */

	/* when else there is something to do */
	TimestampTz last_look;		/* when all tables were looked at last */
	TimestampTz next_safety_look;
	TimestampTz next_expiry;	/* when the history is to be expired */

	/* ending because of users' code */
	bool		leaving;		/* no users' code is run any more */
	int32		blamed;			/* the attachment whose code is why */
	KaptureBlame blame;			/* what that code did */
} Worker;

extern Worker *kapture_state_create(MemoryContext context);
extern WorkerServer *kapture_state_find_server(Worker *worker, const char *name, Oid owner);
extern WorkerTable *kapture_state_find_table(Worker *worker, int32 attachment_id);
extern void kapture_state_add_table(Worker *worker, WorkerTable *table);
extern void kapture_state_place_table(WorkerTable *table, WorkerServer *server);
extern void kapture_state_free_retired(WorkerTable *table);
extern void kapture_state_forget_server(WorkerServer *server);
extern void kapture_state_forget_table(WorkerTable *table);
extern bool kapture_state_may_send(Worker *worker);
extern bool kapture_state_may_run(const WorkerTable *table);
extern void kapture_state_look(Worker *worker);
extern void kapture_state_look_anew(WorkerTable *table);
extern void kapture_state_look_changed(Worker *worker);
extern bool kapture_state_is_outdated(const WorkerTable *table);
extern bool kapture_state_hold(WorkerTable *table);

#endif							/* KAPTURE_STATE_H */
