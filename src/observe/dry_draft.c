/*
 * dry_draft.c
 *		Which attachment a dry run is about.
 *
 * Of a table that is attached, it is that attachment, as kapture_alter() would leave it
 * with the same arguments; otherwise, one that kapture_attach() would make of them.  A
 * NOTICE says which, as both may have been meant.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "api/argument.h"
#include "api/option.h"
#include "mapping/draft.h"
#include "mapping/field_map.h"
#include "mapping/source.h"
#include "observe/dry_draft.h"
#include "table/attach.h"
#include "table/attach_find.h"
#include "table/row_io.h"
#include "table/row_sql.h"

/* As kapture_attach() would take them. */
#define DRY_ID_COLUMN	"kapture_customer_id"
#define DRY_SERVER_NAME	"kapture"

typedef struct DryDraft
{
	FunctionCallInfo fcinfo;
	Relation	rel;
	List	   *attachments;	/* of the table */
	const KaptureAttachment *attached;	/* the one that it is about; NULL: it is about a new one */
	const char *server;
} DryDraft;

static bool
dry_has(const DryDraft *dry, DryArgument arg)
{
	return !dry->fcinfo->args[arg].isnull;
}

/* The attachment with this name; NULL: there is none. */
static const KaptureAttachment *
dry_find_name(const DryDraft *dry, const char *name)
{
	ListCell   *lc;

	foreach(lc, dry->attachments)
	{
		const KaptureAttachment *att = lfirst(lc);

		if (strcmp(att->name, name) == 0)
			return att;
	}
	return NULL;
}

/* The attachment to this server (NULL: any); NULL: there is none.  Errors out if there are several. */
static const KaptureAttachment *
dry_find_server(const DryDraft *dry, const char *server)
{
	const KaptureAttachment *found = NULL;
	ListCell   *lc;

	foreach(lc, dry->attachments)
	{
		const KaptureAttachment *att = lfirst(lc);

		if (server && strcmp(att->server, server) != 0)
			continue;
		if (found)
			return kapture_attach_find(dry->fcinfo, DRY_NAME, AccessShareLock);
		found = att;
	}
	return found;
}

/* Finds out which attachment, and which server, the dry run is about. */
static void
dry_choose(DryDraft *dry)
{
	ListCell   *lc;

	foreach(lc, kapture_catalog_attachments(dry->rel))
	{
		/* a partition may be attached as a part of its table */
		if (((KaptureAttachment *) lfirst(lc))->root == RelationGetRelid(dry->rel))
			dry->attachments = lappend(dry->attachments, lfirst(lc));
	}
	if (dry_has(dry, DRY_SERVER))
		dry->server = NameStr(*DatumGetName(dry->fcinfo->args[DRY_SERVER].value));
	if (dry_has(dry, DRY_NAME))
		dry->attached = dry_find_name(dry, TextDatumGetCString(dry->fcinfo->args[DRY_NAME].value));
	else
		dry->attached = dry_find_server(dry, dry->server);
	if (dry->server == NULL)
		dry->server = dry->attached ? dry->attached->server : DRY_SERVER_NAME;
}

/* The names of the key's columns; errors out if the table has no primary key. */
static List *
dry_key_names(Relation rel)
{
	KaptureAttachment att = {.root = RelationGetRelid(rel)};
	List	   *names = NIL;

	kapture_catalog_read_key(&att, rel);
	for (int i = 0; i < att.nkeys; i++)
		names = lappend(names, att.keys[i].name);
	if (names == NIL)
		kapture_attach_refuse_keyless(rel);
	return names;
}

/* The fields that the arguments map, and the view that they come from; NIL: those of the attachment stay. */
static List *
dry_take_mappings(const DryDraft *dry, KaptureGivenSource **source)
{
	Jsonb	   *columns = dry_has(dry, DRY_COLUMNS) ? DatumGetJsonbP(dry->fcinfo->args[DRY_COLUMNS].value) : NULL;
	Oid			viewid = dry_has(dry, DRY_SOURCE) ? DatumGetObjectId(dry->fcinfo->args[DRY_SOURCE].value) :
		dry->attached ? dry->attached->source : InvalidOid;
	Relation	view;
	List	   *mappings;

	*source = NULL;
	if (dry->attached && columns == NULL && !dry_has(dry, DRY_SOURCE))
		return NIL;
	if (!OidIsValid(viewid))
		return kapture_mapping_take(dry->rel, columns, dry->attached ? dry->attached->id_column : DRY_ID_COLUMN);
	view = kapture_source_open(dry->rel, viewid);
	*source = kapture_source_take(dry->rel, view, dry_key_names(dry->rel));
	mappings = kapture_mapping_take_of_view(view, columns, (*source)->keys);
	relation_close(view, NoLock);
	return mappings;
}

/* The column that a new attachment would have ids in; NULL: it is another one's, who has ids of another account. */
static const char *
dry_id_column(const DryDraft *dry)
{
	ListCell   *lc;

	foreach(lc, dry->attachments)
	{
		const KaptureAttachment *att = lfirst(lc);

		if (att->id_column && strcmp(att->id_column, DRY_ID_COLUMN) == 0)
			return NULL;
	}
	return DRY_ID_COLUMN;
}

