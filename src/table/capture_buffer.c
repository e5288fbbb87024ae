/*
 * capture_buffer.c
 *		Changes captured by the running transaction, on their way to the
 *		outbox.
 *
 * A change is noted in memory first and written to the outbox in bulk: when
 * enough has come together, and before the transaction commits or is prepared.
 * Changes that follow one another and differ only in the row's key make one
 * entry of the outbox, so that a COPY of many rows writes few.
 *
 * Each entry belongs to the subtransaction that made the changes, and goes away
 * when that is rolled back: it is written only while its own subtransaction is
 * the current one, and passes to the parent when that ends well.  An entry has
 * its number from the moment it is begun, so whatever is written first, the
 * numbers give the order of the changes.
 *
 * Changes of keys and deletions have to be applied in the order in which they
 * happened, those of one command at once.  So each carries the number of its
 * command's first change, and the last one of a transaction also a snapshot taken
 * at commit.  By then the transaction has waited for all that it conflicts with, so
 * transactions that the snapshot shows came before, and others did not.  Other
 * changes carry neither.
 *
 * The outbox is written below the executor's permission checks: nothing here
 * depends on the rights of the user.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "cluster/shmem.h"
#include "table/capture_buffer.h"

/* Entries held in memory before they are written. */
#define NOTES_MAX_PACKS		100

/* Attachments whose changes may alternate without an entry for each. */
#define NOTES_MAX_TURNS		32

/* Bytes of keys in one entry: no more than fit into a row that is not toasted. */
#define NOTES_PACK_SIZE		1800

/* Indexes of the outbox: its own, and room for some that users may have created. */
#define NOTES_MAX_INDEXES	4

/* Columns of kapture_outbox: now, and in earlier versions. */
#define OUTBOX_NATTS		13
#define OUTBOX_IDS_NATTS	12
#define OUTBOX_KEYS_NATTS	11
#define OUTBOX_PLAIN_NATTS	9

/* Commands that may run inside one another, so that their changes alternate. */
#define NOTES_MAX_COMMANDS	32

/*
 * Numbers that are left free before a command's first change, for commands around it whose
 * changes are noted only later, though they were made earlier.
 */
#define NOTES_GAP			16

/* An entry of the outbox to be: changes that differ only in the row's key. */
typedef struct NotesPack
{
	SubTransactionId subid;
	SubTransactionId writer;	/* the one that wrote the entry, but has not ended yet */
	int32		attachment_id;
	int64		changed;
	char		op;
	bool		open;			/* the outbox can hold several changes in one entry */
	bool		seal;			/* tells when the transaction committed */
	int32		seq;			/* number of the first change */
	int32		command;		/* see kapture_outbox.command; 0: the order does not matter */
	int32		arrival;		/* see kapture_outbox.arrival, or KAPTURE_NOTE_ONLY_ROW */
	int			nkeys;			/* one for each change */
	char	   *old_key;		/* or NULL */
	int			len;
	int			size;
	char	   *keys;			/* text datums, aligned as in an array */
	int64	   *customer_ids;	/* one for each key; NULL: not known */
	int			max_ids;
} NotesPack;

/* The running transaction's entries, in the order of their numbers. */
static NotesPack *notes_packs = NULL;
static int	notes_npacks = 0;
static int	notes_maxpacks = 0;
static int32 notes_seq = 0;		/* last number given in this transaction, */
static int32 notes_written = 0; /* and that of the last change that was written */

/* A command of the running transaction that made changes. */
typedef struct NotesCommand
{
	CommandId	cid;
	int32		first;			/* number of its first change, or one before those of the commands inside it */
	bool		deletes;		/* it deletes rows, too */
	bool		crossed;		/* changes of other commands came in between its own */
} NotesCommand;

/* The latest commands, in the order of cid: one that goes on may have run others in between. */
static NotesCommand notes_commands[NOTES_MAX_COMMANDS];
static int	notes_ncommands = 0;
static bool notes_rekeyed = false;	/* the transaction changed keys, or deleted */

/*
 * A row that has left its partition, and is about to enter another one, for each
 * attachment of its table.
 */
typedef struct NotesLeaving
{
	char	   *row_key;
	SubTransactionId subid;
	int32		attachment_id;
	int64		changed;
	CommandId	cid;
	int32		command;
	int32		arrival;
	int64		customer_id;
} NotesLeaving;

static NotesLeaving *notes_leaving = NULL;
static int	notes_nleaving = 0;
static int	notes_maxleaving = 0;

/* Attachments for which entries about keys were written before commit, and by which subtransaction. */
typedef struct NotesUnsealed
{
	SubTransactionId subid;
	int32		attachment_id;
} NotesUnsealed;

static NotesUnsealed *notes_unsealed = NULL;
static int	notes_nunsealed = 0;
static int	notes_maxunsealed = 0;

static void notes_append(int32 attachment_id, char op, int64 changed, const char *row_key,
						 const char *old_key, int32 command, int32 arrival, int64 customer_id);

/* Is it an entry about keys: does it tell which row has a key? */
static bool
notes_is_structural(const NotesPack *pack)
{
	return pack->command != 0;
}

