-- 16 Discourse: users, user_emails, user_custom_fields. Facts of discourse/discourse app/models/user.rb @fe656fb0, user_email.rb @01b3ea78 and user_custom_field.rb @174239f3.
-- @tables
-- The email is in another table, one of several, with a flag; phone and company are rows of names and values; members of a group are the customers.
CREATE TABLE users (id serial PRIMARY KEY, username varchar(60) NOT NULL, name varchar, seen_notification_id bigint NOT NULL DEFAULT 0, last_seen_at timestamp, active boolean NOT NULL DEFAULT false, staged boolean NOT NULL DEFAULT false, approved boolean NOT NULL DEFAULT false, trust_level int NOT NULL DEFAULT 0, suspended_at timestamp, suspended_till timestamp, ip_address inet, primary_group_id int, created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now());
CREATE TABLE user_emails (id serial PRIMARY KEY, user_id int NOT NULL, email varchar(513) NOT NULL, "primary" boolean NOT NULL DEFAULT false, normalized_email varchar, created_at timestamp DEFAULT now());
CREATE UNIQUE INDEX ON user_emails (lower(email)); CREATE UNIQUE INDEX ON user_emails (user_id, "primary") WHERE "primary";
CREATE TABLE user_fields (id serial PRIMARY KEY, name varchar NOT NULL, field_type varchar);
CREATE TABLE user_custom_fields (id serial PRIMARY KEY, user_id int NOT NULL, name varchar(256) NOT NULL, value text, created_at timestamp DEFAULT now());
CREATE TABLE user_profiles (user_id int PRIMARY KEY, location varchar(3000), website varchar, views int NOT NULL DEFAULT 0);
CREATE TABLE groups (id serial PRIMARY KEY, name varchar NOT NULL);
CREATE TABLE group_users (id serial PRIMARY KEY, group_id int NOT NULL, user_id int NOT NULL, owner boolean NOT NULL DEFAULT false);
INSERT INTO groups (name) VALUES ('customers'), ('staff');
INSERT INTO user_fields (name, field_type) VALUES ('Phone', 'text'), ('Company', 'text');
INSERT INTO users (username, name, active, staged) VALUES ('asha', 'Asha Rao', true, false), ('ravi', '', true, false), ('inactive', 'No One', false, false), ('staged', 'Staged', true, true), ('two', 'Two Mails', true, false), ('staff', 'Staff', true, false), ('nogroup', 'No Group', true, false);
INSERT INTO user_emails (user_id, email, "primary") VALUES (1, 'asha@example.com', true), (2, 'ravi@example.com', true), (3, 'noone@example.com', true), (4, 'staged@example.com', true), (5, 'two@example.com', true), (5, 'second@example.com', false), (6, 'staff@example.com', true), (7, 'nogroup@example.com', true);
INSERT INTO user_custom_fields (user_id, name, value) VALUES (1, 'user_field_1', '+91 98457 65220'), (2, 'user_field_1', '9845765221'), (5, 'user_field_1', 'n/a'), (5, 'user_field_2', 'Two Ltd');
INSERT INTO user_profiles (user_id, location) VALUES (1, 'Mysore'), (2, NULL), (5, 'Pune');
INSERT INTO group_users (group_id, user_id) VALUES (1,1), (1,2), (1,3), (1,4), (1,5), (2,6), (1,6);
-- @attach
CREATE VIEW kapture_users AS
SELECT u.id, coalesce(nullif(u.name, ''), u.username) AS customer_name, kapture_phone(ph.value) AS phone, e.email AS email_id, p.location AS city, co.value AS "secSource", 'discourse' AS campaign_name
FROM users u JOIN user_emails e ON e.user_id = u.id AND e."primary" LEFT JOIN user_profiles p ON p.user_id = u.id
LEFT JOIN user_custom_fields ph ON ph.user_id = u.id AND ph.name = 'user_field_1' LEFT JOIN user_custom_fields co ON co.user_id = u.id AND co.name = 'user_field_2'
WHERE u.active AND NOT u.staged AND EXISTS (SELECT FROM group_users g WHERE g.user_id = u.id AND g.group_id = 1) AND NOT EXISTS (SELECT FROM group_users g JOIN groups ON groups.id = g.group_id WHERE g.user_id = u.id AND groups.name = 'staff');
SELECT kapture_attach('users', source => 'kapture_users', id_column => NULL, on_leave => '{"campaign_name": "left"}', on_delete => '{"campaign_name": "deleted"}');
SELECT kapture_follow('user_emails', 'users', 'target.id = source.user_id');
SELECT kapture_follow('user_custom_fields', 'users', $$target.id = source.user_id AND source.name IN ('user_field_1', 'user_field_2')$$);
SELECT kapture_follow('user_profiles', 'users', 'target.id = source.user_id');
SELECT kapture_follow('group_users', 'users', 'target.id = source.user_id');
SELECT kapture_follow('groups', 'users', 'EXISTS (SELECT FROM group_users g WHERE g.group_id = source.id AND g.user_id = target.id)');
-- @relations users
-- @expected
CREATE TABLE expected (customer_name text, phone text, email_id text, city text, "secSource" text, campaign_name text, group_id int, n int);
INSERT INTO expected VALUES
	('Asha Rao', '9845765220', 'asha@example.com', 'Mysore', NULL, 'discourse'),
	('ravi', '9845765221', 'ravi@example.com', NULL, NULL, 'discourse'),
	('Two Mails', NULL, 'two@example.com', 'Pune', 'Two Ltd', 'discourse');
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('noone@example.com'), ('staged@example.com'), ('staff@example.com'), ('n/a'), ('Nowhere');
-- @changes
UPDATE users SET last_seen_at = now(), seen_notification_id = 5, updated_at = now();                  -- no request: everybody was here
UPDATE user_profiles SET views = views + 1;                                                           -- no request
BEGIN;                                                                                                -- another email is the primary one
UPDATE user_emails SET "primary" = false WHERE user_id = 5 AND "primary";
UPDATE user_emails SET "primary" = true WHERE user_id = 5 AND email = 'second@example.com';
COMMIT;
UPDATE user_custom_fields SET value = '098457 65220' WHERE user_id = 1 AND name = 'user_field_1';     -- no request: the same phone
INSERT INTO user_custom_fields (user_id, name, value) VALUES (1, 'user_field_9', 'x');                -- no request: another field
INSERT INTO user_custom_fields (user_id, name, value) VALUES (1, 'user_field_2', 'Rao Ltd');          -- a company
UPDATE user_custom_fields SET user_id = 2 WHERE value = 'Rao Ltd';                                    -- is another user's: Kapture cannot empty that of the first
BEGIN;                                                                                                -- no request: twice in the view, but not at the end
INSERT INTO user_custom_fields (user_id, name, value) VALUES (1, 'user_field_1', '9845765231');
DELETE FROM user_custom_fields WHERE value = '9845765231';
COMMIT;
DELETE FROM group_users WHERE user_id = 2;                                                            -- leaves: the constant of on_leave
UPDATE user_profiles SET location = 'Nowhere' WHERE user_id = 2;                                      -- no request
UPDATE user_profiles SET location = 'Goa' WHERE user_id = 2;                                          -- no request
INSERT INTO group_users (group_id, user_id) VALUES (1, 2);                                            -- comes in again
INSERT INTO group_users (group_id, user_id) VALUES (1, 7);                                            -- comes in
BEGIN;                                                                                                -- 7 is merged into 5: the constant of on_delete, and a city
UPDATE user_profiles SET location = 'Thane' WHERE user_id = 5;
DELETE FROM user_emails WHERE user_id = 7;
DELETE FROM group_users WHERE user_id = 7;
DELETE FROM users WHERE id = 7;
COMMIT;
BEGIN;                                                                                                -- 1 gets a new phone, 2 that of 1
UPDATE user_custom_fields SET value = '9845765221x' WHERE user_id = 2 AND name = 'user_field_1';
UPDATE user_custom_fields SET value = '+91 98457 65230' WHERE user_id = 1 AND name = 'user_field_1';
UPDATE user_custom_fields SET value = '9845765220' WHERE user_id = 2 AND name = 'user_field_1';
COMMIT;
TRUNCATE user_profiles;                                                                               -- no request: Kapture cannot empty fields
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('Asha Rao', '9845765230', 'asha@example.com', 'Mysore', 'Rao Ltd', 'discourse'),
	('ravi', '9845765220', 'ravi@example.com', 'Goa', 'Rao Ltd', 'discourse'),
	('Two Mails', NULL, 'second@example.com', 'Thane', 'Two Ltd', 'discourse'),
	('No Group', NULL, 'nogroup@example.com', NULL, NULL, 'deleted');
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 1), ('update', 10), ('get', 1);
