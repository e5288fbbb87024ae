/*
 * text.c
 *		What is kept of texts that others made.
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
