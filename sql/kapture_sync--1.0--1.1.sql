/* kapture_sync: from version 1.0 to 1.1; with kapture_sync.sql, which must come to the same */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION kapture_sync UPDATE TO '1.1'" to load this file. \quit

-- Names without a schema are PostgreSQL's own, whatever operators and functions
-- somebody has planted in the extension's schema that would fit better.
SET LOCAL search_path = pg_catalog, pg_temp;

-- First, so that a library of 1.0, which has no such function, ends this here.
CREATE FUNCTION @extschema@.kapture_library_version() RETURNS text
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'kapture_library_version';
COMMENT ON FUNCTION @extschema@.kapture_library_version() IS 'version of the extension that the loaded library works with';

-- pulls by themselves
CREATE FUNCTION @extschema@.kapture_puller_pid() RETURNS integer
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_puller_pid';
COMMENT ON FUNCTION @extschema@.kapture_puller_pid() IS 'process id of the process that pulls in this database by itself; NULL if none runs';

ALTER TABLE @extschema@.kapture_attachment
	ADD COLUMN pull boolean NOT NULL DEFAULT false,
	ADD COLUMN on_conflict text NOT NULL DEFAULT 'local' CHECK (on_conflict IN ('local', 'remote')),
	ADD COLUMN server_oid oid NOT NULL DEFAULT 0,
	ADD COLUMN server_owner oid NOT NULL DEFAULT 0;
-- a primary key that has changed since is the one that what waits goes by
UPDATE @extschema@.kapture_attachment AS a SET key_columns = k.names
FROM (SELECT i.indrelid, pg_catalog.array_agg(c.attname ORDER BY n.n) AS names
	FROM pg_catalog.pg_index AS i, pg_catalog.generate_series(1, i.indnkeyatts) AS n(n), pg_catalog.pg_attribute AS c
	WHERE i.indisprimary AND c.attrelid OPERATOR(pg_catalog.=) i.indrelid
		AND c.attnum OPERATOR(pg_catalog.=) i.indkey[n.n OPERATOR(pg_catalog.-) 1]
	GROUP BY i.indrelid) AS k
WHERE k.indrelid OPERATOR(pg_catalog.=) a.relation AND k.names OPERATOR(pg_catalog.<>) a.key_columns;
COMMENT ON COLUMN @extschema@.kapture_attachment.key_columns IS 'primary key of the table';
COMMENT ON COLUMN @extschema@.kapture_attachment.pull IS 'pulled customers update rows of the table, or become new ones';
COMMENT ON COLUMN @extschema@.kapture_attachment.on_conflict IS 'local: a change that waits to be sent wins over the pulled value; remote: the pulled value wins';
COMMENT ON COLUMN @extschema@.kapture_attachment.server_oid IS 'that server itself: another one that has its name later is not sent to; means nothing in a copy of a database';
COMMENT ON COLUMN @extschema@.kapture_attachment.server_owner IS 'its owner when the table was attached';

COMMENT ON COLUMN @extschema@.kapture_delivery.in_doubt IS 'a request was sent and its outcome never seen: before this time it may be running, and nothing else is sent for the row; Kapture is asked before an Add is sent again';

DROP FUNCTION @extschema@.kapture_attach(regclass, jsonb, name, text, boolean);
CREATE FUNCTION @extschema@.kapture_attach(relation regclass, columns jsonb DEFAULT NULL,
	server name DEFAULT 'kapture', on_duplicate text DEFAULT 'link', replicated boolean DEFAULT false,
	pull boolean DEFAULT false, on_conflict text DEFAULT 'local')
RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_attach';
COMMENT ON FUNCTION @extschema@.kapture_attach(regclass, jsonb, name, text, boolean, boolean, text) IS
'keeps a table and Kapture in step from here on; columns: {"kapture field": "column", ...}, by default the columns named like Kapture''s fields';

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

-- no foreign key: pg_restore fills the tables of an extension in any order.
CREATE FUNCTION @extschema@.kapture_forget_contacts() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'kapture_forget_contacts';
COMMENT ON FUNCTION @extschema@.kapture_forget_contacts() IS 'trigger of kapture_customers: deletes the contacts of deleted customers';
CREATE TRIGGER kapture_forget AFTER DELETE ON @extschema@.kapture_customers
	FOR EACH ROW EXECUTE FUNCTION @extschema@.kapture_forget_contacts();
