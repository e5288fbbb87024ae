# A server that somebody refreshes is not pulled from meanwhile; others are, and
# nothing is lost when the refresh ends, however it does.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $emulator = start_emulator();
my $beside = start_emulator();
my $node = new_node('pulls');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator);
my $key = 'a2FwZGVtbzprYXAxMjM=';
sql(qq(ALTER SERVER kapture OPTIONS (SET timeout '1h');
CREATE SERVER beside FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$beside->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER beside OPTIONS (auth_key '$key')));
my $n = 0;

sub seed
{
	my ($name, $generated, $where) = @_;
	$n++;
	emulator_post($where || $emulator, 'seed', [ { kapture_customer_id => 100 + $n, customer_name => $name, phone => 9000000000 + $n, generated => $generated } ]);
	return;
}

# A session whose refresh of March 10 is not answered until that is released.
sub refresh
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query('SELECT pg_backend_pid()');
	emulator_post($emulator, 'release', {});
	wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} == 0 }, 'former requests to end');
	emulator_faults($emulator, { api => 'pull', action => 'hold', match => '"start_date": "2021-03-10' });
	$session->query_until(qr/started/, "\\echo started\nCALL kapture_refresh('2021-03-10', '2021-03-10', 'kapture', restart => true);\n");
	wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} > 0 }, 'the request of the refresh');
	return ($session, $pid);
}

# Has pulls come due, and waits until the puller must have seen that.
sub pull_is_held_off
{
	my ($name) = @_;
	my $since = ago(86400);
	my $before = sql("SELECT started_at FROM kapture_pull WHERE server = 'kapture'");
	my $requests = emulator_get($emulator, 'stats')->{requests};
	seed($name, ago(60));
	seed("$name, beside", ago(60), $beside);
	sql("BEGIN; ALTER SERVER kapture OPTIONS (ADD pull_interval '1s', ADD pull_since '$since'); ALTER SERVER beside OPTIONS (ADD pull_interval '1s', ADD pull_since '$since'); COMMIT");
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE server = 'beside' AND name = '$name, beside'", "$name: other servers are pulled from");
	is(sql("SELECT state, coalesce(failures, 0), last_error FROM kapture_pull_status WHERE server = 'kapture'"), 'waiting|0|', "$name: this one waits, which is no failure");
	is(sql("SELECT started_at FROM kapture_pull WHERE server = 'kapture'"), $before, "$name: no pull has begun");
	is(emulator_get($emulator, 'stats')->{requests}, $requests, "$name: nor asked for anything");
	is(sql("SELECT state FROM kapture_progress WHERE activity = 'refresh' AND server = 'kapture'"), 'running', "$name: the refresh is still running");
	return;
}

sub pull_goes_on
{
	my ($name) = @_;
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE server = 'kapture' AND name = '$name'", "$name: the pull comes by itself");
	sql("ALTER SERVER kapture OPTIONS (DROP pull_interval, DROP pull_since); ALTER SERVER beside OPTIONS (DROP pull_interval, DROP pull_since)");
	poll_ok($node, "SELECT kapture_puller_pid() IS NULL", "$name: and the puller ends when it is no longer wanted");
	return;
}

seed('Refreshed', '2021-03-10 12:00:00');
my ($session, $pid) = refresh();
pull_is_held_off('First');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$session->quit;
is(sql("SELECT state FROM kapture_progress WHERE activity = 'refresh' AND server = 'kapture'"), 'done', 'the refresh comes to its end');
is(sql("SELECT count(*) FROM kapture_customers WHERE server = 'kapture' AND name = 'Refreshed'"), '1', 'with what it was to bring');
pull_goes_on('First');

($session, $pid) = refresh();
pull_is_held_off('Second');
sql("SELECT pg_cancel_backend($pid)");
pull_goes_on('Second');
$session->quit;

($session, $pid) = refresh();
pull_is_held_off('Third');
sql("SELECT pg_terminate_backend($pid)");
pull_goes_on('Third');
eval { $session->quit };

is(sql("SELECT count(*), count(DISTINCT id) FROM kapture_customers WHERE server = 'kapture'"), '4|4', 'all are there, once');
ok(!$node->log_contains(qr/pulling from server "\w+" in database "\w+" failed/), 'no pull has failed');

$node->stop;
done_testing();
