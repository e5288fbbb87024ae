/*
 * rekey.h
 *		Has what waits for an attached table follow it to another primary key.
 */
#ifndef KAPTURE_REKEY_H
#define KAPTURE_REKEY_H

#include "postgres.h"

extern void kapture_rekey_altered(Oid relid);

#endif							/* KAPTURE_REKEY_H */
