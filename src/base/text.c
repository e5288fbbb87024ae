/*
 * text.c
 *		Cuts texts of others to a length that can be kept, and changes their encoding.
 *
 * Error messages come from users' code and from servers; they may have any
 * length, and are kept for each row.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "base/text.h"

/* Bytes of a message that are kept. */
#define TEXT_KEPT			4000

/*
 * Returns a text as it is, or a shorter copy, in the current memory context, if
 * it is longer than is worth keeping.
 */
char *
kapture_text_cut(const char *text)
{
	size_t		len = strnlen(text, TEXT_KEPT + 1);

	if (len <= TEXT_KEPT)
		return unconstify(char *, text);
	return psprintf("%.*s...", pg_mbcliplen(text, TEXT_KEPT + 1, TEXT_KEPT), text);
}

/*
 * kapture_text_to_utf8
 *		Text in the database's encoding as UTF-8, with its length in *len.
 *
 * The result is always a palloc'ed copy.  Errors: 22021 if the text cannot be
 * UTF-8, as in a database with encoding SQL_ASCII.
 */
char *
kapture_text_to_utf8(const char *text, size_t *len)
{
	size_t		text_len = strlen(text);
	char	   *utf8 = pg_server_to_any(text, text_len, PG_UTF8);

	if (GetDatabaseEncoding() == PG_SQL_ASCII)
		(void) pg_verify_mbstr(PG_UTF8, text, text_len, false);
	if (utf8 == text)
		utf8 = pnstrdup(text, text_len);
	*len = strlen(utf8);
	return utf8;
}
