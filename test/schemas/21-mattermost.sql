-- 21 Mattermost: users, bots, preferences, teams, teammembers.
-- @tables
-- Keys of 26 letters, milliseconds for times (0: not deleted), documents for what is left, members of a team with a key of two columns that are deleted and come back.
CREATE TABLE users (id varchar(26) PRIMARY KEY, createat bigint, updateat bigint, deleteat bigint, username varchar(64) UNIQUE, password varchar(128), authdata varchar(128) UNIQUE, authservice varchar(32), email varchar(128) UNIQUE, emailverified boolean, nickname varchar(64), firstname varchar(64), lastname varchar(64), roles varchar(256), allowmarketing boolean, props jsonb, notifyprops jsonb, lastpasswordupdate bigint, lastpictureupdate bigint, failedattempts int, locale varchar(5), mfaactive boolean, mfasecret varchar(128), "position" varchar(128), timezone jsonb, remoteid varchar(26), lastlogin bigint NOT NULL DEFAULT 0);
CREATE INDEX idx_users_all_txt ON users USING gin (to_tsvector('english', (((((username::text || ' ' || firstname::text) || ' ' || lastname::text) || ' ' || nickname::text) || ' ' || email::text))));
CREATE TABLE bots (userid varchar(26) PRIMARY KEY, description varchar(1024), ownerid varchar(190), createat bigint, updateat bigint, deleteat bigint);
CREATE TYPE team_type AS ENUM ('I', 'O');
CREATE TABLE teams (id varchar(26) PRIMARY KEY, createat bigint, updateat bigint, deleteat bigint, displayname varchar(64), name varchar(64) UNIQUE, type team_type, email varchar(128));
CREATE TABLE teammembers (teamid varchar(26) NOT NULL, userid varchar(26) NOT NULL, roles varchar(256), deleteat bigint, schemeuser boolean, schemeadmin boolean, schemeguest boolean, createat bigint DEFAULT 0, PRIMARY KEY (teamid, userid));
CREATE INDEX ON teammembers (userid);
INSERT INTO teams (id, createat, updateat, deleteat, displayname, name, type) VALUES ('team1', 1, 1, 0, 'Buyers', 'buyers', 'O'), ('team2', 1, 1, 0, 'Staff', 'staff', 'I'), ('team3', 1, 1, 0, 'Resellers', 'resellers', 'O');
INSERT INTO users (id, createat, updateat, deleteat, username, email, emailverified, nickname, firstname, lastname, allowmarketing, props) VALUES
	('asha1', 1, 1, 0, 'asha', 'asha@example.com', true, '', 'Asha', 'Rao', true, '{"customAttributes": {"phone": "+91 98457 65220"}, "last_search_pointer": "1"}'),
	('ravi1', 1, 1, 0, 'ravi', 'ravi@example.com', true, 'Ravi N', '', '', true, '{}'),
	('bot01', 1, 1, 0, 'helpbot', 'helpbot@localhost', true, '', 'Help', 'Bot', true, '{}'),
	('gone1', 1, 1, 1700000000000, 'gone', 'gone@example.com', true, '', 'Gone', '', true, '{"customAttributes": {"phone": "9845765222"}}'),
	('staff', 1, 1, 0, 'staff', 'staff@example.com', true, '', 'Staff', '', true, '{}'),
	('unver', 1, 1, 0, 'unver', 'unver@example.com', false, '', 'Unverified', '', true, '{}'),
	('noteam', 1, 1, 0, 'noteam', 'noteam@example.com', true, '', '', '', true, NULL),
	('both1', 1, 1, 0, 'both', 'both@example.com', true, '', 'In Both', '', true, '{"customAttributes": {"phone": ["9845765223", "9845765224"]}}');
