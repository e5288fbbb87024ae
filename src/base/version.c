/*
 * version.c
 *		Is the extension in this database of the version that the library needs?
 *
 * A new package replaces the library for all databases at once, while each
 * keeps its tables and functions until somebody runs ALTER EXTENSION UPDATE in
 * it.  Until then changes are captured, calls to Kapture work, and functions
 * that need the tables report what to do.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "base/catalog.h"
#include "base/version.h"

PG_FUNCTION_INFO_V1(kapture_library_version);

/*
 * Returns the version of the extension in this database, in the current memory
 * context; NULL if it is not installed.
 */
char *
kapture_version_installed(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key[1];
	SysScanDesc scan;
	HeapTuple	tuple;
	char	   *result = NULL;

	ScanKeyInit(&key[0], Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(KAPTURE_EXTENSION));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		version = heap_getattr(tuple, Anum_pg_extension_extversion,
										   RelationGetDescr(rel), &isnull);

		if (!isnull)
			result = TextDatumGetCString(version);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Tells whether a version is older than the one that the library needs (< 0),
 * the same (0), or newer (> 0).
 */
int
kapture_version_compare(const char *installed)
{
	const char *needed = KAPTURE_SQL_VERSION;

	if (strcmp(installed, needed) == 0)
		return 0;
	for (;;)
	{
		char	   *end;
		long		a = strtol(installed, &end, 10);
		long		b;

		installed = end;
		b = strtol(needed, &end, 10);
		needed = end;
		if (a != b)
			return a < b ? -1 : 1;
		if (*installed != '.' || *needed != '.')
			return *installed == '.' ? 1 : -1;
		installed++;
		needed++;
	}
}

/*
 * Returns what to do about a version that is not the library's; static.
 */
const char *
kapture_version_hint(const char *installed)
{
	return kapture_version_compare(installed) < 0 ?
		"Use ALTER EXTENSION " KAPTURE_EXTENSION " UPDATE." :
		"Install the library of that version, and restart the server.";
}

/*
 * Errors out (55000) if the extension is of another version than the library
 * needs.
 */
void
kapture_version_require(void)
{
	char	   *installed = kapture_version_installed();

	if (installed && kapture_version_compare(installed) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" in this database is of version %s, but the library of version %s",
						KAPTURE_EXTENSION, installed, KAPTURE_SQL_VERSION),
				 errhint("%s", kapture_version_hint(installed))));
}

/*
 * kapture_library_version() returns text
 *
 * Creating this function in an update script makes the update fail also on a server that
 * still runs an earlier library, which has no such function.
 */
Datum
kapture_library_version(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(KAPTURE_SQL_VERSION));
}
