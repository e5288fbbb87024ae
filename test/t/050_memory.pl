# Calls and drained rows leave nothing behind: what a backend and the worker have
# in memory after a first round is what they have after five.  A round has
# $KAPTURE_MEMORY_ROUND calls and rows.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Select;
use IO::Socket::INET;
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $round = $ENV{KAPTURE_MEMORY_ROUND} || 1000;
my $rounds = 5;

# What may be left of each round's caches and of malloc's fragments.  A leak of
# one small palloc for each of a round's calls is more.
my $context_slack = 64 * 1024;
# the first thousands still touch new pages; what leaks shows in many rounds (--long)
my $resident_slack = 4 * 1024 * 1024;

my $emulator = start_emulator();
my $node = new_node('main');

# the buffers that a process has touched count as its own memory
$node->append_conf('postgresql.conf', "shared_buffers = '2MB'\n");
$node->restart;
setup_sync($node, $emulator);

# The most memory that a process has had at any time.
sub resident
{
	my ($pid) = @_;
	slurp_file("/proc/$pid/status") =~ /^VmHWM:\s+(\d+) kB/m or die "no memory of process $pid";
	return $1 * 1024;
}

# Sockets and files that a process has open.
sub descriptors
{
	my ($pid) = @_;
	opendir(my $dir, "/proc/$pid/fd") or die "no descriptors of process $pid: $!";
	return scalar(grep { /^\d/ } readdir $dir);
}

sub flat_ok
{
	my ($who, @usage) = @_;
	my ($first, $last) = @usage[ 0, -1 ];

	diag("$who: contexts " . join(' ', map { $_->{contexts} } @usage) . ', resident ' . join(' ', map { $_->{resident} } @usage));
	cmp_ok($last->{contexts} - $first->{contexts}, '<', $context_slack, "$who: memory contexts do not grow");
	memory_ok($last->{resident} - $first->{resident}, $resident_slack, "$who: nor does the process at its largest");
	# connections that are kept come and go; a leak would be one for each request
	cmp_ok($last->{descriptors}, '<=', $first->{descriptors} + 16, "$who: nor the number of its files and sockets");
	return;
}

