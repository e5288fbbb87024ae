# 100,000 rows of hours ago in front: half of them parked, half waiting for
# their next try.
rows=$(by_mode 10000 30000 100000)
figure parked '>=' 0.95 ratio 'Drain with 100,000 parked and retrying rows in front, over without: rows/s'
for ((i = 0; i < runs; i++)); do
	fresh 64
	feed 1 "$rows"
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain "$rows"
	oracle "$rows"
	without=$rate without_cpu=$cpu
	fresh 64
	sql "INSERT INTO kapture_delivery (attachment_id, row_key, state, changed, failures, captured_at, last_attempt, next_attempt, api, request, http_status, last_error)
		SELECT attachment_id, (1e9 + i)::bigint, CASE WHEN i % 2 = 0 THEN 'parked' ELSE 'retry' END, 1, 5, now() - interval '4 hours', now() - interval '4 hours',
			CASE WHEN i % 2 = 1 THEN now() + interval '1 hour' END, 'add', repeat('x', 200), 400, 'phone is not valid'
		FROM kapture_attachment, generate_series(1, 100000) i"
	feed 1 "$rows"
	sql 'VACUUM ANALYZE customers, kapture_delivery' && sql CHECKPOINT
	drain "$rows"
	oracle "$rows"
	[ "$(psql -c "SELECT count(*) FROM kapture_delivery")" = 100000 ] || { echo "the oracle says no: parked rows are gone" >&2; exit 1; }
	point parked kapture_sync "$(ratio "$rate" "$without")"
	point parked.cpu kapture_sync "$(ratio "$without_cpu" "$cpu")"
done
