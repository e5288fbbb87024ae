# A cluster that fails over: three nodes under Patroni with etcd, synchronous, while
# clients write.  The leader is switched over, then killed.  No committed change is
# lost, no customer is there twice, and the node that leads sends.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP;
use KaptureTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use Test::More;
use Time::HiRes qw(usleep);

my ($etcd, $patroni) = map { my $program = $_; (grep { -x } map { "$_/$program" } '/usr/bin', '/usr/local/bin')[0] } qw(etcd patroni);
plan skip_all => 'needs patroni and etcd' unless $etcd && $patroni;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $bin = `pg_config --bindir`;
chomp $bin;
my ($client_port, $peer_port) = map { PostgreSQL::Test::Cluster::get_free_port() } 1 .. 2;
my @nodes = map { { name => "n$_", port => PostgreSQL::Test::Cluster::get_free_port(), rest => PostgreSQL::Test::Cluster::get_free_port() } } 1 .. 3;
my $idle = 'SELECT bool_and(pending + in_flight + retrying + parked = 0) FROM kapture_status';

# --- what the helpers take for a node: whichever leads
package Leader
{
	sub new { my ($class, $ports) = @_; return bless { ports => $ports }, $class; }
	sub installed_command { return $_[1] }
	sub connstr
	{
		my ($self, $db) = @_;
		my $hosts = join ',', map { '127.0.0.1' } @{ $self->{ports} };
		return "host=$hosts port=" . join(',', @{ $self->{ports} }) . " user=postgres dbname=$db connect_timeout=2 target_session_attrs=read-write";
	}
	# Returns what psql says, undef if that failed.
	sub try
	{
		my ($self, $sql) = @_;
		my ($out, $err);
		my $ok = IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $self->connstr('postgres') ], '<', \$sql, '>', \$out, '2>', \$err);
		chomp $out;
		$self->{error} = $err;
		return $ok ? $out : undef;
	}
	sub safe_psql
	{
		my ($self, $db, $sql) = @_;
		my $out = $self->try($sql);
		die "$sql: $self->{error}" unless defined $out;
		return $out;
	}
}

my $leader = Leader->new([ map { $_->{port} } @nodes ]);
my $emulator = start_emulator();

# --- the nodes
sub start_node
{
	my ($node) = @_;
	my $base = "$dir/$node->{name}";
	mkdir $base;
	if (!-e "$base/patroni.yml")
	{
		append_to_file("$base/patroni.yml", qq(
scope: kapture
name: $node->{name}
restapi: {listen: '127.0.0.1:$node->{rest}', connect_address: '127.0.0.1:$node->{rest}'}
etcd3: {host: '127.0.0.1:$client_port'}
bootstrap:
  dcs:
    ttl: 8
    loop_wait: 1
    retry_timeout: 3
    synchronous_mode: true
    primary_start_timeout: 0
    postgresql:
      use_pg_rewind: true
      parameters: {max_connections: 40, max_worker_processes: 12, wal_keep_size: 128MB}
  initdb: [{auth: trust}, {encoding: UTF8}, {locale: C.UTF-8}, no-sync]
  pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']
postgresql:
  listen: 127.0.0.1:$node->{port}
  connect_address: 127.0.0.1:$node->{port}
  data_dir: $base/data
  bin_dir: $bin
  pgpass: $base/pgpass
  authentication:
    superuser: {username: postgres}
    replication: {username: replicator}
  parameters: {unix_socket_directories: '$base', shared_preload_libraries: kapture_sync, log_min_messages: info}
));
	}
	$node->{handle} = IPC::Run::start([ $patroni, "$base/patroni.yml" ], '<', \undef, '>>', "$base/log", '2>&1');
	return;
}

# The members of the cluster, by name, as one of them sees it.
sub members
{
	foreach my $node (@nodes)
	{
		my $answer = HTTP::Tiny->new(timeout => 3)->get("http://127.0.0.1:$node->{rest}/cluster");
		next unless $answer->{success};
		return map { $_->{name} => $_ } @{ decode_json($answer->{content})->{members} };
	}
	return;
}

# Waits until so many nodes are there, one of them the leader and one that is synchronous.
sub await_cluster
{
	my ($n, $not) = @_;
	my $lead;
	wait_for(
		sub {
			my %members = members();
			my @well = grep { $_->{state} =~ /^(?:running|streaming)$/ && $_->{timeline} } values %members;
			($lead) = map { $_->{name} } grep { $_->{role} eq 'leader' } @well;
			return $lead && (!$not || $lead ne $not) && @well >= $n && grep { $_->{role} eq 'sync_standby' } @well;
		},
		"a cluster of $n nodes");
	return (grep { $_->{name} eq $lead } @nodes)[0];
}

