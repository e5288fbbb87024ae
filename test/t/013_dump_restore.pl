# A dump keeps all that the sync knows, in whatever schemas, and restoring it
# captures nothing anew.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $idle = "SELECT sum(pending + in_flight + retrying) = 0 FROM kap.kapture_status";

# Of each table the order of its rows and all of their columns.
my @tables = qw(kapture_attachment kapture_column kapture_outbox kapture_delivery kapture_history);
my $contents = join ' UNION ALL ', map {
	"SELECT '$_', count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM kap.$_ t"
} @tables;
my $shape = "SELECT tgrelid::regclass::text, tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'kapture_capture' ORDER BY 1, 2;"
  . " SELECT relation::text, server, pending, in_flight, retrying, parked, last_error FROM kap.kapture_status ORDER BY 1;"
  . " SELECT * FROM kap.kapture_failures ORDER BY relation::text, row_key;"
  . " SELECT srvname, ARRAY(SELECT unnest(srvoptions) ORDER BY 1) FROM pg_foreign_server; SELECT umoptions FROM pg_user_mappings";

$node->safe_psql('postgres', "CREATE DATABASE original");
$node->safe_psql('original', qq(
CREATE SCHEMA kap;
CREATE EXTENSION kapture_sync SCHEMA kap;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE customers (gone text, id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text, email_id text, city text);
ALTER TABLE customers DROP COLUMN gone;
SELECT kap.kapture_attach('customers');
CREATE SCHEMA "Sales";
CREATE TABLE "Sales"."Key Accounts" (a uuid, "b b" text, customer_name text, "Mobile" text, PRIMARY KEY ("b b", a)) PARTITION BY LIST ("b b");
CREATE TABLE "Sales".part PARTITION OF "Sales"."Key Accounts" DEFAULT;
SELECT kap.kapture_attach('"Sales"."Key Accounts"', '{"customer_name": "customer_name", "phone": "Mobile"}', on_duplicate => 'fail', replicated => true);
INSERT INTO customers (customer_name, phone) SELECT 'Sent ' || i, (9000000000 + i)::text FROM generate_series(1, 20) i;
INSERT INTO customers (customer_name, phone) VALUES ('Refused', '12'), ('Refused, too', '13')));
poll_ok($node, "SELECT count(kapture_customer_id) = 20 FROM customers", 'in a schema of its own, the extension works', 'original');
poll_ok($node, "SELECT parked = 2 FROM kap.kapture_status WHERE relation = 'customers'::regclass", 'two rows are parked', 'original');
$node->safe_psql('original', qq(
SELECT kap.kapture_pause('customers');
SELECT kap.kapture_pause('"Sales"."Key Accounts"');
UPDATE customers SET city = 'Pune' WHERE id <= 5;
UPDATE customers SET id = DEFAULT WHERE id = 6;
DELETE FROM customers WHERE id = 7;
INSERT INTO customers (customer_name, phone) SELECT 'Waits ' || i, (9100000000 + i)::text FROM generate_series(1, 10) i;
INSERT INTO "Sales"."Key Accounts" VALUES ('00000000-0000-0000-0000-000000000001', 'it''s "b"', 'Key', '9200000001')));
my $before = $node->safe_psql('original', $contents);
my $look = $node->safe_psql('original', $shape);
my $requests = emulator_get($emulator, 'stats')->{requests};
like($before, qr/kapture_outbox\|5\|.*kapture_delivery\|2\|.*kapture_history\|20\|/s, 'changes wait, failed, and are done');
is($node->safe_psql('original', "SELECT sum(pending) FROM kap.kapture_status"), '18', 'all are counted');

# three ways to dump and restore
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/custom", 'original' ], 'a dump');
$node->command_ok([ 'pg_dump', '-Fp', '-f', "$dir/plain", 'original' ], 'a plain one');
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach qw(custom parallel plain);
$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'custom', "$dir/custom" ], 'restored');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-j', '3', '-d', 'parallel', "$dir/custom" ], 'restored in parallel');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', 'plain', '-f', "$dir/plain" ], 'restored by psql');

foreach my $db (qw(custom parallel plain))
{
	poll_ok($node, "SELECT kap.kapture_worker_pid() IS NOT NULL", "$db: its worker starts", $db);
	# attnum tells only where a renamed column went to, and moves with the dump
	is($node->safe_psql($db, $contents =~ s/kap\.kapture_column t/(SELECT attachment_id, bit, field, column_name FROM kap.kapture_column) t/r),
		$node->safe_psql('original', $contents =~ s/kap\.kapture_column t/(SELECT attachment_id, bit, field, column_name FROM kap.kapture_column) t/r),
		"$db: nothing is missing and nothing captured anew");
	is($node->safe_psql($db, $shape), $look, "$db: triggers, failures, servers are as they were");
}
is($node->safe_psql('original', $contents), $before, 'the original is as it was');
is(emulator_get($emulator, 'stats')->{requests}, $requests, 'and nothing was sent');

