/*
 * steady.h
 *		A clock that nobody sets.
 */
#ifndef KAPTURE_STEADY_H
#define KAPTURE_STEADY_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern TimestampTz kapture_steady_now(void);
extern TimestampTz kapture_steady_at(TimestampTz when);
extern TimestampTz kapture_steady_to_wall(TimestampTz steady);

#endif							/* KAPTURE_STEADY_H */
