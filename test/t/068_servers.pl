# A server is the one a table was attached to, not whichever has its name: DROP
# SERVER says what depends on it, CASCADE detaches, and neither a namesake nor a
# new owner gets what is another's.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $stranger = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
my $key = 'a2FwZGVtbzprYXAxMjM=';
my $n = 9600000000;

# as somebody: what it prints, errors and notices included
sub said
{
	my ($role, $statement, $db) = @_;
	my ($rc, $out, $err) = $node->psql($db || 'postgres', "SET ROLE $role; $statement");
	return "$out\n$err";
}
sub insert { my ($table) = @_; $n++; return sql("SET ROLE alice; INSERT INTO $table (customer_name, phone) VALUES ('Alice $n', '$n')") }
# what a stranger has been asked or told
sub strangers_log { return scalar(@{ emulator_get($stranger, 'log') }) }
sub state { return "SELECT state = '$_[0]' AND coalesce(last_error, '') LIKE '$_[1]' FROM kapture_status WHERE relation = 'alice.customers'::regclass" }
sub servers_oid { return sql("SELECT oid FROM pg_foreign_server WHERE srvname = 'kapture'") }

# a server of boss, which everybody may use; mallory may create some, too
sub create_server
{
	my ($role, $url, $options) = @_;
	return said($role, "CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url', timeout '2s'" . ($options || '') . ");"
		  . " CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key '$key'); GRANT USAGE ON FOREIGN SERVER kapture TO PUBLIC");
}

sql(qq(
CREATE EXTENSION kapture_sync;
CREATE ROLE boss; CREATE ROLE alice; CREATE ROLE mallory;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO boss, mallory;
CREATE SCHEMA alice AUTHORIZATION alice;
SET ROLE alice;
CREATE TABLE alice.customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text);
CREATE TABLE alice.parts (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id);
CREATE TABLE alice.parts_all PARTITION OF alice.parts DEFAULT));
create_server('boss', $emulator->{url});
said('alice', "SELECT kapture_attach('alice.customers'), kapture_attach('alice.parts', replicated => true)");
insert($_) foreach qw(alice.customers alice.parts);
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM $_", "$_ is in step") foreach qw(alice.customers alice.parts);

# --- dropping it
like(said('boss', "DROP SERVER kapture"), qr/cannot drop server kapture because other objects depend on it.*trigger kapture_capture on table alice.customers depends on server kapture.*HINT:  Use DROP \.\.\. CASCADE/s,
	'DROP SERVER says that a table is attached');
like(said('postgres', "DROP OWNED BY boss"), qr/cannot drop.*trigger kapture_capture on table alice.customers depends on server kapture/s, 'so does DROP OWNED');
sql(qq(CREATE ROLE twofold; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO twofold; CREATE SCHEMA twofold AUTHORIZATION twofold; SET ROLE twofold;
CREATE SERVER twofold FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); CREATE USER MAPPING FOR twofold SERVER twofold OPTIONS (auth_key 'eA==');
CREATE TABLE twofold.customers (id int PRIMARY KEY, customer_name text, phone text); CREATE TABLE twofold.town (id int PRIMARY KEY, name text);
SELECT kapture_attach('twofold.customers', server => 'twofold'); SELECT kapture_follow('twofold.town', 'twofold.customers', 'target.customer_name = source.name')));
unlike(said('twofold', 'DROP OWNED BY twofold'), qr/ERROR/, 'whoever owns a server and a table attached to it may drop all that they own');
is(sql("SELECT count(*) FROM kapture_attachment WHERE server = 'twofold'"), '0', 'which leaves nothing attached');
sql("BEGIN; DROP SERVER kapture CASCADE; ROLLBACK");
insert('alice.customers');
poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM alice.customers", 'rolled back, all goes on');
said('alice', "SELECT kapture_pause('alice.customers')");
insert('alice.customers');
like(said('boss', "DROP SERVER kapture CASCADE"), qr/NOTICE:  table "customers" is no longer attached to Kapture\n.*Its server was dropped/, 'CASCADE detaches it');
is(sql("SELECT count(*) FROM kapture_attachment UNION ALL SELECT count(*) FROM kapture_column UNION ALL SELECT count(*) FROM kapture_outbox UNION ALL SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'kapture\\_%' AND tgrelid <> 'kapture_customers'::regclass"),
	"0\n0\n0\n0", 'nothing is left of it, of partitions either');
