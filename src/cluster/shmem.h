/*
 * shmem.h
 *		What launcher, workers and backends share: which database has which
 *		workers, and who has to be woken.
 */
#ifndef KAPTURE_SHMEM_H
#define KAPTURE_SHMEM_H

#include "postgres.h"

#include "utils/timestamp.h"

/* What a worker does in its database. */
typedef enum KaptureWorkerKind
{
	KAPTURE_PUSHER,				/* sends changes to Kapture: worker.c */
	KAPTURE_PULLER				/* gets customers from Kapture: puller.c */
} KaptureWorkerKind;

#define KAPTURE_WORKER_KINDS	2

/* Why a worker has ended. */
typedef enum KaptureExit
{
	KAPTURE_EXIT_FAILED,		/* an error, or somebody ended it */
	KAPTURE_EXIT_ABSENT,		/* the database does not have the extension */
	KAPTURE_EXIT_ASKED			/* it made way for a command */
} KaptureExit;

/* What the launcher reads of a slot. */
typedef enum KaptureSlotState
{
	KAPTURE_SLOT_FREE,
	KAPTURE_SLOT_STARTING,		/* reserved by the launcher, process not there yet */
	KAPTURE_SLOT_RUNNING,		/* the worker serves its database */
	KAPTURE_SLOT_EXITED			/* waits for the launcher to read "reason" */
} KaptureSlotState;

typedef struct KaptureSlotInfo
{
	KaptureSlotState state;
	KaptureWorkerKind kind;
	Oid			dbid;
	uint32		generation;
	KaptureExit reason;
	bool		wants_puller;	/* reported by a pusher */
} KaptureSlotInfo;

/* The state of a server, as reported by the worker that sends to it. */
typedef enum KaptureServerState
{
	KAPTURE_STATE_OK,
	KAPTURE_STATE_MISCONFIGURED,	/* "message" says what is wrong */
	KAPTURE_STATE_DENIED,		/* refuses our key or address */
	KAPTURE_STATE_THROTTLED,	/* wants fewer requests */
	KAPTURE_STATE_FAILING,		/* does not answer as it should */
	KAPTURE_STATE_REFUSING,		/* refuses all rows, in words that no rule knows */
	KAPTURE_STATE_OUTDATED		/* the extension has to be updated first */
} KaptureServerState;

#define KAPTURE_STATE_MESSAGE_LEN	256

typedef struct KaptureServerReport
{
	Oid			dbid;
	NameData	server;
	Oid			owner;
	KaptureServerState state;
	TimestampTz since;
	TimestampTz retry_at;		/* no request before this time; 0: at once */
	char		message[KAPTURE_STATE_MESSAGE_LEN];
} KaptureServerReport;

/* How far a worker is with a table, as the worker reports it. */
typedef struct KaptureTableReport
{
	uint64		floor;			/* no change of an earlier transaction waits */
	int			in_flight;		/* rows claimed */
	TimestampTz last_success;	/* 0: none since the worker began */
	char		problem[KAPTURE_STATE_MESSAGE_LEN]; /* why its rows cannot be sent, or "" */
} KaptureTableReport;

/* How users' code has ended a process. */
typedef enum KaptureBlame
{
	KAPTURE_BLAME_NONE,
	KAPTURE_BLAME_ENDLESS,		/* it took no notice of being cancelled */
	KAPTURE_BLAME_FATAL,		/* it raised a FATAL error */
	KAPTURE_BLAME_MEMORY		/* it left too much memory behind */
} KaptureBlame;

/* What a worker was doing when an error stopped it. */
typedef enum KapturePhase
{
	KAPTURE_PHASE_NONE,
	KAPTURE_PHASE_LOAD,
	KAPTURE_PHASE_CLAIM,
	KAPTURE_PHASE_SEND,
	KAPTURE_PHASE_RECORD,
	KAPTURE_PHASE_EXPIRE,
	KAPTURE_PHASE_PULL,
	KAPTURE_PHASE_APPLY,
	KAPTURE_PHASE_LOOP			/* between all these */
} KapturePhase;

