-- Customers and contacts as foreign tables.  Needs the emulator, with the
-- samples of Kapture's document in it.
\getenv emulator_url KAPTURE_EMULATOR_URL
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url :'emulator_url');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');

-- importing
CREATE SCHEMA crm;
IMPORT FOREIGN SCHEMA other FROM SERVER kapture INTO crm;
IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO crm OPTIONS (a 'b');
IMPORT FOREIGN SCHEMA kapture LIMIT TO (contacts) FROM SERVER kapture INTO crm;
SELECT foreign_table_name FROM information_schema.foreign_tables WHERE foreign_table_schema = 'crm' ORDER BY 1;
DROP FOREIGN TABLE crm.contacts;
IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO crm;
SELECT ftrelid::regclass, ftoptions FROM pg_foreign_table ORDER BY 1;
-- besides the columns of the type, those that Add and Update know by other names
SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute a WHERE attrelid = 'crm.customers'::regclass AND attnum > 0
   AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'kapture_customer'::regclass AND attname = a.attname AND atttypid = a.atttypid)
 ORDER BY attnum;
SELECT attname FROM pg_attribute WHERE attrelid = 'kapture_customer'::regclass AND attnum > 0
EXCEPT SELECT attname FROM pg_attribute WHERE attrelid = 'crm.customers'::regclass;
SET search_path = crm, public;

-- options and columns
CREATE FOREIGN TABLE bad (id bigint) SERVER kapture OPTIONS (object 'orders');
CREATE FOREIGN TABLE bad (id bigint) SERVER kapture OPTIONS (url 'http://localhost');
CREATE FOREIGN TABLE few (name text, id bigint) SERVER kapture;
SELECT * FROM few WHERE id = 65245;
CREATE FOREIGN TABLE bad (id bigint, other text) SERVER kapture;
SELECT * FROM bad WHERE id = 1;
DROP FOREIGN TABLE bad;
CREATE FOREIGN TABLE bad (id text) SERVER kapture;
SELECT * FROM bad WHERE id = '1';
SELECT * FROM bad;
DROP FOREIGN TABLE bad;

CREATE FOREIGN TABLE bad (id bigint, phone varchar(15)) SERVER kapture;
SELECT * FROM bad WHERE phone = '9845765226';
DROP FOREIGN TABLE bad;

-- what Kapture is asked
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
	FOR line IN EXECUTE 'EXPLAIN (VERBOSE, COSTS OFF) ' || query LOOP
		-- which side of a condition comes first differs between versions, and 18 shows what is disabled
		CONTINUE WHEN line LIKE '%Filter:%' OR line LIKE '%Disabled:%';
		RETURN NEXT line;
	END LOOP;
END $$;
EXPLAIN (VERBOSE, COSTS OFF) SELECT name FROM few WHERE id = 65245;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM customers WHERE phone = '9845765226' AND city IS NULL;
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM customers WHERE generation_date BETWEEN '2021-03-14' AND '2021-03-15';
SELECT plan('SELECT id FROM customers WHERE name = ''Ker''');
EXPLAIN (VERBOSE, COSTS OFF) SELECT id FROM contacts WHERE customer_id = 65245;

-- by id, phone, email
SELECT id, name, generation_date FROM customers WHERE id = 61371820;
SELECT id, name FROM customers WHERE 61371820 = id;
SELECT id, name FROM customers WHERE id = 61371820::int AND name = 'somebody else';
SELECT id, name FROM customers WHERE id = 1;
SELECT id, name FROM customers WHERE id = NULL::bigint;
SELECT id, name FROM customers WHERE id = (SELECT 61371820);
SELECT id, name, phone FROM customers WHERE phone = '9845765226';
SELECT id, name, email FROM customers WHERE email = 'nisch123@gmail.com';
SELECT id, name FROM customers WHERE phone = '9845765226' AND id = 65245;
SELECT id, contact_person, phone, email FROM contacts WHERE customer_id = 65245;
PREPARE find (bigint) AS SELECT id, name FROM customers WHERE id = $1;
EXECUTE find (65245);
EXECUTE find (61371820);

-- by several of them
EXPLAIN (VERBOSE, COSTS OFF) SELECT name FROM few WHERE id = ANY ('{65245, 61371820}');
SELECT id, name FROM customers WHERE id IN (65245, 61371820, 1, 65245) ORDER BY id;
SELECT id, name FROM customers WHERE id = ANY ('{65245, NULL, 1}'::int[]);
SELECT id, name FROM customers WHERE id = ANY (NULL::bigint[]);
SELECT id, name FROM customers WHERE id = ANY ('{}'::bigint[]);
SELECT id, name, phone FROM customers WHERE phone IN ('9845765226', '63582', '1') AND email_id IS NOT NULL ORDER BY id;
SELECT id, name FROM customers WHERE kapture_customer_id = 65245;
SELECT id, customer_id FROM contacts WHERE customer_id IN (65245, 61371820) ORDER BY id;
SELECT id, name FROM customers WHERE id <> ALL ('{65245, 61371820}');
PREPARE find_all (bigint[]) AS SELECT id, name FROM customers WHERE id = ANY ($1) ORDER BY id;
EXECUTE find_all ('{65245}');
SET plan_cache_mode = force_generic_plan;
EXECUTE find_all ('{65245, 61371820}');
RESET plan_cache_mode;

