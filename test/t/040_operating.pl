# What an operator looks at: kapture_check and kapture_preview, hints,
# kapture_status and counters, history, notifications.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use KaptureTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $key = 'a2FwZGVtbzprYXAxMjM=';
my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator, options => "check_rows 'off'");    # what Kapture says is to be seen
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";

sub stats { return emulator_get($emulator, 'stats') }

# kapture_check as a hash: step => [ok, detail, hint]
sub check
{
	my ($server, $more) = @_;
	my $rows = decode_json(sql("SELECT json_agg(json_build_array(step, ok, detail, hint)) FROM kapture_check('$server'" . ($more || '') . ")"));
	unlike(encode_json($rows), qr/\Q$key\E|secret/, "$server: no key is shown");
	is(join(' ', map { defined $_->[1] && !$_->[1] && !$_->[3] ? $_->[0] : () } @$rows), '', "$server: each step that fails has a hint");
	is(join(' ', map { (!defined $_->[1] || $_->[1]) && $_->[3] ? $_->[0] : () } @$rows), '', "$server: and no other");
	return { map { $_->[0] => [ @$_[ 1 .. 3 ] ] } @$rows };
}

sub is_failing_at
{
	my ($result, $step, $pattern, $name, $hint) = @_;
	ok(defined $result->{$step}[0] && !$result->{$step}[0], "$name: step $step fails") or diag(encode_json($result));
	like($result->{$step}[1], $pattern, "$name: and says why");
	like($result->{$step}[2], $hint, "$name: and what to do") if $hint;
	return;
}

# --- kapture_check: all is well
poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'the worker runs');
my $before = stats();
is(sql("SELECT string_agg(step, ' ') FROM kapture_check() WHERE ok"),
	'options worker dns tcp tls certificate auth pull key clock time', 'all steps are ok');
is(stats()->{requests} - $before->{requests}, 2, 'a search and a pull were made');
is(stats()->{customers}, $before->{customers}, 'and nobody was added');

# --- each step that can fail
is_failing_at(check('nowhere'), 'options', qr/server "nowhere" does not exist/, 'no such server', qr/CREATE SERVER/);
sql(qq(CREATE SERVER broken FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '1s')));
is_failing_at(check('broken'), 'options', qr/no user mapping/, 'no mapping', qr/CREATE USER MAPPING FOR/);
sql("CREATE USER MAPPING FOR CURRENT_USER SERVER broken OPTIONS (get_auth_key 'secret')");
is_failing_at(check('broken'), 'options', qr/no key for the API "add"/, 'half a mapping');
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER broken OPTIONS (ADD auth_key 'secret')");
is_failing_at(check('broken'), 'auth', qr/401.*Invalid Auth Key/, 'wrong key', qr/set "get_auth_key".*"get_headers"/);
is_failing_at(check('broken'), 'pull key', qr/401.*Invalid Auth Key/, 'the key of another API', qr/set "pull_auth_key"/);
my $keys = check('broken', ', all_keys => true');
is_failing_at($keys, "$_ key", qr/401.*Invalid Auth Key/, "the key of $_", qr/set "${_}_auth_key"/) foreach qw(add update);
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER broken OPTIONS (SET auth_key '$key')");
$keys = check('broken', ', all_keys => true');
ok($keys->{"$_ key"}[0], "the right key of $_ passes") foreach qw(pull add update);
is(stats()->{customers}, $before->{customers}, 'and nobody was added');
emulator_faults($emulator, { api => 'add', action => 'status', code => 200, body => '{"message": "Invalid Json.", "status": "failed"}' });
is_failing_at(check('broken', ', all_keys => true'), 'add key', qr/Invalid Json/, 'another form of body', qr/set option "add_body" or "dialect"/);
emulator_faults($emulator, { api => 'add', action => 'status', code => 200, body => '{"message": "Added", "status": "success", "Kapture Customer Id": "7"}' });
is_failing_at(check('broken', ', all_keys => true'), 'add key', qr/empty add request was accepted/, 'an account that adds anything', qr/Look in Kapture/);
emulator_faults($emulator, { api => 'pull', action => 'status', code => 404, body => '{}' });
is_failing_at(check('broken'), 'pull key', qr/404/, 'a wrong path', qr/"pull_path"/);
emulator_faults($emulator);
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER broken OPTIONS (SET get_auth_key '$key')");
ok(check('broken')->{auth}[0], 'and the right one passes');

