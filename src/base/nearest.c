/*
 * nearest.c
 *		Finds the name that a user may have meant who wrote another one.
 *
 * For hints, as the parser has them for columns: a name counts as meant if the
 * written one is a part of the name, or contains it, or differs in at most half of
 * its own letters, whatever their case.
 */
#include "postgres.h"

#include "parser/scansup.h"
#include "utils/varlena.h"

#include "base/nearest.h"

/* A shorter name is a part of too many. */
#define NEAREST_MIN_PART	4

/*
 * kapture_nearest_begin
 *		Prepares to look for a name like "written", which must live as long as the
 *		state.
 */
void
kapture_nearest_begin(KaptureNearest *state, const char *written)
{
	state->length = strlen(written);
	state->written = downcase_identifier(written, state->length, false, false);
	/* a text too long for a name is like no name */
	state->least = state->length < NAMEDATALEN ? state->length / 2 + 1 : 0;
	state->nearest = NULL;
}

/*
 * kapture_nearest_try
 *		Makes "name", which must live as long as the state, the nearest name if it
 *		is nearer than those before.
 */
void
kapture_nearest_try(KaptureNearest *state, const char *name)
{
	int			length = strlen(name);
	char	   *folded = downcase_identifier(name, length, false, false);
	int			distance;

	if (state->least == 0 || length >= NAMEDATALEN)
		return;
	if (strcmp(state->written, folded) == 0)
		distance = 0;
	else if ((state->length >= NEAREST_MIN_PART && strstr(folded, state->written)) ||
			 (length >= NEAREST_MIN_PART && strstr(state->written, folded)))
		distance = 1;
	else
		distance = varstr_levenshtein_less_equal(state->written, state->length, folded, length, 1, 1, 1, state->least, true);
	if (distance < state->least)
	{
		state->least = distance;
		state->nearest = name;
	}
	pfree(folded);
}
