# What the worker makes of words that the vendor's document does not have, but
# that accounts have been seen to answer: keys that have expired, bodies of
# another form, duplicates by their id, customers that are added without an id.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator);
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";
my $state = "SELECT server_state FROM kapture_status WHERE relation = 'customers'::regclass";
my $seconds = 2;

sub account { return emulator_post($emulator, 'account', {@_}) }
sub requests { return emulator_get($emulator, 'stats')->{"$_[0]_requests"} }

# A change of the server's settings has the worker try a held server at once.
sub try_again { return sql("ALTER SERVER kapture OPTIONS (SET timeout '" . ++$seconds . "s')") }

# Starts anew: no rows, no customers, the account of the document.
sub fresh
{
	emulator_faults($emulator);
	sql("TRUNCATE customers; DELETE FROM kapture_history");
	try_again();
	poll_ok($node, $idle, 'all quiet');
	emulator_post($emulator, 'reset', {});
	account(@_);
	return;
}

# --- keys, in all words, under any HTTP code
my @keys = (
	[ 200, '{"Message": "Auth Key Expired", "Status": "Fail"}', 'Auth Key Expired' ],
	[ 400, '{"message": "Message Key Expired", "status": "failed"}', 'Message Key Expired' ],
	[ 200, '{"reason": "AuthKeyInvalid", "status": "Failed"}', 'AuthKeyInvalid' ],
	[ 500, '{"message": "APIExpired", "status": "failed"}', 'APIExpired' ],
	[ 200, '{"message": "Insufficient permission"}', 'Insufficient permission' ]);
