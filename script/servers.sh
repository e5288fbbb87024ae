# Servers that look closer: PostgreSQL built from Debian's source with
# assertions, sanitizers or for valgrind.  Sourced by script/test.

servers=${KAPTURE_SERVERS:-/var/tmp/kapture_servers}

# Debian's source of PostgreSQL 15, without Debian's patches, in $servers/source.
# It comes from the mirror this machine uses, whose configuration stays as it is.
need_server_source() {
	local apt="$servers/apt" options
	[ -e "$servers/source/configure" ] && return
	say "fetching the source of PostgreSQL 15"
	mkdir -p "$apt/parts" "$apt/lists/partial" "$apt/download"
	cat >"$apt/parts/source.sources" <<-END
		Types: deb-src
		URIs: $(debian_mirror)
		Suites: bookworm
		Components: main
		Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
	END
	options=(-q -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$apt/parts"
		-o Dir::State::lists="$apt/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=)
	apt-get "${options[@]}" update >/dev/null
	(cd "$apt/download" && apt-get "${options[@]}" source -d postgresql-15 >/dev/null)
	mkdir -p "$servers/source.new"
	tar xjf "$apt"/download/postgresql-15_*.orig.tar.bz2 --strip-components=1 -C "$servers/source.new"
	rm -rf "$apt"
	mv "$servers/source.new" "$servers/source"
}

# What has to be in the environment of all that is built for and run with a
# server of a kind.  Tests wait PG_TEST_TIMEOUT_DEFAULT seconds at most, and give
# requests KAPTURE_SLOWNESS times as long as usual.
server_environment() {
	case $1 in
		cassert) export PG_TEST_TIMEOUT_DEFAULT=360 ;;
		asan)
			export PG_TEST_TIMEOUT_DEFAULT=720 KAPTURE_SLOWNESS=3
			# what a backend has at its end is no leak: its memory contexts go with it;
			# a test puts a library of its own before that of the sanitizer
			export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1:verify_asan_link_order=0
			export UBSAN_OPTIONS=print_stacktrace=1
			;;
		valgrind) export PG_TEST_TIMEOUT_DEFAULT=1800 KAPTURE_SLOWNESS=10 ;;
	esac
}

# The TAP tests that are run under valgrind, where all takes twenty times as long.
valgrind_tests=(test/t/{001_sync,002_cancel,020_pull,021_refresh,031_answers,032_poison,040_operating,050_memory}.pl)

# What sanitizers, valgrind and assertions wrote below a directory.
report_pattern='runtime error: |ERROR: AddressSanitizer|VALGRINDERROR-BEGIN|^(.*\.log:)?TRAP: '
find_reports() {
	grep -rEA 30 --include='*.log' "$report_pattern" "$1" || true
}

# Builds a server of a kind, "cassert", "asan" or "valgrind", if it is not there.
need_server() {
	local kind=$1 prefix="$servers/$1" flags=() build
	[ -e "$prefix/bin/pg_config" ] && return
	need_packages gcc make libc6-dev bison flex perl bzip2 libreadline-dev zlib1g-dev libssl-dev libipc-run-perl
	[ "$kind" = valgrind ] && need_packages valgrind libc6-dbg
	mkdir -p "$servers"
	need_server_source
	say "building a server for $kind"
	case $kind in
		cassert) flags=(CFLAGS="-O1 -g -fno-omit-frame-pointer") ;;
		asan)
			flags=(LDFLAGS="-fsanitize=address,undefined"
				CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize=alignment,nonnull-attribute")
			;;
		valgrind) flags=(CPPFLAGS="-DUSE_VALGRIND" CFLAGS="-Og -g") ;;
	esac
	build="$servers/build.$kind"
	rm -rf "$build" "$prefix.new"
	mkdir -p "$build"
	(
		cd "$build"
		"$servers/source/configure" --prefix="$prefix" --enable-cassert --enable-debug --enable-tap-tests \
			--without-icu --with-openssl "${flags[@]}"
		nice -n 10 make -s -j2
		nice -n 10 make -s -C contrib -j2
		make -s install DESTDIR="$prefix.new"
		make -s -C contrib install DESTDIR="$prefix.new"
	) >"$servers/$kind.log" 2>&1 || { tail -20 "$servers/$kind.log" >&2; return 1; }
	[ "$kind" = valgrind ] && wrap_in_valgrind "$prefix.new$prefix"
	mv "$prefix.new$prefix" "$prefix"
	rm -rf "$build" "$prefix.new"
}

# Puts a script in place of the server's program, so that pg_ctl starts it under
# valgrind where $KAPTURE_VALGRIND says where the reports shall go.
wrap_in_valgrind() {
	cp "$servers/source/src/tools/valgrind.supp" "$1/valgrind.supp"
	mv "$1/bin/postgres" "$1/bin/postgres.bare"
	cat >"$1/bin/postgres" <<-'END'
		#!/bin/sh
		top=$(dirname "$(readlink -f "$0")")
		case " $* " in *' --boot '* | *' --single '* | *' --check '* | *' -C '* | *' -V '* | *' --version '*) KAPTURE_VALGRIND= ;; esac
		[ -z "$KAPTURE_VALGRIND" ] && exec "$top/postgres.bare" "$@"
		exec valgrind --quiet --trace-children=yes --leak-check=no --suppressions="$top/../valgrind.supp" \
			--error-markers=VALGRINDERROR-BEGIN,VALGRINDERROR-END \
			--log-file="$KAPTURE_VALGRIND/valgrind.%p.log" "$top/postgres.bare" "$@"
	END
	chmod 755 "$1/bin/postgres"
}
