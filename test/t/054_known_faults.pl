# What several things at once used to break: outages that many requests met, pulls beside
# Adds in doubt, and other keys of rows.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use POSIX qw(strftime);
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator);
create_customers($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

#
# An outage counts once, however many requests meet it
#

my $adds = 16;
sql("ALTER SERVER kapture OPTIONS (ADD max_connections '$adds')");
emulator_faults($emulator, { api => 'add', action => 'hang', count => $adds });
sql("INSERT INTO customers (customer_name, phone) SELECT 'Short ' || i, (9500000000 + i)::text FROM generate_series(1, $adds) i");
wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} == $adds }, 'all Adds to be in flight');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_delivery WHERE failures = 0", 'all of many requests in flight fail');
# were each of them counted, this would be half a minute
is(sql("SELECT coalesce(server_retry_at, '-infinity') < now() + interval '2 seconds' FROM kapture_status"), 't', 'the server is probed soon all the same');
poll_ok($node, "SELECT count(kapture_customer_id) = $adds FROM customers", 'and everything goes on');
oracle_ok($node, $emulator, 'nothing was added twice');

#
# A pull beside an Add that is in flight or in doubt, in another table of the server
#

sub customer_of
{
	my ($phone) = @_;
	my ($id) = map { $_->{kapture_customer_id} } grep { $_->{phone} eq $phone } @{ emulator_get($emulator, 'customers') };
	return $id;
}

# Has what Kapture has pulled.
sub refresh
{
	my @days = map { strftime('%Y-%m-%d', gmtime(time + 19800 + 86400 * $_)) } -1, 1;
	return sql("CALL kapture_refresh('$days[0]', '$days[1]', restart => true)");
}

# The customer with that phone waits for a row of the other table, and is not its own.
sub waits_ok
{
	my ($phone, $name) = @_;
	refresh();
	poll_ok($node, "SELECT message = 'a row with this phone or email is being added to Kapture' FROM kapture_pull_failures"
		  . " WHERE relation = 'contacts'::regclass AND customer_id = " . customer_of($phone), "$name: a pulled customer waits");
	is(sql("SELECT count(*) FROM contacts WHERE kapture_customer_id = " . customer_of($phone)), '0', 'and is no row of another table yet');
	return;
}

sub has_own_ok
{
	my ($phone, $name) = @_;
	poll_ok($node, "SELECT kapture_customer_id = " . customer_of($phone) . " FROM customers WHERE phone = '$phone'", "$name: the row whose Add has made it gets it");
	is(sql("SELECT count(*) FROM kapture_failures"), '0', 'nothing is parked');
	poll_ok($node, "SELECT kapture_customer_id = " . customer_of($phone) . " FROM contacts WHERE phone = '$phone'", 'then it is pulled into the other table');
	return;
}

sql(q(CREATE TABLE contacts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
	INSERT INTO contacts (customer_name, phone) VALUES ('Known here', '9510000003');
	SELECT kapture_attach('contacts', pull => true)));
hold_adds($node, $emulator);
sql("INSERT INTO customers (customer_name, phone) VALUES ('In flight', '9510000001')");
wait_for(sub { customer_of('9510000001') }, 'the Add');
waits_ok('9510000001', 'in flight');
release_adds($node, $emulator);
has_own_ok('9510000001', 'in flight');

foreach my $phone ('9510000002', '9510000003')
{
	my $name = $phone eq '9510000002' ? 'in doubt' : 'in doubt, beside a row without an id';
	emulator_faults($emulator, { api => 'add', action => 'drop_after', match => $phone }, { api => 'get', action => 'status', code => 503 });
	sql("INSERT INTO customers (customer_name, phone) VALUES ('In doubt', '$phone')");
	poll_ok($node, "SELECT state = 'retry' AND in_doubt IS NOT NULL FROM kapture_delivery WHERE sent_phone = '$phone'", "an Add whose answer is lost");
	waits_ok($phone, $name);
	emulator_faults($emulator);
	has_own_ok($phone, $name);
}
oracle_ok($node, $emulator, 'nothing was added twice');
sql("SELECT kapture_detach('contacts')");

$node->stop;
done_testing();
