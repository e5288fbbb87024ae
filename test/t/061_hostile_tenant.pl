# A role with nothing but a table of its own, a server and a mapping learns
# nothing of others, runs nothing as anybody else, sends nothing where it may
# not, and holds nobody up.  (033_privileges.pl has the ordinary cases.)
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $other = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
my $key = 'a2FwZGVtbzprYXAxMjM=';
my $alices_key = 'c2VjcmV0LWtleS1vZi1hbGljZQ==';
my $marker = 'Topsecret';
emulator_post($emulator, 'keys', { all => $alices_key });

# as mallory: what she sees, errors and notices included
sub mallory
{
	my ($statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $statement, connstr => $node->connstr('postgres') . ' user=mallory', on_error_stop => 0);
	return "$out\n$err";
}

$node->append_conf('postgresql.conf', "kapture_sync.notify = on\n");
$node->reload;
sql(qq(
CREATE EXTENSION kapture_sync;
CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN;
CREATE SCHEMA AUTHORIZATION alice; CREATE SCHEMA AUTHORIZATION mallory;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '3s');
CREATE SERVER other FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$other->{url}', timeout '3s');
GRANT USAGE ON FOREIGN SERVER kapture TO alice;
GRANT USAGE ON FOREIGN SERVER other TO mallory;
CREATE USER MAPPING FOR alice SERVER kapture OPTIONS (auth_key '$alices_key');
CREATE USER MAPPING FOR mallory SERVER other OPTIONS (auth_key '$key');
SET ROLE alice;
CREATE TABLE alice.customers (id text PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('alice.customers');
INSERT INTO alice.customers VALUES ('$marker 1', '$marker good', '9600000001'), ('$marker 2', '$marker bad', '12');
RESET ROLE;
));
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE state = 'parked'", 'alice has a customer and a failure');
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM alice.customers", 'and an id');
sql("SELECT kapture_pause('alice.customers'); SET ROLE alice; INSERT INTO alice.customers VALUES ('$marker 3', '$marker waiting', '9600000003')");
mallory("CREATE TABLE mallory.mine (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('mallory.mine', server => 'other'); INSERT INTO mine VALUES (1, 'Mine', '9700000001');");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM mallory.mine", 'mallory has one, too');

# --- reading: every relation and function of the extension
my $secret = qr/$marker|\Q$alices_key\E|96000000|alice|$emulator->{port}/;
my @relations = split /\n/, sql("SELECT c.relname FROM pg_depend d JOIN pg_class c ON c.oid = d.objid WHERE d.classid = 'pg_class'::regclass AND deptype = 'e'"
	  . " AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync') AND c.relkind IN ('r', 'v', 'p', 'S') ORDER BY 1");
mallory(q(CREATE FUNCTION mallory.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE 'leaked %', $1; RETURN true; END $$));
foreach my $relation (@relations)
{
	unlike(mallory("SELECT * FROM $relation"), $secret, "$relation says nothing of others");
	unlike(mallory("SELECT count(*) FROM $relation r WHERE leak(r::text)"), $secret, 'nor by a function that tells');
	unlike(mallory("COPY $relation TO STDOUT"), $secret, 'nor by COPY');
	next if $relation eq 'kapture_history';
	like(mallory("INSERT INTO $relation SELECT * FROM $relation; DELETE FROM $relation; UPDATE $relation SET server = server"), qr/permission denied|cannot/, 'and cannot be written');
}
unlike(mallory("SELECT * FROM pg_stats WHERE tablename LIKE 'kapture%'"), $secret, 'nor do the statistics of the planner');
unlike(mallory("SELECT * FROM pg_user_mappings; SELECT * FROM pg_stat_activity; SELECT * FROM pg_stat_user_tables WHERE relname LIKE 'kapture%'; SELECT * FROM pg_settings WHERE name LIKE 'kapture%'") =~ s/alice(?=\||$)//gmr,
	qr/$marker|\Q$alices_key\E/, 'nor the system views');
