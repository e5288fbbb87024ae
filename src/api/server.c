/*
 * server.c
 *		What the options of servers say without a user mapping.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_foreign_server.h"
#include "foreign/foreign.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "api/server.h"

#define SERVER_WRAPPER	"kapture_fdw"

/* Is the server to be pulled from? */
static bool
server_pulls(Oid serverid)
{
	ListCell   *lc;

	foreach(lc, GetForeignServer(serverid)->options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, "pull_interval") == 0 || strcmp(option->defname, "sweep_interval") == 0)
			return true;
	}
	return false;
}

/*
 * Returns the Kapture servers with option pull_interval or sweep_interval, as a
 * list of KapturePullServer in the current memory context.  Needs a transaction.
 */
List *
kapture_pull_servers(void)
{
	ForeignDataWrapper *wrapper = GetForeignDataWrapperByName(SERVER_WRAPPER, true);
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	if (wrapper == NULL)
		return NIL;
	rel = table_open(ForeignServerRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_foreign_server form = (Form_pg_foreign_server) GETSTRUCT(tuple);
		KapturePullServer *server;

		if (form->srvfdw != wrapper->fdwid || !server_pulls(form->oid))
			continue;
		server = palloc(sizeof(KapturePullServer));
		server->serverid = form->oid;
		server->owner = form->srvowner;
		server->name = pstrdup(NameStr(form->srvname));
		result = lappend(result, server);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Tells whether an Add of an existing customer updates it (option add_is_upsert)
 * at the server of that name; false if there is no such server.
 */
bool
kapture_server_adds_by_upsert(const char *name)
{
	ForeignServer *server = GetForeignServerByName(name, true);
	ListCell   *lc;
	bool		result = false;

	foreach(lc, server ? server->options : NIL)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, "add_is_upsert") == 0)
			(void) parse_bool(strVal(option->arg), &result);
	}
	return result;
}