emulator_faults($emulator, { api => 'get', action => 'html', count => 1 });
is_failing_at(check('broken'), 'auth', qr/not JSON/, 'something else answers');
emulator_faults($emulator, { api => 'get', action => 'hang', count => 1 });
my $hanging = check('broken');
is_failing_at($hanging, 'auth', qr/waiting for the answer; see option timeout/, 'no answer');
is($hanging->{time}[0], undef, 'no answer: no time');
my $past = POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time - 7200));
emulator_faults($emulator, { api => 'get', action => 'status', code => 200, count => 1, headers => { Date => $past },
	body => '{"Customer Details": "Information given by you does not exist in our sytsem.", "status": "failed"}' });
is_failing_at(check('broken'), 'clock', qr/^7\d\d\d s behind ours/, 'a clock that is wrong');
emulator_faults($emulator);

sql("ALTER SERVER broken OPTIONS (SET url 'https://kapture.invalid')");
my $nowhere = check('broken');
is_failing_at($nowhere, 'dns', qr/resolve/i, 'no such host');
is($nowhere->{tcp}[0], undef, 'later steps are not reached');
my $gone = start_emulator();
stop_emulator($gone);
sql("ALTER SERVER broken OPTIONS (SET url '$gone->{url}')");
my $refused = check('broken');
is_failing_at($refused, 'tcp', qr/connect/i, 'nobody listens', qr/firewall/);
ok($refused->{dns}[0], 'but the name is fine');

# --- TLS
my $certificates = PostgreSQL::Test::Utils::tempdir();
foreach my $cert ([ 'soon', 5 ], [ 'later', 400 ])
{
	my ($name, $days) = @$cert;
	system_or_bail('openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-subj', '/CN=localhost',
		'-addext', 'subjectAltName=IP:127.0.0.1', '-days', $days,
		'-keyout', "$certificates/$name.key", '-out', "$certificates/$name.crt");
	my $tls = start_emulator('--tls-cert', "$certificates/$name.crt", '--tls-key', "$certificates/$name.key");
	sql(qq(CREATE SERVER "$name" FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$tls->{url}');
		CREATE USER MAPPING FOR CURRENT_USER SERVER "$name" OPTIONS (auth_key '$key')));
	is_failing_at(check($name), 'tls', qr/certificate/, 'a certificate nobody vouches for', qr/"ca_file"/);
	sql(qq(ALTER SERVER "$name" OPTIONS (ADD ca_file '$certificates/$name.crt')));
}
my $soon = check('soon');
ok($soon->{tls}[0] && $soon->{auth}[0], 'one that is vouched for');
is_failing_at($soon, 'certificate', qr/expires on .*, in [45] days/, 'it expires soon', qr/renew/);
# another host's certificate, TLS to a port that does not speak it, and the other way round
my ($port) = sql("SELECT substring(array_to_string(srvoptions, ' ') FROM 'https://127.0.0.1:([0-9]+)') FROM pg_foreign_server WHERE srvname = 'later'");
sql("ALTER SERVER later OPTIONS (SET url 'https://localhost:$port')");
is_failing_at(check('later'), 'tls', qr/host name|subject name|does not match/i, 'the certificate of another host', qr/another host's.*"url"/);
(my $plain = $emulator->{url}) =~ s/^http:/https:/;
sql("ALTER SERVER later OPTIONS (SET url '$plain')");
is_failing_at(check('later'), 'tls', qr/./, 'TLS to a port of plain http', qr/does not speak TLS.*"url"|may not speak TLS.*"url"/);
sql("ALTER SERVER later OPTIONS (SET url 'http://127.0.0.1:$port')");
is_failing_at(check('later'), 'auth', qr/./, 'plain http to a port of TLS', qr/TLS/);
sql("ALTER SERVER later OPTIONS (SET url 'https://127.0.0.1:$port')");
my $later = check('later');
ok($later->{certificate}[0], 'another one does not');
like($later->{certificate}[1], qr/in (399|400) days/, 'and says when');

# --- the worker's view
sql("ALTER SYSTEM SET kapture_sync.enabled = off");
sql("SELECT pg_reload_conf()");
poll_ok($node, "SELECT NOT ok AND detail ~ 'kapture_sync.enabled' FROM kapture_check() WHERE step = 'worker'", 'a worker that is switched off');
sql("ALTER SYSTEM RESET kapture_sync.enabled");
sql("SELECT pg_reload_conf()");
poll_ok($node, "SELECT bool_and(ok) FROM kapture_check()", 'all is well again');
sql("ALTER SYSTEM SET kapture_sync.excluded_databases = 'postgres'");
sql("SELECT pg_reload_conf()");
poll_ok($node, "SELECT NOT ok AND detail ~ 'excluded_databases' FROM kapture_check() WHERE step = 'worker'", 'a database that is to have none');
poll_ok($node, "SELECT kapture_worker_pid() IS NULL", 'it has none');
sql("ALTER SYSTEM RESET kapture_sync.excluded_databases");
sql("SELECT pg_reload_conf()");
poll_ok($node, "SELECT bool_and(ok) FROM kapture_check()", 'until it may');
sql(qq(CREATE SERVER denied FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); CREATE USER MAPPING FOR CURRENT_USER SERVER denied OPTIONS (auth_key 'wrong');
	CREATE TABLE denied (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('denied', server => 'denied'); INSERT INTO denied VALUES (1, 'Denied', '9845765200')));
poll_ok($node, "SELECT NOT ok AND detail ~ 'holds the queue back' FROM kapture_check('denied') WHERE step = 'worker'", 'a worker that does not get on');
sql("DROP TABLE denied");

# --- kapture_preview
sql(q(ALTER SERVER kapture OPTIONS (ADD headers '{"x-api-type": "crm", "x-replaced": "by the server"}');
	ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD headers '{"x-api-key": "hush", "X-Replaced": "hushed", "x-tenant": "hushing"}')));
