# A minute without any work.
seconds=$(by_mode 20 60 60)
figure idle_wakeups '<=' 1 '' "Idle: wake-ups of the worker in $seconds s"
figure idle_transactions '<=' 0 '' "Idle: transactions in $seconds s"
fresh 8
resume
feed 1 10
wait_drained
oracle 10
sql 'ALTER SYSTEM SET autovacuum = off' && sql 'SELECT pg_reload_conf()' >/dev/null
# what follows the work: statistics are told, the history's expiry is planned
sleep 12
pid=$(worker)
outside() { as_runner "$bin/psql" -h "$work/run" -U postgres -X -q -At -d postgres -c "$1"; }
sleep 2
transactions="SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = 'bench'"
wakeups() { awk '/ctxt_switches/ { n += $2 } END { print n }' "/proc/$pid/status"; }
before=$(outside "$transactions")
woken=$(wakeups)
sleep "$seconds"
point idle_wakeups kapture_sync $(($(wakeups) - woken))
point idle_transactions kapture_sync $(($(outside "$transactions") - before))
sql 'ALTER SYSTEM RESET autovacuum' && sql 'SELECT pg_reload_conf()' >/dev/null

# Many databases with a worker each, none with any work.
databases=$(by_mode 20 200 200)
figure databases_memory '<=' 4 MB "Idle: memory of its own that a worker has, median of $databases databases"
figure databases_wakeups '<=' 0 '' "Idle: wake-ups of all workers of $databases databases in $seconds s"
sql "ALTER SYSTEM SET max_worker_processes = $((databases * 2 + 16))"
sql 'ALTER SYSTEM SET autovacuum = off'
restart_server
for ((i = 1; i <= databases; i++)); do
	outside "CREATE DATABASE many_$i"
	as_runner "$bin/psql" -h "$work/run" -U postgres -X -q -o /dev/null -d "many_$i" <<-END
		SET client_min_messages = warning;
		CREATE EXTENSION kapture_sync;
		CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '$url');
		CREATE USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (auth_key '$key');
		CREATE TABLE customers (id int PRIMARY KEY, customer_name text, phone text, kapture_customer_id bigint);
		SELECT kapture_attach('customers');
	END
done
restart_server
many_workers() { outside "SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'kapture_sync%' AND datname LIKE 'many_%'"; }
until [ "$(many_workers | wc -l)" -ge "$databases" ]; do sleep 1; done
sleep 14	# what follows the start
many=$(many_workers)
# private pages, but those of PostgreSQL's shared memory that no other process has touched yet
point databases_memory kapture_sync "$(for pid in $many; do
	awk '/^[0-9a-f]+-/ { shared = $2 ~ /s/ } /^Private/ && !shared { n += $2 } END { printf "%.3f\n", n / 1024 }' "/proc/$pid/smaps"; done |
	sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }')"
wakeups_of_many() { for pid in $many; do awk '/ctxt_switches/ { n += $2 } END { print n }' "/proc/$pid/status"; done | awk '{ n += $1 } END { print n }'; }
woken=$(wakeups_of_many)
sleep "$seconds"
point databases_wakeups kapture_sync $(($(wakeups_of_many) - woken))
for ((i = 1; i <= databases; i++)); do outside "DROP DATABASE many_$i"; done
sql 'ALTER SYSTEM RESET ALL'
restart_server
