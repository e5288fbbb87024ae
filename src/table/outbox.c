/*
 * outbox.c
 *		The queue: changes taken from the outbox, deliveries and what becomes
 *		of them.  All SQL of the queue is here.
 *
 * Transactions append to kapture_outbox.  The worker, the only one to read it,
 * claims changes: in one transaction it removes them and enters or updates the
 * row's entry in kapture_delivery, of which each row has one: changes of a row
 * come together there, and a second request for it cannot start.  An entry is
 * 'sending' while a request may be in flight, durably so before the request
 * leaves.  It is removed when all is done, else it is due at next_attempt or
 * parked.  Each change of an entry names the attempt it belongs to, so an
 * answer that comes late finds nothing to change.
 *
 * A row is found by its key, but the key may become another row's: so an entry
 * has an id of its own, and its key follows the row (keys.c).  Nothing is
 * claimed, and no answer recorded, before the changes of keys and the deletions
 * that are committed have been followed; and what is read or written then is so
 * under the same snapshot, in which each entry has its row's key.  A row that
 * gets another one meanwhile is not found any more, and its turn comes again.
 *
 * How the outbox is read.  Entries are ordered by transaction, and
 * transactions do not commit in the order of their ids.  A pass is therefore
 * described by two snapshots: what was visible to the last pass is done, and
 * what is new belongs to transactions that were running then (its xip) or
 * started later (its xmax and above).  So each entry is looked at once, with no
 * index but the one on (attachment_id, xact, seq), and what is dead already is
 * never walked over again, however long somebody's snapshot keeps it from
 * being removed.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "base/catalog.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/guc.h"
#include "base/own_rows.h"
#include "base/owner_sql.h"
#include "base/user_code.h"
#include "table/capture_buffer.h"
#include "table/keys.h"
#include "table/outbox.h"
#include "table/vacuum.h"

typedef enum OutboxQuery
{
	OUTBOX_RECOVER,
	OUTBOX_FORGET,
	OUTBOX_SNAPSHOT,
	OUTBOX_READ,
	OUTBOX_READ_KEYS,
	OUTBOX_REKEYS,
	OUTBOX_REMOVE,
	OUTBOX_SPLIT,
	OUTBOX_CLAIM,
	OUTBOX_PARK,
	OUTBOX_PARK_DUE,
	OUTBOX_CLAIM_DUE,
	OUTBOX_NOTE_ADDS,
	OUTBOX_NOTE_LINKS,
	OUTBOX_WITH_KEYS,
	OUTBOX_WITH_ANY_KEY,
	OUTBOX_LEAVE,
	OUTBOX_EVICT,
	OUTBOX_ARRIVE,
	OUTBOX_WAIT,
	OUTBOX_GONE,
	OUTBOX_REPORT_DELETED,
	OUTBOX_REPORT_NEW,
	OUTBOX_NEXT_DUE,
	OUTBOX_FINISH,
	OUTBOX_NOTE_ROWS,
	OUTBOX_FINISH_REST,
	OUTBOX_FAIL,
	OUTBOX_UNPARK,
	OUTBOX_RELEASE
} OutboxQuery;

#define OUTBOX_MAX_PARAMS	15

/* Ordinary entries that the old version of one that was split counts for. */
#define OUTBOX_SPLIT_WEIGHT	50

/* Entries of the outbox read at a time, */
#define OUTBOX_READ_CHUNK	50

/* and bytes of keys, from which on it is enough. */
#define OUTBOX_READ_BYTES	((Size) 1024 * 1024)

/* Keys, entries or changes that one statement is about. */
#define OUTBOX_CHUNK		1000

/* Entries, with the table and the name "a" of their attachment, for the history, which may outlive it. */
#define OUTBOX_NAMED(entries) \
	entries " LEFT JOIN @.kapture_attachment AS a USING (attachment_id)"

/*
 * How the delivery "d" of the row with the key "v.row_key" is found, and what makes
 * it the only one: two hashes are as good as the key itself.  The planner is to take
 * the index of them, whatever it believes: by one that begins with the attachment,
 * it would look at all entries of that.
 */
#define OUTBOX_IS_ROW(attachment_id) \
	KAPTURE_KEY_IS("d.row_key", "v.row_key") " AND d.attachment_id + 0 = " attachment_id

/* A change of a row that has a delivery joins it, or waits where that is being sent. */
#define OUTBOX_OR_JOIN \
	" ON CONFLICT (pg_catalog.hashtextextended(row_key, 0), pg_catalog.hashtextextended(row_key, 1), attachment_id)" \
	" DO UPDATE SET" \
	" again = CASE WHEN d.state = 'sending' THEN coalesce(d.again, 0) | EXCLUDED.changed END," \
	" changed = CASE WHEN d.state = 'sending' THEN d.changed ELSE d.changed | EXCLUDED.changed END,"

/* What Kapture has of the rows that "source" gives is not known, if the condition holds. */
#define OUTBOX_DOUBT(source, condition) \
	" UPDATE @.kapture_row AS r SET digests = NULL FROM " source " AS s" \
	" WHERE " condition " AND " KAPTURE_KEY_IS("r.row_key", "s.row_key") \
	" AND r.attachment_id + 0 = s.attachment_id AND r.gone_at IS NULL AND r.digests IS NOT NULL"

/*
 * Notes which customer the rows of deliveries are that "source" gives, and what was
 * sent of them.  (A row without an entry gets one even if nothing was sent: it was
 * linked before there were entries.)  That a row was deleted may be known already.
 */
#define OUTBOX_ROW_STATE(source) \
	" INSERT INTO @.kapture_row AS r (attachment_id, row_key, customer_id, digests, gone_at, left_at)" \
	" SELECT attachment_id, row_key, customer_id, digests," \
	" CASE WHEN action = 'gone' OR deleted THEN clock_timestamp() END," \
	" CASE WHEN action = 'left' THEN clock_timestamp() END" \
	" FROM " source " AS f WHERE customer_id IS NOT NULL" \
	" AND NOT ((action = 'gone' OR deleted) AND EXISTS (SELECT FROM @.kapture_row AS o WHERE o.customer_id = f.customer_id" \
	" AND o.attachment_id = f.attachment_id AND o.gone_at IS NOT NULL))" \
	" ON CONFLICT (pg_catalog.hashtextextended(row_key, 0), pg_catalog.hashtextextended(row_key, 1), attachment_id," \
	" coalesce(gone_at, '-infinity')) DO UPDATE SET customer_id = EXCLUDED.customer_id, left_at = EXCLUDED.left_at," \
	" digests = CASE WHEN EXCLUDED.left_at IS NULL THEN" \
	" @.kapture_merge_digests(CASE WHEN r.customer_id = EXCLUDED.customer_id THEN r.digests END, EXCLUDED.digests) END" \
	" WHERE EXCLUDED.digests IS NOT NULL OR r.customer_id <> EXCLUDED.customer_id" \
	" OR (r.left_at IS NULL) <> (EXCLUDED.left_at IS NULL)"

/* Does a row of the same account wait for a customer that another one has? */
#define OUTBOX_IS_WANTED(customer_id) \
	"EXISTS (SELECT FROM @.kapture_delivery AS w JOIN @.kapture_attachment AS a ON a.attachment_id = w.attachment_id" \
	" WHERE w.waits_for = " customer_id " AND a.server =" \
	" (SELECT server FROM @.kapture_attachment AS o WHERE o.attachment_id = $1))"

/* Deletions that are held in memory, if they are all that happened to keys. */
#define OUTBOX_MAX_DELETIONS	20000

/* Entries that tell which row has a key; see the index kapture_outbox_keys. */
#define OUTBOX_IS_ABOUT_KEYS	"op NOT IN ('i', 'u')"

/*
 * How many transactions a snapshot shows as ended: those before its xmax that
 * were not running, its own not counted.
 */
#define OUTBOX_RANK \
	"pg_snapshot_xmax(snapshot)::text::bigint - (SELECT count(*) FROM pg_snapshot_xip(snapshot))" \
	" - CASE WHEN xact < pg_snapshot_xmax(snapshot) THEN 1 ELSE 0 END"

