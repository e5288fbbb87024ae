/*
 * given.c
 *		SQL that users give in arguments.
 *
 * PostgreSQL's parser reports what it does not understand, and where, but not which of
 * several arguments that text was, nor what would be taken there.
 */
#include "postgres.h"

#include "mapping/given.h"

/*
 * In a callback for errors: has the parser's position be one within the text, not within
 * the user's statement.
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
 * Has an error of the parser, with its position within a text that a user gave, say what
 * that text was given as ("what", as in "invalid filter"), and, if it has no hint, what to
 * give instead.  Other errors are left alone: they say that themselves.
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
 * In PG_CATCH: raises the error again, with that; "context" is what was current before.
 */
void
kapture_given_rethrow(MemoryContext context, const char *what, const char *hint)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	kapture_given_explain(error, what, hint);	/* before what it was given may go with the state */
	FlushErrorState();
	ReThrowError(error);
}
