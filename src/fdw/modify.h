/*
 * modify.h
 *		Foreign tables: INSERT and UPDATE of customers.
 */
#ifndef KAPTURE_MODIFY_H
#define KAPTURE_MODIFY_H

#include "postgres.h"

#include "foreign/fdwapi.h"
#include "nodes/primnodes.h"

#include "api/columns.h"

extern KaptureRowKind kapture_fdw_table_kind(Oid relid);
extern void kapture_fdw_advise_created(RangeVar *table);
extern void kapture_fdw_add_modify(FdwRoutine *routine);

#endif							/* KAPTURE_MODIFY_H */
