# TLS that is not what it should be, and HTTP/2 that nobody asked for: nothing is sent
# to whom we cannot trust, and every call ends with an error that says why.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use HostileServer;
use IO::Socket::SSL;
use IO::Socket::SSL::Utils;
use KaptureTest;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('main');
shorthand($node, undef, qw(sql));
my $dir = PostgreSQL::Test::Utils::tempdir();
my $phone = 9_400_000_000;
my $day = 24 * 3600;

# A certificate signed by an authority of ours, for this address unless told otherwise.
my ($ca, $ca_key) = CERT_create(CA => 1, subject => { commonName => 'Test authority' }, purpose => 'ca');
my ($rogue, $rogue_key) = CERT_create(CA => 1, subject => { commonName => 'Another authority' }, purpose => 'ca');
PEM_cert2file($ca, "$dir/ca.pem");

sub tls
{
	my (%with) = @_;
	my %cert = (subject => { commonName => '127.0.0.1' }, subjectAltNames => [ [ IP => '127.0.0.1' ], [ DNS => 'localhost' ] ],
		issuer => [ $ca, $ca_key ], purpose => 'server', %{ delete $with{cert} || {} });
	my ($cert, $key) = CERT_create(%cert);
	return (tls => { SSL_cert => $cert, SSL_key => $key, %with });
}

