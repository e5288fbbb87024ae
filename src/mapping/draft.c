/*
 * draft.c
 *		Describes a table as if it were attached.
 *
 * Rows are read by such a draft like those of an attached table, but nothing of the draft
 * is in the extension's tables: its id is 0.
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

/*
 * Returns the attachment that a table would have, in the current memory context.
 * The id column need not be there.  Errors: 42704 there is no such server.
 */
KaptureAttachment *
kapture_draft_make(Relation rel, const char *server, const char *id_column, List *mappings,
				   const KaptureGivenExpression *filter, const KaptureGivenSource *source)
{
	KaptureAttachment *att = palloc0(sizeof(KaptureAttachment));
	ForeignServer *fs = GetForeignServerByName(server, false);
	ListCell   *lc;

	att->name = pstrdup("");
	att->root = RelationGetRelid(rel);
	att->server = pstrdup(server);
	att->serverid = fs->serverid;
	att->server_owner = fs->owner;
	att->link_duplicates = true;
	att->id_column = id_column ? pstrdup(id_column) : NULL;
	att->id_attnum = id_column ? get_attnum(att->root, id_column) : InvalidAttrNumber;
	att->computing = palloc0(sizeof(KaptureComputing));
	att->columns = palloc0(sizeof(KaptureMappedColumn) * Max(list_length(mappings), 1));
	foreach(lc, mappings)
	{
		const KaptureMapping *mapping = lfirst(lc);
		KaptureMappedColumn *col = &att->columns[att->ncolumns];

		col->bit = att->ncolumns++;
		col->field = mapping->field;
		col->name = mapping->name;
		/* columns of a view are found by their names */
		col->attnum = mapping->name && source == NULL ? mapping->attnum : InvalidAttrNumber;
		col->expression = mapping->expression ? draft_expression(source ? NULL : rel, mapping->expression) : NULL;
		col->constant = mapping->constant;
		att->all_changed |= INT64CONST(1) << col->bit;
	}
	if (filter)
		att->filter = draft_expression(rel, filter);
	if (source)
	{
		att->source_name = source->name;
		att->source = kapture_catalog_find_relation(source->name);
		att->beside = list_make1_oid(att->source);
		att->source_keys = source->keys;
		att->source_reads = draft_expression(rel, &source->reads);
	}
	kapture_catalog_read_key(att, rel);
	return att;
}