sql("SELECT kapture_pause('customers')");
sql(q(INSERT INTO customers (customer_name, phone, city) VALUES ('Pre "view"', '9845765226', 'Pune')));
my $preview = decode_json(sql("SELECT row_to_json(p) FROM kapture_preview('customers', '1') p"));
is($preview->{api}, 'add', 'a new row is added');
ok($preview->{waiting}, 'and waits');
is(stats()->{adds}, 0, 'but is not sent by looking at it');
unlike(encode_json($preview), qr/\Q$key\E|hush/, 'secrets are masked');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'sent');
my ($sent) = grep { $_->{api} eq 'add' && $_->{body} =~ /view/ } @{ emulator_get($emulator, 'log') };
is($sent->{body}, $preview->{body}, 'the body is what was shown');
my %shown = map { /^([^:]+): (.*)/ ? (lc $1 => $2) : () } @{ $preview->{headers} };
my %headers = map { lc $_ => $sent->{headers}{$_} } keys %{ $sent->{headers} };
foreach my $name (qw(user-agent content-type accept x-api-type))
{
	is($shown{$name}, $headers{$name}, "header $name is what was shown");
}
is(join(' ', @headers{qw(x-api-key x-replaced x-tenant)}), 'hush hushed hushing', "headers of the mapping are sent, in place of the server's");
is(join(' ', @shown{qw(x-api-key x-replaced x-tenant)}), '*** *** ***', 'and shown as secrets');
is($shown{'user-agent'}, 'kapture_sync/' . sql("SELECT extversion FROM pg_extension WHERE extname = 'kapture_sync'"), 'they name the version');
is_deeply([ sort grep { !/^(host|content-length)$/ } keys %headers ], [ sort grep { exists $headers{$_} || $_ ne 'authorization' } keys %shown ],
	'and there are no others');

