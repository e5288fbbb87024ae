/*
 * follow_capture.c
 *		The trigger of tables that are followed.
 *
 * It notes the values of the columns that a condition reads, before and after a change,
 * in the outbox, packed with others; which rows of the attached table they concern is
 * found by the worker after the commit.  So a change that concerns a million rows costs
 * one note.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "follow/follow_capture.h"
#include "table/capture_buffer.h"

PG_FUNCTION_INFO_V1(kapture_followed);

/* One that follows a table. */
typedef struct Follower
{
	int32		id;
	List	   *values;			/* numbers of the columns that the condition reads */
	bool		watches_all;
	List	   *watches;		/* numbers of the columns that matter */
} Follower;

/* What a table's trigger needs to know. */
typedef struct FollowedTable
{
	Oid			relid;			/* hash key */
	bool		valid;
	MemoryContext context;
	List	   *followers;		/* of Follower */
} FollowedTable;

static HTAB *followed_tables = NULL;
static Oid	followed_follows = InvalidOid;	/* the table of follows */

static void
followed_relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	FollowedTable *table;

	hash_seq_init(&status, followed_tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relid) || relid == table->relid || relid == followed_follows)
			table->valid = false;
	}
}

static void
followed_initialize(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(FollowedTable)};

	followed_tables = hash_create("kapture_sync followed tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(followed_relcache_callback, (Datum) 0);
}

/* The numbers in "rel" of columns whose names are an array; those that are gone are left out. */
static List *
followed_columns(Datum names, Relation rel)
{
	List	   *result = NIL;
	Datum	   *elems;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(names), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &elems, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		AttrNumber	attnum = get_attnum(RelationGetRelid(rel), NameStr(*DatumGetName(elems[i])));

		/* its place among the values is kept */
		result = lappend_int(result, attnum);
	}
	return result;
}

/* Reads who follows a table, or one that it is a partition of. */
static List *
followed_read(Relation rel)
{
	List	   *relids = list_make1_oid(RelationGetRelid(rel));
	List	   *followers = NIL;
	Relation	follows = table_open(kapture_catalog_relid(KAPTURE_TABLE_FOLLOW), AccessShareLock);
	SysScanDesc scan = systable_beginscan(follows, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	if (rel->rd_rel->relispartition)
		relids = list_concat(relids, get_partition_ancestors(RelationGetRelid(rel)));
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Follower   *follower;
		bool		isnull;
		Datum		watches;

		if (!list_member_oid(relids, DatumGetObjectId(kapture_catalog_getattr(tuple, follows, 2))))
			continue;
		follower = palloc(sizeof(Follower));
		follower->id = DatumGetInt32(kapture_catalog_getattr(tuple, follows, 1));
		follower->values = followed_columns(kapture_catalog_getattr(tuple, follows, 5), rel);
		watches = heap_getattr(tuple, 6, RelationGetDescr(follows), &isnull);
		follower->watches_all = isnull;
		follower->watches = isnull ? NIL : followed_columns(watches, rel);
		followers = lappend(followers, follower);
	}
	systable_endscan(scan);
	table_close(follows, AccessShareLock);
	return followers;
}

static FollowedTable *
followed_table(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	bool		found;
	FollowedTable *table = hash_search(followed_tables, &relid, HASH_ENTER, &found);
	MemoryContext old;

	if (found && table->valid)
		return table;
	if (found && table->context)
		MemoryContextDelete(table->context);
	table->context = NULL;
	table->followers = NIL;
	table->context = AllocSetContextCreate(CacheMemoryContext, "kapture_sync followed table", ALLOCSET_SMALL_SIZES);
	table->valid = true;		/* unless we are told otherwise while it is read */
	followed_follows = kapture_catalog_relid(KAPTURE_TABLE_FOLLOW);
	if (OidIsValid(followed_follows))
	{
		old = MemoryContextSwitchTo(table->context);
		table->followers = followed_read(rel);
		MemoryContextSwitchTo(old);
	}
	return table;
}

/* The values that a condition reads of a row, as the text of an array. */
static char *
followed_values(const Follower *follower, Relation rel, TupleTableSlot *slot)
{
	int			n = list_length(follower->values);
	Datum	   *elems = palloc(sizeof(Datum) * (n + 1));
	bool	   *nulls = palloc(sizeof(bool) * (n + 1));
	int			lbs[1] = {1};
	int			nestlevel;
	char	   *result;

	if (n == 0)
		return pstrdup("{}");
	nestlevel = kapture_catalog_text_settings();
	for (int i = 0; i < n; i++)
	{
		AttrNumber	attnum = list_nth_int(follower->values, i);
		Datum		value = (Datum) 0;
		Oid			output;
		bool		varlena;

		nulls[i] = true;
		if (attnum > 0)
			value = slot_getattr(slot, attnum, &nulls[i]);
		if (nulls[i])
			continue;
		getTypeOutputInfo(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid, &output, &varlena);
		elems[i] = CStringGetTextDatum(OidOutputFunctionCall(output, value));
	}
	result = OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(construct_md_array(elems, nulls, 1, &n, lbs, TEXTOID, -1,
																				  false, TYPALIGN_INT)));
	AtEOXact_GUC(true, nestlevel);
	return result;
}

/* Has an UPDATE changed a column that matters? */
static bool
followed_differs(const Follower *follower, TriggerData *trigdata)
{
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);

	for (AttrNumber attnum = 1; attnum <= desc->natts; attnum++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, attnum - 1);
		bool		was_null;
		bool		is_null;
		Datum		was;
		Datum		is;

		if (attr->attisdropped || (!follower->watches_all && !list_member_int(follower->watches, attnum)))
			continue;
		was = slot_getattr(trigdata->tg_trigslot, attnum, &was_null);
		is = slot_getattr(trigdata->tg_newslot, attnum, &is_null);
		if (was_null != is_null || (!is_null && !datum_image_eq(was, is, attr->attbyval, attr->attlen)))
			return true;
	}
	return false;
}

static void
followed_note(const Follower *follower, const char *values)
{
	kapture_notes_add_changed(KAPTURE_FOLLOW_NOTE(follower->id), 0, values);
}

/* Notes what a change means for one that follows. */
static void
followed_capture(const Follower *follower, TriggerData *trigdata)
{
	Relation	rel = trigdata->tg_relation;
	char	   *values;
	char	   *now;

	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
	{
		followed_note(follower, KAPTURE_FOLLOW_ALL);
		return;
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) && !followed_differs(follower, trigdata))
		return;
	values = followed_values(follower, rel, trigdata->tg_trigslot);
	followed_note(follower, values);
	if (!TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		return;
	now = followed_values(follower, rel, trigdata->tg_newslot);
	if (strcmp(values, now) != 0)
		followed_note(follower, now);
}

/*
 * kapture_followed() returns trigger
 *
 * AFTER ROW trigger of followed tables, and AFTER TRUNCATE.  Does nothing for a table
 * that nobody follows any more.
 */
Datum
kapture_followed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	FollowedTable *table;
	ListCell   *lc;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		(!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) && !TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called as an AFTER ROW trigger", "kapture_followed"),
				 errhint("Use kapture_follow() to create the triggers of a table.")));
	if (!kapture_capture_enabled)
		return PointerGetDatum(NULL);
	if (followed_tables == NULL)
		followed_initialize();
	table = followed_table(trigdata->tg_relation);
	foreach(lc, table->followers)
		followed_capture(lfirst(lc), trigdata);
	return PointerGetDatum(NULL);
}
