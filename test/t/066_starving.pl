# One tenant at its worst starves nobody: not by what its code does and calls in
# the worker, not by locks, not by large values, not by what stays behind, nor by
# all of it together.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use IO::Socket::INET;
use KaptureTest;
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $slowness = $ENV{KAPTURE_SLOWNESS} || 1;

# How many times longer all may take: what else runs on the machine takes its part of it.
sub patience
{
	my ($load) = slurp_file('/proc/loadavg') =~ /^([\d.]+)/;
	return $slowness * ($load > 3 ? $load / 3 : 1);
}
my $emulator = start_emulator();
my $other = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
my $key = 'a2FwZGVtbzprYXAxMjM=';

# the buffers that a process has touched count as its own memory
$node->append_conf('postgresql.conf', "shared_buffers = '4MB'\nmax_locks_per_transaction = 500\nmax_files_per_process = 200\n");
$node->restart;

sub as
{
	my ($role, $statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $statement, connstr => $node->connstr('postgres') . " user=$role", on_error_stop => 0);
	return "$out\n$err";
}
sub mallory { return as('mallory', $_[0]) }

# The sockets of a process.
sub sockets { my ($pid) = @_; return scalar(grep { (readlink($_) // '') =~ /^socket/ } glob("/proc/$pid/fd/*")); }

# A session of mallory's that keeps what it did open.
sub session
{
	my ($statement) = @_;
	my $session = { in => '', out => '' };
	$session->{handle} = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' user=mallory' ],
		'<', \$session->{in}, '>', \$session->{out}, '2>&1');
	$session->{in} .= "$statement; SELECT 'done';\n";
	wait_for(sub { $session->{handle}->pump_nb; $session->{out} =~ /done/ }, 'a session');
	unlike($session->{out}, qr/ERROR/, "is open: $statement");
	return $session;
}

sub end
{
	my ($session, $statement) = @_;
	$session->{in} .= "$statement;\n\\q\n";
	$session->{handle}->finish;
	return;
}

my ($rss, $hwm) = (qr/^VmRSS:\s+(\d+) kB/m, qr/^VmHWM:\s+(\d+) kB/m);
sub worker_memory
{
	my ($what, $process) = @_;
	my $pid = sql("SELECT kapture_@{[ $process || 'worker' ]}_pid()");
	slurp_file("/proc/$pid/status") =~ $what or die "no memory of process $pid";
	return $1;
}

sql(qq(
CREATE EXTENSION kapture_sync;
CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN;
CREATE SCHEMA AUTHORIZATION alice; CREATE SCHEMA AUTHORIZATION mallory;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO alice, mallory;
));
my $since = strftime('%Y-%m-%d %H:%M:%S', gmtime(time + 19800 - 86400));
sub servers
{
	my ($role, $url) = @_;
	return qq(
CREATE SERVER $role FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url', timeout '30s', pull_interval '1s', pull_since '$since');
CREATE USER MAPPING FOR $role SERVER $role OPTIONS (auth_key '$key');
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, phone text, city text);
SELECT kapture_attach('customers', server => '$role');
CREATE TABLE pulled (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('pulled', server => '$role', pull => true);
);
}
unlike(as('alice', servers('alice', $emulator->{url})), qr/ERROR/, 'alice is set up');
unlike(mallory(servers('mallory', $other->{url})), qr/ERROR/, 'mallory is set up');

# --- how long alice waits
my $alices = 9600000000;
my %worst;
my @all;

sub served
{
	my ($what, $ids) = @_;
	my $began = time;
	my $query = "SELECT count(*) = " . scalar(@$ids) . " FROM alice.customers WHERE id IN (" . join(',', @$ids) . ") AND kapture_customer_id IS NOT NULL";
	my $ok = 0;
	wait_for(sub { $ok = sql($query) eq 't'; $ok || time - $began > 60 * $slowness }, $what);
	my $took = time - $began;
	push @all, $took;
	$worst{$what} = $took if $took > ($worst{$what} || 0);
	return $ok;
}

sub alice_inserts
{
	$alices++;
	sql("SET ROLE alice; INSERT INTO alice.customers VALUES ($alices, 'Alice', '$alices')");
	return $alices;
}

# Alice's rows go, several times in a row, while mallory does what she does.
sub alice_is_served
{
	my ($what, $times, $bound) = @_;
	my $ok = 1;
	foreach (1 .. $times || 5)
	{
		$ok &&= served($what, [ alice_inserts() ]);
	}
	ok($ok && $worst{$what} < ($bound || 20) * patience(), "alice is served: $what") or diag("after $worst{$what} s");
	return;
}
alice_is_served('nobody else', 3);

my $mallorys = 9700000000;
sub mallory_inserts
{
	my ($table, $n, $values) = @_;
	my $first = $mallorys + 1;
	$mallorys += $n;
	$values ||= "i, 'Mallory', i::text";
	my $said = mallory("INSERT INTO mallory.$table SELECT $values FROM generate_series($first, $mallorys) i");
	unlike($said, qr/ERROR/, "$n rows of mallory's wait in $table");
	return;
}

# A table of mallory's whose trigger runs in the worker only.
sub hostile_table
{
	my ($name, $body, $declare) = @_;
	$declare = $declare ? "DECLARE $declare" : '';
	my $said = mallory(qq(
CREATE TABLE mallory.$name (id bigint PRIMARY KEY, customer_name text, phone text, city text, kapture_customer_id bigint);
CREATE FUNCTION mallory.$name() RETURNS trigger LANGUAGE plpgsql AS \$f\$ $declare BEGIN
  IF current_setting('application_name') <> '' THEN RETURN NEW; END IF;
  $body
  RETURN NEW;
END \$f\$;
CREATE TRIGGER hostile BEFORE UPDATE ON mallory.$name FOR EACH ROW EXECUTE FUNCTION mallory.$name();
SELECT kapture_attach('mallory.$name', server => 'mallory');
));
	unlike($said, qr/ERROR/, "$name is attached");
	return;
}
sub drop { mallory("DROP TABLE mallory.$_[0]"); return; }
my $idle = sub { my ($table) = @_; return "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'mallory.$table'::regclass" };

# --- a pull by users' code while answers to others arrive: they are not its own
hostile_table('pulls', "RAISE LOG 'mallory pulls'; PERFORM public.kapture_pull('2021-03-14', '2021-03-15', 'mallory');");
emulator_faults($other, { api => 'pull', action => 'delay', ms => 4000 });
emulator_faults($emulator, { api => 'add', action => 'hold' });
my @held = map { alice_inserts() } 1 .. 3;
wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} >= 3 }, q(alice's requests));
my $before_pull = -s $node->logfile;
mallory_inserts('pulls', 1);
wait_for(sub { slurp_file($node->logfile, $before_pull) =~ /mallory pulls/ }, 'the trigger');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
ok(served('a pull in a trigger', \@held), 'answers to alice that arrive while a trigger pulls are hers') or diag("after $worst{'a pull in a trigger'} s");
emulator_faults($other);
poll_ok($node, $idle->('pulls'), 'and mallory has what she pulled');
is(sql("SELECT count(*) FROM mallory.pulls WHERE kapture_customer_id IS NOT NULL"), '1', 'with the id written');
drop('pulls');

# --- locks of transactions that stay open
mallory_inserts('customers', 1, "i, 'Refused', '12'");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'mallory.customers'::regclass AND state = 'parked'", 'mallory has a failure');
foreach my $call ("kapture_retry('mallory.customers')", "kapture_discard('mallory.customers')", "kapture_pause('mallory.customers')", "kapture_backfill_slice('mallory.customers', 10)",
	"kapture_detach('mallory.customers')")
{
	my $session = session("BEGIN; SELECT $call");
	# (a table that is being detached cannot be written to)
	mallory("UPDATE mallory.customers SET city = 'Pune' WHERE phone = '12'") unless $call =~ /detach/;
	mallory_inserts('customers', 1) unless $call =~ /detach/;
	alice_is_served("$call is open", 2);
	restart_worker($node, 'a new worker') if $call =~ /retry/;
	alice_is_served("$call is open", 2);
	end($session, 'ROLLBACK');
	poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM mallory.customers WHERE phone <> '12'", 'and mallory when it is over');
}
mallory("BEGIN; SELECT kapture_retry('mallory.customers'); PREPARE TRANSACTION 'mallory'");
mallory("UPDATE mallory.customers SET city = 'Goa' WHERE phone = '12'");
mallory_inserts('customers', 1);
alice_is_served('a prepared transaction', 3);
mallory("COMMIT PREPARED 'mallory'");
poll_ok($node, $idle->('customers'), 'which ends');

# answers that come while their table is being detached
emulator_faults($other, { action => 'delay', ms => 1000 });
mallory_inserts('customers', 4);
poll_ok($node, "SELECT in_flight > 0 FROM kapture_status WHERE relation = 'mallory.customers'::regclass", 'requests are under way');
my $detach = session("BEGIN; SELECT kapture_detach('mallory.customers')");
emulator_faults($other);
alice_is_served('answers for a table that is being detached');
end($detach, 'ROLLBACK');
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM mallory.customers WHERE phone <> '12'", 'what could not be recorded is recorded then');
my %added = map { $_ => 1 } split /\n/, sql("SELECT phone FROM mallory.customers WHERE phone <> '12'");
is(scalar(grep { $added{ $_->{phone} } } @{ emulator_get($other, 'customers') }), scalar(keys %added), 'and nothing was added twice');

# a lock on one partition
mallory(q(CREATE TABLE mallory.parts (id bigint PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id);
CREATE TABLE mallory.parts_1 PARTITION OF mallory.parts DEFAULT; SELECT kapture_attach('mallory.parts', server => 'mallory')));
my $part = session("BEGIN; LOCK TABLE mallory.customers; SAVEPOINT a; LOCK TABLE mallory.pulled");
end($part, 'ROLLBACK');
mallory("SELECT kapture_pause('mallory.parts')");
mallory_inserts('parts', 300);
$part = session("BEGIN; LOCK TABLE mallory.parts_1");
mallory("SELECT kapture_resume('mallory.parts')");
alice_is_served('a locked partition with 300 rows');
end($part, 'ROLLBACK');
poll_ok($node, 'SELECT count(kapture_customer_id) > 100 FROM mallory.parts', 'and the rows go when it is free');
mallory('DROP TABLE mallory.parts');

# --- what users' code leaves behind
# a claim holds its attachment, too
my $held = "FROM pg_locks WHERE pid = kapture_worker_pid() AND granted AND classid IS DISTINCT FROM 'kapture_attachment'::regclass";
is(sql("SELECT count(*) $held AND locktype = 'object'"), 1, 'the worker has its lock');
hostile_table('locker', 'PERFORM pg_advisory_lock(i), pg_advisory_xact_lock(i, 1) FROM generate_series(1, 1000) i; PERFORM pg_advisory_unlock_all() FROM generate_series(1, NEW.id % 2);'
	  . " PERFORM set_config('lock_timeout', '0', false), set_config('search_path', 'mallory', false);");
mallory_inserts('locker', 5);
poll_ok($node, 'SELECT bool_and(kapture_customer_id IS NOT NULL) FROM mallory.locker', 'code that takes locks');
is(sql("SELECT count(*) $held AND locktype = 'advisory'"), 0, 'leaves none');
is(sql("SELECT count(*) $held AND locktype = 'object'"), 1, 'and takes none away');
foreach my $statement ('DECLARE c CURSOR WITH HOLD FOR SELECT 1', 'PREPARE p AS SELECT 1', 'LISTEN mallory', 'CREATE TEMP TABLE t (a int)')
{
	mallory(qq(CREATE OR REPLACE FUNCTION mallory.locker() RETURNS trigger LANGUAGE plpgsql AS \$f\$ BEGIN
IF current_setting('application_name') = '' THEN EXECUTE '$statement'; END IF; RETURN NEW; END \$f\$));
	mallory_inserts('locker', 1);
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE row_key = '$mallorys' AND state = 'parked' AND message ~ 'security-restricted'", "and cannot: $statement");
}
drop('locker');

# settings by which an error, or a time that is up, would end the worker
my $pg = sql('SHOW server_version_num') / 10000;
hostile_table('settings', q(BEGIN PERFORM set_config('exit_on_error', 'on', true); EXCEPTION WHEN OTHERS THEN NULL; END; RAISE EXCEPTION 'no';));
hostile_table('times', q(PERFORM set_config('transaction_timeout', '10', true), pg_sleep(1);)) if $pg >= 17;
my $unharmed = sql("SELECT kapture_worker_pid()");
foreach my $table ('settings', $pg >= 17 ? 'times' : ())
{
	mallory_inserts($table, 2);
	poll_ok($node, "SELECT count(*) = 2 FROM kapture_failures WHERE relation = 'mallory.$table'::regclass AND state = 'parked' AND message IN ('no', 'parameter \"transaction_timeout\" cannot be changed')", "rows with such $table are parked");
	is(sql("SELECT kapture_worker_pid()"), $unharmed, 'the worker goes on');
	drop($table);
}

# --- files: each connection is one
my @holes = map { IO::Socket::INET->new(Listen => 1000, LocalAddr => '127.0.0.1') } 1 .. 3;
foreach my $i (0 .. 2)
{
	unlike(mallory("CREATE SERVER hole$i FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:" . $holes[$i]->sockport . "', timeout '60s', max_connections '1000');"
		  . "CREATE USER MAPPING FOR mallory SERVER hole$i OPTIONS (auth_key '$key');"
		  . "CREATE TABLE mallory.hole$i (id bigint PRIMARY KEY, customer_name text, phone text, city text); SELECT kapture_attach('mallory.hole$i', server => 'hole$i')"), qr/ERROR/, 'a server that never answers');
	mallory_inserts("hole$i", 300);
}
wait_for(sub { sql("SELECT count(*) = 3 FROM kapture_status WHERE server LIKE 'hole%' AND in_flight > 0") eq 't' }, 'requests to all of them');
alice_is_served('connections that never answer', 5);
my $holder = sql("SELECT kapture_worker_pid()");
cmp_ok(sockets($holder), '<', 100, 'connections leave files to PostgreSQL');
is(sql("SELECT string_agg(DISTINCT server_state, ' ') FROM kapture_status"), 'ok', 'and all servers count as well');
mallory("DROP SERVER hole$_ CASCADE; DROP TABLE mallory.hole$_") foreach 0 .. 2;

# one request to each of many servers takes as many connections
unlike(mallory(join ';', map { "CREATE SERVER crowd$_ FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:" . $holes[0]->sockport . "', timeout '60s');"
	  . "CREATE USER MAPPING FOR mallory SERVER crowd$_ OPTIONS (auth_key '$key');"
	  . "CREATE TABLE mallory.crowd$_ (id bigint PRIMARY KEY, customer_name text, phone text, city text); SELECT kapture_attach('mallory.crowd$_', server => 'crowd$_');"
	  . "INSERT INTO mallory.crowd$_ VALUES ($_, 'Crowd', '9600000000')" } 1 .. 120), qr/ERROR/, '120 servers that never answer');
my $crowd = "SELECT count(*) FROM kapture_status WHERE server LIKE 'crowd%' AND in_flight > 0";
wait_for(sub { sql($crowd) == 120 }, 'the worker to have taken a row for each');
alice_is_served('many servers that never answer', 5);
cmp_ok(sockets($holder), '<', 100, 'and connections leave files to PostgreSQL');
mallory("DROP SERVER crowd$_ CASCADE; DROP TABLE mallory.crowd$_") foreach 1 .. 120;

# --- caches
sub refused { my ($options) = @_; return like(mallory("CREATE SERVER long FOREIGN DATA WRAPPER kapture_fdw OPTIONS ($options)"), qr/invalid value for option "\w+"\n.*DETAIL:  It has \d+ bytes; at most/s, $_[1]); }
refused("url 'https://example.com/" . ('x' x 3000) . "'", 'a url has a length');
refused("url 'https://example.com', add_path '/" . ('x' x 9000) . "'", 'and a path');
refused("url 'https://example.com', headers '{\"X-A\": \"" . ('x' x 9000) . "\"}'", 'and headers');
sql('GRANT SELECT ON pg_backend_memory_contexts TO mallory; GRANT EXECUTE ON FUNCTION pg_get_backend_memory_contexts() TO mallory');
my $headers = '{"X-A": "' . ('x' x 8000) . '"}';
my $many = join '', map { "CREATE SERVER s$_ FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1', headers '$headers'); CREATE USER MAPPING FOR mallory SERVER s$_ OPTIONS (auth_key '$key');"
	  . "SELECT count(*) FROM kapture_check('s$_'); DROP SERVER s$_ CASCADE;" } 1 .. 20;
like(mallory("$many SELECT count(*) FROM kapture_check('mallory'); SELECT 'entries ' || count(*) FROM pg_backend_memory_contexts WHERE name = 'kapture server'"), qr/entries 1$/m,
	'a session forgets servers that were dropped');

mallory(join ';', map { "CREATE TABLE mallory.m$_ (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('mallory.m$_', server => 'mallory')" } 1 .. 60);
alice_is_served('60 more tables', 2);
sub column_scans { return sql("SELECT seq_scan + idx_scan FROM pg_stat_all_tables WHERE relname = 'kapture_column'"); }
sub stats_are_flushed
{
	alice_is_served('60 more tables', 1);
	poll_ok($node, "SELECT n_tup_ins = (SELECT count(*) FROM kapture_history) FROM pg_stat_all_tables WHERE relname = 'kapture_history'", 'statistics are there');
	return column_scans();
}
# some 50 for these, 60 more each time that all are read, which they may be where a process had too many messages
# to take in: but not each time
my $scans;
foreach my $round (1 .. 3)
{
	my $before = stats_are_flushed();
	foreach my $i (1 .. 5)
	{
		mallory("ALTER TABLE mallory.m$i SET (fillfactor = " . (80 + $round) . ")");
		alice_is_served('60 more tables', 1);
	}
	$scans = stats_are_flushed() - $before;
	last if $scans < 100;
}
cmp_ok($scans, '<', 100, 'a change of one table has only that read again');

# definitions that change without end: each change has something read again, and the worker woken
my @storms = map {
	IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' user=mallory application_name=storm', '-c', "DO \$\$ BEGIN LOOP $_; COMMIT; END LOOP; END \$\$" ], '<', \undef, '>', \my $out, '2>', \my $err)
} "ALTER SERVER mallory OPTIONS (SET timeout '30s')", 'ALTER TABLE mallory.m1 SET (fillfactor = 90)',
  "PERFORM kapture_detach('mallory.m2'); COMMIT; PERFORM kapture_attach('mallory.m2', server => 'mallory')";
