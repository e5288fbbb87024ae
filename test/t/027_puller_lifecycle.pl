# A pull that hangs keeps no command of an administrator waiting; nothing is
# pulled in a copy or on a standby; a promoted standby and a crashed server go on
# from the watermark.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main', allows_streaming => 1);
my $hangs = "SELECT state = 'pulling' FROM kapture_pull_status";
my $phone = 9000000000;

sub pull { return "pull_interval '1s', pull_since '" . ago(86400) . "'"; }
sub in_flight { return emulator_get($emulator, 'stats')->{in_flight}; }
sub pulls { return scalar grep { $_->{api} eq 'pull' } @{ emulator_get($emulator, 'log') }; }

sub seed
{
	my ($name) = @_;
	emulator_post($emulator, 'seed', [ { customer_name => $name, phone => ++$phone, generated => ago(1) } ]);
	return;
}

# A database with a pull that gets no answer for an hour.
sub hang
{
	my ($db) = @_;
	emulator_post($emulator, 'release', {});
	wait_for(sub { in_flight() == 0 }, 'requests to end');
	emulator_faults($emulator, { api => 'pull', action => 'hang' });
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	setup_sync($node, $emulator, db => $db, options => pull());
	$node->safe_psql($db, "ALTER SERVER kapture OPTIONS (SET timeout '1h')");
	poll_ok($node, $hangs, "a pull is under way in database $db", $db);
	wait_for(sub { in_flight() > 0 }, 'its request');
	return;
}

sub finishes
{
	my ($db, $sql) = @_;
	my ($rc, $out, $err) = $node->psql($db, $sql, timeout => 120);
	ok($rc == 0, "not kept waiting: $sql") or diag($err);
	return;
}

# commands on databases, and on what the puller uses
hang('dropped');
finishes('postgres', 'DROP DATABASE dropped');
hang('template_of');
finishes('postgres', 'CREATE DATABASE copied TEMPLATE template_of');
finishes('postgres', 'ALTER DATABASE template_of RENAME TO renamed');
finishes('renamed', 'DROP EXTENSION kapture_sync CASCADE');
finishes('postgres', 'DROP DATABASE renamed');

# what a puller that leaves in the midst of a pull had locked is free again
hang('ended');
my $locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND objsubid = 1 AND classid = 'pg_foreign_server'::regclass"
  . " AND database = (SELECT oid FROM pg_database WHERE datname LIKE 'ended%')";
is($node->safe_psql('postgres', $locks), '1', 'the puller has locked its server');
is($node->safe_psql('postgres', "BEGIN; ALTER DATABASE ended RENAME TO ended_too; $locks; ROLLBACK"), '0', 'it makes way, and leaves no lock behind');
emulator_faults($emulator);
poll_ok($node, "SELECT pulled_until IS NOT NULL AND failures = 0 FROM kapture_pull_status", 'the next one pulls', 'ended');

# deadlocks are the extension's to give in to, whatever the server's setting is
$node->safe_psql('postgres', "ALTER SYSTEM SET deadlock_timeout = '1h'");
$node->reload;
my $first = $node->background_psql('ended');
my $second = $node->background_psql('ended');
my $waits = "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation =";
$first->query_safe("BEGIN; LOCK kapture_pull");
$node->safe_psql('ended', "ALTER SERVER kapture OPTIONS (SET timeout '1min')");
poll_ok($node, "$waits 'kapture_pull'::regclass", 'a puller waits', 'ended');
$second->query_safe("BEGIN; LOCK kapture_attachment");
$second->query_until(qr/locking/, "\\echo locking\nLOCK kapture_origin;\n\\echo locked\n");
poll_ok($node, "$waits 'kapture_origin'::regclass", 'a user waits for it', 'ended');
$first->query_safe("COMMIT");
$second->query_until(qr/locked/, '');
$second->query_safe("COMMIT");
pass('and is not the one who gets an error');
$_->quit foreach $first, $second;
poll_ok($node, "SELECT kapture_puller_pid() IS NOT NULL AND (SELECT failures = 0 FROM kapture_pull_status)", 'the puller goes on', 'ended');
finishes('postgres', 'DROP DATABASE ended');
$node->safe_psql('postgres', 'ALTER SYSTEM RESET deadlock_timeout');
$node->reload;