/* "@." stands for the extension's schema and a dot. */
static const struct
{
	const char *sql;
	int			nparams;
	Oid			types[OUTBOX_MAX_PARAMS];
}			outbox_queries[] =
{
	[OUTBOX_RECOVER] = {
		"WITH recovered AS (UPDATE @.kapture_delivery AS d"
		" SET state = CASE WHEN $3 IS NULL THEN 'retry' ELSE 'parked' END,"
		" changed = changed | coalesce(again, 0), again = NULL,"
		" in_doubt = CASE WHEN state = 'sending' THEN $2 ELSE in_doubt END, searches = 0,"
		" next_attempt = CASE WHEN $3 IS NULL THEN $2 END, last_error = coalesce($3, last_error)"
		" WHERE attachment_id = $1 AND (state = 'sending' OR ($3 IS NOT NULL AND state = 'retry' AND next_attempt <= now()))"
		" RETURNING d.attachment_id, d.row_key)"
		OUTBOX_DOUBT("recovered", "true"),
		3, {INT4OID, TIMESTAMPTZOID, TEXTOID}
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
		"SELECT ctid, xact, seq, row_key, old_key, changed, captured_at, op, more_keys, command, NULL, NULL, NULL"
		" FROM @.kapture_outbox"
		" WHERE attachment_id = $1 AND (xact, seq) > ($2, $3) AND xact < $4 AND NOT (" OUTBOX_IS_ABOUT_KEYS ")"
		" ORDER BY attachment_id, xact, seq",
		4, {INT4OID, XID8OID, INT4OID, XID8OID}
	},
	[OUTBOX_READ_KEYS] = {
		"SELECT ctid, xact, seq, row_key, old_key, changed, captured_at, op, more_keys, command, snapshot, " OUTBOX_RANK
		", customer_ids FROM @.kapture_outbox"
		" WHERE attachment_id = $1 AND (xact, seq) > ($2, $3) AND xact < $4 AND " OUTBOX_IS_ABOUT_KEYS
		" ORDER BY attachment_id, xact, seq",
		4, {INT4OID, XID8OID, INT4OID, XID8OID}
	},
	[OUTBOX_REKEYS] = {
		"SELECT EXISTS (SELECT FROM @.kapture_outbox"
		" WHERE attachment_id = $1 AND (xact, seq) > ($2, $3) AND xact < $4 AND " OUTBOX_IS_ABOUT_KEYS
		" AND op NOT IN ('d', 'c'))",
		4, {INT4OID, XID8OID, INT4OID, XID8OID}
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
		" sent_phone = CASE WHEN d.state = 'sending' OR (d.in_doubt IS NOT NULL AND d.attempts > 0) THEN d.sent_phone ELSE EXCLUDED.sent_phone END,"
		" sent_email = CASE WHEN d.state = 'sending' OR (d.in_doubt IS NOT NULL AND d.attempts > 0) THEN d.sent_email ELSE EXCLUDED.sent_email END,"
		" sent_code = CASE WHEN d.state = 'sending' OR (d.in_doubt IS NOT NULL AND d.attempts > 0) THEN d.sent_code ELSE EXCLUDED.sent_code END,"
		" next_attempt = NULL, state = 'sending', waits_for = NULL"
		" RETURNING row_key, attempts, failures, changed, customer_id, in_doubt, again IS NOT NULL,"
		" sent_phone, sent_email, searches, ctid, delivery_id, captured_at, false, sent_code",
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
		"UPDATE @.kapture_delivery"
		" SET state = 'sending', attempts = attempts + 1, last_attempt = clock_timestamp(),"
		" next_attempt = NULL"
		" WHERE ctid = ANY (ARRAY(SELECT ctid FROM @.kapture_delivery"
		" WHERE attachment_id = $1 AND state = 'retry' AND next_attempt <= $3"
		" AND (next_attempt <= $4 OR (failures > 0 AND searches = 0 AND last_attempt < $5))"
		" ORDER BY attachment_id, next_attempt LIMIT $2 FOR UPDATE SKIP LOCKED))"
		" RETURNING coalesce(row_key, old_key), attempts, failures, changed, customer_id, in_doubt, false,"
		" sent_phone, sent_email, searches, ctid, delivery_id, captured_at, row_key IS NULL, sent_code",
		5, {INT4OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
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
		" RETURNING d.delivery_id, d.ctid, NULL",
		4, {INT4OID, INT8ARRAYOID, TEXTARRAYOID, BOOLARRAYOID}
	},
	[OUTBOX_EVICT] = {
		"UPDATE @.kapture_delivery AS d SET row_key = NULL, old_key = d.row_key,"
		" state = CASE WHEN d.state <> 'sending' THEN 'retry' ELSE d.state END,"
		" next_attempt = CASE WHEN d.state <> 'sending' THEN now() END, again = NULL"
		" FROM unnest($2) AS v(row_key)"
		" WHERE " OUTBOX_IS_ROW("$1")
		" RETURNING d.delivery_id, d.ctid, NULL",
		2, {INT4OID, TEXTARRAYOID}
	},
	[OUTBOX_ARRIVE] = {
		"UPDATE @.kapture_delivery AS d SET row_key = v.row_key, old_key = NULL"
		" FROM unnest($2, $3) AS v(delivery_id, row_key)"
		" WHERE d.attachment_id = $1 AND d.delivery_id = v.delivery_id"
		" RETURNING d.delivery_id, d.ctid, d.row_key",
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
		"UPDATE @.kapture_delivery AS d SET customer_id = v.customer_id"
		" FROM unnest($2, $3) AS v(delivery_id, customer_id)"
		" WHERE d.attachment_id = $1 AND d.delivery_id = v.delivery_id AND NOT " OUTBOX_IS_WANTED("v.customer_id"),
		3, {INT4OID, INT8ARRAYOID, INT8ARRAYOID}
	},
	[OUTBOX_REPORT_NEW] = {
		"INSERT INTO @.kapture_delivery"
		" (attachment_id, old_key, state, changed, captured_at, attempts, last_attempt, next_attempt, customer_id)"
		" SELECT $1, v.row_key, 'retry', 0, v.captured_at, 0, statement_timestamp(), now(), v.customer_id"
		" FROM unnest($2, $3, $4) AS v(row_key, captured_at, customer_id)"
		" WHERE NOT " OUTBOX_IS_WANTED("v.customer_id"),
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
		" RETURNING v.n, d.captured_at, coalesce(d.row_key, d.old_key), d.row_key IS NULL",
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
		" RETURNING v.*, d.captured_at, coalesce(d.row_key, d.old_key) AS row_key, d.row_key IS NULL AS deleted),"
		" again AS (UPDATE @.kapture_delivery AS d"
		" SET state = 'retry', next_attempt = now(), changed = d.again, again = NULL,"
		" failures = 0, in_doubt = NULL, searches = 0, customer_id = NULL,"
		" api = NULL, request = NULL, http_status = NULL, last_error = NULL FROM v"
		" WHERE d.attachment_id = v.attachment_id AND d.delivery_id = v.delivery_id"
		" AND d.attempts = v.attempts AND d.state = 'sending' AND d.again IS NOT NULL"
		" RETURNING v.*, d.captured_at, coalesce(d.row_key, d.old_key) AS row_key, d.row_key IS NULL AS deleted),"
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
		" changed = CASE WHEN $13 THEN 0 ELSE changed END | coalesce(again, 0), again = NULL,"
		" failures = failures + $5, in_doubt = $7, searches = 0, customer_id = $8,"
		" api = $9, request = $10, http_status = $11, last_error = $12, waits_for = $14"
		" WHERE attachment_id = $1 AND delivery_id = $2 AND attempts = $3 AND state = 'sending'"
		" RETURNING attachment_id, row_key, next_attempt),"
		" doubt AS (" OUTBOX_DOUBT("failed", "$15") ")"
		" SELECT next_attempt FROM failed",
		15, {INT4OID, INT8OID, INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT8OID,
		TEXTOID, TEXTOID, INT4OID, TEXTOID, BOOLOID, INT8OID, BOOLOID}
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

static SPIPlanPtr outbox_plans[lengthof(outbox_queries)];

/*
 * Has statements planned for tables that may be huge, whatever their statistics
 * say now: by index, never by scanning, sorting or hashing them whole.  Returns the
 * nesting level for AtEOXact_GUC().
 */
static int
outbox_planner_settings(void)
{
	static const char *const off[] = {
		"enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_hashjoin", "enable_mergejoin"
	};
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(off); i++)
		(void) set_config_option(off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

/* The plan of a statement, made anew when the extension's schema has got another name. */
static SPIPlanPtr
outbox_plan(OutboxQuery query)
{
	char	   *sql = kapture_catalog_qualify(outbox_queries[query].sql);

	if (outbox_plans[query] && !kapture_user_code_is_plan_of(outbox_plans[query], sql))
	{
		SPI_freeplan(outbox_plans[query]);
		outbox_plans[query] = NULL;
	}
	if (outbox_plans[query] == NULL)
	{
		SPIPlanPtr	plan = kapture_user_code_prepare(sql, outbox_queries[query].nparams,
													 (Oid *) outbox_queries[query].types,
													 CURSOR_OPT_GENERIC_PLAN);

		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "could not keep statement %d of the outbox", query);
		outbox_plans[query] = plan;
	}
	kapture_user_code_expect(outbox_plans[query]);
	return outbox_plans[query];
}

/* Runs a statement: a query of what the transaction's snapshot shows, or one that sees all. */
static void
outbox_run(OutboxQuery query, Datum *values, const char *nulls, bool snapshot)
{
	int			nestlevel = outbox_planner_settings();
	int			rc;

	rc = SPI_execute_plan(outbox_plan(query), values, nulls, snapshot, 0);
	if (rc < 0)
		elog(ERROR, "statement %d of the outbox failed: %s", query, SPI_result_code_string(rc));
	AtEOXact_GUC(true, nestlevel);
}

static void
outbox_execute(OutboxQuery query, Datum *values, const char *nulls)
{
	outbox_run(query, values, nulls, false);
}

/* Each statement is a fault point. */
#define outbox_execute(query, values, nulls) \
	(KAPTURE_FAULT_ARGUMENTS(#query, outbox_queries[query].nparams, outbox_queries[query].types, values, nulls), \
	 outbox_execute(query, values, nulls))

static Datum
outbox_getattr(uint64 row, int col, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, col, isnull);
}

static Datum
outbox_array(Datum *values, bool *nulls, int n, Oid type)
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
 * At the start of a worker: what an earlier one was sending for a table is in
 * doubt until "in_doubt", when it can no longer be running.  With "error", it is
 * parked, and so is what is due.
 */
void
kapture_outbox_recover(int32 attachment_id, TimestampTz in_doubt, const char *error)
{
	Datum		values[3] = {Int32GetDatum(attachment_id), TimestampTzGetDatum(in_doubt), (Datum) 0};

	SPI_connect();
	if (error)
		values[2] = CStringGetTextDatum(error);
	outbox_execute(OUTBOX_RECOVER, values, error ? NULL : "  n");
	SPI_finish();
}

/*
 * Forgets attached tables that were dropped.  Returns how many; *changes is the
 * number of changes that waited for them.
 */
int64
kapture_outbox_forget_dropped(int64 *changes)
{
	int64		tables;
	bool		isnull;

	SPI_connect();
	outbox_execute(OUTBOX_FORGET, NULL, NULL);
	tables = DatumGetInt64(outbox_getattr(0, 1, &isnull));
	*changes = DatumGetInt64(outbox_getattr(0, 2, &isnull));
	SPI_finish();
	return tables;
}

/*
 * Prepares a scan (zeroed, or an older one), which will read everything there
 * is.
 */
void
kapture_outbox_scan_init(KaptureScan *scan)
{
	if (scan->context)
		MemoryContextDelete(scan->context);
	memset(scan, 0, sizeof(*scan));
	scan->context = AllocSetContextCreate(CurrentMemoryContext, "kapture_sync scan",
										  ALLOCSET_SMALL_SIZES);
}

static bool
outbox_contains(const uint64 *xids, int n, uint64 xid)
{
	for (int i = 0; i < n; i++)
	{
		if (xids[i] == xid)
			return true;
	}
	return false;
}

static void
outbox_add_range(KaptureScan *scan, uint64 from, uint64 to)
{
	scan->ranges[scan->nranges * 2] = from;
	scan->ranges[scan->nranges * 2 + 1] = to;
	scan->nranges++;
}

/* Starts reading at the head of a range. */
static void
outbox_enter_range(KaptureScan *scan, int range)
{
	scan->range = range;
	scan->at_seq = 0;			/* numbers start at 1 */
	if (range < scan->nranges)
		scan->at_xact = scan->ranges[range * 2];
}

/* Takes a snapshot and works out which transactions are new in it. */
static void
outbox_start_pass(KaptureScan *scan)
{
	bool		isnull;
	ArrayType  *array;
	Datum	   *xids;
	int			n;

	outbox_run(OUTBOX_SNAPSHOT, NULL, NULL, true);
	scan->next_xmax = U64FromFullTransactionId(DatumGetFullTransactionId(outbox_getattr(0, 1, &isnull)));
	array = DatumGetArrayTypeP(outbox_getattr(0, 2, &isnull));
	deconstruct_array(array, XID8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &xids, NULL, &n);

	if (scan->next_xip)
		pfree(scan->next_xip);
	scan->next_xip = MemoryContextAlloc(scan->context, sizeof(uint64) * (n + 1));
	scan->nnext = n;
	for (int i = 0; i < n; i++)
		scan->next_xip[i] = U64FromFullTransactionId(DatumGetFullTransactionId(xids[i]));

	if (scan->ranges)
		pfree(scan->ranges);
	scan->ranges = MemoryContextAlloc(scan->context, sizeof(uint64) * 2 * (scan->nseen + 1));
	scan->nranges = 0;
	if (!scan->ever)
		outbox_add_range(scan, 0, PG_UINT64_MAX);
	else
	{
		for (int i = 0; i < scan->nseen; i++)
		{
			if (!outbox_contains(scan->next_xip, scan->nnext, scan->seen_xip[i]))
				outbox_add_range(scan, scan->seen_xip[i], scan->seen_xip[i] + 1);
		}
		if (scan->next_xmax > scan->seen_xmax)
			outbox_add_range(scan, scan->seen_xmax, scan->next_xmax);
	}
	outbox_enter_range(scan, 0);
	scan->running = true;
}

/* All ranges are read: what the pass saw is done. */
static void
outbox_end_pass(KaptureScan *scan)
{
	uint64	   *unused = scan->seen_xip;

	scan->seen_xmax = scan->next_xmax;
	scan->seen_xip = scan->next_xip;
	scan->nseen = scan->nnext;
	scan->next_xip = unused;
	scan->ever = true;
	scan->running = false;
}

/* Changes of one batch that belong to the same row. */
typedef struct OutboxGroup
{
	int64		changed;
	TimestampTz captured_at;
	const char *row_key;
} OutboxGroup;

/* Finds a row's place in a list. */
typedef struct OutboxIndexEntry
{
	const char *row_key;		/* hash key */
	int			position;
} OutboxIndexEntry;

/* Adds a change to the groups, which are in order of their first change. */
static void
outbox_group(HTAB *index, OutboxGroup *groups, int *ngroups, const char *row_key,
			 int64 changed, TimestampTz captured_at)
{
	bool		found;
	OutboxIndexEntry *entry = hash_search(index, &row_key, HASH_ENTER, &found);

	if (!found)
	{
		entry->position = (*ngroups)++;
		groups[entry->position].row_key = row_key;
		groups[entry->position].changed = 0;
		groups[entry->position].captured_at = captured_at;
	}
	groups[entry->position].changed |= changed;
	groups[entry->position].captured_at = Min(groups[entry->position].captured_at, captured_at);
}

static uint32
outbox_hash_key(const void *key, Size keysize)
{
	const char *text = *(const char *const *) key;

	return string_hash(text, strlen(text) + 1);
}

static int
outbox_match_key(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static HTAB *
outbox_create_index(int size)
{
	HASHCTL		ctl = {
		.keysize = sizeof(char *),
		.entrysize = sizeof(OutboxIndexEntry),
		.hash = outbox_hash_key,
		.match = outbox_match_key,
		.hcxt = CurrentMemoryContext
	};

	return hash_create("kapture_sync rows", Max(size, 16), &ctl,
					   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/* An entry of the outbox: changes of one or more rows. */
typedef struct OutboxEntry
{
	ItemPointer tid;
	uint64		xact;
	int32		seq;
	int			nkeys;
	char	  **keys;
	char	   *old_key;		/* or NULL */
	int64		changed;
	TimestampTz captured_at;
	bool		taken;

	/* of entries about keys */
	char		op;
	int32		command;
	Datum		snapshot;		/* taken as the transaction committed; or 0 */
	int64		rank;
	Datum	   *customer_ids;	/* of deleted rows, one for each key; NULL: not known */
} OutboxEntry;

/* Makes an entry of a row that OUTBOX_READ or OUTBOX_READ_KEYS gave. */
static OutboxEntry *
outbox_make_entry(uint64 row)
{
	OutboxEntry *entry = palloc0(sizeof(OutboxEntry));
	bool		isnull;
	Datum		value;
	Datum	   *more = NULL;
	int			nids = 0;

	entry->tid = palloc(sizeof(ItemPointerData));
	ItemPointerCopy((ItemPointer) DatumGetPointer(outbox_getattr(row, 1, &isnull)), entry->tid);
	entry->xact = U64FromFullTransactionId(DatumGetFullTransactionId(outbox_getattr(row, 2, &isnull)));
	entry->seq = DatumGetInt32(outbox_getattr(row, 3, &isnull));
	value = outbox_getattr(row, 5, &isnull);
	entry->old_key = isnull ? NULL : TextDatumGetCString(value);
	entry->changed = DatumGetInt64(outbox_getattr(row, 6, &isnull));
	entry->captured_at = DatumGetTimestampTz(outbox_getattr(row, 7, &isnull));
	entry->op = DatumGetChar(outbox_getattr(row, 8, &isnull));
	value = outbox_getattr(row, 10, &isnull);
	entry->command = isnull ? entry->seq : DatumGetInt32(value);
	value = outbox_getattr(row, 11, &isnull);
	if (!isnull)
	{
		entry->snapshot = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
		entry->rank = DatumGetInt64(outbox_getattr(row, 12, &isnull));
	}

	value = outbox_getattr(row, 13, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
						  &entry->customer_ids, NULL, &nids);

	value = outbox_getattr(row, 9, &isnull);
	if (!isnull)
		deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
						  &more, NULL, &entry->nkeys);
	entry->nkeys++;
	entry->keys = palloc(sizeof(char *) * entry->nkeys);
	entry->keys[0] = TextDatumGetCString(outbox_getattr(row, 4, &isnull));
	for (int i = 1; i < entry->nkeys; i++)
		entry->keys[i] = TextDatumGetCString(more[i - 1]);
	if (nids != entry->nkeys)
		entry->customer_ids = NULL;
	return entry;
}

/* The parameters of a query of what is left of a range. */
static void
outbox_range_values(Datum *values, int32 attachment_id, const KaptureScan *scan, int range)
{
	bool		current = range == scan->range;
	uint64		from = current ? scan->at_xact : scan->ranges[range * 2];

	values[0] = Int32GetDatum(attachment_id);
	values[1] = FullTransactionIdGetDatum(FullTransactionIdFromU64(from));
	values[2] = Int32GetDatum(current ? scan->at_seq : 0);
	values[3] = FullTransactionIdGetDatum(FullTransactionIdFromU64(scan->ranges[range * 2 + 1]));
}

/* Bytes of the keys in a row that OUTBOX_READ gave, without reading them. */
static Size
outbox_entry_bytes(uint64 row)
{
	static const int columns[] = {4, 5, 9}; /* row_key, old_key, more_keys */
	Size		bytes = 0;

	for (int i = 0; i < lengthof(columns); i++)
	{
		bool		isnull;
		Datum		value = outbox_getattr(row, columns[i], &isnull);

		if (!isnull)
			bytes += toast_raw_datum_size(value);
	}
	return bytes;
}

/*
 * Reads entries of the current range, as the transaction's snapshot shows them,
 * until they have "limit" changes, or many bytes; returns them in order.  *full:
 * that, not the end of the range, ended it.
 */
static List *
outbox_read(OutboxQuery query, int32 attachment_id, KaptureScan *scan, int limit, bool *full)
{
	Datum		values[4];
	List	   *entries = NIL;
	int			nchanges = 0;
	Size		bytes = 0;
	int			nestlevel = outbox_planner_settings();
	Portal		portal;

	outbox_range_values(values, attachment_id, scan, scan->range);
	/* what this transaction has removed itself is not to come again */
	CommandCounterIncrement();
	UpdateActiveSnapshotCommandId();
	portal = SPI_cursor_open(NULL, outbox_plan(query), values, NULL, true);
	*full = false;
	while (!*full)
	{
		SPI_cursor_fetch(portal, true, Min(limit - nchanges, OUTBOX_READ_CHUNK));
		for (uint64 i = 0; i < SPI_processed && !*full; i++)
		{
			OutboxEntry *entry;

			bytes += outbox_entry_bytes(i);
			if (bytes > OUTBOX_READ_BYTES && entries != NIL)
			{
				*full = true;
				break;
			}
			entry = outbox_make_entry(i);
			nchanges += entry->nkeys;
			entries = lappend(entries, entry);
			*full = nchanges >= limit || bytes > OUTBOX_READ_BYTES;
		}
		if (SPI_processed == 0)
			break;
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	AtEOXact_GUC(true, nestlevel);
	return entries;
}

/* Notes which entries a statement has dealt with; somebody may have been faster. */
static void
outbox_mark_taken(List *entries)
{
	ListCell   *lc;

	foreach(lc, entries)
	{
		OutboxEntry *entry = lfirst(lc);

		entry->taken = SPI_processed == list_length(entries);
		for (uint64 i = 0; !entry->taken && i < SPI_processed; i++)
		{
			bool		isnull;
			FullTransactionId xact = DatumGetFullTransactionId(outbox_getattr(i, 1, &isnull));

			entry->taken = U64FromFullTransactionId(xact) == entry->xact &&
				DatumGetInt32(outbox_getattr(i, 2, &isnull)) == entry->seq;
		}
	}
}

/* Removes entries from the outbox. */
static void
outbox_remove(List *entries)
{
	int			n = list_length(entries);
	Datum	   *tids = palloc(sizeof(Datum) * Max(n, 1));
	Datum		values[1];

	if (n == 0)
		return;
	for (int i = 0; i < n; i++)
		tids[i] = PointerGetDatum(((OutboxEntry *) list_nth(entries, i))->tid);
	values[0] = outbox_array(tids, NULL, n, TIDOID);
	outbox_execute(OUTBOX_REMOVE, values, NULL);
	kapture_vacuum_note(KAPTURE_TABLE_OUTBOX, SPI_processed);
	outbox_mark_taken(entries);
}

/* Removes only the first keys of an entry. */
static void
outbox_split(OutboxEntry *entry, int nkeys)
{
	Datum		values[2];

	values[0] = PointerGetDatum(entry->tid);
	values[1] = Int32GetDatum(nkeys);
	outbox_execute(OUTBOX_SPLIT, values, NULL);
	/* an entry with many keys takes the room of many */
	kapture_vacuum_note(KAPTURE_TABLE_OUTBOX, OUTBOX_SPLIT_WEIGHT);
	entry->nkeys = nkeys;
	outbox_mark_taken(list_make1(entry));
}

/*
 * Removes the next changes of the current range and groups them by row, which
 * is known by the key that it has after the events in "keys" (NULL: none);
 * returns how many.  *full: there may be more of them.
 */
static int
outbox_take_range(int32 attachment_id, KaptureScan *scan, int limit, bool *full, KaptureKeys *keys,
				  HTAB *index, OutboxGroup *groups, int *ngroups)
{
	List	   *entries = outbox_read(OUTBOX_READ, attachment_id, scan, limit, full);
	int			nchanges = 0;
	bool		split;
	ListCell   *lc;

	foreach(lc, entries)
		nchanges += ((OutboxEntry *) lfirst(lc))->nkeys;
	split = nchanges > limit;
	if (split)
	{
		OutboxEntry *last = llast(entries);

		outbox_split(last, last->nkeys - (nchanges - limit));
		outbox_remove(list_truncate(list_copy(entries), list_length(entries) - 1));
		nchanges = limit;
	}
	else
		outbox_remove(entries);

	foreach(lc, entries)
	{
		OutboxEntry *entry = lfirst(lc);

		for (int i = 0; entry->taken && i < entry->nkeys; i++)
		{
			const char *key = entry->keys[i];

			if (keys)
				key = kapture_keys_follow_change(keys, key, entry->xact, entry->seq);
			if (key)
				outbox_group(index, groups, ngroups, key, entry->changed, entry->captured_at);
		}
		scan->at_xact = entry->xact;
		scan->at_seq = entry->seq;
	}
	if (split)
		scan->at_seq--;			/* what is left of the entry is next */
	return nchanges;
}

/* A delivery in a memory context of its own. */
static KaptureDelivery *
outbox_make_delivery(int32 attachment_id, const char *row_key, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "kapture_sync delivery", ALLOCSET_SMALL_SIZES);
	KaptureDelivery *delivery = MemoryContextAllocZero(context, sizeof(KaptureDelivery));

	delivery->context = context;
	delivery->attachment_id = attachment_id;
	delivery->row_key = MemoryContextStrdup(context, row_key);
	delivery->row.context = context;
	delivery->row.row_key = delivery->row_key;
	return delivery;
}

/*
 * Removes the changes of about "limit" rows at most from the outbox and appends
 * a delivery for each row to *deliveries; list and deliveries live in the
 * current memory context.  They are to be claimed in the same transaction.
 * *more tells that the limit, not the end of the outbox, ended it.
 */
void
kapture_outbox_take(int32 attachment_id, KaptureScan *scan, int limit,
					List **deliveries, bool *more)
{
	MemoryContext parent = CurrentMemoryContext;
	OutboxGroup *groups;
	HTAB	   *index;
	int			ngroups = 0;

	*more = false;
	SPI_connect();
	groups = palloc(sizeof(OutboxGroup) * limit);
	index = outbox_create_index(limit);
	if (!scan->running)
		outbox_start_pass(scan);
	while (scan->range < scan->nranges)
	{
		int			taken = outbox_take_range(attachment_id, scan, limit, more, NULL, index, groups, &ngroups);

		if (*more)
			break;
		limit -= taken;
		outbox_enter_range(scan, scan->range + 1);
	}
	if (!*more)
		outbox_end_pass(scan);

	for (int i = 0; i < ngroups; i++)
	{
		KaptureDelivery *delivery;
		MemoryContext old;

		delivery = outbox_make_delivery(attachment_id, groups[i].row_key, parent);
		old = MemoryContextSwitchTo(parent);
		delivery->changed = groups[i].changed;
		delivery->captured_at = groups[i].captured_at;
		*deliveries = lappend(*deliveries, delivery);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}

/* Text in the delivery's context, NULL for NULL. */
static char *
outbox_gettext(KaptureDelivery *delivery, uint64 row, int col)
{
	bool		isnull;
	Datum		value = outbox_getattr(row, col, &isnull);

	return isnull ? NULL : MemoryContextStrdup(delivery->context, TextDatumGetCString(value));
}

/* Fills in what the table says of a claimed delivery. */
static void
outbox_fill(KaptureDelivery *delivery, uint64 row)
{
	bool		isnull;
	Datum		value;

	delivery->attempts = DatumGetInt32(outbox_getattr(row, 2, &isnull));
	delivery->failures = DatumGetInt32(outbox_getattr(row, 3, &isnull));
	delivery->changed = DatumGetInt64(outbox_getattr(row, 4, &isnull));
	value = outbox_getattr(row, 5, &isnull);
	delivery->customer_id = isnull ? 0 : DatumGetInt64(value);
	value = outbox_getattr(row, 6, &isnull);
	delivery->in_doubt = isnull ? 0 : DatumGetTimestampTz(value);
	delivery->sent_phone = outbox_gettext(delivery, row, 8);
	delivery->sent_email = outbox_gettext(delivery, row, 9);
	delivery->searches = DatumGetInt32(outbox_getattr(row, 10, &isnull));
	delivery->place = *(ItemPointer) DatumGetPointer(outbox_getattr(row, 11, &isnull));
	delivery->delivery_id = DatumGetInt64(outbox_getattr(row, 12, &isnull));
	delivery->captured_at = DatumGetTimestampTz(outbox_getattr(row, 13, &isnull));
	delivery->gone = DatumGetBool(outbox_getattr(row, 14, &isnull));
	delivery->sent_code = outbox_gettext(delivery, row, 15);
}

static Datum
outbox_text(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

/*
 * Where rows of a batch have an entry already: claims them with the others,
 * and returns the list without those that are being sent.
 */
static List *
outbox_claim_known(List *deliveries, Datum *values, MemoryContext parent)
{
	HTAB	   *index = outbox_create_index(list_length(deliveries));
	List	   *claimed = NIL;

	for (int i = 0; i < list_length(deliveries); i++)
	{
		KaptureDelivery *d = list_nth(deliveries, i);
		OutboxIndexEntry *entry = hash_search(index, &d->row_key, HASH_ENTER, NULL);

		entry->position = i;
	}
	outbox_execute(OUTBOX_CLAIM, values, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		char	   *key = TextDatumGetCString(outbox_getattr(row, 1, &isnull));
		OutboxIndexEntry *entry = hash_search(index, &key, HASH_FIND, NULL);
		KaptureDelivery *d = list_nth(deliveries, entry->position);
		MemoryContext old;

		if (DatumGetBool(outbox_getattr(row, 7, &isnull)))
			continue;
		outbox_fill(d, row);
		d->claimed = true;
		old = MemoryContextSwitchTo(parent);
		claimed = lappend(claimed, d);
		MemoryContextSwitchTo(old);
	}
	for (int i = 0; i < list_length(deliveries); i++)
	{
		KaptureDelivery *d = list_nth(deliveries, i);

		if (!d->claimed)
			MemoryContextDelete(d->context);
	}
	list_free(deliveries);
	return claimed;
}

/*
 * Where none has, which is the usual case: enters them all.  Returns false, having done
 * nothing, if one has.  Nobody but us adds entries, so what is not there now will not be.
 */
static bool
outbox_enter(List *deliveries, TimestampTz doubt_until)
{
	static const char *const columns[] = {"attachment_id", "row_key", "state", "changed", "attempts", "failures", "in_doubt",
	"sent_phone", "sent_email", "searches", "captured_at", "last_attempt", "delivery_id", "sent_code"};
	KaptureOwnRows *rows = kapture_own_rows_begin(KAPTURE_TABLE_DELIVERY, columns, lengthof(columns), list_length(deliveries));
	Oid			ids = linitial_oid(getOwnedSequences(kapture_catalog_relid(KAPTURE_TABLE_DELIVERY)));
	Datum		sending = CStringGetTextDatum("sending");
	TimestampTz now = GetCurrentTransactionStartTimestamp();
	bool		is_new = true;
	ListCell   *lc;

	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);
		bool		nulls[lengthof(columns)] = {false};
		Datum		values[] = {
			Int32GetDatum(d->attachment_id), CStringGetTextDatum(d->row_key), sending, Int64GetDatum(d->changed),
			Int32GetDatum(1), Int32GetDatum(0), TimestampTzGetDatum(now), outbox_text(d->sent_phone, &nulls[7]),
			outbox_text(d->sent_email, &nulls[8]), Int32GetDatum(0), TimestampTzGetDatum(d->captured_at),
			TimestampTzGetDatum(GetCurrentStatementStartTimestamp()), (Datum) 0, outbox_text(d->sent_code, &nulls[13])
		};

		KAPTURE_FAULT_ROW("OUTBOX_ENTER", d->row_key);
		nulls[6] = d->captured_at > doubt_until;
		d->delivery_id = nextval_internal(ids, false);
		values[12] = Int64GetDatum(d->delivery_id);
		is_new = kapture_own_rows_add_new(rows, values, nulls);
		if (!is_new)
			break;
	}
	if (is_new)
		kapture_own_rows_write(rows);
	for (int i = 0; is_new && i < list_length(deliveries); i++)
	{
		KaptureDelivery *d = list_nth(deliveries, i);

		d->place = kapture_own_rows_place(rows, i);
		d->attempts = 1;
		if (d->captured_at <= doubt_until)
			d->in_doubt = now;
		d->claimed = true;
	}
	kapture_own_rows_end(rows);
	return is_new;
}

/*
 * Enters taken deliveries into kapture_delivery, as being sent, together with
 * the phone and email by which a lost Add could be found.  Adds of changes
 * captured until "doubt_until" are in doubt: see origin.h.  Returns the list
 * without the rows that are being sent already, whose turn comes when that is
 * over; those deliveries are freed.
 */
List *
kapture_outbox_claim(List *deliveries, TimestampTz doubt_until)
{
	int			n = list_length(deliveries);
	Datum	   *cols[6];
	bool	   *nulls[6];
	static const Oid types[6] = {TEXTOID, INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[8];
	MemoryContext parent = CurrentMemoryContext;
	int			i = 0;
	ListCell   *lc;

	if (n == 0)
		return NIL;
	SPI_connect();
	if (outbox_enter(deliveries, doubt_until))
	{
		SPI_finish();
		return deliveries;
	}
	for (int c = 0; c < lengthof(types); c++)
	{
		cols[c] = palloc0(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);

		cols[0][i] = CStringGetTextDatum(d->row_key);
		cols[1][i] = Int64GetDatum(d->changed);
		cols[2][i] = TimestampTzGetDatum(d->captured_at);
		cols[3][i] = outbox_text(d->sent_phone, &nulls[3][i]);
		cols[4][i] = outbox_text(d->sent_email, &nulls[4][i]);
		cols[5][i] = outbox_text(d->sent_code, &nulls[5][i]);
		i++;
	}
	values[0] = Int32GetDatum(((KaptureDelivery *) linitial(deliveries))->attachment_id);
	for (int c = 0; c < lengthof(types); c++)
		values[c + 1] = outbox_array(cols[c], nulls[c], n, types[c]);
	values[7] = TimestampTzGetDatum(doubt_until);
	deliveries = outbox_claim_known(deliveries, values, parent);
	SPI_finish();
	return deliveries;
}

/*
 * Parks a row that was taken, but cannot be claimed because of an error.  Where
 * it is being sent, its turn comes when that is over.
 */
void
kapture_outbox_park(KaptureDelivery *delivery, TimestampTz doubt_until, const char *error)
{
	Datum		values[6];

	values[0] = Int32GetDatum(delivery->attachment_id);
	values[1] = CStringGetTextDatum(delivery->row_key);
	values[2] = Int64GetDatum(delivery->changed);
	values[3] = TimestampTzGetDatum(delivery->captured_at);
	values[4] = TimestampTzGetDatum(doubt_until);
	values[5] = CStringGetTextDatum(error);
	SPI_connect();
	outbox_execute(OUTBOX_PARK, values, NULL);
	SPI_finish();
}

/*
 * Parks a row that waits for its next try.  Returns false if there is none
 * such.
 */
bool
kapture_outbox_park_due(int32 attachment_id, const char *row_key, const char *error)
{
	Datum		values[3] = {Int32GetDatum(attachment_id), CStringGetTextDatum(row_key), CStringGetTextDatum(error)};
	bool		parked;

	SPI_connect();
	outbox_execute(OUTBOX_PARK_DUE, values, NULL);
	parked = SPI_processed > 0;
	SPI_finish();
	return parked;
}

/*
 * Claims at most "limit" rows whose next try is due "now" and appends them to
 * *deliveries, as kapture_outbox_claim() does.  With "well_since", so are rows that failed and have
 * not been tried since then, whatever their delay; 0: without.
 */
void
kapture_outbox_claim_due(int32 attachment_id, int limit, TimestampTz now, TimestampTz well_since,
						 List **deliveries)
{
	MemoryContext parent = CurrentMemoryContext;
	Datum		values[5] = {Int32GetDatum(attachment_id), Int64GetDatum(limit),
		TimestampTzGetDatum(well_since != 0 ? DT_NOEND : now), TimestampTzGetDatum(now),
		TimestampTzGetDatum(well_since != 0 ? well_since : DT_NOBEGIN)};

	SPI_connect();
	outbox_execute(OUTBOX_CLAIM_DUE, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;
		KaptureDelivery *delivery =
			outbox_make_delivery(attachment_id, TextDatumGetCString(outbox_getattr(i, 1, &isnull)), parent);
		MemoryContext old;

		outbox_fill(delivery, i);
		delivery->claimed = true;
		old = MemoryContextSwitchTo(parent);
		*deliveries = lappend(*deliveries, delivery);
		MemoryContextSwitchTo(old);
	}
	SPI_finish();
}

/*
 * Records phone and email of Adds that are about to be sent for claimed
 * deliveries of one table, so that they can be found should they be lost.
 */
void
kapture_outbox_note_adds(List *deliveries)
{
	int			n = list_length(deliveries);
	Datum	   *cols[4];
	bool	   *nulls[4];
	Datum		values[5];
	int			i = 0;
	ListCell   *lc;

	if (n == 0)
		return;
	SPI_connect();
	for (int c = 0; c < lengthof(cols); c++)
	{
		cols[c] = palloc0(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);

		cols[0][i] = Int64GetDatum(d->delivery_id);
		cols[1][i] = outbox_text(d->sent_phone, &nulls[1][i]);
		cols[2][i] = outbox_text(d->sent_email, &nulls[2][i]);
		cols[3][i] = outbox_text(d->sent_code, &nulls[3][i]);
		i++;
	}
	values[0] = Int32GetDatum(((KaptureDelivery *) linitial(deliveries))->attachment_id);
	for (int c = 0; c < lengthof(cols); c++)
		values[c + 1] = outbox_array(cols[c], nulls[c], n, c == 0 ? INT8OID : TEXTOID);
	outbox_execute(OUTBOX_NOTE_ADDS, values, NULL);
	SPI_finish();
}

/*
 * Records which customers claimed deliveries of one table are linked to
 * (delivery->customer_id), before the customers are sent anything.
 */
void
kapture_outbox_note_links(List *deliveries)
{
	int			n = list_length(deliveries);
	Datum	   *cols[2];
	Datum		values[3];
	ListCell   *lc;

	if (n == 0)
		return;
	SPI_connect();
	for (int c = 0; c < 2; c++)
		cols[c] = palloc(sizeof(Datum) * n);
	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);

		cols[0][foreach_current_index(lc)] = Int64GetDatum(d->delivery_id);
		cols[1][foreach_current_index(lc)] = Int64GetDatum(d->customer_id);
	}
	values[0] = Int32GetDatum(((KaptureDelivery *) linitial(deliveries))->attachment_id);
	for (int c = 0; c < 2; c++)
		values[c + 1] = outbox_array(cols[c], NULL, n, INT8OID);
	outbox_execute(OUTBOX_NOTE_LINKS, values, NULL);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, SPI_processed);
	/* they have moved, and are looked for there when they end */
	foreach(lc, deliveries)
	{
		KaptureDelivery *d = lfirst(lc);
		bool		isnull;

		for (uint64 row = 0; row < SPI_processed; row++)
		{
			if (DatumGetInt64(outbox_getattr(row, 1, &isnull)) == d->delivery_id)
				d->place = *(ItemPointer) DatumGetPointer(outbox_getattr(row, 2, &isnull));
		}
	}
	SPI_finish();
}

/* ------------------------------------------------------------------------
 * Following keys
 * ------------------------------------------------------------------------
 */

/* What is to happen to deliveries whose rows have got another key. */
typedef struct OutboxMove
{
	int64		delivery_id;
	const char *key;			/* of the row at last, */
	const char *new_key;		/* and now; NULL: it has been deleted */
} OutboxMove;

/* Is nothing but deletions left of a pass? */
static bool
outbox_only_deletions(int32 attachment_id, const KaptureScan *scan)
{
	for (int range = scan->range; range < scan->nranges; range++)
	{
		Datum		values[4];
		bool		isnull;

		outbox_range_values(values, attachment_id, scan, range);
		outbox_run(OUTBOX_REKEYS, values, NULL, true);
		if (DatumGetBool(outbox_getattr(0, 1, &isnull)))
			return false;
	}
	return true;
}

/*
 * Takes entries about keys that are new out of the outbox, and their events in:
 * all of them, since their order is not that of the outbox.  The order of mere
 * deletions does not matter, so many are taken bit by bit.  Returns NULL if none
 * are left.
 */
static KaptureKeys *
outbox_read_keys(int32 attachment_id, KaptureScan *scan)
{
	KaptureKeys *keys = NULL;
	bool		only_deletions = true;
	bool		full;
	List	   *entries;
	ListCell   *lc;

	while (scan->range < scan->nranges)
	{
		if (only_deletions && keys && kapture_keys_count(keys) >= OUTBOX_MAX_DELETIONS)
		{
			only_deletions = kapture_keys_only(keys, KAPTURE_NOTE_DELETED) && outbox_only_deletions(attachment_id, scan);
			if (only_deletions)
				break;
		}
		entries = outbox_read(OUTBOX_READ_KEYS, attachment_id, scan, OUTBOX_CHUNK, &full);
		if (entries == NIL)
			outbox_enter_range(scan, scan->range + 1);
		else if (keys == NULL)
			keys = kapture_keys_create();
		outbox_remove(entries);
		foreach(lc, entries)
		{
			OutboxEntry *entry = lfirst(lc);
			KaptureKeyEvent event = {
				.op = entry->op,.xact = entry->xact,.command = abs(entry->command),.own = entry->command < 0,
				.seq = entry->seq,
				.new_key = entry->op == KAPTURE_NOTE_REKEYED ? entry->keys[0] : NULL,
				.changed = entry->changed,.captured_at = entry->captured_at
			};

			for (int i = 0; entry->op != KAPTURE_NOTE_END && i < entry->nkeys; i++)
			{
				event.key = entry->old_key ? entry->old_key : entry->keys[i];
				event.customer_id = entry->customer_ids ? DatumGetInt64(entry->customer_ids[i]) : KAPTURE_NOTE_NOT_KNOWN;
				kapture_keys_add(keys, &event);
			}
			if (entry->snapshot != (Datum) 0)
				kapture_keys_add_end(keys, entry->xact, entry->rank, entry->snapshot);
			scan->at_xact = entry->xact;
			scan->at_seq = entry->seq;
		}
	}
	if (keys)
		kapture_keys_arrange(keys);
	return keys;
}

/* Adds a delivery, which had this key, to those whose rows have another one, or none. */
static List *
outbox_add_move(List *moves, KaptureKeys *keys, HTAB *arrived, int64 delivery_id, const char *key)
{
	KaptureKeyEvent *last;
	const char *new_key = kapture_keys_follow(keys, key, &last);
	bool		found = false;
	OutboxMove *move;

	if (last == NULL)
		return moves;
	last->met = true;
	last->delivery_id = delivery_id;
	if (new_key && strcmp(new_key, key) == 0)
		return moves;			/* there and back */

	/* two rows cannot have one key: the end of one of them was not captured */
	if (new_key)
		(void) hash_search(arrived, &new_key, HASH_ENTER, &found);
	move = palloc(sizeof(OutboxMove));
	move->delivery_id = delivery_id;
	move->key = last->op == KAPTURE_NOTE_DELETED ? last->key : key;
	move->new_key = found ? NULL : new_key;
	return lappend(moves, move);
}

/* Does so for what the last statement has found. */
static List *
outbox_add_moves(List *moves, KaptureKeys *keys, HTAB *arrived)
{
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		int64		delivery_id = DatumGetInt64(outbox_getattr(row, 1, &isnull));

		moves = outbox_add_move(moves, keys, arrived, delivery_id,
								TextDatumGetCString(outbox_getattr(row, 2, &isnull)));
	}
	SPI_freetuptable(SPI_tuptable);
	return moves;
}

/* Finds the deliveries whose rows have got another key, or none. */
static List *
outbox_find_moves(int32 attachment_id, KaptureKeys *keys)
{
	List	   *moves = NIL;
	Datum		values[2] = {Int32GetDatum(attachment_id)};
	Datum	   *elems = palloc(sizeof(Datum) * OUTBOX_CHUNK);
	HTAB	   *asked = outbox_create_index(OUTBOX_CHUNK);
	HTAB	   *arrived = outbox_create_index(OUTBOX_CHUNK);
	int			n = 0;

	if (kapture_keys_any(keys, KAPTURE_NOTE_TRUNCATED))
	{
		outbox_execute(OUTBOX_WITH_ANY_KEY, values, NULL);
		return outbox_add_moves(moves, keys, arrived);
	}
	for (int i = 0; i < kapture_keys_count(keys); i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);
		bool		found = false;

		if (event->op == KAPTURE_NOTE_DELETED || event->op == KAPTURE_NOTE_REKEYED)
			(void) hash_search(asked, &event->key, HASH_ENTER, &found);
		else
			found = true;
		if (!found)
			elems[n++] = CStringGetTextDatum(event->key);
		if (n == 0 || (n < OUTBOX_CHUNK && i < kapture_keys_count(keys) - 1))
			continue;
		values[1] = outbox_array(elems, NULL, n, TEXTOID);
		outbox_execute(OUTBOX_WITH_KEYS, values, NULL);
		moves = outbox_add_moves(moves, keys, arrived);
		n = 0;
	}
	return moves;
}

/* Appends what the last statement has done to deliveries to *moved. */
static void
outbox_note_moved(List **moved, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);

	for (uint64 row = 0; row < SPI_processed; row++)
	{
		KaptureMoved *m = palloc(sizeof(KaptureMoved));
		bool		isnull;
		Datum		key;

		m->delivery_id = DatumGetInt64(outbox_getattr(row, 1, &isnull));
		m->place = *(ItemPointer) DatumGetPointer(outbox_getattr(row, 2, &isnull));
		key = outbox_getattr(row, 3, &isnull);
		m->row_key = isnull ? NULL : TextDatumGetCString(key);
		*moved = lappend(*moved, m);
	}
	MemoryContextSwitchTo(old);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, SPI_processed);
}

