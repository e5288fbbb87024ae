/*
 * statements.c
 *		The SQL of the queue: statements on kapture_outbox and kapture_delivery, and
 *		on the tables that go with them.  Their plans are kept.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "base/bounded_key.h"
#include "base/by_index.h"
#include "base/catalog.h"
#include "base/user_code.h"
#include "queue/statements.h"

/* Memory for a statement's sorts, beyond which they use files. */
#define STATEMENT_WORK_MEM	"4MB"

/* Joins entries with their attachment ("a"), as the history notes its table and name, and may outlive it. */
#define OUTBOX_NAMED(entries) \
	entries " LEFT JOIN @.kapture_attachment AS a USING (attachment_id)"

/*
 * Finds the one delivery "d" of the row with the key "v.row_key".  The planner has to take
 * the index of keys, whatever it believes: with an index that begins with the attachment,
 * it would look at all entries of that attachment.
 */
#define OUTBOX_IS_ROW(attachment_id) \
	KAPTURE_KEY_IS("d.row_key", "v.row_key") " AND d.attachment_id + 0 = " attachment_id

/* Adds a change to the delivery that its row has, or has it wait there ("again") while the row is being sent. */
#define OUTBOX_OR_JOIN \
	" ON CONFLICT (" KAPTURE_KEY_BOUNDED("row_key") ", attachment_id)" \
	" DO UPDATE SET" \
	" again = CASE WHEN d.state = 'sending' THEN coalesce(d.again, 0) | EXCLUDED.changed END," \
	" changed = CASE WHEN d.state = 'sending' THEN d.changed ELSE d.changed | EXCLUDED.changed END,"

/*
 * Is an Add of the delivery "d" in doubt, which was last tried until "until"?  Then it may have been sent
 * elsewhere since, see origin.c, though nobody could note that while the delivery was locked.
 */
#define OUTBOX_IS_DOUBTED(d, until) \
	"(" d ".in_doubt IS NULL AND " d ".customer_id IS NULL AND " d ".last_attempt <= " until ")"

/* Adds a change as a new delivery would be sent, or as the delivery of a lost Add, by what was sent then. */
#define OUTBOX_SENT(column) \
	column " = CASE WHEN d.state = 'sending' OR (d.attempts > 0 AND (d.in_doubt IS NOT NULL OR " OUTBOX_IS_DOUBTED("d", "$8") "))" \
	" THEN d." column " ELSE EXCLUDED." column " END,"

/*
 * Forgets what Kapture has of the rows in "source", if the condition holds: a row that had left the filter may
 * have been sent again, so that its leaving is to be reported once more.
 */
#define OUTBOX_DOUBT(source, condition) \
	" UPDATE @.kapture_row AS r SET digests = NULL, left_at = NULL FROM " source " AS s" \
	" WHERE " condition " AND " KAPTURE_KEY_IS("r.row_key", "s.row_key") \
	" AND r.attachment_id + 0 = s.attachment_id AND r.gone_at IS NULL" \
	" AND (r.digests IS NOT NULL OR r.left_at IS NOT NULL)"

/*
 * Notes in kapture_row which customers the rows of the deliveries in "source" have, and
 * what was sent of these rows.  A row without an entry gets one even if nothing was sent:
 * it was linked before there were entries.  That a row was deleted may have been noted
 * already.
 */
#define OUTBOX_ROW_STATE(source) \
	" INSERT INTO @.kapture_row AS r (attachment_id, row_key, customer_id, digests, gone_at, left_at)" \
	" SELECT attachment_id, row_key, customer_id, digests," \
	" CASE WHEN action = 'gone' OR deleted THEN clock_timestamp() END," \
	" CASE WHEN action = 'left' THEN clock_timestamp() END" \
	" FROM " source " AS f WHERE customer_id IS NOT NULL" \
	" AND NOT ((action = 'gone' OR deleted) AND EXISTS (SELECT FROM @.kapture_row AS o WHERE o.customer_id = f.customer_id" \
	" AND o.attachment_id = f.attachment_id AND o.gone_at IS NOT NULL))" \
	" ON CONFLICT (" KAPTURE_KEY_BOUNDED("row_key") ", attachment_id," \
	" coalesce(gone_at, '-infinity')) DO UPDATE SET customer_id = EXCLUDED.customer_id, left_at = EXCLUDED.left_at," \
	" digests = CASE WHEN EXCLUDED.left_at IS NULL THEN" \
	" @.kapture_merge_digests(CASE WHEN r.customer_id = EXCLUDED.customer_id THEN r.digests END, EXCLUDED.digests) END" \
	" WHERE EXCLUDED.digests IS NOT NULL OR r.customer_id <> EXCLUDED.customer_id" \
	" OR (r.left_at IS NULL) <> (EXCLUDED.left_at IS NULL)"

