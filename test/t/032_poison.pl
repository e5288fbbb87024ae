# A row that cannot be sent, or whose id cannot be written back, waits alone and
# says why.  Nothing that a row holds or that Kapture answers ends the worker.
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
my $phone = 9500000000;
my $worker = sql("SELECT kapture_worker_pid()");

sub stats { return emulator_get($emulator, 'stats') }
sub insert
{
	my ($name) = @_;
	$phone++;
	return sql("INSERT INTO customers (customer_name, phone) VALUES ('$name', '$phone') RETURNING id");
}

sub failure_ok
{
	my ($id, $pattern, $name) = @_;
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'customers'::regclass AND row_key = '$id' AND message ~ '$pattern'", $name);
	return;
}

sub has_id { return "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = $_[0]" }

# --- code of a table that says for ever that its row is locked; what becomes of it is seen at the end
my $calm = start_emulator();
$node->safe_psql('postgres', 'CREATE DATABASE busy');
setup_sync($node, $calm, db => 'busy');
sql(q(
CREATE TABLE busy (id int PRIMARY KEY, customer_name text, phone text);
CREATE FUNCTION busy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id <= 3 THEN RAISE 'row % is busy', NEW.id USING ERRCODE = CASE NEW.id WHEN 1 THEN '55P03' WHEN 2 THEN '40P01' ELSE '40001' END; END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER busy BEFORE UPDATE ON busy FOR EACH ROW EXECUTE FUNCTION busy();
CREATE FUNCTION busy_name(id int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	IF id = 4 THEN RAISE 'row 4 is busy' USING ERRCODE = '53200'; END IF;
	RETURN 'Busy';
END $$;
SELECT kapture_attach('busy', columns => '{"customer_name": {"expression": "busy_name(id)"}, "phone": "phone"}');
INSERT INTO busy SELECT i, 'Busy', 9400000000 + i FROM generate_series(1, 5) i;
CREATE TABLE waits (id int PRIMARY KEY, customer_name text, phone text);
CREATE TABLE total (n int);
INSERT INTO total VALUES (0);
CREATE FUNCTION count_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM FROM public.total FOR UPDATE NOWAIT; RETURN NEW; END $$;
CREATE TRIGGER count_up BEFORE UPDATE ON waits FOR EACH ROW EXECUTE FUNCTION count_up();
SELECT kapture_attach('waits');
BEGIN;
UPDATE total SET n = 1;
PREPARE TRANSACTION 'total';
INSERT INTO waits VALUES (1, 'Waits', '9420000001');
), 'busy');

# --- the write-back
sql(q(
CREATE FUNCTION no_write_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF OLD.kapture_customer_id IS NULL AND NEW.kapture_customer_id IS NOT NULL THEN
		IF NEW.customer_name = 'Trigger raises' THEN RAISE 'not this one'; END IF;
		IF NEW.customer_name = 'Trigger returns null' THEN RETURN NULL; END IF;
		IF NEW.customer_name = 'Trigger protects' THEN NEW.kapture_customer_id := OLD.kapture_customer_id; END IF;
		IF NEW.customer_name = 'Trigger counts' THEN NEW.kapture_customer_id := NEW.kapture_customer_id + 1; END IF;
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER no_write_back BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION no_write_back();
CREATE FUNCTION deferred_raise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.customer_name = 'Deferred raises' AND NEW.kapture_customer_id IS NOT NULL THEN RAISE 'not at the end either, %', current_user; END IF;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER deferred_raise AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred_raise();
ALTER TABLE customers ADD CONSTRAINT no_id CHECK (customer_name <> 'Check' OR kapture_customer_id IS NULL);
CREATE FUNCTION take_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.customer_name LIKE TG_ARGV[0] AND NEW.kapture_customer_id IS NOT NULL THEN
		UPDATE public.customers SET kapture_customer_id = NULL WHERE id = NEW.id;
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER take_back AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION take_back('After');
CREATE CONSTRAINT TRIGGER take_back_last AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION take_back('Deferred');
));
my @bad = map { insert($_) } ('Trigger raises', 'Trigger returns null', 'Deferred raises', 'Check', 'Trigger protects', 'Trigger counts', 'After', 'Deferred');
my @good = map { insert("Good $_") } 1 .. 50;
poll_ok($node, "SELECT count(kapture_customer_id) = 50 FROM customers", 'rows whose id cannot be written hold up nobody');
failure_ok($bad[0], 'not this one', 'a trigger that raises: its error is shown');
failure_ok($bad[1], 'changed no row', 'a trigger that suppresses the update is noticed');
failure_ok($bad[2], 'not at the end either', 'a deferred trigger fires at once');
failure_ok($bad[3], 'no_id', 'a check constraint');
failure_ok($bad[4], 'a trigger of the table has put another value in place of the Kapture customer id', 'a trigger that takes the id back is noticed');
failure_ok($bad[5], 'a trigger of the table has put another value in place of the Kapture customer id', 'and one that writes another id, which is not kept');
failure_ok($bad[6], 'a trigger of the table has put another value in place of the Kapture customer id', 'one that takes the id back after the update is noticed');
failure_ok($bad[7], 'a trigger of the table has put another value in place of the Kapture customer id', 'even at the end of the transaction');
is(sql("SELECT count(*) FROM kapture_failures WHERE state = 'parked'"), '8', 'they are parked');
is(stats()->{adds}, 58, 'each was added once');
my $requests = stats()->{requests};
sql("DROP TRIGGER no_write_back ON customers; DROP TRIGGER deferred_raise ON customers; DROP TRIGGER take_back ON customers; DROP TRIGGER take_back_last ON customers; ALTER TABLE customers DROP CONSTRAINT no_id");
is(sql("SELECT kapture_retry('customers')"), '8', 'retried when fixed');
poll_ok($node, "SELECT count(kapture_customer_id) = 58 FROM customers", 'their ids, which were kept, are written');
is(stats()->{requests}, $requests, 'without asking Kapture for them');
oracle_ok($node, $emulator, 'every id is right');

# a trigger that changes a mapped column whenever the row is written
sql(q(
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.city := coalesce(NEW.city, '') || 'x'; RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch()));
my $touched = insert('Touched');
poll_ok($node, has_id($touched), 'its id is written');
poll_ok($node, $idle, 'and that comes to an end');
is(sql("SELECT city FROM customers WHERE id = $touched"), 'x', 'the row was written once');
my ($customer) = @{ emulator_get($emulator, 'customers?id=' . sql("SELECT kapture_customer_id FROM customers WHERE id = $touched")) };
is("$customer->{city} $customer->{updates}", 'x 1', 'and what the trigger made of it is sent, once');
sql("DROP TRIGGER touch ON customers");

# --- locks
my $locker = $node->background_psql('postgres');
my $locked = insert('Locked');
poll_ok($node, has_id($locked), 'the row is there');
hold_adds($node, $emulator);
$locked = insert('Locked');
$locker->query_safe("BEGIN; SELECT FROM customers WHERE id = $locked FOR UPDATE");
release_adds($node, $emulator);
failure_ok($locked, 'the row is locked', 'a locked row waits');
insert("Beside $_") for 1 .. 20;
poll_ok($node, "SELECT count(*) = 0 FROM customers WHERE kapture_customer_id IS NULL AND id <> $locked", 'and holds up nobody');
$locker->query_safe("COMMIT");
poll_ok($node, has_id($locked), 'its id is written once it is free');
is(sql("SELECT string_agg(action, ' ') FROM kapture_history WHERE row_key = '$locked'"), 'add', 'and the history says that it was added');
oracle_ok($node, $emulator, 'added once');

# more of them than are taken up at a time
sql("SELECT kapture_pause('customers')");
sql("INSERT INTO customers (customer_name, phone) SELECT 'Crowd', (9550000000 + i)::text FROM generate_series(1, 600) i");
$locker->query_safe("BEGIN; SELECT count(*) FROM (SELECT FROM customers WHERE customer_name = 'Crowd' FOR UPDATE) s");
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(*) = 600 FROM kapture_delivery WHERE last_error LIKE 'the row is locked%'", 'six hundred locked rows wait');
insert("Behind $_") for 1 .. 20;
poll_ok($node, "SELECT count(*) = 20 FROM customers WHERE customer_name LIKE 'Behind%' AND kapture_customer_id IS NOT NULL", 'and hide nobody behind them');
is(sql("SELECT count(kapture_customer_id) FROM customers WHERE customer_name = 'Crowd'"), '0', 'while they are locked');
$locker->query_safe("COMMIT");
poll_ok($node, $idle, 'and go on once they are free');
is(sql("SELECT DISTINCT action FROM kapture_history JOIN customers ON id::text = row_key WHERE customer_name = 'Crowd'"), 'add', 'as rows that were added');
oracle_ok($node, $emulator, 'all of them');

$locker->query_safe("BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE");
$locker->query_safe("INSERT INTO customers (customer_name, phone) VALUES ('Under a table lock', '9510000000')");
$locker->query_safe("COMMIT");
$locker->quit;
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'a lock on the table is survived');