$preview = decode_json(sql("SELECT row_to_json(p) FROM kapture_preview('customers', '1') p"));
is($preview->{api}, 'update', 'a row with an id is updated');
ok(!$preview->{waiting}, 'if it changes');
like($preview->{body}, qr/"city": "Pune"/, 'with all its columns');
sql("SELECT kapture_pause('customers'); UPDATE customers SET city = 'Delhi'");
my $id = sql("SELECT kapture_customer_id FROM customers");
is(sql("SELECT body FROM kapture_preview('customers', '1')"), qq({"kapture_customer_id": "$id", "city": "Delhi"}), 'or with those that changed');
sql("ALTER SERVER kapture OPTIONS (ADD update_body 'array')");
is(sql("SELECT body FROM kapture_preview('customers', '1')"), qq([{"kapture_customer_id": "$id", "city": "Delhi"}]), 'in an array, if the account wants that');
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'sent');
my ($updated) = grep { $_->{body} =~ /Delhi/ } @{ emulator_get($emulator, 'log') };
is($updated->{body}, qq([{"kapture_customer_id": "$id", "city": "Delhi"}]), 'which the worker keeps to');
sql("ALTER SERVER kapture OPTIONS (DROP headers, DROP update_body)");

my ($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM kapture_preview('customers', '99')");
like($err, qr/there is no row with key "99"/, 'a row that is not there');
sql("CREATE ROLE stranger; GRANT ALL ON customers TO stranger; GRANT USAGE ON FOREIGN SERVER kapture TO stranger");
($rc, $out, $err) = $node->psql('postgres', "SET ROLE stranger; SELECT * FROM kapture_preview('customers', '1')");
like($err, qr/must be owner of table customers/, 'a preview is for the owner');
is(sql("SET ROLE stranger; SELECT count(*) FROM kapture_check() WHERE NOT ok AND step = 'options'"), '1', 'and another role has no mapping to check');
sql("CREATE ROLE outsider");
is(sql("SET ROLE outsider; SELECT hint FROM kapture_check() WHERE step = 'options'"), 'Use GRANT USAGE ON FOREIGN SERVER kapture TO outsider.', 'and is told what is missing');

# --- hints: what Kapture really says leads to them
sub fresh
{
	sql("TRUNCATE customers");
	poll_ok($node, $idle, 'all quiet');
	emulator_post($emulator, 'reset', {});
	return;
}

fresh();
sql("SELECT kapture_detach('customers')");
sql("SELECT kapture_attach('customers', on_duplicate => 'fail')");
emulator_post($emulator, 'seed', [ { kapture_customer_id => 101, customer_name => 'One', phone => '9100000001', email_id => 'a@example.com' } ]);
my %hints = (
	"'No digits', 'abc', NULL" => 'phone must have 10 digits and start with 6-9',
	"'No email', NULL, 'nobody'" => 'email_id must be an email address, such as name@example.com',
	"'Nothing', NULL, NULL" => 'the row needs customer_name, and phone or email_id',
	"'Phone', '9100000001', NULL" => "another customer has this phone: change it, or attach with on_duplicate => 'link'",
	"'Email', '9100000002', 'a\@example.com'" => "another customer has this email_id: change it, or attach with on_duplicate => 'link'",
	"'Both', '9100000001', 'a\@example.com'" => "another customer has this phone, and one has this email_id: change them, or attach with on_duplicate => 'link'");
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ($_)") foreach keys %hints;
poll_ok($node, "SELECT count(*) = 6 FROM kapture_failures WHERE state = 'parked'", 'six rows are refused');
foreach my $values (sort keys %hints)
{
	my ($name) = $values =~ /^'(.*?)'/;
	is(sql("SELECT hint FROM kapture_failures f JOIN customers c ON c.id::text = f.row_key WHERE customer_name = '$name'"), $hints{$values}, "hint: $name");
}

# --- counters
my $counted = "SELECT coalesce(sum(requests), 0) FROM kapture_stat_requests WHERE server = 'kapture'";
fresh();
sql("SELECT kapture_stat_reset()");
is(sql("SELECT count(*) FROM kapture_stat_requests"), '0', 'a reset starts anew');
sql("INSERT INTO customers (customer_name, phone) SELECT 'Count ' || i, (9200000000 + i)::text FROM generate_series(1, 50) i");
sql("INSERT INTO customers (customer_name, phone) VALUES ('Bad', 'abc')");
poll_ok($node, "SELECT count(kapture_customer_id) = 50 FROM customers", 'sent');
poll_ok($node, $idle, 'and done');
is(sql("SELECT string_agg(api || ' ' || http_code || ' ' || requests, ', ' ORDER BY http_code) FROM kapture_stat_requests"),
	'add 200 50, add 400 1', 'requests are counted by API and code');
sql(q(SELECT kapture_get_customer('{"phone": "9200000001"}')));
is(sql("SELECT requests FROM kapture_stat_requests WHERE api = 'get'"), '1', 'direct calls, too');
is(sql(q(SELECT bool_and(min_time > 0 AND min_time <= mean_time AND mean_time <= max_time AND total_time >= max_time
	AND requests = (SELECT sum(h) FROM unnest(histogram) h) AND cardinality(bounds) = cardinality(histogram)) FROM kapture_stat_requests)),
	't', 'times and histogram fit together');
my $slow = q(SELECT coalesce(sum(h), 0) FROM kapture_stat_requests, unnest(bounds, histogram) AS u(b, h) WHERE api = 'get' AND b > 50);
my $slower = sql($slow);
emulator_faults($emulator, { api => 'get', action => 'delay', ms => 60, count => 1 });
sql(q(SELECT kapture_get_customer('{"phone": "9200000001"}')));
is(sql($slow), $slower + 1, 'a slow one is in a higher bucket');
emulator_faults($emulator, { api => 'get', action => 'drop_after', count => 1 });
$node->psql('postgres', q(SELECT kapture_get_customer('{"phone": "9200000001"}')));
is(sql("SELECT requests FROM kapture_stat_requests WHERE http_code IS NULL"), '1', 'so are those without an answer');
is(sql($counted), stats()->{requests}, 'none is missing');
is(sql("CREATE ROLE nobody; SET ROLE nobody; SELECT count(*) FROM kapture_stat_requests"), '0', 'roles see servers that they may use');
isnt(sql("GRANT pg_read_all_stats TO nobody; SET ROLE nobody; SELECT count(*) FROM kapture_stat_requests"), '0', 'or all, if they may read statistics');
($rc, $out, $err) = $node->psql('postgres', "SET ROLE nobody; SELECT kapture_stat_reset()");
like($err, qr/permission denied/, 'but not reset them');

my $counters = sql("SELECT server, api, http_code, requests, total_time, histogram, since FROM kapture_stat_requests ORDER BY 1, 2, 3");
sql("CREATE DATABASE other");
$node->restart;
is(sql("SELECT server, api, http_code, requests, total_time, histogram, since FROM kapture_stat_requests ORDER BY 1, 2, 3"), $counters, 'counters survive a restart');
is($node->safe_psql('other', "CREATE EXTENSION kapture_sync; SELECT kapture_stat_reset(); SELECT count(*) FROM kapture_stat_requests"), "\n0", 'another database has its own');
is(sql("SELECT count(*) FROM kapture_stat_requests"), (() = $counters =~ /\n/g) + 1, 'and resets its own');
sql("ALTER SYSTEM SET restart_after_crash = on");
sql("SELECT pg_reload_conf()");
poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'the worker is back');
kill 'KILL', sql("SELECT kapture_worker_pid()");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_stat_requests WHERE api = 'get'", 'a crash starts them anew');
poll_ok($node, "SELECT kapture_worker_pid() IS NOT NULL", 'the worker is back');

