# Somebody holds a snapshot, so that nothing that dies can be removed.  Rows are
# fed and sent all the time (in the long mode for a minute in five).  Meanwhile
# the table and the history grow by millions of rows, snapshot or not: so the
# rate at its end is put over the mean of what it is before it, and after it, when
# the dead are removed.
held=$(by_mode 60 600 3600)
window=$(by_mode 10 30 60)
every=$(by_mode 2 5 10)
figure snapshot '>=' 0.8 ratio "Drain while a snapshot is held for $held s (last $window s) over without (before and after)"
figure snapshot_rates - - 'rows/s' 'Rates before, at the end of and after a snapshot'
figure snapshot_curve - - 's' "Rows/s while a snapshot is held from ${window} s on"
fresh 64
fed=0
resume
stream 5
stream_start=$(now)
stream "$window" 'rows/s' snapshot_curve "$every"
before=$rate
mkfifo "$work/snapshot"
psql <"$work/snapshot" >/dev/null &
exec 7>"$work/snapshot"
printf 'BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM pg_class;\n' >&7
until [ "$(psql -c "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND backend_xmin IS NOT NULL")" = 1 ]; do sleep 0.05; done
if [ "$mode" = long ]; then
	for ((minute = 0; minute < 11; minute++)); do
		stream 60 'rows/s' snapshot_curve "$every"
		wait_drained
		sleep 240
	done
else
	stream $((held - window)) 'rows/s' snapshot_curve "$every"
fi
stream "$window" 'rows/s' snapshot_curve "$every"
during=$rate
exec 7>&-
wait
wait_drained
sql 'VACUUM'
stream "$window" 'rows/s' snapshot_curve "$every"
after=$rate
wait_drained
oracle "$fed"
point snapshot kapture_sync "$(awk -v d="$during" -v b="$before" -v a="$after" 'BEGIN { printf "%.4f", 2 * d / (a + b) }')"
point snapshot_rates before "$before"
point snapshot_rates during "$during"
point snapshot_rates after "$after"
