# Connections, and whose answer it is: servers that speak out of turn or give the
# answer to another request, proxies that end connections, hosts that move, clocks
# that are off, answers with a byte order mark or packed.
use strict;
use warnings;

# The file of host names becomes one of ours, where an ordinary user may have that.
# (Before the modules that redirect output.)
BEGIN
{
	require File::Temp;
	if (!defined $ENV{KAPTURE_TEST_HOSTS})
	{
		my ($file, $name) = File::Temp::tempfile('kapture_hostsXXXX', TMPDIR => 1);
		chmod 0644, $name;
		my @mount = ('unshare', '-Urm', 'sh', '-c', 'mount --bind "$0" /etc/hosts && exec unshare -U --map-user="$1" --map-group="$2" "$3" "$4"', $name, $<, int($());
		$ENV{KAPTURE_TEST_HOSTS} = system("@mount[0, 1] true 2>/dev/null") == 0 && system(@mount, 'test', '-n') == 0 ? $name : '';
		if ($ENV{KAPTURE_TEST_HOSTS}) { exec(@mount, $^X, $0) or die "exec: $!"; }
		unlink $name;
	}
}

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::SSL::Utils;
use IPC::Run ();
use KaptureTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $nginx = (grep { -x } '/usr/sbin/nginx', '/usr/bin/nginx')[0];
my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql fresh));
setup_sync($node, $emulator);
create_customers($node);
my $idle = "SELECT pending + in_flight + retrying + parked = 0 FROM kapture_status WHERE relation = 'customers'::regclass";
my $phone = 9500000000;

sub stats { return emulator_get($emulator, 'stats') }
sub requests { my ($api) = @_; return grep { $_->{api} eq $api } @{ emulator_get($emulator, 'log') } }

# Starts anew: no rows, no customers, no faults.
# What Kapture would answer to the Add of somebody else.
sub stranger
{
	my (%fields) = @_;
	my $fields = join ', ', map { qq("$_": "$fields{$_}") } sort keys %fields;
	return '{"Enquiry": {"kapture_customer_id": 666' . ($fields ? ", $fields" : '') . '}, "message": "validation successfull", "status": "success"}';
}

# --- an answer that nobody asked for, on a connection that waits for its next use
my $session = $node->background_psql('postgres');
sub get { my ($id) = @_; return $session->query_safe("SELECT kapture_get_customer('{\"kapture_customer_id\": $id}') -> 'Customer Details' ->> 'id'") }
emulator_post($emulator, 'seed', [ map { { kapture_customer_id => $_, customer_name => "Customer $_", phone => 9400000000 + $_ } } 1 .. 20 ]);
is(get(1), 1, 'a call');
is(get(2), 2, 'and another, on the same connection');
is(stats()->{open_connections}, 2, 'which is kept');
my $said = '{"Customer Details": {"id": 666, "name": "Not yours", "contacts": []}, "status": "success"}';
emulator_faults($emulator, { api => 'get', action => 'unasked', ms => 20, body => $said, count => 1 });
is(get(3), 3, 'a call whose connection speaks again afterwards');
wait_for(sub { stats()->{unasked} == 1 }, 'the second answer');
is(get(4), 4, 'the next call has its own answer');
is(get(5), 5, 'and the next');
is(scalar(requests('get')), 5, 'each was sent once');
$session->quit;

sql("INSERT INTO customers (customer_name, phone) VALUES ('Before', '9500000001')");
poll_ok($node, $idle, 'the worker has a connection');
foreach my $i (2 .. 5)
{
	my $before = stats()->{unasked};
	emulator_faults($emulator, { api => 'add', action => 'unasked', ms => 5, body => stranger(), count => 1 });
	sql("INSERT INTO customers (customer_name, phone) VALUES ('Spoken after', '950000001$i')");
	wait_for(sub { stats()->{unasked} > $before }, 'the second answer');
	poll_ok($node, $idle, 'the first is taken');
	sql("INSERT INTO customers (customer_name, phone) VALUES ('Next', '950000002$i')");
	poll_ok($node, $idle, 'an Add after an answer that nobody asked for');
}
is(sql("SELECT count(*) FROM customers WHERE kapture_customer_id = 666"), '0', 'no row has the id of somebody else');
is(scalar(requests('get')), 5, 'no Add was in doubt');
is(stats()->{adds}, 9, 'each was added once');

