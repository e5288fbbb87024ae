/*
 * attach_advice.c
 *		What is reported to those who attach and detach tables: what was mapped,
 *		what is sent and what is not.
 *
 * All of it is NOTICEs and WARNINGs: it changes nothing.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "api/server.h"
#include "base/compat.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "mapping/attach_advice.h"

/* Which field gets which column, in words; palloc'ed. */
static char *
advice_mapping(const KaptureAttachment *att)
{
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < att->ncolumns; i++)
	{
		const KaptureMappedColumn *column = &att->columns[i];

		appendStringInfo(&text, "%s%s", i ? ", " : "", column->field);
		if (column->expression)
			appendStringInfo(&text, " from an expression");
		else if (column->constant)
			appendStringInfo(&text, " as a constant");
		else if (strcmp(column->field, column->name) != 0)
			appendStringInfo(&text, " from column \"%s\"", column->name);
	}
	return text.data;
}

/* Reports settings that keep changes from being sent. */
static void
advice_settings(void)
{
	char	   *database = get_database_name(MyDatabaseId);

	if (!kapture_enabled)
		ereport(WARNING,
				(errmsg("nothing is sent while \"%s\" is off", "kapture_sync.enabled"),
				 errdetail("Changes are captured, and wait."),
				 errhint("Set it to on in the configuration file and reload it.")));
	if (database && kapture_guc_database_is_excluded(database))
		ereport(WARNING,
				(errmsg("database \"%s\" sends nothing while \"%s\" names it", database, "kapture_sync.excluded_databases"),
				 errdetail("Changes are captured, and wait."),
				 errhint("Take it out of the list in the configuration file and reload it.")));
}

/* Reports if changes that logical replication brings into the table are not captured. */
static void
advice_replicated(const KaptureAttachment *att)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(att->id)};

	if (kapture_own_text("SELECT 1 FROM pg_catalog.pg_subscription_rel AS r, @.kapture_attachment AS a"
						 " WHERE a.attachment_id = $1 AND r.srrelid = a.relation AND NOT a.replicated LIMIT 1",
						 1, types, values))
		ereport(NOTICE,
				(errmsg("what logical replication brings into table \"%s\" is not sent to Kapture", get_rel_name(att->root)),
				 errdetail("The table belongs to a subscription, and was attached without \"%s\".", "replicated"),
				 errhint("If it is to be sent from here, use kapture_alter() with replicated => true.")));
}

/*
 * kapture_advice_duplicates
 *		Reports if on_duplicate 'fail' cannot hold, because the account of a table's
 *		server adds by upsert.
 */
void
kapture_advice_duplicates(const KaptureAttachment *att)
{
	if (att->link_duplicates || !kapture_server_adds_by_upsert(att->server))
		return;
	ereport(NOTICE,
			(errmsg("on_duplicate 'fail' cannot hold for table \"%s\"", get_rel_name(att->root)),
			 errdetail("Server \"%s\" has option \"%s\": an Add of a customer that is there updates it, and Kapture does not report that it was there.",
					   att->server, "add_is_upsert"),
			 errhint("Use kapture_match() before rows are sent: it finds those whose customers are in Kapture already.")));
}

/*
 * kapture_advice_attached
 *		Reports what comes of attaching a table: what is mapped, which rows are not
 *		sent, what keeps others from being sent.  "hint" (or NULL) is about rows that
 *		are in the table already.
 */
void
kapture_advice_attached(const KaptureAttachment *att, const char *hint)
{
	ereport(NOTICE,
			(errmsg("changes of table %s are sent to server \"%s\" from now on", kapture_catalog_title(att), att->server),
			 errdetail("Mapped: %s.", advice_mapping(att)),
			 hint ? errhint("%s", hint) : 0));
	kapture_advice_duplicates(att);
	advice_replicated(att);
	advice_settings();
}

/*
 * kapture_advice_on_conflict
 *		Reports that on_conflict is of no use if no customers are pulled.
 */
