# Physical replication: nothing runs on a standby, a promoted one drains.
# Logical replication: several servers feed one that keeps Kapture in step.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";
my $serves = "SELECT kapture_worker_pid() IS NOT NULL";
my $processes = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'kapture%'";

#
# Physical
#
my $emulator = start_emulator();
my $one = new_node('one', allows_streaming => 1);
setup_sync($one, $emulator);
create_customers($one);
$one->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Before', '9000000000')");
poll_ok($one, $idle, 'the primary sends');

$one->backup('backup');
my $two = PostgreSQL::Test::Cluster->new('two');
$two->init_from_backup($one, 'backup', has_streaming => 1);
$two->start;
$one->wait_for_catchup($two);

# What is a minute of requests waits when the primary is stopped.
sub backlog
{
	my ($primary, $standby, $first) = @_;
	emulator_faults($emulator, { api => 'add', action => 'delay', ms => 1000 });
	$primary->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) SELECT 'Backlog', ($first + i)::text FROM generate_series(1, 400) i");
	poll_ok($primary, "SELECT count(kapture_customer_id) > 5 FROM customers WHERE phone::bigint > $first", 'the drain is under way');
	$primary->wait_for_catchup($standby);
	return;
}

sub drained
{
	my ($node) = @_;
	emulator_faults($emulator);
	poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'the new primary sends the rest');
	poll_ok($node, $idle, 'to the end');
	oracle_ok($node, $emulator, 'nothing is lost or sent twice');
	return;
}

