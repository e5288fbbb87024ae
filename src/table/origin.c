/*
 * origin.c
 *		Tells whether this database is the original of its changes or a copy.
 *
 * A restored dump, a database made from a template, a cluster restored from a
 * backup: each carries waiting changes that the original will send, or has
 * sent, itself.  So kapture_origin holds the stamp of the database that the
 * outbox belongs to, its system identifier and oid, and is dumped along with
 * it.  If the stamp is another database's, nothing is sent until kapture_resume().
 *
 * A new timeline with the right stamp is a promoted standby or a restore to an
 * earlier point.  Changes that wait in it may have been sent before it took
 * over.  Updates may be sent again; Adds are in doubt, and are searched for
 * first.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "base/catalog.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "base/version.h"
#include "cluster/shmem.h"
#include "table/binding.h"
#include "table/origin.h"

PG_FUNCTION_INFO_V1(kapture_resume_copy);
PG_FUNCTION_INFO_V1(kapture_is_origin);

/* $1 system identifier, $2 database, $3 timeline */
static void
origin_values(Oid *types, Datum *values)
{
	types[0] = INT8OID;
	values[0] = Int64GetDatum((int64) GetSystemIdentifier());
	types[1] = OIDOID;
	values[1] = ObjectIdGetDatum(MyDatabaseId);
	types[2] = INT4OID;
	values[2] = Int32GetDatum((int32) GetWALInsertionTimeLine());
}

/* SQL: a random key of digests. */
#define ORIGIN_RANDOM_SALT \
	"pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) OPERATOR(pg_catalog.||) pg_catalog.uuid_send(pg_catalog.gen_random_uuid())"

/*
 * Makes the key of all digests, unless there is one, or another transaction is making it, which
 * may stay open.  The worker makes what is missing then.  Returns whether there is one.
 *
 * The script of the extension does not make it: where a subscription copies the extension's tables
 * along with others, the table is to be empty.
 */
bool
kapture_origin_make_salt(void)
{
	LOCKTAG		tag;

	if (kapture_own_text("SELECT 't' FROM @.kapture_salt WHERE serverid = 0", 0, NULL, NULL) != NULL)
		return true;
	/* nothing else locks a relation as an object */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId,
					   get_relname_relid("kapture_salt", get_rel_namespace(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT))), 0);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	(void) kapture_own_execute("INSERT INTO @.kapture_salt (serverid, salt) VALUES (0, " ORIGIN_RANDOM_SALT ")"
							   " ON CONFLICT (serverid) DO NOTHING", 0, NULL, NULL);
	return true;
}

/*
 * Changes the salt, which makes all digests void: nothing is known any more of what
 * Kapture has of any row.
 */
void
kapture_origin_forget_digests(void)
{
	(void) kapture_own_execute("UPDATE @.kapture_salt SET salt = " ORIGIN_RANDOM_SALT, 0, NULL, NULL);
	(void) kapture_origin_make_salt();
}

/*
 * Does the same for the rows of a server.
 */
void
kapture_origin_forget_server(Oid serverid)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(serverid)};

	(void) kapture_own_execute("DELETE FROM @.kapture_salt WHERE serverid <> 0"
							   " AND NOT EXISTS (SELECT FROM pg_catalog.pg_foreign_server AS s WHERE s.oid = serverid)", 0, NULL, NULL);
	(void) kapture_own_execute("INSERT INTO @.kapture_salt (serverid, salt) VALUES ($1, pg_catalog.uuid_send(pg_catalog.gen_random_uuid()))"
							   " ON CONFLICT (serverid) DO UPDATE SET salt = EXCLUDED.salt", lengthof(types), types, values);
}

/*
 * Marks rows that wait to be added as in doubt: they may have been added already.  And
 * makes all digests void: the original may have sent other values.
 *
 * Rows that somebody has locked, perhaps in a transaction that was prepared before a failover,
 * are not waited for.  They are found to be in doubt when they are claimed (statements.c).
 */
static void
origin_doubt(void)
{
	kapture_origin_forget_digests();
	(void) kapture_own_execute("UPDATE @.kapture_delivery SET in_doubt = pg_catalog.now(), searches = 0"
							   " WHERE ctid = ANY (ARRAY(SELECT ctid FROM @.kapture_delivery"
							   " WHERE customer_id IS NULL AND in_doubt IS NULL FOR UPDATE SKIP LOCKED))", 0, NULL, NULL);
}

