/*
 * restore.h
 *		Is a dump being restored?
 */
#ifndef KAPTURE_RESTORE_H
#define KAPTURE_RESTORE_H

#include "postgres.h"

extern bool kapture_is_restoring(void);

#endif							/* KAPTURE_RESTORE_H */
