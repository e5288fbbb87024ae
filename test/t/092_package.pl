# META.json is what PGXN takes (https://pgxn.org/spec/, 1.0.0), and tells of the
# version and the files that are here.
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
my ($oldest) = slurp_file("$top/src/base/compat.h") =~ /PG_VERSION_NUM < (\d+)\n#error/;
is($meta->{prereqs}{runtime}{requires}{PostgreSQL}, $oldest / 10000 . '.0.0', 'PostgreSQL is needed as src/base/compat.h needs it');

# Debian's package
my ($debian) = slurp_file("$top/debian/changelog") =~ /\A\S+ \(([^-)~+]+)/;
like($debian, qr/\A\Q$default_version\E(?:\.0)?\z/, 'the Debian package is of the same version');

done_testing();
