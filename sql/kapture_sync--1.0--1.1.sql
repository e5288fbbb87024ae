/* kapture_sync: from version 1.0 to 1.1; with kapture_sync.sql, which must come to the same */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION kapture_sync UPDATE TO '1.1'" to load this file. \quit

-- First, so that a library of 1.0, which has no such function, ends this here.
CREATE FUNCTION @extschema@.kapture_library_version() RETURNS text
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'kapture_library_version';
COMMENT ON FUNCTION @extschema@.kapture_library_version() IS 'version of the extension that the loaded library works with';

COMMENT ON FUNCTION @extschema@.kapture_server_states() IS
'what the worker says of the servers it sends to: ok, misconfigured, denied, throttled, failing, outdated';

-- who may read all statistics sees the numbers of all tables
CREATE OR REPLACE VIEW @extschema@.kapture_status WITH (security_barrier) AS
SELECT a.relation, a.server,
	CASE WHEN NOT COALESCE((SELECT pg_catalog.bool_and(@extschema@.kapture_is_origin(o.system_identifier, o.database))
							  FROM @extschema@.kapture_origin o), false) THEN 'copy'
		 WHEN s.state OPERATOR(pg_catalog.=) 'outdated' THEN 'outdated'
		 WHEN a.paused THEN 'paused'
		 WHEN @extschema@.kapture_worker_pid() IS NULL THEN 'no worker'
		 ELSE 'running' END AS state,
	q.pending, q.in_flight, q.retrying, q.parked,
	pg_catalog.now() OPERATOR(pg_catalog.-) q.oldest AS oldest_age,
	q.last_success, q.last_error,
	s.state AS server_state, s.message AS server_message, s.retry_at AS server_retry_at,
	q.exact
FROM @extschema@.kapture_attachment a
JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.relation
LEFT JOIN @extschema@.kapture_server_states() s
	ON s.server OPERATOR(pg_catalog.=) a.server AND s.owner OPERATOR(pg_catalog.=) c.relowner
CROSS JOIN LATERAL @extschema@.kapture_queue(a.attachment_id) q
WHERE pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON VIEW @extschema@.kapture_status IS 'one row for each attached table that belongs to the current role, or, without messages, for each one if it may read all statistics; cheap enough to be looked at each second';
COMMENT ON COLUMN @extschema@.kapture_status.state IS 'running, paused, copy (see kapture_resume), outdated (see server_message), no worker';
COMMENT ON COLUMN @extschema@.kapture_status.server_state IS 'ok, misconfigured, denied, throttled, failing, outdated';

COMMENT ON FUNCTION @extschema@.kapture_fdw_handler() IS 'customers and contacts of Kapture as foreign tables';