/* Frees what an entry holds. */
static void
notes_free(NotesPack *pack)
{
	pfree(pack->keys);
	if (pack->old_key)
		pfree(pack->old_key);
	if (pack->customer_ids)
		pfree(pack->customer_ids);
}

/* Bytes that an entry takes so far. */
static int
notes_bytes(const NotesPack *pack)
{
	return pack->len + (pack->customer_ids ? pack->nkeys * (int) sizeof(int64) : 0);
}

/* Adds the ids of customers to those of an entry, before their keys are counted. */
static void
notes_add_ids(NotesPack *pack, const int64 *customer_ids, int n)
{
	if (pack->nkeys + n > pack->max_ids)
	{
		pack->max_ids = Max(pack->nkeys + n, pack->max_ids * 2);
		if (pack->customer_ids)
			pack->customer_ids = repalloc(pack->customer_ids, pack->max_ids * sizeof(int64));
		else
			pack->customer_ids = MemoryContextAlloc(TopTransactionContext, pack->max_ids * sizeof(int64));
	}
	memcpy(pack->customer_ids + pack->nkeys, customer_ids, n * sizeof(int64));
}

/* Makes room for so many more bytes of keys. */
static void
notes_enlarge(NotesPack *pack, int needed)
{
	int			size = Max(pack->len + needed, Min(pack->size * 4, NOTES_PACK_SIZE));

	if (pack->len + needed <= pack->size)
		return;
	pack->keys = pack->keys ? repalloc(pack->keys, size) : MemoryContextAlloc(TopTransactionContext, size);
	pack->size = size;
}

/*
 * Tells whether changes may be added to an entry: they are alike, and no change that
 * came in between is written already.
 */
static bool
notes_alike(const NotesPack *pack, SubTransactionId subid, int32 attachment_id, char op, int64 changed,
			int32 command, bool has_ids)
{
	return pack->open && (pack->customer_ids != NULL) == has_ids && pack->attachment_id == attachment_id && pack->op == op &&
		pack->changed == changed && pack->subid == subid && pack->command == command &&
		pack->writer == InvalidSubTransactionId && notes_written < pack->seq;
}

/* Adds the next entry's changes to an entry if the two are alike.  Returns whether they are. */
static bool
notes_merge(NotesPack *pack, NotesPack *next)
{
	if (!next->open || next->writer != InvalidSubTransactionId ||
		notes_bytes(pack) + notes_bytes(next) > NOTES_PACK_SIZE ||
		!notes_alike(pack, next->subid, next->attachment_id, next->op, next->changed, next->command,
					 next->customer_ids != NULL))
		return false;
	if (next->customer_ids)
		notes_add_ids(pack, next->customer_ids, next->nkeys);
	notes_enlarge(pack, next->len);
	memcpy(pack->keys + pack->len, next->keys, next->len);
	pack->len += next->len;
	pack->nkeys += next->nkeys;
	return true;
}

/* Drops the entries of a subtransaction that is rolled back. */
static void
notes_abort_sub(SubTransactionId subid)
{
	int			kept = 0;

	for (int i = 0; i < notes_npacks; i++)
	{
		NotesPack  *pack = &notes_packs[i];

		if (pack->subid == subid)
		{
			notes_free(pack);
			continue;
		}
		if (pack->writer == subid)
			pack->writer = InvalidSubTransactionId;
		notes_packs[kept++] = *pack;
	}
	notes_npacks = kept;

	kept = 0;
	for (int i = 0; i < notes_nunsealed; i++)
	{
		if (notes_unsealed[i].subid != subid)
			notes_unsealed[kept++] = notes_unsealed[i];
	}
	notes_nunsealed = kept;
	kept = 0;
	for (int i = 0; i < notes_nleaving; i++)
	{
		if (notes_leaving[i].subid != subid)
			notes_leaving[kept++] = notes_leaving[i];
	}
	notes_nleaving = kept;
}

/* Hands the entries of a subtransaction that ended well to its parent. */
static void
notes_commit_sub(SubTransactionId subid, SubTransactionId parent)
{
	int			first = notes_npacks;
	int			kept;

	/* they are the last ones: a parent can add none while its child runs */
	while (first > 0 && (notes_packs[first - 1].subid == subid || notes_packs[first - 1].writer == subid))
		first--;
	kept = first;
	for (int i = first; i < notes_npacks; i++)
	{
		NotesPack  *pack = &notes_packs[i];

		pack->subid = parent;
		if (pack->writer == subid || (kept > 0 && notes_merge(&notes_packs[kept - 1], pack)))
			notes_free(pack);
		else
			notes_packs[kept++] = *pack;
	}
	notes_npacks = kept;

	for (int i = 0; i < notes_nunsealed; i++)
	{
		if (notes_unsealed[i].subid == subid)
			notes_unsealed[i].subid = parent;
	}
}

