# What the worker makes of Kapture's answers: duplicates, refusals, bad keys,
# throttling, failures; and the limits it keeps.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Encode qw(encode_utf8);
use POSIX ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator);
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";
my $quiet = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'strict'::regclass";

sub stats { return emulator_get($emulator, 'stats') }
sub name_of { return emulator_get($emulator, "customers?id=$_[0]")->[0]{customer_name} }

# Starts anew: no rows, no customers, no faults.
sub fresh
{
	sql("TRUNCATE customers");
	poll_ok($node, $idle, 'all quiet');
	emulator_post($emulator, 'reset', {});
	emulator_post($emulator, 'reset', {}) if @_;
	return;
}

# How many Adds of customers with that phone came.
sub offered
{
	my ($with) = @_;
	return scalar grep { $_->{api} eq 'add' && $_->{body} =~ /"$with"/ } @{ emulator_get($emulator, 'log') };
}

# --- duplicates
emulator_post($emulator, 'seed', [
	{ kapture_customer_id => 101, customer_name => 'By phone', phone => '9100000001', email_id => 'a@example.com' },
	{ kapture_customer_id => 102, customer_name => 'By email', phone => '9100000002', email_id => 'b@example.com' },
	{ kapture_customer_id => 103, customer_name => 'By both', phone => '9100000003', email_id => 'c@example.com' } ]);
sql(q(INSERT INTO customers (customer_name, phone, email_id, city) VALUES
	('Phone is known', '9100000001', NULL, 'Pune'),
	('Email is known', '9200000002', 'b@example.com', 'Pune'),
	('Both are known', '9100000003', 'c@example.com', 'Pune'),
	('Two others', '9100000001', 'b@example.com', 'Pune')));