# --- kapture_status: exact, then estimated, and always bounded
fresh();
sql("SELECT kapture_discard('customers')");
sql("SELECT kapture_pause('customers')");
sql("INSERT INTO customers (customer_name, phone) SELECT 'Wait ' || i, (9300000000 + i)::text FROM generate_series(1, 1000) i");
is(sql("SELECT pending, exact, oldest_age > '0' FROM kapture_status"), '1000|t|t', 'a thousand are counted');
sql("INSERT INTO customers (customer_name, phone) SELECT 'More ' || i, (9400000000 + i)::text FROM generate_series(1, 29000) i");
is(sql("SELECT pending, exact FROM kapture_status"), '30000|t', 'so are many that came together');
sql("DELETE FROM customers WHERE customer_name LIKE 'More%'");
sql("DELETE FROM kapture_outbox");
sql("UPDATE customers SET id = DEFAULT") foreach 1 .. 12;
poll_ok($node, "SELECT pending = 12 * (SELECT count(*) FROM customers) AND NOT exact FROM kapture_status", 'changes that do not go together are estimated');

# entries that the index gave while the query ran
sub reads
{
	my @lines = split /\n/, sql("BEGIN; SELECT count(*) FROM kapture_status; "
		  . "SELECT pg_stat_get_xact_tuples_returned('kapture_outbox_scan'::regclass), pg_stat_get_xact_tuples_returned('kapture_outbox'::regclass); COMMIT");
	my ($by_index, $whole) = split /\|/, $lines[-1];
	is($whole, 0, 'the outbox is not read as a whole');
	return $by_index;
}
cmp_ok(reads(), '<=', 10001, 'looking at many reads a bounded number');
my $snapshot = $node->background_psql('postgres');
$snapshot->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM customers");
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'all is sent while somebody holds an old snapshot');
cmp_ok(reads(), '<', 100, 'what is dead is not read');
$snapshot->quit;
is(sql("SELECT last_success = (SELECT max(finished_at) FROM kapture_history), exact, oldest_age IS NULL FROM kapture_status"), 't|t|t', 'and the last success is known');
is(sql("SELECT kapture_queue(attachment_id) FROM kapture_attachment"), sql("SELECT (pending, in_flight, retrying, parked, exact, NULL::timestamptz, last_success, last_error)::text FROM kapture_status"), 'the view shows the queue');
my $attachment = sql("SELECT attachment_id FROM kapture_attachment");
is(sql("SET ROLE stranger; SELECT pending IS NULL AND last_success IS NULL FROM kapture_queue($attachment)"), 't', 'which others do not see');
is(sql("SET ROLE stranger; SELECT (SELECT count(*) FROM kapture_status), (SELECT count(*) FROM kapture_server_states())"), '0|0', 'nor the status');

