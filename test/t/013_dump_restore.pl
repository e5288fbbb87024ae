# A dump keeps all that the sync knows, in whatever schemas, and restoring it
# captures nothing anew.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
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

done_testing();
