# Living with a mapping: what is attached how, customers who are there already,
# customers whose row is gone, other mappings; and the recipes of the page.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('living');
setup_sync($node, $emulator, options => "max_connections '4'");
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'customers'::regclass";

sub sql { return $node->safe_psql('postgres', $_[0]) }
sub customers { return @{ emulator_get($emulator, 'customers') } }

sub said
{
	my ($statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $statement, on_error_stop => 1);
	return "$out$err";
}

# --- how tables are attached
is(sql("SELECT relation, server, columns, on_duplicate, replicated, pull, on_conflict, id_column, key_columns, paused, attached_at <= now() FROM kapture_attachments"),
	'customers|kapture|{"city": "city", "phone": "phone", "email_id": "email_id", "customer_name": "customer_name"}|link|f|f|local|kapture_customer_id|{id}|f|t',
	'kapture_attachments shows it');
sql("CREATE ROLE keeper; CREATE SCHEMA kept AUTHORIZATION keeper; GRANT USAGE ON FOREIGN SERVER kapture TO keeper;
CREATE USER MAPPING FOR keeper SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SET ROLE keeper; CREATE TABLE kept.people (id int PRIMARY KEY, name text, mobile text);
SELECT kapture_attach('kept.people', columns => '{\"customer_name\": \"name\", \"phone\": \"mobile\"}', on_duplicate => 'fail');
ALTER TABLE kept.people RENAME name TO called");
is(sql("SET ROLE keeper; SELECT relation, columns, on_duplicate FROM kapture_attachments"), 'kept.people|{"phone": "mobile", "customer_name": "called"}|fail', 'to the owner, as columns are called now');
my $again = sql("SELECT columns FROM kapture_attachments WHERE relation = 'kept.people'::regclass");
sql("SELECT kapture_detach('kept.people'); SELECT kapture_attach('kept.people', columns => '$again')");
is(sql("SELECT columns FROM kapture_attachments WHERE relation = 'kept.people'::regclass"), $again, 'and kapture_attach takes that');
sql("INSERT INTO customers (customer_name, phone) VALUES ('Seen', '9000000001')");
poll_ok($node, $idle, 'a row is sent');
is(sql("SELECT relation, row_key, action FROM kapture_history"), 'customers|1|add', 'the history names the table');
sql("TRUNCATE customers RESTART IDENTITY");
poll_ok($node, $idle, 'the table is emptied');
is(sql("SELECT relation FROM kapture_history WHERE action = 'truncate'"), 'customers', 'here, too');

# --- customers who are there already
emulator_post($emulator, 'seed', [
	{ customer_name => 'By phone', phone => '9100000001' },
	{ customer_name => 'By email', phone => '9100000002', email_id => 'two@example.com' },
	{ customer_name => 'By both', phone => '9100000003', email_id => 'three@example.com' },
	{ customer_name => 'One', phone => '9100000004', email_id => 'four@example.com' },
	{ customer_name => 'Twice', phone => '9100000006', email_id => 'six@example.com' },
	{ customer_name => 'Taken', phone => '9100000007' } ]);
my %id = map { $_->{customer_name} => $_->{kapture_customer_id} } customers();
sql("SELECT kapture_pause('customers'); SET kapture_sync.capture = off;
INSERT INTO customers (customer_name, phone, email_id) VALUES ('By phone', '9100000001', NULL), ('By email', '9100000099', 'TWO\@example.com'),
('By both', '9100000003', 'three\@example.com'), ('Two', '9100000004', 'six\@example.com'), ('Nobody', '9100000005', 'five\@example.com'),
('Twice', '9100000006', NULL), ('Twice again', NULL, 'six\@example.com'), ('Taken again', '9100000007', NULL), ('No contact', NULL, ' ')");
sql("SET kapture_sync.capture = off; INSERT INTO customers (customer_name, phone, kapture_customer_id) VALUES ('Taken', '9100000007', $id{Taken})");
my $expected = join "\n", "1|$id{'By phone'}|phone|", "2|$id{'By email'}|email|", "3|$id{'By both'}|both|",
  "4||both|the phone belongs to Kapture customer $id{One}, the email to Kapture customer $id{Twice}",
  "6|$id{Twice}|phone|the row with key \"7\" is the same customer", "7|$id{Twice}|email|the row with key \"6\" is the same customer",
  "8|$id{Taken}|phone|another row has this id";
is(sql("SELECT * FROM kapture_match('customers')"), $expected, 'rows whose customer is there');
is(sql("SELECT count(kapture_customer_id) FROM customers"), '1', 'nothing is written');
like(said("SELECT * FROM kapture_match('customers', write => true)"), qr/^\Q$expected\E\n?.*the ids are written when table "customers" is no longer paused/s, 'they are to be written');
sql("UPDATE customers SET city = 'Goa' WHERE id = 3");
sql("SELECT kapture_resume('customers')");
poll_ok($node, $idle, 'the worker writes them');
is(sql("SELECT id, kapture_customer_id FROM customers WHERE kapture_customer_id IS NOT NULL ORDER BY id"),
	"1|$id{'By phone'}\n2|$id{'By email'}\n3|$id{'By both'}\n10|$id{Taken}", 'those without a problem, and no other');
is(sql("SELECT row_key, action, customer_id FROM kapture_history WHERE action = 'link' ORDER BY 1"), "1|link|$id{'By phone'}\n2|link|$id{'By email'}\n3|link|$id{'By both'}", 'the history says so');
is((grep { $_->{customer_name} eq 'By both' } customers())[0]{city}, 'Goa', 'what had changed meanwhile is sent to that customer');
is(emulator_get($emulator, 'stats')->{adds}, 1, 'nobody was added');
is(sql("SELECT count(*) FROM kapture_match('customers')"), '4', 'what has an id is not asked for again');
sql("CREATE ROLE stranger");
like(said("SET ROLE stranger; SELECT * FROM kapture_match('customers')"), qr/must be owner of table customers/, 'for the owner only');

# --- customers whose row is gone
my $orphans = "SELECT server, kapture_customer_id, relation, row_key, since <= now(), reason FROM kapture_orphans ORDER BY kapture_customer_id";
my $number = sql("SELECT attachment_id FROM kapture_attachments WHERE relation = 'customers'::regclass");
sql("DELETE FROM kapture_row; INSERT INTO kapture_row (attachment_id, row_key, customer_id, gone_at, left_at) VALUES
($number, '101', 7001, now(), NULL), ($number, '102', 7002, NULL, now()), ($number, '103', 7003, NULL, NULL), ($number, '104', 7004, now(), NULL), ($number, '105', 7004, NULL, NULL)");
is(sql($orphans), "kapture|7001|customers|101|t|deleted\nkapture|7002|customers|102|t|left", 'customers whose row was deleted or left, and that no row has again');
is(sql("SET ROLE stranger; SELECT count(*) FROM kapture_orphans"), '0', 'others do not see them');
is(sql("SET ROLE stranger; SELECT kapture_acknowledge('kapture', 7001)"), 'f', 'nor acknowledge them');
is(sql("SELECT kapture_acknowledge('kapture', 7001), kapture_acknowledge('kapture', 7003), kapture_acknowledge('other', 7002)"), 't|f|f', 'one that is acknowledged');
is(sql($orphans), "kapture|7002|customers|102|t|left", 'is shown no more');
is(sql("SELECT count(*) FROM kapture_row WHERE customer_id = 7003"), '1', 'a row that is there is left alone');
like(said("SELECT kapture_acknowledge(NULL, 1)"), qr/argument "server" must not be null/, 'of a server');

# --- before going live
sql("CREATE TABLE shop (id int PRIMARY KEY, name text, mobile text, mail text, active boolean NOT NULL DEFAULT true);
INSERT INTO shop VALUES (1, 'Good', '9200000001', NULL, true), (2, 'Bad phone', '080-123', NULL, true), (3, NULL, '9200000003', NULL, true), (4, 'Out', '9200000004', NULL, false),
(5, 'Same phone', '9200000001', NULL, true), (6, 'Bad mail', NULL, 'nobody', true), (7, 'Known', '9100000006', NULL, true), (8, 'Both', '9100000004', 'six\@example.com', true), (9, 'No contact', NULL, NULL, true),
(10, 'Mail', NULL, 'A\@example.com', true), (11, 'Same mail', NULL, 'a\@EXAMPLE.com', true)");
my $columns = '{"customer_name": "name", "phone": "mobile", "email_id": "mail"}';
my $requests = emulator_get($emulator, 'stats')->{requests};
my $shop = sql("SELECT pg_describe_object('pg_class'::regclass, 'shop'::regclass, 0) || (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'shop'::regclass)");
is(sql("SELECT row_key, action, problem FROM kapture_dry_run('shop', '$columns', 'active')"), join("\n",
	'1|add|', '2|refuse|Invalid phone number, number must contain 10 digits and must start from 6 or above', '3|refuse|Name and (Phone Number or Email Id) are required fields',
	'4|skip|the filter leaves it out', '5|refuse|the row with key "1" has the same phone', '6|refuse|Invalid email id.', '7|add|', '8|add|',
	'9|refuse|Name and (Phone Number or Email Id) are required fields', '10|add|', '11|refuse|the row with key "10" has the same email'), 'what would become of each row');
is(sql("SELECT action, count(*), count(hint) FROM kapture_dry_run('shop', '$columns', 'active') GROUP BY action ORDER BY action"), "add|4|0\nrefuse|6|6\nskip|1|0", 'refusals say what to do');
is(sql("SELECT body FROM kapture_dry_run('shop', '$columns', 'active') WHERE row_key = '1'"), '{"phone": "9200000001", "customer_name": "Good"}', 'and what would be sent');
is(emulator_get($emulator, 'stats')->{requests}, $requests, 'nothing was sent or asked');
is(sql("SELECT pg_describe_object('pg_class'::regclass, 'shop'::regclass, 0) || (SELECT count(*) FROM pg_trigger WHERE tgrelid = 'shop'::regclass)"), $shop, 'the table is as it was');
is(sql("SELECT count(*) FROM kapture_attachments WHERE relation = 'shop'::regclass"), '0', 'and not attached');
is(sql("SELECT row_key, action, problem FROM kapture_dry_run('shop', '$columns', 'active', ask => true) WHERE row_key IN ('1', '7', '8')"), join("\n",
	'1|add|', '7|link|', "8|refuse|the phone belongs to Kapture customer $id{One}, the email to Kapture customer $id{Twice}"), 'Kapture can be asked who is there');
like(said("SELECT * FROM kapture_dry_run('shop', '{\"customer_name\": \"nobody\", \"phone\": \"mobile\"}')"), qr/column "nobody" of relation "shop" does not exist/, 'a mapping that cannot be');
like(said("SET ROLE stranger; SELECT * FROM kapture_dry_run('shop', '$columns')"), qr/must be owner of table shop/, 'for the owner only');
my $writer = $node->background_psql('postgres');
$writer->query_safe("BEGIN; UPDATE shop SET name = name");
is(sql("SET lock_timeout = '1ms'; SELECT count(*) FROM kapture_dry_run('shop', '$columns')"), '11', 'nobody is in the way, nor is it in theirs');
$writer->query_safe("ROLLBACK");
$writer->quit;
# it says what is then done
sql("SELECT kapture_attach('shop', columns => '$columns', filter => 'active')");
is(sql("SELECT filter, columns FROM kapture_attachments WHERE relation = 'shop'::regclass"), 'active|{"phone": "mobile", "email_id": "mail", "customer_name": "name"}', 'it is attached like that');
sql("CALL kapture_backfill('shop')");
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status WHERE relation = 'shop'::regclass", 'and backfilled');
is(sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM shop WHERE kapture_customer_id IS NOT NULL AND id NOT IN (5, 11)"), '1,7,10', 'the rows that were to be added or linked are there');
is(sql("SELECT action, problem FROM kapture_dry_run('shop', '$columns', 'active') WHERE row_key = '1'"), 'update|', 'of an attached table, too');

$node->stop;
done_testing();
