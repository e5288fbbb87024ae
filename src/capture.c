/*
 * capture.c
 *		The trigger that notes which rows of attached tables changed.
 *
 * A change is noted in memory first and written to the outbox in bulk: when
 * enough has come together, and before the transaction commits or is prepared.
 * Each note belongs to the subtransaction that made the change, so that it
 * goes away when that is rolled back: notes are written only while their own
 * subtransaction is the current one, and pass to its parent when it ends well.
 *
 * Nothing here depends on Kapture, on a worker, or on the rights of the user:
 * the outbox is written below the executor's permission checks.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "capture.h"
#include "catalog.h"
#include "compat.h"
#include "guc.h"
#include "own.h"
#include "shmem.h"

PG_FUNCTION_INFO_V1(kapture_capture);

/* Notes held in memory before they are written. */
#define CAPTURE_MAX_NOTES	1000

/* Rows handed to the table at a time. */
#define CAPTURE_CHUNK		100

/* Columns of kapture_outbox. */
#define OUTBOX_NATTS	8

/* What a table's trigger needs to know; lives until the table changes. */
typedef struct CaptureTable
{
	Oid			relid;			/* hash key */
	bool		valid;
	MemoryContext context;
	KaptureAttachment *attachment;	/* NULL: not attached */
	bool		plain_key;		/* its text does not depend on settings */
} CaptureTable;

typedef struct CaptureNote
{
	SubTransactionId subid;
	int32		attachment_id;
	int64		changed;
	char		op;
	char	   *row_key;
	char	   *old_key;		/* or NULL */
} CaptureNote;

static HTAB *capture_tables = NULL;

/* The running transaction's notes. */
static MemoryContext capture_context = NULL;
static CaptureNote *capture_notes = NULL;
static int	capture_nnotes = 0;
static int	capture_maxnotes = 0;
static int32 capture_seq = 0;	/* last number given in this transaction */

static void
capture_relcache_callback(Datum arg, Oid relid)
{
	if (OidIsValid(relid))
	{
		CaptureTable *table = hash_search(capture_tables, &relid, HASH_FIND, NULL);

		if (table)
			table->valid = false;
	}
	else
	{
		HASH_SEQ_STATUS status;
		CaptureTable *table;

		hash_seq_init(&status, capture_tables);
		while ((table = hash_seq_search(&status)) != NULL)
			table->valid = false;
	}
}

/* Drops notes of a subtransaction, or hands them to its parent. */
static void
capture_subxact_callback(SubXactEvent event, SubTransactionId mySubid,
						 SubTransactionId parentSubid, void *arg)
{
	int			kept = 0;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	for (int i = 0; i < capture_nnotes; i++)
	{
		CaptureNote *note = &capture_notes[i];

		if (note->subid == mySubid)
		{
			if (event == SUBXACT_EVENT_ABORT_SUB)
				continue;
			note->subid = parentSubid;
		}
		capture_notes[kept++] = *note;
	}
	capture_nnotes = kept;
}

static void
capture_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			if (capture_nnotes > 0)
				kapture_capture_flush();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			/* the memory goes with the transaction's context */
			capture_context = NULL;
			capture_notes = NULL;
			capture_nnotes = capture_maxnotes = 0;
			capture_seq = 0;
			break;
		default:
			break;
	}
}

static void
capture_initialize(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(CaptureTable)};

	capture_tables = hash_create("kapture_sync captured tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(capture_relcache_callback, (Datum) 0);
	RegisterXactCallback(capture_xact_callback, NULL);
	RegisterSubXactCallback(capture_subxact_callback, NULL);
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

/* What the trigger needs to know of its table. */
static CaptureTable *
capture_table(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	bool		found;
	CaptureTable *table;
	MemoryContext old;

	if (capture_tables == NULL)
		capture_initialize();
	table = hash_search(capture_tables, &relid, HASH_ENTER, &found);
	if (found && table->valid)
		return table;

	if (found && table->context)
		MemoryContextDelete(table->context);
	table->valid = false;
	table->attachment = NULL;
	table->context = NULL;
	table->context = AllocSetContextCreate(CacheMemoryContext, "kapture_sync captured table",
										   ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(table->context);
	table->attachment = kapture_catalog_attachment(rel);
	MemoryContextSwitchTo(old);

	table->plain_key = true;
	if (table->attachment && table->attachment->nkeys == 0)
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changes of table \"%s\" are not sent to Kapture", RelationGetRelationName(rel)),
				 errdetail("It has no primary key, nor the columns of the one it was attached with."),
				 errhint("Add a primary key, or use kapture_detach().")));
	if (table->attachment)
	{
		for (int i = 0; i < table->attachment->nkeys; i++)
		{
			AttrNumber	attnum = table->attachment->keys[i].attnum;

			table->plain_key &=
				capture_type_is_plain(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid);
		}
	}
	table->valid = true;
	return table;
}

