# Customer tables of real applications, attached as they are: what Kapture holds of
# them at first and after what the application does.
#
# Each file of test/schemas is one case, in sections that begin with lines like
# "-- @tables": tables and rows, what a DBA writes to attach them, which customers
# Kapture must hold then, which rows must be parked, which texts must never leave;
# then changes, what must be there after them, and what they may cost.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $dir = abs_path("$FindBin::RealBin/../schemas");
my @fields = qw(customer_name phone email_id country state city zone campaign_name secSource tertSource customer_assign_emp_code
  customer_assign_emp_name customer_assign_emp_email contact_person_name contact_person_phone contact_person_email
  additional_contact_phone country_code gender);

# The sections of a case: name => text; lines with arguments ("-- @servers a, b") likewise.
sub sections
{
	my ($file) = @_;
	my %sections;
	my $name;
	foreach my $line (split /^/, slurp_file($file))
	{
		if ($line =~ /^-- \@(\w+) *(.*?)\s*$/)
		{
			$name = $1;
			$sections{$name} = $2;
			next;
		}
		$sections{$name} .= $line if defined $name && $name !~ /^(servers|relations)$/;
	}
	return %sections;
}

# One psql script's statements, each by itself, but for those between BEGIN and COMMIT.
sub statements
{
	my ($text) = @_;
	my (@statements, $statement, $in_transaction);
	foreach my $line (split /^/, $text)
	{
		$line =~ s/(;)?[ \t]*-- .*$/$1 || ''/e;
		next unless $line =~ /\S/ || $statement;
		$statement .= $line;
		$in_transaction = 1 if $line =~ /^BEGIN;/;
		$in_transaction = 0 if $line =~ /^COMMIT;/;
		next if $in_transaction || $line !~ /;\s*$/;
		push @statements, $statement;
		$statement = '';
	}
	return @statements;
}

# A case: its node, database, emulators by server.
sub idle_ok
{
	my ($case, $name) = @_;
	my $last = '';
	poll_ok($case->{node}, "SELECT coalesce(bool_and(pending + in_flight + retrying = 0), false) FROM kapture_status", "$case->{name}: $name", $case->{db});
	# and the counters stand still
	wait_for(sub {
			my $now = join ' ', map { scalar @{ emulator_get($case->{emulators}{$_}, 'log') } } sort keys %{ $case->{emulators} };
			my $still = $now eq $last;
			$last = $now;
			usleep(100_000) unless $still;
			return $still;
		}, 'the requests to end');
	return;
}

