# WAL of a row that is captured and sent, beyond that of the same row in a table that is
# not attached: INSERT, and UPDATE of the id.  Full-page images do not count, as they
# depend on how long ago the last checkpoint was.
wal_now() {
	sql "SELECT pg_logical_emit_message(true, 'bench', '')" >/dev/null
	psql -c 'SELECT pg_current_wal_flush_lsn()'
}

# wal_of FROM ROWS: bytes for each of the rows, from there on
wal_of() { psql -c "SELECT round(sum(record_size) / $2, 1) FROM pg_get_wal_stats('$1', '$(wal_now)')"; }

beyond() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.1f", a - b }'; }

# A customer a transaction, with a pause in which it is sent.
single() {
	cat >"$work/single.sql" <<-END
		INSERT INTO $1 (customer_name, phone, email_id, city)
			SELECT 'Row ' || i, i::text, 'c' || i || '@example.com', 'Bangalore' FROM nextval('bench_phone') i RETURNING id \\gset
		$2
	END
	chmod 644 "$work/single.sql"
	pgbench -c1 -t "$singles" -f "$work/single.sql" >/dev/null
}

rows=$(by_mode 10000 50000 100000)
singles=$(by_mode 200 500 1000)
figure wal_bulk '<=' 200 B "WAL of a row captured and sent, of many in one transaction, beyond plain INSERT and UPDATE"
figure wal_single '<=' 500 B "WAL of a row captured and sent, each in a transaction, beyond plain INSERT and UPDATE"
sql 'CREATE EXTENSION IF NOT EXISTS pg_walinspect; CREATE SEQUENCE IF NOT EXISTS bench_phone START 7000000000'
for ((i = 0; i < runs; i++)); do
	fresh 64
	sql 'DROP TABLE IF EXISTS plain; CREATE TABLE plain (LIKE customers INCLUDING ALL)'
	sql CHECKPOINT
	at=$(wal_now)
	sql "INSERT INTO plain (customer_name, phone, email_id, city)
		SELECT 'Row ' || i, (6000000000 + i)::text, 'c' || i || '@example.com', 'Bangalore' FROM generate_series(1, $rows) i"
	sql 'UPDATE plain SET kapture_customer_id = id'
	plain=$(wal_of "$at" "$rows")
	at=$(wal_now)
	feed 1 "$rows"
	drain "$rows"
	point wal_bulk kapture_sync "$(beyond "$(wal_of "$at" "$rows")" "$plain")"

	at=$(wal_now)
	single plain 'UPDATE plain SET kapture_customer_id = :id WHERE id = :id;'
	plain=$(wal_of "$at" "$singles")
	at=$(wal_now)
	single customers '\sleep 10 ms'
	wait_drained
	point wal_single kapture_sync "$(beyond "$(wal_of "$at" "$singles")" "$plain")"
	oracle $((rows + singles))
done
sql 'DROP TABLE plain; DROP SEQUENCE bench_phone; DROP EXTENSION pg_walinspect'
