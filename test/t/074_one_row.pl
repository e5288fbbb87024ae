# What is sent of a row, and what is not: rows that Kapture is known to refuse,
# kapture_touch, and rows that share a customer.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql requests idle_ok));
setup_sync($node, $emulator);
create_customers($node);

#
# Rows that Kapture is known to refuse
#

my %refused = (
	"NULL, '9845765226', NULL" => 'Name and (Phone Number or Email Id) are required fields',
	"'', '9845765226', NULL" => 'Name and (Phone Number or Email Id) are required fields',
	"'No contact', NULL, NULL" => 'Name and (Phone Number or Email Id) are required fields',
	"'Empty', '', ''" => 'Name and (Phone Number or Email Id) are required fields',
	"'Letters', 'abc', NULL" => 'Invalid phone number, number must contain 10 digits and must start from 6 or above',
	"'Short', '984576522', NULL" => 'Invalid phone number, number must contain 10 digits and must start from 6 or above',
	"'Low', '5845765226', NULL" => 'Invalid phone number, number must contain 10 digits and must start from 6 or above',
	"'Blanks', '98457 65226', NULL" => 'Invalid phone number, number must contain 10 digits and must start from 6 or above',
	"'With email', '123', 'a\@b.example'" => 'Invalid phone number, number must contain 10 digits and must start from 6 or above',
	"'No at', NULL, 'example.com'" => 'Invalid email id.',
	"'No name', NULL, '\@example.com'" => 'Invalid email id.',
	"'No dot', NULL, 'priya\@example'" => 'Invalid email id.',
	"'Two', NULL, 'a\@b.example,c\@d.example'" => 'Invalid email id.',
	"'Blank in it', '9845765226', 'pri ya\@example.com'" => 'Invalid email id.');
my @rows = sort keys %refused;
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES " . join ', ', map { "($_)" } @rows);
my $n = @rows;
poll_ok($node, "SELECT parked = $n FROM kapture_status", 'rows that Kapture is known to refuse are parked');
is(requests('add') + requests('update') + requests('get'), 0, 'without a request');
is(sql("SELECT string_agg(message, '|' ORDER BY row_key::int) FROM kapture_failures"), join('|', map { $refused{$_} } @rows),
	'with the words of Kapture');
is(sql("SELECT count(*) FROM kapture_failures WHERE hint IS NULL OR request IS NOT NULL OR api IS NOT NULL OR http_status IS NOT NULL"), '0',
	'a hint, and no request');

# what is said is what Kapture says: the same rows, sent
sql("ALTER SERVER kapture OPTIONS (ADD check_rows 'off'); SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(*) = $n AND bool_and(http_status = 400 AND api = 'add') FROM kapture_failures WHERE state = 'parked'",
	'with check_rows off they are sent, and Kapture refuses them');
is(requests('add'), $n, 'one request for each');
is(sql("SELECT string_agg(message, '|' ORDER BY row_key::int) FROM kapture_failures"), join('|', map { $refused{$_} } @rows),
	'in the same words');
sql("ALTER SERVER kapture OPTIONS (SET check_rows 'on')");

my ($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM kapture_preview('customers', (SELECT id::text FROM customers WHERE customer_name = 'Letters'))");
like("$out$err", qr/NOTICE:  nothing would be sent for the row with key "\d+"\nDETAIL:  Invalid phone number, .*\nHINT:  What to do: phone must have 10 digits/,
	'kapture_preview says so');

sql("UPDATE customers SET phone = '9845765226' WHERE customer_name = 'Letters'; DELETE FROM customers WHERE customer_name IS DISTINCT FROM 'Letters'");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'a corrected row is sent by itself');
idle_ok('nothing waits');
is(requests('add'), $n + 1, 'once');

# Updates: what is malformed is refused, what is emptied is not sent
my $id = sql("SELECT kapture_customer_id FROM customers");
sql("UPDATE customers SET phone = '123', city = 'Pune'");
poll_ok($node, "SELECT message LIKE 'Invalid phone number%' AND request IS NULL FROM kapture_failures", 'an update to a malformed phone is parked');
sql("UPDATE customers SET phone = '', customer_name = NULL, email_id = NULL, city = NULL");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'a linked row may lose name, phone and email');
idle_ok('and nothing waits');
is(requests('update'), 0, 'as nothing of it is to be sent');
is(sql("SELECT action || ' ' || customer_id FROM kapture_history ORDER BY finished_at DESC LIMIT 1"), "none $id", 'which the history says');
sql("UPDATE customers SET phone = NULL, city = 'Nagpur'");
idle_ok('another column is sent');
is(requests('update'), 1, 'by one request');
is(emulator_get($emulator, 'customers')->[0]{phone}, '9845765226', 'Kapture keeps the phone');

