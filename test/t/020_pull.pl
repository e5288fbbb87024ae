# Pulls as rows: windows, time zones, faults.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator('--pull-limit-hours', 24);
my $node = new_node('pull');
setup_sync($node, $emulator, options => "max_connections '4'");
$node->safe_psql('postgres', "ALTER DATABASE postgres SET timezone = 'UTC'");

sub server_options
{
	my ($options) = @_;
	$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS ($options)");
	return;
}

# Empties emulator and rules; seeds customers made at these local times.
sub seed
{
	my ($emulator, @times) = @_;
	my $n = 0;
	emulator_post($emulator, 'reset', {});
	emulator_post($emulator, 'seed',
		[ map { { customer_name => "At $_", phone => sprintf('9%09d', $n++), generated => $_ } } @times ]);
	return;
}

sub pull_requests
{
	my ($emulator) = @_;
	return grep { $_->{api} eq 'pull' } @{ emulator_get($emulator, 'log') };
}

# The names of pulled customers, in the order of the windows.
sub names
{
	my ($start, $end, $server) = @_;
	$server ||= 'kapture';
	return $node->safe_psql('postgres', "SELECT name FROM kapture_pull_customers('$start', '$end', '$server')");
}

# How many sockets a process has open.
sub sockets
{
	my ($pid) = @_;
	return scalar grep { (readlink($_) || '') =~ /^socket:/ } glob "/proc/$pid/fd/*";
}

sub lines { return join "\n", map { "At $_" } @_; }

# windows, and customers on their edges
my @times = map { ("2021-03-$_ 00:00:00", "2021-03-$_ 00:00:01", "2021-03-$_ 12:00:00", "2021-03-$_ 23:59:59") } 10 .. 19;
seed($emulator, @times, '2021-03-09 23:59:59', '2021-03-20 00:00:00');
is(names('2021-03-10', '2021-03-19'), lines(@times), 'ten windows: everybody comes once, in order');
is(scalar(pull_requests($emulator)), 10, 'and each window was asked for once');
is(names('2021-03-10 00:00:00', '2021-03-10 00:00:01'), lines('2021-03-10 00:00:00', '2021-03-10 00:00:01'),
	'a range within a day');
is(names('2021-03-10 12:00:00', '2021-03-10 12:00:00'), lines('2021-03-10 12:00:00'), 'a range of one second');
is(names('2019-03-10', '2019-03-30'), '', 'windows without customers give no rows');
seed($emulator, @times);
server_options("ADD pull_window '1 second'");
is(names('2021-03-10 00:00:00', '2021-03-10 00:00:03'), lines('2021-03-10 00:00:00', '2021-03-10 00:00:01'),
	'windows of a second');
server_options("SET pull_window '48 hours'");
my ($rc, $out, $err) = $node->psql('postgres', "SELECT id FROM kapture_pull_customers('2021-03-10', '2021-03-19')");
like($err, qr/ERROR:  the pull request to server "kapture" failed\n.*Kapture says: Customers of more than the allowed hours cannot be pulled at once/s,
	'what Kapture refuses is an error with its words');
server_options("SET pull_window '24 hours'");

# several at a time, not more than max_connections
seed($emulator, @times);
emulator_faults($emulator, { api => 'pull', action => 'delay', ms => 100 });
is(names('2021-03-10', '2021-03-19'), lines(@times), 'windows that are under way together come in order');
my $most = emulator_get($emulator, 'stats')->{max_in_flight};
ok($most > 1 && $most <= 4, "several windows are asked for at a time, at most max_connections ($most)");
emulator_faults($emulator, { api => 'pull', action => 'delay', ms => 500, match => '2021-03-12', count => 1 });
is(names('2021-03-10', '2021-03-19'), lines(@times), 'a slow window keeps its place');

# what gets better by itself
foreach my $fault (
	{ action => 'status', code => 503 },
	{ action => 'status', code => 503, headers => { 'Retry-After' => '1' } },
	{ action => 'status', code => 429, headers => { 'Retry-After' => '1' } },
	{ action => 'drop_before' },
	{ action => 'drop_after' },
	{ action => 'truncate' },
	{ action => 'garbage' },
	{ action => 'html' })
{
	my $name = join ' ', map { ref $fault->{$_} ? 'with Retry-After' : $fault->{$_} } sort keys %$fault;

	seed($emulator, @times);
	emulator_faults($emulator, { api => 'pull', skip => 2, count => 2, %$fault });
	is(names('2021-03-10', '2021-03-19'), lines(@times), "windows are repeated after: $name");
	is(emulator_get($emulator, 'stats')->{faults}, 2, "which happened: $name");
}
seed($emulator, @times);
emulator_faults($emulator, { api => 'pull', action => 'hang', count => 1 });
is(names('2021-03-10', '2021-03-19'), lines(@times), 'a window is repeated after a timeout');
emulator_faults($emulator, { api => 'get', action => 'status', code => 503, count => 1 });
is($node->safe_psql('postgres', "SELECT name FROM kapture_find_customers('{\"phone\": \"9000000000\"}')"),
	'At 2021-03-10 00:00:00', 'a search is repeated, too');

