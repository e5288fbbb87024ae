# kapture_verify: what differs is found, what merely waits is not called different.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('verify');
shorthand($node, $emulator, qw(sql said));
setup_sync($node, $emulator, options => "max_connections '4'");
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";

sub gets { return emulator_get($emulator, 'stats')->{get_requests} }

# somebody changes a customer in Kapture
sub change
{
	my ($id, $fields) = @_;
	return sql("SELECT kapture_update_customer(jsonb '$fields' || jsonb_build_object('kapture_customer_id', kapture_customer_id))->>'status' FROM customers WHERE id = $id");
}

sub found
{
	my ($arguments) = @_;
	$arguments = $arguments ? ", $arguments" : '';
	return sql("SELECT row_key, problem, field, here, there FROM kapture_verify('customers'$arguments) ORDER BY row_key::int, field");
}

sql("INSERT INTO customers (customer_name, phone, city, email_id) SELECT 'Row ' || i, (9000000000 + i)::text, 'Pune', 'row' || i || '\@example.com' FROM generate_series(1, 1200) i");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'rows are there');
poll_ok($node, $idle, 'and done');

my $gets = gets();
is(found(), '', 'nothing is wrong');
is(gets() - $gets, 1200, 'each row was asked for once');

# --- differences
is(change(3, '{"city": "Goa"}'), 'success', 'somebody changes a city');
is(change(700, '{"city": "Agra", "customer_name": "Other"}'), 'success', 'and two fields of another');
is(change(4, '{"customer_name": "Row  4 "}'), 'success', 'and blanks');
is(change(5, '{"email_id": "ROW5@example.com"}'), 'success', 'and the case of an email');
is(found(), "3|differs|city|Pune|Goa\n700|differs|city|Pune|Agra\n700|differs|customer_name|Row 700|Other", 'what differs is found, and no more');
is(sql("SELECT DISTINCT v.kapture_customer_id = c.kapture_customer_id FROM kapture_verify('customers', 'id = 3') v JOIN customers c ON c.id = v.row_key::int"), 't', 'with the customer');
$gets = gets();
is(found(q{'city = ''Pune'' AND id BETWEEN 500 AND 800'}), "700|differs|city|Pune|Agra\n700|differs|customer_name|Row 700|Other", 'a condition picks rows');
cmp_ok(gets() - $gets, '<=', 302, 'no others are asked for');

