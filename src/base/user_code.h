/*
 * user_code.h
 *		Whose code may run where the extension touches users' tables.
 */
#ifndef KAPTURE_USER_CODE_H
#define KAPTURE_USER_CODE_H

#include "postgres.h"

#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"
#include "utils/snapshot.h"

extern void kapture_user_code_install(void);
extern void kapture_user_code_enter_process(void);
extern void kapture_user_code_run(Relation rel, List *beside, void (*work) (void *arg), void *arg);
extern SPIPlanPtr kapture_user_code_prepare(const char *sql, int nargs, Oid *types, int options);
extern bool kapture_user_code_is_plan_of(SPIPlanPtr plan, const char *sql);
extern void kapture_user_code_expect(SPIPlanPtr plan);
extern int	kapture_user_code_execute_plan(SPIPlanPtr plan, Datum *values, Snapshot snapshot);
extern int	kapture_user_code_execute(const char *sql, int nargs, Oid *types, Datum *values,
									  const char *nulls, bool read_only);
extern void kapture_user_code_select(const char *sql, int nargs, Oid *types, Datum *values,
									 const char *nulls, bool read_only);
extern void kapture_user_code_allow(List *relations);
extern bool kapture_user_code_has_called(void);
extern bool kapture_user_code_take_called(Oid *connected);
extern bool kapture_user_code_is_harmless(Oid funcid);
extern void kapture_user_code_check_type(Oid type);
extern bool kapture_user_code_has_strangers(void);
extern void kapture_user_code_check_partition(Oid relid);
extern void kapture_user_code_check_partitions(void);

#endif							/* KAPTURE_USER_CODE_H */
