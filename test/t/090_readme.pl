# What README and the pages that tell a story with it say is so: their SQL runs,
# what they show is what psql shows, and they name what there is.
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
my %page = map { $_ => slurp_file("$top/$_") } 'README.md', map { s{^\Q$top\E/}{}r } glob("$top/docs/*.md");
my $readme = $page{'README.md'};

my $emulator = start_emulator();
my $node = new_node('main');

cmp_ok(scalar split(/\s+/, $readme), '<=', 1800, 'README is read in minutes');

# README's account becomes the emulator; and so that days are few, "since" is yesterday
sub sql_of
{
	my ($sql) = @_;
	$sql =~ s/https:\/\/acme\.kapturecrm\.com/$emulator->{url}/g;
	$sql =~ s/auth_key '\.\.\.'/auth_key 'a2FwZGVtbzprYXAxMjM='/g;
	$sql =~ s/pull_since '2021-01-01'/"pull_since '" . strftime('%F', localtime time - 86400) . "'"/eg;
	return $sql;
}

# The blocks of a page in one language, and for each the lines that are shown as its output.
sub blocks
{
	my ($name, $language) = @_;
	my @blocks;
	while ($page{$name} =~ /^```$language\n((?:(?!```)[^\n]*\n)+)```\n(?:\n```\n((?:(?!```)[^\n]*\n)+)```$)?/mg)
	{
		push @blocks, [ $1, defined $2 ? $2 : '' ];
	}
	return @blocks;
}

