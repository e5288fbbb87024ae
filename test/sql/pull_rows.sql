-- Pulled customers as typed rows.  Needs the emulator, with the samples of
-- Kapture's document in it.
\getenv emulator_url KAPTURE_EMULATOR_URL
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url :'emulator_url');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');

-- the samples of the document: a pull, a get
\pset format unaligned
SELECT jsonb_pretty(jsonb_strip_nulls(to_jsonb(c) - 'raw' - 'contacts')) FROM kapture_pull_customers('2021-03-14', '2021-03-14') c;
SELECT jsonb_pretty(jsonb_strip_nulls(to_jsonb(c) - 'raw' - 'contacts')) FROM kapture_find_customers('{"kapture_customer_id": 61371820}') c;
SELECT jsonb_pretty(jsonb_strip_nulls(to_jsonb(c) - 'raw')) FROM kapture_contact_rows(kapture_pull('2021-03-14', '2021-03-14')) c;
SELECT jsonb_pretty(jsonb_strip_nulls(to_jsonb(c) - 'raw')) FROM kapture_contact_rows(kapture_get_customer('{"kapture_customer_id": 61371820}')) c;
\pset format aligned
SELECT c.contacts = c.raw -> 'contacts', c.raw = kapture_pull('2021-03-14', '2021-03-14') #> '{message,0}'
  FROM kapture_pull_customers('2021-03-14', '2021-03-14') c;
SELECT id, name FROM kapture_pull_customers('2021-01-01', '2021-12-31') WHERE id IN (65245, 61371820) ORDER BY id;
SELECT id FROM kapture_find_customers('{"phone": 9845765226}');

-- every key of the samples has its column
SELECT k.key FROM kapture_pull_customers('2021-03-14', '2021-03-14') c, jsonb_each(c.raw) k
 WHERE NOT to_jsonb(c) ? lower(regexp_replace(k.key, '([A-Z])', '_\1', 'g'));
SELECT k.key FROM kapture_find_customers('{"kapture_customer_id": 61371820}') c, jsonb_each(c.raw) k
 WHERE NOT to_jsonb(c) ? lower(regexp_replace(k.key, '([A-Z])', '_\1', 'g'));
SELECT k.key FROM kapture_contact_rows(kapture_pull('2021-03-14', '2021-03-14')) c, jsonb_each(c.raw) k
 WHERE NOT to_jsonb(c) ? lower(regexp_replace(k.key, '([A-Z])', '_\1', 'g'));

-- nobody
SELECT count(*) FROM kapture_pull_customers('1999-01-01', '1999-01-01');
SELECT count(*) FROM kapture_find_customers('{"kapture_customer_id": 1}');
SELECT count(*) FROM kapture_customer_rows(NULL);
SELECT count(*) FROM kapture_customer_rows('{"message": "No customer between dates.", "status": "failed"}');
SELECT count(*) FROM kapture_contact_rows('{"Customer Details": "Information given by you does not exist in our sytsem.", "status": "failed"}');

-- bad arguments
SELECT * FROM kapture_pull_customers(NULL, '2021-03-14');
SELECT * FROM kapture_pull_customers('2021-03-14', NULL);
SELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-14', NULL);
SELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-13');
SELECT * FROM kapture_pull_customers('-infinity', '2021-03-13');
SELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-14', 'nowhere');
SELECT * FROM kapture_find_customers(NULL);
SELECT * FROM kapture_find_customers('[]');
SELECT * FROM kapture_find_customers('{}');
SELECT * FROM kapture_find_customers('{"phone": " "}');
SELECT * FROM kapture_find_customers('{"email": "priya456@gmail.com", "phone": ""}');
SELECT * FROM kapture_customer_rows('{"message": "Something else.", "status": "failed"}');
SELECT * FROM kapture_customer_rows('[]');

-- a key that Kapture refuses
CREATE SERVER denied FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url :'emulator_url');
CREATE USER MAPPING FOR CURRENT_USER SERVER denied OPTIONS (auth_key 'wrong');
SELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-14', 'denied');
SELECT * FROM kapture_find_customers('{"phone": "9845765226"}', 'denied');

