# How large the outbox gets while many rows go through, with autovacuum as it is
# by default: not larger than some batches in flight need.
rows=$(by_mode 100000 500000 5000000)
batch=10000
figure bloat '<' 3 ratio "Outbox, table and index, after $rows rows went through: size over that of a batch of 10,000"
figure bloat_curve - - rows 'Size of the outbox, MB, by rows that went through'
size() { psql -c "SELECT pg_total_relation_size('kapture_outbox') + pg_total_relation_size('kapture_delivery')"; }
fresh 64
feed 1 $batch
full=$(psql -c "SELECT pg_total_relation_size('kapture_outbox')")
resume
for ((fed = batch; fed < rows; fed += batch)); do
	wait_drained
	feed $((fed + 1)) $((fed + batch))
	if [ $((fed % (rows / 50))) -lt $batch ]; then
		for table in outbox delivery; do
			point bloat_curve "kapture_$table" "$(psql -c "SELECT round(pg_total_relation_size('kapture_$table') / 1048576.0, 3)")" "$fed"
		done
	fi
done
wait_drained
oracle "$rows"
point bloat kapture_sync "$(ratio "$(psql -c "SELECT pg_total_relation_size('kapture_outbox')")" "$full")"
