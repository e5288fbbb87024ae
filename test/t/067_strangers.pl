# What a role without any grant sees: no key, no password, no secret header, and no
# value of others' rows, whatever goes well or wrong; nor are they in the server log.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
# debug5 of everything, but for statements as users type them
$node->append_conf('postgresql.conf', qq(
log_min_messages = debug5
log_statement = none
log_min_error_statement = panic
log_connections = off
kapture_sync.notify = on));
$node->restart;

# what nobody else may see
my %secrets = (
	'a key' => 'c3dvcmRmaXNoOm9ubHk=',
	'a key of one API' => 'Z2V0LXN3b3JkZmlzaA==',
	'a password' => 'pass-swordfish',
	'a header of the mapping' => 'header-swordfish',
	'a name' => 'Zanzibar',
	'a phone' => '96543000',
	'an email' => 'zan@zibar',
	'a city' => 'Yttriopolis',
	"what Kapture said of a row" => 'Xanadulia',
	"a pulled customer" => 'Qwertzburg',
	"a row's key" => 'key-of-dar');
my $secret = join '|', map { "\Q$_\E" } values %secrets;

# all that a role gets to see: results, errors, notices
sub as_role
{
	my ($role, $statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $statement, extra_params => [ '-U', $role ], on_error_stop => 0);
	# psql repeats what it was given
	return ($out . "\n" . $err) =~ s/^LINE.*//gmr;
}
sub stranger { return as_role('stranger', "\\set VERBOSITY verbose\n$_[0]") }
sub set_keys
{
	emulator_post($emulator, 'keys', { all => $secrets{'a key'} });
	emulator_post($emulator, 'keys', { get => $secrets{'a key of one API'} });
	return;
}

sub shows_nothing
{
	my ($text, $name) = @_;
	my @found = grep { $text =~ /\Q$secrets{$_}\E/ } sort keys %secrets;
	ok(!@found, $name) or diag("shows @found: " . join "\n", (grep { /$secret/ } split /\n/, $text)[ 0 .. 4 ]);
	return;
}

