/*
 * run.h
 *		Runs through the rows of an attached table, in slices.
 */
#ifndef KAPTURE_RUN_H
#define KAPTURE_RUN_H

#include "postgres.h"

#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/timestamp.h"

#include "base/catalog.h"

typedef enum KaptureActivity
{
	KAPTURE_BACKFILL,
	KAPTURE_RESYNC,
	KAPTURE_VERIFY
} KaptureActivity;

typedef struct KaptureRun
{
	KaptureActivity activity;
	const char *name;			/* of the procedure */
	int			name_arg;		/* its argument that names the attachment */
	int			slice;			/* rows */
	const char *condition;		/* over the table's row, as given; NULL: all rows */
	Datum		fields;			/* text[]; 0: all */
	bool		force;
	Oid			target;			/* table that results go to, or InvalidOid */
	bool		restart;		/* do not go on with an interrupted run */

	/* handles the rows with these keys (char *), in the memory context of the slice */
	void	   *arg;			/* for "work" */
	void		(*work) (struct KaptureRun *run, KaptureAttachment *att, List *keys);

	/* ends the message "N rows of table ..." */
	const char *notice;

	/* filled in */
	List	   *attachments;	/* all that this call is about */
	const char *selected;		/* the condition, of kapture_row_take_condition() */
	TimestampTz began;			/* when this call began */
	TimestampTz reported;
	int64		rows;			/* of all calls */
	int64		skipped;		/* rows of this call for which "work" had nothing to do */
	int64		total;
} KaptureRun;

extern void kapture_run_check_slice(FunctionCallInfo fcinfo, int argno, int *slice);
extern int	kapture_run_slice(FunctionCallInfo fcinfo, KaptureRun *run);
extern void kapture_run_call(FunctionCallInfo fcinfo, KaptureRun *run);

#endif							/* KAPTURE_RUN_H */