# one of them takes over
$node->safe_psql('original', "DROP EXTENSION kapture_sync CASCADE");
$node->safe_psql('custom', "SELECT kap.kapture_resume(relation) FROM kap.kapture_status");
$node->safe_psql('custom', "SELECT kap.kapture_resume()");
$node->safe_psql('custom', "UPDATE customers SET phone = '9300000001' WHERE phone = '12'; DELETE FROM customers WHERE phone = '13'");
$node->safe_psql('custom', "INSERT INTO customers (customer_name, phone) VALUES ('New', '9300000002')");
poll_ok($node, $idle, 'what waited is sent', 'custom');
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) AND count(*) = 31 FROM customers", 'and what is new', 'custom');
is($node->safe_psql('custom', 'SELECT count(kapture_customer_id) FROM "Sales"."Key Accounts"'), '1', 'of all tables');
my ($deleted, $key) = split /\|/, $node->safe_psql('custom', 'SELECT 7, kapture_customer_id FROM "Sales"."Key Accounts"');
my %rows = map { $_ => 1 } split /\n/, $node->safe_psql('custom', "SELECT kapture_customer_id FROM customers");
my @others = grep { !$rows{ $_->{kapture_customer_id} } } @{ emulator_get($emulator, 'customers') };
is(join(' ', sort map { $_->{customer_name} } @others), 'Key Sent 7', 'Kapture has nobody twice');
is(emulator_get($emulator, 'stats')->{duplicate_refusals}, 0, 'and was offered nobody twice');
is($node->safe_psql('custom', "SELECT count(DISTINCT attachment_id), max(attachment_id) FROM kap.kapture_attachment"), '2|2', 'attachments keep their numbers');
$node->safe_psql('custom', "CREATE TABLE third (id int PRIMARY KEY, customer_name text, phone text); SELECT kap.kapture_attach('third')");
is($node->safe_psql('custom', "SELECT max(attachment_id) FROM kap.kapture_attachment"), '3', 'and new ones get the next');
$node->stop;

# A whole cluster: roles, mappings and their options, too, of owners who are no
# superusers, with pulls.
emulator_post($emulator, 'reset', {});
my $source = new_node('source');
my @kept = (@tables, qw(kapture_backfill kapture_customers kapture_contacts kapture_pull kapture_inbox));
my $all = join ';', (map { "SELECT '$_', count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM "
	  . ($_ eq 'kapture_column' ? '(SELECT attachment_id, bit, field, column_name FROM kapture_column)' : $_) . ' t' } @kept),
  "SELECT rolname, rolpassword FROM pg_authid WHERE rolname LIKE 'crm%' ORDER BY 1",
  "SELECT srvname, srvowner::regrole, srvacl, ARRAY(SELECT unnest(srvoptions) ORDER BY 1) FROM pg_foreign_server ORDER BY 1",
  "SELECT srvname, usename, umoptions FROM pg_user_mappings ORDER BY 1, 2",
  "SELECT fdwname, fdwacl FROM pg_foreign_data_wrapper",
  "SELECT relation::text, server, pending, in_flight, retrying, parked, last_error FROM kapture_status ORDER BY 1",
  "SELECT relation::text, row_key, state, http_status, message FROM kapture_failures ORDER BY 1, 2",
  "SELECT tgrelid::regclass::text, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2, 3",
  "SELECT c.relname, relowner::regrole, relacl FROM pg_class c WHERE relname IN ('customers', 'accounts') ORDER BY 1";
$source->safe_psql('postgres', "CREATE DATABASE crm");
$source->safe_psql('crm', qq(
CREATE EXTENSION kapture_sync;
CREATE ROLE crm_owner LOGIN PASSWORD 'secret';
CREATE ROLE crm_clerk LOGIN;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO crm_owner;
GRANT CREATE ON SCHEMA public TO crm_owner;
SET SESSION AUTHORIZATION crm_owner;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s');
CREATE USER MAPPING FOR crm_owner SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE USER MAPPING FOR crm_clerk SERVER kapture OPTIONS (auth_key 'Y2xlcms6Y2xlcms=');
GRANT USAGE ON FOREIGN SERVER kapture TO crm_clerk;
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text, email_id text, city text);
CREATE TABLE accounts (code text PRIMARY KEY, customer_name text, phone text);
GRANT SELECT, INSERT, UPDATE ON customers TO crm_clerk;
SELECT kapture_attach('customers');
SELECT kapture_attach('accounts', on_duplicate => 'fail');
INSERT INTO customers (customer_name, phone) SELECT 'Sent ' || i, (9000000000 + i)::text FROM generate_series(1, 20) i;
INSERT INTO customers (customer_name, phone) VALUES ('Refused', '12');
INSERT INTO accounts VALUES ('a', 'Account', '9100000001')));
poll_ok($source, "SELECT count(kapture_customer_id) = 20 FROM customers", 'a role without superuser syncs', 'crm');
poll_ok($source, "SELECT count(kapture_customer_id) = 1 FROM accounts", 'two tables', 'crm');
poll_ok($source, "SELECT parked = 1 FROM kapture_status WHERE relation = 'customers'::regclass", 'a row is parked', 'crm');
$source->safe_psql('crm', "ALTER SERVER kapture OPTIONS (ADD pull_interval '1s', ADD pull_since '"
	  . strftime('%Y-%m-%d %H:%M:%S', gmtime(time + 19800 - 86400)) . "')");
