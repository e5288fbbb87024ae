/*
 * launcher.h
 *		The process that sees to it that each database with the extension
 *		has a worker.
 */
#ifndef KAPTURE_LAUNCHER_H
#define KAPTURE_LAUNCHER_H

#include "postgres.h"

extern void kapture_launcher_register(void);

extern PGDLLEXPORT void kapture_launcher_main(Datum arg);

#endif							/* KAPTURE_LAUNCHER_H */
