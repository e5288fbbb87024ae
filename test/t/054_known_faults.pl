# What several things at once used to break: outages that many requests met, pulls beside
# Adds in doubt, other keys of rows, and locks that others hold.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql requests));
setup_sync($node, $emulator);
create_customers($node);

#
# An outage counts once, however many requests meet it
#

my $adds = 16;
sql("ALTER SERVER kapture OPTIONS (ADD max_connections '$adds')");
emulator_faults($emulator, { api => 'add', action => 'hang', count => $adds });
sql("INSERT INTO customers (customer_name, phone) SELECT 'Short ' || i, (9500000000 + i)::text FROM generate_series(1, $adds) i");
wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} == $adds }, 'all Adds to be in flight');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_delivery WHERE failures = 0", 'all of many requests in flight fail');
# were each of them counted, this would be half a minute
is(sql("SELECT coalesce(server_retry_at, '-infinity') < now() + interval '2 seconds' FROM kapture_status"), 't', 'the server is probed soon all the same');
poll_ok($node, "SELECT count(kapture_customer_id) = $adds FROM customers", 'and everything goes on');
oracle_ok($node, $emulator, 'nothing was added twice');

#
# A pull beside an Add that is in flight or in doubt, in another table of the server
#

sub customer_of
{
	my ($phone) = @_;
	my ($id) = map { $_->{kapture_customer_id} } grep { $_->{phone} eq $phone } @{ emulator_get($emulator, 'customers') };
	return $id;
}

# Has what Kapture has pulled.
sub refresh
{
	my @days = map { strftime('%Y-%m-%d', gmtime(time + 19800 + 86400 * $_)) } -1, 1;
	return sql("CALL kapture_refresh('$days[0]', '$days[1]', restart => true)");
}

# The customer with that phone waits for a row of the other table, and is not its own.
sub waits_ok
{
	my ($phone, $name) = @_;
	refresh();
	poll_ok($node, "SELECT message = 'a row with this phone or email is being added to Kapture' FROM kapture_pull_failures"
		  . " WHERE relation = 'contacts'::regclass AND customer_id = " . customer_of($phone), "$name: a pulled customer waits");
	is(sql("SELECT count(*) FROM contacts WHERE kapture_customer_id = " . customer_of($phone)), '0', 'and is no row of another table yet');
	return;
}

sub has_own_ok
{
	my ($phone, $name) = @_;
	poll_ok($node, "SELECT kapture_customer_id = " . customer_of($phone) . " FROM customers WHERE phone = '$phone'", "$name: the row whose Add has made it gets it");
	is(sql("SELECT count(*) FROM kapture_failures"), '0', 'nothing is parked');
	poll_ok($node, "SELECT kapture_customer_id = " . customer_of($phone) . " FROM contacts WHERE phone = '$phone'", 'then it is pulled into the other table');
	return;
}

