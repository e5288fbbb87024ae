# What is done about accounts that differ from the document, and what is
# reported of that: Adds that are upserts.
# The same on all versions of PostgreSQL (script/test --divide).
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
setup_sync($node, $emulator, options => "add_is_upsert 'true'");
emulator_post($emulator, 'account', { upsert => \1 });
create_customers($node,
	attach => q(, columns => '{"customer_name": "customer_name", "phone": "phone", "email_id": "email_id", "city": "city", "customer_code": "note"}'));
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";

sub requests { return emulator_get($emulator, 'stats')->{"$_[0]_requests"} }

sub fresh
{
	emulator_faults($emulator);
	sql("TRUNCATE customers; DELETE FROM kapture_history");
	poll_ok($node, $idle, 'all quiet');
	emulator_post($emulator, 'reset', {});
	emulator_post($emulator, 'account', { upsert => \1 });
	return;
}

# Inserts n rows, at most as many as go at a time; the answers to their first Adds are
# lost, and these carried out or not.
sub lose_adds
{
	my ($n, $code, $action) = @_;
	emulator_faults($emulator, { api => 'add', action => $action || 'drop_after', count => $n });
	sql("INSERT INTO customers (customer_name, phone, email_id, note)"
		  . " SELECT 'n' || i, '98000000' || (10 + i), 'c' || i || '\@example.com', $code FROM generate_series(1, $n) i");
	return;
}

# A row whose Add was lost; its table is paused, so that nothing is sent for it before it is resumed.
sub lose_one_and_pause
{
	my ($code) = @_;
	fresh();
	lose_adds(1, $code);
	poll_ok($node, "SELECT retrying = 1 FROM kapture_status", 'an Add is lost');
	sql("SELECT kapture_pause('customers')");
	poll_ok($node, "SELECT in_flight = 0 AND (SELECT in_doubt FROM kapture_delivery) <= now() FROM kapture_status", 'and can no longer be running');
	return;
}

sub next_api { return sql("SELECT api FROM kapture_preview('customers', (SELECT id::text FROM customers))") }

# --- Adds whose answers are lost are sent again, without a search
foreach my $action ('drop_after', 'drop_before')
{
	fresh();
	lose_adds(8, "'code ' || i", $action);
	poll_ok($node, "SELECT count(kapture_customer_id) = 8 FROM customers", "$action: rows whose Adds were lost get their customers");
	oracle_ok($node, $emulator, 'one each, with their values');
	is(requests('get'), 0, 'without a search');
	cmp_ok(requests('add'), '>=', 16, 'by Adds that were sent again');
	is(requests('update'), 0, 'and nothing else');
	is(sql("SELECT string_agg(DISTINCT action, ' ') FROM kapture_history"), 'add', 'which the history calls add');
}
is(sql("SELECT count(*) FROM kapture_verify('customers')"), '0', 'the code is what Kapture has');
sql("SET kapture_sync.capture = off; UPDATE customers SET note = 'other' WHERE customer_name = 'n1'");
is(sql("SELECT problem, field, here, there FROM kapture_verify('customers')"), 'differs|customer_code|other|code 1', 'or another one, which is seen');
sql("CREATE TABLE coded (customer_code text PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('coded')");
is(sql("SELECT columns ? 'customer_code' FROM kapture_attachments WHERE relation = 'coded'::regclass"), 'f', 'a column of that name is not sent by itself');
sql("SELECT kapture_detach('coded'); DROP TABLE coded");

# --- without a code they are searched for
foreach my $code ('NULL', "''")
{
	fresh();
	lose_adds(5, $code);
	poll_ok($node, "SELECT count(kapture_customer_id) = 5 FROM customers", "code $code: rows whose Adds were lost get their customers");
	oracle_ok($node, $emulator, 'one each, with their values');
	cmp_ok(requests('get'), '>=', 5, 'which were searched for');
	is(requests('add'), 5, 'and not added again');
}

