# ALTER SERVER ... RENAME: attached tables, copies, pulls and refreshes follow,
# whatever is under way, and nobody is pulled under the old name.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $emulator = start_emulator('--pull-limit-hours', 24);
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
my $n = 0;

sub refused { my ($rc, $out, $err) = $node->psql('postgres', $_[0]); return $err }

# customers that were made so many seconds ago
sub seed
{
	emulator_post($emulator, 'seed', [ map { { customer_name => "Customer $n", phone => sprintf('9%09d', $n++), generated => ago($_) } } @_ ]);
	return;
}

# where each name is that the servers have had
sub names
{
	return sql("SELECT string_agg(DISTINCT name, ' ' ORDER BY name) FROM (SELECT server::text AS name FROM kapture_attachment UNION ALL"
		  . " SELECT server FROM kapture_customers UNION ALL SELECT server FROM kapture_contacts UNION ALL"
		  . " SELECT server FROM kapture_refresh_run UNION ALL SELECT server FROM kapture_pull UNION ALL SELECT server FROM kapture_pull_asked UNION ALL"
		  . " SELECT server FROM kapture_call_queue) AS t");
}

seed(2 * 86400, 86400, 60);
setup_sync($node, $emulator);
create_customers($node, attach => ', pull => true');
sql("ALTER SERVER kapture OPTIONS (ADD pull_interval '1s', ADD pull_since '" . ago(2.5 * 86400) . "')");
poll_ok($node, "SELECT count(kapture_customer_id) = 3 FROM customers", 'customers are pulled');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Ours', '9845765226')");
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM customers", 'a row is sent');
poll_ok($node, "SELECT pulled_until IS NOT NULL AND finished_at IS NOT NULL FROM kapture_pull_status", 'a pull is done');

