# The recipe of docs/install.md for a role that owns the sync without being a superuser.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $emulator = start_emulator();
my $node = new_node('main');
my $top = abs_path("$FindBin::RealBin/../..");
my ($roles) = slurp_file("$top/docs/install.md") =~ /^## Roles\n(.*?)^###? /ms;
my @recipe = $roles =~ /^```postgresql\n(.*?)^```$/msg;
is(scalar @recipe, 2, 'docs/install.md has a recipe of two parts');
s/https:\/\/acme\.kapturecrm\.com/$emulator->{url}/, s/DATABASE crm/DATABASE postgres/, s/auth_key '\.\.\.'/auth_key 'a2FwZGVtbzprYXAxMjM='/ foreach @recipe;

# as somebody: the error, or the output
sub as
{
	my ($role, $sql) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-U', $role ]);
	return $rc == 0 ? $out : $err;
}

$node->safe_psql('postgres', "CREATE ROLE nobody LOGIN; GRANT CREATE ON DATABASE postgres TO nobody; GRANT CREATE ON SCHEMA public TO nobody");
like(as('nobody', "CREATE EXTENSION kapture_sync"), qr/permission denied to create extension "kapture_sync".*superuser/s,
	'CREATE EXTENSION wants a superuser, and says so');
$node->safe_psql('postgres', $recipe[0]);
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'kapture%'"), '0', 'no role is made behind the user\'s back');
like(as('nobody', $recipe[1]), qr/permission denied for foreign-data wrapper kapture_fdw/, 'a server wants USAGE on the wrapper');
is(as('crm_owner', "SET client_min_messages = warning; $recipe[1]"), '', 'with it, a role does the rest alone');

like(as('crm_clerk', "INSERT INTO customers (customer_name, phone) SELECT 'By clerk', (9000000000 + i)::text FROM generate_series(1, 20) i; SELECT 'done'"),
	qr/^done$/, 'another may write the table');
poll_ok($node, "SELECT count(kapture_customer_id) = 20 FROM customers", 'and its rows are sent');
oracle_ok($node, $emulator, 'as they are');

# operating
as('crm_clerk', "INSERT INTO customers (customer_name, phone) VALUES ('Refused', '1')");
poll_ok($node, "SELECT parked = 1 FROM kapture_status", 'a row is parked');
is(as('crm_owner', "SELECT relation, state, parked FROM kapture_status"), 'customers|running|1', 'the owner sees the status');
is(as('crm_owner', "SELECT row_key, http_status FROM kapture_failures"), '21|', 'and the failure, which took no request');
is(as('crm_owner', "SELECT kapture_retry('customers')"), '1', 'may retry');
poll_ok($node, "SELECT attempts > 1 AND state = 'parked' FROM kapture_failures", 'in vain');
is(as('crm_owner', "SELECT kapture_discard('customers')"), '1', 'and discard');
is(as('crm_owner', "SELECT kapture_pause('customers'); SELECT state FROM kapture_status; SELECT kapture_resume('customers')"), "\npaused\n", 'pause and resume');
as('crm_owner', "DELETE FROM customers WHERE phone = '1'");
like(as('crm_owner', q(SELECT kapture_get_customer('{"phone": "9000000001"}'))), qr/By clerk/, 'and call Kapture');
is(as('crm_owner', "ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET auth_key 'd3Jvbmc=')"), '', 'it changes its key');
as('crm_clerk', "UPDATE customers SET city = 'Pune'");
poll_ok($node, "SELECT server_state = 'denied' FROM kapture_status", 'to a wrong one');
is(as('crm_owner', "ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET auth_key 'a2FwZGVtbzprYXAxMjM=')"), '', 'and back');
poll_ok($node, "SELECT pending + in_flight + retrying = 0 FROM kapture_status", 'and what waited is sent');
oracle_ok($node, $emulator, 'nothing is lost');
like(as('crm_clerk', "SELECT count(*) FROM kapture.kapture_status"), qr/permission denied for schema kapture/, 'others do not get at its objects');
$node->safe_psql('postgres', 'GRANT USAGE ON SCHEMA kapture TO crm_clerk');
is(as('crm_clerk', "SELECT count(*) FROM kapture_status"), '0', 'or see nothing of it');
like(as('crm_clerk', q(SELECT kapture_get_customer('{"phone": "9000000001"}'))), qr/permission denied for foreign server kapture/, 'nor may they call');

# the owner leaves
my $pid = $node->safe_psql('postgres', "SELECT kapture_worker_pid()");
$node->safe_psql('postgres', "DROP OWNED BY crm_owner CASCADE; DROP ROLE crm_owner");
is($node->safe_psql('postgres', "SELECT count(*) FROM kapture_status"), '0', 'with its owner goes its sync');
setup_sync_again();
poll_ok($node, "SELECT count(kapture_customer_id) = 1 FROM customers", 'the worker lives on');
is($node->safe_psql('postgres', "SELECT kapture_worker_pid()"), $pid, 'as the same process');
$node->stop;

sub setup_sync_again
{
	emulator_post($emulator, 'reset', {});
	$node->safe_psql('postgres', qq(
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$emulator->{url}');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=')));
	create_customers($node);
	$node->safe_psql('postgres', "INSERT INTO customers (customer_name, phone) VALUES ('Next', '9100000001')");
	return;
}

done_testing();