sql(q(CREATE TABLE contacts (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
	INSERT INTO contacts (customer_name, phone) VALUES ('Known here', '9510000003');
	SELECT kapture_attach('contacts', pull => true)));
hold_adds($node, $emulator);
sql("INSERT INTO customers (customer_name, phone) VALUES ('In flight', '9510000001')");
wait_for(sub { customer_of('9510000001') }, 'the Add');
waits_ok('9510000001', 'in flight');
release_adds($node, $emulator);
has_own_ok('9510000001', 'in flight');

foreach my $phone ('9510000002', '9510000003')
{
	my $name = $phone eq '9510000002' ? 'in doubt' : 'in doubt, beside a row without an id';
	emulator_faults($emulator, { api => 'add', action => 'drop_after', match => $phone }, { api => 'get', action => 'status', code => 503 });
	sql("INSERT INTO customers (customer_name, phone) VALUES ('In doubt', '$phone')");
	poll_ok($node, "SELECT state = 'retry' AND in_doubt IS NOT NULL FROM kapture_delivery WHERE sent_phone = '$phone'", "an Add whose answer is lost");
	waits_ok($phone, $name);
	emulator_faults($emulator);
	has_own_ok($phone, $name);
}
oracle_ok($node, $emulator, 'nothing was added twice');
sql("SELECT kapture_detach('contacts')");

#
# Another primary key of a table whose ids only the extension has
#

sub settled_ok { return poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", $_[0]) }

# by their names, with the keys that the rows have
sub ids { return sql("SELECT string_agg(customer_name || ' ' || kapture_id('bare', b::text), ', ' ORDER BY customer_name) FROM bare") }
sub ids_there
{
	my %there = map { $_->{customer_name} => $_->{kapture_customer_id} } grep { $_->{customer_name} =~ /^Bare/ } @{ emulator_get($emulator, 'customers') };
	return join ', ', map { "$_ $there{$_}" } grep { $_ ne 'Bare 4' } sort keys %there;
}

# keys of the two kinds are each other's
sql(q(CREATE TABLE bare (a int PRIMARY KEY DEFERRABLE, b int NOT NULL, customer_name text, phone text, city text);
	SELECT kapture_attach('bare', id_column => NULL);
	INSERT INTO bare SELECT n, 7 - n, 'Bare ' || n, (9520000000 + n)::text FROM generate_series(1, 6) n));
settled_ok('rows of a table without a column for ids are added');
sql(q(SELECT kapture_pause('bare'); UPDATE bare SET a = a + 1; DELETE FROM bare WHERE customer_name = 'Bare 4';
	ALTER TABLE bare DROP CONSTRAINT bare_pkey, ADD PRIMARY KEY (b) DEFERRABLE;
	UPDATE bare SET b = b + 1; UPDATE bare SET city = 'Pune'; SELECT kapture_resume('bare')));
my $before = requests('add');
settled_ok('they get other keys, another primary key, and again other keys');
is(requests('add') - $before, 0, 'no row is added twice');
is(ids(), ids_there(), 'each has its own customer');
is(join(' ', sort map { $_->{customer_name} } grep { ($_->{city} // '') eq 'Pune' } @{ emulator_get($emulator, 'customers') }),
	'Bare 1 Bare 2 Bare 3 Bare 5 Bare 6', 'which gets its changes');
is(sql("SELECT count(*) FROM kapture_row JOIN kapture_attachment USING (attachment_id) WHERE relation = 'bare'::regclass AND gone_at IS NULL"), '5',
	'the row that was deleted has none any more');

# another type, in which keys have another text
sql("ALTER TABLE bare ALTER b TYPE numeric(10,2); UPDATE bare SET city = 'Agra' WHERE customer_name = 'Bare 2'");
settled_ok('the key has another type');
is(sql("SELECT b::text ~ '\\.00' FROM bare LIMIT 1") . (requests('add') - $before), 't0', 'in which it is written otherwise, and no row is added twice');
is(ids(), ids_there(), 'each has its own customer still');

# rows that cannot be found by the former key
my ($rc, $out, $err) = $node->psql('postgres', "ALTER TABLE bare DROP b, ADD PRIMARY KEY (a)");
like($err, qr/WARNING:  rows of table "bare" are not sent any more, as its primary key is another one now\nDETAIL:  .* of which a column is gone\.\nHINT:  Call kapture_detach\(\)/,
	'if rows cannot be found, it is said that none are sent');
sql("UPDATE bare SET city = 'Surat', phone = (phone::bigint + 100)::text WHERE customer_name = 'Bare 1'; ALTER TABLE bare ADD note text");
poll_ok($node, "SELECT state = 'misconfigured' AND pending = 1 AND last_error LIKE 'the ids of table \"bare\" are known by its former primary key only;%' FROM kapture_status WHERE relation = 'bare'::regclass",
	'which is a state of the table');
sql("SELECT kapture_resume('bare'); UPDATE customers SET city = 'Agra' WHERE phone = '9500000001'");
poll_ok($node, "SELECT pending + in_flight = 0 FROM kapture_status WHERE relation = 'customers'::regclass", 'others are sent');
is(requests('add') - $before, 0, 'nothing is added');
sql("UPDATE bare SET phone = (phone::bigint - 100)::text WHERE customer_name = 'Bare 1'; SELECT kapture_detach('bare'); SELECT kapture_attach('bare', id_column => NULL); CALL kapture_backfill('bare')");
settled_ok('attached anew, its rows find their customers');
is(sql("SELECT string_agg(customer_name || ' ' || kapture_id('bare', a::text), ', ' ORDER BY customer_name) FROM bare"), ids_there(), 'by phone and email');
sql("SELECT kapture_detach('bare')");

#
# One row, whichever way its key is written
#

sql(q(CREATE EXTENSION citext;
	CREATE TABLE by_name (name citext, customer_name text, phone text, PRIMARY KEY (name));
	CREATE TABLE by_number (n numeric, customer_name text, phone text, PRIMARY KEY (n));
	CREATE TABLE by_code (code char(5), n numeric, customer_name text, phone text, PRIMARY KEY (code, n))));
my %touched = (
	by_name => [ "'Priya'", 'Priya', 'pRIYA' ],
	by_number => [ '1.00', '1.00', '1', '1.0', ' 1.000' ],
	by_code => [ "'ab', 2.50", '{"ab   ",2.50}', '{ab,2.5}', '{"ab ",2.500}' ]);
foreach my $table (sort keys %touched)
{
	my ($values, $key, @others) = @{ $touched{$table} };
	sql("SELECT kapture_attach('$table'); SELECT kapture_pause('$table'); INSERT INTO $table VALUES ($values, 'Touched', '9530000001')");
	is(sql("SELECT DISTINCT k FROM kapture_outbox o, unnest(row_key || more_keys) k"), $key, "$table: the key as capture notes it");
	sql("BEGIN; " . join(' ', map { "SELECT kapture_touch('$table', '$_');" } $key, @others) . " COMMIT");
	is(sql("SELECT string_agg(DISTINCT k, ' ') FROM kapture_outbox o, unnest(row_key || more_keys) k"), $key, 'a touch notes no other one, however the key is written');
	is(sql("SELECT count(*) FROM kapture_outbox o, unnest(row_key || more_keys) k"), '2', 'and notes it once in a transaction');
	sql("SELECT kapture_touch('$table', '" . ($table eq 'by_code' ? '{zz,9.0}' : '99') . "')");
	is(sql("SELECT count(DISTINCT k) FROM kapture_outbox o, unnest(row_key || more_keys) k"), '2', 'a key that is not there is noted as it is written');
	sql("SELECT kapture_detach('$table'); DROP TABLE $table");
}

# by whoever may update the table, also if they may not read it
sql(q(CREATE ROLE toucher; CREATE TABLE locked_up (n numeric PRIMARY KEY, customer_name text, phone text); GRANT UPDATE ON locked_up TO toucher;
	SELECT kapture_attach('locked_up'); SELECT kapture_pause('locked_up'); INSERT INTO locked_up VALUES (1.00, 'Touched', '9530000001'); SET ROLE toucher; SELECT kapture_touch('locked_up', '1')));
is(sql("SELECT string_agg(DISTINCT k, ' ') FROM kapture_outbox o, unnest(row_key || more_keys) k"), '1.00', 'whoever may update the table needs no more');
sql("SELECT kapture_detach('locked_up'); DROP TABLE locked_up");

#
# A table that is rewritten between the worker's snapshot and its lock on the table
#

sql(q(CREATE TABLE rewritten (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('rewritten'); SELECT kapture_pause('rewritten');
	INSERT INTO rewritten VALUES (1, 'Rewritten', '9550000001')));
# Runs commands when the worker has its snapshot, but no lock on the table yet.
sub rewrite
{
	my ($commands) = @_;
	my $holder = $node->background_psql('postgres');

	$holder->query_safe("BEGIN; LOCK TABLE kapture_outbox IN EXCLUSIVE MODE");
	sql("SELECT kapture_resume('rewritten')");
	poll_ok($node, "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = kapture_worker_pid() AND NOT granted AND relation = 'kapture_outbox'::regclass)", 'the worker is about to take a change');
	sql($commands);
	$holder->query_safe("COMMIT");
	$holder->quit;
	poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'rewritten'::regclass", 'then it goes on');
	return;
}
rewrite("ALTER TABLE rewritten ADD COLUMN x uuid DEFAULT gen_random_uuid()");
is(sql("SELECT count(kapture_customer_id) FROM rewritten"), '1', 'a row of a table that is rewritten is not taken for deleted');

# as pg_repack does: a copy, which the worker's snapshot shows, is brought up to date and takes the table's place
sql(q(SELECT kapture_pause('rewritten'); CREATE TABLE copy (LIKE rewritten INCLUDING INDEXES); INSERT INTO copy SELECT * FROM rewritten;
	UPDATE rewritten SET phone = '9550000002'));
rewrite(q(BEGIN; LOCK TABLE rewritten, copy; UPDATE copy SET phone = '9550000002'; SET LOCAL allow_system_table_mods = on;
	WITH pair(a, b) AS (VALUES ('rewritten'::regclass, 'copy'::regclass), ('rewritten_pkey', 'copy_pkey')),
		file AS (SELECT a AS oid, relfilenode FROM pair JOIN pg_class ON oid = b UNION ALL SELECT b, relfilenode FROM pair JOIN pg_class ON oid = a)
	UPDATE pg_class AS c SET relfilenode = file.relfilenode FROM file WHERE file.oid = c.oid;
	COMMIT; DROP TABLE copy));
is(sql("SELECT phone FROM rewritten"), '9550000002', 'the copy has taken the place of the table');
my ($rewritten) = grep { $_->{customer_name} eq 'Rewritten' } @{ emulator_get($emulator, 'customers') };
is($rewritten->{phone}, '9550000002', 'what the row holds by then is sent');

# as does an address that a view reads
sql(q(CREATE TABLE address (id int PRIMARY KEY REFERENCES rewritten, city text); INSERT INTO address VALUES (1, 'Pune');
	CREATE VIEW addressed AS SELECT id, customer_name, phone, city FROM rewritten JOIN address USING (id);
	SELECT kapture_detach('rewritten'); SELECT kapture_attach('rewritten', source => 'addressed'); SELECT kapture_pause('rewritten');
	INSERT INTO rewritten VALUES (2, 'Addressed', '9550000003'); INSERT INTO address VALUES (2, 'Goa')));
rewrite("ALTER TABLE address ADD COLUMN x uuid DEFAULT gen_random_uuid()");
is(sql("SELECT count(kapture_customer_id) FROM rewritten WHERE id = 2"), '1', 'a row whose view reads a table that is rewritten is not left out');
sql("DROP VIEW addressed CASCADE; DROP TABLE address");

# and the rows of a backfill, whose call waits for the table
sql("CREATE TABLE filled (id int PRIMARY KEY, customer_name text, phone text); INSERT INTO filled VALUES (1, 'Filled', '9550000004'); SELECT kapture_attach('filled')");
foreach my $isolation ('read committed', 'repeatable read')
{
	my ($holder, $filler) = map { $node->background_psql('postgres', on_error_stop => 0) } 1, 2;
	$holder->query_safe("BEGIN; LOCK TABLE filled");
	$filler->query_until(qr/begun/, "SET default_transaction_isolation = '$isolation';\n\\echo begun\nSELECT kapture_backfill_slice('filled', 10);\n");
	poll_ok($node, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'filled'::regclass AND NOT granted)", "$isolation: a backfill waits for the table");
	$holder->query_safe("ALTER TABLE filled ADD COLUMN x uuid DEFAULT gen_random_uuid(); ALTER TABLE filled DROP COLUMN x; COMMIT");
	$holder->quit;
	like($filler->query("SELECT 'rows: ' || coalesce((SELECT rows::text FROM kapture_backfill WHERE attachment_id = (SELECT attachment_id FROM kapture_attachment WHERE relation = 'filled'::regclass)), 'none')"),
		$isolation eq 'read committed' ? qr/rows: 1/ : qr/rows: none/, "$isolation: it finds the rows of the table that was rewritten, or refuses");
	like($filler->{stderr}, $isolation eq 'read committed' ? qr/^(?!.*ERROR)/s : qr/ERROR:  table "filled" was rewritten after the transaction had begun/, "$isolation: and says so");
	$filler->quit;
	sql("SELECT kapture_detach('filled'); SELECT kapture_attach('filled')");
}
sql("SELECT kapture_detach('filled'); DROP TABLE filled");
sql("SELECT kapture_detach('rewritten'); DROP TABLE rewritten");

#
# Another server, while the worker is just taking up a change
#

my $second = start_emulator();
sql("CREATE SERVER second FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$second->{url}')");
sql(q(CREATE USER MAPPING FOR CURRENT_USER SERVER second OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
	CREATE FUNCTION after_gate(city text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
		WHILE EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objid = 42) LOOP PERFORM pg_catalog.pg_sleep(0.01); END LOOP;
		RETURN city; END $$;
	CREATE TABLE moving (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text, city text);
	SELECT kapture_attach('moving', columns => '{"customer_name": "customer_name", "phone": "phone", "city": {"expression": "public.after_gate(city)"}}')));
hold_adds($node, $emulator);
my $gate = $node->background_psql('postgres');
my $said = '';
# the gate may be closed for too long where the machine is slow, which parks the row
for my $try (1 .. 5)
{
	my $answer = '';
	my @commands = ("SELECT kapture_pause('moving')", "SELECT 'in flight: ' || in_flight FROM kapture_status WHERE relation = 'moving'::regclass", "SELECT kapture_alter('moving', server => 'second')");
	sql("SELECT kapture_resume('moving')");
	$gate->query_safe("SELECT pg_advisory_lock(42)");
	sql("INSERT INTO moving (customer_name, phone) VALUES ('Moving $try', '954000000$try')");
	poll_ok($node, "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = kapture_worker_pid()", 'the worker is reading a row');
	my $session = IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), map { ('-c', $_) } @commands ], '>&', \$answer);
	wait_for(sub { $session->pump_nb if $session->pumpable; !$session->pumpable ||
		  sql("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'object' AND classid = 'kapture_attachment'::regclass AND NOT granted)") eq 't' }, 'kapture_pause to wait, or to be done');
	$gate->query_safe("SELECT pg_advisory_unlock(42)");
	$session->finish;
	$said = $answer;
	last unless sql("SELECT count(*) FROM kapture_failures WHERE relation = 'moving'::regclass");
	sql("SELECT kapture_discard('moving')");
}
$gate->quit;
like($said, qr/^in flight: 1$/m, 'whoever pauses a table sees what was just being taken up');
like($said, qr/ERROR:  requests of table "moving" to server "kapture" may be in flight/, 'and cannot have it go elsewhere');
release_adds($node, $emulator);
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM moving", 'it goes to the server that the table had');
is(scalar @{ emulator_get($second, 'customers') }, 0, 'and not to the other one');

#
# What somebody has locked keeps nobody busy
#

# the processor time of a process, in seconds
sub worked
{
	my ($pid) = @_;
	my @stat = split / /, slurp_file("/proc/$pid/stat") =~ s/.*\) //sr;
	return ($stat[11] + $stat[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

emulator_faults($emulator, { api => 'ticket_add', action => 'status', code => 503 });
my $call = sql(q(SELECT kapture_send('ticket_add', '{"title": "Locked"}', retry => 'always')));
my $locker = $node->background_psql('postgres');
$locker->query_safe("BEGIN");
wait_for(sub {
	$locker->query_safe("ROLLBACK; BEGIN");
	return $locker->query_safe("SELECT true FROM kapture_call_queue WHERE call_id = $call AND state = 'waiting' AND attempts > 0 FOR UPDATE SKIP LOCKED") eq 't';
}, 'a call that waits');
emulator_faults($emulator);
poll_ok($node, "SELECT next_attempt < now() FROM kapture_call_queue WHERE call_id = $call", 'a call that somebody has locked is due');
my ($worker, $until) = (sql("SELECT kapture_worker_pid()"), time + 2);
my $worked = worked($worker);
wait_for(sub { time > $until }, 'the worker to have had time');
cmp_ok(worked($worker) - $worked, '<', 0.2 * ($ENV{KAPTURE_SLOWNESS} || 1), 'the worker does not look for it all the time');
$locker->query_safe("COMMIT");
$locker->quit;
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE call_id = $call", 'and sends it when it is free');

#
# A session that has locked a table wants what the worker has taken of the queue, and waits for
#

sub enable { return sql("ALTER SYSTEM SET kapture_sync.enabled = $_[0]") . sql('SELECT pg_reload_conf()') }
sql("CREATE TABLE ending (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('ending')");
enable('off');
poll_ok($node, "SELECT NOT ok AND detail ~ 'kapture_sync.enabled' FROM kapture_check() WHERE step = 'worker'", 'nothing is sent for now');
sql("INSERT INTO ending SELECT i, 'Ending ' || i, (9560000000 + i)::text FROM generate_series(1, 30) i");
my $owner = $node->background_psql('postgres', on_error_stop => 0);
$owner->query_safe('BEGIN; LOCK TABLE ending');
enable('on');
wait_for(sub { sql("SELECT count(*) > 0 FROM pg_locks WHERE pid = kapture_worker_pid() AND NOT granted AND relation = 'ending'::regclass") eq 't' }, 'the worker to wait for the table');
$owner->query("DELETE FROM kapture_outbox WHERE attachment_id = (SELECT attachment_id FROM kapture_attachment WHERE relation = 'ending'::regclass)");
unlike($owner->{stderr}, qr/deadlock/, 'the worker gives in');
$owner->query('ROLLBACK');
$owner->quit;
poll_ok($node, "SELECT count(kapture_customer_id) = 30 FROM ending", 'and sends the rows later');
is(sql("SELECT count(*) FROM kapture_failures WHERE relation = 'ending'::regclass"), '0', 'none is parked for that');

#
# Values that other systems do not take, and types that are made anew
#

sub idle { return poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status WHERE relation = 'odd'::regclass", $_[0]) }
sub odd { return join ' ', map { my $c = $_; map { $c->{$_} // '' } qw(city zone campaign_name gender) } grep { $_->{customer_name} eq $_[0] } @{ emulator_get($emulator, 'customers') } }
sql(q(CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE nothing AS ENUM ();
CREATE TABLE odd (id int PRIMARY KEY, customer_name text, phone text, n numeric, t timestamptz, m mood, d date, e nothing);
SELECT kapture_attach('odd', '{"customer_name": "customer_name", "phone": "phone", "city": "n", "zone": "t", "campaign_name": "m", "gender": "d", "country": "e"}');
INSERT INTO odd VALUES (1, 'Endless', '9570000001', 'NaN', 'infinity', 'sad', '-infinity'), (2, 'Early', '9570000002', '-Infinity', '-infinity', 'ok', '0044-03-15 BC')));
idle('rows with values that are no numbers, and times without an end');
is(odd('Endless') . ', ' . odd('Early'), 'NaN infinity sad -infinity, -Infinity -infinity ok 0044-03-15 BC', 'are sent as they are');
sql("ALTER TYPE mood ADD VALUE 'new'");
sql("UPDATE odd SET m = 'new' WHERE id = 1");
idle('a new value of a type');
is(odd('Endless'), 'NaN infinity new -infinity', 'is sent');
sql("ALTER TABLE odd ALTER m TYPE text; DROP TYPE mood; CREATE TYPE mood AS ENUM ('other', 'new', 'ok'); ALTER TABLE odd ALTER m TYPE mood USING m::mood; UPDATE odd SET m = 'other' WHERE id = 1");
idle('a type that is dropped and made anew');
is(odd('Endless'), 'NaN infinity other -infinity', 'is known again');

#
# A schema in which PUBLIC may do nothing, and settings that are meant for others
#

sql("CREATE ROLE writer; GRANT USAGE ON SCHEMA public TO writer; GRANT SELECT, INSERT, UPDATE, DELETE ON odd TO writer;
REVOKE ALL ON SCHEMA public FROM PUBLIC; REVOKE ALL ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC; REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC;
ALTER DATABASE postgres SET default_transaction_read_only = on; ALTER DATABASE postgres SET default_transaction_isolation = 'serializable'; ALTER DATABASE postgres SET statement_timeout = '1ms'");
{
	# for the worker, not for this test's own sessions
	local $ENV{PGOPTIONS} = '-c statement_timeout=0';
	restart_worker($node, 'a worker in a database for readers');
	sql("SET transaction_read_only = off; SET default_transaction_read_only = off; ALTER DATABASE postgres RESET ALL");
}
sql("SET ROLE writer; INSERT INTO odd (id, customer_name, phone) VALUES (3, 'Written', '9570000003'); UPDATE odd SET n = 7 WHERE id = 3; UPDATE odd SET id = 4 WHERE id = 3; DELETE FROM odd WHERE id = 2");
idle('a role without rights to anything of the extension changes rows');
is(odd('Written'), '7   ', 'which are sent');

$node->stop;
done_testing();