/* The key of a row as text. */
static char *
capture_key(CaptureTable *table, TupleTableSlot *slot)
{
	KaptureAttachment *att = table->attachment;
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

	/* the second looks into values that are only stored differently */
	return !datumIsEqual(avalue, bvalue, attr->attbyval, attr->attlen) &&
		!datum_image_eq(avalue, bvalue, attr->attbyval, attr->attlen);
}

static void
capture_note(KaptureAttachment *att, char op, int64 changed, const char *row_key, const char *old_key)
{
	CaptureNote *note;
	SubTransactionId subid = GetCurrentSubTransactionId();

	if (capture_context == NULL)
		capture_context = AllocSetContextCreate(TopTransactionContext, "kapture_sync changes",
												ALLOCSET_DEFAULT_SIZES);
	if (capture_nnotes >= CAPTURE_MAX_NOTES && capture_notes[capture_nnotes - 1].subid == subid)
		kapture_capture_flush();
	if (capture_nnotes >= capture_maxnotes)
	{
		int			max = Max(64, capture_maxnotes * 2);

		if (capture_notes == NULL)
			capture_notes = MemoryContextAlloc(TopTransactionContext, max * sizeof(CaptureNote));
		else
			capture_notes = repalloc(capture_notes, max * sizeof(CaptureNote));
		capture_maxnotes = max;
	}

	note = &capture_notes[capture_nnotes];
	note->subid = subid;
	note->attachment_id = att->id;
	note->changed = changed;
	note->op = op;
	note->row_key = MemoryContextStrdup(capture_context, row_key);
	note->old_key = old_key ? MemoryContextStrdup(capture_context, old_key) : NULL;
	capture_nnotes++;
	kapture_shmem_wake_at_commit();
}

/* Puts a note into a slot of the outbox. */
static void
capture_fill_slot(TupleTableSlot *slot, CaptureNote *note)
{
	ExecClearTuple(slot);
	memset(slot->tts_isnull, false, OUTBOX_NATTS * sizeof(bool));
	slot->tts_values[0] = Int32GetDatum(note->attachment_id);
	slot->tts_values[1] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	slot->tts_values[2] = Int32GetDatum(++capture_seq);
	slot->tts_values[3] = CharGetDatum(note->op);
	slot->tts_values[4] = CStringGetTextDatum(note->row_key);
	slot->tts_isnull[5] = note->old_key == NULL;
	slot->tts_values[5] = note->old_key ? CStringGetTextDatum(note->old_key) : (Datum) 0;
	slot->tts_values[6] = Int64GetDatum(note->changed);
	slot->tts_values[7] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	ExecStoreVirtualTuple(slot);
}