/*
 * Gives deliveries their rows' present keys.  They may be each other's, so all
 * keys are given up before any is taken.  A delivery that is not among them and
 * has one of the new keys is that of a row whose end was not captured.
 */
static void
outbox_move(int32 attachment_id, List *moves, List **moved, MemoryContext context)
{
	int			nmoves = list_length(moves);
	Datum	   *cols[5];		/* of all: id, last key, is it gone; of those that are not: id, key */
	Datum		values[4] = {Int32GetDatum(attachment_id)};
	int			n = 0;

	if (nmoves == 0)
		return;
	for (int c = 0; c < lengthof(cols); c++)
		cols[c] = palloc(sizeof(Datum) * nmoves);
	for (int i = 0; i < nmoves; i++)
	{
		OutboxMove *move = list_nth(moves, i);

		cols[0][i] = Int64GetDatum(move->delivery_id);
		cols[1][i] = CStringGetTextDatum(move->key);
		cols[2][i] = BoolGetDatum(move->new_key == NULL);
		if (move->new_key == NULL)
			continue;
		cols[3][n] = Int64GetDatum(move->delivery_id);
		cols[4][n++] = CStringGetTextDatum(move->new_key);
	}
	values[1] = outbox_array(cols[0], NULL, nmoves, INT8OID);
	values[2] = outbox_array(cols[1], NULL, nmoves, TEXTOID);
	values[3] = outbox_array(cols[2], NULL, nmoves, BOOLOID);
	outbox_execute(OUTBOX_LEAVE, values, NULL);
	outbox_note_moved(moved, context);
	if (n == 0)
		return;
	values[1] = outbox_array(cols[4], NULL, n, TEXTOID);
	outbox_execute(OUTBOX_EVICT, values, NULL);
	outbox_note_moved(moved, context);
	values[1] = outbox_array(cols[3], NULL, n, INT8OID);
	values[2] = outbox_array(cols[4], NULL, n, TEXTOID);
	outbox_execute(OUTBOX_ARRIVE, values, NULL);
	outbox_note_moved(moved, context);
}

