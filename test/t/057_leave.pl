# What is sent of rows that are deleted: on_delete.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('leave');
setup_sync($node, $emulator);

shorthand($node, $emulator, qw(sql));

sub error
{
	my ($query) = @_;
	my (undef, undef, $stderr) = $node->psql('postgres', $query);
	return $stderr;
}

# bodies of the Updates so far that have this text
sub updates
{
	my ($text) = @_;
	return grep { /\Q$text\E/ } map { $_->{body} } grep { $_->{api} eq 'update' } @{ emulator_get($emulator, 'log') };
}
sub campaign
{
	my ($id) = @_;
	my ($customer) = grep { $_->{kapture_customer_id} eq $id } @{ emulator_get($emulator, 'customers') };
	return $customer->{campaign_name} // '';
}

sub idle_ok
{
	my ($name) = @_;
	return poll_ok($node, "SELECT sum(pending + in_flight + retrying + parked) = 0 FROM kapture_status", $name);
}

# the newest entry of a row's history
sub history
{
	my ($key) = @_;
	return sql("SELECT concat_ws(' ', action, customer_id, http_status) FROM kapture_history WHERE row_key = '$key' ORDER BY finished_at DESC LIMIT 1");
}
sub orphans { return sql("SELECT string_agg(concat_ws(' ', relation, row_key, reason), ', ' ORDER BY row_key) FROM kapture_orphans WHERE kapture_customer_id = $_[0]") }

my $number = 0;

# Inserts a row into a table; returns its id, once it has one.
sub customer
{
	my ($table, $name) = @_;
	my $phone = 9810000000 + ++$number;
	sql("INSERT INTO $table (customer_name, phone) VALUES ('$name', '$phone')");
	poll_ok($node, "SELECT kapture_id('$table', id::text) IS NOT NULL FROM $table WHERE customer_name = '$name'", "$name has a customer");
	return sql("SELECT kapture_id('$table', id::text) FROM $table WHERE customer_name = '$name'");
}

create_customers($node, attach => q(, on_delete => '{"campaign_name": "deleted"}'));
is(sql("SELECT on_delete FROM kapture_attachments"), '{"campaign_name": "deleted"}', 'kapture_attachments shows the constants');

# a plain deletion
my $id = customer('customers', 'Plain');
sql("BEGIN; DELETE FROM customers; ROLLBACK");
sql("UPDATE customers SET city = 'Pune'");
idle_ok('a deletion that was rolled back');
is(campaign($id), '', 'is not reported');
sql("SELECT kapture_pause('customers'); DELETE FROM customers");
is(sql("SELECT waiting, api, body FROM kapture_preview('customers', 1)"), qq(t|update|{"kapture_customer_id": "$id", "campaign_name": "deleted"}),
	'kapture_preview shows what would be sent for the deleted row');
sql("SELECT kapture_resume('customers')");
idle_ok('a deletion is reported');
is(campaign($id), 'deleted', 'by the constants');
is(scalar updates('deleted'), 1, 'once');
is(history(1), "gone $id 200", 'the history names the customer');
is(sql("SELECT count(*) FROM kapture_history WHERE row_key = '1' AND action = 'gone'"), '1', 'once');
is(orphans($id), 'customers 1 deleted', 'who is an orphan');
is(sql("SELECT count(*) FROM kapture_row WHERE customer_id = $id"), '1', 'with one entry');
is(sql("SELECT waiting FROM kapture_preview('customers', 1)"), 'f', 'nothing waits for it any more');

# a row without a customer, and one whose id nobody knows of but the row
sql("INSERT INTO customers (customer_name, phone) VALUES ('Refused', '12')");
poll_ok($node, "SELECT parked = 1 FROM kapture_status", 'a row is refused');
sql("DELETE FROM customers");
idle_ok('a row without a customer is deleted');
is(history(2), 'gone', 'which is only recorded');
emulator_post($emulator, 'seed', [ map { { kapture_customer_id => $_, customer_name => "Seed $_", phone => 9820000000 + $_ } } 701 .. 706 ]);
sql("SET kapture_sync.capture = off; INSERT INTO customers (customer_name, kapture_customer_id) SELECT 'Imported', g FROM generate_series(701, 703) AS g");
is(sql("SELECT count(*) FROM kapture_row WHERE customer_id > 700 AND customer_id < 800"), '0', 'rows that were never sent');
sql("DELETE FROM customers WHERE kapture_customer_id IN (701, 702)");
idle_ok('are deleted');
is(join(' ', map { campaign($_) } 701 .. 703), 'deleted deleted ', 'their customers get the constants');
like(orphans(702), qr/^customers \d+ deleted$/, 'and are orphans');
is(sql("SELECT count(*) FROM kapture_outbox WHERE customer_ids IS NOT NULL"), '0', 'nothing is left in the outbox');
sql("UPDATE customers SET kapture_customer_id = NULL");
sql("DELETE FROM customers");
idle_ok('a row that has lost its id is deleted');
is(campaign(703), '', 'which its customer does not get to know');

