-- What the trigger notes.  The table is paused, so that the worker takes nothing.
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'k');
CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text, note text);
BEGIN;
SELECT kapture_attach('customers');
SELECT kapture_pause('customers');
COMMIT;
CREATE VIEW noted AS SELECT op, k.row_key, old_key, changed FROM kapture_outbox, unnest(row_key || more_keys) WITH ORDINALITY AS k(row_key, n) WHERE op NOT IN ('t', 'c') ORDER BY xact, seq, n;

-- insert, update of each column, delete
INSERT INTO customers VALUES (1, 'One', '9000000001');
UPDATE customers SET customer_name = 'Uno' WHERE id = 1;
UPDATE customers SET phone = '9000000011' WHERE id = 1;
UPDATE customers SET customer_name = 'Un', phone = NULL WHERE id = 1;
DELETE FROM customers WHERE id = 1;
SELECT * FROM noted;
DELETE FROM kapture_outbox;

-- what touches no mapped column is not noted, the id neither
INSERT INTO customers VALUES (1, 'One', '9000000001');
DELETE FROM kapture_outbox;
UPDATE customers SET note = 'x';
UPDATE customers SET customer_name = customer_name;
UPDATE customers SET kapture_customer_id = 7;
SELECT * FROM noted;

-- nor does it come to the trigger, once the session knows the table
CREATE FUNCTION captures(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	line text;
	result text := 'left out';
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) ' || statement LOOP
		IF line LIKE 'Trigger kapture%' THEN
			result := substring(line FROM 'calls=.*');
		END IF;
	END LOOP;
	RETURN result;
END $$;
SELECT captures($$UPDATE customers SET note = 'y'$$);
SELECT captures($$UPDATE customers SET note = 'y', phone = phone$$);
SELECT captures($$UPDATE customers SET id = id$$);
SELECT captures($$WITH w AS (INSERT INTO customers VALUES (2, 'Two', '9000000002') RETURNING id) UPDATE customers SET note = 'z'$$);
SELECT * FROM noted;
DELETE FROM customers WHERE id = 2;
DELETE FROM kapture_outbox;
-- other triggers are none of our business
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE '% of %', TG_OP, NEW.id; RETURN NULL; END $$;
CREATE TRIGGER tell AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION tell();
UPDATE customers SET phone = phone;
SELECT captures($$UPDATE customers SET note = 'z'$$);
DROP TRIGGER tell ON customers;
CREATE TABLE referrer (id int PRIMARY KEY REFERENCES customers ON UPDATE CASCADE);
INSERT INTO referrer VALUES (1);
UPDATE customers SET id = 3 WHERE id = 1;
SELECT * FROM noted;
SELECT * FROM referrer;
UPDATE customers SET note = 'w' WHERE id = 3;
DROP TABLE referrer;
UPDATE customers SET id = 1 WHERE id = 3;
DELETE FROM kapture_outbox;
-- what changes mapped columns besides: a trigger before it, a generated column
CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.customer_name := NEW.note; RETURN NEW; END $$;
CREATE TRIGGER rename BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION rename();
UPDATE customers SET phone = phone;
DELETE FROM kapture_outbox;
SELECT captures($$UPDATE customers SET note = 'by trigger'$$);
SELECT * FROM noted;
DROP TRIGGER rename ON customers;
UPDATE customers SET customer_name = 'One';
DELETE FROM kapture_outbox;
CREATE TABLE made (id int PRIMARY KEY, first text, note text, customer_name text GENERATED ALWAYS AS ('Ms ' || first) STORED, phone text);
BEGIN;
SELECT kapture_attach('made');
SELECT kapture_pause('made');
COMMIT;
INSERT INTO made VALUES (1, 'A', 'n', DEFAULT, '1');
DELETE FROM kapture_outbox;
SELECT captures($$UPDATE made SET first = 'B'$$);
SELECT * FROM noted;
DELETE FROM kapture_outbox;
SELECT kapture_detach('made');
DROP TABLE made;
-- through a view, a rule, a prepared statement, MERGE and ON CONFLICT
CREATE VIEW of_customers AS SELECT id, customer_name AS name, note AS remark FROM customers;
SELECT captures($$UPDATE of_customers SET remark = 'v'$$);
SELECT captures($$UPDATE of_customers SET name = 'Uno'$$);
CREATE TABLE remarks (customer int, remark text);
CREATE RULE remark AS ON UPDATE TO remarks DO INSTEAD UPDATE customers SET customer_name = NEW.remark;
INSERT INTO remarks VALUES (1, 'r');
UPDATE remarks SET remark = 's';
DROP TABLE remarks;
PREPARE set_note AS UPDATE customers SET note = $1;
EXECUTE set_note('p');
PREPARE set_phone AS UPDATE customers SET phone = $1;
EXECUTE set_phone('9000000009');
EXECUTE set_note('q');
MERGE INTO customers c USING (VALUES (1)) v(id) ON c.id = v.id WHEN MATCHED AND c.note = 'none' THEN UPDATE SET note = 'm'
	WHEN MATCHED THEN UPDATE SET customer_name = 'Merged';
