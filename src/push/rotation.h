/*
 * rotation.h
 *		Whose request to a server is next: owners take turns.
 */
#ifndef KAPTURE_ROTATION_H
#define KAPTURE_ROTATION_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "lib/ilist.h"

struct Worker;
/* Something that has requests to send to a server in an owner's name: rows, or calls of an API. */
typedef struct KaptureRotating
{
	dlist_node	node;
	dlist_node	waiting;		/* while it waits in a round */
	struct KaptureRotatingOwner *owner;
	uint64		last;			/* number of its last turn */

	void	   *what;			/* argument of both functions */

	/* returns when the next request may be sent; DT_NOEND: not before an answer */
	TimestampTz (*next) (struct Worker *worker, void *what);

	/* sends up to "most" requests; returns whether any was sent */
	bool		(*send) (struct Worker *worker, void *what, int most);
} KaptureRotating;

extern void kapture_rotation_join(KaptureRotating *rotating, Oid owner, const char *server);
extern void kapture_rotation_leave(KaptureRotating *rotating);
extern void kapture_rotation_run(struct Worker *worker);

#endif							/* KAPTURE_ROTATION_H */