# What Kapture holds: a line for each customer, of the fields that are not empty.
sub line_of
{
	my ($server, $customer) = @_;
	return join ', ', $server, map { "$_=$customer->{$_}" } grep { ($customer->{$_} // '') ne '' } @fields;
}

sub held
{
	my ($case) = @_;
	my @lines;
	foreach my $server (sort keys %{ $case->{emulators} })
	{
		push @lines, map { line_of($server, $_) } @{ emulator_get($case->{emulators}{$server}, 'customers') };
	}
	return sort @lines;
}

# Compares what is there with a table of expected rows: those without a group are all there, of
# a group exactly n.
sub compare
{
	my ($case, $table, $line, $there, $name) = @_;
	my %there;
	my (%group, %wanted, @wrong);

	$there{$_}++ foreach @$there;
	foreach my $json (split /\n/, $case->{node}->safe_psql($case->{db}, "SELECT row_to_json(e) FROM $table AS e"))
	{
		my $row = decode_json($json);
		my $text = $line->($row);
		if (defined $row->{group_id})
		{
			$group{ $row->{group_id} }{n} = $row->{n};
			$group{ $row->{group_id} }{found} += $there{$text} ? delete $there{$text} : 0;
			next;
		}
		push @wrong, "missing: $text" unless delete $there{$text};
	}
	push @wrong, map { "group $_: $group{$_}{found} instead of $group{$_}{n}" } grep { $group{$_}{found} != $group{$_}{n} } sort keys %group;
	push @wrong, map { "too many: $_" } sort keys %there;
	return is(join("\n", @wrong), '', "$case->{name}: $name");
}

sub check_state
{
	my ($case, $suffix, $when) = @_;
	my @servers = sort keys %{ $case->{emulators} };
	my @parked = split /\n/, $case->{node}->safe_psql($case->{db}, "SELECT relation::regclass::oid || ' ' || row_key FROM kapture_failures WHERE state = 'parked'");

	compare($case, "expected$suffix", sub { my ($row) = @_; line_of($row->{server} // $servers[0], $row) }, [ held($case) ], "customers $when");
	compare($case, "(SELECT relation::regclass::oid AS relation, row_key, group_id, n FROM expected${suffix}_parked)",
		sub { "$_[0]{relation} $_[0]{row_key}" }, \@parked, "parked rows $when");
	return;
}

sub count_requests
{
	my ($case) = @_;
	my %n;
	foreach my $emulator (values %{ $case->{emulators} })
	{
		$n{ $_->{api} }++ foreach @{ emulator_get($emulator, 'log') };
	}
	return %n;
}

# No body of any request has a text that is to stay at home.
sub check_never
{
	my ($case) = @_;
	my @leaked;
	foreach my $never (split /\n/, $case->{node}->safe_psql($case->{db}, "SELECT value FROM expected_never"))
	{
		foreach my $emulator (values %{ $case->{emulators} })
		{
			push @leaked, "$never: $_->{body}" foreach grep { index($_->{body}, $never) >= 0 } @{ emulator_get($emulator, 'log') };
		}
	}
	return is(join("\n", @leaked), '', "$case->{name}: what is to stay home never leaves");
}

sub check_costs
{
	my ($case, %before) = @_;
	my %after = count_requests($case);
	my %max = map { split /\|/ } split /\n/, $case->{node}->safe_psql($case->{db}, "SELECT api, max FROM expected_requests");
	my @wrong;
	foreach my $api (sort keys %after)
	{
		my $n = $after{$api} - ($before{$api} || 0);
		push @wrong, "$api: $n, at most " . ($max{$api} || 0) if $n > ($max{$api} || 0);
	}
	return is(join("\n", @wrong), '', "$case->{name}: the changes cost no more requests than they may");
}

sub run_case
{
	my ($node, $file) = @_;
	my ($name) = $file =~ m{([^/]+)\.sql$};
	my %section = sections($file);
	my @servers = split /, */, $section{servers} || 'kapture';
	my $case = { name => $name, node => $node, db => "case_$name" =~ tr/-/_/r };
	my $sql = sub { return $node->safe_psql($case->{db}, $_[0]) };

	$node->safe_psql('postgres', "CREATE DATABASE $case->{db}");
	$sql->($section{tables});
	$sql->("CREATE EXTENSION kapture_sync");
	foreach my $server (@servers)
	{
		$case->{emulators}{$server} = start_emulator();
		$sql->("CREATE SERVER $server FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$case->{emulators}{$server}{url}')");
		$sql->("CREATE USER MAPPING FOR PUBLIC SERVER $server OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
	}
	$sql->($section{attach});
	my $foretold = $sql->("SELECT count(*) FILTER (WHERE action = 'add') || ' added, ' || count(*) FILTER (WHERE action = 'refuse') || ' parked'"
		  . " FROM kapture_attachments AS a, kapture_dry_run(a.relation, a.columns, a.filter, a.source::regclass, a.server)");
	is($sql->("SELECT count(*) FILTER (WHERE action = 'add') || ' added, ' || count(*) FILTER (WHERE action = 'refuse') || ' parked'"
		  . " FROM kapture_attachments AS a, kapture_dry_run(a.relation, name => a.name)"), $foretold, "$name: a dry run goes by the attachment");
	$sql->("CALL kapture_backfill('$_')") foreach split /, */, $section{relations};
	idle_ok($case, 'the first sync ends');
	$sql->($section{expected});
	check_state($case, '', 'at first');
	my %first = count_requests($case);
	is($sql->("SELECT count(*) FILTER (WHERE action = 'add') FROM kapture_history") . ' added, '
		  . $sql->("SELECT count(*) FROM kapture_failures WHERE state = 'parked'") . ' parked', $foretold, "$name: as the dry run said");
	my ($most) = $sql->("SELECT count(*) FROM expected");
	ok(($first{add} || 0) <= $most && !$first{update}, "$name: the first sync costs an Add for each customer, no Update");

	foreach my $statement (statements($section{changes}))
	{
		$sql->($statement);
		usleep(20_000);
	}
	idle_ok($case, 'the changes end');
	$sql->($section{expected_after});
	check_state($case, 2, 'after the changes');
	check_costs($case, %first);
	check_never($case);
	stop_emulator($_) foreach values %{ $case->{emulators} };
	$sql->("DROP EXTENSION kapture_sync CASCADE");
	return;
}

my $node = new_node('schemas');
my @files = sort glob("$dir/*.sql");
is(scalar @files, 22, 'the cases are there');
foreach my $file (@files)
{
	my ($name) = $file =~ m{([^/]+)\.sql$};
	next if $ENV{KAPTURE_SCHEMA} && $name !~ /$ENV{KAPTURE_SCHEMA}/;
	eval { run_case($node, $file); 1 } or fail("$name: $@");
}
$node->stop;
done_testing();
