# Nasty arguments for every function, view and option, as an ordinary role, and
# random queries by sqlsmith (where it is installed): no crash, no internal
# error, no hang.
#
#	KAPTURE_FUZZ_CALLS		calls of each function (default 25)
#	KAPTURE_FUZZ_SEED		repeats or varies the choices (default 1)
#	KAPTURE_FUZZ_QUERIES	queries of sqlsmith (default 1500)
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use File::Basename qw(basename);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $calls = $ENV{KAPTURE_FUZZ_CALLS} || 25;
my $seed = $ENV{KAPTURE_FUZZ_SEED} || 1;
my $queries = $ENV{KAPTURE_FUZZ_QUERIES} || 1500;

my $emulator = start_emulator();
my $node = new_node('main');
srand $seed;
$node->append_conf('postgresql.conf', "log_error_verbosity = verbose\nrestart_after_crash = off\n");
$node->restart;
$node->safe_psql('postgres', qq(
CREATE EXTENSION kapture_sync;
CREATE ROLE fuzz LOGIN;
GRANT USAGE ON FOREIGN DATA WRAPPER kapture_fdw TO fuzz;
GRANT CREATE ON DATABASE postgres TO fuzz;
GRANT CREATE ON SCHEMA public TO fuzz;
GRANT SELECT, INSERT, UPDATE ON kapture_customers, kapture_contacts, kapture_refresh_run TO fuzz;
SET ROLE fuzz;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', timeout '2s');
CREATE SERVER nobody FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1');
CREATE USER MAPPING FOR fuzz SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE SCHEMA remote;
IMPORT FOREIGN SCHEMA kapture FROM SERVER kapture INTO remote;
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, phone text, email_id text);
CREATE TABLE keyless (customer_name text, phone text);
CREATE TABLE parted (id int PRIMARY KEY, customer_name text, phone text) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parted DEFAULT;
CREATE VIEW some_view AS SELECT * FROM customers;
CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id;
CREATE SEQUENCE numbers;
SELECT kapture_attach('customers');
INSERT INTO customers VALUES (1, 'A', '9800000001'), (2, 'B', '12');
));

my $long = 'x' x 100_000;
my $deep = '[' x 50_000 . ']' x 50_000;
my @names = map { "'$_'" } 'kapture', 'nobody', 'none', '', 'KAPTURE', 'a"b', '%s%n', 'x' x 200;
my @texts = ("''", "' '", "'1'", "'{1,2}'", "'{'", "'{\"'", "'\\'", "'%s%n%d'", "repeat('x', 1000000)", "chr(1114111)", "E'\\x01\\n'", "'NaN'", "'phone must have 10 digits'");
my %values = (
	text => \@texts, cstring => \@texts, '"char"' => \@texts,
	name => \@names,
	boolean => [ 'true', 'false' ],
	integer => [ 0, 1, -1, 2, 999, 2147483647, -2147483648 ],
	bigint => [ 0, 1, -1, '9223372036854775807', "'-9223372036854775808'::bigint" ],
	oid => [ 0, 1, 1259, 4294967295, "'customers'::regclass" ],
	interval => [ "'0'", "'1 day'", "'-1 day'", "'178000000 years'" ],
	numeric => [ 0, "'NaN'", "'Infinity'", '1e100' ],
	'double precision' => [ 0, "'NaN'", "'-Infinity'", '1e300' ],
	# some are of tables that are gone, or never were
	regclass => [ '0::regclass', '999999::regclass', map { "'$_'::regclass" } qw(customers keyless parted part some_view kept numbers customers_pkey remote.customers pg_class pg_statistic kapture_outbox kapture_history kapture_status kapture_customers
			information_schema.tables pg_toast.pg_toast_1255 temporary) ],
	'timestamp without time zone' => [ map { "'$_'" } qw(infinity -infinity 2021-03-14 2021-03-15 1900-01-01 2100-01-01 294276-12-31 epoch), '4713-01-01 BC', '2021-03-14 23:59:59.999999' ],
	'timestamp with time zone' => [ map { "'$_'" } qw(infinity -infinity 2021-03-14 294276-12-31 epoch), '4713-01-01 BC' ],
	jsonb => [ "'{}'", "'[]'", "'null'", "'1'", "'\"x\"'", "'{\"phone\": \"9800000001\"}'", "'{\"phone\": null}'", "'{\"phone\": [1]}'", "'{\"customer_name\": {\"a\": 1}}'", "'[{\"phone\": \"1\"}]'", "'{\"\": \"\"}'",
		"'{\"kapture_customer_id\": 1e400}'", "'{\"kapture_customer_id\": \"-1\"}'", "('$deep')::jsonb", "jsonb_build_object('customer_name', repeat('x', 10000000))", "'{\"customer_name\": \"name\", \"phone\": \"id\"}'",
		"'{\"message\": [{\"id\": 99999999999999999999, \"generationDate\": \"Feb 31, 2021 1:1:1 PM\", \"contacts\": {}}]}'", "'{\"message\": [1, null, \"x\", [], {\"contacts\": [1, {}]}]}'",
		"'{\"Customer Details\": {\"id\": \"x\", \"contacts\": [null]}}'", "(SELECT jsonb_object_agg(i, i) FROM generate_series(1, 5000) i)" ],
	'text[]' => [ "'{}'", "'{NULL}'", "ARRAY['url=file:///etc/passwd']", "ARRAY['url']", "ARRAY['=']", "'{{a,b},{c,d}}'" ]);

