/*
 * history.h
 *		Lets entries of kapture_history go when they are too old.
 */
#ifndef KAPTURE_HISTORY_H
#define KAPTURE_HISTORY_H

#include "postgres.h"

#include "utils/timestamp.h"

extern TimestampTz kapture_history_expire(void);

#endif							/* KAPTURE_HISTORY_H */
