# Living with a mapping: what is attached how, customers who are there already,
# customers whose row is gone, other mappings; and the recipes of the page.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('living');
shorthand($node, $emulator, qw(sql said));
setup_sync($node, $emulator, options => "max_connections '4'");
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";

sub customers { return @{ emulator_get($emulator, 'customers') } }

# --- how tables are attached
is(sql("SELECT relation, server, columns, on_duplicate, replicated, pull, on_conflict, id_column, key_columns, paused, attached_at <= now() FROM kapture_attachments"),
	'customers|kapture|{"city": "city", "phone": "phone", "email_id": "email_id", "customer_name": "customer_name"}|link|f|f|local|kapture_customer_id|{id}|f|t',
	'kapture_attachments shows it');
sql("CREATE ROLE keeper; CREATE SCHEMA kept AUTHORIZATION keeper; GRANT USAGE ON FOREIGN SERVER kapture TO keeper;
CREATE USER MAPPING FOR keeper SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SET ROLE keeper; CREATE TABLE kept.people (id int PRIMARY KEY, name text, mobile text);
SELECT kapture_attach('kept.people', columns => '{\"customer_name\": \"name\", \"phone\": \"mobile\"}', on_duplicate => 'fail');
ALTER TABLE kept.people RENAME name TO called");
is(sql("SET ROLE keeper; SELECT relation, columns, on_duplicate FROM kapture_attachments"), 'kept.people|{"phone": "mobile", "customer_name": "called"}|fail', 'to the owner, as columns are called now');
my $again = sql("SELECT columns FROM kapture_attachments WHERE relation = 'kept.people'::regclass");
sql("SELECT kapture_detach('kept.people'); SELECT kapture_attach('kept.people', columns => '$again')");
is(sql("SELECT columns FROM kapture_attachments WHERE relation = 'kept.people'::regclass"), $again, 'and kapture_attach takes that');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Seen', '9000000001')");
poll_ok($node, $idle, 'a row is sent');
is(sql("SELECT relation, row_key, action FROM kapture_history"), 'customers|1|add', 'the history names the table');
sql("TRUNCATE customers RESTART IDENTITY");
poll_ok($node, $idle, 'the table is emptied');
is(sql("SELECT relation FROM kapture_history WHERE action = 'truncate'"), 'customers', 'here, too');

# --- customers who are there already
emulator_post($emulator, 'seed', [
	{ customer_name => 'By phone', phone => '9100000001' },
	{ customer_name => 'By email', phone => '9100000002', email_id => 'two@example.com' },
	{ customer_name => 'By both', phone => '9100000003', email_id => 'three@example.com' },
	{ customer_name => 'One', phone => '9100000004', email_id => 'four@example.com' },
	{ customer_name => 'Twice', phone => '9100000006', email_id => 'six@example.com' },
	{ customer_name => 'Taken', phone => '9100000007' } ]);
my %id = map { $_->{customer_name} => $_->{kapture_customer_id} } customers();
sql("SELECT kapture_pause('customers'); SET kapture_sync.capture = off;
INSERT INTO customers (customer_name, phone, email_id) VALUES ('By phone', '9100000001', NULL), ('By email', '9100000099', 'TWO\@example.com'),
('By both', '9100000003', 'three\@example.com'), ('Two', '9100000004', 'six\@example.com'), ('Nobody', '9100000005', 'five\@example.com'),
('Twice', '9100000006', NULL), ('Twice again', NULL, 'six\@example.com'), ('Taken again', '9100000007', NULL), ('No contact', NULL, ' ')");
sql("SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone, kapture_customer_id) VALUES ('Taken', '9100000007', $id{Taken})");
my $expected = join "\n", "1|$id{'By phone'}|phone|", "2|$id{'By email'}|email|", "3|$id{'By both'}|both|",
  "4||both|the phone belongs to Kapture customer $id{One}, the email to Kapture customer $id{Twice}",
  "6|$id{Twice}|phone|the row with key \"7\" is the same customer", "7|$id{Twice}|email|the row with key \"6\" is the same customer",
  "8|$id{Taken}|phone|another row has this id";
is(sql("SELECT row_key, kapture_customer_id, found_by, problem FROM kapture_match('customers')"), $expected, 'rows whose customer is there');
is(sql("SELECT count(kapture_customer_id) FROM customers"), '1', 'nothing is written');
like(said("BEGIN READ ONLY; SELECT * FROM kapture_match('customers', write => true)"), qr/cannot execute kapture_match\(\) with argument "write" in a read-only transaction/, 'a read-only transaction writes none');
like(said("SELECT row_key, kapture_customer_id, found_by, problem FROM kapture_match('customers', write => true)"), qr/^\Q$expected\E\n?.*the ids are written when table "customers" is no longer paused/s, 'they are to be written');
sql("UPDATE customers SET city = 'Goa' WHERE id = 3");
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'the worker writes them');
is(sql("SELECT id, kapture_customer_id FROM customers WHERE kapture_customer_id IS NOT NULL ORDER BY id"),
	"1|$id{'By phone'}\n2|$id{'By email'}\n3|$id{'By both'}\n10|$id{Taken}", 'those without a problem, and no other');
is(sql("SELECT row_key, action, customer_id FROM kapture_history WHERE action = 'link' ORDER BY 1"), "1|link|$id{'By phone'}\n2|link|$id{'By email'}\n3|link|$id{'By both'}", 'the history says so');
is((grep { $_->{customer_name} eq 'By both' } customers())[0]{city}, 'Goa', 'what had changed meanwhile is sent to that customer');
is(emulator_get($emulator, 'stats')->{adds}, 1, 'nobody was added');
is(sql("SELECT count(*) FROM kapture_match('customers')"), '4', 'what has an id is not asked for again');
sql("CREATE ROLE stranger");
like(said("SET ROLE stranger; SELECT * FROM kapture_match('customers')"), qr/must be owner of table customers/, 'for the owner only');

# where the extension keeps the ids
emulator_post($emulator, 'seed', [ map { { customer_name => "Kept $_", phone => "910000010$_" } } 1, 2 ]);
my %kept = map { $_->{customer_name} => $_->{kapture_customer_id} } customers();
sql("CREATE TABLE aside (id int PRIMARY KEY, customer_name text, phone text, email_id text)");
sql("SELECT kapture_attach('aside', id_column => NULL)");
my $aside = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'aside'::regclass";
sql("INSERT INTO aside VALUES (1, 'Own', '9100000109')");
poll_ok($node, $aside, 'one row is added');
sql("SELECT kapture_pause('aside')");
sql("INSERT INTO aside VALUES (2, 'Second', '9100000101'), (3, 'Third', '9100000102'), (4, 'As the first', '9100000109'), (5, 'Nobody', '9100000105')");
$expected = "2|$kept{'Kept 1'}|phone|\n3|$kept{'Kept 2'}|phone|\n4|" . sql("SELECT kapture_id('aside', 1)") . '|phone|another row has this id';
is(sql("SELECT row_key, kapture_customer_id, found_by, problem FROM kapture_match('aside', write => true)"), $expected, 'where the extension keeps the ids, too');
sql("DELETE FROM aside WHERE id > 3");
sql("SELECT kapture_resume('aside')");
poll_ok($node, $aside, 'they are recorded');
is(sql("SELECT id, kapture_id('aside', id) FROM aside WHERE id > 1 ORDER BY 1"), "2|$kept{'Kept 1'}\n3|$kept{'Kept 2'}", 'as the customers of the rows');
is((grep { $_->{customer_name} =~ /^(?:Kept|Second|Third)/ } customers()), 2, 'nobody is added');
# and forgets them
my $there = scalar customers();
sql("UPDATE kapture_row SET customer_id = 4711 WHERE customer_id = $kept{'Kept 1'}");
sql("UPDATE aside SET email_id = 'second\@example.com' WHERE id = 2");
poll_ok($node, "SELECT message ~ 'not exist' AND hint ~ 'kapture_forget_id' FROM kapture_failures WHERE relation = 'aside'::regclass AND row_key = '2'", 'a customer who was removed is missed');
is(sql("SELECT kapture_forget_id('aside', 2)"), '4711', 'its id is forgotten');
is(sql("SELECT kapture_id('aside', 2)"), '', 'so that the row has none');
like(said("SELECT kapture_forget_id('aside', 2)"), qr/NOTICE:  the row with key "2" has no id of a customer/, 'which is said');
sql("SELECT kapture_retry('aside', '2')");
poll_ok($node, "SELECT kapture_id('aside', 2) = $kept{'Kept 1'}", 'it is linked again');
sql("INSERT INTO aside VALUES (6, 'As the third', '9100000102')");
poll_ok($node, "SELECT message ~ 'belongs to the row with key \"3\" of table' FROM kapture_failures WHERE relation = 'aside'::regclass", 'a row waits for the customer of another one');
is(sql("SELECT kapture_forget_id('aside', '3')"), $kept{'Kept 2'}, 'whose id is forgotten');
poll_ok($node, "SELECT kapture_id('aside', 6) = $kept{'Kept 2'}", 'then it gets that customer, by itself');
poll_ok($node, $aside, 'and is done');
is(scalar customers(), $there, 'nobody is added');
my $updates = emulator_get($emulator, 'stats')->{updates};
sql("UPDATE kapture_row SET digests = NULL WHERE customer_id = $kept{'Kept 1'}");
like(said("CALL kapture_backfill('aside')"), qr/NOTICE:  1 rows of "aside" are on their way, that is all/, 'a backfill takes the rows without an id');
poll_ok($node, $aside, 'it is done');
is(emulator_get($emulator, 'stats')->{updates}, $updates, 'and sends nothing of the others');
hold_adds($node, $emulator);
sql("INSERT INTO aside VALUES (7, 'In flight', '9100000107')");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status WHERE relation = 'aside'::regclass", 'a row is being added');
like(said("SELECT kapture_forget_id('aside', 7)"), qr/ERROR:  a request for the row with key "7" is in flight/, 'its id is not forgotten meanwhile');
release_adds($node, $emulator);
sql("DELETE FROM aside WHERE id = 3");
poll_ok($node, $aside, 'the rest is done');
# the key of a deleted row, which the worker has not missed yet
sql("SELECT kapture_pause('aside')");
sql("DELETE FROM aside WHERE id = 6; INSERT INTO aside VALUES (6, 'Successor', '9100000106')");
is(sql("SELECT kapture_id('aside', 6)"), '', 'the next row with a key has not the customer of the deleted one');
is(sql("SELECT action FROM kapture_dry_run('aside') WHERE row_key = '6'"), 'add', 'and is to be added');
like(said("SELECT kapture_forget_id('aside', 6)"), qr/ERROR:  what is kept for key "6" is about a row that was deleted/, 'what is known of the deleted row is not forgotten');
sql("SELECT kapture_resume('aside')");
poll_ok($node, "SELECT kapture_id('aside', 6) <> $kept{'Kept 2'}", 'it gets a customer of its own');
is(sql("SELECT kapture_acknowledge(server, kapture_customer_id) FROM kapture_orphans WHERE kapture_customer_id = $kept{'Kept 2'}"), 't', 'the other one is an orphan');
poll_ok($node, $aside, 'all is done');
# a copy has them, too
my $kept_ids = "SELECT string_agg(id || ' ' || kapture_id('aside', id), ', ' ORDER BY id) FROM aside";
sql("CREATE DATABASE copied TEMPLATE postgres");
is(sql($kept_ids, 'copied'), sql($kept_ids), 'a copy knows the ids that the extension keeps');
is(sql("SELECT count(*) FROM kapture_verify('aside')", 'copied'), '0', 'so that it finds its customers');
is(sql("SELECT DISTINCT action FROM kapture_dry_run('aside') WHERE row_key <> '2'", 'copied'), 'skip', 'and would send nothing again');
is(sql("SELECT kapture_forget_id('aside', 1) IS NOT NULL", 'copied') . sql("SELECT kapture_id('aside', 1) IS NULL", 'copied'), 'tt', 'what it forgets');
isnt(sql("SELECT kapture_id('aside', 1)"), '', 'the original still knows');
sql("DROP DATABASE copied");
like(said("SELECT kapture_forget_id('customers', 1)"), qr/ERROR:  ids of table "customers" are in its column "kapture_customer_id".*UPDATE public.customers SET kapture_customer_id = NULL/s, 'nor where the table has it');
is(sql("SELECT count(*) FROM kapture_match('aside')"), '0', 'nor asked for again');
sql("SELECT kapture_detach('aside')");

# --- customers whose row is gone
my $orphans = "SELECT server, kapture_customer_id, relation, row_key, since <= now(), reason FROM kapture_orphans ORDER BY kapture_customer_id";
my $number = sql("SELECT attachment_id FROM kapture_attachments WHERE relation = 'customers'::regclass");
sql("DELETE FROM kapture_row; INSERT INTO kapture_row (attachment_id, row_key, customer_id, gone_at, left_at) VALUES
($number, '101', 7001, now(), NULL), ($number, '102', 7002, NULL, now()), ($number, '103', 7003, NULL, NULL), ($number, '104', 7004, now(), NULL), ($number, '105', 7004, NULL, NULL)");
is(sql($orphans), "kapture|7001|customers|101|t|deleted\nkapture|7002|customers|102|t|left", 'customers whose row was deleted or left, and that no row has again');
is(sql("SET ROLE stranger; SELECT count(*) FROM kapture_orphans"), '0', 'others do not see them');
is(sql("SET ROLE stranger; SELECT kapture_acknowledge('kapture', 7001)"), 'f', 'nor acknowledge them');
is(sql("SELECT kapture_acknowledge('kapture', 7001), kapture_acknowledge('kapture', 7003), kapture_acknowledge('other', 7002)"), 't|f|f', 'one that is acknowledged');
is(sql($orphans), "kapture|7002|customers|102|t|left", 'is shown no more');
is(sql("SELECT count(*) FROM kapture_row WHERE customer_id = 7003"), '1', 'a row that is there is left alone');
like(said("SELECT kapture_acknowledge(NULL, 1)"), qr/argument "server" must not be null/, 'of a server');

# as the worker finds it
sql("INSERT INTO customers (customer_name, phone) VALUES ('Goes', '9700000001'), ('Stays', '9700000002')");
poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM customers WHERE phone LIKE '97%'", 'two rows are customers');
poll_ok($node, $idle, 'and done');
my $goes = sql("SELECT kapture_customer_id FROM customers WHERE phone = '9700000001'");
my $stays = sql("SELECT kapture_customer_id FROM customers WHERE phone = '9700000002'");
my $goes_key = sql("SELECT id FROM customers WHERE phone = '9700000001'");
sql("DELETE FROM customers WHERE phone = '9700000001'");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_orphans WHERE kapture_customer_id = $goes", 'a deleted row leaves its customer without one');
is(sql("SELECT row_key, reason FROM kapture_orphans WHERE kapture_customer_id = $goes"), "$goes_key|deleted", 'which is said');
sql("DELETE FROM kapture_history");
is(sql("SELECT count(*) FROM kapture_orphans WHERE kapture_customer_id = $goes"), '1', 'beyond the history');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Goes', '9700000001')");
poll_ok($node, "SELECT kapture_customer_id = $goes FROM customers WHERE phone = '9700000001'", 'another row becomes that customer');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_orphans WHERE kapture_customer_id = $goes", 'then it is an orphan no more');
sql("DELETE FROM customers WHERE phone LIKE '97%'");
poll_ok($node, "SELECT count(*) = 2 FROM kapture_orphans WHERE kapture_customer_id IN ($goes, $stays)", 'both go');
is(sql("SELECT bool_and(kapture_acknowledge(server, kapture_customer_id)) FROM kapture_orphans"), 't', 'and are acknowledged');
is(sql("SELECT count(*) FROM kapture_orphans"), '0', 'all of them');

# --- before going live
sql("CREATE TABLE shop (id int PRIMARY KEY, name text, mobile text, mail text, active boolean NOT NULL DEFAULT true);
INSERT INTO shop VALUES (1, 'Good', '9200000001', NULL, true), (2, 'Bad phone', '080-123', NULL, true), (3, NULL, '9200000003', NULL, true), (4, 'Out', '9200000004', NULL, false),
(5, 'Same phone', '9200000001', NULL, true), (6, 'Bad mail', NULL, 'nobody', true), (7, 'Known', '9100000006', NULL, true), (8, 'Both', '9100000004', 'six\@example.com', true), (9, 'No contact', NULL, NULL, true),
(10, 'Mail', NULL, 'A\@example.com', true), (11, 'Same mail', NULL, 'a\@EXAMPLE.com', true)");
my $columns = '{"customer_name": "name", "phone": "mobile", "email_id": "mail"}';
my $requests = emulator_get($emulator, 'stats')->{requests};
my $shop = sql("SELECT pg_describe_object('pg_class'::regclass, 'shop'::regclass, 0) || (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'shop'::regclass)");
is(sql("SELECT row_key, action, problem FROM kapture_dry_run('shop', '$columns', 'active')"), join("\n",
	'1|add|', '2|refuse|Invalid phone number, number must contain 10 digits and must start from 6 or above', '3|refuse|Name and (Phone Number or Email Id) are required fields',
	'4|skip|the filter leaves it out', '5|refuse|the row with key "1" has the same phone', '6|refuse|Invalid email id.', '7|add|', '8|add|',
	'9|refuse|Name and (Phone Number or Email Id) are required fields', '10|add|', '11|refuse|the row with key "10" has the same email'), 'what would become of each row');
is(sql("SELECT action, count(*), count(hint) FROM kapture_dry_run('shop', '$columns', 'active') GROUP BY action ORDER BY action"), "add|4|0\nrefuse|6|6\nskip|1|0", 'refusals say what to do');
is(sql("SELECT body FROM kapture_dry_run('shop', '$columns', 'active') WHERE row_key = '1'"), '{"phone": "9200000001", "customer_name": "Good"}', 'and what would be sent');
is(emulator_get($emulator, 'stats')->{requests}, $requests, 'nothing was sent or asked');
is(sql("SELECT pg_describe_object('pg_class'::regclass, 'shop'::regclass, 0) || (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'shop'::regclass)"), $shop, 'the table is as it was');
is(sql("SELECT count(*) FROM kapture_attachments WHERE relation = 'shop'::regclass"), '0', 'and not attached');
is(sql("SELECT row_key, action, problem FROM kapture_dry_run('shop', '$columns', 'active', ask => true) WHERE row_key IN ('1', '7', '8')"), join("\n",
	'1|add|', '7|link|', "8|refuse|the phone belongs to Kapture customer $id{One}, the email to Kapture customer $id{Twice}"), 'Kapture can be asked who is there');
like(said("SELECT * FROM kapture_dry_run('shop', '{\"customer_name\": \"nobody\", \"phone\": \"mobile\"}')"), qr/column "nobody" of relation "shop" does not exist/, 'a mapping that cannot be');
like(said("SET ROLE stranger; SELECT * FROM kapture_dry_run('shop', '$columns')"), qr/must be owner of table shop/, 'for the owner only');
my $writer = $node->background_psql('postgres');
$writer->query_safe("BEGIN; UPDATE shop SET name = name");
is(sql("SET lock_timeout = '1ms'; SELECT count(*) FROM kapture_dry_run('shop', '$columns')"), '11', 'nobody is in the way, nor is it in theirs');
$writer->query_safe("ROLLBACK");
$writer->quit;
sql("CREATE TABLE places (shop int, place text); INSERT INTO places VALUES (1, 'Hubli');
CREATE VIEW shop_crm AS SELECT s.id, s.name AS customer_name, s.mobile AS phone, p.place AS city FROM shop s JOIN places p ON p.shop = s.id");
is(sql("SELECT row_key, action, body FROM kapture_dry_run('shop', source => 'shop_crm') WHERE action <> 'skip'"), '1|add|{"city": "Hubli", "phone": "9200000001", "customer_name": "Good"}', 'values may come from a view');
is(sql("SELECT count(*) FROM kapture_dry_run('shop', source => 'shop_crm') WHERE action = 'skip'"), '10', 'what it has no row for is left out');
is(sql(q(SELECT row_key, action, problem, body ->> 'customer_name' FROM kapture_dry_run('shop', '{"customer_name": {"expression": "upper(name)"}, "phone": "mobile"}', 'active') WHERE row_key IN ('1', '4'))),
	"1|add||GOOD\n4|skip|the filter leaves it out|", 'a filter goes together with expressions,');
is(sql(q(SELECT body FROM kapture_dry_run('shop', '{"customer_name": {"expression": "upper(customer_name)"}, "phone": "phone", "city": {"expression": "city || '' town''"}}', source => 'shop_crm') WHERE action <> 'skip')),
	'{"city": "Hubli town", "phone": "9200000001", "customer_name": "GOOD"}', 'and these with a view');
# it says what is then done
sql("SELECT kapture_attach('shop', columns => '$columns', filter => 'active')");
is(sql("SELECT filter, columns FROM kapture_attachments WHERE relation = 'shop'::regclass"), 'active|{"phone": "mobile", "email_id": "mail", "customer_name": "name"}', 'it is attached like that');
sql("CALL kapture_backfill('shop')");
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'shop'::regclass", 'and backfilled');
# (which of two rows that share a phone or email is the first is open)
is(sql("SELECT string_agg(k, ',' ORDER BY k::int) FROM (SELECT CASE id WHEN 5 THEN 1 WHEN 11 THEN 10 ELSE id END::text AS k FROM shop WHERE kapture_customer_id IS NOT NULL) AS s"), '1,7,10', 'the rows that were to be added or linked are there');
sql("DELETE FROM shop WHERE id IN (5, 11)");
poll_ok($node, "SELECT count(*) = 2 FROM shop WHERE kapture_customer_id IS NOT NULL AND id IN (1, 10)", 'and when one of two is deleted, the other one takes its customer over');
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'shop'::regclass", 'by itself');
is(sql("SELECT action, problem FROM kapture_dry_run('shop', '$columns', 'active') WHERE row_key = '1'"), 'skip|Kapture has its values already', 'of an attached table, too');
sql("CREATE TABLE plain (id int PRIMARY KEY, customer_name text, phone text); CREATE TABLE named (LIKE plain INCLUDING ALL);
SELECT kapture_attach('plain', id_column => NULL), kapture_attach('named', id_column => 'crm_id');
INSERT INTO plain VALUES (1, 'Kept apart', '9200000021'); INSERT INTO named VALUES (1, 'Kept here', '9200000022')");
poll_ok($node, "SELECT kapture_id('plain', '1') + kapture_id('named', '1') IS NOT NULL", 'ids are kept by the extension, or in a column of another name');
poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", 'and the worker is done');
sql("SET kapture_sync.capture = off; UPDATE plain SET customer_name = 'Other'; UPDATE named SET customer_name = 'Other'");
is(sql("SELECT d.action, d.body ->> 'kapture_customer_id' = coalesce(kapture_id('plain', '1'), 0)::text FROM (VALUES ('plain'::regclass), ('named')) AS t(name), kapture_dry_run(t.name) AS d"),
	"update|t\nupdate|f", 'where a dry run finds them');
sql("SELECT kapture_detach('plain'), kapture_detach('named')");

# of an attached table, what is not given is as it is attached
sql(q(CREATE TABLE kin (id int PRIMARY KEY, called text, mobile text, active boolean NOT NULL DEFAULT true);
SELECT kapture_attach('kin', columns => '{"customer_name": "called", "phone": "mobile"}', filter => 'active', on_leave => '{"campaign_name": "left"}', on_duplicate => 'fail', id_column => NULL);
INSERT INTO kin VALUES (5, 'Changes', '9200000031'), (6, 'Leaves', '9200000032'), (7, 'Stays', '9200000037')));
my $kin = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'kin'::regclass";
poll_ok($node, "SELECT count(kapture_id('kin', id)) = 3 FROM kin", 'rows of a table without a column for ids are customers');
poll_ok($node, $kin, 'and done');
sql("SET kapture_sync.capture = off; UPDATE kin SET called = 'Changed' WHERE id = 5; UPDATE kin SET active = false WHERE id = 6;
INSERT INTO kin VALUES (1, 'Same phone', '9200000031', true), (2, 'There', '9100000006', true), (3, 'New', '9200000033', true), (4, 'Out', '9200000034', false)");
my $foretold = "SELECT row_key, action, problem, body - 'kapture_customer_id' FROM kapture_dry_run('kin', ask => true)";
is(sql($foretold), join("\n", '1|refuse|the row with key "5" has the same phone|', "2|refuse|Kapture customer $id{Twice} has this phone already|", '3|add||{"phone": "9200000033", "customer_name": "New"}',
	'4|skip|the filter leaves it out|', '5|update||{"customer_name": "Changed"}', '6|update|the filter leaves it out|{"campaign_name": "left"}', '7|skip|Kapture has its values already|'), 'what would become of its rows');
is(sql("SELECT count(*) FROM kapture_dry_run('kin') WHERE action IN ('refuse') AND hint IS NULL"), '0', 'with what to do');
like(said("SELECT count(*) FROM kapture_dry_run('kin')"), qr/NOTICE:  this is about table "kin" as it is attached to server "kapture".*kapture_resync\('public.kin'\)/s, 'it says what it is about,');
like(said("SELECT count(*) FROM kapture_dry_run('kin', filter => 'true')"), qr/NOTICE:  this is about table "kin" as kapture_alter\(\) would attach it.*Given: filter\./s, 'also if something is given');
is(sql("SELECT row_key, action FROM kapture_dry_run('kin', filter => 'true') WHERE row_key IN ('4', '6')"), "4|add\n6|skip", 'which replaces what is there');
is(sql("SELECT row_key, action, body - 'kapture_customer_id' FROM kapture_dry_run('kin', '{\"customer_name\": \"called\", \"phone\": \"mobile\", \"zone\": {\"constant\": \"south\"}}') WHERE row_key IN ('6', '7')"),
	qq(6|update|{"campaign_name": "left"}\n7|update|{"zone": "south"}), 'of a new field nothing was sent yet');
my $before_kin = emulator_get($emulator, 'stats')->{requests};
sql("CALL kapture_resync('kin'); SELECT kapture_touch('kin', 6)");
poll_ok($node, $kin, 'the rows are sent again');
is(sql("SELECT row_key FROM kapture_failures WHERE relation = 'kin'::regclass AND state = 'parked' ORDER BY row_key"), "1\n2", 'what was to be refused is parked,');
is(sql("SELECT row_key, action FROM (SELECT DISTINCT ON (row_key) row_key, action FROM kapture_history WHERE relation = 'kin'::regclass ORDER BY row_key, finished_at DESC) AS h"),
	"3|add\n5|update\n6|left\n7|none", 'and the others end as was reported');
is(emulator_get($emulator, 'stats')->{requests} - $before_kin, 5, 'with a request for each add and update, and for those of which Kapture knows better');
sql("SELECT kapture_attach('kin', columns => '{\"customer_name\": \"called\", \"phone\": \"mobile\"}', id_column => NULL, name => 'two')");
like(said("SELECT * FROM kapture_dry_run('kin')"), qr/ERROR:  table "kin" has several attachments\n.*argument "name"/s, 'of several attachments one is named');
is(sql("SELECT count(*) FILTER (WHERE action = 'add') FROM kapture_dry_run('kin', name => 'two')"), '6', 'each of which has ids of its own');
like(said("SELECT count(*) FROM kapture_dry_run('kin', name => 'three')"), qr/NOTICE:  this is about another attachment of table "kin", to server "kapture"/, 'or it is about a new one');
sql("SELECT kapture_detach('kin'); DROP TABLE kin");
is(sql("SELECT row_key, problem FROM kapture_verify('shop') WHERE row_key = '4'"), '', 'a verification keeps to the filter');
sql("SELECT kapture_alter('shop', filter => 'true')");
is(sql("SELECT problem FROM kapture_verify('shop', 'id = 4')"), 'no id', 'which is altered');
sql("SELECT kapture_alter('shop', source => 'shop_crm', reset => '{filter}'); CALL kapture_resync('shop', 'id = 1', force => true)");
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'shop'::regclass", 'it gets its values from a view');
is((grep { $_->{phone} eq '9200000001' } customers())[0]{city}, 'Hubli', 'which are sent');
is(sql("SELECT problem, field FROM kapture_verify('shop', 'id = 1')"), '', 'and compared');
sql("UPDATE places SET place = 'Hampi'");
is(sql("SELECT problem, field, here, there FROM kapture_verify('shop', 'id = 1')"), 'differs|city|Hampi|Hubli', 'as they are now');

# --- another mapping, while much waits
sql("CREATE TABLE many (id int PRIMARY KEY, customer_name text, phone text, city text, town text, note text);
SELECT kapture_attach('many', columns => '{\"customer_name\": \"customer_name\", \"phone\": \"phone\", \"city\": \"city\"}');
INSERT INTO many SELECT i, 'Many ' || i, (9300000000 + i)::text, 'Pune', 'Goa', 'n' FROM generate_series(1, 200) i");
my $many = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'many'::regclass";
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM many", 'rows are there');
poll_ok($node, $many, 'and done');
my $before = sql("SELECT attachment_id, attached_at FROM kapture_attachments WHERE relation = 'many'::regclass");
my $sent = sql("SELECT count(*) FROM kapture_history WHERE relation = 'many'::regclass");
sql("SELECT kapture_pause('many')");
poll_ok($node, "SELECT in_flight = 0 AND state = 'paused' FROM kapture_status WHERE relation = 'many'::regclass", 'the table is paused');
sql("UPDATE many SET city = 'Agra ' || i % 2 FROM generate_series(1, 50) i WHERE id % 50 = i % 50");
sql("INSERT INTO many SELECT i, 'Many ' || i, (9300000000 + i)::text, 'Pune', 'Goa', 'n' FROM generate_series(201, 10000) i");
my $waits = sql("SELECT pending FROM kapture_status WHERE relation = 'many'::regclass");
cmp_ok($waits, '>=', 10000, '10,000 changes wait');
my $altered = said("SELECT kapture_alter('many', columns => '{\"customer_name\": \"customer_name\", \"phone\": \"phone\", \"zone\": \"town\", \"campaign_name\": {\"constant\": \"spring\"}}')");
like($altered, qr/NOTICE:  fields that are no longer sent for table "many": city\n/, 'it says what was dropped');
like($altered, qr/NOTICE:  fields of table "many" that are new, or come from elsewhere: (?:zone, campaign_name|campaign_name, zone)\n.*kapture_resync\('public.many', fields => '\{/s, 'and what was added, and what brings it out');
# whatever the names are, which may have quotes in them
sql(q(CREATE TABLE "it's" (id int PRIMARY KEY, customer_name text, phone text, town text); SELECT kapture_attach('"it''s"'::regclass)));
my @calls = said(q(SELECT kapture_alter('"it''s"', filter => 'id > 0', columns => '{"customer_name": "customer_name", "phone": "phone", "a, b''s": "town"}'); SELECT * FROM kapture_dry_run('"it''s"')))
  =~ /(CALL kapture_resync\(.*\)) (?:to have|sends)/g;
is(scalar(@calls), 3, 'commands are reported,');
unlike(said($_), qr/ERROR/, "that can be given as they are: $_") foreach @calls;
sql(q(DROP TABLE "it's"));
is(sql("SELECT attachment_id, attached_at FROM kapture_attachments WHERE relation = 'many'::regclass"), $before, 'it is the same attachment');
is(sql("SELECT count(*) FROM kapture_history WHERE relation = 'many'::regclass"), $sent, 'with its history');
is(sql("SELECT pending FROM kapture_status WHERE relation = 'many'::regclass"), $waits, 'and what waits');
is(sql("SELECT min(bit) > 2 FROM kapture_column WHERE field IN ('zone', 'campaign_name') AND attachment_id = (SELECT attachment_id FROM kapture_attachments WHERE relation = 'many'::regclass)"), 't', 'new fields have not the bit of the one that waits');
sql("UPDATE many SET town = 'Surat' WHERE id = 7; UPDATE many SET city = 'Nowhere' WHERE id = 8");
like(sql("SELECT body FROM kapture_preview('many', 7)"), qr/"zone": "Surat"/, 'changes of new fields are captured');
unlike(sql("SELECT body FROM kapture_preview('many', 7)"), qr/city/, 'those of dropped ones are not sent');
sql("SELECT kapture_resume('many')");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM many", 'all rows are sent');
poll_ok($node, $many, 'and done');
my %by_phone = map { $_->{phone} => $_ } customers();
is($by_phone{9300000007}{zone}, 'Surat', 'with the new mapping');
is($by_phone{9300009999}{zone}, 'Goa', 'those that were inserted before, too');
is($by_phone{9300009999}{city} // '', '', 'without what was dropped');
is($by_phone{9300000008}{city}, 'Pune', 'which Kapture keeps where it has it');
# now nothing waits: bits may be used again
like(said("SELECT kapture_alter('many', columns => '{\"customer_name\": \"customer_name\", \"phone\": \"phone\", \"city\": \"town\", \"zone\": \"note\"}')"), qr/new, or come from elsewhere: (?:city, zone|zone, city)/, 'a field may come from another column');
said("CALL kapture_resync('many', 'id < 10', fields => '{city,zone}')");
poll_ok($node, $many, 'the resync that was named');
%by_phone = map { $_->{phone} => $_ } customers();
is("$by_phone{9300000007}{city}, $by_phone{9300000007}{zone}", 'Surat, n', 'brings it out');

# one argument after the other
my $options = "SELECT on_duplicate, on_conflict, replicated, filter, source FROM kapture_attachments WHERE relation = 'many'::regclass";
sql("SELECT kapture_alter('many', on_duplicate => 'fail', replicated => true, filter => 'id > 3')");
is(sql($options), 'fail|local|t|(id > 3)|', 'what is given replaces what is there');
is(sql("SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgrelid = 'many'::regclass AND tgname LIKE 'kapture%'"), 'A', 'triggers, too');
sql("SELECT kapture_alter('many', on_conflict => 'remote')");
is(sql($options), 'fail|remote|t|(id > 3)|', 'the rest stays');
sql("SELECT kapture_alter('many', reset => '{on_duplicate,replicated,filter}')");
is(sql($options), 'link|remote|f||', 'reset takes arguments back to their defaults');
is(sql("SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgrelid = 'many'::regclass AND tgname LIKE 'kapture%'"), 'O', 'triggers, too');
like(said("SELECT kapture_alter('many', reset => '{server}')"), qr/argument "reset" cannot take "server" back/, 'not everything has one');
like(said("SELECT kapture_alter('many', filter => 'true', reset => '{filter}')"), qr/argument "filter" is given, and also named in argument "reset"/, 'and nothing both ways');
like(said("SELECT kapture_alter('many', columns => '{\"customer_name\": \"gone\", \"phone\": \"phone\"}')"), qr/column "gone" of relation "many" does not exist/, 'a mapping that cannot be');
like(said("SELECT kapture_alter('many', on_duplicate => 'maybe')"), qr/invalid value for argument "on_duplicate"/, 'nor a value');
like(said("SET ROLE stranger; SELECT kapture_alter('many', filter => 'true')"), qr/must be owner of table many/, 'for the owner only');

# --- another server
my $other = start_emulator();
sql("CREATE SERVER second FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$other->{url}', timeout '2s');
CREATE USER MAPPING FOR CURRENT_USER SERVER second OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
like(said("SELECT kapture_alter('many', server => 'second')"), qr/requests of table "many" to server "kapture" may be in flight.*kapture_pause/s, 'not while requests may be under way');
sql("SELECT kapture_pause('many')");
poll_ok($node, "SELECT in_flight = 0 AND state = 'paused' FROM kapture_status WHERE relation = 'many'::regclass", 'the table is paused');
like(said("SELECT kapture_alter('many', server => 'second')"), qr/rows of table "many" have ids of customers of server "kapture".*keep_ids => true.*SET kapture_customer_id = NULL/s, 'ids are not taken along by the way');
sql("DELETE FROM many WHERE id > 20");
sql("BEGIN; UPDATE many SET kapture_customer_id = NULL; SELECT kapture_alter('many', server => 'second'); COMMIT");
is(sql("SELECT server FROM kapture_attachments WHERE relation = 'many'::regclass"), 'second', 'it goes to another server');
sql("SELECT kapture_resume('many'); CALL kapture_backfill('many')");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) AND count(*) = 20 FROM many", 'its rows are customers there');
is(scalar @{ emulator_get($other, 'customers') }, 20, 'all of them');
poll_ok($node, $many, 'and done');
sql("SELECT kapture_pause('many')");
poll_ok($node, "SELECT in_flight = 0 AND state = 'paused' FROM kapture_status WHERE relation = 'many'::regclass", 'and back');
sql("CREATE SERVER third FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$other->{url}', timeout '2s');
CREATE USER MAPPING FOR CURRENT_USER SERVER third OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SELECT kapture_alter('many', server => 'third', keep_ids => true)");
is(sql("SELECT count(kapture_customer_id) FROM many"), '20', 'ids are kept if asked for');
like(said("DROP SERVER third"), qr/cannot drop server third because other objects depend on it/, 'the table depends on its new server');
is(said("DROP SERVER second CASCADE") =~ /trigger/ ? 'trigger' : '', '', 'and no more on the old one');
sql("SELECT kapture_resume('many'); UPDATE many SET phone = '9300005555' WHERE id = 5");
poll_ok($node, $many, 'it is sent there');
is((grep { $_->{phone} eq '9300005555' } @{ emulator_get($other, 'customers') }) + 0, 1, 'as an update of the same customer');
is(scalar @{ emulator_get($other, 'customers') }, 20, 'and nobody is added');

# --- customers that are being pulled from the former server, and noted for the table
foreach my $name (qw(former latter))
{
	my $account = $name eq 'former' ? start_emulator() : $other;
	emulator_post($account, 'reset', {});
	emulator_post($account, 'seed', [ map { { kapture_customer_id => $_, customer_name => "$name $_", phone => ($name eq 'former' ? 9310000000 : 9320000000) + $_, generated => ago(60) } } 1 .. 3 ]);
	sql("CREATE SERVER $name FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$account->{url}', timeout '2s');
CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
}
sub refresh { return "CALL kapture_refresh('" . ago(3600) . "', '" . ago(0) . "', server => '$_[0]', restart => true)" }
sub blocked_ok { return poll_ok($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '$_[0]' AND pid <> pg_backend_pid()", $_[1]) }
sql("CREATE TABLE pulled (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text)");
sql("SELECT kapture_attach('pulled', server => 'former', pull => true), kapture_pause('pulled')");
sql(refresh($_)) foreach qw(latter former);
is(sql("SELECT count(*), min(server) FROM kapture_inbox"), '3|former', 'customers wait for a paused table');
sql("DELETE FROM kapture_inbox WHERE customer_id > 1; UPDATE kapture_customers SET name = 'old' WHERE server = 'former'");
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT customer_id FROM kapture_inbox FOR UPDATE");
my @psql = ($node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'));
my ($said, @running) = ('');
push @running, IPC::Run::start([ @psql, '-c', refresh('former') ], '<', \undef, '>&', \$said);
blocked_ok('^CALL kapture_refresh', 'while others are being noted');
push @running, IPC::Run::start([ @psql, '-c', "SELECT kapture_alter('pulled', server => 'latter')" ], '<', \undef, '>&', \$said);
poll_ok($node, "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '^(CALL kapture_refresh|SELECT kapture_alter)'", 'the table is given another server');
$holder->query_safe('COMMIT');
$holder->quit;
$_->finish foreach @running;
unlike($said, qr/ERROR/, 'neither is in the way of the other');
is(sql("SELECT count(*) > 0, min(server) FROM kapture_inbox"), 't|former', 'some of the former server are there');
sql("SELECT kapture_resume('pulled')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox", 'which come to nothing');
is(sql("SELECT count(*) FROM pulled"), '0', 'and are not taken for those of the other server that have their ids');
sql(refresh('latter'));
sql("UPDATE kapture_customers SET name = 'old' WHERE server = 'latter'");
sql(refresh('latter'));
poll_ok($node, "SELECT count(*) = 3 AND bool_and(customer_name ~ '^latter') FROM pulled", 'what is pulled from that one comes');
sql("ALTER SERVER latter RENAME TO last; SELECT kapture_detach('pulled'); DROP TABLE pulled; DROP SERVER last CASCADE; DROP SERVER former CASCADE");

# --- the recipes of the page, in the situations that they are for
my $page = slurp_file(abs_path("$FindBin::RealBin/../..") . '/docs/living-with-a-mapping.md');

# the statements below a heading, one by one, as psql runs them
sub recipe
{
	my ($heading, %params) = @_;
	my ($section) = $page =~ /^#+ \Q$heading\E\n(.*?)(?=^#|\z)/ms or die "no section $heading";
	my $sql = join "\n", $section =~ /^```(?:sql)?\n(.*?)^```$/msg;
	my ($rc, $out, $err) = $node->psql($params{db} || 'postgres', $sql, on_error_stop => 1);
	is($rc, 0, "the recipe \"$heading\" runs") or diag($err);
	return $out;
}

# capture was off
sql("DELETE FROM customers; DELETE FROM kapture_row WHERE attachment_id = $number");
poll_ok($node, $idle, 'nothing is left');
sql("INSERT INTO customers (customer_name, phone, city) SELECT 'Recipe ' || i, (9400000000 + i)::text, 'Pune' FROM generate_series(1, 30) i");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'thirty rows are there');
poll_ok($node, $idle, 'and done');
sql("SET kapture_sync.capture = off; UPDATE customers SET city = 'Surat' WHERE phone = '9400000001'; INSERT INTO customers (customer_name, phone) VALUES ('Unseen', '9400000031')");
my $shown = recipe('`kapture_sync.capture` was off by mistake');
like($shown, qr/\|differs\|city\|Surat\|Pune/, 'it finds what differs');
poll_ok($node, $idle, 'and has it sent');
my %there = map { $_->{phone} => $_ } customers();
is("$there{9400000001}{city}, " . ($there{9400000031} ? 'added' : 'missing'), 'Surat, added', 'with what was not noted');
is(sql("SELECT count(*) FROM kapture_verify('customers')"), '0', 'then nothing is wrong');

# a failover has lost a change and a row
sql("SET kapture_sync.capture = off; UPDATE customers SET city = 'Pune' WHERE phone = '9400000001'; DELETE FROM customers WHERE phone = '9400000002'");
$shown = recipe('A failover has lost transactions');
like($shown, qr/\|differs\|city\|Pune\|Surat/, 'a value that was lost differs');
like($shown, qr/^$there{'9400000002'}{kapture_customer_id}\|Recipe 2\|9400000002$/m, 'a customer whose row was lost is found');
poll_ok($node, $idle, 'it is repaired');
is((grep { $_->{phone} eq '9400000001' } customers())[0]{city}, 'Pune', 'by what the table says');

# a backup: a copy of the database, as it was before others came
$node->safe_psql('template1', "CREATE DATABASE restored TEMPLATE postgres");
sql("INSERT INTO customers (customer_name, phone, city) VALUES ('Later', '9400000040', 'Pune'); UPDATE customers SET city = 'Delhi' WHERE phone = '9400000003'");
poll_ok($node, $idle, 'the original goes on for a while');
sql("SELECT kapture_pause('customers')");
$node->safe_psql('restored', "INSERT INTO customers (customer_name, phone, city) VALUES ('Later', '9400000040', 'Pune')");
is($node->safe_psql('restored', "SELECT state FROM kapture_status WHERE relation = 'customers'::regclass"), 'copy', 'the copy sends nothing');
my $known = grep { 1 } customers();
$shown = recipe('A backup was restored', db => 'restored');
like($shown, qr/^city\|1$/m, 'it says what is newer in Kapture');
my $later = (grep { $_->{phone} eq '9400000040' } customers())[0]{kapture_customer_id};
poll_ok($node, "SELECT kapture_customer_id = $later FROM customers WHERE phone = '9400000040'", 'a row that came back has its customer', 'restored');
poll_ok($node, $idle, 'and all goes on', 'restored');
is((grep { 1 } customers()) + 0, $known, 'nobody was added twice');
is((grep { $_->{phone} eq '9400000003' } customers())[0]{city}, 'Delhi', 'nothing newer was overwritten');
$node->safe_psql('postgres', "DROP DATABASE restored");

# another account
my $production = start_emulator();
sql("CREATE SERVER production FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$production->{url}', timeout '2s');
CREATE USER MAPPING FOR CURRENT_USER SERVER production OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
emulator_post($production, 'seed', [ { customer_name => 'Recipe 5', phone => '9400000005' } ]);
sql("SELECT kapture_resume('customers'); SELECT kapture_pause('customers')");
poll_ok($node, "SELECT in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass", 'nothing is under way');
recipe('Another account');
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'all rows have ids of the other account');
poll_ok($node, $idle, 'and are done');
oracle_ok($node, $production, 'and are its customers, each once');

$node->stop;
done_testing();
