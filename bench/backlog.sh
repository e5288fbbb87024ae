# Does it matter how much waits, and what waits in front?  Slices of a large
# backlog are sent, in turns with small ones of the same size.
slice=10000
waiting=$(by_mode 200000 1000000 5000000)
figure backlog '>=' 0.95 ratio "Drain, $waiting rows waiting over 10,000 waiting: rows/s"
figure backlog_curve - - 'rows waiting' 'Drain by rows that wait, rows/s'
figure backlog_memory '<' 64 MB "Worker's memory with $waiting rows waiting"

# Sends until so many rows are in the history; sets rate and cpu, as drain() does.
drain_to() {
	local started before pid
	pid=$(worker)
	before=$(cpu_of "$pid")
	started=$(now)
	resume
	psql -o /dev/null <<-END
		DO \$\$ BEGIN
			WHILE (SELECT count(*) FROM kapture_history) < $1 LOOP
				COMMIT;
				PERFORM pg_sleep(0.005);
			END LOOP;
		END \$\$;
	END
	rate=$(ratio "$1" "$(since "$started")")
	cpu=$(awk -v a="$before" -v b="$(cpu_of "$pid")" -v n="$1" 'BEGIN { printf "%.2f", (b - a) / 1000 / n }')
	pause
	psql -c "DO \$\$ BEGIN WHILE EXISTS (SELECT FROM kapture_delivery WHERE state = 'sending') LOOP COMMIT; PERFORM pg_sleep(0.005); END LOOP; END \$\$"
	sql 'TRUNCATE kapture_history'
}

small=() small_cpu=()
for ((i = 0; i < runs; i++)); do
	fresh 64
	feed 1 $slice
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain_to $slice
	oracle $slice
	small+=("$rate")
	small_cpu+=("$cpu")
done
fresh 64
fed=0
for share in 20 10 5 2 1; do
	feed $((fed + 1)) $((waiting / share + slice))
	fed=$((waiting / share + slice))
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain_to $slice
	point backlog_curve 'rows/s' "$rate" "$(psql -c 'SELECT count(*) FROM customers WHERE kapture_customer_id IS NULL')"
done
for ((i = 0; i < runs; i++)); do
	drain_to $slice
	point backlog kapture_sync "$(ratio "$rate" "${small[i]}")"
	point backlog.cpu kapture_sync "$(ratio "${small_cpu[i]}" "$cpu")"
	point backlog_memory kapture_sync "$(memory_of "$(worker)")"
done
[ "$mode" = long ] && { resume; wait_drained; oracle "$fed"; }
sent=$(psql -c 'SELECT count(*) FROM customers WHERE kapture_customer_id IS NOT NULL')
oracle "$sent"