my $storms = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'storm' AND state = 'active'";
poll_ok($node, "SELECT ($storms) = 3", 'three sessions change definitions');
alice_is_served('definitions that change without end', 8);
is(sql($storms), 3, 'which they still do');
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'storm'");
$_->finish foreach @storms;
mallory(join ';', map { "DROP TABLE mallory.m$_" } 1 .. 60);

# --- memory
my $before = worker_memory($hwm);
mallory_inserts('customers', 20, "i, 'Large', i::text, repeat(chr(97 + (i % 26)::int) || md5(i::text), 600000)");
alice_is_served('rows of 20 MB', 3);
poll_ok($node, "SELECT count(*) = 20 AND bool_and(message ~ '^value too long: column \"city\" has 19800000 bytes') FROM kapture_failures WHERE relation = 'mallory.customers'::regclass AND message ~ 'too long'",
	'they are parked');
memory_ok(worker_memory($hwm) - $before, 48 * 1024, 'and were not read');
mallory('DELETE FROM mallory.customers WHERE length(city) > 1000000');
mallory_inserts('customers', 30, "i, 'Not so large', i::text, repeat(chr(97 + (i % 26)::int) || md5(i::text), 30000)");
alice_is_served('rows just below the limit', 3);
poll_ok($node, $idle->('customers'), 'they are sent');
is(sql("SELECT count(*) FROM mallory.customers WHERE customer_name = 'Not so large' AND kapture_customer_id IS NOT NULL"), 30, 'all of them');
memory_ok(worker_memory($hwm) - $before, 64 * 1024, 'and were not read at once');

