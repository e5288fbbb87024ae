# The checks of test/unit, in a single-user backend: no server is started.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use IPC::Run ();
use Test::More;

my $top = abs_path(dirname(__FILE__) . '/../..');
my $library = "$top/test/unit/kapture_units.so";
my $dir = tempdir('kapture_unitsXXXX', TMPDIR => 1, CLEANUP => 1);
my ($out, $err) = ('', '');

ok(-e $library, 'the checks are built ("make units")');
IPC::Run::run([ 'initdb', '-D', "$dir/data", '-A', 'trust', '-U', 'postgres', '--locale=C.UTF-8' ], '>', \$out, '2>', \$err)
  or BAIL_OUT("initdb: $err");
($out, $err) = ('', '');
IPC::Run::run([ 'postgres', '--single', '-j', '-D', "$dir/data", '-c', 'fsync=off', '-c', 'timezone=UTC', '-c', 'datestyle=ISO', 'postgres' ],
	'<', \"CREATE FUNCTION kapture_units() RETURNS void LANGUAGE c AS '$library';\n\nSELECT kapture_units();\n\n",
	'>', \$out, '2>', \$err);
my @lines = $out =~ /^(?:\w*> )*((?:not )?ok \d+ - .*|#.*)$/mg;
my ($plan) = $out =~ /^1\.\.(\d+)$/m;
foreach my $line (@lines)
{
	if ($line =~ /^(not )?ok \d+ - (.*)/) { ok(!$1, $2) }
	else { diag($line) }
}
cmp_ok($plan || 0, '>', 150, 'all checks were run') or diag($err, $out);
is(scalar(grep { /ok \d+/ } @lines), $plan || 0, 'and each has its line');

done_testing();
