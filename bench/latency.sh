# Single rows, all idle before each.  The emulator's log has the time when a
# request was answered; the session that writes knows when its COMMIT returned,
# and looks for the id every tenth of a millisecond.
rows=$(by_mode 50 200 1000)
figure arrival_p50 '<=' 2 ms 'Commit to arrival at the server, idle, single rows: median'
figure arrival_p99 '<=' 10 ms 'Commit to arrival at the server, idle, single rows: 99th percentile'
figure visible_p50 '<=' 3 ms 'Answer to visible kapture_customer_id, idle: median'
for ((i = 0; i < runs; i++)); do
	fresh 8
	resume
	psql -o /dev/null <<-END
		DROP TABLE IF EXISTS latency;
		CREATE TABLE latency (phone text PRIMARY KEY, committed timestamptz, visible timestamptz);
		DO \$\$
		DECLARE
			committed timestamptz;
			number text;
		BEGIN
			FOR i IN 1..$rows + 10 LOOP
				number := (6000000000 + i)::text;
				INSERT INTO customers (customer_name, phone, email_id, city)
					VALUES ('Row ' || i, number, 'c' || i || '@example.com', 'Bangalore');
				COMMIT;
				committed := clock_timestamp();
				LOOP
					PERFORM FROM customers WHERE id = i AND kapture_customer_id IS NOT NULL;
					EXIT WHEN FOUND;
					COMMIT;
					PERFORM pg_sleep(0.0001);
				END LOOP;
				INSERT INTO latency VALUES (number, committed, clock_timestamp());
				COMMIT;
				PERFORM pg_sleep(0.02);
			END LOOP;
		END \$\$;
	END
	wait_drained
	oracle $((rows + 10))
	curl -sf "$url/_emulator/log" | as_runner tee "$work/run/log.json" >/dev/null
	# the first ten warm up
	read -r p50 p99 visible < <(psql -F ' ' <<-END
		WITH log AS (SELECT to_timestamp((e ->> 'time')::double precision) AS at, e ->> 'body' AS body
			FROM jsonb_array_elements(pg_read_file('$work/run/log.json')::jsonb) AS e),
		both_ AS (SELECT 1000 * extract(epoch FROM log.at - committed) AS arrival, 1000 * extract(epoch FROM visible - log.at) AS visible
			FROM (SELECT * FROM latency ORDER BY committed OFFSET 10) AS l
			JOIN log ON substring(log.body FROM '\d{10}') = l.phone)
		SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY arrival)::numeric, 3),
			round(percentile_cont(0.99) WITHIN GROUP (ORDER BY arrival)::numeric, 3),
			round(percentile_cont(0.5) WITHIN GROUP (ORDER BY visible)::numeric, 3)
		FROM both_ HAVING count(*) = $rows
	END
	)
	point arrival_p50 kapture_sync "$p50"
	point arrival_p99 kapture_sync "$p99"
	point visible_p50 kapture_sync "$visible"
done
