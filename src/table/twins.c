/*
 * twins.c
 *		Tells rows apart that have one key for a while.
 *
 * Under a deferred constraint several rows may have one key until the transaction
 * commits, so a key does not tell which of them a change is about.  The place of the
 * row's version does.  From the first command on that leaves two rows with one key,
 * the number of the change that gave a row its key is kept in memory for each version
 * that the transaction writes.
 *
 * There is no way to tell whether a constraint is deferred just now.  So when a row gets
 * a key, the indexes of constraints that can be deferred are searched for others with
 * that key.  Tables without such constraints pay nothing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_index.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "table/capture_buffer.h"
#include "table/twins.h"

/* A version of a row, for an attachment. */
typedef struct TwinsKey
{
	int32		attachment_id;
	Oid			file;			/* relfilenode: after TRUNCATE, places are reused */
	BlockNumber block;
	OffsetNumber offset;
} TwinsKey;

typedef struct TwinsVersion
{
	TwinsKey	key;			/* hash key */
	int32		arrival;		/* number of the change that gave the row its key */
} TwinsVersion;

/* Versions that the running transaction has written; NULL: no two rows have had one key so far. */
static HTAB *twins_versions = NULL;
static CommandId twins_since;	/* the command from which on versions are kept */

static void
twins_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_PREPARE && event != XACT_EVENT_ABORT)
		return;
	/* the memory goes with the transaction's context */
	twins_versions = NULL;
}

/*
 * Does an index keep an attachment's key unique: are all its columns among those of the key?
 * EXCLUDE says nothing of keys, as its operators may be any.
 */
static bool
twins_is_of_key(Oid index, const KaptureAttachment *att)
{
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		result = HeapTupleIsValid(tuple) && ((Form_pg_index) GETSTRUCT(tuple))->indisunique;

	for (int i = 0; result && i < ((Form_pg_index) GETSTRUCT(tuple))->indnkeyatts; i++)
	{
		int			k = 0;

		while (k < att->nkeys && att->keys[k].attnum != ((Form_pg_index) GETSTRUCT(tuple))->indkey.values[i])
			k++;
		result = k < att->nkeys;
	}
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return result;
}

/*
 * Returns "indexes" with those of constraints that keep an attachment's key unique and can
 * be deferred, in the current memory context.
 */
List *
kapture_twins_indexes(List *indexes, Relation rel, const KaptureAttachment *att)
{
	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &rel->trigdesc->triggers[i];

		if (trigger->tgfoid == F_UNIQUE_KEY_RECHECK && twins_is_of_key(trigger->tgconstrindid, att))
			indexes = list_append_unique_oid(indexes, trigger->tgconstrindid);
	}
	return indexes;
}

/* Makes the scan keys that find the rows with the key of this one.  Returns their number, 0 if a value is null. */
static int
twins_scan_keys(ScanKey keys, Relation rel, Relation index, HeapTuple tuple)
{
	int			n = IndexRelationGetNumberOfKeyAttributes(index);
	Oid		   *operators;
	Oid		   *procs = NULL;
	uint16	   *strategies = NULL;

	/* a key WITHOUT OVERLAPS is no b-tree */
	if (index->rd_index->indisexclusion)
		RelationGetExclusionInfo(index, &operators, &procs, &strategies);
	for (int i = 0; i < n; i++)
	{
		Oid			type = index->rd_opcintype[i];
		Oid			equal = procs ? procs[i] :
			get_opcode(get_opfamily_member(index->rd_opfamily[i], type, type, BTEqualStrategyNumber));
		bool		isnull;
		Datum		value = heap_getattr(tuple, index->rd_index->indkey.values[i], RelationGetDescr(rel), &isnull);

		if (isnull || !OidIsValid(equal))
			return 0;
		ScanKeyEntryInitialize(&keys[i], 0, i + 1, strategies ? strategies[i] : BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i], equal, value);
	}
	return n;
}