# Everything that is said of a script, run as the ordinary role; statements that
# fail do not end it.
sub run_script
{
	my ($script) = @_;
	my ($out, $err);
	IPC::Run::run([ 'psql', '-XAtq', '-v', 'VERBOSITY=verbose', '-d', $node->connstr('postgres') . ' user=fuzz' ], '<', \"SET statement_timeout = '10s'; SET client_min_messages = error;\n$script", '>', '/dev/null', '2>', \$err);
	return $err;
}

sub survived
{
	my ($name, $err, $hang_ok) = @_;
	my @bad = grep { /(?:ERROR|FATAL|PANIC):  (?:XX|57P)/ || /server closed|connection to server was lost/ || (!$hang_ok && /ERROR:  57014/) } split /\n/, $err;
	is(join("\n", map { substr($_, 0, 300) } @bad > 10 ? @bad[ 0 .. 9 ] : @bad), '', $name);
	return;
}

# --- functions
my @functions = map { [ split /\|/, $_, -1 ] } split /\n/, $node->safe_psql('postgres', q(
SELECT p.oid::regproc, p.prokind, array_to_string(ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t), ';')
FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync')
ORDER BY p.oid::regprocedure::text));
cmp_ok(scalar @functions, '>', 30, 'there are functions');
my $n = 0;
foreach my $function (@functions)
{
	my ($name, $kind, $types) = @$function;
	my @types = split /;/, $types;
	my $script = "CREATE TEMPORARY TABLE temporary (id int PRIMARY KEY, customer_name text, phone text);\n";
	for my $i (1 .. (@types ? $calls : 1))
	{
		my @args = map {
			my $pool = $values{$_};
			diag("no values of type $_") unless $pool;
			!$pool || rand() < 0.08 ? "NULL::$_" : do { my $v = $pool->[ rand @$pool ]; $v =~ /::|^\(|\(/ ? $v : "$v\::$_" }
		} @types;
		$script .= ($kind eq 'p' ? 'CALL ' : 'SELECT * FROM ') . "$name(" . join(', ', @args) . ");\n";
		$n++;
	}
	# a range of centuries takes its time, and may be cancelled
	survived("$name($types)", run_script($script), $types =~ /timestamp/);
}
note("$n calls");

# --- views and tables
my @relations = split /\n/, $node->safe_psql('postgres', q(
SELECT c.oid::regclass FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'kapture_sync') AND c.relkind IN ('r', 'v')
UNION SELECT 'remote.customers'::regclass UNION SELECT 'remote.contacts'::regclass ORDER BY 1));
foreach my $relation (@relations)
{
	survived("reading and writing $relation", run_script(join '', map {; "$_;\n" } "SELECT * FROM $relation LIMIT 3", "SELECT count(*) FROM $relation", "SELECT r FROM $relation r WHERE r IS NOT NULL", "TABLE $relation",
		"SELECT * FROM $relation FOR UPDATE", "DELETE FROM $relation", "INSERT INTO $relation DEFAULT VALUES", "TRUNCATE $relation", "DROP TABLE $relation", "EXPLAIN (VERBOSE) SELECT * FROM $relation a JOIN $relation b ON a = b",
		"SELECT DISTINCT r::text FROM $relation r ORDER BY 1", "COPY $relation FROM STDIN;\n\\.", "ANALYZE $relation", "LOCK TABLE $relation", "CREATE TRIGGER t AFTER INSERT ON $relation FOR EACH ROW EXECUTE FUNCTION kapture_capture()",
		"BEGIN; DECLARE c SCROLL CURSOR FOR SELECT * FROM $relation; FETCH LAST FROM c; FETCH PRIOR FROM c; CLOSE c; ROLLBACK"), 1);
}
foreach my $column (qw(id phone email generation_date name contacts raw))
{
	survived("remote.customers by $column", run_script(join '', map {; my $v = $_; map {; "SELECT count(*) FROM remote.customers WHERE $column $_ $v;\n" } '=', '<', '>=', 'IS DISTINCT FROM' } 'NULL', "''", '0', "'infinity'", "'-1'", "'2021-03-14'", "(SELECT '1'::text)", "'9223372036854775808'", 'raw'), 1);
}

# --- options
my ($hint) = run_script("CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (nothing '1')") =~ /HINT:\s+.*?: (.*)/;
my @options = split /, /, $hint || '';
cmp_ok(scalar @options, '>', 10, 'there are options');
my @option_values = ('', ' ', '0', '-1', '1', '99999999999999999999', 'NaN', 'infinity', '1e9', '1s', '-1s', '99999999 days', 'true', 'nonsense', '/', '//', '[]', '{}', '{"a": null}', '{"a": {"b": 1}}', 'Asia/Nowhere', 'UTC', '/etc/passwd', '/nowhere', '%s%n',
	'http://127.0.0.1:99999', 'https://[::1', 'array', 'object', '2021-01-01', '1kB', '99999999TB', 'é', '{"a": "' . 'x' x 100_000 . '"}', $long);
my $script = '';
foreach my $option (@options)
{
	$option =~ s/"//g;
	$script .= "ALTER SERVER nobody OPTIONS (ADD $option '$_');\nSELECT kapture_get_customer('{\"phone\": \"1\"}', 'nobody');\nALTER SERVER nobody OPTIONS (DROP $option);\n" foreach @option_values;
	$script .= "ALTER SERVER nobody OPTIONS (SET url 'http://127.0.0.1:1');\n";
}
survived('options of a server', run_script($script));
$script = '';
foreach my $option (qw(auth_key "user" password add_auth_key get_auth_key))
{
	$script .= "CREATE USER MAPPING FOR fuzz SERVER nobody OPTIONS ($option '$_');\nSELECT kapture_get_customer('{\"phone\": \"1\"}', 'nobody');\nSELECT * FROM kapture_check('nobody');\nDROP USER MAPPING FOR fuzz SERVER nobody;\n" foreach @option_values;
}
survived('options of a mapping', run_script($script));
survived('settings', run_script(join '', map {; my $v = $_; map {; "SET kapture_sync.$_ = '$v';\n" } qw(capture enabled history_retention notify excluded_databases) } '', '-1', '99999999999', 'on', 'x', '1d', '%s'));

# --- random queries
SKIP:
{
	my $sqlsmith = (grep { -x } map { "$_/sqlsmith" } split(/:/, $ENV{PATH}), '/usr/games', '/usr/bin')[0];
	skip 'no sqlsmith', 2 unless $sqlsmith;
	my $target = "host=" . $node->host . " port=" . $node->port . " dbname=postgres user=fuzz";
	$node->safe_psql('postgres', "ALTER ROLE fuzz SET statement_timeout = '2s'; GRANT SELECT ON ALL TABLES IN SCHEMA public TO fuzz");
	IPC::Run::run([ $sqlsmith, "--target=$target", "--max-queries=$queries", "--seed=$seed", '--exclude-catalog' ], '>', '/dev/null', '2>', \my $said, IPC::Run::timeout(170)) or 1;
	like($node->safe_psql('postgres', 'SELECT 1'), qr/1/, 'the server runs after random queries');
	my %ours = map { basename($_) => 1 } glob "$FindBin::RealBin/../../src/{,*/}*.c";
	my $log = slurp_file($node->logfile);
	my @bad = grep { my ($file) = /LOCATION:  \w+, (\S+\.c):/; $file && $ours{$file} } $log =~ /(ERROR:  XX000: .*\n(?:.*\n){0,2}?.*LOCATION: .*)/g;
	is(join("\n", @bad), '', 'without internal errors of ours');
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing crashed');

$node->stop;
done_testing();
