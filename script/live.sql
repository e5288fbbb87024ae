-- How the sync is doing, each second:  psql -f script/live.sql
-- It costs the same however much waits.  Bars are logarithmic: ten times as many
-- are nine blocks more.
\set QUIET on
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
\pset null ''
\pset pager off
-- wherever the extension is
SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', nullif(pg_catalog.current_setting('search_path'), ''), pg_catalog.quote_ident(nspname)), false) AS live_path
FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = extnamespace WHERE extname = 'kapture_sync'
\gset
WITH requests AS MATERIALIZED (
	SELECT sum(requests) AS n, extract(epoch FROM clock_timestamp()) AS at FROM kapture_stat_requests
), before AS MATERIALIZED (
	-- of the last look, kept in settings of the session
	SELECT nullif(current_setting('kapture_live.n', true), '')::numeric AS n,
		nullif(current_setting('kapture_live.at', true), '')::numeric AS at
), rate AS MATERIALIZED (
	SELECT coalesce((requests.n - before.n) / nullif(requests.at - before.at, 0), 0) AS n,
		set_config('kapture_live.n', coalesce(requests.n, 0)::text, false), set_config('kapture_live.at', requests.at::text, false)
	FROM requests, before
), look AS MATERIALIZED (
	-- version 1.0 has no name
	SELECT *, relation::text || coalesce(' (' || nullif(to_jsonb(s) ->> 'name', '') || ')', '') AS title FROM kapture_status s
), lines(part, name, line, text) AS (
	SELECT 0, '', 0, format(E'\033[H\033[2J\033[1mkapture_sync\033[0m  %s  %s', current_database(), to_char(clock_timestamp(), 'HH24:MI:SS'))
	UNION ALL
	SELECT 1, title, 0, format(E'\n\033[1m%s\033[0m to %s: \033[%sm%s\033[0m, server \033[%sm%s\033[0m',
		title, server, CASE state WHEN 'running' THEN 32 ELSE 33 END, state,
		CASE server_state WHEN 'ok' THEN 32 ELSE 31 END, coalesce(server_state, 'not known yet')) FROM look
	UNION ALL
	SELECT 1, title, line, format(E'  %-10s %11s  \033[%sm%s\033[0m', label, to_char(n, 'FM999,999,990'), color,
		repeat('█', least(50, (4 * ln(n + 1))::int)))
	FROM look, LATERAL (VALUES (1, 'waiting', pending, 36), (2, 'in flight', in_flight, 32), (3, 'retrying', retrying, 33),
		(4, 'parked', parked, 31)) AS v(line, label, n, color)
	UNION ALL
	SELECT 1, title, 5, format('  oldest change %s, %s',
		coalesce(date_trunc('second', oldest_age)::text, '-'),
		CASE WHEN last_success IS NULL THEN 'none done yet'
			ELSE format('last one done %s ago', date_trunc('second', greatest(clock_timestamp() - last_success, '0'))) END) FROM look
	UNION ALL
	SELECT 1, title, 6, concat_ws(E'\n', format(E'  \033[31m%s\033[0m', left(regexp_replace(last_error, '\s+', ' ', 'g'), 76)), '  ' || kapture_hint(last_error))
	FROM look WHERE last_error IS NOT NULL
	UNION ALL
	SELECT 2, '', 0, format(E'\n\033[1mrequests\033[0m\n  %-10s %11s  \033[34m%s\033[0m', 'a second', to_char(n, 'FM999,999,990'),
		repeat('█', least(50, (4 * ln(n + 1))::int))) FROM rate
	UNION ALL
	SELECT 2, server || api, coalesce(http_code, 0), format('  %-10s %11s  %s, %s ms', api || ' ' || coalesce(http_code::text, 'none'),
		to_char(requests, 'FM999,999,999,990'), server, to_char(mean_time, 'FM999,990.0')) FROM kapture_stat_requests
	UNION ALL
	SELECT 3, '', line::int, format(E'\n\033[1m%s\033[0m %s: %s of %s, %s left', activity, coalesce(relation::text, server), done, total,
		coalesce(date_trunc('second', time_left)::text, '?'))
	FROM (SELECT *, row_number() OVER (ORDER BY started_at) AS line FROM kapture_progress WHERE state = 'running') AS p
)
SELECT text FROM lines ORDER BY part, name, line
\watch 1
