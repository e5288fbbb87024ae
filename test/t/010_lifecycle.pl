# A worker for each database with the extension, and for no other; it comes,
# goes and comes back by itself.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status";
my $serves = "SELECT kapture_worker_pid() IS NOT NULL";
my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kapture_sync worker'";

sub worker_pid
{
	my ($db) = @_;
	return $node->safe_psql($db || 'postgres', "SELECT kapture_worker_pid()");
}

# How often the postmaster started a worker, of one database or of any.
sub starts
{
	my ($oid) = @_;
	my $log = slurp_file($node->logfile);
	my $pattern = $oid // '\d+';
	my @lines = $log =~ /starting background worker process "kapture_sync worker for database $pattern"/g;
	return scalar @lines;
}

# Many databases without the extension, some that no worker may enter, one with
# names like ours.
$node->safe_psql('postgres', join '', map { "CREATE DATABASE empty$_;\n" } 1 .. 25);
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(template closed broken);
$node->safe_psql($_, "CREATE EXTENSION kapture_sync") foreach qw(template closed broken);
$node->safe_psql('empty3', "CREATE SCHEMA kapture_sync; CREATE TABLE kapture_outbox (a int); CREATE TABLE kapture_attachment (a int); CREATE TABLE kapture_sync.kapture_delivery (a int)");
poll_ok($node, $serves, "CREATE EXTENSION starts a worker in $_", $_) foreach qw(template closed broken);
my %oid = map { $_ => $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname = '$_'") } qw(template closed broken);
$node->safe_psql('postgres', "ALTER DATABASE template IS_TEMPLATE true");
$node->safe_psql('postgres', "ALTER DATABASE closed ALLOW_CONNECTIONS false");
$node->safe_psql('postgres', "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'broken'");
$node->append_conf('postgresql.conf', "log_min_messages = debug1\nrestart_after_crash = on\n");
$node->stop;
unlink $node->logfile;
$node->start;
wait_for(sub { starts() >= 26 }, 'all databases to be looked at');
poll_ok($node, "SELECT ($workers) = 0", 'databases without the extension keep no worker');
is(starts($oid{template}), 0, 'a template gets no worker');
is(starts($oid{closed}), 0, 'nor does a database that refuses connections');
is(starts($oid{broken}), 0, 'nor one whose DROP DATABASE broke off');

# CREATE EXTENSION and DROP EXTENSION
$node->safe_psql('postgres', "BEGIN; CREATE EXTENSION kapture_sync; ROLLBACK");
setup_sync($node, $emulator);
poll_ok($node, $serves, 'CREATE EXTENSION starts a worker');
setup_sync($node, $emulator, db => 'empty1');
poll_ok($node, $serves, 'another database gets its own', 'empty1');
is(starts(), 28, 'each database without the extension was looked at once, CREATE EXTENSION rolled back starts nothing');
is($node->safe_psql('postgres', $workers), '2', 'and there are as many workers as extensions');
$node->safe_psql('empty1', "DROP EXTENSION kapture_sync CASCADE");
poll_ok($node, "SELECT ($workers) = 1", 'DROP EXTENSION ends the worker');
setup_sync($node, $emulator, db => 'empty1');
create_customers($node, db => 'empty1');
my $pid = worker_pid('empty1');
$node->safe_psql('empty1', qq(
BEGIN;
DROP EXTENSION kapture_sync CASCADE;
CREATE EXTENSION kapture_sync;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SELECT kapture_attach('customers');
INSERT INTO customers (customer_name, phone) VALUES ('Anew', '9100000001');
COMMIT));
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers",
	'an extension dropped and created in one transaction works', 'empty1');
$node->safe_psql('postgres', "CREATE DATABASE child TEMPLATE empty1");
poll_ok($node, $serves, 'a database made from one with the extension gets a worker', 'child');
poll_ok($node, $serves, 'and that one has its worker again', 'empty1');
$node->safe_psql('postgres', "DROP DATABASE child");
unlike(slurp_file($node->logfile), qr/FATAL:  database \d+ does not exist/, 'no worker is started in a dropped database');
$node->safe_psql('empty1', "DROP EXTENSION kapture_sync CASCADE");
emulator_post($emulator, 'reset', {});