# --- pg_stat_activity
emulator_faults($emulator, { action => 'hang' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Hanging', '9500000001')");
poll_ok($node, q(SELECT query = 'server "kapture": 1 in flight' FROM pg_stat_activity WHERE pid = kapture_worker_pid()), 'the worker says what it does');
poll_ok($node, "SELECT in_flight = 1 FROM kapture_status", 'so does the status');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
poll_ok($node, $idle, 'it goes on');
poll_ok($node, q(SELECT query = 'waiting for changes' AND state = 'idle' FROM pg_stat_activity WHERE pid = kapture_worker_pid()), 'and says that it waits');

# --- the history
sub setting
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET kapture_sync.$name = '$value'");
	sql("SELECT pg_reload_conf()");
	return poll_ok($node, "SELECT setting = '$value' FROM (SELECT current_setting('kapture_sync.$name')) AS s(setting)", "$name is $value");
}

is(sql("SHOW kapture_sync.history_retention"), '7d', 'a week of history by default');
sql("DELETE FROM kapture_history");
sql(qq(INSERT INTO kapture_history (attachment_id, row_key, action, attempts, captured_at, finished_at)
	SELECT a, 'old ' || i, 'add', 1, now(), now() - interval '7 days' - make_interval(secs => i) FROM generate_series(1, 2500) i, (VALUES ($attachment), (99999)) AS a(a)
	UNION ALL SELECT $attachment, 'young ' || i, 'add', 1, now(), now() - interval '6 days' FROM generate_series(1, 100) i));
sql("SELECT pg_reload_conf()");
poll_ok($node, "SELECT NOT EXISTS (SELECT FROM kapture_history WHERE row_key LIKE 'old%')", 'what is too old goes, also of tables that are not attached');
is(sql("SELECT count(*) FROM kapture_history WHERE row_key LIKE 'young%'"), '100', 'the rest stays');
setting('history_retention', '2d');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_history", 'until the retention is shorter');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Remembered', '9500000002')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_history", 'new entries come');
setting('history_retention', '0');
poll_ok($node, "SELECT count(*) = 0 FROM kapture_history", 'none is kept without a history');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Forgotten', '9500000003')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE customer_name = 'Forgotten'", 'rows are sent all the same');
is(sql("SELECT count(*) FROM kapture_history"), '0', 'and leave no trace');
sql("CREATE TABLE emptied (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('emptied'); TRUNCATE emptied");
is(sql("SELECT count(*) FROM kapture_history"), '0', 'nor does TRUNCATE');
sql("DROP TABLE emptied");
is(sql("SELECT last_success IS NOT NULL FROM kapture_status"), 't', 'but the worker knows that it was');
sql("ALTER SYSTEM RESET kapture_sync.history_retention");
sql("SELECT pg_reload_conf()");

