# Objects that somebody has planted under names of the extension's: in its schema
# before it is created, in place of its schema while it runs, and in a dump that a
# superuser restores.  None of their code runs.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $key = 'a2FwZGVtbzprYXAxMjM=';
my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
my $dir = PostgreSQL::Test::Utils::tempdir();

sub as { my ($role, $statement) = @_; return sql("SET SESSION AUTHORIZATION $role; $statement"); }

# loot is what only a superuser can take
my $steal = q(BEGIN
  BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN INSERT INTO public.loot VALUES (current_user); EXCEPTION WHEN OTHERS THEN NULL; END;);
my $prepare = qq(
CREATE TABLE loot (who text); CREATE SCHEMA AUTHORIZATION mallory; GRANT USAGE ON SCHEMA mallory TO PUBLIC;
SET SESSION AUTHORIZATION mallory;
CREATE FUNCTION mallory.steal() RETURNS boolean LANGUAGE plpgsql AS \$\$ $steal RETURN true; END \$\$;
CREATE FUNCTION mallory.fire() RETURNS trigger LANGUAGE plpgsql AS \$\$ $steal RETURN NEW; END \$\$;);
sql("CREATE ROLE mallory; $prepare");
sql("GRANT CREATE ON DATABASE postgres TO mallory");

sub nothing_gained
{
	my ($name, $db) = @_;
	return is($node->safe_psql($db // 'postgres', "SELECT (SELECT count(*) FROM loot), rolsuper FROM pg_roles WHERE rolname = 'mallory'"), '0|f', "$name: nothing is gained");
}

# --- names of the extension's objects, taken before it is created
my @objects = split /\n/, do {
	sql("CREATE DATABASE model");
	$node->safe_psql('model', q(
CREATE EXTENSION kapture_sync;
SELECT format('FUNCTION planted.%I(%s) RETURNS boolean LANGUAGE plpgsql AS ''BEGIN RETURN mallory.steal(); END''', proname, replace(oidvectortypes(proargtypes), 'public.', 'planted.'))
FROM pg_proc p JOIN pg_depend ON classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e' WHERE proname LIKE 'kapture%'
UNION ALL SELECT format('TABLE planted.%I (a int DEFAULT mallory.steal()::int)', relname)
FROM pg_class c JOIN pg_depend ON classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e' WHERE relname LIKE 'kapture%' AND relkind <> 'c'
UNION ALL SELECT format('TYPE planted.%I AS ENUM ()', relname) FROM pg_class WHERE relname IN ('kapture_customer', 'kapture_contact')
UNION ALL SELECT format('TABLE planted.%I (a int)', i.relname) FROM pg_index x JOIN pg_class i ON i.oid = indexrelid WHERE i.relname LIKE 'kapture%' AND NOT i.relname ~ 'key$'));
};
cmp_ok(scalar(@objects), '>', 60, 'the extension has many objects');
my @accepted;
foreach my $object (@objects)
{
	my ($rc, $out, $err) = $node->psql('postgres', "BEGIN; SET LOCAL SESSION AUTHORIZATION mallory; CREATE SCHEMA planted; CREATE $object; RESET SESSION AUTHORIZATION; CREATE EXTENSION kapture_sync SCHEMA planted; ROLLBACK", on_error_stop => 1);
	push @accepted, "$object: $err" if $err !~ /ERROR:  .*(already exists|is not a member of|cannot change (return type of existing function|routine kind)|is not a view)/;
}
is(join("\n", @accepted), '', 'each of them, planted, keeps the extension from being created');
nothing_gained('names that were taken');

# --- operators of all kinds in its schema, which fit better than those of pg_catalog
sql(q(
SET SESSION AUTHORIZATION mallory;
CREATE SCHEMA kap;
DO $$
DECLARE l text; r text; o text;
BEGIN
  FOREACH l IN ARRAY '{int2,int4,int8,oid,regclass,name,text,timestamptz,timestamp,jsonb,bool,xid8,"\"char\"",float8,numeric,interval,varchar}'::text[] LOOP
    FOREACH r IN ARRAY '{int2,int4,int8,oid,regclass,name,text,timestamptz,timestamp,jsonb,bool,xid8,"\"char\"",float8,numeric,interval,varchar}'::text[] LOOP
      EXECUTE format('CREATE FUNCTION kap.steal(%s, %s) RETURNS boolean LANGUAGE plpgsql AS ''BEGIN RETURN mallory.steal(); END''', l, r);
      FOREACH o IN ARRAY '{=,<>,<,>,<=,>=,+,-,||,->,->>,~,*,/}'::text[] LOOP
        EXECUTE format('CREATE OPERATOR kap.%s (LEFTARG = %s, RIGHTARG = %s, FUNCTION = kap.steal)', o, l, r);
      END LOOP;
    END LOOP;
  END LOOP;
  FOREACH l IN ARRAY string_to_array('count(bigint);sum(integer);coalesce(name,name);now(integer);format(text,name);max(xid8);greatest(name,name);age(text);lower(name);has_table_privilege(regclass,text);pg_has_role(name,text);clock_timestamp(integer)', ';') LOOP
    EXECUTE format('CREATE FUNCTION kap.%s RETURNS boolean LANGUAGE plpgsql AS ''BEGIN RETURN mallory.steal(); END''', regexp_replace(l, '^(coalesce|greatest)', '"\1"'));
  END LOOP;
END $$;
));
sql("CREATE EXTENSION kapture_sync SCHEMA kap; GRANT USAGE ON SCHEMA kap TO PUBLIC");
nothing_gained('creating the extension among such operators');
sql(qq(
SET search_path = kap, public;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s', pull_interval '1s');
CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key '$key');
CREATE TABLE public.customers (id bigint PRIMARY KEY, customer_name text, phone text);
INSERT INTO public.customers VALUES (1, 'Before', '9600000001');
SELECT kapture_attach('customers'::regclass, pull => true);
CALL kapture_backfill('customers'::regclass);
INSERT INTO public.customers VALUES (2, 'Sent', '9600000002'), (3, 'Bad', '12');
));
poll_ok($node, "SELECT count(kapture_customer_id) OPERATOR(pg_catalog.=) 2 FROM public.customers", 'rows are sent among them');
poll_ok($node, "SELECT count(*) OPERATOR(pg_catalog.=) 2 FROM kap.kapture_customers", 'and pulled');
poll_ok($node, "SELECT count(*) OPERATOR(pg_catalog.=) 1 FROM kap.kapture_failures", 'one fails');
foreach my $use ((map { "SELECT * FROM kapture_$_" } qw(status failures history progress stat_requests pull_status pull_failures)),
	"SELECT * FROM kapture_preview('customers'::regclass, '1'::text)", "SELECT kapture_retry('customers'::regclass)", "SELECT kapture_discard('customers'::regclass)",
	"SELECT kapture_pause('customers'::regclass)", "SELECT kapture_resume('customers'::regclass)", "SELECT * FROM kapture_check()", "SELECT kapture_resume()",
	"CALL kapture_refresh('2020-01-01'::timestamp, '2020-01-02'::timestamp)", "SELECT * FROM kapture_find_customers('{\"phone\": \"9600000001\"}'::jsonb)",
	"SELECT * FROM kapture_pull_customers('2020-01-01'::timestamp, '2020-01-02'::timestamp)", "SELECT kapture_stat_reset()", "DELETE FROM kap.kapture_customers", "SELECT kapture_detach('customers'::regclass)",
	"SELECT kapture_attach('customers'::regclass, pull => true)")
{
	sql("SET search_path = kap, public; $use");
	nothing_gained("among such operators, $use");
}

# --- its schema, which is hers, gets another name, and one of the old name comes
sql("GRANT ALL ON ALL TABLES IN SCHEMA kap TO mallory");
my @tables = map { "kapture_$_" } qw(attachment column outbox delivery history inbox pull customers contacts origin backfill);
as('mallory', "BEGIN; ALTER SCHEMA kap RENAME TO moved; CREATE SCHEMA kap;"
	  . join('', map { "CREATE TABLE kap.$_ (LIKE moved.$_ INCLUDING INDEXES); CREATE TRIGGER fire BEFORE INSERT OR UPDATE OR DELETE ON kap.$_ FOR EACH ROW EXECUTE FUNCTION mallory.fire(); GRANT ALL ON kap.$_ TO PUBLIC;" } @tables)
	  . "GRANT USAGE ON SCHEMA kap TO PUBLIC; COMMIT");
sql("INSERT INTO public.customers VALUES (4, 'Moved', '9600000004')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM public.customers WHERE id = 4", 'rows are sent as before');
poll_ok($node, "SELECT count(*) = 3 FROM moved.kapture_customers", 'and pulled');
is(sql('SELECT ' . join(' + ', map { "(SELECT count(*) FROM kap.$_)" } @tables)), '0', 'nothing is written where she would read it');
nothing_gained('a schema in the place of the extension\'s');

# --- a dump with her objects, restored by a superuser
sql("CREATE DATABASE original");
$node->safe_psql('original', "$prepare RESET SESSION AUTHORIZATION; GRANT CREATE ON DATABASE original TO mallory");
$node->safe_psql('original', qq(
CREATE EXTENSION kapture_sync;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s');
CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key '$key');
CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
CREATE TABLE others (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
SELECT kapture_attach('customers'), kapture_attach('others'), kapture_pause('customers'), kapture_pause('others');
INSERT INTO customers VALUES (1, 'Dumped', '9700000001'); INSERT INTO others VALUES (1, 'Dumped', '9700000002');
GRANT TRIGGER ON customers TO mallory;
SET SESSION AUTHORIZATION mallory;
CREATE SCHEMA planted;
CREATE TABLE planted.customers (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
CREATE TABLE planted.kapture_attachment (attachment_id int, relation regclass);
INSERT INTO planted.customers VALUES (1, 'Planted', '9700000003'); INSERT INTO planted.kapture_attachment VALUES (1, 'planted.customers');
CREATE TRIGGER kapture_capture AFTER INSERT OR UPDATE OR DELETE ON planted.customers FOR EACH ROW EXECUTE FUNCTION public.kapture_capture();
CREATE TRIGGER kapture_capture2 AFTER INSERT OR UPDATE OR DELETE ON public.customers FOR EACH ROW EXECUTE FUNCTION public.kapture_capture();
CREATE TRIGGER fire BEFORE UPDATE ON public.customers FOR EACH ROW EXECUTE FUNCTION mallory.fire();
));
# tables and a role that were dropped, whose numbers belong to others where that is restored
$node->safe_psql('original', qq(
GRANT USAGE ON FOREIGN SERVER kapture TO mallory; CREATE ROLE departed; GRANT USAGE ON FOREIGN SERVER kapture TO departed;
SET SESSION AUTHORIZATION departed;
SELECT kapture_send('ticket_add', '{"title": "Planted"}');
RESET SESSION AUTHORIZATION;
UPDATE kapture_call_queue SET state = 'waiting', next_attempt = 'infinity';
DROP OWNED BY departed; DROP ROLE departed;
SET SESSION AUTHORIZATION mallory;
CREATE TABLE planted.first (id int PRIMARY KEY, customer_name text, phone text); CREATE TABLE planted.second (id int PRIMARY KEY, first int);
CREATE TABLE planted.third (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('planted.first'), kapture_attach('planted.third'), kapture_pause('planted.first'), kapture_pause('planted.third');
SELECT kapture_follow('planted.second', 'planted.third', 'target.id = source.first');
INSERT INTO planted.first VALUES (1, 'Planted', '9700000005');
DROP TABLE planted.first, planted.second;
));
# (the worker forgets the tables by itself, sooner or later)
like($node->safe_psql('original', "SELECT sender::text FROM kapture_call_queue"), qr/^\d+$/, 'what was dropped is a number');
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dir/dump", 'original' ], 'a dump');
sql("CREATE DATABASE restored");
$node->command_ok([ 'pg_restore', '-d', 'restored', "$dir/dump" ], 'is restored');
is($node->safe_psql('restored', "SELECT (SELECT string_agg(relation::text, ' ' ORDER BY attachment_id) FROM kapture_attachment), (SELECT count(*) FROM kapture_follow), (SELECT count(*) FROM kapture_call_queue)"), 'customers others planted.third|0|0', 'numbers are not in it');
$node->safe_psql('restored', "SELECT kapture_resume(); SELECT kapture_resume(relation) FROM kapture_status");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM others", "a table of a superuser's in it is sent", 'restored');
poll_ok($node, "SELECT message = 'code of role \"mallory\" must not run as role \"postgres\": function mallory.fire()' FROM kapture_failures WHERE relation = 'customers'::regclass", 'one with her trigger is not', 'restored');
$node->safe_psql('restored', "INSERT INTO planted.customers VALUES (2, 'Planted', '9700000004')");
is($node->safe_psql('restored', "SELECT count(*), count(*) FILTER (WHERE relation = 'planted.customers'::regclass) FROM kapture_status"), '3|0', 'what she has planted is not attached by that');
is(scalar(grep { $_->{customer_name} eq 'Planted' } @{ emulator_get($emulator, 'customers') }), 0, 'nor sent');
nothing_gained('a dump', 'restored');

# --- event triggers, which write an attached table in each of the extension's own commands, or refuse these
sql('CREATE DATABASE watched');
$node->safe_psql('watched', qq(
CREATE SEQUENCE phone;
CREATE TABLE commands (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_name text, phone text);
CREATE FUNCTION note_command() RETURNS event_trigger LANGUAGE plpgsql AS \$\$ BEGIN
  INSERT INTO public.commands (customer_name, phone) VALUES (tg_tag || ' ' || tg_event, (9800000000 + nextval('public.phone'))::text);
END \$\$;
CREATE EVENT TRIGGER first ON ddl_command_start EXECUTE FUNCTION note_command(); CREATE EVENT TRIGGER second ON ddl_command_end EXECUTE FUNCTION note_command();
CREATE EVENT TRIGGER third ON sql_drop EXECUTE FUNCTION note_command();
CREATE EXTENSION kapture_sync;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s');
CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key '$key');
SELECT kapture_attach('commands');
TRUNCATE commands;
CREATE TABLE other (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('other'), kapture_follow('commands', 'other', 'target.customer_name = source.customer_name'), kapture_alter('other', replicated => true);
SELECT kapture_detach('other');
));
poll_ok($node, "SELECT count(*) > 10 AND count(kapture_customer_id) = count(*) FROM commands", 'what event triggers write during the extension\'s own commands is sent', 'watched');
$node->safe_psql('watched', qq(CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''refused''; END';
CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER', 'DROP TRIGGER') EXECUTE FUNCTION refuse()));
foreach my $call ("kapture_attach('other')", "kapture_detach('commands')")
{
	my ($rc, $out, $err) = $node->psql('watched', "SELECT $call");
	like($err, qr/ERROR:  refused/, "$call can be refused");
}
is($node->safe_psql('watched', "SELECT string_agg(relation::text || ' ' || state, ', ') FROM kapture_status"), 'commands running', 'and leaves all as it was');

# they concern the session that gives a command, or logs in: neither worker nor puller does
my $slow = "CREATE FUNCTION stall() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(600); END'; CREATE EVENT TRIGGER stall ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER') EXECUTE FUNCTION stall()";
$slow .= '; CREATE EVENT TRIGGER refuse_login ON login EXECUTE FUNCTION refuse()' if $node->pg_version >= 17;
$node->safe_psql('watched', $slow);
my $without = $node->pg_version >= 17 ? " options='-c event_triggers=off'" : '';
sub unwatched { my ($statement) = @_; my ($rc, $out, $err) = $node->psql('watched', $statement, connstr => $node->connstr('watched') . $without); return "$out$err"; }
my $stalled = $node->background_psql('postgres', on_error_stop => 0);
my $watch = $without ? 'SET event_triggers = on;' : '';
$stalled->query_until(qr/stalling/, "\\connect \"dbname=watched$without\"\n$watch\n\\echo stalling\nSELECT kapture_attach('other');\n");
poll_ok($node, "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = 'watched' AND wait_event = 'PgSleep'", 'an event trigger takes its time');
my $pids = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE datname = 'watched' AND backend_type = 'kapture_sync worker'";
my $before = sql($pids);
sql("SELECT pg_terminate_backend($before)");
wait_for(sub { my $now = sql($pids); $now ne '' && $now ne $before }, 'another worker');
is(unwatched("INSERT INTO commands (customer_name, phone) VALUES ('Meanwhile', '9899999998')"), '', 'a row while a command of another session stands still, and nobody can log in');
wait_for(sub { unwatched("SELECT kapture_customer_id IS NOT NULL FROM commands WHERE phone = '9899999998'") eq 't' }, 'the row to be sent');
sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'watched' AND wait_event = 'PgSleep'");
$stalled->{run}->kill_kill;
unwatched('DROP EVENT TRIGGER refuse; DROP EVENT TRIGGER stall' . ($node->pg_version >= 17 ? '; DROP EVENT TRIGGER refuse_login' : ''));

# security labels on all that there is, which are for their provider alone
my $provider = "$dir/provider";
append_to_file("$provider.c", qq(
#include "postgres.h"
#include "commands/seclabel.h"
#include "fmgr.h"
PG_MODULE_MAGIC;
PGDLLEXPORT void _PG_init(void);
static void take(const ObjectAddress *object, const char *label) { }
void _PG_init(void) { register_label_provider("labels", take); }
));
chomp(my $include = `pg_config --includedir-server`);
system_or_bail('cc', '-I', $include, '-fPIC', '-shared', '-o', "$provider.so", "$provider.c");
is(unwatched(qq(LOAD '$provider'; SET client_min_messages = warning;
DO \$\$ DECLARE o record; BEGIN
  FOR o IN SELECT i.* FROM pg_depend, LATERAL pg_identify_object(classid, objid, 0) AS i WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync')
      AND i.type IN ('table', 'view', 'function', 'procedure') UNION SELECT 'table', 'public', 'commands', 'public.commands' UNION SELECT 'column', 'public', 'commands', 'public.commands.phone' LOOP
    EXECUTE format('SECURITY LABEL FOR labels ON %s %s IS ''secret''', o.type, o.identity);
  END LOOP;
END \$\$; SELECT count(*) > 80 FROM pg_seclabel)), 't', 'all objects get labels');
unlike(unwatched("SELECT kapture_attach('other'); SELECT kapture_detach('other'); INSERT INTO commands (customer_name, phone) VALUES ('Labelled', '9899999997')"), qr/ERROR/, 'which change nothing for commands');
wait_for(sub { unwatched("SELECT kapture_customer_id IS NOT NULL FROM commands WHERE phone = '9899999997'") eq 't' }, 'a row to be sent');
$node->safe_psql('watched', "INSERT INTO commands (customer_name, phone) VALUES ('Late', '9899999999'); DROP EXTENSION kapture_sync CASCADE; CREATE EXTENSION kapture_sync");
is($node->safe_psql('watched', "SELECT count(*) FROM kapture_attachment"), '0', 'the extension is dropped and created among them');

$node->stop;
done_testing();