# who is ended comes back
create_customers($node);
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('First', '9200000001')");
poll_ok($node, $idle, 'the worker works');
restart_worker($node, 'a worker that was ended comes back');
my $launcher = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'kapture_sync launcher'";
$pid = $node->safe_psql('postgres', $launcher);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
poll_ok($node, "SELECT ($launcher) <> $pid", 'a launcher that was ended comes back');
poll_ok($node, $serves, 'its workers live on');
restart_worker($node, 'and it starts them again');

# more is asked for than a launcher that does nothing can keep: it looks at all databases
$pid = $node->safe_psql('postgres', $launcher);
kill 'STOP', $pid;
$node->safe_psql('postgres', "SELECT kapture_worker_start();\n" x 70);
$node->safe_psql('empty1', 'CREATE EXTENSION kapture_sync');
kill 'CONT', $pid;
poll_ok($node, $serves, 'a worker comes, though nobody could note that it was asked for', 'empty1');
$node->safe_psql('empty1', 'DROP EXTENSION kapture_sync');

# created in a transaction that is prepared
poll_ok($node, "SELECT ($workers) = 1", 'a database has neither extension nor worker');
$node->safe_psql('empty1', "BEGIN; CREATE EXTENSION kapture_sync; PREPARE TRANSACTION 'made'");
$node->safe_psql('empty1', "COMMIT PREPARED 'made'");
poll_ok($node, $serves, 'COMMIT PREPARED of CREATE EXTENSION starts a worker', 'empty1');
$node->safe_psql('empty1', 'DROP EXTENSION kapture_sync');

# killed in the midst of work, and its cluster with it
emulator_faults($emulator, { api => 'add', action => 'delay', ms => 20 });
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) SELECT 'Killed ' || i, (9300000000 + i)::text FROM generate_series(1, 500) i");
poll_ok($node, "SELECT count(kapture_customer_id) > 50 FROM customers", 'the worker is at work');
kill 'KILL', worker_pid();
wait_for(sub { $node->log_contains(qr/all server processes terminated; reinitializing/) }, 'the crash to be noticed');
wait_for(sub { $node->psql('postgres', 'SELECT 1') == 0 }, 'the server to be back');
emulator_faults($emulator);
poll_ok($node, $idle, 'a worker that was killed comes back and finishes');
oracle_ok($node, $emulator, 'nothing is lost or sent twice');

# exclusion
$node->safe_psql('postgres', "ALTER SYSTEM SET kapture_sync.excluded_databases = 'nowhere, postgres'");
$node->reload;
poll_ok($node, "SELECT kapture_worker_pid() IS NULL", 'an excluded database loses its worker');
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Excluded', '9400000001')");
is($node->safe_psql('postgres', "SELECT state, pending FROM kapture_status"), 'no worker|1', 'changes are captured all the same');
$node->restart;
setup_sync($node, $emulator, db => 'empty2');
poll_ok($node, $serves, 'others get theirs', 'empty2');
is(worker_pid(), '', 'the excluded one does not after a restart, either');
$node->safe_psql('postgres', "ALTER SYSTEM RESET kapture_sync.excluded_databases");
$node->reload;
poll_ok($node, $idle, 'no more excluded, it is served again');
oracle_ok($node, $emulator, 'and what waited is sent');