# --- rows that go, move, change while they are sent
hold_adds($node, $emulator);
my $gone = insert('Deleted in flight');
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status WHERE relation = 'customers'::regclass", 'in flight');
sql("DELETE FROM customers WHERE id = $gone");
release_adds($node, $emulator);
poll_ok($node, "SELECT count(*) = 1 FROM kapture_history WHERE row_key = '$gone' AND action = 'gone'", 'a row deleted in flight ends as gone');
is(sql("SELECT kapture_customer_id IS NULL FROM (SELECT) s LEFT JOIN customers ON id = $gone"), 't', 'and does not come back');
my ($deleted) = grep { $_->{customer_name} eq 'Deleted in flight' } @{ emulator_get($emulator, 'customers') };
ok($deleted, 'its customer stays in Kapture');

hold_adds($node, $emulator);
my $given = insert('Given an id');
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status WHERE relation = 'customers'::regclass", 'in flight');
sql("UPDATE customers SET kapture_customer_id = 4711 WHERE id = $given");
release_adds($node, $emulator);
poll_ok($node, $idle, 'the answer comes');
is(sql("SELECT kapture_customer_id FROM customers WHERE id = $given"), '4711', 'an id that somebody else has written stays');
sql("DELETE FROM customers WHERE id = $given");

sql("CREATE TABLE moving (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('moving')");
hold_adds($node, $emulator);
my $adds = stats()->{adds};
sql("INSERT INTO moving VALUES (1, 'Moving', '9520000001')");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status WHERE relation = 'moving'::regclass", 'in flight');
sql("UPDATE moving SET id = 2");
release_adds($node, $emulator);
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM moving WHERE id = 2", 'a row whose key changes in flight gets its id');
is(stats()->{adds} - $adds, 1, 'and is added once');