#
# kapture_touch
#

# what the worker has not taken up yet: rows, with their fields
sub noted
{
	return sql("SELECT string_agg(k || ':' || o.changed, ' ' ORDER BY o.seq) FROM kapture_outbox o, unnest(row_key || more_keys) k");
}

sql("SELECT kapture_pause('customers')");
sql("UPDATE customers SET city = 'Surat'; SELECT kapture_discard('customers')");
my $key = sql("SELECT id FROM customers");
my $all = sql("SELECT sum(1 << bit) FROM kapture_column");
my $city = sql("SELECT 1 << bit FROM kapture_column WHERE field = 'city'");
sql("DELETE FROM kapture_outbox");
sql("BEGIN; SELECT kapture_touch('customers', '$key'), kapture_touch('customers', '$key'); SELECT kapture_touch('customers', ' 0$key'); COMMIT");
is(noted(), "$key:$all", 'a touched row is noted with all its fields, once in a transaction, however its key is written');
sql("DELETE FROM kapture_outbox");
sql("SELECT kapture_touch('customers', '$key', '{city}')");
is(noted(), "$key:$city", 'or with those named');
sql("DELETE FROM kapture_outbox");
sql("BEGIN; SELECT kapture_touch('customers', '$key'); ROLLBACK");
is(noted(), '', 'not if the transaction is rolled back');
sql("BEGIN; SAVEPOINT s; SELECT kapture_touch('customers', '$key'); ROLLBACK TO s; COMMIT");
is(noted(), '', 'nor if the savepoint is');
sql("BEGIN; SAVEPOINT s; SELECT kapture_touch('customers', '$key'); ROLLBACK TO s; SELECT kapture_touch('customers', '$key'); COMMIT");
is(noted(), "$key:$all", 'but if it is touched again after that');
sql("DELETE FROM kapture_outbox");
sql("CREATE FUNCTION touch_any(text) RETURNS void PARALLEL SAFE LANGUAGE sql AS 'SELECT kapture_touch(''customers'', \$1)'");
my $parallel = sql("SHOW server_version_num") < 160000 ? 'force_parallel_mode' : 'debug_parallel_query';
like(($node->psql('postgres', "SET $parallel = on; SELECT touch_any(id::text) FROM customers"))[2], qr/cannot execute kapture_touch\(\) during a parallel operation/,
	'a parallel worker, which is taken for safe by mistake, does not lose what it touches');

my $before = requests('update');
sql("SELECT kapture_touch('customers', '$key', '{city}'), kapture_touch('customers', '123456'), kapture_resume('customers')");
idle_ok('what was touched is sent');
is(requests('update'), $before + 1, 'by one request');
is(emulator_get($emulator, 'customers')->[0]{city}, 'Surat', 'with the value that the row has');
is(sql("SELECT action FROM kapture_history WHERE row_key = '123456'"), 'gone', 'a key that is not there ends as gone');

sql(q{CREATE ROLE clerk LOGIN; CREATE ROLE reader LOGIN; GRANT SELECT ON customers TO clerk, reader; GRANT UPDATE ON customers TO clerk;
	CREATE TABLE pairs (a int, b date, customer_name text, phone text, kapture_customer_id bigint, PRIMARY KEY (a, b));
	SELECT kapture_attach('pairs'), kapture_pause('pairs'); CREATE TABLE plain (id int PRIMARY KEY)});
sub touch_error
{
	my ($role, @arguments) = @_;
	(undef, undef, my $stderr) = $node->psql('postgres', "SET ROLE $role; SELECT kapture_touch(" . join(', ', @arguments) . ')');
	return $stderr;
}
is(touch_error('clerk', "'customers'", "'$key'"), '', 'whoever may update the table may touch its rows');
like(touch_error('reader', "'customers'", "'$key'"), qr/ERROR:  permission denied for table customers/, 'who may not, may not');
like(touch_error('postgres', "'plain'", "'1'"), qr/ERROR:  table "plain" is not attached to Kapture\nHINT:  Use kapture_attach/, 'a table that is not attached is named');
like(touch_error('postgres', "'customers'", "'x'"), qr/ERROR:  invalid input syntax for type bigint: "x"/, 'what is no key is an error');
like(touch_error('postgres', "'customers'", 'NULL'), qr/ERROR:  argument "row_key" must not be null/, 'so is none');
like(touch_error('postgres', "'pairs'", "'1'"), qr/ERROR:  "1" is not a key of table "pairs"\nDETAIL:  Its key has 2 columns\.\nHINT:  Give the values as an array/,
	'a key of several columns is an array');
