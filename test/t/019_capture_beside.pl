# What is captured does not depend on what other sessions do to the table or the
# row meanwhile: not under plans that are kept, nor in rows that were waited for.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $node = new_node('capture');
shorthand($node, undef, qw(sql));
$node->safe_psql('postgres', q(
CREATE EXTENSION kapture_sync;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'k');
CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text, city text, note text, kapture_customer_id bigint);
INSERT INTO customers VALUES (1, 'One', '9000000001', 'Pune', 'n');
CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.customer_name := NEW.note; RETURN NEW; END $$;
CREATE FUNCTION rename_back() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.customer_name := OLD.note; RETURN NEW; END $$));

sub attach
{
	my ($columns) = @_;
	sql("BEGIN; SELECT kapture_attach('customers', '$columns'); SELECT kapture_pause('customers'); COMMIT");
	return;
}

# the mapped columns of row 1 whose changes have been captured since the last look
sub captured
{
	return sql(q(
WITH taken AS (DELETE FROM kapture_outbox RETURNING *)
SELECT string_agg(c.column_name, ' ' ORDER BY t.xact, t.seq, c.bit)
FROM taken AS t JOIN kapture_column AS c ON c.attachment_id = t.attachment_id AND t.changed & (1::bigint << c.bit) <> 0
WHERE '1' = ANY (t.row_key || t.more_keys)));
}

my $narrow = '{"customer_name": "customer_name", "phone": "phone"}';
my $wide = '{"customer_name": "customer_name", "phone": "phone", "city": "city", "state": "note"}';
attach($narrow);

# --- a plan that is kept, and another session's DDL between its executions
my $session = $node->background_psql('postgres');
$session->query_safe(q(SET plan_cache_mode = force_generic_plan;
PREPARE set_note AS UPDATE customers SET note = $1 WHERE id = 1;
PREPARE set_city AS UPDATE customers SET city = $1 WHERE id = 1;
PREPARE set_phone AS UPDATE customers SET phone = $1 WHERE id = 1));

my $n = 0;
sub execute
{
	my ($column) = @_;
	$n++;
	# the first may find that something has changed; the second goes by what is known
	$session->query_safe("EXECUTE set_$column('${n}a')");
	$session->query_safe("EXECUTE set_$column('${n}b')");
	return captured();
}

is(execute('phone'), 'phone phone', 'a mapped column is captured');
is(execute('note'), '', 'others are not');
my @ddl = (
	[ 'CREATE TRIGGER rename BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION rename()', 'customer_name customer_name', 'a trigger that changes a mapped column' ],
	[ 'ALTER TABLE customers DISABLE TRIGGER rename', '', 'is disabled' ],
	[ 'ALTER TABLE customers ENABLE ALWAYS TRIGGER rename', 'customer_name customer_name', 'enabled' ],
	[ 'CREATE OR REPLACE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.phone := NEW.note; RETURN NEW; END $$', 'phone phone', 'does something else' ],
	[ 'DROP TRIGGER rename ON customers', '', 'is dropped' ],
	[ "BEGIN; SELECT kapture_detach('customers'); SELECT kapture_attach('customers', '$wide'); SELECT kapture_pause('customers'); COMMIT", 'note note', 'the column is mapped' ],
	[ 'ALTER TABLE customers RENAME note TO remark; ALTER TABLE customers ADD note text', '', 'the column is renamed, and another one has its name' ],
	[ 'ALTER TABLE customers DROP note; ALTER TABLE customers RENAME remark TO note', 'note note', 'there is only one again' ],
	[ "BEGIN; SELECT kapture_detach('customers'); SELECT kapture_attach('customers', '$narrow'); SELECT kapture_pause('customers'); COMMIT", '', 'it is no more mapped' ],
	[ 'ALTER TABLE customers DROP CONSTRAINT customers_pkey; ALTER TABLE customers ADD PRIMARY KEY (note, id)', undef, 'it becomes part of the key' ],
	[ 'ALTER TABLE customers DROP CONSTRAINT customers_pkey; ALTER TABLE customers ADD PRIMARY KEY (id)', '', 'and is not any more' ]);
