# kapture_call(): any API of the account, by name or path; and that no path leads
# to another host.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use File::Basename qw(dirname);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use KaptureTest;
use POSIX qw(strftime);
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator);

sub answer_of
{
	my ($api, $body, $server) = @_;
	return $node->safe_psql('postgres', "SELECT kapture_call('$api', '$body'" . ($server ? ", '$server'" : '') . ")");
}

# What psql says of a call that must fail.
sub error_of
{
	my ($sql, %params) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 1, %params);
	isnt($rc, 0, "is refused: $sql");
	return $err;
}

sub last_request
{
	return emulator_get($emulator, 'log')->[-1];
}

# Each module by its name, with what it takes and gives.
my $added = decode_json(answer_of('ticket_add', '{"title": "Payment failed", "queue": {"any": [1, null, "x"]}, "amount": 12.50}'));
like($added->{ticket_id}, qr/^\d{10,16}$/, 'a ticket is added');
is(last_request()->{body}, '[{"queue": {"any": [1, null, "x"]}, "title": "Payment failed", "amount": 12.50}]',
	'its body went as it was given, in an array of one');
answer_of('ticket_add', '[{"title": "Second"}]');
is(last_request()->{body}, '[{"title": "Second"}]', 'an array is not put into another one');
is(decode_json(answer_of('ticket_update', qq({"ticket_id": "$added->{ticket_id}", "comment": "paid"})))->{status}, 'success', 'a ticket is updated');
my $found = decode_json(answer_of('ticket_get', qq({"ticket_ids": "$added->{ticket_id}"})));
is(ref $found, 'ARRAY', 'an answer may be an array');
is($found->[0]{comment}, 'paid', 'of the tickets that were asked for');
is(last_request()->{body}, qq({"ticket_ids": "$added->{ticket_id}"}), 'whose body is no array');
is(scalar @{ decode_json(answer_of('ticket_pull', '{"start_date": "2020-01-01", "end_date": "2099-01-01"}'))->{message} }, 2, 'tickets are pulled');
is_deeply(decode_json(answer_of('ticket_pull', '{"start_date": "2020-01-01", "end_date": "2020-01-01"}')),
	{ message => 'No ticket between dates.', status => 'failed' }, 'a failed answer is one, too');
