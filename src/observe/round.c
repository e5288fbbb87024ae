/*
 * round.c
 *		Rows of a table that are read and asked for together.
 *
 * A slice of rows is read at a time, but more of them are asked for, so that the
 * connections to Kapture are busy nearly all the time.
 */
#include "postgres.h"

#include "observe/round.h"
#include "table/row_io.h"

/* Rows of a slice, and bytes of the rows that are asked for together, about. */
#define ROUND_SLICE		500
#define ROUND_BYTES		(8 * 1024 * 1024)

/*
 * kapture_round_next
 *		Returns the next items after the key *after (NULL: the first ones), in the
 *		current memory context, and sets *after to the key of the last.
 *
 * Reads slices until these have round->most rows or ROUND_BYTES.  *more: there may be
 * further rows.  Errors: those of reading the table as its owner.
 */
List *
kapture_round_next(const KaptureRound *round, const char **after, bool *more)
{
	List	   *items = NIL;
	Size		bytes = 0;

	do
	{
		List	   *keys = kapture_row_keys_after(round->att, round->without_id, round->condition, *after, ROUND_SLICE);
		List	   *slice = round->read(round->arg, keys);
		ListCell   *lc;

		foreach(lc, slice)
			bytes += ((const KaptureRow *) ((const char *) lfirst(lc) + round->row))->bytes;
		items = list_concat(items, slice);
		*more = list_length(keys) == ROUND_SLICE;
		if (keys != NIL)
			*after = llast(keys);
	} while (*more && list_length(items) < round->most && bytes < ROUND_BYTES);
	return items;
}
