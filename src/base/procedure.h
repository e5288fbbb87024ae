/*
 * procedure.h
 *		Procedures that commit as they go.
 */
#ifndef KAPTURE_PROCEDURE_H
#define KAPTURE_PROCEDURE_H

#include "postgres.h"

#include "fmgr.h"

extern void kapture_procedure_require_own_transactions(FunctionCallInfo fcinfo, const char *name,
													   const char *why);
extern void kapture_procedure_begin(void);
extern void kapture_procedure_commit(void);

#endif							/* KAPTURE_PROCEDURE_H */
