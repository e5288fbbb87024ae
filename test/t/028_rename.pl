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
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_inbox", 'it is its turn');
is(sql("SELECT count(*) FROM customers WHERE phone = '9000000005'"), '1', 'and it has come into the table, though the server has another name');
sql("ALTER SERVER waiting RENAME TO crm");

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
