# The load, the faults and the kills of script/soak, and the judgement at the
# end.  Writes to $SOAK_RESULTS: samples.tsv, events.log, result.json.  What is done
# with mappings is in mapped.pl.
#
# Time goes in cycles: four fifths of each without kills, so that a leak has the
# time to show, then a storm of them.
use strict;
use warnings;

use DBI;
use FindBin;
use HTTP::Tiny;
use IPC::Run ();
use JSON::XS qw(encode_json decode_json);
use List::Util qw(max min sum0);
use POSIX qw(strftime);
use Time::HiRes qw(sleep time);

require "$FindBin::RealBin/mapped.pl";

my $minutes = shift;
my ($host, $data, $url, $results) = @ENV{qw(PGHOST PGDATA SOAK_URL SOAK_RESULTS)};
my $seed = $ENV{SOAK_SEED} || time ^ $$;
srand $seed;
my $cycle = min(30, $minutes / 2) * 60;
my $start = time;
my $end = $start + $minutes * 60;
my $key = 'a2FwZGVtbzprYXAxMjM=';    # kapdemo:kap123, as in Kapture's document
my $stop = 0;
$SIG{INT} = $SIG{TERM} = sub { $stop = 1 };

open my $events, '>', "$results/events.log" or die "$results/events.log: $!";
$events->autoflush;

sub event
{
	printf $events "%s %s\n", strftime('%H:%M:%S', localtime), join ' ', @_;
	return;
}

# What the run has done, by kind, and what it should not have seen.
our (%count, @wrong);
my %refused;

sub wrong
{
	push @wrong, join ' ', @_;
	event('WRONG:', @_);
	return;
}

#
# Sessions.  They break whenever the server does.
#

my %sessions;
my $failed;     # SQLSTATE of the last error

sub session
{
	my ($name, $user) = @_;
	$user ||= 'crm';
	return $sessions{$name} if $sessions{$name} && $sessions{$name}{pg_socket} && $sessions{$name}->ping;
	delete $sessions{$name};
	my $db = DBI->connect("dbi:Pg:dbname=postgres;host=$host;application_name='soak $name'", $user, '',
		{ RaiseError => 1, PrintError => 0, AutoCommit => 1, pg_server_prepare => 0 });
	$db->{HandleError} = sub { $failed = $_[1]->state || 'S1000'; return };
	$db->do("SET client_min_messages = error");
	$db->do("SET statement_timeout = '20s'");
	$db->do("SET lock_timeout = '3s'");
	return $sessions{$name} = $db;
}

# SQLSTATEs of what faults, kills and locks lead to.  08, HV: no answer from
# Kapture; 57: cancelled, shut down; 40: deadlock; 55: locks, "already running".
sub may_fail
{
	my ($state) = @_;
	return $state =~ /^(08|HV|57|40|55|28000|22000|S8006|S1000|25P02)/;
}

