/*
 * call_outcome.h
 *		What an answer, or none, means for a call.
 */
#ifndef KAPTURE_CALL_OUTCOME_H
#define KAPTURE_CALL_OUTCOME_H

#include "postgres.h"

#include "api/http.h"
#include "calls/call_queue.h"

/* What an answer says of the account. */
typedef enum KaptureCallHealth
{
	KAPTURE_CALLS_WELL,
	KAPTURE_CALLS_DENIED,		/* the key is refused */
	KAPTURE_CALLS_ASKED,		/* the server asks to be left alone for a while */
	KAPTURE_CALLS_SICK			/* the server does not answer as it should */
} KaptureCallHealth;

extern KaptureCallHealth kapture_call_outcome(const KaptureCall *call, const KaptureHttpAnswer *answer,
											  TimestampTz now, KaptureCallOutcome *outcome);

#endif							/* KAPTURE_CALL_OUTCOME_H */
