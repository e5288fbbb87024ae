/*
 * written.h
 *		Customers that sessions have written in Kapture themselves.
 */
#ifndef KAPTURE_WRITTEN_H
#define KAPTURE_WRITTEN_H

#include "postgres.h"

extern void kapture_written_note(const char *server, int64 customer_id);

#endif							/* KAPTURE_WRITTEN_H */
