/*
 * pause.c
 *		Pausing the sync of attached tables, and resuming it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"

#include "base/lock.h"
#include "base/owner_sql.h"
#include "table/attach.h"
#include "table/attach_find.h"

PG_FUNCTION_INFO_V1(kapture_pause);
PG_FUNCTION_INFO_V1(kapture_resume);

static void
pause_set(FunctionCallInfo fcinfo, bool paused)
{
	ListCell   *lc;

	foreach(lc, kapture_attach_find_all(fcinfo, 1, AccessShareLock))
	{
		KaptureAttachment *att = lfirst(lc);
		Oid			types[2] = {INT4OID, BOOLOID};
		Datum		values[2] = {Int32GetDatum(att->id), BoolGetDatum(paused)};

		/* wait for a worker that is just taking up changes: whoever pauses the table must see them as in flight */
		if (paused)
			(void) kapture_lock_attachment(att->id, ExclusiveLock, true);
		if (kapture_own_execute("UPDATE @.kapture_attachment SET paused = $2 WHERE attachment_id = $1 AND paused <> $2",
								2, types, values) == 0)
			ereport(NOTICE,
					(paused ? errmsg("table %s is paused already", kapture_catalog_title(att)) :
					 errmsg("table %s is not paused", kapture_catalog_title(att))));
		kapture_attach_announce_one(att->id);
	}
}

/*
 * kapture_pause(relation regclass, name text) returns void
 */
Datum
kapture_pause(PG_FUNCTION_ARGS)
{
	pause_set(fcinfo, true);
	PG_RETURN_VOID();
}

/*
 * kapture_resume(relation regclass, name text) returns void
 */
Datum
kapture_resume(PG_FUNCTION_ARGS)
{
	pause_set(fcinfo, false);
	PG_RETURN_VOID();
}
