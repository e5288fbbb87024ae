-- 18 ERPNext: tabCustomer, tabContact, tabDynamic Link. Facts of frappe/erpnext erpnext/selling/doctype/customer/customer.json @f369b583 and frappe/frappe frappe/contacts/doctype/contact/contact.json @8320b7ec.
-- @tables
-- Names with blanks, a text as key that users rename, links that name the kind and the key of what they link, phones with a flag in a table of their own, 0 and 1 for booleans.
CREATE TABLE "tabCustomer" (name varchar(140) PRIMARY KEY, creation timestamp(6), modified timestamp(6), owner varchar(140), docstatus smallint NOT NULL DEFAULT 0, idx bigint NOT NULL DEFAULT 0, customer_name varchar(140), customer_type varchar(140) DEFAULT 'Company', customer_group varchar(140), territory varchar(140), disabled smallint NOT NULL DEFAULT 0, mobile_no varchar(140), email_id varchar(140), _user_tags text, _comments text);
CREATE TABLE "tabContact" (name varchar(140) PRIMARY KEY, first_name varchar(140), last_name varchar(140), modified timestamp(6));
CREATE TABLE "tabContact Phone" (name varchar(140) PRIMARY KEY, parent varchar(140), parentfield varchar(140), parenttype varchar(140), idx bigint, phone varchar(140), is_primary_mobile_no smallint NOT NULL DEFAULT 0);
CREATE TABLE "tabContact Email" (name varchar(140) PRIMARY KEY, parent varchar(140), parentfield varchar(140), parenttype varchar(140), idx bigint, email_id varchar(140), is_primary smallint NOT NULL DEFAULT 0);
CREATE TABLE "tabAddress" (name varchar(140) PRIMARY KEY, address_title varchar(140), city varchar(140), state varchar(140), country varchar(140), disabled smallint NOT NULL DEFAULT 0);
CREATE TABLE "tabDynamic Link" (name varchar(140) PRIMARY KEY, parent varchar(140), parenttype varchar(140), link_doctype varchar(140), link_name varchar(140), idx bigint);
INSERT INTO "tabCustomer" (name, customer_name, territory, disabled, mobile_no) VALUES
	('CUST-0001', 'Deepa Traders', 'India', 0, '+91-9845765220'), ('Ravi "R" Nair, Sons', 'Ravi "R" Nair, Sons', 'India', 0, NULL), ('O''Brien', 'O''Brien', 'Ireland', 0, '+353 1 1234567'), ('Disabled Ltd', 'Disabled Ltd', 'India', 1, '9845765222');
