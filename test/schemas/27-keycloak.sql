-- 27 Keycloak: user_entity, user_attribute, user_role_mapping, realm, keycloak_role.
-- @tables
-- A realm for each tenant, of which two have an account; attributes with several values, long values in a column of their own; service accounts among the users; keys of two columns without any other.
CREATE TABLE realm (id varchar(36) PRIMARY KEY, name varchar(255) UNIQUE, enabled boolean NOT NULL DEFAULT false);
CREATE TABLE user_entity (id varchar(36) PRIMARY KEY, email varchar(255), email_constraint varchar(255), email_verified boolean NOT NULL DEFAULT false, enabled boolean NOT NULL DEFAULT false, federation_link varchar(255), first_name varchar(255), last_name varchar(255), realm_id varchar(255), username varchar(255), created_timestamp bigint, service_account_client_link varchar(255), not_before int NOT NULL DEFAULT 0, UNIQUE (realm_id, email_constraint), UNIQUE (realm_id, username));
CREATE TABLE user_attribute (name varchar(255) NOT NULL, value varchar(255), user_id varchar(36) NOT NULL REFERENCES user_entity, id varchar(36) PRIMARY KEY DEFAULT 'sybase-needs-something-here', long_value_hash bytea, long_value_hash_lower_case bytea, long_value text);
CREATE INDEX idx_user_attribute ON user_attribute (user_id);
CREATE TABLE keycloak_role (id varchar(36) PRIMARY KEY, client_realm_constraint varchar(255), client_role boolean NOT NULL DEFAULT false, description varchar(255), name varchar(255), realm_id varchar(255));
CREATE TABLE user_role_mapping (role_id varchar(255) NOT NULL, user_id varchar(36) NOT NULL REFERENCES user_entity, PRIMARY KEY (role_id, user_id));
CREATE INDEX ON user_role_mapping (user_id);
INSERT INTO realm VALUES ('r1', 'acme', true), ('r2', 'globex', true), ('r3', 'master', true);
INSERT INTO keycloak_role (id, name, realm_id) VALUES ('cust1', 'customer', 'r1'), ('cust2', 'customer', 'r2'), ('adm', 'admin', 'r3');
INSERT INTO user_entity (id, email, email_constraint, email_verified, enabled, first_name, last_name, realm_id, username, service_account_client_link) VALUES
	('u1', 'asha@example.com', 'asha@example.com', true, true, 'Asha', 'Rao', 'r1', 'asha', NULL), ('u2', NULL, 'c1b0', false, true, NULL, NULL, 'r1', '+919845765221', NULL), ('u3', 'asha@example.com', 'asha@example.com', true, true, 'Asha', NULL, 'r2', 'asha', NULL),
	('u4', 'admin@example.com', 'admin@example.com', true, true, 'Ad', 'Min', 'r3', 'admin', NULL), ('u5', NULL, 'x', false, true, NULL, NULL, 'r1', 'service-account-api', 'client'), ('u6', 'disabled@example.com', 'disabled@example.com', true, false, 'Dis', 'Abled', 'r1', 'disabled', NULL), ('u7', 'norole@example.com', 'norole@example.com', true, true, 'No', 'Role', 'r1', 'norole', NULL);
INSERT INTO user_attribute (id, name, value, user_id, long_value) VALUES ('a1', 'phoneNumber', '+91 98457 65220', 'u1', NULL), ('a2', 'locale', 'en', 'u1', NULL), ('a3', 'phoneNumber', '9845765230', 'u3', NULL), ('a4', 'phoneNumber', '(0) 98457 65231', 'u3', NULL), ('a5', 'city', NULL, 'u3', repeat('Long ', 400) || 'City'), ('a6', 'phoneNumber', '9845765226', 'u6', NULL);
INSERT INTO user_role_mapping VALUES ('cust1', 'u1'), ('cust1', 'u2'), ('cust2', 'u3'), ('adm', 'u4'), ('cust1', 'u5'), ('cust1', 'u6');
-- @servers acme, globex
-- @attach
CREATE SCHEMA crm;
CREATE VIEW crm.customers AS SELECT m.user_id FROM user_role_mapping m WHERE EXISTS (SELECT FROM keycloak_role r WHERE r.id = m.role_id AND r.name = 'customer' AND NOT r.client_role) GROUP BY 1;
CREATE VIEW crm.users AS
SELECT DISTINCT ON (u.id) u.id, u.realm_id, coalesce(nullif(concat_ws(' ', u.first_name, u.last_name), ''), u.username) AS customer_name, u.email AS email_id, coalesce(kapture_phone(a.value), kapture_phone(u.username)) AS phone,
	(SELECT left(coalesce(c.value, c.long_value), 60) FROM user_attribute c WHERE c.user_id = u.id AND c.name = 'city' ORDER BY c.id LIMIT 1) AS city, r.name AS "campaign_name"
