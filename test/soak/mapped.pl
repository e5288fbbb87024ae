# What script/soak does with mappings: expressions and a filter, a view whose tables are
# followed, rows that arrive from a second account by pages, calls to other modules, and
# what is done with a mapping in the course of time: kapture_alter, kapture_resync,
# kapture_verify with repair.  Used by soak.pl, whose subs it calls.
use strict;
use warnings;

use Time::HiRes qw(sleep);

our (%count, @wrong);    # of soak.pl

my %person = (
	columns => q({"customer_name": {"expression": "first || ' ' || last"}, "phone": {"expression": "@.kapture_phone(mobile)"}, "city": "note", "campaign_name": {"constant": "soak"}}),
	wider => q({"customer_name": {"expression": "first || ' ' || last"}, "phone": {"expression": "@.kapture_phone(mobile)"}, "city": "note", "campaign_name": {"constant": "soak"}, "address": {"expression": "upper(note)"}}));
$_ =~ s/\@\./public./g foreach values %person;
my $arrived = 0;

# The tables, and what they are attached to.  Takes the address of the second emulator.
sub mapped_setup
{
	my ($url, $key) = @_;
	session('setup')->do($_) foreach split /;\n/, <<"END";
CREATE SERVER kapture_in FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url', timeout '1s', max_connections '4', pull_form 'paged', cm_id '2469', pull_interval '3s', pull_limit '7', pull_since '@{[ POSIX::strftime('%Y-%m-%d', localtime(time - 86400)) ]}');
CREATE USER MAPPING FOR crm SERVER kapture_in OPTIONS (auth_key '$key');
CREATE TABLE people (id bigint PRIMARY KEY DEFAULT nextval('keys'), n bigint NOT NULL UNIQUE, first text, last text, mobile text, active boolean NOT NULL, note text);
CREATE TABLE gone_people (n bigint);
SELECT kapture_attach('people', server => 'kapture_side', columns => \$\$$person{columns}\$\$, filter => 'active', id_column => 'crm_id', on_leave => '{"campaign_name": "left"}', on_delete => '{"campaign_name": "deleted"}');
CREATE TABLE town (id int PRIMARY KEY, name text);
INSERT INTO town SELECT i, 'town ' || i FROM generate_series(1, 20) i;
CREATE TABLE account (id bigint PRIMARY KEY DEFAULT nextval('keys'), n bigint NOT NULL UNIQUE, town_id int, logins int NOT NULL DEFAULT 0);
CREATE INDEX ON account (town_id);
CREATE TABLE contact (account_id bigint PRIMARY KEY REFERENCES account ON DELETE CASCADE ON UPDATE CASCADE, phone text);
CREATE VIEW account_crm AS SELECT a.id, 'account ' || a.n AS customer_name, c.phone, t.name AS city FROM account a LEFT JOIN contact c ON c.account_id = a.id LEFT JOIN town t ON t.id = a.town_id;
SELECT kapture_attach('account', server => 'kapture_side', source => 'account_crm', id_column => NULL);
SELECT kapture_follow('contact', 'account', 'target.id = source.account_id');
SELECT kapture_follow('town', 'account', 'target.town_id = source.id');
CREATE TABLE arrivals (id bigint PRIMARY KEY DEFAULT nextval('keys'), customer_name text, phone text, city text);
SELECT kapture_attach('arrivals', server => 'kapture_in', pull => true, id_column => NULL);
CREATE TABLE tickets (n bigint)
END
	return;
}

# Scripts of pgbench, by name and weight.
sub mapped_scripts
{
	my $recent = sub { "id = (SELECT id FROM $_[0] ORDER BY id DESC OFFSET :some % 30 LIMIT 1)" };
	return (
		'person@5' => "INSERT INTO people (n, first, last, mobile, active, note) SELECT n, 'person', n::text, '+91 9' || lpad(n::text, 9, '0'), random() < 0.7, 'note ' || :some FROM nextval('numbers') AS s(n);",
		'person_note@5' => "UPDATE people SET note = 'note ' || :some WHERE " . $recent->('people') . ';',
		'person_leaves@4' => 'UPDATE people SET active = NOT active WHERE ' . $recent->('people') . ';',
		'person_phone@2' => "UPDATE people SET mobile = '+91 ' || translate(substr(mobile, 5, 1), '89', '98') || substr(mobile, 6) WHERE " . $recent->('people') . ';',
		'person_key@1' => "UPDATE people SET id = nextval('keys') WHERE " . $recent->('people') . ';',
		'person_gone@1' => 'WITH d AS (DELETE FROM people WHERE ' . $recent->('people') . ' RETURNING n) INSERT INTO gone_people SELECT n FROM d;',
		'account@4' => "BEGIN;\nINSERT INTO account (n, town_id) SELECT n, :some % 20 + 1 FROM nextval('numbers') AS s(n);\n"
		  . "INSERT INTO contact SELECT id, '9' || lpad(n::text, 9, '0') FROM account WHERE n = currval('numbers');\nCOMMIT;",
		'contact@3' => "UPDATE contact SET phone = translate(left(phone, 1), '89', '98') || substr(phone, 2) WHERE account_id = (SELECT id FROM account ORDER BY id DESC OFFSET :some % 30 LIMIT 1);",
		'account_town@3' => 'UPDATE account SET town_id = :some % 20 + 1 WHERE ' . $recent->('account') . ';',
		'account_login@3' => 'UPDATE account SET logins = logins + 1 WHERE ' . $recent->('account') . ';',
		'account_key@1' => "UPDATE account SET id = nextval('keys') WHERE " . $recent->('account') . ';',
		'account_gone@1' => 'DELETE FROM account WHERE ' . $recent->('account') . ';',
		'local@2' => "INSERT INTO arrivals (customer_name, phone, city) SELECT 'local ' || n, '9' || lpad(n::text, 9, '0'), 'here' FROM nextval('numbers') AS s(n);",
		'arrival_note@2' => "UPDATE arrivals SET city = 'here ' || :some WHERE " . $recent->('arrivals') . ';',
		'ticket@2' => "WITH t AS (INSERT INTO tickets SELECT nextval('numbers') RETURNING n) SELECT kapture_send('ticket_add', jsonb_build_object('title', 'ticket ' || n), server => 'kapture_side', retry => 'always') FROM t;");
}

