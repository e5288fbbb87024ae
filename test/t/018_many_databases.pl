# Two hundred databases without the extension cost a look each, and nothing after
# it; those with it are served, whatever is dropped meanwhile.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $databases = 200;
my $emulator = start_emulator();
my $node = new_node('main');
my $workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kapture_sync%' AND backend_type <> 'kapture_sync launcher'";

# How often the postmaster started a process of ours for a database.
sub starts
{
	my ($log) = @_;
	my %starts;
	$starts{$1}++ while $log =~ /starting background worker process "kapture_sync worker for database (\d+)"/g;
	return \%starts;
}

# Private memory of the launcher, in kB.
sub launcher_memory
{
	my $pid = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'kapture_sync launcher'");
	my ($memory) = slurp_file("/proc/$pid/status") =~ /^RssAnon:\s+(\d+)/m;
	return $memory;
}

$node->safe_psql('postgres', join '', map { "CREATE DATABASE empty$_ TEMPLATE template0 STRATEGY wal_log;\n" } 1 .. $databases);
foreach my $db (qw(one two three))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	setup_sync($node, $emulator, db => $db);
	create_customers($node, db => $db);
}
my @empty = split /\n/, $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname LIKE 'empty%'");
my @served = split /\n/, $node->safe_psql('postgres', "SELECT oid FROM pg_database WHERE datname IN ('one', 'two', 'three')");
# autovacuum, which looks into a database that somebody was connected to, would count
$node->append_conf('postgresql.conf', "log_min_messages = debug1\nautovacuum = off\n");
$node->stop;
unlink $node->logfile;
$node->start;

# all are looked at, three are kept
wait_for(sub { my $starts = starts(slurp_file($node->logfile)); !grep { !$starts->{$_} } @empty, @served }, 'all databases to be looked at');
poll_ok($node, "SELECT ($workers) = 3", 'databases without the extension keep no process');
my $counted = "SELECT count(*) FROM pg_stat_database WHERE xact_commit + blks_read + blks_hit + tup_returned > 0 AND datname";
is($node->safe_psql('postgres', "$counted LIKE 'empty%'"), '0', 'nor does anything count for them in the statistics');
is($node->safe_psql('postgres', "$counted IN ('one', 'two', 'three')"), '3', 'as it does for the others');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'empty%'"), '0', 'nor a connection');
my $memory = launcher_memory();

# what makes the launcher compare again makes it look at none of them again
foreach my $i (1 .. 10)
{
	$node->safe_psql('postgres', "CREATE DATABASE passing TEMPLATE template0 STRATEGY wal_log");
	$node->safe_psql('postgres', "DROP DATABASE passing");
	$node->reload;
}
restart_worker($node, 'a worker that was ended comes back among them', db => 'three');
my $starts = starts(slurp_file($node->logfile));
is_deeply([ grep { $starts->{$_} != 1 } @empty ], [], 'each database without the extension was looked at once');
memory_ok(launcher_memory() - $memory, 1024, 'the launcher has not grown');

# dropped while the launcher goes through them
$node->restart;
$node->safe_psql('postgres', join '', map { "DROP DATABASE empty$_;\n" } 1 .. $databases / 4);
pass('databases are dropped while the launcher looks at them');
$node->safe_psql('postgres', "DROP DATABASE two");
$node->safe_psql('empty' . $databases, "CREATE EXTENSION kapture_sync");
poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'CREATE EXTENSION is served', "empty$databases");
$node->safe_psql($_, "INSERT INTO customers (customer_name, phone) VALUES ('$_', '9" . ($_ eq 'one' ? 1 : 3) . "00000001')") foreach qw(one three);
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", "database $_ is served", $_) foreach qw(one three);
poll_ok($node, "SELECT ($workers) = 3", 'and nothing else is left');
# a process may be on its way to one just then, but not twice
my %gone;
$gone{$_}++ foreach slurp_file($node->logfile) =~ /FATAL:  database (\d+) does not exist/g;
is(join(' ', grep { $gone{$_} > 1 } sort keys %gone), '', 'no database that is gone was tried for again');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal/, 'nothing has crashed');

$node->stop;
done_testing();
