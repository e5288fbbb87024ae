/*
 * apply.h
 *		Puts pulled customers into the rows of attached tables.
 */
#ifndef KAPTURE_APPLY_H
#define KAPTURE_APPLY_H

#include "postgres.h"

#include "queue/inbox.h"

extern int	kapture_arrival_ids(KaptureAttachment *att, int64 after, int limit, int64 *ids);
extern int	kapture_arrival_apply(KaptureAttachment *att, const char *timezone, List *arrivals);

#endif							/* KAPTURE_APPLY_H */
