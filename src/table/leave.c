/*
 * leave.c
 *		Rows that leave an attached table together with their partition.
 *
 * DETACH PARTITION, DROP TABLE and TRUNCATE of a partition take rows out of the
 * table, and no trigger of it fires.  The next row with one of their keys is another
 * row, so what is being sent under that key must not pass to it.
 *
 * Rows that are dropped or truncated are gone at once.  Those of a partition that
 * is detached may come back, so they are left alone until a partition with such
 * keys is made or attached.  If one is attached, its rows may be those that were
 * there before or others: they are sent as new ones, and what has been sent for
 * them already is found in Kapture.
 *
 * The customers of rows that are gone are orphans, as after TRUNCATE of the whole
 * table; nothing is sent for them.  To find them, the keys of all rows that are with
 * Kapture are looked at, if these are not too many for the command to wait for.
 *
 * Which keys are the partition's follows from its bounds, as the columns of the bounds
 * are part of the primary key; no row is looked at, and no value of another column is read.
 * Keys are compared after the command, which has waited for all transactions that wrote to
 * the partition.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "cluster/guard.h"
#include "mapping/literal.h"
#include "table/capture_buffer.h"
#include "table/leave.h"
#include "table/row_io.h"

/* A partition's rows are looked for among at most so many rows with Kapture, which takes seconds. */
#define LEAVE_MAX_KNOWN		1000000

/* A partition whose rows leave. */
typedef struct LeavePartition
{
	char	   *name;
	Oid			parent;
	KaptureAttachment *att;		/* of its table */
	TupleDesc	desc;
	List	   *bounds;			/* conditions, with the partition's column numbers */
	Bitmapset  *columns;		/* that these are about, as pull_varattnos() counts them */
	bool		may_return;		/* the partition may have the rows that were there before */
	bool		gone;			/* its rows no longer exist */
} LeavePartition;

/*
 * Adds to *leaving the description of a partition that is needed once its rows have left,
 * for each attachment of its table, in the current memory context; nothing if the relation
 * is no partition of an attached table.  The relation must be locked.
 */
static void
leave_describe(Oid relid, bool may_return, bool gone, List **leaving)
{
	Relation	rel = try_relation_open(relid, NoLock);
	List	   *attachments = NIL;
	ListCell   *lc;

	if (rel == NULL)
		return;
	if (rel->rd_rel->relispartition &&
		(rel->rd_rel->relkind == RELKIND_RELATION || rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE))
		attachments = kapture_catalog_attachments(rel);
	foreach(lc, attachments)
	{
		KaptureAttachment *att = lfirst(lc);
		LeavePartition *partition;

		if (att->root == relid || att->nkeys == 0)
			continue;
		partition = palloc(sizeof(LeavePartition));
		partition->name = pstrdup(RelationGetRelationName(rel));
		partition->parent = get_partition_parent(relid, true);
		partition->att = att;
		partition->desc = CreateTupleDescCopy(RelationGetDescr(rel));
		partition->bounds = copyObject(RelationGetPartitionQual(rel));
		partition->columns = NULL;
		pull_varattnos((Node *) partition->bounds, 1, &partition->columns);
		partition->may_return = may_return;
		partition->gone = gone;
		*leaving = lappend(*leaving, partition);
	}
	relation_close(rel, NoLock);
}

/*
 * Adds to *leaving a relation that is being dropped, if it is a partition of an
 * attached table.  It is locked.
 */
