/*
 * notify.c
 *		Notifications on channel kapture_sync, for whoever wants to be notified.
 *
 * Off unless kapture_sync.notify is on.  Only the worker sends them, in its own
 * transactions, so they arrive when the change that they report is committed.
 * Everybody may LISTEN, so they name tables and servers, never rows or what is in
 * them.  If the server's queue of notifications were full, the worker's transactions
 * would fail; so nothing is sent while it is half full.
 */
#include "postgres.h"

#include "commands/async.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/lsyscache.h"

#include "base/guc.h"
#include "cluster/bgworker.h"
#include "push/notify.h"

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

/* Begins a payload that is about an attached table; "name" is that of the attachment, if it has one. */
static void
alert_begin(StringInfo payload, const char *event, const char *relation, const char *name, const char *server)
{
	initStringInfo(payload);
	appendStringInfo(payload, "{\"event\": \"%s\"", event);
	alert_append(payload, "relation", relation);
	if (name[0] != '\0')
		alert_append(payload, "name", name);
	alert_append(payload, "server", server);
}

/*
 * Notes what became of a row: it is with Kapture, or parked.  To be followed by
 * kapture_alert_table() before the transaction ends.
 */
void
kapture_alert_note(KaptureOutcomes *outcomes, bool parked)
{
	if (parked)
	{
		outcomes->first |= outcomes->parked == 0;
		outcomes->new_parked++;
	}
	outcomes->parked += (int) parked - (int) outcomes->window[outcomes->at];
	outcomes->window[outcomes->at] = parked;
	outcomes->at = (outcomes->at + 1) % KAPTURE_ALERT_WINDOW;
}

/*
 * Notes why a row was parked, as far as that may be logged.  Only the first cause of a
 * burst is kept.
 */
void
kapture_alert_note_cause(KaptureOutcomes *outcomes, const char *cause)
{
	if (outcomes->first && outcomes->cause[0] == '\0')
		strlcpy(outcomes->cause, cause, pg_mbcliplen(cause, strlen(cause), sizeof(outcomes->cause) - 1) + 1);
}

/*
 * Has the share of parked rows gone over kapture_sync.notify_parked_share, or
 * under half of it again?  (Half, so that it does not go on and off.)
 */
static bool
alert_share_has_crossed(KaptureOutcomes *outcomes)
{
	double		share = (double) outcomes->parked / KAPTURE_ALERT_WINDOW;
	bool		above;

	if (kapture_notify_parked_share <= 0)
		above = false;
	else
		above = share >= kapture_notify_parked_share * (outcomes->above ? 0.5 : 1.0);
	if (above == outcomes->above)
		return false;
	outcomes->above = above;
	return true;
}

/* Logs the first parked row of a burst; logging all of them would fill the log. */
static void
alert_log(const char *relation, const char *name, int rows, const char *cause)
{
	ereport(LOG,
			(errmsg_plural("kapture_sync: %d row of table %s in database \"%s\" was parked",
						   "kapture_sync: %d rows of table %s in database \"%s\" were parked",
						   rows, rows, name[0] == '\0' ? psprintf("\"%s\"", relation) :
						   psprintf("\"%s\" (attachment \"%s\")", relation, name),
						   kapture_process_database()),
			 cause[0] ? errdetail_internal("%s.", cause) : 0,
			 errhint("View kapture_failures has the rows and what to do. No more are logged until %d rows have gone well.",
					 KAPTURE_ALERT_WINDOW)));
}

/*
 * Sends notifications of what is new about a table since the last call:
 *
 * - {"event": "parked", "relation", "name" (of an attachment that has one), "server",
 *   "rows", "first"} if rows were parked;
 * - {"event": "parked_share", "relation", "server", "share", "above"} if they became too
 *   many, or few again.
 *
 * Needs a transaction, and sends nothing if notifications are off.  The first parked row of
 * a burst is logged, too.
 */
void
kapture_alert_table(const KaptureAttachment *att, const char *server, KaptureOutcomes *outcomes)
{
	bool		crossed = alert_share_has_crossed(outcomes);
	int			new_parked = outcomes->new_parked;
	bool		first = outcomes->first;
	StringInfoData payload;
	char	   *name;

	outcomes->new_parked = 0;
	outcomes->first = false;
	if ((!kapture_notify || (new_parked == 0 && !crossed)) && !first)
		return;
	name = get_rel_name(att->root);
	if (name == NULL)
		return;
	name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(att->root)), name);
	if (first)
		alert_log(name, att->name, new_parked, outcomes->cause);
	outcomes->cause[0] = '\0';
	if (!kapture_notify)
		return;
	if (new_parked > 0)
	{
		alert_begin(&payload, "parked", name, att->name, server);
		appendStringInfo(&payload, ", \"rows\": %d, \"first\": %s", new_parked, first ? "true" : "false");
		alert_send(&payload);
	}
	if (crossed)
	{
		alert_begin(&payload, "parked_share", name, att->name, server);
		appendStringInfo(&payload, ", \"share\": %.2f, \"above\": %s",
						 (double) outcomes->parked / KAPTURE_ALERT_WINDOW, outcomes->above ? "true" : "false");
		alert_send(&payload);
	}
}

/*
 * Notifies that a server's state has changed: {"event": "server", "server",
 * "before", "state"}.  Needs a transaction; sends nothing if notifications are off.
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

/*
 * Notifies that calls of other modules ended otherwise than well: {"event": "calls",
 * "server", "state", "calls"}.  Needs a transaction; sends nothing if notifications are
 * off.
 */
void
kapture_alert_calls(const char *server, const char *state, int calls)
{
	StringInfoData payload;

	if (!kapture_notify || calls == 0)
		return;
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"event\": \"calls\"");
	alert_append(&payload, "server", server);
	alert_append(&payload, "state", state);
	appendStringInfo(&payload, ", \"calls\": %d", calls);
	alert_send(&payload);
}
