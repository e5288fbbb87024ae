/*
 * preview.c
 *		kapture_preview(): the request that a row would be sent with now.
 *
 * The row is handled as the worker does it: it is read as its owner and planned by
 * task.c; api/http.c describes the request.  Nothing is claimed and nothing is sent.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "api/argument.h"
#include "api/hint.h"
#include "base/bounded_key.h"
#include "base/owner_sql.h"
#include "known/digest.h"
#include "push/task.h"
#include "table/attach_find.h"
#include "table/row_key.h"

PG_FUNCTION_INFO_V1(kapture_preview);

/* Condition: the entry "c" of kapture_outbox is about the row, perhaps among others. */
#define PREVIEW_ENTRY \
	"c.attachment_id = $1 AND (c.row_key = $2 OR $2 OPERATOR(pg_catalog.=) ANY (c.more_keys))"

/* An expression over the row's entry in kapture_delivery, as text; NULL if there is none. */
static char *
preview_queued(KaptureDelivery *delivery, const char *value)
{
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(delivery->attachment_id), CStringGetTextDatum(delivery->row_key)};

	return kapture_own_text(psprintf("SELECT (%s)::text FROM @.kapture_delivery"
									 " WHERE attachment_id + 0 = $1 AND " KAPTURE_KEY_IS("row_key", "$2"), value),
							2, types, values);
}

/*
 * May an Add of what waits for the row have been sent already, by the original
 * of this database or before it was restored?  As the worker sees it, or would
 * after kapture_resume().
 */
static bool
preview_is_in_doubt(KaptureDelivery *delivery)
{
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(delivery->attachment_id), CStringGetTextDatum(delivery->row_key)};

	return kapture_own_text("SELECT 1 FROM @.kapture_origin AS o"
							" WHERE NOT @.kapture_is_origin(o.system_identifier, o.database)"
							" OR EXISTS (SELECT FROM @.kapture_outbox AS c"
							" WHERE " PREVIEW_ENTRY " AND c.captured_at <= o.doubt_until"
							" AND NOT EXISTS (SELECT FROM @.kapture_delivery AS d"
							" WHERE d.attachment_id + 0 = $1 AND " KAPTURE_KEY_IS("d.row_key", "$2") "))",
							2, types, values) != NULL;
}

/*
 * Fills in what waits for the row.  Returns false if nothing does.  *captured:
 * there are changes that the worker has not taken up yet.
 */
static bool
preview_read_queue(KaptureDelivery *delivery, bool *captured)
{
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(delivery->attachment_id), CStringGetTextDatum(delivery->row_key)};
	char	   *changed = kapture_own_text("SELECT pg_catalog.bit_or(c.changed)::text FROM @.kapture_outbox AS c"
										   " WHERE " PREVIEW_ENTRY,
										   2, types, values);
	char	   *claimed = preview_queued(delivery, "changed | coalesce(again, 0)");
	char	   *id = preview_queued(delivery, "customer_id");

	if (changed)
		delivery->changed |= pg_strtoint64(changed);
	if (claimed)
		delivery->changed |= pg_strtoint64(claimed);
	if (id)
		delivery->customer_id = pg_strtoint64(id);
	delivery->sent_phone = preview_queued(delivery, "CASE WHEN in_doubt IS NOT NULL THEN sent_phone END");
	delivery->sent_email = preview_queued(delivery, "CASE WHEN in_doubt IS NOT NULL THEN sent_email END");
	delivery->sent_code = preview_queued(delivery, "CASE WHEN in_doubt IS NOT NULL THEN sent_code END");
	*captured = changed != NULL;
	return changed || claimed;
}

/* Fills in what Kapture is known to have of the row already. */
static void
preview_read_digests(KaptureDelivery *delivery)
{
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(delivery->attachment_id), CStringGetTextDatum(delivery->row_key)};
	char	   *digests = kapture_own_text("SELECT r.digests FROM @.kapture_row AS r WHERE " KAPTURE_KEY_IS("r.row_key", "$2")
										   " AND r.attachment_id + 0 = $1 AND r.gone_at IS NULL"
										   " AND NOT EXISTS (SELECT FROM @.kapture_written AS w"
										   " JOIN @.kapture_attachment AS a ON a.attachment_id = $1 AND a.server_oid = w.server_oid"
										   " WHERE w.customer_id = r.customer_id)",
										   2, types, values);

	kapture_digest_load_key();
	if (digests)
		delivery->digests = DatumGetByteaPP(DirectFunctionCall1(byteain, CStringGetDatum(digests)));
}

