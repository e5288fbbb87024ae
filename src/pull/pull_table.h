/*
 * pull_table.h
 *		An attached table that takes pulled customers.
 */
#ifndef KAPTURE_PULL_TABLE_H
#define KAPTURE_PULL_TABLE_H

#include "postgres.h"

#include "lib/ilist.h"
#include "utils/timestamp.h"

#include "base/catalog.h"
#include "table/share.h"

typedef struct PullTable
{
	dlist_node	node;
	MemoryContext context;		/* of a batch */
	int32		attachment_id;
	Oid			relid;
	bool		present;		/* still to be brought customers */
	TimestampTz next_due;		/* of the next customer; DT_NOEND: none waits */
	KaptureTurn turn;
	bool		in_trouble;		/* and says so in kapture_status */

	/* what is being written */
	int			ncustomers;
	int64		customer_id;	/* if it is one */
	int64		suspect;		/* one that could not be written alone, once; or 0 */
} PullTable;

extern PullTable *kapture_pull_table_create(const KaptureAttached *attached);
extern void kapture_pull_table_forget(PullTable *table);
extern void kapture_pull_table_work(PullTable *table, uint64 round);

#endif							/* KAPTURE_PULL_TABLE_H */
