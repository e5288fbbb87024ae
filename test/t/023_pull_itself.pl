# Pulls by themselves: what they bring, from when on, and what failures do.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $emulator = start_emulator('--pull-limit-hours', 24);
my $node = new_node('pulls');
setup_sync($node, $emulator);
my $n = 0;

# customers that were made so many seconds ago
sub seed
{
	emulator_post($emulator, 'seed', [ map { { kapture_customer_id => 1000 + $n, customer_name => "Customer $n", phone => sprintf('9%09d', $n++), generated => ago($_) } } @_ ]);
	return;
}

sub server { $node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS ($_[0])"); return; }
sub pulls { return sort { field($a, 'start_date') cmp field($b, 'start_date') } grep { $_->{api} eq 'pull' } @{ emulator_get($emulator, 'log') }; }
sub field { return $_[0]->{body} =~ /"$_[1]": "([^"]*)"/ ? $1 : die "no $_[1]"; }
my $count = 'SELECT count(*) FROM kapture_customers';

# options
my @bad = (
	[ "pull_interval 'soon'", qr/invalid value for option "pull_interval": "soon"\n.*HINT:  Write a number and a unit/s ],
	[ "pull_interval '0'", qr/between 1 second and/ ],
	[ "pull_overlap '1 month'", qr/It must not have months or years/ ],
	[ "pull_since 'yesterday'", qr/HINT:  Write it in the account's local time/ ],
	[ "pull_since '2021-02-29'", qr/It must be a date/ ],
	[ "pull_since '2021-03-14 25:00:00'", qr/It must be a date/ ],
	[ "sweep_rate '0'", qr/It must be a number between 0.001/ ]);
foreach my $case (@bad)
{
	my ($rc, $out, $err) = $node->psql('postgres', "ALTER SERVER kapture OPTIONS (ADD $case->[0])");
	like($err, $case->[1], "$case->[0] is refused");
}

# off by default
seed(3 * 86400, 2 * 86400, 86400, 3600, 60);
poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'the worker is there');
is($node->safe_psql('postgres', "SELECT kapture_puller_pid() IS NULL, (SELECT count(*) FROM kapture_pull_status)"), 't|0', 'nothing is pulled unless asked for');

# on, from some time on
server("ADD pull_interval '1s', ADD pull_since '" . ago(3.5 * 86400) . "'");
poll_ok($node, "SELECT count(*) = 5 FROM kapture_customers", 'customers of days come by themselves');
poll_ok($node, "SELECT state IN ('waiting', 'pulling') AND failures = 0 AND pulled_until IS NOT NULL FROM kapture_pull_status", 'the state says so');
poll_ok($node, "SELECT bool_and(state IN ('done', 'running') AND windows_total >= windows_done) FROM kapture_progress WHERE activity = 'pull'", 'so does the progress');
is(scalar(grep { $_->{code} != 200 } pulls()), 0, 'no request is for more than a day');
is($node->safe_psql('postgres', "SELECT backend_type FROM pg_stat_activity WHERE pid = kapture_puller_pid()"), 'kapture_sync puller', 'by a process of its own');
seed(1);
poll_ok($node, "SELECT count(*) = 6 FROM kapture_customers", 'a new customer comes');
poll_ok($node, "SELECT sum(requests) > 0 FROM kapture_stat_requests WHERE api = 'pull'", 'requests are counted');

# an attached table shows it, too
create_customers($node);
poll_ok($node, "SELECT pull_state IN ('waiting', 'pulling') AND pulled_until IS NOT NULL AND pull_error IS NULL FROM kapture_status", 'kapture_status has it');

# the watermark outlives the server
server("SET pull_interval '1h'");
poll_ok($node, "SELECT state = 'waiting' FROM kapture_pull_status", 'the pull under way ends');
$node->safe_psql('postgres', "UPDATE kapture_pull SET pulled_until = now() - interval '1 day 12 hours', started_at = '2021-01-01'");
emulator_post($emulator, 'reset', {});
seed(36 * 3600 + 600, 30 * 3600, 60);
$node->restart;
poll_ok($node, "SELECT count(*) = 9 FROM kapture_customers", 'what was made while it was down comes after a restart');
my @asked = pulls();
is(scalar(@asked), 2, 'in windows of a day');
my $start = $node->safe_psql('postgres', "SELECT abs(extract(epoch FROM ('" . field($asked[0], 'start_date') . "'::timestamp AT TIME ZONE 'Asia/Kolkata') - now() + interval '36 hours 15 minutes')) < 600");
is($start, 't', 'from an overlap before the watermark on');
is(field($asked[1], 'start_date'), field($asked[0], 'end_date'), 'without a gap');
poll_ok($node, "SELECT next_pull > now() FROM kapture_pull_status", 'and then the next is waited for');

