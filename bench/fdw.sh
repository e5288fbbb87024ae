# Rows inserted into a foreign table, over what its connections could do: single calls in one session times
# max_connections.  The server takes 50 ms for each.
connections=32
rows=$(by_mode 2500 10000 50000)
figure fdw '>=' 0.9 ratio "INSERT of $rows rows into a foreign table, $connections connections, server takes 50 ms: rows/s over $connections times single calls"
for ((i = 0; i < runs; i++)); do
	fresh $connections
	emulator faults '[{"action": "delay", "ms": 50}]'
	started=$(now)
	psql -o /dev/null <<-'END'
		DO $$ BEGIN
			FOR i IN 1..100 LOOP
				PERFORM kapture_add_customer(jsonb_build_object('customer_name', 'Row ' || i, 'phone', (7000000000 + i)::text));
			END LOOP;
		END $$;
		CREATE FOREIGN TABLE remote (customer_name text, phone text, email_id text, city text) SERVER kapture;
	END
	single=$(ratio 100 "$(since "$started")")
	started=$(now)
	sql "INSERT INTO remote SELECT 'Row ' || i, (6000000000 + i)::text, 'c' || i || '@example.com', 'Bangalore' FROM generate_series(1, $rows) i"
	rate=$(ratio "$rows" "$(since "$started")")
	[ "$(emulated customers)" = $((rows + 100)) ] || { echo "the oracle says no" >&2; exit 1; }
	point fdw kapture_sync "$(awk -v r="$rate" -v s="$single" -v c=$connections 'BEGIN { printf "%.4f", r / (s * c) }')"
done
