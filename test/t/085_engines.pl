# Neighbours in one cluster, under load: pg_cron, pgaudit, pglogical, pg_partman and pg_repack,
# with the library loaded before and after theirs.  The server is killed on the way.
# And pgBackRest, which restores to a point in time beside the original.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @extensions = qw(pg_cron pgaudit pglogical pg_partman pg_repack);
my $idle = 'SELECT bool_and(pending + in_flight + retrying + parked = 0) FROM kapture_status';

my $probe = PostgreSQL::Test::Cluster->new('probe');
$probe->init;
$probe->start;
my $there = $probe->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name IN ('" . join("', '", @extensions) . "')");
# minor releases of 2026 have a list of the output plugins that may be used
my $plugins = $probe->safe_psql('postgres', "SELECT name || ' = ' || quote_literal(setting || ', pglogical_output') FROM pg_settings WHERE name = 'output_plugin_libraries'");
$probe->stop;
plan skip_all => "needs @extensions" if $there < @extensions;

# A cluster with all of them, and an account of its own for each of two databases: in
# "postgres" the table is a plain one, which pglogical copies to database "copy"; in
# "parts" pg_partman makes its partitions.
sub create_cluster
{
	my ($name, $libraries) = @_;
	my %cluster = (name => $name, node => PostgreSQL::Test::Cluster->new($name), postgres => start_emulator(), parts => start_emulator());
	my $node = $cluster{node};

	$node->init(allows_streaming => 'logical');
	$node->append_conf('postgresql.conf', qq(
shared_preload_libraries = '$libraries'
max_worker_processes = 40
track_commit_timestamp = on
cron.host = '${\$node->host}'
cron.database_name = 'postgres'
pgaudit.log = 'write'
$plugins
));
	$node->start;
	setup_sync($node, $cluster{postgres});
	create_customers($node);
	$node->safe_psql('postgres', "CREATE EXTENSION $_") foreach grep { $_ ne 'pg_partman' } @extensions;
	$node->safe_psql('postgres', q(
INSERT INTO customers (customer_name, phone) SELECT 'Before', (9100000000 + i)::text FROM generate_series(1, 200) i;
SELECT cron.schedule('* * * * *', $$UPDATE public.customers SET city = 'Of cron' WHERE id = 1 AND city IS DISTINCT FROM 'Of cron'$$)));

	$node->safe_psql('postgres', "CREATE DATABASE $_") foreach 'copy', 'parts';
	my $dsn = $node->connstr . ' user=' . getpwuid($<) . ' dbname=';
	$node->safe_psql('postgres', "SELECT pglogical.create_node('here', '${dsn}postgres'); SELECT pglogical.replication_set_add_table('default', 'customers')");
	$node->safe_psql('copy', qq(CREATE EXTENSION pglogical;
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text, note text, kapture_customer_id bigint);
SELECT pglogical.create_node('there', '${dsn}copy');
SELECT pglogical.create_subscription('copy', '${dsn}postgres')));

	setup_sync($node, $cluster{parts}, db => 'parts');
	$node->safe_psql('parts', q(CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY, customer_name text, phone text, email_id text, city text,
  at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
SELECT kapture_attach('customers');
SELECT partman.create_parent('public.customers', 'at', 'native', 'daily')));
	return \%cluster;
}

# Writes to both databases, until it is stopped or the server is.
sub start_load
{
	my ($cluster, $transactions) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my %script = (
		postgres => q(\set id random(1, 200)
UPDATE customers SET city = 'City ' || random() WHERE id = :id AND id > 1;
INSERT INTO customers (customer_name, phone) VALUES ('New', (9200000000 + nextval('customers_id_seq'))::text);
),
		parts => q(INSERT INTO customers (customer_name, phone, at)
VALUES ('New', (9300000000 + nextval('customers_id_seq'))::text, now() + random() * interval '2 days');
));
	my @running;
	foreach my $db (sort keys %script)
	{
		append_to_file("$dir/$db", $script{$db});
		push @running, IPC::Run::start([ 'pgbench', '-n', '-c', 2, '-t', $transactions, '--rate', 50, '-f', "$dir/$db", '-h', $cluster->{node}->host, '-p', $cluster->{node}->port, $db ],
			'>', \my $out, '2>&1');
	}
	return @running;
}

sub all_is_well
{
	my ($cluster) = @_;
	my ($name, $node) = @$cluster{qw(name node)};

	foreach my $db ('postgres', 'parts')
	{
		poll_ok($node, $idle, "$name: nothing waits in $db", $db);
		oracle_ok($node, $cluster->{$db}, "$name: Kapture has what $db has, once each", $db);
	}
	my $all = 'SELECT md5(string_agg(c::text, $$,$$ ORDER BY id)) FROM (SELECT id, customer_name, phone, city, kapture_customer_id FROM customers) c';
	my $original = $node->safe_psql('postgres', $all);
	poll_ok($node, "SELECT ($all) = '$original'", "$name: pglogical has copied all, ids too", 'copy');
	is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_status WHERE worker_error IS NOT NULL"), '0', "$name: the worker worked around nothing");
	return;
}

