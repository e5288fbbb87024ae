/*
 * owner_sql.h
 *		Statements on the extension's own tables, for callers without rights
 *		on them.
 */
#ifndef KAPTURE_OWNER_SQL_H
#define KAPTURE_OWNER_SQL_H

#include "postgres.h"

extern Oid	kapture_own_role(void);
extern uint64 kapture_own_execute(const char *sql, int nargs, Oid *types, Datum *values);
extern char *kapture_own_text(const char *sql, int nargs, Oid *types, Datum *values);

#endif							/* KAPTURE_OWNER_SQL_H */
