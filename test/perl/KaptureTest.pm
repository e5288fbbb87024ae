# What the TAP tests share: a server with the extension, an emulator of the
# Kapture API, and the oracle that compares the two.
package KaptureTest;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(basename dirname);
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use HTTP::Tiny;
use IO::Handle;
use IO::Select;
use IPC::Open3 qw(open3);
use IPC::Run ();
use JSON::PP;
use List::Util qw(max min);
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);

our @EXPORT = qw(start_emulator stop_emulator emulator_get emulator_post emulator_faults hold_adds release_adds
  new_node fault_point_installation setup_sync create_customers restart_worker wait_for poll_ok oracle_ok memory_ok rate_ok shorthand ago);

my $top = abs_path(dirname(__FILE__) . '/../..');
my $key = 'a2FwZGVtbzprYXAxMjM=';    # kapdemo:kap123, as in Kapture's document
my @emulators;

# whoever ends a test that stands still does not leave its servers behind
$SIG{TERM} = sub { die "ended by a signal\n" };

# Starts an emulator and returns { url, port, handle }.
sub start_emulator
{
	my @args = @_;
	my $dir = tempdir('kapture_emulatorXXXX', TMPDIR => 1, CLEANUP => 1);
	my $binary = $ENV{KAPTURE_EMULATOR} || "$top/test/emulator/kapture-emulator";
	my $log = "$dir/log";
	my $handle = IPC::Run::start([ $binary, '--port', 0, '--port-file', "$dir/port", '--empty', @args ],
		'>', $log, '2>&1');
	wait_for(sub { -s "$dir/port" }, 'the emulator to listen');
	my $port = slurp_file("$dir/port");
	chomp $port;
	my $scheme = (grep { $_ eq '--tls-cert' } @args) ? 'https' : 'http';
	my $emulator = { url => "$scheme://127.0.0.1:$port", port => $port, handle => $handle };
	push @emulators, $emulator;
	return $emulator;
}

sub stop_emulator
{
	my ($emulator) = @_;
	return unless $emulator->{handle};
	$emulator->{handle}->kill_kill;
	delete $emulator->{handle};
	return;
}

END
{
	my $status = $?;
	stop_emulator($_) foreach @emulators;
	$? = $status;
}

sub emulator_get
{
	my ($emulator, $path) = @_;
	my $answer = HTTP::Tiny->new(timeout => 60)->get("$emulator->{url}/_emulator/$path");
	die "emulator: $path: $answer->{status} $answer->{content}" unless $answer->{success};
	return decode_json($answer->{content});
}

sub emulator_post
{
	my ($emulator, $path, $data) = @_;
	my $answer = HTTP::Tiny->new(timeout => 60)->post("$emulator->{url}/_emulator/$path",
		{ content => encode_json($data), headers => { 'Content-Type' => 'application/json' } });
	die "emulator: $path: $answer->{status} $answer->{content}" unless $answer->{success};
	return;
}

sub emulator_faults
{
	my ($emulator, @rules) = @_;
	emulator_post($emulator, 'faults', \@rules);
	return;
}

# From here on, Adds (or the requests that a rule of the emulator's is about) are
# carried out but not answered, however long that takes, until they are released.
sub hold_adds
{
	my ($node, $emulator, %rule) = @_;
	$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '1h')");
	emulator_faults($emulator, { api => 'add', action => 'hold', %rule });
	return;
}

sub release_adds
{
	my ($node, $emulator) = @_;
	emulator_faults($emulator);
	emulator_post($emulator, 'release', {});
	$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '2s')");
	return;
}

# Has memory grown by less than so many kilobytes?  Sanitizers and valgrind keep
# what is freed, so that it says nothing there.
sub memory_ok
{
	my ($grown, $limit, $name) = @_;
  SKIP:
	{
		skip "memory is not the process's own: $name", 1 if ($ENV{KAPTURE_SLOWNESS} || 1) > 1;
		cmp_ok($grown, '<', $limit, $name);
	}
	return;
}

# Were there no more requests in any second than a limit?  They are counted when they arrive: one
# that was sent before the second may come late and fall into it.  With sanitizers and valgrind, a
# tenth of them may.
sub rate_ok
{
	my ($seen, $limit, $name) = @_;
	cmp_ok($seen, '<=', $limit * (($ENV{KAPTURE_SLOWNESS} || 1) > 1 ? 1.1 : 1) + 1, $name);
	return;
}

# For script/coverage: what a process has run is written when it exits.  So before a
# server is stopped at once, its sessions and the extension's processes are ended.
sub end_processes
{
	my ($postmaster) = @_;
	my @pids = map { /^(\d+) .*(?:kapture_sync|\[local\])/ ? $1 : () } split /\n/, `pgrep -a -P $postmaster`;
	my $deadline = time + 10;

	kill 'TERM', @pids;
	usleep(20_000) while time < $deadline && grep { -e "/proc/$_" } @pids;
	return;
}