like(touch_error('postgres', "'customers'", "'$key'", "'{town}'"), qr/ERROR:  .*"town"/, 'a field that the table does not feed is named');
sql("SET datestyle = 'German'; SELECT kapture_touch('pairs', '{1,2021-3-4}')");
is(noted(), '{1,2021-03-04}:' . sql("SELECT sum(1 << bit) FROM kapture_column JOIN kapture_attachment USING (attachment_id) WHERE relation = 'pairs'::regclass"),
	'and noted as the trigger would, whatever the settings are');
idle_ok('nothing else waits') if sql("SELECT kapture_detach('pairs') IS NOT NULL");

# other calls find a row by any text of its key, too
sql("CREATE TABLE shelf (n numeric, b date, customer_name text, phone text, PRIMARY KEY (n, b)); SELECT kapture_attach('shelf');
INSERT INTO shelf VALUES (1.50, '2026-01-02', '', '9711111110'), (2.50, '2026-01-03', 'Second', '9711111111')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'shelf'::regclass AND state = 'parked'", 'a row is parked');
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM shelf", 'another one is sent');
my $german = "SET datestyle = 'German'";
is(sql("$german; SELECT kapture_id('shelf', '{2.5,2026-1-3}') = kapture_customer_id, kapture_id('customers', ' 0$key') IS NOT NULL FROM shelf WHERE n = 2.5"), 't|t', 'kapture_id');
is(sql("$german; SELECT api FROM kapture_preview('shelf', '{2.5,2026-1-3}')"), 'update', 'kapture_preview');
is(sql("$german; SELECT kapture_retry('shelf', '{1.5,2026-1-2}')"), '1', 'kapture_retry');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'shelf'::regclass AND state = 'parked'", 'it is parked again');
is(sql("$german; SELECT kapture_discard('shelf', '{1.5,2026-1-2}')"), '1', 'kapture_discard');
foreach my $call (qw(kapture_id kapture_preview kapture_retry kapture_discard))
{
	like(($node->psql('postgres', "SELECT $call('customers', 'x')"))[2], qr/ERROR:  invalid input syntax for type bigint: "x"/, "$call: what is no key is an error");
	like(($node->psql('postgres', "SELECT $call('shelf', '1')"))[2], qr/ERROR:  "1" is not a key of table "shelf"\nDETAIL:  Its key has 2 columns/, 'so is a part of one');
}
sql("SELECT kapture_detach('shelf')");

# checks of a key's type are code of others
sql('CREATE ROLE mallory; CREATE SCHEMA mallory AUTHORIZATION mallory; SET ROLE mallory;
CREATE FUNCTION mallory.seen(int) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE WARNING \'runs as %\', current_user; RETURN true; END$$;
CREATE DOMAIN mallory.number AS int CHECK (mallory.seen(VALUE)); CREATE TABLE mallory.numbered (id mallory.number PRIMARY KEY, customer_name text, phone text)');
sql("GRANT USAGE ON FOREIGN SERVER kapture TO mallory; CREATE USER MAPPING FOR mallory SERVER kapture OPTIONS (auth_key 'k'); SELECT kapture_attach('mallory.numbered'), kapture_pause('mallory.numbered')");
foreach my $call (qw(kapture_touch kapture_id kapture_retry))
{
	my $said = ($node->psql('postgres', "SELECT $call('mallory.numbered', '1')"))[2];
	unlike($said, qr/runs as postgres/, "$call runs it as nobody else than the table's owner") or diag($said);
}
sql("SELECT kapture_detach('mallory.numbered')");

($rc, $out, $err) = $node->psql('postgres', "BEGIN READ ONLY; SELECT kapture_touch('customers', '$key')");
like($err, qr/ERROR:  cannot execute kapture_touch\(\) in a read-only transaction/, 'a read-only transaction touches nothing');

#
# One customer, one row
#

sub fresh
{
	my ($on_duplicate) = @_;
	sql("SELECT kapture_detach('customers'); DROP TABLE customers");
	emulator_post($emulator, 'reset', {});
	create_customers($node, attach => ", on_duplicate => '$on_duplicate'");
	return;
}
sub customer { return (grep { $_->{kapture_customer_id} eq $_[0] } @{ emulator_get($emulator, 'customers') })[0] }
sub is_parked
{
	my ($row, $holder, $name) = @_;
	return poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE row_key = '$row' AND state = 'parked'"
		  . " AND message LIKE 'Kapture customer % belongs to the row with key \"$holder\" of table public.customers already'"
		  . " AND hint LIKE 'two rows share this phone or email:%'", $name);
}
sub has_id { return sql("SELECT kapture_customer_id FROM customers WHERE id = $_[0]") }

fresh('link');
sql("INSERT INTO customers (customer_name, phone, city) VALUES ('First', '9700000001', 'Pune')");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'a row has a customer');
my $first = has_id(1);
sql("INSERT INTO customers (customer_name, phone, city) VALUES ('Second', '9700000001', 'Surat')");
is_parked(2, 1, 'a second row with its phone is parked, which names the first');
is(customer($first)->{customer_name}, 'First', 'and has overwritten nothing');
$before = requests('add');
sql("UPDATE customers SET city = 'Nagpur' WHERE id = 1");
idle_ok('a change of something else');
is(requests('add'), $before, 'has it not tried again');
sql("UPDATE customers SET phone = '9700000002' WHERE id = 1");
poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM customers", 'when the first row gets another phone, the second one is added');
isnt(has_id(2), $first, 'as a customer of its own');
is(sql("SELECT count(*) FROM kapture_failures"), '0', 'nothing is parked');

