-- Options of servers and user mappings: each good, each bad.
\set VERBOSITY default

-- unknown ones are refused with the list of those that exist
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (urll 'https://acme.kapturecrm.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://acme.kapturecrm.com', auth_key 'k');
ALTER FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://acme.kapturecrm.com');

-- the address is required, https, and nothing but an address
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw;
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url '');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'acme.kapturecrm.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'ftp://acme.kapturecrm.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'file:///etc/passwd');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://user:secret@acme.kapturecrm.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://acme.kapturecrm.com/?a=b');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'https://acme kapturecrm.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url E'https://acme.kapturecrm.com/\nX-Evil: 1');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://acme.kapturecrm.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://acme.kapturecrm.com', allow_http 'perhaps');
CREATE SERVER allowed FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://acme.kapturecrm.com', allow_http 'true');
ALTER SERVER allowed OPTIONS (SET allow_http 'false');
CREATE SERVER loopback FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:8080/');
CREATE SERVER loopback6 FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://[::1]:8080');
CREATE SERVER localhost FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://localhost');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://localhost.example.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'HTTP://acme.kapturecrm.com');
CREATE SERVER bad FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'HtTp://localhost.example.com');

-- all the others, good
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (
	url 'https://acme.kapturecrm.com',
	add_path '/add', update_path '/update', get_path '/get', pull_path '/pull',
	add_body 'array', update_body 'array',
	headers '{"x-api-type": "b", "X-Trace": "c"}',
	ca_file '/etc/ssl/certs/ca.pem',
	connect_timeout '3s', timeout '30s', max_connections '4', rate_limit '12.5',
	max_response_size '1MB', timezone 'Europe/Berlin', pull_window '6 hours', allow_http 'off');

