--
-- Views.  Also a part of upgrade scripts, so new columns come last.
--

CREATE OR REPLACE VIEW @extschema@.kapture_progress WITH (security_barrier) AS
SELECT 'refresh'::text AS activity, r.server,
	CASE WHEN r.finished_at IS NOT NULL THEN 'done'
		 WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l
			  WHERE l.locktype = 'object'
				AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
					WHERE d.datname = pg_catalog.current_database())
				AND l.classid = 'pg_catalog.pg_foreign_server'::pg_catalog.regclass
				AND l.objid = s.oid AND l.objsubid = 1
				AND l.pid = r.pid AND l.granted) THEN 'running'
		 ELSE 'interrupted' END AS state,
	r.start_date, r.end_date, r.done_until, r.windows_done, r.windows_total, r.customers, r.written,
	(r.customers - r.resumed_customers)::double precision /
		NULLIF(EXTRACT(epoch FROM r.updated_at - r.resumed_at)::double precision, 0) AS customers_per_second,
	CASE WHEN r.finished_at IS NULL THEN
		(r.updated_at - r.resumed_at) *
		((r.windows_total - r.windows_done)::double precision /
		NULLIF(r.windows_done - r.resumed_windows, 0)) END AS time_left,
	r.started_at, r.resumed_at, r.updated_at, r.finished_at, r.pid,
	NULL::regclass AS relation, r.windows_done AS done, r.windows_total AS total, NULL::text AS name
FROM @extschema@.kapture_refresh_run r
JOIN pg_catalog.pg_foreign_server s ON s.srvname = r.server
WHERE pg_catalog.has_server_privilege(s.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
UNION ALL
SELECT b.activity, a.server,
	CASE WHEN b.finished_at IS NOT NULL THEN 'done'
		 WHEN EXISTS (SELECT FROM pg_catalog.pg_locks l
			  WHERE l.locktype = 'object'
				AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
					WHERE d.datname = pg_catalog.current_database())
				AND l.classid = '@extschema@.kapture_attachment'::pg_catalog.regclass
				AND l.objid = a.attachment_id::pg_catalog.oid
				AND l.objsubid = pg_catalog.array_position(ARRAY['backfill', 'resync', 'verify'], b.activity)
				AND l.granted) THEN 'running'
		 ELSE 'interrupted' END,
	NULL, NULL, NULL, NULL, NULL, b.rows, NULL,
	(b.rows - b.resumed_rows)::double precision /
		NULLIF(EXTRACT(epoch FROM b.updated_at - b.resumed_at)::double precision, 0),
	CASE WHEN b.finished_at IS NULL THEN
		(b.updated_at - b.resumed_at) *
		((b.total - b.rows)::double precision /
		NULLIF(b.rows - b.resumed_rows, 0)) END,
	b.started_at, b.resumed_at, b.updated_at, b.finished_at, b.pid,
	a.relation, b.rows, b.total, a.name
FROM @extschema@.kapture_backfill b
JOIN @extschema@.kapture_attachment a USING (attachment_id)
JOIN pg_catalog.pg_class c ON c.oid = a.relation
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
UNION ALL
SELECT 'pull', p.server,
	CASE WHEN p.finished_at IS NOT NULL THEN 'done'
		 WHEN p.pid = @extschema@.kapture_puller_pid()
			  AND (p.failed_at IS NULL OR p.failed_at < p.started_at) THEN 'running'
		 ELSE 'interrupted' END,
	p.start_date, p.end_date, p.done_until, p.windows_done, p.windows_total, p.customers, p.written,
	p.customers::double precision /
		NULLIF(EXTRACT(epoch FROM p.updated_at - p.started_at)::double precision, 0),
	CASE WHEN p.finished_at IS NULL THEN
		(p.updated_at - p.started_at) *
		((p.windows_total - p.windows_done)::double precision /
		NULLIF(p.windows_done, 0)) END,
	p.started_at, p.started_at, p.updated_at, p.finished_at, p.pid,
	NULL, p.windows_done, p.windows_total, NULL
