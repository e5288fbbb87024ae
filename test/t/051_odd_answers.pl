# Answers that fuzzing found to be trouble, byte by byte as they came: each is an
# error that says what is wrong, and the server lives on.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use IO::Socket::INET;
use POSIX ();
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $key = 'a2FwZGVtbzprYXAxMjM=';
my $dir = tempdir(CLEANUP => 1);
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 16, ReuseAddr => 1) or die "could not listen: $!";
my $url = 'http://127.0.0.1:' . $listener->sockport;
my $child = fork;
die "could not fork: $!" unless defined $child;
serve() unless $child;

END
{
	my $status = $?;
	kill 'TERM', $child if $child;
	$? = $status;
}

# Answers each request with what the file "answer" holds; of one that ends in "*",
# one byte more each time.  Its HTTP code, 400, is one that is not tried again.  An
# answer that begins with "HTTP" is sent as it is.
sub serve
{
	my $sent = 0;

	# whoever waits for the end of the test's output is not to wait for us
	close STDOUT;
	close STDERR;
	$SIG{TERM} = sub { POSIX::_exit(0) };
	while (my $client = $listener->accept)
	{
		my $request = '';
		until ($request =~ /\r\n\r\n/)
		{
			sysread($client, $request, 65536, length $request) or last;
		}
		my $body = slurp_file("$dir/answer");
		if ($body =~ s/\*\z//) { $body = substr($body, 0, ++$sent); }
		else { $sent = 0; }
		syswrite($client, $body =~ /^HTTP/ ? $body : "HTTP/1.1 400 No\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body");
		close $client;
	}
	POSIX::_exit(0);
}

sub answer
{
	my ($body) = @_;
	open(my $file, '>:raw', "$dir/answer") or die "$dir/answer: $!";
	print $file $body;
	close $file;
	return;
}

my $node = new_node('main');
$node->safe_psql('postgres', qq(
CREATE EXTENSION kapture_sync;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key '$key');
CREATE FUNCTION failure(command text, OUT code text, OUT detail text) LANGUAGE plpgsql AS \$\$
BEGIN
	EXECUTE command;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
END \$\$;
));
my $session = $node->background_psql('postgres');
my $pid = $session->query_safe('SELECT pg_backend_pid()');

sub failure
{
	my ($command) = @_;
	$command =~ s/'/''/g;
	return $session->query_safe("SELECT code || ' ' || detail FROM failure('$command')");
}

my $pull = "SELECT count(*) FROM kapture_pull_customers('2021-03-14', '2021-03-14')";
my $get = q(SELECT kapture_get_customer('{"phone": "9874563725"}'));

