-- Plain words for every failure of Kapture's document, and for the worker's own.
\pset format unaligned
SELECT status, left(message, 50) AS message, kapture_hint(message, status) AS hint FROM (VALUES
	-- Add, Update
	(401, 'Invalid Auth Key'),
	(400, 'Name and (Phone Number or Email Id) are required fields'),
	(400, 'Invalid email id.'),
	(400, E'Invalid phone number,\nnumber must contain 10 digits and must start from 6 or above'),
	(400, 'This mobile number already exists. Please enter a new one.'),
	(400, E'This email-id\nalready exists. Please enter a new one.'),
	(400, ' ,Both email and mobile number already exist. Please enter new details.'),
	-- Pull, Get
	(200, 'No customer between dates.'),
	(200, 'Information given by you does not exist in our sytsem.')) AS f(status, message);
SELECT status, left(message, 50) AS message, kapture_hint(message, status) AS hint FROM (VALUES
	(NULL, 'no answer from Kapture: Could not resolve host: x (resolving the host name failed)'),
	(NULL, 'no answer from Kapture: Failed to connect (connecting failed, limited by connect_timeout)'),
	(NULL, 'no answer from Kapture: certificate has expired (the TLS handshake failed)'),
	(NULL, 'no answer from Kapture: SSL connection timeout (the TLS handshake, limited by connect_timeout failed)'),
	(NULL, 'no answer from Kapture: SSL certificate problem: self-signed certificate (the TLS handshake failed: its issuer is not trusted here)'),
	(NULL, 'no answer from Kapture: wrong version number (the TLS handshake failed: the port does not speak TLS)'),
	(NULL, 'no answer from Kapture: the answer is too large (reading the answer failed, limited by max_response_size)'),
	(NULL, 'no answer from Kapture: plain http (waiting for the answer failed, limited by allow_http)'),
	(NULL, 'no answer from Kapture: Timeout was reached (waiting for the answer failed, limited by timeout)'),
	(200, 'the phone belongs to Kapture customer 1, the email to Kapture customer 2'),
	(200, 'Kapture says that the customer exists, but does not find it by phone or email'),
	(200, 'Kapture customer 1 belongs to the row with key "7" of table public.customers already'),
	(200, 'Kapture customer 1 belongs to a row of another owner''s table already'),
	(200, 'the row with key "7" of table public.customers, which has this phone or email, is being added to Kapture'),
	(200, 'the row is locked; its Kapture customer id is written later'),
	(200, 'other tables come first; the Kapture customer id is written later'),
	(NULL, 'value too long: column "city" has 1048577 bytes, at most 1048576 are sent'),
	(NULL, 'values too long: the mapped columns have 3000000 bytes together, at most 2097152 are sent'),
	(NULL, 'a trigger, check or function of the table took longer than 5 s'),
	(NULL, 'view public.people has several rows with this key'),
	(NULL, 'Kapture customer 7 has this phone or email; its row, with key "1" of table public.t, was deleted or has left'),
	(NULL, 'a trigger, check or function of the table took no notice of being cancelled; the worker had to end for it'),
	(NULL, 'a trigger, check or function of the table raised a FATAL error; the worker had to end for it'),
	(NULL, 'the functions that triggers and checks of the table call take too much memory; the worker had to end for it'),
	(200, 'writing the Kapture customer id back changed no row; a trigger or rule of the table prevents it'),
	(NULL, 'a trigger of the table has put another value in place of the Kapture customer id'),
	(NULL, 'the primary key of table "t" has changed since the row was captured')) AS f(status, message);
SELECT status, kapture_hint('something else', status) AS hint
FROM unnest(ARRAY[NULL, 200, 302, 400, 401, 403, 404, 422, 429, 500, 503]) AS status;
SELECT kapture_hint(NULL, NULL) IS NULL AS unknown, kapture_hint(NULL, 429) AS throttled;
-- by the call; none: the table itself
SELECT api, left(message, 50) AS message, kapture_hint(message, 200, api) AS hint FROM (VALUES
	('add', 'This mobile number already exists. Please enter a new one.'),
	('update', 'This mobile number already exists. Please enter a new one.'),
	('update', E'This email-id\nalready exists. Please enter a new one.'),
	('update', ' ,Both email and mobile number already exist. Please enter new details.'),
	('update', 'Customer does not exist.'),
	('add', 'Kapture''s answer is about another customer: its phone is not the one that was sent'),
	('add', 'Kapture''s answer has two customer ids, 1 and 2'),
	('get', 'something else'),
	('add', 'Zone is mandatory'),
	('add', 'Internal Server Error'),
	('add', 'Kapture answered with HTTP code 200'),
	(NULL, 'new row for relation "t" violates check constraint "c"'),
	(NULL, 'the row is locked; its Kapture customer id is written later'),
	(NULL, NULL)) AS f(api, message);
