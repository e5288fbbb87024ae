/*
 * attach.c
 *		Attaching tables and detaching them, and having attachments follow DDL.
 *
 * The functions are called by the owners of tables, who have no rights on the
 * extension's tables.  So each checks that the caller owns the table (and may
 * use the server), does DDL on the table as the caller, and writes to the
 * extension's tables as their owner.  Changes reach the worker by a relcache
 * invalidation of kapture_attachment and a wake-up at commit.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "api/argument.h"
#include "api/option.h"
#include "base/catalog.h"
#include "base/family.h"
#include "base/own_rows.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "base/version.h"
#include "cluster/shmem.h"
#include "mapping/attach_advice.h"
#include "mapping/expression.h"
#include "mapping/field_map.h"
#include "mapping/source.h"
#include "table/attach.h"
#include "table/attach_find.h"
#include "table/attach_trigger.h"
#include "table/binding.h"
#include "table/capture.h"
#include "table/capture_buffer.h"
#include "table/origin.h"
#include "table/row_io.h"
#include "table/row_sql.h"

PG_FUNCTION_INFO_V1(kapture_attach);
PG_FUNCTION_INFO_V1(kapture_detach);

/* At most so many rows are counted when a table is attached. */
#define ATTACH_MAX_COUNTED	10000

/* How a table is to be attached. */
typedef struct AttachRequest
{
	char	   *name;			/* empty: none */
	int32		id;				/* once it is stored */
	Name		server;
	Oid			serverid;
	char	   *on_duplicate;
	bool		replicated;
	bool		pull;
	char	   *on_conflict;
	char	   *id_column;
	Jsonb	   *on_leave;		/* or NULL */
	Jsonb	   *on_delete;		/* or NULL */

	ArrayType  *keys;
	List	   *mappings;		/* of KaptureMapping */
	KaptureGivenExpression *filter; /* or NULL */
	KaptureGivenSource *source; /* or NULL */
} AttachRequest;

/*
 * Tells worker and other backends that attachments have changed, when the
 * transaction commits.
 */
void
kapture_attach_announce(void)
{
	CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
	kapture_shmem_wake_all_at_commit();
}

/*
 * Tells worker and other backends, when the transaction commits, that this attachment or
 * what waits for it has changed.  The worker looks at no other table for that; an
 * attachment that was altered is read by its version.
 */
void
kapture_attach_announce_one(int32 attachment_id)
{
	CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT));
	kapture_shmem_wake_for_attachment_at_commit(attachment_id);
}

/*
 * Called after a command that has renamed something, with the result of
 * kapture_expression_before_rename(): rewrites the kept expressions.
 */
void
kapture_attach_renamed(List *expressions)
{
	if (kapture_expression_after_rename(expressions))
		kapture_attach_reconsider();
}

/*
 * Called after a view was created or replaced: attached tables that take their values
 * from that view follow.  Returns their oids, in the current memory context.
 */
List *
kapture_attach_view_changed(const RangeVar *name)
{
	Oid			view = RangeVarGetRelid(name, NoLock, true);
	List	   *relids;

	CommandCounterIncrement();
	relids = OidIsValid(view) ? kapture_source_changed(view) : NIL;
	if (relids != NIL)
		kapture_attach_reconsider();
	return relids;
}

/*
 * Called after a command that may have created or dropped objects that expressions use:
 * has all descriptions of tables with expressions read again.
 */
void
kapture_attach_reconsider(void)
{
	List	   *relids = kapture_expression_relations(NULL);
	ListCell   *lc;

	/* drop the cached descriptions of these tables, though the tables themselves have not changed */
	foreach(lc, relids)
	{
		/* a table that was just dropped is listed until the worker has noticed */
		if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(lfirst_oid(lc))))
			CacheInvalidateRelcacheByRelid(lfirst_oid(lc));
	}
	if (relids != NIL)
		kapture_attach_announce();
}

/* Has an attachment follow a renamed column. */
static bool
attach_follow(Oid relid, const char *from, const char *to)
{
	NameData	names[2];
	Oid			types[3] = {REGCLASSOID, NAMEOID, NAMEOID};
	Datum		values[3] = {ObjectIdGetDatum(relid), NameGetDatum(&names[0]), NameGetDatum(&names[1])};
	bool		computes = get_attnum(kapture_catalog_relid(KAPTURE_TABLE_COLUMN), "reads") != InvalidAttrNumber;
	uint64		n;

	namestrcpy(&names[0], from);
	namestrcpy(&names[1], to);
	n = kapture_own_execute(psprintf("UPDATE @.kapture_column c SET column_name = $3 FROM @.kapture_attachment a"
									 " WHERE a.attachment_id = c.attachment_id AND a.relation = $1 AND c.column_name = $2%s",
									 computes ? " AND a.source IS NULL" : ""), 3, types, values);
	if (computes)
	{
		n += kapture_own_execute("UPDATE @.kapture_column c SET reads = pg_catalog.array_replace(c.reads, $2, $3) FROM @.kapture_attachment a"
								 " WHERE a.attachment_id = c.attachment_id AND a.relation = $1 AND a.source IS NULL AND $2 = ANY (c.reads)",
								 3, types, values);
		n += kapture_own_execute("UPDATE @.kapture_attachment SET source_columns = pg_catalog.array_replace(source_columns, $2, $3)"
								 " WHERE relation = $1 AND $2 = ANY (source_columns)", 3, types, values);
		n += kapture_own_execute("UPDATE @.kapture_attachment SET filter_columns = pg_catalog.array_replace(filter_columns, $2, $3)"
								 " WHERE relation = $1 AND $2 = ANY (filter_columns)", 3, types, values);
	}
	n += kapture_own_execute("UPDATE @.kapture_attachment SET key_columns = pg_catalog.array_replace(key_columns, $2, $3),"
							 " id_column = CASE id_column WHEN $2 THEN $3 ELSE id_column END"
							 " WHERE relation = $1 AND (id_column = $2 OR $2 = ANY (key_columns))",
							 3, types, values);
	return n > 0;
}