sql("INSERT INTO customers (customer_name, phone) VALUES ('Third', '9700000002')");
is_parked(3, 1, 'another row with the phone of the first');
sql("UPDATE customers SET phone = '9700000003' WHERE id = 3");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = 3", 'is added when it is corrected itself');

sql("INSERT INTO customers (customer_name, phone) VALUES ('Fourth', '9700000002')");
is_parked(4, 1, 'a row that waits for the first');
sql("UPDATE customers SET id = DEFAULT WHERE id = 1");
idle_ok('the first row has another key');
is(sql("SELECT row_key FROM kapture_row WHERE customer_id = $first AND gone_at IS NULL"), sql("SELECT id FROM customers WHERE customer_name = 'First'"), 'by which it is known');
sql("DELETE FROM customers WHERE customer_name = 'First'");
poll_ok($node, "SELECT kapture_customer_id = $first FROM customers WHERE id = 4", 'when it is deleted, its customer is the other row\'s');
idle_ok('and that is all');
is(customer($first)->{customer_name}, 'Fourth', 'which Kapture has');
is(sql("SELECT action FROM kapture_history WHERE row_key = '4' ORDER BY finished_at DESC LIMIT 1"), 'link', 'by a link');

sql("INSERT INTO customers (customer_name, phone) VALUES ('Fifth', '9700000002')");
is_parked(sql("SELECT max(id) FROM customers"), 4, 'a row that waits for the fourth');
sql("TRUNCATE customers");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'is gone with all others');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Sixth', '9700000002')");
poll_ok($node, "SELECT kapture_customer_id = $first FROM customers WHERE customer_name = 'Sixth'", 'and a new row has the customer');

# rows that have customers take each other's phone or email
fresh('link');
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('First', '9705000001', 'first\@example.com'), ('Second', '9705000002', NULL), ('Third', '9705000003', NULL)");
poll_ok($node, "SELECT count(kapture_customer_id) = 3 FROM customers", 'three rows have customers');
my ($one, $two, $three) = map { has_id($_) } 1 .. 3;
sub phones { return join ' ', map { customer($_)->{phone} } $one, $two, $three }
sub waits
{
	my ($row, $holder, $name) = @_;
	return poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE row_key = '$row' AND state = 'parked'"
		  . " AND message LIKE 'Kapture customer % still has this phone or email, which the row with key \"$holder\" of table public.customers had before'"
		  . " AND hint LIKE 'nothing, while the other row''s change is under way:%'", $name);
}

emulator_faults($emulator, { api => 'update', match => "\"$three\"", action => 'late', ms => 500 });
sql("UPDATE customers SET phone = '970500000' || id + 1");
idle_ok('each row gets the phone of the next one, and Kapture is slow with the last');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'none of them waits for ever');
is(phones(), '9705000002 9705000003 9705000004', 'and Kapture has them');
emulator_faults($emulator, { api => 'update', match => "\"$one\"", action => 'late', ms => 500 }, { api => 'get', action => 'not_found', count => 1 });
sql("UPDATE customers SET phone = '970500000' || id");
idle_ok('and back, with a search that lags');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'nothing waits');
is(phones(), '9705000001 9705000002 9705000003', 'they have their own again');
emulator_faults($emulator);

