/*
 * request_stats.c
 *		Counts requests by server, API and HTTP code, with their times.
 *
 * Every process that makes requests adds to the counters in shared memory,
 * once for each request that has ended.  They are written to a file when the
 * server shuts down, and read when it starts, as pg_stat_statements does; a
 * crash starts them anew.  If the table is full, the counter that was not used
 * for the longest time gives way.
 */
#include "postgres.h"

#include <unistd.h>

#include "catalog/pg_authid.h"
#include "catalog/pg_foreign_server.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/float.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "api/request_stats.h"
#include "base/compat.h"

#define COUNTER_MAX			1024
#define COUNTER_BUCKETS		15
#define COUNTER_FILE		PGSTAT_STAT_PERMANENT_DIRECTORY "/kapture_sync.stat"
#define COUNTER_MAGIC		0x6b617002	/* to be changed with struct Counter */

/* Upper bounds of the latency histogram, in milliseconds; the last has none. */
static const double counter_bounds[COUNTER_BUCKETS - 1] = {
	1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 30000
};

typedef struct Counter
{
	Oid			dbid;
	Oid			serverid;
	int			api;
	int			http_code;		/* 0: no whole answer came */
	int64		count;
	double		total;			/* milliseconds */
	double		min;
	double		max;
	int64		buckets[COUNTER_BUCKETS];
	TimestampTz since;
	TimestampTz used;
} Counter;

typedef struct CounterState
{
	LWLock	   *lock;
	int			n;
	Counter		counters[COUNTER_MAX];
} CounterState;

static CounterState *counter_state = NULL;
static const char *(*counter_name) (int api) = NULL;
static shmem_request_hook_type counter_prev_request_hook = NULL;
static shmem_startup_hook_type counter_prev_startup_hook = NULL;

PG_FUNCTION_INFO_V1(kapture_request_counters);
PG_FUNCTION_INFO_V1(kapture_stat_reset);

/* ------------------------------------------------------------------------
 * Set-up, and the file
 * ------------------------------------------------------------------------
 */

static void
counter_request(void)
{
	if (counter_prev_request_hook)
		counter_prev_request_hook();
	RequestAddinShmemSpace(sizeof(CounterState));
	RequestNamedLWLockTranche("kapture_sync_counters", 1);
}

/* Reads the file that a clean shutdown left.  A file that is not ours is ignored. */
static void
counter_load(void)
{
	FILE	   *file = AllocateFile(COUNTER_FILE, PG_BINARY_R);
	uint32		header[2];
	bool		ok;

	if (file == NULL)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("could not read file \"%s\": %m", COUNTER_FILE)));
		return;
	}
	ok = fread(header, sizeof(header), 1, file) == 1 && header[0] == COUNTER_MAGIC &&
		header[1] <= COUNTER_MAX &&
		fread(counter_state->counters, sizeof(Counter), header[1], file) == header[1];
	if (ok)
		counter_state->n = header[1];
	else
		ereport(LOG,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("ignoring invalid data in file \"%s\"", COUNTER_FILE)));
	FreeFile(file);

	/* after a crash, these counters would be out of date: do not bring them back */
	unlink(COUNTER_FILE);
}

/* Called when the postmaster exits, with no other process left. */
static void
counter_save(int code, Datum arg)
{
	FILE	   *file;
	uint32		header[2] = {COUNTER_MAGIC, counter_state->n};
	bool		ok;

	if (code != 0)
		return;
	file = AllocateFile(COUNTER_FILE ".tmp", PG_BINARY_W);
	ok = file != NULL &&
		fwrite(header, sizeof(header), 1, file) == 1 &&
		fwrite(counter_state->counters, sizeof(Counter), counter_state->n, file) == counter_state->n;
	if (file != NULL)
		ok = FreeFile(file) == 0 && ok;
	if (!ok)
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write file \"%s\": %m", COUNTER_FILE ".tmp")));
		unlink(COUNTER_FILE ".tmp");
		return;
	}
	(void) durable_rename(COUNTER_FILE ".tmp", COUNTER_FILE, LOG);
}

static void
counter_startup(void)
{
	bool		found;

	if (counter_prev_startup_hook)
		counter_prev_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	counter_state = ShmemInitStruct("kapture_sync counters", sizeof(CounterState), &found);
	if (!found)
	{
		memset(counter_state, 0, sizeof(CounterState));
		counter_state->lock = &(GetNamedLWLockTranche("kapture_sync_counters"))->lock;
		counter_load();
	}
	LWLockRelease(AddinShmemInitLock);
	if (!IsUnderPostmaster)
		on_shmem_exit(counter_save, (Datum) 0);
}

/*
 * Requests the shared memory.  Called from _PG_init() while the postmaster
 * preloads libraries.  "name" returns the name of an API by its number.
 */
void
kapture_counter_install(const char *(*name) (int api))
{
	counter_name = name;
	counter_prev_request_hook = shmem_request_hook;
	shmem_request_hook = counter_request;
	counter_prev_startup_hook = shmem_startup_hook;
	shmem_startup_hook = counter_startup;
}

/* ------------------------------------------------------------------------
 * Counting
 * ------------------------------------------------------------------------
 */

static bool
counter_is(const Counter *counter, Oid serverid, int api, int http_code)
{
	return counter->dbid == MyDatabaseId && counter->serverid == serverid &&
		counter->api == api && counter->http_code == http_code;
}

