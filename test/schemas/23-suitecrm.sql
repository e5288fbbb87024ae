-- 23 SuiteCRM: contacts, contacts_cstm, email_addresses, email_addr_bean_rel, accounts_contacts.
-- @tables
-- Keys of char(36), of which imported ones are shorter; an email is two tables away, by a relation that is deleted by a flag; own fields in a table with the same key; the preferred of several phones by a window.
CREATE TABLE contacts (id char(36) NOT NULL PRIMARY KEY, date_entered timestamp, date_modified timestamp, modified_user_id char(36), created_by char(36), description text, deleted smallint DEFAULT 0, assigned_user_id char(36), salutation varchar(255), first_name varchar(100), last_name varchar(100), title varchar(100), do_not_call smallint DEFAULT 0, phone_home varchar(100), phone_mobile varchar(100), phone_work varchar(100), phone_other varchar(100), primary_address_city varchar(100), primary_address_state varchar(100), primary_address_country varchar(255), lead_source varchar(255), reports_to_id char(36));
CREATE TABLE contacts_cstm (id_c char(36) NOT NULL PRIMARY KEY, loyalty_c varchar(255));
CREATE TABLE email_addresses (id char(36) NOT NULL PRIMARY KEY, email_address varchar(255), email_address_caps varchar(255), invalid_email smallint DEFAULT 0, opt_out smallint DEFAULT 0, deleted smallint DEFAULT 0);
CREATE TABLE email_addr_bean_rel (id char(36) NOT NULL PRIMARY KEY, email_address_id char(36) NOT NULL, bean_id char(36) NOT NULL, bean_module varchar(100), primary_address smallint DEFAULT 0, reply_to_address smallint DEFAULT 0, date_modified timestamp, deleted smallint DEFAULT 0);
CREATE INDEX ON email_addr_bean_rel (bean_id, bean_module);
CREATE TABLE users (id char(36) PRIMARY KEY, user_name varchar(60), first_name varchar(255), last_name varchar(255));
INSERT INTO users VALUES ('1', 'admin', 'Ad', 'Min'), ('u-2', 'sales', 'Sam', 'Sales');
INSERT INTO contacts (id, deleted, first_name, last_name, phone_home, phone_mobile, phone_work, primary_address_city, assigned_user_id, lead_source, do_not_call) VALUES
	('3f2504e0-4f89-11d3-9a0c-0305e82c3301', 0, 'Asha', 'Rao', '080 2233 4455', '+91 98457 65220', '', 'Mysore', '1', 'Web Site', 0), ('imported 7', 0, NULL, 'Nair', NULL, '', '0 98457 65221', NULL, 'u-2', NULL, 0),
	('deleted', 1, 'Dele', 'Ted', NULL, '9845765222', NULL, NULL, '1', NULL, 0), ('nocall', 0, 'Do Not', 'Call', NULL, '9845765223', NULL, NULL, NULL, NULL, 1),
	('dup-1', 0, 'Kiran', 'Desai', NULL, '9845765224', NULL, 'Goa', '1', NULL, 0), ('dup-2', 0, 'K.', 'Desai', NULL, '098457-65224', NULL, NULL, '1', NULL, 0);
