/*
 * scan.h
 *		How far the outbox has been read, and reading on from there.
 */
#ifndef KAPTURE_SCAN_H
#define KAPTURE_SCAN_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/timestamp.h"

#include "queue/statements.h"

/*
 * How far the outbox of one attachment has been read.  A pass reads what became visible
 * between two snapshots; see scan.c.
 */
typedef struct KaptureScan
{
	MemoryContext context;		/* of the arrays */
	bool		running;		/* in the middle of a pass */
	bool		ever;			/* false: the next pass reads everything */
	uint64		seen_xmax;		/* xmax of the snapshot up to which all was read */
	int			nseen;
	uint64	   *seen_xip;
	uint64		next_xmax;		/* of the running pass's snapshot */
	int			nnext;
	uint64	   *next_xip;
	int			nranges;		/* ranges of transactions that the pass reads */
	uint64	   *ranges;			/* pairs: first, and the one after the last */
	int32		last_seq;		/* of the last transaction of the last range, changes before this one */
	int			range;			/* the range being read */
	uint64		at_xact;		/* reading goes on after change at_seq of this transaction */
	int32		at_seq;
} KaptureScan;

/* Changes that were made before an event of kapture_outbox, and those of some transactions; see scan.c. */
typedef struct KaptureScanLimit
{
	uint64		xact;			/* the event's transaction: */
	int32		command;		/* its changes before this command */
	uint64		xmax;			/* changes of transactions that had ended when that one did: */
	int			nxip;			/* those before xmax, except these */
	uint64	   *xip;
	int			nalso;			/* and all changes of these */
	uint64	   *also;
} KaptureScanLimit;

/* An entry of the outbox: changes of one or more rows. */
typedef struct KaptureOutboxEntry
{
	ItemPointer tid;
	uint64		xact;
	int32		seq;
	int			nkeys;
	char	  **keys;
	char	   *old_key;		/* or NULL */
	int64		changed;
	TimestampTz captured_at;
	bool		taken;

	/* only of entries about keys */
	char		op;
	int32		command;
	int32		arrival;		/* or KAPTURE_NOTE_ONLY_ROW */
	Datum		snapshot;		/* pg_snapshot taken at commit, or 0 */
	int64		rank;
	Datum	   *customer_ids;	/* one for each key of a deleted row; NULL: not known */
} KaptureOutboxEntry;

extern void kapture_scan_init(KaptureScan *scan);
extern void kapture_scan_free(KaptureScan *scan);
extern void kapture_scan_enter_range(KaptureScan *scan, int range);
extern void kapture_scan_start(KaptureScan *scan);
extern uint64 *kapture_scan_xids(MemoryContext context, Datum array, int *n);
extern void kapture_scan_start_before(KaptureScan *scan, const KaptureScanLimit *limit);
extern void kapture_scan_end(KaptureScan *scan);
extern void kapture_scan_range_values(Datum *values, int32 attachment_id, const KaptureScan *scan, int range);
extern List *kapture_scan_read(KaptureStatement query, int32 attachment_id, KaptureScan *scan, int limit, bool *full);
extern void kapture_scan_remove(List *entries);
extern void kapture_scan_remove_tids(Datum *tids, int n);
extern void kapture_scan_split(KaptureOutboxEntry *entry, int nkeys);
extern uint64 kapture_scan_floor(const KaptureScan *scan);

#endif							/* KAPTURE_SCAN_H */
