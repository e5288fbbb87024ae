/*
 * failed_rows.c
 *		What users do about rows that failed: retry them, or discard what waits.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "api/argument.h"
#include "base/bounded_key.h"
#include "base/owner_sql.h"
#include "table/attach.h"
#include "table/attach_find.h"
#include "table/row_key.h"

PG_FUNCTION_INFO_V1(kapture_retry);
PG_FUNCTION_INFO_V1(kapture_discard);

/* Runs "sql" on failed rows of an attachment: all, or those that a condition on the key $2 finds. */
static uint64
failed_rows_run(const char *sql, Datum *values, const char *condition)
{
	Oid			types[2] = {INT4OID, TEXTOID};

	return kapture_own_execute(psprintf("%s WHERE attachment_id = $1 AND state <> 'sending' AND last_error IS NOT NULL%s%s",
										sql, condition ? " AND " : "", condition ? condition : ""),
							   condition ? 2 : 1, types, values);
}

/*
 * Runs "sql" on failed rows of an attachment, all or the one with this key; and
 * "inbox_sql" on pulled customers that could not become rows, if on all.
 */
static uint64
failed_rows_change_of(const KaptureAttachment *att, const char *row_key, const char *sql, const char *inbox_sql)
{
	Oid			types[1] = {INT4OID};
	Datum		values[2] = {Int32GetDatum(att->id), row_key ? CStringGetTextDatum(row_key) : (Datum) 0};
	uint64		n;

	n = failed_rows_run(sql, values, row_key ? KAPTURE_KEY_IS("row_key", "$2") : NULL);
	/* the report of a deleted row has only an old key */
	if (row_key && n == 0)
		n = failed_rows_run(sql, values, "row_key IS NULL AND old_key = $2");
	if (row_key == NULL)
		n += kapture_own_execute(psprintf("%s WHERE attachment_id = $1 AND last_error IS NOT NULL", inbox_sql),
								 1, types, values);
	return n;
}

/* Runs the statements for the attachments of a call, on one failed row or all; returns how many there were. */
static uint64
failed_rows_change(FunctionCallInfo fcinfo, const char *sql, const char *inbox_sql)
{
	List	   *attachments = kapture_attach_find_all(fcinfo, 2, AccessShareLock);
	char	   *row_key = PG_ARGISNULL(1) ? NULL : kapture_argument_key(fcinfo, 1);
	uint64		n = 0;
	ListCell   *lc;

	foreach(lc, attachments)
	{
		KaptureAttachment *att = lfirst(lc);

		n += failed_rows_change_of(att, row_key ? kapture_row_key(att, row_key) : NULL, sql, inbox_sql);
		kapture_attach_announce_one(att->id);
	}
	if (row_key && n == 0)
		ereport(NOTICE,
				(errmsg("table \"%s\" has no failed row with key \"%s\"", get_rel_name(PG_GETARG_OID(0)), row_key),
				 errdetail("There is no such row, or its last try did not fail."),
				 errhint("The keys of failed rows are in the view kapture_failures.")));
	return n;
}

/*
 * kapture_retry(relation regclass, row_key text, name text) returns bigint
 */
Datum
kapture_retry(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(failed_rows_change(fcinfo,
										 "UPDATE @.kapture_delivery SET state = 'retry', next_attempt = pg_catalog.now()",
										 "UPDATE @.kapture_inbox SET state = 'waiting', next_attempt = pg_catalog.now()"));
}

/*
 * kapture_discard(relation regclass, row_key text, name text) returns bigint
 */
Datum
kapture_discard(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(failed_rows_change(fcinfo, "DELETE FROM @.kapture_delivery",
										 "DELETE FROM @.kapture_inbox"));
}
