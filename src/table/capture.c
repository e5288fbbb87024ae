/*
 * capture.c
 *		The trigger that notes which rows of attached tables changed.
 *
 * Nothing here depends on Kapture, on a worker, or on the rights of the user;
 * how the notes reach the outbox is capture_buffer.c's matter.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/family.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "table/caches.h"
#include "table/capture.h"
#include "table/capture_buffer.h"
#include "table/twins.h"

PG_FUNCTION_INFO_V1(kapture_capture);

/* What a table's trigger needs to know; lives until the table changes. */
typedef struct CaptureTable
{
	Oid			relid;			/* hash key */
	bool		valid;
	MemoryContext context;
	List	   *attachments;	/* of KaptureAttachment; NIL: not attached */
	bool		depends;		/* neither attached nor a partition of an attached one */
	bool		warned;			/* a warning was given that changes are not sent */
	bool		plain_key;		/* the key's text does not depend on settings */
	List	   *deferrable;		/* indexes of the key that let several rows have
								 * the same key for a while */
	Bitmapset  *columns;		/* mapped and key columns, as in updatedCols; NULL:
								 * other columns may matter, too */
} CaptureTable;

static HTAB *capture_tables = NULL;
static uint64 capture_changes = 0;	/* relcache invalidations that this process has received */

/* When one of these changes, tables that "depend" may belong to other attachments. */
static Oid	capture_attachments = InvalidOid;	/* the table of attachments */
static List *capture_parents = NIL; /* attached tables that others inherit from */
static Oid	capture_function = InvalidOid;	/* kapture_capture() itself */
static ExecutorStart_hook_type capture_prev_executor_start = NULL;

/* What is being written from a pull, and so is not to be captured. */
static struct
{
	int32		attachment_id;	/* 0: nothing */
	int64		customer_id;
	int64		columns;
}			capture_ignored;

/*
 * Invalidates what is cached of a table that changes.  What is cached of tables that
 * "depend" also goes when attachments change, or an attached table with children.
 */
static void
capture_relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	CaptureTable *table = NULL;

	capture_changes++;
	if (OidIsValid(relid))
		table = hash_search(capture_tables, &relid, HASH_FIND, NULL);
	if (table)
		table->valid = false;
	if (OidIsValid(relid) && relid != capture_attachments && !list_member_oid(capture_parents, relid))
		return;
	hash_seq_init(&status, capture_tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (table->depends || !OidIsValid(relid))
			table->valid = false;
	}
}

/*
 * Does an UPDATE change only columns of this table that it names?  BEFORE triggers may
 * change others; partitions and children have column numbers of their own.
 */
static bool
capture_names_all_changes(ResultRelInfo *rri)
{
	Form_pg_class form = rri->ri_RelationDesc->rd_rel;

	return form->relkind == RELKIND_RELATION && !form->relispartition &&
		rri->ri_RootResultRelInfo == NULL && !rri->ri_TrigDesc->trig_update_before_row;
}

/*
 * Takes our trigger out of an UPDATE that names no mapped or key column: queueing
 * the event and fetching both versions of the row again would cost more than
 * kapture_capture() itself, which would find nothing to note.  Only the executor's
 * copy of the triggers is altered, so this ends with the statement.
 */
static void
capture_leave_out(ResultRelInfo *rri, EState *estate)
{
	Oid			relid = RelationGetRelid(rri->ri_RelationDesc);
	CaptureTable *table = hash_search(capture_tables, &relid, HASH_FIND, NULL);
	TriggerDesc *triggers = rri->ri_TrigDesc;
	bool		others = false;

	if (table == NULL || !table->valid || table->columns == NULL || !capture_names_all_changes(rri) ||
		(table->deferrable != NIL && kapture_twins_any()) ||
		bms_overlap(table->columns, ExecGetUpdatedCols(rri, estate)))
		return;
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!TRIGGER_TYPE_MATCHES(trigger->tgtype, TRIGGER_TYPE_ROW, TRIGGER_TYPE_AFTER, TRIGGER_TYPE_UPDATE))
			continue;
		if (trigger->tgfoid == capture_function)
			trigger->tgtype &= ~TRIGGER_TYPE_UPDATE;
		else
			others = true;
	}
	triggers->trig_update_after_row = others;
}

