# What small mistakes in the source would do that other tests do not notice: whose row
# an answer is when others are locked, a retry of what is in flight, a time zone and a
# key of PUBLIC that change.  (docs/dev/mutants.md)
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator, options => "max_connections '40'");
create_customers($node);

shorthand($node, $emulator, qw(sql));

# whenever a table is analyzed, the worker looks at all that waits, and makes up for what it has forgotten
sql("ALTER SYSTEM SET autovacuum = off");
sql("SELECT pg_reload_conf()");

my $idle = "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status";

# the requests of an API so far
sub requests
{
	my ($api) = @_;
	return grep { $_->{api} eq $api } @{ emulator_get($emulator, 'log') };
}

#
# Answers that come together while every second row is locked
#

hold_adds($node, $emulator);
sql("INSERT INTO customers (customer_name, phone) SELECT 'Row ' || i, (9700000000 + i)::text FROM generate_series(1, 40) i");
poll_ok($node, "SELECT in_flight = 40 FROM kapture_status", 'forty rows are being added');
my $locker = $node->background_psql('postgres');
$locker->query_safe("BEGIN; SELECT FROM customers WHERE id % 2 = 1 FOR UPDATE");
release_adds($node, $emulator);
poll_ok($node, "SELECT count(kapture_customer_id) = 20 FROM customers WHERE id % 2 = 0", 'those that are free have their ids');
poll_ok($node, "SELECT count(*) = 20 FROM kapture_failures WHERE row_key::int % 2 = 1 AND message LIKE 'the row is locked%'", 'the locked ones wait');
is(sql("SELECT count(*) FROM kapture_failures WHERE row_key::int % 2 = 0"), '0', 'and no other');
is(sql("SELECT count(*) FROM kapture_history WHERE row_key::int % 2 = 1"), '0', 'none of which is called done');
$locker->query_safe('COMMIT');
$locker->quit;
poll_ok($node, "SELECT count(kapture_customer_id) = 40 FROM customers", 'once they are free, they have theirs');
poll_ok($node, $idle, 'and nothing is left');
oracle_ok($node, $emulator, 'each has its own');
is(scalar(requests('add')), 40, 'and was added once');

# rows that go, and rows that got an id from elsewhere, while answers for them come together
sql('DELETE FROM customers');
poll_ok($node, $idle, 'the rows are deleted');
hold_adds($node, $emulator);
sql("INSERT INTO customers (customer_name, phone) SELECT 'More ' || i, (9710000000 + i)::text FROM generate_series(1, 40) i");
poll_ok($node, "SELECT in_flight = 40 FROM kapture_status", 'forty more are being added');
sql("DELETE FROM customers WHERE customer_name LIKE 'More %1'");
release_adds($node, $emulator);
poll_ok($node, $idle, 'of which some are deleted meanwhile');
is(sql("SELECT count(*), count(kapture_customer_id), count(DISTINCT kapture_customer_id) FROM customers"), '36|36|36', 'the others have ids');
my %name_of = map { $_->{kapture_customer_id} => $_->{customer_name} } @{ emulator_get($emulator, 'customers') };
my @strange = grep { my ($id, $name) = split /\|/; $name_of{$id} ne $name } split /\n/, sql("SELECT kapture_customer_id, customer_name FROM customers");
is("@strange", '', 'of their own customers');

#
# A row that is to be tried again, as another one is parked
#

my $patient = sql("SELECT min(id) FROM customers");
emulator_faults($emulator, { api => 'update', action => 'status', code => 503 });
sql("UPDATE customers SET city = 'Salem' WHERE id = $patient");
poll_ok($node, "SELECT retrying = 1 AND in_flight = 0 FROM kapture_status", 'an Update fails');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Refused', 'abc')");
poll_ok($node, "SELECT parked = 1 FROM kapture_status", 'meanwhile, another row is parked');
emulator_faults($emulator);
poll_ok($node, $idle, 'the Update is not forgotten for that');
sql("DELETE FROM customers WHERE customer_name = 'Refused'");
poll_ok($node, "SELECT sum(pending + parked) = 0 FROM kapture_status", 'the other row is gone');

