# ALTER EXTENSION UPDATE: an updated database is like a fresh one, and sends
# what waited in it, once.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

# All that the catalogs say of the extension and what belongs to it, in names.
my $members = qq(
SELECT d.classid, d.objid, d.refobjid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'kapture_sync');
my $relations = "SELECT objid FROM members WHERE classid = 'pg_class'::regclass";
my %catalog = (
	'members' => "SELECT pg_describe_object(classid, objid, 0), i.initprivs::text FROM members m"
	  . " LEFT JOIN pg_init_privs i ON i.classoid = m.classid AND i.objoid = m.objid AND i.objsubid = 0",
	'extension' => "SELECT extversion, extrelocatable, extnamespace::regnamespace, obj_description(oid, 'pg_extension'),"
	  . " ARRAY(SELECT c::regclass || ' ' || w FROM unnest(extconfig, extcondition) AS u(c, w) ORDER BY 1)"
	  . " FROM pg_extension WHERE extname = 'kapture_sync'",
	'functions' => "SELECT oid::regprocedure, CASE WHEN prokind IN ('f', 'p') THEN pg_get_functiondef(oid) END,"
	  . " proacl, proowner::regrole, obj_description(oid, 'pg_proc')"
	  . " FROM pg_proc WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_proc'::regclass)",
	'types' => "SELECT t.oid::regtype, typtype, typlen, typbyval, typacl, typowner::regrole, obj_description(t.oid, 'pg_type'),"
	  . " pg_get_expr(typdefaultbin, 0), ARRAY(SELECT enumlabel::text FROM pg_enum e WHERE enumtypid = t.oid ORDER BY enumsortorder)"
	  . " FROM pg_type t WHERE t.oid IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass)"
	  . " OR t.typrelid IN ($relations)",
	'relations' => "SELECT oid::regclass, relkind, relpersistence, relacl, relowner::regrole, reloptions, relrowsecurity,"
	  . " relforcerowsecurity, relreplident, relispartition, obj_description(oid, 'pg_class'),"
	  . " CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END"
	  . " FROM pg_class WHERE oid IN ($relations UNION ALL SELECT typrelid FROM pg_type"
	  . " WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass))",
	# some servers stamp columns with an option of their own, pg_attver
	'columns' => "SELECT a.attrelid::regclass, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,"
	  . " attgenerated, attstorage, attcompression, attcollation, attacl, attisdropped,"
	  . " ARRAY(SELECT o FROM unnest(attoptions) o WHERE split_part(o, '=', 1) <> 'pg_attver') AS options,"
	  . " pg_get_expr(adbin, adrelid), col_description(a.attrelid, attnum)"
	  . " FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
	  . " WHERE attnum > 0 AND a.attrelid IN ($relations UNION ALL SELECT typrelid FROM pg_type"
	  . " WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass))",
	'constraints' => "SELECT conrelid::regclass, conname, contype, condeferrable, condeferred, convalidated,"
	  . " pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conrelid IN ($relations)",
	'indexes' => "SELECT indrelid::regclass, pg_get_indexdef(indexrelid), indisprimary, indisreplident, indisclustered, indisvalid,"
	  . " obj_description(indexrelid, 'pg_class') FROM pg_index WHERE indrelid IN ($relations)",
	'policies' => "SELECT polrelid::regclass, polname, polcmd, polpermissive, polroles::regrole[],"
	  . " pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), obj_description(oid, 'pg_policy')"
	  . " FROM pg_policy WHERE polrelid IN ($relations)",
	'triggers' => "SELECT tgrelid::regclass, tgenabled, pg_get_triggerdef(oid), obj_description(oid, 'pg_trigger')"
	  . " FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN ($relations)",
	'rules' => "SELECT ev_class::regclass, rulename, ev_enabled FROM pg_rewrite WHERE ev_class IN ($relations)",
	'sequences' => "SELECT seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle"
	  . " FROM pg_sequence WHERE seqrelid IN ($relations)",
	'wrappers' => "SELECT fdwname, fdwhandler::regproc, fdwvalidator::regproc, fdwoptions, fdwacl, fdwowner::regrole,"
	  . " obj_description(oid, 'pg_foreign_data_wrapper') FROM pg_foreign_data_wrapper"
	  . " WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_foreign_data_wrapper'::regclass)");

