-- 19 listmonk: subscribers, lists, subscriber_lists. Facts of knadh/listmonk schema.sql @02726179.
-- @tables
-- Phone and city are in a document, the status of a subscription in a table of its own that cascades, double opt-in, an upsert by email.
CREATE TYPE list_type AS ENUM ('public', 'private', 'temporary'); CREATE TYPE list_optin AS ENUM ('single', 'double');
CREATE TYPE subscriber_status AS ENUM ('enabled', 'disabled', 'blocklisted'); CREATE TYPE subscription_status AS ENUM ('unconfirmed', 'confirmed', 'unsubscribed');
CREATE TABLE subscribers (id serial PRIMARY KEY, uuid uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(), email text NOT NULL UNIQUE, name text NOT NULL, attribs jsonb NOT NULL DEFAULT '{}', status subscriber_status NOT NULL DEFAULT 'enabled', campaigns int[], created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE UNIQUE INDEX idx_subs_email ON subscribers (lower(email));
CREATE TABLE lists (id serial PRIMARY KEY, uuid uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(), name text NOT NULL, type list_type NOT NULL, optin list_optin NOT NULL DEFAULT 'single', tags varchar(100)[], created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now());
CREATE TABLE subscriber_lists (subscriber_id int REFERENCES subscribers ON DELETE CASCADE ON UPDATE CASCADE, list_id int REFERENCES lists ON DELETE CASCADE ON UPDATE CASCADE, status subscription_status NOT NULL DEFAULT 'unconfirmed', created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), PRIMARY KEY (subscriber_id, list_id));
INSERT INTO lists (name, type, optin) VALUES ('News', 'public', 'double'), ('Offers', 'private', 'single'), ('Test', 'temporary', 'single'), ('Twins', 'private', 'single');
INSERT INTO subscribers (email, name, attribs, status) VALUES
	('Asha@Example.com', 'Asha Rao', '{"city": "Mysore", "phone": "+91 98457 65220", "tags": ["a", "b"]}', 'enabled'),
	('ravi@example.com', 'Ravi', '{}', 'enabled'), ('blocked@example.com', 'Blocked', '{"phone": "9845765222"}', 'blocklisted'),
	('unconfirmed@example.com', 'Unconfirmed', '{}', 'enabled'), ('gone@example.com', 'Gone Away', '{}', 'enabled'), ('temporary@example.com', 'Temporary', '{}', 'enabled'),
	('one@example.com', 'Twin One', '{"phone": "098457-65227"}', 'enabled'), ('two@example.com', 'Twin Two', '{"phone": 9845765227}', 'enabled'),
	('odd@example.com', 'Odd', '{"phone": {"mobile": "9845765229"}, "city": null}', 'enabled');
