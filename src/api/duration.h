/*
 * duration.h
 *		Lengths of time as users write them in options.
 */
#ifndef KAPTURE_DURATION_H
#define KAPTURE_DURATION_H

#include "postgres.h"

typedef enum KaptureDuration
{
	KAPTURE_DURATION_GOOD,
	KAPTURE_DURATION_BAD,		/* not a length of time */
	KAPTURE_DURATION_CALENDAR,	/* has months or years, whose length varies */
	KAPTURE_DURATION_BARE		/* a number without a unit, taken in the bare unit */
} KaptureDuration;

extern KaptureDuration kapture_duration_parse(const char *text, int64 bare_unit, int64 *usec);

#endif							/* KAPTURE_DURATION_H */
