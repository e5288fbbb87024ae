# Nothing is sent that changes nothing: what Kapture is known to have makes no request.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql idle_ok));
setup_sync($node, $emulator);
create_customers($node);

sub updates { return [ map { $_->{body} } grep { $_->{api} eq 'update' } @{ emulator_get($emulator, 'log') } ] }
sub requests { return emulator_get($emulator, 'stats')->{requests} }

# What the latest changes ended as, and how many requests they made.
my $made = 0;
sub made_is
{
	my ($expected, $action, $name) = @_;
	my $before = $made;
	idle_ok("$name: done");
	$made = requests();
	is($made - $before, $expected, $name);
	is(sql("SELECT string_agg(DISTINCT action, ' ') FROM (SELECT action FROM kapture_history WHERE finished_at > (SELECT at FROM mark)) h"), $action, "$name: in the history");
	sql("UPDATE mark SET at = clock_timestamp()");
	return;
}
sql("CREATE TABLE mark AS SELECT clock_timestamp() AS at");

sql("INSERT INTO customers (customer_name, phone, city) VALUES ('Priya', '9845765226', 'Pune')");
made_is(1, 'add', 'a row is added');
sql("SELECT kapture_touch('customers', '1')");
made_is(0, 'none', 'a touch of an unchanged row makes no request');
sql("UPDATE customers SET city = 'Surat'");
made_is(1, 'update', 'a change is sent');
sql("SELECT kapture_pause('customers'); UPDATE customers SET city = 'Nagpur'; UPDATE customers SET city = 'Surat'; SELECT kapture_resume('customers')");
made_is(0, 'none', 'a change and its reverse make no request');
sql("SELECT kapture_pause('customers'); SELECT kapture_touch('customers', 1); UPDATE customers SET city = 'Delhi'; SELECT kapture_resume('customers')");
made_is(1, 'update', 'with a touch, what differs is sent');
is(updates()->[-1], '{"kapture_customer_id": "' . sql("SELECT kapture_customer_id FROM customers") . '", "city": "Delhi"}', 'and nothing else');
sql("UPDATE customers SET city = NULL");
made_is(0, 'none', 'an emptied value is not sent');
sql("UPDATE customers SET city = 'Delhi'");
made_is(0, 'none', 'nor is the same one again, as Kapture has kept it');
is((emulator_get($emulator, 'customers'))->[0]{city}, 'Delhi', 'so it has');
is(sql("SELECT count(*) FROM kapture_preview('customers', '1')"), '1', 'kapture_preview of a row for which nothing waits shows all of it');
my ($rc, $out, $err) = $node->psql('postgres', "BEGIN; SELECT kapture_touch('customers', '1'); SET CONSTRAINTS ALL IMMEDIATE; COMMIT");
idle_ok('touched');
sql("SELECT kapture_pause('customers'); SELECT kapture_touch('customers', '1')");
($rc, $out, $err) = $node->psql('postgres', "SELECT * FROM kapture_preview('customers', '1')");
like("$out$err", qr/^psql:<stdin>:\d+: NOTICE:  nothing would be sent for the row with key "1"$/m, 'of one that was touched, that nothing would be sent');
sql("SELECT kapture_resume('customers')");
idle_ok('nothing waits');
$made = requests();
sql("UPDATE mark SET at = clock_timestamp()");

# all the same, if that is asked for
sql("CALL kapture_resync('customers')");
made_is(0, 'none', 'a resync of an unchanged table makes no request');
sql("CALL kapture_resync('customers', force => true)");
made_is(1, 'update', 'forced, it does');

# --- many waiting changes of one row are one request, also beyond a batch
sql("INSERT INTO customers (customer_name, phone) SELECT 'Many ' || i, (9500000000 + i)::text FROM generate_series(1, 1000) i");
made_is(1000, 'add', 'many rows');
sql("SELECT kapture_pause('customers')");
sql("UPDATE customers SET city = 'City $_' WHERE id > 1") foreach 1 .. 3;
sql("SELECT kapture_resume('customers')");
made_is(1000, 'none update', 'three updates of paused rows are one request for each');
oracle_ok($node, $emulator, 'with the latest values');
sql("CALL kapture_resync('customers', fields => '{city,phone}')");
made_is(0, 'none', 'and a resync finds nothing to send');