static void
capture_executor_start(QueryDesc *queryDesc, int eflags)
{
	if (capture_prev_executor_start)
		capture_prev_executor_start(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);

	if (queryDesc->operation == CMD_UPDATE)
	{
		ListCell   *lc;

		foreach(lc, queryDesc->estate->es_opened_result_relations)
		{
			ResultRelInfo *rri = lfirst(lc);

			if (rri->ri_TrigDesc && rri->ri_TrigDesc->trig_update_after_row)
				capture_leave_out(rri, queryDesc->estate);
		}
	}
}

/*
 * Returns the name of one of the triggers (KAPTURE_TRIGGER, KAPTURE_TRUNCATE_TRIGGER) of
 * an attachment, in the current memory context.  Each attachment has its own, which
 * depends on its server, and has its number as argument if it has a name.
 */
char *
kapture_capture_trigger(const char *trigger, int32 attachment_id, const char *name)
{
	return name[0] == '\0' ? pstrdup(trigger) : psprintf("%s_%d", trigger, attachment_id);
}

/* Frees what is cached of tables; a warning is given once all the same. */
static void
capture_forget(void)
{
	HASH_SEQ_STATUS status;
	CaptureTable *table;

	hash_seq_init(&status, capture_tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (table->context)
			MemoryContextDelete(table->context);
		table->context = NULL;
		table->valid = false;
		if (!table->warned)
			(void) hash_search(capture_tables, &table->relid, HASH_REMOVE, NULL);
	}
}

/* Sets up what a backend needs from its first capture on; other backends pay nothing. */
static void
capture_initialize(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(CaptureTable)};

	capture_tables = hash_create("kapture_sync captured tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(capture_relcache_callback, (Datum) 0);
	kapture_caches_register(capture_forget);
	capture_prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = capture_executor_start;
}

/* Tells whether a type's text form is the same whatever the settings are. */
static bool
capture_type_is_plain(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case UUIDOID:
		case NUMERICOID:
		case BOOLOID:
		case OIDOID:
			return true;
		default:
			return false;
	}
}

/* Adds the columns that an expression reads; returns false if it reads the whole row. */
static bool
capture_add_reads(Bitmapset **columns, const KaptureExpression *expression)
{
	ListCell   *lc;

	if (expression == NULL)
		return true;
	foreach(lc, expression->reads)
		*columns = bms_add_member(*columns, lfirst_int(lc) - FirstLowInvalidHeapAttributeNumber);
	return !expression->reads_all;
}

/*
 * Returns "columns" with the mapped and key columns of an attachment, and those that
 * expressions read; NULL if one of them is generated, and so changes along with others,
 * or if any column may matter.
 */
static Bitmapset *
capture_add_columns(Bitmapset *columns, KaptureAttachment *att, TupleDesc desc)
{
	for (int i = 0; i < att->nkeys; i++)
		columns = bms_add_member(columns, att->keys[i].attnum - FirstLowInvalidHeapAttributeNumber);
	for (int i = 0; i < att->ncolumns; i++)
	{
		if (att->columns[i].attnum != InvalidAttrNumber)
			columns = bms_add_member(columns, att->columns[i].attnum - FirstLowInvalidHeapAttributeNumber);
		if (!capture_add_reads(&columns, att->columns[i].expression))
			return NULL;
	}
	if (!capture_add_reads(&columns, att->filter) || !capture_add_reads(&columns, att->source_reads))
		return NULL;
	for (int i = -1; (i = bms_next_member(columns, i)) >= 0;)
	{
		if (TupleDescAttr(desc, i + FirstLowInvalidHeapAttributeNumber - 1)->attgenerated != '\0')
			return NULL;
	}
	return columns;
}

/* Has tables that "depend" invalidated when "parent" changes, an attached table that one of them inherits from. */
static void
capture_depend(Oid parent)
{
	MemoryContext old = MemoryContextSwitchTo(CacheMemoryContext);

	capture_parents = list_append_unique_oid(capture_parents, parent);
	MemoryContextSwitchTo(old);
}

