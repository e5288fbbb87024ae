/*
 * rekey.c
 *		Has the waiting changes of an attached table follow its rows to another primary key.
 *
 * What waits names rows by the values of their key.  If other columns become the primary
 * key, these values are those of other rows, or of none.  So the command that makes the new
 * key notes a change of key for each row that waits.  It has locked the table, so all that
 * was noted before has the old key, and all that is noted later has the new one.
 *
 * A table without a column for ids has its ids in kapture_row, by the rows' keys; these
 * entries follow in the same way.  If they cannot, no row of the table is sent any more, as
 * it would be added again; the attachment is left without key columns then.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/relation.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "cluster/guard.h"
#include "queue/rekey.h"
#include "table/attach.h"
#include "table/capture_buffer.h"
#include "table/row_io.h"
#include "table/row_sql.h"

/* Rows that are looked for at a time: each costs a pass through the table. */
#define REKEY_SLICE		100000

typedef struct RekeyBatch
{
	KaptureAttachment *from;	/* with its former key */
	KaptureAttachment *to;
	MemoryContext context;
	int			nrows;
	Datum	   *old_keys;		/* text */
	char	  **new_keys;		/* in "context"; NULL: the row was not found */
} RekeyBatch;

/* Are the key's columns still those that the table was attached with, in their order? */
static bool
rekey_is_same(const KaptureAttachment *att)
{
	bool		same = att->nkeys == list_length(att->former_key);

	for (int i = 0; same && i < att->nkeys; i++)
		same = strcmp(att->keys[i].name, list_nth(att->former_key, i)) == 0;
	return same;
}

/*
 * Returns those keys (text[]) that contain "part": of waiting changes and, if "known", of
 * entries in kapture_row.
 */
static ArrayType *
rekey_keys(const KaptureAttachment *att, bool known, const char *part)
{
	Oid			types[3] = {INT4OID, BOOLOID, TEXTOID};
	Datum		values[3] = {Int32GetDatum(att->id), BoolGetDatum(known), CStringGetTextDatum(part)};
	char	   *text = kapture_own_text("SELECT ARRAY(SELECT k FROM (SELECT unnest(row_key || more_keys) AS k FROM @.kapture_outbox AS o"
										" WHERE o.attachment_id = $1 AND o.op NOT IN ('t', 'c')"
										" UNION SELECT row_key FROM @.kapture_delivery AS d WHERE d.attachment_id = $1 AND d.row_key IS NOT NULL"
										" UNION SELECT row_key FROM @.kapture_row AS r WHERE $2 AND r.attachment_id = $1 AND r.gone_at IS NULL) AS k"
										" WHERE strpos(k, $3) > 0)::text[]", 3, types, values);

	return DatumGetArrayTypeP(OidInputFunctionCall(F_ARRAY_IN, text, TEXTOID, -1));
}

/* Looks for the rows by their old keys, and fills in their new ones. */
static void
rekey_do_find(void *arg)
{
	RekeyBatch *batch = arg;
	int			nkeys = batch->from->nkeys;
	Oid			types[INDEX_MAX_KEYS];
	Datum		params[INDEX_MAX_KEYS];
	Datum	   *elems = palloc(sizeof(Datum) * batch->nrows * nkeys);
	bool	   *nulls = palloc0(sizeof(bool) * batch->nrows * nkeys);
	int			lbs[1] = {1};

	/* the old key may have no index any more */
	(void) set_config_option("enable_seqscan", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_hashjoin", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	for (int r = 0; r < batch->nrows; r++)
	{
		char	  **values = kapture_catalog_unpack_key(TextDatumGetCString(batch->old_keys[r]), nkeys);

		for (int i = 0; i < nkeys; i++)
		{
			nulls[i * batch->nrows + r] = values == NULL;
			elems[i * batch->nrows + r] = values ? CStringGetTextDatum(values[i]) : (Datum) 0;
		}
	}
	for (int i = 0; i < nkeys; i++)
	{
		types[i] = TEXTARRAYOID;
		params[i] = PointerGetDatum(construct_md_array(elems + i * batch->nrows, nulls + i * batch->nrows, 1,
													   &batch->nrows, lbs, TEXTOID, -1, false, TYPALIGN_INT));
	}
	kapture_user_code_select(kapture_row_rekey_sql(batch->from, batch->to), nkeys, types, params, NULL, false);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	line = SPI_tuptable->vals[i];
		bool		isnull;
		int64		ord = DatumGetInt64(SPI_getbinval(line, SPI_tuptable->tupdesc, 1, &isnull));
		char	   *parts[INDEX_MAX_KEYS];

		for (int k = 0; k < batch->to->nkeys; k++)
			parts[k] = SPI_getvalue(line, SPI_tuptable->tupdesc, k + 2);
		batch->new_keys[ord - 1] = MemoryContextStrdup(batch->context, kapture_catalog_pack_key(parts, batch->to->nkeys));
	}
}

