# Real clients: an ORM, and a pooler that hands out connections a transaction at
# a time, in front of an attached table.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $clients = abs_path("$FindBin::RealBin/../clients");

# script/test installs what is needed on Debian 12 only
my @missing = grep { system("command -v $_ >/dev/null") != 0 } qw(node pgbouncer);
push @missing, 'test/clients/node_modules' unless -d "$clients/node_modules";
plan skip_all => "not installed: @missing" if @missing && `pg_config --version` !~ /PostgreSQL 15/;
is("@missing", '', 'node, its packages and pgbouncer are installed') or BAIL_OUT("not installed: @missing");

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator);
create_customers($node);
$node->safe_psql('postgres', "ALTER TABLE customers ADD UNIQUE (phone)");
my $user = $node->safe_psql('postgres', "SELECT current_user");

# --- a pooler of three connections, on a socket of its own
my $dir = PostgreSQL::Test::Utils::tempdir_short();
my $port = PostgreSQL::Test::Cluster::get_free_port();
append_to_file("$dir/pgbouncer.ini", sprintf(q(
[databases]
postgres = host=%s port=%s user=%s
[pgbouncer]
pool_mode = transaction
default_pool_size = 3
auth_type = any
listen_addr =
unix_socket_dir = %s
listen_port = %s
pidfile = %s/pid
logfile = %s
), $node->host, $node->port, $user, $dir, $port, $dir, "$PostgreSQL::Test::Utils::log_path/pgbouncer.log"));
my $pooler = IPC::Run::start([ 'pgbouncer', "$dir/pgbouncer.ini" ], '<', \undef, '>', "$dir/out", '2>&1');
END { my $status = $?; $pooler->kill_kill if $pooler; $? = $status; }
wait_for(sub { -e "$dir/.s.PGSQL.$port" }, 'pgbouncer to listen');

# Runs the application and waits until all is with Kapture.
sub application_ok
{
	my ($name, $phone, %environment) = @_;
	my $out = '';
	local @ENV{ keys %environment } = values %environment;
	local @ENV{qw(PGDATABASE PGUSER)} = ('postgres', $user);
	ok(IPC::Run::run([ 'node', "$clients/application.js", $name, $phone ], '<', \undef, '>', \$out, '2>&1', IPC::Run::timeout(300)),
		"$name: the application does its work") or diag($out);
	poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status", "$name: all is sent");
	is($node->safe_psql('postgres', "SELECT parked FROM kapture_status"), '0', "$name: nothing is refused");

	# what was done with capture switched off is the only difference
	is($node->safe_psql('postgres', "UPDATE customers SET city = NULL WHERE city = 'Unsaid' RETURNING customer_name"),
		"$name bulk 9", "$name: a change that is not captured");
	my %count = map { $_ => 0 } qw(created bulk outer pg kept), 'rolled back';
	my @customers = map { $_->{customer_name} } grep { $_->{customer_name} =~ /^\Q$name\E / } @{ emulator_get($emulator, 'customers') };
	foreach my $customer (@customers)
	{
		$count{$_} += $customer =~ /^\Q$name $_\E/ foreach keys %count;
	}
	is_deeply(\%count, { created => 1, bulk => 200, outer => 2, pg => 160, kept => 96, 'rolled back' => 0 },
		"$name: what was committed is with Kapture, what was rolled back is not");
	my ($one) = grep { $_->{customer_name} eq "$name created" } @{ emulator_get($emulator, 'customers') };
	is($one->{city}, 'Delhi', "$name: with its last values");
	ok(!(grep { ($_->{city} // '') =~ /Nowhere|Unsaid/ } @{ emulator_get($emulator, 'customers') }), "$name: and no others");
	return;
}

application_ok('Direct', 9100000000, PGHOST => $node->host, PGPORT => $node->port);
oracle_ok($node, $emulator, 'directly: nothing is missing, nothing is there twice');
application_ok('Pooled', 9200000000, PGHOST => $dir, PGPORT => $port, POOLED => 1);
oracle_ok($node, $emulator, 'through pgbouncer: nothing is missing, nothing is there twice');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"), '<=', 4,
	'all through three connections');

# a setting of a session stays with a pooled connection; that of a transaction does not
is($node->safe_psql('postgres', "SHOW kapture_sync.capture", connstr => "host=$dir port=$port dbname=postgres"), 'on', 'SET LOCAL is over with its transaction');

$node->stop;
done_testing();
