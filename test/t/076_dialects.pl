# Accounts that want other names, nested bodies, arrays and headers: what is
# sent in each way of sending, and that all of them work against such an account.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use HTTP::Tiny;
use JSON::PP;
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator);
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";

sub account { return emulator_post($emulator, 'account', {@_}) }

# What an error says: SQLSTATE, message, detail and hint.
sub error_of
{
	my (undef, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$_[0]");
	return $err;
}

# The options that make a server other than the document's, and nothing else.
my @set;
sub server
{
	my %options = @_;
	my @drop = map { "DROP $_" } @set;

	@set = sort keys %options;
	sql("ALTER SERVER kapture OPTIONS (" . join(', ', @drop, map { "ADD $_ '$options{$_}'" } @set) . ")") if @drop || @set;
	return;
}

# The bodies of requests to an API, in the order of arrival.
sub bodies
{
	my ($api) = @_;
	return map { $_->{body} } grep { $_->{api} eq $api } @{ emulator_get($emulator, 'log') };
}

# Starts anew with another account.
sub fresh
{
	my ($account, %options) = @_;
	sql("TRUNCATE customers; DELETE FROM kapture_history");
	server();
	poll_ok($node, $idle, 'all quiet');
	emulator_post($emulator, 'reset', {});
	account(%$account);
	server(%options);
	return;
}

# All ways of sending and searching, against an account of another dialect.
sub works
{
	my ($name) = @_;

	sql("INSERT INTO customers (customer_name, phone, email_id, city) VALUES ('Priya', '9845765226', 'priya\@example.com', 'Pune')");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", "$name: a row is added");
	sql("UPDATE customers SET city = 'Agra'");
	poll_ok($node, $idle, 'and updated');
	oracle_ok($node, $emulator, 'with its values');
	# an Add whose outcome nobody saw is searched for
	emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 });
	sql("INSERT INTO customers (customer_name, phone) VALUES ('Lost', '9845765227')");
	poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM customers", 'a lost Add is found');
	oracle_ok($node, $emulator, 'and not repeated');
	# foreign tables
	sql("IMPORT FOREIGN SCHEMA kapture LIMIT TO (customers) FROM SERVER kapture INTO remote");
	my $id = sql("INSERT INTO remote.customers (name, phone) VALUES ('Foreign', '9845765228') RETURNING id");
	like($id, qr/^\d+$/, 'a foreign table adds a customer');
	sql("UPDATE remote.customers SET city = 'Delhi' WHERE id = $id");
	is(emulator_get($emulator, "customers?id=$id")->[0]{city}, 'Delhi', 'and updates it');
	is(sql("SELECT name FROM kapture_find_customers('{\"phone\": \"9845765228\"}')"), 'Foreign', 'who is found');
	sql("DROP FOREIGN TABLE remote.customers");
	return;
}

sql("CREATE SCHEMA remote");

# --- an array of one object with other names
fresh({ dialect => 'array-name', answer => 'flat' }, dialect => 'array-name');
works('array-name');
is((bodies('add'))[0], '[{"name": "Priya", "phone": "9845765226", "email": "priya@example.com", "city": "Pune"}]', 'what is sent has the names of the account');
like((bodies('update'))[0], qr/^\[\{"customer_id": "\d+", "city": "Agra"\}\]$/, 'updates, too');
like(sql(q(SELECT kapture_add_customer('{"name": "Direct", "phone": "9845765229"}'))), qr/"Kapture Customer Id"/, 'kapture_add_customer sends what it is given');
is((bodies('add'))[-1], '[{"name": "Direct", "phone": "9845765229"}]', 'in the array that the account wants');
my $direct = (map { $_->{kapture_customer_id} } grep { $_->{customer_name} eq 'Direct' } @{ emulator_get($emulator, 'customers') })[0];
like(sql(qq(SELECT kapture_update_customer('{"customer_id": $direct, "city": "Goa"}'))), qr/Success/, 'and kapture_update_customer takes the id by its name there');
is(emulator_get($emulator, "customers?id=$direct")->[0]{city}, 'Goa', 'so the customer is updated');
like(error_of(qq(SELECT kapture_update_customer('{"kapture_customer_id": $direct, "city": "Goa"}'))), qr/22023.*has no "customer_id"/s, 'which it must have');

