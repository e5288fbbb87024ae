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

#endif
