# What script/test and script/demo share.  Sourced, not run.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# the TAP modules unset LC_ALL; without LANG their clusters would know no encoding
export LC_ALL=C.UTF-8 LANG=C.UTF-8

say() { printf '\n== %s\n' "$*"; }

# As root or, where that is somebody else, through sudo.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installs the Debian packages named that are missing.
need_packages() {
	local missing=() p
	for p in "$@"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} = 0 ] && return
	say "installing ${missing[*]}"
	# The package of the server would start a cluster of its own: not wanted here.
	local settings=/etc/postgresql-common/createcluster.conf made=
	if [ ! -e "$settings" ] && ! dpkg-query -W postgresql-common >/dev/null 2>&1; then
		as_root mkdir -p "${settings%/*}"
		echo 'create_main_cluster = false' | as_root tee "$settings" >/dev/null
		made=1
	fi
	# nor is any other daemon to be started; and one run at a time installs
	local rc=0
	(
		flock 9
		if [ ! -e /usr/sbin/policy-rc.d ]; then
			trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
			printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
			as_root chmod 755 /usr/sbin/policy-rc.d
		fi
		install_packages "${missing[@]}"
	) 9<"$top/script/lib.sh" || rc=$?
	# Debian's own settings are for clusters that others make later
	if [ -n "$made" ] && [ -e "$settings.ucf-dist" ]; then
		as_root mv "$settings.ucf-dist" "$settings"
	elif [ -n "$made" ] && ! dpkg-query -W postgresql-common >/dev/null 2>&1; then
		as_root rm -f "$settings"
	fi
	# what was not here before is not to be started with the machine, either
	if [ -x /usr/bin/deb-systemd-helper ]; then
		for p in "${missing[@]}"; do
			[ "$p" = etcd-server ] && p=etcd
			as_root deb-systemd-helper disable "$p.service" >/dev/null 2>&1 || true
		done
	fi
	return $rc
}

install_packages() {
	local p
	as_root apt-get update -q >/dev/null
	# what is only in Debian's experimental suite has to be asked for by its name
	for p in '' '--target-release=experimental'; do
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $p \
			-o DPkg::Lock::Timeout=600 -o Dpkg::Options::=--force-confold "$@" >/dev/null && return
		grep -qs experimental /etc/apt/sources.list || break
	done
	return 1
}

# Macros of PostgreSQL with branches of their own, which script/coverage does not count.
coverage_macros='(ereport|elog|Assert|foreach|foreach_modify|GetPerTupleExprContext|GetPerTupleMemoryContext|ResetPerTupleExprContext|CHECK_FOR_INTERRUPTS|PG_TRY|PG_CATCH|PG_FINALLY|PG_END_TRY|VARSIZE_ANY_EXHDR|VARDATA_ANY|heap_getattr|fastgetattr|SET_VARSIZE|MemSet)[ (]'

# The server will not run as root: where we are root, it runs as this user.
if [ "$(id -u)" = 0 ]; then runner=postgres; else runner=$(id -un); fi
as_runner() {
	if [ "$(id -u)" = 0 ]; then runuser -u "$runner" -- "$@"; else "$@"; fi
}

# Writes the checkout to stdout, as a tar archive.
pack_checkout() {
	(cd "$top" && { git ls-files -z --cached --others --exclude-standard 2>/dev/null || find . -type f -print0; } |
		tar cf - --null --ignore-failed-read -T - 2>/dev/null)
}

# Builds a copy of the checkout in $work and installs it.  Besides it the targets named
# are built: by default, what tests need.
build_and_install() {
	local pg_config=$1 targets=${2:-emulator units}
	say "building against $($pg_config --version)"
	mkdir -p "$work/src"
	pack_checkout | tar xf - -C "$work/src"
	[ "$(id -u)" = 0 ] && chown -R "$runner" "$work"
	as_runner make -s -C "$work/src" PG_CONFIG="$pg_config" with_llvm=no COPT="${KAPTURE_COVERAGE:+--coverage -O0}" \
		-j2 all $targets
	as_root env ASAN_OPTIONS="${ASAN_OPTIONS:-}" make -s -C "$work/src" PG_CONFIG="$pg_config" with_llvm=no install >/dev/null
}

# Runs the regression tests of $work/src, against a server and an emulator of
# their own, below $work; what they say goes to the file named.  The caller ends
# $work/data and the processes in ${pids[@]} if it is left early.
run_regress() {
	local pg_config=$1 log=$2 bin rc=0
	bin=$($pg_config --bindir)
	as_runner mkdir -p "$work/run"
	as_runner "$bin/initdb" -D "$work/data" -A trust -U postgres --locale=C.UTF-8 >/dev/null || return
	cat >>"$work/data/postgresql.conf" <<-EOF
		listen_addresses = ''
		unix_socket_directories = '$work/run'
		shared_preload_libraries = 'kapture_sync'
		fsync = off
	EOF
	as_runner "$bin/pg_ctl" -D "$work/data" -l "$work/server.log" -w start >/dev/null || return
	# the pid that runuser starts, not its own, which does not pass signals on
	as_runner sh -c 'echo $$ >"$1/pid"; exec "$2" --port 0 --port-file "$1/port"' \
		sh "$work/run" "$work/src/test/emulator/kapture-emulator" >"$work/emulator-regress.log" 2>&1 &
	for _ in $(seq 200); do [ -s "$work/run/port" ] && break; read -rt 0.05 <> <(:) || true; done
	pids+=("$(cat "$work/run/pid")")
	export KAPTURE_EMULATOR_URL="http://127.0.0.1:$(cat "$work/run/port")"
	as_runner env PGHOST="$work/run" PGUSER=postgres make -s -C "$work/src" installcheck PG_CONFIG="$pg_config" with_llvm=no \
		>"$log" 2>&1 || rc=$?
	as_runner "$bin/pg_ctl" -D "$work/data" -m fast -w -t 60 stop >/dev/null || true
	return $rc
}

