/*
 * attach.h
 *		Attaching tables, and steering the sync of attached ones.
 */
#ifndef KAPTURE_ATTACH_H
#define KAPTURE_ATTACH_H

#include "postgres.h"

extern void kapture_attach_column_renamed(Oid relid, const char *from, const char *to);

#endif							/* KAPTURE_ATTACH_H */
