# Resources that end: the disk of the tables, of the WAL and of the log; memory,
# descriptors, worker slots, connections; names that do not resolve any more;
# transaction ids; and a clock that somebody sets.  Nothing is lost, nobody is
# there twice, and all goes on by itself as soon as the resource is back.
use strict;
use warnings;

# File systems of our own that are small, and files of host names and name servers,
# where an ordinary user may have those.  (Before the modules that redirect output.)
BEGIN
{
	require File::Temp;
	if (!defined $ENV{KAPTURE_TEST_MOUNTS})
	{
		my $dir = File::Temp::tempdir('kapture_mountsXXXX', TMPDIR => 1);
		chmod 0755, $dir;
		mkdir "$dir/$_" foreach qw(data wal log);
		foreach my $file (qw(hosts resolv.conf))
		{
			open(my $handle, '>', "$dir/$file") or die "$dir/$file: $!";
			close $handle;
		}
		my $script = 'mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf'
		  . ' && mount -t tmpfs -o size=40m none "$0/data" && mount -t tmpfs -o size=16m none "$0/wal" && mount -t tmpfs -o size=1m none "$0/log"'
		  . ' && exec unshare -U --map-user="$1" --map-group="$2" "$3" "$4"';
		my @mount = ('unshare', '-Urm', 'sh', '-c', $script, $dir, $<, int($());
		$ENV{KAPTURE_TEST_MOUNTS} = system("@mount[0, 1] true 2>/dev/null") == 0 && system(@mount, 'test', '-n') == 0 ? $dir : '';
		my $status = $ENV{KAPTURE_TEST_MOUNTS} ? system(@mount, $^X, $0) : 0;
		system('rm', '-r', $dir);
		exit($status >> 8 || $status) if $ENV{KAPTURE_TEST_MOUNTS};
	}
}

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = $ENV{KAPTURE_TEST_MOUNTS};
my $idle = 'SELECT bool_and(pending + in_flight + retrying + parked = 0) FROM kapture_status';
my $emulator = start_emulator();
my $phone = 9600000000;

sub stats { return emulator_get($emulator, 'stats') }

# Inserts so many rows at once.
sub insert_sql
{
	my ($name, $n, $city) = @_;
	my $first = $phone + 1;
	$phone += $n;
	$city //= "'Pune'";
	return "INSERT INTO customers (customer_name, phone, city) SELECT '$name ' || i, ($first - 1 + i)::text, $city FROM generate_series(1, $n) i";
}

# All rows are with Kapture, once each, without anybody's help.
sub goes_on
{
	my ($node, $what, $db, $its) = @_;
	$its ||= $emulator;
	poll_ok($node, $idle, "$what: nothing waits, nothing is parked", $db)
	  || diag($node->safe_psql($db || 'postgres', 'SELECT row_to_json(s) FROM kapture_status s; SELECT row_to_json(f) FROM kapture_failures f LIMIT 5'));
	oracle_ok($node, $its, "$what: Kapture has all rows, once each", $db);
	return;
}

# Uses up a file system; returns the file that does.
sub fill
{
	my ($where) = @_;
	my $file = "$where/ballast";
	open(my $handle, '>>', $file) or die "$file: $!";
	$handle->autoflush(1);
	my $size = 65536;
	while ($size >= 1)
	{
		$size = int($size / 2) unless defined syswrite $handle, 'x' x $size;
	}
	close $handle;
	return $file;
}

# Limits a resource of a process that runs: no more than it is given here; or, without
# that, as much as before.
sub limit
{
	my ($pid, $resource, $soft) = @_;
	$soft //= `prlimit --pid $pid --$resource --noheadings --output HARD`;
	$soft =~ s/\s//g;
	system_or_bail('prlimit', '--pid', $pid, "--$resource=$soft:");
	return;
}

# What a process has of memory by now, in bytes, and the number that its next file gets.
sub memory_of { my ($pid) = @_; return slurp_file("/proc/$pid/status") =~ /^VmSize:\s*(\d+) kB/m ? $1 * 1024 : die "no size of $pid"; }
sub next_file { my ($pid) = @_; my $n = 0; $n++ while -l "/proc/$pid/fd/$n"; return $n; }

# --- the disk of the tables, of the WAL and of the log
SKIP:
{
	skip 'no file systems of our own: user namespaces are not allowed here', 1 unless $dir;
	my $small = PostgreSQL::Test::Cluster->new('small');
	$small->init(extra => [ '--wal-segsize=1', "--waldir=$dir/wal/pg_wal" ]);
	$small->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'kapture_sync'
min_wal_size = 2MB
max_wal_size = 4MB
autovacuum = off
logging_collector = on
log_directory = '$dir/log'
log_filename = 'server.log'
log_min_messages = info
));
	mkdir "$dir/data/space";
	$small->start;
	$small->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$dir/data/space'");
	$small->safe_psql('postgres', 'CREATE DATABASE sync TABLESPACE small');
	setup_sync($small, $emulator, db => 'sync', options => "max_connections '60'");
	create_customers($small, db => 'sync');
	disk_of_tables($small);
	disk_of_wal($small);
	disk_of_log($small);
	$small->stop;
}

