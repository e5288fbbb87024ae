/*
 * capture_buffer.h
 *		Changes captured by the running transaction, on their way to the
 *		outbox.
 */
#ifndef KAPTURE_CAPTURE_BUFFER_H
#define KAPTURE_CAPTURE_BUFFER_H

#include "postgres.h"

extern void kapture_notes_add(int32 attachment_id, char op, int64 changed,
							  const char *row_key, const char *old_key);
extern void kapture_notes_flush(void);

#endif							/* KAPTURE_CAPTURE_BUFFER_H */