/* How long the report of a deletion waits, for another row that may take the customer over. */
#define OUTBOX_TAKE_OVER	"interval '5 s'"

/* When that report is due: later only if a row of the same account waits for the customer. */
#define OUTBOX_REPORT_AT(customer_id) \
	"CASE WHEN EXISTS (SELECT FROM @.kapture_delivery AS w JOIN @.kapture_attachment AS a ON a.attachment_id = w.attachment_id" \
	" WHERE w.waits_for = " customer_id " AND w.row_key IS NOT NULL AND a.server_oid =" \
	" (SELECT server_oid FROM @.kapture_attachment AS o WHERE o.attachment_id = $1) OFFSET 0) THEN now() + " OUTBOX_TAKE_OVER " ELSE now() END"

/* Entries that tell which row has a key; see the index kapture_outbox_keys. */
#define OUTBOX_IS_ABOUT_KEYS	"op NOT IN ('i', 'u')"

/*
 * The number of transactions that a snapshot shows as ended: those before its xmax that
 * were not running, without the one that took it.
 */
#define OUTBOX_RANK \
	"pg_snapshot_xmax(snapshot)::text::bigint - (SELECT count(*) FROM pg_snapshot_xip(snapshot))" \
	" - CASE WHEN xact < pg_snapshot_xmax(snapshot) THEN 1 ELSE 0 END"

/* The memory that the events of an entry take, in bytes. */
#define OUTBOX_BYTES \
	"(1 + coalesce(cardinality(more_keys), 0)) * " CppAsString2(OUTBOX_EVENT_BYTES) " + " CppAsString2(OUTBOX_KEY_COPIES) \
	" * (octet_length(row_key) + coalesce(octet_length(old_key), 0) + coalesce(pg_column_size(more_keys), 0))"

/*
 * The events of the transactions from $2 to before $3, one in a row, in the order in which they happened: by the
 * commits of their transactions, then by their commands; those of one command by their keys.  Each comes with the
 * memory that the events of its command take, and whether its transaction tells rows with one key apart.
 */
#define OUTBOX_SORTED_KEYS(condition) \
	"SELECT o.ctid, o.xact, o.seq, o.op, o.command, k.key, CASE WHEN o.op = 'k' THEN o.row_key END, o.changed," \
	" o.captured_at, o.arrival, k.customer_id, o.rank, o.bytes, o.twins" \
	" FROM (SELECT e.ctid, xact, seq, op, coalesce(command, seq) AS command, row_key, old_key, more_keys, changed, captured_at," \
	" arrival, customer_ids, coalesce(max(" OUTBOX_RANK ") OVER (PARTITION BY xact), xact::text::bigint) AS rank," \
	" sum(" OUTBOX_BYTES ") OVER (PARTITION BY xact, coalesce(command, seq))::bigint AS bytes," \
	" bool_or(arrival IS NOT NULL) OVER (PARTITION BY xact) AS twins" \
	" FROM unnest($2, $3) AS r(first, last) JOIN @.kapture_outbox AS e ON attachment_id = $1 AND xact >= r.first AND xact < r.last" \
	" AND " OUTBOX_IS_ABOUT_KEYS condition ") AS o," \
	" LATERAL unnest(coalesce(o.old_key, o.row_key) || o.more_keys, o.customer_ids) AS k(key, customer_id)" \
	" WHERE k.key IS NOT NULL ORDER BY o.rank, o.xact, o.command, k.key COLLATE \"C\", o.seq"

