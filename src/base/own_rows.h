/*
 * own_rows.h
 *		Adds many rows at a time to the extension's own tables, and numbers new entries.
 */
#ifndef KAPTURE_OWN_ROWS_H
#define KAPTURE_OWN_ROWS_H

#include "postgres.h"

#include "storage/itemptr.h"

#include "base/catalog_tables.h"

typedef struct KaptureOwnRows KaptureOwnRows;

extern KaptureOwnRows *kapture_own_rows_begin(KaptureTable table, const char *const *columns, int ncolumns, int max);
extern void kapture_own_rows_add(KaptureOwnRows *rows, const Datum *values, const bool *nulls);
extern bool kapture_own_rows_add_new(KaptureOwnRows *rows, const Datum *values, const bool *nulls);
extern void kapture_own_rows_write(KaptureOwnRows *rows);
extern ItemPointerData kapture_own_rows_place(const KaptureOwnRows *rows, int n);
extern void kapture_own_rows_end(KaptureOwnRows *rows);
extern int64 kapture_own_rows_next_number(void);
extern int32 kapture_own_rows_take_number(Oid relid, const char *is_used, bool negative);

#endif							/* KAPTURE_OWN_ROWS_H */
