/*
 * refusals.c
 *		Refusals that are the account's matter, not the rows'.
 *
 * A row is parked for what Kapture says of its values.  But an account may refuse all rows,
 * in words that no rule knows (api/words): its key may not do this, or it has made a field
 * mandatory.  To park all rows would leave somebody with days of work.  So refusals in
 * unknown words are counted.  After KAPTURE_REFUSALS_MAX in a row, without a success
 * between them, the server is held: it is probed once a minute, and rows wait, including
 * those that were parked for these refusals.  The first success ends that.
 *
 * Refusals in known words park their rows, however many there are, and are not counted.
 * Once the server has been held, refusals of rows that have failed before are not counted
 * either, so that a bad row holds up the others once at most.  If such a row is refused
 * again after others were accepted, the rows were to blame: from then on, only
 * KAPTURE_REFUSALS_MANY refusals hold the server again.
 *
 * A body that Kapture cannot read is the account's matter, too (KAPTURE_MISFIT), unless
 * Kapture has read other bodies for this API: then it is the row's.
 *
 * A denied key is the account's matter, too (KAPTURE_DENIED).  But a firewall before
 * Kapture may deny a row for its contents, and words about keys may be the row's own, as
 * Kapture repeats values.  So a denied row is sent again after other rows.  If these are
 * accepted, and the row is denied again, KAPTURE_DENIALS_MAX times, it is parked.
 *
 * No I/O but kapture_refusals_release().
 */
#include "postgres.h"

#include "push/refusals.h"
#include "queue/delivery.h"
#include "traffic/pacing.h"

/* A refused row is due later than the next probe, so that the probe is another row. */
static TimestampTz
refusals_next(TimestampTz now)
{
	return TimestampTzPlusMilliseconds(now, KAPTURE_DENIED_PROBE + KAPTURE_LOCKED_RETRY);
}

/* Holds the server, or keeps it held, for what it says of a row; the row waits. */
static void
refusals_hold(KaptureRefusals *refusals, KaptureTask *task, TimestampTz now)
{
	refusals->is_holding = refusals->has_held = true;
	refusals->wants_fresh = !refusals->wants_fresh;
	task->health = KAPTURE_STATE_REFUSING;
	task->failed.park = false;
	task->failed.counts = true;
	task->failed.next_attempt = refusals_next(now);
}

/* Handles a refusal in words that no rule knows. */
static void
refusals_unknown(KaptureRefusals *refusals, KaptureTask *task, TimestampTz now)
{
	const KaptureDelivery *delivery = task->delivery;

	if (refusals->is_holding)
	{
		refusals_hold(refusals, task, now);
		return;
	}
	if (refusals->has_held && delivery->failures > 0)
	{
		refusals->was_mistaken = true;
		return;
	}
	if (++refusals->count >= (refusals->was_mistaken ? KAPTURE_REFUSALS_MANY : KAPTURE_REFUSALS_MAX))
	{
		refusals->releases = true;
		refusals_hold(refusals, task, now);
		return;
	}
	refusals->attachments[refusals->nparked] = delivery->attachment_id;
	refusals->deliveries[refusals->nparked++] = delivery->delivery_id;
}

/* Parks a row whose request Kapture could not read, though it reads others for the same API. */
static void
refusals_unreadable(KaptureRefusals *refusals, KaptureTask *task)
{
	task->health = refusals->is_holding ? KAPTURE_STATE_REFUSING : KAPTURE_STATE_OK;
	kapture_task_fail(task, true, 0, psprintf("Kapture cannot read this row's %s request, though it reads others: %s",
											  kapture_api_name(task->asked), task->message));
}

/* Returns the index of a row in "denied"; -1 if it is not there. */
static int
refusals_find_denied(const KaptureRefusals *refusals, const KaptureTask *task)
{
	for (int i = 0; i < refusals->ndenied; i++)
	{
		if (refusals->denied[i].delivery_id == task->delivery->delivery_id && refusals->denied[i].api == task->asked)
			return i;
	}
	return -1;
}