backlog($one, $two, 9100000000);
is($two->safe_psql('postgres', $processes), '0', 'no launcher and no worker runs on a standby');
is($two->safe_psql('postgres', "SELECT state, pending > 0 FROM kapture_status"), 'no worker|t', 'its views can be read');
foreach my $view (split(/\n/, $two->safe_psql('postgres', qq(
SELECT c.oid::regclass FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.relkind = 'v'
AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync') ORDER BY 1))),
	'kapture_history', "kapture_preview('customers', (SELECT min(id)::text FROM customers))")
{
	my ($rc, $out, $err) = $two->psql('postgres', "SELECT count(*) FROM $view");
	is($rc, 0, "$view can be read") or diag($err);
}
is($two->safe_psql('postgres', "SELECT bool_and(ok), max(detail) FILTER (WHERE step = 'worker') FROM kapture_check()"), 't|nothing is sent from a standby', 'kapture_check finds nothing wrong');
$one->safe_psql('postgres', qq(CREATE ROLE stranger;
CREATE SERVER nowhere FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR PUBLIC SERVER nowhere OPTIONS (auth_key 'k');
CREATE SERVER elsewhere FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (auth_key 'wrong')));
$one->wait_for_catchup($two);
my $wrong = "SELECT string_agg(step || ': ' || detail, ' ' ORDER BY n) FROM kapture_check('%s') WITH ORDINALITY AS c(step, ok, detail, n) WHERE NOT ok";
like($two->safe_psql('postgres', sprintf($wrong, 'absent')), qr/^options: server "absent" does not exist/, 'where something is wrong, it says what: a server that is not there');
like($two->safe_psql('postgres', 'SET ROLE stranger; ' . sprintf($wrong, 'kapture')), qr/^options: permission denied for foreign server kapture/, 'one that is not for this role');
like($two->safe_psql('postgres', sprintf($wrong, 'nowhere')), qr/^tcp: .*[Cc]onnect/, 'an address where nobody listens');
like($two->safe_psql('postgres', sprintf($wrong, 'elsewhere')), qr/^auth: HTTP code 401: Invalid Auth Key/, 'a key that Kapture does not know');
like($two->safe_psql('postgres', q(SELECT kapture_get_customer('{"phone": "9000000000"}'))), qr/Before/, 'and Kapture be asked');
my (undef, undef, $refused) = $two->psql('postgres', "SELECT * FROM kapture_match('customers', write => true)");
like($refused, qr/cannot execute kapture_match\(\) with argument "write" in a read-only transaction/, 'ids are not written here');

# switched over
$one->stop('fast');
is($two->safe_psql('postgres', $processes), '0', 'nor when its primary is gone');
$two->promote;
poll_ok($two, $serves, 'a promoted standby starts its worker');
$one->enable_streaming($two);
$one->start;
poll_ok($two, "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'", 'the demoted primary follows');
is($one->safe_psql('postgres', $processes), '0', 'and runs neither launcher nor worker any more');
drained($two);

# failed over, with objects that somebody has planted just before: a trigger, a function that was given away,
# a table of the same name in a schema that was renamed
$two->safe_psql('postgres', q(
CREATE ROLE mallory; CREATE SCHEMA AUTHORIZATION mallory; CREATE SCHEMA places AUTHORIZATION mallory; CREATE TABLE loot (who text);
CREATE FUNCTION given() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE planted (id int PRIMARY KEY, customer_name text, phone text); CREATE TABLE passed_on (LIKE planted INCLUDING ALL); CREATE TABLE places.moved (LIKE planted INCLUDING ALL);
CREATE TRIGGER given BEFORE UPDATE ON passed_on FOR EACH ROW EXECUTE FUNCTION given();
SELECT kapture_attach(t), kapture_pause(t) FROM unnest('{planted,passed_on,places.moved}'::regclass[]) AS t;
INSERT INTO planted VALUES (1, 'Customer', '9250000001'); INSERT INTO passed_on VALUES (1, 'Customer', '9250000002'); INSERT INTO places.moved VALUES (1, 'Customer', '9250000003');
GRANT TRIGGER ON planted TO mallory;
));
backlog($two, $one, 9200000000);
$two->safe_psql('postgres', q(
ALTER FUNCTION given() OWNER TO mallory; GRANT CREATE ON SCHEMA public TO mallory; GRANT CREATE ON DATABASE postgres TO mallory;
SET SESSION AUTHORIZATION mallory;
CREATE FUNCTION mallory.steal() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; INSERT INTO public.loot VALUES (current_user); RETURN NEW; END $$;
CREATE OR REPLACE FUNCTION given() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; INSERT INTO public.loot VALUES (current_user); RETURN NEW; END $$;
CREATE TRIGGER steal BEFORE UPDATE ON planted FOR EACH ROW EXECUTE FUNCTION mallory.steal();
ALTER SCHEMA places RENAME TO old_places; CREATE SCHEMA places; CREATE TABLE places.moved (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
INSERT INTO places.moved VALUES (1, 'Planted', '9250000004'); CREATE TRIGGER steal BEFORE UPDATE ON places.moved FOR EACH ROW EXECUTE FUNCTION mallory.steal();
));
$two->wait_for_catchup($one);
$two->stop('immediate');
$one->promote;
poll_ok($one, $serves, 'promoted after a crash, it starts its worker, too');
drained($one);
$one->safe_psql('postgres', "SELECT kapture_resume(relation) FROM kapture_status WHERE state = 'paused'");
poll_ok($one, "SELECT count(*) = 2 AND bool_and(state = 'parked' AND message ~ 'code of role \"mallory\" must not run as role') FROM kapture_failures WHERE relation IN ('planted'::regclass, 'passed_on'::regclass)",
	'what was planted before a promotion does not run after it');
poll_ok($one, "SELECT kapture_customer_id IS NOT NULL FROM old_places.moved", 'a table whose schema was renamed is sent');
is($one->safe_psql('postgres', "SELECT (SELECT count(*) FROM loot), (SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'), (SELECT count(kapture_customer_id) FROM places.moved)"), '0|f|0', 'and nothing is gained, nor is the other one written');
is(scalar(grep { $_->{customer_name} eq 'Planted' } @{ emulator_get($emulator, 'customers') }), 0, 'or sent');

# pg_createsubscriber makes a copy of a standby, which it promotes while the primary goes on sending
if ($one->pg_version >= 17)
{
	$one->append_conf('postgresql.conf', 'wal_level = logical');
	$one->restart;
	$one->backup('subscriber');
	my $three = PostgreSQL::Test::Cluster->new('three');
	$three->init_from_backup($one, 'subscriber', has_streaming => 1);
	$three->append_conf('postgresql.conf', "kapture_sync.enabled = off\nhot_standby_feedback = on\nprimary_conninfo = '" . $one->connstr . " dbname=postgres'");
	$three->start;
	# what waits here would be sent from wherever it may be
	$one->append_conf('postgresql.conf', 'kapture_sync.enabled = off');
	$one->reload;
	$one->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) SELECT 'Subscribed', (9270000000 + i)::text FROM generate_series(1, 50) i");
	$one->wait_for_catchup($three);
	$three->stop;
	my $requests = @{ emulator_get($emulator, 'log') };
	$three->command_ok([ 'pg_createsubscriber', '-D', $three->data_dir, '-P', $one->connstr('postgres'), '-p', $three->port, '-s', $three->host, '-d', 'postgres' ], 'a standby is made a subscriber');
	$three->append_conf('postgresql.conf', 'kapture_sync.enabled = on');
	$three->start;
	poll_ok($three, "SELECT bool_and(state = 'copy') FROM kapture_status", 'which is a copy then');
	is(scalar(@{ emulator_get($emulator, 'log') }), $requests, 'and nothing was sent from it before');
	$three->stop;
}
$one->stop;

#
# Logical: two publishers and a hub, which publishes everything itself
#
emulator_post($emulator, 'reset', {});
my $hub = PostgreSQL::Test::Cluster->new('hub');
$hub->init(allows_streaming => 'logical');
$hub->append_conf('postgresql.conf', "shared_preload_libraries = 'kapture_sync'\nmax_worker_processes = 20\nmax_prepared_transactions = 10\n");
$hub->start;
setup_sync($hub, $emulator);
$hub->safe_psql('postgres', "CREATE PUBLICATION everything FOR ALL TABLES");
$hub->safe_psql('postgres', "CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text, note text)");
$hub->safe_psql('postgres', "SELECT kapture_attach('customers')");

my @publishers;
foreach my $n (1, 2)
{
	my $publisher = PostgreSQL::Test::Cluster->new("publisher$n");
	$publisher->init(allows_streaming => 'logical');
	$publisher->append_conf('postgresql.conf', 'max_prepared_transactions = 10');
	$publisher->start;
	$publisher->safe_psql('postgres', qq(
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text, note text);
INSERT INTO customers (id, customer_name, phone) SELECT $n * 1000 + i, 'Copied', (9${n}00000000 + i)::text FROM generate_series(1, 50) i;
CREATE PUBLICATION customers FOR TABLE customers));
	push @publishers, $publisher;
}

sub subscribe
{
	my ($n) = @_;
	$hub->safe_psql('postgres', "CREATE SUBSCRIPTION sub$n CONNECTION '" . $publishers[ $n - 1 ]->connstr . " dbname=postgres' PUBLICATION customers");
	$hub->wait_for_subscription_sync($publishers[ $n - 1 ], "sub$n");
	return;
}

sub applied
{
	$publishers[ $_ - 1 ]->wait_for_catchup("sub$_") foreach @_;
	return;
}

# without replicated => true, what is replicated here is somebody else's to send
subscribe(1);
$publishers[0]->safe_psql('postgres', "UPDATE customers SET city = 'Nowhere' WHERE id = 1001");
applied(1);
is($hub->safe_psql('postgres', "SELECT count(*), count(kapture_customer_id) FROM customers"), '50|0', 'rows are replicated');
is($hub->safe_psql('postgres', "SELECT (SELECT count(*) FROM kapture_outbox) + (SELECT count(*) FROM kapture_history)"), '0', 'and not captured by default');

# with it, the first copy of a table and all that follows are captured
$hub->safe_psql('postgres', "SELECT kapture_detach('customers'); SELECT kapture_attach('customers', replicated => true)");
subscribe(2);
poll_ok($hub, "SELECT count(kapture_customer_id) = 50 FROM customers WHERE id > 2000", 'the first copy of a table is sent');
my @sql = (
	"UPDATE customers SET city = 'Delhi'",
	"INSERT INTO customers (id, customer_name, phone) SELECT %d * 1000 + 500 + i, 'Streamed', (9%d00000500 + i)::text FROM generate_series(1, 200) i",
	"UPDATE customers SET city = 'Agra', customer_name = 'Changed ' || id WHERE id %% 3 = 0");
foreach my $statement (@sql)
{
	$publishers[ $_ - 1 ]->safe_psql('postgres', sprintf($statement, $_, $_)) foreach 1, 2;
}
applied(1, 2);
poll_ok($hub, "SELECT count(*) = 500 AND count(kapture_customer_id) = 500 FROM customers", 'changes of both publishers are sent');
poll_ok($hub, $idle, 'and nothing is left');
oracle_ok($hub, $emulator, 'Kapture has the rows of both, once and as they are');

# dumps disable and enable all triggers (pg_dump --disable-triggers); those that are to fire in replication do so again
my $dumped = 'ALTER TABLE %1$s DISABLE TRIGGER ALL; ALTER TABLE %1$s ENABLE TRIGGER ALL;';
$hub->safe_psql('postgres', sprintf($dumped, 'customers'));
$publishers[ $_ - 1 ]->safe_psql('postgres', "UPDATE customers SET city = 'Enabled' WHERE id % 5 = 0") foreach 1, 2;
applied(1, 2);
poll_ok($hub, $idle, 'nothing is left');
oracle_ok($hub, $emulator, 'what is replicated after triggers were disabled and enabled is sent');
is($hub->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', tgname, tgenabled), ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'customers'::regclass"), 'kapture_capture A, kapture_truncate A', 'as are TRUNCATEs');

# partitions that are truncated by themselves: one that was there when the table was attached, one that came later
my $parts = 'CREATE TABLE parts (id int PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id); CREATE TABLE low PARTITION OF parts FOR VALUES FROM (1) TO (10)';
my $high = 'CREATE TABLE high PARTITION OF parts FOR VALUES FROM (10) TO (20)';
$publishers[0]->safe_psql('postgres', "$parts; $high; ALTER PUBLICATION customers ADD TABLE parts");
$hub->safe_psql('postgres', "$parts; SELECT kapture_attach('parts', replicated => true); $high");
$hub->safe_psql('postgres', 'ALTER SUBSCRIPTION sub1 REFRESH PUBLICATION');
$hub->wait_for_subscription_sync($publishers[0], 'sub1');
$publishers[0]->safe_psql('postgres', "INSERT INTO parts VALUES (1, 'First', '9300000001'), (2, 'Second', '9300000002'), (11, 'Eleventh', '9300000011')");
applied(1);
poll_ok($hub, 'SELECT count(*) = 3 AND count(kapture_customer_id) = 3 FROM parts', 'rows of partitions are sent');
$hub->safe_psql('postgres', sprintf($dumped, 'low') . sprintf($dumped, 'parts'));
is($hub->safe_psql('postgres', "SELECT string_agg(concat_ws(' ', tgrelid::regclass, tgname, tgenabled), ', ' ORDER BY tgrelid, tgname) FROM pg_trigger WHERE tgrelid IN ('parts'::regclass, 'low'::regclass, 'high'::regclass)"),
	'parts kapture_capture A, parts kapture_truncate A, low kapture_capture A, low kapture_truncate R, high kapture_capture A, high kapture_truncate R',
	'triggers of partitions that were disabled and enabled fire as before');
my $first = $hub->safe_psql('postgres', 'SELECT kapture_customer_id FROM parts WHERE id = 1');
$publishers[0]->safe_psql('postgres', "BEGIN; TRUNCATE low; INSERT INTO parts VALUES (1, 'Another', '9300000003'); COMMIT; TRUNCATE high");
applied(1);
poll_ok($hub, "SELECT count(*) = 1 AND min(kapture_customer_id) <> $first FROM parts", 'another row under the key of one that was truncated has its own customer');
poll_ok($hub, "SELECT string_agg(row_key || ' ' || reason, ', ' ORDER BY row_key) = '1 deleted, 11 deleted, 2 deleted' FROM kapture_orphans WHERE relation = 'parts'::regclass",
	'and those of truncated rows are orphans');
$publishers[0]->safe_psql('postgres', 'TRUNCATE parts');
applied(1);
poll_ok($hub, "SELECT count(*) = 4 FROM kapture_orphans WHERE relation = 'parts'::regclass", 'so they are if all of them are truncated');
# the whole table, of which it is known then what becomes of its partitions, for each attachment
$publishers[0]->safe_psql('postgres', 'ALTER PUBLICATION customers SET (publish_via_partition_root = true)');
$hub->safe_psql('postgres', 'ALTER SUBSCRIPTION sub1 REFRESH PUBLICATION');
$hub->wait_for_subscription_sync($publishers[0], 'sub1');
$hub->safe_psql('postgres', "SELECT kapture_attach('parts', replicated => true, name => 'other', id_column => NULL, filter => 'id < 0')");
$publishers[0]->safe_psql('postgres', "INSERT INTO parts VALUES (3, 'Third', '9300000013'), (13, 'Thirteenth', '9300000014')");
applied(1);
poll_ok($hub, 'SELECT count(*) = 2 AND count(kapture_customer_id) = 2 FROM parts', 'rows of a table that has another attachment, too');
poll_ok($hub, 'SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status', 'and nothing is left');
$publishers[0]->safe_psql('postgres', 'TRUNCATE parts');
applied(1);
poll_ok($hub, "SELECT count(*) = 6 FROM kapture_orphans WHERE relation = 'parts'::regclass", 'all are truncated by way of the root');
is($hub->safe_psql('postgres', "SELECT string_agg(DISTINCT action, ' ') FROM kapture_history WHERE relation = 'parts'::regclass AND row_key IN ('', '3', '13') AND action <> 'left'"), 'add truncate', 'which the history has as that, once');
$hub->safe_psql('postgres', "SELECT kapture_detach('parts', name => 'other')");
$hub->safe_psql('postgres', "SELECT kapture_alter('parts', replicated => false)");
is($hub->safe_psql('postgres', "SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('low'::regclass, 'high'::regclass) AND tgparentid = 0"), '0', 'a table that does not capture replication watches no partitions');
$hub->safe_psql('postgres', "SELECT kapture_alter('parts', replicated => true)");
is($hub->safe_psql('postgres', "SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('low'::regclass, 'high'::regclass) AND tgparentid = 0"), '2', 'until it does');
$hub->safe_psql('postgres', "SELECT kapture_detach('parts')");
is($hub->safe_psql('postgres', "SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('low'::regclass, 'high'::regclass)"), '0', 'nothing is left of a table that is detached');
$hub->safe_psql('postgres', 'DROP TABLE parts');

# a subscriber that copies all tables, the extension's as well, is a copy
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init(allows_streaming => 'logical');
$copy->append_conf('postgresql.conf', "shared_preload_libraries = 'kapture_sync'\nmax_worker_processes = 20");
$copy->start;
my $schema = PostgreSQL::Test::Utils::tempdir() . '/schema.sql';
$hub->command_ok([ 'pg_dump', '--schema-only', '--no-publications', '--no-subscriptions', '-f', $schema, $hub->connstr('postgres') ], 'the schema is dumped');
$copy->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', $schema, $copy->connstr('postgres') ], 'and restored');
$copy->safe_psql('postgres', "CREATE SUBSCRIPTION everything CONNECTION '" . $hub->connstr . " dbname=postgres' PUBLICATION everything");
poll_ok($copy, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel", 'all tables of a database are copied by a subscription');
my $sent = @{ emulator_get($emulator, 'log') };
$hub->safe_psql('postgres', "UPDATE customers SET city = 'Copied' WHERE id % 7 = 0");
poll_ok($hub, $idle, 'changes are sent');
$hub->wait_for_catchup('everything');
is($copy->safe_psql('postgres', 'SELECT string_agg(DISTINCT state, $$ $$) FROM kapture_status'), 'copy', 'and not from the subscriber');
is(join(' ', grep { $_ ne $hub->safe_psql('postgres', "SELECT count(*) FROM customers WHERE id % 7 = 0") } @{ emulator_get($emulator, 'log') } - $sent), '', 'each change is sent once');
$copy->safe_psql('postgres', 'ALTER SUBSCRIPTION everything DISABLE; SELECT kapture_resume()');
$copy->safe_psql('postgres', "UPDATE customers SET city = 'Resumed' WHERE id % 9 = 0");
poll_ok($copy, "SELECT bool_and(state = 'running') AND sum(pending + in_flight + retrying) = 0 FROM kapture_status", 'it sends once that is taken over');
is(scalar(grep { ($_->{city} // '') eq 'Resumed' } @{ emulator_get($emulator, 'customers') }), $copy->safe_psql('postgres', "SELECT count(*) FROM customers WHERE city = 'Resumed'"), 'all that has changed');
$copy->safe_psql('postgres', "DROP SUBSCRIPTION everything");
$copy->stop;
$hub->safe_psql('postgres', "UPDATE customers SET city = 'Back' WHERE id % 9 = 0");
poll_ok($hub, $idle, 'nothing is left');

# tables that an attached one follows, in two phases, with rights that a former superuser's subscription has
my $towns = 'CREATE TABLE towns (id int PRIMARY KEY, name text); CREATE TABLE members (id int PRIMARY KEY, name text, phone text, town int);';
$publishers[0]->safe_psql('postgres', "$towns CREATE PUBLICATION towns FOR TABLE towns, members");
$hub->safe_psql('postgres', qq($towns CREATE TABLE ran (trigger_of text, as_role text); GRANT INSERT ON ran TO PUBLIC;
CREATE VIEW member_view AS SELECT m.id, m.name AS customer_name, m.phone, t.name AS city FROM members m JOIN towns t ON t.id = m.town;
CREATE FUNCTION note_role() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.ran VALUES (tg_table_name, current_user); RETURN NEW; END';
CREATE TRIGGER note_role BEFORE INSERT OR UPDATE ON members FOR EACH ROW EXECUTE FUNCTION note_role(); ALTER TABLE members ENABLE ALWAYS TRIGGER note_role;
CREATE ROLE town_owner; CREATE ROLE member_owner; GRANT USAGE ON SCHEMA public TO member_owner; GRANT USAGE ON FOREIGN SERVER kapture TO member_owner; GRANT SELECT, TRIGGER ON towns TO member_owner; GRANT member_owner TO CURRENT_USER;
CREATE USER MAPPING FOR member_owner SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
ALTER TABLE towns OWNER TO town_owner; ALTER TABLE members OWNER TO member_owner; ALTER VIEW member_view OWNER TO member_owner; ALTER FUNCTION note_role() OWNER TO member_owner;
SET ROLE member_owner;
SELECT kapture_attach('members', source => 'member_view', id_column => NULL);
SELECT kapture_follow('towns', 'members', 'target.town = source.id');
RESET ROLE;
CREATE ROLE applier LOGIN SUPERUSER; GRANT ALL ON towns, members TO applier; GRANT town_owner, member_owner TO applier;
SET SESSION AUTHORIZATION applier;
CREATE SUBSCRIPTION towns CONNECTION ') . $publishers[0]->connstr . " dbname=postgres' PUBLICATION towns WITH (two_phase = true" . ($hub->pg_version >= 16 ? ', password_required = false)' : ')'));
$hub->wait_for_subscription_sync($publishers[0], 'towns');
$hub->safe_psql('postgres', 'ALTER ROLE applier NOSUPERUSER');
sub two_phases
{
	my ($statements) = @_;
	$publishers[0]->safe_psql('postgres', "BEGIN; $statements; PREPARE TRANSACTION 'two'");
	$publishers[0]->wait_for_catchup('towns');
	poll_ok($hub, 'SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status', 'nothing is left');
	$publishers[0]->safe_psql('postgres', "COMMIT PREPARED 'two'");
	$publishers[0]->wait_for_catchup('towns');
	return;
}
sub member_cities { return join ' ', map { $_->{city} // '' } grep { $_->{customer_name} =~ /^Member/ } @{ emulator_get($emulator, 'customers') } }
two_phases("INSERT INTO towns VALUES (1, 'Hubli'); INSERT INTO members VALUES (1, 'Member', '9400000001', 1)");
is($hub->safe_psql('postgres', "SELECT count(*) FROM kapture_outbox WHERE attachment_id < 0 OR attachment_id = (SELECT max(attachment_id) FROM kapture_attachment)"), '0',
	'neither a table that does not capture replication, nor what it follows, is noted');
$hub->safe_psql('postgres', "SELECT kapture_alter('members', replicated => true)");
two_phases("UPDATE members SET name = 'Member 1'; INSERT INTO members VALUES (2, 'Member', '9400000002', 1)");
wait_for(sub { member_cities() eq 'Hubli Hubli' }, 'changes of a transaction in two phases to be sent');
# (another attachment of the table, which does not, takes nothing away from that)
$hub->safe_psql('postgres', "SET ROLE member_owner; SELECT kapture_attach('members', source => 'member_view', id_column => NULL, name => 'other', filter => 'id < 0')");
two_phases("UPDATE towns SET name = 'Dharwad'");
wait_for(sub { member_cities() eq 'Dharwad Dharwad' }, 'a change of a followed table to be sent');
pass('changes of transactions in two phases are sent once these are committed, those of followed tables, too');
like($hub->safe_psql('postgres', 'SELECT DISTINCT as_role FROM ran'), $hub->pg_version >= 16 ? qr/^member_owner$/ : qr/^applier$/, 'triggers of the owner run as PostgreSQL runs them');
if ($hub->pg_version >= 16)
{
	$hub->safe_psql('postgres', 'ALTER SUBSCRIPTION towns SET (run_as_owner = true); TRUNCATE ran');
	two_phases("UPDATE towns SET name = 'Belgaum'; UPDATE members SET name = 'Member'");
	wait_for(sub { member_cities() eq 'Belgaum Belgaum' }, 'what is applied as the owner of the subscription to be sent');
	is($hub->safe_psql('postgres', 'SELECT DISTINCT as_role FROM ran'), 'applier', 'changes that are applied as the owner of the subscription are sent');
}
$hub->safe_psql('postgres', "DROP SUBSCRIPTION towns; DROP TABLE members CASCADE");

# a partition of a followed table that is truncated by itself
my $areas = 'CREATE TABLE areas (id int PRIMARY KEY, name text) PARTITION BY RANGE (id); CREATE TABLE area_1 PARTITION OF areas FOR VALUES FROM (1) TO (10); CREATE TABLE area_2 PARTITION OF areas FOR VALUES FROM (10) TO (20);';
$publishers[0]->safe_psql('postgres', "$areas INSERT INTO areas VALUES (1, 'One'), (11, 'Two'); CREATE PUBLICATION areas FOR TABLE areas");
$hub->safe_psql('postgres', qq($areas CREATE TABLE residents (id int PRIMARY KEY, name text, phone text, area int);
CREATE VIEW resident_view AS SELECT r.id, r.name AS customer_name, r.phone, coalesce(a.name, 'none') AS city FROM residents r LEFT JOIN areas a ON a.id = r.area;
SELECT kapture_attach('residents', source => 'resident_view', id_column => NULL, replicated => true);
SELECT kapture_follow('areas', 'residents', 'target.area = source.id');
CREATE SUBSCRIPTION areas CONNECTION ') . $publishers[0]->connstr . " dbname=postgres' PUBLICATION areas");
$hub->wait_for_subscription_sync($publishers[0], 'areas');
$hub->safe_psql('postgres', "INSERT INTO residents VALUES (1, 'Resident', '9500000001', 1), (2, 'Resident', '9500000002', 11)");
sub resident_cities { return join ' ', sort map { $_->{city} // '' } grep { $_->{customer_name} eq 'Resident' } @{ emulator_get($emulator, 'customers') } }
wait_for(sub { resident_cities() eq 'One Two' }, 'the residents to be sent');
$hub->safe_psql('postgres', sprintf($dumped, 'area_1') . sprintf($dumped, 'areas'));
$publishers[0]->safe_psql('postgres', "UPDATE areas SET name = 'Uno' WHERE id = 1");
wait_for(sub { resident_cities() eq 'Two Uno' }, 'a followed partition whose triggers were disabled and enabled to be noticed');
$publishers[0]->safe_psql('postgres', 'TRUNCATE area_1');
wait_for(sub { resident_cities() eq 'Two none' }, 'rows that referred to a partition which is truncated to be sent');
$publishers[0]->safe_psql('postgres', 'TRUNCATE areas');
wait_for(sub { resident_cities() eq 'none none' }, 'those of all partitions');
pass('TRUNCATE of a partition of a followed table concerns rows, as that of the whole table');
$hub->safe_psql('postgres', 'DROP SUBSCRIPTION areas; DROP TABLE residents CASCADE');

# an error in capture would stop replication for good: neither a table that has lost
# its key nor a missing extension is one
$hub->safe_psql('postgres', q(
SELECT kapture_detach('customers');
ALTER TABLE customers DROP CONSTRAINT customers_pkey, ADD COLUMN nr int GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
SELECT kapture_attach('customers', replicated => true);
ALTER TABLE customers DROP COLUMN nr));
$publishers[0]->safe_psql('postgres', "INSERT INTO customers VALUES (1998, 'Keyless', '9199999998')");
applied(1);
is($hub->safe_psql('postgres', "SELECT count(*) FROM customers WHERE id = 1998"), '1', 'replication goes on without a key');
ok($hub->log_contains(qr/WARNING:  changes of table "customers" are not sent to Kapture/), 'which the log says');
$hub->safe_psql('postgres', "SET client_min_messages = error; DROP EXTENSION kapture_sync CASCADE");
$publishers[0]->safe_psql('postgres', "INSERT INTO customers VALUES (1999, 'Later', '9199999999')");
applied(1);
is($hub->safe_psql('postgres', "SELECT count(*) FROM customers WHERE id = 1999"), '1', 'replication goes on without the extension');
# (one that starts anew may come before the former one has ended)
unlike(slurp_file($hub->logfile), qr/ERROR:  (?!replication origin with ID \d+ is already active)/, 'no apply worker met an error');
$hub->safe_psql('postgres', "DROP SUBSCRIPTION sub$_") foreach 1, 2;
$_->stop foreach $hub, @publishers;

done_testing();
