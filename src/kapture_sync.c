/*
 * kapture_sync.c
 *		Entry point of the library.
 *
 * Loaded in a session, the library offers the direct calls.  Preloaded by the postmaster,
 * it also runs the launcher, which starts all other processes.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "api/request_stats.h"
#include "base/by_index.h"
#include "base/guc.h"
#include "base/user_code.h"
#include "base/written.h"
#include "calls/modules.h"
#include "cluster/launcher.h"
#include "cluster/shmem.h"
#include "traffic/limiter.h"
#include "utility_hook.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	kapture_guc_define();
	kapture_user_code_install();
	kapture_by_index_install();

	if (!process_shared_preload_libraries_in_progress)
		return;

	kapture_shmem_install();
	kapture_counter_install(kapture_module_counted_name);
	kapture_limiter_install();
	kapture_written_install();
	kapture_wayside_install();
	kapture_launcher_register();
}
