# Changes of tables that an attached one follows.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('follow');
shorthand($node, $emulator, qw(sql requests customers idle_ok));
setup_sync($node, $emulator);

sub error
{
	my ($query) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $query);
	return $err;
}

# the keys that were noted since the last call, from the history
my $since = '-infinity';
sub done
{
	my $keys = sql("SELECT string_agg(DISTINCT row_key, ',') FROM kapture_history WHERE finished_at > '$since'");
	$since = sql("SELECT max(finished_at) FROM kapture_history");
	return $keys;
}

sql(q(
CREATE TABLE country (id int PRIMARY KEY, name text, note text);
CREATE TABLE address (id int PRIMARY KEY, city text, country_id int, street text);
CREATE TABLE users (id int PRIMARY KEY, name text, phone text, address_id int, parent_id int);
CREATE INDEX ON users (address_id);
CREATE TABLE tags (user_id int, tag text);
INSERT INTO country VALUES (1, 'India'), (2, 'Nepal');
INSERT INTO address VALUES (1, 'Mysore', 1), (2, 'Pune', 1), (3, 'Pokhara', 2);
INSERT INTO users VALUES (1, 'Asha', '9845765221', 1, NULL), (2, 'Kiran', '9845765222', 2, NULL), (3, 'Lata', '9845765223', 3, NULL), (4, 'Meera', '9845765224', NULL, 1);
CREATE VIEW customers AS SELECT u.id, u.name AS customer_name, u.phone, a.city, c.name AS country, p.name AS contact_person_name,
	(SELECT string_agg(tag, ' ' ORDER BY tag) FROM tags t WHERE t.user_id = u.id) AS zone
  FROM users u LEFT JOIN address a ON a.id = u.address_id LEFT JOIN country c ON c.id = a.country_id LEFT JOIN users p ON p.id = u.parent_id;
));
like(error("SELECT kapture_follow('address', 'users', 'true')"), qr/table "users" is not attached to Kapture/, 'only attached tables follow');
sql("SELECT kapture_attach('users', source => 'customers')");

