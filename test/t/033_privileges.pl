# Users' code runs as the table's owner, restricted; nobody learns or changes
# what is not theirs.
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
my $key = 'c2VjcmV0LWtleS1vZi1hbGljZQ==';
emulator_post($emulator, 'keys', { all => $key });

# as somebody: the error, or the output
sub try_as
{
	my ($role, $statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE $role; $statement");
	return $rc == 0 ? $out : $err;
}

sql(qq(
CREATE EXTENSION kapture_sync;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s');
CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN; CREATE ROLE reader LOGIN;
GRANT CREATE ON SCHEMA public TO alice, mallory;
GRANT USAGE ON FOREIGN SERVER kapture TO alice;
SET ROLE alice;
CREATE USER MAPPING FOR alice SERVER kapture OPTIONS (auth_key '$key');
CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text);
CREATE TABLE private (secret text);
SELECT kapture_attach('customers');
RESET ROLE;
));
pass('a role without privileges but USAGE on the server attaches its own table');
sql("SET ROLE alice; INSERT INTO customers VALUES (1, 'Priya', '9600000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = 1", 'and its rows are sent');

# --- what others may not
like(try_as('mallory', "SELECT kapture_attach('customers')"), qr/must be owner of table customers/, 'attach needs ownership');
like(try_as('mallory', "SELECT kapture_detach('customers')"), qr/must be owner/, 'so does detach');
like(try_as('mallory', "SELECT kapture_pause('customers')"), qr/must be owner/, 'so does pause');
like(try_as('mallory', "SELECT kapture_resume('customers')"), qr/must be owner/, 'so does resume');
like(try_as('mallory', "SELECT kapture_retry('customers')"), qr/must be owner/, 'so does retry');
like(try_as('mallory', "SELECT kapture_discard('customers')"), qr/must be owner/, 'so does discard');
like(try_as('mallory', "CALL kapture_backfill('customers')"), qr/must be owner/, 'so does backfill');
like(try_as('mallory', "SELECT kapture_resume()"), qr/permission denied/, 'resuming a copy is for superusers');
like(try_as('mallory', "CREATE TABLE mine (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('mine')"),
	qr/permission denied for foreign server kapture/, 'attach needs USAGE on the server');
like(try_as('mallory', "SELECT kapture_get_customer('{\"phone\": \"9600000001\"}')"), qr/permission denied for foreign server/, 'so do the calls');
foreach my $table (qw(kapture_attachment kapture_column kapture_outbox kapture_delivery kapture_origin kapture_backfill))
{
	like(try_as('mallory', "SELECT * FROM $table"), qr/permission denied/, "$table is nobody's to read");
	like(try_as('alice', "DELETE FROM $table"), qr/permission denied/, "nor to write, for owners of tables either");
}
sql("SET ROLE alice; INSERT INTO customers VALUES (2, 'Bad', '1')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures", 'a failure');
is(try_as('alice', "SELECT count(*) FROM kapture_failures"), '1', 'its owner sees it');
is(try_as('alice', "SELECT count(*) FROM kapture_status"), '1', 'and the status');
is(try_as('alice', "SELECT count(*) FROM kapture_history WHERE row_key = '1' AND action = 'add'"), '1', 'and the history');
is(try_as('mallory', "SELECT count(*) FROM kapture_history"), '0', 'nobody else sees that');
like(try_as('alice', "DELETE FROM kapture_history"), qr/permission denied/, 'nobody changes it');
is(try_as('mallory', "SELECT count(*) FROM kapture_failures"), '0', 'others do not');
is(try_as('mallory', "SELECT count(*) FROM kapture_status"), '0', 'nor the status');
# a function that leaks is not let near others' rows
is(try_as('mallory', "CREATE FUNCTION leak(text) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS \$\$ BEGIN RAISE EXCEPTION 'leak %', \$1; END \$\$; SELECT count(*) FROM kapture_failures WHERE leak(request)"), '0', 'nor by a leaky function');
like(try_as('mallory', "SELECT kapture_worker_start()"), qr/permission denied/, 'internal functions are not for all');

# --- rights that end
sql("REVOKE USAGE ON FOREIGN SERVER kapture FROM alice");
sql("SET ROLE alice; INSERT INTO customers VALUES (3, 'Revoked', '9600000003')");
poll_ok($node, "SELECT server_state = 'misconfigured' AND server_message LIKE 'permission denied%' FROM kapture_status", 'without USAGE nothing is sent, and the status says so');
is(sql("SELECT kapture_customer_id IS NULL FROM customers WHERE id = 3"), 't', 'the row waits');
sql("GRANT USAGE ON FOREIGN SERVER kapture TO alice");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = 3", 'and goes when it is granted again') or diag(sql('SELECT row_to_json(d) FROM kapture_delivery d UNION ALL SELECT row_to_json(s) FROM kapture_status s'));

