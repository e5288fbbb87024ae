# The refresh of local copies: what is written, what is not, and going on.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator('--pull-limit-hours', 24);
my $node = new_node('refresh');
# small, so that what a backend touches of it does not count as its memory
$node->append_conf('postgresql.conf', 'shared_buffers = 1MB');
$node->restart;
setup_sync($node, $emulator, options => "max_connections '2'");
$node->safe_psql('postgres', "ALTER DATABASE postgres SET timezone = 'UTC'");

my $n = 0;
my @times = map { ("2021-03-$_ 00:00:00", "2021-03-$_ 12:00:00", "2021-03-$_ 23:59:59") } 10 .. 19;
sub customers { return [ map { { customer_name => "At $_", phone => sprintf('9%09d', $n++), email_id => "c$n\@example.com", generated => $_ } } @_ ]; }

sub seed
{
	my (@times) = @_;
	emulator_post($emulator, 'reset', {});
	$n = 0;
	emulator_post($emulator, 'seed', customers(@times));
	return;
}

sub pulled_days
{
	return join ' ', sort map { $_->{body} =~ /"start_date": "2021-03-(\d\d)/ } grep { $_->{api} eq 'pull' } @{ emulator_get($emulator, 'log') };
}

sub refresh
{
	my ($arguments) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "CALL kapture_refresh($arguments)");
	return $err;
}

my $progress = "SELECT state, windows_done, windows_total, customers, written, done_until FROM kapture_progress";
my $versions = "SELECT string_agg(server || id || ctid || xmin, ' ' ORDER BY server, id) FROM (SELECT server, id, ctid, xmin FROM kapture_customers UNION ALL SELECT server, id, ctid, xmin FROM kapture_contacts) t";

# into empty tables
seed(@times);
like(refresh("'2021-03-10', '2021-03-19'"), qr/NOTICE:  refreshed 10 windows: 30 customers, 60 rows written, \d+ customers a second/, 'a refresh says what it did');
is($node->safe_psql('postgres', "SELECT name FROM kapture_customers ORDER BY generation_date"), join("\n", map { "At $_" } @times),
	'everybody is there');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_customers c JOIN kapture_contacts k ON (k.server, k.customer_id) = (c.server, c.id) WHERE k.phone = c.phone AND k.email = c.email AND k.generation_date = c.generation_date"),
	'30', 'with their contacts');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_pull_customers('2021-03-10', '2021-03-19') p JOIN kapture_customers c USING (id) WHERE to_jsonb(c) - 'server' = to_jsonb(p)"),
	'30', 'they are as they are pulled');
is($node->safe_psql('postgres', "SELECT state, windows_done, windows_total, written, done_until, time_left IS NULL FROM kapture_progress"),
	'done|10|10|60|2021-03-19 23:59:59|t', 'the progress says so');

# again: nothing is written
my $before = $node->safe_psql('postgres', $versions);
like(refresh("'2021-03-10', '2021-03-19'"), qr/ 0 rows written/, 'a second refresh has nothing to write');
is($node->safe_psql('postgres', $versions), $before, 'and writes nothing');

# on its way, it says how far it is, at most once a second: here two windows come each half second
emulator_faults($emulator, { api => 'pull', action => 'delay', ms => 500 });
my $began = time;
my @told = split /\n/, refresh("'2021-03-10', '2021-03-19'");
my $most = time - $began + 2;
emulator_faults($emulator);
cmp_ok(scalar(grep { /NOTICE:  refreshed [1-9] of 10 windows: \d+ customers, \d+ a second, \d\d:\d\d:\d\d left$/ } @told), '>=', 1, 'a refresh says how far it is');
cmp_ok(scalar @told, '<=', $most, 'but seldom');
like($told[-1], qr/refreshed 10 windows: /, 'and in the end, that it is done');

# only what differs
my $id = $node->safe_psql('postgres', "SELECT id FROM kapture_customers WHERE name = 'At $times[7]'");
$node->safe_psql('postgres', "SELECT kapture_update_customer(jsonb_build_object('kapture_customer_id', $id, 'city', 'Mysore'))");
$node->safe_psql('postgres', "CREATE TABLE before AS SELECT id, xmin::text AS version FROM kapture_customers");
refresh("'2021-03-10', '2021-03-19'");
is($node->safe_psql('postgres', "SELECT c.id, c.city FROM kapture_customers c JOIN before b ON b.id = c.id WHERE c.xmin::text <> b.version"), "$id|Mysore",
	'only the customer that was changed is written');

# vanished customers stay, their successors come
emulator_post($emulator, 'reset', {});
refresh("'2021-03-10', '2021-03-19'");
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_customers"), '30', 'customers that vanish are not deleted');