# Answers arrive while nothing can be written, for longer than a few tries.
sub disk_of_tables
{
	my ($node) = @_;
	$node->safe_psql('sync', "ALTER SERVER kapture OPTIONS (SET timeout '1h')");
	emulator_faults($emulator, { api => 'add', action => 'hold' });
	$node->safe_psql('sync', insert_sql('Disk', 400));
	wait_for(sub { stats()->{adds} >= 60 }, 'Adds that are not answered');
	$node->safe_psql('sync', 'CHECKPOINT');
	my $ballast = fill("$dir/data");
	my ($rc, $out, $err) = $node->psql('sync', insert_sql('Too much', 20000));
	like($err, qr/could not extend file.*No space left on device/s, 'the disk of the tables is full: rows are refused, not captured halfway');
	emulator_faults($emulator);
	emulator_post($emulator, 'release', {});
	poll_ok($node, "SELECT bool_or(worker_error LIKE '%No space left on device%') FROM kapture_status", 'the status says why nothing goes on', 'sync');
	poll_ok($node, "SELECT bool_and(oldest_age > '6 s' AND parked = 0) FROM kapture_status", 'for longer than a few tries', 'sync');
	unlink $ballast;
	goes_on($node, 'the disk of the tables', 'sync');
	$node->safe_psql('sync', "ALTER SERVER kapture OPTIONS (SET timeout '2s')");
	return;
}

# The server ends, as PostgreSQL does then.  (No checkpoint may make room: on a slow
# machine each would be done before the rows reach the end of the disk.)
sub disk_of_wal
{
	my ($node) = @_;
	$node->append_conf('postgresql.conf', "max_wal_size = 1GB\ncheckpoint_timeout = 1h");
	$node->reload;
	poll_ok($node, "SELECT current_setting('max_wal_size') = '1GB'", 'no checkpoint is due any more', 'sync');
	$node->safe_psql('sync', 'CHECKPOINT');
	my $ballast = fill("$dir/wal");
	my $pid = $node->{_pid};
	my ($rc, $out, $err);
	foreach my $i (1 .. 100)
	{
		($rc, $out, $err) = $node->psql('sync', insert_sql("WAL $i", 200), on_error_stop => 0);
		last if $rc;
	}
	is($rc, 2, 'the disk of the WAL is full: the session ends');
	wait_for(sub { !kill 0, $pid }, 'the end of the server');
	unlink $ballast;
	$node->append_conf('postgresql.conf', "max_wal_size = 4MB\ncheckpoint_timeout = 5min");
	$node->_update_pid(0);
	$node->start;
	goes_on($node, 'the disk of the WAL', 'sync');
	return;
}

sub disk_of_log
{
	my ($node) = @_;
	my $ballast = fill("$dir/log");
	my $before = -s "$dir/log/server.log";
	$node->safe_psql('sync', insert_sql('Log', 100));
	restart_worker($node, 'another worker comes', db => 'sync');
	$node->safe_psql('sync', insert_sql('Log again', 100));
	goes_on($node, 'the disk of the log', 'sync');
	cmp_ok(-s "$dir/log/server.log", '<=', $before + 8192, 'of which nothing was noted');
	unlink $ballast;
	restart_worker($node, 'another worker comes', db => 'sync');
	like(slurp_file("$dir/log/server.log", $before), qr/kapture_sync worker for database \d+ started/, 'the log goes on');
	return;
}

# --- memory, of the worker and of a session
my $node = new_node('main');
setup_sync($node, $emulator, options => "max_connections '50'");
create_customers($node);

shorthand($node, $emulator, qw(sql fresh));

# Starts anew: no rows, no customers, no faults.
sub worker_pid { return sql('SELECT kapture_worker_pid()') }

# What the log says from now on.
sub log_follows
{
	my ($pattern, $what) = @_;
	my $from = -s $node->logfile;
	return sub { return wait_for(sub { slurp_file($node->logfile, $from) =~ $pattern }, $what) };
}

