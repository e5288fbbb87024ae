/*
 * timer.c
 *		Things to be done later: at a time, by a thread of their own (a binary
 *		heap), or when they are released.
 */
#include "timer.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include "buf.h"
#include "clock.h"

typedef struct Timer
{
	int64_t		due;			/* ns of the monotonic clock */
	TimerFunction function;
	void	   *arg;
} Timer;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static Timer *heap;
static size_t count;
static size_t allocated;

static void
sift_up(size_t i)
{
	while (i > 0 && heap[i].due < heap[(i - 1) / 2].due)
	{
		Timer		swap = heap[i];

		heap[i] = heap[(i - 1) / 2];
		heap[(i - 1) / 2] = swap;
		i = (i - 1) / 2;
	}
}

static void
sift_down(size_t i)
{
	for (;;)
	{
		size_t		least = i;
		Timer		swap = heap[i];

		for (size_t child = 2 * i + 1; child <= 2 * i + 2; child++)
			if (child < count && heap[child].due < heap[least].due)
				least = child;
		if (least == i)
			return;
		heap[i] = heap[least];
		heap[least] = swap;
		i = least;
	}
}

static void *
run(void *arg)
{
	(void) arg;
	pthread_mutex_lock(&mutex);
	for (;;)
	{
		Timer		next;
		struct timespec until;

		if (count == 0)
		{
			pthread_cond_wait(&changed, &mutex);
			continue;
		}
		next = heap[0];
		if (next.due > clock_monotonic())
		{
			until.tv_sec = next.due / 1000000000;
			until.tv_nsec = next.due % 1000000000;
			pthread_cond_timedwait(&changed, &mutex, &until);
			continue;
		}
		heap[0] = heap[--count];
		sift_down(0);
		pthread_mutex_unlock(&mutex);
		next.function(next.arg);
		pthread_mutex_lock(&mutex);
	}
	return NULL;
}

void
timer_start(void)
{
	pthread_condattr_t attr;
	pthread_t	thread;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &attr);
	pthread_create(&thread, NULL, run, NULL);
	pthread_detach(thread);
}

void
timer_add(int64_t delay_ms, TimerFunction function, void *arg)
{
	pthread_mutex_lock(&mutex);
	if (count == allocated)
	{
		allocated = allocated ? allocated * 2 : 256;
		heap = xrealloc(heap, allocated * sizeof(Timer));
	}
	heap[count].due = clock_monotonic() + delay_ms * 1000000;
	heap[count].function = function;
	heap[count].arg = arg;
	sift_up(count++);
	pthread_cond_signal(&changed);
	pthread_mutex_unlock(&mutex);
}

static Timer *held;
static size_t held_count;

void
timer_hold(TimerFunction function, void *arg)
{
	pthread_mutex_lock(&mutex);
	held = xrealloc(held, (held_count + 1) * sizeof(Timer));
	held[held_count].function = function;
	held[held_count].arg = arg;
	held_count++;
	pthread_mutex_unlock(&mutex);
}

/* Does all that is held now. */
void
timer_release(void)
{
	Timer	   *list;
	size_t		n;

	pthread_mutex_lock(&mutex);
	list = held;
	n = held_count;
	held = NULL;
	held_count = 0;
	pthread_mutex_unlock(&mutex);
	for (size_t i = 0; i < n; i++)
		list[i].function(list[i].arg);
	free(list);
}
