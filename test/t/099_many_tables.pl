# More attached tables than a worker that starts reads at once: it reads them in slices, the
# tables of all owners in turn, and sends between two slices what it knows of by then.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $tables = 1500;
my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
$node->append_conf('postgresql.conf', "max_locks_per_transaction = 500\nkapture_sync.enabled = off\n");
$node->restart;

setup_sync($node, $emulator);
sql(q(CREATE TABLE first (id int PRIMARY KEY, customer_name text, phone text);
	CREATE TABLE last (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint UNIQUE);
	SELECT kapture_attach('first')));
sql("DO \$\$ BEGIN FOR i IN $_ .. $_ + 299 LOOP
	EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach(''t%1\$s''); INSERT INTO t%1\$s VALUES (1, ''Of t%1\$s'', 9100000000 + %1\$s)', i);
	END LOOP; END \$\$") foreach map { $_ * 300 + 1 } 0 .. $tables / 300 - 1;

# the row of a table that is read last has a customer, which a row of the first one would be linked to
sql(q(SELECT kapture_add_customer('{"customer_name": "Last", "phone": "9000000001"}')));
my ($id) = map { $_->{kapture_customer_id} } @{ emulator_get($emulator, 'customers') };
sql(qq(INSERT INTO last VALUES (1, 'Last', '9000000001', $id); SELECT kapture_attach('last'); INSERT INTO first VALUES (1, 'First', '9000000001')));

# somebody else has one table
sql(q(CREATE ROLE other; GRANT CREATE ON SCHEMA public TO other; GRANT USAGE ON FOREIGN SERVER kapture TO other;
	CREATE USER MAPPING FOR other SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
	SET ROLE other; CREATE TABLE others (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('others'); INSERT INTO others VALUES (1, 'Other', '9000000002')));

sub all_are_served
{
	my ($when, $rows) = @_;
	poll_ok($node, "SELECT count(*) = 1 FROM others WHERE kapture_customer_id IS NOT NULL", "$when: the other owner's row is sent");
	poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", "$when: and all others are");
	my $ids = join ' UNION ALL ', map { "SELECT kapture_customer_id FROM t$_" } 1 .. $tables;
	is(sql("SELECT count(DISTINCT kapture_customer_id) FROM ($ids) AS t"), $rows, "$when: each row has a customer of its own");
	is(scalar @{ emulator_get($emulator, 'customers') }, $rows + 2, "$when: none is there twice");
	return;
}
$node->adjust_conf('postgresql.conf', 'kapture_sync.enabled', 'on');
$node->restart;
# without what it has of the memory that processes share
sub worker_memory
{
	slurp_file('/proc/' . sql('SELECT kapture_worker_pid()') . '/smaps_rollup') =~ /^Anonymous:\s+(\d+) kB/m or die 'no memory of the worker';
	return $1;
}
all_are_served('after a start', $tables);
memory_ok(worker_memory(), 48 * 1024, 'the worker keeps a few kilobytes of each table, whose rows were all sent');
is(sql("SELECT kapture_customer_id FROM first"), '', 'a row is not linked to the customer of a row in a table that was not read yet');
like(sql("SELECT message FROM kapture_failures WHERE relation = 'first'::regclass"), qr/belongs to the row with key "1" of table public.last already/, 'but is told whose it is');

# what was in flight at a crash is not sent twice, whichever slice its table is in
sql(join ';', map { "INSERT INTO t$_ VALUES (2, 'Second of t$_', 9200000000 + $_)" } 1 .. $tables);
$node->stop('immediate');
$node->start;
all_are_served('after a crash', 2 * $tables);

# an announcement about one table has no other looked at, which would take a transaction each
sub looked
{
	my ($when) = @_;
	poll_ok($node, "SELECT query = 'waiting for changes' AND state = 'idle' FROM pg_stat_activity WHERE pid = kapture_worker_pid()", $when);
	return;
}
sub transactions
{
	$node->restart;    # processes that end count what they have done
	return sql("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()");
}
transactions();
looked('the worker has looked at all tables');
{
	my $started = transactions();
	looked('again');
	my $nothing = transactions() - $started;
	$started += $nothing;
	looked('and once more');
	sql($_) foreach "SELECT kapture_retry('t3')", "SELECT kapture_pause('t3')", "INSERT INTO t3 VALUES (3, 'Third of t3', '9400000005')", "SELECT kapture_resume('t3')",
	  "CREATE TABLE late (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('late'); INSERT INTO late VALUES (1, 'Late', '9400000006')";
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM $_", "the row of $_ is sent") foreach 't3 WHERE id = 3', 'late';
	sql("SELECT kapture_detach('late'); DROP TABLE late; DELETE FROM t3 WHERE id = 3");
	poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", 'what was announced is done');
	my $announced = transactions() - $started;
	note "$nothing transactions without announcements, $announced with some";
	cmp_ok($announced, '<', $nothing + $tables / 2, 'announcements about some tables have no others looked at');
}

# while reading attachments is put off, as the last reading took long, an outdated table is read by itself; what is noted for a follow of it is not left waiting
sql("CREATE TABLE areas (id int PRIMARY KEY, name text); INSERT INTO areas VALUES (1, 'North'); SELECT kapture_follow('areas', 't2', 'target.id = source.id')");
poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status", 'a follow more, and nothing waits');
foreach my $n (5 .. 9)
{
	sql($_) foreach "SELECT kapture_retry('t4')", join ';', "ALTER TABLE t$n ALTER phone SET STATISTICS $n", "SELECT kapture_follow('areas', 't$n', 'target.id = source.id')", "UPDATE areas SET name = 'North $n'";
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_history WHERE relation = 't$n'::regclass AND action = 'none'", "t$n follows from the first change on");
}

# tables that come and go while others are being read
$node->restart;
sql("SELECT kapture_detach('t1'); SELECT kapture_detach('t$tables'); DROP TABLE t700; INSERT INTO t701 VALUES (3, 'Third', '9300000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM t701 WHERE id = 3", 'rows are sent while tables come and go');
poll_ok($node, "SELECT count(*) = $tables FROM kapture_status", 'and no table is left behind');

$node->stop;
done_testing();