/*
 * A column of a relation was renamed: has the relation's attachments follow, so that a
 * new column of the old name is not mistaken for the renamed one.
 */
void
kapture_attach_column_renamed(Oid relid, const char *from, const char *to)
{
	if (!OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_COLUMN)))
		return;
	if (get_rel_relkind(relid) == RELKIND_VIEW &&
		get_attnum(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT), "source") != InvalidAttrNumber &&
		kapture_source_column_renamed(relid, from, to))
		kapture_attach_reconsider();
	if (list_member_oid(kapture_catalog_attached_relations(), relid) && attach_follow(relid, from, to))
		kapture_attach_announce();
}

/* Refuses an attachment with the name or the id column of another attachment of the same table. */
static void
attach_check_beside(const AttachRequest *request, const KaptureAttachment *other)
{
	const char *table = get_rel_name(other->root);

	if (strcmp(other->name, request->name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 request->name[0] == '\0' ? errmsg("table \"%s\" is attached to Kapture already", table) :
				 errmsg("table \"%s\" has an attachment \"%s\" already", table, request->name),
				 errhint("Use kapture_alter() to change its mapping or its options, or argument \"name\" to attach it a second time.")));
	if (request->id_column && other->id_column && strcmp(request->id_column, other->id_column) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("column \"%s\" receives the Kapture customer ids of another attachment of table \"%s\"",
						request->id_column, table),
				 other->name[0] == '\0' ? errdetail("The one without a name writes the ids of server \"%s\" into it.", other->server) :
				 errdetail("Attachment \"%s\" writes the ids of server \"%s\" into it.", other->name, other->server),
				 errhint("Name another column in argument \"id_column\", or use NULL to have the ids kept by the extension.")));
}

/* Refuses an attachment that the table has already, and a table whose rows belong to another attached table. */
static void
attach_check_membership(Relation rel, const AttachRequest *request)
{
	const char *name = RelationGetRelationName(rel);
	KaptureAttachment *att = NULL;
	ListCell   *lc;

	foreach(lc, kapture_catalog_attachments(rel))
	{
		att = lfirst(lc);
		if (att->root == RelationGetRelid(rel))
			attach_check_beside(request, att);
	}
	if (att && att->root == RelationGetRelid(rel))
		return;
	if (att)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("rows of table \"%s\" are kept in step as those of \"%s\"", name, get_rel_name(att->root)),
				 errdetail("It inherits from that table, and has its trigger.")));
}

/* Does Citus manage this table?  If so, its rows and their triggers are in other tables. */
static bool
attach_is_of_citus(Oid relid)
{
	Oid			types[1] = {REGCLASSOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};

	return OidIsValid(get_relname_relid("pg_dist_partition", PG_CATALOG_NAMESPACE)) &&
		kapture_own_execute("SELECT FROM pg_catalog.pg_dist_partition WHERE logicalrelid = $1",
							lengthof(types), types, values) > 0;
}

/* Refuses everything but permanent tables of users. */
static void
attach_check_kind(Relation rel)
{
	const char *name = RelationGetRelationName(rel);
	char		kind = rel->rd_rel->relkind;

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be attached to Kapture", name),
				 errdetail("Only tables can be attached."),
				 kind == RELKIND_VIEW || kind == RELKIND_MATVIEW ? errhint("Attach the table that the view shows.") :
				 errhint("Attach the table of this database whose rows are to go to Kapture.")));
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be attached to Kapture", name),
				 errdetail("The worker cannot read temporary tables, and rows of unlogged tables are lost in a crash together with their Kapture ids."),
				 rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP ? errhint("Attach a table that is not temporary.") :
				 errhint("Use ALTER TABLE %s SET LOGGED.", kapture_row_relation_name(RelationGetRelid(rel)))));
	if (IsCatalogRelation(rel) ||
		getExtensionOfObject(RelationRelationId, RelationGetRelid(rel)) == get_extension_oid(KAPTURE_EXTENSION, false))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"%s\" cannot be attached to Kapture", name),
				 IsCatalogRelation(rel) ? errdetail("It is a system catalog.") :
				 errdetail("It belongs to extension \"%s\" itself.", KAPTURE_EXTENSION),
				 errhint("Attach a table of your own.")));
}

