-- 17 OpenMRS: patient, person, person_name, person_address, person_attribute. Facts of openmrs/openmrs-core api/src/main/resources/org/openmrs/liquibase/snapshots/schema-only/liquibase-schema-only-2.8.x.xml @540da6f4.
-- @tables
-- The key of a patient is that of a person; names, addresses and phones are rows of other tables, the preferred one first, and are voided instead of deleted.
CREATE TABLE person (person_id serial PRIMARY KEY, gender varchar(50) DEFAULT '', birthdate date, dead boolean NOT NULL DEFAULT false, voided boolean NOT NULL DEFAULT false, uuid char(38) NOT NULL UNIQUE DEFAULT gen_random_uuid());
CREATE TABLE patient (patient_id int PRIMARY KEY REFERENCES person, allergy_status varchar(50) DEFAULT 'Unknown', voided boolean NOT NULL DEFAULT false, creator int DEFAULT 1, date_created timestamp DEFAULT now());
CREATE TABLE person_name (person_name_id serial PRIMARY KEY, preferred boolean NOT NULL DEFAULT false, person_id int NOT NULL REFERENCES person, prefix varchar(50), given_name varchar(50), middle_name varchar(50), family_name varchar(50), voided boolean NOT NULL DEFAULT false);
CREATE TABLE person_address (person_address_id serial PRIMARY KEY, person_id int REFERENCES person, preferred boolean NOT NULL DEFAULT false, address1 varchar, city_village varchar, state_province varchar, country varchar, voided boolean NOT NULL DEFAULT false);
CREATE TABLE person_attribute_type (person_attribute_type_id serial PRIMARY KEY, name varchar(50) NOT NULL, format varchar(50));
CREATE TABLE person_attribute (person_attribute_id serial PRIMARY KEY, person_id int NOT NULL REFERENCES person, value varchar(50) NOT NULL, person_attribute_type_id int NOT NULL REFERENCES person_attribute_type, voided boolean NOT NULL DEFAULT false);
INSERT INTO person_attribute_type (name) VALUES ('Race'), ('Telephone Number'), ('Email');
INSERT INTO person (gender) VALUES ('F'), ('M'), (''), ('F'), ('M');
INSERT INTO patient (patient_id) VALUES (1), (2), (4);                                                                     -- 3 and 5 are no patients
INSERT INTO person_name (preferred, person_id, given_name, middle_name, family_name) VALUES
	(true, 1, 'Asha', 'K.', 'Rao'), (false, 1, 'Ashu', NULL, 'Rao'), (false, 2, 'Ravi', '', 'Nair'), (true, 3, 'Doctor', NULL, 'House'), (true, 4, 'Maya', NULL, NULL), (true, 5, 'Clerk', NULL, 'Kent');
INSERT INTO person_address (person_id, preferred, city_village, state_province) VALUES (1, true, 'Mysore', 'Karnataka'), (2, false, 'Pune', NULL);
INSERT INTO person_attribute (person_id, value, person_attribute_type_id) VALUES
	(1, '98457 65220', 2), (1, 'asha@example.com', 3), (2, '0091-98457-65221', 2), (3, '9845765222', 2), (4, '9845765224', 2), (4, 'maya@example.com', 3), (5, '9845765225', 2);
-- @attach
CREATE SCHEMA crm;
CREATE VIEW crm.person_one AS
SELECT p.person_id, p.gender, concat_ws(' ', nullif(n.given_name, ''), nullif(n.middle_name, ''), nullif(n.family_name, '')) AS full_name, a.city_village, a.state_province FROM person p
LEFT JOIN LATERAL (SELECT * FROM person_name n WHERE n.person_id = p.person_id AND NOT n.voided ORDER BY n.preferred DESC, n.person_name_id LIMIT 1) n ON true
LEFT JOIN LATERAL (SELECT * FROM person_address n WHERE n.person_id = p.person_id AND NOT n.voided ORDER BY n.preferred DESC, n.person_address_id LIMIT 1) a ON true WHERE NOT p.voided AND NOT p.dead;
CREATE VIEW crm.patient AS
SELECT p.patient_id, o.full_name AS customer_name, nullif(o.gender, '') AS gender, o.city_village AS city, o.state_province AS state,
	(SELECT min(kapture_phone(value)) FROM person_attribute a JOIN person_attribute_type t USING (person_attribute_type_id) WHERE a.person_id = p.patient_id AND NOT a.voided AND t.name = 'Telephone Number') AS phone,
	(SELECT min(value) FROM person_attribute a JOIN person_attribute_type t USING (person_attribute_type_id) WHERE a.person_id = p.patient_id AND NOT a.voided AND t.name = 'Email') AS email_id
