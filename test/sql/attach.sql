-- Attaching and detaching: what is checked, what is made.
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text, "secSource" text, tertsource text, age int);

-- needs a mapping of the owner, whoever runs this
DO $$
DECLARE
	hint text;
BEGIN
	PERFORM kapture_attach('customers');
EXCEPTION WHEN undefined_object THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RAISE NOTICE '%', replace(SQLERRM || E'\nHINT: ' || hint, current_user, 'owner');
END $$;
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'k');
SELECT kapture_attach('customers', server => 'nowhere');

-- bad arguments
SELECT kapture_attach(NULL);
SELECT kapture_attach('customers', server => NULL);
SELECT kapture_attach('customers', on_duplicate => 'ignore');
SELECT kapture_attach('customers', columns => '[]');
SELECT kapture_attach('customers', columns => '{}');
SELECT kapture_attach('customers', columns => '{"phone": 1}');
SELECT kapture_attach('customers', columns => '{"customer_name": "nothing", "phone": "phone"}');
SELECT kapture_attach('customers', columns => '{"customer_name": "customer_name"}');
SELECT kapture_attach('customers', columns => '{"phone": "phone"}');
SELECT kapture_attach('customers', columns => '{"kapture_customer_id": "age"}');
SELECT kapture_attach('customers', columns => '{"customer_name": "kapture_customer_id"}');

-- relations that cannot be attached
CREATE VIEW customer_view AS SELECT * FROM customers;
SELECT kapture_attach('customer_view');
CREATE TABLE no_key (customer_name text, phone text);
SELECT kapture_attach('no_key');
CREATE TABLE no_fields (id int PRIMARY KEY, a text);
SELECT kapture_attach('no_fields');
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('unlogged');
CREATE TEMPORARY TABLE temporary (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('temporary');
CREATE TABLE wrong_id (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id int);
SELECT kapture_attach('wrong_id');
CREATE TABLE parted (id int PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
SELECT kapture_attach('part1');
SELECT kapture_attach('kapture_outbox');
SELECT kapture_attach('pg_class');

-- a failed attempt leaves nothing behind
SELECT count(*) FROM kapture_attachment;
SELECT count(*) FROM pg_attribute WHERE attname = 'kapture_customer_id' AND attrelid = 'customers'::regclass;

-- a good one
SELECT kapture_attach('customers');
SELECT relation, server, key_columns, on_duplicate, replicated, paused FROM kapture_attachment;
SELECT bit, field, column_name FROM kapture_column ORDER BY bit;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'customers'::regclass;
SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'kapture_customer_id' AND attrelid = 'customers'::regclass;
SELECT kapture_attach('customers');
SELECT relation, server, pending, parked FROM kapture_status;

-- only the owner may, and only the owner sees
CREATE ROLE regress_kapture_other;
SET ROLE regress_kapture_other;
SELECT kapture_detach('customers');
SELECT kapture_pause('customers');
SELECT kapture_retry('customers');
SELECT kapture_discard('customers');
SELECT count(*) FROM kapture_status;
SELECT count(*) FROM kapture_failures;
SELECT count(*) FROM kapture_outbox;
SELECT count(*) FROM kapture_delivery;
SELECT count(*) FROM kapture_history;
SELECT kapture_worker_start();
RESET ROLE;
DROP ROLE regress_kapture_other;

-- an owner without rights on the server
CREATE ROLE regress_kapture_owner;
CREATE TABLE theirs (id int PRIMARY KEY, customer_name text, phone text);
ALTER TABLE theirs OWNER TO regress_kapture_owner;
SET ROLE regress_kapture_owner;
SELECT kapture_attach('theirs');
RESET ROLE;
DROP TABLE theirs;
DROP ROLE regress_kapture_owner;

-- detach
SELECT kapture_detach('customers');
SELECT kapture_detach('customers');
SELECT kapture_detach(NULL);
SELECT count(*) FROM kapture_attachment;
SELECT count(*) FROM kapture_column;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'customers'::regclass;

-- other names and several columns, replicated, partitioned
SELECT kapture_attach('customers', '{"customer_name": "customer_name", "phone": "phone", "custom_field": "age"}', on_duplicate => 'fail', replicated => true);
SELECT field, column_name FROM kapture_column ORDER BY bit;
SELECT on_duplicate, replicated FROM kapture_attachment;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'customers'::regclass;
SELECT kapture_detach('customers');
SELECT kapture_attach('parted');
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname = 'kapture_capture' ORDER BY 1;
SELECT kapture_detach('part1');
SELECT kapture_detach('parted');

DROP VIEW customer_view;
DROP TABLE customers, no_key, no_fields, unlogged, temporary, wrong_id, parted;
DROP USER MAPPING FOR CURRENT_USER SERVER kapture;
DROP SERVER kapture CASCADE;