# --- repair: exactly these rows and fields
my $updates = emulator_get($emulator, 'stats')->{updates};
sql("SELECT kapture_pause('customers')");
is(found('repair => true'), "3|differs|city|Pune|Goa\n700|differs|city|Pune|Agra\n700|differs|customer_name|Row 700|Other", 'a repair returns what it has sent');
is(sql("SELECT pending FROM kapture_status WHERE relation = 'customers'::regclass"), '2', 'two rows wait');
like(sql("SELECT body FROM kapture_preview('customers', 3)"), qr/^\{"kapture_customer_id": "\d+", "city": "Pune"\}$/, 'with what differs');
is(found("'id IN (3, 4, 700)'"), "3|waiting|||\n700|waiting|||", 'what waits is not called different');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'they are sent');
is(found(), '', 'then nothing is wrong');
is(emulator_get($emulator, 'stats')->{updates} - $updates, 2, 'two requests did it');
# of what others change in Kapture, nothing is known here
sql("CREATE SERVER elsewhere FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); CREATE USER MAPPING FOR CURRENT_USER SERVER elsewhere OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
sql("SELECT kapture_update_customer(jsonb_build_object('kapture_customer_id', kapture_customer_id::text, 'city', 'Surat'), 'elsewhere') FROM customers WHERE id = 20");
is(found("'id = 20', repair => true"), '20|differs|city|Pune|Surat', 'somebody else changes a city');
poll_ok($node, $idle, 'it is sent again');
is(found("'id = 20'"), '', 'though it had been sent before');

# --- other problems
sql("UPDATE customers SET city = NULL WHERE id = 6");
poll_ok($node, $idle, 'a value is taken away');
sql("SELECT kapture_pause('customers')");
sql("SET kapture_sync.capture = off; UPDATE customers SET kapture_customer_id = 4711 WHERE id = 7; UPDATE customers SET kapture_customer_id = NULL WHERE id = 8;
UPDATE customers SET kapture_customer_id = (SELECT kapture_customer_id FROM customers WHERE id = 10) WHERE id = 9");
sql("UPDATE customers SET city = 'Delhi' WHERE id = 11");
is(found("'id < 20'"), "6|not emptied|city||Pune\n7|unknown id|||\n8|no id|||\n9|shared id|||\n10|shared id|||\n11|waiting|||", 'all kinds of problems');
is(found("'id IN (6, 7, 9, 10)', repair => true"), "6|not emptied|city||Pune\n7|unknown id|||\n9|shared id|||\n10|shared id|||", 'what no request can fix');
like(said("SELECT * FROM kapture_verify('customers', 'id IN (6, 7, 9, 10)', repair => true)"), qr/NOTICE:  1 row has the problem "unknown id"\n.*set the ids to NULL, then use kapture_backfill.*NOTICE:  2 rows have the problem "shared id"\n.*in all rows of a customer but the right one/s, 'with what to do about it,');
is(sql("SELECT pending FROM kapture_status WHERE relation = 'customers'::regclass"), '1', 'is not sent');
is(found("'id = 8', repair => true"), '8|no id|||', 'a row without an id');
is(sql("SELECT pending FROM kapture_status WHERE relation = 'customers'::regclass"), '2', 'is');
sql("UPDATE customers SET phone = 'abc' WHERE id = 12; SELECT kapture_resume('customers')");
poll_ok($node, "SELECT parked > 0 AND pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass", 'a row is parked');
is(found("'id = 12'"), '12|parked|||', 'which is said');
sql("UPDATE customers SET phone = '9000000012' WHERE id = 12; UPDATE customers SET city = 'Pune' WHERE id IN (6, 7)");

# --- fields that cannot be compared are named once
emulator_post($emulator, 'seed', [ { customer_name => 'Masked', phone => '98xxxxxx01', email_id => 'masked@example.com', campaign_name => 'spring' } ]);
my ($masked) = map { $_->{kapture_customer_id} } grep { $_->{customer_name} eq 'Masked' } @{ emulator_get($emulator, 'customers') };
sql("CREATE TABLE leads (id int PRIMARY KEY, customer_name text, phone text, email_id text, campaign_name text, contact_person_email text, kapture_customer_id bigint);
INSERT INTO leads VALUES (1, 'Masked', '9811111101', 'masked\@example.com', 'autumn', 'x\@example.com', $masked);
SELECT kapture_attach('leads')");
my $said = said("SELECT problem, field FROM kapture_verify('leads')");
unlike($said, qr/differs/, 'a masked phone is no difference');
like($said, qr/NOTICE:  fields that could not be compared: campaign_name, contact_person_email\n.*Kapture does not return them/, 'fields that Get does not return are named');
like($said, qr/NOTICE:  fields that could not be compared: phone\n.*masks their values/, 'so are masked ones');
is(() = $said =~ /NOTICE/g, 2, 'once');

# --- a row that changes while it is asked for
poll_ok($node, $idle, 'nothing waits');
emulator_faults($emulator, { api => 'get', action => 'hold' });
sql("ALTER SERVER kapture OPTIONS (SET timeout '1h')");
my ($out, $err) = ('', '');
$gets = gets();
my @psql = ('psql', '-XAtq', '-d', $node->connstr('postgres'), '-c');
my $asking = IPC::Run::start([ @psql, "SELECT row_key, problem, field FROM kapture_verify('customers', 'id IN (21, 22)')" ], '<', \undef, '>', \$out, '2>', \$err);
wait_for(sub { gets() > $gets }, 'the Get');
poll_ok($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%kapture_verify%' AND pid <> pg_backend_pid() AND wait_event IS NOT NULL AND state = 'active'", 'a verification waits for Kapture');
sql("UPDATE customers SET city = 'Surat' WHERE id = 21");
poll_ok($node, $idle, 'a row changes, and is sent, meanwhile');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$asking->finish;
is("$out$err", '', 'it is not called different');
# nor is one that gets another id meanwhile
my $right = sql("SELECT kapture_customer_id FROM customers WHERE id = 23");
sql("SET kapture_sync.capture = off; UPDATE customers SET kapture_customer_id = 4712 WHERE id = 23");
emulator_faults($emulator, { api => 'get', match => '"4712"', action => 'hold' });
$gets = gets();
$asking = IPC::Run::start([ @psql, "SELECT row_key, problem FROM kapture_verify('customers', 'id = 23')" ], '<', \undef, '>', \$out, '2>', \$err);
wait_for(sub { gets() > $gets }, 'the Get');
sql("SET kapture_sync.capture = off; UPDATE customers SET kapture_customer_id = $right WHERE id = 23");
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$asking->finish;
is("$out$err", '', 'a row that gets another id meanwhile is compared with that');
# canceled at once
emulator_faults($emulator, { api => 'get', action => 'hold' });
$gets = gets();
$asking = IPC::Run::start([ @psql, "SELECT * FROM kapture_verify('customers')" ], '<', \undef, '>', \$out, '2>', \$err);
poll_ok($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%kapture_verify%' AND pid <> pg_backend_pid() AND wait_event IS NOT NULL AND state = 'active'", 'another one waits');
sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%kapture_verify%' AND pid <> pg_backend_pid()");
$asking->finish;
like($err, qr/canceling statement due to user request/, 'it can be canceled');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});

# --- no connection idles where a slice of 500 rows ends: some of the last of it have no answer, and more are asked for
sql("ALTER SERVER kapture OPTIONS (SET max_connections '64')");
emulator_faults($emulator, { api => 'get', action => 'hold', skip => 470 });
($out, $err) = ('', '');
$asking = IPC::Run::start([ @psql, "SELECT row_key, problem, field, here, there FROM kapture_verify('customers') ORDER BY row_key::int, field" ], '<', \undef, '>', \$out, '2>', \$err);
wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} == 64 }, 'a request on each connection');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$asking->finish;
$err =~ s{^(?:NOTICE|DETAIL|HINT):  .*\n}{}mg;
is("$out$err", found() =~ s/(?<=.)\z/\n/r, 'requests go on beyond a slice of rows, and all are compared');
sql("ALTER SERVER kapture OPTIONS (SET max_connections '4')");
# --- one late answer does not keep the other connections waiting
my $late = sql("SELECT kapture_customer_id FROM customers WHERE id = 40");
emulator_faults($emulator, { api => 'get', match => qq{"$late"}, action => 'hold' });
$gets = gets();
($out, $err) = ('', '');
$asking = IPC::Run::start([ @psql, "SELECT row_key FROM kapture_verify('customers', 'id BETWEEN 40 AND 140') WHERE problem = 'unknown id'" ], '<', \undef, '>', \$out, '2>', \$err);
wait_for(sub { gets() - $gets >= 14 }, 'answers beyond the first four');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$asking->finish;
is("$out$err", '', 'with max_connections 4, others are asked for while one answer is late');
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");