# --- shapes that change under waiting rows
sql("SELECT kapture_pause('moving'); INSERT INTO moving VALUES (3, 'Dropped column', '9520000003'), (4, 'Other column', '9520000004')");
sql("ALTER TABLE moving DROP COLUMN phone");
sql("SELECT kapture_resume('moving')");
poll_ok($node, "SELECT count(*) = 2 FROM kapture_failures WHERE relation = 'moving'::regclass AND message LIKE 'Name and (Phone%'", 'a mapped column was dropped: Kapture says what is missing');
sql("ALTER TABLE moving DROP CONSTRAINT moving_pkey; ALTER TABLE moving ADD COLUMN key text; UPDATE moving SET key = 'k' || id; ALTER TABLE moving ADD PRIMARY KEY (key)");
sql("SELECT kapture_retry('moving')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_status WHERE relation = 'moving'::regclass AND pending + in_flight + retrying > 0", 'another primary key is survived');
sql("ALTER TABLE moving ALTER COLUMN kapture_customer_id TYPE text");
sql("INSERT INTO moving (id, customer_name, key) VALUES (5, 'No phone', 'k5')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'moving'::regclass AND row_key = 'k5'", 'so is another type of the id column');
sql("SELECT kapture_pause('moving'); INSERT INTO moving (id, customer_name, key) VALUES (6, 'Waiting', 'k6'); DROP TABLE moving");
insert('After the drop');
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'so is a table dropped with rows waiting');
$node->wait_for_log(qr/1 attached tables of database "postgres" were dropped, with [1-9]\d* waiting changes/);
pass('which the log says');
is(sql("SELECT count(*) FROM kapture_attachment a WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = a.relation)"), '0', 'and nothing of it is left');