/* "@." stands for the extension's schema and a dot. */
const KaptureStatementText kapture_statements[] =
{
	[OUTBOX_RECOVER] = {
		"WITH recovered AS (UPDATE @.kapture_delivery AS d"
		" SET state = CASE WHEN $3 IS NULL THEN 'retry' ELSE 'parked' END,"
		" changed = changed | coalesce(again, 0) | CASE WHEN EXISTS (SELECT FROM @.kapture_row AS r"
		" WHERE " KAPTURE_KEY_IS("r.row_key", "d.row_key") " AND r.attachment_id + 0 = d.attachment_id"
		" AND r.gone_at IS NULL AND r.left_at IS NOT NULL) THEN $4 ELSE 0 END, again = NULL,"
		" in_doubt = CASE WHEN state = 'sending' THEN $2 ELSE in_doubt END, searches = 0,"
		" next_attempt = CASE WHEN $3 IS NULL THEN $2 END, last_error = coalesce($3, last_error)"
		" WHERE attachment_id = $1 AND (state = 'sending' OR ($3 IS NOT NULL AND state = 'retry' AND next_attempt <= now()))"
		" RETURNING d.attachment_id, d.row_key)"
		OUTBOX_DOUBT("recovered", "true"),
		4, {INT4OID, TIMESTAMPTZOID, TEXTOID, INT8OID}
	},
	[OUTBOX_FORGET] = {
		"WITH gone AS (DELETE FROM @.kapture_attachment AS a"
		" WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = a.relation) RETURNING attachment_id),"
		" columns AS (DELETE FROM @.kapture_column WHERE attachment_id IN (TABLE gone)),"
		" backfills AS (DELETE FROM @.kapture_backfill WHERE attachment_id IN (TABLE gone)),"
		" pulled AS (DELETE FROM @.kapture_inbox WHERE attachment_id IN (TABLE gone)),"
		" known AS (DELETE FROM @.kapture_row WHERE attachment_id IN (TABLE gone)),"
		" follows AS (DELETE FROM @.kapture_follow AS f WHERE NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = f.relation)"
		" OR NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = f.source) RETURNING -follow_id),"
		" changes AS (DELETE FROM @.kapture_outbox WHERE attachment_id IN (TABLE gone UNION TABLE follows) RETURNING 1 + coalesce(cardinality(more_keys), 0) AS n),"
		" rows AS (DELETE FROM @.kapture_delivery WHERE attachment_id IN (TABLE gone) RETURNING 1)"
		" SELECT (SELECT count(*) FROM gone), (SELECT coalesce(sum(n), 0)::bigint FROM changes) + (SELECT count(*) FROM rows)",
		0, {}
	},
	[OUTBOX_SNAPSHOT] = {
		"SELECT pg_snapshot_xmax(s), ARRAY(SELECT pg_snapshot_xip(s))"
		" FROM pg_current_snapshot() AS s",
		0, {}
	},
	[OUTBOX_READ] = {
		"SELECT ctid, xact, seq, row_key, old_key, changed, captured_at, op, more_keys, command, NULL, NULL, NULL, NULL"
		" FROM @.kapture_outbox"
		" WHERE attachment_id = $1 AND (xact, seq) > ($2, $3) AND (xact, seq) < ($4, $5) AND NOT (" OUTBOX_IS_ABOUT_KEYS ")"
		" ORDER BY attachment_id, xact, seq",
		5, {INT4OID, XID8OID, INT4OID, XID8OID, INT4OID}
	},
	[OUTBOX_READ_KEYS] = {
		"SELECT ctid, xact, seq, row_key, old_key, changed, captured_at, op, more_keys, command, snapshot, " OUTBOX_RANK
		", customer_ids, arrival FROM @.kapture_outbox"
		" WHERE attachment_id = $1 AND (xact, seq) > ($2, $3) AND (xact, seq) < ($4, $5) AND " OUTBOX_IS_ABOUT_KEYS
		" ORDER BY attachment_id, xact, seq",
		5, {INT4OID, XID8OID, INT4OID, XID8OID, INT4OID}
	},
	[OUTBOX_REKEYS] = {
		"SELECT EXISTS (SELECT FROM @.kapture_outbox"
		" WHERE attachment_id = $1 AND (xact, seq) > ($2, $3) AND (xact, seq) < ($4, $5) AND " OUTBOX_IS_ABOUT_KEYS
		" AND op NOT IN ('d', 'c'))",
		5, {INT4OID, XID8OID, INT4OID, XID8OID, INT4OID}
	},
	[OUTBOX_SORT_KEYS] = {
		OUTBOX_SORTED_KEYS(""),
		3, {INT4OID, XID8ARRAYOID, XID8ARRAYOID}
	},
	[OUTBOX_SORT_COMMAND] = {
		OUTBOX_SORTED_KEYS(" AND coalesce(command, seq) = $4 AND op IN ('k', 'm')"),
		4, {INT4OID, XID8ARRAYOID, XID8ARRAYOID, INT4OID}
	},
	[OUTBOX_END] = {
		"SELECT snapshot, pg_snapshot_xmax(snapshot), ARRAY(SELECT pg_snapshot_xip(snapshot)) FROM @.kapture_outbox"
		" WHERE attachment_id = $1 AND xact = $2 AND snapshot IS NOT NULL AND " OUTBOX_IS_ABOUT_KEYS
		" ORDER BY attachment_id DESC, xact DESC, seq DESC LIMIT 1",
		2, {INT4OID, XID8OID}
	},
	[OUTBOX_REMOVE] = {
		"DELETE FROM @.kapture_outbox WHERE ctid = ANY ($1) RETURNING xact, seq",
		1, {TIDARRAYOID}
	},
	[OUTBOX_SPLIT] = {
		"UPDATE @.kapture_outbox SET row_key = more_keys[$2],"
		" more_keys = CASE WHEN cardinality(more_keys) > $2 THEN more_keys[$2 + 1:] END"
		" WHERE ctid = $1 RETURNING xact, seq",
		2, {TIDOID, INT4OID}
	},
	[OUTBOX_CLAIM] = {
		"INSERT INTO @.kapture_delivery AS d"
		" (attachment_id, row_key, state, changed, captured_at, sent_phone, sent_email, sent_code, in_doubt, last_attempt)"
		" SELECT $1, v.row_key, 'sending', v.changed, v.captured_at, v.phone, v.email, v.code,"
		" CASE WHEN v.captured_at <= $8 THEN now() END, clock_timestamp()"
		" FROM unnest($2, $3, $4, $5, $6, $7) AS v(row_key, changed, captured_at, phone, email, code)"
		OUTBOX_OR_JOIN
		" attempts = CASE WHEN d.state = 'sending' THEN d.attempts ELSE d.attempts + 1 END,"
		" last_attempt = CASE WHEN d.state = 'sending' THEN d.last_attempt ELSE clock_timestamp() END,"
		OUTBOX_SENT("sent_phone")
		OUTBOX_SENT("sent_email")
		OUTBOX_SENT("sent_code")
		" searches = CASE WHEN d.state <> 'sending' AND " OUTBOX_IS_DOUBTED("d", "$8") " THEN 0 ELSE d.searches END,"
		" in_doubt = CASE WHEN d.state <> 'sending' AND " OUTBOX_IS_DOUBTED("d", "$8") " THEN now() ELSE d.in_doubt END,"
		" next_attempt = NULL, state = 'sending', waits_for = NULL"
		" RETURNING row_key, attempts, failures, changed, customer_id, in_doubt, again IS NOT NULL,"
		" sent_phone, sent_email, searches, ctid, delivery_id, captured_at, false, sent_code, added_id",
		8, {INT4OID, TEXTARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TIMESTAMPTZOID}
	},
	[OUTBOX_PARK] = {
		"INSERT INTO @.kapture_delivery AS d"
		" (attachment_id, row_key, state, changed, captured_at, in_doubt, last_attempt, last_error)"
		" VALUES ($1, $2, 'parked', $3, $4, CASE WHEN $4 <= $5 THEN now() END, clock_timestamp(), $6)"
		OUTBOX_OR_JOIN
		" next_attempt = NULL, waits_for = NULL, state = CASE WHEN d.state = 'sending' THEN d.state ELSE 'parked' END,"
		" last_error = CASE WHEN d.state = 'sending' THEN d.last_error ELSE EXCLUDED.last_error END",
		6, {INT4OID, TEXTOID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID}
	},
	[OUTBOX_PARK_DUE] = {
		"UPDATE @.kapture_delivery SET state = 'parked', next_attempt = NULL, waits_for = NULL,"
		" attempts = attempts + 1, last_attempt = clock_timestamp(), last_error = $3"
		" WHERE attachment_id = $1 AND state = 'retry'"
		" AND ((" KAPTURE_KEY_IS("row_key", "$2") ") OR (row_key IS NULL AND old_key = $2))",
		3, {INT4OID, TEXTOID, TEXTOID}
	},
	[OUTBOX_CLAIM_DUE] = {
		"UPDATE @.kapture_delivery AS d"
		" SET state = 'sending', attempts = attempts + 1, last_attempt = clock_timestamp(),"
		" searches = CASE WHEN " OUTBOX_IS_DOUBTED("d", "$6") " THEN 0 ELSE searches END,"
		" in_doubt = CASE WHEN " OUTBOX_IS_DOUBTED("d", "$6") " THEN now() ELSE in_doubt END,"
		" next_attempt = NULL"
		" WHERE ctid = ANY (ARRAY(SELECT ctid FROM @.kapture_delivery"
		" WHERE attachment_id = $1 AND state = 'retry' AND next_attempt <= $3"
		" AND (next_attempt <= $4 OR (failures > 0 AND searches = 0 AND last_attempt < $5))"
		" ORDER BY attachment_id, next_attempt LIMIT $2 FOR UPDATE SKIP LOCKED))"
		" RETURNING coalesce(row_key, old_key, ''), attempts, failures, changed, customer_id, in_doubt, false,"
		" sent_phone, sent_email, searches, ctid, delivery_id, captured_at, row_key IS NULL, sent_code, added_id",
		6, {INT4OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	},
	[OUTBOX_NOTE_ADDS] = {
		"UPDATE @.kapture_delivery AS d SET sent_phone = v.phone, sent_email = v.email, sent_code = v.code"
		" FROM unnest($2, $3, $4, $5) AS v(delivery_id, phone, email, code)"
		" WHERE d.attachment_id = $1 AND d.delivery_id = v.delivery_id",
		5, {INT4OID, INT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID}
	},
	[OUTBOX_NOTE_LINKS] = {
		"UPDATE @.kapture_delivery AS d SET customer_id = v.customer_id"
		" FROM unnest($2, $3) AS v(delivery_id, customer_id)"
		" WHERE d.attachment_id = $1 AND d.delivery_id = v.delivery_id AND d.state = 'sending'"
		" RETURNING d.delivery_id, d.ctid",
		3, {INT4OID, INT8ARRAYOID, INT8ARRAYOID}
	},
	[OUTBOX_WITH_KEYS] = {
		"SELECT d.delivery_id, d.row_key FROM unnest($2) AS v(row_key), LATERAL"
		" (SELECT delivery_id, row_key FROM @.kapture_delivery AS d"
		" WHERE " OUTBOX_IS_ROW("$1") " OFFSET 0) AS d",
		2, {INT4OID, TEXTARRAYOID}
	},
	[OUTBOX_WITH_ANY_KEY] = {
		"SELECT delivery_id, row_key FROM @.kapture_delivery WHERE attachment_id = $1 AND row_key IS NOT NULL",
		1, {INT4OID}
	},
	[OUTBOX_LEAVE] = {
		"UPDATE @.kapture_delivery AS d SET row_key = NULL, old_key = v.row_key,"
		" state = CASE WHEN v.gone AND d.state <> 'sending' THEN 'retry' ELSE d.state END,"
		" next_attempt = CASE WHEN v.gone AND d.state <> 'sending' THEN now() ELSE d.next_attempt END,"
		" again = CASE WHEN NOT v.gone THEN d.again END"
		" FROM unnest($2, $3, $4) AS v(delivery_id, row_key, gone)"
		" WHERE d.attachment_id = $1 AND d.delivery_id = v.delivery_id"
		" RETURNING d.delivery_id, d.ctid, NULL, d.state = 'sending'",
		4, {INT4OID, INT8ARRAYOID, TEXTARRAYOID, BOOLARRAYOID}
	},
	[OUTBOX_EVICT] = {
		"UPDATE @.kapture_delivery AS d SET row_key = NULL, old_key = d.row_key,"
		" state = CASE WHEN d.state <> 'sending' THEN 'retry' ELSE d.state END,"
		" next_attempt = CASE WHEN d.state <> 'sending' THEN now() END, again = NULL"
		" FROM unnest($2) AS v(row_key)"
		" WHERE " OUTBOX_IS_ROW("$1")
		" RETURNING d.delivery_id, d.ctid, NULL, d.state = 'sending'",
		2, {INT4OID, TEXTARRAYOID}
	},
	[OUTBOX_ARRIVE] = {
		"UPDATE @.kapture_delivery AS d SET row_key = v.row_key, old_key = NULL"
		" FROM unnest($2, $3) AS v(delivery_id, row_key)"
		" WHERE d.attachment_id = $1 AND d.delivery_id = v.delivery_id"
		" RETURNING d.delivery_id, d.ctid, d.row_key, d.state = 'sending'",
		3, {INT4OID, INT8ARRAYOID, TEXTARRAYOID}
	},
	[OUTBOX_WAIT] = {
		"INSERT INTO @.kapture_delivery AS d"
		" (attachment_id, row_key, state, changed, captured_at, attempts, last_attempt, next_attempt)"
		" SELECT $1, v.row_key, 'retry', v.changed, v.captured_at, 0, statement_timestamp(), now()"
		" FROM unnest($2, $3, $4) AS v(row_key, changed, captured_at)"
		OUTBOX_OR_JOIN
		" next_attempt = CASE WHEN d.state <> 'sending' THEN now() END,"
		" state = CASE WHEN d.state = 'sending' THEN d.state ELSE 'retry' END",
		4, {INT4OID, TEXTARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID}
	},
	[OUTBOX_GONE] = {
		"INSERT INTO @.kapture_history (attachment_id, row_key, attempts, action, captured_at, finished_at, relation, name)"
		" SELECT $1, v.row_key, 0, 'gone', v.captured_at, statement_timestamp(), a.relation, a.name"
		" FROM unnest($2, $3) AS v(row_key, captured_at) LEFT JOIN @.kapture_attachment AS a ON a.attachment_id = $1",
		3, {INT4OID, TEXTARRAYOID, TIMESTAMPTZARRAYOID}
	},
	[OUTBOX_REPORT_DELETED] = {
		"UPDATE @.kapture_delivery AS d SET customer_id = v.customer_id,"
		" next_attempt = CASE WHEN d.state = 'sending' THEN d.next_attempt ELSE " OUTBOX_REPORT_AT("v.customer_id") " END"
		" FROM unnest($2, $3) AS v(delivery_id, customer_id)"
		" WHERE d.attachment_id = $1 AND d.delivery_id = v.delivery_id",
		3, {INT4OID, INT8ARRAYOID, INT8ARRAYOID}
	},
	[OUTBOX_REPORT_NEW] = {
		"INSERT INTO @.kapture_delivery"
		" (attachment_id, old_key, state, changed, captured_at, attempts, last_attempt, next_attempt, customer_id)"
		" SELECT $1, v.row_key, 'retry', 0, v.captured_at, 0, statement_timestamp(), " OUTBOX_REPORT_AT("v.customer_id") ", v.customer_id"
		" FROM unnest($2, $3, $4) AS v(row_key, captured_at, customer_id)",
		4, {INT4OID, TEXTARRAYOID, TIMESTAMPTZARRAYOID, INT8ARRAYOID}
	},
	[OUTBOX_NEXT_DUE] = {
		"SELECT next_attempt FROM @.kapture_delivery"
		" WHERE attachment_id = $1 AND state = 'retry'"
		" ORDER BY attachment_id, next_attempt LIMIT 1",
		1, {INT4OID}
	},
	[OUTBOX_FINISH] = {
		"DELETE FROM @.kapture_delivery AS d"
		" USING unnest($1, $2, $3, $4) WITH ORDINALITY AS v(place, attachment_id, delivery_id, attempts, n)"
		" WHERE d.ctid = v.place AND d.attachment_id = v.attachment_id AND d.delivery_id = v.delivery_id"
		" AND d.attempts = v.attempts AND d.state = 'sending' AND d.again IS NULL"
		" RETURNING v.n, d.captured_at, coalesce(d.row_key, d.old_key, ''), d.row_key IS NULL",
		4, {TIDARRAYOID, INT4ARRAYOID, INT8ARRAYOID, INT4ARRAYOID}
	},
	[OUTBOX_NOTE_ROWS] = {
		OUTBOX_ROW_STATE("(SELECT * FROM unnest($1, $2, $3, $4, $5, $6)"
						 " AS u(attachment_id, row_key, customer_id, digests, action, deleted))"),
		6, {INT4ARRAYOID, TEXTARRAYOID, INT8ARRAYOID, BYTEAARRAYOID, TEXTARRAYOID, BOOLARRAYOID}
	},
	[OUTBOX_FINISH_REST] = {
		"WITH v AS MATERIALIZED (SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8)"
		" AS v(attachment_id, delivery_id, attempts, action, customer_id, http_status, message, digests)),"
		" gone AS (DELETE FROM @.kapture_delivery AS d USING v"
		" WHERE d.attachment_id = v.attachment_id AND d.delivery_id = v.delivery_id"
		" AND d.attempts = v.attempts AND d.state = 'sending' AND d.again IS NULL"
		" RETURNING v.*, d.captured_at, coalesce(d.row_key, d.old_key, '') AS row_key, d.row_key IS NULL AS deleted),"
		" again AS (UPDATE @.kapture_delivery AS d"
		" SET state = 'retry', next_attempt = now(), changed = d.again, again = NULL,"
		" failures = 0, in_doubt = NULL, searches = 0, customer_id = NULL,"
		" api = NULL, request = NULL, http_status = NULL, last_error = NULL FROM v"
		" WHERE d.attachment_id = v.attachment_id AND d.delivery_id = v.delivery_id"
		" AND d.attempts = v.attempts AND d.state = 'sending' AND d.again IS NOT NULL"
		" RETURNING v.*, d.captured_at, coalesce(d.row_key, d.old_key, '') AS row_key, d.row_key IS NULL AS deleted),"
		" finished AS (TABLE gone UNION ALL TABLE again),"
		" history AS (INSERT INTO @.kapture_history"
		" (attachment_id, row_key, attempts, action, customer_id, http_status, message, captured_at, finished_at, relation, name)"
		" SELECT attachment_id, row_key, attempts, action, customer_id, http_status, message, captured_at,"
		" clock_timestamp(), a.relation, a.name FROM " OUTBOX_NAMED("finished") " WHERE $9),"
		" known AS (" OUTBOX_ROW_STATE("finished") ")"
		" SELECT DISTINCT attachment_id FROM again",
		9, {INT4ARRAYOID, INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT8ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, BYTEAARRAYOID, BOOLOID}
	},
	[OUTBOX_FAIL] = {
		"WITH failed AS (UPDATE @.kapture_delivery"
		" SET state = CASE WHEN again IS NULL THEN $4 ELSE 'retry' END,"
		" next_attempt = CASE WHEN again IS NOT NULL THEN now() WHEN $4 = 'retry' THEN $6 END,"
		" changed = CASE WHEN $13 THEN 0 ELSE changed END | coalesce(again, 0) | $17, again = NULL,"
		" failures = failures + $5, in_doubt = $7, searches = $16, customer_id = $8,"
		" api = $9, request = $10, http_status = $11, last_error = $12, waits_for = $14, added_id = coalesce($18, added_id)"
		" WHERE attachment_id = $1 AND delivery_id = $2 AND attempts = $3 AND state = 'sending'"
		" RETURNING attachment_id, row_key, next_attempt),"
		" doubt AS (" OUTBOX_DOUBT("failed", "$15") ")"
		" SELECT next_attempt FROM failed",
		18, {INT4OID, INT8OID, INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID,
		TEXTOID, TEXTOID, INT4OID, TEXTOID, BOOLOID, INT8OID, BOOLOID, INT4OID, INT8OID, INT8OID}
	},
	[OUTBOX_UNPARK] = {
		"UPDATE @.kapture_delivery AS d SET state = 'retry', next_attempt = $3"
		" FROM unnest($1, $2) AS v(attachment_id, delivery_id)"
		" WHERE d.attachment_id = v.attachment_id AND d.delivery_id = v.delivery_id AND d.state = 'parked'",
		3, {INT4ARRAYOID, INT8ARRAYOID, TIMESTAMPTZOID}
	},
	[OUTBOX_RELEASE] = {
		"UPDATE @.kapture_delivery"
		" SET state = 'retry', next_attempt = $4, changed = changed | coalesce(again, 0), again = NULL,"
		" in_doubt = $5, searches = $6"
		" WHERE attachment_id = $1 AND delivery_id = $2 AND attempts = $3 AND state = 'sending'",
		6, {INT4OID, INT8OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID}
	},
};

static SPIPlanPtr statement_plans[lengthof(kapture_statements)];

/*
 * Returns the plan of a statement.  The plan is kept, and made anew when the extension's
 * schema has got another name.  To be called within SPI.
 */
SPIPlanPtr
kapture_statement_plan(KaptureStatement query)
{
	char	   *sql = kapture_catalog_qualify(kapture_statements[query].sql);

	if (statement_plans[query] && !kapture_user_code_is_plan_of(statement_plans[query], sql))
	{
		SPI_freeplan(statement_plans[query]);
		statement_plans[query] = NULL;
	}
	if (statement_plans[query] == NULL)
	{
		SPIPlanPtr	plan = kapture_user_code_prepare(sql, kapture_statements[query].nparams,
													 (Oid *) kapture_statements[query].types,
													 CURSOR_OPT_GENERIC_PLAN);

		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "could not keep statement %d of the outbox", query);
		statement_plans[query] = plan;
	}
	kapture_user_code_expect(statement_plans[query]);
	return statement_plans[query];
}