# failures are not empty windows
$node->safe_psql('postgres', "CREATE TABLE before AS SELECT pulled_until FROM kapture_pull");
emulator_faults($emulator, { api => 'pull', action => 'status', code => 429, headers => { 'Retry-After' => '3600' }, count => 1, body => '{}' });
server("SET pull_interval '1s'");
poll_ok($node, "SELECT state = 'failing' AND failures = 1 AND next_pull > now() + interval '50 minutes' FROM kapture_pull_status", '429 is a failure, and Retry-After is waited for');
is($node->safe_psql('postgres', "SELECT p.pulled_until = b.pulled_until FROM kapture_pull p, before b"), 't', 'the watermark stays');
server("ADD pull_overlap '20 minutes'");
poll_ok($node, "SELECT failures = 0 AND last_error IS NULL FROM kapture_pull_status", 'changed settings are tried at once');
ok($node->log_contains(qr/pulling from server "kapture" in database "postgres" failed: .*\n(.*\n)*.*pulling from server "kapture" in database "postgres" works again/), 'the log says both');

emulator_faults($emulator, { api => 'pull', action => 'status', code => 400, body => '{"message": "Out of order", "status": "failed"}' });
poll_ok($node, "SELECT state = 'failing' AND last_error LIKE '%Out of order%' FROM kapture_pull_status", 'what Kapture refuses is shown');
poll_ok($node, "SELECT pull_state = 'failing' AND pull_error LIKE '%Out of order%' FROM kapture_status", 'in kapture_status, too');
seed(1);
emulator_faults($emulator);
poll_ok($node, "SELECT count(*) = 10 FROM kapture_customers", 'and tried again');

emulator_post($emulator, 'keys', { all => 'c2VjcmV0OnNlY3JldA==' });
poll_ok($node, "SELECT last_error LIKE '%Invalid Auth Key%' FROM kapture_pull_status", 'a wrong key is shown');
seed(1);
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET auth_key 'c2VjcmV0OnNlY3JldA==')");
poll_ok($node, "SELECT count(*) = 11 FROM kapture_customers", 'the right one is tried at once');
emulator_post($emulator, 'keys', { all => 'a2FwZGVtbzprYXAxMjM=' });
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET auth_key 'a2FwZGVtbzprYXAxMjM=')");
poll_ok($node, "SELECT state <> 'failing' FROM kapture_pull_status", 'and the other one');

# one refresh at a time
server("SET timeout '1h'");
emulator_faults($emulator, { api => 'pull', action => 'hang' });
poll_ok($node, "SELECT state = 'pulling' AND windows_done = 0 FROM kapture_pull_status", 'a pull hangs');
wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} > 0 }, 'its request');
my ($rc, $out, $err) = $node->psql('postgres', "CALL kapture_refresh('2021-03-10', '2021-03-10')");
like($err, qr/is being refreshed by another session/, 'a refresh does not run beside it');
is($node->safe_psql('postgres', "SELECT backend_xmin IS NULL AND xact_start IS NULL FROM pg_stat_activity WHERE pid = kapture_puller_pid()"), 't', 'no transaction is open meanwhile');