# --- row level security
sql(q(
CREATE ROLE shop LOGIN;
CREATE TABLE hidden (id int PRIMARY KEY, customer_name text, phone text);
ALTER TABLE hidden OWNER TO shop;
GRANT USAGE ON FOREIGN SERVER kapture TO shop;
CREATE USER MAPPING FOR shop SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
GRANT CREATE ON SCHEMA public TO shop;
SET ROLE shop;
SELECT kapture_attach('hidden');
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
RESET ROLE;
INSERT INTO hidden VALUES (1, 'Hidden', '9530000001');
));
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'hidden'::regclass AND state = 'parked' AND message LIKE '%row-level security%'", 'a row hidden from its owner is a failure, not a deleted row');
sql("ALTER TABLE hidden NO FORCE ROW LEVEL SECURITY; SELECT kapture_retry('hidden')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM hidden", 'and goes when it may be seen');

# --- values
sql("ALTER SERVER kapture OPTIONS (SET timeout '1h')");	# a busy machine may need long for it
my $big = insert('Big');
sql("UPDATE customers SET city = repeat('x', 1024 * 1024) WHERE id = $big");
poll_ok($node, $idle, 'a million characters are sent');
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");
is(length(emulator_get($emulator, 'customers?id=' . sql("SELECT kapture_customer_id FROM customers WHERE id = $big"))->[0]{city}), 1024 * 1024, 'and arrive');
sql("UPDATE customers SET city = city || 'x' WHERE id = $big");
poll_ok($node, "SELECT state = 'parked' AND message = 'value too long: column \"city\" has 1048577 bytes, at most 1048576 are sent' FROM kapture_failures WHERE row_key = '$big'",
	'one more is not');
sql("UPDATE customers SET customer_name = repeat('n', 900000), email_id = repeat('e', 900000), city = repeat('c', 900000) WHERE id = $big");
poll_ok($node, "SELECT state = 'parked' AND message LIKE 'values too long: the mapped columns have 27000__ bytes together, at most 2097152 are sent' FROM kapture_failures WHERE row_key = '$big'",
	'nor are values that are too long together');
sql("DELETE FROM customers WHERE id = $big");

my $odd = insert('Odd');
sql(qq(UPDATE customers SET customer_name = E'"quoted" \\\\back\\\\ \\t\\n\\x01 \\u00e4\\u20ac\\U0001F600', city = '{"a": [1]}' WHERE id = $odd));
poll_ok($node, $idle, 'odd characters are sent');
is(emulator_get($emulator, 'customers?id=' . sql("SELECT kapture_customer_id FROM customers WHERE id = $odd"))->[0]{customer_name},
	"\"quoted\" \\back\\ \t\n\x01 \x{e4}\x{20ac}\x{1F600}", 'and arrive');

# --- keys as long as their own index takes them, and longer
sql("CREATE TABLE long_keys (key text PRIMARY KEY, customer_name text, phone text); ALTER TABLE long_keys ALTER key SET STORAGE PLAIN; SELECT kapture_attach('long_keys')");
sql("INSERT INTO long_keys SELECT string_agg(md5(i::text), ''), 'Long', '9560000001' FROM generate_series(1, 84) i");
sql("INSERT INTO long_keys SELECT left(string_agg(md5(i::text), ''), 2692), 'Longest', '9560000002' FROM generate_series(1, 85) i");
sql("CREATE TABLE quoted (a text, b text, customer_name text, phone text, PRIMARY KEY (a, b)); SELECT kapture_attach('quoted')");
sql("INSERT INTO quoted SELECT left(k, 1300), right(k, 1300), 'Quoted', '9560000003' FROM (SELECT string_agg(md5(i::text) || '\"\"\"', '') AS k FROM generate_series(1, 80) i) s");
poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM long_keys", 'keys of 2,692 bytes go');
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM quoted", 'so do two columns of 1,300 with quotes');
sql("UPDATE long_keys SET customer_name = 'Changed'");
poll_ok($node, "SELECT count(*) = 2 FROM kapture_history h JOIN kapture_attachment a USING (attachment_id) WHERE a.relation = 'long_keys'::regclass AND action = 'update'", 'and are found again');
sql("ALTER TABLE long_keys DROP CONSTRAINT long_keys_pkey, ALTER key SET STORAGE EXTENDED; UPDATE long_keys SET key = repeat(key, 100), phone = 'abc'");
poll_ok($node, "SELECT count(*) = 2 FROM kapture_failures WHERE relation = 'long_keys'::regclass AND length(row_key) > 200000", 'without an index, keys of any length');
is(sql("SELECT sum(kapture_discard('long_keys', row_key)) FROM kapture_failures WHERE relation = 'long_keys'::regclass"), '2', 'by which they can be named');