/*
 * Refuses a relation that cannot be kept in step.  Errors: 42809 it is no permanent table, or a
 * partition, 42501 a catalog, 0A000 a table of Citus, 55000 its owner does not see all its rows.
 */
void
kapture_attach_check_relation(Relation rel)
{
	const char *name = RelationGetRelationName(rel);

	attach_check_kind(rel);
	/* a partition is attached separately only if its topmost parent cannot be attached */
	if (rel->rd_rel->relispartition &&
		!OidIsValid(kapture_family_foreign_partition(llast_oid(get_partition_ancestors(RelationGetRelid(rel))))))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a partition", name),
				 errhint("Attach the partitioned table instead; it stands for all its partitions.")));
	if (attach_is_of_citus(RelationGetRelid(rel)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" cannot be attached to Kapture", name),
				 errdetail("Citus keeps its rows in other tables, so their changes are not seen to be those of this one."),
				 errhint("Use undistribute_table() first, if it need not be distributed.")));
	if (rel->rd_rel->relrowsecurity && rel->rd_rel->relforcerowsecurity &&
		!has_bypassrls_privilege(rel->rd_rel->relowner))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" cannot be attached to Kapture", name),
				 errdetail("The worker acts as the table's owner, \"%s\", on whom row-level security is forced.",
						   GetUserNameFromId(rel->rd_rel->relowner, false)),
				 errhint("Use ALTER TABLE ... NO FORCE ROW LEVEL SECURITY, or give the owner BYPASSRLS.")));
}

/*
 * Returns the columns, quoted and separated by commas, of a unique index of a table that
 * could be its primary key; NULL if there is none.
 */
static char *
attach_unique_columns(Relation rel)
{
	char	   *result = NULL;
	ListCell   *lc;

	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = relation_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;
		bool		fits = form->indisunique && form->indisvalid && form->indimmediate &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
		StringInfoData columns;

		initStringInfo(&columns);
		for (int i = 0; fits && i < form->indnkeyatts; i++)
		{
			AttrNumber	attnum = form->indkey.values[i];

			fits = attnum > 0 && TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attnotnull;
			if (fits)
				appendStringInfo(&columns, "%s%s", i > 0 ? ", " : "",
								 quote_identifier(NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname)));
		}
		relation_close(index, AccessShareLock);
		if (fits && result == NULL)
			result = columns.data;
	}
	return result;
}

/*
 * kapture_attach_refuse_keyless
 *		Errors out (55000) as a table has no primary key, with what would be one.
 */
void
kapture_attach_refuse_keyless(Relation rel)
{
	const char *name = kapture_row_relation_name(RelationGetRelid(rel));
	char	   *unique = attach_unique_columns(rel);

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" has no primary key", RelationGetRelationName(rel)),
			 errdetail("The worker finds a row again by its primary key."),
			 unique ?
			 errhint("It has a unique index that may serve: ALTER TABLE %s ADD PRIMARY KEY (%s).", name, unique) :
			 errhint("Add one, for example with ALTER TABLE %s ADD COLUMN %s bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY.",
					 name, get_attnum(RelationGetRelid(rel), "id") == InvalidAttrNumber ? "id" : "row_id")));
}

/* The names of the primary key's columns. */
static ArrayType *
attach_key_columns(Relation rel)
{
	ListCell   *lc;
	ArrayType  *result = NULL;
	Oid			foreign;
	List	   *indexes = RelationGetIndexList(rel);

	foreach(lc, indexes)
	{
		Relation	index = relation_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisprimary)
		{
			int			n = index->rd_index->indnkeyatts;
			Datum	   *names = palloc(sizeof(Datum) * n);

			for (int i = 0; i < n; i++)
			{
				Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(rel), index->rd_index->indkey.values[i] - 1);

				names[i] = NameGetDatum(&attr->attname);
			}
			result = construct_array(names, n, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR);
		}
		relation_close(index, AccessShareLock);
	}
	foreign = result ? InvalidOid : kapture_family_foreign_partition(RelationGetRelid(rel));
	if (OidIsValid(foreign))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be attached to Kapture", RelationGetRelationName(rel)),
				 errdetail("Its partition \"%s\" is a foreign table, so it can have no primary key, by which the worker finds rows.",
						   get_rel_name(foreign)),
				 errhint("Attach its other partitions separately.")));
	if (result == NULL)
		kapture_attach_refuse_keyless(rel);
	return result;
}