CREATE TRIGGER kapture_forget_all AFTER TRUNCATE ON @extschema@.kapture_customers
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.kapture_forget_contacts();
COMMENT ON TRIGGER kapture_forget ON @extschema@.kapture_customers IS 'contacts go with their customers';
COMMENT ON TRIGGER kapture_forget_all ON @extschema@.kapture_customers IS 'contacts go with their customers';
ALTER TABLE @extschema@.kapture_contacts DROP CONSTRAINT kapture_contacts_server_customer_id_fkey;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_pull', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_inbox', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_copied', '');

CREATE VIEW @extschema@.kapture_pull_status WITH (security_barrier) AS
SELECT s.srvname AS server,
	CASE WHEN NOT COALESCE((SELECT pg_catalog.bool_and(@extschema@.kapture_is_origin(o.system_identifier, o.database))
							  FROM @extschema@.kapture_origin o), false) THEN 'copy'
		 WHEN @extschema@.kapture_puller_pid() IS NULL THEN 'no worker'
		 WHEN p.failures OPERATOR(pg_catalog.>) 0 THEN 'failing'
		 WHEN p.started_at IS NOT NULL AND p.finished_at IS NULL THEN 'pulling'
		 ELSE 'waiting' END AS state,
	p.pulled_until, p.next_pull, p.started_at, p.finished_at, p.windows_done, p.windows_total,
	p.customers, p.written, p.failures,
	CASE WHEN pg_catalog.has_server_privilege(s.oid, 'USAGE') THEN p.last_error END AS last_error,
	p.sweep_started_at, p.sweep_finished_at, p.swept, p.sweep_changed