# a former key whose values can no longer be compared
sql("CREATE TABLE former (id text PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('former')");
sql("ALTER TABLE former DROP CONSTRAINT former_pkey; ALTER TABLE former ALTER id TYPE json USING to_json(id)");
sql(q(INSERT INTO former VALUES ('"x"', 'Former', '9570000001')));
is(sql("SELECT count(*) FROM former"), '1', 'the user can write all the same');
poll_ok($node, "SELECT state = 'misconfigured' FROM kapture_status WHERE relation = 'former'::regclass", 'and sees that it is not sent');

# --- answers
my %answer = (
	'a NUL' => '{"message": "a\\\\u0000b", "status": "failed"}',
	'half a surrogate' => '{"message": "\\\\ud800", "status": "failed"}',
	'bytes that are no UTF-8' => '{"message": "caf\xe9", "status": "failed"}',
	'deep nesting' => ('[' x 10000) . (']' x 10000),
	'an id beyond bigint' => '{"Enquiry": {"kapture_customer_id": 99999999999999999999}, "status": "success"}',
	'an id of huge scale' => '{"Enquiry": {"kapture_customer_id": 1e999999}, "status": "success"}',
	'an id below zero' => '{"Enquiry": {"kapture_customer_id": -5}, "status": "success"}',
	'no id' => '{"Enquiry": {}, "status": "success"}',
	'an array' => '[{"status": "success"}]',
	'a string' => '"success"',
	'null' => 'null',
	'half a document' => '{"message": "valid',
	'empty' => '');
foreach my $what (sort keys %answer)
{
	my $before = stats()->{adds};
	(my $json = $answer{$what}) =~ s/\\\\u/\\u/g;
	my $name = "Answer: $what";

	if ($json =~ /\xe9/)
	{
		# not expressible in a rule's JSON: the emulator's own garbage will do
		emulator_faults($emulator, { api => 'add', action => 'garbage', count => 1 });
	}
	else
	{
		emulator_faults($emulator, { api => 'add', action => 'garbage', count => 1, body => $json });
	}
	my $id = insert($name);
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE row_key = '$id' AND relation = 'customers'::regclass UNION ALL " . has_id($id) . " ORDER BY 1 DESC LIMIT 1", "$what: noticed");
	emulator_faults($emulator);
	sql("SELECT kapture_retry('customers')");
	poll_ok($node, has_id($id), "$what: the row has its id in the end");
	is(stats()->{adds} - $before, 1, "$what: it was added once");
}
emulator_faults($emulator, { api => 'add', action => 'endless', count => 1 });
my $endless = insert('Answer: endless');
poll_ok($node, has_id($endless), 'an endless answer is cut off, and its customer found');