# rights by membership are rights, too, whichever database the session is in that gives or takes them
sql('CREATE ROLE team; CREATE DATABASE meeting; GRANT USAGE ON FOREIGN SERVER kapture TO team; GRANT team TO alice; REVOKE USAGE ON FOREIGN SERVER kapture FROM alice');
my $id = 4;
foreach my $change ([ 'REVOKE team FROM alice', 'GRANT team TO alice' ], [ 'REVOKE team FROM alice', 'ALTER GROUP team ADD USER alice' ], [ 'REVOKE team FROM alice', 'ALTER ROLE alice SUPERUSER' ])
{
	foreach my $db (qw(postgres meeting))
	{
		$node->safe_psql($db, $change->[0]);
		sql("SET ROLE alice; INSERT INTO customers VALUES ($id, 'Member', '960000000$id')");
		poll_ok($node, "SELECT server_state = 'misconfigured' AND server_message LIKE 'permission denied%' FROM kapture_status", "$change->[0]: nothing is sent");
		$node->safe_psql($db, $change->[1]);
		poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = $id", "$change->[1], in database $db: the row goes");
		sql('ALTER ROLE alice NOSUPERUSER; GRANT team TO alice');
		$id++;
	}
}
sql('GRANT USAGE ON FOREIGN SERVER kapture TO alice; DROP OWNED BY team; DROP ROLE team; DROP DATABASE meeting');

