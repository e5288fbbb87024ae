/*
 * wayside.h
 *		Makes workers step aside for commands that need their database, and
 *		tells them of commands that concern them.
 */
#ifndef KAPTURE_WAYSIDE_H
#define KAPTURE_WAYSIDE_H

#include "postgres.h"

extern void kapture_wayside_install(void);
extern bool kapture_wayside_is_restoring(void);

#endif							/* KAPTURE_WAYSIDE_H */
