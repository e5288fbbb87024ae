/*
 * backfill.c
 *		Sends rows of an attached table that have not changed: rows that were there
 *		before, rows that Kapture is to get again, and single rows that a user
 *		names.
 *
 * A backfill takes the rows without an id, a resync those of a condition, a touch
 * one row.  All of them only note the rows, as if they had been changed: the table is
 * not written and none of its triggers fires.  A row that is waiting already is not
 * sent twice, as the waiting changes of a row are sent together.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "api/argument.h"
#include "base/catalog.h"
#include "base/version.h"
#include "manage/run.h"
#include "table/capture.h"
#include "table/row_io.h"
#include "table/row_key.h"

PG_FUNCTION_INFO_V1(kapture_backfill);
PG_FUNCTION_INFO_V1(kapture_backfill_slice);
PG_FUNCTION_INFO_V1(kapture_resync);
PG_FUNCTION_INFO_V1(kapture_touch);

/* Rows that are remembered as touched; further rows are noted each time they are touched. */
#define TOUCH_MAX_REMEMBERED	10000

/* A row that the running transaction has touched. */
typedef struct TouchedRow
{
	uint64		key[2];			/* hashes of the row's key */
	int64		columns;
	int64		attachment_id;
} TouchedRow;

static HTAB *touched_rows = NULL;	/* in TopTransactionContext */

static void
backfill_work(KaptureRun *run, KaptureAttachment *att, List *keys)
{
	List	   *missing = keys;
	ListCell   *lc;

	/* without a column for ids, the slice has all rows */
	if (att->id_column == NULL)
		missing = kapture_row_without_ids(att, keys);
	run->skipped += list_length(keys) - list_length(missing);
	foreach(lc, missing)
		kapture_capture_existing(att, lfirst(lc));
}

/* Notes rows with the fields that are to be sent again, as far as the attachment feeds them. */
static void
resync_work(KaptureRun *run, KaptureAttachment *att, List *keys)
{
	int64		fields = kapture_catalog_fields(run->attachments, att, run->fields);
	ListCell   *lc;

	foreach(lc, fields != 0 ? keys : NIL)
		kapture_capture_again(att, lfirst(lc), fields, run->force);
}

/*
 * kapture_backfill_slice(relation regclass, slice integer, name text) returns integer
 *
 * One step of kapture_backfill(): notes the next rows without an id, and how
 * far it came.  Returns how many rows it noted; fewer than asked for means that
 * it is done.  Errors: those of kapture_attach_find(), 22023 for the size.
 */
Datum
kapture_backfill_slice(PG_FUNCTION_ARGS)
{
	KaptureRun	run = {.activity = KAPTURE_BACKFILL, .name_arg = 2, .work = backfill_work};

	kapture_argument_check_null(fcinfo, 0, "relation");
	kapture_run_check_slice(fcinfo, 1, &run.slice);
	PG_RETURN_INT32(kapture_run_slice(fcinfo, &run));
}

/*
 * kapture_backfill(relation regclass, slice integer, name text), a procedure
 *
 * Errors: those of kapture_run_call(), 22023 for the size.
 */
Datum
kapture_backfill(PG_FUNCTION_ARGS)
{
	KaptureRun	run = {.activity = KAPTURE_BACKFILL, .name = "kapture_backfill", .name_arg = 2, .work = backfill_work};

	run.notice = "are on their way";
	kapture_run_check_slice(fcinfo, 1, &run.slice);
	kapture_run_call(fcinfo, &run);
	PG_RETURN_VOID();
}

/*
 * kapture_resync(relation regclass, condition text, fields text[], slice integer,
 *		force boolean, name text), a procedure
 *
 * Errors: those of kapture_run_call(), of kapture_row_take_condition(), of
 * kapture_catalog_fields(); 22023 for the size.
 */
Datum
kapture_resync(PG_FUNCTION_ARGS)
{
	KaptureRun	run = {.activity = KAPTURE_RESYNC, .name = "kapture_resync", .name_arg = 5, .work = resync_work};

	run.notice = "are on their way";
	if (!PG_ARGISNULL(1))
		run.condition = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(2))
		run.fields = PointerGetDatum(PG_GETARG_ARRAYTYPE_P_COPY(2));
	kapture_run_check_slice(fcinfo, 3, &run.slice);
	kapture_argument_check_null(fcinfo, 4, "force");
	run.force = PG_GETARG_BOOL(4);
	kapture_run_call(fcinfo, &run);
	PG_RETURN_VOID();
}

