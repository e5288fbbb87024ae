/*
 * status.c
 *		SQL functions that read shared memory, or act through it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/catalog.h"
#include "cluster/report.h"
#include "cluster/shmem.h"

PG_FUNCTION_INFO_V1(kapture_worker_start);
PG_FUNCTION_INFO_V1(kapture_worker_pid);
PG_FUNCTION_INFO_V1(kapture_puller_pid);
PG_FUNCTION_INFO_V1(kapture_may_see);
PG_FUNCTION_INFO_V1(kapture_server_states);

/*
 * kapture_worker_start() returns void
 *
 * Asks for a worker in this database.  Called by the install script.
 */
Datum
kapture_worker_start(PG_FUNCTION_ARGS)
{
	if (kapture_shmem_available())
		kapture_shmem_request_worker_at_commit();
	else
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("kapture_sync is not in shared_preload_libraries, so tables cannot be attached"),
				 errhint("Add kapture_sync to shared_preload_libraries in postgresql.conf and restart the server.")));
	PG_RETURN_VOID();
}

/*
 * kapture_may_see(attachment_id integer) returns boolean
 *
 * Does the attached table belong to the current role?  For the policy of
 * kapture_history.
 */
Datum
kapture_may_see(PG_FUNCTION_ARGS)
{
	Oid			relid = kapture_catalog_attached_relation(PG_GETARG_INT32(0));
	HeapTuple	tuple;
	Oid			owner;

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (!HeapTupleIsValid(tuple))
		PG_RETURN_BOOL(false);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	PG_RETURN_BOOL(has_privs_of_role(GetUserId(), owner));
}

/*
 * kapture_worker_pid() returns integer
 */
Datum
kapture_worker_pid(PG_FUNCTION_ARGS)
{
	int			pid = kapture_shmem_worker_pid(MyDatabaseId, KAPTURE_PUSHER);

	if (pid == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(pid);
}

/*
 * kapture_puller_pid() returns integer
 */
Datum
kapture_puller_pid(PG_FUNCTION_ARGS)
{
	int			pid = kapture_shmem_worker_pid(MyDatabaseId, KAPTURE_PULLER);

	if (pid == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(pid);
}

/*
 * kapture_server_states() returns setof record
 *
 * What this database's worker reports of the servers that it sends to, for roles
 * whose rights the caller has; roles that may read all statistics see all servers,
 * but not the messages of others.
 */
Datum
kapture_server_states(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bool		statistics = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
	KaptureServerReport report;
	int			i = 0;

	InitMaterializedSRF(fcinfo, 0);
	while (kapture_shmem_read_report(&i, &report))
	{
		Datum		values[6];
		bool		nulls[6] = {0};
		bool		ours;

		ours = has_privs_of_role(GetUserId(), report.owner);
		if (!ours && !statistics)
			continue;
		values[0] = NameGetDatum(&report.server);
		values[1] = ObjectIdGetDatum(report.owner);
		values[2] = CStringGetTextDatum(kapture_report_state_name(report.state));
		values[3] = TimestampTzGetDatum(report.since);
		values[4] = TimestampTzGetDatum(report.retry_at);
		nulls[4] = report.retry_at == 0;
		values[5] = CStringGetTextDatum(report.message);
		nulls[5] = !ours || report.message[0] == '\0';
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	PG_RETURN_NULL();
}