FROM pg_catalog.pg_foreign_server s
JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid OPERATOR(pg_catalog.=) s.srvfdw
LEFT JOIN @extschema@.kapture_pull p ON p.server OPERATOR(pg_catalog.=) s.srvname
WHERE w.fdwname OPERATOR(pg_catalog.=) 'kapture_fdw'
	AND (pg_catalog.has_server_privilege(s.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'))
	AND EXISTS (SELECT FROM pg_catalog.pg_options_to_table(s.srvoptions) o
		WHERE o.option_name OPERATOR(pg_catalog.=) ANY (ARRAY['pull_interval', 'sweep_interval']));
COMMENT ON VIEW @extschema@.kapture_pull_status IS 'one row for each server with option pull_interval or sweep_interval that the current role may use, or, without messages, for each one if it may read all statistics';
COMMENT ON COLUMN @extschema@.kapture_pull_status.server IS 'foreign server that is pulled from, with the key of its owner';
COMMENT ON COLUMN @extschema@.kapture_pull_status.state IS 'waiting (for the next pull), pulling, failing (see last_error), copy (see kapture_resume), no worker';
COMMENT ON COLUMN @extschema@.kapture_pull_status.pulled_until IS 'customers generated before have been pulled; the next pull starts pull_overlap earlier';
COMMENT ON COLUMN @extschema@.kapture_pull_status.next_pull IS 'time of the next pull, or of the next try; NULL: a pull is under way';
COMMENT ON COLUMN @extschema@.kapture_pull_status.started_at IS 'when the latest pull began';
COMMENT ON COLUMN @extschema@.kapture_pull_status.finished_at IS 'when it ended; NULL: it has not';
COMMENT ON COLUMN @extschema@.kapture_pull_status.windows_done IS 'its windows that are in the tables';
COMMENT ON COLUMN @extschema@.kapture_pull_status.windows_total IS 'windows of its range';
COMMENT ON COLUMN @extschema@.kapture_pull_status.customers IS 'customers in the answers';
COMMENT ON COLUMN @extschema@.kapture_pull_status.written IS 'rows of customers and contacts that were new or differed';
COMMENT ON COLUMN @extschema@.kapture_pull_status.failures IS 'failed tries in a row';
COMMENT ON COLUMN @extschema@.kapture_pull_status.last_error IS 'why the last one failed; NULL: it did not';
COMMENT ON COLUMN @extschema@.kapture_pull_status.sweep_started_at IS 'when the latest sweep began';
COMMENT ON COLUMN @extschema@.kapture_pull_status.sweep_finished_at IS 'when it was done; NULL: it is not';
COMMENT ON COLUMN @extschema@.kapture_pull_status.swept IS 'customers it has asked for';
COMMENT ON COLUMN @extschema@.kapture_pull_status.sweep_changed IS 'those that were new or differed';
GRANT SELECT ON @extschema@.kapture_pull_status TO PUBLIC;

CREATE VIEW @extschema@.kapture_pull_failures WITH (security_barrier) AS
SELECT a.relation, i.customer_id, i.state, i.last_error AS message, i.attempts, i.asked_at,
	CASE WHEN i.state OPERATOR(pg_catalog.=) 'waiting' THEN i.next_attempt END AS next_attempt
FROM @extschema@.kapture_inbox i
JOIN @extschema@.kapture_attachment a USING (attachment_id)
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.relation
WHERE i.last_error IS NOT NULL AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW @extschema@.kapture_pull_failures IS 'pulled customers that could not become rows of attached tables';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.relation IS 'the attached table';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.customer_id IS 'Kapture''s id of the customer';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.state IS 'waiting: tried again at next_attempt; parked: waits for a change of the customer, or kapture_retry';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.message IS 'why it could not';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.attempts IS 'tries so far';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.asked_at IS 'when Kapture was asked for it';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.next_attempt IS 'time of the next try; NULL: parked';
GRANT SELECT ON @extschema@.kapture_pull_failures TO PUBLIC;
-- that was about pulls

COMMENT ON FUNCTION @extschema@.kapture_server_states() IS
'what the worker says of the servers it sends to: ok, misconfigured, denied, throttled, failing, outdated';

CREATE FUNCTION @extschema@.kapture_table_problem(attachment_id integer) RETURNS text
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'kapture_table_problem';
COMMENT ON FUNCTION @extschema@.kapture_table_problem(integer) IS 'why the worker cannot send the rows of an attached table; see kapture_status';

CREATE FUNCTION @extschema@.kapture_table_error(attachment_id integer) RETURNS text
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'kapture_table_error';
COMMENT ON FUNCTION @extschema@.kapture_table_error(integer) IS 'which error keeps worker or puller from their work on an attached table; see kapture_status';

-- who may read all statistics sees the numbers of all tables
CREATE OR REPLACE VIEW @extschema@.kapture_status WITH (security_barrier) AS
SELECT a.relation, a.server,
	CASE WHEN NOT COALESCE((SELECT pg_catalog.bool_and(@extschema@.kapture_is_origin(o.system_identifier, o.database))
							  FROM @extschema@.kapture_origin o), false) THEN 'copy'
		 WHEN s.state OPERATOR(pg_catalog.=) 'outdated' THEN 'outdated'
		 WHEN a.paused THEN 'paused'
		 WHEN t.problem IS NOT NULL THEN 'misconfigured'
		 WHEN @extschema@.kapture_worker_pid() IS NULL THEN 'no worker'
		 ELSE 'running' END AS state,
	q.pending, q.in_flight, q.retrying, q.parked,
	pg_catalog.now() OPERATOR(pg_catalog.-) q.oldest AS oldest_age,
	q.last_success, COALESCE(t.problem, q.last_error) AS last_error,
	s.state AS server_state, s.message AS server_message, s.retry_at AS server_retry_at,
	q.exact,
	p.state AS pull_state, p.pulled_until, p.next_pull, p.last_error AS pull_error,
	@extschema@.kapture_table_error(a.attachment_id) AS worker_error
FROM @extschema@.kapture_attachment a
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.relation
LEFT JOIN @extschema@.kapture_server_states() s
	ON s.server OPERATOR(pg_catalog.=) a.server AND s.owner OPERATOR(pg_catalog.=) c.relowner
LEFT JOIN @extschema@.kapture_pull_status p ON p.server OPERATOR(pg_catalog.=) a.server
CROSS JOIN LATERAL @extschema@.kapture_queue(a.attachment_id) q
CROSS JOIN LATERAL (SELECT @extschema@.kapture_table_problem(a.attachment_id) AS problem) t
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW @extschema@.kapture_status IS 'one row for each attached table that belongs to the current role, or, without messages, for each one if it may read all statistics; cheap enough to be looked at each second';
COMMENT ON COLUMN @extschema@.kapture_status.state IS 'running, paused, misconfigured (see last_error), copy (see kapture_resume), outdated (see server_message), no worker';
COMMENT ON COLUMN @extschema@.kapture_status.last_error IS 'why no rows of the table can be sent, or the latest failure of those that wait';
COMMENT ON COLUMN @extschema@.kapture_status.server_state IS 'ok, misconfigured, denied, throttled, failing, outdated; NULL: no worker, or no room for it (see docs/operating.md)';
COMMENT ON COLUMN @extschema@.kapture_status.pull_state IS 'of pulls from the server by themselves: waiting, pulling, failing, copy, no worker; NULL: option pull_interval is not set';
COMMENT ON COLUMN @extschema@.kapture_status.pulled_until IS 'customers generated before have been pulled';
COMMENT ON COLUMN @extschema@.kapture_status.next_pull IS 'time of the next pull, or of the next try; NULL: a pull is under way';
COMMENT ON COLUMN @extschema@.kapture_status.pull_error IS 'why the last pull failed; NULL: it did not';
COMMENT ON COLUMN @extschema@.kapture_status.worker_error IS 'error that the worker or the puller works around: what they were doing, for which row if that is certain, and the message; NULL: the same has gone well since';

COMMENT ON FUNCTION @extschema@.kapture_fdw_handler() IS 'customers and contacts of Kapture as foreign tables';
-- how far backfills have come
ALTER TABLE @extschema@.kapture_backfill
	ADD COLUMN total bigint NOT NULL DEFAULT 0,
	ADD COLUMN pid integer NOT NULL DEFAULT pg_catalog.pg_backend_pid(),
	ADD COLUMN resumed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	ADD COLUMN resumed_rows bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN @extschema@.kapture_backfill.rows IS 'rows noted so far';
COMMENT ON COLUMN @extschema@.kapture_backfill.total IS 'rows without an id when it began';
COMMENT ON COLUMN @extschema@.kapture_backfill.pid IS 'server process of the latest call';
COMMENT ON COLUMN @extschema@.kapture_backfill.resumed_at IS 'time of the latest call';
COMMENT ON COLUMN @extschema@.kapture_backfill.resumed_rows IS 'rows that were noted before the latest call';
CREATE OR REPLACE VIEW @extschema@.kapture_progress WITH (security_barrier) AS
SELECT 'refresh'::text AS activity, r.server,
	CASE WHEN r.finished_at IS NOT NULL THEN 'done'
		 WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l
			  WHERE l.locktype OPERATOR(pg_catalog.=) 'object'
				AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
					WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
				AND l.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_foreign_server'::pg_catalog.regclass
				AND l.objid OPERATOR(pg_catalog.=) s.oid AND l.objsubid OPERATOR(pg_catalog.=) 1
				AND l.pid OPERATOR(pg_catalog.=) r.pid AND l.granted) THEN 'running'
		 ELSE 'interrupted' END AS state,
	r.start_date, r.end_date, r.done_until, r.windows_done, r.windows_total, r.customers, r.written,
	(r.customers OPERATOR(pg_catalog.-) r.resumed_customers)::double precision OPERATOR(pg_catalog./)
		NULLIF(EXTRACT(epoch FROM r.updated_at OPERATOR(pg_catalog.-) r.resumed_at)::double precision, 0) AS customers_per_second,
	CASE WHEN r.finished_at IS NULL THEN
		(r.updated_at OPERATOR(pg_catalog.-) r.resumed_at) OPERATOR(pg_catalog.*)
		((r.windows_total OPERATOR(pg_catalog.-) r.windows_done)::double precision OPERATOR(pg_catalog./)
		NULLIF(r.windows_done OPERATOR(pg_catalog.-) r.resumed_windows, 0)) END AS time_left,
	r.started_at, r.resumed_at, r.updated_at, r.finished_at, r.pid,
	NULL::regclass AS relation, r.windows_done AS done, r.windows_total AS total
FROM @extschema@.kapture_refresh_run r
JOIN pg_catalog.pg_foreign_server s ON s.srvname OPERATOR(pg_catalog.=) r.server
WHERE pg_catalog.has_server_privilege(s.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
UNION ALL
SELECT 'backfill', a.server,
	CASE WHEN b.finished_at IS NOT NULL THEN 'done'
		 WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l
			  WHERE l.locktype OPERATOR(pg_catalog.=) 'object'
				AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
					WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
				AND l.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
				AND l.objid OPERATOR(pg_catalog.=) a.relation AND l.objsubid OPERATOR(pg_catalog.=) 1
				AND l.granted) THEN 'running'
		 ELSE 'interrupted' END,
	NULL, NULL, NULL, NULL, NULL, b.rows, NULL,
	(b.rows OPERATOR(pg_catalog.-) b.resumed_rows)::double precision OPERATOR(pg_catalog./)
		NULLIF(EXTRACT(epoch FROM b.updated_at OPERATOR(pg_catalog.-) b.resumed_at)::double precision, 0),
	CASE WHEN b.finished_at IS NULL THEN
		(b.updated_at OPERATOR(pg_catalog.-) b.resumed_at) OPERATOR(pg_catalog.*)
		((b.total OPERATOR(pg_catalog.-) b.rows)::double precision OPERATOR(pg_catalog./)
		NULLIF(b.rows OPERATOR(pg_catalog.-) b.resumed_rows, 0)) END,
	b.started_at, b.resumed_at, b.updated_at, b.finished_at, b.pid,
	a.relation, b.rows, b.total
FROM @extschema@.kapture_backfill b
JOIN @extschema@.kapture_attachment a USING (attachment_id)
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.relation
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
UNION ALL
SELECT 'pull', p.server,
	CASE WHEN p.finished_at IS NOT NULL THEN 'done'
		 WHEN p.pid OPERATOR(pg_catalog.=) @extschema@.kapture_puller_pid()
			  AND (p.failed_at IS NULL OR p.failed_at OPERATOR(pg_catalog.<) p.started_at) THEN 'running'
		 ELSE 'interrupted' END,
	p.start_date, p.end_date, p.done_until, p.windows_done, p.windows_total, p.customers, p.written,
	p.customers::double precision OPERATOR(pg_catalog./)
		NULLIF(EXTRACT(epoch FROM p.updated_at OPERATOR(pg_catalog.-) p.started_at)::double precision, 0),
	CASE WHEN p.finished_at IS NULL THEN
		(p.updated_at OPERATOR(pg_catalog.-) p.started_at) OPERATOR(pg_catalog.*)
		((p.windows_total OPERATOR(pg_catalog.-) p.windows_done)::double precision OPERATOR(pg_catalog./)
		NULLIF(p.windows_done, 0)) END,
	p.started_at, p.started_at, p.updated_at, p.finished_at, p.pid,
	NULL, p.windows_done, p.windows_total
FROM @extschema@.kapture_pull p
JOIN pg_catalog.pg_foreign_server s ON s.srvname OPERATOR(pg_catalog.=) p.server
WHERE p.started_at IS NOT NULL AND
	(pg_catalog.has_server_privilege(s.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'));
COMMENT ON VIEW @extschema@.kapture_progress IS 'how far refreshes of servers that the current role may use, pulls from them by themselves, and backfills of its tables have come; of all, if it may read all statistics';
COMMENT ON COLUMN @extschema@.kapture_progress.activity IS 'what is done: refresh, pull (by itself: the latest one), backfill';
COMMENT ON COLUMN @extschema@.kapture_progress.server IS 'foreign server that is pulled from, or that the rows go to';
COMMENT ON COLUMN @extschema@.kapture_progress.state IS 'running, interrupted (the next call goes on; also between the slices of a backfill), done';
COMMENT ON COLUMN @extschema@.kapture_progress.customers IS 'customers in the answers, or rows that a backfill has noted to be sent';
COMMENT ON COLUMN @extschema@.kapture_progress.updated_at IS 'time of the last window or slice';
COMMENT ON COLUMN @extschema@.kapture_progress.relation IS 'table whose rows are sent; NULL for a refresh';
COMMENT ON COLUMN @extschema@.kapture_progress.done IS 'windows of a refresh, rows of a backfill that are done';
COMMENT ON COLUMN @extschema@.kapture_progress.total IS 'of so many; a backfill counts rows without an id when it begins';
CREATE OR REPLACE PROCEDURE @extschema@.kapture_backfill(relation regclass, slice integer DEFAULT 1000)
LANGUAGE plpgsql AS $$
DECLARE
	noted bigint;
	done bigint := 0;
	progress record;
	said timestamptz := pg_catalog.clock_timestamp();
	name text := (SELECT c.relname FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) kapture_backfill.relation);
BEGIN
	LOOP
		noted := @extschema@.kapture_backfill_slice(relation, slice);
		COMMIT;
		done := done OPERATOR(pg_catalog.+) noted;
		EXIT WHEN noted OPERATOR(pg_catalog.<) slice;
		IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) said OPERATOR(pg_catalog.>=) interval '1 second' THEN
			SELECT p.done, p.total, p.customers_per_second::bigint AS rate, pg_catalog.date_trunc('second', p.time_left) AS time_left
			INTO progress FROM @extschema@.kapture_progress p
			WHERE p.activity OPERATOR(pg_catalog.=) 'backfill'
			AND p.relation OPERATOR(pg_catalog.=) kapture_backfill.relation;
			RAISE NOTICE '% of % rows of "%" are on their way, % a second, % left',
				progress.done, progress.total, name, progress.rate, progress.time_left;
			said := pg_catalog.clock_timestamp();
		END IF;
	END LOOP;
	RAISE NOTICE '% rows of "%" are on their way, that is all', done, name;
END $$;


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
	WHERE l.attachment_id OPERATOR(pg_catalog.=) f.attachment_id AND l.old_key OPERATOR(pg_catalog.=) f.row_key AND f.old_key IS NULL
	RETURNING f.delivery_id, l.row_key, l.changed OPERATOR(pg_catalog.|) COALESCE(l.again, 0) AS changed)
