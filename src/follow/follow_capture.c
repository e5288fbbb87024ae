/*
 * follow_capture.c
 *		The trigger of tables that are followed.
 *
 * It notes in the outbox, packed with others, the values that the columns of a condition
 * had before and after a change.  After the commit, the worker finds the rows of the
 * attached table that they concern.  So a change that concerns a million rows costs one
 * note.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
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
#include "table/caches.h"
#include "table/capture_buffer.h"

PG_FUNCTION_INFO_V1(kapture_followed);

/* Bytes of values that are noted of a row, at most: the worker has many of them in memory at a time. */
#define FOLLOWED_MAX_BYTES	2000

/* A column whose values are noted. */
typedef struct FollowedValue
{
	AttrNumber	attnum;			/* InvalidAttrNumber: the column is gone */
	FmgrInfo	output;
} FollowedValue;

/* A follow of a table. */
typedef struct Follower
{
	int32		id;
	int			nvalues;
	FollowedValue *values;		/* columns that the condition reads */
	bool		simple;			/* their texts need neither settings nor quotes */
	bool		replicated;		/* changes that replication applies matter, too */
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
static uint64 followed_changes = 0; /* relcache invalidations that this process has received */
static Oid	followed_follows = InvalidOid;	/* the table of follows, */
static Oid	followed_attachments = InvalidOid;	/* and that of attachments */

static void
followed_relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	FollowedTable *table;

	followed_changes++;
	hash_seq_init(&status, followed_tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (!OidIsValid(relid) || relid == table->relid || relid == followed_follows || relid == followed_attachments)
			table->valid = false;
	}
}

/* Frees what is cached of tables. */
static void
followed_forget(void)
{
	HASH_SEQ_STATUS status;
	FollowedTable *table;

	hash_seq_init(&status, followed_tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (table->context)
			MemoryContextDelete(table->context);
		(void) hash_search(followed_tables, &table->relid, HASH_REMOVE, NULL);
	}
}

static void
followed_initialize(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(FollowedTable)};

	followed_tables = hash_create("kapture_sync followed tables", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(followed_relcache_callback, (Datum) 0);
	kapture_caches_register(followed_forget);
}

/* The numbers in "rel" of the columns whose names are in an array; InvalidAttrNumber for those that are gone. */
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

		/* also of a column that is gone, which keeps its place among the values */
		result = lappend_int(result, attnum);
	}
	return result;
}

/* Is the text of a type's values the same in all settings, and free of characters that an array quotes? */
static bool
followed_type_is_simple(Oid type)
{
	return type == INT2OID || type == INT4OID || type == INT8OID || type == OIDOID || type == UUIDOID || type == BOOLOID;
}

/* Fills in which columns' values are noted, and how. */
static void
followed_read_values(Follower *follower, List *attnums, Relation rel)
{
	ListCell   *lc;

	follower->nvalues = 0;
	follower->simple = true;
	follower->values = palloc0(sizeof(FollowedValue) * (list_length(attnums) + 1));
	foreach(lc, attnums)
	{
		FollowedValue *column = &follower->values[follower->nvalues++];
		Oid			type;
		Oid			output;
		bool		varlena;

		column->attnum = lfirst_int(lc);
		follower->simple &= column->attnum > 0;
		if (column->attnum <= 0)
			continue;
		type = TupleDescAttr(RelationGetDescr(rel), column->attnum - 1)->atttypid;
		follower->simple &= followed_type_is_simple(type);
		getTypeOutputInfo(type, &output, &varlena);
		fmgr_info_cxt(output, &column->output, CurrentMemoryContext);
	}
}

/* Returns the tables of which an attachment captures changes that replication applies. */
static List *
followed_replicated(void)
{
	Relation	attachments = table_open(followed_attachments, AccessShareLock);
	AttrNumber	relation = get_attnum(followed_attachments, "relation");
	AttrNumber	replicated = get_attnum(followed_attachments, "replicated");
	SysScanDesc scan = systable_beginscan(attachments, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;
	List	   *result = NIL;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (DatumGetBool(kapture_catalog_getattr(tuple, attachments, replicated)))
			result = lappend_oid(result, DatumGetObjectId(kapture_catalog_getattr(tuple, attachments, relation)));
	}
	systable_endscan(scan);
	table_close(attachments, AccessShareLock);
	return result;
}

