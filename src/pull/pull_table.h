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
	bool		present;		/* the table still takes customers */
	TimestampTz next_due;		/* when the next customer is due; DT_NOEND: none waits */
	KaptureTurn turn;
	bool		in_trouble;		/* trouble is reported in kapture_status */

	/* the batch that is being written */
	int			ncustomers;
	int64		customer_id;	/* if the batch has one customer only */
	int64		suspect;		/* customer that has failed alone in its batch once; or 0 */
} PullTable;

extern PullTable *kapture_pull_table_create(const KaptureAttached *attached);
extern void kapture_pull_table_forget(PullTable *table);
extern void kapture_pull_table_work(PullTable *table, uint64 round);

#endif							/* KAPTURE_PULL_TABLE_H */
