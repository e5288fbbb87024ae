# docs/containers.md: the extension in directories of its own, as a volume of an image has
# it, with nothing of it in the server's; and the container files name what there is.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path("$FindBin::RealBin/../..");
my $page = slurp_file("$top/docs/containers.md");
my $dockerfile = slurp_file("$top/container/Dockerfile");
my $compose = slurp_file("$top/container/compose.yml");

# the files, of each other
my %target = map { $_ => 1 } $dockerfile =~ /^FROM \S+ AS (\w+)$/mg;
ok($target{$_}, "the target $_ of compose.yml is there") foreach $compose =~ /target: (\w+)/g;
ok($target{$_}, "the target $_ of containers.md is there") foreach $page =~ /^\| `(\w+)`(?: \(the last one\))? \| (?:the|is)/mg;
ok($target{$_}, "stage $_ is copied from") foreach $dockerfile =~ /--from=(\w+)/g;
like($dockerfile, qr/^FROM \S+ AS postgres\n(?!.*^FROM)/ms, 'the last one is the server');
like($page, qr/`\Q$_\E`/, "containers.md has the argument $_") foreach $dockerfile =~ /^ARG (\w+)=/mg;
ok(-e "$top/container/$_", "$_ of compose.yml is there") foreach $compose =~ m{^\s+- \./(\S+?):}mg;

SKIP:
{
	my $node = PostgreSQL::Test::Cluster->new('main');
	skip 'extension_control_path is there from PostgreSQL 18 on', 1 if $node->pg_version < 18;

	# what is installed, where a volume has it
	my $volume = PostgreSQL::Test::Utils::tempdir() . '/extensions/kapture_sync';
	chomp(my $sharedir = `pg_config --sharedir`);
	chomp(my $libdir = `pg_config --pkglibdir`);
	system_or_bail('mkdir', '-p', "$volume/share/extension", "$volume/lib");
	system_or_bail("cp $sharedir/extension/kapture_sync* $volume/share/extension && cp $libdir/kapture_sync.so $volume/lib");

	# the page's settings, without the server's own directories, where this system has it, too
	my ($settings) = $page =~ /^(shared_preload_libraries = .*?)^```/ms or die 'no settings';
	$settings =~ s{/extensions/kapture_sync}{$volume}g;
	my $paths = $settings =~ s/'\$(?:system|libdir):/'/gr;
	isnt($paths, $settings, 'the settings name the directories of the server first');
	$node->init;
	$node->append_conf('postgresql.conf', $paths);
	$node->start;
	my $emulator = start_emulator();
	setup_sync($node, $emulator);
	create_customers($node);
	$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Priya', '9845765226')");
	poll_ok($node, 'SELECT count(kapture_customer_id) = 1 FROM customers', 'a row is sent');
	oracle_ok($node, $emulator, 'and Kapture has it');
	my ($loaded) = slurp_file('/proc/' . $node->safe_psql('postgres', 'SELECT kapture_worker_pid()') . '/maps') =~ m{(\S*/kapture_sync\.so)};
	is($loaded, "$volume/lib/kapture_sync.so", 'by the library of the volume');
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_available_extensions WHERE name = 'plpgsql'"), '0', 'with no other directory of extensions');

	# as it is written
	$node->append_conf('postgresql.conf', $settings);
	$node->restart;
	is($node->safe_psql('postgres', "SELECT string_agg(name, ' ' ORDER BY name) FROM pg_available_extensions WHERE name IN ('kapture_sync', 'plpgsql')"),
		'kapture_sync plpgsql', "with the server's own, all extensions are there");
	poll_ok($node, 'SELECT kapture_worker_pid() IS NOT NULL', 'and the worker runs');
	$node->stop;
}

done_testing();
