# Several attachments of one table: tenants that go to accounts of their own.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('attachments');
my $dir = PostgreSQL::Test::Utils::tempdir();
my %emulator = map { $_ => start_emulator() } qw(acme globex);
my $idle = "SELECT coalesce(bool_and(pending + in_flight + retrying = 0), false) FROM kapture_status";

shorthand($node, undef, qw(sql said));
sub held { return join ' ', sort map { $_->{customer_name} } @{ emulator_get($emulator{ $_[0] }, 'customers') } }

# The rows of a table as each account is to have them, and the ids that these have in it.
sub exact_ok
{
	my ($name, $table) = @_;
	my ($here, $there) = ('', '');
	foreach my $tenant (qw(acme globex))
	{
		$here .= sql("SELECT '$tenant', full_name, phone, kapture_id('$table', id::text, name => '$tenant') FROM $table WHERE tenant = '$tenant' ORDER BY 4") . "\n";
		$there .= join '', map { "$tenant|$_->{customer_name}|$_->{phone}|$_->{kapture_customer_id}\n" }
		  sort { $a->{kapture_customer_id} <=> $b->{kapture_customer_id} } @{ emulator_get($emulator{$tenant}, 'customers') };
	}
	return is($here, $there, $name);
}

sub attach
{
	my ($table, $tenant, $more) = @_;
	return "SELECT kapture_attach('$table', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\", \"city\": \"city\"}', server => '$tenant',"
	  . " filter => 'tenant = ''$tenant''', id_column => '${tenant}_id', name => '$tenant'" . ($more || '') . ");";
}