# --- into a table, in slices
sql("CREATE TABLE differences (checked_at timestamptz DEFAULT now(), row_key text, kapture_customer_id bigint, problem text, field text, here text, there text)");
sql("SET kapture_sync.capture = off; UPDATE customers SET kapture_customer_id = 4711 WHERE id = 7; UPDATE customers SET kapture_customer_id = NULL WHERE id = 8");
change(900, '{"city": "Goa"}');
like(said("CALL kapture_verify_into('customers', 'differences', slice => 100)"), qr/1200 rows of "customers" are compared, that is all/, 'all rows are compared');
my $differences = "SELECT row_key, problem, field, here, there FROM differences WHERE row_key::int NOT IN (9, 10) ORDER BY row_key::int";
is(sql($differences), "7|unknown id|||\n8|no id|||\n900|differs|city|Pune|Goa", 'what is wrong is in the table');
is(sql("SELECT activity, state, done, total FROM kapture_progress WHERE activity = 'verify'"), 'verify|done|1200|1200', 'kapture_progress shows it');
# interrupted: the table refuses a row of the ninth slice
sql("TRUNCATE differences; ALTER TABLE differences ADD CONSTRAINT early CHECK (row_key::int < 500)");
like(said("CALL kapture_verify_into('customers', 'differences', slice => 100)"), qr/violates check constraint "early"/, 'one that breaks off');
is(sql("SELECT done, state FROM kapture_progress WHERE activity = 'verify'"), '800|interrupted', 'has committed its slices');
sql("ALTER TABLE differences DROP CONSTRAINT early");
$gets = gets();
like(said("CALL kapture_verify_into('customers', 'differences', slice => 100)"), qr/400 rows of "customers" are compared/, 'goes on where it stopped');
cmp_ok(gets() - $gets, '<=', 401, 'and asks for no row twice');
is(sql($differences), "7|unknown id|||\n8|no id|||\n900|differs|city|Pune|Goa", 'with all that is wrong in the end');
sql("UPDATE kapture_backfill SET finished_at = NULL, last_key = '800', rows = 800 WHERE activity = 'verify'; TRUNCATE differences");
like(said("CALL kapture_verify_into('customers', 'differences', slice => 500, restart => true)"), qr/1200 rows of "customers"/, 'or begins anew, if asked to');