if ($ENV{KAPTURE_COVERAGE})
{
	no warnings 'redefine';
	my $stop = \&PostgreSQL::Test::Cluster::stop;
	*PostgreSQL::Test::Cluster::stop = sub {
		my ($node, $mode, @rest) = @_;
		end_processes($node->{_pid}) if ($mode || '') eq 'immediate' && $node->{_pid} && -e "/proc/$node->{_pid}";
		return $stop->($node, $mode, @rest);
	};
}

# Waits until the condition holds; dies after $PG_TEST_TIMEOUT_DEFAULT seconds.
sub wait_for
{
	my ($condition, $what) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $begun = time;
	until ($condition->())
	{
		die "timed out waiting for $what" if time > $deadline;
		# a look that starts a psql takes a processor from what is waited for
		usleep(1_000_000 * max(0.02, min(0.2, 2 * (time - $begun))));
		$begun = time;
	}
	return 1;
}

# Asks a session of psql; returns what it prints, undef if the session has ended.
sub ask
{
	my ($session, $query, $deadline) = @_;
	my $end = "\x04\n";
	my $answer = '';

	local $SIG{PIPE} = 'IGNORE';
	print { $session->{in} } "$query;\n\\echo \x04\n" or return;
	until ($answer =~ s/$end\z//)
	{
		return unless IO::Select->new($session->{out})->can_read($deadline - time);
		return unless sysread $session->{out}, $answer, 65536, length $answer;
	}
	chomp $answer;
	return $answer;
}

# A test that a query gives 't' in the end.  One session asks again and again,
# since a psql for each look would keep the machine busier than what is tested;
# if it ends, as in a crash, another one takes its place.
sub poll_ok
{
	my ($node, $query, $name, $db) = @_;
	my @psql = ($node->installed_command('psql'), '-XAtq', '-d', $node->connstr($db || 'postgres'));
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($session, $answer);

	$query =~ s/;?\s*\z//;
	until (defined $answer && $answer eq 't')
	{
		last if time > $deadline;
		usleep(50_000) if $session;
		if (!defined $answer)
		{
			end_session($session);
			$session = {};
			$session->{pid} = open3($session->{in}, $session->{out}, undef, @psql);
			$session->{in}->autoflush(1);
		}
		$answer = ask($session, $query, $deadline + 5);    # what it says last is to be shown
	}
	end_session($session);
	$answer //= 'nothing';
	return ok($answer eq 't', $name) || diag("still, $query\ngives: $answer");
}

sub end_session
{
	my ($session) = @_;
	return unless $session;
	local $?;
	close $session->{in};
	close $session->{out};
	waitpid $session->{pid}, 0;
	return;
}

# Builds the library with fault points.  Returns where the server's installation is again,
# but for that library: a server finds its files by where its program is.
sub fault_point_installation
{
	chomp(my $pg_config = `sh -c 'command -v pg_config'`);
	my ($bin, $lib, $share) = map { chomp(my $dir = `$pg_config $_`); abs_path($dir) } qw(--bindir --pkglibdir --sharedir);
	my $common = dirname($bin);
	$common = dirname($common) until index("$lib/", "$common/") == 0 && index("$share/", "$common/") == 0;
	my $root = PostgreSQL::Test::Utils::tempdir() . '/installation';
	my ($new_bin, $new_lib, $new_share) = map { $root . substr $_, length $common } $bin, $lib, $share;

	# script/coverage counts what this build reaches, too
	my @counted = $ENV{KAPTURE_COVERAGE} ? ('COPT=--coverage -O0', 'FAULT_OPTIMIZE=-O0') : ();
	system_or_bail('make', '-s', '-j2', '-C', $top, 'fault_points', "PG_CONFIG=$pg_config", 'with_llvm=no', @counted);
	make_path($new_bin, $new_lib, dirname($new_share));
	symlink $share, $new_share or die "$new_share: $!";
	system_or_bail('cp', glob("$bin/*"), $new_bin);
	foreach my $file (glob "$lib/*")
	{
		my $name = basename($file);
		symlink($name eq 'kapture_sync.so' ? "$top/test/faults/$name" : $file, "$new_lib/$name") or die "$name: $!";
	}
	return dirname($new_bin);
}

# A running server with the library preloaded.
sub new_node
{
	my ($name, %params) = @_;
	my $path = delete $params{install_path};
	my $node = PostgreSQL::Test::Cluster->new($name, $path ? (install_path => $path) : ());
	$node->init(%params);
	$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = 'kapture_sync'
max_prepared_transactions = 10
log_min_messages = info
));
	$node->start;
	return $node;
}

