# What the parts of the benchmark share.  Sourced by script/bench, not run.
#
# A part says what it measures with "figure" and gives its numbers with "point";
# a number is printed only if the run was right: nothing missing, nothing twice,
# nothing failed ("oracle").  Of a ratio of wall times, KEY.cpu is the same ratio by
# processor time, which other programs on the machine disturb less.

key=a2FwZGVtbzprYXAxMjM=	# of the emulator
add_path=add-update-customer-from-other-source.html
get_path=search-customer-by-customer-id.html

# ---- results: lines of tab-separated fields, the first says what they are ----

# figure KEY OPERATOR GOAL UNIT TITLE: what is measured, and what is aimed at ("-": nothing)
figure() {
	printf 'figure\t%s\t%s\t%s\t%s\t%s\n' "$@" >>"$results"
	printf '%s\n' "$5"
}

# point KEY SERIES VALUE [X]: a number, of kapture_sync or something beside it; X for a curve
point() {
	[ -n "$3" ] || { echo "no value for $1 of $2" >&2; exit 1; }
	printf 'point\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:-}" >>"$results"
	printf '  %-24s %-28s %s\n' "$1" "$2${4:+ ($4)}" "$3"
}

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { if (b + 0 > 0) printf "%.4f", a / b }'; }

# What was measured on.
machine() {
	printf 'machine\tsystem\t%s cores of %s, Linux %s\n' "$(nproc)" \
		"$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)" "$(uname -r)"
	printf 'machine\tserver\t%s, libcurl %s\n' "$($pg_config --version)" "$(curl-config --version | awk '{ print $2 }')"
}
# Nothing, or that others use the machine: looked at while nothing of ours runs.
busy() {
	local before after
	before=$(awk '/^cpu / { print $5, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat)
	sleep 1
	after=$(awk '/^cpu / { print $5, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat)
	awk -v b="$before" -v a="$after" 'BEGIN {
		split(b, x, " "); split(a, y, " ")
		if (y[1] - x[1] < 0.8 * (y[2] - x[2])) print ", on a machine that others use"
	}'
}
commit() { printf '%s of %s' "$(git -C "$top" rev-parse --short HEAD 2>/dev/null || echo none)" "$(date +%F)"; }

# by_mode QUICK DEFAULT LONG: the one for this mode
by_mode() {
	case $mode in quick) echo "$1" ;; long) echo "$3" ;; *) echo "$2" ;; esac
}

# ---- server and emulator ----

start_server() {
	as_runner mkdir -p "$work/run"
	as_runner "$bin/initdb" -D "$work/data" -A trust -U postgres --locale=C.UTF-8 >/dev/null
	as_runner tee -a "$work/data/postgresql.conf" >/dev/null <<-END
		listen_addresses = ''
		unix_socket_directories = '$work/run'
		shared_preload_libraries = 'kapture_sync'
		max_wal_size = 8GB
		checkpoint_timeout = 30min
		shared_buffers = 512MB
	END
	as_runner "$bin/pg_ctl" -D "$work/data" -l "$work/server.log" -w start >/dev/null
	as_runner "$bin/createdb" -h "$work/run" -U postgres bench
}

restart_server() { as_runner "$bin/pg_ctl" -D "$work/data" -l "$work/server.log" -w restart >/dev/null; }

# build_with FILE [FLAGS]: a source file is compiled with these flags, installed, and the server restarted
build_with() {
	touch "$work/src/src/$1"
	as_runner make -s -C "$work/src" PG_CONFIG="$pg_config" with_llvm=no COPT="${2:-}" all
	as_root make -s -C "$work/src" PG_CONFIG="$pg_config" with_llvm=no install >/dev/null
	restart_server
}

