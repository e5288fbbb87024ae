-- 25 Twenty: person, company, of two workspaces. Made after the names of its entities (twentyhq/twenty, person.workspace-entity.ts); not a copy of its schema.
-- @tables
-- A schema for each workspace with tables of the same names, names in mixed case, a phone in three columns (number, country, calling code) and the others in a document, a generated tsvector, soft deletes, keys of uuid.
CREATE SCHEMA workspace_1wgvd1injqtife6y4rvfbu3h5; CREATE SCHEMA "workspace_3ixj3i1a5avy16ptijtb3lae3";
CREATE TYPE workspace_1wgvd1injqtife6y4rvfbu3h5."person_createdBySource_enum" AS ENUM ('EMAIL', 'CALENDAR', 'WORKFLOW', 'API', 'IMPORT', 'MANUAL', 'SYSTEM', 'WEBHOOK');
CREATE TABLE workspace_1wgvd1injqtife6y4rvfbu3h5.company (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "createdAt" timestamptz NOT NULL DEFAULT now(), "updatedAt" timestamptz NOT NULL DEFAULT now(), "deletedAt" timestamptz, name text NOT NULL DEFAULT '', "addressAddressCity" text NOT NULL DEFAULT '', "addressAddressState" text NOT NULL DEFAULT '', employees double precision, position double precision NOT NULL DEFAULT 0);
CREATE TABLE workspace_1wgvd1injqtife6y4rvfbu3h5.person (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "createdAt" timestamptz NOT NULL DEFAULT now(), "updatedAt" timestamptz NOT NULL DEFAULT now(), "deletedAt" timestamptz, "nameFirstName" text NOT NULL DEFAULT '', "nameLastName" text NOT NULL DEFAULT '', "emailsPrimaryEmail" text NOT NULL DEFAULT '', "emailsAdditionalEmails" jsonb, "phonesPrimaryPhoneNumber" text NOT NULL DEFAULT '', "phonesPrimaryPhoneCountryCode" text NOT NULL DEFAULT '', "phonesPrimaryPhoneCallingCode" text NOT NULL DEFAULT '', "phonesAdditionalPhones" jsonb, "jobTitle" text NOT NULL DEFAULT '', city text NOT NULL DEFAULT '', "avatarUrl" text NOT NULL DEFAULT '', position double precision NOT NULL DEFAULT 0, "createdBySource" workspace_1wgvd1injqtife6y4rvfbu3h5."person_createdBySource_enum" NOT NULL DEFAULT 'MANUAL', "createdByName" text NOT NULL DEFAULT 'System', "companyId" uuid REFERENCES workspace_1wgvd1injqtife6y4rvfbu3h5.company ON DELETE SET NULL,
	"searchVector" tsvector GENERATED ALWAYS AS (to_tsvector('simple', coalesce("nameFirstName", '') || ' ' || coalesce("nameLastName", '') || ' ' || coalesce("emailsPrimaryEmail", ''))) STORED);
