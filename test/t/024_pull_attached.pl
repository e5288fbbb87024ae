# Pulled customers as rows of an attached table: found, inserted, left alone,
# never pushed back, never twice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('attached');
setup_sync($node, $emulator, options => "pull_interval '1s', pull_since '" . ago(86400) . "'");
my $key = 'a2FwZGVtbzprYXAxMjM=';
my $n = 100;

# Customers made in Kapture; returns their ids.
sub seed
{
	my @customers = @_;
	$_->{kapture_customer_id} //= ++$n, $_->{generated} //= ago(1), $_->{phone} //= "9000000$n" foreach @customers;
	emulator_post($emulator, 'seed', \@customers);
	return map { $_->{kapture_customer_id} } @customers;
}

# Changes a customer in Kapture, as somebody there would, and has it pulled again.
sub change
{
	my ($id, %values) = @_;
	my $json = join ', ', map { "\"$_\": \"$values{$_}\"" } sort keys %values;
	$node->safe_psql('postgres', "SELECT kapture_update_customer('{\"kapture_customer_id\": \"$id\", $json}')");
	return;
}

sub updates { my ($id) = @_; return (grep { $_->{kapture_customer_id} == $id } @{ emulator_get($emulator, 'customers') })[0]{updates}; }
sub row { return $node->safe_psql('postgres', "SELECT customer_name, phone, email_id, city FROM customers WHERE kapture_customer_id = $_[0]"); }
sub settled { return poll_ok($node, "SELECT NOT EXISTS (SELECT FROM kapture_inbox WHERE last_error IS NULL) AND (SELECT bool_and(pending = 0 AND in_flight = 0) FROM kapture_status)", $_[0]); }
my $failure = "SELECT customer_id, state, message FROM kapture_pull_failures WHERE customer_id =";

# arguments
$node->safe_psql('postgres', "CREATE TABLE odd (id int PRIMARY KEY, customer_name text, phone text)");
my ($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_attach('odd', pull => true, on_conflict => 'both')");
like($err, qr/invalid value for argument "on_conflict": "both"\n.*HINT:  Valid values are "local" and "remote"/s, 'on_conflict is checked');
$node->safe_psql('postgres', "CREATE ROLE lodger; GRANT USAGE ON FOREIGN SERVER kapture TO lodger; GRANT CREATE ON SCHEMA public TO lodger; CREATE USER MAPPING FOR lodger SERVER kapture OPTIONS (auth_key '$key')");
($rc, $out, $err) = $node->psql('postgres', "SET ROLE lodger; CREATE TABLE theirs (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('theirs', pull => true)");
like($err, qr/customers of server "kapture" cannot be pulled into table "theirs"\n.*DETAIL:  .*key of the server's owner/s, 'nobody gets what the key of others brings');

# inserted, columns mapped in reverse
my ($first) = seed({ customer_name => 'First', email_id => 'first@example.com', city => 'Pune', contact_person_name => 'Asha' });
$node->safe_psql('postgres', qq(
CREATE TABLE customers (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer_name text NOT NULL, phone text, email_id text, city varchar(10), person text, since timestamptz DEFAULT now());
SELECT kapture_attach('customers', columns => '{"customer_name": "customer_name", "phone": "phone", "email_id": "email_id", "city": "city", "contact_person_name": "person"}', pull => true)));
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_indexes WHERE tablename = 'customers' AND indexdef LIKE '%(kapture_customer_id)'"), '1', 'the id column has an index');
change($first, city => 'Nashik');
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = $first AND city = 'Nashik' AND person = 'Asha' AND since IS NOT NULL", 'a pulled customer becomes a row');
is(row($first), 'First|9000000101|first@example.com|Nashik', 'with its values');
settled('nothing waits');
is(updates($first), 1, 'and nothing is pushed back');

# changed in Kapture
my $version = $node->safe_psql('postgres', "SELECT ctid FROM customers");
change($first, city => 'Mumbai');
poll_ok($node, "SELECT city = 'Mumbai' FROM customers WHERE kapture_customer_id = $first", 'a change in Kapture reaches the row');
settled('nothing waits');
is(updates($first), 2, 'and is not pushed back');

# a row that was pushed comes back as it is
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone, city) VALUES ('Mine', '9111111111', 'Goa')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE customer_name = 'Mine'", 'a local row is added');
my $mine = $node->safe_psql('postgres', "SELECT kapture_customer_id FROM customers WHERE customer_name = 'Mine'");
$version = $node->safe_psql('postgres', "SELECT ctid FROM customers WHERE customer_name = 'Mine'");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE id = $mine", 'it is pulled');
settled('nothing waits');
is($node->safe_psql('postgres', "SELECT count(*), min(ctid::text) FROM customers WHERE phone = '9111111111'"), "1|$version", 'and its row is not written');

# rows without an id: by phone, by email; several are not guessed among
$node->safe_psql('postgres', "SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone, email_id) VALUES ('By phone', '9222222222', NULL), ('By email', NULL, 'by\@example.com'), ('Twice', '9333333333', NULL), ('Twice', '9333333333', NULL)");
my ($by_phone, $by_email, $twice) = seed({ customer_name => 'Named by phone', phone => '9222222222' }, { customer_name => 'Named by email', email_id => 'by@example.com' }, { customer_name => 'Which', phone => '9333333333' });
poll_ok($node, "SELECT count(*) = 2 FROM customers WHERE (kapture_customer_id, customer_name) IN (($by_phone, 'Named by phone'), ($by_email, 'Named by email'))", 'rows are found by phone and email');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_pull_failures WHERE customer_id = $twice", 'several rows with a phone');
is($node->safe_psql('postgres', "$failure $twice"), "$twice|parked|2 rows without an id have the customer's phone or email", 'are shown, not guessed among');
is($node->safe_psql('postgres', "SELECT count(*) FROM customers WHERE phone = '9333333333' AND kapture_customer_id IS NULL"), '2', 'and left alone');
$node->safe_psql('postgres', "DELETE FROM customers WHERE ctid = (SELECT max(ctid) FROM customers WHERE phone = '9333333333'); SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = $twice AND customer_name = 'Which'", 'kapture_retry tries again');

# values that do not fit, and rows the table does not want, stop nobody else
$node->safe_psql('postgres', "ALTER TABLE customers ADD CHECK (customer_name <> 'Unwanted')");
my ($long, $unwanted, $fine) = seed({ customer_name => 'Long', city => 'Thiruvananthapuram' }, { customer_name => 'Unwanted' }, { customer_name => 'Fine' });
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = $fine", 'a good row');
poll_ok($node, "SELECT count(*) = 2 FROM kapture_pull_failures WHERE state = 'parked' AND customer_id IN ($long, $unwanted)", 'is not kept by bad ones');
like($node->safe_psql('postgres', "$failure $long"), qr/value too long for type character varying\(10\)/, 'a value that does not fit is not cut');
like($node->safe_psql('postgres', "$failure $unwanted"), qr/violates check constraint/, 'the table\'s checks hold');
is($node->safe_psql('postgres', "SELECT kapture_discard('customers') > 0, (SELECT count(*) FROM kapture_pull_failures)"), 't|2', 'kapture_discard');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_pull_failures"), '0', 'gives them up');

my ($fixed) = seed({ customer_name => 'Fixed', city => 'Much too long for it' });
poll_ok($node, "SELECT state = 'parked' FROM kapture_pull_failures WHERE customer_id = $fixed", 'another value does not fit');
change($fixed, city => 'Fits');
poll_ok($node, "SELECT city = 'Fits' FROM customers WHERE kapture_customer_id = $fixed", 'as it does in Kapture, the customer comes by itself');
is($node->safe_psql('postgres', "$failure $fixed"), '', 'and is no failure any more');

# what was pulled is as old as the last pull of it, not as the first that waits
$node->safe_psql('postgres', "INSERT INTO kapture_inbox (attachment_id, customer_id, asked_at, next_attempt, server)"
	  . " SELECT attachment_id, $fixed, now() - interval '1 hour', 'infinity', server FROM kapture_attachment; UPDATE customers SET city = 'Sent' WHERE kapture_customer_id = $fixed");
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status", 'a row is sent, whose customer waits for its turn since before');
change($fixed, city => 'Newer');
poll_ok($node, "SELECT city = 'Newer' FROM customers WHERE kapture_customer_id = $fixed", 'a change in Kapture after that arrives');

# local changes that wait win, column by column
$node->safe_psql('postgres', "SELECT kapture_pause('customers'); UPDATE customers SET city = 'Local' WHERE kapture_customer_id = $first");
change($first, city => 'Remote', customer_name => 'Renamed');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_inbox WHERE customer_id = $first", 'a change in Kapture, while one here waits');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD add_path '/nowhere', ADD update_path '/nowhere'); SELECT kapture_resume('customers')");
poll_ok($node, "SELECT customer_name = 'Renamed' FROM customers WHERE kapture_customer_id = $first", 'what does not wait is taken');
is(row($first), 'Renamed|9000000101|first@example.com|Local', 'what waits is kept');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (DROP add_path, DROP update_path)");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_get_customer('{\"kapture_customer_id\": \"$first\"}') a WHERE a::text LIKE '%\"Local\"%'", 'and sent');