# kapture_pull() of a longer range repeats its windows in the same way, and gives back what Kapture refuses
sub pulled
{
	return $node->safe_psql('postgres', "SELECT string_agg(c->>'name', E'\\n' ORDER BY c->>'name') FROM jsonb_array_elements(kapture_pull('2021-03-10', '2021-03-19')->'message') AS c");
}
emulator_faults($emulator, { api => 'pull', action => 'status', code => 503, skip => 1, count => 2 });
is(pulled(), lines(sort @times), 'kapture_pull repeats windows');
emulator_faults($emulator, { api => 'pull', action => 'status', code => 401, body => '{"message": "Invalid Auth Key", "status": "failed"}', skip => 1 });
is($node->safe_psql('postgres', "SELECT kapture_pull('2021-03-10', '2021-03-19')"), '{"status": "failed", "message": "Invalid Auth Key"}',
	'and returns a refusal as it is');

# Retry-After is kept
server_options("SET max_connections '1'");
seed($emulator, @times);
emulator_faults($emulator, { api => 'pull', action => 'status', code => 429, headers => { 'Retry-After' => '2' }, skip => 1, count => 1 });
is(names('2021-03-10', '2021-03-12'), lines(@times[ 0 .. 11 ]), 'a pull that was told to wait');
my @log = pull_requests($emulator);
is($log[1]{code}, 429, 'the second request was told so');
cmp_ok($log[2]{time}, '>=', $log[1]{time} + 1.9, 'and the next one came no earlier');
is($log[2]{body}, $log[1]{body}, 'it was the same window');