# the lock that keeps others from refreshing a server stays with its pull while
# that of another server fails
hang('locked');
$node->safe_psql('locked', "CREATE SERVER keyless FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', pull_interval '1s')");
poll_ok($node, "SELECT last_error LIKE '%no user mapping%' FROM kapture_pull_status WHERE server = 'keyless'", 'another server cannot be pulled from', 'locked');
is($node->safe_psql('locked', "SELECT state FROM kapture_pull_status WHERE server = 'kapture'"), 'pulling', 'the pull goes on');
my (undef, undef, $said) = $node->psql('locked', "CALL kapture_refresh('2021-03-14', '2021-03-15', 'kapture')", timeout => 120);
like($said, qr/server "kapture" is being refreshed by another session/, 'alone');
finishes('postgres', 'DROP DATABASE locked');

# a copy pulls nothing until it is told to
emulator_post($emulator, 'reset', {});
seed('For the original only');
poll_ok($node, "SELECT kapture_puller_pid() IS NOT NULL", 'the copy has a puller', 'copied');
# a dump that is being restored has servers before it has mappings
my $now = $node->safe_psql('copied', 'DROP USER MAPPING FOR CURRENT_USER SERVER kapture; SELECT clock_timestamp()');
$node->safe_psql('copied', "ALTER SERVER kapture OPTIONS (SET pull_interval '3s')");
poll_ok($node, "SELECT state_change > '$now' FROM pg_stat_activity WHERE datname = 'copied' AND backend_type = 'kapture_sync puller'", 'it sees that a mapping is missing', 'copied');
$node->safe_psql('copied', "CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
$node->safe_psql('copied', "ALTER SERVER kapture OPTIONS (SET pull_interval '2s')");
$node->safe_psql('copied', "SELECT kapture_get_customer('{\"phone\": \"$phone\"}')");
is(pulls(), 0, 'which pulls nothing');
is($node->safe_psql('copied', "SELECT count(*) FROM kapture_pull WHERE failures > 0"), '0', 'and notes no failure');
$node->safe_psql('copied', 'SELECT kapture_resume()');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers", 'until it is told to', 'copied');
$node->safe_psql('postgres', 'DROP DATABASE copied');

# a table that is detached, and one that is dropped, in the middle of a pull
setup_sync($node, $emulator, options => pull());
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '1h')");
create_customers($node, attach => ', pull => true');
seed('New');
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE customer_name = 'New'", 'a pulled customer becomes a row');
foreach my $how ("SELECT kapture_detach('customers')", 'DROP TABLE customers')
{
	create_customers($node, attach => ', pull => true') unless $node->safe_psql('postgres', "SELECT to_regclass('customers')");
	emulator_faults($emulator, { api => 'pull', action => 'hold' });
	poll_ok($node, $hangs, 'a pull is under way');
	wait_for(sub { in_flight() > 0 }, 'its request');
	seed($how =~ /detach/ ? 'Detached' : 'Dropped');
	finishes('postgres', $how);
	emulator_faults($emulator);
	emulator_post($emulator, 'release', {});
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE phone = '$phone'", 'the pull goes on');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM kapture_inbox'), '0', 'and keeps nothing for the table');
	is($node->safe_psql('postgres', "SELECT count(*) FROM customers WHERE phone = '$phone'"), '0', 'nor writes to it')
	  if $how =~ /detach/;
	$node->safe_psql('postgres', 'DROP TABLE IF EXISTS customers');
}

# a crash in the middle: what is there stays, the rest comes, once
create_customers($node, attach => ', pull => true');
emulator_faults($emulator, { api => 'pull', action => 'hang' });
poll_ok($node, $hangs, 'a pull is under way');
wait_for(sub { in_flight() > 0 }, 'its request');
seed('After the crash');
$node->stop('immediate');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$node->start;
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE customer_name = 'After the crash'", 'it comes after the crash');
is($node->safe_psql('postgres', 'SELECT count(*) = count(DISTINCT kapture_customer_id) FROM customers'), 't', 'nobody comes twice');

# a standby pulls nothing; promoted, it goes on
$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kapture_sync%'"), '0', 'nothing runs on a standby');
emulator_faults($emulator, { api => 'pull', action => 'hang' });
poll_ok($node, $hangs, 'a pull is under way');
wait_for(sub { in_flight() > 0 }, 'its request');
$node->stop('fast');
pass('a fast shutdown is not kept waiting');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
seed('After the failover');
$standby->promote;
poll_ok($standby, "SELECT count(*) = 1 FROM customers WHERE customer_name = 'After the failover'", 'the new primary pulls');
is($standby->safe_psql('postgres', 'SELECT count(*) = count(DISTINCT kapture_customer_id) FROM customers'), 't', 'nobody comes twice');
is(emulator_get($emulator, 'stats')->{adds}, 0, 'and nothing was pushed back');

done_testing();