# --- an answer that is about somebody else is none
fresh();
my %strange = (
	phone => stranger(customer_name => 'Somebody', phone => '9999999999'),
	'phone alone' => stranger(customer_name => 'Row phone alone', phone => '9999999999'),
	email => stranger(phone => '', email_id => 'somebody@example.com'),
	name => stranger(customer_name => 'Somebody', phone => '', email_id => ''),
	'two ids' => '{"Enquiry": {"kapture_customer_id": 666}, "Kapture Customer Id": "667", "status": "success"}');
my %rows;
foreach my $name (sort keys %strange)
{
	$rows{$name} = ++$phone;
	emulator_faults($emulator, { api => 'add', match => "Row $name\"", action => 'instead', body => $strange{$name}, count => 1 });
	sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('Row $name', '$phone', 'row$phone\@example.com')");
	poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM customers WHERE phone = '$phone'", "an answer with somebody else's $name: the row is searched for");
}
poll_ok($node, $idle, 'all are done');
is(stats()->{adds}, scalar keys %strange, 'each was added once');
oracle_ok($node, $emulator, 'and has its own id');
my @searches = requests('get');
is(scalar(@searches), scalar keys %strange, 'by one search each,');
is(scalar(grep { $_->{body} =~ /"phone": "95/ && $_->{body} =~ /"email_id": "row95/ } @searches), scalar keys %strange, 'by phone and email at once');

# what Kapture makes of phones, emails and names is no sign of somebody else
fresh();
my %odd = (
	'a country code' => { phone => sub { "+91-$_[0]" } },
	blanks => { phone => sub { substr($_[0], 0, 5) . ' ' . substr($_[0], 5) } },
	'masked digits' => { phone => sub { substr($_[0], 0, 2) . 'XXXXXX' . substr($_[0], 8) } },
	'a masked email' => { email_id => sub { 'ro***@example.com' } },
	'upper case' => { email_id => sub { uc $_[0] }, customer_name => sub { 'ANOTHER' } },
	'another name' => { phone => sub { $_[0] }, customer_name => sub { 'Another' } },
	'a name that is cut' => { customer_name => sub { substr($_[0], 0, 9) } },
	'a name with an entity' => { customer_name => sub { $_[0] =~ s/with/&amp;with/r } },
	nothing => {});
my $id = 7000;
foreach my $name (sort keys %odd)
{
	my %sent = (phone => ++$phone, email_id => "row$phone\@example.com", customer_name => "Row $name");
	my %said = map { $_ => $odd{$name}{$_}->($sent{$_}) } keys %{ $odd{$name} };
	my $body = stranger(%said);
	$id++;
	$body =~ s/666/$id/;
	emulator_faults($emulator, { api => 'add', action => 'instead', body => $body, count => 1 });
	sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('$sent{customer_name}', '$phone', '$sent{email_id}')");
	poll_ok($node, "SELECT kapture_customer_id = $id FROM customers WHERE phone = '$phone'", "an answer with $name is believed");
}
is(scalar(requests('get')), 0, 'without a search');

# Updates: somebody else's answer says nothing of ours
fresh();
sql("INSERT INTO customers (customer_name, phone) VALUES ('Updated', '9500009999')");
poll_ok($node, $idle, 'a customer');
emulator_faults($emulator, { api => 'update', action => 'status', code => 200, body => stranger(), count => 1 });
sql("ALTER SERVER kapture OPTIONS (SET timeout '1s'); UPDATE customers SET city = 'Pune'");
poll_ok($node, "SELECT count(*) = 1 FROM kapture_failures WHERE message LIKE '%about another customer: its id is not the one that was sent' AND hint LIKE 'nothing: %'", 'an Update is answered with the id of somebody else');
poll_ok($node, $idle, 'it is sent again');
oracle_ok($node, $emulator, 'and is done');
sql("ALTER SERVER kapture OPTIONS (SET timeout '2s')");

