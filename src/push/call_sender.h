/*
 * call_sender.h
 *		Sends the calls of kapture_send(), beside rows.
 */
#ifndef KAPTURE_CALL_SENDER_H
#define KAPTURE_CALL_SENDER_H

#include "postgres.h"

#include "api/http.h"
#include "push/state.h"

extern void kapture_calls_look(void);
extern bool kapture_calls_load(Worker *worker);
extern bool kapture_calls_take(KaptureHttpRequest *request);
extern void kapture_calls_ask_limiter(void);
extern void kapture_calls_claim(Worker *worker);
extern void kapture_calls_record(Worker *worker);
extern TimestampTz kapture_calls_next(Worker *worker);
extern int	kapture_calls_in_flight(void);
extern bool kapture_calls_any(void);

#endif							/* KAPTURE_CALL_SENDER_H */
