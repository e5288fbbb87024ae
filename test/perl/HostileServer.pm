# A server that misbehaves, for tests: raw sockets, a few processes.
# The path of a request says how: http://127.0.0.1:PORT/MODE.  What arrives is
# written down, so that a test can tell how often.
#
# Adds are carried out before the misbehaviour, as a server does whose answer is
# lost on the way: the id of a customer follows from the phone, a Get finds who
# was added.  A mode "once_MODE" misbehaves at the first Add of each phone only.
package HostileServer;

use strict;
use warnings;

use Exporter 'import';
use Fcntl qw(:flock);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_hostile hostile_log hostile_reply_length hostile_modes hostile_id);

my @pids;
my ($kilo, $mega) = (1000, 1_000_000);    # variables, lest Perl makes the long strings when it compiles
my $mine = $$;

# The id of the customer with this phone.
sub hostile_id { return substr($_[0], 1) + 1000; }

# The answer to an Add, as Kapture gives it.
sub good_answer
{
	my ($phone) = @_;
	return '{"Enquiry":{"cmId":2469,"phone":"' . $phone . '","kapture_customer_id":' . hostile_id($phone)
	  . ',"contact_id":1},"message":"Added well","status":"success"}';
}

sub reply
{
	my ($body, %with) = @_;
	my $status = $with{status} || ($body =~ /already exists/ ? '400 Bad Request' : '200 OK');
	my $connection = $with{keep} ? '' : "Connection: close\r\n";
	return "HTTP/1.1 $status\r\n$connection" . ($with{headers} || '') . "Content-Type: application/json\r\nContent-Length: " . length($body) . "\r\n\r\n$body";
}

# Sends until the other side has had enough; at most $max times.
sub endless
{
	my ($s, $text, $pause, $max) = @_;
	for (1 .. $max || 10_000_000)
	{
		return unless print $s $text;
		usleep($pause * 1000) if $pause;
	}
	return;
}

sub reset_connection
{
	my ($s) = @_;
	setsockopt($s, SOL_SOCKET, SO_LINGER, pack('II', 1, 0));
	return;
}

# Says nothing until the other side gives up.
sub wait_for_end
{
	my ($s) = @_;
	1 while sysread $s, my $more, 65536;
	return;
}

# 100 kB that become 100 MB
sub bomb
{
	require Compress::Zlib;
	return Compress::Zlib::memGzip("\0" x (100 * $mega));
}