like(error_of(q(SELECT kapture_add_customer('{"customer_name": "Ours", "phone": "9845765228"}'))), qr/NOTICE:.*"customer_name" is "name" in requests to this server/, 'a name that the account does not have is pointed out');
is(error_of(q(SELECT kapture_add_customer('{"name": "Theirs", "phone": "9845765227"}'))), '', 'not those that it has');

# --- a wrong address, key or form has a hint with each step that fails
fresh({ dialect => 'v1' }, add_path => '/nowhere', update_path => '/nowhere');
like(sql("SELECT string_agg(step || ': ' || hint, E'\n') FROM kapture_check(all_keys => true) WHERE NOT ok"),
	qr/^add key: .*add_path.*dialect.*^update key: .*update_path/sm, 'a path that is not there: the hints name path and dialect');
is(sql("SELECT count(*) FROM kapture_check(all_keys => true) WHERE NOT ok AND hint IS NULL"), 0, 'each step that fails has a hint');

# --- nested
fresh({ dialect => 'v1' }, dialect => 'v1');
works('v1');
is((bodies('add'))[0],
	'{"customer_info": {"customer_name": "Priya", "phone": "9845765226", "email_id": "priya@example.com", "city": "Pune"}}', 'nested bodies');
like((bodies('update'))[0], qr/^\{"customer_info": \{"customer_id": "\d+", "city": "Agra"\}\}$/, 'and updates');
is((grep { $_->{api} eq 'add' } @{ emulator_get($emulator, 'log') })[0]{code}, 200, 'at the path of that API');

# --- single options win over the dialect, and make forms of their own
fresh({ dialect => 'array-name' }, dialect => 'array-name', add_fields => '{"source": {"id": 7, "live": true}, "tags": ["a", null]}',
	update_fields => '{"update": true, "city": "nowhere"}');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Priya', '9845765226')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", 'a row is added with what goes with each Add');
is((bodies('add'))[0], '[{"tags": ["a", null], "source": {"id": 7, "live": true}, "name": "Priya", "phone": "9845765226"}]', 'typed as JSON has it');
sql("UPDATE customers SET city = 'Agra'");
poll_ok($node, $idle, 'and updated');
like((bodies('update'))[0], qr/^\[\{"city": "Agra", "update": true, "customer_id": "\d+"\}\]$/, 'what the row has wins');
server(dialect => 'array-name', add_body => 'object', field_names => '{"customer_name": "who.names[0].first", "phone": "who.phone"}');
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('Q \"x\", {y}', '9845765230', 'q\@example.com')");
is(sql("SELECT body FROM kapture_preview('customers', (SELECT max(id) FROM customers)::text)"),
	'{"who": {"names": [{"first": "Q \"x\", {y}"}], "phone": "9845765230"}, "email_id": "q@example.com"}', 'kapture_preview shows the form');
sql("CREATE TABLE later (id int PRIMARY KEY, customer_name text, phone text); INSERT INTO later VALUES (1, 'Later', '9845765231')");
is(sql("SELECT body FROM kapture_dry_run('later')"), '{"who": {"names": [{"first": "Later"}], "phone": "9845765231"}}', 'and so does kapture_dry_run');
sql("DELETE FROM customers WHERE phone = '9845765230'");

# names of searches
fresh({}, get_field_names => '{"phone": "mobile", "kapture_customer_id": "lead.id"}');
emulator_faults($emulator, { api => 'get', action => 'status', code => 200, body => '{"Customer Details": [], "status": "success"}' });
is(sql("SELECT count(*) FROM kapture_find_customers('{\"phone\": \"9845765228\"}')"), 0, 'a search');
is((bodies('get'))[-1], '[{"mobile": "9845765228"}]', 'by the name that the account has for it');