foreach my $call ("kapture_queue(1)", "kapture_server_states()", "kapture_request_counters()", "kapture_preview('alice.customers', '$marker 1')", "kapture_check('kapture')",
	"kapture_find_customers('{\"phone\": \"9600000001\"}', 'kapture')", "kapture_pull_customers('2021-01-01', '2021-01-02', 'kapture')",
	"kapture_customer_rows('{}', 'kapture')")
{
	my $said = mallory("SELECT * FROM $call");
	$said =~ s/^LINE.*|^QUERY.*//mg;
	unlike($said =~ s/\Q$call\E//r, qr/$marker (?:good|bad|waiting)|\Q$alices_key\E|96000000|$emulator->{port}/, "$call says nothing");
}
is(mallory("SELECT kapture_may_see(1)"), "f\n", 'kapture_may_see knows');
my $heard = mallory("LISTEN kapture_sync; SELECT pg_sleep(0.1); SELECT 1");
unlike($heard, qr/$marker/, 'notifications have no rows in them');

# --- her code, as herself
sql("CREATE TABLE public.booty (what text)");
mallory(q(
CREATE TABLE mallory.seen (what text, who text, session text);
CREATE FUNCTION mallory.evil(what text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	attempt text;
BEGIN
	INSERT INTO mallory.seen VALUES (what, current_user, session_user);
	FOREACH attempt IN ARRAY ARRAY['ALTER ROLE mallory SUPERUSER', 'SET ROLE postgres', 'RESET ROLE', 'SET SESSION AUTHORIZATION postgres', 'INSERT INTO public.booty VALUES (''x'')',
		'INSERT INTO public.booty SELECT options::text FROM pg_catalog.pg_user_mappings', 'GRANT postgres TO mallory', 'UPDATE alice.customers SET phone = NULL',
		'SET LOCAL ROLE alice', 'ALTER SERVER kapture OPTIONS (SET url ''https://example.com'')'] LOOP
		BEGIN
			EXECUTE attempt;
			IF current_user <> 'mallory' OR attempt !~ '^RESET' THEN INSERT INTO mallory.seen VALUES (attempt, 'succeeded', current_user); END IF;
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
END $$;
CREATE FUNCTION mallory.evil_text(what text, value text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mallory.evil(what); RETURN value; END $$;
CREATE FUNCTION mallory.evil_bool(what text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mallory.evil(what); RETURN true; END $$;
CREATE FUNCTION mallory.evil_trigger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.evil('trigger ' || TG_ARGV[0]); RETURN NEW; END $$;
));
my @shapes = (
	[ 'generated', "id int PRIMARY KEY, customer_name text, phone text, extra text GENERATED ALWAYS AS (mallory.evil_text('generated', phone)) STORED" ],
	[ 'check', "id int PRIMARY KEY, customer_name text, phone text, CHECK (mallory.evil_bool('check'))" ],
	[ 'index', 'id int PRIMARY KEY, customer_name text, phone text', "CREATE INDEX ON mallory.index (mallory.evil_text('index', phone)) WHERE mallory.evil_bool('index')" ],
	[ 'domain', 'id int PRIMARY KEY, customer_name text, phone mallory.evil_domain', '', "CREATE DOMAIN mallory.evil_domain AS text CHECK (mallory.evil_bool('domain'))" ],
	[ 'cast', 'id int PRIMARY KEY, customer_name mallory.evil_type, phone text', '',
		"CREATE TYPE mallory.evil_type AS (a text); CREATE FUNCTION mallory.evil_out(mallory.evil_type) RETURNS text LANGUAGE plpgsql AS \$\$ BEGIN PERFORM mallory.evil('cast'); RETURN 'Cast'; END \$\$;"
		  . " CREATE CAST (mallory.evil_type AS text) WITH FUNCTION mallory.evil_out(mallory.evil_type)" ],
	[ 'rule', 'id int PRIMARY KEY, customer_name text, phone text', "CREATE RULE evil AS ON UPDATE TO mallory.rule DO ALSO SELECT mallory.evil('rule')" ],
	[ 'policy', 'id int PRIMARY KEY, customer_name text, phone text', "ALTER TABLE mallory.policy ENABLE ROW LEVEL SECURITY; CREATE POLICY evil ON mallory.policy USING (mallory.evil_bool('policy'))" ],
	[ 'force', 'id int PRIMARY KEY, customer_name text, phone text', "ALTER TABLE mallory.force ENABLE ROW LEVEL SECURITY; ALTER TABLE mallory.force FORCE ROW LEVEL SECURITY; CREATE POLICY evil ON mallory.force USING (mallory.evil_bool('policy'))" ],
	[ 'parted', 'id int PRIMARY KEY, customer_name text, phone text', "CREATE TABLE mallory.parted_1 PARTITION OF mallory.parted DEFAULT" ],
	(map { [ $_, 'id int PRIMARY KEY, customer_name text, phone text',
			"CREATE " . ($_ =~ /deferred/ ? 'CONSTRAINT' : '') . " TRIGGER evil " . ($_ =~ /before/ ? 'BEFORE' : 'AFTER') . " UPDATE ON mallory.$_ " . ($_ =~ /deferred/ ? 'DEFERRABLE INITIALLY DEFERRED' : '')
			  . " FOR EACH ROW EXECUTE FUNCTION mallory.evil_trigger('$_')" ] } qw(before after deferred)));
my $n = 0;
foreach my $shape (@shapes)
{
	my ($name, $columns, $after, $first) = @$shape;
	my $tail = $name eq 'parted' ? ' PARTITION BY LIST (id)' : '';
	$n++;
	my $said = mallory(($first ? "$first;" : '') . "CREATE TABLE mallory.$name ($columns)$tail; SELECT kapture_attach('mallory.$name', server => 'other'); $after;"
		  . "INSERT INTO mallory.$name (id, customer_name, phone) VALUES (1, " . ($name eq 'cast' ? "ROW('x')" : "'$name'") . ", '" . (9700000100 + $n) . "')");
	unlike($said, qr/ERROR/, "$name is attached");
}
poll_ok($node, "SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status s WHERE s.relation <> 'alice.customers'::regclass", 'all of them are dealt with');
is(sql("SELECT count(*) FROM mallory.seen WHERE session = 'postgres' AND who = 'mallory'") > 5 ? 1 : 0, 1, 'her code ran in the worker');
is(sql("SELECT string_agg(DISTINCT who, ' ') FROM mallory.seen"), 'mallory', 'as nobody but her');
is(sql("SELECT count(*) FROM public.booty"), '0', 'and took nothing');
is(sql("SELECT count(*) FROM pg_roles WHERE rolname = 'mallory' AND rolsuper OR pg_has_role('mallory', 'postgres', 'MEMBER') AND rolname = 'mallory'"), '0', 'nor rights');
is(sql("SELECT count(*) FROM alice.customers WHERE phone IS NULL"), '0', 'nor changed what is another\'s');

# --- where requests go
sql("GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO mallory");
foreach my $url ('file:///etc/passwd', 'gopher://127.0.0.1:1/x', 'ftp://127.0.0.1/', 'dict://127.0.0.1:11211/stat', 'unix:///tmp/.s.PGSQL.5432', 'http://%2Ftmp%2F.s.PGSQL.5432/', 'https://user:pw@example.com',
	'http://169.254.169.254', 'http://[::ffff:169.254.169.254]', 'http://127.0.0.1@169.254.169.254', 'http://169.254.169.254#@127.0.0.1', 'http://0.0.0.0', 'http://[::]', 'http://localhost.example.com',
	'http://127.0.0.1.example.com', "http://127.0.0.1/\r\nX: y", 'http://127.0.0.1/?x=y', 'http:\\\\169.254.169.254', '//169.254.169.254', 'http:///x', 'http://')
{
	my $quoted = $url =~ s/\r\n/\\r\\n/r;
	like(mallory("CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url E'" . ($url =~ s/\\/\\\\/gr =~ s/\r\n/\\r\\n/r) . "')"), qr/invalid value for option "url"/, "$quoted is no server");
}
foreach my $option ("add_path '\@example.com/'", "add_path 'http://example.com/'", "add_path E'/x HTTP/1.1\\r\\nHost: y'", "add_path E'/\\r\\n\\r\\nPOST /y'", "add_path '/a b'", "headers '{\"X\": \"a\\r\\nHost: example.com\"}'",
	"headers '{\"X\\r\\nY\": \"a\"}'", "headers '{\"Host\": \"example.com\"}'", "headers '{\"Content-Length\": \"0\"}'", "headers '{\"Transfer-Encoding\": \"chunked\"}'", "headers '{\"X:Y\": \"a\"}'",
	"ca_file 'relative'", "ca_file ''")
{
	like(mallory("CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://example.com', $option)"), qr/invalid value for option/, "no $option");
}
like(mallory("ALTER USER MAPPING FOR mallory SERVER other OPTIONS (SET auth_key E'x\\r\\nX-Evil: 1')"), qr/invalid value for option/, 'no header by way of a key');
like(mallory("ALTER SERVER other OPTIONS (SET url '$emulator->{url}')"), qr/must be owner/, 'a server is its owner\'s to change');
like(mallory("ALTER SERVER kapture OPTIONS (SET url 'https://example.com')"), qr/must be owner/, 'another one, too');
like(mallory("CREATE USER MAPPING FOR alice SERVER other OPTIONS (auth_key 'x')"), qr/permission denied|must be owner/, 'nobody gets a mapping from her');
foreach my $path ('//example.com/x', '/@example.com', '/../../x', '/%0d%0aX:y')
{
	mallory("CREATE SERVER mine FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$other->{url}', add_path '$path'); CREATE USER MAPPING FOR mallory SERVER mine OPTIONS (auth_key '$key')");
	like(mallory("SELECT kapture_add_customer('{\"customer_name\": \"x\"}', 'mine')"), qr/HTTP code 404/, "$path is a path at the same server");
	mallory("DROP SERVER mine CASCADE");
}
# what reaches a name that is not this machine after all is refused at the last moment: see calls.sql

# --- holding others up
sql("SELECT kapture_discard('alice.customers'); SELECT kapture_resume('alice.customers'); DELETE FROM alice.customers");
poll_ok($node, "SELECT pending + in_flight + retrying + parked = 0 FROM kapture_status WHERE relation = 'alice.customers'::regclass", 'alice has nothing waiting');
my $alices = 9600001000;
sub alice_is_served
{
	my ($name) = @_;
	$alices++;
	sql("SET ROLE alice; INSERT INTO alice.customers VALUES ('$alices', 'Alice', '$alices')");
	return poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM alice.customers WHERE id = '$alices'", $name);
}
foreach my $slow ('PERFORM pg_sleep(100000)', 'LOOP END LOOP', 'LOOP BEGIN PERFORM pg_sleep(100000); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP')
{
	mallory("CREATE OR REPLACE FUNCTION mallory.slow() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN IF current_setting('application_name') !~ 'psql|slow' THEN $slow; END IF; RETURN NEW; END \$\$;"
		  . "CREATE TABLE IF NOT EXISTS mallory.slow (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);"
		  . "SELECT kapture_attach('mallory.slow', server => 'other'); CREATE OR REPLACE TRIGGER slow BEFORE UPDATE ON mallory.slow FOR EACH ROW EXECUTE FUNCTION mallory.slow();"
		  . "INSERT INTO mallory.slow SELECT i, 'Slow', 9701000000 + i FROM generate_series(1, 50) i;");
	alice_is_served("alice is served beside: $slow");
	poll_ok($node, "SELECT count(*) > 0 FROM kapture_failures WHERE relation = 'mallory.slow'::regclass AND state = 'parked' AND message LIKE '%took longer than 5 s'", 'the slow rows are parked') unless $slow =~ /query_canceled/;
	poll_ok($node, "SELECT count(*) > 0 FROM kapture_failures WHERE relation = 'mallory.slow'::regclass AND state = 'parked' AND message LIKE '%took no notice of being cancelled%'", 'those that end the worker are, too') if $slow =~ /query_canceled/;
	mallory("DROP TABLE mallory.slow");
}
alice_is_served('and afterwards');

# a lock on her table for as long as she likes, while the worker begins anew
my ($in, $out) = ('', '');
my $locker = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' user=mallory' ], '<', \$in, '>', \$out, '2>&1');
$in .= "BEGIN; LOCK TABLE mallory.mine; SELECT 'locked';\n";
$locker->pump until $out =~ /locked/;
alice_is_served('alice is served while a table is locked');
sql("SELECT pg_terminate_backend(kapture_worker_pid())");
alice_is_served('and by a new worker');
sql("ALTER SERVER kapture OPTIONS (SET timeout '4s')");
alice_is_served('and after a change of her server');
$in .= "ROLLBACK;\n\\q\n";
$locker->finish;

# the locks by which the extension's processes know of each other: SQL cannot take them
my $locks = sql("SELECT string_agg(format('SELECT pg_advisory_lock(%s, %s), pg_advisory_lock(%s)', classid, objid, (classid::bigint << 32) + objid::bigint), '; ')"
	  . " FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND objsubid > 0 AND pid = kapture_worker_pid()");
like($locks, qr/^SELECT pg_advisory_lock/, 'a worker has a lock');
($in, $out) = ('', '');
$locker = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres') . ' user=mallory' ], '<', \$in, '>', \$out, '2>&1');
$in .= "SET lock_timeout = '5s'; $locks; SELECT 'tried';\n";
$locker->pump until $out =~ /tried/;
unlike($out, qr/ERROR/, 'numbers like those of a lock of ours are free');
restart_worker($node, 'who has them keeps no worker from beginning');
alice_is_served('which serves alice');
$in .= "\\q\n";
$locker->finish;

# a pipe for a file of certificates
my $pipe = PostgreSQL::Test::Utils::tempdir() . '/pipe';
mkfifo($pipe, 0644) or die "mkfifo: $!";
mallory("CREATE SERVER piped FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://127.0.0.1:$other->{port}', ca_file '$pipe'); CREATE USER MAPPING FOR mallory SERVER piped OPTIONS (auth_key '$key');"
	  . "CREATE TABLE mallory.piped (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('mallory.piped', server => 'piped'); INSERT INTO mallory.piped VALUES (1, 'Piped', '9702000000')");
poll_ok($node, "SELECT server_state = 'misconfigured' FROM kapture_status WHERE relation = 'mallory.piped'::regclass", 'a server that cannot be used is said to be so');
alice_is_served('alice is served beside it');

# endless rows, to a server that takes its time
emulator_faults($other, { action => 'delay', ms => 300 });
mallory("INSERT INTO mallory.mine SELECT i, 'Many', 9710000000 + i FROM generate_series(10, 50000) i");
alice_is_served('alice is served before 50,000 rows of another');
cmp_ok(sql("SELECT count(*) FROM mallory.mine WHERE kapture_customer_id IS NULL"), '>', 10000, 'which still wait');

# changing what is hers does not wake what is another's
emulator_post($emulator, 'keys', { all => 'another' });
sql("SET ROLE alice; INSERT INTO alice.customers SELECT 'Denied ' || i, 'Alice', 9600002000 + i FROM generate_series(1, 100) i");
poll_ok($node, "SELECT server_state = 'denied' AND in_flight = 0 FROM kapture_status WHERE relation = 'alice.customers'::regclass", "alice's key is refused");
my $before = emulator_get($emulator, 'stats')->{requests};
for my $i (1 .. 20)
{
	mallory("ALTER USER MAPPING FOR mallory SERVER other OPTIONS (SET auth_key '$key'); CREATE SERVER m$i FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://example.com')");
}
sql("SET ROLE mallory; INSERT INTO mallory.seen VALUES ('end')");
cmp_ok(emulator_get($emulator, 'stats')->{requests} - $before, '<=', 2, "others' changes do not make it be tried again");

# commands she may not run do not end the worker, though she may create databases
sql("ALTER ROLE mallory CREATEDB");
my $worker = sql("SELECT kapture_worker_pid()");
like(mallory("CREATE DATABASE copied TEMPLATE postgres"), qr/permission denied to copy database/, 'she cannot copy the database');
like(mallory("\\c template1\nALTER DATABASE postgres RENAME TO hers;\nDROP DATABASE postgres;\nALTER DATABASE postgres SET TABLESPACE pg_default"),
	qr/(must be owner of database postgres.*){3}/s, 'nor have it to herself');
is(sql("SELECT kapture_worker_pid()"), $worker, 'and the worker stays for all her trying');

$node->stop('immediate');
done_testing();
