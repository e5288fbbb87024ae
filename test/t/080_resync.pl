# Rows are sent again without being changed: kapture_resync; and calls as people write them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('resync');
shorthand($node, $emulator, qw(sql said));
setup_sync($node, $emulator);
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";

sub updates { return emulator_get($emulator, 'stats')->{updates} }

# --- calls as people write them
sql("INSERT INTO customers (customer_name, phone) SELECT 'Wrong ' || i, 'abc' || i FROM generate_series(1, 6) i");
poll_ok($node, "SELECT parked = 6 FROM kapture_status", 'six rows are parked');
is(sql("SELECT kapture_retry('customers', 42), kapture_retry('customers', '42'), kapture_retry('customers', NULL::bigint) IS NOT NULL"), '0|0|t', 'keys as a number, as a literal, as NULL');
sql("SELECT kapture_pause('customers')");
poll_ok($node, "SELECT in_flight = 0 AND parked + retrying = 6 FROM kapture_status", 'nothing is being sent');
is(sql("SELECT kapture_discard('customers', 1)"), '1', 'a row by its number');
is(sql("SELECT kapture_discard('customers', id) FROM customers WHERE id = 2"), '1', 'by its column');
is(sql("SELECT kapture_discard('customers', '3')"), '1', 'by a literal');
is(sql("SELECT kapture_discard('customers', row_key => 4)"), '1', 'by name');
is(sql("SELECT kapture_discard('customers', 5::numeric)"), '1', 'as another type');
like(said("SELECT kapture_retry('customers', ROW(1, 2))"), qr/argument "row_key" must not be a row.*'\{1,x\}'/s, 'a row is no key');
is(sql("SELECT kapture_discard('customers', NULL)"), '1', 'NULL means all');
sql("DELETE FROM customers; SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'nothing is left');
sql("CREATE TABLE flags (flag boolean PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('flags'); INSERT INTO flags VALUES (true, 'Flag', 'abc')");
poll_ok($node, "SELECT parked = 1 FROM kapture_status WHERE relation = 'flags'::regclass", 'a row with a key of another type is parked');
is(sql("SELECT kapture_discard('flags', true)"), '1', 'its key is written out as it was captured');
sql("SELECT kapture_detach('flags'); DROP TABLE flags");

# --- times of pulls
sql("ALTER SERVER kapture OPTIONS (ADD timezone 'Asia/Kolkata')");
sql("INSERT INTO customers (customer_name, phone) VALUES ('Just now', '9800000001')");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'a customer of just now');
is(sql("SELECT api FROM kapture_preview('customers', (SELECT id FROM customers))"), 'update', 'a preview by number');
is(sql("SELECT api FROM kapture_preview('customers', '7')"), 'update', 'and by a literal');
foreach my $zone ('Asia/Kolkata', 'America/Los_Angeles', 'Pacific/Kiritimati')
{
	my $before = "SET TIME ZONE '$zone'; ";
	is(sql("$before SELECT count(*) FROM kapture_pull_customers(now() - interval '1 hour', now() + interval '1 minute')"), '1', "instants, in a session in $zone");
	is(sql("$before SELECT count(*) FROM kapture_pull_customers(now() - interval '3 hours', now() - interval '1 hour')"), '0', 'and not those of another hour');
	is(sql("$before SELECT jsonb_array_length(kapture_pull(now() - interval '1 hour', now() + interval '1 minute')->'message')"), '1', 'as JSON');
	my $day = sql("SELECT (now() AT TIME ZONE 'Asia/Kolkata')::date");
	is(sql("$before SELECT count(*) FROM kapture_pull_customers('$day', '$day')"), '1', 'a literal is the account\'s day');
	is(sql("$before SELECT count(*) FROM kapture_pull_customers('$day'::date, '$day'::date)"), '1', 'so is a date');
	is(sql("$before SELECT count(*) FROM kapture_pull_customers('$day'::timestamp, '$day'::timestamp)"), '1', 'and a timestamp');
}
like(said("SELECT kapture_pull(now(), 'infinity'::timestamptz)"), qr/argument "end_date" must be finite/, 'instants must be finite');
like(said("SELECT kapture_pull(now(), now() - interval '1 day')"), qr/argument "start_date" is after "end_date"/, 'and in order');
like(said("SELECT kapture_pull(now(), now(), 'nobody')"), qr/server "nobody" does not exist/, 'of a server that is there');