/*
 * Stamps a database that has no stamp yet as ours: its first table is being
 * attached, or its first call is being sent.  Returns whether it had none.
 */
bool
kapture_origin_claim(void)
{
	Oid			types[3];
	Datum		values[3];

	origin_values(types, values);
	if (kapture_own_execute("INSERT INTO @.kapture_origin (system_identifier, database, timeline)"
							" SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT FROM @.kapture_origin)",
							3, types, values) == 0)
		return false;
	(void) kapture_origin_make_salt();
	return true;
}

/*
 * For the worker, in a transaction: reads the stamp, and takes note of a new
 * timeline.  A database without a stamp counts as a copy: a dump that is just
 * being restored may look like this.
 */
KaptureOrigin
kapture_origin_check(void)
{
	KaptureOrigin origin = {KAPTURE_ORIGIN_COPY, 0, DT_NOBEGIN};
	Oid			types[3];
	Datum		values[3];
	bool		isnull;
	bool		ours;
	bool		same_timeline;

	origin_values(types, values);
	if (kapture_own_execute("UPDATE @.kapture_origin SET timeline = $3, doubt_until = pg_catalog.now()"
							" WHERE system_identifier = $1 AND database = $2 AND timeline <> $3",
							3, types, values) > 0)
	{
		origin_doubt();
		CommandCounterIncrement();
		ereport(LOG,
				(errmsg("kapture_sync: this is a new timeline; customers that wait to be added are searched for first")));
	}

	PushActiveSnapshot(GetTransactionSnapshot());
	SPI_connect();
	kapture_user_code_select(psprintf("SELECT pg_catalog.bool_and(system_identifier = $1 AND database = $2),"
									  " pg_catalog.bool_and(timeline = $3),"
									  " pg_catalog.max(stamped_at), pg_catalog.max(doubt_until)"
									  " FROM %s.kapture_origin", kapture_catalog_schema()),
							 3, types, values, NULL, true);
	ours = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	if (!isnull)
	{
		same_timeline = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
		origin.state = ours && same_timeline ? KAPTURE_ORIGIN_OURS : KAPTURE_ORIGIN_COPY;
		origin.stamped_at = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 3, &isnull));
		origin.doubt_until = DatumGetTimestampTz(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 4, &isnull));
	}
	SPI_finish();
	PopActiveSnapshot();
	return origin;
}

/*
 * kapture_is_origin(system_identifier bigint, database oid) returns boolean
 *
 * For kapture_status: is this stamp that of the database we are in?
 */
Datum
kapture_is_origin(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(PG_GETARG_INT64(0) == (int64) GetSystemIdentifier() &&
				   PG_GETARG_OID(1) == MyDatabaseId);
}

/* Reports paused tables, in case the caller meant to resume these. */
static void
origin_advise_paused(void)
{
	char	   *tables = kapture_own_text("SELECT pg_catalog.string_agg(DISTINCT relation::pg_catalog.text, ', ') FROM @.kapture_attachment WHERE paused",
										  0, NULL, NULL);

	if (tables)
		ereport(NOTICE,
				(errmsg("tables that are paused stay so: %s", tables),
				 errdetail("Without an argument, kapture_resume() is for copies of a database whose original no longer sends."),
				 errhint("Use kapture_resume('...') with the name of a table to have its rows sent again.")));
}

/*
 * kapture_resume() returns void
 *
 * Makes a copy the original of its changes from now on.  What waits is in
 * doubt.
 */
Datum
kapture_resume_copy(PG_FUNCTION_ARGS)
{
	Oid			types[3];
	Datum		values[3];

	kapture_version_require();
	origin_advise_paused();
	kapture_binding_renew(true);
	origin_values(types, values);
	(void) kapture_own_execute("DELETE FROM @.kapture_origin", 0, NULL, NULL);
	(void) kapture_own_execute("INSERT INTO @.kapture_origin (system_identifier, database, timeline, doubt_until)"
							   " VALUES ($1, $2, $3, pg_catalog.clock_timestamp())", 3, types, values);
	origin_doubt();
	(void) kapture_own_execute("UPDATE @.kapture_call_queue AS q SET server_oid = s.oid, server_owner = s.srvowner"
							   " FROM pg_foreign_server AS s WHERE s.srvname = q.server AND q.state <> 'done'"
							   " AND (q.server_oid <> s.oid OR q.server_owner <> s.srvowner)", 0, NULL, NULL);
	CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
	kapture_shmem_wake_all_at_commit();
	PG_RETURN_VOID();
}