FROM patient p JOIN crm.person_one o ON o.person_id = p.patient_id WHERE NOT p.voided;
SELECT kapture_attach('patient', source => 'crm.patient', id_column => 'kapture_id');
SELECT kapture_follow('person', 'patient', 'target.patient_id = source.person_id');
SELECT kapture_follow('person_name', 'patient', 'target.patient_id = source.person_id');
SELECT kapture_follow('person_address', 'patient', 'target.patient_id = source.person_id');
SELECT kapture_follow('person_attribute', 'patient', 'target.patient_id = source.person_id');
-- @relations patient
-- @expected
CREATE TABLE expected (customer_name text, phone text, email_id text, city text, state text, gender text, group_id int, n int);
INSERT INTO expected VALUES
	('Asha K. Rao', '9845765220', 'asha@example.com', 'Mysore', 'Karnataka', 'F'),
	('Ravi Nair', '9845765221', NULL, 'Pune', NULL, 'M'),
	('Maya', '9845765224', 'maya@example.com', NULL, NULL, 'F');
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('Clerk'), ('9845765225'), ('Gokarna'), ('X-ray');
-- @changes
UPDATE patient SET allergy_status = 'See list';                                                          -- no request
UPDATE person SET birthdate = '1980-01-01';                                                              -- no request
UPDATE person_name SET preferred = NOT preferred WHERE person_id = 1;                                    -- another name is the preferred one
UPDATE person_name SET voided = true WHERE person_id = 1 AND given_name = 'Ashu';                        -- and voided
BEGIN;                                                                                                   -- no request: 4 is merged into 1, whose email comes first still
UPDATE person_attribute SET person_id = 1 WHERE person_id = 4 AND person_attribute_type_id = 3;
UPDATE patient SET voided = true WHERE patient_id = 4;
UPDATE person SET voided = true WHERE person_id = 4;
COMMIT;
INSERT INTO person_address (person_id, city_village) VALUES (4, 'Gokarna');                              -- no request: nobody's
UPDATE person_name SET voided = true WHERE person_id = 5;                                                -- no request: no patient
DELETE FROM person_address WHERE person_id = 4;                                                          -- no request
BEGIN;                                                                                                   -- 4 is a patient again, as its customer, with an email of 1's customer
UPDATE person_attribute SET person_id = 4 WHERE person_id = 1 AND value = 'maya@example.com';
UPDATE patient SET voided = false WHERE patient_id = 4;
UPDATE person SET voided = false WHERE person_id = 4;
COMMIT;
INSERT INTO patient (patient_id) VALUES (3);                                                             -- comes in
MERGE INTO person_address a USING (VALUES (1, 'Mysuru'), (2, 'Pune'), (4, 'Goa')) v (person, city) ON a.person_id = v.person
WHEN MATCHED THEN UPDATE SET city_village = v.city WHEN NOT MATCHED THEN INSERT (person_id, city_village) VALUES (v.person, v.city);
UPDATE person_name n SET family_name = 'Rao-Nair' FROM person p WHERE p.person_id = n.person_id AND n.family_name IN ('Rao', 'Nair') AND NOT n.voided;
BEGIN;                                                                                                   -- no request
UPDATE person_name SET given_name = 'X-ray' WHERE person_id = 1;
UPDATE person_name SET given_name = 'Asha' WHERE person_id = 1;
COMMIT;
UPDATE person SET dead = true WHERE person_id = 2;                                                       -- no request: leaves
TRUNCATE person_address;                                                                                 -- no request: Kapture cannot empty fields
ALTER TABLE person_name RENAME COLUMN given_name TO first_name;                                          -- no request
UPDATE person_name SET first_name = 'Deepa' WHERE person_id = 1;
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('Deepa K. Rao-Nair', '9845765220', 'asha@example.com', 'Mysuru', 'Karnataka', 'F'),
	('Ravi Rao-Nair', '9845765221', NULL, 'Pune', NULL, 'M'),
	('Maya', '9845765224', 'maya@example.com', 'Goa', NULL, 'F'),
	('Doctor House', '9845765222', NULL, NULL, NULL, NULL);
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 1), ('update', 8);