INSERT INTO customers VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET note = 'c';
INSERT INTO customers VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET customer_name = 'Conflict';
SELECT * FROM noted;
DEALLOCATE ALL;
DROP VIEW of_customers;
DELETE FROM kapture_outbox;
-- a prepared statement whose plan is kept, while what it depends on changes
SET plan_cache_mode = force_generic_plan;
PREPARE set_note AS UPDATE customers SET note = $1 WHERE id = 1;
CREATE PROCEDURE set_note_too(new text) LANGUAGE plpgsql AS $$BEGIN UPDATE customers SET note = new WHERE id = 1; END $$;
UPDATE customers SET phone = phone;
EXECUTE set_note('a');
CALL set_note_too('b');
CREATE TRIGGER rename BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION rename();
EXECUTE set_note('made');
CALL set_note_too('made too');
BEGIN;
DROP TRIGGER rename ON customers;
EXECUTE set_note('c');
CREATE TRIGGER rename BEFORE UPDATE OF note ON customers FOR EACH ROW WHEN (NEW.note <> 'd') EXECUTE FUNCTION rename();
CALL set_note_too('made in the same transaction');
SAVEPOINT s;
DROP TRIGGER rename ON customers;
EXECUTE set_note('d');
ROLLBACK TO s;
EXECUTE set_note('made again by rolling back');
COMMIT;
ALTER TABLE customers DISABLE TRIGGER rename;
EXECUTE set_note('e');
ALTER TABLE customers ENABLE REPLICA TRIGGER rename;
EXECUTE set_note('f');
ALTER TABLE customers ENABLE TRIGGER rename;
EXECUTE set_note('enabled');
CALL set_note_too('enabled too');
DROP TRIGGER rename ON customers;
SELECT * FROM noted;
DELETE FROM kapture_outbox;
-- a table that turns into a partition of an attached one, and back
CREATE TABLE whole (id int PRIMARY KEY, customer_name text, phone text, note text) PARTITION BY RANGE (id);
BEGIN;
SELECT kapture_attach('whole');
SELECT kapture_pause('whole');
COMMIT;
CREATE TABLE part (note text, phone text, customer_name text, id int NOT NULL, kapture_customer_id bigint);
INSERT INTO part VALUES ('n', '1', 'Part', 1);
PREPARE set_part_note AS UPDATE part SET note = $1;
PREPARE set_part_phone AS UPDATE part SET phone = $1;
EXECUTE set_part_phone('2');
EXECUTE set_part_note('o');
SELECT count(*) FROM noted;
ALTER TABLE whole ATTACH PARTITION part DEFAULT;
EXECUTE set_part_note('p');
EXECUTE set_part_phone('3');
SELECT * FROM noted;
DELETE FROM kapture_outbox;
ALTER TABLE whole DETACH PARTITION part;
EXECUTE set_part_phone('4');
SELECT count(*) FROM noted;
SELECT kapture_detach('whole');
DROP TABLE whole, part;
-- a mapped column that is renamed, dropped and added anew
PREPARE set_phone AS UPDATE customers SET phone = $1 WHERE id = 1;
EXECUTE set_phone('9000000002');
ALTER TABLE customers RENAME phone TO mobile;
EXECUTE set_note('g');
UPDATE customers SET mobile = '9000000003' WHERE id = 1;
ALTER TABLE customers RENAME mobile TO phone;
EXECUTE set_phone('9000000004');
SELECT * FROM noted;
DELETE FROM kapture_outbox;
ALTER TABLE customers DROP phone;
EXECUTE set_note('h');
ALTER TABLE customers ADD phone text;
EXECUTE set_note('i');
EXECUTE set_phone('9000000005');
SELECT * FROM noted;
DELETE FROM kapture_outbox;
DEALLOCATE ALL;
RESET plan_cache_mode;
DROP PROCEDURE set_note_too;
-- a foreign key that is mapped, and changed by what happens to the row it refers to
CREATE TABLE city (id int PRIMARY KEY, name text UNIQUE);
INSERT INTO city VALUES (0, 'Delhi'), (1, 'Pune'), (2, 'Goa'), (3, 'Agra');
CREATE TABLE resident (id int PRIMARY KEY, customer_name text, phone text,
	own text UNIQUE DEFERRABLE INITIALLY DEFERRED, cascaded text REFERENCES city (name) ON UPDATE CASCADE,
	nulled text REFERENCES city (name) ON UPDATE SET NULL DEFERRABLE INITIALLY DEFERRED,
	defaulted text DEFAULT 'Delhi' REFERENCES city (name) ON UPDATE SET DEFAULT);
