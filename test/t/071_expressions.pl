# Fields whose values are computed, filters, and what becomes of rows outside of one.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('expressions');
shorthand($node, $emulator, qw(sql requests customers idle_ok));
setup_sync($node, $emulator);
$node->safe_psql('postgres', "ALTER DATABASE postgres SET timezone = 'UTC'");

# expressions, constants, a filter
sql(q(
CREATE SCHEMA app;
CREATE FUNCTION app.shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1) || ''!''';
CREATE TABLE users (id int PRIMARY KEY, first text, last text, mobile text, email text, city text, ratio int DEFAULT 1,
	consent boolean DEFAULT true, deleted_at timestamptz, seen int DEFAULT 0);
INSERT INTO users (id, first, last, mobile, email, consent) VALUES
	(1, 'Asha', 'Rao', '098457-65221', 'ASHA@example.com', true), (2, 'Stays', 'Home', '9845765222', 'home@example.com', false);
SELECT kapture_attach('users', columns => $${
	"customer_name": {"expression": "concat_ws(' ', first, last)"},
	"phone": {"expression": "kapture_phone(mobile)"},
	"email_id": {"expression": "lower(email)"},
	"city": "city",
	"zone": {"expression": "app.shout(city || (10 / ratio)::text)"},
	"campaign_name": {"constant": "app"}}$$,
	filter => 'consent AND deleted_at IS NULL', on_leave => '{"campaign_name": "left"}');
CALL kapture_backfill('users');
INSERT INTO users (id, first, last, mobile, city, consent) VALUES (3, 'Kiran', 'Desai', '+91 98457 65223', 'Goa', true), (4, 'Not', 'Yet', '9845765224', NULL, NULL);
));
is(sql("SELECT total FROM kapture_backfill"), 1, 'the backfill counts rows of the filter');
idle_ok('rows are sent');
my @fields = qw(customer_name phone email_id city zone campaign_name);
is(customers(@fields), "Asha Rao|9845765221|asha\@example.com|||app\nKiran Desai|9845765223||Goa|GOA10!|app",
	'fields have the values of their expressions and constants; rows outside stay home');
is(sql("SELECT row_key, action FROM kapture_history WHERE action = 'left' ORDER BY 1"), '4|left',
	'a row that is outside ends as left; NULL is no');
is(sql("SELECT count(*) FROM kapture_failures"), 0, 'nothing is parked');

# each field knows the columns it reads
my $updates = requests('update');
sql("UPDATE users SET seen = seen + 1");
is(sql("SELECT count(*) FROM kapture_outbox"), 0, 'a column that nothing reads is not captured');
sql("UPDATE users SET last = 'Rao-Iyer' WHERE id = 1");
idle_ok('an update of a column that an expression reads is sent');
is(requests('update'), $updates + 1, 'with one request');
my ($last) = reverse grep { $_->{api} eq 'update' } @{ emulator_get($emulator, 'log') };
like($last->{body}, qr/"customer_name": ?"Asha Rao-Iyer"/, 'which has the field');
unlike($last->{body}, qr/phone|campaign_name|city/, 'and no other');

# leaving and coming
sql("UPDATE users SET consent = false WHERE id = 1");
idle_ok('a row leaves');
is(customers(qw(customer_name campaign_name)), "Asha Rao-Iyer|left\nKiran Desai|app", 'the constants of on_leave are sent');
sql("UPDATE users SET last = 'Hidden' WHERE id = 1");
idle_ok('a row outside is changed');
is(requests('update'), $updates + 2, 'without a request');
is(sql("SELECT action, customer_id = kapture_customer_id FROM kapture_history JOIN users ON id::text = row_key WHERE id = 1 AND action = 'left' ORDER BY finished_at DESC LIMIT 1"),
	'left|t', 'the history has its id');
is(sql("SELECT kapture_customer_id IS NOT NULL FROM users WHERE id = 1"), 't', 'and the row, too');
sql("UPDATE users SET consent = true WHERE id IN (1, 2)");
idle_ok('rows come in');
is(customers(qw(customer_name phone campaign_name)), "Asha Hidden|9845765221|app\nKiran Desai|9845765223|app\nStays Home|9845765222|app",
	'whole: the one with an id by an Update, the other one by an Add');

# coming in and leaving again before it is known what has become of the Update
sql("ALTER SERVER kapture OPTIONS (SET timeout '1s')");
foreach my $case ([ 'carried out', { action => 'drop_after' } ], [ 'not carried out', { action => 'drop_before' } ])
{
	my ($what, $fault) = @$case;
	sql("UPDATE users SET consent = false WHERE id = 1");
	idle_ok('a row leaves');
	emulator_faults($emulator, { api => 'update', count => 1, %$fault }, { api => 'update', action => 'status', code => 503 });
	sql("UPDATE users SET consent = true WHERE id = 1");
	poll_ok($node, "SELECT retrying = 1 FROM kapture_status", "it comes in by an Update that is $what, and whose answer is lost");
	sql("UPDATE users SET consent = false WHERE id = 1");
	emulator_faults($emulator);
	idle_ok('it leaves again');
	like(customers(qw(customer_name campaign_name)), qr/^Asha Hidden\|left$/m, 'which Kapture learns');
	emulator_faults($emulator, { api => 'update', count => 1, %$fault }, { api => 'update', action => 'status', code => 503 });
	sql("UPDATE users SET consent = true WHERE id = 1");
	poll_ok($node, "SELECT retrying = 1 FROM kapture_status", 'it comes in again');
	emulator_faults($emulator);
	idle_ok('and stays');
	like(customers(qw(customer_name campaign_name)), qr/^Asha Hidden\|app$/m, 'it is sent whole');
}
# a lost Add, of a row that has left before its change is taken up: the search that finds its customer is held
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 }, { api => 'get', action => 'status', code => 503 });
sql("INSERT INTO users (id, first, last, mobile) VALUES (9, 'Zz', 'Lost', '9845765229')");
poll_ok($node, "SELECT retrying = 1 FROM kapture_status", 'an Add is lost');
sql("SET kapture_sync.capture = off; UPDATE users SET consent = false WHERE id = 9");
emulator_faults($emulator);
idle_ok('its row has left, which is not captured yet');
like(customers(qw(customer_name campaign_name)), qr/^Zz Lost\|left$/m, 'and Kapture learns it all the same');
sql("DELETE FROM users WHERE id = 9");
idle_ok('that row is gone');
sql("UPDATE users SET consent = false WHERE id = 1");
idle_ok('a row leaves');
emulator_faults($emulator, { api => 'update', action => 'hold' });
sql("UPDATE users SET consent = true WHERE id = 1");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status", 'it comes in, and the server crashes before the answer');
$node->stop('immediate');
$node->start;
sql("UPDATE users SET consent = false WHERE id = 1");
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
idle_ok('it leaves again');
like(customers(qw(customer_name campaign_name)), qr/^Asha Hidden\|left$/m, 'which Kapture learns after a crash, too');
sql("UPDATE users SET consent = true WHERE id = 1");
idle_ok('and it is there again');

# another filter
my $change = "UPDATE users SET city = city || '!' WHERE id = 3";
foreach my $case ([ 'a resync', "CALL kapture_resync('users', 'id = 3')" ], [ 'a change of what the filter does not read', $change ],
	[ 'such a change, whose Update is tried twice,', $change, { api => 'update', action => 'status', code => 503, count => 1 } ])
{
	my ($what, $sql, @faults) = @$case;
	sql("SELECT kapture_alter('users', filter => 'consent AND deleted_at IS NULL AND id <> 3'); SELECT kapture_touch('users', '3')");
	idle_ok('a row that another filter leaves out is touched');
	like(customers(qw(customer_name campaign_name)), qr/^Kiran Desai\|left$/m, 'and leaves');
	emulator_faults($emulator, @faults);
	sql("SELECT kapture_alter('users', filter => 'consent AND deleted_at IS NULL'); $sql");
	idle_ok("$what of a row that a filter lets in");
	like(customers(qw(customer_name campaign_name)), qr/^Kiran Desai\|app$/m, 'has it sent whole');
}

# an error is that row's, and names the field
sql("INSERT INTO users (id, first, mobile, city, ratio) VALUES (5, 'Zero', '9845765225', 'Agra', 0), (6, 'Well', '9845765226', 'Pune', 1)");
poll_ok($node, "SELECT state = 'parked' FROM kapture_failures WHERE row_key = '5'", 'a row whose expression fails is parked');
is(sql("SELECT message FROM kapture_failures"), 'field "zone": division by zero', 'with the field');
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM users WHERE id = 6", 'by itself');
sql("UPDATE users SET ratio = 0, deleted_at = now() WHERE id = 6; UPDATE users SET deleted_at = now() WHERE id = 5");
idle_ok('expressions of rows outside are not evaluated');
is(sql("SELECT count(*) FROM kapture_failures"), 0, 'and what was parked is left');
is(sql("SELECT action FROM kapture_history WHERE row_key = '5' ORDER BY finished_at DESC LIMIT 1"), 'left', 'as the history says');

my ($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM kapture_preview('users', '5')");
like($err, qr/nothing would be sent for the row with key "5"\nDETAIL:  The filter leaves it out\./, 'kapture_preview says so');

# a function that is renamed, and nothing else
sql("ALTER FUNCTION app.shout(text) RENAME TO call; UPDATE users SET city = 'Panaji' WHERE id = 3");
idle_ok('a row is changed after a function has another name');
like(customers(qw(customer_name zone)), qr/^Kiran Desai\|PANAJI10!$/m, 'which its expression calls by that');
is(sql("SELECT count(*) FROM kapture_failures"), 0, 'so that nothing fails');
sql("ALTER FUNCTION app.call(text) RENAME TO shout");

# what is renamed
sql(q(
ALTER TABLE users RENAME COLUMN last TO family_name;
ALTER TABLE users RENAME COLUMN consent TO agreed;
ALTER FUNCTION app.shout(text) RENAME TO cry;
ALTER SCHEMA app RENAME TO application;
ALTER TABLE users RENAME TO people;
UPDATE people SET family_name = 'Renamed', city = 'Hubli' WHERE id = 1;
UPDATE people SET agreed = false WHERE id = 3;
));
idle_ok('changes after renaming are captured');
is(customers(qw(customer_name city zone campaign_name)) =~ /^Asha Renamed\|Hubli\|HUBLI10!\|app$/m ? 't' : 'f', 't', 'and sent');
like(customers(qw(customer_name campaign_name)), qr/^Kiran Desai\|left$/m, 'the filter follows, too');
is(sql("SELECT expression FROM kapture_column WHERE field = 'zone'"), q{application.cry((city || ((10 / ratio))::text))}, 'the text has the new names');

# what is dropped
sql("DROP FUNCTION application.cry(text); UPDATE people SET city = 'Mysore' WHERE id = 1");
poll_ok($node, "SELECT state = 'misconfigured' AND last_error LIKE 'the expression for the Kapture field \"zone\" of table \"people\" cannot be evaluated: function application.cry(text) does not exist' FROM kapture_status",
	'without a function that is used, the table is misconfigured');
is(sql("SELECT pending + in_flight + retrying, parked FROM kapture_status"), '1|0', 'and its rows wait');
sql("CREATE FUNCTION application.cry(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(\$1)'");
idle_ok('with it, they are sent');
like(customers(qw(customer_name zone)), qr/^Asha Renamed\|mysore10$/m, 'with what it gives now');
sql("ALTER TABLE people DROP COLUMN deleted_at; UPDATE people SET city = 'Hassan' WHERE id = 1");
poll_ok($node, "SELECT state = 'misconfigured' AND last_error LIKE 'the filter of table \"people\" cannot be evaluated: column \"deleted_at\" does not exist' FROM kapture_status",
	'a column of the filter that is dropped does likewise');
is(sql("SELECT pending FROM kapture_status"), 1, 'rows wait');
($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_verify('people')");
like($err, qr/cannot be evaluated.*\nHINT:  Bring back what it uses, or use kapture_alter\(\) to change it\./, 'and what can be done');
like(sql(q(
BEGIN;
ALTER TABLE people DROP COLUMN city;
SELECT kapture_alter('people', filter => 'agreed',
	columns => '{"customer_name": {"expression": "first"}, "phone": {"expression": "kapture_phone(mobile)"}, "city": "family_name"}');
SELECT filter || ': ' || (SELECT count(*) FROM kapture_preview('people', '1')) FROM kapture_attachment;
ROLLBACK;
)), qr/^agreed: 1$/m, 'without the columns that are gone, rows can be read again');
sql("ALTER TABLE people ADD COLUMN deleted_at timestamptz");
idle_ok('until it is there again');
like(customers(qw(customer_name city)), qr/^Asha Renamed\|Hassan$/m, 'and are sent');

# a dump brings it along
my $dump = "$PostgreSQL::Test::Utils::tmp_check/expressions.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
sql("CREATE DATABASE copy");
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'restored');
is($node->safe_psql('copy', "SELECT string_agg(field || ':' || coalesce(expression, constant, column_name), ',' ORDER BY bit) FROM kapture_column"),
	sql("SELECT string_agg(field || ':' || coalesce(expression, constant, column_name), ',' ORDER BY bit) FROM kapture_column"), 'the mapping is the same');
is($node->safe_psql('copy', "SELECT filter FROM kapture_attachment"), '(agreed AND (deleted_at IS NULL))', 'and the filter');
$node->safe_psql('copy', "UPDATE people SET city = 'Copied' WHERE id = 1");
is($node->safe_psql('copy', "SELECT convert_from(convert_to(body, 'UTF8'), 'UTF8')::jsonb ->> 'zone' FROM kapture_preview('people', '1')"), 'copied10', 'which work');

# partitions number their columns in their own way
sql(q(
CREATE TABLE parted (id int, name text, tel text, ok boolean, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE part1 (dropped int, ok boolean, tel text, name text, id int NOT NULL);
ALTER TABLE part1 DROP COLUMN dropped;
ALTER TABLE parted ATTACH PARTITION part1 FOR VALUES FROM (0) TO (100);
SELECT kapture_attach('parted', columns => '{"customer_name": {"expression": "initcap(name)"}, "phone": "tel"}', filter => 'ok', id_column => 'crm id');
INSERT INTO parted VALUES (1, 'lata', '9845765231', true), (2, 'meera', '9845765232', false);
));
poll_ok($node, q(SELECT "crm id" IS NOT NULL FROM parted WHERE id = 1), 'a partition is sent, its id written into the column that was named');
sql("UPDATE parted SET ok = NOT ok, name = name || ' k'");
idle_ok('changes of a partition');
like(customers(qw(customer_name)), qr/^Lata\nMeera K$/m, 'one leaves, one comes in');
is(sql('SELECT count("crm id") FROM parted'), 2, 'both have an id');
sql("UPDATE parted SET tel = '9845765239' WHERE id = 2");
idle_ok('an update');
is(sql("SELECT action FROM kapture_history WHERE row_key = '2' ORDER BY finished_at DESC LIMIT 1"), 'update', 'is one');

# the whole row
sql(q(
CREATE TABLE whole (id int PRIMARY KEY, customer_name text, phone text, note text);
SELECT kapture_attach('whole', columns => '{"customer_name": "customer_name", "phone": "phone", "city": {"expression": "to_jsonb(whole) ->> ''note''"}}');
INSERT INTO whole VALUES (1, 'Whole', '9845765241', 'one');
));
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM whole", 'an expression over the whole row');
idle_ok('settles');
is(sql("SELECT count(*) FROM kapture_history WHERE attachment_id = (SELECT attachment_id FROM kapture_attachment WHERE relation = 'whole'::regclass)"), 1, 'the id that is written back is no change of it');
sql("UPDATE whole SET note = 'two'");
idle_ok('any column may matter');
like(customers(qw(customer_name city)), qr/^Whole\|two$/m, 'and is sent');

# large values are read one by one, also those that expressions read
sql(q(
UPDATE whole SET note = repeat('x', 100000);
INSERT INTO whole VALUES (2, 'Huge', '9845765242', repeat('y', 3000000)), (3, 'Small', '9845765243', 'z');
));
poll_ok($node, "SELECT message LIKE 'value too long: field \"city\" has 3000000 bytes, at most % are sent' FROM kapture_failures WHERE relation = 'whole'::regclass", 'a value that is too long is parked, with the field');
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM whole WHERE id = 3", 'others are sent');

# a filter that fails for a row
sql(q(
CREATE TABLE filtered (id int PRIMARY KEY, customer_name text, phone text, age text);
SELECT kapture_attach('filtered', filter => 'age::int > 17');
INSERT INTO filtered VALUES (1, 'Unknown age', '9845765244', 'x'), (2, 'Adult', '9845765245', '18'), (3, 'Child', '9845765246', '17');
));
poll_ok($node, q(SELECT message = 'filter: invalid input syntax for type integer: "x"' FROM kapture_failures WHERE relation = 'filtered'::regclass), 'a row for which the filter fails is parked, with the error');
poll_ok($node, "SELECT string_agg(id::text, ' ') = '2' FROM filtered WHERE kapture_customer_id IS NOT NULL", 'others are sent, as the filter has it');
sql("UPDATE filtered SET age = '30' WHERE id = 1");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM filtered WHERE id = 1", 'and this one when it is put right');

# ids that the extension keeps
sql(q(
SELECT kapture_detach(relation) FROM kapture_status;
CREATE TABLE untouched (id int PRIMARY KEY, customer_name text, phone text, updates int DEFAULT 0);
CREATE FUNCTION count_updates() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updates := OLD.updates + 1; RETURN NEW; END';
CREATE TRIGGER t BEFORE UPDATE ON untouched FOR EACH ROW EXECUTE FUNCTION count_updates();
INSERT INTO untouched VALUES (1, 'Uma', '9845765261'), (2, 'Vani', '9845765262');
SELECT kapture_attach('untouched', id_column => NULL);
CALL kapture_backfill('untouched');
));
idle_ok('a table without a column for ids');
is(sql("SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'untouched'::regclass AND attnum > 0"), 'id customer_name phone updates', 'gets none');
is(sql("SELECT sum(updates) FROM untouched"), 0, 'and no row of it is updated');
my %ids = map { $_->{customer_name} => $_->{kapture_customer_id} } @{ emulator_get($emulator, 'customers') };
is(sql("SELECT kapture_id('untouched', '1')"), $ids{Uma}, 'kapture_id tells the id');
is(sql("SELECT kapture_id('untouched', 1), kapture_id('untouched', id) FROM untouched WHERE id = 1"), "$ids{Uma}|$ids{Uma}", 'also of a key that is a number');
is(sql("SELECT kapture_id('untouched', '3') IS NULL"), 't', 'NULL: no such row');
$updates = requests('update');
my $adds = requests('add');
sql("UPDATE untouched SET customer_name = 'Uma Devi' WHERE id = 1; UPDATE untouched SET id = 20 WHERE id = 2");
idle_ok('changes, also of the key');
sql("UPDATE untouched SET customer_name = 'Vani Devi' WHERE id = 20");
idle_ok('and of what has another key now');
is(requests('update') - $updates . ' ' . (requests('add') - $adds), '2 0', 'are Updates');
is(sql("SELECT kapture_id('untouched', '20')"), $ids{Vani}, 'an id follows its row');
sql("CALL kapture_backfill('untouched')");
idle_ok('a backfill');
is(requests('update') - $updates . ' ' . (requests('add') - $adds), '2 0', 'sends nothing once more');
sql("DELETE FROM untouched WHERE id = 1; INSERT INTO untouched VALUES (1, 'Another', '9845765263')");
idle_ok('another row under the key of one that was deleted');
isnt(sql("SELECT coalesce(kapture_id('untouched', '1'), 0)"), $ids{Uma}, 'is another customer');
is(requests('add') - $adds, 1, 'which is added');

# values of a row outside are not read, however long they are
sql(q(
CREATE TABLE outsized (id int PRIMARY KEY, customer_name text, phone text, city text, active boolean);
SELECT kapture_attach('outsized', filter => 'active');
INSERT INTO outsized VALUES (1, 'Huge', '9845765275', repeat('y', 3000000), false);
));
idle_ok('a row outside with a value that is too long');
is(sql("SELECT action, (SELECT parked FROM kapture_status WHERE relation = 'outsized'::regclass) FROM kapture_history WHERE relation = 'outsized'::regclass"), 'left|0', 'is no trouble');

# a row outside that has got the id of another customer: nothing of it was sent to that one, so it has not left it
emulator_post($emulator, 'seed', [ { kapture_customer_id => 4711, customer_name => 'Other', phone => '9845765270' } ]);
sql(q(
CREATE TABLE mistaken (id int PRIMARY KEY, customer_name text, phone text, city text, active boolean DEFAULT true);
SELECT kapture_attach('mistaken', filter => 'active', on_leave => '{"campaign_name": "left"}');
INSERT INTO mistaken VALUES (1, 'Own', '9845765271');
));
idle_ok('a row is sent');
sql("SET kapture_sync.capture = off; UPDATE mistaken SET active = false, kapture_customer_id = 4711");
sql("UPDATE mistaken SET city = 'Hubli'");
idle_ok('it gets another id, and leaves, which nobody is told');
like(customers(qw(customer_name campaign_name)), qr/^Other\|$/m, 'its new customer hears nothing of that');

# a value of an enumerated type that is renamed
sql(q(
CREATE TYPE account_status AS ENUM ('active', 'blocked');
CREATE TABLE accounts (id int PRIMARY KEY, customer_name text, phone text, status account_status, parent int);
SELECT kapture_attach('accounts', filter => 'status = ''active''', columns => $${"customer_name": "customer_name", "phone": "phone",
	"zone": {"expression": "CASE WHEN status = ANY ('{active,blocked}') THEN 'known' END"}}$$, id_column => NULL);
