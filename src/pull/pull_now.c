/*
 * pull_now.c
 *		kapture_pull_now(): makes the puller pull from a server at once.
 *
 * For whoever learns that something has changed in Kapture, by a webhook for
 * example: webhooks carry no signature and are sent once, so they are only a hint
 * to look.  A request is a row of its own, which the puller deletes when a pull
 * begins; so no session holds up the puller, and many requests make one pull.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"

#include "api/argument.h"
#include "api/option.h"
#include "base/catalog_tables.h"
#include "base/owner_sql.h"
#include "base/version.h"
#include "cluster/shmem.h"

PG_FUNCTION_INFO_V1(kapture_pull_now);

/*
 * kapture_pull_now(server name) returns void
 *
 * Errors: 22004 no server; those of kapture_server_get(); 42501 the caller has not the
 * rights of the server's owner; 55000 the server is not pulled from automatically.
 */
Datum
kapture_pull_now(PG_FUNCTION_ARGS)
{
	const KaptureServer *server;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];

	kapture_argument_check_null(fcinfo, 0, "server");
	kapture_version_require();
	server = kapture_server_get(NameStr(*PG_GETARG_NAME(0)), GetUserId());
	/* its owner's key is used, and its owner's rows are written */
	if (!has_privs_of_role(GetUserId(), server->owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_FOREIGN_SERVER, server->name);
	if (server->pull_interval == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("server \"%s\" is not pulled from automatically", server->name),
				 errhint("Set option \"%s\" of the server, or call kapture_refresh().", "pull_interval")));
	values[0] = CStringGetTextDatum(server->name);
	(void) kapture_own_execute("INSERT INTO @.kapture_pull_asked (server) VALUES ($1::name)", 1, types, values);
	CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
	kapture_shmem_wake_all_at_commit();
	PG_RETURN_VOID();
}