# --- and so they are if the next Add is not the one that was lost
foreach my $change ("note = 'another code'", "phone = '9800000099'")
{
	lose_one_and_pause("'code ' || i");
	is(next_api(), 'add', 'it would be sent again');
	sql("UPDATE customers SET $change");
	is(next_api(), 'get', "$change: it would be searched for");
	sql("SELECT kapture_resume('customers')");
	poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'it is found');
	poll_ok($node, $idle, 'and brought up to date');
	oracle_ok($node, $emulator, 'as one customer');
	is(requests('add'), 1, 'without another Add');
}

# --- or if the account is no such one after all
lose_one_and_pause("'code ' || i");
sql("ALTER SERVER kapture OPTIONS (SET add_is_upsert 'false')");
is(next_api(), 'get', 'without the option it would be searched for');
emulator_post($emulator, 'account', {});
sql("ALTER SERVER kapture OPTIONS (SET add_is_upsert 'true')");
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'an account that refuses the repeated Add says that the customer is there, which is ours');
poll_ok($node, $idle, 'all is done');
oracle_ok($node, $emulator, 'as one customer');

# --- a code that is the same for all rows names none of them
fresh();
sql(q(SELECT kapture_detach('customers'); SELECT kapture_attach('customers',
  columns => '{"customer_name": "customer_name", "phone": "phone", "customer_code": {"constant": "all"}}')));
lose_one_and_pause('NULL');
is(next_api(), 'get', 'a constant is no code of a row');
sql("SELECT kapture_resume('customers')");
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'its customer is found');

# --- on_duplicate 'fail' cannot hold there, which is said where it is asked for
my $duplicates = "SELECT concat_ws(' / ', ok, detail, hint) FROM kapture_check() WHERE step = 'duplicates'";

sub says
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql);
	is($rc, 0, $sql);
	return $err;
}

is(sql($duplicates), 't / an Add updates a customer that is there, and no table is to fail then', 'kapture_check: nothing wrong yet');
sql("CREATE SCHEMA shop; CREATE TABLE shop.strict (id int PRIMARY KEY, customer_name text, phone text)");
my $notice = qr/NOTICE:  on_duplicate 'fail' cannot hold for table "strict".*Server "kapture" has option "add_is_upsert".*HINT:  Use kapture_match/s;
like(says("SELECT kapture_attach('shop.strict', on_duplicate => 'fail')"), $notice, 'kapture_attach');
like(sql($duplicates), qr{^f / on_duplicate 'fail' cannot hold.*: shop\.strict / Use kapture_match\(\) before rows of shop\.strict}, 'kapture_check names the table');
unlike(says("SELECT kapture_alter('shop.strict', on_duplicate => 'link')"), qr/cannot hold/, 'nothing is said about link');
like(sql($duplicates), qr{^t / }, 'nor by kapture_check');
like(says("SELECT kapture_alter('shop.strict', on_duplicate => 'fail')"), $notice, 'kapture_alter');
unlike(says("SELECT kapture_alter('shop.strict', on_conflict => 'remote')"), qr/cannot hold/, 'which says it of what was asked for only');
# of others' tables nothing is shown
sql(qq(CREATE ROLE stranger LOGIN; GRANT USAGE ON FOREIGN SERVER kapture TO stranger;
  CREATE USER MAPPING FOR stranger SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
like(sql("SET ROLE stranger; $duplicates"), qr{^t / }, "others' tables are not named");
sql("ALTER SERVER kapture OPTIONS (DROP add_is_upsert)");
is(sql($duplicates), '', 'without the option, Kapture reports duplicates');
unlike(says("SELECT kapture_alter('shop.strict', on_duplicate => 'fail')"), qr/cannot hold/, 'and fail holds');
like(says("SELECT kapture_pause('shop.strict'); CREATE SERVER upserting FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', add_is_upsert 'on');"
	  . "CREATE USER MAPPING FOR CURRENT_USER SERVER upserting OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM='); SELECT kapture_alter('shop.strict', server => 'upserting')"),
	qr/cannot hold for table "strict".*Server "upserting"/s, 'reported when such a table is moved there, too');

$node->stop;
done_testing();
