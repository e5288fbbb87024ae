/*
 * given.c
 *		SQL that users give in arguments.
 *
 * PostgreSQL's parser reports what it does not understand, and where, but not in which of
 * several arguments, nor what would be accepted there.
 */
#include "postgres.h"

#include "utils/guc.h"
#include "utils/ruleutils.h"

#include "base/catalog.h"
#include "base/guc.h"
#include "mapping/given.h"

/*
 * To be called in an error context callback: makes the parser's position one within the
 * text, not within the user's statement.
 */
void
kapture_given_locate(const char *text)
{
	int			position = geterrposition();

	if (position <= 0)
		return;
	errposition(0);
	internalerrposition(position);
	internalerrquery(text);
}

/*
 * Returns the text of a parsed expression, with all names but those of columns qualified, in
 * the current memory context.  The text is the same whatever the session's settings, and is
 * understood under any: a date among its literals is written by ISO 8601.  "context" is that of deparse_context_for(); "prefix": columns
 * have their table's name.
 */
char *
kapture_given_deparse(Node *node, List *context, bool prefix)
{
	int			nestlevel = kapture_catalog_text_settings();
	char	   *result;

	kapture_guc_pin_search_path();
	result = deparse_expression(node, context, prefix, false);
	AtEOXact_GUC(false, nestlevel);
	return result;
}

/*
 * Extends an error of the parser that has a position within a user's text: the message
 * says what the text was given as ("what", as in "invalid filter"), and "hint" is added if
 * there is none.  Other errors are left alone: they say that themselves.
 */
void
kapture_given_explain(ErrorData *error, const char *what, const char *hint)
{
	if (error->internalpos <= 0 || error->internalquery == NULL)
		return;
	error->message = psprintf("invalid %s: %s", what, error->message);
	if (error->hint == NULL)
		error->hint = pstrdup(hint);
}

/*
 * To be called in PG_CATCH: raises the error again, extended by kapture_given_explain().
 * "context" is the memory context that was current before PG_TRY.
 */
void
kapture_given_rethrow(MemoryContext context, const char *what, const char *hint)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	kapture_given_explain(error, what, hint);	/* before "what" may be freed with the error state */
	FlushErrorState();
	ReThrowError(error);
}
