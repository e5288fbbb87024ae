/*
 * key_parts.h
 *		Reads what has happened to keys, in parts that fit into memory.
 */
#ifndef KAPTURE_KEY_PARTS_H
#define KAPTURE_KEY_PARTS_H

#include "postgres.h"

#include "utils/portal.h"

#include "queue/keys.h"
#include "queue/scan.h"

/* What a part is. */
typedef enum KaptureKeyStep
{
	KAPTURE_KEYS_WHOLE,			/* whole commands */
	KAPTURE_KEYS_LEAVE,			/* some rows of a large command: they leave their keys */
	KAPTURE_KEYS_ARRIVE			/* some rows of that command, which arrive at the new ones */
} KaptureKeyStep;

/* Events that are read one by one. */
typedef struct KaptureKeyCursor
{
	Portal		portal;
	struct PartsRow *next;		/* the first event that is not in a part yet */
	MemoryContext context;		/* of that event */
} KaptureKeyCursor;

/* Reading of an attachment's events, part by part. */
typedef struct KaptureKeyParts
{
	int32		attachment_id;
	KaptureScan *scan;
	bool		several;		/* the events do not fit into one part */

	/* of the part that was returned last: */
	KaptureKeyStep step;
	bool		enter;			/* the changes before "limit" are to be entered, under the keys that the part gives rows */
	bool		last;			/* no event follows, so "limit" does not count */
	KaptureScanLimit limit;

	/* private to key_parts.c */
	KaptureKeyCursor events;	/* all events in order */
	KaptureKeyCursor arrivals;	/* the events of a large command again */
	uint64		xact;			/* of that command */
	int32		command;
	MemoryContext context;		/* of what outlives a part */
	MemoryContext transaction_context;	/* of what is known of the next event's transaction: */
	Datum		snapshot;		/* pg_snapshot; 0: unknown */
	char	   *between;		/* begins the keys of rows that have left, but not arrived yet */
	int			max_also;
} KaptureKeyParts;

extern void kapture_key_parts_begin(KaptureKeyParts *parts, int32 attachment_id, KaptureScan *scan, MemoryContext context);
extern KaptureKeys *kapture_key_parts_next(KaptureKeyParts *parts);
extern void kapture_key_parts_end(KaptureKeyParts *parts);

#endif							/* KAPTURE_KEY_PARTS_H */