void
kapture_leave_dropped(Oid relid, List **leaving)
{
	if (!kapture_capture_enabled || !get_rel_relispartition(relid) ||
		!OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		return;
	leave_describe(relid, false, true, leaving);
}

/*
 * Adds to *leaving a partition that a command has created, or attached to its table, if
 * that is attached to Kapture: rows that had its keys before are not in the partition,
 * or ("may_return") rows in it with these keys need not be the same.
 */
void
kapture_leave_made(const RangeVar *name, bool may_return, List **leaving)
{
	Oid			relid;

	if (!kapture_capture_enabled || !OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		return;
	relid = RangeVarGetRelid(name, AccessShareLock, true);
	if (!OidIsValid(relid))
		return;
	CommandCounterIncrement();
	leave_describe(relid, may_return, false, leaving);
}

/* The relations that a TRUNCATE has emptied. */
static List *
leave_truncated_relations(const TruncateStmt *stmt)
{
	List	   *relids = NIL;
	ListCell   *lc;

	foreach(lc, stmt->relations)
	{
		RangeVar   *rv = lfirst_node(RangeVar, lc);
		Oid			relid = RangeVarGetRelid(rv, NoLock, true);

		if (OidIsValid(relid))
			relids = list_concat_unique_oid(relids, rv->inh ? find_all_inheritors(relid, NoLock, NULL) : list_make1_oid(relid));
	}
	while (stmt->behavior == DROP_CASCADE)
	{
		List	   *more = heap_truncate_find_FKs(relids);

		if (more == NIL)
			break;
		foreach(lc, more)
			relids = list_concat_unique_oid(relids, find_all_inheritors(lfirst_oid(lc), NoLock, NULL));
	}
	return relids;
}

/*
 * Adds to *leaving the partitions of attached tables that a command has emptied, except
 * those whose parent it has emptied, too.
 */
void
kapture_leave_truncated(const TruncateStmt *stmt, List **leaving)
{
	List	   *relids;
	ListCell   *lc;

	if (!kapture_capture_enabled || !OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)))
		return;
	relids = leave_truncated_relations(stmt);
	foreach(lc, relids)
	{
		if (!get_rel_relispartition(lfirst_oid(lc)) ||
			list_member_oid(relids, get_partition_parent(lfirst_oid(lc), true)))
			continue;
		leave_describe(lfirst_oid(lc), false, true, leaving);
	}
}

/* Leaves out rows "r" whose change to another key waits in the outbox: that key counts. */
#define LEAVE_HAS_KEY \
	" AND r.row_key NOT IN (SELECT o.old_key FROM @.kapture_outbox AS o" \
	" WHERE o.attachment_id = $1 AND o.op NOT IN ('i', 'u') AND o.old_key IS NOT NULL)"

/* The keys (text[]) of rows for which something was or may be sent, with new keys that they have got since. */
static ArrayType *
leave_keys_in_use(int32 attachment_id)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1] = {Int32GetDatum(attachment_id)};
	char	   *text = kapture_own_text("SELECT ARRAY(SELECT k FROM @.kapture_outbox AS o,"
										" LATERAL unnest(row_key || more_keys) AS k"
										" WHERE o.attachment_id = $1 AND o.op NOT IN ('i', 'u') AND o.op NOT IN ('t', 'c')"
										" UNION SELECT row_key FROM @.kapture_delivery AS r"
										" WHERE r.attachment_id = $1 AND r.row_key IS NOT NULL" LEAVE_HAS_KEY ")::text[]",
										1, types, values);

	return DatumGetArrayTypeP(OidInputFunctionCall(F_ARRAY_IN, text, TEXTOID, -1));
}

/* The keys (text[]) of all rows that are with Kapture; none, with a NOTICE, if these are too many. */
static ArrayType *
leave_keys_known(const LeavePartition *partition)
{
	Oid			types[2] = {INT4OID, INT4OID};
	Datum		values[2] = {Int32GetDatum(partition->att->id), Int32GetDatum(LEAVE_MAX_KNOWN + 1)};
	char	   *text = kapture_own_text("SELECT ARRAY(SELECT r.row_key FROM @.kapture_row AS r"
										" WHERE r.attachment_id = $1 AND r.gone_at IS NULL" LEAVE_HAS_KEY " LIMIT $2)::text[]", 2, types, values);
	ArrayType  *keys = DatumGetArrayTypeP(OidInputFunctionCall(F_ARRAY_IN, text, TEXTOID, -1));

	if (ArrayGetNItems(ARR_NDIM(keys), ARR_DIMS(keys)) <= LEAVE_MAX_KNOWN)
		return keys;
	ereport(NOTICE,
			(errmsg("the customers of partition \"%s\" are not entered into kapture_orphans", partition->name),
			 errdetail("More than %d rows of table %s are with Kapture, which are too many to look for those of a partition.",
					   LEAVE_MAX_KNOWN, kapture_catalog_title(partition->att)),
			 errhint("Delete the rows of a partition before it is dropped or truncated if their customers are to be orphans.")));
	return construct_empty_array(TEXTOID);
}

/* Are the partition's bounds about a column? */
static bool
leave_is_bound(const LeavePartition *partition, AttrNumber attnum)
{
	return bms_is_member(attnum - FirstLowInvalidHeapAttributeNumber, partition->columns);
}

