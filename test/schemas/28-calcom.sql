-- 28 Cal.com: Attendee, Booking, EventType, users.
-- @tables
-- A customer has no row of its own: each booking has a row of the attendee, again and again; the first row of an email that is not a member of the house is the customer. Prisma's names and enums.
CREATE TYPE "BookingStatus" AS ENUM ('cancelled', 'accepted', 'rejected', 'pending', 'awaiting_host');
CREATE TABLE users (id serial PRIMARY KEY, username text, name text, email text NOT NULL UNIQUE, "emailVerified" timestamp(3), "timeZone" text NOT NULL DEFAULT 'Europe/London', metadata jsonb);
CREATE TABLE "Booking" (id serial PRIMARY KEY, uid text NOT NULL UNIQUE, "userId" int REFERENCES users, title text NOT NULL, "startTime" timestamp(3) NOT NULL, "endTime" timestamp(3) NOT NULL, status "BookingStatus" NOT NULL DEFAULT 'accepted', responses jsonb, "customInputs" jsonb, "createdAt" timestamp(3) NOT NULL DEFAULT now(), "updatedAt" timestamp(3));
CREATE TABLE "Attendee" (id serial PRIMARY KEY, email text NOT NULL, name text NOT NULL, "timeZone" text NOT NULL, "phoneNumber" text, locale text DEFAULT 'en', "bookingId" int REFERENCES "Booking" ON DELETE CASCADE, "noShow" boolean DEFAULT false);
CREATE INDEX "Attendee_email_idx" ON "Attendee" (email); CREATE INDEX ON "Attendee" (lower(email)); CREATE INDEX "Attendee_bookingId_idx" ON "Attendee" ("bookingId");
INSERT INTO users (username, name, email) VALUES ('host', 'Host', 'host@example.com');
INSERT INTO "Booking" (uid, "userId", title, "startTime", "endTime", status, responses) SELECT 'b' || i, 1, 'Call', '2021-03-14 10:00', '2021-03-14 11:00', CASE WHEN i = 4 THEN 'cancelled' ELSE 'accepted' END::"BookingStatus", jsonb_build_object('location', 'City ' || i) FROM generate_series(1, 6) i;
INSERT INTO "Attendee" (email, name, "timeZone", "phoneNumber", "bookingId") VALUES
	('asha@example.com', 'Asha', 'Asia/Kolkata', NULL, 1), ('Asha@example.com', 'Asha Rao', 'Asia/Kolkata', '+919845765220', 2), ('ravi@example.com', 'Ravi', 'Asia/Kolkata', '+919845765221', 3), ('cancelled@example.com', 'Can Celled', 'UTC', NULL, 4), ('host@example.com', 'Host', 'UTC', NULL, 5), ('+919845765225@sms.cal.com', 'By SMS', 'Asia/Kolkata', '+919845765225', 5);
-- @attach
CREATE VIEW "crmAttendee" AS
SELECT DISTINCT ON (lower(a.email)) a.id, a.name AS customer_name, CASE WHEN a.email NOT LIKE '%@sms.cal.com' THEN lower(a.email) END AS email_id, kapture_phone(a."phoneNumber") AS phone, b.responses ->> 'location' AS city, b.status::text AS zone
FROM "Attendee" a JOIN "Booking" b ON b.id = a."bookingId" WHERE b.status IN ('accepted', 'pending') AND NOT EXISTS (SELECT FROM users u WHERE lower(u.email) = lower(a.email))
ORDER BY lower(a.email), a.id;
SELECT kapture_attach('"Attendee"', source => '"crmAttendee"', id_column => NULL);
SELECT kapture_follow('"Booking"', '"Attendee"', 'target."bookingId" = source.id');
SELECT kapture_follow('"Booking"', '"Attendee"', 'EXISTS (SELECT FROM "Attendee" o WHERE o."bookingId" = source.id AND lower(o.email) = lower(target.email))');
SELECT kapture_follow('"Attendee"', '"Attendee"', 'lower(target.email) = lower(source.email)');
SELECT kapture_follow('users', '"Attendee"', 'lower(target.email) = lower(source.email)');
-- @relations "Attendee"
-- @expected
CREATE TABLE expected (customer_name text, phone text, email_id text, city text, zone text, group_id int, n int);
INSERT INTO expected VALUES ('Asha', NULL, 'asha@example.com', 'City 1', 'accepted', NULL, NULL), ('Ravi', '9845765221', 'ravi@example.com', 'City 3', 'accepted', NULL, NULL), ('By SMS', '9845765225', NULL, 'City 5', 'accepted', NULL, NULL);
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('host@'), ('colleague@');
-- @changes
UPDATE "Attendee" SET "noShow" = true, locale = 'hi';                                                              -- no request
UPDATE "Booking" SET "updatedAt" = now(), title = 'Meeting';                                                       -- no request
BEGIN;                                                                                                             -- no request: books again
INSERT INTO "Booking" (uid, "userId", title, "startTime", "endTime", responses) VALUES ('b7', 1, 'Call', '2021-03-15 10:00', '2021-03-15 11:00', '{"location": "City 7"}');
INSERT INTO "Attendee" (email, name, "timeZone", "phoneNumber", "bookingId") VALUES ('RAVI@example.com', 'Ravi Nair', 'Asia/Kolkata', '+919845765221', 7);
COMMIT;
UPDATE "Booking" SET status = 'cancelled' WHERE uid = 'b1';                                                        -- the other booking of Asha's is the first one
DELETE FROM "Booking" WHERE uid = 'b3';                                                                            -- Ravi's other booking is the first one now
UPDATE "Booking" SET status = 'pending' WHERE uid = 'b7';
BEGIN;                                                                                                             -- no request: a colleague books, who has been a user for long
INSERT INTO users (username, name, email) VALUES ('colleague', 'Colleague', 'Colleague@example.com');
INSERT INTO "Attendee" (email, name, "timeZone", "bookingId") VALUES ('colleague@example.com', 'Colleague', 'UTC', 7);
COMMIT;
UPDATE "Booking" SET status = 'accepted' WHERE uid = 'b4';                                                         -- comes in
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES ('Asha Rao', '9845765220', 'asha@example.com', 'City 2', 'accepted', NULL, NULL), ('Ravi Nair', '9845765221', 'ravi@example.com', 'City 7', 'pending', NULL, NULL), ('By SMS', '9845765225', NULL, 'City 5', 'accepted', NULL, NULL), ('Can Celled', NULL, 'cancelled@example.com', 'City 4', 'accepted', NULL, NULL);
CREATE TABLE expected2_parked (LIKE expected_parked);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('add', 3), ('update', 3), ('get', 4);