$before = requests('update');
sql("UPDATE customers SET phone = '970500000' || 3 - id WHERE id < 3");
waits(1, 2, 'of two rows that exchange their phones, the first waits for the second');
waits(2, 1, 'which waits for the first');
is(requests('update') - $before, 2, 'neither is tried again and again');
sql("UPDATE customers SET phone = '9705000009' WHERE id = 2");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'when one of them gets another phone, the other one follows');
sql("UPDATE customers SET phone = '9705000001' WHERE id = 2");
idle_ok('and the first one is free');
is(phones(), '9705000002 9705000001 9705000003', 'they have exchanged their phones');

sql("UPDATE customers SET email_id = 'FIRST\@example.com' WHERE id = 3");
is_parked(3, 1, 'a row that takes the email of another one is parked, which names that one');
is(sql("SELECT api || ' ' || http_status FROM kapture_failures"), 'update 400', 'with what was sent');
sql("UPDATE customers SET email_id = 'one\@example.com' WHERE id = 1");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'until that has another email');
idle_ok('nothing waits');
is(customer($three)->{email_id}, 'FIRST@example.com', 'and has it then');
# two rows are merged that both are customers: Kapture merges none
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('Merged', '9705000021', 'merged\@example.com'), ('Remains', '9705000022', NULL)");
idle_ok('two rows that are to be merged have customers');
my ($merged, $remains) = map { sql("SELECT kapture_customer_id || ' ' || id FROM customers WHERE customer_name = '$_'") } 'Merged', 'Remains';
sql("BEGIN; DELETE FROM customers WHERE customer_name = 'Merged'; UPDATE customers SET email_id = 'merged\@example.com', city = 'Hubli' WHERE customer_name = 'Remains'; COMMIT");
my ($merged_id, $merged_key) = split / /, $merged;
poll_ok($node, "SELECT message = 'Kapture customer $merged_id has this phone or email; its row, with key \"$merged_key\" of table public.customers, was deleted or has left'"
	  . " AND hint LIKE 'where the two rows were merged, merge their customers in Kapture, too%' FROM kapture_failures", 'a row that has taken the email of a deleted one says whose it is, and what to do');
sql("SELECT kapture_update_customer(jsonb_build_object('kapture_customer_id', '$merged_id', 'email_id', 'former\@example.com'))");
sql("SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'which helps');
idle_ok('and that is all');
is(customer((split / /, $remains)[0])->{email_id}, 'merged@example.com', 'it has the email');
sql("DELETE FROM customers WHERE customer_name = 'Remains'");
# the row that gives its phone away is deleted while that is under way
foreach my $on_delete ('', '{"campaign_name": "deleted"}')
{
	my $phone = $on_delete ? '970500003' : '970500002';
	sql("SELECT kapture_alter('customers', on_delete => '$on_delete')") if $on_delete;
	sql("INSERT INTO customers (customer_name, phone) VALUES ('Leaves', '${phone}1'), ('Stays', '${phone}2')");
	idle_ok('two more rows have customers');
	my ($leaves, $stays) = map { sql("SELECT kapture_customer_id FROM customers WHERE customer_name = '$_'") } 'Leaves', 'Stays';
	emulator_faults($emulator, { api => 'update', match => "\"$leaves\"", action => 'late', ms => 1500 });
	sql("UPDATE customers SET phone = CASE customer_name WHEN 'Leaves' THEN '${phone}3' ELSE '${phone}1' END WHERE customer_name IN ('Leaves', 'Stays')");
	wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} > 0 }, 'one to give its phone away');
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE row_key = (SELECT id::text FROM customers WHERE customer_name = 'Stays')",
		'which another one cannot have yet');
	sql("DELETE FROM customers WHERE customer_name = 'Leaves'");
	poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'a row that waits for the phone of one that is deleted meanwhile');
	idle_ok('and that is all');
	is(customer($stays)->{phone}, "${phone}1", 'has it');
	is(customer($leaves)->{phone}, "${phone}3", 'which the deleted one has no more');
	emulator_faults($emulator);
	sql("DELETE FROM customers WHERE customer_name = 'Stays'");
}
sql("SELECT kapture_alter('customers', reset => '{on_delete}')");
# an Update whose answer was lost is carried out when its row is deleted, and another row gets the customer
foreach my $way ('DELETE', 'TRUNCATE')
{
	my $phone = $way eq 'DELETE' ? '9705000041' : '9705000042';
	sql("CREATE TABLE late (LIKE customers INCLUDING INDEXES); SELECT kapture_attach('late')") if $way eq 'DELETE';
	sql("INSERT INTO late (id, customer_name, phone) VALUES (1, 'First', '$phone')");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM late", "$way: a row has its customer");
	my $customer = sql("SELECT kapture_customer_id FROM late");
	emulator_faults($emulator, { api => 'update', match => "\"$customer\"", action => 'gateway', ms => 1500, count => 1 });
	sql("UPDATE late SET city = 'Old' WHERE id = 1");
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE in_doubt > now() AND state = 'retry'", 'whose next Update is lost');
	sql($way eq 'DELETE' ? "DELETE FROM late" : "TRUNCATE late");
	sql("INSERT INTO late (id, customer_name, phone, city) VALUES (2, 'Second', '$phone', 'New')");
	poll_ok($node, "SELECT message LIKE 'an Update of the deleted row that was Kapture customer $customer may still be carried out' AND hint LIKE 'nothing: the row gets that customer%' AND state = 'retry'"
		  . " FROM kapture_failures WHERE relation = 'late'::regclass AND row_key = '2'",
		'another row that is to get the customer waits for the end of that');
	poll_ok($node, "SELECT kapture_customer_id = $customer FROM late", 'then it gets it');
	idle_ok('and nothing waits');
	is(customer($customer)->{city}, 'New', 'the late Update has not overwritten its values');
	emulator_faults($emulator);
	sql("DELETE FROM late");
	idle_ok('nothing is left');
}