-- by what OR combines
EXPLAIN (VERBOSE, COSTS OFF) SELECT name FROM few WHERE id = 65245 OR (name <> 'x' AND id IN (61371820, 1));
SELECT id, name FROM customers WHERE id = 65245 OR 61371820 = id OR id = 99999999999 OR id = ANY ('{65245, 1}'::int[]) OR id = NULL::bigint ORDER BY id;
SELECT id, name FROM customers WHERE (id = 65245 AND name = 'nobody') OR (name IS NOT NULL AND kapture_customer_id IS NOT NULL AND id = 61371820);
SELECT id, name, phone FROM customers WHERE phone = '9845765226' OR phone = '63582' OR phone = '9845765226' ORDER BY id;
SELECT id FROM customers WHERE id = (SELECT NULL::bigint) OR id = ANY ('{}'::bigint[]);
SELECT id FROM customers WHERE id = 65245 OR phone = '9845765226';
SELECT id FROM customers WHERE id = 65245 OR name = 'Ker';
SELECT id FROM customers WHERE id = 65245 OR id > 61371820;

-- by time
SELECT id, name FROM customers WHERE generation_date >= '2021-01-01' AND generation_date < '2021-02-01' ORDER BY id;
SELECT id, name FROM customers WHERE generation_date = '2021-01-06 12:31:45+00';
SELECT id, name FROM customers WHERE generation_date > '2021-01-06 12:31:45+00' AND generation_date < '2021-03-14 08:51:11+00';
SELECT id, name FROM customers WHERE generation_date >= '2021-01-06 12:31:45+00' AND generation_date <= '2021-03-14 08:51:11+00' ORDER BY id;
SELECT id, name FROM customers WHERE generation_date >= date '2021-03-14' AND generation_date < timestamp '2021-03-15 00:00' AND id + 0 = 65245;
SELECT id FROM customers WHERE generation_date >= '2021-03-15' AND generation_date < '2021-03-14';
SELECT id FROM customers WHERE generation_date >= '2021-03-14' AND generation_date < NULL::timestamptz;
SELECT id FROM customers WHERE generation_date >= '-infinity' AND generation_date < '2021-03-14';

-- questions without an end
SELECT id FROM customers;
SELECT id FROM customers WHERE name = 'Ker';
SELECT id FROM customers WHERE generation_date < '2021-03-14';
SELECT id FROM contacts WHERE phone = '63582';
SELECT id FROM customers WHERE id::text = '65245';
-- unless nothing is to be read
SELECT id, name FROM customers LIMIT 0;
SELECT * FROM (SELECT count(*) AS n FROM customers GROUP BY name LIMIT 1000) AS chart WHERE n > 1 ORDER BY n LIMIT 0;
WITH c AS MATERIALIZED (SELECT name FROM customers) SELECT upper(name) AS name FROM c UNION ALL SELECT city FROM customers LIMIT 0;
CREATE TABLE written (id bigint);
WITH w AS (INSERT INTO written VALUES (1)), c AS MATERIALIZED (SELECT id FROM customers), i AS (INSERT INTO written SELECT id FROM c RETURNING id) SELECT id FROM i LIMIT 0;
WITH i AS (INSERT INTO written SELECT id FROM customers RETURNING id) SELECT id FROM i LIMIT 0;
DROP TABLE written;

-- joins ask for each row
CREATE TABLE local (kapture_customer_id bigint, note text);
INSERT INTO local VALUES (65245, 'one'), (61371820, 'two'), (1, 'nobody'), (NULL, 'null');
ANALYZE local;
SELECT plan('SELECT l.note, c.name FROM local l JOIN few c ON c.id = l.kapture_customer_id');
SELECT l.note, c.name FROM local l JOIN customers c ON c.id = l.kapture_customer_id ORDER BY 1;
SELECT l.note, c.name FROM local l LEFT JOIN customers c ON c.id = l.kapture_customer_id ORDER BY 1;
SELECT DISTINCT c.id, c.name FROM local l JOIN customers c ON c.id = l.kapture_customer_id OR c.id = l.kapture_customer_id + 61306575 ORDER BY 1;
-- whatever the user has disabled
SET enable_nestloop = off;
SELECT count(c.name) FROM local l JOIN customers c ON c.id = l.kapture_customer_id JOIN contacts k ON k.customer_id = c.id;
RESET enable_nestloop;
SELECT name FROM customers WHERE id IN (SELECT kapture_customer_id FROM local) ORDER BY 1;
SELECT v.n, c.name FROM (VALUES (1, '{65245, 61371820}'::bigint[]), (2, '{61371820}'), (3, '{}')) v(n, ids) JOIN few c ON c.id = ANY (v.ids) ORDER BY 1, 2;
SELECT l.note, (SELECT name FROM customers c WHERE c.id = l.kapture_customer_id) FROM local l ORDER BY 1;
SELECT c.name, k.id FROM customers c JOIN contacts k ON k.customer_id = c.id WHERE c.generation_date BETWEEN '2021-03-14' AND '2021-03-15';

RESET search_path;
DROP SCHEMA crm CASCADE;
DROP USER MAPPING FOR CURRENT_USER SERVER kapture;
DROP SERVER kapture CASCADE;
