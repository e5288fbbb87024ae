/*
 * clock.c
 *		Limits how long users' code runs in the background processes, and what it
 *		leaves behind.
 *
 * Triggers, checks and casts of attached tables run in worker and puller, where
 * other tables wait.  So they are cancelled when their time is up; if they ignore
 * that, the process ends and a new one starts.
 *
 * Users' code may call functions of ours that run users' code in turn.  The
 * outermost limit holds for all of it: inner calls neither stop nor restart the
 * clock.
 *
 * Advisory locks of users' code are released when it ends, as session-level ones would
 * stay with the process for good.  If too much memory would stay (retained.c), the
 * process ends.
 *
 * What users' code puts off to the commit, such as the commit of a transaction on another
 * server (postgres_fdw), takes its time there.  If it takes too much, the transaction is
 * rolled back; where it was about one owner's tables alone, the process ends for that owner.
 *
 * In a user's session there is no clock: the session has statement_timeout, and
 * keeps its own locks.
 */
#include "postgres.h"

#include <sys/socket.h>
#include <sys/un.h>

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/pmsignal.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "api/http.h"
#include "base/compat.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "cluster/shmem.h"
#include "table/clock.h"
#include "table/retained.h"

/* Milliseconds within which users' code must end once it was cancelled. */
#define CLOCK_GRACE			2000

/* Rings that may go unnoticed: code waits for nothing but a connection then. */
#define CLOCK_DEAF			2

/* Descriptors that are looked at then. */
#define CLOCK_MAX_FILES		65536

/* Milliseconds that users' code may take of a commit. */
#define CLOCK_COMMIT		5000

/* How often the time of the running work was up. */
static volatile sig_atomic_t clock_rings = 0;
static volatile sig_atomic_t clock_killed = false;	/* the process ends because of that */
static volatile sig_atomic_t clock_commits = false; /* the transaction is being committed */
static bool clock_overfull = false; /* because of memory that the code has left behind */
static int	clock_depth = 0;

/* Whose code is running. */
static Oid	clock_owner = InvalidOid;
static int32 clock_attachment = 0;
static TimeoutId clock_timeout = MAX_TIMEOUTS;

/* Whose code has run in the transaction, last (InvalidOid: nobody's), and whether others' has, too. */
static Oid	clock_ran_owner = InvalidOid;
static int32 clock_ran_attachment = 0;
static bool clock_ran_several = false;

/*
 * Ends the connections of users' code.  Nothing else ends a wait of libpq's for a host that does not answer,
 * which dblink and postgres_fdw have before 16.
 */
static void
clock_cut_connections(void)
{
	for (int fd = 3; fd < CLOCK_MAX_FILES; fd++)
	{
		struct sockaddr_un peer;
		socklen_t	peer_len = sizeof(peer);
		int			domain;
		int			listens = 0;
		socklen_t	len = sizeof(int);

		if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0 ||
			getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0 ||
			listens || kapture_http_has_socket(fd))
			continue;
		/* sockets without a name are libcurl's, to wake itself */
		if (domain == AF_UNIX &&
			(getpeername(fd, (struct sockaddr *) &peer, &peer_len) != 0 || peer_len <= sizeof(sa_family_t)))
			continue;
		(void) shutdown(fd, SHUT_RDWR);
	}
}

/*
 * A signal handler: cancels the work and, if it goes on, ends the process, unless it is not known
 * for whom.
 */
static void
clock_ring(void)
{
	if (++clock_rings == 1 || (clock_commits && !OidIsValid(clock_owner)))
		QueryCancelPending = true;
	else
		ProcDiePending = clock_killed = true;
	if (clock_rings > CLOCK_DEAF)
		clock_cut_connections();
	InterruptPending = true;
	SetLatch(MyLatch);
}

/*
 * If this process ends because of users' code, records whose, so that other tables go on
 * at once in the next process, but that one does not.
 */
static void
clock_exit_callback(int code, Datum arg)
{
	Oid			owner;
	int32		attachment_id;
	KaptureBlame blame = kapture_clock_blame(code, &owner, &attachment_id);

	if (blame == KAPTURE_BLAME_NONE)
		return;
	kapture_shmem_worker_blame(owner, attachment_id, blame);
	kapture_shmem_worker_reason(KAPTURE_EXIT_ASKED);
}

static void
clock_begin(int limit)
{
	clock_rings = 0;
	if (!clock_killed)
		clock_owner = InvalidOid;
	enable_timeout_every(clock_timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), limit), CLOCK_GRACE);
}

/* A transaction in which users' code has run is about to be committed. */
static void
clock_begin_commit(void)
{
	if (!OidIsValid(clock_ran_owner) || clock_killed)
		return;
	clock_depth = 1;
	clock_commits = true;
	clock_begin(CLOCK_COMMIT);
	if (clock_ran_several)
		return;
	clock_owner = clock_ran_owner;
	clock_attachment = clock_ran_attachment;
}

/*
 * The transaction ends.  This is called after all that users' code has put off, as whoever
 * registers first is called last, and before the commit waits for what nobody must cancel.
 */
