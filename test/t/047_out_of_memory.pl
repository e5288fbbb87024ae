# What libcurl and the C library may fail at is made to fail, one call after the other, as
# if memory, sockets or descriptors had run out: a statement ends with an error that says so,
# the next one in the same session succeeds, and the worker tries again without blaming a row,
# a call or a server for it.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

# A file says which calls fail: "PID NAME FIRST LAST", counted from when the file was written.  Only
# calls by the extension itself are counted.  Those that have failed are noted in another file.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/failing.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* what libcurl returns if there is no memory, by its types of codes; its headers differ in constness */
#define EASY	27
#define MULTI	3
#define URL		7

static int
fails(void *caller, const char *name)
{
	static char last[128];
	static int	count;
	char		line[128] = "";
	char		armed[64];
	long		pid;
	int			first, final;
	Dl_info		info;
	FILE	   *file;

	if (!dladdr(caller, &info) || strstr(info.dli_fname, "kapture_sync.so") == NULL)
		return 0;
	file = fopen(getenv("KAPTURE_TEST_FAILING"), "r");
	if (file == NULL)
		return 0;
	if (fgets(line, sizeof(line), file) == NULL)
		line[0] = '\0';
	fclose(file);
	if (strcmp(line, last) != 0)
		count = 0;
	strcpy(last, line);
	if (sscanf(line, "%ld %63s %d %d", &pid, armed, &first, &final) != 4 || pid != getpid() || strcmp(armed, name) != 0)
		return 0;
	if (++count < first || count > final)
		return 0;
	snprintf(line, sizeof(line), "%s.failed", getenv("KAPTURE_TEST_FAILING"));
	file = fopen(line, "a");
	fprintf(file, "%s %d\n", name, count);
	fclose(file);
	return 1;
}