/* Fills a slot with those columns of a key that matter; the others are null.  Errors: those of the types' input. */
static bool
leave_fill_slot(const LeavePartition *partition, TupleTableSlot *slot, const char *key)
{
	KaptureAttachment *att = partition->att;
	char	  **values = kapture_catalog_unpack_key(key, att->nkeys);

	if (values == NULL)
		return false;
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	for (int i = 0; i < att->nkeys; i++)
	{
		int			column = att->keys[i].attnum - 1;
		Oid			input;
		Oid			param;

		if (!leave_is_bound(partition, att->keys[i].attnum))
			continue;
		getTypeInputInfo(getBaseType(att->keys[i].type), &input, &param);
		slot->tts_values[column] = OidInputFunctionCall(input, values[i], param, -1);
		slot->tts_isnull[column] = false;
	}
	ExecStoreVirtualTuple(slot);
	return true;
}

/* A partition, candidate keys (text[]), and those of them that are within its bounds. */
typedef struct LeaveSearch
{
	const LeavePartition *partition;
	ArrayType  *candidates;
	MemoryContext context;
	List	   *found;			/* of char *, in that context */
} LeaveSearch;

static void
leave_add_key(LeaveSearch *search, const char *key)
{
	MemoryContext old = MemoryContextSwitchTo(search->context);

	search->found = lappend(search->found, pstrdup(key));
	MemoryContextSwitchTo(old);
}

