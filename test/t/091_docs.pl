# What docs/ says is so: its SQL runs, its messages are in the source, the tests
# and files that it names are there.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path("$FindBin::RealBin/../..");
my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator);
create_customers($node);
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Priya', '9845765226'), ('Wrong', 'abc')");
poll_ok($node, "SELECT parked = 1 AND pending + in_flight + retrying = 0 FROM kapture_status", 'one row is sent, one is parked');

# the live view, once
(my $live = slurp_file("$top/script/live.sql")) =~ s/\n\\watch 1\n\z/;\n/ or fail('live.sql ends with \watch');
my ($live_rc, $seen, $complaint) = $node->psql('postgres', "SET search_path = pg_catalog;\n$live", on_error_stop => 1);
is("$live_rc $complaint", '0 ', 'script/live.sql runs, whatever the search path is');
$seen =~ s/\e\[[0-9;]*[mHJ]//g;
like($seen, qr/^customers to kapture: running, server ok\n  waiting +0  \n  in flight +0 .*\n  retrying +0 .*\n  parked +1 +(?:█)+$/m, 'and shows the queue');
like($seen, qr/^  add 200 +1  kapture, [\d.]+ ms$/m, 'and requests');

my $squeezed = join '', map { slurp_file($_) } glob("$top/src/{,*/}*.c");
$squeezed =~ s/"\s*\n\s*"//g;
$squeezed =~ s/\\"/"/g;

# and what Kapture says, as the emulator has it
(my $kapture = slurp_file("$top/test/emulator/api.c")) =~ s/\\n/ /g;

# A link goes to a page that is there, and to a heading in it.
sub check_links
{
	my ($file, $text) = @_;
	my $dir = $file =~ s{/[^/]+$}{}r;
	my @broken;

	foreach my $link ($text =~ /\]\(([^)\s]+)\)/g)
	{
		next if $link =~ /^\w+:/;
		my ($path, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
		my $target = $path eq '' ? $file : "$dir/$path";
		if (!-e $target) { push @broken, $link; next; }
		next unless defined $anchor;
		my @anchors = map { (my $a = lc) =~ s/[^\w -]//g; $a =~ s/ /-/g; $a } slurp_file($target) =~ /^#+ (.*)$/mg;
		push @broken, $link unless grep { $_ eq $anchor } @anchors;
	}
	is("@broken", '', ($file =~ s{^\Q$top\E/}{}r) . ': links lead somewhere');
	return;
}

# what a documented message looks like in the source: names, and three dots, are filled in
sub pattern_of
{
	my ($message) = @_;
	(my $pattern = quotemeta $message) =~ s/\\"(?:kapture|\\\.\\\.\\\.)\\"/"(?:%s|[^"\\n]*)"/g;
	$pattern =~ s/(?:\\\.){3}/(?:%\\w+|" INT64_FORMAT ")/g;
	return qr/$pattern/;
}

# What the server log may say, and errors about the state of things (not about
# arguments), have to be explained.
sub check_all_are_explained
{
	my @explained = map { pattern_of($_) } @_;
	my @missing;
	my $n = 0;

	while ($squeezed =~ /ereport\((\w+),(.*?)\);\n/sg)
	{
		my ($level, $report) = ($1, $2);
		next if $level =~ /NOTICE|DEBUG|elevel/;
		next if $level eq 'ERROR' && $report !~ /OBJECT_NOT_IN_PREREQUISITE_STATE|UNDEFINED_OBJECT|FDW_OPTION_NAME_NOT_FOUND|OBJECT_IN_USE|ACTIVE_SQL_TRANSACTION|TRANSACTION_TERMINATION|ANSWERED|answer->sqlstate|FDW_ERROR|UNABLE_TO_CREATE_REPLY/;
		foreach my $message ($report =~ /errmsg(?:_plural)?\(\s*"(.*?)"(?=\s*(?:,|\)\s*(?:[,:)]|$)))/sg)
		{
			next if $message eq '%s started';
			$n++;
			push @missing, $message unless grep { $message =~ $_ } @explained;
		}
	}
	cmp_ok($n, '>', 30, 'messages are found in the source');
	is(join("\n", @missing), '', 'troubleshooting.md explains them all');
	return;
}

# those whose blocks build on each other, and are run by 090_readme.pl
my %elsewhere = map { $_ => 1 } qw(pull.md foreign-tables.md direct-calls.md);

