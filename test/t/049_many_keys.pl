# More changes of keys than the worker holds in memory: commands that move all rows,
# large transactions and many small ones, which the worker finds all at once.  Each row
# arrives with its values, once, and the worker's memory is bounded.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $n = 15000;
my $emulator = start_emulator();
my $node = new_node('main');
# what a process touches of them counts as its memory
$node->append_conf('postgresql.conf', "shared_buffers = '2MB'\nwork_mem = '256MB'\n");
$node->restart;
setup_sync($node, $emulator);
sub sql { return $node->safe_psql('postgres', $_[0]) }

# The most memory that the worker has had, in kB.
sub most
{
	slurp_file('/proc/' . sql('SELECT kapture_worker_pid()') . '/status') =~ /^VmHWM:\s+(\d+) kB/m or die 'no memory of the worker';
	return $1;
}

# Each row has its customer, with its values, and nobody else is there.
sub judge
{
	my ($name) = @_;
	my @local = map { my @values = split /\|/, $_, -1; \@values } split /\n/, sql('SELECT kapture_customer_id, customer_name, phone, city FROM moving');
	my %customers = map { $_->{kapture_customer_id} => $_ } @{ emulator_get($emulator, 'customers') };
	my @wrong = grep { my $c = $customers{ $_->[0] }; !$c || $c->{customer_name} ne $_->[1] || $c->{phone} ne $_->[2] || $c->{city} ne $_->[3] } @local;

	is(scalar @wrong, 0, "$name: each row has its customer") or diag(join ' ', @{ $wrong[0] });
	is(scalar keys %customers, scalar @local, "$name: nobody is there twice");
	return;
}

# What is done while the table is paused is found all at once.
sub moved
{
	my ($name, @commands) = @_;

	sql("SELECT kapture_pause('moving')");
	sql($_) foreach @commands;
	restart_worker($node);
	my $before = most();
	sql("SELECT kapture_resume('moving')");
	poll_ok($node, "SELECT NOT EXISTS (SELECT FROM kapture_outbox WHERE op NOT IN ('i', 'u'))", "$name: the worker knows the keys");
	memory_ok(most() - $before, 64 * 1024, "$name: in bounded memory");
	# one that does not have the table's owner wait for the time that this took
	restart_worker($node);
	poll_ok($node, 'SELECT sum(pending + in_flight + retrying) = 0 FROM kapture_status', "$name: all is sent");
	judge($name);
	return;
}

sql(q(CREATE TABLE moving (id bigint, customer_name text, phone text, city text, PRIMARY KEY (id) DEFERRABLE); SELECT kapture_attach('moving')));

my $insert = "INSERT INTO moving SELECT i, 'Row ' || i, (9000000000 + i)::text, 'Pune' FROM generate_series(1, $n) i";
my $loop = "DO \$\$ BEGIN FOR i IN 1 .. $n LOOP"
  . " UPDATE moving SET id = id + 1000000, city = 'Goa' WHERE id = i; UPDATE moving SET city = 'Agra' WHERE id = i + 1; IF i % 10 = 0 THEN COMMIT; END IF; END LOOP; END \$\$";

moved('rows that were not sent before', $insert,
	# all at once would take far more memory
	(map { "UPDATE moving SET id = id + $_" } 100000, 100000, 100000, -100000, -100000, -100000),
	# one command: neighbours take each other's keys
	'UPDATE moving SET id = id + 1',
	"UPDATE moving SET city = 'Kochi' WHERE id % 3 = 0",
	# one transaction, with other changes before, between and after
	"BEGIN; UPDATE moving SET city = city || ' 1' WHERE id % 5 = 0; UPDATE moving SET id = $n + 2 - id; UPDATE moving SET city = city || ' 2' WHERE id % 7 = 0;"
	  . " UPDATE moving SET id = id - 1, city = city || ' 3'; UPDATE moving SET city = city || ' 4' WHERE id = 77; COMMIT");
moved('rows that were sent', $loop, "UPDATE moving SET id = id - 1000000; UPDATE moving SET city = 'Delhi' WHERE id <= 1000");
# all rows are deleted and inserted again by one command, some of them under keys that others had
moved('rows that come back', "WITH gone AS (DELETE FROM moving RETURNING *) INSERT INTO moving SELECT CASE WHEN id % 2 = 0 THEN id ELSE id + 2 END, customer_name, phone, 'Surat', kapture_customer_id FROM gone",
	'UPDATE moving SET id = -id');
is(sql("SELECT count(*) FROM kapture_row WHERE gone_at IS NULL AND row_key::bigint NOT IN (SELECT id FROM moving)"), '0', 'what is known of rows has their keys');

# many rows wait, and are gone
my $many = 300000;
sql(qq(SELECT kapture_pause('moving');
INSERT INTO kapture_delivery (attachment_id, row_key, state, changed, captured_at, last_attempt, next_attempt)
	SELECT attachment_id, i, 'retry', 1, now(), now(), now() + '1 day' FROM kapture_attachment, generate_series(1000000, 1000000 + $many - 1) i WHERE relation = 'moving'::regclass;
TRUNCATE moving));
restart_worker($node);
my $before = most();
sql("SELECT kapture_resume('moving')");
poll_ok($node, 'SELECT NOT EXISTS (SELECT FROM kapture_delivery WHERE row_key IS NOT NULL)', 'rows that waited are gone');
memory_ok(most() - $before, 64 * 1024, 'in bounded memory');

$node->stop;
done_testing();
