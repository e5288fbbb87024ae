# What capture costs those who write: nothing attached, attached (the worker is
# paused), and beside it the outbox in plpgsql that people write by hand.
rows=200000
turns=$(by_mode 4 6 20)
figure copy '<=' 1.5 ratio 'COPY of 200,000 rows into an attached table over plain COPY: time'
for c in 1 4; do
	figure insert_$c '>=' 0.95 ratio "Single-row INSERT, $c client(s): tps over plain"
	figure update_$c '>=' 0.95 ratio "Single-row UPDATE, $c client(s): tps over plain"
done
figure capture_cost - - ratio 'What capture costs: time of a statement over the same without it, 1 client'
figure unmapped '>=' 0.99 ratio 'UPDATE that touches no mapped column, 1 client: tps over plain'

seq 1 $rows | awk '{ printf "%d\tRow %d\t6%09d\tc%d@example.com\tBangalore\n", $1, $1, $1, $1 }' >"$work/copy.tsv"
chmod 644 "$work/copy.tsv"
fresh 64
sql "CREATE TABLE IF NOT EXISTS by_hand (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payload jsonb);
	CREATE OR REPLACE FUNCTION by_hand() RETURNS trigger LANGUAGE plpgsql AS \$\$
	BEGIN INSERT INTO by_hand (payload) VALUES (to_jsonb(NEW)); RETURN NEW; END \$\$"

# target KIND: an empty table "target_KIND": plain, attached (kapture_sync) or with the trigger by hand (plpgsql)
target() {
	sql "DROP TABLE IF EXISTS target_$1;
		TRUNCATE by_hand, kapture_outbox;
		CREATE TABLE target_$1 (id bigint PRIMARY KEY, customer_name text, phone text, email_id text, city text, note text,
			kapture_customer_id bigint)"
	case $1 in
		kapture_sync) sql "SELECT kapture_attach('target_$1')" >/dev/null && sql "SELECT kapture_pause('target_$1')" >/dev/null ;;
		plpgsql) sql "CREATE TRIGGER by_hand AFTER INSERT OR UPDATE ON target_$1 FOR EACH ROW EXECUTE FUNCTION by_hand()" ;;
	esac
}

copy() {
	target "$1"
	sql CHECKPOINT
	session "COPY target_$1 (id, customer_name, phone, email_id, city) FROM '$work/copy.tsv'"
}

cat >"$work/insert.sql" <<-'END'
	INSERT INTO target_:kind (id, customer_name, phone, email_id, city)
	VALUES ((random() * 1e17)::bigint, 'Priya', '9845765226', 'priya@example.com', 'Bangalore');
END
for column in city note; do
	printf '\\set id random(1, 20000)\nUPDATE target_:kind SET %s = random() WHERE id = :id;\n' $column >"$work/$column.sql"
done
chmod 644 "$work"/*.sql

# compare KEY SCRIPT CLIENTS KIND...: tps of the kinds over those of a plain table
compare() {
	local key=$1 script=$2 clients=$3 kinds=(plain "${@:4}") kind
	for kind in "${kinds[@]}"; do
		target "$kind"
		sql "INSERT INTO target_$kind (id, customer_name, phone) SELECT i, 'Row', i FROM generate_series(1, 20000) i"
		sql "VACUUM ANALYZE target_$kind"
	done
	sql CHECKPOINT
	in_turns "$turns" "$clients" "$work/$script.sql" "${kinds[@]}"
	for kind in "${@:4}"; do
		point "$key" "$kind" "$(ratio "${tps[$kind]}" "${tps[plain]}")"
		point "$key.cpu" "$kind" "$(ratio "${spent[plain]}" "${spent[$kind]}")"
		case $key in *_1) point capture_cost "${script_name[$script]}, $kind" "$(ratio "${tps[plain]}" "${tps[$kind]}")" ;; esac
	done
}
declare -A script_name=([insert]=INSERT [city]=UPDATE)

for ((i = 0; i < runs; i++)); do
	copy plain
	plain=$seconds plain_cpu=$cpu_seconds
	for kind in kapture_sync plpgsql; do
		copy $kind
		point copy $kind "$(ratio "$seconds" "$plain")"
		point copy.cpu $kind "$(ratio "$cpu_seconds" "$plain_cpu")"
		point capture_cost "COPY, $kind" "$(ratio "$seconds" "$plain")"
	done
	for c in 1 4; do
		compare insert_$c insert $c kapture_sync plpgsql
		compare update_$c city $c kapture_sync plpgsql
	done
	# to tell so small a difference from noise takes longer
	turns=$((turns * 3)) compare unmapped note 1 kapture_sync
done
sql 'DROP TABLE target_plain, target_kapture_sync, target_plpgsql, by_hand; DROP FUNCTION by_hand'
