/*
 * lock.c
 *		Locks that are kept over transactions, and the lock of an attached table.
 *
 * The former are no advisory locks, although these are made for that: users' code
 * that runs in the same process can release advisory locks with
 * pg_advisory_unlock_all().  Other locks of a session are lost with a transaction
 * that fails, and stay behind if the process ends outside of a transaction; so they
 * are taken again after a failed transaction, and released before the process ends.
 *
 * The latter locks an attached table as a whole: whoever redirects its rows excludes
 * whoever is just taking them up.  Users' statements on the table hold up neither.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "base/catalog.h"
#include "base/lock.h"

typedef struct KeptLock
{
	LOCKTAG		tag;
	int			count;			/* how often it was taken */
	bool		lost;			/* released by a transaction that failed */
} KeptLock;

static List *lock_kept = NIL;	/* of KeptLock */

static KeptLock *
lock_find(const LOCKTAG *tag)
{
	ListCell   *lc;

	foreach(lc, lock_kept)
	{
		if (memcmp(&((KeptLock *) lfirst(lc))->tag, tag, sizeof(LOCKTAG)) == 0)
			return lfirst(lc);
	}
	return NULL;
}

static void
lock_xact_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_ABORT)
		return;
	foreach(lc, lock_kept)
		((KeptLock *) lfirst(lc))->lost = true;
}

static void
lock_exit_callback(int code, Datum arg)
{
	ListCell   *lc;

	AbortOutOfAnyTransaction();
	foreach(lc, lock_kept)
	{
		KeptLock   *kept = lfirst(lc);

		if (!kept->lost)
			(void) LockRelease(&kept->tag, ExclusiveLock, true);
		kept->lost = true;
	}
}

/*
 * Takes a lock, exclusively, until as many calls of kapture_lock_drop() or the end
 * of the process.  Returns false if another process has the lock.
 */
bool
kapture_lock_keep(const LOCKTAG *tag)
{
	static bool registered = false;
	MemoryContext old;
	KeptLock   *kept = lock_find(tag);

	if (kept)
	{
		/* if a transaction that failed has released the lock, take it again */
		if (kept->lost && LockAcquire(tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
			return false;
		kept->lost = false;
		kept->count++;
		return true;
	}
	if (!registered)
	{
		RegisterXactCallback(lock_xact_callback, NULL);
		before_shmem_exit(lock_exit_callback, (Datum) 0);
		registered = true;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	kept = palloc0(sizeof(KeptLock));
	kept->tag = *tag;
	kept->count = 1;
	kept->lost = true;
	lock_kept = lappend(lock_kept, kept);
	MemoryContextSwitchTo(old);
	if (LockAcquire(tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		kapture_lock_drop(tag);
		return false;
	}
	kept->lost = false;
	return true;
}

/*
 * Releases a lock of kapture_lock_keep().
 */
void
kapture_lock_drop(const LOCKTAG *tag)
{
	KeptLock   *kept = lock_find(tag);

	if (kept == NULL || --kept->count > 0)
		return;
	if (!kept->lost)
		(void) LockRelease(tag, ExclusiveLock, true);
	lock_kept = list_delete_ptr(lock_kept, kept);
	pfree(kept);
}

/*
 * To be called after a transaction that failed: takes the locks again that it has
 * released.  Ends the process (FATAL) if another one has taken a lock meanwhile.
 */
void
kapture_lock_renew(void)
{
	ListCell   *lc;

	foreach(lc, lock_kept)
	{
		KeptLock   *kept = lfirst(lc);

		if (!kept->lost)
			continue;
		if (LockAcquire(&kept->tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
			ereport(FATAL,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("kapture_sync lost a lock to another process")));
		kept->lost = false;
	}
}

/*
 * Locks an attached table as a whole until the end of the transaction: ShareLock to take
 * up changes, or ExclusiveLock to redirect them.  Then accepts invalidations, to see what
 * others have committed.  Without "wait", returns false if somebody else has the lock.
 */
bool
kapture_lock_attachment(int32 attachment_id, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), attachment_id, 0);
	if (LockAcquire(&tag, mode, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return true;
}
