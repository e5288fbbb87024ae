/*
 * pull_functions.h
 *		Customers and contacts as rows, from windows of a pull or an answer.
 */
#ifndef KAPTURE_PULL_FUNCTIONS_H
#define KAPTURE_PULL_FUNCTIONS_H

#include "postgres.h"

#include "access/tupdesc.h"

#include "api/columns.h"
#include "fetch/fetch.h"

typedef struct KaptureRows KaptureRows;

extern KaptureRows *kapture_rows_create(KaptureRowKind kind, TupleDesc desc,
										const char *timezone,
										KaptureFetch *fetch);
extern bool kapture_rows_next(KaptureRows *rows, Datum *values, bool *isnull);
extern int	kapture_rows_number(const KaptureRows *rows);

#endif							/* KAPTURE_PULL_FUNCTIONS_H */