# --- what the validator says
sub refused
{
	my ($option, $value, $pattern) = @_;
	like(error_of("ALTER SERVER kapture OPTIONS (ADD $option '$value')"), $pattern, "$option $value: refused");
	return;
}
server();
refused('dialect', 'v2', qr/HV024.*"dialect": "v2".*must be "seed", "array-name" or "v1".*field_names/s);
refused('field_names', '["a"]', qr/HV024.*must be a JSON object/s);
refused('field_names', '{"fone": "phone"}', qr/HV024.*"fone" is not one of Kapture's fields/s);
refused('field_names', '{"phone": 1}', qr/HV024.*name of field "phone" must be a string/s);
refused('field_names', "{\"phone\": \"$_\"}", qr/HV024.*"\Q$_\E" is not a name/s) foreach '', '.', 'a.', 'a..b', 'a[', 'a[x]', 'a[10]', '[0]', 'a]b';
refused('field_names', '{"*": "info"}', qr/HV024.*must have a star/s);
refused('field_names', '{"phone": "email_id"}', qr/HV024.*make no body.*has the name "email_id", like another field/s);
refused('field_names', '{"phone": "city.phone"}', qr/HV024.*make no body.*something else of that name/s);
refused('add_fields', '1', qr/HV024.*must be a JSON object/s);
refused('add_fields', '{"a..b": 1}', qr/HV024.*"a..b" is not a name/s);
refused('add_fields', '{"a": 1, "a.b": 2}', qr/HV024.*"add_fields" make no body/s);
refused('update_fields', '{"city.part": 1}', qr/HV024.*"update_fields" make no body.*Field "city"/s);

# --- headers of each API, which are secrets of the mapping
fresh({ api_keys => { add => 'secret-a', update => 'secret-u', get => 'secret-g', pull => 'secret-p' } }, headers => '{"x-api-type": "crm"}');
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD headers '{\"x-api-key\": \"for-all\"}')");
sql("INSERT INTO customers (customer_name, phone) VALUES ('Priya', '9845765226')");
poll_ok($node, "SELECT server_state = 'denied' FROM kapture_status", 'one key for all is none');
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD ${_}_headers '{\"X-Api-Key\": \"secret-" . substr($_, 0, 1) . "\"}')") foreach qw(add update get pull);
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers", 'each API with its own key: a row is added');
sql("UPDATE customers SET city = 'Agra'");
poll_ok($node, $idle, 'and updated');
oracle_ok($node, $emulator, 'with its values');
is(sql("SELECT name FROM kapture_find_customers('{\"phone\": \"9845765226\"}')"), 'Priya', 'a search has its own');
is(sql("SELECT count(*) FROM kapture_pull_customers('2021-03-14', '2021-03-14')"), 0, 'and a pull');
is(sql("CALL kapture_refresh('2021-03-14', '2021-03-14')"), '', 'and a refresh');
is(sql("SELECT ok FROM kapture_check() WHERE step = 'auth'"), 't', 'and kapture_check');
like(sql("SELECT kapture_update_customer(jsonb_build_object('kapture_customer_id', kapture_customer_id, 'city', 'Goa')) FROM customers"), qr/success/, 'and a direct call');
sql("UPDATE customers SET city = 'Pune'");
my $shown = sql("SELECT array_to_string(headers, E'\\n') FROM kapture_preview('customers', (SELECT id FROM customers)::text)");
like($shown, qr/^X-Api-Key: \*\*\*$/m, 'kapture_preview shows the name of a secret header');
is(scalar(() = $shown =~ /^x-api-key:/gim), 1, 'which takes the place of the one for all, whatever its case');
like($shown, qr/^x-api-type: crm$/m, 'and public ones whole');
unlike($shown, qr/secret|for-all/, 'but no secret');
like(error_of("ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET add_headers 'swordfish')"), qr/HV024.*must be a JSON object/s, 'a bad value');
unlike(error_of("ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET add_headers 'swordfish')"), qr/option "add_headers": "swordfish"/, 'is not repeated');
sql("CREATE ROLE other LOGIN");
is(sql("SET ROLE other; SELECT umoptions IS NULL FROM pg_user_mappings WHERE srvname = 'kapture'"), 't', 'nor shown to others');
unlike(join("\n", grep { !/statement: /i } split /\n/, slurp_file($node->logfile)), qr/secret-[augp]\b/, 'secrets are in no message of the log');