/* Enters changes that are to be claimed later, together with what is there already. */
static void
outbox_wait(int32 attachment_id, const OutboxGroup *groups, int ngroups)
{
	Datum	   *cols[3];
	Datum		values[4] = {Int32GetDatum(attachment_id)};

	for (int first = 0; first < ngroups; first += OUTBOX_CHUNK)
	{
		int			n = Min(ngroups - first, OUTBOX_CHUNK);

		for (int c = 0; c < lengthof(cols); c++)
			cols[c] = palloc(sizeof(Datum) * n);
		for (int i = 0; i < n; i++)
		{
			cols[0][i] = CStringGetTextDatum(groups[first + i].row_key);
			cols[1][i] = Int64GetDatum(groups[first + i].changed);
			cols[2][i] = TimestampTzGetDatum(groups[first + i].captured_at);
		}
		values[1] = outbox_array(cols[0], NULL, n, TEXTOID);
		values[2] = outbox_array(cols[1], NULL, n, INT8OID);
		values[3] = outbox_array(cols[2], NULL, n, TIMESTAMPTZOID);
		outbox_execute(OUTBOX_WAIT, values, NULL);
	}
}

/* Enters the changes that came with events.  Returns whether there were any. */
static bool
outbox_wait_events(int32 attachment_id, KaptureKeys *keys)
{
	int			n = kapture_keys_count(keys);
	OutboxGroup *groups = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(OutboxGroup) * Max(n, 1));
	HTAB	   *index = outbox_create_index(OUTBOX_CHUNK);
	int			ngroups = 0;

	for (int i = 0; i < n; i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);
		const char *key;

		if (event->op != KAPTURE_NOTE_REKEYED && event->op != KAPTURE_NOTE_PLACED)
			continue;
		key = kapture_keys_follow_event(event);
		if (key)
			outbox_group(index, groups, &ngroups, key, event->changed, event->captured_at);
	}
	outbox_wait(attachment_id, groups, ngroups);
	return ngroups > 0;
}

