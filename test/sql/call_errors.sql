-- The direct calls without an answer, and with arguments that make no sense.
-- Needs no Kapture.

-- What libcurl says of a failure, and times, differ: they are left out.
CREATE FUNCTION try_call(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer jsonb;
	detail text;
	hint text;
BEGIN
	EXECUTE 'SELECT ' || call INTO answer;
	RETURN answer;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN format(E'%s %s\nDETAIL: %s\nHINT: %s', SQLSTATE, SQLERRM, regexp_replace(detail, '\(.*\)', '(...)'), hint);
END $$;

-- no server, no usable one, no mapping, no key: what to create
SELECT kapture_get_customer('{"phone": "9845765226"}');
SELECT kapture_get_customer('{"phone": "9845765226"}', 'My server');
CREATE FOREIGN DATA WRAPPER other_fdw;
CREATE SERVER other FOREIGN DATA WRAPPER other_fdw;
SELECT kapture_get_customer('{"phone": "9845765226"}', 'other');
DROP FOREIGN DATA WRAPPER other_fdw CASCADE;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://127.0.0.1:1', connect_timeout '5s');
CREATE ROLE regress_kapture_caller;
SET ROLE regress_kapture_caller;
SELECT kapture_get_customer('{"phone": "9845765226"}');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER kapture TO regress_kapture_caller;
SET ROLE regress_kapture_caller;
SELECT kapture_get_customer('{"phone": "9845765226"}');
RESET ROLE;
CREATE USER MAPPING FOR PUBLIC SERVER kapture;
SET ROLE regress_kapture_caller;
SELECT kapture_get_customer('{"phone": "9845765226"}');
RESET ROLE;
ALTER USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (ADD "user" 'u');
SET ROLE regress_kapture_caller;
SELECT kapture_get_customer('{"phone": "9845765226"}');
RESET ROLE;
ALTER USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (ADD add_auth_key 'k');
SET ROLE regress_kapture_caller;
SELECT kapture_pull('2021-03-14', '2021-03-14');
-- with a key, the request goes out: nobody is there
SELECT try_call($$kapture_add_customer('{"customer_name": "A", "phone": "9845765226"}')$$);
RESET ROLE;
ALTER USER MAPPING FOR PUBLIC SERVER kapture OPTIONS (ADD auth_key 'k', DROP "user", DROP add_auth_key);
SELECT try_call($$kapture_get_customer('{"phone": "9845765226"}')$$);
SELECT try_call($$kapture_update_customer('{"kapture_customer_id": "1", "phone": "9845765226"}')$$);
SELECT try_call($$kapture_pull('2021-03-14', '2021-03-14')$$);

-- NULL
SELECT kapture_add_customer(NULL);
SELECT kapture_update_customer(NULL);
SELECT kapture_get_customer(NULL);
SELECT kapture_pull(NULL, '2021-03-14');
SELECT kapture_pull('2021-03-14', NULL);
SELECT kapture_pull('2021-03-14', '2021-03-14', NULL);
SELECT kapture_add_customer('{"customer_name": "A"}', NULL);

-- not an object, nothing in it
SELECT kapture_add_customer('[{"customer_name": "A"}]');
SELECT kapture_add_customer('"A"');
SELECT kapture_add_customer('1');
SELECT kapture_add_customer('null');
SELECT kapture_add_customer('{}');
SELECT kapture_update_customer('[]');
SELECT kapture_update_customer('{}');
SELECT kapture_get_customer('[{"phone": "9845765226"}]');
SELECT kapture_get_customer('{}');
SELECT kapture_add_customer('{"customer_name": }');

-- an update of nobody, a search for nothing
SELECT kapture_update_customer('{"phone": "9845765226"}');
SELECT kapture_update_customer('{"phone": "9845765226", "kapture_customer_id": ""}');
SELECT kapture_update_customer('{"phone": "9845765226", "kapture_customer_id": null}');
SELECT kapture_update_customer('{"phone": "9845765226", "kapture_customer_id": {"a": 1}}');
SELECT kapture_get_customer('{"phone": "", "email_id": " ", "kapture_customer_id": null}');

-- dates
SELECT kapture_pull('2021-03-15', '2021-03-14');
SELECT kapture_pull('infinity', '2021-03-14');
SELECT kapture_pull('2021-03-14', '-infinity');
SELECT kapture_pull('0044-03-15 BC', '2021-03-14');
SELECT kapture_pull('2021-03-14', '20210-03-14');
SELECT kapture_pull('yesterdayish', '2021-03-14');

DROP FUNCTION try_call;
DROP SERVER kapture CASCADE;
DROP ROLE regress_kapture_caller;