# contacts go with their customers, whoever deletes those
my $contacts = "SELECT count(*) FROM kapture_contacts";
my $one = $node->safe_psql('postgres', "SELECT min(id) FROM kapture_customers");
is($node->safe_psql('postgres', $contacts), '30', 'each customer has a contact');
$node->safe_psql('postgres', "CREATE ROLE cleaner; GRANT SELECT, DELETE, TRUNCATE ON kapture_customers TO cleaner");
$node->safe_psql('postgres', "SET ROLE cleaner; DELETE FROM kapture_customers WHERE id = $one");
is($node->safe_psql('postgres', "$contacts; $contacts WHERE customer_id = $one"), "29\n0", 'a deleted customer takes its contact along');
my ($code, $stdout, $stderr) = $node->psql('postgres', "GRANT CREATE ON SCHEMA public TO cleaner; SET ROLE cleaner;"
	  . " CREATE TEMP TABLE kapture_customers (server name, id bigint);"
	  . " CREATE TRIGGER t AFTER DELETE ON kapture_customers FOR EACH ROW EXECUTE FUNCTION kapture_forget_contacts();"
	  . " INSERT INTO kapture_customers SELECT 'kapture', generate_series(1, 100000000, 1000000); DELETE FROM kapture_customers");
like($stderr, qr/function "kapture_forget_contacts" must be called as a trigger of "kapture_customers"/, 'not so one of a table of the same name');
$node->safe_psql('postgres', "SET ROLE cleaner; TRUNCATE kapture_customers");
is($node->safe_psql('postgres', $contacts), '0', 'all customers take all contacts along');

# interrupted, and going on
$node->safe_psql('postgres', "TRUNCATE kapture_customers, kapture_contacts, kapture_refresh_run");
seed(@times);
$node->safe_psql('postgres', "ALTER SERVER kapture OPTIONS (SET timeout '1h')");
emulator_faults($emulator, { api => 'pull', action => 'hang', match => '"start_date": "2021-03-14' });
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query('SELECT pg_backend_pid()');
$session->query_until(qr/started/, "\\echo started\nCALL kapture_refresh('2021-03-10', '2021-03-19');\n");
poll_ok($node, "SELECT windows_done = 4 FROM kapture_progress", 'each window is committed by itself');
like($node->safe_psql('postgres', $progress), qr/^running\|4\|10\|13\|26\|2021-03-14 00:00:00$/, 'it can be watched');
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_customers"), '13', 'what it wrote is there');
is($node->safe_psql('postgres', "SELECT backend_xid IS NULL AND backend_xmin IS NULL FROM pg_stat_activity WHERE pid = $pid"), 't',
	'it holds no snapshot while it waits');
like(refresh("'2021-03-10', '2021-03-19'"), qr/ERROR:  server "kapture" is being refreshed by another session/, 'nobody else may refresh the server');
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
poll_ok($node, "SELECT state = 'interrupted' FROM kapture_progress", 'cancelled, it is interrupted');
emulator_post($emulator, 'reset', {});
$n = 0;
emulator_post($emulator, 'seed', customers(@times));
like(refresh("'2021-03-10', '2021-03-20 12:00:00'"), qr/NOTICE:  continuing the refresh of server "kapture" at 2021-03-14 00:00:00/, 'the next call goes on');
is(pulled_days(), '14 15 16 17 18 19 20', 'and asks for the rest only, up to its own end');
like($node->safe_psql('postgres', $progress), qr/^done\|11\|11\|\d+\|\d+\|2021-03-20 12:00:00$/, 'to the end');
is($node->safe_psql('postgres', "SELECT count(DISTINCT name) FROM kapture_customers"), '30', 'everybody is there');

# an error, a crash, starting over
foreach my $how ('error', 'crash')
{
	$node->safe_psql('postgres', "TRUNCATE kapture_customers, kapture_contacts, kapture_refresh_run");
	seed(@times);
	if ($how eq 'error')
	{
		emulator_faults($emulator, { api => 'pull', action => 'status', code => 400, body => '{"message": "No", "status": "failed"}', match => '"start_date": "2021-03-15' });
		like(refresh("'2021-03-10', '2021-03-19'"), qr/ERROR:  the pull request to server "kapture" failed\n.*Kapture says: No/s, 'a window that is refused is an error');
	}
	else
	{
		emulator_faults($emulator, { api => 'pull', action => 'hang', match => '"start_date": "2021-03-15' });
		my $lost = $node->background_psql('postgres', on_error_stop => 0);
		$lost->query_until(qr/started/, "\\echo started\nCALL kapture_refresh('2021-03-10', '2021-03-19');\n");
		poll_ok($node, "SELECT windows_done = 5 FROM kapture_progress", 'under way');
		$node->stop('immediate');
		eval { $lost->quit };
		$node->start;
	}
	like($node->safe_psql('postgres', $progress), qr/^interrupted\|5\|10\|/, "after the $how: five windows are there");
	emulator_post($emulator, 'reset', {});
	$n = 0;
	emulator_post($emulator, 'seed', customers(@times));
	refresh("'2021-03-10', '2021-03-19'");
	is(pulled_days(), '15 16 17 18 19', "after the $how: the rest is asked for");
	is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_customers"), '30', "after the $how: everybody is there");
}
emulator_faults($emulator, { api => 'pull', action => 'status', code => 400, body => '{"message": "No", "status": "failed"}', match => '"start_date": "2021-03-15' });
refresh("'2021-03-10', '2021-03-19'");
seed(@times);
unlike(refresh("'2021-03-10', '2021-03-19', restart => true"), qr/going on/, 'restart');
is(pulled_days(), '10 11 12 13 14 15 16 17 18 19', 'starts over');

