/*
 * alert.c
 *		Notifications on channel kapture_sync, for whoever wants to be called.
 *
 * Off unless kapture_sync.notify is on.  Only the worker sends them, in its own
 * transactions, so they come when what they say is committed.  Everybody may
 * LISTEN, so they name tables and servers, never rows or what is in them.  A
 * queue of notifications that fills up would make the worker's transactions
 * fail; so it keeps silent when the queue is half full.
 */
#include "postgres.h"

#include "commands/async.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "alert.h"
#include "guc.h"

#define ALERT_CHANNEL		"kapture_sync"
#define ALERT_QUEUE_LIMIT	0.5

/* Appends a member with a text to an object that has been begun. */
static void
alert_append(StringInfo payload, const char *name, const char *value)
{
	appendStringInfo(payload, ", \"%s\": ", name);
	escape_json(payload, value);
}

static void
alert_send(StringInfo payload)
{
	appendStringInfoChar(payload, '}');
	if (DatumGetFloat8(OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE)) < ALERT_QUEUE_LIMIT)
		Async_Notify(ALERT_CHANNEL, payload->data);
	pfree(payload->data);
}

/*
 * Says that rows of a table were parked: {"event": "parked", "relation",
 * "server", "rows"}.  Needs a transaction, and does nothing if notifications
 * are off.
 */
void
kapture_alert_parked(Oid relid, const char *server, int rows)
{
	StringInfoData payload;
	char	   *name = kapture_notify ? get_rel_name(relid) : NULL;

	if (name == NULL)
		return;
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"event\": \"parked\"");
	alert_append(&payload, "relation",
				 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name));
	alert_append(&payload, "server", server);
	appendStringInfo(&payload, ", \"rows\": %d", rows);
	alert_send(&payload);
}

/*
 * Says that a server's state has changed: {"event": "server", "server",
 * "before", "state"}.  Likewise.
 */
void
kapture_alert_server(const char *server, const char *before, const char *state)
{
	StringInfoData payload;

	if (!kapture_notify)
		return;
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"event\": \"server\"");
	alert_append(&payload, "server", server);
	alert_append(&payload, "before", before);
	alert_append(&payload, "state", state);
	alert_send(&payload);
}