-- what a value may look like
CREATE FUNCTION of(customer jsonb, server name DEFAULT 'kapture') RETURNS SETOF kapture_customer LANGUAGE sql
AS $$ SELECT * FROM kapture_customer_rows(jsonb_build_object('message', jsonb_build_array($1), 'status', 'success'), $2) $$;
SELECT v, c.id FROM unnest('{65245, 65245.0, "\"65245\"", "\" 65245 \"", "\"007\"", -1, 9223372036854775807, 9223372036854775808, 1.5, "\"x\"", "\"1x\"", "\"\"", "\" \"", true, null, "[]", "{}"}'::jsonb[]) v, of(jsonb_build_object('id', v)) c;
SELECT v, c.deleted FROM unnest('{true, false, "\"true\"", "\"false\"", "\"N\"", "\"yes\"", 0, 1, 2, "\"maybe\"", "\"\"", null, "{}"}'::jsonb[]) v, of(jsonb_build_object('deleted', v)) c;
SELECT v, c.max_credit_amt FROM unnest('{0, 0.0, 12.50, "\"12.50\"", "\" -3 \"", "\"1e5\"", "\"1,000\"", "\"NaN\"", "\"\"", true, null}'::jsonb[]) v, of(jsonb_build_object('maxCreditAmt', v)) c;
SELECT v, c.pin_code FROM unnest('{"\"560001\"", 560001, "\" as it is \"", "\"\"", "\"  \"", "\"\\n\"", true, null, "[1]"}'::jsonb[]) v, of(jsonb_build_object('pinCode', v)) c;
SELECT max_credit_amt, latitude FROM of(jsonb_build_object('maxCreditAmt', repeat('9', 1001), 'latitude', '12.9716'));

-- times: text
SET datestyle = 'ISO, YMD';
SELECT v, c.generation_date FROM unnest('{
 "\"Mar 14, 2021 2:21:11 PM\"", "\"Mar 14, 2021 12:00:00 AM\"", "\"Mar 14, 2021 12:00:00 PM\"", "\"Feb 29, 2020 11:59:59 PM\"",
 "\"Feb 29, 2021 11:59:59 PM\"", "\"2021-03-14 14:21:11\"", "\"2021-03-14T14:21:11+00:00\"", "\"2021-03-14T14:21:11.25+05:30\"",
 "\"Mar 14, 2021\"", "\"now\"", "\"tomorrow\"", "\"today 10:00\"", "\"infinity\"", "\"epoch\"", "\"14\"", "\"Mar 14\"", "\"14:21:11\"",
 "\"Mar 14, 2021 25:00:00\"", "\"Mar 14, 2021 13:00:00 PM\"", "\"Mar 14, 2021 2:21:11 PM America/New_York\"", "\"2021-03-14 Foo/Bar 10:00:00 +05\"",
 "\"no date\"", "\"\"", 1615711871000, true, null, "[]", "{}"}'::jsonb[]) v, of(jsonb_build_object('generationDate', v)) c;
RESET datestyle;
SET datestyle = 'ISO';

-- times: calendar objects, with months from 0
SELECT v, c.last_modification_time FROM unnest(ARRAY[
 '{"year": 2021, "month": 2, "dayOfMonth": 14, "hourOfDay": 14, "minute": 21, "second": 11}',
 '{"year": 2020, "month": 11, "dayOfMonth": 31, "hourOfDay": 23, "minute": 59, "second": 59}',
 '{"year": 2020, "month": 1, "dayOfMonth": 29, "hourOfDay": 0, "minute": 0, "second": 0}',
 '{"year": 2021, "month": 1, "dayOfMonth": 29, "hourOfDay": 0, "minute": 0, "second": 0}',
 '{"year": 2021, "month": 12, "dayOfMonth": 1, "hourOfDay": 0, "minute": 0, "second": 0}',
 '{"year": 2021, "month": -1, "dayOfMonth": 1, "hourOfDay": 0, "minute": 0, "second": 0}',
 '{"year": 2021, "month": 0, "dayOfMonth": 0, "hourOfDay": 0, "minute": 0, "second": 0}',
 '{"year": 2021, "month": 0, "dayOfMonth": 1, "hourOfDay": 24, "minute": 0, "second": 0}',
 '{"year": 99999999999, "month": 0, "dayOfMonth": 1, "hourOfDay": 0, "minute": 0, "second": 0}',
 '{"year": "2021", "month": "0", "dayOfMonth": "1", "hourOfDay": "1", "minute": "2", "second": "3"}',
 '{"year": 2021, "month": 0}']::jsonb[]) v, of(jsonb_build_object('lastModificationTime', v)) c;

