/*
 * row_io.h
 *		Reads and writes rows of attached tables, as their owner.
 */
#ifndef KAPTURE_ROW_IO_H
#define KAPTURE_ROW_IO_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "base/catalog.h"

typedef enum KaptureRowOutcome
{
	KAPTURE_ROW_DONE,			/* read, or written */
	KAPTURE_ROW_GONE,			/* there is no such row */
	KAPTURE_ROW_LOCKED,			/* somebody holds its lock, or no room or time is left: later */
	KAPTURE_ROW_FAILED			/* "error" says why */
} KaptureRowOutcome;

typedef struct KaptureRow
{
	MemoryContext context;		/* owns what the functions fill in */
	const char *row_key;
	int64		new_id;			/* to be written */

	/* filled in */
	KaptureRowOutcome outcome;
	char	   *error;			/* of FAILED; of LOCKED, what was raised, what the server has run out of, or NULL */
	bool		slow;			/* FAILED because its time was up */
	bool		raised;			/* LOCKED because code of the table has raised such an error */
	bool		outside;		/* DONE, but outside of the filter: values are not read */
	int64		customer_id;	/* as in the table, 0 for NULL */
	char	  **values;			/* of the mapped columns, NULL for NULL */
	Size		bytes;			/* of the values and the key */
} KaptureRow;

extern void kapture_row_check_table(const KaptureAttachment *att);
extern void kapture_row_plan_freely(void);
extern List *kapture_row_list(List *row_keys, MemoryContext context);
extern void kapture_row_read(KaptureAttachment *att, const char *timezone, List *rows, Snapshot snapshot);
extern void kapture_row_fill_ids(const KaptureAttachment *att, List *rows);
extern List *kapture_row_without_ids(const KaptureAttachment *att, List *row_keys);
extern void kapture_row_read_all(KaptureAttachment *att, const char *timezone, List *rows);
extern List *kapture_row_find_keys(const KaptureAttachment *att, const char *selection, const char *after, int limit,
								   Oid type, Datum value, MemoryContext context);
extern int	kapture_row_parameter(const KaptureAttachment *att, const char *after);
extern List *kapture_row_keys_after(KaptureAttachment *att, bool without_id, const char *condition,
									const char *after, int limit);
extern const char *kapture_row_take_condition(KaptureAttachment *att, const char *condition);
extern int64 kapture_row_count(KaptureAttachment *att, bool without_id, const char *condition);
extern void kapture_row_write_ids(KaptureAttachment *att, List *rows, Snapshot snapshot);
extern void kapture_row_check_ids(uint64 n, int column);
extern void kapture_row_check_kept(KaptureAttachment *att, const char *row_key, int64 customer_id);
extern void kapture_row_hold(KaptureAttachment *att, const char *timezone, List *rows);
extern ErrorData *kapture_row_run_apart(KaptureAttachment *att, void (*work) (void *arg), void *arg);
extern ErrorData *kapture_row_run(KaptureAttachment *att, const char *timezone,
								  void (*work) (void *arg), void *arg);
extern ErrorData *kapture_row_try(KaptureAttachment *att);
extern bool kapture_row_is_passing(const ErrorData *error);
extern bool kapture_row_is_raised(const ErrorData *error);

#endif							/* KAPTURE_ROW_IO_H */
