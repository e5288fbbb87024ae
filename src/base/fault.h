/*
 * fault.h
 *		Fault points: places where the tests have errors raised.
 *
 * They do nothing except in a build with KAPTURE_FAULT_POINTS ("make
 * fault_points"), for test/t/038_fault_points.pl.  In that build each call of SPI is
 * a point of its own, and this file is the first that each source file includes.
 */
#ifndef KAPTURE_FAULT_H
#define KAPTURE_FAULT_H

#include "postgres.h"

#ifndef KAPTURE_FAULT_POINTS

#define KAPTURE_FAULT_ROW(label, row_key)	((void) 0)
#define KAPTURE_FAULT_ARGUMENTS(label, nargs, types, values, nulls)	((void) 0)

#else

#include "executor/spi.h"

typedef struct KaptureFaultPoint
{
	const char *file;
	const char *function;
	const char *label;			/* or NULL */
	int64		line;
} KaptureFaultPoint;

/* This place; all of them are in a section of the library, and so can be listed. */
#define KAPTURE_FAULT_HERE(label) \
	({ \
		static const KaptureFaultPoint fault_point \
			__attribute__((section("kapture_faults"), used, aligned(8))) = \
			{__FILE__, __func__, label, __LINE__}; \
		&fault_point; \
	})

#define KAPTURE_FAULT_ROW(label, row_key) \
	kapture_fault_reach(KAPTURE_FAULT_HERE(label), row_key)
#define KAPTURE_FAULT_ARGUMENTS(label, nargs, types, values, nulls) \
	kapture_fault_reach_statement(KAPTURE_FAULT_HERE(label), nargs, types, values, nulls)

extern void kapture_fault_reach(const KaptureFaultPoint *point, const char *row_key);
extern void kapture_fault_reach_statement(const KaptureFaultPoint *point, int nargs, const Oid *types,
										  const Datum *values, const char *nulls);
extern SPIPlanPtr kapture_fault_reach_plan(const KaptureFaultPoint *point, SPIPlanPtr plan,
										   const Datum *values, const char *nulls);

#define SPI_execute(src, read_only, count) \
	(kapture_fault_reach(KAPTURE_FAULT_HERE(NULL), NULL), SPI_execute(src, read_only, count))
#define SPI_execute_with_args(src, nargs, types, values, nulls, read_only, count) \
	(KAPTURE_FAULT_ARGUMENTS(NULL, nargs, types, values, nulls), \
	 SPI_execute_with_args(src, nargs, types, values, nulls, read_only, count))
#define SPI_prepare_cursor(src, nargs, types, options) \
	(kapture_fault_reach(KAPTURE_FAULT_HERE("prepare"), NULL), SPI_prepare_cursor(src, nargs, types, options))
#define SPI_execute_plan(plan, values, nulls, read_only, count) \
	SPI_execute_plan(kapture_fault_reach_plan(KAPTURE_FAULT_HERE(NULL), plan, values, nulls), \
					 values, nulls, read_only, count)
#define SPI_cursor_open(name, plan, values, nulls, read_only) \
	SPI_cursor_open(name, kapture_fault_reach_plan(KAPTURE_FAULT_HERE("open"), plan, values, nulls), \
					values, nulls, read_only)
#define SPI_cursor_fetch(portal, forward, count) \
	(kapture_fault_reach(KAPTURE_FAULT_HERE("fetch"), NULL), SPI_cursor_fetch(portal, forward, count))

#endif							/* KAPTURE_FAULT_POINTS */
#endif							/* KAPTURE_FAULT_H */