/* Looks for all rows, a slice at a time.  Returns NULL, or the error. */
static ErrorData *
rekey_find(const RekeyBatch *batch)
{
	for (int first = 0; first < batch->nrows; first += REKEY_SLICE)
	{
		RekeyBatch	slice = *batch;
		ErrorData  *error;

		slice.old_keys += first;
		slice.new_keys += first;
		slice.nrows = Min(batch->nrows - first, REKEY_SLICE);
		error = kapture_row_run(batch->to, NULL, rekey_do_find, &slice);
		if (error)
			return error;
	}
	return NULL;
}

/*
 * Notes a change of key for each row that waits; a row that was not found counts as
 * deleted.  Returns whether anything was noted.
 */
static bool
rekey_note(RekeyBatch *batch)
{
	CommandId	cid = GetCurrentCommandId(true);	/* of one command, so that they happen at once */
	bool		any = false;

	for (int r = 0; r < batch->nrows; r++)
	{
		char	   *old_key = TextDatumGetCString(batch->old_keys[r]);

		if (batch->new_keys[r] == NULL)
			kapture_notes_add(batch->to->id, KAPTURE_NOTE_DELETED, batch->to->all_changed, old_key, NULL, cid,
							  KAPTURE_NOTE_ONLY_ROW);
		else if (strcmp(batch->new_keys[r], old_key) != 0)
			kapture_notes_add(batch->to->id, KAPTURE_NOTE_REKEYED, 0, batch->new_keys[r], old_key, cid,
							  KAPTURE_NOTE_ONLY_ROW);
		else
			continue;
		any = true;
	}
	return any;
}

/* Stores the first columns of the key as those by which rows are known from now on. */
static void
rekey_store(const KaptureAttachment *att, int nkeys)
{
	Datum	   *names = palloc(sizeof(Datum) * Max(nkeys, 1));
	Oid			types[2] = {INT4OID, NAMEARRAYOID};
	Datum		values[2] = {Int32GetDatum(att->id)};

	for (int i = 0; i < nkeys; i++)
	{
		Name		name = palloc(sizeof(NameData));

		namestrcpy(name, att->keys[i].name);
		names[i] = NameGetDatum(name);
	}
	values[1] = PointerGetDatum(construct_array(names, nkeys, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR));
	(void) kapture_own_execute("UPDATE @.kapture_attachment SET key_columns = $2 WHERE attachment_id = $1",
							   2, types, values);
	kapture_attach_announce();
}

/* Would rows of the table be added twice if their entries in kapture_row were forgotten? */
static bool
rekey_must_know(const KaptureAttachment *att)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(att->id)};

	return att->id_column == NULL &&
		kapture_own_text("SELECT 't' WHERE EXISTS (SELECT FROM @.kapture_row WHERE attachment_id = $1 AND gone_at IS NULL)"
						 " OR EXISTS (SELECT FROM @.kapture_delivery WHERE attachment_id = $1)", 1, types, values) != NULL;
}

/* Nobody knows which row has which id: stops sending rows until the table has been attached anew. */
static void
rekey_stop(const KaptureAttachment *att, const ErrorData *error)
{
	rekey_store(att, 0);
	ereport(WARNING,
			(errcode(error ? error->sqlerrcode : ERRCODE_UNDEFINED_COLUMN),
			 errmsg("rows of table %s are not sent any more, as its primary key is another one now", kapture_catalog_title(att)),
			 error ? errdetail("Their ids are known by the former key only, by which they cannot be found: %s.", error->message) :
			 errdetail("Their ids are known by the former key only, of which a column is gone."),
			 att->name[0] == '\0' ?
			 errhint("Call kapture_detach() and kapture_attach(), and then kapture_backfill(), which links rows by phone and email.") :
			 errhint("Call kapture_detach() and kapture_attach() for this attachment, and then kapture_backfill(), which links rows by phone and email.")));
}

static void
rekey_follow(KaptureAttachment *att, Relation rel)
{
	RekeyBatch	batch = {.to = att, .context = CurrentMemoryContext};
	ErrorData  *error = NULL;

	kapture_notes_flush();		/* what this transaction has captured so far */
	deconstruct_array(rekey_keys(att, att->id_column == NULL, ""), TEXTOID, -1, false, TYPALIGN_INT, &batch.old_keys, NULL, &batch.nrows);
	batch.new_keys = MemoryContextAllocExtended(CurrentMemoryContext, sizeof(char *) * (batch.nrows + 1),
												MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	batch.from = kapture_catalog_with_former_key(att, rel);
	if (batch.from->nkeys > 0)
		error = rekey_find(&batch);
	if ((error || batch.from->nkeys == 0) && rekey_must_know(att))
	{
		rekey_stop(att, error);
		return;
	}
	if (error)
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("what waits to be sent for table %s is given up, as its primary key is another one now", kapture_catalog_title(att)),
				 errdetail("The rows cannot be found by the former key: %s.", error->message),
				 errhint("kapture_backfill() sends the rows that have no id.")));
	/* the table has the ids itself, and what was sent is known again after the next request */
	if ((rekey_note(&batch) || !rekey_is_same(att)) && att->id_column)
		(void) kapture_own_execute("DELETE FROM @.kapture_row WHERE attachment_id = $1 AND gone_at IS NULL", 1,
								   (Oid[]) {INT4OID}, (Datum[]) {Int32GetDatum(att->id)});
	rekey_store(att, att->nkeys);
}