# searches, too
fresh();
emulator_faults($emulator, { api => 'add', action => 'drop_after', count => 1 },
	{ api => 'get', action => 'instead', count => 1, body => '{"Customer Details": {"id": 666, "companyPhone": "9999999999", "contacts": [{"email": "somebody@example.com"}]}, "status": "success"}' });
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('Searched', '9500010000', 'searched\@example.com')");
poll_ok($node, $idle, 'a search finds somebody else');
oracle_ok($node, $emulator, 'and is not believed');
is(stats()->{adds}, 1, 'nobody was added twice');
# a Kapture that searches by either: who has the email only is somebody else
fresh();
emulator_post($emulator, 'seed', [ { kapture_customer_id => 31, customer_name => 'Other', phone => '9500010001', email_id => 'either@example.com' } ]);
emulator_faults($emulator, { api => 'add', action => 'drop_before', count => 1 },
	{ api => 'get', action => 'instead', count => 1, body => '{"Customer Details": {"id": 31, "companyPhone": "9500010001", "contacts": [{"email": "either@example.com"}]}, "status": "success"}' });
sql("INSERT INTO customers (customer_name, phone, email_id) VALUES ('Either', '9500010002', 'Either\@example.com')");
poll_ok($node, $idle, 'a search that finds by email alone');
is(join(' ', map { /"email_id": "(.*?)", "phone": "(.*?)"/ ? "$1/$2" : () } map { $_->{body} } requests('get')), 'Either@example.com/9500010002 /9500010002 Either@example.com/', 'is made by each');