-- and bad
CREATE FUNCTION try_option(option text, value text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE format('CREATE SERVER tried FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url ''https://acme.kapturecrm.com'', %I %L)', option, value);
	DROP SERVER tried;
	RAISE NOTICE '% % accepted', option, value;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RAISE NOTICE E'% %\nDETAIL: %\nHINT: %', state, message, detail, hint;
END $$;

SELECT try_option('add_path', 'add');
SELECT try_option('update_path', '/a b');
SELECT try_option('get_path', '/a#b');
SELECT try_option('pull_path', '');
SELECT try_option('add_body', 'list');
SELECT try_option('update_body', '');
SELECT try_option('headers', 'x-api-key: a');
SELECT try_option('headers', '["a"]');
SELECT try_option('headers', '{"x-api-key": 1}');
SELECT try_option('headers', '{"x-api-key": ""}');
SELECT try_option('headers', '{"Authorization": "Basic a"}');
SELECT try_option('headers', '{"Content-Type": "text/plain"}');
SELECT try_option('headers', '{"x y": "a"}');
SELECT try_option('headers', '{"x-a": "a\r\nx-evil: b"}');

-- what looks like a secret is not for everybody to read; no message may show it
SELECT try_option('headers', '{"x-api-key": "swordfish"}');
SELECT try_option('headers', '{"x-ok": "a", "X-ACCESS-TOKEN": "swordfish"}');
SELECT try_option('headers', '{"Cookie": "swordfish"}');
SELECT try_option('headers', '{"x-client-secret": "swordfish"}');
SELECT try_option('headers', '{"X-Password": "swordfish"}');
SELECT try_option('headers', '{"x-authentication": "swordfish"}');
SELECT try_option('headers', '{"x-credentials": "swordfish"}');
ALTER SERVER kapture OPTIONS (SET headers '{"x-api-key": "swordfish"}');
-- a dump may have it
BEGIN;
SET LOCAL check_function_bodies = off;
SELECT set_config('search_path', '', true);
ALTER SERVER kapture OPTIONS (SET headers '{"x-api-key": "swordfish"}');
ROLLBACK;

SELECT try_option('ca_file', 'ca.pem');
SELECT try_option('connect_timeout', '0');
SELECT try_option('connect_timeout', 'soon');
SELECT try_option('connect_timeout', '2 fortnights');
SELECT try_option('timeout', '-1s');
SELECT try_option('timeout', '2d');
SELECT try_option('timeout', '0.5ms');
-- one set of units, short or written out; a number alone is none
SELECT try_option('timeout', '30');
SELECT try_option('timeout', '1min 30');
SELECT try_option('timeout', '30 seconds');
SELECT try_option('timeout', '1 min 30 s');
SELECT try_option('pull_window', '24');
SELECT try_option('pull_window', '24h');
SELECT try_option('pull_interval', '90 s');
SELECT try_option('pull_overlap', '0');
-- what earlier versions took is what it was, in a dump
BEGIN;
SET LOCAL check_function_bodies = off;
SELECT set_config('search_path', '', true);
ALTER SERVER kapture OPTIONS (SET timeout '30', SET timezone 'EST5');
ROLLBACK;
SELECT try_option('max_connections', '0');
SELECT try_option('max_connections', '1001');
SELECT try_option('max_connections', '2.5 many');
SELECT try_option('rate_limit', '-1');
SELECT try_option('rate_limit', '0');
SELECT try_option('rate_limit', '0.001');
SELECT try_option('rate_limit', '0.0009');
SELECT try_option('rate_limit', '1e-300');
SELECT try_option('rate_limit', 'Infinity');
SELECT try_option('rate_limit', 'NaN');
SELECT try_option('rate_limit', 'fast');
SELECT try_option('max_response_size', '10');
SELECT try_option('max_response_size', '2GB');

-- each part of a value that is out of its range
SELECT try_option('pull_since', '1969-12-31');
SELECT try_option('pull_since', '2024-00-10');
SELECT try_option('pull_since', '2024-13-10');
SELECT try_option('pull_since', '2024-01-00');
SELECT try_option('pull_since', '2024-02-30');
SELECT try_option('pull_since', '2023-02-29');
SELECT try_option('pull_since', '2024-02-29');
SELECT try_option('pull_since', '2024-02-29 24:00:00');
SELECT try_option('pull_since', '2024-02-29 -1:00:00');
SELECT try_option('pull_since', '2024-02-29 10:60:00');
SELECT try_option('pull_since', '2024-02-29 10:-1:00');
SELECT try_option('pull_since', '2024-02-29 10:00:60');
SELECT try_option('pull_since', '2024-02-29 10:00:-1');
SELECT try_option('pull_since', '2024-02-29 10:00');
SELECT try_option('pull_since', '2024-02-29 23:59:59');
SELECT try_option('pull_since', '2024-02-29 23:59:59x');
SELECT try_option('pull_since', 'yesterday');
SELECT try_option('max_response_size', 'much');
SELECT try_option('max_response_size', '-1');
SELECT try_option('max_response_size', '3MB');
SELECT try_option('pull_interval', '1500ms');
SELECT try_option('pull_interval', '1000d');
SELECT try_option('pull_interval', '1 mon');
SELECT try_option('pull_interval', '');
SELECT try_option('pull_interval', '99999999999999999999d');
SELECT try_option('pull_interval', 'today');
SELECT try_option('max_connections', '0');
SELECT try_option('api_paths', '{"ticket_add": 1}');
SELECT try_option('api_paths', '{"ticket_add": ["/a"]}');
SELECT try_option('api_paths', '{"ticket_add": {"path": 1}}');
SELECT try_option('api_paths', '{"ticket_add": {"body": 1}}');
SELECT try_option('api_paths', '{"ticket_add": {"body": "object"}}');
SELECT try_option('api_paths', '{"ticket_add": {"path": "/a", "body": "array", "more": 1}}');
SELECT try_option('api_paths', '{"": "/a"}');
SELECT try_option('api_paths', '[]');
SELECT try_option('api_paths', '{"ticket_add": "a"}');
SELECT try_option('headers', '{"": "a"}');
SELECT try_option('headers', '{"x-a": "a\u007fb"}');
SELECT try_option('timezone', 'Mars/Olympus');
SELECT try_option('timezone', 'IST');
SELECT try_option('timezone', 'EST5');
SELECT try_option('timezone', '+05:30');
SELECT try_option('timezone', 'UTC+5:30');
SELECT try_option('timezone', 'Asia/Kolkata-5:30');
SELECT try_option('timezone', '<IST>-5:30');
SELECT try_option('timezone', 'Etc/GMT+5');
SELECT try_option('timezone', 'Etc/GMT5x');
SELECT try_option('timezone', 'right/UTC');
SELECT try_option('timezone', 'UTC');
-- regions with short names, of which not every system has all
DO $$
DECLARE
	zone text;
BEGIN
	FOR zone IN SELECT name FROM pg_timezone_names
		WHERE name IN ('GMT', 'UCT', 'Zulu', 'GB', 'NZ', 'PRC', 'ROC', 'ROK', 'Cuba', 'Eire', 'Iran', 'W-SU')
	LOOP
		EXECUTE format('CREATE SERVER tried FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url ''https://acme.kapturecrm.com'', timezone %L)', zone);
		DROP SERVER tried;
	END LOOP;
END $$;
SELECT try_option('timezone', 'Etc/GMT-5');
SELECT try_option('timezone', 'America/Port-au-Prince');
SELECT try_option('pull_window', '1 month');
SELECT try_option('pull_window', '0 hours');
SELECT try_option('pull_window', '1.5 seconds');
SELECT try_option('pull_window', 'a day or two');
SELECT try_option('allow_http', '');
SELECT try_option('add_is_upsert', 'perhaps');

-- user mappings: no message may show a secret
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (key 'swordfish');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key '');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'Basic swordfish');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key ' swordfish');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key E'sword\nfish');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS ("user" 'sword:fish');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS ("user" '');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (password '');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (pull_auth_key 'Basic swordfish');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS ("user" 'u', password 'p', auth_key 'k');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS ("user" 'u', password 'p',
	add_auth_key 'a', update_auth_key 'b', get_auth_key 'c', pull_auth_key 'd', headers '{"x-api-key": "swordfish", "X-TRACE": "d"}');
ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET headers '{"x-api-key": 1234567}');
ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET headers '{"Authorization": "swordfish"}');
ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET headers '{"x-api-key": "sword\nfish"}');
ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET headers 'swordfish');