# One of the statements gives the lines that are shown (customers' ids differ each time).
sub shows_ok
{
	my ($db, $sql, $picture) = @_;
	my @lines = map { s/^\s+|\s+$//gr } split /\n/, $picture;
	my $output = '';

	return unless @lines > 2 && $lines[1] =~ /^-[-+]+$/ && $lines[0] ne 'kapture_customer_id';
	foreach my $statement (split /;\s*(?:--[^\n]*)?\n/, $sql)
	{
		next unless $statement =~ /^(SELECT|EXPLAIN)/;
		my ($stdout) = run_command([ 'psql', '-X', '-d', $node->connstr($db), '-c', "SET timezone = 'Asia/Kolkata'", '-c', $statement ]);
		my @got = grep { !/^\(\d+ rows?\)$|^SET$|^$/ } map { s/^\s+|\s+$//gr } split /\n/, $stdout;
		$output .= $stdout;
		return pass("psql shows: $lines[0]") if "@got" eq "@lines";
	}
	fail("psql shows: $lines[0]");
	diag($output);
	return;
}

# Runs a page's SQL, in the order in which a reader would run it.
sub run_page
{
	my ($name, $db, $language, $after) = @_;
	my @blocks = blocks($name, $language);

	cmp_ok(scalar @blocks, '>', 0, "there is SQL in $name");
	foreach my $block (@blocks)
	{
		my ($rc, $out, $err) = $node->psql($db, sql_of($block->[0]), on_error_stop => 1);
		is($rc, 0, "SQL of $name runs: " . (split /\n/, $block->[0])[0]) or diag($err);
		$after->($block->[0]) if $after;
		shows_ok($db, @$block);
	}
	return;
}

# A database of its own for a page, in which README has been followed; every
# name is found though the extension is in a schema of its own.
sub database
{
	my ($db) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql('postgres', qq(ALTER DATABASE $db SET search_path = "\$user", public, kapture));
	$node->safe_psql($db, sql_of("CREATE SCHEMA kapture; CREATE EXTENSION kapture_sync SCHEMA kapture;"
		  . "BEGIN; CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://acme.kapturecrm.com');"
		  . "CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key '...'); COMMIT;"
		  . "CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text, email_id text, city text);"));
	return $db;
}

# the customer of Kapture's document
emulator_post($emulator, 'seed', [ { customer_name => 'Ker', phone => '63582', kapture_customer_id => 65245, generated => '2021-03-14 14:21:11' } ]);

# README itself
$node->safe_psql('postgres', 'ALTER DATABASE postgres SET search_path = "$user", public, kapture');
run_page('README.md', 'postgres', 'sql', sub {
	my ($block) = @_;
	# what it shows of failures is there once Kapture has answered
	poll_ok($node, 'SELECT sum(parked) = 1 FROM kapture_status', 'the wrong number is refused') if $block =~ /kapture_failures/;
	poll_ok($node, 'SELECT bool_and(kapture_customer_id IS NOT NULL) FROM customers', 'the first row gets its id') if $block =~ /kapture_attach/;
});
is($node->safe_psql('postgres', "SELECT string_agg(step, ' ') FROM kapture_check() WHERE ok IS NOT TRUE"), '', 'kapture_check finds nothing wrong');
poll_ok($node, "SELECT bool_and(state = 'running' AND server_state = 'ok') FROM kapture_status", 'and the status says so');
poll_ok($node, "SELECT failures = 0 AND pulled_until IS NOT NULL FROM kapture_pull_status", 'it is pulled from automatically');
$node->safe_psql('postgres', "UPDATE customers SET phone = '9845700001' WHERE phone = '12345'");
poll_ok($node, 'SELECT bool_and(kapture_customer_id IS NOT NULL) FROM customers', 'the row that is corrected gets its id, too');
oracle_ok_but_the_seed();

# Kapture has what README sent, beside the customer that was there
sub oracle_ok_but_the_seed
{
	$node->safe_psql('postgres', 'SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone, kapture_customer_id) VALUES (\'Ker\', \'63582\', 65245)');
	return oracle_ok($node, $emulator, 'and Kapture has them');
}

# the pages whose blocks build on each other
database('pulling');
run_page('docs/pull.md', 'pulling', 'sql');
run_page('docs/pull.md', 'pulling', 'postgresql');
poll_ok($node, "SELECT count(*) > 0 FROM kapture_customers WHERE phone = '9845765226'", 'a customer is pulled', 'pulling');

database('foreign_tables');
$node->safe_psql('foreign_tables', "SELECT kapture_attach('customers')");
$node->safe_psql('foreign_tables', "INSERT INTO customers (customer_name, phone, city) VALUES ('Of a foreign table', '9845765228', 'Pune')");
poll_ok($node, 'SELECT count(kapture_customer_id) = 1 FROM customers', 'a row to join with', 'foreign_tables');
run_page('docs/foreign-tables.md', 'foreign_tables', 'sql');

database('direct');
run_page('docs/direct-calls.md', 'direct', 'sql');

# options
foreach my $what ([ 'SERVER', 'option' ], [ 'USER MAPPING', 'mapping option' ])
{
	my ($rc, $out, $err) = $node->psql('postgres', $what->[0] eq 'SERVER'
		? "ALTER SERVER kapture OPTIONS (ADD nothing 'x')"
		: "ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD nothing 'x')");
	my ($list) = $err =~ /Valid options in this context are: (.*)/;
	my ($table) = $page{'docs/options.md'} =~ /^\| \Q$what->[1]\E [^\n]*\n(.*?)\n\n/ms;
	($table) = $page{'docs/options.md'} =~ /^\| server option [^\n]*\n(.*?)\n\n/ms if $what->[0] eq 'SERVER';
	my @documented = map { (my $cells = $_) =~ s/^\| ([^|]*) \|.*/$1/; $cells =~ /"?(\w+)"?(?=`)/g } grep { /^\| `/ } split /\n/, $table;
	is(join(' ', sort @documented), join(' ', sort split /, /, $list), "docs/options.md lists the options of a $what->[0]");
}

# the reference is the catalog's
{
	my ($stdout, $stderr) = run_command([ 'psql', '-X', '-d', $node->connstr('postgres'), '-f', "$top/script/reference.sql" ]);
	is($stderr, '', 'script/reference.sql runs');
	my @lines = split /\n/, $stdout;
	my @written = split /\n/, $page{'docs/reference.md'};
	my (%lines, %written);
	@lines{@lines} = @written{@written} = ();
	ok("@lines" eq "@written", 'docs/reference.md is what the catalog says')
	  or diag(join "\n", 'Run script/reference --write.', (map { "- $_" } grep { !exists $lines{$_} } @written), (map { "+ $_" } grep { !exists $written{$_} } @lines));
}

# every object has a comment
is($node->safe_psql('postgres', qq(
SELECT string_agg(pg_describe_object(d.classid, d.objid, 0), ', ') FROM pg_depend d
LEFT JOIN pg_description c ON c.classoid = d.classid AND c.objoid = d.objid AND c.objsubid = 0
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.description IS NULL
AND d.classid <> 'pg_type'::regclass
AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync')
AND NOT EXISTS (SELECT FROM pg_class s WHERE s.oid = d.objid AND s.relkind IN ('S', 'i')))), '', 'every object has a comment');

$node->stop;
done_testing();
