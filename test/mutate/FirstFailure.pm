# Ends a TAP test at its first failure: for script/mutate, which wants to know no more.
package FirstFailure;

use strict;
use warnings;

use Test::Builder;

my $ok = \&Test::Builder::ok;

no warnings 'redefine';
*Test::Builder::ok = sub {
	my ($self, @rest) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $result = $ok->($self, @rest);

	$self->BAIL_OUT('one failure is enough') unless $result || $self->in_todo;
	return $result;
};

1;
