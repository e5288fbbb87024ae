/*
 * request_pool.c
 *		Checks of traffic/request_pool.c.
 */
#include "unit.h"

#include "traffic/pacing.h"
#include "traffic/request_pool.h"

#define POOL_NOW	(INT64CONST(1000) * USECS_PER_SEC)

/* After which tries, with which Retry-After, is there another, and when? */
static void
pool_retries(void)
{
	static const struct
	{
		int			attempts;
		int64		retry_after;	/* milliseconds, -1: none */
		bool		again;
		int64		wait;		/* milliseconds, -1: some */
		const char *name;
	}			cases[] = {
		{0, -1, true, -1, "the first failure is tried again after a while"},
		{3, -1, true, -1, "so is the fourth"},
		{4, -1, false, 0, "the fifth is not"},
		{0, 0, true, 0, "a Retry-After of 0 is at once"},
		{0, 2000, true, 2000, "one of 2 s is kept"},
		{0, 600000, true, 600000, "so is one of 10 minutes"},
		{0, 600001, false, 600001, "a longer one is not waited for, but whoever comes later is to know"},
		{4, 2000, false, 2000, "so is one after the fifth failure"},
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		KaptureRequestPool pool;
		int			attempts = cases[i].attempts;
		bool		again;
		int64		wait;

		kapture_request_pool_init(&pool, 1);
		again = kapture_request_pool_retry(&pool, &attempts, cases[i].retry_after, POOL_NOW);
		wait = pool.not_before == 0 ? 0 : (pool.not_before - POOL_NOW) / 1000;
		unit_ok(again == cases[i].again && attempts == cases[i].attempts + (again ? 1 : 0) &&
				(cases[i].wait < 0 ? wait > 0 && wait <= KAPTURE_SERVER_LONGEST * 2 : wait == cases[i].wait),
				"%s", cases[i].name);
	}
}

/* Which failures say something new? */
static void
pool_outages(void)
{
	KaptureRequestPool pool;
	uint32		first;
	uint32		second;

	kapture_request_pool_init(&pool, 3);
	first = kapture_request_pool_started(&pool);
	second = kapture_request_pool_started(&pool);
	unit_ok(kapture_request_pool_failed(&pool, first), "the first failure of an outage is news");
	unit_ok(!kapture_request_pool_failed(&pool, second), "that of a request that was in flight then is not");
	second = kapture_request_pool_started(&pool);
	unit_ok(!kapture_request_pool_failed(&pool, first), "nor later, beside one that has started since");
	unit_ok(kapture_request_pool_failed(&pool, second), "which is news if it fails");
}

void
unit_request_pool(void)
{
	KaptureRequestPool pool;
	int			attempts = 0;

	kapture_request_pool_init(&pool, 2);
	unit_ok(kapture_request_pool_next(&pool) <= POOL_NOW, "the first request starts at once");
	(void) kapture_request_pool_started(&pool);
	unit_ok(kapture_request_pool_next(&pool) <= POOL_NOW, "and the second");
	(void) kapture_request_pool_started(&pool);
	unit_ok(kapture_request_pool_next(&pool) == DT_NOEND, "the third waits for one of them");
	kapture_request_pool_ended(&pool);
	unit_ok(kapture_request_pool_next(&pool) <= POOL_NOW, "which has ended");
	kapture_request_pool_refused(&pool, POOL_NOW + 5);
	unit_ok(kapture_request_pool_next(&pool) == POOL_NOW + 5, "the limiter says when");
	kapture_request_pool_wait(&pool, POOL_NOW, 1);
	unit_ok(kapture_request_pool_next(&pool) == POOL_NOW + 1000, "so does the server");
	kapture_request_pool_wait(&pool, POOL_NOW - USECS_PER_SEC, 1);
	unit_ok(kapture_request_pool_next(&pool) == POOL_NOW + 1000, "a shorter wait does not take back a longer one");
	kapture_request_pool_ended(&pool);
	unit_ok(kapture_request_pool_next(&pool) == POOL_NOW + 1000, "nor does the end of a request");
	(void) kapture_request_pool_retry(&pool, &attempts, 5000, POOL_NOW);
	unit_ok(kapture_request_pool_next(&pool) == POOL_NOW + 5 * USECS_PER_SEC, "one that is put off puts off all");
	pool_retries();
	pool_outages();
}
