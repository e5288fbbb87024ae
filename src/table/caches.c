/*
 * caches.c
 *		Keeps small what a process remembers of tables that it has opened.
 *
 * PostgreSQL's caches keep what was looked up until it changes.  A session seldom opens
 * more than some hundred tables; worker and puller open all that are attached, and all of
 * many tenants would have them grow to hundreds of megabytes.  So these processes empty the
 * caches from time to time, if they have grown.
 */
#include "postgres.h"

#include "utils/catcache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"

#include "table/caches.h"

/* Caches are emptied after so many tables were opened, if PostgreSQL's are of so many bytes by then. */
#define CACHES_TABLES	250
#define CACHES_BYTES	((Size) 3 * 1024 * 1024)

/* Caches of our own. */
#define CACHES_MAX		4

static KaptureForget caches_own[CACHES_MAX];
static int	caches_nown = 0;

/*
 * Registers a function that empties a cache of our own.  It is called when no trigger runs.
 */
void
kapture_caches_register(KaptureForget forget)
{
	Assert(caches_nown < CACHES_MAX);
	caches_own[caches_nown++] = forget;
}

/*
 * To be called in a transaction of worker or puller, before a table is opened that may be
 * one of many, when no trigger runs.
 */
void
kapture_caches_open(void)
{
	static int	opened = 0;

	if (++opened < CACHES_TABLES)
		return;
	opened = 0;
	if (MemoryContextMemAllocated(CacheMemoryContext, false) < CACHES_BYTES)
		return;
	for (int i = 0; i < caches_nown; i++)
		caches_own[i] ();
	/* as InvalidateSystemCaches() does, but nobody needs to be told, as nothing has changed */
	ResetCatalogCaches();
	RelationCacheInvalidate(false);
}
