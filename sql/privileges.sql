--
-- What is new has the privileges that the script grants, and none by ALTER DEFAULT
-- PRIVILEGES, which is meant for what users create.  Also a part of upgrade scripts,
-- before functions get the privileges of those that they replace.
--

CREATE FUNCTION @extschema@.kapture_close_privileges(public name[]) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_close_privileges';
REVOKE ALL ON FUNCTION @extschema@.kapture_close_privileges(name[]) FROM PUBLIC;

SELECT @extschema@.kapture_close_privileges('{kapture_attachments,kapture_call_status,kapture_calls,kapture_failures,kapture_history,kapture_orphans,
	kapture_progress,kapture_pull_failures,kapture_pull_status,kapture_stat_requests,kapture_status}');
DROP FUNCTION @extschema@.kapture_close_privileges(name[]);