# what does not get better
seed($emulator, @times);
emulator_faults($emulator, { api => 'pull', action => 'status', code => 503, body => 'down', skip => 1 });
($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_pull_stream('2021-03-10', '2021-03-19', 'kapture')");
like($err, qr/ERROR:  answer of server "kapture" is not JSON\n.*HTTP code 503/s, 'a server that stays down is an error');
is(scalar(grep { $_->{code} == 503 } pull_requests($emulator)), 5, 'after five attempts');
emulator_faults($emulator, { api => 'pull', action => 'status', code => 429, body => '{"message": "Too many"}', headers => { 'Retry-After' => '7200' } });
($rc, $out, $err) = $node->psql('postgres', "SELECT id FROM kapture_pull_customers('2021-03-10', '2021-03-19')");
like($err, qr/ERROR:  server "kapture" allows no more requests for now\n.*Kapture says: Too many/s,
	'a server that wants to be left alone for hours is an error');
seed($emulator, @times);
emulator_faults($emulator, { api => 'pull', action => 'status', code => 401, body => '{"message": "Invalid Auth Key", "status": "failed"}', skip => 1 });
($rc, $out, $err) = $node->psql('postgres', "SELECT id FROM kapture_pull_customers('2021-03-10', '2021-03-19')");
like($err, qr/ERROR:  server "kapture" denied the pull request\n.*Kapture says: Invalid Auth Key/s, 'so is a key that is denied');
is(scalar(pull_requests($emulator)), 2, 'and it is not tried again');
emulator_faults($emulator, { api => 'pull', action => 'endless' });
server_options("ADD max_response_size '100kB'");
($rc, $out, $err) = $node->psql('postgres', "SELECT id FROM kapture_pull_customers('2021-03-10', '2021-03-19')");
like($err, qr/the answer is too large.*"max_response_size"/s, 'and an answer that is too large');
server_options("DROP max_response_size");
server_options("SET max_connections '4'");
emulator_faults($emulator);

# first rows first; cursors
seed($emulator, @times);
emulator_faults($emulator, { api => 'pull', action => 'delay', match => '2021-03-10 00:00:00' }, { api => 'pull', action => 'hang' });
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query('SELECT pg_backend_pid()');
is($session->query("BEGIN; DECLARE c CURSOR FOR SELECT name FROM kapture_pull_customers('2021-03-10', '2022-03-09'); FETCH 2 FROM c"),
	lines(@times[ 0, 1 ]), 'the first rows of a year are there after its first window');
my $open = sockets($pid);
$session->query('CLOSE c');
cmp_ok(sockets($pid), '<', $open, 'closing the cursor gives up the requests');
cmp_ok(scalar(pull_requests($emulator)), '<=', 4, 'and no more windows are asked for');
emulator_faults($emulator);
is($session->query("SELECT count(*) FROM kapture_pull_customers('2021-03-10', '2021-03-19')"), '40', 'the transaction goes on');
$session->query("COMMIT");
is($node->safe_psql('postgres', "SELECT name FROM kapture_pull_customers('2021-03-10', '2030-03-09') LIMIT 5"), lines(@times[ 0 .. 4 ]),
	'LIMIT ends a pull of years');
is($session->query(qq(
BEGIN;
DECLARE a CURSOR FOR SELECT name FROM kapture_pull_customers('2021-03-10', '2021-03-19');
DECLARE b CURSOR FOR SELECT name FROM kapture_pull_customers('2021-03-11', '2021-03-19');
FETCH 6 FROM a; FETCH 6 FROM b; FETCH ALL FROM a; FETCH ALL FROM b;
COMMIT)), lines(@times[ 0 .. 5, 4 .. 9, 6 .. 39, 10 .. 39 ]), 'two pulls by turns do not mix');
is($session->query(qq(
BEGIN;
DECLARE a CURSOR FOR SELECT name FROM kapture_pull_customers('2021-03-10', '2021-03-19');
FETCH 1 FROM a;
SAVEPOINT s;
SELECT name FROM kapture_pull_customers('2021-03-10', '2021-03-19', 'nowhere');
ROLLBACK TO s;
FETCH 1 FROM a;
COMMIT)), lines(@times[ 0, 1 ]), 'a pull outlives an error in a subtransaction');

# cancelling
my $faults = emulator_get($emulator, 'stats')->{faults};
emulator_faults($emulator, { api => 'pull', action => 'hang', skip => 1 });
server_options("SET timeout '1h'");
$session->query_until(qr/started/, "\\echo started\nSELECT count(*) FROM kapture_pull_customers('2021-03-10', '2021-03-19');\n");
wait_for(sub { emulator_get($emulator, 'stats')->{faults} > $faults }, 'requests to hang');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
emulator_faults($emulator);
is($session->query("SELECT count(*) FROM kapture_pull_customers('2021-03-10', '2021-03-19')"), '40',
	'a pull that waits can be cancelled, and the session goes on');
emulator_faults($emulator, { api => 'pull', action => 'status', code => 503, headers => { 'Retry-After' => '500' } });
($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = '300ms'; SELECT id FROM kapture_pull_customers('2021-03-10', '2021-03-19')");
like($err, qr/canceling statement due to statement timeout/, 'so can one that was told to wait');
emulator_faults($emulator);
server_options("SET timeout '2s'");

# a leap day
@times = ('2020-02-28 23:59:59', '2020-02-29 00:00:00', '2020-02-29 12:00:00', '2020-02-29 23:59:59', '2020-03-01 00:00:00');
seed($emulator, @times);
is(names('2020-02-28', '2020-03-01'), lines(@times), 'windows around a leap day');
is($node->safe_psql('postgres', "SELECT bool_and(generation_date = right(name, 19)::timestamp AT TIME ZONE 'Asia/Kolkata') FROM kapture_pull_customers('2020-02-28', '2020-03-01')"),
	't', 'times are those of the account');

# a time zone with days of 23 and 25 hours
my $newyork = start_emulator('--pull-limit-hours', 24, '--timezone', 'America/New_York');
$node->safe_psql('postgres', qq(
CREATE SERVER newyork FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$newyork->{url}', timezone 'America/New_York');
CREATE USER MAPPING FOR CURRENT_USER SERVER newyork OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
foreach my $days ([ '2021-03-12', '2021-03-13', '2021-03-14', '2021-03-15', '2021-03-16' ],
	[ '2021-11-05', '2021-11-06', '2021-11-07', '2021-11-08', '2021-11-09' ])
{
	# those that come twice or never differ in what they mean: not these
	@times = map { my $day = $_; map { "$day $_" } '00:00:00', '00:59:59', '03:00:00', '22:59:59', '23:00:00', '23:59:59' } @$days;
	foreach my $start ('00:00:00', '01:30:00', '02:30:00', '13:00:00')
	{
		my @after = grep { $_ ge "$days->[0] $start" } @times;
		seed($newyork, @times);
		is(names("$days->[0] $start", $days->[4], 'newyork'), lines(@after), "windows around $days->[2], cut at $start");
	}
	is($node->safe_psql('postgres', "SELECT bool_and(generation_date = right(name, 19)::timestamp AT TIME ZONE 'America/New_York') FROM kapture_pull_customers('$days->[0]', '$days->[4]', 'newyork')"),
		't', "times around $days->[2]");
}
stop_emulator($newyork);

$session->quit;
$node->stop;
done_testing();
