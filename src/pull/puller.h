/*
 * puller.h
 *		The process that pulls customers of one database from Kapture automatically.
 */
#ifndef KAPTURE_PULLER_H
#define KAPTURE_PULLER_H

#include "postgres.h"

extern PGDLLEXPORT void kapture_puller_main(Datum arg);

#endif							/* KAPTURE_PULLER_H */