sql(q(
CREATE EXTENSION kapture_sync;
CREATE FUNCTION attempt(server name, phone text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	RETURN 'answer ' || kapture_add_customer(jsonb_build_object('customer_name', 'x', 'phone', phone), server)::text;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN translate(SQLSTATE || ' ' || SQLERRM || ' / ' || detail, E'\n', ' ');
END $$;
));

# What a call to such a server gets.
sub call
{
	my ($name, $server, $scheme, $options) = @_;
	$phone++;
	my ($rc, $out, $err) = $node->psql('postgres', "SET statement_timeout = '100s';"
		  . "CREATE SERVER $name FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$scheme://127.0.0.1:$server->{port}', add_path '/good', get_path '/get', max_response_size '1MB'"
		  . ($scheme eq 'https' ? ", ca_file '$dir/ca.pem'" : '') . ($options || '') . ');'
		  . "CREATE USER MAPPING FOR CURRENT_USER SERVER $name OPTIONS (auth_key 'c2VjcmV0'); SELECT attempt('$name', '$phone')");
	diag($err) if $err;
	return $out;
}

my $refused = qr/^08001 could not connect to server .* failed in this phase: the TLS handshake/;
my $good = qr/^answer .*"status": "success"/;

like(call('tls_good', start_hostile(tls()), 'https'), $good, 'a server with a good certificate is talked to');
my %untrusted = (
	wrong_host => [ tls(cert => { subject => { commonName => 'localhost' }, subjectAltNames => [ [ DNS => 'kapture.example.com' ], [ IP => '127.0.0.2' ] ] }) ],
	wrong_name_in_subject => [ tls(cert => { subject => { commonName => '127.0.0.1' }, subjectAltNames => [ [ DNS => 'kapture.example.com' ] ] }) ],
	expired => [ tls(cert => { not_before => time - 10 * $day, not_after => time - $day }) ],
	not_yet => [ tls(cert => { not_before => time + $day, not_after => time + 10 * $day }) ],
	self_signed => [ tls(cert => { issuer => undef }) ],
	another_authority => [ tls(cert => { issuer => [ $rogue, $rogue_key ] }) ],
	client_certificate => [ tls(cert => { purpose => 'client' }) ],
	tls_1_0 => [ tls(SSL_version => 'TLSv1', SSL_cipher_list => 'ALL:@SECLEVEL=0') ],
	tls_1_1 => [ tls(SSL_version => 'TLSv1_1', SSL_cipher_list => 'ALL:@SECLEVEL=0') ],
	no_authentication => [ tls(SSL_version => 'TLSv1_2', SSL_cipher_list => 'aNULL:@SECLEVEL=0') ]);
foreach my $name (sort keys %untrusted)
{
	my $server = start_hostile(@{ $untrusted{$name} });
	like(call("tls_$name", $server, 'https'), $refused, "$name: refused");
	is(scalar(hostile_log($server)), 0, 'and nothing was sent');
}
foreach my $name (qw(close reset garbage plain hang))
{
	my $server = start_hostile(at_once => $name);
	like(call("at_once_$name", $server, 'https', ", connect_timeout '1s'"), qr/^08001 could not connect/, "$name instead of a handshake: refused");
	is(scalar(hostile_log($server)), 0, 'and nothing was sent');
}
like(call('tls_for_plain', start_hostile(tls()), 'http', ", timeout '10s'"), qr/^08006 got no answer/, 'TLS where plain http is expected: no answer');
like(call('plain_for_tls', start_hostile(), 'https', ", connect_timeout '1s'"), $refused, 'plain http where TLS is expected: refused');

# --- what is wrong, and which option it takes, is reported whichever way the request went: a
# direct call, kapture_check, a row, a call that was queued
my $ca_file = qr/self-signed, or a private authority issued it,.* in option "ca_file" of the server/;
my %hints = (
	tls_self_signed => $ca_file,
	tls_another_authority => $ca_file,
	tls_client_certificate => qr/certificate is not accepted: .*"ca_file"/,
	tls_wrong_host => qr/certificate is another host's: option "url" of the server/,
	tls_expired => qr/certificate has expired: have whoever runs the host renew it/,
	tls_not_yet => qr/certificate is not valid yet: see whether this host's clock/,
	at_once_plain => qr/port does not speak TLS: check the port in option "url"/,
	at_once_hang => qr/port may not speak TLS.* check option "?url/,
	tls_tls_1_1 => qr/not the versions that are allowed: check option "url"|certificate or TLS is not accepted/);
my @servers = sort keys %hints;
sql("CREATE TABLE $_ (id int PRIMARY KEY, customer_name text, phone text);"
	  . "SELECT kapture_attach('$_', server => '$_')") foreach @servers;
sql("ALTER SERVER at_once_plain OPTIONS (SET connect_timeout '10s')");
sql("INSERT INTO $_ VALUES (1, 'x', '9500000001'); SELECT kapture_send('ticket_add', '{}', '$_', retry => 'always')") foreach @servers;
foreach my $server (@servers)
{
	my ($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_add_customer('{\"phone\": \"9500000001\"}', '$server')");
	like($err, qr/HINT:  .*$hints{$server}/i, "$server: a direct call");
	like(sql("SELECT hint FROM kapture_check('$server') WHERE step = 'tls'"), qr/$hints{$server}/i, 'kapture_check');
	poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE relation = '$server'::regclass", 'a row fails');
	like(sql("SELECT hint FROM kapture_failures WHERE relation = '$server'::regclass"), qr/$hints{$server}/i, 'its hint');
	poll_ok($node, "SELECT message <> '' FROM kapture_calls WHERE server = '$server'", 'a call fails');
	like(sql("SELECT kapture_hint(message, http_status) FROM kapture_calls WHERE server = '$server'"), qr/$hints{$server}/i, 'and its hint');
}
sql("SELECT kapture_detach('$_')") foreach @servers;

# --- what is no file of certificates: nobody waits for it
mkfifo("$dir/pipe", 0644) or die "mkfifo: $!";
append_to_file("$dir/$_", "no certificates\n") foreach qw(text large);
truncate("$dir/large", 17 << 20) or die "$dir/large: $!";
my $no_certificates = qr/^HV024 invalid value for option "ca_file": "\Q$dir\E\/[^"]*" \/ There is no file of certificates in PEM format, of at most 16 MB, that the server can read\.$/;
# certificates that begin in the second block that is read, and between the first two
append_to_file("$dir/$_", 'x' x ($_ eq 'second' ? 8200 : 8180) . "\n" . slurp_file("$dir/ca.pem") . 'x' x 8200 . "\n") foreach qw(second between);
foreach my $case ((map { [ $_, $no_certificates ] } 'pipe', '.', 'large', 'text', 'missing', 'missing/file', 'text/file'), map { [ $_, $good ] } qw(second between ca.pem))
{
	my ($file, $says) = @$case;
	$phone++;
	like(sql("ALTER SERVER tls_good OPTIONS (SET ca_file '$dir/$file'); SELECT attempt('tls_good', '$phone')"), $says, "ca_file $file");
}

# --- HTTP/1.1 is what is spoken; a server that speaks HTTP/2 all the same has no answer
my $offers = start_hostile(tls(SSL_alpn_protocols => [ 'h2', 'http/1.1' ]));
like(call('h2_offered', $offers, 'https'), $good, 'a server that offers HTTP/2 is talked to');
is(join(' ', grep { /^agreed/ } hostile_log($offers)), 'agreed on http/1.1', 'by HTTP/1.1');
foreach my $mode (qw(h2_good h2_goaway h2_endless_data h2_ping_flood h2_silence))
{
	my $server = start_hostile(tls(SSL_alpn_protocols => ['h2']), http2 => $mode);
	like(call($mode, $server, 'https', ", timeout '5s'"), qr/^(?:08006|HV000) got no answer from server/, "$mode: no answer");
	cmp_ok(scalar(grep { /^added / } hostile_log($server)), '<=', 1, 'and not sent twice');
}

$node->stop;
done_testing();
