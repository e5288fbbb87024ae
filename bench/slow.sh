# A server that takes 50 ms for each request, 200 connections; and the curve: what
# is sent when it takes less or more, beside what it could take.
# so many that the start and the end, with fewer in flight, are a small part
rows=$(by_mode 12000 40000 100000)
figure slow '>=' 0.97 ratio 'Drain, server takes 50 ms, 200 connections: rows/s over 4,000/s'
figure answer_curve - - ms 'Drain with 200 connections by the time that the server takes for an answer, rows/s'

# drain_slowly MILLISECONDS ROWS
drain_slowly() {
	fresh 200
	emulator faults "[{\"action\": \"delay\", \"ms\": $1}]"
	feed 1 "$2"
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain "$2"
	oracle "$2"
}

for ((i = 0; i < runs; i++)); do
	drain_slowly 50 "$rows"
	point slow kapture_sync "$(ratio "$rate" 4000)"
done
for ms in 5 8 12 20 35 50 70 100; do
	possible=$((200 * 1000 / ms))
	drain_slowly $ms $((possible * $(by_mode 1 3 10)))
	point answer_curve 'sent' "$rate" $ms
	point answer_curve 'possible (connections / time)' $possible $ms
done
