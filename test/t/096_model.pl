# The model of the way of a row to Kapture (test/model/sync.pml, docs/dev/protocol.md),
# explored exhaustively by spin: within its bounds nothing goes wrong, whatever fails
# when; and each part that is taken out of the protocol is missed.  No server is started.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use IPC::Run ();
use POSIX ();
use Test::More;

my $top = abs_path(dirname(__FILE__) . '/../..');
use lib abs_path(dirname(__FILE__) . '/../perl');
use KaptureTransitions;

my $model = "$top/test/model/sync.pml";
my $dir = tempdir('kapture_modelXXXX', TMPDIR => 1, CLEANUP => 1);
my (@cases, %taken);

# most of these programs run for less time than cc takes for them
my ($compiler) = grep { IPC::Run::run([ 'sh', '-c', "command -v $_" ], '>', '/dev/null') } 'tcc', 'cc';

sub slurp { my ($file) = @_; open my $in, '<', $file or die "$file: $!"; local $/; return scalar <$in> }

# What spin says of the model with these bounds: its words, and whether it ended by itself.
sub explore
{
	my ($work, @defines) = @_;
	my ($out, $result) = ('', '');

	mkdir $work or die "$work: $!";
	my $in = sub { chdir $work or die "$work: $!" };
	my @d = map { "-D$_" } @defines;
	IPC::Run::run([ 'spin', '-a', @d, $model ], '<', \undef, '>', \$out, '2>&1', init => $in) or return "spin: $out";
	IPC::Run::run([ $compiler, '-w', '-O0', '-DNP', '-DNOREDUCE', '-DVECTORSZ=2048', '-DMEMLIM=3000', '-o', 'pan', 'pan.c' ], '<', \undef, '>', \$out, '2>&1', init => $in)
	  or return "$compiler: $out";
	# -l: cycles are errors, too
	IPC::Run::run([ "$work/pan", '-l', '-m1000000' ], '<', \undef, '>', \$result, '2>&1', init => $in);
	return $result;
}

