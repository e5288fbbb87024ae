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

-- what would be a primary key: unique, at once, for all rows, of columns that are never null
CREATE TABLE keyless (a int, b int NOT NULL, c int NOT NULL, customer_name text, phone text);
CREATE INDEX ON keyless (c);
CREATE UNIQUE INDEX ON keyless (a);
CREATE UNIQUE INDEX ON keyless (b) WHERE c > 0;
CREATE UNIQUE INDEX ON keyless (abs(b));
ALTER TABLE keyless ADD UNIQUE (b) DEFERRABLE;
CREATE UNIQUE INDEX ON keyless (c, a);
SELECT kapture_attach('keyless');
CREATE UNIQUE INDEX ON keyless (c, b) INCLUDE (a);
CREATE UNIQUE INDEX ON keyless (b, c);
SELECT kapture_attach('keyless');
DROP TABLE keyless;
CREATE TABLE keyless (b int NOT NULL, customer_name text, phone text);
INSERT INTO keyless VALUES (1), (1);
CREATE UNIQUE INDEX CONCURRENTLY invalid ON keyless (b);
SELECT kapture_attach('keyless');
DROP TABLE keyless;

-- columns that cannot receive ids, and indexes that find rows by these
CREATE TABLE people (id int PRIMARY KEY, customer_name text, phone text, counted bigint GENERATED ALWAYS AS IDENTITY,
	doubled bigint GENERATED ALWAYS AS (id * 2) STORED, crm_id bigint);
SELECT kapture_attach('people', id_column => 'counted');
SELECT kapture_attach('people', id_column => 'doubled');
SELECT kapture_attach('people', id_column => 'id');
SELECT kapture_attach('people', id_column => 'ctid');
SELECT kapture_attach('people', id_column => '');
CREATE INDEX ON people (id, crm_id);
CREATE INDEX ON people (crm_id) WHERE id > 0;
CREATE INDEX ON people ((crm_id + 1));
CREATE INDEX ON people USING brin (crm_id);
INSERT INTO people (id, crm_id) VALUES (1, 5), (2, 5);
CREATE UNIQUE INDEX CONCURRENTLY invalid ON people (crm_id);
SELECT kapture_attach('people', pull => true, id_column => 'crm_id');
SELECT kapture_detach('people');
SELECT kapture_attach('people', pull => true, id_column => 'crm_id');
DROP TABLE people;
CREATE TABLE people (id int PRIMARY KEY, customer_name text, phone text, crm_id bigint);
CREATE INDEX ON people USING hash (crm_id);
SELECT kapture_attach('people', pull => true, id_column => 'crm_id');
DROP TABLE people;

-- row-level security: what the owner may see, the worker sees
CREATE ROLE regress_kapture_owner;
GRANT USAGE ON FOREIGN SERVER kapture TO regress_kapture_owner;
CREATE USER MAPPING FOR regress_kapture_owner SERVER kapture OPTIONS (auth_key 'k');
CREATE TABLE people (id int PRIMARY KEY, customer_name text, phone text);
ALTER TABLE people OWNER TO regress_kapture_owner;
ALTER TABLE people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT kapture_attach('people');
ALTER ROLE regress_kapture_owner BYPASSRLS;
SELECT kapture_attach('people');
SELECT kapture_detach('people');
ALTER ROLE regress_kapture_owner NOBYPASSRLS;
ALTER TABLE people NO FORCE ROW LEVEL SECURITY;
SELECT kapture_attach('people');
DROP TABLE people;
DROP USER MAPPING FOR regress_kapture_owner SERVER kapture;
REVOKE USAGE ON FOREIGN SERVER kapture FROM regress_kapture_owner;
DROP ROLE regress_kapture_owner;

-- a trigger function that is none
SELECT kapture_capture();
CREATE TABLE people (id int PRIMARY KEY);
CREATE TRIGGER before_row BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION kapture_capture();
INSERT INTO people VALUES (1);
DROP TRIGGER before_row ON people;
CREATE TRIGGER after_statement AFTER INSERT ON people FOR EACH STATEMENT EXECUTE FUNCTION kapture_capture();
INSERT INTO people VALUES (1);
DROP TABLE people;

DROP VIEW customer_view;
DROP TABLE customers, no_key, no_fields, unlogged, temporary, wrong_id, parted;
DROP USER MAPPING FOR CURRENT_USER SERVER kapture;
DROP SERVER kapture CASCADE;