# Waits until nothing of a table waits; false if that takes too long.
sub mapped_wait
{
	my ($relation) = @_;
	for (1 .. 1200)
	{
		return 1 if session('mapped')->selectrow_array("SELECT pending + in_flight + retrying + parked = 0 FROM kapture_status WHERE relation = ?::regclass", undef, $relation);
		session('mapped')->do("SELECT kapture_retry(?::regclass)", undef, $relation) if $_ % 10 == 0;
		sleep 0.25;
	}
	return 0;
}

# What is done now and then: seconds, and how.
sub mapped_regular
{
	return (
		town => [ 10, sub { session('mapped')->do("UPDATE town SET name = 'town ' || ? WHERE id = ?", undef, int rand 1e6, 1 + int rand 20) } ],
		arrive => [ 8, sub {
			# the emulator gives them the present time
			emulator('seed', [ map { { customer_name => "arrived $_", phone => sprintf('5%09d', $_) =~ s/^5/7/r, city => 'there' } } map { ++$arrived } 1 .. 1 + int rand 5 ], 'in');
		} ],
		behind => [ 6, sub {
			session('mapped')->selectrow_array("SELECT kapture_update_customer(jsonb_build_object('kapture_customer_id', crm_id, 'city', 'behind'), server => 'kapture_side')"
				  . " FROM people WHERE crm_id IS NOT NULL ORDER BY id DESC OFFSET floor(random() * 100) LIMIT 1");
		} ],
		touch => [ 6, sub { session('mapped')->do("SELECT kapture_touch('account', id) FROM account ORDER BY id DESC LIMIT 5") } ],
		verify => [ 40, sub {
			session('mapped')->selectrow_array("SELECT count(*) FROM kapture_verify('people', format('id > %s', (SELECT max(id) - 300 FROM people)), repair => true)");
		} ],
		resync => [ 60, sub { session('mapped')->do("CALL kapture_resync('people')") } ],
		resync_followed => [ 90, sub { session('mapped')->do("CALL kapture_resync('account', slice => 50)") } ],
		alter => [ 45, sub { session('mapped')->do("SELECT kapture_alter('people', columns => ?::jsonb)", undef, one_of($person{columns}, $person{wider})) } ],
		dry_run => [ 50, sub { session('mapped')->selectrow_array("SELECT count(*) FROM kapture_dry_run('people', columns => ?::jsonb, filter => 'active', server => 'kapture_side')", undef, $person{columns}) } ],
		match => [ 70, sub { session('mapped')->selectrow_array("SELECT count(*) FROM kapture_match('people')") } ],
		orphans => [ 45, sub { session('mapped')->selectrow_array("SELECT count(*) FROM kapture_orphans") } ],
		pause_followed => [ 55, sub {
			session('mapped')->do("SELECT kapture_pause('account')");
			later('resume_followed', 3 + rand 8, sub { session('mapped')->do("SELECT kapture_resume('account')") });
		} ]);
}

