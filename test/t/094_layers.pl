# The folders of src/ are layers: a file includes its own folder's headers and
# those of the folders below.  They are indented alike, and mark no text for
# translation.  Needs no server.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Test::More;

my $src = abs_path(dirname(__FILE__) . '/../../src');

# what each folder may include from, besides itself
my %below = (
	base => [],
	cluster => [qw(base)],
	traffic => [qw(base)],
	api => [qw(base traffic)],
	fetch => [qw(base traffic api)],
	mapping => [qw(base cluster api)],
	table => [qw(base cluster traffic api mapping)],
	queue => [qw(base cluster traffic api mapping table)],
	known => [qw(base cluster traffic api mapping table queue)],
	follow => [qw(base cluster api mapping table)],
	manage => [qw(base cluster traffic api mapping table queue follow)],
	calls => [qw(base cluster traffic api table)],
	push => [qw(base cluster traffic api mapping calls table queue known follow)],
	pull => [qw(base cluster traffic api fetch mapping table queue known)],
	fdw => [qw(base traffic api fetch pull)],
	observe => [qw(base cluster traffic api fetch mapping calls table queue manage known push follow)],
	'.' => [qw(base cluster traffic api fetch mapping calls table queue manage known follow push pull fdw observe)]);

# names that "#include" would take for a directory of PostgreSQL's
my @theirs = qw(catalog commands common foreign port storage utils);

sub slurp
{
	my ($path) = @_;
	open my $file, '<', $path or die "$path: $!";
	local $/;
	return <$file>;
}

# file => the files of ours that it includes, as paths below src
sub includes
{
	my %includes;
	foreach my $path (glob "$src/*.[ch] $src/*/*.[ch]")
	{
		(my $file = $path) =~ s{^\Q$src\E/}{};
		my $text = slurp($path);
		$includes{$file} = [ grep { -e "$src/$_" } $text =~ /^#include "([^"]+)"/mg ];
		my @doubled = do { my %seen; grep { $seen{$_}++ } $text =~ /^#include ["<]([^">]+)/mg };
		is("@doubled", '', "$file includes nothing twice") if @doubled;
	}
	return %includes;
}

# The circles among the keys of a graph, each as the path that closes it.
sub circles
{
	my (%graph) = @_;
	my (%state, @circles);
	my $visit;
	$visit = sub {
		my ($node, @path) = @_;
		if (($state{$node} || '') eq 'open') { push @circles, join(' -> ', @path, $node); return; }
		return if $state{$node};
		$state{$node} = 'open';
		$visit->($_, @path, $node) foreach sort @{ $graph{$node} || [] };
		$state{$node} = 'done';
	};
	$visit->($_) foreach sort keys %graph;
	return @circles;
}

is_deeply([ circles(a => ['b'], b => ['c'], c => []) ], [], 'a chain is no circle');
is(scalar(circles(a => ['b'], b => ['a'])), 1, 'a circle is found');

my %includes = includes();
cmp_ok(scalar keys %includes, '>', 60, 'the files are found');
my (@upward, %folders, %count);
foreach my $file (sort keys %includes)
{
	my $from = dirname($file);
	$count{$from}++ if $file =~ /\.c$/;
	ok(exists $below{$from}, "the folder of $file is known") or next unless exists $below{$from};
	foreach my $header (@{ $includes{$file} })
	{
		my $to = dirname($header);
		next if $to eq $from;
		$folders{$from}{$to} = 1;
		push @upward, "$file includes $header" unless grep { $_ eq $to } @{ $below{$from} };
	}
}
is_deeply(\@upward, [], 'each folder includes only from those below it');
is_deeply([ circles(map { $_ => [ keys %{ $folders{$_} } ] } keys %folders) ], [], 'no circle of folders');

# A source file counts as its header: what one includes, the other depends on.
my %units;
foreach my $file (keys %includes)
{
	(my $unit = $file) =~ s/\.[ch]$//;
	push @{ $units{$unit} }, grep { $_ ne $unit } map { s/\.h$//r } @{ $includes{$file} };
}
is_deeply([ circles(%units) ], [], 'no circle of files');

foreach my $folder (grep { $_ ne '.' } sort keys %below)
{
	cmp_ok($count{$folder} || 0, '<=', 20, "$folder has at most 20 source files");
	ok(-s "$src/$folder/README", "$folder has a README");
	my $readme = slurp("$src/$folder/README");
	my @unnamed = grep { $readme !~ /\b\Q$_\E\b/ } map { s{.*/}{}r =~ s/\.[ch]$//r } glob "$src/$folder/*.[ch]";
	is("@unnamed", '', "which names each of its files");
	my @strangers = grep { !-e "$src/$folder/$_" && !-e "$src/$folder/$_.c" } map { split /, / } $readme =~ /^([\w.]+(?:, [\w.]+)*) +\S/mg;
	is("@strangers", '', 'and none that is not there');
	ok(!(grep { $_ eq $folder } @theirs), "$folder is no name of PostgreSQL's");
}

# The extension has no message catalog: _() would look its texts up in PostgreSQL's.
# A detail that is complete already is no format, of which errdetail() would make one.
my (@marked, @formats);
foreach my $path (glob "$src/*.[ch] $src/*/*.[ch]")
{
	(my $file = $path) =~ s{^\Q$src\E/}{};
	my $number = 0;
	foreach my $line (split /\n/, slurp($path))
	{
		$number++;
		push @marked, "$file:$number" if $line =~ /(?<!\w)(?:_|d?n?gettext(?:_noop)?)\(/;
		push @formats, "$file:$number" if $line =~ /\berrdetail\((?!")|\berr(?:msg|detail)\("%s"/;
	}
}
is("@marked", '', 'no text is marked for translation');
is("@formats", '', 'texts that are complete are reported by errmsg_internal() and errdetail_internal()');

SKIP:
{
	my $wrong = `'$src/../script/indent'`;
	skip 'pg_bsd_indent is not installed (Debian: pg-bsd-indent)', 1 if $? >> 8 == 77;
	is($wrong, '', 'the source is indented as by pg_bsd_indent');
}

done_testing();
