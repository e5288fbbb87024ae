/*
 * report.c
 *		Names of the states of servers.
 */
#include "postgres.h"

#include "cluster/report.h"

/*
 * Returns the name of a server's state for users; static.
 */
const char *
kapture_report_state_name(KaptureServerState state)
{
	switch (state)
	{
		case KAPTURE_STATE_OK:
			return "ok";
		case KAPTURE_STATE_MISCONFIGURED:
			return "misconfigured";
		case KAPTURE_STATE_DENIED:
			return "denied";
		case KAPTURE_STATE_THROTTLED:
			return "throttled";
		case KAPTURE_STATE_FAILING:
			return "failing";
		case KAPTURE_STATE_REFUSING:
			return "refusing";
		case KAPTURE_STATE_OUTDATED:
			return "outdated";
	}
	return "unknown";
}
