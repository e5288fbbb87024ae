# docs/metrics: Debian's exporter shows what docs/metrics.md says, the alerts
# come when they should, and each panel of the dashboard finds its data.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP;
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path("$FindBin::RealBin/../..");
my $metrics = "$top/docs/metrics";

# script/test installs the packages for Debian 12's own version only
my @missing = grep { system("command -v $_ >/dev/null") != 0 } qw(prometheus promtool prometheus-postgres-exporter);
plan skip_all => "not installed: @missing" if @missing && `pg_config --version` !~ /PostgreSQL 15/;
is("@missing", '', 'prometheus and its exporter are installed') or BAIL_OUT("not installed: @missing");

my @daemons;
END { my $status = $?; $_->kill_kill foreach @daemons; $? = $status; }

# Starts a program that answers at a path of a port, and waits until it does.
sub start_daemon
{
	my ($port, $path, $log, $environment, @command) = @_;
	local @ENV{ keys %$environment } = values %$environment;
	my $handle = IPC::Run::start(\@command, '<', \undef, '>', $log, '2>&1');
	push @daemons, $handle;
	wait_for(sub { HTTP::Tiny->new(timeout => 5)->get("http://127.0.0.1:$port$path")->{success} }, "$command[0] to answer");
	return;
}

# --- what there is to see: rows sent, refused, waiting; a server of another role
my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator, options => "check_rows 'off'");    # what Kapture says is to be seen
create_customers($node);
sql("INSERT INTO customers (customer_name, phone) SELECT 'Row ' || i, (9600000000 + i)::text FROM generate_series(1, 20) i");
sql("INSERT INTO customers (customer_name, phone) VALUES ('Wrong', 'abc')");
poll_ok($node, "SELECT parked = 1 AND pending + in_flight + retrying = 0 FROM kapture_status", 'rows are sent, one is parked');
sql("SELECT kapture_pause('customers')");
sql("INSERT INTO customers (customer_name, phone) SELECT 'Wait ' || i, (9610000000 + i)::text FROM generate_series(1, 7) i");

# calls: one is lost, one waits for a key
emulator_faults($emulator, { api => 'ticket_add', action => 'drop_after', count => 1 });
emulator_post($emulator, 'keys', { order_add => 'another' });
sql(q(SELECT kapture_send('ticket_add', '{"title": "Lost"}'), kapture_send('order_add', '{}')));
poll_ok($node, 'SELECT waiting = 1 AND unknown = 1 FROM kapture_call_status', 'a call waits, of one the outcome is unknown');

