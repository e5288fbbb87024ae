--
-- Functions, procedures and triggers.  Also a part of upgrade scripts; there, a
-- function whose arguments changed is dropped behind, one whose result changed before.
--

--
-- Capture, and what the worker needs
--

CREATE OR REPLACE FUNCTION @extschema@.kapture_capture() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'kapture_capture';
COMMENT ON FUNCTION @extschema@.kapture_capture() IS 'internal: trigger of attached tables: notes the changed row in the outbox';

CREATE OR REPLACE FUNCTION @extschema@.kapture_library_version() RETURNS text
LANGUAGE C STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME', 'kapture_library_version';
COMMENT ON FUNCTION @extschema@.kapture_library_version() IS 'version of the extension that the loaded library works with';

CREATE OR REPLACE FUNCTION @extschema@.kapture_worker_start() RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_worker_start';
REVOKE ALL ON FUNCTION @extschema@.kapture_worker_start() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.kapture_worker_start() IS 'internal: asks the launcher, at commit, to start a worker in this database';

CREATE OR REPLACE FUNCTION @extschema@.kapture_worker_pid() RETURNS integer
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_worker_pid';
COMMENT ON FUNCTION @extschema@.kapture_worker_pid() IS 'process id of this database''s worker; NULL: no worker runs';

CREATE OR REPLACE FUNCTION @extschema@.kapture_puller_pid() RETURNS integer
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_puller_pid';
COMMENT ON FUNCTION @extschema@.kapture_puller_pid() IS 'process id of this database''s puller, the process of automatic pulls; NULL: no puller runs';

CREATE OR REPLACE FUNCTION @extschema@.kapture_may_see(attachment_id integer) RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'kapture_may_see';
COMMENT ON FUNCTION @extschema@.kapture_may_see(integer) IS 'internal: does the attached table belong to the current role?';

CREATE OR REPLACE FUNCTION @extschema@.kapture_merge_digests(older bytea, newer bytea) RETURNS bytea
LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kapture_merge_digests';
REVOKE ALL ON FUNCTION @extschema@.kapture_merge_digests(bytea, bytea) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.kapture_merge_digests(bytea, bytea) IS 'internal: merges two digests of kapture_row: takes the newer value where it is known, otherwise the older value';

