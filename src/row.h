/*
 * row.h
 *		Reads and writes rows of attached tables, as their owner.
 */
#ifndef KAPTURE_ROW_H
#define KAPTURE_ROW_H

#include "postgres.h"

#include "nodes/pg_list.h"

#include "catalog.h"

typedef enum KaptureRowOutcome
{
	KAPTURE_ROW_DONE,			/* read, or written */
	KAPTURE_ROW_GONE,			/* there is no such row */
	KAPTURE_ROW_LOCKED,			/* somebody holds its lock: later */
	KAPTURE_ROW_FAILED			/* "error" says why */
} KaptureRowOutcome;

typedef struct KaptureRow
{
	MemoryContext context;		/* owns what the functions fill in */
	const char *row_key;
	int64		new_id;			/* to be written */

	/* filled in */
	KaptureRowOutcome outcome;
	char	   *error;
	int64		customer_id;	/* as in the table, 0 for NULL */
	char	  **values;			/* of the mapped columns, NULL for NULL */
} KaptureRow;

extern void kapture_row_read(KaptureAttachment *att, const char *timezone, List *rows);
extern List *kapture_row_keys_without_id(KaptureAttachment *att, const char *after, int limit);
extern int64 kapture_row_count_without_id(KaptureAttachment *att);
extern void kapture_row_write_ids(KaptureAttachment *att, List *rows);
extern void kapture_row_hold(KaptureAttachment *att, const char *timezone, List *rows);
extern ErrorData *kapture_row_run(KaptureAttachment *att, const char *timezone,
								  void (*work) (void *arg), void *arg);
extern bool kapture_row_gave_up(void);
extern char *kapture_row_relation_name(Oid relid);

#endif							/* KAPTURE_ROW_H */
