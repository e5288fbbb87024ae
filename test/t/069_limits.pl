# max_connections and rate_limit hold for all processes of a database together,
# and none of them starves another.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator('--pull-limit-hours', 24);
my $node = new_node('main');
setup_sync($node, $emulator, options => "max_connections '3', rate_limit '20', pull_window '1 hour'");
create_customers($node);
emulator_post($emulator, 'seed', [ map { { customer_name => "There $_", phone => 9700000000 + $_, generated => '2021-03-10 12:00:00' } } 1 .. 3 ]);

my $stats = sub { emulator_get($emulator, 'stats') };

# Runs SQL in a session of its own; finish() waits for its end and returns what it printed.
sub start_session
{
	my ($sql) = @_;
	my %session = (in => '', out => '', err => '');
	$session{run} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-c', $sql ],
		'>', \$session{out}, '2>', \$session{err});
	return \%session;
}

sub finish
{
	my ($session) = @_;
	$session->{run}->finish;
	return $session->{out} . $session->{err};
}

my $get = q(kapture_get_customer('{"phone": "9700000001"}') ->> 'status');

# worker, puller, a refresh and two sessions at once
emulator_faults($emulator, { action => 'delay', ms => 150 });
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) SELECT 'Row ' || i, (9800000000 + i)::text FROM generate_series(1, 60) i");
my $refresh = start_session("CALL kapture_refresh('2021-03-10 00:00:00', '2021-03-10 23:59:59')");
my @sessions = map { start_session(join ';', ("SELECT $get") x 20) } 1 .. 2;
my $pull = start_session("SELECT count(*) FROM kapture_pull_customers('2021-03-10 00:00:00', '2021-03-10 23:59:59')");
# the puller waits for the end of the refresh, once that has begun
poll_ok($node, "SELECT count(*) = 1 FROM kapture_progress WHERE activity = 'refresh' AND state = 'running'", 'the refresh has begun');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD pull_interval '1s')");
unlike(finish($refresh), qr{ERROR}, 'the refresh has ended well');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_customers WHERE name LIKE 'There%'"), '3', 'and found its customers');
is(finish($pull), "3\n", 'so has the pull of a session');
like(finish($_), qr/\A(success\n){20}\z/, 'a session has all its answers') foreach @sessions;
poll_ok($node, 'SELECT count(*) = 60 FROM customers WHERE kapture_customer_id IS NOT NULL', 'all rows have their ids');
poll_ok($node, 'SELECT pulled_until IS NOT NULL FROM kapture_pull_status', 'an automatic pull has ended');
my $now = $stats->();
my $pulls = grep { $_->{api} eq 'pull' } @{ emulator_get($emulator, 'log') };
cmp_ok($pulls, '>', 48, 'refresh, session and automatic pull have asked for their windows');
cmp_ok($now->{max_requests_in_any_second}, '<=', 20, 'no second has seen more requests than rate_limit');
cmp_ok($now->{max_in_flight}, '<=', 3, 'and no more were in flight than max_connections');
cmp_ok($now->{max_in_flight}, '>=', 2, 'but as many as there was use for');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (DROP pull_interval, DROP rate_limit)");

# a session gets its turn while the worker has a backlog, and the other way round
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET max_connections '1')");
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) SELECT 'Backlog ' || i, (9810000000 + i)::text FROM generate_series(1, 40) i");
wait_for(sub { $stats->()->{in_flight} > 0 }, 'the backlog to be sent');
is($node->safe_psql('postgres', "SELECT $get"), 'success', 'a session has its answer');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM customers WHERE kapture_customer_id IS NULL'), '>', 20, 'while the backlog goes on');
poll_ok($node, 'SELECT count(*) = 100 FROM customers WHERE kapture_customer_id IS NOT NULL', 'the backlog is sent');
my $busy = start_session(join ';', ("SELECT $get") x 60);
wait_for(sub { $stats->()->{in_flight} > 0 }, 'the session to begin');
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Beside', '9820000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE phone = '9820000001'", 'a row is sent beside a session that calls without end');
ok($busy->{run}->pumpable, 'which has not ended');
like(finish($busy), qr/\A(success\n){60}\z/, 'and gets all its answers');

# a cursor that is left alone, with requests on their way, does not hold up the others
emulator_faults($emulator, { api => 'pull', action => 'delay', match => '2021-03-10 00:00:00', ms => 10 }, { api => 'pull', action => 'hang' });
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET max_connections '2')");
my $cursor = $node->background_psql('postgres');
$cursor->query_safe("BEGIN; DECLARE c CURSOR FOR SELECT id FROM kapture_pull_customers('2021-03-10 00:00:00', '2021-03-10 23:59:59')");
my $fetching = $cursor->query_until(qr/begun/, "\\echo begun\nFETCH 1 FROM c;\n");
wait_for(sub { $stats->()->{in_flight} >= 2 }, 'the cursor to have two windows asked for');
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Past the cursor', '9820000002')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE phone = '9820000002'", 'a row is sent past a pull that has taken all connections');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$cursor->quit;

# a session that is killed leaves no place taken
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET max_connections '1', SET timeout '1h')");
emulator_faults($emulator, { api => 'get', action => 'hang' });
my $hanging = start_session("SELECT $get");
wait_for(sub { $stats->()->{in_flight} > 0 }, 'the session to hang');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT kapture_get%' AND pid <> pg_backend_pid()");
like(finish($hanging), qr/terminating connection/, 'the session is ended');
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('After', '9820000003')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE phone = '9820000003'", 'its connection is free again');

# a session that waits for its turn is cancelled at once
emulator_faults($emulator, { api => 'add', action => 'hang' });
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Hangs', '9820000004')");
wait_for(sub { $stats->()->{in_flight} > 0 }, 'the Add to hang');
my ($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = '300ms'; SELECT $get");
like($err, qr/canceling statement due to statement timeout/, 'a call that waits for its turn is cancelled');

# a process that ends while it waits does not keep its place
my $gone = start_session("SELECT $get");
poll_ok($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT kapture_get%' AND wait_event IN ('KapturePace', 'Extension') AND pid <> pg_backend_pid()", 'a session waits for its turn');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'SELECT kapture_get%' AND pid <> pg_backend_pid()");
like(finish($gone), qr/terminating connection/, 'and is ended');
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Behind', '9820000005')");
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE phone = '9820000005'", 'those behind it have their turn');

$node->stop;
done_testing();
