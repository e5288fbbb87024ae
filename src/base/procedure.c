/*
 * procedure.c
 *		Procedures that commit as they go.
 *
 * Such procedures run in SPI that is not atomic; each step has a snapshot, as a
 * statement would.
 */
#include "postgres.h"

#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/snapmgr.h"

#include "base/procedure.h"

/*
 * Errors out if a procedure cannot commit where it was called: 2D000 in a
 * transaction block or a function, 25006 on a standby.  "why", translated, is the detail.
 */
void
kapture_procedure_require_own_transactions(FunctionCallInfo fcinfo, const char *name, const char *why)
{
	PreventCommandDuringRecovery(psprintf("CALL %s()", name));
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("%s cannot run inside a transaction block", name),
				 errdetail_internal("%s", why),
				 errhint("Use CALL outside of BEGIN and of functions.")));
}

/*
 * Begins a step.
 */
void
kapture_procedure_begin(void)
{
	CHECK_FOR_INTERRUPTS();
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Ends a step, and commits what it did.  The caller's SPI is not atomic.
 */
void
kapture_procedure_commit(void)
{
	PopActiveSnapshot();
	SPI_commit();
}
