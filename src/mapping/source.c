/*
 * source.c
 *		Views that the values of an attached table come from.
 *
 * A row's values are those that the view shows for its key.  Changes are captured on
 * the table; the columns that matter are those that the view reads, also through other
 * views.  They are stored with the attachment, since a trigger must not wait for locks
 * on views, and determined again when one of the views is replaced.
 *
 * The view is kept by its name, which follows a rename: views are dropped and created
 * again more often than changed.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/owner_sql.h"
#include "base/view_tree.h"
#include "mapping/bystander.h"
#include "mapping/source.h"

static char *
source_name(Oid view)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(view)), get_rel_name(view));
}

/* Adds the columns of a table that the views in "tree" read. */
static void
source_find_reads(KaptureGivenExpression *reads, List *tree, Oid relid)
{
	ListCell   *lc;

	foreach(lc, kapture_view_reads(tree, relid, &reads->reads_all))
		reads->reads = lappend(reads->reads, get_attname(relid, lfirst_int(lc), false));
}

/* Refuses a view that the table's owner may not read. */
static void
source_check_rights(Relation rel, Oid view)
{
	Oid			owner = rel->rd_rel->relowner;
	const char *role = GetUserNameFromId(owner, false);
	const char *schema = get_namespace_name(get_rel_namespace(view));

	if (pg_class_aclcheck(view, owner, ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for view %s", get_rel_name(view)),
				 errdetail("Role \"%s\", the owner of table \"%s\", reads it for Kapture.", role, RelationGetRelationName(rel)),
				 errhint("Use GRANT SELECT ON %s TO %s.", source_name(view), quote_identifier(role))));
	if (object_aclcheck(NamespaceRelationId, get_rel_namespace(view), owner, ACL_USAGE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for schema %s", schema),
				 errdetail("Role \"%s\", the owner of table \"%s\", reads view \"%s\" in it for Kapture.",
						   role, RelationGetRelationName(rel), get_rel_name(view)),
				 errhint("Use GRANT USAGE ON SCHEMA %s TO %s.", quote_identifier(schema), quote_identifier(role))));
}

/*
 * Opens the view that a user gives for a table.  Rights are checked before the view is
 * locked: whoever waits for a lock makes others wait behind.  Errors: 42P01 there is none,
 * 42501 the table's owner may not read it.
 */
Relation
kapture_source_open(Relation rel, Oid view)
{
	source_check_rights(rel, view);
	return relation_open(view, AccessShareLock);
}

/* Refuses a view in which the table's rows cannot be found, or that the table's owner may not read. */
static void
source_check(Relation rel, Relation view, List *keys)
{
	ListCell   *lc;

	if (view->rd_rel->relkind != RELKIND_VIEW)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a view", RelationGetRelationName(view)),
				 errdetail("The argument \"source\" names the view that the values come from."),
				 view->rd_rel->relkind == RELKIND_MATVIEW ?
				 errhint("Make a plain view of the same query: what a materialized view shows changes without a change of the table.") :
				 errhint("Make a view with the primary key of table \"%s\", and columns named like Kapture's fields.", RelationGetRelationName(rel))));
	if (view->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("view \"%s\" is temporary", RelationGetRelationName(view)),
				 errdetail("It ends with the session, and the worker cannot read it."),
				 errhint("Make a view that is not temporary, and reads no temporary tables.")));
	source_check_rights(rel, RelationGetRelid(view));
	foreach(lc, keys)
	{
		const char *key = lfirst(lc);
		Oid			type = get_atttype(RelationGetRelid(rel), get_attnum(RelationGetRelid(rel), key));
		AttrNumber	attnum = get_attnum(RelationGetRelid(view), key);

		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("view \"%s\" has no column \"%s\"", RelationGetRelationName(view), key),
					 errdetail("It must have the primary key of table \"%s\", by which the rows are found.",
							   RelationGetRelationName(rel)),
					 errhint("Add the column to the view, under that name.")));
		if (!can_coerce_type(1, (Oid[]) {get_atttype(RelationGetRelid(view), attnum)}, &type, COERCION_EXPLICIT))
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of view \"%s\" is of type %s, but that of table \"%s\" of type %s",
							key, RelationGetRelationName(view),
							format_type_be(get_atttype(RelationGetRelid(view), attnum)),
							RelationGetRelationName(rel), format_type_be(type))));
	}
}

/*
 * Tells whether an attached table follows another one.
 */
bool
kapture_source_is_followed(Oid relid, Oid other)
{
	Oid			types[2] = {REGCLASSOID, REGCLASSOID};
	Datum		values[2] = {ObjectIdGetDatum(relid), ObjectIdGetDatum(other)};

	return kapture_own_text("SELECT 1 FROM @.kapture_follow WHERE relation = $1 AND source = $2 LIMIT 1", 2, types, values) != NULL;
}

/*
 * Reports which of the relations that the view reads can change without that being noticed:
 * tables that are not followed, and what nobody can follow.
 */
