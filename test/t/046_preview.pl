# kapture_preview of rows that wait in every way there is, and of locked ones.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('preview');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator, options => "check_rows 'off'");    # what Kapture says is to be seen
create_customers($node);
my $of_customers = "FROM kapture_status WHERE relation = 'customers'::regclass";
my $idle = "SELECT pending + in_flight + retrying = 0 $of_customers";

sub id { return sql("SELECT kapture_customer_id FROM customers WHERE id = $_[0]") }

# what is shown, as "waiting|api|body", and what is said
sub preview
{
	my ($key, %params) = @_;
	my $relation = $params{of} || 'customers';
	my $before = $params{before} || '';
	my ($rc, $out, $err) = $node->psql('postgres', "${before}SELECT waiting, api, body FROM kapture_preview('$relation', '$key')");
	return ($out, $err);
}

# compares what is shown, returns what is said
sub preview_says
{
	my ($key, $shown, $name) = @_;
	my ($out, $err) = preview($key);
	is($out, $shown, $name);
	return $err;
}

sub preview_is { return is(preview_says(@_), '', 'and nothing else is said') }

# --- in the outbox: several rows in an entry, several entries for a row
sql("SELECT kapture_pause('customers')");
sql("INSERT INTO customers (customer_name, phone) SELECT 'Row ' || i, (9000000000 + i)::text FROM generate_series(1, 3) i");
preview_is($_, qq(t|add|{"customer_name": "Row $_", "phone": "900000000$_"}), "row $_ of those that were inserted together") foreach 1 .. 3;
sql("UPDATE customers SET city = 'Pune' WHERE id = 3");
preview_is(3, 't|add|{"customer_name": "Row 3", "phone": "9000000003", "city": "Pune"}', 'a row that changed since');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'all are sent');
preview_is(3, 'f|update|{"kapture_customer_id": "' . id(3) . '", "customer_name": "Row 3", "phone": "9000000003", "city": "Pune"}', 'a row for which nothing waits is shown with all its columns');
sql("SELECT kapture_pause('customers')");
sql("UPDATE customers SET city = 'Goa' WHERE id > 1");
sql("UPDATE customers SET email_id = 'three\@example.com' WHERE id = 3");
my $update = 't|update|{"kapture_customer_id": "' . id(3) . '", "email_id": "three@example.com", "city": "Goa"}';
preview_is(3, $update, 'two changes that wait are one request');
sql("UPDATE customers SET city = NULL WHERE id = 2");
my ($out, $err) = preview(2);
is($out, '', 'a value that was taken away is not sent');
like($err, qr/NOTICE:  nothing would be sent for the row with key "2"/, 'which is said');

# --- locked: looking waits for nobody but who has locked the table
my $locker = $node->background_psql('postgres');
$locker->query_safe("BEGIN; UPDATE customers SET city = 'Agra' WHERE id = 3");
preview_is(3, $update, 'a row that another session holds is shown as it is committed');
$locker->query_safe("ROLLBACK; BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE");
($out, $err) = preview(3, before => "SET lock_timeout = '10ms'; ");
like($err, qr/ERROR:  canceling statement due to lock timeout/, 'a table that is locked is waited for, as lock_timeout says');
$locker->query_safe("ROLLBACK");
preview_is(3, $update, 'and read once it is free');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'what waited is sent');
my ($sent) = grep { $_->{body} =~ /three/ } @{ emulator_get($emulator, 'log') };
is("t|update|$sent->{body}", $update, 'as it was shown');

sql(q(CREATE TABLE parted (id int PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted DEFAULT; SELECT kapture_attach('parted'); SELECT kapture_pause('parted'); INSERT INTO parted VALUES (1, 'Part', '9000000009')));
$locker->query_safe("BEGIN; LOCK TABLE parted_1 IN ACCESS EXCLUSIVE MODE");
($out, $err) = preview(1, of => 'parted');
like($err, qr/ERROR:  could not read the row with key "1"\n.*DETAIL:  Table "parted" or a partition of it is locked/, 'a partition that is locked is an error');
$locker->query_safe("COMMIT");
$locker->quit;
($out, $err) = preview(1, of => 'parted');
is($out, 't|add|{"customer_name": "Part", "phone": "9000000009"}', 'until it is free');

# --- in flight
hold_adds($node, $emulator);
sql("INSERT INTO customers (customer_name, phone) VALUES ('Flies', '9000000004')");
poll_ok($node, "SELECT in_flight = 1 $of_customers", 'a request is under way');
($out, $err) = preview(4);
is($out, 't|add|{"customer_name": "Flies", "phone": "9000000004"}', 'it is shown');
like($err, qr/NOTICE:  a request for the row with key "4" is in flight\n.*DETAIL:  What is shown would be sent if it were not/, 'and that it will not be sent beside that');
sql("UPDATE customers SET city = 'Delhi' WHERE id = 4");
($out, $err) = preview(4);
is($out, 't|add|{"customer_name": "Flies", "phone": "9000000004", "city": "Delhi"}', 'the row as it is now');
release_adds($node, $emulator);
poll_ok($node, $idle, 'it is answered, and what changed meanwhile is sent');
preview_is(4, 'f|update|{"kapture_customer_id": "' . id(4) . '", "customer_name": "Flies", "phone": "9000000004", "city": "Delhi"}', 'then nothing waits');

# --- parked
sql("INSERT INTO customers (customer_name, phone) VALUES ('Parked', 'abc')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE state = 'parked'", 'a row is parked');
($out, $err) = preview(5);
is($out, 't|add|{"customer_name": "Parked", "phone": "abc"}', 'what was refused is shown');
like($err, qr/NOTICE:  the row with key "5" is parked\n.*HINT:  It is sent when it changes, or after kapture_retry\(\)/, 'and what has it sent again');
sql("SELECT kapture_pause('customers')");
sql("UPDATE customers SET phone = '9000000005' WHERE id = 5");
preview_is(5, 't|add|{"customer_name": "Parked", "phone": "9000000005"}', 'a change that waits will do so');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'and does');
isnt(id(5), '', 'with success');