# Runs a TAP test of $work/src; what it says goes to the file named.  One that stands still is
# ended, and says where, before it takes the time of all others.
run_tap() {
	local pg_config=$1 test=$2 log=$3 pgxs bin rc=0 logs=$work/src/test/tmp_check/log name
	local longest=$((${KAPTURE_TEST_LONGEST:-1200} * ${KAPTURE_SLOWNESS:-1}))
	name=$(basename "$test" .pl)
	pgxs=$($pg_config --pgxs)
	bin=$($pg_config --bindir)
	(
		cd "$work/src"
		as_runner env PATH="$bin:$PATH" PGPORT=65432 TESTDIR="$work/src/test" \
			TESTDATADIR="$work/src/test/tmp_check" TESTLOGDIR="$work/src/test/tmp_check/log" \
			PG_REGRESS="$(dirname "$pgxs")/../test/regress/pg_regress" \
			KAPTURE_EMULATOR="$work/src/test/emulator/kapture-emulator" \
			PERL5LIB="$(dirname "$pgxs")/../test/perl:$work/src/test/perl" \
			prove -v --merge --exec "timeout --kill-after=60 $longest perl" "$test"
	) >"$log" 2>&1 || rc=$?
	# what a test dies of is in a file of its own, and what it waited for in the servers' logs
	[ $rc = 0 ] || tail -n 20 "$logs/regress_log_$name" 2>/dev/null | sed 's/^/# /' >>"$log" || true
	if grep -q 'exited 124' "$log"; then
		echo "# ended, as it took longer than $longest s" >>"$log"
		tail -n 20 "$logs/$name"_*.log 2>/dev/null | cut -c 1-300 | sed 's/^/# /' >>"$log" || true
	fi
	return $rc
}

# Builds and installs for another major version, which others are upgraded from.
install_for_older() {
	need_packages "postgresql-$1" "postgresql-server-dev-$1"
	say "building against PostgreSQL $1, too"
	mkdir -p "$work/old$1"
	pack_checkout | tar xf - -C "$work/old$1"
	[ "$(id -u)" = 0 ] && chown -R "$runner" "$work/old$1"
	as_runner make -s -C "$work/old$1" PG_CONFIG="/usr/lib/postgresql/$1/bin/pg_config" with_llvm=no -j2 all
	as_root make -s -C "$work/old$1" PG_CONFIG="/usr/lib/postgresql/$1/bin/pg_config" with_llvm=no install >/dev/null
}

# What is needed to build and test against a major version.
packages_for() {
	packages=("postgresql-$1" "postgresql-server-dev-$1" libcurl4-openssl-dev libmicrohttpd-dev libjansson-dev
		gcc make libc6-dev curl openssl)
}
packages_for 15

# The Debian mirror this machine uses.
debian_mirror() {
	local sources=/etc/apt/sources.list.d/debian.sources
	if [ -e "$sources" ]; then
		awk '/^URIs:/ { print $2; exit }' "$sources"
	else
		awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; exit } }' /etc/apt/sources.list
	fi
}

# Debian has one major version in each suite, and packages of older suites can
# be installed beside newer ones: so a system of the newest suite can hold all
# of them.  Makes one in directory $1, if it is not there, and has it ready.
need_chroot() {
	local root=$1 new=$1.new mirror suite
	if [ ! -e "$root" ]; then
		need_packages debootstrap debian-archive-keyring
		mirror=$(debian_mirror)
		say "making a Debian system in $root"
		if mountpoint -q "$new/proc"; then as_root umount "$new/proc"; fi
		as_root rm -rf --one-file-system "$new"
		as_root debootstrap --variant=minbase --include=ca-certificates \
			--keyring=/usr/share/keyrings/debian-archive-keyring.gpg sid "$new" "$mirror" >/dev/null
		# no daemon, no cluster is to be started in there
		printf '#!/bin/sh\nexit 101\n' | as_root tee "$new/usr/sbin/policy-rc.d" >/dev/null
		as_root chmod 755 "$new/usr/sbin/policy-rc.d"
		as_root mkdir -p "$new/etc/postgresql-common"
		echo 'create_main_cluster = false' | as_root tee "$new/etc/postgresql-common/createcluster.conf" >/dev/null
		# the index of a mirror that stands still expires; it is signed all the same
		echo 'Acquire::Check-Valid-Until "false";' | as_root tee "$new/etc/apt/apt.conf.d/99valid" >/dev/null
		for suite in sid experimental trixie bookworm; do
			echo "deb $mirror $suite main"
			case $suite in trixie | bookworm) echo "deb $mirror-security $suite-security main" ;; esac
		done | as_root tee "$new/etc/apt/sources.list" >/dev/null
		as_root mv "$new" "$root"
	fi
	# without /proc a cluster cannot be stopped by its pid file
	mountpoint -q "$root/proc" || as_root mount -t proc proc "$root/proc"
	mountpoint -q "$root/dev/shm" || as_root mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
}