# what is noted of tables that others follow: values of 20 MB, and a condition that takes its time
mallory(q(CREATE TABLE mallory.followed (id int PRIMARY KEY, name text);
CREATE FUNCTION mallory.takes_time(int) RETURNS boolean STABLE LANGUAGE plpgsql AS $f$ BEGIN IF current_setting('application_name') = '' THEN PERFORM pg_sleep(3); END IF; RETURN true; END $f$));
foreach my $i (1 .. 4)
{
	unlike(mallory("CREATE TABLE mallory.follows$i (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('mallory.follows$i', server => 'mallory'); INSERT INTO follows$i VALUES (1, 'Follows', '98100001$i');"
		  . "SELECT kapture_follow('mallory.followed', 'mallory.follows$i', 'target.customer_name = source.name AND mallory.takes_time(target.id)')"), qr/ERROR/, 'a table follows another one');
}
mallory("INSERT INTO mallory.followed SELECT i, repeat('x', 20000000) || i FROM generate_series(1, 20) i");
alice_is_served('changes of 20 MB of a table that is followed', 3);
memory_ok(worker_memory($hwm) - $before, 64 * 1024, 'and they were not kept');
mallory("INSERT INTO mallory.followed VALUES (100, 'Follows')");
alice_is_served('conditions that take their time', 5);
mallory('DROP TABLE mallory.followed; DROP TABLE mallory.follows1, mallory.follows2, mallory.follows3, mallory.follows4');

