# Foreign tables: what reaches Kapture, what stays there, and whose key is used.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator('--pull-limit-hours', 24);
my $node = new_node('foreign');
setup_sync($node, $emulator, options => "max_connections '4'");
$node->safe_psql('postgres', "ALTER DATABASE postgres SET search_path = crm, public");
$node->safe_psql('postgres', "CREATE SCHEMA crm; IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO crm");

sub run
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql, on_error_stop => 0);
	return "$out\n$err";
}

sub requests
{
	my ($api) = @_;
	return grep { $_->{api} eq $api } @{ emulator_get($emulator, 'log') };
}

sub reset_all
{
	my (@rules) = @_;
	emulator_post($emulator, 'reset', {});
	emulator_faults($emulator, @rules);
	return;
}

sub customers { return scalar @{ emulator_get($emulator, 'customers') }; }

# one row, one request
my $id = $node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Priya', '9000000001') RETURNING kapture_customer_id");
my ($customer) = @{ emulator_get($emulator, "customers?id=$id") };
is($customer->{customer_name}, 'Priya', 'the id that is returned is that of the customer');
is((requests('add'))[0]{body}, '{"phone": "9000000001", "customer_name": "Priya"}', 'what was given is sent, and nothing else');
$node->safe_psql('postgres', "UPDATE customers SET city = 'Pune' WHERE id = $id");
is(join(' ', map { $_->{body} } requests('update')), qq({"kapture_customer_id": "$id", "city": "Pune"}), 'an update sends the columns that are set');
is(scalar(requests('get')), 1, 'and asks for the one customer');
$node->safe_psql('postgres', "UPDATE customers SET campaign_name = NULL WHERE id = $id; UPDATE customers SET city = 'x' WHERE id = 1");
is(scalar(requests('update')), 1, 'an update without anything to send sends nothing, nor does one without a customer');
$node->safe_psql('postgres', "CREATE TABLE local AS SELECT id AS kapture_customer_id, 'Agra' AS city FROM customers WHERE id = $id; ANALYZE local");
$node->safe_psql('postgres', "UPDATE customers c SET city = l.city FROM local l WHERE c.id = l.kapture_customer_id");
is(emulator_get($emulator, "customers?id=$id")->[0]{city}, 'Agra', 'an update with a join');
is(scalar(requests('pull')), 0, 'pulls nothing');
if ($node->pg_version >= 18)
{
	is(run("CREATE FOREIGN TABLE computed (id bigint, customer_name text, city text, upper_name text GENERATED ALWAYS AS (upper(customer_name)) VIRTUAL) SERVER kapture OPTIONS (object 'customers')"),
		"\n", 'PostgreSQL computes a virtual generated column');
	is(run("SELECT upper_name FROM computed WHERE id = $id AND upper_name = 'PRIYA'"), "PRIYA\n", 'as it reads a customer');
	is(run("UPDATE computed SET city = 'Goa' WHERE id = $id RETURNING old.city, new.city, upper_name"), "Agra|Goa|PRIYA\n", 'or changes it');
	$node->safe_psql('postgres', "DROP FOREIGN TABLE computed");
}

# bodies in arrays, and the other shape of an answer
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD add_body 'array', ADD update_body 'array')");
my $arrays = start_emulator('--add-array', '--update-array');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET url '$arrays->{url}')");
emulator_faults($arrays, { api => 'add', action => 'flat_answer' });
like(run("INSERT INTO customers (name, phone) VALUES ('Array', '9000000002') RETURNING id > 0, contact_id IS NULL"), qr/^t\|t$/m, 'bodies in arrays');
unlike(run("UPDATE customers SET name = 'Still' WHERE phone = '9000000002'"), qr/ERROR/, 'of updates, too');
is(emulator_get($arrays, 'customers')->[0]{customer_name}, 'Still', 'arrive');
stop_emulator($arrays);
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET url '$emulator->{url}', DROP add_body, DROP update_body)");

# many rows: several at a time, all of them once
reset_all({ api => 'add', action => 'delay', ms => 30 });
$node->safe_psql('postgres', "INSERT INTO customers (name, phone) SELECT 'Many ' || i, (9100000000 + i)::text FROM generate_series(1, 250) i");
is(customers(), 250, 'many rows arrive');
is(scalar(requests('add')), 250, 'each with a request of its own');
is(emulator_get($emulator, 'stats')->{max_in_flight}, 4, 'max_connections at a time');
reset_all();
my $file = PostgreSQL::Test::Utils::tempdir() . '/rows';
append_to_file($file, join '', map { sprintf "Copied %d\t92%08d\n", $_, $_ } 1 .. 120);
$node->safe_psql('postgres', "COPY customers (name, phone) FROM '$file'");
is(customers(), 120, 'COPY');
reset_all();
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD rate_limit '20')");
$node->safe_psql('postgres', "INSERT INTO customers (name, phone) SELECT 'Slow ' || i, (9100000000 + i)::text FROM generate_series(1, 25) i");
cmp_ok(emulator_get($emulator, 'stats')->{max_requests_in_any_second}, '<=', 21, 'rate_limit is kept');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (DROP rate_limit)");

