# Many changes in one transaction: they share entries of the outbox, and still
# each row is sent once, in order, by bites as small as the connections allow.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status";
sub stats { return emulator_get($emulator, 'stats') }

$node->append_conf('postgresql.conf', "restart_after_crash = on\n");
$node->reload;
setup_sync($node, $emulator, options => "max_connections '2'");
create_customers($node);

# a COPY is a few entries; the worker takes no more than it can send soon
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/copy", join '', map { "Copied $_\t" . (9000000000 + $_) . "\n" } 1 .. 1000);
sql("SELECT kapture_pause('customers')");
sql("COPY customers (customer_name, phone) FROM '$dir/copy'");
is(sql("SELECT pending, exact FROM kapture_status"), '1000|t', 'each row is counted');
cmp_ok(sql("SELECT count(*) FROM kapture_outbox"), '<', 20, 'a thousand rows are a few entries');
like(sql("SELECT * FROM kapture_preview('customers', '500')"), qr/Copied 500/, 'and found');
emulator_faults($emulator, { api => 'add', action => 'hang' });
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT in_flight > 0 FROM kapture_status", 'the worker has begun');
cmp_ok(sql("SELECT count(*) FROM kapture_delivery"), '<', 500, 'and has not taken them all');
is(sql("SELECT sum(1 + coalesce(cardinality(more_keys), 0)) + (SELECT count(*) FROM kapture_delivery) FROM kapture_outbox"), '1000', 'none is lost in between');

kill 'KILL', sql("SELECT kapture_worker_pid()");
poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'the server is back after a crash');
emulator_faults($emulator);
poll_ok($node, $idle, 'all is sent');
oracle_ok($node, $emulator, 'nothing is missing or there twice');
is(stats()->{duplicate_refusals}, 0, 'nor was it offered twice');

# several sessions, savepoints that are rolled back, other changes of the same rows
sql("ALTER SERVER kapture OPTIONS (SET max_connections '32')");
sql("UPDATE customers SET city = 'Pune' WHERE id <= 500");
my @sessions = map {
	my $from = 2000 * $_;
	append_to_file("$dir/load$_", join '', "BEGIN;\n",
		"COPY customers (customer_name, phone) FROM STDIN;\n", (map { "Bulk $_\t" . (8000000000 + $_) . "\n" } $from + 1 .. $from + 1000), "\\.\n",
		"SAVEPOINT s;\n",
		"COPY customers (customer_name, phone) FROM STDIN;\n", (map { "Never $_\t" . (7000000000 + $_) . "\n" } $from + 1 .. $from + 1000), "\\.\n",
		"ROLLBACK TO s;\n",
		"UPDATE customers SET city = 'Mysore' WHERE customer_name LIKE 'Bulk%' AND id % 3 = 0;\n",
		"INSERT INTO customers (customer_name, phone) SELECT 'More ' || i, (6000000000 + i)::text FROM generate_series($from + 1, $from + 1000) i;\n",
		"UPDATE customers SET id = DEFAULT WHERE customer_name LIKE 'More%' AND id % 10 = 0;\n",
		"DELETE FROM customers WHERE customer_name LIKE 'More%' AND id % 10 = 1;\n",
		"COMMIT;\n");
	IPC::Run::start([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$dir/load$_" ])
} 1 .. 3;
ok($_->finish, 'a session has written') foreach @sessions;
poll_ok($node, $idle, 'what they wrote is sent');
is(sql("SELECT count(*) FROM customers WHERE kapture_customer_id IS NULL"), '0', 'each row has its id');
oracle_ok($node, $emulator, 'each once');
is(stats()->{duplicate_refusals}, 0, 'and was not offered twice');

# while somebody holds an old snapshot
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM customers");
sql("UPDATE customers SET city = 'Delhi $_'") foreach 1 .. 3;
poll_ok($node, $idle, 'an old snapshot is in nobody\'s way');
oracle_ok($node, $emulator, 'all is sent');
# what is dead, but cannot be removed yet, is read once by each worker, not for each row
sub single
{
	my ($phone) = @_;
	sql("INSERT INTO customers (customer_name, phone) VALUES ('Single', '$phone')");
	return poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE phone = '$phone'", 'a row is sent meanwhile');
}
# entries of the outbox, and of what is known of rows, that workers have read by now; they report the last of it when they end
sub entries_read
{
	restart_worker($node);
	return split /\|/, sql("SELECT sum(idx_tup_read) FILTER (WHERE indexrelname = 'kapture_outbox_scan'), sum(idx_tup_read) FILTER (WHERE relname = 'kapture_row') FROM pg_stat_user_indexes");
}
sql("DO \$\$ BEGIN FOR i IN 1 .. 1000 LOOP UPDATE customers SET city = 'City ' || i WHERE id = 1; COMMIT; END LOOP; END \$\$");
poll_ok($node, $idle, 'a thousand transactions');
my ($before, $known_before) = entries_read();
cmp_ok($before, '>=', 1000, 'their changes are read by the index');
cmp_ok(sql("SELECT count(*) FROM kapture_row"), '>=', 1000, 'many rows are known');
single("96000000$_") foreach 10 .. 49;
my ($after, $known_after) = entries_read();
note("entries read for 40 rows: ", $after - $before, " of the outbox, ", $known_after - $known_before, " of known rows");
cmp_ok($after - $before, '<', 20_000, 'a row costs little more than itself');
cmp_ok($known_after - $known_before, '<', 10_000, 'however many rows are known, though statistics do not say so yet');
$holder->quit;

# what waits can be deleted, and forgotten
sql("SELECT kapture_pause('customers')");
sql("INSERT INTO customers (customer_name, phone) SELECT 'Short-lived ' || i, (9500000000 + i)::text FROM generate_series(1, 300) i");
sql("DELETE FROM customers WHERE customer_name LIKE 'Short-lived%'");
is(sql("SELECT pending FROM kapture_status"), '600', 'inserted and deleted');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'nothing waits any more');
oracle_ok($node, $emulator, 'and nothing was sent');
sql("SELECT kapture_pause('customers')");
sql("UPDATE customers SET city = 'Goa'");
sql("SELECT kapture_detach('customers')");
is(sql("SELECT count(*) FROM kapture_outbox"), '0', 'a table that is detached leaves nothing');
sql("SELECT kapture_attach('customers')");
sql("SELECT kapture_pause('customers')");
sql("UPDATE customers SET city = 'Agra'");
my $rows = sql("SELECT count(*) FROM customers");
sql("DROP TABLE customers");
$node->reload;					# the worker looks around
my $log = $node->logfile;
my $changes;
wait_for(sub { ($changes) = slurp_file($log) =~ /were dropped, with (\d+) waiting changes/ }, 'the worker to forget a dropped table');
is($changes, $rows, 'nor does one that is dropped');

$node->stop;
done_testing();
