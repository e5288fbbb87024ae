# Living with a mapping: what goes through a whole table.
# - kapture_verify beside what the server allows: its answers take 50 ms, 50
#   connections; and beside wrk, which asks for the same customers of a fast one.
# - kapture_match, which asks for a phone and an email of each row, likewise.
# - kapture_resync of rows that Kapture has beside a drain of them.
# - kapture_dry_run, for which there is no Kapture.
rows=$(by_mode 20000 100000 100000)
prospects=$(by_mode 200000 1000000 1000000)
slow_rows=$(by_mode 10000 30000 100000)
slow_ms=50
slow_connections=50
figure verify '<=' 1.1 ratio "kapture_verify of $slow_rows customers, server takes 50 ms, 50 connections: time over rows × 50 ms / 50"
figure verify_fast '>=' 0.25 ratio "kapture_verify, fast server, 64 connections: customers/s over wrk's requests/s"
figure verify_cpu - - 'µs' "kapture_verify: CPU time of the session for a customer"
figure verify_memory '<' 64 MB "kapture_verify of $rows customers: memory of the session"
figure match '<=' 1.1 ratio "kapture_match of $slow_rows rows, server takes 50 ms, 50 connections: time over 2 requests a row × 50 ms / 50"
figure resync '>=' 1 ratio 'kapture_resync of rows that Kapture has: rows/s, until all is done, over draining them'
figure resync_requests '<=' 100 '' "Requests of a kapture_resync of $rows rows of which 100 have changed"
figure dry_run '<=' 60 s 'kapture_dry_run: CPU time for a million rows'
figure dry_run_memory - - MB "kapture_dry_run of $prospects rows: memory of the session"
figure dry_run_locks '<=' 0 '' "kapture_dry_run: locks that are stronger than a reader's"

# is QUERY RESULT
is() {
	local result
	result=$(psql -c "SET client_min_messages = warning" -c "$1")
	[ "$result" = "$2" ] || { echo "the oracle says no: $1 is $result, not $2" >&2; exit 1; }
}

# against_answers KEY REQUESTS: the time of session() over what so many requests take at least; and over what they
# took in fact, in which others who want the processor have their share
against_answers() {
	point "$1" kapture_sync "$(ratio "$seconds" "$(awk -v n="$2" "BEGIN { print n * $slow_ms / 1000 / $slow_connections }")")"
	point "$1" 'over the time of the answers as they came' "$(ratio "$seconds" \
		"$(psql -c "SELECT sum(total_time) / 1000 / $slow_connections FROM kapture_stat_requests WHERE api = 'get'")")"
}

# slowly, quickly: how the server answers from here on
slowly() { sql 'SELECT kapture_stat_reset()' >/dev/null && emulator faults "[{\"action\": \"delay\", \"ms\": $slow_ms}]" && sql "ALTER SERVER kapture OPTIONS (SET max_connections '$slow_connections')"; }
quickly() { emulator faults '[]' && sql "ALTER SERVER kapture OPTIONS (SET max_connections '64')"; }

# watched COMMAND STATEMENT...: session(), with the greatest number that the command gives of it in "greatest"
watched() {
	watch_session "$1" >"$work/greatest" &
	session "${@:2}"
	wait $!
	greatest=$(cat "$work/greatest")
}

strong_locks() {
	[ -e "/proc/$1" ] || return
	psql -c "SELECT count(*) FROM pg_locks WHERE pid = $1 AND locktype IN ('relation', 'tuple', 'object', 'advisory')
		AND mode <> 'AccessShareLock' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
}

# verify ROWS: of so many, of which none differs; sets what session() sets, and the memory it took in "greatest"
verify() {
	local asked
	asked=$(emulated get_requests)
	watched memory_of "CREATE TEMP TABLE wrong AS SELECT * FROM kapture_verify('customers', 'id <= $1')" \
		'DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM wrong); END $$'
	asked=$(($(emulated get_requests) - asked))
	[ "$asked" = "$1" ] || { echo "the oracle says no: $asked customers asked for, not $1" >&2; exit 1; }
}