sql("CREATE EXTENSION kapture_sync");
foreach my $tenant (qw(acme globex))
{
	sql("CREATE SERVER $tenant FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator{$tenant}{url}', timeout '2s');
CREATE USER MAPPING FOR PUBLIC SERVER $tenant OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
}
sql("CREATE TABLE people (id int PRIMARY KEY, tenant text, full_name text, phone text, city text, note text)");

# --- attaching
like(said(attach('people', 'acme')), qr/changes of table "people" \(attachment "acme"\) are sent to server "acme".*/s, 'a table is attached under a name');
like(said("SELECT kapture_attach('people', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\"}', server => 'globex', id_column => 'acme_id')"),
	qr/column "acme_id" receives the Kapture customer ids of another attachment of table "people".*DETAIL:  Attachment "acme".*HINT:  Name another column/s,
	'two attachments do not share an id column');
like(said(attach('people', 'acme')), qr/table "people" has an attachment "acme" already/, 'nor a name');
like(said("SELECT kapture_attach('people', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\"}', server => 'globex', id_column => NULL, name => repeat('x', 64))"),
	qr/argument "name" is too long/, 'a name has a length');
is(sql("SELECT count(*) FROM kapture_attachments"), '1', 'what was refused left nothing');
sql(attach('people', 'globex'));
is(sql("SELECT name, server, id_column, filter FROM kapture_attachments WHERE relation = 'people'::regclass ORDER BY name"),
	"acme|acme|acme_id|(tenant = 'acme'::text)\nglobex|globex|globex_id|(tenant = 'globex'::text)", 'the view has a row for each');
is(sql("SELECT count(*) FROM kapture_column WHERE attachment_id IN (SELECT attachment_id FROM kapture_attachments WHERE name = 'globex')"), '3', 'each has its own columns');

# --- rows go to the account of their tenant, through crashes of the worker
$node->append_conf('postgresql.conf', "restart_after_crash = on\n");
$node->reload;
emulator_faults($emulator{acme}, { api => 'add', action => 'hold' });
sql("INSERT INTO people SELECT n, CASE n % 3 WHEN 0 THEN 'acme' WHEN 1 THEN 'globex' ELSE 'none' END, 'Person' || n, (9000000000 + n)::text, 'Goa' FROM generate_series(1, 300) n");
poll_ok($node, "SELECT count(globex_id) = 100 FROM people", 'one account has its rows, while the other one does not answer');
is(sql("SELECT count(acme_id) FROM people"), '0', 'which has taken some');
my $pid = sql("SELECT kapture_worker_pid()");
kill 'KILL', $pid;
poll_ok($node, "SELECT kapture_worker_pid() <> $pid", 'the worker is killed, and comes again');
emulator_faults($emulator{acme});
emulator_post($emulator{acme}, 'release', {});
poll_ok($node, $idle, 'all are sent');
exact_ok('each account has the rows of its tenant, each once', 'people');
is(sql("SELECT count(*) FROM people WHERE acme_id IS NOT NULL AND globex_id IS NOT NULL"), '0', 'no row has ids of both');
is(sql("SELECT count(*) FROM people WHERE tenant = 'none' AND (acme_id IS NOT NULL OR globex_id IS NOT NULL)"), '0', 'those of no tenant stay home');

# --- changes
sub requests { my %n; foreach my $t (qw(acme globex)) { $n{$t} = grep { $_->{api} eq 'add' || $_->{api} eq 'update' } @{ emulator_get($emulator{$t}, 'log') } } return \%n }
my $before = requests();
sql("UPDATE people SET full_name = 'Renamed' WHERE id = 3");
poll_ok($node, $idle, 'a row changes');
is_deeply(requests(), { acme => $before->{acme} + 1, globex => $before->{globex} }, 'one account is told');
like(held('acme'), qr/Renamed/, 'that of the tenant');
sql("UPDATE people SET tenant = 'globex' WHERE id = 6");
poll_ok($node, $idle, 'a row moves to the other tenant');
is(sql("SELECT acme_id IS NOT NULL, globex_id IS NOT NULL FROM people WHERE id = 6"), 't|t', 'and to the account of that');
is(sql("SELECT row_key, reason, name FROM kapture_orphans"), '6|left|acme', 'its customer in the first one is an orphan');
sql("UPDATE people SET tenant = 'acme' WHERE id = 6");
poll_ok($node, $idle, 'back again');
is(sql("SELECT row_key, reason, name FROM kapture_orphans"), '6|left|globex', 'it is the other way round');
sql("DELETE FROM people WHERE id = 9; UPDATE people SET id = 1009 WHERE id = 12");
poll_ok($node, $idle, 'keys change');
is(sql("SELECT string_agg(name, ' ' ORDER BY name) FROM kapture_orphans WHERE row_key = '9' AND reason = 'deleted'"), 'acme', 'a deleted row is noted where it was');
is(sql("SELECT kapture_id('people', '1009', name => 'acme') = acme_id, kapture_id('people', '1009', name => 'globex') IS NULL FROM people WHERE id = 1009"), 't|t', 'ids by account');

# --- whole-row expressions, and the ids of others
sql("CREATE TABLE whole (id int PRIMARY KEY, full_name text, phone text)");
sql("SELECT kapture_attach('whole', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\", \"zone\": {\"expression\": \"md5(row_to_json(whole)::text)\"}}',
  server => '$_', id_column => '${_}_id', name => '$_', filter => 'whole.full_name <> ''''')") foreach qw(acme globex);
$before = requests();
sql("INSERT INTO whole VALUES (1, 'Whole', '9100000001')");
poll_ok($node, $idle, 'values of the whole row');
is_deeply(requests(), { acme => $before->{acme} + 1, globex => $before->{globex} + 1 }, 'an id that one account gives is no change for the other');
sql("SELECT kapture_detach('whole')");
is(sql("SELECT count(*) FROM kapture_attachments WHERE relation = 'whole'::regclass"), '0', 'without a name, all attachments are detached');
is(sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'whole'::regclass"), '0', 'and all triggers are gone');

# --- many rows, partitions
sql("CREATE TABLE parts (id int, tenant text, full_name text, phone text, city text, PRIMARY KEY (id, tenant)) PARTITION BY LIST (tenant);
CREATE TABLE parts_acme PARTITION OF parts FOR VALUES IN ('acme'); CREATE TABLE parts_globex PARTITION OF parts FOR VALUES IN ('globex')");
sql(attach('parts', 'acme') . attach('parts', 'globex') . "SELECT kapture_pause('parts')");
sql("INSERT INTO parts SELECT n, 'acme', 'Part' || n, (9500000000 + n)::text FROM generate_series(1, 1000) n");
is(sql("SELECT a.name, sum(1 + coalesce(cardinality(more_keys), 0)), count(*) < 30 FROM kapture_outbox JOIN kapture_attachments a USING (attachment_id)"
	  . " WHERE relation = 'parts'::regclass GROUP BY 1 ORDER BY 1"), "acme|1000|t\nglobex|1000|t", 'rows share entries of the outbox, though two triggers take turns');
sql("UPDATE parts SET tenant = 'globex' WHERE id <= 3");
is(sql("SELECT a.name, op, count(*) FROM kapture_outbox JOIN kapture_attachments a USING (attachment_id) WHERE relation = 'parts'::regclass AND op <> 'i' GROUP BY 1, 2 ORDER BY 1"),
	"acme|k|3\nglobex|k|3", 'rows that move to another partition are the same ones to both');
sql("SELECT kapture_resume('parts')");
poll_ok($node, $idle, 'they are sent');
is(sql("SELECT count(acme_id), count(globex_id) FROM parts"), '997|3', 'each to its account');
sql("TRUNCATE parts_globex");
poll_ok($node, $idle, 'a partition is emptied');
is(sql("SELECT name, count(*) FROM kapture_orphans WHERE relation = 'parts'::regclass GROUP BY 1"), 'globex|3', 'whose rows leave the attachment that has them, be it the second one');
sql("TRUNCATE parts");
poll_ok($node, $idle, 'they are gone');
is(sql("SELECT a.name, count(*) FROM kapture_history JOIN kapture_attachments a USING (attachment_id) WHERE action = 'truncate' GROUP BY 1 ORDER BY 1"), "acme|1\nglobex|1", 'both know');
is(sql("SELECT name, action, count(*) FROM kapture_history WHERE relation = 'parts'::regclass AND action IN ('add', 'truncate') GROUP BY 1, 2 ORDER BY 1, 2"),
	"acme|add|997\nacme|truncate|1\nglobex|add|3\nglobex|truncate|1", 'the history says whose each entry is');
is(sql("SELECT string_agg(name || ' ' || n, ', ' ORDER BY name) FROM (SELECT name, count(*) AS n FROM kapture_orphans WHERE relation = 'parts'::regclass GROUP BY 1) o"), 'acme 997, globex 3', 'whose customers are left');
sql("DROP TABLE parts");
poll_ok($node, "SELECT count(*) = 2 FROM kapture_attachments", 'both are forgotten with the table');

# --- what calls are about
like(said("SELECT kapture_id('people', '3')"), qr/table "people" has several attachments\nHINT:  Name one of them in argument "name": "acme", "globex"/, 'kapture_id wants a name');
like(said("SELECT kapture_alter('people', filter => 'true')"), qr/table "people" has several attachments/, 'kapture_alter, too');
like(said("SELECT kapture_pause('people', name => 'initech')"), qr/table "people" has no attachment "initech"\nHINT:  Its attachments are "acme", "globex"/, 'an unknown name');
sql("SELECT kapture_pause('people', name => 'acme')");
is(sql("SELECT name, state FROM kapture_status WHERE relation = 'people'::regclass ORDER BY 1"), "acme|paused\nglobex|running", 'one is paused');
sql("INSERT INTO people VALUES (2001, 'acme', 'Paused', '9200000001'), (2002, 'globex', 'Flows', '9200000002')");
poll_ok($node, "SELECT globex_id IS NOT NULL FROM people WHERE id = 2002", 'the other goes on');
is(sql("SELECT pending FROM kapture_status WHERE name = 'acme'"), '2', 'changes wait for the first');
is(sql("SELECT acme_id IS NULL FROM people WHERE id = 2001"), 't', 'and nothing is sent');
sql("SELECT kapture_resume('people')");
poll_ok($node, "SELECT acme_id IS NOT NULL FROM people WHERE id = 2001", 'all go on');
$before = requests();
sql("CALL kapture_resync('people', 'id < 100', force => true, name => 'globex')");
poll_ok($node, $idle, 'rows of one are sent again');
is(requests()->{acme}, $before->{acme}, 'not those of the other');
cmp_ok(requests()->{globex}, '>', $before->{globex}, 'of that one they are');
is(sql("SELECT name, state FROM kapture_progress WHERE activity = 'resync'"), 'globex|done', 'its progress is its own');
$before = requests();
sql("CALL kapture_resync('people', 'id IN (3, 4)', force => true)");
poll_ok($node, $idle, 'rows of both');
is_deeply(requests(), { acme => $before->{acme} + 1, globex => $before->{globex} + 1 }, 'each to its account');
is(sql("SELECT kapture_touch('people', '3'), kapture_touch('people', '4')"), '|', 'touched');
poll_ok($node, $idle, 'touched rows are looked at');
is(sql("SELECT string_agg(DISTINCT a.name, ' ' ORDER BY a.name) FROM kapture_history h JOIN kapture_attachments a USING (attachment_id) WHERE action = 'none' AND row_key IN ('3', '4')"), 'acme globex', 'for each account');
sql("INSERT INTO people VALUES (2003, 'acme', '', '9200000003'), (2004, 'globex', '', '9200000004')");
poll_ok($node, "SELECT count(*) = 2 FROM kapture_failures WHERE state = 'parked'", 'a row of each is parked');
is(sql("SELECT row_key, name FROM kapture_failures ORDER BY 1"), "2003|acme\n2004|globex", 'the view has the names');
is(sql("SELECT kapture_discard('people', name => 'acme')"), '1', 'one is discarded by name');
is(sql("SELECT row_key FROM kapture_failures"), '2004', 'the other stays');
is(sql("SELECT kapture_discard('people', 2004, name => 'globex')"), '1', 'by key and name');
is(sql("SELECT count(*) FROM kapture_verify('people', 'full_name <> ''''')"), '0', 'verified, all is as it should be');
is(sql("SELECT count(*) FROM kapture_match('people', name => 'globex')"), '0', 'rows that can be matched');
sql("DELETE FROM people WHERE full_name = ''");
poll_ok($node, $idle, 'what cannot be sent is deleted');
sql("SET kapture_sync.capture = off; INSERT INTO people VALUES (2005, 'acme', 'Before', '9200000005'), (2006, 'globex', 'Before Too', '9200000006')");
is(sql("SELECT row_key, problem, name FROM kapture_verify('people', 'id >= 2005') ORDER BY 1"), "2005|no id|acme\n2006|no id|globex", 'what is wrong, and for which account');
is(said("BEGIN; SET LOCAL kapture_sync.capture = off; UPDATE people SET acme_id = NULL WHERE id = 3; UPDATE people SET globex_id = NULL WHERE id = 4;"
	  . "SELECT row_key, found_by, name FROM kapture_match('people') ORDER BY 1; ROLLBACK"), "3|phone|acme\n4|phone|globex", 'and which account has a customer');
like(said("CALL kapture_backfill('people')"), qr/1 rows of "people" \(attachment "acme"\) are on their way.*1 rows of "people" \(attachment "globex"\) are on their way/s, 'backfilled, each');
poll_ok($node, $idle, 'backfilled rows are sent');

# --- another mapping for one of them, columns that are renamed, a key that becomes another one
sql("SELECT kapture_alter('people', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\", \"zone\": \"note\"}', name => 'globex')");
is(sql("SELECT name, columns FROM kapture_attachments WHERE relation = 'people'::regclass ORDER BY 1"),
	"acme|{\"city\": \"city\", \"phone\": \"phone\", \"customer_name\": \"full_name\"}\nglobex|{\"zone\": \"note\", \"phone\": \"phone\", \"customer_name\": \"full_name\"}", 'one is altered');
$before = requests();
sql("UPDATE people SET note = 'N' WHERE id IN (3, 4)");
poll_ok($node, $idle, 'a column that one of them maps');
is_deeply(requests(), { acme => $before->{acme}, globex => $before->{globex} + 1 }, 'is sent to that alone');
# the second UPDATE of a session need not look at what the first one has
sql("UPDATE people SET city = 'One' WHERE id = 3; UPDATE people SET city = 'Two' WHERE id = 2005; UPDATE people SET note = 'M' WHERE id = 4");
poll_ok($node, $idle, 'columns that one of them maps, in one session');
is((grep { $_->{customer_name} eq 'Before' } @{ emulator_get($emulator{acme}, 'customers') })[0]{city}, 'Two', 'are sent to the one');
is((grep { ($_->{zone} // '') eq 'M' } @{ emulator_get($emulator{globex}, 'customers') }) + 0, 1, 'and to the other');
$before = requests();
sql("CALL kapture_resync('people', 'id IN (3, 4)', fields => '{zone}', force => true)");
poll_ok($node, $idle, 'a field that one of them has');
is_deeply(requests(), { acme => $before->{acme}, globex => $before->{globex} + 1 }, 'is sent again for that one');
like(said("CALL kapture_resync('people', fields => '{state}')"), qr/no column of table "people" feeds the Kapture field "state"/, 'one that none has is an error');
like(said("SELECT kapture_touch('people', '3', '{state}')"), qr/no column of table "people" feeds the Kapture field "state"/, 'for a row, too');
sql("ALTER TABLE people RENAME tenant TO account; ALTER TABLE people RENAME phone TO mobile; ALTER TABLE people RENAME acme_id TO id_acme; ALTER TABLE people RENAME TO persons");
is(sql("SELECT name, id_column, filter, columns ->> 'phone' FROM kapture_attachments WHERE relation = 'persons'::regclass ORDER BY 1"),
	"acme|id_acme|(account = 'acme'::text)|mobile\nglobex|globex_id|(account = 'globex'::text)|mobile", 'both follow what is renamed');
sql("UPDATE persons SET full_name = full_name || ' II' WHERE id IN (3, 4)");
sql("ALTER TABLE persons ADD COLUMN uid text; UPDATE persons SET uid = 'u' || id; ALTER TABLE persons DROP CONSTRAINT people_pkey, ADD PRIMARY KEY (uid)");
sql("UPDATE persons SET full_name = full_name || ' III' WHERE id IN (3, 4)");
poll_ok($node, $idle, 'another primary key');
like(held($_), qr/ II III/, "$_ has what changed before and after") foreach qw(acme globex);
sql("ALTER TABLE persons RENAME account TO tenant; ALTER TABLE persons RENAME mobile TO phone; ALTER TABLE persons RENAME id_acme TO acme_id");

# --- what logical replication brings
sql("SELECT kapture_alter('persons', replicated => true, name => 'globex')");
is(sql("SELECT a.name, string_agg(DISTINCT t.tgenabled, '') FROM pg_trigger t JOIN kapture_attachments a ON t.tgname ~ ('_' || a.attachment_id || '\$') WHERE tgrelid = 'persons'::regclass GROUP BY 1 ORDER BY 1"),
	"acme|O\nglobex|A", 'is captured for the attachment that wants it');
sql("SET session_replication_role = replica; INSERT INTO persons (id, tenant, full_name, phone, uid) VALUES (5001, 'globex', 'Replicated', '9800000001', 'u5001'), (5002, 'acme', 'Not Replicated', '9800000002', 'u5002')");
poll_ok($node, "SELECT globex_id IS NOT NULL FROM persons WHERE id = 5001", 'and sent');
poll_ok($node, $idle, 'all of it');
is(sql("SELECT acme_id IS NULL FROM persons WHERE id = 5002"), 't', 'and not for the other');

# --- pulls
sql("SELECT kapture_alter('persons', pull => true, name => 'acme')");
sql("SELECT kapture_alter('persons', pull => true, name => 'globex')");
my $twice = "SELECT kapture_attach('persons', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\"}', server => 'globex', id_column => 'third_id', name => 'third'";
like(said("$twice, pull => true)"), qr/customers of server "globex" are pulled into table "persons" already.*Attachment "globex"/s, 'customers of an account are pulled once into a table');
is(sql("SELECT count(*) FROM pg_attribute WHERE attname = 'third_id'"), '0', 'that leaves nothing');
sql("$twice, filter => 'false')");
like(said("SELECT kapture_alter('persons', pull => true, name => 'third')"), qr/are pulled into table "persons" already/, 'nor may one be altered so');
sql("SELECT kapture_detach('persons', name => 'third')");
sql("SELECT kapture_alter('persons', reset => '{pull}', name => name) FROM kapture_attachments WHERE relation = 'persons'::regclass");

# --- a row's values of other tables
sql("CREATE TABLE towns (town text PRIMARY KEY, name text)");
sql("SELECT kapture_follow('towns', 'persons', 'target.city = source.town')");
sql("DELETE FROM kapture_history");
sql("INSERT INTO towns VALUES ('Goa', 'Goa')");
poll_ok($node, "SELECT count(DISTINCT attachment_id) = 2 FROM kapture_history WHERE action IN ('none', 'left')", 'what a table follows is looked at for all of its attachments');
poll_ok($node, $idle, 'that ends');

# --- dumps
sql("SELECT kapture_pause('persons', name => 'acme')");
$node->safe_psql('postgres', "CREATE DATABASE restored");
$node->command_ok([ 'pg_dump', '-f', "$dir/dump", 'postgres' ], 'a dump');
$node->command_ok([ 'psql', '-Xqv', 'ON_ERROR_STOP=1', '-f', "$dir/dump", 'restored' ], 'is restored');
my $shape = "SELECT name, server, filter, paused, id_column, columns FROM kapture_attachments WHERE relation = 'persons'::regclass ORDER BY 1";
is($node->safe_psql('restored', $shape), sql($shape), 'with all attachments');
$node->safe_psql('restored', "INSERT INTO persons (id, tenant, full_name, phone, uid) VALUES (3001, 'acme', 'Copy', '9300000001', 'u3001')");
is($node->safe_psql('restored', "SELECT count(DISTINCT attachment_id) FROM kapture_outbox WHERE row_key = 'u3001'"), '2', 'which capture there');
$node->safe_psql('postgres', "DROP DATABASE restored");
sql("SELECT kapture_resume('persons', name => 'acme')");

# --- two accounts have a customer with the same id, and in both another row waits for it
emulator_post($emulator{$_}, 'seed', [ { customer_name => 'Seeded', phone => '9660000001', kapture_customer_id => 555 } ]) foreach qw(acme globex);
foreach my $tenant (qw(acme globex))
{
	sql("CREATE TABLE of_$tenant (id int PRIMARY KEY, full_name text, phone text)");
	sql("SELECT kapture_attach('of_$tenant', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\"}', server => '$tenant')");
	sql("INSERT INTO of_$tenant VALUES (1, 'First', '9660000001')");
	poll_ok($node, "SELECT kapture_customer_id = 555 FROM of_$tenant", "a row is that customer of $tenant");
	sql("INSERT INTO of_$tenant VALUES (2, 'Second', '9660000001')");
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'of_$tenant'::regclass AND state = 'parked'", 'another row waits');
}
my $attempts = sql("SELECT attempts FROM kapture_failures WHERE relation = 'of_globex'::regclass");
sql("UPDATE of_acme SET phone = '9660000002' WHERE id = 1");
poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM of_acme", 'the first row of one account gets another phone, and the second is tried again');
poll_ok($node, $idle, 'which is all');
is(sql("SELECT attempts, state FROM kapture_failures WHERE relation = 'of_globex'::regclass"), "$attempts|parked", 'in the other account nothing is');
sql("SELECT kapture_detach('of_$_')") foreach qw(acme globex);

# --- one ends, the other stays
sql("INSERT INTO persons (id, tenant, full_name, phone, uid) VALUES (4001, 'acme', 'Last', '9400000001', 'u4001')");
sql("SELECT kapture_detach('persons', name => 'globex')");
is(sql("SELECT name FROM kapture_attachments"), 'acme', 'one is detached');
is(sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'persons'::regclass"), '2', 'with its triggers');
is(sql("SELECT jsonb_array_length(follows) FROM kapture_attachments"), '1', 'the other follows what the table does');
sql("INSERT INTO persons (id, tenant, full_name, phone, uid) VALUES (4002, 'acme', 'Later', '9400000002', 'u4002'), (4003, 'globex', 'Home', '9400000003', 'u4003')");
poll_ok($node, $idle, 'the other is sent');
is(sql("SELECT count(acme_id), count(globex_id) FROM persons WHERE id BETWEEN 4001 AND 4999"), '2|0', 'and nothing for the one that ended');
sql(attach('persons', 'globex'));
sql("CALL kapture_backfill('persons', name => 'globex')");
poll_ok($node, $idle, 'attached again');
is(sql("SELECT count(*) FROM persons WHERE id BETWEEN 4001 AND 4999 AND globex_id IS NOT NULL"), '1', 'it is sent what it has missed');
like(said("DROP SERVER globex"), qr/cannot drop server globex because other objects depend on it/, 'a server that one goes to');
like(said("DROP SERVER globex CASCADE"), qr/attachment "globex" of table "persons" has ended/, 'goes with that attachment');
sql("INSERT INTO persons (id, tenant, full_name, phone, uid) VALUES (4004, 'acme', 'Very last', '9400000004', 'u4004')");
poll_ok($node, $idle, 'the other one captures still');
is(sql("SELECT acme_id IS NOT NULL FROM persons WHERE id = 4004"), 't', 'and is sent');
like(said("SELECT kapture_detach('persons')"), qr/^$/, 'the last one is detached');
is(sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'persons'::regclass"), '0', 'and leaves nothing');

# --- the worker writes ids of one attachment while others come and go
sql("CREATE TABLE busy (id int PRIMARY KEY, full_name text, phone text)");
my $busy = "SELECT kapture_attach('busy', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\"}', server => 'acme', id_column => 'id_%s', name => '%s', filter => 'id > 0')";
sql(sprintf $busy, 'stays', 'stays');
my $failed = '';
foreach my $n (1 .. 10)
{
	my $statements = '';
	foreach my $i (1 .. 10)
	{
		my $id = $n * 100 + $i * 10;
		$statements .= (sprintf($busy, 'goes', 'goes') =~ s/id > 0/false/r)
		  . ";\nINSERT INTO busy SELECT id, 'Busy' || id, (9650000000 + id)::text FROM generate_series($id + 1, $id + 10) id;\nSELECT kapture_detach('busy', name => 'goes');\n";
	}
	$failed .= said($statements) =~ /(ERROR.*)/ ? "$1\n" : '';
}
is($failed, '', 'nobody is in the way of anybody');
poll_ok($node, $idle, 'all is sent');
is(sql("SELECT count(*), count(id_stays) FROM busy"), '1000|1000', 'with its ids');
sql("SELECT kapture_detach('busy')");

# --- one of them knows its rows by a key that is gone, and cannot follow; and by none at all
sql("CREATE TABLE keyed (a int, b int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, full_name text, phone text)");
my $keyed = "SELECT kapture_attach('keyed', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\"}', server => 'acme', name => '%s', id_column => %s, filter => '%s')";
sql(sprintf $keyed, 'beside', 'NULL', 'a < 10');
sql(sprintf $keyed, 'inside', "'kapture_customer_id'", 'a >= 10');
sql("INSERT INTO keyed (a, full_name, phone) VALUES (1, 'Beside', '9670000001'), (11, 'Inside', '9670000011')");
poll_ok($node, $idle, 'a row of each');
like(said("ALTER TABLE keyed DROP b, ADD PRIMARY KEY (a)"), qr/WARNING:  rows of table "keyed" \(attachment "beside"\) are not sent any more, .*HINT:  Call kapture_detach\(\) and kapture_attach\(\) for this attachment/s, 'the attachment is named');
unlike(said("UPDATE keyed SET full_name = full_name || ' II'"), qr/WARNING/, 'changes are captured');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_status WHERE relation = 'keyed'::regclass AND name = 'inside' AND state = 'running' AND pending + in_flight = 0", 'the other one goes on');
like(held('acme'), qr/Inside II/, 'and is sent');
unlike(held('acme'), qr/Beside II/, 'the rows of the first are not');
sql("SELECT kapture_touch('keyed', '11')");
poll_ok($node, "SELECT pending + in_flight = 0 FROM kapture_status WHERE relation = 'keyed'::regclass AND name = 'inside'", 'touched rows are, too');
my $warned = said("ALTER TABLE keyed DROP a CASCADE; INSERT INTO keyed (full_name, phone) VALUES ('Keyless', '9670000021')");
like($warned, qr/WARNING:  changes of table "keyed" \(attachment "(?:beside|inside)"\) are not sent to Kapture\nDETAIL:  It has no primary key/, 'without a key, an attachment whose changes are lost is named');
like(said("SELECT kapture_touch('keyed', '11')"), qr/table "keyed" has no primary key any more/, 'and no row can be touched');
sql("SELECT kapture_detach('keyed')");

# --- two attachments of one account
sql("CREATE TABLE doubled (id int PRIMARY KEY, full_name text, phone text)");
sql("SELECT kapture_attach('doubled', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\"}', server => 'acme', id_column => 'id_$_', name => '$_')") foreach qw(first second);
sql("INSERT INTO doubled VALUES (1, 'Doubled', '9600000001')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'doubled'::regclass AND state = 'parked'", 'a row that both would send is sent by one of them');
like(sql("SELECT message FROM kapture_failures WHERE relation = 'doubled'::regclass"), qr/belongs to the row with key "1" of table public\.doubled \(attachment "(?:first|second)"\) already/, 'the other says whose the customer is');
is((grep { $_->{customer_name} eq 'Doubled' } @{ emulator_get($emulator{acme}, 'customers') }), 1, 'which is there once');
sql("SELECT kapture_detach('doubled')");

# --- customers of two accounts are pulled into one table
my @since = map { strftime('%Y-%m-%d %H:%M:%S', gmtime(time + 19800 - $_)) } (86400, 1);
foreach my $account (qw(one two))
{
	$emulator{$account} = start_emulator();
	sql("BEGIN; CREATE SERVER $account FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator{$account}{url}', timeout '2s', pull_interval '1s', pull_since '$since[0]');
CREATE USER MAPPING FOR CURRENT_USER SERVER $account OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM='); COMMIT");
}
sql("CREATE TABLE mirror (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, full_name text, phone text)");
sql("SELECT kapture_attach('mirror', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\"}', server => '$_', id_column => 'id_$_', name => '$_', pull => true)") foreach qw(one two);
emulator_post($emulator{one}, 'seed', [ { customer_name => 'Pulled', phone => '9700000001', kapture_customer_id => 71, generated => $since[1] } ]);
poll_ok($node, "SELECT count(*) = 1 FROM mirror WHERE id_one = 71 AND id_two IS NOT NULL", 'a customer of one becomes a row, which is added to the other');
is(held('two'), 'Pulled', 'as it is');
my $id = sql("SELECT id_two FROM mirror");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE server = 'two' AND id = $id", 'it is pulled from there');
poll_ok($node, "SELECT NOT EXISTS (SELECT FROM kapture_inbox)", 'nothing waits');
sql("SELECT kapture_update_customer('{\"kapture_customer_id\": \"$id\", \"customer_name\": \"Changed\"}', 'two')");
poll_ok($node, "SELECT full_name = 'Changed' FROM mirror", 'what changes there reaches the row');
poll_ok($node, $idle, 'and is sent on');
is(held('one'), 'Changed', 'to the first');
is(sql("SELECT count(*) FROM mirror"), '1', 'and all that is one row');

# --- a pulled customer moves its row to another partition
sql("SELECT kapture_detach('mirror')");
sql("CREATE TABLE cities (id int GENERATED ALWAYS AS IDENTITY, city text, full_name text, phone text, note text, PRIMARY KEY (id, city)) PARTITION BY LIST (city);
CREATE TABLE cities_goa PARTITION OF cities FOR VALUES IN ('Goa'); CREATE TABLE cities_pune PARTITION OF cities FOR VALUES IN ('Pune');
SELECT kapture_attach('cities', columns => '{\"customer_name\": \"full_name\", \"phone\": \"phone\", \"city\": \"city\"}', server => 'one', pull => true, filter => 'full_name = ''Mover''', on_delete => '{\"zone\": \"deleted\"}')");
emulator_post($emulator{one}, 'seed', [ { customer_name => 'Mover', phone => '9700000002', city => 'Goa', kapture_customer_id => 72, generated => $since[1] } ]);
poll_ok($node, "SELECT count(*) = 1 FROM cities_goa WHERE kapture_customer_id = 72", 'a customer becomes a row of a partition');
sql("SELECT kapture_update_customer('{\"kapture_customer_id\": \"72\", \"city\": \"Pune\"}', 'one')");
poll_ok($node, "SELECT count(*) = 1 FROM cities_pune WHERE kapture_customer_id = 72", 'it moves to another partition, as the customer has moved');
poll_ok($node, $idle, 'nothing waits');
is(sql("SELECT count(*) FROM kapture_history WHERE relation = 'cities'::regclass AND action = 'gone'"), '0', 'it is not taken for deleted');
is((grep { $_->{kapture_customer_id} == 72 } @{ emulator_get($emulator{one}, 'customers') })[0]{zone} // '', '', 'nor is that reported');

# --- a transaction that keeps its snapshot, from before a table was attached, changes the attachment all the same
my $late = "SELECT (SELECT string_agg(paused || ' ' || coalesce(filter, '') || ' ' || server, ' ') FROM kapture_attachment WHERE relation = 'late'::regclass), (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'late'::regclass),"
  . " (SELECT count(*) FROM kapture_row AS r WHERE NOT EXISTS (SELECT FROM kapture_attachment AS a WHERE a.attachment_id = r.attachment_id))";
my $keeps = $node->background_psql('postgres');
$keeps->query_safe('SET client_min_messages = error');
foreach my $case ([ "SELECT kapture_pause('late')", 'true  acme|2|0' ],
	[ "SELECT kapture_alter('late', filter => 'id > 1')", 'false (id > 1) acme|2|0' ],
	[ "SELECT kapture_detach('late')", '|0|0' ],
	[ 'DROP SERVER brief CASCADE', '|0|0' ])
{
	my ($command, $expected) = @$case;
	my $server = $command =~ /brief/ ? 'brief' : 'acme';
	$keeps->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class');
	sql("CREATE SERVER brief FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator{acme}{url}'); CREATE USER MAPPING FOR PUBLIC SERVER brief OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE late (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('late', server => '$server'); INSERT INTO late VALUES (1, 'Late', '9810000001')");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM late", 'a row is sent meanwhile');
	poll_ok($node, $idle, 'and nothing waits');
	$keeps->query_safe("LOCK TABLE late IN ACCESS SHARE MODE; $command; COMMIT");
	is(sql($late), $expected, "$command at isolation level REPEATABLE READ");
	sql('DROP TABLE late; DROP SERVER IF EXISTS brief CASCADE');
}
$keeps->quit;

$node->stop;
done_testing();
