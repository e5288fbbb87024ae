# Whatever a server does, a call ends in bounded time and memory with an error
# that says what was wrong, and the worker loses nothing and adds nobody twice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use HostileServer;
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');
shorthand($node, undef, qw(sql));
my $hostile = start_hostile(processes => 50);
my @modes = hostile_modes();
my $phone = 9_000_000_000;

sql(q(
CREATE EXTENSION kapture_sync;
-- the answer, or the error with all that belongs to it, on one line
CREATE FUNCTION attempt(server name, phone text, who text DEFAULT 'x') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	RETURN 'answer ' || kapture_add_customer(jsonb_build_object('customer_name', who, 'phone', phone), server)::text;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN translate(SQLSTATE || ' ' || SQLERRM || ' / ' || detail || ' / ' || hint, E'\n', ' ');
END $$;
CREATE FUNCTION memory(pid text DEFAULT 'self') RETURNS int
	RETURN (regexp_match(pg_read_file('/proc/' || pid || '/status'), 'VmHWM:\s+(\d+)'))[1]::int;
));

# SQL that makes a server and a mapping.
sub server
{
	my ($name, $url, $options) = @_;
	return "CREATE SERVER $name FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url', update_path '/good', get_path '/get', max_response_size '1MB'"
	  . ($options ? ", $options" : '') . "); CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (auth_key 'c2VjcmV0');\n";
}

# Runs a script of SELECT name, attempt(...) in one session; returns what each got.
sub attempts
{
	my ($script) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = '100s'; SET client_min_messages = error;\n$script", on_error_stop => 0);
	is($err, '', 'no error but those that were caught') if $err;
	return map { /^(\w+)\|(.*)$/ ? ($1, $2) : () } split /\n/, $out;
}