sub memory
{
	fresh();
	sql(insert_sql('Before', 10));
	poll_ok($node, $idle, 'the worker runs');
	my $pid = worker_pid();
	my $out = log_follows(qr/out of memory/, 'the end of memory');
	limit($pid, 'as', memory_of($pid) + 262144);
	sql(insert_sql('Memory', 1000, "repeat('x', 2000)"));
	$out->();
	poll_ok($node, "SELECT bool_and(oldest_age > '6 s' AND parked = 0) FROM kapture_status", 'the worker has no memory, for longer than a few tries');
	limit($pid, 'as');
	goes_on($node, 'memory of the worker');
	is(worker_pid(), $pid, 'it is the same worker');

	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $backend = $session->query('SELECT pg_backend_pid()');
	limit($backend, 'as', memory_of($backend) + 1048576);
	$session->query(insert_sql('Too much', 200000));
	$session->query("SELECT kapture_get_customer(jsonb_build_object('phone', repeat('9', 3000000)))");
	limit($backend, 'as');
	$session->query(insert_sql('After', 10));
	is($session->query("SELECT count(*) FILTER (WHERE customer_name ~ '^After'), count(*) FILTER (WHERE customer_name ~ '^Too much') FROM customers"), '10|0', 'a session without memory has errors, and goes on');
	$session->quit;
	like(slurp_file($node->logfile), qr/ERROR:  out of memory.*INSERT INTO customers/s, 'which say so');
	goes_on($node, 'memory of a session');
	return;
}
SKIP:
{
	skip 'a sanitizer needs all the memory that there is', 1 if ($ENV{KAPTURE_SLOWNESS} || 1) > 1;
	memory();
}

# --- descriptors, of the worker and of all processes
sub descriptors
{
	fresh();
	my $pid = worker_pid();
	my $out = log_follows(qr/out of file descriptors: Too many open files/, 'the end of descriptors');
	limit($pid, 'nofile', next_file($pid));
	sql(insert_sql('Files', 300));
	$out->();
	limit($pid, 'nofile');
	goes_on($node, 'descriptors of the worker');
	is(worker_pid(), $pid, 'it is the same worker');

	$node->append_conf('postgresql.conf', "max_files_per_process = 64\n");
	$node->restart;
	sql(insert_sql('Few files', 300));
	goes_on($node, 'few descriptors for each process');
	$node->adjust_conf('postgresql.conf', 'max_files_per_process', '1000');
	return;
}
descriptors();

# --- worker slots: one for two databases
sub slots
{
	my $other = start_emulator();
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	setup_sync($node, $other, db => 'other');
	create_customers($node, db => 'other');
	$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 0\nkapture_sync.excluded_databases = 'other'\n");
	$node->restart;
	$node->safe_psql('other', insert_sql('Slots', 10));
	sql(insert_sql('Slots', 10));
	poll_ok($node, $idle, 'there is a slot for one database');
	my $out = log_follows(qr/WARNING:  could not start a kapture_sync worker: out of background worker slots\n.*HINT:  You might need to increase max_worker_processes\./, 'the warning');
	$node->adjust_conf('postgresql.conf', 'kapture_sync.excluded_databases', "''");
	$node->reload;
	$out->();
	is($node->safe_psql('other', 'SELECT pending FROM kapture_status'), 10, 'and none for the other');
	$node->adjust_conf('postgresql.conf', 'kapture_sync.excluded_databases', "'postgres'");
	$node->reload;
	goes_on($node, 'worker slots', 'other', $other);
	# the other way round, too: no database gets a worker again that has just lost it
	sql(insert_sql('Slots again', 10));
	$node->adjust_conf('postgresql.conf', 'kapture_sync.excluded_databases', "'other'");
	$node->reload;
	goes_on($node, 'worker slots the other way', 'postgres', $emulator);
	$node->safe_psql('other', 'DROP EXTENSION kapture_sync CASCADE');
	$node->adjust_conf('postgresql.conf', 'kapture_sync.excluded_databases', "''");
	$node->adjust_conf('postgresql.conf', 'max_worker_processes', '8');
	stop_emulator($other);
	return;
}
slots();

