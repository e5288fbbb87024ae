# What a mapping costs.  Draining: rows whose values are expressions, constants,
# or come from a view, beside the same values in columns.  Writing: beside the
# same tables with nothing attached, and beside what people do without mappings: a table
# shaped like Kapture's customers, attached as it is, which triggers in plpgsql keep.
rows=$(by_mode 10000 30000 100000)
figure mapping.constant '>=' 0.9 ratio 'Drain, a constant beside the columns, over plain columns: rows/s'
figure mapping.expression '>=' 0.9 ratio 'Drain, four expressions and a filter, over plain columns: rows/s'
figure mapping.view '>=' 0.7 ratio 'Drain, values from a view over three tables, over plain columns: rows/s'
declare -A rate_of cpu_of_kind attach_as

columns='"customer_name": "customer_name", "phone": "phone", "email_id": "email_id", "city": "city"'
attach_as[columns]="SELECT kapture_attach('customers', columns => '{$columns}')"
attach_as[constant]="SELECT kapture_attach('customers', columns => '{$columns, \"campaign_name\": {\"constant\": \"bench\"}}')"
attach_as[expression]="SELECT kapture_attach('customers', filter => 'note = ''BLR'' AND customer_name <> ''''', columns => \$\${
	\"customer_name\": {\"expression\": \"concat_ws(' ', customer_name, NULL)\"}, \"phone\": {\"expression\": \"kapture_phone(phone)\"},
	\"email_id\": {\"expression\": \"lower(email_id)\"}, \"city\": {\"expression\": \"initcap(city)\"}}\$\$)"
attach_as[view]="CREATE VIEW mapped AS SELECT c.id, c.customer_name, c.phone, e.email_id, t.city
	FROM customers c LEFT JOIN emails e ON e.customer_id = c.id LEFT JOIN towns t ON t.code = c.note;
	SELECT kapture_attach('customers', source => 'mapped')"

# drain_kind KIND: rows/s and the worker's microseconds for a row, of the same rows mapped in that way
drain_kind() {
	attach="${attach_as[$1]}" fresh 64
	sql "INSERT INTO customers (customer_name, phone, email_id, city, note)
		SELECT 'Row ' || i, (6000000000 + i)::text, 'c' || i || '@example.com', 'Bangalore', 'BLR' FROM generate_series(1, $rows) i"
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain "$rows"
	oracle "$rows"
	rate_of[$1]=$rate
	cpu_of_kind[$1]=$cpu
}

sql "CREATE TABLE emails (customer_id bigint PRIMARY KEY, email_id text);
	INSERT INTO emails SELECT i, 'c' || i || '@example.com' FROM generate_series(1, $rows) i;
	CREATE TABLE towns (code text PRIMARY KEY, city text);
	INSERT INTO towns VALUES ('BLR', 'Bangalore')"
sql 'VACUUM ANALYZE emails, towns'
drain_kind columns	# warms up
for ((i = 0; i < runs; i++)); do
	order=(columns constant expression view)
	if ((i % 2)); then mapfile -t order < <(printf '%s\n' "${order[@]}" | tac); fi
	for kind in "${order[@]}"; do drain_kind "$kind"; done
	for kind in constant expression view; do
		point mapping.$kind kapture_sync "$(ratio "${rate_of[$kind]}" "${rate_of[columns]}")"
		point mapping.$kind.cpu kapture_sync "$(ratio "${cpu_of_kind[columns]}" "${cpu_of_kind[$kind]}")"
	done
done
sql 'DROP TABLE emails, towns CASCADE'

# ---- what it costs to know what Kapture has ----

figure mapping.digests '>=' 0.9 ratio 'Drain, with digests of what is sent kept of each row, over one without (built so): rows/s'
for ((i = 0; i < runs; i++)); do
	order=(true false)
	if ((i % 2)); then order=(false true); fi
	for kept in "${order[@]}"; do
		build_with known/digest.c "-DDIGEST_KEPT=$kept"
		drain_kind columns
		[ "$(psql -c 'SELECT count(digests) FROM kapture_row')" = "$([ $kept = true ] && echo "$rows" || echo 0)" ] ||
			{ echo "the oracle says no: digests are kept otherwise than $kept" >&2; exit 1; }
		rate_of[$kept]=$rate cpu_of_kind[$kept]=$cpu
	done
	point mapping.digests kapture_sync "$(ratio "${rate_of[true]}" "${rate_of[false]}")"
	point mapping.digests.cpu kapture_sync "$(ratio "${cpu_of_kind[false]}" "${cpu_of_kind[true]}")"