/* The transactions that have ended by now, as pg_snapshot. */
static Datum
notes_snapshot(void)
{
	Datum		snapshot;

	PushActiveSnapshot(GetLatestSnapshot());
	snapshot = OidFunctionCall0(F_PG_CURRENT_SNAPSHOT);
	PopActiveSnapshot();
	return snapshot;
}

/* The customers of an entry's rows, as bigint[]. */
static Datum
notes_customers(const NotesPack *pack)
{
	Datum	   *elems = palloc(sizeof(Datum) * pack->nkeys);

	for (int i = 0; i < pack->nkeys; i++)
		elems[i] = Int64GetDatum(pack->customer_ids[i]);
	return PointerGetDatum(construct_array(elems, pack->nkeys, INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Puts an entry into a slot of the outbox; its values are allocated in the current memory context. */
static void
notes_fill_slot(TupleTableSlot *slot, const NotesPack *pack)
{
	int			first = INTALIGN(VARSIZE(pack->keys));

	ExecClearTuple(slot);
	memset(slot->tts_isnull, false, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 8; i < slot->tts_tupleDescriptor->natts; i++)
		slot->tts_isnull[i] = true;
	slot->tts_values[0] = Int32GetDatum(pack->attachment_id);
	slot->tts_values[1] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	slot->tts_values[2] = Int32GetDatum(pack->seq);
	slot->tts_values[3] = CharGetDatum(pack->op);
	slot->tts_values[4] = PointerGetDatum(pack->keys);
	slot->tts_isnull[5] = pack->old_key == NULL;
	slot->tts_values[5] = pack->old_key ? CStringGetTextDatum(pack->old_key) : (Datum) 0;
	slot->tts_values[6] = Int64GetDatum(pack->changed);
	slot->tts_values[7] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	if (pack->nkeys > 1)
	{
		Size		size = ARR_OVERHEAD_NONULLS(1) + pack->len - first;
		ArrayType  *array = palloc0(size);

		if (slot->tts_tupleDescriptor->natts < OUTBOX_PLAIN_NATTS)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("changes cannot be noted by an earlier version of extension \"%s\"", KAPTURE_EXTENSION),
					 errdetail("The transaction has made them before it replaced the extension."),
					 errhint("Commit changes of attached tables before you do that.")));
		SET_VARSIZE(array, size);
		array->ndim = 1;
		array->elemtype = TEXTOID;
		ARR_DIMS(array)[0] = pack->nkeys - 1;
		ARR_LBOUND(array)[0] = 1;
		memcpy(ARR_DATA_PTR(array), pack->keys + first, pack->len - first);
		slot->tts_values[8] = PointerGetDatum(array);
		slot->tts_isnull[8] = false;
	}
	if (notes_is_structural(pack) && slot->tts_tupleDescriptor->natts >= OUTBOX_KEYS_NATTS)
	{
		slot->tts_values[9] = Int32GetDatum(pack->command);
		slot->tts_isnull[9] = false;
		if (pack->seal)
			slot->tts_values[10] = notes_snapshot();
		slot->tts_isnull[10] = !pack->seal;
	}
	if (pack->customer_ids && slot->tts_tupleDescriptor->natts >= OUTBOX_IDS_NATTS)
	{
		slot->tts_values[11] = notes_customers(pack);
		slot->tts_isnull[11] = false;
	}
	if (pack->arrival != KAPTURE_NOTE_ONLY_ROW && slot->tts_tupleDescriptor->natts >= OUTBOX_NATTS)
	{
		slot->tts_values[12] = Int32GetDatum(pack->arrival);
		slot->tts_isnull[12] = false;
	}
	ExecStoreVirtualTuple(slot);
}

/* Remembers that an entry about keys is written before the transaction's end. */
static void
notes_note_unsealed(const NotesPack *pack)
{
	if (!notes_is_structural(pack) || pack->seal)
		return;
	for (int i = 0; i < notes_nunsealed; i++)
	{
		if (notes_unsealed[i].attachment_id == pack->attachment_id && notes_unsealed[i].subid == pack->subid)
			return;
	}
	if (notes_nunsealed >= notes_maxunsealed)
	{
		notes_maxunsealed = Max(4, notes_maxunsealed * 2);
		if (notes_unsealed == NULL)
			notes_unsealed = MemoryContextAlloc(TopTransactionContext, notes_maxunsealed * sizeof(NotesUnsealed));
		else
			notes_unsealed = repalloc(notes_unsealed, notes_maxunsealed * sizeof(NotesUnsealed));
	}
	notes_unsealed[notes_nunsealed].subid = GetCurrentSubTransactionId();
	notes_unsealed[notes_nunsealed++].attachment_id = pack->attachment_id;
}

/*
 * The indexes into which entries can go without the executor, and how; kept until
 * something about the extension's tables changes.
 */
static struct
{
	bool		valid;
	uint64		changes;		/* kapture_catalog_changes() when it was made */
	bool		plain;			/* false: there is another index than expected */
	MemoryContext context;
	Oid			oids[NOTES_MAX_INDEXES];
	IndexInfo  *infos[NOTES_MAX_INDEXES];
	int			n;
}			notes_plain;

/* How entries get into the indexes of the outbox. */
typedef struct NotesIndexes
{
	Relation	rels[NOTES_MAX_INDEXES];
	int			n;				/* indexes of notes_plain that are open */
	ResultRelInfo *rri;			/* NULL: entries go straight into "rels" */
	EState	   *estate;
} NotesIndexes;

/*
 * Finds the indexes into which entries can go without the executor.  That spares
 * a single-row transaction an executor state and the condition of
 * kapture_outbox_keys, which only entries about keys meet.  The outbox is locked,
 * so the result is valid as long as no change has been reported.
 */
static void
notes_find_indexes(Relation outbox)
{
	List	   *oids = RelationGetIndexList(outbox);
	MemoryContext old;
	ListCell   *lc;

	if (notes_plain.context == NULL)
		notes_plain.context = AllocSetContextCreate(CacheMemoryContext, "kapture_sync outbox indexes",
													ALLOCSET_SMALL_SIZES);
	notes_plain.valid = false;
	notes_plain.changes = kapture_catalog_changes();
	notes_plain.plain = list_length(oids) <= NOTES_MAX_INDEXES;
	notes_plain.n = 0;
	MemoryContextReset(notes_plain.context);
	old = MemoryContextSwitchTo(notes_plain.context);
	foreach(lc, oids)
	{
		IndexInfo  *info;
		Relation	rel;

		if (!notes_plain.plain || lfirst_oid(lc) == kapture_catalog_relid(KAPTURE_INDEX_OUTBOX_KEYS))
			continue;
		rel = index_open(lfirst_oid(lc), RowExclusiveLock);
		info = BuildIndexInfo(rel);
		notes_plain.oids[notes_plain.n] = lfirst_oid(lc);
		notes_plain.infos[notes_plain.n++] = info;
		notes_plain.plain = rel->rd_rel->relam == BTREE_AM_OID && info->ii_Predicate == NIL &&
			info->ii_Expressions == NIL && !info->ii_Unique && info->ii_ExclusionOps == NULL;
		index_close(rel, RowExclusiveLock);
	}
	MemoryContextSwitchTo(old);
	list_free(oids);
	notes_plain.valid = notes_plain.changes == kapture_catalog_changes();
}

/* Are all indexes of the outbox on plain columns, apart from kapture_outbox_keys? */
static bool
notes_indexes_are_plain(Relation outbox)
{
	if (!notes_plain.valid || notes_plain.changes != kapture_catalog_changes())
		notes_find_indexes(outbox);
	return notes_plain.plain;
}

/* Opens the plain indexes; returns false, with none open, if entries cannot go straight into all indexes. */
static bool
notes_open_indexes(Relation outbox, NotesIndexes *indexes)
{
	bool		ready = true;

	indexes->n = 0;
	if (!notes_indexes_are_plain(outbox))
		return false;
	for (int i = 0; i < notes_plain.n && ready; i++)
	{
		indexes->rels[indexes->n++] = index_open(notes_plain.oids[i], RowExclusiveLock);
		ready = indexes->rels[i]->rd_index->indisready;
	}
	if (!ready)
	{
		while (indexes->n > 0)
			index_close(indexes->rels[--indexes->n], NoLock);
	}
	return ready;
}

/* Gets ready for the index entries of what is written from "first" on. */
static void
notes_begin_indexes(Relation outbox, int first, NotesIndexes *indexes)
{
	bool		keys = false;

	/* the condition of kapture_outbox_keys */
	for (int i = first; i < notes_npacks && !keys; i++)
		keys = notes_packs[i].op != 'i' && notes_packs[i].op != 'u';
	indexes->rri = NULL;
	indexes->n = 0;
	if (!keys && notes_open_indexes(outbox, indexes))
		return;
	indexes->estate = CreateExecutorState();
	indexes->rri = makeNode(ResultRelInfo);
	InitResultRelInfo(indexes->rri, outbox, 1, NULL, 0);
	ExecOpenIndices(indexes->rri, false);
}

static void
notes_insert_index_entries(Relation outbox, NotesIndexes *indexes, TupleTableSlot *slot)
{
	if (indexes->rri)
	{
		(void) kapture_insert_index_tuples(indexes->rri, slot, indexes->estate);
		ResetPerTupleExprContext(indexes->estate);
		return;
	}
	for (int i = 0; i < indexes->n; i++)
	{
		Datum		values[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];

		FormIndexDatum(notes_plain.infos[i], slot, NULL, values, isnull);
		(void) index_insert(indexes->rels[i], values, isnull, &slot->tts_tid, outbox,
							UNIQUE_CHECK_NO, false, notes_plain.infos[i]);
	}
}

static void
notes_end_indexes(NotesIndexes *indexes)
{
	if (indexes->rri)
	{
		ExecCloseIndices(indexes->rri);
		FreeExecutorState(indexes->estate);
		return;
	}
	for (int i = 0; i < indexes->n; i++)
		index_close(indexes->rels[i], NoLock);
}

/* Writes the entries from "first" on. */
static void
notes_write(Relation outbox, int first)
{
	NotesIndexes indexes;
	TupleTableSlot *slots[NOTES_MAX_PACKS];
	CommandId	cid = GetCurrentCommandId(true);
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync outbox rows",
												ALLOCSET_DEFAULT_SIZES);
	int			nslots = Min(notes_npacks - first, NOTES_MAX_PACKS);

	notes_begin_indexes(outbox, first, &indexes);
	for (int i = 0; i < nslots; i++)
		slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(outbox), &TTSOpsVirtual);

	while (first < notes_npacks)
	{
		MemoryContext old = MemoryContextSwitchTo(chunk);
		int			n = Min(notes_npacks - first, nslots);

		for (int i = 0; i < n; i++)
			notes_fill_slot(slots[i], &notes_packs[first + i]);
		if (n == 1)
			table_tuple_insert(outbox, slots[0], cid, 0, NULL);
		else
			table_multi_insert(outbox, slots, n, cid, 0, NULL);
		for (int i = 0; i < n; i++)
		{
			notes_insert_index_entries(outbox, &indexes, slots[i]);
			notes_note_unsealed(&notes_packs[first + i]);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
		first += n;
		notes_written = Max(notes_written, notes_packs[first - 1].seq);
	}

	for (int i = 0; i < nslots; i++)
		ExecDropSingleTupleTableSlot(slots[i]);
	notes_end_indexes(&indexes);
	MemoryContextDelete(chunk);
}