CREATE UNIQUE INDEX "IDX_UNIQUE_bbd7aec1976fc684a0a5e4816c9" ON workspace_1wgvd1injqtife6y4rvfbu3h5.person ("emailsPrimaryEmail") WHERE "deletedAt" IS NULL AND "emailsPrimaryEmail" <> '';
CREATE INDEX ON workspace_1wgvd1injqtife6y4rvfbu3h5.person ("companyId");
CREATE TABLE "workspace_3ixj3i1a5avy16ptijtb3lae3".person (LIKE workspace_1wgvd1injqtife6y4rvfbu3h5.person INCLUDING ALL);
INSERT INTO workspace_1wgvd1injqtife6y4rvfbu3h5.company (id, name, "addressAddressCity") VALUES ('00000000-0000-4000-8000-00000000000a', 'Deepa Traders', 'Mysore'), ('00000000-0000-4000-8000-00000000000b', 'Empty', '');
INSERT INTO workspace_1wgvd1injqtife6y4rvfbu3h5.person (id, "nameFirstName", "nameLastName", "emailsPrimaryEmail", "phonesPrimaryPhoneNumber", "phonesPrimaryPhoneCountryCode", "phonesPrimaryPhoneCallingCode", "phonesAdditionalPhones", city, "createdBySource", "companyId", "deletedAt") VALUES
	('20202020-0000-4000-8000-000000000001', 'Asha', 'Rao', 'Asha@Example.com', '98457 65220', 'IN', '+91', '[{"number": "9845765230", "countryCode": "IN", "callingCode": "+91"}]', '', 'MANUAL', '00000000-0000-4000-8000-00000000000a', NULL),
	('20202020-0000-4000-8000-000000000002', 'Ravi', '', '', '9845765221', '', '', NULL, 'Pune', 'IMPORT', NULL, NULL),
	('20202020-0000-4000-8000-000000000003', 'Jo', 'Smith', 'jo@example.com', '9845765222', 'US', '+1', '[]', 'Austin', 'API', '00000000-0000-4000-8000-00000000000b', NULL),
	('20202020-0000-4000-8000-000000000004', 'Tim', 'Apple', 'tim@example.com', '', '', '', NULL, '', 'CALENDAR', NULL, NULL),
	('20202020-0000-4000-8000-000000000005', 'De', 'Leted', 'deleted@example.com', '9845765225', 'IN', '+91', NULL, '', 'MANUAL', NULL, now()),
	('20202020-0000-4000-8000-000000000006', 'Asha', 'R.', 'rao@example.com', '9845765229', 'IN', '+91', NULL, '', 'MANUAL', NULL, NULL);
INSERT INTO "workspace_3ixj3i1a5avy16ptijtb3lae3".person (id, "nameFirstName", "nameLastName", "emailsPrimaryEmail", city) VALUES ('20202020-0000-4000-8000-000000000001', 'Asha', 'Other', 'asha@example.com', 'Hassan');
-- @servers one, two
-- @attach
CREATE VIEW crm_person AS
SELECT p.id, nullif(btrim(p."nameFirstName" || ' ' || p."nameLastName"), '') AS customer_name, lower(nullif(p."emailsPrimaryEmail", '')) AS email_id,
	CASE WHEN p."phonesPrimaryPhoneCallingCode" IN ('', '+91') THEN kapture_phone(p."phonesPrimaryPhoneNumber") END AS phone, kapture_phone(p."phonesAdditionalPhones" -> 0 ->> 'number') AS additional_contact_phone,
	coalesce(nullif(p.city, ''), nullif(c."addressAddressCity", '')) AS city, c.name AS "secSource", p."createdBySource"::text AS "tertSource"
