-- What the trigger notes of tables of many shapes.  All tables are paused, so
-- that the worker takes nothing.
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'k');
SET client_min_messages = warning;
CREATE FUNCTION keep(rel regclass, columns jsonb DEFAULT NULL, replicated boolean DEFAULT false) RETURNS void
LANGUAGE sql AS $$
	SELECT kapture_attach(rel, columns, replicated => replicated);
	SELECT kapture_pause(rel);
$$;
-- which row, and the fields whose columns changed; looking at it empties it
CREATE FUNCTION noted() RETURNS TABLE (relation text, op "char", row_key text, old_key text, fields text)
LANGUAGE sql AS $$
	WITH o AS (DELETE FROM kapture_outbox RETURNING *)
	SELECT a.relation::regclass::text, o.op, k.row_key, o.old_key,
		(SELECT string_agg(c.field, ',' ORDER BY c.bit) FROM kapture_column c
		  WHERE c.attachment_id = o.attachment_id AND (o.changed >> c.bit) & 1 = 1)
	FROM o JOIN kapture_attachment a USING (attachment_id),
		unnest(o.row_key || o.more_keys) WITH ORDINALITY AS k(row_key, n) ORDER BY o.xact, o.seq, k.n;
$$;

-- partitions of partitions, a default one, rows that move
CREATE TABLE parted (id uuid, region text, customer_name text, phone text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_n PARTITION OF parted FOR VALUES IN ('n', 'm') PARTITION BY LIST (region);
CREATE TABLE parted_nn PARTITION OF parted_n FOR VALUES IN ('n');
CREATE TABLE parted_rest PARTITION OF parted DEFAULT;
SELECT keep('parted');
CREATE TABLE parted_nm PARTITION OF parted_n FOR VALUES IN ('m');
INSERT INTO parted (id, region, customer_name, phone) VALUES
	('00000000-0000-0000-0000-00000000000a', 'n', 'deep', '1'),
	('00000000-0000-0000-0000-00000000000b', 'm', 'new', '2'),
	('00000000-0000-0000-0000-00000000000c', 'x', 'rest', '3');
SELECT * FROM noted();
-- written to directly
UPDATE parted_nm SET phone = '22';
UPDATE parted_n SET customer_name = 'deeper' WHERE region = 'n';
SELECT * FROM noted();
-- moved between partitions of one partition, and to the default one
UPDATE parted SET region = 'n' WHERE region = 'm';
UPDATE parted SET region = 'y', phone = '222' WHERE customer_name = 'new';
SELECT * FROM noted();
INSERT INTO parted (id, region, customer_name, phone) VALUES ('00000000-0000-0000-0000-00000000000c', 'x', 'again', '3')
	ON CONFLICT (id, region) DO UPDATE SET customer_name = EXCLUDED.customer_name;
MERGE INTO parted p USING (VALUES ('n'), ('x')) v(r) ON p.region = v.r
	WHEN MATCHED AND v.r = 'n' THEN DELETE
	WHEN MATCHED THEN UPDATE SET phone = '33';
SELECT * FROM noted();
-- a partition that leaves is a table like any other
ALTER TABLE parted DETACH PARTITION parted_rest;
INSERT INTO parted_rest (id, region, customer_name, phone) VALUES ('00000000-0000-0000-0000-00000000000d', 'z', 'left', '4');
SELECT * FROM noted();
SELECT kapture_detach('parted');
SELECT count(*) FROM pg_trigger WHERE tgname = 'kapture_capture';

-- inheritance: a child is attached by itself or not at all
CREATE TABLE parent (id int PRIMARY KEY, customer_name text, phone text);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
SELECT keep('parent');
INSERT INTO child VALUES (1, 'child', '1');
INSERT INTO parent VALUES (2, 'parent', '2');
UPDATE parent SET phone = '3';
SELECT * FROM noted();
SELECT keep('child');
UPDATE parent SET phone = '4';
SELECT * FROM noted();
SELECT kapture_detach('parent');
SELECT kapture_detach('child');

-- kinds of keys
CREATE TABLE k_text (id text PRIMARY KEY, customer_name text, phone text);
CREATE TABLE k_numeric (id numeric PRIMARY KEY, customer_name text, phone text);
CREATE TABLE k_time (id timestamptz PRIMARY KEY, customer_name text, phone text);
CREATE TABLE k_float (id float8 PRIMARY KEY, customer_name text, phone text);
CREATE TABLE k_several (a int, b text, c date, customer_name text, phone text, PRIMARY KEY (c, a, b));
CREATE TABLE k_include (id int, customer_name text, phone text, PRIMARY KEY (id) INCLUDE (phone));
SELECT keep(t) FROM unnest('{k_text,k_numeric,k_time,k_float,k_several,k_include}'::regclass[]) t;
INSERT INTO k_text VALUES ('', 'empty', '1'), (' it''s "quoted", {x}\ ', 'odd', '1'), ('NULL', 'word', '1'), ('नमस्ते', 'other script', '1');
INSERT INTO k_numeric VALUES (1.50, 'n', '1'), (1e20, 'n', '1');
SET TimeZone = 'Asia/Kolkata';
SET extra_float_digits = -5;
INSERT INTO k_time VALUES ('2021-03-14 10:00:00.123456+05:30', 't', '1');
INSERT INTO k_float VALUES (0.1, 'f', '1');
RESET TimeZone;
RESET extra_float_digits;
INSERT INTO k_several VALUES (1, '', '2021-03-14', 's', '1'), (2, 'NULL', '2021-03-14', 's', '1'), (3, 'a,"b\', 'infinity', 's', '1');
INSERT INTO k_include VALUES (1, 'i', '1');
UPDATE k_include SET phone = '2';
SELECT * FROM noted();
SELECT kapture_detach(t) FROM unnest('{k_text,k_numeric,k_time,k_float,k_several,k_include}'::regclass[]) t;

-- kinds of columns
CREATE TYPE grade AS ENUM ('gold', 'silver');
CREATE DOMAIN mobile AS text CHECK (value ~ '^[0-9]*$');
CREATE TYPE place AS (city text, pin int);
CREATE TABLE typed (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, first text, last text,
	full_name text GENERATED ALWAYS AS (first || ' ' || last) STORED, phone mobile, level grade, tags text[],
	credit numeric(10, 2), born date, seen timestamptz, active boolean, extra jsonb, address place, big text, bytes bytea);
ALTER TABLE typed ALTER COLUMN big SET STORAGE EXTERNAL;
SELECT keep('typed', '{"customer_name": "full_name", "phone": "phone", "level": "level", "tags": "tags", "credit": "credit",
	"born": "born", "seen": "seen", "active": "active", "extra": "extra", "address": "address", "big": "big", "bytes": "bytes"}');
INSERT INTO typed (first, last, phone, level, tags, credit, born, seen, active, extra, address, big, bytes)
	VALUES ('Asha', 'Rao', '9', 'gold', '{a,b}', 1.5, '2000-01-01', '2021-03-14 00:00+00', true, '{"a": 1}', ('Pune', 411001), repeat('x', 10000), '\x00');
SELECT op, row_key FROM noted();
UPDATE typed SET last = 'Shah';
UPDATE typed SET level = 'silver', tags = array_append(tags, 'c');
UPDATE typed SET credit = 1.50, born = '2000-01-01', seen = '2021-03-14 05:30+05:30', active = true, extra = '{ "a": 1.0 }' WHERE false;
UPDATE typed SET credit = 2, active = NULL, address.pin = 411002;
UPDATE typed SET bytes = '\x01', extra = extra || '{"b": 2}';
UPDATE typed SET big = big || 'y';
UPDATE typed SET seen = seen + interval '24 hours', born = 'infinity';
SELECT * FROM noted();
-- the same in other words is no change
UPDATE typed SET level = 'silver', tags = '{a,b,c}', big = big || '', bytes = '\x01', credit = 2.0, seen = '2021-03-15 05:30+05:30', first = 'Asha', address = ROW('Pune', 411002);
SELECT * FROM noted();

-- a column that is computed when it is read has no change to notice (PostgreSQL 18 has such)
DO $$
BEGIN
	IF current_setting('server_version_num')::int >= 180000 THEN
		EXECUTE 'CREATE TABLE computed (id int PRIMARY KEY, a text, full_name text GENERATED ALWAYS AS (a) VIRTUAL, phone text)';
		PERFORM kapture_attach('computed', '{"customer_name": "full_name", "phone": "phone"}');
		RAISE WARNING 'a virtual generated column was mapped';
	END IF;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- columns that come, go, and change their type or name
ALTER TABLE typed DROP COLUMN tags, DROP COLUMN extra, ADD COLUMN tags text DEFAULT 'anew';
ALTER TABLE typed ALTER COLUMN credit TYPE text;
ALTER TABLE typed RENAME COLUMN phone TO handset;
ALTER TABLE typed ADD COLUMN phone text;
SELECT field, column_name FROM kapture_column WHERE field = 'phone';
SELECT count(*) FROM noted();
UPDATE typed SET credit = 'much';
UPDATE typed SET tags = 'newer';
UPDATE typed SET handset = '99';
UPDATE typed SET phone = 'another column';
SELECT * FROM noted();
CREATE SCHEMA "Other Schema";
ALTER TABLE typed SET SCHEMA "Other Schema";
ALTER TABLE "Other Schema".typed RENAME TO "Typ""ed";
UPDATE "Other Schema"."Typ""ed" SET level = 'gold';
SELECT * FROM noted();
SELECT kapture_detach('"Other Schema"."Typ""ed"');

-- quoted names all over
CREATE TABLE "Other Schema"."Kun,den" ("I d" int, "N'ame" text, "Pho""ne" text, PRIMARY KEY ("I d"));
SELECT keep('"Other Schema"."Kun,den"', '{"customer_name": "N''ame", "phone": "Pho\"ne"}');
INSERT INTO "Other Schema"."Kun,den" VALUES (1, 'q', '1');
UPDATE "Other Schema"."Kun,den" SET "Pho""ne" = '2';
SELECT * FROM noted();
SELECT kapture_detach('"Other Schema"."Kun,den"');

-- changes that come by other tables, views, triggers and deferred constraints
CREATE TABLE city (name text PRIMARY KEY);
CREATE TABLE customers (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, customer_name text, phone text,
	city text REFERENCES city ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED);
SELECT keep('customers');
BEGIN;
INSERT INTO customers VALUES (1, 'a', '1', 'Pune'), (2, 'b', '2', 'Agra');
INSERT INTO city VALUES ('Pune'), ('Agra');
COMMIT;
SELECT * FROM noted();
UPDATE customers SET id = 3 - id;
SELECT * FROM noted();
UPDATE city SET name = 'Poona' WHERE name = 'Pune';
DELETE FROM city WHERE name = 'Agra';
SELECT * FROM noted();
BEGIN;
INSERT INTO customers VALUES (9, 'no such city', '9', 'Atlantis');
COMMIT;
SELECT * FROM noted();
CREATE VIEW shown AS SELECT id, customer_name, phone FROM customers WHERE id < 100;
INSERT INTO shown VALUES (5, 'by view', '5');
UPDATE shown SET phone = '55' WHERE id = 5;
CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.customer_name := initcap(NEW.customer_name); RETURN NEW; END $$;
CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION tidy();
UPDATE customers SET phone = phone WHERE id = 5;
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER swallow BEFORE INSERT ON customers FOR EACH ROW EXECUTE FUNCTION swallow();
INSERT INTO customers VALUES (6, 'swallowed', '6');
DROP TRIGGER swallow ON customers;
SELECT * FROM noted();
WITH gone AS (DELETE FROM customers WHERE id = 1 RETURNING *),
	changed AS (UPDATE customers SET phone = '222' WHERE id = 2 RETURNING *)
INSERT INTO customers SELECT id + 10, customer_name, phone FROM gone UNION ALL SELECT id + 10, customer_name, phone FROM changed;
UPDATE customers c SET phone = v.p FROM (VALUES (2, 'x'), (2, 'x'), (77, 'x')) v(i, p) WHERE c.id = v.i;
SELECT * FROM noted();

-- who may write a row need not have rights on anything of ours, nor see the row
CREATE ROLE regress_kapture_clerk;
GRANT SELECT, INSERT, UPDATE ON customers TO regress_kapture_clerk;
ALTER TABLE customers ENABLE ROW LEVEL SECURITY;
CREATE POLICY blind ON customers FOR INSERT TO regress_kapture_clerk WITH CHECK (id BETWEEN 200 AND 210);
CREATE POLICY one ON customers FOR UPDATE TO regress_kapture_clerk USING (id = 2);
CREATE POLICY see ON customers FOR SELECT TO regress_kapture_clerk USING (id = 2);
SET ROLE regress_kapture_clerk;
INSERT INTO customers VALUES (200, 'unseen', '1');
INSERT INTO customers VALUES (300, 'refused', '1');
UPDATE customers SET phone = '2';
RESET ROLE;
SELECT * FROM noted();
SELECT kapture_detach('customers');
DROP VIEW shown;
DROP TABLE customers, city;
DROP ROLE regress_kapture_clerk;

-- replicated => true notes what replication applies, and all else
CREATE TABLE hub (id int PRIMARY KEY, customer_name text, phone text);
SELECT keep('hub', replicated => true);
SET session_replication_role = replica;
INSERT INTO hub VALUES (1, 'replica', '1');
SET session_replication_role = local;
UPDATE hub SET phone = '2';
RESET session_replication_role;
DELETE FROM hub;
SELECT * FROM noted();
SELECT kapture_detach('hub');

DROP FUNCTION keep, noted, tidy, swallow;
DROP TABLE parted, parted_rest, child, parent, k_text, k_numeric, k_time, k_float, k_several, k_include, hub;
DROP SCHEMA "Other Schema" CASCADE;
DROP TYPE grade, place;
DROP DOMAIN mobile;
DROP SERVER kapture CASCADE;