/*
 * Does writing the entries from "first" on need a snapshot?  A row that may be toasted does,
 * and so may a function in an index that a user has created.
 */
static bool
notes_want_snapshot(Relation outbox, int first)
{
	if (KAPTURE_INSERT_WANTS_SNAPSHOT || !notes_indexes_are_plain(outbox))
		return true;
	for (int i = first; i < notes_npacks; i++)
	{
		const NotesPack *pack = &notes_packs[i];

		/* the snapshot that seals an entry may be of any length */
		if (pack->old_key || pack->seal || notes_bytes(pack) > NOTES_PACK_SIZE)
			return true;
	}
	return false;
}

/*
 * Opens the outbox and writes the entries from "first" on; returns false if there is no outbox.
 *
 * The locks are kept until the transaction ends, also if it is prepared.  Whoever builds an index
 * anew beside it (REINDEX CONCURRENTLY), or writes the table anew, knows by these locks of entries
 * that it cannot see yet, and waits.  Otherwise they would be left out, and never sent.
 */
static bool
notes_write_out(int first)
{
	Oid			relid = kapture_catalog_relid(KAPTURE_TABLE_OUTBOX);
	Relation	outbox;
	bool		bare;

	if (!OidIsValid(relid))
		return false;
	outbox = table_open(relid, RowExclusiveLock);

	/* at commit no snapshot is active any more */
	bare = !ActiveSnapshotSet() && notes_want_snapshot(outbox, first);
	if (bare)
		PushActiveSnapshot(GetTransactionSnapshot());
	notes_write(outbox, first);
	if (bare)
		PopActiveSnapshot();
	table_close(outbox, NoLock);
	return true;
}