# --- the owner's code, run by the worker
my $n = 10;
foreach my $attack (
	[ "ALTER ROLE alice SUPERUSER", 'becoming superuser' ],
	[ "SET ROLE postgres", 'SET ROLE' ],
	[ "SET SESSION AUTHORIZATION postgres", 'SET SESSION AUTHORIZATION' ],
	[ "RESET ROLE; ALTER ROLE alice SUPERUSER", 'RESET ROLE' ],
	[ "CREATE ROLE eve SUPERUSER", 'creating a role' ],
	[ "INSERT INTO postgres_only VALUES (1)", 'writing a table of somebody else' ],
	[ "UPDATE kapture_delivery SET changed = 0", 'writing the queue' ],
	[ "PERFORM set_config('role', 'postgres', false)", 'set_config' ],
	[ "PERFORM pg_read_file('postgresql.conf')", 'reading a file' ],
	[ "CREATE TEMPORARY TABLE pg_temp.t (a int)", 'making temporary objects' ],
	[ "EXECUTE 'LISTEN x'; EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1'", 'leaving a cursor behind' ])
{
	$n++;
	my ($code, $name) = @$attack;
	foreach my $when ('BEFORE', 'DEFERRED')
	{
		$n++;
		sql("CREATE TABLE IF NOT EXISTS postgres_only (a int); DROP TRIGGER IF EXISTS attack ON customers");
		sql(qq(
SET ROLE alice;
CREATE OR REPLACE FUNCTION attack() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN $code; RETURN NEW; END \$\$;));
		sql($when eq 'BEFORE'
			? "SET ROLE alice; CREATE TRIGGER attack BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION attack()"
			: "SET ROLE alice; CREATE CONSTRAINT TRIGGER attack AFTER UPDATE ON customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION attack()");
		sql("SET ROLE alice; INSERT INTO customers VALUES ($n, 'Attack $n', '" . (9610000000 + $n) . "')");
		poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE row_key = '$n' AND state = 'parked'", "$name fails, in a trigger $when");
	}
}
is(sql("SELECT count(*) FROM pg_roles WHERE rolsuper AND rolname <> current_user"), '0', 'nobody has become superuser');
is(sql("SELECT count(*) FROM postgres_only"), '0', 'nothing was written elsewhere');
# who the trigger is
sql(q(SET ROLE alice; DROP TRIGGER attack ON customers;
CREATE TABLE seen (who text, path text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.seen VALUES (current_user, current_setting('search_path')); RETURN NULL; END $$;
CREATE TRIGGER note AFTER UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION note();
INSERT INTO customers VALUES (100, 'Note', '9620000100')));
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE id = 100", 'an innocent trigger is no obstacle');
is(sql("SELECT DISTINCT who || ' ' || path FROM seen"), 'alice pg_catalog, pg_temp', 'it runs as the owner, with a safe search_path');
sql("SET ROLE alice; DROP TRIGGER note ON customers");

# functions that the read may call: casts, domains, operators in the path
sql(q(GRANT CREATE ON DATABASE postgres TO alice; SET ROLE alice; CREATE SCHEMA evil;
CREATE FUNCTION evil.raise(int, int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RAISE 'wrong operator'; END $$;
CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.raise);
CREATE TABLE evil.kapture_outbox (a int); CREATE TABLE evil.kapture_delivery (a int); CREATE TABLE evil.kapture_attachment (a int);
SET search_path = evil, public, pg_catalog;
INSERT INTO public.customers VALUES (101, 'Operator', '9620000101')));
# nor do other settings of the database reach the worker
my %settings = (search_path => 'evil, public, pg_catalog', default_transaction_read_only => 'on', default_transaction_isolation => 'serializable',
	session_replication_role => 'replica', row_security => 'off', lock_timeout => "'1ms'", statement_timeout => "'1ms'", 'kapture_sync.capture' => 'off',
	vacuum_cost_delay => "'100ms'", vacuum_cost_limit => 1, max_parallel_workers_per_gather => 8, join_collapse_limit => 1, debug_print_plan => 'on');
local $ENV{PGOPTIONS} = '-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0 -c session_replication_role=origin -c kapture_sync.capture=on';
sql(join '', map { "ALTER DATABASE postgres SET $_ = $settings{$_};" } sort keys %settings);
sql(q(CREATE FUNCTION public.fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  NEW.customer_name := concat_ws(' ', 'Trigger', current_setting('vacuum_cost_delay'), current_setting('max_parallel_workers_per_gather'), current_setting('join_collapse_limit'), current_setting('debug_print_plan'));
  RETURN NEW;
END $$;
CREATE TRIGGER fired BEFORE UPDATE ON public.customers FOR EACH ROW EXECUTE FUNCTION public.fired()));
my $before = sql("SELECT public.kapture_worker_pid()");
sql("SELECT pg_terminate_backend(public.kapture_worker_pid())");
poll_ok($node, "SELECT public.kapture_worker_pid()::text OPERATOR(pg_catalog.<>) '$before'", 'another worker');
sql("SET search_path = public; SET ROLE alice; INSERT INTO customers VALUES (102, 'Operator', '9620000102')");
poll_ok($node, "SELECT count(public.customers.kapture_customer_id) OPERATOR(pg_catalog.=) 2 FROM public.customers WHERE id OPERATOR(pg_catalog.=) ANY ('{101,102}')", 'nothing in the search_path is used, no setting heeded');
is(sql("SELECT customer_name FROM public.customers WHERE id OPERATOR(pg_catalog.=) 102"), 'Trigger 0 0 8 off', 'and triggers fire, with the settings of the worker');
sql("ALTER DATABASE postgres RESET $_") foreach sort keys %settings;
$ENV{PGOPTIONS} = '';
sql("DROP TRIGGER fired ON customers");

# --- secrets are nowhere
sql("ALTER SYSTEM SET log_min_messages = debug5; ALTER SYSTEM SET log_statement = 'none'; SELECT pg_reload_conf()");
sql("SET ROLE alice; INSERT INTO customers VALUES (103, 'Logged', '9620000103')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM public.customers WHERE id = 103", 'sent at debug5');
$node->psql('postgres', "SET ROLE alice; SELECT kapture_get_customer('{\"phone\": \"9620000103\"}')");
my $log = slurp_file($node->logfile);
$log =~ s/^.*CREATE USER MAPPING.*$//mg;
unlike($log, qr/\Q$key\E/, 'the key is not in the log');
unlike($log, qr/Basic /, 'nor the header');
is(sql("SELECT count(*) FROM kapture_failures f WHERE f::text LIKE '%$key%'"), '0', 'nor in a view');
is(sql("SELECT count(*) FROM kapture_history h WHERE h::text LIKE '%$key%'"), '0', 'nor in the history');
is(sql("SELECT count(*) FROM pg_settings WHERE setting LIKE '%$key%'"), '0', 'nor in a setting');

# --- default privileges of whoever creates the extension are meant for users' tables and functions
my $acls = q(SELECT kind, name, a.grantee::regrole, a.privilege_type FROM
 (SELECT classid, objid FROM pg_depend JOIN pg_extension e ON e.oid = refobjid WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND extname = 'kapture_sync') m,
 LATERAL (SELECT relkind::text, relname::text, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)) FROM pg_class WHERE classid = 'pg_class'::regclass AND oid = objid
  UNION ALL SELECT 'function', oid::regprocedure::text, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc WHERE classid = 'pg_proc'::regclass AND oid = objid) o(kind, name, acl),
 LATERAL aclexplode(acl) a ORDER BY kind COLLATE "C", 2, 3, 4);