sub catalog
{
	my ($node, $db, $what) = @_;
	return $node->safe_psql($db, "WITH members AS ($members) SELECT row_to_json(x)::text FROM ($catalog{$what}) x ORDER BY 1");
}

# Are two lists of lines equal?  Else shows where they differ.
sub same
{
	my ($got, $expected, $name) = @_;
	my %got = map { $_ => 1 } split /\n/, $got;
	my %expected = map { $_ => 1 } split /\n/, $expected;
	my @differences = ((map { "only here: $_" } grep { !$expected{$_} } sort keys %got),
		map { "missing: $_" } grep { !$got{$_} } sort keys %expected);
	return ok($got eq $expected, $name) || diag(join "\n", @differences);
}

my $emulator = start_emulator();
my $node = new_node('main');

# every released version, brought to the current one
my $current = $node->safe_psql('postgres', "SELECT default_version FROM pg_available_extensions WHERE name = 'kapture_sync'");
my @released = split /\n/, $node->safe_psql('postgres',
	"SELECT version FROM pg_available_extension_versions WHERE name = 'kapture_sync' AND version <> '$current' ORDER BY 1");
cmp_ok(scalar @released, '>=', 1, 'there are earlier versions');
$node->safe_psql('postgres', "CREATE DATABASE fresh");
$node->safe_psql('fresh', "CREATE EXTENSION kapture_sync");
my %fresh = map { $_ => catalog($node, 'fresh', $_) } keys %catalog;
like($fresh{members}, qr/function kapture_attach\(/, 'the comparison sees functions');
like($fresh{columns}, qr/"attname":"row_key".*"col_description":"primary key/, 'and columns with their comments');
foreach my $version (@released)
{
	(my $db = "from_$version") =~ s/\W/_/g;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE EXTENSION kapture_sync VERSION '$version'");
	$node->safe_psql($db, "ALTER EXTENSION kapture_sync UPDATE");
	same(catalog($node, $db, $_), $fresh{$_}, "updated from $version: $_ are those of a fresh $current") foreach sort keys %catalog;
}

# What was granted on functions that are replaced, and what was revoked, is so afterwards.
my $granted = 'granted';
$node->safe_psql('postgres', "CREATE ROLE helper; CREATE ROLE assistant; CREATE ROLE stranger; CREATE DATABASE $granted");
$node->safe_psql($granted, qq(
CREATE EXTENSION kapture_sync VERSION '1.0';
REVOKE EXECUTE ON FUNCTION kapture_retry(regclass, text), kapture_pull(timestamp, timestamp, name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION kapture_retry(regclass, text) TO helper WITH GRANT OPTION;
GRANT EXECUTE ON PROCEDURE kapture_backfill(regclass, integer) TO helper;
SET ROLE helper; GRANT EXECUTE ON FUNCTION kapture_retry(regclass, text) TO assistant));
$node->safe_psql($granted, "ALTER EXTENSION kapture_sync UPDATE");
my $owner = $node->safe_psql($granted, "SELECT current_user");
is($node->safe_psql($granted, "SELECT oid::regprocedure, proacl FROM pg_proc WHERE proname ~ '^kapture_(retry|backfill|pull|pause)\$' ORDER BY oid::regprocedure::text COLLATE \"C\""),
	join("\n", "kapture_backfill(regclass,integer,text)|{=X/$owner,$owner=X/$owner,helper=X/$owner}", 'kapture_pause(regclass,text)|',
		(map { "kapture_pull($_)|{$owner=X/$owner}" } 'date,date,name', 'text,text,name', 'timestamp with time zone,timestamp with time zone,name', 'timestamp without time zone,timestamp without time zone,name'),
		map { "kapture_retry($_)|{$owner=X/$owner,helper=X*/$owner,assistant=X/helper}" } 'regclass,anynonarray,text', 'regclass,text,text'),
	'privileges are those of the functions before, of whoever granted them');
same(catalog($node, $granted, 'members'), $fresh{members}, 'and not the extension\'s own');
like(($node->psql($granted, "SET ROLE stranger; SELECT kapture_retry('pg_class', 1)"))[2], qr/permission denied for function kapture_retry/, 'nobody has gained any');
like(($node->psql($granted, "DROP ROLE helper"))[2], qr/privileges for function kapture_retry/, 'roles that have some are known to have them');
$node->command_like([ 'pg_dump', '-s', '-d', $node->connstr($granted) ], qr/GRANT ALL ON FUNCTION public\.kapture_retry\(relation regclass, row_key text, name text\) TO helper WITH GRANT OPTION/,
	'and a dump has them');

# A database of 1.0 in the midst of its work, as the tables of 1.0 hold it, under
# the library of the current version.  What 1.0 says is written here by hand: its
# library is no more.
my $requests = sub { emulator_get($emulator, 'stats')->{requests} };
my $db = 'old';
$node->safe_psql('postgres', "CREATE DATABASE $db");
$node->safe_psql($db, qq(
CREATE EXTENSION kapture_sync VERSION '1.0';
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '1s');
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text, kapture_customer_id bigint);
INSERT INTO customers (id, customer_name, phone) VALUES (11, 'Parked', '12'), (12, 'Due', '9400000012'), (13, 'Lost', '9400000013');
INSERT INTO kapture_attachment (attachment_id, relation, server, key_columns) VALUES (DEFAULT, 'customers', 'kapture', '{id}');
INSERT INTO kapture_column SELECT 1, row_number() OVER (ORDER BY attnum) - 1, attname, attname, attnum
  FROM pg_attribute WHERE attrelid = 'customers'::regclass AND attname IN ('customer_name', 'phone', 'email_id', 'city');
CREATE TRIGGER kapture_capture AFTER INSERT OR DELETE OR UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION kapture_capture();
CREATE TRIGGER kapture_truncate AFTER TRUNCATE ON customers FOR EACH STATEMENT EXECUTE FUNCTION kapture_capture();
INSERT INTO kapture_delivery (attachment_id, row_key, state, changed, failures, captured_at, last_attempt, api, http_status, last_error)
  VALUES (1, '11', 'parked', 3, 1, now(), now(), 'add', 400, 'Invalid phone number');
INSERT INTO kapture_delivery (attachment_id, row_key, state, changed, failures, captured_at, last_attempt, next_attempt, api, http_status, last_error)
  VALUES (1, '12', 'retry', 3, 1, now(), now(), now(), 'add', 503, 'the server is unwell');
INSERT INTO kapture_delivery (attachment_id, row_key, state, changed, captured_at, last_attempt, api, sent_phone)
  VALUES (1, '13', 'sending', 3, now(), now(), 'add', '9400000013');
INSERT INTO kapture_history VALUES (1, '1', 'add', 1, 1, now(), now(), 200, NULL);
INSERT INTO kapture_refresh_run (server, start_date, end_date) VALUES ('kapture', '2021-03-14', '2021-03-15');
INSERT INTO kapture_origin (system_identifier, database, timeline) SELECT s.system_identifier, d.oid, c.timeline_id
  FROM pg_control_system() s, pg_control_checkpoint() c, pg_database d WHERE datname = current_database();
-- last, as it wakes the worker, which nobody tells of tables attached by hand
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
));
my $before = $requests->();

# the worker waits for the update, and says so, once
poll_ok($node, "SELECT server_state = 'outdated' FROM kapture_status", 'the worker says that the extension is outdated', $db);
is($node->safe_psql($db, "SELECT server_message FROM kapture_status"),
	"the extension is of version 1.0, the library of version $current: Use ALTER EXTENSION kapture_sync UPDATE.", 'and what to do');
my $worker = $node->safe_psql($db, "SELECT kapture_worker_pid()");
$node->safe_psql($db, "ALTER SERVER kapture OPTIONS (SET timeout '2s')");
$node->reload;
$node->safe_psql($db, qq(
INSERT INTO customers (id, customer_name, phone) VALUES (1, 'Waits', '9400000001'), (2, 'Rolled over', '9400000002');
UPDATE customers SET city = 'Pune' WHERE id = 1;
DELETE FROM customers WHERE id = 2));
is($node->safe_psql($db, "SELECT pending, in_flight, retrying, parked FROM kapture_status"), '4|1|1|1', 'changes are captured all the same');
is($node->safe_psql($db, "SELECT row_key, state FROM kapture_failures ORDER BY 1"), "11|parked\n12|retry", 'the views can be read');
is($node->safe_psql($db, "SELECT count(*) FROM kapture_history"), '1', 'and the history');
is($node->safe_psql($db, "SELECT activity, state FROM kapture_progress"), 'refresh|interrupted', 'and the progress');
is($requests->(), $before, 'nothing is sent');
like($node->safe_psql($db, q(SELECT kapture_add_customer('{"customer_name": "Direct", "phone": "9500000001"}'))), qr/success/, 'calls work');
is($node->safe_psql($db, q(SELECT phone FROM kapture_find_customers('{"phone": "9500000001"}'))), '9500000001', 'with rows, too');
foreach my $call ("SELECT kapture_attach('customers')", "SELECT kapture_detach('customers')", "SELECT kapture_pause('customers')",
	"SELECT kapture_resume('customers')", "SELECT kapture_resume()", "SELECT kapture_retry('customers')", "SELECT kapture_discard('customers')",
	"SELECT * FROM kapture_preview('customers', '11')", "CALL kapture_backfill('customers')", "CALL kapture_refresh('2021-03-14', '2021-03-15')")
{
	my ($rc, $out, $err) = $node->psql($db, $call);
	like($err, qr/version 1\.0.*HINT:  Use ALTER EXTENSION kapture_sync UPDATE\./s, "$call says what to do first");
}
my ($rc, $out, $err) = $node->psql($db, "ALTER TABLE customers RENAME COLUMN city TO town; ALTER TABLE customers RENAME COLUMN town TO city");
is($rc, 0, 'a mapped column can be renamed');
($rc, $out, $err) = $node->psql($db, "BEGIN; ALTER TABLE customers DISABLE TRIGGER ALL; DROP TRIGGER kapture_capture ON customers; DROP TABLE customers; ROLLBACK", on_error_stop => 1);
is($rc, 0, 'triggers can be disabled and dropped, and the table be dropped') or diag($err);
is($node->safe_psql($db, "SELECT kapture_worker_pid()"), $worker, 'the worker has not come and gone');
my @said = slurp_file($node->logfile) =~ /sends nothing in database "old": the extension is of version 1\.0/g;
is(scalar @said, 1, 'and has said it once');
$node->restart;
poll_ok($node, "SELECT server_state = 'outdated' FROM kapture_status", 'nor does a restart change anything', $db);

# after the update it goes on by itself
my $contents = join ' UNION ALL ', map { "SELECT '$_' AS name, to_jsonb(t) AS content FROM $_ t" }
  qw(kapture_attachment kapture_column kapture_outbox kapture_delivery kapture_history);
$node->safe_psql($db, "UPDATE kapture_attachment SET paused = true");
$node->safe_psql($db, "CREATE TABLE kept AS $contents");
emulator_post($emulator, 'reset', {});
$node->safe_psql($db, "ALTER EXTENSION kapture_sync UPDATE");
is($node->safe_psql($db, "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM ($contents) c),"
	  . " (SELECT count(*) FROM kept k WHERE k.content ->> 'state' IS DISTINCT FROM 'sending' AND EXISTS (SELECT FROM ($contents) c WHERE c.name = k.name AND c.content @> k.content))"),
	'13|13|12', 'every row of its tables is as it was, but for new columns, and what was being sent');
poll_ok($node, "SELECT state = 'paused' FROM kapture_status", 'the worker has noticed', $db);
$node->safe_psql($db, "SELECT kapture_resume('customers')");
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status", 'what waited is sent', $db);
is($node->safe_psql($db, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM customers WHERE kapture_customer_id IS NOT NULL"), '1 12 13', 'the rows have their ids');
is($node->safe_psql($db, "SELECT row_key, state FROM kapture_failures"), '11|parked', 'what was parked still is');
is($node->safe_psql($db, "SELECT count(*) FROM kapture_history WHERE row_key = '1'"), '2', 'the history goes on');
$node->safe_psql($db, "UPDATE customers SET phone = '9400000011' WHERE id = 11");
poll_ok($node, "SELECT pending + in_flight + parked = 0 FROM kapture_status", 'and is sent when it is corrected', $db);
oracle_ok($node, $emulator, 'nothing is lost or sent twice', $db);
is(emulator_get($emulator, 'stats')->{duplicate_refusals}, 0, 'nor was it offered twice');
is($node->safe_psql($db, "SELECT kapture_library_version()"), $current, 'the library says its version');

# a table that 1.0 attached gets what only the current version has
$node->safe_psql($db, qq(
CREATE TABLE places (customer_id bigint, place text);
CREATE VIEW mapped AS SELECT c.id, upper(c.customer_name) AS customer_name, c.phone, p.place AS city FROM customers c LEFT JOIN places p ON p.customer_id = c.id;
SELECT kapture_alter('customers', source => 'mapped', filter => 'id <> 13', on_leave => '{"campaign_name": "left"}');
SELECT kapture_follow('places', 'customers', 'target.id = source.customer_id');
INSERT INTO places VALUES (12, 'Goa');
SELECT kapture_touch('customers', '13')));
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status", 'a mapping and a followed table', $db);
is(join(' ', sort map { "$_->{phone} $_->{customer_name} " . ($_->{city} // '') . ($_->{campaign_name} // '') } grep { $_->{phone} =~ /^94000000(12|13)$/ } @{ emulator_get($emulator, 'customers') }),
	'9400000012 DUE Goa 9400000013 Lost left', 'are followed at once');

# An extension newer than the library that still runs.
$node->safe_psql('postgres', "CREATE DATABASE newer");
setup_sync($node, $emulator, db => 'newer');
create_customers($node, db => 'newer');
poll_ok($node, "SELECT server_state = 'ok' FROM kapture_status", 'a worker runs', 'newer');
$node->safe_psql('newer', "UPDATE pg_extension SET extversion = '$current.1' WHERE extname = 'kapture_sync'; ALTER SERVER kapture OPTIONS (SET timeout '3s')");
poll_ok($node, "SELECT state = 'outdated' AND server_message LIKE '%of version $current.1,%restart the server.' FROM kapture_status",
	'under a newer extension it waits for a newer library', 'newer');
$node->safe_psql('newer', "INSERT INTO customers (customer_name, phone) VALUES ('Newer', '9600000001')");
is($node->safe_psql('newer', "SELECT pending FROM kapture_status"), '1', 'changes are captured');
($rc, $out, $err) = $node->psql('newer', "SELECT kapture_pause('customers')");
like($err, qr/HINT:  Install the library of that version/, 'and the functions say what to do');
$node->safe_psql('newer', "UPDATE pg_extension SET extversion = '$current' WHERE extname = 'kapture_sync'; ALTER SERVER kapture OPTIONS (SET timeout '2s')");
poll_ok($node, "SELECT state = 'running' AND pending + in_flight = 0 FROM kapture_status", 'with the right one it goes on', 'newer');

$node->stop;
done_testing();
