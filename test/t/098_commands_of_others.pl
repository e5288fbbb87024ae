# What is attached is looked at in commands of others, too: of whoever drops a partition,
# renames something or makes a view.  Nobody's code runs there with rights that its author
# lacks, nobody can hold up or fail such a command, and nothing in it ends the session.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
my $n = 0;

setup_sync($node, $emulator);
sql(q(
CREATE ROLE alice LOGIN; CREATE ROLE mallory LOGIN;
CREATE SCHEMA AUTHORIZATION alice; CREATE SCHEMA AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA alice, mallory TO PUBLIC;
GRANT USAGE ON FOREIGN SERVER kapture TO alice, mallory;
CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE loot (who text); GRANT INSERT ON loot TO PUBLIC;
));

# all that a role's statements print, in one session; it gives up a lock after five seconds
sub as
{
	my ($role, $statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET lock_timeout = '5s'; $statement",
		connstr => $node->connstr('postgres') . " user=$role", on_error_stop => 0);
	return "$out\n$err";
}

# A session of mallory's in which a transaction stays open.
sub hold
{
	my ($statement) = @_;
	my $session = $node->background_psql('postgres', extra_params => [ '-U', 'mallory' ], on_error_stop => 1);
	$session->query_safe("BEGIN; $statement");
	return $session;
}

# Commands of alice's, and of a superuser's on what everybody may use, of which none waits or fails.
sub undisturbed
{
	my ($name) = @_;
	$n++;
	is(as('alice', qq(
ALTER TABLE alice.things RENAME COLUMN word TO other; ALTER TABLE alice.things RENAME COLUMN other TO word;
CREATE VIEW alice.view$n AS SELECT 1 AS one; CREATE FUNCTION alice.f$n() RETURNS int LANGUAGE sql RETURN 1)), "\n", "$name: alice renames and makes what she likes");
	is(as('postgres', qq(
ALTER FUNCTION shout(text) RENAME TO whisper; ALTER FUNCTION whisper(text) RENAME TO shout;
CREATE OR REPLACE VIEW shown AS SELECT id, word, phone FROM alice.things WHERE id > $n;
ALTER VIEW shown RENAME COLUMN phone TO telephone; ALTER VIEW shown RENAME COLUMN telephone TO phone)), "\n", "$name: so does who made what everybody uses");
	return;
}