# odd customers
seed();
emulator_faults($emulator, { api => 'pull', action => 'status', code => 200, count => 1,
	body => '{"message": [{"name": "no id"}, 7, {"id": 1, "name": "a", "contacts": [{"id": 1}, {"id": 1}, {"phone": "no id"}, {"id": 2, "leadId": 99}]}, {"id": 1, "name": "b"}, {"id": "2", "generationDate": "?", "contacts": [{"id": 2}]}], "status": "success"}' });
$node->safe_psql('postgres', "TRUNCATE kapture_customers, kapture_contacts");
unlike(refresh("'2021-04-10', '2021-04-10'"), qr/ERROR/, 'odd customers do not stop it');
is($node->safe_psql('postgres', "SELECT id, name FROM kapture_customers ORDER BY id"), "1|a\n2|", 'each id comes once');
is($node->safe_psql('postgres', "SELECT id, customer_id FROM kapture_contacts ORDER BY id"), "1|1\n2|1", 'contacts belong to the customer they came with');

# windows that are cut off without a word; 60 are made within a second
my $cutting = start_emulator('--pull-limit-rows', 50);
emulator_post($cutting, 'seed', [ map { { customer_name => "Many $_", phone => sprintf('8%09d', $_), generated => sprintf('2021-05-10 %02d:%02d:00', 8 + $_ / 60, $_ % 60) } } 0 .. 332 ]);
emulator_post($cutting, 'seed', [ map { { customer_name => "At once $_", phone => sprintf('7%09d', $_), generated => '2021-05-11 07:00:00' } } 1 .. 60 ]);
$node->safe_psql('postgres', qq(
CREATE SERVER cutting FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$cutting->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER cutting OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE SCHEMA cut;
IMPORT FOREIGN SCHEMA kapture FROM SERVER cutting INTO cut));
my $cut = refresh("'2021-05-10', '2021-05-12', 'cutting'");
my $warning = qr/WARNING:  kapture_sync: server "cutting" returned exactly 50 customers for a single second, 2021-05-11 0[67]:\d\d:\d\d; there may be more/;
like($cut, $warning, 'a refresh warns of a second that is cut off');
my $all = "SELECT count(*) FILTER (WHERE name LIKE 'Many%'), count(*) FILTER (WHERE name LIKE 'At once%'), count(*) - count(DISTINCT id)";
is($node->safe_psql('postgres', "$all FROM kapture_customers WHERE server = 'cutting'"), '333|50|0', 'of other windows all come, in halves of halves');
like($node->safe_psql('postgres', "SELECT state, windows_done = windows_total, windows_done > 3, done_until FROM kapture_progress WHERE server = 'cutting'"),
	qr/^done\|t\|t\|2021-05-12 23:59:59$/, 'the progress counts the halves');
foreach my $source ("kapture_pull_customers('2021-05-10', '2021-05-12', 'cutting')", "cut.customers WHERE generation_date >= '2021-05-10 00:00+05:30' AND generation_date < '2021-05-13 00:00+05:30'")
{
	my ($rc, $out, $err) = $node->psql('postgres', "$all FROM $source");
	is($out, '333|50|0', "so they do from $source");
	like($err, $warning, 'with a warning');
}

# interrupted in a half, it goes on from there
$node->safe_psql('postgres', "DELETE FROM kapture_contacts WHERE server = 'cutting'; DELETE FROM kapture_customers WHERE server = 'cutting'");
emulator_faults($cutting, { api => 'pull', action => 'status', code => 400, body => '{"message": "No", "status": "failed"}', match => '"start_date": "2021-05-10 12:00:00' });
like(refresh("'2021-05-10', '2021-05-12', 'cutting'"), qr/Kapture says: No/, 'a half is refused');
my ($until, $some) = split /\|/, $node->safe_psql('postgres', "SELECT done_until, (SELECT count(*) FROM kapture_customers WHERE server = 'cutting') FROM kapture_progress WHERE server = 'cutting' AND state = 'interrupted'");
like($until, qr/^2021-05-10 12:00:00$/, 'within the day');
cmp_ok($some, '<', 333, 'some are there');
emulator_faults($cutting);
like(refresh("'2021-05-10', '2021-05-12', 'cutting'"), qr/continuing the refresh of server "cutting" at $until/, 'the next call goes on there');
is($node->safe_psql('postgres', "$all FROM kapture_customers WHERE server = 'cutting'"), '333|50|0', 'and all are there');