/* Compares the keys with the bounds.  Reading a key may run checks of its types. */
static void
leave_do_compare(void *arg)
{
	LeaveSearch *search = arg;
	const LeavePartition *partition = search->partition;
	EState	   *estate = CreateExecutorState();
	ExprContext *econtext = GetPerTupleExprContext(estate);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(partition->desc, &TTSOpsVirtual);
	ExprState  *bounds = ExecPrepareCheck(partition->bounds, estate);
	Datum	   *keys;
	int			n;

	for (int i = 0; i < partition->att->nkeys; i++)
	{
		if (leave_is_bound(partition, partition->att->keys[i].attnum))
			kapture_user_code_check_type(partition->att->keys[i].type);
	}
	deconstruct_array(search->candidates, TEXTOID, -1, false, TYPALIGN_INT, &keys, NULL, &n);
	econtext->ecxt_scantuple = slot;
	for (int i = 0; i < n; i++)
	{
		char	   *key = TextDatumGetCString(keys[i]);
		MemoryContext old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
		bool		within = leave_fill_slot(partition, slot, key) && ExecCheck(bounds, econtext);

		MemoryContextSwitchTo(old);
		ExecClearTuple(slot);
		ResetExprContext(econtext);
		if (within)
			leave_add_key(search, key);
		CHECK_FOR_INTERRUPTS();
	}
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/* Warns that the rows of the partition could not be determined. */
static void
leave_warn(const LeavePartition *partition, int code, const char *reason)
{
	ereport(WARNING,
			(errcode(code),
			 errmsg("could not determine which of the rows that are being sent to Kapture were in partition \"%s\"",
					partition->name),
			 errdetail_internal("%s", reason)));
}

/*
 * The type of a column of the bounds whose values must not be read in the current command, as
 * that runs code of the table's owner, which may take as long as it likes and cannot be
 * cancelled; InvalidOid: there is none.
 */
static Oid
leave_closed_type(const LeavePartition *partition)
{
	const KaptureAttachment *att = partition->att;

	for (int i = 0; i < att->nkeys; i++)
	{
		if (leave_is_bound(partition, att->keys[i].attnum) && kapture_literal_runs_code(att->keys[i].type) &&
			kapture_catalog_owner(att->root) != GetUserId())
			return att->keys[i].type;
	}
	return InvalidOid;
}

static bool
leave_is_empty(ArrayType *keys)
{
	return ArrayGetNItems(ARR_NDIM(keys), ARR_DIMS(keys)) == 0;
}

/*
 * Those of the keys that are within the partition's bounds; none, with a warning, if a key
 * cannot be compared, such as one of a type that the column has no longer.  The user's
 * command does not fail for that.  Functions of the key's types run as the table's owner,
 * and only in commands of that role.
 */
static List *
leave_compare(const LeavePartition *partition, ArrayType *candidates)
{
	LeaveSearch search = {partition, candidates, CurrentMemoryContext};
	ErrorData  *error;

	if (leave_is_empty(candidates))
		return NIL;
	error = kapture_row_run_apart(partition->att, leave_do_compare, &search);
	if (error == NULL)
		return search.found;
	leave_warn(partition, error->sqlerrcode, error->message);
	return NIL;
}

static int
leave_compare_texts(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* Those of "keys" that are not among "others"; sorts both. */
static List *
leave_without(List *keys, List *others)
{
	List	   *result = NIL;
	int			o = 0;
	ListCell   *lc;

	list_sort(keys, leave_compare_texts);
	list_sort(others, leave_compare_texts);
	foreach(lc, keys)
	{
		while (o < list_length(others) && strcmp(list_nth(others, o), lfirst(lc)) < 0)
			o++;
		if (o == list_length(others) || strcmp(list_nth(others, o), lfirst(lc)) != 0)
			result = lappend(result, lfirst(lc));
	}
	return result;
}

/* The rows that were in a partition, by their keys. */
typedef struct LeaveRows
{
	const LeavePartition *partition;
	List	   *keys;			/* of rows for which something was or may be sent */
	List	   *known;			/* of other rows that are gone, and were with Kapture */
} LeaveRows;

static void
leave_do_find(void *arg)
{
	LeaveRows  *rows = arg;
	const LeavePartition *partition = rows->partition;
	ArrayType  *used = leave_keys_in_use(partition->att->id);
	ArrayType  *known = partition->gone ? leave_keys_known(partition) : construct_empty_array(TEXTOID);
	Oid			closed = leave_is_empty(used) && leave_is_empty(known) ? InvalidOid : leave_closed_type(partition);

	if (OidIsValid(closed))
	{
		leave_warn(partition, ERRCODE_INSUFFICIENT_PRIVILEGE,
				   psprintf("Reading values of type %s runs code of role \"%s\", to whom the table belongs.", format_type_be(closed),
							GetUserNameFromId(kapture_catalog_owner(partition->att->root), false)));
		return;
	}
	rows->keys = leave_compare(partition, used);
	rows->known = leave_without(leave_compare(partition, known), rows->keys);
}

/* Finds the rows; a failure, such as more keys than fit into memory, is no error of the user's command. */
static void
leave_find(LeaveRows *rows)
{
	ErrorData  *error = kapture_guard_session_step(leave_do_find, rows);

	if (error == NULL)
		return;
	leave_warn(rows->partition, error->sqlerrcode, error->message);
	FreeErrorData(error);
}

/*
 * Notes that the rows are gone; if the partition may have them again, also as new rows.
 */
static void
leave_note(const LeavePartition *partition)
{
	KaptureAttachment *att = partition->att;
	LeaveRows	rows = {partition};
	CommandId	cid;
	ListCell   *lc;

	kapture_notes_flush();		/* so that what this transaction has captured is found, too */
	leave_find(&rows);
	CommandCounterIncrement();
	cid = GetCurrentCommandId(true);
	foreach(lc, rows.keys)
		kapture_notes_add(att->id, KAPTURE_NOTE_DELETED, att->all_changed, lfirst(lc), NULL, cid, KAPTURE_NOTE_ONLY_ROW);
	foreach(lc, rows.known)
		kapture_notes_add_deleted(att->id, att->all_changed, lfirst(lc), cid, KAPTURE_NOTE_ONLY_ROW, 0);
	if (partition->may_return)
	{
		foreach(lc, rows.keys)
			kapture_notes_add_existing(att->id, att->all_changed, lfirst(lc));
	}
}

/*
 * Called by the trigger of a partition that logical replication has truncated alone, for an
 * attachment of its table.
 */
void
kapture_leave_emptied(Oid relid, int32 attachment_id)
{
	List	   *leaving = NIL;
	ListCell   *lc;

	if (!kapture_catalog_outbox_packs())
		return;
	leave_describe(relid, false, true, &leaving);
	foreach(lc, leaving)
	{
		LeavePartition *partition = lfirst(lc);

		if (partition->att->id == attachment_id)
			leave_note(partition);
	}
}

/*
 * Notes the rows of these partitions.  Called after the command that has taken them out of
 * their table, in its transaction.
 */
void
kapture_leave_follow(List *leaving)
{
	ListCell   *lc;

	if (leaving == NIL)
		return;
	CommandCounterIncrement();
	foreach(lc, leaving)
	{
		LeavePartition *partition = lfirst(lc);

		/* nothing is noted if the attached table or the partition's parent is gone */
		if (OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)) && kapture_catalog_outbox_packs() &&
			get_rel_relkind(partition->att->root) != '\0' && get_rel_relkind(partition->parent) != '\0')
			leave_note(partition);
	}
}