FROM workspace_1wgvd1injqtife6y4rvfbu3h5.person p LEFT JOIN workspace_1wgvd1injqtife6y4rvfbu3h5.company c ON c.id = p."companyId" AND c."deletedAt" IS NULL;
SELECT kapture_attach('workspace_1wgvd1injqtife6y4rvfbu3h5.person', server => 'one', source => 'crm_person', filter => $$"deletedAt" IS NULL AND "createdBySource" NOT IN ('EMAIL', 'CALENDAR')$$, id_column => 'kaptureId', on_leave => '{"campaign_name": "deleted"}');
SELECT kapture_follow('workspace_1wgvd1injqtife6y4rvfbu3h5.company', 'workspace_1wgvd1injqtife6y4rvfbu3h5.person', 'target."companyId" = source.id');
SELECT kapture_attach('workspace_3ixj3i1a5avy16ptijtb3lae3.person', server => 'two', filter => '"deletedAt" IS NULL', id_column => NULL,
	columns => '{"customer_name": {"expression": "btrim(\"nameFirstName\" || '' '' || \"nameLastName\")"}, "email_id": {"expression": "lower(\"emailsPrimaryEmail\")"}, "phone": {"expression": "CASE WHEN \"phonesPrimaryPhoneCallingCode\" IN ('''', ''+91'') THEN kapture_phone(\"phonesPrimaryPhoneNumber\") END"}, "city": "city", "tertSource": "createdBySource"}');
-- @relations workspace_1wgvd1injqtife6y4rvfbu3h5.person, workspace_3ixj3i1a5avy16ptijtb3lae3.person
-- @expected
CREATE TABLE expected (server text, customer_name text, phone text, email_id text, city text, "secSource" text, "tertSource" text, additional_contact_phone text, campaign_name text, group_id int, n int);
INSERT INTO expected VALUES
	('one', 'Asha Rao', '9845765220', 'asha@example.com', 'Mysore', 'Deepa Traders', 'MANUAL', '9845765230'), ('one', 'Ravi', '9845765221', NULL, 'Pune', NULL, 'IMPORT', NULL), ('one', 'Jo Smith', NULL, 'jo@example.com', 'Austin', 'Empty', 'API', NULL),
	('one', 'Asha R.', '9845765229', 'rao@example.com', NULL, NULL, 'MANUAL', NULL), ('two', 'Asha Other', NULL, 'asha@example.com', 'Hassan', NULL, 'MANUAL', NULL);
CREATE TABLE expected_parked (relation text, row_key text, group_id int, n int);
CREATE TABLE expected_never (value text);
INSERT INTO expected_never VALUES ('Apple'), ('tim@'), ('Leted'), ('9845765225');
-- @changes
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.person SET position = position + 1, "avatarUrl" = 'a.png', "updatedAt" = now();              -- no request
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.company SET employees = 7, "updatedAt" = now();                                             -- no request
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.company SET "addressAddressCity" = 'Mysuru';                                                -- Asha, Jo has a city of her own
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.company SET "deletedAt" = now() WHERE name = 'Deepa Traders';                                -- no request: city and company cannot be emptied
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.company SET "deletedAt" = NULL;                                                              -- no request: as they were
BEGIN;                                                                                                                                -- two people are merged, who both are customers: Kapture has the email at the other one still, and this row is parked
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.person SET "deletedAt" = now() WHERE id = '20202020-0000-4000-8000-000000000006';
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.person SET "emailsPrimaryEmail" = 'rao@example.com', "emailsAdditionalEmails" = '["asha@example.com"]' WHERE id = '20202020-0000-4000-8000-000000000001';
COMMIT;
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.person SET "createdBySource" = 'MANUAL' WHERE "nameFirstName" = 'Tim' AND false;             -- no request
ALTER TYPE workspace_1wgvd1injqtife6y4rvfbu3h5."person_createdBySource_enum" RENAME VALUE 'API' TO 'REST';                             -- no request: nothing notices
UPDATE workspace_1wgvd1injqtife6y4rvfbu3h5.person SET "phonesPrimaryPhoneCallingCode" = '+91' WHERE "nameFirstName" = 'Jo';            -- a phone
UPDATE "workspace_3ixj3i1a5avy16ptijtb3lae3".person SET "deletedAt" = now();                                                           -- no request
UPDATE "workspace_3ixj3i1a5avy16ptijtb3lae3".person SET "deletedAt" = NULL;                                                            -- comes back, whole
ALTER SCHEMA "workspace_3ixj3i1a5avy16ptijtb3lae3" RENAME TO "Archive 3";                                                              -- no request
UPDATE "Archive 3".person SET "nameLastName" = 'Another';
ALTER TABLE "Archive 3".person RENAME "nameLastName" TO "familyName";                                                                  -- no request
UPDATE "Archive 3".person SET "familyName" = '';
DROP TABLE "Archive 3".person CASCADE;                                                                                                 -- no request
-- @expected_after
CREATE TABLE expected2 (LIKE expected);
INSERT INTO expected2 VALUES
	('one', 'Asha Rao', '9845765220', 'asha@example.com', 'Mysuru', 'Deepa Traders', 'MANUAL', '9845765230', NULL), ('one', 'Ravi', '9845765221', NULL, 'Pune', NULL, 'IMPORT', NULL, NULL), ('one', 'Jo Smith', '9845765222', 'jo@example.com', 'Austin', 'Empty', 'REST', NULL, NULL),
	('one', 'Asha R.', '9845765229', 'rao@example.com', NULL, NULL, 'MANUAL', NULL, 'deleted'), ('two', 'Asha', NULL, 'asha@example.com', 'Hassan', NULL, 'MANUAL', NULL, NULL);
CREATE TABLE expected2_parked (LIKE expected_parked);
INSERT INTO expected2_parked VALUES ('workspace_1wgvd1injqtife6y4rvfbu3h5.person', '20202020-0000-4000-8000-000000000001', NULL, NULL);
CREATE TABLE expected_requests (api text, max int);
INSERT INTO expected_requests VALUES ('update', 9), ('get', 3), ('add', 0);
