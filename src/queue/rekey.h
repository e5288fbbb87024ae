/*
 * rekey.h
 *		Has the waiting changes of an attached table follow its rows to another primary key.
 */
#ifndef KAPTURE_REKEY_H
#define KAPTURE_REKEY_H

#include "postgres.h"

#include "nodes/pg_list.h"

extern void kapture_rekey_altered(Oid relid, List *commands);
extern void kapture_rekey_renamed_value(Oid type, const char *old_name, const char *new_name);

#endif							/* KAPTURE_REKEY_H */