poll_ok($node, "SELECT array_agg(kapture_customer_id ORDER BY id) = ARRAY[101, 102, 103, NULL]::bigint[] FROM customers", 'link takes the ids of existing customers');
poll_ok($node, $idle, 'and is done');
is(join(' ', map { $_->{city} // '' } map { @{ emulator_get($emulator, "customers?id=$_") } } 101 .. 103), 'Pune Pune Pune', 'and pushes the values of the rows');
is(stats()->{adds}, 0, 'nobody was added');
like(sql("SELECT message FROM kapture_failures"), qr/phone belongs to Kapture customer 10[12].*email to Kapture customer 102/,
	'phone and email of two customers: parked, with both ids');
sql("UPDATE customers SET email_id = 'd\@example.com', phone = '9100000009' WHERE customer_name = 'Two others'");
poll_ok($node, "SELECT count(kapture_customer_id) = 4 FROM customers", 'and sent when the row is fixed');

# all values of a row are pushed that is linked after a change of one of them
emulator_post($emulator, 'seed', [ { kapture_customer_id => 105, customer_name => 'Before', phone => '9100000005', city => 'Agra' } ]);
sql("SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone) VALUES ('Since', '9100000005'); RESET kapture_sync.capture;
	UPDATE customers SET city = 'Pune' WHERE phone = '9100000005'");
poll_ok($node, "SELECT kapture_customer_id = 105 FROM customers WHERE phone = '9100000005'", 'a row that was not captured is linked as it changes');
poll_ok($node, $idle, 'and is done');
is(name_of(105), 'Since', 'as a whole');

# a search that lags behind what Kapture refuses
emulator_post($emulator, 'seed', [ { kapture_customer_id => 104, customer_name => 'Lags', phone => '9100000004', email_id => 'e@example.com' } ]);
emulator_faults($emulator, { api => 'get', action => 'not_found' });
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('Lags', '9100000004', 'e\@example.com')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE message = 'Kapture says that the customer exists, but does not find it by phone or email'", 'a customer that exists is not found');
emulator_faults($emulator);
poll_ok($node, "SELECT kapture_customer_id = 104 FROM customers WHERE customer_name = 'Lags'", 'and is asked for again');

sql(q(CREATE TABLE strict (id int PRIMARY KEY, customer_name text, phone text);
	SELECT kapture_attach('strict', on_duplicate => 'fail');
	INSERT INTO strict VALUES (1, 'Known', '9100000001'), (2, 'New', '9300000001')));
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'strict'::regclass AND state = 'parked' AND message LIKE '%already exists%'", 'fail parks it');
is(sql("SELECT kapture_customer_id IS NULL FROM strict WHERE id = 1"), 't', 'without an id');
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM strict WHERE id = 2", 'others go');

# a lost Add is ours, whatever on_duplicate says
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 });
sql("INSERT INTO strict VALUES (3, 'Lost', '9300000003')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM strict WHERE id = 3", 'a lost Add is found again');
# even if the search lags behind twice, and the row has changed meanwhile
my $adds = stats()->{adds};
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 }, { api => 'get', action => 'not_found', count => 2 });
sql("INSERT INTO strict VALUES (4, 'Lost', '9300000004')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'strict'::regclass AND row_key = '4'", 'an Add is in doubt');
sql("UPDATE strict SET phone = '9300000005' WHERE id = 4");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM strict WHERE id = 4", 'it is found by what was sent');
poll_ok($node, $quiet, 'its change follows');
is(stats()->{adds} - $adds, 1, 'and is not added twice');
is(sql("SELECT kapture_get_customer('{\"phone\": \"9300000005\"}') -> 'Customer Details' ->> 'id' = kapture_customer_id::text FROM strict WHERE id = 4"), 't', 'and has its new phone');
# a search that never finds it: the Add is sent again, and what is refused as known is ours
$adds = stats()->{adds};
my $offered = offered('9300000006');
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 }, { api => 'get', action => 'not_found', count => 2 });
sql("INSERT INTO strict VALUES (5, 'Lost', '9300000006')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM strict WHERE id = 5", 'a lost Add that is not found is found once it is refused');
is(stats()->{adds} - $adds, 1, 'nobody was added twice');
is(offered('9300000006') - $offered, 2, 'but offered twice');
# a crash, while Kapture has yet to carry the Add out: that it was sent is on disk,
# and it is not searched for before it must be over, though the database wants its
# commits to be asynchronous
sql("ALTER DATABASE postgres SET synchronous_commit = off; ALTER SYSTEM SET wal_writer_delay = '10s'; SELECT pg_reload_conf()");
restart_worker($node);
sql("ALTER SERVER kapture OPTIONS (SET timeout '6s')");
$adds = stats()->{adds};
emulator_faults($emulator, { api => 'add', action => 'late', ms => 4000, count => 1 });
sql("SET synchronous_commit = on; INSERT INTO strict VALUES (6, 'Crash', '9300000007')");
wait_for(sub { stats()->{in_flight} == 1 }, 'the Add to arrive');
$node->stop('immediate');
$node->start;
sql("UPDATE strict SET phone = '9300000008' WHERE id = 6");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM strict WHERE id = 6", 'an Add under way in a crash is found');
wait_for(sub { stats()->{in_flight} == 0 }, 'what is late');
is(offered('9300000007') . ' ' . offered('9300000008'), '1 0', 'and is not sent again');
is(stats()->{adds} - $adds, 1, 'so there is one customer');
# nor does an Update that is late overwrite a newer one: under way when the server stops,
my $sixth = sql("SELECT kapture_customer_id FROM strict WHERE id = 6");
poll_ok($node, $quiet, 'all quiet');
emulator_faults($emulator, { api => 'update', action => 'late', ms => 3000, count => 1 });
sql("UPDATE strict SET customer_name = 'First' WHERE id = 6");
wait_for(sub { stats()->{in_flight} == 1 }, 'the Update to arrive');
$node->restart;
sql("UPDATE strict SET customer_name = 'Second' WHERE id = 6");
poll_ok($node, $quiet, 'an Update under way when the server stops, and a newer one');
wait_for(sub { stats()->{in_flight} == 0 }, 'what is late');
is(name_of($sixth), 'Second', 'the newer one wins');
# or behind a gateway that gave up on it
foreach my $code (502, 504)
{
	emulator_faults($emulator, { api => 'update', action => 'gateway', code => $code, ms => 3000, count => 1 });
	sql("UPDATE strict SET customer_name = 'Third $code' WHERE id = 6");
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'strict'::regclass AND row_key = '6'", "a gateway gives up on an Update with code $code");
	sql("UPDATE strict SET customer_name = 'Fourth $code' WHERE id = 6");
	poll_ok($node, $quiet, 'and there is a newer one');
	wait_for(sub { stats()->{in_flight} == 0 }, 'what is late');
	is(name_of($sixth), "Fourth $code", 'which wins');
}
# if the id is lost meanwhile, it was no Add that is in doubt: what it finds is not ours
emulator_faults($emulator, { api => 'update', action => 'gateway', ms => 10, count => 1 });
sql("UPDATE strict SET customer_name = 'Fifth' WHERE id = 6");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'strict'::regclass AND row_key = '6'", 'an Update in doubt');
sql("UPDATE strict SET customer_name = 'Sixth', kapture_customer_id = NULL WHERE id = 6");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'strict'::regclass AND row_key = '6' AND state = 'parked' AND message LIKE '%already exists%'",
	'whose row loses its id, is none of an Add');
