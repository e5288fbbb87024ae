# Partitions whose rows come and go, by commands and transactions of all kinds: which rows count as
# deleted, and what is no business of the extension's.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $second = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql said idle_ok));
setup_sync($node, $emulator);

# a table with two attachments, whose rows are noted for both
sql(qq(
CREATE SERVER second FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$second->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER second OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE customers (id bigint, part int, customer_name text, phone text, city text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE one PARTITION OF customers FOR VALUES IN (1);
CREATE TABLE two PARTITION OF customers FOR VALUES IN (2) PARTITION BY RANGE (id);
CREATE TABLE two_low PARTITION OF two FOR VALUES FROM (0) TO (1000);
CREATE TABLE two_high PARTITION OF two FOR VALUES FROM (1000) TO (2000);
CREATE TABLE three PARTITION OF customers FOR VALUES IN (3);
SELECT kapture_attach('customers');
SELECT kapture_attach('customers', server => 'second', name => 'second', id_column => NULL)));

my $phone = 9_700_000_000;
sub insert { my ($id, $part) = @_; $phone++; sql("INSERT INTO customers VALUES ($id, $part, 'Row $id', '$phone')"); return }

# The rows that Kapture has, but the table has not, each with the server that has it.
sub orphans { return sql("SELECT string_agg(o.row_key || ' ' || o.server, ', ' ORDER BY o.row_key, o.server) FROM kapture_orphans AS o") }
sub forget { sql("SELECT count(kapture_acknowledge(server, kapture_customer_id)) FROM kapture_orphans"); return }

# --- commands that empty partitions
insert($_, 1) foreach 1 .. 2;
insert($_, 2) foreach 3, 1003;
insert(4, 3);
idle_ok('rows are with Kapture');
sql('TRUNCATE ONLY two_low');
idle_ok('a partition is truncated, alone');
is(orphans(), '{3,2} kapture, {3,2} second', 'its row is gone, for both attachments');
forget();
like(said('TRUNCATE ONLY two'), qr/cannot truncate only a partitioned table/, 'one with partitions cannot be');
sql('TRUNCATE two, two_high');
idle_ok('with its partitions it can');
is(orphans(), '{1003,2} kapture, {1003,2} second', 'and each row is gone once');
forget();
sql('SET kapture_sync.capture = off; TRUNCATE three');
sql('SET kapture_sync.capture = off; DROP TABLE three');
sql('SET kapture_sync.capture = off; CREATE TABLE three PARTITION OF customers FOR VALUES IN (3)');
sql('CREATE TABLE other (LIKE customers INCLUDING ALL); SET kapture_sync.capture = off; ALTER TABLE customers DETACH PARTITION three; DROP TABLE three; ALTER TABLE customers ATTACH PARTITION other FOR VALUES IN (3)');
idle_ok('nothing of this is captured by who wants that');
is(orphans(), '', 'and nobody counts as deleted');
sql('CREATE TABLE IF NOT EXISTS one PARTITION OF customers FOR VALUES IN (1)');
like(said('CREATE TABLE one PARTITION OF customers FOR VALUES IN (9)'), qr/already exists/, 'a partition that exists already');
like(said('TRUNCATE one, nowhere'), qr/does not exist/, 'one that does not exist');
idle_ok('changes nothing');
is(orphans(), '', 'in Kapture');

# --- rows that are moved, and do not arrive, in transactions with savepoints
sql(q(
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN CASE WHEN NEW.city = ''nowhere'' THEN NULL ELSE NEW END; END';
CREATE TRIGGER swallow BEFORE INSERT ON other FOR EACH ROW EXECUTE FUNCTION swallow()));
sub moves_ok
{
	my ($name, $statements, $expected) = @_;
	sql('DELETE FROM customers');
	idle_ok("before: $name");
	forget();
	insert($_, 1) foreach 11 .. 13;
	idle_ok("rows: $name");
	sql("BEGIN; $statements; COMMIT");
	idle_ok($name);
	is(orphans(), join(', ', map { my $id = $_; map { "{$id,1} $_" } qw(kapture second) } @{$expected}), 'those that are gone are orphans');
	return;
}
my $lost = sub { "UPDATE customers SET part = 3, city = 'nowhere' WHERE id = $_[0]" };
moves_ok('a row is lost on its way', $lost->(11), [11]);
moves_ok('and another command follows', $lost->(11) . "; UPDATE customers SET city = 'Pune' WHERE id = 12", [11]);
moves_ok('several rows of one command', "UPDATE customers SET part = 3, city = 'nowhere'", [ 11, 12, 13 ]);
moves_ok('before a savepoint that is rolled back to', $lost->(11) . '; SAVEPOINT s; SELECT 1; ROLLBACK TO s', [11]);
moves_ok('before a savepoint that is released', $lost->(11) . '; SAVEPOINT s; SELECT 1; RELEASE s', [11]);
moves_ok('within one that is released', 'SAVEPOINT s; ' . $lost->(11) . '; RELEASE s', [11]);
moves_ok('within one that is rolled back to', 'SAVEPOINT s; ' . $lost->(11) . '; ROLLBACK TO s', []);
moves_ok('in both', $lost->(11) . '; SAVEPOINT s; ' . $lost->(12) . '; SAVEPOINT t; ' . $lost->(13) . '; ROLLBACK TO t; RELEASE s', [ 11, 12 ]);
moves_ok('before a row that is lost within one that is rolled back to', $lost->(11) . '; SAVEPOINT s; ' . $lost->(12) . '; ROLLBACK TO s', [11]);
moves_ok('in several that are released', join('; ', map { "SAVEPOINT s$_; " . $lost->($_) . "; RELEASE s$_" } 11 .. 13), [ 11, 12, 13 ]);
moves_ok('rows that arrive', 'UPDATE customers SET part = 2 WHERE id = 11; SAVEPOINT s; UPDATE customers SET part = 2 WHERE id = 12; RELEASE s', []);
moves_ok('some that arrive, some that do not', "UPDATE customers SET part = 3, city = CASE id WHEN 12 THEN 'nowhere' END", [12]);

# --- changes of many savepoints, of two tables
sql(q(
CREATE TABLE people (id bigint PRIMARY KEY DEFERRABLE, customer_name text, phone text);
SELECT kapture_attach('people')));
sql("INSERT INTO people SELECT n, 'P' || n, 9710000000 + n FROM generate_series(1, 5) AS n");
idle_ok('people are with Kapture');
sql(q(
BEGIN;
UPDATE people SET id = id + 100 WHERE id = 1;
SAVEPOINT a;
UPDATE people SET id = id + 100 WHERE id = 2;
SAVEPOINT b;
UPDATE customers SET id = id + 100 WHERE id = 11;
ROLLBACK TO b;
UPDATE people SET phone = '9719999999' WHERE id = 102;
RELEASE a;
DELETE FROM people WHERE id = 3;
COMMIT));
# more than is kept in memory, in entries that are merged, written for a parent, and rolled back
sql(q(
DO $$
BEGIN
	FOR i IN 1 .. 200 LOOP
		BEGIN
			UPDATE people SET customer_name = 'Q' || i WHERE id = 4 + i % 2;
			UPDATE customers SET city = 'C' || i WHERE id = 12;
			IF i % 5 = 0 THEN
				RAISE EXCEPTION 'rolled back';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$));
idle_ok('they are with Kapture still');
is(sql("SELECT string_agg(id || ' ' || (kapture_id('people', id::text) IS NOT NULL), ', ' ORDER BY id) FROM people"), '4 true, 5 true, 101 true, 102 true', 'each row has its customer');
is(sql("SELECT count(*) FROM kapture_orphans WHERE relation = 'people'::regclass AND row_key = '3'"), 1, 'but for the one that was deleted');
is(sql("SELECT customer_name FROM people WHERE id = 4"), 'Q198', 'the last changes that count');
my %names = map { $_->{phone} => $_->{customer_name} } @{ emulator_get($emulator, 'customers') };
is($names{9710000004}, 'Q198', 'are those that Kapture has');
is($names{9719999999}, 'P2', 'of each row');

# --- a database that the extension is not in
sql('CREATE DATABASE without');
my ($rc, $out, $err) = $node->psql('without', q(
CREATE TABLE t (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);
CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20);
INSERT INTO t VALUES (1), (11);
TRUNCATE t1;
ALTER TABLE t RENAME id TO number;
ALTER TABLE t DETACH PARTITION t1;
ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (10);
DROP TABLE t2;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER nothing;
ALTER SERVER elsewhere RENAME TO nowhere;
DROP SERVER nowhere;
CREATE VIEW v AS SELECT number FROM t;
CREATE OR REPLACE VIEW v AS SELECT number FROM t WHERE number > 0;
CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2';
DROP TABLE t CASCADE), on_error_stop => 1);
is("$rc " . ($err =~ s/^.*NOTICE:.*\n?//mgr), '0 ', 'commands in a database without the extension are as they ever were');

$node->stop;
done_testing();