sub kill_node
{
	my ($node) = @_;
	my ($postmaster) = slurp_file("$dir/$node->{name}/data/postmaster.pid") =~ /^(\d+)/;
	kill 'KILL', $node->{handle}{KIDS}[0]{PID}, $postmaster;
	$node->{handle}->finish;
	return;
}

# --- the clients: each tries a row until it is committed, and notes that
my $stop = "$dir/stop";

sub start_writer
{
	my ($number) = @_;
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	for (my $i = 0; !-e $stop; $i++)
	{
		my $id = $number * 100_000 + $i;
		my $sql = "INSERT INTO customers (id, customer_name, phone, city) VALUES ($id, 'Row $id', '9' || lpad('$id', 9, '0'), 'Pune') ON CONFLICT DO NOTHING";
		$sql .= "; UPDATE customers SET city = 'City $id' WHERE id = $id - 1" if $i % 3 == 1;
		usleep(50_000) until defined $leader->try("BEGIN; $sql; COMMIT") || -e "$stop.now";
		append_to_file("$dir/committed.$number", "$id\n");
	}
	POSIX::_exit(0);
}

sub committed { my ($number) = @_; return -e "$dir/committed.$number" ? split /\n/, slurp_file("$dir/committed.$number") : (); }

# Waits until the clients go on, and rows of now arrive.
sub goes_on
{
	my ($what) = @_;
	my $before = committed(1);
	wait_for(sub { committed(1) >= $before + 20 }, "rows to be written: $what");
	my $last = (committed(1))[-1];
	poll_ok($leader, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = $last", "$what: rows are written and sent");
	return;
}

my $store = IPC::Run::start([ $etcd, '--data-dir', "$dir/etcd", '--log-level', 'error', '--unsafe-no-fsync',
	'--listen-client-urls', "http://127.0.0.1:$client_port", '--advertise-client-urls', "http://127.0.0.1:$client_port",
	'--listen-peer-urls', "http://127.0.0.1:$peer_port", '--initial-advertise-peer-urls', "http://127.0.0.1:$peer_port",
	'--initial-cluster', "default=http://127.0.0.1:$peer_port" ], '<', \undef, '>>', "$dir/etcd.log", '2>&1');
my @writers;

END
{
	my $status = $?;
	append_to_file("$stop.now", '') if $dir && -d $dir;
	append_to_file($stop, '') if $dir && -d $dir;
	waitpid $_, 0 foreach @writers;
	foreach my $node (grep { $_->{handle} } @nodes)
	{
		$node->{handle}->signal('TERM');
		eval { $node->{handle}->finish };
	}
	$store->kill_kill if $store;
	$? = $status;
}

start_node($nodes[0]);
wait_for(sub { my %members = members(); return ($members{n1}{role} // '') eq 'leader' && $members{n1}{state} eq 'running' }, 'the first node');
start_node($_) foreach @nodes[1, 2];
my $first = await_cluster(3);
is($first->{name}, 'n1', 'three nodes, synchronous');
setup_sync($leader, $emulator);
create_customers_with_ids($leader);
@writers = map { start_writer($_) } 1 .. 2;
goes_on('the first leader');

# --- the leader steps down
my $answer = HTTP::Tiny->new(timeout => 60)->post("http://127.0.0.1:$first->{rest}/switchover", { content => encode_json({ leader => $first->{name} }) });
ok($answer->{success}, 'switchover') || diag("$answer->{status} $answer->{content}");
my $second = await_cluster(3, $first->{name});
goes_on('after a switchover');

# --- the leader is killed, with all that watches over it
kill_node($second);
my $third = await_cluster(2, $second->{name});
goes_on('after a failover');
start_node($second);
is(await_cluster(3)->{name}, $third->{name}, 'the node that was killed is back, as a standby');

append_to_file($stop, '');
waitpid $_, 0 foreach @writers;
@writers = ();
poll_ok($leader, $idle, 'nothing waits');
my %there = map { $_ => 1 } split /\n/, $leader->safe_psql('postgres', 'SELECT id FROM customers');
my @committed = map { committed($_) } 1, 2;
is(scalar(grep { !$there{$_} } @committed), 0, scalar(@committed) . ' rows were committed, none is lost');
oracle_ok($leader, $emulator, 'Kapture has them, once each');
is($leader->safe_psql('postgres', 'SELECT count(DISTINCT kapture_customer_id) = count(*) FROM customers'), 't', 'each row has a customer of its own');

sub create_customers_with_ids
{
	my ($node) = @_;
	$node->safe_psql('postgres', q(
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text);
SELECT kapture_attach('customers')));
	return;
}

done_testing();
