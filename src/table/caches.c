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
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/relcache.h"

#include "table/caches.h"

/* Caches are looked at whenever so many tables were opened, and emptied if PostgreSQL's are of so many bytes by then. */
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

static void
caches_empty(void)
{
	for (int i = 0; i < caches_nown; i++)
		caches_own[i] ();
	/* as InvalidateSystemCaches() does, without calling back: nothing has changed */
	ResetCatalogCaches();
	RelationCacheInvalidate(false);
}

/*
 * To be called in a transaction of worker or puller, when no trigger runs, before a table is
 * opened that may be one of many.
 */
void
kapture_caches_open(Oid relid)
{
	static HTAB *opened = NULL; /* since caches were looked at */
	bool		found;

	if (opened && hash_get_num_entries(opened) >= CACHES_TABLES)
	{
		if (MemoryContextMemAllocated(CacheMemoryContext, false) >= CACHES_BYTES)
			caches_empty();
		hash_destroy(opened);
		opened = NULL;
	}
	if (opened == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(Oid), .entrysize = sizeof(Oid)};

		opened = hash_create("kapture_sync opened tables", CACHES_TABLES, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	(void) hash_search(opened, &relid, HASH_ENTER, &found);
}