# an error midway: what was sent before it stays, and that is said
reset_all();
my $out = run("INSERT INTO customers (name, phone) SELECT 'Row ' || i, CASE i WHEN 3 THEN '12' ELSE (9000000000 + i)::text END FROM generate_series(1, 5) i RETURNING id");
like($out, qr/ERROR:  the add request to server "kapture" failed\n.*Invalid phone number.*\n.*HINT:  What to do: phone must have 10 digits.*\nCONTEXT:  row 3 of those sent/, 'a row that is refused is an error');
like($out, qr/WARNING:  Kapture keeps what was written there before the rollback\nDETAIL:  Customers added: 2 \(id \d+, \d+\); updates: 0; requests whose outcome is not known: 0\./, 'what was added before stays, and that is said');
is(customers(), 2, 'so it is');
is(scalar(requests('add')), 3, 'what comes after it was not sent');
reset_all();
$out = run("INSERT INTO customers (name, phone) SELECT 'Row ' || i, CASE i WHEN 50 THEN '12' ELSE (9000000000 + i)::text END FROM generate_series(1, 90) i");
my ($kept) = $out =~ /Customers added: (\d+) /;
is($kept, customers(), 'of rows that are sent together, the warning counts those that are there');
# beside those in flight, some that began when answers of these came before the refusal
cmp_ok($kept, '<=', 49 + 4 * 3, 'and hardly more were begun');
reset_all();
unlike(run("INSERT INTO customers (name, phone, id) SELECT 'Row', (9000000000 + i)::text, nullif(i, 50) - i + 1 FROM generate_series(1, 90) i"), qr/WARNING/, 'rows that come together are checked');
is(customers(), 0, 'before the first is sent');

# whatever the reason of a rollback is
reset_all();
like(run("BEGIN; INSERT INTO customers (name, phone) VALUES ('a', '9000000001'); UPDATE customers SET city = 'x' WHERE phone = '9000000001'; ROLLBACK"),
	qr/WARNING:  Kapture keeps .*\nDETAIL:  Customers added: 1 \(id \d+\); updates: 1; requests whose outcome is not known: 0\./, 'ROLLBACK');
$out = run("BEGIN; INSERT INTO customers (name, phone) VALUES ('b', '9000000002'); SAVEPOINT s; INSERT INTO customers (name, phone) VALUES ('c', '9000000003'); ROLLBACK TO s; INSERT INTO customers (name, phone) VALUES ('d', '9000000004'); COMMIT");
is(scalar(() = $out =~ /WARNING/g), 1, 'ROLLBACK TO: one warning');
like($out, qr/Customers added: 1 /, 'about one customer');
like(run("DO \$\$ BEGIN FOR i IN 1..12 LOOP INSERT INTO customers (name, phone) VALUES ('e', 9200000000 + i); BEGIN INSERT INTO customers (name, phone) VALUES ('f', 9300000000 + i); EXCEPTION WHEN others THEN NULL; END; END LOOP; RAISE EXCEPTION 'end'; END \$\$"),
	qr/WARNING: .*\n.*DETAIL:  Customers added: 24 \(id (\d+, ){10}\.\.\.\)/, 'blocks with an exception handler');
unlike(run("BEGIN; INSERT INTO customers (name, phone) VALUES ('g', '9400000001'); COMMIT"), qr/WARNING/, 'COMMIT is silent');
unlike(run("BEGIN; INSERT INTO customers (name, phone) VALUES ('h', '9400000002'); PREPARE TRANSACTION 'p'; ROLLBACK PREPARED 'p'"), qr/ERROR/, 'a transaction can be prepared');

