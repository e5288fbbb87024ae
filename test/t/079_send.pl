# kapture_send(): calls that are sent after the commit of whoever sent them, once
# or at least once, in the order of their references, with their sender's key.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $key = 'a2FwZGVtbzprYXAxMjM=';
my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator);

sub ticket { my ($title, @rest) = @_; return sql("SELECT kapture_send('ticket_add', '{\"title\": \"$title\"}'" . join('', map { ", $_" } @rest) . ")") }
sub state_ok { my ($id, $state, $name) = @_; return poll_ok($node, "SELECT state = '$state' FROM kapture_calls WHERE call_id = $id", $name) }
sub field { my ($id, $column) = @_; return sql("SELECT $column FROM kapture_calls WHERE call_id = $id") }
sub items { return emulator_get($emulator, 'items') }
sub count_of { my ($title) = @_; return scalar grep { ($_->{body}{title} // '') eq $title } @{ items() } }

sub hold { my ($title) = @_; return hold_adds($node, $emulator, api => 'ticket_add', match => $title) }

# What psql says of a statement that must fail.
sub error_of
{
	my ($statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement", on_error_stop => 1);
	isnt($rc, 0, "is refused: $statement");
	return $err;
}

# A call, without any attached table.
my $first = ticket('First');
state_ok($first, 'done', 'a call is sent in a database without attached tables');
like(field($first, "answer ->> 'ticket_id'"), qr/^\d{10,16}$/, 'its answer is kept');
is(field($first, "concat_ws(' ', attempts, http_status, sender, server, api, retry, reference IS NULL, finished_at IS NOT NULL, next_attempt IS NULL)"),
	'1 200 ' . sql('SELECT current_user') . ' kapture ticket_add unsent t t t', 'and so is all else');
is(field($first, 'body'), '{"title": "First"}', 'with its body');

# Nothing is sent before the commit, and nothing on rollback.
sql(q(BEGIN; SELECT kapture_send('ticket_add', '{"title": "Rolled back"}'); ROLLBACK;));
sql(q(BEGIN; SAVEPOINT s; SELECT kapture_send('ticket_add', '{"title": "Rolled back"}'); ROLLBACK TO s; SELECT kapture_send('ticket_add', '{"title": "Committed"}'); COMMIT;));
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE body ->> 'title' = 'Committed'", 'what is committed is sent');
is(count_of('Rolled back'), 0, 'what is rolled back is not');
my $open = $node->background_psql('postgres');
$open->query_safe(q(BEGIN; SELECT kapture_send('ticket_add', '{"title": "Open"}')));
state_ok(ticket('Meanwhile'), 'done', 'another one is sent meanwhile');
is(count_of('Open'), 0, 'what is not committed yet is not sent');
$open->query_safe('COMMIT');
$open->quit;
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE body ->> 'title' = 'Open'", 'it is once that is committed');
sql(q(BEGIN; SELECT kapture_send('ticket_add', '{"title": "Prepared"}'); PREPARE TRANSACTION 'p'));
is(count_of('Prepared'), 0, 'nor is what is prepared');
sql("COMMIT PREPARED 'p'");
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE body ->> 'title' = 'Prepared'", 'until that is committed');

# Refusals, and arrays.
my $refused = sql(q(SELECT kapture_send('ticket_add', '{"nothing": 1}')));
state_ok($refused, 'failed', 'a refused call has failed');
is(field($refused, "concat_ws(' ', http_status, message)"), '400 Ticket title is mandatory', 'with what Kapture said');
state_ok(sql(q(SELECT kapture_send('ticket_add', '[{"title": "In an array"}]'))), 'done', 'a body in an array');
my $got = sql(q(SELECT kapture_send('ticket_get', jsonb_build_object('ticket_ids', (SELECT answer ->> 'ticket_id' FROM kapture_calls WHERE body ->> 'title' = 'First')))));
state_ok($got, 'done', 'an answer that is a bare array is a success');
is(field($got, "answer -> 0 ->> 'title'"), 'First', 'and is kept');
state_ok(sql(q(SELECT kapture_send('/get-all-faq-categories.html', '[{}]'))), 'done', 'an API is named by its path');
state_ok(sql(q(SELECT kapture_send('/nowhere', '{}'))), 'failed', 'a path that is not there fails');

# Words about keys within what a customer wrote are no refusal of ours: that call was taken.
emulator_faults($emulator, { api => 'ticket_add', action => 'status', code => 200, match => 'About a key',
	body => '{"ticket_id": "1", "title": "About a key", "queue": "Default", "message": "My API key expired"}' });
my $about = ticket('About a key');
state_ok($about, 'done', 'an answer that repeats such words is a success');
is(field($about, 'attempts'), '1', 'which is not sent again');
emulator_faults($emulator);

# Order: calls of a reference one after the other, others beside them.
hold('Order 1');
sql(q(SELECT kapture_send('ticket_add', jsonb_build_object('title', 'Order ' || n), reference => 'order') FROM generate_series(1, 3) AS n));
my $update = sql(q(SELECT kapture_send('ticket_update', '{"ticket_id": "1"}', reference => 'order')));
state_ok(ticket('Beside', q('kapture'), q('another')), 'done', 'a call of another reference does not wait');
is(sql("SELECT string_agg(state, ' ' ORDER BY call_id) FROM kapture_calls WHERE reference = 'order'"), 'sending waiting waiting waiting',
	'those of one reference wait for the first of them');
release_adds($node, $emulator);
state_ok($update, 'failed', 'the last one is sent in the end, to another API');
is(join(' ', map { $_->{body}{title} } grep { ($_->{body}{title} // '') =~ /^Order/ } @{ items() }), 'Order 1 Order 2 Order 3', 'in their order');

# What certainly was not taken is tried again.
sub fault_ok
{
	my ($title, $fault, $state, $count, $retry) = @_;
	emulator_faults($emulator, { api => 'ticket_add', match => $title, count => 1, %$fault });
	my $id = ticket($title, q('kapture'), 'NULL', "'$retry'");
	state_ok($id, $state, "$retry: $title: $state");
	is(count_of($title), $count, "$retry: $title: $count times there");
	emulator_faults($emulator);
	# what held the account is over at once
	sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");
	return $id;
}
fault_ok('429', { action => 'status', code => 429, headers => { 'Retry-After' => '1' } }, 'done', 1, 'unsent');
fault_ok('503 with Retry-After', { action => 'status', code => 503, headers => { 'Retry-After' => '1' } }, 'done', 1, 'unsent');
my $denied = do {
	emulator_post($emulator, 'keys', { ticket_add => 'another' });
	my $id = ticket('Denied');
	poll_ok($node, "SELECT state = 'waiting' AND http_status = 401 AND message = 'Invalid Auth Key' AND attempts = 1 FROM kapture_calls WHERE call_id = $id", 'a refused key has the call wait');
	my $other = sql(q(SELECT kapture_send('order_add', '{"items": []}')));
	state_ok($other, 'done', 'not those of an API with another key');
	sql(q(ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD auth_keys '{"ticket_add": "another"}')));
	state_ok($id, 'done', 'it is sent when the mapping has the right one');
	sql(q(ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (DROP auth_keys)));
	emulator_post($emulator, 'keys', { ticket_add => $key });
	$id;
};
is(count_of('Denied'), 1, 'once');

# No connection: nobody listens there.
sql(qq(ALTER SERVER kapture OPTIONS (SET url 'http://127.0.0.1:1')));
my $unsent = ticket('No connection');
poll_ok($node, "SELECT state = 'waiting' AND attempts > 0 AND message LIKE 'no answer from Kapture: %connecting failed)' FROM kapture_calls WHERE call_id = $unsent",
	'without a connection it waits');
sql(qq(ALTER SERVER kapture OPTIONS (SET url '$emulator->{url}')));
state_ok($unsent, 'done', 'and is sent when there is one');
is(count_of('No connection'), 1, 'once');

# No more requests than the server is to get.
emulator_post($emulator, 'reset', {});
sql("ALTER SERVER kapture OPTIONS (ADD rate_limit '20')");
sql(q(SELECT count(kapture_send('ticket_add', jsonb_build_object('title', 'Limited ' || n))) FROM generate_series(1, 50) AS n));
poll_ok($node, "SELECT count(*) = 50 FROM kapture_calls WHERE body ->> 'title' LIKE 'Limited %' AND state = 'done'", 'calls are sent under a rate limit');
rate_ok(emulator_get($emulator, 'stats')->{max_requests_in_any_second}, 20, 'no second saw more than rate_limit calls');
sql('ALTER SERVER kapture OPTIONS (DROP rate_limit)');

# All else may have been carried out: unknown, or sent again.
my $lost;
foreach my $fault ([ 'dropped after' => { action => 'drop_after' }, 1 ], [ 'dropped before' => { action => 'drop_before' }, 0 ],
	[ 'status 500' => { action => 'status', code => 500 }, 0 ], [ 'status 503' => { action => 'status', code => 503 }, 0 ],
	[ 'html' => { action => 'html' }, 1 ], [ 'truncated' => { action => 'truncate' }, 1 ], [ 'redirected' => { action => 'redirect' }, 0 ],
	[ 'fault in words' => { action => 'status', code => 200, body => '{"message": "Internal Server Error", "status": "failed"}' }, 0 ],
	[ 'hanging' => { action => 'hang' }, 1 ])
{
	my ($title, $how, $done) = @$fault;
	$lost = fault_ok($title, $how, 'unknown', $done, 'unsent');
	fault_ok("always $title", $how, 'done', $done + 1, 'always');
}
like(field($lost, 'message'), qr/^no answer from Kapture: .*limited by timeout/, 'a time-out is named');

# Its sender decides about an unknown one.
sql("SELECT kapture_retry_call($lost)");
state_ok($lost, 'done', 'kapture_retry_call() sends it again');
is(field($lost, 'attempts'), 2, 'that is its second attempt');
sql("SELECT kapture_discard_call($refused)");
is(field($refused, 'state'), 'discarded', 'kapture_discard_call() gives it up');
like(error_of("SELECT kapture_retry_call($lost)"), qr/55000: call $lost is done/, 'what is done is not sent again');
like(error_of("SELECT kapture_discard_call($lost)"), qr/55000: call $lost is done/, 'nor given up');
like(error_of('SELECT kapture_retry_call(0)'), qr/42704: call 0 does not exist/, 'a call that is not there');
like(error_of('SELECT kapture_retry_call(NULL)'), qr/22004/, 'no call');
hold('Held');
my $held = ticket('Held', q('kapture'), q('held'));
my $behind = ticket('Behind', q('kapture'), q('held'));
poll_ok($node, "SELECT state = 'sending' FROM kapture_calls WHERE call_id = $held", 'a call is being sent');
like(error_of("SELECT kapture_discard_call($held)"), qr/55006: call $held is being sent/, 'it cannot be given up now');
sql("SELECT kapture_discard_call($behind)");
release_adds($node, $emulator);
state_ok($held, 'done', 'it goes on');
is(field($behind, 'state'), 'discarded', 'one that waited is given up');
is(count_of('Behind'), 0, 'and was not sent');

# Arguments.
like(error_of(q(SELECT kapture_send(NULL, '{}'))), qr/22004/, 'no API');
like(error_of(q(SELECT kapture_send('', '{}'))), qr/22023: argument "api" must have between 1 and 512 characters/, 'an empty one');
like(error_of(q(SELECT kapture_send('tiket_add', '{}'))), qr/22023: server "kapture" has no API "tiket_add"/, 'an unknown one');
like(error_of(q(SELECT kapture_send('//evil.example/', '{}'))), qr/22023: path .* cannot be used/, 'a path to another host');
like(error_of(q(SELECT kapture_send('ticket_add', NULL))), qr/22004/, 'no body');
like(error_of(q(SELECT kapture_send('ticket_add', '1'))), qr/22023/, 'a body that is none');
like(error_of(q(SELECT kapture_send('ticket_add', jsonb_build_object('title', repeat('x', 1100000))))), qr/54000: argument "body" is too large/, 'one that is too large');
# 48 kB as jsonb, 400 MB as text, which the worker would have in memory for each of its connections
like(error_of(q(SELECT kapture_send('ticket_add', jsonb_build_object('title', (SELECT jsonb_agg('1e131000'::jsonb) FROM generate_series(1, 3000)))))),
	qr/54000: argument "body" is too large.*DETAIL:  The body has \d{9} bytes as text; at most 1048576 are allowed/s, 'one that is too large as text');
like(error_of(q(SELECT kapture_send('ticket_add', jsonb_build_object('title', repeat(E'\\x01', 300000))))), qr/54000: .*1800\d+ bytes as text/s, 'or because of its escapes');
like(error_of(q(SELECT kapture_send('ticket_add', '{}', NULL))), qr/22004/, 'no server');
like(error_of(q(SELECT kapture_send('ticket_add', '{}', 'nowhere'))), qr/42704: server "nowhere" does not exist/, 'a server that is not there');
like(error_of(q(SELECT kapture_send('ticket_add', '{}', reference => ''))), qr/22023: argument "reference"/, 'an empty reference');
like(error_of(q(SELECT kapture_send('ticket_add', '{}', reference => repeat('x', 256)))), qr/22023: argument "reference"/, 'a long one');
like(error_of(q(SELECT kapture_send('ticket_add', '{}', retry => 'never'))), qr/22023: invalid value for argument "retry": "never"/, 'another way to retry');

# In an encoding that is none, a body may be no text at all; it must not stand before others.
sql("CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'");
$node->safe_psql('bytes', "CREATE EXTENSION kapture_sync; CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', allow_http 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key '$key')");
my (undef, undef, $not_text) = $node->psql('bytes', qq(\\set VERBOSITY verbose\nSELECT kapture_send('ticket_add', jsonb_build_object('title', E'\\xff'))));
like($not_text, qr/22021: invalid byte sequence for encoding "UTF8": 0xff/, 'a body that is no text');
$node->safe_psql('bytes', q(SELECT kapture_send('ticket_add', '{"title": "Bytes"}')));
poll_ok($node, "SELECT count(*) = 1 AND bool_and(state = 'done') FROM kapture_calls", 'and others are sent', 'bytes');
sql('DROP DATABASE bytes');

# Roles: each has its own key and sees its own calls.
sql(qq(CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE counter IN ROLE pg_read_all_stats;
GRANT USAGE ON FOREIGN SERVER kapture TO alice, bob;
CREATE USER MAPPING FOR alice SERVER kapture OPTIONS (auth_key '$key');
CREATE USER MAPPING FOR bob SERVER kapture OPTIONS (auth_key 'of-bob')));
sub as { my ($role, $statement) = @_; return sql("SET ROLE $role; $statement") }
my $hers = as('alice', q(SELECT kapture_send('ticket_add', '{"title": "Of Alice"}')));
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE call_id = $hers", 'a call goes with the key of its sender');
hold('Mine');
my $mine = ticket('Mine', q('kapture'), q('same'));
my $same = as('alice', q(SELECT kapture_send('ticket_add', '{"title": "Hers"}', reference => 'same')));
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE call_id = $same", 'nor does it wait for another sender\'s with the same reference');
is(field($mine, 'state'), 'sending', 'which is on its way still');
release_adds($node, $emulator);
state_ok($mine, 'done', 'and ends');
my $his = as('bob', q(SELECT kapture_send('ticket_add', '{"title": "Of Bob"}')));
poll_ok($node, "SELECT state = 'waiting' AND http_status = 401 FROM kapture_calls WHERE call_id = $his", 'not with that of another');
is(as('alice', 'SELECT string_agg(call_id::text, $$ $$ ORDER BY call_id) FROM kapture_calls'), "$hers $same", 'a role sees its own calls');
is(as('bob', 'SELECT string_agg(call_id::text, $$ $$) FROM kapture_calls'), $his, 'and no others');
like(error_of("SET ROLE bob; SELECT kapture_discard_call($hers)"), qr/42704: call $hers does not exist/, 'nor does it learn of others by their numbers');
like(error_of('SET ROLE bob; SELECT * FROM kapture_call_queue'), qr/42501/, 'the table is nobody\'s to read');
is(as('counter', 'SELECT count(*) FROM kapture_calls'), 0, 'who reads all statistics sees no bodies');
is(as('counter', "SELECT waiting FROM kapture_call_status WHERE sender = 'bob'::regrole"), 1, 'but numbers');
is(as('alice', "SELECT count(*) FROM kapture_call_status WHERE sender = 'bob'::regrole"), 0, 'which others do not');
sql('DROP OWNED BY bob; DROP ROLE bob');
poll_ok($node, "SELECT state = 'failed' AND message LIKE 'the role that sent it, %, was dropped' FROM kapture_calls WHERE call_id = $his", 'the calls of a role that is dropped fail');

# Hundreds of calls behind one that stands still keep no other call waiting, and are not locked, which
# would be written to WAL.
hold('Stuck');
my $stuck = ticket('Stuck', q('kapture'), q('stuck'));
state_ok($stuck, 'sending', 'a call stands still');
sql(q(SELECT kapture_send('ticket_add', '{"title": "Behind"}', 'kapture', 'stuck') FROM generate_series(1, 900)));
state_ok(ticket('Beside', q('kapture'), q('beside')), 'done', 'one with another reference is sent beside it');
state_ok(ticket('Without'), 'done', 'and one without');
is(sql(q(SELECT count(*) FROM kapture_calls WHERE state = 'waiting' AND reference = 'stuck')), 900, 'those behind it wait');
is(sql(q(SELECT count(*) FROM kapture_call_queue WHERE state = 'waiting' AND xmax <> 0)), 0, 'and nobody has locked them');
sql(q(SELECT kapture_discard_call(call_id) FROM kapture_calls WHERE state = 'waiting' AND reference = 'stuck'));
release_adds($node, $emulator);
state_ok($stuck, 'done', 'it goes on');

# Servers: held while it is not known how to reach them, failed when they are gone.
sql(qq(CREATE SERVER other FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (auth_key 'wrong')));
my $lonely = ticket('Lonely', q('other'));
poll_ok($node, "SELECT state = 'waiting' AND http_status = 401 FROM kapture_calls WHERE call_id = $lonely", 'a call waits for a key');
sql('DROP USER MAPPING FOR CURRENT_USER SERVER other');
poll_ok($node, "SELECT message LIKE '%has no user mapping for server \"other\"' FROM kapture_calls WHERE call_id = $lonely", 'it says that there is none any more');
sql(qq(BEGIN; DROP SERVER other CASCADE; CREATE SERVER other FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (auth_key '$key'); COMMIT));
poll_ok($node, "SELECT state = 'failed' AND message LIKE 'server \"other\" is another one%' FROM kapture_calls WHERE call_id = $lonely",
	'it does not go to another server of the name');
is(count_of('Lonely'), 0, 'which has not seen it');

# Rows and calls that go to one server with one key wait together if it asks for that.
create_customers($node);
my %busy = (action => 'status', code => 429, headers => { 'Retry-After' => '3600' });
emulator_faults($emulator, { api => 'ticket_add', match => 'Slow down', %busy });
my $slowed = ticket('Slow down');
poll_ok($node, "SELECT state = 'waiting' AND http_status = 429 FROM kapture_calls WHERE call_id = $slowed", 'the server asks for fewer requests');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Held', '9300000001')");
state_ok(ticket('Beside rows', q('other')), 'done', 'another server is sent to meanwhile');
is(emulator_get($emulator, 'stats')->{add_requests}, 0, 'rows wait with the call');
emulator_faults($emulator);
sql("ALTER SERVER kapture OPTIONS (SET timeout '3s')");
state_ok($slowed, 'done', 'the call is sent');
poll_ok($node, 'SELECT bool_and(kapture_customer_id IS NOT NULL) FROM customers', 'and so is the row');
emulator_faults($emulator, { api => 'add', %busy });
sql("INSERT INTO customers (customer_name, phone) VALUES ('Throttled', '9300000002')");
poll_ok($node, "SELECT server_state = 'throttled' FROM kapture_status", 'the server asks for fewer rows');
$slowed = ticket('Behind rows');
state_ok(ticket('Beside rows again', q('other')), 'done', 'another server is sent to meanwhile');
is(field($slowed, "concat_ws(' ', state, attempts)"), 'waiting 0', 'calls wait with the rows');
emulator_faults($emulator);
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");
state_ok($slowed, 'done', 'until it is the time of both');
sql("SELECT kapture_detach('customers')");

# Notifications.
sql("ALTER SYSTEM SET kapture_sync.notify = on; SELECT pg_reload_conf()");
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN kapture_sync');
emulator_faults($emulator, { api => 'ticket_add', action => 'drop_after', count => 1 });
my $noticed = ticket('Noticed');
state_ok($noticed, 'unknown', 'a call is lost');
wait_for(sub { $listener->query('SELECT 1') =~ /"event": "calls", "server": "kapture", "state": "unknown", "calls": 1\}/ }, 'a notification of it');
pass('a notification tells of it');
$listener->quit;
sql("ALTER SYSTEM RESET kapture_sync.notify; SELECT pg_reload_conf()");

# Retention: what is done goes, what somebody has to look at stays.
sql("ALTER SYSTEM SET kapture_sync.history_retention = '0'; SELECT pg_reload_conf()");
poll_ok($node, "SELECT count(*) FILTER (WHERE state IN ('done', 'discarded')) = 0 AND count(*) FILTER (WHERE state = 'unknown') > 0 FROM kapture_calls",
	'calls that are done are kept for a while only');
# looks for what is too old, and finds nothing that could become that
sql('SELECT pg_reload_conf()');
my $unknown = sql("SELECT min(call_id) FROM kapture_calls WHERE state = 'unknown'");
sql("SELECT kapture_discard_call($unknown)");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_calls WHERE call_id = $unknown", 'nor are those that are discarded, if nothing else is done');
sql("ALTER SYSTEM RESET kapture_sync.history_retention; SELECT pg_reload_conf()");

# Nor does whoever has a call locked that an earlier worker has claimed keep the next worker
# from its own, or from telling these apart.
hold('Held');
my ($held_before, $held_always) = (ticket('Held before', q('other')), ticket('Held always', q('other'), 'NULL', q('always')));
state_ok($_, 'sending', 'a call is being sent') foreach $held_before, $held_always;
my $renamer = $node->background_psql('postgres');
$renamer->query_safe('BEGIN; ALTER SERVER other RENAME TO renamed');
restart_worker($node, 'while somebody has the call locked');
my $held_after = ticket('Held after');
state_ok($held_after, 'sending', 'the next worker sends a call');
$renamer->query_safe('ROLLBACK');
$renamer->quit;
state_ok($held_before, 'unknown', 'the outcome of the earlier one is not known');
is(field($held_after, 'state'), 'sending', 'that of the other one is awaited');
poll_ok($node, "SELECT state = 'sending' AND attempts = 2 FROM kapture_calls WHERE call_id = $held_always", 'one that is to arrive at least once is sent again');
release_adds($node, $emulator);
state_ok($held_after, 'done', 'and comes');

# In a copy of the database nothing is sent; once it is the original, what was asked
# for before may have been sent already.
sql('UPDATE kapture_origin SET system_identifier = 1');
restart_worker($node, 'a worker that finds a copy');
my $copied = ticket('Copied');
my $copied_always = ticket('Copied always', q('kapture'), 'NULL', q('always'));
is(field($copied, 'state') . ' ' . field($copied_always, 'state'), 'waiting waiting', 'calls wait in a copy');
sql('SELECT kapture_resume()');
state_ok($copied, 'unknown', 'a call that the original may have sent is left to its sender');
state_ok($copied_always, 'done', 'one that is to arrive at least once is sent');
is(count_of('Copied'), 0, 'the other was not sent');

# Whoever has a call locked then keeps no other call from being put in doubt.
sql('UPDATE kapture_origin SET system_identifier = 1');
restart_worker($node, 'a worker that finds a copy again');
my ($locked, $unlocked) = (ticket('Copied and locked'), ticket('Copied beside it'));
my $locker = $node->background_psql('postgres');
$locker->query_safe("BEGIN; SELECT kapture_discard_call($locked)");
sql('SELECT kapture_resume()');
state_ok(ticket('After the copy'), 'done', 'a call that is made after that is sent at once');
state_ok($unlocked, 'unknown', 'a call is put in doubt though another one is locked');
$locker->query_safe('ROLLBACK');
$locker->quit;
state_ok($locked, 'unknown', 'and so is that one, later');
is(count_of('Copied and locked') + count_of('Copied beside it'), 0, 'neither was sent');

# Nor is sent what is committed only then, as the original may have committed it, too.
sql('UPDATE kapture_origin SET system_identifier = 1');
restart_worker($node, 'a worker that finds a copy once more');
my @prepared = map { sql("BEGIN; SELECT kapture_send('ticket_add', '{\"title\": \"Copied and prepared $_\"}', 'kapture', retry => '$_'); PREPARE TRANSACTION '$_'") } qw(unsent always);
sql('SELECT kapture_resume()');
state_ok(ticket('After that copy'), 'done', 'calls of this database are sent');
sql("COMMIT PREPARED '$_'") foreach qw(unsent always);
state_ok($prepared[0], 'unknown', 'a call whose transaction was prepared before is put in doubt as it is committed');
like(field($prepared[0], 'message'), qr/the database is a copy/, 'which says why');
state_ok($prepared[1], 'done', 'one that is to arrive at least once is sent');
is(count_of('Copied and prepared unsent'), 0, 'the other was not sent, either');
emulator_faults($emulator, { api => 'ticket_add', match => 'Copied', %busy });
sql("SELECT kapture_retry_call($copied)");
poll_ok($node, "SELECT state = 'waiting' AND http_status = 429 FROM kapture_calls WHERE call_id = $copied", 'its sender says that it is to be');
emulator_faults($emulator);
restart_worker($node, 'which another worker has to know, too');
state_ok($copied, 'done', 'so it is sent');
restart_worker($node);
state_ok(ticket('After'), 'done', 'calls after that are sent as ever');
is(field($copied, 'state'), 'done', 'and what is done stays so');

# A server that passes to somebody else does not get what was sent to it before.
emulator_faults($emulator, { api => 'ticket_add', match => 'Inherited', %busy });
my $inherited = ticket('Inherited');
poll_ok($node, "SELECT state = 'waiting' AND http_status = 429 FROM kapture_calls WHERE call_id = $inherited", 'a call waits');
sql('CREATE ROLE heir; ALTER SERVER kapture OWNER TO heir');
emulator_faults($emulator);
state_ok($inherited, 'failed', 'it is not sent to the server of another role');
like(field($inherited, 'message'), qr/server "kapture" has passed to role "heir"/, 'which is the reason');
is(count_of('Inherited'), 0, 'nor was it');
sql('ALTER SERVER kapture OWNER TO CURRENT_USER; DROP ROLE heir');

# A dump has the calls, with their senders by name; the restored database finds its server.
emulator_faults($emulator, { api => 'ticket_add', match => 'Dumped', %busy });
my $dumped = ticket('Dumped');
poll_ok($node, "SELECT state = 'waiting' AND http_status = 429 FROM kapture_calls WHERE call_id = $dumped", 'a call waits');
my $file = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $file, $node->connstr('postgres') ], 'a dump with calls');
sql('CREATE DATABASE restored');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, $node->connstr('restored') ], 'is restored');
emulator_faults($emulator);
sub restored { return $node->safe_psql('restored', $_[0]) }
is(restored("SELECT state || ' ' || sender FROM kapture_calls WHERE call_id = $dumped"), 'waiting ' . sql('SELECT current_user'), 'the call is there, and waits');
restored('SELECT kapture_resume()');
poll_ok($node, "SELECT state = 'unknown' FROM kapture_calls WHERE call_id = $dumped", 'the original may have sent it', 'restored');
restored("SELECT kapture_retry_call($dumped)");
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE call_id = $dumped", 'it goes to the server of the restored database', 'restored');
is(count_of('Dumped'), 1, 'once');
$node->stop;

# The worker is killed at any instant: no call is sent twice that is not to be, none
# is lost that is, and what is not known is said to be so.
my $killed = new_node('killed');
$killed->append_conf('postgresql.conf', 'restart_after_crash = on');
$killed->restart;
emulator_post($emulator, 'reset', {});
setup_sync($killed, $emulator, options => "max_connections '4'");
emulator_faults($emulator, { api => 'ticket_add', action => 'delay', ms => 200 });
srand(my $seed = $ENV{KAPTURE_FAULT_SEED} || time);
note("KAPTURE_FAULT_SEED=$seed");
my $sent = 0;
for my $n (1 .. 8)
{
	poll_ok($killed, 'SELECT kapture_worker_pid() IS NOT NULL', 'there is a worker');
	# both before, as on a busy machine all may be sent by the time that psql has ended
	my $pid = $killed->safe_psql('postgres', 'SELECT kapture_worker_pid()');
	my $until = emulator_get($emulator, 'stats')->{ticket_add_requests} + 1 + int rand 15;
	$killed->safe_psql('postgres', "SELECT kapture_send('ticket_add', jsonb_build_object('title', retry || ' $n ' || i), retry => retry)"
		  . " FROM generate_series(1, 15) AS i, unnest(ARRAY['unsent', 'always']) AS retry");
	$sent += 15;
	wait_for(sub { emulator_get($emulator, 'stats')->{ticket_add_requests} >= $until }, 'requests');
	kill 'KILL', $pid;
	poll_ok($killed, "SELECT kapture_worker_pid() <> $pid", 'another one comes after it is killed');
}
poll_ok($killed, "SELECT count(*) = 0 FROM kapture_calls WHERE state IN ('waiting', 'sending')", 'all is sent in the end');
wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} == 0 }, 'the emulator to be done');
my %there;
$there{ $_->{body}{title} }++ foreach @{ emulator_get($emulator, 'items') };
my %seen;
my @wrong;
foreach my $line (split /\n/, $killed->safe_psql('postgres', "SELECT body ->> 'title', state FROM kapture_calls"))
{
	my ($title, $state) = split /\|/, $line;
	my $times = $there{$title} || 0;
	my $once = $title =~ /^unsent/;
	$seen{ $once ? "unsent $state" : "always $state" }++;
	push @wrong, "$title: $state, $times times there"
	  if ($once && ($times > 1 || ($state eq 'done' && $times != 1) || $state !~ /^(?:done|unknown)$/))
	  || (!$once && ($state ne 'done' || $times < 1));
}
is("@wrong", '', 'each call is there as often as its state says');
is(($seen{'unsent done'} || 0) + ($seen{'unsent unknown'} || 0), $sent, "none is lost ($sent)");
is($seen{'always done'}, $sent, 'those that are to arrive have arrived');
cmp_ok($seen{'unsent unknown'} || 0, '>', 0, 'of some the outcome is not known: ' . ($seen{'unsent unknown'} || 0));
cmp_ok($seen{'unsent unknown'} || 0, '<=', 8 * 4, 'of no more than were in flight');
$killed->stop;
done_testing();
