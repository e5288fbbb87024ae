/*
 * refresh.c
 *		CALL kapture_refresh(): pulls customers into local tables.
 *
 * A window is a transaction: its customers, its contacts and the progress are
 * committed together, so that an interrupted refresh goes on after the last
 * committed window.  No snapshot is held during the wait for the next one.
 *
 * It runs with the rights of its caller, who needs rights on the tables.  One
 * refresh of a server at a time; see mirror.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "api/argument.h"
#include "api/option.h"
#include "api/reply.h"
#include "base/procedure.h"
#include "base/version.h"
#include "fetch/fetch.h"
#include "pull/mirror.h"

/* Microseconds between two reports. */
#define REFRESH_REPORT		USECS_PER_SEC

typedef struct Refresh
{
	Oid			namespace;		/* the extension's */
	const char *schema;			/* its name, quoted */
	const char *server;
	Timestamp	start;
	Timestamp	end;
	Timestamp	from;			/* where this call starts or continues */
	KaptureCopies *copies;
	MemoryContext scratch;		/* of one window */

	int64		windows_done;	/* of this call */
	int64		windows_before;
	int64		windows_left;
	int64		seen;			/* customers of this call */
	int64		written;		/* rows of this call */
	TimestampTz began;
	TimestampTz reported;
} Refresh;

PG_FUNCTION_INFO_V1(kapture_refresh);


/*
 * One window
 */

/* Notes in kapture_refresh_run that a window is done. */
static void
refresh_note_window(Refresh *refresh, Timestamp done_until, int64 seen, int64 written)
{
	char	   *sql = psprintf("UPDATE %s.kapture_refresh_run SET done_until = $3, "
							   "windows_done = windows_done + 1, windows_total = windows_done + 1 + $4, "
							   "customers = customers + $5, written = written + $6, "
							   "updated_at = clock_timestamp(), "
							   "finished_at = CASE WHEN $3 >= end_date THEN clock_timestamp() END "
							   "WHERE server = $1 AND start_date = $2", refresh->schema);
	Oid			types[] = {NAMEOID, TIMESTAMPOID, TIMESTAMPOID, INT8OID, INT8OID, INT8OID};
	Datum		values[] = {
		DirectFunctionCall1(namein, CStringGetDatum(refresh->server)),
		TimestampGetDatum(refresh->start),
		TimestampGetDatum(done_until),
		Int64GetDatum(refresh->windows_left),
		Int64GetDatum(seen),
		Int64GetDatum(written)
	};

	kapture_copies_execute(sql, lengthof(values), types, values, NULL, SPI_OK_UPDATE);
	if (SPI_processed != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the progress of the refresh is gone from \"%s\"",
						"kapture_refresh_run")));
}

/* Writes a window and commits it. */
static void
refresh_window(Refresh *refresh, KaptureFetch *fetch, const KaptureWindow *window)
{
	MemoryContext old;
	KaptureCopied copied;

	kapture_copies_write(refresh->copies, window, &copied);
	old = MemoryContextSwitchTo(refresh->scratch);
	refresh->windows_left = kapture_fetch_windows_left(fetch, window->to);
	refresh_note_window(refresh, window->to, copied.seen, copied.written);
	MemoryContextSwitchTo(old);
	MemoryContextReset(refresh->scratch);
	SPI_commit();
	refresh->windows_done++;
	refresh->seen += copied.seen;
	refresh->written += copied.written;
}


/*
 * The whole of it
 */

/* Reports the progress, at most once a second, and the end. */
static void
refresh_report(Refresh *refresh)
{
	TimestampTz now = GetCurrentTimestamp();
	double		elapsed = Max(now - refresh->began, 1) / (double) USECS_PER_SEC;
	double		rate = refresh->seen / elapsed;
	int64		done = refresh->windows_before + refresh->windows_done;
	int64		left;

	/* the end is reported in any case */
	if (refresh->windows_left > 0 &&
		(now - refresh->reported < REFRESH_REPORT || now - refresh->began < REFRESH_REPORT))
		return;
	refresh->reported = now;
	if (refresh->windows_left == 0)
	{
		ereport(NOTICE,
				(errmsg_plural("refreshed %lld window: %lld customers, %lld rows written, %.0f customers a second",
							   "refreshed %lld windows: %lld customers, %lld rows written, %.0f customers a second",
							   done, (long long) done, (long long) refresh->seen,
							   (long long) refresh->written, rate)));
		return;
	}
	left = (int64) (elapsed / refresh->windows_done * refresh->windows_left);
	ereport(NOTICE,
			(errmsg("refreshed %lld of %lld windows: %lld customers, %.0f a second, %02lld:%02lld:%02lld left",
					(long long) done, (long long) (done + refresh->windows_left),
					(long long) refresh->seen, rate,
					(long long) (left / SECS_PER_HOUR),
					(long long) (left / SECS_PER_MINUTE % MINS_PER_HOUR),
					(long long) (left % SECS_PER_MINUTE))));
}

/*
 * Notes that a refresh begins.  An interrupted earlier refresh from the same start
 * is continued, unless it went beyond the end of this one.
 */
