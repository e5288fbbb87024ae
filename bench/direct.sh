# kapture_add_customer() in a loop in one session: over wrk with one connection, and over a loop of libcurl's
# easy interface (easy.c).
rows=$(by_mode 2000 10000 50000)
figure direct '>=' 0.6 ratio 'kapture_add_customer in a loop in one session: calls/s over wrk with 1 connection'
figure direct_easy '>=' 0.8 ratio 'kapture_add_customer in a loop in one session: calls/s over a loop of curl_easy_perform()'
cc -O2 -D_GNU_SOURCE -o "$work/easy" "$top/bench/easy.c" -lcurl
for ((i = 0; i < runs; i++)); do
	emulator reset
	l=$(limit 1)
	emulator reset
	easy=$("$work/easy" "$url/$add_path" "$rows" "$key")
	fresh 64
	# the loop alone, without the start of the session
	rate=$(psql <<-END
		DO \$\$
		DECLARE
			started timestamptz;
		BEGIN
			PERFORM kapture_get_customer('{"phone": "9874563725"}');
			started := clock_timestamp();
			FOR i IN 1..$rows LOOP
				PERFORM kapture_add_customer(jsonb_build_object('customer_name', 'Row ' || i, 'phone', (6000000000 + i)::text,
					'email_id', 'c' || i || '@example.com', 'city', 'Bangalore'));
			END LOOP;
			PERFORM set_config('bench.rate', ($rows / extract(epoch FROM clock_timestamp() - started))::text, false);
		END \$\$;
		SELECT current_setting('bench.rate');
	END
	)
	[ "$(emulated customers)" = "$rows" ] || { echo "the oracle says no" >&2; exit 1; }
	point direct kapture_sync "$(ratio "$rate" "$l")"
	point direct_easy kapture_sync "$(ratio "$rate" "$easy")"
done