create_server('mallory', $stranger->{url});
insert($_) foreach qw(alice.customers alice.parts);
is(sql("SELECT count(*) FROM kapture_outbox"), '0', 'nothing is captured for a namesake');
is(sql("SELECT count(*) FROM alice.customers"), '4', 'her rows are hers');
restart_worker($node);
is(strangers_log(), 0, 'nor sent to it');
said('mallory', "DROP SERVER kapture CASCADE");

# --- a namesake: in one transaction, with rows that wait
create_server('boss', $emulator->{url}, ", rate_limit '0.5'");
said('alice', "SELECT kapture_attach('alice.customers')");
my $first = $n;
insert('alice.customers') foreach 1 .. 20;
wait_for(sub { @{ emulator_get($emulator, 'log') } > 4 }, 'the first of many rows');
my $oid = servers_oid();
# as if it had been dropped and created without the sync's taking note of it
sub become
{
	my ($from, $to, $url) = @_;
	return sql(qq(
SET allow_system_table_mods = on;
BEGIN;
UPDATE pg_user_mapping SET umserver = $to WHERE umserver = $from;
UPDATE pg_foreign_server SET oid = $to, srvoptions = ARRAY['url=$url', 'timeout=2s'] WHERE oid = $from;
COMMIT));
}
become($oid, 999999, $stranger->{url});
poll_ok($node, state('misconfigured', '%server "kapture" is another one than table "customers" was attached to%'), 'a server with another oid is not the one');
is(strangers_log(), 0, 'which gets nothing of what was claimed for it');
like(said('alice', "SELECT * FROM kapture_preview('alice.customers', (SELECT max(id)::text FROM alice.customers))"), qr/is another one than table/, 'kapture_preview says so');
like(said('alice', "SELECT kapture_backfill_slice('alice.customers', 10)"), qr/is another one than table/, 'so does a backfill');
restart_worker($node, 'a new worker');
poll_ok($node, state('misconfigured', '%another one%'), 'says the same');
is(strangers_log(), 0, 'still nothing was sent');
become(999999, $oid, $emulator->{url});
sql("ALTER SERVER kapture OPTIONS (SET timeout '3s')");    # which wakes the worker
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM alice.customers WHERE phone > '$first'", 'the server it was attached to gets all of it');

# --- another owner
sql("GRANT CREATE ON DATABASE postgres TO mallory");
said('alice', "SELECT kapture_pause('alice.customers')");
insert('alice.customers');
sql("BEGIN; ALTER SERVER kapture OWNER TO mallory; SET LOCAL ROLE mallory; ALTER SERVER kapture OPTIONS (SET url '$stranger->{url}'); COMMIT; SELECT kapture_resume('alice.customers')");
poll_ok($node, state('misconfigured', '%server "kapture" has passed to role "mallory" since table "customers" was attached%'), 'a stranger who is given the server is not trusted');
insert('alice.customers');
restart_worker($node);
poll_ok($node, state('misconfigured', '%'), 'by nobody');
is(strangers_log(), 0, 'he gets nothing');
sql("ALTER SERVER kapture OPTIONS (SET url '$emulator->{url}'); ALTER SERVER kapture OWNER TO boss");
poll_ok($node, "SELECT pending + in_flight + retrying = 0 AND state = 'running' FROM kapture_status WHERE relation = 'alice.customers'::regclass", 'given back, it goes on');
sql("ALTER SERVER kapture OWNER TO postgres");
insert('alice.customers');
poll_ok($node, "SELECT pending + in_flight + retrying = 0 AND state = 'running' FROM kapture_status WHERE relation = 'alice.customers'::regclass", 'a superuser could have redirected it before');
sql("ALTER SERVER kapture OWNER TO alice");
insert('alice.customers');
poll_ok($node, "SELECT pending + in_flight + retrying = 0 AND state = 'running' FROM kapture_status WHERE relation = 'alice.customers'::regclass", 'the owner of the table may have it');
sql("ALTER SERVER kapture OWNER TO mallory");
insert('alice.customers');
poll_ok($node, state('misconfigured', '%passed to role "mallory"%'), 'once more the stranger');
said('alice', "SELECT kapture_detach('alice.customers'); SELECT kapture_attach('alice.customers'); CALL kapture_backfill('alice.customers')");
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM alice.customers", 'attached anew, it goes to him');
sql("REASSIGN OWNED BY mallory TO boss");
insert('alice.customers');
poll_ok($node, state('misconfigured', '%passed to role "boss"%'), 'and is his alone');
sql("SELECT kapture_resume()");
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM alice.customers", 'a superuser may say that the new owner is right');
sql("DROP SERVER kapture CASCADE; DROP TABLE alice.customers, alice.parts");