# Runs something that may fail by faults and kills; true if it went well.
sub try_to
{
	my ($what, $code) = @_;
	$failed = undef;
	my $ok = eval { $code->(); 1 };
	if ($ok)
	{
		$count{$what}++;
		return 1;
	}
	my $message = $@;
	$failed = '08006' if $message =~ /^DBI connect/;
	my $state = $failed // '';
	chomp $message;
	if (may_fail($state))
	{
		$refused{$what}++;
		event("$what: $state", $message =~ s/\n.*//sr);
	}
	else
	{
		wrong("$what: $state $message");
	}
	foreach my $name (keys %sessions)
	{
		eval { $sessions{$name}->rollback unless $sessions{$name}{AutoCommit}; 1 } or delete $sessions{$name};
	}
	return 0;
}

sub ask
{
	my ($query, @values) = @_;
	return session('watch', 'postgres')->selectrow_array($query, undef, @values);
}

# Asks the emulator, or the second one ("in").
sub emulator
{
	my ($path, $content, $which) = @_;
	my $http = HTTP::Tiny->new(timeout => 120);
	my $at = ($which ? $ENV{SOAK_URL_IN} : $url) . "/_emulator/$path";
	my $answer = defined $content ? $http->post($at, { content => encode_json($content) }) : $http->get($at);
	die "emulator: $path: $answer->{status} $answer->{content}" unless $answer->{success};
	return defined $content ? undef : decode_json($answer->{content});
}

#
# The set-up
#

my $admin = session('watch', 'postgres');
$admin->do($_) foreach split /;\n/, <<"END";
CREATE EXTENSION kapture_sync;
CREATE ROLE crm LOGIN;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO crm;
GRANT ALL ON SCHEMA public TO crm;
GRANT CREATE ON DATABASE postgres TO crm;
GRANT SELECT, INSERT, UPDATE ON kapture_customers, kapture_contacts, kapture_refresh_run TO crm;
END
session('setup')->do($_) foreach split /;\n/, <<"END";
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url', timeout '1s', max_connections '8');
CREATE SERVER kapture_side FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url', timeout '1s', max_connections '4');
CREATE USER MAPPING FOR crm SERVER kapture OPTIONS (auth_key '$key');
CREATE USER MAPPING FOR crm SERVER kapture_side OPTIONS ("user" 'kapdemo', password 'kap123');
CREATE SCHEMA remote;
IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO remote;
CREATE SEQUENCE numbers;
CREATE SEQUENCE keys;
CREATE TABLE customers (id bigint PRIMARY KEY DEFAULT nextval('keys'), n bigint NOT NULL UNIQUE,
  customer_name text, phone text, email_id text, city text);
CREATE TABLE deleted (n bigint);
CREATE TABLE side1 (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text, city text);
CREATE TABLE side2 (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, customer_name text, phone text, city text);
CREATE TABLE side3 (a int, b int, customer_name text, phone text, city text, PRIMARY KEY (a, b)) PARTITION BY HASH (a);
CREATE TABLE side3_0 PARTITION OF side3 FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE side3_1 PARTITION OF side3 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
SELECT kapture_attach('customers')
END
emulator('seed', { count => 4000, from => '2021-03-01', to => '2021-03-08' });
emulator('account', { paged => JSON::XS::true }, 'in');
mapped_setup($ENV{SOAK_URL_IN}, $key);

# The name of a customer says which row it is, whatever becomes of its key; half
# of them have no email, so that nothing but the phone could hide a second Add.
my $row = q(n, 'row ' || n, '9' || lpad(n::text, 9, '0'), CASE WHEN n % 2 = 1 THEN 'c' || n || '@example.com' END);
my $some = 'id = (SELECT id FROM customers WHERE id >= (SELECT min(id) + (max(id) - min(id)) * :some / 1000000 FROM customers) ORDER BY id LIMIT 1)';
my $recent = 'id = (SELECT id FROM customers ORDER BY id DESC OFFSET :some % 20 LIMIT 1)';
my $forget = 'WITH d AS (DELETE FROM customers WHERE %s RETURNING n) INSERT INTO deleted SELECT n FROM d';
my %scripts = (
	'insert@34' => "INSERT INTO customers (n, customer_name, phone, email_id, city) SELECT $row, 'city ' || :some FROM nextval('numbers') AS s(n);",
	'several@5' => "INSERT INTO customers (n, customer_name, phone, email_id, city) SELECT $row, 'city ' || :some FROM (SELECT nextval('numbers') AS n FROM generate_series(1, 5)) s;",
	'update@11' => "UPDATE customers SET city = 'city ' || :some WHERE $some;",
	'recent@10' => "UPDATE customers SET city = 'city ' || :some WHERE $recent;",
	'phone@8' => "UPDATE customers SET phone = translate(left(phone, 1), '89', '98') || substr(phone, 2) WHERE $recent;",
	'key@5' => "UPDATE customers SET id = nextval('keys') WHERE $recent;",
	'delete@4' => sprintf($forget, $recent) . ';',
	'trim@5' => sprintf($forget, 'id IN (SELECT id FROM customers WHERE (SELECT max(id) - min(id) FROM customers) > 30000 ORDER BY id LIMIT 10)') . ';',
	'again@3' => "INSERT INTO customers (n, customer_name, phone, email_id, city) SELECT $row, 'city ' || :some FROM (SELECT n FROM deleted WHERE n % 2 = 1 ORDER BY n DESC OFFSET :some % 20 LIMIT 1) s ON CONFLICT (n) DO NOTHING;",
	'savepoint@6' => "BEGIN;\nINSERT INTO customers (n, customer_name, phone, email_id, city) SELECT $row, 'city ' || :some FROM nextval('numbers') AS s(n);\nSAVEPOINT a;\n"
	  . "INSERT INTO customers (n, customer_name, phone) SELECT nextval('numbers'), 'rolled back', '7' || lpad(:some::text, 9, '0');\nUPDATE customers SET city = 'rolled back' WHERE $recent;\n"
	  . "ROLLBACK TO a;\nUPDATE customers SET city = 'kept ' || :some WHERE $recent;\nCOMMIT;",
	'rollback@3' => "BEGIN;\nINSERT INTO customers (n, customer_name, phone) SELECT nextval('numbers'), 'rolled back', '7' || lpad(:some::text, 9, '0');\nROLLBACK;",
	mapped_scripts());
my @scripts;
foreach my $name (sort keys %scripts)
{
	my ($file, $weight) = $name =~ /(.*)@(.*)/;
	open my $f, '>', "$data/../$file.sql" or die $!;
	print $f "\\set some random(1, 1000000)\n$scripts{$name}\n";
	close $f;
	push @scripts, '-f', "$data/../$file.sql\@$weight";
}

my ($bench, $said);

# Keeps the load going: it ends whenever the server does.
sub keep_load
{
	if ($bench)
	{
		eval { $bench->pump_nb };
		return if $bench->pumpable;
		eval { $bench->finish };
		foreach my $line (split /\n/, $said)
		{
			wrong("pgbench: $line") if $line =~ /ERROR:/ && $line !~ /terminating|starting up|shutting down|recovery mode|deadlock|canceling/;
		}
	}
	$said = '';
	$bench = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-R', '60', '-T', '7200', '--max-tries=5', @scripts, '-U', 'crm', 'postgres' ],
		'>', '/dev/null', '2>', \$said);
	return;
}

