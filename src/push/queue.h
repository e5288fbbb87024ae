/*
 * queue.h
 *		The tasks of claimed rows, as the worker has them in memory.
 */
#ifndef KAPTURE_QUEUE_H
#define KAPTURE_QUEUE_H

#include "postgres.h"

#include "push/state.h"

extern void kapture_queue_create(Worker *worker);
extern WorkerTask *kapture_queue_make_task(Worker *worker, WorkerTable *table, KaptureDelivery *delivery);
extern void kapture_queue_discard(Worker *worker, dlist_head *tasks);
extern void kapture_queue_move(dlist_head *from, dlist_head *to, WorkerTable *table);
extern void kapture_queue_follow(Worker *worker, WorkerTable *table, dlist_head *settled);
extern WorkerTask *kapture_queue_next(HASH_SEQ_STATUS *status);
extern void kapture_queue_hurry(Worker *worker, List *attachments, TimestampTz now);
extern void kapture_queue_take_back(WorkerServer *server, TimestampTz now, dlist_head *settled);
extern void kapture_queue_put_off(List *rows);
extern void kapture_queue_excuse(Worker *worker, const WorkerTable *table, KaptureDelivery *delivery);
extern void kapture_queue_forget_raised(Worker *worker, const KaptureDelivery *delivery);

#endif							/* KAPTURE_QUEUE_H */