BEGIN;
SELECT kapture_attach('resident', '{"customer_name": "customer_name", "phone": "phone", "city": "cascaded", "state": "nulled", "area": "defaulted"}');
SELECT kapture_pause('resident');
COMMIT;
INSERT INTO resident VALUES (1, 'A', '1', 'x', 'Pune', 'Goa', 'Agra');
UPDATE resident SET phone = '2', own = 'y';
UPDATE resident SET own = 'z';
DELETE FROM kapture_outbox;
UPDATE city SET name = 'Pune 2' WHERE id = 1;
UPDATE city SET name = 'Goa 2' WHERE id = 2;
UPDATE city SET name = 'Agra 2' WHERE id = 3;
SELECT * FROM noted;
SELECT cascaded, nulled, defaulted FROM resident;
DELETE FROM kapture_outbox;
SELECT kapture_detach('resident');
DROP TABLE resident, city;
-- of the table to itself: the UPDATE is left out, what it brings about is not
CREATE TABLE leader (id int PRIMARY KEY, customer_name text, phone text, code text UNIQUE, follows text REFERENCES leader (code) ON UPDATE CASCADE);
BEGIN;
SELECT kapture_attach('leader', '{"customer_name": "customer_name", "phone": "phone", "city": "follows"}');
SELECT kapture_pause('leader');
COMMIT;
INSERT INTO leader VALUES (1, 'A', '1', 'a', NULL), (2, 'B', '2', 'b', 'a'), (3, 'C', '3', 'c', 'c');
UPDATE leader SET phone = phone;
DELETE FROM kapture_outbox;
UPDATE leader SET code = code || code;
SELECT * FROM noted;
SELECT id, follows FROM leader ORDER BY id;
DELETE FROM kapture_outbox;
SELECT kapture_detach('leader');
DROP TABLE leader;
-- triggers of other kinds still run, and what they change is noted
CREATE FUNCTION count_rows() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE '% rows', (SELECT count(*) FROM new_rows); RETURN NULL; END $$;
CREATE TRIGGER count_rows AFTER UPDATE ON customers REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION count_rows();
UPDATE customers SET phone = phone;
SELECT captures($$UPDATE customers SET note = 'j'$$);
DROP TRIGGER count_rows ON customers;
CREATE FUNCTION call_too() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE customers SET phone = NEW.note WHERE id = NEW.id AND phone IS DISTINCT FROM NEW.note; RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER call_too AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION call_too();
BEGIN;
UPDATE customers SET note = '9000000005';
SELECT captures($$UPDATE customers SET note = '9000000006'$$);
SELECT * FROM noted;
COMMIT;
SELECT * FROM noted;
DROP TRIGGER call_too ON customers;
DELETE FROM kapture_outbox;
-- a cursor, other tables to look at, several tables or several UPDATEs in one statement
INSERT INTO customers (id, customer_name, phone) VALUES (2, 'Two', '9000000002');
DELETE FROM kapture_outbox;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM customers WHERE id = 1 FOR UPDATE;
MOVE c;
UPDATE customers SET note = 'k' WHERE CURRENT OF c;
COMMIT;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM customers WHERE id = 2 FOR UPDATE;
MOVE c;
UPDATE customers SET phone = '9000000012' WHERE CURRENT OF c;
COMMIT;
SELECT * FROM noted;
DELETE FROM kapture_outbox;
UPDATE customers c SET note = v.n FROM (VALUES (1, 'l')) v(id, n) WHERE c.id = v.id;
UPDATE customers c SET (note, phone) = (SELECT n, p FROM (VALUES (1, 'l', '9000000007')) v(id, n, p) WHERE v.id = c.id) WHERE id = 1;
WITH w AS (UPDATE customers SET phone = '9000000008' WHERE id = 1) UPDATE customers SET note = 'm' WHERE id = 2;
WITH w AS (UPDATE customers SET note = 'n' WHERE id = 1) UPDATE customers SET customer_name = 'Dos' WHERE id = 2;
WITH w AS (INSERT INTO customers (id, customer_name) VALUES (1, 'Eins') ON CONFLICT (id) DO UPDATE SET customer_name = EXCLUDED.customer_name)
	UPDATE customers SET note = 'o' WHERE id = 2;