#
# What is done now and then
#

my @faults = (
	{ action => 'drop_before' }, { action => 'drop_after' }, { action => 'truncate' }, { action => 'garbage' },
	{ action => 'html' }, { action => 'delay', ms => 100 }, { action => 'late', ms => 300 }, { action => 'late', ms => 900 }, { action => 'gateway', ms => 500 },
	{ action => 'hang' }, { action => 'endless' }, { action => 'flat_answer' }, { action => 'redirect' },
	{ action => 'status', code => 500 }, { action => 'status', code => 502, body => '<html>Bad Gateway</html>' },
	{ action => 'status', code => 503, headers => { 'Retry-After' => '1' } },
	{ action => 'status', code => 429, headers => { 'Retry-After' => '1' } });

sub one_of { return $_[ int rand @_ ]; }

my $direct = 0;
my %added;      # phones of direct Adds that were answered with success
my %later;      # what is to be undone, and when

sub later
{
	my ($name, $seconds, $code) = @_;
	$later{$name} = [ time + $seconds, $code ];
	return;
}

sub undo
{
	my ($all) = @_;
	foreach my $name (sort keys %later)
	{
		my ($when, $code) = @{ $later{$name} };
		next unless $all || time >= $when;
		delete $later{$name} if try_to("$name again", $code);
	}
	return;
}

sub copy_rows
{
	my $db = session('bulk');
	my $numbers = $db->selectcol_arrayref("SELECT nextval('numbers') FROM generate_series(1, 300)");
	$db->do('COPY customers (n, customer_name, phone, email_id, city) FROM STDIN');
	$db->pg_putcopydata(sprintf("%d\trow %d\t9%09d\t%s\tcopied\n", $_, $_, $_, $_ % 2 ? "c$_\@example.com" : '\N')) foreach @$numbers;
	$db->pg_putcopyend;
	return;
}