# foreign tables
fresh();
sql("CREATE SCHEMA remote; IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO remote");
emulator_faults($emulator, { api => 'add', action => 'instead', body => stranger(phone => '9999999999'), count => 1 });
my ($rc, $out, $err) = $node->psql('postgres', "INSERT INTO remote.customers (customer_name, phone) VALUES ('Foreign', '9500011000') RETURNING id");
like($err, qr/Kapture's answer is about another customer: its phone is not the one that was sent.*may or may not/, 'an INSERT that is answered with somebody else is an error');
is($out, '', 'and gives no id');
emulator_faults($emulator, { api => 'add', action => 'instead', body => stranger(phone => '9999999999'), count => 1 });
($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_add_customer('{\"customer_name\": \"Direct\", \"phone\": \"9500011001\"}')");
like($err, qr/Kapture's answer is about another customer: its phone is not the one that was sent.*may or may not/, 'so is a direct call');

# --- a clock that is off: a time to come back is read by the server's own
foreach my $off (-86400, 86400)
{
	fresh();
	my $date = sub { POSIX::strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime $_[0]) };
	emulator_faults($emulator, { api => 'add', action => 'status', code => 503, count => 1,
			headers => { Date => $date->(time + $off), 'Retry-After' => $date->(time + $off + 3) } });
	sql("INSERT INTO customers (customer_name, phone) VALUES ('Later', '950001200" . ($off > 0 ? 1 : 2) . "')");
	poll_ok($node, $idle, "a clock that is off by $off s: the row is sent");
	my ($refused, $next) = requests('add');
	cmp_ok($next->{time} - $refused->{time}, '>=', 2, 'not before its time');
}

# --- answers that begin with a byte order mark, or are packed, all of them
foreach my $action (qw(bom gzip))
{
	fresh();
	emulator_faults($emulator, { action => $action });
	sql("INSERT INTO customers (customer_name, phone) SELECT '$action ' || i, (9500013000 + i)::text FROM generate_series(1, 20) i");
	poll_ok($node, $idle, "$action: rows are sent");
	is(sql("SELECT count(*) FROM kapture_pull_customers(localtimestamp - interval '1 day', localtimestamp + interval '1 day')"), '20', 'and pulled');
	oracle_ok($node, $emulator, 'as they are');
}
is((requests('add'))[0]{headers}{'Accept-Encoding'}, 'gzip', 'and packing is asked for');
fresh();
emulator_post($emulator, 'seed', { count => 200, from => '2023-05-01', to => '2023-05-02' });
emulator_faults($emulator, { action => 'gzip' });
is(sql("SELECT count(*) FROM kapture_pull_customers('2023-05-01', '2023-05-02')"), '200', 'large answers, too');
sql("ALTER SERVER kapture OPTIONS (ADD max_response_size '64kB')");
($rc, $out, $err) = $node->psql('postgres', "SELECT kapture_pull('2023-05-01', '2023-05-02')");
like($err, qr/the answer is too large.*"max_response_size" of the server, 65536 bytes/s, 'but not larger than max_response_size when unpacked');
sql("ALTER SERVER kapture OPTIONS (DROP max_response_size)");

# --- proxies
SKIP:
{
	skip 'no nginx', 1 unless $nginx;
	fresh();
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my ($ca, $ca_key) = CERT_create(CA => 1, subject => { commonName => 'Test authority' }, purpose => 'ca');
	my ($cert, $cert_key) = CERT_create(subject => { commonName => '127.0.0.1' }, subjectAltNames => [ [ IP => '127.0.0.1' ] ], issuer => [ $ca, $ca_key ], purpose => 'server');
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	PEM_cert2file($ca, "$dir/ca.pem");
	PEM_cert2file($cert, "$dir/cert.pem");
	PEM_key2file($cert_key, "$dir/key.pem");

	# one that offers HTTP/2 and ends each connection after ten requests
	my $proxy = start_nginx($dir, 'proxy', "log_format way '\$server_protocol';
		server {
			access_log $dir/proxy.way way;
			listen 127.0.0.1:$port ssl http2;
			ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem;
			keepalive_requests 10;
			location / { proxy_pass $emulator->{url}; }
		}");
	sql("ALTER SERVER kapture OPTIONS (SET url 'https://127.0.0.1:$port', ADD ca_file '$dir/ca.pem')");
	sql("INSERT INTO customers (customer_name, phone) SELECT 'Proxied ' || i, (9500014000 + i)::text FROM generate_series(1, 500) i");
	poll_ok($node, $idle, 'rows go through a proxy that ends connections');
	oracle_ok($node, $emulator, 'each arrives once');
	is(scalar(requests('get')), 0, 'and none was in doubt');
	is(sql("WITH added AS (INSERT INTO remote.customers (customer_name, phone) SELECT 'Loaded ' || i, (9500015000 + i)::text FROM generate_series(1, 300) i RETURNING id) SELECT count(DISTINCT id) FROM added"),
		'300', 'so does a load into a foreign table');
	is(stats()->{adds}, 800, 'of which each is added once');
	is(stats()->{duplicate_refusals}, 0, 'and none twice');
	my %ways = map { $_ => 1 } split /\n/, slurp_file("$dir/proxy.way");
	is(join(' ', sort keys %ways), 'HTTP/1.1', 'by HTTP/1.1');
	stop_nginx($proxy);
	sql("ALTER SERVER kapture OPTIONS (DROP ca_file)");

	# A host that moves: "localhost" has two addresses, of which libcurl tries one
	# first, and the other where nobody listens.
	skip 'no IPv6', 1 unless IO::Socket::IP->new(LocalHost => '::1', Listen => 1);
	fresh();
	my $new = start_emulator();
	# (one account: a customer of the new host has none of the old one's ids)
	my $number_apart = sub { emulator_post($new, 'seed', [ { kapture_customer_id => 70_000_000, customer_name => 'Earlier', phone => '9500015999' } ]) };
	$number_apart->();
	my %at = ('127.0.0.1' => $emulator, '[::1]' => $new);
	$port = PostgreSQL::Test::Cluster::get_free_port();
	my $start = sub {
		my ($address, $to) = @_;
		return start_nginx($dir, 'moved' . ++$phone, "server { listen $address:$port; location / { proxy_pass $to->{url}; } }");
	};
	my @both = map { $start->($_, $at{$_}) } sort keys %at;
	sql("ALTER SERVER kapture OPTIONS (SET url 'http://localhost:$port'); SELECT kapture_get_customer('{\"phone\": \"9000000000\"}')");
	my $first = emulator_get($new, 'stats')->{requests} ? '[::1]' : '127.0.0.1';
	my ($second) = grep { $_ ne $first } keys %at;
	stop_nginx($_) foreach @both;
	emulator_post($emulator, 'reset', {});
	my $old_host = $start->($second, $emulator);
	sql("INSERT INTO customers (customer_name, phone) SELECT 'Old ' || i, (9500016000 + i)::text FROM generate_series(1, 50) i");
	poll_ok($node, $idle, 'rows go to the old host');
	emulator_faults($emulator, { action => 'status', code => 503 });
	my $new_host = $start->($first, $new);
	sql("INSERT INTO customers (customer_name, phone) SELECT 'New ' || i, (9500017000 + i)::text FROM generate_series(1, 50) i");
	poll_ok($node, $idle, 'a host that has moved is found, while the old one still answers');
	is(emulator_get($new, 'stats')->{adds}, 50, 'and has the new rows');
	cmp_ok(scalar(grep { $_->{code} == 503 } @{ emulator_get($emulator, 'log') }), '<=', 20, 'after few requests to the old one');
	stop_nginx($_) foreach $old_host, $new_host;

	# the same with a name whose address changes
	skip 'no hosts file of our own', 1 unless $ENV{KAPTURE_TEST_HOSTS};
	fresh();
	emulator_post($new, 'reset', {});
	$number_apart->();
	@both = ($start->('127.0.0.1', $emulator), $start->('127.0.0.2', $new));
	name_host('127.0.0.1');
	sql("ALTER SERVER kapture OPTIONS (SET url 'http://kapture.test:$port', ADD allow_http 'true')");
	sql("INSERT INTO customers (customer_name, phone) SELECT 'Old ' || i, (9500018000 + i)::text FROM generate_series(1, 50) i");
	poll_ok($node, $idle, 'rows go to the address of a name');
	emulator_faults($emulator, { action => 'status', code => 503 });
	name_host('127.0.0.2');
	sql("INSERT INTO customers (customer_name, phone) SELECT 'New ' || i, (9500019000 + i)::text FROM generate_series(1, 50) i");
	poll_ok($node, $idle, 'another address of the name is found, while the old one still answers');
	is(emulator_get($new, 'stats')->{adds}, 50, 'and has the new rows');
	cmp_ok(scalar(grep { $_->{code} == 503 } @{ emulator_get($emulator, 'log') }), '<=', 20, 'after few requests to the old one');
	stop_nginx($_) foreach @both;
	stop_emulator($new);
}

# Gives the name its address.
sub name_host
{
	my ($address) = @_;
	open(my $file, '>', $ENV{KAPTURE_TEST_HOSTS}) or die "$ENV{KAPTURE_TEST_HOSTS}: $!";
	print $file "127.0.0.1 localhost\n$address kapture.test\n";
	close $file;
	return;
}

# Starts nginx with this server; returns what stop_nginx() takes.
sub start_nginx
{
	my ($dir, $name, $server) = @_;
	my $paths = join ' ', map { "${_}_temp_path $dir/$name.$_;" } qw(client_body proxy fastcgi uwsgi scgi);
	append_to_file("$dir/$name.conf", "daemon off; master_process off; pid $dir/$name.pid; error_log $dir/$name.log;
		events { worker_connections 512; }
		http { access_log off; $paths $server }");
	my $handle = IPC::Run::start([ $nginx, '-p', $dir, '-e', "$dir/$name.log", '-c', "$dir/$name.conf" ], '>', "$dir/$name.out", '2>&1');
	wait_for(sub { -s "$dir/$name.pid" }, 'nginx');
	return $handle;
}

sub stop_nginx
{
	my ($handle) = @_;
	$handle->kill_kill;
	return;
}

# --- a server in trouble: what is tried again leaves no connections behind
fresh();
sql("ALTER SERVER kapture OPTIONS (SET url '$emulator->{url}', ADD max_connections '3', SET timeout '60s')");
my $open = stats()->{open_connections};
foreach my $code (429, 503, 429)
{
	emulator_faults($emulator, { api => 'add', action => 'status', code => $code, headers => { 'Retry-After' => '1' }, skip => 1, count => 2 });
	sql("INSERT INTO customers (customer_name, phone) SELECT 'Trouble', (9600000000 + nextval('customers_id_seq'))::text FROM generate_series(1, 40)");
	poll_ok($node, $idle, "rows are sent in spite of $code");
}
wait_for(sub { stats()->{open_connections} <= $open + 3 }, 'no more connections are kept than requests may be in flight');

# --- an account that shares the worker with no other one
fresh();
sql("ALTER SERVER kapture OPTIONS (SET max_connections '200')");
sql("INSERT INTO customers (customer_name, phone) VALUES ('First', '9600000000')");
poll_ok($node, $idle, 'rows go where they went at first');
emulator_faults($emulator, { api => 'add', action => 'hold' });
sql("INSERT INTO customers (customer_name, phone) SELECT 'Many', i::text FROM generate_series(9600000001, 9600000220) i");
wait_for(sub { stats()->{in_flight} >= 200 }, 'two hundred requests');
is(stats()->{in_flight}, 200, 'has as many connections as it says');
emulator_faults($emulator);
emulator_post($emulator, 'release', {});
poll_ok($node, $idle, 'and all rows are sent');

$node->stop;
unlink $ENV{KAPTURE_TEST_HOSTS} if $ENV{KAPTURE_TEST_HOSTS};
done_testing();