/* Touched rows are remembered until the transaction ends. */
static void
touch_xact_callback(XactEvent event, void *arg)
{
	touched_rows = NULL;
}

/* A rollback to a savepoint may have undone what was noted, so all touched rows are forgotten. */
static void
touch_subxact_callback(SubXactEvent event, SubTransactionId mySubid, SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && touched_rows)
	{
		hash_destroy(touched_rows);
		touched_rows = NULL;
	}
}

/* Is it the first time that this transaction touches the row?  Remembers it. */
static bool
touch_is_new(int32 attachment_id, const char *row_key, int64 columns)
{
	static bool registered = false;
	int			len = strlen(row_key);
	TouchedRow	row = {
		.key = {hash_bytes_extended((const unsigned char *) row_key, len, 0),
		hash_bytes_extended((const unsigned char *) row_key, len, 1)},
		.columns = columns,.attachment_id = attachment_id
	};
	bool		found;

	if (!registered)
	{
		RegisterXactCallback(touch_xact_callback, NULL);
		RegisterSubXactCallback(touch_subxact_callback, NULL);
		registered = true;
	}
	if (touched_rows == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(TouchedRow), .entrysize = sizeof(TouchedRow), .hcxt = TopTransactionContext};

		touched_rows = hash_create("kapture_sync touched rows", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	(void) hash_search(touched_rows, &row,
					   hash_get_num_entries(touched_rows) < TOUCH_MAX_REMEMBERED ? HASH_ENTER : HASH_FIND, &found);
	return !found;
}

/* Raises 42501 unless the caller may update the relation. */
static void
touch_check_update(Oid relid)
{
	if (pg_class_aclcheck(relid, GetUserId(), ACL_UPDATE) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(relid)), get_rel_name(relid));
}

/* The attachments of a relation that the caller may update, except those without a primary key. */
static List *
touch_find(Oid relid)
{
	Relation	rel = kapture_argument_open(relid, AccessShareLock, touch_check_update);
	List	   *attachments = kapture_catalog_attachments(rel);
	ListCell   *lc;

	if (attachments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not attached to Kapture", RelationGetRelationName(rel)),
				 errhint("Use kapture_attach() to have its rows sent.")));
	foreach(lc, attachments)
	{
		if (((KaptureAttachment *) lfirst(lc))->nkeys == 0)
			attachments = foreach_delete_current(attachments, lc);
	}
	if (attachments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key any more", RelationGetRelationName(rel)),
				 errhint("Add a primary key, or use kapture_detach().")));
	relation_close(rel, NoLock);
	return attachments;
}

/*
 * kapture_touch(relation regclass, row_key text or of any other type, fields text[]) returns void
 *
 * For whoever may update the table.  Errors: 22004 relation or row_key is NULL, 42P01
 * no such relation, 42501 no right to update it, 42704 not attached, or a field that
 * it does not feed, those of kapture_row_key() for what is no key, 55000 the
 * extension is to be updated first, or the table has no primary key, 25006 the
 * transaction is read-only, 25000 in a parallel plan.
 */
Datum
kapture_touch(PG_FUNCTION_ARGS)
{
	List	   *attachments;
	Datum		fields = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	char	   *key;
	ListCell   *lc;

	kapture_argument_check_null(fcinfo, 0, "relation");
	kapture_argument_check_null(fcinfo, 1, "row_key");
	PreventCommandIfReadOnly("kapture_touch()");
	PreventCommandDuringRecovery("kapture_touch()");
	PreventCommandIfParallelMode("kapture_touch()");	/* the note would be lost with the parallel worker */
	kapture_version_require();
	attachments = touch_find(PG_GETARG_OID(0));
	key = kapture_row_key(linitial(attachments), kapture_argument_key(fcinfo, 1));
	foreach(lc, attachments)
	{
		KaptureAttachment *att = lfirst(lc);
		int64		columns = kapture_catalog_fields(attachments, att, fields);

		if (columns != 0 && touch_is_new(att->id, key, columns))
			kapture_capture_again(att, key, columns, false);
	}
	PG_RETURN_VOID();
}
