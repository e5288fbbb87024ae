/*
 * timer.h
 *		Things to be done later, by a thread of their own.
 */
#ifndef TIMER_H
#define TIMER_H

#include <stdint.h>

typedef void (*TimerFunction) (void *arg);

extern void timer_start(void);
extern void timer_add(int64_t delay_ms, TimerFunction function, void *arg);

/* What waits not for a time but for timer_release(). */
extern void timer_hold(TimerFunction function, void *arg);
extern void timer_release(void);

#endif
