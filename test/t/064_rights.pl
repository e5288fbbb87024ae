# No code of a role runs with rights that the role lacks: whoever owns function,
# type, partition, schema or table, whichever way their code is reached, and
# whatever is renamed or given away meanwhile.  (033_privileges.pl has the code of
# a table's own owner.)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

my $key = 'a2FwZGVtbzprYXAxMjM=';
my $emulator = start_emulator();
my $hers = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
my $n = 0;
my $pg = $node->safe_psql('postgres', 'SHOW server_version_num') / 10000;

sub as { my ($role, $statement) = @_; return sql("SET SESSION AUTHORIZATION $role; $statement"); }
sub try_as
{
	my ($role, $statement) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET SESSION AUTHORIZATION $role; $statement");
	return "$out\n$err";
}

setup_sync($node, $emulator, options => "pull_interval '1s'");
# loot is what only those can take who have the rights of alice or of postgres
sql(qq(
CREATE ROLE alice; CREATE ROLE mallory; CREATE ROLE helper IN ROLE alice; CREATE ROLE other SUPERUSER;
CREATE SCHEMA AUTHORIZATION alice; CREATE SCHEMA AUTHORIZATION mallory; CREATE SCHEMA AUTHORIZATION helper; CREATE SCHEMA AUTHORIZATION other;
CREATE SCHEMA root; GRANT USAGE ON SCHEMA mallory, helper, other TO PUBLIC; GRANT USAGE ON SCHEMA alice, root TO mallory;
GRANT CREATE ON DATABASE postgres TO alice, mallory;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO alice;
GRANT SET ON PARAMETER kapture_sync.capture TO alice, mallory;
CREATE TABLE loot (who text); GRANT INSERT ON loot TO alice;
));
as('alice', "CREATE SERVER hers FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$hers->{url}', timeout '2s', pull_interval '1s'); CREATE USER MAPPING FOR PUBLIC SERVER hers OPTIONS (auth_key '$key')");
as('mallory', q(
CREATE FUNCTION mallory.steal() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
  BEGIN EXECUTE 'ALTER ROLE mallory SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN INSERT INTO public.loot VALUES (current_user); EXCEPTION WHEN OTHERS THEN NULL; END;
  RETURN true;
END $$;
CREATE FUNCTION mallory.steal(anyelement) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT mallory.steal()';
CREATE FUNCTION mallory.steal_sql() RETURNS boolean LANGUAGE sql AS 'SELECT mallory.steal()';
CREATE FUNCTION mallory.fire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.steal(); RETURN NEW; END $$;
CREATE FUNCTION mallory.fire_herself() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM mallory.steal(); RETURN NEW; END $$;
CREATE TYPE mallory.mood AS ENUM ('good', 'bad');
CREATE FUNCTION mallory.mood_text(mallory.mood) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN PERFORM mallory.steal(); RETURN 'good'; END $$;
CREATE CAST (mallory.mood AS text) WITH FUNCTION mallory.mood_text(mallory.mood);
CREATE DOMAIN mallory.trap AS text CHECK (lo_create(4711) > 0);
CREATE TYPE mallory.box AS (a int, b mallory.trap);
));

# Nothing was gained by what was tried.
sub nothing_gained
{
	my ($name) = @_;
	is(sql("SELECT (SELECT count(*) FROM loot), (SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'), (SELECT count(*) FROM pg_largeobject_metadata)"),
		'0|f|0', "$name: nothing is gained");
	sql("TRUNCATE loot; ALTER ROLE mallory NOSUPERUSER; SELECT lo_unlink(oid) FROM pg_largeobject_metadata");
	return;
}

