/*
 * bystander.c
 *		Updates attachments for commands of users whom these need not concern.
 *
 * A command that renames something, or replaces a view, has expressions and sources of all
 * tables follow, whoever owns these.  It must not wait for what their owners have locked.
 * If an attachment cannot follow because of such a lock, that is its owner's doing.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "base/catalog.h"
#include "base/owner_sql.h"
#include "cluster/guard.h"
#include "mapping/bystander.h"

/* How long a lock is waited for. */
#define BYSTANDER_TIMEOUT	"10ms"

/*
 * kapture_bystander_hurry
 *		Limits waits for locks to BYSTANDER_TIMEOUT, until the caller's AtEOXact_GUC().
 */
void
kapture_bystander_hurry(void)
{
	(void) set_config_option("lock_timeout", BYSTANDER_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/* A statement on the extension's tables. */
typedef struct BystanderCall
{
	const char *sql;
	int			nargs;
	Oid		   *types;
	Datum	   *values;
	uint64		processed;
} BystanderCall;

static void
bystander_do_execute(void *arg)
{
	BystanderCall *call = arg;
	int			nestlevel = NewGUCNestLevel();

	kapture_bystander_hurry();
	call->processed = kapture_own_execute(call->sql, call->nargs, call->types, call->values);
	AtEOXact_GUC(false, nestlevel);
}

/*
 * kapture_bystander_execute
 *		As kapture_own_execute(), for a statement on what is kept of the attached table
 *		"relid".  Unless the current user owns the table, nothing is changed, and the
 *		result is 0, if somebody has locked what the statement needs.
 */
uint64
kapture_bystander_execute(Oid relid, const char *sql, int nargs, Oid *types, Datum *values)
{
	BystanderCall call = {sql, nargs, types, values, 0};
	ErrorData  *error;

	if (kapture_catalog_owner(relid) == GetUserId())
		return kapture_own_execute(sql, nargs, types, values);
	error = kapture_guard_step(bystander_do_execute, &call);
	if (error && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	return error ? 0 : call.processed;
}
