/*
 * server_health.h
 *		The state of servers: what their answers say of them, the circuit breaker,
 *		and how many requests they are sent at a time.
 */
#ifndef KAPTURE_SERVER_HEALTH_H
#define KAPTURE_SERVER_HEALTH_H

#include "postgres.h"

#include "push/state.h"

extern void kapture_health_tell_room(bool room);
extern void kapture_health_report(Worker *worker, WorkerServer *server, const char *message);
extern int kapture_health_connections(WorkerServer *server);
extern void kapture_health_renew(Worker *worker, WorkerServer *server, TimestampTz now);
extern void kapture_health_note(Worker *worker, const WorkerTask *task, TimestampTz now);

#endif							/* KAPTURE_SERVER_HEALTH_H */