/* Names the arguments that are given. */
static char *
dry_given(const DryDraft *dry)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int arg = DRY_COLUMNS; arg <= DRY_SERVER; arg++)
	{
		static const char *const arguments[] = {[DRY_COLUMNS] = "columns",[DRY_FILTER] = "filter",[DRY_SOURCE] = "source",
		[DRY_SERVER] = "server"};

		if (dry_has(dry, (DryArgument) arg) && (arg != DRY_SERVER || strcmp(dry->server, dry->attached->server) != 0))
			appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "", arguments[arg]);
	}
	return names.data;
}

/* Says which attachment the dry run is about, where the table has any. */
static void
dry_say(const DryDraft *dry)
{
	const KaptureAttachment *att = dry->attached;
	char	   *given;

	if (dry->attachments == NIL)
		return;
	if (att == NULL)
	{
		const KaptureAttachment *first = linitial(dry->attachments);

		ereport(NOTICE,
				(errmsg("this is about another attachment of table \"%s\", to server \"%s\"", RelationGetRelationName(dry->rel), dry->server),
				 errdetail("The table is attached to server \"%s\"%s.", first->server,
						   first->name[0] == '\0' ? "" : psprintf(" as \"%s\"", first->name)),
				 dry_has(dry, DRY_NAME) ?
				 errhint("For what becomes of the rows as the table is attached, give the name that kapture_attachments shows, or none if it is the only one.") :
				 errhint("For what becomes of the rows as the table is attached, leave out \"server\", and give \"name\" if there are several attachments.")));
		return;
	}
	given = dry_given(dry);
	if (given[0] == '\0')
		ereport(NOTICE,
				(errmsg("this is about table %s as it is attached to server \"%s\"", kapture_catalog_title(att), att->server),
				 errdetail("What has changed is sent automatically. CALL kapture_resync(%s%s) sends all that is reported as add or update.",
						   quote_literal_cstr(kapture_row_relation_name(att->root)),
						   att->name[0] == '\0' ? "" : psprintf(", name => %s", quote_literal_cstr(att->name)))));
	else
		ereport(NOTICE,
				(errmsg("this is about table %s as kapture_alter() would attach it", kapture_catalog_title(att)),
				 errdetail("Given: %s. All else is as kapture_attachments shows it.", given),
				 strcmp(dry->server, att->server) == 0 ? 0 :
				 errhint("Ids of customers of server \"%s\" count as none.", att->server)));
}

/*
 * kapture_dry_draft
 *		Returns what the arguments of kapture_dry_run() describe, in the current memory
 *		context, and says in a NOTICE whether it is an attachment that is there.
 *
 * Its number is that of the attachment that has the rows' ids, 0 if there is none.
 * *fresh: the bits of fields of which nothing was sent by that one.  The relation stays
 * locked as by a reader.  Errors: those of kapture_attach() and kapture_alter() for bad
 * arguments; 42725 several attachments may be meant; 55000 the table as it is attached
 * cannot be read.
 */
KaptureAttachment *
kapture_dry_draft(FunctionCallInfo fcinfo, int64 *fresh)
{
	DryDraft	dry = {.fcinfo = fcinfo};
	Oid			relid = DatumGetObjectId(fcinfo->args[DRY_RELATION].value);
	KaptureGivenExpression *filter = NULL;
	KaptureGivenSource *source;
	KaptureAttachment *draft;
	List	   *mappings;

	dry.rel = kapture_argument_open(relid, AccessShareLock, kapture_argument_check_owner);
	if (dry.rel->rd_rel->relkind == RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be attached to Kapture", RelationGetRelationName(dry.rel)),
				 errdetail("Only tables can be attached."),
				 errhint("Name the table that the view shows, and the view as \"source\".")));
	kapture_attach_check_relation(dry.rel);
	dry_choose(&dry);
	if (dry.attachments == NIL)
		(void) dry_key_names(dry.rel);
	(void) kapture_server_get(dry.server, dry.rel->rd_rel->relowner);
	dry_say(&dry);				/* what is wrong with the arguments may be that another one was meant */
	mappings = dry_take_mappings(&dry, &source);
	if (dry_has(&dry, DRY_FILTER))
		filter = kapture_expression_take(dry.rel, TextDatumGetCString(fcinfo->args[DRY_FILTER].value), NULL);
	if (dry.attached)
		draft = kapture_draft_alter(dry.attached, dry.rel, mappings, filter, source);
	else
		draft = kapture_draft_make(dry.rel, dry.server, dry_id_column(&dry), mappings, filter, source);
	if (strcmp(draft->server, dry.server) != 0)
		kapture_draft_readdress(draft, dry.server);
	*fresh = dry.attached ? draft->all_changed & ~dry.attached->all_changed : 0;
	relation_close(dry.rel, NoLock);
	if (draft->id != 0)
		kapture_row_check_table(draft);
	return draft;
}
