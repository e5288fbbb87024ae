-- docs/reference.md, made of the comments in the catalog.  script/reference runs
-- it in a database that has the extension in a schema of the search path.
\set QUIET on
\set ON_ERROR_STOP on
\pset tuples_only on
\pset format unaligned
\pset null ''
\pset pager off
SET client_min_messages = warning;

-- text as it stands in a cell of a table
CREATE FUNCTION pg_temp.cell(text) RETURNS text LANGUAGE sql AS
$$ SELECT replace(regexp_replace($1, '\s+', ' ', 'g'), '|', '\|') $$;

CREATE FUNCTION pg_temp.sentence(text) RETURNS text LANGUAGE sql AS
$$ SELECT upper(left($1, 1)) || substr($1, 2) || CASE WHEN $1 ~ '[.?!]$' THEN '' ELSE '.' END $$;

-- What is not for users, and may be another thing in the next release: objects
-- whose comment says so.
CREATE FUNCTION pg_temp.is_internal(comment text) RETURNS boolean LANGUAGE sql AS
$$ SELECT comment ~ '^internal: ' $$;

CREATE TEMP VIEW members AS
	SELECT d.classid, d.objid
	FROM pg_depend AS d JOIN pg_extension AS e ON (d.refclassid, d.refobjid) = ('pg_extension'::regclass, e.oid)
	WHERE e.extname = 'kapture_sync' AND d.deptype = 'e';

CREATE TEMP VIEW functions AS
	SELECT p.oid, p.proname AS name, p.prokind = 'p' AS is_procedure,
		regexp_replace(pg_get_function_arguments(p.oid), '::[\w ."\[\]]+|\mIN ', '', 'g') AS arguments,
		regexp_replace(pg_get_function_result(p.oid), '^TABLE\(', 'TABLE (') AS result,
		regexp_replace(obj_description(p.oid, 'pg_proc'), '^internal: ', '') AS comment,
		pg_temp.is_internal(obj_description(p.oid, 'pg_proc')) AS is_internal,
		NOT EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) WHERE grantee = 0) AS is_reserved
	FROM members AS m JOIN pg_proc AS p ON (m.classid, m.objid) = ('pg_proc'::regclass, p.oid);