# --- a backend: direct calls, pulled rows, foreign tables, failures
my @pulled = map { { customer_name => "Pulled $_", phone => (6000000000 + $_) . '', generated => '2021-03-14 10:00:00' } } 1 .. 51;    # 50 look like a limit
emulator_post($emulator, 'seed', \@pulled);
$node->safe_psql('postgres', qq(
CREATE SERVER nowhere FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER nowhere OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE SCHEMA k;
IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO k;
CREATE PROCEDURE calls(first bigint, n int) LANGUAGE plpgsql AS \$\$
DECLARE
	answer jsonb;
BEGIN
	FOR i IN 0 .. n - 1 LOOP
		answer := kapture_add_customer(jsonb_build_object('customer_name', 'Call ' || i, 'phone', (first + i)::text));
		ASSERT answer->>'status' = 'success';
		answer := kapture_update_customer(jsonb_build_object('kapture_customer_id', answer #> '{Enquiry,kapture_customer_id}', 'city', 'Pune'));
		ASSERT answer->>'status' = 'success';
		answer := kapture_add_customer('{"customer_name": "Refused", "phone": "1"}');
		ASSERT answer->>'status' = 'failed';
		IF i % 10 = 0 THEN
			BEGIN
				PERFORM kapture_get_customer('{"phone": "9000000000"}', 'nowhere');
				RAISE 'an answer from nowhere';
			EXCEPTION WHEN sqlclient_unable_to_establish_sqlconnection THEN
			END;
		END IF;
		COMMIT;
	END LOOP;
END \$\$;
));
my $session = $node->background_psql('postgres', on_error_stop => 1);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
chomp $pid;
my @usage;
for my $i (0 .. $rounds - 1)
{
	my $first = 7000000000 + $i * $round;
	my $few = $round / 50;
	$session->query_safe("CALL calls($first, $round)");
	$session->query_safe("SELECT count(kapture_get_customer(jsonb_build_object('phone', i::text))) FROM generate_series($first, $first + $round - 1) i");
	$session->query_safe("SELECT count(raw) FROM generate_series(1, $few), LATERAL kapture_pull_customers('2021-03-14', '2021-03-15')");
	$session->query_safe("SELECT count(c.raw) FROM generate_series($first, $first + $few - 1) i LEFT JOIN k.customers c ON c.phone = i::text");
	push @usage, {
		contexts => $session->query_safe('SELECT sum(total_bytes) FROM pg_backend_memory_contexts'),
		resident => resident($pid),
		descriptors => descriptors($pid)
	};
}
$session->quit;
is(emulator_get($emulator, 'stats')->{adds}, $rounds * $round, 'all calls were answered');
flat_ok('backend', @usage);

# --- the worker: rows added, updated, refused, deleted
create_customers($node);
my $worker = $node->safe_psql('postgres', 'SELECT kapture_worker_pid()');
my $idle = 'SELECT pending + in_flight + retrying = 0 FROM kapture_status';

# The total of the worker's contexts, which it writes to the log.
sub worker_contexts
{
	my $offset = -s $node->logfile;
	my $total;
	$node->safe_psql('postgres', "SELECT pg_log_backend_memory_contexts($worker)");
	wait_for(sub { ($total) = slurp_file($node->logfile, $offset) =~ /\[$worker\].* Grand total: (\d+) bytes/ }, 'the worker to log its contexts');
	return $total;
}

@usage = ();
for my $i (0 .. $rounds - 1)
{
	my $first = 8000000000 + $i * $round;
	my $refused = $round / 10;
	$node->safe_psql('postgres', qq(
INSERT INTO customers (customer_name, phone) SELECT 'Row ' || i, i::text FROM generate_series($first, $first + $round - 1) i;
INSERT INTO customers (customer_name, phone) SELECT 'Refused ' || i, i::text FROM generate_series(1, $refused) i;
));
	die 'rows are not sent' unless $node->poll_query_until('postgres', $idle);
	$node->safe_psql('postgres', "UPDATE customers SET city = 'Round $i' WHERE phone::bigint >= $first");
	die 'updates are not sent' unless $node->poll_query_until('postgres', $idle);
	$node->safe_psql('postgres', "DELETE FROM customers WHERE kapture_customer_id IS NULL");
	die 'deletions are not seen' unless $node->poll_query_until('postgres', $idle);
	push @usage, { contexts => worker_contexts(), resident => resident($worker), descriptors => descriptors($worker) };
}
is($node->safe_psql('postgres', 'SELECT kapture_worker_pid()'), $worker, 'it is the same worker all the time');
is($node->safe_psql('postgres', 'SELECT count(kapture_customer_id) FROM customers'), $rounds * $round, 'all rows were sent');
flat_ok('worker', @usage);

# --- a worker that reads a table anew again and again, whose server has long options
my $long = 'x' x 7000;
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD headers '{\"X-Long\": \"$long\"}')");
@usage = ();
for my $i (0 .. 1)
{
	my $first = 8500000000 + $i * 100;
	for my $j (0 .. 29)
	{
		# sent only after the table has been read
		$node->safe_psql('postgres', "ALTER TABLE customers SET (fillfactor = " . (50 + $j) . "); INSERT INTO customers (customer_name, phone) VALUES ('Again', '" . ($first + $j) . "')");
		die 'rows are not sent' unless $node->poll_query_until('postgres', "SELECT count(kapture_customer_id) = 1 FROM customers WHERE phone = '" . ($first + $j) . "'");
	}
	push @usage, { contexts => worker_contexts() };
}
diag("worker that reads a table: contexts $usage[0]{contexts} $usage[1]{contexts}");
cmp_ok($usage[1]{contexts} - $usage[0]{contexts}, '<', $context_slack, 'reading a table anew leaves nothing in the worker');

# --- a pull of many windows, likewise
$session = $node->background_psql('postgres', on_error_stop => 1);
$pid = $session->query_safe('SELECT pg_backend_pid()');
chomp $pid;
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD pull_window '1min')");
$session->query_safe("SELECT count(*) FROM kapture_pull_customers('2021-03-15 00:00:00', '2021-03-15 00:30:00')");
my $before = resident($pid);
$session->query_safe("SELECT count(*) FROM kapture_pull_customers('2021-03-15 00:00:00', '2021-03-15 20:00:00')");
memory_ok(resident($pid) - $before, $resident_slack, 'a window of a pull leaves nothing for the next one');
$session->quit;

