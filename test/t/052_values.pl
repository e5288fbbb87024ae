# Values that a database cannot hold, in databases of several encodings: one bad
# value costs that value, in pulls, refreshes, sweeps, foreign tables, direct calls
# and in what the worker makes of an answer.
use strict;
use warnings;

use Encode qw(encode_utf8 decode_utf8);
use File::Temp qw(tempdir);
use FindBin;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $key = 'a2FwZGVtbzprYXAxMjM=';
my $dir = tempdir(CLEANUP => 1);
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64, ReuseAddr => 1) or die "could not listen: $!";
my $url = 'http://127.0.0.1:' . $listener->sockport;

# Values as they come in an answer, and what becomes of them in UTF8, in SQL_ASCII,
# and where the encoding has ASCII and perhaps some more.
my $replaced = encode_utf8("\x{FFFD}");
my @values = (
	[ 'nul escape', '"a\u0000b"', "a${replaced}b", 'a?b' ],
	[ 'nul byte', "\"a\0b\"", "a${replaced}b", 'a?b' ],
	[ 'first half', '"a\ud83db"', "a${replaced}b", 'a?b' ],
	[ 'second half', '"a\ude00b"', "a${replaced}b", 'a?b' ],
	[ 'halves apart', '"a\ud83dx\ude00b"', "a${replaced}x${replaced}b", 'a?x?b' ],
	[ 'two first halves', '"a\ud83d\ud83d\ude00"', "a$replaced" . encode_utf8("\x{1F600}"), 'a??' ],
	[ 'no UTF-8', "\"a\xffb\"", "a${replaced}b", 'a?b' ],
	[ 'too long', "\"a\xc0\x80b\"", "a$replaced${replaced}b", 'a??b' ],
	[ 'a surrogate', "\"a\xed\xa0\x80b\"", "a$replaced$replaced${replaced}b", 'a???b' ],
	[ 'cut off', "\"a\xe0\xa4\"", "a$replaced$replaced", 'a??' ],
	[ 'control', "\"a\x01\x7fb\"", "a\x01\x7fb", "a\x01\x7fb" ],
	[ 'Hindi', '"' . encode_utf8("\x{092A}\x{094D}\x{0930}") . '"', encode_utf8("\x{092A}\x{094D}\x{0930}"), '???' ],
	[ 'Hindi escaped', '"\u092a\u094d"', encode_utf8("\x{092A}\x{094D}"), '??' ],
	[ 'C1', "\"a\xc2\x81\"", "a\xc2\x81", undef ],    # LATIN1 has it, WIN1252 has not
	[ 'deep', '[' x 200 . ']' x 200, undef, undef ],
	[ 'long', '"' . ('v' x 5000) . '"', 'v' x 5000, 'v' x 5000 ]);

# The customers of a pull: a good one, one for each value, one with a number of 1,500
# digits, one whose phone and email fit in no B-tree, a good one.
my @letters = ('a' .. 'z', 0 .. 9);
srand 1;
my $random = join '', map { $letters[ rand @letters ] } 1 .. 4000;
my $number = '9' x 1500;

sub customer
{
	my ($id, $name, %more) = @_;
	my $email = $more{email} || "c$id\@example.com";
	my $phone = $more{phone} || 9000000000 + $id;
	my $rest = $more{rest} || '';
	return qq({"id": $id, "name": $name, "companyPhone": "$phone", "generationDate": "Mar 14, 2021 2:21:11 PM"$rest,)
	  . qq( "contacts": [{"id": ${id}9, "leadId": $id, "contactPerson": $name, "phone": "$phone", "email": "$email", "isPrimaryContact": true}]});
}
my $n = 0;
my @customers = (customer(1, '"First"'), (map { customer(100 + $n++, $_->[1]) } @values),
	customer(200, '"Number"', rest => qq(, "zone": $number, "maxCreditAmt": $number, "outStandingAmount": 1e5000)),
	customer(201, '"Long"', email => "$random\@example.com", phone => $random), customer(999, '"Last"'));
my $pull = '{"message": [' . join(', ', @customers) . '], "status": "success"}';
my $nameless = '{"message": [' . join(', ', customer(1001, '"First"'), (map { qq({"id": $_, "name": "None"}) } '"x"', '1.5', $number, 'null', '0', '-5'), customer(1002, '"Last"')) . '], "status": "success"}';

# Adds are answered with an id that follows from the phone, and with the name
# "says"; Gets find the customer with that id, named so.
my $child = fork;
die "could not fork: $!" unless defined $child;
serve() unless $child;

END
{
	my $status = $?;
	kill 'TERM', $child if $child;
	$? = $status;
}

sub says { my $f = slurp_file("$dir/says"); return $f }

sub say_name
{
	my ($value) = @_;
	open(my $file, '>:raw', "$dir/new") or die "$dir/new: $!";
	print $file $value;
	close $file;
	rename("$dir/new", "$dir/says") or die "rename: $!";
	return;
}