SELECT kapture_follow('accounts', 'accounts', $$target.parent = source.id AND source.status = 'active'$$);
ALTER TYPE account_status RENAME VALUE 'active' TO 'enabled';
));
is(sql("SELECT filter, columns -> 'zone' ->> 'expression' ~ '{enabled,blocked}', follows -> 0 ->> 'condition' FROM kapture_attachments WHERE relation = 'accounts'::regclass"),
	"(status = 'enabled'::public.account_status)|t|((target.parent = source.id) AND (source.status = 'enabled'::public.account_status))", 'filter, expressions and conditions have the new name');
restart_worker($node, 'a worker that has parsed nothing yet');
sql("INSERT INTO accounts VALUES (1, 'Enabled', '9845765281', 'enabled', NULL), (2, 'Blocked', '9845765282', 'blocked', NULL), (3, 'Child', '9845765283', 'enabled', 1)");
idle_ok('rows are sent');
like(customers(qw(customer_name zone)), qr/^Enabled\|known$/m, 'as the filter says');
unlike(customers('customer_name'), qr/^Blocked/m, 'by that name');
sql("SELECT kapture_detach('accounts')");

# pulls skip what is computed, and bring nothing that the filter leaves out
sql(q(
SELECT kapture_detach(relation) FROM kapture_status;
CREATE TABLE pulled (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, tel text, mail text, city text);
SELECT kapture_attach('pulled', columns => '{"customer_name": "name", "phone": {"expression": "kapture_phone(tel)"}, "email_id": "mail", "city": "city",
	"zone": {"constant": "z"}}', filter => 'city IS DISTINCT FROM ''Agra''', pull => true);
INSERT INTO pulled (name, tel, mail, city) VALUES ('Here', '+91 98457 65251', NULL, 'Goa');
));
idle_ok('a row that is here is sent');
emulator_post($emulator, 'seed', [ { customer_name => 'There', phone => '9845765252', email_id => 'there@example.com', city => 'Pune' },
	{ customer_name => 'Outside', phone => '9845765253', email_id => 'outside@example.com', city => 'Agra' } ]);
sql("ALTER SERVER kapture OPTIONS (ADD pull_interval '1h', ADD pull_since '2000-01-01')");
poll_ok($node, "SELECT count(*) = 2 FROM pulled WHERE name IN ('Here', 'There')", 'a customer becomes a row');
is(sql("SELECT coalesce(tel, '') || mail FROM pulled WHERE name = 'There'"), 'there@example.com', 'what is computed is not written');
poll_ok($node, "SELECT message = 'the customer''s row would be outside of the table''s filter' AND f.state = 'parked' FROM kapture_pull_failures AS f JOIN kapture_customers AS c ON c.id = customer_id WHERE c.name = 'Outside'",
	'one whose row would be outside is parked');
is(sql("SELECT count(*) FROM pulled WHERE name = 'Outside'"), 0, 'and not in the table');
# literals mean what they meant in the session that wrote them, whichever way the database or another session writes dates
sql(q(
SET DateStyle = 'SQL, DMY'; SET IntervalStyle = 'sql_standard'; SET quote_all_identifiers = on;
CREATE TABLE guests (id int PRIMARY KEY, customer_name text, phone text, arrived date, stay interval, seen timestamptz DEFAULT '2026-01-03 20:00+00');
SELECT kapture_attach('guests', columns => '{"customer_name": "customer_name", "phone": "phone", "city": {"expression": "(arrived - date ''02/01/2026'')::text"}}',
	filter => 'arrived >= ''02/01/2026'' AND stay > interval ''-1 2:00:00''');
));
is(sql("SELECT filter FROM kapture_attachments WHERE relation = 'guests'::regclass"),
	"((arrived >= '2026-01-02'::date) AND (stay > '-1 days -02:00:00'::interval))", 'a filter is kept in one form');
