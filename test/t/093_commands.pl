# Each shell command of README and docs/ runs, or is known to be what another
# test runs; one that nobody knows of fails this test.
# The same on all versions of PostgreSQL (script/test --divide).
use strict;
use warnings;

use Cwd qw(abs_path);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run ();
use KaptureTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = abs_path("$FindBin::RealBin/../..");
my @files = map { s{^\Q$top\E/}{}r } "$top/README.md", "$top/CONTRIBUTING.md", glob("$top/docs/{,dev/}*.md"), "$top/test/README.md", "$top/test/fuzz/README.md";
my %text = map { $_ => slurp_file("$top/$_") } @files;
my $test = slurp_file("$top/script/test");
my $dir = PostgreSQL::Test::Utils::tempdir();

my $emulator = start_emulator();
my $node = new_node('main');
setup_sync($node, $emulator);
create_customers($node);

# Runs a block in a copy of the source, as a user would; root's part of it goes
# below a directory of ours.
my $source = "$dir/source";
my $installed = "$dir/installed";
sub run_block
{
	my ($block, $name) = @_;
	my $out = '';

	if (!-d $source)
	{
		mkdir $_ foreach $source, "$dir/bin";
		system_or_bail("cd '$top' && tar cf - --exclude=tmp_check --exclude=node_modules --exclude=.git . | tar xf - -C '$source'");
		append_to_file("$dir/bin/sudo", "#!/bin/sh\nexec \"\$@\"\n");
		chmod 0755, "$dir/bin/sudo";
	}
	local %ENV = (%ENV, PATH => "$dir/bin:$ENV{PATH}", DESTDIR => $installed, MAKEFLAGS => '-j2',
		PGHOST => $node->host, PGPORT => $node->port, KAPTURE_EMULATOR_URL => $emulator->{url});
	delete @ENV{qw(TESTDIR TESTDATADIR TESTLOGDIR PG_REGRESS)};
	ok(IPC::Run::run([ 'bash', '-euc', "cd '$source'\n$block" ], '<', \undef, '>', \$out, '2>&1'), "$name runs") or diag($out);
	return $out;
}

# A script says, asked for what it does not know, which options it has.
sub has_option
{
	my ($script, $option) = @_;
	my $out = '';

	IPC::Run::run([ "$top/script/$script", '--nonsense' ], '<', \undef, '>', \$out, '2>&1');
	like($out, qr/\bscript\/$script\b.*\Q$option\E(?![\w-])/s, "script/$script has $option");
	return;
}

# script/test, which runs this, has a line that runs it.
sub is_run_by_suite
{
	my ($pattern) = @_;
	like($test, $pattern, "script/test runs it: $pattern");
	return;
}