foreach my $file (sort glob("$top/docs/{,dev/}*.md"), "$top/CONTRIBUTING.md", "$top/README.md", "$top/test/README.md")
{
	my ($name) = $file =~ m{([^/]+)$};
	my $text = slurp_file($file);

	check_links($file, $text);
	next if $name eq 'README.md';
	foreach my $block ($elsewhere{$name} ? () : $text =~ /^```sql\n(.*?)^```$/msg)
	{
		foreach my $statement (grep { /\S/ } split /;\n/, $block)
		{
			my ($rc, $out, $err) = $node->psql('postgres', $statement, on_error_stop => 1);
			is($rc, 0, "$name: runs: " . substr($statement, 0, 50)) or diag($err);
		}
	}
	if ($name eq 'troubleshooting.md')
	{
		my @messages = map { /`(.*?)`/g } $text =~ /^\| (`.*?`) \|/mg;
		cmp_ok(scalar @messages, '>', 10, 'messages are listed');
		foreach my $message (@messages)
		{
			ok("$squeezed$kapture" =~ pattern_of($message), "the source has the message: $message");
		}
		check_all_are_explained($text =~ /`(.*?)`/g);
	}
	foreach my $path ($text =~ m{`((?:test/t|sql|script|src|docs)/[\w./-]+\w)`}g)
	{
		ok(-e "$top/$path", "$name: $path is there");
	}
}