/* Tells whether the column for Kapture's ids exists; errors out if it cannot receive them. */
static bool
attach_has_id_column(Relation rel, const char *name)
{
	AttrNumber	attnum = get_attnum(RelationGetRelid(rel), name);
	Form_pg_attribute attr;

	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must not be empty", "id_column"),
				 errdetail("It names the column that receives Kapture's ids."),
				 errhint("Leave it out for \"kapture_customer_id\", or use NULL to have no such column.")));
	if (attnum == InvalidAttrNumber)
		return false;
	if (attnum < 0 || get_attgenerated(RelationGetRelid(rel), attnum) != '\0' ||
		TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attidentity != '\0' ||
		bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber,
					  RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" of table \"%s\" cannot receive Kapture's ids", name, RelationGetRelationName(rel)),
				 errdetail("It is generated, or part of the primary key."),
				 errhint("Name another column, or one that is not there yet, as id_column.")));
	attr = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	if (attr->atttypid != INT8OID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("column \"%s\" of table \"%s\" is of type %s, but Kapture's ids are of type bigint",
						name, RelationGetRelationName(rel), format_type_be(attr->atttypid)),
				 errhint("If it is for these ids alone, use ALTER TABLE ... ALTER COLUMN ... TYPE bigint. Otherwise name another column, or one that is not there yet, as id_column.")));
	if (attr->attnotnull || attr->atthasdef)
		ereport(WARNING,
				(attr->atthasdef ? errmsg("column \"%s\" of table \"%s\" has a default", name, RelationGetRelationName(rel)) :
				 errmsg("column \"%s\" of table \"%s\" must not be null", name, RelationGetRelationName(rel)),
				 attr->atthasdef ?
				 errdetail("A new row that gets it counts as the customer of that id, and is updated in Kapture instead of added.") :
				 errdetail("A new row has no id until Kapture has answered, so none can be inserted without one."),
				 errhint("Use ALTER TABLE %s ALTER COLUMN %s DROP %s.", kapture_row_relation_name(RelationGetRelid(rel)),
						 quote_identifier(name), attr->atthasdef ? "DEFAULT" : "NOT NULL")));
	return true;
}

/* A text as a parameter of a statement; NULL is passed as '', which the statement turns into null again. */
static Datum
attach_text(const char *text)
{
	return CStringGetTextDatum(text ? text : "");
}

/* Likewise, the constants of on_leave or on_delete. */
static Datum
attach_constants(Jsonb *constants)
{
	return attach_text(constants ? JsonbToCString(NULL, &constants->root, VARSIZE(constants)) : NULL);
}

/*
 * Stores where the value of one field of an attachment comes from; "bit" is the field's
 * number in masks of changes.
 */
void
kapture_attach_store_mapping(int32 attachment_id, int bit, const KaptureMapping *mapping)
{
	KaptureGivenExpression *expression = mapping->expression;
	Oid			types[] = {INT4OID, INT2OID, TEXTOID, TEXTOID, INT2OID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[] = {
		Int32GetDatum(attachment_id), Int16GetDatum(bit), CStringGetTextDatum(mapping->field),
		attach_text(mapping->name), Int16GetDatum(mapping->attnum), attach_text(expression ? expression->text : NULL),
		attach_text(mapping->constant), attach_text(expression ? kapture_expression_reads(expression) : NULL)
	};

	(void) kapture_own_execute("INSERT INTO @.kapture_column"
							   " (attachment_id, bit, field, column_name, attnum, expression, constant, reads)"
							   " SELECT $1, $2, $3, nullif($4, '')::name, nullif($5, 0::int2), nullif($6, ''), nullif($7, ''), nullif($8, '')::name[]",
							   lengthof(types), types, values);
}

/* Writes attachment and columns into the extension's tables.  Fills in the attachment's number. */
static void
attach_store(Oid relid, AttachRequest *request)
{
	const KaptureGivenSource *source = request->source;
	Oid			types[] = {REGCLASSOID, OIDOID, NAMEARRAYOID, TEXTOID, BOOLOID, BOOLOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
	TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT4OID};
	Datum		values[] = {
		ObjectIdGetDatum(relid), ObjectIdGetDatum(request->serverid), PointerGetDatum(request->keys),
		CStringGetTextDatum(request->on_duplicate), BoolGetDatum(request->replicated), BoolGetDatum(request->pull),
		CStringGetTextDatum(request->on_conflict), attach_text(request->id_column),
		attach_text(request->filter ? request->filter->text : NULL),
		attach_text(request->filter ? kapture_expression_reads(request->filter) : NULL),
		attach_constants(request->on_leave),
		attach_text(source ? source->name : NULL), attach_text(source ? kapture_expression_reads(&source->reads) : NULL),
		attach_constants(request->on_delete), CStringGetTextDatum(request->name), (Datum) 0
	};
	ListCell   *lc;
	int			bit = 0;

	/* what became of the rows of former attachments is in the history, which goes by numbers */
	request->id = kapture_own_rows_take_number(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT),
											   "SELECT EXISTS (SELECT FROM @.kapture_attachment WHERE attachment_id = $1)"
											   " OR EXISTS (SELECT FROM @.kapture_history WHERE attachment_id = $1)", false);
	values[lengthof(values) - 1] = Int32GetDatum(request->id);
	(void) kapture_own_execute("INSERT INTO @.kapture_attachment"
							   " (relation, server, key_columns, on_duplicate, replicated, pull, on_conflict, id_column,"
							   " filter, filter_columns, on_leave, source, source_keys, source_columns, on_delete, name, attachment_id, server_oid, server_owner)"
							   " SELECT $1, s.srvname, $3, $4, $5, $6, $7, nullif($8, '')::name, nullif($9, ''), nullif($10, '')::name[], nullif($11, '')::jsonb,"
							   " nullif($12, ''), CASE WHEN $12 <> '' THEN $3 END, nullif($13, '')::name[], nullif($14, '')::jsonb, $15, $16,"
							   " s.oid, s.srvowner FROM pg_foreign_server AS s WHERE s.oid = $2",
							   lengthof(types), types, values);
	foreach(lc, request->mappings)
		kapture_attach_store_mapping(request->id, bit++, lfirst(lc));
}

