/*
 * claim.h
 *		Takes changes from the outbox and plans what to request for them.
 */
#ifndef KAPTURE_CLAIM_H
#define KAPTURE_CLAIM_H

#include "postgres.h"

#include "push/state.h"

extern int kapture_claim_room(WorkerTable *table, TimestampTz now);
extern void kapture_claim(Worker *worker);

#endif							/* KAPTURE_CLAIM_H */