done
build_with known/digest.c

# ---- what writing costs ----

people=100000
changed=20000
figure mapping.changed '<=' 1.5 ratio 'UPDATE of 20,000 rows mapped by a view over three tables, over plain UPDATE: time'
figure mapping.followed '<=' 1.3 ratio 'UPDATE of 20,000 rows of a followed table over plain UPDATE: time'
figure mapping.shared '<=' 1.1 ratio 'UPDATE of a row that 100,000 customers refer to, over plain UPDATE: time of the transaction'
figure mapping.unread '<=' 1.02 ratio 'UPDATE of 20,000 rows that touches nothing that matters, over the same in a table attached with plain columns: time'
figure mapping.touch - - ratio 'kapture_touch of 20,000 rows, one by one, over UPDATE of them in the table kept by triggers: time'

# world KIND: people, their addresses and countries, in tables that end in _KIND
world() {
	sql "CREATE TABLE countries_$1 (id int PRIMARY KEY, name text);
		CREATE TABLE people_$1 (id bigint PRIMARY KEY, first_name text, last_name text, phone text, email text, country int, signed_in int DEFAULT 0);
		CREATE TABLE addresses_$1 (id bigint PRIMARY KEY, person bigint, street text, town text);
		INSERT INTO countries_$1 SELECT i, 'Country ' || i FROM generate_series(1, 200) i;
		INSERT INTO people_$1 SELECT i, 'Priya', 'R ' || i, (6000000000 + i)::text, 'c' || i || '@example.com', 1 FROM generate_series(1, $people) i;
		INSERT INTO addresses_$1 SELECT i, i, i || ' MG Road', 'Bangalore' FROM generate_series(1, $people) i;
		CREATE INDEX ON people_$1 (country);
		CREATE INDEX ON addresses_$1 (person);
		CREATE VIEW view_$1 AS SELECT p.id, concat_ws(' ', p.first_name, p.last_name) AS customer_name, kapture_phone(p.phone) AS phone,
			lower(p.email) AS email_id, concat_ws(', ', a.street, a.town) AS city, c.name AS country
			FROM people_$1 p LEFT JOIN addresses_$1 a ON a.person = p.id LEFT JOIN countries_$1 c ON c.id = p.country"
}

# The table that is kept by triggers, as whoever needs one writes them.
keep_by_hand() {
	sql "CREATE TABLE kept (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text, country text);
		INSERT INTO kept SELECT * FROM view_plpgsql;
		CREATE FUNCTION keep(ids bigint[]) RETURNS void LANGUAGE sql AS \$\$
			INSERT INTO kept SELECT * FROM view_plpgsql WHERE id = ANY (ids)
			ON CONFLICT (id) DO UPDATE SET customer_name = excluded.customer_name, phone = excluded.phone,
				email_id = excluded.email_id, city = excluded.city, country = excluded.country \$\$;
		CREATE FUNCTION keep_person() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM keep(ARRAY[NEW.id]); RETURN NULL; END \$\$;
		CREATE FUNCTION keep_address() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN PERFORM keep(ARRAY[NEW.person]); RETURN NULL; END \$\$;
		CREATE FUNCTION keep_country() RETURNS trigger LANGUAGE plpgsql AS \$\$
			BEGIN PERFORM keep(ARRAY(SELECT id FROM people_plpgsql WHERE country = NEW.id)); RETURN NULL; END \$\$;
		CREATE TRIGGER keep AFTER INSERT OR UPDATE ON people_plpgsql FOR EACH ROW EXECUTE FUNCTION keep_person();
		CREATE TRIGGER keep AFTER INSERT OR UPDATE ON addresses_plpgsql FOR EACH ROW EXECUTE FUNCTION keep_address();
		CREATE TRIGGER keep AFTER UPDATE ON countries_plpgsql FOR EACH ROW EXECUTE FUNCTION keep_country();
		SELECT kapture_attach('kept');
		SELECT kapture_pause('kept')" >/dev/null
}

