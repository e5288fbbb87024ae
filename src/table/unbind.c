/*
 * unbind.c
 *		Ends what was kept for servers that were dropped.
 *
 * The triggers of attached tables depend on their server (binding.c), so CASCADE
 * has dropped them; here the tables are detached.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/owner_sql.h"
#include "mapping/attach_advice.h"
#include "table/attach.h"
#include "table/binding.h"
#include "table/capture.h"
#include "table/capture_buffer.h"
#include "table/unbind.h"

static const char *const unbind_triggers[] = {KAPTURE_TRIGGER, KAPTURE_TRUNCATE_TRIGGER};

/* Reports what is given up with an attachment, if the user owns its table. */
static void
unbind_advise(Oid relid, int32 attachment_id)
{
	Relation	rel;
	KaptureAttachment *att;

	if (!object_ownercheck(RelationRelationId, relid, GetUserId()))
		return;
	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL)
		return;
	att = kapture_catalog_attachment_by_id(rel, attachment_id);
	if (att)
		kapture_advice_given_up(att);
	relation_close(rel, AccessShareLock);
}

/* Ends an attachment whose server was dropped, whoever owns the table. */
static void
unbind_detach(int32 attachment_id)
{
	Oid			relid = kapture_catalog_attached_relation(attachment_id);
	char	   *name = get_rel_name(relid);
	char	   *attachment = kapture_own_text("SELECT name FROM @.kapture_attachment WHERE attachment_id = $1", 1,
											  (Oid[]) {INT4OID}, (Datum[]) {Int32GetDatum(attachment_id)});

	/* DROP OWNED has dropped the table together with the server, if the user owned both */
	if (name)
		unbind_advise(relid, attachment_id);
	/* CASCADE has dropped the triggers, except in a copy of a database, where they do not depend on the server */
	for (int i = 0; name && i < lengthof(unbind_triggers); i++)
	{
		Oid			trigger = get_trigger_oid(relid, kapture_capture_trigger(unbind_triggers[i], attachment_id, attachment), true);
		ObjectAddress object;

		if (!OidIsValid(trigger))
			continue;
		ObjectAddressSet(object, TriggerRelationId, trigger);
		performDeletion(&object, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	}
	kapture_attach_forget(attachment_id);
	if (name)
		ereport(NOTICE,
				(attachment[0] == '\0' ? errmsg("table \"%s\" is no longer attached to Kapture", name) :
				 errmsg("attachment \"%s\" of table \"%s\" has ended", attachment, name),
				 errdetail("Its server was dropped.")));
}

/*
 * kapture_unbind_server
 *		Notes a server that is about to be dropped, in the current memory context.
 */
KaptureUnboundServer *
kapture_unbind_server(Oid serverid)
{
	KaptureUnboundServer *result = palloc0(sizeof(KaptureUnboundServer));

	result->serverid = serverid;
	namestrcpy(&result->name, GetForeignServer(serverid)->servername);
	return result;
}

/*
 * Detaches the tables that were attached to a server, and deletes the state of its pulls.
 * The tables' triggers depend on the server, so their locks are those of DROP.  A row that
 * somebody has locked is left to the puller (kapture_pull_state_tidy()), or means nothing
 * any more, as it names an OID that is gone.
 */
static void
unbind_server(const KaptureUnboundServer *server, bool *any)
{
	Oid			types[] = {OIDOID, NAMEOID};
	Datum		values[] = {ObjectIdGetDatum(server->serverid), NameGetDatum(&server->name)};
	char	   *id;

	while ((id = kapture_own_text("SELECT a.attachment_id FROM @.kapture_attachment AS a"
								  " WHERE CASE WHEN a.server_oid <> 0 AND " KAPTURE_BINDING_IS_ORIGIN
								  " THEN a.server_oid = $1 ELSE a.server = $2 END LIMIT 1",
								  lengthof(values), types, values)) != NULL)
	{
		if (!*any)
			kapture_notes_flush();	/* so that what was captured so far is deleted, too */
		*any = true;
		unbind_detach(pg_strtoint32(id));
	}
	(void) kapture_own_execute("UPDATE @.kapture_copied SET server_oid = 0 WHERE server = ANY (ARRAY(SELECT c.server"
							   " FROM @.kapture_copied AS c WHERE c.server_oid <> 0"
							   " AND CASE WHEN @.kapture_is_origin(c.system_identifier, c.database)"
							   " THEN c.server_oid = $1 ELSE c.server = $2 END FOR UPDATE SKIP LOCKED))",
							   lengthof(values), types, values);
	(void) kapture_own_execute("DELETE FROM @.kapture_pull WHERE server = ANY (ARRAY(SELECT p.server FROM @.kapture_pull AS p"
							   " WHERE p.server = $2 FOR UPDATE SKIP LOCKED))", lengthof(values), types, values);
	(void) kapture_own_execute("DELETE FROM @.kapture_refresh_run WHERE (server, start_date) IN (SELECT r.server, r.start_date"
							   " FROM @.kapture_refresh_run AS r WHERE r.server = $2 FOR UPDATE SKIP LOCKED)",
							   lengthof(values), types, values);
}

/*
 * kapture_unbind_dropped
 *		To be called when a command has dropped servers (KaptureUnboundServer): tables
 *		that were attached to them are detached, the state of their pulls is deleted, and
 *		copies are marked as those of an earlier server.
 *
 * What other servers have left behind, whose absence has other reasons, is not looked at:
 * in a copy of a database that was restored without a server, that may be tables of others.
 */
void
kapture_unbind_dropped(List *servers)
{
	bool		any = false;
	ListCell   *lc;

	if (servers == NIL || !kapture_binding_is_known())
		return;
	foreach(lc, servers)
		unbind_server(lfirst(lc), &any);
	if (any)
		kapture_attach_announce();
}
