/*
 * retained.c
 *		Which owner's code leaves memory behind in the background processes.
 *
 * What a function allocates is freed when it ends.  What PostgreSQL caches because of it
 * is not: compiled functions, and descriptions of all that was looked up.  A tenant
 * with thousands of functions could have worker and puller keep gigabytes, for as long
 * as they run.  Only the end of the process frees that, so it ends if an owner's code has
 * it keep too much.
 *
 * How much memory a process has is asked of the system, which costs microseconds.
 * Memory contexts are added up only if that is suspiciously much.
 */
#include "postgres.h"

#include <fcntl.h>
#include <unistd.h>

#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "cluster/bgworker.h"
#include "table/retained.h"

#define RETAINED_MB				((int64) 1024 * 1024)

/* Bytes of private memory of a process from which on it is determined whose code makes it keep them. */
#define RETAINED_SUSPICIOUS		(96 * RETAINED_MB)

/* A process ends if it keeps more bytes than these beside its own state ... */
#define RETAINED_MOST			(160 * RETAINED_MB)

/* ... and more than these because of one owner, not counting what each table may have. */
#define RETAINED_OF_OWNER		(48 * RETAINED_MB)
#define RETAINED_OF_TABLE		((int64) 128 * 1024)

/* What is kept because of an attached table. */
typedef struct RetainedTable
{
	int32		attachment_id;	/* the key */
	Oid			owner;
	int64		bytes;
} RetainedTable;

static HTAB *retained_tables = NULL;
static int64 retained_private = 0;	/* private bytes of the process when users' code began */
static int64 retained_beside = -1;	/* bytes kept beside its own state then; -1: not determined */

/* The bytes that the process shares with no other; 0 if that is not known. */
static int64
retained_ask(void)
{
	char		text[128];
	long		pages;
	long		resident;
	long		shared;
	int			fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	int			n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	if (sscanf(text, "%ld %ld %ld", &pages, &resident, &shared) != 3)
		return 0;
	return (int64) (resident - shared) * sysconf(_SC_PAGESIZE);
}

/* Adds to the bytes that are kept because of a table. */
static void
retained_add(Oid owner, int32 attachment_id, int64 bytes)
{
	RetainedTable *table;
	bool		found;

	if (retained_tables == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(int32), .entrysize = sizeof(RetainedTable)};

		retained_tables = hash_create("kapture_sync kept memory", 64, &info, HASH_ELEM | HASH_BLOBS);
	}
	table = hash_search(retained_tables, &attachment_id, HASH_ENTER, &found);
	if (!found)
		table->bytes = 0;
	table->owner = owner;
	table->bytes = Max(table->bytes + bytes, 0);
}

/* The bytes that are kept because of an owner, not counting what each table may have. */
static int64
retained_of_owner(Oid owner)
{
	HASH_SEQ_STATUS status;
	RetainedTable *table;
	int64		bytes = 0;

	hash_seq_init(&status, retained_tables);
	while ((table = hash_seq_search(&status)) != NULL)
	{
		if (table->owner == owner)
			bytes += Max(table->bytes - RETAINED_OF_TABLE, 0);
	}
	return bytes;
}

/*
 * To be called before users' code runs.
 */
void
kapture_retained_begin(void)
{
	retained_private = retained_ask();
	retained_beside = retained_private > RETAINED_SUSPICIOUS ? (int64) kapture_process_memory_beside() : -1;
}

/*
 * To be called when users' code of an attached table has ended and its memory is freed.
 * Returns whether the process keeps too much because of this owner.
 */
bool
kapture_retained_end(Oid owner, int32 attachment_id)
{
	int64		now = retained_ask();
	int64		beside;

	if (now <= RETAINED_SUSPICIOUS)
		return false;
	beside = kapture_process_memory_beside();
	retained_add(owner, attachment_id, retained_beside < 0 ? Min(beside, now - retained_private) : beside - retained_beside);
	return beside > RETAINED_MOST && retained_of_owner(owner) > RETAINED_OF_OWNER;
}

/*
 * So many bytes that were kept because of an attached table are free again.
 */
void
kapture_retained_give_back(int32 attachment_id, Size bytes)
{
	RetainedTable *table = retained_tables ? hash_search(retained_tables, &attachment_id, HASH_FIND, NULL) : NULL;

	if (table)
		table->bytes = Max(table->bytes - (int64) bytes, 0);
}
