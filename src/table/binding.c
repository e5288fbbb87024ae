/*
 * binding.c
 *		Ties what is kept under a server's name to one foreign server.
 *
 * Attached tables, copies of customers and watermarks are kept under the name
 * of their server.  A name may pass to another server, and a server to another
 * owner, who can send everything to an address of their own.  So the oid of the
 * server and its owner are kept beside the name; a server is the same one if it
 * has that oid, and belongs to that owner or to a role that could have redirected
 * it before.
 *
 * The triggers of an attached table depend on its server, so DROP SERVER reports
 * them, and needs CASCADE, which detaches the table (unbind.c).
 *
 * A dump brings neither the oids nor the dependencies along.  In a copy of a
 * database the name decides, as nothing is sent there; kapture_resume() binds
 * everything anew.
 */
#include "postgres.h"

#include "catalog/dependency.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "api/option.h"
#include "base/compat.h"
#include "base/owner_sql.h"
#include "mapping/expression.h"
#include "table/binding.h"
#include "table/capture.h"

static const char *const binding_triggers[] = {KAPTURE_TRIGGER, KAPTURE_TRUNCATE_TRIGGER};

/*
 * kapture_binding_is_known
 *		Tells whether the extension's tables know about bindings: those of version
 *		1.0 do not.
 */
bool
kapture_binding_is_known(void)
{
	Oid			relid = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);

	return OidIsValid(relid) && get_attnum(relid, "server_oid") != InvalidAttrNumber;
}

/*
 * Has a server passed to a role that could not redirect it before?  That does not
 * count if the role owns the table concerned.
 */
static bool
binding_owner_is_other(Oid owner, Oid was_owner, Oid table_owner)
{
	return owner != was_owner && owner != table_owner && !has_privs_of_role(owner, was_owner);
}

/*
 * kapture_binding_lock
 *		Returns the oid of the server of that name, which "userid" may use; it is neither
 *		dropped nor renamed before the transaction ends.
 *
 * Who may not use the server does not queue for its lock either, which its owner's commands
 * would wait behind.  Errors: those of kapture_server_get().
 */
Oid
kapture_binding_lock(const char *name, Oid userid)
{
	for (;;)
	{
		Oid			serverid = kapture_server_get(name, userid)->serverid;

		LockDatabaseObject(ForeignServerRelationId, serverid, 0, AccessShareLock);
		/* meanwhile, the name may have passed to another server, or the right may be gone */
		if (kapture_server_get(name, userid)->serverid == serverid)
			return serverid;
		UnlockDatabaseObject(ForeignServerRelationId, serverid, 0, AccessShareLock);
	}
}

/* SQL: attachments "a" that have not the name that their server "s" has.  In a copy of a database, oids mean nothing. */
#define BINDING_IS_STALE \
	" FROM @.kapture_attachment AS a JOIN pg_foreign_server AS s ON s.oid = a.server_oid" \
	" WHERE a.server <> s.srvname AND " KAPTURE_BINDING_IS_ORIGIN

/*
 * kapture_binding_follow_names
 *		For the worker: has attachments follow their renamed servers that somebody had
 *		locked then, as whoever renames a server does not wait for the owners of tables.
 *		Those that somebody has locked now are left out.  Returns whether none is left with
 *		the old name.
 */
bool
kapture_binding_follow_names(void)
{
	if (kapture_own_text("SELECT 't'" BINDING_IS_STALE " LIMIT 1", 0, NULL, NULL) == NULL)
		return true;
	if (kapture_own_execute("UPDATE @.kapture_attachment AS t SET server = s.srvname FROM pg_foreign_server AS s"
							" WHERE s.oid = t.server_oid AND s.srvname <> t.server AND t.attachment_id = ANY (ARRAY(SELECT a.attachment_id"
							BINDING_IS_STALE " FOR UPDATE OF a SKIP LOCKED))", 0, NULL, NULL) > 0)
		CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
	return kapture_own_text("SELECT 't'" BINDING_IS_STALE " LIMIT 1", 0, NULL, NULL) == NULL;
}

/*
 * kapture_binding_is_of_server
 *		Tells whether an attachment is that of a server, as KAPTURE_BINDING_IS_OF_SERVER does.
 */
bool
kapture_binding_is_of_server(const KaptureAttachment *att, const char *name, Oid serverid)
{
	return strcmp(att->server, name) == 0 || att->serverid == serverid;
}

/*
 * kapture_binding_depend
 *		Has the triggers of an attachment, which is called "name", depend on its
 *		server.
 */
