-- 26 Dolibarr: llx_societe, llx_socpeople. Facts of Dolibarr/dolibarr htdocs/install/mysql/tables/llx_societe.sql @06540a65.
-- @tables
-- Companies and their contacts are customers of one account, from two tables; both may have the same phone; several entities, 0 for none instead of a foreign key, one dictionary for states and one for countries, a trigger that sets tms.
CREATE TABLE llx_c_country (rowid int PRIMARY KEY, code varchar(2) UNIQUE NOT NULL, label varchar(128) NOT NULL, active smallint NOT NULL DEFAULT 1);
CREATE TABLE llx_c_departements (rowid serial PRIMARY KEY, code_departement varchar(6) NOT NULL, nom varchar(50), active smallint NOT NULL DEFAULT 1);
CREATE TABLE llx_societe (rowid serial PRIMARY KEY, nom varchar(128), name_alias varchar(128), entity int NOT NULL DEFAULT 1, ref_ext varchar(255), parent int, status smallint DEFAULT 1, code_client varchar(24) UNIQUE, address varchar(255), zip varchar(25), town varchar(50), fk_departement int DEFAULT 0, fk_pays int DEFAULT 0, geolat numeric(24,8), phone varchar(30), phone_mobile varchar(30), fax varchar(30), url varchar(255), email varchar(128), fk_stcomm int NOT NULL DEFAULT 0, note_private text, client smallint DEFAULT 0, fournisseur smallint DEFAULT 0, customer_rate real DEFAULT 0, tms timestamp DEFAULT now(), datec timestamp, fk_user_modif int, import_key varchar(14));
CREATE TABLE llx_socpeople (rowid serial PRIMARY KEY, datec timestamp, tms timestamp DEFAULT now(), fk_soc int REFERENCES llx_societe, entity int NOT NULL DEFAULT 1, civility varchar(6), lastname varchar(50), firstname varchar(50), town varchar(255), fk_departement int, fk_pays int DEFAULT 0, phone varchar(30), phone_perso varchar(30), phone_mobile varchar(30), email varchar(255), priv smallint NOT NULL DEFAULT 0, statut smallint NOT NULL DEFAULT 1);
CREATE INDEX ON llx_socpeople (fk_soc);
CREATE FUNCTION update_modified_column_tms() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tms = now(); RETURN NEW; END $$;
CREATE TRIGGER update_customer_modtime BEFORE UPDATE ON llx_societe FOR EACH ROW EXECUTE PROCEDURE update_modified_column_tms();
CREATE TRIGGER update_customer_modtime BEFORE UPDATE ON llx_socpeople FOR EACH ROW EXECUTE PROCEDURE update_modified_column_tms();
INSERT INTO llx_c_country VALUES (117, 'IN', 'India'), (1, 'FR', 'France');
INSERT INTO llx_c_departements (code_departement, nom) VALUES ('KA', 'Karnataka'), ('MH', 'Maharashtra');
INSERT INTO llx_societe (nom, entity, client, town, fk_departement, fk_pays, phone, phone_mobile, email, status) VALUES
	('Deepa Traders', 1, 1, 'Mysore', 1, 117, '0821 245 6789', '+91 98457 65220', 'office@deepa.example', 1), ('Prospect', 1, 2, NULL, 0, 117, '9845765221', NULL, NULL, 1), ('Fournisseur SA', 1, 0, 'Lyon', 0, 1, '+33 4 12 34 56 78', NULL, 'fr@example.com', 1),
	('Client et prospect', 1, 3, '', 2, 0, '098457-65223', '', '', 1), ('Other Entity', 2, 1, 'Pune', 2, 117, '9845765224', NULL, NULL, 1), ('Closed', 1, 1, NULL, 0, 0, '9845765225', NULL, NULL, 0);
