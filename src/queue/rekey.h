/*
 * rekey.h
 *		Has what waits for an attached table follow it to another primary key.
 */
#ifndef KAPTURE_REKEY_H
#define KAPTURE_REKEY_H

#include "postgres.h"

#include "nodes/pg_list.h"

extern void kapture_rekey_altered(Oid relid, List *commands);

#endif							/* KAPTURE_REKEY_H */
