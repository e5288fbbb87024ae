# Sweeps: known customers are asked for again, so that changes made in Kapture
# arrive, whenever the customer was made.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('sweep');
setup_sync($node, $emulator);
emulator_post($emulator, 'seed', [ map { { kapture_customer_id => $_, customer_name => "Customer $_", phone => sprintf('9%09d', $_), generated => '2021-03-14 10:00:00' } } 1 .. 20 ]);
create_customers($node, attach => ", pull => true");
$node->safe_psql('postgres', "CALL kapture_refresh('2021-03-14', '2021-03-14')");
poll_ok($node, "SELECT count(*) = 20 FROM customers", 'customers of long ago');

# one that only a row knows, and a change in Kapture
emulator_post($emulator, 'seed', [ { kapture_customer_id => 99, customer_name => 'Linked', phone => '9999999999', city => 'Kochi', generated => '2020-01-01 00:00:00' } ]);
$node->safe_psql('postgres', "SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone, kapture_customer_id) VALUES ('Linked', '9999999999', 99)");
# and one of another account, which is no business of this one's
$node->safe_psql('postgres', qq(CREATE SERVER beside FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER beside OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE others (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
SELECT kapture_attach('others', server => 'beside', pull => true);
SET kapture_sync.capture = off; INSERT INTO others VALUES (1, 'Other', '9999999997', 98)));
$node->safe_psql('postgres', "SELECT kapture_update_customer('{\"kapture_customer_id\": \"7\", \"city\": \"Mysore\"}')");
$node->safe_psql('postgres', "CREATE TABLE before AS SELECT id, last_modification_time, is_api FROM kapture_customers");
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD sweep_interval '1 hour', ADD sweep_rate '50')");
poll_ok($node, "SELECT city = 'Mysore' FROM customers WHERE kapture_customer_id = 7", 'a change of an old customer arrives');
poll_ok($node, "SELECT city = 'Kochi' FROM customers WHERE kapture_customer_id = 99", 'also of one that only a row is linked to');
poll_ok($node, "SELECT sweep_finished_at IS NOT NULL AND swept = 21 FROM kapture_pull_status", 'the sweep ends');
is($node->safe_psql('postgres', "SELECT count(*) FROM before b JOIN kapture_customers c USING (id) WHERE b.last_modification_time IS DISTINCT FROM c.last_modification_time AND id <> 7"), '0', 'what Get does not tell is kept');

# the attachment is locked as the server gets another name, which it learns only later
$node->safe_psql('postgres', 'DELETE FROM kapture_customers WHERE id = 99');
my $holding = $node->background_psql('postgres');
$holding->query_safe("BEGIN; SELECT FROM kapture_attachment WHERE relation = 'customers'::regclass FOR UPDATE");
$node->safe_psql('postgres', "ALTER SERVER kapture RENAME TO renamed; UPDATE kapture_pull SET sweep_started_at = '2021-01-01'; ALTER SERVER renamed OPTIONS (SET sweep_interval '90 min')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE id = 99 AND server = 'renamed'", 'a sweep under another name asks for a customer that only a row is linked to');
is($node->safe_psql('postgres', "SELECT server FROM kapture_attachment WHERE relation = 'customers'::regclass"), 'kapture', 'though the table has the old name yet');
poll_ok($node, 'SELECT sweep_finished_at IS NOT NULL AND swept = 21 FROM kapture_pull_status', 'and that sweep ends');
$holding->query_safe('COMMIT');
$holding->quit;
$node->safe_psql('postgres', "ALTER SERVER renamed RENAME TO kapture; SELECT kapture_resume('customers')");
poll_ok($node, 'SELECT count(*) = 0 FROM kapture_inbox', 'what waited for the table arrives');

# failures, and going on
emulator_post($emulator, 'keys', { get => 'c2VjcmV0OnNlY3JldA==' });
$node->safe_psql('postgres', "SELECT kapture_update_customer('{\"kapture_customer_id\": \"8\", \"city\": \"Hubli\"}'); UPDATE kapture_pull SET sweep_started_at = '2021-01-01'; ALTER SERVER kapture OPTIONS (SET sweep_interval '2 hours')");
poll_ok($node, "SELECT state = 'failing' AND last_error LIKE '%Invalid Auth Key%' FROM kapture_pull_status", 'a failure is shown');
emulator_post($emulator, 'keys', { get => 'a2FwZGVtbzprYXAxMjM=' });
$node->restart;
poll_ok($node, "SELECT city = 'Hubli' FROM customers WHERE kapture_customer_id = 8", 'after a restart it goes on');

# one that fails goes on by itself, long before the next one is due
poll_ok($node, "SELECT sweep_finished_at IS NOT NULL AND state <> 'failing' FROM kapture_pull_status", 'that sweep ends');
emulator_faults($emulator, { api => 'get', match => '"10"', action => 'status', code => 401, body => '{"message": "Invalid Auth Key", "status": "failed"}', count => 1 });
$node->safe_psql('postgres', "UPDATE kapture_pull SET sweep_started_at = '2021-01-01'; ALTER SERVER kapture OPTIONS (SET sweep_interval '4 hours')");
poll_ok($node, "SELECT state = 'failing' AND swept = 9 FROM kapture_pull_status", 'a customer in the middle of a sweep is refused');
poll_ok($node, "SELECT sweep_finished_at IS NOT NULL AND swept = 21 AND state <> 'failing' FROM kapture_pull_status", 'the sweep goes on');