sql(q(
CREATE ROLE alice LOGIN; CREATE ROLE stranger LOGIN;
CREATE EXTENSION kapture_sync;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO alice;
CREATE SCHEMA alice AUTHORIZATION alice;
GRANT INSERT, SELECT, UPDATE, DELETE ON kapture_customers, kapture_contacts, kapture_refresh_run TO alice));
set_keys();
emulator_post($emulator, 'seed', [ { customer_name => 'Qwertzburg', phone => '9654300099', email_id => 'zan@zibar.example.com', generated => ago(3600) } ]);
my $told = as_role('alice', qq(
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s', headers '{"x-api-type": "crm"}');
CREATE USER MAPPING FOR alice SERVER kapture OPTIONS (auth_key '$secrets{'a key'}', get_auth_key '$secrets{'a key of one API'}', headers '{"x-tenant": "$secrets{'a header of the mapping'}"}');
CREATE SERVER by_password FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s');
CREATE USER MAPPING FOR alice SERVER by_password OPTIONS ("user" 'swordfish', password '$secrets{'a password'}');
CREATE TABLE alice.customers (id text PRIMARY KEY, customer_name text, phone text, email_id text, city text);
CREATE FUNCTION alice.refuse() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN IF NEW.customer_name ~ 'refused' THEN RAISE EXCEPTION 'refused: % % %', NEW.id, NEW.customer_name, NEW.phone; END IF; RETURN NEW; END \$\$;
CREATE TRIGGER refuse BEFORE UPDATE ON alice.customers FOR EACH ROW EXECUTE FUNCTION alice.refuse();
CREATE TABLE alice.by_password (id text PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('alice.customers', pull => true), kapture_attach('alice.by_password', server => 'by_password');
CREATE FOREIGN TABLE alice.remote (id bigint, name text, phone text, email text) SERVER kapture));
unlike($told, qr/ERROR/, 'alice has two servers and two tables') or diag($told);

# nobody waits for a lock on what is not theirs, and has others wait behind
my $oid = sql("SELECT 'alice.customers'::regclass::oid");
my $locker = $node->background_psql('postgres', on_error_stop => 1);
$locker->query_safe('BEGIN; LOCK TABLE alice.customers IN ACCESS EXCLUSIVE MODE');
foreach my $call (qw(kapture_attach kapture_detach kapture_alter kapture_pause kapture_resume kapture_retry kapture_discard kapture_dry_run kapture_verify kapture_match),
	"kapture_touch('$oid', '1')", "kapture_id('$oid', '1')", "kapture_forget_id('$oid', '1')", "kapture_follow('$oid', '$oid', 'true')")
{
	my $sql = $call =~ /\(/ ? $call : "$call('$oid')";
	like(stranger("SET lock_timeout = '5s'; SELECT * FROM $sql"), qr/ERROR:  42501: (?:must be owner of|permission denied for) table customers/, "$call: refused before the lock is waited for");
}
$locker->query_safe('ROLLBACK');
$locker->quit;

# somebody who only listens
my $listener = $node->background_psql('postgres', extra_params => [ '-U', 'stranger' ]);
$listener->set_query_timer_restart();
$listener->query_safe('LISTEN kapture_sync');

# every relation there is, every view of ours once more under EXPLAIN, every function of ours
my @relations = split /\n/, sql(q(
SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'v', 'm', 'p', 'f', 'S', 't') AND nspname !~ '^pg_temp' ORDER BY 1));
my @ours = grep { /^kapture_/ } @relations;
my @calls = ((map { ("kapture_queue($_)", "kapture_table_problem($_)", "kapture_may_see($_)") } 1 .. 3),
	'kapture_server_states()', 'kapture_request_counters()', 'kapture_worker_pid()', 'kapture_puller_pid()', 'kapture_library_version()', 'kapture_stat_reset()', 'kapture_resume()',
	(map { my $server = $_; map { "$_, '$server')" } "kapture_add_customer('{\"customer_name\": \"x\"}'", "kapture_update_customer('{\"kapture_customer_id\": \"65033646\"}'", "kapture_get_customer('{\"phone\": \"9\"}'",
			"kapture_find_customers('{\"phone\": \"9\"}'", "kapture_pull('2021-01-01', '2021-01-02'", "kapture_pull_customers('2021-01-01', '2021-01-02'", "kapture_customer_rows('{}'", "kapture_contact_rows('{}'" } 'kapture', 'by_password'),
	(map { my $table = $_; map { "$_('$table')" } qw(kapture_attach kapture_detach kapture_pause kapture_resume kapture_retry kapture_discard) } 'alice.customers', 'alice.by_password'),
	"kapture_check('kapture')", "kapture_check('by_password')", "kapture_preview('alice.customers', '1')", "kapture_backfill_slice('alice.customers', 10)");
is(scalar(grep { $_ eq 'kapture_status' || $_ eq 'pg_user_mapping' || $_ eq 'information_schema.user_mapping_options' } @relations), 3, 'all relations are there to be read');
cmp_ok(scalar(@ours), '>', 15, 'ours, too');

sub look
{
	my ($when) = @_;
	shows_nothing(stranger(join "\n", map { "SELECT * FROM $_;" } @relations), "$when: relations");
	shows_nothing(stranger(join "\n", map { "EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM $_;" } @ours, 'alice.remote', 'alice.customers'), "$when: EXPLAIN (ANALYZE, VERBOSE)");
	shows_nothing(stranger(join "\n", map { "SELECT * FROM $_;" } @calls), "$when: functions");
	shows_nothing(stranger("CALL kapture_refresh('2021-01-01', '2021-01-02');\nCALL kapture_backfill('alice.customers');\n"
			  . "IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO public;\nCREATE USER MAPPING FOR stranger SERVER kapture OPTIONS (auth_key 'x');\n"
			  . "ALTER SERVER kapture OPTIONS (SET url 'https://example.com');\nDROP SERVER kapture CASCADE;\nDROP USER MAPPING FOR alice SERVER kapture;\nCOPY kapture_delivery TO STDOUT;\nSELECT pg_get_triggerdef(oid) FROM pg_trigger"), "$when: commands");
	shows_nothing($listener->query('SELECT 1') . $listener->{stderr}, "$when: notifications");
	$listener->{stderr} = '';
	shows_nothing(slurp_file($node->logfile), "$when: the server log");
	return;
}
sub alice { my ($statement) = @_; my $said = as_role('alice', $statement); unlike($said, qr/ERROR/, 'alice does it') or diag($said); return $said }
sub status_is { my ($condition, $name) = @_; return poll_ok($node, "SELECT $condition FROM kapture_status WHERE relation = 'alice.customers'::regclass", $name) }

# --- sync
alice("INSERT INTO alice.customers VALUES ('key-of-dar 1', 'Zanzibar 1', '9654300001', 'zan\@zibar.example', 'Yttriopolis'), ('key-of-dar 2', 'Zanzibar 2', '9654300002', NULL, NULL);"
	  . "INSERT INTO alice.by_password VALUES ('key-of-dar 1', 'Zanzibar 3', '9654300003')");
status_is("pending + in_flight + retrying = 0 AND last_success IS NOT NULL", 'rows are sent');
poll_ok($node, "SELECT server_state = 'denied' FROM kapture_status WHERE relation = 'alice.by_password'::regclass", 'to one server with a password that it refuses');
# the other server's request may be first
is_deeply([ grep { defined } map { $_->{headers}{'x-tenant'} } @{ emulator_get($emulator, 'log') } ], [ ($secrets{'a header of the mapping'}) x 2 ], 'with the secret header');
look('sync');

# --- pulls
alice("CALL kapture_refresh('" . ago(86400) . "', '" . ago(0) . "')");
alice("ALTER SERVER kapture OPTIONS (ADD pull_interval '1s')");
poll_ok($node, "SELECT finished_at IS NOT NULL FROM kapture_pull_status WHERE server = 'kapture'", 'the server is pulled from');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_pull_failures WHERE message ~ 'id'", 'a customer that cannot become a row');
emulator_faults($emulator, { api => 'pull', action => 'status', code => 500, body => 'Xanadulia Zanzibar 9654300001' });
poll_ok($node, "SELECT state = 'failing' FROM kapture_pull_status WHERE server = 'kapture'", 'a pull fails');
look('pull');
# nor does somebody who may use the server, with another key; who owns it does
sql("CREATE ROLE guest LOGIN; GRANT USAGE ON FOREIGN SERVER kapture TO guest; CREATE SCHEMA AUTHORIZATION guest");
unlike(as_role('guest', "CREATE TABLE guest.t (id int PRIMARY KEY, customer_name text, phone text); CREATE USER MAPPING FOR guest SERVER kapture OPTIONS (auth_key 'x'); SELECT kapture_attach('guest.t')"), qr/ERROR/, 'a guest uses the server');
my $eyes = 'SELECT * FROM kapture_pull_status; SELECT * FROM kapture_status; SELECT * FROM kapture_progress; SELECT * FROM kapture_stat_requests; SELECT * FROM kapture_pull_failures; SELECT * FROM kapture_failures';
my $seen = as_role('guest', $eyes);
shows_nothing($seen, 'a guest does not see what Kapture answered to the owner');
like($seen, qr/failing\|.*answer of server "kapture" is not JSON/, 'but what is wrong');
like(as_role('alice', $eyes), qr/Xanadulia/, 'which the owner sees');
as_role('guest', 'DROP TABLE guest.t; DROP USER MAPPING FOR guest SERVER kapture');
alice("ALTER SERVER kapture OPTIONS (DROP pull_interval)");

# --- failures: Kapture's words, its garbage, users' code, a locked row, a key that is refused
emulator_faults($emulator, { api => 'add', action => 'status', code => 400, body => '{"message": "Xanadulia 9654300004", "status": "failed"}', match => 'Zanzibar 4' },
	{ api => 'add', action => 'status', code => 500, body => "<html>Xanadulia Zanzibar 5 $secrets{'a header of the mapping'}</html>", match => 'Zanzibar 5' },
	{ api => 'add', action => 'status', code => 200, body => "Xanadulia Zanzibar 6 Basic $secrets{'a key'}", match => 'Zanzibar 6' });
alice("INSERT INTO alice.customers SELECT 'key-of-dar ' || i, 'Zanzibar ' || i || CASE WHEN i = 7 THEN ' refused' ELSE '' END, (9654300000 + i)::text FROM generate_series(4, 7) i");
alice("INSERT INTO alice.customers VALUES ('key-of-dar 8', 'Zanzibar 8', '96543')");
status_is("parked >= 2 AND retrying >= 2", 'rows fail in all ways');
poll_ok($node, "SELECT count(*) FILTER (WHERE message ~ 'Xanadulia') >= 2 AND count(*) FILTER (WHERE message ~ 'refused: key-of-dar 7') = 1 FROM kapture_failures", 'their owner sees why');
look('failure');
emulator_faults($emulator);
emulator_post($emulator, 'keys', { all => 'another' });
alice("INSERT INTO alice.customers VALUES ('key-of-dar 9', 'Zanzibar 9', '9654300009')");
status_is("server_state = 'denied'", 'a key is refused');
look('denied');
set_keys();
alice("ALTER SERVER kapture OPTIONS (SET timeout '3s'); SELECT kapture_retry('alice.customers')");

# --- check, preview, direct calls and foreign tables, as their owner calls them
like(alice("SELECT * FROM kapture_check()"), qr/auth\|t/, 'kapture_check');
like(alice("SELECT * FROM kapture_preview('alice.customers', 'key-of-dar 1')"), qr/x-tenant: \*\*\*.*Zanzibar 1/s, 'kapture_preview masks the header');
like(alice("SELECT kapture_get_customer('{\"phone\": \"9654300001\"}')"), qr/Zanzibar/, 'kapture_get_customer');
like(alice("SELECT * FROM alice.remote WHERE phone = '9654300001'"), qr/Zanzibar/, 'a foreign table');
like(as_role('alice', "SELECT kapture_check('by_password')"), qr/auth/, 'kapture_check of a server that refuses');
look('check and preview');
$listener->quit;

# --- the owner of a server is not told who else uses it
sql("CREATE ROLE landlord LOGIN; GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO landlord");
as_role('landlord', qq(CREATE SERVER rented FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR PUBLIC SERVER rented OPTIONS (auth_key '$secrets{'a key'}'); GRANT USAGE ON FOREIGN SERVER rented TO alice));
alice("CREATE TABLE alice.tenancy (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('alice.tenancy', server => 'rented'); INSERT INTO alice.tenancy VALUES (1, 'Zanzibar', '9654300077')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM alice.tenancy", 'a row is sent there');
my $commands = "BEGIN; ALTER SERVER rented OPTIONS (SET url 'https://elsewhere.invalid'); DROP USER MAPPING FOR PUBLIC SERVER rented; ROLLBACK";
like(as_role('postgres', $commands), qr/former address.*tenancy.*no user mapping: tenancy/s, 'a superuser is');
unlike(as_role('landlord', $commands), qr/tenancy|ERROR/, 'whoever owns it is not');
alice("DROP TABLE alice.tenancy");

# --- as docs/security.md says, reading all data is reading all keys
sql('CREATE ROLE reader LOGIN; GRANT pg_read_all_data TO reader; CREATE ROLE counter LOGIN; GRANT pg_read_all_stats TO counter');
like(as_role('reader', 'SELECT umoptions FROM pg_user_mapping'), qr/\Q$secrets{'a key'}\E/, 'pg_read_all_data reads the keys of mappings');
like(as_role('reader', 'SELECT * FROM kapture_delivery'), qr/Zanzibar/, 'and the bodies of what failed');
unlike(as_role('counter', 'SELECT * FROM pg_user_mapping; SELECT * FROM pg_user_mappings; SELECT * FROM kapture_status; SELECT * FROM kapture_failures; SELECT * FROM kapture_calls'), qr/$secret/, 'pg_read_all_stats reads neither');

# --- the same eyes would have found it
like(as_role('alice', 'SELECT * FROM kapture_failures'), qr/Zanzibar/, 'who owns the rows sees them');
like(as_role('alice', 'SELECT umoptions FROM pg_user_mappings'), qr/\Q$secrets{'a header of the mapping'}\E/, 'and the mapping');

$node->stop;
done_testing();
