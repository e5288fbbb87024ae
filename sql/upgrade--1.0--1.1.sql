--
-- Tables of 1.0 as they are in 1.1, and what must be gone before functions and
-- views are made anew.
--

-- First, so that a library of 1.0, which has no such function, ends this here.
CREATE FUNCTION @extschema@.kapture_library_version() RETURNS text
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'kapture_library_version';
COMMENT ON FUNCTION @extschema@.kapture_library_version() IS 'version of the extension that the loaded library works with';

ALTER TABLE @extschema@.kapture_attachment
	ADD COLUMN pull boolean NOT NULL DEFAULT false,
	ADD COLUMN on_conflict text NOT NULL DEFAULT 'local' CHECK (on_conflict IN ('local', 'remote')),
	ADD COLUMN server_oid oid NOT NULL DEFAULT 0,
	ADD COLUMN server_owner oid NOT NULL DEFAULT 0,
	ADD COLUMN filter text,
	ADD COLUMN filter_columns name[],
	ADD COLUMN on_leave jsonb,
	ADD COLUMN source text,
	ADD COLUMN source_keys name[],
	ADD COLUMN source_columns name[];
ALTER TABLE @extschema@.kapture_column
	ALTER COLUMN column_name DROP NOT NULL,
	ALTER COLUMN attnum DROP NOT NULL,
	ADD COLUMN expression text,
	ADD COLUMN constant text,
	ADD COLUMN reads name[];

-- a primary key that has changed since is the one that what waits goes by
UPDATE @extschema@.kapture_attachment AS a SET key_columns = k.names
FROM (SELECT i.indrelid, pg_catalog.array_agg(c.attname ORDER BY n.n) AS names
	FROM pg_catalog.pg_index AS i, pg_catalog.generate_series(1, i.indnkeyatts) AS n(n), pg_catalog.pg_attribute AS c
	WHERE i.indisprimary AND c.attrelid = i.indrelid
		AND c.attnum = i.indkey[n.n - 1]
	GROUP BY i.indrelid) AS k
WHERE k.indrelid = a.relation AND k.names <> a.key_columns;
COMMENT ON COLUMN @extschema@.kapture_attachment.key_columns IS 'primary key of the table';
COMMENT ON COLUMN @extschema@.kapture_attachment.pull IS 'pulled customers update rows of the table, or become new ones';
COMMENT ON COLUMN @extschema@.kapture_attachment.on_conflict IS 'local: a change that waits to be sent wins over the pulled value; remote: the pulled value wins';
COMMENT ON COLUMN @extschema@.kapture_attachment.server_oid IS 'that server itself: another one that has its name later is not sent to; means nothing in a copy of a database';
COMMENT ON COLUMN @extschema@.kapture_attachment.server_owner IS 'its owner when the table was attached';
COMMENT ON COLUMN @extschema@.kapture_attachment.filter IS 'condition on the rows that go to Kapture; NULL: all do';
COMMENT ON COLUMN @extschema@.kapture_attachment.filter_columns IS 'columns that the filter reads; NULL: the whole row';
COMMENT ON COLUMN @extschema@.kapture_attachment.on_leave IS 'fields of a customer whose row has left the filter';
COMMENT ON COLUMN @extschema@.kapture_attachment.source IS 'view that the values come from; NULL: they are the table''s own';
COMMENT ON COLUMN @extschema@.kapture_attachment.source_keys IS 'columns of the view that are the primary key of the table';
COMMENT ON COLUMN @extschema@.kapture_attachment.source_columns IS 'columns of the table that the view reads; NULL: any';
COMMENT ON COLUMN @extschema@.kapture_column.column_name IS 'the column, of the source if there is one; NULL: the value is computed';
COMMENT ON COLUMN @extschema@.kapture_column.expression IS 'expression over the row whose value it is';
COMMENT ON COLUMN @extschema@.kapture_column.constant IS 'its value in all rows';
COMMENT ON COLUMN @extschema@.kapture_column.reads IS 'columns that the expression reads; NULL: the whole row';
COMMENT ON COLUMN @extschema@.kapture_delivery.in_doubt IS 'a request was sent and its outcome never seen: before this time it may be running, and nothing else is sent for the row; Kapture is asked before an Add is sent again';