/* Warns, once in a session, that changes of a table are not sent, and why. */
static void
capture_warn(CaptureTable *table, Relation rel, Oid parent, const KaptureAttachment *keyless)
{
	const char *title;

	if (table->warned)
		return;
	table->warned = true;
	title = keyless && keyless->name[0] != '\0' ?
		psprintf("\"%s\" (attachment \"%s\")", RelationGetRelationName(rel), keyless->name) :
		psprintf("\"%s\"", RelationGetRelationName(rel));
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("changes of table %s are not sent to Kapture", title),
			 keyless ?
			 errdetail("It has no primary key, nor the columns of the one it was attached with.") :
			 OidIsValid(parent) ?
			 errdetail("Not all tables that inherit from \"%s\" have the trigger, so only that table's own rows are sent.",
					   get_rel_name(parent)) :
			 errdetail("It has the trigger, but is not attached."),
			 keyless ? errhint("Add a primary key, or use kapture_detach().") :
			 OidIsValid(parent) ? errhint("Use kapture_attach() for this table, too.") :
			 errhint("Use kapture_attach() to have them sent from here on, or kapture_detach() to drop the trigger.")));
}

/* Reads the table's attachments, and what follows from them, into its context. */
static void
capture_read(CaptureTable *table, Relation rel)
{
	MemoryContext old = MemoryContextSwitchTo(table->context);
	ListCell   *lc;

	capture_attachments = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	table->attachments = kapture_catalog_attachments(rel);
	foreach(lc, table->attachments)
		table->deferrable = kapture_twins_indexes(table->deferrable, rel, lfirst(lc));
	foreach(lc, table->attachments)
	{
		KaptureAttachment *att = lfirst(lc);

		table->columns = att->nkeys > 0 ? capture_add_columns(table->columns, att, RelationGetDescr(rel)) : NULL;
		if (table->columns == NULL)
			break;
	}
	MemoryContextSwitchTo(old);
}

/*
 * Removes dropped tables, such as old partitions, from the cache, before another
 * table is added.
 */
static void
capture_tidy(void)
{
	static uint64 tidied = 0;
	HASH_SEQ_STATUS status;
	CaptureTable *table;

	if (tidied == capture_changes)
		return;
	tidied = capture_changes;
	hash_seq_init(&status, capture_tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (table->valid || SearchSysCacheExists1(RELOID, ObjectIdGetDatum(table->relid)))
			continue;
		if (table->context)
			MemoryContextDelete(table->context);
		(void) hash_search(capture_tables, &table->relid, HASH_REMOVE, NULL);
	}
}

/* An attachment of the table that has no key; NULL: there is none. */
static const KaptureAttachment *
capture_keyless(const CaptureTable *table)
{
	ListCell   *lc;

	foreach(lc, table->attachments)
	{
		const KaptureAttachment *att = lfirst(lc);

		if (att->nkeys == 0)
			return att;
	}
	return NULL;
}

/* Returns the cached description of the trigger's table, read again if it is not valid. */
static CaptureTable *
capture_table(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	Oid			parent = InvalidOid;
	bool		found;
	CaptureTable *table = hash_search(capture_tables, &relid, HASH_FIND, NULL);
	const KaptureAttachment *first;
	const KaptureAttachment *keyless;
	uint64		changes;
	ListCell   *lc;

	if (table && table->valid)
		return table;

	if (table == NULL)
		capture_tidy();
	table = hash_search(capture_tables, &relid, HASH_ENTER, &found);
	if (!found)
		table->warned = false;
	else if (table->context)
		MemoryContextDelete(table->context);
	table->valid = false;
	table->depends = true;
	table->attachments = NIL;
	table->deferrable = NIL;
	table->columns = NULL;
	table->context = NULL;
	table->context = AllocSetContextCreate(CacheMemoryContext, "kapture_sync captured table",
										   KAPTURE_ATTACHMENT_SIZES);
	changes = capture_changes;
	capture_read(table, rel);
	first = table->attachments != NIL ? linitial(table->attachments) : NULL;
	table->depends = first == NULL || (first->root != relid && !rel->rd_rel->relispartition);
	if (OidIsValid(capture_attachments) && table->depends)
		parent = kapture_family_attached_parent(rel);
	if (OidIsValid(parent))
		capture_depend(parent);
	keyless = capture_keyless(table);
	if (OidIsValid(capture_attachments) && (first == NULL || keyless))
		capture_warn(table, rel, parent, keyless);

	table->plain_key = true;
	foreach(lc, table->attachments)
	{
		const KaptureAttachment *att = lfirst(lc);

		for (int i = 0; i < att->nkeys; i++)
			table->plain_key &= capture_type_is_plain(TupleDescAttr(RelationGetDescr(rel), att->keys[i].attnum - 1)->atttypid);
	}
	/* an invalidation during reading may concern what had been read by then */
	table->valid = changes == capture_changes;
	return table;
}