/* For tables that this table follows already, any column may matter to the new attachment: watch them all. */
static void
attach_widen_follows(Oid relid)
{
	Oid			types[1] = {REGCLASSOID};
	Datum		values[1] = {ObjectIdGetDatum(relid)};

	if (kapture_own_execute("UPDATE @.kapture_follow SET watched_columns = NULL WHERE relation = $1 AND watched_columns IS NOT NULL",
							1, types, values) > 0)
		CacheInvalidateRelcacheByRelid(kapture_catalog_relid(KAPTURE_TABLE_FOLLOW));
}

/*
 * Pulls use the key of the server's owner, so pulled customers may only go into tables
 * of that owner, or of a role that has the owner's rights: errors out (42501) for any
 * other table.  Errors out (42710), too, if customers of the server are
 * pulled into the table by another attachment than this one, as each would become two
 * rows.
 */
void
kapture_attach_check_pull(Relation rel, int32 attachment_id, const char *server)
{
	Oid			owner = GetForeignServerByName(server, false)->owner;
	ListCell   *lc;

	if (!has_privs_of_role(rel->rd_rel->relowner, owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("customers of server \"%s\" cannot be pulled into table \"%s\"",
						server, RelationGetRelationName(rel)),
				 errdetail("They are pulled with the key of the server's owner, \"%s\", whose rights the table's owner does not have.",
						   GetUserNameFromId(owner, false)),
				 errhint("Use a server that belongs to the table's owner.")));
	foreach(lc, kapture_catalog_attachments(rel))
	{
		const KaptureAttachment *other = lfirst(lc);

		if (other->id != attachment_id && other->pull && strcmp(server, other->server) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("customers of server \"%s\" are pulled into table \"%s\" already",
							server, RelationGetRelationName(rel)),
					 other->name[0] == '\0' ? errdetail("The attachment without a name does that; each customer would become two rows.") :
					 errdetail("Attachment \"%s\" does that; each customer would become two rows.", other->name)));
	}
}

/*
 * Pulls look customers up by the id column: creates an index on it if there is none.
 * "column" NULL: the extension keeps the ids, with an index of its own.
 */
void
kapture_attach_index_id_column(Oid relid, const char *name, const char *column)
{
	Relation	rel;
	AttrNumber	attnum;
	ListCell   *lc;
	bool		found = false;

	if (column == NULL)
		return;
	rel = relation_open(relid, AccessShareLock);
	attnum = get_attnum(relid, column);
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = relation_open(lfirst_oid(lc), AccessShareLock);

		/* an index that finds a range of pages at best (BRIN) does not help */
		found |= index->rd_index->indkey.values[0] == attnum && index->rd_index->indisvalid &&
			(index->rd_rel->relam == BTREE_AM_OID || index->rd_rel->relam == HASH_AM_OID) &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
		relation_close(index, AccessShareLock);
	}
	relation_close(rel, NoLock);
	if (found)
		return;
	ereport(NOTICE,
			(errmsg("creating an index on column \"%s\" of table \"%s\"", column, get_rel_name(relid))));
	kapture_attach_execute_ddl(psprintf("CREATE INDEX ON %s (%s)", name, quote_identifier(column)));
}

/* Is the text of a type's values an object's name, which may change or depend on search_path? */
static bool
attach_is_named(Oid type)
{
	Oid			element = get_base_element_type(type);

	switch (OidIsValid(element) ? element : getBaseType(type))
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGNAMESPACEOID:
		case REGROLEOID:
		case REGCOLLATIONOID:
			return true;
		default:
			return false;
	}
}

/* Why the values of a key column cannot tell rows apart; NULL: all columns' values can. */
static char *
attach_key_problem(const KaptureAttachment *att)
{
	for (int i = 0; i < att->nkeys; i++)
	{
		if (attach_is_named(att->keys[i].type))
			return psprintf("The text of values of column \"%s\", of type %s, is a name, which may change.",
							att->keys[i].name, format_type_be(att->keys[i].type));
	}
	return NULL;
}

/*
 * Refuses a table whose rows the worker could not read or find by their key.  Reports
 * if rows of tables that inherit from it are not sent.
 */
