# A customer stays its row's, whatever becomes of the row's key while requests
# are under way, late, lost or refused: shifts, swaps, permutations, deletions and
# other rows under the same key, moves to another partition.
#
#	KAPTURE_KEYS_SEED		repeats the choices of an earlier run
#	KAPTURE_KEYS_ROUNDS		how many rounds of changes (default 8)
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use JSON::PP;
use KaptureTest;
use Test::More;

my $seed = $ENV{KAPTURE_KEYS_SEED} || int(rand(2**31));
my $rounds = $ENV{KAPTURE_KEYS_ROUNDS} || 8;
note("KAPTURE_KEYS_SEED=$seed KAPTURE_KEYS_ROUNDS=$rounds");
my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
srand $seed;
setup_sync($node, $emulator, options => "max_connections '8'");

# Who was ever there is written down as it is, and who was deleted.
sql(q(
ALTER SERVER kapture OPTIONS (SET timeout '1s');
CREATE SEQUENCE persons;
CREATE TABLE born (name text);
CREATE FUNCTION note_born() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO born VALUES (NEW.customer_name); RETURN NULL; END $$;
CREATE TABLE plain (id int PRIMARY KEY, customer_name text, phone text, city text);
CREATE TABLE loose (id int PRIMARY KEY DEFERRABLE, customer_name text, phone text, city text);
CREATE TABLE pair (a int, b int, customer_name text, phone text, city text, PRIMARY KEY (a, b));
CREATE TABLE parted (id int, region text, customer_name text, phone text, city text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE north PARTITION OF parted FOR VALUES IN ('n');
CREATE TABLE south PARTITION OF parted FOR VALUES IN ('s', 't');
SELECT kapture_attach('plain');
SELECT kapture_attach('loose');
SELECT kapture_attach('pair');
SELECT kapture_attach('parted', on_duplicate => 'fail');
));
my @tables = qw(plain loose pair parted);
sql("CREATE TRIGGER born AFTER INSERT ON $_ FOR EACH ROW EXECUTE FUNCTION note_born()") foreach @tables;

# A new row: name, phone and city say who it is.
sub person
{
	my ($table, $key) = @_;
	return "INSERT INTO $table SELECT $key, 'row ' || n, '9' || lpad(n::text, 9, '0'), 'row ' || n FROM nextval('persons') n;";
}

sub settled
{
	my $retry = join '', map { "SELECT kapture_retry('$_');\n" } @tables;
	wait_for(sub { sql("$retry SELECT sum(pending + in_flight + retrying + parked) = 0 FROM kapture_status") =~ /^t\z/m }, 'everything to be sent');
	return;
}

# What was sent for those who are not as they should be.
sub explain_wrong
{
	my %names = map { /(row \d+)/ ? ($1 => 1) : () } @_;

	diag("KAPTURE_KEYS_SEED=$seed");
	foreach my $request (@{ emulator_get($emulator, 'log') })
	{
		my $line = encode_json($request);
		diag($line) if grep { (my $digits = $_) =~ s/\D//g; $line =~ /\b$_\b|[89]0*$digits\b/ } keys %names;
	}
	diag(sql("SELECT * FROM kapture_history ORDER BY finished_at"));
	return;
}

# Each row has its customer, with its values; nobody is there twice; and what
# Kapture has of others was theirs.
sub judge
{
	my ($name) = @_;
	my (%local, %seen, @wrong);

	emulator_faults($emulator);
	settled();
	foreach my $line (split /\n/, sql(join ' UNION ALL ', map { "SELECT to_jsonb(t) || '{\"table\": \"$_\"}' FROM $_ t" } @tables))
	{
		my $row = decode_json($line);
		$local{ $row->{customer_name} } = $row;
	}
	my %born = map { $_ => 1 } split /\n/, sql('SELECT name FROM born');
	foreach my $customer (@{ emulator_get($emulator, 'customers') })
	{
		my $who = $customer->{customer_name};
		my $row = $local{$who};
		my ($n) = $who =~ /^row (\d+)$/ or die "who is $who?";

		push @wrong, "$who is there twice" if $seen{$who}++;
		push @wrong, "$who was never committed" unless $born{$who};
		push @wrong, "$who has the phone $customer->{phone}" unless $customer->{phone} =~ /^[89]0*$n$/;
		push @wrong, "$who has the city $customer->{city}" unless $customer->{city} =~ /^$who( |$)/;
		next unless $row;
		push @wrong, "$row->{table}: $who has id " . ($row->{kapture_customer_id} // 'none') . ", Kapture says $customer->{kapture_customer_id}"
		  if ($row->{kapture_customer_id} // 0) != $customer->{kapture_customer_id};
		foreach my $field (qw(phone city))
		{
			push @wrong, "$row->{table}: ${who}'s $field is $row->{$field}, Kapture has $customer->{$field}"
			  if $row->{$field} ne $customer->{$field};
		}
	}
	push @wrong, map { "$local{$_}{table}: $_ is missing" } grep { !$seen{$_} } sort keys %local;
	is(join("\n", @wrong), '', $name) or explain_wrong(@wrong);
	return;
}

sub id_of { return sql("SELECT kapture_customer_id FROM $_[0] WHERE customer_name = '$_[1]'") }

sub customer { return (grep { $_->{customer_name} eq $_[0] } @{ emulator_get($emulator, 'customers') })[0] }

# Adds are carried out, but not answered, until they are released.
sub held
{
	my ($table, $n) = @_;
	my $before = scalar @{ emulator_get($emulator, 'customers') };
	hold_adds($node, $emulator);
	return sub { wait_for(sub { @{ emulator_get($emulator, 'customers') } >= $before + $n }, 'the Adds to be carried out') };
}

# --- one after the other: what is in flight as something happens to the keys
my @happens = (
	[ 'a shift of neighbours', 'loose', "UPDATE loose SET id = id + 1, city = customer_name || ' Goa'" ],
	[ 'a shift of neighbours from the last one on', 'plain', "UPDATE plain SET id = id + 1" ],
	[ 'a shift there and back', 'loose', "UPDATE loose SET id = id + 1; UPDATE loose SET id = id - 1, city = customer_name || ' Goa'" ],
	[ 'a rotation', 'loose', "UPDATE loose SET id = id % 3 + 1" ],
	[ 'a swap over a third key', 'plain', "BEGIN; UPDATE plain SET id = -1 WHERE id = 1; UPDATE plain SET id = 1 WHERE id = 2; UPDATE plain SET id = 2 WHERE id = -1; COMMIT" ],
	[ 'a swap in three transactions', 'plain', "UPDATE plain SET id = -1 WHERE id = 1; UPDATE plain SET id = 1 WHERE id = 2; UPDATE plain SET id = 2 WHERE id = -1" ],
	[ 'a swap of half the key', 'pair', "BEGIN; UPDATE pair SET b = -1 WHERE b = 1; UPDATE pair SET b = 1 WHERE b = 2; UPDATE pair SET b = 2 WHERE b = -1; COMMIT" ],
	[ 'a move to another partition', 'parted', "UPDATE parted SET region = 's', city = customer_name || ' south'" ],
	[ 'a move by hand', 'parted', "WITH d AS (DELETE FROM parted WHERE id = 1 RETURNING *) INSERT INTO parted SELECT id, region, customer_name, phone, customer_name || ' again' FROM d" ]);
my %keys = (plain => sub { $_[0] }, loose => sub { $_[0] }, pair => sub { "1, $_[0]" }, parted => sub { "$_[0], 'n'" });
foreach my $case (@happens)
{
	my ($name, $table, $statement) = @$case;
	foreach my $when ('held', 'paused')
	{
		my $added = $when eq 'held' ? held($table, 3) : sub { };
		sql("SELECT kapture_pause('$table')") if $when eq 'paused';
		# from the last one on, so that none is in the way of the one before it
		sql(join ' ', map { person($table, $keys{$table}->($_)) } 3, 2, 1);
		$added->();
		sql($statement);
		release_adds($node, $emulator) if $when eq 'held';
		sql("SELECT kapture_resume('$table')") if $when eq 'paused';
		judge("$name, Adds $when");
		sql("TRUNCATE $table");
	}
}

# --- a move to another partition that fails halfway, as the first change of its session
sql('TRUNCATE parted; ' . join ' ', map { person('parted', "$_, 'n'") } 1, 2);
settled();
sql(q(CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END $$;
CREATE TRIGGER refuse AFTER DELETE ON north FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION refuse()));
my $before = sql('SELECT clock_timestamp()');
my ($moved, $shown, $refused) = $node->psql('postgres', "UPDATE parted SET region = 's' WHERE id = 1; UPDATE parted SET region = 's' WHERE id = 2", on_error_stop => 0);
like($refused, qr/^psql:<stdin>:1: ERROR:  no\n[^\n]*\z/, 'a move fails, the next one does not');
is(sql("SELECT string_agg(id || region, ' ' ORDER BY id) FROM parted"), '1n 2s', 'as the rows show');
is(sql("SELECT count(*) FROM kapture_history WHERE action = 'gone' AND relation = 'parted'::regclass AND finished_at > '$before'"), 0, 'and none of them is gone');
judge('nor taken for another one');
sql('DROP TRIGGER refuse ON north; TRUNCATE parted');

# --- a trigger that changes keys amid another command, whose other change is of the row that had the key then
sql('TRUNCATE plain; ' . join ' ', map { person('plain', $_) } 3, 2, 1);
settled();
sql(q(CREATE FUNCTION rekey() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
	IF EXISTS (SELECT FROM plain WHERE id = 3) THEN
		UPDATE plain SET id = 20 WHERE id = 3 - NEW.id;
		UPDATE plain SET id = 3 - NEW.id WHERE id = 3;
	END IF;
	RETURN NULL; END $$;
CREATE TRIGGER rekey AFTER UPDATE OF city ON plain FOR EACH ROW EXECUTE FUNCTION rekey()));
sql("UPDATE plain SET city = customer_name || ' Goa' WHERE id < 3");
is(sql("SELECT count(*) FROM plain WHERE id = 20 AND city LIKE '% Goa'"), '1', 'a trigger gives a row another key amid a command that changes it');
judge('and its key to another row');
sql('DROP TRIGGER rekey ON plain; TRUNCATE plain');

# --- commands inside another one, whose own changes are noted only after theirs, though they came first
sql(q(CREATE FUNCTION inside() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
	FOR i IN 0 .. TG_NARGS - 1 LOOP
		EXIT WHEN pg_trigger_depth() > 1;
		EXECUTE TG_ARGV[i] USING coalesce(NEW.id, OLD.id);
	END LOOP;
	RETURN NULL; END $$;
CREATE FUNCTION aside() RETURNS text LANGUAGE plpgsql AS $$BEGIN
	UPDATE plain SET id = id + 100 WHERE city LIKE '% Goa';
	RETURN ' Goa'; END $$));
my $another_key = 'UPDATE plain SET id = id + 100 WHERE id = $1';
foreach my $case (
	[ 'gives the row another key', 'UPDATE', $another_key ],
	[ 'gives its key to another row', 'UPDATE', $another_key, person('plain', '$1') ],
	[ 'moves it on and on', 'UPDATE', (map { $another_key, 'UPDATE plain SET id = id - 100 WHERE id = $1 + 100' } 1 .. 20), $another_key ],
	[ 'gives the row another key', 'INSERT', $another_key ],
	[ 'replaces the row', 'INSERT', 'DELETE FROM plain WHERE id = $1', person('plain', '$1') ],
	[ 'replaces the row', 'DELETE', person('plain', '$1') ])
{
	my ($does, $event, @commands) = @$case;
	sql('TRUNCATE plain; ' . join ' ', map { person('plain', $_) } 1, 2, 3);
	settled();
	# the name comes before that of the trigger that captures
	sql("CREATE TRIGGER above AFTER " . ($event eq 'UPDATE' ? 'UPDATE OF city' : $event) . " ON plain FOR EACH ROW EXECUTE FUNCTION inside(" . join(', ', map { "\$\$$_\$\$" } @commands) . ')');
	sql({ UPDATE => "UPDATE plain SET city = customer_name || ' Goa' WHERE id < 3",
			INSERT => "INSERT INTO plain SELECT k, 'row ' || n, '9' || lpad(n::text, 9, '0'), 'row ' || n FROM (SELECT k, nextval('persons') n FROM generate_series(4, 5) k) p",
			DELETE => 'DELETE FROM plain WHERE id < 3' }->{$event});
	judge("a trigger $does before the $event of the row is noted");
	sql('DROP TRIGGER above ON plain');
}
sql('TRUNCATE plain; ' . join ' ', map { person('plain', $_) } 1, 2, 3);
settled();
sql("UPDATE plain SET city = customer_name || aside()");
is(sql("SELECT count(*) FROM plain WHERE id > 100 AND city LIKE '% Goa'"), '2', 'a function of a command gives other keys to rows that the command has changed');
judge('before these changes are noted');
sql('TRUNCATE plain');

# --- another row under the same key
foreach my $case (
	[ 'deleted, and another one inserted', 'BEGIN; DELETE FROM plain WHERE id = 1; %s COMMIT' ],
	[ 'deleted, and another one inserted later', 'DELETE FROM plain WHERE id = 1; %s' ],
	[ 'truncated and loaded again', 'BEGIN; TRUNCATE plain; %s COMMIT' ],
	[ 'moved away, and another one inserted', 'BEGIN; UPDATE plain SET id = 2 WHERE id = 1; %s COMMIT' ])
{
	my ($name, $statement) = @$case;
	my $added = held('plain', 1);
	sql(person('plain', 1));
	$added->();
	my $first = sql("SELECT customer_name FROM plain WHERE id = 1");
	sql(sprintf $statement, person('plain', 1));
	my $second = sql("SELECT customer_name FROM plain WHERE id = 1");
	sql("UPDATE plain SET city = customer_name || ' Goa' WHERE id = 1");
	release_adds($node, $emulator);
	judge($name);
	isnt($first, $second, 'it is another row');
	is(id_of('plain', $second), customer($second)->{kapture_customer_id}, 'with its own customer');
	is(customer($first)->{city}, $first, 'and nothing of it is with the one before');
	next if $name =~ /away/;
	is(sql("SELECT customer_id FROM kapture_history WHERE row_key = '1' AND action = 'gone' AND customer_id IS NOT NULL ORDER BY finished_at DESC LIMIT 1"),
		customer($first)->{kapture_customer_id}, 'the history names the customer that is left');
	sql('TRUNCATE plain');
	settled();
}
sql('TRUNCATE plain');
settled();

# --- the answer is lost
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 });
sql(person('plain', 1));
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE state = 'retry'", 'an Add is lost');
my $lost = sql("SELECT customer_name FROM plain");
sql('BEGIN; DELETE FROM plain; ' . person('plain', 1) . 'COMMIT');
judge('another row has the key of one whose Add was lost');
is(sql("SELECT customer_id FROM kapture_history WHERE action = 'gone' ORDER BY finished_at DESC LIMIT 1"),
	customer($lost)->{kapture_customer_id}, 'whose customer was searched for');

# --- in a copy of the database, where the original may have added what waits
sql("SELECT kapture_pause('parted')");
sql(person('parted', "1, 'n'") . person('parted', "2, 'n'"));
sql("UPDATE parted SET region = 's'");
foreach my $row (map { decode_json($_) } split /\n/, sql("SELECT json_build_object('customer_name', customer_name, 'phone', phone) FROM parted WHERE id = 1"))
{
	sql("SELECT kapture_add_customer('" . encode_json($row) . "')");
}
sql("UPDATE kapture_origin SET system_identifier = 1");
sql("SELECT kapture_resume(), kapture_resume('parted')");
poll_ok($node, "SELECT count(*) = 2 FROM parted WHERE kapture_customer_id IS NOT NULL", 'rows are searched for under their new keys');
judge('and found');

# --- parked rows
emulator_faults($emulator, { api => 'add', action => 'status', code => 400, body => '{"message": "no", "status": "failed"}' });
sql("TRUNCATE plain; " . join ' ', map { person('plain', $_) } 1, 2);
poll_ok($node, "SELECT parked = 2 FROM kapture_status WHERE relation = 'plain'::regclass", 'two rows are parked');
my @names = split /\n/, sql('SELECT customer_name FROM plain ORDER BY id');
sql('BEGIN; UPDATE plain SET id = 3 WHERE id = 1; UPDATE plain SET id = 1 WHERE id = 2; UPDATE plain SET id = 2 WHERE id = 3; COMMIT');
poll_ok($node, "SELECT count(*) = 2 FROM kapture_failures WHERE state = 'parked' AND attempts >= 2", 'and again, under new keys');
is(sql("SELECT string_agg((request::json) ->> 'customer_name', ' ' ORDER BY row_key) FROM kapture_failures"), "$names[1] $names[0]", 'which they are shown with');
is(sql("SELECT kapture_discard('plain', '1')"), '1', 'and can be called by');
emulator_faults($emulator);
is(sql("SELECT kapture_retry('plain', '2')"), '1', 'each by itself');
poll_ok($node, "SELECT pending + in_flight + retrying + parked = 0 FROM kapture_status WHERE relation = 'plain'::regclass", 'what was not discarded is sent');
is(customer($names[0])->{kapture_customer_id}, id_of('plain', $names[0]), 'the right one');
is(customer($names[1]), undef, 'and no other');
sql("UPDATE plain SET city = customer_name || ' Pune'");
judge('both');
emulator_faults($emulator, { api => 'update', action => 'status', code => 400, body => '{"message": "no", "status": "failed"}' });
sql("UPDATE plain SET city = customer_name || ' Goa' WHERE id = 2");
poll_ok($node, "SELECT parked = 1 FROM kapture_status WHERE relation = 'plain'::regclass", 'an Update is refused');
my $gone = "SELECT count(*) FROM kapture_history WHERE relation = 'plain'::regclass AND action = 'gone' AND row_key =";
my %before = map { $_ => sql("$gone '$_'") } 2, 12;
sql('BEGIN; UPDATE plain SET id = 12 WHERE id = 2; DELETE FROM plain WHERE id = 12; COMMIT');
judge('its row gets another key, and is deleted');
is(join(' ', map { sql("$gone '$_'") - $before{$_} } 2, 12), '0 1', 'which is recorded under the key that it had then');

# --- keys that collide until the transaction commits: which of the rows with a key it is that changes
sql(q(
CREATE TABLE crowd (id int PRIMARY KEY DEFERRABLE, customer_name text, phone text, city text);
SELECT kapture_attach('crowd');
CREATE TRIGGER born AFTER INSERT ON crowd FOR EACH ROW EXECUTE FUNCTION note_born();
));
push @tables, 'crowd';

sub crowd_key { return 1 + int rand 5 }

sub one_of { return "id = $_[0] AND ctid = (SELECT " . ('min', 'max')[ rand 2 ] . "(ctid) FROM crowd WHERE id = $_[0])" }

my @crowding = (
	(sub { 'UPDATE crowd SET id = ' . crowd_key() . ' WHERE ' . one_of(crowd_key()) . ';' }) x 5,
	sub { 'UPDATE crowd SET id = ' . crowd_key() . ' WHERE id IN (' . crowd_key() . ', ' . crowd_key() . ');' },
	sub { 'UPDATE crowd SET id = id % 5 + 1;' },
	sub { "UPDATE crowd SET city = customer_name || ' ' || random() WHERE " . one_of(crowd_key()) . ';' },
	sub { "UPDATE crowd SET city = customer_name || ' ' || random() WHERE id = " . crowd_key() . ';' },
	sub { 'UPDATE crowd SET kapture_customer_id = kapture_customer_id WHERE id = ' . crowd_key() . ';' },
	sub { 'DELETE FROM crowd WHERE ' . one_of(crowd_key()) . ';' },
	sub { person('crowd', crowd_key()) },
	sub { 'WITH d AS (DELETE FROM crowd WHERE ' . one_of(crowd_key()) . ' RETURNING *) INSERT INTO crowd SELECT * FROM d;' });
my $untangle = q(
UPDATE crowd SET id = f.id
FROM (SELECT row_number() OVER () AS n, ctid AS place FROM (SELECT ctid, row_number() OVER (PARTITION BY id ORDER BY random()) AS nth FROM crowd) c WHERE nth > 1) t
JOIN (SELECT row_number() OVER (ORDER BY random()) AS n, id FROM generate_series(1, 15) id WHERE id NOT IN (SELECT id FROM crowd)) f USING (n)
WHERE crowd.ctid = t.place;);

sub crowd_transaction
{
	my $script = 'BEGIN; ' . (rand() < 0.3 ? $crowding[7]->() : '') . 'SET CONSTRAINTS ALL DEFERRED; ';
	for (1 .. 1 + int rand 6)
	{
		my $step = $crowding[ rand @crowding ]->();
		$step = "SAVEPOINT s; $step " . (rand() < 0.5 ? 'ROLLBACK TO s; ' : '') . 'RELEASE s;' if rand() < 0.2;
		$step = "$untangle SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED; $step" if rand() < 0.1;
		$script .= "$step ";
	}
	return "$script $untangle COMMIT;";
}

# a row that others have the key of is known after changes that are not captured, too
sql(join ' ', map { person('crowd', $_) } 1 .. 4);
settled();
my $second = sql('SELECT customer_name FROM crowd WHERE id = 2');
sql("UPDATE crowd SET city = customer_name || ' x'; BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE crowd SET id = 2 WHERE id = 1;"
	  . "UPDATE crowd SET kapture_customer_id = kapture_customer_id WHERE id = 2; UPDATE crowd SET id = 1 WHERE id = 2 AND customer_name = '$second'; COMMIT");
judge('two rows exchange their keys');
is(sql("SELECT string_agg(r.row_key || ' ' || r.customer_id, ', ' ORDER BY r.row_key) FROM kapture_row r JOIN kapture_attachment a USING (attachment_id) WHERE r.gone_at IS NULL AND a.relation = 'crowd'::regclass"),
	sql("SELECT string_agg(id || ' ' || kapture_customer_id, ', ' ORDER BY id::text) FROM crowd"), 'each is known under its new key');

for my $round (1 .. 5)
{
	sql(join ' ', 'TRUNCATE crowd;', map { person('crowd', $_) } 1 .. 4);
	settled();
	sql("SELECT kapture_pause('crowd')") if $round % 2;
	my $script = join "\n", map { crowd_transaction() } 1 .. 8;
	my ($status, $out, $errors) = $node->psql('postgres', $script, on_error_stop => 0);
	# an id that is written meanwhile keeps a row from being untangled
	$errors =~ s/^.*ERROR:  (?:duplicate key|current transaction is aborted).*\n?(?:DETAIL: .*\n?)?//mg unless $round % 2;
	is($errors, '', 'keys collide for a while');
	sql("SELECT kapture_resume('crowd')") if $round % 2;
	judge("crowd $round");
	is(sql("SELECT string_agg(r.row_key || ' ' || r.customer_id, ', ' ORDER BY r.row_key) FROM kapture_row r JOIN kapture_attachment a USING (attachment_id) WHERE r.gone_at IS NULL AND a.relation = 'crowd'::regclass"),
		sql("SELECT string_agg(id || ' ' || kapture_customer_id, ', ' ORDER BY id::text) FROM crowd"), 'each is known under its key')
	  or diag("KAPTURE_KEYS_SEED=$seed", $script);
}
pop @tables;

# --- an index whose finds are to be checked (btree_gist): of a constraint that is not the key's, or of a key WITHOUT OVERLAPS
sql(q(
CREATE EXTENSION btree_gist;
CREATE TABLE hosts (id inet PRIMARY KEY, customer_name text, phone text, city text, EXCLUDE USING gist (id WITH =) DEFERRABLE);
SELECT kapture_attach('hosts');
CREATE TRIGGER born AFTER INSERT ON hosts FOR EACH ROW EXECUTE FUNCTION note_born();
));
push @tables, 'hosts';
sql(person('hosts', "'10.0.0.1'") . person('hosts', "'10.0.0.2'") . "UPDATE hosts SET id = '10.0.0.3' WHERE id = '10.0.0.1'");
judge('a constraint that can be deferred, on columns of the key');
if ($node->pg_version >= 18)
{
	sql(q(
CREATE TABLE leases (id inet, during int4range, customer_name text, phone text, city text, PRIMARY KEY (id, during WITHOUT OVERLAPS) DEFERRABLE);
SELECT kapture_attach('leases');
CREATE TRIGGER born AFTER INSERT ON leases FOR EACH ROW EXECUTE FUNCTION note_born();
));
	push @tables, 'leases';
	sql(person('leases', "'10.0.0.$_', int4range '[1,9)'")) foreach 1 .. 3;
	settled();
	$second = sql("SELECT customer_name FROM leases WHERE id = '10.0.0.2'");
	sql("BEGIN; SET CONSTRAINTS ALL DEFERRED; UPDATE leases SET id = '10.0.0.2', city = customer_name || ' x' WHERE id = '10.0.0.1';"
		  . "UPDATE leases SET id = '10.0.0.1', city = customer_name || ' y' WHERE id = '10.0.0.2' AND customer_name = '$second';"
		  . "UPDATE leases SET during = '[9,12)' WHERE id = '10.0.0.3'; COMMIT");
	judge('rows exchange keys WITHOUT OVERLAPS');
	pop @tables;
}
pop @tables;
srand $seed;

# --- anything, by chance, in two sessions
my @faults = (
	{ action => 'drop_after' }, { action => 'truncate' }, { action => 'drop_before' }, { action => 'late', ms => 300 },
	{ action => 'delay', ms => 100 }, { action => 'status', code => 500 },
	{ api => 'add', action => 'status', code => 400, body => '{"message": "no", "status": "failed"}' });

sub some { return 1 + int rand 6 }

sub some_key
{
	my ($table) = @_;
	return 'id = ' . some() if $table eq 'plain' || $table eq 'loose';
	return 'a = ' . (1 + int rand 2) . ' AND b = ' . (1 + int rand 3) if $table eq 'pair';
	return 'id = ' . (1 + int rand 3);
}

sub new_key
{
	my ($table) = @_;
	return some() if $table eq 'plain' || $table eq 'loose';
	return (1 + int rand 2) . ', ' . (1 + int rand 3) if $table eq 'pair';
	return (1 + int rand 3) . ", '" . ('n', 's', 't')[ rand 3 ] . "'";
}

sub swap
{
	my ($table, $column) = @_;
	my ($one, $other) = (1 + int rand 3, 1 + int rand 3);
	return "UPDATE $table SET $column = -1 WHERE $column = $one; UPDATE $table SET $column = $one WHERE $column = $other;"
	  . " UPDATE $table SET $column = $other WHERE $column = -1;";
}

my %special = (
	plain => [
		sub { swap('plain', 'id') }, sub { 'UPDATE plain SET id = ' . some() . ' WHERE id = ' . some() . ';' },
		sub { 'UPDATE plain SET id = id + 100; UPDATE plain SET id = id - 99;' }, sub { 'UPDATE plain SET id = id + 1;' } ],
	loose => [
		sub { 'UPDATE loose SET id = id % 6 + 1;' }, sub { "UPDATE loose SET id = id % 6 + 1, city = customer_name || ' ' || random();" },
		sub { 'UPDATE loose SET id = CASE id WHEN 1 THEN 3 WHEN 3 THEN 1 WHEN 2 THEN 5 ELSE 2 END WHERE id IN (1, 2, 3, 5);' },
		sub { 'SET CONSTRAINTS ALL DEFERRED; UPDATE loose SET id = 2 WHERE id = 1; UPDATE loose SET id = 1 WHERE id = 2 AND ctid = (SELECT min(ctid) FROM loose WHERE id = 2);' },
		sub { swap('loose', 'id') } ],
	pair => [ sub { swap('pair', 'a') }, sub { swap('pair', 'b') }, sub { 'UPDATE pair SET a = b, b = a WHERE a <> b AND a + b = 3;' } ],
	parted => [
		map { my $region = $_; sub { "UPDATE parted SET region = '$region', city = customer_name || ' ' || random() WHERE " . some_key('parted') . ';' } } qw(n s t) ]);
my @general = (
	(sub { person($_[0], new_key($_[0])) }) x 4,
	sub { "DELETE FROM $_[0] WHERE " . some_key($_[0]) . ';' },
	sub { my $key = new_key($_[0]); my $where = some_key($_[0]); "DELETE FROM $_[0] WHERE $where; " . person($_[0], $key) },
	(sub { "UPDATE $_[0] SET city = customer_name || ' ' || random() WHERE " . some_key($_[0]) . ';' }) x 2,
	sub { "UPDATE $_[0] SET phone = translate(left(phone, 1), '89', '98') || substr(phone, 2) WHERE " . some_key($_[0]) . ';' },
	sub { rand() < 0.2 ? "TRUNCATE $_[0]; " . person($_[0], new_key($_[0])) : '' });

sub change
{
	my $table = $tables[ rand @tables ];
	my @kinds = rand() < 0.5 ? @{ $special{$table} } : @general;
	return $kinds[ rand @kinds ]->($table);
}

sub transaction
{
	return change() if rand() < 0.4;
	my $script = 'BEGIN; ';
	for (1 .. 1 + int rand 4)
	{
		my $change = change();
		$change = "SAVEPOINT s; $change " . (rand() < 0.5 ? 'ROLLBACK TO s; ' : '') . 'RELEASE s;' if rand() < 0.3;
		$script .= "$change ";
		$script .= 'SELECT pg_sleep(' . (rand 0.05) . '); ' if rand() < 0.3;
	}
	return $script . (rand() < 0.15 ? 'ROLLBACK;' : 'COMMIT;');
}

# Errors, of keys that are taken and of deadlocks, are part of it.
sub play
{
	my @sessions;
	foreach my $n (1, 2)
	{
		my $script = join "\n", map { transaction() . (rand() < 0.3 ? ' SELECT pg_sleep(' . (rand 0.1) . ');' : '') } 1 .. 40;
		my $out = '';
		push @sessions, IPC::Run::start([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-f', '-' ], \$script, '>', \$out, '2>&1');
	}
	my $choice = rand;
	my $table = $tables[ rand @tables ];
	sql("SELECT pg_terminate_backend(kapture_worker_pid())") if $choice < 0.3;
	sql("SELECT kapture_pause('$table')") if $choice > 0.7;
	$_->finish foreach @sessions;
	sql("SELECT kapture_resume('$table')") if $choice > 0.7;
	return;
}

for my $round (1 .. $rounds)
{
	emulator_faults($emulator, map { { %{ $faults[ rand @faults ] }, probability => 0.2 } } 1 .. 2);
	play();
	judge("round $round") if $round % 4 == 0 || $round == $rounds;
}
cmp_ok(sql('SELECT count(*) FROM born'), '>', $rounds * 5, 'there were rows');

# --- other columns become the primary key while a deleted row's Add is under way, after a TRUNCATE
sql(q(
CREATE TABLE changing (id int PRIMARY KEY, customer_name text, phone text, city text, number int GENERATED ALWAYS AS (id + 100) STORED NOT NULL);
SELECT kapture_attach('changing');
CREATE TRIGGER born AFTER INSERT ON changing FOR EACH ROW EXECUTE FUNCTION note_born();
));
push @tables, 'changing';
my $begun = held('changing', 2);
sql(person('changing', 1) . person('changing', 2));
$begun->();
sql('DELETE FROM changing WHERE id = 1');
poll_ok($node, 'SELECT count(*) = 1 FROM kapture_delivery WHERE row_key IS NULL', 'the row of an Add is deleted');
my ($status, $out, $errors) = $node->psql('postgres',
	"BEGIN; TRUNCATE changing; " . person('changing', 3) . 'ALTER TABLE changing DROP CONSTRAINT changing_pkey, ADD PRIMARY KEY (number); COMMIT');
is($errors, '', 'other columns become the primary key');
release_adds($node, $emulator);
judge('what waits follows');

# --- rows that leave with their partition, of which no trigger tells
sql(q(
CREATE TABLE split (id int PRIMARY KEY, customer_name text, phone text, city text) PARTITION BY RANGE (id);
CREATE TABLE low PARTITION OF split FOR VALUES FROM (1) TO (10);
CREATE TABLE high PARTITION OF split FOR VALUES FROM (10) TO (20);
CREATE TABLE source (id int PRIMARY KEY);
SELECT kapture_attach('split');
CREATE TRIGGER born AFTER INSERT ON split FOR EACH ROW EXECUTE FUNCTION note_born();
));
push @tables, 'split';
my $load = join ' ', map { person('split', $_) } 1, 2;
foreach my $case (
	[ 'a partition is truncated and loaded again', "TRUNCATE low; $load" ],
	[ 'in one transaction', "BEGIN; TRUNCATE low; $load COMMIT" ],
	[ 'along with what it refers to', "INSERT INTO source VALUES (1), (2), (11) ON CONFLICT DO NOTHING; ALTER TABLE low ADD FOREIGN KEY (id) REFERENCES source;"
		. " TRUNCATE source CASCADE; ALTER TABLE low DROP CONSTRAINT low_id_fkey; $load" ],
	[ 'after rows went and came', "BEGIN; UPDATE split SET id = 12 WHERE id = 2; UPDATE split SET id = 2 WHERE id = 11; TRUNCATE low; $load COMMIT" ],
	[ 'a partition is dropped and made again', "DROP TABLE low; CREATE TABLE low PARTITION OF split FOR VALUES FROM (1) TO (10); $load" ],
	[ 'detached, dropped and made again', "ALTER TABLE split DETACH PARTITION low; DROP TABLE low; CREATE TABLE low PARTITION OF split FOR VALUES FROM (1) TO (10); $load" ],
	[ 'detached, loaded and attached', "ALTER TABLE split DETACH PARTITION low; TRUNCATE low; " . ($load =~ s/split/low/gr)
		. " INSERT INTO born SELECT customer_name FROM low; ALTER TABLE split ATTACH PARTITION low FOR VALUES FROM (1) TO (10)" ],
	[ 'made again if it was not there, as it was', "CREATE TABLE IF NOT EXISTS low PARTITION OF split FOR VALUES FROM (1) TO (10); BEGIN; TRUNCATE low; DROP TABLE high; ROLLBACK" ],
	[ 'detached and attached as it was', "ALTER TABLE split DETACH PARTITION low; ALTER TABLE split ATTACH PARTITION low FOR VALUES FROM (1) TO (10)" ])
{
	my ($name, $statement) = @$case;
	my $before = @{ emulator_get($emulator, 'customers') };
	my $added = held('split', 3);
	sql(person('split', 11) . " $load");
	$added->();
	sql($statement);
	release_adds($node, $emulator);
	judge($name);
	is(@{ emulator_get($emulator, 'customers') } - $before, $name =~ /as it was/ ? 3 : 5, 'each row has a customer of its own');
	sql('TRUNCATE split');
}

# --- rows at rest that go with their partition: their customers are orphans, and no others
judge('nothing waits');
sql("ALTER TABLE split ATTACH PARTITION high FOR VALUES FROM (10) TO (20)") if sql("SELECT NOT relispartition FROM pg_class WHERE oid = 'high'::regclass") eq 't';
sql("DELETE FROM kapture_row WHERE gone_at IS NOT NULL; DELETE FROM kapture_history; SELECT kapture_alter('split', on_delete => '{\"campaign_name\": \"deleted\"}')");
sql(join ' ', map { person('split', $_) } 1, 2, 11, 12, 13);
settled();
my $orphans = "SELECT string_agg(row_key || ' ' || reason, ', ' ORDER BY row_key) FROM kapture_orphans WHERE relation = 'split'::regclass";
sql("BEGIN; TRUNCATE low; DROP TABLE high; ROLLBACK");
sql("BEGIN; UPDATE split SET id = 14 WHERE id = 2; UPDATE split SET id = 3 WHERE id = 11; TRUNCATE low; COMMIT");
settled();
is(sql($orphans), '1 deleted, 11 deleted', 'a partition is truncated: those that were in it then, by the keys that they are known by');
is(sql("SELECT count(*) FROM kapture_history WHERE action = 'gone' AND row_key IN ('2', '3', '14')"), '1', 'the history has no row that only had another key');
is(sql("SELECT kapture_id('split', '14') IS NOT NULL, kapture_id('split', '1') IS NULL FROM split WHERE id = 14"), 't|t', 'a row that has left it stays');
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK TABLE kapture_row');
my ($failed, $shown_of_it, $warned) = $node->psql('postgres', "SET lock_timeout = '10ms'; TRUNCATE low", on_error_stop => 1);
like("$failed $warned", qr/^0 .*WARNING:  could not determine which of the rows that are being sent to Kapture were in partition "low"\nDETAIL:  canceling statement due to lock timeout/s,
	'what is known of rows cannot be read: the user\'s TRUNCATE does not fail for that');
$locker->query_safe('COMMIT');
$locker->quit;
sql("DROP TABLE high");
settled();
is(sql($orphans), '1 deleted, 11 deleted, 12 deleted, 13 deleted, 14 deleted', 'one is dropped');
is(sql("SELECT string_agg(row_key, ' ' ORDER BY row_key) FROM kapture_history WHERE action = 'gone' AND row_key IN ('1', '12', '13', '14')"), '1 12 13 14', 'the history has each row once');
is((grep { ($_->{campaign_name} // '') eq 'deleted' } @{ emulator_get($emulator, 'customers') }), 1, 'to Kapture, only what was under way is reported');

$node->stop;
done_testing();
