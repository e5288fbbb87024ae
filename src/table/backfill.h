/*
 * backfill.h
 *		Has the rows of an attached table sent that were there before.
 */
#ifndef KAPTURE_BACKFILL_H
#define KAPTURE_BACKFILL_H

#include "postgres.h"

#include "base/catalog.h"

extern char *kapture_backfill_hint(KaptureAttachment *att);

#endif							/* KAPTURE_BACKFILL_H */