/*
 * Writes to the outbox what the current subtransaction has captured; in the
 * top transaction, with no subtransaction open, that is everything.  If the
 * extension was dropped, the changes are discarded.
 */
void
kapture_notes_flush(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	int			first = notes_npacks;

	while (first > 0 && notes_packs[first - 1].subid == subid &&
		   notes_packs[first - 1].writer == InvalidSubTransactionId)
		first--;
	if (first == notes_npacks)
		return;
	(void) notes_write_out(first);
	for (int i = first; i < notes_npacks; i++)
		notes_free(&notes_packs[i]);
	notes_npacks = first;
}

/*
 * The running transaction has removed an attachment, with all that was written
 * for it: nothing about it is to be written at the end.
 */
void
kapture_notes_forget(int32 attachment_id)
{
	int			kept = 0;

	for (int i = 0; i < notes_nunsealed; i++)
	{
		if (notes_unsealed[i].attachment_id != attachment_id)
			notes_unsealed[kept++] = notes_unsealed[i];
	}
	notes_nunsealed = kept;
}

/*
 * Many subtransactions with a change or two each leave ever more entries to
 * their parent, which may not get to write them before its end.  So a
 * subtransaction that is about to commit writes them for the parent.  The parent
 * keeps them until that has ended, in case it is rolled back after all.
 */
static void
notes_write_for_parent(SubTransactionId subid, SubTransactionId parent)
{
	int			first = notes_npacks;

	while (first > 0 && notes_packs[first - 1].writer == InvalidSubTransactionId &&
		   (notes_packs[first - 1].subid == subid || notes_packs[first - 1].subid == parent))
		first--;
	if (first == notes_npacks || !notes_write_out(first))
		return;
	for (int i = first; i < notes_npacks; i++)
		notes_packs[i].writer = subid;
}

/*
 * Notes as deleted the row that has left its partition and has not entered another one.  What an
 * outer transaction's command has moved is left to that: if the present subtransaction is rolled
 * back, that row is still gone.
 */