SELECT * FROM noted;
DELETE FROM kapture_outbox;
-- a view that a trigger writes, one with a check, one behind another
CREATE VIEW of_customers WITH (security_barrier) AS SELECT note AS remark, phone AS number, id FROM customers WHERE id < 10 WITH CHECK OPTION;
CREATE VIEW of_those AS SELECT number AS remark, remark AS number, id FROM of_customers;
SELECT captures($$UPDATE of_those SET number = 'p'$$);
UPDATE of_those SET remark = '9000000010' WHERE id = 1;
CREATE FUNCTION write_both() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE customers SET note = NEW.remark, phone = NEW.remark WHERE id = NEW.id; RETURN NEW; END $$;
CREATE TRIGGER write_both INSTEAD OF UPDATE ON of_customers FOR EACH ROW EXECUTE FUNCTION write_both();
UPDATE of_customers SET remark = '9000000011' WHERE id = 2;
SELECT * FROM noted;
DROP VIEW of_those, of_customers;
DROP FUNCTION count_rows(), call_too(), write_both();
DELETE FROM customers WHERE id = 2;
UPDATE customers SET customer_name = 'Conflict', phone = '9000000009', note = 'c';
DELETE FROM kapture_outbox;
-- attached anew with other columns, while a session knows the former ones
BEGIN;
SELECT kapture_detach('customers');
SELECT kapture_attach('customers', '{"customer_name": "customer_name", "phone": "phone", "city": "note"}');
SELECT kapture_pause('customers');
UPDATE customers SET note = 'Bangalore';
COMMIT;
UPDATE customers SET note = 'Mumbai';
SELECT * FROM noted;
SELECT captures($$UPDATE customers SET kapture_customer_id = 8$$);
BEGIN;
SELECT kapture_detach('customers');
SELECT kapture_attach('customers');
SELECT kapture_pause('customers');
COMMIT;
-- children have columns in an order of their own
CREATE TABLE child (note text, phone text, customer_name text, id int NOT NULL, kapture_customer_id bigint);
ALTER TABLE child INHERIT customers;
INSERT INTO child VALUES ('n', '1', 'Child', 9);
UPDATE customers SET phone = '9000000019';
UPDATE customers SET note = 'all';
SELECT * FROM noted;
DROP TABLE child;
DROP FUNCTION tell(), rename(), captures(text);
DELETE FROM kapture_outbox;
UPDATE customers SET phone = '9000000001', note = 'x', kapture_customer_id = 7;
DELETE FROM kapture_outbox;

-- keys
UPDATE customers SET id = 2;
SELECT * FROM noted;
DELETE FROM kapture_outbox;

