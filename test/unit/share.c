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

/* How long slow tables and their owners wait. */
static void
unit_share_waits(void)
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
	kapture_turn_join(&other, InvalidOid);
	kapture_turn_join(&other, 4343);
	unit_ok(share_wait(&other, 2000, 1) > 4000, "and whoever attaches a table anew has no new grace");

	/* as if there had been a minute since */
	other.share->charged_at -= USECS_PER_MINUTE;
	other.share->turn = other.at = 0;
	unit_is_int(share_wait(&other, 1000, 1), 0, "a grace comes back with time");
	unit_is_int(share_wait(&other, 500, 1), 0, "all of it");
	unit_ok(share_wait(&other, 1000, 1) > 0, "but not at once");

	kapture_turn_join(&turn, InvalidOid);
	unit_ok(kapture_share_may_send(other.share, 0), "an owner without tables leaves requests to others");
	kapture_turn_join(&turn, 4242);
	unit_ok(!kapture_share_may_send(other.share, 0), "one with a table does not");
	kapture_turn_join(&turn, InvalidOid);
	kapture_turn_join(&other, InvalidOid);
}

/* Which of two tables comes first, and for how many rows after an error. */
static void
unit_share_turns(void)
{
	KaptureTurn turn;
	KaptureTurn other;

	kapture_turn_init(&turn, 100);
	kapture_turn_init(&other, 100);
	kapture_turn_join(&turn, 4444);
	kapture_turn_join(&other, 4545);
	kapture_turn_begin(&turn, 1);
	(void) share_wait(&turn, 50, 1);
	unit_ok(kapture_turn_comes_before(&other, &turn), "an owner who had nothing comes first");
	kapture_turn_begin(&turn, 2);
	kapture_turn_begin(&other, 3);
	unit_ok(!kapture_turn_comes_before(&other, &turn), "but has no credit for having had nothing to do");
	unit_ok(kapture_turn_comes_before(&turn, &other), "of two owners who had as much, the table that has waited for more rounds comes first");

	kapture_turn_begin(&other, 4);
	kapture_turn_count(&other, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), -9000));
	unit_ok(kapture_turn_next(&other) <= GetCurrentTimestamp(), "nobody waits for having been served by code of ours for long");
	unit_ok(kapture_turn_comes_before(&turn, &other), "but others come first");

	turn.limit = 2;
	kapture_turn_went_well(&turn);
	unit_is_int(kapture_turn_rows(&turn), 4, "after an error, batches grow as long as they succeed");
	turn.limit = 50;
	kapture_turn_went_well(&turn);
	unit_is_int(turn.limit, 0, "until they are as large as before");
	kapture_turn_join(&turn, InvalidOid);
	kapture_turn_join(&other, InvalidOid);
}

/* How many bytes of rows owners may have in memory. */
static void
unit_share_memory(void)
{
	static const Size megabyte = 1024 * 1024;
	KaptureShare *shares[] = {kapture_share_join(4646), kapture_share_join(4747), kapture_share_join(4848)};
	static const Size rooms[] = {4, 2, 1};

	for (int i = 0; i < lengthof(shares); i++)
	{
		unit_is_int(kapture_share_room(shares[i]), rooms[i] * megabyte, psprintf("room for rows of owner %d", i));
		kapture_share_hold(shares[i], rooms[i] * megabyte);
	}
	unit_is_int(kapture_share_room(shares[0]), 0, "and not for more of an owner who has so much");
	kapture_share_hold(shares[2], megabyte);
	unit_is_int(kapture_share_room(shares[1]), 0, "nor of one who has less, when all is used");
	kapture_share_release(shares[2], 2 * megabyte);
	unit_is_int(kapture_share_room(shares[2]), megabyte, "what is released is there for others");
	for (int i = 0; i < lengthof(shares); i++)
	{
		kapture_share_release(shares[i], shares[i]->bytes);
		kapture_share_leave(shares[i]);
	}
}

void
unit_share(void)
{
	unit_share_waits();
	unit_share_turns();
	unit_share_memory();
}
