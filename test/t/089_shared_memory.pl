# The memory that all databases share has room for so much.  One tenant who takes all
# there is keeps nobody else from sending, and has nothing forgotten of their rows.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
my $hers = start_emulator();
shorthand($node, $hers, qw(sql requests));
my $key = 'a2FwZGVtbzprYXAxMjM=';

sql(qq(
CREATE EXTENSION kapture_sync;
CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN; CREATE SCHEMA AUTHORIZATION alice;
CREATE SERVER shared FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', rate_limit '10');
CREATE USER MAPPING FOR PUBLIC SERVER shared OPTIONS (auth_key '$key');
GRANT USAGE ON FOREIGN SERVER shared TO alice, mallory;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO alice;
SET ROLE alice;
CREATE SERVER hers FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$hers->{url}');
CREATE USER MAPPING FOR alice SERVER hers OPTIONS (auth_key '$key');
CREATE TABLE alice.shared (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text);
CREATE TABLE alice.hers (LIKE alice.shared INCLUDING ALL);
SELECT kapture_attach('alice.shared', server => 'shared'), kapture_attach('alice.hers', server => 'hers')));
my $n = 0;

# Rows of alice's, one after the other, are sent.
sub served
{
	my ($table, $what) = @_;
	foreach my $time (1 .. 3)
	{
		my $phone = 9600000000 + ++$n;
		sql("SET ROLE alice; INSERT INTO alice.$table (customer_name, phone) VALUES ('Alice', '$phone')");
		poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM alice.$table WHERE phone = '$phone'", "$what: row $time is sent");
	}
	return;
}
served('shared', 'nobody else');

# --- a server's turns: more sessions of one role than can be queued
my $calls = q(DO $$ BEGIN LOOP PERFORM kapture_get_customer('{"phone": "9600000001"}', 'shared'); END LOOP; END $$);
my @sessions = map { IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' user=mallory', '-c', $calls ], '>', '/dev/null', '2>&1') } 1 .. 60;
wait_for(sub { sql("SELECT count(*) = 60 FROM pg_stat_activity WHERE usename = 'mallory' AND state = 'active'") eq 't' }, 'sixty sessions');
served('shared', 'sixty sessions of another role call without a pause');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'mallory' AND state = 'active'"), '60', 'which go on');
$_->kill_kill foreach @sessions;

# --- more servers with a limit than the limits of which can be kept, in another database
sql('CREATE DATABASE other');
sql(qq(CREATE EXTENSION kapture_sync; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO mallory;
SET ROLE mallory; DO \$\$ BEGIN FOR i IN 1 .. 1030 LOOP
  EXECUTE format('CREATE SERVER s%s FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url ''http://127.0.0.1:1'', rate_limit ''0.001'')', i);
  EXECUTE format('CREATE USER MAPPING FOR mallory SERVER s%s OPTIONS (auth_key ''$key'')', i);
END LOOP; END \$\$), 'other');
# a call is refused at once, and its server not to be called for a thousand seconds; the last ones wait in vain
my (undef, undef, $err) = $node->psql('other', join("\n", "SET ROLE mallory; SET statement_timeout = '1s';", map { "SELECT kapture_get_customer('{\"phone\": \"9600000001\"}', 's$_');" } 1 .. 1030), on_error_stop => 0);
like($err, qr/could not connect.*statement timeout/s, 'there is no room for all of them');
served('hers', 'a thousand servers that wait for their next request');
served('shared', 'a thousand servers that wait for their next request');