#
# A retry, or giving up, of what is in flight
#

sql("INSERT INTO customers (customer_name, phone) VALUES ('Wrong', 'abc')");
poll_ok($node, "SELECT parked = 1 FROM kapture_status", 'a row is parked');
my $wrong = sql("SELECT id FROM customers WHERE customer_name = 'Wrong'");
hold_adds($node, $emulator);
sql("UPDATE customers SET phone = '9720000001' WHERE id = $wrong");
poll_ok($node, "SELECT in_flight = 1 AND parked = 0 FROM kapture_status", 'corrected, it is being added');
wait_for(sub { return grep { ($_->{phone} || '') eq '9720000001' } @{ emulator_get($emulator, 'customers') } }, 'the customer to be there');
is(sql("SELECT last_error IS NOT NULL FROM kapture_delivery WHERE row_key = '$wrong'"), 't', 'with its failure still on record');
is(sql("SELECT kapture_retry('customers'), kapture_discard('customers')"), '0|0', 'which is no reason to retry, or to give up, what is in flight');
is(sql("SELECT kapture_retry('customers', $wrong), kapture_discard('customers', $wrong)"), '0|0', 'by its key neither');
is(sql("SELECT state FROM kapture_delivery WHERE row_key = '$wrong'"), 'sending', 'it is in flight still');
release_adds($node, $emulator);
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = $wrong", 'its id is written');
poll_ok($node, $idle, 'and nothing is left');
is(scalar(grep { ($_->{phone} || '') eq '9720000001' } @{ emulator_get($emulator, 'customers') }), 1, 'it was added once');

#
# A claim that fails takes back that rows whose try was due were claimed
#

emulator_faults($emulator, { api => 'update', action => 'status', code => 400, body => '{"message": "Invalid city", "status": "failed"}', count => 1 });
sql("UPDATE customers SET city = 'Goa' WHERE id = $wrong");
poll_ok($node, "SELECT parked = 1 FROM kapture_status", 'an update is refused');
$locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE kapture_row IN ACCESS EXCLUSIVE MODE');
sql("SELECT kapture_retry('customers', $wrong)");
my $waits = "FROM pg_locks WHERE NOT granted AND relation = 'kapture_row'::regclass AND pid = kapture_worker_pid()";
poll_ok($node, "SELECT count(*) = 1 $waits", 'as it is due, the worker waits for a lock');
poll_ok($node, "SELECT count(*) = 0 $waits", 'in vain');
$locker->query_safe('COMMIT');
$locker->quit;
poll_ok($node, $idle, 'once the table is free, the row is claimed');
is((grep { ($_->{phone} || '') eq '9720000001' } @{ emulator_get($emulator, 'customers') })[0]{city}, 'Goa', 'and sent');

#
# What changes while a row waits, or while what became of it is recorded, is sent with the rest
#

my ($nth, $others) = (0, sql("SELECT string_agg(id::text, ', ') FROM (SELECT id FROM customers WHERE id <> $wrong AND kapture_customer_id IS NOT NULL ORDER BY id LIMIT 2) AS o"));
sql(q(CREATE PROCEDURE await(condition text) LANGUAGE plpgsql AS $$
DECLARE done boolean;
BEGIN
	LOOP
		EXECUTE 'SELECT ' || condition INTO done;
		EXIT WHEN done;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$));