/* Removes a row from "denied". */
static void
refusals_forget_denied(KaptureRefusals *refusals, int i)
{
	refusals->denied[i] = refusals->denied[--refusals->ndenied];
}

/* Handles a denied key: if it is accepted for other rows all the time, the row is parked. */
static void
refusals_denied(KaptureRefusals *refusals, KaptureTask *task)
{
	int			i = refusals_find_denied(refusals, task);
	KaptureDenied first = {.delivery_id = task->delivery->delivery_id,.api = task->asked,.times = 1};

	if (i < 0 && refusals->ndenied < KAPTURE_REFUSALS_MAX)
		refusals->denied[refusals->ndenied++] = first;
	if (i < 0 || !refusals->denied[i].others)
		return;
	refusals->denied[i].others = false;
	if (++refusals->denied[i].times < KAPTURE_DENIALS_MAX)
		return;
	refusals_forget_denied(refusals, i);
	task->health = refusals->is_holding ? KAPTURE_STATE_REFUSING : KAPTURE_STATE_OK;
	kapture_task_fail(task, true, 0, psprintf("Kapture denies this row's %s request, though it takes those of others: %s",
											  kapture_api_name(task->asked), task->message));
	task->failed.unsure = false;
}

/* Notes that Kapture has accepted the key for a row. */
static void
refusals_taken(KaptureRefusals *refusals, const KaptureTask *task)
{
	int			own = refusals_find_denied(refusals, task);

	if (own >= 0)
		refusals_forget_denied(refusals, own);
	for (int i = 0; i < refusals->ndenied; i++)
		refusals->denied[i].others |= refusals->denied[i].api == task->asked;
}

/*
 * kapture_refusals_judge
 *		Notes what the last answer to a task means for all rows of the server, and
 *		corrects the task's outcome if the answer is the account's matter.
 */
void
kapture_refusals_judge(KaptureRefusals *refusals, KaptureTask *task, TimestampTz now)
{
	bool		is_write = task->asked == KAPTURE_API_ADD || task->asked == KAPTURE_API_UPDATE;

	switch (task->verdict)
	{
		case KAPTURE_SUCCESS:
		case KAPTURE_NOT_FOUND:
		case KAPTURE_DUPLICATE_PHONE:
		case KAPTURE_DUPLICATE_EMAIL:
		case KAPTURE_DUPLICATE_BOTH:
			refusals->is_read[task->asked] = true;
			refusals_taken(refusals, task);
			if (!is_write)
				break;
			refusals->count = refusals->nparked = 0;
			refusals->is_holding = refusals->releases = false;
			return;
		case KAPTURE_REFUSED:
			if (is_write && !task->is_known && task->state == KAPTURE_TASK_FAILED && task->failed.park)
				refusals_unknown(refusals, task, now);
			break;
		case KAPTURE_MISFIT:
			if (refusals->is_read[task->asked] && task->state == KAPTURE_TASK_FAILED)
				refusals_unreadable(refusals, task);
			break;
		case KAPTURE_DENIED:
			refusals_denied(refusals, task);
			break;
		case KAPTURE_THROTTLED:
			/* the throttling may be about this row alone, and others are to be tried */
			refusals->wants_fresh = !refusals->wants_fresh;
			break;
		case KAPTURE_BROKEN:
			break;
	}
	/* only a success ends the hold */
	if (refusals->is_holding && task->health == KAPTURE_STATE_OK)
		task->health = KAPTURE_STATE_REFUSING;
}

/*
 * kapture_refusals_release
 *		Has the rows wait that were parked before the server was held.
 *
 * To be called when the tasks' outcomes have been recorded.  Needs a transaction.
 */
void
kapture_refusals_release(KaptureRefusals *refusals, TimestampTz now)
{
	if (refusals->releases && refusals->nparked > 0)
		kapture_delivery_unpark(refusals->attachments, refusals->deliveries, refusals->nparked, refusals_next(now));
	if (refusals->releases)
		refusals->nparked = 0;
	refusals->releases = false;
}
