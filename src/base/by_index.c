/*
 * by_index.c
 *		Has statements on the extension's own tables planned for tables that may
 *		be huge.
 *
 * A plan is made when a statement is run first, perhaps on an empty table, and kept
 * until statistics change, which may be after millions of rows.  A plan for few rows,
 * which reads all of them for each batch, would get slower with every row until then.
 * So the planner may not scan, sort or hash a whole table, and is given the sizes of a
 * large one; otherwise it would consider a scan of a whole index just as good.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "optimizer/cost.h"
#include "optimizer/plancat.h"
#include "utils/guc.h"

#include "base/by_index.h"
#include "base/catalog_tables.h"
#include "base/compat.h"

/* The least size that is assumed: rows of a table, and pages of the table and of each of its indexes. */
#define BY_INDEX_ROWS	1000000
#define BY_INDEX_PAGES	20000

static const char *const by_index_off[] = {
	"enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_hashjoin", "enable_mergejoin"
};

static build_simple_rel_hook_type by_index_next_hook = NULL;

/* Are statements planned like that now?  The settings tell, as an error resets them. */
static bool
by_index_is_wanted(void)
{
	return !enable_seqscan && !enable_bitmapscan && !enable_sort && !enable_hashjoin && !enable_mergejoin;
}

/* Is it one of the tables that have a row for each row of users' tables, or more? */
static bool
by_index_may_be_huge(Oid relid)
{
	static const KaptureTable tables[] = {KAPTURE_TABLE_OUTBOX, KAPTURE_TABLE_DELIVERY, KAPTURE_TABLE_ROW, KAPTURE_TABLE_HISTORY};

	for (int i = 0; i < lengthof(tables); i++)
	{
		if (relid == kapture_catalog_relid(tables[i]))
			return OidIsValid(relid);
	}
	return false;
}

static void
by_index_enlarge(KAPTURE_SIMPLE_REL_PARAMETERS)
{
	ListCell   *lc;

	if (by_index_next_hook)
		by_index_next_hook(KAPTURE_SIMPLE_REL_ARGUMENTS);
	if (!by_index_is_wanted() || !by_index_may_be_huge(KAPTURE_SIMPLE_REL_OID))
		return;
	rel->tuples = Max(rel->tuples, BY_INDEX_ROWS);
	rel->pages = Max(rel->pages, BY_INDEX_PAGES);
	foreach(lc, rel->indexlist)
	{
		IndexOptInfo *index = lfirst(lc);

		/* a partial index is always the best way to its few rows */
		if (index->indpred)
			continue;
		index->tuples = Max(index->tuples, BY_INDEX_ROWS);
		index->pages = Max(index->pages, BY_INDEX_PAGES);
	}
}

/*
 * Installs the planner's hook.  Called from _PG_init().
 */
void
kapture_by_index_install(void)
{
	by_index_next_hook = build_simple_rel_hook;
	build_simple_rel_hook = by_index_enlarge;
}

/*
 * Has statements planned for huge tables from here on, until AtEOXact_GUC() is called with
 * the nesting level that is returned, or an error.  Only for statements on our own tables.
 */
int
kapture_by_index_begin(void)
{
	int			nestlevel = NewGUCNestLevel();

	for (int i = 0; i < lengthof(by_index_off); i++)
		(void) set_config_option(by_index_off[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}