# What each mode does with the socket and the good answer to the request.
my %modes = (
	good => sub { my ($s, $a) = @_; print $s reply($a, keep => 1) },

	# headers
	endless_headers => sub { my ($s) = @_; print $s "HTTP/1.1 200 OK\r\n"; endless($s, "X-Filler: " . 'a' x 1000 . "\r\n") },
	one_endless_header => sub { my ($s) = @_; print $s "HTTP/1.1 200 OK\r\nX-Filler: "; endless($s, 'a' x 65536, 0, 1600) },
	headers_100mb => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\n"; endless($s, ("X-Filler: " . 'a' x 1000 . "\r\n"), 0, 100 * $kilo); print $s "\r\n$a" },
	endless_status => sub { my ($s) = @_; endless($s, 'HTTP/1.1 200 OK ' x 1000) },
	endless_continue => sub { my ($s) = @_; endless($s, "HTTP/1.1 100 Continue\r\n\r\n") },
	drip_headers => sub { my ($s) = @_; print $s "HTTP/1.1 200 OK\r\n"; endless($s, "X-A: b\r\n", 50) },
	drip_continue => sub { my ($s) = @_; endless($s, "HTTP/1.1 100 Continue\r\n\r\n", 50) },
	drip_body => sub { my ($s) = @_; print $s "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{"; endless($s, ' ', 50) },
	drip_chunks => sub { my ($s) = @_; print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"; endless($s, "1\r\n \r\n", 50) },
	many_cookies => sub { my ($s, $a) = @_; print $s reply($a, headers => join '', map { "Set-Cookie: c$_=" . 'v' x 20 . "\r\n" } 1 .. 500) },
	nul_header => sub { my ($s, $a) = @_; print $s reply($a, headers => "X-A: a\0b\r\n") },
	folded_header => sub { my ($s, $a) = @_; print $s reply($a, headers => "X-A: a\r\n b\r\n\tc\r\n") },
	no_colon => sub { my ($s, $a) = @_; print $s reply($a, headers => "nonsense\r\n") },
	early_hints => sub { my ($s, $a) = @_; print $s "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" x 3 . reply($a) },

	# status lines
	status_999 => sub { my ($s, $a) = @_; print $s reply($a, status => '999 Odd') },
	status_000 => sub { my ($s, $a) = @_; print $s reply($a, status => '000 Nothing') },
	status_short => sub { my ($s, $a) = @_; print $s reply($a, status => '20') },
	status_negative => sub { my ($s, $a) = @_; print $s reply($a, status => '-200 OK') },
	status_bare => sub { my ($s, $a) = @_; print $s reply($a, status => '200') },
	status_101 => sub { my ($s, $a) = @_; print $s "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n$a"; wait_for_end($s) },
	status_204 => sub { my ($s) = @_; print $s "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n" },
	status_304 => sub { my ($s) = @_; print $s "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n" },
	status_407 => sub { my ($s, $a) = @_; print $s reply('{}', status => '407 Proxy Authentication Required', headers => "Proxy-Authenticate: Basic realm=x\r\n") },
	status_ntlm => sub { my ($s, $a) = @_; print $s reply('', status => '401 Unauthorized', headers => "WWW-Authenticate: NTLM\r\nWWW-Authenticate: Negotiate\r\n") },
	http_09 => sub { my ($s, $a) = @_; print $s $a },
	http_99 => sub { my ($s, $a) = @_; print $s reply($a) =~ s/HTTP\/1.1/HTTP\/9.9/r },
	http_2_clear => sub { my ($s, $a) = @_; print $s reply($a) =~ s/HTTP\/1.1/HTTP\/2/r },
	icy => sub { my ($s, $a) = @_; print $s reply($a) =~ s/HTTP\/1.1/ICY/r },

	# lengths and chunks
	length_long => sub { my ($s, $a) = @_; print $s reply($a) =~ s/Length: \d+/Length: 100000/r },
	length_short => sub { my ($s, $a) = @_; print $s reply($a) =~ s/Length: \d+/Length: 10/r },
	length_huge => sub { my ($s, $a) = @_; print $s reply($a) =~ s/Length: \d+/Length: 99999999999999999999999/r },
	length_negative => sub { my ($s, $a) = @_; print $s reply($a) =~ s/Length: \d+/Length: -5/r },
	length_two => sub { my ($s, $a) = @_; print $s reply($a, headers => "Content-Length: 3\r\n") },
	length_none => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\n\r\n$a" },
	length_over_limit => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"; endless($s, ' ' x 1000, 0, 3000) },
	endless_body => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\n\r\n"; endless($s, ' ' x 65536) },
	chunk_good => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" . join('', map { "1\r\n$_\r\n" } split //, $a) . "0\r\nX-Trailer: t\r\n\r\n" },
	chunk_and_length => sub { my ($s, $a) = @_; printf $s "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", length $a, $a },
	chunk_huge => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\n$a" },
	chunk_negative => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n$a\r\n0\r\n\r\n" },
	chunk_nonsense => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n$a\r\n0\r\n\r\n" },
	chunk_short => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n$a" },
	chunk_no_end => sub { my ($s, $a) = @_; printf $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", length $a, $a },
	chunk_endless => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"; endless($s, "ffff\r\n" . ' ' x 65535 . "\r\n") },
	chunk_extension => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x="; endless($s, 'a' x 65536) },
	endless_trailers => sub { my ($s, $a) = @_; print $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"; endless($s, "X-Filler: " . 'a' x 1000 . "\r\n") },
	gzip_bomb => sub { my ($s) = @_; print $s reply(bomb(), headers => "Content-Encoding: gzip\r\n") },
	gzip_transfer => sub { my ($s) = @_; my $b = bomb(); printf $s "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", length $b, $b },
	encoding_chain => sub { my ($s, $a) = @_; print $s reply($a, headers => 'Content-Encoding: ' . join(', ', ('gzip') x 1000) . "\r\n") },

	# where to go
	redirect_file => sub { my ($s) = @_; print $s reply('', status => '302 Found', headers => "Location: file:///etc/passwd\r\n") },
	redirect_host => sub { my ($s) = @_; print $s reply('', status => '307 Temporary Redirect', headers => "Location: http://127.0.0.1:" . $s->sockport . "/good\r\n") },
	redirect_scheme => sub { my ($s) = @_; print $s reply('', status => '308 Permanent Redirect', headers => "Location: gopher://127.0.0.1:1/_x\r\n") },
	redirect_refresh => sub { my ($s) = @_; print $s reply('', headers => "Refresh: 0; url=/good\r\nAlt-Svc: h3=\":443\"\r\n") },

	# bodies
	empty => sub { my ($s) = @_; print $s reply('') },
	blank => sub { my ($s) = @_; print $s reply(" \n ") },
	scalar => sub { my ($s) = @_; print $s reply('5') },
	null => sub { my ($s) = @_; print $s reply('null') },
	list => sub { my ($s, $a) = @_; print $s reply('[]') },
	nul_body => sub { my ($s, $a) = @_; print $s reply($a =~ s/Added/A\0ded/r) },
	nul_escape => sub { my ($s, $a) = @_; print $s reply($a =~ s/Added/A\\u0000ded/r) },
	bad_utf8 => sub { my ($s, $a) = @_; print $s reply($a =~ s/Added/A\xff\xfeded/r) },
	long_utf8 => sub { my ($s, $a) = @_; print $s reply($a =~ s/Added/A\xc0\x80ded/r) },
	lone_surrogate => sub { my ($s, $a) = @_; print $s reply($a =~ s/Added/A\\ud800ded/r) },
	utf16 => sub { my ($s, $a) = @_; print $s reply("\xff\xfe" . join '', map { "$_\0" } split //, $a) },
	deep_arrays => sub { my ($s) = @_; print $s reply('[' x (900 * $kilo)) },
	deep_objects => sub { my ($s) = @_; print $s reply('{"a":' x (180 * $kilo) . '1' . '}' x (180 * $kilo)) },
	huge_exponent => sub { my ($s, $a) = @_; print $s reply($a =~ s/"kapture_customer_id":\d+/"kapture_customer_id":1e999999999/r) },
	huge_number => sub { my ($s, $a) = @_; print $s reply($a =~ s/"kapture_customer_id":\d+/'"kapture_customer_id":' . '9' x (200 * $kilo)/er) },
	negative_id => sub { my ($s, $a) = @_; print $s reply($a =~ s/"kapture_customer_id":/"kapture_customer_id":-/r) },
	zero_id => sub { my ($s, $a) = @_; print $s reply($a =~ s/"kapture_customer_id":\d+/"kapture_customer_id":0/r) },
	fraction_id => sub { my ($s, $a) = @_; print $s reply($a =~ s/"kapture_customer_id":(\d+)/"kapture_customer_id":$1.5/r) },
	id_is_object => sub { my ($s, $a) = @_; print $s reply($a =~ s/"kapture_customer_id":(\d+)/"kapture_customer_id":{"a":$1}/r) },
	no_id => sub { my ($s, $a) = @_; print $s reply($a =~ s/"kapture_customer_id":\d+,?//r) },
	many_keys => sub { my ($s, $a) = @_; print $s reply('{' . join(',', map { "\"k$_\":$_" } 1 .. 50_000) . '}') },
	no_end => sub { my ($s, $a) = @_; print $s reply(substr($a, 0, -1)) },
	two_values => sub { my ($s, $a) = @_; print $s reply("$a$a") },
	html_page => sub { my ($s, $a) = @_; print $s reply('<html><body>' . 'x' x (500 * $kilo) . '</body></html>') },

	# connections
	close_after_request => sub { },
	reset_after_request => sub { reset_connection($_[0]) },
	one_byte => sub { my ($s) = @_; print $s 'H' },
	reset_in_body => sub { my ($s, $a) = @_; print $s substr(reply($a), 0, -5); $s->flush; usleep(50_000); reset_connection($s) },
	hang => sub { wait_for_end($_[0]) },
	close_quietly => sub { my ($s, $a) = @_; print $s reply($a, keep => 1) },    # without saying so
	two_answers => sub { my ($s, $a) = @_; print $s reply($a, keep => 1) . reply('{"message": "not yours", "status": "success", "kapture_customer_id": 666}') },

	# 429 in all its forms
	(map {
		my ($name, $value) = @$_;
		("retry_$name" => sub { my ($s) = @_; print $s reply('{"message": "slow down", "status": "failed"}', status => '429 Too Many Requests', headers => "Retry-After: $value\r\n") })
	} ([ 'negative', '-5' ], [ 'huge', '9' x 30 ], [ 'far', 'Fri, 31 Dec 9999 23:59:59 GMT' ], [ 'past', 'Thu, 01 Jan 1970 00:00:00 GMT' ],
		[ 'words', 'soon' ], [ 'empty', '' ], [ 'float', '1.5' ], [ 'zero', '0' ], [ 'exponent', '1e3' ])));

# The length of a good answer, with its headers.
sub hostile_reply_length { return length reply(good_answer($_[0])); }

sub hostile_modes { return sort keys %modes; }

# HTTP/2 frames by hand: length, type, flags, stream, payload.
sub frame
{
	my ($type, $flags, $stream, $payload) = @_;
	return substr(pack('N', length $payload), 1) . pack('CCN', $type, $flags, $stream) . $payload;
}

my %h2 = (
	h2_goaway => sub { print { $_[0] } frame(7, 0, 0, pack('NN', 0, 0)) },
	h2_endless_data => sub { print { $_[0] } frame(1, 4, 1, "\x88"); endless($_[0], frame(0, 0, 1, ' ' x 16000), 0, 100_000) },
	h2_ping_flood => sub { endless($_[0], frame(6, 0, 0, 'pingpong'), 0, 1_000_000) },
	h2_good => sub { my ($s, $a) = @_; print $s frame(1, 4, 1, "\x88") . frame(0, 1, 1, $a); wait_for_end($s) },
	h2_silence => sub { wait_for_end($_[0]) });

# One request; its head and body, or nothing.
sub read_request
{
	my ($s) = @_;
	my $text = '';
	while ($text !~ /\r\n\r\n/)
	{
		# who is idle gives way
		return unless $text ne '' || ($s->can('pending') && $s->pending) || IO::Select->new($s)->can_read(2);
		return unless sysread $s, $text, 65536, length $text;
	}
	my ($head, $body) = split /\r\n\r\n/, $text, 2;
	my ($length) = $head =~ /^Content-Length: (\d+)/mi;
	while (length $body < ($length || 0))
	{
		return unless sysread $s, $body, 65536, length $body;
	}
	return ($head, $body);
}

sub note
{
	my ($dir, $line) = @_;
	open my $f, '>>', "$dir/log" or die $!;
	flock $f, LOCK_EX;
	print $f "$line\n";
	close $f;
	return;
}

# Does what a request asks for; returns the good answer and whether it is the
# first Add of this phone.
sub carry_out
{
	my ($dir, $path, $body) = @_;
	my ($phone) = $body =~ /"phone" ?: ?"(\d+)"/;
	if ($body =~ /"kapture_customer_id" ?: ?"?(\d+)/)
	{
		return (good_answer(sprintf '9%09d', $1 - 1000), 0);
	}
	return ('{"message": "nothing", "status": "failed"}', 0) unless $phone;
	if ($path =~ /^get/)
	{
		return (encode_json({ status => 'success',
				'Customer Details' => { id => hostile_id($phone) + 0, name => 'x', companyPhone => $phone, contacts => [ { phone => $phone } ] } }), 0) if -e "$dir/$phone";
		return ('{"Customer Details": "Information given by you does not exist in our sytsem.", "status": "failed"}', 0);
	}
	my $first = mkdir "$dir/$phone";
	note($dir, "added $phone") if $first;
	return ($first ? good_answer($phone)
		: '{"message": "This mobile number already exists. Please enter a new one.", "status": "failed"}', $first);
}

sub serve_http
{
	my ($s, $dir, %with) = @_;
	my $n = 0;
	while (my ($head, $body) = read_request($s))
	{
		my ($mode) = $head =~ m{^POST /(\S*)};
		$n++;
		note($dir, "$mode $body");
		my ($answer, $first) = carry_out($dir, $mode, $body);
		if ($mode =~ /^second_lost/ && $n > 1) { return; }
		my ($what) = $mode =~ /^(?:once_)?(\w+)/;
		$what = 'good' if ($mode =~ /^once_/ && !$first) || $what =~ /^(get|second_lost)/;
		if ($what eq 'cut')
		{
			my ($at) = $body =~ /cut (\d+)/;
			print $s substr(reply($answer), 0, $at);
			return;
		}
		$modes{$what}->($s, $answer);
		return unless $what =~ /^(good|two_answers)$/;
	}
	return;
}

sub serve_http2
{
	my ($s, $dir, $mode) = @_;
	my $text = '';
	print $s frame(4, 0, 0, '');
	while ($text !~ /"phone" ?: ?"\d+"/)
	{
		return unless sysread $s, $text, 65536, length $text;
	}
	my ($body) = $text =~ /(\{"[^{}]*\})/;
	note($dir, "$mode $body");
	my ($answer) = carry_out($dir, $mode, $body);
	$h2{$mode}->($s, $answer);
	return;
}

sub serve
{
	my ($s, $dir, %with) = @_;
	$s->autoflush;
	if ($with{tls})
	{
		require IO::Socket::SSL;
		IO::Socket::SSL->start_SSL($s, SSL_server => 1, %{ $with{tls} }) or return;
		binmode $s;
		note($dir, 'agreed on ' . ($s->alpn_selected || 'nothing')) if $with{tls}{SSL_alpn_protocols};
	}
	my $at_once = $with{at_once} || '';
	if ($at_once eq 'close') { return; }
	if ($at_once eq 'reset') { return reset_connection($s); }
	if ($at_once eq 'hang') { return wait_for_end($s); }
	if ($at_once eq 'garbage') { print $s "\x16\x03\x01\xff\xff" . 'x' x (100 * $kilo); return; }
	if ($at_once eq 'plain') { print $s "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"; return; }
	return $with{http2} ? serve_http2($s, $dir, $with{http2}) : serve_http($s, $dir, %with);
}

sub serve_connections
{
	my ($listen, $dir, %with) = @_;
	$SIG{PIPE} = 'IGNORE';
	$SIG{ALRM} = sub { die "too long\n" };
	while (1)
	{
		my $s = $listen->accept or next;
		alarm 60;
		eval { serve($s, $dir, %with); 1 } or print STDERR $@;
		alarm 0;
		# a connection whose handshake failed has no TLS to close
		if ($s->isa('IO::Socket::SSL')) { $s->close(SSL_no_shutdown => 1); }
		else { close $s; }
	}
	return;
}

# Starts a server; returns { port, dir }.  tls: arguments of IO::Socket::SSL;
# http2: the mode of a server that speaks it, whatever was agreed on; at_once: what it does before any
# request.
sub start_hostile
{
	my (%with) = @_;
	my $dir = tempdir('kapture_hostileXXXX', TMPDIR => 1, CLEANUP => 1);
	my $listen = IO::Socket::INET->new(Listen => 128, LocalAddr => '127.0.0.1', ReuseAddr => 1) or die "listen: $!";
	my $port = $listen->sockport;
	my $pid = fork // die $!;
	if ($pid == 0)
	{
		setpgrp;
		open STDIN, '<', '/dev/null';
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', $ENV{HOSTILE_STDERR} || '/dev/null';
		# made beforehand: a busy machine takes its time to fork
		for (2 .. $with{processes} || 4) { fork or last; }
		eval { serve_connections($listen, $dir, %with); 1 } or print STDERR $@;
		POSIX::_exit(0);    # what the test does at its end is not for us
	}
	close $listen;
	push @pids, $pid;
	return { port => $port, dir => $dir };
}

# What has arrived: lines "MODE BODY" and "added PHONE".
sub hostile_log
{
	my ($server) = @_;
	my @lines;
	if (open my $f, '<', "$server->{dir}/log")
	{
		@lines = <$f>;
		chomp @lines;
	}
	return @lines;
}

END
{
	# the group: the server and all its connections
	if ($$ == $mine)
	{
		my $status = $?;
		kill 'KILL', -$_ foreach @pids;
		waitpid $_, 0 foreach @pids;
		$? = $status;
	}
}

1;