-- rollback, savepoints, exceptions
BEGIN;
INSERT INTO customers VALUES (10, 'a', '1');
ROLLBACK;
BEGIN;
INSERT INTO customers VALUES (11, 'b', '1');
SAVEPOINT s1;
INSERT INTO customers VALUES (12, 'c', '1');
SAVEPOINT s2;
INSERT INTO customers VALUES (13, 'd', '1');
ROLLBACK TO s1;
INSERT INTO customers VALUES (14, 'e', '1');
SAVEPOINT s3;
INSERT INTO customers VALUES (15, 'f', '1');
RELEASE s3;
COMMIT;
DO $$
BEGIN
	FOR i IN 20..24 LOOP
		BEGIN
			INSERT INTO customers VALUES (i, 'x', '1');
			IF i % 2 = 1 THEN
				RAISE EXCEPTION 'odd';
			END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$;
SELECT * FROM noted;
DELETE FROM kapture_outbox;

-- more than is held in memory, in the midst of savepoints
BEGIN;
INSERT INTO customers SELECT i, 'many', '1' FROM generate_series(1001, 2500) i;
SAVEPOINT s;
INSERT INTO customers SELECT i, 'many', '1' FROM generate_series(3001, 5500) i;
ROLLBACK TO s;
INSERT INTO customers SELECT i, 'many', '1' FROM generate_series(6001, 7500) i;
COMMIT;
SELECT count(*), count(DISTINCT row_key), min(row_key::int), max(row_key::int) FROM noted;
SELECT count(*) FROM noted WHERE row_key::int BETWEEN 3001 AND 5500;
SELECT count(*) = count(DISTINCT seq) AS numbered, count(*) < 30 AS few FROM kapture_outbox;
DELETE FROM kapture_outbox;
TRUNCATE customers;

-- the order of changes, whenever they are written: a savepoint that writes a
-- lot at once, in the middle of what is still held in memory
BEGIN;
INSERT INTO customers VALUES (1, 'first', '1'), (2, 'second', '1');
SAVEPOINT s;
UPDATE customers SET id = 3 WHERE id = 1;
INSERT INTO customers SELECT i, 'many', '1' FROM generate_series(1001, 30000) i;
RELEASE s;
INSERT INTO customers VALUES (4, 'last', '1');
COMMIT;
SELECT op, row_key, old_key FROM noted WHERE row_key::int < 1000;
SELECT count(*) FROM noted;
DELETE FROM kapture_outbox;

