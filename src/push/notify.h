/*
 * notify.h
 *		Notifications on channel kapture_sync, for whoever wants to be called.
 */
#ifndef KAPTURE_NOTIFY_H
#define KAPTURE_NOTIFY_H

#include "postgres.h"

#include "base/catalog.h"

/* The share of parked rows is taken of so many that were done with last. */
#define KAPTURE_ALERT_WINDOW	100

/* What became of a table's rows.  Begins zeroed. */
typedef struct KaptureOutcomes
{
	bool		window[KAPTURE_ALERT_WINDOW];	/* a ring: was it parked? */
	int			at;				/* where the next one goes */
	int			parked;			/* of those in the window */
	bool		above;			/* the share was last said to be too large */

	/* of the running transaction */
	int			new_parked;
	bool		first;			/* there was none in the window before */
	char		cause[256];		/* why the first one was parked, for the log, or "" */
} KaptureOutcomes;

extern void kapture_alert_note(KaptureOutcomes *outcomes, bool parked);
extern void kapture_alert_note_cause(KaptureOutcomes *outcomes, const char *cause);
extern void kapture_alert_table(const KaptureAttachment *att, const char *server, KaptureOutcomes *outcomes);
extern void kapture_alert_calls(const char *server, const char *state, int calls);
extern void kapture_alert_server(const char *server, const char *before, const char *state);

#endif							/* KAPTURE_NOTIFY_H */
