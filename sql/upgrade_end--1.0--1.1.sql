--
-- Functions of 1.0 that others have replaced, once these are there: who could call
-- the former can call the present one, and nobody else.
--

CREATE FUNCTION @extschema@.kapture_keep_privileges(former regprocedure, present regprocedure) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_keep_privileges';
REVOKE ALL ON FUNCTION @extschema@.kapture_keep_privileges(regprocedure, regprocedure) FROM PUBLIC;

SELECT @extschema@.kapture_keep_privileges(f.former::pg_catalog.regprocedure, f.present::pg_catalog.regprocedure)
FROM (VALUES
	('@extschema@.kapture_attach(regclass, jsonb, name, text, boolean)', '@extschema@.kapture_attach(regclass, jsonb, name, text, boolean, boolean, text, text, regclass, name, jsonb, jsonb, text)'),
	('@extschema@.kapture_check(name)', '@extschema@.kapture_check(name, boolean)'),
	('@extschema@.kapture_detach(regclass)', '@extschema@.kapture_detach(regclass, text)'),
	('@extschema@.kapture_pause(regclass)', '@extschema@.kapture_pause(regclass, text)'),
	('@extschema@.kapture_resume(regclass)', '@extschema@.kapture_resume(regclass, text)'),
	('@extschema@.kapture_backfill_slice(regclass, integer)', '@extschema@.kapture_backfill_slice(regclass, integer, text)'),
	('@extschema@.kapture_backfill(regclass, integer)', '@extschema@.kapture_backfill(regclass, integer, text)'),
	('@extschema@.kapture_retry(regclass, text)', '@extschema@.kapture_retry(regclass, text, text)'),
	('@extschema@.kapture_retry(regclass, text)', '@extschema@.kapture_retry(regclass, anynonarray, text)'),
	('@extschema@.kapture_discard(regclass, text)', '@extschema@.kapture_discard(regclass, text, text)'),
	('@extschema@.kapture_discard(regclass, text)', '@extschema@.kapture_discard(regclass, anynonarray, text)'),
	('@extschema@.kapture_preview(regclass, text)', '@extschema@.kapture_preview(regclass, text, text)'),
	('@extschema@.kapture_preview(regclass, text)', '@extschema@.kapture_preview(regclass, anynonarray, text)'),
	('@extschema@.kapture_pull(timestamp, timestamp, name)', '@extschema@.kapture_pull(timestamptz, timestamptz, name)'),
	('@extschema@.kapture_pull(timestamp, timestamp, name)', '@extschema@.kapture_pull(date, date, name)'),
	('@extschema@.kapture_pull(timestamp, timestamp, name)', '@extschema@.kapture_pull(text, text, name)'),
	('@extschema@.kapture_pull_stream(timestamp, timestamp, name)', '@extschema@.kapture_pull_stream(timestamptz, timestamptz, name)'),
	('@extschema@.kapture_pull_stream(timestamp, timestamp, name)', '@extschema@.kapture_pull_stream(date, date, name)'),
	('@extschema@.kapture_pull_stream(timestamp, timestamp, name)', '@extschema@.kapture_pull_stream(text, text, name)'),
	('@extschema@.kapture_pull_customers(timestamp, timestamp, name)', '@extschema@.kapture_pull_customers(timestamptz, timestamptz, name)'),
	('@extschema@.kapture_pull_customers(timestamp, timestamp, name)', '@extschema@.kapture_pull_customers(date, date, name)'),
	('@extschema@.kapture_pull_customers(timestamp, timestamp, name)', '@extschema@.kapture_pull_customers(text, text, name)'),
	('@extschema@.kapture_hint(text, integer)', '@extschema@.kapture_hint(text, integer, text)')) AS f(former, present);
DROP FUNCTION @extschema@.kapture_keep_privileges(regprocedure, regprocedure);

DROP FUNCTION @extschema@.kapture_attach(regclass, jsonb, name, text, boolean);
DROP FUNCTION @extschema@.kapture_check(name);
DROP FUNCTION @extschema@.kapture_detach(regclass);
DROP FUNCTION @extschema@.kapture_pause(regclass);
DROP FUNCTION @extschema@.kapture_resume(regclass);
DROP FUNCTION @extschema@.kapture_backfill_slice(regclass, integer);
DROP PROCEDURE @extschema@.kapture_backfill(regclass, integer);
DROP FUNCTION @extschema@.kapture_retry(regclass, text);
DROP FUNCTION @extschema@.kapture_discard(regclass, text);
DROP FUNCTION @extschema@.kapture_preview(regclass, text);