# the Update is in flight when the row is deleted; and its worker ends, or does not
sql("ALTER SERVER kapture OPTIONS (SET timeout '3s')");
foreach my $ends (1, 0)
{
	my $phone = "970500004$ends";
	sql("INSERT INTO late (id, customer_name, phone) VALUES (1, 'First', '$phone')");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM late", 'a row has its customer');
	my $first = sql("SELECT kapture_customer_id FROM late");
	emulator_faults($emulator, { api => 'update', match => "\"$first\"", action => 'late', ms => 3000, count => 1 });
	sql("UPDATE late SET city = 'Old' WHERE id = 1");
	poll_ok($node, "SELECT in_flight = 1 FROM kapture_status WHERE relation = 'late'::regclass", 'whose next Update is in flight');
	sql("DELETE FROM late");
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE row_key IS NULL AND state = 'sending'", 'as it is deleted');
	restart_worker($node, 'and the worker ends') if $ends;
	sql("INSERT INTO late (id, customer_name, phone, city) VALUES (2, 'Second', '$phone', 'New')");
	poll_ok($node, "SELECT message LIKE 'an Update of the deleted row that was Kapture customer $first may still be carried out' FROM kapture_failures WHERE relation = 'late'::regclass AND row_key = '2'",
		'another row that is to get the customer waits for the end of that, too') if $ends;
	poll_ok($node, "SELECT kapture_customer_id = $first FROM late", 'then it gets it');
	idle_ok('and nothing waits');
	wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} == 0 }, 'what is late');
	is(customer($first)->{city}, 'New', 'the late Update has not overwritten its values');
	emulator_faults($emulator);
	sql("DELETE FROM late");
	idle_ok('nothing is left');
}
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s'); SELECT kapture_detach('late'); DROP TABLE late");

emulator_post($emulator, 'seed', [ { kapture_customer_id => 499, customer_name => 'No row', phone => '9705000008' } ]);
sql("UPDATE customers SET phone = '9705000008' WHERE id = 3");
poll_ok($node, "SELECT message LIKE 'This mobile number already exists%' AND state = 'parked' FROM kapture_failures", 'a phone of a customer that is no row is refused in Kapture\'s words');

