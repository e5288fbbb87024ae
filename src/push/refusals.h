/*
 * refusals.h
 *		Refusals that are the account's matter, not the rows'.
 */
#ifndef KAPTURE_REFUSALS_H
#define KAPTURE_REFUSALS_H

#include "postgres.h"

#include "push/task.h"

/* Rows in a row that are refused in words that no rule knows, after which the server is held. */
#define KAPTURE_REFUSALS_MAX	20

/* So many if the server has been held for what was the rows' matter. */
#define KAPTURE_REFUSALS_MANY	200

/* Denials of a row's request, with requests of others taken between, after which it is the row's matter. */
#define KAPTURE_DENIALS_MAX		3

/* A row whose request was denied. */
typedef struct KaptureDenied
{
	int64		delivery_id;
	KaptureApi	api;
	int			times;
	bool		others;			/* those of other rows have been taken since */
} KaptureDenied;

/* What is known of how a server takes requests, under its present settings. */
typedef struct KaptureRefusals
{
	int			count;			/* refusals in unknown words since the last success */
	int			nparked;		/* rows that were parked for these: */
	int32		attachments[KAPTURE_REFUSALS_MANY];
	int64		deliveries[KAPTURE_REFUSALS_MANY];
	bool		is_holding;		/* it is the account: rows wait */
	bool		has_held;		/* before */
	bool		was_mistaken;	/* of that, rows were refused again when others had been taken */
	bool		releases;		/* the rows that were parked are to wait, too */
	bool		wants_fresh;	/* the next probe is to be a row that was not tried yet */
	bool		is_read[KAPTURE_API_COUNT]; /* requests to this API have been understood */
	int			ndenied;
	KaptureDenied denied[KAPTURE_REFUSALS_MAX];
} KaptureRefusals;

extern void kapture_refusals_judge(KaptureRefusals *refusals, KaptureTask *task, TimestampTz now);
extern void kapture_refusals_release(KaptureRefusals *refusals, TimestampTz now);

#endif							/* KAPTURE_REFUSALS_H */
