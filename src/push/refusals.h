/*
 * refusals.h
 *		Refusals that are the account's matter, not the rows'.
 */
#ifndef KAPTURE_REFUSALS_H
#define KAPTURE_REFUSALS_H

#include "postgres.h"

#include "push/task.h"

/* The server is held after so many rows in a row were refused in words that no rule knows. */
#define KAPTURE_REFUSALS_MAX	20

/* The same, after the server was held for what turned out to be the rows' matter. */
#define KAPTURE_REFUSALS_MANY	200

/* A row is parked after so many denials of its request, with requests of other rows accepted in between. */
#define KAPTURE_DENIALS_MAX		3

/* A row whose request was denied. */
typedef struct KaptureDenied
{
	int64		delivery_id;
	KaptureApi	api;
	int			times;
	bool		others;			/* requests of other rows have been accepted since */
} KaptureDenied;

/* How a server has taken requests under its present settings. */
typedef struct KaptureRefusals
{
	int			count;			/* refusals in unknown words since the last success */
	int			nparked;		/* rows parked for these refusals: */
	int32		attachments[KAPTURE_REFUSALS_MANY];
	int64		deliveries[KAPTURE_REFUSALS_MANY];
	bool		is_holding;		/* the account is to blame: rows wait */
	bool		has_held;		/* the server was held before */
	bool		was_mistaken;	/* holding it was wrong: rows were refused again after others had been accepted */
	bool		releases;		/* the parked rows are to wait, too */
	bool		wants_fresh;	/* the next probe is to be a row that was not tried yet */
	bool		is_read[KAPTURE_API_COUNT]; /* Kapture has read requests to this API */
	int			ndenied;
	KaptureDenied denied[KAPTURE_REFUSALS_MAX];
} KaptureRefusals;

extern void kapture_refusals_judge(KaptureRefusals *refusals, KaptureTask *task, TimestampTz now);
extern void kapture_refusals_release(KaptureRefusals *refusals, TimestampTz now);

#endif							/* KAPTURE_REFUSALS_H */
