/*
 * remote_writes.c
 *		What Kapture keeps of a transaction that is rolled back.
 *
 * An Add or Update cannot be taken back.  So when a transaction or a savepoint
 * that wrote through a foreign table is rolled back, a warning says what stays
 * in Kapture, whatever the reason was: an error in a later row, a
 * cancellation, or ROLLBACK.
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "fdw/remote_writes.h"

/* Ids of added customers that are named. */
#define UNDONE_IDS		10

/* What a transaction or subtransaction has written. */
typedef struct UndoneLevel
{
	SubTransactionId id;
	int64		added;
	int64		ids[UNDONE_IDS];
	int64		updated;
	int64		unknown;		/* requests without an answer, running ones included */
	struct UndoneLevel *outer;
} UndoneLevel;

/* The innermost level that has written; lives as long as the transaction. */
static UndoneLevel *undone_level = NULL;

/* Adds the counts and ids of one level to another. */
static void
undone_merge(UndoneLevel *into, const UndoneLevel *from)
{
	for (int i = 0; i < from->added && i < UNDONE_IDS && into->added + i < UNDONE_IDS; i++)
		into->ids[into->added + i] = from->ids[i];
	into->added += from->added;
	into->updated += from->updated;
	into->unknown += from->unknown;
}

/* Warns of what stays in Kapture. */
static void
undone_warn(const UndoneLevel *level)
{
	StringInfoData ids;

	if (level->added + level->updated + level->unknown == 0)
		return;
	initStringInfo(&ids);
	for (int i = 0; i < level->added && i < UNDONE_IDS; i++)
		appendStringInfo(&ids, "%s" INT64_FORMAT, i > 0 ? ", " : " ", level->ids[i]);
	if (level->added > UNDONE_IDS)
		appendStringInfoString(&ids, ", ...");
	ereport(WARNING,
			(errmsg("Kapture keeps what was written there before the rollback"),
			 errdetail("Customers added: %lld%s%s%s; updates: %lld; requests whose outcome is not known: %lld.",
					   (long long) level->added, ids.len > 0 ? " (id" : "", ids.data,
					   ids.len > 0 ? ")" : "",
					   (long long) level->updated, (long long) level->unknown)));
	pfree(ids.data);
}

static void
undone_at_end(XactEvent event, void *arg)
{
	UndoneLevel all = {0};

	if (event != XACT_EVENT_ABORT && event != XACT_EVENT_COMMIT && event != XACT_EVENT_PREPARE)
		return;
	for (UndoneLevel *level = undone_level; level; level = level->outer)
		undone_merge(&all, level);
	undone_level = NULL;		/* its memory goes with the transaction */
	if (event == XACT_EVENT_ABORT)
		undone_warn(&all);
}

static void
undone_at_subend(SubXactEvent event, SubTransactionId id, SubTransactionId parent, void *arg)
{
	UndoneLevel *level = undone_level;

	if (level == NULL || level->id != id)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		if (level->outer == NULL || level->outer->id != parent)
		{
			level->id = parent;
			return;
		}
		undone_merge(level->outer, level);
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		undone_warn(level);
	else
		return;
	undone_level = level->outer;
	pfree(level);
}

/*
 * kapture_undone_begin_request
 *		To be called before a request that writes is sent.
 *
 * Until kapture_undone_end_request(), in the same subtransaction, its outcome
 * is not known.
 */
void
kapture_undone_begin_request(void)
{
	static bool registered = false;
	SubTransactionId id = GetCurrentSubTransactionId();

	if (!registered)
	{
		RegisterXactCallback(undone_at_end, NULL);
		RegisterSubXactCallback(undone_at_subend, NULL);
		registered = true;
	}
	if (undone_level == NULL || undone_level->id != id)
	{
		UndoneLevel *level = MemoryContextAllocZero(TopTransactionContext, sizeof(UndoneLevel));

		level->id = id;
		level->outer = undone_level;
		undone_level = level;
	}
	undone_level->unknown++;
}

/*
 * kapture_undone_end_request
 *		To be called when a request that writes has ended, with its outcome.
 */
void
kapture_undone_end_request(KaptureWritten written, int64 customer_id)
{
	UndoneLevel *level = undone_level;

	Assert(level != NULL && level->id == GetCurrentSubTransactionId());
	if (written == KAPTURE_WRITTEN_UNKNOWN)
		return;
	level->unknown--;
	if (written == KAPTURE_WRITTEN_UPDATE)
		level->updated++;
	if (written != KAPTURE_WRITTEN_ADD)
		return;
	if (level->added < UNDONE_IDS)
		level->ids[level->added] = customer_id;
	level->added++;
}