# a sweep that is interrupted goes on behind the last customer that it has asked for
emulator_faults($emulator, { api => 'get', match => '"12"', action => 'hang' });
$node->safe_psql('postgres', "UPDATE kapture_pull SET sweep_started_at = '2021-01-01'; ALTER SERVER kapture OPTIONS (SET sweep_interval '3 hours')");
poll_ok($node, "SELECT swept = 11 FROM kapture_pull_status", 'a sweep comes to a customer for whom there is no answer');
my $puller = $node->safe_psql('postgres', 'SELECT kapture_puller_pid()');
emulator_faults($emulator);
my $before = emulator_get($emulator, 'stats')->{requests};
$node->safe_psql('postgres', "SELECT pg_terminate_backend($puller)");
poll_ok($node, "SELECT sweep_finished_at IS NOT NULL FROM kapture_pull_status", 'with another process, it ends');
is($node->safe_psql('postgres', 'SELECT swept FROM kapture_pull_status'), '21', 'and has asked for each once');
emulator_post($emulator, 'seed', [ { kapture_customer_id => 100, customer_name => 'New', phone => '9999999998', generated => '2021-03-14 10:00:00' } ]);
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (ADD pull_interval '1s', ADD pull_since '2021-03-14')");
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = 100", 'pulls go on');
is(scalar(grep { $_->{api} eq 'get' && $_->{body} =~ /"1"/ } @{ emulator_get($emulator, "log?since=$before") }), 0, 'but the first ones are not asked for again: the next sweep is due later');

# --- code that runs where a sweep reads attached tables: the planner evaluates expressions of statistics
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (DROP sweep_interval)");
$node->safe_psql('postgres', qq(CREATE ROLE mallory LOGIN; CREATE SCHEMA AUTHORIZATION mallory;
CREATE SERVER slow FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR mallory SERVER slow OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
ALTER SERVER slow OWNER TO mallory));
my $tables = 8;
sub mallorys_table
{
	my ($table, $role) = @_;
	return qq(SET ROLE $role; CREATE TABLE mallory.$table (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
CREATE STATISTICS mallory.${table}_s ON (id + mallory.code()), phone FROM mallory.$table;
SELECT kapture_attach('mallory.$table', server => 'slow', pull => true));
}
$node->safe_psql('postgres', q(SET ROLE mallory;
CREATE FUNCTION mallory.code() RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'));
$node->safe_psql('postgres', mallorys_table("slow$_", 'mallory')) foreach 1 .. $tables;
$node->safe_psql('postgres', q(SET ROLE mallory;
CREATE OR REPLACE FUNCTION mallory.code() RETURNS int IMMUTABLE LANGUAGE plpgsql
AS 'BEGIN IF pg_backend_pid() = public.kapture_puller_pid() THEN RAISE LOG ''mallory is read''; PERFORM pg_sleep(2); END IF; RETURN 1; END'));
my $log = -s $node->logfile;
my $read = sub { return scalar(() = slurp_file($node->logfile, $log) =~ /LOG:  mallory is read/g) };
$node->safe_psql('postgres', "SET ROLE mallory; ALTER SERVER slow OPTIONS (ADD sweep_interval '1 day')");
wait_for(sub { $read->() > 0 }, 'a sweep through many tables with slow code');
emulator_post($emulator, 'seed', [ { kapture_customer_id => 101, customer_name => 'Next', phone => '9999999996', generated => ago(1) } ]);
$node->safe_psql('postgres', "SELECT kapture_pull_now('kapture')");
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE kapture_customer_id = 101", 'somebody else pulls beside it');
cmp_ok($read->(), '<', $tables, 'long before it has come to the last table');
poll_ok($node, "SELECT sweep_finished_at IS NOT NULL FROM kapture_pull_status WHERE server = 'slow'", 'it comes to its end');
is($read->(), $tables, 'and has looked at each table once');

# code that must be ended with the process is that of the table's owner, who need not be the server's
$node->safe_psql('postgres', join ';', 'CREATE ROLE trudy LOGIN IN ROLE mallory; GRANT USAGE, CREATE ON SCHEMA mallory TO trudy',
	"CREATE USER MAPPING FOR trudy SERVER slow OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')", map { "DROP TABLE mallory.slow$_" } 1 .. $tables);
$node->safe_psql('postgres', q(DROP FUNCTION mallory.code(); SET ROLE trudy;
CREATE FUNCTION mallory.code() RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'));
$node->safe_psql('postgres', mallorys_table('endless', 'trudy'));
$node->safe_psql('postgres', q(SET ROLE trudy;
CREATE OR REPLACE FUNCTION mallory.code() RETURNS int IMMUTABLE LANGUAGE plpgsql
AS 'BEGIN WHILE pg_backend_pid() = public.kapture_puller_pid() LOOP BEGIN PERFORM pg_sleep(10); EXCEPTION WHEN query_canceled THEN END; END LOOP; RETURN 1; END'));
$puller = $node->safe_psql('postgres', 'SELECT kapture_puller_pid()');
$node->safe_psql('postgres', "UPDATE kapture_pull SET sweep_started_at = '2021-01-01', sweep_finished_at = NULL WHERE server = 'slow'; ALTER SERVER slow OPTIONS (SET sweep_interval '2 days')");
poll_ok($node, "SELECT kapture_puller_pid() <> $puller", 'code that takes no notice ends the process');
$puller = $node->safe_psql('postgres', 'SELECT kapture_puller_pid()');
poll_ok($node, "SELECT sweep_finished_at IS NOT NULL FROM kapture_pull_status WHERE server = 'slow'", 'in the next one, the sweep leaves that table out');
is($node->safe_psql('postgres', 'SELECT kapture_puller_pid()'), $puller, 'which goes on');

$node->stop;
done_testing();
