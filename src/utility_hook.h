/*
 * utility_hook.h
 *		Makes workers step aside for commands that need their database, and tells
 *		workers of commands that concern them.
 */
#ifndef KAPTURE_UTILITY_HOOK_H
#define KAPTURE_UTILITY_HOOK_H

#include "postgres.h"

extern void kapture_wayside_install(void);

#endif							/* KAPTURE_UTILITY_HOOK_H */