# what the pages call kapture_... is there, and what is there for users is on a page
my %there = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', q(
WITH members AS (SELECT classid, objid FROM pg_depend WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync') AND deptype = 'e')
SELECT proname FROM pg_proc JOIN members ON (classid, objid) = ('pg_proc'::regclass, oid)
UNION SELECT unnest(proargnames) FROM pg_proc JOIN members ON (classid, objid) = ('pg_proc'::regclass, oid)
UNION SELECT relname FROM pg_class JOIN members ON (classid, objid) = ('pg_class'::regclass, oid)
UNION SELECT attname FROM pg_attribute JOIN members ON (classid, objid) = ('pg_class'::regclass, attrelid)
UNION SELECT typname FROM pg_type JOIN members ON (classid, objid) = ('pg_type'::regclass, oid)
UNION SELECT tgname FROM pg_trigger
UNION SELECT name FROM pg_settings WHERE name LIKE 'kapture%'
UNION SELECT fdwname FROM pg_foreign_data_wrapper
UNION SELECT extname FROM pg_extension));
my %pages = map { s{^\Q$top\E/}{}r => slurp_file($_) } "$top/README.md", glob("$top/docs/*.md");
my %on_pages;
foreach my $page (sort keys %pages)
{
	my $text = $pages{$page};
	# names of metrics, and of what the page's own commands make
	$text =~ s/\bkapture_sync(?:_\w+|\.(?:yml|conf)\b)//g;
	my %made = map { $_ => 1 } $text =~ /\bCREATE (?:ROLE|PUBLICATION|SUBSCRIPTION|SERVER|TABLE|VIEW|FUNCTION|SCHEMA) (kapture_\w+)/g;
	my @names = $text =~ /\b(kapture_(?:sync\.)?[a-z_]+)/g;
	my %strange = map { $_ => 1 } grep { !$there{$_} && !$made{$_} } @names;
	is(join(' ', sort keys %strange), '', "$page: names what there is");
	$on_pages{$_} = 1 foreach $page eq 'docs/reference.md' ? () : @names;
}
my @for_users = split /\n/, $node->safe_psql('postgres', q(
WITH members AS (SELECT classid, objid FROM pg_depend WHERE refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync') AND deptype = 'e')
SELECT proname FROM pg_proc JOIN members ON (classid, objid) = ('pg_proc'::regclass, oid) WHERE obj_description(oid, 'pg_proc') NOT LIKE 'internal: %'
UNION SELECT relname FROM pg_class JOIN members ON (classid, objid) = ('pg_class'::regclass, oid) WHERE relkind = 'v'
UNION SELECT name FROM pg_settings WHERE name LIKE 'kapture%' ORDER BY 1));
cmp_ok(scalar @for_users, '>', 50, 'there are functions, views and settings for users');
is(join(' ', grep { !$on_pages{$_} } @for_users), '', 'each is on another page than the reference');

my ($arguments) = $pages{'docs/sync.md'} =~ /^(\| argument \| default .*?)\n\n/ms;
is(join(' ', grep { $arguments !~ /^\| .*`\Q$_\E`.* \| .* \| .* \|$/m } split /\n/, $node->safe_psql('postgres',
	"SELECT unnest(proargnames) FROM pg_proc WHERE proname = 'kapture_attach' OFFSET 1")), '', 'docs/sync.md has all arguments of kapture_attach');

# the drawings name each file of src/, and none that is not there
my $picture = slurp_file("$top/docs/dev/architecture.md");
my %files = map { s{^\Q$top\E/src/}{}r =~ s{\.c$}{}r => 1 } glob("$top/src/{,*/}*.c");
foreach my $file (sort keys %files)
{
	like($picture, qr{(?<![\w/])\Q$file\E\b}, "architecture.md names $file");
}
my $folders = join '|', map { s{.*/}{}r } grep { -d } glob("$top/src/*");
my @strangers = grep { !$files{$_} } $picture =~ m{(?<![\w/])((?:$folders)/\w+)\b(?!\.h)}g;
is("@strangers", '', 'architecture.md names no file that is not there');

# test/README.md explains the numbers of the tests, and no others
my %tens = map { m{/(\d\d)\d_} => 1 } glob("$top/test/t/*.pl");
is(join(' ', slurp_file("$top/test/README.md") =~ /^\| (\d\d) \|/mg), join(' ', sort keys %tens), 'test/README.md explains the numbers');

# the states that operating.md explains are those that there are
my $operating = slurp_file("$top/docs/operating.md");
foreach my $state (slurp_file("$top/src/cluster/report.c") =~ /return "(\w+)"/g)
{
	next if $state eq 'unknown';
	like($operating, qr/`$state`/, "operating.md explains the state $state");
}

# the defaults of options are those of the source
my %initial = slurp_file("$top/src/api/option.c") =~ /^\t\{"(\w+)", ForeignServerRelationId, \w+,\s+[^"]*?, (NULL|"[^"]*"), (?:true|false),/mg;
cmp_ok(scalar keys %initial, '>', 25, 'the source has options of servers');
my %default;
foreach my $line (grep { /^\| `/ } split /\n/, (slurp_file("$top/docs/options.md") =~ /^\| server option .*?\n\n/ms ? $& : ''))
{
	my ($names, $value) = (split / *\| */, $line)[ 1, 2 ];
	$default{$_} = $value =~ s/`//gr foreach $names =~ /`(\w+)`/g;
}
my @other = grep {
	my $initial = $initial{$_} =~ s/^"|"$//gr;
	$initial =~ /^(?:NULL|\{\})$/ ? ($default{$_} // '') !~ /^(?:required|none|off|the present|the system's)$/ : ($default{$_} // '') ne $initial;
} sort keys %initial;
is("@other", '', 'docs/options.md has the defaults of the source') or diag(join "\n", map { "$_: $initial{$_}, " . ($default{$_} // 'not there') } @other);

# what README and the FAQ say of costs is what the benchmarks say, within a tenth
my $benchmarks = slurp_file("$top/docs/dev/benchmarks.md");
my %measured = $benchmarks =~ /^\| ([^|]+) \| ([\d.]+)[^|]* \|/mg;
my ($worker_rate) = $benchmarks =~ /beside our (\d+) rows\/s/;
sub agrees_ok
{
	my ($page, $pattern, @titles) = @_;
	my @said = slurp_file("$top/$page") =~ $pattern;
	is(scalar @said, scalar @titles, "$page has its figures") or return;
	foreach my $title (@titles)
	{
		my $value = shift(@said) =~ tr/,//dr;
		my $there = $title eq 'worker' ? $worker_rate : $measured{$title} // 0;
		cmp_ok(abs($value - $there), '<=', 0.1 * $there, "$page: $value, and the benchmarks $there: $title");
	}
	return;
}
my ($insert, $copy) = ('Single-row INSERT, 1 client(s): tps over plain', 'COPY of 200,000 rows into an attached table over plain COPY: time');
agrees_ok('README.md', qr/single-row inserts at ([\d.]+) of the plain rate, COPY takes ([\d.]+) times as long; the\s+worker sends ([\d,]+) rows a second/,
	$insert, $copy, 'worker');
agrees_ok('docs/faq.md', qr/INSERTs ran at ([\d.]+) of the plain rate, UPDATEs at ([\d.]+) to ([\d.]+), a COPY of 200,000 rows\s+took ([\d.]+) times as long; a change that touches no mapped column (\d\.\d+)/,
	$insert, 'Single-row UPDATE, 1 client(s): tps over plain', 'Single-row UPDATE, 4 client(s): tps over plain', $copy,
	'UPDATE that touches no mapped column, 1 client: tps over plain');

# each fault has a test that is there, or a reason
my $regress = join ' ', map { /^REGRESS\s*\+?=\s*(.*)$/ ? $1 : () } split /\n/, slurp_file("$top/Makefile");
my @faults = grep { /^\| / && !/^\| fault / } split /\n/, slurp_file("$top/docs/dev/faults.md");
cmp_ok(scalar @faults, '>', 60, 'docs/dev/faults.md has its lines');
foreach my $line (@faults)
{
	my ($fault, $here, $tests) = $line =~ /^\| (.+) \| (.+) \| (.+) \|$/ or fail("a line of docs/dev/faults.md: $line"), next;
	my @missing = grep { my @there = glob("$top/test/t/${_}_*.pl"); !@there } $tests =~ /\b(\d{3})\b/g;
	push @missing, grep { $regress !~ /\b\Q$_\E\b/ } $tests =~ /regress `(\w+)`/g;
	ok(!@missing && ($tests =~ /\b\d{3}\b|regress `/ || $tests eq 'by design'), "tested: $fault") or diag("missing: @missing");
}

# so has each promise
foreach my $line (grep { /^\| / && !/^\| promise / } split /\n/, slurp_file("$top/docs/dev/promises.md"))
{
	my ($promise, $tests) = $line =~ /^\| (.+) \| (.+) \|$/;
	my @paths = ($tests // '') =~ /`([\w\/]+\.(?:pl|sql))`/g;
	ok(@paths && !(grep { !-e "$top/$_" && !-e "$top/test/t/$_" } @paths), "proved: $promise") or diag($line);
}

$node->stop;
done_testing();