measure_verify() {
	local l
	slowly
	verify $slow_rows
	against_answers verify $slow_rows
	quickly
	l=$(limit 64 $(psql -F ' ' -c 'SELECT min(kapture_customer_id), max(kapture_customer_id) FROM customers'))
	verify $rows
	point verify_memory kapture_sync "$greatest"
	point verify_fast kapture_sync "$(ratio "$(ratio "$rows" "$seconds")" "$l")"
	point verify_fast.customers kapture_sync "$(ratio "$rows" "$seconds")"
	point verify_fast.customers wrk "$l"
	point verify_cpu kapture_sync "$(awk -v s="$cpu_seconds" -v n="$rows" 'BEGIN { printf "%.2f", 1e6 * s / n }')"
}

# resync: sends what is unchanged, after a drain of the same rows at "drained" rows/s, which took "drained_cpu" of the worker for each
measure_resync() {
	local started before requests pid changes
	pid=$(worker)
	for changes in 0 100; do
		sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
		requests=$(emulated update_requests)
		# behind the trigger's back
		psql -c 'SET kapture_sync.capture = off' -c "UPDATE customers SET city = 'Pune ' || $i WHERE id <= $changes"
		before=$(cpu_of "$pid")
		started=$(now)
		sql "CALL kapture_resync('customers')"
		wait_drained
		if [ $changes = 0 ]; then
			point resync kapture_sync "$(ratio "$(ratio "$rows" "$(since "$started")")" "$drained")"
			point resync.cpu kapture_sync "$(awk -v a="$before" -v b="$(cpu_of "$pid")" -v n="$rows" -v d="$drained_cpu" 'BEGIN { printf "%.4f", d / ((b - a) / 1000 / n) }')"
			is "SELECT count(*) FROM kapture_history WHERE action = 'none'" "$rows"
		else
			point resync_requests kapture_sync $(($(emulated update_requests) - requests))
		fi
		sql 'TRUNCATE kapture_history'
	done
	[ "$(emulated update_requests)" -ge 100 ] || { echo "the oracle says no: changed rows were not sent" >&2; exit 1; }
}

measure_match() {
	pause
	psql -c 'SET kapture_sync.capture = off' -c "UPDATE customers SET kapture_customer_id = NULL WHERE id <= $slow_rows"
	sql 'VACUUM ANALYZE customers'
	slowly
	session "CREATE TEMP TABLE matched AS SELECT * FROM kapture_match('customers')" \
		"DO \$\$ BEGIN ASSERT (SELECT count(*) FROM matched WHERE found_by = 'both' AND problem IS NULL) = $slow_rows; END \$\$"
	against_answers match $((2 * slow_rows))
}

sql "DROP TABLE IF EXISTS prospects;
	CREATE TABLE prospects (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text);
	INSERT INTO prospects SELECT i, 'Row ' || i, (6000000000 + i)::text, 'c' || i || '@example.com', 'Bangalore' FROM generate_series(1, $prospects) i"
sql 'VACUUM ANALYZE prospects'
for ((i = 0; i < runs; i++)); do
	fresh 64
	feed 1 "$rows"
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain "$rows"
	oracle "$rows"
	sql 'TRUNCATE kapture_history'
	drained=$rate drained_cpu=$cpu
	measure_verify
	measure_resync
	measure_match

	report="CREATE TEMP TABLE report AS SELECT action, count(*) FROM kapture_dry_run('prospects') GROUP BY 1"
	watched memory_of "$report" "DO \$\$ BEGIN ASSERT (SELECT action = 'add' AND count = $prospects FROM report); END \$\$"
	point dry_run kapture_sync "$(awk -v s="$cpu_seconds" -v n="$prospects" 'BEGIN { printf "%.2f", s * 1e6 / n }')"
	point dry_run_memory kapture_sync "$greatest"
	watched strong_locks "SELECT count(*) FROM kapture_dry_run('prospects')"
	point dry_run_locks kapture_sync "$greatest"
done
sql 'DROP TABLE prospects'