# a column for ids that has got another type since
foreach my $type (qw(integer text numeric))
{
	sql("ALTER TABLE customers ALTER COLUMN kapture_customer_id TYPE $type USING kapture_customer_id::$type");
	$id = customer('customers', "As $type");
	sql("DELETE FROM customers WHERE customer_name = 'As $type'");
	idle_ok("a row is deleted whose id is of type $type");
	is(campaign($id), 'deleted', 'its customer gets the constants');
}
# with a value that is no id, what the extension knows of the row counts
sql("ALTER TABLE customers ALTER COLUMN kapture_customer_id TYPE text");
foreach my $value ('none', '', '-5', '99999999999999999999', '5 or 6')
{
	$id = customer('customers', "Has $value");
	sql("UPDATE customers SET kapture_customer_id = '$value' WHERE customer_name = 'Has $value'");
	idle_ok("a row gets the id \"$value\"");
	sql("DELETE FROM customers WHERE customer_name = 'Has $value'");
	idle_ok('and is deleted');
	unlike(join(' ', map { $_->{kapture_customer_id} } grep { ($_->{campaign_name} // '') eq 'deleted' } @{ emulator_get($emulator, 'customers') }), qr/\b[56]\b/, 'no other customer gets the constants');
}
sql("ALTER TABLE customers ALTER COLUMN kapture_customer_id TYPE bigint USING NULL");

# of two rows that are deleted together, one waits to be sent, the other one does not
my @pair = map { customer('customers', $_) } 'Waits', 'Rests';
emulator_faults($emulator, { api => 'update', action => 'status', code => 400, body => '{"message": "Invalid city", "status": "failed"}', match => 'Wakad' });
sql("UPDATE customers SET city = 'Wakad' WHERE customer_name = 'Waits'");
poll_ok($node, "SELECT parked = 1 FROM kapture_status", 'an Update is refused');
emulator_faults($emulator);
sql("DELETE FROM customers");
idle_ok('its row is deleted together with another one');
is(join(' ', map { campaign($_) } @pair), 'deleted deleted', 'both of which is reported');

# while something is under way for the row
sub held_ok
{
	my ($n, $name) = @_;
	return wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} == $n }, $name);
}
sql("ALTER SERVER kapture OPTIONS (SET timeout '1h')");
$id = customer('customers', 'Updated');
emulator_faults($emulator, { api => 'update', action => 'hold', match => 'Surat' });
sql("UPDATE customers SET city = 'Surat'");
held_ok(1, 'an Update in flight');
my $key = sql("SELECT id FROM customers");
sql("DELETE FROM customers");
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
idle_ok('a row is deleted during an Update');
is(join(' ', campaign($id), history($key)), "deleted gone $id 200", 'which is reported after it');
is(sql("SELECT count(*) FROM kapture_row WHERE customer_id = $id"), '1', 'its entry is one');
emulator_faults($emulator, { api => 'add', action => 'hold' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Added', '9830000001')");
held_ok(1, 'an Add in flight');
$key = sql("SELECT id FROM customers");
sql("DELETE FROM customers");
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
idle_ok('a row is deleted during its Add');
($id) = map { $_->{kapture_customer_id} } grep { ($_->{phone} // '') eq '9830000001' } @{ emulator_get($emulator, 'customers') };
is(join(' ', campaign($id), history($key)), "deleted gone $id 200", 'that is reported, too');
emulator_faults($emulator, { api => 'add', action => 'hold' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Unwritten', '9830000002')");
held_ok(1, 'an Add in flight');
my $locker = $node->background_psql('postgres');
$locker->query_safe("BEGIN; UPDATE customers SET city = 'Surat'");
emulator_faults($emulator, { api => 'update', action => 'status', code => 400, ms => 2000, match => 'Surat', body => '{"message": "No", "status": "failed"}' });
emulator_post($emulator, 'release', {});
poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE customer_id IS NOT NULL AND state = 'retry'", 'the id of a row that is locked is kept');
$locker->query_safe('COMMIT');
$locker->quit;
held_ok(1, 'an Update in flight');
($key, $id) = split /\|/, sql("SELECT id, kapture_customer_id IS NULL FROM customers");
is($id, 't', 'while the row has none yet');
sql("DELETE FROM customers");
idle_ok('a row is deleted during an Update that is refused');
($id) = map { $_->{kapture_customer_id} } grep { ($_->{phone} // '') eq '9830000002' } @{ emulator_get($emulator, 'customers') };
is(join(' ', campaign($id), history($key)), "deleted gone $id 200", 'which is reported, as the customer was its own');
emulator_faults($emulator);
my $holder = customer('customers', 'Holder');
$id = customer('customers', 'Taker');
$key = sql("SELECT id FROM customers WHERE customer_name = 'Taker'");
emulator_faults($emulator, { api => 'get', action => 'hold' });
sql("UPDATE customers SET phone = (SELECT phone FROM customers WHERE customer_name = 'Holder') WHERE id = $key");
held_ok(1, 'a search for whom an Update was refused');
sql("DELETE FROM customers WHERE id = $key");
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
idle_ok('a row is deleted during that search');
is(join(' ', campaign($id), history($key)), "deleted gone $id 200", 'which is reported');
is(campaign($holder), '', 'of this row alone');
sql("DELETE FROM customers");
idle_ok('the other row goes, too');
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");

# what goes wrong with it
$id = customer('customers', 'Failing');
emulator_faults($emulator, { api => 'update', action => 'status', code => 500, count => 1, body => '{}' });
sql("DELETE FROM customers");
idle_ok('a report that failed is sent again');
is(campaign($id) . ' ' . updates(qq("$id")), 'deleted 2', 'until it has arrived');
$id = customer('customers', 'Lost');
emulator_faults($emulator, { api => 'update', action => 'drop_after', count => 1 });
sql("DELETE FROM customers");
idle_ok('so is one whose answer was lost');
is(campaign($id) . ' ' . updates(qq("$id")), 'deleted 2', 'as an Update is');
$id = customer('customers', 'Refused');
$key = sql("SELECT id FROM customers");
emulator_faults($emulator, { api => 'update', action => 'status', code => 400, body => '{"message": "No", "status": "failed"}' });
sql("DELETE FROM customers");
poll_ok($node, "SELECT state = 'parked' AND api = 'update' AND message = 'No' AND row_key = '$key' FROM kapture_failures", 'one that Kapture refuses is parked');
emulator_faults($emulator);
sql("SELECT kapture_retry('customers', $key)");
idle_ok('and sent by kapture_retry');
is(campaign($id), 'deleted', 'then');
$id = customer('customers', 'Killed');
sql("ALTER SERVER kapture OPTIONS (SET timeout '1s')");
emulator_faults($emulator, { api => 'update', action => 'hold', count => 1 });
sql("DELETE FROM customers");
held_ok(1, 'a report in flight');
restart_worker($node, 'the worker is ended meanwhile');
emulator_post($emulator, 'release', {});
idle_ok('the next one sends the report');
is(campaign($id) . ' ' . updates(qq("$id")), 'deleted 2', 'once more');
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");

# a customer whom another row has
emulator_faults($emulator);
$id = customer('customers', 'First');
sql("INSERT INTO customers (customer_name, phone) SELECT 'Second', phone FROM customers");
poll_ok($node, "SELECT state = 'parked' FROM kapture_failures", 'a row waits for the customer of another one');
sql("DELETE FROM customers WHERE customer_name = 'First'");
poll_ok($node, "SELECT kapture_customer_id = $id FROM customers", 'which takes it over when that is deleted');
idle_ok('and that is all');
is(campaign($id), '', 'the deletion is not reported, as the customer has a row');
is(sql("SELECT count(*) FROM kapture_history JOIN kapture_row USING (row_key) WHERE kapture_row.customer_id = $id AND gone_at IS NOT NULL AND action = 'gone'"), '1', 'the history has it all the same');
sql("BEGIN; CREATE TABLE archive (LIKE customers INCLUDING ALL); CREATE INDEX ON archive (kapture_customer_id); SELECT kapture_attach('archive'); COMMIT");
sql("WITH moved AS (DELETE FROM customers RETURNING *) INSERT INTO archive OVERRIDING SYSTEM VALUE SELECT * FROM moved");
idle_ok('a row moves to another table with its id');
is(campaign($id) . ' ' . sql("SELECT count(*) FROM kapture_orphans WHERE kapture_customer_id = $id"), ' 0', 'nor is that reported, if its ids have an index');
sql("SELECT kapture_detach('archive'); DROP TABLE archive");
$id = customer('customers', 'Again');
sql("BEGIN; CREATE TEMPORARY TABLE saved AS TABLE customers; DELETE FROM customers; INSERT INTO customers OVERRIDING SYSTEM VALUE TABLE saved; COMMIT");
sql("UPDATE customers SET city = 'Agra'");
idle_ok('a row is deleted and inserted again with its id');
is(campaign($id), '', 'it is still there');
sql("DELETE FROM customers");
idle_ok('until it is deleted');
is(campaign($id), 'deleted', 'which is reported');

$id = customer('customers', 'Restored');
sql("BEGIN; CREATE TEMPORARY TABLE saved AS TABLE customers; DELETE FROM customers; SET LOCAL kapture_sync.capture = off; INSERT INTO customers OVERRIDING SYSTEM VALUE TABLE saved; COMMIT");
idle_ok('a row is deleted and put back by somebody who has that not captured');
is(campaign($id), '', 'it is there, too');
sql("DELETE FROM customers");
idle_ok('until it is deleted');
is(campaign($id), 'deleted', 'which is reported');

# the row that waits for the customer gets another phone first
$id = customer('customers', 'Leaves');
sql("INSERT INTO customers (customer_name, phone) SELECT 'Waits', phone FROM customers");
poll_ok($node, "SELECT state = 'parked' FROM kapture_failures", 'a row waits for a customer');
sql("BEGIN; DELETE FROM customers WHERE customer_name = 'Leaves'; UPDATE customers SET phone = '9835000001' WHERE customer_name = 'Waits'; COMMIT");
idle_ok('which loses its row as the other one gets another phone');
is(campaign($id), 'deleted', 'the deletion is reported after all');
isnt(sql("SELECT kapture_customer_id FROM customers WHERE customer_name = 'Waits'"), $id, 'of a customer that no row has');
sql("DELETE FROM customers");
idle_ok('the other row is deleted, too');

# a new row with the phone of one whose deletion is being reported
$id = customer('customers', 'Before');
my $phone = sql("SELECT phone FROM customers");
sql("ALTER SERVER kapture OPTIONS (SET timeout '1h')");
emulator_faults($emulator, { api => 'update', action => 'hold', match => 'deleted' });
sql("DELETE FROM customers");
held_ok(1, 'a report in flight');
sql("INSERT INTO customers (customer_name, phone, city) VALUES ('After', '$phone', 'Kochi')");
poll_ok($node, "SELECT message = 'the deletion of the row that was Kapture customer $id is being reported' FROM kapture_failures WHERE state = 'retry'",
	'a new row with the same phone waits for that');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
poll_ok($node, "SELECT kapture_customer_id = $id FROM customers", 'and gets the customer then');
idle_ok('nothing waits');
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");
like((grep { /"$id"/ } updates('Kochi'))[-1] // '', qr/"city": "Kochi"/, 'who is sent its values');
is(scalar(grep { /"$id"/ } updates('deleted')), 1, 'after the report');
sql("DELETE FROM customers");
idle_ok('it is deleted, too');

# what is pulled after it
sql("SELECT kapture_alter('customers', pull => true)");
$id = customer('customers', 'Pulled');
sql("DELETE FROM customers");
idle_ok('a row of a table that is pulled into is deleted');
sql("CALL kapture_refresh(now()::date - 1, now()::date + 1)");
is(sql("SELECT count(*) FROM kapture_customers WHERE id = $id"), '1', 'its customer is pulled');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox WHERE state = 'waiting'", 'what was pulled is dealt with');
is(sql("SELECT count(*) FROM customers WHERE kapture_customer_id = $id"), '0', 'the row does not come back');
sql("DELETE FROM customers; SELECT kapture_alter('customers', reset => '{pull}')");
idle_ok('nothing is pulled any more');

# other ways to attach, and to delete
sql(q{CREATE TABLE plain (id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, customer_name text, phone text);
	SELECT kapture_attach('plain', id_column => NULL, replicated => true, on_delete => '{"zone": 5, "campaign_name": "deleted"}')});
$id = customer('plain', 'Elsewhere');
sql("SET session_replication_role = replica; DELETE FROM plain");
idle_ok('a row whose id is not in the table, deleted by a replica');
is(campaign($id), 'deleted', 'is reported');
is((updates(qq("$id")))[0], qq({"kapture_customer_id": "$id", "zone": "5", "campaign_name": "deleted"}), 'with all constants');
$id = customer('plain', 'Moving');
sql("UPDATE plain SET id = DEFAULT");
sql("DELETE FROM plain");
idle_ok('a row with another key is deleted');
is(campaign($id), 'deleted', 'likewise');
sql(q{CREATE TABLE parted (id int, customer_name text, phone text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10); CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
	SELECT kapture_attach('parted', on_delete => '{"campaign_name": "deleted"}');
	INSERT INTO parted VALUES (1, 'One', '9840000001'), (2, 'Two', '9840000002'), (11, 'Eleven', '9840000003')});
poll_ok($node, "SELECT count(kapture_customer_id) = 3 FROM parted", 'rows of partitions');
my ($one, $two, $eleven) = split /\n/, sql("SELECT kapture_customer_id FROM parted ORDER BY id");
sql("UPDATE parted SET id = 12 WHERE id = 2; DELETE FROM parted WHERE id = 1");
idle_ok('one moves, one is deleted');
is(join(' ', map { campaign($_) } $one, $two, $eleven), 'deleted  ', 'that one is reported');

# many
sql("INSERT INTO customers (customer_name, phone) SELECT 'Many', 9850000000 + g FROM generate_series(1, 300) AS g");
poll_ok($node, "SELECT count(kapture_customer_id) = 300 FROM customers", 'many rows');
sql("BEGIN; CREATE TEMPORARY TABLE saved AS TABLE customers; DELETE FROM customers; INSERT INTO customers OVERRIDING SYSTEM VALUE TABLE saved; COMMIT");
idle_ok('are replaced by the same ones');
is(scalar(grep { ($_->{campaign_name} // '') eq 'deleted' && $_->{customer_name} eq 'Many' } @{ emulator_get($emulator, 'customers') }), 0, 'which is no deletion');
sql("DELETE FROM customers");
idle_ok('are deleted');
is(scalar(grep { ($_->{campaign_name} // '') eq 'deleted' && $_->{customer_name} eq 'Many' } @{ emulator_get($emulator, 'customers') }), 300, 'each is reported');

# TRUNCATE
my @ids = map { customer('customers', "Truncated $_") } 1 .. 3;
sql("TRUNCATE customers");
idle_ok('a table is truncated');
is(join(' ', map { orphans($_) =~ /deleted/ ? 1 : 0 } @ids), '1 1 1', 'its customers are orphans');
is(join(' ', map { campaign($_) } @ids), '  ', 'that is not reported');

# kapture_alter
$id = customer('customers', 'Altered');
sql(q{SELECT kapture_alter('customers', on_delete => '{"campaign_name": "no more"}')});
is(sql("SELECT on_delete FROM kapture_attachments WHERE relation = 'customers'::regclass"), '{"campaign_name": "no more"}', 'kapture_alter gives other constants');
sql("DELETE FROM customers");
idle_ok('which are sent');
is(campaign($id), 'no more', 'from then on');
$id = customer('customers', 'Silent');
sql("SELECT kapture_alter('customers', reset => '{on_delete}'); DELETE FROM customers");
idle_ok('or none any more');
is(campaign($id), '', 'and nothing is sent');
like(orphans($id), qr/deleted/, 'the customer is an orphan all the same');
like(error("SELECT kapture_alter('customers', on_delete => '[]')"), qr/ERROR:  argument "on_delete" must be a JSON object of Kapture fields and constants\nHINT:  Give it as/, 'what is no object is refused');
like(error(q{SELECT kapture_alter('customers', on_delete => '{"kapture_customer_id": 5}')}), qr/ERROR: /, 'and so is what is no field');

# a dump has it, with what waits
sql(q{SELECT kapture_alter('customers', on_delete => '{"campaign_name": "restored"}')});
$id = customer('customers', 'Dumped');
sql("SELECT kapture_pause('customers'); DELETE FROM customers; SET kapture_sync.capture = off; INSERT INTO customers (customer_name, kapture_customer_id) VALUES ('Imported', 704)");
sql("DELETE FROM customers");
my $dump = "$PostgreSQL::Test::Utils::tmp_check/leave.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
sql("CREATE DATABASE copy");
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'restored');
is($node->safe_psql('copy', "SELECT on_delete FROM kapture_attachments WHERE relation = 'customers'::regclass"), '{"campaign_name": "restored"}', 'the constants are there');
$node->safe_psql('copy', "SELECT kapture_resume(), kapture_resume('customers')");
poll_ok($node, "SELECT sum(pending + in_flight + retrying + parked) = 0 FROM kapture_status", 'and what waited is sent', 'copy');
is(join(' ', map { campaign($_) } $id, 704), 'restored restored', 'of rows deleted before');

$node->stop;
done_testing();
