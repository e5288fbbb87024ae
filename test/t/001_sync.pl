# The main job: rows reach Kapture by themselves and get their ids back.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator, options => "check_rows 'off'");    # what Kapture says is to be seen
create_customers($node);

my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status";

poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'CREATE EXTENSION starts a worker');

# insert
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone, city) VALUES ('Priya', '9845765226', 'Bangalore')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", 'an inserted row gets its id');
poll_ok($node, $idle, 'nothing is left waiting');
oracle_ok($node, $emulator, 'Kapture has the row');

# update: after the id came, of a mapped and of another column
$node->safe_psql('postgres', "UPDATE customers SET city = 'Mysore'");
poll_ok($node, $idle, 'the update is sent');
oracle_ok($node, $emulator, 'Kapture has the new value');
my $stats = emulator_get($emulator, 'stats');
$node->safe_psql('postgres', "UPDATE customers SET note = 'x'; UPDATE customers SET city = city");
poll_ok($node, $idle, 'nothing waits after an update of no mapped column');
is(emulator_get($emulator, 'customers')->[0]{updates}, 1, 'only the change of a mapped column was sent');

# rollback, savepoint
$node->safe_psql('postgres', qq(
BEGIN;
INSERT INTO customers (customer_name, phone) VALUES ('Rolled back', '9000000001');
ROLLBACK;
BEGIN;
INSERT INTO customers (customer_name, phone) VALUES ('Before savepoint', '9000000002');
SAVEPOINT s;
INSERT INTO customers (customer_name, phone) VALUES ('In savepoint', '9000000003');
ROLLBACK TO s;
INSERT INTO customers (customer_name, phone) VALUES ('After savepoint', '9000000004');
SAVEPOINT t;
INSERT INTO customers (customer_name, phone) VALUES ('Released', '9000000005');
RELEASE t;
COMMIT;
));
poll_ok($node, "SELECT count(kapture_customer_id) = 4 FROM customers", 'committed rows get ids');
oracle_ok($node, $emulator, 'what was rolled back is not sent');

# two-phase commit, committed by another session
$node->safe_psql('postgres', qq(
BEGIN;
INSERT INTO customers (customer_name, phone) VALUES ('Prepared', '9000000006');
PREPARE TRANSACTION 'p';
BEGIN;
INSERT INTO customers (customer_name, phone) VALUES ('Never', '9000000007');
PREPARE TRANSACTION 'q';
));
$node->safe_psql('postgres', "COMMIT PREPARED 'p'");
$node->safe_psql('postgres', "ROLLBACK PREPARED 'q'");
poll_ok($node, "SELECT count(kapture_customer_id) = 5 FROM customers", 'COMMIT PREPARED sends the row');
oracle_ok($node, $emulator, 'ROLLBACK PREPARED does not');

# a transaction that began before others and commits after them
my $session = $node->background_psql('postgres');
$session->query_safe("BEGIN; INSERT INTO customers (customer_name, phone) VALUES ('Late', '9000000008')");
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Early', '9000000009')");
poll_ok($node, "SELECT count(kapture_customer_id) = 6 FROM customers", 'a later transaction is not held up');
$session->query_safe("COMMIT");
$session->quit;
poll_ok($node, "SELECT count(kapture_customer_id) = 7 FROM customers", 'the earlier one is seen when it commits');

# update while the add is in flight: it waits for the id, and the last value wins
hold_adds($node, $emulator);
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone, city) VALUES ('Slow', '9000000010', 'Old')");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status", 'the add is in flight');
$node->safe_psql('postgres', "UPDATE customers SET city = 'New' WHERE phone = '9000000010'");
release_adds($node, $emulator);
poll_ok($node, $idle, 'add and update are done');
oracle_ok($node, $emulator, 'the update while the add was in flight arrived');

# bulk
$node->safe_psql('postgres', qq(
COPY customers (customer_name, phone) FROM PROGRAM 'seq 0 9999 | awk "{printf \\"Bulk %d\\\\t91%08d\\\\n\\", \\\$1, \\\$1}"';
));
poll_ok($node, "SELECT count(*) = 10008 AND count(kapture_customer_id) = 10008 AND count(DISTINCT kapture_customer_id) = 10008 FROM customers",
	'10,000 rows copied get their ids');
poll_ok($node, $idle, 'and nothing is left');
oracle_ok($node, $emulator, 'nothing is missing, nothing came twice');
$stats = emulator_get($emulator, 'stats');
is($stats->{adds}, 10008, 'each customer was added once');
is($stats->{duplicate_refusals}, 0, 'and none was offered twice');
poll_ok($node, "SELECT n_tup_upd >= 10000 FROM pg_stat_user_tables WHERE relname = 'customers'", 'what the worker writes is counted, so that autovacuum comes');

# the queue's tables are vacuumed by the worker, whatever autovacuum does
my $more = 0;
wait_for(sub {
	$more++;
	$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('More', (9200000000 + $more)::text)");
	return $node->safe_psql('postgres', "SELECT vacuum_count > 0 FROM pg_stat_user_tables WHERE relname = 'kapture_delivery'") eq 't';
}, 'the worker to vacuum');
poll_ok($node, $idle, 'and goes on sending');

# a refused row is visible with Kapture's message and goes when it is fixed
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Bad phone', '123')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE message LIKE 'Invalid phone number%' AND http_status = 400 AND request LIKE '%Bad phone%'",
	'a refused row is visible with the message of Kapture');