# --- connections
sub connections
{
	$node->append_conf('postgresql.conf', "max_connections = 8\nsuperuser_reserved_connections = 1\n");
	$node->restart;
	fresh();
	sql('CREATE ROLE clerk LOGIN; GRANT INSERT ON customers TO clerk');
	my @sessions;
	while (my $session = eval { $node->background_psql('postgres', extra_params => [ '-U', 'clerk' ]) })
	{
		push @sessions, $session;
	}
	cmp_ok(scalar(@sessions), '>', 3, 'all connections are taken');
	$sessions[0]->query_safe(insert_sql('Connections', 100));
	wait_for(sub { stats()->{adds} == 100 }, 'the rows to arrive');
	$_->quit foreach @sessions;
	goes_on($node, 'connections');
	return;
}
connections();

# --- a name that does not resolve any more, and a name server that is dead
sub write_file
{
	my ($file, $text) = @_;
	open(my $handle, '>', $file) or die "$file: $!";
	print $handle $text;
	close $handle;
	return;
}

sub names
{
	fresh();
	write_file("$dir/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n");
	write_file("$dir/hosts", "127.0.0.1 localhost kapture.test\n");
	sql("ALTER SERVER kapture OPTIONS (SET url 'http://kapture.test:$emulator->{port}', ADD allow_http 'true', SET max_connections '2')");
	sql(insert_sql('Named', 20));
	poll_ok($node, $idle, 'a name is resolved');
	# connections that are kept need no name
	emulator_faults($emulator, { action => 'status', code => 503 });
	write_file("$dir/hosts", "127.0.0.1 localhost\n");
	sql(insert_sql('Nameless', 50));
	poll_ok($node, "SELECT bool_or(server_state = 'failing' AND server_message ~* 'resolv') FROM kapture_status", 'the name does not resolve any more, and the status says so');
	emulator_faults($emulator);
	write_file("$dir/hosts", "127.0.0.1 localhost kapture.test\n");
	goes_on($node, 'names');
	sql("ALTER SERVER kapture OPTIONS (SET url '$emulator->{url}', SET max_connections '50')");
	return;
}
SKIP:
{
	skip 'no hosts file of our own: user namespaces are not allowed here', 1 unless $dir;
	names();
}

# --- transaction ids: their end, and that of 32 bits
sub freeze
{
	$node->safe_psql($_, 'VACUUM (FREEZE)') foreach split /\n/, sql('SELECT datname FROM pg_database');
	return;
}

# Starts the server again with this transaction id as the next one.
sub restart_at
{
	my ($xid) = @_;
	my $oldest = sql('SELECT min(datfrozenxid::text::bigint) FROM pg_database');
	my $file = sprintf '%s/pg_xact/%04X', $node->data_dir, $xid / 2**20;
	$node->stop;
	write_file($file, "\0" x 262144) unless -e $file;
	system_or_bail('pg_resetwal', '-x', $xid, '-u', $oldest, '-D', $node->data_dir);
	$node->start;
	return $oldest;
}

sub transaction_ids
{
	fresh();
	sql("CREATE TABLE anchor (); ALTER DATABASE template0 ALLOW_CONNECTIONS true; ALTER SERVER kapture OPTIONS (SET timeout '1h')");
	freeze();
	# from 3 million before the wraparound on, PostgreSQL gives no more
	my $oldest = sql('SELECT min(datfrozenxid::text::bigint) FROM pg_database');
	restart_at($oldest + 2**31 - 3_000_000 - 60);
	my $lock = $node->background_psql('postgres');
	$lock->query_safe('BEGIN; LOCK TABLE anchor IN SHARE UPDATE EXCLUSIVE MODE');    # vacuum waits
	emulator_faults($emulator, { api => 'add', action => 'hold' });
	sql(insert_sql('Waiting', 10));
	wait_for(sub { stats()->{adds} == 10 }, 'Adds that are not answered');
	my ($rc, $err) = (0, '');
	($rc, undef, $err) = $node->psql('postgres', insert_sql('Last', 1)) until $rc;
	like($err, qr/database is not accepting commands.* to avoid wraparound/, 'there are no transaction ids any more');
	emulator_faults($emulator);
	emulator_post($emulator, 'release', {});
	poll_ok($node, "SELECT bool_or(worker_error ~ 'not accepting commands') FROM kapture_status", 'the status says so');
	poll_ok($node, "SELECT bool_and(oldest_age > '6 s' AND parked = 0) FROM kapture_status", 'for longer than a few tries');
	$lock->quit;
	freeze();
	goes_on($node, 'the end of transaction ids');

	sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");
	restart_at(2**32 - 2**24);
	freeze();
	emulator_faults($emulator, { api => 'add', match => 'Kept', action => 'status', code => 500 });
	sql(insert_sql('Kept', 3));
	wait_for(sub { grep { $_->{code} == 500 } @{ emulator_get($emulator, 'log') } }, 'failures');
	restart_at(2**32 - 20);
	sql(insert_sql('Round', 1)) foreach 1 .. 30;
	emulator_faults($emulator);
	cmp_ok(sql('SELECT pg_current_xact_id()'), '>', 2**32, 'transaction ids go round');
	goes_on($node, 'transaction ids that go round');
	return;
}
transaction_ids();