# Has a row's city change, and its name when the conditions hold, one after the other; in
# the end Kapture has both.  In one session, as an answer comes a moment later.
sub both_arrive
{
	my ($name, $first, $then, @conditions) = @_;
	$nth++;
	sql("SET statement_timeout = '90s'; $first; UPDATE customers SET city = 'City $nth' WHERE id = $wrong; CALL await('$conditions[0] FROM kapture_status');"
		  . "UPDATE customers SET customer_name = 'Name $nth' WHERE id = $wrong;"
		  . ($conditions[1] ? "CALL await('count(*) = 1 FROM kapture_delivery WHERE $conditions[1]')" : ''));
	$then->() if $then;
	poll_ok($node, $idle, "$name: a row is changed twice");
	my ($there) = grep { ($_->{phone} || '') eq '9720000001' } @{ emulator_get($emulator, 'customers') };
	is("$there->{city}, $there->{customer_name}", "City $nth, Name $nth", 'Kapture has both changes');
	return;
}
my $noted = 'again IS NOT NULL';
my %failing = (api => 'update', action => 'status', code => 503, count => 1);
emulator_faults($emulator, {%failing});
both_arrive('it waits for another try', 'SELECT 1', undef, 'retrying = 1');
emulator_faults($emulator, { %failing, ms => 1000 });
both_arrive('it is under way, and fails', 'SELECT 1', undef, 'in_flight = 1', $noted);
emulator_faults($emulator, { api => 'update', action => 'delay', ms => 1500, count => 1 });
both_arrive('it is under way, and the worker ends', 'SELECT 1', sub { restart_worker($node) }, 'in_flight = 1', $noted);
sql("ALTER SERVER kapture OPTIONS (SET max_connections '2')");
emulator_faults($emulator, { %failing, ms => 1500, headers => { 'Retry-After' => '1' }, count => 2 });
both_arrive('it is claimed, and its server wants to be left alone', "UPDATE customers SET city = 'Slow' WHERE id IN ($others); CALL await('in_flight = 2 FROM kapture_status')",
	undef, 'in_flight = 3', $noted);
sql("ALTER SERVER kapture OPTIONS (SET max_connections '40')");
emulator_faults($emulator);

