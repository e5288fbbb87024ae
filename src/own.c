/*
 * own.c
 *		Statements on the extension's own tables, for callers without rights
 *		on them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "own.h"

/*
 * Returns the owner of the extension's tables.
 */
Oid
kapture_own_role(void)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(kapture_catalog_relid(KAPTURE_TABLE_ATTACHMENT)));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "the tables of kapture_sync are missing");
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* Runs a statement as the owner; if asked for, *text is the first value of its result. */
static uint64
own_execute(const char *sql, int nargs, Oid *types, Datum *values, char **text)
{
	Oid			userid;
	int			sec_context;
	int			nestlevel;
	int			rc;
	uint64		processed;
	MemoryContext context = CurrentMemoryContext;
	Oid			owner = kapture_own_role();

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	rc = SPI_execute_with_args(kapture_catalog_qualify(sql), nargs, types, values, NULL, false, 0);
	if (rc < 0)
		elog(ERROR, "statement failed: %s", SPI_result_code_string(rc));
	processed = SPI_processed;
	if (text && processed > 0)
	{
		char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		*text = value ? MemoryContextStrdup(context, value) : NULL;
	}
	SPI_finish();
	AtEOXact_GUC(false, nestlevel);
	SetUserIdAndSecContext(userid, sec_context);
	return processed;
}

/*
 * Runs a statement, in which "@." stands for the extension's schema, as the
 * owner of the extension's tables.  All arguments are not null.  Returns the
 * rows processed; errors as the statement does.
 *
 * The caller has checked that its user may do this.
 */
uint64
(kapture_own_execute) (const char *sql, int nargs, Oid *types, Datum *values)
{
	return own_execute(sql, nargs, types, values, NULL);
}

/*
 * Likewise, for a query with one result: returns it as text in the current
 * memory context; NULL if it is null or there is none.
 */
char *
(kapture_own_text) (const char *sql, int nargs, Oid *types, Datum *values)
{
	char	   *text = NULL;

	(void) own_execute(sql, nargs, types, values, &text);
	return text;
}