static void
clock_end_transaction(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_ABORT)
		return;
	clock_ran_owner = InvalidOid;
	clock_ran_several = false;
	if (event == XACT_EVENT_PRE_COMMIT && clock_commits)
	{
		clock_commits = false;
		(void) kapture_clock_stop();
	}
}

/* Sets up the clock, once in a process. */
static void
clock_register(void)
{
	if (clock_timeout != MAX_TIMEOUTS)
		return;
	clock_timeout = RegisterTimeout(USER_TIMEOUT, clock_ring);
	before_shmem_exit(clock_exit_callback, (Datum) 0);
	RegisterXactCallback(clock_end_transaction, NULL);
	kapture_guard_abort_hook = kapture_clock_reset;
	kapture_guard_commit_hook = clock_begin_commit;
}

/*
 * To be called before users' code, which may take "limit" milliseconds.  To be followed by
 * kapture_clock_stop(), or after an error by kapture_clock_reset().
 */
void
kapture_clock_start(int limit)
{
	if (!kapture_process_is_ours() || clock_depth++ > 0)
		return;
	clock_register();
	kapture_retained_begin();
	clock_begin(limit);
}

/*
 * To be called after users' code.  Returns whether its time was up; a pending cancel is
 * withdrawn, so that it does not hit what comes next.
 */
bool
kapture_clock_stop(void)
{
	if (!kapture_process_is_ours() || --clock_depth > 0)
		return clock_rings > 0;
	disable_timeout(clock_timeout, false);
	if (clock_rings > 0)
		QueryCancelPending = false;
	LockReleaseAll(USER_LOCKMETHOD, true);
	return clock_rings > 0;
}

/*
 * To be called when users' code and the subtransaction that it ran in have ended.  If the
 * code has left too much memory behind, the process ends as soon as it may.
 */
void
kapture_clock_settle(void)
{
	if (!kapture_process_is_ours() || clock_depth > 0 || clock_killed || !OidIsValid(clock_owner) ||
		!kapture_retained_end(clock_owner, clock_attachment))
		return;
	clock_overfull = true;
	ProcDiePending = clock_killed = true;
	InterruptPending = true;
}

/*
 * Stops the clock after an error, however deeply calls of users' code were nested.
 */
void
kapture_clock_reset(void)
{
	bool		late;

	if (clock_depth == 0)
		return;
	clock_depth = 1;
	late = kapture_clock_stop() && clock_commits;
	clock_commits = false;
	/* tried again, it would only take as long */
	if (late && OidIsValid(clock_owner))
	{
		ProcDiePending = clock_killed = true;
		InterruptPending = true;
	}
}

/*
 * Records whose code is running.
 */
void
kapture_clock_name(Oid owner, int32 attachment_id)
{
	if (clock_depth != 1 || clock_killed)
		return;
	clock_owner = owner;
	clock_attachment = attachment_id;
	if (OidIsValid(clock_ran_owner) && clock_ran_owner != owner)
		clock_ran_several = true;
	clock_ran_owner = owner;
	clock_ran_attachment = attachment_id;
}

/*
 * For a process that is ending with an exit code: tells whether users' code is to blame,
 * and whose.
 */
KaptureBlame
kapture_clock_blame(int code, Oid *owner, int32 *attachment_id)
{
	*owner = clock_owner;
	*attachment_id = clock_attachment;
	if (!OidIsValid(clock_owner))
		return KAPTURE_BLAME_NONE;
	if (clock_killed)
		return clock_overfull ? KAPTURE_BLAME_MEMORY : KAPTURE_BLAME_ENDLESS;
	/* users' code has raised FATAL: no signal has asked the process to end */
	if (code != 0 && clock_depth > 0 && !kapture_process_is_terminated() && PostmasterIsAlive())
		return KAPTURE_BLAME_FATAL;
	return KAPTURE_BLAME_NONE;
}

/*
 * Returns the error of rows that are parked because their table ended a process; NULL for
 * KAPTURE_BLAME_NONE.  The text is static.
 */
const char *
kapture_clock_blame_text(KaptureBlame blame)
{
	switch (blame)
	{
		case KAPTURE_BLAME_NONE:
			break;
		case KAPTURE_BLAME_ENDLESS:
			return "a trigger, check or function of the table took no notice of being cancelled; the worker had to end for it";
		case KAPTURE_BLAME_FATAL:
			return "a trigger, check or function of the table raised a FATAL error; the worker had to end for it";
		case KAPTURE_BLAME_MEMORY:
			return "the functions that triggers and checks of the table call take too much memory; the worker had to end for it";
	}
	return NULL;
}

/*
 * Tells whether users' code is running: if so, a cancel is meant for that code.
 */
bool
kapture_clock_is_running(void)
{
	return clock_depth > 0;
}

/*
 * Tells whether it is running in a background process of ours, not called by other users' code.
 */
bool
kapture_clock_is_outermost(void)
{
	return clock_depth == 1;
}