# Nothing goes wrong, and there is an end to it, which is reached.
sub judge_holds
{
	my ($result, $name) = @_;

	ok($result =~ /errors: 0$/m && $result !~ /error: max search depth|pan: reached|Search not completed/ && $result =~ /unreached in proctype proof\n\t\(0 of/, $name)
	  or diag(substr $result, 0, 3000);
	$taken{$1}{$2} = 1 while $result =~ /^(transition|delivery): (.+)$/mg;
	return;
}

# With a part of the protocol taken out, something does.
sub judge_missed
{
	my ($result, $name) = @_;

	like($result, qr/^pan:1: (?:assertion violated|non-progress cycle)/m, "found: $name") or diag(substr $result, 0, 3000);
	return;
}

sub holds { my ($name, @defines) = @_; push @cases, [ \&judge_holds, $name, @defines ]; return }
sub is_missed { my ($name, @defines) = @_; push @cases, [ \&judge_missed, $name, @defines ]; return }

# Explores all cases, on as many processors as there are, and judges them in their order.
sub explore_all
{
	my $processors = `nproc` + 0 || 1;
	my @pids;

	foreach my $first (1 .. $processors)
	{
		my $pid = fork // die "fork: $!";
		push @pids, $pid;
		next if $pid;
		for (my $i = $first; $i <= @cases; $i += $processors)
		{
			my (undef, undef, @defines) = @{ $cases[ $i - 1 ] };
			my $result = explore("$dir/$i", @defines);
			open my $out, '>', "$dir/$i.out" or die "$dir/$i.out: $!";
			print $out $result;
			close $out;
		}
		POSIX::_exit(0);
	}
	waitpid $_, 0 foreach @pids;
	foreach my $i (1 .. @cases)
	{
		my ($judge, $name) = @{ $cases[ $i - 1 ] };
		$judge->(-e "$dir/$i.out" ? slurp("$dir/$i.out") : 'not explored', $name);
	}
	return;
}

my @two = qw(ROWS=2 SAME_PHONE=1 CUSTOMERS=3);
my @apart = qw(ROWS=2 CUSTOMERS=3);

holds('one row, changed and deleted; the worker crashes', qw(CHANGES=1 CONTACTS=1 DELETES=1 CRASHES=1 LOSSES=1 LAGS=1 DELIVERIES=2));
holds('one row, refused, locked, in trouble', qw(CHANGES=1 CONTACTS=1 DELETES=1 LOSSES=1 LOCKS=1 TROUBLES=1 REFUSALS=1 DELIVERIES=2));
holds('one row, requests lost one after the other', qw(CHANGES=2 CONTACTS=1 CRASHES=1 LOSSES=2 LAGS=1));
holds('the server crashes, and what was recorded last is not on disk', qw(SERVER_CRASHES=2 CHANGES=1 CONTACTS=1 LOSSES=1));
holds('Adds that are carried out however late, searches that find nothing', qw(LATE_ADDS=1 CHANGES=2 LOSSES=1 LAGS=3));
holds('an answer comes after its worker', qw(LATE_ANSWERS=1 CRASHES=1 CHANGES=2));
holds('a row is deleted while its Add is lost: the history knows its customer', qw(DELETES=1 CRASHES=1 LOSSES=1 LAGS=1 KNOWS_DELETED=1 DELIVERIES=2));
holds('phone and email', qw(EMAILS=1 CONTACTS=1 CRASHES=1 LOSSES=1 LAGS=1));
holds('refusals that name the customer', qw(EMAILS=1 LOSSES=1 TROUBLES=1 NAMES_DUPLICATES=1), @two);
holds('searches by phone or email', qw(EMAILS=1 FINDS_EITHER=1 CRASHES=1), @two);
holds('a customer is there, by phone', qw(SEEDED=1 EMAILS=1 DELETES=1 LOSSES=1 TROUBLES=1 DELIVERIES=2 CUSTOMERS=3));
holds('... by email', qw(SEEDED=2 EMAILS=1 DELETES=1 LOSSES=1 TROUBLES=1 DELIVERIES=2 CUSTOMERS=3));
holds('... by both', qw(SEEDED=3 EMAILS=1 DELETES=1 LOSSES=1 TROUBLES=1 DELIVERIES=2 CUSTOMERS=3));
holds('... by its name', qw(SEEDED=2 EMAILS=1 NAMES_DUPLICATES=1 DELETES=1 LOSSES=1 TROUBLES=1 DELIVERIES=2 CUSTOMERS=3));
holds('phone is one customer, email another one', qw(SEEDED=4 EMAILS=1 DELETES=1 LOSSES=1 DELIVERIES=2 CUSTOMERS=3));
holds('Adds that do not say the id, of rows that are deleted', qw(NAMELESS_ADDS=1 EMAILS=1 LOSSES=1 LAGS=1 DELETES=1 TROUBLES=1 DELIVERIES=2));
holds('Adds that do not say the id', qw(NAMELESS_ADDS=1 EMAILS=1 CHANGES=1 CRASHES=1 LOSSES=1 TROUBLES=1));
holds('likewise, with a phone alone', qw(NAMELESS_ADDS=1 LOSSES=1 LAGS=1 DELETES=1 TROUBLES=1 DELIVERIES=2));
holds('deletions are reported; the worker crashes', qw(ON_DELETE=1 DELETES=1 CHANGES=1 CRASHES=1 LOSSES=1 DELIVERIES=2));
holds('likewise, Kapture takes no request for now', qw(ON_DELETE=1 DELETES=1 CHANGES=1 TROUBLES=2 DELIVERIES=2));
holds('likewise, the server crashes', qw(ON_DELETE=1 SERVER_CRASHES=1 DELETES=1 CHANGES=1 DELIVERIES=2));
holds('likewise, another row has the phone', qw(ON_DELETE=1 DELETES=1 CONTACTS=1 DELIVERIES=3), @two);
holds('likewise, another row gets the key, and finds the customer', qw(ON_DELETE=1 DELETES=1 INSERTS=1 LOSSES=1 CRASHES=1 DELIVERIES=3), @two);
holds('two rows with one phone, which one of them changes; the worker crashes', qw(CONTACTS=1 CRASHES=1 LOSSES=1), @two);
holds('likewise, the server crashes', qw(CONTACTS=1 SERVER_CRASHES=1), @two);
holds('likewise, both change it', qw(CONTACTS=2 LOSSES=1), @two);
holds('likewise, rows are locked, refused and deleted', qw(CONTACTS=1 DELETES=1 LOCKS=1 TROUBLES=1 DELIVERIES=3), @two);
holds('likewise, one is deleted while its Update is lost', qw(CHANGES=1 DELETES=1 LOSSES=1 DELIVERIES=3), @two);
holds('... or in flight as the worker crashes', qw(CHANGES=1 DELETES=1 CRASHES=1 DELIVERIES=3), @two);
holds('two rows with customers, one of which gets the phone of the other; searches lag', qw(SHIFTS=1 CONTACTS=1 LAGS=2), @apart);
holds('likewise, the worker crashes', qw(SHIFTS=1 CRASHES=1 LOSSES=1), @apart);
holds('likewise, with emails, and refusals that do not say of what', qw(SHIFTS=1 CONTACTS=1 LAGS=1 EMAILS=1 VAGUE_DUPLICATES=1), @apart);
holds('likewise, with their emails', qw(SHIFTS=1 SHIFTS_EMAIL=1 EMAILS=1 LAGS=1), @apart);
holds('likewise, searches find nothing', qw(LATE_ADDS=1 SHIFTS=1 LAGS=3), @apart);
holds('likewise, rows are locked', qw(SHIFTS=1 LOCKS=1 TROUBLES=1), @apart);
holds('likewise, one of them is deleted; searches lag', qw(SHIFTS=1 DELETES=1 LAGS=1 DELIVERIES=3), @apart);
holds('likewise, which is reported, when Kapture takes requests again', qw(SHIFTS=1 DELETES=1 ON_DELETE=1 TROUBLES=1 DELIVERIES=3), @apart);
holds('two rows exchange their phones, and one of them gets another one; requests are lost', qw(SWAPS=1 CONTACTS=1 LOSSES=1), @apart);
holds('likewise, one of them is deleted, which is reported', qw(SWAPS=1 DELETES=1 ON_DELETE=1 DELIVERIES=3), @apart);
holds('keys: a row is deleted, another one gets its key, they exchange keys', qw(ROWS=2 INSERTS=1 DELETES=1 REKEYS=1 LOSSES=1 LOCKS=1 DELIVERIES=3 CUSTOMERS=3));
holds('keys: rows exchange them twice; the worker crashes', qw(ROWS=2 REKEYS=2 CRASHES=1 CUSTOMERS=3));

is_missed('no search for a lost Add', qw(FAULT_NO_SEARCH CONTACTS=1 LOSSES=1));
is_missed('one search only', qw(KAPTURE_SEARCHES=1 CONTACTS=1 LOSSES=1 LAGS=1));
is_missed('a change of the row brings the second search forward', qw(FAULT_SEARCH_AT_ONCE CONTACTS=1 LOSSES=1 LAGS=2));
is_missed('the search goes by the phone of now', qw(FAULT_PRESENT_PHONE CONTACTS=1 LOSSES=1));
is_missed('the next request does not wait for one that is late', qw(FAULT_NO_WAIT CHANGES=2 LOSSES=1));
is_missed('digests of what was sent without an answer', qw(FAULT_DIGESTS_OF_DOUBTFUL CHANGES=2 LOSSES=1));
is_missed('an answer without the number of its attempt', qw(FAULT_NO_ATTEMPT LATE_ANSWERS=1 CRASHES=1 CHANGES=2));
is_missed('what changes while its row is sent is dropped', qw(FAULT_NO_AGAIN CHANGES=1));
is_missed('sent before the claim is on disk', qw(FAULT_LAZY_CLAIM SERVER_CRASHES=1 CONTACTS=1));
is_missed('the key is taken for the row', qw(FAULT_KEY_FOR_ROW ROWS=2 INSERTS=1 DELETES=1 DELIVERIES=3 CUSTOMERS=3));
is_missed('an id that could not be written is forgotten', qw(FAULT_ID_FORGOTTEN CONTACTS=1 LOCKS=1));
is_missed('nobody looks who has a customer', qw(FAULT_NO_SHARING), @two);
is_missed('a link is not noted before its Update is sent', qw(FAULT_LINK_NOT_NOTED CONTACTS=1 CRASHES=1 LOSSES=1), @two);
is_missed('an id that was written with a failure is nowhere else', qw(FAULT_WRITTEN_NOT_KEPT LOSSES=2), @two);
is_missed('a holder that is not written yet is not noted, nor does it free its customer when it is gone', qw(FAULT_HOLDER_NOT_NOTED FAULT_GONE_FREES_NOT DELETES=1 LOCKS=1 DELIVERIES=3), @two);
is_missed('an old finding is believed', qw(FAULT_OLD_FINDING CONTACTS=1 LOSSES=1), @two);
is_missed('a link frees nothing', qw(FAULT_LINK_FREES_NOT CONTACTS=1 CRASHES=1 LOSSES=1), @two);
is_missed('a row that waits for another one is in doubt for ever', qw(FAULT_YIELD_IN_DOUBT CONTACTS=1 LOSSES=1), @two);
is_missed('the Update of a deleted row overtakes the next one', qw(FAULT_GONE_IN_FLIGHT DELETES=1 INSERTS=1 CONTACTS=1 LOCKS=1 DELIVERIES=3), @two);
is_missed('the deletion of a row for whose customer another one waits is not reported', qw(FAULT_WANTED_NOT_REPORTED ON_DELETE=1 DELETES=1 CONTACTS=1 DELIVERIES=3), @two);
is_missed('nobody looks whose the phone of a refused Update is', qw(FAULT_SEEKS_NOT SHIFTS=1), @apart);
is_missed('a row waits for one that has moved on', qw(FAULT_OLD_HOLDER SHIFTS=1), @apart);
is_missed('a row does not wait for one that is just getting the customer', qw(FAULT_HOLDER_TO_COME SHIFTS=1), @apart);
is_missed('a row that is deleted while it looks whose its phone is loses its customer', qw(FAULT_GONE_SEEKS SHIFTS=1 DELETES=1 ON_DELETE=1 DELIVERIES=3), @apart);
is_missed('a row that is deleted gives its phone away, of which nobody learns', qw(FAULT_GONE_FREES_NOT SHIFTS=1 DELETES=1 DELIVERIES=3), @apart);
is_missed('a row waits for the phone of one that is deleted', qw(FAULT_DELETED_HOLDER SHIFTS=1 DELETES=1 DELIVERIES=3), @apart);
is_missed('the lost Update of a deleted row is carried out on the customer of the next one', qw(FAULT_LATE_UPDATE_OF_GONE CHANGES=1 DELETES=1 LOSSES=1 DELIVERIES=3), @two);
is_missed('the deletion of a row is reported whoever has its customer', qw(FAULT_REPORTS_ALL ON_DELETE=1 DELETES=1 INSERTS=1 DELIVERIES=3), @two);

explore_all();

# the page has the transitions that there are, and no others
is(join("\n", transitions($top, 'delivery')), join("\n", sort keys %{ $taken{delivery} }), 'docs/dev/protocol.md has the transitions of deliveries');
is(join("\n", transitions($top, 'task')), join("\n", sort keys %{ $taken{transition} }), 'docs/dev/protocol.md has the transitions of tasks');

done_testing();
