# Long pulls: memory is bounded by answers, not by the range; they end at once
# when they are cancelled, and early when nobody wants more.
#
# From the environment:
#	KAPTURE_PULL_WINDOWS	days of 2,000 customers each (default 20; script/test --long: 365)
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $windows = $ENV{KAPTURE_PULL_WINDOWS} || 20;
my $customers = $windows * 2001;    # not 2000, which looks like a limit
my $emulator = start_emulator('--pull-limit-hours', 24);
my $node = new_node('bounds');
# small, so that what a backend touches of it does not count as its memory
$node->append_conf('postgresql.conf', "shared_buffers = 1MB\nmax_wal_size = 4GB\n");
$node->restart;
setup_sync($node, $emulator, options => "max_connections '16'");
$node->safe_psql('postgres', qq(
ALTER SERVER kapture OPTIONS (SET timeout '5min');
ALTER DATABASE postgres SET timezone = 'Asia/Kolkata';
CREATE SCHEMA crm;
IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO crm));
my $last = $node->safe_psql('postgres', "SELECT date '2021-01-01' + $windows - 1");
emulator_post($emulator, 'seed', { count => $customers, from => '2021-01-01', to => $last });

my %statement = (
	'kapture_pull_customers' => "SELECT kapture_pull_stream('2021-01-01', '$last', 'kapture')",
	'kapture_refresh' => "CALL kapture_refresh('2021-01-01', '$last', restart => true)",
	'a foreign table' => "SELECT * FROM crm.customers WHERE generation_date >= '2021-01-01'");
my %counted = (
	'kapture_pull_customers' => "SELECT count(*), count(DISTINCT id), count(raw) FROM kapture_pull_customers('2021-01-01', '$last')",
	'kapture_refresh' => "CALL kapture_refresh('2021-01-01', '$last'); SELECT count(*), count(DISTINCT id), count(raw) FROM kapture_customers",
	'a foreign table' => "SELECT count(*), count(DISTINCT id), count(raw) FROM crm.customers WHERE generation_date >= '2021-01-01' AND generation_date < date '$last' + 1");

sub pulls { return emulator_get($emulator, 'stats')->{pull_requests}; }

# cancelled, at some window or other
foreach my $what (sort keys %statement)
{
	foreach my $after (1, 3, 6)
	{
		my $session = $node->background_psql('postgres', on_error_stop => 0);
		my $pid = $session->query('SELECT pg_backend_pid()');
		my $before = pulls();
		$session->query('SET client_min_messages = warning');
		$session->query_until(qr/started/, "\\echo started\nBEGIN; DECLARE c CURSOR FOR $statement{$what}; MOVE ALL FROM c; COMMIT;\n")
		  unless $what eq 'kapture_refresh';
		$session->query_until(qr/started/, "\\echo started\n$statement{$what};\n") if $what eq 'kapture_refresh';
		wait_for(sub { pulls() >= $before + $after }, "window $after");
		$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
		is($session->query("ROLLBACK; SELECT 'on'"), 'on', "$what is cancelled at window $after, and the session goes on");
		cmp_ok(pulls() - $before, '<', $windows, 'before its end');
		$session->quit;
	}
}

# closed early
foreach my $what ('kapture_pull_customers', 'a foreign table')
{
	my $session = $node->background_psql('postgres');
	my $before = pulls();
	$session->query("BEGIN; DECLARE c CURSOR FOR $statement{$what}; MOVE 2500 FROM c; CLOSE c; COMMIT");
	cmp_ok(pulls() - $before, '<=', 2 + 16, "a cursor on $what that is closed early asks for little more than what was read");
	is($session->query("SELECT name FROM crm.customers WHERE id = (SELECT min(id) FROM kapture_pull_customers('2021-01-01', '2021-01-01'))") ne '', 1, 'and the session goes on');
	$session->quit;
}

# memory
$node->safe_psql('postgres', 'TRUNCATE kapture_customers, kapture_contacts, kapture_refresh_run');
foreach my $what (sort keys %counted)
{
	my $status = "SELECT substring(pg_read_file('/proc/' || pg_backend_pid() || '/status') FROM 'VmHWM:\\s*(\\d+)')";
	my $session = $node->background_psql('postgres', timeout => 3600);
	$session->query('SET client_min_messages = warning');
	my $least = $session->query_safe($status);
	is($session->query($counted{$what}), "$customers|$customers|$customers", "$what: $windows windows of 2,001 customers, everybody once");
	my $most = $session->query_safe($status);
	note("$what: peak of a backend: $least kB before, $most kB after");
	memory_ok($most - $least, 64 * 1024, "$what: less than 64 MB");
	$session->quit;
}

$node->stop;
done_testing();