poll_ok($source, "SELECT count(*) = 21 FROM kapture_customers", 'customers are pulled', 'crm');
$source->safe_psql('postgres', "ALTER SYSTEM SET kapture_sync.excluded_databases = 'crm'");
$source->reload;
poll_ok($source, "SELECT kapture_worker_pid() IS NULL AND kapture_puller_pid() IS NULL", 'the database has its peace', 'crm');
$source->safe_psql('crm', qq(
SET SESSION AUTHORIZATION crm_clerk;
INSERT INTO customers (customer_name, phone) SELECT 'Waits ' || i, (9200000000 + i)::text FROM generate_series(1, 10) i;
UPDATE customers SET city = 'Pune' WHERE id <= 5));
$look = $source->safe_psql('crm', $all);
like($look, qr/kapture_outbox\|\d.*kapture_delivery\|1\|.*kapture_customers\|21\|.*customers\|kapture\|15\|0\|0\|1\|/s, 'changes wait, one failed');
$requests = emulator_get($emulator, 'stats')->{requests};
$source->command_ok([ 'pg_dumpall', '-f', "$dir/all" ], 'the cluster is dumped');
$source->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/crm", 'crm' ], 'and the database by itself');
# with what its users want to be theirs alone, the new one is up, and idle
$source->stop;
my $fresh = new_node('fresh');
my ($rc, $out, $err) = $fresh->psql('postgres', "\\i $dir/all", on_error_stop => 0);
my $me = getpwuid $<;
is(join("\n", grep { !/role "\Q$me\E" already exists/ } $err =~ /ERROR:.*/g), '', 'and restored, without an error but that its superuser is there');
poll_ok($fresh, "SELECT kapture_worker_pid() IS NOT NULL AND kapture_puller_pid() IS NOT NULL", 'worker and puller start', 'crm');
poll_ok($fresh, "SELECT count(*) = 2 AND bool_and(state = 'copy') FROM kapture_status", 'kapture_status tells that it is a copy', 'crm');
ok($fresh->wait_for_log(qr/database "crm" is a copy; nothing is $_/), "so does the log: nothing is $_") foreach qw(sent pulled);
is($fresh->safe_psql('crm', $all), $look, 'all is there: roles, servers, mappings, rights, attachments, what waits, what failed, what was pulled');
is(emulator_get($emulator, 'stats')->{requests}, $requests, 'and nothing was sent');
$fresh->safe_psql('postgres', "CREATE DATABASE again");
$fresh->command_ok([ 'pg_restore', '--exit-on-error', '-j', '2', '-d', 'again', "$dir/crm" ], 'a database that pulls is restored by itself');
poll_ok($fresh, "SELECT kapture_puller_pid() IS NOT NULL AND (SELECT state = 'copy' FROM kapture_pull_status)", 'it is a copy', 'again');
is($fresh->safe_psql('again', $all), $look, 'and all is there');
is(emulator_get($emulator, 'stats')->{requests}, $requests, 'nor did this send anything');
$fresh->safe_psql('postgres', "DROP DATABASE again");
$fresh->restart;
$fresh->safe_psql('crm', "SET SESSION AUTHORIZATION crm_clerk; INSERT INTO customers (customer_name, phone) VALUES ('New', '9300000001')");
poll_ok($fresh, "SELECT sum(pending) = 16 AND bool_and(state = 'copy') FROM kapture_status", 'nor after a restart', 'crm');
($rc, $out, $err) = $fresh->psql('crm', "SET SESSION AUTHORIZATION crm_owner; SELECT kapture_resume()");
like($err, qr/permission denied for function kapture_resume/, 'who owns the table may not decide that this is the original');
is(emulator_get($emulator, 'stats')->{requests}, $requests, 'still nothing was sent');
$fresh->safe_psql('crm', "SELECT kapture_resume()");
poll_ok($fresh, "SELECT count(*) = 31 AND count(*) FILTER (WHERE kapture_customer_id IS NULL) = 0 FROM customers WHERE phone <> '12'", 'told that it is the original, it sends what waited', 'crm');
poll_ok($fresh, "SELECT sum(pending + in_flight + retrying) = 0 AND bool_and(state = 'running') FROM kapture_status", 'to the end', 'crm');
my %there;
$there{ $_->{phone} }++ foreach @{ emulator_get($emulator, 'customers') };
is_deeply([ sort keys %there ], [ sort split /\n/, $fresh->safe_psql('crm', "SELECT phone FROM customers WHERE phone <> '12' UNION SELECT phone FROM accounts") ],
	'Kapture has all of them');
is(emulator_get($emulator, 'stats')->{adds}, 32, 'each was added once');
is(emulator_get($emulator, 'stats')->{duplicate_refusals}, 0, 'and offered once');
$fresh->stop;

done_testing();
