# A server that takes 50 ms for each request, 200 connections.
rows=$(by_mode 12000 20000 100000)
figure slow '>=' 0.95 ratio 'Drain, server takes 50 ms, 200 connections: rows/s over 4,000/s'
for ((i = 0; i < runs; i++)); do
	fresh 200
	emulator faults '[{"action": "delay", "ms": 50}]'
	feed 1 "$rows"
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain "$rows"
	oracle "$rows"
	point slow kapture_sync "$(ratio "$rate" 4000)"
done
