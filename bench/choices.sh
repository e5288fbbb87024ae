# What else could have been chosen: rows/s of a drain with 64 connections, each
# choice for a quarter of the runs.
rows=$(by_mode 10000 30000 100000)
figure choice_flush - - 'rows/s' 'Drain with the disk waited for, and without (fsync off, which nobody should do)'
figure choice_batch - - 'rows/s' 'Drain by answers recorded at a time (built so; 128 is the default)'
figure choice_http - - 'rows/s' 'Drain over TLS, through nginx'
# drain_once [URL OPTIONS]: over another way than straight to the emulator
drain_once() {
	fresh 64
	[ -z "${1:-}" ] || sql "ALTER SERVER kapture OPTIONS (SET url '$1', ADD $2)"
	feed 1 "$rows"
	sql 'VACUUM ANALYZE customers' && sql CHECKPOINT
	drain "$rows"
	oracle "$rows"
}
times=$(((runs + 3) / 4))

for ((i = 0; i < times; i++)); do
	for fsync in on off; do
		sql "ALTER SYSTEM SET fsync = $fsync" && sql 'SELECT pg_reload_conf()' >/dev/null
		drain_once
		point choice_flush "fsync $fsync" "$rate"
	done
done
sql 'ALTER SYSTEM RESET fsync' && sql 'SELECT pg_reload_conf()' >/dev/null

for ((i = 0; i < times; i++)); do
	for batch in 1 32 128 512; do
		build_with push/record.c "-DRECORD_BATCH=$batch"
		drain_once
		point choice_batch "$batch at a time" "$rate"
	done
done
build_with push/record.c

need_packages nginx openssl
tls_port=$((${url##*:} + 1))
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 \
	-keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
chmod 644 "$work/tls.key" "$work/tls.crt"
cat >"$work/nginx.conf" <<-END
	daemon off; pid $work/run/nginx.pid; error_log $work/run/nginx.log; worker_processes 1;
	events { worker_connections 1024; }
	http {
		access_log off; keepalive_requests 1000000;
		client_body_temp_path $work/run/body; proxy_temp_path $work/run/proxy; fastcgi_temp_path $work/run/f;
		uwsgi_temp_path $work/run/u; scgi_temp_path $work/run/s;
		upstream emulator { server ${url#http://}; keepalive 256; }
		server {
			listen 127.0.0.1:$tls_port ssl;
			ssl_certificate $work/tls.crt; ssl_certificate_key $work/tls.key;
			location / { proxy_pass http://emulator; proxy_http_version 1.1; proxy_set_header Connection ""; }
		}
	}
END
for ((i = 0; i < times; i++)); do
	as_runner nginx -c "$work/nginx.conf" &
	nginx=$!
	until curl -sk -o /dev/null "https://127.0.0.1:$tls_port/"; do kill -0 $nginx; done
	drain_once "https://127.0.0.1:$tls_port" "ca_file '$work/tls.crt'"
	kill "$(cat "$work/run/nginx.pid")"
	wait $nginx || true
	point choice_http TLS "$rate"
done
