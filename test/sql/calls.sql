-- The four calls against a Kapture: samples and failure tables of the vendor's
-- document.  Needs the address of an emulator in KAPTURE_EMULATOR_URL.
\getenv emulator_url KAPTURE_EMULATOR_URL
\set add '/add-update-customer-from-other-source.html'
\setenv RESET :emulator_url/_emulator/reset
\setenv FAULTS :emulator_url/_emulator/faults
\setenv LOG :emulator_url/_emulator/log
\! curl -s -o /dev/null -X POST $RESET

CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url :'emulator_url');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');

-- what Kapture was sent
CREATE TEMPORARY TABLE log (line text);
CREATE FUNCTION sent() RETURNS TABLE (api text, content_type text, body text) LANGUAGE sql AS $$
	SELECT e ->> 'api', e -> 'headers' ->> 'Content-Type', e ->> 'body'
	FROM (SELECT string_agg(line, E'\n')::jsonb AS log FROM log) AS l, jsonb_array_elements(l.log) AS e
$$;

-- Add: the sample
SELECT jsonb_pretty(kapture_add_customer('{
	"customer_name" : "Qwera", "phone" : "9874563725", "email_id" : "Qwer1234@gmail.com",
	"country" : "India", "state" : "Karnataka", "city" : "Bangalore", "zone" : "", "campaign_name" : "",
	"secSource" : "", "tertSource" : "", "customer_assign_emp_code" : "", "customer_assign_emp_name" : "",
	"customer_assign_emp_email" : "", "kapture_customer_id" : "", "contact_id" : "",
	"contact_person_name" : "Aadii", "contact_person_phone" : "8978783457",
	"contact_person_email" : "Aadi4568@gmail.com", "additional_contact_phone" : "", "country_code" : "+91", "gender" : "M"}'));

-- each row of its failure table
SELECT kapture_add_customer('{"customer_name": "A"}');
SELECT kapture_add_customer('{"phone": "9874563726"}');
SELECT kapture_add_customer('{"customer_name": "A", "email_id": "a.gmail.com"}');
SELECT kapture_add_customer('{"customer_name": "A", "phone": "12345"}');
SELECT kapture_add_customer('{"customer_name": "A", "phone": "9874563725"}');
SELECT kapture_add_customer('{"customer_name": "A", "email_id": "Qwer1234@gmail.com"}');
SELECT kapture_add_customer('{"customer_name": "A", "phone": "9874563725", "email_id": "Qwer1234@gmail.com"}');

-- Update: the sample, then what it changed; an id given as number goes as string
SELECT jsonb_pretty(kapture_update_customer('{"customer_name": "Qweraa", "phone": "", "email_id": "", "kapture_customer_id": "65033646"}'));
SELECT kapture_update_customer('{"city": null, "phone": 9874563725, "kapture_customer_id": 65033646}') ->> 'status' AS status;
SELECT kapture_update_customer('{"phone": "1", "kapture_customer_id": "65033646"}');

-- Get: the sample; by each criterion; nobody
SELECT jsonb_pretty(kapture_get_customer('{"kapture_customer_id": "61371820", "customer_id": "", "email_id": "nisch123@gmail.com", "phone": "9845765226"}'));
SELECT kapture_get_customer('{"kapture_customer_id": 65033646}') -> 'Customer Details' ->> 'name' AS name;
SELECT kapture_get_customer('{"customer_id": "65033646"}') -> 'Customer Details' ->> 'name' AS name;
SELECT kapture_get_customer('{"phone": "9874563725"}') -> 'Customer Details' ->> 'name' AS name;
SELECT kapture_get_customer('{"email_id": "qwer1234@gmail.com"}') -> 'Customer Details' ->> 'name' AS name;
SELECT kapture_get_customer('{"phone": "6000000000"}');

-- Pull: the sample, with its raw line breaks; a time; several windows; nobody
SELECT jsonb_pretty(kapture_pull('2021-03-14', '2021-03-14'));
SELECT jsonb_array_length(kapture_pull('2021-03-14 14:21:11', '2021-03-14 14:21:11') -> 'message') AS customers;
SELECT kapture_pull('2021-03-14 14:21:12', '2021-03-14 14:21:13');
SELECT jsonb_path_query_array(kapture_pull('2021-01-05', '2021-03-15'), '$.message[*].id') AS ids;
SELECT kapture_pull('2020-01-01', '2020-01-05');

-- the bodies, as they arrived: arrays around Get and Pull only
\copy log FROM PROGRAM 'curl -s $LOG' WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02')
SELECT DISTINCT ON (n) * FROM (SELECT row_number() OVER () AS n, s.* FROM sent() AS s) AS s WHERE n IN (1, 9, 10, 12, 18, 19);
SELECT count(*) AS windows, min(body) AS first, max(body) AS last FROM (SELECT body FROM sent() OFFSET 20 LIMIT 70) AS s;

-- bodies in arrays, other paths, more headers, if the account wants them
ALTER SERVER kapture OPTIONS (ADD add_body 'array', ADD headers '{"x-api-type": "crm"}');
SELECT kapture_add_customer('{"customer_name": "A", "phone": "9874563727"}');
ALTER SERVER kapture OPTIONS (SET add_body 'object', ADD update_body 'array');
SELECT kapture_update_customer('{"customer_name": "A", "kapture_customer_id": "65033646"}');
TRUNCATE log;
\copy log FROM PROGRAM 'curl -s $LOG' WITH (FORMAT csv, DELIMITER E'\x01', QUOTE E'\x02')
SELECT e ->> 'body' AS body, e -> 'headers' ->> 'x-api-type' AS "x-api-type"
FROM (SELECT string_agg(line, E'\n')::jsonb AS log FROM log) AS l, jsonb_array_elements(l.log) WITH ORDINALITY AS e (e, n)
ORDER BY n DESC LIMIT 2;
ALTER SERVER kapture OPTIONS (DROP update_body, ADD get_path '/elsewhere');
SELECT kapture_get_customer('{"phone": "9845765226"}');
ALTER SERVER kapture OPTIONS (DROP get_path);

-- a wrong key is an answer, too; a change of the mapping counts at once
ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (SET auth_key 'wrong');
SELECT kapture_add_customer('{"customer_name": "A", "phone": "9874563728"}');
SELECT kapture_update_customer('{"customer_name": "A", "kapture_customer_id": "65033646"}');
SELECT kapture_get_customer('{"phone": "9845765226"}');
SELECT kapture_pull('2021-03-14', '2021-03-14');
SELECT kapture_pull('2021-01-14', '2021-03-14');
ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (DROP auth_key, ADD "user" 'kapdemo', ADD password 'kap123');
SELECT kapture_get_customer('{"phone": "9845765226"}') ->> 'status' AS status;
ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (ADD get_auth_key 'wrong');
SELECT kapture_get_customer('{"phone": "9845765226"}') ->> 'status' AS status;
SELECT kapture_pull('2021-03-14', '2021-03-14') ->> 'status' AS status;
ALTER USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (DROP get_auth_key);

-- the other shape of success
\! curl -s -o /dev/null -d '[{"action": "flat_answer", "count": 1}]' $FAULTS
SELECT kapture_add_customer('{"customer_name": "A", "phone": "9874563729"}');

-- answers with another HTTP code, but JSON
\! curl -s -o /dev/null -d '[{"action": "status", "code": 503, "count": 1}]' $FAULTS
SELECT kapture_get_customer('{"phone": "9845765226"}');

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
	-- versions of libcurl differ in where they see a connection break
	IF coalesce(hint, '') NOT LIKE '%timeout%' THEN
		detail := replace(detail, 'waiting for the answer', 'reading the answer');
	END IF;
	RETURN format(E'%s %s\nDETAIL: %s\nHINT: %s', SQLSTATE, SQLERRM, regexp_replace(detail, '\(.*\)', '(...)'), hint);
END $$;

-- no answer: what failed, where, and what to do
\! curl -s -o /dev/null -d '[{"action": "drop_before", "count": 1}]' $FAULTS
SELECT try_call($$kapture_get_customer('{"phone": "9845765226"}')$$);
\! curl -s -o /dev/null -d '[{"action": "drop_after", "count": 1}]' $FAULTS
SELECT try_call($$kapture_add_customer('{"customer_name": "A", "phone": "9874563730"}')$$);
\! curl -s -o /dev/null -d '[{"action": "truncate", "count": 1}]' $FAULTS
SELECT try_call($$kapture_get_customer('{"phone": "9845765226"}')$$);
\! curl -s -o /dev/null -d '[{"action": "garbage", "count": 1, "body": "{\"message\": nonsense"}]' $FAULTS
SELECT try_call($$kapture_get_customer('{"phone": "9845765226"}')$$);
\! curl -s -o /dev/null -d '[{"action": "html", "count": 1}]' $FAULTS
SELECT try_call($$kapture_update_customer('{"customer_name": "B", "kapture_customer_id": "65033646"}')$$);
\! curl -s -o /dev/null -d '[{"action": "status", "code": 200, "body": "", "count": 1}]' $FAULTS
SELECT try_call($$kapture_get_customer('{"phone": "9845765226"}')$$);
\! curl -s -o /dev/null -d '[{"action": "redirect", "body": "moved", "count": 1}]' $FAULTS
SELECT try_call($$kapture_get_customer('{"phone": "9845765226"}')$$);
\! curl -s -o /dev/null -d '[{"action": "status", "code": 502, "body": "<html>Bad Gateway</html>", "count": 1}]' $FAULTS
SELECT try_call($$kapture_get_customer('{"phone": "9845765226"}')$$);
\! curl -s -o /dev/null -d '[{"action": "endless", "count": 1}]' $FAULTS
ALTER SERVER kapture OPTIONS (ADD max_response_size '64kB');
SELECT try_call($$kapture_get_customer('{"phone": "9845765226"}')$$);
ALTER SERVER kapture OPTIONS (DROP max_response_size, ADD timeout '200ms');
\! curl -s -o /dev/null -d '[{"action": "hang", "count": 1}]' $FAULTS
SELECT try_call($$kapture_add_customer('{"customer_name": "A", "phone": "9874563731"}')$$);
ALTER SERVER kapture OPTIONS (DROP timeout);

-- statement_timeout ends the wait
\! curl -s -o /dev/null -d '[{"action": "hang", "count": 1}]' $FAULTS
SET statement_timeout = '100ms';
SELECT kapture_get_customer('{"phone": "9845765226"}');
\echo :LAST_ERROR_SQLSTATE
RESET statement_timeout;
-- and the session goes on
SELECT kapture_get_customer('{"phone": "9845765226"}') ->> 'status' AS status;

-- the message of no error repeats the key
\! curl -s -o /dev/null -d '[{"action": "status", "code": 500, "body": "you sent Basic a2FwZGVtbzprYXAxMjM=", "count": 1}]' $FAULTS
SELECT kapture_get_customer('{"phone": "9845765226"}');

\! curl -s -o /dev/null -X POST $RESET
DROP FUNCTION sent;
DROP FUNCTION try_call;
DROP USER MAPPING FOR CURRENT_USER SERVER kapture;
DROP SERVER kapture CASCADE;
