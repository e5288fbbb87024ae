/*
 * row_id.c
 *		kapture_id(), kapture_forget_id(): which customer of Kapture's a row is, and
 *		that it is none.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "api/argument.h"
#include "base/bounded_key.h"
#include "base/lock.h"
#include "base/owner_sql.h"
#include "known/row_state.h"
#include "queue/inbox.h"
#include "table/attach.h"
#include "table/attach_find.h"
#include "table/row_io.h"
#include "table/row_key.h"
#include "table/row_sql.h"

PG_FUNCTION_INFO_V1(kapture_id);
PG_FUNCTION_INFO_V1(kapture_forget_id);

/* How the entry of the row $2 of attachment $1 is found, by the key alone; see row_state.c. */
#define ROW_ID_IS_ROW \
	" WHERE " KAPTURE_KEY_IS("row_key", "$2") " AND attachment_id + 0 = $1"

/*
 * Was a row with this key deleted, or given another key, and the worker has not followed that
 * yet?  Then what is kept under the key is about that row.
 */
static bool
row_id_is_moving(const KaptureAttachment *att, char *row_key)
{
	return att->id_column == NULL && kapture_inbox_moving_keys(att->id, list_make1(row_key)) != NIL;
}

/*
 * kapture_id(relation regclass, row_key text or of any other type, name text) returns bigint
 *
 * For the owner of the table.  NULL: the row has no customer yet, or there is no such
 * row.  Errors: those of kapture_attach_find() and kapture_row_key(); 22000 the row
 * cannot be read.
 */
Datum
kapture_id(PG_FUNCTION_ARGS)
{
	KaptureAttachment *att = kapture_attach_find(fcinfo, 2, AccessShareLock);
	KaptureRow	row = {.context = CurrentMemoryContext};

	kapture_argument_check_null(fcinfo, 1, "row_key");
	row.row_key = kapture_row_key(att, kapture_argument_key(fcinfo, 1));
	kapture_row_read(att, NULL, list_make1(&row), NULL);
	if (row.outcome == KAPTURE_ROW_FAILED)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_EXCEPTION),
				 errmsg("could not read the row with key \"%s\"", row.row_key),
				 errdetail_internal("%s", row.error)));
	if (row.outcome != KAPTURE_ROW_DONE || row.customer_id == 0 || row_id_is_moving(att, unconstify(char *, row.row_key)))
		PG_RETURN_NULL();
	PG_RETURN_INT64(row.customer_id);
}

/* Refuses to forget ids of a table that has them in a column. */
static void
row_id_check_kept(const KaptureAttachment *att)
{
	if (att->id_column == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("ids of table %s are in its column \"%s\"", kapture_catalog_title(att), att->id_column),
			 errdetail("The extension keeps ids only for tables that are attached with id_column => NULL."),
			 errhint("Use UPDATE %s SET %s = NULL for that row.", kapture_row_relation_name(att->root), quote_identifier(att->id_column))));
}

/*
 * Refuses to forget the id of a row while the answer to a request may bring it back.  The
 * lock waits for a worker that is just taking up changes, and lets none begin.
 */
static void
row_id_check_idle(const KaptureAttachment *att, Oid *types, Datum *values)
{
	(void) kapture_lock_attachment(att->id, ExclusiveLock, true);
	if (kapture_own_text("SELECT 1 FROM @.kapture_delivery" ROW_ID_IS_ROW " AND state = 'sending'", 2, types, values) == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_IN_USE),
			 errmsg("a request for the row with key \"%s\" is in flight", TextDatumGetCString(values[1])),
			 errdetail("Its answer may be about the customer whose id is to be forgotten."),
			 errhint("Try again when it is answered; the view kapture_status shows what is in flight.")));
}

/* Has rows tried again that are parked because the row has this customer. */
static void
row_id_release(void *arg)
{
	(void) kapture_row_state_release(arg, 1);
}

/*
 * kapture_forget_id(relation regclass, row_key text or of any other type, name text) returns bigint
 *
 * For the owner of the table, whose ids the extension keeps.  Returns the id that the row
 * had, NULL if it had none.  Errors: those of kapture_attach_find() and
 * kapture_row_key(); 55000 the table has a column for ids, 55006 a request for the row
 * is in flight.
 */
Datum
kapture_forget_id(PG_FUNCTION_ARGS)
{
	KaptureAttachment *att = kapture_attach_find(fcinfo, 2, AccessShareLock);
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2];
	KaptureCustomer customer = {.attachment_id = att->id};
	char	   *row_key;
	char	   *id;

	kapture_argument_check_null(fcinfo, 1, "row_key");
	row_id_check_kept(att);
	row_key = kapture_row_key(att, kapture_argument_key(fcinfo, 1));
	values[0] = Int32GetDatum(att->id);
	values[1] = CStringGetTextDatum(row_key);
	row_id_check_idle(att, types, values);
	if (row_id_is_moving(att, row_key))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("what is kept for key \"%s\" is about a row that was deleted, or has another key now", row_key),
				 errdetail("The worker has not taken up that change yet."),
				 errhint("Try again when it has; if the table is paused, use kapture_resume().")));
	/* one that has just come is with the delivery */
	id = kapture_own_text("SELECT coalesce((SELECT customer_id FROM @.kapture_row" ROW_ID_IS_ROW " AND gone_at IS NULL),"
						  " (SELECT customer_id FROM @.kapture_delivery" ROW_ID_IS_ROW "))", 2, types, values);
	if (id == NULL)
	{
		ereport(NOTICE,
				(errmsg("the row with key \"%s\" has no id of a customer", row_key)));
		PG_RETURN_NULL();
	}
	(void) kapture_own_execute("DELETE FROM @.kapture_row" ROW_ID_IS_ROW " AND gone_at IS NULL", 2, types, values);
	(void) kapture_own_execute("UPDATE @.kapture_delivery SET customer_id = NULL" ROW_ID_IS_ROW " AND customer_id IS NOT NULL",
							   2, types, values);
	customer.id = pg_strtoint64(id);
	kapture_own_run(row_id_release, &customer);
	kapture_attach_announce();
	PG_RETURN_INT64(customer.id);
}
