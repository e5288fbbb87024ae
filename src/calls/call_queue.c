/*
 * call_queue.c
 *		The worker's access to the table of calls that wait to be sent.
 *
 * No module but customers has a uniqueness rule, and there is no way to ask whether a lost
 * request was carried out.  So a call is claimed durably before its request leaves.  A call
 * that was claimed by a process which is gone may have been sent: its outcome is unknown,
 * unless its sender wants it sent until there is an answer.
 *
 * Calls are claimed by account: sender, server and API, which decide about key, address and
 * health.  Calls with the same reference are claimed one at a time, in the order of their
 * numbers.
 *
 * All functions need a transaction, and are for the worker, whose rights they use.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "base/catalog_tables.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "calls/call_queue.h"

/*
 * So many waiting calls of an account are looked through for those that may be sent now.  If most of
 * them are behind others, as where one reference orders all, that is done for each call.
 */
#define CALLS_WINDOW		"1000"

/* Calls given up, or removed, at a time. */
#define CALLS_SLICE			1000

/*
 * Milliseconds until the next look for calls that are too old: if there are more of them;
 * else at least, and at most.
 */
#define CALLS_PAUSE			100
#define CALLS_SOON			60000
#define CALLS_LATE			3600000

/* Is there an earlier call with the same reference? */
#define CALLS_IS_BEHIND(call) \
	"EXISTS (SELECT FROM @.kapture_call_queue AS e WHERE e.sender = " call ".sender AND e.server = " call ".server" \
	" AND e.reference = " call ".reference AND e.state IN ('waiting', 'sending') AND e.call_id < " call ".call_id)"

/* Runs a statement within SPI, in which "@." stands for the extension's schema. */
static void
calls_execute(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			rc;

	KAPTURE_FAULT_ARGUMENTS(NULL, nargs, types, values, nulls);
	rc = kapture_user_code_execute(kapture_catalog_qualify(sql), nargs, types, values, nulls, false);
	if (rc < 0)
		elog(ERROR, "statement failed: %s", SPI_result_code_string(rc));
}

/*
 * Runs such a statement in an SPI connection of its own, ignoring its result; returns the
 * number of rows processed.
 */
static uint64
calls_run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	uint64		processed;

	SPI_connect();
	calls_execute(sql, nargs, types, values, nulls);
	processed = SPI_processed;
	SPI_finish();
	return processed;
}

/* Returns a column of a row of the last result; it must not be null. */
static Datum
calls_value(uint64 row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d of kapture_call_queue", column);
	return value;
}

/* Fills in the first three parameters of a statement about an account. */
static void
calls_account_values(const KaptureCallAccount *account, Oid *types, Datum *values)
{
	types[0] = OIDOID;
	values[0] = ObjectIdGetDatum(account->sender);
	types[1] = TEXTOID;
	values[1] = CStringGetTextDatum(account->server);
	types[2] = TEXTOID;
	values[2] = CStringGetTextDatum(account->api);
}

#define CALLS_OF_ACCOUNT	"sender = $1 AND server = $2::name AND api = $3 AND state = 'waiting'"

/*
 * Tells whether the extension has the table; in version 1.0, it has not.
 */
bool
kapture_call_queue_exists(void)
{
	Oid			attachment = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);

	return OidIsValid(attachment) &&
		OidIsValid(get_relname_relid("kapture_call_queue", get_rel_namespace(attachment)));
}

/*
 * Returns the accounts that have waiting calls, a list of KaptureCallAccount in the current
 * memory context.  The cost grows with the number of accounts, not of calls.
 */
List *
kapture_call_queue_accounts(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *result = NIL;

	SPI_connect();
	calls_execute("WITH RECURSIVE account AS ("
				  "(SELECT sender, server, api FROM @.kapture_call_queue"
				  " WHERE state = 'waiting' ORDER BY sender, server, api LIMIT 1)"
				  " UNION ALL SELECT next.* FROM account AS a, LATERAL"
				  " (SELECT q.sender, q.server, q.api FROM @.kapture_call_queue AS q"
				  " WHERE q.state = 'waiting' AND (q.sender, q.server, q.api) > (a.sender, a.server, a.api)"
				  " ORDER BY q.sender, q.server, q.api LIMIT 1) AS next)"
				  " SELECT sender::oid, server::text, api FROM account", 0, NULL, NULL, NULL);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		KaptureCallAccount *account = palloc(sizeof(KaptureCallAccount));

		account->sender = DatumGetObjectId(calls_value(i, 1));
		account->server = TextDatumGetCString(calls_value(i, 2));
		account->api = TextDatumGetCString(calls_value(i, 3));
		result = lappend(result, account);
	}
	SPI_finish();
	return result;
}

