/*
 * history.c
 *		Removes entries of kapture_history that are too old.
 *
 * The worker calls kapture_history_expire() now and then.  Each call removes a slice at
 * most, found by the index on (attachment_id, finished_at), of one attachment after the
 * other, including tables that are not attached any more.  So nothing is held up, however
 * much there is to remove.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/by_index.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "queue/history.h"

/* Entries removed at a time. */
#define HISTORY_SLICE		1000

/* Milliseconds between two slices while there is more to remove. */
#define HISTORY_PAUSE		100

/* Milliseconds to the next look at least, and at most. */
#define HISTORY_SOON		60000
#define HISTORY_LATE		3600000

/* Finds the next attachment that has entries; returns false if there is none. */
static bool
history_next_attachment(int32 *attachment_id)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(*attachment_id)};
	char	   *next = kapture_own_text("SELECT attachment_id FROM @.kapture_history"
										" WHERE attachment_id > $1 ORDER BY attachment_id LIMIT 1",
										1, types, values);

	if (next == NULL)
		return false;
	*attachment_id = pg_strtoint32(next);
	return true;
}

/* Removes entries of an attachment that are older than "until"; returns how many. */
static uint64
history_remove(int32 attachment_id, TimestampTz until, int limit)
{
	Oid			types[3] = {INT4OID, TIMESTAMPTZOID, INT4OID};
	Datum		values[3] = {Int32GetDatum(attachment_id), TimestampTzGetDatum(until), Int32GetDatum(limit)};

	return kapture_own_execute("DELETE FROM @.kapture_history WHERE ctid = ANY (ARRAY("
							   "SELECT ctid FROM @.kapture_history"
							   " WHERE attachment_id = $1 AND finished_at <= $2"
							   " ORDER BY attachment_id, finished_at LIMIT $3))",
							   3, types, values);
}

/*
 * Removes a slice of the entries that kapture_sync.history_retention does not allow any
 * more.  Needs a transaction.  Returns when to call it again; DT_NOEND if nothing is left
 * that could grow old.  Raises the errors of its statements.
 */
TimestampTz
kapture_history_expire(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz until = now - kapture_history_retention * USECS_PER_SEC;
	int64		wait = Min(Max(kapture_history_retention * INT64CONST(10), HISTORY_SOON), HISTORY_LATE);
	int			left = HISTORY_SLICE;
	int32		attachment_id = PG_INT32_MIN;
	bool		any = false;
	int			nestlevel = kapture_by_index_begin();

	while (left > 0 && history_next_attachment(&attachment_id))
	{
		any = true;
		left -= history_remove(attachment_id, until, left);
	}
	AtEOXact_GUC(false, nestlevel);
	if (left == 0)
		return TimestampTzPlusMilliseconds(now, HISTORY_PAUSE);
	return any ? TimestampTzPlusMilliseconds(now, wait) : DT_NOEND;
}
