/*
 * history.h
 *		Removes entries of kapture_history that are too old.
 */
#ifndef KAPTURE_HISTORY_H
#define KAPTURE_HISTORY_H

#include "postgres.h"

#include "utils/timestamp.h"

extern TimestampTz kapture_history_expire(void);

#endif							/* KAPTURE_HISTORY_H */