# --- to be tried again, in doubt
emulator_faults($emulator, { api => 'add', action => 'drop_after' }, { api => 'get', action => 'status', code => 503 });
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('Doubt', '9000000006', 'd\@example.com')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE row_key = '6'", 'an Add without an answer');
preview_says(6, 't|get|[{"kapture_customer_id": "", "customer_id": "", "email_id": "d@example.com", "phone": "9000000006"}]', 'is looked for before it is sent again');
emulator_faults($emulator);
poll_ok($node, $idle, 'and found');
oracle_ok($node, $emulator, 'nobody was added twice');

# --- an Update that may still be running
sql("ALTER SERVER kapture OPTIONS (SET timeout '60s')");
emulator_faults($emulator, { api => 'update', action => 'gateway', ms => 10, count => 1 });
sql("UPDATE customers SET city = 'Pune' WHERE id = 6");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE row_key = '6'", 'a gateway gave up on an Update');
($out, $err) = preview(6);
like($out, qr/^t\|update\|.*"city": "Pune"/, 'it is sent again');
like($err, qr/NOTICE:  an earlier request for the row with key "6", which was not answered, may still be running\n.*DETAIL:  Nothing is sent for the row before \d{4}-/,
	'but not yet');

# --- in a restored database, where an Add may have been sent already, but by nothing it could be found
sql("SELECT kapture_pause('customers')");
my $bare = sql("INSERT INTO customers (customer_name) VALUES ('Bare') RETURNING id");
my $restored = "BEGIN; UPDATE kapture_origin SET doubt_until = now() + '1 hour'; ";
($out, $err) = preview($bare, before => $restored);
is($out, 't|add|{"customer_name": "Bare"}', 'a row without phone and email is added');
$bare = sql("INSERT INTO customers (customer_name, phone) VALUES ('With phone', '9000000010') RETURNING id");
($out, $err) = preview($bare, before => $restored);
like($out, qr/^t\|get\|.*"phone": "9000000010"/, 'one with a phone is looked for');

# --- keys that are none
foreach my $key ('abc', '', '{1,2}')
{
	($out, $err) = preview($key);
	like($err, qr/ERROR:  invalid input syntax for type bigint: "\Q$key\E"/, "key '$key' is no number");
}

# --- code of the table that has the server's settings read anew, and those in use freed
# It can only read, so another session alters them meanwhile; locks tell how far it is.
sql(qq(
CREATE ROLE keeper;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO keeper;
CREATE SCHEMA keeper AUTHORIZATION keeper;
SET ROLE keeper;
CREATE SERVER kept FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timezone 'Asia/Kolkata');
CREATE USER MAPPING FOR keeper SERVER kept OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TYPE keeper.named AS (name text);
CREATE FUNCTION keeper.reached(step int) RETURNS boolean LANGUAGE sql
RETURN EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = step);
CREATE FUNCTION keeper.read_anew(step int, zone text) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM pg_advisory_lock(step);
	WHILE NOT EXISTS (SELECT FROM pg_foreign_server WHERE srvname = 'kept' AND 'timezone=' || zone = ANY (srvoptions)) LOOP
		PERFORM pg_sleep(0.02);
	END LOOP;
	PERFORM public.kapture_check('kept');
END \$\$;
CREATE FUNCTION keeper.as_text(keeper.named) RETURNS text LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM keeper.read_anew(1, 'Asia/Kathmandu');
	PERFORM keeper.read_anew(2, 'Asia/Kolkata');
	RETURN (\$1).name;
END \$\$;
CREATE CAST (keeper.named AS text) WITH FUNCTION keeper.as_text(keeper.named);
CREATE TABLE keeper.odd (id int PRIMARY KEY, customer_name keeper.named, phone text, met timestamptz);
SELECT kapture_attach('keeper.odd', '{"customer_name": "customer_name", "phone": "phone", "met": "met"}', 'kept');
SELECT kapture_pause('keeper.odd');
INSERT INTO keeper.odd VALUES (1, ROW('Kept'), '9000000777', '2021-03-14 08:51:11+00')));
($out, $err) = ('', '');
my $shown = IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c', 'SET ROLE keeper',
	'-c', "SELECT body FROM kapture_preview('keeper.odd', '1')" ], '>', \$out, '2>', \$err);
poll_ok($node, 'SELECT keeper.reached(1)', 'code of the table runs');
sql("ALTER SERVER kept OPTIONS (SET timezone 'Asia/Kathmandu')");
poll_ok($node, 'SELECT keeper.reached(2)', 'and has read them anew');
sql("ALTER SERVER kept OPTIONS (SET timezone 'Asia/Kolkata')");
$shown->finish;
like($out, qr/"met": "2021-03-14 14:21:11\+05:30", "phone": "9000000777", "customer_name": "Kept"/, 'settings that it has had read anew are those that were in use') or diag($err);

$node->stop;
done_testing();