/* Reads the follows of a table, and of those that it is a partition of. */
static List *
followed_read(Relation rel)
{
	List	   *relids = list_make1_oid(RelationGetRelid(rel));
	List	   *followers = NIL;
	Relation	follows = table_open(kapture_catalog_relid(KAPTURE_TABLE_FOLLOW), AccessShareLock);
	SysScanDesc scan = systable_beginscan(follows, InvalidOid, false, NULL, 0, NULL);
	List	   *replicated = NIL;
	bool		is_read = false;	/* "replicated" is */
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
		/* thousands of tables may be attached, and many of them may follow this one */
		if (!is_read)
			replicated = followed_replicated();
		is_read = true;
		follower->replicated = list_member_oid(replicated, DatumGetObjectId(kapture_catalog_getattr(tuple, follows, 3)));
		followed_read_values(follower, followed_columns(kapture_catalog_getattr(tuple, follows, 5), rel), rel);
		watches = heap_getattr(tuple, 6, RelationGetDescr(follows), &isnull);
		follower->watches_all = isnull;
		follower->watches = isnull ? NIL : followed_columns(watches, rel);
		followers = lappend(followers, follower);
	}
	systable_endscan(scan);
	table_close(follows, AccessShareLock);
	list_free(replicated);
	return followers;
}

static FollowedTable *
followed_table(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	bool		found;
	FollowedTable *table = hash_search(followed_tables, &relid, HASH_ENTER, &found);
	uint64		changes = followed_changes;
	MemoryContext old;

	if (found && table->valid)
		return table;
	if (found && table->context)
		MemoryContextDelete(table->context);
	table->valid = false;
	table->context = NULL;
	table->followers = NIL;
	table->context = AllocSetContextCreate(CacheMemoryContext, "kapture_sync followed table", ALLOCSET_SMALL_SIZES);
	followed_follows = kapture_catalog_relid(KAPTURE_TABLE_FOLLOW);
	followed_attachments = kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT);
	if (OidIsValid(followed_follows))
	{
		old = MemoryContextSwitchTo(table->context);
		table->followers = followed_read(rel);
		MemoryContextSwitchTo(old);
	}
	/* the table is read again after an error, and if an invalidation came meanwhile */
	table->valid = changes == followed_changes;
	return table;
}

/* The values that a condition reads of a row, as the text of an array; for all types. */
static char *
followed_any_values(const Follower *follower, TupleTableSlot *slot)
{
	int			n = follower->nvalues;
	Datum	   *elems = palloc(sizeof(Datum) * n);
	bool	   *nulls = palloc(sizeof(bool) * n);
	int			lbs[1] = {1};
	int			nestlevel = kapture_catalog_text_settings();
	char	   *result;

	for (int i = 0; i < n; i++)
	{
		FollowedValue *column = &follower->values[i];
		Datum		value = (Datum) 0;

		nulls[i] = true;
		if (column->attnum > 0)
			value = slot_getattr(slot, column->attnum, &nulls[i]);
		if (!nulls[i])
			elems[i] = CStringGetTextDatum(OutputFunctionCall(&column->output, value));
	}
	result = OidOutputFunctionCall(F_ARRAY_OUT, PointerGetDatum(construct_md_array(elems, nulls, 1, &n, lbs, TEXTOID, -1,
																				  false, TYPALIGN_INT)));
	AtEOXact_GUC(true, nestlevel);
	return result;
}

/*
 * The values that a condition reads of a row, as the text of an array; cheap for values
 * that need no quotes, such as numbers.
 */
static char *
followed_values(const Follower *follower, TupleTableSlot *slot)
{
	StringInfoData text;

	if (follower->nvalues > 0 && !follower->simple)
		return followed_any_values(follower, slot);
	initStringInfo(&text);
	appendStringInfoChar(&text, '{');
	for (int i = 0; i < follower->nvalues; i++)
	{
		FollowedValue *column = &follower->values[i];
		bool		isnull;
		Datum		value = slot_getattr(slot, column->attnum, &isnull);

		if (i > 0)
			appendStringInfoChar(&text, ',');
		appendStringInfoString(&text, isnull ? "NULL" : OutputFunctionCall(&column->output, value));
	}
	appendStringInfoChar(&text, '}');
	return text.data;
}