/* Writes the notes from "first" on. */
static void
capture_write(Relation outbox, int first)
{
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *rri = makeNode(ResultRelInfo);
	TupleTableSlot *slots[CAPTURE_CHUNK];
	CommandId	cid = GetCurrentCommandId(true);
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync outbox rows",
												ALLOCSET_DEFAULT_SIZES);
	int			nslots = Min(capture_nnotes - first, CAPTURE_CHUNK);

	InitResultRelInfo(rri, outbox, 1, NULL, 0);
	ExecOpenIndices(rri, false);
	for (int i = 0; i < nslots; i++)
		slots[i] = table_slot_create(outbox, NULL);

	while (first < capture_nnotes)
	{
		MemoryContext old = MemoryContextSwitchTo(chunk);
		int			n = Min(capture_nnotes - first, nslots);

		for (int i = 0; i < n; i++)
			capture_fill_slot(slots[i], &capture_notes[first + i]);
		table_multi_insert(outbox, slots, n, cid, 0, NULL);
		for (int i = 0; i < n; i++)
		{
			(void) kapture_insert_index_tuples(rri, slots[i], estate);
			ResetPerTupleExprContext(estate);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
		first += n;
	}

	for (int i = 0; i < nslots; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	ExecCloseIndices(rri);
	FreeExecutorState(estate);
	MemoryContextDelete(chunk);
}

/*
 * Writes to the outbox what the current subtransaction has captured; in the
 * top transaction, with no subtransaction open, that is everything.
 *
 * Notes of one subtransaction lie together at the end of the list: a parent
 * can add none while its child runs.
 */
void
kapture_capture_flush(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	int			first = capture_nnotes;
	Oid			relid;

	while (first > 0 && capture_notes[first - 1].subid == subid)
		first--;
	if (first == capture_nnotes)
		return;

	/* without the extension there is nobody to tell */
	relid = kapture_catalog_relid(KAPTURE_TABLE_OUTBOX);
	if (OidIsValid(relid))
	{
		Relation	outbox = table_open(relid, RowExclusiveLock);

		/* at commit there is none any more, and a long key may go to TOAST */
		PushActiveSnapshot(GetTransactionSnapshot());
		capture_write(outbox, first);
		PopActiveSnapshot();
		table_close(outbox, RowExclusiveLock);
	}
	capture_nnotes = first;
	if (first == 0)
		MemoryContextReset(capture_context);
}

/* The mapped columns that an UPDATE changed. */
static int64
capture_changed_columns(KaptureAttachment *att, TriggerData *trigdata)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	int64		changed = 0;

	for (int i = 0; i < att->ncolumns; i++)
	{
		KaptureMappedColumn *col = &att->columns[i];

		if (col->attnum != InvalidAttrNumber &&
			capture_differs(desc, col->attnum, trigdata->tg_trigslot, trigdata->tg_newslot))
			changed |= INT64CONST(1) << col->bit;
	}
	return changed;
}

static void
capture_update(CaptureTable *table, TriggerData *trigdata)
{
	KaptureAttachment *att = table->attachment;
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	int64		changed = capture_changed_columns(att, trigdata);
	bool		rekeyed = false;

	for (int i = 0; i < att->nkeys; i++)
		rekeyed |= capture_differs(desc, att->keys[i].attnum, trigdata->tg_trigslot, trigdata->tg_newslot);

	if (rekeyed)
		capture_note(att, 'k', changed, capture_key(table, trigdata->tg_newslot),
					 capture_key(table, trigdata->tg_trigslot));
	else if (changed != 0)
		capture_note(att, 'u', changed, capture_key(table, trigdata->tg_newslot), NULL);
}

/*
 * Notes a row that was in the table before it was attached, as if it had just
 * been inserted.  "row_key" is copied.
 */
void
kapture_capture_existing(KaptureAttachment *att, const char *row_key)
{
	if (capture_tables == NULL)
		capture_initialize();
	capture_note(att, 'i', att->all_changed, row_key, NULL);
}

/* TRUNCATE: Kapture has no delete, so all there is to do is to say so. */
static void
capture_truncate(KaptureAttachment *att)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(att->id)};

	if (kapture_history_retention == 0)
		return;
	(void) kapture_own_execute("INSERT INTO @.kapture_history"
							   " (attachment_id, row_key, action, attempts, captured_at, finished_at)"
							   " VALUES ($1, '', 'truncate', 0, pg_catalog.now(), pg_catalog.clock_timestamp())",
							   1, types, values);
}

/*
 * kapture_capture() returns trigger
 *
 * AFTER ROW trigger of attached tables, and AFTER TRUNCATE.  Notes INSERT,
 * UPDATE of a mapped or key column, and DELETE; a table that is not attached
 * (any more) and a session with kapture_sync.capture off are left alone.
 */
Datum
kapture_capture(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	CaptureTable *table;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		(!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) && !TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called as an AFTER ROW trigger", "kapture_capture"),
				 errhint("Use kapture_attach() to create the triggers of a table.")));

	if (!kapture_capture_enabled)
		return PointerGetDatum(NULL);
	table = capture_table(trigdata->tg_relation);
	if (table->attachment == NULL || table->attachment->nkeys == 0)
		return PointerGetDatum(NULL);

	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
		capture_truncate(table->attachment);
	else if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		capture_update(table, trigdata);
	else
		capture_note(table->attachment, TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) ? 'i' : 'd',
					 table->attachment->all_changed,
					 capture_key(table, trigdata->tg_trigslot), NULL);
	return PointerGetDatum(NULL);
}
