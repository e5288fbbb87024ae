/*
 * retained.h
 *		Which owner's code leaves memory behind in the background processes.
 */
#ifndef KAPTURE_RETAINED_H
#define KAPTURE_RETAINED_H

#include "postgres.h"

extern void kapture_retained_begin(void);
extern bool kapture_retained_end(Oid owner, int32 attachment_id);
extern void kapture_retained_give_back(int32 attachment_id, Size bytes);

#endif							/* KAPTURE_RETAINED_H */