UPDATE @extschema@.kapture_delivery d SET row_key = later.row_key,
	changed = CASE WHEN d.state OPERATOR(pg_catalog.=) 'sending' THEN d.changed ELSE d.changed OPERATOR(pg_catalog.|) later.changed END,
	again = CASE WHEN d.state OPERATOR(pg_catalog.=) 'sending' THEN COALESCE(d.again, 0) OPERATOR(pg_catalog.|) later.changed END,
	next_attempt = CASE WHEN d.state OPERATOR(pg_catalog.<>) 'sending' THEN pg_catalog.now() END,
	state = CASE WHEN d.state OPERATOR(pg_catalog.=) 'sending' THEN d.state ELSE 'retry' END
FROM later WHERE d.delivery_id OPERATOR(pg_catalog.=) later.delivery_id;
UPDATE @extschema@.kapture_delivery SET old_key = NULL, changed = changed OPERATOR(pg_catalog.&) 9223372036854775807
WHERE old_key IS NOT NULL OR changed OPERATOR(pg_catalog.<) 0;
ALTER TABLE @extschema@.kapture_delivery ADD PRIMARY KEY (attachment_id, delivery_id);
-- Hashes, as a key may be longer than an entry of an index.
CREATE UNIQUE INDEX kapture_delivery_row ON @extschema@.kapture_delivery
	(pg_catalog.hashtextextended(row_key, 0), pg_catalog.hashtextextended(row_key, 1), attachment_id);
