/*
 * remote_writes.h
 *		What Kapture keeps of a transaction that is rolled back.
 */
#ifndef KAPTURE_REMOTE_WRITES_H
#define KAPTURE_REMOTE_WRITES_H

#include "postgres.h"

/* What became of a request that writes. */
typedef enum KaptureWritten
{
	KAPTURE_WRITTEN_NOTHING,
	KAPTURE_WRITTEN_ADD,
	KAPTURE_WRITTEN_UPDATE,
	KAPTURE_WRITTEN_UNKNOWN
} KaptureWritten;

extern void kapture_undone_begin_request(void);
extern void kapture_undone_end_request(KaptureWritten written, int64 customer_id);

#endif							/* KAPTURE_REMOTE_WRITES_H */
