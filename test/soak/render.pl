# Makes soak.md and soak.svg of what a run of script/soak has left in a directory.
use strict;
use warnings;

use JSON::PP;
use List::Util qw(max min sum0);

my $dir = shift;
exit 0 unless -e "$dir/result.json";

sub slurp { my ($name) = @_; local $/; open my $f, '<', $name or die "$name: $!"; return scalar <$f>; }

my $r = decode_json(slurp("$dir/result.json"));
my ($head, @lines) = split /\n/, slurp("$dir/samples.tsv");
my @columns = split /\t/, $head;
my @samples = map { my %s; @s{@columns} = split /\t/, $_, -1; \%s } @lines;

sub thousands { my ($n) = @_; 1 while $n =~ s/^(\d+)(\d{3})/$1,$2/; return $n; }
sub mb { my ($bytes) = @_; return $bytes eq '' ? '' : sprintf '%.1f', $bytes / 1048576; }
sub list { my ($h) = @_; return join ', ', map { "$_ $h->{$_}" } sort keys %$h; }

open my $md, '>', "$dir/soak.md" or die $!;
my $minutes = sprintf '%.0f', $r->{seconds} / 60;
my $verdict = @{ $r->{wrong} } ? scalar(@{ $r->{wrong} }) . ' findings' : 'nothing lost, nothing twice, flat';
my $kills = sum0(values %{ $r->{killed} });
print $md <<"END";
# Soak

    script/soak --minutes $r->{minutes_asked}

runs a mixed load on a throwaway PostgreSQL with an emulator of Kapture: single and multi-row inserts, updates, changes of phones and of
primary keys, deletes and rows that come again, savepoints and transactions that are rolled back, COPY, two-phase commits; direct calls,
pulls, refreshes, foreign tables; attaching, detaching and backfilling three side tables (identity, uuid, partitioned with two key
columns); ALTER SERVER, wrong keys, pause and resume, DDL, VACUUM FULL, TRUNCATE, locks on rows, long transactions; a table mapped by expressions, a constant
and a filter, whose rows leave, come back and are deleted; a view over three tables that are followed, without an id column; customers of a second account that arrive
in pages, in a table that has rows of its own; calls by `kapture_send`; `kapture_alter`, `kapture_resync`, `kapture_touch`, dry runs, and `kapture_verify` that repairs what was
changed in Kapture. Meanwhile the emulators answer 1 to 6 % of the requests with one of 17 faults, and in the last fifth of each cycle processes are killed. At the end it stops all that, waits until everything is sent, and compares
every row with what Kapture has; it fails if anything was lost, sent twice or differs, if the log has an error of the worker, or if memory, file descriptors
or tables grew in the second half. `fsync` is off (processes die here, the machine does not); the history is kept for ten minutes.

## Latest run

| | |
|---|---|
| result | **$verdict** |
| commit, PostgreSQL | $r->{commit}, @{[ $r->{version} // '' ]} |
| begun | $r->{started}, under load for $minutes minutes; then sent what was left in $r->{drain_seconds} s |
| requests that reached Kapture | @{[ thousands($r->{requests}) ]}, customers there at the end @{[ thousands($r->{customers}) ]} |
| rows compared | @{[ thousands($r->{rows}) ]}: lost $r->{lost}, twice $r->{twice}, different $r->{differ} |
| kills | $kills: @{[ list($r->{killed}) ]} |
| done besides the load | @{[ list($r->{done}) ]} |
| refused meanwhile, by faults and kills | @{[ list($r->{refused}) ]} |
| oldest transaction of the worker in any sample | $r->{longest_transaction} s |

END
if (@{ $r->{wrong} })
{
	print $md "Findings:\n\n", map({ "- $_\n" } @{ $r->{wrong} }[ 0 .. min(19, $#{ $r->{wrong} }) ]), "\n";
}
print $md "| what (kB of own memory, descriptors, bytes) | first half | second half | over |\n|---|---|---|---|\n";
foreach my $name (sort keys %{ $r->{flat} })
{
	my ($first, $second, $seconds) = @{ $r->{flat}{$name} };
	printf $md "| %s | %s | %s | %d s |\n", $name, thousands($first), thousands($second), $seconds;
}
print $md <<'END';

Memory and descriptors: medians over the longest life of the process, after two minutes. Tables: the largest of each half of the run. "session" is one that makes
direct calls, pulls and refreshes all the time.

![memory of the worker, size of the tables, rows waiting](soak.svg)

| minute | requests | waiting | worker kB | descriptors | session kB | outbox MB | deliveries MB | history MB |
|---|---|---|---|---|---|---|---|---|
END
my $every = max(1, int(@samples / 24));
for (my $i = 0; $i < @samples; $i += $every)
{
	my $s = $samples[$i];
	print $md '| ', join(' | ', int($s->{seconds} / 60), thousands($s->{requests}), $s->{waiting}, thousands($s->{worker_kb}), $s->{worker_fds}, thousands($s->{session_kb}),
		mb($s->{outbox} + $s->{outbox_index}), mb($s->{delivery} + $s->{delivery_index}), mb($s->{history} + $s->{history_index})), " |\n";
}
close $md;

# --- the plot: three strips over the same time
my ($width, $height, $left) = (760, 110, 70);
my @strips = (
	[ 'worker, MB of its own', '#1f6feb', sub { $_[0]{worker_kb} eq '' ? undef : $_[0]{worker_kb} / 1024 } ],
	[ 'history + outbox + deliveries, MB', '#bc4c00', sub { my $s = shift; sum0(map { $s->{$_} || 0 } qw(outbox outbox_index delivery delivery_index history history_index)) / 1048576 } ],
	[ 'rows waiting', '#1a7f37', sub { $_[0]{waiting} eq '' ? undef : $_[0]{waiting} } ]);
my $end = max(1, map { $_->{seconds} } @samples);
open my $svg, '>', "$dir/soak.svg" or die $!;
printf $svg "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", $width + $left + 20, 30 + @strips * ($height + 40);
my $y = 30;
foreach my $strip (@strips)
{
	my ($title, $colour, $value) = @$strip;
	my @points = grep { defined $_->[1] } map { [ $_->{seconds}, $value->($_) ] } @samples;
	my $top = max(1, map { $_->[1] } @points);
	foreach my $s (grep { $_->{storm} } @samples)
	{
		printf $svg "<rect x=\"%.1f\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"#ddd\"/>\n", $left + $s->{seconds} / $end * $width, $y, 30 / $end * $width, $height;
	}
	printf $svg "<text x=\"%d\" y=\"%d\">%s</text>\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.0f</text>\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\">0</text>\n",
	  $left, $y - 6, $title, $left - 6, $y + 10, $top, $left - 6, $y + $height;
	printf $svg "<path d=\"M%d %d V%d H%d\" stroke=\"black\" fill=\"none\"/>\n", $left, $y, $y + $height, $left + $width;
	printf $svg "<polyline fill=\"none\" stroke=\"%s\" points=\"%s\"/>\n", $colour, join ' ', map { sprintf '%.1f,%.1f', $left + $_->[0] / $end * $width, $y + $height - $_->[1] / $top * $height } @points;
	$y += $height + 40;
}
printf $svg "<text x=\"%d\" y=\"%d\">0 to %d minutes; grey: kills</text>\n</svg>\n", $left, $y - 14, $end / 60;
close $svg;
