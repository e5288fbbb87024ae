# The transitions that docs/dev/protocol.md names: 096 compares them with what the model
# takes, 097 with what the worker takes.
package KaptureTransitions;
use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(transitions);

# Those of a "task", as "FROM on TO", or of a "delivery", as "from to"; sorted.
sub transitions
{
	my ($top, $whose) = @_;
	my $head = $whose eq 'task' ? qr/\| from \| on \| to \|/ : qr/\| from \| to \|/;
	my %found;

	open my $in, '<', "$top/docs/dev/protocol.md" or die "docs/dev/protocol.md: $!";
	my $page = do { local $/; <$in> };
	close $in;
	my ($table) = $page =~ /^$head\n(.*?)\n\n/ms or die "docs/dev/protocol.md has no transitions of a $whose";
	foreach my $line (split /\n/, $table)
	{
		my ($to, @from) = reverse map { [ /(\w+)/g ] } grep { /\w/ } split /\|/, $line;
		next unless @from;
		my ($from, $on) = reverse @from;
		foreach my $t (@$to)
		{
			$found{ join ' ', $from->[0], $on ? $_ : (), $t } = 1 foreach $on ? @$on : 1;
		}
	}
	return sort keys %found;
}

1;