FROM @extschema@.kapture_pull p
JOIN pg_catalog.pg_foreign_server s ON s.srvname = p.server
WHERE p.started_at IS NOT NULL AND
	(pg_catalog.has_server_privilege(s.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'));
COMMENT ON VIEW @extschema@.kapture_progress IS 'progress of refreshes, of automatic pulls, and of runs through the rows of tables: for servers that the current role may use and tables that it owns; for all, if it may read all statistics';
COMMENT ON COLUMN @extschema@.kapture_progress.activity IS 'refresh, pull (the latest automatic pull), backfill, resync, verify';
COMMENT ON COLUMN @extschema@.kapture_progress.server IS 'foreign server that is pulled from, or that the rows are sent to';
COMMENT ON COLUMN @extschema@.kapture_progress.state IS 'running, interrupted (the next call continues; also between the slices of a backfill), done';
COMMENT ON COLUMN @extschema@.kapture_progress.start_date IS 'start of the range, in the account''s local time';
COMMENT ON COLUMN @extschema@.kapture_progress.end_date IS 'end of the range';
COMMENT ON COLUMN @extschema@.kapture_progress.done_until IS 'end of the last window that is stored in the tables';
COMMENT ON COLUMN @extschema@.kapture_progress.windows_done IS 'number of windows that are stored in the tables';
COMMENT ON COLUMN @extschema@.kapture_progress.windows_total IS 'number of windows in the range';
COMMENT ON COLUMN @extschema@.kapture_progress.customers IS 'customers in the answers; or rows of the table that are done: queued, or verified';
COMMENT ON COLUMN @extschema@.kapture_progress.written IS 'rows of customers and contacts that were new or changed';
COMMENT ON COLUMN @extschema@.kapture_progress.customers_per_second IS 'speed of the latest call';
COMMENT ON COLUMN @extschema@.kapture_progress.time_left IS 'time left at the present speed; NULL: done, or not known yet';
COMMENT ON COLUMN @extschema@.kapture_progress.started_at IS 'time of the first call';
COMMENT ON COLUMN @extschema@.kapture_progress.resumed_at IS 'time of the latest call';
COMMENT ON COLUMN @extschema@.kapture_progress.updated_at IS 'time of the last window or slice';
COMMENT ON COLUMN @extschema@.kapture_progress.finished_at IS 'time of the end';
COMMENT ON COLUMN @extschema@.kapture_progress.pid IS 'server process of the latest call';
COMMENT ON COLUMN @extschema@.kapture_progress.relation IS 'table whose rows are sent; NULL for a refresh';
COMMENT ON COLUMN @extschema@.kapture_progress.done IS 'windows of a refresh, or rows of the table, that are done';
COMMENT ON COLUMN @extschema@.kapture_progress.total IS 'windows of a refresh, or rows of the table, in all; rows are counted when the run begins';
COMMENT ON COLUMN @extschema@.kapture_progress.name IS 'name of the table''s attachment; empty: the attachment has no name; NULL: a refresh';
GRANT SELECT ON @extschema@.kapture_progress TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_pull_status WITH (security_barrier) AS
SELECT s.srvname AS server,
	CASE WHEN NOT COALESCE((SELECT pg_catalog.bool_and(@extschema@.kapture_is_origin(o.system_identifier, o.database))
							  FROM @extschema@.kapture_origin o), false) THEN 'copy'
		 WHEN @extschema@.kapture_puller_pid() IS NULL THEN 'no worker'
		 WHEN p.failures > 0 THEN 'failing'
		 WHEN p.started_at IS NOT NULL AND p.finished_at IS NULL THEN 'pulling'
		 ELSE 'waiting' END AS state,
	p.pulled_until, p.next_pull, p.started_at, p.finished_at, p.windows_done, p.windows_total,
	p.customers, p.written, p.failures,
	-- what follows the first colon may be the beginning of an answer, which was given to the owner's key
	CASE WHEN pg_catalog.pg_has_role(s.srvowner, 'USAGE') THEN p.last_error
		 WHEN pg_catalog.has_server_privilege(s.oid, 'USAGE') THEN pg_catalog.split_part(p.last_error, ': ', 1) END AS last_error,
	p.sweep_started_at, p.sweep_finished_at, p.swept, p.sweep_changed
FROM pg_catalog.pg_foreign_server s
JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
LEFT JOIN @extschema@.kapture_pull p ON p.server = s.srvname
WHERE w.fdwname = 'kapture_fdw'
	AND (pg_catalog.has_server_privilege(s.oid, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'))
	AND EXISTS (SELECT FROM pg_catalog.pg_options_to_table(s.srvoptions) o
		WHERE o.option_name = ANY (ARRAY['pull_interval', 'sweep_interval']));
COMMENT ON VIEW @extschema@.kapture_pull_status IS 'automatic pulls: one row for each server with option pull_interval or sweep_interval that the current role may use; for all servers, without messages, if it may read all statistics';
COMMENT ON COLUMN @extschema@.kapture_pull_status.server IS 'foreign server that is pulled from, with the key of the server''s owner';
COMMENT ON COLUMN @extschema@.kapture_pull_status.state IS 'waiting (for the next pull), pulling, failing (see last_error), copy (see kapture_resume), no worker';
COMMENT ON COLUMN @extschema@.kapture_pull_status.pulled_until IS 'all customers generated before this time have been pulled; the next pull starts pull_overlap earlier';
COMMENT ON COLUMN @extschema@.kapture_pull_status.next_pull IS 'time of the next pull, or of the next try; NULL: a pull is running';
COMMENT ON COLUMN @extschema@.kapture_pull_status.started_at IS 'when the latest pull began';
COMMENT ON COLUMN @extschema@.kapture_pull_status.finished_at IS 'when the latest pull ended; NULL: not yet';
COMMENT ON COLUMN @extschema@.kapture_pull_status.windows_done IS 'number of windows of the latest pull that are stored in the tables';
COMMENT ON COLUMN @extschema@.kapture_pull_status.windows_total IS 'number of windows in the range of the latest pull';
COMMENT ON COLUMN @extschema@.kapture_pull_status.customers IS 'customers in the answers of the latest pull';
COMMENT ON COLUMN @extschema@.kapture_pull_status.written IS 'rows of customers and contacts that were new or changed';
COMMENT ON COLUMN @extschema@.kapture_pull_status.failures IS 'failed tries in a row';
COMMENT ON COLUMN @extschema@.kapture_pull_status.last_error IS 'why the last pull failed, with what Kapture answered for roles with the rights of the server''s owner; NULL: no failure';
COMMENT ON COLUMN @extschema@.kapture_pull_status.sweep_started_at IS 'when the latest sweep (re-check of known customers) began';
COMMENT ON COLUMN @extschema@.kapture_pull_status.sweep_finished_at IS 'when the latest sweep ended; NULL: not yet';
COMMENT ON COLUMN @extschema@.kapture_pull_status.swept IS 'customers that the latest sweep has requested';
COMMENT ON COLUMN @extschema@.kapture_pull_status.sweep_changed IS 'customers of the latest sweep that were new or changed';
GRANT SELECT ON @extschema@.kapture_pull_status TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_pull_failures WITH (security_barrier) AS
SELECT a.relation, i.customer_id, i.state, i.last_error AS message, i.attempts, i.asked_at,
	CASE WHEN i.state = 'waiting' THEN i.next_attempt END AS next_attempt, a.name
FROM @extschema@.kapture_inbox i
JOIN @extschema@.kapture_attachment a USING (attachment_id)
JOIN pg_catalog.pg_class c ON c.oid = a.relation
WHERE i.last_error IS NOT NULL AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW @extschema@.kapture_pull_failures IS 'pulled customers that could not become rows of attached tables';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.relation IS 'the attached table';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.customer_id IS 'Kapture''s id of the customer';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.state IS 'waiting: retried at next_attempt; parked: waits for a change of the customer, or for kapture_retry';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.message IS 'why the customer could not be written';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.attempts IS 'tries so far';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.asked_at IS 'when Kapture was asked for this customer';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.next_attempt IS 'time of the next try; NULL: parked';
COMMENT ON COLUMN @extschema@.kapture_pull_failures.name IS 'name of the table''s attachment; empty: the attachment has no name';
GRANT SELECT ON @extschema@.kapture_pull_failures TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_attachments WITH (security_barrier) AS
SELECT a.attachment_id, a.relation, a.server,
	(SELECT pg_catalog.jsonb_object_agg(k.field, CASE WHEN k.expression IS NOT NULL THEN pg_catalog.jsonb_build_object('expression', k.expression)
		WHEN k.constant IS NOT NULL THEN pg_catalog.jsonb_build_object('constant', k.constant) ELSE pg_catalog.to_jsonb(k.column_name) END ORDER BY k.bit)
	 FROM @extschema@.kapture_column k WHERE k.attachment_id = a.attachment_id) AS columns,
	a.on_duplicate, a.replicated, a.pull, a.on_conflict, a.id_column, a.key_columns, a.paused, a.attached_at,
	a.filter, a.source, a.on_leave,
	(SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('source', f.source::text, 'condition', f.condition) ORDER BY f.follow_id)
	 FROM @extschema@.kapture_follow f WHERE f.relation = a.relation
	 AND EXISTS (SELECT FROM pg_catalog.pg_class s WHERE s.oid = f.source)) AS follows,
	a.on_delete, a.name
FROM @extschema@.kapture_attachment a
JOIN pg_catalog.pg_class c ON c.oid = a.relation
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW @extschema@.kapture_attachments IS 'attached tables of the current role, one row for each attachment: the arguments of kapture_attach, with the defaults filled in';
COMMENT ON COLUMN @extschema@.kapture_attachments.attachment_id IS 'number of the attachment, as in kapture_history';
COMMENT ON COLUMN @extschema@.kapture_attachments.relation IS 'the attached table';
COMMENT ON COLUMN @extschema@.kapture_attachments.server IS 'foreign server that the rows are sent to';
COMMENT ON COLUMN @extschema@.kapture_attachments.columns IS 'the column, expression or constant for each Kapture field, in the form of kapture_attach';
COMMENT ON COLUMN @extschema@.kapture_attachments.on_duplicate IS 'if Kapture already has the customer: link: take the customer''s id, and send the row as an update; link only: take the id, and send nothing before the row changes; fail: park the row';
COMMENT ON COLUMN @extschema@.kapture_attachments.replicated IS 'true: changes applied by logical replication are captured, too';
COMMENT ON COLUMN @extschema@.kapture_attachments.pull IS 'true: pulled customers update rows of the table, or become new rows';
COMMENT ON COLUMN @extschema@.kapture_attachments.on_conflict IS 'local: a change that waits to be sent wins over the pulled value; remote: the pulled value wins';
COMMENT ON COLUMN @extschema@.kapture_attachments.id_column IS 'column that receives the Kapture customer id; NULL: the extension keeps the ids, see kapture_id';
COMMENT ON COLUMN @extschema@.kapture_attachments.key_columns IS 'primary key of the table; a row_key has its values in this order';
COMMENT ON COLUMN @extschema@.kapture_attachments.paused IS 'true: changes are captured, but not sent; see kapture_pause';
COMMENT ON COLUMN @extschema@.kapture_attachments.attached_at IS 'when the table was attached';
COMMENT ON COLUMN @extschema@.kapture_attachments.filter IS 'condition on the rows that go to Kapture; NULL: all rows';
COMMENT ON COLUMN @extschema@.kapture_attachments.source IS 'view that the values come from; NULL: the table itself';
COMMENT ON COLUMN @extschema@.kapture_attachments.on_leave IS 'fields and constants that are sent when a row leaves the filter';
COMMENT ON COLUMN @extschema@.kapture_attachments.follows IS 'tables whose changes concern rows of this table, each with its condition';
COMMENT ON COLUMN @extschema@.kapture_attachments.on_delete IS 'fields and constants that are sent when a row is deleted';
COMMENT ON COLUMN @extschema@.kapture_attachments.name IS 'name that distinguishes this attachment from others of the table; empty: no name';
GRANT SELECT ON @extschema@.kapture_attachments TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_orphans WITH (security_barrier) AS
SELECT DISTINCT ON (a.server, r.customer_id)
	a.server, r.customer_id AS kapture_customer_id, a.relation, r.row_key,
	COALESCE(r.gone_at, r.left_at) AS since,
	CASE WHEN r.gone_at IS NOT NULL THEN 'deleted' ELSE 'left' END AS reason, a.name
FROM @extschema@.kapture_row r
JOIN @extschema@.kapture_attachment a USING (attachment_id)
JOIN pg_catalog.pg_class c ON c.oid = a.relation
WHERE (r.gone_at IS NOT NULL OR r.left_at IS NOT NULL) AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
	AND NOT EXISTS (SELECT FROM @extschema@.kapture_row o JOIN @extschema@.kapture_attachment b USING (attachment_id)
		WHERE o.customer_id = r.customer_id AND b.server = a.server AND o.gone_at IS NULL AND o.left_at IS NULL)
ORDER BY a.server, r.customer_id, COALESCE(r.gone_at, r.left_at) DESC;
COMMENT ON VIEW @extschema@.kapture_orphans IS 'customers in Kapture whose row was deleted or truncated, or left the filter, as far as the extension knew these customers; listed until kapture_acknowledge, or until a row has the customer again';
COMMENT ON COLUMN @extschema@.kapture_orphans.server IS 'foreign server in whose account the customer is';
COMMENT ON COLUMN @extschema@.kapture_orphans.kapture_customer_id IS 'Kapture''s id of the customer';
COMMENT ON COLUMN @extschema@.kapture_orphans.relation IS 'the attached table that had the row';
COMMENT ON COLUMN @extschema@.kapture_orphans.row_key IS 'last primary key of the row';
COMMENT ON COLUMN @extschema@.kapture_orphans.since IS 'when the extension noticed it';
COMMENT ON COLUMN @extschema@.kapture_orphans.reason IS 'deleted: the row was deleted; left: the row exists, but is outside of the filter';
COMMENT ON COLUMN @extschema@.kapture_orphans.name IS 'name of the table''s attachment; empty: the attachment has no name';
GRANT SELECT ON @extschema@.kapture_orphans TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_status WITH (security_barrier) AS
SELECT a.relation, a.server,
	CASE WHEN NOT COALESCE((SELECT pg_catalog.bool_and(@extschema@.kapture_is_origin(o.system_identifier, o.database))
							  FROM @extschema@.kapture_origin o), false) THEN 'copy'
		 WHEN s.state = 'outdated' THEN 'outdated'
		 WHEN a.paused THEN 'paused'
		 WHEN t.problem IS NOT NULL THEN 'misconfigured'
		 WHEN @extschema@.kapture_worker_pid() IS NULL THEN 'no worker'
		 ELSE 'running' END AS state,
	q.pending + w.changes AS pending, q.in_flight, q.retrying, q.parked,
	pg_catalog.now() - q.oldest AS oldest_age,
	q.last_success, COALESCE(t.problem, q.last_error) AS last_error,
	s.state AS server_state, s.message AS server_message, s.retry_at AS server_retry_at,
	q.exact,
	p.state AS pull_state, p.pulled_until, p.next_pull, p.last_error AS pull_error,
	@extschema@.kapture_table_error(a.attachment_id) AS worker_error, a.name
FROM @extschema@.kapture_attachment a
JOIN pg_catalog.pg_class c ON c.oid = a.relation
LEFT JOIN @extschema@.kapture_server_states() s
	ON s.server = a.server AND s.owner = c.relowner
LEFT JOIN @extschema@.kapture_pull_status p ON p.server = a.server
CROSS JOIN LATERAL @extschema@.kapture_queue(a.attachment_id) q
CROSS JOIN LATERAL (SELECT @extschema@.kapture_table_problem(a.attachment_id) AS problem) t
CROSS JOIN LATERAL (SELECT pg_catalog.count(*) AS changes FROM @extschema@.kapture_follow f
	CROSS JOIN LATERAL (SELECT 1 WHERE f.waiting IS NOT NULL UNION ALL
		(SELECT 1 FROM @extschema@.kapture_outbox o WHERE o.attachment_id = -f.follow_id LIMIT 10000)) n
	WHERE f.relation = a.relation) w
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW @extschema@.kapture_status IS 'state of the sync: one row for each attachment of the current role''s tables; for all attachments, without messages, if it may read all statistics; cheap enough to be queried each second';
COMMENT ON COLUMN @extschema@.kapture_status.relation IS 'the attached table';
COMMENT ON COLUMN @extschema@.kapture_status.server IS 'foreign server that the rows are sent to';
COMMENT ON COLUMN @extschema@.kapture_status.state IS 'running, paused, misconfigured (see last_error), copy (see kapture_resume), outdated (see server_message), no worker';
COMMENT ON COLUMN @extschema@.kapture_status.pending IS 'changes that the worker has not claimed yet, those of followed tables included; beyond 10000 possibly an estimate';
COMMENT ON COLUMN @extschema@.kapture_status.in_flight IS 'rows that are being sent';
COMMENT ON COLUMN @extschema@.kapture_status.retrying IS 'rows that wait for a retry';
COMMENT ON COLUMN @extschema@.kapture_status.parked IS 'rows that were refused and wait for a correction; beyond 10000 an estimate';
COMMENT ON COLUMN @extschema@.kapture_status.oldest_age IS 'age of the oldest change that Kapture does not have yet; NULL: nothing waits';
COMMENT ON COLUMN @extschema@.kapture_status.last_success IS 'when a row was last finished';
COMMENT ON COLUMN @extschema@.kapture_status.last_error IS 'why no row of the table can be sent, or the latest failure among the rows that wait';
COMMENT ON COLUMN @extschema@.kapture_status.server_state IS 'ok, misconfigured, denied, refusing, throttled, failing, outdated; NULL: no worker runs, or too many servers (see docs/operating.md)';
COMMENT ON COLUMN @extschema@.kapture_status.server_message IS 'the server''s answer that led to server_state';
COMMENT ON COLUMN @extschema@.kapture_status.server_retry_at IS 'time before which no request is sent';
COMMENT ON COLUMN @extschema@.kapture_status.exact IS 'true: the numbers are counts; false: they are estimates from statistics, which count all attached tables together';
COMMENT ON COLUMN @extschema@.kapture_status.pull_state IS 'state of automatic pulls from the server: waiting, pulling, failing, copy, no worker; NULL: option pull_interval is not set';
COMMENT ON COLUMN @extschema@.kapture_status.pulled_until IS 'all customers generated before this time have been pulled';
COMMENT ON COLUMN @extschema@.kapture_status.next_pull IS 'time of the next pull, or of the next try; NULL: a pull is running';
COMMENT ON COLUMN @extschema@.kapture_status.pull_error IS 'why the last pull failed, as in kapture_pull_status; NULL: no failure';
COMMENT ON COLUMN @extschema@.kapture_status.worker_error IS 'error that the worker or the puller works around: what they were doing, for which row if that is certain, and the message; NULL: no such error, or the same work has succeeded since';
COMMENT ON COLUMN @extschema@.kapture_status.name IS 'name of the table''s attachment; empty: the attachment has no name';
GRANT SELECT ON @extschema@.kapture_status TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_failures WITH (security_barrier) AS
SELECT a.relation, COALESCE(d.row_key, d.old_key) AS row_key, d.state, d.api, d.request, d.http_status, d.last_error AS message,
	d.attempts, d.captured_at, d.last_attempt, d.next_attempt,
	@extschema@.kapture_hint(d.last_error, d.http_status, d.api) AS hint, a.name
FROM @extschema@.kapture_delivery d
JOIN @extschema@.kapture_attachment a USING (attachment_id)
JOIN pg_catalog.pg_class c ON c.oid = a.relation
WHERE d.last_error IS NOT NULL AND pg_catalog.pg_has_role(c.relowner, 'USAGE');
COMMENT ON VIEW @extschema@.kapture_failures IS 'rows whose last try failed: the request, Kapture''s answer, the time of the next try, and what to do';
COMMENT ON COLUMN @extschema@.kapture_failures.relation IS 'the attached table';
COMMENT ON COLUMN @extschema@.kapture_failures.row_key IS 'primary key of the row, as text; several columns as an array';
COMMENT ON COLUMN @extschema@.kapture_failures.state IS 'parked: waits for a change of the row, or for kapture_retry; retry: retried at next_attempt; sending: being retried';
COMMENT ON COLUMN @extschema@.kapture_failures.api IS 'call that failed: add, update, get; NULL: no call failed, but the table itself';
COMMENT ON COLUMN @extschema@.kapture_failures.request IS 'body of the request that failed';
COMMENT ON COLUMN @extschema@.kapture_failures.http_status IS 'HTTP code of the answer; NULL: no answer came';
COMMENT ON COLUMN @extschema@.kapture_failures.message IS 'Kapture''s message, or why there was no answer';
COMMENT ON COLUMN @extschema@.kapture_failures.attempts IS 'how often the row was claimed';
COMMENT ON COLUMN @extschema@.kapture_failures.captured_at IS 'time of the row''s first change that Kapture does not have yet';
COMMENT ON COLUMN @extschema@.kapture_failures.last_attempt IS 'time of the last try';
COMMENT ON COLUMN @extschema@.kapture_failures.next_attempt IS 'time of the next try; NULL: parked';
COMMENT ON COLUMN @extschema@.kapture_failures.hint IS 'what to do, in plain words';
COMMENT ON COLUMN @extschema@.kapture_failures.name IS 'name of the table''s attachment; empty: the attachment has no name';
GRANT SELECT ON @extschema@.kapture_failures TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_stat_requests AS
SELECT * FROM @extschema@.kapture_request_counters();
COMMENT ON VIEW @extschema@.kapture_stat_requests IS 'requests from this database, of worker and sessions, to servers that the current role may use';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.server IS 'foreign server';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.api IS 'call: add, update, get, pull, a name of another module''s API (such as ticket_add), or other';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.http_code IS 'HTTP code of the answers; NULL: no complete answer came';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.requests IS 'number of requests';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.total_time IS 'total time of the requests, in milliseconds';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.min_time IS 'shortest time of a request, in milliseconds';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.max_time IS 'longest time of a request, in milliseconds';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.mean_time IS 'mean time of a request, in milliseconds';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.bounds IS 'upper bounds of the histogram''s buckets, in milliseconds';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.histogram IS 'number of requests in each bucket: longer than the bound before, up to the bucket''s own bound';
COMMENT ON COLUMN @extschema@.kapture_stat_requests.since IS 'when counting began';
GRANT SELECT ON @extschema@.kapture_stat_requests TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_calls WITH (security_barrier) AS
SELECT q.call_id, q.sender, q.server, q.api, q.reference, q.retry, q.state, q.attempts, q.http_status, q.body, q.answer, q.message,
	q.queued_at, q.last_attempt,
	CASE WHEN q.state = 'waiting' AND q.next_attempt > '-infinity' THEN q.next_attempt END AS next_attempt,
	q.finished_at
FROM @extschema@.kapture_call_queue q
CROSS JOIN (SELECT) AS one	-- so that nobody can write through the view, whatever is granted on it
WHERE pg_catalog.pg_has_role(q.sender, 'USAGE');
COMMENT ON VIEW @extschema@.kapture_calls IS 'calls that the current role has sent with kapture_send(): the body, the state, and Kapture''s answer';
COMMENT ON COLUMN @extschema@.kapture_calls.call_id IS 'id that kapture_send() returned';
COMMENT ON COLUMN @extschema@.kapture_calls.sender IS 'role that sent the call, whose key is used';
COMMENT ON COLUMN @extschema@.kapture_calls.server IS 'foreign server that the call goes to';
COMMENT ON COLUMN @extschema@.kapture_calls.api IS 'name or path of the API';
COMMENT ON COLUMN @extschema@.kapture_calls.reference IS 'text that the sender gave; calls with the same reference are sent one after the other';
COMMENT ON COLUMN @extschema@.kapture_calls.retry IS 'unsent: retried only if the call was certainly not taken; always: sent until there is an answer, at least once';
COMMENT ON COLUMN @extschema@.kapture_calls.state IS 'waiting, sending, done, failed (refused, or cannot be sent: see message), unknown (sent, but the outcome is not known), discarded';
COMMENT ON COLUMN @extschema@.kapture_calls.attempts IS 'number of attempts so far';
COMMENT ON COLUMN @extschema@.kapture_calls.http_status IS 'HTTP code of the last answer; NULL: no answer came';
COMMENT ON COLUMN @extschema@.kapture_calls.body IS 'body of the request';
COMMENT ON COLUMN @extschema@.kapture_calls.answer IS 'the last answer; NULL: no answer, or not JSON';
COMMENT ON COLUMN @extschema@.kapture_calls.message IS 'Kapture''s message, or why there is no answer';
COMMENT ON COLUMN @extschema@.kapture_calls.queued_at IS 'start of the transaction that sent the call';
COMMENT ON COLUMN @extschema@.kapture_calls.last_attempt IS 'time of the last try';
COMMENT ON COLUMN @extschema@.kapture_calls.next_attempt IS 'time of the next try; NULL: as soon as possible, or no further try';
COMMENT ON COLUMN @extschema@.kapture_calls.finished_at IS 'when the call ended; done and discarded calls are kept for kapture_sync.history_retention from then on';
GRANT SELECT ON @extschema@.kapture_calls TO PUBLIC;

CREATE OR REPLACE VIEW @extschema@.kapture_call_status WITH (security_barrier) AS
SELECT q.sender, q.server,
	pg_catalog.count(*) FILTER (WHERE q.state = 'waiting') AS waiting,
	pg_catalog.count(*) FILTER (WHERE q.state = 'sending') AS in_flight,
	pg_catalog.count(*) FILTER (WHERE q.state = 'failed') AS failed,
	pg_catalog.count(*) FILTER (WHERE q.state = 'unknown') AS unknown,
	pg_catalog.now() - pg_catalog.min(q.queued_at) FILTER (WHERE q.state IN ('waiting', 'sending')) AS oldest_age
FROM @extschema@.kapture_call_queue q
WHERE q.state IN ('waiting', 'sending', 'failed', 'unknown')
	AND (pg_catalog.pg_has_role(q.sender, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE'))
GROUP BY q.sender, q.server;
COMMENT ON VIEW @extschema@.kapture_call_status IS 'number of calls of kapture_send() that are not done, by sender and server: those of the current role, or all if it may read all statistics';
COMMENT ON COLUMN @extschema@.kapture_call_status.sender IS 'role that sent the calls';
COMMENT ON COLUMN @extschema@.kapture_call_status.server IS 'foreign server that the calls go to';
COMMENT ON COLUMN @extschema@.kapture_call_status.waiting IS 'calls that wait to be sent';
COMMENT ON COLUMN @extschema@.kapture_call_status.in_flight IS 'calls that are being sent';
COMMENT ON COLUMN @extschema@.kapture_call_status.failed IS 'calls that were refused or cannot be sent';
COMMENT ON COLUMN @extschema@.kapture_call_status.unknown IS 'calls whose outcome is not known; somebody has to look in Kapture';
COMMENT ON COLUMN @extschema@.kapture_call_status.oldest_age IS 'age of the oldest call that waits or is being sent; NULL: there is none';
GRANT SELECT ON @extschema@.kapture_call_status TO PUBLIC;