void
kapture_advice_on_conflict(const char *on_conflict, bool pull)
{
	if (pull || strcmp(on_conflict, "local") == 0)
		return;
	ereport(NOTICE,
			(errmsg("argument \"%s\" is of no use without argument \"%s\"", "on_conflict", "pull"),
			 errdetail("It is about customers that are pulled into the table."),
			 errhint("Give pull => true, too, if they are to be.")));
}

/*
 * kapture_advice_given_up
 *		Reports for how many rows waiting changes are given up with an attachment.
 */
void
kapture_advice_given_up(const KaptureAttachment *att)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(att->id)};
	char	   *text = kapture_own_text("SELECT pg_catalog.count(*) FROM ("
										"SELECT row_key FROM @.kapture_outbox WHERE attachment_id = $1 AND op IN ('i', 'u', 'k', 'm')"
										" UNION SELECT pg_catalog.unnest(more_keys) FROM @.kapture_outbox WHERE attachment_id = $1 AND op IN ('i', 'u', 'k', 'm')"
										" UNION SELECT row_key FROM @.kapture_delivery WHERE attachment_id = $1) AS w",
										1, types, values);
	long		n = text ? strtol(text, NULL, 10) : 0;

	if (n > 0)
		ereport(NOTICE,
				(errmsg_plural("what waits to be sent for %ld row of table %s is given up",
							   "what waits to be sent for %ld rows of table %s is given up",
							   n, n, kapture_catalog_title(att)),
				 errdetail("Kapture does not have these changes, or it is not known whether it has."),
				 errhint("To keep them, roll back; kapture_pause() stops sending without giving anything up.")));
}

/* Reports what an attachment loses with a column that is being dropped. */
static void
advice_column_dropped_of(const KaptureAttachment *att, AttrNumber attnum)
{
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (att->columns[i].attnum == attnum)
			ereport(WARNING,
					(errmsg("Kapture's field \"%s\" is no longer sent for table %s", att->columns[i].field, kapture_catalog_title(att)),
					 errdetail("It was fed by column \"%s\", which is dropped.", att->columns[i].name),
					 errhint("Use kapture_alter() to map another column.")));
	}
	if (att->id_attnum == attnum)
		ereport(WARNING,
				(errmsg("nothing is sent for table %s without column \"%s\"", kapture_catalog_title(att), att->id_column),
				 errdetail("It receives the ids that Kapture gives."),
				 errhint("Add it again, as bigint, or use kapture_detach() and kapture_attach().")));
}

/*
 * kapture_advice_column_dropped
 *		Reports if a column that is being dropped feeds a field of an attached table,
 *		or receives its ids.
 */
void
kapture_advice_column_dropped(Oid relid, AttrNumber attnum)
{
	Relation	rel = try_relation_open(relid, NoLock);
	ListCell   *lc;

	foreach(lc, rel ? kapture_catalog_attachments(rel) : NIL)
	{
		if (((KaptureAttachment *) lfirst(lc))->root == relid)
			advice_column_dropped_of(lfirst(lc), attnum);
	}
	if (rel)
		relation_close(rel, NoLock);
}

/*
 * kapture_advice_table_dropped
 *		Reports what is given up with an attached table that the current user is about to
 *		drop.
 */
void
kapture_advice_table_dropped(Oid relid)
{
	Relation	rel;
	ListCell   *lc;

	if (!list_member_oid(kapture_catalog_attached_relations(), relid) ||
		!object_ownercheck(RelationRelationId, relid, GetUserId()))
		return;
	rel = try_relation_open(relid, AccessShareLock);
	foreach(lc, rel ? kapture_catalog_attachments(rel) : NIL)
	{
		if (((KaptureAttachment *) lfirst(lc))->root == relid)
			kapture_advice_given_up(lfirst(lc));
	}
	if (rel)
		relation_close(rel, AccessShareLock);
}
