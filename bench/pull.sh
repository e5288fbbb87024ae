# Pulling: customers from Kapture's answers to rows and tables.
# - kapture_refresh into empty tables, from CALL to its end, so with the making
#   and fetching of the answers, beside COPY of the very rows of both tables, raw
#   and contacts too, into tables with the same indexes and foreign key.
# - kapture_pull_customers, with the fetching, beside jsonb_to_recordset into the
#   same columns over the same answers, which lie in a table already, without
#   the raw line breaks that jsonb would refuse; it casts one of the times.
days=$(by_mode 5 20 28)
customers=$((days * 2001))	# not 2000, which looks like a limit
last=$(printf '2021-01-%02d' "$days")
range="'2021-01-01', '$last'"
figure pull.refresh '>=' 0.5 ratio "kapture_refresh into empty tables: customers/s over COPY of the same rows"
figure pull.rows '>=' 1 ratio "kapture_pull_customers: customers/s over jsonb_to_recordset"
figure pull.again - - ratio "kapture_refresh of what is there already: customers/s over the first time"

# answer DAY: of a pull
answer() {
	curl -sf -X POST -H "Authorization: Basic $key" -H 'Content-Type: application/json' \
		"$url/select-customer-between-start-and-end-dates.html" -d "[{\"start_date\": \"2021-01-$1\", \"end_date\": \"2021-01-$1\"}]"
}

# timed STATEMENT...: session() after a checkpoint
timed() { sql CHECKPOINT && session "$@"; }

# is QUERY RESULT
is() {
	local result
	result=$(psql -c "$1")
	[ "$result" = "$2" ] || { echo "the oracle says no: $1 is $result, not $2" >&2; exit 1; }
}

fresh 8
emulator seed "{\"count\": $customers, \"from\": \"2021-01-01\", \"to\": \"$last\"}"
for day in $(seq -w 01 "$days"); do
	answer "$day" | tr '\n' ' ' | sed 's/\\/\\\\/g'
	echo
done >"$work/answers"
psql <<-END
	SET client_min_messages = warning;
	DROP TABLE IF EXISTS copied_customers, copied_contacts, answers;
	CREATE TABLE copied_customers (LIKE kapture_customers INCLUDING ALL);
	CREATE TABLE copied_contacts (LIKE kapture_contacts INCLUDING ALL,
		FOREIGN KEY (server, customer_id) REFERENCES copied_customers (server, id) ON DELETE CASCADE);
	CREATE TABLE answers (body text);
	\\copy answers FROM '$work/answers'
END
# the columns of kapture_customer that have a key of their own, with that key
columns=$(psql <<-'END'
	SELECT string_agg(format('%I %s', lower(left(k, 1)) || substr(k, 2),
			CASE t WHEN 'timestamptz'::regtype THEN 'text' ELSE format_type(t, NULL) END), ', ')
	FROM (SELECT CASE attname WHEN 'phone' THEN 'companyPhone' ELSE replace(initcap(replace(attname, '_', ' ')), ' ', '') END, atttypid
		FROM pg_attribute WHERE attrelid = 'kapture_customer'::regclass AND attnum > 0
		AND attname NOT IN ('raw', 'email', 'company_phone')) a(k, t)
END
)
rm -f "$work/run/customers" "$work/run/contacts"

for ((i = 0; i < runs; i++)); do
	started=$(now)
	for day in $(seq -w 01 "$days"); do answer "$day" >/dev/null; done
	fetch=$(since "$started")

	sql 'TRUNCATE kapture_customers, kapture_contacts, kapture_refresh_run'
	timed "CALL kapture_refresh($range)"
	refresh=$seconds refresh_cpu=$cpu_seconds
	is "SELECT count(*), count(DISTINCT c.id), count(k.id) FROM kapture_customers c JOIN kapture_contacts k ON k.customer_id = c.id" \
		"$customers|$customers|$customers"
	timed "CALL kapture_refresh($range)"
	again=$seconds again_cpu=$cpu_seconds
	is 'SELECT written FROM kapture_refresh_run' 0
	[ -e "$work/run/customers" ] ||
		psql -c "COPY kapture_customers TO '$work/run/customers'" -c "COPY kapture_contacts TO '$work/run/contacts'"

	sql 'TRUNCATE copied_customers, copied_contacts'
	timed "COPY copied_customers FROM '$work/run/customers'" "COPY copied_contacts FROM '$work/run/contacts'"
	copy=$seconds copy_cpu=$cpu_seconds
	is 'SELECT count(*) FROM copied_contacts' "$customers"

	timed "SELECT count(*), count(generation_date) FROM kapture_pull_customers($range)"
	pull=$seconds pull_cpu=$cpu_seconds
	timed "SELECT count(*), count(\"generationDate\"::timestamp)
		FROM answers, jsonb_to_recordset(body::jsonb -> 'message') AS r($columns)"
	recordset=$seconds recordset_cpu=$cpu_seconds

	point pull.refresh kapture_sync "$(ratio "$copy" "$refresh")"
	point pull.rows kapture_sync "$(ratio "$recordset" "$pull")"
	point pull.again kapture_sync "$(ratio "$refresh" "$again")"
	point pull.refresh.cpu kapture_sync "$(ratio "$copy_cpu" "$refresh_cpu")"
	point pull.rows.cpu kapture_sync "$(ratio "$recordset_cpu" "$pull_cpu")"
	point pull.again.cpu kapture_sync "$(ratio "$refresh_cpu" "$again_cpu")"
	point pull.refreshed kapture_sync "$(ratio "$customers" "$refresh")"
	point pull.refreshed COPY "$(ratio "$customers" "$copy")"
	point pull.refreshed curl "$(ratio "$customers" "$fetch")"
	point pull.pulled kapture_sync "$(ratio "$customers" "$pull")"
	point pull.pulled jsonb_to_recordset "$(ratio "$customers" "$recordset")"
done
psql -c 'DROP TABLE copied_customers, copied_contacts, answers'
