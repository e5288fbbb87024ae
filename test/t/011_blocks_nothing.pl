# With a server that never answers and requests waiting for it, no command of
# an administrator waits for the worker, and nothing dead is kept.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
my $busy = "SELECT in_flight > 0 FROM kapture_status WHERE relation = 'customers'::regclass";
my $tablespace = PostgreSQL::Test::Utils::tempdir();
my $requests;		# that the emulator had seen before the last command

# Requests would hang for ten minutes: what waited for one of them would fail by
# the time-outs of statements, or of the test.
sub hang
{
	my ($db) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db") if $db !~ /^(postgres|template1)$/;
	setup_sync($node, $emulator, db => $db);
	$node->safe_psql($db, "ALTER SERVER kapture OPTIONS (SET timeout '10min', ADD max_connections '2')");
	create_customers($node, db => $db);
	$node->safe_psql($db, "CREATE TABLE plain (id int PRIMARY KEY, v text)");
	insert_rows($db);
	poll_ok($node, $busy, "requests of database $db hang", $db);
	return;
}

sub insert_rows
{
	my ($db) = @_;
	$node->safe_psql($db, "INSERT INTO customers (customer_name, phone) SELECT 'Hangs', (9000000000 + i)::text FROM generate_series(1, 20) i");
	return;
}

# The command ends well, by far sooner than any request.
sub finishes
{
	my ($db, $sql, $name) = @_;
	my ($rc, $out, $err) = $node->psql($db, "SET statement_timeout = '60s'; SET lock_timeout = '30s'; $sql");
	ok($rc == 0, $name) or diag($err);
	return;
}

sub finishes_alone
{
	my ($sql, $name) = @_;
	$requests = emulator_get($emulator, 'stats')->{requests};
	my ($rc, $out, $err) = $node->psql('postgres', $sql, timeout => 120);
	ok($rc == 0, $name) or diag($err);
	return;
}

# The worker has come back and has new requests that hang.  It may have sent all
# it may by now, so what counts is the time before it went.
sub back
{
	my ($db) = @_;
	insert_rows($db);
	poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", "the worker of database $db is back", $db);
	wait_for(sub { emulator_get($emulator, 'stats')->{requests} > $requests }, 'a new request');
	return pass('and busy');
}

emulator_faults($emulator, { action => 'hang' });

# commands on attached tables, and on the extension's own
hang('postgres');
finishes('postgres', $_, "$_ finishes") foreach (
	'ALTER TABLE customers ADD COLUMN more text',
	'ALTER TABLE customers ALTER COLUMN city TYPE varchar(100)',
	'ALTER TABLE customers RENAME COLUMN note TO remark',
	'REINDEX TABLE customers',
	'REINDEX TABLE CONCURRENTLY customers',
	'CREATE INDEX CONCURRENTLY customers_city ON customers (city)',
	'VACUUM FULL customers',
	'CLUSTER customers USING customers_pkey',
	'VACUUM FULL kapture_outbox',
	'VACUUM FULL kapture_delivery',
	'REINDEX TABLE kapture_delivery',
	'REINDEX DATABASE postgres',
	'VACUUM FULL',
	'BEGIN; LOCK TABLE customers; COMMIT',
	'TRUNCATE customers',
	"SELECT kapture_pause('customers'); SELECT kapture_resume('customers')",
	"SELECT kapture_detach('customers'); SELECT kapture_attach('customers')");
insert_rows('postgres');

# xmin: neither between two looks of the worker nor by a request is it held
poll_ok($node, "SELECT in_flight + pending > 0 FROM kapture_status", 'changes wait');
poll_ok($node, "SELECT backend_xmin IS NULL AND backend_xid IS NULL AND xact_start IS NULL"
	  . " FROM pg_stat_activity WHERE backend_type = 'kapture_sync worker'",
	'the worker has no transaction open while its requests hang');
$node->safe_psql('postgres', "INSERT INTO plain SELECT i, 'x' FROM generate_series(1, 1000) i; DELETE FROM plain");
my ($rc, $out, $err) = $node->psql('postgres', "VACUUM (VERBOSE) plain");
like($err, qr/tuples: 1000 removed, 0 remain, 0 are dead but not yet removable/, 'VACUUM removes everything dead');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
	  . " WHERE a.backend_type = 'kapture_sync worker' AND l.locktype = 'relation'"), '0', 'the worker holds no lock on a relation');

# A backend that waits for Kapture must serve the barriers of others.
my $stuck = $node->background_psql('postgres', on_error_stop => 0);
$stuck->query_until(qr/calling/, qq(\\echo calling\nSELECT kapture_add_customer('{"customer_name": "Stuck", "phone": "9999999999"}');\n));
my $waits = "SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%kapture_add_customer%' AND pid <> pg_backend_pid()";
poll_ok($node, $waits, 'a backend waits for Kapture');
$node->safe_psql('postgres', "CREATE DATABASE bystander");
finishes_alone("DROP DATABASE bystander", 'DROP DATABASE of another database does not wait for it');
poll_ok($node, $waits, 'which still waits');
is($node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%kapture_add_customer%' AND pid <> pg_backend_pid()"),
	't', 'it is asked to end');