/*
 * The attachment that a trigger captures for: the one whose number is the trigger's
 * argument, or without an argument the one without a name.  NULL: it no longer exists.
 */
static KaptureAttachment *
capture_attachment(CaptureTable *table, const Trigger *trigger)
{
	int32		id = trigger->tgnargs > 0 ? (int32) strtol(trigger->tgargs[0], NULL, 10) : 0;
	ListCell   *lc;

	foreach(lc, table->attachments)
	{
		KaptureAttachment *att = lfirst(lc);

		if (id != 0 ? att->id == id : att->name[0] == '\0')
			return att;
	}
	return NULL;
}

/* The key of a row as text. */
static char *
capture_key(CaptureTable *table, const KaptureAttachment *att, TupleTableSlot *slot)
{
	char	   *values[INDEX_MAX_KEYS];
	char	   *result;
	int			nestlevel = 0;

	if (!table->plain_key)
		nestlevel = kapture_catalog_text_settings();
	for (int i = 0; i < att->nkeys; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, att->keys[i].attnum, &isnull);

		values[i] = isnull ? "" : OutputFunctionCall(&att->keys[i].output, value);
	}
	result = kapture_catalog_pack_key(values, att->nkeys);
	if (!table->plain_key)
		AtEOXact_GUC(true, nestlevel);
	return result;
}

/* Tells whether a column differs between two versions of a row. */
static bool
capture_differs(TupleDesc desc, AttrNumber attnum, TupleTableSlot *a, TupleTableSlot *b)
{
	Form_pg_attribute attr = TupleDescAttr(desc, attnum - 1);
	bool		anull;
	bool		bnull;
	Datum		avalue = slot_getattr(a, attnum, &anull);
	Datum		bvalue = slot_getattr(b, attnum, &bnull);

	if (anull || bnull)
		return anull != bnull;

	/* the second comparison finds values equal that are only stored differently */
	return !datumIsEqual(avalue, bvalue, attr->attbyval, attr->attlen) &&
		!datum_image_eq(avalue, bvalue, attr->attbyval, attr->attlen);
}

/* Does a column receive ids of Kapture's? */
static bool
capture_is_id(const CaptureTable *table, AttrNumber attnum)
{
	ListCell   *lc;

	foreach(lc, table->attachments)
	{
		if (((KaptureAttachment *) lfirst(lc))->id_attnum == attnum)
			return true;
	}
	return false;
}

/* Has an UPDATE changed a column that an expression reads?  Kapture's ids do not count as part of the whole row. */
static bool
capture_changes_expression(const CaptureTable *table, const KaptureExpression *expression, TriggerData *trigdata)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	ListCell   *lc;

	for (AttrNumber attnum = 1; expression->reads_all && attnum <= desc->natts; attnum++)
	{
		if (!TupleDescAttr(desc, attnum - 1)->attisdropped && !capture_is_id(table, attnum) &&
			capture_differs(desc, attnum, trigdata->tg_trigslot, trigdata->tg_newslot))
			return true;
	}
	foreach(lc, expression->reads)
	{
		if (capture_differs(desc, lfirst_int(lc), trigdata->tg_trigslot, trigdata->tg_newslot))
			return true;
	}
	return false;
}

/* The mapped columns (bits) that an UPDATE changed; all if it may have moved the row into the filter or out of it. */
static int64
capture_changed_columns(const CaptureTable *table, KaptureAttachment *att, TriggerData *trigdata)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	int64		changed = 0;

	if ((att->filter && capture_changes_expression(table, att->filter, trigdata)) ||
		(att->source_reads && capture_changes_expression(table, att->source_reads, trigdata)))
		return att->all_changed | KAPTURE_CHANGED_FILTER;

	for (int i = 0; i < att->ncolumns; i++)
	{
		KaptureMappedColumn *col = &att->columns[i];

		if (col->expression ? capture_changes_expression(table, col->expression, trigdata) :
			col->attnum != InvalidAttrNumber &&
			capture_differs(desc, col->attnum, trigdata->tg_trigslot, trigdata->tg_newslot))
			changed |= INT64CONST(1) << col->bit;
	}
	return changed;
}