/* Finds or makes a counter.  The caller holds the lock. */
static Counter *
counter_find(Oid serverid, int api, int http_code, TimestampTz now)
{
	static int	last = 0;		/* most often the same counter is wanted again */
	Counter    *oldest = &counter_state->counters[0];
	Counter    *counter;

	if (last < counter_state->n &&
		counter_is(&counter_state->counters[last], serverid, api, http_code))
		return &counter_state->counters[last];
	for (int i = 0; i < counter_state->n; i++)
	{
		counter = &counter_state->counters[i];
		if (counter_is(counter, serverid, api, http_code))
		{
			last = i;
			return counter;
		}
		if (counter->used < oldest->used)
			oldest = counter;
	}
	counter = counter_state->n < COUNTER_MAX ? &counter_state->counters[counter_state->n++] : oldest;
	last = counter - counter_state->counters;
	memset(counter, 0, sizeof(Counter));
	counter->dbid = MyDatabaseId;
	counter->serverid = serverid;
	counter->api = api;
	counter->http_code = http_code;
	counter->since = now;
	return counter;
}

/*
 * Counts a request to an API (see kapture_counter_install()) that has ended after "elapsed" microseconds, with HTTP code
 * "http_code", 0 if no whole answer came.  Neither allocates nor raises errors;
 * without the shared memory it does nothing.
 */
void
kapture_counter_add(Oid serverid, int api, int http_code, int64 elapsed)
{
	double		ms = elapsed / 1000.0;
	TimestampTz now;
	Counter    *counter;
	int			bucket = 0;

	if (counter_state == NULL)
		return;
	now = GetCurrentTimestamp();
	while (bucket < COUNTER_BUCKETS - 1 && ms > counter_bounds[bucket])
		bucket++;

	LWLockAcquire(counter_state->lock, LW_EXCLUSIVE);
	counter = counter_find(serverid, api, http_code, now);
	counter->min = counter->count == 0 ? ms : Min(counter->min, ms);
	counter->max = Max(counter->max, ms);
	counter->total += ms;
	counter->count++;
	counter->buckets[bucket]++;
	counter->used = now;
	LWLockRelease(counter_state->lock);
}

/* ------------------------------------------------------------------------
 * Looking
 * ------------------------------------------------------------------------
 */

/* May the current user see what was sent to this server? */
static bool
counter_is_visible(Oid serverid)
{
	if (!SearchSysCacheExists1(FOREIGNSERVEROID, ObjectIdGetDatum(serverid)))
		return false;
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS) ||
		object_aclcheck(ForeignServerRelationId, serverid, GetUserId(), ACL_USAGE) == ACLCHECK_OK;
}

static void
counter_put(ReturnSetInfo *rsinfo, const Counter *counter)
{
	Datum		bounds[COUNTER_BUCKETS];
	Datum		buckets[COUNTER_BUCKETS];
	Datum		values[11];
	bool		nulls[11] = {0};

	for (int i = 0; i < COUNTER_BUCKETS; i++)
	{
		bounds[i] = Float8GetDatum(i < COUNTER_BUCKETS - 1 ? counter_bounds[i] : get_float8_infinity());
		buckets[i] = Int64GetDatum(counter->buckets[i]);
	}
	values[0] = CStringGetTextDatum(GetForeignServer(counter->serverid)->servername);
	values[1] = CStringGetTextDatum(counter_name(counter->api));
	values[2] = Int32GetDatum(counter->http_code);
	nulls[2] = counter->http_code == 0;
	values[3] = Int64GetDatum(counter->count);
	values[4] = Float8GetDatum(counter->total);
	values[5] = Float8GetDatum(counter->min);
	values[6] = Float8GetDatum(counter->max);
	values[7] = Float8GetDatum(counter->total / counter->count);
	values[8] = PointerGetDatum(construct_array(bounds, COUNTER_BUCKETS, FLOAT8OID, 8,
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[9] = PointerGetDatum(construct_array(buckets, COUNTER_BUCKETS, INT8OID, 8,
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[10] = TimestampTzGetDatum(counter->since);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/*
 * kapture_request_counters() returns setof record
 *
 * This database's counters, of servers that the current user may use.
 */
Datum
kapture_request_counters(PG_FUNCTION_ARGS)
{
	Counter    *mine = palloc(sizeof(Counter) * COUNTER_MAX);
	int			n = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (counter_state == NULL)
		PG_RETURN_NULL();
	LWLockAcquire(counter_state->lock, LW_SHARED);
	for (int i = 0; i < counter_state->n; i++)
	{
		if (counter_state->counters[i].dbid == MyDatabaseId)
			mine[n++] = counter_state->counters[i];
	}
	LWLockRelease(counter_state->lock);
	for (int i = 0; i < n; i++)
	{
		if (counter_is_visible(mine[i].serverid))
			counter_put((ReturnSetInfo *) fcinfo->resultinfo, &mine[i]);
	}
	PG_RETURN_NULL();
}

/*
 * kapture_stat_reset() returns void
 *
 * Starts this database's counters anew.
 */
Datum
kapture_stat_reset(PG_FUNCTION_ARGS)
{
	int			kept = 0;

	if (counter_state == NULL)
		PG_RETURN_VOID();
	LWLockAcquire(counter_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < counter_state->n; i++)
	{
		if (counter_state->counters[i].dbid != MyDatabaseId)
			counter_state->counters[kept++] = counter_state->counters[i];
	}
	counter_state->n = kept;
	LWLockRelease(counter_state->lock);
	PG_RETURN_VOID();
}
