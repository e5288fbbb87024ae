--
-- What is new has the privileges that the script grants, and none by ALTER DEFAULT
-- PRIVILEGES, which is meant for what users create.  Also a part of upgrade scripts,
-- before functions get the privileges of those that they replace.  Then, who may write tables.
--

CREATE FUNCTION @extschema@.kapture_close_privileges(public name[]) RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_close_privileges';
REVOKE ALL ON FUNCTION @extschema@.kapture_close_privileges(name[]) FROM PUBLIC;

SELECT @extschema@.kapture_close_privileges('{kapture_attachments,kapture_call_status,kapture_calls,kapture_failures,kapture_history,kapture_orphans,
	kapture_progress,kapture_pull_failures,kapture_pull_status,kapture_stat_requests,kapture_status}');
DROP FUNCTION @extschema@.kapture_close_privileges(name[]);

-- Whoever writes these tables decides what is read, sent and called with the rights of others, or that a copy of the
-- database sends; and worker and puller trust what is in them.  pg_write_all_data needs no GRANT for that, but it does not pass by policies.  Who may read the tables is a matter of grants alone.
ALTER TABLE @extschema@.kapture_attachment ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_attachment_read ON @extschema@.kapture_attachment FOR SELECT USING (true);
COMMENT ON POLICY kapture_attachment_read ON @extschema@.kapture_attachment IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_column ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_column_read ON @extschema@.kapture_column FOR SELECT USING (true);
COMMENT ON POLICY kapture_column_read ON @extschema@.kapture_column IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_follow ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_follow_read ON @extschema@.kapture_follow FOR SELECT USING (true);
COMMENT ON POLICY kapture_follow_read ON @extschema@.kapture_follow IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_call_queue ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_call_queue_read ON @extschema@.kapture_call_queue FOR SELECT USING (true);
COMMENT ON POLICY kapture_call_queue_read ON @extschema@.kapture_call_queue IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_origin ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_origin_read ON @extschema@.kapture_origin FOR SELECT USING (true);
COMMENT ON POLICY kapture_origin_read ON @extschema@.kapture_origin IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_copied ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_copied_read ON @extschema@.kapture_copied FOR SELECT USING (true);
COMMENT ON POLICY kapture_copied_read ON @extschema@.kapture_copied IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_outbox ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_outbox_read ON @extschema@.kapture_outbox FOR SELECT USING (true);
COMMENT ON POLICY kapture_outbox_read ON @extschema@.kapture_outbox IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_delivery ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_delivery_read ON @extschema@.kapture_delivery FOR SELECT USING (true);
COMMENT ON POLICY kapture_delivery_read ON @extschema@.kapture_delivery IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_row ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_row_read ON @extschema@.kapture_row FOR SELECT USING (true);
COMMENT ON POLICY kapture_row_read ON @extschema@.kapture_row IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_salt ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_salt_read ON @extschema@.kapture_salt FOR SELECT USING (true);
COMMENT ON POLICY kapture_salt_read ON @extschema@.kapture_salt IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_backfill ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_backfill_read ON @extschema@.kapture_backfill FOR SELECT USING (true);
COMMENT ON POLICY kapture_backfill_read ON @extschema@.kapture_backfill IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_inbox ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_inbox_read ON @extschema@.kapture_inbox FOR SELECT USING (true);
COMMENT ON POLICY kapture_inbox_read ON @extschema@.kapture_inbox IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_pull ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_pull_read ON @extschema@.kapture_pull FOR SELECT USING (true);
COMMENT ON POLICY kapture_pull_read ON @extschema@.kapture_pull IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_pull_asked ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_pull_asked_read ON @extschema@.kapture_pull_asked FOR SELECT USING (true);
COMMENT ON POLICY kapture_pull_asked_read ON @extschema@.kapture_pull_asked IS 'only the owner of the table writes it';
ALTER TABLE @extschema@.kapture_written ENABLE ROW LEVEL SECURITY;
CREATE POLICY kapture_written_read ON @extschema@.kapture_written FOR SELECT USING (true);
COMMENT ON POLICY kapture_written_read ON @extschema@.kapture_written IS 'only the owner of the table writes it';