my @clusters = (create_cluster('first', 'kapture_sync, pg_cron, pgaudit, pglogical'), create_cluster('last', 'pgaudit, pglogical, pg_cron, kapture_sync'));
foreach my $cluster (@clusters)
{
	my ($name, $node) = @$cluster{qw(name node)};
	my @load = start_load($cluster, 150);
	poll_ok($node, "SELECT count(*) > 230 FROM customers", "$name: the load runs");
	command_ok([ 'pg_repack', '--no-order', '-h', $node->host, '-p', $node->port, '-t', 'customers', 'postgres' ], "$name: the table is repacked under load");
	$node->safe_psql('parts', q(UPDATE partman.part_config SET premake = 6; CALL partman.run_maintenance_proc()));
	is($node->safe_psql('parts', "SELECT count(*) FROM pg_inherits WHERE inhparent = 'customers'::regclass AND inhrelid NOT IN (SELECT tgrelid FROM pg_trigger WHERE tgname LIKE 'kapture%')"),
		'0', "$name: the partitions that pg_partman makes are captured");
	$node->stop('immediate');
	$_->finish foreach @load;
	$node->start;
	$_->finish foreach start_load($cluster, 50);
	like(slurp_file($node->logfile), qr/AUDIT: .*UPDATE.*customers/, "$name: pgaudit has seen the writing");
}
foreach my $cluster (@clusters)
{
	poll_ok($cluster->{node}, "SELECT city = 'Of cron' FROM customers WHERE id = 1", "$cluster->{name}: what pg_cron writes");
	all_is_well($cluster);
	$cluster->{node}->stop;
}

# --- a point in time, restored beside the original, which goes on
SKIP: {
	skip 'needs pgbackrest', 8 unless -x '/usr/bin/pgbackrest';
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my ($original, $restored) = map { PostgreSQL::Test::Cluster->new($_) } 'original', 'restored';
	my $emulator = start_emulator();
	my @pgbackrest = ('pgbackrest', "--config=$dir/pgbackrest.conf", '--stanza=main', '--log-level-console=warn');

	$original->init(allows_streaming => 1);
	$original->append_conf('postgresql.conf', "shared_preload_libraries = kapture_sync\narchive_mode = on\narchive_command = '@pgbackrest archive-push %p'\n");
	append_to_file("$dir/pgbackrest.conf", join "\n", '[global]', "repo1-path=$dir/repo", "log-path=$dir", "lock-path=$dir", 'start-fast=y',
		'[main]', 'pg1-path=' . $original->data_dir, 'pg1-port=' . $original->port, 'pg1-socket-path=' . $original->host, 'pg1-user=' . getpwuid($<), '');
	$original->start;
	setup_sync($original, $emulator);
	create_customers($original);
	my $insert = sub {
		my ($name, $from) = @_;
		return $original->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) SELECT '$name', ($from + i)::text FROM generate_series(1, 20) i");
	};
	$insert->('Sent', 9400000000);
	poll_ok($original, $idle, 'pgBackRest: rows are sent');
	command_ok([ @pgbackrest, 'stanza-create' ], 'a repository');
	command_ok([ @pgbackrest, '--type=full', 'backup' ], 'a backup');
	$original->safe_psql('postgres', "SELECT kapture_pause('customers')");
	$insert->('Waits', 9410000000);
	$original->safe_psql('postgres', "SELECT pg_create_restore_point('here')");
	$original->safe_psql('postgres', "SELECT kapture_resume('customers')");
	$insert->('Later', 9420000000);
	poll_ok($original, $idle, 'what waited then is sent, and what came later');
	$original->safe_psql('postgres', 'SELECT pg_switch_wal()');
	mkdir $restored->data_dir, 0700 or die $restored->data_dir . ": $!";
	command_ok([ @pgbackrest, '--pg1-path=' . $restored->data_dir, '--type=name', '--target=here', '--target-action=promote', 'restore' ], 'a restore to that point');
	$restored->append_conf('postgresql.conf', 'port = ' . $restored->port . "\narchive_mode = off\n");
	$restored->start;
	$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()');
	$restored->safe_psql('postgres', "SELECT kapture_resume('customers')");
	poll_ok($restored, 'SELECT count(*) = 40 AND count(kapture_customer_id) = 40 FROM customers', 'what waits there gets its ids');
	my $ids = "SELECT string_agg(kapture_customer_id::text, ' ' ORDER BY id) FROM customers WHERE customer_name <> 'Later'";
	is($restored->safe_psql('postgres', $ids), $original->safe_psql('postgres', $ids), 'which are those of the original');
	oracle_ok($original, $emulator, 'and nobody is there twice');
	$_->stop foreach $restored, $original;
}

done_testing();
