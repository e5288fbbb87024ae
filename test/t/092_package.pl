# What packagers find: META.json is what PGXN takes (its specification 1.0.0), and
# tells of the version and the files that are here; Debian's package has what it
# says; make says what is missing; no file names the host of a package registry.
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path("$FindBin::RealBin/../..");
my $meta = decode_json(slurp_file("$top/META.json"));
my ($default_version) = slurp_file("$top/kapture_sync.control") =~ /^default_version = '(.*)'$/m;
my $number = qr/(?:0|[1-9][0-9]*)/;
my $version = qr/$number\.$number\.$number(?:-?[A-Za-z][0-9A-Za-z-]*)?/;

# the keys that there may be; those with 1 must be there, and not be empty
sub keys_ok
{
	my ($object, $name, %known) = @_;
	my @wrong = ((map { "unknown: $_" } grep { !exists $known{$_} && !/^[xX]_/ } sort keys %$object),
		map { "missing: $_" } grep { $known{$_} && ($object->{$_} // '') eq '' } sort keys %known);
	return is(join(', ', @wrong), '', "$name has the keys it should");
}

keys_ok($meta, 'META.json',
	name => 1, version => 1, abstract => 1, maintainer => 1, license => 1, provides => 1, 'meta-spec' => 1,
	description => 0, generated_by => 0, tags => 0, no_index => 0, prereqs => 0, release_status => 0, resources => 0);
keys_ok($meta->{'meta-spec'}, 'meta-spec', version => 1, url => 0);
is($meta->{'meta-spec'}{version}, '1.0.0', 'it follows version 1.0.0 of the specification');
is($meta->{name}, 'kapture_sync', 'the distribution has the name of the extension');
like($meta->{version}, qr/\A$version\z/, 'its version is a semantic one');
is($meta->{version}, "$default_version.0", 'that of the control file');
is($meta->{license}, 'postgresql', 'the license is one that PGXN knows');
like(slurp_file("$top/LICENSE"), qr/PostgreSQL License/, 'and that of LICENSE');
ok(!ref $meta->{maintainer} || (ref $meta->{maintainer} eq 'ARRAY' && @{ $meta->{maintainer} } && !grep { ref || $_ eq '' } @{ $meta->{maintainer} }),
	'maintainers are strings');
like($meta->{release_status} // 'stable', qr/\A(?:stable|testing|unstable)\z/, 'the status of the release is one that PGXN knows');
is(join(' ', grep { ref || !length || length > 255 || m{[/\\[:cntrl:]]} } @{ $meta->{tags} }), '', 'tags are tags');
my %tags = map { lc $_ => 1 } @{ $meta->{tags} };
cmp_ok(scalar keys %tags, '>', 4, 'there are some to find it by');
is(scalar keys %tags, scalar @{ $meta->{tags} }, 'none twice');
my ($state) = slurp_file("$top/CHANGELOG.md") =~ /^## \Q$default_version\E \((.*)\)$/m;
is($meta->{release_status}, $state eq 'unreleased' ? 'unstable' : 'stable', 'it is released as CHANGELOG.md says');
is(join(' ', grep { !exists $meta->{$_} } qw(description prereqs release_status resources tags)), '', 'nothing that helps those who look for it is missing');

# where it is at home: addresses of the project's own host, which debian/ has, too
my $resources = $meta->{resources};
keys_ok($resources, 'resources', homepage => 1, bugtracker => 1, repository => 1);
keys_ok($resources->{bugtracker}, 'bugtracker', web => 1, mailto => 1);
keys_ok($resources->{repository}, 'repository', url => 1, web => 1, type => 1);
is($resources->{repository}{type}, 'git', 'the source is kept in git');
like($_, qr{\Ahttps://[\w.-]+/[\w./-]*\z}, "$_ is an address") foreach $resources->{homepage}, $resources->{bugtracker}{web}, @{ $resources->{repository} }{qw(url web)};
my ($maintainer) = slurp_file("$top/debian/control.in") =~ /^Maintainer: (.*)$/m;
is($meta->{maintainer}, $maintainer, "maintainers are those of Debian's package");
is($resources->{bugtracker}{mailto}, $maintainer =~ /<(.*)>/ ? $1 : '', 'and reports go to them');
my %at = map { m{(?:https://|\@)([\w.-]+)} ? ($1 => 1) : () } $maintainer, $resources->{homepage}, $resources->{bugtracker}{web}, @{ $resources->{repository} }{qw(url web)};
is(scalar keys %at, 1, 'all addresses are at one host: ' . join(' ', sort keys %at));

# what it provides
is(join(' ', keys %{ $meta->{provides} }), 'kapture_sync', 'it provides the extension');
my $extension = $meta->{provides}{kapture_sync};
keys_ok($extension, 'the extension', file => 1, version => 1, abstract => 0, docfile => 0);
is($extension->{version}, $meta->{version}, 'it is of the same version');
ok(-f "$top/$extension->{$_}", "$_ $extension->{$_} is there") foreach grep { $extension->{$_} } qw(file docfile);

# what it needs
foreach my $phase (sort keys %{ $meta->{prereqs} // {} })
{
	like($phase, qr/\A(?:configure|build|test|runtime|develop)\z/, "phase $phase is one that PGXN knows");
	foreach my $relation (sort keys %{ $meta->{prereqs}{$phase} })
	{
		my $needed = $meta->{prereqs}{$phase}{$relation};
		like($relation, qr/\A(?:requires|recommends|suggests|conflicts)\z/, "so is $relation");
		like($needed->{$_}, qr/\A(?:0|$version)\z/, "$_ $needed->{$_} is a version") foreach sort keys %$needed;
	}
}

# other extensions: those of the tests, each of which a test creates
my $tests = join '', map { slurp_file($_) } glob("$top/test/t/*.pl"), glob("$top/test/sql/*.sql");
my %created = map { $_ => 1 } 'plpgsql', $tests =~ /\bCREATE EXTENSION (\w+)/g;
foreach my $relation (qw(requires suggests))
{
	is(join(' ', grep { !$created{$_} } sort keys %{ $meta->{prereqs}{test}{$relation} }), '', "extensions that tests $relation are created by tests");
}
my ($oldest) = slurp_file("$top/src/base/compat.h") =~ /PG_VERSION_NUM < (\d+)\n#error/;
is($meta->{prereqs}{runtime}{requires}{PostgreSQL}, $oldest / 10000 . '.0.0', 'PostgreSQL is needed as src/base/compat.h needs it');

is(join(' ', grep { !-d "$top/$_" } @{ $meta->{no_index}{directory} }), '', 'what is not to be indexed is there');

# the tag of the image that the pages name
like(slurp_file("$top/docs/containers.md"), qr/kapture-sync-extension:\Q$default_version\E-\d+$/m, 'the image in docs/containers.md is of this version');

# Debian's package
my ($debian) = slurp_file("$top/debian/changelog") =~ /\A\S+ \(([^-)~+]+)/;
like($debian, qr/\A\Q$default_version\E(?:\.0)?\z/, 'the Debian package is of the same version');

my $control = slurp_file("$top/debian/control.in");
(my $written = slurp_file("$top/debian/control")) =~ s/postgresql-15-|\(PostgreSQL 15\)/PGVERSION/g;
(my $template = $control) =~ s/postgresql-PGVERSION-|\(PostgreSQL PGVERSION\)/PGVERSION/g;
is($written, $template, 'debian/control is that of debian/control.in');
like($control, qr/^Depends: .*\bca-certificates\b/m, 'without certificates no server can be trusted');
my $curl = join '.', map { hex } slurp_file("$top/Makefile") =~ /LIBCURL_VERSION_NUM < 0x(..)(..)00/;
like($control, qr/^$_: .*\blibcurl4\S* \(>= \Q$curl\E\)/m, "$_ has the libcurl that make asks for") foreach 'Depends', 'Build-Depends';
foreach my $file (qw(README.md CONTRIBUTING.md docs script/live.sql CHANGELOG.md))
{
	like(slurp_file("$top/debian/rules"), qr/^\tdh_install\w+ .*\Q$file\E/m, "the package has $file");
	ok(-e "$top/$file", 'which is there');
}
ok(-x "$top/debian/tests/installcheck", 'the package is tested as it is installed');
like(slurp_file("$top/debian/tests/control"), qr/^Tests: installcheck$/m, "which Debian's test runner knows");
like(slurp_file("$top/script/package"), qr{\bdebian/tests/installcheck\b}, 'and script/package runs');

# whoever builds the package runs them, under whatever name
is(join(' ', grep { slurp_file($_) =~ /"postgres"|\bfor postgres\b/i } glob("$top/test/expected/*.out")), '', 'no regression test expects a role named postgres');

# make, without what it needs
sub make_says
{
	my ($name, $message, @arguments) = @_;
	my ($out, $err) = run_command([ 'make', '-n', '-C', $top, @arguments ]);
	like($err, $message, $name);
	return;
}
make_says('without PostgreSQL, make says what to install', qr/"nowhere" is not there.*\(Debian: postgresql-server-dev-15, or of another version\), or set PG_CONFIG=/, 'PG_CONFIG=nowhere');
make_says('and without its headers', qr/"true" is not there, or does not know where the headers.*are/, 'PG_CONFIG=true', 'install');
make_says("and without libcurl's", qr/headers of libcurl, \Q$curl\E or later, are not there.*\(Debian: libcurl4-openssl-dev\)/, 'CC=cc -nostdinc');
make_says('where nothing is compiled, it does without', qr/^$/, 'CC=cc -nostdinc', 'clean');
make_says('as does the emulator', qr/^$/, 'PG_CONFIG=nowhere', 'emulator');
make_says('which needs other headers', qr/headers of libmicrohttpd and jansson.* are not there.*\(Debian: libmicrohttpd-dev and libjansson-dev\)/, 'CC=cc -nostdinc', 'emulator');

# hosts of registries, of the distributions' packages and of languages'
my $hosts = join '|', map { quotemeta } map { "$_->[0].$_->[1]" } [ 'pgxn', 'org' ], [ 'deb.debian', 'org' ], [ 'npmjs', 'org' ], [ 'npmjs', 'com' ],
  [ 'pypi', 'org' ], [ 'crates', 'io' ], [ 'docker', 'io' ], [ 'docker', 'com' ], [ 'ghcr', 'io' ], [ 'quay', 'io' ], [ 'apt.postgresql', 'org' ];
my @named = split /\n/, `cd '$top' && { git ls-files 2>/dev/null || find . -type f -not -path '*/tmp_check/*' -not -path '*/node_modules/*'; } | xargs -d '\\n' grep -lIE '$hosts' 2>/dev/null`;
is("@named", '', 'no file names the host of a package registry');

done_testing();