/*
 * Runs a statement within SPI: under the transaction's snapshot, or seeing all that has
 * been done.  For the latter, callers use kapture_statement_execute().
 */
void
kapture_statement_run(KaptureStatement query, Datum *values, const char *nulls, bool snapshot)
{
	int			nestlevel = kapture_by_index_begin();
	int			rc;

	rc = SPI_execute_plan(kapture_statement_plan(query), values, nulls, snapshot, 0);
	if (rc < 0)
		elog(ERROR, "statement %d of the outbox failed: %s", query, SPI_result_code_string(rc));
	AtEOXact_GUC(true, nestlevel);
}

/*
 * Opens a cursor on a statement within SPI, which sees all that has been done so far, and fetches its first row.
 * That sorts, in a few megabytes of memory whatever the size of the result is.  The cursor outlives the level of SPI.
 */
Portal
kapture_statement_open(KaptureStatement query, Datum *values)
{
	int			nestlevel = kapture_by_index_begin();
	Portal		portal;

	(void) set_config_option("work_mem", STATEMENT_WORK_MEM, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	CommandCounterIncrement();
	/* of its own, as the transaction's snapshot gets other command ids later */
	PushCopiedSnapshot(GetActiveSnapshot());
	UpdateActiveSnapshotCommandId();
	portal = SPI_cursor_open(NULL, kapture_statement_plan(query), values, NULL, true);
	PopActiveSnapshot();
	SPI_cursor_fetch(portal, true, 1);
	AtEOXact_GUC(true, nestlevel);
	return portal;
}

/*
 * Returns a column, counted from 1, of a row of the last statement's result.
 */
Datum
kapture_statement_getattr(uint64 row, int col, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, col, isnull);
}

/*
 * Returns an array of "n" values for a parameter, in the current memory context; "nulls"
 * may be NULL if none is null.
 */
Datum
kapture_statement_array(Datum *values, bool *nulls, int n, Oid type)
{
	int			dims[1] = {n};
	int			lbs[1] = {1};
	int16		len;
	bool		byval;
	char		align;

	get_typlenbyvalalign(type, &len, &byval, &align);
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lbs, type, len, byval, align));
}

/*
 * Returns text for a parameter, in the current memory context; NULL is null.
 */
Datum
kapture_statement_text(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}