is(sql("SELECT sent_phone FROM kapture_delivery WHERE row_key = '6'"), '9300000008', 'that Add could be found');
sql("UPDATE strict SET kapture_customer_id = $sixth WHERE id = 6; SELECT kapture_retry('strict', '6')");
poll_ok($node, $quiet, 'with its id it is updated');
is(name_of($sixth), 'Sixth', 'to its last values');
sql("ALTER DATABASE postgres RESET synchronous_commit; ALTER SYSTEM RESET wal_writer_delay; SELECT pg_reload_conf()");
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");
# an answer for an attempt that is no more (nobody but a superuser can do that)
hold_adds($node, $emulator);
sql("INSERT INTO strict VALUES (7, 'Superseded', '9300000009')");
wait_for(sub { stats()->{in_flight} == 1 }, 'the Add to arrive');
sql("UPDATE kapture_delivery SET state = 'parked', attempts = attempts + 1, last_error = 'by hand' WHERE row_key = '7'");
release_adds($node, $emulator);
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM strict WHERE id = 7", 'an answer comes too late for its attempt');
is(sql("SELECT state, last_error, attempts FROM kapture_delivery WHERE row_key = '7'"), 'parked|by hand|2', 'and does nothing to a newer one');
sql("SELECT kapture_retry('strict', '7')");
poll_ok($node, "SELECT pending + in_flight + retrying + parked = 1 FROM kapture_status WHERE relation = 'strict'::regclass", 'which ends by itself');
# an answer that cannot be read is a lost Add, too
foreach my $action (qw(truncate garbage html late))
{
	my $before = stats()->{adds};

	emulator_faults($emulator, { api => 'add', action => $action, count => 1, ms => 2500 });
	sql("INSERT INTO strict SELECT max(id) + 1, '$action', (9310000000 + max(id))::text FROM strict");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM strict WHERE customer_name = '$action'", "$action: found again");
	is(stats()->{adds} - $before, 1, "$action: added once");
}
sql("SELECT kapture_detach('strict')");