# so does one that was made while the row was being sent
emulator_faults($emulator, { api => 'update', action => 'hold', match => 'Slow' });
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '1h'); UPDATE customers SET city = 'Slow' WHERE kapture_customer_id = $first");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status", 'a row is being sent');
$node->safe_psql('postgres', "UPDATE customers SET customer_name = 'Meanwhile' WHERE kapture_customer_id = $first");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE again IS NOT NULL", 'and changed once more');
change($first, customer_name => 'Theirs', contact_person_name => 'Usha');
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = $first AND person = 'Usha'", 'a change in Kapture arrives');
is(row($first) =~ s/\|.*//r, 'Meanwhile', 'but for what was changed here');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '2s')");
settled('which is sent');

# rows that somebody holds are not waited for
my $holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT FROM customers WHERE kapture_customer_id = $first FOR UPDATE");
change($first, city => 'Later');
my ($other) = seed({ customer_name => 'Other' });
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = $other", 'a locked row');
poll_ok($node, "SELECT message = 'the row is locked' AND next_attempt IS NOT NULL FROM kapture_pull_failures WHERE customer_id = $first", 'is not waited for');
$holder->query_safe("COMMIT");
poll_ok($node, "SELECT city = 'Later' FROM customers WHERE kapture_customer_id = $first", 'and written later');
is($node->safe_psql('postgres', "$failure $first"), '', 'nothing is said of it any more');

# nor is a table, locked in whatever mode; pulls go on
my %said = (SHARE => 'the row or the table is locked', EXCLUSIVE => 'the row is locked', 'ACCESS EXCLUSIVE' => undef);
foreach my $mode (sort keys %said)
{
	my ($city) = $mode =~ /(\w+)/;
	$holder->query_safe("BEGIN; LOCK TABLE customers IN $mode MODE");
	change($first, city => $city);
	poll_ok($node, "SELECT city = '$city' FROM kapture_customers WHERE id = $first", "a table locked in $mode mode: pulls go on");
	if ($said{$mode})
	{
		poll_ok($node, "SELECT message = '$said{$mode}' AND next_attempt IS NOT NULL FROM kapture_pull_failures WHERE customer_id = $first", 'what waits is shown');
	}
	else
	{
		is($node->safe_psql('postgres', "SELECT state, attempts FROM kapture_inbox WHERE customer_id = $first"), 'waiting|0', 'what waits is not tried');
	}
	$holder->query_safe("COMMIT");
	poll_ok($node, "SELECT city = '$city' FROM customers WHERE kapture_customer_id = $first", 'and written later');
}

# nor what somebody is about to insert
$node->safe_psql('postgres', "CREATE UNIQUE INDEX once ON customers (phone) WHERE phone LIKE '9666%'");
$holder->query_safe("BEGIN; INSERT INTO customers (customer_name, phone) VALUES ('Rolled back', '9666666666')");
my ($rival) = seed({ customer_name => 'Rival', phone => '9666666666' });
poll_ok($node, "SELECT message = 'the row or the table is locked' FROM kapture_pull_failures WHERE customer_id = $rival", 'a row that may become unique');
$holder->query_safe("ROLLBACK");
$holder->quit;
poll_ok($node, "SELECT customer_name = 'Rival' FROM customers WHERE kapture_customer_id = $rival", 'is waited for, too');
$node->safe_psql('postgres', "DROP INDEX once");

# a customer that is being added here is not inserted
emulator_faults($emulator, { api => 'add', action => 'late', ms => 3000, match => '9444444444' });
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '60s')");
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Adding', '9444444444')");
my ($adding) = seed({ customer_name => 'Adding in Kapture', phone => '9444444444' });
poll_ok($node, "SELECT count(*) = 1 FROM kapture_pull_failures WHERE customer_id = $adding AND message LIKE '%being added%'", 'a row that is being added');
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = $adding", 'is linked by the worker');
is($node->safe_psql('postgres', "SELECT count(*) FROM customers WHERE phone = '9444444444'"), '1', 'and is there once');
emulator_faults($emulator);