/* A call that is not to be put in doubt, as those are that were asked for until this time. */
#define CALLS_IS_SURE(until) "(retry = 'always' OR asked_at > " until ")"
#define CALLS_IF_SURE(until, yes, no) "CASE WHEN " CALLS_IS_SURE(until) " THEN " yes " ELSE " no " END"

#define CALLS_DOUBT \
	"'the database is a copy, or was recovered to another point in time: the call may have been sent already'"

/* Makes a KaptureCall, in a child context of its own, of a row of the last result. */
static KaptureCall *
calls_make(uint64 row)
{
	MemoryContext own = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync call", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(own);
	KaptureCall *call = palloc(sizeof(KaptureCall));

	call->context = own;
	call->id = DatumGetInt64(calls_value(row, 2));
	call->attempts = DatumGetInt32(calls_value(row, 3));
	call->failures = DatumGetInt32(calls_value(row, 4));
	call->always = DatumGetBool(calls_value(row, 5));
	call->server_oid = DatumGetObjectId(calls_value(row, 6));
	call->server_owner = DatumGetObjectId(calls_value(row, 7));
	call->body = DatumGetJsonbPCopy(calls_value(row, 8));
	MemoryContextSwitchTo(old);
	return call;
}

/*
 * Claims up to "limit" due calls of an account; returns a list of KaptureCall in the
 * current memory context, each in a child context of its own.  Calls that somebody has
 * locked are left out.
 *
 * Of them, those that were asked for until "doubt_until" end as unknown, as by
 * kapture_call_queue_doubt(), which has not seen them: they were locked then, or not committed
 * yet, as in a transaction that was prepared.  Sets *unknown to their number.
 */
List *
kapture_call_queue_claim(const KaptureCallAccount *account, int limit, TimestampTz doubt_until, int *unknown)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[5];
	Datum		values[5];
	List	   *result = NIL;

	*unknown = 0;
	SPI_connect();
	calls_account_values(account, types, values);
	types[3] = INT4OID;
	values[3] = Int32GetDatum(limit);
	types[4] = TIMESTAMPTZOID;
	values[4] = TimestampTzGetDatum(doubt_until);
	calls_execute("UPDATE @.kapture_call_queue"
				  " SET state = " CALLS_IF_SURE("$5", "'sending'", "'unknown'") ","
				  " attempts = " CALLS_IF_SURE("$5", "attempts + 1", "attempts") ","
				  " last_attempt = " CALLS_IF_SURE("$5", "clock_timestamp()", "last_attempt") ","
				  " message = " CALLS_IF_SURE("$5", "message", CALLS_DOUBT) ","
				  " finished_at = " CALLS_IF_SURE("$5", "NULL", "clock_timestamp()")
				  " WHERE call_id = ANY (ARRAY(SELECT call_id FROM"
				  " (SELECT call_id, sender, server, reference FROM @.kapture_call_queue"
				  " WHERE " CALLS_OF_ACCOUNT " AND next_attempt <= now()"
				  " ORDER BY sender, server, api, call_id LIMIT " CALLS_WINDOW ") AS q"
	/* only those that are claimed are locked, not all that are looked through */
				  " JOIN @.kapture_call_queue AS claimed USING (call_id)"
				  " WHERE q.reference IS NULL OR NOT " CALLS_IS_BEHIND("q")
				  " ORDER BY call_id LIMIT $4 FOR UPDATE OF claimed SKIP LOCKED)) AND state = 'waiting'"
				  " RETURNING state = 'sending', call_id, attempts, failures, retry = 'always', server_oid, server_owner, body",
				  5, types, values, NULL);
	MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		if (DatumGetBool(calls_value(i, 1)))
			result = lappend(result, calls_make(i));
		else
			(*unknown)++;
	}
	SPI_finish();
	return result;
}

/*
 * The system's clock was set by "jump" microseconds: shifts the times of waiting calls, so
 * that they wait as long as before.  Those that somebody has locked keep their times, as
 * everything else would have to wait for that transaction.
 */
void
kapture_call_queue_shift(int64 jump)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(jump)};

	(void) kapture_own_execute("UPDATE @.kapture_call_queue SET next_attempt = next_attempt + $1 * interval '1 microsecond'"
							   " WHERE call_id = ANY (ARRAY(SELECT call_id FROM @.kapture_call_queue"
							   " WHERE state = 'waiting' AND next_attempt > '-infinity' FOR UPDATE SKIP LOCKED))", 1, types, values);
}

/*
 * Returns when the next waiting call of an account is due that is not behind an earlier one
 * with its reference; DT_NOEND if there is none.
 */