foreach my $case (@ddl)
{
	my ($statement, $expected, $name) = @$case;
	sql($statement);
	captured();
	if (defined $expected)
	{
		is(execute('note'), $expected, $name);
	}
	else
	{
		execute('note');
		$session->query_safe("EXECUTE set_note('key')");
		is(sql("SELECT op, row_key, old_key FROM kapture_outbox"), "k|{key,1}|{${n}b,1}", $name);
		captured();
	}
}

# --- rows that are waited for: what is changed is the row as the other one left it
my $other = $node->background_psql('postgres');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
sub beside
{
	my ($first, $second, $end) = @_;
	$n++;
	$other->query_safe("BEGIN; $first");
	$session->query_until(qr/waits/, "\\echo waits\n$second;\n");
	poll_ok($node, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $pid", "$second waits");
	$other->query_safe($end || 'COMMIT');
	$session->query_safe('SELECT 1');
	return captured();
}

is(beside("UPDATE customers SET phone = 'theirs' WHERE id = 1", "EXECUTE set_note('ours')"), 'phone', 'the other one has captured what it changed, once');
is(sql("SELECT phone, note FROM customers"), 'theirs|ours', 'both are there');
is(beside("UPDATE customers SET note = 'theirs' WHERE id = 1", "EXECUTE set_phone('ours')"), 'phone', 'so have we');
is(beside("UPDATE customers SET phone = 'again' WHERE id = 1", "UPDATE customers SET note = customer_name || phone WHERE id = 1 AND phone = 'ours'"), 'phone', 'a row that is no more ours to change');
is(beside("UPDATE customers SET phone = 'rolled back' WHERE id = 1", "EXECUTE set_note('ours')", 'ROLLBACK'), '', 'a change that is rolled back');
is(beside("UPDATE customers SET note = 'theirs' WHERE id = 1", "UPDATE customers c SET note = v.n FROM (SELECT note || '!' AS n FROM customers) v WHERE c.id = 1 RETURNING c.note"), '', 'nothing that is mapped, from a join');
is(beside("UPDATE customers SET phone = 'theirs' WHERE id = 1", "UPDATE customers SET note = phone, phone = note WHERE id = 1"), 'phone phone', 'both columns');
is(beside("LOCK TABLE customers; CREATE TRIGGER rename BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION rename_back()", "EXECUTE set_note('ours')"), 'customer_name', 'a trigger that is created while the table is waited for');
is(beside("DROP TRIGGER rename ON customers", "EXECUTE set_note('last')"), '', 'or dropped');
$session->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM kapture_history");
sql("BEGIN; SELECT kapture_detach('customers'); SELECT kapture_attach('customers', '$wide'); SELECT kapture_pause('customers'); COMMIT");
$session->query_safe("EXECUTE set_phone('old snapshot'); EXECUTE set_note('old snapshot'); COMMIT");
is(captured(), 'phone note', 'an old snapshot, from before the column was mapped');
is(execute('note'), 'note note', 'hides nothing, nor what comes after it');

# --- indexes of the outbox that come and go: what a session knows of them is what they are
sql('CREATE EXTENSION amcheck');
sql(q(CREATE FUNCTION shortened(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog AS 'DECLARE r text; BEGIN SELECT left(t, 2) INTO r; RETURN r; END'));
my %indexes = (
	'one of hashes' => 'CREATE INDEX hashes ON kapture_outbox USING hash (row_key)',
	'a unique one' => 'DROP INDEX hashes; CREATE UNIQUE INDEX single ON kapture_outbox (xact, seq)',
	'one that excludes' => 'DROP INDEX single; ALTER TABLE kapture_outbox ADD CONSTRAINT apart EXCLUDE (xact WITH =, seq WITH =)',
	'another index' => 'ALTER TABLE kapture_outbox DROP CONSTRAINT apart; CREATE INDEX extra ON kapture_outbox (captured_at)',
	'one of an expression' => 'CREATE INDEX computed ON kapture_outbox ((length(row_key)))',
	'one of a function' => 'CREATE INDEX called ON kapture_outbox (shortened(row_key))',
	'a partial one' => q(CREATE INDEX partial ON kapture_outbox (seq) WHERE op = 'u'),
	'one built beside' => 'CREATE INDEX CONCURRENTLY beside ON kapture_outbox (changed)',
	'those that are dropped' => 'DROP INDEX extra, computed, called, partial, beside',
	'those that are built anew' => 'REINDEX TABLE CONCURRENTLY kapture_outbox');
foreach my $name ('one of hashes', 'a unique one', 'one that excludes', 'another index', 'one of an expression', 'one of a function', 'a partial one', 'one built beside', 'those that are dropped', 'those that are built anew')
{
	$n++;
	$session->query_safe("EXECUTE set_phone('${n}a')");
	sql($indexes{$name});
	$session->query_safe("EXECUTE set_phone('${n}b'); EXECUTE set_phone('${n}c')");
	in_indexes_ok($name);
	is(captured(), 'phone phone phone', 'and is captured');
}

# those of hashes cannot be checked like this
sub in_indexes_ok
{
	my ($name) = @_;
	my $of = "FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam AND amname = 'btree'";
	return is(sql("SELECT count(*) $of, bt_index_check(indexrelid, true) WHERE indrelid = 'kapture_outbox'::regclass AND indisready"),
		sql("SELECT count(*) $of WHERE indrelid = 'kapture_outbox'::regclass AND indisready"), "every entry is in its indexes: $name");
}

# one whose building waits for a transaction, and is given up: nothing can be entered into it yet
$other->query_safe('BEGIN; LOCK TABLE kapture_outbox IN ROW EXCLUSIVE MODE');
my $builder = $node->background_psql('postgres', on_error_stop => 0);
my $builder_pid = $builder->query_safe('SELECT pg_backend_pid()');
$builder->query_until(qr/builds/, "\\echo builds\nCREATE INDEX CONCURRENTLY waiting ON kapture_outbox (changed);\n");
poll_ok($node, "SELECT NOT indisready FROM pg_index WHERE indexrelid = to_regclass('waiting')", 'an index is not ready');
poll_ok($node, "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $builder_pid", 'while it waits');
$session->query_safe("EXECUTE set_phone('waiting')");
sql("UPDATE customers SET phone = 'waiting, too' WHERE id = 1");
sql("SELECT pg_cancel_backend($builder_pid)");
poll_ok($node, "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $builder_pid", 'it is given up');
$other->query_safe('COMMIT');
$builder->quit;
$session->query_safe("EXECUTE set_phone('given up')");
in_indexes_ok('those that are ready');
is(captured(), 'phone phone phone', 'changes are captured all the while');
sql('DROP INDEX waiting');

# --- indexes that are built beside transactions that have written entries: these are waited for, as nothing shows the entries before
sql('ALTER SYSTEM SET max_prepared_transactions = 2');
$session->quit;
$other->quit;
$node->restart;
sql("INSERT INTO customers SELECT i, 'Many', '9', 'Pune', 'n' FROM generate_series(2, 300) i; DELETE FROM kapture_outbox");
my %writers = (
	'a prepared transaction' => sub { sql("BEGIN; UPDATE customers SET phone = 'prepared' WHERE id = 1; PREPARE TRANSACTION 'p'"); return sub { sql("COMMIT PREPARED 'p'") } },
	'one with more changes than are kept in memory' => sub {
		my $long = $node->background_psql('postgres');
		$long->query_safe(q(BEGIN; DO $$ BEGIN FOR i IN 1 .. 300 LOOP
IF i % 2 = 0 THEN UPDATE customers SET customer_name = 'long' WHERE id = i; ELSE UPDATE customers SET phone = 'long' WHERE id = i; END IF; END LOOP; END $$));
		return sub { $long->query_safe('COMMIT'); $long->quit };
	});
foreach my $name (sort keys %writers)
{
	my $commit = $writers{$name}->();
	$builder = $node->background_psql('postgres');
	$builder_pid = $builder->query_safe('SELECT pg_backend_pid()');
	$builder->query_until(qr/builds/, "\\echo builds\nREINDEX TABLE CONCURRENTLY kapture_outbox;\n");
	my $has_ended = "state = 'idle' AND query LIKE 'REINDEX%'";
	poll_ok($node, "SELECT $has_ended OR wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $builder_pid", "indexes are built beside $name");
	$commit->();
	poll_ok($node, "SELECT $has_ended FROM pg_stat_activity WHERE pid = $builder_pid", 'and are there in the end');
	$builder->quit;
	in_indexes_ok($name);
	is(captured(), 'phone', 'and is captured');
}
$node->stop;
done_testing();
