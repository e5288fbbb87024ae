/*
 * transaction.h
 *		The worker's transactions, and what is reported of those that fail.
 */
#ifndef KAPTURE_TRANSACTION_H
#define KAPTURE_TRANSACTION_H

#include "postgres.h"

#include "cluster/guard.h"
#include "push/state.h"

extern ErrorData *kapture_transaction_run(Worker *worker, const char *activity, KaptureGuarded work, void *arg);
extern TimestampTz kapture_transaction_retry_at(int errors);
extern void kapture_transaction_report_error(KapturePhase phase, WorkerTable *table, const char *row_key,
											 const ErrorData *error);
extern void kapture_transaction_report_success(KapturePhase phase, WorkerTable *table);
extern bool kapture_transaction_try_within(KaptureGuarded work, void *arg, WorkerTable *table);

#endif							/* KAPTURE_TRANSACTION_H */