static void
notes_settle_leaving(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	int			kept = 0;

	for (int i = 0; i < notes_nleaving; i++)
	{
		NotesLeaving leaving = notes_leaving[i];

		if (leaving.subid != subid)
		{
			notes_leaving[kept++] = leaving;
			continue;
		}
		notes_append(leaving.attachment_id, KAPTURE_NOTE_DELETED, leaving.changed, leaving.row_key, NULL,
					 leaving.command, leaving.arrival, leaving.customer_id);
		pfree(leaving.row_key);
	}
	notes_nleaving = kept;
}

static void
notes_subxact_callback(SubXactEvent event, SubTransactionId mySubid,
					   SubTransactionId parentSubid, void *arg)
{
	switch (event)
	{
		case SUBXACT_EVENT_PRE_COMMIT_SUB:
			notes_settle_leaving();
			if (notes_npacks >= NOTES_MAX_PACKS)
				notes_write_for_parent(mySubid, parentSubid);
			break;
		case SUBXACT_EVENT_COMMIT_SUB:
			notes_commit_sub(mySubid, parentSubid);
			break;
		case SUBXACT_EVENT_ABORT_SUB:
			notes_abort_sub(mySubid);
			break;
		default:
			break;
	}
}

/* The last entry about keys of an attachment, NULL if none is in memory. */
static NotesPack *
notes_last_structural(int32 attachment_id)
{
	for (int i = notes_npacks - 1; i >= 0; i--)
	{
		if (notes_packs[i].attachment_id == attachment_id && notes_is_structural(&notes_packs[i]))
			return &notes_packs[i];
	}
	return NULL;
}

/*
 * To be called when the transaction is about to end: for each attachment, the last
 * entry about keys is to tell when.  If all are written already, adds one for that.
 */
static void
notes_seal(void)
{
	if (!notes_rekeyed)
		return;
	for (int i = notes_npacks - 1; i >= 0; i--)
	{
		if (notes_is_structural(&notes_packs[i]))
			notes_last_structural(notes_packs[i].attachment_id)->seal = true;
	}
	for (int i = 0; i < notes_nunsealed; i++)
	{
		int32		attachment_id = notes_unsealed[i].attachment_id;

		if (notes_last_structural(attachment_id) == NULL)
		{
			notes_append(attachment_id, KAPTURE_NOTE_END, 0, "", NULL, notes_seq + 1, KAPTURE_NOTE_ONLY_ROW,
						 KAPTURE_NOTE_NOT_KNOWN);
			notes_last_structural(attachment_id)->seal = true;
		}
	}
}

static void
notes_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			notes_settle_leaving();
			notes_seal();
			if (notes_npacks > 0)
				kapture_notes_flush();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			/* the memory goes with the transaction's context */
			notes_packs = NULL;
			notes_npacks = notes_maxpacks = 0;
			notes_seq = notes_written = 0;
			notes_ncommands = 0;
			notes_rekeyed = false;
			notes_leaving = NULL;
			notes_nleaving = notes_maxleaving = 0;
			notes_unsealed = NULL;
			notes_nunsealed = notes_maxunsealed = 0;
			break;
		default:
			break;
	}
}

/* To be called before anything is kept for a transaction, to be notified of its end. */
static void
notes_register(void)
{
	static bool registered = false;

	if (registered)
		return;
	RegisterXactCallback(notes_xact_callback, NULL);
	RegisterSubXactCallback(notes_subxact_callback, NULL);
	registered = true;
}

/* Begins another entry. */
static NotesPack *
notes_begin_pack(void)
{
	notes_register();
	if (notes_npacks >= notes_maxpacks)
	{
		int			max = Max(4, notes_maxpacks * 4);

		if (notes_packs == NULL)
			notes_packs = MemoryContextAlloc(TopTransactionContext, max * sizeof(NotesPack));
		else
			notes_packs = repalloc(notes_packs, max * sizeof(NotesPack));
		notes_maxpacks = max;
	}
	memset(&notes_packs[notes_npacks], 0, sizeof(NotesPack));
	return &notes_packs[notes_npacks++];
}

/*
 * The last entry of an attachment among the latest ones; NULL if there is none.  The
 * triggers of several attachments of a table take turns row by row, and their changes
 * are to become few entries all the same.
 */
static NotesPack *
notes_last_of(int32 attachment_id)
{
	for (int i = notes_npacks - 1; i >= Max(notes_npacks - NOTES_MAX_TURNS, 0); i--)
	{
		if (notes_packs[i].attachment_id == attachment_id)
			return &notes_packs[i];
	}
	return NULL;
}

