# Where the worker's time goes: samples of its processor clock while it drains.
# Written to profile.txt; skipped where there is no perf.
if ! command -v perf >/dev/null; then need_packages linux-perf || true; fi
rows=$(by_mode 20000 100000 100000)
fresh 64
feed 1 "$rows"
sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
pid=$(worker)
if ! perf record -q -e cpu-clock -F 2000 -p "$pid" -o "$work/perf.data" -- sleep 0.1 >/dev/null 2>&1; then
	echo "no perf here: skipped"
	exit 0
fi
perf record -q -e cpu-clock -F 2000 -g -p "$pid" -o "$work/perf.data" >/dev/null 2>&1 &
perf=$!
drain "$rows"
kill -INT $perf
wait $perf || true
oracle "$rows"
{
	printf 'Samples of the worker while it sends %s rows, %% of its time\n\nBy object:\n' "$rows"
	perf report -i "$work/perf.data" --no-children -g none --sort dso --stdio 2>/dev/null | awk '$1 ~ /%/ && $1 + 0 >= 0.5'
	printf '\nBy function of ours, with what it calls:\n'
	perf report -i "$work/perf.data" --children -g none --sort sym --stdio 2>/dev/null |
		awk '$1 ~ /%/ && $1 + 0 >= 1 && / (worker|kapture|row|outbox|http|task|message|curl_multi|SPI|CommitTransaction|XLogFlush|WaitEventSetWait)_?[A-Za-z_]*/ { printf "%8s %8s  %s\n", $1, $2, $NF }' | head -60
	printf '\nBy function, by itself:\n'
	perf report -i "$work/perf.data" --no-children -g none --sort dso,sym --stdio 2>/dev/null | awk '$1 ~ /%/' | head -40
} >"$out/profile.txt"
head -20 "$out/profile.txt"