# what is refused
like(error("SELECT kapture_follow('customers', 'users', 'true')"), qr/"customers" cannot be followed\nDETAIL:  Only tables that are not temporary can be followed\.\nHINT:  Follow the tables/, 'a view');
like(error("CREATE TEMP TABLE brief (id int); SELECT kapture_follow('brief', 'users', 'target.id = source.id')"), qr/"brief" cannot be followed\nDETAIL:  Only tables that are not temporary/, 'a temporary table');
like(error("SELECT kapture_follow('address', 'users', 'target.adress_id = source.id')"), qr/column target\.adress_id does not exist\nLINE 1: target\.adress_id = source\.id\n.*HINT:  Perhaps you meant to reference the column "target\.address_id"/s, 'a column that is not there');
like(error("SELECT kapture_follow('address', 'users', 'source.id')"), qr/argument of condition must be type boolean, not type integer/, 'no boolean');
like(error("SELECT kapture_follow('address', 'users', 'true; DROP TABLE users')"), qr/syntax error/, 'more than an expression');
like(error("SELECT kapture_follow('address', 'users', 'true FROM users')"), qr/argument "condition" is not one SQL expression/, 'a query');
like(error("SELECT kapture_follow('address', 'users', 'random() < 1')"), qr/must not call volatile functions/, 'volatile functions');
like(error("SELECT kapture_follow('address', 'users', 'source IS NOT NULL')"), qr/must not read the source's row as a whole/, 'the whole row');
like(error("BEGIN; SELECT kapture_follow('address', 'users', 'target.name = source.city'); ROLLBACK"), qr/NOTICE:  no index of table "users" helps to find the rows of the condition/, 'a notice that an index is missing');

unlike(error("SELECT kapture_follow('address', 'users', 'target.address_id = source.id')"), qr/index/, 'with one there is none');
like(error("SELECT kapture_follow('address', 'users', 'target.address_id=source.id')"), qr/table "users" follows table "address" already on this condition/, 'once for each condition');
sql(q(
SELECT kapture_follow('country', 'users', 'target.address_id IN (SELECT a.id FROM address a WHERE a.country_id = source.id)');
SELECT kapture_follow('tags', 'users', 'target.id = source.user_id');
SELECT kapture_follow('users', 'users', 'target.parent_id = source.id');
CALL kapture_backfill('users');
));
idle_ok('all are sent');
is(sql("SELECT string_agg(f ->> 'source', ' ') FROM kapture_attachments, jsonb_array_elements(follows) AS f"), 'address country tags users', 'kapture_attachments shows what is followed');
done();

# the attachments are read once for all follows of a table, when a session changes it first
my $scans = "SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_xact_user_tables WHERE relname = 'kapture_attachment'";
my $read = sql("BEGIN; UPDATE address SET city = 'Nagpur' WHERE id = 1; $scans; ROLLBACK");
my $more = sql(join ' UNION ALL ', map { "SELECT kapture_follow('address', 'users', 'target.address_id = source.id + $_')" } 1 .. 3);
is(sql("BEGIN; UPDATE address SET city = 'Nagpur' WHERE id = 1; $scans; ROLLBACK"), $read, 'three more follows of a table have the attachments read no more often');
sql("SELECT kapture_unfollow('address', 'users', 'target.address_id = source.id + $_')") foreach 1 .. 3;

# what concerns whom
sql("UPDATE address SET city = 'Mysuru' WHERE id = 1");
idle_ok('an update');
is(done(), '1', 'has the rows sent again that the condition finds');
like(customers(qw(customer_name city)), qr/^Asha\|Mysuru$/m, 'with the new value');
foreach my $city ('NULL', "'Mysuru'")
{
	sql("UPDATE address SET city = $city WHERE id = 1");
	idle_ok("a value becomes $city");
	is(done(), '1', 'which is a change like any other');
}
sql("UPDATE address SET street = 'Ring Road'; UPDATE country SET note = 'x'");
is(sql("SELECT count(*) FROM kapture_outbox"), 0, 'columns that neither view nor condition reads are not captured');
sql("UPDATE country SET name = 'Bharat' WHERE id = 1");
idle_ok('a row that many refer to');
is(done(), '1,2', 'has them all sent, by a subquery');
is(customers(qw(customer_name country)), "Asha|Bharat\nKiran|Bharat\nLata|Nepal\nMeera|", 'with its value');
sql("INSERT INTO tags VALUES (3, 'a'), (4, 'b')");
idle_ok('insertions');
is(done(), '3,4', 'before or after: the new row counts');
sql("UPDATE tags SET user_id = 2 WHERE tag = 'a'");
idle_ok('a change of what the condition reads');
is(done(), '2,3', 'concerns the rows of before and of after, without a key of the source');
sql("DELETE FROM tags WHERE tag = 'b'");
idle_ok('a deletion');
is(done(), '4', 'concerns the row of before');
sql("UPDATE users SET name = 'Asha Rao' WHERE id = 1");
idle_ok('a table that follows itself');
is(done(), '1,4', 'the row, and who refers to it');
like(customers(qw(customer_name contact_person_name)), qr/^Meera\|Asha Rao$/m, 'with the new value');
sql("TRUNCATE tags");
idle_ok('TRUNCATE');
is(done(), '1,2,3,4', 'concerns all');
sql("BEGIN; UPDATE address SET city = 'no' WHERE id = 2; ROLLBACK; BEGIN; SAVEPOINT a; UPDATE address SET city = 'no' WHERE id = 3; ROLLBACK TO a; COMMIT");
is(sql("SELECT count(*) FROM kapture_outbox"), 0, 'what is rolled back concerns nobody');
sql("COPY tags FROM PROGRAM 'printf \"1\\\\tc\\\\n2\\\\tc\\\\n\"'");
idle_ok('COPY');
is(done(), '1,2', 'concerns its rows');

# two transactions that meet in one row of the view, in both orders of commit
foreach my $first (0, 1)
{
	my @session = map { $node->background_psql('postgres') } 0, 1;
	$session[0]->query_safe("BEGIN; UPDATE address SET city = 'Race $first' WHERE id = 2");
	$session[1]->query_safe("BEGIN; UPDATE users SET address_id = 2 WHERE id = 3");
	$session[$first]->query_safe('COMMIT');
	idle_ok('one of two transactions has committed');
	$session[1 - $first]->query_safe('COMMIT');
	idle_ok('and the other one');
	$_->quit foreach @session;
	like(customers(qw(customer_name city)), qr/^Lata\|Race $first$/m, 'both show, ' . ($first ? 'the row' : 'the followed table') . ' first');
	sql("UPDATE users SET address_id = 3 WHERE id = 3");
	idle_ok('back again');
}
sql("UPDATE address SET city = 'Pune' WHERE id = 2");
idle_ok('and as it was');
done();

# NULLs and odd values
sql("INSERT INTO tags VALUES (NULL, 'n'), (3, E'quote\"\\\\,{}')");
idle_ok('NULL');
is(done(), '3', 'concerns nobody');

# a session that has written already knows of another condition
my $writer = $node->background_psql('postgres');
$writer->query_safe("INSERT INTO tags VALUES (2, 'w')");
idle_ok('a session writes');
is(done(), '2', 'which concerns one row');
sql("SELECT kapture_follow('tags', 'users', 'target.parent_id = source.user_id')");
$writer->query_safe("INSERT INTO tags VALUES (1, 'w')");
$writer->quit;
idle_ok('it writes again');
is(done(), '1,4', 'which concerns others by then, too');
sql("SELECT kapture_unfollow('tags', 'users', 'target.parent_id = source.user_id')");

# what comes while the worker is about something else does not take its place: as it is amid slices
sql(q(
SELECT kapture_pause('users');
UPDATE country SET name = 'Nepaal' WHERE id = 2;
WITH taken AS (DELETE FROM kapture_outbox AS o USING kapture_follow AS f WHERE o.attachment_id = -f.follow_id RETURNING follow_id, row_key)
UPDATE kapture_follow AS f SET waiting = ARRAY[t.row_key] FROM taken AS t WHERE f.follow_id = t.follow_id;
UPDATE country SET name = 'Bharata' WHERE id = 1;
SELECT kapture_resume('users');
));
poll_ok($node, "SELECT count(*) = 0 FROM kapture_follow WHERE waiting IS NOT NULL", 'the worker has done with that');
idle_ok('and with what came meanwhile');
is(done(), '1,2,3', 'the rows of both were concerned');

# a writer's transaction notes little, and the worker goes on in slices
sql(q(
SELECT kapture_pause('users');
INSERT INTO users SELECT n, 'User ' || n, (9000000000 + n)::text, 3 FROM generate_series(101, 12100) AS n;
SELECT kapture_detach('users');
SELECT kapture_attach('users', source => 'customers');
SELECT kapture_follow('country', 'users', 'target.address_id IN (SELECT a.id FROM address a WHERE a.country_id = source.id)');
SELECT kapture_pause('users');
UPDATE country SET name = 'Napal' WHERE id = 2;
));
is(sql("SELECT count(*) FROM kapture_outbox"), 1, 'one note for all rows');
is(sql("SELECT pending FROM kapture_status"), 1, 'which counts in pending');
sql("ALTER SERVER kapture OPTIONS (ADD rate_limit '0.01')");
sql("SELECT kapture_resume('users')");
poll_ok($node, "SELECT sum(1 + coalesce(cardinality(more_keys), 0)) + (SELECT count(*) FROM kapture_delivery) >= 12000 FROM kapture_outbox WHERE op = 'u' AND attachment_id > 0", 'all rows are found, in slices');
poll_ok($node, "SELECT waiting IS NULL FROM kapture_follow", 'and that is all');
sql("SELECT kapture_detach('users'); DELETE FROM users WHERE id > 100; ALTER SERVER kapture OPTIONS (DROP rate_limit)");
is(sql("SELECT count(*) FROM kapture_follow"), 0, 'detaching ends what is followed');
sql("UPDATE country SET name = 'Nepal' WHERE id = 2");
is(sql("SELECT count(*) FROM kapture_outbox"), 0, 'and notes nothing any more');

# renaming
sql(q(
UPDATE users SET kapture_customer_id = NULL;
SELECT kapture_attach('users', source => 'customers');
SELECT kapture_follow('country', 'users', 'target.address_id IN (SELECT a.id FROM address a WHERE a.country_id = source.id)');
SELECT kapture_follow('address', 'users', 'target.address_id = source.id');
ALTER TABLE country RENAME COLUMN id TO country_no;
ALTER TABLE country RENAME TO countries;
ALTER TABLE address RENAME COLUMN country_id TO country_no;
ALTER TABLE address RENAME TO addresses;
ALTER TABLE users RENAME COLUMN address_id TO home;
CALL kapture_backfill('users');
));
idle_ok('all are sent once more');
done();
sql("UPDATE countries SET name = 'India' WHERE country_no = 1");
idle_ok('after renaming');
is(done(), '1,2', 'conditions follow');
like(sql("SELECT condition FROM kapture_follow WHERE source = 'countries'::regclass"),
	qr/target\.home IN \(\s*SELECT a\.id\s+FROM public\.addresses a\s+WHERE \(a\.country_no = source\.country_no\)\)/, 'with the new names');

# the view is replaced
sql("CREATE OR REPLACE VIEW customers AS SELECT u.id, u.name AS customer_name, u.phone, a.city || ', ' || coalesce(a.street, '') AS city, c.name AS country, NULL::text AS contact_person_name, NULL::text AS zone
  FROM users u LEFT JOIN addresses a ON a.id = u.home LEFT JOIN countries c ON c.country_no = a.country_no");
sql("UPDATE addresses SET street = 'Fort' WHERE id = 2");
idle_ok('a column that only the replaced view reads');
is(done(), '2', 'matters now');

# so does another view, or none
sql("CREATE VIEW less AS SELECT u.id, u.name AS customer_name, u.phone FROM users u; SELECT kapture_alter('users', source => 'less')");
idle_ok('altered');
done();
is(sql("SELECT watched_columns FROM kapture_follow WHERE source = 'addresses'::regclass"), '{id}', 'with another source, other columns matter');
sql("SELECT kapture_alter('users', columns => '{\"customer_name\": \"name\", \"phone\": \"phone\"}', reset => '{source}')");
is(sql("SELECT watched_columns IS NULL FROM kapture_follow WHERE source = 'addresses'::regclass"), 't', 'without one, all do');
sql("SELECT kapture_alter('users', source => 'customers')");
idle_ok('altered back');
done();

# a partitioned source
sql(q(
CREATE TABLE visits (id int, user_id int, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE visits1 (gone int, user_id int, id int NOT NULL);
ALTER TABLE visits1 DROP COLUMN gone;
ALTER TABLE visits ATTACH PARTITION visits1 FOR VALUES FROM (0) TO (10);
SELECT kapture_follow('visits', 'users', 'target.id = source.user_id');
INSERT INTO visits VALUES (1, 3);
UPDATE visits1 SET user_id = 4;
));
idle_ok('a partition');
is(done(), '3,4', 'is part of its table');

# ending
is(sql("SELECT kapture_unfollow('visits', 'users', 'target.id = source.user_id')"), 1, 'kapture_unfollow by condition');
is(sql("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'kapture_followed%' AND tgrelid = 'visits'::regclass"), 0, 'takes the triggers away');
is(sql("SELECT kapture_unfollow('countries', 'users')"), 1, 'and all');
is(sql("SELECT kapture_unfollow('countries', 'users')"), 0, 'or none');
is(sql("SELECT follows -> 0 ->> 'source' FROM kapture_attachments"), 'addresses', 'one is still followed');
sql("DROP TABLE addresses CASCADE");
is(sql("SELECT follows IS NULL FROM kapture_attachments"), 't', 'until it is dropped');
sql("SELECT kapture_detach('users')");

# rights
sql(q(
CREATE ROLE shop; CREATE ROLE other;
GRANT USAGE ON FOREIGN SERVER kapture TO shop;
CREATE USER MAPPING FOR shop SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
GRANT ALL ON SCHEMA public TO shop, other;
CREATE TABLE mine (id int PRIMARY KEY, customer_name text, phone text);
ALTER TABLE mine OWNER TO shop;
CREATE TABLE theirs (id int PRIMARY KEY, secret text);
ALTER TABLE theirs OWNER TO other;
SET ROLE shop;
SELECT kapture_attach('mine');
INSERT INTO mine VALUES (1, 'Mine', '9845765271');
));
like(error("SET ROLE shop; SELECT kapture_follow('theirs', 'mine', 'target.id = source.id')"), qr/permission denied for table theirs\nDETAIL:  To follow a table, you must own it, or have the TRIGGER privilege on it\./, 'the source has to be ones own');
like(error("SET ROLE other; SELECT kapture_follow('theirs', 'mine', 'target.id = source.id')"), qr/must be owner of table mine/, 'the attached table, too');
sql("GRANT TRIGGER ON theirs TO shop; SET ROLE shop; SELECT kapture_follow('theirs', 'mine', 'target.id = source.id')");
idle_ok('sent');
done();
sql("SET ROLE other; INSERT INTO theirs VALUES (1, 'x')");
idle_ok('with TRIGGER');
is(done(), '1', 'it is followed, whoever changes it');
sql("SET ROLE other; UPDATE theirs SET secret = 'y'");
idle_ok('without a view, all columns count');
is(done(), '1', 'of the source');

# a condition that fails is said, and tried again
sql("CREATE TABLE extra (id int); ALTER TABLE extra OWNER TO shop; SET ROLE shop; SELECT kapture_unfollow('theirs', 'mine'); SELECT kapture_follow('theirs', 'mine', 'target.id IN (SELECT id FROM extra)'); INSERT INTO extra VALUES (1)");
sql("DROP TABLE extra; UPDATE theirs SET secret = 'z'");
poll_ok($node, "SELECT worker_error LIKE '%relation \"public.extra\" does not exist%' AND pending > 0 FROM kapture_status", 'a table that is gone is named');
sql("CREATE TABLE extra (id int); ALTER TABLE extra OWNER TO shop; INSERT INTO extra VALUES (1)");
idle_ok('it goes on when it is there again');
poll_ok($node, "SELECT bool_and(worker_error IS NULL) FROM kapture_status", 'and nothing shows any more');

# what many changes concern is found in parts after an error, and none is left out between them
sql(q(
CREATE TABLE many (id int PRIMARY KEY, customer_name text, phone text);
INSERT INTO many SELECT i, 'Many', '98' FROM generate_series(1, 3000) AS i;
CREATE TABLE sources (id int PRIMARY KEY);
CREATE TABLE gate ();
SELECT kapture_attach('many', filter => 'id < 0');
SELECT kapture_follow('sources', 'many', 'target.id = source.id AND EXISTS (SELECT FROM gate)');
DROP TABLE gate;
INSERT INTO sources SELECT i FROM generate_series(1, 3000) AS i;
));
poll_ok($node, "SELECT worker_error LIKE '%relation \"public.gate\" does not exist%' FROM kapture_status WHERE relation = 'many'::regclass", 'a condition fails');
sql("CREATE TABLE gate (); INSERT INTO gate DEFAULT VALUES");
idle_ok('then it does not');
is(sql("SELECT count(DISTINCT row_key) FROM kapture_history WHERE relation = 'many'::regclass"), '3000', 'each row is found that one of the changes is about');

# a customer that was imported: of its row nothing has been sent, so that it leaves is known by the change alone
sql(q(
CREATE TABLE members (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
CREATE TABLE stays (member_id int);
INSERT INTO stays VALUES (1);
CREATE VIEW present AS SELECT id, customer_name, phone FROM members AS m WHERE EXISTS (SELECT FROM stays AS s WHERE s.member_id = m.id);
));
emulator_post($emulator, 'seed', [ { kapture_customer_id => 4711, customer_name => 'Nila', phone => '9845765281' } ]);
sql(q(
INSERT INTO members VALUES (1, 'Nila', '9845765281', 4711);
SELECT kapture_attach('members', source => 'present', on_leave => '{"campaign_name": "left"}');
SELECT kapture_follow('stays', 'members', 'target.id = source.member_id');
DELETE FROM stays;
));
idle_ok('a row leaves by a change of a followed table');
like(customers(qw(customer_name campaign_name)), qr/^Nila\|left$/m, 'which is reported, though nothing of it was ever sent');

# a condition is kept in one form, and ended by a text that means the same in another session
sql(q(
CREATE TABLE deals (id int PRIMARY KEY, customer_name text, phone text);
CREATE TABLE bills (deal int, due date);
SELECT kapture_attach('deals');
SET DateStyle = 'SQL, DMY';
SELECT kapture_follow('bills', 'deals', 'target.id = source.deal AND source.due > ''02/01/2026''');
INSERT INTO deals VALUES (1, 'Kala', '9845765291');
));
idle_ok('the row is sent');
sql("DELETE FROM kapture_history; INSERT INTO bills VALUES (1, '2026-01-15')");
idle_ok('and looked at again');
is(sql("SELECT count(*) FROM kapture_history WHERE relation = 'deals'::regclass"), 1, 'for a date in January');
is(sql("SET DateStyle = 'ISO'; SET quote_all_identifiers = on; SELECT kapture_unfollow('bills', 'deals', 'target.id = source.deal AND source.due > ''2026-01-02''')"), 1, 'the condition is found again');

# rows that come or go with their partition, of a table that is partitioned twice
sql(q(
CREATE TABLE regions (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
CREATE TABLE north PARTITION OF regions FOR VALUES FROM (1) TO (100) PARTITION BY RANGE (id);
CREATE TABLE north_1 PARTITION OF north FOR VALUES FROM (1) TO (10);
CREATE TABLE residents (id int PRIMARY KEY, name text, phone text, region int);
CREATE INDEX ON residents (region);
CREATE VIEW resident_view AS SELECT r.id, r.name AS customer_name, r.phone, coalesce(g.name, 'none') AS zone FROM residents r LEFT JOIN regions g ON g.id = r.region;
SELECT kapture_attach('residents', source => 'resident_view', id_column => NULL);
SELECT kapture_follow('regions', 'residents', 'target.region = source.id');
CREATE TABLE north_2 PARTITION OF north FOR VALUES FROM (10) TO (20);
CREATE TABLE south (LIKE regions INCLUDING ALL); CREATE TABLE other_south (LIKE regions INCLUDING ALL);
ALTER TABLE regions ATTACH PARTITION south FOR VALUES FROM (100) TO (200);
INSERT INTO regions VALUES (1, 'N1'), (11, 'N2'), (101, 'S'); INSERT INTO other_south VALUES (101, 'S2');
INSERT INTO residents SELECT i, 'Resident', 9845766000 + i, i FROM unnest('{1,11,101}'::int[]) i;
));
sub zones { return join ' ', map { (split /\|/)[1] } grep { /^Resident/ } split /\n/, customers(qw(customer_name zone)) }
idle_ok('residents are sent');
is(zones(), 'N1 N2 S', 'with their regions');
foreach my $case (
	[ 'TRUNCATE north_1', 'N2 S none' ], [ 'TRUNCATE north_2', 'S none none' ], [ "INSERT INTO regions VALUES (1, 'N1'), (11, 'N2')", 'N1 N2 S' ],
	[ 'TRUNCATE south', 'N1 N2 none' ], [ "INSERT INTO regions VALUES (101, 'S')", 'N1 N2 S' ],
	[ 'ALTER TABLE regions DETACH PARTITION south', 'N1 N2 none' ], [ 'ALTER TABLE regions ATTACH PARTITION other_south FOR VALUES FROM (100) TO (200)', 'N1 N2 S2' ],
	[ 'BEGIN; DROP TABLE north_2; ROLLBACK; TRUNCATE south', 'N1 N2 S2' ], [ 'DROP TABLE north_1', 'N2 S2 none' ], [ 'TRUNCATE regions', 'none none none' ])
{
	sql($case->[0]);
	idle_ok($case->[0]);
	is(zones(), $case->[1], 'concerns the rows that referred to it');
}
# a partition that leaves in two steps, as the first is interrupted
sql(q(CREATE TABLE west PARTITION OF regions FOR VALUES FROM (200) TO (300); INSERT INTO regions VALUES (201, 'W'); UPDATE residents SET region = 201 WHERE id = 1));
idle_ok('another partition');
is(zones(), 'W none none', 'with a row');
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN; SELECT count(*) FROM regions');
my ($interrupted) = ($node->psql('postgres', "SET lock_timeout = '100ms'; ALTER TABLE regions DETACH PARTITION west CONCURRENTLY"))[2];
like($interrupted, qr/canceling statement due to lock timeout/, 'DETACH CONCURRENTLY waits for readers');
$reader->quit;
sql('ALTER TABLE regions DETACH PARTITION west FINALIZE');
idle_ok('and is finalized');
is(zones(), 'none none none', 'which concerns rows, too');
is(error("SELECT kapture_follow('other_south', 'residents', 'target.region = source.id'), kapture_unfollow('other_south', 'residents')") =~ /ERROR/, '', 'a partition can be followed by itself, too');
sql("SELECT kapture_unfollow('regions', 'residents')");
is(sql("SELECT string_agg(tgrelid::regclass::text, ' ') FROM pg_trigger WHERE tgfoid = 'kapture_followed'::regproc AND tgrelid::regclass::text ~ 'regions|north|other_south'"), '', 'what nobody follows any more has no triggers left');

# a dump
my $dump = "$PostgreSQL::Test::Utils::tmp_check/follow.sql";
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
sql("CREATE DATABASE copy");
$node->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'restored');
$node->safe_psql('copy', "INSERT INTO theirs VALUES (2, 'x')");
is($node->safe_psql('copy', "SELECT count(*) FROM kapture_outbox AS o JOIN kapture_follow AS f ON o.attachment_id = -f.follow_id"), 1, 'brings it along');
$node->stop;
done_testing();