static void
refresh_begin(Refresh *refresh, bool restart)
{
	Oid			types[] = {NAMEOID, TIMESTAMPOID, TIMESTAMPOID};
	Datum		values[] = {
		DirectFunctionCall1(namein, CStringGetDatum(refresh->server)),
		TimestampGetDatum(refresh->start),
		TimestampGetDatum(refresh->end)
	};
	bool		isnull;

	refresh->from = refresh->start;
	kapture_copies_hold_name(refresh->copies);
	if (!restart)
		kapture_copies_execute(psprintf("UPDATE %s.kapture_refresh_run SET end_date = $3, "
								 "pid = pg_backend_pid(), resumed_at = clock_timestamp(), "
								 "resumed_windows = windows_done, resumed_customers = customers "
								 "WHERE server = $1 AND start_date = $2 "
								 "AND finished_at IS NULL AND done_until <= $3 "
								 "RETURNING done_until, windows_done", refresh->schema),
						lengthof(values), types, values, NULL, SPI_OK_UPDATE_RETURNING);
	if (!restart && SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		refresh->from = DatumGetTimestamp(SPI_getbinval(row, desc, 1, &isnull));
		refresh->windows_before = DatumGetInt64(SPI_getbinval(row, desc, 2, &isnull));
	}
	else
		kapture_copies_execute(psprintf("INSERT INTO %s.kapture_refresh_run AS r "
								 "(server, start_date, end_date) VALUES ($1, $2, $3) "
								 "ON CONFLICT (server, start_date) DO UPDATE SET "
								 "(end_date, done_until, windows_done, windows_total, customers, written, "
								 "pid, started_at, resumed_at, resumed_windows, resumed_customers, "
								 "updated_at, finished_at) = "
								 "ROW(excluded.end_date, NULL, 0, 0, 0, 0, excluded.pid, "
								 "excluded.started_at, excluded.resumed_at, 0, 0, "
								 "excluded.updated_at, NULL)", refresh->schema),
						lengthof(values), types, values, NULL, SPI_OK_INSERT);
	SPI_commit();
}

/* Raises 42501 unless the caller may write the tables, and names the command that allows it. */
static void
refresh_check_rights(const Refresh *refresh)
{
	static const char *const tables[] = {"kapture_customers", "kapture_contacts", "kapture_refresh_run"};

	for (int i = 0; i < lengthof(tables); i++)
	{
		Oid			relid = get_relname_relid(tables[i], refresh->namespace);

		if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
			pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK ||
			pg_class_aclcheck(relid, GetUserId(), ACL_UPDATE) != ACLCHECK_OK)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("permission denied for table %s", tables[i]),
					 errdetail("kapture_refresh writes into the extension's tables with the rights of its caller."),
					 errhint("The owner of the extension can allow it: GRANT SELECT, INSERT, UPDATE ON kapture_customers, kapture_contacts, kapture_refresh_run TO %s.",
							 quote_identifier(GetUserNameFromId(GetUserId(), false)))));
	}
}

static void
refresh_run(Refresh *refresh, bool restart)
{
	const KaptureServer *server = kapture_server_get(refresh->server, GetUserId());
	const KaptureWindow *window;
	KaptureFetch *fetch;

	refresh->copies = kapture_copies_create(refresh->namespace, refresh->server, server->timezone);
	refresh->scratch = AllocSetContextCreate(CurrentMemoryContext, "kapture refresh window",
											 ALLOCSET_DEFAULT_SIZES);
	refresh_begin(refresh, restart);
	refresh->began = GetCurrentTimestamp();
	if (refresh->windows_before > 0)
	{
		ereport(NOTICE,
				(errmsg("continuing the refresh of server \"%s\" at %s",
						refresh->server, kapture_message_date(refresh->from))));
		refresh->reported = refresh->began;
	}
	fetch = kapture_fetch_pull(refresh->server, GetUserId(), refresh->from, refresh->end);
	while ((window = kapture_fetch_next(fetch)) != NULL)
	{
		refresh_window(refresh, fetch, window);
		refresh_report(refresh);
	}
}

/*
 * kapture_refresh(start_date timestamp, end_date timestamp, server name,
 *		restart boolean), a procedure
 *
 * Pulls customers between two times of the account's local time into
 * kapture_customers and kapture_contacts.  Commits each window.  Errors: those
 * of kapture_argument_range() and kapture_fetch_next(); 2D000 in a transaction
 * block; 55006 another session refreshes the same server; 42501 no rights on
 * the tables.
 */
Datum
kapture_refresh(PG_FUNCTION_ARGS)
{
	Refresh		refresh = {0};
	Oid			serverid;

	kapture_version_require();
	kapture_argument_range(fcinfo, &refresh.start, &refresh.end);
	kapture_argument_check_null(fcinfo, 2, "server");
	kapture_argument_check_null(fcinfo, 3, "restart");
	refresh.server = NameStr(*PG_GETARG_NAME(2));
	kapture_procedure_require_own_transactions(fcinfo, "kapture_refresh", "It commits each window of the pull.");

	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	refresh.server = pstrdup(refresh.server);
	refresh.namespace = get_func_namespace(fcinfo->flinfo->fn_oid);
	refresh.schema = quote_identifier(get_namespace_name(refresh.namespace));
	serverid = kapture_server_get(refresh.server, GetUserId())->serverid;
	refresh_check_rights(&refresh);
	if (!kapture_copies_lock(serverid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("server \"%s\" is being refreshed by another session", refresh.server),
				 errhint("See the view kapture_progress.")));
	PG_TRY();
	{
		refresh_run(&refresh, PG_GETARG_BOOL(3));
	}
	PG_FINALLY();
	{
		kapture_copies_unlock(serverid);
	}
	PG_END_TRY();
	SPI_finish();
	PG_RETURN_VOID();
}