void
kapture_attach_try(Oid relid, int32 attachment_id)
{
	Relation	rel = relation_open(relid, AccessShareLock);
	KaptureAttachment *att = kapture_catalog_attachment_by_id(rel, attachment_id);
	char	   *problem = attach_key_problem(att);
	char	   *expression = kapture_expression_problem(att);
	ErrorData  *error = problem || expression ? NULL : kapture_row_try(att);

	if (expression)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s\" cannot be attached to Kapture", RelationGetRelationName(rel)),
				 errdetail_internal("%s.", expression),
				 errhint("The table's owner, who reads its rows for Kapture, must have the rights to what it uses.")));
	if (error && error->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		ereport(ERROR,
				(errcode(error->sqlerrcode),
				 errmsg("\"%s\" cannot be attached to Kapture", RelationGetRelationName(rel)),
				 errdetail_internal("%s.", error->message),
				 error->hint ? errhint("%s", error->hint) : 0));
	if (problem || error)
		ereport(ERROR,
				(errcode(error ? error->sqlerrcode : ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" cannot be attached to Kapture", RelationGetRelationName(rel)),
				 problem ? errdetail_internal("%s", problem) :
				 errdetail("Its rows cannot be found by their primary key: %s.", error->message),
				 errhint("The primary key's types must be such that a value can be written as text, read again and compared.")));
	if (rel->rd_rel->relkind == RELKIND_RELATION && find_inheritance_children(relid, NoLock) != NIL &&
		!kapture_family_counts_children(relid))
		ereport(NOTICE,
				(errmsg("rows of tables that inherit from \"%s\" are not sent to Kapture", RelationGetRelationName(rel)),
				 errhint("Attach those tables, too.")));
	relation_close(rel, NoLock);
}

/*
 * Raises error 22023 for "on_leave" without a filter or source, where no row can leave.
 */
void
kapture_attach_refuse_on_leave(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("argument \"on_leave\" needs a filter or a source"),
			 errdetail("Without one, no row ever leaves."),
			 errhint("For rows that are deleted, there is \"on_delete\".")));
}

/*
 * Returns the text of an argument, in the current memory context, which must be "one",
 * "other" or, unless that is NULL, "third".  Errors: 22004 it is NULL, 22023 it is none
 * of these.
 */
char *
kapture_attach_choice(FunctionCallInfo fcinfo, int arg, const char *name, const char *one, const char *other, const char *third)
{
	char	   *value;

	kapture_argument_check_null(fcinfo, arg, name);
	value = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (strcmp(value, one) != 0 && strcmp(value, other) != 0 && (third == NULL || strcmp(value, third) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"%s\": \"%s\"", name, value),
				 third ? errhint("Valid values are \"%s\", \"%s\" and \"%s\".", one, other, third) :
				 errhint("Valid values are \"%s\" and \"%s\".", one, other)));
	return value;
}

/* Takes the arguments that can be understood without the table. */
static void
attach_take_arguments(FunctionCallInfo fcinfo, AttachRequest *request)
{
	kapture_argument_check_null(fcinfo, 0, "relation");
	kapture_argument_check_null(fcinfo, 2, "server");
	kapture_argument_check_null(fcinfo, 4, "replicated");
	kapture_argument_check_null(fcinfo, 5, "pull");
	request->name = PG_ARGISNULL(12) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(12));
	if (strlen(request->name) >= NAMEDATALEN)
		ereport(ERROR,
				(errcode(ERRCODE_NAME_TOO_LONG),
				 errmsg("argument \"name\" is too long"),
				 errdetail("A name has at most %d bytes.", NAMEDATALEN - 1)));
	request->server = PG_GETARG_NAME(2);
	request->on_duplicate = kapture_attach_choice(fcinfo, 3, "on_duplicate", "link", "link only", "fail");
	request->replicated = PG_GETARG_BOOL(4);
	request->pull = PG_GETARG_BOOL(5);
	request->on_conflict = kapture_attach_choice(fcinfo, 6, "on_conflict", "local", "remote", NULL);
	kapture_advice_on_conflict(request->on_conflict, request->pull);
	request->id_column = PG_ARGISNULL(9) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(9)));
	if (!PG_ARGISNULL(10))
		request->on_leave = kapture_mapping_take_constants(PG_GETARG_JSONB_P(10), "on_leave");
	if (!PG_ARGISNULL(11))
		request->on_delete = kapture_mapping_take_constants(PG_GETARG_JSONB_P(11), "on_delete");
	if (request->on_leave && PG_ARGISNULL(7) && PG_ARGISNULL(8))
		kapture_attach_refuse_on_leave();
	if (request->pull && !PG_ARGISNULL(8))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("customers cannot be pulled into a table whose values come from a view"),
				 errdetail("What is computed cannot be written."),
				 errhint("Leave out one of the arguments \"pull\" and \"source\".")));
	if (!kapture_shmem_available())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("kapture_sync must be loaded via shared_preload_libraries to keep tables in step"),
				 errhint("Add kapture_sync to shared_preload_libraries in postgresql.conf and restart the server.")));
}

