# Copies send nothing; a database restored to an earlier time looks before it
# adds; rows that were there before are sent once.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main', has_archiving => 1, allows_streaming => 1);
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 10');
$node->restart;
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator);
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";

sub stats { return emulator_get($emulator, 'stats') }
sub insert
{
	my ($from, $to, $db) = @_;
	return sql("INSERT INTO customers (customer_name, phone) SELECT 'Row ' || i, (9700000000 + i)::text FROM generate_series($from, $to) i", $db);
}

# --- a template copy
insert(1, 10);
poll_ok($node, "SELECT count(kapture_customer_id) = 10 FROM customers", 'ten rows are sent');
sql("SELECT kapture_pause('customers')");
insert(11, 20);
is(sql("SELECT api FROM kapture_preview('customers', '11')"), 'add', 'the original would add what waits');
sql("CREATE DATABASE copied TEMPLATE postgres");
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(kapture_customer_id) = 20 FROM customers", 'the original sends what waits');
poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'the copy has a worker', 'copied');
sql("SELECT kapture_resume('customers')", 'copied');
insert(21, 22, 'copied');
poll_ok($node, "SELECT state = 'copy' AND pending = 12 FROM kapture_status", 'which says that it is a copy', 'copied');
$node->wait_for_log(qr/database "copied" is a copy; nothing is sent/);
pass('so does the log');
is(stats()->{adds}, 20, 'and sends nothing');
is(sql("SELECT string_agg(api || ' ' || (body ~ '\"phone\": \"97000000(11|21)\"'), ', ') FROM unnest(ARRAY['11', '21']) AS k, kapture_preview('customers', k)", 'copied'),
	'get true, get true', 'the copy would search before it adds, by what it would add');
# somebody decides that the copy is the original now
sql("SELECT kapture_resume()", 'copied');
poll_ok($node, "SELECT count(kapture_customer_id) = 22 AND (SELECT state FROM kapture_status) = 'running' FROM customers", 'kapture_resume() makes it send', 'copied');
is(stats()->{adds}, 22, 'what the original had sent is not added again');
is(stats()->{duplicate_refusals}, 0, 'nor offered again');
is(sql("SELECT sum(requests) FROM kapture_stat_requests WHERE api = 'add'", 'copied'), '2', 'requests are counted where they were made, though both servers have one oid');
is(sql("SELECT string_agg(kapture_customer_id::text, ' ' ORDER BY id) FROM customers WHERE id <= 20"),
	sql("SELECT string_agg(kapture_customer_id::text, ' ' ORDER BY id) FROM customers WHERE id <= 20", 'copied'), 'both have the same ids');
$node->safe_psql('postgres', "DROP DATABASE copied");

# --- a dump, restored beside
sql("SELECT kapture_pause('customers')");
insert(31, 35);
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, '-d', $node->connstr('postgres') ], 'dump');
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'the original goes on');
my $adds = stats()->{adds};
sql("CREATE DATABASE restored");
$node->command_ok([ 'pg_restore', '-d', $node->connstr('restored'), $dump ], 'restore');
poll_ok($node, "SELECT state = 'copy' AND pending = 5 FROM kapture_status", 'a restored dump is a copy, with all that waits', 'restored');
sql("SELECT kapture_resume('customers')", 'restored');
sql("SELECT kapture_resume()", 'restored');
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'until it is resumed', 'restored');
is(stats()->{adds}, $adds, 'and adds nobody twice');
is(stats()->{duplicate_refusals}, 0, 'nor offers it');
insert(41, 41, 'restored');
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'its triggers capture', 'restored');
sql("DROP DATABASE restored");