# --- direct calls: what is said about each misbehaviour
my $too_large = qr/^HV000 got no answer .*reading the answer \(the answer is too large\).*may or may not.*"max_response_size" of the server, 1048576 bytes/;
my $headers = qr/^HV000 got no answer .*(the answer's headers are too large|a header of the answer is too long)/;
my $slow = qr/^08006 got no answer .*timed out.*may or may not.*option "timeout" of the server, 1000 ms/;
my $lost = qr/^(?:08006 got no answer .*|HV00M answer of server .* is empty\.) .*may or may not/;
my $cut_off = qr/^08006 got no answer .*may or may not.*Look for the customer/;
my $not_json = qr/^HV00M answer of server .* is not JSON/;
my $redirect = qr/^HV00M .*HTTP code 30[278] and is empty.*Redirects are not followed/;
my $good = qr/^answer .*"status": "success"/;
my @expected = (
	[ $good, qw(good many_cookies folded_header early_hints status_999 status_bare http_2_clear length_none length_two length_huge chunk_good chunk_and_length
		negative_id zero_id fraction_id id_is_object no_id close_quietly two_answers
		nul_body nul_escape bad_utf8 long_utf8 lone_surrogate huge_exponent huge_number) ],
	[ $too_large, qw(endless_body chunk_endless length_over_limit deep_objects gzip_bomb gzip_transfer) ],
	[ $headers, qw(endless_headers one_endless_header headers_100mb endless_status endless_continue endless_trailers) ],
	[ $slow, qw(drip_headers drip_continue drip_body drip_chunks hang status_101 chunk_extension) ],
	[ $cut_off, qw(status_000 status_short status_negative http_09 http_99 icy length_long length_negative chunk_huge chunk_negative chunk_nonsense chunk_short
		encoding_chain chunk_no_end no_colon nul_header close_after_request reset_after_request one_byte reset_in_body) ],
	[ $redirect, qw(redirect_file redirect_host redirect_scheme) ],
	[ $not_json, qw(status_204 status_304 length_short redirect_refresh empty blank utf16
		deep_arrays no_end two_values html_page status_ntlm) ],
	[ qr/^answer (5|null|\[\]|\{\})$/, qw(scalar null list status_407) ],
	[ qr/^answer \{"k1": 1/, 'many_keys' ],
	[ qr/^answer .*slow down/, map { "retry_$_" } qw(negative huge far past words empty float zero exponent) ]);
my %expected = map { my ($what, @names) = @$_; map { $_ => $what } @names } @expected;
is(join(' ', sort keys %expected), join(' ', hostile_modes()), 'each misbehaviour has its expectation');
my $script = '';
foreach my $mode (hostile_modes())
{
	# the next one must not be sent on the connection that this one has closed
	my $host = $mode eq 'close_quietly' ? 'localhost' : '127.0.0.1';
	$script .= server("h_$mode", "http://$host:$hostile->{port}", "add_path '/$mode'" . ($expected{$mode} eq $slow ? ", timeout '1s'" : ''))
	  . "SELECT '$mode', attempt('h_$mode', '" . ++$phone . "');\n";
}
my %got = attempts("$script SELECT 'memory', memory()");
# newer versions of libcurl take less
my %newer = (
	endless_status => qr/grew larger than allowed/,
	one_endless_header => qr/grew larger than allowed/,
	gzip_transfer => qr/Unsolicited Transfer-Encoding/,
	http_2_clear => qr/Version mismatch/,
	length_two => qr/Invalid Content-Length/);
like($got{$_}, $newer{$_} ? qr/$expected{$_}|^08006 got no answer .*$newer{$_}/ : $expected{$_}, "a call, $_") foreach hostile_modes();
memory_ok($got{memory}, 64 * 1024, 'in bounded memory');
is(scalar(grep { /^added / } hostile_log($hostile)), scalar(@modes), 'each was sent once');
is(scalar(grep { !/^added / } hostile_log($hostile)), scalar(@modes), 'and no more');

# --- an answer that is cut anywhere
my $length = hostile_reply_length('9100000000');
sql(server('cut', "http://127.0.0.1:$hostile->{port}", "add_path '/cut'"));
%got = attempts("SELECT 'at' || n, attempt('cut', (9100000000 + n)::text, 'cut ' || n) FROM generate_series(0, $length) n");
like($got{"at$length"}, $good, 'a whole answer is one');
is(join(' ', grep { $got{"at$_"} !~ $lost } 0 .. $length - 1), '', "an answer cut at any of its $length bytes is none, and is said to be lost");

# --- connections that end between two requests: never sent again by itself
foreach my $mode (qw(close_quietly second_lost two_answers))
{
	sql(server("again_$mode", "http://127.0.0.1:$hostile->{port}", "add_path '/$mode'"));
	my $before = hostile_log($hostile);
	%got = attempts("SELECT 'n' || n, attempt('again_$mode', (9200000000 + " . ++$phone % 1000 * 1000 . " + n)::text) FROM generate_series(1, 40) n");
	my @log = hostile_log($hostile);
	my %times;
	$times{$_}++ foreach grep { !/^added/ } @log[ $before .. $#log ];
	is(scalar(grep { $_ > 1 } values %times), 0, "$mode: no request arrived twice");
	is(scalar(grep { $got{"n$_"} !~ /$good|$lost/ } 1 .. 40), 0, "$mode: a call has its answer, or is said to be lost");
	is(scalar(grep { $got{"n$_"} =~ /not yours/ } 1 .. 40), 0, "$mode: no call has another's answer");
}

# --- the worker
my $worker = sql("SELECT kapture_worker_pid()");
my @rows;
$script = '';
foreach my $mode (hostile_modes())
{
	push @rows, [ $mode, ++$phone ];
	$script .= server("w_$mode", "http://127.0.0.1:$hostile->{port}", "add_path '/once_$mode', timeout '" . ($expected{$mode} eq $slow ? 1 : 4) . "s'")
	  . "CREATE TABLE t_$mode (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);\n"
	  . "SELECT kapture_attach('t_$mode', server => 'w_$mode');\nINSERT INTO t_$mode VALUES (1, '$mode', '$phone');\n";
}
$script .= server('w_cut', "http://127.0.0.1:$hostile->{port}", "add_path '/once_cut', timeout '4s'")
  . "CREATE TABLE t_cut (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);\n"
  . "SELECT kapture_attach('t_cut', server => 'w_cut');\n"
  . "INSERT INTO t_cut SELECT n, 'cut ' || n, 9300000000 + n FROM generate_series(0, $length, 13) n;\n";
sql($script);
my $all = join ' UNION ALL ', map { "SELECT * FROM t_$_" } hostile_modes(), 'cut';
# what asked for more patience than a test has
poll_ok($node, "SELECT sum(pending + in_flight + retrying) <= 3 FROM kapture_status WHERE relation <> 't_cut'::regclass", 'all but three have come through by themselves');
foreach my $patience (qw(retry_far retry_huge))
{
	is(sql("SELECT kapture_customer_id IS NULL FROM t_$patience"), 't', "$patience: Retry-After is heeded");
	is(scalar(grep { /^once_$patience / } hostile_log($hostile)), 1, 'without asking again');
}
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE state = 'parked' AND message LIKE '%HTTP code 407'", 'a refusal parks the row');
sql("SELECT kapture_retry('t_status_407')");
my $seconds = 5;
wait_for(sub {
	# a server that changes is tried anew
	sql("ALTER SERVER w_$_ OPTIONS (SET timeout '${seconds}s')") foreach qw(cut retry_far retry_huge status_ntlm);
	$seconds = 9 - $seconds;
	return sql("SELECT count(*) FROM ($all) a WHERE kapture_customer_id IS NULL") == 0;
}, 'every row to have its id');
pass('every row has its id in the end');
is(sql("SELECT count(*) FROM ($all) a WHERE kapture_customer_id <> substr(phone, 2)::bigint + 1000"), '0', 'its own');
poll_ok($node, "SELECT sum(pending + in_flight + retrying + parked) = 0 FROM kapture_status", 'nothing is left');
my %added;
$added{$_}++ foreach grep { /^added / } hostile_log($hostile);
is(join(' ', grep { $added{$_} > 1 } sort keys %added), '', 'nobody was added twice');
is(sql("SELECT kapture_worker_pid()"), $worker, 'by the same worker');
memory_ok(sql("SELECT memory('$worker')"), 128 * 1024, 'in bounded memory');

# the owner of a server has no say in what a process takes that all share
sql(server('w_pulled', "http://127.0.0.1:$hostile->{port}", "pull_path '/endless_body', pull_interval '1s', timeout '60s'") =~ s/max_response_size '1MB'/max_response_size '1GB'/r);
poll_ok($node, "SELECT last_error LIKE '%the answer has more than the 64 MB that a background process takes%' FROM kapture_pull_status WHERE server = 'w_pulled'", 'a pull of a gigabyte is refused')
  || diag(sql("SELECT last_error FROM kapture_pull_status"));
memory_ok(sql("SELECT memory(kapture_puller_pid()::text)"), 192 * 1024, 'before it is in memory');

$node->stop;
done_testing();
