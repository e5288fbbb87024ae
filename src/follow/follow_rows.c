/*
 * follow_rows.c
 *		Finds the rows that a change of a followed table is about.
 *
 * What the triggers have noted is moved from the outbox to the follow's own entry, and the
 * rows for which the condition holds are noted as changed, a slice in each transaction: a
 * change may concern any number of rows.  How far that has come is stored in the entry,
 * too, so that it goes on after a crash.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "follow/follow_capture.h"
#include "follow/follow_condition.h"
#include "follow/follow_rows.h"
#include "table/capture_buffer.h"
#include "table/row_io.h"
#include "table/row_sql.h"

/* Rows that are noted in a transaction, at most. */
#define FOLLOW_SLICE	5000

/* A slice of the work for a follow. */
typedef struct FollowSlice
{
	KaptureAttachment *att;
	MemoryContext context;
	int32		id;
	Oid			source;
	char	   *condition;
	ArrayType  *columns;		/* name[], of which there are values */
	char	   *values;			/* text of a text[] */
	char	   *last_key;		/* NULL: the start */
	List	   *keys;			/* of the rows that were found */
} FollowSlice;

/* The id, as text, of a follow that has something to do, one that has begun first; NULL if none has anything. */
static char *
follow_next(const KaptureAttachment *att)
{
	Oid			types[1] = {REGCLASSOID};
	Datum		values[1] = {ObjectIdGetDatum(att->root)};

	return kapture_own_text("SELECT follow_id FROM @.kapture_follow AS f WHERE relation = $1 AND (waiting IS NOT NULL"
							" OR EXISTS (SELECT FROM @.kapture_outbox AS o WHERE o.attachment_id = -f.follow_id))"
							" ORDER BY waiting IS NULL, follow_id LIMIT 1", 1, types, values);
}

/* Moves what was noted to the follow, unless what it has taken before is still being worked on. */
static void
follow_take(int32 id)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(id)};

	(void) kapture_own_execute("WITH taken AS (DELETE FROM @.kapture_outbox WHERE ctid = ANY (ARRAY("
							   "SELECT ctid FROM @.kapture_outbox WHERE attachment_id = -$1 ORDER BY attachment_id, xact, seq LIMIT 50))"
							   " AND NOT EXISTS (SELECT FROM @.kapture_follow WHERE follow_id = $1 AND waiting IS NOT NULL)"
							   " RETURNING row_key, more_keys)"
							   " UPDATE @.kapture_follow SET waiting = (SELECT array_agg(DISTINCT k) FROM taken, unnest(row_key || more_keys) AS k),"
							   " last_key = NULL WHERE follow_id = $1 AND EXISTS (SELECT FROM taken)", 1, types, values);
}

/* One value of a follow as text, in the current memory context. */
static char *
follow_text(int32 id, const char *expression)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(id)};

	return kapture_own_text(psprintf("SELECT (%s)::text FROM @.kapture_follow WHERE follow_id = $1", expression), 1, types, values);
}

/* Reads the slice that is due; false if the follow has nothing to do. */
static bool
follow_read(FollowSlice *slice, int nvalues)
{
	char	   *text = follow_text(slice->id, "value_columns");

	slice->values = follow_text(slice->id, psprintf("CASE WHEN '" KAPTURE_FOLLOW_ALL "' = ANY (waiting)"
													" THEN ARRAY['" KAPTURE_FOLLOW_ALL "'] ELSE waiting[1:%d] END", nvalues));
	if (slice->values == NULL)
		return false;
	slice->source = (Oid) strtoul(follow_text(slice->id, "source::oid"), NULL, 10);
	slice->condition = follow_text(slice->id, "condition");
	slice->last_key = follow_text(slice->id, "last_key");
	slice->columns = DatumGetArrayTypeP(OidInputFunctionCall(F_ARRAY_IN, text, NAMEOID, -1));
	return true;
}

/* The rows "source", made of the values in parameter n. */
static char *
follow_source_sql(const FollowSlice *slice, int n)
{
	StringInfoData sql;
	Datum	   *names;
	int			ncolumns;

	deconstruct_array(slice->columns, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &names, NULL, &ncolumns);
	initStringInfo(&sql);
	appendStringInfoString(&sql, "(SELECT ");
	for (int i = 0; i < ncolumns; i++)
	{
		char	   *name = NameStr(*DatumGetName(names[i]));
		Oid			type = get_atttype(slice->source, get_attnum(slice->source, name));

		if (!OidIsValid(type))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist", name, get_rel_name(slice->source))));
		appendStringInfo(&sql, "%s(u.v::pg_catalog.text[])[%d]::%s AS %s", i > 0 ? ", " : "", i + 1,
						 format_type_extended(type, -1, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY), quote_identifier(name));
	}
	appendStringInfo(&sql, " FROM unnest($%d) AS u(v)) AS source", n);
	return sql.data;
}