# nor one by the email that the Add has, in another case, whatever the row has by now
emulator_faults($emulator, { api => 'add', action => 'late', ms => 3000, match => '9444444446' });
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone, email_id) VALUES ('Cased', '9444444446', 'Cased\@Example.com')");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status", 'a row with an email is being added');
$node->safe_psql('postgres', "UPDATE customers SET email_id = 'other\@example.com' WHERE phone = '9444444446'");
my ($cased) = seed({ customer_name => 'Cased in Kapture', email_id => 'cased@example.com' });
poll_ok($node, "SELECT count(*) = 1 FROM kapture_pull_failures WHERE customer_id = $cased AND message LIKE '%being added%'", 'a customer with the email of an Add in another case waits for its end');
settled('which comes');
emulator_faults($emulator);

# what was deleted here stays away
$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Short-lived', '9555555555')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE phone = '9555555555'", 'a row is added');
$node->safe_psql('postgres', "DELETE FROM customers WHERE phone = '9555555555'");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE phone = '9555555555'", 'deleted, and pulled');
settled('nothing waits');
is($node->safe_psql('postgres', "SELECT count(*) FROM customers WHERE phone = '9555555555'"), '0', 'it does not come back');

# on_conflict => 'remote'
$node->safe_psql('postgres', "SELECT kapture_detach('customers'); SELECT kapture_attach('customers', pull => true, on_conflict => 'remote'); SELECT kapture_pause('customers'); UPDATE customers SET city = 'Local' WHERE kapture_customer_id = $first");
my $updates = updates($first);
change($first, city => 'Remote');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD update_path '/nowhere'); SELECT kapture_resume('customers')");
poll_ok($node, "SELECT city = 'Remote' FROM customers WHERE kapture_customer_id = $first", 'on_conflict remote: the pulled value wins');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (DROP update_path)");
settled('what waited');
is(updates($first), $updates + 1, 'is given up');

# but not for a pulled value that the table does not take
$node->safe_psql('postgres', "SELECT kapture_pause('customers'); UPDATE customers SET city = 'Kept' WHERE kapture_customer_id = $first");
change($first, customer_name => 'Unwanted', city => 'Lost');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_inbox WHERE customer_id = $first", 'a change in Kapture, while one here waits');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD update_path '/nowhere'); SELECT kapture_resume('customers')");
poll_ok($node, "SELECT state = 'parked' FROM kapture_pull_failures WHERE customer_id = $first", 'the table refuses what is pulled');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (DROP update_path)");
settled('what waits here');
is((grep { $_->{kapture_customer_id} == $first } @{ emulator_get($emulator, 'customers') })[0]{city}, 'Kept', 'is sent');
change($first, customer_name => 'Wanted');
poll_ok($node, "SELECT customer_name = 'Wanted' FROM customers WHERE kapture_customer_id = $first", 'and what the table takes arrives');

# what is being sent is not: the pulled value waits for its end
emulator_faults($emulator, { api => 'update', action => 'hold', match => 'Slow' });
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '1h'); UPDATE customers SET city = 'Slower' WHERE kapture_customer_id = $first");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status", 'a row is being sent');
change($first, city => 'Faster');
poll_ok($node, "SELECT message = 'the row is being sent to Kapture' FROM kapture_pull_failures WHERE customer_id = $first", 'what Kapture has by then waits');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
settled('until it is known what became of that');

# nor is what waits for other rows in the same entry of the outbox
my $worker = $node->safe_psql('postgres', 'SELECT kapture_worker_pid()');
kill 'STOP', $worker;
$node->safe_psql('postgres', "UPDATE customers SET city = 'Both' WHERE kapture_customer_id IN ($first, $other)");
my ($entry) = split /\|/, $node->safe_psql('postgres', "SELECT kapture_customer_id, more_keys FROM kapture_outbox JOIN customers ON id::text = row_key WHERE cardinality(more_keys) = 1");
change($entry, city => 'Theirs');
poll_ok($node, "SELECT city = 'Theirs' FROM customers WHERE kapture_customer_id = $entry", 'one of two rows that were changed together gets what Kapture has');
kill 'CONT', $worker;
settled('what waited for the other one');
is(join(' ', sort map { "$_->{city}" } grep { $_->{kapture_customer_id} == $first || $_->{kapture_customer_id} == $other } @{ emulator_get($emulator, 'customers') }), 'Both Theirs', 'is sent');