# --- what is not certain is sent
emulator_faults($emulator, { api => 'update', action => 'status', code => 500, count => 1 });
sql("UPDATE customers SET city = 'Doubt' WHERE id = 1");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE failures > 0", 'an Update that may have been carried out');
sql("UPDATE customers SET city = 'Delhi' WHERE id = 1");
idle_ok('and is taken back');
like(updates()->[-1], qr/"city": "Delhi"/, 'is followed by one with the value of before');
emulator_faults($emulator, { api => 'update', action => 'hold' });
sql("ALTER SERVER kapture OPTIONS (SET timeout '5s'); UPDATE customers SET city = 'Crash' WHERE id = 1");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_delivery WHERE state = 'sending'", 'an Update is under way');
wait_for(sub { updates()->[-1] =~ /Crash/ }, 'Kapture to get it');
$node->stop('immediate');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
$node->start;
sql("UPDATE customers SET city = 'Delhi' WHERE id = 1");
idle_ok('when the server crashed');
like(updates()->[-1], qr/"city": "Delhi"/, 'its value is not taken for known either');
oracle_ok($node, $emulator, 'Kapture has what the table has');

# --- no values, and no way to guess them from a dump
is(sql("SELECT count(*) FROM kapture_row WHERE encode(digests, 'escape') LIKE '%9845765226%' OR encode(digests, 'hex') LIKE '%' || encode('9845765226', 'hex') || '%'"), '0',
	'no values are kept');
is(sql("SELECT digests IS NOT NULL FROM kapture_row WHERE row_key = '1'"), 't', 'but digests');
my $dump = '';
IPC::Run::run([ 'pg_dump', '--data-only', '-d', $node->connstr('postgres') ], '>', \$dump) or die 'pg_dump failed';
like($dump, qr/^COPY public\.kapture_row /m, 'a dump has the digests');
unlike($dump, qr/kapture_salt/, 'not their key');
sql("UPDATE kapture_origin SET system_identifier = 1");
poll_ok($node, "SELECT state = 'copy' FROM kapture_status", 'a copy');
my $salt = sql("SELECT salt FROM kapture_salt");
sql("SELECT kapture_resume()");
isnt(sql("SELECT salt FROM kapture_salt"), $salt, 'that goes on by itself takes another key,');
poll_ok($node, "SELECT state = 'running' FROM kapture_status", 'and sends');
$made = requests();
sql("UPDATE mark SET at = clock_timestamp(); SELECT kapture_touch('customers', '1')");
made_is(1, 'update', 'what the original may have changed');