# a table without a key, a server that is pulled from, one that cannot be
sql(qq(
CREATE TABLE keyless (id bigint PRIMARY KEY, customer_name text, phone text);
SELECT kapture_attach('keyless');
ALTER TABLE keyless DROP COLUMN id;
ALTER SERVER kapture OPTIONS (ADD pull_interval '1s');
CREATE SERVER silent FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}', pull_interval '1s')));
poll_ok($node, "SELECT count(*) = 1 FROM kapture_status WHERE state = 'misconfigured'", 'a table has lost its key');
poll_ok($node, "SELECT string_agg(server || ':' || (failures > 0), ' ' ORDER BY server) = 'kapture:false silent:true' AND bool_or(finished_at IS NOT NULL) FROM kapture_pull_status",
	'one server is pulled from, one cannot be');

# a database whose extension waits for its update
$node->safe_psql('postgres', 'CREATE DATABASE old');
$node->safe_psql('old', qq(
CREATE EXTENSION kapture_sync VERSION '1.0';
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE TABLE customers (id bigint PRIMARY KEY, customer_name text, kapture_customer_id bigint);
INSERT INTO kapture_attachment (attachment_id, relation, server, key_columns) VALUES (DEFAULT, 'customers', 'kapture', '{id}')));
$node->restart;
poll_ok($node, "SELECT count(*) = 1 FROM kapture_server_states() WHERE state = 'outdated'", 'a database waits for its update', 'old');
poll_ok($node, "SELECT count(*) = 2 AND bool_and(server_state = 'ok') FROM kapture_status", 'and one does not');

# --- the role of the recipe
my ($recipe) = slurp_file("$top/docs/metrics.md") =~ /^```sql\n(.*?)^```$/ms;
sql($recipe);
is(sql("SET ROLE prometheus; SELECT relation, pending, parked, server_state FROM kapture_status WHERE relation::text = 'customers'"), 'customers|7|1|ok', 'it sees numbers');
is(sql("SET ROLE prometheus; SELECT bool_and(server_message IS NULL AND pull_error IS NULL) FROM kapture_status"), 't', 'but no messages,');
is(sql("SET ROLE prometheus; SELECT string_agg(state, ' ' ORDER BY state) FROM kapture_pull_status WHERE last_error IS NULL"), 'failing waiting', 'of pulls, either,');
is(sql("SET ROLE prometheus; SELECT (SELECT count(*) FROM kapture_failures) + (SELECT count(*) FROM kapture_history)"), '0', 'no rows,');
is(sql("SELECT count(last_error) FROM kapture_status"), '2', 'which there are,');
foreach my $query ('TABLE customers', 'TABLE kapture_outbox', 'TABLE kapture_delivery', "SELECT kapture_preview('customers', '1')", "SELECT kapture_pause('customers')")
{
	my ($rc, $out, $err) = $node->psql('postgres', "SET ROLE prometheus; $query");
	like($err, qr/permission denied|must be owner/, "and cannot run: $query");
}

# --- the exporter
my $logs = $PostgreSQL::Test::Utils::log_path;
my $port = PostgreSQL::Test::Cluster::get_free_port();

# Starts the exporter as the documentation says; returns what it shows.
sub exporter
{
	my ($listen, $recipe, @databases) = @_;
	my ($sources, $arguments) = $recipe =~ /^DATA_SOURCE_NAME='(.*)'\nARGS='(.*)'\n$/ or die $recipe;
	my $where = sprintf 'host=%s port=%s sslmode=disable', $node->host, $node->port;
	$sources =~ s/host=\S+ dbname=\w+/"$where dbname=" . shift @databases/ge;
	$arguments =~ s{/etc/prometheus/kapture_sync.yml}{$metrics/queries.yml};
	start_daemon($listen, '/', "$logs/exporter$listen.log", { DATA_SOURCE_NAME => $sources },
		'prometheus-postgres-exporter', split(/ /, $arguments), "--web.listen-address=127.0.0.1:$listen");
	my $answer = HTTP::Tiny->new->get("http://127.0.0.1:$listen/metrics");
	is($answer->{status}, 200, "the exporter answers, started with $arguments");
	return $answer->{content};
}

my @recipes = slurp_file("$top/docs/metrics.md") =~ /^```\n(DATA_SOURCE_NAME=.*?)^```$/msg;
is(scalar @recipes, 2, 'the recipe is for one database and for several');
like(exporter(PostgreSQL::Test::Cluster::get_free_port(), $recipes[0], 'postgres'), qr/^pg_exporter_last_scrape_error 0$/m, 'it runs without an error');
my $shown = exporter($port, $recipes[1], 'postgres', 'old');
my @complaints = grep { !/kapture_sync_(?:pull|call) pq: relation \\?"kapture_(?:pull|call)_status\\?" does not exist/ }
  grep { /Error running query/ } split /\n/, slurp_file("$logs/exporter$port.log");
is(join("\n", @complaints), '', 'but for what is new in the other, so does this');

# the value of a metric, found by its name and some of its labels
sub value
{
	my ($name, %labels) = @_;
	my @found;
	foreach my $line ($shown =~ /^(\Q$name\E\{.*)$/mg)
	{
		my ($value) = $line =~ / (\S+)$/;
		push @found, $value unless grep { $line !~ /\b$_="\Q$labels{$_}\E"/ } keys %labels;
	}
	return join ' ', @found;
}

my %table = (datname => 'postgres', relation => 'customers', foreign_server => 'kapture');
my %server = (datname => 'postgres', foreign_server => 'kapture', owner => sql("SELECT current_user"));
my %refused = (datname => 'postgres', foreign_server => 'kapture', api => 'add', code => '400');
is(value('kapture_sync_worker_up', datname => 'postgres'), '1', 'the worker runs');
is(value('kapture_sync_table_pending', %table), '7', 'seven wait');
is(value('kapture_sync_table_parked', %table), '1', 'one is parked');
is(value('kapture_sync_table_paused', %table) . value('kapture_sync_table_running', %table), '10', 'the table is paused');
is(value('kapture_sync_server_ok', %server) . value('kapture_sync_server_denied', %server), '10', 'the server is well');
is(value('kapture_sync_server_outdated', %server) . value('kapture_sync_server_outdated', %server, datname => 'old'), '01', 'the other database\'s is outdated');
is(value('kapture_sync_table_misconfigured', %table) . value('kapture_sync_table_misconfigured', %table, relation => 'keyless'), '01', 'a table is of no use');
my %calls = (datname => 'postgres', foreign_server => 'kapture', sender => sql('SELECT current_user'));
is(join(' ', map { value("kapture_sync_call_$_", %calls) } qw(waiting in_flight failed unknown)), '1 0 0 1', 'calls are counted by what becomes of them');
cmp_ok(value('kapture_sync_call_oldest_seconds', %calls), '>', 0, 'the oldest has an age');
my %silent = (datname => 'postgres', foreign_server => 'silent');
is(value('kapture_sync_pull_failing', %server{qw(datname foreign_server)}) . value('kapture_sync_pull_failing', %silent), '01', 'pulls from one server fail');
cmp_ok(value('kapture_sync_pull_behind_seconds', %server{qw(datname foreign_server)}), '<', 86400, 'of the other all is there');
is(value('kapture_sync_pull_behind_seconds', %silent), '+Inf', 'of that one, nothing');
cmp_ok(value('kapture_sync_table_oldest_seconds', %table), '>', 0, 'the oldest has an age');
is(value('kapture_sync_request_seconds_count', %refused), '1', 'a request was refused');
is(value('kapture_sync_request_seconds_bucket', %refused, le => '+Inf'), '1', 'its time is in the histogram');
my @buckets = split / /, value('kapture_sync_request_seconds_bucket', %refused, code => '200');
cmp_ok(scalar @buckets, '>', 10, 'which has many buckets');
is_deeply(\@buckets, [ sort { $a <=> $b } @buckets ], 'that add up,');
is($buckets[-1], '20', 'to all requests');

# --- names: everywhere the same
my %names = map { $_ => 1 } $shown =~ /^(kapture_sync_\w+)\{/mg;
foreach my $file ('metrics.md', 'metrics/alerts.yml', 'metrics/alerts_test.yml', 'metrics/dashboard.json')
{
	my $text = slurp_file("$top/docs/$file");
	my %used = map { $_ => 1 } grep { /^kapture_sync_(?:worker|table|server|pull|call|request)_/ } $text =~ /\b(kapture_sync_\w+)/g;
	cmp_ok(scalar keys %used, '>', 5, "$file uses metrics");
	is(join(' ', grep { !$names{$_} } sort keys %used), '', "$file: the exporter shows them all");
	is(join(' ', grep { !$used{$_} } sort keys %names), '', "$file explains them all") if $file eq 'metrics.md';
}
my @alerts = slurp_file("$metrics/alerts.yml") =~ /alert: (\w+)/g;
foreach my $file ('metrics.md', 'metrics/alerts_test.yml')
{
	my $text = slurp_file("$top/docs/$file");
	is(join(' ', grep { $text !~ /\b$_\b/ } @alerts), '', "$file has all alerts");
}

# --- the alerts
foreach my $command ([ 'check', 'rules', 'alerts.yml' ], [ 'test', 'rules', 'alerts_test.yml' ])
{
	my $out = '';
	ok(IPC::Run::run([ 'promtool', $command->[0], $command->[1], "$metrics/$command->[2]" ], '>', \$out, '2>&1'), "promtool @$command")
	  or diag($out);
}

# --- the dashboard, by Prometheus itself
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/prometheus.yml", qq(
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [$metrics/alerts.yml]
scrape_configs:
  - { job_name: kapture, static_configs: [ { targets: ['127.0.0.1:$port'] } ] }
));
my $prometheus = PostgreSQL::Test::Cluster::get_free_port();
start_daemon($prometheus, '/-/ready', "$logs/prometheus.log", {},
	'prometheus', "--config.file=$dir/prometheus.yml", "--storage.tsdb.path=$dir/data", "--web.listen-address=127.0.0.1:$prometheus");

sub query
{
	my ($expression) = @_;
	my $answer = HTTP::Tiny->new->post_form("http://127.0.0.1:$prometheus/api/v1/query", { query => $expression });
	my $result = decode_json($answer->{content});
	die "$expression: $answer->{content}" if $result->{status} ne 'success';
	return @{ $result->{data}{result} };
}

# a rate takes two looks
wait_for(sub { query('rate(kapture_sync_request_seconds_count[1m])') }, 'two scrapes');
my @panels = @{ decode_json(slurp_file("$metrics/dashboard.json"))->{panels} };
cmp_ok(scalar @panels, '>', 8, 'the dashboard has panels');
foreach my $panel (@panels)
{
	foreach my $target (@{ $panel->{targets} })
	{
		(my $expression = $target->{expr}) =~ s/\$__rate_interval/1m/g;
		$expression =~ s/\$datname/postgres/g;
		cmp_ok(scalar(query($expression)), '>', 0, "panel \"$panel->{title}\" has data: $target->{legendFormat}");
	}
}
is((query('sum(kapture_sync_table_pending)'))[0]{value}[1], '7', 'seven wait, says Prometheus');
wait_for(sub { query('ALERTS{alertname="KaptureRowsParked", alertstate="pending"}') }, 'an alert to be on its way');
pass('the parked row is noticed');

# --- the file of the counters: what is not ours is ignored, and reported
my $counters = "SELECT coalesce(min(since) < pg_postmaster_start_time(), false) FROM kapture_stat_requests";
my $file = $node->data_dir . '/pg_stat/kapture_sync.stat';
is(sql("SELECT count(*) > 0 FROM kapture_stat_requests"), 't', 'there are counters');
$node->stop;
my $saved = slurp_file($file);
sub restarted_with
{
	my ($make) = @_;
	my $log = -s $node->logfile;
	$make->();
	$node->start;
	return slurp_file($node->logfile, $log);
}
my $overwrite = sub { my ($content) = @_; return sub { open my $out, '>:raw', $file or die "$file: $!"; print $out $content; close $out } };
foreach my $case (
	[ 'an empty file', '' ],
	[ 'a file of another version', pack('LL', 0x6b617001, 0) . substr($saved, 8) ],
	[ 'more counters than there can be', pack('LL', unpack('L', $saved), 1025) . substr($saved, 8) ],
	[ 'a file that is cut off', substr($saved, 0, length($saved) - 1) ])
{
	my ($name, $content) = @$case;
	like(restarted_with($overwrite->($content)), qr/LOG:  ignoring invalid data in file "pg_stat\/kapture_sync.stat"/, $name);
	is(sql($counters), 'f', 'is ignored');
	$node->stop;
}
my $log = restarted_with(sub { $overwrite->($saved)->(); chmod 0, $file });
like($log, qr/LOG:  could not read file "pg_stat\/kapture_sync.stat": Permission denied/, 'a file that cannot be read');
chmod 0600, $file;
is(sql($counters), 'f', 'is not, either');
$node->stop;
unlike(restarted_with($overwrite->($saved)), qr/kapture_sync.stat/, 'the file as it was');
is(sql($counters), 't', 'has the counters');

# one that cannot be written: the counters are gone, and that is all
foreach my $case ([ 'no file can be made', sub { mkdir $_[0] }, sub { rmdir $_[0] } ], [ 'the disk is full', sub { symlink '/dev/full', $_[0] }, sub { unlink $_[0] } ])
{
	my ($name, $make, $remove) = @$case;
	my $from = -s $node->logfile;
	$make->("$file.tmp") or die $!;
	$node->stop;
	like(slurp_file($node->logfile, $from), qr/LOG:  could not write file "pg_stat\/kapture_sync.stat.tmp": /, $name);
	ok(!-e $file, 'and there is none');
	$remove->("$file.tmp");
	unlike(restarted_with(sub { }), qr/kapture_sync.stat/, 'nothing is read');
	is(sql($counters), 'f', 'and the counters begin anew');
	$node->stop;
	restarted_with($overwrite->($saved));
}

# without the library's shared memory
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
is(sql('SELECT count(*) FROM kapture_request_counters()'), '0', 'a server that has not preloaded the library counts nothing');
is(sql('SELECT kapture_stat_reset()'), '', 'and has nothing to reset');

$node->stop;
done_testing();
