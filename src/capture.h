/*
 * capture.h
 *		The trigger that notes which rows of attached tables changed.
 */
#ifndef KAPTURE_CAPTURE_H
#define KAPTURE_CAPTURE_H

#include "catalog.h"

extern void kapture_capture_existing(KaptureAttachment *att, const char *row_key);

#endif							/* KAPTURE_CAPTURE_H */
