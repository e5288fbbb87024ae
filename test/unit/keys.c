/*
 * keys.c
 *		Checks of row keys as text (base/catalog.c), and of what becomes of them
 *		(queue/keys.c), by random histories.
 *
 *	KAPTURE_KEYS_SEED	repeats a history that failed
 */
#include "unit.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"

#include "base/catalog.h"
#include "queue/keys.h"
#include "table/capture_buffer.h"

/* --- histories of rows whose keys a deferred constraint lets collide for a while */

#define HISTORY_ROWS	40
#define HISTORY_CHECKS	400
#define HISTORY_KEYS	5

typedef struct HistoryRow
{
	int			base_key;		/* before all; 0: it was not there */
	int			key;			/* 0: it is not there */
	int			next_key;		/* after the running command */
	bool		changes;		/* by it, another column */
	bool		acts;			/* as to its key */
	int32		arrival;
} HistoryRow;

/* What is to be asked of the events: what has become of a row since a change. */
typedef struct HistoryCheck
{
	int			row;
	int			key;
	uint64		xact;
	int32		seq;
	bool		placed;
} HistoryCheck;

typedef struct History
{
	pg_prng_state prng;
	KaptureKeys *keys;
	HistoryRow	rows[HISTORY_ROWS];
	int			nrows;
	HistoryCheck checks[HISTORY_CHECKS];
	int			nchecks;
	uint64		xact;
	int32		seq;
	bool		deferred;		/* two rows may have had one key by now */
} History;

static int
history_pick(History *history, int n)
{
	return (int) pg_prng_uint64_range(&history->prng, 1, n);
}

static const char *
history_text(int key)
{
	return key == 0 ? NULL : psprintf("%d", key);
}

/* Have two rows one key after the running command?  The second of them, or -1. */
static int
history_collision(const History *history)
{
	for (int i = 0; i < history->nrows; i++)
	{
		for (int k = 0; k < i && history->rows[i].next_key != 0; k++)
		{
			if (history->rows[k].next_key == history->rows[i].next_key)
				return i;
		}
	}
	return -1;
}

/* Chooses what a command does. */
static void
history_choose(History *history)
{
	/* one that deletes, too, would be taken for a move */
	if (history_pick(history, 5) == 1 && history->nrows < HISTORY_ROWS)
	{
		history->rows[history->nrows++].next_key = history_pick(history, HISTORY_KEYS);
		return;
	}
	for (int i = 0; i < history->nrows; i++)
	{
		HistoryRow *row = &history->rows[i];
		int			choice = history_pick(history, 10);

		if (row->key == 0)
			continue;
		row->changes = choice == 1;
		row->acts = choice >= 2 && choice <= 5;
		if (choice == 2)
			row->next_key = 0;
		else if (row->acts)
			row->next_key = history_pick(history, HISTORY_KEYS);
		row->acts = row->next_key != row->key;
	}
}

/* Those that would have one key get others, before the transaction ends. */
static void
history_untangle(History *history)
{
	int			i;

	while ((i = history_collision(history)) >= 0)
	{
		history->rows[i].next_key = history_pick(history, HISTORY_ROWS);
		history->rows[i].acts = history->rows[i].next_key != history->rows[i].key;
	}
}

/* Notes what the running command does to a row, as the capture does. */
static void
history_note(History *history, int i, int32 command)
{
	HistoryRow *row = &history->rows[i];
	bool		inserted = row->key == 0;
	KaptureKeyEvent event = {
		.xact = history->xact,.command = command,.seq = ++history->seq,
		.arrival = history->deferred ? row->arrival : KAPTURE_NOTE_ONLY_ROW,
		.key = history_text(inserted ? row->next_key : row->key)
	};

	if (row->acts && row->next_key == 0)
		event.op = KAPTURE_NOTE_DELETED;
	else if (row->acts && !inserted)
	{
		event.op = KAPTURE_NOTE_REKEYED;
		event.new_key = history_text(row->next_key);
	}
	else
		event.op = KAPTURE_NOTE_PLACED;
	if (history->deferred && row->acts)
		row->arrival = event.seq;
	if (history->deferred && inserted)
		event.arrival = event.seq;
	if (event.op != KAPTURE_NOTE_PLACED || history->deferred)
		kapture_keys_add(history->keys, &event);
	if (row->next_key != 0 && history->nchecks < HISTORY_CHECKS)
		history->checks[history->nchecks++] = (HistoryCheck)
	{
		i, row->next_key, history->xact, event.seq, event.op != KAPTURE_NOTE_PLACED || history->deferred
	};
}

