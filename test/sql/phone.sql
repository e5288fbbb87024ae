-- Numbers as people write them, as Kapture takes them; NULL: none that is certain.
\pset format unaligned
SELECT written, kapture_phone(written) FROM (VALUES
	-- nothing before it, or what Indian numbers have there
	('9845765226'),
	('09845765226'),
	('919845765226'),
	('+919845765226'),
	('00919845765226'),
	('+9109845765226'),
	('+91 (0) 98457 65226'),
	-- what people put in between
	(' 98457 65226 '),
	('98457-65226'),
	('984.576.5226'),
	('98457/65226'),
	('(0)98457 65226'),
	('(+91) 98457-65226'),
	('[0091] 98457 65226'),
	(E'98457\t65226\r\n'),
	('+91-98457-65226'),
	-- numbers that begin with 6 to 9 are Kapture's
	('6000000000'), ('7999999999'), ('8022334455'), ('5845765226'), ('0584576522'),
	-- a landline looks like a mobile number, to Kapture as well
	('080-2233 4455'),
	('+91 80 2233 4455'),
	-- a number that begins with the digits of the country's code
	('9198457652'),
	('+9198457652')) AS n(written);
SELECT written, kapture_phone(written) FROM (VALUES
	-- nothing, too little, too much
	(NULL), (''), (' '), ('+'), ('()'), ('984576522'), ('98457652261'), ('0'), ('+91'), ('91'),
	-- another country's
	('+1 415 555 2671'), ('001 415 555 2671'), ('+44 7911 123456'), ('+86 138 0013 8000'), ('+65 9845 7652'), ('+9845765226'),
	('+6591234567'), ('+0919845765226'), ('+00919845765226'),
	-- prefixes that are none
	('0919845765226'), ('9109845765226'), ('009845765226'), ('009109845765226'), ('0 91 98457 65226'), ('++919845765226'), ('91+9845765226'),
	('98457+65226'), ('9845765226+'),
	-- a second number, an extension
	('98457 65226 / 98457 65227'), ('98457 65226, 98457 65227'), ('9845765226;9845765227'), ('9845765226-27'), ('98457 65226 x12'),
	('98457 65226 ext. 3'), ('9845765226#3'),
	-- something else
	('n/a'), ('none'), ('tel:9845765226'), ('9845765226 (home)'), ('98457O5226'), ('98457*5226'), ('XXXXXX5226'), ('9.845765226e9'),
	('+91 98457_65226'), ('whatsapp 9845765226'), (E'\\9845765226')) AS n(written);
-- characters that word processors and address books put in
SELECT name, kapture_phone(written) FROM (VALUES
	('no-break space', U&'98457\00A065226'),
	('narrow no-break space', U&'+91\202F98457\202F65226'),
	('en dash', U&'98457\201365226'),
	('non-breaking hyphen', U&'98457\201165226'),
	('minus', U&'98457\221265226'),
	('marks of direction', U&'\202A+91 98457 65226\202C'),
	('isolates', U&'\2066+91 98457 65226\2069'),
	('zero-width space', U&'98457\200B65226'),
	('byte order mark', U&'\FEFF9845765226'),
	('fullwidth digits', U&'\FF19\FF18\FF14\FF15\FF17\FF16\FF15\FF12\FF12\FF16'),
	('Devanagari digits', U&'\096F\096E\096A\096B\096D\096C\096B\0968\0968\096C'),
	('letters', U&'98457\00E965226')) AS n(name, written);
SELECT kapture_phone(repeat(' ', 1000000) || '9845765226') AS long_blanks, kapture_phone(repeat('9', 1000000)) AS long_digits;
-- it may be used in indexes, as the only one for users, and does nothing for NULL
SELECT provolatile, proparallel, proisstrict FROM pg_proc WHERE oid = 'kapture_phone(text)'::regprocedure;
SELECT p.oid::regprocedure AS immutable FROM pg_proc p
	JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_extension'::regclass
	JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'kapture_sync'
	WHERE p.provolatile = 'i' ORDER BY p.oid::regprocedure::text;