static void
source_advise_unfollowed(Relation rel, Relation view, List *tree)
{
	StringInfoData tables;
	StringInfoData others;
	ListCell   *lc;

	initStringInfo(&tables);
	initStringInfo(&others);
	foreach(lc, tree)
	{
		Oid			relid = lfirst_oid(lc);
		char		relkind = get_rel_relkind(relid);
		StringInfo	names = relkind == RELKIND_RELATION || relkind == RELKIND_PARTITIONED_TABLE ? &tables : &others;

		if (relkind == RELKIND_VIEW || relid == RelationGetRelid(rel) || relid < FirstNormalObjectId ||
			(names == &tables && kapture_source_is_followed(RelationGetRelid(rel), relid)))
			continue;
		appendStringInfo(names, "%s%s", names->len > 0 ? ", " : "", source_name(relid));
	}
	if (tables.len > 0)
		ereport(NOTICE,
				(errmsg("view \"%s\" reads tables whose changes are not noticed: %s", RelationGetRelationName(view), tables.data),
				 errhint("Use kapture_follow() for each of them whose changes matter to the rows of table \"%s\".", RelationGetRelationName(rel))));
	if (others.len > 0)
		ereport(NOTICE,
				(errmsg("view \"%s\" reads relations that cannot be followed: %s", RelationGetRelationName(view), others.data),
				 errdetail("Only tables can be followed."),
				 errhint("Use kapture_resync() when what they show has changed.")));
}

/*
 * Takes a view that a user gives for a table with this key (list of names), in the
 * current memory context.  Errors: 42809 it is no view, 42501 the table's owner may not
 * read it, 42703 or 42804 it lacks the key's columns, or has them of other types.
 */
KaptureGivenSource *
kapture_source_take(Relation rel, Relation view, List *keys)
{
	KaptureGivenSource *source = palloc0(sizeof(KaptureGivenSource));
	List	   *tree;
	Oid			function;

	source_check(rel, view, keys);
	tree = kapture_view_tree(RelationGetRelid(view));
	if (!list_member_oid(tree, RelationGetRelid(rel)))
		ereport(NOTICE,
				(errmsg("view \"%s\" does not read table \"%s\"", RelationGetRelationName(view), RelationGetRelationName(rel)),
				 errdetail("Changes of the table will not be sent, but for new rows and deleted ones.")));
	function = kapture_view_unseen_function(tree);
	if (OidIsValid(function))
		ereport(NOTICE,
				(errmsg("view \"%s\" calls function %s, which may read more than the view",
						RelationGetRelationName(view), format_procedure(function)),
				 errdetail("Changes of what else it reads are not noticed.")));
	source_advise_unfollowed(rel, view, tree);
	source->name = source_name(RelationGetRelid(view));
	source->keys = keys;
	source_find_reads(&source->reads, tree, RelationGetRelid(rel));
	return source;
}

/* ------------------------------------------------------------------------
 * Following
 * ------------------------------------------------------------------------
 */

/* Determines and stores which columns of its table the source of an attachment reads. */
static void
source_store_reads(int32 attachment_id, Oid relid, Oid view)
{
	KaptureGivenExpression reads = {0};
	char	   *names;
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(attachment_id)};

	source_find_reads(&reads, kapture_view_tree(view), relid);
	names = kapture_expression_reads(&reads);
	values[1] = CStringGetTextDatum(names ? names : "");
	(void) kapture_bystander_execute(relid, "UPDATE @.kapture_attachment SET source_columns = nullif($2, '')::name[] WHERE attachment_id = $1",
									 2, types, values);
}

/* The name of the view that the values of an attachment come from; NULL: they come from its table. */
static char *
source_of(const KaptureAttached *attached)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(attached->id)};

	return kapture_own_text("SELECT source FROM @.kapture_attachment WHERE attachment_id = $1", 1, types, values);
}

/*
 * kapture_source_changed
 *		Called after a view was created or replaced: determines again what the sources
 *		that use the view read.  Returns the oids of their attached tables, in the current memory
 *		context.
 *
 * It need not concern the owners of other sources, however many views these read: the way is
 * from the view to what uses it.
 */
List *
kapture_source_changed(Oid view)
{
	List	   *relids = kapture_expression_relations(NULL);
	List	   *users = relids != NIL ? kapture_view_users(view) : NIL;
	List	   *concerned = NIL;
	ListCell   *lc;

	foreach(lc, relids != NIL ? kapture_catalog_attached() : NIL)
	{
		const KaptureAttached *attached = lfirst(lc);
		char	   *name = source_of(attached);
		Oid			source = name ? kapture_catalog_find_relation(name) : InvalidOid;

		CHECK_FOR_INTERRUPTS();
		if (!OidIsValid(source) || get_rel_relkind(source) != RELKIND_VIEW || !list_member_oid(users, source))
			continue;
		source_store_reads(attached->id, attached->relid, source);
		concerned = list_append_unique_oid(concerned, attached->relid);
	}
	return concerned;
}

/*
 * kapture_source_column_renamed
 *		Has attachments follow a renamed column of their source.  Returns whether
 *		there are any.
 */
bool
kapture_source_column_renamed(Oid view, const char *from, const char *to)
{
	NameData	names[2];
	Oid			types[3] = {INT4OID, NAMEOID, NAMEOID};
	Datum		values[3] = {(Datum) 0, NameGetDatum(&names[0]), NameGetDatum(&names[1])};
	uint64		n = 0;
	ListCell   *lc;

	namestrcpy(&names[0], from);
	namestrcpy(&names[1], to);
	foreach(lc, kapture_catalog_attached())
	{
		const KaptureAttached *attached = lfirst(lc);
		const char *name = source_of(attached);

		if (name == NULL || kapture_catalog_find_relation(name) != view)
			continue;
		values[0] = Int32GetDatum(attached->id);
		n += kapture_bystander_execute(attached->relid, "UPDATE @.kapture_column SET column_name = $3"
									   " WHERE attachment_id = $1 AND column_name = $2", 3, types, values);
		n += kapture_bystander_execute(attached->relid, "UPDATE @.kapture_attachment SET source_keys = pg_catalog.array_replace(source_keys, $2, $3)"
									   " WHERE attachment_id = $1 AND $2 = ANY (source_keys)", 3, types, values);
	}
	return n > 0;
}