# an answer for a table that is misconfigured by then: the row gets the id when that is fixed
sql("CREATE ROLE heir; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO heir; CREATE TABLE upset (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('upset')");
foreach my $case ([ 1, 'ALTER TABLE upset DROP kapture_customer_id', 'ALTER TABLE upset ADD kapture_customer_id bigint' ],
	[ 2, 'ALTER SERVER kapture OWNER TO heir', 'ALTER SERVER kapture OWNER TO CURRENT_USER' ])
{
	my ($id, $break, $fix) = @$case;
	hold_adds($node, $emulator);
	sql("INSERT INTO upset VALUES ($id, 'Upset $id', '932000000$id')");
	wait_for(sub { stats()->{in_flight} == 1 }, 'the Add to arrive');
	sql($break);
	poll_ok($node, "SELECT server_state = 'misconfigured' OR state = 'misconfigured' FROM kapture_status WHERE relation = 'upset'::regclass", "$break: the table is misconfigured");
	release_adds($node, $emulator);
	poll_ok($node, "SELECT in_flight = 0 FROM kapture_status WHERE relation = 'upset'::regclass", 'the answer is recorded');
	sql($fix);
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM upset WHERE id = $id", "$fix: the row gets its id");
	sql("UPDATE upset SET phone = '932000001$id' WHERE id = $id");
	poll_ok($node, "SELECT pending + in_flight + retrying + parked = 0 FROM kapture_status WHERE relation = 'upset'::regclass", 'its next change is sent');
	is(join(' ', map { $_->{phone} } grep { $_->{customer_name} eq "Upset $id" } @{ emulator_get($emulator, 'customers') }), "932000001$id", 'for the same customer');
}
sql("SELECT kapture_detach('upset')");

# rows that were not sent yet when their table, and its server, passed to another role
sql(qq(CREATE ROLE former; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO former; CREATE SCHEMA former AUTHORIZATION former; SET ROLE former;
CREATE SERVER own FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '1h', max_connections '2'); CREATE USER MAPPING FOR PUBLIC SERVER own OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE former.passed (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('former.passed', server => 'own')));
emulator_faults($emulator, { api => 'add', action => 'hold' });
sql("INSERT INTO former.passed SELECT i, 'Passed on', (9330000000 + i)::text FROM generate_series(1, 20) i");
wait_for(sub { stats()->{in_flight} == 2 }, 'two Adds to arrive');
sql('REASSIGN OWNED BY former TO heir');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_server_states() WHERE server = 'own' AND owner = 'heir'::regrole", 'the server is used as its new owner');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
poll_ok($node, "SELECT count(kapture_customer_id) = 20 FROM former.passed", 'all are sent, whose rows were claimed before');
is((grep { $_->{customer_name} eq 'Passed on' } @{ emulator_get($emulator, 'customers') }), 20, 'once');
sql("SELECT kapture_detach('former.passed')");

# --- success has many shapes; what decides is found wherever it may be
fresh();
my @shapes = (
	[ 'plain', '{"Enquiry": {"x": [{"kapture_customer_id": 1}], "kapture_customer_id": ID}, "message": "m", "status": "success"}', 'm' ],
	[ 'order', '{"status":"success","message":"m","Enquiry":{"y":"a","kapture_customer_id":"ID"}}', 'm' ],
	[ 'flat', qq({"Message" : "Customer added" ,\n "Kapture Customer Id" : "ID", "Status": "Success"}), 'Customer added' ],
	[ 'float', '{"Enquiry": {"kapture_customer_id": ID.0}, "status": "success"}', 'Kapture answered with HTTP code 200' ],
	[ 'power', '{"Enquiry": {"kapture_customer_id": 0.IDe9}, "status": "success", "message": "m"}', 'm' ],
	[ 'escaped', '{"\\u0045nquiry": {"kapture\\u005fcustomer_id": "ID"}, "stat\\u0075s": "succ\\u0065ss", "message": "it\\"s \\u00e4"}', "it\"s \x{e4}" ],
	[ 'raw', qq({"Enquiry": {"note": "one\ntwo\tthree", "kapture_customer_id": ID}, "message": "four\nfive", "status": "success"}), 'four five' ],
	[ 'quoted', '{"x\\"status": "failed", "Enquiry": {"kapture_customer_id": ID}, "message": "m", "status": "success"}', 'm' ],
	[ 'twice', '{"message": "m", "message": null, "error": "e", "Enquiry": null, "Enquiry": {"kapture_customer_id": ID}, "status": "success"}', 'e' ],
	[ 'beside', '{"Enquiry": {"enquiry_id": 0}, "other": {"kapture_customer_id": 2}, "kapture_customer_id": ID, "message": {"a": 1}, "status": "success"}', 'Kapture answered with HTTP code 200' ]);