# Extension, server and mapping; nothing is pulled before the server has its key.
sub setup_sync
{
	my ($node, $emulator, %params) = @_;
	my $db = $params{db} || 'postgres';
	my $options = $params{options} ? ", $params{options}" : '';
	my $timeout = 2 * ($ENV{KAPTURE_SLOWNESS} || 1);
	$node->safe_psql($db, qq(
CREATE EXTENSION kapture_sync;
BEGIN;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw
  OPTIONS (url '$emulator->{url}', timeout '${timeout}s'$options);
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key '$key');
COMMIT;
));
	return;
}

# The table most tests use, attached.
sub create_customers
{
	my ($node, %params) = @_;
	my $db = $params{db} || 'postgres';
	my $attach = $params{attach} || '';
	$node->safe_psql($db, qq(
CREATE TABLE customers (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer_name text, phone text, email_id text, city text, note text);
SELECT kapture_attach('customers'$attach);
));
	return;
}

# A test that another worker of a database comes when the present one is ended; or
# another process => 'puller'.
sub restart_worker
{
	my ($node, $name, %params) = @_;
	my $db = $params{db} || 'postgres';
	my $process = $params{process} || 'worker';
	my $pid = $node->safe_psql($db, "SELECT kapture_${process}_pid()");
	$node->safe_psql($db, "SELECT pg_terminate_backend($pid)");
	return poll_ok($node, "SELECT kapture_${process}_pid() <> $pid", $name || "another $process", $db);
}

# Gives a test short names, those named, for what it asks of its server and its
# emulator (undef if none of them needs it) again and again.
sub shorthand
{
	my ($node, $emulator, @names) = @_;
	my %subs = (
		# what a statement returns
		sql => sub { return $node->safe_psql($_[1] || 'postgres', $_[0]) },

		# all that psql prints, be it a result, an error or a notice
		said => sub {
			my ($rc, $out, $err) = $node->psql('postgres', $_[0], on_error_stop => 1);
			return "$out$err";
		},

		# how many requests of an API there were so far
		requests => sub {
			my ($api) = @_;
			return scalar grep { $_->{api} eq $api } @{ emulator_get($emulator, 'log') };
		},

		# what Kapture has of these fields, a line for each customer, sorted
		customers => sub {
			my @fields = @_;
			return join "\n", sort map { my $c = $_; join '|', map { $c->{$_} // '' } @fields } @{ emulator_get($emulator, 'customers') };
		},

		# leaves no customers, neither here nor there
		fresh => sub {
			$node->safe_psql('postgres', 'TRUNCATE customers');
			poll_ok($node, 'SELECT bool_and(pending + in_flight = 0) FROM kapture_status', 'all quiet');
			emulator_post($emulator, 'reset', {});
			return;
		},

		# a test that nothing waits to be sent any more
		idle_ok => sub { return poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", $_[0]) });

	foreach my $name (@names)
	{
		die "no shorthand $name" unless $subs{$name};
		no strict 'refs';
		*{"main::$name"} = $subs{$name};
	}
	return;
}

# The time so many seconds ago, as the account's clock shows it.
sub ago
{
	my ($seconds) = @_;
	return strftime('%Y-%m-%d %H:%M:%S', gmtime(time + 19800 - $seconds));
}

# Compares every local row with the emulator's store: nothing is missing,
# nothing is there twice, values and ids are equal.
sub oracle_ok
{
	my ($node, $emulator, $name, $db) = @_;
	$db ||= 'postgres';
	my $customers = emulator_get($emulator, 'customers');
	my %remote = map { $_->{kapture_customer_id} => $_ } @$customers;
	my @rows = split /\n/, $node->safe_psql($db,
		"SELECT json_build_object('id', id, 'customer_name', coalesce(customer_name, ''), 'phone', coalesce(phone, ''),"
		  . " 'email_id', coalesce(email_id, ''), 'city', coalesce(city, ''), 'kapture_customer_id', kapture_customer_id) FROM customers");
	my @wrong;

	foreach my $line (@rows)
	{
		my $row = decode_json($line);
		my $customer = delete $remote{ $row->{kapture_customer_id} || 0 };
		if (!$customer)
		{
			push @wrong, "missing or shared: $line";
			next;
		}
		foreach my $field (qw(customer_name phone email_id city))
		{
			push @wrong, "differs in $field: $line"
			  if $row->{$field} ne '' && ($customer->{$field} // '') ne $row->{$field};
		}
	}
	push @wrong, map { "in Kapture only: $_" } sort keys %remote;
	diag(join "\n", @wrong > 20 ? (@wrong[ 0 .. 19 ], '...') : @wrong) if @wrong;
	return ok(!@wrong, $name);
}

1;
