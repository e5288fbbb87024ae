/*
 * notify.h
 *		Notifications on channel kapture_sync, for whoever wants to be notified.
 */
#ifndef KAPTURE_NOTIFY_H
#define KAPTURE_NOTIFY_H

#include "postgres.h"

#include "base/catalog.h"

/* The share of parked rows is that among so many rows finished last. */
#define KAPTURE_ALERT_WINDOW	100

/* What became of a table's rows.  Begins zeroed. */
typedef struct KaptureOutcomes
{
	bool		window[KAPTURE_ALERT_WINDOW];	/* a ring: was the row parked? */
	int			at;				/* where the next one goes */
	int			parked;			/* rows in the window that were parked */
	bool		above;			/* the last notification of the share said that it is too large */

	/* of the running transaction */
	int			new_parked;
	bool		first;			/* the window had no parked row before */
	char		cause[256];		/* why the first one was parked, for the log, or "" */
} KaptureOutcomes;

extern void kapture_alert_note(KaptureOutcomes *outcomes, bool parked);
extern void kapture_alert_note_cause(KaptureOutcomes *outcomes, const char *cause);
extern void kapture_alert_table(const KaptureAttachment *att, const char *server, KaptureOutcomes *outcomes);
extern void kapture_alert_calls(const char *server, const char *state, int calls);
extern void kapture_alert_server(const char *server, const char *before, const char *state);

#endif							/* KAPTURE_NOTIFY_H */