/*
 * Has one of these commands (of AlterTableCmd) given a key column another type, whose text
 * form may differ?
 */
static bool
rekey_is_retyped(const KaptureAttachment *att, List *commands)
{
	ListCell   *lc;

	foreach(lc, commands)
	{
		AlterTableCmd *command = lfirst(lc);

		for (int i = 0; i < att->nkeys && command->subtype == AT_AlterColumnType; i++)
		{
			if (strcmp(att->keys[i].name, command->name) == 0)
				return true;
		}
	}
	return false;
}

/*
 * Called after ALTER TABLE with these commands (of AlterTableCmd), in its transaction.  If
 * the table is attached and has another primary key now, what waits follows.  Rows that
 * cannot be found count as deleted, with a warning if an error is the reason.
 */
void
kapture_rekey_altered(Oid relid, List *commands)
{
	Relation	rel;
	ListCell   *lc;

	/* version 1.0 knew the key by the index alone */
	if (!kapture_catalog_outbox_packs() || !list_member_oid(kapture_catalog_attached_relations(), relid))
		return;
	rel = relation_open(relid, AccessShareLock);
	foreach(lc, kapture_catalog_attachments(rel))
	{
		KaptureAttachment *att = lfirst(lc);

		/* without key columns, it is known that rows cannot follow */
		if (att->nkeys > 0 && att->former_key != NIL &&
			(!rekey_is_same(att) || rekey_is_retyped(att, commands)))
			rekey_follow(att, rel);
	}
	relation_close(rel, NoLock);
}

/* A renamed value of an enumerated type, which keys of an attached table may contain. */
typedef struct RekeyLabel
{
	Oid			relid;
	Oid			type;
	const char *old_name;
	const char *new_name;
} RekeyLabel;

/* Notes the changes of keys of one attachment. */
static void
rekey_rename(KaptureAttachment *att, const RekeyLabel *label)
{
	Datum	   *keys;
	int			nkeys;
	CommandId	cid;

	kapture_notes_flush();
	deconstruct_array(rekey_keys(att, true, label->old_name), TEXTOID, -1, false, TYPALIGN_INT, &keys, NULL, &nkeys);
	cid = GetCurrentCommandId(true);
	for (int k = 0; k < nkeys; k++)
	{
		char	   *old_key = TextDatumGetCString(keys[k]);
		char	  **values = kapture_catalog_unpack_key(old_key, att->nkeys);
		bool		any = false;

		for (int i = 0; values && i < att->nkeys; i++)
		{
			if (getBaseType(att->keys[i].type) != label->type || strcmp(values[i], label->old_name) != 0)
				continue;
			values[i] = pstrdup(label->new_name);
			any = true;
		}
		if (any)
			kapture_notes_add(att->id, KAPTURE_NOTE_REKEYED, 0, kapture_catalog_pack_key(values, att->nkeys), old_key, cid,
							  KAPTURE_NOTE_ONLY_ROW);
	}
}

/* Does so for the attachments of a table whose keys may contain the value, unless somebody has locked the table. */
static void
rekey_do_rename(void *arg)
{
	const RekeyLabel *label = arg;
	Relation	rel;
	ListCell   *lc;

	if (!ConditionalLockRelationOid(label->relid, AccessShareLock))
		return;
	rel = try_relation_open(label->relid, NoLock);
	foreach(lc, rel ? kapture_catalog_attachments(rel) : NIL)
	{
		KaptureAttachment *att = lfirst(lc);
		bool		has_type = false;

		for (int i = 0; i < att->nkeys; i++)
			has_type |= getBaseType(att->keys[i].type) == label->type;
		if (has_type)
			rekey_rename(att, label);
	}
	if (rel)
		relation_close(rel, NoLock);
	/* the table need not concern the user, whose transaction may last */
	UnlockRelationOid(label->relid, AccessShareLock);
}

/*
 * Called after ALTER TYPE ... RENAME VALUE, in its transaction.  Keys contain the names
 * that values had before, and follow to the new ones.  If that fails, the command does not
 * fail, but a warning is given.
 */
void
kapture_rekey_renamed_value(Oid type, const char *old_name, const char *new_name)
{
	ListCell   *lc;

	if (!kapture_catalog_outbox_packs())
		return;
	foreach(lc, kapture_catalog_attached_relations())
	{
		RekeyLabel	label = {lfirst_oid(lc), type, old_name, new_name};
		ErrorData  *error = kapture_guard_session_step(rekey_do_rename, &label);

		if (error == NULL)
			continue;
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("what waits to be sent for table \"%s\" is known by the former name of its key", get_rel_name(label.relid)),
				 errdetail_internal("%s", error->message)));
		FreeErrorData(error);
	}
}