/* Notes a change, as kapture_notes_add(); "command" is kept as it is. */
static void
notes_append(int32 attachment_id, char op, int64 changed, const char *row_key, const char *old_key,
			 int32 command, int32 arrival, int64 customer_id)
{
	bool		has_id = customer_id != KAPTURE_NOTE_NOT_KNOWN;
	SubTransactionId subid = GetCurrentSubTransactionId();
	int			keylen = strlen(row_key);
	int			size = INTALIGN(VARHDRSZ + keylen);
	NotesPack  *pack = notes_last_of(attachment_id);
	bool		alone = old_key || arrival != KAPTURE_NOTE_ONLY_ROW;
	char	   *key;

	if (pack == NULL || alone || notes_bytes(pack) + size > NOTES_PACK_SIZE ||
		!notes_alike(pack, subid, attachment_id, op, changed, command, has_id))
	{
		if (notes_npacks >= NOTES_MAX_PACKS && notes_packs[notes_npacks - 1].subid == subid)
			kapture_notes_flush();
		pack = notes_begin_pack();
		pack->subid = subid;
		pack->attachment_id = attachment_id;
		pack->changed = changed;
		pack->op = op;
		pack->seq = notes_seq + 1;
		pack->command = command;
		pack->arrival = arrival == KAPTURE_NOTE_NEW_ROW ? pack->seq : arrival;
		pack->old_key = old_key ? MemoryContextStrdup(TopTransactionContext, old_key) : NULL;
		pack->open = !alone && kapture_catalog_outbox_packs();
	}

	if (has_id)
		notes_add_ids(pack, &customer_id, 1);
	notes_enlarge(pack, size);
	key = pack->keys + pack->len;
	memset(key + size - sizeof(int32), 0, sizeof(int32));	/* padding before the next key */
	SET_VARSIZE(key, VARHDRSZ + keylen);
	memcpy(VARDATA(key), row_key, keylen);
	pack->len += size;
	pack->nkeys++;
	notes_seq++;
	notes_rekeyed |= command != 0;
	kapture_shmem_wake_at_commit(attachment_id);
}

/*
 * The command that makes a change now.  A trigger or function of a command may run other
 * commands, after which the first one goes on.  If that happens before the first one's
 * changes are noted, they are noted last, but come first.
 */
static NotesCommand *
notes_command(CommandId cid)
{
	int			n = notes_ncommands;
	bool		crossed = false;
	int32		first;
	NotesCommand *command;

	while (n > 0 && notes_commands[n - 1].cid > cid)
		n--;
	crossed = n < notes_ncommands;
	if (n > 0 && notes_commands[n - 1].cid == cid)
	{
		notes_ncommands = n;
		notes_commands[n - 1].crossed |= crossed;
		return &notes_commands[n - 1];
	}
	if (crossed)
		first = notes_commands[n].first - 1;
	else
	{
		/* so many commands that numbers might run out have no others inside them */
		if (notes_seq < PG_INT32_MAX / 2)
			notes_seq += NOTES_GAP;
		first = notes_seq + 1;
	}
	/* the latest of many is the likeliest to have ended */
	if (n == NOTES_MAX_COMMANDS)
		n--;
	command = &notes_commands[n];
	command->cid = cid;
	command->first = first;
	command->deletes = false;
	command->crossed = crossed;
	notes_ncommands = n + 1;
	return command;
}

/*
 * Called for a row that is inserted.  If the command has just moved it out of another
 * partition, notes the move as a change of that row, without its "ignored" columns, and
 * returns true; *arrival becomes the number of the change that gave the row its key.
 */
static bool
notes_enter(int32 attachment_id, const char *row_key, CommandId cid, int64 ignored, int32 *arrival)
{
	for (int i = 0; i < notes_nleaving; i++)
	{
		NotesLeaving leaving = notes_leaving[i];

		if (leaving.attachment_id != attachment_id || leaving.cid != cid)
			continue;
		notes_leaving[i] = notes_leaving[--notes_nleaving];
		/* rows with one key were noticed only as rows came in, after this one had left with its key */
		if (*arrival != KAPTURE_NOTE_ONLY_ROW && leaving.arrival == KAPTURE_NOTE_ONLY_ROW)
			leaving.arrival = 0;
		/* the key has the columns that say which partition: it is another one now */
		notes_append(attachment_id, KAPTURE_NOTE_REKEYED, leaving.changed & ~ignored, row_key, leaving.row_key,
					 leaving.command, leaving.arrival, KAPTURE_NOTE_NOT_KNOWN);
		*arrival = notes_seq;
		pfree(leaving.row_key);
		return true;
	}
	return false;
}

/* As kapture_notes_add(), with the customer of a row that is deleted. */
static int32
notes_add(int32 attachment_id, char op, int64 changed, const char *row_key, const char *old_key,
		  CommandId cid, int32 arrival, int64 customer_id)
{
	NotesCommand *command = notes_command(cid);
	int32		number = 0;

	/* those of outer transactions' commands come first */
	if (notes_nleaving > 0 && notes_leaving[notes_nleaving - 1].cid == cid)
	{
		int32		entered = arrival;

		if (op == KAPTURE_NOTE_INSERTED && notes_enter(attachment_id, row_key, cid, 0, &entered))
			return entered;
		notes_settle_leaving();
	}

	command->deletes |= op == KAPTURE_NOTE_DELETED;
	if (op == KAPTURE_NOTE_REKEYED || op == KAPTURE_NOTE_DELETED || op == KAPTURE_NOTE_TRUNCATED)
		number = command->first;
	else if ((op == KAPTURE_NOTE_INSERTED && command->deletes) || (command->crossed && notes_rekeyed) ||
			 arrival != KAPTURE_NOTE_ONLY_ROW)
	{
		/* a deletion may be of this very row, or the row's key may be another row's by now */
		op = KAPTURE_NOTE_PLACED;
		number = command->first;
	}
	notes_append(attachment_id, op, changed, row_key, old_key, number, arrival, customer_id);
	return notes_seq;
}