# --- resync
sql("INSERT INTO customers (customer_name, phone, city) SELECT 'Row ' || i, (9000000000 + i)::text, CASE WHEN i % 2 = 0 THEN 'Pune' ELSE 'Goa' END FROM generate_series(1, 40) i");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'rows are there');
poll_ok($node, $idle, 'and done');
sql("CREATE TABLE touched (n int); CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.touched VALUES (1); RETURN NEW; END';
CREATE TRIGGER touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch()");
my $versions = sql("SELECT md5(string_agg(ctid::text || xmin::text, ',' ORDER BY id)) FROM customers");
my $before = updates();
my $said = said("CALL kapture_resync('customers', slice => 7, force => true)");
like($said, qr/41 rows of "customers" are on their way, that is all/, 'all rows are noted');
poll_ok($node, $idle, 'and sent');
is(updates() - $before, 41, 'each once');
is(sql("SELECT md5(string_agg(ctid::text || xmin::text, ',' ORDER BY id)) FROM customers"), $versions, 'no row was written');
is(sql("SELECT count(*) FROM touched"), '0', 'no trigger fired');
is(sql("SELECT activity, relation, state, done, total FROM kapture_progress WHERE activity = 'resync'"), 'resync|customers|done|41|41', 'kapture_progress shows it');

$before = updates();
sql("SELECT kapture_pause('customers')");
said("CALL kapture_resync('customers', 'city = ''Pune'' -- those of Pune', ARRAY['city'], force => true)");
is(sql("SELECT pending FROM kapture_status WHERE relation = 'customers'::regclass"), '20', 'a condition picks rows');
like(sql("SELECT body FROM kapture_preview('customers', (SELECT min(id) FROM customers WHERE city = 'Pune'))"), qr/^\{"kapture_customer_id": "\d+", "city": "Pune"\}$/, 'fields are those named');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'they are sent');
is(updates() - $before, 20, 'each once');

# --- a row without an id is added, whatever the fields
sql("SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone, city) VALUES ('Unseen', '9000000099', 'Agra')");
sql("CALL kapture_resync('customers', 'city = ''Agra''', ARRAY['city'])");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers WHERE city = 'Agra'", 'a row without an id is added');
poll_ok($node, $idle, 'and done');
oracle_ok($node, $emulator, 'with all that it has');

# --- interrupted, it goes on
# (a wait for the lock itself would end with the lock_timeout that the table's lock has)
sql("CREATE FUNCTION slow_city(text) RETURNS boolean LANGUAGE plpgsql STABLE AS \$\$ BEGIN
  WHILE EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objid = 7) LOOP PERFORM pg_catalog.pg_sleep(0.01); END LOOP; RETURN true; END \$\$");
my $condition = "CASE WHEN id > 20 THEN public.slow_city(city) ELSE true END";
my $holder = $node->background_psql('postgres');
$holder->query_safe("SELECT pg_advisory_lock(7)");
my ($rc, $out, $err);
my @call = ('psql', '-X', '-d', $node->connstr('postgres'), '-c');
sql("SELECT kapture_pause('customers')");
my $counted = IPC::Run::start([ @call, "CALL kapture_resync('customers', \$\$$condition\$\$, slice => 5)" ], '<', \undef, '>', \$out, '2>', \$err);
poll_ok($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%CALL kapture_resync%' AND wait_event = 'PgSleep'", 'a resync waits for somebody\'s function');
like(said("CALL kapture_resync('customers')"), qr/another session is running kapture_resync for table "customers"/, 'one at a time');
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%CALL kapture_resync%' AND pid <> pg_backend_pid()");
$counted->finish;
like($err, qr/canceling statement due to user request/, 'it can be canceled at once');
$holder->query_safe("SELECT pg_advisory_unlock(7)");
$holder->quit;