CREATE TEMP VIEW relations AS
	SELECT c.oid, c.relname AS name, c.relkind AS kind,
		regexp_replace(coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type')), '^internal: ', '') AS comment,
		-- tables that users may read have a grant, or the owner of the extension gives one
		pg_temp.is_internal(obj_description(c.oid, 'pg_class')) OR
		(c.relkind <> 'v' AND c.relname NOT IN ('kapture_customers', 'kapture_contacts') AND
		 NOT EXISTS (SELECT FROM aclexplode(c.relacl) WHERE grantee = 0)) AS is_internal
	FROM members AS m JOIN pg_class AS c ON (m.classid, m.objid) = ('pg_class'::regclass, c.oid)
	WHERE c.relkind IN ('r', 'v', 'p')
	UNION ALL
	SELECT c.oid, c.relname, c.relkind, obj_description(t.oid, 'pg_type'), false
	FROM members AS m JOIN pg_type AS t ON (m.classid, m.objid) = ('pg_type'::regclass, t.oid) JOIN pg_class AS c ON c.oid = t.typrelid
	WHERE c.relkind = 'c';

-- The columns of a relation as lines of a table; those of a composite type that
-- it contains as a whole are a line together.
CREATE FUNCTION pg_temp.columns_of(relid oid) RETURNS text LANGUAGE sql AS
$$
	WITH contained AS (
		SELECT t.oid, t.name FROM relations AS t
		WHERE t.kind = 'c' AND t.oid <> relid AND NOT EXISTS (
			SELECT FROM pg_attribute AS a WHERE a.attrelid = t.oid AND NOT a.attisdropped AND NOT EXISTS (
				SELECT FROM pg_attribute AS b WHERE b.attrelid = relid AND b.attnum > 0 AND (b.attname, b.atttypid) = (a.attname, a.atttypid)))
	), lines AS (
		SELECT a.attnum AS place, format('| `%s` | %s | %s |', a.attname, format_type(a.atttypid, a.atttypmod),
			pg_temp.cell(coalesce(col_description(relid, a.attnum), ''))) AS line
		FROM pg_attribute AS a
		WHERE a.attrelid = relid AND a.attnum > 0 AND NOT a.attisdropped
			AND NOT EXISTS (SELECT FROM contained AS c JOIN pg_attribute AS b ON b.attrelid = c.oid WHERE b.attname = a.attname)
		UNION ALL
		SELECT 10000, format('| | | and the columns of type [%s](#type-%s) |', name, name) FROM contained
	)
	SELECT E'| column | type | meaning |\n|---|---|---|\n' || string_agg(line, E'\n' ORDER BY place) FROM lines
$$;

SELECT $$# Reference

Every function, view, table and setting, made from the comments in the catalog by `script/reference --write`; `\df+`, `\dv+` and `\d+` show
the same in psql. Options of servers and user mappings are [a page of their own](options.md).

## Functions
$$;
WITH calls AS (
	SELECT *, concat(CASE WHEN is_procedure THEN 'CALL ' END, name, '(', arguments, ')', ' → ' || nullif(result, 'void')) AS call FROM functions WHERE NOT is_internal
)
SELECT format(E'### %s\n\n%s', name, string_agg(format(E'```\n%s\n```\n\n%s%s\n',
		CASE WHEN length(call) > 100 THEN regexp_replace(call, ', ', E',\n    ', 'g') ELSE call END, pg_temp.sentence(comment),
		CASE WHEN is_reserved THEN ' For superusers, and for roles that were granted EXECUTE.' ELSE '' END), E'\n' ORDER BY arguments))
FROM calls GROUP BY name ORDER BY name;

SELECT E'## Views\n';
SELECT format(E'### %s\n\n%s\n\n%s\n', name, pg_temp.sentence(comment), pg_temp.columns_of(oid))
FROM relations WHERE kind = 'v' AND NOT is_internal ORDER BY name;

SELECT E'## Tables\n';
SELECT format(E'### %s\n\n%s\n\n%s\n', name, pg_temp.sentence(comment), pg_temp.columns_of(oid))
FROM relations WHERE kind IN ('r', 'p') AND NOT is_internal ORDER BY name;

SELECT $$## Types

Columns are named like the fields of Kapture's answers: `generation_date` is `generationDate`, `leadId` of a contact is `customer_id`.
$$;
SELECT format(E'### Type %s\n\n%s\n\n%s\n', name, pg_temp.sentence(comment), pg_temp.columns_of(oid))
FROM relations WHERE kind = 'c' ORDER BY name;

SELECT $$## Settings

They hold tuning only: addresses are options of servers, keys of user mappings.

| setting | default | set by | meaning |
|---|---|---|---|$$;
SELECT format('| `%s` | %s | %s | %s |', name,
	CASE WHEN boot_val = '' THEN '' WHEN unit IS NULL THEN format('`%s`', boot_val)
		WHEN vartype = 'integer' AND unit = 's' AND boot_val::int % 86400 = 0 THEN format('`%sd`', boot_val::int / 86400)
		ELSE format('`%s%s`', boot_val, unit) END,
	CASE context WHEN 'sighup' THEN 'configuration file, `ALTER SYSTEM`; takes effect at a reload' WHEN 'postmaster' THEN 'configuration file; takes effect at a restart'
		WHEN 'superuser' THEN 'superusers, roles with `GRANT SET ON PARAMETER`; a session, a role, a database' ELSE 'everybody' END,
	pg_temp.cell(concat_ws(' ', short_desc, extra_desc)))
FROM pg_settings WHERE name LIKE 'kapture\_sync.%' ORDER BY name;

SELECT $$
## Internals

For reading when something is to be understood; they may change with any release. Nobody but the owner of the extension may write the tables.

| function | does |
|---|---|$$;
SELECT format('| `%s(%s)` | %s |', name, pg_temp.cell(arguments), pg_temp.cell(comment)) FROM functions WHERE is_internal ORDER BY name, arguments;
SELECT '';
SELECT format(E'### Table %s\n\n%s\n\n%s\n', name, pg_temp.sentence(comment), pg_temp.columns_of(oid))
FROM relations WHERE kind <> 'c' AND is_internal ORDER BY name;