sub run_live_view
{
	my $out = '';
	my $view = IPC::Run::start([ 'psql', '-X', '-d', $node->connstr('postgres'), '-f', "$top/script/live.sql" ], '<', \undef, '>', \$out, '2>&1');

	wait_for(
		sub {
			IPC::Run::pump_nb($view);
			(my $seen = $out) =~ s/\e\[[0-9;]*[mHJ]//g;
			return $seen =~ /customers to kapture: .*customers to kapture: /s;
		},
		'the live view to be shown twice');
	$view->kill_kill;
	pass('psql shows the live view again and again');
	return;
}

my %commands = (
	'script/test' => sub {
		like(slurp_file("$top/.ci/run"), qr{exec script/test\b}, 'script/test is what continuous integration runs');
	},
	'script/test --pg 18' => sub {
		has_option('test', '--pg');
		like(slurp_file("$top/.ci/run"), qr{script/test .*--pg 18\b}, 'on PostgreSQL 18, too');
	},
	'script/test --pg 15 --pg 18 --divide' => sub {
		has_option('test', '--divide');
		like(slurp_file("$top/.ci/run"), qr{script/test --pg 15 --pg 18 --divide$}m, 'as continuous integration has it');
	},
	'script/test --long' => sub { has_option('test', '--long') },
	'script/test --cassert' => sub { has_option('test', '--cassert') },
	'script/test --asan test/t/040_operating.pl' => sub {
		has_option('test', '--asan');
		ok(-e "$top/test/t/040_operating.pl", 'and there is that test');
	},
	'--all' => sub { has_option('test', '--all') },
	'--cassert' => sub { has_option('test', '--cassert') },
	'--asan' => sub { has_option('test', '--asan') },
	'--valgrind' => sub { has_option('test', '--valgrind') },
	'script/soak --minutes N' => sub { has_option('soak', '--minutes') },
	'script/indent' => sub { like(slurp_file("$top/test/t/094_layers.pl"), qr{/\.\./script/indent'}, 'a test runs it') },
	'script/reference --write' => sub { has_option('reference', '--write') },
	'script/live_picture --write' => sub {
		# a run of two seconds: before, in and after an outage
		my $screen = sub {
			my ($server, $waiting, $colour) = @_;
			return "\e[H\e[2J\e[1mkapture_sync\e[0m  crm  12:00:00\n\n\e[1mcustomers\e[0m to kapture: \e[32mrunning\e[0m, server \e[${colour}m$server\e[0m\n"
			  . "  waiting        $waiting  \e[36m████\e[0m\n  retrying             0  \e[33m\e[0m\n";
		};
		my $log = "$dir/live.log";
		open my $out, '>', $log or die $!;
		print $out $screen->('ok', '1,111', 32), $screen->('failing', '2,222', 31), $screen->('ok', '1,234', 32), $screen->('ok', '0', 32);
		close $out;
		my $picture = '';
		ok(IPC::Run::run([ "$top/script/live_picture", $log ], '>', \$picture), 'script/live_picture draws');
		like($picture, qr{>1,234</text>}, 'what was seen after the outage');
		unlike($picture, qr/1,111|2,222/, 'not before it, or in it');
		like($picture, qr/<rect [^>]*fill="#66d9e8"/, 'and the bars');
	},
	'script/indent' => sub { ok(-x "$top/script/indent", 'script/indent is there') },
	'script/docs' => sub {
		has_option('docs', 'DIR');
		is_run_by_suite(qr{/script/docs" });
	},
	'make emulator' => sub { ok(-x "$top/test/emulator/kapture-emulator" || $ENV{KAPTURE_EMULATOR}, 'the tests have made it') },
	'--try' => sub {
		has_option('package', '--try');
		is_run_by_suite(qr{/script/package" --try 15\b});
	},
	'script/package 15' => sub { has_option('package', 'MAJOR') },
	'script/container' => sub {
		has_option('container', 'MAJOR');
		is_run_by_suite(qr{/script/container" 15\b});
	},
	'script/demo' => sub {
		has_option('demo', '--once');
		is_run_by_suite(qr{/script/demo" --live 3\b});
		# what it proposes to try next works where it has got to
		my @next = slurp_file("$top/script/demo") =~ /^    ((?:INSERT|SELECT|CALL) .*;)$/mg;
		is(scalar @next, 3, 'script/demo ends with three lines to try next');
		foreach my $line (@next)
		{
			my ($rc, $out, $err) = $node->psql('postgres', $line);
			is($rc, 0, "which run: $line") or diag($err);
		}
	},
	'script/demo --live' => sub { has_option('demo', '--live') },
	'script/demo --stop' => sub {
		local $ENV{KAPTURE_DEMO_DIR} = "$dir/no demo";
		command_like([ "$top/script/demo", '--stop' ], qr/^stopped$/, 'script/demo --stop has nothing to stop');
	},
	'script/fuzz 60' => sub { is_run_by_suite(qr{/script/fuzz" 60\b}) },
	'script/fuzz --run FILE' => sub { has_option('fuzz', '--run FILE') },
	'script/fuzz --minimize DIR' => sub { has_option('fuzz', '--minimize DIR') },
	'script/bench' => sub {
		has_option('bench', '--quick');
		command_fails_like([ "$top/script/bench", 'nonsense' ], qr/no such part: nonsense/, 'and knows its parts');
	},
	'script/mutate N' => sub {
		has_option('mutate', '--seed');
		has_option('mutate', '--patch');
		my $places = sub { (run_command([ $^X, "$top/test/mutate/places.pl", @_ ]))[0] };
		my @files = map { s{^\Q$top\E/src/}{}r } glob "$top/src/{,*/}*.c";
		like($places->('table', "$top/test/mutate/tests", "$top/test/t", @files), qr/^regress$/m, 'test/mutate/tests has tests for each file of src/');
		append_to_file("$dir/sample.c", <<'END');
/* a == b */
int
sample(int a, const char *text)
{
	if (a < 2 && strcmp(text, " a == b ") == 0)
		return 0;
	a += 7;
	note(a, "WHERE state IS NULL");
	return a;
}
END
		my ($list, $again, $other) = map { $places->('list', $_, "$dir/sample.c") } 3, 3, 4;
		is($again, $list, 'a seed gives the same places again');
		isnt($other, $list, 'and another one others');
		my %made;
		foreach my $seed (1 .. 40)
		{
			$made{ $places->('apply', $_) } = 1 foreach split /\n/, $places->('list', $seed, "$dir/sample.c");
		}
		my $all = join "\0", keys %made;
		like($all, $_, "it makes: $_")
		  foreach qr/if \(a <= 2 && strcmp/, qr/if \(a < 3 && /, qr/a < 2 \|\| strcmp/, qr/if \(!\(a < 2 && .* == 0\)\)/, qr/== b "\) != 0\)/, qr/^\t;\n\tnote/m,
		  qr/^\ta -= 7;/m, qr/^\ta \+= 8;/m, qr/^\tnote.*\n\ta \+= 7;/m, qr/"WHERE state IS NOT NULL"/, qr/^\treturn 0;\n\}/m;
		unlike($all, qr/a != b/, 'and no mistakes in comments and strings');
	},
	'script/coverage' => sub {
		my $page = slurp_file("$top/docs/dev/coverage.md");
		my @unknown = grep { index($page, "| `$_` |") < 0 } map { s{.*/src/}{}r } glob "$top/src/{,*/}*.c";
		is("@unknown", '', 'the page of script/coverage has all files');
		cmp_ok($page =~ /^\| all \| \d+ \| \d+ \| ([\d.]+) %/m ? $1 : 0, '>=', 95, 'and says that the tests reach 95 % of the lines');
	},
	'psql -f script/live.sql' => \&run_live_view,
	'--extend.query-path' => sub { like(slurp_file("$top/test/t/042_metrics.pl"), qr/'prometheus-postgres-exporter', split/, 'the exporter runs as documented') },
	'promtool test rules' => sub { like(slurp_file("$top/test/t/042_metrics.pl"), qr/\[ 'test', 'rules', 'alerts_test.yml' \]/, 'promtool tests the rules') },
	'pg_restore -j' => sub { like(slurp_file("$top/test/t/013_dump_restore.pl"), qr/'pg_restore', .*'-j/, 'pg_restore runs in parallel') },
);

# by file and first line
my %blocks = (
	'README.md: make && sudo make install' => sub {
		my ($block) = @_;
		run_block($block, 'what README has to install it');
		my @there = map { chomp; $_ } `find '$installed' -name 'kapture_sync*'`;
		foreach my $file (qr{/kapture_sync\.so$}, qr{/extension/kapture_sync\.control$}, qr{/extension/kapture_sync--1\.\d+\.sql$}, qr{/extension/kapture_sync--1\.0--1\.1\.sql$})
		{
			ok((grep { $_ =~ $file } @there), "it installs $file") or diag("@there");
		}
	},
	'README.md: script/package 15' => sub {
		my ($block) = @_;
		# the suite builds, installs and removes it; here, that it is the one that is named
		like($block, qr{^sudo apt install \./packages/postgresql-15-kapture-sync_\*\.deb$}m, 'README installs what script/package builds');
		like(slurp_file("$top/script/package"), qr{name=postgresql-\$version-kapture-sync\b.*package=\S*echo "\$work/\$\{name\}_"\*\.deb\).*cp "\$package" "\$top/packages"}s, 'which has that name, and is put there');
	},
	'README.md: sudo pg_createcluster 15 main' => sub {
		my ($block) = @_;
	  SKIP:
		{
			skip 'there is no pg_createcluster for this server', 1
			  if (run_command([ 'pg_config', '--bindir' ]))[0] ne '/usr/lib/postgresql/15/bin' || system('command -v pg_createcluster >/dev/null') != 0;
			# a cluster of Debian's, below a directory of ours
			my $root = "$dir/debian";
			my $port = PostgreSQL::Test::Cluster::get_free_port();
			mkdir $_ foreach $root, "$root/etc";
			$block =~ s{/etc/postgresql/}{$root/etc/};
			$block =~ s{^(sudo pg_createcluster) (15 main)}{$1 -d $root/data -l $root/log -p $port --socketdir $root $2 -- -A trust}m or fail('a cluster is made');
			$block =~ s{^sudo -u postgres psql$}{psql -h $root -p $port -d postgres -Atc 'SHOW shared_preload_libraries'}m or fail('psql is started');
			local $ENV{PG_CLUSTER_CONF_ROOT} = "$root/etc";
			like(run_block($block, 'what README has to load the library'), qr/^kapture_sync$/m, 'which it loads');
			run_block('pg_ctlcluster 15 main stop', 'and the server stops');
		}
	},
	'CONTRIBUTING.md: make with_llvm=no all emulator && sudo make with_llvm=no install' => sub {
		my ($block) = @_;
		# that one takes a minute, and runs besides
		$block =~ s{test/t/040_operating\.pl$}{test/t/044_phases.pl}m or fail('the block runs a TAP test');
		my $out = run_block($block, 'what CONTRIBUTING has to run one test');
		like($out, qr/^(?:ok 1 +- capture|test capture +\.\.\. ok)/m, 'a regression test was run');
		like($out, qr/^Result: PASS$/m, 'and a TAP test');
	},
);

my %found;
foreach my $file (@files)
{
	foreach my $block ($text{$file} =~ /^ *```sh\n(.*?)^ *```$/msg)
	{
		my ($name) = "$file: " . (split /\n/, $block)[0] =~ s/\s+#.*//r;
		if ($blocks{$name}) { $blocks{$name}->($block); $found{$name} = 1 }
		else { fail("a block of shell commands that no test runs: $name") }
	}
	# other blocks are SQL, which other tests run, or what is shown and written to files
	my @strange = grep { !/^(?:sh|sql|postgresql|)$/ } $text{$file} =~ /^ *```(\S*)[^\n]*\n.*?^ *```$/msg;
	is("@strange", '', "$file has no blocks in other languages");
	(my $prose = $text{$file}) =~ s/^ *```.*?^ *```$//msg;
	my @commands = grep { m{^(?:script/\w+(?: (?!.*\.(?:sql|pl)\b).*)?|script/test .*|(?:make|sudo|psql|promtool|apt|apt-get|systemctl|prove|npm|cp|pg_\w+) .*|--.*)$} } $prose =~ /`([^`\n]+)`/g;
	push @commands, $prose =~ /^    (\S.*)$/mg;
	foreach my $command (@commands)
	{
		$command =~ s/^(script\/soak --minutes) \d+$/$1 N/;
		$command =~ s/^(script\/mutate) (?:\d|--patch ).*$/$1 N/;
		fail("$file has a command that no test runs: $command") unless $commands{$command};
		$found{$command} = 1;
	}
}
foreach my $command (sort keys %commands)
{
	ok($found{$command}, "the documentation has: $command");
	$commands{$command}->();
}
ok($found{$_}, "the documentation has: $_") foreach sort keys %blocks;

$node->stop;
done_testing();