static void
history_command(History *history, bool last)
{
	int32		command = history->seq + 1;

	for (int i = 0; i < HISTORY_ROWS; i++)
	{
		history->rows[i].changes = history->rows[i].acts = false;
		history->rows[i].next_key = history->rows[i].key;
	}
	if (last)
		history_untangle(history);
	else
		history_choose(history);
	history->deferred |= history_collision(history) >= 0;
	for (int i = 0; i < history->nrows; i++)
	{
		HistoryRow *row = &history->rows[i];

		if (row->key == 0 && row->next_key != 0)
			row->acts = true;
		if (row->acts || row->changes)
			history_note(history, i, command);
		row->key = row->next_key;
	}
}

/* Asks what has become of a row; true if the events say what has happened. */
static bool
history_agrees(History *history, const HistoryCheck *check)
{
	const char *expected = history_text(history->rows[check->row].key);
	const char *got = NULL;
	KaptureKeyEvent *last;

	if (check->xact == 0)
		got = kapture_keys_follow(history->keys, history_text(check->key), &last);
	else if (!check->placed)
		got = kapture_keys_follow_change(history->keys, history_text(check->key), check->xact, check->seq);
	for (int i = 0; check->placed && i < kapture_keys_count(history->keys); i++)
	{
		KaptureKeyEvent *event = kapture_keys_event(history->keys, i);

		if (event->xact == check->xact && event->seq == check->seq)
			got = kapture_keys_follow_event(event);
	}
	if (got == expected || (got && expected && strcmp(got, expected) == 0))
		return true;
	printf("#   key %d of change %d of transaction " UINT64_FORMAT ": got %s, expected %s\n", check->key, check->seq,
		   check->xact, got ? got : "none", expected ? expected : "none");
	return false;
}

/* Do the events say of each row what has become of it? */
static bool
history_run(uint64 seed)
{
	History    *history = palloc0(sizeof(History));
	bool		agrees = true;

	pg_prng_seed(&history->prng, seed);
	history->keys = kapture_keys_create();
	history->nrows = HISTORY_KEYS - 1;
	for (int i = 0; i < history->nrows; i++)
	{
		history->rows[i].key = history->rows[i].base_key = i + 1;
		history->checks[history->nchecks++] = (HistoryCheck){i, i + 1, 0, 0, false};
	}
	for (history->xact = 1; history->xact <= 3; history->xact++)
	{
		int			ncommands = history_pick(history, 5);

		history->seq = 0;
		history->deferred = false;
		for (int i = 0; i < HISTORY_ROWS; i++)
			history->rows[i].arrival = 0;
		for (int c = 0; c <= ncommands; c++)
			history_command(history, c == ncommands);
	}
	kapture_keys_arrange(history->keys);
	for (int i = 0; i < history->nchecks && agrees; i++)
		agrees = history_agrees(history, &history->checks[i]);
	return agrees;
}

static void
unit_keys_histories(void)
{
	const char *given = getenv("KAPTURE_KEYS_SEED");
	uint64		seed = given ? strtou64(given, NULL, 10) : (uint64) GetCurrentTimestamp();
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "histories", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	bool		agrees = true;

	for (int i = 0; i < 2000 && agrees; i++)
	{
		agrees = history_run(seed + i);
		if (!agrees)
			printf("#   KAPTURE_KEYS_SEED=" UINT64_FORMAT "\n", seed + i);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	unit_ok(agrees, "each row is followed through changes of keys that collide for a while");
}

void
unit_keys(void)
{
	static const struct
	{
		int			n;
		const char *values[3];
		const char *packed;
	}			cases[] = {
		{1, {"42"}, "42"},
		{1, {"{a,b}"}, "{a,b}"},
		{1, {""}, ""},
		{2, {"1", "2"}, "{1,2}"},
		{2, {"", "NULL"}, "{\"\",\"NULL\"}"},
		{3, {"a,b", "say \"x\"", "back\\slash"}, "{\"a,b\",\"say \\\"x\\\"\",\"back\\\\slash\"}"},
		{2, {" padded ", "{}"}, "{\" padded \",\"{}\"}"},
		{2, {"\xc3\xa4", "line\nbreak"}, "{\xc3\xa4,\"line\nbreak\"}"},
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		char	   *packed = kapture_catalog_pack_key((char **) cases[i].values, cases[i].n);
		char	  **values = kapture_catalog_unpack_key(packed, cases[i].n);

		unit_is_text(packed, cases[i].packed, "a key is packed");
		for (int k = 0; k < cases[i].n; k++)
			unit_is_text(values[k], cases[i].values[k], "and unpacked");
	}
	unit_ok(kapture_catalog_unpack_key("42", 2) == NULL, "one value is no key of two columns");
	unit_ok(kapture_catalog_unpack_key("{1,2,3}", 2) == NULL, "nor are three");
	unit_keys_histories();
}