start_emulator() {
	as_runner sh -c 'echo $$ >"$1/pid"; exec "$2" --empty --port 0 --port-file "$1/port"' \
		sh "$work/run" "$work/src/test/emulator/kapture-emulator" >/dev/null 2>&1 &
	until [ -s "$work/run/port" ]; do kill -0 $!; done
	url="http://127.0.0.1:$(cat "$work/run/port")"
}

bench_cleanup() {
	if [ -f "$work/data/postmaster.pid" ]; then as_runner "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true; fi
	if [ -s "$work/run/pid" ]; then kill "$(cat "$work/run/pid")" 2>/dev/null || true; fi
	rm -rf "$work"
}

psql() { as_runner "$bin/psql" -h "$work/run" -U postgres -X -q -At -v ON_ERROR_STOP=1 -d bench "$@"; }
sql() { psql -c "SET client_min_messages = warning" -c "$1"; }
pgbench() { as_runner "$bin/pgbench" -h "$work/run" -U postgres -n "$@" bench 2>/dev/null; }
emulator() { curl -sf -o /dev/null -X POST "$url/_emulator/$1" ${2:+-d "$2"}; }
# a counter of the emulator
emulated() { curl -sf "$url/_emulator/stats" | sed "s/.*\"$1\": \([0-9]*\).*/\1/"; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.6f", b - a }'; }

# ---- the sync ----

# fresh CONNECTIONS [OPTIONS]: an empty emulator, extension and table, attached (as "attach" says, if it is set) and paused
fresh() {
	emulator reset
	psql -o /dev/null <<-END
		SET client_min_messages = warning;
		DROP EXTENSION IF EXISTS kapture_sync CASCADE;
		DROP TABLE IF EXISTS customers CASCADE;
		CREATE EXTENSION kapture_sync;
		CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url', max_connections '$1'${2:+, $2});
		CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key '$key');
		CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
			customer_name text, phone text, email_id text, city text, note text);
		${attach:-SELECT kapture_attach('customers')};
		SELECT kapture_pause('customers');
	END
}

# feed FIRST LAST: customers with these numbers
feed() {
	sql "INSERT INTO customers (customer_name, phone, email_id, city)
		SELECT 'Row ' || i, (6000000000 + i)::text, 'c' || i || '@example.com', 'Bangalore' FROM generate_series($1::bigint, $2) i"
}

pause() { sql "SELECT kapture_pause('customers')" >/dev/null; }
resume() { sql "SELECT kapture_resume('customers')" >/dev/null; }

# Waits until all is sent and recorded, without a wait of more than some milliseconds.
wait_drained() {
	psql -o /dev/null <<-'END'
		DO $$ BEGIN
			WHILE EXISTS (SELECT FROM kapture_outbox) OR EXISTS (SELECT FROM kapture_delivery WHERE state = 'sending') LOOP
				COMMIT;
				PERFORM pg_sleep(0.005);
			END LOOP;
		END $$;
	END
}

# oracle ROWS: all of them have ids of their own, and Kapture has exactly them
oracle() {
	local local_rows remote
	local_rows=$(psql -c "SELECT count(*) || ' ' || count(DISTINCT kapture_customer_id) FROM customers WHERE kapture_customer_id IS NOT NULL")
	remote="$(emulated customers) $(emulated add_requests)"
	if [ "$local_rows" != "$1 $1" ] || [ "$remote" != "$1 $1" ]; then
		echo "the oracle says no: $1 rows, here $local_rows, in Kapture $remote" >&2
		exit 1
	fi
	local failures
	failures=$(psql -c "SELECT count(*) FROM kapture_history WHERE action <> 'add' OR attempts <> 1")
	[ "$failures" = 0 ] || { echo "the oracle says no: $failures rows were not added at once" >&2; exit 1; }
}

# Nanoseconds on a processor that a process has had.
cpu_of() { awk '{ print $1 }' "/proc/$1/schedstat"; }
worker() { psql -c 'SELECT kapture_worker_pid()'; }
# Memory of its own that a process has, in MB: what it shares with others does not count.
memory_of() { awk '/^RssAnon/ { printf "%.1f", $2 / 1024 }' "/proc/$1/status"; }

