# Rows whose key, phone and values change again and again while their requests
# are under way, late, lost or in doubt: one customer for each row, with its last
# values.
#
#	KAPTURE_FAULT_SEED		repeats the choices of an earlier run
#	KAPTURE_MOVING_ROUNDS	default 25
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use KaptureTest;
use Test::More;

my $seed = $ENV{KAPTURE_FAULT_SEED} || int(rand(2**31));
my $rounds = $ENV{KAPTURE_MOVING_ROUNDS} || 25;
note("KAPTURE_FAULT_SEED=$seed");
my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
srand $seed;
setup_sync($node, $emulator, options => "max_connections '8'");

sql(q(
ALTER SERVER kapture OPTIONS (SET timeout '1s');
CREATE SEQUENCE keys;
CREATE TABLE customers (id bigint PRIMARY KEY DEFAULT nextval('keys'), n bigint UNIQUE, customer_name text, phone text, city text);
SELECT kapture_attach('customers');
));

my $key = "UPDATE customers SET id = nextval('keys') WHERE n = %d;";
my $phone = "UPDATE customers SET phone = translate(left(phone, 1), '89', '98') || substr(phone, 2) WHERE n = %d;";
my $city = "UPDATE customers SET city = 'city ' || random() WHERE n = %d;";
my @changes = ($key, $phone, $city, "$key $phone $city", "$key $key $phone", "BEGIN; $key $phone $key COMMIT;",
	"BEGIN; UPDATE customers SET id = -id WHERE n = %d; $phone UPDATE customers SET id = -id WHERE n = %d; COMMIT;");

# Each round inserts some rows, and changes some of the latest.
sub play
{
	my ($n, @faults) = @_;
	for my $round (1 .. $rounds)
	{
		emulator_faults($emulator, map { { %{ $faults[ rand @faults ] }, probability => 0.2 } } 1 .. 2);
		my $script = '';
		for (1 .. 8)
		{
			$n++;
			$script .= "INSERT INTO customers (n, customer_name, phone) VALUES ($n, 'row $n', '9' || lpad('$n', 9, '0'));\n";
			my $row = $n - int rand 16;
			$script .= 'SELECT pg_sleep(' . (rand 0.15) . ");\n" if rand() < 0.5;
			$script .= ($changes[ rand @changes ] =~ s/%d/$row > 0 ? $row : 1/ger) . "\n";
		}
		sql($script);
	}
	return $n;
}

sub judge
{
	my ($name) = @_;
	emulator_faults($emulator);
	wait_for(sub { sql("SELECT kapture_retry('customers'); SELECT pending + in_flight + retrying + parked = 0 FROM kapture_status") =~ /^t\z/m },
		'everything to be sent');
	my %local = map { my $row = decode_json($_); ($row->{customer_name} => $row) } split /\n/, sql('SELECT row_to_json(c) FROM customers c');
	my (@wrong, %seen);
	foreach my $customer (@{ emulator_get($emulator, 'customers') })
	{
		my $who = $customer->{customer_name};
		my $row = $local{$who};
		push @wrong, "$who is there twice" if $seen{$who}++;
		push @wrong, "$who has id " . ($row->{kapture_customer_id} // 'none') . ", Kapture says $customer->{kapture_customer_id}"
		  if ($row->{kapture_customer_id} // 0) != $customer->{kapture_customer_id};
		foreach my $field (qw(phone city))
		{
			push @wrong, "$who: $field is '" . ($row->{$field} // '') . "', Kapture has '" . ($customer->{$field} // '') . "'"
			  if ($row->{$field} // '') ne ($customer->{$field} // '');
		}
	}
	push @wrong, map { "$_ is missing" } grep { !$seen{$_} } sort keys %local;
	is(join("\n", @wrong), '', $name) or diag("KAPTURE_FAULT_SEED=$seed");
	return;
}

my $n = play(0, { action => 'drop_after' }, { action => 'truncate' });
judge('after lost answers');
$n = play($n, { action => 'status', code => 500 }, { action => 'drop_before' });
judge('after failures');
$n = play($n, { action => 'hang' }, { action => 'delay', ms => 100 }, { action => 'late', ms => 200 });
judge('after slow ones');
is(sql('SELECT count(*) FROM customers'), $n, 'there were rows');

$node->stop;
done_testing();