INSERT INTO llx_socpeople (fk_soc, lastname, firstname, phone_mobile, phone, email, priv) VALUES (1, 'Rao', 'Deepa', '9845765230', NULL, 'deepa@deepa.example', 0), (4, 'Pawar', NULL, NULL, '9845765231', NULL, 0), (1, 'Private', 'Person', '9845765232', NULL, NULL, 1), (3, 'Dupont', 'Jean', NULL, NULL, 'jean@example.com', 0), (NULL, 'Free', 'Standing', '9845765233', NULL, NULL, 0), (2, 'Prospect', 'Of', '9845765221', NULL, 'ofp@example.com', 0);
-- @attach
CREATE VIEW kapture_societe AS
SELECT s.rowid, coalesce(nullif(s.name_alias, ''), s.nom) AS customer_name, coalesce(kapture_phone(s.phone_mobile), kapture_phone(s.phone)) AS phone, nullif(s.email, '') AS email_id, nullif(s.town, '') AS city, d.nom AS state, c.label AS country, 'company' AS campaign_name
FROM llx_societe s LEFT JOIN llx_c_departements d ON d.rowid = s.fk_departement LEFT JOIN llx_c_country c ON c.rowid = s.fk_pays;
CREATE VIEW kapture_socpeople AS
SELECT p.rowid, concat_ws(' ', p.firstname, p.lastname) AS customer_name, coalesce(kapture_phone(p.phone_mobile), kapture_phone(p.phone_perso), kapture_phone(p.phone)) AS phone, p.email AS email_id, coalesce(p.town, s.city) AS city, coalesce(s.state, NULL) AS state, s.country, 'contact' AS campaign_name, s.customer_name AS "secSource"
FROM llx_socpeople p JOIN kapture_societe s ON s.rowid = p.fk_soc JOIN llx_societe o ON o.rowid = p.fk_soc WHERE o.client IN (1, 3) AND o.status = 1;
SELECT kapture_attach('llx_societe', source => 'kapture_societe', filter => 'entity = 1 AND client IN (1, 2, 3) AND status = 1', id_column => NULL, on_leave => '{"campaign_name": "closed"}');
SELECT kapture_attach('llx_socpeople', source => 'kapture_socpeople', filter => 'entity = 1 AND priv = 0 AND statut = 1', id_column => NULL, on_leave => '{"campaign_name": "closed"}');
SELECT kapture_follow('llx_c_departements', 'llx_societe', 'target.fk_departement = source.rowid');
SELECT kapture_follow('llx_c_country', 'llx_societe', 'target.fk_pays = source.rowid');
SELECT kapture_follow('llx_societe', 'llx_socpeople', 'target.fk_soc = source.rowid');
SELECT kapture_follow('llx_c_departements', 'llx_socpeople', 'EXISTS (SELECT FROM llx_societe s WHERE s.fk_departement = source.rowid AND s.rowid = target.fk_soc)');
SELECT kapture_follow('llx_c_country', 'llx_socpeople', 'EXISTS (SELECT FROM llx_societe s WHERE s.fk_pays = source.rowid AND s.rowid = target.fk_soc)');
-- @relations llx_societe, llx_socpeople
-- @expected
CREATE TABLE expected (customer_name text, phone text, email_id text, city text, state text, country text, campaign_name text, "secSource" text, group_id int, n int);
INSERT INTO expected VALUES
	('Deepa Traders', '9845765220', 'office@deepa.example', 'Mysore', 'Karnataka', 'India', 'company', NULL), ('Prospect', '9845765221', NULL, NULL, NULL, 'India', 'company', NULL), ('Client et prospect', '9845765223', NULL, NULL, 'Maharashtra', NULL, 'company', NULL),
	('Deepa Rao', '9845765230', 'deepa@deepa.example', 'Mysore', 'Karnataka', 'India', 'contact', 'Deepa Traders'), ('Pawar', '9845765231', NULL, NULL, 'Maharashtra', NULL, 'contact', 'Client et prospect');
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('Fournisseur'), ('fr@'), ('Other Entity'), ('9845765224'), ('9845765225'), ('Private'), ('9845765232'), ('Dupont'), ('jean@'), ('Free'), ('9845765233');
-- @changes
UPDATE llx_societe SET fk_user_modif = 1, note_private = 'n', customer_rate = 0.5;                                  -- no request
UPDATE llx_societe SET fk_stcomm = 2, geolat = 12.3;                                                               -- no request
UPDATE llx_c_departements SET active = 0;                                                                          -- no request
UPDATE llx_c_departements SET nom = 'Maharashtra (MH)' WHERE code_departement = 'MH';                               -- the company and its contact
UPDATE llx_societe SET name_alias = 'Deepa', town = 'Mysuru' WHERE nom = 'Deepa Traders';                           -- the company and its contact
UPDATE llx_societe SET client = 1 WHERE nom = 'Prospect';                                                          -- no value changes, but its contact comes in, with its phone: parked
UPDATE llx_socpeople SET phone_mobile = '9845765234' WHERE lastname = 'Prospect';                                      -- gets a phone of its own
BEGIN;                                                                                                             -- two companies are merged: the contacts go over, then the company is deleted
UPDATE llx_socpeople SET fk_soc = 1 WHERE fk_soc = 4;
DELETE FROM llx_societe WHERE rowid = 4;
COMMIT;
UPDATE llx_societe SET status = 0 WHERE rowid = 2;                                                                  -- company and contact leave
UPDATE llx_societe SET status = 1, phone = '9845765241' WHERE rowid = 2;                                            -- and come back
UPDATE llx_socpeople SET fk_soc = NULL WHERE lastname = 'Pawar';                                                    -- leaves
TRUNCATE llx_c_country;                                                                                            -- no request: Kapture cannot empty fields
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('Deepa', '9845765220', 'office@deepa.example', 'Mysuru', 'Karnataka', 'India', 'company', NULL), ('Prospect', '9845765241', NULL, NULL, NULL, 'India', 'company', NULL), ('Client et prospect', '9845765223', NULL, NULL, 'Maharashtra (MH)', NULL, 'company', NULL),
	('Deepa Rao', '9845765230', 'deepa@deepa.example', 'Mysuru', 'Karnataka', 'India', 'contact', 'Deepa'), ('Pawar', '9845765231', NULL, 'Mysuru', 'Karnataka', 'India', 'closed', 'Deepa'), ('Of Prospect', '9845765234', 'ofp@example.com', NULL, NULL, 'India', 'contact', 'Prospect');
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 2), ('update', 10), ('get', 2);
