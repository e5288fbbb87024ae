-- Expressions, constants and filters as they are given: what is refused, what is said.
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'k');
CREATE TABLE people (id int PRIMARY KEY, first_name text, last_name text, mobile text, born date, ok boolean);
CREATE FUNCTION attach(expression text) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN PERFORM kapture_attach('people', columns => jsonb_build_object('customer_name', jsonb_build_object('expression', expression), 'phone', 'mobile')); END $$;
CREATE FUNCTION attach_filter(filter text) RETURNS void LANGUAGE plpgsql
AS $$ BEGIN PERFORM kapture_attach('people', columns => '{"customer_name": "first_name", "phone": "mobile"}', filter => filter); END $$;

-- how it is said
SELECT kapture_attach('people', columns => '{"customer_name": {"expression": 1}, "phone": "mobile"}');
SELECT kapture_attach('people', columns => '{"customer_name": {}, "phone": "mobile"}');
SELECT kapture_attach('people', columns => '{"customer_name": {"expression": "first_name", "constant": "x"}, "phone": "mobile"}');
SELECT kapture_attach('people', columns => '{"customer_name": {"constant": ""}, "phone": "mobile"}');
SELECT kapture_attach('people', columns => '{"customer_name": {"constant": null}, "phone": "mobile"}');
SELECT kapture_attach('people', columns => '{"customer_name": ["first_name"], "phone": "mobile"}');
SELECT kapture_attach('people', columns => '{"customer_name": "first_name || last_name", "phone": "mobile"}');
SELECT kapture_attach('people', columns => '{"kapture_customer_id": {"constant": 1}, "customer_name": "first_name", "phone": "mobile"}');

-- what is no expression over a row
\set VERBOSITY terse
SELECT attach('first_name ||');
SELECT attach('');
SELECT attach('first_name, last_name');
SELECT attach('first_name FROM pg_class');
SELECT attach('first_name; DROP TABLE people');
SELECT attach('first_name AS n');
SELECT attach('no_function(first_name)');
SELECT attach('(SELECT relname::text FROM pg_class LIMIT 1)');
SELECT attach('max(first_name)');
SELECT attach('row_number() OVER ()');
SELECT attach('generate_series(1, id)');
SELECT attach('first_name || $1');
SELECT attach('ctid::text');
SELECT attach('other.first_name');
\set VERBOSITY default
SELECT attach('first_nam || last_name');
SELECT attach('(SELECT 1)');

-- what does not follow from the row, or may not be called
SELECT attach('random()::text');
\set VERBOSITY terse
SELECT attach('clock_timestamp()::text');
SELECT attach('nextval(''kapture_attachment_attachment_id_seq'')::text');
SELECT attach('table_to_xml(''people'', true, true, '''')::text');
SELECT attach('pg_read_file(first_name)');

-- filters
SELECT attach_filter('first_name');
SELECT attach_filter('born < now() - interval ''18 years'') OR (true');
SELECT attach_filter('id IN (SELECT 1)');
\set VERBOSITY default
SELECT kapture_attach('people', columns => '{"customer_name": "first_name", "phone": "mobile"}', on_leave => '{"zone": "x"}');
SELECT kapture_attach('people', columns => '{"customer_name": "first_name", "phone": "mobile"}', filter => 'ok', on_leave => '["zone"]');
SELECT kapture_attach('people', columns => '{"customer_name": "first_name", "phone": "mobile"}', filter => 'ok', on_leave => '{"zone": null}');
SELECT kapture_attach('people', columns => '{"customer_name": "first_name", "phone": "mobile"}', id_column => 'ok');
SELECT kapture_attach('people', columns => '{"customer_name": "first_name", "phone": "mobile"}', id_column => 'id');
SELECT kapture_attach('people', columns => '{"customer_name": "first_name", "phone": "mobile", "zone": "ok"}', id_column => 'ok');

-- nothing was attached, nothing was added
SELECT count(*) FROM kapture_attachment;
SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'people'::regclass AND attnum > 0;

-- what is taken, with a notice where changes will not be noticed
BEGIN;
SELECT attach_filter('born < now() - interval ''18 years''');
ROLLBACK;
BEGIN;
SELECT attach_filter('age(born) > interval ''18 years'' AND born < current_date');
ROLLBACK;
CREATE FUNCTION looks_elsewhere(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT $1';
BEGIN;
SELECT attach('looks_elsewhere(first_name)');
SELECT bit, field, column_name, expression, reads FROM kapture_column ORDER BY bit;
ROLLBACK;
BEGIN;
SELECT kapture_attach('people', columns => '{"customer_name": {"expression": "concat_ws('' '', first_name, last_name)"}, "phone": "mobile",
	"zone": {"constant": 5}, "country": {"constant": true}, "city": {"expression": "''Goa''"}, "state": {"expression": "row_to_json(people) ->> ''x''"}}',
	filter => 'ok AND (first_name COLLATE "C") > ''A''', id_column => 'crm_id', on_leave => '{"zone": 6, "tertSource": "gone"}');
SELECT field, column_name, expression, constant, reads FROM kapture_column ORDER BY field;
SELECT id_column, filter, filter_columns, on_leave FROM kapture_attachment;
ROLLBACK;

-- names are those of the session
CREATE SCHEMA other;
CREATE FUNCTION other.name_of(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
SET search_path = other, public;
BEGIN;
SELECT attach('name_of(first_name)');
SELECT expression FROM kapture_column WHERE expression IS NOT NULL;
ROLLBACK;
RESET search_path;

-- the owner has to have the rights
CREATE ROLE regress_kapture_poor;
GRANT USAGE ON FOREIGN SERVER kapture TO regress_kapture_poor;
CREATE USER MAPPING FOR regress_kapture_poor SERVER kapture OPTIONS (auth_key 'k');
GRANT CREATE ON SCHEMA public TO regress_kapture_poor;
ALTER TABLE people OWNER TO regress_kapture_poor;
SELECT attach('other.name_of(first_name)');

DROP SCHEMA other CASCADE;
DROP FUNCTION attach, attach_filter, looks_elsewhere;
DROP TABLE people;
DROP USER MAPPING FOR CURRENT_USER SERVER kapture;
DROP SERVER kapture CASCADE;
REVOKE CREATE ON SCHEMA public FROM regress_kapture_poor;
DROP ROLE regress_kapture_poor;
