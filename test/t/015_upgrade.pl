# ALTER EXTENSION UPDATE: an updated database is like a fresh one, and sends
# what waited in it, once.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use KaptureTest;
use Test::More;

# All that the catalogs say of the extension and what belongs to it, in names.
my $members = qq(
SELECT d.classid, d.objid, d.refobjid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'kapture_sync');
my $relations = "SELECT objid FROM members WHERE classid = 'pg_class'::regclass";
my %catalog = (
	'members' => "SELECT pg_describe_object(classid, objid, 0), i.initprivs::text FROM members m"
	  . " LEFT JOIN pg_init_privs i ON i.classoid = m.classid AND i.objoid = m.objid AND i.objsubid = 0",
	'extension' => "SELECT extversion, extrelocatable, extnamespace::regnamespace, obj_description(oid, 'pg_extension'),"
	  . " ARRAY(SELECT c::regclass::text FROM unnest(extconfig) c ORDER BY 1), extcondition"
	  . " FROM pg_extension WHERE extname = 'kapture_sync'",
	'functions' => "SELECT oid::regprocedure, CASE WHEN prokind IN ('f', 'p') THEN pg_get_functiondef(oid) END,"
	  . " proacl, proowner::regrole, obj_description(oid, 'pg_proc')"
	  . " FROM pg_proc WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_proc'::regclass)",
	'types' => "SELECT t.oid::regtype, typtype, typlen, typbyval, typacl, typowner::regrole, obj_description(t.oid, 'pg_type'),"
	  . " pg_get_expr(typdefaultbin, 0), ARRAY(SELECT enumlabel::text FROM pg_enum e WHERE enumtypid = t.oid ORDER BY enumsortorder)"
	  . " FROM pg_type t WHERE t.oid IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass)"
	  . " OR t.typrelid IN ($relations)",
	'relations' => "SELECT oid::regclass, relkind, relpersistence, relacl, relowner::regrole, reloptions, relrowsecurity,"
	  . " relforcerowsecurity, relreplident, relispartition, obj_description(oid, 'pg_class'),"
	  . " CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(oid) END"
	  . " FROM pg_class WHERE oid IN ($relations UNION ALL SELECT typrelid FROM pg_type"
	  . " WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass))",
	# some servers stamp columns with an option of their own, pg_attver
	'columns' => "SELECT a.attrelid::regclass, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attidentity,"
	  . " attgenerated, attstorage, attcompression, attcollation, attacl, attisdropped,"
	  . " ARRAY(SELECT o FROM unnest(attoptions) o WHERE split_part(o, '=', 1) <> 'pg_attver') AS options,"
	  . " pg_get_expr(adbin, adrelid), col_description(a.attrelid, attnum)"
	  . " FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
	  . " WHERE attnum > 0 AND a.attrelid IN ($relations UNION ALL SELECT typrelid FROM pg_type"
	  . " WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass))",
	'constraints' => "SELECT conrelid::regclass, conname, contype, condeferrable, condeferred, convalidated,"
	  . " pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE conrelid IN ($relations)",
	'indexes' => "SELECT indrelid::regclass, pg_get_indexdef(indexrelid), indisprimary, indisreplident, indisclustered, indisvalid,"
	  . " obj_description(indexrelid, 'pg_class') FROM pg_index WHERE indrelid IN ($relations)",
	'policies' => "SELECT polrelid::regclass, polname, polcmd, polpermissive, polroles::regrole[],"
	  . " pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid), obj_description(oid, 'pg_policy')"
	  . " FROM pg_policy WHERE polrelid IN ($relations)",
	'triggers' => "SELECT tgrelid::regclass, tgenabled, pg_get_triggerdef(oid), obj_description(oid, 'pg_trigger')"
	  . " FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN ($relations)",
	'rules' => "SELECT ev_class::regclass, rulename, ev_enabled FROM pg_rewrite WHERE ev_class IN ($relations)",
	'sequences' => "SELECT seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle"
	  . " FROM pg_sequence WHERE seqrelid IN ($relations)",
	'wrappers' => "SELECT fdwname, fdwhandler::regproc, fdwvalidator::regproc, fdwoptions, fdwacl, fdwowner::regrole,"
	  . " obj_description(oid, 'pg_foreign_data_wrapper') FROM pg_foreign_data_wrapper"
	  . " WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_foreign_data_wrapper'::regclass)");

sub catalog
{
	my ($node, $db, $what) = @_;
	return $node->safe_psql($db, "WITH members AS ($members) SELECT row_to_json(x)::text FROM ($catalog{$what}) x ORDER BY 1");
}

# Are two lists of lines equal?  Else shows where they differ.
sub same
{
	my ($got, $expected, $name) = @_;
	my %got = map { $_ => 1 } split /\n/, $got;
	my %expected = map { $_ => 1 } split /\n/, $expected;
	my @differences = ((map { "only here: $_" } grep { !$expected{$_} } sort keys %got),
		map { "missing: $_" } grep { !$got{$_} } sort keys %expected);
	return ok($got eq $expected, $name) || diag(join "\n", @differences);
}

my $emulator = start_emulator();
my $node = new_node('main');

# every released version, brought to the current one
my $current = $node->safe_psql('postgres', "SELECT default_version FROM pg_available_extensions WHERE name = 'kapture_sync'");
my @released = split /\n/, $node->safe_psql('postgres',
	"SELECT version FROM pg_available_extension_versions WHERE name = 'kapture_sync' AND version <> '$current' ORDER BY 1");
cmp_ok(scalar @released, '>=', 1, 'there are earlier versions');
$node->safe_psql('postgres', "CREATE DATABASE fresh");
$node->safe_psql('fresh', "CREATE EXTENSION kapture_sync");
my %fresh = map { $_ => catalog($node, 'fresh', $_) } keys %catalog;
like($fresh{members}, qr/function kapture_attach\(/, 'the comparison sees functions');
like($fresh{columns}, qr/"attname":"row_key".*"col_description":"primary key/, 'and columns with their comments');
foreach my $version (@released)
{
	(my $db = "from_$version") =~ s/\W/_/g;
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, "CREATE EXTENSION kapture_sync VERSION '$version'");
	$node->safe_psql($db, "ALTER EXTENSION kapture_sync UPDATE");
	same(catalog($node, $db, $_), $fresh{$_}, "updated from $version: $_ are those of a fresh $current") foreach sort keys %catalog;
}

$node->stop;
done_testing();