# where it cannot run
like(refresh("'2021-03-10', NULL"), qr/ERROR:  argument "end_date" must not be null/, 'bad arguments');
like(refresh("'2021-03-10', '2021-03-09'"), qr/ERROR:  argument "start_date" is after "end_date"/, 'bad range');
like(refresh("'2021-03-10', '2021-03-10', restart => NULL"), qr/ERROR:  argument "restart" must not be null/, 'bad restart');
my ($rc, $out, $err) = $node->psql('postgres', "BEGIN; CALL kapture_refresh('2021-03-10', '2021-03-10')");
like($err, qr/ERROR:  kapture_refresh cannot run inside a transaction block/, 'not in a transaction block');
is($node->safe_psql('postgres', "DO \$\$ BEGIN CALL kapture_refresh('2021-03-10', '2021-03-10'); END \$\$; SELECT state FROM kapture_progress WHERE start_date = '2021-03-10'"),
	'done', 'but in a DO block that may commit');

# rights are the caller's
$node->safe_psql('postgres', qq(
CREATE ROLE loader LOGIN;
CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
my $as_loader = sub {
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE loader; $_[0]", on_error_stop => 0);
	return $out . $err;
};
is($as_loader->('SELECT count(*) FROM kapture_progress'), '0', 'who may not use the server sees no progress');
like($as_loader->("CALL kapture_refresh('2021-03-10', '2021-03-10')"), qr/permission denied for foreign server/, 'and cannot refresh');
$node->safe_psql('postgres', "GRANT USAGE ON FOREIGN SERVER kapture TO loader");
like($as_loader->("CALL kapture_refresh('2021-03-10', '2021-03-10')"), qr/permission denied for table/, 'nor can who may not write the tables');
like($as_loader->("SELECT count(*) FROM kapture_customers"), qr/permission denied for table/, 'nor read them');
$node->safe_psql('postgres', "GRANT SELECT, INSERT, UPDATE ON kapture_customers, kapture_contacts, kapture_refresh_run TO loader");
unlike($as_loader->("CALL kapture_refresh('2021-03-10', '2021-03-10')"), qr/ERROR/, 'with these rights it works');

# nothing of the session's search_path matters
seed(@times);
$node->safe_psql('postgres', "TRUNCATE kapture_customers, kapture_contacts, kapture_refresh_run");
$node->safe_psql('postgres', qq(
CREATE SCHEMA evil;
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION \$\$evil\$\$; END';
CREATE FUNCTION evil.equal(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION \$\$evil\$\$; END';
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.equal);
CREATE TABLE evil.kapture_window (id int)));
($rc, $out, $err) = $node->psql('postgres', "SET search_path = evil, pg_catalog, public; CALL kapture_refresh('2021-03-10', '2021-03-19'); CALL kapture_refresh('2021-03-10', '2021-03-19'); SELECT current_setting('search_path')");
unlike($err, qr/ERROR/, 'names are found wherever the session looks first');
is($out, 'evil, pg_catalog, public', 'and the session looks there still');

# several servers, a schema with an odd name, a dump
emulator_post($emulator, 'reset', {});
$n = 0;
emulator_post($emulator, 'seed', customers(@times));
$node->safe_psql('postgres', "CREATE DATABASE odd");
$node->safe_psql('odd', qq(
CREATE SCHEMA "Odd schema";
CREATE EXTENSION kapture_sync SCHEMA "Odd schema";
CREATE SERVER one FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE SERVER "Other one" FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER one OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE USER MAPPING FOR CURRENT_USER SERVER "Other one" OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CALL "Odd schema".kapture_refresh('2021-03-10', '2021-03-19', 'one');
CALL "Odd schema".kapture_refresh('2021-03-10', '2021-03-12', 'Other one')));
my $count = 'SELECT server, count(*) FROM "Odd schema".kapture_customers JOIN "Odd schema".kapture_contacts k USING (server) WHERE customer_id = kapture_customers.id GROUP BY 1 ORDER BY 1';
is($node->safe_psql('odd', $count), "Other one|9\none|30", 'servers do not mix, whatever the names');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('odd') ], 'a dump');
$node->safe_psql('postgres', "CREATE DATABASE restored");
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('restored') ], 'is restored');
is($node->safe_psql('restored', $count), "Other one|9\none|30", 'with the customers');

$session->quit;
$node->stop;
done_testing();