CREATE OR REPLACE FUNCTION @extschema@.kapture_seen_digests(digests bytea, server oid, customer_id bigint, bits smallint[], fields text[], names text[], seen text[])
RETURNS bytea
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_seen_digests';
REVOKE ALL ON FUNCTION @extschema@.kapture_seen_digests(bytea, oid, bigint, smallint[], text[], text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.kapture_seen_digests(bytea, oid, bigint, smallint[], text[], text[], text[]) IS
'internal: digests of kapture_row, without those of fields for which Kapture was seen to have another value';

--
-- Connections and direct calls
--

CREATE OR REPLACE FUNCTION @extschema@.kapture_fdw_validator(text[], oid) RETURNS void
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'kapture_fdw_validator';
COMMENT ON FUNCTION @extschema@.kapture_fdw_validator(text[], oid) IS 'internal: checks the options of servers, user mappings and foreign tables';

CREATE OR REPLACE FUNCTION @extschema@.kapture_fdw_handler() RETURNS fdw_handler
LANGUAGE C STRICT AS 'MODULE_PATHNAME', 'kapture_fdw_handler';
COMMENT ON FUNCTION @extschema@.kapture_fdw_handler() IS 'internal: customers and contacts of Kapture as foreign tables';

CREATE OR REPLACE FUNCTION @extschema@.kapture_server_states(
	OUT server name, OUT owner oid, OUT state text, OUT since timestamptz,
	OUT retry_at timestamptz, OUT message text)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_server_states';
COMMENT ON FUNCTION @extschema@.kapture_server_states() IS
'internal: state of the servers that the worker of this database sends to: ok, misconfigured, denied, refusing, throttled, failing, outdated';

CREATE OR REPLACE FUNCTION @extschema@.kapture_add_customer(customer jsonb, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_add_customer';
COMMENT ON FUNCTION @extschema@.kapture_add_customer(jsonb, name) IS
'adds a customer to Kapture and returns Kapture''s answer; raises an error if there is no answer';

CREATE OR REPLACE FUNCTION @extschema@.kapture_update_customer(customer jsonb, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_update_customer';
COMMENT ON FUNCTION @extschema@.kapture_update_customer(jsonb, name) IS
'changes the given fields of the customer that kapture_customer_id names, and returns Kapture''s answer; raises an error if there is no answer';

CREATE OR REPLACE FUNCTION @extschema@.kapture_get_customer(criteria jsonb, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_get_customer';
COMMENT ON FUNCTION @extschema@.kapture_get_customer(jsonb, name) IS
'searches a customer by kapture_customer_id, customer_id, phone or email_id, and returns Kapture''s answer; raises an error if there is no answer';

CREATE OR REPLACE FUNCTION @extschema@.kapture_pull(start_date timestamp, end_date timestamp, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_pull';
COMMENT ON FUNCTION @extschema@.kapture_pull(timestamp, timestamp, name) IS
'returns Kapture''s answer with the customers generated between two times in the account''s time zone; long ranges are fetched in windows (option pull_window)';

-- Instants, and what would become instants if it were not for these: literals and
-- days, which are the account's.
CREATE OR REPLACE FUNCTION @extschema@.kapture_pull(start_date timestamptz, end_date timestamptz, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_pull';
COMMENT ON FUNCTION @extschema@.kapture_pull(timestamptz, timestamptz, name) IS
'returns Kapture''s answer with the customers generated between two instants, which are converted to the account''s time zone';

CREATE OR REPLACE FUNCTION @extschema@.kapture_pull(start_date date, end_date date, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_pull';
COMMENT ON FUNCTION @extschema@.kapture_pull(date, date, name) IS
'returns Kapture''s answer with the customers generated between two days of the account';

CREATE OR REPLACE FUNCTION @extschema@.kapture_pull(start_date text, end_date text, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_pull';
COMMENT ON FUNCTION @extschema@.kapture_pull(text, text, name) IS
'returns Kapture''s answer with the customers generated between two times in the account''s time zone, given as text';

CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_now(server name DEFAULT 'kapture') RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_pull_now';
COMMENT ON FUNCTION @extschema@.kapture_pull_now(name) IS
'starts an automatic pull from a server with option pull_interval at once, after the commit; only for the server''s owner, for example when a webhook arrives';

CREATE OR REPLACE FUNCTION @extschema@.kapture_call(api text, body jsonb, server name DEFAULT 'kapture') RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_call';
COMMENT ON FUNCTION @extschema@.kapture_call(text, jsonb, name) IS
'calls any API of the account, by name (ticket_add, order_add, ...) or path, and returns the answer unchanged; raises an error if there is no answer';

CREATE OR REPLACE FUNCTION @extschema@.kapture_send(api text, body jsonb, server name DEFAULT 'kapture',
	reference text DEFAULT NULL, retry text DEFAULT 'unsent')
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_send_call';
COMMENT ON FUNCTION @extschema@.kapture_send(text, jsonb, name, text, text) IS
'queues a call of any API of the account, which the worker sends after the transaction''s commit; returns the id of the call in kapture_calls; nothing is sent on rollback';

CREATE OR REPLACE FUNCTION @extschema@.kapture_retry_call(call_id bigint) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_retry_call';
COMMENT ON FUNCTION @extschema@.kapture_retry_call(bigint) IS
'sends a call of kapture_send() again at once: one that waits, failed, was discarded, or has an unknown outcome';

CREATE OR REPLACE FUNCTION @extschema@.kapture_discard_call(call_id bigint) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_discard_call';
COMMENT ON FUNCTION @extschema@.kapture_discard_call(bigint) IS
'gives up a call of kapture_send() that waits, failed, or has an unknown outcome';

CREATE OR REPLACE FUNCTION @extschema@.kapture_phone(phone text) RETURNS text
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'kapture_phone';
COMMENT ON FUNCTION @extschema@.kapture_phone(text) IS
'converts a phone number as people write it to the ten digits that Kapture accepts; NULL: the text is not certainly such a number';

--
-- Pulled customers as rows
--

CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_stream(start_date timestamp, end_date timestamp, server name)
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10000 AS 'MODULE_PATHNAME', 'kapture_pull_stream';
COMMENT ON FUNCTION @extschema@.kapture_pull_stream(timestamp, timestamp, name) IS
'internal: used by kapture_pull_customers: returns rows one by one, but only in a SELECT list';

-- Unfolded by the planner (so it must be STABLE and have no settings): rows
-- then come as the windows do.  A function in C is read to its end in FROM.
CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_customers(start_date timestamp, end_date timestamp, server name DEFAULT 'kapture')
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 10000
AS $$ SELECT (s.customer).* FROM (SELECT @extschema@.kapture_pull_stream($1, $2, $3) AS customer) s $$;
COMMENT ON FUNCTION @extschema@.kapture_pull_customers(timestamp, timestamp, name) IS
'customers generated between two times in the account''s time zone, as typed rows; long ranges are fetched in windows (option pull_window), several at a time';

CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_stream(start_date timestamptz, end_date timestamptz, server name)
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10000 AS 'MODULE_PATHNAME', 'kapture_pull_stream';
COMMENT ON FUNCTION @extschema@.kapture_pull_stream(timestamptz, timestamptz, name) IS
'internal: used by kapture_pull_customers for instants, which are converted to the account''s time zone';
CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_customers(start_date timestamptz, end_date timestamptz, server name DEFAULT 'kapture')
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 10000
AS $$ SELECT (s.customer).* FROM (SELECT @extschema@.kapture_pull_stream($1, $2, $3) AS customer) s $$;
COMMENT ON FUNCTION @extschema@.kapture_pull_customers(timestamptz, timestamptz, name) IS
'customers generated between two instants, which are converted to the account''s time zone, as typed rows';

CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_stream(start_date date, end_date date, server name)
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10000 AS 'MODULE_PATHNAME', 'kapture_pull_stream';
COMMENT ON FUNCTION @extschema@.kapture_pull_stream(date, date, name) IS
'internal: used by kapture_pull_customers for days of the account';
CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_customers(start_date date, end_date date, server name DEFAULT 'kapture')
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 10000
AS $$ SELECT (s.customer).* FROM (SELECT @extschema@.kapture_pull_stream($1, $2, $3) AS customer) s $$;
COMMENT ON FUNCTION @extschema@.kapture_pull_customers(date, date, name) IS
'customers generated between two days of the account, as typed rows';

CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_stream(start_date text, end_date text, server name)
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 10000 AS 'MODULE_PATHNAME', 'kapture_pull_stream';
COMMENT ON FUNCTION @extschema@.kapture_pull_stream(text, text, name) IS
'internal: used by kapture_pull_customers for times in the account''s time zone, given as text';
CREATE OR REPLACE FUNCTION @extschema@.kapture_pull_customers(start_date text, end_date text, server name DEFAULT 'kapture')
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE sql STABLE PARALLEL UNSAFE ROWS 10000
AS $$ SELECT (s.customer).* FROM (SELECT @extschema@.kapture_pull_stream($1, $2, $3) AS customer) s $$;
COMMENT ON FUNCTION @extschema@.kapture_pull_customers(text, text, name) IS
'customers generated between two times in the account''s time zone, given as text, as typed rows';

CREATE OR REPLACE FUNCTION @extschema@.kapture_find_customers(criteria jsonb, server name DEFAULT 'kapture')
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'kapture_find_customers';
COMMENT ON FUNCTION @extschema@.kapture_find_customers(jsonb, name) IS
'customers with the given kapture_customer_id, customer_id, phone or email_id, as typed rows';

CREATE OR REPLACE FUNCTION @extschema@.kapture_customer_rows(answer jsonb, server name DEFAULT 'kapture')
RETURNS SETOF @extschema@.kapture_customer
LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_customer_rows';
COMMENT ON FUNCTION @extschema@.kapture_customer_rows(jsonb, name) IS
'converts an answer of kapture_pull or kapture_get_customer to typed rows of its customers';

CREATE OR REPLACE FUNCTION @extschema@.kapture_contact_rows(answer jsonb, server name DEFAULT 'kapture')
RETURNS SETOF @extschema@.kapture_contact
LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_contact_rows';
COMMENT ON FUNCTION @extschema@.kapture_contact_rows(jsonb, name) IS
'converts an answer of kapture_pull or kapture_get_customer to typed rows of its customers'' contacts';

--
-- Running the sync
--

CREATE OR REPLACE FUNCTION @extschema@.kapture_attach(relation regclass, columns jsonb DEFAULT NULL,
	server name DEFAULT 'kapture', on_duplicate text DEFAULT 'link', replicated boolean DEFAULT false,
	pull boolean DEFAULT false, on_conflict text DEFAULT 'local', filter text DEFAULT NULL,
	source regclass DEFAULT NULL, id_column name DEFAULT 'kapture_customer_id', on_leave jsonb DEFAULT NULL,
	on_delete jsonb DEFAULT NULL, name text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_attach';
COMMENT ON FUNCTION @extschema@.kapture_attach(regclass, jsonb, name, text, boolean, boolean, text, text, regclass, name, jsonb, jsonb, text) IS
'attaches a table: its changes are sent to Kapture from now on; columns: {"kapture field": "column", ...}, by default the columns named like Kapture''s fields; name: name of the attachment, for a table with several attachments';

CREATE OR REPLACE FUNCTION @extschema@.kapture_alter(relation regclass, columns jsonb DEFAULT NULL,
	server name DEFAULT NULL, filter text DEFAULT NULL, source regclass DEFAULT NULL, on_duplicate text DEFAULT NULL,
	on_conflict text DEFAULT NULL, pull boolean DEFAULT NULL, replicated boolean DEFAULT NULL,
	on_leave jsonb DEFAULT NULL, on_delete jsonb DEFAULT NULL, keep_ids boolean DEFAULT false, reset text[] DEFAULT NULL,
	name text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_alter';
COMMENT ON FUNCTION @extschema@.kapture_alter(regclass, jsonb, name, text, regclass, text, text, boolean, boolean, jsonb, jsonb, boolean, text[], text) IS
'changes how a table is attached: given arguments replace the present ones (columns as a whole), all others and the waiting changes stay; reset: arguments that go back to their defaults; keep_ids: keep the ids when the server changes; name: which attachment, if the table has several';

CREATE OR REPLACE FUNCTION @extschema@.kapture_id(relation regclass, row_key text, name text DEFAULT NULL) RETURNS bigint
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'kapture_id';
COMMENT ON FUNCTION @extschema@.kapture_id(regclass, text, text) IS
'Kapture''s id of a row''s customer, wherever the id is kept; NULL: the row has no id yet; name: which attachment, if the table has several';

CREATE OR REPLACE FUNCTION @extschema@.kapture_id(relation regclass, row_key anynonarray, name text DEFAULT NULL) RETURNS bigint
LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'kapture_id';
COMMENT ON FUNCTION @extschema@.kapture_id(regclass, anynonarray, text) IS
'Kapture''s id of the customer of the row with the given key; the key may be of any type, a key of several columns is the text of an array';

CREATE OR REPLACE FUNCTION @extschema@.kapture_forget_id(relation regclass, row_key text, name text DEFAULT NULL) RETURNS bigint
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_forget_id';
COMMENT ON FUNCTION @extschema@.kapture_forget_id(regclass, text, text) IS
'forgets Kapture''s id of a row''s customer, as if the id were set to NULL, for a table that was attached with id_column => NULL; returns the id, or NULL if the row had none; when the row is sent again, it is added, or linked by its phone and email; name: which attachment, if the table has several';

CREATE OR REPLACE FUNCTION @extschema@.kapture_forget_id(relation regclass, row_key anynonarray, name text DEFAULT NULL) RETURNS bigint
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_forget_id';
COMMENT ON FUNCTION @extschema@.kapture_forget_id(regclass, anynonarray, text) IS
'forgets Kapture''s id of the customer of the row with the given key; the key may be of any type, a key of several columns is the text of an array';

CREATE OR REPLACE FUNCTION @extschema@.kapture_followed() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'kapture_followed';
COMMENT ON FUNCTION @extschema@.kapture_followed() IS 'internal: trigger of tables that attached tables follow: notes the change in the outbox';

CREATE OR REPLACE FUNCTION @extschema@.kapture_follow(source regclass, relation regclass, condition text) RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_follow';
COMMENT ON FUNCTION @extschema@.kapture_follow(regclass, regclass, text) IS
'follows another table: when a row of source changes, the rows of the attached table are sent again for which the condition over source and target holds';

CREATE OR REPLACE FUNCTION @extschema@.kapture_unfollow(source regclass, relation regclass, condition text DEFAULT NULL) RETURNS integer
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_unfollow';
COMMENT ON FUNCTION @extschema@.kapture_unfollow(regclass, regclass, text) IS
'ends what kapture_follow began, for one condition or all; returns the number of conditions that ended';

CREATE OR REPLACE FUNCTION @extschema@.kapture_detach(relation regclass, name text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_detach';
COMMENT ON FUNCTION @extschema@.kapture_detach(regclass, text) IS
'ends the sync of a table and gives up its waiting changes; the table keeps its column of Kapture ids; name: only this attachment';

CREATE OR REPLACE FUNCTION @extschema@.kapture_pause(relation regclass, name text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_pause';
COMMENT ON FUNCTION @extschema@.kapture_pause(regclass, text) IS
'stops sending changes of a table; changes are still captured, and requests in flight finish; name: only this attachment';

CREATE OR REPLACE FUNCTION @extschema@.kapture_resume(relation regclass, name text DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_resume';
COMMENT ON FUNCTION @extschema@.kapture_resume(regclass, text) IS
'sends changes of a paused table again; name: only this attachment';

CREATE OR REPLACE FUNCTION @extschema@.kapture_resume()
RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_resume_copy';
REVOKE ALL ON FUNCTION @extschema@.kapture_resume() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.kapture_resume() IS
'lets a copy of a database send its waiting changes, and confirms new owners of servers; for a copy, only if the original no longer sends';

CREATE OR REPLACE FUNCTION @extschema@.kapture_backfill_slice(relation regclass, slice integer, name text DEFAULT NULL)
RETURNS integer
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_backfill_slice';
COMMENT ON FUNCTION @extschema@.kapture_backfill_slice(regclass, integer, text) IS
'one slice of kapture_backfill: queues the next rows without an id; returns the number of rows';

CREATE OR REPLACE PROCEDURE @extschema@.kapture_backfill(relation regclass, slice integer DEFAULT 1000, name text DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'kapture_backfill';
COMMENT ON PROCEDURE @extschema@.kapture_backfill(regclass, integer, text) IS
'queues the rows that have no Kapture id yet, in slices; if it is interrupted, the next call continues where it stopped; name: only this attachment';

CREATE OR REPLACE FUNCTION @extschema@.kapture_touch(relation regclass, row_key text, fields text[] DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_touch';
COMMENT ON FUNCTION @extschema@.kapture_touch(regclass, text, text[]) IS
'notes a row as changed, with all fields or the given ones, in the caller''s transaction; the row is not written; needs the right to update the table';

CREATE OR REPLACE FUNCTION @extschema@.kapture_touch(relation regclass, row_key anynonarray, fields text[] DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_touch';
COMMENT ON FUNCTION @extschema@.kapture_touch(regclass, anynonarray, text[]) IS
'notes the row with the given key as changed; the key may be of any type, a key of several columns is the text of an array';

CREATE OR REPLACE PROCEDURE @extschema@.kapture_resync(relation regclass, condition text DEFAULT NULL,
	fields text[] DEFAULT NULL, slice integer DEFAULT 1000, force boolean DEFAULT false, name text DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'kapture_resync';
COMMENT ON PROCEDURE @extschema@.kapture_resync(regclass, text, text[], integer, boolean, text) IS
'sends rows again, in slices: all rows or those for which the condition holds, with all fields or the given ones; the table is not written; if it is interrupted, the same call continues where it stopped';

CREATE OR REPLACE FUNCTION @extschema@.kapture_verify(relation regclass, condition text DEFAULT NULL,
	repair boolean DEFAULT false, name text DEFAULT NULL,
	OUT row_key text, OUT kapture_customer_id bigint, OUT problem text, OUT field text, OUT here text, OUT there text,
	OUT name text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_verify';
COMMENT ON FUNCTION @extschema@.kapture_verify(regclass, text, boolean, text) IS
'compares rows with Kapture, all rows or those for which the condition holds, and returns the problems: differs, not emptied, unknown id, other customer, shared id, no id, waiting, parked, unreadable; repair: sends these rows and fields again';

CREATE OR REPLACE PROCEDURE @extschema@.kapture_verify_into(relation regclass, into_table regclass,
	condition text DEFAULT NULL, repair boolean DEFAULT false, slice integer DEFAULT 500, restart boolean DEFAULT false,
	name text DEFAULT NULL)
LANGUAGE C AS 'MODULE_PATHNAME', 'kapture_verify_into';
COMMENT ON PROCEDURE @extschema@.kapture_verify_into(regclass, regclass, text, boolean, integer, boolean, text) IS
'kapture_verify for large tables: writes the results into the columns of the same names of a table of the caller''s, and commits after each slice of rows; if it is interrupted, the same call continues where it stopped; restart: begins anew';

CREATE OR REPLACE FUNCTION @extschema@.kapture_match(relation regclass, write boolean DEFAULT false, name text DEFAULT NULL,
	OUT row_key text, OUT kapture_customer_id bigint, OUT found_by text, OUT problem text, OUT name text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_match';
COMMENT ON FUNCTION @extschema@.kapture_match(regclass, boolean, text) IS
'searches Kapture for the phones and emails of rows without an id, and returns the rows whose customer is in Kapture; write: the worker writes the ids of those without a problem';

CREATE OR REPLACE FUNCTION @extschema@.kapture_acknowledge(server name, kapture_customer_id bigint)
RETURNS boolean
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_acknowledge';
COMMENT ON FUNCTION @extschema@.kapture_acknowledge(name, bigint) IS
'removes a customer from kapture_orphans; returns whether the customer was in the view';

CREATE OR REPLACE FUNCTION @extschema@.kapture_dry_run(relation regclass, columns jsonb DEFAULT NULL, filter text DEFAULT NULL,
	source regclass DEFAULT NULL, server name DEFAULT NULL, ask boolean DEFAULT false, name text DEFAULT NULL,
	OUT row_key text, OUT action text, OUT problem text, OUT hint text, OUT body jsonb)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_dry_run';
COMMENT ON FUNCTION @extschema@.kapture_dry_run(regclass, jsonb, text, regclass, name, boolean, text) IS
'what would happen to each row of a table if it were attached with these arguments and backfilled or, if it is attached, altered with them and sent again: add, update, link (only with ask, which searches Kapture), skip, refuse; for an attached table, arguments that are not given are as it is attached; nothing is attached and nothing is sent; name: which attachment, if the table has several';

CREATE OR REPLACE FUNCTION @extschema@.kapture_is_origin(system_identifier bigint, database oid)
RETURNS boolean
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'kapture_is_origin';
COMMENT ON FUNCTION @extschema@.kapture_is_origin(bigint, oid) IS
'internal: is this the stamp of the current database?';

CREATE OR REPLACE FUNCTION @extschema@.kapture_retry(relation regclass, row_key text DEFAULT NULL, name text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_retry';
COMMENT ON FUNCTION @extschema@.kapture_retry(regclass, text, text) IS
'retries failed rows of a table at once: all, with pulled customers that failed, or the row with the given key; returns how many';

CREATE OR REPLACE FUNCTION @extschema@.kapture_retry(relation regclass, row_key anynonarray, name text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_retry';
COMMENT ON FUNCTION @extschema@.kapture_retry(regclass, anynonarray, text) IS
'retries the failed row with the given key at once; the key may be of any type, a key of several columns is the text of an array';

CREATE OR REPLACE FUNCTION @extschema@.kapture_discard(relation regclass, row_key text DEFAULT NULL, name text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_discard';
COMMENT ON FUNCTION @extschema@.kapture_discard(regclass, text, text) IS
'gives up failed changes of a table: all, with pulled customers that failed, or those of the row with the given key; returns how many';

CREATE OR REPLACE FUNCTION @extschema@.kapture_discard(relation regclass, row_key anynonarray, name text DEFAULT NULL)
RETURNS bigint
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'kapture_discard';
COMMENT ON FUNCTION @extschema@.kapture_discard(regclass, anynonarray, text) IS
'gives up the failed changes of the row with the given key; the key may be of any type, a key of several columns is the text of an array';

-- No foreign key: pg_restore fills the tables of an extension in any order.
CREATE OR REPLACE FUNCTION @extschema@.kapture_forget_contacts() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'kapture_forget_contacts';
COMMENT ON FUNCTION @extschema@.kapture_forget_contacts() IS 'internal: trigger of kapture_customers: deletes the contacts of deleted customers';
CREATE OR REPLACE TRIGGER kapture_forget AFTER DELETE ON @extschema@.kapture_customers
	FOR EACH ROW EXECUTE FUNCTION @extschema@.kapture_forget_contacts();
CREATE OR REPLACE TRIGGER kapture_forget_all AFTER TRUNCATE ON @extschema@.kapture_customers
	FOR EACH STATEMENT EXECUTE FUNCTION @extschema@.kapture_forget_contacts();
COMMENT ON TRIGGER kapture_forget ON @extschema@.kapture_customers IS 'contacts go with their customers';
COMMENT ON TRIGGER kapture_forget_all ON @extschema@.kapture_customers IS 'contacts go with their customers';

--
-- Local copies
--

CREATE OR REPLACE PROCEDURE @extschema@.kapture_refresh(start_date timestamp, end_date timestamp,
	server name DEFAULT 'kapture', restart boolean DEFAULT false)
LANGUAGE C AS 'MODULE_PATHNAME', 'kapture_refresh';
COMMENT ON PROCEDURE @extschema@.kapture_refresh(timestamp, timestamp, name, boolean) IS
'pulls customers into kapture_customers and kapture_contacts, one window in each transaction; if it is interrupted, the next call continues where it stopped; restart: begins anew';

--
-- What people look at
--

CREATE OR REPLACE FUNCTION @extschema@.kapture_queue(attachment_id integer,
	OUT pending bigint, OUT in_flight bigint, OUT retrying bigint, OUT parked bigint, OUT exact boolean,
	OUT oldest timestamptz, OUT last_success timestamptz, OUT last_error text)
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'kapture_queue';
COMMENT ON FUNCTION @extschema@.kapture_queue(integer) IS 'internal: the waiting changes of an attached table, at a cost that does not grow with their number; see kapture_status';

CREATE OR REPLACE FUNCTION @extschema@.kapture_table_problem(attachment_id integer) RETURNS text
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'kapture_table_problem';
COMMENT ON FUNCTION @extschema@.kapture_table_problem(integer) IS 'internal: why the worker cannot send the rows of an attached table; see kapture_status';

CREATE OR REPLACE FUNCTION @extschema@.kapture_table_error(attachment_id integer) RETURNS text
LANGUAGE C STABLE STRICT AS 'MODULE_PATHNAME', 'kapture_table_error';
COMMENT ON FUNCTION @extschema@.kapture_table_error(integer) IS 'internal: the error that keeps worker or puller from their work on an attached table; see kapture_status';

-- STABLE: a release may word a hint anew, so nothing that is stored may depend on it
CREATE OR REPLACE FUNCTION @extschema@.kapture_hint(message text, http_status integer DEFAULT NULL) RETURNS text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kapture_hint';
COMMENT ON FUNCTION @extschema@.kapture_hint(text, integer) IS
'what to do about a failure, in plain words; NULL: the message is not known';

CREATE OR REPLACE FUNCTION @extschema@.kapture_hint(message text, http_status integer, api text) RETURNS text
LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'kapture_hint_1_1';
COMMENT ON FUNCTION @extschema@.kapture_hint(text, integer, text) IS
'what to do about a failure of the given call (NULL: of the table itself), in plain words; NULL: the message is not known';

CREATE OR REPLACE FUNCTION @extschema@.kapture_request_counters(
	OUT server text, OUT api text, OUT http_code integer, OUT requests bigint,
	OUT total_time double precision, OUT min_time double precision, OUT max_time double precision,
	OUT mean_time double precision, OUT bounds double precision[], OUT histogram bigint[],
	OUT since timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_request_counters';
COMMENT ON FUNCTION @extschema@.kapture_request_counters() IS 'internal: the counters that kapture_stat_requests shows';

CREATE OR REPLACE FUNCTION @extschema@.kapture_stat_reset() RETURNS void
LANGUAGE C VOLATILE STRICT AS 'MODULE_PATHNAME', 'kapture_stat_reset';
REVOKE ALL ON FUNCTION @extschema@.kapture_stat_reset() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.kapture_stat_reset() IS 'resets the request counters of this database';

CREATE OR REPLACE FUNCTION @extschema@.kapture_check(server name DEFAULT 'kapture', all_keys boolean DEFAULT false,
	OUT step text, OUT ok boolean, OUT detail text, OUT hint text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_check_1_1';
COMMENT ON FUNCTION @extschema@.kapture_check(name, boolean) IS
'checks step by step whether a server can be used, with a hint for each step that fails: options, worker, name, connection, TLS, certificate, keys, clock, time, duplicates, and capture if a trigger is off; sends a search and a pull that find no customer; all_keys: also sends an Add and an Update that Kapture must refuse';

CREATE OR REPLACE FUNCTION @extschema@.kapture_preview(relation regclass, row_key text, name text DEFAULT NULL,
	OUT waiting boolean, OUT api text, OUT url text, OUT headers text[], OUT body text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_preview';
COMMENT ON FUNCTION @extschema@.kapture_preview(regclass, text, text) IS
'the request that would be sent for a row now, with the key masked; if nothing waits for the row, the request as if all its columns had changed';

CREATE OR REPLACE FUNCTION @extschema@.kapture_preview(relation regclass, row_key anynonarray, name text DEFAULT NULL,
	OUT waiting boolean, OUT api text, OUT url text, OUT headers text[], OUT body text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'kapture_preview';
COMMENT ON FUNCTION @extschema@.kapture_preview(regclass, anynonarray, text) IS
'the request that would be sent for the row with the given key; the key may be of any type, a key of several columns is the text of an array';