INSERT INTO contacts_cstm VALUES ('3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'gold');
INSERT INTO email_addresses (id, email_address, email_address_caps, opt_out) VALUES ('e1', 'asha@example.com', 'ASHA@EXAMPLE.COM', 0), ('e2', 'asha.rao@example.com', 'ASHA.RAO@EXAMPLE.COM', 0), ('e3', 'nair@example.com', 'NAIR@EXAMPLE.COM', 1), ('e4', 'lead@example.com', 'LEAD@EXAMPLE.COM', 0);
INSERT INTO email_addr_bean_rel (id, email_address_id, bean_id, bean_module, primary_address) VALUES ('r1', 'e1', '3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'Contacts', 1), ('r2', 'e2', '3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'Contacts', 0), ('r3', 'e3', 'imported 7', 'Contacts', 1), ('r4', 'e4', 'imported 7', 'Leads', 1);
-- @attach
CREATE SCHEMA crm;
CREATE VIEW crm.contact_email AS
SELECT bean_id, email_address FROM (SELECT r.bean_id, e.email_address, row_number() OVER (PARTITION BY r.bean_id ORDER BY r.primary_address DESC, r.id) AS rn
	FROM email_addr_bean_rel r JOIN email_addresses e ON e.id = r.email_address_id WHERE r.bean_module = 'Contacts' AND r.deleted = 0 AND e.deleted = 0 AND e.opt_out = 0 AND e.invalid_email = 0) s WHERE rn = 1;
CREATE VIEW crm.contact AS
SELECT c.id, concat_ws(' ', c.first_name, c.last_name) AS customer_name, coalesce(kapture_phone(c.phone_mobile), kapture_phone(c.phone_work), kapture_phone(c.phone_home)) AS phone, e.email_address AS email_id, c.primary_address_city AS city, s.loyalty_c AS zone, c.lead_source AS secsource, u.user_name AS customer_assign_emp_code
FROM contacts c LEFT JOIN crm.contact_email e ON e.bean_id = c.id LEFT JOIN contacts_cstm s ON s.id_c = c.id LEFT JOIN users u ON u.id = c.assigned_user_id;
SELECT kapture_attach('contacts', source => 'crm.contact', filter => 'deleted = 0 AND do_not_call = 0', on_leave => '{"campaign_name": "deleted"}');
SELECT kapture_follow('email_addr_bean_rel', 'contacts', $$target.id = source.bean_id AND source.bean_module = 'Contacts'$$);
SELECT kapture_follow('email_addresses', 'contacts', $$target.id IN (SELECT r.bean_id FROM email_addr_bean_rel r WHERE r.email_address_id = source.id AND r.bean_module = 'Contacts')$$);
SELECT kapture_follow('contacts_cstm', 'contacts', 'target.id = source.id_c');
SELECT kapture_follow('users', 'contacts', 'target.assigned_user_id = source.id');
-- @relations contacts
-- @expected
CREATE TABLE expected (customer_name text, phone text, email_id text, city text, zone text, "secSource" text, customer_assign_emp_code text, campaign_name text, group_id int, n int);
INSERT INTO expected VALUES
	('Asha Rao', '9845765220', 'asha@example.com', 'Mysore', 'gold', 'Web Site', 'admin', NULL, NULL, NULL), ('Nair', '9845765221', NULL, NULL, NULL, NULL, 'sales', NULL, NULL, NULL),
	('Kiran Desai', '9845765224', NULL, 'Goa', NULL, NULL, 'admin', NULL, 1, 1), ('K. Desai', '9845765224', NULL, NULL, NULL, NULL, 'admin', NULL, 1, 1);
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
INSERT INTO expected_parked VALUES ('contacts', rpad('dup-1', 36), 1, 1), ('contacts', rpad('dup-2', 36), 1, 1);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('9845765222'), ('9845765223'), ('lead@');
-- @changes
UPDATE contacts SET date_modified = now(), modified_user_id = '1', description = 'd';                                                        -- no request
UPDATE email_addr_bean_rel SET date_modified = now(), reply_to_address = 1;                                                                  -- no request
BEGIN;                                                                                                                                     -- SuiteCRM saves emails: it deletes and makes relations; another one is the primary
UPDATE email_addr_bean_rel SET deleted = 1 WHERE bean_id = '3f2504e0-4f89-11d3-9a0c-0305e82c3301';
INSERT INTO email_addr_bean_rel (id, email_address_id, bean_id, bean_module, primary_address) VALUES ('r5', 'e1', '3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'Contacts', 0), ('r6', 'e2', '3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'Contacts', 1);
COMMIT;
BEGIN;                                                                                                                                     -- no request: saved as it was
UPDATE email_addr_bean_rel SET deleted = 1 WHERE id IN ('r5', 'r6');
INSERT INTO email_addr_bean_rel (id, email_address_id, bean_id, bean_module, primary_address) VALUES ('r7', 'e2', '3f2504e0-4f89-11d3-9a0c-0305e82c3301', 'Contacts', 1);
COMMIT;
UPDATE email_addresses SET opt_out = 0 WHERE id = 'e3';                                                                                      -- an email
BEGIN;                                                                                                                                     -- two contacts are merged: dup-2 is deleted, dup-1 stays
INSERT INTO email_addresses (id, email_address) VALUES ('e5', 'kiran@example.com');
INSERT INTO email_addr_bean_rel (id, email_address_id, bean_id, bean_module, primary_address) VALUES ('r8', 'e5', 'dup-1', 'Contacts', 1);
UPDATE contacts SET deleted = 1 WHERE id = 'dup-2';
COMMIT;
UPDATE contacts_cstm SET loyalty_c = 'silver';
DELETE FROM contacts_cstm WHERE loyalty_c = 'silver';                                                                                        -- no request: emptied
INSERT INTO contacts_cstm VALUES ('imported 7', 'iron');
UPDATE users SET user_name = 'samuel', last_name = 'S' WHERE id = 'u-2';
UPDATE contacts SET deleted = 1 WHERE id = 'imported 7';                                                                                     -- leaves
UPDATE contacts SET deleted = 0 WHERE id = 'imported 7';                                                                                     -- is restored
UPDATE contacts SET id = '7c9e6679-7425-40de-944b-e07fc1f90ae7', phone_mobile = '9845765231' WHERE id = 'imported 7';                        -- gets a key of the usual form, and loses email, loyalty with it
UPDATE contacts SET do_not_call = 0 WHERE id = 'nocall' AND false;                                                                           -- no request
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('Asha Rao', '9845765220', 'asha.rao@example.com', 'Mysore', 'silver', 'Web Site', 'admin', NULL, NULL, NULL), ('Nair', '9845765231', 'nair@example.com', NULL, 'iron', NULL, 'samuel', 'deleted', NULL, NULL),
	('Kiran Desai', '9845765224', 'kiran@example.com', 'Goa', NULL, NULL, 'admin', NULL, 1, 1), ('Kiran Desai', '9845765224', 'kiran@example.com', 'Goa', NULL, NULL, 'admin', 'deleted', 1, 1);
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 1), ('update', 11), ('get', 2);