/*
 * Notes a change: of which attachment, what was done (see capture_buffer.h), the mask of
 * mapped columns that are concerned, and the row's key; "old_key" is the key that the
 * row had before, NULL if it is the same.  "cid" is the command that made the change.
 * "arrival": where several rows may have the key, the number of the change that gave it
 * to this row, 0 if the row had it before that; otherwise KAPTURE_NOTE_ONLY_ROW.  The
 * keys are copied.  Returns the number of the change.
 */
int32
kapture_notes_add(int32 attachment_id, char op, int64 changed, const char *row_key, const char *old_key,
				  CommandId cid, int32 arrival)
{
	return notes_add(attachment_id, op, changed, row_key, old_key, cid, arrival, KAPTURE_NOTE_NOT_KNOWN);
}

/*
 * As kapture_notes_add(), for a row that was deleted and its customer: 0 if it had none,
 * or KAPTURE_NOTE_NOT_KNOWN.
 */
void
kapture_notes_add_deleted(int32 attachment_id, int64 changed, const char *row_key, CommandId cid, int32 arrival,
						  int64 customer_id)
{
	(void) notes_add(attachment_id, KAPTURE_NOTE_DELETED, changed, row_key, NULL, cid, arrival, customer_id);
}

/* Is the leaving row another one than the row that other attachments of the table have just noted? */
static bool
notes_leaves_anew(int32 attachment_id, const char *row_key, CommandId cid)
{
	SubTransactionId subid = GetCurrentSubTransactionId();

	for (int i = 0; i < notes_nleaving; i++)
	{
		if (notes_leaving[i].subid == subid &&
			(notes_leaving[i].attachment_id == attachment_id || notes_leaving[i].cid != cid ||
			 strcmp(notes_leaving[i].row_key, row_key) != 0))
			return true;
	}
	return false;
}

/*
 * Notes that a row has left its partition for another one, with the arguments of
 * kapture_notes_add(); the next row that the command inserts is the same row.
 */
void
kapture_notes_add_leaving(int32 attachment_id, int64 changed, const char *row_key, CommandId cid, int32 arrival,
						  int64 customer_id)
{
	NotesLeaving *leaving;

	notes_register();
	if (notes_leaves_anew(attachment_id, row_key, cid))
		notes_settle_leaving();
	if (notes_nleaving >= notes_maxleaving)
	{
		notes_maxleaving = Max(4, notes_maxleaving * 2);
		if (notes_leaving == NULL)
			notes_leaving = MemoryContextAlloc(TopTransactionContext, notes_maxleaving * sizeof(NotesLeaving));
		else
			notes_leaving = repalloc(notes_leaving, notes_maxleaving * sizeof(NotesLeaving));
	}
	leaving = &notes_leaving[notes_nleaving++];
	leaving->command = notes_command(cid)->first;
	leaving->arrival = arrival;
	leaving->subid = GetCurrentSubTransactionId();
	leaving->attachment_id = attachment_id;
	leaving->changed = changed;
	leaving->cid = cid;
	leaving->customer_id = customer_id;
	leaving->row_key = MemoryContextStrdup(TopTransactionContext, row_key);
}

/*
 * Called for a row that is inserted with its "ignored" columns as Kapture has them.  A new
 * row is not noted; a row that has just left another partition is noted with its other
 * columns.  Returns the number of the change that gave the row its key,
 * KAPTURE_NOTE_NEW_ROW if none did.
 */
int32
kapture_notes_add_arriving(int32 attachment_id, int64 ignored, const char *row_key, CommandId cid)
{
	int32		arrival = KAPTURE_NOTE_ONLY_ROW;

	return notes_enter(attachment_id, row_key, cid, ignored, &arrival) ? arrival : KAPTURE_NOTE_NEW_ROW;
}

/*
 * Notes a row as if it had just been inserted, though it was there before.
 */
void
kapture_notes_add_existing(int32 attachment_id, int64 changed, const char *row_key)
{
	notes_append(attachment_id, KAPTURE_NOTE_INSERTED, changed, row_key, NULL, 0, KAPTURE_NOTE_ONLY_ROW,
				 KAPTURE_NOTE_NOT_KNOWN);
}

/*
 * Notes a row as if it had just been updated, though it was not.
 */
void
kapture_notes_add_changed(int32 attachment_id, int64 changed, const char *row_key)
{
	notes_append(attachment_id, KAPTURE_NOTE_UPDATED, changed, row_key, NULL, 0, KAPTURE_NOTE_ONLY_ROW,
				 KAPTURE_NOTE_NOT_KNOWN);
}
