# What several things at once used to break: outages that many requests met, pulls beside
# Adds in doubt, and other keys of rows.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
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

$node->stop;
done_testing();