# --- rights: keys of a partition that goes are read, and that evaluates checks
as('mallory', q(
CREATE FUNCTION mallory.steal(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
  IF current_user <> 'mallory' THEN
    BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
    INSERT INTO public.loot VALUES (current_user);
  END IF;
  PERFORM set_config('kapture_test.seen', current_user, false), set_config('search_path', 'mallory', false);
  RETURN true;
END $$;
CREATE DOMAIN mallory.trap AS text CHECK (mallory.steal(VALUE));
CREATE TABLE mallory.parted (id int, tags mallory.trap[], customer_name text, phone text, PRIMARY KEY (id, tags)) PARTITION BY RANGE (id);
CREATE TABLE mallory.part1 PARTITION OF mallory.parted FOR VALUES FROM (0) TO (100);
CREATE TABLE mallory.part2 PARTITION OF mallory.parted FOR VALUES FROM (100) TO (200);
SELECT kapture_attach('mallory.parted'); SELECT kapture_pause('mallory.parted');
INSERT INTO mallory.parted VALUES (1, '{x}', 'Mallory', '9700000001'), (101, '{x}', 'Mallory', '9700000002');
DELETE FROM mallory.parted));
foreach my $command ('TRUNCATE mallory.part1', 'DROP TABLE mallory.part1', 'DROP SCHEMA mallory_too CASCADE', 'CREATE TABLE mallory.part3 PARTITION OF mallory.parted FOR VALUES FROM (200) TO (300)')
{
	sql('CREATE SCHEMA mallory_too; ALTER TABLE mallory.part2 SET SCHEMA mallory_too') if $command =~ /SCHEMA/;
	is(sql("BEGIN; $command; COMMIT; SELECT current_setting('search_path')"), '"$user", public', "$command leaves the settings of the session as they were");
}
is(sql(q(SELECT kapture_touch('mallory.parted', '{101,"{x}"}'); SELECT current_setting('search_path'))), "\n\"\$user\", public", 'nor does touching a row change them');
is(sql("SELECT (SELECT count(*) FROM loot), rolsuper FROM pg_roles WHERE rolname = 'mallory'"), '0|f', 'a check in a key runs as the owner of the table, if at all, whoever drops a partition or touches a row');
is(sql("SELECT count(*) FROM kapture_outbox WHERE op NOT IN ('i', 'u')") > 2 ? 'noted' : 'not noted', 'noted', 'rows that went are found without it');

# the bounds are about such a key themselves, and its check can neither be cancelled nor does it end
as('mallory', q(
CREATE FUNCTION mallory.stay(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
  WHILE session_user <> 'mallory' LOOP BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;
  RETURN true;
END $$;
CREATE DOMAIN mallory.snare AS text CHECK (mallory.stay(VALUE));
CREATE TABLE mallory.listed (tags mallory.snare[] PRIMARY KEY, customer_name text, phone text) PARTITION BY LIST (tags);
CREATE TABLE mallory.list1 PARTITION OF mallory.listed FOR VALUES IN ('{x}');
CREATE TABLE mallory.list2 PARTITION OF mallory.listed FOR VALUES IN ('{y}');
SELECT kapture_attach('mallory.listed'); SELECT kapture_pause('mallory.listed');
INSERT INTO mallory.listed VALUES ('{x}', 'Mallory', '9700000001'), ('{y}', 'Mallory', '9700000002');
DELETE FROM mallory.listed));
my $closed = qr/WARNING:  could not determine which of the rows .* were in partition "list1"\nDETAIL:  Reading values of type mallory\.snare\[\] runs code of role "mallory"/;
like(as('postgres', 'BEGIN; DROP TABLE mallory.list1; ROLLBACK'), $closed, 'a check of a key does not run in a command of somebody else, who drops a partition');
like(as('postgres', 'BEGIN; TRUNCATE mallory.list1; ROLLBACK'), $closed, 'or empties one');
is(as('mallory', q(DROP TABLE mallory.list2; SELECT count(*) FROM public.kapture_status WHERE relation = 'mallory.listed'::regclass)), "1\n", 'only in those of the owner');
is(sql(q(SELECT count(*) FROM kapture_outbox WHERE op NOT IN ('i', 'u') AND row_key = '{y}')) > 0 ? 'noted' : 'not noted', 'noted', 'where the rows are found');
as('mallory', 'DROP TABLE mallory.listed');

# --- oids of what is not there
is(as('alice', q(CREATE TABLE alice.things (id int PRIMARY KEY, word text, phone text);
SET client_min_messages = error; SELECT kapture_attach('alice.things', '{"customer_name": "word", "phone": "phone"}'); INSERT INTO alice.things VALUES (1, 'A', 'x'))), "\n", 'alice has a table');
foreach my $call ("SELECT kapture_unfollow(999999, 'alice.things')", "SELECT kapture_unfollow(0, 'alice.things', 'true')", "SELECT kapture_follow(0, 'alice.things', 'true')",
	"CALL kapture_verify_into('alice.things', 999999)", "CALL kapture_verify_into('alice.things', 0)",
	"SELECT * FROM kapture_dry_run('alice.things', source => 999999)")
{
	like(as('alice', "$call; SELECT 'alive'"), qr/^(?:0\nalive\n$|alive\n.*(?:does not exist|could not open relation))/s, "$call is refused, or does nothing");
}

# --- expressions and conditions of mallory's
sql(q(
CREATE FUNCTION shout(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN pg_catalog.upper($1);
CREATE VIEW shown AS SELECT id, word, phone FROM alice.things; GRANT SELECT ON shown TO PUBLIC));
as('mallory', q(
CREATE TABLE mallory.plain (id int PRIMARY KEY, customer_name text, phone text, tags mallory.trap[]);
CREATE TYPE mallory.pair AS (a int, b mallory.trap); CREATE TYPE mallory.span AS RANGE (subtype = mallory.trap);
CREATE FUNCTION mallory.first(mallory.trap[]) RETURNS text IMMUTABLE LANGUAGE sql RETURN $1[1];));
foreach my $literal ("tags <> '{a}'", "mallory.first('{a}') = 'a'", "'(1,a)'::mallory.pair IS NULL", "ARRAY['(1,a)']::mallory.pair[] IS NULL", "'[a,b]'::mallory.span = '[a,b]'",
	"row(1, 'b')::mallory.pair IS NULL")
{
	like(as('mallory', "SELECT kapture_attach('mallory.plain', filter => \$f\$ $literal \$f\$)"), qr/ERROR:  the filter must not contain a literal of type \S*(?:pair|span|trap)\b.*HINT:.*function/s, "a literal whose reading runs code is refused: $literal");
}
like(as('mallory', q(SELECT kapture_attach('mallory.plain', filter => 'id > ' || repeat('0', 70000) || '1'))), qr/the filter is too long/, 'and what is long');
unlike(as('mallory', q(
CREATE FUNCTION mallory.is_x(mallory.trap[]) RETURNS boolean IMMUTABLE LANGUAGE sql RETURN $1 = '{x}'::mallory.trap[];
SELECT public.kapture_attach('mallory.plain', filter => 'mallory.is_x(tags)', name => 'function');
CREATE TABLE mallory.read (id int PRIMARY KEY, customer_name text);
CREATE VIEW mallory.source AS SELECT p.id, p.customer_name, p.phone FROM mallory.plain p LEFT JOIN public.shown s ON s.id = p.id AND s.phone IS NOT NULL;
SELECT public.kapture_attach('mallory.plain', '{"customer_name": {"expression": "public.shout(customer_name)"}, "phone": "phone"}', filter => 'public.shout(customer_name) <> ''x''', source => 'mallory.source', id_column => NULL);
SELECT public.kapture_follow('mallory.read', 'mallory.plain', 'target.id = source.id AND public.shout(source.customer_name) = ANY (SELECT r.customer_name FROM mallory.read AS r)');
)), qr/ERROR/, 'mallory uses what everybody may use; in a function, the literal is allowed');
like(as('mallory', q(SELECT kapture_follow('mallory.read', 'mallory.plain', 'target.tags <> ''{a}'''))), qr/ERROR:  argument "condition" must not contain a literal/, 'nor does a condition contain such a literal');
my $text = "SELECT a.filter || f.condition FROM kapture_attachment AS a JOIN kapture_follow AS f USING (relation) WHERE a.source IS NOT NULL";
like(sql($text), qr/public\.shout.*public\.shout/, 'expressions are kept');
foreach my $held ('ALTER VIEW mallory.source SET (security_barrier)', 'LOCK TABLE mallory.plain', 'LOCK TABLE mallory.read', "SELECT public.kapture_pause('mallory.plain')", "SELECT public.kapture_unfollow('mallory.read', 'mallory.plain')",
	"SELECT public.kapture_detach('mallory.plain')")
{
	my $session = hold($held);
	undisturbed($held);
	$session->query_safe('ROLLBACK');
	$session->quit;
	# what was locked need not have followed
	sql("UPDATE kapture_attachment SET filter = replace(filter, 'whisper', 'shout'); UPDATE kapture_column SET expression = replace(expression, 'whisper', 'shout'); UPDATE kapture_follow SET condition = replace(condition, 'whisper', 'shout')");
}
undisturbed('without a lock');
like(sql($text), qr/public\.shout.*public\.shout/, 'and expressions follow');
sql('ALTER FUNCTION shout(text) RENAME TO whisper');
like(sql($text), qr/public\.whisper.*public\.whisper/, 'there and back');
sql('ALTER FUNCTION whisper(text) RENAME TO shout');

# what is gone, or is no longer understood, is no error of others
as('mallory', 'DROP TABLE mallory.read; DROP VIEW mallory.source');
undisturbed('without what is followed and read');
is(as('mallory', 'BEGIN; DROP TABLE mallory.plain; CREATE FUNCTION mallory.f() RETURNS int LANGUAGE sql RETURN 1; CREATE VIEW mallory.v AS SELECT 1 AS a; ALTER VIEW mallory.v RENAME a TO b; ROLLBACK'), "\n",
	'what is gone before the worker has looked is in no command\'s way');
as('mallory', 'DROP TABLE mallory.plain');
undisturbed('without the attached table');

# --- what names mean is not what they mean to whoever renames something
as('alice', q(
CREATE TABLE alice.cities (id int PRIMARY KEY, name text); ALTER TABLE alice.things ADD city int;
SELECT kapture_follow('alice.cities', 'alice.things', 'target.city = source.id')));
my $condition = sql('SELECT condition FROM kapture_follow');
as('mallory', q(
CREATE FUNCTION mallory.equal(int, int) RETURNS boolean IMMUTABLE LANGUAGE sql RETURN true;
CREATE OPERATOR mallory.= (LEFTARG = int, RIGHTARG = int, FUNCTION = mallory.equal);
CREATE TABLE mallory.any (a int);
SET search_path = mallory, pg_catalog; ALTER TABLE mallory.any RENAME a TO b));
is(sql('SELECT condition FROM kapture_follow'), $condition, 'a condition keeps its operators, whatever the path of a session is');

# nor do literals mean what they would mean there
my $odd = (sql('SHOW server_version_num') < 190000 ? 'SET standard_conforming_strings = off; SET escape_string_warning = off;' : '')
  . 'SET backslash_quote = on; SET array_nulls = off; SET transform_null_equals = on; SET xmloption = document';
# not every server is built with libxml
my $xml = as('alice', q(SELECT '<a/>'::xml)) =~ /ERROR/ ? 'phone' : q(xmlserialize(CONTENT '<a/><b/>'::xml AS text));
unlike(as('alice', qq(
CREATE TABLE alice.odd (id int PRIMARY KEY, customer_name text, phone text, words text[]);
SELECT kapture_attach('alice.odd', jsonb_build_object('phone', 'phone', 'customer_name', jsonb_build_object('expression', \$e\$ regexp_replace(customer_name, '\\d+', 'B') \$e\$)),
  filter => \$f\$ phone ~ '^\\d{10}\$' AND words IS DISTINCT FROM '{a,NULL}' AND $xml <> '' \$f\$);
SELECT kapture_follow('alice.cities', 'alice.odd', \$f\$ target.phone ~ '\\d' AND source.name = ANY ('{a,NULL}') \$f\$);
SELECT kapture_pause('alice.odd'); INSERT INTO alice.odd VALUES (1, 'Room 101', '9612345678', '{a,"NULL"}'))), qr{ERROR}, 'alice has odd literals');
my $kept = q(SELECT array_agg(expression) || array_agg(DISTINCT filter) || array_agg(DISTINCT condition) FROM kapture_column JOIN kapture_attachment USING (attachment_id) JOIN kapture_follow USING (relation) WHERE relation = 'alice.odd'::regclass);
my $were = sql($kept);
like($were, $xml eq 'phone' ? qr/\\d.*\{a,NULL\}/ : qr/\\d.*\{a,NULL\}.*<a\/><b\/>/, 'alice has literals with backslashes, NULL in an array and XML content');
as('mallory', "$odd; ALTER TABLE mallory.any RENAME b TO a; CREATE VIEW mallory.any_too AS SELECT a FROM mallory.any");
is(sql($kept), $were, 'they are kept as they are, whatever the settings of a session that renames something');
my $preview = q(SELECT api, body FROM kapture_preview('alice.odd', 1));
like(as('alice', $preview), qr/^add\|\{.*"Room B"/, 'a row is read by them');
is(as('alice', "$odd; $preview"), as('alice', $preview), 'in any session');
as('alice', "$odd; ALTER TABLE alice.odd RENAME words TO some_words");
is(sql($kept), $were =~ s/words/some_words/gr, 'the owner\'s own commands change nothing else');

# --- who has given much SQL has others parse no more of it than some; texts without the name that is changed do not count
as('mallory', q(
SET client_min_messages = error;
CREATE FUNCTION mallory.quiet(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN $1;
CREATE TABLE mallory.much (id int PRIMARY KEY, customer_name text, phone text);
DO $$
DECLARE much jsonb := jsonb_build_object('expression', 'coalesce(' || repeat('public.shout(phone), ', 2400) || 'phone)');
BEGIN
  FOR i IN 1..3 LOOP
    PERFORM kapture_attach('mallory.much', jsonb_build_object('customer_name', 'customer_name', 'phone', 'phone', 'city', much, 'state', much, 'zone', much, 'address', much),
      id_column => NULL, name => 'm' || i);
  END LOOP;
END $$;
SELECT kapture_attach('mallory.much', '{"customer_name": "customer_name", "phone": {"expression": "mallory.quiet(phone)"}}', id_column => NULL, name => 'few')));
as('alice', q(
CREATE TABLE alice.calm (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('alice.calm', '{"customer_name": {"expression": "public.shout(customer_name)"}, "phone": "phone"}')));

# how many bytes of mallory's expressions call that function; the expression of an attachment
sub bytes { return sql("SELECT coalesce(sum(octet_length(expression)), 0) FROM kapture_column JOIN kapture_attachment USING (attachment_id) WHERE relation = 'mallory.much'::regclass AND strpos(expression, '$_[0](') > 0") }
sub expression { return sql("SELECT expression FROM kapture_column JOIN kapture_attachment USING (attachment_id) WHERE relation = '$_[0]'::regclass AND name = '$_[1]' AND expression IS NOT NULL") }
cmp_ok(bytes('public.shout'), '>', 600000, 'mallory has much SQL');
sql('ALTER FUNCTION shout(text) RENAME TO whisper');
my $parsed = bytes('public.whisper');
cmp_ok($parsed, '>', 200000, 'some of it follows a name');
cmp_ok($parsed, '<', 300000, 'but not all, so that nobody has to wait for it');
is(expression('alice.calm', ''), 'public.whisper(customer_name)', 'what others have given follows');
sql('ALTER FUNCTION mallory.quiet(text) RENAME TO "Quieter"');
is(expression('mallory.much', 'few'), 'mallory."Quieter"(phone)', 'so does what contains another name');
sql(q(ALTER FUNCTION mallory."Quieter"(text) RENAME TO "it's ""quiet"""));
is(expression('mallory.much', 'few'), q(mallory."it's ""quiet"""(phone)), 'whatever characters are in the name');
sql(q(ALTER FUNCTION mallory."it's ""quiet"""(text) RENAME TO loud));
is(expression('mallory.much', 'few'), 'mallory.loud(phone)', 'or were');
sql('ALTER TABLE mallory.much RENAME phone TO mobile');
is(expression('mallory.much', 'few'), 'mallory.loud(mobile)', 'a column is followed');
sql('ALTER TABLE mallory.much RENAME mobile TO phone');
as('mallory', q(DO $$ BEGIN
  FOR i IN 1..64 LOOP EXECUTE format('CREATE DOMAIN mallory.word%1$s AS text; CREATE FUNCTION mallory.loud(mallory.word%1$s) RETURNS text IMMUTABLE LANGUAGE sql RETURN $1', i); END LOOP;
END $$));
sql('ALTER TABLE mallory.much RENAME phone TO mobile');
is(expression('mallory.much', 'few'), 'mallory.loud(phone)', 'a function with so many namesakes that each call takes long is not looked for');
as('mallory', 'DROP TABLE mallory.much');
as('alice', 'DROP TABLE alice.calm');
sql('ALTER FUNCTION whisper(text) RENAME TO shout');

# --- nor is a command held up by the number of attachments that it may leave with a problem
sql('CREATE FUNCTION often(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN $1');
as('mallory', q(
SET client_min_messages = error;
CREATE TABLE mallory.often (id int PRIMARY KEY, customer_name text, phone text);
DO $$ BEGIN
  FOR i IN 1..120 LOOP PERFORM kapture_attach('mallory.often', '{"customer_name": "customer_name", "phone": {"expression": "public.often(phone)"}}', id_column => NULL, name => 'o' || i); END LOOP;
END $$));
my $warned = () = as('postgres', 'BEGIN; DROP FUNCTION often(text); ROLLBACK') =~ /WARNING:  rows of attached table "often"/g;
cmp_ok($warned, '>', 0, 'a superuser who drops a function is warned of what needs it');
cmp_ok($warned, '<=', 100, "but not of everything ($warned)");
as('mallory', 'DROP TABLE mallory.often');
sql('DROP FUNCTION often(text)');

# --- a new view has nobody look at what others' views read
as('mallory', q(
SET client_min_messages = error;
CREATE TABLE mallory.base (id int PRIMARY KEY, customer_name text, phone text); CREATE TABLE mallory.beside (id int);
CREATE VIEW mallory.v0 AS SELECT * FROM mallory.base;
DO $$ BEGIN
  FOR i IN 1..100 LOOP EXECUTE format('CREATE VIEW mallory.v%s AS SELECT * FROM mallory.v%s', i, i - 1); END LOOP;
  FOR i IN 1..10 LOOP PERFORM kapture_attach('mallory.base', source => 'mallory.v100', id_column => NULL, name => 'v' || i); END LOOP;
  FOR i IN 1..5 LOOP PERFORM kapture_follow('mallory.beside', 'mallory.base', format('target.id = source.id + %s', i)); END LOOP;
END $$));
is(sql("SELECT count(*) FROM kapture_follow WHERE relation = 'mallory.base'::regclass"), 5, 'mallory has views upon views');
my $looks = as('alice', q(BEGIN; CREATE VIEW alice.one AS SELECT 1 AS one; SELECT idx_scan FROM pg_stat_xact_sys_tables WHERE relid = 'pg_catalog.pg_depend'::regclass; ROLLBACK));
cmp_ok($looks =~ s/\s//gr, '<', 100, "which whoever makes a view does not go through ($looks)");
as('mallory', 'DROP TABLE mallory.beside, mallory.base CASCADE');

# --- IF NOT EXISTS that finds a partition of somebody else's
sql(q(
GRANT CREATE ON SCHEMA public TO alice, mallory;
SET ROLE alice;
CREATE TABLE public.towns (id int, name text) PARTITION BY LIST (id); CREATE TABLE public.towns1 PARTITION OF public.towns FOR VALUES IN (1);
SELECT kapture_follow('towns', 'alice.things', 'target.id = source.id')));
as('mallory', 'CREATE TABLE mallory.split (id int) PARTITION BY LIST (id)');
my $finder = hold('SET client_min_messages = warning; CREATE TABLE IF NOT EXISTS public.towns1 PARTITION OF mallory.split DEFAULT; CREATE FOREIGN TABLE IF NOT EXISTS public.towns1 (id bigint) SERVER kapture');
is(sql("SELECT count(*) FROM pg_locks WHERE relation = 'towns1'::regclass"), '0', 'a partition that IF NOT EXISTS has found is not locked by whoever has no rights to it');
$finder->query_safe('ROLLBACK');
$finder->quit;
sql('DROP TABLE towns');

# --- what a command looks at is not locked until its transaction ends: its owner's commands, and all that come after them, would wait
as('mallory', q(CREATE TYPE mallory.mood AS ENUM ('sad')));
foreach (
	[ 'a renamed column', 'ALTER TABLE mallory.any RENAME a TO c' ], [ 'a renamed value', q(ALTER TYPE mallory.mood RENAME VALUE 'sad' TO 'glad') ],
	[ 'a new view', 'CREATE VIEW mallory.some AS SELECT 1 AS one' ], [ 'a replaced function', 'RESET ROLE; CREATE OR REPLACE FUNCTION shout(text) RETURNS text IMMUTABLE LANGUAGE sql RETURN pg_catalog.upper($1)', 'postgres' ])
{
	my ($name, $statement, $role) = @$_;
	my $session = $node->background_psql('postgres', extra_params => [ '-U', $role // 'mallory' ], on_error_stop => 1);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_safe("BEGIN; $statement");
	is(sql("SELECT string_agg(DISTINCT l.relation::regclass || ' ' || l.mode, ', ') FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation WHERE l.pid = $pid AND pg_get_userbyid(c.relowner) = 'alice'"),
		'', "$name keeps no lock on others' tables");
	$session->query_safe('ROLLBACK');
	$session->quit;
}

# --- the owner of a table need not be able to look into the extension's schema to give the table a partition
sql('CREATE DATABASE apart');
$node->safe_psql('apart', qq(
CREATE SCHEMA hidden; CREATE EXTENSION kapture_sync SCHEMA hidden; GRANT USAGE ON SCHEMA hidden TO alice;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); GRANT USAGE ON FOREIGN SERVER kapture TO alice;
CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE SCHEMA AUTHORIZATION alice; SET ROLE alice;
CREATE TABLE alice.parts (id int PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id);
CREATE TABLE alice.old PARTITION OF alice.parts FOR VALUES FROM (0) TO (10);
SELECT hidden.kapture_attach('alice.parts', replicated => true), hidden.kapture_attach('alice.parts', replicated => true, name => 'other', id_column => NULL);
RESET ROLE; REVOKE USAGE ON SCHEMA hidden FROM alice));
my ($rc, $out, $err) = $node->psql('apart', 'SET ROLE alice; CREATE TABLE alice.new PARTITION OF alice.parts FOR VALUES FROM (10) TO (20)');
is($err, '', 'such an owner makes a partition');
is($node->safe_psql('apart', "SELECT string_agg(concat_ws(' ', tgname, tgenabled, tgnargs, CASE WHEN tgnargs > 0 THEN tgargs = (SELECT attachment_id::text::bytea || '\\x00' FROM hidden.kapture_attachment WHERE name = 'other') END), ', ' ORDER BY tgname COLLATE \"C\") FROM pg_trigger WHERE tgrelid = 'alice.new'::regclass AND tgparentid = 0"),
	$node->safe_psql('apart', "SELECT string_agg(concat_ws(' ', tgname, tgenabled, tgnargs, CASE WHEN tgnargs > 0 THEN true END), ', ' ORDER BY tgname COLLATE \"C\") FROM pg_trigger WHERE tgrelid = 'alice.old'::regclass AND tgparentid = 0"),
	'which notices when it is truncated, like the others');

# --- whoever attaches the first table of a database does not wait for another who does
sql('CREATE DATABASE first');
$node->safe_psql('first', qq(
CREATE EXTENSION kapture_sync; CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}'); GRANT USAGE ON FOREIGN SERVER kapture TO alice, mallory;
CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE SCHEMA AUTHORIZATION alice; CREATE SCHEMA AUTHORIZATION mallory;
CREATE TABLE alice.firsts (id int PRIMARY KEY, customer_name text, phone text); CREATE TABLE mallory.firsts (LIKE alice.firsts INCLUDING ALL);
ALTER TABLE alice.firsts OWNER TO alice; ALTER TABLE mallory.firsts OWNER TO mallory));
my $first = $node->background_psql('first', extra_params => [ '-U', 'mallory' ]);
$first->query_safe("SET client_min_messages = error; BEGIN; SELECT kapture_attach('mallory.firsts')");
($rc, $out, $err) = $node->psql('first', "SET ROLE alice; SET lock_timeout = '5s'; SET client_min_messages = error; SELECT kapture_attach('alice.firsts')");
is($err, '', 'alice attaches a table while a transaction is open that has attached the first one');
$first->query_safe('ROLLBACK');
$first->quit;
poll_ok($node, 'SELECT count(*) = 1 FROM kapture_salt', 'the key of digests is made all the same', 'first');
$node->safe_psql('first', "INSERT INTO alice.firsts VALUES (1, 'Alice', '9612345601')");
poll_ok($node, 'SELECT count(kapture_customer_id) = 1 FROM alice.firsts', 'and rows are sent', 'first');

# --- a session that ends within a command drops its temporary tables when the memory of the command is gone
as('mallory', q(
CREATE TEMPORARY TABLE temporary (id int) PARTITION BY LIST (id);
DO $$ BEGIN FOR i IN 1..20 LOOP EXECUTE format('CREATE TEMPORARY TABLE temporary%s PARTITION OF temporary FOR VALUES IN (%1$s)', i); END LOOP; END $$;
DO $$ DECLARE held refcursor; BEGIN
  FOR i IN 1..250 LOOP held := NULL; OPEN held FOR SELECT 1; END LOOP;
  PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60);
END $$));
poll_ok($node, "SELECT count(*) = 0 FROM pg_class WHERE relname ~ '^temporary'", 'they go with the session');
unlike(slurp_file($node->logfile), qr/terminated by signal/, 'whose end is no crash');

$node->stop;
done_testing();