# what Kapture puts off, and what it leaves open
reset_all({ api => 'add', action => 'status', code => 429, headers => { 'Retry-After' => '1' }, skip => 1, count => 2 });
unlike(run("INSERT INTO customers (name, phone) SELECT 'Row', (9000000000 + i)::text FROM generate_series(1, 6) i"), qr/ERROR|WARNING/, 'after a 429');
is(customers(), 6, 'rows are sent again, once');
foreach my $seconds ('7200', '99999999999999999999')
{
	reset_all({ api => 'add', action => 'status', code => 429, headers => { 'Retry-After' => $seconds }, body => '{"message": "Too many"}' });
	like(run("INSERT INTO customers (name, phone) VALUES ('a', '9000000001')"), qr/ERROR:  server "kapture" allows no more requests for now/, "but not if Kapture wants to be left alone for $seconds seconds");
	is(scalar(requests('add')), 1, 'it is not asked again');
}
foreach my $action ('drop_after', 'truncate', 'garbage', 'hang')
{
	reset_all({ api => 'add', action => $action });
	$out = run("INSERT INTO customers (name, phone) VALUES ('a', '9000000001')");
	like($out, qr/ERROR:  .*Kapture may or may not have carried it out/s, "an answer that does not come ($action) leaves the outcome open");
	like($out, qr/DETAIL:  Customers added: 0; updates: 0; requests whose outcome is not known: 1\./, 'and it is counted so');
	is(scalar(requests('add')), 1, 'it is not sent again');
}
reset_all({ api => 'add', action => 'status', code => 503, body => '{"message": "Down", "status": "failed"}' });
like(run("INSERT INTO customers (name, phone) VALUES ('a', '9000000001')"), qr/HTTP code 503. Kapture says: Down Kapture may or may not/, 'a 503, too');
reset_all({ api => 'add', action => 'status', code => 401, body => '{"message": "Invalid Auth Key", "status": "failed"}' });
$out = run("INSERT INTO customers (name, phone) VALUES ('a', '9000000001')");
like($out, qr/ERROR:  server "kapture" denied the add request\n.*Invalid Auth Key/s, 'a key that is denied');
unlike($out, qr/WARNING/, 'leaves nothing open');

# cancelling acts at once
reset_all({ api => 'add', action => 'hang', skip => 2 });
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '1h')");
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query('SELECT pg_backend_pid()');
$session->query_until(qr/started/, "\\echo started\nINSERT INTO customers (name, phone) SELECT 'Row', (9000000000 + i)::text FROM generate_series(1, 6) i;\n");
wait_for(sub { emulator_get($emulator, 'stats')->{faults} > 0 && customers() >= 2 }, 'requests to hang');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
emulator_faults($emulator);
is($session->query('SELECT count(*) FROM customers WHERE phone = \'9000000001\''), '1', 'an INSERT that waits can be cancelled, and the session goes on');
$session->quit;
like(run("SET statement_timeout = '300ms'; INSERT INTO customers (name, phone) VALUES ('a', '9500000001')"), qr/^\s*$/, 'without faults it goes through');
emulator_faults($emulator, { api => 'update', action => 'hang' });
like(run("SET statement_timeout = '300ms'; UPDATE customers SET city = 'x' WHERE phone = '9500000001'"), qr/(?=.*not known: 1)(?=.*canceling statement due to statement timeout)/s, 'statement_timeout ends an UPDATE');

# an answer that does not come holds up no other row
reset_all({ api => 'add', action => 'hold', count => 1 });
$session = $node->background_psql('postgres');
$session->query_until(qr/started/, "\\echo started\nINSERT INTO customers (name, phone) SELECT 'Row', (9600000000 + i)::text FROM generate_series(1, 100) i;\n");
wait_for(sub { customers() == 100 }, 'all other rows to be sent meanwhile');
emulator_post($emulator, 'release', {});
is($session->query_safe("SELECT count(*) FROM customers WHERE phone = '9600000100'"), '1', 'with its answer, the INSERT goes on');
$session->quit;
is(scalar(requests('add')), 100, 'each row was sent once');

# of several rows that are refused, the first one is reported
reset_all({ api => 'add', action => 'delay', ms => 200, count => 1 });
$out = run("INSERT INTO customers (name, phone) SELECT 'Row', CASE WHEN i IN (1, 3) THEN 'none' ELSE (9700000000 + i)::text END FROM generate_series(1, 4) i");
like($out, qr/CONTEXT:  row 1 of those sent/, 'the first of several rows that are refused, though its answer is the last');
emulator_post($emulator, 'reset', {});
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '2s')");

