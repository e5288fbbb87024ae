/*
 * origin.h
 *		Tells whether this database is the original of its changes or a copy.
 */
#ifndef KAPTURE_ORIGIN_H
#define KAPTURE_ORIGIN_H

#include "postgres.h"

#include "utils/timestamp.h"

typedef enum KaptureOriginState
{
	KAPTURE_ORIGIN_OURS,
	KAPTURE_ORIGIN_COPY			/* nothing may be sent until kapture_resume() */
} KaptureOriginState;

typedef struct KaptureOrigin
{
	KaptureOriginState state;
	TimestampTz stamped_at;
	TimestampTz doubt_until;	/* Adds of changes until then may have been sent */
} KaptureOrigin;

extern bool kapture_origin_make_salt(void);
extern bool kapture_origin_claim(void);
extern KaptureOrigin kapture_origin_check(void);
extern void kapture_origin_forget_digests(void);
extern void kapture_origin_forget_server(Oid serverid);

#endif							/* KAPTURE_ORIGIN_H */