-- options of a mapping are hidden from others, as ever
CREATE ROLE regress_kapture_other;
SET ROLE regress_kapture_other;
SELECT umoptions IS NULL AS hidden FROM pg_user_mappings WHERE srvname = 'kapture';
RESET ROLE;

-- whose changes others may hide, and whose rights are missing, is not for everybody
SET ROLE regress_kapture_other;
SET kapture_sync.capture = off;
RESET ROLE;
GRANT SET ON PARAMETER kapture_sync.capture TO regress_kapture_other;
SET ROLE regress_kapture_other;
SET kapture_sync.capture = off;
RESET kapture_sync.capture;
RESET ROLE;
REVOKE SET ON PARAMETER kapture_sync.capture FROM regress_kapture_other;
CREATE TABLE others (id int PRIMARY KEY, customer_name text, phone text);
ALTER TABLE others OWNER TO regress_kapture_other;
SELECT kapture_attach('others');
DROP TABLE others;

DROP ROLE regress_kapture_other;
-- addresses
ALTER SERVER kapture OPTIONS (SET url 'https://acme.kapturecrm.com?');
ALTER SERVER kapture OPTIONS (SET url 'https://acme.kapturecrm.com/a b');
ALTER SERVER kapture OPTIONS (SET url E'https://acme.kapturecrm.com/\x7f');
ALTER SERVER kapture OPTIONS (SET url E'https://acme.kapturecrm.com/\u00e9');
ALTER SERVER kapture OPTIONS (SET url 'https://.kapturecrm.com');
ALTER SERVER kapture OPTIONS (SET url '//');
ALTER SERVER kapture OPTIONS (SET url '');
ALTER SERVER kapture OPTIONS (SET url 'HTTPS://acme.kapturecrm.com///');

DROP FUNCTION try_option;
DROP USER MAPPING FOR CURRENT_USER SERVER kapture;
DROP SERVER kapture CASCADE;
DROP SERVER allowed;
DROP SERVER loopback;
DROP SERVER loopback6;
DROP SERVER localhost;