# --- customers that sessions write, and take back: more than can be handed over to the worker
my $writes = q(DO $$ BEGIN FOR i IN 1 .. %s LOOP PERFORM kapture_update_customer(jsonb_build_object('kapture_customer_id', i - 1 + (SELECT kapture_customer_id FROM mallory.customers), 'city', 'Goa'), 'hostile'); END LOOP; END $$;);
my $hostile = start_emulator();
foreach my $db ('postgres', 'other')
{
	sql(qq(GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO mallory; CREATE SCHEMA mallory AUTHORIZATION mallory; SET ROLE mallory;
CREATE SERVER hostile FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$hostile->{url}'); CREATE USER MAPPING FOR mallory SERVER hostile OPTIONS (auth_key '$key');
CREATE TABLE mallory.customers (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('mallory.customers', server => 'hostile');
INSERT INTO mallory.customers VALUES (1, 'Mallory', '970000000' || length('$db'))), $db);
	poll_ok($node, 'SELECT kapture_customer_id IS NOT NULL FROM mallory.customers', "mallory has a table in database $db", $db);
}

# How many requests does it make to touch a row?
sub touched
{
	my ($table, $id, $emulator, $db) = @_;
	my $count = sub { return scalar grep { $_->{api} eq 'update' && $_->{body} =~ /customer_name/ } @{ emulator_get($emulator, 'log') } };
	my $before = $count->();
	sql("SELECT kapture_touch('$table', '$id')", $db);
	poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = '$table'::regclass", "$table is touched", $db);
	return $count->() - $before;
}
my $id = sql("SELECT min(id) FROM alice.hers");
is(touched('alice.hers', $id, $hers, 'postgres'), 0, 'a row of which all is known is not sent');
is(touched('mallory.customers', 1, $hostile, 'postgres'), 0, 'nor is one of mallory');
sql('SET ROLE mallory; BEGIN; ' . sprintf($writes, 1100) . ' ROLLBACK');
is(touched('alice.hers', $id, $hers, 'postgres'), 0, 'after eleven hundred customers of another server were written, all is known as before');
is(touched('mallory.customers', 1, $hostile, 'postgres'), 1, 'but of the rows of that server');
is(touched('mallory.customers', 1, $hostile, 'postgres'), 0, 'until they are sent');
sql('SET ROLE mallory; BEGIN; SAVEPOINT a; ' . sprintf($writes, 1100) . ' ROLLBACK TO a; ' . sprintf($writes, 1) . ' COMMIT');
is(touched('mallory.customers', 1, $hostile, 'postgres'), 1, 'a savepoint that is rolled back counts, too');
sql('SET ROLE mallory; BEGIN; ' . sprintf($writes, 1100) . ' COMMIT');
is(touched('mallory.customers', 1, $hostile, 'postgres'), 1, 'of what is committed, each customer is noted');

# a million of them would take the worker a quarter of a minute, so it forgets some at a time
sql("INSERT INTO kapture_written SELECT (SELECT oid FROM pg_foreign_server WHERE srvname = 'hostile'), -i FROM generate_series(1, 30000) i; INSERT INTO kapture_written SELECT (SELECT oid FROM pg_foreign_server WHERE srvname = 'hostile'), kapture_customer_id FROM mallory.customers");
is(touched('mallory.customers', 1, $hostile, 'postgres'), 1, 'many customers that were written: of one that is still noted nothing is known, either');
cmp_ok(sql('SELECT count(*) FROM kapture_written'), '>', 1000, 'the others wait');
is(touched('alice.hers', $id, $hers, 'postgres'), 0, 'while all is known of customers of others');
touched('mallory.customers', 1, $hostile, 'postgres') foreach 1 .. 2;
is(sql('SELECT count(*) FROM kapture_written'), 0, 'in the end all are gone');
is(touched('mallory.customers', 1, $hostile, 'postgres'), 0, 'and all is known again');

# no worker takes them while nothing changes in its database
sql('SET ROLE mallory; BEGIN; ' . sprintf($writes, 700) . ' ROLLBACK', 'other') foreach 1 .. 3;
is(touched('alice.hers', $id, $hers, 'postgres'), 0, 'customers that were written in another database leave all known');
is(touched('mallory.customers', 1, $hostile, 'other'), 1, 'but there');
sql('SET ROLE mallory; BEGIN READ ONLY; ' . sprintf($writes, 1) . ' COMMIT', 'postgres');
is(touched('mallory.customers', 1, $hostile, 'postgres'), 1, 'and there is room for others');
is(touched('alice.hers', $id, $hers, 'postgres'), 0, 'all the time');

# --- what is shown of servers, and of errors: mallory has more of both than can be shown
# Tables of an owner, one for each of so many servers, of which the first ones follow a table by a condition that fails.
sub failing
{
	my ($role, $servers, $n, $failing) = @_;
	return qq(SET client_min_messages = error; SET ROLE $role;
CREATE TABLE $role.followed (id int); CREATE TABLE $role.gate (id int);
DO \$\$ BEGIN FOR i IN 1 .. $n LOOP
  EXECUTE format('CREATE TABLE $role.t%s (id int PRIMARY KEY, customer_name text, phone text)', i);
  PERFORM kapture_attach(('$role.t' || i)::regclass, server => format('$servers', i));
  IF i <= $failing THEN PERFORM kapture_follow('$role.followed', ('$role.t' || i)::regclass, 'target.id IN (SELECT id FROM $role.gate)'); END IF;
END LOOP; END \$\$;
DROP TABLE $role.gate; INSERT INTO $role.followed VALUES (1););
}
my $error = "SELECT worker_error LIKE '%alice.gate%' FROM kapture_status WHERE relation = 'alice.t1'::regclass";
sql(qq(CREATE SCHEMA alice AUTHORIZATION alice; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO alice; SET ROLE alice;
CREATE SERVER hers FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$hers->{url}'); CREATE USER MAPPING FOR alice SERVER hers OPTIONS (auth_key '$key')), 'other');
foreach my $db ('postgres', 'other')
{
	sql(failing('alice', 'hers', 1, 1), $db);
	poll_ok($node, $error, "an error with alice's table in database $db is shown", $db);
}
sql(failing('mallory', 's%s', 1030, 300), 'other');
poll_ok($node, "SELECT count(server_state) > 900 FROM kapture_status", "mallory's servers are shown, as far as there is room", 'other');
wait_for(sub { $node->log_contains(qr/LOG:  kapture_sync: too many servers or attached tables in this cluster for kapture_status to report/) }, 'which the log says, when there is no room for more');
poll_ok($node, "SELECT count(worker_error) > 200 FROM kapture_status", 'and errors', 'other');
sub logged { return scalar grep { /LOG:  kapture_sync: an error while .*$_[0]\.gate/ } split /\n/, slurp_file($node->logfile) }
wait_for(sub { logged('mallory') > 700 }, 'all have failed again');
is(sql($error, $_), 't', "the error with alice's table in database $_ is still shown, though it is older than all of mallory's") foreach 'postgres', 'other';
is(logged('alice'), 2, 'all the time, as each is logged once');
sql(q(SET client_min_messages = error; SET ROLE alice; CREATE TABLE alice.gates (id int); CREATE TABLE alice.t2 (LIKE alice.shared INCLUDING ALL);
SELECT kapture_attach('alice.t2', server => 'hers'), kapture_follow('alice.followed', 'alice.t2', 'target.id IN (SELECT id FROM alice.gates)');
DROP TABLE alice.gates; INSERT INTO alice.followed VALUES (2)));
poll_ok($node, "SELECT count(*) = 2 FROM kapture_status WHERE worker_error LIKE '%alice.gate%'", 'another one of hers is shown beside it');

# in mallory's database, the worker has just found no room for the last ones of her servers
foreach my $db ('postgres', 'other')
{
	sql(qq(SET client_min_messages = error; SET ROLE alice;
CREATE SERVER $_ FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$hers->{url}'); CREATE USER MAPPING FOR alice SERVER $_ OPTIONS (auth_key '$key');
CREATE TABLE alice.$_ (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('alice.$_', server => '$_')), $db) foreach 'late', 'later';
	poll_ok($node, "SELECT count(*) = 2 FROM kapture_status WHERE server IN ('late', 'later') AND server_state = 'ok'", "but alice's servers are shown, which come last, in database $db", $db);
}
is(sql("SELECT count(server_state) FROM kapture_status"), sql("SELECT count(*) FROM kapture_status"), 'as all other servers');
sql("SET ROLE alice; SELECT kapture_unfollow('alice.followed', 'alice.t2')");
sql("SET ROLE alice; SELECT kapture_unfollow('alice.followed', 'alice.t1')");
poll_ok($node, "SELECT bool_and(worker_error IS NULL) FROM kapture_status", 'an error is gone with its follow');

$node->stop;
done_testing();
