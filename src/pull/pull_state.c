/*
 * pull_state.c
 *		The state of automatic pulls: table kapture_pull.
 *
 * A row for each server that has been pulled from: the watermark, how far the
 * running pull is, what went wrong.  All functions need a transaction; where
 * the server has no row, or the row is gone, writes make one or do nothing.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/owner_sql.h"
#include "base/text.h"
#include "base/user_code.h"
#include "pull/pull_state.h"

static Datum
pull_name(const char *server)
{
	return DirectFunctionCall1(namein, CStringGetDatum(server));
}

/*
 * Fills in the state of a server's pulls.
 */
void
kapture_pull_state_read(const char *server, KapturePullState *state)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {pull_name(server)};
	bool		isnull;

	state->pulled_until = state->started_at = DT_NOBEGIN;
	state->pulling = false;
	state->failures = 0;
	state->next_pull = DT_NOBEGIN;
	state->sweep_started_at = DT_NOBEGIN;
	state->sweeping = false;
	state->sweep_after = 0;
	state->asked = false;
	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	kapture_user_code_select(psprintf("SELECT coalesce(pulled_until, '-infinity'), coalesce(started_at, '-infinity'),"
									  " failures, coalesce(sweep_started_at, '-infinity'),"
									  " sweep_started_at IS NOT NULL AND sweep_finished_at IS NULL, sweep_after,"
									  " EXISTS (SELECT FROM %s.kapture_pull_asked AS a WHERE a.server = p.server),"
									  " started_at IS NOT NULL AND finished_at IS NULL, coalesce(next_pull, '-infinity')"
									  " FROM %s.kapture_pull AS p WHERE server = $1", kapture_catalog_schema(), kapture_catalog_schema()),
							 1, types, values, NULL, true);
	if (SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		state->pulled_until = DatumGetTimestampTz(SPI_getbinval(row, desc, 1, &isnull));
		state->started_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 2, &isnull));
		state->failures = DatumGetInt32(SPI_getbinval(row, desc, 3, &isnull));
		state->sweep_started_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 4, &isnull));
		state->sweeping = DatumGetBool(SPI_getbinval(row, desc, 5, &isnull));
		state->sweep_after = DatumGetInt64(SPI_getbinval(row, desc, 6, &isnull));
		state->asked = DatumGetBool(SPI_getbinval(row, desc, 7, &isnull));
		state->pulling = DatumGetBool(SPI_getbinval(row, desc, 8, &isnull));
		state->next_pull = DatumGetTimestampTz(SPI_getbinval(row, desc, 9, &isnull));
	}
	SPI_finish();
	PopActiveSnapshot();
}

/*
 * Notes that a pull of a range (in the account's local time) begins, with its
 * watermark, which is only assumed if this is the first pull.
 */
void
kapture_pull_state_begin(const char *server, TimestampTz pulled_until, Timestamp start, Timestamp end)
{
	Oid			types[] = {NAMEOID, TIMESTAMPTZOID, TIMESTAMPOID, TIMESTAMPOID};
	Datum		values[] = {
		pull_name(server), TimestampTzGetDatum(pulled_until), TimestampGetDatum(start), TimestampGetDatum(end)
	};

	(void) kapture_own_execute("INSERT INTO @.kapture_pull AS p (server, pulled_until, start_date, end_date,"
							   " started_at, updated_at, pid)"
							   " VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp(), pg_backend_pid())"
							   " ON CONFLICT (server) DO UPDATE SET pulled_until = excluded.pulled_until,"
							   " start_date = excluded.start_date, end_date = excluded.end_date, done_until = NULL,"
							   " windows_done = 0, windows_total = 0, customers = 0, written = 0,"
							   " started_at = excluded.started_at, updated_at = excluded.updated_at,"
							   " finished_at = NULL, next_pull = NULL, pid = excluded.pid",
							   lengthof(values), types, values);
	/* a request from now on may be about a change that this pull does not see */
	(void) kapture_own_execute("DELETE FROM @.kapture_pull_asked WHERE server = $1", 1, types, values);
}

/*
 * Moves watermark and progress on by a window.  To be called in the transaction
 * that writes it.
 */
void
kapture_pull_state_window(const char *server, TimestampTz pulled_until, Timestamp done_until,
						  int64 windows_left, int64 customers, int64 written)
{
	Oid			types[] = {NAMEOID, TIMESTAMPTZOID, TIMESTAMPOID, INT8OID, INT8OID, INT8OID};
	Datum		values[] = {
		pull_name(server), TimestampTzGetDatum(pulled_until), TimestampGetDatum(done_until),
		Int64GetDatum(windows_left), Int64GetDatum(customers), Int64GetDatum(written)
	};

	(void) kapture_own_execute("UPDATE @.kapture_pull SET pulled_until = $2, done_until = $3,"
							   " windows_done = windows_done + 1, windows_total = windows_done + 1 + $4,"
							   " customers = customers + $5, written = written + $6,"
							   " updated_at = clock_timestamp() WHERE server = $1",
							   lengthof(values), types, values);
}