/* Adds the id column where it is missing. */
static void
attach_add_id_column(Oid relid, const char *name, const char *column)
{
	if (column == NULL || get_attnum(relid, column) != InvalidAttrNumber)
		return;
	if (get_rel_relispartition(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of partition \"%s\" does not exist", column, get_rel_name(relid)),
				 errhint("Add it, as bigint, to the partitioned table.")));
	ereport(NOTICE,
			(errmsg("adding column \"%s\" to table \"%s\"", column, get_rel_name(relid))));
	kapture_attach_execute_ddl(psprintf("ALTER TABLE %s ADD COLUMN %s bigint", name, quote_identifier(column)));
}

/* The names of the key's columns, as a list. */
static List *
attach_key_names(ArrayType *keys)
{
	Datum	   *names;
	int			n;
	List	   *result = NIL;

	deconstruct_array(keys, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, NULL, &n);
	for (int i = 0; i < n; i++)
		result = lappend(result, NameStr(*DatumGetName(names[i])));
	return result;
}

/* Takes where the values come from: the table itself, or a view. */
static void
attach_take_mappings(FunctionCallInfo fcinfo, AttachRequest *request, Relation rel)
{
	Jsonb	   *columns = PG_ARGISNULL(1) ? NULL : PG_GETARG_JSONB_P(1);
	Relation	view;

	if (PG_ARGISNULL(8))
	{
		request->mappings = kapture_mapping_take(rel, columns, request->id_column);
		return;
	}
	view = kapture_source_open(rel, PG_GETARG_OID(8));
	request->source = kapture_source_take(rel, view, attach_key_names(request->keys));
	request->mappings = kapture_mapping_take_of_view(view, columns, request->source->keys);
	relation_close(view, NoLock);
}

/* What the first ATTACH_MAX_COUNTED rows of a table show. */
typedef struct AttachRows
{
	const KaptureAttachment *att;
	bool		whole;			/* the table has no more rows */
	int64		without_id;
} AttachRows;

static void
attach_do_count(void *arg)
{
	AttachRows *rows = arg;
	bool		isnull;

	if (rows->att->source_name)
		kapture_row_plan_freely();
	kapture_user_code_select(psprintf("SELECT pg_catalog.count(*) <= %d, pg_catalog.count(*) FILTER (WHERE l.wanted)"
									  " FROM (SELECT %s FROM %s AS r LIMIT %d) AS l (wanted)",
									  ATTACH_MAX_COUNTED, kapture_row_selection(rows->att, true, NULL),
									  kapture_row_source(rows->att), ATTACH_MAX_COUNTED + 1),
							 0, NULL, NULL, NULL, true);
	rows->whole = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	rows->without_id = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2, &isnull));
}

/*
 * A hint on how to have the rows sent that the table has already; palloc'ed, NULL if
 * there are none to be sent.
 */
static char *
attach_backfill_hint(KaptureAttachment *att)
{
	AttachRows	rows = {att};
	char	   *call = psprintf(att->name[0] == '\0' ? "CALL kapture_backfill(%s)" : "CALL kapture_backfill(%s, name => %s)",
								quote_literal_cstr(kapture_row_relation_name(att->root)), quote_literal_cstr(att->name));

	/* whatever keeps the rows from being counted is reported when they are read */
	if (kapture_row_run(att, NULL, attach_do_count, &rows) != NULL)
		rows.whole = false;
	if (rows.whole && rows.without_id == 0)
		return NULL;
	if (rows.whole)
		return psprintf("Of the rows that are there already, %lld have no Kapture id and are sent when they change; to send them now, use %s.",
						(long long) rows.without_id, call);
	return psprintf("Rows that are there already are sent when they change; to send those without a Kapture id now, use %s.", call);
}

/* Reports the new attachment to the user. */
static void
attach_report(Oid relid, int32 attachment_id)
{
	Relation	rel = relation_open(relid, AccessShareLock);
	KaptureAttachment *att = kapture_catalog_attachment_by_id(rel, attachment_id);

	kapture_advice_attached(att, attach_backfill_hint(att));
	relation_close(rel, NoLock);
}

/*
 * The strongest lock that attaching a table needs.  It is taken at once, not raised
 * later: for another attachment, the worker may be reading rows, and about to write ids.
 */
static LOCKMODE
attach_lock(Oid relid, const char *id_column)
{
	return id_column && get_attnum(relid, id_column) == InvalidAttrNumber ? AccessExclusiveLock : ShareRowExclusiveLock;
}

/*
 * kapture_attach(relation regclass, columns jsonb, server name,
 *				  on_duplicate text, replicated boolean, pull boolean,
 *				  on_conflict text, filter text, source regclass,
 *				  id_column name, on_leave jsonb, on_delete jsonb, name text) returns void
 *
 * Checks, adds the id column where it is missing, creates the trigger.
 */