sql("ALTER DATABASE postgres SET DateStyle = 'SQL, DMY'; ALTER DATABASE postgres SET IntervalStyle = 'sql_standard'");
$node->restart;
sql("INSERT INTO guests VALUES (1, 'Early', '9845765291', '2026-01-01', '1 day'), (2, 'In time', '9845765292', '2026-01-03', '1 day'), (3, 'Back', '9845765293', '2026-01-03', '-2 days')");
idle_ok('rows are sent');
is(sql("SELECT string_agg(row_key || action, ' ' ORDER BY row_key) FROM kapture_history WHERE relation = 'guests'::regclass"), '1left 2add 3left', 'those of the filter');
like(customers(qw(customer_name city)), qr/^In time\|1$/m, 'with the value of the expression');
sql("UPDATE guests SET arrived = '2026-02-05' WHERE id = 1");
idle_ok('another one');
sql("DELETE FROM kapture_history; SET DateStyle = 'SQL, MDY'; SET TimeZone = 'Asia/Kolkata'; CALL kapture_resync('guests', 'arrived = ''02/05/2026'' AND seen > ''01/04/2026 01:00''', force => true)");
idle_ok('a resync goes by its own session');
is(sql("SELECT string_agg(DISTINCT row_key, ' ') FROM kapture_history WHERE relation = 'guests'::regclass"), '1', 'and finds the rows that it means');
sql("ALTER DATABASE postgres RESET DateStyle; ALTER DATABASE postgres RESET IntervalStyle");

$node->stop;
done_testing();
