# Owners who share a server take turns: nobody's rows or calls wait for all that
# another one has queued, whether that are rows or calls.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $many = 2000;
my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator, options => "max_connections '2'");

shorthand($node, $emulator, qw(sql));

foreach my $role ('alice', 'mallory')
{
	sql(qq(CREATE ROLE $role LOGIN; CREATE SCHEMA AUTHORIZATION $role; GRANT USAGE ON FOREIGN SERVER kapture TO $role;
  CREATE USER MAPPING FOR $role SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
  SET ROLE $role; CREATE TABLE $role.customers (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
  SELECT kapture_attach('$role.customers')));
}

# Nothing is left of anybody's.
sub fresh
{
	emulator_faults($emulator);
	sql("DELETE FROM kapture_call_queue WHERE state = 'waiting'");
	sql("TRUNCATE alice.customers, mallory.customers");
	poll_ok($node, "SELECT count(*) = 0 FROM kapture_calls WHERE state IN ('waiting', 'sending')", 'no calls wait');
	poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", 'nor rows');
	emulator_post($emulator, 'reset', {});
	# each request takes a moment, so that what is queued lasts
	emulator_faults($emulator, { action => 'delay', ms => 20 });
	return;
}

my %queue = (
	calls => sub { "SELECT kapture_send('ticket_add', jsonb_build_object('title', '$_[0] ' || i)) FROM generate_series(1, $_[1]) i" },
	'calls of many APIs' =>
	  sub { "SELECT kapture_send('/add-ticket-from-other-source.html/v.2.0?n=' || i % 50, jsonb_build_array(jsonb_build_object('title', '$_[0] ' || i))) FROM generate_series(1, $_[1]) i" },
	rows => sub { "INSERT INTO $_[0].customers SELECT i, '$_[0]', '9' || (800000000 + i + CASE '$_[0]' WHEN 'alice' THEN 100000 ELSE 0 END) FROM generate_series(1, $_[1]) i" });
my $waiting = "SELECT (SELECT count(*) FROM kapture_calls WHERE state = 'waiting' AND sender = 'mallory'::regrole)"
  . " + (SELECT count(*) FROM mallory.customers WHERE kapture_customer_id IS NULL)";
my %done = (
	calls => "SELECT count(*) = 5 FROM kapture_calls WHERE state = 'done' AND sender = 'alice'::regrole",
	rows => "SELECT count(*) = 5 FROM alice.customers WHERE kapture_customer_id IS NOT NULL");

foreach my $mallorys (sort keys %queue)
{
	foreach my $alices ('calls', 'rows')
	{
		fresh();
		sql("DELETE FROM kapture_call_queue");
		sql('SET ROLE mallory; ' . $queue{$mallorys}->('mallory', $many));
		poll_ok($node, "SELECT $many - ($waiting) > 10", "mallory's $mallorys are being sent");
		my $before = sql($waiting);
		sql('SET ROLE alice; ' . $queue{$alices}->('alice', 5));
		poll_ok($node, $done{$alices}, "alice's $alices are sent beside them");
		my $after = sql($waiting);
		cmp_ok($after, '>', $many / 2, "while most of mallory's $mallorys wait ($before before, $after now)");
	}
}

# --- and mallory is not kept from what others leave
fresh();
sql("DELETE FROM kapture_call_queue");
sql('SET ROLE alice; ' . $queue{calls}->('alice', $many));
sql('SET ROLE mallory; ' . $queue{rows}->('mallory', 5) . '; ' . $queue{calls}->('mallory', 5));
poll_ok($node, "$waiting = 0", 'rows and calls of one owner go beside calls of another');
cmp_ok(sql("SELECT count(*) FROM kapture_calls WHERE state = 'waiting'"), '>', $many / 2, 'of which most wait');

$node->stop;
done_testing();
