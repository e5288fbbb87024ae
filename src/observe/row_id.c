/*
 * row_id.c
 *		kapture_id(): which customer of Kapture's a row is.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "api/argument.h"
#include "table/attach_find.h"
#include "table/row_io.h"
#include "table/row_key.h"

PG_FUNCTION_INFO_V1(kapture_id);

/*
 * kapture_id(relation regclass, row_key text or of any other type, name text) returns bigint
 *
 * For the owner of the table.  NULL: the row has no customer yet, or there is no such
 * row.  Errors: those of kapture_attach_find() and kapture_row_key(); 22000 the row
 * cannot be read.
 */
Datum
kapture_id(PG_FUNCTION_ARGS)
{
	KaptureAttachment *att = kapture_attach_find(fcinfo, 2, AccessShareLock);
	KaptureRow	row = {.context = CurrentMemoryContext};

	kapture_argument_check_null(fcinfo, 1, "row_key");
	row.row_key = kapture_row_key(att, kapture_argument_key(fcinfo, 1));
	kapture_row_read(att, NULL, list_make1(&row), NULL);
	if (row.outcome == KAPTURE_ROW_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("could not read the row with key \"%s\"", row.row_key),
				 errdetail_internal("%s", row.error)));
	if (row.outcome != KAPTURE_ROW_DONE || row.customer_id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(row.customer_id);
}