FROM user_entity u JOIN crm.customers m ON m.user_id = u.id JOIN realm r ON r.id = u.realm_id LEFT JOIN user_attribute a ON a.user_id = u.id AND a.name = 'phoneNumber' WHERE u.service_account_client_link IS NULL ORDER BY u.id, a.id;
SELECT kapture_attach('user_entity', server => 'acme', source => 'crm.users', filter => $$realm_id = 'r1' AND enabled$$, id_column => NULL, name => 'acme', on_leave => '{"secSource": "left"}', on_delete => '{"secSource": "deleted"}');
SELECT kapture_attach('user_entity', server => 'globex', source => 'crm.users', filter => $$realm_id = 'r2' AND enabled$$, id_column => NULL, name => 'globex', on_leave => '{"secSource": "left"}', on_delete => '{"secSource": "deleted"}');
SELECT kapture_follow('user_attribute', 'user_entity', $$target.id = source.user_id AND source.name IN ('phoneNumber', 'city')$$);
SELECT kapture_follow('user_role_mapping', 'user_entity', 'target.id = source.user_id');
SELECT kapture_follow('keycloak_role', 'user_entity', 'target.id IN (SELECT m.user_id FROM user_role_mapping m WHERE m.role_id = source.id)');
SELECT kapture_follow('realm', 'user_entity', 'target.realm_id = source.id');
-- @relations user_entity
-- @expected
CREATE TABLE expected (server text, customer_name text, phone text, email_id text, city text, campaign_name text, "secSource" text, group_id int, n int);
INSERT INTO expected VALUES
	('acme', 'Asha Rao', '9845765220', 'asha@example.com', NULL, 'acme', NULL), ('acme', '+919845765221', '9845765221', NULL, NULL, 'acme', NULL), ('globex', 'Asha', '9845765230', 'asha@example.com', left(repeat('Long ', 400), 60), 'globex', NULL);
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('admin'), ('service-account'), ('Abled'), ('9845765226'), ('Role'), ('norole@'), ('Gone');
-- @changes
UPDATE user_entity SET not_before = 1, email_constraint = email_constraint, federation_link = 'l';                 -- no request
UPDATE user_attribute SET value = 'hi' WHERE name = 'locale';                                                     -- no request
INSERT INTO user_attribute (id, name, value, user_id) VALUES ('a9', 'picture', 'p.png', 'u1');                     -- no request
BEGIN;                                                                                                            -- Keycloak writes attributes anew: no request
DELETE FROM user_attribute WHERE user_id = 'u1';
INSERT INTO user_attribute (id, name, value, user_id) VALUES ('b1', 'phoneNumber', '098457-65220', 'u1'), ('b2', 'locale', 'en', 'u1');
COMMIT;
DELETE FROM user_attribute WHERE id = 'a3';                                                                       -- the other phone
INSERT INTO user_attribute (id, name, value, user_id) VALUES ('a0', 'phoneNumber', '9845765232', 'u3');            -- another phone
UPDATE user_attribute SET long_value = repeat('x', 3000) WHERE id = 'a5';                                         -- a long value, of which the condition reads none
UPDATE realm SET name = 'Acme Ltd' WHERE id = 'r1';                                                               -- two users
UPDATE realm SET enabled = false WHERE id = 'r2';                                                                 -- no request
UPDATE keycloak_role SET description = 'd';                                                                       -- no request
UPDATE keycloak_role SET name = 'client' WHERE id = 'cust1';                                                      -- two users leave
UPDATE user_entity SET first_name = 'Gone' WHERE id = 'u1';                                                       -- no request
UPDATE user_entity SET first_name = 'Asha' WHERE id = 'u1';                                                       -- no request
UPDATE keycloak_role SET name = 'customer' WHERE id = 'cust1';                                                    -- and come back: nothing has changed but secSource, of which the view knows nothing
BEGIN;                                                                                                            -- Keycloak deletes a user
DELETE FROM user_attribute WHERE user_id = 'u2';
DELETE FROM user_role_mapping WHERE user_id = 'u2';
DELETE FROM user_entity WHERE id = 'u2';
COMMIT;
BEGIN;                                                                                                            -- moves to another realm, with another role
UPDATE user_entity SET realm_id = 'r2', username = 'asha2', email_constraint = 'asha2', email = 'asha2@example.com' WHERE id = 'u1';
UPDATE user_role_mapping SET role_id = 'cust2' WHERE user_id = 'u1';
COMMIT;
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('acme', 'Asha Rao', '9845765220', 'asha@example.com', NULL, 'Acme Ltd', 'left'), ('acme', '+919845765221', '9845765221', NULL, NULL, 'Acme Ltd', 'deleted'), ('globex', 'Asha', '9845765232', 'asha@example.com', repeat('x', 60), 'globex', NULL), ('globex', 'Asha Rao', '9845765220', 'asha2@example.com', NULL, 'globex', NULL);
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 1), ('update', 11);
