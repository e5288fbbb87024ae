/*
 * capture.h
 *		The trigger that notes which rows of attached tables changed.
 */
#ifndef KAPTURE_CAPTURE_H
#define KAPTURE_CAPTURE_H

extern void kapture_capture_flush(void);

#endif							/* KAPTURE_CAPTURE_H */