# users' triggers: as the owner; what they change besides is sent
$node->safe_psql('postgres', q(
CREATE TABLE seen (who name);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.customer_name := upper(NEW.customer_name);
  IF pg_trigger_depth() = 1 THEN NEW.email_id := 'set@example.com'; UPDATE public.customers SET city = 'Touched' WHERE customer_name = 'Other'; END IF;
  INSERT INTO public.seen VALUES (current_user); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch();
CREATE ROLE keeper SUPERUSER; ALTER TABLE customers OWNER TO keeper; ALTER TABLE seen OWNER TO keeper;
CREATE USER MAPPING FOR keeper SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
change($first, customer_name => 'lower', city => 'Thane');
poll_ok($node, "SELECT customer_name = 'LOWER' FROM customers WHERE kapture_customer_id = $first", 'triggers run');
is($node->safe_psql('postgres', "SELECT DISTINCT who FROM seen"), 'keeper', 'as the owner of the table');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_get_customer('{\"kapture_customer_id\": \"$first\"}') a WHERE a::text LIKE '%set\@example.com%'", 'other columns that they change are sent');
settled('nothing waits');
is((grep { $_->{kapture_customer_id} == $other } @{ emulator_get($emulator, 'customers') })[0]{city}, 'Touched', 'and so are other rows');
like($node->safe_psql('postgres', "SELECT kapture_get_customer('{\"kapture_customer_id\": \"$first\"}')"), qr/"lower"/, 'those that were pulled are not');
$node->safe_psql('postgres', "DROP TRIGGER touch ON customers");

# a trigger that keeps the id out of the row: with each pull, the customer would become another row
$node->safe_psql('postgres', q(
CREATE FUNCTION protect() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.customer_name = 'Protected' THEN NEW.kapture_customer_id := NULL; END IF;
  RETURN NEW; END $$;
CREATE TRIGGER protect BEFORE INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION protect()));
my ($protected) = seed({ customer_name => 'Protected', city => 'Puri' });
my $refused = "SELECT count(*) = 1 FROM ($failure $protected AND state = 'parked') AS f WHERE message = 'a trigger of the table has put another value in place of the Kapture customer id'";
poll_ok($node, $refused, 'a trigger that keeps the id out of a new row is noticed');
is($node->safe_psql('postgres', "SELECT count(*) FROM customers WHERE customer_name = 'Protected'"), '0', 'and there is no such row');
$node->safe_psql('postgres', "ALTER TABLE customers DISABLE TRIGGER protect; SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = $protected", 'without the trigger there is');
$node->safe_psql('postgres', "ALTER TABLE customers ENABLE TRIGGER protect");
change($protected, city => 'Kochi');
poll_ok($node, $refused, 'it is noticed in an update, too');
is(row($protected) =~ /Puri/, 1, 'which is not kept');
$node->safe_psql('postgres', "DROP TRIGGER protect ON customers; SELECT kapture_retry('customers')");
poll_ok($node, "SELECT city = 'Kochi' FROM customers WHERE kapture_customer_id = $protected", 'without the trigger it is');
$node->safe_psql('postgres', q(
CREATE FUNCTION take_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.customer_name = 'Taken back' AND NEW.kapture_customer_id IS NOT NULL THEN UPDATE public.customers SET kapture_customer_id = NULL WHERE id = NEW.id; END IF;
  RETURN NULL; END $$;
CREATE TRIGGER take_back AFTER INSERT OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION take_back()));
my ($taken) = seed({ customer_name => 'Taken back', city => 'Puri' });
poll_ok($node, $refused =~ s/$protected/$taken/r, 'one that takes the id back afterwards is noticed, too');
is($node->safe_psql('postgres', "SELECT count(*) FROM customers WHERE customer_name = 'Taken back'"), '0', 'and there is no such row');
$node->safe_psql('postgres', "DROP TRIGGER take_back ON customers; SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = $taken", 'without the trigger there is');
settled('nothing waits');

# crashes: nothing is lost, nothing comes twice
my @many = seed(map { { customer_name => "Many $_" } } 1 .. 300);
poll_ok($node, "SELECT count(*) > 20 FROM customers WHERE customer_name LIKE 'Many%'", 'many customers arrive');
$node->stop('immediate');
$node->start;
poll_ok($node, "SELECT count(*) = 300 FROM customers WHERE customer_name LIKE 'Many%'", 'a crash loses none');
is($node->safe_psql('postgres', "SELECT count(DISTINCT kapture_customer_id), count(*) FROM customers WHERE customer_name LIKE 'Many%'"), '300|300', 'and brings none twice');

# what cannot be written for long is tried the more seldom: of many delays at random, one is long
settled('nothing waits');
$holder = $node->background_psql('postgres');
$holder->query_safe("BEGIN; SELECT FROM customers WHERE customer_name LIKE 'Many%' FOR UPDATE");
$node->safe_psql('postgres', "INSERT INTO kapture_inbox (attachment_id, customer_id, asked_at, attempts, last_error, next_attempt, server)"
	  . " SELECT attachment_id, id, now(), 12, 'before', 'infinity', server FROM kapture_attachment CROSS JOIN unnest('{@{[ join ',', @many[ 0 .. 49 ] ]}}'::bigint[]) AS id;"
	  . " SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(*) = 50 AND bool_and(attempts > 12) AND max(next_attempt) > now() + interval '5 s' FROM kapture_inbox", 'the more often a customer cannot be written, the longer it waits');
$holder->query_safe('COMMIT');
$holder->quit;
$node->safe_psql('postgres', "SELECT kapture_retry('customers')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox", 'when it can, it is');

# partitions, other types, CALL kapture_refresh without pull_interval
$node->safe_psql('postgres', q(
SELECT kapture_detach('customers');
ALTER SERVER kapture OPTIONS (DROP pull_interval);
CREATE DOMAIN town AS varchar(30);
CREATE TABLE parts (id uuid DEFAULT gen_random_uuid(), region int DEFAULT 1, name text, mobile bigint, "Town" town, kapture_customer_id bigint, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parts_1 ("Town" town, kapture_customer_id bigint, junk int, region int DEFAULT 1 NOT NULL, name text, id uuid DEFAULT gen_random_uuid() NOT NULL, mobile bigint);
ALTER TABLE parts_1 DROP COLUMN junk;
ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES IN (1);
SELECT kapture_attach('parts', columns => '{"customer_name": "name", "phone": "mobile", "city": "Town"}', pull => true);
TRUNCATE kapture_customers CASCADE));
# a last automatic pull may be in flight
wait_for(sub { (undef, undef, $err) = $node->psql('postgres', "CALL kapture_refresh('" . substr(ago(86400), 0, 10) . "', '" . substr(ago(0), 0, 10) . "')"); return $err !~ /being refreshed by another session/ }, 'a refresh');
unlike($err, qr/ERROR/, 'a refresh without pull_interval');
poll_ok($node, "SELECT count(*) > 300 AND count(*) = (SELECT count(*) FROM kapture_customers) FROM parts_1", 'a refresh fills partitions');
is($node->safe_psql('postgres', "SELECT mobile, \"Town\" FROM parts WHERE kapture_customer_id = $first"), '9000000101|Thane', 'other types, other names');
settled('nothing waits');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_history JOIN kapture_attachment a USING (attachment_id) WHERE a.relation = 'parts'::regclass"), '0', 'a partition that numbers its columns otherwise pushes nothing back');

# the rows of tables that inherit are not the parent's
$node->safe_psql('postgres', qq(
SELECT kapture_detach('parts');
CREATE TABLE folk (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
CREATE TABLE folk_of_old (PRIMARY KEY (id)) INHERITS (folk);
INSERT INTO folk_of_old VALUES (1, 'Of old', '1', $first), (2, 'Of old', '9000000101', NULL);
SELECT kapture_attach('folk', pull => true);
TRUNCATE kapture_customers CASCADE));
$node->safe_psql('postgres', "CALL kapture_refresh('" . substr(ago(86400), 0, 10) . "', '" . substr(ago(0), 0, 10) . "')");
poll_ok($node, "SELECT count(*) = (SELECT count(*) FROM kapture_customers) FROM ONLY folk", 'a refresh fills a table that others inherit from');
settled('nothing waits');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_pull_failures WHERE relation = 'folk'::regclass"), '0', 'rows of the others are in nobody\'s way');
is($node->safe_psql('postgres', "SELECT string_agg(customer_name, ' ') FROM folk_of_old WHERE customer_name = 'Of old'"), 'Of old Of old', 'and are left alone');
$node->safe_psql('postgres', "DROP TABLE folk CASCADE; SELECT kapture_attach('parts', columns => '{\"customer_name\": \"name\", \"phone\": \"mobile\", \"city\": \"Town\"}', pull => true)");

$node->safe_psql('postgres', "INSERT INTO kapture_inbox (attachment_id, customer_id, asked_at, next_attempt, server) SELECT attachment_id, 1, now(), 'infinity', server FROM kapture_attachment; DROP TABLE parts");
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '50s')");	# has the worker look
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox", 'a dropped table leaves nothing');
poll_ok($node, "SELECT kapture_puller_pid() IS NULL", 'and no puller');

# emails in another case are the same, for columns of citext and of text
$node->safe_psql('postgres', q(
CREATE EXTENSION citext;
CREATE TABLE cased (id int PRIMARY KEY, customer_name text, email_id citext UNIQUE, kapture_customer_id bigint);
CREATE TABLE plain (id int PRIMARY KEY, customer_name text, email_id text, kapture_customer_id bigint);
ALTER SERVER kapture OPTIONS (ADD pull_interval '1h')));
foreach my $table (qw(cased plain))
{
	my ($id, $new) = map { $_ + ($table eq 'plain' ? 2 : 0) } 9001, 9002;
	# a row from before the table was attached, which is not sent by itself
	$node->safe_psql('postgres', "INSERT INTO $table VALUES (1, 'Row', 'Some.$table\@Example.com'); SELECT kapture_attach('$table', pull => true)");
	seed({ kapture_customer_id => $id, customer_name => 'Kapture', email_id => "some.$table\@example.COM" });
	$node->safe_psql('postgres', "CALL kapture_refresh('" . substr(ago(86400), 0, 10) . "', '" . substr(ago(0), 0, 10) . "', restart => true)");
	poll_ok($node, "SELECT customer_name = 'Kapture' AND kapture_customer_id = $id FROM $table WHERE email_id::text = 'Some.$table\@Example.com'", "$table: a customer with the email in another case is the row's, whose case stays");
	poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox WHERE customer_id = $id AND last_error IS NOT NULL", 'and nothing waits');
	$node->safe_psql('postgres', "SELECT kapture_detach('$table'); DROP TABLE $table");
}

# a row that two customers of one pull could have, by its phone and by its email, has one of them
$node->safe_psql('postgres', q(
CREATE TABLE wanted (id int GENERATED BY DEFAULT AS IDENTITY (START 10) PRIMARY KEY, customer_name text, phone text, email_id text, kapture_customer_id bigint);
INSERT INTO wanted VALUES (1, 'Row', '9000009051', 'wanted@example.com');
SELECT kapture_attach('wanted', pull => true)));
seed({ kapture_customer_id => 9051, customer_name => 'By phone', phone => '9000009051' }, { kapture_customer_id => 9052, customer_name => 'By email', phone => '9000009052', email_id => 'wanted@example.com' });
$node->safe_psql('postgres', "CALL kapture_refresh('" . substr(ago(86400), 0, 10) . "', '" . substr(ago(0), 0, 10) . "', restart => true)");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox AS i JOIN kapture_attachment USING (attachment_id) WHERE relation = 'wanted'::regclass AND customer_id IN (9051, 9052)", 'both are dealt with');
is($node->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', kapture_customer_id, customer_name, phone), ', ' ORDER BY id) FROM wanted WHERE kapture_customer_id IN (9051, 9052)"),
	'9051 By phone 9000009051, 9052 By email 9000009052', 'the other one gets a row of its own');
$node->safe_psql('postgres', "SELECT kapture_detach('wanted'); DROP TABLE wanted");

# ids that the extension keeps: the row's customer is known without a column
sub refresh { return $node->safe_psql('postgres', "CALL kapture_refresh('" . substr(ago(86400), 0, 10) . "', '" . substr(ago(0), 0, 10) . "', restart => true)"); }
sub refreshed { refresh(); return settled($_[0]); }
sub in_kapture { my ($id) = @_; return (grep { $_->{kapture_customer_id} == $id } @{ emulator_get($emulator, 'customers') })[0]; }
my $kept = "SELECT string_agg(concat_ws(' ', id, customer_name, kapture_id('kept', id::text)), ', ' ORDER BY id) FROM kept WHERE kapture_id('kept', id::text)";
emulator_post($emulator, 'seed', []);
$node->safe_psql('postgres', q(
CREATE TABLE kept (id int GENERATED BY DEFAULT AS IDENTITY (START 10) PRIMARY KEY, customer_name text, phone text, email_id text, city text);
INSERT INTO kept VALUES (1, 'By phone', '9800000001', NULL), (2, 'By email', NULL, 'Kept@Example.com'), (3, 'Twice', '9800000003', NULL), (4, 'Twice', '9800000003', NULL);
TRUNCATE kapture_customers CASCADE;
SELECT kapture_attach('kept', id_column => NULL, pull => true)));
is($node->safe_psql('postgres', "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'kept'::regclass AND attnum > 0"),
	'id customer_name phone email_id city', 'id_column NULL: the table gets no column');
seed({ kapture_customer_id => 9801, customer_name => 'One', phone => '9800000001' }, { kapture_customer_id => 9802, customer_name => 'Two', email_id => 'kept@example.com', phone => '' },
	{ kapture_customer_id => 9803, customer_name => 'Three', phone => '9800000003' }, { kapture_customer_id => 9804, customer_name => 'Four', phone => '9800000004', city => 'Pune' });
refreshed('customers are pulled');
is($node->safe_psql('postgres', "$kept IN (9801, 9802)"), '1 One 9801, 2 Two 9802', 'rows without a customer are found by phone and email, and get it');
is($node->safe_psql('postgres', "$failure 9803"), "9803|parked|2 rows without an id have the customer's phone or email", 'several are not guessed among');
my $four = $node->safe_psql('postgres', "SELECT id FROM kept WHERE kapture_id('kept', id::text) = 9804 AND city = 'Pune'");
isnt($four, '', 'a customer without a row becomes one, whose customer is known');
refreshed('they are pulled again');
is($node->safe_psql('postgres', "SELECT count(*) FROM kept WHERE phone = '9800000004'"), '1', 'and are there once');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_history JOIN kapture_attachment a USING (attachment_id) WHERE a.relation = 'kept'::regclass"), '0', 'what comes from Kapture is not sent back');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_verify('kept') WHERE problem NOT IN ('no id', 'waiting')"), '0', 'kapture_verify finds them equal');

# changed there, and here
change(9804, city => 'Nashik', phone => '9800000014');
refreshed('a customer is changed in Kapture');
is($node->safe_psql('postgres', "SELECT city, phone FROM kept WHERE id = $four"), 'Nashik|9800000014', 'the row known to have it is updated, whatever its phone was');
is(updates(9804), 1, 'and not sent back');
$node->safe_psql('postgres', "UPDATE kept SET city = 'Goa', id = 5000 WHERE id = $four");
settled('the row gets another key');
is(in_kapture(9804)->{city}, 'Goa', 'a change here updates the customer');
change(9804, customer_name => 'Changed');
refreshed('and one there');
is($node->safe_psql('postgres', "$kept = 9804"), '5000 Changed 9804', 'finds the row under its new key');

# another row with the key is another customer's
$node->safe_psql('postgres', "BEGIN; DELETE FROM kept WHERE id = 5000; INSERT INTO kept VALUES (5000, 'Successor', '9800000050'); COMMIT");
poll_ok($node, "SELECT kapture_id('kept', '5000') <> 9804", 'the next row with a key has a customer of its own');
change(9804, city => 'Agra');
change(9801, city => 'Delhi');
refreshed('the customer of the deleted row is changed');
is($node->safe_psql('postgres', "SELECT customer_name, city FROM kept WHERE id = 5000"), 'Successor|', 'the successor is not overwritten');
is($node->safe_psql('postgres', "SELECT count(*) FROM kept WHERE phone = '9800000014'"), '0', 'and what was deleted here does not come back');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox WHERE customer_id = 9804", 'nor does it wait for the row that has the key by now');
is($node->safe_psql('postgres', "SELECT row_key FROM kapture_orphans WHERE kapture_customer_id = 9804"), '5000', 'it is an orphan');
is($node->safe_psql('postgres', "$kept = 9801 AND city = 'Delhi'"), '1 One 9801', 'others are kept in step');

# while its deletion waits for the worker, a key is nobody's: a natural key comes back from Kapture
$node->safe_psql('postgres', q(
SELECT kapture_alter('kept', pull => false);
CREATE TABLE by_phone (phone text PRIMARY KEY, customer_name text, email_id text);
INSERT INTO by_phone VALUES ('9800000060', 'Natural', NULL);
SELECT kapture_attach('by_phone', id_column => NULL, pull => true);
CALL kapture_backfill('by_phone')));
poll_ok($node, "SELECT kapture_id('by_phone', '9800000060') IS NOT NULL", 'a row whose key is its phone');
my $natural = $node->safe_psql('postgres', "SELECT kapture_id('by_phone', '9800000060')");
change($natural, phone => '9800000061');
seed({ kapture_customer_id => 9860, customer_name => 'Second', phone => '9800000060' });
# the worker takes nothing up while somebody holds the outbox
my $blocker = $node->background_psql('postgres');
$blocker->query_safe("BEGIN; LOCK TABLE kapture_delivery IN SHARE MODE");
$node->safe_psql('postgres', "DELETE FROM by_phone");
refresh();
poll_ok($node, "SELECT count(*) = 1 FROM kapture_pull_failures WHERE customer_id = 9860 AND relation = 'by_phone'::regclass AND state = 'waiting'", 'a customer whose row would have a key that has just been given up waits');
$blocker->query_safe("COMMIT");
$blocker->quit;
poll_ok($node, "SELECT kapture_id('by_phone', '9800000060') = 9860", 'and then has its row');
settled('nothing waits');
is($node->safe_psql('postgres', "SELECT kapture_customer_id = $natural FROM kapture_orphans WHERE row_key = '9800000060'"), 't', 'the former customer is the orphan');
$node->safe_psql('postgres', "SELECT kapture_detach('by_phone'); DROP TABLE by_phone");

# several rows have the phone, and one of them, which is not the last, gets another key just then
$node->safe_psql('postgres', q(
CREATE TABLE alike (id int PRIMARY KEY, customer_name text, phone text, note text);
INSERT INTO alike VALUES (1, 'Alike', '9800000065'), (2, 'Alike', '9800000065');
SELECT kapture_attach('alike', id_column => NULL, pull => true)));
seed({ kapture_customer_id => 9865, customer_name => 'Alike', phone => '9800000065' });
$blocker = $node->background_psql('postgres');
$blocker->query_safe("BEGIN; LOCK TABLE kapture_delivery IN SHARE MODE");
$node->safe_psql('postgres', "UPDATE alike SET id = 11 WHERE id = 1; UPDATE alike SET note = 'moved behind the other one' WHERE id = 2");
refresh();
poll_ok($node, "SELECT state = 'waiting' AND message = 'the row was changed meanwhile' FROM kapture_pull_failures WHERE customer_id = 9865 AND relation = 'alike'::regclass", 'a customer with the phone of two rows, one of which gets another key, waits');
$blocker->query_safe("COMMIT");
$blocker->quit;
poll_ok($node, "SELECT count(*) = 0 FROM kapture_pull_failures WHERE customer_id = 9865 AND state = 'waiting'", 'until that is taken up');
$node->safe_psql('postgres', "SELECT kapture_detach('alike'); DROP TABLE alike");

# several rows have the phone, and the last one found has another customer
$node->safe_psql('postgres', q(
CREATE TABLE taken (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('taken', id_column => NULL, pull => true);
INSERT INTO taken VALUES (2, 'Taken', '9800000067')));
poll_ok($node, "SELECT kapture_id('taken', '2') IS NOT NULL", 'a row has a customer');
$node->safe_psql('postgres', "SET kapture_sync.capture = off; INSERT INTO taken VALUES (1, 'Free', '9800000066'); UPDATE taken SET phone = '9800000066' WHERE id = 2");
seed({ kapture_customer_id => 9866, customer_name => 'There', phone => '9800000066' });
refreshed('a customer has its phone by now, and that of a row without a customer');
is($node->safe_psql('postgres', "SELECT kapture_id('taken', '1'), customer_name FROM taken WHERE id = 1"), '9866|There', 'the latter gets it');
$node->safe_psql('postgres', "SELECT kapture_detach('taken'); DROP TABLE taken; SELECT kapture_alter('kept', pull => true)");

# an entry whose row went without a note is no obstacle; nor is a restored table
$node->safe_psql('postgres', "SET kapture_sync.capture = off; DELETE FROM kept WHERE id = 2; INSERT INTO kept VALUES (5020, 'Restored', NULL, 'kept\@example.com')");
change(9802, city => 'Surat');
refreshed('a row went without a note, and another one has its email');
is($node->safe_psql('postgres', "$kept = 9802 AND city = 'Surat'"), '5020 Two 9802', 'the customer has that row');

# what triggers write besides is sent
$node->safe_psql('postgres', q(
CREATE FUNCTION beside() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.city = 'Twin' THEN
  INSERT INTO public.kept (customer_name, phone) VALUES ('Beside', '9800000071'); END IF; RETURN NEW; END $$;
CREATE TRIGGER beside BEFORE INSERT ON kept FOR EACH ROW EXECUTE FUNCTION beside()));
seed({ kapture_customer_id => 9870, customer_name => 'Triggering', phone => '9800000070', city => 'Twin' });
refreshed('a trigger inserts another row');
poll_ok($node, "SELECT kapture_id('kept', id::text) NOT IN (9870) FROM kept WHERE phone = '9800000071'", 'which is added to Kapture');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_history JOIN kapture_attachment a USING (attachment_id) WHERE a.relation = 'kept'::regclass AND customer_id = 9870"), '0', 'the pulled row is not');

# a phone that everybody has is nobody's
$node->safe_psql('postgres', "SET kapture_sync.capture = off; INSERT INTO kept (customer_name, phone) SELECT 'Everybody', '9800000080' FROM generate_series(1, 1001)");
seed({ kapture_customer_id => 9880, customer_name => 'One of them', phone => '9800000080' });
refreshed('a customer has the phone of a thousand rows');
is($node->safe_psql('postgres', "$failure 9880"), "9880|parked|more than 1000 rows have the customer's phone or email", 'which are not looked through');

# the sweep asks for the customers of its rows
$node->safe_psql('postgres', "TRUNCATE kapture_customers CASCADE; ALTER SERVER kapture OPTIONS (ADD sweep_interval '1d', ADD sweep_rate '100')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE id = 9801", 'the sweep knows whom the rows are');
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (DROP sweep_interval, DROP sweep_rate); SELECT kapture_detach('kept'); DROP TABLE kept; DROP FUNCTION beside()");
refresh();	# what follows is about single customers

# rows without a key, in a table that has lost its primary key, are nobody's end
$node->safe_psql('postgres', qq(
CREATE TABLE keyless (a int, b text, customer_name text, phone text, kapture_customer_id bigint, PRIMARY KEY (a, b));
SELECT kapture_attach('keyless', pull => true);
ALTER TABLE keyless DROP CONSTRAINT keyless_pkey, ALTER a DROP NOT NULL, ALTER b DROP NOT NULL;
SET kapture_sync.capture = off;
INSERT INTO keyless VALUES (1, NULL, 'Row', '1', 9101), (NULL, 'x', 'No id', '9000009102', NULL), (2, 'y', 'Whole', '9000009103', NULL)));
seed({ kapture_customer_id => 9101, customer_name => 'Kapture' });
($rc, $out, $err) = $node->psql('postgres', "CALL kapture_refresh('" . substr(ago(86400), 0, 10) . "', '" . substr(ago(0), 0, 10) . "', restart => true)");
is($rc, 0, 'a refresh goes on') or diag($err);
is($node->safe_psql('postgres', "$failure 9101"), "9101|parked|the customer's row has NULL in a column of its key", 'a customer whose row has no key is parked')
	if poll_ok($node, "SELECT count(*) = 1 FROM kapture_pull_failures WHERE customer_id = 9101", 'it is reported');
$node->safe_psql('postgres', "CALL kapture_backfill('keyless')");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM keyless WHERE b = 'y'", 'rows with a key are backfilled');
is($node->safe_psql('postgres', "SELECT count(kapture_customer_id) FROM keyless WHERE a IS NULL OR b IS NULL"), '1', 'rows without one are not');
$node->safe_psql('postgres', "SELECT kapture_detach('keyless'); DROP TABLE keyless");

# rows have got other keys, and the worker cannot take that up as its key is refused: a few changes of keys are followed
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET pull_interval '1s')");
emulator_faults($emulator, { api => 'update', match => 'Salem', action => 'status', code => 401, body => '{"message": "Invalid Auth Key", "status": "failed"}' });
$node->safe_psql('postgres', qq(
CREATE TABLE moving (id int PRIMARY KEY, customer_name text, phone text, city text, kapture_customer_id bigint);
SELECT kapture_attach('moving', pull => true);
SET kapture_sync.capture = off;
INSERT INTO moving VALUES (1, 'One', '9200000001', 'Here', 9201), (2, 'Two', '9200000002', 'Here', 9202), (3, 'Three', '9200000003', 'Here', 9203);
INSERT INTO moving SELECT i, 'Many', (9210000000 + i)::text, 'Here' FROM generate_series(1000, 1600) i;
SET kapture_sync.capture = on;
UPDATE moving SET city = 'Salem' WHERE id = 1));
poll_ok($node, "SELECT server_state = 'denied' FROM kapture_status WHERE relation = 'moving'::regclass", 'nothing is sent');
$node->safe_psql('postgres', 'UPDATE moving SET id = 11 WHERE id = 1; UPDATE moving SET id = 111 WHERE id = 11');
seed(map { { kapture_customer_id => $_, customer_name => "Number $_", phone => '920000000' . $_ % 10, city => 'There' } } 9201 .. 9203);
poll_ok($node, "SELECT count(*) = 3 FROM moving WHERE customer_name LIKE 'Number%'", 'customers arrive in rows with other keys');
is($node->safe_psql('postgres', "SELECT string_agg(city, ' ' ORDER BY id) FROM moving WHERE customer_name LIKE 'Number%'"), 'There There Salem', 'but for what waits under a former key');

# many are not, as others wait meanwhile: the rows with new keys are left alone until the worker knows these
$node->safe_psql('postgres', 'UPDATE moving SET id = id + 1000000 WHERE id >= 1000 OR id = 2');
change(9202, city => 'Twice');
change(9203, city => 'Twice');
poll_ok($node, "SELECT city = 'Twice' FROM moving WHERE kapture_customer_id = 9203", 'a row that has kept its key gets its customer');
poll_ok($node, "SELECT state = 'waiting' AND message = 'the row was changed meanwhile' FROM kapture_pull_failures WHERE customer_id = 9202", 'one of many with new keys waits');
$node->safe_psql('postgres', 'DO $$ BEGIN FOR i IN 111 .. 30110 LOOP UPDATE moving SET id = id + 1 WHERE id = i; END LOOP; END $$');
change(9201, city => 'Thrice');
change(9203, city => 'Thrice');
poll_ok($node, "SELECT city = 'Thrice' FROM moving WHERE kapture_customer_id = 9203", 'nobody waits for a row with very many former keys');
emulator_faults($emulator);
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '3s')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_pull_failures WHERE relation = 'moving'::regclass AND customer_id IN (9201, 9202, 9203)", 'when the worker has taken up the keys, all arrive');
is($node->safe_psql('postgres', "SELECT string_agg(kapture_customer_id || ' ' || city, ', ' ORDER BY kapture_customer_id) FROM moving WHERE kapture_customer_id IN (9202, 9203)"), '9202 Twice, 9203 Thrice', 'with their values');
# a change of a row for which nothing has to be sent is no reason to give up what was pulled meanwhile
$node->safe_psql('postgres', "BEGIN; UPDATE moving SET id = id + 5 WHERE kapture_customer_id = 9203; PREPARE TRANSACTION 'moves'");
change(9203, city => 'Fourth');
poll_ok($node, "SELECT message = 'the row is locked' FROM kapture_pull_failures WHERE customer_id = 9203", 'a customer waits for a row that somebody holds');
$node->safe_psql('postgres', "COMMIT PREPARED 'moves'");
poll_ok($node, "SELECT count(*) > 0 FROM kapture_history WHERE customer_id = 9203 AND action = 'none'", 'for the row, nothing is sent');
poll_ok($node, "SELECT city = 'Fourth' FROM moving WHERE kapture_customer_id = 9203", 'the customer arrives');
$node->safe_psql('postgres', "SELECT kapture_detach('moving'); DROP TABLE moving");

$node->stop;
done_testing();
