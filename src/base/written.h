/*
 * written.h
 *		Customers that sessions have written in Kapture themselves.
 */
#ifndef KAPTURE_WRITTEN_H
#define KAPTURE_WRITTEN_H

#include "postgres.h"

#include "nodes/pg_list.h"

extern void kapture_written_install(void);
extern void kapture_written_note(Oid serverid, int64 customer_id);
extern bool kapture_written_untaken(List **servers);

#endif							/* KAPTURE_WRITTEN_H */