# What a session has had of a processor, in nanoseconds, as it sees it itself.
own_cpu="split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::numeric"

# session STATEMENT...: in one session, whose pid is in "$work/run/session" meanwhile; sets seconds, and
# cpu_seconds of the processor.  Wall time is as the machine is busy; the processor's time is less so.
session() {
	local statement numbers arguments=(-c "\\o $work/run/session" -c 'SELECT pg_backend_pid()' -c '\o /dev/null'
		-c 'SET client_min_messages = warning'
		-c "SELECT set_config('bench.at', extract(epoch FROM clock_timestamp())::text, false), set_config('bench.cpu', ($own_cpu)::text, false)")
	for statement in "$@"; do arguments+=(-c "$statement"); done
	numbers=$(psql -F ' ' "${arguments[@]}" -c '\o' \
		-c "SELECT round(extract(epoch FROM clock_timestamp()) - current_setting('bench.at')::numeric, 6),
			round(($own_cpu - current_setting('bench.cpu')::numeric) / 1e9, 6)")
	rm "$work/run/session"
	read -r seconds cpu_seconds <<<"$numbers"
}

# watch_session COMMAND: runs a command for the process of session() again and again, with its pid as
# argument, until it has ended; gives the greatest number that came of it
watch_session() {
	until [ -s "$work/run/session" ]; do
		[ -d "$work/run" ] || return
		sleep 0.02
	done
	local pid number greatest=0
	pid=$(cat "$work/run/session")
	while number=$("$1" "$pid" 2>/dev/null) && [ -n "$number" ]; do
		greatest=$(awk -v a="$greatest" -v b="$number" 'BEGIN { print (b + 0 > a + 0 ? b : a) }')
		sleep 0.1
	done
	echo "$greatest"
}

postmaster() { head -1 "$work/data/postmaster.pid"; }
# Processor time of all sessions that have ended, in seconds.
ended_cpu() {
	awk -v hz="$(getconf CLK_TCK)" '{ sub(/.*\) /, ""); print ($14 + $15) / hz }' "/proc/$(postmaster)/stat"
}

# in_turns TURNS CLIENTS SCRIPT KIND...: pgbench runs a script for each kind (its variable "kind") in turns of a
# second, so that all see the same moods of the machine; sets tps[KIND], and spent[KIND]: microseconds of the
# server's processor for a transaction
declare -A tps spent
in_turns() {
	local turns=$1 clients=$2 script=$3 kinds=("${@:4}") kind order turn before
	local -A seconds count used
	for ((turn = 0; turn < turns; turn++)); do
		order=("${kinds[@]}")
		if ((turn % 2)); then mapfile -t order < <(printf '%s\n' "${kinds[@]}" | tac); fi
		for kind in "${order[@]}"; do
			before=$(ended_cpu)
			pgbench -T 1 -c "$clients" -j "$clients" -D kind="$kind" -f "$script" >"$work/pgbench"
			# not asked by a session, which would count itself
			while pgrep -P "$(postmaster)" -f '^postgres: postgres bench ' >/dev/null; do :; done
			used[$kind]=$(awk -v a="${used[$kind]:-0}" -v b="$before" -v c="$(ended_cpu)" 'BEGIN { print a + c - b }')
			count[$kind]=$((${count[$kind]:-0} + $(awk '/^number of transactions actually/ { print $NF }' "$work/pgbench")))
			seconds[$kind]=$(awk -v a="${seconds[$kind]:-0}" '/^tps/ { t = $3 } /^number of transactions actually/ { n = $NF } END { print a + n / t }' "$work/pgbench")
		done
	done
	for kind in "${kinds[@]}"; do
		tps[$kind]=$(ratio "${count[$kind]}" "${seconds[$kind]}")
		spent[$kind]=$(awk -v s="${used[$kind]}" -v n="${count[$kind]}" 'BEGIN { printf "%.4f", 1e6 * s / n }')
	done
}

# drain ROWS: sends what waits; sets rate (rows/s) and cpu (microseconds of the worker for a row)
drain() {
	local pid before started seconds
	pid=$(worker)
	before=$(cpu_of "$pid")
	started=$(now)
	resume
	wait_drained
	seconds=$(since "$started")
	cpu=$(awk -v a="$before" -v b="$(cpu_of "$pid")" -v n="$1" 'BEGIN { printf "%.2f", (b - a) / 1000 / n }')
	rate=$(ratio "$1" "$seconds")
}

# limit CONNECTIONS [FIRST LAST]: requests/s of wrk, which POSTs what the worker would;
# with two ids, what kapture_verify would, for the customers with ids from the one to the other
limit() {
	cat >"$work/add.lua" <<-'END'
		wrk.method = "POST"
		wrk.headers["Content-Type"] = "application/json"
		wrk.headers["Accept"] = "application/json"
		wrk.headers["Authorization"] = "Basic a2FwZGVtbzprYXAxMjM="
		local i = 0
		request = function()
			i = i + 1
			return wrk.format(nil, nil, nil, string.format(
				'{"customer_name": "Row %d", "phone": "%010d", "email_id": "c%d@example.com", "city": "Bangalore"}', i, 6000000000 + i, i))
		end
	END
	cat >"$work/get.lua" <<-END
		wrk.method = "POST"
		wrk.headers["Content-Type"] = "application/json"
		wrk.headers["Accept"] = "application/json"
		wrk.headers["Authorization"] = "Basic $key"
		local i = ${2:-0} - 1
		request = function()
			i = i < ${3:-0} and i + 1 or ${2:-0}
			return wrk.format(nil, nil, nil, string.format(
				'[{"kapture_customer_id": "%d", "customer_id": "", "email_id": "", "phone": ""}]', i))
		end
	END
	local open script=add path=$add_path
	if [ -n "${2:-}" ]; then script=get path=$get_path; fi
	open=$(emulated open_connections)
	wrk -t1 -c"$1" -d3 -s "$work/$script.lua" "$url/$path" >"$work/wrk" 2>&1
	if grep -q 'Non-2xx\|Socket errors' "$work/wrk"; then
		cat "$work/wrk" >&2
		exit 1
	fi
	# what it left unanswered is added yet, and must not be taken for ours
	while [ "$(emulated open_connections)" -gt "$open" ]; do sleep 0.02; done
	awk '/Requests\/sec/ { print $2 }' "$work/wrk"
}

# stream SECONDS [SERIES KEY EVERY]: feeds and sends for so long, so that some
# rows always wait; goes on behind number "fed"; sets rate.  With a series, a
# point of the curve every so many seconds, X in seconds since "stream_start".
stream() {
	local chunk=10000 started last last_sent sent elapsed
	started=$(now)
	last=$started
	last_sent=$(emulated adds)
	local first=$last_sent
	while elapsed=$(since "$started"); awk -v e="$elapsed" -v s="$1" 'BEGIN { exit !(e < s) }'; do
		sent=$(emulated adds)
		if [ $((fed - sent)) -lt $chunk ]; then
			feed $((fed + 1)) $((fed + chunk))
			fed=$((fed + chunk))
		else
			sleep 0.02
		fi
		if [ -n "${2:-}" ] && awk -v l="$(since "$last")" -v e="$4" 'BEGIN { exit !(l >= e) }'; then
			sent=$(emulated adds)
			point "$3" "$2" "$(ratio $((sent - last_sent)) "$(since "$last")")" "$(since "$stream_start" | cut -d. -f1)"
			last=$(now)
			last_sent=$sent
		fi
	done
	rate=$(ratio $(($(emulated adds) - first)) "$(since "$started")")
}
