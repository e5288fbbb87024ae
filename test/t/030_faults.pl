# Nothing is lost and nobody is added twice, whatever happens: a load of
# inserts, updates and deletes, while worker, backends and server are killed and
# the emulator misbehaves in every way it can, at random.
#
#	KAPTURE_FAULT_KILLS		how many kills (default 20; script/test --long: 200)
#	KAPTURE_FAULT_SEED		repeats the choices of an earlier run
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use JSON::PP;
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kills = $ENV{KAPTURE_FAULT_KILLS} || 20;
my $seed = $ENV{KAPTURE_FAULT_SEED} || int(rand(2**31));
note("KAPTURE_FAULT_SEED=$seed KAPTURE_FAULT_KILLS=$kills");

my $emulator = start_emulator();
my $node = new_node('main');
srand($seed);			# what came before has used random numbers, too
$node->append_conf('postgresql.conf', "restart_after_crash = on\n");
$node->restart;
setup_sync($node, $emulator, options => "max_connections '16'");

# The name of a customer says which row it is; what is deleted is written down,
# as Kapture keeps it.
$node->safe_psql('postgres', q(
ALTER SERVER kapture OPTIONS (SET timeout '1s');
CREATE SEQUENCE customers_id_seq;
CREATE TABLE customers (
  id bigint PRIMARY KEY DEFAULT nextval('customers_id_seq'),
  customer_name text, phone text, email_id text, city text);
CREATE TABLE deleted (id bigint);
SELECT kapture_attach('customers');
));

my $load = PostgreSQL::Test::Utils::tempdir() . '/load.sql';
append_to_file($load, q(
\set what random(1, 10)
\set some random(1, 1000000)
\if :what <= 5
INSERT INTO customers (id, customer_name, phone, email_id, city)
  SELECT n, 'row ' || n, '9' || lpad(n::text, 9, '0'), 'c' || n || '@example.com', 'city ' || :some FROM nextval('customers_id_seq') AS s(n);
\elif :what <= 7
UPDATE customers SET city = 'city ' || :some WHERE id = (SELECT 1 + :some % max(id) FROM customers);
\elif :what = 8
UPDATE customers SET phone = CASE left(phone, 1) WHEN '9' THEN '8' ELSE '9' END || substr(phone, 2) WHERE id = (SELECT 1 + :some % max(id) FROM customers);
\elif :what = 9
WITH d AS (DELETE FROM customers WHERE id = (SELECT 1 + :some % max(id) FROM customers) RETURNING id) INSERT INTO deleted SELECT id FROM d;
\else
BEGIN;
INSERT INTO customers (customer_name, phone) VALUES ('rolled back', '7000000000');
ROLLBACK;
\endif
));

my $bench;
my $said = '';

# Keeps the load going: it ends whenever the server does.
sub keep_load
{
	if ($bench)
	{
		eval { $bench->pump_nb };
		return if $bench->pumpable;
		eval { $bench->finish };
	}
	$bench = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-R', '300', '-T', '600', '-f', $load,
			'-h', $node->host, '-p', $node->port, '-U', getpwuid($<) . '', 'postgres' ], '>', \$said, '2>&1');
	return;
}

my @faults = (
	{ action => 'drop_before' }, { action => 'drop_after' }, { action => 'truncate' }, { action => 'garbage' },
	{ action => 'html' }, { action => 'delay', ms => 100 }, { action => 'late', ms => 300 }, { action => 'late', ms => 900 }, { action => 'gateway', ms => 500 },
	{ action => 'hang' }, { action => 'endless' }, { action => 'flat_answer' }, { action => 'redirect' },
	{ action => 'status', code => 500 }, { action => 'status', code => 502, body => '<html>Bad Gateway</html>' },
	{ action => 'status', code => 503, headers => { 'Retry-After' => '1' } },
	{ action => 'status', code => 429, headers => { 'Retry-After' => '1' } },
	{ action => 'not_found', api => 'get', count => 5 });

sub choose_faults
{
	my @rules = map { { %{ $faults[ int rand @faults ] }, probability => 0.02 + rand 0.08 } } 1 .. int rand 4;
	emulator_faults($emulator, @rules);
	return join ', ', map { $_->{action} . ($_->{code} ? " $_->{code}" : '') } @rules;
}