/*
 * Enters all other changes that are committed: they name keys as they were
 * before the events, after them or in between, which will not be known later.
 */
static bool
outbox_wait_changes(int32 attachment_id, KaptureScan *scan, KaptureKeys *keys)
{
	bool		any = false;

	while (scan->range < scan->nranges)
	{
		OutboxGroup *groups;
		int			ngroups = 0;
		bool		more;

		/* SPI's memory is what each round takes */
		SPI_connect();
		groups = palloc(sizeof(OutboxGroup) * OUTBOX_CHUNK);
		(void) outbox_take_range(attachment_id, scan, OUTBOX_CHUNK, &more, keys,
								 outbox_create_index(OUTBOX_CHUNK), groups, &ngroups);
		outbox_wait(attachment_id, groups, ngroups);
		any |= ngroups > 0;
		SPI_finish();
		if (!more)
			outbox_enter_range(scan, scan->range + 1);
	}
	outbox_end_pass(scan);
	return any;
}

/* Is it the end of a row whose customer is known? */
static bool
outbox_is_reported(const KaptureKeyEvent *event)
{
	return event->op == KAPTURE_NOTE_DELETED && !event->kept && event->customer_id > 0;
}

/*
 * Has it reported that rows were deleted which had customers: their deliveries get
 * to know these, and rows without one get one.  A row that waits for such a customer
 * takes it over instead.  Returns whether there were any.
 */