TimestampTz
kapture_call_queue_due(const KaptureCallAccount *account)
{
	Oid			types[3];
	Datum		values[3];
	TimestampTz due = DT_NOEND;

	SPI_connect();
	calls_account_values(account, types, values);
	calls_execute("SELECT next_attempt FROM"
				  " (SELECT call_id, sender, server, reference, next_attempt FROM @.kapture_call_queue"
				  " WHERE " CALLS_OF_ACCOUNT
				  " ORDER BY sender, server, api, call_id LIMIT " CALLS_WINDOW ") AS q"
				  " WHERE q.reference IS NULL OR NOT " CALLS_IS_BEHIND("q")
				  " ORDER BY next_attempt LIMIT 1", 3, types, values, NULL);
	if (SPI_processed > 0)
		due = DatumGetTimestampTz(calls_value(0, 1));
	SPI_finish();
	return due;
}

/*
 * Records the outcome of a claimed call.  A late answer to an earlier attempt changes
 * nothing.
 */
void
kapture_call_queue_settle(const KaptureCall *call, const KaptureCallOutcome *outcome)
{
	Oid			types[9] = {INT8OID, INT4OID, TEXTOID, INT4OID, JSONBOID, TEXTOID, TIMESTAMPTZOID, INT4OID, INT4OID};
	Datum		values[9];
	char		nulls[10] = "         ";

	values[0] = Int64GetDatum(call->id);
	values[1] = Int32GetDatum(call->attempts);
	values[2] = CStringGetTextDatum(outcome->state);
	values[3] = Int32GetDatum(outcome->http_status);
	nulls[3] = outcome->http_status == 0 ? 'n' : ' ';
	values[4] = outcome->answer ? JsonbPGetDatum(outcome->answer) : (Datum) 0;
	nulls[4] = outcome->answer ? ' ' : 'n';
	values[5] = CStringGetTextDatum(outcome->message);
	values[6] = TimestampTzGetDatum(outcome->next_attempt);
	values[7] = Int32GetDatum(outcome->counts ? call->failures + 1 : call->failures);
	values[8] = Int32GetDatum(outcome->untried ? 1 : 0);
	(void) calls_run("UPDATE @.kapture_call_queue SET state = $3, http_status = $4, answer = $5, message = nullif($6, ''),"
					 " next_attempt = CASE WHEN $3 = 'waiting' THEN $7 ELSE '-infinity' END, failures = $8, attempts = attempts - $9,"
					 " finished_at = CASE WHEN $3 <> 'waiting' THEN clock_timestamp() END"
					 " WHERE call_id = $1 AND attempts = $2 AND state = 'sending'", 9, types, values, nulls);
}

/*
 * Records why calls of an account cannot be sent now, with the first of them.
 */
void
kapture_call_queue_explain(const KaptureCallAccount *account, const char *message)
{
	Oid			types[4];
	Datum		values[4];

	calls_account_values(account, types, values);
	types[3] = TEXTOID;
	values[3] = CStringGetTextDatum(message);
	(void) calls_run("UPDATE @.kapture_call_queue SET message = $4 WHERE call_id = (SELECT call_id FROM @.kapture_call_queue"
					 " WHERE " CALLS_OF_ACCOUNT " ORDER BY sender, server, api, call_id LIMIT 1 FOR UPDATE SKIP LOCKED)"
					 " AND state = 'waiting' AND message IS DISTINCT FROM $4", 4, types, values, NULL);
}

/*
 * Gives a slice of the waiting calls of an account the name that their server has now: it was
 * renamed while the transaction ran that sent them.  Returns their number.
 */
uint64
kapture_call_queue_follow(const KaptureCallAccount *account)
{
	Oid			types[4];
	Datum		values[4];

	calls_account_values(account, types, values);
	types[3] = INT4OID;
	values[3] = Int32GetDatum(CALLS_SLICE);
	return calls_run("UPDATE @.kapture_call_queue AS q SET server = s.srvname FROM pg_foreign_server AS s"
					 " WHERE q.call_id = ANY (ARRAY(SELECT call_id FROM @.kapture_call_queue WHERE " CALLS_OF_ACCOUNT
					 " ORDER BY sender, server, api, call_id LIMIT $4 FOR UPDATE SKIP LOCKED)) AND q.state = 'waiting'"
					 " AND s.oid = q.server_oid AND s.srvname <> q.server", 4, types, values, NULL);
}

/*
 * Ends a slice of the waiting calls of an account as failed, because they can never be
 * sent; returns their number.
 */
uint64
kapture_call_queue_give_up(const KaptureCallAccount *account, const char *message)
{
	Oid			types[5];
	Datum		values[5];

	calls_account_values(account, types, values);
	types[3] = TEXTOID;
	values[3] = CStringGetTextDatum(message);
	types[4] = INT4OID;
	values[4] = Int32GetDatum(CALLS_SLICE);
	return calls_run("UPDATE @.kapture_call_queue SET state = 'failed', message = $4, finished_at = clock_timestamp()"
					 " WHERE call_id = ANY (ARRAY(SELECT call_id FROM @.kapture_call_queue WHERE " CALLS_OF_ACCOUNT
					 " ORDER BY sender, server, api, call_id LIMIT $5 FOR UPDATE SKIP LOCKED)) AND state = 'waiting'",
					 5, types, values, NULL);
}