# the postmaster dies
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD pull_interval '1h')");
poll_ok($node, "SELECT kapture_puller_pid() IS NOT NULL", 'there is a puller');
my %process = reverse split /[|\n]/, $node->safe_psql('postgres', "SELECT pid, backend_type FROM pg_stat_activity WHERE backend_type LIKE 'kapture%' AND coalesce(datname, 'postgres') = 'postgres'");
is(join(', ', sort keys %process), 'kapture_sync launcher, kapture_sync puller, kapture_sync worker', 'and all others');
$node->kill9;
foreach my $type (sort keys %process)
{
	my $file = "/proc/$process{$type}/stat";
	wait_for(sub { my $stat = -e $file ? eval { slurp_file($file) } // '' : ''; $stat !~ /^\d+ \(.*\) [^Z]/ }, "the $type to follow its postmaster");
	pass("no $type outlives its postmaster");
}
# other processes of the old postmaster may still hold its shared memory
wait_for(sub { $node->start(fail_ok => 1) or do { $node->stop('fast', fail_ok => 1); 0 } }, 'the server to start again');
poll_ok($node, $serves, 'and the next one starts');
$node->stop;

# no slot left: the launcher and one worker fit beside the logical replication launcher
$node = new_node('crowded');
$node->append_conf('postgresql.conf', "max_worker_processes = 3\n");
$node->restart;
emulator_post($emulator, 'reset', {});
setup_sync($node, $emulator);
poll_ok($node, $serves, 'the last slot is taken');
$node->safe_psql('postgres', "CREATE DATABASE second");
setup_sync($node, $emulator, db => 'second');
create_customers($node, db => 'second');
ok($node->wait_for_log(qr/out of background worker slots.*\n.*HINT:  You might need to increase max_worker_processes/),
	'a worker without a slot is reported with a hint');
$node->safe_psql('second', "INSERT INTO customers (customer_name, phone) VALUES ('Waits', '9500000001')");
is($node->safe_psql('second', "SELECT state, pending FROM kapture_status"), 'no worker|1', 'changes are captured meanwhile');
is($node->safe_psql('second', q(SELECT kapture_get_customer('{"phone": "9500000009"}') IS NOT NULL)), 't', 'and the functions work');
$node->safe_psql('postgres', "DROP EXTENSION kapture_sync CASCADE");
poll_ok($node, $idle, 'the worker starts once a slot is free', 'second');
oracle_ok($node, $emulator, 'and sends what waited', 'second');
my @warnings = slurp_file($node->logfile) =~ /out of background worker slots/g;
is(scalar @warnings, 1, 'the log was told once');

# Nobody is woken for changes that are not to be sent now, whatever was attached before.
sub sleeps
{
	my ($pid) = @_;
	return join ' ', slurp_file("/proc/$pid/status") =~ /ctxt_switches:\s*(\d+)/g;
}
$node->safe_psql('second', "CREATE TABLE former (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('former')");
$node->safe_psql('second', $_) foreach "SELECT kapture_detach('former')", "SELECT kapture_pause('customers')";
my $sleeper = worker_pid('second');
ok(wait_for(sub {
		my $before = sleeps($sleeper);
		$node->safe_psql('second', "INSERT INTO customers (customer_name, phone) VALUES ('Later', '9400000001');\n" x 100);
		sleeps($sleeper) eq $before;
	}, 'the worker to sleep through changes'), 'while all is paused, changes do not wake the worker');
$node->stop;

# not preloaded
$node = PostgreSQL::Test::Cluster->new('lone');
$node->init;
$node->start;
emulator_post($emulator, 'reset', {});
setup_sync($node, $emulator);
like($node->safe_psql('postgres', q(SELECT kapture_add_customer('{"customer_name": "Direct", "phone": "9600000001"}'))),
	qr/"success"/, 'without the preloaded library, adding works');
my $id = emulator_get($emulator, 'customers')->[0]{kapture_customer_id};
like($node->safe_psql('postgres', qq(SELECT kapture_update_customer('{"kapture_customer_id": $id, "city": "Agra"}'))),
	qr/"success"/, 'updating works');
like($node->safe_psql('postgres', q(SELECT kapture_get_customer('{"phone": "9600000001"}'))), qr/Agra/, 'getting works');
like($node->safe_psql('postgres', q(SELECT kapture_pull(now()::timestamp - interval '1 day', now()::timestamp + interval '1 day'))),
	qr/Agra/, 'pulling works');
$node->safe_psql('postgres', "CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text)");
my ($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_attach('customers')");
like($err, qr/must be loaded via shared_preload_libraries.*HINT:  Add kapture_sync to shared_preload_libraries/s,
	'attaching says what to set');
($rc, $out, $err) = $node->psql('postgres', q(SELECT kapture_send('ticket_add', '{"title": "Waits"}')));
like($err, qr/WARNING:  kapture_sync is not in shared_preload_libraries, so nothing is sent.*HINT:  Add/s, 'and so does a call that waits for a worker');
is($node->safe_psql('postgres', "SELECT count(*), kapture_worker_pid() IS NULL FROM kapture_status"), '0|t', 'and the views can be read');
$node->safe_psql('postgres', "DROP EXTENSION kapture_sync CASCADE");
$node->stop;

done_testing();