# --- a session that captures changes of partitions which are dropped later
$node->safe_psql('postgres', q(
CREATE TABLE days (day int, id int, customer_name text, phone text, PRIMARY KEY (day, id)) PARTITION BY LIST (day);
SELECT kapture_attach('days');
SELECT kapture_pause('days')));
$session = $node->background_psql('postgres', on_error_stop => 1);
my $captured = "SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'kapture_sync captured table'";
$session->query_safe("CREATE TABLE days_$_ PARTITION OF days FOR VALUES IN ($_); INSERT INTO days VALUES ($_, 1, 'Day', '9000000000'); DROP TABLE days_$_") for 1 .. 20;
cmp_ok($session->query_safe($captured), '<=', 2, 'a session forgets the partitions that were dropped');
$session->quit;

# --- the worker: large answers to many rows, which all come but for their end
my $listener = IO::Socket::INET->new(Listen => 512, LocalAddr => '127.0.0.1') or die "listen: $!";
my $answers = fork // die $!;
if ($answers == 0)
{
	my $answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{\"status\": \"success\", \"a\": \"" . 'x' x 990_000;
	my ($reading, $writing, %sent) = (IO::Select->new($listener), IO::Select->new);
	while (my ($readable, $writable) = IO::Select->select($reading, $writing, undef, undef))
	{
		foreach my $client (@$writable)
		{
			$sent{$client} += syswrite($client, $answer, length $answer, $sent{$client}) // length $answer;
			$writing->remove($client) if $sent{$client} >= length $answer;
		}
		foreach my $client (@$readable)
		{
			if ($client == $listener)
			{
				my $new = $listener->accept or next;
				$new->blocking(0);
				$reading->add($new);
			}
			elsif (sysread $client, my $request, 65536)
			{
				$writing->add($client) unless defined $sent{$client};
				$sent{$client} //= 0;
			}
			else
			{
				$_->remove($client) foreach $reading, $writing;
				delete $sent{$client};
				close $client;
			}
		}
	}
}
my $port = $listener->sockport;
close $listener or die;
restart_worker($node);
$node->safe_psql('postgres', qq(
CREATE SERVER unended FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:$port', timeout '4s', max_connections '200');
CREATE USER MAPPING FOR CURRENT_USER SERVER unended OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE unended (id bigint PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('unended', server => 'unended')));
my $unending = $node->safe_psql('postgres', 'SELECT kapture_worker_pid()');
my $without = resident($unending);
$node->safe_psql('postgres', "INSERT INTO unended SELECT i, 'Unended', 9700000000 + i FROM generate_series(1, 200) i");
poll_ok($node, "SELECT count(*) >= 100 FROM kapture_failures WHERE relation = 'unended'::regclass", 'large answers to rows do not end');
is($node->safe_psql('postgres', 'SELECT kapture_worker_pid()'), $unending, 'the worker goes on');
memory_ok(resident($unending) - $without, 64 * 1024 * 1024, 'and does not take all of them into memory at once');
kill 'KILL', $answers;
waitpid $answers, 0;

$node->stop;
done_testing();
