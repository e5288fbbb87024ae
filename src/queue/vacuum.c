/*
 * vacuum.c
 *		Keeps the tables of the queue small.
 *
 * Each row that is sent leaves dead entries in the outbox and in kapture_delivery.  By
 * default, autovacuum looks once a minute at most; by then, a busy worker has left hundreds
 * of thousands.  So the worker vacuums the two tables itself, as soon as that is worthwhile
 * and can remove something: not while somebody's snapshot still needs the dead entries,
 * however long that takes.
 *
 * Truncating the files is left to autovacuum, as that needs a lock that capturing would
 * wait for.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "nodes/parsenodes.h"
#include "nodes/plannodes.h"
#include "storage/procarray.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "cluster/bgworker.h"
#include "cluster/guard.h"
#include "queue/vacuum.h"

/* Milliseconds between two looks at whether snapshots still need the dead entries. */
#define VACUUM_LOOK			200

typedef struct VacuumTable
{
	const char *name;
	uint64		threshold;		/* dead entries in excess of live ones that are worth a vacuum */
	uint64		dead;			/* since the last vacuum */
	uint64		live;			/* at the last look */
	TransactionId until;		/* those dead entries died before this one; Invalid: not known yet */
} VacuumTable;

static VacuumTable vacuum_tables[KAPTURE_TABLE_COUNT] = {
	[KAPTURE_TABLE_OUTBOX] = {.name = "kapture_outbox",.threshold = 1000},
	[KAPTURE_TABLE_DELIVERY] = {.name = "kapture_delivery",.threshold = 10000},
};
static TimestampTz vacuum_next_look = 0;

/*
 * Notes that "dead" entries of a table were removed or replaced.
 */
void
kapture_vacuum_note(KaptureTable table, uint64 dead)
{
	vacuum_tables[table].dead += dead;
}

static bool
vacuum_is_worthwhile(const VacuumTable *t)
{
	return t->dead >= t->threshold + t->live;
}

/* Can the dead entries of a table be removed now?  Needs a transaction. */
static bool
vacuum_is_due(KaptureTable table)
{
	VacuumTable *t = &vacuum_tables[table];
	Relation	rel;
	bool		due = false;

	if (!vacuum_is_worthwhile(t))
		return false;
	rel = try_relation_open(kapture_catalog_relid(table), AccessShareLock);
	if (rel == NULL)
		return false;
	t->live = rel->rd_rel->reltuples > 0 ? (uint64) rel->rd_rel->reltuples : 0;
	if (!vacuum_is_worthwhile(t))
		t->until = InvalidTransactionId;
	else if (!TransactionIdIsValid(t->until))
		t->until = ReadNextTransactionId();
	if (TransactionIdIsValid(t->until))
		due = TransactionIdPrecedesOrEquals(t->until, GetOldestNonRemovableTransactionId(rel));
	relation_close(rel, AccessShareLock);
	return due;
}

static void
vacuum_forget(KaptureTable table)
{
	vacuum_tables[table].dead = 0;
	vacuum_tables[table].until = InvalidTransactionId;
}

/*
 * Runs the VACUUM command as a client would, within a transaction that the command ends and
 * begins anew.
 */
static void
vacuum_table(KaptureTable table)
{
	char	   *sql = psprintf("VACUUM (SKIP_LOCKED, TRUNCATE off, INDEX_CLEANUP on) %s.%s",
							   kapture_catalog_schema(), vacuum_tables[table].name);
	PlannedStmt *statement = makeNode(PlannedStmt);

	statement->commandType = CMD_UTILITY;
	statement->canSetTag = true;
	statement->utilityStmt = linitial_node(RawStmt, pg_parse_query(sql))->stmt;
	ProcessUtility(statement, sql, false, PROCESS_UTILITY_TOPLEVEL, NULL, NULL, None_Receiver, NULL);
	vacuum_forget(table);
}

/* Vacuums a table, if that is due.  Memory that the command needs throughout is in the current memory context. */
static void
vacuum_do(void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	int			table = *(int *) arg;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);
	if (vacuum_is_due(table))
		vacuum_table(table);
	CommitTransactionCommand();
}

/*
 * Vacuums what is due.  To be called outside of a transaction; it costs nothing
 * if there is nothing to do.  Errors of VACUUM go to the log.
 */
void
kapture_vacuum_run(void)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext portal = PortalContext;
	MemoryContext context;
	TimestampTz now;

	if (!vacuum_is_worthwhile(&vacuum_tables[KAPTURE_TABLE_OUTBOX]) &&
		!vacuum_is_worthwhile(&vacuum_tables[KAPTURE_TABLE_DELIVERY]))
		return;
	now = GetCurrentTimestamp();
	if (now < vacuum_next_look)
		return;
	vacuum_next_look = TimestampTzPlusMilliseconds(now, VACUUM_LOOK);

	/* for what outlives the transactions that the command makes */
	context = AllocSetContextCreate(caller, "kapture_sync vacuum", ALLOCSET_DEFAULT_SIZES);
	PortalContext = context;
	for (int table = 0; table < KAPTURE_TABLE_COUNT; table++)
	{
		ErrorData  *error;

		if (vacuum_tables[table].name == NULL)
			continue;
		MemoryContextSwitchTo(context);
		error = kapture_guard_transaction(vacuum_do, &table);
		if (error == NULL)
			continue;
		/* no reason to stop sending; autovacuum will meet the error, too */
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("kapture_sync: an error while %s in database \"%s\" is worked around: %s",
						"vacuuming the queue", kapture_process_database(), kapture_guard_message(error))));
		vacuum_forget(table);
	}
	PortalContext = portal;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}