# --- what a pull shows
my $id = sql("SELECT kapture_customer_id FROM customers WHERE id = 1");
sub refresh { return sql("CALL kapture_refresh(now()::date - 1, now()::date + 1)") }
sub digest { return sql("SELECT encode(substr(digests, 1 + 8 * (SELECT bit FROM kapture_column AS k WHERE k.attachment_id = r.attachment_id AND field = '$_[0]'), 8), 'hex') FROM kapture_row AS r WHERE row_key = '1' AND gone_at IS NULL") }
my ($city, $phone) = (digest('city'), digest('phone'));
refresh();
is(sql("SELECT city FROM kapture_customers WHERE id = $id"), 'Delhi', 'a pull that shows what was sent');
is(digest('city'), $city, 'changes nothing');
sql(qq(CREATE SERVER beside FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
	CREATE USER MAPPING FOR CURRENT_USER SERVER beside OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
sql(qq(SELECT kapture_update_customer('{"kapture_customer_id": "$id", "city": "Agra"}', 'beside')));
refresh();
is(sql("SELECT city FROM kapture_customers WHERE id = $id"), 'Agra', 'one that shows another value');
isnt($city, '0000000000000000', 'of what was known');
is(digest('city'), '0000000000000000', 'makes that unknown,');
is(digest('phone'), $phone, 'and nothing else');
$made = requests();
sql("UPDATE mark SET at = clock_timestamp(); SELECT kapture_touch('customers', '1')");
made_is(1, 'update', 'then a touch sends it');
is(updates()->[-1], qq({"kapture_customer_id": "$id", "city": "Delhi"}), 'alone');

# nor of a customer of another account that has the same number
sql("CREATE TABLE others (id int PRIMARY KEY, customer_name text, phone text, city text); SELECT kapture_attach('others', server => 'beside')");
sql(qq(SELECT kapture_update_customer('{"kapture_customer_id": "$id", "city": "Agra"}', 'beside')));
$city = digest('city');
isnt($city, '0000000000000000', 'what was sent is known');
sql("CALL kapture_refresh(now()::date - 1, now()::date + 1, 'beside')");
is(sql("SELECT city FROM kapture_customers WHERE server = 'beside' AND id = $id"), 'Agra', 'a customer of another account that has the same number');
is(digest('city'), $city, 'says nothing of it');
sql(qq(SELECT kapture_update_customer('{"kapture_customer_id": "$id", "city": "Delhi"}', 'beside')));
$made = requests();
sql("UPDATE mark SET at = clock_timestamp(); SELECT kapture_touch('customers', '1')");
made_is(0, 'none', 'nor is one that a session updates there');
sql("SELECT kapture_detach('others'); DROP TABLE others");

# --- what sessions write themselves
# nothing is claimed meanwhile, as that ends the notes
sub noted { return sql("SELECT coalesce(string_agg(s.srvname || ' ' || customer_id, ','), '') FROM kapture_written JOIN pg_foreign_server s ON s.oid = server_oid") }
is(noted(), '', 'of a server without attached tables, nothing is noted');
sql("SELECT kapture_pause('customers')");
sql(qq(SELECT kapture_update_customer('{"kapture_customer_id": $id, "city": "Agra"}')));
is(noted(), "kapture $id", 'a customer of the attached table is, by kapture_update_customer');
sql("SELECT kapture_touch('customers', '1', '{city}')");
like(sql("SELECT body FROM kapture_preview('customers', '1')"), qr/"city": "Delhi"/, 'kapture_preview goes by that');
sql("SELECT kapture_resume('customers'), kapture_touch('customers', '1')");
idle_ok('a touch after that');
is(emulator_get($emulator, 'customers?id=' . $id)->[0]{city}, 'Delhi', 'sends the value that was sent before');
is(noted(), '', 'and the note is gone');
$made = requests();
sql("UPDATE mark SET at = clock_timestamp(); SELECT kapture_touch('customers', '1')");
made_is(0, 'none', 'what was sent is known again');
sql("SELECT kapture_pause('customers'); CREATE SCHEMA crm; IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO crm; UPDATE crm.customers SET city = 'Agra' WHERE id = $id");
is(noted(), "kapture $id", 'an UPDATE of a foreign table is noted likewise');
sql("SELECT kapture_resume('customers'), kapture_touch('customers', '1')");
idle_ok('a touch after that');
is(emulator_get($emulator, 'customers?id=' . $id)->[0]{city}, 'Delhi', 'sends what the row has');
# and what is rolled back here is not, there
foreach my $case (
	[ 'a rolled back call', qq(BEGIN; SELECT kapture_update_customer('{"kapture_customer_id": $id, "city": "Agra"}'); ROLLBACK) ],
	[ 'a savepoint that is rolled back', "BEGIN; SAVEPOINT a; SAVEPOINT b; UPDATE crm.customers SET city = 'Agra' WHERE id = $id; RELEASE b; ROLLBACK TO a; COMMIT" ],
	[ 'an error after it', qq(DO \$\$ BEGIN PERFORM kapture_update_customer('{"kapture_customer_id": $id, "city": "Agra"}'); PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END \$\$) ],
	[ 'a read-only transaction', qq(BEGIN READ ONLY; SELECT kapture_update_customer('{"kapture_customer_id": $id, "city": "Agra"}'); COMMIT) ])
{
	my ($name, $statement) = @$case;
	sql($statement);
	is(emulator_get($emulator, 'customers?id=' . $id)->[0]{city}, 'Agra', "$name: Kapture keeps what was written");
	sql("SELECT kapture_touch('customers', '1')");
	idle_ok('a touch after that');
	is(emulator_get($emulator, 'customers?id=' . $id)->[0]{city}, 'Delhi', 'sends what the row has');
}
$made = requests();
sql("UPDATE mark SET at = clock_timestamp(); SELECT kapture_touch('customers', '1')");
made_is(0, 'none', 'once');
sql("SELECT kapture_pause('customers')");
sql(qq(BEGIN READ ONLY; SELECT kapture_update_customer('{"kapture_customer_id": $id, "city": "Delhi"}'); COMMIT));
sql(qq(SELECT kapture_update_customer('{"kapture_customer_id": "x", "city": "Agra"}')));
is(noted(), '', 'what is no id, or in a transaction that may not write, is not noted');
sql("SELECT kapture_resume('customers')");

# nothing is known of a field that was not mapped for a while
sql("SELECT kapture_touch('customers', '1')");
idle_ok('all fields of a row are known');
sql(q(SELECT kapture_alter('customers', columns => '{"customer_name": "customer_name", "phone": "phone", "email_id": "email_id"}')));
sql(qq(SELECT kapture_update_customer('{"kapture_customer_id": $id, "city": "Agra"}', 'beside')));
sql("SELECT kapture_alter('customers', reset => '{columns}')");
$made = requests();
sql("UPDATE mark SET at = clock_timestamp(); SELECT kapture_touch('customers', '1')");
made_is(1, 'update', 'a field is mapped again');
is(updates()->[-1], qq({"kapture_customer_id": "$id", "city": "Delhi"}), 'and is sent, as Kapture may have another value by now');

# --- rows that share a customer from before
sql("UPDATE customers SET kapture_customer_id = (SELECT kapture_customer_id FROM customers WHERE id = 1) WHERE id = 2");
sql("UPDATE customers SET city = 'Shared' WHERE id = 2");
idle_ok('a row with the customer of another is sent');
$made = requests();
sql("UPDATE mark SET at = clock_timestamp(); SELECT kapture_touch('customers', '1')");
made_is(1, 'update', 'then that may have been overwritten, and is sent again');

# --- what is detached is forgotten
sql("SELECT kapture_detach('customers')");
is(sql("SELECT count(*) FROM kapture_row"), '0', 'a detached table leaves nothing');

# --- as many fields as can be
my @fields = ('customer_name', 'phone', map { "field_$_" } 3 .. 62);
sub mapping { my (@names) = @_; return '{' . join(', ', map { qq("$_": "$_") } @names) . '}' }
sql('CREATE TABLE wide (id int PRIMARY KEY, ' . join(', ', map { "$_ text" } @fields, 'field_63') . ')');
($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_attach('wide', '" . mapping(@fields, 'field_63') . "')");
like($err, qr/ERROR:  63 fields are mapped, but at most 62 can be\nHINT:  Leave out fields/, 'a field too many is refused');
sql("SELECT kapture_attach('wide', '" . mapping(@fields) . "')");
sql("INSERT INTO wide (id, customer_name, phone, field_3, field_62) VALUES (1, 'Wide', '9600000001', 'three', 'last')");
idle_ok('a table with as many as can be is sent');
$id = sql("SELECT kapture_customer_id FROM wide");
$made = requests();
sql("UPDATE mark SET at = clock_timestamp()");
sql("SELECT kapture_pause('wide'); UPDATE wide SET field_62 = 'other'; UPDATE wide SET field_62 = 'last'; SELECT kapture_resume('wide')");
made_is(0, 'none', 'a change of its last field and the reverse make no request');
sql("CALL kapture_resync('wide', fields => '{field_3}', force => true)");
made_is(1, 'update', 'one field is forced');
is(updates()->[-1], qq({"kapture_customer_id": "$id", "field_3": "three"}), 'and is sent alone');

$node->stop;
done_testing();