# --- pulls of whole days in pages
my @pages;

# How many customers there are of March 14th, and how many of them a pull brings, by each way there is.
sub pulls_all
{
	my ($name) = @_;
	my $all = () = map { $_->{generated} =~ /^2021-03-14/ ? 1 : () } @{ emulator_get($emulator, 'customers') };

	my $before = emulator_get($emulator, 'stats')->{requests};
	is(sql("SELECT count(*) || ' ' || count(DISTINCT id) FROM kapture_pull_customers('2021-03-14', '2021-03-14')"), "$all $all", "$name: a pull brings all, each once");
	@pages = grep { $_->{api} eq 'pull' } @{ emulator_get($emulator, "log?since=$before") };
	is(sql("SELECT jsonb_array_length(kapture_pull('2021-03-14', '2021-03-14')->'message')"), $all, 'as JSON, too');
	sql("TRUNCATE kapture_customers, kapture_contacts; CALL kapture_refresh('2021-03-14', '2021-03-14', restart => true)");
	is(sql("SELECT count(*) FROM kapture_customers"), $all, 'and a refresh');
	return;
}

# What the account answers to a request for the first page, byte by byte.
sub first_page
{
	my $answer = HTTP::Tiny->new->post("$emulator->{url}/select-customer-between-start-and-end-dates.html",
		{ content => '{"cm_id": 2469, "createStartDate": "2021-03-14", "createEndDate": "2021-03-15", "offset": 0, "limit": 100}',
			headers => { 'Content-Type' => 'application/json', Authorization => 'Basic a2FwZGVtbzprYXAxMjM=' } });
	return $answer->{content};
}

# The offsets that were asked for.
sub offsets { return join ' ', map { $_->{body} =~ /"offset": (\d+)/ ? $1 : '-' } @pages }