# --- a clock that somebody sets, under PostgreSQL alone
my $shim = q(
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

/* seconds that the clock is set by: what the file says */
static long set_by(void)
{
	static volatile int *by = NULL;

	if (by == NULL)
	{
		void *map = mmap(NULL, sizeof(int), PROT_READ, MAP_SHARED, open(getenv("KAPTURE_TEST_CLOCK"), O_RDONLY | O_CLOEXEC), 0);

		if (map == MAP_FAILED)
			abort();
		by = map;
	}
	return *by;
}

int gettimeofday(struct timeval *tv, void *tz)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	tv->tv_sec = ts.tv_sec;
	tv->tv_usec = ts.tv_nsec / 1000;
	return 0;
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
	static int (*real)(clockid_t, struct timespec *) = NULL;
	int rc;

	if (real == NULL)
		real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
	rc = real(id, ts);
	if (rc == 0 && id == CLOCK_REALTIME)
		ts->tv_sec += set_by();
	return rc;
}

time_t time(time_t *t)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (t)
		*t = ts.tv_sec;
	return ts.tv_sec;
}
);
my $clock = PostgreSQL::Test::Utils::tempdir() . '/clock';

sub set_clock
{
	my ($seconds) = @_;
	open(my $handle, '+<', $clock) or die "$clock: $!";
	syswrite $handle, pack('i', $seconds);
	close $handle;
	return;
}

# Retries, requests without an answer, breakers, pulls: none takes longer for it, in
# neither direction.
sub clocks
{
	write_file($clock, pack('i', 0));
	$node->stop;
	{
		local $ENV{LD_PRELOAD} = "$clock.so";
		local $ENV{KAPTURE_TEST_CLOCK} = $clock;
		$node->start;
	}
	fresh();
	sql("ALTER SERVER kapture OPTIONS (ADD rate_limit '200', ADD pull_interval '1s')");
	# whoever has a call locked keeps nothing from following the clock
	sql("CREATE SERVER away FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1', allow_http 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER away OPTIONS (auth_key 'nobody')");
	my $call = sql(q(SELECT kapture_send('ticket_add', '{"title": "Away"}', 'away')));
	poll_ok($node, "SELECT state = 'waiting' AND attempts > 0 FROM kapture_calls WHERE call_id = $call", 'a call waits for its next try');
	my $locker = $node->background_psql('postgres');
	$locker->query_safe("BEGIN; SELECT kapture_discard_call($call)");
	my $log = -s $node->logfile;
	foreach my $by (-3600, 0, 3600, 0)
	{
		my $what = "the clock is set to $by s";
		emulator_faults($emulator, { api => 'add', match => 'Sick', action => 'status', code => 500 }, { api => 'add', match => 'Held', action => 'hold' });
		my $answers = stats()->{adds};
		sql(insert_sql('Sick', 3));
		wait_for(sub { grep { $_->{code} == 500 } @{ emulator_get($emulator, 'log') } }, 'failures');
		sql(insert_sql('Held', 3));
		wait_for(sub { stats()->{adds} >= $answers + 3 }, 'Adds that are not answered');
		set_clock($by);
		emulator_faults($emulator);
		sql(insert_sql('Well', 20));
		goes_on($node, $what);
		emulator_post($emulator, 'release', {});
		# with a clock that is behind, what is new at Kapture's is in the future
		poll_ok($node, 'SELECT NOT EXISTS (SELECT kapture_customer_id FROM customers EXCEPT SELECT id FROM kapture_customers)', "$what: customers are pulled") if $by >= 0;
	}
	$locker->query_safe('COMMIT');
	$locker->quit;
	like(slurp_file($node->logfile, $log), qr/the system clock was set back by 3600 s; the worker of database "postgres" starts anew/, 'the log says so');
	return;
}
SKIP:
{
	write_file("$clock.c", $shim);
	skip 'no clock of our own beside a sanitizer', 1 if ($ENV{KAPTURE_SLOWNESS} || 1) > 1;
	system_or_bail('cc', '-shared', '-fPIC', '-O1', '-o', "$clock.so", "$clock.c", '-ldl');
	clocks();
}

$node->stop;
done_testing();