INSERT INTO bots (userid, ownerid) VALUES ('bot01', 'staff');
INSERT INTO teammembers (teamid, userid, deleteat) VALUES ('team1', 'asha1', 0), ('team1', 'ravi1', 0), ('team1', 'bot01', 0), ('team1', 'gone1', 0), ('team2', 'staff', 0), ('team1', 'unver', 0), ('team1', 'noteam', 1600000000000), ('team1', 'both1', 0), ('team3', 'both1', 0);
-- @attach
CREATE VIEW crm_members AS
SELECT m.userid, string_agg(t.displayname, ', ' ORDER BY t.displayname) AS teams FROM teammembers m JOIN teams t ON t.id = m.teamid
WHERE m.deleteat = 0 AND t.deleteat = 0 AND t.type = 'O' GROUP BY m.userid;
CREATE VIEW crm_users AS
SELECT u.id, coalesce(nullif(concat_ws(' ', nullif(u.firstname, ''), nullif(u.lastname, '')), ''), nullif(u.nickname, ''), u.username) AS customer_name, u.email AS email_id,
	coalesce(kapture_phone(u.props #>> '{customAttributes,phone}'), kapture_phone(u.props #>> '{customAttributes,phone,0}')) AS phone, kapture_phone(u.props #>> '{customAttributes,phone,1}') AS additional_contact_phone, m.teams AS "secSource"
FROM users u JOIN crm_members m ON m.userid = u.id LEFT JOIN bots b ON b.userid = u.id WHERE b.userid IS NULL;
SELECT kapture_attach('users', source => 'crm_users', filter => 'deleteat = 0 AND emailverified AND allowmarketing', id_column => NULL, on_leave => '{"campaign_name": "inactive"}');
SELECT kapture_follow('teammembers', 'users', 'target.id = source.userid');
SELECT kapture_follow('teams', 'users', 'target.id IN (SELECT m.userid FROM teammembers m WHERE m.teamid = source.id)');
SELECT kapture_follow('bots', 'users', 'target.id = source.userid');
-- @relations users
-- @expected
CREATE TABLE expected (customer_name text, phone text, email_id text, additional_contact_phone text, "secSource" text, campaign_name text, group_id int, n int);
INSERT INTO expected VALUES
	('Asha Rao', '9845765220', 'asha@example.com', NULL, 'Buyers', NULL, NULL, NULL), ('Ravi N', NULL, 'ravi@example.com', NULL, 'Buyers', NULL, NULL, NULL),
	('In Both', '9845765223', 'both@example.com', '9845765224', 'Buyers, Resellers', NULL, NULL, NULL);
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('helpbot'), ('gone@'), ('9845765222'), ('Staff'), ('Unverified'), ('noteam');
-- @changes
UPDATE users SET lastlogin = 5, updateat = 5, failedattempts = 0;                                                       -- no request
UPDATE users SET props = props || '{"last_search_pointer": "9"}';                                                       -- no request: no value changes
UPDATE teammembers SET roles = 'team_user', schemeuser = true;                                                          -- no request
UPDATE users SET props = jsonb_set(props, '{customAttributes,phone}', '"098457 65220"') WHERE id = 'asha1';             -- no request: the same phone
UPDATE teams SET displayname = 'Customers', updateat = 6 WHERE id = 'team1';                                            -- Asha, Ravi, In Both
UPDATE teammembers SET deleteat = 7 WHERE teamid = 'team3' AND userid = 'both1';
UPDATE teammembers SET deleteat = 0 WHERE teamid = 'team3' AND userid = 'both1';
BEGIN;                                                                                                                  -- signs up: a user, then a member, then verified; one Add
INSERT INTO users (id, createat, updateat, deleteat, username, email, emailverified, firstname, lastname, nickname, allowmarketing, props) VALUES ('new01', 8, 8, 0, 'new', 'new@example.com', false, 'New', 'User', '', true, '{}');
INSERT INTO teammembers (teamid, userid, deleteat) VALUES ('team1', 'new01', 0);
UPDATE users SET emailverified = true WHERE id = 'new01';
COMMIT;
INSERT INTO teammembers (teamid, userid, deleteat) VALUES ('team1', 'both1', 0) ON CONFLICT (teamid, userid) DO UPDATE SET deleteat = EXCLUDED.deleteat;   -- no request
BEGIN;                                                                                                                  -- no request: a bot is made, as a user first
INSERT INTO users (id, createat, updateat, deleteat, username, email, emailverified, firstname, allowmarketing, props) VALUES ('bot02', 8, 8, 0, 'salesbot', 'salesbot@localhost', true, '', true, '{}');
INSERT INTO teammembers (teamid, userid, deleteat) VALUES ('team1', 'bot02', 0);
INSERT INTO bots (userid, ownerid) VALUES ('bot02', 'staff');
COMMIT;
UPDATE users SET deleteat = 9 WHERE id = 'ravi1';                                                                       -- leaves
UPDATE users SET firstname = 'Ravindra' WHERE id = 'ravi1';                                                             -- no request
UPDATE users SET deleteat = 0 WHERE id = 'ravi1';                                                                       -- comes back, whole
UPDATE teams SET deleteat = 10 WHERE id = 'team1';                                                                      -- Asha, Ravi and New leave, In Both has one team left
BEGIN;                                                                                                                  -- no request: a column gets longer, and the views are made again
DROP VIEW crm_users;
ALTER TABLE users ALTER firstname TYPE varchar(128);
CREATE VIEW crm_users AS
SELECT u.id, coalesce(nullif(concat_ws(' ', nullif(u.firstname, ''), nullif(u.lastname, '')), ''), nullif(u.nickname, ''), u.username) AS customer_name, u.email AS email_id,
	coalesce(kapture_phone(u.props #>> '{customAttributes,phone}'), kapture_phone(u.props #>> '{customAttributes,phone,0}')) AS phone, kapture_phone(u.props #>> '{customAttributes,phone,1}') AS additional_contact_phone, m.teams AS "secSource"
FROM users u JOIN crm_members m ON m.userid = u.id LEFT JOIN bots b ON b.userid = u.id WHERE b.userid IS NULL;
COMMIT;
UPDATE users SET lastname = 'Rao', updateat = 11 WHERE id = 'both1';
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('Asha Rao', '9845765220', 'asha@example.com', NULL, 'Customers', 'inactive', NULL, NULL), ('Ravindra', NULL, 'ravi@example.com', NULL, 'Customers', 'inactive', NULL, NULL),
	('In Both Rao', '9845765223', 'both@example.com', '9845765224', 'Resellers', NULL, NULL, NULL), ('New User', NULL, 'new@example.com', NULL, 'Customers', 'inactive', NULL, NULL);
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 1), ('update', 12);
