/*
 * capture.h
 *		The trigger that notes which rows of attached tables changed.
 */
#ifndef KAPTURE_CAPTURE_H
#define KAPTURE_CAPTURE_H

#include "base/catalog.h"

/* The triggers of an attachment without a name; see kapture_capture_trigger(). */
#define KAPTURE_TRIGGER				"kapture_capture"
#define KAPTURE_TRUNCATE_TRIGGER	"kapture_truncate"

extern void (*kapture_capture_emptied) (Oid relid, int32 attachment_id);
extern char *kapture_capture_trigger(const char *trigger, int32 attachment_id, const char *name);
extern void kapture_capture_existing(KaptureAttachment *att, const char *row_key);
extern void kapture_capture_again(KaptureAttachment *att, const char *row_key, int64 columns, bool force);
extern void kapture_capture_ignoring(int32 attachment_id, int64 customer_id, int64 columns,
									 void (*work) (void *arg), void *arg);

#endif							/* KAPTURE_CAPTURE_H */