static bool
outbox_report_deleted(int32 attachment_id, KaptureKeys *keys)
{
	int			count = kapture_keys_count(keys);
	Datum	   *met[2];			/* id of the delivery, customer */
	Datum	   *unmet[3];		/* key, time, customer */
	Datum		values[4] = {Int32GetDatum(attachment_id)};
	int			nmet = 0;
	int			nunmet = 0;
	bool		any = false;

	for (int c = 0; c < lengthof(met); c++)
		met[c] = palloc(sizeof(Datum) * OUTBOX_CHUNK);
	for (int c = 0; c < lengthof(unmet); c++)
		unmet[c] = palloc(sizeof(Datum) * OUTBOX_CHUNK);
	for (int i = 0; i < count; i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);
		bool		last = i == count - 1;

		if (outbox_is_reported(event) && event->met)
		{
			met[0][nmet] = Int64GetDatum(event->delivery_id);
			met[1][nmet++] = Int64GetDatum(event->customer_id);
		}
		else if (outbox_is_reported(event))
		{
			unmet[0][nunmet] = CStringGetTextDatum(event->key);
			unmet[1][nunmet] = TimestampTzGetDatum(event->captured_at);
			unmet[2][nunmet++] = Int64GetDatum(event->customer_id);
		}
		if (nmet == OUTBOX_CHUNK || (last && nmet > 0))
		{
			values[1] = outbox_array(met[0], NULL, nmet, INT8OID);
			values[2] = outbox_array(met[1], NULL, nmet, INT8OID);
			outbox_execute(OUTBOX_REPORT_DELETED, values, NULL);
			nmet = 0;
			any = true;
		}
		if (nunmet == OUTBOX_CHUNK || (last && nunmet > 0))
		{
			values[1] = outbox_array(unmet[0], NULL, nunmet, TEXTOID);
			values[2] = outbox_array(unmet[1], NULL, nunmet, TIMESTAMPTZOID);
			values[3] = outbox_array(unmet[2], NULL, nunmet, INT8OID);
			outbox_execute(OUTBOX_REPORT_NEW, values, NULL);
			nunmet = 0;
			any = true;
		}
	}
	return any;
}

