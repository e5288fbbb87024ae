# Tables of many shapes, to the end: what Kapture gets, and where its id goes;
# and tables that change while their rows wait.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
my $idle = "SELECT sum(pending + in_flight + retrying + parked) = 0 FROM kapture_status";
setup_sync($node, $emulator);

sub sql { return $node->safe_psql('postgres', @_) }

# The body of the last request for a customer.
sub sent
{
	my ($phone) = @_;
	my @requests = grep { ($_->{body} // '') =~ /"$phone"/ && $_->{api} =~ /add|update/ } @{ emulator_get($emulator, 'log') };
	return @requests ? decode_json($requests[-1]{body}) : {};
}

# Kapture's id of who has that phone.
sub id_of
{
	my ($phone) = @_;
	my @customers = grep { ($_->{phone} // '') eq $phone } @{ emulator_get($emulator, 'customers') };
	return @customers == 1 ? $customers[0]{kapture_customer_id} : scalar(@customers) . ' customers';
}

# keys, names and types of all kinds
sql(qq(
CREATE SCHEMA "Sales, ""X""";
CREATE TABLE "Sales, ""X"""."Key Accounts" ("A a" uuid, "b""b" text, "Name" text, "Mobile" text, PRIMARY KEY ("b""b", "A a"));
SELECT kapture_attach('"Sales, ""X"""."Key Accounts"', '{"customer_name": "Name", "phone": "Mobile"}');
INSERT INTO "Sales, ""X"""."Key Accounts" VALUES ('00000000-0000-0000-0000-000000000001', 'it''s {"b"}, NULL', 'Quoted', '9000000001');
CREATE TABLE by_text (id text PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('by_text');
INSERT INTO by_text VALUES ('', 'Empty key', '9000000002'), ('नमस्ते \\', 'नाम', '9000000003');
CREATE TABLE by_time (id timestamptz PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('by_time');
SET timezone = 'Asia/Kolkata';
INSERT INTO by_time VALUES ('2021-03-14 10:00:00.123456', 'By time', '9000000004');
CREATE TYPE grade AS ENUM ('gold', 'silver');
CREATE DOMAIN mobile AS text CHECK (value ~ '^[0-9]*\$');
CREATE TABLE typed (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, first text, last text,
  full_name text GENERATED ALWAYS AS (first || ' ' || last) STORED, phone mobile, level grade, tags text[],
  credit numeric(10, 2), born date, active boolean);
SELECT kapture_attach('typed', '{"customer_name": "full_name", "phone": "phone", "level": "level", "tags": "tags",
  "credit": "credit", "born": "born", "active": "active"}');
SET datestyle = 'German';
INSERT INTO typed (first, last, phone, level, tags, credit, born, active) VALUES ('Asha', 'Rao', '9000000005', 'gold', '{a,b}', 1.5, '14.03.2000', true);
CREATE TABLE parent (id int PRIMARY KEY, customer_name text, phone text);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
SELECT kapture_attach('child');
INSERT INTO child VALUES (1, 'Inherits', '9000000006');
));
poll_ok($node, $idle, 'rows of all shapes are sent');
is(sql('SELECT kapture_customer_id FROM "Sales, ""X"""."Key Accounts"'), id_of('9000000001'), 'quoted names and a composite key');
is(sql("SELECT kapture_customer_id FROM by_text WHERE id = ''"), id_of('9000000002'), 'an empty key');
is(sql("SELECT kapture_customer_id FROM by_text WHERE id <> ''"), id_of('9000000003'), 'a key in another script');
is(sql("SELECT kapture_customer_id FROM by_time"), id_of('9000000004'), 'a point in time as key');
is(sql("SELECT kapture_customer_id FROM typed"), id_of('9000000005'), 'an identity column');
my $body = sent('9000000005');
is_deeply({ map { $_ => $body->{$_} } qw(customer_name level tags credit born active) },
	{ customer_name => 'Asha Rao', level => 'gold', tags => '{a,b}', credit => '1.50', born => '2000-03-14', active => 'true' },
	'generated columns, enums, arrays, numerics, dates and domains are sent as text, whatever the session sets');
is(sql("SELECT kapture_customer_id FROM child"), id_of('9000000006'), 'a table that inherits');

# partitions
sql(qq(
CREATE TABLE parted (id uuid, region text, customer_name text, phone text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_n PARTITION OF parted FOR VALUES IN ('n') PARTITION BY LIST (region);
CREATE TABLE parted_nn PARTITION OF parted_n FOR VALUES IN ('n');
SELECT kapture_attach('parted');
CREATE TABLE late (junk text, region text NOT NULL, phone text, id uuid NOT NULL, customer_name text, kapture_customer_id bigint, PRIMARY KEY (id, region));
ALTER TABLE late DROP COLUMN junk;
INSERT INTO late (region, phone, id, customer_name) VALUES ('s', '9100000001', '00000000-0000-0000-0000-00000000000a', 'Was there');
ALTER TABLE parted ATTACH PARTITION late FOR VALUES IN ('s');
INSERT INTO late (region, phone, id, customer_name) VALUES ('s', '9100000002', '00000000-0000-0000-0000-00000000000b', 'Came then');
INSERT INTO parted VALUES ('00000000-0000-0000-0000-00000000000c', 'n', 'Moves', '9100000003');
));
poll_ok($node, $idle, 'rows of partitions are sent');
is(sql("SELECT kapture_customer_id FROM late WHERE phone = '9100000002'"), id_of('9100000002'), 'of one that was attached later and has its columns in another order, too');
is(sql("SELECT count(*) FROM parted WHERE kapture_customer_id IS NULL"), '1', 'but not what was in it before');
sql("CALL kapture_backfill('parted')");
poll_ok($node, $idle, 'which a backfill sends');
is(sql("SELECT kapture_customer_id FROM late WHERE phone = '9100000001'"), id_of('9100000001'), 'once');
emulator_faults($emulator, { api => 'update', action => 'delay', ms => 300 });
sql("UPDATE parted SET customer_name = 'Moving' WHERE phone = '9100000003'");
sql("UPDATE parted SET region = 's', customer_name = 'Moved' WHERE phone = '9100000003'");
poll_ok($node, $idle, 'a row moves while it is being sent');
emulator_faults($emulator);
is(sent(id_of('9100000003'))->{customer_name}, 'Moved', 'and Kapture has its last state');
sql("SELECT kapture_pause('parted')");
sql("UPDATE parted SET customer_name = 'Leaves' WHERE phone = '9100000002'");
sql("ALTER TABLE parted DETACH PARTITION late");
sql("UPDATE late SET customer_name = 'Left' WHERE phone = '9100000002'");
sql("SELECT kapture_resume('parted')");
poll_ok($node, $idle, 'a partition leaves while rows of it wait');
is(sql("SELECT action FROM kapture_history WHERE row_key LIKE '%b,s}' ORDER BY finished_at DESC LIMIT 1"), 'gone', 'they are gone from the attached table');

# names that change while rows wait
create_customers($node);
sql("SELECT kapture_pause('customers')");
sql(qq(
INSERT INTO customers (customer_name, phone) VALUES ('Renamed', '9200000001');
ALTER TABLE customers RENAME COLUMN kapture_customer_id TO "CRM id";
ALTER TABLE customers RENAME COLUMN phone TO "Mobile";
ALTER TABLE customers RENAME COLUMN id TO nr;
ALTER TABLE customers ADD COLUMN phone text, ADD COLUMN kapture_customer_id bigint;
CREATE SCHEMA elsewhere;
ALTER TABLE customers SET SCHEMA elsewhere;
ALTER TABLE elsewhere.customers RENAME TO "Kunden";
INSERT INTO elsewhere."Kunden" (customer_name, "Mobile", phone) VALUES ('Anew', '9200000002', 'not this');
BEGIN;
ALTER TABLE elsewhere."Kunden" RENAME COLUMN "CRM id" TO forgotten;
ROLLBACK;
SELECT kapture_resume('elsewhere."Kunden"');
));
poll_ok($node, $idle, 'table, schema, key, mapped column and the column of ids were renamed');
is(sql('SELECT string_agg("CRM id"::text, \' \' ORDER BY nr), count(kapture_customer_id) FROM elsewhere."Kunden"'),
	id_of('9200000001') . ' ' . id_of('9200000002') . '|0', 'ids are where the column of ids went');
my $adds = emulator_get($emulator, 'stats')->{adds};
sql('UPDATE elsewhere."Kunden" SET city = \'Pune\'');
poll_ok($node, $idle, 'later changes are sent');
is(emulator_get($emulator, 'stats')->{adds}, $adds, 'as updates');
is(scalar(grep { ($_->{city} // '') eq 'Pune' } @{ emulator_get($emulator, 'customers') }), 2, 'of the same customers');
sql('ALTER TABLE parent RENAME COLUMN phone TO mobile; UPDATE child SET mobile = \'9000000066\'');
poll_ok($node, $idle, 'a column renamed in the table it is inherited from');
is(sql("SELECT kapture_customer_id FROM child"), id_of('9000000066'), 'is followed');
sql('ALTER TABLE elsewhere."Kunden" DROP CONSTRAINT customers_pkey; INSERT INTO elsewhere."Kunden" (customer_name, "Mobile") VALUES (\'No key\', \'9200000003\')');
poll_ok($node, $idle, 'a renamed key that is no more the primary one');
is(sql('SELECT "CRM id" FROM elsewhere."Kunden" WHERE "Mobile" = \'9200000003\''), id_of('9200000003'), 'still finds its rows');

# the column of ids is dropped
my $pid = sql("SELECT kapture_worker_pid()");
sql('ALTER TABLE elsewhere."Kunden" DROP COLUMN "CRM id"');
sql('INSERT INTO elsewhere."Kunden" (customer_name, "Mobile") VALUES (\'Homeless\', \'9200000004\')');
my $kunden = 'FROM kapture_status WHERE relation = \'elsewhere."Kunden"\'::regclass';
poll_ok($node, "SELECT state = 'misconfigured' AND last_error = 'table \"Kunden\" has no column \"CRM id\" any more, which receives the Kapture customer ids' $kunden",
	'without the column of ids, the status says so');
is(sql("SELECT pending, parked $kunden"), '1|0', 'rows wait');
ok($node->log_contains(qr/LOG:  kapture_sync sends no rows of database "postgres": table "Kunden" has no column "CRM id"/), 'and so does the log');
sql("INSERT INTO by_text VALUES ('other', 'Another table', '9200000005')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM by_text WHERE id = 'other'", 'other tables go on');
foreach my $call ('SELECT kapture_preview(\'elsewhere."Kunden"\', \'1\')', 'CALL kapture_backfill(\'elsewhere."Kunden"\')')
{
	my ($rc, $out, $err) = $node->psql('postgres', $call);
	like($err, qr/has no column "CRM id" any more/, "$call says so, too");
}
is(sql("SELECT kapture_worker_pid()"), $pid, 'the worker has not ended');
sql('ALTER TABLE elsewhere."Kunden" ADD COLUMN "CRM id" bigint');
poll_ok($node, $idle, 'with the column, it goes on');
is(sql('SELECT "CRM id" FROM elsewhere."Kunden" WHERE "Mobile" = \'9200000004\''), id_of('9200000004'), 'and the id is in it');
sql('CALL kapture_backfill(\'elsewhere."Kunden"\')');
poll_ok($node, $idle, 'a backfill finds the other ids again');
is(sql('SELECT string_agg("CRM id"::text, \' \' ORDER BY nr) FROM elsewhere."Kunden"'),
	join(' ', map { id_of("920000000$_") } 1 .. 4), 'as Kapture knows the customers');

# the key is dropped, column and all
sql('ALTER TABLE elsewhere."Kunden" DROP COLUMN nr');
poll_ok($node, "SELECT state = 'misconfigured' AND last_error LIKE 'table \"Kunden\" has no primary key%' $kunden", 'without its key, the status says so');
my ($rc, $out, $err) = $node->psql('postgres', 'UPDATE elsewhere."Kunden" SET city = \'Agra\'');
is($rc, 0, 'the table can be written');
like($err, qr/WARNING:  changes of table "Kunden" are not sent to Kapture/, 'with a warning');
sql('ALTER TABLE elsewhere."Kunden" ADD COLUMN nr int GENERATED ALWAYS AS IDENTITY PRIMARY KEY; UPDATE elsewhere."Kunden" SET city = \'Goa\'');
poll_ok($node, "SELECT state = 'running' $kunden", 'with a new key, it goes on');
poll_ok($node, $idle, 'to the end');
is(sql("SELECT kapture_worker_pid()"), $pid, 'the worker has served all of it');

$node->stop;
done_testing();