# --- back to an earlier time, at which somebody had prepared to retry or to discard rows
$adds = stats()->{adds};
emulator_faults($emulator, map { { match => $_, action => 'status', code => 400, body => '{"message": "No", "status": "failed"}' } } 'Row 49', 'Row 50');
insert(49, 50);
poll_ok($node, "SELECT count(*) = 2 FROM kapture_failures WHERE state = 'parked'", 'two rows are refused');
my ($retried, $kept) = split /\n/, sql("SELECT id FROM customers WHERE kapture_customer_id IS NULL ORDER BY phone");
emulator_faults($emulator);
sql("SELECT kapture_pause('customers')");
insert(51, 60);
sql("BEGIN; SELECT kapture_retry('customers', '$retried'); PREPARE TRANSACTION 'retry'");
sql("BEGIN; SELECT kapture_discard('customers', '$kept'); PREPARE TRANSACTION 'discard'");
$node->backup('backup');
my $end_prepared = "COMMIT PREPARED 'retry'; ROLLBACK PREPARED 'discard'; UPDATE customers SET customer_name = 'Kept' WHERE id = $kept";
sql($_) foreach split /; /, $end_prepared;
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'what waited is sent');
is(stats()->{adds} - $adds, 12, 'all twelve');
my $refusals = stats()->{duplicate_refusals};
$node->stop('immediate');
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($node, 'backup', has_restoring => 1, standby => 0);
$restored->append_conf('postgresql.conf', "recovery_target = 'immediate'\nrecovery_target_action = 'promote'\n");
$restored->start;
$restored->poll_query_until('postgres', "SELECT NOT pg_is_in_recovery()");
is($restored->safe_psql('postgres', "SELECT count(*) FROM customers WHERE kapture_customer_id IS NULL"), '12', 'a restore to an earlier time has them as waiting');
poll_ok($restored, "SELECT count(*) = 10 AND bool_and(api = 'get') FROM customers AS c, kapture_preview('customers', c.id::text) WHERE kapture_customer_id IS NULL AND id NOT IN ($retried, $kept)", 'each is shown to be searched for first');
$restored->safe_psql('postgres', "SELECT kapture_resume('customers')");
poll_ok($restored, "SELECT count(*) = count(kapture_customer_id) + 2 FROM customers", 'they get their ids, and do not wait for what is prepared');
# here the row gets another phone as well: the customer is known by the former one
$restored->safe_psql('postgres', $_) foreach split /; /, $end_prepared =~ s/(?<='Kept')/, phone = '9700000099'/r;
poll_ok($restored, "SELECT count(*) = count(kapture_customer_id) FROM customers", 'and so do the others when that has ended');
poll_ok($restored, $idle, 'and are done');
is(stats()->{adds} - $adds, 12, 'without being added again');
is(stats()->{duplicate_refusals}, $refusals, 'or offered');
$restored->stop;
$node->start;