my $shape_id = 650000000;
emulator_faults($emulator, map {
	my ($name, $body) = @$_;
	my $id = ++$shape_id;
	$body =~ s/ID/$id/;
	{ match => "Shape $name", action => 'status', code => 200, body => $body }
} @shapes);
sql("INSERT INTO customers (customer_name, phone) VALUES " . join ', ', map { "('Shape $shapes[$_][0]', '9" . (350000000 + $_) . "')" } 0 .. $#shapes);
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'the id is found in each');
is(sql("SELECT string_agg(substr(customer_name, 7) || ' ' || kapture_customer_id, ', ' ORDER BY kapture_customer_id) FROM customers"),
	join(', ', map { "$shapes[$_][0] " . (650000001 + $_) } 0 .. $#shapes), 'the right one');
is(sql("SELECT string_agg(message, '|' ORDER BY customer_id) FROM kapture_history WHERE customer_id > 650000000"),
	encode_utf8(join '|', map { $_->[2] } @shapes), 'and Kapture\'s words');

# --- a bad key stops the queue
fresh();
emulator_post($emulator, 'keys', { all => 'another' });
sql("INSERT INTO customers (customer_name, phone) SELECT 'Key ' || i, (9400000000 + i)::text FROM generate_series(1, 10000) i");
poll_ok($node, "SELECT server_state = 'denied' AND server_message = 'Invalid Auth Key' AND in_flight = 0 FROM kapture_status", 'a bad key stops the queue');
$node->wait_for_log(qr/WARNING:  kapture_sync: server "kapture" in database "postgres" refuses the key or the address\n.*DETAIL:  HTTP code 401: Invalid Auth Key\.\n.*HINT:  Check the options/);
cmp_ok(stats()->{unauthorized}, '<=', 8, 'a handful of requests was wasted');
is(stats()->{requests}, stats()->{unauthorized}, 'and no others were made');
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET auth_key 'another')");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'it goes on when the mapping is changed');
oracle_ok($node, $emulator, 'with nothing lost');
emulator_post($emulator, 'keys', { all => 'a2FwZGVtbzprYXAxMjM=' });
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET auth_key 'a2FwZGVtbzprYXAxMjM=')");

foreach my $code (403, 404)
{
	fresh();
	emulator_faults($emulator, { action => 'status', code => $code });
	sql("INSERT INTO customers (customer_name, phone) SELECT 'Code ' || i, (9410000000 + i)::text FROM generate_series(1, 100) i");
	poll_ok($node, "SELECT server_state = 'denied' AND in_flight = 0 FROM kapture_status", "$code stops the queue");
	cmp_ok(stats()->{requests}, '<=', 8, 'a handful of requests was wasted');
	emulator_faults($emulator);
	sql("ALTER SERVER kapture OPTIONS (SET timeout '" . ($code - 400) . "s')");
	poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'it goes on when the server is changed');
}
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");

