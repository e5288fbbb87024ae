/*
 * backfill.c
 *		Has rows of an attached table sent that are not changed: those that were
 *		there before, and those that Kapture is to get again.
 *
 * A backfill takes the rows without an id, a resync those of a condition.  Both
 * only note the rows, as if they had been changed: the table is not written and
 * none of its triggers fires.  A row that is waiting already is not sent twice:
 * what waits for one row comes together.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "api/argument.h"
#include "base/catalog.h"
#include "table/capture.h"
#include "table/run.h"

PG_FUNCTION_INFO_V1(kapture_backfill);
PG_FUNCTION_INFO_V1(kapture_backfill_slice);
PG_FUNCTION_INFO_V1(kapture_resync);

static void
backfill_work(KaptureRun *run, KaptureAttachment *att, List *keys)
{
	ListCell   *lc;

	foreach(lc, keys)
		kapture_capture_existing(att, lfirst(lc));
}

/* The bits of the fields that are to be sent again. */
static void
resync_work(KaptureRun *run, KaptureAttachment *att, List *keys)
{
	int64		fields = kapture_catalog_fields(att, run->fields);
	ListCell   *lc;

	foreach(lc, keys)
		kapture_capture_again(att, lfirst(lc), fields, run->force);
}

/*
 * kapture_backfill_slice(relation regclass, slice integer) returns integer
 *
 * One step of kapture_backfill(): notes the next rows without an id, and how
 * far it came.  Returns how many rows it noted; fewer than asked for means that
 * it is done.  Errors: those of kapture_attach_find(), 22023 for the size.
 */
Datum
kapture_backfill_slice(PG_FUNCTION_ARGS)
{
	KaptureRun	run = {.activity = KAPTURE_BACKFILL, .work = backfill_work};

	kapture_argument_check_null(fcinfo, 0, "relation");
	kapture_run_check_slice(fcinfo, 1, &run.slice);
	PG_RETURN_INT32(kapture_run_slice(fcinfo, &run));
}

/*
 * kapture_backfill(relation regclass, slice integer), a procedure
 *
 * Errors: those of kapture_run_call(), 22023 for the size.
 */
Datum
kapture_backfill(PG_FUNCTION_ARGS)
{
	KaptureRun	run = {.activity = KAPTURE_BACKFILL, .name = "kapture_backfill", .work = backfill_work};

	run.notice = _("are on their way");
	kapture_run_check_slice(fcinfo, 1, &run.slice);
	kapture_run_call(fcinfo, &run);
	PG_RETURN_VOID();
}

/*
 * kapture_resync(relation regclass, condition text, fields text[], slice integer,
 *		force boolean), a procedure
 *
 * Errors: those of kapture_run_call(), of kapture_condition_check(), of
 * kapture_catalog_fields(); 22023 for the size.
 */
Datum
kapture_resync(PG_FUNCTION_ARGS)
{
	KaptureRun	run = {.activity = KAPTURE_RESYNC, .name = "kapture_resync", .work = resync_work};

	run.notice = _("are on their way");
	if (!PG_ARGISNULL(1))
		run.condition = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(2))
		run.fields = PointerGetDatum(PG_GETARG_ARRAYTYPE_P_COPY(2));
	kapture_run_check_slice(fcinfo, 3, &run.slice);
	kapture_argument_check_null(fcinfo, 4, "force");
	run.force = PG_GETARG_BOOL(4);
	kapture_run_call(fcinfo, &run);
	PG_RETURN_VOID();
}