# --- while requests of both kinds are under way
sql("ALTER SERVER kapture OPTIONS (SET timeout '1h')");
emulator_faults($emulator, { api => 'pull', action => 'hang' }, { api => 'add', action => 'hold' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Under way', '9845765227')");
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status", 'an Add hangs');
poll_ok($node, "SELECT state = 'pulling' FROM kapture_pull_status", 'a pull, too');
my $until = sql('SELECT pulled_until FROM kapture_pull');
# (what hangs goes on to; the next pull is not to)
emulator_faults($emulator);
my $before = @{ emulator_get($emulator, 'log') };
sql("ALTER SERVER kapture RENAME TO crm");
is(names(), 'crm', 'everything has the new name');
is(sql("SELECT pulled_until >= '$until' FROM kapture_pull"), 't', 'the watermark is kept');
seed(30);
poll_ok($node, "SELECT count(*) > 0 FROM kapture_customers WHERE generation_date > now() - interval '1 minute' AND phone = '9000000003'", 'what is new is pulled');
my @log = @{ emulator_get($emulator, 'log') };
my ($earliest) = sort map { $_->{body} =~ /"start_date": "([^"]*)"/ } grep { $_->{api} eq 'pull' } @log[ $before .. $#log ];
cmp_ok($earliest, 'gt', ago(86400), 'from where it was, not from the beginning');
emulator_post($emulator, 'release', {});
poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM customers WHERE customer_name = 'Under way'", 'the row that was under way arrives');
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE phone = '9000000003'", 'and the pulled one in the attached table');
poll_ok($node, "SELECT state = 'running' AND server = 'crm' AND server_state = 'ok' AND pull_state IN ('waiting', 'pulling') FROM kapture_status", 'the status is that of the new name');
is(sql("SELECT string_agg(server, ' ') FROM kapture_server_states()"), 'crm', 'and nothing is said of the old one');
is(names(), 'crm', 'nothing has the old name');
is(scalar(grep { $_->{phone} eq '9845765227' } @{ emulator_get($emulator, 'customers') }), 1, 'nobody was added twice');

# --- rolled back
sql("BEGIN; ALTER SERVER crm RENAME TO other; ROLLBACK");
is(names(), 'crm', 'rolled back, the name stays');
seed(10);
poll_ok($node, "SELECT count(*) = 1 FROM customers WHERE phone = '9000000004'", 'and customers come');

# --- customers that were pulled, and wait for their table
sql("SELECT kapture_pause('customers')");
seed(5);
# that one: a pull may bring another again
poll_ok($node, "SELECT count(*) = 1 FROM kapture_inbox JOIN kapture_customers USING (server) WHERE id = customer_id AND phone = '9000000005'", 'a customer waits for a table that is paused');
sql("ALTER SERVER crm RENAME TO waiting");
my $holding = $node->background_psql('postgres');
$holding->query_safe("BEGIN; SELECT FROM kapture_inbox FOR UPDATE");
unlike(refused("SET lock_timeout = '5s'; ALTER SERVER waiting RENAME TO other"), qr/ERROR/, 'somebody may have locked it');
$holding->query_safe('COMMIT');
$holding->quit;
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox", 'it is its turn');
is(sql("SELECT count(*) FROM customers WHERE phone = '9000000005'"), '1', 'and it has come into the table, though the server has another name');
sql("ALTER SERVER other RENAME TO crm");

# --- a refresh that was interrupted, and one that is under way
sql("ALTER SERVER crm OPTIONS (DROP pull_interval)");
poll_ok($node, "SELECT kapture_puller_pid() IS NOT NULL AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'object' AND objsubid = 1)", 'nothing is pulled by itself any more');
emulator_faults($emulator, { api => 'pull', action => 'status', code => 400, body => '{"message": "No", "status": "failed"}', match => '"start_date": "2021-03-12' });
emulator_post($emulator, 'seed', [ map { { customer_name => "March $_", phone => "94000000$_", generated => "2021-03-$_ 12:00:00" } } 10 .. 14 ]);
like(refused("CALL kapture_refresh('2021-03-10', '2021-03-14', 'crm')"), qr/Kapture says: No/, 'a refresh is interrupted');
emulator_faults($emulator);
sql("ALTER SERVER crm RENAME TO kapture");
like(refused("CALL kapture_refresh('2021-03-10', '2021-03-14')"), qr/NOTICE:  continuing the refresh of server "kapture" at 2021-03-12 00:00:00/, 'it goes on under the new name');
is(sql("SELECT count(*), count(DISTINCT name), min(server) FROM kapture_customers WHERE name LIKE 'March%'"), '5|5|kapture', 'everybody is there, once');

my $renaming = $node->background_psql('postgres');
$renaming->query_safe("BEGIN; ALTER SERVER kapture RENAME TO crm");
my $refreshing = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $refreshing->query_safe('SELECT pg_backend_pid()');
$refreshing->query_until(qr/started/, "\\echo started\nCALL kapture_refresh('2021-03-10', '2021-03-14', restart => true);\n\\echo ended\n");
poll_ok($node, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid", 'who writes a window waits for who renames');
$renaming->query_safe('COMMIT');
poll_ok($node, "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid", 'and then ends');
like($refreshing->query('\echo :LAST_ERROR_MESSAGE'), qr/server "kapture" was renamed or dropped while it was pulled from/, 'with an error');
is(sql("SELECT string_agg(DISTINCT server, ' ') FROM kapture_customers"), 'crm', 'nobody has the old name');
unlike(refused("CALL kapture_refresh('2021-03-10', '2021-03-14', 'crm')"), qr/ERROR/, 'with the new one it works');
$_->quit foreach $renaming, $refreshing;

# --- calls that are sent, and customers that a session updates, while the server is renamed
my ($renamed, $row) = ('crm', sql("SELECT kapture_customer_id FROM customers WHERE phone = '9845765226'"));
sql("UPDATE customers SET city = 'Pune' WHERE kapture_customer_id = $row");
poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", 'Kapture has the city of a row');
foreach my $where ('in that transaction', 'in another one, which ends later')
{
	my ($from, $to) = ($renamed, $renamed eq 'crm' ? 'moved' : 'crm');
	my $session = $node->background_psql('postgres');
	$session->query_safe(qq(BEGIN; SELECT kapture_send('ticket_add', '{"title": "$to"}', server => '$from');)
		  . qq(SELECT kapture_update_customer('{"kapture_customer_id": "$row", "city": "Elsewhere"}', '$from')));
	my $rename = "ALTER SERVER $from RENAME TO $to";
	$where =~ /later/ ? sql($rename) : $session->query_safe($rename);
	$session->query_safe('COMMIT');
	$session->quit;
	$renamed = $to;
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_calls WHERE body ->> 'title' = '$to' AND state = 'done' AND server = '$to'", "a call that was sent $where is made");
	sql("BEGIN; UPDATE customers SET city = '' WHERE kapture_customer_id = $row; UPDATE customers SET city = 'Pune' WHERE kapture_customer_id = $row; COMMIT");
	poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", 'a row is changed');
	is(emulator_get($emulator, "customers?id=$row")->[0]{city}, 'Pune', 'it is not taken for what Kapture had before');
}
is(names(), 'crm', 'and all has the new name');

# --- names that are taken
sql(qq(
CREATE SERVER dropped FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER dropped OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CALL kapture_refresh('2021-03-10', '2021-03-10', 'dropped');
DROP SERVER dropped CASCADE));
like(refused("ALTER SERVER crm RENAME TO dropped"), qr/ERROR:  "kapture_customers" has customers of an earlier server "dropped"\n.*HINT:  Delete them/, 'customers of another server do not mix with them');
is(sql("SELECT count(*) FROM pg_foreign_server WHERE srvname = 'crm'"), '1', 'the server keeps its name');
sql("DELETE FROM kapture_customers WHERE server = 'dropped'; ALTER SERVER crm RENAME TO dropped");
is(names(), 'dropped', 'once they are gone, it may have that name');

# --- roles
sql("CREATE ROLE tenant");
like(refused("SET ROLE tenant; ALTER SERVER dropped RENAME TO stolen"), qr/must be owner of foreign server dropped/, 'the server belongs to its owner');
is(names(), 'dropped', 'so does what is kept of it');
sql("GRANT CREATE ON DATABASE postgres TO tenant; ALTER SERVER dropped OWNER TO tenant; SET ROLE tenant; ALTER SERVER dropped RENAME TO kapture");
is(names(), 'kapture', 'an owner without other rights may rename it');
sql("CREATE EXTENSION postgres_fdw; CREATE SERVER loopback FOREIGN DATA WRAPPER postgres_fdw; ALTER SERVER loopback RENAME TO elsewhere");
is(names(), 'kapture', 'servers of others are none of our business');

# --- transactions of others that stay open: of those who may use the server, and of those who may not
sql(qq(
CREATE ROLE boss LOGIN; CREATE ROLE alice LOGIN; CREATE ROLE clerk LOGIN; CREATE ROLE mallory LOGIN;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO boss; GRANT CREATE ON DATABASE postgres TO boss;
CREATE SCHEMA AUTHORIZATION alice; CREATE SCHEMA AUTHORIZATION mallory;
GRANT SELECT, UPDATE ON kapture_customers TO clerk;
SET ROLE boss;
CREATE SERVER shared FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR PUBLIC SERVER shared OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
GRANT USAGE ON FOREIGN SERVER shared TO alice;
RESET ROLE;
CALL kapture_refresh('2021-03-10', '2021-03-10', 'shared')));
my $shared = 'shared';
sub session_of
{
	my ($role, $statement) = @_;
	my $session = $node->background_psql('postgres', extra_params => [ '-U', $role ], on_error_stop => 0);
	$session->query_safe("SET client_min_messages = error; BEGIN; $statement");
	return $session;
}
sub as
{
	my ($role, $statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = '60s'; $statement", connstr => $node->connstr('postgres') . " user=$role", on_error_stop => 0);
	return "$out\n$err";
}
unlike(as('alice', qq(
CREATE TABLE alice.customers (id bigint PRIMARY KEY, customer_name text, phone text); CREATE TABLE alice.more (LIKE alice.customers INCLUDING ALL);
CREATE TABLE alice.other (LIKE alice.customers INCLUDING ALL);
SELECT kapture_attach('alice.customers', server => '$shared'), kapture_attach('alice.other', server => '$shared');
INSERT INTO alice.customers VALUES (1, 'Alice', '9600000001');
)), qr/ERROR/, 'alice uses the server of boss');
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM alice.customers", 'with a table');
emulator_faults($emulator, { action => 'status', code => 400, body => '{"message": "No", "status": "failed"}', api => 'ticket_add' });
my $call = sql(qq(SET ROLE alice; SELECT kapture_send('ticket_add', '{"title": "refused"}', server => '$shared')));
poll_ok($node, "SELECT state IN ('failed', 'unknown') FROM kapture_calls WHERE call_id = $call", 'and a call, which fails');
emulator_faults($emulator);
my $row_id = 1;
foreach my $held ([ "SELECT kapture_pause('alice.customers')", 'ROLLBACK' ], [ "SELECT kapture_pause('alice.customers'), kapture_resume('alice.customers')", 'COMMIT' ],
	[ "SELECT kapture_retry_call($call)", 'COMMIT' ], [ "SELECT kapture_alter('alice.other', filter => 'true'), kapture_detach('alice.other')", 'ROLLBACK' ])
{
	my ($statement, $end) = @$held;
	my ($from, $to) = ($shared, $shared eq 'shared' ? 'renamed' : 'shared');
	my $session = session_of('alice', $statement);
	unlike(as('boss', "ALTER SERVER $from RENAME TO $to"), qr/ERROR/, "who renames a server does not wait for whoever has an open transaction: $statement");
	$session->query_safe($end);
	$session->quit;
	$shared = $to;
	poll_ok($node, "SELECT bool_and(server = '$to') FROM kapture_attachment WHERE relation::text LIKE 'alice.%'", 'which follows');
	$row_id++;
	sql("SET ROLE alice; INSERT INTO alice.customers VALUES ($row_id, 'Alice $row_id', '96000000$row_id$row_id')");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM alice.customers WHERE id = $row_id", 'and goes on');
}
poll_ok($node, "SELECT state = 'done' AND server = '$shared' FROM kapture_calls WHERE call_id = $call", 'the call that was retried is made');

foreach ([ 'alice', "SELECT kapture_attach('alice.more', server => '$shared')", 'Another transaction uses the server' ],
	[ 'clerk', "UPDATE kapture_customers SET city = city WHERE server = '$shared'", 'Another transaction has locked customers of the server' ])
{
	my ($role, $statement, $detail) = @$_;
	my $session = session_of($role, $statement);
	like(as('boss', "ALTER SERVER $shared RENAME TO other"), qr/ERROR:  server "$shared" cannot be renamed now\nDETAIL:  $detail.*\nHINT:  Try again/, "$role is not waited for without end");
	$session->query_safe('COMMIT');
	$session->quit;
}
as('boss', "ALTER SERVER $shared RENAME TO other");
is(sql("SELECT string_agg(DISTINCT server, ' ') FROM kapture_customers WHERE name = 'March 10' AND server <> 'kapture'"), 'other', 'afterwards it has the new name');

as('mallory', 'CREATE TABLE mallory.customers (id bigint PRIMARY KEY, customer_name text, phone text)');
my $boss = session_of('boss', 'ALTER SERVER other RENAME TO shared; DROP SERVER shared CASCADE');
like(as('mallory', "SELECT kapture_attach('mallory.customers', server => 'other')"), qr/permission denied for foreign server other/, 'who may not use a server does not queue for its lock');
$boss->query_safe('ROLLBACK');
$boss->quit;

my $earlier = session_of('alice', 'SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1');
as('boss', "CREATE SERVER late FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); CREATE USER MAPPING FOR PUBLIC SERVER late OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM='); GRANT USAGE ON FOREIGN SERVER late TO alice");
$earlier->query_safe("SELECT kapture_attach('alice.more', server => 'late', name => 'late', id_column => NULL)");
$earlier->query_safe('COMMIT');
is(sql("SELECT count(*) FROM kapture_attachments WHERE server = 'late'"), '1', 'a table is attached to a server that was created after the transaction took its snapshot');
$earlier->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
as('boss', "CREATE SERVER later FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); CREATE USER MAPPING FOR PUBLIC SERVER later OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM='); GRANT USAGE ON FOREIGN SERVER later TO alice");
$earlier->query_safe("SELECT kapture_pause('alice.more', 'late'); SELECT kapture_alter('alice.more', server => 'later', name => 'late')");
$earlier->query_safe('COMMIT');
is(sql("SELECT count(*) FROM kapture_attachments WHERE server = 'later'"), '1', 'or moved to such a server');
$earlier->quit;
as('boss', 'DROP SERVER later CASCADE');
as('boss', 'DROP SERVER late CASCADE');

foreach my $drop ('DROP SERVER other', 'DROP OWNED BY boss')
{
	as('alice', q(SET client_min_messages = error; SELECT kapture_detach(relation) FROM kapture_attachments));
	my $alice = session_of('alice', "SELECT kapture_attach('alice.customers', server => 'other')");
	my $dropping = $node->background_psql('postgres', extra_params => [ '-U', 'boss' ], on_error_stop => 0);
	my $pid = $dropping->query_safe('SELECT pg_backend_pid()');
	$dropping->query_until(qr/started/, "\\echo started\n$drop;\n\\echo ended\n");
	poll_ok($node, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid", "$drop waits for whoever attaches a table");
	$alice->query_safe('COMMIT');
	poll_ok($node, "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid", 'and then ends');
	is(sql("SELECT (SELECT count(*) FROM kapture_attachment WHERE relation = 'alice.customers'::regclass), (SELECT count(*) FROM pg_foreign_server WHERE srvname = 'other')"), '1|1', 'as the table depends on the server');
	$_->quit foreach $alice, $dropping;
}

# --- before the extension is updated
sql('CREATE DATABASE old');
$node->safe_psql('old', qq(
CREATE EXTENSION kapture_sync VERSION '1.0';
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, kapture_customer_id bigint);
INSERT INTO kapture_attachment (attachment_id, relation, server, key_columns) VALUES (DEFAULT, 'customers', 'kapture', '{id}');
ALTER SERVER kapture RENAME TO crm));
is($node->safe_psql('old', 'SELECT server FROM kapture_attachment'), 'crm', 'attached tables of version 1.0 follow, too');

$node->stop;
done_testing();