# a row that has left comes back to a customer that another one has taken over
sub refreshed
{
	my ($id_column) = @_;
	sql("SELECT kapture_detach('customers'); DROP TABLE customers");
	emulator_post($emulator, 'reset', {});
	create_customers($node, attach => ", filter => 'note IS NULL', id_column => $id_column");
	sql("INSERT INTO customers (customer_name, phone) VALUES ('First', '9706000001')");
	idle_ok('a row has a customer');
	sql("UPDATE customers SET note = 'left'");
	idle_ok('and leaves');
	sql("INSERT INTO customers (customer_name, phone) VALUES ('Second', '9706000001')");
	idle_ok('another one takes its customer over');
	sql("UPDATE customers SET note = NULL, city = 'Pune' WHERE id = 1");
	idle_ok('the first one comes back');
	is(join(' ', map { $_->{customer_name} } @{ emulator_get($emulator, 'customers') }), 'Second', 'and overwrites nothing');
	return;
}
refreshed("'kapture_customer_id'");
like(sql("SELECT message || '|' || hint FROM kapture_failures WHERE row_key = '1' AND state = 'parked'"),
	qr/^Kapture customer \d+ was taken over by the row with key "2" while this row was outside\|another row has this one's customer: set the id of this row to NULL/, 'which is reported, with what to do');
sql("UPDATE customers SET note = 'left' WHERE id = 2");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_failures", 'when the other one leaves, it has its customer again');
idle_ok('nothing waits');
is(join(' ', map { "$_->{customer_name} $_->{city}" } @{ emulator_get($emulator, 'customers') }), 'First Pune', 'whole');
is(sql("SELECT count(*) FROM kapture_verify('customers')"), '0', 'and a verification finds nothing wrong with the id that the other one has kept');
refreshed('NULL');
is_parked(1, 2, 'an id that the extension keeps is given up with the customer: the row shares a phone');
sql("UPDATE customers SET phone = '9706000002' WHERE id = 1");
poll_ok($node, "SELECT kapture_id('customers', '1') <> kapture_id('customers', '2')", 'with another one, it gets a customer of its own');

# both are on their way at the same time
fresh('link');
emulator_post($emulator, 'seed', [ { kapture_customer_id => 501, customer_name => 'Was there', phone => '9710000001' } ]);
sql("SELECT kapture_pause('customers'); INSERT INTO customers (customer_name, phone) VALUES ('One', '9710000001'), ('Two', '9710000001'), ('Three', '9710000001'); SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(*) = 2 FROM kapture_failures WHERE state = 'parked' AND message LIKE 'Kapture customer 501 belongs to the row%'", 'of three rows that come together, two are parked');
is(sql("SELECT count(*) FROM customers WHERE kapture_customer_id = 501"), '1', 'and one is linked');

# an id that a user has taken away counts no more
sql("UPDATE customers SET kapture_customer_id = NULL; SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = 501", 'a row without its id does not hold it');

# several tables of one server
fresh('link');
sql(q{CREATE TABLE others (id bigint PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('others');
	INSERT INTO others VALUES (7, 'Other', '9720000001')});
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM others", 'a row of another table');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Mine', '9720000001')");
poll_ok($node, "SELECT message LIKE '%belongs to the row with key \"7\" of table public.others already' FROM kapture_failures", 'has a customer that no row of this one gets');
sql("GRANT USAGE ON FOREIGN SERVER kapture TO clerk; ALTER TABLE others OWNER TO clerk; CREATE USER MAPPING FOR clerk SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM='); SELECT kapture_retry('customers')");
poll_ok($node, "SELECT message LIKE 'Kapture customer % belongs to a row of another owner''s table already' FROM kapture_failures",
	'what belongs to another role is not named');
sql("DELETE FROM others");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'and is free when it is deleted, there too');
sql("SELECT kapture_detach('others'); DROP TABLE others");

# ids that rows had before they were known
fresh('link');
emulator_post($emulator, 'seed', [ { kapture_customer_id => 551, customer_name => 'Was there', phone => '9725000001' } ]);
sql("CREATE INDEX ON customers (kapture_customer_id); SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone, kapture_customer_id) VALUES ('Known', '9725000002', 551)");
is(sql("SELECT count(*) FROM kapture_row"), '0', 'a row that was never sent');
sql("INSERT INTO customers (customer_name, phone) VALUES ('New', '9725000001')");
is_parked(2, 1, 'is found by the index of its id column');
is(customer(551)->{customer_name}, 'Was there', 'and its customer is left alone');
sql("DELETE FROM customers WHERE id = 1");
poll_ok($node, "SELECT kapture_customer_id = 551 FROM customers WHERE id = 2", 'until it is deleted');

# an account whose Add takes the existing customer
fresh('link');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Taken', '9730000001')");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'a row has a customer');
$first = has_id(1);
emulator_faults($emulator, { api => 'add', action => 'status', code => 200, count => 1,
	body => qq({"Enquiry": {"kapture_customer_id": $first, "phone": "9730000002"}, "message": "validation successfull", "status": "success"}) });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Upserted', '9730000002')");
is_parked(2, 1, 'an Add that is answered with the customer of another row parks its row');
is(has_id(2), '', 'which does not get the id');
emulator_faults($emulator);