/*
 * Ends calls for which "condition" holds as unknown, unless they are to be sent always or
 * somebody has them locked.  $1 is the time.  Returns the number for each server, a list of
 * KaptureCallCount in the current memory context.
 */
static List *
calls_make_unknown(const char *condition, const char *message, TimestampTz time)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			types[1] = {TIMESTAMPTZOID};
	Datum		values[1] = {TimestampTzGetDatum(time)};
	List	   *result = NIL;

	SPI_connect();
	calls_execute(psprintf("WITH u AS (UPDATE @.kapture_call_queue SET state = 'unknown', finished_at = clock_timestamp(), message = %s"
						   " WHERE call_id = ANY (ARRAY(SELECT call_id FROM @.kapture_call_queue WHERE retry = 'unsent' AND %s"
						   " FOR UPDATE SKIP LOCKED)) RETURNING server)"
						   " SELECT server::text, count(*) FROM u GROUP BY server", message, condition), 1, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		KaptureCallCount *count = palloc(sizeof(KaptureCallCount));

		count->server = TextDatumGetCString(calls_value(i, 1));
		count->calls = (int) DatumGetInt64(calls_value(i, 2));
		result = lappend(result, count);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
	return result;
}

#define CALLS_ARE_LEFT		"state = 'sending' AND last_attempt <= $1"

/*
 * Called as a worker starts: calls that an earlier worker had claimed, until "began", may have
 * been sent.  Returns the numbers of calls whose outcome is unknown, a list of KaptureCallCount.
 * Sets *rest if somebody has some of them locked, so that this is to be called again.
 */
List *
kapture_call_queue_recover(TimestampTz began, bool *rest)
{
	Oid			types[1] = {TIMESTAMPTZOID};
	Datum		values[1] = {TimestampTzGetDatum(began)};
	List	   *unknown = calls_make_unknown(CALLS_ARE_LEFT, "'the worker ended before there was an answer'", began);

	(void) calls_run("UPDATE @.kapture_call_queue SET state = 'waiting', next_attempt = now(), failures = failures + 1"
					 " WHERE call_id = ANY (ARRAY(SELECT call_id FROM @.kapture_call_queue WHERE retry = 'always' AND " CALLS_ARE_LEFT
					 " FOR UPDATE SKIP LOCKED))", 1, types, values, NULL);
	*rest = calls_run("SELECT FROM @.kapture_call_queue WHERE " CALLS_ARE_LEFT " LIMIT 1", 1, types, values, NULL) > 0;
	return unknown;
}

/*
 * Another database, or another timeline of this one, may have sent the calls that were
 * asked for until "until".  Returns the numbers of calls whose outcome is unknown for that,
 * a list of KaptureCallCount.  Calls that somebody has locked, and those that are not committed
 * yet, are left to kapture_call_queue_claim().
 */
List *
kapture_call_queue_doubt(TimestampTz until)
{
	return calls_make_unknown("state IN ('waiting', 'sending') AND NOT " CALLS_IS_SURE("$1"), CALLS_DOUBT, until);
}

/*
 * Removes a slice of the calls that ended longer ago than kapture_sync.history_retention.
 * Returns when to call it again; DT_NOEND if nothing is left that could grow old.
 */
TimestampTz
kapture_call_queue_expire(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		wait = Min(Max(kapture_history_retention * INT64CONST(10), CALLS_SOON), CALLS_LATE);
	Oid			types[2] = {TIMESTAMPTZOID, INT4OID};
	Datum		values[2] = {TimestampTzGetDatum(now - kapture_history_retention * USECS_PER_SEC), Int32GetDatum(CALLS_SLICE)};
	uint64		removed;

	removed = calls_run("DELETE FROM @.kapture_call_queue WHERE call_id = ANY (ARRAY(SELECT call_id FROM @.kapture_call_queue"
						" WHERE state IN ('done', 'discarded') AND finished_at <= $1 ORDER BY finished_at LIMIT $2"
						" FOR UPDATE SKIP LOCKED))",
						2, types, values, NULL);
	if (removed == CALLS_SLICE)
		return TimestampTzPlusMilliseconds(now, CALLS_PAUSE);
	if (removed == 0 &&
		calls_run("SELECT FROM @.kapture_call_queue WHERE state IN ('done', 'discarded') LIMIT 1", 0, NULL, NULL, NULL) == 0)
		return DT_NOEND;
	return TimestampTzPlusMilliseconds(now, wait);
}
