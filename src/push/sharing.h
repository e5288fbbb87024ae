/*
 * sharing.h
 *		One customer, one row.
 */
#ifndef KAPTURE_SHARING_H
#define KAPTURE_SHARING_H

#include "postgres.h"

#include "push/state.h"

extern void kapture_sharing_check_reports(Worker *worker, dlist_head *ready, dlist_head *settled, TimestampTz now);
extern void kapture_sharing_settle(Worker *worker, dlist_head *settled, TimestampTz now);

#endif							/* KAPTURE_SHARING_H */
