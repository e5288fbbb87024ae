--
-- What is made once, of tables and functions.  A change here goes into the
-- upgrade script, too.
--

-- Who owns a table reads what became of its changes.
CREATE POLICY kapture_history_owner ON @extschema@.kapture_history FOR SELECT
	USING (@extschema@.kapture_may_see(attachment_id));
COMMENT ON POLICY kapture_history_owner ON @extschema@.kapture_history IS 'who owns a table reads what became of its changes';

CREATE FOREIGN DATA WRAPPER kapture_fdw HANDLER @extschema@.kapture_fdw_handler VALIDATOR @extschema@.kapture_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER kapture_fdw IS 'accounts of the Kapture CRM';

-- What a dump holds: not kapture_salt, as it would have both the digests and their key.  A table or role that was dropped is a number there, which may be anybody's where it is restored.
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_customers', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_contacts', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_refresh_run', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_pull', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_inbox', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_copied', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_attachment', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) relation)');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_attachment_attachment_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_column', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_follow', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) relation) AND EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) source)');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_follow_follow_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_outbox', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_delivery', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_row', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_backfill', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_origin', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_history', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.kapture_call_queue', 'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles AS r WHERE r.oid OPERATOR(pg_catalog.=) sender)');

SELECT @extschema@.kapture_worker_start();
