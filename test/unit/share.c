/*
 * share.c
 *		Checks of table/share.c.
 */
#include "unit.h"

#include "table/share.h"

/* Charges a table for a batch that took so many milliseconds; returns for how many it has to wait. */
static int64
share_wait(KaptureTurn *turn, int took, int rows)
{
	TimestampTz now = GetCurrentTimestamp();

	kapture_turn_charge(turn, TimestampTzPlusMilliseconds(now, -took), rows);
	return Max((kapture_turn_next(turn) - now) / 1000, 0);
}

void
unit_share(void)
{
	KaptureTurn turn;
	KaptureTurn other;
	int64		wait;

	kapture_turn_init(&turn, 100);
	kapture_turn_init(&other, 100);
	kapture_turn_join(&turn, 4242);
	kapture_turn_join(&other, 4242);

	unit_is_int(share_wait(&turn, 50, 10), 0, "a table whose batch takes as long as usual does not wait");
	unit_is_int(kapture_turn_rows(&turn), 100, "and its batches stay as large");
	unit_is_int(share_wait(&turn, 1000, 10), 0, "nor does one whose batch took long once, as if the machine had stood still");
	unit_ok(kapture_turn_rows(&turn) < 10, "though its next batch is smaller");
	wait = share_wait(&turn, 3000, 1);
	unit_ok(wait > 8000, "if that comes again, the table waits (" INT64_FORMAT " ms)", wait);
	unit_ok(kapture_turn_next(&other) > GetCurrentTimestamp(), "and so do its owner's other tables");
	unit_ok(kapture_turn_next(&other) < kapture_turn_next(&turn), "but not for as long");
	unit_ok(share_wait(&turn, 1000, 1) > wait + 3000, "each such batch adds to that");

	kapture_turn_join(&turn, InvalidOid);
	kapture_turn_join(&other, InvalidOid);
	kapture_turn_init(&turn, 100);
	kapture_turn_join(&turn, 4242);
	unit_ok(kapture_turn_next(&turn) > GetCurrentTimestamp(), "whoever attaches a table anew has no new account");
	kapture_turn_init(&other, 100);
	kapture_turn_join(&other, 4343);
	unit_is_int(share_wait(&other, 1000, 1), 0, "another owner has a grace of its own");
	kapture_turn_join(&turn, InvalidOid);
	kapture_turn_join(&other, InvalidOid);
}
