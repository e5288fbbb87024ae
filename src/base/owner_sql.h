/*
 * owner_sql.h
 *		Statements on the extension's own tables, for callers without rights
 *		on them.
 */
#ifndef KAPTURE_OWNER_SQL_H
#define KAPTURE_OWNER_SQL_H

#include "postgres.h"

#include "fault.h"

extern Oid	kapture_own_role(void);
extern bool kapture_own_may_run(void);
extern void kapture_own_run(void (*work) (void *arg), void *arg);
extern uint64 kapture_own_execute(const char *sql, int nargs, Oid *types, Datum *values);
extern char *kapture_own_text(const char *sql, int nargs, Oid *types, Datum *values);

/* Each statement is a fault point, so the functions are defined with their names in parentheses. */
#define kapture_own_execute(sql, nargs, types, values) \
	(KAPTURE_FAULT_ARGUMENTS(NULL, nargs, types, values, NULL), kapture_own_execute(sql, nargs, types, values))
#define kapture_own_text(sql, nargs, types, values) \
	(KAPTURE_FAULT_ARGUMENTS(NULL, nargs, types, values, NULL), kapture_own_text(sql, nargs, types, values))

#endif							/* KAPTURE_OWNER_SQL_H */