sub answer_to
{
	my ($path, $body) = @_;
	my ($phone) = $body =~ /"phone" ?: ?"?(\d+)/;
	my ($id) = $body =~ /"kapture_customer_id" ?: ?"?(\d+)/;
	my $date = $body =~ /2021-03-14/;

	if ($path eq 'pull')
	{
		return $nameless if $body =~ /2021-03-16/;
		return $date ? $pull : '{"message": "No customer between dates.", "status": "failed"}';
	}
	if ($path eq 'get')
	{
		return '{"Customer Details": ' . customer($id || substr($phone, 4) + 0, says()) . ', "status": "success"}';
	}
	$id ||= substr($phone, 4) + 0;
	return '{"Enquiry": {"kapture_customer_id": ' . $id . ', "customer_name": ' . says() . ($phone ? qq(, "phone": "$phone") : '') . '}, "message": ' . says() . ', "status": "success"}';
}

sub serve
{
	close STDOUT;
	close STDERR;
	$SIG{TERM} = sub { POSIX::_exit(0) };
	while (my $client = $listener->accept)
	{
		my $text = '';
		until ($text =~ /\r\n\r\n/) { sysread($client, $text, 65536, length $text) or last; }
		my ($head, $body) = split /\r\n\r\n/, $text, 2;
		my ($length) = ($head // '') =~ /^Content-Length: (\d+)/mi or next;
		while (length $body < $length) { sysread($client, $body, 65536, length $body) or last; }
		my $answer = answer_to($head =~ m{^POST /(\w+)}, $body);
		syswrite($client, "HTTP/1.1 200 OK\r\nContent-Length: " . length($answer) . "\r\nConnection: close\r\n\r\n$answer");
		close $client;
	}
	POSIX::_exit(0);
}

say_name('"Name"');
my $node = new_node('main', extra => [ '--locale=C', '--encoding=UTF8' ]);

# What SQL gives, as bytes of UTF-8 or, in SQL_ASCII, as they are.
sub sql
{
	my ($db, $command) = @_;
	my ($rc, $out, $err) = $node->psql($db, "SET client_encoding = '" . ($db eq 'sql_ascii' ? 'SQL_ASCII' : 'UTF8') . "'; $command");
	die "$db: $command: $err" if $rc != 0;
	return wantarray ? ($out, $err) : $out;
}

# What a value is in a database.
sub expected
{
	my ($encoding, $value) = @_;
	return $value->[2] if $encoding eq 'UTF8' || $encoding eq 'SQL_ASCII';
	return $encoding eq 'LATIN1' ? "a\xc2\x81" : 'a?' if $value->[0] eq 'C1';
	return $value->[3];
}

foreach my $encoding (qw(UTF8 LATIN1 WIN1252 EUC_JP SQL_ASCII))
{
	my $db = lc $encoding;
	$node->safe_psql('postgres', "CREATE DATABASE $db ENCODING '$encoding' LOCALE 'C' TEMPLATE template0");
	sql($db, qq(
CREATE EXTENSION kapture_sync;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url', add_path '/add', update_path '/add', get_path '/get', pull_path '/pull', timeout '20s');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key '$key');
CREATE SCHEMA remote;
IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO remote;
));
	my $range = "'2021-03-14', '2021-03-14'";
	my $all = scalar @customers;

	# rows of a pull, a refresh, a foreign table
	my ($out, $err) = sql($db, "SELECT count(*) FROM kapture_pull_customers($range)");
	is($out, $all, "$encoding: a pull has all customers");
	like($err, qr/WARNING:  kapture_sync: the answer of server "kapture" has values that this database cannot hold\n.*DETAIL:  They were replaced\. \d+ customers have such values: 100, 101, /, 'and says which have values that were replaced');
	unlike($err, qr/values: .*\b(?:1|999)\b/, 'and no others');
	($out, $err) = sql($db, "CALL kapture_refresh($range)");
	like($err, qr/They were replaced\. \d+ customers have such values: 100, 101, /, "$encoding: a refresh says so, too");
	is(sql($db, "SELECT count(*) FROM kapture_customers"), $all, 'and has all customers');
	is(sql($db, "SELECT count(*) FROM kapture_contacts"), $all, 'and contacts');
	($out, $err) = sql($db, "CALL kapture_refresh($range, restart => true)");
	unlike($err, qr/replaced/, 'once: those that have not changed are not named again');
	is(sql($db, "SELECT count(*) FROM remote.customers WHERE generation_date >= '2021-03-14 00:00+05:30' AND generation_date < '2021-03-15 00:00+05:30'"), $all, "$encoding: a foreign table has them");
	my $i = 0;
	foreach my $value (@values)
	{
		my $id = 100 + $i++;
		my $name = sql($db, "SELECT name FROM kapture_customers WHERE id = $id");
		my $wanted = expected($encoding, $value) // '';
		is($name, $wanted, "$encoding: $value->[0]");
		is(sql($db, "SELECT name IS NOT DISTINCT FROM NULLIF(raw ->> 'name', '') OR jsonb_typeof(raw -> 'name') = 'array' FROM kapture_customers WHERE id = $id"), 't', 'and so in raw') if $value->[0] ne 'deep';
	}
	is(sql($db, "SELECT jsonb_path_query_first(raw, 'strict \$.name.**{100}') IS NULL, raw::text LIKE '%[[[[%' FROM kapture_customers WHERE name IS NULL AND id < 200"), 't|t', "$encoding: a value that is too deep is cut");
	is(sql($db, "SELECT zone IS NULL, max_credit_amt IS NULL, out_standing_amount IS NULL, raw ->> 'zone' = repeat('9', 1500), name FROM kapture_customers WHERE id = 200"), 't|t|t|t|Number', "$encoding: too large a number is NULL, and in raw");
	is(sql($db, "SELECT id, length(email) FROM kapture_customers WHERE phone = '$random'"), '201|4012', "$encoding: a long phone is found");
	is(sql($db, "SET enable_seqscan = off; EXPLAIN (COSTS off) SELECT FROM kapture_customers WHERE email = 'x'") =~ /Index Scan using kapture_customers_email|Bitmap Index Scan on kapture_customers_email/ ? 1 : 0, 1, 'by an index');

	# customers whose id cannot be read cost themselves
	($out, $err) = sql($db, "CALL kapture_refresh('2021-03-16', '2021-03-16')");
	like($err, qr/WARNING:  kapture_sync: the answer of server "kapture" has 6 customers without an id/, "$encoding: who has no id is left out, with a warning");
	is(sql($db, "SELECT string_agg(id::text, ',' ORDER BY id) FROM kapture_customers WHERE id > 1000 OR id <= 0"), '1001,1002', 'and the others are there');
	sql($db, "DELETE FROM kapture_customers WHERE id > 1000");

	# a direct call
	say_name('"a\ud83db"');
	($out, $err) = sql($db, "SELECT kapture_get_customer('{\"kapture_customer_id\": 7}') -> 'Customer Details' ->> 'name'");
	is($out, $encoding =~ /UTF8|SQL_ASCII/ ? "a${replaced}b" : 'a?b', "$encoding: a direct call gives the rest");
	like($err, qr/WARNING:  kapture_sync: the answer of server "kapture" has values that this database cannot hold\n.*DETAIL:  They were replaced\./, 'and says so');
	($out, $err) = sql($db, "SELECT id, name FROM kapture_find_customers('{\"kapture_customer_id\": 7}')");
	is($out, '7|' . ($encoding =~ /UTF8|SQL_ASCII/ ? "a${replaced}b" : 'a?b'), "$encoding: so do rows of a search");
	like($err, qr/1 customer has such values: 7\./, 'which say whose it is');

	# the worker: an Add needs its status and id, whatever else is in the answer
	sql($db, "CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text); SELECT kapture_attach('customers')");
	$i = 0;
	foreach my $value (@values, [ 'number', $number ], [ 'exponent', '1e5000' ])
	{
		$i++;
		say_name($value->[1]);
		sql($db, sprintf("INSERT INTO customers VALUES ($i, 'Row $i', '9000%06d')", 500 + $i));
		poll_ok($node, "SELECT kapture_customer_id = 500 + $i FROM customers WHERE id = $i", "$encoding: an Add whose answer has $value->[0]", $db);
	}
	poll_ok($node, "SELECT pending + in_flight + retrying + parked = 0 FROM kapture_status", 'all are done', $db);
	is(sql($db, "SELECT count(*) FROM kapture_history WHERE action <> 'add'"), '0', 'by their first request');
	sql($db, "UPDATE customers SET customer_name = 'New' WHERE id = 1");
	poll_ok($node, "SELECT pending + in_flight + retrying + parked = 0 AND EXISTS (SELECT FROM kapture_history WHERE action = 'update') FROM kapture_status", "$encoding: an Update, too", $db);

	# pulled by itself: the watermark passes them
	say_name('"a\u0000b"');
	sql($db, "SELECT kapture_detach('customers'); TRUNCATE kapture_customers, kapture_contacts; ALTER SERVER kapture OPTIONS (ADD pull_since '2021-03-14', ADD pull_interval '1h', ADD pull_window '3660 days')");
	poll_ok($node, "SELECT pulled_until >= '2021-03-14 14:21:11+05:30' AND last_error IS NULL FROM kapture_pull_status", "$encoding: the watermark goes on", $db);
	is(sql($db, "SELECT count(*) FROM kapture_customers"), $all, 'with all of them');
	sql($db, "ALTER SERVER kapture OPTIONS (DROP pull_interval, ADD sweep_interval '1 hour', ADD sweep_rate '100')");
	poll_ok($node, "SELECT swept = $all AND sweep_finished_at IS NOT NULL FROM kapture_pull_status", "$encoding: a sweep, too", $db);
	is(sql($db, "SELECT name FROM kapture_customers WHERE id = 999"), $encoding =~ /UTF8|SQL_ASCII/ ? "a${replaced}b" : 'a?b', 'with what it can hold');
	sql($db, "ALTER SERVER kapture OPTIONS (DROP sweep_interval)");
}

$node->stop;
done_testing();