/*
 * For a row that does not exist any more: its deletion is reported if the row had a customer
 * and the table has on_delete.  Fills in the customer, and *waiting.  Returns false if there
 * is nothing to report.
 */
static bool
preview_read_deleted(const KaptureAttachment *att, KaptureDelivery *delivery, bool *waiting)
{
	Oid			types[2] = {INT4OID, TEXTOID};
	Datum		values[2] = {Int32GetDatum(att->id), CStringGetTextDatum(delivery->row_key)};
	char	   *id;

	if (att->on_delete == NIL)
		return false;
	id = kapture_own_text("SELECT customer_id FROM @.kapture_delivery"
						  " WHERE attachment_id = $1 AND row_key IS NULL AND old_key = $2 ORDER BY delivery_id DESC LIMIT 1",
						  2, types, values);
	if (id == NULL)
		id = kapture_own_text("SELECT c.customer_ids[pg_catalog.array_position(c.row_key || c.more_keys, $2)]"
							  " FROM @.kapture_outbox AS c WHERE c.op = 'd' AND " PREVIEW_ENTRY
							  " ORDER BY c.xact DESC, c.seq DESC LIMIT 1", 2, types, values);
	*waiting |= id != NULL;
	if (id == NULL)
		id = kapture_own_text("SELECT r.customer_id FROM @.kapture_row AS r WHERE " KAPTURE_KEY_IS("r.row_key", "$2")
							  " AND r.attachment_id + 0 = $1 ORDER BY r.gone_at DESC LIMIT 1", 2, types, values);
	delivery->customer_id = id ? pg_strtoint64(id) : 0;
	delivery->gone = delivery->customer_id != 0;
	return delivery->gone;
}

/* Raises an error unless the row could be read. */
static void
preview_check_row(Oid relid, const KaptureRow *row)
{
	switch (row->outcome)
	{
		case KAPTURE_ROW_DONE:
			break;
		case KAPTURE_ROW_GONE:
			ereport(ERROR,
					(errcode(ERRCODE_NO_DATA_FOUND),
					 errmsg("there is no row with key \"%s\"", row->row_key),
					 errhint("Give the primary key as text, as kapture_failures shows it; several columns as an array.")));
			break;
		case KAPTURE_ROW_LOCKED:
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not read the row with key \"%s\"", row->row_key),
					 errdetail("Table \"%s\" or a partition of it is locked.", get_rel_name(relid)),
					 errhint("pg_locks shows who holds the lock.")));
			break;
		case KAPTURE_ROW_FAILED:
			ereport(ERROR,
					(errcode(ERRCODE_DATA_EXCEPTION),
					 errmsg("could not read the row with key \"%s\"", row->row_key),
					 errdetail_internal("%s", row->error)));
			break;
	}
}

/* Reports why the request that is shown is not sent just now, though it waits. */
static void
preview_say_state(KaptureDelivery *delivery, bool captured)
{
	char	   *state = preview_queued(delivery, "state");
	char	   *over = preview_queued(delivery, "CASE WHEN state = 'retry' AND in_doubt > now() THEN in_doubt END");

	if (state && strcmp(state, "sending") == 0)
		ereport(NOTICE,
				(errmsg("a request for the row with key \"%s\" is in flight", delivery->row_key),
				 errdetail("What is shown would be sent if it were not.")));
	else if (over)
		ereport(NOTICE,
				(errmsg("an earlier request for the row with key \"%s\", which was not answered, may still be running", delivery->row_key),
				 errdetail("Nothing is sent for the row before %s.", over)));
	else if (state && strcmp(state, "parked") == 0 && !captured)
		ereport(NOTICE,
				(errmsg("the row with key \"%s\" is parked", delivery->row_key),
				 errhint("It is sent when it changes, or after kapture_retry().")));
}

