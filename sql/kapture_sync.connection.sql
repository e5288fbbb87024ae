--
-- Connections and direct calls
--

CREATE FUNCTION @extschema@.kapture_fdw_validator(text[], oid) RETURNS void
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'kapture_fdw_validator';
COMMENT ON FUNCTION @extschema@.kapture_fdw_validator(text[], oid) IS
'checks the options of servers and user mappings';

CREATE FOREIGN DATA WRAPPER kapture_fdw NO HANDLER VALIDATOR @extschema@.kapture_fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER kapture_fdw IS 'accounts of the Kapture CRM';

CREATE FUNCTION @extschema@.kapture_add_customer(customer jsonb, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_add_customer';
COMMENT ON FUNCTION @extschema@.kapture_add_customer(jsonb, name) IS
'adds a customer to Kapture and returns its answer; raises an error if there is none';

CREATE FUNCTION @extschema@.kapture_update_customer(customer jsonb, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_update_customer';
COMMENT ON FUNCTION @extschema@.kapture_update_customer(jsonb, name) IS
'changes the given fields of the customer that kapture_customer_id names, and returns Kapture''s answer';

CREATE FUNCTION @extschema@.kapture_get_customer(criteria jsonb, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_get_customer';
COMMENT ON FUNCTION @extschema@.kapture_get_customer(jsonb, name) IS
'searches a customer by kapture_customer_id, customer_id, phone or email_id, and returns Kapture''s answer';

CREATE FUNCTION @extschema@.kapture_pull(start_date timestamp, end_date timestamp, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_pull';
COMMENT ON FUNCTION @extschema@.kapture_pull(timestamp, timestamp, name) IS
'returns the customers that changed between two times of the account''s time zone, as Kapture answers; long ranges are fetched in windows of option pull_window';
