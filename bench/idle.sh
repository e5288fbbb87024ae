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