my $generous = 'ALTER DEFAULT PRIVILEGES GRANT ALL ON %1$s TO mallory WITH GRANT OPTION; ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON %1$s TO PUBLIC, reader;';
sql("CREATE DATABASE $_") foreach qw(plain generous updated);
sql(join('', map { sprintf $generous, $_ } qw(TABLES SEQUENCES FUNCTIONS TYPES)), $_) foreach qw(generous updated);
sql('CREATE EXTENSION kapture_sync', $_) foreach qw(plain generous);
like(sql($acls, 'plain'), qr{^S\|kapture_follow_follow_id_seq.*^function\|kapture_attach\(.*^r\|kapture_column.*^v\|kapture_calls}ms, 'the privileges on all there is are listed');
is(sql($acls, 'generous'), sql($acls, 'plain'), 'default privileges open nothing of the extension');
is(sql("SELECT has_table_privilege('mallory', 'kapture_salt', 'SELECT'), has_table_privilege('mallory', 'kapture_calls', 'INSERT'), has_table_privilege('mallory', 'kapture_calls', 'SELECT')", 'generous'),
	'f|f|t', 'neither to a role nor to everybody');
sql("BEGIN; SAVEPOINT s; CREATE EXTENSION kapture_sync VERSION '1.0'; RELEASE s; GRANT SELECT ON kapture_customers TO reader; COMMIT; ALTER EXTENSION kapture_sync UPDATE", 'updated');
is(sql("SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c, LATERAL aclexplode(relacl) a WHERE relname IN ('kapture_salt', 'kapture_row', 'kapture_call_queue', 'kapture_follow', 'kapture_calls', 'kapture_orphans') AND (grantee <> 0 OR privilege_type <> 'SELECT') AND grantee <> relowner", 'updated'),
	'', 'nor do they in an update');
is(sql("SELECT has_table_privilege('reader', 'kapture_customers', 'SELECT'), has_function_privilege('mallory', 'kapture_merge_digests(bytea, bytea)', 'EXECUTE')", 'updated'), 't|f', 'where what was granted on tables of 1.0 stays');
unlike((run_command([ 'pg_dump', '-s', '-d', $node->connstr('generous') ]))[0], qr/(GRANT|REVOKE) .* (FUNCTION|TABLE|SEQUENCE) /, 'a dump has no privileges of the extension\'s own');
sql("DROP DATABASE $_") foreach qw(plain generous updated);

# --- what is granted on all tables of a schema
is(sql("SELECT string_agg(table_name, ' ') FROM information_schema.views WHERE table_name LIKE 'kapture%' AND (is_updatable = 'YES' OR is_insertable_into = 'YES')"), '', 'no view can be written through');
my $internal = join ', ', map { "public.$_" } split /\n/, sql("SELECT relname FROM pg_class c JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e' WHERE relkind = 'r' AND relname LIKE 'kapture%' AND relname NOT IN ('kapture_customers', 'kapture_contacts', 'kapture_refresh_run', 'kapture_history') ORDER BY c.oid");
sub granted { my ($rc, $out, $err) = $node->psql('postgres', $_[0]); return $err =~ s/^psql:\S+ //mgr; }
my $warning = 'WARNING:  tables of kapture_sync that are meant for nobody are open to role';
is(granted('GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader'), "$warning reader\nDETAIL:  These tables have the keys of rows, and the bodies of failed requests and of calls, of all owners.\nHINT:  Use REVOKE ALL ON $internal FROM reader.",
	'a grant on all tables of the schema is warned of');
is(granted("REVOKE ALL ON $internal FROM reader; GRANT SELECT ON public.customers, kapture_customers, kapture_status TO reader; GRANT USAGE ON SCHEMA public TO reader"), '', 'not one on others');
like(granted('GRANT UPDATE ON kapture_column TO PUBLIC'), qr/\A$warning PUBLIC\nDETAIL:  Whoever writes these tables decides where .*\nHINT:  Use REVOKE ALL ON public\.kapture_column FROM PUBLIC\.\z/, 'a table that is open to everybody');
sql('REVOKE ALL ON kapture_column FROM PUBLIC');

# --- who may write all data does not thereby act as others
sql('CREATE ROLE writer; GRANT pg_write_all_data, pg_read_all_data TO writer; GRANT USAGE ON FOREIGN SERVER kapture TO writer');
is(try_as('writer', q(WITH w AS (UPDATE kapture_column SET column_name = NULL, attnum = NULL, expression = '(SELECT rolpassword FROM pg_authid LIMIT 1)' RETURNING 1) SELECT count(*) FROM w)), '0', 'the mapping of a table');
is(try_as('writer', q(WITH w AS (UPDATE kapture_attachment SET relation = 'private', server = 'kapture' RETURNING 1) SELECT count(*) FROM w)), '0', 'which table is attached to what');
is(try_as('writer', q(WITH w AS (DELETE FROM kapture_attachment RETURNING 1) SELECT count(*) FROM w)), '0', 'or whether');
like(try_as('writer', q(INSERT INTO kapture_attachment (relation, server, key_columns) VALUES ('pg_authid', 'kapture', '{oid}'))), qr/new row violates row-level security policy for table "kapture_attachment"/, 'a table of a superuser is not attached');
like(try_as('writer', q(INSERT INTO kapture_follow (source, relation, condition, value_columns) VALUES ('customers', 'customers', 'true', '{}'))), qr/new row violates row-level security policy/, 'nor followed');
like(try_as('writer', q(INSERT INTO kapture_call_queue (sender, server, api, body) VALUES ('alice'::regrole, 'kapture', 'ticket_add', '{}'))), qr/new row violates row-level security policy/, 'no call is queued in the name of others');
foreach my $table (qw(kapture_origin kapture_copied))
{
	is(try_as('writer', "WITH w AS (UPDATE $table SET system_identifier = 0, database = 0 RETURNING 1) SELECT count(*) FROM w"), '0', "$table, by which a copy would send, or the original would not");
	is(try_as('writer', "WITH w AS (DELETE FROM $table RETURNING 1) SELECT count(*) FROM w"), '0', "no row of $table is deleted");
}
# worker and puller trust what these say: of an entry without a key, for instance, that nobody but they can make
foreach my $entry ("kapture_outbox (attachment_id, xact, seq, op, row_key, changed, captured_at) VALUES (1, '3', 1, 'u', '1', -1, now())",
	"kapture_delivery (attachment_id, state, changed, captured_at, last_attempt, next_attempt) VALUES (1, 'retry', 0, now(), now(), now())",
	"kapture_row (attachment_id, row_key, customer_id) VALUES (1, '1', 1)", "kapture_salt (salt, serverid) VALUES ('', 1)", "kapture_backfill (attachment_id, last_key, rows) VALUES (1, '', 1)",
	"kapture_inbox (attachment_id, customer_id, asked_at, server) VALUES (1, 1, now(), 'kapture')", "kapture_pull (server) VALUES ('x')", "kapture_pull_asked (server) VALUES ('x')",
	"kapture_written (server_oid, customer_id) VALUES (1, 1)", "kapture_history (attachment_id, row_key, action, attempts, captured_at, finished_at) VALUES (1, '1', 'add', 1, now(), now())")
{
	my ($table) = $entry =~ /^(\w+)/;
	like(try_as('writer', "INSERT INTO $entry"), qr/new row violates row-level security policy for table "$table"/, "no entry is added to $table");
	is(try_as('writer', "WITH w AS (DELETE FROM $table RETURNING 1) SELECT count(*) FROM w"), '0', 'or deleted');
}
# an entry without a key is no crash, whoever makes it
sql("INSERT INTO kapture_delivery (attachment_id, state, changed, captured_at, last_attempt, next_attempt) SELECT attachment_id, 'retry', 1, now(), now(), now() FROM kapture_attachment WHERE relation = 'customers'::regclass");
sql("SELECT kapture_pause('customers'); SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_delivery WHERE row_key IS NULL", 'a delivery without a key is about no row');
is(sql('SELECT count(*) FROM kapture_origin'), '1', 'the stamp of the database is there');
is(try_as('writer', 'SELECT count(*) > 0 FROM kapture_attachment'), 't', 'while all can be read by who may read all data');

# --- nor by sequences, for which there are no policies: whoever sets them decides no number
my $sequences = q(FROM pg_sequence q JOIN pg_class c ON c.oid = seqrelid JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');
sql(qq(CREATE TABLE former (id int PRIMARY KEY, customer_name text, phone text); ALTER TABLE former OWNER TO alice;
CREATE TABLE later (LIKE former INCLUDING ALL); ALTER TABLE later OWNER TO mallory; CREATE TABLE latest (LIKE former INCLUDING ALL); ALTER TABLE latest OWNER TO alice;
GRANT USAGE ON FOREIGN SERVER kapture TO mallory; CREATE USER MAPPING FOR mallory SERVER kapture OPTIONS (auth_key '$key'); SET ROLE alice; SELECT kapture_attach('former'); INSERT INTO former VALUES (1, 'Former', '9600000701')));
poll_ok($node, 'SELECT kapture_customer_id IS NOT NULL FROM former', 'a row is sent');
my $former = sql("SELECT attachment_id FROM kapture_attachment WHERE relation = 'former'::regclass");
sql("SET ROLE alice; SELECT kapture_detach('former')");
my $back = "SELECT setval('kapture_attachment_attachment_id_seq', $former, false)";
is(try_as('writer', $back), $former, 'the number of a former attachment is to be the next one');
is(try_as('mallory', "SELECT kapture_attach('later'); SELECT count(*) FROM kapture_history"), "\n0", 'another one does not get it, nor see what became of its rows');
is(try_as('alice', "SELECT kapture_detach('customers'); SELECT kapture_attach('customers')"), "\n", 'a number that is in use is nobody\'s error');
my $pending = $node->background_psql('postgres');
$pending->query_safe("BEGIN; SET LOCAL client_min_messages = warning; SET LOCAL ROLE alice; SELECT kapture_attach('latest')");
try_as('writer', "SELECT setval('kapture_attachment_attachment_id_seq', last_value, false) FROM kapture_attachment_attachment_id_seq");
is(try_as('mallory', "SELECT kapture_detach('later'); SET lock_timeout = '10s'; SELECT kapture_attach('later')"), "\n", 'nor is one that somebody is about to use waited for');
$pending->query_safe('COMMIT');
$pending->quit;
like(try_as('writer', "SELECT c.relname, setval(c.oid, seqmax) $sequences"), qr/kapture_attachment_attachment_id_seq\|2147483647/, 'all sequences of the extension are at their end');
is(try_as('alice', "SELECT kapture_attach('former'); SELECT kapture_follow('latest', 'former', 'target.id = source.id')"), "\n", 'tables are attached and followed');
sql("SET ROLE alice; UPDATE former SET customer_name = 'Formerly'; INSERT INTO latest VALUES (1, 'Latest', '9600000702')");
poll_ok($node, 'SELECT kapture_customer_id IS NOT NULL FROM latest', 'rows are claimed');
like(try_as('alice', "SELECT kapture_send('ticket_add', '{}')"), qr/^\d+$/, 'and calls are sent');
my $used = sql("SELECT attachment_id FROM kapture_attachment WHERE relation = 'latest'::regclass");
is(try_as('writer', "SELECT setval('kapture_attachment_attachment_id_seq', $used, false)"), $used, 'a number that is in use is to be the next one');
my $attaching = $node->background_psql('postgres');
$attaching->query_safe("BEGIN; SET LOCAL client_min_messages = warning; SET LOCAL ROLE mallory; SELECT kapture_detach('later'); SELECT kapture_attach('later')");
sql("SET ROLE alice; INSERT INTO latest VALUES (0, 'Meanwhile', '9600000703')");
poll_ok($node, 'SELECT kapture_customer_id IS NOT NULL FROM latest WHERE id = 0', 'the table that has it does not wait for the transaction that was to get it');
$attaching->query_safe('ROLLBACK');
$attaching->quit;
like(try_as('writer', "SELECT c.relname, setval(c.oid, 1, false) $sequences"), qr/kapture_follow_follow_id_seq\|1/, 'or all are at their beginning');
is(try_as('alice', "SELECT kapture_follow('latest', 'former', 'target.phone = source.phone')"), '', 'another table is followed');
is(try_as('alice', "INSERT INTO latest SELECT i, 'Latest ' || i, 9600000710 + i FROM generate_series(2, 20) i; SELECT count(DISTINCT kapture_send('ticket_add', '{}')) FROM generate_series(1, 20)"), '20', 'calls get numbers of their own');
poll_ok($node, 'SELECT bool_and(kapture_customer_id IS NOT NULL) FROM latest', 'and so do deliveries');
sql("SET ROLE alice; SELECT kapture_detach('latest'), kapture_detach('former'); SET ROLE mallory; SELECT kapture_detach('later')");
sql('DROP TABLE former, later, latest; DROP USER MAPPING FOR mallory SERVER kapture; REVOKE USAGE ON FOREIGN SERVER kapture FROM mallory');

# --- TRIGGER on a table is no right to the triggers that capture its changes
sql(q(
CREATE TABLE owned (id int PRIMARY KEY, customer_name text, phone text); CREATE TABLE town (id int PRIMARY KEY, name text);
ALTER TABLE owned OWNER TO alice; ALTER TABLE town OWNER TO alice; GRANT TRIGGER ON owned, town TO mallory;
SET ROLE mallory;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER kapture_followed BEFORE INSERT ON town FOR EACH ROW EXECUTE FUNCTION nothing();
SET ROLE alice;
SELECT kapture_attach('owned');
));
my $follow = "SELECT kapture_follow('town', 'owned', 'target.customer_name = source.name')";
like(try_as('alice', $follow), qr/trigger "kapture_followed" of table "town" is not the one that kapture_follow\(\) creates\nHINT:  Drop/, 'a trigger that somebody has planted under the name of one');
sql("DROP TRIGGER kapture_followed ON town; SET ROLE mallory; CREATE TRIGGER kapture_followed AFTER INSERT ON town FOR EACH ROW WHEN (false) EXECUTE FUNCTION kapture_followed()");
like(try_as('alice', $follow), qr/is not the one that kapture_follow/, 'or one of ours that never fires');
sql("DROP TRIGGER kapture_followed ON town; SET ROLE mallory; CREATE TRIGGER kapture_followed_truncate BEFORE TRUNCATE ON town EXECUTE FUNCTION nothing()");
like(try_as('alice', $follow), qr/trigger "kapture_followed_truncate" of table "town" is not the one that kapture_follow/, 'or that for TRUNCATE');
sql("DROP TRIGGER kapture_followed_truncate ON town; SET ROLE alice; $follow");
is(sql("SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'town'::regclass"), 'kapture_followed A, kapture_followed_truncate A', 'without it the table is followed');
foreach my $replace ('kapture_capture AFTER INSERT ON owned FOR EACH ROW', 'kapture_truncate AFTER TRUNCATE ON owned', 'kapture_followed AFTER INSERT ON town FOR EACH ROW')
{
	my ($name, $table) = $replace =~ /^(\S+).* ON (\S+)/;
	like(try_as('mallory', "CREATE OR REPLACE TRIGGER $replace EXECUTE FUNCTION nothing()"), qr/must be owner of table "$table" to replace trigger "$name"/, "$name cannot be replaced");
	like(try_as('mallory', "CREATE OR REPLACE TRIGGER $replace EXECUTE FUNCTION kapture_capture()"), qr/must be owner of table/, 'nor by less of the same');
}
sql("CREATE TABLE bait (id int PRIMARY KEY); ALTER TABLE bait OWNER TO alice; GRANT TRIGGER ON bait TO mallory");
my $renamer = $node->background_psql('postgres');
my $replacer = $node->background_psql('postgres', on_error_stop => 0);
$renamer->query_safe("BEGIN; ALTER TABLE bait RENAME TO baited; ALTER TABLE owned RENAME TO bait");
$replacer->query_safe("SET ROLE mallory");
$replacer->query_until(qr/sent/, "\\echo sent\nCREATE OR REPLACE TRIGGER kapture_capture AFTER INSERT ON bait FOR EACH ROW EXECUTE FUNCTION nothing();\n\\warn over\n");
poll_ok($node, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'bait'::regclass", 'a replacement waits for a table that is being renamed');
$renamer->query_safe("COMMIT");
pump_until($replacer->{run}, $replacer->{timeout}, \$replacer->{stderr}, qr/over/);
like($replacer->{stderr}, qr/must be owner of table "bait" to replace trigger "kapture_capture"/, 'and does not get the trigger of the one that has its name by then');
$_->quit foreach $renamer, $replacer;
is(sql("SELECT tgfoid::regproc FROM pg_trigger WHERE tgrelid = 'bait'::regclass AND tgname = 'kapture_capture'"), 'kapture_capture', 'which stays');
sql("ALTER TABLE bait RENAME TO owned; DROP TABLE baited");
is(try_as('mallory', 'CREATE OR REPLACE TRIGGER hers AFTER INSERT ON owned FOR EACH ROW EXECUTE FUNCTION nothing(); CREATE OR REPLACE TRIGGER hers AFTER UPDATE ON owned FOR EACH ROW EXECUTE FUNCTION nothing()'), '', 'her own triggers can be');
my ($replaced) = ($node->psql('postgres', 'SET ROLE alice; CREATE OR REPLACE TRIGGER kapture_capture AFTER INSERT OR UPDATE OR DELETE ON owned FOR EACH ROW WHEN (false) EXECUTE FUNCTION kapture_capture()'))[2];
like($replaced, qr/WARNING:  changes of table "owned" are not captured from now on/, 'an owner who replaces one is warned');
like(try_as('alice', "SELECT detail FROM kapture_check() WHERE step = 'capture'"), qr/the trigger is disabled, replaced or dropped: .*owned/, 'and kapture_check() reports the table');
my $followed = "SELECT ok || ': ' || detail FROM kapture_check() WHERE step = 'followed'";
is(try_as('alice', $followed), '', 'which has nothing to say of the table that it follows');
foreach my $change ('ALTER TABLE town DISABLE TRIGGER kapture_followed', 'DROP TRIGGER kapture_followed ON town',
	'CREATE OR REPLACE TRIGGER kapture_followed AFTER INSERT ON town FOR EACH ROW EXECUTE FUNCTION kapture_followed()')
{
	my ($warning) = ($node->psql('postgres', "SET ROLE alice; $change"))[2];
	like($warning, qr/WARNING:  changes of followed table "town" are not captured from now on/, "$change: is warned of");
	like(try_as('alice', $followed), qr/^false: changes of followed tables are not captured, .*: public\.town$/, 'and reported');
}
my $uncaptured = "SELECT count(*) FROM kapture_check('%s') WHERE step IN ('capture', 'followed')";
is(try_as('alice', sprintf($uncaptured, 'kapture')), '2', 'of both tables');
is(try_as('writer', sprintf($uncaptured, 'kapture')), '0', 'to those who may see them');
sql("CREATE SERVER elsewhere FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1'); GRANT USAGE ON FOREIGN SERVER elsewhere TO alice");
is(try_as('alice', sprintf($uncaptured, 'elsewhere')), '0', 'and with the server that the tables are attached to');
sql('DROP SERVER elsewhere');
sql("SET ROLE alice; SELECT kapture_unfollow('town', 'owned'); DROP TRIGGER IF EXISTS kapture_followed ON town; $follow");
is(try_as('alice', $followed), '', 'until the table is followed anew');
sql("SET ROLE alice; SELECT kapture_detach('owned'); DROP TABLE owned, town");

# --- tables of the extension that are given to a role without its rights hold up nobody's commands
sql("CREATE ROLE heir; CREATE DATABASE given");
sub given { my ($rc, $out, $err) = $node->psql('given', $_[0]); return $rc == 0 ? $err =~ s/^psql:\S+ //mgr : "failed: $err" }
is(given("CREATE SCHEMA kept; CREATE EXTENSION kapture_sync SCHEMA kept; GRANT USAGE ON SCHEMA kept TO PUBLIC;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); GRANT USAGE ON FOREIGN SERVER kapture TO alice; GRANT CREATE ON SCHEMA public TO alice;
SET ROLE alice; CREATE USER MAPPING FOR alice SERVER kapture OPTIONS (auth_key '$key');
CREATE TABLE parted (id int PRIMARY KEY, customer_name text, phone text) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF parted DEFAULT;
CREATE TABLE city (id int PRIMARY KEY, name text); CREATE VIEW named AS SELECT 1 AS one;
SET client_min_messages = warning; SELECT kapture_attach('parted', filter => 'customer_name <> \$\$\$\$'); SELECT kapture_follow('city', 'parted', 'target.customer_name = source.name')" =~ s/(kapture_(attach|follow)\()/kept.$1/gr), '',
	'a table is attached in another database');
my $own_tables = "SELECT format('ALTER TABLE %s OWNER TO heir', c.oid::regclass) FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' WHERE relkind = 'r' \\gexec";
unlike(given($own_tables), qr/failed/, 'its tables are given away');
like(given("SET ROLE alice; DROP USER MAPPING FOR alice SERVER kapture; CREATE USER MAPPING FOR alice SERVER kapture OPTIONS (auth_key '$key')"), qr/^WARNING:  nothing is sent for attached tables whose owner has no user mapping: parted\n/,
	'while the heir has all rights that it needs, commands are followed as before');
my @commands = ('DROP USER MAPPING FOR alice SERVER kapture', 'ALTER TABLE parted RENAME COLUMN phone TO mobile', 'ALTER TABLE parted RENAME TO renamed', 'ALTER TABLE renamed RENAME TO parted', 'TRUNCATE part',
	'CREATE OR REPLACE VIEW named AS SELECT 1 AS one, 2 AS two', 'ALTER TABLE parted ADD note text', 'ALTER TABLE parted DROP customer_name CASCADE', 'ALTER TABLE parted DETACH PARTITION part', 'ALTER TABLE parted ATTACH PARTITION part DEFAULT',
	'ALTER TABLE parted DISABLE TRIGGER kapture_capture', 'ALTER TABLE parted ENABLE TRIGGER kapture_capture', 'CREATE FUNCTION f() RETURNS int LANGUAGE sql AS \'SELECT 1\'', 'DROP FUNCTION f()', 'CREATE TYPE mood AS ENUM (\'a\')', 'ALTER TYPE mood RENAME VALUE \'a\' TO \'b\'',
	'GRANT SELECT ON parted TO reader', 'TRUNCATE parted', 'DROP TABLE part', 'ALTER TABLE city DROP CONSTRAINT city_pkey', 'DROP TABLE city CASCADE', 'DROP TABLE parted', 'RESET ROLE; ALTER SERVER kapture OPTIONS (SET url \'http://127.0.0.1:1\')',
	'RESET ROLE; ALTER SERVER kapture RENAME TO other', 'RESET ROLE; DROP SERVER other CASCADE', 'DROP OWNED BY alice');
my $lost = q(WARNING:  kapture_sync does not follow what this command changes for attached tables
DETAIL:  Role "heir", which owns tables of the extension, lacks rights on the others, or on their schema.
HINT:  Give all tables of the extension back to a superuser, with ALTER TABLE ... OWNER TO.);
foreach my $loss ('REVOKE USAGE ON SCHEMA kept FROM heir, PUBLIC', 'ALTER TABLE kept.kapture_follow OWNER TO CURRENT_USER',
	'ALTER TABLE kept.kapture_salt OWNER TO CURRENT_USER', 'REVOKE DELETE ON kept.kapture_call_queue FROM heir', 'REVOKE UPDATE ON kept.kapture_attachment FROM heir')
{
	my $err = given("BEGIN; $loss; SET LOCAL client_min_messages = warning; SET LOCAL ROLE alice; " . join('; ', @commands) . '; ROLLBACK');
	is(() = $err =~ /^\Q$lost\E$/mg, 1 + @commands, "$loss: commands of others work, each with a warning") || diag $err;
}
sql('DROP DATABASE given');
sql('DROP ROLE heir');

$node->stop;
done_testing();