# reading: no more calls than are needed
emulator_post($emulator, 'seed', [ map { { customer_name => "Seed $_", phone => 9600000000 + $_, kapture_customer_id => $_ } } 1 .. 40 ]);
sub gets
{
	my ($sql) = @_;
	my $before = scalar(requests('get'));
	my $out = $node->safe_psql('postgres', $sql);
	return join ' ', $out, 'gets:', requests('get') - $before;
}
is(gets("SELECT count(*), count(DISTINCT name) FROM customers WHERE id = ANY (ARRAY(SELECT i % 40 + 1 FROM generate_series(1, 100) i))"),
	'40|40 gets: 40', 'an array of ids: a call for each of them, once');
is(gets("SELECT count(*) FROM customers WHERE phone IN ('9600000001', '9600000002', '1')"), '2 gets: 3', 'a list of phones');
is(gets("SELECT count(*) FROM customers WHERE id IN (SELECT i FROM generate_series(1, 5) i)"), '5 gets: 5', 'a subquery');
is(gets("SELECT count(*) FROM customers c JOIN generate_series(1, 3) i ON c.id = i AND c.generation_date > '2000-01-01'"), '3 gets: 3', 'a join');
is(gets("SELECT count(*) FROM customers WHERE id = 7 AND phone = '9600000007'"), '1 gets: 1', 'two conditions: one call');
is(gets("SELECT count(*) FROM contacts WHERE customer_id IN (1, 2)"), '2 gets: 2', 'contacts');
# four Gets for each connection may wait for their turn, and a place is free for one more once the row is handed out
like(gets("SELECT name FROM customers WHERE id = ANY (ARRAY(SELECT i FROM generate_series(1, 40) i)) LIMIT 1"), qr/^Seed \d+ gets: (?:[1-9]|1[0-7])$/, 'LIMIT ends it early');
emulator_faults($emulator, { api => 'get', action => 'status', code => 503, skip => 1, count => 2 });
like(gets("SELECT count(*) FROM customers WHERE id IN (1, 2, 3, 4, 5)"), qr/^5 gets: 7$/, 'calls that fail are repeated');
emulator_faults($emulator);

# a range goes by its narrowest bounds, in whatever order they are
sub pulls
{
	my ($condition) = @_;
	my $before = scalar(requests('pull'));
	$node->safe_psql('postgres', "SELECT count(*) FROM customers WHERE $condition");
	return requests('pull') - $before;
}
my @bounds = ("generation_date >= '2021-03-14'", "generation_date >= '2021-02-14'", "generation_date < '2021-03-15'", "generation_date < '2021-04-15'");
my $pulls = pulls("$bounds[0] AND $bounds[2]");
is(pulls(join ' AND ', @bounds), $pulls, 'several bounds: no more is pulled than the narrowest ask for');
is(pulls(join ' AND ', reverse @bounds), $pulls, 'the other way round, too');

# rights and keys: the current user's, or the view's owner's
$node->safe_psql('postgres', qq(
CREATE ROLE clerk;
CREATE ROLE manager;
GRANT USAGE ON SCHEMA crm TO clerk, manager;
GRANT SELECT, INSERT, UPDATE ON customers TO clerk, manager;
GRANT CREATE ON SCHEMA crm TO manager;
GRANT USAGE ON FOREIGN SERVER kapture TO manager;
CREATE USER MAPPING FOR manager SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SET ROLE manager;
CREATE VIEW front AS SELECT id, name, phone, city FROM customers;
GRANT SELECT, INSERT, UPDATE ON front TO clerk));
like(run("SET ROLE clerk; INSERT INTO customers (name, phone) VALUES ('a', '9000000001')"), qr/ERROR:  permission denied for foreign server kapture/, 'without USAGE on the server nothing is written');
like(run("SET ROLE clerk; UPDATE customers SET name = 'b' WHERE id = 1"), qr/ERROR:  permission denied for foreign server kapture/, 'nor updated');
like(run("SET ROLE clerk; COPY customers (name, phone) FROM STDIN"), qr/ERROR:  permission denied for foreign server kapture/, 'nor copied');
unlike(run("SET ROLE clerk; INSERT INTO front (name, phone) VALUES ('a', '9000000001'); UPDATE front SET city = 'Pune' WHERE phone = '9000000001'"), qr/ERROR/, 'through a view with its owner\'s key');
is((grep { $_->{phone} eq '9000000001' } @{ emulator_get($emulator, 'customers') })[0]{city}, 'Pune', 'both arrive');
$node->safe_psql('postgres', "DROP USER MAPPING FOR manager SERVER kapture");
like(run("SET ROLE clerk; INSERT INTO front (name, phone) VALUES ('b', '9000000002')"), qr/ERROR:  user mapping not found for "?manager|ERROR:  .*mapping/, 'and not without one');

$node->stop;
done_testing();
