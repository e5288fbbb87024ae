# What people get wrong, and what is reported: each mistake is named, with the
# reason, and with what to do about it.  Nothing that is likely to be a mistake
# passes in silence.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator);
$node->safe_psql('postgres', qq(
CREATE SERVER bare FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE ROLE clerk;
GRANT USAGE ON FOREIGN SERVER kapture TO clerk;
CREATE USER MAPPING FOR clerk SERVER kapture OPTIONS (auth_key 'k');
CREATE TABLE clients (id int PRIMARY KEY, name text, mobile text, customer_name text, phone text, age int, extra jsonb);
INSERT INTO clients VALUES (1, 'Priya', '9845765226'), (2, 'Asha', '9845765227');
CREATE TABLE plain (id int PRIMARY KEY, name text, mobile text);
CREATE TABLE keyless (customer_name text, phone text);
CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text, city text);
SELECT kapture_attach('customers');
SELECT kapture_pause('customers');
INSERT INTO customers VALUES (1, 'Priya', '9845765226', 'Pune'), (2, 'Asha', '9845765227', 'Mysore');
));

# mistake; SQL; what is reported; why; what to do.  Where the message has the
# reason, "why" is a part of it.  Each runs in a transaction that is rolled back.
my @mistakes = (
	# keys
	[ 'both kinds of key', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (auth_key 'k', "user" 'u', password 'p')),
		qr/ERROR:  options "auth_key" and "user" exclude each other/, qr/is a key for all calls/, qr/Leave one out/ ],
	[ 'a second kind of key', q(ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD password 'p')),
		qr/ERROR:  options "auth_key" and "password" exclude/, qr/is a key for all calls/, qr/ALTER USER MAPPING \.\.\. OPTIONS \(DROP/ ],
	[ 'the word Basic in the key', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (auth_key 'Basic k')),
		qr/ERROR:  invalid value for option "auth_key"/, qr/must not begin with "Basic "/, qr/Leave out "Basic "/ ],
	[ 'no key', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}', 'bare')),
		qr/ERROR:  user ".*" has no user mapping for server "bare"/, qr/no user mapping/, qr/Use CREATE USER MAPPING FOR/ ],
	[ 'an empty key', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (auth_key '')),
		qr/ERROR:  invalid value for option "auth_key"/, qr/must not be empty/, qr/Use the key that Kapture's console shows/ ],
	[ 'user and password as a key', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (auth_key 'kapdemo:kap123')),
		qr/WARNING:  invalid value for option "auth_key"\n/, qr/looks like the name of a user and a password/, qr/or the options "user" and "password"/ ],
	[ 'a password without a user', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (password 'p')),
		qr/NOTICE:  option "password" is of no use without option "user"/, qr/The two together are a key/, qr/ADD "user"/ ],
	[ 'a user without a password', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS ("user" 'u')),
		qr/NOTICE:  option "user" is of no use without option "password"/, qr/The two together are a key/, qr/ADD password/ ],

	# attaching
	[ 'to think that rows are sent that are there', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}')),
		qr/NOTICE:  changes of table "clients" are sent to server "kapture" from now on/, qr/Mapped: phone from column "mobile", customer_name from column "name"\./,
		qr/Of the rows that are there already, 2 have no Kapture id .* use CALL kapture_backfill\('public\.clients'\)\./ ],
	[ 'to think so of many', q(INSERT INTO clients SELECT i FROM generate_series(10, 10010) AS i; SELECT kapture_attach('clients')),
		qr/NOTICE:  changes of table "clients" are sent/, qr/Mapped: /, qr/^HINT:  Rows that are there already are sent when they change; .* use CALL kapture_backfill/m ],
	[ 'a field misspelt', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile", "gendre": "extra"}')),
		qr/NOTICE:  "gendre" is not a field that Kapture documents/, qr/sent under this name all the same, which Kapture may ignore/, qr/Perhaps you meant the field "gender"/ ],
	[ 'a field abbreviated', q(SELECT kapture_attach('clients', '{"Name": "name", "phone": "mobile"}')),
		qr/NOTICE:  "Name" is not a field that Kapture documents/, qr/Kapture may ignore/, qr/Perhaps you meant the field "customer_name"/ ],
	[ 'no name', q(SELECT kapture_attach('clients', '{"phone": "mobile"}')),
		qr/ERROR:  no column is mapped to "customer_name"/, qr/Kapture accepts customers with a name/, qr/Say which column feeds which field/ ],
	[ 'a column misspelt', q(SELECT kapture_attach('clients', '{"customer_name": "nmae", "phone": "mobile"}')),
		qr/ERROR:  column "nmae" of relation "clients" does not exist/, qr/maps the Kapture field "customer_name" to it/, qr/Perhaps you meant the column "name"/ ],
	[ 'field and column swapped', q(SELECT kapture_attach('plain', '{"name": "customer_name", "mobile": "phone"}')),
		qr/ERROR:  column "(?:customer_name|phone)" of relation "plain" does not exist/, qr/maps the Kapture field/, qr/may be swapped: .* as in \{"(?:customer_name": "name|phone": "mobile)"\}/ ],
	[ 'field and column swapped, both columns', q(SELECT kapture_attach('clients', '{"name": "customer_name", "mobile": "phone"}')),
		qr/NOTICE:  "name" is not a field/, qr/Kapture may ignore/, qr/may be swapped: .* as in \{"customer_name": "name"\}/ ],
	[ 'no names that fit', q(SELECT kapture_attach('plain')),
		qr/ERROR:  table "plain" has no column named like a field/, qr/no column named like a field/, qr/Say which column feeds which field/ ],
	[ 'a number as a phone', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "age"}')),
		qr/NOTICE:  field "phone" gets the text of column "age" of type integer/, qr/has lost leading zeros/, qr/Map a column that holds the text/ ],
	[ 'JSON as a city', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile", "city": "extra"}')),
		qr/NOTICE:  field "city" gets the text of column "extra" of type jsonb/, qr/The whole value is sent/, qr/Map a column that holds the text/ ],
	[ 'a field misspelt, of a constant', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile", "campain_name": {"constant": "x"}}')),
		qr/NOTICE:  "campain_name" is not a field that Kapture documents/, qr/Kapture may ignore/, qr/Perhaps you meant the field "campaign_name"/ ],
	[ 'a field misspelt, of those who leave', q(SELECT kapture_alter('customers', filter => 'city IS NOT NULL', on_leave => '{"citi": "x"}')),
		qr/NOTICE:  "citi" is not a field that Kapture documents/, qr/Kapture may ignore/, qr/Perhaps you meant the field "city"/ ],
	[ 'a key misspelt', q(SELECT kapture_attach('clients', '{"customer_name": {"expresion": "name"}, "phone": "mobile"}')),
		qr/ERROR:  argument "columns" does not say where the Kapture field "customer_name" comes from/, qr/must have one key/, qr/Write \{"customer_name": \{"expression": / ],
	[ 'a subquery', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile", "city": {"expression": "(SELECT name FROM plain LIMIT 1)"}}')),
		qr/ERROR:  the expression for the Kapture field "city" must not contain a subquery/, qr/sees no others/, qr/Make a view that shows the value/ ],
	[ 'an expression that ends too early', q(SELECT kapture_attach('clients', '{"customer_name": {"expression": "name ||"}, "phone": "mobile"}')),
		qr/ERROR:  invalid expression for the Kapture field "customer_name": syntax error at end of input/, qr/LINE 1: name \|\|\n +\^/,
		qr/Give an expression over the columns of a row in argument "columns"/ ],
	[ 'an expression with a column misspelt', q(SELECT kapture_attach('clients', '{"customer_name": {"expression": "upper(nmae)"}, "phone": "mobile"}')),
		qr/ERROR:  invalid expression for the Kapture field "customer_name": column "nmae" does not exist/, qr/LINE 1: upper\(nmae\)\n +\^/,
		qr/Perhaps you meant to reference the column "clients\.name"/ ],
	[ 'a text in double quotes', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}', filter => 'name = "Priya"')),
		qr/ERROR:  invalid filter: column "Priya" does not exist/, qr/LINE 1: name = "Priya"\n +\^/, qr/texts are written in single quotes/ ],
	[ 'a query as filter', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}', filter => 'SELECT age > 18')),
		qr/ERROR:  invalid filter: syntax error at or near "SELECT"/, qr/LINE 1: SELECT age/, qr/Give a condition on the columns of a row in argument "filter"/ ],
	[ 'a filter that is no condition', q(SELECT kapture_alter('customers', filter => 'city')),
		qr/ERROR:  invalid filter: argument of filter must be type boolean, not type text/, qr/LINE 1: city\n/, qr/Give a condition/ ],
	[ 'a condition that ends too early', q(SELECT kapture_follow('plain', 'customers', 'target.id =')),
		qr/ERROR:  invalid condition: syntax error at end of input/, qr/LINE 1: target\.id =\n +\^/, qr/Write how rows of the two tables belong together, for example 'target/ ],
	[ 'an aggregate in a condition', q(SELECT kapture_follow('plain', 'customers', 'count(*) > 1')),
		qr/ERROR:  invalid condition: aggregate functions are not allowed/, qr/LINE 1: count/, qr/Write how rows of the two tables belong together/ ],
	[ 'the names of the tables in a condition', q(SELECT kapture_follow('plain', 'customers', 'customers.id = plain.id')),
		qr/ERROR:  invalid condition: invalid reference to FROM-clause entry for table "customers"/, qr/LINE 1: customers\.id/, qr/table alias "target"/ ],
	[ 'a condition without "source."', q(SELECT kapture_follow('plain', 'customers', 'id = id')),
		qr/NOTICE:  the condition reads no column of table "plain": \(?target\.id = target\.id/, qr/Each change of that table has the same rows sent again/, qr/for example 'target\.city_id = source\.id'/ ],
	[ 'a resync of rows with a column misspelt', q(CALL kapture_resync('customers', 'citi = ''Pune''')),
		qr/ERROR:  invalid value for argument "condition": column "citi" does not exist/, qr/LINE 1: citi = 'Pune'\n +\^/, qr/Perhaps you meant to reference the column "customers\.city"/, 'by itself' ],
	[ 'a verification that ends too early', q(SELECT * FROM kapture_verify('customers', 'city =')),
		qr/ERROR:  invalid value for argument "condition": syntax error at end of input/, qr/LINE 1: city =\n +\^/, qr/Write what would stand in a CHECK constraint/ ],
	[ 'to alter nothing', q(SELECT kapture_alter('customers')),
		qr/NOTICE:  nothing of how table "customers" is attached is changed/, qr/No argument says what/, qr/for example filter => 'city IS NOT NULL'. The view kapture_attachments/ ],
	[ 'to reset nothing', q(SELECT kapture_alter('customers', reset => '{}')),
		qr/NOTICE:  nothing of how table "customers" is attached is changed/, qr/No argument says what/, qr/Give what is to be another/ ],
	[ 'a random value', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile", "city": {"expression": "random()::text"}}')),
		qr/ERROR:  the expression for the Kapture field "city" must not call the volatile function random/, qr/must follow from the row/, qr/Keep such a value in a column/ ],
	[ 'a table as source', q(SELECT kapture_attach('clients', source => 'plain')),
		qr/ERROR:  "plain" is not a view/, qr/names the view/, qr/Make a view with the primary key of table "clients"/ ],
	[ 'a materialized view as source', q(CREATE MATERIALIZED VIEW m AS SELECT * FROM clients; SELECT kapture_attach('clients', source => 'm')),
		qr/ERROR:  "m" is not a view/, qr/names the view/, qr/Make a plain view of the same query/ ],
	[ 'nobody can leave', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}', on_leave => '{"city": "x"}')),
		qr/ERROR:  argument "on_leave" needs a filter or a source/, qr/no row ever leaves/, qr/there is "on_delete"/ ],
	[ 'nor from an attached table', q(SELECT kapture_alter('customers', on_leave => '{"city": "x"}')),
		qr/ERROR:  argument "on_leave" needs a filter or a source/, qr/no row ever leaves/, qr/there is "on_delete"/ ],
	[ 'another filter', q(SELECT kapture_alter('customers', filter => 'city IS NOT NULL')),
		qr/NOTICE:  other rows of table "customers" may go to Kapture/, qr/noticed when they change/, qr/Use CALL kapture_resync\('public\.customers'\)/ ],
	[ 'given and reset', q(SELECT kapture_alter('customers', filter => 'true', reset => '{filter}')),
		qr/ERROR:  argument "filter" is given, and also named in argument "reset"/, qr/is given/, qr/Leave out one of the two/ ],
	[ 'a name that it has not', q(SELECT kapture_pause('customers', name => 'acme')),
		qr/ERROR:  table "customers" has no attachment "acme"/, qr/no attachment/, qr/without a name: leave out argument "name"/ ],
	[ 'to follow a materialized view', q(CREATE MATERIALIZED VIEW m AS SELECT * FROM clients; SELECT kapture_follow('m', 'customers', 'target.id = source.id')),
		qr/ERROR:  "m" cannot be followed/, qr/Only tables/, qr/call kapture_resync\(\) after it was refreshed/ ],
	[ 'to unfollow what is not followed', q(SELECT kapture_unfollow('plain', 'customers')),
		qr/NOTICE:  table "customers" does not follow table "plain"/, qr/does not follow/, qr/kapture_attachments/ ],
	[ 'a dry run with a server that is not there', q(SELECT * FROM kapture_dry_run('customers', server => 'nope')),
		qr/ERROR:  server "nope" does not exist/, qr/does not exist/, qr/Use CREATE SERVER nope/ ],
	[ 'a dry run of a view', q(CREATE VIEW v AS SELECT * FROM clients; SELECT * FROM kapture_dry_run('v')),
		qr/ERROR:  "v" cannot be attached/, qr/Only tables can be attached/, qr/and the view as "source"/ ],
	[ 'a dry run of a partition', q(CREATE TABLE r (id int PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id); CREATE TABLE r1 PARTITION OF r DEFAULT; SELECT * FROM kapture_dry_run('r1')),
		qr/ERROR:  "r1" is a partition/, qr/is a partition/, qr/Attach the partitioned table instead/ ],
	[ 'a dry run of a table whose rows are hidden', q(CREATE TABLE h (id int PRIMARY KEY, customer_name text, phone text); ALTER TABLE h OWNER TO clerk; ALTER TABLE h ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; SELECT * FROM kapture_dry_run('h')),
		qr/ERROR:  "h" cannot be attached to Kapture/, qr/on whom row-level security is forced/, qr/NO FORCE ROW LEVEL SECURITY, or give the owner BYPASSRLS/ ],
	[ 'no primary key', q(SELECT kapture_attach('keyless')),
		qr/ERROR:  table "keyless" has no primary key/, qr/finds a row again by its primary key/, qr/ADD COLUMN id bigint/ ],
	[ 'a unique index for a primary key', q(CREATE TABLE u (id int NOT NULL, "Tenant" int NOT NULL, customer_name text, phone text); CREATE UNIQUE INDEX ON u ("Tenant", id); SELECT kapture_attach('u')),
		qr/ERROR:  table "u" has no primary key/, qr/finds a row again by its primary key/, qr/unique index that may serve: ALTER TABLE public\.u ADD PRIMARY KEY \("Tenant", id\)\./ ],
	[ 'no primary key, but an id', q(CREATE TABLE u (id int, customer_name text, phone text); CREATE UNIQUE INDEX ON u (id); SELECT kapture_attach('u')),
		qr/ERROR:  table "u" has no primary key/, qr/finds a row again by its primary key/, qr/ADD COLUMN row_id bigint/ ],
	[ 'a dry run without a primary key', q(SELECT * FROM kapture_dry_run('keyless')),
		qr/ERROR:  table "keyless" has no primary key\n/, qr/finds a row again by its primary key/, qr/ADD COLUMN id bigint/ ],
	[ 'a view that the owner of the table may not read', q(ALTER TABLE plain OWNER TO clerk; CREATE VIEW v AS SELECT id, name AS customer_name, mobile AS phone FROM plain; SELECT kapture_attach('plain', source => 'v')),
		qr/ERROR:  permission denied for view v/, qr/Role "clerk", the owner of table "plain", reads it/, qr/Use GRANT SELECT ON public\.v TO clerk\./ ],
	[ 'a view in a schema that the owner of the table may not use', q(ALTER TABLE plain OWNER TO clerk; CREATE SCHEMA "C R M"; CREATE VIEW "C R M".v AS SELECT id, name AS customer_name, mobile AS phone FROM plain; GRANT SELECT ON "C R M".v TO clerk;
		SELECT * FROM kapture_dry_run('plain', source => '"C R M".v')),
		qr/ERROR:  permission denied for schema C R M/, qr/Role "clerk", the owner of table "plain", reads view "v" in it/, qr/Use GRANT USAGE ON SCHEMA "C R M" TO clerk\./ ],
	[ 'to follow none of the tables that a view reads', q(CREATE TABLE towns (mobile text, town text); CREATE VIEW v AS SELECT id, name AS customer_name, mobile AS phone, town AS city FROM plain LEFT JOIN towns USING (mobile); SELECT kapture_attach('plain', source => 'v')),
		qr/NOTICE:  view "v" reads tables whose changes are not noticed: public\.towns/, qr/whose changes are not noticed/, qr/Use kapture_follow\(\) for each of them/ ],
	[ 'a materialized view in a view', q(CREATE MATERIALIZED VIEW m AS SELECT 'x'::text AS mobile, 'y'::text AS town; CREATE VIEW v AS SELECT id, name AS customer_name, mobile AS phone, town AS city FROM plain LEFT JOIN m USING (mobile); SELECT kapture_attach('plain', source => 'v')),
		qr/NOTICE:  view "v" reads relations that cannot be followed: public\.m/, qr/Only tables can be followed/, qr/Use kapture_resync\(\)/ ],
	[ 'a view', q(CREATE VIEW v AS SELECT * FROM clients; SELECT kapture_attach('v')),
		qr/ERROR:  "v" cannot be attached/, qr/Only tables can be attached/, qr/Attach the table that the view shows/ ],
	[ 'attaching twice', q(SELECT kapture_attach('customers')),
		qr/ERROR:  table "customers" is attached to Kapture already/, qr/already/, qr/Use kapture_alter\(\) to change its mapping/ ],
	[ 'a server that is not there', q(SELECT kapture_attach('clients', server => 'nope')),
		qr/ERROR:  server "nope" does not exist/, qr/does not exist/, qr/Use CREATE SERVER nope/ ],
	[ 'a server by another name than the default', q(ALTER SERVER kapture RENAME TO acme; DROP SERVER bare; SELECT kapture_attach('clients')),
		qr/ERROR:  server "kapture" does not exist/, qr/does not exist/, qr/or name one that is there as argument "server": "acme"\./ ],
	[ 'on_duplicate misspelt', q(SELECT kapture_attach('clients', on_duplicate => 'skip')),
		qr/ERROR:  invalid value for argument "on_duplicate": "skip"/, qr/invalid value/, qr/Valid values are/ ],

	[ 'nothing to map', q(SELECT kapture_attach('clients', '{}')),
		qr/ERROR:  argument "columns" maps no column/, qr/maps no column/, qr/Leave it out to map the columns that are named like/ ],
	[ 'to map the id', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile", "kapture_customer_id": "age"}')),
		qr/ERROR:  field "kapture_customer_id" cannot be mapped/, qr/Kapture generates it/, qr/named by argument "id_column"/ ],
	[ 'a row as a text', q(SELECT kapture_attach('clients', '{"customer_name": {"expression": "clients"}, "phone": "mobile"}')),
		qr/NOTICE:  field "customer_name" gets the text of a value of type clients/, qr/The whole value is sent/, qr/Write an expression that gives the text/ ],
	[ 'a filter with WHERE', q(SELECT kapture_attach('clients', filter => 'WHERE age > 17')),
		qr/ERROR:  the filter is not one SQL expression: "WHERE age > 17"/, qr/not one SQL expression/, qr/without WHERE or SELECT/ ],
	[ 'ids in the primary key', q(SELECT kapture_attach('clients', id_column => 'id')),
		qr/ERROR:  column "id" of table "clients" cannot receive Kapture's ids/, qr/part of the primary key/, qr/Name another column/ ],
	[ 'ids in a column of names', q(SELECT kapture_attach('clients', id_column => 'name')),
		qr/ERROR:  column "name" of table "clients" is of type text/, qr/ids are of type bigint/, qr/Otherwise name another column/ ],
	[ 'an empty name of a column', q(SELECT kapture_attach('clients', id_column => '')),
		qr/ERROR:  argument "id_column" must not be empty/, qr/It names the column/, qr/Leave it out/ ],
	[ 'ids that must not be null', q(ALTER TABLE plain ADD phone text, ADD customer_name text, ADD kapture_customer_id bigint NOT NULL; SELECT kapture_attach('plain')),
		qr/WARNING:  column "kapture_customer_id" of table "plain" must not be null/, qr/has no id until Kapture has answered/, qr/DROP NOT NULL/ ],
	[ 'ids that have a default', q(ALTER TABLE plain ADD phone text, ADD customer_name text, ADD kapture_customer_id bigint DEFAULT 0; SELECT kapture_attach('plain')),
		qr/WARNING:  column "kapture_customer_id" of table "plain" has a default/, qr/counts as the customer of that id/, qr/DROP DEFAULT/ ],
	[ 'who wins, of nobody', q(SELECT kapture_attach('clients', on_conflict => 'remote')),
		qr/NOTICE:  argument "on_conflict" is of no use without argument "pull"/, qr/customers that are pulled/, qr/Give pull => true/ ],
	[ 'an unlogged table', q(CREATE UNLOGGED TABLE t (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('t')),
		qr/ERROR:  "t" cannot be attached/, qr/lost in a crash/, qr/ALTER TABLE public\.t SET LOGGED/ ],
	[ 'a foreign table', q(CREATE FOREIGN TABLE f (id bigint) SERVER kapture OPTIONS (object 'customers'); SELECT kapture_attach('f')),
		qr/ERROR:  "f" cannot be attached/, qr/Only tables/, qr/whose rows are to go to Kapture/ ],
	[ 'a copy of Kapture itself', q(SELECT kapture_attach('kapture_customers')),
		qr/ERROR:  "kapture_customers" cannot be attached/, qr/belongs to extension "kapture_sync" itself/, qr/a table of your own/ ],

	# attached tables
	[ 'to disable all triggers', q(ALTER TABLE customers DISABLE TRIGGER ALL),
		qr/WARNING:  changes of table "customers" are not captured from now on/, qr/Trigger kapture_capture, which captures them, is disabled/, qr/ALTER TABLE public\.customers ENABLE TRIGGER kapture_capture/ ],
	[ 'to drop the trigger', q(DROP TRIGGER kapture_capture ON customers),
		qr/WARNING:  changes of table "customers" are not captured from now on/, qr/or was dropped/, qr/kapture_detach\(\) and kapture_attach\(\)/ ],
	[ 'to rename the trigger', q(ALTER TRIGGER kapture_capture ON customers RENAME TO mine),
		qr/ERROR:  trigger "kapture_capture" of table "customers" cannot be renamed/, qr/known by its name/, qr/kapture_detach\(\)/ ],
	[ 'to drop the table, with what waits', q(DROP TABLE customers),
		qr/NOTICE:  what waits to be sent for 2 rows of table "customers" is given up/, qr/Kapture does not have these changes/, qr/To keep them, roll back/ ],
	[ 'to keep ids at the same server', q(SELECT kapture_alter('customers', keep_ids => true)),
		qr/NOTICE:  nothing of how table "customers" is attached is changed/, qr/no use without argument "server"/, qr/kapture_attachments/ ],
	[ 'results into another table', q(CALL kapture_verify_into('customers', 'plain')),
		qr/ERROR:  column "row_key" of relation "plain" does not exist/, qr/CONTEXT:  .*writing a result into table "plain"/s, qr/The table must have columns row_key text/, 'by itself' ],
	[ 'a key of another type', q(SELECT kapture_retry('customers', 'abc')),
		qr/ERROR:  invalid input syntax for type integer: "abc"/, qr/CONTEXT:  value of column "id" of the key/, qr/Give the primary key as text/ ],
	[ 'a condition with WHERE', q(SELECT * FROM kapture_verify('customers', 'WHERE true')),
		qr/ERROR:  argument "condition" must be one expression: WHERE true/, qr/must be one expression/, qr/what would stand in a CHECK constraint/ ],
	[ 'to detach what waits', q(SELECT kapture_detach('customers')),
		qr/NOTICE:  what waits to be sent for 2 rows of table "customers" is given up/, qr/Kapture does not have these changes/, qr/To keep them, roll back; kapture_pause\(\)/ ],
	[ 'to detach another table', q(SELECT kapture_detach('clients')),
		qr/ERROR:  table "clients" is not attached to Kapture/, qr/not attached/, qr/the view kapture_status shows attached tables/ ],
	[ 'to drop a mapped column', q(ALTER TABLE customers DROP COLUMN city),
		qr/WARNING:  Kapture's field "city" is no longer sent for table "customers"/, qr/fed by column "city", which is dropped/, qr/kapture_alter\(\) to map another column/ ],
	[ 'to drop the column of ids', q(ALTER TABLE customers DROP COLUMN kapture_customer_id),
		qr/WARNING:  nothing is sent for table "customers" without column "kapture_customer_id"/, qr/receives the ids/, qr/Add it again/ ],
	[ 'to drop the server', q(DROP SERVER kapture),
		qr/ERROR:  cannot drop server kapture/, qr/trigger kapture_capture on table customers depends on server kapture/, qr/DROP \.\.\. CASCADE/ ],
	[ 'to retry a row that is not there', q(SELECT kapture_retry('customers', '77')),
		qr/NOTICE:  table "customers" has no failed row with key "77"/, qr/There is no such row, or its last try did not fail/, qr/in the view kapture_failures/ ],
	[ 'to discard a row that is not there', q(SELECT kapture_discard('customers', '77')),
		qr/NOTICE:  table "customers" has no failed row with key "77"/, qr/There is no such row, or/, qr/in the view kapture_failures/ ],
	[ 'to preview a row that is not there', q(SELECT kapture_preview('customers', '77')),
		qr/ERROR:  there is no row with key "77"/, qr/there is no row/, qr/Give the primary key as text/ ],
	[ 'a backfill in a transaction', q(CALL kapture_backfill('customers')),
		qr/ERROR:  kapture_backfill cannot run inside a transaction block/, qr/It commits/, qr/Use CALL outside of BEGIN/ ],
	[ 'a backfill of another table', q(SELECT kapture_backfill_slice('clients', 10)),
		qr/ERROR:  table "clients" is not attached/, qr/not attached/, qr/Use kapture_attach\(\)/ ],

	# pulling
	[ 'a refresh without the grant', q(SET ROLE clerk; CALL kapture_refresh('2021-03-14', '2021-03-15')),
		qr/ERROR:  permission denied for table kapture_customers/, qr/with the rights of its caller/,
		qr/GRANT SELECT, INSERT, UPDATE ON kapture_customers, kapture_contacts, kapture_refresh_run TO clerk/, 'by itself' ],
	[ 'a refresh in a transaction', q(CALL kapture_refresh('2021-03-14', '2021-03-15')),
		qr/ERROR:  kapture_refresh cannot run inside a transaction block/, qr/It commits each window/, qr/Use CALL outside of BEGIN/ ],
	[ 'dates the wrong way round', q(SELECT * FROM kapture_pull_customers('2021-03-20', '2021-03-14')),
		qr/ERROR:  argument "start_date" is after "end_date"/, qr/from 2021-03-20 00:00:00 to 2021-03-14/, qr/Give the earlier time first/ ],
	[ 'criteria that are none', q(SELECT kapture_find_customers('{"name": "Priya"}')),
		qr/ERROR:  argument "criteria" has no criterion that Kapture searches by/, qr/no criterion/, qr/Give at least one of "kapture_customer_id"/ ],

	# foreign tables
	[ 'a foreign table with id as text', q(CREATE FOREIGN TABLE f (id text, name text) SERVER kapture OPTIONS (object 'customers')),
		qr/WARNING:  Kapture's customers have no column "id" of type text/, qr/no column "id" of type text/, qr/Give the column the type bigint/ ],
	[ 'and a query of it', q(CREATE FOREIGN TABLE f (id text, name text) SERVER kapture; SELECT * FROM f WHERE id = '1'),
		qr/ERROR:  Kapture's customers have no column "id" of type text/, qr/no column "id" of type text/, qr/Give the column the type bigint/ ],
	[ 'a foreign table with a column misspelt', q(CREATE FOREIGN TABLE f (id bigint, campany_status text) SERVER kapture OPTIONS (object 'customers')),
		qr/WARNING:  Kapture's customers have no column "campany_status"/, qr/have no column/, qr/Perhaps you meant the column "company_status"/ ],
	[ 'a query for everything', q(CREATE FOREIGN TABLE f (id bigint, name text) SERVER kapture; SELECT * FROM f),
		qr/ERROR:  Kapture cannot be asked for all of "f"/, qr/cannot be asked for all/, qr/Add a condition "id = \.\.\."/ ],
	[ 'a query by name', q(CREATE FOREIGN TABLE customers_there (id bigint, name text) SERVER kapture; SELECT * FROM customers_there WHERE name = 'Priya'),
		qr/ERROR:  Kapture cannot be asked for all of "customers_there"/, qr/no condition that Kapture searches by/, qr/Add a condition "id = \.\.\."/ ],
	[ 'to delete in Kapture', q(CREATE FOREIGN TABLE customers_there (id bigint, name text) SERVER kapture; DELETE FROM customers_there WHERE id = 1),
		qr/ERROR:  cannot delete from foreign table/, qr/no request that deletes/, qr/Delete the customer in Kapture itself/ ],
	[ 'a foreign table of tickets', q(CREATE FOREIGN TABLE tickets (id bigint) SERVER kapture),
		qr/NOTICE:  foreign table "tickets" shows Kapture's customers/, qr/It has no option "object"/, qr/kapture_call\(\) reaches/ ],
	[ 'to import tickets', q(IMPORT FOREIGN SCHEMA kapture LIMIT TO (tickets) FROM SERVER kapture INTO public),
		qr/NOTICE:  Kapture has no foreign table "tickets"/, qr/There are "customers" and "contacts"/, qr/kapture_call\(\) reaches/ ],
	[ 'another schema to import', q(IMPORT FOREIGN SCHEMA public FROM SERVER kapture INTO public),
		qr/ERROR:  remote schema "public" does not exist/, qr/remote schema/, qr/Use IMPORT FOREIGN SCHEMA kapture/ ],

	# direct calls
	[ 'a field misspelt in a call', q(SELECT kapture_add_customer('{"name": "Priya", "phone": "9845765226"}')),
		qr/NOTICE:  "name" is not a field that Kapture documents/, qr/Kapture may ignore it/, qr/Perhaps you meant the field "customer_name"/ ],
	[ 'to call without USAGE', q(REVOKE USAGE ON FOREIGN SERVER kapture FROM clerk; SET ROLE clerk; SELECT kapture_get_customer('{"phone": "9845765226"}')),
		qr/ERROR:  permission denied for foreign server kapture/, qr/permission denied/, qr/GRANT USAGE ON FOREIGN SERVER kapture TO clerk/ ],
	[ 'an answer that is none', q(SELECT kapture_customer_rows('[]')),
		qr/ERROR:  argument "answer" is no answer with customers/, qr/neither customers nor a message/, qr/Give what kapture_pull\(\) or/ ],
	[ 'certificates that are not there', q(ALTER SERVER kapture OPTIONS (ADD ca_file '/nope.pem'); SELECT kapture_get_customer('{"phone": "9845765226"}')),
		qr/ERROR:  invalid value for option "ca_file": "\/nope\.pem"/, qr/There is no file of certificates/, qr/Name a file on the database's host/ ],
	[ 'a criterion that is none', q(SELECT kapture_get_customer('{"name": "Priya"}')),
		qr/NOTICE:  "name" is not a criterion that Kapture documents/, qr/ignore it, and find no customer/, qr/Kapture searches by/ ],
	[ 'an array of customers', q(SELECT kapture_add_customer('[{"customer_name": "Priya"}]')),
		qr/ERROR:  argument "customer" must be a JSON object/, qr/must be a JSON object/, qr/Call the function once for each object/ ],
	[ 'an update of nobody', q(SELECT kapture_update_customer('{"phone": "9845765226"}')),
		qr/ERROR:  argument "customer" has no "kapture_customer_id"/, qr/has no/, qr/Name the customer to update by the id/ ],
	[ 'nothing to search for', q(SELECT kapture_get_customer('{}')),
		qr/ERROR:  argument "criteria" must not be an empty object/, qr/empty/, qr/Write something like/ ],
	[ 'nobody to add', q(SELECT kapture_add_customer('{}')),
		qr/ERROR:  argument "customer" must not be an empty object/, qr/empty/, qr/Write something like .*customer_name/ ],

	# options
	[ 'an option that there is not', q(ALTER SERVER kapture OPTIONS (ADD key 'k')),
		qr/ERROR:  invalid option "key"/, qr/invalid option/, qr/Valid options in this context are: url, / ],
	[ 'an option misspelt', q(ALTER SERVER kapture OPTIONS (ADD time_out '30s')),
		qr/ERROR:  invalid option "time_out"/, qr/invalid option/, qr/Perhaps you meant the option "timeout"/ ],
	[ 'a key in a server', q(ALTER SERVER kapture OPTIONS (ADD auth_key 'k')),
		qr/ERROR:  invalid option "auth_key"/, qr/It is an option of user mappings/, qr/Set it by CREATE USER MAPPING/ ],
	[ 'an address in a user mapping', q(ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD url 'https://acme.kapturecrm.com')),
		qr/ERROR:  invalid option "url"/, qr/It is an option of servers/, qr/Set it by ALTER SERVER/ ],
	[ 'plain http', q(CREATE SERVER s FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://acme.kapturecrm.com')),
		qr/ERROR:  invalid value for option "url"/, qr/would send keys and customers' data unencrypted/, qr/Use https/ ],
	[ 'an address with the path of a call', q(CREATE SERVER s FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://acme.kapturecrm.com/add-update-customer-from-other-source.html')),
		qr/ERROR:  invalid value for option "url"/, qr/ends with the path of a call/, qr/Give the address without it: "https:\/\/acme\.kapturecrm\.com"/ ],
	[ 'an address as a path', q(ALTER SERVER kapture OPTIONS (ADD add_path 'https://acme.kapturecrm.com/add.html')),
		qr/ERROR:  invalid value for option "add_path"/, qr/must begin with "\/"/, qr/the address is option "url"/ ],
	[ 'a rate with a unit', q(ALTER SERVER kapture OPTIONS (ADD rate_limit '10/s')),
		qr/ERROR:  invalid value for option "rate_limit": "10\/s"/, qr/must be a number/, qr/Write the number of requests a second/ ],
	[ 'no url', q(CREATE SERVER s FOREIGN DATA WRAPPER kapture_fdw),
		qr/ERROR:  option "url" is required/, qr/required/, qr/with the address that Kapture assigned/ ],
	[ 'a number without a unit', q(ALTER SERVER kapture OPTIONS (SET timeout '30')),
		qr/ERROR:  invalid value for option "timeout": "30"/, qr/It has no unit/, qr/Write "30s" for seconds/ ],
	[ 'an offset as time zone', q(ALTER SERVER kapture OPTIONS (ADD timezone 'EST5')),
		qr/ERROR:  invalid value for option "timezone": "EST5"/, qr/has no rules for daylight saving time/, qr/Write the name of a region/ ],
	[ 'the dots of an example as a key', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (auth_key '...')),
		qr/WARNING:  invalid value for option "auth_key"/, qr/The three dots of an example stand for a key/, qr/Use the key that Kapture's console shows/ ],
	[ 'a key with spaces around it', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (auth_key ' k ')),
		qr/ERROR:  invalid value for option "auth_key"/, qr/must not begin or end with a space/, qr/without anything around it/ ],
	[ 'a mapping without a key', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare),
		qr/NOTICE:  the user mapping has no key/, qr/Kapture takes no request without one/, qr/ADD auth_key '\.\.\.'\), with the key that Kapture's console shows/ ],
	[ 'to take the key out', q(ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (DROP auth_key)),
		qr/NOTICE:  the user mapping has no key/, qr/Kapture takes no request/, qr/ADD auth_key/ ],
	[ 'the name of a user for the option', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (username 'u', password 'p')),
		qr/ERROR:  invalid option "username"/, qr/invalid option/, qr/Perhaps you meant the option "user"/ ],
	[ 'the dots of an example as an address', q(CREATE SERVER s FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://...')),
		qr/ERROR:  invalid value for option "url"/, qr/its host is no name, but dots|not a URL with a scheme and a host/, qr/Give the address that Kapture assigned/ ],
	[ 'an address without https', q(CREATE SERVER s FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'acme.kapturecrm.com')),
		qr/ERROR:  invalid value for option "url"/, qr/not a URL with a scheme and a host/, qr/such as https:/ ],
	[ 'a password in the address', q(CREATE SERVER s FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://u:p@acme.kapturecrm.com')),
		qr/ERROR:  invalid value for option "url"\n/, qr/contains a user name or password/, qr/Give the address/ ],
	[ 'a country as a time zone', q(ALTER SERVER kapture OPTIONS (ADD timezone 'India')),
		qr/ERROR:  invalid value for option "timezone": "India"/, qr/does not know this time zone/, qr/such as "Asia\/Kolkata"/ ],
	[ 'an interval of months', q(ALTER SERVER kapture OPTIONS (ADD pull_interval '1 month')),
		qr/ERROR:  invalid value for option "pull_interval": "1 month"/, qr/whose length varies/, qr/Write a number and a unit/ ],
	[ 'a word for a day', q(ALTER SERVER kapture OPTIONS (ADD pull_interval '5 minutes', ADD pull_since 'yesterday')),
		qr/ERROR:  invalid value for option "pull_since": "yesterday"/, qr/must be a date/, qr/such as "2021-03-14"/ ],
	[ 'where pulls begin, without pulls', q(ALTER SERVER kapture OPTIONS (ADD pull_since '2021-03-14')),
		qr/NOTICE:  option "pull_since" is of no use without option "pull_interval"/, qr/where automatic pulls begin/, qr/ADD pull_interval '5 minutes'/ ],
	[ 'the size of pages, without pages', q(ALTER SERVER kapture OPTIONS (ADD pull_limit '50')),
		qr/NOTICE:  option "pull_limit" is of no use without option "pull_form"/, qr/size of a page/, qr/ADD pull_form 'paged'/ ],
	[ 'how fast a sweep is, without a sweep', q(ALTER SERVER kapture OPTIONS (ADD sweep_rate '5')),
		qr/NOTICE:  option "sweep_rate" is of no use without option "sweep_interval"/, qr/how fast/, qr/ADD sweep_interval '7 days'/ ],
	[ 'the names of fields the wrong way round', q(ALTER SERVER kapture OPTIONS (ADD field_names '{"name": "customer_name"}')),
		qr/ERROR:  invalid value for option "field_names"/, qr/"name" is not one of Kapture's fields/, qr/such as \{"customer_name": "name"\}/ ],
	[ 'the path of a module without "/"', q(ALTER SERVER kapture OPTIONS (ADD api_paths '{"ticket_add": "add-ticket.html"}')),
		qr/ERROR:  invalid value for option "api_paths"/, qr/does not begin with "\/"/, qr/Write a JSON object such as/ ],
	[ 'a module misspelt', q(SELECT kapture_call('ticket_ad', '{"title": "x"}')),
		qr/ERROR:  server "kapture" has no API "ticket_ad"/, qr/APIs that have a name are: ticket_add/, qr/Name one of them, give the API a name in option "api_paths"/ ],
	[ 'a server misspelt in a call', q(SELECT kapture_add_customer('{"customer_name": "x", "phone": "9845765226"}', 'kaptur')),
		qr/ERROR:  server "kaptur" does not exist/, qr/does not exist/, qr/name one that is there as argument "server": .*"kapture"/ ],
	[ 'columns as an array', q(SELECT kapture_attach('clients', '["name", "mobile"]')),
		qr/ERROR:  argument "columns" must be a JSON object/, qr/must be a JSON object/, qr/Give it as \{"Kapture field": "column"/ ],
	[ 'an expression as a column', q(SELECT kapture_attach('clients', '{"customer_name": "upper(name)", "phone": "mobile"}')),
		qr/ERROR:  column "upper\(name\)" of relation "clients" does not exist/, qr/maps the Kapture field "customer_name" to it/, qr/Write an expression as \{"customer_name": \{"expression"/ ],
	[ 'two columns for a field', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": ["mobile", "phone"]}')),
		qr/ERROR:  argument "columns" has no column name for the Kapture field "phone"/, qr/must be a JSON string/, qr/Write a value that is computed as/ ],
	[ 'a comparison with NULL', q(SELECT kapture_attach('clients', filter => 'age > 17 AND name <> NULL')),
		qr/NOTICE:  the filter is true for no row/, qr/a comparison with NULL never is/, qr/write IS NULL or IS NOT NULL/ ],
	[ 'a view without the key', q(CREATE VIEW v AS SELECT name AS customer_name, mobile AS phone FROM clients; SELECT kapture_attach('clients', source => 'v')),
		qr/ERROR:  view "v" has no column "id"/, qr/must have the primary key/, qr/Add the column to the view/ ],
	[ 'a system catalog', q(SELECT kapture_attach('pg_class')),
		qr/ERROR:  "pg_class" cannot be attached/, qr/It is a system catalog/, qr/a table of your own/ ],
	[ 'ids of the type integer', q(ALTER TABLE clients ADD kapture_customer_id int; SELECT kapture_attach('clients')),
		qr/ERROR:  column "kapture_customer_id" of table "clients" is of type integer/, qr/ids are of type bigint/, qr/ALTER COLUMN \.\.\. TYPE bigint/ ],
	[ 'one column for the ids of two accounts', q(CREATE USER MAPPING FOR CURRENT_USER SERVER bare OPTIONS (auth_key 'k'); SELECT kapture_attach('customers', name => 'b', server => 'bare')),
		qr/ERROR:  column "kapture_customer_id" receives the Kapture customer ids of another attachment/, qr/The one without a name writes the ids of server "kapture"/, qr/Name another column in argument "id_column"/ ],
	[ 'a server of another wrapper', q(CREATE EXTENSION postgres_fdw; CREATE SERVER kap FOREIGN DATA WRAPPER postgres_fdw; SELECT kapture_attach('clients', server => 'kap')),
		qr/ERROR:  server "kap" is not a Kapture server/, qr/not a Kapture server/, qr/FOREIGN DATA WRAPPER kapture_fdw/ ],
	[ 'to drop the primary key', q(ALTER TABLE customers DROP CONSTRAINT customers_pkey),
		qr/WARNING:  attached table "customers" has no primary key any more/, qr/looks for each row by the columns of the former one/, qr/Add it again, or roll back/ ],
	[ 'to compute values anew', q(ALTER TABLE customers ALTER COLUMN phone TYPE text USING '+91' || phone),
		qr/NOTICE:  values of column "phone" were computed anew, which is not sent/, qr/Table "customers" is attached to Kapture, which keeps the values that it has/, qr/Use kapture_resync\(\) to have the rows sent again/ ],
	[ 'to compute what the filter reads anew', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}', filter => 'age > 17'); ALTER TABLE clients ALTER COLUMN age TYPE bigint USING age + 1),
		qr/NOTICE:  values of column "age" were computed anew/, qr/Table "clients" is attached/, qr/kapture_resync/ ],
	[ 'to make the table unlogged', q(ALTER TABLE customers SET UNLOGGED),
		qr/WARNING:  rows of table "customers" are lost in a crash, together with their Kapture ids/, qr/is attached to Kapture/, qr/SET LOGGED, or roll back/ ],
	[ 'to give the table to somebody without a mapping', q(CREATE ROLE boss; ALTER TABLE customers OWNER TO boss),
		qr/WARNING:  nothing is sent for attached tables whose owner has no user mapping: customers/, qr/uses the key of a table's owner/, qr/CREATE USER MAPPING FOR the owner, or roll back/ ],
	[ 'to hide the rows from their owner', q(ALTER TABLE customers OWNER TO clerk; ALTER TABLE customers ENABLE ROW LEVEL SECURITY; ALTER TABLE customers FORCE ROW LEVEL SECURITY),
		qr/WARNING:  rows of table "customers" are not sent while row-level security is forced on its owner/, qr/acts as the table's owner, "clerk"/, qr/NO FORCE ROW LEVEL SECURITY/ ],
	[ 'to drop the mapping of an attached table', q(DROP USER MAPPING FOR CURRENT_USER SERVER kapture),
		qr/WARNING:  nothing is sent for attached tables whose owner has no user mapping: customers/, qr/waits until there is one/, qr/CREATE USER MAPPING FOR the owner, or roll back/ ],
	[ 'another account under the same server', q(CREATE TABLE sent (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('sent');
		INSERT INTO kapture_row (attachment_id, row_key, customer_id) SELECT attachment_id, '1', 65033646 FROM kapture_attachment WHERE relation = 'sent'::regclass;
		ALTER SERVER kapture OPTIONS (SET url 'https://other.kapturecrm.com')),
		qr/NOTICE:  rows that have ids of customers at the former address of server "kapture" are sent to the new one/, qr/Attached tables with such rows: sent\. Updates go to the customers that have these ids there/, qr/If it is another account, roll back, and use kapture_alter\(\)/ ],
	[ 'to drop a view that values come from', q(CREATE VIEW crm AS SELECT id, name AS customer_name, mobile AS phone FROM clients; SELECT kapture_attach('clients', source => 'crm'); DROP VIEW crm),
		qr/WARNING:  rows of attached table "clients" are not sent from now on/, qr/view public\.crm, which the values of table "clients" come from, is gone\. What changes waits/, qr/Make a view of this name again, or use kapture_alter\(\) with another "source"\. Or roll back/ ],
	[ 'to drop the table behind the view', q(CREATE TABLE towns (town text PRIMARY KEY); CREATE VIEW crm AS SELECT c.id, name AS customer_name, mobile AS phone, town AS city FROM clients AS c, towns;
		SELECT kapture_attach('clients', source => 'crm', name => 'seen'); DROP TABLE towns CASCADE),
		qr/WARNING:  rows of attached table "clients" \(attachment "seen"\) are not sent/, qr/view public\.crm.* is gone/, qr/Make a view of this name again/ ],
	[ 'to make the view again without a field', q(CREATE VIEW crm AS SELECT id, name AS customer_name, mobile AS phone, name AS city FROM clients; SELECT kapture_attach('clients', source => 'crm');
		SET client_min_messages = error; DROP VIEW crm; RESET client_min_messages; CREATE VIEW crm AS SELECT id, name AS customer_name, mobile AS phone FROM clients),
		qr/WARNING:  fields that are no longer sent for table "clients": city/, qr/View public\.crm, which the values come from, has no columns for them/, qr/Add the columns to the view, use kapture_alter\(\), or roll back/ ],
	[ 'to make the view again without the key', q(CREATE VIEW crm AS SELECT id, name AS customer_name, mobile AS phone FROM clients; SELECT kapture_attach('clients', source => 'crm');
		SET client_min_messages = error; DROP VIEW crm; RESET client_min_messages; CREATE VIEW crm AS SELECT name AS customer_name, mobile AS phone FROM clients),
		qr/WARNING:  rows of attached table "clients" are not sent from now on/, qr/has no column "id" any more, by which the rows are found\. What changes waits/, qr/Add the column to the view/ ],
	[ 'to drop a function that an expression calls', q(CREATE FUNCTION full_name(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT upper($1)';
		SELECT kapture_attach('clients', '{"customer_name": {"expression": "full_name(name)"}, "phone": "mobile"}'); DROP FUNCTION full_name(text)),
		qr/WARNING:  rows of attached table "clients" are not sent from now on/, qr/field "customer_name" of table "clients" cannot be evaluated: function public\.full_name\(text\) does not exist/, qr/Bring back what it uses, or use kapture_alter/ ],
	[ 'to drop a column of the filter', q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}', filter => 'age > 17'); ALTER TABLE clients DROP age),
		qr/WARNING:  rows of attached table "clients" are not sent from now on/, qr/filter of table "clients" cannot be evaluated: column "age" does not exist/, qr/Bring back what it uses/ ],
	[ 'to give the server to somebody else', q(CREATE ROLE buyer; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO buyer; ALTER SERVER kapture OWNER TO buyer),
		qr/WARNING:  rows of attached table "customers" are not sent from now on/, qr/server "kapture" has passed to role "buyer" since table "customers" was attached/, qr/If it is the right server, use kapture_detach\(\) and kapture_attach\(\)/ ],
	[ 'to drop the server, with what waits', q(DROP SERVER kapture CASCADE),
		qr/NOTICE:  what waits to be sent for 2 rows of table "customers" is given up/, qr/Kapture does not have these changes/, qr/To keep them, roll back/ ],
	[ 'to drop the extension, with what waits', q(DROP EXTENSION kapture_sync),
		qr/ERROR:  cannot drop extension kapture_sync/, qr/trigger kapture_capture on table customers depends on server kapture/, qr/DROP \.\.\. CASCADE/ ],
	[ 'to resume a table without its name', q(SELECT kapture_resume()),
		qr/NOTICE:  tables that are paused stay so: public\.customers/, qr/is for copies of a database whose original no longer sends/, qr/Use kapture_resume\('\.\.\.'\) with the name of a table/ ],
	[ 'to call a procedure by SELECT', q(SELECT kapture_backfill('customers')),
		qr/ERROR:  kapture_backfill\(unknown\) is a procedure/, qr/is a procedure/, qr/use CALL/ ],
	[ 'to touch a field misspelt', q(SELECT kapture_touch('customers', '1', '{citi}')),
		qr/ERROR:  no column of table "customers" feeds the Kapture field "citi"/, qr/no column/, qr/Its fields are "customer_name", "phone", "city"/ ],
	[ 'to pull at once what is not pulled', q(SELECT kapture_pull_now()),
		qr/ERROR:  server "kapture" is not pulled from automatically/, qr/not pulled from automatically/, qr/Set option "pull_interval" of the server, or call kapture_refresh/ ],
	[ 'to write the id of a foreign table', q(CREATE FOREIGN TABLE f (id bigint, name text, phone text) SERVER kapture OPTIONS (object 'customers'); INSERT INTO f VALUES (7, 'Asha', '9845711111')),
		qr/ERROR:  column "id" of foreign table "f" cannot be written/, qr/Kapture makes the ids itself/, qr/These columns can be written: name, phone/ ],
	[ 'to empty a field of a foreign table', q(CREATE FOREIGN TABLE f (id bigint, name text, phone text) SERVER kapture OPTIONS (object 'customers'); SELECT kapture_add_customer('{"customer_name": "Mira", "phone": "9845765231"}'); UPDATE f SET name = '' WHERE phone = '9845765231'),
		qr/ERROR:  column "name" of foreign table "f" cannot be emptied/, qr/an empty value means to leave the field as it is/, qr/coalesce\(\.\.\., name\)/ ],
	[ 'a secret in the headers of a server', q(ALTER SERVER kapture OPTIONS (ADD headers '{"x-api-key": "s"}')),
		qr/ERROR:  header "x-api-key" of option "headers" looks like a secret/, qr/Everybody who can connect/, qr/Put it into the user mapping/ ],
);

# What a statement of a session reports, all of it.
sub reported
{
	my ($sql, $alone) = @_;
	$sql = "BEGIN;\n$sql;\nROLLBACK" unless $alone;
	my ($rc, $out, $err) = $node->psql('postgres', "$sql;", on_error_stop => 0);
	$err =~ s/^psql:<stdin>:\d+: //mg;
	return $err;
}

foreach my $case (@mistakes)
{
	my ($mistake, $sql, $what, $why, $do, $alone) = @$case;
	my $reported = reported($sql, $alone);

	# the message that names it, with its lines of DETAIL and HINT, not another one
	my ($message) = grep { $_ =~ $what } split /(?=^(?:ERROR|WARNING|NOTICE):)/m, $reported;
	$message //= '';
	my ($hint) = $message =~ /^(HINT: .*)$/m;
	my @missing = grep { $_ } ($message ? '' : 'what'), ($message =~ $why ? '' : 'why'), (($hint // '') =~ $do ? '' : 'what to do');
	is("@missing", '', "what, why and what to do: $mistake") or diag($reported);
}

# --- one that is not a mistake is not reported
unlike(reported(q(SELECT kapture_retry('customers'))), qr/NOTICE/, 'that nothing has failed is no mistake');
unlike(reported(q(SELECT kapture_attach('clients', filter => '(age = NULL OR age > 17) AND name IS NOT NULL'))), qr/true for no row/, 'nor is a filter that some rows get through');
unlike(reported(q(ALTER TABLE customers DROP CONSTRAINT customers_pkey, ADD PRIMARY KEY (id))), qr/WARNING/, 'nor that a primary key is made anew');
unlike(reported(q(ALTER TABLE clients DROP CONSTRAINT clients_pkey; ALTER TABLE clients SET UNLOGGED)), qr/WARNING/, 'other tables may do without');
unlike(reported(q(CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key 'k'); DROP USER MAPPING FOR CURRENT_USER SERVER kapture)), qr/WARNING/, 'one mapping is enough, whoever it is for');
unlike(reported(q(ALTER SERVER kapture OPTIONS (ADD timeout '5s'))), qr/NOTICE/, 'nothing is addressed otherwise by other options');
unlike(reported(q(SELECT kapture_add_customer('{"customer_name": "Ravi", "phone": "9845765230"}'))), qr/NOTICE/, 'documented fields are taken as they are');
unlike(reported(q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile", "customer_assign_emp_code": "age"}'))), qr/gets the text/, 'codes of employees may be numbers');
like(reported(q(SELECT kapture_pause('customers'))), qr/NOTICE:  table "customers" is paused already/, 'pausing twice is reported');
like(reported(q(SELECT kapture_resume('customers'); SELECT kapture_resume('customers'))), qr/NOTICE:  table "customers" is not paused/, 'and resuming twice');

# --- a trigger that is off is a step of kapture_check, and one that is on again is none
my $capture = q(SELECT ok || ': ' || detail FROM kapture_check() WHERE step = 'capture');
is($node->safe_psql('postgres', $capture), '', 'kapture_check has nothing to say of triggers');
$node->safe_psql('postgres', 'ALTER TABLE customers DISABLE TRIGGER USER');
like($node->safe_psql('postgres', $capture), qr/^false: changes are not captured, .*: public.customers$/, 'it names tables whose trigger is disabled');
is($node->safe_psql('postgres', "SET ROLE clerk; $capture"), '', 'to those who may see them');
$node->safe_psql('postgres', 'ALTER TABLE customers ENABLE TRIGGER USER');
is($node->safe_psql('postgres', $capture), '', 'and is content when it is enabled');
$node->safe_psql('postgres', q(CREATE TABLE split (id int PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id); CREATE TABLE split_1 PARTITION OF split DEFAULT;
SELECT kapture_attach('split', replicated => true); SELECT kapture_follow('split', 'customers', 'target.id = source.id')));
my $off = reported('ALTER TABLE split_1 DISABLE TRIGGER ALL');
like($off, qr/WARNING:  changes of table "split_1" are not captured from now on\n.*\nHINT:  Use ALTER TABLE public\.split_1 ENABLE TRIGGER kapture_capture/, 'a partition whose triggers are disabled is reported');
like($off, qr/WARNING:  changes of followed table "split_1" are not captured from now on/, 'a followed one, too');
$node->safe_psql('postgres', 'ALTER TABLE split_1 DISABLE TRIGGER ALL');
like($node->safe_psql('postgres', $capture), qr/^false: changes are not captured, .*: public.split$/, 'kapture_check names its table');
like($node->safe_psql('postgres', $capture =~ s/capture'$/followed'/r), qr/^false: changes of followed tables are not captured, .*: public.split$/, 'once for each use');
$node->safe_psql('postgres', 'ALTER TABLE split_1 ENABLE TRIGGER kapture_capture, ENABLE TRIGGER kapture_followed');
is($node->safe_psql('postgres', $capture), '', 'until the triggers are enabled');
$node->safe_psql('postgres', "UPDATE pg_trigger SET tgenabled = 'O' WHERE tgrelid = 'split_1'::regclass AND tgname = 'kapture_capture'");
like($node->safe_psql('postgres', $capture), qr/^false: changes that logical replication applies are not captured, .*: public.split$/, 'a trigger that an earlier version has left to fire at the origin only is named');
$node->safe_psql('postgres', "SELECT kapture_unfollow('split', 'customers'); SELECT kapture_detach('split'); DROP TABLE split");
unlike(reported('ALTER TABLE clients DISABLE TRIGGER ALL'), qr/WARNING/, 'other tables may do without triggers');
unlike(reported(q(ALTER TABLE customers ALTER COLUMN phone TYPE varchar(99))), qr/anew/, 'nor is another type, by which values stay what they are');
unlike(reported(q(ALTER TABLE customers ADD COLUMN seen int; ALTER TABLE customers ALTER COLUMN seen TYPE text USING 'x')), qr/anew/, 'nor values that are not sent');
unlike(reported(q(SELECT kapture_detach('customers'))), qr/not captured/, 'that detaching drops triggers is no mistake');
unlike(reported('DROP TABLE clients'), qr/given up/, 'nor that a table is dropped for which nothing waits');

# --- what keeps changes from being sent is reported when a table is attached
my $attach = q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}'));
$node->safe_psql('postgres', 'ALTER SYSTEM SET kapture_sync.enabled = off');
$node->reload;
poll_ok($node, "SELECT current_setting('kapture_sync.enabled') = 'off'", 'the sync is off');
like(reported($attach), qr/WARNING:  nothing is sent while "kapture_sync\.enabled" is off\nDETAIL:  .*wait.*\nHINT:  /, 'which is reported');
$node->safe_psql('postgres', "ALTER SYSTEM RESET kapture_sync.enabled");
$node->safe_psql('postgres', "ALTER SYSTEM SET kapture_sync.excluded_databases = 'other, postgres'");
$node->reload;
poll_ok($node, "SELECT current_setting('kapture_sync.excluded_databases') <> ''", 'the database is excluded');
like(reported($attach), qr/WARNING:  database "postgres" sends nothing while "kapture_sync\.excluded_databases" names it\nDETAIL:  .*\nHINT:  /, 'which is reported');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET kapture_sync.excluded_databases');
$node->reload;
poll_ok($node, "SELECT current_setting('kapture_sync.excluded_databases') = ''", 'it is not excluded any more');
unlike(reported($attach), qr/WARNING/, 'and there is nothing to warn of');

# --- what logical replication brings is not captured unless it is asked for
$node->safe_psql('postgres', "CREATE SUBSCRIPTION other CONNECTION 'dbname=none' PUBLICATION none WITH (connect = false, enabled = false, slot_name = NONE)");
$node->safe_psql('postgres', "INSERT INTO pg_subscription_rel VALUES ((SELECT oid FROM pg_subscription), 'clients'::regclass, 'r', NULL)");
like(reported($attach), qr/NOTICE:  what logical replication brings into table "clients" is not sent to Kapture\nDETAIL:  .*\nHINT:  .*replicated => true/, 'that what is replicated is not sent is reported');
unlike(reported(q(SELECT kapture_attach('clients', '{"customer_name": "name", "phone": "mobile"}', replicated => true))), qr/logical replication/, 'but not if it is sent');

$node->stop;
done_testing();