# --- notifications
my $listener = $node->background_psql('postgres');
$listener->query_safe("LISTEN kapture_sync");

# what has come until a pattern is met
sub notified
{
	my ($pattern) = @_;
	my $seen = '';
	wait_for(sub { $seen .= $listener->query("SELECT 1"); $seen =~ $pattern }, "a notification like $pattern");
	return join ' ', map { s/" received.*//sr } grep { /received/ } split /payload "/, $seen;
}

sql("INSERT INTO customers (customer_name, phone) VALUES ('Silent', 'abc')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures", 'a row is parked');
setting('notify', 'on');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Loud', 'abcd')");
is(notified(qr/parked/), '{"event": "parked", "relation": "public.customers", "server": "kapture", "rows": 1, "first": false}', 'whoever listens is told, once it is on');
sub many
{
	my ($name, $n, $base) = @_;
	sql("INSERT INTO customers (customer_name, phone) SELECT '$name ' || i, ($base + i)::text FROM generate_series(1, $n) i");
	return poll_ok($node, $idle, "$n rows like $name");
}
many('Good', 100, '9510000000');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Again', 'abcde')");
is(notified(qr/parked/), '{"event": "parked", "relation": "public.customers", "server": "kapture", "rows": 1, "first": true}', 'the first one after many good ones is called so');
many('Bad', 8, '1000000000');
unlike(notified(qr/"rows"/), qr/share/, 'nine of the last hundred are not too many');
many('Bad', 1, '1000000010');
like(notified(qr/share/), qr/\{"event": "parked_share", "relation": "public.customers", "server": "kapture", "share": 0.10, "above": true\}/, 'ten are');
many('Good', 91, '9520000000');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Last', 'abcdef')");
my $said = notified(qr/"rows"/);
unlike($said, qr/share/, 'still more than half of that');
many('Good', 20, '9530000000');
like(notified(qr/share/), qr|^\{"event": "parked_share", "relation": "public.customers", "server": "kapture", "share": 0.0[0-4], "above": false\}\z|, 'then it is over');
setting('notify_parked_share', '0');
sql("INSERT INTO customers (customer_name, phone) SELECT 'Bad ' || i, '3' FROM generate_series(1, 30) i");
poll_ok($node, $idle, '30 more are refused');
unlike(notified(qr/"rows"/), qr/share/, 'which nobody wants to know');
emulator_post($emulator, 'keys', { all => 'another' });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Denied', '9500000004')");
is(notified(qr/denied/), '{"event": "server", "server": "kapture", "before": "ok", "state": "denied"}', 'of a server that denies the key');
emulator_post($emulator, 'keys', { all => $key });
sql("ALTER SERVER kapture OPTIONS (SET timeout '3s')");
is(notified(qr/"state": "ok"/), '{"event": "server", "server": "kapture", "before": "denied", "state": "ok"}', 'and that it is well again');
sql("CREATE TABLE named (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('named', name => 'extra'); INSERT INTO named VALUES (1, 'Named', 'abc')");
like(notified(qr/public\.named/), qr/\{"event": "parked", "relation": "public.named", "name": "extra", "server": "kapture", "rows": 1, /, 'an attachment is named, if it has a name');
$listener->quit;

$node->stop;
done_testing();