#define WRAP(type, name, params, args, failure) \
	type name params \
	{ \
		static type (*next) params; \
		if (next == NULL) \
			next = (type (*) params) dlsym(RTLD_NEXT, #name); \
		if (fails(__builtin_return_address(0), #name)) \
			return failure; \
		return next args; \
	}

WRAP(int, curl_global_init, (long flags), (flags), EASY)
WRAP(void *, curl_multi_init, (void), (), NULL)
WRAP(int, curl_multi_add_handle, (void *multi, void *easy), (multi, easy), MULTI)
WRAP(void *, curl_easy_init, (void), (), NULL)
WRAP(void *, curl_slist_append, (void *list, const char *text), (list, text), NULL)
WRAP(void *, curl_url, (void), (), NULL)
WRAP(int, curl_url_set, (void *url, int part, const char *text, unsigned int flags), (url, part, text, flags), URL)
WRAP(int, curl_url_get, (void *url, int part, char **text, unsigned int flags), (url, part, text, flags), URL)
WRAP(int, epoll_create1, (int flags), (flags), (errno = EMFILE, -1))
WRAP(int, socket, (int domain, int type, int protocol), (domain, type, protocol), (errno = EMFILE, -1))
WRAP(int, getsockname, (int fd, void *address, void *len), (fd, address, len), (errno = ENOBUFS, -1))
WRAP(void *, realloc, (void *old, size_t size), (old, size), (errno = ENOMEM, NULL))

int
curl_easy_setopt(void *easy, int option,...)
{
	static int	(*next) (void *, int, ...);
	char		name[64];
	va_list		args;
	void	   *value;

	va_start(args, option);
	value = va_arg(args, void *);
	va_end(args);
	if (next == NULL)
		next = (int (*) (void *, int, ...)) dlsym(RTLD_NEXT, "curl_easy_setopt");
	snprintf(name, sizeof(name), "curl_easy_setopt:%d", option);
	if (fails(__builtin_return_address(0), "curl_easy_setopt") || fails(__builtin_return_address(0), name))
		return EASY;
	return next(easy, option, value);
}
C
system_or_bail($ENV{CC} || 'cc', '-O1', '-Wall', '-shared', '-fPIC', '-o', "$dir/failing.so", "$dir/failing.c", '-ldl');
my $arming = "$dir/failing";
local $ENV{LD_PRELOAD} = "$dir/failing.so";
local $ENV{KAPTURE_TEST_FAILING} = $arming;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql said customers idle_ok));
setup_sync($node, $emulator);
create_customers($node);

# one with all options that a request can have
append_to_file("$dir/ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
sql(qq(
CREATE SERVER other FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', ca_file '$dir/ca.pem', timeout '5s');
CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user 'kapdemo', password 'kap123');
CREATE TABLE seen AS SELECT kapture_add_customer('{"customer_name": "Meera", "phone": "9300000000"}') #>> '{Enquiry,kapture_customer_id}' AS id;
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	result text;
	detail text;
BEGIN
	EXECUTE statement INTO result;
	RETURN 'done: ' || COALESCE(result, '');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN SQLSTATE || ' ' || SQLERRM || ' / ' || detail;
END \$\$));
my $get = q(SELECT kapture_get_customer(jsonb_build_object('kapture_customer_id', id), 'other') #>> '{Customer Details,name}' FROM seen);

# Has calls of a function fail in the process of this pid.
sub arm
{
	my ($pid, $name, $first, $last) = @_;
	append_to_file("$arming.new", "$pid $name $first " . ($last || $first) . "\n");
	rename "$arming.new", $arming or die $!;
	return;
}
sub disarm { unlink $arming; return }
sub failures { return -e "$arming.failed" ? scalar(split /\n/, slurp_file("$arming.failed")) : 0 }

# A statement in a session in which a call of this function fails, and once more in the same
# session: what each returns, and whether the call was reached.
sub try_with
{
	my ($statement, $name, $n) = @_;
	my $before = failures();
	my $quoted = $statement =~ s/'/''/gr;
	my $result = said(qq(
COPY (SELECT format('%s %s %s %s', pg_backend_pid(), '$name', $n, $n)) TO '$arming';
SELECT attempt('$quoted');
COPY (SELECT 'nothing') TO '$arming';
SELECT attempt('$quoted');
));
	disarm();
	return (failures() > $before, grep { length } split /\n/, $result);
}

# Each call of each of these functions in a statement fails once.
sub each_call_ok
{
	my ($what, $statement, $expected, $functions) = @_;
	foreach my $name (sort keys %{$functions})
	{
		my ($n, @wrong) = (1);
		while (1)
		{
			my ($reached, @results) = try_with($statement, $name, $n);
			last unless $reached;
			push @wrong, "$n: " . join ' | ', @results unless @results == 2 && $results[0] =~ $functions->{$name} && $results[1] =~ $expected;
			last if ++$n > 100;
		}
		cmp_ok($n, '>', 1, "$what calls $name()");
		is_deeply(\@wrong, [], 'and says what failed each time, after which the session goes on') or diag(explain(\@wrong));
	}
	return;
}

my $memory = qr/^53200 out of memory \/ libcurl /;
each_call_ok('a call', $get, qr/^done: Meera$/, {
		curl_global_init => qr/^53200 out of memory/, curl_multi_init => $memory, curl_multi_add_handle => $memory,
		curl_easy_init => $memory, curl_slist_append => $memory, curl_easy_setopt => $memory,
		epoll_create1 => qr/^53000 epoll_create1\(\) failed: /,
		socket => qr/^\w+ could not|^0800/,
		# the port is not known: the connection is used without a look at what it has to read
		getsockname => qr/^done: Meera$/,
		# a socket that the request does not depend on, which newer versions of libcurl have, may go unwatched
		realloc => qr/out of memory|^0800|^done: Meera\z/ });
each_call_ok('a path', q(SELECT kapture_call('/add-ticket.html', '{}', 'other')), qr/^(?!53200)/,
	{ curl_url => $memory, curl_url_set => $memory, curl_url_get => $memory });
each_call_ok('a new server', "CREATE SERVER third FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}')", qr/./,
	{ curl_url => $memory, curl_url_set => $memory, curl_url_get => $memory });

# a look at a server, with a connection of its own
foreach my $option (74, 75, 92, 150, 172)
{
	my ($reached, @results) = try_with(q(SELECT string_agg(concat_ws(' ', step, detail), ', ') FROM kapture_check('other')), "curl_easy_setopt:$option", 1);
	ok($reached, "kapture_check() sets option $option");
	like($results[0], qr/out of memory/, 'and says that there is no memory for it');
	unlike($results[1], qr/out of memory/, 'as there is the next time');
}

# The worker: what cannot be started now is started later, and nobody is to blame.
my $worker = sql("SELECT kapture_worker_pid()");
my $phone = 9_300_001_000;
my $log = -s $node->logfile;
foreach my $name (qw(curl_easy_init curl_slist_append curl_multi_add_handle curl_easy_setopt realloc))
{
	# the second time, a row would be blamed for what it alone cannot do
	my $before = failures();
	$phone++;
	arm($worker, $name, 1, $name eq 'realloc' ? 1 : 2);
	sql("INSERT INTO customers (customer_name, phone) VALUES ('$name', '$phone')");
	idle_ok("a row although $name() fails in the worker");
	disarm();
	cmp_ok(failures(), '>', $before, 'as it does');
	is(sql("SELECT kapture_customer_id IS NOT NULL FROM customers WHERE customer_name = '$name'"), 't', 'has its id');
	is(scalar(grep { $_ eq $phone } split /\n/, customers('phone')), 1, 'and was added once');
}
my $before = failures();
# of a call that each request needs, also where libcurl's handles are used again
arm($worker, 'curl_multi_add_handle', 1, 1_000_000);
sql("INSERT INTO customers (customer_name, phone) VALUES ('Later', '9300002000')");
my $call = sql(q(SELECT kapture_send('ticket_add', '{"title": "Later"}')));
wait_for(sub { failures() > $before + 4 }, 'a row and a call are tried again and again while there is no memory');
is(sql("SELECT parked FROM kapture_status WHERE relation = 'customers'::regclass"), 0, 'the row is not parked');
is(sql("SELECT state, message FROM kapture_calls WHERE call_id = $call"), 'waiting|', 'the call waits');
disarm();
idle_ok('both are done when there is memory');
is(sql("SELECT kapture_customer_id IS NOT NULL FROM customers WHERE customer_name = 'Later'"), 't', 'the row');
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE call_id = $call", 'and the call');
# a call alone
$before = failures();
arm($worker, 'curl_multi_add_handle', 1, 3);
$call = sql(q(SELECT kapture_send('ticket_add', '{"title": "Alone"}')));
poll_ok($node, "SELECT state = 'done' FROM kapture_calls WHERE call_id = $call", 'a call is sent when there is memory');
disarm();
is(failures() - $before, 3, 'at the fourth attempt');
my $said = slurp_file($node->logfile, $log);
like($said, qr/out of memory/, 'the log has the cause');
unlike($said, qr/cannot use server/, 'and does not blame the server');
is(sql("SELECT kapture_worker_pid() = $worker"), 't', 'it is the same worker all the time');

done_testing();
