# Keys of every type, and tables that inherit, to the end: the id that Kapture
# gives a row lands in that row.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator, options => "max_connections '8'");

sub said { my ($rc, $out, $err) = $node->psql('postgres', $_[0]); return $err }

# Kapture's id of each phone.
sub ids { return map { ($_->{phone} => $_->{kapture_customer_id}) } @{ emulator_get($emulator, 'customers') } }

sub settled { my ($name) = @_; return poll_ok($node, 'SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status', $name) }

# The rows of a table that have not the id of the customer with their phone.
sub strays
{
	my ($table) = @_;
	my %ids = ids();
	my @wrong;
	foreach my $row (split /\n/, sql("SELECT phone, coalesce(kapture_customer_id, 0) FROM $table"))
	{
		my ($phone, $id) = split /\|/, $row;
		push @wrong, "$phone has $id, Kapture says " . ($ids{$phone} // 'nothing') if ($ids{$phone} // -1) != $id;
	}
	return join "\n", @wrong;
}

# --- keys of every type: columns, and seven keys, all different
# (a server that is built with sanitizers has no ICU)
sql(sql("SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'") eq 't' ? "CREATE COLLATION backwards (provider = icu, locale = 'und')" : 'CREATE COLLATION backwards FROM "C"');
sql(q(
CREATE SCHEMA "Odd Types";
CREATE EXTENSION citext SCHEMA "Odd Types";
CREATE EXTENSION ltree;
CREATE EXTENSION isn;
CREATE TYPE place AS (city text, pin int);
CREATE TYPE "Odd Types".grade AS ENUM ('gold', 'silver', 'bronze', 'iron', 'tin', 'lead', 'clay');
CREATE DOMAIN german AS text COLLATE "C";
CREATE DOMAIN graded AS "Odd Types".grade;
CREATE DOMAIN checked AS int CHECK (value <> 99);
));
my @numbers = map { [ $_ * 10 - 20 ] } 1 .. 7;
my @words = map { ["'$_'"] } qw(Beta alpha Gamma delta Zeta eta), '';
my @kinds = (
	[ 'smallint', @numbers ],
	[ 'int', @numbers ],
	[ 'bigint', [1], [-1], [9223372036854775807], ['(-9223372036854775808)'], [10], [9], [100] ],
	[ 'numeric', ['1.50'], [1], ['-0.001'], ['1e30'], ["'NaN'"], ["'Infinity'"], [10] ],
	[ 'numeric(8, 2)', [ '1.50' ], [1], [-1], [10], [9], [100], ['123456.78'] ],
	[ 'real', ['0.1'], [1], [-1], ["'NaN'"], ["'-Infinity'"], ['1e-30'], [10] ],
	[ 'double precision', ['0.1'], ['0.30000000000000004'], [-1], ["'NaN'"], ["'Infinity'"], ['1e300'], [10] ],
	[ 'money', [1], [-1], ['1234567.89'], [10], [9], [100], [0] ],
	[ 'text', @words ],
	[ 'text COLLATE "C"', @words ],
	[ 'text COLLATE backwards', @words ],
	[ 'varchar(10)', @words ],
	[ 'char(10)', @words ],
	[ '"char"', map { ["'$_'"] } qw(a B c D e F g) ],
	[ 'name', @words ],
	[ '"Odd Types".citext', @words ],
	[ 'bytea', map { ["'\\x$_'"] } '', qw(00 0001 ff deadbeef 7f 5c) ],
	[ 'boolean, k2 int', map { [ $_ % 2 ? 'true' : 'false', "$_" ] } 1 .. 7 ],
	[ 'uuid', map { ["'00000000-0000-0000-0000-00000000000$_'"] } qw(a 1 f 9 b 3 c) ],
	[ 'date', map { ["'$_'"] } '2021-03-14', 'infinity', '-infinity', '0044-03-15 BC', '1999-12-31', '2000-01-01', '5000-01-01' ],
	[ 'time', map { ["'0$_:00:00.5'"] } 1 .. 7 ],
	[ 'timetz', map { ["'0$_:00:00+05:30'"] } 1 .. 7 ],
	[ 'timestamp', map { ["'2021-03-14 0$_:00:00.000001'"] } 1 .. 7 ],
	[ 'timestamptz', map { ["'2021-03-28 0$_:30:00.123456+05:30'"] } 1 .. 7 ],
	[ 'interval', map { ["'$_ months -3 days 00:00:01.5'"] } 1 .. 7 ],
	[ 'inet', map { ["'$_'"] } qw(10.0.0.1 10.0.0.0/8 ::1 2001:db8::/32 192.168.1.5/24 10.0.0.2 9.9.9.9) ],
	[ 'cidr', map { ["'$_'"] } qw(10.0.0.0/8 10.0.0.0/16 ::1 2001:db8::/32 192.168.1.0/24 10.0.0.2 9.9.9.9) ],
	[ 'macaddr', map { ["'08:00:2b:01:02:0$_'"] } 1 .. 7 ],
	[ 'macaddr8', map { ["'08:00:2b:01:02:03:04:0$_'"] } 1 .. 7 ],
	[ 'bit(4)', map { [ "B'" . sprintf('%04b', $_) . "'" ] } 1 .. 7 ],
	[ 'bit varying', map { [ "B'" . sprintf('%b', $_) . "'" ] } 1 .. 7 ],
	[ 'oid', map { [ $_ + 4000000000 ] } 1 .. 7 ],
	[ 'pg_lsn', map { ["'0/$_'"] } qw(10 9 A F 1A FF 0) ],
	[ 'jsonb', map { ["'$_'"] } '{"a": [1, "x"]}', '[]', '"text"', '1.50', 'null', 'true', '{}' ],
	[ 'tsvector', map { ["'$_'"] } 'a', 'b', 'a b', '', "c:1", "d:1A", 'e' ],
	[ 'int[]', map { ["'$_'"] } '{1,2}', '{1}', '{}', '{{1,2},{3,4}}', '{NULL}', '{10}', '[0:1]={5,6}' ],
	[ 'text[]', map { ["'$_'"] } '{a,b}', '{"a,b"}', '{}', '{NULL,"NULL"}', '{{"{"},{"\\\\"}}', '{B}', '{""}' ],
	[ 'place', "ROW('Pune', 1)", "ROW('Pune', 2)", "ROW('', NULL)", "ROW(NULL, 3)", "ROW('a,b (\"c\")', 4)", "ROW('agra', 1)", "ROW('Agra', 1)" ],
	[ 'place[]', map { ["ARRAY[ROW('Pune', $_), ROW('x', 1)]::place[]"] } 1 .. 7 ],
	[ '"Odd Types".grade', map { ["'$_'"] } qw(gold silver bronze iron tin lead clay) ],
	[ 'graded', map { ["'$_'"] } qw(gold silver bronze iron tin lead clay) ],
	[ 'german', @words ],
	[ 'german COLLATE backwards', @words ],
	[ 'checked', @numbers ],
	[ 'int4range', map { ["'$_'"] } '[1,5)', 'empty', '(,3)', '[7,)', '(,)', '[1,6)', '[2,3)' ],
	[ 'tstzrange', map { ["'[2021-03-14 0$_:00+05:30, infinity)'"] } 1 .. 7 ],
	[ 'int4multirange', map { ["'$_'"] } '{}', '{[1,2)}', '{[1,2),[5,6)}', '{(,1)}', '{[9,)}', '{[2,3)}', '{[3,4)}' ],
	[ 'ltree', map { ["'$_'"] } qw(Top Top.Science Top.Arts a.b a b a.b.c) ],
	[ 'isbn', map { ["'$_'"] } qw(0-306-40615-2 1-86197-271-7 0-19-852663-6 0-393-04002-X 0-13-110362-8 0-201-63361-2 0-596-00027-8) ],
	[ '"Odd Types".citext, k2 int[], k3 text COLLATE "C"', map { [ $_ % 2 ? "'Acme'" : "'beta'", $_ % 3 ? "'{1,2}'" : "'{}'", "'$_'" ] } 1 .. 7 ],
	[ 'int, k2 place, k3 timestamptz, k4 bytea', map { [ $_ % 2, "ROW('Pune', " . $_ % 3 . ")", "'2021-03-14 10:00+05:30'", "'\\x0$_'" ] } 1 .. 7 ],
	[ 'uuid, k2 date', map { [ "'00000000-0000-0000-0000-000000000001'", "'2021-03-0$_'" ] } 1 .. 7 ]);
my $create = '';
my @backfill;
my $play = '';
foreach my $t (0 .. $#kinds)
{
	my ($type, @keys) = @{ $kinds[$t] };
	my $columns = join ', ', map { "k$_" } 1 .. (() = $type =~ /, k\d/g) + 1;
	@keys = map { ref $_ ? join(', ', @$_) : $_ } @keys;
	my $row = sub { my ($key, $n, $phone) = @_; return "($keys[$key], 'Row $n', '" . ($phone // sprintf '98%05d%03d', $t, $n) . "')" };
	$create .= "CREATE TABLE t$t (k1 $type, customer_name text, phone text, PRIMARY KEY ($columns));\n"
	  . "INSERT INTO t$t ($columns, customer_name, phone) VALUES " . join(', ', map { $row->($_, $_) } 0 .. 3) . ";\n"
	  . "SELECT kapture_attach('t$t');\n";
	push @backfill, "CALL kapture_backfill('t$t', 3)";
	# one that waits is given another key; one is refused, and then corrected
	$play .= "INSERT INTO t$t ($columns, customer_name, phone) VALUES " . $row->(4, 4) . ', ' . $row->(5, 5, '12') . ";\n"
	  . "UPDATE t$t SET ($columns) = ROW($keys[6]) WHERE phone = '" . sprintf('98%05d%03d', $t, 4) . "';\n";
}
sql($create);
is(sql('SELECT count(*) FROM kapture_attachment'), scalar @kinds, 'keys of all types can be attached');
sql(join ';', @backfill);
settled('a backfill in slices comes to its end');
is(strays("t$_"), '', "a backfill finds each row by a key of type $kinds[$_][0]") foreach 0 .. $#kinds;
sql($play);
settled('rows are sent');
is(sql('SELECT count(*) FROM kapture_failures'), scalar @kinds, 'one row of each table is refused');
is(sql("SELECT count(*) FROM kapture_failures WHERE message NOT LIKE 'Invalid phone number%'"), '0', 'by Kapture');
sql(join '', map { "ALTER TABLE t$_ DISABLE TRIGGER kapture_capture; UPDATE t$_ SET phone = '" . sprintf('98%05d%03d', $_, 5) . "' WHERE phone = '12';"
	  . "ALTER TABLE t$_ ENABLE TRIGGER kapture_capture; SELECT kapture_retry('t$_'::regclass, row_key) FROM kapture_failures WHERE relation = 't$_'::regclass;" } 0 .. $#kinds);
settled('and tried again');
is(sql('SELECT count(*) FROM kapture_failures'), '0', 'with success');
is(strays("t$_"), '', "rows with a key of type $kinds[$_][0] have their ids") foreach 0 .. $#kinds;
my %twice;
$twice{ $_->{phone} }++ foreach @{ emulator_get($emulator, 'customers') };
is(join(' ', grep { $twice{$_} > 1 } sort keys %twice), '', 'nobody was added twice');
is(keys %twice, 6 * @kinds, 'and nobody is missing');

# --- a value of a key gets another name
sql(q(CREATE TYPE zone AS ENUM ('n', 's'); CREATE DOMAIN area AS zone;
CREATE TABLE zoned (z zone, n int, customer_name text, phone text, PRIMARY KEY (z, n));
CREATE TABLE zones (z zone PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
CREATE TABLE areas (a area PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('zoned', id_column => NULL), kapture_attach('zones'), kapture_attach('areas');
INSERT INTO zoned VALUES ('n', 1, 'One', '9640000001'), ('s', 1, 'Two', '9640000002')));
settled('rows whose keys have values of an enumerated type');
sql(q(SELECT kapture_pause('zoned'), kapture_pause('zones'), kapture_pause('areas');
INSERT INTO zoned VALUES ('n', 2, 'Three', '9640000003'); UPDATE zoned SET customer_name = customer_name || ' again'; INSERT INTO zones VALUES ('n', 'Four', '9640000004'); INSERT INTO areas VALUES ('n', 'Five', '9640000005');
ALTER TYPE zone RENAME VALUE 'n' TO 'north, west'; SELECT kapture_resume('zoned'), kapture_resume('zones'), kapture_resume('areas')));
settled('are sent when such a value has got another name');
is(sql("SELECT count(*) FROM kapture_failures WHERE relation IN ('zoned'::regclass, 'zones'::regclass, 'areas'::regclass)"), '0', 'without trouble');
is(join(', ', sort map { $_->{phone} =~ /^964/ ? $_->{customer_name} : () } @{ emulator_get($emulator, 'customers') }), 'Five, Four, One again, Three again, Two again', 'each once, as it is');
is(sql(q(SELECT string_agg((kapture_id('zoned', ARRAY[z::text, n::text]::text) IS NOT NULL)::text, ' ') FROM zoned)), 'true true true', 'and known');
sql("SELECT kapture_detach('zoned'), kapture_detach('zones'), kapture_detach('areas'); DROP TABLE zoned, zones, areas; DROP DOMAIN area; DROP TYPE zone");

# --- keys that are equal, but written otherwise
my $phone = 9650000000;
foreach my $case ([ 'numeric', '1.0', '1.00', 'numeric(10, 3)' ], [ '"Odd Types".citext', "'a'", "'A'", 'text' ], [ 'float8', '0', "'-0'", 'text' ])
{
	my ($type, $one, $other, $new_type) = @$case;
	my ($first, $second, $third) = map { $phone + $_ } 1 .. 3;
	$phone += 3;
	sql("CREATE TABLE written (id $type PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('written'), kapture_pause('written')");
	sql("INSERT INTO written VALUES ($one, 'First', '$first')");
	sql("DELETE FROM written; INSERT INTO written VALUES ($other, 'Second', '$second')");
	sql("SELECT kapture_resume('written')");
	settled("a row is deleted, and another one has a key of $type that is equal");
	is(sql("SELECT count(*) FROM kapture_failures WHERE relation = 'written'::regclass"), '0', 'nobody takes one for the other');
	is(strays('written'), '', 'each is what it is');
	sql("SELECT kapture_pause('written'); UPDATE written SET phone = '$third'; ALTER TABLE written ALTER id TYPE $new_type; SELECT kapture_resume('written')");
	settled('as another type writes it');
	is(strays('written'), '', 'what waited has followed');
	sql("SELECT kapture_detach('written'); DROP TABLE written");
}

# the text of a key is the same wherever it is made
sql(join ';', map { "SELECT kapture_pause('t$_'); UPDATE t$_ SET kapture_customer_id = NULL; UPDATE t$_ SET customer_name = customer_name || '!'" } 0 .. $#kinds);
sql(join ';', @backfill);
is(sql(q(SELECT string_agg(relation || ' ' || keys, ', ') FROM (SELECT a.relation, count(DISTINCT k) AS keys
	FROM kapture_attachment a JOIN kapture_outbox o USING (attachment_id), unnest(o.row_key || o.more_keys) AS k GROUP BY 1) AS t WHERE keys <> 6)),
	'', 'a backfill knows rows by the keys they were captured under');

sql(join ';', map { "SELECT kapture_detach('t$_')" } 0 .. $#kinds);

# --- types that cannot be a key's
sql(q(
CREATE TYPE shifty;
CREATE FUNCTION shifty_in(cstring) RETURNS shifty LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION shifty_out(shifty) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
CREATE TYPE shifty (INPUT = shifty_in, OUTPUT = shifty_out, LIKE = int4);
CREATE FUNCTION shifty_cmp(shifty, shifty) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp';
CREATE FUNCTION shifty_less(shifty, shifty) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4lt';
CREATE FUNCTION shifty_equal(shifty, shifty) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4eq';
CREATE FUNCTION shifty_greater(shifty, shifty) RETURNS boolean LANGUAGE internal IMMUTABLE STRICT AS 'int4gt';
CREATE OPERATOR <<<! (FUNCTION = shifty_less, LEFTARG = shifty, RIGHTARG = shifty);
CREATE OPERATOR === (FUNCTION = shifty_equal, LEFTARG = shifty, RIGHTARG = shifty);
CREATE OPERATOR >>>! (FUNCTION = shifty_greater, LEFTARG = shifty, RIGHTARG = shifty);
CREATE OPERATOR CLASS shifty_ops DEFAULT FOR TYPE shifty USING btree AS OPERATOR 1 <<<!, OPERATOR 3 ===, OPERATOR 5 >>>!, FUNCTION 1 shifty_cmp(shifty, shifty);
CREATE TABLE shifty_keys (id shifty PRIMARY KEY, customer_name text, phone text);
INSERT INTO shifty_keys VALUES ('3', 'Own operators', '9700000001'), ('1', 'Own operators', '9700000002'), ('2', 'Own operators', '9700000003');
SELECT kapture_attach('shifty_keys');
CALL kapture_backfill('shifty_keys', 1);
));
settled('a type with operators of other names');
is(strays('shifty_keys'), '', 'is compared by those of its class');
sql("SELECT kapture_detach('shifty_keys'); CREATE OR REPLACE FUNCTION shifty_out(shifty) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'oidout'; INSERT INTO shifty_keys VALUES ('-1', 'Reads otherwise', '9700000004'); DELETE FROM shifty_keys WHERE phone <> '9700000004'");
like(said("SELECT kapture_attach('shifty_keys')"), qr/ERROR:  "shifty_keys" cannot be attached to Kapture\n.*DETAIL:  Its rows cannot be found by their primary key: .*out of range.*\n.*HINT:  /s, 'a type whose text cannot be read again is refused');
is(sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'shifty_keys'::regclass"), '0', 'and nothing is left of the attempt');

foreach my $type ('regclass', 'regtype[]', 'regrole')
{
	like(said("CREATE TABLE named (id $type PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('named')"), qr/ERROR:  "named" cannot be attached to Kapture\n.*DETAIL:  The text of values of column "id", of type \Q$type\E, is a name/s, "so is $type");
	sql('DROP TABLE named');
}

# --- a key that is not one
sql("CREATE TABLE pairs (a int, b text, customer_name text, phone text, PRIMARY KEY (a, b)); SELECT kapture_attach('pairs')");
foreach my $key ('1', '{1}', '{1,x,y}', '{1,NULL}', '{{1,x}}')
{
	like(said("SELECT * FROM kapture_preview('pairs', '$key')"), qr/ERROR:  "\Q$key\E" is not a key of table "pairs"\n.*DETAIL:  Its key has 2 columns\.\n.*HINT:  Give the values as an array/s, "$key is no key of two columns");
}

# --- plain inheritance: a parent's rows are its own
sub customer { my ($phone) = @_; return (grep { ($_->{phone} // '') eq $phone } @{ emulator_get($emulator, 'customers') })[0]; }
sql(q(
CREATE TABLE parent (id int PRIMARY KEY, customer_name text, phone text, city text);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
INSERT INTO child VALUES (1, 'Child', '9700000011', 'Agra'), (2, 'Child alone', '9700000012', 'Agra');
));
like(said("SELECT kapture_attach('parent')"), qr/NOTICE:  rows of tables that inherit from "parent" are not sent to Kapture/, 'who attaches a parent learns that it is alone');
sql("INSERT INTO parent VALUES (1, 'Parent', '9700000013', 'Pune')");
settled('a row whose key is in a child, too');
is(customer('9700000013')->{customer_name}, 'Parent', 'is sent with its own values');
is(sql("SELECT count(kapture_customer_id) FROM child"), '0', 'the child has no id');
is(strays('ONLY parent'), '', 'the parent has');
sql("UPDATE ONLY parent SET city = 'Goa'; CALL kapture_backfill('parent')");
settled('an update and a backfill');
is(customer('9700000013')->{city}, 'Goa', 'the update is the parent\'s');
is(sql("SELECT total FROM kapture_backfill JOIN kapture_attachment USING (attachment_id) WHERE relation = 'parent'::regclass"), '0', 'a backfill counts the parent\'s rows');
is(customer('9700000012'), undef, 'and sends those alone');
sql("SELECT kapture_attach('child'); CALL kapture_backfill('child')");
settled('the child is attached, too');
is(strays('parent'), '', 'each row has its own id');
sql("UPDATE parent SET city = 'Delhi'");
settled('all rows are changed by the parent');
is(join(' ', map { customer("970000001$_")->{city} } 1 .. 3), 'Delhi Delhi Delhi', 'and sent, each by its own table');
sql("ALTER TABLE child NO INHERIT parent; UPDATE child SET city = 'Surat' WHERE id = 1");
settled('a child that no longer inherits');
is(customer('9700000011')->{city}, 'Surat', 'is still attached');

# --- a hypertable: all rows are in children, to which the trigger is cloned
sub chunk
{
	my ($name, $from) = @_;
	return "BEGIN; CREATE TABLE chunks.$name (PRIMARY KEY (day, id), CHECK (day >= '$from' AND day < date '$from' + 10)) INHERITS (hyper);"
	  . "CREATE TRIGGER kapture_capture AFTER INSERT OR UPDATE OR DELETE ON chunks.$name FOR EACH ROW EXECUTE FUNCTION kapture_capture(); COMMIT;";
}
sql(q(
CREATE SCHEMA chunks;
CREATE TABLE hyper (day date NOT NULL, id int NOT NULL, customer_name text, dropped int, phone text, city text, PRIMARY KEY (day, id));
ALTER TABLE hyper DROP COLUMN dropped;
CREATE FUNCTION route() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO chunks.%I SELECT ($1).*', 'c' || extract(day FROM NEW.day)::int / 10) USING NEW;
	RETURN NULL;
END $$;
CREATE TRIGGER route BEFORE INSERT ON hyper FOR EACH ROW EXECUTE FUNCTION route();
SELECT kapture_attach('hyper', pull => false);
));
sql(chunk('c0', '2021-03-01'));
sql("INSERT INTO hyper VALUES ('2021-03-05', 1, 'In a chunk', '9700000021', 'Pune')");
settled('a row in a chunk that came after');
is(strays('hyper'), '', 'is sent as the hypertable\'s');
is(sql("SELECT count(kapture_customer_id) FROM chunks.c0"), '1', 'its id is in the chunk');
sql(chunk('c1', '2021-03-11'));
sql("INSERT INTO hyper VALUES ('2021-03-15', 1, 'In another', '9700000022', 'Pune'); UPDATE hyper SET city = 'Agra'; UPDATE hyper SET id = 7 WHERE phone = '9700000021'");
settled('another chunk, and changes of key and values');
is(strays('hyper'), '', 'arrive, too');
is(join(' ', map { customer("970000002$_")->{city} } 1 .. 2), 'Agra Agra', 'with the new values');
sql("DELETE FROM hyper WHERE phone = '9700000022'");
settled('a deleted row');
is(sql("SELECT action FROM kapture_history JOIN kapture_attachment a USING (attachment_id) WHERE a.relation = 'hyper'::regclass ORDER BY finished_at DESC LIMIT 1"), 'gone', 'is gone');
like(said("SELECT kapture_attach('chunks.c0')"), qr/ERROR:  rows of table "c0" are kept in step as those of "hyper"/, 'a chunk is not attached by itself');
like(said("SELECT kapture_detach('chunks.c0')"), qr/ERROR:  table "c0" is not attached to Kapture\n.*HINT:  It is kept in step as part of table "hyper"/s, 'nor detached');
sql("SELECT kapture_detach('hyper')");
is(sql("SELECT count(*) FROM pg_trigger t JOIN pg_proc p ON p.oid = tgfoid WHERE proname = 'kapture_capture' AND tgrelid::regclass::text ~ 'hyper|chunks'"), '0', 'detached, its chunks have no trigger either');
sql("UPDATE hyper SET kapture_customer_id = NULL; SELECT kapture_attach('hyper')");
sql("CREATE TRIGGER kapture_capture AFTER INSERT OR UPDATE OR DELETE ON chunks.c$_ FOR EACH ROW EXECUTE FUNCTION kapture_capture()") foreach 0 .. 1;
sql("INSERT INTO chunks.c1 VALUES ('2021-03-16', 1, 'Was there', '9700000023', 'Pune'); UPDATE chunks.c1 SET kapture_customer_id = NULL; CALL kapture_backfill('hyper', 1)");
settled('attached again');
is(strays('hyper'), '', 'a backfill sends the rows of chunks');

# a key that is in two of them
sql("ALTER TABLE chunks.c1 DROP CONSTRAINT c1_day_check; INSERT INTO chunks.c1 SELECT day, id, 'Twice', '9700000024', 'Pune' FROM chunks.c0");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = 'hyper'::regclass AND state = 'parked' AND message = 'several rows of table \"hyper\" have this key'", 'a key in two chunks is not guessed about');
is(sql("SELECT count(*) FROM hyper WHERE phone = '9700000024' AND kapture_customer_id IS NULL"), '1', 'and no row gets another\'s id');
sql("DELETE FROM hyper WHERE phone = '9700000024'; SELECT kapture_retry('hyper')");
settled('there is one again');
is(sql("SELECT count(*) FROM kapture_failures WHERE relation = 'hyper'::regclass"), '0', 'and it goes');

# one that lacks the trigger: then no child counts, and that is said
my $session = $node->background_psql('postgres');
sub warned { my ($query) = @_; $session->{stderr} = ''; $session->query($query); my $said = $session->{stderr}; $session->{stderr} = ''; return $said; }
sql("CREATE TABLE chunks.c2 (PRIMARY KEY (day, id)) INHERITS (hyper)");
like(warned("UPDATE chunks.c0 SET city = 'Lost'"), qr/WARNING:  changes of table "c0" are not sent to Kapture\n.*DETAIL:  Not all tables that inherit from "hyper" have the trigger/s, 'a child without the trigger: rows of the others do not count either');
unlike(warned("UPDATE chunks.c0 SET city = 'Lost again'"), qr/WARNING/, 'which is said once');
sql("CREATE TRIGGER kapture_capture AFTER INSERT OR UPDATE OR DELETE ON chunks.c2 FOR EACH ROW EXECUTE FUNCTION kapture_capture()");
unlike(warned("UPDATE chunks.c0 SET city = 'Found'"), qr/WARNING/, 'with the trigger on all');
settled('they do');
is(customer('9700000021')->{city}, 'Found', 'and are sent');

# --- triggers without an attachment, as a table restored by itself has them
sql("CREATE TABLE alone (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('alone')");
$node->run_log([ 'pg_dump', '-d', $node->connstr('postgres'), '-t', 'alone', '-f', $node->data_dir . '/alone.sql' ]);
sql("DROP TABLE alone");
$node->run_log([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-f', $node->data_dir . '/alone.sql' ]);
is(sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'alone'::regclass"), '2', 'restored, it has triggers');
like(warned("INSERT INTO alone VALUES (1, 'Restored', '9700000031')"), qr/WARNING:  changes of table "alone" are not sent to Kapture\n.*DETAIL:  It has the trigger, but is not attached\.\n.*HINT:  Use kapture_attach\(\)/s, 'and says that its changes are not sent');
is(warned("INSERT INTO alone VALUES (2, 'Restored', '9700000032')"), '', 'once');
sql("SELECT kapture_attach('alone'); CALL kapture_backfill('alone')");
$session->query("INSERT INTO alone VALUES (3, 'Restored', '9700000033')");
settled('attached again');
is(strays('alone'), '', 'its rows are sent');
is(sql("SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'alone'::regclass"), 'kapture_capture kapture_truncate', 'by one trigger');
sql("DROP TABLE alone");
$node->run_log([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-f', $node->data_dir . '/alone.sql' ]);
like(said("SELECT kapture_detach('alone')"), qr/NOTICE:  table "alone" was not attached to Kapture; dropped the triggers that were left on it/, 'detach drops triggers that were left');
is(sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'alone'::regclass"), '0', 'all of them');
like(said("SELECT kapture_detach('alone')"), qr/ERROR:  table "alone" is not attached/, 'without any, it is an error');
$session->quit;

# partitions with triggers of their own
sql(q(
CREATE TABLE parted (id int, region text, customer_name text, phone text, kapture_customer_id bigint, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parted_a (LIKE parted INCLUDING ALL);
SELECT kapture_attach('parted_a');
ALTER TABLE parted ATTACH PARTITION parted_a FOR VALUES IN ('a');
));
like(said("SELECT kapture_attach('parted')"), qr/ERROR:  partition "parted_a" is attached to Kapture separately\n.*HINT:  Use kapture_detach\(\)/s, 'a partition that is attached by itself is not taken over');
sql("SELECT kapture_detach('parted_a'); CREATE TRIGGER kapture_capture AFTER INSERT ON parted_a FOR EACH ROW EXECUTE FUNCTION kapture_capture(); SELECT kapture_attach('parted')");
is(sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'parted_a'::regclass AND tgparentid <> 0"), '1', 'a trigger left on a partition is replaced');
sql("INSERT INTO parted VALUES (1, 'a', 'In a partition', '9700000041')");
settled('a row of the partition');
is(strays('parted'), '', 'is sent');

# --- a partition elsewhere
sql(q(
CREATE EXTENSION postgres_fdw;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw;
CREATE TABLE spread (id int, region text, customer_name text, phone text, kapture_customer_id bigint) PARTITION BY LIST (region);
CREATE TABLE spread_here PARTITION OF spread (PRIMARY KEY (id)) FOR VALUES IN ('here');
CREATE FOREIGN TABLE spread_there PARTITION OF spread FOR VALUES IN ('there') SERVER elsewhere;
));
like(said("SELECT kapture_attach('spread')"), qr/ERROR:  "spread" cannot be attached to Kapture\n.*DETAIL:  Its partition "spread_there" is a foreign table.*\n.*HINT:  Attach its other partitions/s, 'a foreign partition is why a table cannot be attached');
sql("SELECT kapture_attach('spread_here'); INSERT INTO spread VALUES (1, 'here', 'Local', '9700000051')");
settled('a local partition of it');
is(strays('spread_here'), '', 'can be');
sql(q(
CREATE TABLE joined (id int, region text, customer_name text, phone text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE joined_here PARTITION OF joined FOR VALUES IN ('here');
SELECT kapture_attach('joined');
ALTER TABLE joined DROP CONSTRAINT joined_pkey;
CREATE FOREIGN TABLE joined_there PARTITION OF joined FOR VALUES IN ('there') SERVER elsewhere;
));
poll_ok($node, "SELECT state = 'misconfigured' AND last_error = 'partition \"joined_there\" of table \"joined\" is a foreign table' FROM kapture_status WHERE relation = 'joined'::regclass", 'one that comes later is a state of the table');
sql("INSERT INTO joined VALUES (1, 'here', 'Waits', '9700000052'); DROP FOREIGN TABLE joined_there");
settled('without it');
is(strays('joined'), '', 'what waited is sent');

# --- row-level security that hides the rows from their owner
sql(q(
CREATE ROLE shop;
GRANT CREATE ON SCHEMA public TO shop;
GRANT USAGE ON FOREIGN SERVER kapture TO shop;
CREATE USER MAPPING FOR shop SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE secret (id int PRIMARY KEY, customer_name text, phone text);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, OWNER TO shop;
));
like(said("SET ROLE shop; SELECT kapture_attach('secret')"), qr/ERROR:  "secret" cannot be attached to Kapture\n.*DETAIL:  The worker acts as the table's owner, "shop", on whom row-level security is forced\.\n.*HINT:  .*NO FORCE/s, 'forced row-level security is refused');
sql("ALTER ROLE shop BYPASSRLS; SET ROLE shop; SELECT kapture_attach('secret'); INSERT INTO secret VALUES (1, 'Secret', '9700000061')");
settled('unless the owner may bypass it');
is(strays('secret'), '', 'and then its rows are sent');

# --- a table of Citus, as its catalog says
sql(q(
SET allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass);
CREATE TABLE distributed (id int PRIMARY KEY, customer_name text, phone text);
INSERT INTO pg_catalog.pg_dist_partition VALUES ('distributed');
GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC;
));
like(said("SELECT kapture_attach('distributed')"), qr/ERROR:  "distributed" cannot be attached to Kapture\n.*DETAIL:  Citus keeps its rows in other tables.*\n.*HINT:  Use undistribute_table\(\)/s, 'a table of Citus is refused');
sql("DELETE FROM pg_catalog.pg_dist_partition; SELECT kapture_attach('distributed'); SET allow_system_table_mods = on; DROP TABLE pg_catalog.pg_dist_partition");

# --- a key whose values cannot be compared any more
sql(q(
CREATE TABLE changing (id text PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('changing');
ALTER TABLE changing DROP CONSTRAINT changing_pkey;
ALTER TABLE changing ALTER id TYPE json USING '1';
INSERT INTO changing VALUES ('2', 'Cannot be found', '9700000071');
));
poll_ok($node, "SELECT state = 'misconfigured' AND last_error LIKE 'column \"id\" of table \"changing\", which is part of its key, is of type json,%' AND pending = 1 FROM kapture_status WHERE relation = 'changing'::regclass", 'a key of type json is a state of the table, not an error');
sql("ALTER TABLE changing ALTER id TYPE text USING id::text");
settled('as text again');
is(strays('changing'), '', 'what waited is sent');

# --- another primary key, while rows wait, are in flight and are parked under the former one
sql(q(
CREATE TABLE swapped (a int PRIMARY KEY, b int NOT NULL, customer_name text, phone text, city text);
SELECT kapture_attach('swapped');
));
hold_adds($node, $emulator);
sql("INSERT INTO swapped SELECT n, 5 - n, 'Swapped ' || n, '970000008' || n FROM generate_series(1, 2) AS n");
poll_ok($node, "SELECT in_flight = 2 FROM kapture_status WHERE relation = 'swapped'::regclass", 'two rows are in flight');
sql("SELECT kapture_pause('swapped'); INSERT INTO swapped SELECT n, 5 - n, 'Swapped ' || n, '970000008' || n FROM generate_series(3, 4) AS n");
is(sql("SELECT count(*) FROM kapture_outbox"), '1', 'two wait');
sql("ALTER TABLE swapped DROP CONSTRAINT swapped_pkey, ADD PRIMARY KEY (b)");
is(sql("SELECT key_columns FROM kapture_attachment WHERE relation = 'swapped'::regclass"), '{b}', 'another column is the key');
release_adds($node, $emulator);
sql("SELECT kapture_resume('swapped')");
settled('all are sent');
is(strays('swapped'), '', 'no row has got another\'s id');
is(join(' ', map { customer("970000008$_")->{customer_name} } 1 .. 4), 'Swapped 1 Swapped 2 Swapped 3 Swapped 4', 'nor its values');
is(scalar(grep { ($_->{phone} // '') =~ /^970000008/ } @{ emulator_get($emulator, 'customers') }), 4, 'each was added once');
sql("SELECT kapture_pause('swapped'); UPDATE swapped SET city = 'Kochi'; ALTER TABLE swapped DROP b, ADD c int; UPDATE swapped SET c = 50 - a; ALTER TABLE swapped ADD PRIMARY KEY (c); UPDATE swapped SET city = 'Pune' WHERE c = 46; SELECT kapture_resume('swapped')");
settled('the columns of the former key are gone');
is(join(' ', map { customer("970000008$_")->{city} // 'none' } 1 .. 4), 'none none none Pune', 'only what was noted since is sent');

# --- what is renamed or moved while rows wait: one that was sent before, one that
# waits, one that comes after; then all of them are changed
sql(q(
CREATE ROLE merchant;
GRANT USAGE ON FOREIGN SERVER kapture TO merchant;
CREATE USER MAPPING FOR merchant SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE SCHEMA moved AUTHORIZATION merchant;
GRANT CREATE ON SCHEMA moved, public TO merchant;
CREATE COLLATION sorted FROM "C";
CREATE DOMAIN sorted_text AS text COLLATE "POSIX";
CREATE TYPE tier AS ENUM ('0', '1', '2');
CREATE TYPE whole AS (id int, customer_name text, phone text, city text, kapture_customer_id bigint);
));
my $typed = 'CREATE TYPE %s_row AS (id int, customer_name text, phone text, city text, kapture_customer_id bigint); CREATE TABLE %s OF %s_row (PRIMARY KEY (id))';
my $plain = 'CREATE TABLE %s (id int PRIMARY KEY, customer_name text, phone text, city text)';
my $keyed = sub { return "CREATE TABLE %s (id $_[0] PRIMARY KEY, customer_name text, phone text, city text)" };
my @moves = (
	[ 'the table', $plain, 'ALTER TABLE %s RENAME TO renamed', table => 'renamed' ],
	[ 'its name, which another table has then', $plain, "ALTER TABLE %s RENAME TO former; $plain", table => 'former' ],
	[ 'the table, to another schema', $plain, 'ALTER TABLE %s SET SCHEMA moved', table => 'moved.%s' ],
	[ 'its schema', 'CREATE SCHEMA of_%s; CREATE TABLE of_%s.t (id int PRIMARY KEY, customer_name text, phone text, city text)', 'ALTER SCHEMA of_%s RENAME TO was_%s', before => 'of_%s.t', table => 'was_%s.t' ],
	[ 'a mapped column', $plain, 'ALTER TABLE %s RENAME city TO town; ALTER TABLE %s ADD city text', city => 'town' ],
	[ 'a mapped column, by a block', $plain, 'DO $$BEGIN ALTER TABLE %s RENAME city TO town; END$$; ALTER TABLE %s ADD city text', city => 'town' ],
	[ 'two mapped columns, crosswise', $plain, 'ALTER TABLE %s RENAME city TO x; ALTER TABLE %s RENAME customer_name TO city; ALTER TABLE %s RENAME x TO customer_name', city => 'customer_name', customer_name => 'city' ],
	[ 'the key', $plain, 'ALTER TABLE %s RENAME id TO nr; ALTER TABLE %s ADD id int', id => 'nr' ],
	[ 'the column of ids', $plain, 'ALTER TABLE %s RENAME kapture_customer_id TO crm; ALTER TABLE %s ADD kapture_customer_id bigint', kapture_customer_id => 'crm' ],
	[ 'columns, but not after all', $plain, 'BEGIN; ALTER TABLE %s RENAME city TO town; ALTER TABLE %s RENAME id TO nr; ROLLBACK' ],
	[ 'a column of a typed table', $typed, 'ALTER TYPE %s_row RENAME ATTRIBUTE city TO town CASCADE; ALTER TYPE %s_row ADD ATTRIBUTE city text CASCADE', city => 'town' ],
	[ 'key and column of ids of a typed table', $typed, 'ALTER TYPE %s_row RENAME ATTRIBUTE id TO nr CASCADE; ALTER TYPE %s_row RENAME ATTRIBUTE kapture_customer_id TO crm CASCADE', id => 'nr', kapture_customer_id => 'crm' ],
	[ 'a column of a table that became typed', 'CREATE TABLE %s (id int PRIMARY KEY, customer_name text, phone text, city text, kapture_customer_id bigint)',
		'ALTER TABLE %s OF whole; ALTER TYPE whole RENAME ATTRIBUTE city TO town CASCADE; ALTER TABLE %s NOT OF; ALTER TABLE %s ADD city text', city => 'town' ],
	[ 'a column of the parent', 'CREATE TABLE of_%s (id int, customer_name text, phone text, city text); CREATE TABLE %s (PRIMARY KEY (id)) INHERITS (of_%s)', 'ALTER TABLE of_%s RENAME city TO town; ALTER TABLE of_%s ADD city text', city => 'town' ],
	[ 'a parent that comes and goes', $plain, 'CREATE TABLE of_%s (LIKE %s); ALTER TABLE %s INHERIT of_%s; ALTER TABLE of_%s RENAME city TO town; ALTER TABLE %s NO INHERIT of_%s; ALTER TABLE %s ADD city text', city => 'town' ],
	[ 'a column of a partitioned table', 'CREATE TABLE %s (id int PRIMARY KEY, customer_name text, phone text, city text) PARTITION BY RANGE (id); CREATE TABLE %s_1 PARTITION OF %s FOR VALUES FROM (0) TO (2)',
		'ALTER TABLE %s RENAME city TO town; CREATE TABLE %s_2 (city text, kapture_customer_id bigint, phone text, town text, customer_name text, id int NOT NULL); ALTER TABLE %s_2 DROP city; ALTER TABLE %s ATTACH PARTITION %s_2 FOR VALUES FROM (2) TO (9)', city => 'town' ],
	[ 'a partition that became a table', 'CREATE TABLE of_%s (id int PRIMARY KEY, customer_name text, phone text, city text, kapture_customer_id bigint) PARTITION BY RANGE (id); CREATE TABLE %s (LIKE of_%s INCLUDING ALL)',
		'ALTER TABLE of_%s ATTACH PARTITION %s FOR VALUES FROM (0) TO (9); ALTER TABLE of_%s RENAME city TO town; ALTER TABLE of_%s DETACH PARTITION %s', city => 'town' ],
	[ 'the key\'s type', $plain, 'ALTER TABLE %s ALTER id TYPE bigint' ],
	[ 'the key\'s type, to text', $plain, 'ALTER TABLE %s ALTER id TYPE text' ],
	[ 'the key\'s collation', $keyed->('text'), 'ALTER TABLE %s ALTER id TYPE text COLLATE "C"' ],
	[ 'the name of the key\'s collation', $keyed->('sorted_text COLLATE sorted'), 'ALTER COLLATION sorted RENAME TO "Sorted"; ALTER COLLATION "Sorted" SET SCHEMA moved' ],
	[ 'the name of the key\'s type', $keyed->('tier'), 'ALTER TYPE tier RENAME TO "Tier"; ALTER TYPE "Tier" SET SCHEMA moved' ],
	[ 'the key\'s type, of an extension', $keyed->('"Odd Types".citext'), 'ALTER EXTENSION citext SET SCHEMA moved' ],
	[ 'operators of the key\'s type', $keyed->('shifty'), 'ALTER OPERATOR === (shifty, shifty) SET SCHEMA moved; ALTER OPERATOR >>>! (shifty, shifty) SET SCHEMA moved' ],
	[ 'the primary key\'s name and index', $plain, 'ALTER TABLE %s RENAME CONSTRAINT %s_pkey TO pk_%s; ALTER INDEX pk_%s RENAME TO "Pk %s"' ],
	[ 'the primary key itself', $plain, 'CREATE UNIQUE INDEX new_%s ON %s (id); ALTER TABLE %s DROP CONSTRAINT %s_pkey, ADD PRIMARY KEY USING INDEX new_%s' ],
	[ 'the types of mapped columns', $plain, 'CREATE DOMAIN of_%s AS varchar(40); ALTER TABLE %s ALTER city TYPE of_%s, ALTER phone TYPE bigint USING phone::bigint; ALTER DOMAIN of_%s RENAME TO was_%s' ],
	[ 'columns before the mapped ones', 'CREATE TABLE %s (a int, id int PRIMARY KEY, b int, customer_name text, phone text, city text)', 'ALTER TABLE %s DROP a, DROP b' ],
	[ 'the owner', $plain, 'ALTER TABLE %s OWNER TO merchant' ],
	[ 'the owner\'s name', "$plain; ALTER TABLE %s OWNER TO shop", 'ALTER ROLE shop RENAME TO store' ],
	[ 'the server\'s name', $plain, 'ALTER SERVER kapture RENAME TO crm; ALTER SERVER crm RENAME TO kapture' ]);
sql("CREATE OR REPLACE FUNCTION shifty_out(shifty) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out'");
foreach my $m (0 .. $#moves)
{
	my ($what, $setup, $ddl, %names) = @{ $moves[$m] };
	my $name = "m$m";
	my $fill = sub { return $_[0] =~ s/%s/$name/gr };
	my $table = $fill->($names{before} || '%s');
	my $insert = sub { my ($n) = @_; my @c = map { $names{$_} || $_ } qw(id customer_name phone city); return "INSERT INTO $table (" . join(', ', @c) . ") VALUES ('$n', 'Move $m', '" . sprintf('96%06d%02d', $m, $n) . "', 'City $n')" };
	my %after = %names;
	%names = ();
	sql($fill->("$setup; ") . "SELECT kapture_attach('$table'); " . $insert->(0));
	settled("$what: a row is sent");
	sql("SELECT kapture_pause('$table'); " . $insert->(1));
	sql($fill->($ddl));
	%names = %after;
	$table = $fill->($names{table} || '%s');
	sql($insert->(2) . "; SELECT kapture_resume('$table')");
	settled("$what is changed while a row waits");
	sql("UPDATE $table SET " . ($names{city} || 'city') . " = 'Changed'");
	settled("$what: all rows are changed");
	my %customers = map { ($_->{phone} => $_) } grep { ($_->{customer_name} // '') eq "Move $m" } @{ emulator_get($emulator, 'customers') };
	is(join(' ', map { "$_->{kapture_customer_id}:$_->{city}" } @customers{ sort keys %customers }),
		sql("SELECT string_agg(" . ($names{kapture_customer_id} || 'kapture_customer_id') . " || ':Changed', ' ' ORDER BY " . ($names{id} || 'id') . "::text) FROM $table"),
		"$what: Kapture has them");
	is(keys %customers, 3, "$what: each once");
	sql("SELECT kapture_detach('$table')");
}

# --- the same under a worker that knows the table, and is not told
my @unseen = (
	[ 'its schema', 'CREATE SCHEMA of_%s; CREATE TABLE of_%s.t (id int PRIMARY KEY, customer_name text, phone text, city text)', 'ALTER SCHEMA of_%s RENAME TO was_%s', 'of_%s.t', 'was_%s.t' ],
	[ 'a namesake of its schema', 'CREATE SCHEMA of_%s; CREATE TABLE of_%s.t (id int PRIMARY KEY, customer_name text, phone text, city text)',
		'ALTER SCHEMA of_%s RENAME TO was_%s; CREATE SCHEMA of_%s; CREATE TABLE of_%s.t (LIKE was_%s.t); INSERT INTO of_%s.t VALUES (2, \'Namesake\', \'12\', \'Nowhere\')', 'of_%s.t', 'was_%s.t' ],
	[ 'the key\'s type', 'CREATE TYPE of_%s AS ENUM (\'0\', \'2\');' . $keyed->('of_%s'), 'ALTER TYPE of_%s RENAME TO was_%s; ALTER TYPE was_%s SET SCHEMA moved' ],
	[ 'the key\'s collation', 'CREATE COLLATION of_%s FROM "C";' . $keyed->('sorted_text COLLATE of_%s'), 'ALTER COLLATION of_%s RENAME TO was_%s' ],
	[ 'the schema of an extension', $keyed->('moved.citext'), 'ALTER EXTENSION citext SET SCHEMA public' ],
	[ 'operators', $keyed->('shifty'), 'ALTER OPERATOR moved.=== (shifty, shifty) SET SCHEMA public' ]);
foreach my $u (0 .. $#unseen)
{
	my ($what, $setup, $ddl, $before, $after) = map { s/%s/u$u/gr } @{ $unseen[$u] };
	$before //= "u$u";
	$after //= $before;
	sql("$setup; SELECT kapture_attach('$before'); INSERT INTO $before VALUES ('0', 'Unseen $u', '" . (9500000000 + $u) . "', 'Pune')");
	settled("$what: a row is sent");
	sql("$ddl; INSERT INTO $after VALUES ('2', 'Unseen $u', '" . (9500000100 + $u) . "', 'Pune')");
	settled("$what is changed behind the worker\'s back");
	is(strays($after), '', "$what: rows go on being sent");
	is(sql("SELECT count(*) FROM kapture_failures WHERE relation = '$after'::regclass"), '0', "$what: none fails");
	sql("SELECT kapture_detach('$after')");
}

$node->stop;
done_testing();