# --- rights and errors
sql("CREATE ROLE stranger");
like(said("SET ROLE stranger; SELECT * FROM kapture_verify('customers')"), qr/must be owner of table customers/, 'for the owner only');
like(said("SELECT * FROM kapture_verify('customers', 'true) UNION (SELECT 1')"), qr/invalid value for argument "condition": syntax error at or near "\)"/, 'a condition is one');
like(said("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM kapture_verify('customers')"), qr/cannot be compared with Kapture at isolation level REPEATABLE READ/, 'what is sent meanwhile must be seen');
like(said("BEGIN; CALL kapture_verify_into('customers', 'differences')"), qr/kapture_verify_into cannot run inside a transaction block/, 'the procedure commits');
sql("CREATE ROLE keeper; CREATE SCHEMA kept AUTHORIZATION keeper; GRANT USAGE ON FOREIGN SERVER kapture TO keeper;
CREATE USER MAPPING FOR keeper SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SET ROLE keeper; CREATE TABLE kept.customers (id int PRIMARY KEY, customer_name text, phone text);
INSERT INTO kept.customers VALUES (1, 'Kept', '9877777777');
SELECT kapture_attach('kept.customers')");
is(said("SET ROLE keeper; SELECT problem FROM kapture_verify('kept.customers')"), 'no id', 'an owner without other rights may');
like(said("SET ROLE keeper; CALL kapture_verify_into('kept.customers', 'differences')"), qr/permission denied for table differences/, 'into a table of their own');
# an own change of the same transaction waits
is(sql("BEGIN; UPDATE customers SET city = 'Thane' WHERE id = 30; SELECT row_key, problem FROM kapture_verify('customers', 'id = 30'); ROLLBACK"), '30|waiting', 'what the transaction has changed itself waits');
# an answer that is JSON, but written in another way than Kapture writes it
my $asked_for = sql("SELECT kapture_customer_id FROM customers WHERE id = 30");
emulator_faults($emulator, { api => 'get', action => 'status', code => 200, count => 1, body => qq(
{ "x" : { "y" : [ ] , "city" : [ 1 , { } , [ "," , null ] ] } , "\\u0043ustomer Details" : { "e" : "a\\\\" , "\\u0069d" : $asked_for ,
  "n\\u0061me" : "Row\\t30" , "companyPhone" :"+91-9000000030", "city":"\\"Goa\\", \\u0041gra" , "empty" : { } , "more" : [ true , -1.5e1 ] ,
  "contacts" : [ { "isPrimaryContact" : false , "email" : "other\@example.com" } , { "isPrimaryContact" : "true" , "email" : "row30\@example.com" } ] } , "status" : "success" }) });
is(found("'id = 30'"), '30|differs|city|Pune|"Goa", Agra', 'an answer with blanks and escapes is read like any other');
emulator_faults($emulator);
# a row that is another one whenever it is read
sql("CREATE TABLE ticking (id int PRIMARY KEY, name text, tel text); CREATE VIEW ticks AS SELECT id, name AS customer_name, tel AS phone, clock_timestamp()::text AS city FROM ticking;
SELECT kapture_attach('ticking', source => 'ticks'); INSERT INTO ticking VALUES (1, 'Ticking', '9888888888')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM ticking", 'a row that changes all the time is sent');
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'ticking'::regclass", 'and done');
is(sql("SELECT row_key, problem FROM kapture_verify('ticking')"), '1|waiting', 'it cannot be told to be equal');
# the wrong key
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET auth_key 'wrong')");
like(said("SELECT * FROM kapture_verify('customers', 'id = 30')"), qr/ERROR:  .*(401|Auth)/s, 'an error of the account is one');

$node->stop;
done_testing();