/*
 * Records rows that were deleted, and of which nothing was being sent.  "reported":
 * those whose customers are known have deliveries, which will record them.
 */
static void
outbox_note_gone(int32 attachment_id, KaptureKeys *keys, bool reported)
{
	Datum	   *cols[2];
	Datum		values[3] = {Int32GetDatum(attachment_id)};
	int			n = 0;

	if (kapture_history_retention == 0)
		return;
	for (int c = 0; c < lengthof(cols); c++)
		cols[c] = palloc(sizeof(Datum) * OUTBOX_CHUNK);
	for (int i = 0; i < kapture_keys_count(keys); i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(keys, i);

		if (event->op == KAPTURE_NOTE_DELETED && !event->kept && !event->met &&
			!(reported && outbox_is_reported(event)))
		{
			cols[0][n] = CStringGetTextDatum(event->key);
			cols[1][n++] = TimestampTzGetDatum(event->captured_at);
		}
		if (n == 0 || (n < OUTBOX_CHUNK && i < kapture_keys_count(keys) - 1))
			continue;
		values[1] = outbox_array(cols[0], NULL, n, TEXTOID);
		values[2] = outbox_array(cols[1], NULL, n, TIMESTAMPTZOID);
		outbox_execute(OUTBOX_GONE, values, NULL);
		n = 0;
	}
}

/*
 * Follows the changes of keys and the deletions in an attached table that the
 * transaction's snapshot shows: afterwards, each delivery has the key that its
 * row has in this snapshot.  "keys_scan" is how far such entries have been read,
 * "scan" how far the others have.  Returns what became of deliveries, a list of
 * KaptureMoved in the current memory context; *waiting is set if changes are
 * due that were not before.  "follower" is called with the same, and with "arg";
 * it fills in the customers of deleted rows that are not known, if it knows them.
 */
List *
kapture_outbox_follow(const KaptureAttachment *att, KaptureScan *keys_scan, KaptureScan *scan, bool *waiting,
					  KaptureKeysFollower follower, void *arg)
{
	int32		attachment_id = att->id;
	MemoryContext context = CurrentMemoryContext;
	KaptureKeys *keys;
	List	   *moved = NIL;

	SPI_connect();
	outbox_start_pass(keys_scan);
	while ((keys = outbox_read_keys(attachment_id, keys_scan)) != NULL)
	{
		outbox_move(attachment_id, outbox_find_moves(attachment_id, keys), &moved, context);
		*waiting |= moved != NIL;
		if (kapture_keys_any(keys, KAPTURE_NOTE_REKEYED))
		{
			/* a pass that began earlier does not see all that this transaction does */
			if (scan->running)
				*waiting |= outbox_wait_changes(attachment_id, scan, keys);
			outbox_start_pass(scan);
			*waiting |= outbox_wait_changes(attachment_id, scan, keys);
		}
		*waiting |= outbox_wait_events(attachment_id, keys);
		follower(attachment_id, keys, arg);
		if (att->on_delete != NIL)
			*waiting |= outbox_report_deleted(attachment_id, keys);
		outbox_note_gone(attachment_id, keys, att->on_delete != NIL);

		/* what is in memory goes, before there is more */
		SPI_finish();
		SPI_connect();
	}
	outbox_end_pass(keys_scan);
	SPI_finish();
	return moved;
}

/*
 * Returns when the next try of any row of the attachment is due, DT_NOEND if
 * none is waiting.
 */
TimestampTz
kapture_outbox_next_due(int32 attachment_id)
{
	Datum		values[1] = {Int32GetDatum(attachment_id)};
	TimestampTz result = DT_NOEND;

	SPI_connect();
	outbox_execute(OUTBOX_NEXT_DUE, values, NULL);
	if (SPI_processed > 0)
	{
		bool		isnull;
		Datum		value = outbox_getattr(0, 1, &isnull);

		if (!isnull)
			result = DatumGetTimestampTz(value);
	}
	SPI_finish();
	return result;
}

/* What is left of deliveries that ended well, as it was taken off kapture_delivery. */
typedef struct OutboxEnded
{
	const KaptureDone *done;
	Datum		captured_at;
	Datum		row_key;		/* the last one, if it is deleted */
	bool		deleted;
} OutboxEnded;

/*
 * Takes off kapture_delivery what is still where it was claimed, and did not change
 * meanwhile; returns how many, in *ended.
 */
static int
outbox_take_off(List *done, OutboxEnded **ended)
{
	static const Oid types[] = {TIDOID, INT4OID, INT8OID, INT4OID};
	int			n = list_length(done);
	Datum	   *cols[lengthof(types)];
	Datum		values[lengthof(types)];
	int			taken;

	for (int c = 0; c < lengthof(types); c++)
		cols[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		KaptureDelivery *d = ((KaptureDone *) list_nth(done, i))->delivery;

		cols[0][i] = PointerGetDatum(&d->place);
		cols[1][i] = Int32GetDatum(d->attachment_id);
		cols[2][i] = Int64GetDatum(d->delivery_id);
		cols[3][i] = Int32GetDatum(d->attempts);
	}
	for (int c = 0; c < lengthof(types); c++)
		values[c] = outbox_array(cols[c], NULL, n, types[c]);
	outbox_execute(OUTBOX_FINISH, values, NULL);
	taken = (int) SPI_processed;
	*ended = palloc(sizeof(OutboxEnded) * Max(taken, 1));
	for (int i = 0; i < taken; i++)
	{
		OutboxEnded *e = &(*ended)[i];
		bool		isnull;

		e->done = list_nth(done, (int) DatumGetInt64(outbox_getattr(i, 1, &isnull)) - 1);
		e->captured_at = outbox_getattr(i, 2, &isnull);
		e->row_key = outbox_getattr(i, 3, &isnull);
		e->deleted = DatumGetBool(outbox_getattr(i, 4, &isnull));
	}
	return taken;
}

/* Adds them to the history. */
static void
outbox_add_history(const OutboxEnded *ended, int n)
{
	static const char *const columns[] = {"attachment_id", "row_key", "attempts", "action", "customer_id", "http_status",
	"message", "captured_at", "finished_at", "relation", "name"};
	KaptureOwnRows *rows = kapture_own_rows_begin(KAPTURE_TABLE_HISTORY, columns, lengthof(columns), n);

	for (int i = 0; i < n; i++)
	{
		const KaptureDone *d = ended[i].done;
		bool		nulls[lengthof(columns)] = {false};
		Datum		values[] = {
			Int32GetDatum(d->delivery->attachment_id), ended[i].row_key, Int32GetDatum(d->delivery->attempts),
			CStringGetTextDatum(d->action), Int64GetDatum(d->customer_id), Int32GetDatum(d->http_status),
			outbox_text(d->message, &nulls[6]), ended[i].captured_at,
			TimestampTzGetDatum(GetCurrentStatementStartTimestamp()), ObjectIdGetDatum(d->att->root),
			CStringGetTextDatum(d->att->name)
		};

		KAPTURE_FAULT_ROW("history", d->delivery->row_key);
		nulls[4] = d->customer_id == 0;
		nulls[5] = d->http_status == 0;
		kapture_own_rows_add(rows, values, nulls);
	}
	kapture_own_rows_write(rows);
	kapture_own_rows_end(rows);
}

/* Is it merely a row that has its customer, and was sent something? */
static bool
outbox_is_plain(const OutboxEnded *e)
{
	return !e->deleted && strcmp(e->done->action, "gone") != 0 && strcmp(e->done->action, "left") != 0;
}

