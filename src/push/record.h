/*
 * record.h
 *		Records what answers mean: ids in rows, deliveries in the history or to be
 *		tried again.
 */
#ifndef KAPTURE_RECORD_H
#define KAPTURE_RECORD_H

#include "postgres.h"

#include "push/state.h"

/* Milliseconds after the first answer, in which others are waited for, to be recorded with it. */
#define KAPTURE_RECORD_DELAY	5

extern void kapture_record_alert(Worker *worker);
extern void kapture_record_settle(Worker *worker, dlist_head *tasks);
extern void kapture_record_collect(Worker *worker);
extern bool kapture_record_is_due(Worker *worker);
extern void kapture_record_settle_apart(Worker *worker, dlist_head *tasks);
extern TimestampTz kapture_record_next(Worker *worker);
extern void kapture_record_keep(Worker *worker, dlist_head *tasks);
extern void kapture_record_rest(Worker *worker);
extern void kapture_record(Worker *worker);

#endif							/* KAPTURE_RECORD_H */