DROP FUNCTION @extschema@.kapture_attach(regclass, jsonb, name, text, boolean);

CREATE TABLE @extschema@.kapture_inbox (
	attachment_id integer NOT NULL,
	customer_id bigint NOT NULL,
	state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'parked')),
	asked_at timestamptz NOT NULL,
	next_attempt timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	attempts integer NOT NULL DEFAULT 0,
	last_error text,
	PRIMARY KEY (attachment_id, customer_id)
);
CREATE INDEX kapture_inbox_due ON @extschema@.kapture_inbox (attachment_id, next_attempt) WHERE state = 'waiting';
COMMENT ON TABLE @extschema@.kapture_inbox IS 'customers of kapture_customers that were new or differed when they were pulled, and have not reached an attached table yet';
COMMENT ON COLUMN @extschema@.kapture_inbox.state IS 'waiting: due at next_attempt; parked: waits for a change of the customer or kapture_retry';
COMMENT ON COLUMN @extschema@.kapture_inbox.asked_at IS 'when Kapture was asked; what was sent later is newer';
COMMENT ON COLUMN @extschema@.kapture_inbox.attempts IS 'tries so far';
COMMENT ON COLUMN @extschema@.kapture_inbox.last_error IS 'why the last one did not do';

CREATE TABLE @extschema@.kapture_pull (
	server name PRIMARY KEY,
	pulled_until timestamptz,
	start_date timestamp,
	end_date timestamp,
	done_until timestamp,
	windows_done bigint NOT NULL DEFAULT 0,
	windows_total bigint NOT NULL DEFAULT 0,
	customers bigint NOT NULL DEFAULT 0,
	written bigint NOT NULL DEFAULT 0,
	pid integer,
	started_at timestamptz,
	updated_at timestamptz,
	finished_at timestamptz,
	next_pull timestamptz,
	failures integer NOT NULL DEFAULT 0,
	last_error text,
	failed_at timestamptz,
	sweep_started_at timestamptz,
	sweep_finished_at timestamptz,
	sweep_after bigint NOT NULL DEFAULT 0,
	swept bigint NOT NULL DEFAULT 0,
	sweep_changed bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.kapture_pull IS 'how far pulls by themselves (option pull_interval) have come, a row for each server; see kapture_pull_status';
COMMENT ON COLUMN @extschema@.kapture_pull.server IS 'foreign server that is pulled from';
COMMENT ON COLUMN @extschema@.kapture_pull.pulled_until IS 'customers generated before have been pulled; the next pull starts pull_overlap earlier';
COMMENT ON COLUMN @extschema@.kapture_pull.start_date IS 'start of the latest pull''s range, in the account''s local time';
COMMENT ON COLUMN @extschema@.kapture_pull.end_date IS 'end of that range';
COMMENT ON COLUMN @extschema@.kapture_pull.done_until IS 'end of its last window that is in the tables; NULL: none is';
COMMENT ON COLUMN @extschema@.kapture_pull.windows_done IS 'its windows that are in the tables';
COMMENT ON COLUMN @extschema@.kapture_pull.windows_total IS 'windows of the range';
COMMENT ON COLUMN @extschema@.kapture_pull.customers IS 'customers in the answers';
COMMENT ON COLUMN @extschema@.kapture_pull.written IS 'rows of customers and contacts that were new or differed';
COMMENT ON COLUMN @extschema@.kapture_pull.pid IS 'process that pulled';
COMMENT ON COLUMN @extschema@.kapture_pull.started_at IS 'when the latest pull began';
COMMENT ON COLUMN @extschema@.kapture_pull.updated_at IS 'time of its last window';
COMMENT ON COLUMN @extschema@.kapture_pull.finished_at IS 'when it ended; NULL: it has not';
COMMENT ON COLUMN @extschema@.kapture_pull.next_pull IS 'time of the next pull, or of the next try';
COMMENT ON COLUMN @extschema@.kapture_pull.failures IS 'failed tries in a row';
COMMENT ON COLUMN @extschema@.kapture_pull.last_error IS 'why the last one failed; NULL: it did not';
COMMENT ON COLUMN @extschema@.kapture_pull.failed_at IS 'when it failed';
COMMENT ON COLUMN @extschema@.kapture_pull.sweep_started_at IS 'when the latest sweep (option sweep_interval) began';
COMMENT ON COLUMN @extschema@.kapture_pull.sweep_finished_at IS 'when it was done; NULL: it is not';
COMMENT ON COLUMN @extschema@.kapture_pull.sweep_after IS 'the last customer it has asked for';
COMMENT ON COLUMN @extschema@.kapture_pull.swept IS 'customers it has asked for';
COMMENT ON COLUMN @extschema@.kapture_pull.sweep_changed IS 'those that were new or differed';

CREATE TABLE @extschema@.kapture_copied (
	server name PRIMARY KEY,
	server_oid oid NOT NULL,
	server_owner oid NOT NULL,
	system_identifier bigint NOT NULL,
	database oid NOT NULL
);
COMMENT ON TABLE @extschema@.kapture_copied IS 'which server the rows of kapture_customers and kapture_contacts under a name come from: those of another one are not mixed with them';
COMMENT ON COLUMN @extschema@.kapture_copied.server IS 'name of the foreign server';
COMMENT ON COLUMN @extschema@.kapture_copied.server_oid IS 'the server itself; 0: it was dropped';
COMMENT ON COLUMN @extschema@.kapture_copied.server_owner IS 'its owner when it was first pulled from';
COMMENT ON COLUMN @extschema@.kapture_copied.system_identifier IS 'cluster in which the server has this oid';
COMMENT ON COLUMN @extschema@.kapture_copied.database IS 'database in which it has';

ALTER TABLE @extschema@.kapture_contacts DROP CONSTRAINT kapture_contacts_server_customer_id_fkey;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_pull', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_inbox', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_copied', '');

-- how far runs through tables have come, those of other kinds than backfills, too
ALTER TABLE @extschema@.kapture_backfill
	DROP CONSTRAINT kapture_backfill_pkey,
	ADD COLUMN total bigint NOT NULL DEFAULT 0,
	ADD COLUMN pid integer NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
	ADD COLUMN resumed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	ADD COLUMN resumed_rows bigint NOT NULL DEFAULT 0,
	ADD COLUMN activity text NOT NULL DEFAULT 'backfill' CHECK (activity IN ('backfill', 'resync', 'verify')),
	ADD COLUMN condition text NOT NULL DEFAULT '',
	ADD COLUMN fields text[] NOT NULL DEFAULT '{}',
	ADD COLUMN force boolean NOT NULL DEFAULT false,
	ADD COLUMN target regclass NOT NULL DEFAULT 0;
ALTER TABLE @extschema@.kapture_backfill ADD PRIMARY KEY (attachment_id, activity);
COMMENT ON TABLE @extschema@.kapture_backfill IS 'how far the last run of each kind through the rows of each table has come: kapture_backfill, kapture_resync, kapture_verify_into';
COMMENT ON COLUMN @extschema@.kapture_backfill.last_key IS 'key of the last row that is done; the next step goes on behind it';
COMMENT ON COLUMN @extschema@.kapture_backfill.rows IS 'rows done so far';
COMMENT ON COLUMN @extschema@.kapture_backfill.total IS 'rows to do when it began';
COMMENT ON COLUMN @extschema@.kapture_backfill.pid IS 'server process of the latest call';
COMMENT ON COLUMN @extschema@.kapture_backfill.resumed_at IS 'time of the latest call';
COMMENT ON COLUMN @extschema@.kapture_backfill.resumed_rows IS 'rows that were done before the latest call';
COMMENT ON COLUMN @extschema@.kapture_backfill.activity IS 'backfill, resync, verify';
COMMENT ON COLUMN @extschema@.kapture_backfill.condition IS 'which rows, as the call says; empty: all';
COMMENT ON COLUMN @extschema@.kapture_backfill.fields IS 'which fields, likewise';
COMMENT ON COLUMN @extschema@.kapture_backfill.force IS 'send what Kapture is known to have, too; of a verification: repair';
COMMENT ON COLUMN @extschema@.kapture_backfill.target IS 'table that the results of a verification go to; 0: none';

-- One entry of the outbox holds changes of many rows that differ only in the key.
ALTER TABLE @extschema@.kapture_outbox ADD COLUMN more_keys text[];
COMMENT ON COLUMN @extschema@.kapture_outbox.more_keys IS 'row_key of further rows that the same transaction changed likewise; NULL: none';

-- A delivery stays that of its row when the row's key changes or becomes another row's.
ALTER TABLE @extschema@.kapture_outbox
	ADD COLUMN command integer,
	ADD COLUMN snapshot pg_snapshot;
CREATE INDEX kapture_outbox_keys ON @extschema@.kapture_outbox (attachment_id, xact, seq) WHERE op NOT IN ('i', 'u');
COMMENT ON COLUMN @extschema@.kapture_outbox.op IS 'i: inserted, u: updated, k: key updated, d: deleted, t: truncated, m: inserted or updated, at its command''s place in the order, c: nothing, but the end of a transaction';
COMMENT ON COLUMN @extschema@.kapture_outbox.command IS 'number, within its transaction, of the first change of the same command, negative if the transaction had written the row before; NULL where the order does not matter';
COMMENT ON COLUMN @extschema@.kapture_outbox.snapshot IS 'transactions that had ended when this one committed, in one of its entries that tell which row has a key';

ALTER TABLE @extschema@.kapture_delivery
	DROP CONSTRAINT kapture_delivery_pkey,
	ALTER COLUMN row_key DROP NOT NULL,
	ADD COLUMN delivery_id bigint GENERATED BY DEFAULT AS IDENTITY;
WITH later AS (
	DELETE FROM @extschema@.kapture_delivery l USING @extschema@.kapture_delivery f
	WHERE l.attachment_id = f.attachment_id AND l.old_key = f.row_key AND f.old_key IS NULL
	RETURNING f.delivery_id, l.row_key, l.changed | COALESCE(l.again, 0) AS changed)
UPDATE @extschema@.kapture_delivery d SET row_key = later.row_key,
	changed = CASE WHEN d.state = 'sending' THEN d.changed ELSE d.changed | later.changed END,
	again = CASE WHEN d.state = 'sending' THEN COALESCE(d.again, 0) | later.changed END,
	next_attempt = CASE WHEN d.state <> 'sending' THEN pg_catalog.now() END,
	state = CASE WHEN d.state = 'sending' THEN d.state ELSE 'retry' END
FROM later WHERE d.delivery_id = later.delivery_id;
UPDATE @extschema@.kapture_delivery SET old_key = NULL, changed = changed & 9223372036854775807
WHERE old_key IS NOT NULL OR changed < 0;

ALTER TABLE @extschema@.kapture_delivery ADD PRIMARY KEY (attachment_id, delivery_id);

-- Hashes, as a key may be longer than an entry of an index.
CREATE UNIQUE INDEX kapture_delivery_row ON @extschema@.kapture_delivery
	(pg_catalog.hashtextextended(row_key, 0), pg_catalog.hashtextextended(row_key, 1), attachment_id);
COMMENT ON COLUMN @extschema@.kapture_delivery.row_key IS 'present primary key of the row; NULL: the row is no more';
COMMENT ON COLUMN @extschema@.kapture_delivery.changed IS 'mapped columns this delivery is to bring to Kapture';
COMMENT ON COLUMN @extschema@.kapture_delivery.old_key IS 'the key that the row had when it was deleted';
COMMENT ON COLUMN @extschema@.kapture_delivery.delivery_id IS 'stays the same when the row''s key changes';
ALTER TABLE @extschema@.kapture_history ADD COLUMN relation regclass;
COMMENT ON COLUMN @extschema@.kapture_history.relation IS 'the table that was attached; NULL: not known, of version 1.0';
COMMENT ON COLUMN @extschema@.kapture_history.action IS 'add, update, link (the customer was there already), none (nothing to send), gone (the row is no more; Kapture has no delete, and keeps the customer with the id that is named), truncate (likewise, of all rows)';
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_delivery_delivery_id_seq', '');

-- values of any length
DROP INDEX @extschema@.kapture_customers_phone, @extschema@.kapture_customers_email,
	@extschema@.kapture_contacts_phone, @extschema@.kapture_contacts_email;
CREATE INDEX kapture_customers_phone ON @extschema@.kapture_customers USING hash (phone);
CREATE INDEX kapture_customers_email ON @extschema@.kapture_customers USING hash (email);
CREATE INDEX kapture_contacts_phone ON @extschema@.kapture_contacts USING hash (phone);
CREATE INDEX kapture_contacts_email ON @extschema@.kapture_contacts USING hash (email);

-- which row is which customer, and what it was last sent
CREATE TABLE @extschema@.kapture_row (
	attachment_id integer NOT NULL,
	row_key text NOT NULL,
	customer_id bigint NOT NULL,
	digests bytea,
	gone_at timestamptz,
	left_at timestamptz
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX kapture_row_key ON @extschema@.kapture_row
	(pg_catalog.hashtextextended(row_key, 0), pg_catalog.hashtextextended(row_key, 1), attachment_id) WHERE gone_at IS NULL;
CREATE INDEX kapture_row_customer ON @extschema@.kapture_row (customer_id);
ALTER TABLE @extschema@.kapture_row REPLICA IDENTITY FULL;
COMMENT ON TABLE @extschema@.kapture_row IS 'rows that are with Kapture: which customer each of them is, and digests of what it was last sent';
COMMENT ON COLUMN @extschema@.kapture_row.row_key IS 'present primary key of the row, or the one that it had when it was deleted';
COMMENT ON COLUMN @extschema@.kapture_row.customer_id IS 'its customer in Kapture, as it was last sent; a user may have given the row another one since';
COMMENT ON COLUMN @extschema@.kapture_row.digests IS 'eight bytes for each bit of kapture_column: a keyed hash of the value that Kapture has of us; zero or missing: not known';
COMMENT ON COLUMN @extschema@.kapture_row.gone_at IS 'when the row was found to be deleted; NULL: it was not';
COMMENT ON COLUMN @extschema@.kapture_row.left_at IS 'when the row was found to be outside of the filter; NULL: it is not';

CREATE TABLE @extschema@.kapture_salt (
	salt bytea PRIMARY KEY
);
COMMENT ON TABLE @extschema@.kapture_salt IS 'key of the digests of kapture_row, without which nobody can guess values by them; no dump has it, and another one makes all digests unknown';

-- Not in a dump, which would have both the digests and their key.
INSERT INTO @extschema@.kapture_salt VALUES (pg_catalog.uuid_send(pg_catalog.gen_random_uuid()) || pg_catalog.uuid_send(pg_catalog.gen_random_uuid()));
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_row', '');
ALTER TABLE @extschema@.kapture_delivery ADD COLUMN waits_for bigint;
CREATE INDEX kapture_delivery_customer ON @extschema@.kapture_delivery (customer_id) WHERE customer_id IS NOT NULL;
CREATE INDEX kapture_delivery_waiting ON @extschema@.kapture_delivery (waits_for) WHERE waits_for IS NOT NULL;
COMMENT ON COLUMN @extschema@.kapture_delivery.waits_for IS 'customer that another row has: parked until that row''s phone or email changes, or it is deleted';
ALTER TABLE @extschema@.kapture_attachment DROP CONSTRAINT kapture_attachment_on_duplicate_check;
ALTER TABLE @extschema@.kapture_attachment ADD CONSTRAINT kapture_attachment_on_duplicate_check CHECK (on_duplicate IN ('link', 'fail', 'link only'));
COMMENT ON COLUMN @extschema@.kapture_attachment.on_duplicate IS 'link: take the existing customer''s id, and send the row as an update; link only: take the id, and send nothing before the row changes; fail: park the row';

-- Calls of other modules that wait, are being sent, or are done with.
CREATE TABLE @extschema@.kapture_call_queue (
	call_id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	sender regrole NOT NULL,
	server name NOT NULL,
	server_oid oid NOT NULL,
	server_owner oid NOT NULL,
	api text NOT NULL,
	body jsonb NOT NULL,
	reference text,
	retry text NOT NULL DEFAULT 'unsent' CHECK (retry IN ('unsent', 'always')),
	state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sending', 'done', 'failed', 'unknown', 'discarded')),
	attempts integer NOT NULL DEFAULT 0,
	failures integer NOT NULL DEFAULT 0,
	http_status integer,
	answer jsonb,
	message text,
	queued_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	asked_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	last_attempt timestamptz,
	next_attempt timestamptz NOT NULL DEFAULT '-infinity',
	finished_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX kapture_call_queue_waiting ON @extschema@.kapture_call_queue (sender, server, api, call_id) WHERE state = 'waiting';
CREATE INDEX kapture_call_queue_reference ON @extschema@.kapture_call_queue (sender, server, reference, call_id)
	WHERE reference IS NOT NULL AND state IN ('waiting', 'sending');
CREATE INDEX kapture_call_queue_open ON @extschema@.kapture_call_queue (sender, server, state)
	WHERE state IN ('waiting', 'sending', 'failed', 'unknown');
CREATE INDEX kapture_call_queue_finished ON @extschema@.kapture_call_queue (finished_at) WHERE state IN ('done', 'discarded');
COMMENT ON TABLE @extschema@.kapture_call_queue IS 'calls of kapture_send(); see the view kapture_calls';
COMMENT ON COLUMN @extschema@.kapture_call_queue.sender IS 'role that sent it, with whose key it goes';
COMMENT ON COLUMN @extschema@.kapture_call_queue.server IS 'name of the foreign server it goes to';
COMMENT ON COLUMN @extschema@.kapture_call_queue.server_oid IS 'that server itself: another one that has its name later is not sent to; means nothing in a copy of a database';
COMMENT ON COLUMN @extschema@.kapture_call_queue.server_owner IS 'its owner when the call was queued';
COMMENT ON COLUMN @extschema@.kapture_call_queue.api IS 'name or path of the API';
COMMENT ON COLUMN @extschema@.kapture_call_queue.reference IS 'calls of one sender to one server with the same reference go one after the other; NULL: in any order';
COMMENT ON COLUMN @extschema@.kapture_call_queue.retry IS 'unsent: sent again only if it was certainly not taken; always: sent until there is an answer, at least once';
COMMENT ON COLUMN @extschema@.kapture_call_queue.state IS 'waiting: due at next_attempt; sending: claimed, a request may be in flight; done; failed: refused, or it cannot be sent; unknown: sent, and the outcome is not known; discarded';
COMMENT ON COLUMN @extschema@.kapture_call_queue.attempts IS 'number of the attempt; every change of state names it';
COMMENT ON COLUMN @extschema@.kapture_call_queue.failures IS 'failed attempts in a row, from which the next delay is reckoned';
COMMENT ON COLUMN @extschema@.kapture_call_queue.asked_at IS 'when somebody last asked for it to be sent; in a copy of the database the original may have sent what was asked for before';
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_call_queue', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_call_queue_call_id_seq', '');
