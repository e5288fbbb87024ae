/*
 * kept.h
 *		Which owner's code leaves memory behind in the background processes.
 */
#ifndef KAPTURE_KEPT_H
#define KAPTURE_KEPT_H

#include "postgres.h"

extern void kapture_kept_begin(void);
extern bool kapture_kept_end(Oid owner, int32 attachment_id);
extern void kapture_kept_give_back(int32 attachment_id, Size bytes);

#endif							/* KAPTURE_KEPT_H */