-- thousands of savepoints, every third rolled back
CREATE PROCEDURE many_savepoints(first int, last int, updated int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN first..last LOOP
		BEGIN
			INSERT INTO customers VALUES (i, 'x', '1');
			UPDATE customers SET phone = '2' WHERE id = i AND i % updated = 1;
			IF i % 3 = 0 THEN
				RAISE EXCEPTION 'third';
			END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$;
CREATE VIEW summary AS SELECT op, count(*), count(DISTINCT row_key) AS rows, count(*) FILTER (WHERE row_key::int % 3 = 0) AS rolled_back FROM noted GROUP BY op ORDER BY op;
CALL many_savepoints(40001, 46000, 1000000);
SELECT * FROM summary;
SELECT count(*) < 100 AS few FROM kapture_outbox;
DELETE FROM kapture_outbox;
TRUNCATE customers;
-- changes that do not go together, more than are held in memory; then rolled back as a whole, and not
BEGIN;
INSERT INTO customers VALUES (1, 'before', '1');
SAVEPOINT s;
CALL many_savepoints(50001, 51000, 2);
ROLLBACK TO s;
INSERT INTO customers VALUES (2, 'between', '1');
SAVEPOINT s2;
CALL many_savepoints(50001, 51000, 2);
RELEASE s2;
INSERT INTO customers VALUES (4, 'after', '1');
COMMIT;
SELECT * FROM summary;
SELECT bool_and(i < u) AS in_order FROM (SELECT min(seq) FILTER (WHERE op = 'i') AS i, min(seq) FILTER (WHERE op = 'u') AS u
	FROM kapture_outbox, unnest(row_key || more_keys) k GROUP BY k HAVING count(*) = 2) t;
DELETE FROM kapture_outbox;
DROP PROCEDURE many_savepoints;
DROP VIEW summary;
TRUNCATE customers;

-- kinds of changes that alternate, and keys of every length
BEGIN;
INSERT INTO customers SELECT i, 'a', '1' FROM generate_series(1, 3) i;
UPDATE customers SET phone = '2';
UPDATE customers SET customer_name = 'b' WHERE id < 3;
DELETE FROM customers WHERE id > 1;
INSERT INTO customers VALUES (2, 'again', '1');
COMMIT;
SELECT op, row_key, more_keys, changed FROM kapture_outbox ORDER BY xact, seq;
DELETE FROM kapture_outbox;
TRUNCATE customers;
CREATE TABLE texts (k text PRIMARY KEY, customer_name text, phone text);
BEGIN;
SELECT kapture_attach('texts');
SELECT kapture_pause('texts');
COMMIT;
BEGIN;
INSERT INTO texts SELECT repeat(chr(97 + i % 26), i), 'x' FROM generate_series(0, 2500, 50) i;
INSERT INTO texts VALUES ('{}'), ('NULL'), ('"'), ('a,b'), (E'\\');
COMMIT;
SELECT count(*), count(DISTINCT row_key) = count(*) AS distinct_keys, bool_and(row_key IN (SELECT k FROM texts)) AS same FROM noted;
SELECT max(pg_column_size(more_keys)) < 2000 AS not_toasted FROM kapture_outbox;
SELECT kapture_detach('texts');
DROP TABLE texts;

-- every way to write
INSERT INTO customers VALUES (1, 'a', '1') ON CONFLICT (id) DO UPDATE SET phone = '2';
INSERT INTO customers VALUES (1, 'a', '1') ON CONFLICT (id) DO UPDATE SET phone = '2';
INSERT INTO customers VALUES (1, 'a', '1') ON CONFLICT (id) DO NOTHING;
MERGE INTO customers c USING (VALUES (1, 'm'), (2, 'n')) v(id, n) ON c.id = v.id
	WHEN MATCHED THEN UPDATE SET customer_name = v.n
	WHEN NOT MATCHED THEN INSERT (id, customer_name) VALUES (v.id, v.n);
WITH w AS (INSERT INTO customers VALUES (3, 'cte', '3') RETURNING id) SELECT * FROM w;
UPDATE customers c SET phone = v.p FROM (VALUES (3, '33')) v(i, p) WHERE c.id = v.i;
COPY customers (id, customer_name, phone) FROM STDIN;
4	copied	4
\.
SELECT * FROM noted;
DELETE FROM kapture_outbox;

-- what tells which row has a key: the command, and the end of the transaction
BEGIN;
INSERT INTO customers SELECT i, 'a', '1' FROM generate_series(61, 64) i;
UPDATE customers SET phone = '2' WHERE id = 64;
UPDATE customers SET id = id + 10 WHERE id IN (61, 62);
UPDATE customers SET id = 80 WHERE id = 71;
WITH gone AS (DELETE FROM customers WHERE id IN (63, 64) RETURNING *) INSERT INTO customers SELECT id + 20, customer_name, phone FROM gone;
DELETE FROM customers WHERE id = 72;
COMMIT;
SELECT seq, op, row_key, more_keys, old_key, command, snapshot IS NOT NULL AS ends FROM kapture_outbox ORDER BY xact, seq;
DELETE FROM kapture_outbox;
-- and where several rows may have it, what gave it to this one
CREATE TABLE twins (id int PRIMARY KEY DEFERRABLE, customer_name text, phone text);
BEGIN;
SELECT kapture_attach('twins');
SELECT kapture_pause('twins');
COMMIT;
INSERT INTO twins VALUES (1, 'a', '1'), (2, 'b', '2'), (3, 'c', '3');
DELETE FROM kapture_outbox;
UPDATE twins SET id = id + 1;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
UPDATE twins SET phone = '4' WHERE id = 4;
UPDATE twins SET id = 3 WHERE id = 2;
UPDATE twins SET phone = '5' WHERE customer_name = 'a';
INSERT INTO twins VALUES (3, 'd', '6');
UPDATE twins SET id = 2 WHERE customer_name = 'a';
DELETE FROM twins WHERE customer_name = 'b';
UPDATE twins SET phone = '7' WHERE customer_name = 'd';
COMMIT;
SELECT seq, op, row_key, old_key, command, arrival FROM kapture_outbox ORDER BY xact, seq;
SELECT kapture_detach('twins');
DROP TABLE twins;
DELETE FROM kapture_outbox;
-- rolled back, as much as is written early, too
BEGIN;
SAVEPOINT s;
UPDATE customers SET id = id + 1000;
DELETE FROM customers;
INSERT INTO customers SELECT i, 'b', '1' FROM generate_series(1, 20000) i;
UPDATE customers SET id = -id;
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM kapture_outbox;
-- nor is an end noted of what a savepoint inside wrote early, which itself ended well
INSERT INTO customers SELECT i, 'b', '1' FROM generate_series(1001, 1300) i;
DELETE FROM kapture_outbox;
BEGIN;
SAVEPOINT s;
SAVEPOINT t;
UPDATE customers SET id = id + 1000 WHERE id > 1000;
RELEASE t;
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM kapture_outbox;
DELETE FROM customers WHERE id > 1000;
DELETE FROM kapture_outbox;

-- switched off
SET kapture_sync.capture = off;
INSERT INTO customers VALUES (30, 'silent', '1');
RESET kapture_sync.capture;
SET session_replication_role = replica;
INSERT INTO customers VALUES (31, 'replica', '1');
RESET session_replication_role;
SELECT * FROM noted;

-- a table that changes shape
ALTER TABLE customers RENAME COLUMN phone TO mobile;
ALTER TABLE customers DROP COLUMN note;
UPDATE customers SET mobile = '999' WHERE id = 30;
ALTER TABLE customers RENAME TO clients;
INSERT INTO clients VALUES (40, 'renamed', '40');
SELECT * FROM noted;
SELECT kapture_detach('clients');
SELECT count(*) FROM kapture_outbox;
INSERT INTO clients VALUES (41, 'detached', '41');
SELECT count(*) FROM kapture_outbox;

-- detached in the same transaction
BEGIN;
SELECT kapture_attach('clients', '{"customer_name": "customer_name", "phone": "mobile"}');
INSERT INTO clients VALUES (42, 'both', '42');
SELECT kapture_detach('clients');
COMMIT;
SELECT count(*) FROM kapture_outbox;

-- other kinds of keys: several columns, quotes, settings that change texts
CREATE TABLE "Odd Keys" ("Day" date, "Na""me" text, b bytea, customer_name text, phone text, PRIMARY KEY ("Na""me", "Day", b));
BEGIN;
SELECT kapture_attach('"Odd Keys"');
SELECT kapture_pause('"Odd Keys"');
COMMIT;
SET DateStyle = 'SQL, DMY';
SET bytea_output = 'escape';
INSERT INTO "Odd Keys" VALUES ('2021-03-14', 'a,"b"', '\x00ff', 'Odd', '1');
RESET DateStyle;
RESET bytea_output;
UPDATE "Odd Keys" SET phone = '2';
SELECT * FROM noted;
SELECT kapture_detach('"Odd Keys"');

-- partitions: new ones, rows that move
CREATE TABLE parted (id int, customer_name text, phone text, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_n PARTITION OF parted FOR VALUES IN ('n');
BEGIN;
SELECT kapture_attach('parted');
SELECT kapture_pause('parted');
COMMIT;
CREATE TABLE parted_s (phone text, region text NOT NULL, id int NOT NULL, customer_name text, kapture_customer_id bigint);
ALTER TABLE parted ATTACH PARTITION parted_s FOR VALUES IN ('s');
INSERT INTO parted (id, customer_name, phone, region) VALUES (1, 'north', '1', 'n'), (2, 'south', '2', 's');
UPDATE parted SET phone = '3' WHERE id = 2;
UPDATE parted SET region = 's' WHERE id = 1;
SELECT * FROM noted;
-- a row that the other partition does not take is gone, unless that is rolled back
CREATE FUNCTION take_none() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END $$;
CREATE TRIGGER take_none BEFORE INSERT ON parted_n FOR EACH ROW EXECUTE FUNCTION take_none();
BEGIN;
SAVEPOINT s;
UPDATE parted SET region = 'n' WHERE id = 1;
ROLLBACK TO s;
COMMIT;
SELECT * FROM noted OFFSET 4;
BEGIN;
SAVEPOINT s;
SAVEPOINT t;
UPDATE parted SET region = 'n' WHERE id = 1;
RELEASE t;
ROLLBACK TO s;
COMMIT;
SELECT * FROM noted OFFSET 4;
BEGIN;
SAVEPOINT s;
UPDATE parted SET region = 'n' WHERE id = 1;
RELEASE s;
COMMIT;
SELECT * FROM noted OFFSET 4;
SELECT kapture_detach('parted');
DROP FUNCTION take_none CASCADE;

-- the function is of no use by itself
SELECT kapture_capture();
CREATE TABLE plain (id int PRIMARY KEY);
CREATE TRIGGER t BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION kapture_capture();
INSERT INTO plain VALUES (1);
DROP TRIGGER t ON plain;
CREATE TRIGGER t AFTER INSERT ON plain FOR EACH ROW EXECUTE FUNCTION kapture_capture();
INSERT INTO plain VALUES (1);
SELECT count(*) FROM kapture_outbox;

DROP VIEW noted;
DROP TABLE clients, "Odd Keys", parted, plain;
DROP USER MAPPING FOR CURRENT_USER SERVER kapture;
DROP SERVER kapture CASCADE;

-- without its primary key, a table is captured by the columns that made it
CREATE TABLE keyless (id int, customer_name text, phone text, CONSTRAINT keyless_pkey PRIMARY KEY (id));
CREATE SERVER keyless FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER keyless OPTIONS (auth_key 'k');
SELECT kapture_attach('keyless', server => 'keyless');
SELECT kapture_pause('keyless');
ALTER TABLE keyless DROP CONSTRAINT keyless_pkey;
INSERT INTO keyless VALUES (1, 'A', '9874563725');
SELECT op, row_key, more_keys FROM kapture_outbox o JOIN kapture_attachment a USING (attachment_id) WHERE a.relation = 'keyless'::regclass;
ALTER TABLE keyless DROP COLUMN id;
INSERT INTO keyless VALUES ('B', '9874563726');
SELECT kapture_detach('keyless');
DROP TABLE keyless;

-- a backfill notes each row under its own key, in a new session, too
CREATE TABLE stock (id bigint PRIMARY KEY, customer_name text, phone text);
INSERT INTO stock SELECT i, 'n', '9' FROM generate_series(1, 40) i;
SELECT kapture_attach('stock', server => 'keyless');
SELECT kapture_pause('stock');
\c -
SELECT kapture_backfill_slice('stock', 1);
SELECT kapture_backfill_slice('stock', 7);
CALL kapture_backfill('stock', 3);
SELECT count(*), count(DISTINCT k), min(k::bigint), max(k::bigint) FROM kapture_outbox, unnest(row_key || more_keys) AS k
  WHERE attachment_id = (SELECT attachment_id FROM kapture_attachment WHERE relation = 'stock'::regclass);
SELECT last_key, rows FROM kapture_backfill WHERE attachment_id = (SELECT attachment_id FROM kapture_attachment WHERE relation = 'stock'::regclass);
DROP TABLE stock;

-- what was noted of keys before a table is detached in the same transaction has no end
CREATE TABLE left_over (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('left_over', server => 'keyless');
SELECT kapture_pause('left_over');
INSERT INTO left_over SELECT i, 'n', '9' FROM generate_series(1, 150) i;
BEGIN;
UPDATE left_over SET id = id + 1000;
SELECT kapture_detach('left_over');
COMMIT;
SELECT count(*) FROM kapture_outbox WHERE attachment_id > 0 AND attachment_id NOT IN (SELECT attachment_id FROM kapture_attachment);
DROP TABLE left_over;
DROP USER MAPPING FOR CURRENT_USER SERVER keyless;
DROP SERVER keyless CASCADE;