# The first value a query gives; undef if the server does not run just now, or
# goes while it is asked: what is written to psql then breaks a pipe.
sub try_psql
{
	my ($query) = @_;
	my ($rc, $out) = eval { $node->psql('postgres', $query) };
	return defined $rc && $rc == 0 ? $out : undef;
}

sub one_pid
{
	my ($where) = @_;
	my $pid = try_psql("SELECT pid FROM pg_stat_activity WHERE $where ORDER BY random() LIMIT 1");
	return defined $pid && $pid =~ /^\d+$/ ? $pid : undef;
}

my %kill = (
	worker => sub { my $pid = one_pid("backend_type = 'kapture_sync worker'"); kill 'KILL', $pid if $pid },
	backend => sub { my $pid = one_pid("application_name = 'pgbench'"); kill 'KILL', $pid if $pid },
	terminate => sub { my $pid = one_pid("backend_type LIKE 'kapture_sync%'"); kill 'TERM', $pid if $pid },
	postmaster => sub {
		$node->kill9;
		# what is left of it must go first
		wait_for(sub { $node->{_pid} = undef; $node->start(fail_ok => 1) }, 'the server to start');
	},
	immediate => sub { $node->stop('immediate'); $node->start },
	fast => sub { $node->restart });
my @kinds = sort keys %kill;
my %count = map { $_ => 0 } @kinds;

# whether or not the server runs just now, there is an answer in the end
sub wait_until
{
	my ($query, $what) = @_;
	return wait_for(sub { (try_psql($query) // '') eq 't' }, $what);
}

for my $n (1 .. $kills)
{
	my $kind = $kinds[ int rand @kinds ];
	my $rules = choose_faults();
	my $enough = emulator_get($emulator, 'stats')->{requests} + 20 + int rand 200;

	note("$n: $kind, faults: $rules");
	wait_for(sub { keep_load(); emulator_get($emulator, 'stats')->{requests} >= $enough }, 'requests to arrive');
	$kill{$kind}->();
	$count{$kind}++;
	wait_until("SELECT kapture_worker_pid() IS NOT NULL", 'a worker');
}
pass("survived $kills kills: " . join(', ', map { "$count{$_} $_" } @kinds));
$bench->kill_kill if $bench;

# peace
emulator_faults($emulator);
wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'", 'the load to end');
wait_until("SELECT pending = 0 FROM kapture_status", 'everything to be taken up');
wait_until("SELECT kapture_retry('customers') IS NOT NULL AND (SELECT pending + in_flight + retrying = 0 FROM kapture_status)",
	'everything to be sent');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT message, '; ') FROM kapture_failures"), '', 'no row has failed for good');

# the oracle
my %local = map { my $row = decode_json($_); $row->{id} => $row }
  split /\n/, $node->safe_psql('postgres', "SELECT row_to_json(c) FROM customers c");
my %deleted = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', "SELECT id FROM deleted");
my (%seen, @wrong);
foreach my $customer (@{ emulator_get($emulator, 'customers') })
{
	my ($id) = $customer->{customer_name} =~ /^row (\d+)$/;

	if (!defined $id) { push @wrong, "never committed: $customer->{customer_name}"; next; }
	push @wrong, "row $id is there twice" if $seen{$id}++;
	my $row = $local{$id};
	if (!$row) { push @wrong, "row $id was never committed" unless $deleted{$id}; next; }
	push @wrong, "row $id has id " . ($row->{kapture_customer_id} // 'none') . ", Kapture says $customer->{kapture_customer_id}"
	  unless ($row->{kapture_customer_id} // 0) == $customer->{kapture_customer_id};
	foreach my $field (qw(customer_name phone email_id city))
	{
		push @wrong, "row $id: $field is '$row->{$field}', Kapture has '$customer->{$field}'"
		  unless $row->{$field} eq ($customer->{$field} // '');
	}
}
push @wrong, map { "row $_ is missing" } grep { !$seen{$_} } sort keys %local;
diag(join "\n", @wrong > 30 ? (@wrong[ 0 .. 29 ], '...') : @wrong) if @wrong;
diag("KAPTURE_FAULT_SEED=$seed") if @wrong;
cmp_ok(scalar(keys %local), '>', $kills, 'there was a load: ' . scalar(keys %local) . ' rows, ' . scalar(keys %deleted) . ' deleted');
is(scalar @wrong, 0, 'every row is one customer, with its last values and its id');
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|server process .* was terminated by signal (?!9)/, 'nothing but our kills ended a process');

$node->stop;
done_testing();