# --- copies, watermarks, refreshes and sweeps
emulator_post($stranger, 'seed', [ { customer_name => 'Of the stranger', phone => '9700000001', generated => '2021-03-14 12:00:00' } ]);
emulator_post($emulator, 'reset', {});
emulator_post($emulator, 'seed', [ { customer_name => 'Ours', phone => '9700000002', generated => '2021-03-14 12:00:00' } ]);
my $pulls = ", pull_interval '1s', pull_since '2021-03-14', pull_window '3660 days'";
create_server('boss', $emulator->{url}, $pulls);
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE name = 'Ours'", 'customers are pulled');
poll_ok($node, "SELECT finished_at IS NOT NULL FROM kapture_pull_status", 'with a watermark');
said('boss', "DROP SERVER kapture CASCADE");
is(sql("SELECT count(*) FROM kapture_pull"), '0', 'which is forgotten with the server');
create_server('mallory', $stranger->{url}, "$pulls, sweep_interval '1s'");
poll_ok($node, "SELECT state = 'failing' AND last_error LIKE '%kapture_customers\" has customers of an earlier server \"kapture\"%' FROM kapture_pull_status", 'a namesake is not pulled from');
is(strangers_log(), 0, 'nor asked for customers of the other one');
like(sql("SELECT 1") && said('postgres', "CALL kapture_refresh('2021-03-14', '2021-03-14')"), qr/ERROR:  "kapture_customers" has customers of an earlier server "kapture"\n.*HINT:  Delete them/, 'kapture_refresh says so');
is(sql("SELECT string_agg(name, ' ') FROM kapture_customers"), 'Ours', 'nothing is mixed');
sql("DELETE FROM kapture_customers");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE name = 'Of the stranger'", 'once they are gone, those of the new server come');
sql("ALTER SERVER kapture OPTIONS (DROP sweep_interval); ALTER SERVER kapture OWNER TO boss");
poll_ok($node, "SELECT state = 'failing' AND last_error LIKE '%customers from before server \"kapture\" passed to role \"boss\"%' FROM kapture_pull_status", 'nor is one that passed to another owner');
sql("SELECT kapture_resume()");
poll_ok($node, "SELECT state <> 'failing' FROM kapture_pull_status", 'a superuser may say that this is right');
sql("DROP SERVER kapture CASCADE; DELETE FROM kapture_customers");

# --- dumps: neither oids nor dependencies come along
my $dir = PostgreSQL::Test::Utils::tempdir();
emulator_post($emulator, 'reset', {});
create_server('boss', $emulator->{url});
sql("CREATE TABLE alice.customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text); ALTER TABLE alice.customers OWNER TO alice");
said('alice', "SELECT kapture_attach('alice.customers'); SELECT kapture_pause('alice.customers')");
insert('alice.customers');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", 'postgres' ], 'a database is dumped');
said('alice', "SELECT kapture_resume('alice.customers')");
foreach my $db ('restored', 'dropped')
{
	# other servers first, so that oids differ
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $db, "$dir/dump" ], 'and restored');
	poll_ok($node, "SELECT state = 'copy' AND last_error IS NULL FROM kapture_status", 'as a copy', $db);
}
isnt($node->safe_psql('restored', "SELECT oid FROM pg_foreign_server"), servers_oid(), 'its server has another oid');
emulator_post($emulator, 'reset', {});
$node->safe_psql('restored', "SELECT kapture_resume(), kapture_resume('alice.customers')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM alice.customers", 'told that it is the original, it sends', 'restored');
poll_ok($node, "SELECT state = 'running' FROM kapture_status", 'to its server', 'restored');
like(said('boss', "DROP SERVER kapture", 'restored'), qr/trigger kapture_capture on table alice.customers depends on server kapture/, 'which tells again what depends on it');
like(said('boss', "DROP SERVER kapture CASCADE", 'dropped'), qr/table "customers" is no longer attached to Kapture/, 'in a copy, too, CASCADE detaches');
is($node->safe_psql('dropped', "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'alice.customers'::regclass"), '0', 'with the triggers');
$node->safe_psql('dropped', "SET ROLE mallory; CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$stranger->{url}'); RESET ROLE; SELECT kapture_resume()");
is($node->safe_psql('dropped', "SELECT count(*) FROM kapture_attachment"), '0', 'so that no namesake gets it');