# statement KEY KIND: what is measured
statement() {
	case $1 in
		changed) echo "UPDATE people_$2 SET last_name = last_name || 'x' WHERE id <= $changed" ;;
		followed) echo "UPDATE addresses_$2 SET street = street || 'x' WHERE id <= $changed" ;;
		unread) echo "UPDATE people_$2 SET signed_in = signed_in + 1 WHERE id <= $changed" ;;
		touch)
			local one="PERFORM kapture_touch('people_$2', n::text)"
			if [ "$2" = plpgsql ]; then one="UPDATE kept SET city = city || 'x' WHERE id = n"; fi
			echo "DO \$\$ BEGIN FOR n IN 1..$changed LOOP $one; END LOOP; END \$\$" ;;
		shared)
			echo "DO \$\$ BEGIN FOR i IN 1..$([ "$2" = plpgsql ] && echo 1 || echo 1000) LOOP
				UPDATE countries_$2 SET name = 'Name ' || random() WHERE id = 1; COMMIT; END LOOP; END \$\$" ;;
	esac
}

# noted KEY: what the statement has noted is what it should have
noted() {
	local n expected=$changed
	case $1 in unread) expected=0 ;; shared) expected=1000 ;; esac
	n=$(psql -c 'SELECT coalesce(sum(1 + coalesce(cardinality(more_keys), 0)), 0) FROM kapture_outbox')
	[ "$n" = "$expected" ] || { echo "the oracle says no: $1 has noted $n changes, not $expected" >&2; exit 1; }
}

# against KEY REFERENCE KIND...: what a statement takes in the kinds, over what it takes in the reference
against() {
	local key=$1 reference=$2 kind times order=("${@:2}")
	local -A wall used
	if ((i % 2)); then mapfile -t order < <(printf '%s\n' "${order[@]}" | tac); fi
	for kind in "${order[@]}"; do
		sql CHECKPOINT
		session "$(statement "$key" "$kind")"
		[ "$kind" != kapture_sync ] || noted "$key"
		times=1
		if [ "$key $kind" = 'shared plpgsql' ]; then times=1000; fi
		wall[$kind]=$(awk -v s="$seconds" -v n=$times 'BEGIN { print s * n }')
		used[$kind]=$(awk -v s="$cpu_seconds" -v n=$times 'BEGIN { print s * n }')
		sql 'TRUNCATE kapture_outbox, kapture_delivery'
		sql 'VACUUM'
	done
	for kind in "${@:3}"; do
		point "mapping.$key" "$kind" "$(ratio "${wall[$kind]}" "${wall[$reference]}")"
		point "mapping.$key.cpu" "$kind" "$(ratio "${used[$kind]}" "${used[$reference]}")"
	done
}

fresh 64
for kind in plain columns kapture_sync plpgsql; do world $kind; done
sql "SELECT kapture_attach('people_columns', columns => '{\"customer_name\": \"last_name\", \"phone\": \"phone\", \"email_id\": \"email\"}');
	SELECT kapture_attach('people_kapture_sync', source => 'view_kapture_sync');
	SELECT kapture_follow('addresses_kapture_sync', 'people_kapture_sync', 'target.id = source.person');
	SELECT kapture_follow('countries_kapture_sync', 'people_kapture_sync', 'target.country = source.id');
	SELECT kapture_pause('people_columns'), kapture_pause('people_kapture_sync')" >/dev/null
keep_by_hand
sql 'VACUUM ANALYZE'
for ((i = 0; i < runs; i++)); do
	against changed plain kapture_sync plpgsql
	against followed plain kapture_sync plpgsql
	against shared plain kapture_sync plpgsql
	against unread columns kapture_sync plpgsql
	against touch plpgsql kapture_sync
done
sql 'DROP EXTENSION kapture_sync CASCADE'
for kind in plain columns kapture_sync plpgsql; do sql "DROP TABLE people_$kind, addresses_$kind, countries_$kind CASCADE"; done
sql 'DROP TABLE kept; DROP FUNCTION keep(bigint[]), keep_person(), keep_address(), keep_country()'