# --- Retry-After, as seconds and as a date
foreach my $code (429, 503)
{
	foreach my $form ('seconds', 'date')
	{
		fresh();
		my $until = time + 3;
		emulator_faults($emulator,
			{ action => 'status', code => $code, count => 1, headers => { 'Retry-After' => $form eq 'date' ? POSIX::strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime $until) : '2' } });
		# one by itself: Kapture has written down what it refuses before the worker
		# reads that, and with others under way many more may come in between
		sql("INSERT INTO customers (customer_name, phone) VALUES ('Refused', '9420000000')");
		poll_ok($node, "SELECT retrying = 1 FROM kapture_status WHERE relation = 'customers'::regclass", "$code with Retry-After: a row is refused");
		sql("INSERT INTO customers (customer_name, phone) SELECT 'Later ' || i, (9420000000 + i)::text FROM generate_series(1, 200) i");
		poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", "$code with Retry-After: all are sent in the end");
		my $log = emulator_get($emulator, 'log');
		my ($refused) = grep { $_->{code} == $code } @$log;
		my @early = grep { $_->{time} > $refused->{time} && $_->{time} < ($form eq 'date' ? $until : $refused->{time} + 2) } @$log;
		is(scalar @early, 0, "$code: $form are kept");
	}
}

# --- the log has the first parked row of a burst, with the cause, and nobody's data
fresh();
my $log_from = -s $node->logfile;
my $nbad = 0;
sub park
{
	my ($name) = @_;
	$nbad++;
	sql("INSERT INTO customers (customer_name, phone) VALUES ('$name', (9427000000 + $nbad)::text)");
	poll_ok($node, "SELECT parked = $nbad FROM kapture_status WHERE relation = 'customers'::regclass", "$name is parked");
	return;
}
sub good
{
	my ($from) = @_;
	sql("INSERT INTO customers (customer_name, phone) SELECT 'Good ' || i, i::text FROM generate_series($from + 1, $from + 100) i");
	poll_ok($node, "SELECT count(kapture_customer_id) = count(*) FROM customers WHERE customer_name LIKE 'Good%'", '100 rows go well');
	return;
}
sub parked_lines
{
	return [ slurp_file($node->logfile, $log_from) =~ /LOG:  kapture_sync: (\d+ rows? of table .* parked)\n.*DETAIL:  (.*)\n/g ];
}
good(9425000000);
emulator_faults($emulator, map { { match => $_->[0], action => 'status', code => 400, body => qq({"status":"failed","message":"$_->[1]"}) } }
	  [ 'Refused', 'Not now.' ], [ 'Meera', 'Meera is not wanted' ], [ 'Asha', 'This is 9427000005' ], [ 'Ravi', 'That is of meera@example.com' ]);
park("Refused $_") foreach 1 .. 3;
my @first = ('1 row of table "public.customers" in database "postgres" was parked',
	'HTTP code 400: Not now.');
is_deeply(parked_lines(), \@first, 'the first parked row is logged, the others of a burst are not');
good(9426000000);
park('Meera');
is_deeply(parked_lines(), [ @first, $first[0], 'HTTP code 400.' ], 'the first one of the next burst is, without words that repeat what was sent');
like(sql("SELECT last_error FROM kapture_status WHERE relation = 'customers'::regclass"), qr/Meera is not wanted/, 'kapture_status shows the latest failure, whole');
good(9428000000);
park('Asha');
is_deeply(parked_lines(), [ @first, ($first[0], 'HTTP code 400.') x 2 ], 'or that have numbers in them');
good(9429000000);
park('Ravi');
is_deeply(parked_lines(), [ @first, ($first[0], 'HTTP code 400.') x 3 ], 'or an address, be it another one\'s');
emulator_faults($emulator);

# --- failures: one row's, and the server's
fresh();
emulator_faults($emulator, { match => 'Poison', action => 'status', code => 500 });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Poison', '9430000000')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE attempts >= 3 AND state = 'retry' AND http_status = 500 AND next_attempt IS NOT NULL",
	'a row that Kapture fails on is tried again, visibly');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE failures >= 3", 'its failures add up, so that the delays grow');