# what is said to have waited since then did so since the first of its changes
sql("SELECT kapture_pause('customers'); UPDATE customers SET city = 'Early' WHERE id = $wrong");
my $captured = sql('SELECT min(captured_at) FROM kapture_outbox');
sql("UPDATE customers SET city = 'Late' WHERE id = $wrong; SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'two changes are sent as one');
is(sql("SELECT captured_at = '$captured' FROM kapture_history ORDER BY finished_at DESC LIMIT 1"), 't', 'which is as old as the first of them');

# the row gets another key, too
emulator_faults($emulator, { api => 'update', action => 'delay', ms => 1500, count => 1 });
both_arrive('it is under way, and gets another key', 'SELECT 1', undef, 'in_flight = 1', "$noted'); UPDATE customers SET id = DEFAULT WHERE id = $wrong; CALL await('count(*) = 1 FROM kapture_delivery WHERE $noted");
#
# A time zone that changes: what is sent from then on has times in the new one
#

sql(q(CREATE TABLE visits (id int PRIMARY KEY, customer_name text, phone text, seen timestamptz);
SELECT kapture_attach('visits', '{"customer_name": "customer_name", "phone": "phone", "zone": "seen"}');
INSERT INTO visits VALUES (1, 'Visitor', '9730000001', '2021-03-14 08:51:11+00')));
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM visits", 'a row with a time is sent');
my $visitor = sql("SELECT kapture_customer_id FROM visits");
sub zone_sent { return emulator_get($emulator, "customers?id=$visitor")->[0]{zone} }
is(zone_sent(), '2021-03-14 14:21:11+05:30', 'with the time of the account');
sql("ALTER SERVER kapture OPTIONS (ADD timezone 'America/New_York')");
sql("UPDATE visits SET seen = '2021-03-20 08:00:00+00'");
wait_for(sub { return zone_sent() =~ /^2021-03-20/ }, 'the update to be there');
is(zone_sent(), '2021-03-20 04:00:00-04', 'after the time zone has changed, with that of the new one');
sql("ALTER SERVER kapture OPTIONS (SET timezone 'Europe/Berlin')");
sql("UPDATE visits SET seen = '2021-03-21 08:00:00+00'");
wait_for(sub { return zone_sent() =~ /^2021-03-21/ }, 'the next update to be there');
is(zone_sent(), '2021-03-21 09:00:00+01', 'once more');

#
# The expressions of a row outside the filter are not evaluated, which may be what it is for
#

sql(q(CREATE TABLE shares (id int PRIMARY KEY, customer_name text, phone text, n int);
SELECT kapture_attach('shares', columns => '{"customer_name": "customer_name", "phone": "phone", "zone": {"expression": "(100 / n)::text"}}', filter => 'n <> 0');
INSERT INTO shares VALUES (1, 'Inside', '9750000001', 4), (2, 'Outside', '9750000002', 0)));
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM shares WHERE id = 1", 'a row inside the filter is sent');
poll_ok($node, $idle, 'and nothing is left');
is(sql("SELECT parked, (SELECT kapture_customer_id IS NULL FROM shares WHERE id = 2) FROM kapture_status WHERE relation = 'shares'::regclass"), '0|t',
	'the one outside is neither sent nor at fault');

#
# Customers of two accounts with one id are two
#

my $twin = start_emulator();
sql(qq(CREATE SERVER twin FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$twin->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER twin OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE twins (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('twins', server => 'twin')));
emulator_post($emulator, 'seed', [ { kapture_customer_id => 777, customer_name => 'One', phone => '9760000001' } ]);
emulator_post($twin, 'seed', [ { kapture_customer_id => 777, customer_name => 'Other', phone => '9760000002' } ]);
emulator_faults($emulator, { api => 'update', action => 'delay', ms => 1500 });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Here', '9760000001')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE customer_id = 777", 'a row is being linked to a customer');
sql("INSERT INTO twins VALUES (1, 'There', '9760000002')");
poll_ok($node, "SELECT kapture_customer_id = 777 FROM twins", 'another one to one of another account');
is(sql("SELECT attempts FROM kapture_history WHERE relation = 'twins'::regclass"), '1', 'which waits for nothing');
poll_ok($node, $idle, 'and nothing is left');
emulator_faults($emulator);
emulator_post($emulator, 'seed', [ { kapture_customer_id => 778, customer_name => 'No row', phone => '9760000003' } ]);
emulator_post($twin, 'seed', [ { kapture_customer_id => 778, customer_name => 'Other', phone => '9760000004' } ]);
sql("INSERT INTO twins VALUES (2, 'There', '9760000004')");
poll_ok($node, "SELECT kapture_customer_id = 778 FROM twins WHERE id = 2", 'one more is linked there');
sql("UPDATE customers SET phone = '9760000003' WHERE customer_name = 'Here'");
poll_ok($node, "SELECT state = 'parked' AND message LIKE 'This mobile number already exists%' FROM kapture_failures", 'whose number here is a customer that is in the way, and no row');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Gets it', '9760000003')");
poll_ok($node, "SELECT kapture_customer_id = 778 FROM customers WHERE customer_name = 'Gets it'", 'until a row gets that customer');
sql("UPDATE customers SET phone = '9760000007' WHERE customer_name = 'Gets it'");
poll_ok($node, "SELECT sum(pending + in_flight + retrying + parked) = 0 FROM kapture_status", 'and gives it another number');
sql("UPDATE customers SET phone = '9760000001' WHERE customer_name = 'Here'");
poll_ok($node, $idle, 'the row has its own number again');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Waits', '9760000005')");
poll_ok($node, $idle, 'one more row');
sql("UPDATE customers SET phone = '9760000001' WHERE customer_name = 'Waits'");
poll_ok($node, "SELECT waits_for = 777 FROM kapture_delivery WHERE state = 'parked'", 'waits for the number of a customer that another row has');
sql(q(SELECT kapture_update_customer('{"kapture_customer_id": "777", "phone": "9760000006"}')));
sql("DELETE FROM customers WHERE customer_name = 'Here'");
poll_ok($node, "SELECT sum(pending + in_flight + retrying + parked) = 0 FROM kapture_status", 'until that row is deleted, whoever has a customer of that id elsewhere');

#
# Nobody's mapping but PUBLIC's
#

my $key = 'a2FwZGVtbzprYXAxMjM=';
sql(qq(CREATE ROLE agent; CREATE ROLE visitor;
GRANT CREATE ON SCHEMA public TO agent;
CREATE SERVER shared FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
GRANT USAGE ON FOREIGN SERVER shared TO agent, visitor));

# what a call of a role comes to
sub call
{
	my ($role) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', qq(SET ROLE $role; SELECT kapture_get_customer('{"phone": "9720000001"}', 'shared')->>'status'));
	return "$out$err";
}
like(call('agent'), qr/user "agent" has no user mapping for server "shared"/, 'without any mapping, a call fails');
sql("CREATE USER MAPPING FOR PUBLIC SERVER shared OPTIONS (auth_key 'wrong')");
like(call('agent'), qr/failed/, 'with that of PUBLIC, it is made with that key');
sql("ALTER USER MAPPING FOR PUBLIC SERVER shared OPTIONS (SET auth_key '$key')");
is(call('agent'), 'success', 'which is heeded as it is changed');
sql("CREATE USER MAPPING FOR agent SERVER shared OPTIONS (auth_key 'wrong')");
like(call('agent'), qr/failed/, 'a mapping of their own comes first');
is(call('visitor'), 'success', 'and is nobody else\'s');
sql("DROP USER MAPPING FOR agent SERVER shared; ALTER USER MAPPING FOR PUBLIC SERVER shared OPTIONS (SET auth_key 'wrong')");

# the worker sends with it, too, and notices that it has changed
sql("SET ROLE agent; CREATE TABLE leads (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('leads', server => 'shared'); INSERT INTO leads VALUES (1, 'Lead', '9740000001')");
poll_ok($node, "SELECT server_state = 'denied' FROM kapture_status WHERE relation = 'leads'::regclass", 'a row of a table waits for a good key of PUBLIC');
my $retry_at = sql("SELECT retry_at FROM kapture_server_states() WHERE server = 'shared'");
sql("ALTER USER MAPPING FOR PUBLIC SERVER shared OPTIONS (SET auth_key '$key')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM leads", 'and is sent as soon as there is one');
is(sql("SELECT finished_at < '$retry_at' FROM kapture_history WHERE relation::text = 'leads' AND action = 'add'"), 't',
	'not just when the server would have been tried again');

# other columns become the primary key: what has no row keeps its entry, the rest is to be known anew
sql("CREATE TABLE numbered (id int PRIMARY KEY, number int NOT NULL, customer_name text, phone text); SELECT kapture_attach('numbered', server => 'shared');
INSERT INTO numbered VALUES (1, 11, 'Stays', '9750000001'), (2, 12, 'Goes', '9750000002')");
poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM numbered", 'two rows are added');
my $gone = sql("SELECT kapture_customer_id FROM numbered WHERE id = 2");
sql("DELETE FROM numbered WHERE id = 2");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_orphans WHERE kapture_customer_id = $gone", 'the customer of one has no row any more');
sql("ALTER TABLE numbered DROP CONSTRAINT numbered_pkey, ADD PRIMARY KEY (number)");
is(sql("SELECT count(*) FROM kapture_orphans WHERE kapture_customer_id = $gone"), '1', 'which is known still when another column is the primary key');
is(sql("SELECT count(*) FROM kapture_row JOIN kapture_attachment USING (attachment_id) WHERE relation = 'numbered'::regclass AND gone_at IS NULL"), '0',
	'and nothing is by keys that rows had before');

$node->stop;
done_testing();
