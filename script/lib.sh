# What script/test and script/demo share.  Sourced, not run.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LC_ALL=C.UTF-8

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
	if ! dpkg-query -W postgresql-common >/dev/null 2>&1; then
		as_root mkdir -p /etc/postgresql-common
		[ -e /etc/postgresql-common/createcluster.conf ] ||
			echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
	fi
	as_root apt-get update -q >/dev/null
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
		-o Dpkg::Options::=--force-confold "${missing[@]}" >/dev/null
}

# The server will not run as root: where we are root, it runs as this user.
if [ "$(id -u)" = 0 ]; then runner=postgres; else runner=$(id -un); fi
as_runner() {
	if [ "$(id -u)" = 0 ]; then runuser -u "$runner" -- "$@"; else "$@"; fi
}

# Builds a copy of the checkout in $work and installs it.
build_and_install() {
	local pg_config=$1
	say "building against $($pg_config --version)"
	mkdir -p "$work/src"
	(cd "$top" && { git ls-files -z --cached --others --exclude-standard 2>/dev/null || find . -type f -print0; } |
		tar cf - --null --ignore-failed-read -T - 2>/dev/null) | tar xf - -C "$work/src"
	[ "$(id -u)" = 0 ] && chown -R "$runner" "$work"
	as_runner make -s -C "$work/src" PG_CONFIG="$pg_config" with_llvm=no -j2 all emulator
	as_root make -s -C "$work/src" PG_CONFIG="$pg_config" with_llvm=no install >/dev/null
}

packages=(postgresql-15 postgresql-server-dev-15 libcurl4-openssl-dev libmicrohttpd-dev libjansson-dev
	gcc make libc6-dev curl openssl)
