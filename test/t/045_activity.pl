# What pg_stat_activity says of the processes of the extension, and of sessions
# that wait for Kapture: names of their own from PostgreSQL 17 on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator, options => "pull_interval '1h'");
create_customers($node);
my $named = $node->safe_psql('postgres', 'SHOW server_version_num') >= 170000;

sub waits
{
	my ($who, $event, $name) = @_;
	my $expected = $named ? $event : 'Extension';
	poll_ok($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE $who AND wait_event_type = 'Extension' AND wait_event = '$expected'", "$name: waits for $expected");
	return;
}

# Has a session run a statement that waits.
sub session
{
	my ($statement) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\n$statement;\n");
	return ($session, $pid);
}

# --- processes that have nothing to do
waits("backend_type = 'kapture_sync launcher'", 'KaptureLauncherMain', 'the launcher');
waits("pid = kapture_worker_pid() AND backend_type = 'kapture_sync worker' AND query = 'waiting for changes'", 'KaptureWorkerMain', 'the worker');
poll_ok($node, "SELECT finished_at IS NOT NULL FROM kapture_pull_status", 'a pull is done');
waits("pid = kapture_puller_pid() AND backend_type = 'kapture_sync puller'", 'KapturePullerMain', 'the puller');

# --- requests that are not answered
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '1h')");
emulator_faults($emulator, { action => 'hang' });
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Priya', '9845765226')");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status", 'a row is being sent');
waits("pid = kapture_worker_pid() AND query = 'server \"kapture\": 1 in flight'", 'KaptureWorkerMain', 'the worker, with a request under way');
poll_ok($node, "SELECT xact_start IS NULL AND backend_xmin IS NULL AND state = 'active' FROM pg_stat_activity WHERE pid = kapture_worker_pid()", 'without a transaction');
$node->safe_psql('postgres', "CREATE SCHEMA crm; IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO crm");
foreach my $statement (
	"SELECT kapture_get_customer('{\"phone\": \"9845765226\"}')",
	"SELECT count(*) FROM kapture_pull_customers('2021-03-14', '2021-03-14')",
	"SELECT id FROM crm.customers WHERE phone = '9845765226'",
	"INSERT INTO crm.customers (customer_name, phone) VALUES ('Asha', '9845765227')",
	"SELECT * FROM kapture_check()",
	"CALL kapture_refresh('2021-03-14', '2021-03-14')")
{
	my ($session, $pid) = session($statement);
	waits("pid = $pid", 'KaptureHttp', substr($statement, 0, 45));
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	$session->quit;
}

# --- a session that is not to send yet
emulator_faults($emulator);
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD rate_limit '0.001')");
my ($slow, $pid) = session("SELECT kapture_pull('2021-03-14', '2021-03-15')");
waits("pid = $pid", 'KapturePace', 'a pull of two windows, with a rate limit');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
$slow->quit;

# --- a command that wants a database whose worker does not leave
$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION kapture_sync');
poll_ok($node, 'SELECT kapture_worker_pid() IS NOT NULL', 'a worker elsewhere', 'other');
my $worker = $node->safe_psql('other', 'SELECT kapture_worker_pid()');
kill 'STOP', $worker;
my ($dropping, $dropper) = session('DROP DATABASE other');
waits("pid = $dropper", 'KaptureMakeWay', 'DROP DATABASE');
kill 'CONT', $worker;
poll_ok($node, "SELECT count(*) = 0 FROM pg_database WHERE datname = 'other'", 'and is done once the worker has gone');
$dropping->quit;

# --- where they are listed
if ($named)
{
	my @events = qw(KaptureHttp KaptureLauncherMain KaptureMakeWay KapturePace KapturePullerMain KaptureWorkerMain);
	is($node->safe_psql('postgres', "SELECT string_agg(name, ' ' ORDER BY name COLLATE \"C\") FROM pg_wait_events WHERE name LIKE 'Kapture%'"),
		"@events", 'pg_wait_events lists them all');
}
my $operating = slurp_file("$FindBin::RealBin/../../docs/operating.md");
my %events = map { $_ => 1 } map { slurp_file($_) =~ /WaitEventExtensionNew\("(\w+)"\)/g } glob("$FindBin::RealBin/../../src/{,*/}*.c");
is(join(' ', grep { $operating !~ /`$_`/ } sort keys %events), '', 'operating.md explains them');

$node->stop;
done_testing();
