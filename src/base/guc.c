/*
 * guc.c
 *		The kapture_sync.* settings, and the search_path for code of ours.
 *
 * They hold tuning only: where Kapture is and with which key it is called
 * belongs to foreign servers and user mappings (option.c).
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"
#include "utils/varlena.h"

#include "base/guc.h"

/*
 * For the administrator of a copy that was made below PostgreSQL (a snapshot
 * of the disk), who must start it without its sending anything.
 */
bool		kapture_enabled = true;

/*
 * For a bulk load whose rows Kapture has already.  With this setting, whoever may
 * write a table could hide changes from its owner, so only superusers may grant it.
 */
bool		kapture_capture_enabled = true;

/* For the administrator who wants databases left alone. */
char	   *kapture_excluded_databases = NULL;

/* Seconds that kapture_history keeps what was done; 0: there is no history. */
int			kapture_history_retention = 7 * 86400;

/* For whoever wants to be called when rows are parked or a server changes. */
bool		kapture_notify = false;

/* The share of parked rows, among the rows that ended last, from which on that is notified; 0: never. */
double		kapture_notify_parked_share = 0.1;

static bool
guc_check_database_list(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;
	bool		ok;

	ok = SplitGUCList(copy, ',', &names);
	if (!ok)
		GUC_check_errdetail("The value must be a list of database names separated by commas.");
	else
		list_free(names);
	pfree(copy);
	return ok;
}

/*
 * Defines the settings.  Called once from _PG_init().
 */
void
kapture_guc_define(void)
{
	DefineCustomBoolVariable("kapture_sync.enabled",
							 "Lets the background workers of kapture_sync talk to Kapture.",
							 "Switch it off before starting a copy of a cluster that was made "
							 "below PostgreSQL, so that the copy sends nothing.  Changes are "
							 "captured all the same.",
							 &kapture_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("kapture_sync.capture",
							 "Captures changes of attached tables.",
							 "Switch it off in a session whose changes are not to be sent to Kapture.",
							 &kapture_capture_enabled, true,
							 PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("kapture_sync.excluded_databases",
							   "Databases that get no kapture_sync worker.",
							   "A list of names separated by commas.",
							   &kapture_excluded_databases, "",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   guc_check_database_list, NULL, NULL);
	DefineCustomIntVariable("kapture_sync.history_retention",
							"How long kapture_history keeps what was done.",
							"0 switches the history off.",
							&kapture_history_retention, 7 * 86400, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomBoolVariable("kapture_sync.notify",
							 "Notifies channel kapture_sync of parked rows and of changes of a server's state.",
							 "The payload is JSON.",
							 &kapture_notify, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomRealVariable("kapture_sync.notify_parked_share",
							 "Share of parked rows, of the last 100 of a table, from which on channel kapture_sync is notified of it.",
							 "It is notified again when the share falls below half of that.  0 switches this off.",
							 &kapture_notify_parked_share, 0.1, 0, 1,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("kapture_sync");
}

/*
 * Tells whether kapture_sync.excluded_databases names this database.
 */
bool
kapture_guc_database_is_excluded(const char *dbname)
{
	char	   *copy = pstrdup(kapture_excluded_databases);
	List	   *names;
	ListCell   *lc;
	bool		found = false;

	if (SplitGUCList(copy, ',', &names))
	{
		foreach(lc, names)
			found |= strcmp(lfirst(lc), dbname) == 0;
		list_free(names);
	}
	pfree(copy);
	return found;
}

/*
 * Has names that are not qualified mean PostgreSQL's own objects, until the caller's
 * AtEOXact_GUC().
 */
void
kapture_guc_pin_search_path(void)
{
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}