# other servers are not kept waiting
my $other = start_emulator();
$node->safe_psql('postgres', qq(
CREATE ROLE tenant LOGIN;
CREATE SERVER other FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$other->{url}', pull_interval '1s', pull_since '2021-03-14');
ALTER SERVER other OWNER TO tenant;
CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
poll_ok($node, "SELECT last_error LIKE 'user \"tenant\" has no user mapping%' FROM kapture_pull_status WHERE server = 'other'", 'nobody pulls with a key of others');
is(scalar(@{ emulator_get($other, 'log') }), 0, 'nothing was sent');
$node->safe_psql('postgres', "ALTER SERVER other OPTIONS (SET pull_since '" . ago(86400) . "'); CREATE USER MAPPING FOR tenant SERVER other OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
emulator_post($other, 'seed', [ { customer_name => 'Of the other', phone => '9111111111', generated => ago(60) } ]);
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE server = 'other'", 'the owner\'s key is used, while the first server hangs');
$node->safe_psql('postgres', "DROP SERVER other CASCADE");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_pull WHERE server = 'other'", 'a dropped server is forgotten');

# what was asked for in one time zone is not read in another
my $zoned = start_emulator();
my $made = ago(3600);
emulator_post($zoned, 'seed', [ { customer_name => 'Zoned', phone => '9222222222', generated => $made } ]);
emulator_faults($zoned, { api => 'pull', action => 'hold' });
my $zoned_pulls = sub { scalar(grep { $_->{api} eq 'pull' } @{ emulator_get($zoned, 'log') }) };
$node->safe_psql('postgres', qq(
CREATE SERVER zoned FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$zoned->{url}', timeout '1h', pull_interval '1s', pull_since '@{[ ago(21600) ]}');
CREATE USER MAPPING FOR CURRENT_USER SERVER zoned OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
wait_for(sub { $zoned_pulls->() >= 1 }, 'a pull to be under way');
$node->safe_psql('postgres', "ALTER SERVER zoned OPTIONS (ADD timezone 'Asia/Tokyo')");
wait_for(sub { $zoned_pulls->() >= 2 }, 'it to be asked for again in another time zone');
emulator_faults($zoned);
emulator_post($zoned, 'release', {});
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE server = 'zoned' AND name = 'Zoned'", 'a pull is under way as the time zone changes');
is($node->safe_psql('postgres', "SELECT generation_date = '$made'::timestamp AT TIME ZONE 'Asia/Tokyo' FROM kapture_customers WHERE server = 'zoned' AND name = 'Zoned'"),
	't', 'its times are read in the new one');
$node->safe_psql('postgres', "DROP SERVER zoned CASCADE");

# off again
server("DROP pull_interval");
poll_ok($node, "SELECT kapture_puller_pid() IS NULL", 'without the option there is no puller');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_pull_status"), '0', 'nor a state');

# windows that are cut off without a word
my $cutting = start_emulator('--pull-limit-rows', 50);
emulator_post($cutting, 'seed', [ map { { customer_name => "Many $_", phone => sprintf('8%09d', $_), generated => ago(3600 + $_) } } 1 .. 333 ]);
emulator_post($cutting, 'seed', [ map { { customer_name => "At once $_", phone => sprintf('7%09d', $_), generated => ago(30000) } } 1 .. 60 ]);
$node->safe_psql('postgres', qq(
CREATE SERVER cutting FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$cutting->{url}', pull_interval '1h', pull_since '@{[ ago(86400) ]}');
CREATE USER MAPPING FOR CURRENT_USER SERVER cutting OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
poll_ok($node, "SELECT finished_at IS NOT NULL FROM kapture_pull_status", 'a server that leaves out what is beyond 50 customers is pulled from');
is($node->safe_psql('postgres', "$count WHERE server = 'cutting' AND name LIKE 'Many%'"), '333', 'all come, in halves of halves')
  or diag(join "\n", $node->safe_psql('postgres', "SELECT 'missing: ' || string_agg(i::text, ' ') FROM generate_series(1, 333) i WHERE NOT EXISTS (SELECT FROM kapture_customers WHERE server = 'cutting' AND name = 'Many ' || i)"),
	$node->safe_psql('postgres', "SELECT row_to_json(p) FROM kapture_pull p"), map { "$_->{code} $_->{body}" } @{ emulator_get($cutting, 'log') });
is($node->safe_psql('postgres', "$count WHERE server = 'cutting' AND name LIKE 'At once%'"), '50', 'but for those of one second');
ok($node->log_contains(qr/returned exactly 50 customers for a single second/), 'which the log says');
$node->safe_psql('postgres', "DROP SERVER cutting CASCADE");

# a window is written in slices: what is written stays if a later slice fails, and the watermark waits for the last one
my $sliced = start_emulator();
emulator_post($sliced, 'seed', [ map { { customer_name => "Slice $_", phone => sprintf('6%09d', $_), generated => ago(7110 - 22 * $_) } } 1 .. 300 ]);
$node->safe_psql('postgres', qq(
CREATE TABLE broken (name text);
INSERT INTO broken VALUES ('Slice 290');
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
  PERFORM pg_sleep(0.01);
  IF NEW.name IN (SELECT name FROM public.broken) THEN RAISE EXCEPTION 'broken'; END IF;
  RETURN NEW;
END \$\$;
CREATE TRIGGER slow BEFORE INSERT ON kapture_customers FOR EACH ROW WHEN (NEW.server = 'sliced') EXECUTE FUNCTION slow();
CREATE TABLE failed (failures int, windows_done bigint, behind interval);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
  INSERT INTO public.failed VALUES (NEW.failures, NEW.windows_done, now() - NEW.pulled_until);
  RETURN NULL;
END \$\$;
CREATE TRIGGER note AFTER UPDATE ON kapture_pull FOR EACH ROW WHEN (NEW.server = 'sliced' AND NEW.failures > OLD.failures) EXECUTE FUNCTION note();
CREATE SERVER sliced FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$sliced->{url}', pull_interval '1h', pull_since '@{[ ago(7200) ]}', pull_window '1h');
CREATE USER MAPPING FOR CURRENT_USER SERVER sliced OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
poll_ok($node, "SELECT last_error LIKE '%broken%' FROM kapture_pull_status WHERE server = 'sliced'", 'a customer in the middle of the second window cannot be written');
is($node->safe_psql('postgres', "SELECT count(*) > 180 AND count(*) < 300 FROM kapture_customers WHERE server = 'sliced'"), 't', 'those before are there')
  or diag($node->safe_psql('postgres', "$count WHERE server = 'sliced'"));
is($node->safe_psql('postgres', "SELECT windows_done, behind BETWEEN '50 minutes' AND '70 minutes' FROM failed WHERE failures = 1"), '1|t', 'but the window is not done');
$node->safe_psql('postgres', qq(BEGIN; CREATE SERVER beside FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$sliced->{url}', pull_interval '1h', pull_since '@{[ ago(1500) ]}');
CREATE USER MAPPING FOR CURRENT_USER SERVER beside OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM='); COMMIT));
poll_ok($node, "SELECT count(*) > 20 FROM kapture_customers WHERE server = 'beside'", "the owner's other servers are pulled from");
poll_ok($node, "SELECT failures >= 2 FROM kapture_pull_status WHERE server = 'sliced'", 'the pull is tried again, long before the next one is due');
$node->safe_psql('postgres', 'DELETE FROM broken');
poll_ok($node, "SELECT finished_at IS NOT NULL AND next_pull > now() + interval '50 minutes' FROM kapture_pull_status WHERE server = 'sliced'", 'and comes to its end when it can');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_customers WHERE server = 'sliced'"), '300', 'with all customers');
is($node->safe_psql('postgres', "SELECT pulled_until = (SELECT max(generation_date) FROM kapture_customers WHERE server = 'sliced') FROM kapture_pull_status WHERE server = 'sliced'"),
	't', 'and is shown to have come to the latest of them');
cmp_ok($node->safe_psql('postgres', "SELECT count(DISTINCT xmin::text) FROM kapture_customers WHERE server = 'sliced'"), '>', 8, 'which were written in slices, small ones as they took long');

# a pull that is interrupted goes on with the next process
$node->safe_psql('postgres', "INSERT INTO broken VALUES ('Slice 290'); DELETE FROM kapture_customers WHERE server = 'sliced' AND name IN ('Slice 200', 'Slice 290')");
emulator_faults($sliced, { api => 'pull', action => 'hang' });
$node->safe_psql('postgres', "UPDATE kapture_pull SET pulled_until = now() - interval '6900 seconds' WHERE server = 'sliced'; SELECT kapture_pull_now('sliced')");
poll_ok($node, "SELECT state = 'pulling' FROM kapture_pull_status WHERE server = 'sliced'", 'a pull gets no answer');
$node->safe_psql('postgres', 'DELETE FROM broken');
emulator_faults($sliced);
$node->safe_psql('postgres', 'SELECT pg_terminate_backend(kapture_puller_pid())');
poll_ok($node, "SELECT finished_at IS NOT NULL FROM kapture_pull_status WHERE server = 'sliced'", 'another process begins it anew');
is($node->safe_psql('postgres', "SELECT customers, written, (SELECT count(*) FROM kapture_customers c WHERE c.server = p.server) FROM kapture_pull_status p WHERE server = 'sliced'"),
	'300|4|300', 'and counts what came in all of its windows');

# which keeps to what the server has asked for
emulator_faults($sliced, { api => 'pull', action => 'status', code => 429, headers => { 'Retry-After' => '3600' }, count => 1, body => '{}' });
$node->safe_psql('postgres', "SELECT kapture_pull_now('sliced')");
poll_ok($node, "SELECT state = 'failing' AND next_pull > now() + interval '50 minutes' FROM kapture_pull_status WHERE server = 'sliced'", 'a server is not to be asked for an hour');
my ($began, $ended) = split /\|/, $node->safe_psql('postgres', "SELECT max(started_at) FILTER (WHERE server = 'sliced'), max(finished_at) FILTER (WHERE server = 'beside') FROM kapture_pull_status");
restart_worker($node, 'another process comes', process => 'puller');
$node->safe_psql('postgres', "SELECT kapture_pull_now('beside')");
poll_ok($node, "SELECT finished_at > '$ended' FROM kapture_pull_status WHERE server = 'beside'", 'and pulls from another server');
is($node->safe_psql('postgres', "SELECT state, started_at = '$began' FROM kapture_pull_status WHERE server = 'sliced'"), 'failing|t', 'but not from that one');
my $pulls = emulator_get($sliced, 'stats')->{requests};
$node->safe_psql('postgres', "SELECT kapture_pull_now('beside')");
poll_ok($node, "SELECT NOT EXISTS (SELECT FROM kapture_pull_asked) AND finished_at IS NOT NULL FROM kapture_pull_status WHERE server = 'beside'", 'one that is done');
is(emulator_get($sliced, 'stats')->{requests} - $pulls, 1, 'is asked once');
$node->safe_psql('postgres', "DROP TRIGGER slow ON kapture_customers; DROP TRIGGER note ON kapture_pull; DROP FUNCTION slow, note; DROP TABLE broken, failed; DROP SERVER sliced CASCADE; DROP SERVER beside CASCADE");

# switched off
emulator_faults($emulator);
server("ADD pull_interval '1s'");
poll_ok($node, "SELECT kapture_puller_pid() IS NOT NULL", 'on again');
$node->append_conf('postgresql.conf', "kapture_sync.excluded_databases = 'postgres'");
$node->reload;
poll_ok($node, "SELECT kapture_puller_pid() IS NULL", 'nothing runs in an excluded database');
$node->append_conf('postgresql.conf', "kapture_sync.excluded_databases = ''\nkapture_sync.enabled = off");
$node->reload;
poll_ok($node, "SELECT kapture_puller_pid() IS NOT NULL", 'it is no longer excluded');
emulator_post($emulator, 'reset', {});
$node->safe_psql('postgres', "SELECT kapture_get_customer('{\"phone\": \"1\"}')");
$node->append_conf('postgresql.conf', "kapture_sync.enabled = on");
seed(1);
my @none = pulls();
is(scalar(@none), 0, 'kapture_sync.enabled = off pulls nothing');
$node->reload;
poll_ok($node, "SELECT count(*) = 12 FROM kapture_customers WHERE server = 'kapture'", 'on: it does');

# the extension is dropped and created again
$node->safe_psql('postgres', "DROP EXTENSION kapture_sync CASCADE");
wait_for(sub { $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'kapture_sync puller'") eq '0' }, 'the puller to go');
setup_sync($node, $emulator, options => "pull_interval '1s', pull_since '" . ago(86400) . "'");
poll_ok($node, "SELECT count(*) > 0 FROM kapture_customers", 'dropped and created anew, it pulls again');

$node->stop;
done_testing();
