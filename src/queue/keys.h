/*
 * keys.h
 *		Which row has a key, after changes of keys and deletions.
 */
#ifndef KAPTURE_KEYS_H
#define KAPTURE_KEYS_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/timestamp.h"

/* Something that happened to a row's key; see capture_buffer.h. */
typedef struct KaptureKeyEvent
{
	char		op;
	bool		kept;			/* the deleted row came back in the same command: */
	int32		kept_by;		/* seq of the event that brought it back; 0: it is the only row */
	bool		met;			/* the deleted row had a delivery: */
	int64		delivery_id;	/* the id of that delivery */
	int64		customer_id;	/* of a deleted row; 0 if it had none, or KAPTURE_NOTE_NOT_KNOWN */
	uint64		xact;
	int			place;			/* of the transaction in the order of commits */
	int32		command;
	int32		seq;
	int32		arrival;		/* seq of the event that gave the row its key; 0: had it before; or
								 * KAPTURE_NOTE_ONLY_ROW */
	const char *key;			/* the key before, or of an inserted row, or "" */
	const char *new_key;		/* the key after a change of key, else NULL */
	int64		changed;
	TimestampTz captured_at;
	struct KaptureKeyEvent *end;	/* the last event that the row meets */
	const char *final_key;		/* the row's key in the end; NULL: it is deleted */
} KaptureKeyEvent;

typedef struct KaptureKeys KaptureKeys;

extern KaptureKeys *kapture_keys_create(void);
extern void kapture_keys_add(KaptureKeys *keys, const KaptureKeyEvent *event);
extern void kapture_keys_add_end(KaptureKeys *keys, uint64 xact, int64 rank, Datum snapshot);
extern void kapture_keys_arrange(KaptureKeys *keys);
extern bool kapture_keys_any(const KaptureKeys *keys, char op);
extern bool kapture_keys_only(const KaptureKeys *keys, char op);
extern int	kapture_keys_count(const KaptureKeys *keys);
extern KaptureKeyEvent *kapture_keys_event(const KaptureKeys *keys, int i);
extern const char *kapture_keys_follow(KaptureKeys *keys, const char *key, KaptureKeyEvent **last);
extern const char *kapture_keys_follow_event(const KaptureKeyEvent *event);
extern const char *kapture_keys_follow_change(KaptureKeys *keys, const char *key, uint64 xact, int32 seq);

#endif							/* KAPTURE_KEYS_H */