void
kapture_binding_depend(Oid relid, int32 attachment_id, const char *name, Oid serverid)
{
	for (int i = 0; i < lengthof(binding_triggers); i++)
	{
		Oid			trigger = get_trigger_oid(relid, kapture_capture_trigger(binding_triggers[i], attachment_id, name), true);
		ObjectAddress depender;
		ObjectAddress referenced;

		if (!OidIsValid(trigger))
			continue;
		ObjectAddressSet(depender, TriggerRelationId, trigger);
		ObjectAddressSet(referenced, ForeignServerRelationId, serverid);
		(void) deleteDependencyRecordsForClass(TriggerRelationId, trigger,
											   ForeignServerRelationId, DEPENDENCY_NORMAL);
		recordDependencyOn(&depender, &referenced, DEPENDENCY_NORMAL);
	}
}

/* Why this server is not the one that a table was attached to; NULL: it is. */
static char *
binding_mismatch(const KaptureAttachment *att, Oid serverid, Oid owner)
{
	if (serverid != att->serverid)
		return psprintf("server \"%s\" is another one than table \"%s\" was attached to",
						att->server, get_rel_name(att->root));
	if (binding_owner_is_other(owner, att->server_owner, kapture_catalog_owner(att->root)))
		return psprintf("server \"%s\" has passed to role \"%s\" since table \"%s\" was attached",
						att->server, GetUserNameFromId(owner, false), get_rel_name(att->root));
	return NULL;
}

/*
 * Why an attached table's server is not the one it was attached to; NULL if it
 * is, if there is no server of that name, or in a copy of a database, where oids
 * and owners prove nothing.
 */
static char *
binding_problem(const KaptureAttachment *att)
{
	ForeignServer *server = GetForeignServerByName(att->server, true);
	char	   *problem = server ? binding_mismatch(att, server->serverid, server->owner) : NULL;

	if (problem && kapture_own_text("SELECT 't' WHERE " KAPTURE_BINDING_IS_ORIGIN, 0, NULL, NULL) == NULL)
		return NULL;
	return problem;
}

/*
 * kapture_binding_problem
 *		Returns why rows of an attached table can be neither sent nor written,
 *		in the current memory context: because of its columns or expressions, or
 *		because its server is not the one it was attached to.  NULL if they can.
 */
char *
kapture_binding_problem(const KaptureAttachment *att)
{
	MemoryContext scratch;
	MemoryContext old;
	char	   *problem;

	/* the current context may live as long as the process, and a server has kilobytes of options */
	scratch = AllocSetContextCreate(CurTransactionContext, "kapture_sync binding", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(scratch);
	problem = kapture_catalog_problem(att);
	if (problem == NULL)
		problem = kapture_expression_problem(att);
	if (problem == NULL)
		problem = binding_problem(att);
	MemoryContextSwitchTo(old);
	if (problem)
		problem = pstrdup(problem);
	MemoryContextDelete(scratch);
	return problem;
}

/*
 * kapture_binding_advice
 *		Returns what to do about the problem of an attachment, as a sentence; static.
 */
const char *
kapture_binding_advice(const KaptureAttachment *att)
{
	if (att->nkeys == 0)
		return "Add a primary key, or use kapture_detach().";
	if (att->source_name && !OidIsValid(att->source))
		return "Make a view of this name again, or use kapture_alter() with another \"source\".";
	if (kapture_catalog_lost_key(att))
		return "Add the column to the view, or use kapture_alter() with another \"source\".";
	if (kapture_expression_problem(att))
		return "Bring back what it uses, or use kapture_alter() to change it.";
	if (att->id_column && att->id_attnum == InvalidAttrNumber)
		return "Add the column as bigint, or use kapture_detach() and kapture_attach().";
	return "If it is the right server, use kapture_detach() and kapture_attach().";
}

/*
 * kapture_binding_require
 *		Raises an error (55000) unless this is the server that a table was
 *		attached to.  "server" as it was read decides, not an earlier check.
 */
void
kapture_binding_require(const KaptureAttachment *att, const KaptureServer *server)
{
	char	   *problem = binding_mismatch(att, server->serverid, server->owner);

	if (problem)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg_internal("%s", problem)));
}


/*
 * Copies of customers
 */

/* Binds copies to a server; with "was_other", the state of pulls from the earlier server is deleted. */
static void
binding_take_copies(const ForeignServer *server, bool was_other)
{
	static const char *const states[] = {"kapture_pull", "kapture_refresh_run"};
	Oid			types[] = {NAMEOID, OIDOID, OIDOID, INT8OID, OIDOID};
	Datum		values[] = {
		DirectFunctionCall1(namein, CStringGetDatum(server->servername)),
		ObjectIdGetDatum(server->serverid), ObjectIdGetDatum(server->owner),
		Int64GetDatum((int64) GetSystemIdentifier()), ObjectIdGetDatum(MyDatabaseId)
	};

	for (int i = 0; was_other && i < lengthof(states); i++)
		(void) kapture_own_execute(psprintf("DELETE FROM @.%s WHERE server = $1", states[i]), 1, types, values);
	(void) kapture_own_execute("INSERT INTO @.kapture_copied AS c (server, server_oid, server_owner, system_identifier, database)"
							   " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (server) DO UPDATE SET"
							   " server_oid = excluded.server_oid, server_owner = excluded.server_owner,"
							   " system_identifier = excluded.system_identifier, database = excluded.database",
							   lengthof(values), types, values);
}

