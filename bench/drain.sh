# A server that answers at once, 64 connections: rows claimed, sent, answered,
# written back and in the history, a second; and what the worker needs for that.
rows=$(by_mode 20000 60000 100000)
figure drain '>=' 0.25 ratio "Drain, fast server, 64 connections: rows/s over wrk's requests/s"
figure cpu - - 'µs' "Worker's CPU time for a row (milliseconds for 1,000 rows)"
figure drain_curl '>=' 0.8 ratio "Drain, fast server, 64 connections: rows/s over the requests/s of a bare loop of libcurl's"
figure cpu_curl '<=' 2 ratio "Worker's CPU time for a row over that loop's for a request"
cc -O2 -Wall -Wextra -o "$work/curl_multi" "$top/bench/curl_multi.c" -lcurl
for ((i = 0; i < runs; i++)); do
	emulator reset
	l=$(limit 64)
	emulator reset
	read -r loop loop_cpu < <("$work/curl_multi" "$url/$add_path" 64 "$rows" "$key")
	fresh 64
	feed 1 "$rows"
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain "$rows"
	oracle "$rows"
	point drain kapture_sync "$(ratio "$rate" "$l")"
	point drain.rows kapture_sync "$rate"
	point drain.rows wrk "$l"
	point cpu kapture_sync "$cpu"
	point drain_curl kapture_sync "$(ratio "$rate" "$loop")"
	point drain.rows curl "$loop"
	point cpu_curl kapture_sync "$(ratio "$cpu" "$loop_cpu")"
	point cpu curl "$loop_cpu"
done
