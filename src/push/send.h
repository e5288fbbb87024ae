/*
 * send.h
 *		Sends the requests of tasks.
 */
#ifndef KAPTURE_SEND_H
#define KAPTURE_SEND_H

#include "postgres.h"

#include "push/state.h"

extern TimestampTz kapture_send_next(WorkerServer *server);
extern void kapture_send_ask_limiter(Worker *worker);
extern void kapture_send(Worker *worker);
extern void kapture_send_join(WorkerServer *server);

#endif							/* KAPTURE_SEND_H */