sql("INSERT INTO customers (customer_name, phone) SELECT 'Fine ' || i, (9430000000 + i)::text FROM generate_series(1, 300) i");
poll_ok($node, "SELECT count(kapture_customer_id) = 300 FROM customers", 'and holds up nobody');
emulator_faults($emulator);
sql("SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(kapture_customer_id) = 301 FROM customers", 'it goes when Kapture works again');
is(stats()->{adds}, 301, 'each was added once');

fresh();
emulator_faults($emulator, { action => 'drop_before' });
sql("INSERT INTO customers (customer_name, phone) SELECT 'Down ' || i, (9440000000 + i)::text FROM generate_series(1, 1000) i");
poll_ok($node, "SELECT server_state = 'failing' AND server_retry_at IS NOT NULL FROM kapture_status", 'a server that fails is left alone');
cmp_ok(stats()->{requests}, '<=', 30, 'only few requests are wasted on it');
like(slurp_file($node->logfile), qr/LOG:  kapture_sync: server "kapture" in database "postgres" is failing\n.*DETAIL:  no answer from Kapture: .*\n.*HINT: /, 'the log says so, and what the answer was');
# as if that had gone on for long
cmp_ok(sql("WITH late AS (UPDATE kapture_delivery SET failures = 12, next_attempt = now() + '1 hour' WHERE state = 'retry' AND failures > 0 RETURNING 1) SELECT count(*) FROM late"),
	'>=', 3, 'rows that failed often have long delays');
emulator_faults($emulator);
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'it is probed, and everything goes, without waiting for the rest of the delays');
oracle_ok($node, $emulator, 'nothing was lost');
like(slurp_file($node->logfile), qr/LOG:  kapture_sync: server "kapture" in database "postgres" works again/, 'the log says that, too');

# --- a sick server does not slow another
fresh();
my $other = start_emulator();
sql(qq(
CREATE SERVER other FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$other->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE others (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('others', server => 'other');
));
emulator_faults($emulator, { action => 'hang' });
sql("ALTER SERVER kapture OPTIONS (SET timeout '1h')");
sql("INSERT INTO customers (customer_name, phone) SELECT 'Hanging ' || i, (9450000000 + i)::text FROM generate_series(1, 100) i");
poll_ok($node, "SELECT in_flight > 0 FROM kapture_status WHERE relation = 'customers'::regclass", 'one server hangs');
sql("INSERT INTO others SELECT i, 'Other ' || i, (9450000000 + i)::text FROM generate_series(1, 1000) i");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM others", 'the other is served');
is(sql("SELECT count(kapture_customer_id) FROM customers"), '0', 'while the first still hangs');
emulator_faults($emulator);
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");
sql("SELECT pg_terminate_backend(kapture_worker_pid())");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'which goes on after all');
sql("SELECT kapture_detach('others')");

# --- limits
fresh();
sql("ALTER SERVER kapture OPTIONS (ADD max_connections '5')");
emulator_faults($emulator, { action => 'delay', ms => 20 });
sql("INSERT INTO customers (customer_name, phone) SELECT 'Wide ' || i, (9460000000 + i)::text FROM generate_series(1, 500) i");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'all are sent');
is(stats()->{max_in_flight}, 5, 'max_connections is used, and kept');
cmp_ok(stats()->{connections}, '<=', 5 + 10, 'for all requests the same connections; others ask for the counters');

fresh();
sql("ALTER SERVER kapture OPTIONS (ADD rate_limit '40')");
sql("INSERT INTO customers (customer_name, phone) SELECT 'Slow ' || i, (9470000000 + i)::text FROM generate_series(1, 200) i");
poll_ok($node, "SELECT count(kapture_customer_id) > 50 FROM customers", 'under way');
$node->restart;
poll_ok($node, "SELECT count(kapture_customer_id) > 100 FROM customers", 'under way');
sql("SELECT pg_terminate_backend(kapture_worker_pid())");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'all are sent');
rate_ok(stats()->{max_requests_in_any_second}, 40, 'no second saw more than rate_limit requests, across restarts');

$node->stop;
done_testing();