/* Notes which customers these rows are, where that is more than to add them. */
static void
outbox_note_rows(const OutboxEnded **ended, int n)
{
	static const Oid types[] = {INT4OID, TEXTOID, INT8OID, BYTEAOID, TEXTOID, BOOLOID};
	Datum	   *cols[lengthof(types)];
	bool	   *nulls[lengthof(types)];
	Datum		values[lengthof(types)];

	if (n == 0)
		return;
	for (int c = 0; c < lengthof(types); c++)
	{
		cols[c] = palloc(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	for (int i = 0; i < n; i++)
	{
		const KaptureDone *d = ended[i]->done;

		cols[0][i] = Int32GetDatum(d->delivery->attachment_id);
		cols[1][i] = ended[i]->row_key;
		cols[2][i] = Int64GetDatum(d->customer_id);
		cols[3][i] = PointerGetDatum(d->digests);
		nulls[3][i] = d->digests == NULL;
		cols[4][i] = CStringGetTextDatum(d->action);
		cols[5][i] = BoolGetDatum(ended[i]->deleted);
	}
	for (int c = 0; c < lengthof(types); c++)
		values[c] = outbox_array(cols[c], nulls[c], n, types[c]);
	outbox_execute(OUTBOX_NOTE_ROWS, values, NULL);
}

/* Notes which customers their rows are, and what was sent of them. */
static void
outbox_add_rows(const OutboxEnded *ended, int n)
{
	static const char *const columns[] = {"attachment_id", "row_key", "customer_id", "digests"};
	KaptureOwnRows *rows = kapture_own_rows_begin(KAPTURE_TABLE_ROW, columns, lengthof(columns), n);
	const OutboxEnded **others = palloc(sizeof(OutboxEnded *) * n);
	int			nothers = 0;

	for (int i = 0; i < n; i++)
	{
		const KaptureDone *d = ended[i].done;
		bool		nulls[] = {false, false, false, d->digests == NULL};
		Datum		values[] = {
			Int32GetDatum(d->delivery->attachment_id), ended[i].row_key, Int64GetDatum(d->customer_id),
			PointerGetDatum(d->digests)
		};

		if (d->customer_id != 0 &&
			!(outbox_is_plain(&ended[i]) && kapture_own_rows_add_new(rows, values, nulls)))
			others[nothers++] = &ended[i];
	}
	kapture_own_rows_write(rows);
	kapture_own_rows_end(rows);
	outbox_note_rows(others, nothers);
}

/*
 * Ends those that changed meanwhile, or are no longer where they were.  Appends the ids
 * of the attachments of the former to a list in that context, which it returns.
 */
static List *
outbox_finish_rest(List *done, MemoryContext context)
{
	static const Oid types[] = {INT4OID, INT8OID, INT4OID, TEXTOID, INT8OID, INT4OID, TEXTOID, BYTEAOID};
	int			n = list_length(done);
	Datum	   *cols[lengthof(types)];
	bool	   *nulls[lengthof(types)];
	Datum		values[lengthof(types) + 1];
	List	   *again = NIL;

	for (int c = 0; c < lengthof(types); c++)
	{
		cols[c] = palloc0(sizeof(Datum) * n);
		nulls[c] = palloc0(sizeof(bool) * n);
	}
	for (int i = 0; i < n; i++)
	{
		KaptureDone *d = list_nth(done, i);

		cols[0][i] = Int32GetDatum(d->delivery->attachment_id);
		cols[1][i] = Int64GetDatum(d->delivery->delivery_id);
		cols[2][i] = Int32GetDatum(d->delivery->attempts);
		cols[3][i] = CStringGetTextDatum(d->action);
		cols[4][i] = Int64GetDatum(d->customer_id);
		nulls[4][i] = d->customer_id == 0;
		cols[5][i] = Int32GetDatum(d->http_status);
		nulls[5][i] = d->http_status == 0;
		cols[6][i] = outbox_text(d->message, &nulls[6][i]);
		cols[7][i] = PointerGetDatum(d->digests);
		nulls[7][i] = d->digests == NULL;
	}
	for (int c = 0; c < lengthof(types); c++)
		values[c] = outbox_array(cols[c], nulls[c], n, types[c]);
	values[lengthof(types)] = BoolGetDatum(kapture_history_retention > 0);
	outbox_execute(OUTBOX_FINISH_REST, values, NULL);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		bool		isnull;

		again = lappend_int(again, DatumGetInt32(outbox_getattr(row, 1, &isnull)));
		MemoryContextSwitchTo(old);
	}
	return again;
}

/*
 * Ends deliveries (a list of KaptureDone) well: they go to the history.  A row
 * that changed while it was being sent is due again at once: returns the ids of
 * the attachments that have such rows.
 */
List *
kapture_outbox_finish(List *done)
{
	MemoryContext context = CurrentMemoryContext;
	OutboxEnded *ended;
	List	   *again = NIL;
	int			n;

	if (done == NIL)
		return NIL;
	SPI_connect();
	n = outbox_take_off(done, &ended);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, list_length(done));
	if (n > 0)
	{
		if (kapture_history_retention > 0)
			outbox_add_history(ended, n);
		outbox_add_rows(ended, n);
	}
	if (n < list_length(done))
		again = outbox_finish_rest(done, context);
	SPI_finish();
	return again;
}

/*
 * Records that a delivery failed: when it is tried again, or that it is parked
 * until the row changes or somebody asks for it.  Returns when it is due,
 * DT_NOEND if it is parked.
 */
TimestampTz
kapture_outbox_fail(KaptureFailed *failed)
{
	KaptureDelivery *d = failed->delivery;
	Datum		values[15];
	char		nulls[16] = "               ";
	TimestampTz next = DT_NOEND;

	values[0] = Int32GetDatum(d->attachment_id);
	values[1] = Int64GetDatum(d->delivery_id);
	values[2] = Int32GetDatum(d->attempts);
	values[3] = CStringGetTextDatum(failed->park ? "parked" : "retry");
	values[4] = Int32GetDatum(failed->counts ? 1 : 0);
	values[5] = TimestampTzGetDatum(failed->next_attempt);
	values[6] = TimestampTzGetDatum(failed->in_doubt);
	values[7] = Int64GetDatum(failed->customer_id);
	values[8] = failed->api ? CStringGetTextDatum(failed->api) : (Datum) 0;
	values[9] = failed->request ? CStringGetTextDatum(failed->request) : (Datum) 0;
	values[10] = Int32GetDatum(failed->http_status);
	values[11] = CStringGetTextDatum(failed->error);
	values[12] = BoolGetDatum(failed->arrived);
	values[13] = Int64GetDatum(failed->waits_for);
	values[14] = BoolGetDatum(failed->unsure);
	if (failed->in_doubt == 0)
		nulls[6] = 'n';
	if (failed->customer_id == 0)
		nulls[7] = 'n';
	if (failed->api == NULL)
		nulls[8] = 'n';
	if (failed->request == NULL)
		nulls[9] = 'n';
	if (failed->http_status == 0)
		nulls[10] = 'n';
	if (failed->waits_for == 0)
		nulls[13] = 'n';

	SPI_connect();
	outbox_execute(OUTBOX_FAIL, values, nulls);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, SPI_processed);
	if (SPI_processed > 0)
	{
		bool		isnull;
		Datum		value = outbox_getattr(0, 1, &isnull);

		if (!isnull)
			next = DatumGetTimestampTz(value);
	}
	SPI_finish();
	return next;
}

/*
 * Has parked deliveries, "n" of them, wait for another try instead; those that are
 * parked no longer are left alone.
 */
void
kapture_outbox_unpark(const int32 *attachments, const int64 *deliveries, int n, TimestampTz next_attempt)
{
	Datum	   *ids[2] = {palloc(sizeof(Datum) * n), palloc(sizeof(Datum) * n)};
	Datum		values[3];

	for (int i = 0; i < n; i++)
	{
		ids[0][i] = Int32GetDatum(attachments[i]);
		ids[1][i] = Int64GetDatum(deliveries[i]);
	}
	values[0] = outbox_array(ids[0], NULL, n, INT4OID);
	values[1] = outbox_array(ids[1], NULL, n, INT8OID);
	values[2] = TimestampTzGetDatum(next_attempt);
	SPI_connect();
	outbox_execute(OUTBOX_UNPARK, values, NULL);
	kapture_vacuum_note(KAPTURE_TABLE_DELIVERY, SPI_processed);
	SPI_finish();
}

/*
 * The system's clock was set by so many microseconds: what waits for a time does so for
 * as long as before.
 */
void
kapture_outbox_shift(int64 jump)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(jump)};

	(void) kapture_own_execute("UPDATE @.kapture_delivery SET next_attempt = next_attempt + $1 * interval '1 microsecond',"
							   " in_doubt = in_doubt + $1 * interval '1 microsecond' WHERE state = 'retry'", 1, types, values);
}

/*
 * Puts back a delivery for which no Add or Update was sent; it is due at
 * next_attempt.  Its doubt is as the delivery now says.
 */
void
kapture_outbox_release(KaptureDelivery *delivery, TimestampTz next_attempt)
{
	Datum		values[6];
	char		nulls[7] = "      ";

	values[0] = Int32GetDatum(delivery->attachment_id);
	values[1] = Int64GetDatum(delivery->delivery_id);
	values[2] = Int32GetDatum(delivery->attempts);
	values[3] = TimestampTzGetDatum(next_attempt);
	values[4] = TimestampTzGetDatum(delivery->in_doubt);
	values[5] = Int32GetDatum(delivery->searches);
	if (delivery->in_doubt == 0)
		nulls[4] = 'n';
	SPI_connect();
	outbox_execute(OUTBOX_RELEASE, values, nulls);
	SPI_finish();
}

/*
 * Returns the transaction before which nothing waits any more for a scan: all
 * that is left, or comes yet, is its or a later one's.
 */
uint64
kapture_outbox_scan_floor(const KaptureScan *scan)
{
	uint64		floor;

	if (!scan->running)
	{
		floor = scan->seen_xmax;	/* 0 before the first pass */
		for (int i = 0; i < scan->nseen; i++)
			floor = Min(floor, scan->seen_xip[i]);
		return floor;
	}
	floor = scan->next_xmax;
	for (int i = 0; i < scan->nnext; i++)
		floor = Min(floor, scan->next_xip[i]);
	for (int i = scan->range; i < scan->nranges; i++)
		floor = Min(floor, i == scan->range ? scan->at_xact : scan->ranges[i * 2]);
	return floor;
}