sub finish_prepared
{
	my ($all) = @_;
	my $open = session('prepared')->selectcol_arrayref(
		"SELECT gid FROM pg_prepared_xacts" . ($all ? '' : " WHERE prepared < now() - interval '5 s'"));
	foreach my $gid (@$open)
	{
		session('prepared')->do((rand() < 0.7 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$gid'");
	}
	return;
}

my %regular = (
	faults => [ 20, sub {
		my @rules = map { { %{ one_of(@faults) }, probability => 0.01 + rand 0.05 } } 1 .. int rand 4;
		# a search may lag; for how long, docs/dev/protocol.md says
		push @rules, { action => 'not_found', api => 'get', count => 1 } if rand() < 0.5;
		emulator('faults', \@rules);
		emulator('faults', \@rules, 'in');
	} ],
	copy => [ 30, \&copy_rows ],
	prepared => [ 15, sub {
		finish_prepared();
		my $db = session('prepared');
		$db->do('BEGIN');
		$db->do("INSERT INTO customers (n, customer_name, phone, email_id, city) SELECT $row, 'prepared' FROM nextval('numbers') AS s(n)");
		$db->do("UPDATE customers SET city = 'prepared' WHERE id = (SELECT id FROM customers WHERE id > (SELECT min(id) + 1000 FROM customers) ORDER BY id LIMIT 1)");
		$db->do("PREPARE TRANSACTION 'soak " . time . "'");
	} ],
	direct_add => [ 7, sub {
		my $n = ++$direct;
		my $phone = sprintf '6%09d', $n;
		my ($done) = session('direct')->selectrow_array(q(SELECT kapture_add_customer(jsonb_build_object('customer_name', 'direct ' || ?::text, 'phone', ?::text)) ->> 'message'),
			undef, $n, $phone);
		$added{$phone} = 1 if defined $done && $done =~ /success/i;
	} ],
	direct_get => [ 10, sub { session('direct')->selectrow_array(q(SELECT kapture_get_customer('{"phone": "6000000001"}'))) } ],
	find => [ 15, sub { session('direct')->selectrow_array(q(SELECT count(*) FROM kapture_find_customers('{"phone": "6000000001"}'))) } ],
	pull => [ 25, sub { session('direct')->selectrow_array(q(SELECT count(*) FROM kapture_pull_customers('2021-03-01', '2021-03-03'))) } ],
	foreign_table => [ 30, sub {
		session('direct')->selectrow_array(q(SELECT count(*) FROM remote.customers WHERE generation_date >= '2021-03-02' AND generation_date < '2021-03-03'));
		session('direct')->selectrow_array(q(SELECT id FROM remote.customers WHERE phone = '6000000001'));
	} ],
	refresh => [ 60, sub { session('direct')->do(q(CALL kapture_refresh('2021-03-01', '2021-03-04', restart => true))) } ],
	side_rows => [ 10, sub {
		my $k = 1 + int rand 3;
		my $n = session('bulk')->selectrow_array("SELECT nextval('numbers')");
		session('bulk')->do("INSERT INTO side$k (" . ($k == 3 ? 'a, b, ' : '') . "customer_name, phone, city) VALUES (" . ($k == 3 ? "$n % 100, $n, " : '')
			  . "'side $n', '9' || lpad('$n', 9, '0'), 'side')");
		session('bulk')->do("UPDATE side$k SET city = 'side ' || random() WHERE phone IN (SELECT phone FROM side$k ORDER BY random() LIMIT 2)");
	} ],
	side_attach => [ 40, sub {
		my $k = 1 + int rand 3;
		my $db = session('bulk');
		if ($db->selectrow_array("SELECT count(*) FROM kapture_status WHERE relation::regclass = 'side$k'::regclass"))
		{
			$db->do("SELECT kapture_detach('side$k')");
		}
		else
		{
			$db->do("SELECT kapture_attach('side$k', server => 'kapture_side')");
			$db->do("CALL kapture_backfill('side$k')");
		}
	} ],
	alter_server => [ 30, sub {
		session('ddl')->do("ALTER SERVER " . one_of('kapture', 'kapture_side') . " OPTIONS (SET max_connections '" . (2 + int rand 14) . "')");
	} ],
	bad_key => [ 150, sub {
		session('ddl')->do("ALTER USER MAPPING FOR crm SERVER kapture OPTIONS (SET auth_key 'bm8=')");
		later('key', 3 + rand 5, sub { session('ddl')->do("ALTER USER MAPPING FOR crm SERVER kapture OPTIONS (SET auth_key '$key')") });
	} ],
	pause => [ 60, sub {
		session('ddl')->do("SELECT kapture_pause('customers')");
		later('resume', 2 + rand 5, sub { session('ddl')->do("SELECT kapture_resume('customers')") });
	} ],
	disable => [ 200, sub {
		my $db = session('watch', 'postgres');
		$db->do("ALTER SYSTEM SET kapture_sync.enabled = off");
		$db->do("SELECT pg_reload_conf()");
		later('enable', 2 + rand 5, sub { my $on = session('watch', 'postgres'); $on->do("ALTER SYSTEM RESET kapture_sync.enabled"); $on->do("SELECT pg_reload_conf()") });
	} ],
	ddl => [ 45, sub {
		session('ddl')->do($_) foreach @{ one_of(
				[ 'ALTER TABLE customers ADD COLUMN extra text', 'ALTER TABLE customers DROP COLUMN extra' ],
				[ 'CREATE INDEX customers_city ON customers (city)', 'DROP INDEX customers_city' ],
				[ 'ALTER TABLE side1 RENAME COLUMN city TO town', 'ALTER TABLE side1 RENAME COLUMN town TO city' ],
				[ 'ALTER TABLE side2 RENAME TO side2x', 'ALTER TABLE side2x RENAME TO side2' ],
				[ 'VACUUM FULL customers' ], [ 'REINDEX TABLE customers' ], [ 'ANALYZE customers' ], [ 'TRUNCATE side2' ],
				[ 'TRUNCATE deleted' ]) };
	} ],
	long_transaction => [ 120, sub {
		my $db = session('long');
		$db->do('BEGIN ISOLATION LEVEL REPEATABLE READ');
		$db->selectrow_array('SELECT count(*) FROM pg_class');
		later('long', 60, sub { session('long')->do('ROLLBACK') });
	} ],
	row_locks => [ 50, sub {
		my $db = session('locks');
		$db->do('BEGIN');
		$db->do('SELECT FROM customers ORDER BY id DESC LIMIT 30 FOR UPDATE');
		later('unlock', 4, sub { session('locks')->do('ROLLBACK') });
	} ],
	status => [ 10, sub { session('bulk')->selectall_arrayref("SELECT * FROM $_") foreach qw(kapture_status kapture_failures kapture_progress kapture_stat_requests) } ],
	mapped_regular());
my %due = map { $_ => $start + rand $regular{$_}[0] } keys %regular;

#
# Kills
#

sub pg_ctl
{
	return system("pg_ctl -D '$data' -w -t 60 -l '$ENV{SOAK_LOG}' @_ >/dev/null 2>&1") == 0;
}

sub until_up
{
	for (1 .. 600)
	{
		return if eval { ask('SELECT NOT pg_is_in_recovery()') };
		sleep 0.1;
	}
	die "the server does not come up";
}

sub one_pid
{
	my ($where) = @_;
	return scalar eval { ask("SELECT pid FROM pg_stat_activity WHERE $where ORDER BY random() LIMIT 1") };
}

my %kill = (
	worker => sub { my $pid = one_pid("backend_type = 'kapture_sync worker'"); kill 'KILL', $pid if $pid },
	backend => sub { my $pid = one_pid("application_name IN ('pgbench', 'soak direct', 'soak bulk')"); kill 'KILL', $pid if $pid },
	terminate => sub { my $pid = one_pid("backend_type LIKE 'kapture_sync%'"); kill 'TERM', $pid if $pid },
	session => sub { my $pid = one_pid("application_name IN ('pgbench', 'soak direct', 'soak bulk')"); kill 'TERM', $pid if $pid },
	immediate => sub { pg_ctl('-m immediate restart') },
	fast => sub { pg_ctl('-m fast restart') },
	postmaster => sub {
		open my $f, '<', "$data/postmaster.pid" or return;
		chomp(my $pid = <$f>);
		kill 'KILL', $pid;
		# what is left of it must go first
		for (1 .. 600) { last if pg_ctl('start'); sleep 0.1; }
	});
my %killed = map { $_ => 0 } keys %kill;
my $next_kill = 0;

sub in_storm { return (time - $start) % $cycle > $cycle * 0.8; }

sub maybe_kill
{
	return unless in_storm() && time > $next_kill;
	my $kind = one_of(sort keys %kill);
	event("kill: $kind");
	$kill{$kind}->();
	$killed{$kind}++;
	until_up();
	$next_kill = time + 10 + rand 20;
	return;
}

#
# Samples
#

my @columns = qw(seconds storm requests customers rows outbox outbox_index delivery delivery_index history history_index
  waiting failed xact_age xmin_age worker_pid worker_age worker_kb worker_pss_kb worker_fds
  launcher_pid launcher_age launcher_kb launcher_fds session_pid session_age session_kb session_fds backends_kb emulator_kb);
my @samples;
open my $tsv, '>', "$results/samples.tsv" or die $!;
$tsv->autoflush;
print $tsv join("\t", @columns), "\n";

# Memory of a process's own, in kB, without what it shares with others.
sub memory
{
	my ($pid) = @_;
	open my $f, '<', "/proc/$pid/status" or return 0;
	my ($kb) = join('', <$f>) =~ /^RssAnon:\s+(\d+)/m;
	return $kb || 0;
}

sub pss
{
	my ($pid) = @_;
	open my $f, '<', "/proc/$pid/smaps_rollup" or return 0;
	my ($kb) = join('', <$f>) =~ /^Pss:\s+(\d+)/m;
	return $kb || 0;
}

sub descriptors
{
	my ($pid) = @_;
	my @fds = glob "/proc/$pid/fd/*";
	return scalar @fds;
}

sub process
{
	my ($s, $name, $where) = @_;
	my ($pid, $age) = ask("SELECT pid, extract(epoch FROM clock_timestamp() - backend_start)::int FROM pg_stat_activity WHERE $where ORDER BY backend_start LIMIT 1");
	return unless $pid;
	@$s{ map { "${name}_$_" } qw(pid age kb fds) } = ($pid, $age, memory($pid), descriptors($pid));
	$s->{"${name}_pss_kb"} = pss($pid);
	return;
}

sub sample
{
	my %s = map { $_ => '' } @columns;
	$s{seconds} = int(time - $start);
	$s{storm} = in_storm() ? 1 : 0;
	my $stats = emulator('stats');
	@s{qw(requests customers)} = ($stats->{requests}, $stats->{customers});
	foreach my $table (qw(outbox delivery history))
	{
		@s{ $table, "${table}_index" } = ask("SELECT sum(pg_table_size(oid)), sum(pg_indexes_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'kapture\\_$table%'");
	}
	$s{rows} = ask('SELECT count(*) FROM customers');
	@s{qw(waiting failed)} = ask('SELECT sum(pending + in_flight + retrying), sum(parked) FROM kapture_status');
	@s{qw(xact_age xmin_age)} = ask("SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0)::numeric(10, 3), coalesce(max(age(backend_xmin)), 0)"
		  . " FROM pg_stat_activity WHERE backend_type LIKE 'kapture_sync%'");
	process(\%s, 'worker', "backend_type = 'kapture_sync worker'");
	process(\%s, 'launcher', "backend_type = 'kapture_sync launcher'");
	process(\%s, 'session', "application_name = 'soak direct'");
	my $pids = session('watch', 'postgres')->selectcol_arrayref("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'");
	$s{backends_kb} = max(0, map { memory($_) } @$pids);
	$s{emulator_kb} = memory($ENV{SOAK_EMULATOR_PID});
	push @samples, \%s;
	print $tsv join("\t", map { $_ // '' } @s{@columns}), "\n";
	return;
}

#
# The run
#

my $next_sample = $start + 5;
while (!$stop && time < $end)
{
	keep_load();
	eval { undo(); 1 } or wrong("undo: $@");
	foreach my $name (sort keys %regular)
	{
		next if time < $due{$name};
		$due{$name} = time + $regular{$name}[0] * (0.5 + rand);
		next if $name =~ /^(long_transaction|row_locks|pause|bad_key|disable)$/ && %later;
		try_to($name, $regular{$name}[1]);
	}
	if (time >= $next_sample)
	{
		eval { sample(); 1 } or event("no sample: $@");
		$next_sample += 30;
	}
	maybe_kill();
	sleep 0.2;
}
my $lasted = time - $start;
event("the load ends after $lasted s");

#
# Peace, and the judgement
#

sub peace
{
	emulator('faults', []);
	emulator('faults', [], 'in');
	$bench->kill_kill(grace => 2) if $bench;
	until_up();
	event('undoing: ', join ', ', sort keys %later);
	undo(1) while %later;
	finish_prepared(1);
	foreach my $k (1 .. 3)
	{
		my $db = session('bulk');
		next if $db->selectrow_array("SELECT count(*) FROM kapture_status WHERE relation::regclass = 'side$k'::regclass");
		$db->do("SELECT kapture_attach('side$k', server => 'kapture_side')");
	}
	# what changed while a table was detached was not captured
	foreach my $k (1 .. 3)
	{
		session('bulk')->do("CALL kapture_backfill('side$k')");
		session('bulk')->do("UPDATE side$k SET city = city || ' at last'");
	}
	return;
}

# Everything is taken up and sent, and what was refused meanwhile is sent again.
sub drain
{
	for (1 .. 1200)
	{
		my $db = session('bulk');
		my ($waiting, $parked) = $db->selectrow_array('SELECT sum(pending + in_flight + retrying), sum(parked) FROM kapture_status');
		return 1 if $waiting + $parked == 0;
		event("$waiting waiting, $parked parked") if $_ % 20 == 0;
		$db->do("SELECT kapture_retry(relation::regclass) FROM kapture_status") if $_ % 10 == 0;
		sleep 0.5;
	}
	wrong('not everything was sent within ten minutes: ', join ', ',
		map { join ' ', map { $_ // '' } @$_ } @{ session('bulk')->selectall_arrayref('SELECT relation, row_key, message FROM kapture_failures LIMIT 10') });
	return 0;
}

my $drain_start = time;
eval { peace(); drain() && mapped_peace(); 1 } or wrong("drain: $@");
my $drain = time - $drain_start;
# the last row of the table of samples is after the drain
eval { sample(); 1 } or event("no sample: $@");

my (%seen, %local, $rows, $twice, $lost, $differ);
$rows = $twice = $lost = $differ = 0;

sub judge
{
	my $db = session('watch', 'postgres');
	$db->do('SET statement_timeout = 0');
	my $list = $db->selectall_arrayref('SELECT * FROM customers', { Slice => {} });
	$local{"row $_->{n}"} = $_ foreach @$list;
	foreach my $k (1 .. 3)
	{
		$local{ $_->{customer_name} } = $_ foreach @{ $db->selectall_arrayref("SELECT * FROM side$k", { Slice => {} }) };
	}
	$rows = keys %local;
	foreach my $customer (@{ emulator('customers') })
	{
		my $name = $customer->{customer_name};
		if ($name !~ /^(row|side|direct) \d+$/)
		{
			wrong("never committed: $name") if $name =~ /rolled back/;
			next;
		}
		if ($seen{$name}++) { $twice++; wrong("$name is there twice"); }
		delete $added{ $customer->{phone} } if $name =~ /^direct/;
		my $row = $local{$name} or next;
		if (($row->{kapture_customer_id} // 0) != $customer->{kapture_customer_id})
		{
			$differ++;
			wrong("$name has id " . ($row->{kapture_customer_id} // 'none') . ", Kapture says $customer->{kapture_customer_id}");
		}
		foreach my $field (qw(customer_name phone email_id city))
		{
			next unless defined $row->{$field} && $row->{$field} ne '' && $row->{$field} ne ($customer->{$field} // '');
			$differ++;
			wrong("$name: $field is '$row->{$field}', Kapture has '" . ($customer->{$field} // '') . "'");
		}
	}
	foreach my $name (sort grep { !$seen{$_} } keys %local) { $lost++; wrong("$name is missing"); }
	foreach my $phone (sort keys %added) { $lost++; wrong("direct Add of $phone is missing"); }
	return;
}
eval { judge(); $rows += mapped_judge(); 1 } or wrong("oracle: $@");

sub median
{
	my @v = sort { $a <=> $b } @_;
	return @v ? $v[ @v / 2 ] : 0;
}

# The longest life of a process that was watched: first and second half of it,
# after two minutes to warm up.
my %flat;

sub flat_life
{
	my ($name, $what, $slack) = @_;
	my %lives;
	push @{ $lives{ $_->{"${name}_pid"} } }, $_ foreach grep { $_->{"${name}_pid"} && $_->{"${name}_age"} > 120 } @samples;
	my ($life) = sort { @$b <=> @$a } values %lives;
	return unless $life && @$life >= 6;
	my @v = map { $_->{"${name}_$what"} } @$life;
	my ($first, $second) = (median(@v[ 0 .. $#v / 2 ]), median(@v[ $#v / 2 + 1 .. $#v ]));
	$flat{"$name $what"} = [ $first, $second, scalar(@v) * 30 ];
	wrong("$name: $what grew from $first to $second in " . @v * 30 . ' s') if $second > $first * 1.1 + $slack;
	return;
}

# Sizes: the largest of the second half of the run beside that of the first.
sub flat_size
{
	my ($table) = @_;
	my @v = map { $_->{$table} } grep { $_->{$table} ne '' } @samples;
	return if @v < 8;
	my ($first, $second) = (max(@v[ 0 .. $#v / 2 ]), max(@v[ $#v / 2 + 1 .. $#v ]));
	$flat{$table} = [ $first, $second, int $lasted ];
	wrong("$table grew from $first to $second bytes") if $second > $first * 1.5 + 1024 * 1024;
	return;
}
flat_life($_, 'kb', 1024) foreach qw(worker launcher session);
flat_life($_, 'fds', 16) foreach qw(worker launcher session);
flat_size($_) foreach qw(outbox outbox_index delivery delivery_index);
if ($minutes >= 40) { flat_size($_) foreach qw(history history_index); }    # kept for ten minutes
my $longest = max(0, map { $_->{xact_age} || 0 } @samples);
wrong("a transaction of the worker was $longest s old") if $longest > 10;

# The log: nothing but our kills ends a process, and the worker meets no error
# but being told to end.
my %said;
open my $log, '<', $ENV{SOAK_LOG} or die $!;
while (my $line = <$log>)
{
	wrong("log: $line") if $line =~ /PANIC|TRAP:|terminated by signal (?!9)/;
	next unless $line =~ /kapture_sync (?:worker|launcher): (WARNING|ERROR|FATAL|LOG): +(.*)/;
	my ($level, $text) = ($1, $2);
	$text =~ s/"[^"]*"/"..."/g;
	$text =~ s/\d+/N/g;
	$said{"$level: $text"}++;
	wrong("log: $level: $text") if $level =~ /ERROR|FATAL/ && $said{"$level: $text"} == 1
	  && $text !~ /terminating|administrator command|the database system is|connection to client lost|postmaster/;
}

open my $out, '>', "$results/result.json" or die $!;
my $last = $samples[-1];
print $out JSON::XS->new->pretty->canonical->encode({
		commit => $ENV{SOAK_COMMIT}, seed => $seed, started => strftime('%Y-%m-%d %H:%M', localtime $start),
		minutes_asked => $minutes + 0, seconds => int $lasted, drain_seconds => int $drain, done => \%count, refused => \%refused, killed => \%killed,
		requests => $last->{requests}, customers => $last->{customers}, rows => $rows, twice => $twice, lost => $lost, differ => $differ,
		flat => \%flat, longest_transaction => $longest, said => \%said, wrong => [ @wrong > 200 ? @wrong[ 0 .. 199 ] : @wrong ],
		version => scalar(eval { ask('SHOW server_version') }) });
close $out;
printf "%d rows, %d requests, %d kills in %d s: %s\n", $rows, $last->{requests}, sum0(values %killed), $lasted,
  @wrong ? @wrong . ' findings' : 'nothing lost, nothing twice, flat';
print "  $_\n" foreach @wrong > 30 ? @wrong[ 0 .. 29 ] : @wrong;
exit(@wrong ? 1 : 0);