/*
 * Runs work(arg), which writes values from Kapture into rows.  Changes of these columns
 * are not captured in the row that has this customer id at the time.  Where the extension
 * keeps the ids, that is the row which the statement itself writes, not rows that triggers
 * write.  Errors: those of the work.
 */
void
kapture_capture_ignoring(int32 attachment_id, int64 customer_id, int64 columns,
						 void (*work) (void *arg), void *arg)
{
	capture_ignored.attachment_id = attachment_id;
	capture_ignored.customer_id = customer_id;
	capture_ignored.columns = columns;
	PG_TRY();
	{
		work(arg);
	}
	PG_FINALLY();
	{
		capture_ignored.attachment_id = 0;
	}
	PG_END_TRY();
}

/*
 * Kapture's id in a row; 0: it has none, KAPTURE_NOTE_NOT_KNOWN: what it has is no number.  The
 * column was of type bigint when the table was attached, and may have got another type since.
 */
static int64
capture_row_id(KaptureAttachment *att, TupleTableSlot *slot)
{
	Oid			type = TupleDescAttr(slot->tts_tupleDescriptor, att->id_attnum - 1)->atttypid;
	bool		isnull;
	Datum		id = slot_getattr(slot, att->id_attnum, &isnull);
	Oid			output;
	bool		varlena;
	char	   *text;
	char	   *end;
	int64		result;

	if (isnull)
		return 0;
	if (type == INT8OID)
		return Max(DatumGetInt64(id), 0);
	getTypeOutputInfo(type, &output, &varlena);
	text = OidOutputFunctionCall(output, id);
	errno = 0;
	result = strtoll(text, &end, 10);
	return errno != 0 || *end != '\0' ? KAPTURE_NOTE_NOT_KNOWN : Max(result, 0);
}

/* The columns (bits) of a row that a pull is just writing. */
static int64
capture_ignored_columns(KaptureAttachment *att, TupleTableSlot *slot)
{
	if (capture_ignored.attachment_id != att->id)
		return 0;
	if (att->id_column == NULL)
		return DatumGetInt32(OidFunctionCall0(F_PG_TRIGGER_DEPTH)) == 1 ? capture_ignored.columns : 0;
	if (att->id_attnum == InvalidAttrNumber)
		return 0;
	return capture_row_id(att, slot) == capture_ignored.customer_id ? capture_ignored.columns : 0;
}

/* The command that wrote a version of a row, or, if "deleted", ended it. */
static CommandId
capture_command(Relation rel, HeapTuple tuple, bool deleted)
{
	if (rel->rd_tableam != GetHeapamTableAmRoutine())
		return GetCurrentCommandId(false);
	if ((tuple->t_data->t_infomask & HEAP_COMBOCID) == 0)
		return HeapTupleHeaderGetRawCommandId(tuple->t_data);
	return deleted ? HeapTupleHeaderGetCmax(tuple->t_data) : HeapTupleHeaderGetCmin(tuple->t_data);
}

/* Do changes have to note which of several rows with one key they are about? */
static bool
capture_has_twins(const CaptureTable *table, Relation rel)
{
	return table->deferrable != NIL && kapture_twins_any() && rel->rd_tableam == GetHeapamTableAmRoutine();
}

/* Called for a row to which a command has given its key: other rows may have that key, too. */
static void
capture_watch_twins(const CaptureTable *table, Relation rel, HeapTuple tuple, CommandId cid)
{
	if (table->deferrable != NIL && rel->rd_tableam == GetHeapamTableAmRoutine())
		kapture_twins_watch(rel, table->deferrable, tuple, cid);
}

/*
 * The number of the change that gave a row its key; see kapture_notes_add().  "tuple" is
 * the row's version that has been replaced or deleted.
 */