/* Puts the request of a planned task into the result. */
static void
preview_put(ReturnSetInfo *rsinfo, KaptureTask *task, const KaptureServer *server, bool waiting)
{
	KaptureApi	api = kapture_task_api(task);
	List	   *lines = kapture_http_describe(server, api);
	Datum	   *elems = palloc(sizeof(Datum) * list_length(lines));
	int			n = 0;
	ListCell   *lc;
	Datum		values[5];
	bool		nulls[5] = {0};

	foreach(lc, lines)
		elems[n++] = CStringGetTextDatum(lfirst(lc));
	kapture_task_wrap(task, server);
	values[0] = BoolGetDatum(waiting);
	values[1] = CStringGetTextDatum(kapture_api_name(api));
	values[2] = CStringGetTextDatum(server->url[api]);
	values[3] = PointerGetDatum(construct_array(elems, n, TEXTOID, -1, false, TYPALIGN_INT));
	values[4] = CStringGetTextDatum(pg_any_to_server(task->body, task->body_len, PG_UTF8));
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* Reports that nothing would be sent, and why, if there is a reason. */
static void
preview_say_nothing(const KaptureTask *task)
{
	const char *error = task->state == KAPTURE_TASK_FAILED ? task->failed.error : NULL;
	const char *hint = error ? kapture_hint_find(error, 0, "") : NULL;

	ereport(NOTICE,
			(errmsg("nothing would be sent for the row with key \"%s\"", task->delivery->row_key),
			 error ? errdetail_internal("%s", error) :
			 task->delivery->row.outside ? errdetail("The filter leaves it out.") : 0,
			 hint ? errhint("What to do: %s.", hint) : 0));
}

/*
 * kapture_preview(relation regclass, row_key text, name text)
 *		returns table(waiting boolean, api text, url text, headers text[], body text)
 *
 * For the owner of the table.  A row for which nothing waits is shown as if all
 * its columns had changed; no result: nothing would be sent.  For a deleted row,
 * the report of its deletion is shown, if the table has on_delete.  Errors: those of
 * kapture_attach_find(), kapture_row_key() and kapture_server_get(); P0002 no such row,
 * 55P03 it cannot be read because of a lock, 22000 for another reason.
 */
Datum
kapture_preview(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	KaptureAttachment *att = kapture_attach_find(fcinfo, 2, AccessShareLock);
	Oid			owner = kapture_catalog_owner(att->root);
	KaptureDelivery delivery = {0};
	KaptureTask task = {0};
	const KaptureServer *server;
	bool		waiting;
	bool		captured;

	kapture_argument_check_null(fcinfo, 1, "row_key");
	delivery.context = delivery.row.context = CurrentMemoryContext;
	delivery.attachment_id = att->id;
	kapture_row_check_table(att);
	delivery.row_key = kapture_row_key(att, kapture_argument_key(fcinfo, 1));
	delivery.row.row_key = delivery.row_key;
	InitMaterializedSRF(fcinfo, 0);

	waiting = preview_read_queue(&delivery, &captured);
	if (!waiting)
		delivery.changed = att->all_changed;
	/* code of the table may make the settings be read anew, which frees the old ones */
	kapture_row_read(att, pstrdup(kapture_server_get(att->server, owner)->timezone), list_make1(&delivery.row), NULL);
	if (delivery.row.outcome != KAPTURE_ROW_GONE || !preview_read_deleted(att, &delivery, &waiting))
		preview_check_row(att->root, &delivery.row);
	preview_say_state(&delivery, captured);
	if (waiting)
		preview_read_digests(&delivery);
	server = kapture_server_get(att->server, owner);
	task.check_rows = server->check_rows;
	task.add_is_upsert = server->add_is_upsert;
	if (waiting && !delivery.gone && !delivery.sent_phone && !delivery.sent_email && delivery.row.customer_id == 0 &&
		preview_is_in_doubt(&delivery))
		kapture_task_identify(att, &delivery, task.add_is_upsert);
	/* an Add in doubt that can be found is searched for: shown as if it could no longer be running */
	if (delivery.sent_phone || delivery.sent_email)
		delivery.in_doubt = 1;

	task.delivery = &delivery;
	task.att = att;
	kapture_task_plan(&task, GetCurrentTimestamp());
	if (task.state == KAPTURE_TASK_SEND)
		preview_put(rsinfo, &task, kapture_server_get(att->server, owner), waiting);
	else
		preview_say_nothing(&task);
	PG_RETURN_NULL();
}