foreach my $key (@keys)
{
	my ($code, $body, $words) = @$key;

	fresh();
	emulator_faults($emulator, { api => 'add', action => 'status', code => $code, body => $body });
	sql("INSERT INTO customers (customer_name, phone) SELECT 'n' || i, '90000000' || (10 + i) FROM generate_series(1, 30) i");
	poll_ok($node, "SELECT server_state = 'denied' FROM kapture_status", "$words with HTTP code $code: the server is denied");
	is(sql("SELECT parked FROM kapture_status"), 0, 'nothing is parked');
	is(sql("SELECT count(*) FROM kapture_failures WHERE hint LIKE 'the key is wrong or has expired%' AND message = '$words'") > 0 ? 'yes' : 'no', 'yes', 'and the hint is about the key');
	emulator_faults($emulator);
	try_again();
	poll_ok($node, "SELECT count(kapture_customer_id) = 30 FROM customers", 'all rows are sent when the key is right');
}
my ($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-14')");
is($rc, 0, 'a pull works');
emulator_faults($emulator, { api => 'pull', action => 'status', code => 200, body => '{"Message": "Auth Key Expired", "Status": "Fail"}' });
($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-14')");
like($err, qr/28000.*denied the pull request.*Auth Key Expired/s, 'an expired key of a pull is an error about the key');

# what a firewall denies of one row alone: others have the next probe
fresh();
emulator_faults($emulator, { api => 'add', action => 'status', code => 403, match => 'DROP TABLE', body => '<html>Blocked</html>' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('DROP TABLE', '9100000001')");
poll_ok($node, "SELECT server_state = 'denied' AND retrying = 1 FROM kapture_status", 'what is in a row is denied');
is(sql("SELECT f.next_attempt > s.retry_at FROM kapture_failures f, kapture_server_states() s WHERE s.server = 'kapture'"), 't', 'and the row comes after the next probe');
emulator_faults($emulator);
try_again();
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'but at once when the settings are changed');

# so have they if Kapture wants fewer requests of one row alone
fresh();
emulator_faults($emulator, { api => 'add', action => 'status', code => 429, match => 'Too often', headers => { 'Retry-After' => '1' }, body => '{}' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Too often', '9105000001')");
poll_ok($node, "SELECT server_state = 'throttled' FROM kapture_status", 'a row is answered with 429');
sql("INSERT INTO customers (customer_name, phone) SELECT 'n' || i, (9105000001 + i)::text FROM generate_series(1, 5) i");
poll_ok($node, "SELECT count(kapture_customer_id) = 5 FROM customers", 'others are sent');
cmp_ok(requests('add'), '<', 25, 'soon');

# what Kapture repeats of a row's own values is not meant
fresh();
emulator_faults($emulator, map { { api => 'add', action => 'status', code => 400, match => $_, body => qq({"message": "City $_ is not served", "status": "failed"}) } }
	'Too Many Requests', 'Unauthorized', 'Invalid JSON', 'Internal Server Colony', 'Duplicate Lead Nagar');
sql("INSERT INTO customers (customer_name, phone, city) VALUES ('a', '9110000001', 'Too Many Requests'), ('b', '9110000002', 'Unauthorized'), ('c', '9110000003', 'Invalid JSON'),
	('d', '9110000004', 'Internal Server Colony'), ('e', '9110000005', 'Duplicate Lead Nagar'), ('f', '9110000006', 'Pune')");
poll_ok($node, "SELECT parked = 5 AND pending + in_flight + retrying = 0 AND server_state = 'ok' FROM kapture_status", 'words that are the row\'s own park it, and hold nobody');
is(sql("SELECT string_agg(customer_name, '') FROM customers WHERE kapture_customer_id IS NOT NULL"), 'f', 'the others are sent');

# --- a body of another form
fresh(dialect => 'array-name', invalid_json => \1);
sql("INSERT INTO customers (customer_name, phone) SELECT 'n' || i, '91000000' || (10 + i) FROM generate_series(1, 30) i");
poll_ok($node, "SELECT server_state = 'misconfigured' FROM kapture_status", 'a wrong wrap: the server is misconfigured');
is(sql("SELECT parked FROM kapture_status"), 0, 'nothing is parked');
like(sql("SELECT message FROM kapture_server_states() WHERE server = 'kapture'"), qr/Invalid Json\.\): set option add_body of the server to 'array'/, 'the reason has the option to set');
fresh();

# a search that cannot be read
emulator_post($emulator, 'seed', [ { kapture_customer_id => 55, customer_name => 'Known', phone => '9100000099' } ]);
emulator_faults($emulator, { api => 'get', action => 'status', code => 200, body => '{"message": "Invalid Json.", "status": "failed"}' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Known', '9100000099')");
poll_ok($node, "SELECT server_state = 'misconfigured' FROM kapture_status", 'a search of another form: the server is misconfigured, too');
like(sql("SELECT message FROM kapture_server_states() WHERE server = 'kapture'"), qr/body of the get request \(Invalid Json\.\): check option get_path of the server/, 'the reason has the option to check');
is(sql("SELECT parked FROM kapture_status"), 0, 'nothing is parked');
emulator_faults($emulator);
try_again();
poll_ok($node, "SELECT kapture_customer_id = 55 FROM customers", 'the customer is found when searches are read');
fresh();

# one row that Kapture cannot read is parked by itself, once others have been read
sql("INSERT INTO customers (customer_name, phone) VALUES ('good', '9200000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", 'a row is sent');

# --- duplicates named by their id
fresh(lead_exists => \1);
emulator_post($emulator, 'seed', [
	{ kapture_customer_id => 101, customer_name => 'Known', phone => '9300000001', email_id => 'a@example.com' },
	{ kapture_customer_id => 102, customer_name => 'Other', phone => '9300000002', email_id => 'b@example.com' } ]);
sql("INSERT INTO customers (customer_name, phone, city) VALUES ('Known here', '9300000001', 'Pune')");
poll_ok($node, "SELECT kapture_customer_id = 101 FROM customers", 'a duplicate named by its id is linked');
poll_ok($node, $idle, 'and done with');
is(requests('get'), 1, 'after one look at that customer');
is(emulator_get($emulator, 'customers?id=101')->[0]{city}, 'Pune', 'and gets the values of the row');
# an id that is somebody else's
emulator_faults($emulator, { api => 'add', action => 'status', code => 400, count => 1,
	body => '{"message": "Lead already exists, Customer ID :102, Enquiry ID :34, Contact ID : 56", "status": "failed"}' });
sql("TRUNCATE customers; INSERT INTO customers (customer_name, phone) VALUES ('Known again', '9300000001')");
poll_ok($node, "SELECT kapture_customer_id = 101 FROM customers", 'an id of somebody else is not believed: the phone decides');
is(emulator_get($emulator, 'customers?id=102')->[0]{customer_name}, 'Other', 'who is left alone');
sql("CREATE TABLE strict (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('strict', on_duplicate => 'fail')");
sql("INSERT INTO strict VALUES (1, 'Known', '9300000001')");
poll_ok($node, "SELECT parked = 1 FROM kapture_status WHERE relation = 'strict'::regclass", 'with on_duplicate fail it is parked');
sql("SELECT kapture_detach('strict')");

# --- customers that are added without their id being told
foreach my $form ('no_id', 'flat')
{
	fresh(answer => $form);
	sql("INSERT INTO customers (customer_name, phone, email_id) SELECT 'n' || i, '94000000' || (10 + i), 'c' || i || '\@example.com' FROM generate_series(1, 20) i");
	poll_ok($node, "SELECT count(kapture_customer_id) = 20 FROM customers", "$form: all rows get their ids");
	oracle_ok($node, $emulator, 'the right ones');
	is(requests('add'), 20, 'with one Add each');
	is(requests('get'), $form eq 'flat' ? 0 : 20, 'ids that are not told are looked up');
	is(requests('update'), 0, 'and nothing is sent twice');
	is(sql($state), 'ok', 'which is no failure of the server');
	is(sql("SELECT DISTINCT action FROM kapture_history"), 'add', 'but an Add');
}
# the search lags behind
fresh(answer => 'no_id');
emulator_faults($emulator, { api => 'get', action => 'not_found', count => 1 });
sql("INSERT INTO customers (customer_name, phone) VALUES ('late', '9500000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", 'an id that is found late is written, too');
oracle_ok($node, $emulator, 'of one customer');
account();

# --- accounts that overwrite a customer when an Add is repeated
fresh(upsert => \1);
sql("INSERT INTO customers (customer_name, phone) VALUES ('First', '9550000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", 'a row is added');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Second', '9550000001')");
poll_ok($node, "SELECT parked = 1 AND pending + in_flight + retrying = 0 FROM kapture_status", 'a row whose Add gives the customer of another is parked');
is(sql("SELECT count(kapture_customer_id) FROM customers"), 1, 'and not linked to it');
is(sql($state), 'ok', 'the server is well');
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Lost', '9550000002')");
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE customer_name = 'Lost' AND kapture_customer_id IS NOT NULL", 'a lost Add is found');

# --- a search that is refused is no fault of the row that is searched for
fresh();
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 },
	{ api => 'get', action => 'status', code => 200, body => '{"message": "Search is closed", "status": "failed"}' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Lost', '9550000003')");
poll_ok($node, "SELECT state = 'retry' AND message = 'Search is closed' AND hint LIKE 'Kapture refuses the search%' FROM kapture_failures", 'a row whose search is refused waits');
emulator_faults($emulator);
sql("SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'and is found when searches are answered');
is(requests('add'), 1, 'without another Add');

# --- refusals in words that nobody knows
my $words = 'Your plan does not allow it any more';
my $refusal = { api => 'add', action => 'status', code => 400, body => "{\"message\": \"$words\", \"status\": \"failed\"}" };

sub insert_rows
{
	my ($kind, $first, $n) = @_;
	return sql("INSERT INTO customers (customer_name, phone) SELECT '$kind' || i, '96' || (10000000 + i) FROM generate_series($first, $first + $n - 1) i");
}

fresh();
emulator_faults($emulator, $refusal);
insert_rows('n', 1, 100);
poll_ok($node, "SELECT server_state = 'refusing' AND parked = 0 FROM kapture_status", 'all rows are refused: the server is held, and none stays parked');
cmp_ok(requests('add'), '<', 20 + 16, 'after twenty, and those that were under way');
like(sql("SELECT message FROM kapture_server_states() WHERE server = 'kapture'"), qr/$words/, 'and shows the words');
is(sql("SELECT pending + in_flight + retrying FROM kapture_status"), 100, 'all rows wait');
emulator_faults($emulator);
try_again();
poll_ok($node, "SELECT count(kapture_customer_id) = 100 FROM customers", 'and are sent when it is put right');
is(sql($state), 'ok', 'the server is well');

# what an account demands of other fields is no known word, a name though there is in it
fresh();
emulator_faults($emulator, { %$refusal, body => '{"message": "contact_person_name is mandatory", "status": "failed"}' });
insert_rows('n', 1, 30);
poll_ok($node, "SELECT server_state = 'refusing' AND parked = 0 FROM kapture_status", 'a field that is missing from all rows: none is parked');

# words that are known to be about values park their rows, however many
fresh();
emulator_faults($emulator, { %$refusal, body => '{"message": "Invalid phone number", "status": "failed"}' });
insert_rows('n', 1, 60);
poll_ok($node, "SELECT parked = 60 FROM kapture_status", 'many rows with bad values are parked');
is(sql($state), 'ok', 'without harm to the server');

# so do others, as long as there are successes between
fresh();
emulator_faults($emulator, { %$refusal, match => 'bad' });
sql("INSERT INTO customers (customer_name, phone) SELECT CASE i % 3 WHEN 0 THEN 'good' ELSE 'bad' END || i, '96' || (10000000 + i) FROM generate_series(1, 90) i");
poll_ok($node, "SELECT parked = 60 AND pending + in_flight + retrying = 0 FROM kapture_status", 'rows that are refused among others are parked');
is(sql("SELECT count(kapture_customer_id) FROM customers"), 30, 'and the others sent');
is(sql($state), 'ok', 'without harm to the server');

# a row that Kapture cannot read, while it reads others
emulator_faults($emulator, { %$refusal, match => 'odd', code => 200, body => '{"message": "Invalid Json.", "status": "failed"}' });
sql("TRUNCATE customers");
poll_ok($node, $idle, 'all quiet');
insert_rows('odd', 1000, 1);
insert_rows('even', 2000, 5);
poll_ok($node, "SELECT parked = 1 AND pending + in_flight + retrying = 0 FROM kapture_status", 'a row that cannot be read is parked by itself');
like(sql("SELECT message FROM kapture_failures"), qr/cannot read this row's add request, though it reads others: Invalid Json/, 'with the reason');
is(sql($state), 'ok', 'without harm to the server');

# all that is there is bad: whatever else comes is tried in turn, and ends it; as many more that are bad
# do not hold the server again
fresh();
emulator_faults($emulator, { %$refusal, match => 'bad' });
insert_rows('bad', 1, 35);
poll_ok($node, "SELECT server_state = 'refusing' AND parked = 0 FROM kapture_status", 'only bad rows: the server is held');
insert_rows('good', 3000, 1);
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'a good one is among the probes');
poll_ok($node, "SELECT parked = 35 AND pending + in_flight + retrying = 0 AND server_state = 'ok' FROM kapture_status", 'the queue goes on by itself; bad rows are parked, and hold nobody up again');
my $held = () = slurp_file($node->logfile) =~ /refuses all rows/g;
insert_rows('bad', 100, 60);
insert_rows('good', 4000, 1);
poll_ok($node, "SELECT parked = 95 AND pending + in_flight + retrying = 0 AND server_state = 'ok' FROM kapture_status", 'more bad rows than have held the server are parked, too');
is(scalar(() = slurp_file($node->logfile) =~ /refuses all rows/g), $held, 'and do not hold it again');

# a row that was parked for a reason of its own does not wait with the others
fresh();
sql("INSERT INTO customers (customer_name, phone) VALUES ('known to be bad', 'abc')");
poll_ok($node, "SELECT parked = 1 AND pending + in_flight + retrying = 0 FROM kapture_status", 'a row that is known to be refused is parked');
my $tries = sql("SELECT attempts FROM kapture_delivery");
emulator_faults($emulator, $refusal);
insert_rows('n', 1, 40);
poll_ok($node, "SELECT server_state = 'refusing' AND parked = 1 FROM kapture_status", 'the server is held, and that row stays parked');
is(sql("SELECT attempts FROM kapture_delivery WHERE state = 'parked' AND last_error LIKE 'Invalid phone number%'"), $tries, 'with its own reason, not tried again');

$node->stop;
done_testing();
