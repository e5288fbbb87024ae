# A request that fails says how far it came, and which option's limit it hit.
use strict;
use warnings;

use File::Temp qw(tempdir);
use FindBin;
use IO::Socket::INET;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = tempdir(CLEANUP => 1);
my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator);

# takes connections in, but nothing that is sent
my $deaf = IO::Socket::INET->new(Listen => 5, LocalAddr => '127.0.0.1') or die "could not listen: $!";
my $listens = '127.0.0.1:' . $deaf->sockport;

sub fails_at
{
	my ($phase, $option, $url, $options, $padding) = @_;
	my $name = $phase . ($option ? ", limited by $option" : '');
	my ($rc, $out, $err) = $node->psql('postgres', sprintf(q(
SET client_min_messages = error;
DROP SERVER IF EXISTS failing CASCADE;
CREATE SERVER failing FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '%s'%s);
CREATE USER MAPPING FOR PUBLIC SERVER failing OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SELECT kapture_add_customer(jsonb_build_object('customer_name', 'Direct', 'phone', '9000000002', 'city', repeat('x', %d)), 'failing')),
		$url, $options, $padding || 1));
	like($err, qr/DETAIL:  The add request failed in this phase: \Q$phase\E \(/, "$name: the detail");
	like($err, qr/HINT:  .*"?\b$option\b"?/, "$name: the hint") if $option;
	return;
}

fails_at('resolving the host name', undef, 'https://kapture.invalid', ", connect_timeout '20s'");
fails_at('connecting', undef, 'https://127.0.0.1:1', '');
fails_at('the TLS handshake', 'connect_timeout', "https://$listens", ", connect_timeout '2s'");
fails_at('sending the request', 'timeout', "http://$listens", ", timeout '3s'", 20_000_000);
fails_at('waiting for the answer', 'timeout', "http://$listens", ", timeout '2s'");
emulator_faults($emulator, { api => 'add', action => 'endless' });
fails_at('reading the answer', 'max_response_size', $emulator->{url}, ", max_response_size '1MB'");
emulator_faults($emulator, { api => 'add', action => 'truncate' });
fails_at('reading the answer', undef, $emulator->{url}, '');

done_testing();