fresh({ paged => \1, invalid_json => \1 });
emulator_post($emulator, 'seed', { count => 250, from => '2021-03-14 00:00:00', to => '2021-03-14 23:59:59' });
like(error_of("SELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-14')"), qr/HV000.*Invalid Json.*"pull_form"/s, 'an account of pages does not take a range; the hint has the option');
like(error_of("ALTER SERVER kapture OPTIONS (ADD pull_form 'paged')"), qr/HV00J.*"cm_id" is required.*"cmId" in the answers/s, 'pages need the number of the account');
refused('pull_form', 'pages', qr/HV024.*must be "range" or "paged"/s);
refused('pull_limit', '0', qr/HV024.*between 1 and 10000/s);
my @paged = (pull_form => 'paged', cm_id => 2469);
server(@paged);
pulls_all('pages of a hundred');
is(offsets(), '0 100 200 250', 'pages are asked for until one is empty');
is($pages[0]{body}, '{"cm_id": 2469, "createStartDate": "2021-03-14", "createEndDate": "2021-03-15", "offset": 0, "limit": 100}', 'as such an account wants it');
fresh({ paged => \1 }, @paged, pull_limit => 50);
emulator_post($emulator, 'seed', { count => 100, from => '2021-03-14 00:00:00', to => '2021-03-14 23:59:59' });
pulls_all('a full last page');
is(offsets(), '0 50 100 100', 'is followed by an empty one, which is asked for twice');
fresh({ paged => \1, page_rows => 37 }, @paged, pull_limit => 100);
emulator_post($emulator, 'seed', { count => 250, from => '2021-03-14 00:00:00', to => '2021-03-14 23:59:59' });
pulls_all('a limit that the account lowers');
is(offsets(), '0 37 74 111 148 185 222 250', 'goes by what has come');
# several days, some without customers, each pulled by itself
fresh({ paged => \1 }, @paged, max_connections => 4);
emulator_post($emulator, 'seed', { count => 900, from => '2021-03-12 00:00:00', to => '2021-03-16 23:59:59' });
is(sql("SELECT count(DISTINCT id) FROM kapture_pull_customers('2021-03-01', '2021-03-31')"), 900, 'a month of pages');
# customers who are added while pages are read
foreach my $newest (\0, \1)
{
	fresh({ paged => \1, page_newest => $newest, page_grows => 7 }, @paged, pull_limit => 20);
	emulator_post($emulator, 'seed', { count => 100, from => '2021-03-14 00:00:00', to => '2021-03-14 20:00:00' });
	my $seeded = sql("SELECT count(DISTINCT id) || ' ' || (count(*) = count(DISTINCT id)) FROM kapture_pull_customers('2021-03-14', '2021-03-14') WHERE name LIKE 'Seeded%'");
	is($seeded, '100 true', 'nobody who was there is lost or comes twice while others are added ' . ($$newest ? 'before' : 'behind'));
}
# the offset is left out of account
fresh({ paged => \1, page_repeats => \1 }, @paged);
emulator_post($emulator, 'seed', { count => 30, from => '2021-03-14 00:00:00', to => '2021-03-14 20:00:00' });
pulls_all('an account that ignores the offset');
emulator_post($emulator, 'seed', { count => 130, from => '2021-03-14 00:00:00', to => '2021-03-14 20:00:00' });
like(error_of("SELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-14')"), qr/HV000.*returns the same 100 customers on each page.*pull_limit/s, 'what it cannot give is an error');
# an account that slips once: a page that repeats the one before, or is empty, though there are more
foreach my $rows (100, 37)
{
	foreach my $slip ('repeated', 'empty')
	{
		fresh({ paged => \1, page_rows => $rows }, @paged);
		emulator_post($emulator, 'seed', { count => 250, from => '2021-03-14 00:00:00', to => '2021-03-14 20:00:00' });
		my $page = $slip eq 'empty' ? '{"message": "No customer between dates.", "status": "failed"}' : first_page();
		emulator_faults($emulator, { api => 'pull', action => 'status', code => 200, body => $page, skip => $slip eq 'empty' ? 2 : 1, count => 1 });
		is(sql("SELECT count(DISTINCT id) FROM kapture_pull_customers('2021-03-14', '2021-03-14')"), 250, "a page of $rows is $slip once: nobody is lost");
	}
}
# a page that fails is asked for again, and so is a day that was interrupted
fresh({ paged => \1 }, @paged);
emulator_post($emulator, 'seed', { count => 250, from => '2021-03-14 00:00:00', to => '2021-03-14 20:00:00' });
emulator_faults($emulator, { api => 'pull', action => 'drop_after', skip => 1, count => 1 });
pulls_all('a page that is lost');
# each of them twice, which is not one page that fails ever again
emulator_faults($emulator, map { { api => 'pull', match => qq("offset": $_,), action => 'status', code => 503, headers => { 'Retry-After' => '0' }, count => 2 } } 0, 100, 200);
is(sql("SELECT count(DISTINCT id) FROM kapture_pull_customers('2021-03-14', '2021-03-14')"), 250, 'pages that fail now and then');
emulator_faults($emulator);
emulator_faults($emulator, { api => 'pull', action => 'status', code => 400, body => '{"message": "No", "status": "failed"}', skip => 2 });
sql("TRUNCATE kapture_customers, kapture_contacts");
like(error_of("CALL kapture_refresh('2021-03-14', '2021-03-14', restart => true)"), qr/Kapture says: No/, 'a refresh ends in the middle of a day');
is(sql("SELECT count(*) FROM kapture_customers"), 200, 'with two pages');
emulator_faults($emulator);
sql("CALL kapture_refresh('2021-03-14', '2021-03-14')");
is(sql("SELECT count(*) FROM kapture_customers"), 250, 'and is completed by the next');
# by itself
sql("TRUNCATE kapture_customers, kapture_contacts");
server(@paged, pull_interval => '1s', pull_since => '2021-03-13');
poll_ok($node, "SELECT count(*) = 250 FROM kapture_customers", 'automatic pulls turn pages, too');
sql("SELECT kapture_add_customer('{\"customer_name\": \"New\", \"phone\": \"9845765299\"}')");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE name = 'New'", 'and go on with who is new');
server();

$node->stop;
done_testing();