# A table of the owner's with a row that waits; returns its name, which is THIS in
# the parameters.
sub waiting
{
	my ($owner, %params) = @_;
	my $schema = $params{schema} // ($owner eq 'postgres' ? 'root' : $owner);
	my $server = $owner eq 'postgres' ? 'kapture' : 'hers';
	my $table = "$schema.t" . ++$n;
	my $id = $params{id} // 'int';
	my $value = $params{value} // 1;
	my $columns = $params{columns} ? ", $params{columns}" : '';
	my $phone = 9600000000 + $n;
	as($owner, qq(
CREATE TABLE $table (id $id PRIMARY KEY, customer_name text, phone text$columns) @{[ $params{partitioned} ? 'PARTITION BY RANGE (id)' : '' ]};
@{[ $params{partitioned} // '' ]}
SELECT kapture_attach('$table', server => '$server'@{[ $params{attach} // '' ]}); SELECT kapture_pause('$table');
GRANT TRIGGER ON $table TO mallory;
INSERT INTO $table (id, customer_name, phone) VALUES ('$value', 'Row $n', '$phone');
@{[ $params{after} // '' ]}) =~ s/\bTHIS/$table/gr);
	return $table;
}

# Is a table refused when it is attached?
sub refuses
{
	my ($owner, $columns, $what, $name) = @_;
	my $table = ($owner eq 'postgres' ? 'root' : $owner) . '.r' . ++$n;
	my $server = $owner eq 'postgres' ? 'kapture' : 'hers';
	as($owner, "CREATE TABLE $table ($columns)");
	like(try_as($owner, "SELECT kapture_attach('$table', server => '$server')"), qr/cannot be attached to Kapture.*code of role "mallory" must not run as role "$owner": $what/s, "$name: it is not attached");
	nothing_gained($name);
	return;
}

# Has the row sent, and looks how it fares: "parked", with a message, or "sent".
sub fares
{
	my ($table, $expected, $name) = @_;
	sql("TRUNCATE loot; SELECT kapture_resume('$table')");
	if (ref $expected)
	{
		poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = '$table'::regclass AND state = 'parked'", "$name: the row is parked");
		like(sql("SELECT message || ' Hint: ' || coalesce(kapture_hint(message), 'none') FROM kapture_failures WHERE relation = '$table'::regclass"), $expected, "$name: the reason is plain");
	}
	else
	{
		poll_ok($node, "SELECT bool_and(kapture_customer_id IS NOT NULL) FROM $table", "$name: the row is sent")
		  || diag(sql("SELECT message FROM kapture_failures WHERE relation = '$table'::regclass"));
	}
	nothing_gained($name);
	return;
}

sql("CREATE EXTENSION refint; CREATE EXTENSION lo; CREATE EXTENSION moddatetime");
my $table;
foreach my $owner ('postgres', 'alice')
{
	my $of = "table of $owner";
	my $refused = qr/^code of role "mallory" must not run as role "$owner": .* Hint: give what is named to the table's owner or a superuser/;

	# --- who holds TRIGGER
	$table = waiting($owner);
	as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION mallory.fire()");
	fares($table, qr/^code of role "mallory" must not run as role "$owner": function mallory\.fire\(\)/, "$of, her trigger");
	as($owner, "ALTER TABLE $table DISABLE TRIGGER fire");
	sql("SELECT kapture_retry('$table')");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM $table", "$of, her trigger disabled: the row gets its id");

	$table = waiting($owner);
	as('mallory', "CREATE CONSTRAINT TRIGGER fire AFTER UPDATE ON $table DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mallory.fire()");
	fares($table, $refused, "$of, her deferred trigger");

	$table = waiting($owner);
	as('mallory', "CREATE TRIGGER fire AFTER UPDATE ON $table FOR EACH STATEMENT EXECUTE FUNCTION mallory.fire()");
	fares($table, $refused, "$of, her trigger of statements");

	$table = waiting($owner);
	as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION mallory.fire_herself()");
	fares($table, 'sent', "$of, her trigger that runs as herself");

	# functions in C that run what they are given, or act on it
	foreach my $function ("check_primary_key('customer_name', '(select lo_create(4711) AS x) AS z', 'x::text IS NOT NULL OR x::text')",
		"check_foreign_key('1', 'cascade', 'phone', 'loot AS l USING (SELECT mallory.steal()) AS z; --', 'who')", "lo_manage('phone')")
	{
		$table = waiting($owner);
		as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION $function");
		fares($table, qr/^trigger "fire" of table "t$n" must not give arguments to function public\.(check_\w+|lo_manage)\(\) as role "$owner" Hint: call what it does/, "$of, her trigger with arguments, $function");
	}
	$table = waiting($owner, columns => 'city timestamptz');
	as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION moddatetime('city')");
	fares($table, 'sent', "$of, her trigger with harmless arguments");

	foreach my $condition ('mallory.steal()', 'mallory.steal_sql()', 'lo_create(4711) > 0', "query_to_xml('SELECT mallory.steal()', true, true, '') IS NOT NULL",
		"database_to_xml(true, true, '') IS NOT NULL", "pg_read_file('PG_VERSION') <> NEW.phone", "set_config('role', 'mallory', false) = 'x'")
	{
		$table = waiting($owner);
		as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW WHEN ($condition) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
		fares($table, qr/^condition of trigger "fire" of table "t$n" must not call function .* as role "$owner" Hint: move the condition/, "$of, her condition $condition");
	}

	# what checks a domain of hers, by whichever way
	foreach my $condition ("NEW.phone::mallory.trap <> ''", "ARRAY[NEW.phone]::mallory.trap[] <> '{}'", "concat('(1,', NEW.phone, ')')::mallory.box IS NOT NULL",
		"CASE WHEN NEW.phone > '' THEN jsonb_populate_record(NULL::mallory.box, '{\"b\": 1}') IS NOT NULL END")
	{
		$table = waiting($owner);
		as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW WHEN ($condition) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
		fares($table, qr/^code of role "mallory" must not run as role "$owner": type mallory\.(trap|box)/, "$of, her condition $condition");
	}
	foreach my $condition ("domain_in(NEW.phone::cstring, 'mallory.trap'::regtype, -1) IS NOT NULL", "array_in(concat('{', NEW.phone, '}')::cstring, 'mallory.trap'::regtype, -1) IS NOT NULL",
		"record_in(concat('(1,', NEW.phone, ')')::cstring, 'mallory.box'::regtype, -1) IS NOT NULL", $pg >= 16 ? "pg_input_is_valid(NEW.phone, 'mallory.trap')" : ())
	{
		$table = waiting($owner);
		as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW WHEN ($condition) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
		fares($table, qr/^condition of trigger "fire" of table "t$n" must not call function (domain_in|array_in|record_in|pg_input_is_valid)\(/, "$of, her condition $condition");
	}

	# a function that she may not execute
	$table = waiting($owner);
	my $private = ($owner eq 'postgres' ? 'root' : $owner) . ".private$n";
	as($owner, "CREATE FUNCTION $private(text) RETURNS boolean STABLE LANGUAGE plpgsql AS 'BEGIN RETURN true; END'; REVOKE ALL ON FUNCTION $private FROM PUBLIC");
	as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW WHEN ($private('anything')) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
	fares($table, qr/^condition of trigger "fire" of table "t$n" must not call function \Q$private\E\(text\)/, "$of, her condition with a function that she may not execute");

	$table = waiting($owner);
	as('mallory', "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW WHEN (OLD.phone <> '' AND pg_trigger_depth() = 0 AND NEW.customer_name ~ 'Row' AND clock_timestamp() > now()) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
	fares($table, 'sent', "$of, a harmless condition");

	if ($owner eq 'alice')
	{
		$table = waiting($owner);
		as('alice', "REVOKE TRIGGER ON $table FROM mallory; CREATE FUNCTION alice.minds$n(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN true; END';"
			  . "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW WHEN (alice.minds$n(NEW.phone)) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
		fares($table, 'sent', "$of, her own condition with a volatile function");
		as('alice', "GRANT TRIGGER ON $table TO mallory; INSERT INTO $table VALUES (2, 'Minded', '97500000$n')");
		fares($table, qr/^condition of trigger "fire" of table "t$n" must not call function alice\.minds/, "$of, the same when others hold TRIGGER");
		$table = waiting($owner);
		as('alice', "REVOKE TRIGGER ON $table FROM mallory; CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION lo_manage('phone')");
		fares($table, 'sent', "$of, her own trigger with arguments");
	}

	# as pg_repack's are
	$table = waiting($owner);
	sql("CREATE SCHEMA private$n; CREATE FUNCTION private$n.manage() RETURNS trigger LANGUAGE c AS '\$libdir/lo', 'lo_manage';"
		  . "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION private$n.manage('phone')");
	fares($table, 'sent', "$of, a trigger with arguments that only superusers can have made");
	sql("GRANT USAGE ON SCHEMA private$n TO mallory; INSERT INTO $table VALUES (2, 'Private', '95300000$n')");
	fares($table, qr/^trigger "fire" of table "t$n" must not give arguments to function private$n\.manage/, "$of, the same when others may name its function");

	# --- types
	my $d = "mallory.d$n";
	as('mallory', "CREATE DOMAIN $d AS text");
	refuses($owner, "id int PRIMARY KEY, customer_name text, phone text, city $d", "type $d", "$of, her domain");
	sql("ALTER DOMAIN $d OWNER TO $owner");
	$table = waiting($owner, columns => "city $d");
	sql("ALTER DOMAIN $d OWNER TO mallory");
	as('mallory', "ALTER DOMAIN $d ADD CHECK (mallory.steal()) NOT VALID");
	fares($table, qr/^code of role "mallory" must not run as role "$owner": type mallory\.d/, "$of, her domain");

	as('mallory', "CREATE DOMAIN ${d}x AS text; CREATE TYPE mallory.c$n AS (a int, b ${d}x)");
	my $c = "mallory.c$n";
	refuses($owner, "id int PRIMARY KEY, customer_name text, phone text, city ${c}[]", "type $c", "$of, an array of her composite type");
	sql("ALTER TYPE $c OWNER TO $owner; ALTER DOMAIN ${d}x OWNER TO $owner");
	$table = waiting($owner, columns => "city ${c}[]");
	sql("ALTER TYPE $c OWNER TO mallory; ALTER DOMAIN ${d}x OWNER TO mallory");
	fares($table, $refused, "$of, an array of her composite type");

	$table = waiting($owner, columns => "city mallory.mood DEFAULT 'good'");
	fares($table, qr/^code of role "mallory" must not run as role "$owner": function mallory\.mood_text/, "$of, her cast");
	like(try_as('postgres', "SELECT * FROM kapture_preview('$table', '1')"), qr/code of role "mallory" must not run as role "$owner": function mallory\.mood_text/, "$of, her cast, previewed");
	nothing_gained("$of, her cast, previewed");

	# keys are written by their output functions, whatever casts there are
	$table = waiting($owner, id => 'mallory.mood', value => 'good');
	sql("TRUNCATE loot");
	unlike(try_as('postgres', "CALL kapture_backfill('$table')"), qr/ERROR/, "$of, her cast of the key, in a backfill, is not called");
	nothing_gained("$of, her cast of the key, in a backfill");

	# --- functions of hers that the owner's expressions call
	$table = waiting($owner, after => 'ALTER TABLE THIS ADD CONSTRAINT fine CHECK (mallory.steal(customer_name)) NOT VALID;');
	fares($table, $refused, "$of, her function in a check");

	# --- partitions
	$table = waiting($owner, partitioned => "CREATE TABLE THIS_1 PARTITION OF THIS FOR VALUES FROM (1) TO (2); CREATE TABLE THIS_2 PARTITION OF THIS FOR VALUES FROM (2) TO (3);");
	as($owner, "INSERT INTO $table VALUES (2, 'Hers', '97000000$n')");
	as($owner, "SELECT kapture_alter('$table', replicated => true)");
	sql("ALTER TABLE ${table}_2 OWNER TO mallory");
	unlike(try_as($owner, "SELECT kapture_alter('$table', replicated => false)"), qr/ERROR/, "$of, a partition of hers does not keep its owner from altering it");
	is(sql("SELECT count(*) FROM pg_trigger WHERE tgrelid = '${table}_2'::regclass AND tgparentid = 0"), '0', "$of, and is watched no more");
	as('mallory', "ALTER TABLE ${table}_2 ADD CHECK (lo_create(4711) > 0) NOT VALID; CREATE TRIGGER fire BEFORE UPDATE ON ${table}_2 FOR EACH ROW WHEN (mallory.steal()) EXECUTE FUNCTION mallory.fire()");
	fares($table, qr/^code of role "mallory" must not run as role "$owner": partition /, "$of, a partition of hers");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM $table WHERE id = 1", "$of, the other partition's row is sent");
	like(sql("SELECT row_key FROM kapture_failures WHERE relation = '$table'::regclass"), qr/^2$/, "$of, hers is the one that is parked");

	# --- who is trusted
	foreach my $friend ($owner eq 'alice' ? 'helper' : (), 'other', $owner)
	{
		my $schema = $friend eq 'postgres' ? 'public' : $friend;
		$table = waiting($owner);
		as($friend, "CREATE FUNCTION $schema.fire$n() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN NEW.customer_name := 'Fired'; RETURN NEW; END \$\$; GRANT EXECUTE ON FUNCTION $schema.fire$n() TO PUBLIC");
		as($owner, "CREATE TRIGGER fire BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION $schema.fire$n()");
		fares($table, 'sent', "$of, a function of $friend");
		is(sql("SELECT customer_name FROM $table"), 'Fired', "$of, the trigger of $friend fires");
	}

	# --- given away, while plans are kept
	$table = waiting($owner);
	as($owner, "CREATE FUNCTION public.given$n() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RETURN NEW; END \$\$; CREATE TRIGGER given BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION public.given$n()") if $owner eq 'postgres';
	as($owner, "CREATE FUNCTION $owner.given$n() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN RETURN NEW; END \$\$; CREATE TRIGGER given BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION $owner.given$n()") if $owner ne 'postgres';
	fares($table, 'sent', "$of, a function of the owner's");
	my $given = ($owner eq 'postgres' ? 'public' : $owner) . ".given$n()";
	sql("ALTER FUNCTION $given OWNER TO mallory; GRANT USAGE, CREATE ON SCHEMA public, alice TO mallory");
	as('mallory', "CREATE OR REPLACE FUNCTION $given RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM mallory.steal(); RETURN NEW; END \$\$");
	as($owner, "INSERT INTO $table VALUES (2, 'Given', '97100000$n')");
	fares($table, $refused, "$of, a function that is given to her");
	sql("REVOKE CREATE ON SCHEMA public, alice FROM mallory");

	# --- names
	$n++;
	as('mallory', "CREATE SCHEMA s$n");
	sql("GRANT USAGE, CREATE ON SCHEMA s$n TO alice");
	my $s = "s$n";
	$table = waiting($owner, schema => $s);
	my ($name) = $table =~ /\.(.*)/;
	fares($table, 'sent', "$of in her schema");
	as('mallory', "ALTER SCHEMA $s RENAME TO moved_$s; CREATE SCHEMA $s; GRANT USAGE ON SCHEMA moved_$s, $s TO PUBLIC; CREATE TABLE $s.$name (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);"
		  . "INSERT INTO $s.$name SELECT i, 'Planted', 9990000000 + i FROM generate_series(1, 3) i; CREATE TRIGGER fire BEFORE UPDATE ON $s.$name FOR EACH ROW EXECUTE FUNCTION mallory.fire(); GRANT ALL ON $s.$name TO PUBLIC");
	sql("TRUNCATE loot");
	as($owner, "INSERT INTO moved_$s.$name VALUES (2, 'Moved', '97200000$n')");
	poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM moved_$s.$name", "$of, whose schema she has renamed: the row is sent");
	is(sql("SELECT count(kapture_customer_id) FROM $s.$name"), '0', "$of: the table of the same name is not written");
	is(scalar(grep { $_->{customer_name} eq 'Planted' } @{ emulator_get($owner eq 'alice' ? $hers : $emulator, 'customers') }), 0, "$of: nor is it sent");
	nothing_gained("$of in her schema");

	# the type of a key, whose schema is hers
	as('mallory', "CREATE SCHEMA k$n; CREATE TYPE k$n.code AS ENUM ('1', '2'); GRANT USAGE ON SCHEMA k$n TO PUBLIC");
	my $k = "k$n";
	$table = waiting($owner, id => "$k.code");
	fares($table, 'sent', "$of, her enum as a key");
	as('mallory', "ALTER SCHEMA $k RENAME TO moved_$k; CREATE SCHEMA $k; GRANT USAGE ON SCHEMA moved_$k, $k TO PUBLIC; CREATE DOMAIN $k.code AS text CHECK (mallory.steal())");
	as($owner, "INSERT INTO $table VALUES ('2', 'Typed', '97300000$n')");
	poll_ok($node, "SELECT count(kapture_customer_id) = 2 FROM $table", "$of, her enum in a renamed schema: the row is sent");
	nothing_gained("$of, her enum in a renamed schema");
}

# two tables change places again and again while rows are sent
as('mallory', q(CREATE SCHEMA swap; GRANT USAGE, CREATE ON SCHEMA swap TO PUBLIC;
CREATE PROCEDURE mallory.swap(times int) LANGUAGE plpgsql AS $$ BEGIN
  FOR i IN 1 .. times LOOP
    ALTER SCHEMA swap RENAME TO swap_moved; ALTER SCHEMA swap_planted RENAME TO swap; COMMIT;
    ALTER SCHEMA swap RENAME TO swap_planted; ALTER SCHEMA swap_moved RENAME TO swap; COMMIT;
  END LOOP; END $$));
as('postgres', "CREATE TABLE swap.places (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('swap.places')");
my $places = sql("SELECT 'swap.places'::regclass::oid");
as('mallory', q(CREATE SCHEMA swap_planted; GRANT USAGE ON SCHEMA swap_planted TO PUBLIC; CREATE TABLE swap_planted.places (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
CREATE TRIGGER fire BEFORE UPDATE ON swap_planted.places FOR EACH ROW EXECUTE FUNCTION mallory.fire(); GRANT ALL ON swap_planted.places TO PUBLIC;
INSERT INTO swap_planted.places SELECT i, 'Planted', 9990001000 + i FROM generate_series(1, 300) i));
sql("TRUNCATE loot; INSERT INTO swap.places SELECT i, 'Swapped', 9760000000 + i FROM generate_series(1, 300) i");
as('mallory', "CALL mallory.swap(200)");
poll_ok($node, "SELECT count(kapture_customer_id) = 300 FROM swap.places", 'rows of a table that changes places with another are sent')
  || diag(sql("SELECT DISTINCT message FROM kapture_failures WHERE relation = $places"));
is(sql("SELECT count(kapture_customer_id) FROM swap_planted.places"), '0', 'the other is not written');
is(scalar(grep { $_->{customer_name} eq 'Planted' } @{ emulator_get($emulator, 'customers') }), 0, 'nor sent');
nothing_gained('a table that changes places');

# a table that was hers
sql("GRANT USAGE ON FOREIGN SERVER kapture TO mallory; CREATE USER MAPPING FOR mallory SERVER kapture OPTIONS (auth_key '$key')");
as('mallory', "CREATE TABLE mallory.hers (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('mallory.hers');"
	  . "CREATE TRIGGER fire BEFORE UPDATE ON mallory.hers FOR EACH ROW EXECUTE FUNCTION mallory.fire(); INSERT INTO mallory.hers VALUES (1, 'Hers', '9740000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM mallory.hers", 'a table of hers is sent');
sql("ALTER TABLE mallory.hers OWNER TO postgres; GRANT INSERT ON mallory.hers TO mallory; TRUNCATE loot");
as('mallory', "INSERT INTO mallory.hers VALUES (2, 'Given', '9740000002')");
poll_ok($node, "SELECT message LIKE 'code of role \"mallory\" must not run as role \"postgres\": function mallory.fire()' FROM kapture_failures WHERE relation = 'mallory.hers'::regclass", 'given to a superuser, it is not, with her trigger');
nothing_gained('a table that was hers');

# what she left in one, and nobody can tell from what its owner wrote: it may do nothing in the owner's name
sql("CREATE EXTENSION dblink; CREATE TABLE root.secret AS SELECT 'secret' AS a");
as('mallory', "CREATE TABLE mallory.spoils (a text)");
foreach my $case (
	[ 'a check that reads', 'ADD CHECK (query_to_xml($$SELECT * FROM root.secret$$, true, true, $$$$) IS NOT NULL) NOT VALID' ],
	[ 'a check that acts', 'ADD CHECK (setval($$public.counted$$, 4711) > 0) NOT VALID' ],
	[ 'a check that changes settings', 'ADD CHECK (set_config($$search_path$$, $$mallory$$, false) IS NOT NULL) NOT VALID' ],
	[ 'a check that has an extension run SQL', 'ADD CHECK (dblink_exec($$dbname=postgres$$, $$ALTER ROLE mallory SUPERUSER$$) IS NOT NULL) NOT VALID' ],
	[ 'a rule that calls', undef, 'CREATE RULE spoil AS ON UPDATE TO THIS DO ALSO SELECT query_to_xml($$SELECT * FROM root.secret$$, true, true, $$$$)' ],
	[ 'a rule that writes', undef, 'CREATE RULE spoil AS ON UPDATE TO THIS DO ALSO INSERT INTO mallory.spoils VALUES (NEW.phone)' ],
	[ 'a rule that reads', undef, 'CREATE RULE spoil AS ON UPDATE TO THIS DO ALSO SELECT * FROM mallory.spoils' ])
{
	my ($name, $change, $statement) = @$case;
	my $why = $name =~ /rule that (writes|reads)/ ? qr/^a rule of table "left\d+" must not use relation "spoils" as role "postgres" Hint: have a trigger/ :
	  qr/^expressions of a table must not call function (query_to_xml|setval|set_config|public\.dblink_exec)\(.* Hint: a check, default, domain or rule/;
	$table = 'mallory.left' . ++$n;
	as('mallory', "CREATE SEQUENCE IF NOT EXISTS mallory.counted;"
		  . "CREATE TABLE $table (id serial PRIMARY KEY, customer_name text, phone text, at timestamptz DEFAULT clock_timestamp(), CHECK (at < now() + interval '1 day'));"
		  . "SELECT kapture_attach('$table'); SELECT kapture_pause('$table'); INSERT INTO $table (customer_name, phone) VALUES ('Left', '" . (9770000000 + $n) . "');"
		  . ($change ? "ALTER TABLE $table $change" : $statement =~ s/\bTHIS/$table/r));
	sql("ALTER TABLE $table OWNER TO postgres; CREATE SEQUENCE IF NOT EXISTS counted");
	fares($table, $why, "given to a superuser, $name");
	is(sql("SELECT count(*) FROM mallory.spoils"), '0', "given to a superuser, $name: nothing is spoiled");
	sql("DROP TABLE $table");
}
$table = 'mallory.left' . ++$n;
as('mallory', "CREATE TABLE $table (id serial PRIMARY KEY, customer_name text, phone text, at timestamptz DEFAULT clock_timestamp(), token uuid DEFAULT gen_random_uuid(), CHECK (random() < 2), CHECK (at < now() + interval '1 day'));"
	  . "SELECT kapture_attach('$table'); SELECT kapture_pause('$table'); INSERT INTO $table (customer_name, phone) VALUES ('Left', '9770000000')");
sql("ALTER TABLE $table OWNER TO postgres");
fares($table, 'sent', 'given to a superuser, what does nothing in the name of anybody');

# where results of ours are written for whoever calls
as('mallory', "CREATE TABLE mallory.results (row_key text, kapture_customer_id bigint, problem text, field text, here text, there text, n serial, at timestamptz DEFAULT now()); GRANT ALL ON mallory.results TO PUBLIC");
as('postgres', "CREATE TABLE root.verified (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('root.verified', filter => 'id > 1')");
sql("INSERT INTO root.verified VALUES (2, 'Verified', '9780000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM root.verified", 'a row to verify');
sql("SET kapture_sync.capture = off; UPDATE root.verified SET customer_name = 'Changed'");
like(try_as('postgres', "CALL kapture_verify_into('root.verified', 'mallory.results')"), qr/compared, that is all/, 'results go to a table of hers');
is(sql("SELECT string_agg(field || here, ' ') FROM mallory.results"), 'customer_nameChanged', 'all there are');
foreach my $case (
	[ 'her trigger', qr/code of role "mallory" must not run as role "postgres": function mallory\.fire\(\)/, 'CREATE TRIGGER spoil BEFORE INSERT ON mallory.results FOR EACH ROW EXECUTE FUNCTION mallory.fire()', 'DROP TRIGGER spoil ON mallory.results' ],
	[ 'her deferred trigger', qr/code of role "mallory" must not run as role "postgres": function mallory\.fire\(\)/, 'CREATE CONSTRAINT TRIGGER spoil AFTER INSERT ON mallory.results DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mallory.fire()', 'DROP TRIGGER spoil ON mallory.results' ],
	[ 'her default', qr/code of role "mallory" must not run as role "postgres": function mallory\.steal\(\)/, 'ALTER TABLE mallory.results ADD COLUMN spoil boolean; ALTER TABLE mallory.results ALTER COLUMN spoil SET DEFAULT mallory.steal()', 'ALTER TABLE mallory.results DROP COLUMN spoil' ],
	[ 'her check', qr/expressions of a table must not call function lo_create/, 'ALTER TABLE mallory.results ADD CONSTRAINT spoil CHECK (lo_create(4711) > 0) NOT VALID', 'ALTER TABLE mallory.results DROP CONSTRAINT spoil' ],
	[ 'her rule', qr/a rule of table "results" must not use relation "spoils"/, 'CREATE RULE spoil AS ON INSERT TO mallory.results DO ALSO INSERT INTO mallory.spoils SELECT rolname FROM pg_roles', 'DROP RULE spoil ON mallory.results' ])
{
	my ($name, $why, $plant, $uproot) = @$case;
	sql("TRUNCATE loot");
	as('mallory', $plant);
	like(try_as('postgres', "CALL kapture_verify_into('root.verified', 'mallory.results', restart => true)"), $why, "$name on a table for results is refused");
	is(sql("SELECT count(*) FROM mallory.spoils"), '0', "$name on a table for results: nothing is spoiled");
	nothing_gained("$name on a table for results");
	as('mallory', $uproot);
}

# --- what is put off until those have the word who may do more than the table's owner
as('mallory', q(
CREATE TABLE mallory.log (a text);
CREATE CONSTRAINT TRIGGER fire AFTER INSERT ON mallory.log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION mallory.fire();
CREATE TYPE mallory.logged AS ENUM ('a');
CREATE FUNCTION mallory.logged_text(mallory.logged) RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO mallory.log VALUES ('read'); RETURN 'a'; END $$;
CREATE CAST (mallory.logged AS text) WITH FUNCTION mallory.logged_text(mallory.logged);
CREATE FUNCTION mallory.defer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO mallory.log VALUES ('written'); RETURN NEW; END $$;
CREATE TABLE mallory.putting_off (id int PRIMARY KEY, customer_name text, phone text, city mallory.logged);
CREATE TABLE mallory.deferring (id int PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('mallory.putting_off'), kapture_attach('mallory.deferring');
CREATE TRIGGER defer BEFORE UPDATE ON mallory.deferring FOR EACH ROW EXECUTE FUNCTION mallory.defer();
INSERT INTO mallory.putting_off VALUES (1, 'Putting off', '9750000001', 'a'); INSERT INTO mallory.deferring VALUES (1, 'Deferring', '9750000002')));
my $worker = sql("SELECT kapture_worker_pid()");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM mallory.putting_off", "what a cast of hers puts off is done at once, as herself");
is(sql("SELECT count(*) > 0 FROM mallory.log WHERE a = 'read'"), 't', 'and done');
poll_ok($node, "SELECT message LIKE 'constraints cannot be deferred%' FROM kapture_failures WHERE relation = 'mallory.deferring'::regclass", 'her trigger cannot defer constraints');
nothing_gained('what is put off in a worker');
sql("TRUNCATE loot");
like(try_as('postgres', "SELECT * FROM kapture_preview('mallory.putting_off', '1')"), qr/cannot execute INSERT in a read-only transaction/, 'nor does a preview leave something to do to the session');
nothing_gained('what is put off in a session');
is(sql("SELECT kapture_worker_pid()"), $worker, 'the worker goes on');

# --- a superuser's event trigger, which finds functions in the search_path of whoever gives the command
sql(q(CREATE SCHEMA audit; CREATE TABLE audit.ddl (at timestamptz, who name, tag text); GRANT USAGE ON SCHEMA audit TO PUBLIC; GRANT INSERT ON audit.ddl TO PUBLIC;
CREATE FUNCTION audit.note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO audit.ddl VALUES (now(), current_user, tg_tag); END $$;
CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION audit.note();
CREATE TABLE root.towns (id int PRIMARY KEY, name text); CREATE TABLE root.regions (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
CREATE TABLE root.north PARTITION OF root.regions FOR VALUES FROM (1) TO (10);
GRANT SELECT, TRIGGER ON root.towns, root.regions, root.north TO mallory; TRUNCATE loot, audit.ddl));
as('mallory', q(CREATE TABLE mallory.members (id int PRIMARY KEY, customer_name text, phone text, town int);
SELECT kapture_attach('mallory.members');
CREATE FUNCTION mallory.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM mallory.steal(); RETURN clock_timestamp(); END $$;
SET search_path = mallory, pg_catalog, public;
SELECT kapture_follow('root.towns', 'mallory.members', 'target.town = source.id'), kapture_follow('root.regions', 'mallory.members', 'target.town = source.id');
SELECT kapture_unfollow('root.towns', 'mallory.members');
SELECT kapture_alter('mallory.members', replicated => true), kapture_detach('mallory.members')));
is(sql("SELECT string_agg(DISTINCT who, ' ') FROM audit.ddl WHERE tag <> 'CREATE TABLE'"), 'mallory', 'commands that are given for her are hers alone');
is(sql("SELECT string_agg(DISTINCT tgenabled::text, ' ') FROM pg_trigger WHERE tgfoid = 'kapture_followed'::regproc"), 'A', 'and yet the triggers of tables that she follows fire always');
nothing_gained('a table that is followed');
sql('DROP EVENT TRIGGER audit');

# --- what is pulled
foreach my $owner ('postgres', 'alice')
{
	my $to = $owner eq 'alice' ? $hers : $emulator;
	my $server = $owner eq 'alice' ? 'hers' : 'kapture';

	foreach my $case (
		[ 'her trigger', 'function mallory.fire()', "CREATE TRIGGER fire BEFORE INSERT ON THIS FOR EACH ROW EXECUTE FUNCTION mallory.fire()" ],
		[ 'her trigger on updates', 'function mallory.fire()', "CREATE TRIGGER fire BEFORE UPDATE ON THIS FOR EACH ROW EXECUTE FUNCTION mallory.fire()" ],
		[ 'her condition', 'condition of trigger', "CREATE TRIGGER fire BEFORE INSERT ON THIS FOR EACH ROW WHEN (lo_create(4711) > 0) EXECUTE FUNCTION suppress_redundant_updates_trigger()" ],
		[ 'her default', 'function mallory.steal()', '', "ALTER TABLE THIS ADD COLUMN note boolean; ALTER TABLE THIS ALTER COLUMN note SET DEFAULT mallory.steal()" ],
		[ 'a default that reads', 'expressions of a table must not call function query_to_xml', '', "ALTER TABLE THIS ADD COLUMN note text; ALTER TABLE THIS ALTER COLUMN note SET DEFAULT query_to_xml('SELECT rolname FROM pg_authid', true, true, '')::text" ],
		[ 'her domain', 'type mallory.d', "CREATE DOMAIN mallory.dN AS text", "ALTER TABLE THIS ADD COLUMN note mallory.dN", "ALTER DOMAIN mallory.dN ADD CHECK (mallory.steal()) NOT VALID" ],
		[ 'her partition', 'partition ', '', '', '', "CREATE TABLE THIS_1 PARTITION OF THIS DEFAULT;" ])
	{
		my ($name, $why, $plant, $change, $plant_more, $partition) = @$case;
		my $phone = 9800000000 + $n;

		$table = waiting($owner, partitioned => $partition, attach => ', pull => true', id => 'int DEFAULT 7');
		sql("DELETE FROM $table");
		as($owner, "SET kapture_sync.capture = off; INSERT INTO $table (id, customer_name, phone) VALUES (5, 'Old', '$phone')") if $name =~ /updates/;
		sql("ALTER TABLE ${table}_1 OWNER TO mallory") if $partition;
		foreach ([ 'mallory', $plant ], [ $owner, $change ], [ 'mallory', $plant_more ])
		{
			my ($role, $statement) = @$_;
			as($role, $statement =~ s/\bTHIS/$table/gr =~ s/\bdN\b/d$n/gr) if $statement;
		}
		sql("TRUNCATE loot; SELECT kapture_resume('$table')");
		sql("SELECT kapture_add_customer('{\"customer_name\": \"Pulled\", \"phone\": \"$phone\"}', '$server')");
		poll_ok($node, "SELECT count(*) > 0 FROM kapture_pull_failures WHERE relation = '$table'::regclass AND state = 'parked' AND message LIKE '%$why%'", "pulled into a table of $owner, $name: the customer is parked")
		  || diag(sql("SELECT message FROM kapture_pull_failures WHERE relation = '$table'::regclass"));
		nothing_gained("pulled into a table of $owner, $name");
		sql("DROP TABLE $table");
	}
}

# --- what code leaves open in the worker, in which others' code runs next
my $loop = $node->connstr('postgres') =~ s/'/''/gr;
sql(qq(
CREATE TABLE spied (what text, result text); GRANT INSERT ON spied TO mallory;
CREATE TABLE alice.secret AS SELECT 'alice''s secret' AS a; ALTER TABLE alice.secret OWNER TO alice;
CREATE TABLE root.boss (id int PRIMARY KEY, customer_name text, phone text);
CREATE FUNCTION root.connect() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
  PERFORM public.dblink_connect('left', '$loop'), public.dblink_connect('$loop') WHERE current_setting('application_name') = '';
  RETURN NEW;
END \$\$;
CREATE TRIGGER connect BEFORE UPDATE ON root.boss FOR EACH ROW EXECUTE FUNCTION root.connect();
GRANT USAGE ON FOREIGN SERVER kapture TO alice; CREATE USER MAPPING FOR alice SERVER kapture OPTIONS (auth_key '$key');
SELECT kapture_attach('root.boss');
));
as('alice', q(SELECT lo_from_bytea(4242, 'secret'); CREATE TABLE alice.leaves (id int PRIMARY KEY, customer_name text, phone text);
CREATE FUNCTION alice.leave() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE c refcursor := 'c'; fd int; BEGIN
  IF current_setting('application_name') <> '' THEN RETURN NEW; END IF;
  OPEN c FOR SELECT a FROM alice.secret;
  fd := lo_open(4242, x'40000'::int);
  PERFORM setseed(0.5);
  RETURN NEW;
END $$;
CREATE TRIGGER leave BEFORE UPDATE ON alice.leaves FOR EACH ROW EXECUTE FUNCTION alice.leave(); SELECT kapture_attach('alice.leaves', server => 'kapture')));
as('mallory', q(CREATE TABLE mallory.spies (id int PRIMARY KEY, customer_name text, phone text);
CREATE FUNCTION mallory.spy(what text, statement text) RETURNS void LANGUAGE plpgsql AS $$ DECLARE x text; BEGIN
  EXECUTE statement INTO x;
  INSERT INTO public.spied VALUES (what, x);
EXCEPTION WHEN OTHERS THEN INSERT INTO public.spied VALUES (what, SQLERRM);
END $$;
CREATE FUNCTION mallory.spies() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE c refcursor := 'c'; x text; BEGIN
  IF current_setting('application_name') <> '' THEN RETURN NEW; END IF;
  BEGIN FETCH c INTO x; INSERT INTO public.spied VALUES ('cursor', x); EXCEPTION WHEN OTHERS THEN INSERT INTO public.spied VALUES ('cursor', SQLERRM); END;
  PERFORM mallory.spy('cursors', 'SELECT count(*) FROM pg_cursors'), mallory.spy('large object', 'SELECT loread(0, 100)'),
    mallory.spy('connections', 'SELECT coalesce(public.dblink_get_connections(), ARRAY[''none''])'), mallory.spy('random', 'SELECT random()'),
    mallory.spy('connection', 'SELECT * FROM public.dblink(''SELECT a FROM root.secret'') AS t(a text)');
  RETURN NEW;
END $$;
CREATE TRIGGER spies BEFORE UPDATE ON mallory.spies FOR EACH ROW EXECUTE FUNCTION mallory.spies(); SELECT kapture_attach('mallory.spies')));
sql("INSERT INTO root.boss VALUES (1, 'Boss', '9860000001')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM root.boss", 'code that leaves connections of a superuser');
# together: their answers are recorded in one transaction
emulator_faults($emulator, { api => 'add', action => 'hold' });
sql("INSERT INTO alice.leaves SELECT i, 'Leaves', (9860000010 + i)::text FROM generate_series(1, 3) i; INSERT INTO mallory.spies VALUES (1, 'Spies', '9860000002')");
wait_for(sub { emulator_get($emulator, 'stats')->{in_flight} >= 2 }, 'their requests');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
poll_ok($node, "SELECT (SELECT bool_and(kapture_customer_id IS NOT NULL) FROM alice.leaves) AND (SELECT kapture_customer_id IS NOT NULL FROM mallory.spies)", 'and one that leaves a cursor and a large object: all are sent')
  || diag(sql("SELECT relation, message FROM kapture_failures WHERE relation IN ('alice.leaves'::regclass, 'mallory.spies'::regclass)"));
is(sql("SELECT DISTINCT what || ': ' || result FROM spied WHERE what <> 'random' ORDER BY 1"), join("\n", 'connection: connection not available', 'connections: {none}',
	'cursor: cursor "c" does not exist', 'cursors: 0', 'large object: invalid large-object descriptor: 0'), 'of which a stranger finds nothing');
isnt(sql("SELECT result FROM spied WHERE what = 'random'"), sql("SELECT setseed(0.5); SELECT random()") =~ s/^\n//r, 'nor random numbers that can be foretold');
as('alice', 'SELECT lo_unlink(4242)');

# --- the extension's own tables
sql("GRANT TRIGGER ON kapture_customers TO mallory");
as('mallory', "CREATE TRIGGER fire AFTER INSERT ON kapture_customers FOR EACH ROW EXECUTE FUNCTION mallory.fire()");
sql("TRUNCATE loot");
sql("SELECT kapture_add_customer('{\"customer_name\": \"Copied\", \"phone\": \"9850000001\"}')");
poll_ok($node, "SELECT last_error LIKE 'code of role \"mallory\" must not run as role \"postgres\": function mallory.fire()%' FROM kapture_pull_status WHERE server = 'kapture'", 'her trigger on the copies: nothing is pulled, and the status says why');
nothing_gained('her trigger on the copies');
sql("CREATE SERVER quiet FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s'); CREATE USER MAPPING FOR PUBLIC SERVER quiet OPTIONS (auth_key '$key'); TRUNCATE loot");
my $refresh = "CALL kapture_refresh(localtimestamp - interval '2 days', localtimestamp + interval '1 day', 'quiet')";
like(try_as('postgres', $refresh), qr/code of role "mallory" must not run as role "postgres": function mallory\.fire\(\)/, 'nor does a refresh by a superuser run it');
nothing_gained('her trigger on the copies, in a refresh');
sql("DROP TRIGGER fire ON kapture_customers");
like(try_as('postgres', $refresh), qr/refreshed \d+ windows/, 'without it, the refresh is done');
poll_ok($node, "SELECT count(*) = 1 FROM kapture_customers WHERE server = 'kapture' AND phone = '9850000001'", 'without it, the pull goes on');

is(sql("SELECT string_agg(rolname, ',') FROM pg_roles WHERE rolsuper AND rolname NOT IN ('postgres', 'other') AND oid > 16384"), '', 'nobody has become superuser');

$node->stop;
done_testing();
