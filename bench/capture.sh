# What capture costs those who write: nothing attached, attached (the worker is
# paused), and beside it the outbox in plpgsql that people write by hand.
rows=200000
seconds=$(by_mode 2 3 10)
figure copy '<=' 1.5 ratio 'COPY of 200,000 rows into an attached table over plain COPY: time'
for c in 1 4; do
	figure insert_$c '>=' 0.95 ratio "Single-row INSERT, $c client(s): tps over plain"
	figure update_$c '>=' 0.95 ratio "Single-row UPDATE, $c client(s): tps over plain"
done
figure unmapped '>=' 0.99 ratio 'UPDATE that touches no mapped column, 1 client: tps over plain'

seq 1 $rows | awk '{ printf "%d\tRow %d\t6%09d\tc%d@example.com\tBangalore\n", $1, $1, $1, $1 }' >"$work/copy.tsv"
chmod 644 "$work/copy.tsv"
fresh 64
sql "CREATE TABLE IF NOT EXISTS by_hand (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload jsonb);
	CREATE OR REPLACE FUNCTION by_hand() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN INSERT INTO by_hand (payload) VALUES (to_jsonb(NEW)); RETURN NEW; END \$\$"

# target KIND: an empty table "target", plain, attached or with the trigger by hand
target() {
	sql "DROP TABLE IF EXISTS target;
		TRUNCATE by_hand, kapture_outbox;
		CREATE TABLE target (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text, note text,
			kapture_customer_id bigint)"
	case $1 in
		kapture_sync) sql "SELECT kapture_attach('target')" >/dev/null && sql "SELECT kapture_pause('target')" >/dev/null ;;
		plpgsql) sql 'CREATE TRIGGER by_hand AFTER INSERT OR UPDATE ON target FOR EACH ROW EXECUTE FUNCTION by_hand()' ;;
	esac
}

copy() {
	local started
	target "$1"
	sql CHECKPOINT
	started=$(now)
	psql -c "COPY target (id, customer_name, phone, email_id, city) FROM '$work/copy.tsv'"
	since "$started"
}

cat >"$work/insert.sql" <<-'END'
	INSERT INTO target (id, customer_name, phone, email_id, city)
	VALUES ((random() * 1e17)::bigint, 'Priya', '9845765226', 'priya@example.com', 'Bangalore');
END
for column in city note; do
	printf '\\set id random(1, 20000)\nUPDATE target SET %s = random() WHERE id = :id;\n' $column >"$work/$column.sql"
done
chmod 644 "$work"/*.sql

# tps KIND SCRIPT CLIENTS
tps() {
	target "$1"
	if [ "$2" != insert ]; then
		sql "INSERT INTO target (id, customer_name, phone) SELECT i, 'Row', i FROM generate_series(1, 20000) i"
		sql 'VACUUM ANALYZE target'
	fi
	sql CHECKPOINT
	pgbench -T "$seconds" -c "$3" -j "$3" -f "$work/$2.sql" | awk '/^tps/ { print $3 }'
}

for ((i = 0; i < runs; i++)); do
	plain=$(copy plain)
	for kind in kapture_sync plpgsql; do point copy $kind "$(ratio "$(copy $kind)" "$plain")"; done
	for c in 1 4; do
		for pair in insert:insert update:city; do
			plain=$(tps plain "${pair#*:}" $c)
			for kind in kapture_sync plpgsql; do
				point "${pair%:*}_$c" $kind "$(ratio "$(tps $kind "${pair#*:}" $c)" "$plain")"
			done
		done
	done
	plain=$(tps plain note 1)
	point unmapped kapture_sync "$(ratio "$(tps kapture_sync note 1)" "$plain")"
done
sql 'DROP TABLE target, by_hand; DROP FUNCTION by_hand'
