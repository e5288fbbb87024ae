# kapture_add_customer() in a loop in one session, over wrk with one connection.
rows=$(by_mode 2000 10000 50000)
figure direct '>=' 0.6 ratio 'kapture_add_customer in a loop in one session: calls/s over wrk with 1 connection'
for ((i = 0; i < runs; i++)); do
	emulator reset
	l=$(limit 1)
	fresh 64
	started=$(now)
	psql -o /dev/null <<-END
		DO \$\$ BEGIN
			FOR i IN 1..$rows LOOP
				PERFORM kapture_add_customer(jsonb_build_object('customer_name', 'Row ' || i, 'phone', (6000000000 + i)::text,
					'email_id', 'c' || i || '@example.com', 'city', 'Bangalore'));
			END LOOP;
		END \$\$;
	END
	rate=$(ratio "$rows" "$(since "$started")")
	[ "$(emulated customers)" = "$rows" ] || { echo "the oracle says no" >&2; exit 1; }
	point direct kapture_sync "$(ratio "$rate" "$l")"
done
