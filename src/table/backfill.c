/*
 * backfill.c
 *		Has the rows of an attached table sent that were there before.
 *
 * A backfill goes through the rows without an id in order of the primary key, a
 * slice a transaction.  How far it came is in kapture_backfill, so that it goes
 * on where it stopped.  A row that is waiting already is not sent twice: what
 * waits for one row comes together.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "api/argument.h"
#include "base/catalog.h"
#include "base/owner_sql.h"
#include "table/attach.h"
#include "table/capture.h"
#include "table/row_io.h"

/* Rows a slice has, at most. */
#define BACKFILL_MAX_SLICE	100000

PG_FUNCTION_INFO_V1(kapture_backfill_slice);

/*
 * One slice of a table at a time.  The lock is that of the table as an object
 * with objsubid 1, which nothing else locks; kapture_progress shows by it
 * whether a slice is under way.
 */
static void
backfill_lock(Oid relid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, relid, 1);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* Begins a backfill, if none is under way, by counting what there is to do. */
static void
backfill_begin(KaptureAttachment *att)
{
	Oid			types[2] = {INT4OID, INT8OID};
	Datum		values[2] = {Int32GetDatum(att->id)};

	if (kapture_own_text("SELECT 1 FROM @.kapture_backfill WHERE attachment_id = $1 AND finished_at IS NULL",
						 1, types, values) != NULL)
		return;
	values[1] = Int64GetDatum(kapture_row_count_without_id(att));
	(void) kapture_own_execute("DELETE FROM @.kapture_backfill WHERE attachment_id = $1", 1, types, values);
	(void) kapture_own_execute("INSERT INTO @.kapture_backfill (attachment_id, last_key, rows, total)"
							   " VALUES ($1, '', 0, $2)", 2, types, values);
}

/*
 * Records how far it came.  A call by another session, or after a minute, counts
 * as a new one, for the rate.
 */
static void
backfill_record(KaptureAttachment *att, const char *last_key, int rows, bool finished)
{
	Oid			types[4] = {INT4OID, TEXTOID, INT4OID, BOOLOID};
	Datum		values[4] = {Int32GetDatum(att->id), CStringGetTextDatum(last_key),
		Int32GetDatum(rows), BoolGetDatum(finished)};

	(void) kapture_own_execute("UPDATE @.kapture_backfill AS b SET last_key = $2, rows = rows + $3,"
							   " total = greatest(total, rows + $3), updated_at = clock_timestamp(),"
							   " finished_at = CASE WHEN $4 THEN clock_timestamp() END, pid = pg_backend_pid(),"
							   " resumed_at = CASE WHEN anew THEN now() ELSE resumed_at END,"
							   " resumed_rows = CASE WHEN anew THEN rows ELSE resumed_rows END"
							   " FROM (SELECT pid <> pg_backend_pid() OR updated_at < now() - interval '1 minute'"
							   " FROM @.kapture_backfill WHERE attachment_id = $1) AS call(anew)"
							   " WHERE attachment_id = $1", 4, types, values);
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
	KaptureAttachment *att = kapture_attach_find(fcinfo, AccessShareLock);
	int			slice;
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(att->id)};
	char	   *last_key;
	List	   *keys;
	ListCell   *lc;

	kapture_argument_check_null(fcinfo, 1, "slice");
	slice = PG_GETARG_INT32(1);
	if (slice < 1 || slice > BACKFILL_MAX_SLICE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"slice\" must be between 1 and %d", BACKFILL_MAX_SLICE)));

	backfill_lock(att->root);
	backfill_begin(att);
	last_key = kapture_own_text("SELECT CASE WHEN rows > 0 THEN last_key END FROM @.kapture_backfill WHERE attachment_id = $1",
								1, types, values);
	keys = kapture_row_keys_without_id(att, last_key, slice);
	foreach(lc, keys)
	{
		last_key = lfirst(lc);
		kapture_capture_existing(att, last_key);
	}
	backfill_record(att, last_key ? last_key : "", list_length(keys), list_length(keys) < slice);
	PG_RETURN_INT32(list_length(keys));
}
