-- What the trial's database begins with: the emulator as its account, and a table in step.
CREATE SCHEMA kapture;
CREATE EXTENSION kapture_sync SCHEMA kapture;
ALTER DATABASE postgres SET search_path = "$user", public, kapture;
SET search_path = "$user", public, kapture;
CREATE SERVER kapture FOREIGN DATA WRAPPER kapture_fdw OPTIONS (url 'http://kapture:8080', allow_http 'true');
CREATE USER MAPPING FOR CURRENT_USER SERVER kapture OPTIONS (auth_key 'a2FwZGVtbzprYXAxMjM=');
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	customer_name text, phone text, email_id text, city text);
SELECT kapture_attach('customers');