#define KAPTURE_TROUBLE_KEY_LEN		64

typedef struct KaptureTrouble
{
	KapturePhase phase;			/* KAPTURE_PHASE_NONE: there is none */
	int			deaths;			/* processes in a row that the error has ended */
	TimestampTz since;
	char		row_key[KAPTURE_TROUBLE_KEY_LEN];	/* or a customer, "": not known; may be cut */
	char		message[KAPTURE_STATE_MESSAGE_LEN];
} KaptureTrouble;

extern void kapture_shmem_install(void);
extern bool kapture_shmem_available(void);

/* for every backend; they act when the transaction commits */
extern void kapture_shmem_wake_at_commit(int32 attachment_id);
extern void kapture_shmem_wake_for_definitions_at_commit(void);
extern void kapture_shmem_wake_for_roles_at_commit(void);
extern void kapture_shmem_wake_for_calls_at_commit(void);
extern void kapture_shmem_wake_all_at_commit(void);
extern void kapture_shmem_wake_for_attachment_at_commit(int32 attachment_id);
extern void kapture_shmem_request_worker_at_commit(void);
extern void kapture_shmem_relist_at_commit(void);
extern int	kapture_shmem_worker_pid(Oid dbid, KaptureWorkerKind kind);
extern void kapture_shmem_make_way(Oid dbid);

/* for the launcher */
extern void kapture_shmem_launcher_attach(void);
extern int	kapture_shmem_slot_count(void);
extern KaptureSlotInfo kapture_shmem_slot_read(int slot);
extern int	kapture_shmem_slot_reserve(Oid dbid, KaptureWorkerKind kind, uint32 *generation);
extern void kapture_shmem_slot_free(int slot, uint32 generation);
extern bool kapture_shmem_database_is_blocked(Oid dbid);
extern bool kapture_shmem_next_request(Oid *dbid, bool *lost);

/* for a worker */
extern bool kapture_shmem_worker_attach(int slot, uint32 generation, Oid dbid);
extern void kapture_shmem_worker_running(void);
extern void kapture_shmem_worker_reason(KaptureExit reason);
extern void kapture_shmem_worker_wants_puller(bool wanted);
extern void kapture_shmem_worker_blame(Oid owner, int32 attachment_id, KaptureBlame blame);
extern TimestampTz kapture_shmem_worker_banned(Oid owner);
extern KaptureBlame kapture_shmem_worker_take_blame(int32 attachment_id);
extern bool kapture_shmem_worker_take_work(void);
extern bool kapture_shmem_worker_is_changed(int32 attachment_id);
extern bool kapture_shmem_worker_is_announced(int32 attachment_id);
extern bool kapture_shmem_worker_listen(bool listening);
extern bool kapture_shmem_worker_must_leave(void);
extern bool kapture_shmem_report_server(const char *name, Oid owner, KaptureServerState state,
										TimestampTz retry_at, const char *message);
extern void kapture_shmem_withdraw_server(const char *name, Oid owner);
extern bool kapture_shmem_report_table(int32 attachment_id, Oid owner, const KaptureTableReport *report);
extern void kapture_shmem_withdraw_table(int32 attachment_id);
extern void kapture_shmem_report_trouble(KaptureWorkerKind kind, int32 attachment_id, Oid owner,
										 const KaptureTrouble *trouble);

/* to show what workers have reported */
extern void kapture_shmem_read_table(int32 attachment_id, KaptureTableReport *report);
extern bool kapture_shmem_read_trouble(KaptureWorkerKind kind, int32 attachment_id, KaptureTrouble *trouble);
extern bool kapture_shmem_read_report(int *i, KaptureServerReport *report);

#endif							/* KAPTURE_SHMEM_H */