/*
 * kapture_binding_hold_copies
 *		To be called before customers of a server are pulled, and in each
 *		transaction that writes them: raises an error (55000) if there are
 *		customers of another server with its name.
 */
void
kapture_binding_hold_copies(const ForeignServer *server)
{
	Oid			types[] = {NAMEOID, OIDOID};
	Datum		values[] = {
		DirectFunctionCall1(namein, CStringGetDatum(server->servername)),
		ObjectIdGetDatum(server->serverid)
	};
	char	   *bound;
	bool		other;

	if (!kapture_binding_is_known())
		return;
	bound = kapture_own_text("SELECT CASE WHEN server_oid = 0 THEN 'other'"
							 " WHEN NOT @.kapture_is_origin(system_identifier, database) THEN 'copy'"
							 " WHEN server_oid <> $2 THEN 'other' ELSE server_owner::text END"
							 " FROM @.kapture_copied WHERE server = $1", 2, types, values);
	if (bound == NULL || strcmp(bound, "copy") == 0)
	{
		binding_take_copies(server, false);
		return;
	}
	other = strcmp(bound, "other") == 0;
	if (!other && !binding_owner_is_other(server->owner, (Oid) strtoul(bound, NULL, 10), InvalidOid))
		return;
	if (kapture_own_text("SELECT 't' WHERE EXISTS (SELECT FROM @.kapture_customers WHERE server = $1)"
						 " OR EXISTS (SELECT FROM @.kapture_contacts WHERE server = $1)", 2, types, values) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 other ?
				 errmsg("\"%s\" has customers of an earlier server \"%s\"", "kapture_customers", server->servername) :
				 errmsg("\"%s\" has customers from before server \"%s\" passed to role \"%s\"", "kapture_customers",
						server->servername, GetUserNameFromId(server->owner, false)),
				 other ? errhint("Delete them, or choose another name.") :
				 errhint("Delete them, or have a superuser call kapture_resume().")));
	binding_take_copies(server, true);
}


/*
 * Following
 */

/* Has the triggers of all attached tables depend on their servers. */
static void
binding_depend_all(void)
{
	SPI_connect();
	if (SPI_execute(kapture_catalog_qualify("SELECT relation, server_oid, attachment_id, name FROM @.kapture_attachment"
											" WHERE server_oid OPERATOR(pg_catalog.<>) 0"), false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read kapture_attachment");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;
		Oid			relid = DatumGetObjectId(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		Oid			serverid = DatumGetObjectId(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));

		int32		id = DatumGetInt32(SPI_getbinval(row, SPI_tuptable->tupdesc, 3, &isnull));

		kapture_binding_depend(relid, id, SPI_getvalue(row, SPI_tuptable->tupdesc, 4), serverid);
	}
	SPI_finish();
}

/*
 * kapture_binding_renew
 *		Binds attached tables of version 1.0, which are not bound yet, to the
 *		servers that have the names now.  With "all", also binds everything in a
 *		copy of a database, and what belongs to servers that have passed to another
 *		owner.
 */
void
kapture_binding_renew(bool all)
{
	Oid			types[] = {INT8OID, OIDOID};
	Datum		values[] = {Int64GetDatum((int64) GetSystemIdentifier()), ObjectIdGetDatum(MyDatabaseId)};
	Oid			userid;
	int			sec_context;

	if (!kapture_binding_is_known())
		return;
	(void) kapture_own_execute(psprintf("UPDATE @.kapture_attachment AS a SET server_oid = s.oid, server_owner = s.srvowner"
										" FROM pg_foreign_server AS s WHERE s.srvname = a.server AND (a.server_oid = 0%s)",
										all ? " OR a.server_oid = s.oid OR NOT " KAPTURE_BINDING_IS_ORIGIN : ""), 0, NULL, NULL);
	if (all)
		(void) kapture_own_execute("UPDATE @.kapture_copied AS c SET server_oid = s.oid, server_owner = s.srvowner,"
								   " system_identifier = $1, database = $2 FROM pg_foreign_server AS s"
								   " WHERE s.srvname = c.server AND c.server_oid <> 0"
								   " AND (c.server_oid = s.oid OR NOT @.kapture_is_origin(c.system_identifier, c.database))",
								   2, types, values);
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(kapture_own_role(), sec_context | SECURITY_LOCAL_USERID_CHANGE);
	binding_depend_all();
	SetUserIdAndSecContext(userid, sec_context);
}