# in the middle: the function fails from a row on
sql("CREATE TABLE limits (n bigint); INSERT INTO limits VALUES (1000000);
CREATE FUNCTION below(bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS \$\$ BEGIN IF \$1 > (SELECT n FROM public.limits) THEN RAISE 'that far'; END IF; RETURN true; END \$\$");
my $middle = sql("SELECT id FROM customers ORDER BY id OFFSET 19 LIMIT 1");
($rc, $out, $err) = $node->psql('postgres', "CALL kapture_resync('customers', 'public.below(id)', slice => 100)");
is($rc, 0, 'a function that lets all pass');
sql("UPDATE kapture_backfill SET finished_at = NULL, last_key = '$middle', rows = 20 WHERE activity = 'resync'");
is(sql("SELECT state, done FROM kapture_progress WHERE activity = 'resync'"), 'interrupted|20', 'one that was interrupted');
like(said("CALL kapture_resync('customers', 'public.below(id)', slice => 100)"), qr/22 rows of "customers"/, 'goes on where it stopped');
sql("UPDATE kapture_backfill SET finished_at = NULL, last_key = '$middle', rows = 20 WHERE activity = 'resync'");
like(said("CALL kapture_resync('customers', 'true', slice => 100)"), qr/42 rows of "customers"/, 'another condition begins anew');
sql("UPDATE limits SET n = 0");
like(said("CALL kapture_resync('customers', 'public.below(id)')"), qr/that far/, 'an error of the condition is the caller\'s');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'all is sent in the end');

# --- errors
like(said("CALL kapture_resync('customers', 'city =')"), qr/syntax error/, 'a condition must be one');
like(said("CALL kapture_resync('customers', 'true); DROP TABLE limits; SELECT (true')"), qr/argument "condition": syntax error at or near/, 'and no more');
like(said("CALL kapture_resync('customers', '$_')"), qr/argument "condition"(?: must be one expression|: syntax error at or near)/, "not $_")
  foreach 'true) FROM customers WHERE (true', 'true) UNION SELECT (true', 'true) ORDER BY (1', 'true) LIMIT (1', 'true) AS x, (true';
like(said("CALL kapture_resync('customers', 'id IN (SELECT n FROM limits)')"), qr/argument "condition" must not contain subqueries/, 'subqueries are for functions');
like(said("CALL kapture_resync('customers', 'town = ''Pune''')"), qr/column "town" does not exist/, 'its columns must be there');
like(said("CALL kapture_resync('customers', '42')"), qr/must be type boolean/, 'it is boolean');
like(said("CALL kapture_resync('customers', fields => ARRAY['town'])"), qr/no column of table "customers" feeds the Kapture field "town".*"customer_name", "phone", "email_id"/s, 'fields must be mapped');
like(said("CALL kapture_resync('customers', fields => ARRAY[NULL])"), qr/argument "fields" must not contain nulls/, 'and named');
like(said("BEGIN; CALL kapture_resync('customers')"), qr/kapture_resync cannot run inside a transaction block.*It commits each slice/s, 'no transaction block');
like(said("BEGIN; CALL kapture_backfill('customers')"), qr/kapture_backfill cannot run inside a transaction block.*Use CALL outside/s, 'nor for a backfill');
sql("CREATE ROLE stranger");
like(said("SET ROLE stranger; CALL kapture_resync('customers')"), qr/must be owner of table customers/, 'for the owner only');

# --- its names are those of the session, as in a filter: operators of types in other schemas, functions of the extension, the table's name
sql("CREATE SCHEMA extra; CREATE EXTENSION citext SCHEMA extra; CREATE TABLE folded (id int PRIMARY KEY, customer_name text, email_id extra.citext);
SELECT kapture_attach('folded'); SELECT kapture_pause('folded');
INSERT INTO folded VALUES (1, 'Asha', 'Asha\@Example.com'), (2, 'Ravi', 'ravi\@example.com')");
like(said("SET search_path = public, extra; CALL kapture_resync('folded', 'email_id = ''ASHA\@example.COM''')"), qr/1 rows of "folded"/, 'an operator of another schema');
like(said("CALL kapture_resync('folded', 'kapture_phone(customer_name) IS NULL')"), qr/2 rows of "folded"/, 'a function that is in the search_path');
# not every server is built with libxml
like(said("SET xmloption = document; CALL kapture_resync('folded', '''<a/><b/>''::xml IS NULL')"), qr/invalid XML document|unsupported XML feature/, 'and XML is what it is for the session');
like(said("CALL kapture_resync('folded', 'folded.id = 2')"), qr/1 rows of "folded"/, 'a column with the name of its table');
is(sql("SELECT row_key FROM kapture_verify('folded', 'folded.id = 2')"), '2', 'as everywhere');

# --- the condition runs as the owner, whoever calls
sql("CREATE ROLE keeper; CREATE SCHEMA kept AUTHORIZATION keeper; GRANT USAGE ON FOREIGN SERVER kapture TO keeper;
CREATE USER MAPPING FOR keeper SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SET ROLE keeper;
CREATE TABLE kept.customers (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('kept.customers');
CREATE FUNCTION kept.who(int) RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN RAISE 'called as %', current_user; END \$\$");
sql("SET ROLE keeper; INSERT INTO kept.customers VALUES (1, 'Kept', '9800000002')");
like(said("CALL kapture_resync('kept.customers', 'kept.who(id)')"), qr/called as keeper/, 'a condition runs as the owner of the table');
$node->stop;
done_testing();
