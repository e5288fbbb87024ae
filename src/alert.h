/*
 * alert.h
 *		Notifications on channel kapture_sync, for whoever wants to be called.
 */
#ifndef KAPTURE_ALERT_H
#define KAPTURE_ALERT_H

#include "postgres.h"

extern void kapture_alert_parked(Oid relid, const char *server, int rows);
extern void kapture_alert_server(const char *server, const char *before, const char *state);

#endif							/* KAPTURE_ALERT_H */
