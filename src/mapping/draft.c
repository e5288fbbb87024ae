/*
 * draft.c
 *		Describes a table as if it were attached.
 *
 * Rows are read by such a draft like those of an attached table, but nothing of the draft
 * is in the extension's tables.  If the table is not attached yet, the draft's id is 0;
 * otherwise it is that of the attachment that the draft would replace, by which the rows'
 * ids and what they were sent are found.
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "mapping/draft.h"

/* An expression as catalog.c would read it; "rel" is NULL if it is over a view's row, whose columns are not the table's. */
static KaptureExpression *
draft_expression(Relation rel, const KaptureGivenExpression *given)
{
	KaptureExpression *result = palloc0(sizeof(KaptureExpression));
	ListCell   *lc;

	result->text = given->text;
	if (rel == NULL)
		return result;
	result->reads_all = given->reads_all;
	foreach(lc, given->reads)
		result->reads = lappend_int(result->reads, get_attnum(RelationGetRelid(rel), lfirst(lc)));
	return result;
}

/* The fields of these mappings, whose bits count from 0 on. */
static void
draft_set_fields(KaptureAttachment *att, Relation rel, List *mappings, const KaptureGivenSource *source)
{
	ListCell   *lc;

	att->ncolumns = 0;
	att->all_changed = 0;
	att->columns = palloc0(sizeof(KaptureMappedColumn) * Max(list_length(mappings), 1));
	foreach(lc, mappings)
	{
		const KaptureMapping *mapping = lfirst(lc);
		KaptureMappedColumn *col = &att->columns[att->ncolumns];

		col->bit = att->ncolumns++;
		col->field = mapping->field;
		col->name = mapping->name;
		/* those of a view are found by their names */
		col->attnum = mapping->name && source == NULL ? mapping->attnum : InvalidAttrNumber;
		col->expression = mapping->expression ? draft_expression(source ? NULL : rel, mapping->expression) : NULL;
		col->constant = mapping->constant;
		att->all_changed |= INT64CONST(1) << col->bit;
	}
}

/* The view that the values come from; NULL: there is none. */
static void
draft_set_source(KaptureAttachment *att, Relation rel, const KaptureGivenSource *source)
{
	att->source_name = source ? source->name : NULL;
	att->source = source ? kapture_catalog_find_relation(source->name) : InvalidOid;
	att->beside = source ? list_make1_oid(att->source) : NIL;
	att->source_keys = source ? source->keys : NIL;
	att->source_reads = source ? draft_expression(rel, &source->reads) : NULL;
}

/*
 * kapture_draft_make
 *		Returns the attachment that a table would have, in the current memory context.
 *
 * The id column need not be there.  Errors: 42704 there is no such server.
 */
KaptureAttachment *
kapture_draft_make(Relation rel, const char *server, const char *id_column, List *mappings,
				   const KaptureGivenExpression *filter, const KaptureGivenSource *source)
{
	KaptureAttachment *att = palloc0(sizeof(KaptureAttachment));
	ForeignServer *fs = GetForeignServerByName(server, false);

	att->name = pstrdup("");
	att->root = RelationGetRelid(rel);
	att->server = pstrdup(server);
	att->serverid = fs->serverid;
	att->server_owner = fs->owner;
	att->link_duplicates = true;
	att->id_column = id_column ? pstrdup(id_column) : NULL;
	att->id_attnum = id_column ? get_attnum(att->root, id_column) : InvalidAttrNumber;
	att->computing = palloc0(sizeof(KaptureComputing));
	draft_set_fields(att, rel, mappings, source);
	if (filter)
		att->filter = draft_expression(rel, filter);
	draft_set_source(att, rel, source);
	kapture_catalog_read_key(att, rel);
	return att;
}

/* The fields that were there before keep their bits, others get bits that none of them had. */
static void
draft_keep_bits(KaptureAttachment *draft, const KaptureAttachment *att)
{
	int64		in_use = att->all_changed;

	draft->all_changed = 0;
	for (int i = 0; i < draft->ncolumns; i++)
	{
		KaptureMappedColumn *col = &draft->columns[i];

		col->bit = -1;
		for (int j = 0; j < att->ncolumns; j++)
		{
			if (strcmp(att->columns[j].field, col->field) == 0)
				col->bit = att->columns[j].bit;
		}
		if (col->bit < 0)
			col->bit = kapture_mapping_free_bit(in_use);
		if (col->bit < 0)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("too many fields of table \"%s\" are others than those of its attachment", get_rel_name(att->root)),
					 errdetail("Fields that are there and those that are new are %d at most.", KAPTURE_MAX_MAPPED),
					 errhint("Name fewer fields in argument \"columns\".")));
		in_use |= INT64CONST(1) << col->bit;
		draft->all_changed |= INT64CONST(1) << col->bit;
	}
}

/*
 * kapture_draft_alter
 *		Returns what an attachment of a table would be, altered, in the current memory
 *		context.
 *
 * "mappings", which come with their "source", replace its fields (NIL: they stay as they
 * are), "filter" its filter (NULL: it stays, too).  Errors: 54000 there are too many fields.
 */
KaptureAttachment *
kapture_draft_alter(const KaptureAttachment *att, Relation rel, List *mappings,
					const KaptureGivenExpression *filter, const KaptureGivenSource *source)
{
	KaptureAttachment *draft = palloc(sizeof(KaptureAttachment));

	*draft = *att;
	draft->computing = palloc0(sizeof(KaptureComputing));
	/* it has statements of its own */
	memset(draft->plans, 0, sizeof(draft->plans));
	draft->is_planned = draft->plans_owned = false;
	if (mappings != NIL)
	{
		draft_set_fields(draft, rel, mappings, source);
		draft_keep_bits(draft, att);
		draft_set_source(draft, rel, source);
	}
	if (filter)
		draft->filter = draft_expression(rel, filter);
	return draft;
}

/*
 * kapture_draft_readdress
 *		Has an altered attachment go to another server, whose customers no row is yet.
 *
 * Errors: 42704 there is no such server.
 */
void
kapture_draft_readdress(KaptureAttachment *draft, const char *server)
{
	ForeignServer *fs = GetForeignServerByName(server, false);

	draft->id = 0;
	draft->server = pstrdup(server);
	draft->serverid = fs->serverid;
	draft->server_owner = fs->owner;
	draft->id_column = NULL;
	draft->id_attnum = InvalidAttrNumber;
}