$node->safe_psql('postgres', "UPDATE customers SET phone = '9300000001' WHERE phone = '123'");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE phone = '9300000001'", 'it goes when it is fixed');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_failures"), '0', 'and is a failure no more');

# delete: pending changes are cancelled
$node->safe_psql('postgres', "SELECT kapture_pause('customers')");
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Short lived', '9300000002')");
$node->safe_psql('postgres', "DELETE FROM customers WHERE phone = '9300000002'");
$node->safe_psql('postgres', "SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'the deletion is dealt with');
oracle_ok($node, $emulator, 'a row deleted before it was sent is not sent');

# the server goes away and comes back
my $port = $emulator->{port};
my $before = emulator_get($emulator, 'customers');
stop_emulator($emulator);
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) SELECT 'Offline ' || i, (9400000000 + i)::text FROM generate_series(1, 50) i");
poll_ok($node, "SELECT count(*) > 0 FROM kapture_failures WHERE message LIKE '%onnect%'", 'an unplugged server is visible as a failure');
# what it knew has to be there before it is sent anything: else it gives ids away twice
$node->safe_psql('postgres', "SELECT kapture_pause('customers')");
poll_ok($node, "SELECT in_flight = 0 AND state = 'paused' FROM kapture_status", 'nothing is being sent');
$emulator = start_emulator('--port', $port);
emulator_post($emulator, 'seed', [ map { my %c = %$_; \%c } @$before ]);
$node->safe_psql('postgres', "SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'its rows are sent when it is back');
poll_ok($node, $idle, 'and nothing is left');
oracle_ok($node, $emulator, 'nothing was lost');

# restart in the middle of a drain
emulator_faults($emulator, { api => 'add', action => 'delay', ms => 20 });
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) SELECT 'Restart ' || i, (9500000000 + i)::text FROM generate_series(1, 2000) i");
poll_ok($node, "SELECT count(*) > 100 FROM customers WHERE phone LIKE '95%' AND kapture_customer_id IS NOT NULL", 'the drain is under way');
$node->restart;
poll_ok($node, "SELECT count(*) > 300 FROM customers WHERE phone LIKE '95%' AND kapture_customer_id IS NOT NULL", 'and goes on after a restart');
$node->stop('immediate');
$node->start;
emulator_faults($emulator);
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'and after a crash, to its end');
poll_ok($node, $idle, 'nothing is left');
oracle_ok($node, $emulator, 'nothing is missing, nothing is there twice');

# a table that was paused is paused, though somebody has it locked when the worker looks
$node->safe_psql('postgres', "CREATE TABLE beside (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('beside')");
my $worker = $node->safe_psql('postgres', "SELECT kapture_worker_pid()");
my $locker = $node->background_psql('postgres');
kill 'STOP', $worker;
$node->safe_psql('postgres', "SELECT kapture_pause('customers')");
$locker->query_safe("BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE; INSERT INTO customers (customer_name, phone) VALUES ('Not now', '9300000003')");
kill 'CONT', $worker;
$node->safe_psql('postgres', "INSERT INTO beside VALUES (1, 'Beside', '9300000004')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM beside", 'the worker looks at other tables');
$locker->query_safe("COMMIT");
$locker->quit;
$node->safe_psql('postgres', "INSERT INTO beside VALUES (2, 'Beside', '9300000005')");
poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM beside", 'and at all');
is($node->safe_psql('postgres', "SELECT pending, in_flight, state FROM kapture_status WHERE relation = 'customers'::regclass"), '1|0|paused', 'one that was paused stays so');
is($node->safe_psql('postgres', "SELECT kapture_customer_id FROM customers WHERE phone = '9300000003'"), '', 'and its row waits');
$node->safe_psql('postgres', "SELECT kapture_detach('beside'); DROP TABLE beside; DELETE FROM customers WHERE phone = '9300000003'; SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'which is gone before');

# detach, drop
$node->safe_psql('postgres', "SELECT kapture_detach('customers')");
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Detached', '9600000001')");
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_outbox"), '0', 'a detached table is not captured');
$node->safe_psql('postgres', "DROP EXTENSION kapture_sync CASCADE");
poll_ok($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'kapture_sync worker'", 'DROP EXTENSION ends the worker');
$node->safe_psql('postgres', "CREATE DATABASE other");
$node->safe_psql('other', "CREATE EXTENSION kapture_sync");
poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'another database gets its own', 'other');
$node->safe_psql('postgres', "DROP DATABASE other");
pass('DROP DATABASE is not kept waiting by the worker');

# one session may make the extension, drop it and make it again: what it keeps of the extension's tables is of the last one
$node->safe_psql('postgres', 'CREATE DATABASE anew TEMPLATE template0');
my $make = "CREATE EXTENSION kapture_sync; CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');"
  . " CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM='); SELECT kapture_attach('customers');";
my ($rc, $out, $err) = $node->psql('anew', "CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text); DROP EXTENSION IF EXISTS kapture_sync CASCADE;"
	  . " DROP TABLE IF EXISTS others; $make DROP EXTENSION kapture_sync CASCADE; DROP TABLE IF EXISTS others; $make SELECT count(*) FROM kapture_attachments", on_error_stop => 1);
like($out, qr/^1$/m, 'a session that made the extension anew attaches a table') or diag($err);
$node->stop;

done_testing();