static int32
capture_arrival(const CaptureTable *table, const KaptureAttachment *att, Relation rel, HeapTuple tuple)
{
	if (!capture_has_twins(table, rel))
		return KAPTURE_NOTE_ONLY_ROW;
	if (!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
		return 0;
	return kapture_twins_arrival(att->id, rel, tuple, HeapTupleHeaderGetCmin(tuple->t_data));
}

/* Kapture's id of a row that is deleted; 0: it has none, KAPTURE_NOTE_NOT_KNOWN: not in the table, or not needed. */
static int64
capture_customer(KaptureAttachment *att, TupleTableSlot *slot)
{
	if (att->on_delete == NIL || att->id_attnum == InvalidAttrNumber)
		return KAPTURE_NOTE_NOT_KNOWN;
	return capture_row_id(att, slot);
}

/* A row is deleted, or leaves its partition for another one. */
static void
capture_delete(CaptureTable *table, KaptureAttachment *att, TriggerData *trigdata)
{
	HeapTuple	tuple = trigdata->tg_trigtuple;
	CommandId	cid = capture_command(trigdata->tg_relation, tuple, true);
	int32		arrival = capture_arrival(table, att, trigdata->tg_relation, tuple);
	char	   *key = capture_key(table, att, trigdata->tg_trigslot);
	int64		customer_id = capture_customer(att, trigdata->tg_trigslot);

	if (trigdata->tg_relation->rd_tableam == GetHeapamTableAmRoutine() &&
		HeapTupleHeaderIndicatesMovedPartitions(tuple->t_data))
		kapture_notes_add_leaving(att->id, att->all_changed, key, cid, arrival, customer_id);
	else
		kapture_notes_add_deleted(att->id, att->all_changed, key, cid, arrival, customer_id);
}

static void
capture_insert(CaptureTable *table, KaptureAttachment *att, TriggerData *trigdata)
{
	char	   *key = capture_key(table, att, trigdata->tg_trigslot);
	CommandId	cid = capture_command(trigdata->tg_relation, trigdata->tg_trigtuple, false);
	int64		ignored = capture_ignored_columns(att, trigdata->tg_trigslot);
	int32		arrival;
	bool		twins;

	capture_watch_twins(table, trigdata->tg_relation, trigdata->tg_trigtuple, cid);
	twins = capture_has_twins(table, trigdata->tg_relation);
	/* a row that a pull inserts is Kapture's as a whole */
	if (ignored != 0)
		arrival = kapture_notes_add_arriving(att->id, ignored, key, cid);
	else
		arrival = kapture_notes_add(att->id, KAPTURE_NOTE_INSERTED, att->all_changed, key, NULL, cid,
									twins ? KAPTURE_NOTE_NEW_ROW : KAPTURE_NOTE_ONLY_ROW);
	if (twins)
		kapture_twins_note(att->id, trigdata->tg_relation, trigdata->tg_trigtuple, arrival);
}

static void
capture_update(CaptureTable *table, KaptureAttachment *att, TriggerData *trigdata)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	int64		changed = capture_changed_columns(table, att, trigdata) &
		~capture_ignored_columns(att, trigdata->tg_newslot);
	bool		rekeyed = false;
	CommandId	cid = capture_command(trigdata->tg_relation, trigdata->tg_newtuple, false);
	int32		arrival;
	bool		twins;

	for (int i = 0; i < att->nkeys; i++)
		rekeyed |= capture_differs(desc, att->keys[i].attnum, trigdata->tg_trigslot, trigdata->tg_newslot);
	if (rekeyed)
		capture_watch_twins(table, trigdata->tg_relation, trigdata->tg_newtuple, cid);
	arrival = capture_arrival(table, att, trigdata->tg_relation, trigdata->tg_trigtuple);
	twins = arrival != KAPTURE_NOTE_ONLY_ROW;

	if (rekeyed)
		arrival = kapture_notes_add(att->id, KAPTURE_NOTE_REKEYED, changed, capture_key(table, att, trigdata->tg_newslot),
									capture_key(table, att, trigdata->tg_trigslot), cid, arrival);
	else if (changed != 0)
		(void) kapture_notes_add(att->id, KAPTURE_NOTE_UPDATED, changed, capture_key(table, att, trigdata->tg_newslot),
								 NULL, cid, arrival);
	if (twins)
		kapture_twins_note(att->id, trigdata->tg_relation, trigdata->tg_newtuple, arrival);
}

