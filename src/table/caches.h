/*
 * caches.h
 *		Keeps small what a process remembers of tables that it has opened.
 */
#ifndef KAPTURE_CACHES_H
#define KAPTURE_CACHES_H

#include "postgres.h"

typedef void (*KaptureForget) (void);

extern void kapture_caches_register(KaptureForget forget);
extern void kapture_caches_open(Oid relid);

#endif							/* KAPTURE_CACHES_H */