-- the account's time zone; clocks set forward and back
CREATE SERVER newyork FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url :'emulator_url', timezone 'America/New_York');
CREATE USER MAPPING FOR CURRENT_USER SERVER newyork OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
SELECT v, c.generation_date FROM unnest('{
 "Jan 6, 2021 6:01:45 PM", "Jul 6, 2021 6:01:45 PM", "Mar 14, 2021 1:59:59 AM", "Mar 14, 2021 2:30:00 AM", "Mar 14, 2021 3:00:00 AM",
 "Nov 7, 2021 12:59:59 AM", "Nov 7, 2021 1:30:00 AM", "Nov 7, 2021 2:00:00 AM"}'::text[]) v, of(jsonb_build_object('generationDate', v), 'newyork') c;
-- whatever the session's time zone is
SET timezone = 'Asia/Tokyo';
SELECT generation_date AT TIME ZONE 'UTC' FROM of('{"generationDate": "Jan 6, 2021 6:01:45 PM"}', 'newyork');
SET timezone = 'UTC';

-- contacts: phone and email of the primary one; odd ones
SELECT c.phone, c.company_phone, c.email FROM (VALUES
 (jsonb '{"companyPhone": "1", "contacts": [{"phone": "2", "email": "a"}]}'),
 ('{"companyPhone": "", "contacts": [{"phone": "2", "email": "a"}, {"phone": "3", "email": "b", "isPrimaryContact": "true"}]}'),
 ('{"contacts": [{"phone": "2", "isPrimaryContact": false}, {"email": "b"}]}'),
 ('{"contacts": [{"phone": " ", "email": ""}]}'),
 ('{"contacts": []}'), ('{"contacts": ""}'), ('{"contacts": {"phone": "1"}}'), ('{"contacts": [1, [], null]}'), ('{"": "empty key"}'), ('{}')) v(o), of(o) c;
SELECT id, customer_id, phone, gender, marital_status, is_active FROM kapture_contact_rows('{"message": [
 {"id": 1, "contacts": [{"id": 11, "leadId": 99, "gender": " ", "maritalStatus": "", "isActive": "false"}, {"id": 12, "phone": 5}]},
 {"id": 2, "contacts": ""}, 7, {"id": 3, "contacts": [{"id": "31"}, "x"]}, {"contacts": [{"id": 41, "leadId": 4}]}], "status": "success"}');
-- elements that are no customers are passed over, a customer twice in an answer comes once
SELECT id, name FROM kapture_customer_rows('{"message": [1, "x", null, [], {"id": 1, "name": "a"}, {"id": "1", "name": "b"}, {"name": "c"}, {"name": "d"}], "status": "success"}');
SELECT id FROM kapture_customer_rows('{"Customer Details": [{"id": 1}, {"id": 2}], "status": "success"}');

-- rows come as they are read
EXPLAIN (COSTS OFF) SELECT id FROM kapture_pull_customers('2021-01-01', '2021-12-31');
-- without privileges
CREATE ROLE regress_kapture_reader;
SET ROLE regress_kapture_reader;
SELECT * FROM kapture_pull_customers('2021-03-14', '2021-03-14');
SELECT * FROM kapture_find_customers('{"phone": "9845765226"}');
RESET ROLE;
DROP ROLE regress_kapture_reader;
DROP FUNCTION of;
DROP USER MAPPING FOR CURRENT_USER SERVER kapture;
DROP SERVER kapture CASCADE;
DROP USER MAPPING FOR CURRENT_USER SERVER denied;
DROP SERVER denied CASCADE;
DROP USER MAPPING FOR CURRENT_USER SERVER newyork;
DROP SERVER newyork CASCADE;
