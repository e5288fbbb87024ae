/*
 * worker.h
 *		The process that brings the changes of one database to Kapture.
 */
#ifndef KAPTURE_WORKER_H
#define KAPTURE_WORKER_H

#include "postgres.h"

extern PGDLLEXPORT void kapture_worker_main(Datum arg);

#endif							/* KAPTURE_WORKER_H */