/*
 * Notes that a pull has come to its end.
 */
void
kapture_pull_state_end(const char *server, TimestampTz next_pull)
{
	Oid			types[] = {NAMEOID, TIMESTAMPTZOID};
	Datum		values[] = {pull_name(server), TimestampTzGetDatum(next_pull)};

	(void) kapture_own_execute("UPDATE @.kapture_pull SET finished_at = clock_timestamp(), next_pull = $2,"
							   " failures = 0, last_error = NULL, failed_at = NULL WHERE server = $1",
							   lengthof(values), types, values);
}

/*
 * Moves times that are waited for by "jump" microseconds, by which the system's clock was
 * set, so that they are waited for as long as before.  What somebody has locked keeps its
 * times, as all pulls would have to wait for that transaction.
 */
void
kapture_pull_state_shift(int64 jump)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(jump)};

	(void) kapture_own_execute("UPDATE @.kapture_pull SET next_pull = next_pull + $1 * interval '1 microsecond'"
							   " WHERE ctid = ANY (ARRAY(SELECT ctid FROM @.kapture_pull FOR UPDATE SKIP LOCKED))", 1, types, values);
	(void) kapture_own_execute("UPDATE @.kapture_inbox SET next_attempt = next_attempt + $1 * interval '1 microsecond'"
							   " WHERE ctid = ANY (ARRAY(SELECT ctid FROM @.kapture_inbox"
							   " WHERE state = 'waiting' FOR UPDATE SKIP LOCKED))", 1, types, values);
}

/*
 * Notes that a pull, or the beginning of one, failed.
 */
void
kapture_pull_state_fail(const char *server, const char *error, TimestampTz next_pull)
{
	Oid			types[] = {NAMEOID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[] = {pull_name(server), CStringGetTextDatum(kapture_text_cut(error)), TimestampTzGetDatum(next_pull)};

	(void) kapture_own_execute("INSERT INTO @.kapture_pull AS p (server, failures, last_error, failed_at, next_pull)"
							   " VALUES ($1, 1, $2, clock_timestamp(), $3)"
							   " ON CONFLICT (server) DO UPDATE SET failures = p.failures + 1,"
							   " last_error = excluded.last_error, failed_at = excluded.failed_at,"
							   " next_pull = excluded.next_pull",
							   lengthof(values), types, values);
}

/*
 * Notes that a sweep begins, or that it is done.
 */
void
kapture_pull_state_sweep(const char *server, bool begin)
{
	Oid			types[] = {NAMEOID};
	Datum		values[] = {pull_name(server)};

	(void) kapture_own_execute(begin ?
							   "INSERT INTO @.kapture_pull AS p (server, sweep_started_at) VALUES ($1, clock_timestamp())"
							   " ON CONFLICT (server) DO UPDATE SET sweep_started_at = excluded.sweep_started_at,"
							   " sweep_finished_at = NULL, sweep_after = 0, swept = 0, sweep_changed = 0" :
							   "UPDATE @.kapture_pull SET sweep_finished_at = clock_timestamp(), failures = 0,"
							   " last_error = NULL, failed_at = NULL WHERE server = $1",
							   lengthof(values), types, values);
}

/*
 * Notes that a sweep is done with a customer, and whether it wrote the customer.
 */
void
kapture_pull_state_swept(const char *server, int64 customer_id, bool changed)
{
	Oid			types[] = {NAMEOID, INT8OID, INT4OID};
	Datum		values[] = {pull_name(server), Int64GetDatum(customer_id), Int32GetDatum(changed ? 1 : 0)};

	(void) kapture_own_execute("UPDATE @.kapture_pull SET sweep_after = $2, swept = swept + 1,"
							   " sweep_changed = sweep_changed + $3 WHERE server = $1",
							   lengthof(values), types, values);
}

/*
 * Deletes the state of servers that do not exist any more.
 */
void
kapture_pull_state_tidy(void)
{
	(void) kapture_own_execute("DELETE FROM @.kapture_pull p WHERE NOT EXISTS"
							   " (SELECT FROM pg_foreign_server s WHERE s.srvname = p.server)", 0, NULL, NULL);
	/* whoever may refresh can lock these rows */
	(void) kapture_own_execute("DELETE FROM @.kapture_refresh_run WHERE (server, start_date) IN"
							   " (SELECT r.server, r.start_date FROM @.kapture_refresh_run AS r WHERE NOT EXISTS"
							   " (SELECT FROM pg_foreign_server s WHERE s.srvname = r.server) FOR UPDATE OF r SKIP LOCKED)", 0, NULL, NULL);
	(void) kapture_own_execute("DELETE FROM @.kapture_pull_asked a WHERE NOT EXISTS"
							   " (SELECT FROM pg_foreign_server s WHERE s.srvname = a.server)", 0, NULL, NULL);
}
