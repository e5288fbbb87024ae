# The state of many servers and tables, of those that are no more, and of more
# than there is room for.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

# what src/cluster/shmem.c has room for
my $top = "$FindBin::RealBin/../..";
my ($room) = slurp_file("$top/src/cluster/shmem.c") =~ /^#define SHMEM_MAX_REPORTS\s+(\d+)/m;
my $most = $room + 76;

my $emulator = start_emulator();
my $node = new_node('main');
shorthand($node, $emulator, qw(sql));
setup_sync($node, $emulator);
create_customers($node);

# Attaches tables number $from to $to, each with a server of its own.
sub attach
{
	my ($from, $to) = @_;
	sql(qq(DO \$\$
BEGIN
	FOR i IN $from .. $to LOOP
		EXECUTE format('CREATE SERVER server%s FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url %L)', i, '$emulator->{url}');
		EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER server%s OPTIONS (auth_key ''a2FwZGVtbzprYXAxMjM='')', i);
		EXECUTE format('CREATE TABLE table%s (id int PRIMARY KEY, customer_name text, phone text)', i);
		PERFORM kapture_attach(format('table%s', i), server => format('server%s', i)::name);
	END LOOP;
END \$\$));
	return;
}

# --- as many as there may be in a cluster of some size
attach(1, 100);
poll_ok($node, "SELECT count(*) = 101 AND bool_and(state = 'running' AND server_state = 'ok') FROM kapture_status", 'the state of a hundred servers is shown');
sql("DROP USER MAPPING FOR CURRENT_USER SERVER server77");
poll_ok($node, "SELECT string_agg(server, ' ') = 'server77' FROM kapture_status WHERE server_state <> 'ok'", 'each has its own');

# --- a change has its own table looked at, not all of them
sub looks
{
	restart_worker($node);
	poll_ok($node, "SELECT count(*) = 101 AND bool_and(state = 'running') FROM kapture_status", 'all tables are served');
	return sql("SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE indexrelname IN ('kapture_outbox_scan', 'kapture_outbox_keys')");
}
my $looks = looks();
foreach my $i (1 .. 40)
{
	sql("INSERT INTO table$i VALUES (1, 'Name $i', (9400000000 + $i)::text)");
	poll_ok($node, "SELECT kapture_id('table$i', '1') IS NOT NULL", "a row of table $i is sent");
}
# a worker looks at each once when it begins; 40 * 100 if each change had all looked at
$looks = looks() - $looks;
note("$looks looks at the outbox");
cmp_ok($looks, '<', 2000, 'a change has its own table looked at');

# --- servers that nothing goes to any more have none
sql("SELECT kapture_detach('table77')");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_server_states() WHERE server = 'server77'", 'a server without a table is no longer misconfigured');
sql("SELECT kapture_detach('table78'); DROP SERVER server78 CASCADE");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_server_states() WHERE server = 'server78'", 'nor is one that was dropped');
sql("SELECT kapture_attach('table77', server => 'kapture')");
poll_ok($node, "SELECT state = 'running' AND server_state = 'ok' FROM kapture_status WHERE relation = 'table77'::regclass", 'the table may go elsewhere');
is(sql("SELECT count(*) FROM kapture_server_states()"), '99', 'nothing else is shown');

# --- more than that
attach(101, $most);
wait_for(sub { $node->log_contains(qr/too many servers or attached tables in this cluster for kapture_status to report/) }, 'the log to say that there is no room');
pass('the log says that there is no room');
poll_ok($node, "SELECT count(*) = $room FROM kapture_server_states()", 'there is room for so many');
is(sql("SELECT count(*), count(server_state), bool_and(state = 'running') FROM kapture_status"), ($most) . '|' . ($room + 1) . '|t', 'of others, the state is not known');
my $hidden = sql("SELECT relation FROM kapture_status WHERE server_state IS NULL ORDER BY 1 LIMIT 1");
sql("INSERT INTO $hidden VALUES (1, 'Hidden', '9845765226')");
poll_ok($node, "SELECT kapture_customer_id IS NOT NULL FROM $hidden", 'their rows are sent all the same');
my $server = sql("SELECT server FROM kapture_status WHERE relation = '$hidden'::regclass");
is(sql("SELECT string_agg(step, ' ') FROM kapture_check('$server') WHERE ok IS NOT true"), '', 'and kapture_check finds nothing wrong');
my @logged = slurp_file($node->logfile) =~ /(for kapture_status to report)/g;
is(scalar @logged, 1, 'the log has said it once');

# --- room is given back
sql("SELECT count(kapture_detach(format('table%s', i))) FROM generate_series(1, 76) i");
poll_ok($node, "SELECT count(*) = 0 FROM kapture_status WHERE server_state IS NULL", 'others may have the room of those that were detached');

$node->stop;
done_testing();