Datum
kapture_attach(PG_FUNCTION_ARGS)
{
	AttachRequest request = {0};
	Oid			relid;
	Relation	rel;
	char	   *name;

	kapture_version_require();	/* before arguments are read that other versions do not have */
	attach_take_arguments(fcinfo, &request);
	relid = PG_GETARG_OID(0);
	rel = kapture_argument_open(relid, attach_lock(relid, request.id_column), kapture_argument_check_owner);
	kapture_attach_check_relation(rel);
	attach_check_membership(rel, &request);
	name = kapture_row_relation_name(RelationGetRelid(rel));
	request.keys = attach_key_columns(rel);
	request.serverid = kapture_binding_lock(NameStr(*request.server), rel->rd_rel->relowner);
	if (request.pull)
		kapture_attach_check_pull(rel, 0, NameStr(*request.server));
	attach_take_mappings(fcinfo, &request, rel);
	if (!PG_ARGISNULL(7))
		request.filter = kapture_expression_take(rel, text_to_cstring(PG_GETARG_TEXT_PP(7)), NULL);
	if (request.id_column)
		(void) attach_has_id_column(rel, request.id_column);
	relation_close(rel, NoLock);	/* ALTER TABLE refuses a table that is open here */

	attach_add_id_column(relid, name, request.id_column);
	if (request.pull)
		kapture_attach_index_id_column(relid, name, request.id_column);
	attach_store(relid, &request);
	attach_widen_follows(relid);
	(void) kapture_origin_claim();
	kapture_attach_drop_leftovers(relid, request.id);
	kapture_attach_create_triggers(name, request.id, request.name, request.replicated);
	kapture_attach_check_name(relid, request.id, request.name, true);
	if (request.replicated)
		kapture_attach_watch_partitions(relid, relid, request.id, request.name, true);
	kapture_binding_depend(relid, request.id, request.name, request.serverid);
	kapture_attach_try(relid, request.id);
	attach_report(relid, request.id);
	kapture_attach_announce_one(request.id);
	PG_RETURN_VOID();
}

/*
 * Drops our triggers from a table that is neither attached nor part of an attached one.
 * Returns whether it had any.
 */
static bool
attach_drop_orphans(FunctionCallInfo fcinfo)
{
	Relation	rel;
	bool		orphan;

	kapture_argument_check_null(fcinfo, 0, "relation");
	kapture_version_require();
	rel = kapture_argument_open(PG_GETARG_OID(0), AccessExclusiveLock, kapture_argument_check_owner);
	orphan = kapture_catalog_attachment(rel) == NULL;
	relation_close(rel, NoLock);
	if (!orphan || kapture_attach_drop_triggers(PG_GETARG_OID(0), NIL) == 0)
		return false;
	ereport(NOTICE,
			(errmsg("table \"%s\" was not attached to Kapture; dropped the triggers that were left on it",
					get_rel_name(PG_GETARG_OID(0)))));
	return true;
}

/*
 * Deletes all that is stored of an attachment, including what waits to be sent or
 * written for it.
 */
void
kapture_attach_forget(int32 attachment_id)
{
	static const char *const tables[] = {"kapture_outbox", "kapture_delivery", "kapture_inbox", "kapture_backfill", "kapture_row", "kapture_column", "kapture_attachment"};
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(attachment_id)};

	if (OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_FOLLOW)))
		(void) kapture_own_execute("WITH ended AS (DELETE FROM @.kapture_follow AS f USING @.kapture_attachment AS a"
								   " WHERE a.attachment_id = $1 AND f.relation = a.relation AND NOT EXISTS"
								   " (SELECT FROM @.kapture_attachment AS o WHERE o.relation = a.relation AND o.attachment_id <> $1)"
								   " RETURNING f.follow_id)"
								   " DELETE FROM @.kapture_outbox WHERE attachment_id IN (SELECT -follow_id FROM ended)",
								   1, types, values);
	for (int i = 0; i < lengthof(tables); i++)
		(void) kapture_own_execute(psprintf("DELETE FROM @.%s WHERE attachment_id = $1", tables[i]),
								   1, types, values);
}

/* Ends an attachment. */
static void
attach_detach(KaptureAttachment *att)
{
	/* so that what this transaction has captured so far is deleted, too */
	kapture_notes_flush();
	kapture_notes_forget(att->id);
	kapture_advice_given_up(att);
	(void) kapture_attach_drop_triggers(att->root, kapture_attach_others_triggers(att->root, att->id));
	kapture_attach_check_name(att->root, att->id, att->name, false);
	kapture_attach_forget(att->id);
	kapture_attach_announce_one(att->id);
}

/*
 * kapture_detach(relation regclass, name text) returns void
 *
 * Drops the triggers and forgets what is waiting.  Ids and history stay.
 */
Datum
kapture_detach(PG_FUNCTION_ARGS)
{
	ListCell   *lc;

	if (attach_drop_orphans(fcinfo))
		PG_RETURN_VOID();
	/* DROP TRIGGER's lock, taken at once: the worker may be reading rows, and about to write ids */
	foreach(lc, kapture_attach_find_all(fcinfo, 1, AccessExclusiveLock))
		attach_detach(lfirst(lc));
	PG_RETURN_VOID();
}