# what becomes of the row that waits, if the other one never had its id written
fresh('link');
sql(qq(CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS \$\$BEGIN RAISE 'not here'; END\$\$;
CREATE TRIGGER keep_out BEFORE UPDATE ON customers FOR EACH ROW WHEN (OLD.id = 1 AND NEW.kapture_customer_id IS NOT NULL) EXECUTE FUNCTION keep_out();
INSERT INTO customers (customer_name, phone) VALUES ('Unwritten', '9735000001')));
poll_ok($node, "SELECT message LIKE '%not here%' FROM kapture_failures WHERE row_key = '1'", 'the id of a row cannot be written');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Waits for it', '9735000001')");
is_parked(2, 1, 'another one waits for it');
sql("DELETE FROM customers WHERE id = 1");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = 2", 'and is no longer parked when that is deleted');
idle_ok('nothing waits');
is(join(' ', map { $_->{customer_name} } @{ emulator_get($emulator, 'customers') }), 'Waits for it', 'the customer is its own now');

# a row that was in doubt when it had to wait
fresh('link');
sql("INSERT INTO customers (customer_name, phone) VALUES ('First', '9735000002')");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'a row has a customer');
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Second', '9735000002')");
is_parked(2, 1, 'an Add that is lost finds the customer of another row');
sql("UPDATE customers SET phone = '9735000003' WHERE id = 2");
poll_ok($node, "SELECT count(DISTINCT kapture_customer_id) = 2 FROM customers", 'with another phone, its row gets a customer of its own');
idle_ok('nothing waits');
is(join(' ', sort map { $_->{phone} } @{ emulator_get($emulator, 'customers') }), '9735000002 9735000003', 'and no more');

# a lost Add, and a row that changes between the two searches for it
fresh('link');
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 }, { api => 'get', action => 'not_found' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Lost', '9735000004')");
poll_ok($node, "SELECT searches = 1 AND in_doubt = next_attempt FROM kapture_delivery", 'a row stays in doubt until its next search');
emulator_faults($emulator);
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", 'which finds the customer');
idle_ok('nothing waits');

# on_duplicate
fresh('link only');
emulator_post($emulator, 'seed', [ { kapture_customer_id => 601, customer_name => 'Was there', phone => '9740000001', city => 'Pune' } ]);
sql("INSERT INTO customers (customer_name, phone, city) VALUES ('Linked', '9740000001', 'Surat')");
poll_ok($node, "SELECT kapture_customer_id = 601 FROM customers", "'link only' takes the id");
idle_ok('and sends nothing');
is(requests('update') . ' ' . customer(601)->{customer_name}, '0 Was there', 'of the row');
sql("UPDATE customers SET city = 'Nagpur'");
poll_ok($node, "SELECT action = 'update' FROM kapture_history ORDER BY finished_at DESC LIMIT 1", 'until it changes');
is(customer(601)->{city} . ' ' . customer(601)->{customer_name}, 'Nagpur Was there', 'what has changed is sent then');
fresh('fail');
emulator_post($emulator, 'seed', [ map { { kapture_customer_id => 600 + $_, customer_name => 'Was there', phone => "974000000$_" } } 2 .. 4 ]);
sql("INSERT INTO customers (customer_name, phone) VALUES ('Later', '9740000002')");
poll_ok($node, "SELECT state = 'parked' FROM kapture_failures", "with 'fail', a row is parked");
sql("SELECT kapture_alter('customers', on_duplicate => 'link only'), kapture_retry('customers')");
poll_ok($node, "SELECT kapture_customer_id = 602 FROM customers", "kapture_alter changes that to 'link only'");
is(sql("SELECT on_duplicate FROM kapture_attachments"), 'link only', 'which kapture_attachments shows');
sql("SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone) VALUES ('Filled', '9740000003')");
sql("CALL kapture_backfill('customers')");
poll_ok($node, "SELECT kapture_customer_id = 603 FROM customers WHERE customer_name = 'Filled'", 'a backfill links, too');
is(requests('update'), 0, 'and sends nothing');
sql("SELECT kapture_alter('customers', reset => '{on_duplicate}'); INSERT INTO customers (customer_name, phone) VALUES ('Sent', '9740000004')");
poll_ok($node, "SELECT kapture_customer_id = 604 FROM customers WHERE customer_name = 'Sent'", "back at 'link'");
is(customer(604)->{customer_name}, 'Sent', 'the row is sent');
($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_attach('plain', on_duplicate => 'ignore')");
like($err, qr/ERROR:  invalid value for argument "on_duplicate": "ignore"\nHINT:  Valid values are "link", "link only" and "fail"\./, 'other values are refused');

$node->stop;
done_testing();