COMMENT ON COLUMN @extschema@.kapture_delivery.row_key IS 'present primary key of the row; NULL: the row is no more';
COMMENT ON COLUMN @extschema@.kapture_delivery.changed IS 'mapped columns this delivery is to bring to Kapture';
COMMENT ON COLUMN @extschema@.kapture_delivery.old_key IS 'the key that the row had when it was deleted';
COMMENT ON COLUMN @extschema@.kapture_delivery.delivery_id IS 'stays the same when the row''s key changes';
COMMENT ON COLUMN @extschema@.kapture_history.action IS 'add, update, link (the customer was there already), none (nothing to send), gone (the row is no more; Kapture has no delete, and keeps the customer with the id that is named), truncate (likewise, of all rows)';
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_delivery_delivery_id_seq', '');
COMMENT ON COLUMN @extschema@.kapture_status.pending IS 'changes that the worker has not taken up; beyond 10000 they may be an estimate';

-- values of any length
DROP INDEX @extschema@.kapture_customers_phone, @extschema@.kapture_customers_email,
	@extschema@.kapture_contacts_phone, @extschema@.kapture_contacts_email;
CREATE INDEX kapture_customers_phone ON @extschema@.kapture_customers USING hash (phone);
CREATE INDEX kapture_customers_email ON @extschema@.kapture_customers USING hash (email);
CREATE INDEX kapture_contacts_phone ON @extschema@.kapture_contacts USING hash (phone);
CREATE INDEX kapture_contacts_email ON @extschema@.kapture_contacts USING hash (email);

-- hints by the call that failed
CREATE FUNCTION @extschema@.kapture_hint(message text, http_status integer, api text) RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kapture_hint_1_1';
COMMENT ON FUNCTION @extschema@.kapture_hint(text, integer, text) IS
'what to do about a failure of a call (NULL: of the table itself), in plain words; NULL for what is not known';
CREATE OR REPLACE VIEW @extschema@.kapture_failures WITH (security_barrier) AS
SELECT a.relation, COALESCE(d.row_key, d.old_key) AS row_key, d.state, d.api, d.request, d.http_status, d.last_error AS message,
	d.attempts, d.captured_at, d.last_attempt, d.next_attempt,
	@extschema@.kapture_hint(d.last_error, d.http_status, d.api) AS hint
FROM @extschema@.kapture_delivery d
JOIN @extschema@.kapture_attachment a USING (attachment_id)
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.relation
WHERE d.last_error IS NOT NULL AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
