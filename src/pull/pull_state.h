/*
 * pull_state.h
 *		The state of automatic pulls: table kapture_pull.
 */
#ifndef KAPTURE_PULL_STATE_H
#define KAPTURE_PULL_STATE_H

#include "postgres.h"

#include "utils/timestamp.h"

typedef struct KapturePullState
{
	TimestampTz pulled_until;	/* the watermark; DT_NOBEGIN: never pulled */
	TimestampTz started_at;		/* of the latest pull; DT_NOBEGIN: none */
	bool		pulling;		/* the latest pull is not done */
	int			failures;		/* in a row */
	TimestampTz next_pull;		/* or the next try; DT_NOBEGIN: not known */
	TimestampTz sweep_started_at;	/* DT_NOBEGIN: never */
	bool		sweeping;		/* the latest sweep is not done */
	int64		sweep_after;	/* the last customer that the sweep is done with */
	bool		asked;			/* kapture_pull_now() was called since the latest pull began */
} KapturePullState;

extern void kapture_pull_state_read(const char *server, KapturePullState *state);
extern void kapture_pull_state_begin(const char *server, TimestampTz pulled_until,
									 Timestamp start, Timestamp end);
extern void kapture_pull_state_window(const char *server, TimestampTz pulled_until,
									  Timestamp done_until, int64 windows_left,
									  int64 customers, int64 written);
extern void kapture_pull_state_end(const char *server, TimestampTz next_pull);
extern void kapture_pull_state_shift(int64 jump);
extern void kapture_pull_state_fail(const char *server, const char *error, TimestampTz next_pull);
extern void kapture_pull_state_sweep(const char *server, bool begin);
extern void kapture_pull_state_swept(const char *server, int64 customer_id, bool changed);
extern void kapture_pull_state_tidy(void);

#endif							/* KAPTURE_PULL_STATE_H */
