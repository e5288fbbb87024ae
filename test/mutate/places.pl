# Places in C source that a small mistake can be made at, for script/mutate.
#
#	perl places.pl list SEED FILE...	one a line, in an order that SEED gives:
#		file, offset, length, kind and replacement, with tabs between them
#	perl places.pl apply LINE			the file of such a line with the mistake made, to standard output
#	perl places.pl table TABLE DIR FILE...	the tests that cover files, fast ones first, by the table
#
# It knows C by its words, not by its grammar: what does not compile is not counted.
use strict;
use warnings;

sub slurp
{
	my ($path) = @_;
	open my $file, '<:raw', $path or die "$path: $!\n";
	local $/;
	return <$file>;
}

# The text with comments, strings and lines of the preprocessor blanked, at the same offsets.
sub code_of
{
	my ($text) = @_;
	my $blank = sub { $_[0] =~ s/[^\n]/ /gr };

	$text =~ s{(/\*.*?\*/|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')}{$blank->($1)}sge;
	$text =~ s{^(#(?:[^\n]*\\\n)*[^\n]*)}{$blank->($1)}mge;
	return $text;
}

my %relation = ('<' => '<=', '<=' => '<', '>' => '>=', '>=' => '>', '==' => '!=', '!=' => '==');
my %operator = ('&&' => '||', '||' => '&&', '+' => '-', '-' => '+', '*' => '/', '/' => '*', '%' => '*', '&' => '|', '|' => '&',
	'+=' => '-=', '-=' => '+=', '|=' => '=', '&=' => '=');

# Of SQL in strings; what sets a column to a value looks like a comparison, and is left alone.
my %sql = ('AND' => 'OR', 'OR' => 'AND', 'IS NULL' => 'IS NOT NULL', 'IS NOT NULL' => 'IS NULL', '<' => '<=', '<=' => '<', '>' => '>=', '>=' => '>',
	'<>' => '=', '+' => '-', '-' => '+', 'NOT EXISTS' => 'EXISTS', 'DESC' => 'ASC', 'true' => 'false', 'false' => 'true');
my $sql_word = join '|', map { quotemeta } sort { length $b <=> length $a } keys %sql;

# What nobody sees the lack of, or what only says what cannot happen.
my $harmless = qr/^(?:Assert|StaticAssert\w*|CHECK_FOR_INTERRUPTS|pfree|list_free\w*|MemoryContext(?:Delete|Reset)|elog|ereport|errmsg\w*|errdetail\w*|errhint\w*|errcode|PG_(?:RE_THROW|END_TRY|TRY|CATCH|FINALLY)|pgstat_report_\w+|bms_free|FreeErrorData|curl_\w*(?:free|cleanup)\w*)\b/;
# Statements of one line: calls and assignments, not declarations.
my $statement = qr/^(?:\(void\) )?[A-Za-z_][\w>.\[\]-]*(?:\([^;]*\)|(?: [+|&-]?=(?!=) |\+\+|--)[^;]*)?;$/;
my $word = qr/^(?:break|continue);$/;

# The places of one file, as lists of offset, length, kind and replacement.
sub places
{
	my ($text) = @_;
	my $code = code_of($text);
	my (@places, @before);
	my $depth = 0;
	my $offset = 0;

	foreach my $line (split /^/m, $code)
	{
		my $here = $offset;
		my $inside = $depth > 0;
		(my $bare = $line) =~ s/^\s+|\s+$//g;
		my ($indent) = $line =~ /^(\s*)/;
		my $original = substr $text, $here, length $line;

		$offset += length $line;
		$depth += ($line =~ tr/{//) - ($line =~ tr/}//);
		next if !$inside || $bare =~ $harmless;
		my $add = sub { push @places, [ $here + $_[0], $_[1], $_[2], $_[3] ] };
		while ($original =~ /"((?:[^"\\]|\\.)*)"/g)
		{
			my ($at, $string) = ($-[1], $1);
			next unless $string =~ /\b(?:SELECT|WHERE|SET|CASE|AND|ON|EXISTS|RETURNING|ORDER BY)\b/ && substr($line, $at, 1) eq ' ';
			while ($string =~ /(?<= )($sql_word)(?= |$)/g) { $add->($at + $-[1], length $1, 'sql', $sql{$1}) }
		}
		next if $bare eq '';

		# in calls, casts, types and declarations, "*" and "&" stand without a space behind them
		while ($line =~ / (<=|>=|==|!=|<|>) /g) { $add->($-[1], length $1, 'comparison', $relation{$1}) }
		while ($line =~ m{ (&&|\|\||[-+*/%&|]|[-+|&]=)(?= |$)}g) { $add->($-[1], length $1, 'operator', $operator{$1}) }
		while ($line =~ /(\+\+|--)/g) { $add->($-[1], 2, 'operator', $1 eq '++' ? '--' : '++') }
		while ($line =~ /(?<![\w.])(\d+)(?![\w.])/g) { $add->($-[1], length $1, 'constant', $1 eq '1' ? 0 : $1 + 1) }
		my $kind = $bare =~ /^return\b/ ? 'result' : 'constant';
		while ($line =~ /\b(true|false)\b/g) { $add->($-[1], length $1, $kind, $1 eq 'true' ? 'false' : 'true') }
		if ($line =~ /^\s*(?:else )?(?:if|while) \((.*)\)\s*$/) { $add->($-[1], length $1, 'condition', '!(' . substr($original, $-[1], length $1) . ')') }
		while ($line =~ /(?<![\w)])!(?=[\w(])/g) { $add->($-[0], 1, 'condition', '') }
		if ($line =~ /^\s*return ([^;]+);$/ && $1 !~ /^(?:true|false|0|NULL|NIL)$/) { $add->($-[1], length $1, 'result', '0') }
		if ($bare =~ /^return;$/) { $add->(length $indent, length $bare, 'statement', ';') }

		if (($bare =~ $statement && $bare !~ /^return\b/) || $bare =~ $word)
		{
			$add->(length $indent, length $bare, 'statement', ';');
			push @places, swapped($text, @before, $here, $bare) if @before && $before[2] eq $indent && $bare !~ $word;
			@before = $bare =~ $word ? () : ($here, $bare, $indent);
		}
		else { @before = () }
	}
	return @places;
}

# Two statements in turn, if one may see what the other does.
sub swapped
{
	my ($text, $first_at, $first, undef, $second_at, $second) = @_;
	my $end = index($text, "\n", $second_at) + 1;
	my ($to) = $first =~ /^([\w>.\[\]-]+) [+|&-]?= [^;]*;$/;
	my ($then_to) = $second =~ /^([\w>.\[\]-]+) [+|&-]?= [^;]*;$/;
	my %names = map { $_ => 1 } $first =~ /\b([A-Za-z_]\w*)\b(?!\()/g;

	# two assignments differ in their order only if one reads what the other sets
	return if defined $to && defined $then_to && $second !~ /\Q$to\E\b/ && $first !~ /\Q$then_to\E\b/;
	return unless grep { $names{$_} } $second =~ /\b([A-Za-z_]\w*)\b(?!\()/g;
	return [ $first_at, $end - $first_at, 'order', substr($text, $second_at, $end - $second_at) . substr($text, $first_at, $second_at - $first_at) ];
}

# A place for each kind in turn, so that rare ones are not lost among the many; no line twice.
sub list
{
	my ($seed, @files) = @_;
	my (%kinds, %seen);

	foreach my $file (@files)
	{
		my $text = slurp($file);
		push @{ $kinds{ $_->[2] } }, [ $file, $_->[0], $_->[1], $_->[2], $_->[3], substr($text, 0, $_->[0]) =~ tr/\n// ] foreach places($text);
	}
	srand $seed;
	foreach my $kind (sort keys %kinds)
	{
		my $places = $kinds{$kind};
		foreach my $i (reverse 1 .. $#$places)
		{
			my $k = int rand($i + 1);
			@$places[$i, $k] = @$places[$k, $i];
		}
	}
	while (%kinds)
	{
		my @names = sort keys %kinds;
		my $kind = $names[ int rand @names ];
		my ($file, $offset, $length, undef, $replacement, $line) = @{ shift @{ $kinds{$kind} } };
		delete $kinds{$kind} unless @{ $kinds{$kind} };
		next if $seen{"$file $line"}++;
		$replacement =~ s/([\\\t\n])/sprintf '\\x%02x', ord $1/ge;
		print join("\t", $file, $offset, $length, $kind, $replacement), "\n";
	}
	return;
}

sub apply
{
	my ($line) = @_;
	my ($file, $offset, $length, undef, $replacement) = split /\t/, $line, 5;
	my $text = slurp($file);

	$replacement =~ s/\\x([0-9a-f]{2})/chr hex $1/ge;
	substr($text, $offset, $length) = $replacement;
	binmode STDOUT;
	print $text;
	return;
}

# The line of the file itself counts before that of its folder.
sub table
{
	my ($table, $dir, @files) = @_;
	my %tests = map { /^(\S+)\s+(.*)$/ && !/^#/ ? ($1 => $2) : () } split /\n/, slurp($table);
	my %seen;

	foreach my $name (sort keys %tests)
	{
		die "$table: there is no src/$name\n" unless -e "$dir/../../src/$name" || -e "$dir/../../src/$name.c";
	}
	foreach my $file (@files)
	{
		my ($folder) = $file =~ m{^(?:(.*)/)?};
		my $names = $tests{ $file =~ s/\.c$//r } || $tests{ $folder || '.' } or die "$table has no tests for $file\n";
		foreach my $name (grep { !$seen{$_}++ } split ' ', $names)
		{
			my @found = $name eq 'regress' ? $name : glob "$dir/${name}_*.pl";
			die "$table: there is no test $name\n" unless @found;
			print "$found[0]\n";
		}
	}
	return;
}

my ($what, @args) = @ARGV;
if (($what || '') eq 'list') { list(@args) }
elsif (($what || '') eq 'apply') { apply(@args) }
elsif (($what || '') eq 'table') { table(@args) }
else { die "usage: places.pl list SEED FILE... | apply LINE | table TABLE DIR FILE\n" }
