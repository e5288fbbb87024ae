-- 20 Kill Bill: accounts, account_emails. Facts of killbill/killbill account/src/main/resources/org/killbill/billing/account/ddl.sql @4e354ce6.
-- @tables
-- Tenants in one table, names of which a number says where the first one ends, a key besides the public one, child accounts that belong to a parent, more emails in a table of their own.
CREATE DOMAIN datetime AS timestamp;
CREATE TABLE accounts (record_id serial UNIQUE, id varchar(36) NOT NULL, external_key varchar(255) NOT NULL, email varchar(128), name varchar(100), first_name_length int, currency varchar(3), billing_cycle_day_local int, parent_account_id varchar(36), is_payment_delegated_to_parent boolean DEFAULT false, payment_method_id varchar(36), reference_time datetime NOT NULL DEFAULT now(), time_zone varchar(50) NOT NULL DEFAULT 'UTC', locale varchar(5), address1 varchar(100), address2 varchar(100), company_name varchar(50), city varchar(50), state_or_province varchar(50), country varchar(50), postal_code varchar(16), phone varchar(25), notes varchar(4096), migrated boolean DEFAULT false, created_date datetime NOT NULL DEFAULT now(), created_by varchar(50) NOT NULL DEFAULT 'x', updated_date datetime, updated_by varchar(50), tenant_record_id bigint NOT NULL DEFAULT 0, PRIMARY KEY (record_id));
CREATE UNIQUE INDEX accounts_id ON accounts (id); CREATE UNIQUE INDEX accounts_external_key ON accounts (external_key, tenant_record_id);
CREATE TABLE account_emails (record_id serial UNIQUE, id varchar(36) NOT NULL, account_id varchar(36) NOT NULL, email varchar(128) NOT NULL, is_active boolean DEFAULT true, account_record_id bigint NOT NULL, tenant_record_id bigint NOT NULL DEFAULT 0, PRIMARY KEY (record_id));
INSERT INTO accounts (id, external_key, email, name, first_name_length, parent_account_id, country, city, state_or_province, phone, migrated, tenant_record_id) VALUES
	('a-1', 'k1', 'asha@example.com', 'Asha Rao', 4, NULL, 'IN', 'Mysore', 'Karnataka', '+91 98457 65220', false, 1), ('a-2', 'k2', NULL, 'Ravi', NULL, NULL, 'IN', NULL, NULL, '0091-9845765221', false, 1),
	('a-3', 'k3', 'child@example.com', 'Child', NULL, 'a-1', 'IN', NULL, NULL, NULL, false, 1), ('a-4', 'k4', 'migrated@example.com', 'Migrated', NULL, NULL, NULL, NULL, NULL, NULL, true, 1),
	('b-1', 'k1', 'asha@example.com', 'Asha R', 4, NULL, 'IN', 'Pune', NULL, '9845765220', false, 2), ('b-2', 'k2', NULL, NULL, NULL, NULL, 'US', NULL, NULL, '(212) 555-0123', false, 2), ('c-1', 'k1', 'third@example.com', 'Third Tenant', NULL, NULL, NULL, NULL, NULL, NULL, false, 3);
INSERT INTO account_emails (id, account_id, email, account_record_id, tenant_record_id) VALUES ('e-1', 'a-2', 'ravi@example.com', 2, 1), ('e-2', 'a-2', 'ravi2@example.com', 2, 1), ('e-3', 'b-2', 'b2@example.com', 6, 2);
-- @servers one, two
-- @attach
CREATE VIEW kapture_accounts AS
SELECT a.record_id, coalesce(a.name, a.company_name, a.external_key) AS customer_name, left(a.name, a.first_name_length) AS contact_person_name, kapture_phone(a.phone) AS phone,
	coalesce(a.email, (SELECT e.email FROM account_emails e WHERE e.account_record_id = a.record_id AND e.is_active ORDER BY e.record_id LIMIT 1)) AS email_id, a.city, a.state_or_province AS state, a.country
FROM accounts a WHERE a.parent_account_id IS NULL AND a.migrated IS NOT TRUE;
SELECT kapture_attach('accounts', server => 'one', source => 'kapture_accounts', filter => 'tenant_record_id = 1', id_column => NULL, name => 'one', on_leave => '{"campaign_name": "left"}');
SELECT kapture_attach('accounts', server => 'two', source => 'kapture_accounts', filter => 'tenant_record_id = 2', id_column => NULL, name => 'two', on_leave => '{"campaign_name": "left"}');
SELECT kapture_follow('account_emails', 'accounts', 'target.record_id = source.account_record_id');
-- @relations accounts
-- @expected
CREATE TABLE expected (server text, customer_name text, contact_person_name text, phone text, email_id text, city text, state text, country text, campaign_name text, group_id int, n int);
INSERT INTO expected VALUES
	('one', 'Asha Rao', 'Asha', '9845765220', 'asha@example.com', 'Mysore', 'Karnataka', 'IN'), ('one', 'Ravi', NULL, '9845765221', 'ravi@example.com', NULL, NULL, 'IN'),
	('two', 'Asha R', 'Asha', '9845765220', 'asha@example.com', 'Pune', NULL, 'IN'), ('two', 'k2', NULL, NULL, 'b2@example.com', NULL, NULL, 'US');
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('Child'), ('child@'), ('Migrated'), ('migrated@'), ('Third'), ('555'), ('ravi3');
-- @changes
UPDATE accounts SET updated_date = now(), updated_by = 'y', notes = 'n', payment_method_id = 'p';             -- no request
UPDATE account_emails SET is_active = false WHERE id = 'e-1';                                               -- the other email
INSERT INTO account_emails (id, account_id, email, account_record_id, tenant_record_id) VALUES ('e-4', 'a-2', 'ravi3@example.com', 2, 1);   -- no request: it is not the first
UPDATE accounts SET name = 'Asha Rao Iyer' WHERE id = 'a-1';
UPDATE accounts SET phone = '+1 212 555 0199' WHERE id = 'a-1';                                             -- no request: none that Kapture takes
UPDATE accounts SET parent_account_id = NULL, is_payment_delegated_to_parent = false, email = 'grown@example.com', name = 'Grown' WHERE id = 'a-3';
UPDATE accounts SET tenant_record_id = 2, external_key = 'k9' WHERE id = 'a-2';                             -- leaves one account, comes to the other
DELETE FROM accounts WHERE id = 'b-1';                                                                       -- no request
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('one', 'Asha Rao Iyer', 'Asha', '9845765220', 'asha@example.com', 'Mysore', 'Karnataka', 'IN', NULL), ('one', 'Ravi', NULL, '9845765221', 'ravi2@example.com', NULL, NULL, 'IN', 'left'), ('one', 'Grown', NULL, NULL, 'grown@example.com', NULL, NULL, 'IN', NULL),
	('two', 'Asha R', 'Asha', '9845765220', 'asha@example.com', 'Pune', NULL, 'IN', NULL), ('two', 'k2', NULL, NULL, 'b2@example.com', NULL, NULL, 'US', NULL), ('two', 'Ravi', NULL, '9845765221', 'ravi2@example.com', NULL, NULL, 'IN', NULL);
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 2), ('update', 3);