is_deeply(decode_json(answer_of('ticket_add', '{}')), { message => 'Ticket title is mandatory', status => 'failed' }, 'with HTTP code 400, too');
like(answer_of('order_add', '{"items": []}'), qr/^\[\{.*"order_id": "\d+"/, 'an order');
like(answer_of('order_v1', '{"items": []}'), qr/"order_id": \d+/, 'an order of the newer API');
like(answer_of('enquiry_add', '{"customer_name": "E", "phone": "9845765226"}'), qr/"Customer Id": "\d+"/, 'an enquiry');
like(answer_of('product_add', '{"name": "P"}'), qr/"product_id": \d+/, 'a product');
like(answer_of('faq_contents', '{"category_id": 1}'), qr/"faqs"/, 'FAQs');
like(answer_of('faq_categories', '{}'), qr/^\[/, 'their categories');

# By path: the body goes as it is.
my $get = '/search-ticket-by-ticket-id.html/v.2.0';
is(decode_json(answer_of($get, qq({"ticket_ids": "$added->{ticket_id}"})))->[0]{title}, 'Payment failed', 'an API is called by its path');
is_deeply(decode_json(answer_of('/add-ticket-from-other-source.html/v.2.0', '{"title": "A"}')), { message => 'Invalid Json.', status => 'failed' },
	'nothing is put around the body of an API that is named by its path');

# Names and paths of the account's own.
$node->safe_psql('postgres', qq(ALTER SERVER kapture OPTIONS (ADD api_paths
  '{"ticket_search": "$get", "ticket_add": {"path": "/add-ticket-from-other-source.html/v.2.0", "body": "object"}, "order_add": {"body": "object"}, "ticket_pull": "/elsewhere"}')));
is(decode_json(answer_of('ticket_search', qq({"ticket_ids": "$added->{ticket_id}"})))->[0]{title}, 'Payment failed', 'an API has a name of the account');
answer_of('ticket_add', '{"title": "As an object"}');
is(last_request()->{body}, '{"title": "As an object"}', 'option api_paths says which body an API takes');
answer_of('order_add', '{"items": [1]}');
is(last_request()->{body}, '{"items": [1]}', 'with the path that it has by default');
like(error_of(qq(SELECT kapture_call('ticket_pull', '{}'))), qr/HV00M.*HTTP code 404.*option "url" of the server and the path, which option "api_paths"/s, 'a path that is not there');
like(error_of(qq(SELECT kapture_call('tiket_add', '{}'))), qr/22023: server "kapture" has no API "tiket_add".*ticket_add, ticket_update, .*faq_categories, ticket_search\./s,
	'an unknown name is refused with those that there are');

# Nothing but a path below the server's URL.
my $requests = emulator_get($emulator, 'stats')->{requests};
foreach my $path ('//evil.example/x', '/\\\\evil.example/x', '/../x', '/a/../../x', '/./x', '/a/.', '/a@evil.example', '/a#b', "/a b", "/a\tb", '/a%', '/a%2', '/a%zz',
	'/%2e%2e/x', '/%2E./x', '/%2f%2fevil.example', '/%5cevil', '/a%00b', '/a%0d%0aX-Evil: 1', '/a%40b', '/%252e%252e/x', '/a%3fb', '/..;/x', '/a/.;b/x', '/;a/x', "/a\x{7f}", "/\x{c3}\x{a9}")
{
	like(error_of("SELECT kapture_call(E'" . ($path =~ s/\\/\\\\/gr) . "', '{}')"), qr/22023: path .* of an API cannot be used/, 'with that error');
}
foreach my $name ('', 'http://evil.example/', '@evil.example/', ':80/', '.evil.example', 'x/../y')
{
	like(error_of("SELECT kapture_call('$name', '{}')"), qr/22023: server "kapture" has no API/, 'it is no name of an API');
}
is(emulator_get($emulator, 'stats')->{requests}, $requests, 'no request was made for them');
like(answer_of('/get-all-faq-categories.html?page=1&q=a%20b', '[{}]'), qr/^\[/, 'a query may follow the path');
# below the path that the URL has
$node->safe_psql('postgres', "CREATE SERVER below FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}/search-ticket-by-ticket-id.html')");
$node->safe_psql('postgres', "CREATE USER MAPPING FOR CURRENT_USER SERVER below OPTIONS (\"user\" 'kapdemo', password 'kap123')");
is(answer_of('/v.2.0', '{"ticket_ids": "1"}', 'below'), '[]', 'a path is below the one of the URL');

# Bad options.
foreach my $bad ('[]', '{"ticket_add": 1}', '{"ticket_add": {"path": 1}}', '{"ticket_add": {"paths": "/a"}}', '{"ticket_add": {"body": "text"}}', '{"Ticket": "/a"}',
	'{"": "/a"}', '{"ticket_add": "a"}', '{"ticket_add": "//evil.example"}', '{"ticket_add": "/../a"}', '{"ticket_add": {"path": "/%2e%2e/a"}}', 'x')
{
	like(error_of("ALTER SERVER kapture OPTIONS (SET api_paths '$bad')"), qr/HV024: invalid value for option "api_paths".*DETAIL.*HINT/s, 'with that error');
}
foreach my $bad ('[]', '{"ticket_add": 1}', '{"ticket_add": ""}', '{"ticket_add": "Basic swordfish"}', '{"ticket_add": "sword\nfish"}', 'swordfish')
{
	my $err = error_of("ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD auth_keys E'" . ($bad =~ s/\\/\\\\/gr) . "')");
	like($err, qr/HV024: invalid value for option "auth_keys"\n.*HINT/s, 'with that error');
	$err =~ s/LINE 1:.*//s;
	unlike($err, qr/swordfish/, 'which does not show the key');
}

# Keys: of its own, else the mapping's.
emulator_post($emulator, 'keys', { ticket_add => 'of-tickets', order_add => 'of-orders' });
is(decode_json(answer_of('ticket_add', '[{"title": "A"}]'))->{message}, 'Invalid Auth Key', 'an API may want a key of its own');
$node->safe_psql('postgres', q(ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD auth_keys '{"ticket_add": "of-tickets", "order_add": "of-orders"}')));
is(decode_json(answer_of('ticket_add', '[{"title": "With its key"}]'))->{status}, 'success', 'which option auth_keys gives it');
like(answer_of('ticket_get', '{"ticket_ids": "1"}'), qr/^\[\]$/, 'the others have the one for all');
$node->safe_psql('postgres', 'ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (DROP auth_key)');
is(decode_json(answer_of('ticket_add', '[{"title": "Its key alone"}]'))->{status}, 'success', 'a mapping may have keys of single APIs only');
like(error_of(q(SELECT kapture_call('ticket_get', '{}'))), qr/HV00J: .*no key for the API "ticket_get".*"auth_keys"/s, 'and says which one is missing');
$node->safe_psql('postgres', "ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD auth_key 'a2FwZGVtbzprYXAxMjM=')");

# Arguments, rights, failures.
like(error_of(q(SELECT kapture_call(NULL, '{}'))), qr/22004/, 'no API');
like(error_of(q(SELECT kapture_call('ticket_add', NULL))), qr/22004/, 'no body');
like(error_of(q(SELECT kapture_call('ticket_add', '{}', NULL))), qr/22004/, 'no server');
like(error_of(q(SELECT kapture_call('ticket_add', '"text"'))), qr/22023: argument "body" must be a JSON object or array/, 'a body that is none');
like(error_of(q(SELECT kapture_call('ticket_add', '{}', 'nowhere'))), qr/42704: server "nowhere" does not exist/, 'no such server');
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN');
like(error_of(q(SET ROLE stranger; SELECT kapture_call('ticket_get', '{}'))), qr/42501: permission denied for foreign server kapture/, 'it takes USAGE of the server');
$node->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER kapture TO stranger');
like(error_of(q(SET ROLE stranger; SELECT kapture_call('ticket_get', '{}'))), qr/42704: user "stranger" has no user mapping/, 'and a user mapping');
emulator_faults($emulator, { api => 'ticket_add', action => 'drop_after', count => 1 });
like(error_of(q(SELECT kapture_call('ticket_add', '[{"title": "Lost"}]'))), qr/08006: got no answer.*The ticket_add request failed.*Kapture may or may not have carried it out/s,
	'an answer that is lost leaves the outcome open');
emulator_faults($emulator, { api => 'ticket_add', action => 'hang', count => 1 });
like(error_of(q(SET statement_timeout = '200ms'; SELECT kapture_call('ticket_add', '[{"title": "Hangs"}]'))), qr/57014/, 'a call is cancelled while it waits');
emulator_faults($emulator, { api => 'ticket_add', action => 'status', code => 429, count => 1, headers => { 'Retry-After' => '1' } });
like(answer_of('ticket_add', '[{"title": "Later"}]'), qr/"failed"/, 'an answer is given back whatever its code');

# kapture_pull_now(): a pull at once, between those of the interval.
$node->safe_psql('postgres', "CREATE SERVER crm FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', pull_interval '1 day')");
$node->safe_psql('postgres', "CREATE USER MAPPING FOR CURRENT_USER SERVER crm OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
poll_ok($node, "SELECT finished_at IS NOT NULL FROM kapture_pull_status WHERE server = 'crm'", 'the first pull is done');
sub seed_customer
{
	my ($id) = @_;
	emulator_post($emulator, 'seed', [ { kapture_customer_id => $id, customer_name => 'New', phone => "9700000$id", generated => strftime('%Y-%m-%d %H:%M:%S', gmtime(time + 19800)) } ]);
	return;
}
my $started = "SELECT started_at FROM kapture_pull WHERE server = 'crm'";
foreach my $id (501, 502)
{
	my $before = $node->safe_psql('postgres', $started);
	seed_customer($id);
	$node->safe_psql('postgres', "BEGIN; SELECT kapture_pull_now('crm'); ROLLBACK");
	$node->safe_psql('postgres', "SELECT kapture_pull_now('crm'), kapture_pull_now('crm')");
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE server = 'crm' AND id = $id", "customer $id comes when it is asked for");
	poll_ok($node, "SELECT finished_at > started_at AND started_at > '$before' AND next_pull > now() + interval '23 hours' AND NOT EXISTS (SELECT FROM kapture_pull_asked) FROM kapture_pull WHERE server = 'crm'",
		'and the next pull is as far away as ever');
}
# two servers that are asked for together: the pull of one does not answer for the other
$node->safe_psql('postgres', "CREATE SERVER crm2 FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', pull_interval '1 day')");
$node->safe_psql('postgres', "CREATE USER MAPPING FOR CURRENT_USER SERVER crm2 OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')");
poll_ok($node, "SELECT finished_at IS NOT NULL FROM kapture_pull_status WHERE server = 'crm2'", 'another server is pulled from');
seed_customer(503);
my $puller = $node->safe_psql('postgres', 'SELECT kapture_puller_pid()');
kill 'STOP', $puller;
$node->safe_psql('postgres', "SELECT kapture_pull_now('crm'), kapture_pull_now('crm2')");
kill 'CONT', $puller;
poll_ok($node, "SELECT count(*) = 2 FROM kapture_customers WHERE id = 503", 'a customer comes from each of two servers that are asked for');
$node->safe_psql('postgres', "DROP SERVER crm2 CASCADE");
like(error_of("SELECT kapture_pull_now('kapture')"), qr/55000: server "kapture" is not pulled from automatically.*"pull_interval"/s, 'a server that is not pulled from');
like(error_of('SELECT kapture_pull_now(NULL)'), qr/22004/, 'no server');
$node->safe_psql('postgres', 'GRANT USAGE ON FOREIGN SERVER crm TO stranger; CREATE USER MAPPING FOR stranger SERVER crm OPTIONS (auth_key $$a2FwZGVtbzprYXAxMjM=$$)');
like(error_of("SET ROLE stranger; SELECT kapture_pull_now('crm')"), qr/42501: must be owner of foreign server crm/, 'who uses a server does not have its owner pull');

# The examples of the page, as a reader would run them.
my $page = slurp_file(dirname(__FILE__) . '/../../docs/other-modules.md');
$node->safe_psql('postgres', 'CREATE DATABASE shop');
setup_sync($node, $emulator, db => 'shop');
emulator_post($emulator, 'keys', { all => 'a2FwZGVtbzprYXAxMjM=' });
my @blocks = $page =~ /^```postgresql\n(.*?)^```$/msg;
is(scalar @blocks, 6, 'the page has its examples');
foreach my $block (@blocks)
{
	if ($block =~ /^UPDATE payments/)
	{
		poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE reference = 'payment 1'", 'the ticket of a failed payment is sent', 'shop');
	}
	my ($rc, $out, $err) = $node->psql('shop', $block, on_error_stop => 1);
	is($rc, 0, 'runs: ' . (split /\n/, $block)[0]) or diag($err);
}
my ($ticket) = grep { ($_->{body}{title} // '') eq 'Payment 1 failed' } @{ emulator_get($emulator, 'items') };
is_deeply([ @{ $ticket->{body} }{qw(phone ticket_details)} ], [ '9845765226', 'Amount 499' ], 'Kapture has the ticket of the payment');
is($node->safe_psql('shop', 'SELECT ticket_id FROM payments'), $ticket->{id}, 'and the payment has its id');
poll_ok($node, "SELECT count(*) = 2 AND bool_and(state = 'done') FROM kapture_calls WHERE reference = 'payment 1'", 'the comment is sent', 'shop');
($ticket) = grep { $_->{id} eq $ticket->{id} } @{ emulator_get($emulator, 'items') };
is($ticket->{body}{comment}, 'Paid at last', 'to that ticket');

# What is counted.
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT api, ' ' ORDER BY api) FROM kapture_stat_requests"),
	'enquiry_add faq_categories faq_contents order_add order_v1 other product_add pull ticket_add ticket_get ticket_pull ticket_update', 'requests are counted by API');
$node->stop;

done_testing();