# --- another encoding
$node->safe_psql('postgres', "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
setup_sync($node, $emulator, db => 'latin', options => "check_rows 'off'");
create_customers($node, db => 'latin');
$node->safe_psql('latin', "INSERT INTO customers (customer_name, phone) VALUES ('caf' || chr(233), '9540000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", 'a database in LATIN1', 'latin');
is((grep { $_->{phone} eq '9540000001' } @{ emulator_get($emulator, 'customers') })[0]{customer_name}, "caf\x{e9}", 'sends UTF-8');
emulator_faults($emulator, { api => 'add', action => 'status', code => 400, count => 1, body => "{\"message\": \"\x{20ac}\", \"status\": \"failed\"}" });
$node->safe_psql('latin', "INSERT INTO customers (customer_name, phone) VALUES ('Euro', '9540000002')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures", 'a message that LATIN1 cannot hold parks the row', 'latin');
emulator_faults($emulator);
$node->safe_psql('latin', "SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM customers", 'and it goes again', 'latin');

# what is recorded in the end, after others had locked it, is what was sent
emulator_faults($emulator, { api => 'add', action => 'delay', ms => 700, count => 1 });
$node->safe_psql('latin', "INSERT INTO customers (customer_name, phone) VALUES ('caf' || chr(233) || repeat(' au lait', 2000), '1')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE state = 'sending'", 'a row that Kapture is about to refuse', 'latin');
$locker = $node->background_psql('latin', on_error_stop => 1);
$locker->query_safe("BEGIN; SELECT FROM kapture_delivery FOR UPDATE");
$node->safe_psql('latin', "SELECT pg_sleep(2)");
is($node->safe_psql('latin', "SELECT count(*) FROM kapture_delivery WHERE state = 'sending'"), '1', 'is locked when the answer comes');
$locker->query_safe("ROLLBACK");
$locker->quit;
poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE last_error IS NOT NULL", 'and refused later', 'latin');
is($node->safe_psql('latin', "SELECT (request::jsonb ->> 'customer_name') = 'caf' || chr(233) || repeat(' au lait', 2000) FROM kapture_delivery"), 't', 'with the request that was sent');

# --- text that cannot be sent as UTF-8
foreach my $db ([ 'ascii', 'SQL_ASCII', '\xff', 'invalid byte sequence' ], [ 'win', 'WIN1252', '\x81', 'no equivalent in encoding "UTF8"' ])
{
	my ($name, $encoding, $byte, $message) = @$db;
	$node->safe_psql('postgres', "CREATE DATABASE $name ENCODING '$encoding' TEMPLATE template0 LOCALE 'C'");
	setup_sync($node, $emulator, db => $name);
	create_customers($node, db => $name);
	my $pid = $node->safe_psql($name, "SELECT kapture_worker_pid()");
	$node->safe_psql($name, "INSERT INTO customers (customer_name, phone) SELECT CASE WHEN i % 5 = 0 THEN convert_from('$byte', '$encoding') ELSE 'Good' END, 9580000000 + hashtext('$name') % 1000 * 100 + i FROM generate_series(1, 20) i");
	poll_ok($node, "SELECT count(kapture_customer_id) = 16 FROM customers", "$encoding: others go", $name);
	poll_ok($node, "SELECT count(*) = 4 FROM kapture_failures WHERE state = 'parked' AND strpos(message, '$message') > 0", "$encoding: rows that cannot be sent are parked with the reason", $name);
	$node->safe_psql($name, "UPDATE customers SET customer_name = 'Fixed' WHERE kapture_customer_id IS NULL");
	poll_ok($node, "SELECT count(kapture_customer_id) = 20 FROM customers", "$encoding: and go when they are fixed", $name);
	is($node->safe_psql($name, "SELECT kapture_worker_pid()"), $pid, "$encoding: by the same worker");
}

# --- what was said at the start for ever to be locked
poll_ok($node, "SELECT string_agg(row_key || message, ',' ORDER BY row_key) = '1row 1 is busy,2row 2 is busy,3row 3 is busy,4field \"customer_name\": row 4 is busy'"
	  . " FROM kapture_failures WHERE relation = 'busy'::regclass AND state = 'parked'", 'a row that its table says again and again to be locked is parked, with the error', 'busy');
is(sql("SELECT kapture_customer_id IS NOT NULL FROM busy WHERE id = 5", 'busy'), 't', 'others go');
is(sql("SELECT parked FROM kapture_status WHERE relation = 'waits'::regclass", 'busy'), '0', 'one whose trigger waits for a lock that somebody has is not parked');
sql("ROLLBACK PREPARED 'total'", 'busy');
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM waits", 'and goes when it is free', 'busy');
sql("DROP TRIGGER busy ON busy", 'busy');
is(sql("SELECT kapture_retry('busy')", 'busy'), '4', 'those that are parked are tried again when asked for');
poll_ok($node, "SELECT count(kapture_customer_id) = 4 FROM busy", 'and go', 'busy');

is(sql("SELECT kapture_worker_pid()"), $worker, 'the worker has lived through all this');
$node->stop;
done_testing();