# there is no token after the colon
answer('{"message": ');
like(failure($pull), qr/^HV00M .*begins with: \{"message": $/, 'an answer that ends after a colon');

# a character of four bytes of which one is there: nothing behind it is shown
answer("x\xf4");
like(failure($get), qr/^HV00M .*begins with: x\\xf4$/, 'an answer that ends within a character');
answer(('x' x 199) . "\xf4");
like(failure($get), qr/^HV00M .*begins with: x{199}$/, 'one that does so where it is cut to be shown');

# the parser quotes the answer, and a terminal would obey
answer("{\"message\": \x1b}");
unlike(failure($get), qr/[^\x20-\x7e]/, 'control characters of an answer are not shown');

# libcurl 7 looked for the header that this line goes on with in the answer before
foreach my $i (1 .. 20)
{
	answer("HTTP/1.1 400 No\r\n folded: " . ('x' x ($i * 50)) . "\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
	failure($get);
}
answer("HTTP/1.1 400 No\r\n folded: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
like($session->query_safe(q(SELECT coalesce(code, 'none') FROM failure('SELECT kapture_get_customer(''{"phone": "9874563725"}'')'))),
	qr/^(none|08006)$/, 'an answer that begins with a folded header');

# every beginning of an answer
my $whole = '{"message": [{"id": 1, "name": "Ker é \ud83d\ude00", "contacts": [{"id": 2.0e0, "isPrimaryContact": "true"}]}, null], "other": {"a": [true]}, "status": "failed"}';
foreach my $command ($pull, $get)
{
	(my $quoted = $command) =~ s/'/''/g;
	answer('{}');
	failure($command);
	answer("$whole*");
	is($session->query_safe("SELECT string_agg(DISTINCT coalesce(code, 'none'), ' ') FROM (SELECT (failure('$quoted')).code FROM generate_series(1, " . (length($whole) - 1) . ')) s'),
		'HV00M', "no beginning of an answer is one: $command");
	is($session->query_safe("SELECT coalesce(code, 'none') FROM failure('$quoted')"), $command eq $pull ? 'HV000' : 'none', 'the whole is');
}
is($session->query_safe('SELECT pg_backend_pid()'), $pid, 'the session has lived through all this');
$session->quit;

# --- what answers may say besides, in a database whose encoding has not all characters
$node->safe_psql('postgres', "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
$node->safe_psql('latin', qq(
CREATE EXTENSION kapture_sync;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key '$key');
));

# The code and detail of the error that a command gets for an answer, or its result.
sub outcome
{
	my ($db, $command, $body) = @_;
	answer("HTTP/1.1 200 OK\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body");
	my ($rc, $out, $err) = $node->psql($db, "\\set VERBOSITY verbose\nSET client_encoding = 'UTF8';\n$command");
	return $rc == 0 ? $out : $err =~ s/^LOCATION.*//mrg;
}
is(outcome('postgres', "SELECT string_agg(id::text, ' ') FROM kapture_pull_customers('2021-03-14', '2021-03-14')", '{"message": [{"id": 1}], "CustomerDetails": [{"id": 2}, {"id": 3}], "status": "success"}'),
	'2 3', 'of two lists of customers in an answer, the last one counts');
my $name = q(SELECT kapture_get_customer('{"phone": "9874563725"}') ->> 'name');
my $find = q(SELECT id FROM kapture_find_customers('{"phone": "9874563725"}'));
my %said = (
	'"Ker\u00e9\u00C9"' => "Ker\xc3\xa9\xc3\x89", '"\u0041\n\/"' => "A\n/", "\"\xc3\xa9\"" => "\xc3\xa9",
	'"\u65e5"' => '?', '"\ud83d\ude00"' => '?', '"\ud83d"' => '?', '"\ud83d\u0041"' => '?A', '"\ude00"' => '?', '"\ud83dx"' => '?x', '"\u0000"' => '?',
	'"\u00g9"' => qr/HV00M/, '"\u00e"' => qr/HV00M/, '"\ud83d\u00g9"' => qr/HV00M/, "\"\\\n\"" => qr/HV00M/, "\"\\\0\"" => qr/HV00M/, "\"\\\xff\"" => qr/HV00M/);
foreach my $value (sort keys %said)
{
	my $got = outcome('latin', $name, "{\"name\": $value}");
	ref $said{$value} ? like($got, $said{$value}, "$value is refused in LATIN1") : is($got, $said{$value}, "$value is read in LATIN1");
}

# customers, none, and what is neither
is(outcome('postgres', $find, '{"status": "success", "Customer Details": [{"id": " 7 "}, {"id": 7.0}]}'), '7', 'a customer in an array, twice');
is(outcome('postgres', $find, '{"status": "success", "Customer Details": []}'), '', 'an empty array is nobody');
is(outcome('postgres', $find, '{"status": "success", "Customer Details": [{"id": 7}, {"id": 8}]}'), "7\n8", 'different customers');
is(outcome('postgres', $find, '{"status": "success", "Customer Details": [{"name": "x"}]}'), '', 'a customer without an id');
like(outcome('postgres', $find, '{"status": "success"}'), qr/HV000.*HTTP code 200 and no message/s, 'a success without customers is none');
like(outcome('postgres', $pull, '{"status": "success", "message": "x"}'), qr/HV000.*Kapture says: x/s, 'nor is a pull without a list');
is(outcome('postgres', $pull, '{"status": "success", "message": {"id": 9}}'), '1', 'a single customer may be no list');
like(outcome('postgres', $pull, '{"status": "failed", "message": "Invalid Auth Key"}'), qr/28000.*denied the pull request/s, 'a refused key, whatever the HTTP code');
like(outcome('postgres', $pull, '{"status": "failed", "message": " ,x' . ('y' x 2000) . ' , "}'), qr/Kapture says: xy{999}$/m, 'a long message is cut');
like(outcome('postgres', $pull, '{"status": "failed", "message": " ,no , "}'), qr/Kapture says: no$/m, 'and trimmed');
like(outcome('postgres', $pull, '{"x": ' . ('z' x 500) . '}'), qr/HV00M.*HTTP code 200; Token "z{193}\.\.\./s, 'so is what a parser says');

# windows of a direct pull: ids of all kinds, customers that come twice
is(outcome('postgres', "ALTER SERVER kapture OPTIONS (ADD pull_window '1 hour', ADD rate_limit '1000'); SELECT kapture_pull('2021-03-14 00:00:00', '2021-03-14 02:00:00') -> 'message'",
		'{"status": "success", "message": [{"id": 1}, {"id": "2"}, {"id": true}, {"id": "' . ('9' x 100) . '"}, 3]}'),
	'[{"id": 1}, {"id": "2"}, {"id": true}, {"id": "' . ('9' x 100) . '"}, 3, {"id": true}, {"id": "' . ('9' x 100) . '"}, 3]', 'customers with ids are taken once');

$node->stop;
done_testing();