/* The condition for rows "r" that are concerned.  Also allows reading the relations that it reads. */
static char *
follow_selection(FollowSlice *slice, int n)
{
	Relation	source;
	Relation	target;
	Node	   *condition;
	KaptureFollowReads reads;
	char	   *text;

	if (strcmp(slice->values, "{" KAPTURE_FOLLOW_ALL "}") == 0)
		return psprintf("$%d IS NOT NULL", n);
	source = relation_open(slice->source, AccessShareLock);
	target = relation_open(slice->att->root, AccessShareLock);
	condition = kapture_follow_parse(source, target, slice->condition);
	text = kapture_follow_deparse(condition, slice->source, slice->att->root, "r");
	kapture_follow_find_reads(condition, &reads);
	kapture_user_code_allow(reads.relations);
	relation_close(target, NoLock);
	relation_close(source, NoLock);
	return psprintf("EXISTS (SELECT FROM %s WHERE %s)", follow_source_sql(slice, n), text);
}

static void
follow_do_find(void *arg)
{
	FollowSlice *slice = arg;
	KaptureAttachment *att = slice->att;
	Datum		values = OidInputFunctionCall(F_ARRAY_IN, slice->values, TEXTOID, -1);

	kapture_row_plan_freely();	/* the condition decides how rows are best found, not their key */
	slice->keys = kapture_row_find_keys(att, follow_selection(slice, kapture_row_parameter(att, slice->last_key)),
										slice->last_key, FOLLOW_SLICE, TEXTARRAYOID, values, slice->context);
}

/* Notes the rows that were found for all attachments of the table. */
static void
follow_note_rows(const FollowSlice *slice)
{
	Relation	rel = relation_open(slice->att->root, AccessShareLock);
	ListCell   *lc;
	ListCell   *key;

	foreach(lc, kapture_catalog_attachments(rel))
	{
		const KaptureAttachment *att = lfirst(lc);

		foreach(key, slice->keys)
			kapture_notes_add_changed(att->id, att->all_changed | KAPTURE_CHANGED_FILTER, lfirst(key));
	}
	relation_close(rel, NoLock);
}

/* Notes the rows that were found, and stores how far the follow has come. */
static void
follow_note(FollowSlice *slice, int nvalues)
{
	bool		finished = list_length(slice->keys) < FOLLOW_SLICE;
	Oid			types[3] = {INT4OID, TEXTOID, INT4OID};
	Datum		values[3] = {Int32GetDatum(slice->id), (Datum) 0, Int32GetDatum(nvalues)};

	if (slice->keys != NIL)
		follow_note_rows(slice);
	values[1] = CStringGetTextDatum(finished ? "" : llast(slice->keys));
	(void) kapture_own_execute(finished ?
							   "UPDATE @.kapture_follow SET last_key = nullif($2, ''), waiting ="
							   " CASE WHEN '" KAPTURE_FOLLOW_ALL "' <> ALL (waiting) AND cardinality(waiting) > $3 THEN waiting[$3 + 1:] END"
							   " WHERE follow_id = $1" :
							   "UPDATE @.kapture_follow SET last_key = $2 WHERE follow_id = $1 AND $3 > 0",
							   lengthof(types), types, values);
}

/*
 * kapture_follow_resolve
 *		Notes rows of an attached table that changes of followed tables concern, as
 *		changed for all attachments of the table: a slice of the rows, of at most
 *		"nvalues" changes.  To be called in a transaction of its own.  Returns whether
 *		there was anything to do.  Errors: those of the condition.
 */
bool
kapture_follow_resolve(KaptureAttachment *att, int nvalues)
{
	FollowSlice slice = {.att = att, .context = CurrentMemoryContext};
	char	   *id;
	ErrorData  *error;

	if (att->unfollowed)
		return false;
	id = follow_next(att);
	if (id == NULL)
	{
		Oid			types[1] = {REGCLASSOID};
		Datum		values[1] = {ObjectIdGetDatum(att->root)};

		att->unfollowed = kapture_own_text("SELECT 1 FROM @.kapture_follow WHERE relation = $1 LIMIT 1", 1, types, values) == NULL;
		return false;
	}
	slice.id = pg_strtoint32(id);
	follow_take(slice.id);
	if (!follow_read(&slice, nvalues))
		return false;
	error = kapture_row_run(att, NULL, follow_do_find, &slice);
	if (error)
		ReThrowError(error);
	follow_note(&slice, nvalues);
	return true;
}