# Has all that was changed behind the extension's back put right.
sub mapped_peace
{
	my $db = session('mapped');
	$db->do("SET statement_timeout = 0");
	$db->do("SELECT kapture_alter('people', columns => ?::jsonb)", undef, $person{columns});
	mapped_wait('people') or return wrong('people are not all sent');
	my ($found) = $db->selectrow_array("SELECT count(*) FROM kapture_verify('people', repair => true)");
	$count{repaired} = $found;
	mapped_wait('people') or return wrong('people are not all repaired');
	my $left = $db->selectall_arrayref("SELECT row_key, problem, field, here, there FROM kapture_verify('people')");
	wrong('people differ after the repair: ', join ' ', map { $_ // '-' } @$_) foreach @$left[ 0 .. ($#$left > 9 ? 9 : $#$left) ];
	mapped_wait($_) or return wrong("$_ is not all sent") foreach qw(account arrivals);
	# calls that were refused, or may have been carried out
	$db->do("SELECT kapture_retry_call(call_id) FROM kapture_calls WHERE state IN ('failed', 'unknown')");
	for (1 .. 1200)
	{
		return if $db->selectrow_array("SELECT count(*) FROM arrivals WHERE customer_name LIKE 'arrived %'") >= $arrived
		  && !$db->selectrow_array("SELECT count(*) FROM kapture_calls WHERE state IN ('waiting', 'sending', 'failed', 'unknown')");
		sleep 0.25;
	}
	return wrong('not all customers have arrived, or not all calls are sent');
}

# Compares what a customer has with what it should have.
sub mapped_compare
{
	my ($name, $customer, %want) = @_;
	foreach my $field (sort keys %want)
	{
		my ($is, $should) = ($customer->{$field} // '', $want{$field} // '');
		wrong("$name: $field should be '$should', Kapture has '$is'") if $is ne $should;
	}
	return;
}

# Returns the customers whose name begins so, by name; complains of any who is there twice.
sub mapped_customers
{
	my ($kind, $which) = @_;
	my %found;
	foreach my $customer (@{ emulator('customers', undef, $which) })
	{
		next unless $customer->{customer_name} =~ /^(?:$kind) \d+$/;
		wrong("$customer->{customer_name} is there twice") if $found{ $customer->{customer_name} };
		$found{ $customer->{customer_name} } = $customer;
	}
	return \%found;
}

# The oracle: returns how many rows were compared.
sub mapped_judge
{
	my $db = session('watch', 'postgres');
	my $compared = 0;

	my $people = mapped_customers('person');
	foreach my $row (@{ $db->selectall_arrayref("SELECT n, crm_id, active, note, public.kapture_phone(mobile) AS phone FROM people", { Slice => {} }) })
	{
		my $name = "person $row->{n}";
		my $customer = delete $people->{$name};
		$compared++;
		if ($row->{active} && !$customer) { wrong("$name is missing"); next; }
		next unless $customer;
		wrong("$name has id " . ($row->{crm_id} // 'none') . ", Kapture says $customer->{kapture_customer_id}") if ($row->{crm_id} // 0) != $customer->{kapture_customer_id};
		if ($row->{active}) { mapped_compare($name, $customer, phone => $row->{phone}, city => $row->{note}, campaign_name => 'soak') }
		else { mapped_compare($name, $customer, campaign_name => 'left') }
	}
	my %gone = map { ("person $_" => 1) } @{ $db->selectcol_arrayref("SELECT n FROM gone_people") };
	foreach my $name (sort keys %$people)
	{
		if (!$gone{$name}) { wrong("$name was never committed") }
		else { mapped_compare($name, $people->{$name}, campaign_name => 'deleted') }
	}

	my $accounts = mapped_customers('account');
	foreach my $row (@{ $db->selectall_arrayref("SELECT customer_name, phone, city, kapture_id('account', id) AS kapture_id FROM account_crm", { Slice => {} }) })
	{
		my $name = $row->{customer_name};
		my $customer = $accounts->{$name};
		$compared++;
		if (!$customer) { wrong("$name is missing"); next; }
		wrong("$name has id " . ($row->{kapture_id} // 'none') . ", Kapture says $customer->{kapture_customer_id}") if ($row->{kapture_id} // 0) != $customer->{kapture_customer_id};
		mapped_compare($name, $customer, phone => $row->{phone}, city => $row->{city});
	}

	my $arrivals = mapped_customers('arrived|local', 'in');
	my %twice;
	foreach my $row (@{ $db->selectall_arrayref("SELECT customer_name, phone, city, kapture_id('arrivals', id) AS kapture_id FROM arrivals", { Slice => {} }) })
	{
		my $name = $row->{customer_name};
		my $customer = $arrivals->{$name};
		$compared++;
		wrong("$name has two rows") if $twice{$name}++;
		if (!$customer) { wrong("$name is missing"); next; }
		wrong("$name has id " . ($row->{kapture_id} // 'none') . ", Kapture says $customer->{kapture_customer_id}") if ($row->{kapture_id} // 0) != $customer->{kapture_customer_id};
		mapped_compare($name, $customer, phone => $row->{phone}, city => $row->{city});
	}
	foreach my $name (sort keys %$arrivals) { wrong("$name has no row") unless $twice{$name}; }

	my %sent = map { ($_->{body} =~ /"(ticket \d+)"/ ? ($1 => 1) : ()) } map { { body => ref $_->{body} ? JSON::XS::encode_json($_->{body}) : $_->{body} } } @{ emulator('items') };
	foreach my $n (@{ $db->selectcol_arrayref("SELECT n FROM tickets") })
	{
		$compared++;
		wrong("ticket $n is missing") unless $sent{"ticket $n"};
	}
	return $compared;
}

1;