# --- a server that is missing for another reason: a copy that was restored without it
my ($contents) = run_command([ 'pg_restore', '-l', "$dir/dump" ]);
PostgreSQL::Test::Utils::append_to_file("$dir/list", join("\n", grep { !/ (?:SERVER|USER MAPPING) / } split(/\n/, $contents)) . "\n");
$node->safe_psql('postgres', 'CREATE DATABASE lone');
$node->command_ok([ 'pg_restore', '--exit-on-error', '-L', "$dir/list", '-d', 'lone', "$dir/dump" ], 'a copy is restored without its servers');
is($node->safe_psql('lone', 'SELECT count(*) FROM pg_foreign_server'), '0', 'which has none');
my $own = "CREATE SERVER own FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$stranger->{url}')";
my $holder = $node->background_psql('lone');
$holder->query_safe('BEGIN');
# the puller tidies up, too, when it has something to look at
wait_for(sub {
	$holder->query_safe("ROLLBACK; INSERT INTO kapture_refresh_run (server, start_date, end_date) VALUES ('gone', '2021-03-14', '2021-03-15') ON CONFLICT DO NOTHING; BEGIN");
	return $holder->query_safe("SELECT server FROM kapture_refresh_run FOR UPDATE") eq 'gone';
}, 'somebody locks the progress of a refresh from a server that is gone');
foreach my $drop ('DROP SERVER own', 'DROP OWNED BY mallory', 'CREATE EXTENSION file_fdw; DROP EXTENSION file_fdw')
{
	my $as = $drop =~ /EXTENSION/ ? 'postgres' : 'mallory';
	unlike(said($as, "SET lock_timeout = '5s'; " . ($as eq 'mallory' ? "$own;" : '') . $drop, 'lone'), qr/ERROR|no longer attached/, "$drop does not wait for whoever has locked that, and ends no attachment of others");
}
is($node->safe_psql('lone', "SELECT count(*) FROM kapture_attachment"), '1', 'the table is still attached');
$holder->query_safe('COMMIT');
$holder->quit;
said('mallory', $own =~ s{'\)}{', pull_interval '1h')}r, 'lone');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_refresh_run", 'the puller deletes what nobody needs', 'lone');

# --- version 1.0 knows names only
$node->safe_psql('postgres', "CREATE DATABASE old");
$node->safe_psql('old', qq(
CREATE EXTENSION kapture_sync VERSION '1.0';
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE SERVER other FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
INSERT INTO kapture_attachment (relation, server, key_columns) VALUES ('customers', 'kapture', '{id}');
CREATE TRIGGER kapture_capture AFTER INSERT OR UPDATE OR DELETE ON customers FOR EACH ROW EXECUTE FUNCTION kapture_capture();
DROP SERVER other;
ALTER EXTENSION kapture_sync UPDATE));
is($node->safe_psql('old', "SELECT a.server_oid = s.oid AND a.server_owner = s.srvowner FROM kapture_attachment a JOIN pg_foreign_server s ON s.srvname = a.server"), 't', 'an update binds attached tables');
like(said('postgres', "DROP SERVER kapture", 'old'), qr/trigger kapture_capture on table customers depends on server kapture/, 'as if they were new');

# --- a foreign table is its server's, also for a cursor that has not asked anybody yet
sql('CREATE DATABASE foreign_tables');
$node->safe_psql('foreign_tables', qq(
CREATE EXTENSION kapture_sync; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO boss, mallory; SET ROLE boss;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s'); CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key '$key');
RESET ROLE; GRANT USAGE ON FOREIGN SERVER kapture TO PUBLIC; CREATE SCHEMA alice AUTHORIZATION alice; SET ROLE alice;
CREATE FOREIGN TABLE alice.there (id bigint, name text, phone text) SERVER kapture));
my $asked = strangers_log();
my $cursor = $node->background_psql('foreign_tables', on_error_stop => 1);
$cursor->query_safe("SET ROLE alice; BEGIN; DECLARE there CURSOR FOR SELECT id FROM alice.there WHERE phone = '9600000001'");
unlike(said('boss', 'ALTER SERVER kapture RENAME TO kapture_before', 'foreign_tables'), qr/ERROR/, 'a server is renamed while a cursor is open');
unlike(said('mallory', "CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$stranger->{url}', timeout '2s');"
	  . " CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key '$key'); GRANT USAGE ON FOREIGN SERVER kapture TO PUBLIC", 'foreign_tables'), qr/ERROR/, 'and another one gets its name');
my $gets = grep { $_->{api} eq 'get' } @{ emulator_get($emulator, 'log') };
$cursor->query_safe('FETCH ALL FROM there');
$cursor->quit;
is(strangers_log(), $asked, 'which the cursor does not ask');
cmp_ok(scalar(grep { $_->{api} eq 'get' } @{ emulator_get($emulator, 'log') }), '>', $gets, 'but its own server');

$node->stop;
done_testing();
