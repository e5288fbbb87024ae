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
 * kapture_unbind_dropped
 *		To be called when servers may have been dropped: tables that were
 *		attached to them are detached, the state of their pulls is deleted, and
 *		copies are marked as those of an earlier server.
 */
void
kapture_unbind_dropped(void)
{
	char	   *id;
	bool		any = false;

	if (!kapture_binding_is_known())
		return;
	while ((id = kapture_own_text("SELECT a.attachment_id FROM @.kapture_attachment AS a WHERE NOT EXISTS"
								  " (SELECT FROM pg_foreign_server AS s WHERE CASE WHEN a.server_oid <> 0 AND " KAPTURE_BINDING_IS_ORIGIN
								  " THEN s.oid = a.server_oid ELSE s.srvname = a.server END) LIMIT 1", 0, NULL, NULL)) != NULL)
	{
		if (!any)
			kapture_notes_flush();	/* so that what was captured so far is deleted, too */
		any = true;
		unbind_detach(pg_strtoint32(id));
	}
	if (any)
		kapture_attach_announce();
	(void) kapture_own_execute("UPDATE @.kapture_copied AS c SET server_oid = 0 WHERE server_oid <> 0 AND NOT EXISTS"
							   " (SELECT FROM pg_foreign_server AS s WHERE CASE WHEN @.kapture_is_origin(c.system_identifier, c.database)"
							   " THEN s.oid = c.server_oid ELSE s.srvname = c.server END)", 0, NULL, NULL);
	(void) kapture_own_execute("DELETE FROM @.kapture_pull AS p WHERE NOT EXISTS"
							   " (SELECT FROM pg_foreign_server AS s WHERE s.srvname = p.server)", 0, NULL, NULL);
	(void) kapture_own_execute("DELETE FROM @.kapture_refresh_run AS r WHERE NOT EXISTS"
							   " (SELECT FROM pg_foreign_server AS s WHERE s.srvname = r.server)", 0, NULL, NULL);
}
