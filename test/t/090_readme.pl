# What README says is so: its SQL runs, its tables name what there is, its
# messages are the ones in the source.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use POSIX qw(strftime);
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path("$FindBin::RealBin/../..");
my $readme = slurp_file("$top/README.md");
my $source = join '', map { slurp_file($_) } glob("$top/src/{,*/}*.c"), glob("$top/sql/{tables,functions,views}.sql"), glob("$top/test/emulator/api.c");

my $emulator = start_emulator();
my $node = new_node('main');

# the SQL, in the order in which a reader would run it
my @blocks = $readme =~ /^```sql\n(.*?)^```$/msg;
cmp_ok(scalar @blocks, '>', 0, 'there is SQL in README');
foreach my $block (@blocks)
{
	(my $sql = $block) =~ s/https:\/\/acme\.kapturecrm\.com/$emulator->{url}/g;
	$sql =~ s/auth_key '\.\.\.'/auth_key 'a2FwZGVtbzprYXAxMjM='/g;
	my ($rc, $out, $err) = $node->psql('postgres', $sql, on_error_stop => 1);
	is($rc, 0, 'SQL of README runs: ' . (split /\n/, $block)[0]) or diag($err);
}
# whom README added by a foreign table, the oracle would take for a stranger
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone, kapture_customer_id)"
	  . " SELECT name, phone, id FROM crm.customers WHERE phone = '9845765227'");
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM customers", 'and its rows get their ids');
poll_ok($node, "SELECT state = 'running' AND server_state = 'ok' FROM kapture_status", 'and the status says so');
oracle_ok($node, $emulator, 'and Kapture has them');

# its pulls, in a database where the table is not attached yet
my ($pulls) = $readme =~ /^### By itself\n(.*?)^### Foreign tables/ms;
my @pulls = $pulls =~ /^```postgresql\n(.*?)^```$/msg;
is(scalar @pulls, 2, 'README shows how to pull');
$node->safe_psql('postgres', 'CREATE DATABASE pulled');
setup_sync($node, $emulator, db => 'pulled');
$node->safe_psql('pulled', 'CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text)');
foreach my $block (@pulls)
{
	(my $sql = $block) =~ s/'2021-01-01'/strftime "'%F'", localtime time - 86400/e;
	my ($rc, $out, $err) = $node->psql('pulled', $sql, on_error_stop => 1);
	is($rc, 0, 'SQL of README runs: ' . (split /\n/, $block)[0]) or diag($err);
}
poll_ok($node, "SELECT count(*) > 0 FROM kapture_customers WHERE phone = '9845765226'", 'a customer is pulled', 'pulled');

# its pictures, of the document's own customer
emulator_post($emulator, 'seed', [ { customer_name => 'Ker', phone => '63582', kapture_customer_id => 65245, generated => '2021-03-14 14:21:11' } ]);
my @pictures = $readme =~ /^```sql\n((?:(?!```)[^\n]*\n)+)```\n\n```\n([^\n]*\n-[-+]+\n(?:(?!```)[^\n]*\n)*)```$/mg;
while (my ($sql, $picture) = splice @pictures, 0, 2)
{
	# the statement that it shows is the first that gives as many lines of it
	my @lines = map { s/\s+$//r } split /\n/, $picture;
	next if $picture =~ /kapture_customer_id\n/;    # differs each time
	my ($shown, $output) = (0, '');
	foreach my $statement (split /;\s*(?:--[^\n]*)?\n/, $sql)
	{
		next unless $statement =~ /^(SELECT|EXPLAIN)/;
		my ($stdout) = run_command([ 'psql', '-X', '-d', $node->connstr('postgres'), '-c', "SET timezone = 'Asia/Kolkata'", '-c', $statement ]);
		my @got = grep { !/^\(\d+ rows?\)$|^SET$|^$/ } map { s/\s+$//r } split /\n/, $stdout;
		$output .= $stdout;
		$shown ||= join("\n", map { s/^\s+//r } @got) eq join("\n", map { s/^\s+//r } @lines);
	}
	ok($shown, 'a picture of README is what psql shows: ' . (grep { !/^-/ } @lines)[0]) or diag($output);
}

# options
foreach my $what ([ 'SERVER', 'option' ], [ 'USER MAPPING', 'mapping option' ])
{
	my ($rc, $out, $err) = $node->psql('postgres', $what->[0] eq 'SERVER'
		? "ALTER SERVER kapture OPTIONS (ADD nothing 'x')"
		: "ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD nothing 'x')");
	my ($list) = $err =~ /Valid options in this context are: (.*)/;
	my ($table) = $readme =~ /^\| \Q$what->[1]\E [^\n]*\n(.*?)\n\n/ms;
	($table) = $readme =~ /^\| server option [^\n]*\n(.*?)\n\n/ms if $what->[0] eq 'SERVER';
	my @documented = map { (my $cells = $_) =~ s/^\| ([^|]*) \|.*/$1/; $cells =~ /"?(\w+)"?(?=`)/g } grep { /^\| `/ } split /\n/, $table;
	is(join(' ', sort @documented), join(' ', sort split /, /, $list), "README lists the options of a $what->[0]");
}

# functions, settings, views
my @functions = split /\n/, $node->safe_psql('postgres', qq(
SELECT DISTINCT p.proname FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass
AND d.deptype = 'e'
AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync')
AND p.prorettype <> 'trigger'::regtype
AND p.proname NOT IN ('kapture_fdw_validator', 'kapture_fdw_handler', 'kapture_worker_start', 'kapture_pull_stream')));
foreach my $function (@functions)
{
	like($readme, qr/`(?:CALL )?$function\(/, "README documents $function");
}
foreach my $setting (split /\n/, $node->safe_psql('postgres', "SELECT name FROM pg_settings WHERE name LIKE 'kapture_sync.%'"))
{
	like($readme, qr/^\| `\Q$setting\E` \|/m, "README documents $setting");
}
foreach my $view (split /\n/, $node->safe_psql('postgres', qq(
SELECT c.relname FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass
AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync') AND c.relkind = 'v')))
{
	like($readme, qr/`$view`/, "README documents $view");
}

# every object has a comment
is($node->safe_psql('postgres', qq(
SELECT string_agg(pg_describe_object(d.classid, d.objid, 0), ', ') FROM pg_depend d
LEFT JOIN pg_description c ON c.classoid = d.classid AND c.objoid = d.objid AND c.objsubid = 0
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.description IS NULL
AND d.classid <> 'pg_type'::regclass
AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync')
AND NOT EXISTS (SELECT FROM pg_class s WHERE s.oid = d.objid AND s.relkind IN ('S', 'i')))), '', 'every object has a comment');

# messages
my ($troubleshooting) = $readme =~ /^## Troubleshooting\n(.*)/ms;
my @messages = $troubleshooting =~ /^\| `(.*?)`/mg;
cmp_ok(scalar @messages, '>', 3, 'README lists messages');
(my $squeezed = $source) =~ s/"\s*\n\s*"//g;
$squeezed =~ s/\\n/ /g;
$squeezed =~ s/\\"/"/g;
foreach my $message (@messages)
{
	(my $pattern = quotemeta $message) =~ s/\\"(?:kapture|\\\.\\\.\\\.)\\"/(?:"%s"|"\[^"\\n]*")/g;
	like($squeezed, qr/$pattern/, "the source has the message: $message");
}

$node->stop;
done_testing();