/* Has an UPDATE changed a column? */
static bool
followed_column_differs(TriggerData *trigdata, AttrNumber attnum)
{
	Form_pg_attribute attr = TupleDescAttr(RelationGetDescr(trigdata->tg_relation), attnum - 1);
	bool		was_null;
	bool		is_null;
	Datum		was;
	Datum		is;

	if (attr->attisdropped)
		return false;
	was = slot_getattr(trigdata->tg_trigslot, attnum, &was_null);
	is = slot_getattr(trigdata->tg_newslot, attnum, &is_null);
	return was_null != is_null || (!is_null && !datum_image_eq(was, is, attr->attbyval, attr->attlen));
}

/* Has an UPDATE changed a column that matters? */
static bool
followed_differs(const Follower *follower, TriggerData *trigdata)
{
	ListCell   *lc;

	for (AttrNumber attnum = 1; follower->watches_all && attnum <= RelationGetDescr(trigdata->tg_relation)->natts; attnum++)
	{
		if (followed_column_differs(trigdata, attnum))
			return true;
	}
	foreach(lc, follower->watches)
	{
		if (lfirst_int(lc) > 0 && followed_column_differs(trigdata, lfirst_int(lc)))
			return true;
	}
	return false;
}

/* Has an UPDATE changed a column that the condition reads? */
static bool
followed_values_differ(const Follower *follower, TriggerData *trigdata)
{
	for (int i = 0; i < follower->nvalues; i++)
	{
		if (follower->values[i].attnum > 0 && followed_column_differs(trigdata, follower->values[i].attnum))
			return true;
	}
	return false;
}

/* Notes values of a row; if they are too long, that all rows of the attached table may be concerned. */
static void
followed_note(const Follower *follower, const char *values)
{
	kapture_notes_add_changed(KAPTURE_FOLLOW_NOTE(follower->id), 0,
							  strlen(values) > FOLLOWED_MAX_BYTES ? KAPTURE_FOLLOW_ALL : values);
}

/* Notes a change for one follow. */
static void
followed_capture(const Follower *follower, TriggerData *trigdata)
{
	if (TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event))
	{
		followed_note(follower, KAPTURE_FOLLOW_ALL);
		return;
	}
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) && !followed_differs(follower, trigdata))
		return;
	followed_note(follower, followed_values(follower, trigdata->tg_trigslot));
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) && followed_values_differ(follower, trigdata))
		followed_note(follower, followed_values(follower, trigdata->tg_newslot));
}

/* Returns a table's cached description, from which its trigger knows what to note. */
static FollowedTable *
followed_find_table(Relation rel)
{
	if (followed_tables == NULL)
		followed_initialize();
	return followed_table(rel);
}

/* Do changes that this session makes matter to a follow? */
static bool
followed_matters(const Follower *follower)
{
	return follower->replicated || SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA;
}

/*
 * To be called when a partition's rows have come to a table or left it, together with the partition:
 * if the table is followed, all rows of the attached table may be concerned.
 */
void
kapture_followed_rows_moved(Oid relid)
{
	Relation	rel;
	ListCell   *lc;

	if (!OidIsValid(relid) || !kapture_capture_enabled || !OidIsValid(kapture_catalog_relid(KAPTURE_TABLE_FOLLOW)))
		return;
	rel = try_relation_open(relid, AccessShareLock);
	if (rel == NULL)
		return;
	foreach(lc, followed_find_table(rel)->followers)
	{
		if (followed_matters(lfirst(lc)))
			followed_note(lfirst(lc), KAPTURE_FOLLOW_ALL);
	}
	relation_close(rel, NoLock);
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
	ListCell   *lc;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		(!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) && !TRIGGER_FIRED_BY_TRUNCATE(trigdata->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called as an AFTER ROW trigger", "kapture_followed"),
				 errhint("Use kapture_follow() to create the triggers of a table.")));
	if (!kapture_capture_enabled)
		return PointerGetDatum(NULL);
	foreach(lc, followed_find_table(trigdata->tg_relation)->followers)
	{
		if (followed_matters(lfirst(lc)))
			followed_capture(lfirst(lc), trigdata);
	}
	return PointerGetDatum(NULL);
}