INSERT INTO "tabContact" VALUES ('Deepa-1', 'Deepa', 'Rao', now()), ('Ravi-1', 'Ravi', NULL, now()), ('Supp-1', 'Supplier', 'Person', now()), ('OB-1', 'Pat', NULL, now());
INSERT INTO "tabContact Phone" VALUES ('p1', 'Deepa-1', 'phone_nos', 'Contact', 1, '9845765230', 1), ('p2', 'Ravi-1', 'phone_nos', 'Contact', 1, '9845765221', 0), ('p3', 'Ravi-1', 'phone_nos', 'Contact', 2, '9845765231', 1), ('p4', 'Supp-1', 'phone_nos', 'Contact', 1, '9845765239', 1);
INSERT INTO "tabContact Email" VALUES ('e1', 'Deepa-1', 'email_ids', 'Contact', 1, 'deepa@example.com', 1), ('e2', 'Ravi-1', 'email_ids', 'Contact', 1, 'ravi@example.com', 1), ('e3', 'OB-1', 'email_ids', 'Contact', 1, 'pat@example.com', 1);
INSERT INTO "tabAddress" VALUES ('Deepa-Billing', 'Deepa', 'Mysore', 'Karnataka', 'India');
INSERT INTO "tabDynamic Link" VALUES ('l1', 'Deepa-1', 'Contact', 'Customer', 'CUST-0001', 1), ('l2', 'Ravi-1', 'Contact', 'Customer', 'Ravi "R" Nair, Sons', 1), ('l3', 'Supp-1', 'Contact', 'Supplier', 'CUST-0001', 1), ('l4', 'Deepa-Billing', 'Address', 'Customer', 'CUST-0001', 1), ('l5', 'OB-1', 'Contact', 'Customer', 'O''Brien', 1);
-- @attach
CREATE VIEW "Kapture Customer" AS
SELECT c.name, c.customer_name, coalesce(kapture_phone(c.mobile_no), ph.phone) AS phone, coalesce(nullif(c.email_id, ''), em.email_id) AS "Email_ID", ad.city, ad.state, ad.country, concat_ws(' ', ct.first_name, ct.last_name) AS contact_person_name
FROM "tabCustomer" c
LEFT JOIN LATERAL (SELECT k.* FROM "tabDynamic Link" l JOIN "tabContact" k ON k.name = l.parent WHERE l.parenttype = 'Contact' AND l.link_doctype = 'Customer' AND l.link_name = c.name ORDER BY k.name LIMIT 1) ct ON true
LEFT JOIN LATERAL (SELECT kapture_phone(x.phone) AS phone FROM "tabContact Phone" x WHERE x.parent = ct.name AND x.parenttype = 'Contact' ORDER BY x.is_primary_mobile_no DESC, x.idx LIMIT 1) ph ON true
LEFT JOIN "tabContact Email" em ON em.parent = ct.name AND em.is_primary = 1
LEFT JOIN LATERAL (SELECT a.* FROM "tabDynamic Link" l JOIN "tabAddress" a ON a.name = l.parent WHERE l.parenttype = 'Address' AND l.link_doctype = 'Customer' AND l.link_name = c.name AND a.disabled = 0 ORDER BY a.name LIMIT 1) ad ON true
WHERE c.disabled = 0;
SELECT kapture_attach('"tabCustomer"', source => '"Kapture Customer"', id_column => NULL);
SELECT kapture_follow('"tabDynamic Link"', '"tabCustomer"', $$source.link_doctype = 'Customer' AND target.name = source.link_name$$);
SELECT kapture_follow('"tabContact"', '"tabCustomer"', $$EXISTS (SELECT FROM "tabDynamic Link" l WHERE l.parenttype = 'Contact' AND l.parent = source.name AND l.link_doctype = 'Customer' AND l.link_name = target.name)$$);
SELECT kapture_follow('"tabContact Phone"', '"tabCustomer"', $$source.parenttype = 'Contact' AND EXISTS (SELECT FROM "tabDynamic Link" l WHERE l.parenttype = 'Contact' AND l.parent = source.parent AND l.link_doctype = 'Customer' AND l.link_name = target.name)$$);
SELECT kapture_follow('"tabContact Email"', '"tabCustomer"', $$source.parenttype = 'Contact' AND EXISTS (SELECT FROM "tabDynamic Link" l WHERE l.parenttype = 'Contact' AND l.parent = source.parent AND l.link_doctype = 'Customer' AND l.link_name = target.name)$$);
SELECT kapture_follow('"tabAddress"', '"tabCustomer"', $$EXISTS (SELECT FROM "tabDynamic Link" l WHERE l.parenttype = 'Address' AND l.parent = source.name AND l.link_doctype = 'Customer' AND l.link_name = target.name)$$);
-- @relations "tabCustomer"
-- @expected
CREATE TABLE expected (customer_name text, phone text, email_id text, city text, state text, country text, contact_person_name text, group_id int, n int);
INSERT INTO expected VALUES
	('Deepa Traders', '9845765220', 'deepa@example.com', 'Mysore', 'Karnataka', 'India', 'Deepa Rao'),
	('Ravi "R" Nair, Sons', '9845765231', 'ravi@example.com', NULL, NULL, NULL, 'Ravi'),
	('O''Brien', NULL, 'pat@example.com', NULL, NULL, NULL, 'Pat');
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('Supplier'), ('9845765239'), ('1234567'), ('Hidden');
-- @changes
UPDATE "tabCustomer" SET _user_tags = 'x', modified = now();                                              -- no request
UPDATE "tabContact" SET modified = now();                                                                 -- no request
BEGIN;                                                                                                    -- a customer is renamed, and its key with it
UPDATE "tabCustomer" SET name = 'CUST-9', customer_name = 'Deepa Traders Pvt' WHERE name = 'CUST-0001';
UPDATE "tabDynamic Link" SET link_name = 'CUST-9' WHERE link_doctype = 'Customer' AND link_name = 'CUST-0001';
COMMIT;
UPDATE "tabCustomer" SET name = 'Ravi {x}' WHERE name = 'Ravi "R" Nair, Sons';                            -- no request: it has lost its contact
UPDATE "tabDynamic Link" SET link_name = 'Ravi {x}' WHERE name = 'l2';                                    -- no request: and has it again
UPDATE "tabContact Phone" SET is_primary_mobile_no = 1 - is_primary_mobile_no WHERE parent = 'Ravi-1';    -- the other phone
UPDATE "tabContact" SET last_name = 'Nair' WHERE name = 'Ravi-1';
UPDATE "tabContact" SET last_name = 'Hidden' WHERE name = 'Supp-1';                                       -- no request: a supplier's
DELETE FROM "tabAddress" WHERE name = 'Deepa-Billing';                                                    -- no request: Kapture cannot empty fields
INSERT INTO "tabAddress" VALUES ('Deepa-Billing', 'Deepa', 'Hassan', 'Karnataka', 'India');               -- another city
INSERT INTO "tabCustomer" (name, customer_name) VALUES ('CUST-9', 'x') ON CONFLICT (name) DO UPDATE SET customer_name = 'Deepa T';
INSERT INTO "tabCustomer" (name, customer_name) VALUES ('CUST-9', 'x') ON CONFLICT (name) DO NOTHING;     -- no request
BEGIN;                                                                                                    -- no request: two customers exchange their keys
UPDATE "tabCustomer" SET name = 'tmp' WHERE name = 'CUST-9';
UPDATE "tabCustomer" SET name = 'CUST-9' WHERE name = 'Ravi {x}';
UPDATE "tabCustomer" SET name = 'Ravi {x}' WHERE name = 'tmp';
UPDATE "tabDynamic Link" SET link_name = CASE link_name WHEN 'CUST-9' THEN 'Ravi {x}' ELSE 'CUST-9' END WHERE link_doctype = 'Customer' AND link_name IN ('CUST-9', 'Ravi {x}');
COMMIT;
UPDATE "tabCustomer" SET disabled = 0 WHERE name = 'Disabled Ltd';                                        -- comes in
ALTER TABLE "tabContact Email" RENAME TO "tabEmail";                                                      -- no request
UPDATE "tabEmail" SET email_id = 'pat.obrien@example.com' WHERE name = 'e3';
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('Deepa T', '9845765220', 'deepa@example.com', 'Hassan', 'Karnataka', 'India', 'Deepa Rao'),
	('Ravi "R" Nair, Sons', '9845765221', 'ravi@example.com', NULL, NULL, NULL, 'Ravi Nair'),
	('O''Brien', NULL, 'pat.obrien@example.com', NULL, NULL, NULL, 'Pat'),
	('Disabled Ltd', '9845765222', NULL, NULL, NULL, NULL, NULL);
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 1), ('update', 6);