/* Does a row that a scan of the index has found match the scan keys?  The index may not know. */
static bool
twins_matches(IndexScanDesc scan, TupleTableSlot *slot, ScanKey keys, int nkeys)
{
	bool		result = true;

	for (int i = 0; scan->xs_recheck && result && i < nkeys; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, scan->indexRelation->rd_index->indkey.values[i], &isnull);

		result = !isnull &&
			DatumGetBool(FunctionCall2Coll(&keys[i].sk_func, keys[i].sk_collation, value, keys[i].sk_argument));
	}
	return result;
}

/* Is there another row with the key that this one has in an index? */
static bool
twins_collides(Relation rel, Oid indexid, HeapTuple tuple)
{
	ScanKeyData keys[INDEX_MAX_KEYS];
	Relation	index = index_open(indexid, AccessShareLock);
	int			nkeys = twins_scan_keys(keys, rel, index, tuple);
	bool		result = false;

	if (nkeys > 0)
	{
		/* systable_beginscan() would do but for indexes that need a recheck */
		TupleTableSlot *slot = table_slot_create(rel, NULL);
		IndexScanDesc scan = index_beginscan(rel, index, SnapshotSelf, NULL, nkeys, 0, SO_NONE);

		index_rescan(scan, keys, nkeys, NULL, 0);
		while (!result && index_getnext_slot(scan, ForwardScanDirection, slot))
			result = !ItemPointerEquals(&slot->tts_tid, &tuple->t_self) && twins_matches(scan, slot, keys, nkeys);
		index_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
	}
	index_close(index, AccessShareLock);
	return result;
}

/*
 * Tells whether the running transaction keeps versions of rows.
 */
bool
kapture_twins_any(void)
{
	return twins_versions != NULL;
}

/*
 * Has versions kept from now on, if the row to which command "cid" has given a key is not
 * the only one with that key.  "indexes": see kapture_twins_indexes().
 */
void
kapture_twins_watch(Relation rel, List *indexes, HeapTuple tuple, CommandId cid)
{
	static bool registered = false;
	HASHCTL		ctl = {.keysize = sizeof(TwinsKey), .entrysize = sizeof(TwinsVersion)};
	ListCell   *lc;

	foreach(lc, indexes)
	{
		if (twins_versions || !twins_collides(rel, lfirst_oid(lc), tuple))
			continue;
		if (!registered)
			RegisterXactCallback(twins_xact_callback, NULL);
		registered = true;
		ctl.hcxt = TopTransactionContext;
		twins_versions = hash_create("kapture_sync rows with one key", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
		twins_since = cid;
	}
}

static TwinsKey
twins_key(int32 attachment_id, Relation rel, HeapTuple tuple)
{
	TwinsKey	key;

	memset(&key, 0, sizeof(key));	/* the padding, too */
	key.attachment_id = attachment_id;
	key.file = rel->rd_rel->relfilenode;
	key.block = ItemPointerGetBlockNumber(&tuple->t_self);
	key.offset = ItemPointerGetOffsetNumber(&tuple->t_self);
	return key;
}

/*
 * Returns the number of the change that gave a row its key: 0 if the row had it when
 * versions began to be kept, KAPTURE_NOTE_ONLY_ROW if that is not known.  "tuple" is a
 * version of the row that command "cid" of the running transaction has written.
 */
int32
kapture_twins_arrival(int32 attachment_id, Relation rel, HeapTuple tuple, CommandId cid)
{
	TwinsKey	key = twins_key(attachment_id, rel, tuple);
	TwinsVersion *version = hash_search(twins_versions, &key, HASH_FIND, NULL);

	if (version)
		return version->arrival;
	/* not known if a trigger changes a row that its own command has written, but not noted yet */
	return cid > twins_since ? KAPTURE_NOTE_ONLY_ROW : 0;
}

/*
 * Notes which change has given a row its key, for "tuple", a new version of the row.
 */
void
kapture_twins_note(int32 attachment_id, Relation rel, HeapTuple tuple, int32 arrival)
{
	TwinsKey	key = twins_key(attachment_id, rel, tuple);
	TwinsVersion *version = hash_search(twins_versions, &key, HASH_ENTER, NULL);

	version->arrival = arrival;
}