# --- each function of ours, called by a trigger that then sleeps for ever
my %argument = (regclass => "'mallory.customers'::regclass", name => "'mallory'", text => "'1'", jsonb => q('{"phone": "9700000000"}'), boolean => 'false', integer => '1', bigint => '1', oid => '1',
	'timestamp without time zone' => "timestamp '2021-03-14'", 'timestamp with time zone' => "timestamptz '2021-03-14'", date => "date '2021-03-14'",
	'text[]' => "'{}'::text[]", anynonarray => '1', bytea => "''::bytea", 'double precision' => '1', interval => "interval '1 second'");
my @functions = split /\n/, sql("SELECT format('%s|%s', p.oid::regprocedure, prokind) FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid"
	  . " WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync') ORDER BY 1");
my $calls = '';
foreach my $function (@functions)
{
	my ($signature, $kind) = split /\|/, $function;
	my ($name, $types) = $signature =~ /^([\w.]+)\((.*)\)$/ or die $signature;
	my $call = "public.$name(" . join(', ', map { $argument{$_} // "NULL::$_" } split /,/, $types) . ")";
	$call = $kind eq 'p' ? "CALL $call" : "SELECT count(*) FROM $call";
	$call =~ s/'/''/g;
	$calls .= "RAISE LOG 'calls $name'; BEGIN EXECUTE '$call'; EXCEPTION WHEN OTHERS THEN NULL; END;\n";
}
cmp_ok(scalar(@functions), '>', 30, 'functions of ours are known');
hostile_table('functions', "$calls PERFORM pg_sleep(100000);");
my $log = -s $node->logfile;
mallory_inserts('functions', 1);
wait_for(sub { slurp_file($node->logfile, $log) =~ /calls/ }, 'the trigger');
alice_is_served('functions of ours and then for ever');
poll_ok($node, "SELECT state = 'parked' AND message LIKE '%took longer than 5 s' FROM kapture_failures WHERE relation = 'mallory.functions'::regclass", 'the row is parked');
my $logged = slurp_file($node->logfile, $log);
is(join(' ', grep { $logged !~ /calls \Q$_\E\b/ } map { /^([\w.]+)/ } @functions), '', 'all functions were called');
drop('functions');

# --- slow, but allowed
hostile_table('slow', 'PERFORM pg_sleep(4.5);');
mallory_inserts('slow', 20);
# from before its turn comes until it has had it
wait_for(sub { served('4.5 s for a row', [ alice_inserts() ]); return sql('SELECT count(kapture_customer_id) > 0 FROM mallory.slow') eq 't' }, 'a slow row');
alice_is_served('4.5 s for a row');
drop('slow');

# --- errors of any length
hostile_table('loud', q(RAISE EXCEPTION '%', repeat('x', 20000000);));
mallory_inserts('loud', 4);
poll_ok($node, "SELECT count(*) = 4 AND max(length(message)) < 5000 FROM kapture_failures WHERE relation = 'mallory.loud'::regclass AND state = 'parked'", 'errors of 10 MB are cut');
memory_ok(worker_memory($rss) - $before, 96 * 1024, 'nor does memory grow with them');
drop('loud');

# --- the puller
my $pulled = 0;
sub seed
{
	my ($where, $n) = @_;
	emulator_post($where, 'seed', [ map { $pulled++; { customer_name => "Pulled $pulled", phone => (8000000000 + $pulled) . '', kapture_customer_id => 5000000 + $pulled,
			generated => strftime('%Y-%m-%d %H:%M:%S', gmtime(time + 19800 - 1)) } } 1 .. $n ]);
	return;
}
sub alice_pulls
{
	my ($what, $times, $bound) = @_;
	my $slowest = 0;
	my $log = -s $node->logfile;
	foreach (1 .. $times || 3)
	{
		my $began = time;
		seed($emulator, 1);
		my $id = 5000000 + $pulled;
		wait_for(sub { sql("SELECT count(*) FROM alice.pulled WHERE kapture_customer_id = $id") eq '1' || time - $began > 60 * $slowness }, $what);
		my $took = time - $began;
		$slowest = $took if $took > $slowest;
	}
	ok($slowest < ($bound || 25) * patience(), "alice's customers are pulled: $what")
	  or diag(join "\n", "after $slowest s", sql("SELECT s FROM kapture_pull_status s WHERE server = 'alice'"),
		grep { /pulling from server "alice"|kapture_sync puller/ } split /\n/, slurp_file($node->logfile, $log));
	note("$what: $slowest s");
	return;
}
alice_pulls('nobody else', 1);
mallory(q(CREATE FUNCTION mallory.pulled() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN IF NEW.kapture_customer_id % 10 = 0 THEN RAISE EXCEPTION 'no'; END IF; PERFORM pg_sleep(2); RETURN NEW; END $f$;
CREATE TRIGGER slow BEFORE INSERT ON mallory.pulled FOR EACH ROW EXECUTE FUNCTION mallory.pulled()));
seed($other, 20);
poll_ok($node, "SELECT count(*) > 10 FROM kapture_inbox i JOIN kapture_attachment a USING (attachment_id) WHERE a.relation = 'mallory.pulled'::regclass", 'many customers wait for mallory');
alice_pulls('2 s for a row', 5);
mallory(q(CREATE OR REPLACE FUNCTION mallory.pulled() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN IF NEW.kapture_customer_id % 10 = 0 THEN RAISE EXCEPTION 'no'; END IF; RETURN NEW; END $f$));
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox i JOIN kapture_attachment a USING (attachment_id) WHERE a.relation = 'mallory.pulled'::regclass AND i.state = 'waiting'", 'they arrive');
cmp_ok(sql("SELECT count(*) FROM kapture_pull_failures WHERE relation = 'mallory.pulled'::regclass"), '>', 0, 'but some');
my $open = session("BEGIN; SELECT kapture_retry('mallory.pulled')");
seed($other, 5);
alice_pulls('kapture_retry is open');
end($open, 'ROLLBACK');

# --- a window that takes long to write
my $bulk = start_emulator();
my $written = "SELECT count(*) FROM kapture_customers WHERE server = 'bulk'";
seed($bulk, 300);
sql("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END';
CREATE TRIGGER slow BEFORE INSERT ON kapture_customers FOR EACH ROW WHEN (NEW.server = 'bulk') EXECUTE FUNCTION slow()");
mallory("CREATE SERVER bulk FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$bulk->{url}', timeout '30s', pull_interval '1s', pull_since '$since'); CREATE USER MAPPING FOR mallory SERVER bulk OPTIONS (auth_key '$key')");
poll_ok($node, "SELECT count(*) > 0 FROM kapture_customers WHERE server = 'bulk'", 'customers of a large window arrive');
alice_pulls('a large window', 1);
cmp_ok(sql($written), '<', 300, 'before all of that window is written');
poll_ok($node, "SELECT count(*) = 300 FROM kapture_customers WHERE server = 'bulk'", 'as it is in the end');
mallory('DROP SERVER bulk CASCADE');
sql('DROP TRIGGER slow ON kapture_customers; DROP FUNCTION slow');

# --- a disk that stands still while a pull is written, for which its owner is not to pay
sql("CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(4.5); RETURN NEW; END';
CREATE TRIGGER stall BEFORE INSERT ON kapture_customers FOR EACH ROW WHEN (NEW.server = 'alice' AND NEW.id = 5000001 + $pulled) EXECUTE FUNCTION stall()");
alice_pulls('writing stands still', 1);
sql('DROP TRIGGER stall ON kapture_customers; DROP FUNCTION stall');
alice_pulls('after that', 1, 5);

# --- hundreds of servers that are pulled from all the time (not the large rows of before)
mallory(join ';', map { "CREATE SERVER pulled$_ FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$other->{url}', timeout '30s', pull_interval '1s', pull_overlap '1s'); CREATE USER MAPPING FOR mallory SERVER pulled$_ OPTIONS (auth_key '$key')" } 1 .. 200);
poll_ok($node, "SELECT count(*) > 5 FROM kapture_pull_status WHERE server LIKE 'pulled%' AND finished_at IS NOT NULL", 'many servers are pulled from');
is(sql("SELECT count(*) > 64 FROM kapture_pull_status WHERE server LIKE 'pulled%' AND state = 'pulling'"), 'f', 'but not all at once');
alice_pulls('hundreds of servers', 3, 10);

# --- what wakes worker and puller all the time: answers must not wait for that to end
sub storm
{
	my ($statement) = @_;
	return IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' user=mallory', '-c', "DO \$do\$ BEGIN FOR i IN 1 .. 1000000 LOOP $statement; COMMIT; END LOOP; END \$do\$" ], '>', '/dev/null', '2>&1');
}
sub calm { my ($storm) = @_; sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'mallory' AND query LIKE 'DO %'"); $storm->finish; return; }
foreach my $case (
	[ 'servers that change all the time', q(EXECUTE format('ALTER SERVER pulled%s OPTIONS (SET timeout ''%ss'')', i % 200 + 1, 20 + i % 10)) ],
	[ 'tables that are attached all the time', q(EXECUTE 'CREATE TABLE mallory.come (id int PRIMARY KEY, customer_name text, phone text)'; PERFORM public.kapture_attach('mallory.come', server => 'mallory', pull => true); COMMIT; EXECUTE 'DROP TABLE mallory.come') ])
{
	my ($name, $statement) = @$case;
	my $storm = storm($statement);
	poll_ok($node, "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'mallory' AND query LIKE 'DO %' AND now() - backend_start > interval '0.5 s'", "$name: it goes on");
	alice_is_served($name, 5, 10);
	alice_pulls($name, 2, 10);
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'mallory' AND query LIKE 'DO %'"), '1', "$name: still");
	calm($storm);
}
sql("DROP TABLE IF EXISTS mallory.come");
mallory(join ';', map { "DROP SERVER pulled$_ CASCADE" } 1 .. 200);

# --- large answers to many pulls at once
my $large = IO::Socket::INET->new(Listen => 128, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "listen: $!";
my $answers = fork // die $!;
if ($answers == 0)
{
	my $body = '{"status": "success", "a": "' . 'x' x 12_000_000 . '"}';
	$SIG{CHLD} = 'IGNORE';
	while (1)
	{
		my $client = $large->accept or next;
		next if fork;
		sysread $client, my $request, 65536;
		print {$client} "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
		$client->flush;
		exec 'true';    # so that nothing of the test ends with it
	}
}
restart_worker($node, 'another puller', process => 'puller');
$before = worker_memory($rss, 'puller');
mallory(join ';', map { "BEGIN; CREATE SERVER large$_ FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:@{[ $large->sockport ]}', timeout '30s', pull_interval '1s'); CREATE USER MAPPING FOR mallory SERVER large$_ OPTIONS (auth_key '$key'); COMMIT" } 1 .. 30);
poll_ok($node, "SELECT coalesce(sum(requests), 0) > 5 FROM kapture_stat_requests WHERE server LIKE 'large%'", 'large answers come');
alice_pulls('large answers', 2, 10);
memory_ok(worker_memory($hwm, 'puller') - $before, 160 * 1024, 'and do not take memory all at once');
mallory(join ';', map { "DROP SERVER large$_ CASCADE" } 1 .. 30);
kill 'KILL', $answers;
waitpid $answers, 0;

# --- all of it together
hostile_table('together', "$calls PERFORM pg_advisory_lock(1); IF NEW.id % 3 = 0 THEN PERFORM pg_sleep(100000); ELSIF NEW.id % 3 = 1 THEN PERFORM pg_sleep(4.5); ELSE RAISE EXCEPTION '%', repeat('x', 5000000); END IF;");
my $retry = session("BEGIN; SELECT kapture_retry('mallory.customers')");
mallory("UPDATE mallory.customers SET city = 'Delhi' WHERE phone = '12'");
mallory_inserts('together', 60);
mallory_inserts('customers', 3, "i, 'Large', i::text, repeat(md5(i::text), 600000)");
alice_is_served('all of it', 10);
alice_pulls('all of it');
end($retry, 'ROLLBACK');
drop('together');

# --- a worker that is told to end while users' code runs blames nobody
# (a customer whose Add is in doubt must not come back as another table's row)
mallory("SELECT kapture_detach('mallory.pulled')");
hostile_table('patient', "RAISE LOG 'mallory waits'; PERFORM pg_sleep(3);");
$log = -s $node->logfile;
mallory_inserts('patient', 1);
wait_for(sub { slurp_file($node->logfile, $log) =~ /mallory waits/ }, 'the trigger');
sql("SELECT pg_terminate_backend(kapture_worker_pid())");
poll_ok($node, "SELECT count(*) = 1 FROM mallory.patient WHERE kapture_customer_id IS NOT NULL", 'a row whose trigger ran when the worker was ended is written later')
  or diag(sql("SELECT f FROM kapture_failures AS f WHERE relation = 'mallory.patient'::regclass"));
drop('patient');

# --- code that takes no notice of being cancelled
hostile_table('endless', 'LOOP BEGIN PERFORM pg_sleep(100000); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;');
emulator_faults($emulator, { action => 'delay', ms => 300 });
my $pid = sql("SELECT kapture_worker_pid()");
my $searches = emulator_get($emulator, 'stats')->{get_requests};
mallory_inserts('endless', 3);
$log = -s $node->logfile;
wait_for(sub { alice_inserts(); return sql("SELECT kapture_worker_pid()") ne $pid }, 'the worker to end');
unlike(slurp_file($node->logfile, $log), qr/FATAL:  (?!terminating background worker)/, 'and no error keeps it from recording what was answered');
served('code that cannot be cancelled', [ alice_inserts() ]);
emulator_faults($emulator);
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM alice.customers", 'nothing of alice is left behind');
is(emulator_get($emulator, 'stats')->{get_requests}, $searches, 'nor in doubt: none is searched for');
poll_ok($node, "SELECT count(*) = 3 AND bool_and(message ~ 'took no notice of being cancelled') FROM kapture_failures WHERE relation = 'mallory.endless'::regclass AND state = 'parked'", 'its rows are parked');
$pid = sql("SELECT kapture_worker_pid()");
mallory("SELECT kapture_retry('mallory.endless')");
alice_is_served('code that cannot be cancelled', 10);
is(sql("SELECT kapture_worker_pid()"), $pid, 'and not tried again at once');
drop('endless');

# --- memory that only the end of a process frees: of functions, which stay compiled
sql("CREATE ROLE hoarder LOGIN; CREATE SCHEMA AUTHORIZATION hoarder; GRANT USAGE ON FOREIGN SERVER mallory TO hoarder; CREATE USER MAPPING FOR hoarder SERVER mallory OPTIONS (auth_key '$key')");
unlike(as('hoarder', q(
SET check_function_bodies = off;
CREATE TABLE hoarder.customers (id bigint PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
DO $$ BEGIN FOR i IN 0..149 LOOP
  EXECUTE format('CREATE FUNCTION hoarder.f%s() RETURNS void LANGUAGE plpgsql AS %L', i, 'BEGIN RETURN; ' || repeat('IF 1 = 0 THEN PERFORM upper(''abc'' || 1), lower(''abc'' || 1); END IF; ', 3000) || ' END');
END LOOP; END $$;
CREATE FUNCTION hoarder.hoard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF current_setting('application_name') = '' THEN FOR i IN NEW.id * 50 .. NEW.id * 50 + 49 LOOP EXECUTE format('SELECT hoarder.f%s()', i); END LOOP; END IF;
  RETURN NEW; END $$;
CREATE TRIGGER hoard BEFORE UPDATE ON hoarder.customers FOR EACH ROW EXECUTE FUNCTION hoarder.hoard();
SELECT kapture_attach('hoarder.customers', server => 'mallory'))), qr/ERROR/, 'a table whose trigger calls many functions');
$pid = sql("SELECT kapture_worker_pid()");
as('hoarder', "INSERT INTO hoarder.customers SELECT i, 'Hoarder', 9800000000 + i FROM generate_series(0, 2) i");
wait_for(sub { alice_inserts(); return sql("SELECT kapture_worker_pid()") ne $pid }, 'the worker to end for the memory that they leave behind');
served('functions that leave memory behind', [ alice_inserts() ]);
poll_ok($node, "SELECT count(*) > 0 AND bool_and(message ~ 'take too much memory') FROM kapture_failures WHERE relation = 'hoarder.customers'::regclass AND state = 'parked'", 'the rows are parked');
sql("SELECT kapture_detach('hoarder.customers')");

# --- and of many tables: each has its plans
unlike(mallory(q(
SET client_min_messages = warning;
DO $$ BEGIN FOR i IN 1..500 LOOP
  EXECUTE format('CREATE TABLE mallory.many%s (id bigint PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint)', i);
  PERFORM kapture_attach(format('mallory.many%s', i), server => 'mallory');
  EXECUTE format('INSERT INTO mallory.many%s VALUES (1, ''Many'', 9810000000 + %s)', i, i);
  COMMIT;
END LOOP; END $$)), qr/ERROR/, 'many tables');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_status WHERE relation::text LIKE 'mallory.many%' AND pending + in_flight + retrying > 0", 'all of them are sent');
$log = -s $node->logfile;
sql("SELECT pg_log_backend_memory_contexts(kapture_worker_pid())");
wait_for(sub { slurp_file($node->logfile, $log) =~ /Grand total: \d+ bytes/ }, 'what the worker has in memory');
my ($total) = slurp_file($node->logfile, $log) =~ /Grand total: (\d+) bytes/;
cmp_ok($total, '<', 58 * 1024 * 1024, 'the worker does not keep the plans of all');
mallory("DO \$\$ BEGIN FOR i IN 1..500 LOOP EXECUTE format('DROP TABLE mallory.many%s', i); COMMIT; END LOOP; END \$\$");

# --- what users' code puts off to the commit: another server's, where a trigger takes its time
my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
open(my $file, '>', $node->data_dir . '/pg_hba.conf') or die "pg_hba.conf: $!";
print $file "local all remote scram-sha-256\n$hba";
close($file);
sql("SELECT pg_reload_conf()");
sql(q(CREATE EXTENSION postgres_fdw; SET password_encryption = 'scram-sha-256'; CREATE ROLE remote LOGIN PASSWORD 'r'; CREATE SCHEMA remote AUTHORIZATION remote;)
	. sprintf("CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '%s', port '%s', dbname 'postgres'); GRANT USAGE ON FOREIGN SERVER far TO mallory;", $node->host, $node->port)
	. q(SET ROLE remote; CREATE TABLE remote.t (a int);
CREATE FUNCTION remote.hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(3600); RETURN NEW; END $$;
CREATE CONSTRAINT TRIGGER hang AFTER INSERT ON remote.t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION remote.hang()));
mallory(q(CREATE USER MAPPING FOR mallory SERVER far OPTIONS (user 'remote', password 'r'); CREATE FOREIGN TABLE mallory.far (a int) SERVER far OPTIONS (schema_name 'remote', table_name 't')));
hostile_table('commits', 'INSERT INTO mallory.far VALUES (1);');
mallory_inserts('commits', 3);
poll_ok($node, "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'remote' AND wait_event = 'PgSleep'", 'a commit elsewhere takes its time');
alice_is_served('code that puts off', 5);
poll_ok($node, "SELECT count(*) > 0 FROM kapture_failures WHERE relation = 'mallory.commits'::regclass AND state = 'parked' AND message ~ 'took no notice'", 'a row is parked for it');
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'remote'");
drop('commits');

# --- a host that never answers, and a library that waits for nothing else
sql('CREATE EXTENSION dblink');
my $mute = IO::Socket::INET->new(Listen => 100, LocalAddr => '127.0.0.1') or die "listen: $!";
sql('CREATE ROLE mute LOGIN; CREATE SCHEMA AUTHORIZATION mute; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO mute');
unlike(as('mute', servers('mute', $other->{url}) . qq(
CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS \$f\$ BEGIN
  IF current_setting('application_name') = '' THEN RAISE LOG 'mute connects'; PERFORM public.dblink_connect('host=127.0.0.1 port=${\ $mute->sockport} user=x password=y'); END IF;
  RETURN NEW;
END \$f\$;
CREATE TRIGGER wait BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION wait())), qr/ERROR/, 'mute is set up');
my $connecting = -s $node->logfile;
unlike(as('mute', "INSERT INTO customers VALUES (9890000001, 'Mute', '9890000001')"), qr/ERROR/, 'a row of hers waits');
wait_for(sub { slurp_file($node->logfile, $connecting) =~ /mute connects/ }, 'the connection');
alice_is_served('a host that never answers', 3, 30);
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'mute.customers'::regclass AND state = 'parked'", 'its row is parked');
sql('DROP TABLE mute.pulled');    # DROP OWNED locks the sequence of an identity before its table, which an INSERT of the puller's deadlocks with
sql('DROP OWNED BY mute');

# --- the owner of the database, who has rights on nothing in it
sql('CREATE ROLE trent; ALTER DATABASE postgres OWNER TO trent; SET ROLE trent; ALTER DATABASE postgres SET session_authorization = trent; ALTER DATABASE postgres SET role = trent;'
	. "ALTER DATABASE postgres SET array_nulls = off; ALTER DATABASE postgres SET standard_conforming_strings = off; ALTER DATABASE postgres SET default_transaction_read_only = on");
my $former = sql("SET ROLE none; SELECT kapture_worker_pid()");
sql("SET ROLE none; SELECT pg_terminate_backend($former)", 'template1');
wait_for(sub { sql("SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'kapture_sync worker' AND pid <> $former AND datname = 'postgres'", 'template1') eq 't' }, 'another worker');
sql('SET ROLE none; ALTER DATABASE postgres RESET ALL; ALTER DATABASE postgres OWNER TO postgres', 'template1');
alice_is_served('settings of the database that are not for the worker', 3);

# --- code that ends the process, by what only superusers can make
my $library = PostgreSQL::Test::Utils::tempdir() . '/fatal';
append_to_file("$library.c", qq(
#include "postgres.h"
#include "fmgr.h"
PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(fatal);
PGDLLEXPORT Datum fatal(PG_FUNCTION_ARGS) { ereport(FATAL, (errmsg("the end"))); }
));
chomp(my $include = `pg_config --includedir-server`);
system_or_bail('cc', '-I', $include, '-fPIC', '-shared', '-o', "$library.so", "$library.c");
sql("CREATE FUNCTION public.fatal() RETURNS void LANGUAGE c AS '$library'");
# (mallory has to wait for a while, after the last time)
sql('CREATE ROLE trudy LOGIN; CREATE SCHEMA AUTHORIZATION trudy; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO trudy');
unlike(as('trudy', servers('trudy', $other->{url}) . q(
CREATE FUNCTION fatal() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN IF current_setting('application_name') = '' THEN PERFORM public.fatal(); END IF; RETURN NEW; END $f$;
CREATE TRIGGER fatal BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION fatal())), qr/ERROR/, 'trudy is set up');
$pid = sql("SELECT kapture_worker_pid()");
$log = -s $node->logfile;
unlike(as('trudy', "INSERT INTO customers SELECT i, 'Trudy', i::text FROM generate_series(9800000001, 9800000003) i"), qr/ERROR/, 'her rows wait');
wait_for(sub { alice_inserts(); return sql("SELECT kapture_worker_pid()") ne $pid }, 'the worker to end');
unlike(slurp_file($node->logfile, $log), qr/FATAL:  (?!terminating background worker|the end\n)/, 'and no error keeps it from recording what was answered');
served('code that ends the process', [ alice_inserts() ]);
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM alice.customers", 'nothing of alice is left behind');
poll_ok($node, "SELECT count(*) = 3 AND bool_and(message ~ 'raised a FATAL error') FROM kapture_failures WHERE relation = 'trudy.customers'::regclass AND state = 'parked'", 'the rows of that table are parked');
like(slurp_file($node->logfile, $log), qr/FATAL:  the end\n(.*\n)*.*LOG:  kapture_sync: a trigger, check or function of an attached table in database "postgres" raised a FATAL error/, 'the log says both');
$pid = sql("SELECT kapture_worker_pid()");
alice_is_served('code that ends the process', 5);
is(sql("SELECT kapture_worker_pid()"), $pid, 'and the worker stays');

# only a superuser's code may end a process, and that is no reason to try it again at once, either
$pid = sql("SELECT kapture_worker_pid()");
sql(qq(
CREATE TABLE public.bosses (id int PRIMARY KEY, customer_name text, phone text);
CREATE FUNCTION public.end_it() RETURNS trigger LANGUAGE plpgsql AS \$f\$ BEGIN IF current_setting('application_name') = '' THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NEW; END \$f\$;
CREATE TRIGGER end_it BEFORE UPDATE ON public.bosses FOR EACH ROW EXECUTE FUNCTION public.end_it();
CREATE SERVER bosses FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$other->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER bosses OPTIONS (auth_key '$key');
SELECT kapture_attach('public.bosses', server => 'bosses');
INSERT INTO public.bosses VALUES (1, 'Boss', '9810000001')));
wait_for(sub { alice_inserts(); return (sql("SELECT kapture_worker_pid()") || $pid) ne $pid }, 'the worker to end');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'public.bosses'::regclass AND state = 'parked' AND message ~ 'raised a FATAL error'", "a row is parked whose trigger, a superuser's, ends its own process");
$pid = sql("SELECT kapture_worker_pid()");
alice_is_served('code of a superuser that ends its own process', 5);
is(sql("SELECT kapture_worker_pid()"), $pid, 'and the worker stays');

note(sprintf '%s: at worst %.2f s', $_, $worst{$_}) foreach sort keys %worst;
@all = sort { $a <=> $b } @all;
note(sprintf 'median of %d: %.2f s', scalar(@all), $all[ $#all / 2 ]);
$node->stop('immediate');
done_testing();
