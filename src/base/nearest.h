/*
 * nearest.h
 *		Finds the name that a user may have meant who wrote another one.
 */
#ifndef KAPTURE_NEAREST_H
#define KAPTURE_NEAREST_H

#include "postgres.h"

/* A name that was written, and the one most like it so far. */
typedef struct KaptureNearest
{
	const char *written;
	int			length;
	int			least;			/* distance of the nearest; at first, the limit */
	const char *nearest;		/* NULL: none is near enough */
} KaptureNearest;

extern void kapture_nearest_begin(KaptureNearest *state, const char *written);
extern void kapture_nearest_try(KaptureNearest *state, const char *name);

#endif							/* KAPTURE_NEAREST_H */
