# Ctrl-C and statement_timeout end a direct call at once, wherever it waits;
# the connection is kept between the calls of a session.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::INET;
use KaptureTest;
use POSIX qw(:signal_h);
use PostgreSQL::Test::Utils;
use Test::More;

# A resolver that never answers for one name.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/resolver.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int (*next) (const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");

	while (node && strcmp(node, "hang.example") == 0)
		pause();
	return next(node, service, hints, result);
}
C
system_or_bail($ENV{CC} || 'cc', '-shared', '-fPIC', '-o', "$dir/resolver.so", "$dir/resolver.c", '-ldl');
local $ENV{LD_PRELOAD} = "$dir/resolver.so";

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator);

# A server whose queue of connections is full: further ones wait for good.
my $full = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!;
my @fill;
for (1 .. 8)
{
	push @fill, IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Blocking => 0);
}

# One that takes connections and then says nothing.
my $silent = IO::Socket::INET->new(Listen => 100, LocalAddr => '127.0.0.1') or die $!;

emulator_faults($emulator, { action => 'hang' });
my %url = (
	dns => 'https://hang.example',
	connect => 'http://127.0.0.1:' . $full->sockport,
	tls => 'https://127.0.0.1:' . $silent->sockport,
	read => $emulator->{url});

# Signals that other threads of a process than its first take.
sub threads_with_signals
{
	my ($pid) = @_;
	my @threads = grep { !m{/$pid$} } glob "/proc/$pid/task/*";
	my @open;

	cmp_ok(scalar @threads, '>', 0, 'there is another thread');
	foreach my $thread (@threads)
	{
		my ($blocked) = slurp_file("$thread/status") =~ /^SigBlk:\s+([0-9a-f]+)$/m or die $thread;
		push @open, grep { !(hex(substr $blocked, 8) & 1 << $_ - 1) } SIGHUP, SIGINT, SIGTERM, SIGALRM, SIGUSR1, SIGUSR2, SIGURG;
	}
	return @open;
}

foreach my $phase (sort keys %url)
{
	$node->safe_psql('postgres', qq(
CREATE SERVER $phase FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url{$phase}', timeout '1h', connect_timeout '1h');
CREATE USER MAPPING FOR PUBLIC SERVER $phase OPTIONS (auth_key 'k')));

	my ($rc, $out, $err) = $node->psql('postgres',
		"SET statement_timeout = '200ms'; SELECT kapture_get_customer('{\"phone\": \"9845765226\"}', '$phase')");
	like($err, qr/canceling statement due to statement timeout/, "$phase: statement_timeout ends the wait");

	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('SELECT pg_backend_pid()');
	$session->query_until(qr/started/, "\\echo started\nSELECT kapture_get_customer('{\"phone\": \"9845765226\"}', '$phase');\nSELECT 'alive';\n");
	ok($node->poll_query_until('postgres',
		"SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid"), "$phase: the call waits");
	is(join(' ', threads_with_signals($pid)), '', 'signals are blocked in the thread that resolves') if $phase eq 'dns';
	$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
	ok($node->poll_query_until('postgres', "SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $pid"),
		"$phase: cancel ends the wait");

	# and so does the end of the session
	$session->query_until(qr/again/, "\\echo again\nSELECT kapture_get_customer('{\"phone\": \"9845765226\"}', '$phase');\n");
	ok($node->poll_query_until('postgres',
		"SELECT wait_event_type = 'Extension' FROM pg_stat_activity WHERE pid = $pid"), "$phase: the next call waits");
	$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid"),
		"$phase: the session can be ended");
	eval { $session->quit };
}

# one connection for all calls of a session
emulator_faults($emulator);
$node->psql('postgres', "SELECT kapture_get_customer('{\"phone\": \"9845765226\"}') FROM generate_series(1, 3)");
my $before = emulator_get($emulator, 'stats');
$node->safe_psql('postgres', "SELECT kapture_get_customer(jsonb_build_object('phone', i)) FROM generate_series(1, 50) i;"
	  . " SELECT kapture_add_customer('{\"customer_name\": \"A\", \"phone\": \"9845765227\"}')");
my $after = emulator_get($emulator, 'stats');
is($after->{requests} - $before->{requests}, 51, '51 calls were made');
is($after->{connections} - $before->{connections}, 2, 'over one connection; the other is the one that asks this');

$node->stop;
done_testing();
