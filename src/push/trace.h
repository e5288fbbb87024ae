/*
 * trace.h
 *		In a build for tests, notes which transitions tasks take.
 *
 * They are nothing but in a build with KAPTURE_FAULT_POINTS ("make fault_points"), for
 * test/t/097_transitions.pl, which compares them with those of the model.
 */
#ifndef KAPTURE_TRACE_H
#define KAPTURE_TRACE_H

#include "postgres.h"

#include "push/task.h"

#ifndef KAPTURE_FAULT_POINTS

#define KAPTURE_TRACE(task, on)	((void) 0)
#define KAPTURE_TRACE_ANSWER(task, answer)	((void) 0)

#else

#define KAPTURE_TRACE(task, on)	kapture_trace_task(task, on)
#define KAPTURE_TRACE_ANSWER(task, answer) \
	kapture_trace_task(task, kapture_trace_verdict(task, answer))

extern void kapture_trace_task(KaptureTask *task, const char *on);
extern const char *kapture_trace_verdict(const KaptureTask *task, const KaptureHttpAnswer *answer);

#endif							/* KAPTURE_FAULT_POINTS */
#endif							/* KAPTURE_TRACE_H */