INSERT INTO subscriber_lists (subscriber_id, list_id, status) VALUES (1, 1, 'confirmed'), (1, 2, 'unconfirmed'), (2, 1, 'unconfirmed'), (2, 2, 'unconfirmed'), (3, 1, 'confirmed'), (4, 1, 'unconfirmed'), (5, 2, 'unsubscribed'), (6, 3, 'unconfirmed'), (7, 4, 'unconfirmed'), (8, 4, 'unconfirmed'), (9, 2, 'confirmed');
-- @attach
CREATE VIEW crm_subscriptions AS
SELECT s.subscriber_id, string_agg(l.name, ', ' ORDER BY l.name) AS names FROM subscriber_lists s JOIN lists l ON l.id = s.list_id
WHERE l.type <> 'temporary' AND (s.status = 'confirmed' OR s.status = 'unconfirmed' AND l.optin = 'single') GROUP BY 1;
CREATE VIEW crm_subscribers AS
SELECT s.id, s.name AS customer_name, lower(s.email) AS email_id, kapture_phone(s.attribs ->> 'phone') AS phone, s.attribs ->> 'city' AS city, n.names AS campaign_name, s.status::text AS "secSource"
FROM subscribers s JOIN crm_subscriptions n ON n.subscriber_id = s.id WHERE s.status <> 'blocklisted';
SELECT kapture_attach('subscribers', source => 'crm_subscribers', on_leave => '{"campaign_name": "unsubscribed"}', on_delete => '{"campaign_name": "deleted"}');
SELECT kapture_follow('subscriber_lists', 'subscribers', 'target.id = source.subscriber_id');
SELECT kapture_follow('lists', 'subscribers', 'target.id IN (SELECT s.subscriber_id FROM subscriber_lists s WHERE s.list_id = source.id)');
-- @relations subscribers
-- @expected
CREATE TABLE expected (customer_name text, phone text, email_id text, city text, campaign_name text, "secSource" text, group_id int, n int);
INSERT INTO expected VALUES
	('Asha Rao', '9845765220', 'asha@example.com', 'Mysore', 'News, Offers', 'enabled', NULL, NULL), ('Ravi', NULL, 'ravi@example.com', NULL, 'Offers', 'enabled', NULL, NULL), ('Odd', NULL, 'odd@example.com', NULL, 'Offers', 'enabled', NULL, NULL),
	('Twin One', '9845765227', 'one@example.com', NULL, 'Twins', 'enabled', 1, 1), ('Twin Two', '9845765227', 'two@example.com', NULL, 'Twins', 'enabled', 1, 1);
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
INSERT INTO expected_parked VALUES ('subscribers', '7', 1, 1), ('subscribers', '8', 1, 1);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('Blocked'), ('9845765222'), ('Unconfirmed'), ('Gone'), ('Temporary'), ('9845765229'), ('Test');
-- @changes
UPDATE subscribers SET updated_at = now(), campaigns = '{1,2}';                                        -- no request
UPDATE subscribers SET attribs = attribs || '{"score": 7}' WHERE id = 1;                               -- no request: no value changes
UPDATE subscribers SET attribs = attribs || '{"city": "Hassan"}' WHERE id = 1;
UPDATE lists SET name = 'Deals', updated_at = now() WHERE id = 2;                                      -- Asha, Ravi, Odd
UPDATE lists SET name = 'Trial' WHERE id = 3;                                                          -- no request
UPDATE subscriber_lists SET status = 'confirmed', updated_at = now() WHERE subscriber_id = 2 AND list_id = 1;
UPDATE subscriber_lists SET status = 'unsubscribed' WHERE subscriber_id = 2;                           -- leaves
UPDATE subscriber_lists SET status = 'confirmed' WHERE subscriber_id = 2;                              -- comes back
BEGIN;                                                                                                 -- one Add
INSERT INTO subscribers (email, name) VALUES ('new@example.com', 'New') ON CONFLICT (email) DO UPDATE SET name = EXCLUDED.name;
INSERT INTO subscriber_lists SELECT id, 2, 'confirmed' FROM subscribers WHERE email = 'new@example.com';
COMMIT;
INSERT INTO subscribers (email, name) VALUES ('odd@example.com', 'Odder') ON CONFLICT (email) DO UPDATE SET name = EXCLUDED.name, attribs = subscribers.attribs || '{"phone": "+44 20 7946 0000"}';
UPDATE subscribers SET status = 'blocklisted' WHERE id = 1;                                            -- leaves
DELETE FROM subscribers WHERE id = 1;                                                                  -- and is deleted
DELETE FROM lists WHERE id = 3;                                                                        -- no request
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('Asha Rao', '9845765220', 'asha@example.com', 'Hassan', 'deleted', 'enabled', NULL, NULL), ('Ravi', NULL, 'ravi@example.com', NULL, 'Deals, News', 'enabled', NULL, NULL), ('Odder', NULL, 'odd@example.com', NULL, 'Deals', 'enabled', NULL, NULL), ('New', NULL, 'new@example.com', NULL, 'Deals', 'enabled', NULL, NULL),
	('Twin One', '9845765227', 'one@example.com', NULL, 'Twins', 'enabled', 1, 1), ('Twin Two', '9845765227', 'two@example.com', NULL, 'Twins', 'enabled', 1, 1);
CREATE TABLE expected2_parked (LIKE expected_parked);
INSERT INTO expected2_parked TABLE expected_parked;
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 1), ('update', 10);