/*
 * Notes a row that was in the table before it was attached, as if it had just
 * been inserted.  "row_key" is copied.
 */
void
kapture_capture_existing(KaptureAttachment *att, const char *row_key)
{
	kapture_notes_add_existing(att->id, att->all_changed, row_key);
}

/*
 * Notes a row as if these of its columns (bits) had just been changed.  "force":
 * they are sent even if Kapture is known to have them.  "row_key" is copied.
 */
void
kapture_capture_again(KaptureAttachment *att, const char *row_key, int64 columns, bool force)
{
	kapture_notes_add_changed(att->id, columns | (force ? KAPTURE_CHANGED_FORCE : 0), row_key);
}

/* Notes the rows of a partition that is truncated alone: kapture_leave_emptied(), as leave.c stands above this file. */
void		(*kapture_capture_emptied) (Oid relid, int32 attachment_id) = NULL;

/*
 * TRUNCATE: the next row with one of the keys is another row.  Kapture has no delete, so all that remains is to
 * record it.  leave.c handles commands that truncate a partition alone; its trigger is for logical replication only.
 */
static void
capture_truncate(KaptureAttachment *att, Oid relid)
{
	static TransactionId truncated_in = InvalidTransactionId;
	static Oid	truncated;		/* the attached table that it truncated as a whole, for all attachments */
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(att->id)};

	if (relid != att->root)
	{
		if (AmBackgroundWorkerProcess() && kapture_capture_emptied &&
			(truncated != att->root || !TransactionIdEquals(truncated_in, GetTopTransactionId())))
			kapture_capture_emptied(relid, att->id);
		return;
	}
	truncated_in = GetTopTransactionId();
	truncated = att->root;
	kapture_notes_add(att->id, KAPTURE_NOTE_TRUNCATED, 0, "", NULL, GetCurrentCommandId(false),
					  KAPTURE_NOTE_ONLY_ROW);
	if (kapture_history_retention == 0 || !kapture_own_may_run())
		return;
	/* in version 1.0, the history did not name the table */
	(void) kapture_own_execute(get_attnum(kapture_catalog_relid(KAPTURE_TABLE_HISTORY), "relation") == InvalidAttrNumber ?
							   "INSERT INTO @.kapture_history"
							   " (attachment_id, row_key, action, attempts, captured_at, finished_at)"
							   " VALUES ($1, '', 'truncate', 0, pg_catalog.now(), pg_catalog.clock_timestamp())" :
							   "INSERT INTO @.kapture_history"
							   " (attachment_id, row_key, action, attempts, captured_at, finished_at, relation, name)"
							   " SELECT $1, '', 'truncate', 0, pg_catalog.now(), pg_catalog.clock_timestamp(), relation, name"
							   " FROM @.kapture_attachment WHERE attachment_id = $1",
							   1, types, values);
}

/*
 * kapture_capture() returns trigger
 *
 * AFTER ROW trigger of attached tables, and AFTER TRUNCATE.  Notes INSERT,
 * UPDATE of a mapped or key column, and DELETE; for a table that is not attached
 * it warns, and a session with kapture_sync.capture off is left alone.
 */
Datum
kapture_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	CaptureTable *table;
	KaptureAttachment *att;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		(!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) && !TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called as an AFTER ROW trigger", "kapture_capture"),
				 errhint("Use kapture_attach() to create the triggers of a table.")));

	if (!kapture_capture_enabled)
		return PointerGetDatum(NULL);
	if (capture_tables == NULL)
		capture_initialize();
	capture_function = fcinfo->flinfo->fn_oid;
	table = capture_table(trigdata->tg_relation);
	att = capture_attachment(table, trigdata->tg_trigger);
	if (att == NULL && table->attachments != NIL)
		capture_warn(table, trigdata->tg_relation, InvalidOid, NULL);
	if (att == NULL || att->nkeys == 0)
		return PointerGetDatum(NULL);

	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		capture_truncate(att, RelationGetRelid(trigdata->tg_relation));
	else if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		capture_update(table, att, trigdata);
	else if (TRIGGER_FIRED_BY_INSERT(trigdata->tg_event))
		capture_insert(table, att, trigdata);
	else
		capture_delete(table, att, trigdata);
	return PointerGetDatum(NULL);
}