poll_ok($node, "SELECT NOT ($waits)", 'and ends');
eval { $stuck->quit };

# commands that want a database to themselves
hang('dropped');
finishes_alone("DROP DATABASE dropped", 'DROP DATABASE finishes');
hang('copied');
finishes_alone("CREATE DATABASE copy TEMPLATE copied", 'CREATE DATABASE ... TEMPLATE finishes');
back('copied');
# where template1 is an ordinary database, it has a worker, too
$node->safe_psql('postgres', "ALTER DATABASE template1 IS_TEMPLATE false");
hang('template1');
finishes_alone("CREATE DATABASE plain", 'and so does one that leaves the template to PostgreSQL');
back('template1');
$node->safe_psql('template1', "DROP EXTENSION kapture_sync CASCADE; DROP TABLE customers, plain");
finishes_alone("ALTER DATABASE copied RENAME TO renamed", 'ALTER DATABASE ... RENAME finishes');
back('renamed');
$node->safe_psql('postgres', "CREATE TABLESPACE other LOCATION '$tablespace'");
finishes_alone("ALTER DATABASE renamed SET TABLESPACE other", 'ALTER DATABASE ... SET TABLESPACE finishes');
back('renamed');
finishes_alone("BEGIN; ALTER DATABASE renamed RENAME TO again; ROLLBACK", 'and one that is rolled back');
back('renamed');
$requests = emulator_get($emulator, 'stats')->{requests};
($rc, $out, $err) = $node->psql('postgres', "ALTER DATABASE renamed SET TABLESPACE nowhere", timeout => 120);
like($err, qr/tablespace "nowhere" does not exist/, 'a command fails');
back('renamed');
my $pid = $node->safe_psql('renamed', "SELECT kapture_worker_pid()");
($rc, $out, $err) = $node->psql('postgres', "CREATE ROLE nobody; SET ROLE nobody; DROP DATABASE renamed");
like($err, qr/must be owner of database renamed/, 'who may not drop a database');
is($node->safe_psql('renamed', "SELECT kapture_worker_pid()"), $pid, 'does not end its worker');

# dropping
finishes('renamed', 'DROP TABLE customers', 'DROP TABLE of an attached table finishes');
$node->safe_psql('renamed', "DROP EXTENSION kapture_sync CASCADE");
pass('DROP EXTENSION finishes');
poll_ok($node, "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'renamed' AND backend_type = 'kapture_sync worker'",
	'and ends the worker');
insert_rows('postgres');
finishes('postgres', "DROP SCHEMA public CASCADE; CREATE SCHEMA public", 'DROP SCHEMA with all of it finishes');

hang('stopped');
command_ok([ 'pg_ctl', '-D', $node->data_dir, '-m', 'fast', '-t', '60', 'stop' ], 'a fast shutdown finishes');
$node->_update_pid(0);

# A smart shutdown waits for sessions, not for the extension's processes, which
# go on as long as there is one.
emulator_faults($emulator, { api => 'pull', action => 'hang' });
$node->start;
$node->safe_psql('postgres', "CREATE DATABASE smart");
setup_sync($node, $emulator, db => 'smart', options => "pull_interval '1s', pull_since '2026-01-01 00:00:00'");
create_customers($node, db => 'smart');
$node->safe_psql('smart', "ALTER SERVER kapture OPTIONS (SET timeout '10min')");
poll_ok($node, "SELECT state = 'pulling' FROM kapture_pull_status", 'a pull hangs', 'smart');
my $session = $node->background_psql('smart');
command_ok([ 'pg_ctl', '-D', $node->data_dir, '-m', 'smart', '-W', 'stop' ], 'a smart shutdown begins');
$node->wait_for_log(qr/received smart shutdown request/);
$session->query_safe("INSERT INTO customers (customer_name, phone) VALUES ('Last session', '9600000001')");
wait_for(sub { $session->query_safe("SELECT kapture_customer_id IS NOT NULL FROM customers") eq 't' }, 'the row to be sent');
pass('what the last session writes is sent');
emulator_faults($emulator, { action => 'hang' });
$session->query_safe("INSERT INTO customers (customer_name, phone) VALUES ('Hangs', '9600000002')");
wait_for(sub { $session->query_safe("SELECT in_flight = 1 FROM kapture_status") eq 't' }, 'a request that hangs');
is($session->query_safe("SELECT string_agg(DISTINCT backend_type, ', ' ORDER BY backend_type) FROM pg_stat_activity"
		  . " WHERE backend_type LIKE 'kapture%' AND coalesce(datname, 'smart') = 'smart'"),
	'kapture_sync launcher, kapture_sync puller, kapture_sync worker', 'all are at work');
$session->quit;
wait_for(sub { !-e $node->data_dir . '/postmaster.pid' }, 'the server to end');
pass('with the last session it ends, with requests that hang');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'and nothing has crashed');
$node->_update_pid(0);

done_testing();