# --- rows that were there before
sql(q(CREATE TABLE old (a int, b text, customer_name text, phone text, PRIMARY KEY (b, a));
INSERT INTO old SELECT i, 'key ' || i % 7, 'Old ' || i, (9800000000 + i)::text FROM generate_series(1, 5000) i;
SELECT kapture_attach('old')));
poll_ok($node, "SELECT pending + in_flight = 0 FROM kapture_status WHERE relation = 'old'::regclass", 'attaching sends nothing');
is(sql("SELECT count(kapture_customer_id) FROM old"), '0', 'of what was there');
$adds = stats()->{adds};
# interrupted: a step, then the rest
sql("SELECT kapture_backfill_slice('old', 100)");
poll_ok($node, "SELECT count(kapture_customer_id) = 100 FROM old", 'a step of the backfill');
my $progress = "SELECT activity, relation, server, state, done, total, time_left > '0', customers_per_second > 0, finished_at IS NULL FROM kapture_progress";
is(sql($progress), 'backfill|old|kapture|interrupted|100|5000|t|t|t', 'kapture_progress knows how far it came');
is(sql("CREATE ROLE stranger; SET ROLE stranger; SELECT count(*) FROM kapture_progress"), '0', 'others do not see it');
my $stepping = $node->background_psql('postgres');
$stepping->query_safe("BEGIN; SELECT kapture_backfill_slice('old', 100)");
is(sql($progress) =~ s/\|[tf]\|[tf]\|t$//r, 'backfill|old|kapture|running|100|5000', 'while a slice is under way, it is running');
$stepping->query_safe("ROLLBACK");
# somebody's lock makes it last long enough to say how far it is
$stepping->query_safe("BEGIN; LOCK TABLE old");
my ($rc, $out, $err);
my $calling = IPC::Run::start([ 'psql', '-X', '-d', $node->connstr('postgres'), '-c', "CALL kapture_backfill('old', 700)" ], '<', \undef, '>', \$out, '2>', \$err);
poll_ok($node, "SELECT clock_timestamp() - query_start > '1 second' AND wait_event_type = 'Lock' FROM pg_stat_activity WHERE query LIKE 'CALL%'", 'a backfill waits for a lock');
$stepping->query_safe("COMMIT");
$calling->finish;
like($err, qr/NOTICE:  800 of 5000 rows of "old" are on their way, \d+ a second, \d\d:\d\d:\d\d left/, 'it says how far it is');
like($err, qr/4900 rows of "old" are on their way, that is all/, 'and goes on where it stopped');
is(sql($progress), 'backfill|old|kapture|done|5000|5000||t|f', 'so does kapture_progress');
$stepping->quit;
poll_ok($node, "SELECT count(*) = count(kapture_customer_id) FROM old", 'all rows are sent');
is(stats()->{adds} - $adds, 5000, 'each once');
($rc, $out, $err) = $node->psql('postgres', "CALL kapture_backfill('old')");
like($err, qr/\b0 rows of "old"/, 'a second one finds nothing to do');
($rc, $out, $err) = $node->psql('postgres', "CALL kapture_backfill('old', 0)");
like($err, qr/argument "slice" must be between 1 and 100000/, 'slices have a size');

# --- what is captured, and what is not
sql("TRUNCATE old");
is(sql("SELECT count(*) FROM kapture_history WHERE action = 'truncate'"), '1', 'TRUNCATE is recorded');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_outbox", 'and what it has noted is taken up');
sql("SET session_replication_role = replica; INSERT INTO old VALUES (1, 'r', 'Replica', '9810000001')");
sql("SET kapture_sync.capture = off; INSERT INTO old VALUES (2, 'r', 'Not captured', '9810000002')");
is(sql("SELECT count(*) FROM kapture_outbox"), '0', 'neither replicas nor sessions that ask for it capture');
sql("SELECT kapture_detach('old'); SELECT kapture_attach('old', replicated => true)");
sql("SET session_replication_role = replica; INSERT INTO old VALUES (3, 'r', 'Replica', '9810000003')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM old WHERE a = 3", 'replicated => true captures on a replica');

# --- pause and discard while the worker runs
emulator_faults($emulator, { match => 'Stubborn', action => 'status', code => 400, body => '{"message": "No", "status": "failed"}' });
sql("INSERT INTO old VALUES (4, 'r', 'Stubborn', '9810000004'), (5, 'r', 'Stubborn', '9810000005')");
poll_ok($node, "SELECT count(*) = 2 FROM kapture_failures WHERE relation = 'old'::regclass AND state = 'parked'", 'two are parked');
is(sql("SELECT kapture_discard('old', '{r,4}')"), '1', 'one is discarded');
is(sql("SELECT row_key FROM kapture_failures WHERE relation = 'old'::regclass"), '{r,5}', 'the other stays');
is(sql("SELECT kapture_retry('old', '{r,5}')"), '1', 'and is retried');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'old'::regclass AND state = 'parked' AND attempts = 2", 'in vain');
emulator_faults($emulator, { action => 'delay', ms => 100 });
sql("INSERT INTO old SELECT i, 'p', 'Paused ' || i, (9820000000 + i)::text FROM generate_series(1, 500) i");
poll_ok($node, "SELECT in_flight > 0 FROM kapture_status WHERE relation = 'old'::regclass", 'under way');
sql("SELECT kapture_pause('old')");
poll_ok($node, "SELECT in_flight = 0 AND state = 'paused' FROM kapture_status WHERE relation = 'old'::regclass", 'paused: what is under way finishes');
isnt(sql("SELECT count(*) FROM old WHERE b = 'p' AND kapture_customer_id IS NULL"), '0', 'the rest waits');
emulator_faults($emulator);
sql("SELECT kapture_resume('old')");
poll_ok($node, "SELECT count(kapture_customer_id) = 500 FROM old WHERE b = 'p'", 'and goes on');

$node->stop;
done_testing();
